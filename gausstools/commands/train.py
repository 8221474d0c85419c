"""``python -m gausstools train``: train a denoiser on a data set, resumable, with its residual table and its card."""

import hashlib
import json
import re
import sys
import textwrap
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
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
from gausstools.denoiser import Denoiser, Sigma, check_choice
from gausstools.models import files
from gausstools.networks import EDM, UNet
from gausstools.training import RECIPES, SIGMAS, Recipe, Trainer, residual_rows

__all__ = ["train"]

SHAPES = {
    "digits": {"widths": (32, 64), "fold": 1, "groups": 16},
    "mnist": {"widths": (48, 96), "fold": 2, "groups": 16},
    "cifar10": {"widths": (64, 128, 128), "fold": 2, "groups": 32},
}
"""The network for each data set: small enough that a laptop's processor trains it in hours."""

MODELS = re.compile(r"mean|isotropic|gaussian|cloud|mixture-(\d+)(?:x(\d+))?")
KNOWN = "mean, isotropic, gaussian, cloud, mixture-K or mixture-KxRANK"
"""The models whose residuals can be recorded."""


@dataclass(frozen=True)
class Steps:
    """How the network is trained."""

    recipe: Annotated[str, typer.Option(help=f"{' or '.join(RECIPES)}; what is given here changes it")] = "short"
    batch_size: Annotated[int | None, typer.Option(help="images in a step, over all processes")] = None
    learning_rate: Annotated[float | None, typer.Option(help="of Adam")] = None
    warmup: Annotated[int | None, typer.Option(help="images over which the learning rate rises")] = None
    log_sigma_mean: Annotated[float | None, typer.Option(help="of the normal law of ln σ")] = None
    log_sigma_std: Annotated[float | None, typer.Option(help="of the normal law of ln σ")] = None
    high_noise: Annotated[float | None, typer.Option(help="fraction of σ drawn uniform in ln σ, 5 to 80")] = None
    averaging: Annotated[float | None, typer.Option(help="half-life of the average, of the images seen")] = None
    mirror: Annotated[bool | None, typer.Option(help="mirror every other image, by chance")] = None
    seed: Annotated[int | None, typer.Option(help="of everything random")] = None

    def build(self) -> Recipe:
        """Return the recipe."""
        check_choice(self.recipe, "recipe", *RECIPES)
        given = {name: value for name, value in asdict(self).items() if name != "recipe" and value is not None}
        return replace(RECIPES[self.recipe], **given)


