"""``python -m gausstools sample``: images from a network, as many as wanted, into a folder of numbered files.

Image i starts from noise that follows from the seed and i alone (:func:`gausstools.noise.seeded_noise`), and shows a
class, where the network can be told one, that follows from the same or from ``--labels``. The work is cut into batches
of fixed numbers, each computed whole by one process, so that the same files come out however many processes there are
and however often they were interrupted.

``sampling.json`` in the folder holds the settings, and checksums of all files on which the images depend: a run goes on
only if they are the same.
"""

import contextlib
import hashlib
import io
import json
import os
import reprlib
import secrets
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
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
from gausstools.commands.options import check_least, grouped
from gausstools.commands.stats import fit
from gausstools.models import files
from gausstools.networks import hub
from gausstools.noise import seeded_noise
from gausstools.samplers import Counted, declared, gaussian_history

__all__ = ["sample"]

ORDERED = ("dpmpp", "unipc", "ipndm", "gaussian_exponential")
"""The samplers that have a choice of order."""

SAMPLERS = ("euler", "heun", "ddim", *ORDERED)
"""The samplers by name."""

_NOTED = "sampling.json"
_PNG_END = bytes.fromhex("0000000049454e44ae426082")  # the chunk IEND
_GRIDS = {"karras": gt.karras_sigmas, "log": gt.log_uniform_sigmas}


@dataclass(frozen=True)
class Settings:
    """What the images depend on beside the network: a run that goes on must share it."""

    sampler: Annotated[str, typer.Option(help=f"one of {', '.join(SAMPLERS)}")] = "heun"
    order: Annotated[int | None, typer.Option(help="of the sampler, if it has a choice")] = None
    steps: Annotated[int, typer.Option(help="of the whole grid, from sigma-max to 0")] = 18
    grid: Annotated[str, typer.Option(help="karras, or log: uniform in ln σ")] = "karras"
    sigma_min: Annotated[float, typer.Option(help="last noise level above 0")] = 0.002
    sigma_max: Annotated[float, typer.Option(help="first noise level")] = 80.0
    skip: Annotated[
        str | None, typer.Option(help="noise level to jump to by the Gaussian's closed form, or auto: by --tolerance")
    ] = None
    tolerance: Annotated[float, typer.Option(help="how far `--skip auto` may move a pixel, of a range of 2")] = 0.02
    gaussian: Annotated[
        Path | None, typer.Option(help="its file, as `stats` writes it; of a shipped network, the shipped one")
    ] = None
    labels: Annotated[
        str | None,
        typer.Option(
            help="class, from 0, or several such as 3,5 that take turns; drawn from the seed if not given, where the "
            "network has classes"
        ),
    ] = None
    data: Annotated[
        str | None,
        typer.Option(
            help="with --labels, instead of --gaussian: a data set, or a folder with a folder for each class, in the "
            "order of their names; the Gaussian of its class carries each image"
        ),
    ] = None
    seed: Annotated[int, typer.Option(help="image i depends on it and i alone")] = 0
    batch_size: Annotated[int, typer.Option(help="images at once, in each process")] = 64
    format: Annotated[str, typer.Option(help="png: a file an image; npz: a file a batch")] = "png"

    def __post_init__(self):
        for name, known in {"sampler": SAMPLERS, "grid": _GRIDS, "format": ("png", "npz")}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}")
        check_least(1, steps=self.steps, batch_size=self.batch_size)
        check_least(0, seed=self.seed)
        if self.order is not None and self.sampler not in ORDERED:
            raise ValueError(f"{self.sampler} has no choice of order; leave --order out")
        if self.data is not None and self.labels is None:
            raise ValueError("data gives each class its Gaussian, but there are no --labels; use --gaussian without")
        if self.data is not None and self.gaussian is not None:
            raise ValueError("gaussian and data both say by which Gaussian to jump; leave one out")

    def level(self) -> float | str | None:
        """Return the noise level to jump to, "auto" or None."""
        if self.skip in (None, "auto"):
            return self.skip
        with contextlib.suppress(ValueError):
            if 0 < float(self.skip) <= self.sigma_max:
                return float(self.skip)
        raise ValueError(
            f"skip is {self.skip}, expected auto, or a noise level above 0 and at most sigma-max, {self.sigma_max:g}"
        )

    def turns(self) -> list[int] | None:
        """Return the classes that take turns, or None."""
        parts = [] if self.labels is None else [part.strip() for part in self.labels.split(",")]
        if not all(part.isascii() and part.isdigit() for part in parts):
            raise ValueError(
                f"labels is {self.labels!r}, expected a whole number from 0, or several with commas between"
            )
        return [int(part) for part in parts] or None


