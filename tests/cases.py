"""Random Gaussians, mixtures and point clouds for property tests, built without the library's own linear algebra."""

import random
from dataclasses import dataclass

import numpy as np
import scipy.special
import scipy.stats
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


@dataclass(frozen=True)
class MixtureCase:
    """A random mixture, its dense parameters from numpy, and points at which to ask it."""

    model: gt.Mixture
    weights: np.ndarray  # (K,)
    means: np.ndarray  # (K, D)
    covariances: np.ndarray  # (K, D, D)
    x: torch.Tensor
    sigma: float

    @property
    def rows(self) -> np.ndarray:
        """The points, flattened."""
        return self.x.reshape(len(self.x), -1).numpy()

    @property
    def scale(self) -> float:
        """How large the numbers are that the answers are made of."""
        return float(max(np.abs(self.rows).max(), np.abs(self.means).max()))

    def log_joint(self, sigma=None) -> np.ndarray:
        """ln w_k N(x; μ_k, Σ_k + σ²I) from scipy, ``(batch, K)``."""
        noise = (self.sigma if sigma is None else sigma) ** 2 * np.eye(self.means.shape[1])
        with np.errstate(divide="ignore"):
            columns = [
                np.log(weight) + np.atleast_1d(scipy.stats.multivariate_normal(mean, spread + noise).logpdf(self.rows))
                for weight, mean, spread in zip(self.weights, self.means, self.covariances, strict=True)
            ]
        return np.stack(columns, 1)

    def posterior(self) -> np.ndarray:
        """Bayes' rule, ``(batch, K)``."""
        return scipy.special.softmax(self.log_joint(), 1)

    def denoised(self) -> np.ndarray:
        """What each component alone denoises to, ``(batch, K, D)``."""
        noise = self.sigma**2 * np.eye(self.means.shape[1])
        answers = [
            mean + np.linalg.solve(spread + noise, spread).T.dot((self.rows - mean).T).T
            for mean, spread in zip(self.means, self.covariances, strict=True)
        ]
        return np.stack(answers, 1)


@st.composite
def mixtures(draw, singular=False, zero_weights=True, smallest_sigma=1e-2, largest_sigma=1e2):
    """One to five Gaussians of any rank, some perhaps without weight; if singular, with directions of no variance."""
    shape = draw(st.sampled_from(SHAPES))
    dim = int(np.prod(shape))
    count = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10 ** draw(st.floats(-1, 1))
    weights = rng.dirichlet(np.ones(count))
    if zero_weights and count > 1 and draw(st.booleans()):
        weights[rng.integers(count)] = 0
        weights /= weights.sum()
    means = scale * draw(st.floats(0, 3)) * rng.normal(size=(count, dim))
    covariances, components = [], []
    for k in range(count):
        rank = int(rng.integers(0, dim + 1))
        variances = scale**2 * np.exp(rng.normal(size=rank))
        tail = scale**2 * rng.uniform(0.01, 1)
        if singular:
            variances[: rng.integers(0, rank + 1)] = 0
            tail *= rng.integers(2)
        basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:, :rank]
        covariances.append((basis * variances) @ basis.T + tail * (np.eye(dim) - basis @ basis.T))
        tensors = (torch.from_numpy(array) for array in (means[k].reshape(shape), variances, basis))
        components.append(gt.Gaussian(*tensors, tail))
    sigma = 10 ** draw(st.floats(np.log10(smallest_sigma), np.log10(largest_sigma)))
    x = rng.choice(means, draw(st.integers(1, 4))) + np.hypot(sigma, scale) * rng.normal(size=dim)
    x = torch.from_numpy(x).reshape(-1, *shape)
    state = random.getstate()  # the shape checks draw from it, which hypothesis warns about
    model = gt.Mixture(torch.from_numpy(weights), components)
    random.setstate(state)
    return MixtureCase(model, weights, means, np.stack(covariances), x, sigma)


@dataclass(frozen=True)
class CloudCase:
    """A random cloud, some points perhaps repeated, and points at which to ask it."""

    model: gt.PointCloud
    data: torch.Tensor
    x: torch.Tensor
    sigma: float

    @property
    def points(self) -> np.ndarray:
        """The data, flattened."""
        return self.data.reshape(len(self.data), -1).numpy()

    @property
    def rows(self) -> np.ndarray:
        """The points at which to ask, flattened."""
        return self.x.reshape(len(self.x), -1).numpy()

    @property
    def scale(self) -> float:
        """How large the numbers are that the answers are made of."""
        return float(max(np.abs(self.rows).max(), np.abs(self.points).max()))

    def squared_distances(self) -> np.ndarray:
        """|x − y_i|², ``(batch, N)``, the long way."""
        return ((self.rows[:, None] - self.points) ** 2).sum(2)

    def posterior(self) -> np.ndarray:
        """Bayes' rule, ``(batch, N)``."""
        return scipy.special.softmax(-self.squared_distances() / (2 * self.sigma**2), 1)


@st.composite
def clouds(draw, smallest_sigma=1e-2, largest_sigma=1e2, most=30):
    """One to thirty points of any shape and scale, away from the origin, in float64."""
    shape = draw(st.sampled_from(SHAPES))
    count = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10 ** draw(st.floats(-1, 1))
    data = scale * (rng.normal(size=shape) + rng.normal(size=(count, *shape)))
    if draw(st.booleans()):
        data = rng.choice(data, count)
    sigma = 10 ** draw(st.floats(np.log10(smallest_sigma), np.log10(largest_sigma)))
    batch = draw(st.integers(1, 4))
    x = rng.choice(data, batch) + np.hypot(sigma, 0.3 * scale) * rng.normal(size=(batch, *shape))
    data = torch.from_numpy(data)
    return CloudCase(gt.PointCloud(data), data, torch.from_numpy(x), sigma)


# What no model of points in the plane, in float32, can answer: x, sigma, the error and its message.
REFUSED = [
    ([[0.0, 0.0]], 1.0, TypeError, "x is list, expected a torch.Tensor of shape"),
    (torch.zeros(3, 2, dtype=torch.int32), 1.0, TypeError, "x has dtype torch.int32"),
    (torch.zeros(3, 2).double(), 1.0, TypeError, r"x is torch.float64 and the \w+ torch.float32"),
    (torch.zeros(3, 1, 2), 1.0, ValueError, r"x has shape \(3, 1, 2\), expected \(batch, 2\)"),
    (torch.full((3, 2), torch.nan), 1.0, ValueError, "x holds 6 values that are NaN or infinite"),
    (torch.zeros(3, 2), -1.0, ValueError, "is -1.0, expected a finite number >= 0"),
    (torch.zeros(3, 2), float("nan"), ValueError, "is nan, expected a finite number"),
    (torch.zeros(3, 2), "1", TypeError, "is str, expected a float or a tensor"),
    (torch.zeros(3, 2), torch.ones(2), ValueError, r"has shape \(2,\), expected one value or one per row"),
    (torch.zeros(3, 2), torch.tensor([1.0, torch.nan, 1.0]), ValueError, "expected finite numbers >= 0"),
]
