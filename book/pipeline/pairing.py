"""`notebooks/NN_slug.py`, the truth, to `notebooks/NN_slug.ipynb`, which Colab and Jupyter open.

The notebook is a function of its source and of the repository's address alone: no outputs, no times, cell ids hashed
from the cells, so that the same source gives the same bytes. Two cells are added that no source contains, because they
need the address: the badge that opens the chapter in Colab, and the cell that installs gausstools there.
"""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass

import jupytext
import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from book.pipeline.errors import PipelineError
from book.pipeline.layout import Book, Chapter, Repository, write_atomically

_MARKER = re.compile(r"^\s*#\s*(%%%*\s|(%%|<codecell>|In\[[0-9 ]*\]:?)\s*$)")
"""What starts a cell; jupytext takes more than `# %%`."""

_INSTALL = """\
# In Colab this installs gausstools, the library of this book. Anywhere else it does nothing.
import importlib.util
import subprocess
import sys

if "google.colab" in sys.modules and importlib.util.find_spec("gausstools") is None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    done = subprocess.run(
        [*pip, "gausstools[chapters] @ git+{url}@{branch}"], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"pip could not install gausstools:\\n{{done.stderr}}")
    importlib.invalidate_caches()
"""


def _badge_cell(repository: Repository, chapter: Chapter) -> NotebookNode:
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    address = repository.colab(f"notebooks/{chapter.paired.name}")
    return new_markdown_cell(f"[![Open in Colab]({image})]({address})", metadata={"gausstools": {"generated": True}})


def _install_cell(repository: Repository) -> NotebookNode:
    source = _INSTALL.format(url=repository.url, branch=repository.branch).rstrip()
    return new_code_cell(source, metadata={"gausstools": {"generated": True}})


def is_generated(cell: NotebookNode) -> bool:
    """Whether `pair` added this cell, rather than its author."""
    return bool(cell.metadata.get("gausstools", {}).get("generated"))


def read_source(chapter: Chapter) -> NotebookNode:
    """The author's cells, as jupytext reads them."""
    return jupytext.reads(chapter.source.read_text("utf-8"), fmt="py:percent")


@dataclass(frozen=True)
class SourceCell:
    """An author's cell, with the lines of the source where its marker and its content start."""

    content: NotebookNode
    marker: int
    start: int

    @property
    def text(self) -> str:
        """What the cell holds."""
        return self.content.source

    @property
    def is_code(self) -> bool:
        """Whether it is executed."""
        return self.content.cell_type == "code"

    @property
    def tags(self) -> list[str]:
        """Its tags."""
        return self.content.metadata.get("tags", [])


def source_cells(chapter: Chapter) -> list[SourceCell]:
    """The author's cells with their places in the source."""
    lines = chapter.source.read_text("utf-8").splitlines()
    markers = [number for number, line in enumerate(lines, 1) if _MARKER.match(line)]
    cells = read_source(chapter).cells
    if len(cells) == len(markers) + 1:  # text before the first marker is a cell too
        markers.insert(0, 0)
    if len(cells) != len(markers):
        raise PipelineError(
            f"{chapter.label}:1: {len(markers)} lines look like the start of a cell, but there are {len(cells)} cells. "
            "Inside a string or a fence, write no line that starts with `# %%`."
        )
    return [SourceCell(cell, marker, _start(cell, marker, lines)) for cell, marker in zip(cells, markers, strict=True)]


def _start(cell: NotebookNode, marker: int, lines: list[str]) -> int:
    """The line of the source that holds the first line of a cell's content."""
    if cell.cell_type == "code":
        return marker + 1
    written = (n for n in range(marker + 1, len(lines) + 1) if lines[n - 1].strip() not in {"", "#", '"""', 'r"""'})
    blank = len(cell.source) - len(cell.source.lstrip("\n"))
    return next(written, marker) - blank


def paired_notebook(chapter: Chapter, repository: Repository) -> NotebookNode:
    """The notebook that belongs to a chapter's source."""
    cells = list(read_source(chapter).cells)
    first_code = next((i for i, cell in enumerate(cells) if cell.cell_type == "code"), len(cells))
    # The installation stands where code begins, so that a reader meets the title and the question first.
    cells.insert(first_code, _install_cell(repository))
    cells.insert(0, _badge_cell(repository, chapter))

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


def _text(chapter: Chapter, repository: Repository) -> str:
    return nbformat.writes(paired_notebook(chapter, repository)) + "\n"


def pair(book: Book) -> list[str]:
    """Write the notebook of every chapter; return the paths that changed."""
    changed = []
    for chapter in book.chapters:
        text = _text(chapter, book.repository)
        if not chapter.paired.is_file() or chapter.paired.read_text("utf-8") != text:
            write_atomically(chapter.paired, text)
            changed.append(book.relative(chapter.paired))
    return changed


def mismatches(book: Book) -> list[str]:
    """Findings where notebooks and sources disagree: a notebook is missing, differs, or has no source."""
    findings = []
    for chapter in book.chapters:
        name = book.relative(chapter.paired)
        if not chapter.paired.is_file():
            findings.append(f"{name}: missing, though {chapter.label} exists. Run `make notebooks` and commit it.")
        elif chapter.paired.read_text("utf-8") != _text(chapter, book.repository):
            findings.append(
                f"{name}: not what {chapter.label} generates. "
                "Edit only the .py, then run `make notebooks` and commit both."
            )
    sources = {chapter.paired for chapter in book.chapters}
    findings += [
        f"{book.relative(path)}: no source {path.stem}.py beside it. Delete it, or add its source."
        for path in sorted(book.notebooks.glob("*.ipynb"))
        if path not in sources
    ]
    return findings


def read_paired(book: Book, chapter: Chapter) -> NotebookNode:
    """The chapter's generated notebook, which must be there."""
    try:
        return nbformat.read(chapter.paired, as_version=4)
    except FileNotFoundError:
        raise PipelineError(f"{book.relative(chapter.paired)} is missing. Run `make notebooks`.") from None
    except Exception as error:
        raise PipelineError(
            f"{book.relative(chapter.paired)} is no notebook ({type(error).__name__}). Run `make notebooks`."
        ) from None


def describe(cell: NotebookNode) -> str:
    """How messages name a cell: by its figure, or by its first line."""
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    if isinstance(figure, dict) and figure.get("name"):
        return f'cell "{figure["name"]}"'
    first = next((line.strip() for line in cell.source.splitlines() if line.strip()), "(empty)")
    return f'cell "{first[:57]}…"' if len(first) > 60 else f'cell "{first}"'
