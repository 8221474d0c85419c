"""What the interactive figures draw: layers of SVG in data coordinates, on panels with axes.

A layer knows its place in the data's units and writes itself as a fragment of SVG, given a panel, which knows the
limits of its axes and the pixels of the picture. Clouds of dots and bundles of lines are one path each, with a tenth of
a pixel as the unit of rounding, so that a hundred frames of a few hundred points weigh some hundred kilobytes.

matplotlib places the ticks. It does not write the pictures, because its SVG is several times as heavy, and all pictures
have the same identifiers in it, which would meet on one page.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from matplotlib import ticker
from numpy.typing import ArrayLike
from torch import Tensor

from gausstools.denoiser import check_choice
from gausstools.figures.style import COLORS

__all__ = ["Arrows", "Ellipse", "Layer", "Line", "Panel", "Points"]

FONT = 13  # of the labels, in the units of the picture, which are pixels on a wide screen
HEIGHT = 240  # inside the axes, where units are not equal
FAR = 10_000.0  # pixels; what lies farther out is drawn there, to keep its digits few


# ---- numbers and elements


def as_array(value: ArrayLike | Tensor | Real) -> np.ndarray:
    """Return numbers in float64, wherever they come from."""
    return np.asarray(value.detach().cpu().double() if isinstance(value, Tensor) else value, dtype=float)


def _points(value: ArrayLike | Tensor, what: str) -> np.ndarray:
    """Return points of the plane, ``(n, 2)``."""
    points = np.atleast_2d(as_array(value))
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"{what} has shape {points.shape}, expected (n, 2)")
    return points


def check_vectors(at: ArrayLike | Tensor, vectors: ArrayLike | Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return where vectors of the plane begin, and the vectors, ``(n, 2)`` each."""
    at, vectors = _points(at, "points"), _points(vectors, "vectors")
    if at.shape != vectors.shape:
        raise ValueError(f"points have shape {at.shape} and vectors {vectors.shape}, expected the same")
    return at, vectors


def ellipse(mean: ArrayLike | Tensor, covariance: ArrayLike | Tensor, deviations: Sequence[Real]) -> np.ndarray:
    """Return the corners of ellipses at these numbers of standard deviations, ``(len(deviations), 61, 2)``."""
    mean, covariance = as_array(mean), as_array(covariance)
    if mean.shape != (2,) or covariance.shape != (2, 2):
        raise ValueError(f"mean has shape {mean.shape} and covariance {covariance.shape}, expected (2,) and (2, 2)")
    variances, axes = np.linalg.eigh(covariance)
    turn = np.linspace(0, 2 * np.pi, 61)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1) * np.sqrt(variances.clip(0)) @ axes.T
    return np.stack([mean + distance * circle for distance in deviations])


def _number(value: Real) -> str:
    if not math.isfinite(value):
        raise ValueError("a layer holds a value that is not finite, and cannot be drawn")
    text = f"{min(max(value, -FAR), FAR):.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def _element(tag: str, *children: str, **attributes: str | Real) -> str:
    """Return an element with its children; in the names of attributes "_" stands for "-"."""
    written = "".join(f' {key.replace("_", "-")}="{html.escape(str(value))}"' for key, value in attributes.items())
    return f"<{tag}{written}>{''.join(children)}</{tag}>" if children else f"<{tag}{written}/>"


def _words(text: str, x: Real, y: Real, **attributes: str | Real) -> str:
    place = {"text_anchor": "middle", "x": _number(x), "y": _number(y)}
    return _element("text", html.escape(text), **place | attributes) if text else ""


def _polyline(pixels: Sequence | np.ndarray) -> str:
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in pixels) if len(pixels) else ""


def _stroke(path: str, color: str, width: Real, opacity: Real = 1, **attributes: str | Real) -> str:
    style = {"fill": "none", "stroke": COLORS.get(color, color), "stroke_width": width, "stroke_linejoin": "round"}
    return _element("path", d=path, **style, **attributes, **_faint(opacity))


def _faint(opacity: Real) -> dict[str, str]:
    return {} if opacity == 1 else {"opacity": f"{opacity:.2g}"}


