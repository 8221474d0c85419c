"""The covariance as an object, and the functions of a variance that the theory is made of.

``Σ = U diag(λ) Uᵀ + tail·(I − UUᵀ)``: k eigenpairs, and one variance for all D − k directions off their span. Any
function of Σ acts on each eigendirection by itself, ``f(Σ) = U f(λ) Uᵀ + f(tail)·(I − UUᵀ)``. So everything along the
noising path ``x_σ = x0 + σ·n`` is a function of one variance (Wang & Vastola 2024), for

* the denoiser, its gain ``λ/(λ+σ²)``, :func:`gain`;
* the posterior of x0, its variance ``λσ²/(λ+σ²)``, :func:`posterior_variance`;
* the probability flow, its factor ``√((σ²+λ)/(σ_T²+λ))``, :func:`flow_factor`.

:meth:`gausstools.Spectrum.apply` and its siblings put such a function to use: two products with U, and no inverse.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import check_choice, check_count

__all__ = ["Spectrum", "flow_factor", "gain", "posterior_variance", "ratio", "spread"]

Factor = Callable[[Tensor], Tensor]
"""A function of a variance."""


class Spectrum(NamedTuple):
    """The covariance ``Σ = U diag(variances) Uᵀ + tail·(I − UUᵀ)``, as what it is made of.

    The functions f that its methods take map :attr:`values`, the distinct variances, to factors of the same length,
    one row for all, ``(values,)``, or one for each row that is asked about, ``(rows, values)``. It holds what it is
    given; :meth:`checked` looks at it first.

    Args:
        variances: λ, ``(k,)``.
        basis: U, ``(D, k)`` with orthonormal columns.
        tail: variance in every direction off the span of U, ``()``.

    >>> covariance = Spectrum(torch.tensor([4.0]), torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor(1.0))
    >>> covariance.apply(lambda v: v**2, torch.ones(1, 3))             # Σ²v
    tensor([[16.,  1.,  1.]])
    >>> covariance.trace(), covariance.trace(torch.log)                # of Σ, and the logarithm of its determinant
    (tensor(6.), tensor(1.3863))
    """

    variances: Tensor
    basis: Tensor
    tail: Tensor

    @classmethod
    def checked(cls, variances: Tensor, basis: Tensor, tail: float | Tensor, like: Tensor) -> "Spectrum":
        """Return the covariance of events such as ``like``, in its dtype and on its device, if these make one.

        Raises:
            ValueError: for shapes that do not fit, NaN, negative variances, or a basis that is not orthonormal.
        """
        rounding = torch.finfo(basis.dtype).eps if isinstance(basis, Tensor) and basis.is_floating_point() else 0.0
        to = {"dtype": like.dtype, "device": like.device}
        variances, basis, tail = (torch.as_tensor(value, **to) for value in (variances, basis, tail))
        if variances.ndim != 1 or basis.shape != (like.numel(), len(variances)):
            shapes = f"variances have shape {tuple(variances.shape)} and basis {tuple(basis.shape)}"
            raise ValueError(f"{shapes}, expected (rank,) and ({like.numel()}, rank)")
        if tail.numel() != 1:
            raise ValueError(f"tail has shape {tuple(tail.shape)}, expected one number")
        check_positive(variances, "variances")
        check_positive(tail, "tail")
        error = float((basis.T @ basis - torch.eye(basis.shape[1]).to(basis)).abs().max()) if basis.numel() else 0.0
        eps = torch.finfo(torch.float32).eps  # it may have been float32 before
        if not error < 1e3 * eps * max(1, basis.shape[0] ** 0.5) + 4 * rounding:
            raise ValueError(f"basis is not orthonormal: UᵀU differs from the identity by up to {error:g}")
        return cls(variances, basis, tail.reshape(()))

    @classmethod
    def leading(cls, variances: Tensor, basis: Tensor, total: Tensor, rounding: float | Tensor) -> "Spectrum":
        """Return the covariance of leading eigenpairs and a trace; what is no larger than rounding is 0."""
        variances = variances.where(variances > rounding, 0)
        left = total - variances.sum()
        off = len(basis) - len(variances)
        return cls(variances, basis, left / off if off and left > rounding else torch.zeros_like(left))

    def to(self, *target) -> "Spectrum":
        """Return it in another dtype or on another device, named as for ``Tensor.to``."""
        return Spectrum(*(tensor.to(*target) for tensor in self))

    @property
    def dim(self) -> int:
        """D, the number of all directions."""
        return len(self.basis)

    @property
    def rank(self) -> int:
        """k, the number of eigenpairs."""
        return len(self.variances)

    @property
    def values(self) -> Float[Tensor, " values"]:
        """The distinct variances: λ, then the tail unless k = D; ``(k + 1,)`` or ``(D,)``."""
        return self.variances if self.rank == self.dim else torch.cat([self.variances, self.tail.reshape(1)])

    @property
    def counts(self) -> Float[Tensor, " values"]:
        """How many directions have each of the :attr:`values`: 1, and D − k for the tail."""
        counts = torch.ones_like(self.values)
        counts[self.rank :] = self.dim - self.rank
        return counts

    # ---- functions of Σ

    def apply(self, function: Factor, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "..."]:
        """Return ``f(Σ)v`` for each row v, as ``U (f(λ) − f(tail)) Uᵀv + f(tail)·v``: two products with U.

        Factors ``(levels, 1 or rows, values)`` give as many answers, ``(levels, rows, D)``, for one product with U
        more than half the price.
        """
        factors = torch.atleast_2d(function(self.values))
        inside, outside = factors[..., : self.rank], factors[..., self.rank :]
        if self.rank == self.dim:
            return (rows @ self.basis * inside) @ self.basis.T
        return outside * rows + (rows @ self.basis * (inside - outside)) @ self.basis.T

    def trace(self, function: Factor = lambda values: values) -> Float[Tensor, "..."]:
        """Return ``tr f(Σ)``, the sum of f over all directions; with the logarithm as f, the log-determinant."""
        return (function(self.values) * self.counts).sum(-1)

    def quadratic(self, function: Factor, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, " rows"]:
        """Return ``vᵀf(Σ)v`` for each row v, as a sum of squares; with 1/λ as f, Mahalanobis' squared distance."""
        inside, rest = self.split(rows)
        squares = torch.cat([inside.square(), rest.square().sum(1, keepdim=True)], 1)
        return (function(self.values) * squares[:, : len(self.values)]).sum(1)

    def dense(self) -> Float[Tensor, "dim dim"]:
        """Return Σ as a matrix."""
        return self.apply(lambda values: values, torch.eye(self.dim).to(self.basis))

    # ---- the span and the rest

    def split(self, rows: Float[Tensor, "rows dim"]) -> tuple[Float[Tensor, "rows rank"], Float[Tensor, "rows rest"]]:
        """Return the coordinates ``Uᵀv`` of rows v, and what lies off the span, ``(rows, D)``; ``(rows, 0)`` if k = D.

        >>> Spectrum(torch.ones(1), torch.tensor([[1.0], [0.0]]), torch.tensor(0.0)).split(torch.ones(1, 2))
        (tensor([[1.]]), tensor([[0., 1.]]))
        """
        inside = rows @ self.basis
        return inside, rows - inside @ self.basis.T if self.rank < self.dim else rows[:, :0]

    def join(self, inside: Float[Tensor, "rows rank"], rest: Float[Tensor, "rows rest"]) -> Float[Tensor, "rows dim"]:
        """Return the rows that :meth:`split` took apart."""
        rows = inside @ self.basis.T
        return rows + rest if self.rank < self.dim else rows

    # ---- fewer eigenpairs

    def decreasing(self) -> "Spectrum":
        """Return it with the variances in decreasing order."""
        order = self.variances.argsort(descending=True, stable=True)
        return Spectrum(self.variances[order], self.basis[:, order], self.tail)

    def tails(self, discarded: Literal["tail", "drop"] = "tail") -> Float[Tensor, " ranks"]:
        """Return the tail when only the first 0, 1, … k variances are kept, ``(k + 1,)`` in float64.

        Args:
            discarded: "tail" spreads the variance of the other directions evenly over them; "drop" sets it to 0.

        >>> Spectrum(torch.tensor([4.0, 2.0]), torch.eye(3)[:, :2], torch.tensor(0.0)).tails()
        tensor([2., 1., 0.], dtype=torch.float64)
        """
        check_choice(discarded, "discarded", "tail", "drop")
        beyond = torch.cat([self.variances.double(), self.tail.double().reshape(1) * (self.dim - self.rank)])
        beyond = beyond.flip(0).cumsum(0).flip(0)
        left = self.dim - torch.arange(self.rank + 1, device=beyond.device)
        return beyond / left.clamp(min=1) if discarded == "tail" else torch.zeros_like(beyond)

    def truncate(self, rank: int, discarded: Literal["tail", "drop"] = "tail") -> "Spectrum":
        """Return the covariance that keeps the ``rank`` largest variances, 0 to k, with the tail of :meth:`tails`."""
        rank, ordered = check_count(rank, "rank", 0, self.rank), self.decreasing()
        tail = ordered.tails(discarded)[rank].to(self.tail)
        return Spectrum(ordered.variances[:rank], ordered.basis[:, :rank], tail)


