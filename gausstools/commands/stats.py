"""``python -m gausstools stats``: the mean and covariance of a data set, as a Gaussian in one file."""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from tqdm import tqdm

import gausstools as gt
from gausstools.commands import processes
from gausstools.commands.options import check_least, check_writable, grouped
from gausstools.models import Moments, files, fit_streamed

__all__ = ["stats"]

DENSE = 12_000
"""Entries of an image up to which the whole covariance is held: a matrix of 1.2 GB."""

RANK = 256
"""Eigenpairs that are kept of larger images, if not told otherwise."""


@dataclass(frozen=True)
class Reading:
    """Which images of a data set or a folder are read, and how."""

    split: Annotated[str | None, typer.Option(help="train (if not given) or test, of a data set")] = None
    data_dir: Annotated[Path | None, typer.Option(help="folder with the data set's files")] = None
    size: Annotated[int | None, typer.Option(help="cut and resize the images of a folder to so many pixels")] = None
    channels: Annotated[int | None, typer.Option(help="of a folder of images: 1 for grey, 3 for RGB")] = None

    def open(self, dataset: str, batch_size: int, team: processes.Processes) -> tuple:
        """Return what the data are called, all of them, and this process's share in batches."""
        check_least(1, batch_size=batch_size)
        if dataset in gt.datasets.NAMES:
            for option, value in {"size": self.size, "channels": self.channels}.items():
                if value is not None:
                    raise ValueError(f"{option} is for folders of images; {dataset} has its own")
            data = gt.datasets.load(dataset, self.split or "train", self.data_dir)
            share, name = data.images[team.number :: team.count].split(batch_size), f"{data.name}, {data.split}"
        elif Path(dataset).is_dir():
            if self.split is not None or self.data_dir is not None:
                raise ValueError(f"split and data-dir are for data sets, but {dataset} is a folder of images")
            data = gt.datasets.ImageFolder(dataset, size=self.size, channels=self.channels, batch_size=batch_size)
            share, name = data.shard(team.number, team.count) if team.count <= len(data) else None, dataset
        else:
            known = ", ".join(gt.datasets.NAMES)
            raise ValueError(f"{dataset} is neither a data set ({known}) nor a folder; check the name or the path")
        if len(data) < team.count:
            raise ValueError(f"{name} has {len(data)} images for {team.count} processes; start at most {len(data)}")
        return name, data, share


@grouped
def stats(
    dataset: Annotated[str, typer.Argument(help=f"one of {', '.join(gt.datasets.NAMES)}, or a folder of images")],
    out: Annotated[Path, typer.Option(help="file to write, .safetensors")],
    rank: Annotated[
        int | None, typer.Option(help=f"eigenpairs to keep; all if not given, {RANK} above {DENSE:,} entries")
    ] = None,
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
    name, data, batches = reading.open(dataset, batch_size, team)
    event_shape = data.event_shape
    if rank is not None and not 0 <= rank <= event_shape.numel():
        raise ValueError(f"rank is {rank}, expected 0 to {event_shape.numel()} for images of {tuple(event_shape)}")
    gaussian = fit(Watched(batches, team.device, quiet=not team.first), event_shape, rank, team.total)
    if team.first:
        # Rounding the directions turns them by some 3e-4 at most; the variances span more than float16 does.
        directions = {"basis": gaussian.basis.half()} if half else {}
        files.write(out, "Gaussian", dict(gaussian.state_dict()) | directions)
        print(f"{name}: {len(data):,} images of shape {tuple(event_shape)}")
        print(_summary(gaussian))
        print(f"written to {out}")
    team.leave()


def fit(
    batches: Iterable[Tensor],
    event_shape: torch.Size,
    rank: int | None = None,
    total: Callable[[Tensor], Tensor] | None = None,
) -> gt.Gaussian:
    """Return the Gaussian of all batches: from the whole covariance if it can be held, else from several passes.

    ``total`` adds a tensor up over the processes that share the images.
    """
    if event_shape.numel() > DENSE:
        return fit_streamed(batches, min(RANK, event_shape.numel()) if rank is None else rank, total=total)
    moments = Moments.of(batches)
    return gt.Gaussian.from_moments(moments.reduced(total) if total else moments, rank)


class Watched:
    """Batches on a device, with a bar for each pass over them."""

    def __init__(self, batches: tuple[Tensor, ...] | gt.datasets.ImageFolder, device: str, quiet: bool):
        self.batches, self.device, self.quiet = batches, device, quiet
        self.images = len(batches) if isinstance(batches, gt.datasets.ImageFolder) else sum(map(len, batches))
        self.passes = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.passes += 1
        with tqdm(
            total=self.images, desc=f"pass {self.passes}", unit=" images", disable=self.quiet, file=sys.stderr
        ) as bar:
            for batch in self.batches:
                yield batch.to(self.device)
                bar.update(len(batch))


def _summary(gaussian: gt.Gaussian) -> str:
    variances, total = gaussian.variances.double(), float(gaussian.total_variance)
    lines = [f"total variance {total:.4f}, squared norm of the mean {float(gaussian.mean.double().square().sum()):.4f}"]
    if gaussian.rank and total > 0:
        ranks = sorted({*(2**k for k in range(gaussian.rank.bit_length())), gaussian.rank})
        shares = (f"{rank}: {100 * float(variances[:rank].sum()) / total:.1f} %" for rank in ranks)
        lines.append(f"explained by rank {', '.join(shares)}")
    return "\n".join(lines)