# ---- layers


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
        """Return the layer as SVG."""
        at, sizes = panel.pixels(_points(self.xy, "xy of points")), as_array(self.size)
        if sizes.ndim == 0 and not self.hollow:
            dots = "".join(f"M{_number(x)} {_number(y)}h0" for x, y in at)
            return _stroke(dots, self.color, self.size, self.opacity, stroke_linecap="round")
        if sizes.shape not in {(), (len(at),)}:
            raise ValueError(f"size has shape {sizes.shape}, expected one for each of {len(at)} points")
        circles = (
            _element("circle", cx=_number(x), cy=_number(y), r=_number(size / 2))
            for (x, y), size in zip(at, np.broadcast_to(sizes, len(at)), strict=True)
            if size >= 0.2
        )
        color = COLORS.get(self.color, self.color)
        ring = {"fill": "#fff", "fill_opacity": 0.6, "stroke": color, "stroke_width": 2.5}
        return _element("g", "".join(circles), **ring if self.hollow else {"fill": color}, **_faint(self.opacity))


@dataclass(frozen=True)
class Line:
    """A line through ``xy``, ``(n, 2)``, in data coordinates.

    Args:
        xy: the corners, in order.
        color: a name of ``COLORS`` or a colour of HTML.
        width: in pixels.
        label: for the legend.
    """

    xy: ArrayLike | Tensor
    color: str = "path"
    width: Real = 1.6
    label: str = ""

    def markup(self, panel: "Panel") -> str:
        """Return the layer as SVG."""
        return _stroke(_polyline(panel.pixels(_points(self.xy, "xy of a line"))), self.color, self.width)


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
        """Return the layer as SVG."""
        begin, vectors = check_vectors(self.at, self.vectors)
        ends = zip(panel.pixels(begin), panel.pixels(begin + vectors), strict=True)
        return _stroke("".join(_arrow(tail, tip) for tail, tip in ends), self.color, self.width)


def _arrow(tail: np.ndarray, tip: np.ndarray) -> str:
    along = tip - tail
    length = math.hypot(*along)
    if length < 1e-6:
        return ""
    along = along / length * min(7.0, 0.6 * length)
    across = np.array([-along[1], along[0]]) * 0.5
    return _polyline([tail, tip]) + _polyline([tip - along + across, tip, tip - along - across])


