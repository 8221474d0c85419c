"""Figures that the reader moves: small SVG and a little script, alive on a static page, in Jupyter and in Colab.

Two kinds. :func:`frames` leafs through pictures that were computed before; its script knows no mathematics.
:func:`flow` and :func:`denoiser` hold a model of the plane, a Gaussian, a mixture or a point cloud, whose formulas the
browser evaluates while a point is dragged: with ``M = Σ_k + σ²I`` and responsibilities
``ρ_k ∝ w_k |M|^(-1/2) exp(−(x−μ_k)ᵀM⁻¹(x−μ_k)/2)``, the denoiser is ``D = x − σ² Σ_k ρ_k M⁻¹(x−μ_k)``, and the
probability flow ``dx/d ln σ = x − D`` is integrated by the Runge–Kutta method of order 4.

A figure answers to mouse, finger and keys, and reaches for nothing outside itself. What stands in the markup is a still
picture. The script, where it runs, puts the living one in its place and adds the controls, so a reader without scripts
(an untrusted notebook strips them, and inline SVG with them) sees a sensible picture and no dead control.
"""

import base64
import copy
import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from io import BytesIO
from urllib.parse import quote

import numpy as np
import torch
from matplotlib import colormaps, ticker
from matplotlib.image import imsave
from numpy.typing import ArrayLike
from torch import Tensor

from gausstools.figures.style import COLORS
from gausstools.models import Gaussian, Mixture, PointCloud
from gausstools.samplers import heun

__all__ = [
    "LIMIT", "Arrows", "Ellipse", "Interactive", "Line", "Panel", "Points", "Shade", "Text", "denoiser", "flow",
    "frames",
]  # fmt: skip

LIMIT = 500_000
"""Bytes that a figure may have, so that a page with a few of them stays below one megabyte."""

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_FONT = 13  # of the labels, in the units of the picture, which are pixels on a wide screen
_SIDES = {"left": 40, "right": 14, "top": 10, "bottom": 26}
_FAR = 10_000.0  # pixels; what lies farther out is drawn there, to keep its digits few
_STEPS = 120  # intervals of the slider of σ, and steps of the integration


# ---- scales and paths


def _number(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError("a layer holds a value that is not finite, and cannot be drawn")
    text = f"{min(max(value, -_FAR), _FAR):.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def _color(color: str) -> str:
    return COLORS.get(color, color)


def _array(value: ArrayLike | Tensor) -> np.ndarray:
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=float)


def _plane(value: ArrayLike | Tensor, what: str) -> np.ndarray:
    """Points of the plane, ``(n, 2)``."""
    points = _array(value)
    points = points[None] if points.ndim == 1 else points
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"{what} has shape {points.shape}, expected (n, 2)")
    return points


def _attributes(**values: str | float) -> str:
    return "".join(f' {key.replace("_", "-")}="{html.escape(str(value))}"' for key, value in values.items())


@dataclass(frozen=True)
class Points:
    """Dots at ``xy``, ``(n, 2)``, in data coordinates.

    Args:
        xy: where.
        color: a name of ``COLORS`` or a colour of HTML.
        size: diameter in pixels; one for all, or one for each.
        opacity: 0 to 1.
        label: for the legend.
    """

    xy: ArrayLike | Tensor
    color: str = "data"
    size: float | Sequence[float] = 4
    opacity: float = 1
    label: str = ""

    def markup(self, panel: "Panel") -> str:
        """The layer as SVG."""
        at = panel.pixels(_plane(self.xy, "xy of points"))
        sizes = _array(self.size)
        if sizes.ndim == 0:
            dots = "".join(f"M{_number(x)} {_number(y)}h0" for x, y in at)
            style = _attributes(stroke=_color(self.color), stroke_width=self.size, stroke_linecap="round")
            return f'<path d="{dots}" fill="none"{style}{_faint(self.opacity)}/>'
        if sizes.shape != (len(at),):
            raise ValueError(f"size has shape {sizes.shape}, expected one for each of {len(at)} points")
        dots = "".join(
            f'<circle cx="{_number(x)}" cy="{_number(y)}" r="{_number(size / 2)}"/>'
            for (x, y), size in zip(at, sizes, strict=True)
            if size >= 0.2
        )
        return f"<g{_attributes(fill=_color(self.color))}{_faint(self.opacity)}>{dots}</g>"


