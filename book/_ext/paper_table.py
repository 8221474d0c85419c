"""What the paper says beside what this book measured, gathered from the chapters' own runs.

    :::{paper-table}
    :::

shows a table for each chapter with an output of the kind `gausstools.figures.BesidePaper`, in the order of the book. No
number is typed: the rows are those that stand in the chapters.
"""

from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx

from book._ext.generated import FromRuns, title
from book.pipeline import runs
from book.pipeline.layout import Chapter

KIND = "application/vnd.gausstools.beside-paper+json"


def tables(run: runs.Run) -> Iterator[dict]:
    """The tables in a chapter's outputs: the source of the published numbers, and rows of text."""
    for outputs in run.outputs:
        for output in outputs:
            if KIND in output.get("data", {}):
                yield output.data[KIND]


class _PaperTable(FromRuns):
    """Show the tables of all chapters."""

    def run(self) -> list[nodes.Node]:
        lines = [line for chapter in self.book.published for line in self._chapter(chapter)]
        if not lines:
            raise self.error("no chapter has a table of published and measured numbers; remove this directive")
        return self.parse(lines)

    def _chapter(self, chapter: Chapter) -> Iterator[str]:
        notebook, run = self.read(chapter)
        found = list(tables(run)) if run else []
        if found:
            yield from [f"## [{title(notebook)}](../notebooks/{chapter.slug}.ipynb)", ""]
        for table in found:
            yield from ["| quantity | published | measured | ratio |", "|---|--:|--:|--:|"]
            yield from (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table["rows"])
            yield from ["", f"Published: `data/{table['source']}`.", ""]


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("paper-table", _PaperTable)
    return {"version": "1", "parallel_read_safe": True}
