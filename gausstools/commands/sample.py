"""``python -m gausstools sample``: images from a network, as many as wanted, into a folder of numbered files.

Image i starts from noise that follows from the seed and i alone (:func:`gausstools.noise.seeded_noise`), and shows a
class that follows from i alone, where the network can be told one. The work is cut into batches of fixed numbers, each
computed whole by one process, so that the same files come out however many processes there are and however often they
were interrupted.
"""

import inspect
import io
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor
from tqdm import tqdm

import gausstools as gt
from gausstools.commands import processes
from gausstools.commands.stats import fit
from gausstools.models import files
from gausstools.noise import seeded_noise

__all__ = ["sample"]

SAMPLERS = ("euler", "heun", "ddim", "dpmpp", "unipc", "ipndm", "gaussian_exponential")
"""The samplers by name."""

_GRIDS = {"karras": gt.karras_sigmas, "log": gt.log_uniform_sigmas}


def sample(
    model: Annotated[str, typer.Argument(help="a shipped network, a file, a folder of diffusers, or owner/name")],
    out: Annotated[Path, typer.Option(help="folder for the images; a run that stands there goes on")],
    num: Annotated[int, typer.Option(help="how many images")] = 64,
    sampler: Annotated[str, typer.Option(help=f"one of {', '.join(SAMPLERS)}")] = "heun",
    order: Annotated[int | None, typer.Option(help="of the sampler, if it has a choice")] = None,
    steps: Annotated[int, typer.Option(help="of the whole grid, from sigma-max to 0")] = 18,
    grid: Annotated[str, typer.Option(help="karras, or log: uniform in ln σ")] = "karras",
    sigma_min: Annotated[float, typer.Option(help="last noise level above 0")] = 0.002,
    sigma_max: Annotated[float, typer.Option(help="first noise level")] = 80.0,
    skip: Annotated[
        str | None, typer.Option(help="noise level to jump to by the Gaussian's closed form, or auto: by --tolerance")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="how far `--skip auto` may move a pixel, of a range of 2")] = 0.02,
    gaussian: Annotated[
        Path | None, typer.Option(help="its file, as `stats` writes it; of a shipped network, the shipped one")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="class, from 0, or several such as 3,5 that take turns; if the network takes any")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="with --labels, instead of --gaussian: a data set, or a folder with a folder for each class, in the "
            "order of their names; the Gaussian of its class carries each image"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="image i depends on it and i alone")] = 0,
    batch_size: Annotated[int, typer.Option(help="images at once, in each process")] = 64,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; under accelerate, each process has its own")] = "cpu",
    format: Annotated[str, typer.Option(help="png: a file an image; npz: a file a batch")] = "png",
) -> None:
    """Draw images with a network, or go on where a run stopped.

    Killed at any moment and started again with the same settings, it ends with the files of an undisturbed run; a
    larger --num adds to them. Under accelerate launch each process takes its share of the batches. An .npz file holds
    images, (n, height, width, channels) in uint8, and their numbers.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sample("digits", Path(folder), num=10, steps=4, skip="9")
    ...     print(len(list(Path(folder).glob("*.png"))))
    10 images of shape (1, 8, 8) in ..., each by 5 network calls (7 without the jump to σ = 9)
    10
    """
    settings = _checked(dict(locals()))
    team = processes.join(device)
    denoiser = gt.pretrained.load(model, device=team.device)
    sigmas = _GRIDS[grid](steps, sigma_min=sigma_min, sigma_max=sigma_max)
    turns = settings.get("labels", [None])
    denoisers = {label: _of_class(denoiser, label) for label in turns}
    if data is None:
        needed = skip is not None or sampler == "gaussian_exponential"
        statistics = dict.fromkeys(turns, _statistics(model, gaussian, needed))
    else:
        statistics = _statistics_of_classes(data, turns, denoiser.event_shape)
    statistics = {label: None if found is None else found.to(team.device) for label, found in statistics.items()}
    level = settings.get("skip")
    if level == "auto":  # the most cautious of the classes'
        choices = [gt.choose_skip(denoisers[label], statistics[label], sigmas[:-1], tolerance) for label in denoisers]
        level = max(choice.sigma for choice in choices)
    draw = {
        label: _Drawing(
            denoisers[label],
            denoiser.event_shape,
            statistics[label],
            sigmas,
            getattr(gt.samplers, sampler),
            {} if order is None else {"order": order},
            level,
            team.device,
        )
        for label in denoisers
    }
    _claim(out, settings | {"event_shape": list(denoiser.event_shape)}, team)
    store = {"png": _Pngs, "npz": _Npz}[format](out)
    batches = [range(first, first + batch_size) for first in range(0, num, batch_size)][team.number :: team.count]
    quiet = {} if team.first else {"disable": True}  # where nothing is said, TQDM_DISABLE counts
    total = sum(len(_kept(batch, num)) for batch in batches)
    with tqdm(total=total, unit=" images", file=sys.stderr, **quiet) as bar:
        for batch in batches:
            kept = _kept(batch, num)
            if not store.has(kept):
                # The last batch is computed whole too, so that its images are those of a larger run.
                images = _together(draw, turns, batch, seeded_noise(seed, batch, denoiser.event_shape))
                store.write(kept, _pixels(images)[: len(kept)])
            bar.update(len(kept))
    team.meet()
    if team.first:
        calls, without = draw[turns[0]].calls_an_image()
        jump = "" if level is None else f" ({without} without the jump to σ = {level:.4g})"
        shape = tuple(denoiser.event_shape)
        print(f"{num:,} images of shape {shape} in {out}, each by {calls} network calls{jump}")
    team.leave()