def _faint(opacity: float) -> str:
    return "" if opacity == 1 else f' opacity="{opacity:.2g}"'


@dataclass(frozen=True)
class Line:
    """A line through ``xy``, ``(n, 2)``, or several, ``(lines, n, 2)``.

    Args:
        xy: the corners, in order.
        color: a name of ``COLORS`` or a colour of HTML.
        width: in pixels.
        dashed: whether it is broken.
        opacity: 0 to 1.
        label: for the legend.
    """

    xy: ArrayLike | Tensor
    color: str = "path"
    width: float = 1.6
    dashed: bool = False
    opacity: float = 1
    label: str = ""

    def markup(self, panel: "Panel") -> str:
        """The layer as SVG."""
        corners = _array(self.xy)
        several = corners if corners.ndim == 3 else corners[None]
        drawn = "".join(_polyline(panel.pixels(_plane(line, "xy of a line"))) for line in several)
        style = _attributes(stroke=_color(self.color), stroke_width=self.width)
        dashes = ' stroke-dasharray="5 4"' if self.dashed else ""
        return f'<path d="{drawn}" fill="none" stroke-linejoin="round"{style}{dashes}{_faint(self.opacity)}/>'


def _polyline(at: np.ndarray) -> str:
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in at) if len(at) else ""


@dataclass(frozen=True)
class Arrows:
    """Vectors ``(n, 2)`` at points ``(n, 2)`` as arrows of that length, in data coordinates.

    Args:
        at: where the arrows begin.
        vectors: from their beginning to their tip.
        color: a name of ``COLORS`` or a colour of HTML.
        width: in pixels.
        label: for the legend.
    """

    at: ArrayLike | Tensor
    vectors: ArrayLike | Tensor
    color: str = "data"
    width: float = 1.4
    label: str = ""

    def markup(self, panel: "Panel") -> str:
        """The layer as SVG."""
        begin, vectors = _plane(self.at, "at of arrows"), _plane(self.vectors, "vectors of arrows")
        if begin.shape != vectors.shape:
            raise ValueError(f"at has shape {begin.shape} and vectors {vectors.shape}, expected the same")
        tails, tips = panel.pixels(begin), panel.pixels(begin + vectors)
        drawn = "".join(_arrow(tail, tip) for tail, tip in zip(tails, tips, strict=True))
        style = _attributes(stroke=_color(self.color), stroke_width=self.width)
        return f'<path d="{drawn}" fill="none" stroke-linejoin="round"{style}/>'


def _arrow(tail: np.ndarray, tip: np.ndarray) -> str:
    along = tip - tail
    length = math.hypot(*along)
    if length < 1e-6:
        return ""
    along = along / length * min(7.0, 0.6 * length)
    across = np.array([-along[1], along[0]]) * 0.5
    return _polyline(np.stack([tail, tip])) + _polyline(np.stack([tip - along + across, tip, tip - along - across]))


