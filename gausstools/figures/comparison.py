"""Published numbers beside those of a chapter, as a table that the book's appendix can read back."""

import html
import math
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["BESIDE_PAPER", "BesidePaper", "Entry"]

BESIDE_PAPER = "application/vnd.gausstools.beside-paper+json"
"""The kind of output under which a notebook keeps the numbers of the table."""


_HEADS = ("quantity", "published", "measured", "ratio")


class Entry(NamedTuple):
    """A quantity that the paper states and a chapter measured.

    >>> Entry("unexplained score at σ = 2, CIFAR-10", 0.0043, 0.0050).ratio
    1.16...
    """

    quantity: str
    """What it is: in words, with its noise level and data set."""
    published: float
    """What was published."""
    measured: float
    """What the chapter measured."""
    error: float | None = None
    """Standard error of ``measured``."""

    @property
    def ratio(self) -> float:
        """Measured over published."""
        return self.measured / self.published


def _with_error(value: float, error: float | None) -> str:
    """Return three digits of a value; with an error, as many as the first digit of the error allows."""
    if not error:
        return f"{value:.3g}" + ("" if error is None else " ± 0")
    digits = max(0, -math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


class BesidePaper:
    """A table of published and measured numbers; the last value of a notebook's cell shows it.

    Args:
        entries: its rows, :class:`Entry` or tuples of the same values.
        source: where the published numbers stand, e.g. "published_edm_residuals.csv".

    Raises:
        ValueError: for no entries, or numbers that are not finite or published as 0.

    >>> print(BesidePaper([("FID after 3 skipped steps", 1.93, 1.95)], "published_heun_fid.csv"))
    quantity                   published  measured  ratio
    FID after 3 skipped steps       1.93      1.95   1.01
    """

    def __init__(self, entries: Iterable[Entry | tuple], source: str):
        self.entries, self.source = [Entry(*entry) for entry in entries], source
        if not self.entries:
            raise ValueError("entries are empty, expected at least one quantity")
        for entry in self.entries:
            numbers = (entry.published, entry.measured, entry.error or 0)
            if not all(map(math.isfinite, numbers)) or entry.published == 0 or numbers[2] < 0:
                raise ValueError(
                    f"{entry.quantity!r} has published {entry.published} and measured {entry.measured}, error "
                    f"{entry.error}: expected finite numbers, the published one not 0 and the error not below"
                )

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return quantity, published, measured and ratio of each entry, as they are shown."""
        return [
            (entry.quantity, f"{entry.published:.3g}", _with_error(entry.measured, entry.error), f"{entry.ratio:.2f}")
            for entry in self.entries
        ]

    def __str__(self) -> str:
        table = [_HEADS, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        form = f"{{:{widths[0]}}}  " + "  ".join(f"{{:>{width}}}" for width in widths[1:])
        return "\n".join(form.format(*row) for row in table)

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        rows = ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows()]
        heads = "".join(f'<th scope="col">{head}</th>' for head in _HEADS)
        return {
            "text/plain": str(self),
            "text/html": f'<table class="table beside-paper"><thead><tr>{heads}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table>",
            BESIDE_PAPER: {"source": self.source, "rows": [list(row) for row in self.rows()]},
        }
