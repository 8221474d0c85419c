"""How far from the end of the flow a sampler stops, by the number of network calls that it was given.

From the same noise every sampler approximates the same end: that of the probability flow of this denoiser, which
:func:`converged` finds with as many steps as it takes. The distance to it is an error per image, with no reference
images and little noise: it tells samplers apart with a few seeds, where a distance of distributions needs thousands.

After a jump to sigma_skip two errors add up: the jump's own, between the flow of the Gaussian and that of the network,
and the solver's on the rest of the way. Measured against the flow from the same noise, the error is of both; against
the flow from where the jump landed, of the solver alone.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gausstools.denoiser import Batch, Denoiser, check_batch, check_count, check_that
from gausstools.models.gaussian import Gaussian
from gausstools.noise import karras_sigmas
from gausstools.samplers import Counted, declared, gaussian_history, heun

__all__ = ["Converged", "SolverError", "converged", "solver_errors"]


@dataclass(frozen=True)
class Converged:
    """The end of the probability flow, and how far to trust it.

    Args:
        x: ``(batch, *event)``, the samples.
        steps: of Heun's method that led there.
        error: root mean square, per entry, of the change from half as many steps. Heun's error falls by about 4 with
            each doubling, so a third of it is left.

    >>> Converged(torch.zeros(1, 2), steps=64, error=0.0008).steps
    64
    """

    x: Batch
    steps: int
    error: float


@dataclass(frozen=True)
class SolverError:
    """One measurement: a sampler, given so many network calls, with or without a jump.

    Args:
        solver: its name.
        nfe: network calls an image, as they were counted.
        sigma_skip: noise level that was jumped to, or None.
        rmse: root-mean-square distance to the reference, per entry of an image: the mean over the images.
        stderr: standard error of that mean.

    >>> SolverError("unipc", nfe=10, sigma_skip=20.0, rmse=0.011, stderr=0.0005).nfe
    10
    """

    solver: str
    nfe: int
    sigma_skip: float | None
    rmse: float
    stderr: float


def converged(
    denoiser: Denoiser,
    x: Batch,
    sigma_max: float = 80.0,
    *,
    sigma_min: float = 0.002,
    tolerance: float = 1e-3,
    most_steps: int = 512,
) -> Converged:
    """Follow the probability flow from ``x`` to its end, with twice the steps until the end no longer moves.

    Args:
        denoiser: any denoiser.
        x: ``(batch, *event)``, the state at sigma_max.
        sigma_max: noise level of ``x``.
        sigma_min: the last noise level above 0.
        tolerance: root-mean-square change of an entry at which it stops.
        most_steps: at which it stops in any case; look at ``error``.

    Raises:
        ValueError: if tolerance is not above 0, most_steps is below 32, or the denoiser answers NaN.

    >>> import gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> end = converged(prior, 80 * torch.ones(1, 2), 80.0, tolerance=1e-4)
    >>> bool((end.x - prior.flow(80 * torch.ones(1, 2), 80.0, 0.0)).abs().max() < 1e-4)
    True
    """
    check_batch(x, least=1)
    check_that(0 < tolerance < math.inf, f"tolerance is {tolerance}", "a number > 0")
    check_count(most_steps, "most_steps", 32)
    steps, before, change = 8, x, math.inf
    while change > tolerance and (steps < 32 or 2 * steps <= most_steps):
        steps *= 2
        *_, last = heun(denoiser, x, karras_sigmas(steps, sigma_min, sigma_max))
        change = (last.x.double() - before.double()).square().mean().sqrt().item() if steps > 16 else math.inf
        before = last.x
    return Converged(before, steps, change)


def solver_errors(
    denoiser: Denoiser,
    x: Batch,
    reference: Batch,
    solvers: Mapping[str, Callable],
    nfes: Iterable[int],
    *,
    sigma_max: float = 80.0,
    sigma_skips: Iterable[float | None] = (None,),
    gaussian: Gaussian | None = None,
    grid: Callable = karras_sigmas,
) -> Iterator[SolverError]:
    """Measure how far from ``reference`` samplers end, each with as many network calls as it is given.

    After a jump all the calls are spent below sigma_skip, on a grid of its own, and multistep methods are given the
    history that the jump passed.

    Args:
        denoiser: any denoiser.
        x: ``(batch, *event)``, the state at sigma_max.
        reference: ``(batch, *event)``, where the flow from ``x`` ends, such as ``converged(denoiser, x).x``.
        solvers: samplers by name, each called as ``solver(denoiser, x, sigmas)``, such as ``functools.partial`` of one
            with its order. One that takes a Gaussian is given it, if it has none yet, and one that takes a history
            is given that (:func:`gausstools.samplers.declared`).
        nfes: network calls, each >= 1.
        sigma_max: noise level of ``x``.
        sigma_skips: noise levels to jump to, none above sigma_max; None is no jump.
        gaussian: whose flow the jumps follow.
        grid: of noise levels, ``grid(n, sigma_max=…)``, such as ``partial(log_uniform_sigmas, sigma_min=0.05)``.

    Yields:
        For each solver, jump and number of calls, in this order, as it is measured. Where a number of calls cannot be
        used up, as an even one by Heun's method on a grid to 0, the grid is the longest that costs less. Calls are
        those that were made.

    Raises:
        ValueError: for a jump upwards or without a Gaussian, no images, or a denoiser that answers NaN.

    >>> import gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> x = 80 * torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    >>> solvers = {"euler": gt.samplers.euler, "heun": gt.samplers.heun}
    >>> for row in solver_errors(prior, x, prior.flow(x, 80.0, 0.0), solvers, [9, 19]):
    ...     print(f"{row.solver:5} {row.nfe:2} calls: off by {row.rmse:.4f}")
    euler  9 calls: off by 0.3156
    euler 19 calls: off by 0.1535
    heun   9 calls: off by 1.0458
    heun  19 calls: off by 0.2023
    """
    check_batch(x, least=1)
    check_batch(reference, x.shape[1:], "reference")
    check_that(len(reference) == len(x), f"reference has {len(reference)} images", f"as many as x, {len(x)}")
    plan = list(itertools.product(solvers, sigma_skips, nfes))
    for _, skip, nfe in plan:
        check_count(nfe, "nfe", 1)
        if skip is not None:
            expected = f"noise levels above 0, up to sigma_max, {sigma_max:g}"
            check_that(0 < skip <= sigma_max, f"sigma_skips has {skip}", expected)
            check_that(gaussian is not None, f"sigma_skips has {skip} and gaussian is None", "whose flow it follows")
    for name, skip, nfe in plan:
        solver, counted = solvers[name], Counted(denoiser)
        cost, start = declared(solver), x if skip is None else gaussian.flow(x, sigma_max, skip)
        # The longest grid for so many calls: its last step, if to 0, costs one; and a single step may cost more.
        sigmas = grid(-(-nfe // cost.calls_a_step), sigma_max=skip or sigma_max)
        if cost.calls(sigmas) > nfe:
            sigmas = grid(max(1, nfe // cost.calls_a_step), sigma_max=skip or sigma_max)
        options = {"gaussian": gaussian} if "gaussian" in cost.takes else {}
        if skip is not None and "history" in cost.takes and skip < sigma_max:
            options["history"] = gaussian_history(gaussian, start, _above(sigmas, sigma_max))
        *_, last = solver(counted, start, sigmas, **options)
        end = check_batch(last.x, x.shape[1:], f"the end of {name}")
        off = (end.double() - reference.double()).flatten(1).square().mean(1).sqrt()
        error = off.std().item() / len(off) ** 0.5 if len(off) > 1 else math.nan
        yield SolverError(name, counted.calls, skip, off.mean().item(), error)


def _above(sigmas: Tensor, sigma_max: float) -> Tensor:
    """Return up to three levels above a grid, spaced by the ratio of its first two up to sigma_max, then its first."""
    ratio = float(sigmas[0] / sigmas[1]) if len(sigmas) > 2 else 2.0
    levels = {min(float(sigmas[0]) * ratio**k, sigma_max) for k in (1, 2, 3)}
    return torch.tensor([*sorted(levels, reverse=True), float(sigmas[0])], dtype=torch.float64)
