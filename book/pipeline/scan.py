"""Look at what readers will see: the cached runs and the built pages. Every finding names its file.

jupyter-book's own warnings miss what is checked here: outputs on stderr, figures without alternative text, dead links
and anchors, resources from elsewhere, MyST or reStructuredText left as text.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag
from nbformat import NotebookNode

from book.pipeline import runs
from book.pipeline.errors import PipelineError
from book.pipeline.layout import Book
from book.pipeline.pairing import describe, read_paired

PAGE_LIMIT = 1_000_000
"""Bytes of a page's HTML, with the interactive figures that stand in it."""

_IMAGE_PATH = re.compile(r"\S*[/\\]\S*|\S+\.(png|svg|jpe?g|gif|webp)", re.IGNORECASE)
_WARNING = re.compile(r"\b\w*Warning: ")
_DRAWN = re.compile(r"<(svg|canvas|img|video|iframe)\b", re.IGNORECASE)
_STYLE_ADDRESS = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")
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
_LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
}
_LOADED_LINKS = {"stylesheet", "preload", "modulepreload", "icon", "shortcut", "preconnect", "dns-prefetch", "prefetch"}


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


class _Site:
    """The built pages, each parsed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.page = cache(self._page)
        self.anchors = cache(self._anchors)

    def _page(self, path: Path) -> BeautifulSoup:
        return BeautifulSoup(path.read_text("utf-8"), "lxml")

    def _anchors(self, path: Path) -> frozenset[str]:
        page = self.page(path)
        return frozenset(tag[key] for key in ("id", "name") for tag in page.find_all(attrs={key: True}))

    def fault(self, path: Path, address: str) -> str | None:
        """What is wrong with an address on the page at `path`, if it leads to a part of the site."""
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            return None
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if target.is_dir():
            target /= "index.html"
        if not target.is_relative_to(self.root.resolve()):
            return "leads out of the site"
        if not target.is_file():
            return "leads to no file"
        if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in self.anchors(target):
            return "leads to no anchor"
        return None


def _resource_findings(site: _Site, path: Path, page: BeautifulSoup) -> Iterator[str]:
    loaded: list[tuple[str, str]] = []
    for name, attribute in _LOADED.items():
        loaded += [(name, tag[attribute]) for tag in page.find_all(name, attrs={attribute: True})]
    for tag in page.find_all("link", href=True):
        if _LOADED_LINKS & set(tag.get("rel", [])):
            loaded.append(("link", tag["href"]))
    for name, address in loaded:
        parts = urlsplit(address)
        if parts.netloc:
            yield f"<{name}> loads {address} from elsewhere; ship it with the site"
        elif parts.scheme != "data" and (fault := site.fault(path, address)):
            yield f"<{name}> {fault}: {address}"


def _style_findings(book: Book) -> list[str]:
    """Findings in the style sheets, which load fonts and images too."""
    return [
        f"{book.relative(path)}: loads {address} from elsewhere; ship it with the site"
        for path in sorted(book.html.rglob("*.css"))
        for address in _STYLE_ADDRESS.findall(path.read_text("utf-8", errors="replace"))
    ]


def _size_findings(path: Path) -> Iterator[str]:
    size = path.stat().st_size
    if size > PAGE_LIMIT:
        limit = f"{PAGE_LIMIT / 1e6:g} MB"
        yield f"has {size / 1e6:.1f} MB, over the limit of {limit}; give its interactive figures fewer frames or points"


def _link_findings(site: _Site, path: Path, page: BeautifulSoup) -> Iterator[str]:
    for tag in page.find_all("a", href=True):
        if fault := site.fault(path, tag["href"]):
            yield f'the link "{tag.get_text(" ", strip=True)[:40]}" {fault}: {tag["href"]}'


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


def _image_findings(article: Tag) -> Iterator[str]:
    for image in article.find_all("img"):
        alt = (image.get("alt") or "").strip()
        figure = image.find_parent("figure")
        name = figure.get("id") if figure else image.get("src")
        if not alt:
            yield f"the image {name} has no alt text"
        elif _IMAGE_PATH.fullmatch(alt):
            yield f"the image {name} has a path as alt text: {alt}"
        if image.find_parent(class_="cell_output") and not (figure and figure.find("figcaption")):
            yield f"the image {name[:80]} is the output of a cell without a caption"


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
    site = _Site(book.html)
    findings = _style_findings(book)
    for document in book.documents:
        path = book.html / f"{document}.html"
        if not path.is_file():
            findings.append(f"_build/html/{document}.html: missing. Run `make pages`.")
            continue
        page = site.page(path)
        article = page.select_one("article") or page
        found = [
            *_size_findings(path),
            *_resource_findings(site, path, page),
            *_link_findings(site, path, page),
            *_repository_findings(book, document, page),
            *_image_findings(article),
            *_text_findings(article),
        ]
        if document.startswith("notebooks/") and not article.select_one(".provenance"):
            found.append("does not say where its outputs come from")
        findings += [f"{book.relative(path)}: {finding}" for finding in dict.fromkeys(found)]
    return findings
