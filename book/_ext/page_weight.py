"""Keep the pages light: the theme sends 1.9 MB of scripts and icons with each, of which this book needs a few kB.

- Scripts that do nothing here are left out: icons as a script, where the style sheet has them too, and the index of the
  search, which only the search page asks.
- Of the fonts of icons, and of the style sheet's names for them, what occurs on the pages is kept.
- Figures are sent as WebP without loss, pixel by pixel what the chapter drew in less than half the bytes; with their
  size, so that nothing moves when they come, and when the reader is near them.
"""

import re
from functools import cache
from pathlib import Path

import pydata_sphinx_theme
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from PIL import Image
from sphinx.application import Sphinx

_IDLE = re.compile(
    r'<script[^>]* src="(?:[^"]*/)?(?:fontawesome|searchtools|language_data|searchindex)\.js[^"]*"></script>\s*'
)
_IMAGE = re.compile(r'(?P<begin><img [^>]*src="(?:\.\./)*_images/)(?P<name>[\w-]+)\.png"')
_ICON_RULE = re.compile(r'(?:\.fa-[\w-]+:before,?)+\{content:"(?:[^"\\]|\\.)*"\}')
_ICON_NAME = re.compile(r"\bfa-[a-z0-9-]+")
_ICON_FILE = re.compile(r'url\(([\w./]+/)([\w-]+)\.woff2\) format\("woff2"\),url\([^)]*\) format\("truetype"\)')
_ESCAPED = re.compile(r"\\([ef][0-9a-f]{3})")

_THEME = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"
_STYLE = Path("styles", "pydata-sphinx-theme.css")
_FONTS = Path("vendor", "fontawesome", "webfonts")


def _without_idle_scripts(head: str) -> str:
    return _IDLE.sub("", head)


def _add_filter(app: Sphinx) -> None:
    if app.builder.format == "html":
        app.builder.templates.environment.filters["without_idle_scripts"] = _without_idle_scripts


def _convert(source: Path, target: Path) -> tuple[int, int]:
    """Write the figure as WebP, if that is not done; return its width and height."""
    with Image.open(source) as image:
        if not target.is_file():
            target.parent.mkdir(exist_ok=True)
            image.save(target, lossless=True, quality=50, method=2)
        return image.size


def _lighten_figures(app: Sphinx, _pagename: str, _template: str, context: dict, _doctree: object) -> None:
    if "body" not in context:
        return
    sources = {name: Path(app.srcdir, path) for path, name in app.builder.images.items()}

    def lighten(match: re.Match) -> str:
        name = match["name"]
        width, height = _convert(sources[f"{name}.png"], Path(app.outdir, "_images", f"{name}.webp"))
        return f'{match["begin"]}{name}.webp" width="{width}" height="{height}" loading="lazy"'

    context["body"] = _IMAGE.sub(lighten, context["body"])


def _characters(style: str) -> set[int]:
    """The characters of private use, which is where icons live, in a style sheet."""
    written = {ord(character) for character in style if "\ue000" <= character <= "\uf8ff"}
    return written | {int(code, 16) for code in _ESCAPED.findall(style)}


def _subset(font: Path, characters: set[int], target: Path) -> None:
    options = Options(flavor="woff", layout_features=[], notdef_outline=True)
    with TTFont(font) as icons:
        subsetter = Subsetter(options)
        subsetter.populate(unicodes=characters)
        subsetter.subset(icons)
        icons.flavor = "woff"
        icons.save(target)


def _lighten_icons(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.format != "html":
        return
    static = Path(app.outdir, "_static")
    named = cache(lambda path: set(_ICON_NAME.findall(path.read_text("utf-8"))))
    texts = [*Path(app.outdir).rglob("*.html"), static / "scripts" / "pydata-sphinx-theme.js"]
    used = set().union(*map(named, texts))
    # From the theme and not from the pages, where an earlier build has been here before.
    style = (_THEME / _STYLE).read_text("utf-8")
    style = _ICON_RULE.sub(lambda rule: rule[0] if used & set(_ICON_NAME.findall(rule[0])) else "", style)
    style = _ICON_FILE.sub(r'url(\1\2.woff) format("woff")', style)
    others = [path.read_text("utf-8") for path in static.rglob("*.css") if path != static / _STYLE]
    characters = set().union(*map(_characters, [style, *others]))
    for font in (_THEME / _FONTS).glob("*.ttf"):
        _subset(font, characters, static / _FONTS / f"{font.stem}.woff")
    (static / _STYLE).write_text(style, "utf-8")


def _drop_heavy_figures(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.format != "html":
        return
    for light in Path(app.outdir, "_images").glob("*.webp"):
        light.with_suffix(".png").unlink(missing_ok=True)


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("builder-inited", _add_filter)
    app.connect("html-page-context", _lighten_figures, priority=400)  # before the markup that leads to a figure's file
    app.connect("build-finished", _lighten_icons)
    app.connect("build-finished", _drop_heavy_figures)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": False}
