"""Where things are in the repository, and what `_config.yml` and `book/_toc.yml` say: read here alone."""

import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml


class PipelineError(Exception):
    """A failure whose message is meant for the reader: what was given, what was expected, what to do. No traceback."""


@dataclass(frozen=True)
class Repository:
    """The public repository, as `_config.yml` names it: the only place where its address stands."""

    url: str
    branch: str

    @property
    def name(self) -> str:
        """Owner and name, as `owner/name`."""
        return "/".join(self.url.rstrip("/").removesuffix(".git").split("/")[-2:])

    def colab(self, path: str) -> str:
        """Address that opens the notebook at `path` (relative to the root) in Colab."""
        return f"https://colab.research.google.com/github/{self.name}/blob/{self.branch}/{path}"


@dataclass(frozen=True, order=True)
class Chapter:
    """One executable chapter: its source, a py:percent file, and the notebook generated from it."""

    source: Path

    @property
    def slug(self) -> str:
        """Name without ending, for instance `01_noise_and_score`."""
        return self.source.stem

    @property
    def number(self) -> int:
        """What its name begins with."""
        return int(self.slug[:2])

    @property
    def paired(self) -> Path:
        """The generated notebook beside the source."""
        return self.source.with_suffix(".ipynb")

    @property
    def label(self) -> str:
        """How messages name the chapter: the path of its source from the root."""
        return f"notebooks/{self.source.name}"


class Book:
    """The repository at `root`; every stage of the pipeline gets one.

    `executed` holds the cached runs, `html` the built site, `fast` what fast runs left. What is below `cache` may be
    deleted at the price of executing again.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config_file, self.toc_file = root / "_config.yml", root / "book" / "_toc.yml"
        for file in (self.config_file, self.toc_file):
            if not file.is_file():
                raise PipelineError(
                    f"{root} has no {self.relative(file)}, so it is not the root of the book. Run this from the "
                    "repository's root, or restore the file with `git checkout`."
                )
        self.notebooks = root / "notebooks"
        self.cache, self.build = root / ".cache", root / "_build"
        self.executed, self.html, self.fast = self.cache / "executed", self.build / "html", self.build / "fast"

    def relative(self, path: Path) -> str:
        """`path` from the root, as messages show it."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    @cached_property
    def chapters(self) -> list[Chapter]:
        """Every chapter, in order."""
        return [Chapter(path) for path in sorted(self.notebooks.glob("[0-9][0-9]_*.py"))]

    def select(self, names: list[str]) -> list[Chapter]:
        """The chapters that `names` (slugs, numbers or paths) name; all of them when `names` is empty."""
        by_name = {name: chapter for chapter in self.chapters for name in (chapter.slug, chapter.slug[:2])}
        wanted = [Path(name).stem for name in names]
        if unknown := [name for name in wanted if name not in by_name]:
            raise PipelineError(
                f"No chapter is called {', '.join(unknown)}. "
                f"The chapters are: {', '.join(chapter.slug for chapter in self.chapters) or 'none yet'}."
            )
        return sorted({by_name[name] for name in wanted}) if names else self.chapters

    @cached_property
    def repository(self) -> Repository:
        """The repository's address."""
        config = yaml.safe_load(self.config_file.read_text("utf-8"))
        try:
            return Repository(config["repository"]["url"], config["repository"]["branch"])
        except KeyError as missing:
            raise PipelineError(
                f"_config.yml gives no {missing} for the repository. "
                "Expected `repository:` with `url:` and `branch:`; badges and install cells derive from it."
            ) from None

    @cached_property
    def contents(self) -> dict[str, Any]:
        """`_toc.yml`, parsed."""
        return yaml.safe_load(self.toc_file.read_text("utf-8"))

    @cached_property
    def documents(self) -> list[str]:
        """The pages in the order of the table of contents, as paths from the root without ending."""
        return _documents(self.contents)

    @cached_property
    def parts(self) -> list[tuple[str, list[Chapter]]]:
        """The parts of the book with their captions and the chapters in them; a book without parts is one."""
        by_document = {f"notebooks/{chapter.slug}": chapter for chapter in self.chapters}
        return [
            (part.get("caption", ""), [by_document[page] for page in _documents(part) if page in by_document])
            for part in self.contents.get("parts", [self.contents])
        ]

    @property
    def published(self) -> list[Chapter]:
        """The chapters that the table of contents lists."""
        return [chapter for _, chapters in self.parts for chapter in chapters]


def _documents(entry: Any) -> list[str]:
    """The pages below an entry of the table of contents."""
    if isinstance(entry, list):
        return [document for value in entry for document in _documents(value)]
    if not isinstance(entry, dict):
        return []
    found = [str(entry[key]).removesuffix(".md").removesuffix(".ipynb") for key in ("root", "file") if key in entry]
    return found + [document for value in entry.values() for document in _documents(value)]


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader, or an interruption, meets the old file or the new one, never a half.

    The library has the same in `gausstools.models.files`, which the pipeline must not import: it executes chapters of
    any library that has this name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        Path(temporary).chmod(0o644)  # mkstemp makes it private, which a shared checkout would not expect
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)  # an interruption may come after the replacement
        raise
