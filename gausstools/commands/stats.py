"""``python -m gausstools stats``: the mean and covariance of a data set, as a Gaussian in one file."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor
from tqdm import tqdm

import gausstools as gt
from gausstools.commands import processes
from gausstools.commands.options import check_writable, grouped
from gausstools.denoiser import check_count
from gausstools.models import Moments, files, fit_streamed

__all__ = ["stats"]

DENSE = 12_000
"""Entries of an image up to which the whole covariance is held: a matrix of 1.2 GB."""

RANK = 256
"""Eigenpairs that are kept of larger images, if not told otherwise."""


Data = gt.datasets.Images | gt.datasets.ImageFolder


@dataclass(frozen=True)
class Reading:
    """Which images of a data set or a folder are read, and how."""

    split: Annotated[str | None, typer.Option(help="train (if not given) or test, of a data set")] = None
    size: Annotated[int | None, typer.Option(help="cut and resize the images of a folder to so many pixels")] = None
    channels: Annotated[int | None, typer.Option(help="of a folder of images: 1 for grey, 3 for RGB")] = None

    def open(self, dataset: str, batch_size: int = 256) -> tuple[str, Data]:
        """Return what the data are called, and the data."""
        check_count(batch_size, "batch-size", 1)
        if dataset in gt.datasets.NAMES:
            if self.size or self.channels:
                raise ValueError(f"size and channels are for folders of images; {dataset} has its own")
            data = gt.datasets.load(dataset, self.split or "train")
            return f"{data.name}, {data.split}", data
        if not Path(dataset).is_dir():
            known = ", ".join(gt.datasets.NAMES)
            raise ValueError(f"{dataset} is neither a data set ({known}) nor a folder; check the name or the path")
        if self.split:
            raise ValueError(f"split is for data sets, but {dataset} is a folder of images")
        return dataset, gt.datasets.ImageFolder(dataset, size=self.size, channels=self.channels, batch_size=batch_size)


@grouped
def stats(
    dataset: Annotated[str, typer.Argument(help=f"one of {', '.join(gt.datasets.NAMES)}, or a folder of images")],
    out: Annotated[Path, typer.Option(help="file to write, .safetensors")],
    rank: Annotated[int | None, typer.Option(help=f"eigenpairs to keep; else all, or {RANK} of large images")] = None,
    *,
    reading: Reading,
    batch_size: Annotated[int, typer.Option(help="images read at once, by each process")] = 256,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...: where it is computed, in float64")] = "cpu",
    half: Annotated[bool, typer.Option("--half", help="keep the directions in float16: half the file")] = False,
) -> None:
    """Write the statistics of a data set or a folder of images: mean, leading eigenpairs of the covariance, tail.

    The file is read by gausstools.Gaussian.load. Under accelerate launch each process reads its share of the
    images. Images of up to 12,000 entries are read once; larger ones several times, and their covariance is never held
    as a matrix.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stats("digits", Path(folder, "digits.safetensors"), rank=8)
    ...     print(gt.Gaussian.load(Path(folder, "digits.safetensors")))
    digits, train: 1,437 images of shape (1, 8, 8)
    total variance 18.7563, squared norm of the mean 27.0370
    explained by rank 1: 14.7 %, 2: 28.2 %, 4: 48.7 %, 8: 67.5 %
    written to ...digits.safetensors
    Gaussian(event_shape=(1, 8, 8), rank=8, tail=0.1088)
    """
    check_writable(out)
    team = processes.join(device)
    name, data = reading.open(dataset, batch_size)
    if rank is not None:
        check_count(rank, "rank", 0, data.event_shape.numel())
    gaussian = fit(data, team, rank, batch_size)
    if team.first:
        # Rounding the directions turns them by some 3e-4 at most; the variances span more than float16 does.
        directions = {"basis": gaussian.basis.half()} if half else {}
        files.write(out, "Gaussian", dict(gaussian.state_dict()) | directions)
        print(f"{name}: {len(data):,} images of shape {tuple(data.event_shape)}")
        print(_summary(gaussian))
        print(f"written to {out}")


def fit(data: Data, team: processes.Processes, rank: int | None = None, batch_size: int = 256) -> gt.Gaussian:
    """Return the Gaussian of the data, of which each process reads its share.

    It is made from the whole covariance if that can be held, else in several passes.
    """
    share = _Watched(every(data, team.count, team.number, batch_size), team)
    if data.event_shape.numel() > DENSE:
        return fit_streamed(share, RANK if rank is None else rank, total=team.total)
    moments = Moments.of(share)
    return gt.Gaussian.from_moments(moments.reduced(team.total) if team.total else moments, rank)


def every(data: Data, step: int, first: int = 0, batch_size: int = 256) -> gt.datasets.ImageFolder | tuple[Tensor, ...]:
    """Return every so-manyth image, from the first on, in batches."""
    if isinstance(data, gt.datasets.ImageFolder):
        return data.shard(first, step)
    return data.images[first::step].split(batch_size)


class _Watched:
    """Batches on a device, with a bar for each pass over them."""

    def __init__(self, batches: gt.datasets.ImageFolder | tuple[Tensor, ...], team: processes.Processes):
        self.batches, self.team = batches, team
        self.images = sum(map(len, batches)) if isinstance(batches, tuple) else len(batches)

    def __iter__(self) -> Iterator[Tensor]:
        with tqdm(total=self.images, unit=" images", disable=not self.team.first, file=sys.stderr) as bar:
            for batch in self.batches:
                yield batch.to(self.team.device)
                bar.update(len(batch))


def _summary(gaussian: gt.Gaussian) -> str:
    variances, total = gaussian.variances.double(), float(gaussian.total_variance)
    said = f"total variance {total:.4f}, squared norm of the mean {float(gaussian.mean.double().square().sum()):.4f}"
    if gaussian.rank and total > 0:
        ranks = sorted({*(2**k for k in range(gaussian.rank.bit_length())), gaussian.rank})
        shares = (f"{rank}: {100 * float(variances[:rank].sum()) / total:.1f} %" for rank in ranks)
        said += f"\nexplained by rank {', '.join(shares)}"
    return said
