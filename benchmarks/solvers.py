"""The errors of all samplers on a shipped network, as data/NAME-solvers.csv: `python -m benchmarks.solvers NAME`.

"mixture" takes the exact denoiser of a mixture in place of a network: 40 Gaussians, fitted by k-means to the 120
leading components of CIFAR-10's training images, which it needs for that (see `gausstools.datasets.load`).

First every sampler takes every grid and jump, from a few starting points. Then, from many others, each takes what was
best for it, without a jump and with one, so that the choice does not flatter the result. A row is written as soon as it
is measured, and a run that was stopped goes on.
"""

import argparse
import csv
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path

import torch
from tqdm import tqdm

import gausstools as gt
from gausstools.convergence import SolverError, solver_errors
from gausstools.noise import seeded_noise
from gausstools.samplers import declared

SKIPS = (None, 20.0, 10.0)
NFES = (5, 6, 8, 10, 15, 20)
TRIAL = 16  # starting points by which grids are chosen; those of the result follow them
REFERENCE = 128  # steps of Heun's method behind the reference
BATCH = 64
STATISTICS = 64  # samples of the network from which the statistics of DPM-Solver-v3 are estimated, at 32 levels
CACHE = Path(__file__).parents[1] / ".cache"
MIXTURE = "mixture"
COLUMNS = ["solver", "grid", "sigma_skip", "nfe", "rmse", "stderr", "seeds"]


GRIDS = {"karras 0.002": gt.karras_sigmas}
GRIDS |= {f"log {low:g}": partial(gt.log_uniform_sigmas, sigma_min=low) for low in (0.01, 0.03, 0.1)}
SOLVERS = {
    "euler": gt.samplers.euler,
    "heun": gt.samplers.heun,
    "dpmpp 3": partial(gt.samplers.dpmpp, order=3),
    "unipc 3": partial(gt.samplers.unipc, order=3),
    "ipndm 4": partial(gt.samplers.ipndm, order=4),
    "dpm v3 3": partial(gt.samplers.dpm_v3, order=3, corrector=True, pseudo=True),
    "gaussian exponential 3": partial(gt.samplers.gaussian_exponential, order=3, corrector=True),
}


def _mixture() -> gt.Mixture:
    file = CACHE / f"{MIXTURE}.safetensors"
    if not file.exists():
        images, statistics = gt.datasets.load("cifar10").images, gt.shipped.statistics("cifar10")
        coordinates = (images - statistics.mean).flatten(1) @ statistics.basis[:, :120]
        gt.Mixture.fit(coordinates, n_components=40, method="kmeans").save(file)
    return gt.Mixture.load(file)


