"""Serve MathJax from the site itself, so that formulas need no network.

MathJax 3 comes out of the PyPI package sphinx-mathjax-offline. Only the parts that formulas here ask for are copied,
after the build: anything below a static folder of the source would be loaded as a script on every page.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

# The bundle of all parts weighs twice as much. It has every package of TeX, and a menu, which makes each formula a stop
# of the tab key. A screen reader gets the formulas as MathML.
_PARTS = ["input/tex", "output/chtml", "a11y/assistive-mml"]
_FONTS = "output/chtml/fonts"
_SCRIPTS = ["startup.js", "core.js", *(f"{part}.js" for part in _PARTS), f"{_FONTS}/tex.js"]
_PACKAGES = "input/tex/extensions"  # most of these are loaded when a formula of the page has a macro of theirs


def _use_local(_app: Sphinx, config: Config) -> None:
    config.mathjax_path = "mathjax/startup.js"
    config.mathjax3_config = {
        "loader": {"load": [*_PARTS, "[tex]/textmacros"]},
        # With `textmacros`, a text in a formula may have macros: an underscore is one. Without `noundefined`, an
        # unknown macro is an error that the browser tests count, not red text.
        "tex": {"packages": {"[+]": ["textmacros"], "[-]": ["noundefined"]}},
    }


def _copy(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.format != "html":
        return
    spec = find_spec("sphinx-mathjax-offline")
    if spec is None or not spec.submodule_search_locations:
        raise ExtensionError(
            "The package sphinx-mathjax-offline is not installed. Run `make` again, or `pip install` it."
        )
    source = Path(next(iter(spec.submodule_search_locations)), "static", "mathjax")
    target = Path(app.outdir, "_static", "mathjax")
    for path in [
        *map(source.joinpath, _SCRIPTS),
        *(source / _PACKAGES).glob("*.js"),
        *(source / _FONTS).rglob("*.woff"),
    ]:
        copied = target / path.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copied)


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("config-inited", _use_local)
    app.connect("build-finished", _copy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
