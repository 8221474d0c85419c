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

from gausstools.denoiser import check_count
from gausstools.figures.style import COLORS
from gausstools.figures.svg import Arrows, Ellipse, Layer, Line, Panel, Points, as_array
from gausstools.models import Gaussian, Mixture, PointCloud
from gausstools.samplers import heun

__all__ = ["Arrows", "Ellipse", "Interactive", "Line", "Panel", "Points", "denoiser", "flow", "frames"]

LIMIT = 500_000  # bytes that a figure may have, so that a page with a few of them stays below one megabyte
LOWEST = 0.02  # noise level of a slider, where nothing else is given
SECONDS = 6  # that playing a figure takes
STEPS = 120  # intervals of the slider of σ, and steps of the integration


# ---- the figure as HTML


class Interactive:
    """A figure as HTML, to stand as the last value of a notebook's cell. Its text is ``.html``."""

    def __init__(self, name: str, stills: Sequence[str], alt: str, data: dict):
        if not re.fullmatch("[a-z][a-z0-9-]*", name):
            raise ValueError(f"name is {name!r}, expected lower-case letters, digits and hyphens, a letter first")
        images = "".join(
            f'<img alt="{html.escape(alt)}" src="data:image/svg+xml,{quote(still, safe=UNQUOTED)}">' for still in stills
        )
        # Escaped so that no text of the author's can close the script, or open a comment in it.
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        text = text.replace("</", "<\\/").replace("<!", "\\u003c!")
        self.name = name
        self.html = (
            f'<div class="gausstools-live" id="live-{name}"><style>{_source("interactive.css")}</style>'
            f'<div class="panels">{images}</div>'
            f'<script>({_source("interactive.js")})("live-{name}",{text})</script></div>'
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


UNQUOTED = " /:=,;()'+*!@$-._~<>"  # what may stand as it is inside a data address between double quotes


@cache
def _source(file: str) -> str:
    """Return a file of this package without its indentation and the comments that fill a line."""
    lines = map(str.strip, resources.files("gausstools.figures").joinpath(file).read_text("utf-8").splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def frames(
    frames: Sequence[Sequence],
    labels: Sequence[str | Real],
    panels: Sequence[Panel],
    *,
    name: str,
    control: str = "noise level σ",
    start: int = 0,
) -> Interactive:
    """Return a figure that leafs through frames by a slider, with a button that plays them.

    Args:
        frames: for each position of the slider, a list of layers for each panel.
        labels: what each position is called; numbers are written with three digits.
        panels: side by side where there is room.
        name: of the element on the page; another than that of the caption, and no other figure's.
        control: what the slider sets.
        start: the position shown first, and in the still picture.

    Raises:
        ValueError: for frames, labels and panels that do not fit together, a name that is no name, a value that is
            not finite, or more than 500 kB.

    >>> plane = Panel(x=(-2, 2), y=(-2, 2), equal=True)
    >>> steps = [[[Points([[0.1 * i, 0.0]])]] for i in range(20)]
    >>> frames(steps, labels=range(20), panels=[plane], name="walk", control="step")
    Interactive('walk', ... kB)
    """
    if len(frames) == 0 or len(frames) != len(labels):
        raise ValueError(f"{len(frames)} frames and {len(labels)} labels, expected one label for each frame")
    check_count(start, "start", 0, len(frames) - 1)
    if wrong := {len(frame) for frame in frames} - {len(panels)}:
        raise ValueError(f"frames have layers for {wrong.pop()} panels, expected {len(panels)}")
    texts = [label if isinstance(label, str) else f"{float(label):.3g}" for label in labels]
    data = {
        "kind": "frames",
        "control": control,
        "labels": texts,
        "start": start,
        "pause": round(1000 * SECONDS / len(frames)),
        "frames": [[panel.draw(layers) for panel, layers in zip(panels, frame, strict=True)] for frame in frames],
    }
    first = zip(panels, frames[start], strict=True)
    stills = [panel.svg(f"{name}-{i}", layers) for i, (panel, layers) in enumerate(first)]
    return Interactive(name, stills, f"still picture at {control}: {texts[start]}", data)


# ---- a model of the plane


Model = Gaussian | Mixture | PointCloud


def flow(
    model: Model,
    start: ArrayLike | Tensor,
    panel: Panel,
    *,
    name: str,
    sigma_max: Real,
    sigma_min: Real = LOWEST,
    sigma: Real | None = None,
    other: Model | None = None,
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

    Raises:
        TypeError: for a model of another kind.
        ValueError: for a model that is not of the plane, levels in the wrong order, a panel with logarithmic axes, a
            name that is no name, or more than 500 kB.

    >>> model = Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> plane = Panel(x=(-4, 4), y=(-4, 4), equal=True)
    >>> flow(model, [2.0, 1.0], plane, name="first-path", sigma_max=2.0).name
    'first-path'
    """
    return _model_figure("flow", [model, other], start, panel, name, sigma_max, sigma_min, sigma)


def denoiser(
    model: Model, at: ArrayLike | Tensor, panel: Panel, *, name: str, sigma_max: Real, sigma: Real | None = None
) -> Interactive:
    """Return a plane with a noisy point that the reader drags, and what the denoiser answers there.

    Shown are the answer, an arrow from the point to it, which is σ² times the score, and what the model weighs, as in
    :func:`flow`, which says the other arguments too.

    Args:
        at: the noisy point, ``(2,)``.
        sigma_max: upper end of the slider of σ; the lower is 0.02.

    Raises:
        TypeError, ValueError: as :func:`flow`.

    >>> cloud = PointCloud(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    >>> plane = Panel(x=(-2, 2), y=(-2, 2), equal=True)
    >>> denoiser(cloud, [0.5, 1.0], plane, name="two-points", sigma_max=2.0).name
    'two-points'
    """
    return _model_figure("denoiser", [model], at, panel, name, sigma_max, LOWEST, sigma)


def _model_figure(
    kind: str,
    models: Sequence[Model | None],
    start: ArrayLike | Tensor,
    panel: Panel,
    name: str,
    high: Real,
    low: Real,
    shown: Real | None,
) -> Interactive:
    models = [model for model in models if model is not None]
    components = [_components(model) for model in models]
    if not 0 < low < high < math.inf:
        raise ValueError(f"sigma_min is {low} and sigma_max {high}, expected 0 < sigma_min < sigma_max")
    if shown is not None and not low <= shown <= high:
        raise ValueError(f"sigma is {shown}, expected a level from {low} to {high}")
    if (panel.xscale, panel.yscale) != ("linear", "linear"):
        raise ValueError("the panel has a logarithmic axis; a plane of models has linear ones")
    at = as_array(start)
    corners = np.sort([panel.x, panel.y])
    if at.shape != (2,) or not ((corners[:, 0] <= at) & (at <= corners[:, 1])).all():
        raise ValueError(f"the point {at.tolist()} does not lie in the panel, x {panel.x}, y {panel.y}")
    sigmas = np.geomspace(high, low, STEPS + 1)
    index = STEPS // 2 if shown is None else int(np.abs(np.log(sigmas / shown)).argmin())
    origin, unit = panel.pixels(np.array([[0.0, 0.0], [1.0, 1.0]]))
    data = {
        "kind": kind,
        "control": "noise level σ",
        "start": index,
        "pause": round(1000 * SECONDS / (STEPS + 1)),
        "sigma": [high, low, STEPS],
        "at": at.tolist(),
        "limits": [*panel.x, *panel.y],
        "scale": [*origin, *(unit - origin)],
        "models": components,
        "colors": {key: COLORS[key] for key in ("data", "noise", "gaussian", "path", "denoised")},
    }
    still = panel.svg(f"{name}-0", _still(kind, models, at, sigmas, index))
    return Interactive(name, [still], f"still picture at noise level σ = {sigmas[index]:.3g}", data)


def _components(model: Model) -> list[list[float]]:
    """Return weight, mean and covariance (xx, xy, yy) of each component, with the digits that the browser needs."""
    if not isinstance(model, Model):
        raise TypeError(f"model is a {type(model).__name__}, expected a Gaussian, a Mixture or a PointCloud")
    if tuple(model.event_shape) != (2,):
        raise ValueError(f"the model has events of shape {tuple(model.event_shape)}, expected (2,), the plane")
    if isinstance(model, PointCloud):
        rows = [[1 / len(model), *point, 0.0, 0.0, 0.0] for point in model.data.tolist()]
    else:
        model = _mixture(model)
        rows = [
            [weight, *part.mean.tolist(), *part.covariance.flatten()[[0, 1, 3]].tolist()]
            for weight, part in zip(model.weights.tolist(), model, strict=True)
        ]
    return [[float(f"{value:.6g}") for value in row] for row in rows]


def _mixture(model: Gaussian | Mixture) -> Mixture:
    return Mixture([1.0], [model]) if isinstance(model, Gaussian) else model


def _still(kind: str, models: Sequence[Model], at: np.ndarray, sigmas: np.ndarray, index: int) -> list[Layer]:
    """Return what the script draws at its start: of the second model, behind the first, in the Gaussian's colour."""
    names = {Gaussian: "Gaussian", Mixture: "mixture", PointCloud: "point cloud"}
    layers = []
    for i, model in reversed(list(enumerate(models))):
        whose = f", {names[type(model)]}" if len(models) > 1 else ""
        color, arrow, answer = 3 * ["gaussian"] if i else ("path", "data", "denoised")
        model, x = copy.deepcopy(model).double(), torch.tensor(at)[None]
        trail = []
        if kind == "flow":
            path = torch.cat([x, *(state.x for state in heun(model, x, torch.tensor(sigmas)))])
            x = path[index : index + 1]
            trail = [Line(path, color, label="path" + whose), Points(x, color, 9)]
        denoised = model(x, sigmas[index])
        if i == 0:
            layers += _weighed(model, x, sigmas[index])
        layers += [*trail, Arrows(x, denoised - x, arrow), Points(denoised, answer, 9, label="denoised" + whose)]
    return [*layers, Points(at, "data", 14, label="start" if kind == "flow" else "noisy point", hollow=True)]


def _weighed(model: Model, x: Tensor, sigma: float) -> list[Layer]:
    """Return the model, and how much weight each of its parts has at ``x``, ``(1, 2)``."""
    if isinstance(model, PointCloud):
        weights = model.posterior(x, sigma)[0]
        sizes = 10 * (weights / weights.max()).sqrt()
        return [Points(model.data, "noise", 3), Points(model.data, "denoised", sizes, 0.6)]
    model = _mixture(model)
    layers = [Ellipse(part.mean, part.covariance, color="noise", width=1) for part in model]
    for part, share in zip(model, model.posterior(x, sigma)[0].tolist(), strict=True):
        noised = part.covariance + sigma**2 * torch.eye(2)
        layers.append(Ellipse(part.mean, noised, (1,), "gaussian", opacity=0.15 + 0.85 * share))
    return layers