class Bench:
    """A denoiser, its Gaussian, and where its flow ends from some starting points."""

    def __init__(self, name: str, numbers: range):
        self.name = name
        if name == MIXTURE:
            self.network = _mixture()
            self.gaussian = self.network.to_gaussian()
        else:
            self.network, self.gaussian = gt.pretrained.load(name), gt.shipped.statistics(name)
        self.parts = (80 * seeded_noise(0, numbers, self.network.event_shape)).split(BATCH)
        self.ends = [self._end(part) for part in tqdm(self.parts, desc=f"{name}: reference")]

    def _end(self, noise: torch.Tensor) -> torch.Tensor:
        *_, last = gt.samplers.heun(self.network, noise, gt.karras_sigmas(REFERENCE))
        return last.x

    @cached_property
    def statistics(self) -> gt.samplers.ModelStatistics:
        """What DPM-Solver-v3 is told about the network: from its own samples, of noise that no starting point has."""
        file = CACHE / f"{self.name}-dpm-v3.safetensors"
        if not file.exists():
            noise = 80 * seeded_noise(1, range(STATISTICS), self.network.event_shape)
            *_, samples = gt.samplers.heun(self.network, noise, gt.karras_sigmas(18))
            levels = gt.log_uniform_sigmas(32)[:-1]
            watch = partial(tqdm, desc=f"{self.name}: statistics")
            gt.samplers.ModelStatistics.fit(self.network, samples.x, levels, seed=2, watch=watch).save(file)
        return gt.samplers.ModelStatistics.load(file)

    def sampler(self, solver: str) -> Callable:
        """Return a solver, told the statistics if it takes them."""
        takes = "statistics" in declared(SOLVERS[solver]).takes
        return partial(SOLVERS[solver], statistics=self.statistics) if takes else SOLVERS[solver]

    def error(self, solver: str, grid: str, skip: float | None, nfe: int) -> SolverError:
        """Measure one combination, over all starting points."""
        rows = [
            row
            for noise, end in zip(self.parts, self.ends, strict=True)
            for row in solver_errors(
                self.network,
                noise,
                end,
                {solver: self.sampler(solver)},
                [nfe],
                sigma_skips=[skip],
                gaussian=self.gaussian,
                grid=GRIDS[grid],
            )
        ]
        counts = torch.tensor([float(len(part)) for part in self.parts])
        means, errors = (torch.tensor([getattr(row, key) for row in rows]) for key in ("rmse", "stderr"))
        mean, total = (counts * means).sum() / counts.sum(), counts.sum()
        squares = errors**2 * counts * (counts - 1) + counts * (means - mean) ** 2
        return SolverError(solver, rows[0].nfe, skip, mean.item(), (squares.sum() / (total - 1) / total).sqrt().item())


def combinations() -> Iterator[tuple[str, str, float | None, int]]:
    """What is tried, with calls that a grid to 0 can use up: Euler's and Heun's methods on the Karras grid alone."""
    for nfe in NFES:
        for solver in SOLVERS:
            for grid in GRIDS if solver not in ("euler", "heun") else list(GRIDS)[:1]:
                for skip in SKIPS:
                    if (nfe - 1) % declared(SOLVERS[solver]).calls_a_step == 0:
                        yield solver, grid, skip, nfe


def measure(name: str, numbers: range, plan: list[tuple], out: Path) -> list[dict]:
    """Measure a plan into a table, from where the table ends."""
    if not out.exists():
        out.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    with out.open(encoding="utf-8", newline="") as file:
        done = {(row["solver"], row["grid"], float(row["sigma_skip"]), int(row["nfe"])) for row in csv.DictReader(file)}
    left = [(s, g, skip, n) for s, g, skip, n in plan if (s, g, skip or 80.0, n) not in done]
    if left:
        bench = Bench(name, numbers)
        with out.open("a", encoding="utf-8", newline="") as file:
            for solver, grid, skip, nfe in tqdm(left, desc=f"{name}: {len(numbers)} starting points"):
                row = bench.error(solver, grid, skip, nfe)
                values = [solver, grid, skip or 80.0, row.nfe, f"{row.rmse:.6f}", f"{row.stderr:.6f}", len(numbers)]
                csv.writer(file, lineterminator="\n").writerow(values)
                file.flush()
    with out.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    """Measure, or go on."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=[*gt.shipped.names("network"), MIXTURE])
    parser.add_argument("--seeds", type=int, default=256, help="starting points of the result")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    CACHE.mkdir(exist_ok=True)
    trial = CACHE / f"{arguments.name}-solvers-trial.csv"
    tried = measure(arguments.name, range(TRIAL), list(combinations()), trial)
    best: dict[tuple, dict] = {}
    for row in sorted(tried, key=lambda row: float(row["rmse"])):
        best.setdefault((row["solver"], float(row["sigma_skip"]) == 80.0, int(row["nfe"])), row)
    plan = [
        (solver, row["grid"], None if whole else float(row["sigma_skip"]), nfe)
        for (solver, whole, nfe), row in sorted(best.items(), key=lambda item: item[0][2])
    ]
    numbers = range(TRIAL, TRIAL + arguments.seeds)
    measure(arguments.name, numbers, plan, CACHE.parent / "data" / f"{arguments.name}-solvers.csv")


if __name__ == "__main__":
    main()
