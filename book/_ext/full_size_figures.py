"""Make every figure a link to itself at full size: on a phone, labels can then be zoomed to."""

import re

from sphinx.application import Sphinx

_OUTPUT_IMAGE = re.compile(r'<img alt="(?P<alt>[^"]*)" src="(?P<src>(?:\.\./)*_images/[^"]+)"[^>]*>')


def _link(match: re.Match) -> str:
    return f'<a class="full-size" href="{match["src"]}" title="Open the figure at full size">{match[0]}</a>'


def _link_figures(_app: Sphinx, _pagename: str, _template: str, context: dict, _doctree: object) -> None:
    if "body" in context:
        context["body"] = _OUTPUT_IMAGE.sub(_link, context["body"])


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("html-page-context", _link_figures)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
