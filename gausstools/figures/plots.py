"""Plots that the chapters share. Each takes results and an axes, draws, and returns nothing; none computes a result."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from torch import Tensor

from gausstools.figures.svg import as_array

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
    if columns < 1:
        raise ValueError(f"columns is {columns}, expected at least 1")
    low, high = limits
    if low == high:
        raise ValueError(f"limits are {limits}, expected two values: one for black, another for white")
    tiles = ((_finite(images=images) - low) / (high - low)).clip(0, 1).transpose(0, 2, 3, 1)
    count, height, width, channels = tiles.shape
    rows = -(-count // columns)
    sheet = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), dtype=tiles.dtype)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        sheet[top : top + height, left : left + width] = tile
    ax.imshow(sheet.squeeze(-1) if channels == 1 else sheet, vmin=0, vmax=1)
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
    >>> [(float(ellipse.width), float(ellipse.height)) for ellipse in ax.patches]
    [(4.0, 2.0), (8.0, 4.0)]
    """
    if mean.shape != (2,) or covariance.shape != (2, 2):
        raise ValueError(
            f"mean has shape {tuple(mean.shape)} and covariance {tuple(covariance.shape)}, expected (2,) and (2, 2)"
        )
    variances, axes = np.linalg.eigh(_finite(covariance=covariance))
    angle = np.degrees(np.arctan2(axes[1, 1], axes[0, 1]))
    label = style.pop("label", None)
    for distance in deviations:
        width, height = 2 * distance * np.sqrt(variances.clip(0))[::-1]
        center = tuple(_finite(mean=mean))
        ax.add_patch(Ellipse(center, width, height, angle=angle, fill=False, label=label, **style))
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
    if points.shape != vectors.shape or points.shape[1:] != (2,):
        raise ValueError(f"points have shape {tuple(points.shape)} and vectors {tuple(vectors.shape)}, expected (n, 2)")
    style = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.004, **style}
    ax.quiver(*_finite(points=points).T, *_finite(vectors=vectors).T, **style)


def _finite(**given: Tensor) -> np.ndarray:
    """Return the numbers of what is given by name, if they can be drawn."""
    ((name, values),) = given.items()
    array = as_array(values)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are NaN or infinite, and cannot be drawn")
    return array
