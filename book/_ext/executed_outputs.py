"""Put the outputs of a chapter's cached run into its page, and say at its end where they come from.

The tracked notebooks have no outputs. When Sphinx reads one, this extension hands it the same notebook with the outputs
of the run that belongs to it, without the cells that only Colab needs, and with a closing note on the run. A notebook
without such a run stops the build: a page never shows outputs of another source, or none.
"""

import datetime
import html
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from book._ext.generated import render
from book.pipeline import runs
from book.pipeline.layout import Book, PipelineError, Repository
from book.pipeline.pairing import is_generated


def provenance(manifest: dict, repository: Repository) -> str:
    """The closing note of a chapter, in MyST."""
    date = datetime.date.fromisoformat(manifest["date"])
    return render("provenance.jinja", run=manifest, day=f"{date.day} {date:%B %Y}", address=repository.url)


def _fold_plotting(cell: NotebookNode) -> None:
    """Fold the code of a figure: the page shows the picture, and the code on demand. Jupyter and Colab show both."""
    options, tags = cell.metadata.get("mystnb", {}), cell.metadata.get("tags", [])
    if "figure" in options and not any(tag.startswith("hide-") for tag in tags):
        cell.metadata["tags"] = [*tags, "hide-input"]
        prompts = {f"code_prompt_{do.lower()}": f"{do} the code of this figure" for do in ("Show", "Hide")}
        cell.metadata["mystnb"] = prompts | options


def _name_figure(cell: NotebookNode) -> None:
    """Give a figure that is HTML its alternative text, which myst-nb gives to images only."""
    options = cell.metadata.get("mystnb", {})
    alt = options.get("image", {}).get("alt")
    for output in cell.outputs:
        if alt and "figure" in options and "text/html" in output.get("data", {}):
            figure = output.data["text/html"]
            output.data["text/html"] = f'<div role="group" aria-label="{html.escape(alt)}">{figure}</div>'


def _drop_data(cell: NotebookNode) -> None:
    """Take out what an output holds for other pages, which myst-nb does not know how to show."""
    for output in cell.outputs:
        for kind in [kind for kind in output.get("data", {}) if kind.startswith("application/vnd.gausstools.")]:
            del output.data[kind]


_FIGURE_ELSEWHERE = re.compile(r"\]\([\w./-]+\.ipynb(#fig-[\w-]+)\)")
_EQUATION = re.compile(r"\[(?P<words>[^\]]+)\]\((?:(?P<chapter>\d\d)_\w+\.ipynb)?(?P<label>#eq-[\w-]+)\)")


def _refer(match: re.Match) -> str:
    """A link to an equation, which Sphinx shows as the number alone: here with the words, or with its chapter.

    Words in parentheses, "(above)", stand in Colab for the number that equations do not have there.
    """
    number = f"[]({match['label']})"
    if not match["words"].startswith("("):
        return f"{match['words']} {number}"
    if match["chapter"] is None:
        return number
    return f"{number} of chapter {int(match['chapter'])}" if int(match["chapter"]) < 90 else f"{number} of the appendix"


def page_notebook(run: runs.Run, repository: Repository) -> NotebookNode:
    """The notebook as its page shows it."""
    notebook = run.notebook
    for cell in runs.code_cells(notebook):
        _drop_data(cell)
        _name_figure(cell)
        _fold_plotting(cell)
    notebook.cells = [cell for cell in notebook.cells if not is_generated(cell)]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            # In Colab such a link names the notebook. On the pages labels hold for the whole book, and only so.
            cell.source = _EQUATION.sub(_refer, _FIGURE_ELSEWHERE.sub(r"](\1)", cell.source))
    notebook.cells.append(nbformat.v4.new_markdown_cell(provenance(run.manifest, repository)))
    return notebook


def _look_around(app: Sphinx) -> None:
    """Read once per build what every chapter is compared with."""
    book = Book(Path(app.srcdir))
    app.executed_outputs = (book, {f"notebooks/{c.slug}": c for c in book.chapters}, runs.Inputs.of(book))


def _insert(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the text of a notebook that Sphinx is about to parse."""
    if not app.env.doc2path(docname).endswith(".ipynb"):
        return
    book, chapters, inputs = app.executed_outputs
    if docname not in chapters:
        raise ExtensionError(f"{docname}.ipynb has no source {docname}.py. Delete it, or add its source.")
    try:
        run = runs.find(book, chapters[docname], inputs)
    except PipelineError as error:
        raise ExtensionError(str(error)) from None
    # The run may change while the notebook does not: a library function, the lock.
    app.env.note_dependency(str(run.path))
    source[0] = nbformat.writes(page_notebook(run, book.repository))


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("builder-inited", _look_around)
    app.connect("source-read", _insert)
    return {"version": "1", "parallel_read_safe": True}
