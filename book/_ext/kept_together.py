"""Keep a formula in the line together with the punctuation at it: browsers would break the line between the two."""

import re

from sphinx.application import Sphinx

_FORMULA = re.compile(r'\(?<span class="math[^"]*">\\\([^<]*\\\)</span>[.,;:!?)’”]*')


def _keep(match: re.Match) -> str:
    bare = match[0].startswith("<") and match[0].endswith(">")
    return match[0] if bare else f'<span class="kept-together">{match[0]}</span>'


def _keep_formulas(_app: Sphinx, _pagename: str, _template: str, context: dict, _doctree: object) -> None:
    if "body" in context:
        context["body"] = _FORMULA.sub(_keep, context["body"])


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("html-page-context", _keep_formulas)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
