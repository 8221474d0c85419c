"""What the builder and the theme have no option for, done to the finished pages: on paper, on phones, by ear.

- A figure is sent as WebP without loss, in half the bytes, with its size, so that nothing moves when it comes. It links
  to itself at full size: on a phone, labels can then be zoomed to.
- A formula in the line stays together with the punctuation at it, since browsers would break the line between the two.
- A printed line is an element, so that one that is too long for a phone goes on indented, and rows stay rows.
- For readers who do not see the page: parameters of a signature are a list, where Sphinx writes a definition list
  without terms; entries of a list of literature are items of it; what unfolds has the name that it shows; the sidebar
  is a landmark.
- Scripts that do nothing on a page, 1.6 MB of icons and the index of the search, are left out of it.
"""

import re
from pathlib import Path

from bs4 import BeautifulSoup, NavigableString
from PIL import Image
from sphinx.application import Sphinx

_CLOSING = re.compile(r"[.,;:!?)’”]*")
_EXPONENT = re.compile(r"(-?\d[\d.]*e-\d+)")  # where browsers would break the number
_UNNAMED_TOGGLE = re.compile(r"(?P<entry><a [^>]*>(?P<title>[^<]*)</a><details[^>]*><summary)(?=>)")
_SIDEBAR = '<div id="pst-primary-sidebar"'
_IDLE = re.compile(
    r'<script[^>]* src="(?:[^"]*/)?(?:fontawesome|searchtools|language_data|searchindex)\.js[^"]*"></script>\s*'
)


def _figures(page: BeautifulSoup, app: Sphinx) -> None:
    drawn = {name: Path(app.srcdir, path) for path, name in app.builder.images.items()}
    for image in page.select(".cell_output img[src*=_images]"):
        folder, name = image["src"].rsplit("/", 1)
        light = Path(app.outdir, "_images", name).with_suffix(".webp")
        with Image.open(drawn[name]) as picture:
            if not light.is_file():
                light.parent.mkdir(exist_ok=True)
                picture.save(light, lossless=True, quality=50, method=2)
            image["width"], image["height"] = picture.size
        image["src"], image["loading"] = f"{folder}/{light.name}", "lazy"
        link = {"class": "full-size", "href": image["src"], "title": "Open the figure at full size"}
        image.wrap(page.new_tag("a", attrs=link))


def _formulas(page: BeautifulSoup) -> None:
    for formula in page.select("span.math"):
        before, after = formula.previous_sibling, formula.next_sibling
        opening = "(" if isinstance(before, NavigableString) and before.endswith("(") else ""
        closing = _CLOSING.match(after)[0] if isinstance(after, NavigableString) else ""
        if opening or closing:
            together = formula.wrap(page.new_tag("span", attrs={"class": "kept-together"}))
        if opening:
            before.replace_with(before[:-1])
            together.insert(0, opening)
        if closing:
            after.replace_with(after[len(closing) :])
            together.append(closing)


def _prints(page: BeautifulSoup) -> None:
    for block in page.select(".output.stream pre"):
        *_, text = block.contents
        if len(block.find_all(True)) > 1 or not isinstance(text, NavigableString):
            continue  # it has colours
        lines = text.splitlines(keepends=True)
        text.extract()
        for line in lines:
            element = page.new_tag("span", attrs={"class": "printed-line"})
            for place, part in enumerate(_EXPONENT.split(line)):
                number = page.new_tag("span", attrs={"class": "kept-together"}, string=part)
                element.append(number if place % 2 else part)
            block.append(element)


def _roles(page: BeautifulSoup) -> None:
    for arguments in page.select("dl:not(:has(> dt))"):
        arguments.name, arguments["class"] = "ul", "sig-params"
        for argument in arguments.find_all("dd", recursive=False):
            argument.name = "li"
    for entry in page.select("[role=doc-biblioentry]"):
        entry["role"] = "listitem"
    for folded in page.select('[aria-label="Toggle hidden content"]'):
        del folded["aria-label"]


def _mark(app: Sphinx, _pagename: str, _template: str, context: dict, _doctree: object) -> None:
    if "body" in context:
        page = BeautifulSoup(context["body"], "html.parser")
        _figures(page, app)
        for change in (_formulas, _prints, _roles):
            change(page)
        context["body"] = str(page)


def _accessible(content: str) -> str:
    """What surrounds the text of a page, with names for what has none."""
    content = _UNNAMED_TOGGLE.sub(r'\g<entry> aria-label="Pages of: \g<title>"', content)
    return content.replace(_SIDEBAR, f'{_SIDEBAR} role="complementary" aria-label="The book"', 1)


def _add_filters(app: Sphinx) -> None:
    if app.builder.format == "html":
        filters = {"accessible": _accessible, "without_idle_scripts": lambda head: _IDLE.sub("", head)}
        app.builder.templates.environment.filters.update(filters)


def _drop_heavy_figures(app: Sphinx, exception: Exception | None) -> None:
    if not exception and app.builder.format == "html":
        for light in Path(app.outdir, "_images").glob("*.webp"):
            light.with_suffix(".png").unlink(missing_ok=True)


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("builder-inited", _add_filters)
    app.connect("html-page-context", _mark)
    app.connect("build-finished", _drop_heavy_figures)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": False}
