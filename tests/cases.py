"""Random Gaussians for property tests, built without the library's own linear algebra."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

import gausstools as gt

SHAPES = [(1,), (2,), (5,), (1, 2, 3), (3, 2, 2)]


@dataclass(frozen=True)
class Case:
    """A random Gaussian, its dense covariance from numpy, and points at which to ask it."""

    model: gt.Gaussian
    covariance: np.ndarray
    x: torch.Tensor
    sigma: float

    @property
    def rows(self) -> np.ndarray:
        """The points, flattened and centred."""
        return (self.x - self.model.mean).reshape(len(self.x), -1).numpy()


@st.composite
def gaussians(draw, singular=False, smallest_sigma=1e-2, largest_sigma=1e2):
    """A Gaussian of any shape, rank and scale, in float64; with ``singular``, some directions may have no variance."""
    shape = draw(st.sampled_from(SHAPES))
    dim = int(np.prod(shape))
    rank = draw(st.integers(0, dim))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10 ** draw(st.floats(-2, 2))
    variances = scale * np.exp(rng.normal(size=rank))
    tail = scale * draw(st.floats(0.01, 1))
    if singular:
        variances[: rng.integers(0, rank + 1)] = 0
        tail = draw(st.sampled_from([0.0, tail]))
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:, :rank]
    covariance = (basis * variances) @ basis.T + tail * (np.eye(dim) - basis @ basis.T)
    mean = scale**0.5 * rng.normal(size=shape)
    sigma = 10 ** draw(st.floats(np.log10(smallest_sigma), np.log10(largest_sigma)))
    spread = np.hypot(sigma, scale**0.5)
    x = mean + spread * rng.normal(size=(draw(st.integers(1, 4)), *shape))
    model = gt.Gaussian(*(torch.from_numpy(np.asarray(array)) for array in (mean, variances, basis)), tail)
    return Case(model, covariance, torch.from_numpy(x), sigma)
