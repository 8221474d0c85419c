"""Clocks and gauges: time beside the machine's own rate in the same minute, memory of a call, its largest tensor."""

import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SIDE = 3072
"""Of the square matrices whose product gives the machine's rate."""

SHORTEST = 0.1  # seconds that a measurement should last; a shorter call is repeated within it


class Timing(NamedTuple):
    """Medians over the repetitions, in seconds."""

    taken: float
    floor: float
    times_floor: float  # of the ratios within each repetition, so that a slow minute slows both


class Machine:
    """The rate of a square matrix product, measured anew beside each question."""

    def __init__(self):
        self._factors = {dtype: torch.randn(SIDE, SIDE, dtype=dtype) for dtype in (torch.float32, torch.float64)}
        self._measured: dict[torch.dtype, list[float]] = {dtype: [] for dtype in self._factors}
        for dtype in self._factors:
            clock(lambda dtype=dtype: self._factors[dtype] @ self._factors[dtype])
            self.seconds_per_operation(dtype)

    def seconds_per_operation(self, dtype: torch.dtype = torch.float32) -> float:
        """Return what one operation of a product takes now."""
        factor = self._factors[dtype]
        seconds = clock(lambda: factor @ factor) / (2 * SIDE**3)
        self._measured[dtype].append(1 / seconds)
        return seconds

    def rate(self, dtype: torch.dtype) -> float:
        """Return the median of all rates so far, in operations per second."""
        return statistics.median(self._measured[dtype])

    def compare(self, question: Callable, operations: float, repeats: int = 7) -> Timing:
        """Return the time of a float32 question and of as many operations of a product, taken in turns."""
        question()
        calls = max(1, round(SHORTEST / clock(question)))
        floors, times = [], []
        for _ in range(repeats):
            floors.append(operations * self.seconds_per_operation())
            times.append(clock(question, calls))
        ratios = [taken / floor for taken, floor in zip(times, floors, strict=True)]
        return Timing(*map(statistics.median, (times, floors, ratios)))


def clock(question: Callable, calls: int = 1) -> float:
    """Return the seconds that one of several calls takes."""
    begun = time.perf_counter()
    for _ in range(calls):
        question()
    return (time.perf_counter() - begun) / calls


def typical(question: Callable, repeats: int = 3) -> float:
    """Return the median of the seconds that a call takes."""
    return statistics.median(clock(question) for _ in range(repeats))


class LargestTensor(TorchDispatchMode):
    """Within it, ``entries`` is the size of the largest tensor that an operation gave."""

    def __init__(self):
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation and look at its results."""
        results = func(*args, **(kwargs or {}))
        sizes = [result.numel() for result in tree_leaves(results) if isinstance(result, Tensor)]
        self.entries = max([self.entries, *sizes])
        return results


def apart(function: Callable, *arguments):
    """Return ``function(*arguments)`` from a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def can_tell_memory() -> bool:
    """Whether ``extra_memory`` works here: Linux alone keeps a peak that can start anew."""
    return Path("/proc/self/clear_refs").exists()


def extra_memory(question: Callable) -> int:
    """Return by how many bytes the memory of this process grows at most during a call."""
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # the peak starts anew from here
    before = _memory("VmRSS")
    question()
    return _memory("VmHWM") - before


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))
