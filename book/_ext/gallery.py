"""A gallery of all figures: a small picture of each, which leads to the figure in its chapter.

    :::{gallery}
    :::

The pictures are made from the chapters' runs when the pages are built: plots are scaled down, and of a figure that the
reader moves stands its still picture.
"""

import base64
import html
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from docutils import nodes
from nbformat import NotebookNode
from PIL import Image
from sphinx.application import Sphinx

from book._ext.generated import FromRuns, title
from book.pipeline import runs
from book.pipeline.layout import Chapter

_SIZE = (480, 320)
"""Pixels that a small picture fits into: twice those that it is shown with, for sharp screens."""

_STILL = re.compile(r'<img [^>]*src="data:image/svg\+xml,([^"]+)"')
_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[^a-z])")


@dataclass(frozen=True)
class Figure:
    """A captioned output of a chapter."""

    name: str
    caption: str
    alt: str
    output: NotebookNode

    @property
    def moves(self) -> bool:
        """Whether the reader can move it."""
        return "image/png" not in self.output.data

    def write(self, folder: Path) -> str:
        """Write the small picture; return its file's name."""
        if self.moves:
            file = folder / f"{self.name}.svg"
            file.write_text(unquote(_STILL.search(self.output.data["text/html"])[1]), "utf-8")
            return file.name
        picture = Image.open(io.BytesIO(base64.b64decode(self.output.data["image/png"]))).convert("RGB")
        picture.thumbnail(_SIZE, Image.Resampling.LANCZOS)
        picture.save(folder / f"{self.name}.webp", quality=80, method=6)
        return f"{self.name}.webp"


def figures(notebook: NotebookNode, run: runs.Run) -> Iterator[Figure]:
    """The captioned figures of a chapter, in order."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, outputs in zip(cells, run.outputs, strict=True):
        options = cell.metadata.get("mystnb", {})
        shown = [output for output in outputs if {"image/png", "text/html"} & set(output.get("data", {}))]
        if "figure" in options and shown:
            yield Figure(options["figure"]["name"], options["figure"]["caption"], options["image"]["alt"], shown[0])


class _Gallery(FromRuns):
    """Show the gallery."""

    def run(self) -> list[nodes.Node]:
        folder, address = self.pictures("gallery")
        lines = [line for chapter in self.book.published for line in self._chapter(chapter, folder, address)]
        if not lines:
            raise self.error("no chapter has a figure; remove this directive")
        return self.parse(lines)

    def _chapter(self, chapter: Chapter, folder: Path, address: str) -> Iterator[str]:
        notebook, run = self.read(chapter)
        found = list(figures(notebook, run)) if run else []
        if not found:
            return
        yield from [f"## [{title(notebook)}](../notebooks/{chapter.slug}.ipynb)", "", "```{raw} html"]
        yield '<ul class="gallery">'
        for figure in found:
            target = f"{self.to_root}notebooks/{chapter.slug}.html#{figure.name}"
            source = f"{address}/{figure.write(folder)}"
            said = _SENTENCE.split(figure.caption)[0]
            moves = " <em>Can be moved.</em>" if figure.moves else ""
            # The source comes first: page_markup makes what begins with its alternative text a link to the full size.
            yield (
                f'<li><a href="{target}"><img src="{source}" alt="{html.escape(figure.alt)}" loading="lazy">'
                f"<span>{html.escape(said)}</span></a>{moves}</li>"
            )
        yield from ["</ul>", "```", ""]


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("gallery", _Gallery)
    return {"version": "1", "parallel_read_safe": True}
