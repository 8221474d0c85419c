"""A folder of images as a data set that is read in batches, as often as needed, and never held in memory as a whole."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import check_count

__all__ = ["ImageFolder"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
GREY, DEEP = ("1", "L", "LA", "La"), ("I", "F")  # Pillow's names of one channel, and of more than 8 bits


class ImageFolder:
    """The images in a folder and its subfolders, in the order of their paths, as batches.

    Iterating yields ``(n, channels, height, width)``, float32 in [-1, 1]. Each iteration reads the files anew.
    Transparency is ignored; images are turned upright as their camera says.

    Args:
        path: the folder; files without a suffix of an image, and hidden ones, are passed over.
        size: height and width in pixels. The largest centred square of an image is cut out and resized to it. None
            takes images as they are, and all must have one size.
        channels: 1 is grey, 3 is RGB; None is 1 if the first image is grey and 3 otherwise. Grey images become RGB
            where needed; RGB ones become grey only if 1 is given.
        batch_size: images in a batch; the last one may be smaller.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        ValueError: for an image that cannot be read or does not fit; it is named.
        ImportError: without Pillow.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as path:
    ...     for grey in (0, 128, 255):
    ...         Image.new("L", (12, 8), grey).save(f"{path}/{grey:03}.png")
    ...     folder = ImageFolder(path, size=4, batch_size=2)
    ...     print(len(folder), folder.event_shape, [batch.mean().item() for batch in folder])
    3 torch.Size([1, 4, 4]) [-0.49803921580314636, 1.0]
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        size: int | None = None,
        channels: int | None = None,
        batch_size: int = 64,
    ):
        self.path = Path(path)
        if not self.path.is_dir():
            raise FileNotFoundError(f"there is no folder {self.path}")
        if channels not in (None, 1, 3):
            raise ValueError(f"channels is {channels!r}, expected 1 (grey), 3 (RGB) or None")
        self.size = None if size is None else check_count(size, "size", 1)
        self.batch_size = check_count(batch_size, "batch_size", 1)
        self.files = tuple(sorted(_images_in(self.path), key=lambda file: file.relative_to(self.path).parts))
        if not self.files:
            raise FileNotFoundError(f"{self.path} holds no images; expected files {', '.join(SUFFIXES)}")
        self._may_drop_colour = channels == 1
        self._channels, self._shape = channels, None
        self._shape = torch.Size(self._read(self.files[0]).shape)
        self._channels = self._shape[0]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def __iter__(self) -> Iterator[Float[Tensor, "n channels height width"]]:
        for start in range(0, len(self.files), self.batch_size):
            images = [self._read(file) for file in self.files[start : start + self.batch_size]]
            yield torch.from_numpy(np.stack(images)).float().div_(127.5).sub_(1)

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one image."""
        return self._shape

    def shard(self, index: int, count: int) -> "ImageFolder":
        """Return every ``count``-th image, from ``index`` on: the share of one of several processes.

        Raises:
            ValueError: if there are fewer images than shares.
        """
        index = check_count(index, "index", 0, check_count(count, "count", 1, len(self)) - 1)
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__, files=self.files[index::count])
        return part

    def _read(self, file: Path) -> np.ndarray:
        """Return the bytes of one image, ``(channels, height, width)``."""
        try:
            from PIL import Image, ImageOps
        except ImportError as error:
            raise ImportError("folders of images are read with Pillow: pip install 'gausstools[data]'") from error
        try:
            with Image.open(file) as opened:
                image = ImageOps.exif_transpose(opened)
                image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{file} cannot be read as an image: {error}") from error
        if image.mode.startswith(DEEP):
            raise ValueError(f"{file} has more than 8 bits per channel (mode {image.mode}), expected 8; convert it")
        grey = image.mode in GREY
        if not grey and self._channels == 1 and not self._may_drop_colour:
            raise ValueError(f"{file} has colours, but the first image of the folder is grey; choose channels=1 or 3")
        image = image.convert("L" if self._channels == 1 or (self._channels is None and grey) else "RGB")
        if self.size is not None:
            side = min(image.size)
            left, top = ((length - side) // 2 for length in image.size)
            image = image.crop((left, top, left + side, top + side))
            image = image.resize((self.size, self.size), Image.Resampling.LANCZOS)
        pixels = np.asarray(image)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if self._shape is not None and pixels.shape != self._shape:
            (_, height, width), (_, first_height, first_width) = pixels.shape, self._shape
            raise ValueError(
                f"{file} has {width}×{height} pixels, but {self.files[0].name} has {first_width}×{first_height}: all "
                "must have one size. Give size= to cut and resize them"
            )
        return pixels


def _images_in(folder: Path) -> list[Path]:
    return [
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    ]
