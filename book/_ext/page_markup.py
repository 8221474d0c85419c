"""Two small changes to the finished pages, where the builder has no option for them.

Every figure becomes a link to itself at full size: on a phone, labels can then be zoomed to. And a formula in the line
is kept together with the punctuation at it, since browsers would break the line between the two.
"""

import re

from sphinx.application import Sphinx

_OUTPUT_IMAGE = re.compile(r'<img alt="(?P<alt>[^"]*)" src="(?P<src>(?:\.\./)*_images/[^"]+)"[^>]*>')
_FORMULA = re.compile(r'\(?<span class="math[^"]*">\\\([^<]*\\\)</span>[.,;:!?)’”]*')


def _link(match: re.Match) -> str:
    return f'<a class="full-size" href="{match["src"]}" title="Open the figure at full size">{match[0]}</a>'


def _keep(match: re.Match) -> str:
    bare = match[0].startswith("<") and match[0].endswith(">")
    return match[0] if bare else f'<span class="kept-together">{match[0]}</span>'


def _mark(_app: Sphinx, _pagename: str, _template: str, context: dict, _doctree: object) -> None:
    if "body" in context:
        context["body"] = _FORMULA.sub(_keep, _OUTPUT_IMAGE.sub(_link, context["body"]))


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("html-page-context", _mark)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
