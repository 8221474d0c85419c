"""What is measured: questions to models of 3072 dimensions (CIFAR-10) for a batch of 64, and fits to 50,000 images.

The data are random, with the power-law spectrum of natural images, so that no file is needed. No time depends on more.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import written_out
from benchmarks.measure import LargestTensor, Machine, Timing, apart, can_tell_memory, clock, extra_memory, typical
from gausstools import Gaussian, Mixture, PointCloud
from gausstools.models.eigen import eigenpairs

BATCH, DIM, IMAGES = 64, 3072, 50_000
SIGMA = 1.0
PLACE = 2**28  # entries of the differences that the written-out point cloud holds at once: 1 GB


class Row(NamedTuple):
    """One question: its time, the floor below it, and the straightforward form; seconds. None where nothing is."""

    question: str
    taken: float
    floor: float | None = None
    times_floor: float | None = None
    allowed: float | None = None
    speedup: float | None = None  # over the straightforward form
    required: float | None = None


class Bound(NamedTuple):
    """A quantity other than time, and what it may be at most."""

    quantity: str
    value: float
    limit: float
    unit: str


def images(count: int) -> Tensor:
    """Return random rows of which the k-th variance is proportional to ``k^-1.5``, mean square 1/4 per entry."""
    generator = torch.Generator().manual_seed(0)
    variances = torch.arange(1.0, DIM + 1) ** -1.5
    rows = torch.randn(count, DIM, generator=generator).mul_((variances / variances.mean() / 4).sqrt())
    normal = torch.randn(DIM, generator=generator)
    return rows.addr_(rows @ normal, normal, alpha=-2 / float(normal @ normal))  # reflected: off the axes


def gaussian(dim: int, rank: int, seed: int = 0) -> Gaussian:
    """Return a Gaussian with a power-law spectrum, along the columns of a random reflection."""
    generator = torch.Generator().manual_seed(seed)
    mean, normal = torch.randn(2, dim, generator=generator)
    basis = torch.eye(dim, rank).addr_(normal, normal[:rank], alpha=-2 / float(normal @ normal))
    return Gaussian(0.1 * mean, torch.arange(1.0, rank + 1) ** -1.5 * dim / 10, basis, tail=1e-3)


def batch(dim: int = DIM) -> Tensor:
    """Return noised points to ask about."""
    return 2 * torch.randn(BATCH, dim, generator=torch.Generator().manual_seed(1))


def of_gaussian(machine: Machine) -> Iterator[Row]:
    """Denoiser, score and flow at full rank."""
    model, x = gaussian(DIM, DIM), batch()
    mean, covariance, product = model.mean, model.covariance, 2 * BATCH * DIM * DIM
    for name, ask, plain in (
        ("denoise", model, written_out.gaussian_denoise),
        ("score", model.score, written_out.gaussian_score),
    ):
        timing = machine.compare(lambda ask=ask: ask(x, SIGMA), 2 * product)
        slow = typical(lambda plain=plain: plain(mean, covariance, x, SIGMA))
        yield Row(f"Gaussian, {name}", *timing, 1.5, slow / timing.taken, 50)
    levels = torch.logspace(1.9, -2.7, 20)
    timing = machine.compare(lambda: model.flow(x, 80.0, levels[:, None]), (1 + len(levels)) * product)
    slow = clock(lambda: written_out.gaussian_flow(mean, covariance, x, 80.0, levels))
    yield Row("Gaussian, flow to 20 noise levels", *timing, 1.5, slow / timing.taken)


def of_cloud(machine: Machine, data: Tensor) -> Iterator[Row]:
    """The denoiser of two training sets, every row of the batch at its own noise level."""
    x, sigma = batch(), torch.logspace(-2.7, 1.9, BATCH)
    for count in (10_000, len(data)):
        timing = _cloud(machine, data[:count])
        few = max(1, PLACE // (count * DIM))
        seconds = typical(lambda few=few, count=count: written_out.cloud_denoise(data[:count], x[:few], sigma[:few]), 2)
        speedup = seconds * BATCH / few / timing.taken
        yield Row(f"point cloud of {count:,}, denoise", *timing, 2.0, speedup, 50)


def of_mixtures(machine: Machine) -> Iterator[Row | Bound]:
    """The denoiser of a small and a large mixture, and the largest tensor on the way."""
    x = batch()
    for count, rank in ((10, 64), (100, 256)):
        mixture = Mixture(torch.full((count,), 1 / count), [gaussian(DIM, rank, seed) for seed in range(count)])
        timing = machine.compare(lambda mixture=mixture: mixture(x, SIGMA), 4 * BATCH * count * DIM * rank)
        slow = typical(lambda mixture=mixture: written_out.mixture_denoise(mixture, x, SIGMA))
        yield Row(f"mixture of {count}, rank {rank}, denoise", *timing, 2.0, slow / timing.taken)
        with LargestTensor() as largest:
            mixture(x, SIGMA)
        name = f"largest tensor in a call of the mixture of {count}, rank {rank}; limit: (batch, K, D)"
        yield Bound(name, largest.entries, BATCH * count * DIM, "entries")


def of_memory() -> Iterator[Bound]:
    """What a call of a point cloud needs beside the points, where the system can tell."""
    if not can_tell_memory():
        return
    for count in (10_000, IMAGES):
        grown = apart(_memory_of_cloud, count)
        yield Bound(f"extra memory of a call, point cloud of {count:,}", grown / 1e6, 256, "MB")


def of_fit(data: Tensor) -> Iterator[Row | Bound]:
    """A fit to all images, and the leading eigenpairs alone. The parts of the floor are timed beside it, once."""
    parts = {}
    for dtype in (torch.float64, torch.float32):
        rows = data.to(dtype)
        covariance = rows.T @ rows / len(rows) if dtype == torch.float64 else covariance.to(dtype)
        parts[dtype] = clock(lambda rows=rows: rows.T @ rows)
        del rows
        if dtype == torch.float64:
            values, whole = _timed(lambda matrix=covariance: torch.linalg.eigh(matrix)[0].flip(0))
            (leading, _), part = _timed(lambda matrix=covariance: eigenpairs(matrix, 256))
            parts[dtype] += whole
        else:
            parts[dtype] += clock(lambda matrix=covariance: torch.linalg.eigh(matrix))
    taken = clock(lambda: Gaussian.fit(data))
    for dtype, allowed in ((torch.float64, 1.5), (torch.float32, None)):
        name = f"fit, full rank, {len(data):,} images; floor in {str(dtype)[6:]}"
        yield Row(name, taken, parts[dtype], taken / parts[dtype], allowed)
    yield Row(f"256 leading eigenpairs of {DIM} × {DIM}, float64", part, speedup=whole / part, required=3)
    error = float(((leading - values[:256]) / values[:256]).abs().max())
    yield Bound("relative error of the 256 leading eigenvalues, at most", error, 1e-4, "")


def growth(machine: Machine, data: Tensor) -> tuple[dict[int, Timing], dict[int, Timing]]:
    """Return the time of a point cloud by its size, and of a Gaussian at full rank by its dimensions."""
    clouds = {count: _cloud(machine, data[:count], 3) for count in (1_000, 2_000, 5_000, 10_000, 20_000, len(data))}
    gaussians = {}
    for dim in (192, 384, 768, 1536, 3072, 6144):
        model, x = gaussian(dim, dim), batch(dim)
        gaussians[dim] = machine.compare(lambda model=model, x=x: model(x, SIGMA), 4 * BATCH * dim * dim, 3)
    return clouds, gaussians


def _cloud(machine: Machine, data: Tensor, repeats: int = 7) -> Timing:
    cloud, x, sigma = PointCloud(data), batch(), torch.logspace(-2.7, 1.9, BATCH)
    return machine.compare(lambda: cloud(x, sigma), 4 * BATCH * data.numel(), repeats)


def _memory_of_cloud(count: int) -> int:
    cloud, x = PointCloud(images(count)), batch()
    return extra_memory(lambda: cloud(x, SIGMA))


def _timed(question):
    answers = []
    seconds = clock(lambda: answers.append(question()))
    return answers[0], seconds
