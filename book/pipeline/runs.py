"""What makes a page's outputs belong to its source: cached runs, each with a manifest of everything it depends on.

A run may be shown, and need not be repeated, as long as nothing that it depends on changed: the code cells, each
module of gausstools that it had loaded (the library imports lazily, so loaded means used), the shipped data, which
optional data sets are there, the lock, and the version of Python. Prose is no part of it.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from book.pipeline.layout import Book, Chapter, PipelineError, write_atomically
from book.pipeline.pairing import read_paired

KEPT_RUNS = 3
"""Runs that are kept of each chapter, one for each version of its code, so that going back executes nothing."""

_MANIFEST = "gausstools_run"
_EXECUTION_TAGS = {"parameters", "raises-exception", "skip-execution"}
_SAID = {
    "data": "the shipped data changed",
    "datasets": "the optional data sets changed",
    "lock": "requirements.txt changed",
    "python": "the version of Python changed",
}


class NoRun(PipelineError):
    """A chapter has no run that may be shown, for this reason."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class DamagedRun(NoRun):
    """A cached run is not what was written."""


def _digest(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode()


def code_hash(notebook: NotebookNode) -> str:
    """Hash of what is executed: the code cells and the tags that change their execution."""
    return _digest(
        _canonical([cell.source, sorted(_EXECUTION_TAGS & set(cell.metadata.get("tags", [])))])
        for cell in code_cells(notebook)
    )


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that are executed."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@dataclass(frozen=True)
class Inputs:
    """What a run depends on besides its own code, as it is now."""

    modules: dict[str, str]
    """Hash of each module of gausstools with its script and style, by the module's path from the root."""
    data: str
    datasets: list[str]
    lock: str
    python: str

    @classmethod
    def of(cls, book: Book) -> "Inputs":
        """Read them from the repository and the environment."""
        data, library = (
            [path for path in sorted((book.root / folder).rglob("*")) if path.is_file() and path.suffix != ".pyc"]
            for folder in ("data", "gausstools")
        )
        # A script or a style that a module of the same name hands out is a part of that module.
        modules = [path for path in library if path.suffix == ".py"]
        parts = {module: [path for path in library if path.with_suffix(".py") == module] for module in modules}
        shipped = data + [path for path in library if path.with_suffix(".py") not in parts]
        lock = book.root / "requirements.txt"
        optional = Path(os.environ["GAUSSTOOLS_DATA"]) if os.environ.get("GAUSSTOOLS_DATA") else None
        return cls(
            modules={book.relative(path): _digest(part.read_bytes() for part in parts[path]) for path in parts},
            data=_digest(part for path in shipped for part in (book.relative(path).encode(), path.read_bytes())),
            datasets=sorted(path.name for path in optional.iterdir()) if optional and optional.is_dir() else [],
            lock=_digest([lock.read_bytes()]) if lock.is_file() else "",
            python=platform.python_version(),
        )


@dataclass(frozen=True)
class Run:
    """One execution of a chapter: its file, what it depends on (and where, when and how long it ran), its outputs."""

    path: Path
    manifest: dict[str, Any]
    notebook: NotebookNode

    def outdated(self, code: str, inputs: Inputs) -> str | None:
        """Why the run is not of this code and these inputs, or None if it is."""
        if self.manifest["code"] != code:
            return "its code changed"
        modules = self.manifest["modules"].items()
        if changed := [path for path, digest in modules if inputs.modules.get(path) != digest]:
            return f"{', '.join(changed)} changed"
        return next((_SAID[key] for key in _SAID if self.manifest[key] != getattr(inputs, key)), None)


def _checksum(notebook: NotebookNode) -> str:
    """Hash of everything in the file, the manifest included, but the checksum itself."""
    manifest = {key: value for key, value in notebook.metadata[_MANIFEST].items() if key != "checksum"}
    return _digest([_canonical({**notebook, "metadata": {**notebook.metadata, _MANIFEST: manifest}})])


def _path(book: Book, chapter: Chapter, code: str) -> Path:
    return book.executed / f"{chapter.slug}.{code[:12]}.ipynb"


def _all(book: Book, chapter: Chapter) -> list[Path]:
    """The cached runs of a chapter, newest first."""
    return sorted(book.executed.glob(f"{chapter.slug}.*.ipynb"), key=lambda path: path.lstat().st_mtime, reverse=True)


def load(book: Book, path: Path) -> Run:
    """Read a cached run and prove that it is whole."""
    try:
        notebook = nbformat.read(path, as_version=4)
        whole = notebook.metadata[_MANIFEST]["checksum"] == _checksum(notebook)
        fault = "its checksum does not match"
    except Exception as error:  # whatever damage makes nbformat raise, the file is damaged
        whole, fault = False, f"it cannot be read ({type(error).__name__})"
    if not whole:
        message = f"{book.relative(path)}: this cached run is damaged: {fault}. Run `make execute` to replace it."
        raise DamagedRun(message, "its cached run is damaged")
    return Run(path, notebook.metadata[_MANIFEST], notebook)


def store(book: Book, chapter: Chapter, notebook: NotebookNode, manifest: dict[str, Any]) -> None:
    """Write a run into the cache, and drop the chapter's oldest ones."""
    notebook.metadata[_MANIFEST] = manifest
    notebook.metadata[_MANIFEST] = {**manifest, "checksum": _checksum(notebook)}
    write_atomically(_path(book, chapter, manifest["code"]), nbformat.writes(notebook) + "\n")
    for old in _all(book, chapter)[KEPT_RUNS:]:
        old.unlink()


def find(book: Book, chapter: Chapter, inputs: Inputs) -> Run:
    """The run that belongs to a chapter as it is now: its notebook, with the outputs; raise NoRun if there is none."""
    notebook = read_paired(book, chapter)
    code = code_hash(notebook)
    path = _path(book, chapter, code)
    if path.is_file():
        run = load(book, path)
        reason = run.outdated(code, inputs)
    else:
        reason = "its code changed" if _all(book, chapter) else "never executed"
    if reason:
        raise NoRun(f"{chapter.label}: no executed run to show ({reason}). Run `make execute`.", reason)
    for cell, executed in zip(code_cells(notebook), code_cells(run.notebook), strict=True):
        cell.outputs = executed.outputs
    return Run(path, run.manifest, notebook)


def last_seconds(book: Book, chapter: Chapter) -> float | None:
    """How long the newest readable run of a chapter took."""
    for path in _all(book, chapter):
        with suppress(DamagedRun):
            return load(book, path).manifest["seconds"]
    return None
