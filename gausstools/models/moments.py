"""Mean and covariance of a data set, in one pass over batches and in float64.

What is summed are the differences r from an origin near the mean, that of the first rows, and the products ``r rᵀ``: so
few digits cancel (Chan, Golub & LeVeque 1983). Sums around two origins can be brought to one and added. So batches can
be streamed and shards reduced.
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
COLUMNS = 384  # of a product that are computed at once, from the diagonal on: the rest follows from symmetry


class Moments:
    """Count, mean and scatter matrix ``Σ (x−μ)(x−μ)ᵀ`` of the data seen so far.

    >>> moments = Moments()
    >>> for batch in torch.arange(6.0).reshape(3, 2, 1):
    ...     moments.update(batch)
    >>> moments.count, moments.mean.item(), round(moments.covariance.item(), 4)
    (6, 2.5, 2.9167)
    """

    def __init__(self):
        self.like = torch.empty(0)  # has the dtype and device of the data, for model.to(moments.like)
        self._event_shape: torch.Size | None = None
        self._count = 0  # of the rows that are no longer waiting, as are
        self._origin = self._shift = torch.empty(0)  # that of the rows r, and their sum
        self._sums: tuple[Tensor, ...] = ()  # what is linear in the sum of r rᵀ: here its upper triangle
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
        self.like = batch.new_empty(0)
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
        self.like = self.like if self.count else other.like
        self._event_shape = other._event_shape
        self._absorb()
        self._begin(other.mean.flatten())
        for ours, theirs in zip(self._sums, other._around(self._origin), strict=True):
            ours.add_(theirs)
        self._shift = self._shift + other.count * (other.mean.flatten() - self._origin)
        self._count += other.count

    def reduced(self, total: Callable[[Tensor], Tensor]) -> "Moments":
        """Return the moments of the data of all processes, of which this one has seen its share of at least one point.

        Args:
            total: returns the sum of a tensor over the processes; each calls this method at the same time.

        >>> alone = Moments.of(torch.tensor([[1.0], [3.0]])).reduced(lambda tensor: tensor)
        >>> alone.count, alone.covariance
        (2, tensor([[1.]], dtype=torch.float64))
        """
        merged = copy.copy(self._seen())
        merged._waiting = []
        merged._count = int(total(torch.tensor(self._count, device=self._origin.device)))
        merged._origin = total(self.mean.flatten() * self._count) / merged._count
        merged._shift = torch.zeros_like(merged._origin)
        merged._sums = tuple(map(total, self._around(merged._origin)))
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
    def mean(self) -> Float[Tensor, "*event"]:
        """The mean, float64, in the event's shape."""
        return (self._seen()._origin + self._shift / self._count).reshape(self._event_shape)

    @property
    def covariance(self) -> Float[Tensor, "dim dim"]:
        """The covariance of the empirical distribution (divided by n), float64, over the flattened event."""
        upper = self._around(self.mean.flatten())[0] / self.count
        return in_dtype(upper.triu() + upper.triu(1).T, upper.dtype, "the covariance")

    def _seen(self) -> "Moments":
        if self.count == 0:
            raise ValueError("no data was given: expected at least one batch with at least one row")
        self._absorb()
        return self

    def _absorb(self) -> None:
        """Turn the waiting rows into sums."""
        if self._waiting:
            rows = torch.cat(self._waiting).double()
            self._begin(rows.mean(0))
            self._add(rows.sub_(self._origin))
            self._shift = self._shift + rows.sum(0)
            self._count, self._waiting = self._count + len(rows), []

    def _begin(self, origin: Tensor) -> None:
        if self._count == 0:
            self._origin, self._shift, self._sums = origin, torch.zeros_like(origin), self._zeros(origin)

    def _around(self, origin: Tensor) -> tuple[Tensor, ...]:
        """Return the sums for rows that start from another origin."""
        moved = copy.copy(self._seen())
        moved._sums = tuple(map(torch.clone, self._sums))
        offset = self._shift / self._count
        moved._add(offset[None], -self._count)
        moved._add((self._origin - origin + offset)[None], self._count)
        return moved._sums

    # ---- what is kept of the products

    def _zeros(self, like: Tensor) -> tuple[Tensor, ...]:
        return (like.new_zeros(len(like), len(like)),)

    def _add(self, rows: Tensor, weight: float | int = 1) -> None:
        """Add ``weight·rowsᵀ·rows`` to the upper triangle (and parts below), in little more than half the time."""
        for low in range(0, rows.shape[1], COLUMNS):
            part = self._sums[0][low : low + COLUMNS, low:]
            part.addmm_(rows[:, low : low + COLUMNS].T, rows[:, low:], alpha=weight)
