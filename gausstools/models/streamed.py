"""The Gaussian of data whose covariance is too large to hold: a few passes over the data, memory O(D·rank).

A pass turns a block V of directions into ``ΣV = E[(x−μ)(x−μ)ᵀV]``, batch by batch, and no D×D matrix appears. The first
one also gives the mean and the trace of Σ. Each further pass adds ΣV, made orthogonal to what is there, to a block
Krylov space, where Σ is then a small matrix T whose eigenpairs approximate Σ's leading ones from below (Musco & Musco
2015). T needs no images of the older blocks: it is symmetric, and each pass gives its last columns. The first block is
random and wider than the rank, so repeated eigenvalues are all found.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from gausstools.denoiser import check_batch, check_count
from gausstools.models.batches import unlabelled_batches
from gausstools.models.eigen import OVERSAMPLING, converged, oriented, orthonormal
from gausstools.models.gaussian import Gaussian

__all__ = ["fit_streamed"]


def fit_streamed(
    data: Tensor | np.ndarray | Iterable,
    rank: int,
    *,
    passes: int = 8,
    total: Callable[[Tensor], Tensor] | None = None,
) -> Gaussian:
    """Return the Gaussian with the mean, total variance and leading eigenpairs of the data, as ``Gaussian.fit`` does.

    It reads the data several times and never makes a D×D matrix: for images of more than about 12,000 entries. The mean
    and the total variance are exact. Reading ends when the eigenvalues have converged, in general to better than 1e-4.

    Args:
        data: a floating-point tensor ``(n, *event)``, or an iterable of such batches that gives the same ones each time
            it is iterated: a list, a ``DataLoader``, a :class:`gausstools.datasets.ImageFolder`.
        rank: how many leading eigenpairs to keep, 0 to D; the variance of the others becomes an isotropic tail.
        passes: over the data, at most, >= 2; each but the first holds another D·(rank + 32) numbers.
        total: where the data are shared out among processes, each with at least one point: returns the sum of a tensor
            over them. All return the same Gaussian.

    Raises:
        TypeError: for an iterator, which can be read only once.
        ValueError: for no data, or data that are not the same in each pass.

    >>> import gausstools as gt
    >>> digits = gt.datasets.load("digits").images
    >>> streamed, dense = gt.models.fit_streamed(digits.split(100), rank=2), gt.Gaussian.fit(digits, rank=2)
    >>> torch.allclose(streamed.variances, dense.variances, rtol=1e-4)
    True
    """
    check_count(rank, "rank", 0)
    passes = check_count(passes, "passes", 2)
    if not isinstance(data, Tensor | np.ndarray) and iter(data) is data:
        raise TypeError(
            f"data is {type(data).__name__}, which can be read only once, but several passes are needed; give an "
            "iterable that starts anew each time, such as a list of batches or a DataLoader"
        )
    total = total or (lambda tensor: tensor)
    first = _Pass(rank + OVERSAMPLING).over(data, total)
    rank = check_count(rank, "rank", 0, len(first.mean))
    block = orthonormal(first.image)
    space, small = block[:, :0], block.new_empty(0, 0)
    history = [small.new_empty(0)]
    for _ in range(passes - 1 if rank else 0):
        block = _new_directions(block, space)
        image = _Pass(block).over(data, total, like=first).image
        space = torch.cat([space, block], 1)
        columns = space.T @ image
        old = len(small)
        small = torch.cat([torch.cat([small, columns[:old]], 1), columns.T], 0)
        small[old:, old:] = (columns[old:] + columns[old:].T) / 2
        values, vectors = torch.linalg.eigh(small)
        history.append(values.flip(0)[:rank])
        done = len(history) > 3 and converged(*history[-3:])
        # One process's answer is everyone's: they must not part ways for a rounding error.
        if total(small.new_tensor(float(done))) > 0 or space.shape[1] == len(space):
            break
        block = image[:, : len(space) - space.shape[1]]
    variances, basis = history[-1], space[:, :0]
    rounding = len(space) * torch.finfo(space.dtype).eps * first.variance
    if rank:
        basis = oriented(space @ vectors.flip(1)[:, :rank])
        variances = variances.where(variances > rounding, 0)
    left = first.variance - variances.sum()
    tail = left / (len(space) - rank) if rank < len(space) and left > rounding else 0.0
    return Gaussian(first.mean.reshape(first.event_shape), variances, basis, tail).to(first.like)


def _new_directions(block: Tensor, space: Tensor) -> Tensor:
    """Return as many orthonormal columns, orthogonal to the space, whose span with it holds the block."""
    scale = block.norm(dim=0).max()
    block, triangle = torch.linalg.qr(block - space @ (space.T @ block))
    # Of data of low rank, the rest is rounding; it may lie in few dimensions, and random directions do not.
    lost = triangle.diagonal().abs() <= 1e-12 * scale
    block[:, lost] = _random(len(block), int(lost.sum()), block)
    for _ in range(2):  # once is not enough for orthogonality to rounding
        block = orthonormal(block - space @ (space.T @ block))
    return block


def _random(rows: int, columns: int, like: Tensor) -> Tensor:
    """Return random directions, the same ones on every process."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, columns, generator=generator, dtype=like.dtype).to(like.device)


