"""The Gaussian exponential integrator: a multistep method for which a Gaussian is no work.

Write a denoiser as ``D = D_G + R``: that of a Gaussian with mean μ and eigenpairs ``(λ_k, u_k)``, and what it leaves.
For ``y = Uᵀ(x − μ)`` the probability flow ``dx/dσ = (x − D)/σ`` from σ = a down to b is then exactly

``y_k(b) = √((b²+λ_k)/(a²+λ_k)) y_k(a) + ∫_{ln b}^{ln a} √((b²+λ_k)/(σ²+λ_k)) R_k dlnσ``.

The first term is teleportation. Under the integral, R is replaced by the polynomial in ln σ through its last values, so
what is left to approximate is as small as the Gaussian is good, and vanishes where it is exact. The weights of the
values are integrals in one dimension, one for each eigenvalue, computed once for a grid by Gauss–Legendre quadrature.
With λ = 0 the factor is b/σ: these are the exponential Adams–Bashforth methods in data prediction (Hochbruck &
Ostermann 2010), with DDIM as order 1.

**The step to 0.** There ln σ has no end, and a constant R would add up to infinity where λ_k > 0. But R has to vanish:
at small σ both denoisers return nearly x, with ``R = σ²·(difference of the scores)``. So R is taken there as
proportional to ``σ²/(σ²+λ_k)``, the share of the noise in direction k. The integral is then elementary,

``y_k(0) = √(λ_k/(a²+λ_k)) y_k(a) + (1 − √(λ_k/(a²+λ_k)))·(a²+λ_k)/a²·R_k(a)``:

the flow of the Gaussian whose mean is moved until it explains the answer, so exact for every mean that goes with Σ.
With λ_k = 0 it lands on D, as DDIM does; with λ_k ≫ a² it goes half the way of D, as the score's flow does. So a grid
need not creep up to 0: its last level can be as large as 0.05 or 0.1 for images in [-1, 1].
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import Denoiser, check_count
from gausstools.models.base import ratio
from gausstools.models.gaussian import Gaussian
from gausstools.samplers.path import Evaluation, State, check_history, check_steps

__all__ = ["gaussian_exponential"]

# The integrand's nearest singularities, at σ² = −λ, lie π/2 off the real axis of ln σ. On pieces no longer than 2, so
# many nodes leave an error below 1e-16 of the integral.
_PIECE, _NODES = 2.0, 16


def gaussian_exponential(
    denoiser: Denoiser,
    x: Float[Tensor, "batch *event"],
    sigmas: Float[Tensor, " levels"],
    *,
    gaussian: Gaussian,
    order: int = 2,
    warm: bool = True,
    history: Sequence[Evaluation] = (),
) -> Iterator[State]:
    """Solve the Gaussian's part of the flow exactly and extrapolate the rest: one network call a step.

    Args:
        denoiser: any denoiser.
        x: ``(batch, *event)``, the state at ``sigmas[0]``, such as :func:`gausstools.teleport` gives.
        sigmas: ``(steps + 1,)``, decreasing; 0 may stand at the end only, and that step is of order 1.
        gaussian: what is solved exactly, of any rank: the data's, or the network's own.
        order: 1, 2 or 3: how many values of the residual R a step uses, where it has them.
        warm: take R = 0 at levels above the first, spaced as the first step, so that the first step is of full order:
            what a jump assumes anyway. It serves a start where the Gaussian holds, at σ_max or after a jump. False
            starts with order 1.
        history: evaluations above ``sigmas[0]``, oldest first, used in place of these.

    Raises:
        TypeError: if gaussian is no Gaussian.
        ValueError: for a grid that does not decrease, another order, or a history or x that does not fit.

    >>> import torch, gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> (only,) = gaussian_exponential(prior, 80 * torch.ones(1, 2), torch.tensor([80.0, 0.0]), gaussian=prior)
    >>> only.x                                           # the exact flow ends at 80/√(1+80²) = 0.9999
    tensor([[0.9999, 0.9999]])
    """
    order = check_count(order, "order", 1, 3)
    if not isinstance(gaussian, Gaussian):
        raise TypeError(f"gaussian is {type(gaussian).__name__}, expected a Gaussian; a mixture has to_gaussian()")
    steps = check_steps(x, sigmas)
    frame = _Frame(gaussian)
    past = [
        (evaluation.sigma, frame.residual(frame.inside(evaluation.x), evaluation))
        for evaluation in check_history(history, x, steps[0][0])
    ]
    if warm:
        past = _warm(past, steps[0], order) + past
    plan = _plan([sigma for sigma, _ in past], steps, order, frame.variances)
    y = frame.inside(x)
    for (start, end), (factor, weights) in zip(steps, plan, strict=True):
        asked = Evaluation(x, start, denoiser(x, start))
        past = [*past, (start, frame.residual(y, asked))][-order:]
        y = frame.along(factor) * y
        for weight, (_, residual) in zip(weights, past[-len(weights) :], strict=True):
            if residual is not None:
                y = y + frame.along(weight) * residual
        x = frame.outside(y, x)
        yield State(x, end, asked.denoised)


def _warm(past: list, first: tuple[float, float], order: int) -> list[tuple[float, None]]:
    """Return the levels of a path on which the residual is 0, as many as the first step lacks, oldest first."""
    start, end = first
    if end == 0:
        return []
    top = past[0][0] if past else start
    return [(top * (start / end) ** k, None) for k in range(order - 1 - len(past), 0, -1)]


def _plan(
    above: list[float], steps: list[tuple[float, float]], order: int, variances: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return the factor of the state and the weights of the residuals, oldest first, at every step of a grid."""
    levels = above + [start for start, _ in steps]
    plan = []
    for index, (start, end) in enumerate(steps, len(above) + 1):
        nodes = levels[max(0, index - order) : index]
        factor = ((variances + end**2) / (variances + start**2)).sqrt()
        plan.append((factor, _weights(nodes, start, end, variances) if end else _last_weight(start, variances)))
    return plan


