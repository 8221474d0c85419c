"""A gallery of all figures: a small picture of each, which leads to the figure in its chapter.

    :::{gallery}
    :::

The pictures are made from the chapters' runs when the pages are built: plots are scaled down, and of a figure that the
reader moves stands its still picture.
"""

import base64
import io
import re
from pathlib import Path
from urllib.parse import unquote

from docutils import nodes
from nbformat import NotebookNode
from PIL import Image
from sphinx.application import Sphinx

from book._ext.generated import FromRuns, render, title
from book.pipeline import runs
from book.pipeline.layout import Chapter

_SIZE = (480, 320)
"""Pixels that a small picture fits into: twice those that it is shown with, for sharp screens."""

_STILL = re.compile(r'<img [^>]*src="data:image/svg\+xml,([^"]+)"')
_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[^a-z])")


def draw(output: NotebookNode, path: Path) -> str:
    """Write the small picture of an output to `path`, which lacks the ending; return its file's name."""
    if "image/png" not in output.data:  # the reader can move it
        still = path.with_suffix(".svg")
        still.write_text(unquote(_STILL.search(output.data["text/html"])[1]), "utf-8")
        return still.name
    picture = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).convert("RGB")
    picture.thumbnail(_SIZE, Image.Resampling.LANCZOS)
    picture.save(path.with_suffix(".webp"), quality=80, method=6)
    return path.with_suffix(".webp").name


def figures(notebook: NotebookNode, folder: Path) -> list[dict]:
    """The captioned figures of a chapter, in order; their small pictures are written into the folder."""
    found = []
    for cell in runs.code_cells(notebook):
        options = cell.metadata.get("mystnb", {})
        shown = [output for output in cell.outputs if {"image/png", "text/html"} & set(output.get("data", {}))]
        if "figure" in options and shown:
            figure, picture = options["figure"], draw(shown[0], folder / options["figure"]["name"])
            said = _SENTENCE.split(figure["caption"])[0]
            found.append({"name": figure["name"], "said": said, "alt": options["image"]["alt"], "picture": picture})
    return found


class _Gallery(FromRuns):
    """Show the gallery."""

    def run(self) -> list[nodes.Node]:
        folder, address = self.pictures("gallery")
        chapters = [self._chapter(chapter, folder) for chapter in self.book.published]
        if not any(chapter["figures"] for chapter in chapters):
            raise self.error("no chapter has a figure; remove this directive")
        return self.parse(render("gallery.jinja", chapters=chapters, address=address))

    def _chapter(self, chapter: Chapter, folder: Path) -> dict:
        notebook = self.read(chapter).notebook
        return {"slug": chapter.slug, "title": title(notebook), "figures": figures(notebook, folder)}


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("gallery", _Gallery)
    return {"version": "1", "parallel_read_safe": True}