@dataclass(frozen=True)
class Ellipse:
    """Ellipses of equal density of a normal distribution of the plane; for panels with linear axes.

    Args:
        mean, covariance: ``(2,)`` and ``(2, 2)``.
        deviations: how many standard deviations from the mean, an ellipse for each.
        color: a name of ``COLORS`` or a colour of HTML.
        width: in pixels.
        opacity: 0 to 1.
        label: for the legend.
    """

    mean: ArrayLike | Tensor
    covariance: ArrayLike | Tensor
    deviations: Sequence[float] = (1, 2)
    color: str = "gaussian"
    width: float = 1.4
    opacity: float = 1
    label: str = ""

    def markup(self, panel: "Panel") -> str:
        """The layer as SVG."""
        mean, covariance = _array(self.mean), _array(self.covariance)
        if mean.shape != (2,) or covariance.shape != (2, 2):
            raise ValueError(f"mean has shape {mean.shape} and covariance {covariance.shape}, expected (2,) and (2, 2)")
        centre = panel.pixels(mean[None])[0]
        unit = np.diag(panel.pixels(mean[None] + 1.0)[0] - centre)  # pixels per unit; y counts downwards
        variances, axes = np.linalg.eigh(unit @ covariance @ unit)
        drawn = "".join(_oval(centre, np.sqrt(variances.clip(0)) * d, axes[:, 1]) for d in self.deviations)
        style = _attributes(stroke=_color(self.color), stroke_width=self.width)
        return f'<path d="{drawn}" fill="none"{style}{_faint(self.opacity)}/>'


def _oval(centre: np.ndarray, radii: np.ndarray, axis: np.ndarray) -> str:
    """Radii of the short and the long axis, and the direction of the long one."""
    end = axis * radii[1]
    turn = _number(math.degrees(math.atan2(axis[1], axis[0])))
    arc = f"A{_number(radii[1])} {_number(radii[0])} {turn} 1 0 "
    there, back = (f"{_number(x)} {_number(y)}" for x, y in (centre + end, centre - end))
    return f"M{there}{arc}{back}{arc}{there}"


@dataclass(frozen=True)
class Text:
    """Words at a place ``xy``, ``(2,)``, which they are centred on.

    Args:
        xy: where.
        text: the words.
        color: a name of ``COLORS`` or a colour of HTML.
        size: of the letters, in pixels.
    """

    xy: ArrayLike | Tensor
    text: str
    color: str = "data"
    size: float = _FONT
    label: str = field(default="", init=False)

    def markup(self, panel: "Panel") -> str:
        """The layer as SVG."""
        (x, y), *_ = panel.pixels(_plane(self.xy, "xy of text"))
        style = _attributes(x=_number(x), y=_number(y), fill=_color(self.color), font_size=self.size)
        return f'<text{style} text-anchor="middle" dy=".35em">{html.escape(self.text)}</text>'


@dataclass(frozen=True)
class Shade:
    """A field of values ``(rows, columns)`` as colours; row 0 lies at the bottom.

    Args:
        values: what is shown, in linear coordinates.
        extent: ``(x from, x to, y from, y to)`` that they cover, edges included.
        cmap: a colour map of matplotlib.
        limits: the values drawn in its first and last colour; None takes the extremes.
        opacity: 0 to 1.
    """

    values: ArrayLike | Tensor
    extent: tuple[float, float, float, float]
    cmap: str = "Blues"
    limits: tuple[float, float] | None = None
    opacity: float = 1
    label: str = field(default="", init=False)

    def markup(self, panel: "Panel") -> str:
        """The layer as SVG."""
        values = _array(self.values)
        if values.ndim != 2:
            raise ValueError(f"values has shape {values.shape}, expected (rows, columns)")
        left, right, bottom, top = self.extent
        (x, y), (x_end, y_end) = panel.pixels(np.array([[left, top], [right, bottom]]))
        place = _attributes(x=_number(x), y=_number(y), width=_number(x_end - x), height=_number(y_end - y))
        return (
            f'<image{place} preserveAspectRatio="none" href="data:image/png;base64,{self._png(values)}"'
            f"{_faint(self.opacity)}/>"
        )

    def _png(self, values: np.ndarray) -> str:
        low, high = self.limits or (values.min(), values.max())
        shades = colormaps[self.cmap](((values - low) / max(high - low, 1e-300)).clip(0, 1), bytes=True)
        file = BytesIO()
        imsave(file, shades, format="png", origin="lower")
        return base64.b64encode(file.getvalue()).decode()


Layer = Points | Line | Arrows | Ellipse | Text | Shade


# ---- panels


