"""The processes that share a command's work under ``accelerate launch``; started by itself, a command is the only one.

accelerate is imported only where there are several.
"""

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

__all__ = ["Processes", "check_device", "join"]


@dataclass(frozen=True)
class Processes:
    """How many processes there are, which one this is, and what they do together.

    Args:
        device: where this one computes.
        number: of this one, from 0; the first prints and writes what is needed once.
        count: of all.
        barrier: waits until all have come so far.
        total: returns the sum of a tensor over all; None if there is one process.
        parallel: makes a network one whose gradients are averaged over all; None if there is one process.

    >>> alone = Processes("cpu")
    >>> alone.number, alone.count, alone.total
    (0, 1, None)
    """

    device: str
    number: int = 0
    count: int = 1
    barrier: Callable[[], None] = lambda: None
    total: Callable[[Tensor], Tensor] | None = None
    parallel: Callable[[nn.Module], nn.Module] | None = None

    @property
    def first(self) -> bool:
        """Whether this is the first of them."""
        return self.number == 0


def join(device: str) -> Processes:
    """Return the processes that were launched together, this one among them, after each has called this.

    Args:
        device: "cpu", or where a single process computes; of several, each gets a device of its own.

    Raises:
        ValueError: if this is the only one, and torch cannot compute on the device.

    >>> join("cpu").count
    1
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Processes(check_device(device))
    from accelerate import Accelerator, PartialState
    from accelerate.utils import reduce

    cpu = device == "cpu"
    state = PartialState(cpu=cpu)
    atexit.register(state.destroy_process_group)
    return Processes(
        device=str(state.device),
        number=state.process_index,
        count=state.num_processes,
        barrier=state.wait_for_everyone,
        total=partial(reduce, reduction="sum"),
        parallel=lambda network: Accelerator(cpu=cpu).prepare_model(network),
    )


def check_device(name: str) -> str:
    """Return the name of a device if torch can compute on it here, else raise ValueError.

    >>> check_device("cpu")
    'cpu'
    """
    try:
        torch.ones(1, device=name).item()
    except (AssertionError, ImportError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device is {name!r}, which torch cannot use here ({reason}); give cpu, or cuda") from error
    return name