# ---- the functions of a variance


def gain(variance: Tensor, noise: float | Tensor) -> Tensor:
    """Return ``λ/(λ+σ²)`` for ``noise = σ²``, the gain of the denoiser (Wiener's filter), and 0 where both are 0.

    >>> gain(torch.tensor([0.0, 1.0, 3.0]), 1.0)
    tensor([0.0000, 0.5000, 0.7500])
    """
    return ratio(variance, variance + noise)


def posterior_variance(variance: Tensor, noise: Tensor) -> Tensor:
    """Return ``λσ²/(λ+σ²)`` for ``noise = σ²``: what the denoiser leaves of a variance, and 0 where both are 0."""
    return variance * ratio(noise, variance + noise)


def spread(variance: Tensor, sigma: float | Tensor) -> Tensor:
    """Return ``√(σ²+λ)``, the standard deviation of ``x_σ`` where that of the data is ``√λ``."""
    sigma = torch.as_tensor(sigma, dtype=variance.dtype, device=variance.device)
    # At σ = 0 its slope in σ is 0, but 1 where λ is 0: there it is σ itself.
    none = variance == 0
    return torch.where(none, sigma, torch.hypot(sigma, variance.where(~none, 1).sqrt()))


def flow_factor(variance: Tensor, start: float | Tensor, end: float | Tensor) -> Tensor:
    """Return ``√((σ²+λ)/(σ_T²+λ))``, by which the flow from ``start = σ_T`` to ``end = σ`` multiplies a direction.

    >>> flow_factor(torch.tensor([0.0, 1.0]), 7.0, 1.0)                # 1/7, and √(2/50)
    tensor([0.1429, 0.2000])
    """
    return ratio(spread(variance, end), spread(variance, start))


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return numerator / denominator, and 0 where both are 0: the limit in a direction without variance."""
    return numerator / torch.where(denominator == 0, 1, denominator)


def check_positive(values: Tensor, name: str) -> None:
    """Raise ValueError unless all values are finite and >= 0."""
    if not (values.isfinite() & (values >= 0)).all():
        raise ValueError(f"{name} hold {values.min():g}, expected finite numbers >= 0")
