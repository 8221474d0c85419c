"""The files of MNIST and CIFAR-10, read and checked by their layout. Nothing is unpickled.

MNIST's are idx: two zero bytes, the type of the entries (8: unsigned bytes), the number of dimensions, each dimension
as a big-endian 32-bit number, then the entries; often inside gzip. CIFAR-10's binary version has records of 1 label
byte and 3,072 pixel bytes, the red plane first, row by row; five files of them for training, one for testing, in a tar.
"""

import gzip
import math
import struct
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

__all__ = ["read_cifar10", "read_idx", "read_mnist"]

RECORD = 1 + 3 * 32 * 32  # bytes


def read_idx(path: Path, dims: int) -> np.ndarray:
    """Return the unsigned bytes in an idx file, plain or inside gzip, as an array of so many dimensions.

    Raises:
        ValueError: if the file is damaged, or holds something else.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        with _undamaged(path):
            content = gzip.decompress(content)
    if content[:4] != bytes([0, 0, 8, dims]):
        begins = content[:4].hex(" ") or "nothing"
        raise ValueError(f"{path} begins with {begins}, expected 00 00 08 {dims:02}: bytes in {dims} dimensions (idx)")
    start = 4 + 4 * dims
    shape = struct.unpack(f">{dims}I", content[4:start].ljust(4 * dims, b"\x00"))
    if len(content) != start + math.prod(shape):
        raise ValueError(f"{path} holds {len(content)} bytes, expected {start + math.prod(shape)} for {shape}; {AGAIN}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_mnist(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels ``(n, 1, 28, 28)``, 0 to 255, and labels ``(n,)`` of one split, from its two files.

    Raises:
        ValueError: if a file is damaged or holds something else, or the two do not belong together.
    """
    pixels, classes = read_idx(images, 3), read_idx(labels, 1)
    if pixels.shape[1:] != (28, 28):
        raise ValueError(f"{images} holds images of shape {pixels.shape[1:]}, expected (28, 28)")
    if len(pixels) != len(classes):
        counts = f"{images} holds {len(pixels)} images and {labels} {len(classes)} labels"
        raise ValueError(f"{counts}, expected as many; are they of different splits?")
    return pixels[:, None].copy(), _checked(classes, labels)


def read_cifar10(path: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels ``(n, 3, 32, 32)``, 0 to 255, and labels ``(n,)`` in files of CIFAR-10's binary version.

    Args:
        path: one of the files, whose folder has the others; or the tar, in gzip, that holds them.
        names: of the files, in order.

    Raises:
        ValueError: if one is missing or damaged, or holds something else.
    """
    if path.name.endswith(".tar.gz"):
        with _undamaged(path), tarfile.open(path, "r:gz") as archive:
            held = {Path(member.name).name: archive.extractfile(member).read() for member in archive if member.isfile()}
        contents = {name: held[name] for name in names if name in held}
    else:
        files = {name: path.with_name(name) for name in names}
        contents = {name: file.read_bytes() for name, file in files.items() if file.is_file()}
    missing = [name for name in names if name not in contents]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; expected CIFAR-10's binary version, all of it")
    for name, content in contents.items():
        if not content or len(content) % RECORD:
            raise ValueError(f"{name} of {path} holds {len(content)} bytes, expected a multiple of {RECORD}; {AGAIN}")
        _checked(np.frombuffer(content, np.uint8)[::RECORD], f"{name} of {path}")
    records = np.frombuffer(bytearray().join(contents.values()), np.uint8).reshape(-1, RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].copy()


AGAIN = "it is incomplete or another format: get it again"


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); get it again") from error


def _checked(labels: np.ndarray, path: Path | str) -> np.ndarray:
    if not len(labels) or labels.max() > 9:
        found = f"the label {labels.max()}" if len(labels) else "no labels"
        raise ValueError(f"{path} holds {found}, expected 0 to 9; is it another data set?")
    return labels.copy()
