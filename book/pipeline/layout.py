"""Where things are in the repository, and what `_config.yml` and `book/_toc.yml` say."""

import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from book.pipeline.errors import PipelineError


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

    def commit(self, sha: str) -> str:
        """Address of a commit."""
        return f"{self.url}/commit/{sha}"


@dataclass(frozen=True, order=True)
class Chapter:
    """One executable chapter: its source, a py:percent file, and the notebook generated from it."""

    source: Path

    @property
    def slug(self) -> str:
        """Name without ending, for instance `01_noise_and_score`."""
        return self.source.stem

    @property
    def paired(self) -> Path:
        """The generated notebook beside the source."""
        return self.source.with_suffix(".ipynb")

    @property
    def label(self) -> str:
        """How messages name the chapter: the path of its source from the root."""
        return f"notebooks/{self.source.name}"


@dataclass(frozen=True)
class Book:
    """The repository at `root`; every stage of the pipeline gets one."""

    root: Path

    def __post_init__(self) -> None:
        if not self.config_file.is_file():
            raise PipelineError(
                f"{self.root} has no _config.yml, so it is not the root of the book. "
                "Run this from the repository's root, or name the root with --root."
            )

    @property
    def config_file(self) -> Path:
        """Settings of jupyter-book."""
        return self.root / "_config.yml"

    @property
    def toc_file(self) -> Path:
        """Table of contents."""
        return self.root / "book" / "_toc.yml"

    @property
    def notebooks(self) -> Path:
        """Sources of the chapters, and the notebooks generated from them."""
        return self.root / "notebooks"

    @property
    def cache(self) -> Path:
        """What may be deleted at the price of executing again."""
        return self.root / ".cache"

    @property
    def executed(self) -> Path:
        """Cached runs."""
        return self.cache / "executed"

    @property
    def build(self) -> Path:
        """What jupyter-book writes."""
        return self.root / "_build"

    @property
    def html(self) -> Path:
        """The built site."""
        return self.build / "html"

    @property
    def fast(self) -> Path:
        """Notebooks as fast runs left them."""
        return self.build / "fast"

    def relative(self, path: Path) -> str:
        """`path` from the root, as messages show it."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    @cached_property
    def chapters(self) -> list[Chapter]:
        """Every chapter, in order."""
        return [Chapter(path) for path in sorted(self.notebooks.glob("[0-9][0-9]_*.py"))]

    def select(self, names: list[str]) -> list[Chapter]:
        """The chapters that `names` (slugs, numbers or paths) name; all of them when `names` is empty."""
        if not names:
            return self.chapters
        stems = [Path(name).stem for name in names]
        chosen = [chapter for chapter in self.chapters if {chapter.slug, chapter.slug[:2]} & set(stems)]
        known = {name for chapter in chosen for name in (chapter.slug, chapter.slug[:2])}
        if unknown := [stem for stem in stems if stem not in known]:
            raise PipelineError(
                f"No chapter is called {', '.join(unknown)}. "
                f"The chapters are: {', '.join(chapter.slug for chapter in self.chapters) or 'none yet'}."
            )
        return chosen

    @cached_property
    def config(self) -> dict[str, Any]:
        """`_config.yml`, parsed."""
        return yaml.safe_load(self.config_file.read_text("utf-8"))

    @cached_property
    def repository(self) -> Repository:
        """The repository's address."""
        try:
            return Repository(self.config["repository"]["url"], self.config["repository"]["branch"])
        except KeyError as missing:
            raise PipelineError(
                f"_config.yml gives no {missing} for the repository. "
                "Expected `repository:` with `url:` and `branch:`; badges and install cells derive from it."
            ) from None

    @cached_property
    def contents(self) -> dict[str, Any]:
        """`_toc.yml`, parsed."""
        if not self.toc_file.is_file():
            raise PipelineError(
                f"{self.relative(self.toc_file)} is missing. "
                "It is the table of contents of the book; restore it with `git checkout book/_toc.yml`."
            )
        return yaml.safe_load(self.toc_file.read_text("utf-8"))

    @cached_property
    def documents(self) -> list[str]:
        """The pages in the order of the table of contents, as paths from the root without ending."""
        return _documents(self.contents)

    @cached_property
    def parts(self) -> list[tuple[str, list[Chapter]]]:
        """The parts of the book with their captions and the chapters in them; a book without parts is one."""
        listed = self.contents.get("parts", [self.contents])
        return [(part.get("caption", ""), self._chapters_among(_documents(part))) for part in listed]

    def _chapters_among(self, documents: list[str]) -> list[Chapter]:
        by_document = {f"notebooks/{chapter.slug}": chapter for chapter in self.chapters}
        return [by_document[document] for document in documents if document in by_document]

    @property
    def published(self) -> list[Chapter]:
        """The chapters that the table of contents lists."""
        return self._chapters_among(self.documents)


def _documents(entry: Any) -> list[str]:
    """The pages below an entry of the table of contents."""
    if isinstance(entry, list):
        return [document for value in entry for document in _documents(value)]
    if not isinstance(entry, dict):
        return []
    found = [str(entry[key]).removesuffix(".md").removesuffix(".ipynb") for key in ("root", "file") if key in entry]
    return found + [document for value in entry.values() for document in _documents(value)]


def make_writable(folder: Path) -> Path:
    """Create `folder` if need be and prove that a file can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PipelineError(
            f"Cannot write into {folder}: {error.strerror}. The pipeline needs a folder there that it can write to. "
            "Check what is at this path, its owner and its permissions (and the free disk space), or delete it."
        ) from None
    return folder


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader, or an interruption, meets the old file or the new one, never a half."""
    make_writable(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        Path(temporary).chmod(0o644)  # mkstemp makes it private, which a shared checkout would not expect
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)  # an interruption may come after the replacement
        raise
