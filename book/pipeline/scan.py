"""Look at what readers will see: the cached runs and the built pages. Every finding names its file.

jupyter-book's own warnings and the browser test miss what is checked here: outputs on stderr, figures without caption
or alternative text, MyST or reStructuredText left as text, links to files that the repository does not have.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from bs4 import BeautifulSoup, Tag
from nbformat import NotebookNode

from book.pipeline import runs
from book.pipeline.errors import PipelineError
from book.pipeline.layout import Book
from book.pipeline.pairing import describe, read_paired

PAGE_LIMIT = 1_000_000
"""Bytes of a page's HTML, with the interactive figures that stand in it."""

_IMAGE_PATH = re.compile(r"\S*[/\\]\S*|\S+\.(png|svg|jpe?g|gif|webp)", re.IGNORECASE)
_FIGURE_NAME = re.compile(r"fig-[a-z0-9-]+")
_WARNING = re.compile(r"\b\w*Warning: ")
_DRAWN = re.compile(r"<(svg|canvas|img|video|iframe)\b", re.IGNORECASE)
_RAW_MARKS = {
    re.compile(r"^\s*:::", re.MULTILINE): "a colon fence",
    re.compile(r"\{[a-zA-Z][\w:+-]*\}`"): "a role",
    re.compile(r"```"): "a fence",
    re.compile(r":[a-z]+:`|(?<!`)``(?!`)"): "a mark of reStructuredText",
    re.compile(r"\$\$|\\begin\{"): "a formula",
    re.compile(r"\?\?"): "an unresolved reference",
    re.compile(r" at 0x[0-9a-f]{6,}"): "an address in memory",
    re.compile(r"\]\(#?[\w./-]+\)"): "a link",
}


def _is_figure(output: NotebookNode) -> bool:
    data = output.get("data", {})
    return any(kind.startswith("image/") for kind in data) or bool(_DRAWN.search("".join(data.get("text/html", ""))))


def _cell_findings(cell: NotebookNode) -> Iterator[str]:
    for output in cell.outputs:
        text = "".join(output.get("text", ""))
        if output.output_type == "error":
            yield f"ends in an error: {output.ename}: {output.evalue}"
        elif output.get("name") == "stderr":
            yield f"writes to stderr: {text.strip()[:200]}"
        elif _WARNING.search(text):
            yield f"prints a warning: {text.strip()[:200]}"
    options = cell.metadata.get("mystnb", {})
    shown = [output for output in cell.outputs if output.output_type in {"display_data", "execute_result"}]
    drawn = [output for output in shown if _is_figure(output)]
    if not drawn and "figure" not in options:
        return
    for group, key, meaning in (
        ("figure", "caption", "caption"),
        ("figure", "name", "name"),
        ("image", "alt", "alt text"),
    ):
        value = str(options.get(group, {}).get(key, "")).strip()
        if not value:
            yield f'shows a figure without {meaning}; expected `mystnb={{"{group}": {{"{key}": …}}}}` in its header'
        elif key == "name" and not _FIGURE_NAME.fullmatch(value):
            yield f"has the figure name {value!r}, expected the form fig-lower-case, which links point to"
        elif key == "alt" and _IMAGE_PATH.fullmatch(value):
            yield f"has the path {value!r} as alt text; say what is seen"
    if not drawn:
        yield "has a caption but shows no figure"
    elif len(shown) > 1:
        yield f"shows {len(shown)} outputs under one caption; show one (end a plot with `;` or close its value)"


def scan_runs(book: Book) -> list[str]:
    """Findings in the outputs of the published chapters."""
    findings = []
    inputs = runs.Inputs.of(book)
    for chapter in book.published:
        notebook = read_paired(book, chapter)
        try:
            run = runs.find(book, chapter, notebook, inputs).run
        except PipelineError as error:
            findings.append(str(error))
            continue
        if run is None:
            findings.append(f"{chapter.label}: no executed run. Run `make execute`.")
            continue
        for cell, outputs in zip((c for c in notebook.cells if c.cell_type == "code"), run.outputs, strict=True):
            cell.outputs = outputs
            findings += [f"{chapter.label}, {describe(cell)}: {finding}" for finding in _cell_findings(cell)]
    return findings


def _size_findings(path: Path) -> Iterator[str]:
    size = path.stat().st_size
    if size > PAGE_LIMIT:
        limit = f"{PAGE_LIMIT / 1e6:g} MB"
        yield f"has {size / 1e6:.1f} MB, over the limit of {limit}; give its interactive figures fewer frames or points"


def _repository_findings(book: Book, document: str, page: BeautifulSoup) -> Iterator[str]:
    """Findings in links to the repository's files: those of the present tree are what the branch will have."""
    here = re.compile(
        rf"/{re.escape(book.repository.name)}/(?:blob|raw|tree)/{book.repository.branch}/(?P<path>[^?#]+)"
    )
    addresses = [tag["href"] for tag in page.find_all("a", href=True)]
    for address in addresses:
        if (match := here.search(address)) and not (book.root / unquote(match["path"])).exists():
            yield f"a link leads to no file of the repository: {address}"
    if document.startswith("notebooks/") and book.repository.colab(f"{document}.ipynb") not in addresses:
        yield "has no button that opens it in Colab"


def _text_findings(article: Tag) -> Iterator[str]:
    for error in article.select(".cell_output .stderr, .cell_output .traceback, .system-message"):
        yield f"shows an error or a warning: {error.get_text(' ', strip=True)[:120]}"
    for title in article.select("cite"):
        yield f"has single backticks in a docstring, where code takes two: {title.get_text()}"
    for reference in article.select("span.problematic, .xref.missing"):
        yield f"has a broken reference: {reference.get_text(' ', strip=True)}"
    article = BeautifulSoup(str(article), "lxml")
    for verbatim in article.select("pre, code, script, style, .math"):
        verbatim.decompose()
    text = article.get_text()
    for pattern, meaning in _RAW_MARKS.items():
        if match := pattern.search(text):
            start = text[max(0, match.start() - 20) : match.end() + 40]
            yield f"{meaning} is left as text: …{' '.join(start.split())}…"


def scan_pages(book: Book) -> list[str]:
    """Findings in the built pages."""
    if not (book.html / "index.html").is_file():
        raise PipelineError(f"There are no pages in {book.relative(book.html)}. Run `make pages` first.")
    findings = []
    for document in book.documents:
        path = book.html / f"{document}.html"
        if not path.is_file():
            findings.append(f"_build/html/{document}.html: missing. Run `make pages`.")
            continue
        page = BeautifulSoup(path.read_text("utf-8"), "lxml")
        article = page.select_one("article") or page
        found = [
            *_size_findings(path),
            *_repository_findings(book, document, page),
            *_text_findings(article),
        ]
        if document.startswith("notebooks/") and not article.select_one(".provenance"):
            found.append("does not say where its outputs come from")
        findings += [f"{book.relative(path)}: {finding}" for finding in dict.fromkeys(found)]
    return findings
