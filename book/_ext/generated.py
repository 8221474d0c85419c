"""What the directives of this folder share: they write MyST, take the chapters' runs, and bring pictures of their own.

Pictures are written beside Sphinx's own record of the pages and copied into the site after the build, so that the two
are always of the same age.
"""

import re
import shutil
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from book.pipeline import runs
from book.pipeline.errors import PipelineError
from book.pipeline.layout import Book, Chapter
from book.pipeline.pairing import read_paired

_FOLDER = "pictures"


class Generated(SphinxDirective):
    """A directive that writes its content, in MyST."""

    @property
    def book(self) -> Book:
        """The book as it was when the build began."""
        return self.env.app.executed_outputs[0]

    def parse(self, lines: list[str]) -> list[nodes.Node]:
        """The nodes that these lines make."""
        node = nodes.Element()
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), 0, node, match_titles=True)
        return node.children

    def pictures(self, name: str) -> tuple[Path, str]:
        """An empty folder, and the address, from this page, under which the site will have what is written there."""
        folder = Path(self.env.app.doctreedir, _FOLDER, name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder, f"{self.to_root}_images/{name}"

    @property
    def to_root(self) -> str:
        """The way from this page to the root of the site."""
        return "../" * self.env.docname.count("/")


class FromRuns(Generated):
    """A directive that shows something of the chapters' runs, and is read anew when one of them changes."""

    @property
    def inputs(self) -> runs.Inputs:
        """What its runs depended on when the build began."""
        return self.env.app.executed_outputs[2]

    def read(self, chapter: Chapter) -> tuple[NotebookNode, runs.Run | None]:
        """A chapter's notebook, and its run; None where there is none, which stops the build at the chapter's page."""
        notebook = read_paired(self.book, chapter)
        try:
            run = runs.find(self.book, chapter, notebook, self.inputs).run
        except PipelineError as error:
            raise self.error(str(error)) from None
        for path in [chapter.paired, *([run.path] if run else [])]:
            self.env.note_dependency(str(path))
        return notebook, run


def title(notebook: NotebookNode) -> str:
    """The heading of a chapter."""
    written = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.search(r"^# (.+)$", written, re.MULTILINE)[1]


def _copy(app: Sphinx, exception: Exception | None) -> None:
    folder = Path(app.doctreedir, _FOLDER)
    if exception is None and folder.is_dir():
        shutil.copytree(folder, Path(app.outdir, "_images"), dirs_exist_ok=True)


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("build-finished", _copy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