@dataclass(frozen=True)
class Panel:
    """A pair of axes: fixed limits, a background that does not move, and room for what does.

    Args:
        x, y: limits, from left to right and from bottom to top; a decreasing pair turns the axis round.
        xlabel, ylabel, title: words; units belong into the labels.
        xscale, yscale: "linear" or "log".
        background: layers that stand behind every frame.
        equal: whether a unit is as long on both axes; the height then follows from the limits.
        width: of the whole panel, in pixels on a wide screen. On a phone panels stand below one another.
        height: of the area inside the axes; not with ``equal``.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    xlabel: str = ""
    ylabel: str = ""
    title: str = ""
    xscale: str = "linear"
    yscale: str = "linear"
    background: Sequence[Layer] = ()
    equal: bool = False
    width: int = 360
    height: int = 240

    def __post_init__(self):
        for name, limits, scale in (("x", self.x, self.xscale), ("y", self.y, self.yscale)):
            if scale not in ("linear", "log"):
                raise ValueError(f"{name}scale is {scale!r}, expected 'linear' or 'log'")
            if len(limits) != 2 or limits[0] == limits[1] or not all(map(math.isfinite, limits)):
                raise ValueError(f"{name} is {limits}, expected two different finite limits")
            if scale == "log" and min(limits) <= 0:
                raise ValueError(f"{name} is {limits}, but a logarithmic axis has limits above 0")
        if self.equal and "log" in (self.xscale, self.yscale):
            raise ValueError("equal is for two linear axes")

    @property
    def _left(self) -> int:
        return _SIDES["left"] + (20 if self.ylabel else 0)

    @property
    def _inside(self) -> tuple[float, float]:
        """Width and height inside the axes."""
        width = self.width - self._left - _SIDES["right"]
        if not self.equal:
            return width, self.height
        return width, width * abs((self.y[1] - self.y[0]) / (self.x[1] - self.x[0]))

    def _axis(self, values: np.ndarray, which: str) -> np.ndarray:
        """Share of the way from the first limit to the second."""
        limits, scale = (self.x, self.xscale) if which == "x" else (self.y, self.yscale)
        if scale == "linear":
            return (values - limits[0]) / (limits[1] - limits[0])
        # A value of zero lies infinitely far out on a logarithmic axis: outside the frame.
        return np.log(np.maximum(values, 1e-300) / limits[0]) / math.log(limits[1] / limits[0])

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Points ``(n, 2)`` in pixels of the picture, from the upper left corner of the axes."""
        width, height = self._inside
        across, up = self._axis(points[:, 0], "x") * width, self._axis(points[:, 1], "y") * height
        return np.stack([across, height - up], axis=1)

    def _ticks(self, which: str) -> Iterable[tuple[float, str]]:
        limits, scale = (self.x, self.xscale) if which == "x" else (self.y, self.yscale)
        low, high = sorted(limits)
        if scale == "log":
            values = 10.0 ** np.arange(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        else:
            values = ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        values = values[(values >= low - 1e-9 * abs(low)) & (values <= high + 1e-9 * abs(high))]
        for value in values:
            yield value, f"{round(float(value), 12):g}".replace("-", "−")

    def svg(self, name: str, moving: Sequence[Layer]) -> str:
        """The whole picture, with ``moving`` layers in front of the background.

        Args:
            name: prefix of the identifiers inside.
            moving: the layers of one frame.
        """
        width, height = self._inside
        legend, legend_height = self._legend([*self.background, *moving])
        top = _SIDES["top"] + (22 if self.title else 0) + legend_height
        total = round(top + height + _SIDES["bottom"] + (20 if self.xlabel else 0))
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {total}" width="{self.width}" '
            f'height="{total}" font-family="DejaVu Sans, Arial, sans-serif" font-size="{_FONT}" fill="{COLORS["data"]}">'
            f'<rect width="{self.width}" height="{total}" fill="#fff"/>'
        ]
        if self.title:
            parts.append(
                f'<text x="{self._left + width / 2:.0f}" y="18" text-anchor="middle">{html.escape(self.title)}</text>'
            )
        parts.append(f'<g transform="translate({self._left} {32 if self.title else 10})">{legend}</g>')
        parts.append(f'<g transform="translate({self._left} {top})">{self._axes(width, height)}')
        clip = f"{name}-clip"
        parts.append(
            f'<clipPath id="{clip}"><rect width="{_number(width)}" height="{_number(height)}"/></clipPath>'
            f'<g clip-path="url(#{clip})"><g>{self._drawn(self.background)}</g>'
            f'<g class="moving">{self._drawn(moving)}</g></g></g></svg>'
        )
        return "".join(parts)

    def _drawn(self, layers: Sequence[Layer]) -> str:
        return "".join(layer.markup(self) for layer in layers)

    def _axes(self, width: float, height: float) -> str:
        ticks, words = [f"M0 0V{_number(height)}H{_number(width)}"], []
        for value, text in self._ticks("x"):
            x = _number(self._axis(np.array(value), "x") * width)
            ticks.append(f"M{x} {_number(height)}v5")
            words.append(f'<text x="{x}" y="{_number(height + 19)}" text-anchor="middle">{text}</text>')
        for value, text in self._ticks("y"):
            y = _number((1 - self._axis(np.array(value), "y")) * height)
            ticks.append(f"M0 {y}h-5")
            words.append(f'<text x="-8" y="{y}" dy=".35em" text-anchor="end">{text}</text>')
        if self.xlabel:
            words.append(
                f'<text x="{_number(width / 2)}" y="{_number(height + 40)}" text-anchor="middle">'
                f"{html.escape(self.xlabel)}</text>"
            )
        if self.ylabel:
            words.append(
                f'<text transform="translate({12 - self._left} {_number(height / 2)}) rotate(-90)" '
                f'text-anchor="middle" dy=".35em">{html.escape(self.ylabel)}</text>'
            )
        return f'<path d="{"".join(ticks)}" fill="none" stroke="{COLORS["data"]}" stroke-width=".8"/>{"".join(words)}'

    def _legend(self, layers: Sequence[Layer]) -> tuple[str, int]:
        """A row, or several, of marks and words, and its height."""
        entries = {layer.label: layer for layer in layers if layer.label}
        x = y = 0
        drawn = []
        for label, layer in entries.items():
            needed = 22 + round(0.58 * _FONT * len(label)) + 12
            if x and x + needed > self.width - self._left:
                x, y = 0, y + 19
            color = _color(layer.color)
            dashes = ' stroke-dasharray="5 4"' if getattr(layer, "dashed", False) else ""
            mark = (
                f'<circle cx="{x + 8}" cy="{y + 6}" r="4" fill="{color}"/>'
                if isinstance(layer, Points)
                else f'<path d="M{x} {y + 6}h16" stroke="{color}" stroke-width="2"{dashes}/>'
            )
            drawn.append(f'{mark}<text x="{x + 22}" y="{y + 11}">{html.escape(label)}</text>')
            x += needed
        return "".join(drawn), y + 24 if entries else 0


