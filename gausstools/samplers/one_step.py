"""One-step methods for the probability-flow ODE ``dx/dσ = (x − D(x, σ))/σ`` (Karras et al. 2022, eq. 1 with s = 1)."""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import Denoiser
from gausstools.samplers.path import State, check_steps

__all__ = ["euler", "heun"]


def euler(denoiser: Denoiser, x: Float[Tensor, "batch *event"], sigmas: Float[Tensor, " levels"]) -> Iterator[State]:
    """Euler's method in σ: first order, one network call a step. In VE this is DDIM (Song et al. 2021).

    ``x(b) = D + (b/a)·(x(a) − D)``, exact where D is constant along the path; a step to 0 lands on D.

    Args:
        denoiser: any denoiser.
        x: ``(batch, *event)``, the state at ``sigmas[0]``.
        sigmas: ``(steps + 1,)``, decreasing; 0 may stand at the end only.

    Raises:
        ValueError: for a grid that does not decrease, holds NaN or has fewer than 2 levels.

    >>> import torch, gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> *_, last = euler(prior, 80 * torch.ones(1, 2), gt.karras_sigmas(200))
    >>> last.x                                           # the exact flow ends at 80/√(1+80²) = 0.9999
    tensor([[0.9871, 0.9871]])
    """
    for start, end in check_steps(x, sigmas):
        denoised = denoiser(x, start)
        x = denoised + (end / start) * (x - denoised)
        yield State(x, end, denoised)


def heun(denoiser: Denoiser, x: Float[Tensor, "batch *event"], sigmas: Float[Tensor, " levels"]) -> Iterator[State]:
    """Heun's method in σ: second order, two network calls a step, one for a last step to 0.

    Karras et al. 2022, algorithm 1. It averages the slopes ``(x − D)/σ`` at both ends of Euler's step. With n levels
    above 0 that is 2n − 1 calls.

    Args:
        denoiser: any denoiser.
        x: ``(batch, *event)``, the state at ``sigmas[0]``.
        sigmas: ``(steps + 1,)``, decreasing; 0 may stand at the end only.

    Raises:
        ValueError: for a grid that does not decrease, holds NaN or has fewer than 2 levels.

    >>> import torch, gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> *_, last = heun(prior, 80 * torch.ones(1, 2), gt.karras_sigmas(200))
    >>> last.x                                           # the exact flow ends at 80/√(1+80²) = 0.9999
    tensor([[1.0002, 1.0002]])
    """
    for start, end in check_steps(x, sigmas):
        denoised = denoiser(x, start)
        slope = (x - denoised) / start
        predicted = denoised + (end / start) * (x - denoised)
        if end > 0:
            predicted = x + (end - start) * (slope + (predicted - denoiser(predicted, end)) / end) / 2
        x = predicted
        yield State(x, end, denoised)
