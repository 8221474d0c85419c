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
import json
import math
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.application import Sphinx

from book._ext.generated import FromRuns, render

if TYPE_CHECKING:
    from book._ext.film import Film

_HIGHEST, _LOWEST = 80.0, 0.1  # the axis of σ; below, nothing moves
_FARTHEST = 0.5  # the axis of distances
_CHART = {"width": 320, "height": 250, "left": 40, "right": 312, "top": 30, "floor": 206}


def _across(sigma: float) -> float:
    """Where a noise level lies on the chart."""
    share = math.log(_HIGHEST / max(sigma, _LOWEST)) / math.log(_HIGHEST / _LOWEST)
    return round(_CHART["left"] + share * (_CHART["right"] - _CHART["left"]), 1)


def _up(distance: float) -> float:
    return round(_CHART["floor"] - distance / _FARTHEST * (_CHART["floor"] - _CHART["top"]), 1)


def _line(film: "Film", which: int) -> str:
    points = zip(film.levels, (pair[which] for pair in film.distances), strict=True)
    return " ".join(f"{_across(sigma)},{_up(distance)}" for sigma, distance in points if distance is not None)


def markup(film: "Film", address: str) -> str:
    """The picture as HTML, without its caption; `address` is that of the file with its images."""
    data = {
        "labels": [f"{sigma:.2g}" for sigma in film.levels],
        "calls": [[network, 0, jump] for network, jump in film.calls],
        "across": [_across(sigma) for sigma in film.levels],
    }
    drawing = {"chart": _CHART, "across": _across, "up": _up, "lines": [_line(film, 0), _line(film, 1)]}
    return render("moving_picture.jinja", film=film, address=address, data=json.dumps(data), **drawing)


class _MovingPicture(FromRuns):
    """Show it."""

    def run(self) -> list[nodes.Node]:
        for path in self.inputs.modules:
            self.env.note_dependency(str(self.book.root / path))
        from book._ext.film import cached_film  # brings torch and the library, which only this page needs

        film = cached_film(self.book, self.inputs)
        if not film.shows:
            raise self.error(f"the film no longer shows what its caption says; its distances are {film.distances}")
        folder, address = self.pictures("moving-picture")
        (folder / "film.webp").write_bytes(base64.b64decode(film.sheet))
        picture = nodes.raw("", markup(film, f"{address}/film.webp"), format="html")
        return [picture, *self.parse(render("moving_picture_caption.jinja", film=film))]


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("moving-picture", _MovingPicture)
    return {"version": "1", "parallel_read_safe": True}