# ---- the figure as HTML


class Interactive:
    """A figure as HTML, to stand as the last value of a notebook's cell. Its text is ``.html``."""

    def __init__(self, name: str, stills: Sequence[str], alt: str, data: dict):
        if not _NAME.fullmatch(name):
            raise ValueError(f"name is {name!r}, expected lower-case letters, digits and hyphens, a letter first")
        images = "".join(
            f'<img alt="{html.escape(alt)}" src="data:image/svg+xml,{quote(still, safe=_UNQUOTED)}">'
            for still in stills
        )
        # Escaped so that no text of the author's can close the script, or open a comment in it.
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        text = text.replace("</", "<\\/").replace("<!", "\\u003c!")
        self.name = name
        self.html = (
            f'<div class="gausstools-live" id="{name}">{_css()}<div class="panels">{images}</div>'
            f"<script>({_script()})({json.dumps(name)},{text})</script></div>"
        )
        size = len(self.html.encode())
        if size > LIMIT:
            raise ValueError(
                f"figure {name} has {size / 1000:.0f} kB, at most {LIMIT / 1000:.0f} are allowed: "
                "take fewer frames, or fewer points"
            )

    def __repr__(self) -> str:
        return f"Interactive({self.name!r}, {len(self.html) / 1000:.0f} kB)"

    def _repr_html_(self) -> str:
        return self.html