@grouped
def sample(
    model: Annotated[str, typer.Argument(help="a shipped network, a file, a folder of diffusers, or owner/name")],
    out: Annotated[Path, typer.Option(help="folder for the images; a run that stands there goes on")],
    num: Annotated[int, typer.Option(help="how many images")] = 64,
    *,
    settings: Settings,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; under accelerate, each process has its own")] = "cpu",
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
    check_least(1, num=num)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file, expected a folder for the images")
    level, turns, seed = settings.level(), settings.turns(), settings.seed
    team = processes.join(device)
    network = gt.pretrained.load(model, device=team.device)
    event_shape, classes = network.event_shape, getattr(network, "classes", 0)
    if turns and not classes:
        raise ValueError("labels were given, but this network has no classes; leave --labels out")
    if turns and max(turns) >= classes:
        raise ValueError(f"labels hold {max(turns)}, expected 0 to {classes - 1}, the classes of this network")
    labels = turns or ("drawn" if classes else None)
    turns = turns or [None]
    noted = {"model": model} | asdict(settings) | {"skip": level, "labels": labels, "event_shape": [*event_shape]}
    noted = {name: str(value) if isinstance(value, Path) else value for name, value in noted.items()}
    sigmas = _GRIDS[settings.grid](settings.steps, sigma_min=settings.sigma_min, sigma_max=settings.sigma_max)
    gaussians, names, found = _gaussians(model, settings, turns, event_shape)
    found = {"model_sha256": _content_of_network(model)} | found  # what the images depend on beside the settings
    gaussians = {label: one and one.to(team.device, torch.float32) for label, one in gaussians.items()}
    if level == "auto":  # the most cautious of the classes'; a run keeps its own, and one step has nothing to skip
        choices = (
            gt.choose_skip(_told(network, label, seed, range(16)), one, sigmas[:-1], settings.tolerance).sigma
            for label, one in gaussians.items()
        )
        level = _recorded(out).get("level") or (max(choices) if settings.steps > 1 else settings.sigma_max)
        found["level"] = level
    sampler = getattr(gt.samplers, settings.sampler)
    sampler = sampler if settings.order is None else partial(sampler, order=settings.order)
    # What does not fit is told before the folder is taken.
    noise, top = seeded_noise(seed, [0], event_shape).to(team.device), level or settings.sigma_max
    calls, without = (
        _calls(sampler, settings.sigma_max * noise, sigmas, gaussians[turns[0]], skip) for skip in (level, None)
    )
    with torch.no_grad():
        answer = _told(network, turns[0], seed, [0])(top * noise, top)
    if not answer.isfinite().all():
        raise ValueError(
            f"the network {model} answers NaN or infinity at σ = {top:.4g}: its file is damaged, or its training "
            "failed. Fetch it again, or give another one"
        )
    store = {"png": _Pngs, "npz": _Npz}[settings.format](out)
    _claim(out, {name: value for name, value in noted.items() if value is not None}, found, team)
    size = settings.batch_size
    batches = [range(first, first + size) for first in range(0, num, size)][team.number :: team.count]
    quiet = {} if team.first else {"disable": True}  # where nothing is said, TQDM_DISABLE counts
    total = sum(len(_kept(batch, num)) for batch in batches)
    with tqdm(total=total, unit=" images", file=sys.stderr, **quiet) as bar:
        for batch in batches:
            kept = _kept(batch, num)
            if not store.has(kept):
                # The last batch is computed whole too, so that its images are those of a larger run.
                noise = seeded_noise(seed, batch, event_shape)
                images = torch.empty_like(noise)
                for label, gaussian in gaussians.items():  # the images of each class by themselves
                    rows = [row for row, number in enumerate(batch) if turns[number % len(turns)] == label]
                    if rows:
                        x = sigmas[0].item() * noise[rows].to(team.device)
                        told = _told(network, label, seed, [batch[row] for row in rows])
                        try:
                            images[rows] = _draw(told, sampler, x, sigmas, gaussian, level).cpu()
                        except ValueError as error:
                            raise ValueError(
                                f"{error}: by the network {model}, or by steps that are too long. Nothing of this "
                                "batch is written; give more --steps, another --sampler or another network"
                            ) from error
                store.write(kept, _pixels(images)[: len(kept)])
            bar.update(len(kept))
    team.barrier()
    if team.first:
        jump = "" if level is None else f" ({without} without the jump to σ = {level:.4g})"
        drawn = f"; classes 0 to {classes - 1}, drawn from the seed" if labels == "drawn" else ""
        print(f"{num:,} images of shape {tuple(event_shape)} in {out}, each by {calls} network calls{jump}{drawn}")
        if names:
            print(f"labels: {', '.join(f'{label} is {name}' for label, name in names.items())}")
    team.leave()


@torch.no_grad()
def _draw(
    denoiser: gt.Denoiser,
    sampler: Callable,
    x: Tensor,
    sigmas: Tensor,
    gaussian: gt.Gaussian | None,
    skip: float | None,
) -> Tensor:
    """Return the images at the end of the grid."""
    takes = declared(sampler).takes
    options = {"gaussian": gaussian} if "gaussian" in takes else {}
    if skip is not None:
        jump = gt.teleport(gaussian, x, sigmas, skip)
        x, above, sigmas = jump.x, sigmas[sigmas > jump.times[0]], jump.times
        if "history" in takes and len(above):  # none is above where a jump would be too far
            options["history"] = gaussian_history(gaussian, x, torch.cat([above, sigmas[:1]])[-4:])
    *_, last = sampler(denoiser, x, sigmas, **options)
    return last.x


def _calls(sampler: Callable, *rest: object) -> int:
    """Count the network calls behind an image, with a stand-in for the network."""
    counted = Counted(lambda x, sigma: torch.zeros_like(x))
    _draw(counted, sampler, *rest)
    return counted.calls


class _Pngs:
    """A PNG an image, by its number."""

    def __init__(self, folder: Path):
        from PIL import Image

        self.folder, self.encode = folder, Image.fromarray

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.png"

    def has(self, numbers: range) -> bool:
        return all(_ends_with(self._path(number), _PNG_END) for number in numbers)

    def write(self, numbers: range, images: np.ndarray) -> None:
        for number, pixels in zip(numbers, images, strict=True):
            buffer = io.BytesIO()
            self.encode(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "png")
            _write(self._path(number), buffer.getvalue())


class _Npz:
    """An .npz file a batch, by the number of its first image."""

    def __init__(self, folder: Path):
        self.folder = folder

    def _path(self, numbers: range) -> Path:
        return self.folder / f"{numbers.start:06d}.npz"

    def has(self, numbers: range) -> bool:
        try:
            with np.load(self._path(numbers)) as held:  # a smaller run may have ended within the batch
                return len(held["numbers"]) >= len(numbers)
        except (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile):  # none, or cut off
            return False

    def write(self, numbers: range, images: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=images, numbers=np.array(numbers))
        _write(self._path(numbers), buffer.getvalue())


def _ends_with(path: Path, end: bytes) -> bool:
    """Whether there is such a file, and whole."""
    try:
        with path.open("rb") as file:
            file.seek(-len(end), os.SEEK_END)
            return file.read() == end
    except OSError:  # none, or a shorter one
        return False


def _write(path: Path, content: bytes) -> None:
    try:
        files.write_bytes(path, content)
    except FileNotFoundError:  # a run that began beside this one took the unfinished file for what a kill had left
        files.write_bytes(path, content)


def _told(network: gt.Denoiser, label: int | None, seed: int, numbers: Iterable[int]) -> gt.Denoiser:
    """Return a network as the denoiser of a class, or else of these images, each of the class that its number draws.

    A network without classes is returned as it is.
    """
    if label is not None:
        return partial(network, labels=label)
    classes = getattr(network, "classes", 0)
    if not classes:
        return network
    # A spawned sequence shares no word with that of the noise, which begins with the seed and the number.
    states = [np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1, np.uint64) for number in numbers]
    drawn = torch.tensor([int(state[0]) % classes for state in states])
    # choose_skip asks about its probes twice at once.
    return lambda x, sigma: network(x, sigma, drawn.repeat(-(-len(x) // len(drawn)))[: len(x)])


def _kept(batch: range, num: int) -> range:
    return range(batch.start, min(batch.stop, num))


def _pixels(images: Tensor) -> np.ndarray:
    """Return images in [-1, 1], ``(n, channels, height, width)``, as uint8, ``(n, height, width, channels)``."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _gaussians(
    model: str, settings: Settings, turns: list[int | None], event_shape: torch.Size
) -> tuple[dict[int | None, gt.Gaussian | None], dict[int, str], dict[str, str]]:
    """Return the Gaussian of each class, or under None of all, the classes' names, and what to note of the files."""
    if settings.data is not None:
        names, sets, content = _images_of_classes(settings.data, sorted({*turns}), event_shape)
        return {label: fit(sets[label], event_shape) for label in dict.fromkeys(turns)}, names, {"data_sha256": content}
    needed = settings.skip is not None or settings.sampler == "gaussian_exponential"
    if settings.gaussian is None and not needed:
        return dict.fromkeys(turns), {}, {}
    if settings.gaussian is None and model not in gt.shipped.names("statistics"):
        raise ValueError(
            "a jump and gaussian_exponential need the statistics of the data: write them with "
            "`python -m gausstools stats DATASET_OR_FOLDER --out FILE`, and give the file as --gaussian FILE"
        )
    file = settings.gaussian or gt.shipped.path(f"{model}-statistics.safetensors")
    found = gt.Gaussian.load(file)
    if needed and found.event_shape != event_shape:
        raise ValueError(
            f"{file} holds the statistics of images of shape {tuple(found.event_shape)}, expected "
            f"{tuple(event_shape)}, which this network draws; give those of the data that it was trained on"
        )
    return dict.fromkeys(turns, found), {}, {"gaussian_sha256": _checksum([file])}


def _images_of_classes(
    data: str, labels: list[int], event_shape: torch.Size
) -> tuple[dict[int, str], dict[int, Iterable[Tensor]], str]:
    """Return the name and the images of each of these classes, and a checksum of all of the images."""
    named = data in gt.datasets.NAMES
    if not named and not Path(data).is_dir():
        raise ValueError(f"data is {data}, expected a folder, or one of {', '.join(gt.datasets.NAMES)}")
    source = gt.datasets.load(data) if named else gt.datasets.class_folders(data)
    names = source.class_names if named else [folder.name for folder in source]
    if labels[-1] >= len(names):
        raise ValueError(f"{data} has no class {labels[-1]}; expected one for each label, a folder's by its place")
    if named:
        sets = {label: source.images[source.labels == label].split(256) for label in labels}
        content = hashlib.sha256(source.images.numpy()).hexdigest()
    else:
        sets = {label: gt.datasets.ImageFolder(source[label], channels=event_shape[0]) for label in labels}
        content = _checksum(file for images in sets.values() for file in images.files)
    for images in sets.values():
        shape = source.event_shape if named else images.event_shape
        if shape != event_shape:
            raise ValueError(
                f"{data} holds images of shape {tuple(shape)}, expected {tuple(event_shape)}, which this network draws"
            )
    return {label: names[label] for label in labels}, sets, content


def _content_of_network(model: str) -> str:
    """Return a checksum of the files of a network that could be loaded, or its revision on the hub."""
    path = Path(model)
    if model in gt.shipped.names("network"):
        return _checksum([gt.shipped.path(f"{model}-network.safetensors")])
    if path.is_dir():
        homes = [path, path / "unet", path / "scheduler"]
        return _checksum(sorted(f for home in homes for p in ("*.json", f"{hub.WEIGHTS}*") for f in home.glob(p)))
    return _checksum([path]) if path.is_file() else f"revision {hub.download(model).name}"


def _checksum(paths: Iterable[Path]) -> str:
    """Return the sha256 of a file, or of several one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
    return digest.hexdigest()


def _claim(folder: Path, settings: dict, found: dict, team: processes.Processes) -> None:
    """Note a run's settings in its folder, or compare them with those of the run that stands there."""
    held = {file.name for file in folder.iterdir() if not file.name.startswith(".")} if folder.is_dir() else set()
    if held and _NOTED not in held:
        raise ValueError(f"{folder} holds files, but no run ({_NOTED}); give an empty or new folder")
    team.barrier()
    if team.first:
        folder.mkdir(parents=True, exist_ok=True)
        if _NOTED not in held:
            _create(folder / _NOTED, json.dumps(settings | found, indent=1).encode())
    team.barrier()
    theirs = _recorded(folder)
    ours = settings | {name: value for name, value in found.items() if name in theirs}
    odd = [
        f"{name.replace('_', '-')} {reprlib.repr(theirs.get(name))} there, {reprlib.repr(ours.get(name))} now"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]
    if odd:
        raise ValueError(
            f"{folder} holds images of other settings: {'; '.join(odd)}. Give another folder, or what was given then"
        )
    if team.first:
        if "model_sha256" not in theirs:  # of an earlier version
            print(
                f"{folder / _NOTED} has no checksums; give the very files of then, or another folder", file=sys.stderr
            )
        for pattern in (".*.png.*", ".*.npz.*", f".*{_NOTED}.*"):
            for left in folder.glob(pattern):  # by a kill in the middle of writing
                with contextlib.suppress(OSError):
                    left.unlink()
    team.barrier()


def _create(path: Path, content: bytes) -> None:
    """Write a file whole, unless there is one, perhaps of a run that began at the same moment."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    files.write_bytes(draft, content)
    try:
        os.link(draft, path)
    except OSError:
        if not path.is_file():  # then the file system has no links, such as FAT
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _recorded(folder: Path) -> dict:
    """Return what a run noted in its folder; nothing if there is none."""
    path = folder / _NOTED
    if not path.is_file():
        return {}
    try:
        noted = json.loads(path.read_text("utf-8"))
    except (RecursionError, ValueError):
        noted = None
    if not isinstance(noted, dict):
        raise ValueError(f"{path} does not hold the settings of a run, as this command notes them; give another folder")
    return noted
