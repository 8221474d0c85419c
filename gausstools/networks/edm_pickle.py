"""EDM's published pickles, read without running them.

Such a file holds Python objects together with the source code of their classes, and whoever unpickles it runs that
code. Here it is read as a text is: every object becomes a note of what the file says about it, and a name that is not
on a short list ends the reading. Out of the notes come the arguments and the weights of a
:class:`gausstools.networks.DDPMpp`. No name in the file is ever imported or called.
"""

import io
import math
import os
import pickle
import pickletools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from gausstools.models import files
from gausstools.networks.ddpmpp import DDPMpp
from gausstools.networks.edm import EDM

__all__ = ["load"]

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
MODULES = "torch.nn.modules.container.ModuleDict"
MAPPINGS = ("collections.OrderedDict", "dnnlib.util.EasyDict")
PARAMETER = "torch._utils._rebuild_parameter"
TENSOR = "torch._utils._rebuild_tensor_v2"
STORAGE = "torch.storage._load_from_bytes"
UNUSED = (  # what these files hold beside arguments and weights
    "builtins.set",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)
NAMES = frozenset([PERSISTENT, MODULES, *MAPPINGS, PARAMETER, TENSOR, STORAGE, *UNUSED])
DEEPEST = 10  # modules within modules; the published networks have four


def load(path: str | os.PathLike) -> EDM:
    """Return the denoiser in a published EDM pickle: on the CPU, in float32, to be asked and not trained.

    It takes networks with EDM's preconditioning and the architecture DDPM++ or NCSN++, such as
    ``edm-cifar10-32x32-uncond-vp.pkl``; or ``edm-cifar10-32x32-cond-vp.pkl``, which can be told the class of an image.
    The whole file is held in memory meanwhile.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or holds something else; what that is, is named and has not been run.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "network.pkl"
    ...     _ = path.write_bytes(pickle.dumps({"ema": print}))
    ...     load(path)
    Traceback (most recent call last):
    ...
    ValueError: ...network.pkl asks for builtins.print, which no EDM network needs. Nothing of it was run...
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return _build(_read(path.read_bytes()))
    except _Refused as refused:
        raise ValueError(f"{path} {refused}") from refused.__cause__


class _Refused(Exception):
    """A complaint about the file, to be read after its name."""


class _Note:
    """What the file says about one object: its name, its arguments, its items and its state."""

    name = ""

    def __new__(cls, *args):
        note = super().__new__(cls)
        note.args, note.items, note.state = args, {}, None
        return note

    def __setitem__(self, key, value):
        self.items[key] = value

    def __setstate__(self, state):
        self.state = state


class _Reader(pickle.Unpickler):
    """An unpickler that takes notes."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.kinds = {}

    def find_class(self, module: str, name: str) -> type:
        full = f"{module}.{name}"
        if full not in NAMES:
            raise _Refused(
                f"asks for {full}, which no EDM network needs. Nothing of it was run. Expected a published EDM pickle; "
                "get the file from its authors again, and do not unpickle this one"
            )
        if full not in self.kinds:
            self.kinds[full] = type(full, (_Note,), {"name": full})
        return self.kinds[full]


def _read(content: bytes) -> object:
    """The notes on a pickle."""
    try:
        # This first pass finds false lengths, and indices that would make the second one ask for gigabytes.
        for count, (operation, value, _) in enumerate(pickletools.genops(content)):
            if operation.name.startswith("EXT"):
                raise _Refused(f"uses {operation.name}, an operation that no EDM pickle uses; nothing of it was run")
            if "PUT" in operation.name and value > count:
                raise _Refused(f"is no sound pickle: it stores object number {value} at step {count}")
        return _Reader(io.BytesIO(content)).load()
    except _Refused:
        raise
    except Exception as error:  # what a damaged pickle raises is not specified
        raise _Refused(
            f"is no complete pickle ({type(error).__name__}: {error}); expected a published EDM pickle. "
            "Download it again"
        ) from error


def _build(content: object) -> EDM:
    outer = _mapping(content, "the file").get("ema")
    denoiser = _state(outer, "'ema'")
    _expect_class(outer, "EDMPrecond", "EDM's preconditioning")
    network = _mapping(denoiser.get("_modules"), "'ema'").get("model")
    arguments = _state(network, "'ema.model'").get("_init_kwargs")
    _expect_class(network, "SongUNet", "DDPM++ and NCSN++")
    arguments = {name: _plain(value, name) for name, value in _mapping(arguments, "the network's arguments").items()}
    sigma_data = _plain(denoiser.get("sigma_data"), "sigma_data")
    try:
        with torch.device("meta"):  # shapes only: the file does not get to allocate what it has no weights for
            rebuilt = DDPMpp(**arguments)
        files.fill(rebuilt, dict(_weights(network, "", 0, set())))
        if not isinstance(sigma_data, (int, float)):
            raise TypeError(f"sigma_data is {sigma_data!r}, expected a number")
        return EDM(rebuilt, rebuilt.event_shape, sigma_data).eval().requires_grad_(False)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _Refused(f"holds no network that can be rebuilt: {error}") from error


