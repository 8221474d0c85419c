"""Fitting a Gaussian mixture: k-means, then expectation–maximisation until held-out data stop gaining.

In many dimensions a point belongs to one component almost surely, so the maximisation gathers for each component only
the points that it shares in, and takes the eigenpairs of their Gram matrix where they are fewer than the dimensions. A
step costs about ``2·n·K·D·rank`` operations for the expectation, and memory for ``(n, K)`` responsibilities.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from gausstools.denoiser import check_choice, check_count, working_dtype
from gausstools.models.base import check_event
from gausstools.models.batches import gather
from gausstools.models.eigen import eigenpairs
from gausstools.models.gaussian import Gaussian
from gausstools.models.mixture import Mixture
from gausstools.models.spectrum import Spectrum

__all__ = ["fit"]

REG_COVAR = 1e-5  # added to every variance
HELD_OUT = 0.1  # the share of the data that decides when to stop
MAX_STEPS = 50
NEGLIGIBLE = 1e-8  # share in a point below which a component does without it
ENOUGH = 1e-3  # growth of the log likelihood per point, in nats, that is worth another step


def fit(data: Tensor | Iterable, n_components: int, rank: int | None, seed: int, method: str) -> Mixture:
    """Do what ``Mixture.fit`` says."""
    data = gather(data)
    dtype = data.dtype
    check_event(data[0], "data")
    data = data.to(working_dtype(dtype))
    if rank is not None:
        check_count(rank, "rank", 0, data[0].numel())
    check_count(seed, "seed", 0, 2**32 - 1)
    check_choice(method, "method", "em", "kmeans")
    n_test = int(HELD_OUT * len(data)) if method == "em" else 0
    check_count(n_components, "n_components", 1, len(data) - n_test)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).to(data.device)
    judge, train = (data[order[:n_test]], data[order[n_test:]]) if n_test else (data, data)

    def maximise(share: Tensor) -> Mixture:
        """Return the mixture that fits the responsibilities ``(n, K)`` best."""
        components = []
        for weights in share.T:
            used = weights > NEGLIGIBLE
            nobodys = Gaussian.isotropic(train.mean(0), REG_COVAR)
            components.append(_component(train[used], weights[used], rank) if used.any() else nobodys)
        weights = share.double().mean(0)
        return Mixture(weights / weights.sum(), components)

    def likelihood(mixture: Mixture) -> float:
        return mixture.log_prob(judge).double().mean().item()

    clusters = _kmeans(train, n_components, seed)
    mixture = maximise(torch.nn.functional.one_hot(clusters, n_components).to(train))
    for _ in range(MAX_STEPS if method == "em" else 0):
        after = maximise(mixture.posterior(train))
        if not likelihood(after) > likelihood(mixture) + ENOUGH:
            break
        mixture = after
    return mixture.to(dtype)


def _kmeans(data: Tensor, n_components: int, seed: int) -> Tensor:
    """Return the cluster of each point, ``(n,)``."""
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ImportError("Mixture.fit needs scikit-learn for k-means: pip install 'gausstools[data]'") from error
    labels = KMeans(n_components, n_init=1, random_state=seed).fit_predict(data.flatten(1).cpu().numpy())
    return torch.from_numpy(labels).long().to(data.device)


def _component(data: Tensor, weights: Tensor, rank: int | None) -> Gaussian:
    """Return the Gaussian with the weighted moments of the data, ``(n, *event)``, plus a little everywhere."""
    rows, weights = data.flatten(1).double(), weights.double() / weights.double().sum()
    n, dim = rows.shape
    mean = weights @ rows
    rows = (rows - mean).mul_(weights.sqrt()[:, None])
    total = rows.square().sum()
    if not total < torch.finfo(data.dtype).max:
        raise ValueError(f"data have variances beyond the range of {data.dtype}; scale them down")
    if 2 * n < dim:
        values, vectors = eigenpairs(rows @ rows.T, None if rank is None else min(rank, n))
        real = values > n * torch.finfo(values.dtype).eps * values[:1]  # the largest, if any is kept
        values, basis = values[real], torch.linalg.qr(rows.T @ vectors[:, real])[0]
    else:
        values, basis = eigenpairs(rows.T @ rows, rank)
    variances, _, tail = Spectrum.leading(values, basis, total, rounding=0.0)
    return Gaussian(mean.reshape(data.shape[1:]), variances + REG_COVAR, basis, tail + REG_COVAR).to(data)
