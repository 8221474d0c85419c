"""Mean and covariance of a data set, in one pass over batches and in float64.

Two partial results merge exactly (Chan, Golub & LeVeque 1979): with counts n, m and means μ, ν, the scatter of the
union is ``S + T + n·m/(n+m)·(μ−ν)(μ−ν)ᵀ``. So batches can be streamed and shards reduced.
"""

import copy
from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import check_batch, in_dtype
from gausstools.models.batches import unlabelled_batches

__all__ = ["Moments"]

CHUNK = 2**23  # entries of the data that are multiplied at once: 64 MB in float64
LEAF = 384  # below this many columns, the half of a product that symmetry would save costs more than it


class Moments:
    """Count, mean and scatter matrix ``Σ (x−μ)(x−μ)ᵀ`` of the data seen so far.

    >>> moments = Moments()
    >>> for batch in torch.arange(6.0).reshape(3, 2, 1):
    ...     moments.update(batch)
    >>> moments.count, moments.mean.item(), round(moments.covariance.item(), 4)
    (6, 2.5, 2.9167)
    """

    def __init__(self):
        self._event_shape: torch.Size | None = None
        self._like = torch.empty(0)
        self._count = 0
        self._mean = torch.empty(0)  # of the rows that are no longer waiting, as are
        self._sums: tuple[Tensor, ...] = ()  # what is linear in the scatter: here its upper triangle
        self._waiting: list[Tensor] = []  # small batches, until they are worth a matrix product

    @classmethod
    def of(cls, data: Tensor | np.ndarray | Iterable) -> "Moments":
        """Return the moments of a tensor ``(n, *event)``, or of an iterable of such batches.

        A batch may be a tuple or list, as a ``DataLoader`` with labels yields; its first entry is taken.

        >>> Moments.of(torch.tensor([[1.0], [3.0]])).covariance
        tensor([[1.]], dtype=torch.float64)
        """
        moments = cls()
        for batch in unlabelled_batches(data):
            moments.update(batch)
        return moments

    def update(self, batch: Float[Tensor, "batch *event"]) -> None:
        """Add a batch ``(batch, *event)``."""
        check_batch(batch, self._event_shape, "data")
        if len(batch) == 0:
            return
        self._event_shape = batch.shape[1:]
        self._like = batch.new_empty(0)
        size = max(1, CHUNK // max(1, batch[0].numel()))
        for rows in batch.detach().reshape(len(batch), -1).split(size):
            # A copy: a loader may use its memory again.
            self._waiting.append(rows.clone() if len(rows) < size else rows)
            if sum(map(len, self._waiting)) >= size:
                self._absorb()

    def merge(self, other: "Moments") -> None:
        """Add the data that another ``Moments`` has seen, exactly as if it had been streamed here.

        >>> shards = [Moments.of(shard) for shard in torch.arange(6.0).reshape(2, 3, 1)]
        >>> shards[0].merge(shards[1])
        >>> shards[0].count, shards[0].mean.item()
        (6, 2.5)
        """
        if not isinstance(other, Moments):
            raise TypeError(f"other is {type(other).__name__}, expected Moments")
        if other.count == 0:
            return
        if self.count and other._event_shape != self._event_shape:
            shapes = f"{tuple(other._event_shape)} into {tuple(self._event_shape)}"
            raise ValueError(f"cannot merge moments of events of shape {shapes}, expected the same shape")
        self._like = other._like if self.count == 0 else self._like
        self._event_shape = other._event_shape
        self._absorb()
        other._absorb()
        self._begin(other._mean)
        for ours, theirs in zip(self._sums, other._sums, strict=True):
            ours.add_(theirs)
        self._join(other._count, other._mean)

    def reduced(self, total: Callable[[Tensor], Tensor]) -> "Moments":
        """Return the moments of the data of all processes, of which this one has seen its share of at least one point.

        Args:
            total: returns the sum of a tensor over the processes; each calls this method at the same time.

        >>> alone = Moments.of(torch.tensor([[1.0], [3.0]])).reduced(lambda tensor: tensor)
        >>> alone.count, alone.covariance
        (2, tensor([[1.]], dtype=torch.float64))
        """
        self._seen()
        merged = copy.copy(self)
        merged._waiting = []
        merged._count = int(total(torch.tensor(self._count, device=self._mean.device)))
        merged._mean = total(self._mean * self._count) / merged._count
        merged._sums = tuple(map(torch.clone, self._sums))
        merged._add((self._mean - merged._mean)[None], float(self._count))
        merged._sums = tuple(map(total, merged._sums))
        return merged

    @property
    def count(self) -> int:
        """Number of data points seen."""
        return self._count + sum(map(len, self._waiting))

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one data point."""
        return self._seen()._event_shape

    @property
    def like(self) -> Tensor:
        """An empty tensor with the dtype and device of the data, for ``model.to(moments.like)``."""
        return self._like

    @property
    def mean(self) -> Float[Tensor, "*event"]:
        """The mean, float64, in the event's shape."""
        return self._seen()._mean.reshape(self._event_shape)

    @property
    def covariance(self) -> Float[Tensor, "dim dim"]:
        """The covariance of the empirical distribution (divided by n), float64, over the flattened event."""
        upper = self._seen()._sums[0] / self.count
        return in_dtype(upper.triu() + upper.triu(1).T, upper.dtype, "the covariance")

    def _absorb(self) -> None:
        """Turn the waiting rows into mean and scatter."""
        if not self._waiting:
            return
        rows = torch.cat(self._waiting).double()
        self._waiting = []
        mean = rows.mean(0)
        self._begin(mean)
        self._add(rows.sub_(mean))
        self._join(len(rows), mean)

    def _begin(self, like: Tensor) -> None:
        if self._count == 0:
            self._mean, self._sums = torch.zeros_like(like), self._zeros(like)

    def _join(self, count: int, mean: Tensor) -> None:
        """Account for rows whose scatter around their own mean was added already."""
        total = self._count + count
        shift = mean - self._mean
        self._mean = self._mean + shift * (count / total)
        self._add(shift[None], self._count * count / total)
        self._count = total

    def _seen(self) -> "Moments":
        if self.count == 0:
            raise ValueError("no data was given: expected at least one batch with at least one row")
        self._absorb()
        return self

    # ---- what is kept of the scatter

    def _zeros(self, like: Tensor) -> tuple[Tensor, ...]:
        return (like.new_zeros(len(like), len(like)),)

    def _add(self, rows: Tensor, weight: float = 1.0) -> None:
        """Add ``weight·rowsᵀ·rows`` to the scatter."""
        _add_product(rows, self._sums[0], weight)


def _add_product(rows: Tensor, upper: Tensor, weight: float) -> None:
    """Add ``weight·rowsᵀ·rows`` to the upper triangle (and parts below), in little more than half the time of all."""

    def fill(low: int, high: int) -> None:
        if high - low <= LEAF:
            upper[low:high, low:high].addmm_(rows[:, low:high].T, rows[:, low:high], alpha=weight)
            return
        middle = (low + high) // 2
        fill(low, middle)
        fill(middle, high)
        upper[low:middle, middle:high].addmm_(rows[:, low:middle].T, rows[:, middle:high], alpha=weight)

    fill(0, rows.shape[1])