@grouped
def train(
    dataset: Annotated[str, typer.Argument(help=f"one of {', '.join(SHAPES)}")],
    out: Annotated[Path, typer.Option(help="folder of the run; a run that stands there goes on")],
    images: Annotated[int, typer.Option(min=0, help="stop once so many have been seen")] = 1_000_000,
    minutes: Annotated[float, typer.Option(min=0, help="stop after this time; run again to go on")] = float("inf"),
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cuda" if torch.cuda.is_available() else "cpu",
    data_dir: Annotated[Path | None, typer.Option(help="folder with the data set's files")] = None,
    *,
    steps: Steps,
    widths: Annotated[str, typer.Option(help="channels at each resolution, e.g. 64,128,128")] = "",
    layers: Annotated[int, typer.Option(min=1, help="residual blocks at each resolution")] = 2,
    gaussian: Annotated[str, typer.Option(help="start from a Gaussian: 'fit' to the images, or its file")] = "",
    surrogate: Annotated[bool, typer.Option("--surrogate", help="train on samples of the images' Gaussian")] = False,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16, to compute in where it is safe")] = "float32",
    compile: Annotated[bool, typer.Option("--compile", help="compile the network, in bfloat16: for long runs")] = False,
    keep: Annotated[str, typer.Option(help="images seen at which to keep the weights, e.g. 100000,300000")] = "",
    go_on_from: Annotated[
        Path | None, typer.Option(help="folder or network.safetensors of a run whose checkpoint is lost, to go on from")
    ] = None,
    models: Annotated[
        str, typer.Option(help=f"whose residuals to record, with commas between: {KNOWN}; '' for none")
    ] = "mean,isotropic,gaussian,mixture-10,cloud",
    points: Annotated[int, typer.Option(min=1, help="noised images for each residual")] = 512,
    residuals_on: Annotated[Path | None, typer.Option(help=".npy: indices of the training images to noise")] = None,
) -> None:
    """Train an EDM denoiser on a data set, or go on where the run in --out stopped.

    Everything random follows from the seed and the step, so a run that was killed ends in the same weights. Under
    accelerate launch each process takes its share of every batch. Whoever has lost the checkpoint, but has
    network.safetensors and the tables beside it, goes on by --go-on-from, in another folder.
    """
    check_choice(dataset, "dataset", *SHAPES)
    check_choice(precision, "precision", "float32", "bfloat16")
    names = sorted(filter(None, models.split(",")))
    for name in names:
        if not MODELS.fullmatch(name):
            raise ValueError(f"{name!r} is no model, expected {KNOWN}")
    team = processes.join(device)
    recipe, kept = steps.build(), _numbers(keep) if keep else ()
    shape = SHAPES[dataset] | ({"widths": _numbers(widths)} if widths else {})
    if go_on_from and go_on_from.is_dir():
        go_on_from /= "network.safetensors"
    data, test = (gt.datasets.load(dataset, split, data_dir).images for split in ("train", "test"))
    indices = residuals_on and _indices(residuals_on, len(data))
    out.mkdir(parents=True, exist_ok=True)
    if surrogate:
        law, generator = _model("gaussian", data, out), torch.Generator().manual_seed(recipe.seed)
        data, test = (
            torch.cat([law.sample(len(part), generator=generator) for part in of.split(4096)]) for of in (data, test)
        )
    start = gt.Gaussian.load(gaussian) if gaussian not in ("", "fit") else None
    if gaussian == "fit":
        carried = EDM.load(go_on_from).gaussian if go_on_from else None  # a fit elsewhere may differ by rounding
        start = carried or _model("gaussian", data, out)
    torch.manual_seed(recipe.seed)
    # What tensor cores and bfloat16 multiply fastest; in float32, on a processor, the usual order is faster.
    half = compile or precision == "bfloat16"
    order = torch.channels_last if half or team.device.startswith("cuda") else torch.contiguous_format
    network = UNet(data.shape[1:], layers=layers, **shape).to(memory_format=order)
    if compile:
        network.compile()
    compared = {"models": names, "points": points, "residuals on": indices, "test images": test}
    trainer = Trainer(
        EDM(network, data.shape[1:], gaussian=start).to(team.device),
        data,
        out,
        recipe,
        half_precision=half,
        compared=compared | {"compiled": compile, "surrogate": surrogate},
        share=(team.number, team.count),
        parallel=team.parallel,
        go_on_from=go_on_from,
    )
    judging = {name: _Cached(_model(name, data, out).to(team.device)) for name in names if team.first}
    judged = {"train": (data if indices is None else data[indices]).to(team.device), "test": test.to(team.device)}

    def question(network: EDM) -> list[dict]:
        for mark in kept:
            if trainer.images_seen - recipe.batch_size < mark <= trainer.images_seen:
                trainer.save(out / f"network-{mark}.safetensors")
        return residual_rows(network, judging, judged, list(SIGMAS), points=points) if judging else []

    marks = [0, images, *kept, *(digit * 10**power for power in range(3, 12) for digit in (1, 2, 5))]
    begun = time.monotonic()
    bar = tqdm(total=images, initial=trainer.images_seen, unit=" images", disable=not team.first, file=sys.stderr)
    with bar, closing(trainer.run(images, evaluate_at=dict.fromkeys(marks, question))) as steps:
        for loss in steps:
            bar.update(recipe.batch_size)
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            late = torch.tensor(float(time.monotonic() - begun > 60 * minutes), device=team.device)
            if (team.total(late) if team.total else late) > 0:  # for one of them: all stop at the same step
                break
    if team.first:
        files.write_bytes(out / "README.md", card(dataset, data, trainer).encode())
        print(f"{out}: {trainer.images_seen:,} images seen in {trainer.progress.seconds / 60:.0f} minutes")