def _weights(module: object, prefix: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name, as ``state_dict`` has them."""
    if depth > DEEPEST or id(module) in seen:  # a few bytes can nest or repeat modules without end
        raise _Refused(f"is no sound pickle: its modules repeat, or nest deeper than {DEEPEST}, at {prefix!r}")
    seen.add(id(module))
    state = _state(module, repr(prefix))
    for group in ("_parameters", "_buffers"):
        for name, value in _mapping(state.get(group), f"{prefix}{group}").items():
            if value is not None:
                yield f"{prefix}{name}", _tensor(value, f"{prefix}{name}")
    for name, child in _mapping(state.get("_modules"), f"{prefix}_modules").items():
        if child is not None:
            yield from _weights(child, f"{prefix}{name}.", depth + 1, seen)


def _tensor(note: object, where: str) -> Tensor:
    if _name(note) == PARAMETER and note.args:
        note = note.args[0]
    if _name(note) != TENSOR or len(note.args) < 4 or _name(note.args[0]) != STORAGE:
        raise _Refused(f"has {_describe(note)} at {where}, expected a tensor")
    storage, offset, size, stride = note.args[:4]
    values = _storage(storage.args, where)
    whole = [*size, *stride, offset] if isinstance(size, tuple) and isinstance(stride, tuple) else [None]
    if not all(type(number) is int and number >= 0 for number in whole) or math.prod(size) > len(values):
        raise _Refused(f"has a tensor of size {size}, stride {stride} and offset {offset} on {len(values)} values")
    try:
        return values.as_strided(size, stride, offset).to(torch.float32, copy=True)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise _Refused(f"has no sound tensor at {where} ({error})") from error


def _storage(args: tuple, where: str) -> Tensor:
    """The numbers behind a tensor, which stand in the file as a pickle of their own: PyTorch's restricted reader."""
    if len(args) != 1 or not isinstance(args[0], bytes):
        raise _Refused(f"has no bytes for the tensor at {where}")
    # PyTorch writes these in its old format. The new one is a zip, of which a few bytes can make gigabytes.
    if args[0].startswith(b"PK"):
        raise _Refused(f"has a zip archive for the tensor at {where}, expected PyTorch's old format")
    try:
        storage = torch.load(io.BytesIO(args[0]), map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch's reader raises many kinds
        reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise _Refused(f"has unreadable numbers for the tensor at {where} ({reason}); nothing of it was run") from error
    if not isinstance(storage, torch.storage.TypedStorage) or not storage.dtype.is_floating_point:
        raise _Refused(f"has {type(storage).__name__} for the tensor at {where}, expected a storage of floats")
    return torch.empty(0, dtype=storage.dtype).set_(storage)


def _state(note: object, where: str) -> dict:
    """The attributes of a module."""
    if _name(note) == PERSISTENT and len(note.args) == 1:
        return _mapping(_mapping(note.args[0], where).get("state"), where)
    if _name(note) == MODULES:
        return _mapping(note.state, where)
    raise _Refused(f"has {_describe(note)} at {where}, expected a network")


def _expect_class(note: _Note, expected: str, meaning: str) -> None:
    name = _mapping(note.args[0], expected).get("class_name") if note.args else None
    if name != expected:
        raise _Refused(f"holds the class {name!r}, expected {expected!r}: only {meaning} can be rebuilt")


def _mapping(value: object, where: str) -> dict:
    if isinstance(value, dict):
        return value
    if _name(value) in MAPPINGS and not value.args and not value.state:
        return value.items
    raise _Refused(f"has {_describe(value)} at {where}, expected a dictionary")


def _plain(value: object, name: str) -> object:
    """An argument, if it is a number, a text, or a list of these."""
    if isinstance(value, (list, tuple)):
        return [_plain(entry, name) if not isinstance(entry, (list, tuple)) else None for entry in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise _Refused(f"has {_describe(value)} for {name}, expected a number, a text or a list of these")


def _name(value: object) -> str:
    return value.name if isinstance(value, _Note) else ""


def _describe(value: object) -> str:
    return _name(value) or ("nothing" if value is None else f"a {type(value).__name__}")
