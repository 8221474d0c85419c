"""The questions in their straightforward form, as one would write them first: what the library is compared with."""

import torch
from torch import Tensor

from gausstools import Mixture


def gaussian_denoise(mean: Tensor, covariance: Tensor, x: Tensor, sigma: float) -> Tensor:
    """Invert ``Σ + σ²I`` in each call."""
    precision = torch.linalg.inv(covariance + sigma**2 * torch.eye(len(covariance)))
    return mean + (x - mean) @ precision @ covariance


def gaussian_score(mean: Tensor, covariance: Tensor, x: Tensor, sigma: float) -> Tensor:
    """Invert ``Σ + σ²I`` in each call."""
    return -(x - mean) @ torch.linalg.inv(covariance + sigma**2 * torch.eye(len(covariance)))


def gaussian_flow(mean: Tensor, covariance: Tensor, x: Tensor, sigma_from: float, levels: Tensor) -> Tensor:
    """Decompose Σ in each call, and build the matrix of the flow for each level."""
    variances, basis = torch.linalg.eigh(covariance)
    factors = [((level**2 + variances) / (sigma_from**2 + variances)).sqrt() for level in levels]
    return torch.stack([mean + (x - mean) @ (basis * factor) @ basis.T for factor in factors])


def cloud_denoise(data: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """Take all differences at once, ``(batch, N, D)``."""
    squared = (x[:, None] - data[None]).square().sum(2)
    return torch.softmax(-squared / (2 * sigma[:, None] ** 2), 1) @ data


def mixture_denoise(mixture: Mixture, x: Tensor, sigma: float) -> Tensor:
    """Denoise by each component, ``(batch, K, D)``, and average; all components of one rank."""
    rank = len(mixture.variances) // len(mixture)
    basis = mixture.directions.reshape(len(mixture), rank, -1)
    spread, tail = mixture.variances.reshape(len(mixture), rank) + sigma**2, mixture.tails + sigma**2
    centred = x[:, None] - mixture.means
    inside = torch.einsum("bkd,krd->bkr", centred, basis)
    outside = centred - torch.einsum("bkr,krd->bkd", inside, basis)
    mahalanobis = (inside.square() / spread).sum(2) + outside.square().sum(2) / tail
    log_determinant = spread.log().sum(1) + (x.shape[1] - rank) * tail.log()
    share = torch.softmax(mixture.weights.log() - (mahalanobis + log_determinant) / 2, 1)
    shrunk = torch.einsum("bkr,krd->bkd", inside * (1 - sigma**2 / spread), basis)
    denoised = mixture.means + shrunk + outside * (1 - sigma**2 / tail)[:, None]
    return (share[:, :, None] * denoised).sum(1)
