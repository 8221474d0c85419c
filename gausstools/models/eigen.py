"""Eigenpairs of a covariance: all of them, or the leading ones several times faster.

The leading pairs come from a block Krylov space (Musco & Musco 2015): a random block, sharpened by a few products,
spans with its images under Σ a space whose Rayleigh–Ritz values converge from below to the largest eigenvalues. The
block is wider than the number of pairs asked for, so repeated eigenvalues are all found.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import check_batch, check_count, working_dtype

__all__ = ["eigenpairs"]

OVERSAMPLING = 32
TOLERANCE = 3e-5  # relative error that an eigenvalue may still have, as its last two increments predict it


def eigenpairs(
    matrix: Float[Tensor, "dim dim"], rank: int | None = None
) -> tuple[Float[Tensor, " rank"], Float[Tensor, "dim rank"]]:
    """Return the largest eigenvalues of a symmetric positive semidefinite matrix, decreasing, and their vectors.

    Each vector has its largest entry positive, so that the same matrix gives the same vectors on every machine, but for
    rounding.

    Args:
        matrix: ``(dim, dim)``, symmetric, float64 for the accuracy that a covariance deserves.
        rank: how many pairs, 0 to dim; None is all. A small part of them, of a large matrix, is computed in a Krylov
            space, to a relative accuracy of better than 1e-4 in each eigenvalue (in practice 1e-6).

    Raises:
        ValueError: for a matrix that is not square or holds NaN, or another rank.

    >>> values, vectors = eigenpairs(torch.diag(torch.tensor([1.0, 3.0, 2.0])), rank=2)
    >>> values, vectors.argmax(0)
    (tensor([3., 2.]), tensor([1, 2]))
    """
    rank = len(matrix) if rank is None else check_count(rank, "rank", 0, len(matrix))
    given = check_batch(matrix, matrix.shape[:1], "matrix").dtype
    matrix = matrix.to(working_dtype(given))
    pairs = _krylov(matrix, rank) if rank > 0 and 6 * (rank + OVERSAMPLING) <= len(matrix) else None
    if pairs is None:
        values, vectors = torch.linalg.eigh(matrix)
        pairs = values.flip(0)[:rank], vectors.flip(1)[:, :rank]
    values, vectors = pairs
    return values.to(given), oriented(vectors).to(given)


def _krylov(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor] | None:
    """Return the leading pairs, or None if the spectrum is too flat for a space of half the dimensions."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(len(matrix), rank + OVERSAMPLING, generator=generator, dtype=matrix.dtype).to(matrix.device)
    for _ in range(3):
        block = matrix @ orthonormal(block)
    space = image = block[:, :0]
    history = []
    while 2 * (space.shape[1] + block.shape[1]) <= len(matrix):
        for _ in range(2):  # once is not enough for orthogonality to rounding
            block = orthonormal(block - space @ (space.T @ block))
        space, image = torch.cat([space, block], 1), torch.cat([image, matrix @ block], 1)
        small = space.T @ image
        values, vectors = torch.linalg.eigh((small + small.T) / 2)
        values, vectors = values.flip(0)[:rank], vectors.flip(1)[:, :rank]
        history.append(values)
        if len(history) > 2 and converged(*history[-3:]):
            return values, space @ vectors
        block = image[:, -block.shape[1] :]
    return None


def oriented(vectors: Tensor) -> Tensor:
    """Return the columns, each with its largest entry positive."""
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * largest.sign()


def converged(first: Tensor, second: Tensor, third: Tensor) -> bool:
    """Whether increments that shrink geometrically leave less than the tolerance, in each eigenvalue."""
    before, last = second - first, third - second
    rounding = len(third) * torch.finfo(third.dtype).eps * third[0]
    return bool(((last <= rounding) | (last**2 <= TOLERANCE * third * (before - last))).all())


def orthonormal(block: Tensor) -> Tensor:
    """Return an orthonormal basis of the span of the columns."""
    return torch.linalg.qr(block)[0]
