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
        content = _unpacked(content, path)
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not 1 <= content[3] <= 3:
        raise ValueError(f"{path} is no idx file of bytes: it begins with {content[:4].hex(' ') or 'nothing'}")
    if content[3] != dims:
        kinds = {1: "labels", 3: "images"}
        found, expected = (f"{kinds.get(count, 'something else')} (idx{count})" for count in (content[3], dims))
        raise ValueError(f"{path} holds {found}, expected {expected}; are two files swapped?")
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
        raise ValueError(
            f"{images} holds {len(pixels)} images and {labels} {len(classes)} labels, expected as many; are they of "
            "different splits?"
        )
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
        contents = {f"{path}:{name}": content for name, content in _members(path, names).items()}
    else:
        files = [path.with_name(name) for name in names]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ValueError(f"{path.parent} lacks {', '.join(missing)}; {AGAIN}")
        contents = {str(file): file.read_bytes() for file in files}
    for file, content in contents.items():
        if not content or len(content) % RECORD:
            raise ValueError(f"{file} holds {len(content)} bytes, expected a multiple of {RECORD} above 0; {AGAIN}")
        _checked(np.frombuffer(content, np.uint8)[::RECORD], file)
    records = np.frombuffer(bytearray().join(contents.values()), np.uint8).reshape(-1, RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].copy()


AGAIN = "it is incomplete or another format: get it again"


def _members(path: Path, names: list[str]) -> dict[str, bytes]:
    found = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                if name in names and member.isfile():
                    found[name] = archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); get it again") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; expected CIFAR-10's binary version")
    return {name: found[name] for name in names}


def _unpacked(content: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); get it again") from error


def _checked(labels: np.ndarray, path: Path | str) -> np.ndarray:
    if len(labels) == 0:
        raise ValueError(f"{path} holds no labels, expected at least one")
    if labels.max() > 9:
        raise ValueError(f"{path} holds the label {labels.max()}, expected 0 to 9; is it another data set?")
    return labels.copy()
