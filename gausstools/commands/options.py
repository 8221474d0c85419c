"""What the commands' options have in common: groups of them, as dataclasses, and what is checked before any work."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path

__all__ = ["check_least", "check_writable", "grouped"]


def grouped(function: Callable) -> Callable:
    """Let arguments that are dataclasses be given field by field, by a command line as by a caller.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Grid:
    ...     steps: int = 18
    ...     high: float = 80.0
    >>> @grouped
    ... def walk(name: str, grid: Grid, device: str = "cpu"):
    ...     return name, grid, device
    >>> inspect.signature(walk)
    <Signature (name: str, steps: int = 18, high: float = 80.0, device: str = 'cpu')>
    >>> walk("euler", steps=5)
    ('euler', Grid(steps=5, high=80.0), 'cpu')
    """
    signature = inspect.signature(function)
    groups = {name: each.annotation for name, each in signature.parameters.items() if is_dataclass(each.annotation)}
    parameters = []
    for name, parameter in signature.parameters.items():
        inner = inspect.signature(groups[name]).parameters.values() if name in groups else [parameter]
        parameters += [each.replace(kind=parameter.kind) for each in inner]
    flat = signature.replace(parameters=parameters)

    @functools.wraps(function)
    def run(*given: object, **named: object) -> object:
        bound = flat.bind(*given, **named).arguments
        for name, group in groups.items():
            bound[name] = group(**{each.name: bound.pop(each.name) for each in fields(group) if each.name in bound})
        return function(**bound)

    run.__signature__ = flat
    return run


def check_least(least: int, **given: int) -> None:
    """Raise ValueError if a number is too small.

    >>> check_least(1, batch_size=0)
    Traceback (most recent call last):
        ...
    ValueError: batch-size is 0, expected at least 1
    """
    for name, value in given.items():
        if value < least:
            raise ValueError(f"{name.replace('_', '-')} is {value}, expected at least {least}")


def check_writable(file: Path) -> None:
    """Raise OSError if no file of this name can be written, before the work of which it is to hold the result.

    >>> check_writable(Path("nowhere", "a.html"))
    Traceback (most recent call last):
        ...
    FileNotFoundError: cannot write ...a.html: the folder ...nowhere does not exist; create it
    """
    if not file.absolute().parent.is_dir():
        raise FileNotFoundError(f"cannot write {file}: the folder {file.absolute().parent} does not exist; create it")
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder, expected the name of a file to write")
