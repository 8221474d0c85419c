"""What the commands' options have in common: groups of them, as dataclasses, and what is checked before any work."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path

import torch

from gausstools.denoiser import check_that

__all__ = ["check_images", "check_writable", "grouped"]


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
    parameters, groups = [], {}
    for name, parameter in signature.parameters.items():
        inner = {name: parameter}
        if is_dataclass(parameter.annotation):
            inner = groups[name] = inspect.signature(parameter.annotation).parameters
        parameters += [each.replace(kind=parameter.kind) for each in inner.values()]
    flat = signature.replace(parameters=parameters)

    @functools.wraps(function)
    def run(*given: object, **named: object) -> object:
        bound = flat.bind(*given, **named).arguments
        for name, inner in groups.items():
            group = signature.parameters[name].annotation
            bound[name] = group(**{field: bound.pop(field) for field in inner if field in bound})
        return function(**bound)

    run.__signature__ = flat
    return run


def check_images(whose: str, found: torch.Size, expected: torch.Size) -> None:
    """Raise ValueError if images, or statistics of images, are not of the shape of those that they are to belong to.

    >>> check_images("photos", torch.Size((3, 64, 64)), torch.Size((3, 32, 32)))
    Traceback (most recent call last):
        ...
    ValueError: photos: images of shape (3, 64, 64), expected (3, 32, 32); a command's --size and --channels, ...
    """
    right = f"{tuple(expected)}; a command's --size and --channels, where it has them, resize and convert a folder's"
    check_that(found == expected, f"{whose}: images of shape {tuple(found)}", right)


def check_writable(file: Path) -> None:
    """Raise ValueError if no file of this name can be written, before the work of which it is to hold the result.

    >>> check_writable(Path("nowhere", "a.html"))
    Traceback (most recent call last):
        ...
    ValueError: cannot write ...a.html, expected the name of a file in a folder that exists
    """
    fits = file.absolute().parent.is_dir() and not file.is_dir()
    check_that(fits, f"cannot write {file}", "the name of a file in a folder that exists")
