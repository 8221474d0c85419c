"""Data sets as they come: one tensor, an array, or an iterable of batches such as a ``DataLoader``."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from gausstools.denoiser import check_batch

__all__ = ["gather", "labelled_batches", "unlabelled_batches"]


def unlabelled_batches(data: Tensor | np.ndarray | Iterable) -> Iterator[Tensor]:
    """Yield the batches ``(n, *event)`` of a data set; of a batch that is a tuple or list, its first entry."""
    for batch in _batches(data):
        yield batch[0] if isinstance(batch, (tuple, list)) and batch else batch


def labelled_batches(data: Tensor | np.ndarray | Iterable, labels: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pairs of a batch and its integer labels, checked: from one tensor and its labels, or a loader of pairs."""
    for batch in _batches(data) if labels is None else [(data, labels)]:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise TypeError(f"data yield {type(batch).__name__}, expected pairs (x, labels); or give labels")
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


def _batches(data: Tensor | np.ndarray | Iterable) -> Iterator:
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(data)
    if not isinstance(data, Iterable):
        raise TypeError(f"data is {type(data).__name__}, expected a tensor (n, *event) or an iterable of such batches")
    yield from [data] if isinstance(data, Tensor) else data
