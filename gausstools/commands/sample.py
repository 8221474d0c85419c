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
import secrets
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import gausstools as gt
from gausstools.commands.options import check_images, grouped
from gausstools.commands.processes import Processes, join
from gausstools.denoiser import check_choice, check_count, check_that
from gausstools.models import files
from gausstools.networks import hub
from gausstools.noise import seeded_noise
from gausstools.samplers import Counted, State, declared, gaussian_history

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
    skip: Annotated[str | None, typer.Option(help="noise level to jump to, or auto: by --tolerance")] = None
    tolerance: Annotated[float, typer.Option(help="how far `--skip auto` may move a pixel, of a range of 2")] = 0.02
    gaussian: Annotated[Path | None, typer.Option(help="file of `stats`; of a shipped network, the shipped one")] = None
    labels: Annotated[list[int] | None, typer.Option(help="class, from 0; several take turns; if none, drawn")] = None
    seed: Annotated[int, typer.Option(help="image i depends on it and i alone")] = 0
    batch_size: Annotated[int, typer.Option(help="images at once, in each process")] = 64
    format: Annotated[str, typer.Option(help="png: a file an image; npz: a file a batch")] = "png"

    def __post_init__(self):
        check_choice(self.sampler, "sampler", *SAMPLERS)
        check_choice(self.grid, "grid", *_GRIDS)
        check_choice(self.format, "format", "png", "npz")
        check_count(self.batch_size, "batch-size", 1)
        fits = self.order is None or self.sampler in ORDERED
        check_that(fits, f"{self.sampler} has no choice of order", "no --order")

    def level(self) -> float | str | None:
        """Return the noise level to jump to, "auto" or None."""
        if self.skip in (None, "auto"):
            return self.skip
        try:
            level = float(self.skip)
        except ValueError:
            level = 0.0
        check_that(level > 0, f"skip is {self.skip}", "auto, or a noise level above 0")
        return level