class _Drawing:
    """From noise to images; it counts what a denoiser is asked."""

    def __init__(
        self,
        denoiser: gt.Denoiser,
        event_shape: torch.Size,
        gaussian: gt.Gaussian | None,
        sigmas: Tensor,
        sampler: Callable,
        options: dict,
        skip: float | None,
        device: str,
    ):
        self.denoiser, self.event_shape, self.gaussian = denoiser, event_shape, gaussian
        self.sigmas, self.skip, self.device = sigmas, skip, device
        accepted = inspect.signature(sampler).parameters
        if "order" in options and "order" not in accepted:
            raise ValueError(f"{sampler.__name__} has no choice of order; leave --order out")
        if "gaussian" in accepted:
            options["gaussian"] = gaussian
        self.sampler, self.options = sampler, options
        self.remembers = "history" in accepted and "gaussian" not in accepted  # which then knows what was passed

    def __call__(self, noise: Tensor) -> Tensor:
        with torch.no_grad():
            return self._run(self.denoiser, self.sigmas[0].item() * noise.to(self.device), self.skip)

    def calls_an_image(self) -> tuple[int, int]:
        """Return the network calls behind an image, and how many they would be without the jump."""
        return self._count(self.skip), self._count(None)

    def _count(self, skip: float | None) -> int:
        calls = 0

        def counted(x: Tensor, sigma: float) -> Tensor:
            nonlocal calls
            calls += 1
            return x / (1 + torch.as_tensor(sigma) ** 2)

        with torch.no_grad():
            self._run(counted, torch.ones(1, *self.event_shape, device=self.device), skip)
        return calls

    def _run(self, denoiser: gt.Denoiser, x: Tensor, skip: float | None) -> Tensor:
        sigmas, options = self.sigmas, dict(self.options)
        if skip is not None:
            jump = gt.teleport(self.gaussian, x, sigmas, skip)
            x, above, sigmas = jump.x, sigmas[sigmas > jump.times[0]], jump.times
            if self.remembers:
                passed = torch.cat([above, sigmas[:1]])[-4:]
                options["history"] = gt.samplers.gaussian_history(self.gaussian, x, passed)
        *_, last = self.sampler(denoiser, x, sigmas, **options)
        return last.x


class _Pngs:
    """A PNG an image, by its number."""

    def __init__(self, folder: Path):
        self.folder = folder

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.png"

    def has(self, numbers: range) -> bool:
        return all(self._path(number).is_file() for number in numbers)

    def write(self, numbers: range, images: np.ndarray) -> None:
        from PIL import Image

        for number, pixels in zip(numbers, images, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "png")
            files.write_bytes(self._path(number), buffer.getvalue())


class _Npz:
    """An .npz file a batch, by the number of its first image."""

    def __init__(self, folder: Path):
        self.folder = folder

    def _path(self, numbers: range) -> Path:
        return self.folder / f"{numbers.start:06d}.npz"

    def has(self, numbers: range) -> bool:
        if not self._path(numbers).is_file():
            return False
        with np.load(self._path(numbers)) as held:  # a smaller run may have ended within the batch
            return len(held["numbers"]) >= len(numbers)

    def write(self, numbers: range, images: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=images, numbers=np.array(numbers))
        files.write_bytes(self._path(numbers), buffer.getvalue())


def _of_class(denoiser: gt.Denoiser, label: int | None) -> gt.Denoiser:
    """Return a network as the denoiser of a class."""
    if label is None:
        return denoiser
    classes = getattr(denoiser, "classes", 0)
    if not classes:
        raise ValueError("labels were given, but this network has no classes; leave --labels out")
    if label >= classes:
        raise ValueError(f"labels hold {label}, expected 0 to {classes - 1}, the classes of this network")
    return partial(denoiser, labels=label)


def _together(draw: dict[int | None, _Drawing], turns: list[int | None], batch: range, noise: Tensor) -> Tensor:
    """Draw a batch: the images of each class by themselves."""
    labels, images = [turns[number % len(turns)] for number in batch], {}
    for label in dict.fromkeys(labels):
        rows = [row for row, theirs in enumerate(labels) if theirs == label]
        images.update(zip(rows, draw[label](noise[rows]), strict=True))
    return torch.stack([images[row] for row in range(len(batch))])


