"""The moving picture on the front page: from the same noise, a shipped network, its Gaussian, and a jump.

    :::{moving-picture}
    :::

shows the film of `book/_ext/film.py`, with the distance of the Gaussian's and the jump's images from the network's
beside it. The build draws the film once and keeps it in the cache, by what it depends on. Its images lie one below
another in one file, of which each row shows a piece.

What stands in the markup is the last frame, a still picture. The script, where it runs, adds the controls, and plays
the frames once if the reader has not asked for less motion.
"""

import base64
import functools
import html
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.application import Sphinx

from book._ext.generated import FromRuns

if TYPE_CHECKING:
    from book._ext.film import Film

_HIGHEST, _LOWEST = 80.0, 0.1  # the axis of σ; below, nothing moves
_FARTHEST = 0.5  # the axis of distances
_WIDTH, _HEIGHT = 320, 250  # of the chart
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 30, 44  # around its axes


def _across(sigma: float) -> float:
    """Where a noise level lies on the chart."""
    share = math.log(_HIGHEST / max(sigma, _LOWEST)) / math.log(_HIGHEST / _LOWEST)
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _up(distance: float) -> float:
    return _HEIGHT - _BOTTOM - distance / _FARTHEST * (_HEIGHT - _TOP - _BOTTOM)


def _line(drawn: "Film", which: int) -> str:
    points = zip(drawn.levels, (pair[which] for pair in drawn.distances), strict=True)
    return " ".join(f"{_across(sigma):.1f},{_up(value):.1f}" for sigma, value in points if value is not None)


def _chart(drawn: "Film") -> str:
    """Distance over noise level, up to the frame that is shown."""
    right, floor, landing = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, _across(drawn.levels[drawn.skipped])
    ticks = "".join(
        f'<path class="axis" d="M{_across(sigma):.1f} {floor}v5"/>'
        f'<text x="{_across(sigma):.1f}" y="{floor + 19}" text-anchor="middle">{sigma:g}</text>'
        for sigma in (80, 10, 1, 0.1)
    ) + "".join(
        f'<path class="axis" d="M{_LEFT} {_up(value):.1f}h-5"/>'
        f'<text x="{_LEFT - 8}" y="{_up(value):.1f}" dy=".35em" text-anchor="end">{value:g}</text>'
        for value in (0, 0.25, 0.5)
    )
    alt = (
        "Distance from the network’s images over the noise level, from 80 down: the Gaussian’s is near zero at first "
        "and rises steeply below the level at which the jump lands; the jump’s stays near zero to the end."
    )
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{alt}">'
        f'<clipPath id="moving-picture-seen"><rect class="seen" width="{_WIDTH}" height="{_HEIGHT}"/></clipPath>'
        f'<text x="0" y="14">distance from the network’s images</text>'
        f'<path class="axis" d="M{_LEFT} {_TOP}V{floor}H{right}"/>{ticks}'
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 5}" text-anchor="middle">noise level σ</text>'
        f'<path class="landing" d="M{landing:.1f} {_TOP}V{floor}"/>'
        f'<text x="{landing - 6:.1f}" y="{_TOP + 12}" text-anchor="end">one jump</text>'
        f'<text x="{landing + 6:.1f}" y="{_TOP + 12}">then the network</text>'
        f'<g clip-path="url(#moving-picture-seen)"><polyline class="gaussian" points="{_line(drawn, 0)}"/>'
        f'<polyline class="jump" points="{_line(drawn, 1)}"/></g>'
        f'<path class="marker" d="M0 {_TOP}V{floor}" transform="translate({_across(0):.1f})"/></svg>'
    )


