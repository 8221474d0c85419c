"""What the samplers share: the grid that they walk down, the state after a step, and the evaluations behind it.

A multistep method builds each step from the denoiser's last answers. At its start it has none, so its first steps are
of lower order, unless it is given them: a ``history``. A jump along a Gaussian's closed-form flow has one for nothing,
since the flow passes through every level above (:func:`gausstools.samplers.gaussian_history`).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import check_batch
from gausstools.models.gaussian import Gaussian

__all__ = ["Evaluation", "State", "gaussian_history"]


@dataclass(frozen=True)
class State:
    """Where a sampler stands after a step.

    Args:
        x: ``(batch, *event)``, the state at noise level sigma.
        sigma: the noise level that the step reached.
        denoised: ``(batch, *event)``, what the denoiser answered at the step's start.

    >>> import torch, gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(1), 1.0)
    >>> first, *_, last = gt.samplers.heun(prior, torch.tensor([[80.0]]), gt.karras_sigmas(18))
    >>> round(first.sigma, 2), last.sigma, last.x
    (57.59, 0.0, tensor([[1.0447]]))
    """

    x: Float[Tensor, "batch *event"]
    sigma: float
    denoised: Float[Tensor, "batch *event"]


@dataclass(frozen=True)
class Evaluation:
    """A question that a denoiser was asked, and its answer: what a multistep method remembers.

    Args:
        x: ``(batch, *event)``, the state that it was given.
        sigma: the noise level of that state, above 0.
        denoised: ``(batch, *event)``, its answer ``D(x, sigma)``.

    >>> import torch, gausstools as gt
    >>> prior, x = gt.Gaussian.isotropic(torch.zeros(1), 1.0), torch.tensor([[2.0]])
    >>> Evaluation(x, 1.0, prior(x, 1.0)).denoised
    tensor([[1.]])
    """

    x: Float[Tensor, "batch *event"]
    sigma: float
    denoised: Float[Tensor, "batch *event"]


def gaussian_history(
    gaussian: Gaussian, x: Float[Tensor, "batch *event"], sigmas: Float[Tensor, " levels"]
) -> list[Evaluation]:
    """Return the evaluations that a sampler would have left on its way down to ``x``, had all been Gaussian.

    The path through ``x`` is followed upwards by the Gaussian's flow, and the Gaussian's denoiser answers on it.

    Args:
        gaussian: the model whose path it is.
        x: ``(batch, *event)``, the state at the last level, ``sigmas[-1]``.
        sigmas: ``(levels,)``, decreasing, above 0: the levels to evaluate, oldest first, then that of ``x``. With a
            grid cut at level k, ``grid[k - 2 : k + 1]`` gives the two evaluations that a third-order method wants.

    Returns:
        One evaluation for each level but the last, oldest first.

    Raises:
        ValueError: for levels that do not decrease, hold NaN or are fewer than 2.

    >>> import torch, gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(1), 1.0)
    >>> (before,) = gaussian_history(prior, torch.tensor([[2.0]]), torch.tensor([7.0, 1.0]))
    >>> before.x, before.sigma, before.denoised          # 2·√(50/2), and 1/50 of it
    (tensor([[10.]]), 7.0, tensor([[0.2000]]))
    """
    above = [start for start, _ in check_steps(x, sigmas)]
    level = float(sigmas[-1])
    path = [(gaussian.flow(x, level, sigma), sigma) for sigma in above]
    return [Evaluation(state, sigma, gaussian(state, sigma)) for state, sigma in path]


def check_steps(x: Tensor, sigmas: Tensor) -> list[tuple[float, float]]:
    """Return the steps of a grid, ``(σ from, σ to)`` as floats, if it is one for the batch x, else raise.

    Raises:
        TypeError: if it is no tensor.
        ValueError: if it is not 1-D with 2 levels or more, or not finite, strictly decreasing and >= 0.
    """
    check_batch(x)
    if not isinstance(sigmas, Tensor):
        raise TypeError(f"sigmas is {type(sigmas).__name__}, expected a 1-D tensor of decreasing noise levels")
    levels = sigmas.detach().double()
    if levels.ndim != 1 or len(levels) < 2:
        raise ValueError(f"sigmas has shape {tuple(sigmas.shape)}, expected (steps + 1,) with at least 2 levels")
    if not levels.isfinite().all() or not (levels.diff() < 0).all() or levels[-1] < 0:
        raise ValueError(
            f"sigmas runs {levels[0]:g}, {levels[1]:g}, …, {levels[-1]:g}, expected finite levels, strictly decreasing "
            "and >= 0"
        )
    return list(itertools.pairwise(levels.tolist()))


def check_history(history: Sequence[Evaluation], x: Tensor, sigma: float) -> list[Evaluation]:
    """Return the evaluations as a list if they lie above sigma, oldest first, on batches shaped as x, else raise.

    Raises:
        TypeError: if one is no :class:`Evaluation`.
        ValueError: if their levels do not decrease to above sigma, or a shape or dtype differs from that of x.
    """
    history = list(history)
    for evaluation in history:
        if not isinstance(evaluation, Evaluation):
            raise TypeError(f"history holds {type(evaluation).__name__}, expected gausstools.samplers.Evaluation")
        for name in ("x", "denoised"):
            value = getattr(evaluation, name)
            if value.shape != x.shape or value.dtype != x.dtype:
                raise ValueError(
                    f"history holds {name} of shape {tuple(value.shape)} in {value.dtype}, expected those of x: "
                    f"{tuple(x.shape)} in {x.dtype}"
                )
    levels = [evaluation.sigma for evaluation in history]
    if not all(above > below for above, below in itertools.pairwise([*levels, sigma])):
        raise ValueError(
            f"history has the levels {levels}, expected them to decrease, oldest first, to above {sigma:g}"
        )
    return history
