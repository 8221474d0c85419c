"""EDM's published pickles, read without running them.

Such a file holds Python objects together with the source code of their classes, and whoever unpickles it runs that
code. Here it is read as a text is: every object becomes a note of what the file says about it, and a name that is not
on a short list ends the reading. Out of the notes come the arguments and the weights of a
:class:`gausstools.networks.DDPMpp`. No name in the file is ever imported or called.

The source code in the file is not looked at, but each layer must state the class and the constants that its counterpart
in :class:`gausstools.networks.DDPMpp` computes with.
"""

import io
import math
import os
import pickletools
import reprlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

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
NUMBERS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
DTYPES = {"torch.FloatStorage": torch.float32, "torch.HalfStorage": torch.float16}
NAMES = {PERSISTENT, MODULES, *MAPPINGS, PARAMETER, TENSOR, STORAGE, *NUMBERS, *DTYPES, "numpy.dtype", "builtins.set"}
VALUES = {operation.name for operation in pickletools.opcodes if operation.arg and operation.stack_after} - {
    *("GET", "BINGET", "LONG_BINGET", "GLOBAL", "INST", "PERSID", "EXT1", "EXT2", "EXT4")
}
MARK = object()  # where a group of items begins on the stack
SINGLE = {"MARK": MARK, "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list}  # no file needs its sets
LONGEST = 500_000  # operations; the published networks have a fifth of that


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
    ...     _ = path.write_bytes(b"cbuiltins\\nprint\\n.")
    ...     load(path)
    Traceback (most recent call last):
    ...
    ValueError: ...network.pkl asks for builtins.print, which no EDM network needs. Nothing of it was run...
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    content = path.read_bytes()
    try:
        return _build(_read(io.BytesIO(content)), len(content))
    except Exception as error:  # what a damaged pickle raises is not specified
        complaint = f"is no complete pickle of an EDM network ({type(error).__name__}: {error}); download it again"
        raise ValueError(f"{path} {str(error if isinstance(error, _Refused) else complaint)[:1000]}") from error


class _Refused(Exception):
    """A complaint about the file, to be read after its name."""


class _Note:
    """What the file says about one object: the name it is made by, its arguments, its items and its state."""

    def __init__(self, name: str, args: tuple = ()):
        self.name, self.args, self.items, self.state = name, args, {}, None


def _taken(stack: list, count: int | None) -> list:
    """So many items off the top of the stack, or, if that is None, all above the mark, and the mark itself."""
    items = []
    while len(items) != count and (item := stack.pop()) is not MARK:
        items.append(item)
    return items[::-1]


def _read(file: io.BytesIO) -> object:
    """Return the object of the next pickle in a file, with notes in place of what has a name."""
    stack, memo = [], {}
    # Nothing here hashes, compares or prints an object of the file other than a text or a number: a few bytes can nest
    # tuples so that each of these takes for ever.
    for count, (operation, value, _) in enumerate(pickletools.genops(file)):
        if count == LONGEST:
            raise _Refused(f"has more than {LONGEST:,} operations, far more than any EDM pickle")
        match operation.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case name if name in VALUES:
                stack.append(value)
            case name if name in SINGLE:
                stack.append(SINGLE[name])
            case name if name in EMPTY:
                stack.append(EMPTY[name]())
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                stack.append(tuple(_taken(stack, int(name[5:]) if name[5:] else None)))
            case "APPEND" | "APPENDS" | "ADDITEMS" as name:
                items = _taken(stack, 1 if name == "APPEND" else None)
                _typed(stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS" as name:
                items = _taken(stack, 2 if name == "SETITEM" else None)
                target = stack[-1].items if isinstance(stack[-1], _Note) else _typed(stack[-1], dict)
                pairs = zip(items[::2], items[1::2], strict=True)
                target.update((key, item) for key, item in pairs if isinstance(key, str))  # nobody looks up others
            case "GLOBAL" | "STACK_GLOBAL" as name:
                full = ".".join([stack.pop(-2), stack.pop()] if name == "STACK_GLOBAL" else value.split(" "))
                if full not in NAMES:
                    raise _Refused(
                        f"asks for {full}, which no EDM network needs. Nothing of it was run. Expected a published EDM "
                        "pickle; get the file from its authors again, and do not unpickle this one"
                    )
                stack.append(_Note(full))
            case "REDUCE" | "NEWOBJ":
                args = _typed(stack.pop(), tuple)
                stack.append(_Note(_typed(stack.pop(), _Note).name, args))
            case "BINPERSID":
                stack.append(_Note("persistent id", (stack.pop(),)))
            case "BUILD":
                state = stack.pop()
                _typed(stack[-1], _Note).state = state
            case "MEMOIZE" | "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[len(memo) if value is None else value] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case name:
                raise _Refused(f"has the operation {name} {str(value)[:100]}, which no EDM pickle uses; none was run")
    return stack.pop()


def _build(content: object, size: int) -> EDM:
    kind, denoiser = _module(_mapping(content, "the file").get("ema"), "'ema'")
    _expect("the class", kind, "EDMPrecond", "'ema'")
    network = _mapping(denoiser.get("_modules"), "'ema'").get("model")
    kind, state = _module(network, "'ema.model'")
    _expect("the class", kind, "SongUNet", "'ema.model'")
    arguments = _mapping(state.get("_init_kwargs"), "the network's arguments")
    with torch.device("meta"):  # shapes only: the file does not get to allocate what it has no weights for
        ours = DDPMpp(**{name: _plain(value, name) for name, value in arguments.items()})
    weights = {}
    for name, (tensor, read) in _weights(network, ours, ""):
        size -= read
        if size < 0:
            raise _Refused(f"has the same numbers for several weights; at {name} they exceed the file")
        weights[name] = tensor
    files.fill(ours, weights)
    _expect("label_dim", denoiser.get("label_dim"), ours.classes, "'ema'")
    return EDM(ours, ours.event_shape, _plain(denoiser.get("sigma_data"), "sigma_data")).eval().requires_grad_(False)


def _module(note: object, where: str) -> tuple[object, dict]:
    """The class of a module, by its name, and its attributes."""
    if _name(note) == MODULES:
        return "ModuleDict", _mapping(note.state, where)
    if _name(note) == PERSISTENT and len(note.args) == 1:
        meta = _mapping(note.args[0], where)
        return meta.get("class_name"), _mapping(meta.get("state"), where)
    raise _Refused(f"has {_describe(note)} at {where}, expected a network")


def _weights(note: object, ours: nn.Module, name: str) -> Iterator[tuple[str, tuple[Tensor, int]]]:
    """What a module in the file has in place of the weights of ours, whose parts and constants it must state."""
    kind, state = _module(note, repr(name))
    if name:
        _expect("the class", kind, type(ours).__name__.removeprefix("_"), repr(name))
    for constant in vars(ours).keys() & state.keys() - {"training"}:
        if not constant.startswith("_"):
            _expect(constant, state[constant], getattr(ours, constant), repr(name))
    groups = [_mapping(state.get(group), repr(name)) for group in ("_parameters", "_buffers", "_modules")]
    found = {part: value for group in groups for part, value in group.items() if value is not None}
    parts = dict([*ours.named_parameters(recurse=False), *ours.named_buffers(recurse=False), *ours.named_children()])
    # The published networks go through enc and dec in the order of the file.
    if found.keys() != parts.keys() or (isinstance(ours, nn.ModuleDict) and list(found) != list(parts)):
        odd = reprlib.repr(sorted(found.keys() ^ parts.keys()) or "their order")
        raise _Refused(f"has other parts at {name!r} than a network of these arguments: they differ in {odd}")
    for part, value in found.items():
        where = f"{name}.{part}" if name else part
        if isinstance(parts[part], nn.Module):
            yield from _weights(value, parts[part], where)
        else:
            yield where, _tensor(value, tuple(parts[part].shape), where)


def _expect(what: str, found: object, expected: str | float | int, where: str) -> None:
    """Refuse a class or a constant other than those that are computed with here."""
    found = _plain(found, what)
    if found != expected:
        raise _Refused(f"has {what} {reprlib.repr(found)} at {where}, expected {expected!r}: only that can be rebuilt")


def _tensor(note: object, shape: tuple, where: str) -> tuple[Tensor, int]:
    """A tensor of this shape in float32, and how many bytes of the file it was read from."""
    if _name(note) == PARAMETER and note.args:
        note = note.args[0]
    if _name(note) != TENSOR or _name(note.args[0]) != STORAGE:
        raise _Refused(f"has {_describe(note)} at {where}, expected a tensor")
    try:
        storage, offset, size, stride = note.args[:4]
        (content,) = storage.args
        values = _numbers(_typed(content, bytes))
        if size != shape or math.prod(shape) > len(values):
            raise ValueError(f"size {reprlib.repr(size)} on {len(values)} values, expected {shape}")
        return values.as_strided(shape, stride, offset).to(torch.float32, copy=True), len(content)
    except Exception as error:  # what is no such tensor can fail at each step
        raise _Refused(
            f"has no readable tensor at {where} ({type(error).__name__.strip('_')}: {error}), expected a storage of "
            "floats in PyTorch's old format; nothing of it was run"
        ) from error


def _numbers(content: bytes) -> Tensor:
    """The numbers behind a tensor, in PyTorch's old format: they follow on five pickles and their count."""
    file = io.BytesIO(content)
    _, _, machine, storage, _ = (_read(file) for _ in range(5))
    _, kind, _, _, count, view = _typed(storage, _Note).args[0]
    start, dtype = file.tell() + 8, DTYPES[_typed(kind, _Note).name]
    sound = _typed(machine, dict).get("little_endian") is True and view is None
    if not sound or len(content) - start != _typed(count, int) * dtype.itemsize:
        raise ValueError("its parts do not fit")
    return torch.frombuffer(bytearray(memoryview(content)[start:]), dtype=dtype)


def _mapping(value: object, where: str) -> dict:
    if isinstance(value, dict):
        return value
    if _name(value) in MAPPINGS and not value.args and value.state is None:
        return value.items
    raise _Refused(f"has {_describe(value)} at {where}, expected a dictionary")


def _plain(value: object, name: str) -> object:
    """An argument or an attribute, if it is a number, a text, or a list of these, none of them long."""
    if isinstance(value, (list, tuple)) and len(value) <= 64:
        return [_plain(entry, name) if not isinstance(entry, (list, tuple)) else None for entry in value]
    if _name(value) in NUMBERS:
        dtype, data = value.args
        kind = dtype.state[1] + dtype.args[0]
        value = np.frombuffer(data, kind).item() if kind in ("<f4", "<f8", "<i4", "<i8", "|b1") else value
    short = len(value) <= 100 if isinstance(value, str) else not isinstance(value, int) or abs(value) < 2**63
    if short and (value is None or isinstance(value, (bool, int, float, str))):
        return value
    raise _Refused(f"has {_describe(value)} for {name[:100]}, expected a number, a text or a list of these")


def _typed(value: object, kind: type) -> object:
    if not isinstance(value, kind):
        raise TypeError(f"{_describe(value)}, expected {kind.__name__.strip('_')}")
    return value


def _name(value: object) -> str:
    return value.name if isinstance(value, _Note) else ""


def _describe(value: object) -> str:
    return _name(value) or ("nothing" if value is None else f"a {type(value).__name__}")