@dataclass(frozen=True)
class Ellipse:
    """Ellipses of equal density of a normal distribution of the plane.

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
        """Return the layer as SVG."""
        ovals = ellipse(self.mean, self.covariance, self.deviations)
        return _stroke("".join(_polyline(panel.pixels(oval)) for oval in ovals), self.color, self.width, self.opacity)


Layer = Points | Line | Arrows | Ellipse
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

    def __post_init__(self):
        for name, limits, scale in (("x", self.x, self.xscale), ("y", self.y, self.yscale)):
            check_choice(scale, f"{name}scale", "linear", "log")
            if len(limits) != 2 or limits[0] == limits[1] or not all(map(math.isfinite, limits)):
                raise ValueError(f"{name} is {limits}, expected two different finite limits")
            if scale == "log" and min(limits) <= 0:
                raise ValueError(f"{name} is {limits}, but a logarithmic axis has limits above 0")
        if self.equal and "log" in (self.xscale, self.yscale):
            raise ValueError("equal is for two linear axes")

    @property
    def _left(self) -> int:
        return 60 if self.ylabel else 40

    @property
    def _inside(self) -> tuple[Real, Real]:
        """Width and height inside the axes."""
        width = self.width - self._left - 14
        if not self.equal:
            return width, HEIGHT
        return width, width * abs((self.y[1] - self.y[0]) / (self.x[1] - self.x[0]))

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Return points ``(n, 2)`` in pixels of the picture, from the upper left corner of the axes."""
        width, height = self._inside
        across, up = _share(points[:, 0], self.x, self.xscale), _share(points[:, 1], self.y, self.yscale)
        return np.stack([across * width, (1 - up) * height], axis=1)

    def draw(self, layers: Sequence[Layer]) -> str:
        """Return layers as SVG, the first at the back."""
        return "".join(layer.markup(self) for layer in layers)

    def svg(self, name: str, moving: Sequence[Layer]) -> str:
        """Return the whole picture, with ``moving`` layers in front of the background.

        Args:
            name: prefix of the identifiers inside.
            moving: the layers of one frame.
        """
        width, height = self._inside
        legend, legend_height = self._legend([*self.background, *moving])
        above = 32 if self.title else 10
        total = round(above + legend_height + height + (46 if self.xlabel else 26))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {total}" width="{self.width}" '
            f'height="{total}" font-family="DejaVu Sans, Arial, sans-serif" font-size="{FONT}" fill="{COLORS["data"]}">'
            f'<rect width="{self.width}" height="{total}" fill="#fff"/>{_words(self.title, self._left + width / 2, 18)}'
            f'<g transform="translate({self._left} {above})">{legend}</g>'
            f'<g transform="translate({self._left} {above + legend_height})">{self._axes(width, height)}'
            f'<clipPath id="{name}-clip"><rect width="{_number(width)}" height="{_number(height)}"/></clipPath>'
            f'<g clip-path="url(#{name}-clip)"><g>{self.draw(self.background)}</g>'
            f'<g class="moving">{self.draw(moving)}</g></g></g></svg>'
        )

    def _axes(self, width: Real, height: Real) -> str:
        """Return the axes with their ticks and words."""
        lines = [f"M0 0V{_number(height)}H{_number(width)}"]
        upwards = f"translate({12 - self._left} {_number(height / 2)}) rotate(-90)"
        words = [_words(self.xlabel, width / 2, height + 40), _words(self.ylabel, 0, 0, transform=upwards, dy=".35em")]
        for share, text in _ticks(self.x, self.xscale):
            lines.append(f"M{_number(share * width)} {_number(height)}v5")
            words.append(_words(text, share * width, height + 19))
        for share, text in _ticks(self.y, self.yscale):
            lines.append(f"M0 {_number((1 - share) * height)}h-5")
            words.append(_words(text, -8, (1 - share) * height, dy=".35em", text_anchor="end"))
        return _stroke("".join(lines), "data", 0.8) + "".join(words)

    def _legend(self, layers: Sequence[Layer]) -> tuple[str, int]:
        """Return a row, or several, of marks and words, and its height."""
        entries = {layer.label: layer for layer in layers if layer.label}
        x = y = 0
        drawn = []
        for label, layer in entries.items():
            needed = 22 + round(0.58 * FONT * len(label)) + 12
            if x and x + needed > self.width - self._left:
                x, y = 0, y + 19
            color = COLORS.get(layer.color, layer.color)
            if not isinstance(layer, Points):
                drawn.append(_stroke(f"M{x} {y + 6}h16", color, 2))
            elif layer.hollow:
                drawn.append(_element("circle", cx=x + 8, cy=y + 6, r=4, fill="none", stroke=color, stroke_width=2))
            else:
                drawn.append(_element("circle", cx=x + 8, cy=y + 6, r=4, fill=color))
            drawn.append(_words(label, x + 22, y + 11, text_anchor="start"))
            x += needed
        return "".join(drawn), y + 24 if entries else 0


def _share(values: np.ndarray, limits: tuple[Real, Real], scale: str) -> np.ndarray:
    """Return which share of the way from the first limit to the second each value lies at."""
    if scale == "log":
        # A value of zero lies infinitely far out on a logarithmic axis: outside the frame.
        values, limits = np.log(np.maximum(values, 1e-300)), np.log(limits)
    return (values - limits[0]) / (limits[1] - limits[0])


def _ticks(limits: tuple[Real, Real], scale: str) -> list[tuple[float, str]]:
    """Return the share of the way, and the text, of each tick."""
    locator = ticker.LogLocator() if scale == "log" else ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
    values = locator.tick_values(*sorted(limits))
    shares = _share(values, limits, scale)
    texts = [f"{round(float(value), 12):g}".replace("-", "−") for value in values]
    return [(share, text) for share, text in zip(shares, texts, strict=True) if -1e-9 < share < 1 + 1e-9]
