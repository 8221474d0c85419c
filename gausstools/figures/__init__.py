"""The book's figures: one style, and a few plots that take results and draw them. Needs the extra ``figures``."""

from gausstools.figures.comparison import BESIDE_PAPER, BesidePaper, Entry
from gausstools.figures.plots import draw_covariance, image_grid, vector_field
from gausstools.figures.style import COLORS, LEVELS, set_style

__all__ = [
    "BESIDE_PAPER",
    "COLORS",
    "LEVELS",
    "BesidePaper",
    "Entry",
    "draw_covariance",
    "image_grid",
    "set_style",
    "vector_field",
]
