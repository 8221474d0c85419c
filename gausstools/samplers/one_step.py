"""One-step methods for the probability-flow ODE ``dx/dσ = (x − D(x, σ))/σ`` (Karras et al. 2022, eq. 1 with s = 1)."""

from collections.abc import Iterator

import torch

from gausstools.denoiser import Batch, Denoiser, Levels, check_that
from gausstools.samplers.path import Evaluation, State, check_steps, sampler

__all__ = ["ddim", "euler", "heun"]


@sampler()
def euler(denoiser: Denoiser, x: Batch, sigmas: Levels) -> Iterator[State]:
    """Euler's method in σ: first order, one network call a step. In VE this is DDIM (Song et al. 2021).

    ``x(b) = D + (b/a)·(x(a) − D)``, exact where D is constant along the path; a step to 0 lands on D.

    >>> import torch, gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> *_, last = euler(prior, 80 * torch.ones(1, 2), gt.karras_sigmas(200))
    >>> last.x                                           # the exact flow ends at 80/√(1+80²) = 0.9999
    tensor([[0.9871, 0.9871]])
    """
    for start, end in check_steps(x, sigmas):
        asked = Evaluation(x, start, denoiser(x, start))
        x = asked.denoised + (end / start) * (x - asked.denoised)
        yield State(x, end, asked)


@sampler(calls_a_step=2)
def heun(denoiser: Denoiser, x: Batch, sigmas: Levels) -> Iterator[State]:
    """Heun's method in σ: second order, two network calls a step, one for a last step to 0.

    Karras et al. 2022, algorithm 1. It averages the slopes ``(x − D)/σ`` at both ends of Euler's step. With n levels
    above 0 that is 2n − 1 calls.

    >>> import torch, gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> *_, last = heun(prior, 80 * torch.ones(1, 2), gt.karras_sigmas(200))
    >>> last.x                                           # the exact flow ends at 80/√(1+80²) = 0.9999
    tensor([[1.0002, 1.0002]])
    """
    for start, end in check_steps(x, sigmas):
        asked = Evaluation(x, start, denoiser(x, start))
        slope = (x - asked.denoised) / start
        predicted = asked.denoised + (end / start) * (x - asked.denoised)
        if end > 0:
            predicted = x + (end - start) * (slope + (predicted - denoiser(predicted, end)) / end) / 2
        x = predicted
        yield State(x, end, asked)


@sampler()
def ddim(
    denoiser: Denoiser, x: Batch, sigmas: Levels, *, eta: float = 0.0, generator: torch.Generator | None = None
) -> Iterator[State]:
    """DDIM with its stochasticity η (Song, Meng & Ermon 2021, eq. 12 and 16): first order, one network call a step.

    The paper writes it for ``x_t = √ᾱ·x0 + √(1−ᾱ)·n``. Divided by √ᾱ, with ``σ² = (1−ᾱ)/ᾱ``, a step from a to b is

        ``x(b) = D + √(b² − τ²)·(x(a) − D)/a + τ·z``,  ``τ² = η²·(b²/a²)·(a² − b²)``,  ``z ~ N(0, I)``,

    where no ᾱ is left: the method does not know the process, so x goes in and comes out in VE, as everywhere. At η = 0
    it is Euler's method in σ, step by step. At η = 1 it is the ancestral sampler of DDPM with its smaller variance.
    :meth:`gausstools.Process.sigma` gives the noise levels of a process's timesteps.

    Args:
        eta: from 0, deterministic, to 1, ancestral: the factor η of the noise that is drawn anew.
        generator: where z is drawn from, on the device of x; None takes torch's own.

    >>> import torch, gausstools as gt
    >>> prior, levels = gt.Gaussian.isotropic(torch.zeros(2), 1.0), gt.karras_sigmas(200)
    >>> *_, last = ddim(prior, 80 * torch.ones(1, 2), levels)
    >>> last.x                                           # that of Euler
    tensor([[0.9871, 0.9871]])
    >>> *_, last = ddim(prior, 80 * torch.ones(5000, 2), levels, eta=1.0, generator=torch.Generator().manual_seed(0))
    >>> last.x.mean().abs() < 0.05, (last.x.std() - 1).abs() < 0.05      # where it started is forgotten
    (tensor(True), tensor(True))
    """
    check_that(0 <= eta <= 1, f"eta is {eta}", "a number from 0, deterministic, to 1")
    for start, end in check_steps(x, sigmas):
        asked = Evaluation(x, start, denoiser(x, start))
        fresh = eta * end * (1 - (end / start) ** 2) ** 0.5
        x = asked.denoised + (end**2 - fresh**2) ** 0.5 / start * (x - asked.denoised)
        if fresh > 0:
            x = x + fresh * torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        yield State(x, end, asked)
