"""``python -m gausstools train``: train a denoiser on a data set, resumable, with its residual table and its card."""

import hashlib
import json
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor
from tqdm import tqdm

import gausstools as gt
from gausstools.commands import processes
from gausstools.commands.options import grouped
from gausstools.denoiser import Denoiser, Sigma
from gausstools.models import files
from gausstools.networks import EDM, UNet
from gausstools.training import SIGMAS, Recipe, Trainer, residual_rows

__all__ = ["train"]

SHAPES = {
    "digits": {"widths": (32, 64), "fold": 1, "groups": 16},
    "mnist": {"widths": (48, 96), "fold": 2, "groups": 16},
    "cifar10": {"widths": (64, 128, 128), "fold": 2, "groups": 32},
}
"""The network for each data set: small enough that a laptop's processor trains it in hours."""


@dataclass(frozen=True)
class Network:
    """The size of the network."""

    widths: Annotated[str | None, typer.Option(help="channels at each resolution, e.g. 64,128,128")] = None
    layers: Annotated[int, typer.Option(min=1, help="residual blocks at each resolution")] = 2

    def build(self, dataset: str, event_shape: torch.Size) -> UNet:
        """Return the network for the images of a data set, with random weights."""
        shape = SHAPES[dataset] | ({"widths": _numbers(self.widths)} if self.widths else {})
        return UNet(tuple(event_shape), layers=self.layers, **shape)


@dataclass(frozen=True)
class Steps:
    """How the network is trained."""

    batch_size: Annotated[int, typer.Option(help="images in a step, over all processes")] = Recipe.batch_size
    learning_rate: Annotated[float, typer.Option(help="of Adam")] = Recipe.learning_rate
    seed: Annotated[int, typer.Option(help="of everything random")] = Recipe.seed


@dataclass(frozen=True)
class Residuals:
    """What is recorded of the network along its training."""

    models: Annotated[
        str,
        typer.Option(
            help="whose residuals to record: mean, isotropic, gaussian, mixture-K, mixture-KxRANK, cloud; '' for none"
        ),
    ] = "mean,isotropic,gaussian,mixture-10,cloud"
    points: Annotated[int, typer.Option(min=1, help="noised images for each residual")] = 512
    residuals_on: Annotated[
        Path | None,
        typer.Option(help=".npy with indices of the training images to noise for residuals; all if not given"),
    ] = None


