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
BYTES = "_codecs.encode"  # of a text, before protocol 3
NUMBERS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
DTYPE = "numpy.dtype"
UNUSED = ("builtins.set", "__builtin__.set")  # what these files hold beside arguments and weights
DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
}
NAMES = frozenset(
    [PERSISTENT, MODULES, *MAPPINGS, PARAMETER, TENSOR, STORAGE, BYTES, *NUMBERS, DTYPE, *UNUSED, *DTYPES]
)
VALUES = {operation.name for operation in pickletools.opcodes if operation.arg and operation.stack_after} - {
    *("GET", "BINGET", "LONG_BINGET", "GLOBAL", "INST", "PERSID", "EXT1", "EXT2", "EXT4")
}
OLD_FORMAT = (0x1950A86A20F9469CFC6C, 1001)  # of PyTorch: its magic number and version
MARK = object()  # where a group of items begins on the stack
CONSTANTS = {"MARK": MARK, "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list}  # no file needs its sets
LONGEST = 500_000  # operations; the published networks have a fifth of that
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
        return _build(_whole(content), len(content))
    except _Refused as refused:
        raise ValueError(f"{path} {str(refused)[:1000]}") from refused.__cause__


class _Refused(Exception):
    """A complaint about the file, to be read after its name."""


class _Name:
    """A name in the file, of a class or a function."""

    def __init__(self, name: str):
        self.name = name


class _Note:
    """What the file says about one object: the name it is made by, its arguments, its items and its state."""

    def __init__(self, name: str, args: tuple):
        self.name, self.args, self.items, self.state = name, args, {}, None


def _whole(content: bytes) -> object:
    try:
        return _read(io.BytesIO(content), len(content))
    except _Refused:
        raise
    except Exception as error:  # what a damaged pickle raises is not specified
        raise _Refused(
            f"is no complete pickle ({type(error).__name__}: {error}); expected a published EDM pickle. "
            "Download it again"
        ) from error


def _since_mark(stack: list) -> list:
    items = []
    while (item := stack.pop()) is not MARK:
        items.append(item)
    return items[::-1]


def _read(file: io.BytesIO, size: int) -> object:
    """Return the object of the next pickle in a file, with notes in place of what has a name."""
    stack, memo = [], {}
    # Nothing here hashes, compares or prints an object of the file other than a text or a number: a few bytes can nest
    # tuples so that each of these takes for ever.
    for count, (operation, value, _) in enumerate(pickletools.genops(file)):
        if count == LONGEST:
            raise _Refused(f"has more than {LONGEST:,} operations, far more than any EDM pickle")
        match operation.name:
            case "PROTO" | "FRAME" as name:
                if value > (5 if name == "PROTO" else size - file.tell()):
                    raise ValueError(f"{name} {value}")
            case "STOP":
                pass
            case name if name in VALUES:
                stack.append(value)
            case name if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case name if name in EMPTY:
                stack.append(EMPTY[name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                stack.append(tuple([stack.pop() for _ in range(int(name[-1]))][::-1]))
            case "TUPLE":
                stack.append(tuple(_since_mark(stack)))
            case "APPEND" | "APPENDS" | "ADDITEMS" as name:
                items = [stack.pop()] if name == "APPEND" else _since_mark(stack)
                _typed(stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS" as name:
                items = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else _since_mark(stack)
                target = stack[-1].items if isinstance(stack[-1], _Note) else _typed(stack[-1], dict)
                for key, item in zip(items[::2], items[1::2], strict=True):
                    if isinstance(key, str):
                        target[key] = item
                    elif not isinstance(key, (int, float)):  # which nobody looks up
                        raise _Refused(f"has {_describe(key)} as the key of a dictionary, expected text or a number")
            case "GLOBAL" | "STACK_GLOBAL" | "INST" as name:
                full = ".".join(
                    reversed([_typed(stack.pop(), str), _typed(stack.pop(), str)])
                    if name == "STACK_GLOBAL"
                    else value.split(" ")
                )
                if full not in NAMES:
                    raise _Refused(
                        f"asks for {full}, which no EDM network needs. Nothing of it was run. Expected a published EDM "
                        "pickle; get the file from its authors again, and do not unpickle this one"
                    )
                stack.append(_Note(full, tuple(_since_mark(stack))) if name == "INST" else _Name(full))
            case "REDUCE" | "NEWOBJ":
                args, called = _typed(stack.pop(), tuple), _typed(stack.pop(), _Name)
                stack.append(_Note(called.name, args))
            case "BINPERSID":
                stack.append(_Note("persistent id", (stack.pop(),)))
            case "BUILD":
                state = stack.pop()
                _typed(stack[-1], _Note).state = state
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                if value > count:
                    raise _Refused(f"is no sound pickle: it stores object number {value} at step {count}")
                memo[value] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case name:
                raise ValueError(f"{name} is an operation that no EDM pickle uses")
    return stack.pop()


def _build(content: object, size: int) -> EDM:
    outer = _mapping(content, "the file").get("ema")
    denoiser = _state(outer, "'ema'")
    _expect_class(_class(outer), "EDMPrecond", "EDM's preconditioning")
    network = _mapping(denoiser.get("_modules"), "'ema'").get("model")
    arguments = _state(network, "'ema.model'").get("_init_kwargs")
    _expect_class(_class(network), "SongUNet", "DDPM++ and NCSN++")
    arguments = {name: _plain(value, name) for name, value in _mapping(arguments, "the network's arguments").items()}
    layers = dict(_layers(network, "", 0, set()))
    sigma_data = _plain(denoiser.get("sigma_data"), "sigma_data")
    try:
        with torch.device("meta"):  # shapes only: the file does not get to allocate what it has no weights for
            rebuilt = DDPMpp(**arguments)
        files.fill(rebuilt, dict(_weights(layers, size)))
        _check_layers(layers, rebuilt.published())
        _check_constants(denoiser, {"label_dim": rebuilt.classes}, "'ema'")
        if not isinstance(sigma_data, (int, float)):
            raise TypeError(f"sigma_data is {sigma_data!r}, expected a number")
        return EDM(rebuilt, rebuilt.event_shape, sigma_data).eval().requires_grad_(False)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _Refused(f"holds no network that can be rebuilt: {error}") from error


def _layers(module: object, name: str, depth: int, seen: set[int]) -> Iterator[tuple[str, tuple[str, dict]]]:
    """The class and the attributes of each module by name, as ``named_modules`` has them."""
    if depth > DEEPEST or len(name) > 1000 or id(module) in seen:  # a few bytes can nest or repeat modules without end
        raise _Refused(f"is no sound pickle: its modules repeat, or nest deeper than {DEEPEST}, at {name[:100]!r}")
    seen.add(id(module))
    state = _state(module, repr(name))
    yield name, (_class(module), state)
    for inner, child in _mapping(state.get("_modules"), f"{name}._modules").items():
        if child is not None:
            yield from _layers(child, f"{name}.{inner}" if name else inner, depth + 1, seen)


def _weights(layers: dict[str, tuple[str, dict]], size: int) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name, as ``state_dict`` has them."""
    for layer, (_, state) in layers.items():
        for group in ("_parameters", "_buffers"):
            for name, value in _mapping(state.get(group), f"{layer}{group}").items():
                if value is not None:
                    where = f"{layer}.{name[:100]}" if layer else name[:100]
                    tensor, read = _tensor(value, where)
                    size -= read
                    if size < 0:
                        raise _Refused(f"has the same numbers for several weights; at {where} they exceed the file")
                    yield where, tensor


def _check_layers(found: dict[str, tuple[str, dict]], expected: dict[str, tuple[str, dict]]) -> None:
    # The published networks go through enc and dec in the order of the file.
    ours, theirs = ([name for name in layers if name.count(".") == 1] for layers in (expected, found))
    if found.keys() != expected.keys() or ours != theirs:
        odd = min(found.keys() ^ expected.keys(), default="their order")
        raise _Refused(f"has other layers than a network of these arguments: they differ in {odd}")
    for name, (kind, constants) in expected.items():
        _expect_class(found[name][0], kind, f"a {kind} at {name!r}")
        _check_constants(found[name][1], constants, repr(name))


def _check_constants(state: dict, constants: dict[str, float | int], where: str) -> None:
    """Refuse a layer that computes with other constants than here."""
    for name, expected in constants.items():
        value = _plain(state.get(name, expected), name)
        if not isinstance(value, (int, float)) or not math.isclose(value, expected):
            raise _Refused(f"has {name} {value!r} at {where}, expected {expected!r}: only that can be rebuilt")


def _tensor(note: object, where: str) -> tuple[Tensor, int]:
    """A tensor in float32, and how many bytes of the file it was read from."""
    if _name(note) == PARAMETER and note.args:
        note = note.args[0]
    if _name(note) != TENSOR or len(note.args) < 4 or _name(note.args[0]) != STORAGE or len(note.args[0].args) != 1:
        raise _Refused(f"has {_describe(note)} at {where}, expected a tensor")
    storage, offset, size, stride = note.args[:4]
    content = _bytes(storage.args[0], where)
    values = _storage(content, where)
    whole = [*size, *stride, offset] if isinstance(size, tuple) and isinstance(stride, tuple) else [None]
    sound = len(whole) < 10 and all(type(number) is int and 0 <= number < 2**40 for number in whole)
    if not sound or math.prod(size) > len(values):
        size, stride, offset = map(reprlib.repr, (size, stride, offset))
        raise _Refused(f"has a tensor of size {size}, stride {stride} and offset {offset} on {len(values)} values")
    try:
        return values.as_strided(size, stride, offset).to(torch.float32, copy=True), len(content)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise _Refused(f"has no sound tensor at {where} ({error})") from error


def _storage(content: bytes, where: str) -> Tensor:
    """The numbers behind a tensor, in PyTorch's old format: they follow on five pickles."""
    # PyTorch writes these in its old format. The new one is a zip, of which a few bytes can make gigabytes.
    if content.startswith(b"PK"):
        raise _Refused(f"has a zip archive for the tensor at {where}, expected PyTorch's old format")
    try:
        file = io.BytesIO(content)
        magic, version, machine, storage, keys = (_read(file, len(content)) for _ in range(5))
        _, kind, key, _, count, view = _typed(storage, _Note).args[0]
        start = file.tell() + 8
        if (
            (magic, version) != OLD_FORMAT
            or _typed(machine, dict).get("little_endian") is not True
            or view is not None
            or keys != [_typed(key, str)]
            or _typed(count, int) != int.from_bytes(content[start - 8 : start], "little")
            or len(content) - start != count * DTYPES[kind.name].itemsize
        ):
            raise ValueError("its parts do not fit")
        return torch.frombuffer(bytearray(memoryview(content)[start:]), dtype=DTYPES[kind.name])
    except Exception as error:  # what is no such file can fail at each step
        raise _Refused(
            f"has unreadable numbers for the tensor at {where}, expected a storage of floats in PyTorch's old format "
            f"({type(error).__name__.strip('_')}: {error}); nothing of it was run"
        ) from error


def _bytes(value: object, where: str) -> bytes:
    if _name(value) == BYTES and len(value.args) == 2 and all(isinstance(part, str) for part in value.args):
        value = value.args[0].encode("latin1")
    if not isinstance(value, bytes):
        raise _Refused(f"has no bytes for the tensor at {where}")
    return value


def _state(note: object, where: str) -> dict:
    """The attributes of a module."""
    if _name(note) == PERSISTENT and len(note.args) == 1:
        return _mapping(_mapping(note.args[0], where).get("state"), where)
    if _name(note) == MODULES:
        return _mapping(note.state, where)
    raise _Refused(f"has {_describe(note)} at {where}, expected a network")


def _class(note: _Note) -> object:
    """The name of the class of a module."""
    return "ModuleDict" if note.name == MODULES else _mapping(note.args[0], "a network").get("class_name")


def _expect_class(name: object, expected: str, meaning: str) -> None:
    if not isinstance(name, str) or name != expected:
        raise _Refused(f"holds the class {reprlib.repr(name)}, expected {expected!r}: only {meaning} can be rebuilt")


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
        value = _number(value)
    short = len(value) <= 100 if isinstance(value, str) else not isinstance(value, int) or abs(value) < 2**63
    if short and (value is None or isinstance(value, (bool, int, float, str))):
        return value
    raise _Refused(f"has {_describe(value)} for {name[:100]}, expected a number, a text or a list of these")


def _number(note: _Note) -> float | int | _Note:
    """A number of numpy, or the note if it is no sound one."""
    try:
        dtype, data = note.args
        order, kind = dtype.state[1], dtype.args[0]
        sound = order in ("<", ">", "|") and kind in ("b1", "i4", "i8", "f4", "f8")
        return np.frombuffer(_bytes(data, ""), order + kind).item() if sound else note
    except (AttributeError, LookupError, TypeError, ValueError, _Refused):
        return note


def _typed(value: object, kind: type) -> object:
    if not isinstance(value, kind):
        raise TypeError(f"{_describe(value)}, expected {kind.__name__}")
    return value


def _name(value: object) -> str:
    return value.name if isinstance(value, _Note) else ""


def _describe(value: object) -> str:
    return _name(value) or ("nothing" if value is None else f"a {type(value).__name__}")