_UNQUOTED = " /:=,;()'+*!@$-._~<>"  # what may stand as it is inside a data address between double quotes


@cache
def _script() -> str:
    source = resources.files("gausstools.figures").joinpath("interactive.js").read_text("utf-8")
    code = [line.strip() for line in source.splitlines() if not line.strip().startswith("//")]
    return "\n".join(filter(None, code)).rstrip(";")


@cache
def _css() -> str:
    source = resources.files("gausstools.figures").joinpath("interactive.css").read_text("utf-8")
    return f"<style>{' '.join(source.split())}</style>"


def frames(
    frames: Sequence[Sequence],
    labels: Sequence[str | float],
    panels: Panel | Sequence[Panel],
    *,
    name: str,
    control: str = "noise level σ",
    start: int = 0,
    seconds: float = 6.0,
) -> Interactive:
    """Return a figure that leafs through frames by a slider, with a button that plays them.

    Args:
        frames: a list of layers for each position of the slider; with several panels, a list of such lists, one for
            each panel.
        labels: what each position is called; numbers are written with three digits.
        panels: one or several, side by side where there is room.
        name: of the element on the page; another than that of the caption, and no other figure's.
        control: what the slider sets.
        start: the position shown first, and in the still picture.
        seconds: that playing all frames takes.

    Raises:
        ValueError: for frames, labels and panels that do not fit together, a name that is no name, a value that is
            not finite, or more than ``LIMIT`` bytes.

    >>> plane = Panel(x=(-2, 2), y=(-2, 2), equal=True)
    >>> steps = [[Points([[0.1 * i, 0.0]])] for i in range(20)]
    >>> frames(steps, labels=range(20), panels=plane, name="walk", control="step")
    Interactive('walk', 10 kB)
    """
    panels = [panels] if isinstance(panels, Panel) else list(panels)
    if len(frames) == 0 or len(frames) != len(labels):
        raise ValueError(f"{len(frames)} frames and {len(labels)} labels, expected one label for each frame")
    if not 0 <= start < len(frames):
        raise ValueError(f"start is {start}, expected a frame, 0 to {len(frames) - 1}")
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds}, expected a positive number")
    if len(panels) == 1:
        frames = [[layers] for layers in frames]
    for i, frame in enumerate(frames):
        if len(frame) != len(panels):
            raise ValueError(f"frame {i} has layers for {len(frame)} panels, expected {len(panels)}")
    texts = [label if isinstance(label, str) else f"{float(label):.3g}" for label in labels]
    data = {
        "kind": "frames",
        "control": control,
        "labels": texts,
        "start": start,
        "pause": round(1000 * seconds / len(frames)),
        "frames": [[panel._drawn(layers) for panel, layers in zip(panels, frame, strict=True)] for frame in frames],
    }
    stills = [
        panel.svg(f"{name}-{i}", layers) for i, (panel, layers) in enumerate(zip(panels, frames[start], strict=True))
    ]
    return Interactive(name, stills, f"still picture at {control}: {texts[start]}", data)


Model = Gaussian | Mixture | PointCloud


def _components(model: Model) -> list[list[float]]:
    """Weight, mean and covariance (xx, xy, yy) of each component, with the digits that the browser needs."""
    if not isinstance(model, Gaussian | Mixture | PointCloud):
        raise TypeError(f"model is a {type(model).__name__}, expected a Gaussian, a Mixture or a PointCloud")
    if tuple(model.event_shape) != (2,):
        raise ValueError(f"the model has events of shape {tuple(model.event_shape)}, expected (2,), the plane")
    if isinstance(model, PointCloud):
        rows = [[1 / len(model), *point, 0.0, 0.0, 0.0] for point in model.data.tolist()]
    else:
        parts = [(1.0, model)] if isinstance(model, Gaussian) else zip(model.weights.tolist(), model, strict=True)
        rows = []
        for weight, part in parts:
            (xx, xy), (_, yy) = part.covariance.tolist()
            rows.append([weight, *part.mean.tolist(), xx, xy, yy])
    return [[float(f"{value:.6g}") for value in row] for row in rows]


