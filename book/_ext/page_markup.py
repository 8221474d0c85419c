"""Small changes to the finished pages, where the builder and the theme have no option for them.

Every figure becomes a link to itself at full size: on a phone, labels can then be zoomed to. A formula in the line is
kept together with the punctuation at it, since browsers would break the line between the two. A printed line is an
element of its own, so that one that is too long for a phone goes on indented, and rows stay rows.

The rest is for readers who do not see the page: parameters of a signature are a list, where Sphinx writes a definition
list without terms; the entries of a list of literature are items of it; what unfolds solutions, code and contents has a
name; and the sidebar is a landmark.
"""

import re

from sphinx.application import Sphinx

_OUTPUT_IMAGE = re.compile(r'<img alt="(?P<alt>[^"]*)" src="(?P<src>(?:\.\./)*_images/[^"]+)"[^>]*>')
_FORMULA = re.compile(r'\(?<span class="math[^"]*">\\\([^<]*\\\)</span>[.,;:!?)’”]*')
_PRINTED = re.compile(
    r'(?P<begin><div class="output stream[^>]*><div class="highlight"><pre><span></span>)(?P<text>[^<]+)'
)
_EXPONENT = re.compile(r"-?\d[\d.]*e-\d+")  # where browsers would break the number
_PARAMETERS = re.compile(r"<dl>\s*(?P<items>(?:<dd>(?:(?!</dd>).)*</dd>\s*)+)</dl>", re.DOTALL)
_UNNAMED_TOGGLE = re.compile(r"(?P<entry><a [^>]*>(?P<title>[^<]*)</a><details[^>]*><summary)(?=>)")
_VAGUE_NAME = ' aria-label="Toggle hidden content"'  # in the place of the text there, which says what is hidden
_SIDEBAR = '<div id="pst-primary-sidebar"'


def _link(match: re.Match) -> str:
    return f'<a class="full-size" href="{match["src"]}" title="Open the figure at full size">{match[0]}</a>'


def _keep(match: re.Match) -> str:
    bare = match[0].startswith("<") and match[0].endswith(">")
    return match[0] if bare else f'<span class="kept-together">{match[0]}</span>'


def _print(match: re.Match) -> str:
    lines = _EXPONENT.sub(r'<span class="kept-together">\g<0></span>', match["text"]).splitlines(keepends=True)
    return match["begin"] + "".join(f'<span class="printed-line">{line}</span>' for line in lines)


def _list(match: re.Match) -> str:
    items = match["items"].replace("<dd>", "<li>").replace("</dd>", "</li>")
    return f'<ul class="sig-params">{items}</ul>'


_CHANGES = {_OUTPUT_IMAGE: _link, _FORMULA: _keep, _PRINTED: _print, _PARAMETERS: _list}


def _mark(_app: Sphinx, _pagename: str, _template: str, context: dict, _doctree: object) -> None:
    if "body" in context:
        body = context["body"].replace(_VAGUE_NAME, "").replace('role="doc-biblioentry"', 'role="listitem"')
        for pattern, change in _CHANGES.items():
            body = pattern.sub(change, body)
        context["body"] = body


def _accessible(content: str) -> str:
    """What surrounds the text of a page, with names for what has none."""
    content = _UNNAMED_TOGGLE.sub(r'\g<entry> aria-label="Pages of: \g<title>"', content)
    return content.replace(_SIDEBAR, f'{_SIDEBAR} role="complementary" aria-label="The book"', 1)


def _add_filter(app: Sphinx) -> None:
    if app.builder.format == "html":
        app.builder.templates.environment.filters["accessible"] = _accessible


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("builder-inited", _add_filter)
    app.connect("html-page-context", _mark)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
