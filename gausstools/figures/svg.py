"""What the interactive figures draw: layers of SVG in data coordinates, on panels with axes.

A layer knows its place in the data's units and writes itself as a fragment of SVG, given a panel, which knows the
limits of its axes and the pixels of the picture. Clouds of dots and bundles of lines are one path each, with a tenth of
a pixel as the unit of rounding, so that a hundred frames of a few hundred points weigh some hundred kilobytes.
"""

import base64
import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from numbers import Real

import numpy as np
from matplotlib import colormaps, ticker
from matplotlib.image import imsave
from numpy.typing import ArrayLike
from torch import Tensor

from gausstools.figures.style import COLORS

__all__ = ["Arrows", "Ellipse", "Layer", "Line", "Panel", "Points", "Shade", "Text"]

_FONT = 13  # of the labels, in the units of the picture, which are pixels on a wide screen
_SIDES = {"left": 40, "right": 14, "top": 10, "bottom": 26}
_FAR = 10_000.0  # pixels; what lies farther out is drawn there, to keep its digits few


# ---- scales and paths


def _number(value: Real) -> str:
    if not math.isfinite(value):
        raise ValueError("a layer holds a value that is not finite, and cannot be drawn")
    text = f"{min(max(value, -_FAR), _FAR):.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def _color(color: str) -> str:
    return COLORS.get(color, color)


def as_array(value: ArrayLike | Tensor | Real) -> np.ndarray:
    """Numbers in float64, wherever they come from."""
    return np.asarray(value.detach().cpu().double() if isinstance(value, Tensor) else value, dtype=float)


def _plane(value: ArrayLike | Tensor, what: str) -> np.ndarray:
    """Points of the plane, ``(n, 2)``."""
    points = as_array(value)
    points = points[None] if points.ndim == 1 else points
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"{what} has shape {points.shape}, expected (n, 2)")
    return points


def _attributes(**values: str | Real) -> str:
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
        hollow: whether they are rings.
    """

    xy: ArrayLike | Tensor
    color: str = "data"
    size: Real | ArrayLike | Tensor = 4
    opacity: Real = 1
    label: str = ""
    hollow: bool = False

    def markup(self, panel: "Panel") -> str:
        """The layer as SVG."""
        at = panel.pixels(_plane(self.xy, "xy of points"))
        sizes = as_array(self.size)
        if sizes.ndim == 0 and not self.hollow:
            dots = "".join(f"M{_number(x)} {_number(y)}h0" for x, y in at)
            style = _attributes(stroke=_color(self.color), stroke_width=self.size, stroke_linecap="round")
            return f'<path d="{dots}" fill="none"{style}{_faint(self.opacity)}/>'
        if sizes.shape not in {(), (len(at),)}:
            raise ValueError(f"size has shape {sizes.shape}, expected one for each of {len(at)} points")
        dots = "".join(
            f'<circle cx="{_number(x)}" cy="{_number(y)}" r="{_number(size / 2)}"/>'
            for (x, y), size in zip(at, np.broadcast_to(sizes, len(at)), strict=True)
            if size >= 0.2
        )
        color = _color(self.color)
        style = _attributes(fill="#fff", fill_opacity=0.6, stroke=color, stroke_width=2.5)
        return f"<g{style if self.hollow else _attributes(fill=color)}{_faint(self.opacity)}>{dots}</g>"


def _faint(opacity: Real) -> str:
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
    width: Real = 1.6
    dashed: bool = False
    opacity: Real = 1
    label: str = ""

    def markup(self, panel: "Panel") -> str:
        """The layer as SVG."""
        corners = as_array(self.xy)
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
    width: Real = 1.4
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
    deviations: Sequence[Real] = (1, 2)
    color: str = "gaussian"
    width: Real = 1.4
    opacity: Real = 1
    label: str = ""

    def markup(self, panel: "Panel") -> str:
        """The layer as SVG."""
        mean, covariance = as_array(self.mean), as_array(self.covariance)
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
    size: Real = _FONT
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
    extent: tuple[Real, Real, Real, Real]
    cmap: str = "Blues"
    limits: tuple[Real, Real] | None = None
    opacity: Real = 1
    label: str = field(default="", init=False)

    def markup(self, panel: "Panel") -> str:
        """The layer as SVG."""
        values = as_array(self.values)
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
"""Anything that a panel draws."""


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

    x: tuple[Real, Real]
    y: tuple[Real, Real]
    xlabel: str = ""
    ylabel: str = ""
    title: str = ""
    xscale: str = "linear"
    yscale: str = "linear"
    background: Sequence[Layer] = ()
    equal: bool = False
    width: Real = 360
    height: Real = 240

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
    def _inside(self) -> tuple[Real, Real]:
        """Width and height inside the axes."""
        width = self.width - self._left - _SIDES["right"]
        if not self.equal:
            return width, self.height
        return width, width * abs((self.y[1] - self.y[0]) / (self.x[1] - self.x[0]))

    def _axis(self, values: np.ndarray | Real, which: str) -> np.ndarray | Real:
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

    def _ticks(self, which: str) -> Iterator[tuple[Real, str]]:
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
            f'height="{total}" font-family="DejaVu Sans, Arial, sans-serif" font-size="{_FONT}" '
            f'fill="{COLORS["data"]}">'
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
            f'<g clip-path="url(#{clip})"><g>{self.draw(self.background)}</g>'
            f'<g class="moving">{self.draw(moving)}</g></g></g></svg>'
        )
        return "".join(parts)

    def draw(self, layers: Sequence[Layer]) -> str:
        """Layers as SVG, the first at the back."""
        return "".join(layer.markup(self) for layer in layers)

    def _axes(self, width: Real, height: Real) -> str:
        ticks, words = [f"M0 0V{_number(height)}H{_number(width)}"], []
        for value, text in self._ticks("x"):
            x = _number(self._axis(value, "x") * width)
            ticks.append(f"M{x} {_number(height)}v5")
            words.append(f'<text x="{x}" y="{_number(height + 19)}" text-anchor="middle">{text}</text>')
        for value, text in self._ticks("y"):
            y = _number((1 - self._axis(value, "y")) * height)
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
            dot = (
                f'fill="none" stroke="{color}" stroke-width="2"'
                if getattr(layer, "hollow", False)
                else f'fill="{color}"'
            )
            mark = (
                f'<circle cx="{x + 8}" cy="{y + 6}" r="4" {dot}/>'
                if isinstance(layer, Points)
                else f'<path d="M{x} {y + 6}h16" stroke="{color}" stroke-width="2"{dashes}/>'
            )
            drawn.append(f'{mark}<text x="{x + 22}" y="{y + 11}">{html.escape(label)}</text>')
            x += needed
        return "".join(drawn), y + 24 if entries else 0
