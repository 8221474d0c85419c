"""The Gaussian of data whose covariance is too large to hold: a few passes over the data, memory O(D·rank).

A pass turns a block V of directions into ``ΣV = E[(x−μ)(x−μ)ᵀV]``, batch by batch, and no D×D matrix appears. The first
one also gives the mean and the trace of Σ. Each further pass adds ΣV to the block Krylov space of
``gausstools.models.eigen``.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from gausstools.denoiser import check_count
from gausstools.models.batches import unlabelled_batches
from gausstools.models.eigen import OVERSAMPLING, krylov, oriented, random
from gausstools.models.gaussian import Gaussian
from gausstools.models.moments import Moments
from gausstools.models.spectrum import Spectrum

__all__ = ["fit_streamed"]


PASSES = 8  # over the data, at most; each but the first holds another D·(rank + 32) numbers


def fit_streamed(
    data: Tensor | np.ndarray | Iterable, rank: int, *, total: Callable[[Tensor], Tensor] | None = None
) -> Gaussian:
    """Return the Gaussian with the mean, total variance and leading eigenpairs of the data, as ``Gaussian.fit`` does.

    It reads the data several times and never makes a D×D matrix: for images of more than about 12,000 entries. The mean
    and the total variance are exact. Reading ends when the eigenvalues have converged, in general to better than 1e-4.

    Args:
        data: a floating-point tensor ``(n, *event)``, or an iterable of such batches that gives the same ones each time
            it is iterated: a list, a ``DataLoader``, a :class:`gausstools.datasets.ImageFolder`.
        rank: how many leading eigenpairs to keep, 0 to D; the variance of the others becomes an isotropic tail.
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
    if not isinstance(data, Tensor | np.ndarray) and iter(data) is data:
        raise TypeError(f"data is {type(data).__name__}, which can be read only once; give a list or a DataLoader")
    total = total or (lambda tensor: tensor)
    first = _Pass(check_count(rank, "rank", 0) + OVERSAMPLING).over(data, total)
    check_count(rank, "rank", 0, first.mean.numel())
    image, variance = first.averages()

    def product(block: Tensor) -> Tensor:
        again = _Pass(block).over(data, total)
        if again.count != first.count or not torch.allclose(again.mean, first.mean, rtol=1e-6, atol=1e-9):
            counts = f"{first.count} points before and {again.count} now, or another mean"
            raise ValueError(f"the data changed between two passes: {counts}; expected no random crops or flips")
        return again.averages()[0]

    def agreed(done: bool) -> bool:
        """One process's answer is everyone's: they must not part ways for a rounding error."""
        return bool(total(image.new_tensor(float(done))) > 0)

    variances, basis, _ = krylov(product, image, rank, PASSES - 1, agreed)
    rounding = len(basis) * torch.finfo(basis.dtype).eps * variance
    spectrum = Spectrum.leading(variances, oriented(basis), variance, rounding)
    return Gaussian(first.mean, *spectrum).to(first.like)


class _Pass(Moments):
    """Count, mean, total variance and ``Σ·block`` of the data, in one pass: the scatter S as ``S·block`` and trace."""

    def __init__(self, block: Tensor | int):
        super().__init__()
        self.block = block  # of so many random directions, once their length is known

    def over(self, data: Tensor | np.ndarray | Iterable, total: Callable[[Tensor], Tensor]) -> "_Pass":
        """Read the data, and return what all processes have seen."""
        for batch in unlabelled_batches(data):
            self.update(batch)
            self._absorb()  # at once: what waits for a large product takes more memory than the block
        return self.reduced(total)

    def averages(self) -> tuple[Tensor, Tensor]:
        """Return ``Σ·block``, ``(D, columns)``, and the trace of Σ."""
        image, trace = self._sums
        return image / self.count, trace / self.count

    def _zeros(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.block, int):
            self.block = random(len(like), min(self.block, len(like)), like)
        return torch.zeros_like(self.block), like.new_zeros(())

    def _add(self, rows: Tensor, weight: float | int = 1) -> None:
        image, trace = self._sums
        image.addmm_(rows.T, rows @ self.block, alpha=weight)
        trace.add_(rows.square().sum(), alpha=weight)