@grouped
def train(
    dataset: Annotated[str, typer.Argument(help=f"one of {', '.join(SHAPES)}")],
    out: Annotated[Path, typer.Option(help="folder of the run; a run that stands there goes on")],
    images: Annotated[int, typer.Option(min=0, help="stop once so many have been seen")] = 1_000_000,
    minutes: Annotated[float | None, typer.Option(min=0, help="stop after this time; run again to go on")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cuda" if torch.cuda.is_available() else "cpu",
    data_dir: Annotated[Path | None, typer.Option(help="folder with the data set's files")] = None,
    *,
    steps: Steps,
    network: Network,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16; by the machine if not given")] = None,
    residuals: Residuals,
    note: Annotated[str, typer.Option(help="a sentence for the card, on what the images were")] = "",
) -> None:
    """Train an EDM denoiser on a data set, or go on where the run in --out stopped.

    Everything random follows from the seed and the step, so a run that was killed ends in the same weights. Under
    accelerate launch each process takes its share of every batch.
    """
    team = processes.join(device)
    device = team.device
    if dataset not in SHAPES:
        raise typer.BadParameter(f"{dataset!r} is not known, expected one of {', '.join(SHAPES)}")
    recipe = Recipe(**asdict(steps))
    half_precision = _half_precision(precision, device)
    sets = {split: gt.datasets.load(dataset, split, data_dir).images for split in ("train", "test")}
    data = sets["train"]
    indices = None if residuals.residuals_on is None else _indices(residuals.residuals_on, len(data))
    torch.manual_seed(recipe.seed)
    # What tensor cores multiply fastest; on a processor the usual order is faster.
    order = torch.channels_last if device.startswith("cuda") else torch.contiguous_format
    denoiser = EDM(network.build(dataset, data.shape[1:]), data.shape[1:]).to(device, memory_format=order)
    trainer = Trainer(
        denoiser,
        data,
        out,
        recipe,
        half_precision=half_precision,
        compared={
            "models": sorted(residuals.models.split(",")),
            "points": residuals.points,
            "residuals on": "all" if indices is None else indices,
            "test images": sets["test"],
        },
        processes=team.count,
        process=team.number,
        parallel=team.parallel,
    )
    question = None
    if residuals.models and team.first:
        judged = sets if indices is None else sets | {"train": data[indices]}
        question = _question(_models(residuals.models, data, out), judged, residuals.points, device)
    bar = tqdm(total=images, initial=trainer.images_seen, unit=" images", disable=not team.first, file=sys.stderr)
    average = None
    with bar:
        for loss in trainer.run(
            images,
            seconds=None if minutes is None else 60 * minutes,
            evaluate_at=dict.fromkeys(_marks(images), question) if question else None,
        ):
            average = loss if average is None else average + 0.02 * (loss - average)
            bar.update(recipe.batch_size)
            bar.set_postfix(loss=f"{average:.4f}", refresh=False)
    if team.first:
        files.write_bytes(out / "README.md", card(dataset, data, trainer, note).encode())
        print(f"{out}: {trainer.images_seen:,} images seen in {trainer.progress.seconds / 60:.0f} minutes")


def card(dataset: str, data: Tensor, trainer: Trainer, note: str = "") -> str:
    """Return the model card of a run, in Markdown."""
    recipe, progress = trainer.recipe, trainer.progress
    weights = trainer.folder / "network.safetensors"
    shape = tuple(data.shape[1:])
    parameters = sum(value.numel() for value in trainer.averaged.parameters()) / 1e6
    loss = f", {progress.losses[-1]['loss']:.4f} at the end" if progress.losses else ""
    entries = {
        "Load": f'`gausstools.networks.EDM.load("{weights.name}")` gives the denoiser `D(x, sigma)` for images {shape} '
        "in [-1, 1], σ from 0.002 to 80.",
        "Trained on": f'the {len(data):,} images of `gausstools.datasets.load("{dataset}", "train")` (mean '
        f"{float(data.mean()):.5f}, standard deviation {float(data.std()):.5f}), none mirrored or altered. {note}",
        "Network": f"EDM's preconditioning (σ_d = {trainer.denoiser.sigma_data}) around diffusers' UNet2DModel with "
        f"{parameters:.2f} million parameters: `{json.dumps(trainer.denoiser.network.config)}`.",
        "Training": f"{progress.step:,} steps of {recipe.batch_size}, so {trainer.images_seen:,} images, each "
        f"{trainer.images_seen / len(data):.1f} times. EDM's loss{loss}. Adam, learning rate {recipe.learning_rate:g} "
        f"after {recipe.warmup:,} images; ln σ ~ N({recipe.log_sigma_mean}, {recipe.log_sigma_std}²); the weights are "
        f"a running average with a half-life of {100 * recipe.averaging:g} % of the images seen; seed {recipe.seed}.",
        "Cost": f"{progress.seconds / 60:.0f} minutes on {'; '.join(progress.machines)}.",
        "Weights": f"float16, {weights.stat().st_size / 1e6:.1f} MB, sha256 "
        f"`{hashlib.sha256(weights.read_bytes()).hexdigest()}`.",
        "Use": "for study. It draws what its training images show, and was judged by its residuals and by eye only.",
    }
    wrapped = (
        textwrap.fill(f"- **{name}**: {text.strip()}", 120, subsequent_indent="  ", break_long_words=False)
        for name, text in entries.items()
    )
    return f"# A denoiser for {dataset}\n\n" + "\n".join(wrapped) + "\n"


def _models(names: str, data: Tensor, folder: Path) -> dict[str, Denoiser]:
    fits = {
        "mean": lambda: gt.Gaussian.isotropic(data.mean(0), 0.0),
        "isotropic": lambda: gt.Gaussian.isotropic(data.mean(0), data.var(0, correction=0).mean()),
        "gaussian": lambda: gt.Gaussian.fit(data),
        "cloud": lambda: gt.PointCloud(data),
    }
    chosen = {name: fits.get(name) or _mixture(name, data, folder) for name in names.split(",")}
    for name, fit in chosen.items():
        if fit is None:
            raise typer.BadParameter(f"{name!r} is no model, expected {', '.join(fits)}, mixture-K or mixture-KxRANK")
    return {name: fit() for name, fit in chosen.items()}


def _mixture(name: str, data: Tensor, folder: Path) -> Callable[[], gt.Mixture] | None:
    """Return what fits the mixture of this name, if it is one: once, since it takes minutes, and then from its file."""
    match = re.fullmatch(r"mixture-(\d+)(?:x(\d+))?", name)
    if not match:
        return None

    def fit() -> gt.Mixture:
        file = folder / f"{name}-{hashlib.sha256(data.numpy()).hexdigest()[:8]}.safetensors"
        if not file.exists():
            count, rank = match.groups()
            gt.Mixture.fit(data, int(count), rank and int(rank), method="kmeans").save(file)
        return gt.Mixture.load(file)

    return fit


def _question(
    models: dict[str, Denoiser], sets: dict[str, Tensor], points: int, device: str
) -> Callable[[EDM], list[dict]]:
    answering = {name: _Cached(model.to(device)) for name, model in models.items()}
    placed = {name: images.to(device) for name, images in sets.items()}
    return lambda network: residual_rows(network, answering, placed, list(SIGMAS), points=points)


class _Cached:
    """A cache of a denoiser's answers: the models are asked about the same points at every mark of the training."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser, self.answers = denoiser, {}

    def __call__(self, x: Tensor, sigma: Sigma) -> Tensor:
        question = (hashlib.blake2b(x.cpu().numpy().tobytes()).digest(), float(sigma))
        if question not in self.answers:
            self.answers[question] = self.denoiser(x, sigma)
        return self.answers[question]


def _indices(path: Path, count: int) -> Tensor:
    try:
        indices = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{path} is no array of indices, expected what numpy.save writes: {error}") from error
    whole = isinstance(indices, np.ndarray) and indices.ndim == 1 and np.issubdtype(indices.dtype, np.integer)
    if not whole or indices.size == 0 or indices.min() < 0 or indices.max() >= count:
        raise ValueError(f"{path}: expected one row of whole numbers from 0 to {count - 1}, the images' indices")
    return torch.from_numpy(indices.astype(np.int64))


def _marks(images: int) -> list[int]:
    """0, and 1, 2 and 5 times the powers of ten, up to the end."""
    steps = [digit * 10**power for power in range(3, 12) for digit in (1, 2, 5)]
    return [0, *(mark for mark in steps if mark < images), images]


def _half_precision(precision: str | None, device: str) -> bool:
    if precision not in (None, "float32", "bfloat16"):
        raise typer.BadParameter(f"{precision!r} is not known, expected float32 or bfloat16")
    if precision is not None:
        return precision == "bfloat16"
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    return getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r}, expected whole numbers with commas between, such as 64,128,128") from None
