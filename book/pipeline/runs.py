"""Cached runs: the outputs of a chapter, with a manifest of everything they depend on.

A run may be shown, and need not be repeated, as long as nothing that it depends on changed: the code cells, each
module of gausstools that it had loaded (the library imports lazily, so loaded means used), the shipped data, which
optional data sets are there, the lock, and the version of Python. Prose is no part of it.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from book.pipeline.errors import PipelineError
from book.pipeline.layout import Book, Chapter, write_atomically

KEPT_RUNS = 3
"""Runs that are kept of each chapter, one for each version of its code, so that going back executes nothing."""

_MANIFEST = "gausstools_run"
_EXECUTION_TAGS = {"parameters", "raises-exception", "skip-execution"}


class DamagedRun(PipelineError):
    """A cached run that is not what was written."""


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
        for cell in notebook.cells
        if cell.cell_type == "code"
    )


def _tree_hash(root: Path, files: Iterable[Path]) -> str:
    return _digest(part for path in sorted(files) for part in (str(path.relative_to(root)).encode(), path.read_bytes()))


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
        library = book.root / "gausstools"
        files = [path for path in sorted(library.rglob("*")) if path.is_file() and path.suffix != ".pyc"]
        modules = [path for path in files if path.suffix == ".py"]
        # A script or a style that a module of the same name hands out is a part of that module.
        parts = {module: [path for path in files if path.with_suffix(".py") == module] for module in modules}
        shipped = [
            path
            for path in [*(book.root / "data").rglob("*"), *files]
            if path.is_file() and path.suffix not in {".py", ".pyc"} and path.with_suffix(".py") not in parts
        ]
        lock = book.root / "requirements.txt"
        optional = Path(os.environ["GAUSSTOOLS_DATA"]) if os.environ.get("GAUSSTOOLS_DATA") else None
        return cls(
            modules={book.relative(path): _digest(part.read_bytes() for part in parts[path]) for path in modules},
            data=_tree_hash(book.root, shipped),
            datasets=sorted(path.name for path in optional.iterdir()) if optional and optional.is_dir() else [],
            lock=_digest([lock.read_bytes()]) if lock.is_file() else "",
            python=platform.python_version(),
        )


@dataclass(frozen=True)
class Run:
    """One execution of a chapter."""

    path: Path
    notebook: NotebookNode

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run depends on, and where, when and how long it ran."""
        return self.notebook.metadata[_MANIFEST]

    @property
    def outputs(self) -> list[list[NotebookNode]]:
        """The outputs of each code cell."""
        return [cell.outputs for cell in self.notebook.cells if cell.cell_type == "code"]

    def outdated(self, code: str, inputs: Inputs) -> str | None:
        """Why the run is not of this code and these inputs, or None if it is."""
        manifest = self.manifest
        if manifest["code"] != code:
            return "its code changed"
        changed = [path for path, digest in manifest["modules"].items() if inputs.modules.get(path) != digest]
        if changed:
            return f"{', '.join(changed)} changed"
        for key, message in {
            "data": "the shipped data changed",
            "datasets": "the optional data sets changed",
            "lock": "requirements.txt changed",
            "python": "the version of Python changed",
        }.items():
            if manifest[key] != getattr(inputs, key):
                return message
        return None


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
        raise DamagedRun(
            f"{book.relative(path)}: this cached run is damaged: {fault}. Run `make execute` to replace it."
        )
    return Run(path, notebook)


def store(book: Book, chapter: Chapter, notebook: NotebookNode, manifest: dict[str, Any]) -> Run:
    """Write a run into the cache, and drop the chapter's oldest ones."""
    notebook.metadata[_MANIFEST] = manifest
    notebook.metadata[_MANIFEST] = {**manifest, "checksum": _checksum(notebook)}
    path = _path(book, chapter, manifest["code"])
    write_atomically(path, nbformat.writes(notebook) + "\n")
    for old in _all(book, chapter)[KEPT_RUNS:]:
        old.unlink()
    return Run(path, notebook)


@dataclass(frozen=True)
class Lookup:
    """Whether a chapter has a run that is still true, and if not, why."""

    run: Run | None
    reason: str


def find(book: Book, chapter: Chapter, notebook: NotebookNode, inputs: Inputs) -> Lookup:
    """Look for the run that belongs to `notebook`, the chapter's paired notebook; raise DamagedRun if it is broken."""
    code = code_hash(notebook)
    path = _path(book, chapter, code)
    if not path.is_file():
        return Lookup(None, "its code changed" if _all(book, chapter) else "never executed")
    run = load(book, path)
    reason = run.outdated(code, inputs)
    return Lookup(None, reason) if reason else Lookup(run, "up to date")


def last_seconds(book: Book, chapter: Chapter) -> float | None:
    """How long the newest readable run of a chapter took."""
    for path in _all(book, chapter):
        try:
            return load(book, path).manifest["seconds"]
        except DamagedRun:
            continue
    return None