def _weights(nodes: list[float], start: float, end: float, variances: Tensor) -> Tensor:
    """Return ``∫ √((b²+λ)/(σ²+λ)) ℓ_j dlnσ`` for the Lagrange polynomials ℓ_j of ln σ, ``(nodes, variances)``."""
    pieces = math.ceil(math.log(start / end) / _PIECE)
    half = math.log(start / end) / pieces / 2
    points, shares = map(torch.from_numpy, np.polynomial.legendre.leggauss(_NODES))
    centres = half * (2 * torch.arange(pieces, dtype=torch.float64) + 1)
    place = (centres[:, None] + half * points).flatten().to(variances)  # ln(σ/b)
    shares = half * shares.repeat(pieces).to(variances)
    kernel = ((variances + end**2) / (variances + end**2 * (2 * place).exp()[:, None])).sqrt()
    logs = [math.log(node / end) for node in nodes]
    basis = [
        math.prod((place - other) / (log - other) for other in logs if other != log) * torch.ones_like(place)
        for log in logs
    ]
    return (torch.stack(basis) * shares) @ kernel


def _last_weight(start: float, variances: Tensor) -> Tensor:
    """Return the weight of the one residual in the step to 0, ``(1, variances)``, in the form that keeps its digits."""
    share = ratio(torch.full_like(variances, start**2), variances)
    rest = torch.where(variances == 0, 1, -torch.expm1(-torch.log1p(share) / 2))
    return (rest * (1 + variances / start**2))[None]


class _Frame:
    """States in the eigenbasis of a Gaussian: coordinates in its span, then what lies off it, ``(batch, rank + off)``.

    Off the span, where all directions share one variance, nothing needs to be resolved: that part stays an image.
    """

    def __init__(self, gaussian: Gaussian):
        self.gaussian = gaussian
        self.off = gaussian.dim if gaussian.rank < gaussian.dim else 0
        tail = gaussian.tail.reshape(1)[: self.off]
        self.variances = torch.cat([gaussian.variances, tail]).cpu().double()

    def inside(self, x: Tensor) -> Tensor:
        centred, _ = self.gaussian._question(x, 0.0)
        coordinates = centred @ self.gaussian.basis
        if not self.off:
            return coordinates
        return torch.cat([coordinates, centred - coordinates @ self.gaussian.basis.T], 1)

    def outside(self, y: Tensor, like: Tensor) -> Tensor:
        rank = self.gaussian.rank
        centred = y[:, :rank] @ self.gaussian.basis.T
        return self.gaussian._return(centred + y[:, rank:] if self.off else centred, like)

    def along(self, factors: Tensor) -> Tensor:
        """Return factors of the variances, ``(rank + 1,)``, as factors of the coordinates."""
        rank = self.gaussian.rank
        return torch.cat([factors[:rank], factors[rank:].expand(self.off)]).to(self.gaussian.mean)

    def residual(self, y: Tensor, asked: Evaluation) -> Tensor:
        """Return R, what the Gaussian leaves of an answer at the state with coordinates y."""
        gain = self.variances / (self.variances + asked.sigma**2)
        return self.inside(asked.denoised) - self.along(gain) * y