def _row(drawn: "Film", which: int, name: str, kind: str, alt: str, address: str) -> str:
    height, width = drawn.shape
    counted = {0: drawn.calls[-1][0], 1: 0, 2: drawn.calls[-1][1]}[which]
    return (
        f'<div class="traveller"><div class="words"><span class="{kind}">{name}</span>'
        f'<span>network calls: <span data-row="{which}">{counted}</span></span></div>'
        f'<div class="strip" style="aspect-ratio: {width} / {height}; --row: {which}">'
        f'<img src="{address}" alt="{html.escape(alt)}"></div></div>'
    )


@functools.cache
def _part(ending: str) -> str:
    return Path(__file__).with_suffix(ending).read_text("utf-8")


def markup(drawn: "Film", address: str) -> str:
    """The picture as HTML, without its caption.

    Args:
        drawn: what it shows.
        address: of the file with its images.
    """
    count = len(drawn.seeds)
    rows = [
        ("the network, step by step", "network", f"{count} handwritten digits, as the network draws them."),
        ("the Gaussian, by a formula", "gaussian", f"{count} grey smudges: what the Gaussian makes of the same noise."),
        ("one jump, then the network", "jump", f"The same {count} digits as in the first row, after the jump."),
    ]
    last = drawn.steps
    data = {
        "labels": [f"{sigma:.2g}" for sigma in drawn.levels],
        "calls": [[network, 0, jump] for network, jump in drawn.calls],
        "across": [round(_across(sigma), 1) for sigma in drawn.levels],
    }
    style = f"--frame: {last}; --pieces: {3 * (last + 1)}"
    strips = "".join(_row(drawn, i, *row, address) for i, row in enumerate(rows))
    controls = (
        '<div class="controls" hidden><button type="button">Play</button>'
        f'<label><span>noise level σ</span><input type="range" min="0" max="{last}" step="1" value="{last}"></label>'
        '<span class="level"></span></div>'
    )
    return (
        f'<div class="moving-picture" id="moving-picture" style="{style}"><style>{_part(".css")}</style>'
        f'<div class="panels"><div class="strips">{strips}</div>{_chart(drawn)}</div>{controls}'
        f"<script>({_part('.js').rstrip().rstrip(';')})"
        f'(document.getElementById("moving-picture"), {json.dumps(data)})</script></div>'
    )


def caption(drawn: "Film") -> str:
    """What is seen, with the numbers of the film."""
    landing = drawn.levels[drawn.skipped]
    total, needed = drawn.calls[-1]
    apart = max(distance for distance, _ in drawn.distances[: drawn.skipped + 1])
    return (
        "From the same noise, what three travellers believe the final image to be at each of the "
        f"{drawn.steps} steps of Heun’s method, on the shipped network of MNIST. The Gaussian knows the training "
        f"images’ mean and covariance and asks no network. Down to σ = {landing:.1f} its images differ from the "
        f"network’s by at most {apart:.0%} of their length. Then the network writes digits, of which two moments know "
        f"nothing. A jump along the Gaussian’s path to that level leaves {needed} of {total} network calls, and "
        f"changes a pixel, of a range of 2, by {drawn.change:.3f}. Seeds {drawn.seeds[0]} to {drawn.seeds[-1]}; drawn "
        "by `book/_ext/film.py` when the pages were built."
    )


class _MovingPicture(FromRuns):
    """Show it."""

    def run(self) -> list[nodes.Node]:
        for path in self.inputs.modules:
            self.env.note_dependency(str(self.book.root / path))
        from book._ext.film import cached_film  # brings torch and the library, which only this page needs

        drawn = cached_film(self.book, self.inputs)
        if not drawn.shows:
            raise self.error(f"the film no longer shows what its caption says; its distances are {drawn.distances}")
        folder, address = self.pictures("moving-picture")
        (folder / "film.webp").write_bytes(base64.b64decode(drawn.sheet))
        picture = nodes.raw("", markup(drawn, f"{address}/film.webp"), format="html")
        return [picture, *self.parse([":::{div} caption-of-moving-picture", caption(drawn), ":::"])]


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("moving-picture", _MovingPicture)
    return {"version": "1", "parallel_read_safe": True}
