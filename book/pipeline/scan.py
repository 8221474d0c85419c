"""Look in runs and pages for what Sphinx and the browser pass over: warnings, bare figures, markup left as text.

That is: outputs on stderr, figures without caption or alternative text, MyST or reStructuredText left as text, links to
files that the repository does not have. Every finding names its file.
"""

import re
from collections.abc import Iterator
from urllib.parse import unquote

from bs4 import BeautifulSoup, Tag
from nbformat import NotebookNode

from book.pipeline import runs
from book.pipeline.layout import Book, PipelineError
from book.pipeline.pairing import describe

PAGE_LIMIT = 1_000_000
"""Bytes of a page's HTML, with the interactive figures that stand in it."""

_NO_PATH = r"(?!\S*[/\\]\S*$|\S+\.(?i:png|svg|jpe?g|gif|webp)$).*\S.*"
_EXPECTED = {
    ("figure", "caption"): (r".*\S.*", "a caption"),
    ("figure", "name"): (r"fig-[a-z0-9-]+", "a name of the form fig-lower-case, which links point to"),
    ("image", "alt"): (_NO_PATH, "an alt text that says what is seen"),
}
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
        text = "".join(output.get("text", "")).strip()[:200]
        if output.output_type == "error":
            yield f"ends in an error: {output.ename}: {output.evalue}"
        elif output.get("name") == "stderr":
            yield f"writes to stderr: {text}"
        elif _WARNING.search(text):
            yield f"prints a warning: {text}"
    options = cell.metadata.get("mystnb", {})
    shown = [output for output in cell.outputs if output.output_type in {"display_data", "execute_result"}]
    drawn = any(map(_is_figure, shown))
    if not drawn and "figure" not in options:
        return
    for (group, key), (pattern, meaning) in _EXPECTED.items():
        if not re.fullmatch(pattern, str(options.get(group, {}).get(key, "")), re.DOTALL):
            yield f'shows a figure without {meaning}; expected `mystnb={{"{group}": {{"{key}": …}}}}` in its header'
    if not drawn:
        yield "has a caption but shows no figure"
    elif len(shown) > 1:
        yield f"shows {len(shown)} outputs under one caption; show one (end a plot with `;` or close its value)"


def scan_runs(book: Book) -> list[str]:
    """Findings in the outputs of the published chapters."""
    findings = []
    inputs = runs.Inputs.of(book)
    for chapter in book.published:
        try:
            run = runs.find(book, chapter, inputs)
        except PipelineError as error:
            findings.append(str(error))
            continue
        for cell in runs.code_cells(run.notebook):
            findings += [f"{chapter.label}, {describe(cell)}: {finding}" for finding in _cell_findings(cell)]
    return findings


def _link_findings(book: Book, page: BeautifulSoup) -> Iterator[str]:
    """Findings in links to the repository's files: those of the present tree are what the branch will have."""
    here = re.compile(rf"/{re.escape(book.repository.name)}/(?:blob|raw|tree)/{book.repository.branch}/([^?#]+)")
    for link in page.find_all("a", href=here):
        if not (book.root / unquote(here.search(link["href"])[1])).exists():
            yield f"a link leads to no file of the repository: {link['href']}"


def _text_findings(article: Tag) -> Iterator[str]:
    for title in article.select("cite"):
        yield f"has single backticks in a docstring, where code takes two: {title.get_text()}"
    for verbatim in article.select("pre, code, script, style, .math"):
        verbatim.decompose()
    text = article.get_text()
    for pattern, meaning in _RAW_MARKS.items():
        if match := pattern.search(text):
            start = text[max(0, match.start() - 20) : match.end() + 40]
            yield f"{meaning} is left as text: …{' '.join(start.split())}…"


def scan_pages(book: Book) -> list[str]:
    """Findings in the built pages."""
    findings = []
    for document in book.documents:
        path = book.html / f"{document}.html"
        if not path.is_file():
            raise PipelineError(f"There is no page {book.relative(path)}. Run `make pages` first.")
        text = path.read_text("utf-8")
        page = BeautifulSoup(text, "lxml")
        found = [*_link_findings(book, page), *_text_findings(page.select_one("article"))]
        if len(text.encode()) > PAGE_LIMIT:
            size = f"{len(text.encode()) / 1e6:.1f} MB, over the limit of {PAGE_LIMIT / 1e6:g} MB"
            found.append(f"has {size}; give its interactive figures fewer frames or points")
        findings += [f"{book.relative(path)}: {finding}" for finding in dict.fromkeys(found)]
    return findings
