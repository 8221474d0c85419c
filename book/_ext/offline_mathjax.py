"""Serve MathJax from the site itself, so that formulas need no network.

MathJax 3 comes out of the PyPI package sphinx-mathjax-offline. Only the parts that formulas here ask for are copied,
after the build: anything below a static folder of the source would be loaded as a script on every page.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

# What `_config.yml` names under `mathjax3_config`, and what these parts load: the bundle of all parts weighs twice as
# much, and has a menu, which makes each formula a stop of the tab key.
_PARTS = [
    *("startup.js", "core.js", "input/tex.js", "output/chtml.js", "a11y/assistive-mml.js", "output/chtml/fonts/tex.js"),
    *("input/tex/extensions/*.js", "output/chtml/fonts/woff-v2/*.woff"),
]


def _copy(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.format != "html":
        return
    package = find_spec("sphinx-mathjax-offline")
    if package is None:
        raise ExtensionError("The package sphinx-mathjax-offline is missing. Run `make` again, or `pip install` it.")
    source = Path(next(iter(package.submodule_search_locations)), "static", "mathjax")
    for part in _PARTS:
        for path in source.glob(part):
            copied = Path(app.outdir, "_static", "mathjax", path.relative_to(source))
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copied)


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("build-finished", _copy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
