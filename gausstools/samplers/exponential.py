"""The Gaussian exponential integrator: a multistep method for which a Gaussian is no work.

Write a denoiser as ``D = D_G + R``: that of a Gaussian with mean μ and eigenpairs ``(λ_k, u_k)``, and what it leaves.
For ``y = Uᵀ(x − μ)`` the probability flow ``dx/dσ = (x − D)/σ`` from σ = a down to b is then exactly

``y_k(b) = √((b²+λ_k)/(a²+λ_k)) y_k(a) + ∫_{ln b}^{ln a} √((b²+λ_k)/(σ²+λ_k)) R_k dlnσ``.

The first term is teleportation. Under the integral ``R_k = √(σ²/(σ²+λ_k))·r_k``, and r is replaced by the polynomial in
ln σ through its last values. So what is left to approximate is as small as the Gaussian is good, and vanishes where it
is exact. The weights of the values are integrals in one dimension, one for each eigenvalue, by Gauss–Legendre
quadrature.

**Why r and not R.** In a direction without variance r is R, and where λ_k ≫ σ² it is R/σ but for a constant, the
residual of the noise prediction. So each direction is treated as data- and noise-prediction methods treat them all.
Along the paths of this package's CIFAR-10 network steps err 0.47 to 0.64 times as much as with a polynomial for R. With
λ = 0 everywhere the factor is b/σ, and these are the exponential Adams–Bashforth methods in data prediction (Hochbruck
& Ostermann 2010), with DDIM as order 1.

**The step to 0.** There ln σ has no end, so one value of R has to do. At small σ both denoisers return nearly x, with
``R = σ²·(difference of the scores)``, and R is taken as proportional to ``σ²/(σ²+λ_k)``. The integral is elementary,

``y_k(0) = √(λ_k/(a²+λ_k)) y_k(a) + (1 − √(λ_k/(a²+λ_k)))·(a²+λ_k)/a²·R_k(a)``:

the flow of the Gaussian whose mean is moved until it explains the answer, so exact for every mean that goes with Σ.
With λ_k = 0 it lands on D, as DDIM does; with λ_k ≫ a² it goes half the way to D, as the flow of a score does. So a
grid of few steps need not creep up to 0: its last level can be 0.1 with 6 steps or 0.01 with 10, for images in [-1, 1].

**The corrector.** The answer at the end of a step also tells how that step should have gone. With it as one more value
the step is taken again from where it started, and the next starts from there; the answer is not asked for again. This
is the corrector of UniPC (Zhao et al. 2023), with the weights above.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gausstools.denoiser import Batch, Denoiser, Levels, check_count
from gausstools.models.gaussian import Gaussian
from gausstools.models.spectrum import flow_factor, gain, spread
from gausstools.samplers.path import History, State, check_history, check_steps, gaussian_history, multistep, sampler
from gausstools.samplers.quadrature import Quadrature

__all__ = ["gaussian_exponential"]


@sampler(takes=["gaussian"])
def gaussian_exponential(
    denoiser: Denoiser,
    x: Batch,
    sigmas: Levels,
    *,
    gaussian: Gaussian,
    order: int = 2,
    warm: bool = True,
    corrector: bool = False,
    history: History = (),
) -> Iterator[State]:
    """Solve the Gaussian's part of the flow exactly and extrapolate the rest: one network call a step.

    For this package's CIFAR-10 network, a jump, order 3 with the corrector and a grid uniform in ln σ did best: with 6
    calls from σ = 20 down to 0.1, with 10 from 40 to 0.01. From 20 calls on, and for its MNIST network after the same
    jump, other multistep methods are as good. :func:`gausstools.choose_skip` tells what a jump costs.

    Args:
        denoiser: any denoiser.
        x: ``(batch, *event)``, the state at ``sigmas[0]``, such as :func:`gausstools.teleport` gives.
        sigmas: ``(steps + 1,)``, decreasing; 0 may stand at the end only, and that step is of order 1.
        gaussian: what is solved exactly, of any rank: the data's, or the network's own.
        order: 1, 2 or 3: how many values of the residual a step uses, where it has them.
        warm: take the residual as 0 at levels above the first, spaced as the first step, so that this is of full order
            already: what a jump assumes anyway (:func:`gausstools.samplers.gaussian_history`). It serves a start where
            the Gaussian holds, at σ_max or after a jump. False starts with order 1.
        corrector: take each step again once its end has been asked about. The states that are yielded are the
            predicted ones, where the denoiser is asked.
        history: evaluations above ``sigmas[0]``, oldest first, used in place of what ``warm`` assumes.

    Raises:
        TypeError: if gaussian is no Gaussian.
        ValueError: for a grid that does not decrease, another order, or a history or x that does not fit.

    >>> import torch, gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> (only,) = gaussian_exponential(prior, 80 * torch.ones(1, 2), torch.tensor([80.0, 0.0]), gaussian=prior)
    >>> only.x                                           # the exact flow ends at 80/√(1+80²) = 0.9999
    tensor([[0.9999, 0.9999]])

    Five calls for a mixture, after a jump from 80 to 5:

    >>> mixture = gt.Mixture([0.5, 0.5], [gt.Gaussian.isotropic(torch.tensor([m]), 0.1) for m in (-1.0, 1.0)])
    >>> model, x, grid = mixture.to_gaussian(), torch.tensor([[40.0]]), gt.log_uniform_sigmas(5, 0.05, 5.0)
    >>> *_, few = gaussian_exponential(mixture, model.flow(x, 80.0, 5.0), grid, gaussian=model, order=3, corrector=True)
    >>> *_, many = gt.samplers.heun(mixture, x, gt.karras_sigmas(200))
    >>> few.x, many.x
    (tensor([[0.9073]]), tensor([[0.9059]]))
    """
    order = check_count(order, "order", 1, 3)
    if not isinstance(gaussian, Gaussian):
        raise TypeError(f"gaussian is {type(gaussian).__name__}, expected a Gaussian; a mixture has to_gaussian()")
    start, end = check_steps(x, sigmas)[0]
    history = check_history(history, x, start)
    if warm and end > 0:
        state, top = (history[0].x, history[0].sigma) if history else (x, start)
        lacking = torch.arange(max(order - 1 - len(history), 0), -1, -1, dtype=torch.float64)
        history = gaussian_history(gaussian, state, top * min(start / end, 1e3) ** lacking) + history
    advance = _Frame(gaussian, x).advance
    yield from multistep(denoiser, x, sigmas, history, order, advance, corrector=corrector)


def _weights(nodes: list[float], start: float, end: float, variances: Tensor) -> Tensor:
    """Return ``∫ √((b²+λ)/(σ²+λ)) q(σ)/q(σ_j) ℓ_j dlnσ``, ``(nodes, variances)``.

    Here ``q = √(σ²/(σ²+λ))``, and ℓ_j are the Lagrange polynomials of the nodes σ_j in ln σ.
    """
    rule = Quadrature([math.log(end) - math.log(start), 0.0])
    place, shares = rule.points.flatten(), rule.shares.flatten()  # ln(σ/a)
    logs = [math.log(node) - math.log(start) for node in nodes]
    polynomials = [
        math.prod(((place - other) / (log - other) for other in logs if other != log), start=torch.ones_like(place))
        for log in logs
    ]
    sigma = start * place.exp()[:, None]
    at = torch.tensor(nodes, dtype=torch.float64)[:, None]
    kernel = flow_factor(variances, sigma, end) * (sigma / spread(variances, sigma))
    return (torch.stack(polynomials) * shares) @ kernel / (at / spread(variances, at))


def _last_weight(start: float, variances: Tensor) -> Tensor:
    """Return the weight of the one residual in the step to 0, ``(1, variances)``, in the form that keeps its digits."""
    share = start**2 / variances  # infinite without variance, and then the weight is 1
    return (-torch.expm1(-torch.log1p(share) / 2) * (1 + variances / start**2))[None]


class _Frame:
    """States in the eigenbasis of a Gaussian: coordinates in its span, then what lies off it, ``(batch, rank + off)``.

    Off the span, where all directions share one variance, nothing needs to be resolved: that part stays an image.
    """

    def __init__(self, gaussian: Gaussian, x: Tensor):
        gaussian.validate(x, 0.0)
        self.gaussian, self.spectrum = gaussian, gaussian.spectrum
        self.variances = self.spectrum.values.cpu().double()
        self.residuals: dict[float, Tensor] = {}  # by noise level

    def inside(self, x: Tensor) -> Tensor:
        return torch.cat(self.spectrum.split((x - self.gaussian.mean).flatten(1)), 1)

    def outside(self, y: Tensor) -> Tensor:
        rank = self.spectrum.rank
        return self.gaussian.mean + self.spectrum.join(y[:, :rank], y[:, rank:]).reshape(-1, *self.gaussian.event_shape)

    def along(self, factors: Tensor) -> Tensor:
        """Return factors of the variances, ``(rank + 1,)``, as factors of the coordinates."""
        rank = self.spectrum.rank
        off = self.spectrum.dim if len(factors) > rank else 0
        return torch.cat([factors[:rank], factors[rank:].expand(off)]).to(self.gaussian.mean)

    def advance(self, x: Tensor, start: float, end: float, used: History) -> Tensor:
        """Return the state at end, by the residuals R of the last evaluations, oldest first."""
        if end == 0:
            used, weights = used[-1:], _last_weight(start, self.variances)
        else:
            weights = _weights([e.sigma for e in used], start, end, self.variances)
        y = self.along(flow_factor(self.variances, start, end)) * self.inside(x)
        for weight, e in zip(weights, used, strict=True):
            if e.sigma not in self.residuals:
                share = self.along(gain(self.variances, e.sigma**2))
                self.residuals[e.sigma] = self.inside(e.denoised) - share * self.inside(e.x)
            y = y + self.along(weight) * self.residuals[e.sigma]
        self.residuals = {e.sigma: self.residuals[e.sigma] for e in used}  # a long run would keep them all
        return self.outside(y)