def _kept(batch: range, num: int) -> range:
    return range(batch.start, min(batch.stop, num))


def _pixels(images: Tensor) -> np.ndarray:
    """Return images in [-1, 1], ``(n, channels, height, width)``, as uint8, ``(n, height, width, channels)``."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _checked(given: dict) -> dict:
    """Return the settings on which the images depend, or say which is wrong before any work is done."""
    choices = {"sampler": SAMPLERS, "grid": _GRIDS, "format": ("png", "npz")}
    for name, known in choices.items():
        if given[name] not in known:
            raise ValueError(f"{name} is {given[name]!r}, expected one of {', '.join(known)}")
    for name in ("num", "steps", "batch_size"):
        if given[name] < 1:
            raise ValueError(f"{name.replace('_', '-')} is {given[name]}, expected at least 1")
    given["skip"] = _level(given["skip"], given["sigma_max"])
    given["labels"] = _classes(given["labels"])
    if given["data"] is not None:
        if given["labels"] is None:
            raise ValueError("data gives each class its Gaussian, but there are no --labels; use --gaussian without")
        if given["gaussian"] is not None:
            raise ValueError("gaussian and data both say by which Gaussian to jump; leave one out")
    if given["out"].exists() and not given["out"].is_dir():
        raise NotADirectoryError(f"{given['out']} is a file, expected a folder for the images")
    free = {"out", "num", "device"}  # may change when a run goes on
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in given.items()
        if name not in free and value is not None
    }


def _level(skip: str | None, sigma_max: float) -> float | str | None:
    if skip in (None, "auto"):
        return skip
    try:
        level = float(skip)
    except ValueError:
        level = -1.0
    if not 0 < level <= sigma_max:
        raise ValueError(
            f"skip is {skip}, expected auto, or a noise level above 0 and at most sigma-max, {sigma_max:g}"
        )
    return level


def _classes(labels: str | None) -> list[int] | None:
    if labels is None:
        return None
    parts = [part.strip() for part in labels.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f"labels is {labels!r}, expected a whole number from 0, or several with commas between")
    return [int(part) for part in parts]


def _statistics(model: str, path: Path | None, needed: bool) -> gt.Gaussian | None:
    if path is not None:
        return gt.Gaussian.load(path)
    if model in gt.shipped.names("statistics"):
        return gt.shipped.statistics(model)
    if needed:
        raise ValueError(
            "a jump and gaussian_exponential need the statistics of the data: write them with "
            "`python -m gausstools stats DATASET_OR_FOLDER --out FILE`, and give the file as --gaussian FILE"
        )
    return None


def _statistics_of_classes(data: str, labels: list[int], event_shape: torch.Size) -> dict[int, gt.Gaussian]:
    """Return the Gaussian of each class that is asked for."""
    if data in gt.datasets.NAMES:
        whole = gt.datasets.load(data)
        sets = {label: whole.images[whole.labels == label].split(256) for label in range(len(whole.class_names))}
        shapes = dict.fromkeys(sets, whole.event_shape)
    elif Path(data).is_dir():
        folders = sorted(folder for folder in Path(data).iterdir() if folder.is_dir() and folder.name[0] != ".")
        asked = ((label, folder) for label, folder in enumerate(folders) if label in labels)
        sets = {label: gt.datasets.ImageFolder(folder, channels=event_shape[0]) for label, folder in asked}
        shapes = {label: images.event_shape for label, images in sets.items()}
    else:
        raise ValueError(f"data is {data}, expected a folder, or one of {', '.join(gt.datasets.NAMES)}")
    for label in labels:
        if label not in sets:
            raise ValueError(f"{data} has no class {label}; expected one for each label, a folder's by its place")
        if shapes[label] != event_shape:
            raise ValueError(
                f"{data} holds images of shape {tuple(shapes[label])}, expected {tuple(event_shape)}, which this "
                "network draws"
            )
    return {label: fit(sets[label], event_shape) for label in {*labels}}


def _claim(folder: Path, settings: dict, team: processes.Processes) -> None:
    """Note a run's settings in its folder, or compare them with those of the run that stands there."""
    noted = folder / "sampling.json"
    if noted.is_file():
        theirs = json.loads(noted.read_text("utf-8"))
        odd = [
            f"{name.replace('_', '-')} {theirs.get(name)!r} there, {settings.get(name)!r} now"
            for name in sorted({*settings, *theirs})
            if settings.get(name) != theirs.get(name)
        ]
        if odd:
            raise ValueError(f"{folder} holds images of other settings: {'; '.join(odd)}. Give another folder")
    elif folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir()):
        raise ValueError(f"{folder} holds files, but no run (sampling.json); give an empty or new folder")
    team.meet()
    if team.first:
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in (".*.png.*", ".*.npz.*", ".sampling.json.*"):
            for left in folder.glob(pattern):  # by a kill in the middle of writing
                left.unlink()
        files.write_bytes(noted, json.dumps(settings, indent=1).encode())
    team.meet()
