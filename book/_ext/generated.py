"""What the directives of this folder share: they fill in templates, take the chapters' runs, and bring their pictures.

Pictures are written beside Sphinx's own record of the pages and copied into the site after the build, so that the two
are always of the same age.
"""

import re
import shutil
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from book.pipeline import runs
from book.pipeline.layout import Book, Chapter, PipelineError

_FOLDER = "pictures"
_HERE = FileSystemLoader(Path(__file__).parent)
_TEMPLATES = Environment(loader=_HERE, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def render(template: str, **values: object) -> str:
    """What a template of this folder says with these values."""
    return _TEMPLATES.get_template(template).render(values)


class Generated(SphinxDirective):
    """A directive that writes its content, in MyST."""

    @property
    def book(self) -> Book:
        """The book as it was when the build began."""
        return self.env.app.executed_outputs[0]

    def parse(self, text: str) -> list[nodes.Node]:
        """The nodes that this text makes."""
        node = nodes.Element()
        lines = StringList(text.splitlines(), self.get_source_info()[0])
        self.state.nested_parse(lines, 0, node, match_titles=True)
        return node.children

    def pictures(self, name: str) -> tuple[Path, str]:
        """An empty folder, and the address, from this page, under which the site will have what is written there."""
        folder = Path(self.env.app.doctreedir, _FOLDER, name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder, f"{'../' * self.env.docname.count('/')}_images/{name}"


class FromRuns(Generated):
    """A directive that shows something of the chapters' runs, and is read anew when one of them changes."""

    @property
    def inputs(self) -> runs.Inputs:
        """What its runs depended on when the build began."""
        return self.env.app.executed_outputs[2]

    def read(self, chapter: Chapter) -> runs.Run:
        """A chapter's run, without which there is no page."""
        try:
            run = runs.find(self.book, chapter, self.inputs)
        except PipelineError as error:
            raise self.error(str(error)) from None
        for path in (chapter.paired, run.path):
            self.env.note_dependency(str(path))
        return run


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
