"""``python -m gausstools fid``: how far samples are from a reference, as FID or in a small classifier's features."""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor
from torch.utils.data import Dataset

import gausstools as gt
from gausstools.commands.options import check_images, grouped
from gausstools.commands.processes import check_device
from gausstools.commands.stats import Reading
from gausstools.datasets.folder import SUFFIXES
from gausstools.denoiser import check_choice, check_count, check_that
from gausstools.features import frechet, load

__all__ = ["fid"]

USUAL = 50_000
"""Images of which a FID is usually made (Heusel et al. 2017)."""


@grouped
def fid(
    samples: Annotated[Path, typer.Argument(help="a folder of images, an .npz file, or a folder of such files")],
    reference: Annotated[str, typer.Option(help=f"one of {', '.join(gt.datasets.NAMES)}; or a path like the samples'")],
    features: Annotated[
        str | None, typer.Option(help="inception, for the FID, or small; inception where it is installed if not given")
    ] = None,
    *,
    reading: Reading,
    batch_size: Annotated[int, typer.Option(help="images seen at once")] = 64,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cuda" if torch.cuda.is_available() else "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print one line of JSON instead")] = False,
) -> None:
    """Print the Fréchet distance of samples to a reference.

    Where torch-fidelity is installed it is the FID, in the features of its Inception network. Elsewhere, or with
    --features small, it is the distance in the features of a small classifier that comes with gausstools: no FID, and
    comparable with its own kind only. It has a standard error, its value without the bias of few images, and for
    comparison the distance of held-out real images. An .npz file holds images in uint8, (n, height, width, channels)
    or (n, channels, height, width).

    >>> import tempfile
    >>> images = gt.datasets.load("digits", "test").images.add(1).mul(127.5).round().byte().numpy()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/digits.npz", images=images)
    ...     fid(Path(f"{folder}/digits.npz"), "digits", features="small")
    360 images of shape (1, 8, 8), against digits, train
    Fréchet distance in the features of the shipped classifier of digits (no FID): 0.39... ± 0.1...
    ...
    """
    check_device(device)
    check_count(batch_size, "batch-size", 1)
    features = features or ("inception" if importlib.util.find_spec("torch_fidelity") else "small")
    check_choice(features, "features", "inception", "small")
    small, split = features == "small", reading.split or "train"
    of_folder, named = replace(reading, split=None), reference in gt.datasets.NAMES
    ours = _open(str(samples.absolute()), of_folder, batch_size)  # which is the name of no data set
    if small and reference in gt.shipped.names(f"features-{split}"):
        theirs, event_shape = gt.shipped.feature_statistics(reference, split), load(reference).event_shape
    else:
        theirs = _open(reference, Reading(split) if named else reading, batch_size)
        event_shape = theirs.event_shape
    check_images(str(samples), ours.event_shape, event_shape)
    if of_folder != Reading() and not any(getattr(images, "in_folder", False) for images in (ours, theirs)):
        raise ValueError("size and channels are for folders of images, but neither samples nor reference is one")
    found = {"images": len(ours), "reference": f"{reference}, {split}" if named else reference}
    found |= _small(ours, theirs, device) if small else _inception(ours, theirs, batch_size, device)
    if isinstance(theirs, gt.Gaussian) and split == "train":
        found["floor"] = gt.shipped.floor(reference)
    print(json.dumps(found, ensure_ascii=False) if as_json else "\n".join(_report(found, ours.event_shape)))


class _Images(Dataset):
    """Images in memory, in uint8, or in a folder: items as torch-fidelity takes them, and batches as the library does.

    torch-fidelity can read a folder itself, but it takes hidden files and follows no links: not what was counted here.
    """

    def __init__(self, source: Tensor | gt.datasets.ImageFolder, batch_size: int):
        self.source, self.batch_size = source, batch_size
        self.in_folder = isinstance(source, gt.datasets.ImageFolder)
        self.event_shape = source.event_shape if self.in_folder else source.shape[1:]

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Tensor]:
        if not self.in_folder:
            return (part.float() / 127.5 - 1 for part in self.source.split(self.batch_size))
        return iter(self.source)

    def __getitem__(self, index: int) -> Tensor:
        pixels = _bytes(next(iter(self.source.shard(index, len(self))))) if self.in_folder else self.source[[index]]
        return pixels[0].expand(3, -1, -1)  # grey becomes RGB


