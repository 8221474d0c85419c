"""``python -m gausstools fid``: how far samples are from a reference, as FID or in a small classifier's features."""

import importlib.util
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor
from torch.utils.data import Dataset

import gausstools as gt
from gausstools.commands.options import check_least, grouped
from gausstools.commands.stats import Reading
from gausstools.datasets.folder import SUFFIXES
from gausstools.features import Classifier, frechet, load

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
    weights: Annotated[
        Path | None,
        typer.Option(help="torch-fidelity's file of Inception weights, which it unpickles; downloaded if not given"),
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
    Fréchet distance in the features of the shipped classifier of digits (no FID): 0.39 ± 0.11
    ...
    """
    kind = _kind(features, weights)
    check_least(1, batch_size=batch_size)
    named = reference in gt.datasets.NAMES
    if not named and not (reading.split is None and reading.data_dir is None):
        raise ValueError(f"split and data-dir are for data sets, but {reference} is none of them: {gt.datasets.NAMES}")
    split = reading.split or "train"
    ours = _open(samples, reading, batch_size)
    if kind == "small":
        name, classifier = _classifier(ours.event_shape)
        shipped = named and reading.data_dir is None and reference in gt.shipped.names(f"features-{split}")
    if kind == "small" and shipped:
        _check_shapes(ours.event_shape, load(reference).event_shape)
        theirs = gt.shipped.feature_statistics(reference, split)
    else:
        theirs = (_data_set if named else _open)(reference if named else Path(reference), reading, batch_size)
        _check_shapes(ours.event_shape, theirs.event_shape)
    if not (reading.size is None and reading.channels is None) and not any(
        isinstance(source, gt.datasets.ImageFolder) for source in (ours, theirs)
    ):
        raise ValueError("size and channels are for folders of images, but neither samples nor reference is one")
    if kind == "small":
        found = _small(ours, theirs, name, classifier, device)
        if shipped and split == "train":
            found["floor"] = gt.shipped.floor(reference)
    else:
        found = {"measure": "FID", "value": _inception(ours, theirs, weights, batch_size, device)}
    found |= {"images": len(ours), "reference": f"{reference}, {split}" if named else reference}
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print(f"{len(ours):,} images of shape {tuple(ours.event_shape)}, against {found['reference']}")
        print("\n".join(_report(found)))


class _Pixels(Dataset):
    """Images in memory, in uint8: items as torch-fidelity takes them, and batches as the library does."""

    def __init__(self, pixels: Tensor, batch_size: int):
        self.pixels, self.batch_size = pixels, batch_size
        self.event_shape = pixels.shape[1:]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self.pixels[index].expand(3, -1, -1)  # grey becomes RGB

    def __iter__(self) -> Iterator[Tensor]:
        for part in self.pixels.split(self.batch_size):
            yield part.float() / 127.5 - 1


_Source = _Pixels | gt.datasets.ImageFolder


class _Files(Dataset):
    """The images of a folder one by one, in uint8, as torch-fidelity takes them.

    torch-fidelity can read a folder itself, but it takes hidden files and follows no links: not what was counted here.
    """

    def __init__(self, folder: gt.datasets.ImageFolder):
        self.folder = folder

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> Tensor:
        (batch,) = self.folder.shard(index, len(self))
        return batch[0].add(1).mul(127.5).round().byte().expand(3, -1, -1)


def _kind(features: str | None, weights: Path | None) -> str:
    """Return which features to use, "inception" or "small", after checking that they can be had."""
    if features not in (None, "inception", "small"):
        raise ValueError(f"features is {features!r}, expected inception or small")
    installed = importlib.util.find_spec("torch_fidelity") is not None
    kind = features or ("inception" if installed or weights is not None else "small")
    if kind == "inception" and not installed:
        raise ImportError(
            "the FID is computed by torch-fidelity, which is not installed: pip install torch-fidelity. Or give "
            "--features small for the distance in the features of a small classifier"
        )
    if weights is not None and kind == "small":
        raise ValueError("weights are for Inception's features, but features is small; leave one out")
    if weights is not None and not weights.is_file():
        raise FileNotFoundError(f"there is no file {weights}, expected torch-fidelity's Inception weights (.pth)")
    return kind


def _open(path: Path, reading: Reading, batch_size: int) -> _Source:
    """Return the images of a folder or of .npz files."""
    if path.is_file() and path.suffix != ".npz":
        raise ValueError(f"{path} is neither a folder nor an .npz file")
    if not path.exists():
        known = ", ".join(gt.datasets.NAMES)
        raise FileNotFoundError(f"there is no folder or file {path}, and no data set of this name: {known}")
    found = [path] if path.is_file() else sorted(file for file in path.iterdir() if not file.name.startswith("."))
    arrays = [file for file in found if file.suffix == ".npz"]
    if not arrays:
        return gt.datasets.ImageFolder(path, size=reading.size, channels=reading.channels, batch_size=batch_size)
    images = [file for file in found if file.suffix.lower() in SUFFIXES]
    if images:
        raise ValueError(f"{path} holds arrays ({arrays[0].name}) and images ({images[0].name}), expected one kind")
    parts = [_read_npz(file) for file in arrays]
    odd = [file for file, part in zip(arrays, parts, strict=True) if part.shape[1:] != parts[0].shape[1:]]
    if odd:
        raise ValueError(f"{odd[0]} holds images of another shape than {arrays[0].name}: all must have one")
    return _Pixels(torch.cat(parts), batch_size)


def _read_npz(path: Path) -> Tensor:
    """Return the images in an .npz file, ``(n, channels, height, width)`` in uint8."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except Exception as error:  # of a damaged file, numpy raises whatever it stumbles over: EOFError, TypeError, ...
        raise ValueError(f"{path} cannot be read as .npz: {error}") from error
    images = [array for array in arrays.values() if array.ndim == 4 and array.size]
    if len(images) != 1:
        held = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{path} holds {held or 'nothing'}, expected one array of images with four axes")
    (array,) = images
    if array.dtype != np.uint8:
        raise ValueError(f"{path} holds images in {array.dtype}, expected uint8, from 0 to 255")
    pixels = torch.from_numpy(array)
    if array.shape[3] in (1, 3):
        return pixels.permute(0, 3, 1, 2)
    if array.shape[1] in (1, 3):
        return pixels
    raise ValueError(
        f"{path} holds images of shape {array.shape[1:]}, expected (height, width, channels) or (channels, height, "
        "width) with 1 or 3 channels"
    )


def _data_set(name: str, reading: Reading, batch_size: int) -> _Pixels:
    images = gt.datasets.load(name, reading.split or "train", reading.data_dir).images
    return _Pixels(images.add_(1).mul_(127.5).round_().byte(), batch_size)


def _check_shapes(ours: torch.Size, theirs: torch.Size) -> None:
    if ours != theirs:
        raise ValueError(
            f"the samples have shape {tuple(ours)} and the reference {tuple(theirs)}, expected one size and the same "
            "number of channels; --size and --channels resize and convert folders of images"
        )


def _classifier(event_shape: torch.Size) -> tuple[str, Classifier]:
    """Return the shipped classifier for images of this shape, and its name."""
    known = {name: load(name) for name in gt.shipped.names("classifier")}
    for name, classifier in known.items():
        if classifier.event_shape == event_shape:
            return name, classifier
    shapes = ", ".join(f"{tuple(classifier.event_shape)} ({name})" for name, classifier in known.items())
    raise ValueError(
        f"no shipped classifier takes images of shape {tuple(event_shape)}, expected {shapes}; for others install "
        "torch-fidelity"
    )


def _small(ours: _Source, theirs: _Source | gt.Gaussian, name: str, classifier: Classifier, device: str) -> dict:
    """Return the distance in the classifier's features."""
    classifier = classifier.to(device)
    moved = (batch.to(device) for batch in ours)
    target = theirs.to(device) if isinstance(theirs, gt.Gaussian) else (batch.to(device) for batch in theirs)
    found = frechet(moved, target, classifier.features)
    return {"measure": f"Fréchet distance in the features of the shipped classifier of {name} (no FID)"} | {
        key: value for key, value in found._asdict().items() if key != "images"
    }


def _inception(ours: _Source, theirs: _Source, weights: Path | None, batch_size: int, device: str) -> float:
    """Return the FID, as torch-fidelity computes it."""
    try:
        import torch_fidelity
    except ImportError as error:
        raise ImportError(
            f"torch-fidelity is installed but cannot be imported ({error}); it needs a torchvision that fits torch. Or "
            "give --features small"
        ) from error
    if min(len(ours), len(theirs)) < 2:
        raise ValueError(f"there are {len(ours)} samples and {len(theirs)} reference images, expected 2 or more")
    inputs = [_Files(source) if isinstance(source, gt.datasets.ImageFolder) else source for source in (ours, theirs)]
    try:
        found = torch_fidelity.calculate_metrics(
            input1=inputs[0],
            input2=inputs[1],
            fid=True,
            cuda=torch.device(device).type == "cuda",
            batch_size=batch_size,
            feature_extractor_weights_path=None if weights is None else str(weights),
            verbose=False,
        )
    except OSError as error:
        if weights is not None:
            raise
        raise OSError(
            f"torch-fidelity could not get its Inception weights ({error}). Copy the file weights-inception-2015-12-05-"
            "6726825d.pth of its releases from a machine with a network, and give it with --weights. Or give "
            "--features small for the distance in the features of a small classifier"
        ) from error
    except (RuntimeError, pickle.UnpicklingError) as error:
        if weights is None or not (isinstance(error, pickle.UnpicklingError) or "state_dict" in str(error)):
            raise
        raise ValueError(f"{weights} does not hold the Inception weights of torch-fidelity's releases") from error
    return float(found["frechet_inception_distance"])


def _report(found: dict) -> Iterator[str]:
    images = f"{found['images']:,} images"
    if found["measure"] == "FID":
        yield f"FID: {found['value']:.3f}, in the features of torch-fidelity's Inception"
        if found["images"] < USUAL:
            yield f"Warning: an FID of few images is too large; compare it with those of {images} only"
        return
    digits = max(0, 1 - int(np.floor(np.log10(found["error"])))) if found["error"] > 0 else 3
    number = f".{digits}f"
    yield f"{found['measure']}: {found['value']:{number}} ± {found['error']:{number}}"
    yield f"Without the bias of {images}: {found['extrapolated']:{number}}"
    if floor := found.get("floor"):
        yield (
            f"Floor, {floor['images']:,} held-out real images: {floor['value']:{number}} ± {floor['error']:{number}}, "
            f"without bias {floor['extrapolated']:{number}}"
        )
    if found["value"] - found["extrapolated"] > found["error"]:
        yield (
            "Warning: the bias of so few images is larger than the error. Compare the value with those of "
            f"{images} only, or the values without bias; or draw more"
        )
