"""Data sets as tensors: images in [-1, 1], labels, class names, in an order that never changes.

The digits come inside scikit-learn's wheel: 1,797 handwritten digits of 8×8 pixels and 17 grey levels, the test part of
UCI's "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998, CC BY 4.0). See ``data/digits.md``.
"""

import os
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Images", "load"]


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
    """Return a data set.

    Args:
        name: "digits".
        split: "train" or "test". For the digits: the first 1,437 and the last 360, in scikit-learn's order.
        data_dir: folder with a data set's own files; not used for the digits, which come with scikit-learn.

    Raises:
        ValueError: for an unknown name or split.
        ImportError: where scikit-learn is not installed.

    >>> digits = load("digits", "test")
    >>> digits.images.shape, digits.images.min().item(), digits.images.max().item()
    (torch.Size([360, 1, 8, 8]), -1.0, 1.0)
    """
    if name not in _LOADERS:
        raise ValueError(f"there is no data set {name!r}; expected one of {', '.join(map(repr, _LOADERS))}")
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}, expected 'train' or 'test'")
    return _LOADERS[name](split, data_dir)


def _digits(split: str, data_dir: str | os.PathLike | None) -> Images:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install 'gausstools[data]'") from error
    bunch = load_digits()
    part = slice(None, _DIGITS_TRAIN) if split == "train" else slice(_DIGITS_TRAIN, None)
    return Images(
        name="digits",
        split=split,
        images=torch.from_numpy(bunch.images[part]).float()[:, None] / 8 - 1,  # 17 grey levels, 0 to 16
        labels=torch.from_numpy(bunch.target[part]).long(),
        class_names=tuple(str(digit) for digit in range(10)),
    )


_DIGITS_TRAIN = 1437
_LOADERS = {"digits": _digits}
