"""Data sets as they come: one tensor, an array, or an iterable of batches such as a ``DataLoader``."""

import numbers
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from gausstools.denoiser import check_batch

__all__ = ["gather", "labelled_batches", "unlabelled_batches"]


CHANNELS = (1, 3, 4)
"""What the first axis of a single image may have: grey, RGB, RGBA or an autoencoder's latents."""


def unlabelled_batches(data: Tensor | np.ndarray | Iterable) -> Iterator[Tensor]:
    """Yield the batches ``(n, *event)`` of a data set; of a batch that is a tuple or list, its first entry."""
    for x, *_ in _batches(data):
        yield x


def labelled_batches(data: Tensor | np.ndarray | Iterable, labels: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pairs of a batch and its integer labels, checked: from one tensor and its labels, or a loader of pairs."""
    for batch in _batches(data) if labels is None else [[data, labels]]:
        if len(batch) < 2:
            raise TypeError(f"data yield {type(batch[0]).__name__}, expected pairs (x, labels); or give labels")
        x, y = (torch.as_tensor(part) for part in batch[:2])
        check_batch(x, name="data")
        if y.shape != x.shape[:1] or y.is_floating_point() or y.is_complex():
            raise ValueError(f"labels are {y.dtype} of shape {tuple(y.shape)}, expected integers of shape ({len(x)},)")
        yield x, y


def gather(data: Tensor | np.ndarray | Iterable) -> Tensor:
    """Return the whole data set as one tensor ``(n, *event)``, checked, n >= 1; one tensor comes back as it is."""
    parts = []
    for batch in unlabelled_batches(data):
        check_batch(batch, parts[0].shape[1:] if parts else None, "data")
        parts.append(batch.detach())
    if not sum(map(len, parts)):
        raise ValueError("no data was given: expected at least one batch with at least one row")
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _batches(data: Tensor | np.ndarray | Iterable) -> Iterator[list]:
    """Yield each batch as a list: the points, then what comes with them. Single images are told by label or shape."""
    if not isinstance(data, Iterable):
        raise TypeError(f"data is {type(data).__name__}, expected a tensor or batches; of a Dataset, give a DataLoader")
    before = None
    for batch in [data] if isinstance(data, Tensor | np.ndarray) else data:
        x, *rest = batch if isinstance(batch, tuple | list) and batch else [batch]
        x = torch.from_numpy(x) if isinstance(x, np.ndarray) else x
        shape = tuple(getattr(x, "shape", ()))
        labelled = rest and shape and (isinstance(rest[0], str | numbers.Number) or getattr(rest[0], "ndim", 1) == 0)
        if labelled or (shape == before and len(shape) == 3 and shape[0] in CHANNELS):
            kind = "pairs of one label and tensors" if labelled else "tensors"
            raise ValueError(
                f"data yield {kind} of shape {shape}: single images, not batches. torch.stack them, or give "
                "DataLoader(data, batch_size=256); torch.cat them if they are batches after all"
            )
        before = shape
        yield [x, *rest]