@dataclass(frozen=True)
class Drawing:
    """The way from numbers to images: noise, classes, the jump if there is one, and the sampler below it."""

    network: torch.nn.Module
    sampler: Callable
    sigmas: Tensor
    gaussian: gt.Gaussian | None
    labels: list[int] | None
    seed: int
    device: str

    def denoiser(self, numbers: Sequence[int]) -> gt.Denoiser:
        """Return the network, told the classes of these images where it has any: those that take turns, or drawn."""
        classes = getattr(self.network, "classes", 0)
        known = all(0 <= label < classes for label in self.labels or ())
        check_that(known, f"labels are {self.labels}", f"classes of the network, of which there are {classes}")
        if not classes:
            return self.network
        if self.labels:
            told = [self.labels[number % len(self.labels)] for number in numbers]
        else:  # a spawned sequence shares no word with that of the noise, which begins with the seed and the number
            states = (np.random.SeedSequence(self.seed, spawn_key=(n,)).generate_state(1, np.uint64) for n in numbers)
            told = [int(state[0]) % classes for state in states]
        # choose_skip asks about its probes twice at once.
        return lambda x, sigma: self.network(x, sigma, torch.tensor(told * (len(x) // len(told))))

    def states(self, denoiser: gt.Denoiser, numbers: Sequence[int], level: float | None) -> Iterator[State]:
        """Yield the states of these images, by their denoiser, at the levels below the jump, or of the whole grid."""
        noise = seeded_noise(self.seed, numbers, self.network.event_shape).to(self.device)
        x, sigmas, takes = self.sigmas[0].item() * noise, self.sigmas, declared(self.sampler).takes
        options = {"gaussian": self.gaussian} if "gaussian" in takes else {}
        if level is not None:
            jump = gt.teleport(self.gaussian, x, sigmas, level)
            above = sigmas[sigmas > jump.times[0]]
            x, sigmas = jump.x, jump.times
            if "history" in takes:
                options["history"] = gaussian_history(self.gaussian, x, torch.cat([above, sigmas[:1]])[-4:])
        return self.sampler(denoiser, x, sigmas, **options)


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
    check_count(num, "num", 1)
    level, team = settings.level(), join(device)
    network = gt.pretrained.load(model, device=team.device)
    sampler = getattr(gt.samplers, settings.sampler)
    sampler = sampler if settings.order is None else partial(sampler, order=settings.order)
    sigmas = _GRIDS[settings.grid](settings.steps, sigma_min=settings.sigma_min, sigma_max=settings.sigma_max)
    noted = {"model": model} | asdict(settings) | {"skip": level, "model_sha256": _checksum(_files_of(model))}
    gaussian = None
    if level is not None or "gaussian" in declared(sampler).takes:
        if settings.gaussian is None and model not in gt.shipped.names("statistics"):
            raise ValueError("there is no Gaussian: python -m gausstools stats DATA --out FILE, then --gaussian FILE")
        file = settings.gaussian or gt.shipped.path(f"{model}-statistics.safetensors")
        gaussian = gt.Gaussian.load(file).to(team.device, torch.float32)
        check_images(str(file), gaussian.event_shape, network.event_shape)
        noted["gaussian_sha256"] = _checksum([file])
    drawing = Drawing(network, sampler, sigmas, gaussian, settings.labels, settings.seed, team.device)
    if level == "auto":  # a run keeps its own
        probed, levels = drawing.denoiser(range(16)), sigmas[:-1]
        level = _recorded(out).get("level") or (
            # One step has nothing to skip.
            gt.choose_skip(probed, gaussian, levels, settings.tolerance).sigma
            if settings.steps > 1
            else settings.sigma_max
        )
    counted = Counted(drawing.denoiser(range(1)))
    list(drawing.states(counted, range(1), level))  # what does not fit is told before the folder is taken
    _claim(out, noted | {"level": level}, team)
    _draw(drawing, level, out, num, settings, team)
    team.barrier()
    if team.first:
        jump = "" if level is None else f" ({declared(sampler).calls(sigmas)} without the jump to σ = {level:.4g})"
        classes = "" if settings.labels or not getattr(network, "classes", 0) else "; classes drawn from the seed"
        each = f"each by {counted.calls} network calls{jump}{classes}"
        print(f"{num:,} images of shape {tuple(network.event_shape)} in {out}, {each}")


def _draw(drawing: Drawing, level: float | None, out: Path, num: int, settings: Settings, team: Processes) -> None:
    """Write the images that are missing, of the batches that are this process's share."""
    size = settings.batch_size
    batches = [range(first, first + size) for first in range(0, num, size)][team.number :: team.count]
    quiet = {} if team.first else {"disable": True}  # where nothing is said, TQDM_DISABLE counts
    for batch in tqdm(batches, unit=" batches", file=sys.stderr, **quiet):
        kept = range(batch.start, min(batch.stop, num))
        if not _held(out, kept, settings.format):
            # The last batch is computed whole too, so that its images are those of a larger run.
            *_, last = drawing.states(drawing.denoiser(batch), batch, level)
            pixels = ((last.x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            for name, content in _encoded(kept, pixels[: len(kept)], settings.format):
                _write(out / name, content)


def _write(path: Path, content: bytes) -> None:
    try:
        files.write_bytes(path, content)
    except FileNotFoundError:  # a run that began beside this one took the unfinished file for what a kill had left
        files.write_bytes(path, content)


def _held(folder: Path, numbers: range, format: str) -> bool:
    """Whether the images of these numbers are in a folder, their files whole."""
    if format == "png":
        paths = [folder / f"{number:06d}.png" for number in numbers]
        return all(path.is_file() and path.read_bytes().endswith(_PNG_END) for path in paths)
    try:
        with np.load(folder / f"{numbers.start:06d}.npz") as held:  # a smaller run may have ended within the batch
            return len(held["numbers"]) >= len(numbers)
    except (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile):  # none, or cut off
        return False


def _encoded(numbers: range, pixels: np.ndarray, format: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file that holds these images."""
    if format == "npz":
        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=pixels, numbers=np.array(numbers))
        yield f"{numbers.start:06d}.npz", buffer.getvalue()
        return
    for number, image in zip(numbers, pixels, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "png")
        yield f"{number:06d}.png", buffer.getvalue()


def _files_of(model: str) -> list[Path]:
    """Return the files of a network that could be loaded."""
    if model in gt.shipped.names("network"):
        return [gt.shipped.path(f"{model}-network.safetensors")]
    path = Path(model) if Path(model).exists() else hub.download(model)
    homes, kinds = [path, path / "unet", path / "scheduler"], (".json", ".bin", ".safetensors")
    return sorted(f for home in homes for f in home.glob("*.*") if f.suffix in kinds) or [path]


def _checksum(paths: list[Path]) -> str:
    """Return the sha256 of a file, or of several one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while part := file.read(2**20):  # a network may be as large as the memory
                digest.update(part)
    return digest.hexdigest()


def _claim(folder: Path, settings: dict, team: Processes) -> None:
    """Note a run's settings in its folder, or compare them with those of the run that stands there."""
    ours = json.loads(json.dumps(settings, default=str))
    held = _recorded(folder)
    team.barrier()  # before the first writes: the others look at the folder as it was
    if team.first and not held:
        folder.mkdir(parents=True, exist_ok=True)
        path, draft = folder / _NOTED, folder / f".{_NOTED}.{secrets.token_hex(4)}"
        files.write_bytes(draft, json.dumps(ours, indent=1).encode())
        try:
            os.link(draft, path)
        except OSError:  # another run began at the same moment, or the file system has no links
            if not path.exists():
                os.replace(draft, path)
        draft.unlink(missing_ok=True)
    team.barrier()
    theirs = _recorded(folder)
    odd = [name for name in sorted(ours | theirs) if ours.get(name) != theirs.get(name)]
    given = "; ".join(f"{name} {theirs.get(name)!r} there, {ours.get(name)!r} now" for name in odd)
    check_that(not odd, f"{folder} holds images of other settings: {given}", "what was given then, or another folder")
    if team.first:
        for kind in ("png", "npz", "json"):
            for left in folder.glob(f".*.{kind}.*"):  # by a kill in the middle of writing
                left.unlink(missing_ok=True)
    team.barrier()


def _recorded(folder: Path) -> dict:
    """Return what a run noted in its folder; nothing if the folder is new."""
    path = folder / _NOTED
    if not path.exists():
        if folder.exists() and any(not file.name.startswith(".") for file in folder.iterdir()):
            raise ValueError(f"{folder} holds files, but no run ({_NOTED}); give an empty or new folder")
        return {}
    with contextlib.suppress(RecursionError, TypeError, ValueError):
        if noted := dict(json.loads(path.read_text("utf-8"))):
            return noted
    raise ValueError(f"{path} does not hold the settings of a run; give another folder")
