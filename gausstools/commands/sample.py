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
import inspect
import io
import json
import os
import reprlib
import secrets
import sys
import zipfile
from collections.abc import Callable, Iterable
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
from gausstools.networks import hub
from gausstools.noise import seeded_noise

__all__ = ["sample"]

SAMPLERS = ("euler", "heun", "ddim", "dpmpp", "unipc", "ipndm", "gaussian_exponential")
"""The samplers by name."""

_NOTED = "sampling.json"
_PNG_END = bytes.fromhex("0000000049454e44ae426082")  # the chunk IEND
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
        str | None,
        typer.Option(
            help="class, from 0, or several such as 3,5 that take turns; drawn from the seed if not given, where the "
            "network has classes"
        ),
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
    found = {"model_sha256": _content_of_network(model)}  # what the images depend on beside the settings
    event_shape, classes = denoiser.event_shape, getattr(denoiser, "classes", 0)
    if labels is None and classes:
        settings["labels"] = "drawn"
    turns = [None] if labels is None else settings["labels"]
    denoisers = {label: _of_class(denoiser, label) for label in turns}
    sigmas = _GRIDS[grid](steps, sigma_min=sigma_min, sigma_max=sigma_max)
    named = {}
    if data is None:
        needed = skip is not None or sampler == "gaussian_exponential"
        one, content = _statistics(model, gaussian, needed, event_shape)
        statistics, found = dict.fromkeys(turns, one), found | content
    else:
        named, sets, found["data_sha256"] = _images_of_classes(data, {*turns}, event_shape)
        statistics = {label: fit(images, event_shape) for label, images in sets.items()}
    statistics = {label: one and one.to(team.device, torch.float32) for label, one in statistics.items()}
    level = settings.get("skip")
    if level == "auto":  # the most cautious of the classes'; a run keeps its own, and one step has nothing to skip
        choices = (
            gt.choose_skip(_told(denoisers[label], seed, range(16)), statistics[label], sigmas[:-1], tolerance).sigma
            for label in denoisers
        )
        level = found["level"] = _noted(out).get("level") or (max(choices) if steps > 1 else sigma_max)
    solver, options = getattr(gt.samplers, sampler), {} if order is None else {"order": order}
    draw = {label: _Drawing(model, statistics[label], sigmas, solver, options, level, team.device) for label in turns}
    # What does not fit is told before the folder is taken.
    calls, without = draw[turns[0]].calls(_told(denoisers[turns[0]], seed, [0]), seeded_noise(seed, [0], event_shape))
    store = {"png": _Pngs, "npz": _Npz}[format](out)
    _claim(out, settings | {"event_shape": list(event_shape)}, found, team)
    batches = [range(first, first + batch_size) for first in range(0, num, batch_size)][team.number :: team.count]
    quiet = {} if team.first else {"disable": True}  # where nothing is said, TQDM_DISABLE counts
    total = sum(len(_kept(batch, num)) for batch in batches)
    with tqdm(total=total, unit=" images", file=sys.stderr, **quiet) as bar:
        for batch in batches:
            kept = _kept(batch, num)
            if not store.has(kept):
                # The last batch is computed whole too, so that its images are those of a larger run.
                noise = seeded_noise(seed, batch, event_shape)
                images = torch.empty_like(noise)
                for label in denoisers:  # the images of each class by themselves
                    rows = [row for row, number in enumerate(batch) if turns[number % len(turns)] == label]
                    if rows:
                        told = _told(denoisers[label], seed, [batch[row] for row in rows])
                        images[rows] = draw[label](told, noise[rows]).cpu()
                store.write(kept, _pixels(images)[: len(kept)])
            bar.update(len(kept))
    team.meet()
    if team.first:
        jump = "" if level is None else f" ({without} without the jump to σ = {level:.4g})"
        drawn = f"; classes 0 to {classes - 1}, drawn from the seed" if settings.get("labels") == "drawn" else ""
        print(f"{num:,} images of shape {tuple(event_shape)} in {out}, each by {calls} network calls{jump}{drawn}")
        if named:
            print(f"labels: {', '.join(f'{label} is {name}' for label, name in named.items())}")
    team.leave()