class _Pass:
    """Count, mean, total variance and ``Σ·block`` of the data, in one pass and in float64.

    Partial results merge as those of :class:`gausstools.Moments` do; the scatter appears only as ``S·block`` and trace.
    """

    def __init__(self, block: Tensor | int):
        self.block = block  # of so many random directions, once their length is known
        self.count, self.event_shape, self.like = 0, None, None

    def over(self, data: Tensor | np.ndarray | Iterable, total: Callable, like: "_Pass | None" = None) -> "_Pass":
        """Read the data, and return what all processes have seen."""
        for batch in unlabelled_batches(data):
            check_batch(batch, self.event_shape if like is None else like.event_shape, "data")
            for rows in batch.detach().flatten(1).split(max(1, 2**23 // max(1, batch[:1].numel()))):
                self._update(rows, batch)
        if self.count == 0:
            raise ValueError("no data was given: expected at least one batch with at least one row")
        count = int(total(torch.tensor(self.count, device=self.mean.device)))
        mean = total(self.mean * self.count) / count
        shift = self.mean - mean
        self.image = total(self.image + self.count * torch.outer(shift, shift @ self.block)) / count
        self.variance = total(self.scatter + self.count * shift @ shift) / count
        self.count, self.mean = count, mean
        if like is not None and (like.count != count or not torch.allclose(like.mean, mean, rtol=1e-6, atol=1e-9)):
            raise ValueError(
                f"the data changed between two passes: {like.count} points before and {count} now, or another mean; "
                "expected the same each time (no random crops or flips)"
            )
        return self

    def _update(self, rows: Tensor, batch: Tensor) -> None:
        rows = rows.double()
        if self.count == 0 and len(rows):
            self.event_shape, self.like = batch.shape[1:], batch.new_empty(0)
            if isinstance(self.block, int):
                self.block = _random(rows.shape[1], min(self.block, rows.shape[1]), rows)
            self.mean = rows.new_zeros(rows.shape[1])
            self.image, self.scatter = torch.zeros_like(self.block), rows.new_zeros(())
        if len(rows) == 0:
            return
        count = self.count + len(rows)
        mean = rows.mean(0)
        shift = mean - self.mean
        rows = rows - mean
        weight = self.count * len(rows) / count
        self.image.addmm_(rows.T, rows @ self.block).addr_(shift, shift @ self.block, alpha=weight)
        self.scatter += rows.square().sum() + weight * shift @ shift
        self.mean = self.mean + shift * (len(rows) / count)
        self.count = count
