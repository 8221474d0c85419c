"""Serve MathJax from the site itself, so that formulas need no network.

MathJax 3 comes out of the PyPI package sphinx-mathjax-offline. Only its one bundle and its fonts are copied, after the
build: anything below a static folder of the source would be loaded as a script on every page.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

_BUNDLE = "tex-chtml-full.js"
_FONTS = "output/chtml/fonts/woff-v2"  # MathJax looks for them there, relative to its script


def _use_local(_app: Sphinx, config: Config) -> None:
    config.mathjax_path = f"mathjax/{_BUNDLE}"
    config.mathjax3_config = {
        # Without `noundefined`, an unknown macro is an error that the browser tests count, not red text.
        "tex": {"packages": {"[-]": ["noundefined"]}},
        # Of the menu's features, these would fetch parts of MathJax that the site does not have.
        "options": {"menuOptions": {"settings": {"explorer": False}}},
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
    (target / _FONTS).mkdir(parents=True, exist_ok=True)
    shutil.copy2(source / _BUNDLE, target / _BUNDLE)
    for font in (source / _FONTS).glob("*.woff"):
        shutil.copy2(font, target / _FONTS / font.name)


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("config-inited", _use_local)
    app.connect("build-finished", _copy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
