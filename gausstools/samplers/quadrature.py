"""Gauss–Legendre quadrature on consecutive pieces, for the weights of exponential methods.

The integrals under which such a method replaces the denoiser by a polynomial are one-dimensional, in ``ln σ``, and are
wanted for each direction by itself. A piece is at most 2 long and has 16 points. The integrands' nearest singularities,
where ``σ² = −variance``, lie π/2 off the real axis, so that leaves an error near rounding.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor

__all__ = ["Quadrature"]

_PIECE, _NODES = 2.0, 16


class Quadrature:
    """Points and weights on the intervals between edges.

    Args:
        edges: increasing, at least two. An interval longer than a piece is cut into equal ones.

    >>> rule = Quadrature([0.0, 1.0, 5.0])
    >>> rule.edges.tolist()
    [0.0, 1.0, 3.0, 5.0]
    >>> (rule.shares * rule.points**2).sum().item()                  # 5³/3
    41.66666666666...
    """

    def __init__(self, edges: Sequence[float]):
        cuts = [
            torch.linspace(low, high, math.ceil((high - low) / _PIECE) + 1, dtype=torch.float64)[:-1]
            for low, high in itertools.pairwise(edges)
        ]
        self.edges = torch.cat([*cuts, torch.tensor(edges[-1:], dtype=torch.float64)])
        half = self.edges.diff()[:, None] / 2
        nodes, weights = legendre.leggauss(_NODES)
        self.points = self.edges[:-1, None] + half * (1 + torch.from_numpy(nodes))  # (pieces, nodes)
        self.shares = half * torch.from_numpy(weights)
        self._half, self._partial = half, torch.from_numpy(_partial_sums(nodes))

    def running(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Integrate values at the points, ``(pieces, nodes, dim)``, from the first edge to each point and each edge."""
        whole = torch.einsum("pn,pnd->pd", self.shares, values).cumsum(0)
        at_edges = torch.cat([torch.zeros_like(whole[:1]), whole])
        within = self._half[..., None] * torch.einsum("mn,pnd->pmd", self._partial, values)
        return at_edges[:-1, None] + within, at_edges


def _partial_sums(nodes: np.ndarray) -> np.ndarray:
    """Return the matrix that integrates the polynomial through values at the nodes from −1 to each node."""
    through = np.linalg.inv(legendre.legvander(nodes, len(nodes) - 1))  # (degrees, nodes)
    return legendre.legval(nodes, legendre.legint(through, lbnd=-1)).T
