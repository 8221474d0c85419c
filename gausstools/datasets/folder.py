"""A folder of images as a data set that is read in batches, as often as needed, and never held in memory as a whole."""

import copy
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
UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's transposition for each orientation in EXIF's tag 274


class ImageFolder:
    """The images in a folder and its subfolders, in the order of their paths, as batches.

    Iterating yields ``(n, channels, height, width)``, float32 in [-1, 1]. Each iteration reads the files anew.
    Transparency is ignored; images are turned upright as their camera says; of an animation the first frame is taken.
    Links to files and folders are followed, but not back into a folder that holds them.

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
        self, path: str | os.PathLike, *, size: int | None = None, channels: int | None = None, batch_size: int = 64
    ):
        if channels not in (None, 1, 3):
            raise ValueError(f"channels is {channels!r}, expected 1 (grey), 3 (RGB) or None")
        self.files = tuple(sorted(_images_in(_folder(path)), key=lambda file: file.parts))
        if not self.files:
            raise FileNotFoundError(f"{path} holds no images; expected files {', '.join(SUFFIXES)}")
        self.size = None if size is None else check_count(size, "size", 1, 2**15)
        self.batch_size = check_count(batch_size, "batch_size", 1)
        self._grey, self._channels, self._shape = channels == 1, channels, None
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
        part = copy.copy(self)
        part.files = self.files[index::count]
        return part

    def _read(self, file: Path) -> np.ndarray:
        """Return the bytes of one image, ``(channels, height, width)``."""
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError("folders of images are read with Pillow: pip install 'gausstools[data]'") from error
        try:
            with Image.open(file) as opened:
                turn = UPRIGHT.get(opened.getexif().get(0x0112))
                image = opened.copy() if turn is None else opened.transpose(turn)
            if image.mode not in GREY and not image.mode.startswith(DEEP):
                image = image.convert("RGB")  # from a palette, CMYK, with transparency
        except Exception as error:  # of a damaged file, Pillow's readers raise whatever they stumble over
            raise ValueError(f"{file} cannot be read as an image: {error}") from error
        if image.mode.startswith(DEEP):
            raise ValueError(f"{file} has more than 8 bits per channel (mode {image.mode}), expected 8; convert it")
        if image.mode not in GREY and self._channels == 1 and not self._grey:
            raise ValueError(f"{file} has colours, but the first image is grey; choose channels=1 or 3 (--channels)")
        channels = self._channels or (1 if image.mode in GREY else 3)
        image = image.convert("L" if channels == 1 else "RGB")
        if self.size is not None:
            side = min(image.size)
            left, top = ((length - side) // 2 for length in image.size)
            image = image.crop((left, top, left + side, top + side))
            image = image.resize((self.size, self.size), Image.Resampling.LANCZOS)
        pixels = np.asarray(image).reshape(*image.size[::-1], channels).transpose(2, 0, 1)
        if self._shape not in (None, pixels.shape):
            size, first = (f"{width}×{height}" for _, height, width in (pixels.shape, self._shape))
            given = f"{file} has {size} pixels, but {self.files[0].name} has {first}"
            raise ValueError(f"{given}: all must have one size. Give size= (--size) to cut and resize them")
        return pixels


def _folder(path: str | os.PathLike) -> Path:
    if not Path(path).is_dir():
        raise FileNotFoundError(f"there is no folder {path}")
    return Path(path)


def _images_in(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the images in a folder and the folders below it, through links, but not those back to a folder above."""
    here = os.path.realpath(folder)
    if here in above:
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _images_in(path, (*above, here))
        # A link that leads nowhere is an image that cannot be read: it must not be missing without a word.
        elif path.suffix.lower() in SUFFIXES and (path.is_file() or path.is_symlink()):
            yield path
