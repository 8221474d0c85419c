"""Plots that the chapters share. Each takes results and an axes, draws, and returns nothing; none computes a result."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Polygon
from torch import Tensor

from gausstools.denoiser import check_count, check_values
from gausstools.figures.svg import as_array, check_vectors, ellipse

__all__ = ["draw_covariance", "image_grid", "vector_field"]


def image_grid(ax: Axes, images: Tensor, columns: int, *, limits: tuple[float, float] = (-1, 1)) -> None:
    """Draw images ``(n, channels, height, width)`` as a grid without axes, row by row; 1 channel is grey, 3 are RGB.

    A white pixel stands between images.

    Args:
        ax: where.
        images: with values in ``limits``; what lies outside is clipped.
        columns: images in a row; a last row that is not full ends in white.
        limits: the values drawn as black and as white.

    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> image_grid(ax, torch.zeros(6, 1, 8, 8), columns=3)
    >>> ax.images[0].get_array().shape                   # 2 rows of 3 images, 1 pixel between
    (17, 26)
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (n >= 1, 1 or 3, height, width)")
    check_count(columns, "columns", 1)
    low, high = limits
    if low == high:
        raise ValueError(f"limits are {limits}, expected two values: one for black, another for white")
    tiles = ((as_array(check_values(images, "images")) - low) / (high - low)).clip(0, 1)
    missing = -len(tiles) % columns
    tiles = np.pad(tiles, ((0, missing), (0, 0), (0, 1), (0, 1)), constant_values=1)  # white on the right and below
    rows = [np.concatenate(row, axis=2) for row in tiles.reshape(-1, columns, *tiles.shape[1:])]
    sheet = np.concatenate(rows, axis=1)[:, :-1, :-1].transpose(1, 2, 0)
    ax.imshow(sheet.squeeze(-1) if images.shape[1] == 1 else sheet, vmin=0, vmax=1)
    ax.set_axis_off()


def draw_covariance(
    ax: Axes, mean: Tensor, covariance: Tensor, *, deviations: tuple[float, ...] = (1, 2), **style
) -> None:
    """Draw ellipses of equal density of a two-dimensional normal distribution.

    Args:
        ax: where.
        mean, covariance: ``(2,)`` and ``(2, 2)``.
        deviations: how many standard deviations from the mean, an ellipse for each.
        style: of the patches, e.g. ``edgecolor``, ``linewidth``, ``label``.

    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> draw_covariance(ax, torch.zeros(2), torch.diag(torch.tensor([4.0, 1.0])))
    >>> [oval.get_xy().max(0).round(1).tolist() for oval in ax.patches]
    [[2.0, 1.0], [4.0, 2.0]]
    """
    label = style.pop("label", None)
    for oval in ellipse(check_values(mean, "mean"), check_values(covariance, "covariance"), deviations):
        ax.add_patch(Polygon(oval, fill=False, label=label, **style))
        label = None


def vector_field(ax: Axes, points: Tensor, vectors: Tensor, **style) -> None:
    """Draw vectors ``(n, 2)`` at points ``(n, 2)`` as arrows of that length, in the axes' units.

    Args:
        ax: where.
        points, vectors: ``(n, 2)`` each.
        style: of ``ax.quiver``, e.g. ``color``, ``width``.

    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> vector_field(ax, points=torch.ones(3, 2), vectors=torch.zeros(3, 2), color="gray")
    >>> ax.collections[0].N                              # arrows
    3
    """
    begin, along = check_vectors(check_values(points, "points"), check_values(vectors, "vectors"))
    ax.quiver(*begin.T, *along.T, **{"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.004, **style})
