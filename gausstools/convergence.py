"""How far from the end of the flow a sampler stops, by the number of network calls that it was given.

From the same noise every sampler approximates the same end: that of the probability flow of this denoiser, which
:func:`converged` finds with as many steps as it takes. The distance to it is an error per image, with no reference
images and little noise: it tells samplers apart with a few seeds, where a distance of distributions needs thousands.

After a jump to sigma_skip two errors add up: the jump's own, between the flow of the Gaussian and that of the network,
and the solver's on the rest of the way. Measured against the flow from the same noise, the error is of both; against
the flow from where the jump landed, of the solver alone.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import Denoiser, check_batch, check_count
from gausstools.models.gaussian import Gaussian
from gausstools.noise import karras_sigmas
from gausstools.samplers import gaussian_history, heun

__all__ = ["Converged", "SolverError", "converged", "solver_errors", "steps_for"]

TWICE = ("heun",)
"""Samplers that ask twice a step, but once for a last step to 0; the others ask once."""


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

    x: Float[Tensor, "batch *event"]
    steps: int
    error: float


@dataclass(frozen=True)
class SolverError:
    """One measurement: a sampler, given so many network calls, with or without a jump.

    Args:
        solver: its name.
        nfe: network calls an image.
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
    x: Float[Tensor, "batch *event"],
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
        ValueError: if tolerance is not above 0, or most_steps is below 32.

    >>> import gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> end = converged(prior, 80 * torch.ones(1, 2), 80.0, tolerance=1e-4)
    >>> bool((end.x - prior.flow(80 * torch.ones(1, 2), 80.0, 0.0)).abs().max() < 1e-4)
    True
    """
    check_batch(x)
    if not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance is {tolerance}, expected a number > 0")
    check_count(most_steps, "most_steps", 32)
    steps, before, change = 16, None, math.inf
    while change > tolerance and (before is None or 2 * steps <= most_steps):
        steps = steps if before is None else 2 * steps
        *_, last = heun(denoiser, x, karras_sigmas(steps, sigma_min, sigma_max))
        change = math.inf if before is None else (last.x - before).square().mean().sqrt().item()
        before = last.x
    return Converged(before, steps, change)


def steps_for(solver: str, nfe: int) -> int:
    """Return how many steps, the last to 0, a sampler can take with so many network calls.

    >>> steps_for("heun", 35), steps_for("dpmpp", 35)
    (18, 35)
    """
    check_count(nfe, "nfe", 1)
    return (nfe + 1) // 2 if solver in TWICE else nfe


def solver_errors(
    denoiser: Denoiser,
    x: Float[Tensor, "batch *event"],
    reference: Float[Tensor, "batch *event"],
    solvers: Mapping[str, Callable],
    nfes: Iterable[int],
    *,
    sigma_max: float = 80.0,
    sigma_min: float = 0.002,
    sigma_skips: Iterable[float | None] = (None,),
    gaussian: Gaussian | None = None,
    grid: Callable = karras_sigmas,
    watch: Callable = iter,
) -> list[SolverError]:
    """Measure how far from ``reference`` samplers end, each with as many network calls as it is given.

    After a jump all the calls are spent below sigma_skip, on a grid of its own, and multistep methods are given the
    history that the jump passed.

    Args:
        denoiser: any denoiser.
        x: ``(batch, *event)``, the state at sigma_max.
        reference: ``(batch, *event)``, where the flow from ``x`` ends, such as ``converged(denoiser, x).x``.
        solvers: samplers by name, each called as ``solver(denoiser, x, sigmas)``, such as ``functools.partial`` of one
            with its order. One that has the keyword ``gaussian`` is given it, another one that has ``history`` is given
            that. A name of ``TWICE`` counts two calls a step.
        nfes: network calls, each >= 1.
        sigma_max, sigma_min: the first noise level and the last above 0.
        sigma_skips: noise levels to jump to; None is no jump.
        gaussian: whose flow the jumps follow.
        grid: of noise levels, ``grid(n, sigma_min, sigma_max)``.
        watch: wraps the list of what is to be measured: tqdm, to show progress.

    Returns:
        For each solver, jump and number of calls, in this order. An even number of calls that Heun's method cannot use
        up is counted as the odd one that it can.

    Raises:
        ValueError: for a jump without a Gaussian.

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
    plan = [(name, skip, nfe) for name in solvers for skip in sigma_skips for nfe in nfes]
    if gaussian is None and any(skip is not None for _, skip, _ in plan):
        raise ValueError("sigma_skips has a jump, but gaussian is None; give the Gaussian whose flow it follows")
    rows = []
    for name, skip, nfe in watch(plan):
        steps = steps_for(name, nfe)
        accepted = inspect.signature(solvers[name]).parameters
        options = {"gaussian": gaussian} if "gaussian" in accepted else {}
        start, sigmas = x, grid(steps, sigma_min, sigma_max if skip is None else skip)
        if skip is not None:
            start = gaussian.flow(x, sigma_max, skip)
            # A sampler that is told the Gaussian knows what the jump passed.
            if "history" in accepted and not options and skip < sigma_max:
                options["history"] = gaussian_history(gaussian, start, _above(sigmas, sigma_max))
        *_, last = solvers[name](denoiser, start, sigmas, **options)
        off = (last.x - reference).flatten(1).square().mean(1).sqrt()
        used = 2 * steps - 1 if name in TWICE else steps
        error = off.std(correction=1).item() / len(off) ** 0.5 if len(off) > 1 else math.nan
        rows.append(SolverError(name, used, skip, off.mean().item(), error))
    return rows


def _above(sigmas: Tensor, sigma_max: float) -> Tensor:
    """Return up to three levels above a grid, spaced by the ratio of its first two up to sigma_max, then its first."""
    ratio = float(sigmas[0] / sigmas[1]) if len(sigmas) > 2 else 2.0
    levels = {min(float(sigmas[0]) * ratio**k, sigma_max) for k in (1, 2, 3)}
    return torch.tensor([*sorted(levels, reverse=True), float(sigmas[0])], dtype=torch.float64)