def flow(
    model: Model,
    start: ArrayLike | Tensor,
    panel: Panel,
    *,
    name: str,
    sigma_max: float,
    sigma_min: float = 0.02,
    sigma: float | None = None,
    other: Model | None = None,
    seconds: float = 6.0,
) -> Interactive:
    """Return a plane with a starting point that the reader drags, and the probability flow that leaves it.

    Shown are the path from ``sigma_max`` to ``sigma_min``, and at the slider's level the state, the denoised point,
    and what the model weighs there: the noised components' ellipses, or the points of a cloud, the larger the more
    weight they have. With a second model its path is drawn in the colour of the Gaussian.

    Args:
        model: a distribution of the plane.
        start: where the path begins, ``(2,)``, at noise level ``sigma_max``.
        panel: linear axes that hold the start; ``equal`` keeps circles round.
        name: of the element on the page; another than that of the caption, and no other figure's.
        sigma_max, sigma_min: noise levels between which the path runs, the lower above 0.
        sigma: the level shown first; None begins half way, in ln σ.
        other: a second model, whose path from the same start is drawn too.
        seconds: that playing the path takes.

    Raises:
        TypeError: for a model of another kind.
        ValueError: for a model that is not of the plane, levels in the wrong order, a panel with logarithmic axes, a
            name that is no name, or more than ``LIMIT`` bytes.

    >>> model = Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> plane = Panel(x=(-4, 4), y=(-4, 4), equal=True)
    >>> flow(model, [2.0, 1.0], plane, name="first-path", sigma_max=2.0).name
    'first-path'
    """
    return _model_figure("flow", model, start, panel, name, (sigma_max, sigma_min, sigma), other, seconds)


def denoiser(
    model: Model,
    at: ArrayLike | Tensor,
    panel: Panel,
    *,
    name: str,
    sigma_max: float,
    sigma_min: float = 0.02,
    sigma: float | None = None,
    other: Model | None = None,
    seconds: float = 6.0,
) -> Interactive:
    """Return a plane with a noisy point that the reader drags, and what the denoiser answers there.

    Shown are the answer, an arrow from the point to it, which is σ² times the score, and what the model weighs: the
    noised components' ellipses, or the points of a cloud, the larger the more weight they have.

    Args:
        model: a distribution of the plane.
        at: the noisy point, ``(2,)``.
        panel: linear axes that hold it; ``equal`` keeps circles round.
        name: of the element on the page; another than that of the caption, and no other figure's.
        sigma_max, sigma_min: ends of the slider of σ, the lower above 0.
        sigma: the level shown first; None begins half way, in ln σ.
        other: a second model, whose answer is drawn too, in the colour of the Gaussian.
        seconds: that playing through the levels takes.

    Raises:
        TypeError: for a model of another kind.
        ValueError: as :func:`flow`.

    >>> cloud = PointCloud(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    >>> plane = Panel(x=(-2, 2), y=(-2, 2), equal=True)
    >>> denoiser(cloud, [0.5, 1.0], plane, name="two-points", sigma_max=2.0).name
    'two-points'
    """
    return _model_figure("denoiser", model, at, panel, name, (sigma_max, sigma_min, sigma), other, seconds)