class _Drawing:
    """From noise to images, by any denoiser."""

    def __init__(
        self,
        model: str,
        gaussian: gt.Gaussian | None,
        sigmas: Tensor,
        sampler: Callable,
        options: dict,
        skip: float | None,
        device: str,
    ):
        self.model, self.gaussian, self.sigmas, self.skip, self.device = model, gaussian, sigmas, skip, device
        accepted = inspect.signature(sampler).parameters
        if "order" in options and "order" not in accepted:
            raise ValueError(f"{sampler.__name__} has no choice of order; leave --order out")
        if "gaussian" in accepted:
            options = options | {"gaussian": gaussian}
        self.sampler, self.options = sampler, options
        self.remembers = "history" in accepted and "gaussian" not in accepted  # which then knows what was passed

    def __call__(self, denoiser: gt.Denoiser, noise: Tensor) -> Tensor:
        try:
            return self._run(denoiser, noise, self.skip)
        except ValueError as error:
            raise ValueError(
                f"{error}: by the network {self.model}, or by steps that are too long. Nothing of this batch is "
                "written; give more --steps, another --sampler or another network"
            ) from error

    def calls(self, denoiser: gt.Denoiser, noise: Tensor) -> tuple[int, int]:
        """Return the network calls behind an image, and how many they would be without the jump.

        Only the first of them is made. If it gives NaN or infinity, ValueError is raised.
        """
        return self._count(denoiser, noise, self.skip), self._count(denoiser, noise, None)

    def _count(self, denoiser: gt.Denoiser, noise: Tensor, skip: float | None) -> int:
        def ask(x: Tensor, sigma: float) -> Tensor:
            if counted.calls > 1:
                return x / (1 + torch.as_tensor(sigma) ** 2)
            answer = denoiser(x, sigma)
            if not answer.isfinite().all():
                raise ValueError(
                    f"the network {self.model} answers NaN or infinity at σ = {sigma:.4g}: its file is damaged, or its "
                    "training failed. Fetch it again, or give another one"
                )
            return answer

        counted = gt.samplers.Counted(ask)
        self._run(counted, noise, skip)
        return counted.calls

    @torch.no_grad()
    def _run(self, denoiser: gt.Denoiser, noise: Tensor, skip: float | None) -> Tensor:
        sigmas, options = self.sigmas, dict(self.options)
        x = sigmas[0].item() * noise.to(self.device)
        if skip is not None:
            jump = gt.teleport(self.gaussian, x, sigmas, skip)
            x, above, sigmas = jump.x, sigmas[sigmas > jump.times[0]], jump.times
            if self.remembers and len(above):  # none is above where a jump would be too far
                passed = torch.cat([above, sigmas[:1]])[-4:]
                options["history"] = gt.samplers.gaussian_history(self.gaussian, x, passed)
        *_, last = self.sampler(denoiser, x, sigmas, **options)
        return last.x


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


def _told(denoiser: gt.Denoiser, seed: int, numbers: Iterable[int]) -> gt.Denoiser:
    """Return a network that has classes as the denoiser of these images, each of the class that its number draws.

    A denoiser without classes, such as that of one class, is returned as it is.
    """
    classes = getattr(denoiser, "classes", 0)
    if not classes:
        return denoiser
    # A spawned sequence shares no word with that of the noise, which begins with the seed and the number.
    states = [np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1, np.uint64) for number in numbers]
    drawn = torch.tensor([int(state[0]) % classes for state in states])
    # choose_skip asks about its probes twice at once.
    return lambda x, sigma: denoiser(x, sigma, drawn.repeat(-(-len(x) // len(drawn)))[: len(x)])


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
    for name, least in {"num": 1, "steps": 1, "batch_size": 1, "seed": 0}.items():
        if given[name] < least:
            raise ValueError(f"{name.replace('_', '-')} is {given[name]}, expected at least {least}")
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


def _statistics(
    model: str, given: Path | None, needed: bool, event_shape: torch.Size
) -> tuple[gt.Gaussian | None, dict[str, str]]:
    """Return the Gaussian of the data, and what to note of its file; neither if none is given or needed."""
    if given is None and not needed:
        return None, {}
    if given is None and model not in gt.shipped.names("statistics"):
        raise ValueError(
            "a jump and gaussian_exponential need the statistics of the data: write them with "
            "`python -m gausstools stats DATASET_OR_FOLDER --out FILE`, and give the file as --gaussian FILE"
        )
    file = given or gt.shipped.path(f"{model}-statistics.safetensors")
    found = gt.Gaussian.load(file)
    if needed and found.event_shape != event_shape:
        raise ValueError(
            f"{file} holds the statistics of images of shape {tuple(found.event_shape)}, expected "
            f"{tuple(event_shape)}, which this network draws; give those of the data that it was trained on"
        )
    return found, {"gaussian_sha256": _checksum([file])}


def _images_of_classes(
    data: str, labels: set[int], event_shape: torch.Size
) -> tuple[dict[int, str], dict[int, Iterable[Tensor]], str]:
    """Return the name and the images of each class that is asked for, and a checksum of all of them."""
    if data in gt.datasets.NAMES:
        whole = gt.datasets.load(data)
        names, shapes = dict(enumerate(whole.class_names)), dict.fromkeys(labels, whole.event_shape)
        sets = {label: whole.images[whole.labels == label].split(256) for label in names}
        content = hashlib.sha256(whole.images.numpy()).hexdigest()
    elif Path(data).is_dir():
        folders = gt.datasets.class_folders(data)
        names = {label: folder.name for label, folder in enumerate(folders)}
        asked = sorted(labels & {*names})
        sets = {label: gt.datasets.ImageFolder(folders[label], channels=event_shape[0]) for label in asked}
        shapes = {label: images.event_shape for label, images in sets.items()}
        content = _checksum(file for images in sets.values() for file in images.files)
    else:
        raise ValueError(f"data is {data}, expected a folder, or one of {', '.join(gt.datasets.NAMES)}")
    for label in sorted(labels):
        if label not in sets:
            raise ValueError(f"{data} has no class {label}; expected one for each label, a folder's by its place")
        if shapes[label] != event_shape:
            raise ValueError(
                f"{data} holds images of shape {tuple(shapes[label])}, expected {tuple(event_shape)}, which this "
                "network draws"
            )
    return *({label: found[label] for label in sorted(labels)} for found in (names, sets)), content


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
    team.meet()
    if team.first:
        folder.mkdir(parents=True, exist_ok=True)
        if _NOTED not in held:
            _create(folder / _NOTED, json.dumps(settings | found, indent=1).encode())
    team.meet()
    theirs = _noted(folder)
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
    team.meet()


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


def _noted(folder: Path) -> dict:
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
