"""What the paper says beside what this book measured, gathered from the chapters' own runs.

    :::{paper-table}
    :::

shows a table for each chapter with an output of the kind `gausstools.figures.BesidePaper`, in the order of the book. No
number is typed: the rows are those that stand in the chapters.
"""

from docutils import nodes
from sphinx.application import Sphinx

from book._ext.generated import FromRuns, render, title
from book.pipeline import runs

KIND = "application/vnd.gausstools.beside-paper+json"


def tables(run: runs.Run) -> list[dict]:
    """The tables in a chapter's outputs: the source of the published numbers, and rows of text."""
    outputs = [output for cell in runs.code_cells(run.notebook) for output in cell.outputs]
    return [output.data[KIND] for output in outputs if KIND in output.get("data", {})]


class _PaperTable(FromRuns):
    """Show the tables of all chapters."""

    def run(self) -> list[nodes.Node]:
        found = [(chapter, self.read(chapter)) for chapter in self.book.published]
        chapters = [
            {"title": title(run.notebook), "slug": chapter.slug, "tables": tables(run)}
            for chapter, run in found
            if tables(run)
        ]
        if not chapters:
            raise self.error("no chapter has a table of published and measured numbers; remove this directive")
        return self.parse(render("paper_table.jinja", chapters=chapters))


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("paper-table", _PaperTable)
    return {"version": "1", "parallel_read_safe": True}