def _bytes(images: Tensor) -> Tensor:
    return images.add(1).mul_(127.5).round_().byte()


def _open(place: str, reading: Reading, batch_size: int) -> _Images:
    """Return the images of a data set, a folder or .npz files."""
    path = Path(place)
    arrays = [path] if path.suffix == ".npz" else sorted(path.glob("[!.]*.npz"))
    if place in gt.datasets.NAMES or not arrays:
        _, data = reading.open(place, batch_size)
        return _Images(_bytes(data.images) if isinstance(data, gt.datasets.Images) else data, batch_size)
    check_that(not reading.split, f"split is {reading.split}", f"none, since {place} is no data set")
    images = [file.name for file in path.glob("[!.]*") if file.suffix.lower() in SUFFIXES]
    if images:
        raise ValueError(f"{path} holds arrays ({arrays[0].name}) and images ({images[0]}), expected one kind")
    parts = [_read_npz(file) for file in arrays]
    for file, part in zip(arrays, parts, strict=True):
        check_images(str(file), part.shape[1:], parts[0].shape[1:])
    return _Images(torch.cat(parts), batch_size)


def _read_npz(path: Path) -> Tensor:
    """Return the images in an .npz file, ``(n, channels, height, width)`` in uint8."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except Exception as error:  # of a damaged file, numpy raises whatever it stumbles over: EOFError, TypeError, ...
        raise ValueError(f"{path} cannot be read as .npz: {error}") from error
    images = [a for a in arrays.values() if a.dtype == np.uint8 and a.ndim == 4 and a.size]
    if len(images) != 1 or not {1, 3} & {images[0].shape[1], images[0].shape[3]}:
        held = ", ".join(f"{name} {array.shape} in {array.dtype}" for name, array in arrays.items())
        raise ValueError(
            f"{path} holds {held or 'nothing'}, expected one array of images in uint8: (n, height, width, channels) or "
            "(n, channels, height, width), with 1 or 3 channels"
        )
    pixels = torch.from_numpy(images[0])
    return pixels.permute(0, 3, 1, 2) if pixels.shape[3] in (1, 3) else pixels


def _small(ours: _Images, theirs: _Images | gt.Gaussian, device: str) -> dict:
    """Return the distance in the features of the shipped classifier of such images."""
    known = {str(tuple(load(name).event_shape)): name for name in gt.shipped.names("classifier")}
    shape = str(tuple(ours.event_shape))
    check_choice(shape, "for small features the shape of an image", *known)
    classifier = load(known[shape]).to(device)
    distance = frechet(ours, theirs, lambda batch: classifier.features(batch.to(device)).cpu())
    measure = f"Fréchet distance in the features of the shipped classifier of {known[shape]} (no FID)"
    return {"measure": measure} | distance._asdict()


def _inception(ours: _Images, theirs: _Images, batch_size: int, device: str) -> dict:
    """Return the FID, as torch-fidelity computes it; it says from where to where it downloads its weights."""
    try:
        import torch_fidelity
    except ImportError as error:
        raise ImportError(
            f"the FID is computed by torch-fidelity, which cannot be imported ({error}): pip install torch-fidelity, "
            "with a torchvision that fits torch. Or give --features small"
        ) from error
    options = {"cuda": torch.device(device).type == "cuda", "batch_size": batch_size, "verbose": False}
    found = torch_fidelity.calculate_metrics(input1=ours, input2=theirs, fid=True, **options)
    return {"measure": "FID", "value": float(found["frechet_inception_distance"])}


def _report(found: dict, event_shape: torch.Size) -> Iterator[str]:
    images = f"{found['images']:,} images"
    yield f"{images} of shape {tuple(event_shape)}, against {found['reference']}"
    if found["measure"] == "FID":
        yield f"FID: {found['value']:.3f}, in the features of torch-fidelity's Inception"
        if found["images"] < USUAL:
            yield f"Warning: an FID of few images is too large; compare it with those of {images} only"
        return
    yield f"{found['measure']}: {_told(found)}"
    if floor := found.get("floor"):
        yield f"Floor, {floor['images']:,} held-out real images: {_told(floor)}"
    if found["value"] - found["extrapolated"] > found["error"]:
        yield "Warning: the bias of so few images is larger than the error; compare what is without it, or draw more"


def _told(distance: dict) -> str:
    return f"{distance['value']:.3f} ± {distance['error']:.3f}, without bias {distance['extrapolated']:.3f}"
