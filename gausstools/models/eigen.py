"""Eigenpairs of a covariance: all of them, or the leading ones several times faster.

The leading pairs come from a block Krylov space (Musco & Musco 2015): a random block, sharpened by a few products,
spans with its images under Σ a space whose Rayleigh–Ritz values converge from below to the largest eigenvalues. Σ is
there a small matrix T, and needs no images of the older blocks: it is symmetric, and each product gives its last
columns. The block is wider than the number of pairs asked for, so repeated eigenvalues are all found.
"""

from collections.abc import Callable

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
    done = False
    if 6 * (rank + OVERSAMPLING) <= len(matrix):
        block = random(len(matrix), rank + OVERSAMPLING, matrix)
        for _ in range(3):
            block = matrix @ torch.linalg.qr(block)[0]
        # A spectrum that is too flat for a space of half the dimensions is solved as a whole.
        values, vectors, done = krylov(matrix.matmul, block, rank, len(matrix) // (2 * block.shape[1]))
    if not done:
        values, vectors = torch.linalg.eigh(matrix)
        values, vectors = values.flip(0)[:rank], vectors.flip(1)[:, :rank]
    return values.to(given), oriented(vectors).to(given)


def krylov(
    product: Callable[[Tensor], Tensor], block: Tensor, rank: int, products: int, agreed: Callable[[bool], bool] = bool
) -> tuple[Tensor, Tensor, bool]:
    """Return the leading pairs of a matrix Σ, and whether they have converged.

    Args:
        product: returns ``Σ·block``.
        block: ``(dim, columns)``, where to begin.
        rank: how many pairs.
        products: at most, 1 or more.
        agreed: is told after each whether the values have converged, and decides.
    """
    space, small, history, done = block[:, :0], block.new_empty(0, 0), [], False
    while not done and len(history) < products:
        block = _new_directions(block[:, : len(space) - space.shape[1]], space)
        image = product(block)
        space = torch.cat([space, block], 1)
        columns, old = space.T @ image, len(small)
        small = torch.cat([torch.cat([small, columns[:old]], 1), columns.T], 0)
        small[old:, old:] = (columns[old:] + columns[old:].T) / 2
        values, vectors = torch.linalg.eigh(small)
        history.append(values.flip(0)[:rank])
        done = agreed(len(history) > 2 and _converged(*history[-3:])) or space.shape[1] == len(space)
        block = image
    return history[-1], space @ vectors.flip(1)[:, :rank], done


def _new_directions(block: Tensor, space: Tensor) -> Tensor:
    """Return as many orthonormal columns, orthogonal to the space, whose span with it holds the block."""
    scale = block.norm(dim=0).max()
    block, triangle = torch.linalg.qr(block - space @ (space.T @ block))
    # Of data of low rank, the rest is rounding; it may lie in few dimensions, and random directions do not.
    lost = triangle.diagonal().abs() <= 1e-12 * scale
    block[:, lost] = random(len(block), int(lost.sum()), block)
    for _ in range(1 + bool(lost.any())):  # once is not enough for orthogonality to rounding
        block = torch.linalg.qr(block - space @ (space.T @ block))[0]
    return block


def random(rows: int, columns: int, like: Tensor) -> Tensor:
    """Return random directions, the same ones on every process."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, columns, generator=generator, dtype=like.dtype).to(like.device)


def oriented(vectors: Tensor) -> Tensor:
    """Return the columns, each with its largest entry positive."""
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * largest.sign()


def _converged(first: Tensor, second: Tensor, third: Tensor) -> bool:
    """Whether increments that shrink geometrically leave less than the tolerance, in each eigenvalue."""
    before, last = second - first, third - second
    rounding = len(third) * torch.finfo(third.dtype).eps * third[:1]
    return bool(((last <= rounding) | (last**2 <= TOLERANCE * third * (before - last))).all())
