"""``python -m gausstools report``: one page about a model: how Gaussian it is, and what a jump saves."""

import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from tqdm import tqdm

import gausstools as gt
from gausstools.commands.options import check_least, check_writable, grouped
from gausstools.commands.processes import Processes
from gausstools.commands.stats import Reading, Watched, fit
from gausstools.convergence import SolverError, converged, solver_errors
from gausstools.denoiser import check_count
from gausstools.models import files
from gausstools.noise import seeded_noise
from gausstools.teleportation import choose_skip
from gausstools.training import SIGMAS, machine

__all__ = ["report"]

LOWEST = 0.002
"""Last noise level above 0 of the Karras grid."""

NFES = (6, 8, 10, 15, 20, 30)
"""Network calls with which each sampler is tried."""

GRIDS = {
    "Karras grid": lambda n, sigma_max: gt.karras_sigmas(n, min(LOWEST, sigma_max / 2), sigma_max),
    "ln σ grid": lambda n, sigma_max: gt.log_uniform_sigmas(n, min(0.05, sigma_max / 2), sigma_max),
}
"""On which it is tried, also below a jump that lands low; the better counts."""

SOLVERS = {
    "euler": gt.samplers.euler,
    "heun": gt.samplers.heun,
    "dpmpp": gt.samplers.dpmpp,
    "unipc": gt.samplers.unipc,
    "ipndm": gt.samplers.ipndm,
    "gaussian_exponential": partial(gt.samplers.gaussian_exponential, order=3, corrector=True),
}
"""The samplers, in their usual orders."""


@dataclass(frozen=True)
class Questions:
    """What is asked of a network, and how closely."""

    tolerance: Annotated[
        float, typer.Option(help="error that a jump may cause: root mean square per pixel, of a range of 2")
    ] = 0.02
    points: Annotated[int, typer.Option(help="noised images at each noise level")] = 256
    seeds: Annotated[int, typer.Option(help="images drawn by each sampler")] = 16
    steps: Annotated[int, typer.Option(help="of the Karras grid whose savings are told")] = 18
    sigma_max: Annotated[float, typer.Option(help="where sampling starts")] = 80.0
    seed: Annotated[int, typer.Option(help="of everything random")] = 0

    def __post_init__(self):
        check_least(2, points=self.points, seeds=self.seeds, steps=self.steps)
        check_count(self.seed, "seed", 0, 2**64 - 1)
        if not LOWEST < self.sigma_max < math.inf:
            raise ValueError(
                f"sigma-max is {self.sigma_max}, expected a finite noise level above {LOWEST}, where sampling ends"
            )
        if not 0 < self.tolerance < math.inf:
            raise ValueError(f"tolerance is {self.tolerance}, expected a finite number > 0: the change of a pixel")


