"""What a point cloud looks like from near and from far: the limits and expansions of its denoiser.

From near, at small σ, the weights of the cloud are all on one point: the nearest neighbour. From far away they are
almost even, and can be expanded in ``1/σ``. With ``c_i = y_i − μ``, ``z = (x − μ)/σ`` held fixed, and E the average
over the data,

``D = μ + E[c(c·z)]/σ + (E[c(c·z)²] − E[c|c|²])/(2σ²) + O(σ⁻³)``.

The first term alone is the mean field. The second is ``Σz/σ``, as for the Gaussian with the same mean and covariance
``Σ = E[ccᵀ]``; that Gaussian has no term in ``σ⁻²``, so third moments set its error. This is why every bounded cloud
looks Gaussian from afar. The truncated series is useless once σ² falls below the largest variance of the data, while
the whole Gaussian, which sums it, stays good far below (Wang & Vastola 2024).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import Sigma, check_count, in_dtype
from gausstools.models.pointcloud import PointCloud

__all__ = ["FarField", "NearestNeighbour"]


class _Limit:
    """A limit of a point cloud's denoiser, from what it says of D − μ."""

    def __call__(self, x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, "batch *event"]:
        """Return what stands for ``E[x0 | x_σ = x]``."""
        # Near the data a series has no bound.
        mean = self.cloud.mean.flatten()
        ours = self.cloud.by_rows(lambda rows, s: in_dtype(mean + self._offset(rows, s), rows.dtype), x, sigma)
        return ours.reshape(x.shape)

    def score(self, x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, "batch *event"]:
        """Return ``(D(x, σ) − x)/σ²`` for this D."""

        ours = self.cloud.by_rows(lambda rows, s: (self._offset(rows, s) - rows) / s**2, x, sigma, density=True)
        return ours.reshape(x.shape)


@dataclass(frozen=True)
class FarField(_Limit):
    """The denoiser of a point cloud, expanded to an order in ``1/σ``; its error is ``O(σ^−(order+1))`` at fixed z.

    Order 0 is the mean field, which points at the mean; order 1 knows the covariance; order 2 the third moments too.
    A call costs two products with the data, as that of the cloud does.

    Args:
        cloud: the point cloud.
        order: 0, 1 or 2.

    >>> cloud = PointCloud(torch.tensor([[-1.0], [1.0]]))
    >>> x, sigma = torch.tensor([[2.0]]), 4.0
    >>> [round(FarField(cloud, order)(x, sigma).item(), 4) for order in (0, 1)], round(cloud(x, sigma).item(), 4)
    ([0.0, 0.125], 0.1244)
    """

    cloud: PointCloud
    order: int

    def __post_init__(self):
        """Check the order."""
        check_count(self.order, "order", 0, 2)

    def _offset(self, rows: Tensor, level: Tensor) -> Tensor:
        """Return ``D − μ`` for rows around the mean, ``(b, D)``, at levels ``(1 or b, 1)``."""
        if (level == 0).any():
            raise ValueError("sigma is 0, expected sigma > 0: the expansion is one in 1/σ")
        answer, noise = torch.zeros_like(rows), level.T**2
        for points, half_norms in self.cloud.chunks() if self.order else ():
            first = points @ rows.T / noise
            second = (first.square() - 2 * half_norms / noise) / 2 if self.order == 2 else 0.0
            answer = answer + (first + second).T @ points
        return answer / len(self.cloud)


@dataclass(frozen=True)
class NearestNeighbour(_Limit):
    """The denoiser of a point cloud as σ → 0: the nearest point of the data, at any σ.

    >>> nearest = NearestNeighbour(PointCloud(torch.tensor([[-1.0], [1.0]])))
    >>> nearest(torch.tensor([[0.3], [-5.0]]), sigma=3.0)
    tensor([[ 1.],
            [-1.]])
    """

    cloud: PointCloud

    def _offset(self, rows: Tensor, level: Tensor) -> Tensor:
        return self.cloud.points[self.cloud.peak(rows, rows.new_ones(1, 1))[1]]
