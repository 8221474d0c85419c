"""`notebooks/NN_slug.py`, the truth, to `notebooks/NN_slug.ipynb`, which Colab and Jupyter open, byte by byte the same.

The notebook is a function of its source and of the repository's address alone: no outputs, no times, cell ids hashed
from the cells, so that the same source gives the same bytes. Two cells are added that no source contains, because they
need the address: the badge that opens the chapter in Colab, and the cell that installs gausstools there.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from book.pipeline.layout import Book, Chapter, PipelineError, Repository, write_atomically

_MARKER = "# %%"
_BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
_INSTALL = Path(__file__).with_name("install_cell.txt")
_GENERATED = {"gausstools": {"generated": True}}


def is_generated(cell: NotebookNode) -> bool:
    """Whether `pair` added this cell, rather than its author."""
    return bool(cell.metadata.get("gausstools", {}).get("generated"))


def read_source(chapter: Chapter) -> NotebookNode:
    """The author's cells, as jupytext reads them."""
    return jupytext.reads(chapter.source.read_text("utf-8"), fmt="py:percent")


@dataclass(frozen=True)
class SourceCell:
    """An author's cell, with the line of its marker, and the lines below it as they stand in the source."""

    content: NotebookNode
    marker: int
    lines: list[str]

    @property
    def is_code(self) -> bool:
        """Whether it is executed."""
        return self.content.cell_type == "code"


def source_cells(chapter: Chapter) -> list[SourceCell]:
    """The author's cells with their places in the source."""
    lines = chapter.source.read_text("utf-8").splitlines()
    markers = [number for number, line in enumerate(lines, 1) if line.startswith(_MARKER)]
    cells = read_source(chapter).cells
    if markers[:1] != [1] or len(cells) != len(markers):
        raise PipelineError(
            f"{len(markers)} lines start with `{_MARKER}`, but there are {len(cells)} cells. Begin "
            "the file and each cell with such a line, and write none inside a string or a fence."
        )
    ends = [*markers[1:], len(lines) + 1]
    return [
        SourceCell(cell, marker, lines[marker : end - 1])
        for cell, marker, end in zip(cells, markers, ends, strict=True)
    ]


def paired_notebook(chapter: Chapter, repository: Repository) -> NotebookNode:
    """The notebook that belongs to a chapter's source."""
    cells = list(read_source(chapter).cells)
    first_code = next((i for i, cell in enumerate(cells) if cell.cell_type == "code"), len(cells))
    # The installation stands where code begins, so that a reader meets the title and the question first.
    install = _INSTALL.read_text("utf-8").rstrip()
    install = install.replace("ADDRESS", repository.url).replace("BRANCH", repository.branch)
    cells.insert(first_code, new_code_cell(install, metadata=_GENERATED))
    badge = f"{_BADGE}({repository.colab(f'notebooks/{chapter.paired.name}')})"
    cells.insert(0, new_markdown_cell(badge, metadata=_GENERATED))

    seen: Counter[str] = Counter()
    for cell in cells:
        content = f"{chapter.slug}\n{cell.cell_type}\n{cell.source}"
        cell.id = hashlib.sha256(f"{seen[content]}\n{content}".encode()).hexdigest()[:12]
        seen[content] += 1

    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}}
    )
    # The version that has cell ids; spelled out so that a newer nbformat cannot change the bytes.
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def _outdated(book: Book) -> dict[Chapter, str]:
    """The text of the notebooks that are missing or not what their sources generate."""
    texts = {chapter: nbformat.writes(paired_notebook(chapter, book.repository)) + "\n" for chapter in book.chapters}
    return {
        chapter: text
        for chapter, text in texts.items()
        if not chapter.paired.is_file() or chapter.paired.read_text("utf-8") != text
    }


def pair(book: Book) -> list[str]:
    """Write the notebook of every chapter; return the paths that changed."""
    outdated = _outdated(book)
    for chapter, text in outdated.items():
        write_atomically(chapter.paired, text)
    return [book.relative(chapter.paired) for chapter in outdated]


def mismatches(book: Book) -> list[str]:
    """Findings where notebooks and sources disagree: a notebook is missing, differs, or has no source."""
    findings = [
        f"{book.relative(chapter.paired)}: {'not' if chapter.paired.is_file() else 'missing:'} "
        f"what {chapter.label} generates. Edit only the .py, then run `make notebooks` and commit both."
        for chapter in _outdated(book)
    ]
    sources = {chapter.paired for chapter in book.chapters}
    return findings + [
        f"{book.relative(path)}: no source {path.stem}.py beside it. Delete it, or add its source."
        for path in sorted(book.notebooks.glob("*.ipynb"))
        if path not in sources
    ]


def read_paired(book: Book, chapter: Chapter) -> NotebookNode:
    """The chapter's generated notebook, which must be there."""
    try:
        return nbformat.read(chapter.paired, as_version=4)
    except Exception as error:  # whatever damage makes nbformat raise
        raise PipelineError(
            f"{book.relative(chapter.paired)} is missing or no notebook ({type(error).__name__}). Run `make notebooks`."
        ) from None


def describe(cell: NotebookNode) -> str:
    """How messages name a cell: by its figure, or by its first line."""
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    if isinstance(figure, dict) and figure.get("name"):
        return f'cell "{figure["name"]}"'
    first = next((line.strip() for line in cell.source.splitlines() if line.strip()), "(empty)")
    return f'cell "{first[:57]}…"' if len(first) > 60 else f'cell "{first}"'