def card(dataset: str, data: Tensor, trainer: Trainer) -> str:
    """Return the model card of a run, in Markdown."""
    recipe, progress, settings = trainer.recipe, trainer.progress, trainer.settings
    told = {name: settings[name] for name in [*asdict(recipe), "precision", "compiled"]}
    weights = trainer.folder / "network.safetensors"
    parameters = sum(value.numel() for value in trainer.averaged.parameters()) / 1e6
    drawn = f", in their place as many samples of N(μ, Σ) from seed {recipe.seed}" if settings["surrogate"] else ""
    mirrored = "every other one mirrored, by chance" if recipe.mirror else "none mirrored or altered"
    gaussian = trainer.denoiser.gaussian
    around = "" if gaussian is None else f", from the Gaussian in the same file (rank {gaussian.rank}),"
    breaks = ", ".join(f"{seen:,}" for seen in progress.breaks) or "none"
    loss = f", {progress.losses[-1]['loss']:.4f} at the end" if progress.losses else ""
    entries = {
        "Load": f'`gausstools.networks.EDM.load("{weights.name}")` gives the denoiser `D(x, sigma)` '
        f"for images {tuple(data.shape[1:])} in [-1, 1], σ from 0.002 to 80.",
        "Trained on": f'the {len(data):,} images of `gausstools.datasets.load("{dataset}", "train")`{drawn} (mean '
        f"{float(data.mean()):.5f}, standard deviation {float(data.std()):.5f}), {mirrored}.",
        "Network": f"EDM's preconditioning (σ_d = {trainer.denoiser.sigma_data}){around} around diffusers' UNet2DModel "
        f"with {parameters:.2f} million parameters: `{json.dumps(trainer.denoiser.network.config)}`.",
        "Training": f"{progress.step:,} steps of {recipe.batch_size}, so {trainer.images_seen:,} images, each "
        f"{trainer.images_seen / len(data):.1f} times. EDM's loss{loss}, by Adam; the weights are their running "
        f"average. `gausstools.training.Recipe`: {', '.join(f'{name} {value}' for name, value in told.items())}.",
        "Begun again": f"from the averaged weights in float16 with Adam anew, after so many images: {breaks}.",
        "Cost": f"{progress.seconds / 60:.0f} minutes on {'; '.join(progress.machines)}.",
        "Weights": f"float16, {weights.stat().st_size / 1e6:.1f} MB, sha256 "
        f"`{hashlib.sha256(weights.read_bytes()).hexdigest()}`.",
        "Use": "for study. It draws what its training images show, and was judged by its residuals and by eye only.",
    }
    fill = textwrap.TextWrapper(120, subsequent_indent="  ", break_long_words=False).fill
    wrapped = (fill(f"- **{name}**: {text}") for name, text in entries.items())
    return f"# A denoiser for {dataset}\n\n" + "\n".join(wrapped) + "\n"


def _model(name: str, data: Tensor, folder: Path) -> Denoiser:
    if name == "cloud":
        return gt.PointCloud(data)
    if name in ("mean", "isotropic"):
        variance = data.var(0, correction=0).mean() if name == "isotropic" else 0.0
        return gt.Gaussian.isotropic(data.mean(0), variance)
    kind = gt.Gaussian if name == "gaussian" else gt.Mixture
    file = folder / f"{name}-{hashlib.sha256(data.numpy()).hexdigest()[:8]}.safetensors"
    if not file.exists():  # which takes minutes for many images
        count, rank = (part and int(part) for part in MODELS.fullmatch(name).groups())
        (kind.fit(data, count, rank, method="kmeans") if count else kind.fit(data)).save(file)
    return kind.load(file)


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


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r}, expected whole numbers with commas between, such as 64,128,128") from None
