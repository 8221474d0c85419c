"""Mean and covariance of a data set, in one pass over batches and in float64.

Two partial results merge exactly (Chan, Golub & LeVeque 1979): with counts n, m and means μ, ν, the scatter of the
union is ``S + T + n·m/(n+m)·(μ−ν)(μ−ν)ᵀ``. So batches can be streamed and shards reduced.
"""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import check_batch

__all__ = ["Moments"]


class Moments:
    """Count, mean and scatter matrix ``Σ (x−μ)(x−μ)ᵀ`` of the data seen so far.

    >>> moments = Moments()
    >>> for batch in torch.arange(6.0).reshape(3, 2, 1):
    ...     moments.update(batch)
    >>> moments.count, moments.mean.item(), round(moments.covariance.item(), 4)
    (6, 2.5, 2.9167)
    """

    def __init__(self):
        self.count = 0
        self._event_shape: torch.Size | None = None
        self._mean = self._scatter = self._like = torch.empty(0)

    @classmethod
    def of(cls, data: Tensor | np.ndarray | Iterable) -> "Moments":
        """Return the moments of a tensor ``(n, *event)``, or of an iterable of such batches.

        A batch may be a tuple or list, as a ``DataLoader`` with labels yields; its first entry is taken.
        """
        if isinstance(data, np.ndarray):
            data = torch.from_numpy(data)
        if not isinstance(data, Iterable):
            raise TypeError(
                f"data is {type(data).__name__}, expected a tensor (n, *event) or an iterable of such batches"
            )
        moments = cls()
        for batch in [data] if isinstance(data, Tensor) else data:
            moments.update(batch[0] if isinstance(batch, (tuple, list)) and batch else batch)
        return moments

    def update(self, batch: Float[Tensor, "batch *event"]) -> None:
        """Add a batch ``(batch, *event)``."""
        check_batch(batch, self._event_shape, "data")
        if len(batch) == 0:
            return
        self._like = batch.new_empty(0)
        rows = batch.detach().reshape(len(batch), -1).double()
        mean = rows.mean(0)
        rows = rows - mean
        self._add(len(batch), mean, rows.T @ rows, batch.shape[1:])

    def merge(self, other: "Moments") -> None:
        """Add the data that another ``Moments`` has seen, exactly as if it had been streamed here."""
        if not isinstance(other, Moments):
            raise TypeError(f"other is {type(other).__name__}, expected Moments")
        if other.count == 0:
            return
        if self.count and other._event_shape != self._event_shape:
            shapes = f"{tuple(other._event_shape)} into {tuple(self._event_shape)}"
            raise ValueError(f"cannot merge moments of events of shape {shapes}, expected the same shape")
        self._like = other._like if self.count == 0 else self._like
        self._add(other.count, other._mean, other._scatter, other._event_shape)

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one data point."""
        self._seen()
        return self._event_shape

    @property
    def like(self) -> Tensor:
        """An empty tensor with the dtype and device of the data, for ``model.to(moments.like)``."""
        return self._like

    @property
    def mean(self) -> Float[Tensor, "*event"]:
        """The mean, float64, in the event's shape."""
        self._seen()
        return self._mean.reshape(self._event_shape)

    @property
    def covariance(self) -> Float[Tensor, "dim dim"]:
        """The covariance of the empirical distribution (divided by n), float64, over the flattened event."""
        self._seen()
        return self._scatter / self.count

    def _add(self, count, mean, scatter, event_shape):
        if self.count == 0:
            self.count, self._mean, self._scatter, self._event_shape = count, mean, scatter, event_shape
            return
        total = self.count + count
        shift = mean - self._mean
        self._mean = self._mean + shift * (count / total)
        self._scatter = self._scatter + scatter + torch.outer(shift, shift) * (self.count * count / total)
        self.count = total

    def _seen(self):
        if self.count == 0:
            raise ValueError("no data was given: expected at least one batch with at least one row")
