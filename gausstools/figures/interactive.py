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

import copy
import html
import json
import math
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from numbers import Real
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gausstools.figures.style import COLORS
from gausstools.figures.svg import Arrows, Ellipse, Layer, Line, Panel, Points, Shade, Text, as_array
from gausstools.models import Gaussian, Mixture, PointCloud
from gausstools.samplers import heun

__all__ = [
    "LIMIT", "Arrows", "Ellipse", "Interactive", "Line", "Panel", "Points", "Shade", "Text", "denoiser", "flow",
    "frames",
]  # fmt: skip

LIMIT = 500_000
"""Bytes that a figure may have, so that a page with a few of them stays below one megabyte."""

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_STEPS = 120  # intervals of the slider of σ, and steps of the integration


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
            f'<div class="gausstools-live" id="live-{name}">{_css()}<div class="panels">{images}</div>'
            f"<script>({_script()})({json.dumps(f'live-{name}')},{text})</script></div>"
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
    labels: Sequence[str | Real],
    panels: Panel | Sequence[Panel],
    *,
    name: str,
    control: str = "noise level σ",
    start: int = 0,
    seconds: Real = 6.0,
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
    Interactive('walk', ... kB)
    """
    panels = [panels] if isinstance(panels, Panel) else list(panels)
    if len(frames) == 0 or len(frames) != len(labels):
        raise ValueError(f"{len(frames)} frames and {len(labels)} labels, expected one label for each frame")
    if not 0 <= start < len(frames):
        raise ValueError(f"start is {start}, expected a frame, 0 to {len(frames) - 1}")
    if not 0 < seconds < math.inf:
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
        "frames": [[panel.draw(layers) for panel, layers in zip(panels, frame, strict=True)] for frame in frames],
    }
    stills = [
        panel.svg(f"{name}-{i}", layers) for i, (panel, layers) in enumerate(zip(panels, frames[start], strict=True))
    ]
    return Interactive(name, stills, f"still picture at {control}: {texts[start]}", data)


Model = Gaussian | Mixture | PointCloud
_KINDS = {Gaussian: "Gaussian", Mixture: "mixture", PointCloud: "point cloud"}


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
    sigma_max: Real,
    sigma_min: Real = 0.02,
    sigma: Real | None = None,
    other: Model | None = None,
    seconds: Real = 6.0,
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
    sigma_max: Real,
    sigma_min: Real = 0.02,
    sigma: Real | None = None,
    other: Model | None = None,
    seconds: Real = 6.0,
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
    levels: tuple[Real, Real, Real | None],
    other: Model | None,
    seconds: Real,
) -> Interactive:
    models = [_components(each) for each in (model, other) if each is not None]
    high, low, shown = levels
    if not 0 < low < high < math.inf:
        raise ValueError(f"sigma_min is {low} and sigma_max {high}, expected 0 < sigma_min < sigma_max")
    if shown is not None and not low <= shown <= high:
        raise ValueError(f"sigma is {shown}, expected a level from {low} to {high}")
    if (panel.xscale, panel.yscale) != ("linear", "linear"):
        raise ValueError("the panel has a logarithmic axis; a plane of models has linear ones")
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds is {seconds}, expected a positive number")
    at = as_array(start)
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
        whose = f", {_KINDS[type(model)]}" if len(paths) > 1 else ""
        state = path[index] if kind == "flow" else at
        answer = model(torch.tensor(state)[None], sigma)[0].numpy()
        if color == "path":
            layers += _weighed(model, state, sigma)
        if kind == "flow":
            layers.append(Line(path, color, label="path" + whose))
            layers.append(Points(state, color, 9))
        layers.append(Arrows(state, answer - state, "data" if color == "path" else color))
        layers.append(Points(answer, "denoised" if color == "path" else color, 9, label="denoised" + whose))
    return [*layers, Points(at, "data", 14, label="start" if kind == "flow" else "noisy point", hollow=True)]


def _weighed(model: Model, state: np.ndarray, sigma: Real) -> list[Layer]:
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
        Ellipse(part.mean, as_array(part.covariance) + noise, (1,), "gaussian", 1.4, 0.15 + 0.85 * share)
        for part, share in zip(parts, shares, strict=True)
    ]
