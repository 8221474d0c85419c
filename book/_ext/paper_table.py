"""What the paper says beside what this book measured, gathered from the chapters' own runs.

    :::{paper-table}
    :::

shows a table for each chapter with an output of the kind `gausstools.figures.BesidePaper`, in the order of the book. No
number is typed: the rows are those that stand in the chapters.
"""

import re
from collections.abc import Iterator

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from book.pipeline import runs
from book.pipeline.errors import PipelineError
from book.pipeline.layout import Book, Chapter
from book.pipeline.pairing import read_paired

KIND = "application/vnd.gausstools.beside-paper+json"


def tables(run: runs.Run) -> Iterator[dict]:
    """The tables in a chapter's outputs: the source of the published numbers, and rows of text."""
    for outputs in run.outputs:
        for output in outputs:
            if KIND in output.get("data", {}):
                yield output.data[KIND]


class _PaperTable(SphinxDirective):
    """Show the tables of all chapters."""

    def run(self) -> list[nodes.Node]:
        book, _, inputs = self.env.app.executed_outputs
        lines = [line for chapter in book.published for line in self._chapter(book, chapter, inputs)]
        if not lines:
            raise self.error("no chapter has a table of published and measured numbers; remove this directive")
        node = nodes.Element()
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), 0, node, match_titles=True)
        return node.children

    def _chapter(self, book: Book, chapter: Chapter, inputs: runs.Inputs) -> Iterator[str]:
        notebook = read_paired(book, chapter)
        try:
            run = runs.find(book, chapter, notebook, inputs).run
        except PipelineError as error:
            raise self.error(str(error)) from None
        if run is None:  # which stops the build where the chapter's own page is read
            return
        self.env.note_dependency(str(run.path))
        self.env.note_dependency(str(chapter.paired))
        found = list(tables(run))
        if found:
            written = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
            title = re.search(r"^# (.+)$", written, re.MULTILINE)[1]
            yield from [f"## [{title}](../notebooks/{chapter.slug}.ipynb)", ""]
        for table in found:
            yield from ["| quantity | published | measured | ratio |", "|---|--:|--:|--:|"]
            yield from (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table["rows"])
            yield from ["", f"Published: `data/{table['source']}`.", ""]


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("paper-table", _PaperTable)
    return {"version": "1", "parallel_read_safe": True}
