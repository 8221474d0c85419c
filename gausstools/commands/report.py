"""``python -m gausstools report``: one page about a model: how Gaussian it is, and what a jump saves."""

import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from tqdm import tqdm

import gausstools as gt
from gausstools.commands.options import check_images, check_writable, grouped
from gausstools.commands.processes import Processes, check_device
from gausstools.commands.stats import Reading, every, fit
from gausstools.convergence import SolverError, converged, solver_errors
from gausstools.denoiser import check_count
from gausstools.figures.page import Findings, page
from gausstools.models import files
from gausstools.noise import seeded_noise
from gausstools.training import SIGMAS, machine

__all__ = ["report"]

LOWEST, HIGHEST = 0.002, 80.0
"""Last noise level above 0 of the Karras grid, and the first."""

NFES = (6, 8, 10, 15, 20, 30)
"""Network calls with which each sampler is tried."""

GRIDS = {
    "Karras grid": lambda n, sigma_max: gt.karras_sigmas(n, min(LOWEST, sigma_max / 2), sigma_max),
    "ln σ grid": lambda n, sigma_max: gt.log_uniform_sigmas(n, min(0.05, sigma_max / 2), sigma_max),
}
"""On which it is tried, also below a jump that lands low; the better counts."""

SOLVERS = {name: getattr(gt.samplers, name) for name in ("euler", "heun", "dpmpp", "unipc", "ipndm")}
SOLVERS["gaussian_exponential"] = partial(gt.samplers.gaussian_exponential, order=3, corrector=True)
"""The samplers, in their usual orders."""


@dataclass(frozen=True)
class Questions:
    """What is asked of a network, and how closely."""

    tolerance: Annotated[float, typer.Option(help="RMS error of a pixel, of a range of 2, by a jump")] = 0.02
    points: Annotated[int, typer.Option(help="noised images at each noise level")] = 256
    seeds: Annotated[int, typer.Option(help="images drawn by each sampler")] = 16
    steps: Annotated[int, typer.Option(help="of the Karras grid whose savings are told")] = 18

    def __post_init__(self):
        for name in ("points", "seeds", "steps"):
            check_count(getattr(self, name), name, 2)


@grouped
def report(
    model: Annotated[str, typer.Argument(help="a shipped network, a file, a folder of diffusers, or owner/name")],
    data: Annotated[str, typer.Option(help=f"one of {', '.join(gt.datasets.NAMES)}, or a folder of images")],
    out: Annotated[Path, typer.Option(help="page to write, .html")] = Path("report.html"),
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
    check_device(device)
    begun = time.monotonic()
    check_writable(out)
    network = gt.pretrained.load(model, device=device)
    name, images = reading.open(data)
    check_images(name, images.event_shape, network.event_shape)
    fitted = fit(images, Processes(device)).to(device, torch.float32)
    probe = torch.cat(list(every(images, max(1, len(images) // questions.points))))[: questions.points]
    measured = _measure(network, fitted, probe.to(device), questions)
    findings = Findings(
        model=model,
        data=name,
        images=len(images),
        gaussian=fitted.cpu(),
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
    noise = HIGHEST * seeded_noise(0, range(questions.seeds), gaussian.event_shape).to(probe.device)
    grid = gt.karras_sigmas(questions.steps, LOWEST, HIGHEST)
    skip = gt.choose_skip(network, gaussian, grid[:-1], questions.tolerance)
    jump = gt.teleport(gaussian, noise, grid, skip.sigma)
    models = {"isotropic": gt.Gaussian.isotropic(gaussian.mean, gaussian.total_variance / gaussian.dim)}
    models["gaussian"] = gaussian
    compared = []
    for sigma in tqdm(SIGMAS, desc="unexplained variance", file=sys.stderr):
        compared += gt.residuals(network, models, probe, [sigma], points=len(probe))
    print("following the flow to its end", file=sys.stderr)
    close = min(max(questions.tolerance / 10, 1e-3), 5e-3)
    reference = jumped = converged(network, noise, HIGHEST, tolerance=close)
    if jump.steps_skipped:
        jumped = converged(network, jump.x, skip.sigma, sigma_min=min(LOWEST, skip.sigma / 2), tolerance=close)
    off = (jumped.x - reference.x).flatten(1).square().mean(1).sqrt()
    best: dict[tuple, SolverError] = {}
    options = {"sigma_skips": [None, skip.sigma] if jump.steps_skipped else [None], "gaussian": gaussian}
    total = len(SOLVERS) * len(options["sigma_skips"]) * len(NFES)
    for name, levels in GRIDS.items():
        measured = solver_errors(network, noise, reference.x, SOLVERS, NFES, grid=levels, **options)
        for row in tqdm(measured, total=total, desc=f"samplers, {name}", file=sys.stderr):
            key = row.solver, row.sigma_skip, row.nfe
            best[key] = min(best.get(key, row), row, key=lambda row: row.rmse)
    return {
        "residuals": compared,
        "points": len(probe),
        "skip": skip,
        "jump_error": (off.mean().item(), off.std().item() / len(off) ** 0.5),
        "reference_error": max(reference.error, jumped.error),
        "errors": list(best.values()),
        "steps_skipped": jump.steps_skipped,
        "nfe_saved_heun": jump.nfe_saved_heun,
        "samples": torch.stack([reference.x, jumped.x, gaussian.flow(noise, HIGHEST, 0.0)]).cpu(),
    }