def _model_figure(
    kind: str,
    model: Model,
    start: ArrayLike | Tensor,
    panel: Panel,
    name: str,
    levels: tuple[float, float, float | None],
    other: Model | None,
    seconds: float,
) -> Interactive:
    models = [_components(each) for each in (model, other) if each is not None]
    high, low, shown = levels
    if not 0 < low < high < math.inf:
        raise ValueError(f"sigma_min is {low} and sigma_max {high}, expected 0 < sigma_min < sigma_max")
    if shown is not None and not low <= shown <= high:
        raise ValueError(f"sigma is {shown}, expected a level from {low} to {high}")
    if (panel.xscale, panel.yscale) != ("linear", "linear"):
        raise ValueError("the panel has a logarithmic axis; a plane of models has linear ones")
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds}, expected a positive number")
    at = _array(start)
    inside = at.shape == (2,) and all(
        min(limits) <= value <= max(limits) for limits, value in zip((panel.x, panel.y), at, strict=True)
    )
    if not inside:
        raise ValueError(f"the point {at.tolist()} does not lie in the panel, x {panel.x}, y {panel.y}")
    sigmas = np.geomspace(high, low, _STEPS + 1)
    index = _STEPS // 2 if shown is None else int(np.abs(np.log(sigmas / shown)).argmin())
    layers = _state_layers(kind, [model, other], at, sigmas, index)
    origin, unit = panel.pixels(np.zeros((1, 2)))[0], panel.pixels(np.ones((1, 2)))[0]
    data = {
        "kind": kind,
        "control": "noise level σ",
        "start": index,
        "pause": round(1000 * seconds / (_STEPS + 1)),
        "sigma": [high, low, _STEPS],
        "at": at.tolist(),
        "limits": [*panel.x, *panel.y],
        "scale": [*origin, *(unit - origin)],
        "models": models,
        "colors": {key: COLORS[key] for key in ("data", "noise", "gaussian", "path", "denoised")},
    }
    still = panel.svg(f"{name}-0", layers)
    return Interactive(name, [still], f"still picture at noise level σ = {sigmas[index]:.3g}", data)


def _state_layers(
    kind: str, models: Sequence[Model | None], at: np.ndarray, sigmas: np.ndarray, index: int
) -> list[Layer]:
    """What the script draws at its start, for the still picture."""
    sigma, layers, paths = float(sigmas[index]), [], []
    for model in filter(None, models):
        point = torch.tensor(at)[None]
        model = copy.deepcopy(model).double()
        path = [point]
        if kind == "flow":
            path += [state.x for state in heun(model, point, torch.tensor(sigmas))]
        paths.append((model, torch.cat(path).numpy()))
    for (model, path), color in reversed(list(zip(paths, ("path", "gaussian"), strict=False))):
        state = path[index] if kind == "flow" else at
        answer = model(torch.tensor(state)[None], sigma)[0].numpy()
        if color == "path":
            layers += _weighed(model, state, sigma)
        if kind == "flow":
            layers.append(Line(path, color, label="path" if color == "path" else "other path"))
            layers.append(Points(state, color, 9))
        layers.append(Arrows(state, answer - state, "data" if color == "path" else color))
        layers.append(Points(answer, "denoised" if color == "path" else color, 9, label=_ANSWERS[color]))
    return [*layers, Points(at, "data", 12, label="start" if kind == "flow" else "noisy point")]


_ANSWERS = {"path": "denoised", "gaussian": "denoised by the other"}


def _weighed(model: Model, state: np.ndarray, sigma: float) -> list[Layer]:
    x = torch.tensor(state)[None]
    if isinstance(model, PointCloud):
        weights = model.posterior(x, sigma)[0]
        sizes = 10 * (weights / weights.max()).sqrt()
        return [Points(model.data, "noise", 3), Points(model.data, "denoised", sizes.tolist(), 0.6)]
    parts = [model] if isinstance(model, Gaussian) else list(model)
    shares = [1.0] if isinstance(model, Gaussian) else model.posterior(x, sigma)[0].tolist()
    noise = sigma**2 * np.eye(2)
    layers = [Ellipse(part.mean, part.covariance, (1, 2), "noise", 1) for part in parts]
    return layers + [
        Ellipse(part.mean, _array(part.covariance) + noise, (1,), "gaussian", 1.4, 0.15 + 0.85 * share)
        for part, share in zip(parts, shares, strict=True)
    ]