@grouped
def report(
    model: Annotated[str, typer.Argument(help="a shipped network, a file, a folder of diffusers, or owner/name")],
    data: Annotated[str, typer.Option(help=f"one of {', '.join(gt.datasets.NAMES)}, or a folder of images")],
    out: Annotated[Path, typer.Option(help="page to write, .html")] = Path("report.html"),
    gaussian: Annotated[
        Path | None, typer.Option(help="statistics of the data, as `stats` writes them; computed if not given")
    ] = None,
    *,
    reading: Reading,
    questions: Questions,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Write a page about a model: spectrum, unexplained variance, where to jump and why, errors of the samplers.

    One self-contained HTML file. It takes a few minutes for a small network on a CPU; --points and --seeds make it
    shorter. Choose the tolerance to what your eye or your metric notices.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report("digits", "digits", Path(folder, "digits.html"), points=4, seeds=2, steps=4)
    jump to σ = ...: ... of 4 steps skipped, pixels moved by ... ± ..., tolerance 0.02
    written to ...digits.html
    """
    try:
        from gausstools.figures.page import Findings, page
    except ImportError as error:
        raise ImportError(f"the page has figures, but {error}: pip install 'gausstools[figures]'") from error

    begun = time.monotonic()
    check_writable(out)
    network = gt.pretrained.load(model, device=device)
    name, images, batches = reading.open(data, 256, Processes(device))
    event_shape, count = images.event_shape, len(images)
    if event_shape != network.event_shape:
        raise ValueError(
            f"{name} has images of shape {tuple(event_shape)}, but the network is for {tuple(network.event_shape)}; "
            "give the data that it was trained on, with --size if they are a folder of larger images"
        )
    if count < 2:
        raise ValueError(f"{name} has {count} image, expected at least 2: one has no spread")
    if gaussian is None:
        statistics = fit(Watched(batches, device, quiet=False), event_shape)
    else:
        statistics, count = gt.Gaussian.load(gaussian), None
        if statistics.event_shape != event_shape:
            raise ValueError(
                f"{gaussian} is of images of shape {tuple(statistics.event_shape)}, but those of {name} have "
                f"{tuple(event_shape)}; give the statistics of this data, or leave --gaussian out"
            )
    statistics = statistics.to(device, torch.float32)
    probe = _spread(batches, questions.points).to(device)
    with torch.no_grad():
        measured = _measure(network, statistics, probe, questions)
    findings = Findings(
        model=model,
        data=name,
        images=count,
        gaussian=statistics.cpu(),
        points=len(probe),
        seeds=questions.seeds,
        steps=questions.steps,
        seconds=time.monotonic() - begun,
        machine=machine(torch.device(device)),
        **measured,
    )
    files.write_bytes(out, page(findings).encode())
    if findings.misfit:
        print(f"warning: {findings.misfit}")
    print(
        f"jump to σ = {findings.skip.sigma:.3g}: {findings.steps_skipped} of {questions.steps} steps skipped, pixels "
        f"moved by {findings.jump_error[0]:.4f} ± {findings.jump_error[1]:.4f}, tolerance {questions.tolerance:g}"
    )
    print(f"written to {out}")


def _measure(network: gt.Denoiser, gaussian: gt.Gaussian, probe: Tensor, questions: Questions) -> dict:
    """Return what is measured of a network, by the names of the page's findings."""
    tolerance, seed, sigma_max = questions.tolerance, questions.seed, questions.sigma_max
    isotropic = gt.Gaussian.isotropic(gaussian.mean, gaussian.total_variance / gaussian.dim)
    levels = [sigma for sigma in SIGMAS if sigma <= sigma_max] or [sigma_max]
    grid = gt.karras_sigmas(questions.steps, sigma_max=sigma_max)
    compared = []
    for sigma in tqdm(levels, desc="unexplained variance", file=sys.stderr):
        models = {"isotropic": isotropic, "gaussian": gaussian}
        compared += gt.residuals(network, models, probe, [sigma], points=len(probe), seed=seed)
    skip = choose_skip(network, gaussian, grid[:-1], tolerance, seed=seed)
    noise = sigma_max * seeded_noise(seed, range(questions.seeds), gaussian.event_shape).to(probe.device)
    print("following the flow to its end", file=sys.stderr)
    close = min(max(tolerance / 10, 1e-3), 5e-3)
    reference = converged(network, noise, sigma_max, tolerance=close)
    jump = gt.teleport(gaussian, noise, grid, skip.sigma)
    jumped = reference
    if skip.sigma < sigma_max:
        jumped = converged(network, jump.x, skip.sigma, sigma_min=min(LOWEST, skip.sigma / 2), tolerance=close)
    off = (jumped.x - reference.x).flatten(1).square().mean(1).sqrt()
    best: dict[tuple, SolverError] = {}
    for name, levels_below in GRIDS.items():
        skips = [None] if skip.sigma == sigma_max else [None, skip.sigma]
        measured = solver_errors(
            network,
            noise,
            reference.x,
            SOLVERS,
            NFES,
            sigma_max=sigma_max,
            sigma_skips=skips,
            gaussian=gaussian,
            grid=levels_below,
        )
        total = len(SOLVERS) * len(skips) * len(NFES)
        for row in tqdm(measured, total=total, desc=f"samplers, {name}", file=sys.stderr):
            key = row.solver, row.sigma_skip, row.nfe
            best[key] = min(best.get(key, row), row, key=lambda row: row.rmse)
    return {
        "residuals": compared,
        "skip": skip,
        "jump_error": (off.mean().item(), off.std().item() / len(off) ** 0.5),
        "reference_error": max(reference.error, jumped.error),
        "errors": list(best.values()),
        "steps_skipped": jump.steps_skipped,
        "nfe_saved_heun": jump.nfe_saved_heun,
        "samples": torch.stack([reference.x, jumped.x, gaussian.flow(noise, sigma_max, 0.0)]).cpu(),
    }


def _spread(batches: Iterable[Tensor], count: int) -> Tensor:
    """Return up to so many images, spread over all of the data."""
    if isinstance(batches, gt.datasets.ImageFolder):
        shares = max(1, len(batches) // count)
        return torch.cat(list(batches.shard(0, shares)))[:count]
    images = torch.cat(list(batches))
    return images[:: max(1, len(images) // count)][:count]
