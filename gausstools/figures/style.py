"""One house style: a colour-blind-safe palette with a meaning for each colour, thin frames, an opaque white ground.

The ground is opaque so that a page in dark mode shows the same colours as the same page in light mode.
"""

import seaborn

__all__ = ["COLORS", "LEVELS", "set_style"]

_PALETTE = seaborn.color_palette("colorblind").as_hex()

COLORS = {
    "data": "#222222",  # black: points and images as they are
    "noise": "#9a9a9a",  # grey: background, guides
    "gaussian": _PALETTE[0],  # blue: the Gaussian model and what it predicts
    "path": _PALETTE[9],  # light blue: states on their way
    "denoised": _PALETTE[3],  # orange: what a denoiser answers, where a path ends
    "measured": _PALETTE[3],  # orange too: what was measured, beside a prediction
    "first": _PALETTE[4],  # purple and green: two of anything else
    "second": _PALETTE[2],
}
"""What is drawn in which colour throughout the book."""

LEVELS = "viridis"
"""The colour map of anything ordered: noise levels, steps, ranks."""


def set_style() -> None:
    """Make the house style matplotlib's default for this process.

    Figures are in inches on a text column of 7; 144 dots per inch keep them sharp on the page.

    >>> import matplotlib
    >>> with matplotlib.rc_context():                    # which ends with the block; without it, the style stays
    ...     set_style()
    ...     matplotlib.rcParams["figure.figsize"]
    [7.0, 3.2]
    """
    own = {
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": "medium",
        "figure.constrained_layout.use": True,
        "figure.dpi": 144,
        "figure.facecolor": "white",
        "figure.figsize": (7, 3.2),
        "font.size": 10,
        "image.cmap": "gray",
        "image.interpolation": "nearest",
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "savefig.facecolor": "white",
    }
    seaborn.set_theme(context="notebook", style="ticks", palette=_PALETTE, rc=own)
