"""Fitting mixtures: known mixtures are found, likelihood grows, and each step is expectation–maximisation in numpy."""

import numpy as np
import pytest
import scipy.stats
import torch

import gausstools as gt
from gausstools.models import em


@pytest.fixture
def fit(monkeypatch):
    """Mixture.fit with other constants of the method."""

    def fitted(*args, held_out=0.0, max_steps=em.MAX_STEPS, reg_covar=em.REG_COVAR, **options):
        monkeypatch.setattr(em, "HELD_OUT", held_out)
        monkeypatch.setattr(em, "MAX_STEPS", max_steps)
        monkeypatch.setattr(em, "REG_COVAR", reg_covar)
        return gt.Mixture.fit(*args, **options)

    return fitted


def two_clusters(n=4000, seed=0):
    """Two clusters in the plane, of known shares, means and covariances."""
    rng = np.random.default_rng(seed)
    near = rng.multivariate_normal([0, 0], [[2.0, 0.9], [0.9, 1.0]], n // 4)
    far = rng.multivariate_normal([6, 1], [[0.3, 0.0], [0.0, 3.0]], n - n // 4)
    return torch.from_numpy(rng.permutation(np.concatenate([near, far])))


def overlapping(n=600, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(n // 3, dim)) * rng.uniform(0.3, 1.5, dim) + 1.2 * rng.normal(size=dim) for _ in range(3)]
    return torch.from_numpy(rng.permutation(np.concatenate(parts)))


def density(mixture, rows):
    """Log of w_k·N(x; μ_k, Σ_k) in scipy, (n, K)."""
    logs = [
        np.log(w) + scipy.stats.multivariate_normal(c.mean.numpy().ravel(), c.covariance.numpy()).logpdf(rows)
        for w, c in zip(mixture.weights.numpy(), mixture, strict=True)
    ]
    return np.stack(logs, 1)


def test_known_clusters_are_found():
    mixture = gt.Mixture.fit(two_clusters(), 2)
    near, far = sorted(mixture, key=lambda component: component.mean[0])
    assert mixture.weights.min().item() == pytest.approx(0.25, abs=0.03)
    # 5 standard errors, of 900 and 2,700 points.
    np.testing.assert_allclose(near.mean, [0, 0], atol=5 * (2.0 / 900) ** 0.5)
    np.testing.assert_allclose(far.mean, [6, 1], atol=5 * (3.0 / 2700) ** 0.5)
    np.testing.assert_allclose(near.covariance, [[2.0, 0.9], [0.9, 1.0]], atol=5 * 2.0 * (2 / 900) ** 0.5)
    np.testing.assert_allclose(far.covariance, [[0.3, 0.0], [0.0, 3.0]], atol=5 * 3.0 * (2 / 2700) ** 0.5)


@pytest.mark.parametrize("rank", [None, 0, 2])
def test_a_step_is_expectation_maximisation(fit, rank):
    """From the clusters of k-means, numpy's responsibilities and moments give the mixture after one step."""
    data, reg_covar = overlapping(), 1e-4
    before, after = (fit(data, 3, rank, max_steps=steps, reg_covar=reg_covar) for steps in (0, 1))
    logs = density(before, data.numpy())
    share = np.exp(logs - logs.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    np.testing.assert_allclose(after.weights, share.mean(0), rtol=1e-6)
    for k, component in enumerate(after):
        weights = share[:, k] / share[:, k].sum()
        mean = weights @ data.numpy()
        centred = data.numpy() - mean
        values, vectors = np.linalg.eigh((centred.T * weights) @ centred)
        if rank is not None:
            values[: 6 - rank] = values[: 6 - rank].mean()
        np.testing.assert_allclose(component.mean, mean, atol=1e-6)
        np.testing.assert_allclose(component.covariance, (vectors * (values + reg_covar)) @ vectors.T, atol=1e-6)


@pytest.mark.parametrize("rank", [None, 1])
def test_each_step_raises_the_likelihood(fit, rank):
    data = overlapping(seed=1)
    likelihoods = [fit(data, 3, rank, max_steps=steps).log_prob(data).mean().item() for steps in range(6)]
    assert (np.diff(likelihoods) > -1e-3).all()
    assert likelihoods[-1] > likelihoods[0] + 0.01


def test_held_out_data_stop_an_overfitting_fit(fit):
    """Four components for 70 points in 8 dimensions: the fit stops at the step that is best on the 30 others."""
    rng = np.random.default_rng(0)
    data = torch.from_numpy(rng.normal(size=(100, 8)))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    test, train = data[order[:30]], data[order[30:]]
    steps = [fit(train, 4, max_steps=n) for n in (0, 1, 2, 50)]
    stopped = fit(data, 4, held_out=0.3)
    assert stopped.log_prob(test).mean() >= max(step.log_prob(test).mean() for step in steps[:2]) - 1e-3
    assert stopped.log_prob(test).mean() > steps[-1].log_prob(test).mean()
    assert stopped.log_prob(train).mean() < steps[-1].log_prob(train).mean()


def test_kmeans_alone_gives_each_cluster_its_own_moments():
    """The fit of Wang & Vastola: shares, means and covariances of the clusters, plus a little of the identity."""
    data = two_clusters(400)
    mixture = gt.Mixture.fit(data, 2, method="kmeans")
    clusters = (torch.cdist(data, mixture.means)).argmin(1)
    for k, component in enumerate(mixture):
        own = data[clusters == k].numpy()
        assert mixture.weights[k].item() == pytest.approx(len(own) / 400)
        np.testing.assert_allclose(component.mean, own.mean(0))
        np.testing.assert_allclose(component.covariance, np.cov(own.T, bias=True) + 1e-5 * np.eye(2), atol=1e-10)


def test_one_component_is_the_gaussian_fit(fit):
    data = overlapping().reshape(-1, 1, 2, 3)
    mixture = fit(data, 1, rank=2, reg_covar=1e-9)
    gaussian = gt.Gaussian.fit(data, rank=2)
    torch.testing.assert_close(mixture[0].covariance, gaussian.covariance, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(mixture(data[:9], 0.7), gaussian(data[:9], 0.7), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rank", [None, 3])
def test_fewer_points_than_dimensions(fit, rank):
    """The Gram matrix of the points gives the same component as their covariance does."""
    data = torch.randn(12, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    component = fit(data, 1, rank, reg_covar=1e-3)[0]
    values, vectors = np.linalg.eigh(np.cov(data.numpy().T, bias=True))
    if rank is not None:
        values[: 40 - rank] = values[: 40 - rank].mean()
    np.testing.assert_allclose(component.covariance, (vectors * (values + 1e-3)) @ vectors.T, atol=1e-9)
    assert component.rank == (11 if rank is None else rank)


def test_the_seed_decides_everything_and_batches_nothing():
    data = overlapping()
    one, two = gt.Mixture.fit(data, 3, seed=1), gt.Mixture.fit([(part, None) for part in data.split(50)], 3, seed=1)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("held_out", [0.0, 0.4])
def test_one_point_many_times(fit, held_out):
    point = torch.tensor([[1.0, 2.0]])
    mixture = fit(point.repeat(5, 1), 2, held_out=held_out)
    assert mixture.weights.sum().item() == pytest.approx(1)
    torch.testing.assert_close(mixture(point + 1, 0.1), point, atol=1e-2, rtol=0)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("method", ["em", "kmeans"])
@pytest.mark.parametrize("rank", [None, 0, 1, 10])
@pytest.mark.parametrize(
    ("distinct", "times", "n_components"), [(40, 1, 4), (40, 1, 40), (4, 10, 6), (1, 5, 2), (1, 1, 1)]
)
def test_clusters_of_few_points_have_their_moments(fit, distinct, times, n_components, rank, method):
    """Fewer points than half the dimensions, one point, none: each component has its points' variance, plus a little.

    The mixture's total variance is that of the data, whatever the clusters are: within them and between them.
    """
    data = torch.randn(distinct, 1, 8, 8, dtype=torch.float64).repeat(times, 1, 1, 1)
    mixture = fit(data, n_components, rank, method=method, reg_covar=1e-6)
    expected = data.var(0, correction=0).sum() + 64e-6
    torch.testing.assert_close(mixture.total_variance, expected, rtol=1e-9, atol=1e-9)
    assert all(component.rank <= 10 or rank is None for component in mixture)
    alone = [component for weight, component in zip(mixture.weights, mixture, strict=True) if weight * len(data) < 1.5]
    for component in alone if times == 1 and method == "kmeans" else ():
        torch.testing.assert_close(component.total_variance, torch.tensor(64e-6, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_fitted_in_float32_and_answered_in_half(dtype):
    data = two_clusters(400).to(dtype)
    mixture, expected = gt.Mixture.fit(data, 2), gt.Mixture.fit(data.float(), 2)
    assert mixture(data[:3], 1.0).dtype == dtype
    for name, tensor in expected.to(dtype).state_dict().items():
        assert torch.equal(mixture.state_dict()[name], tensor), name
    wide = gt.Mixture.fit((10 * two_clusters(400)).to(dtype), 2)  # in float16 the sum of squares would be infinite
    assert wide.variances.max().item() == pytest.approx(300, rel=0.3)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value", "ignore:Number of distinct clusters")
@pytest.mark.parametrize(("dtype", "scale"), [(torch.bfloat16, 1e20), (torch.float32, 1e20), (torch.float64, 1e200)])
def test_variances_beyond_the_range_of_the_precision_are_refused(dtype, scale):
    with pytest.raises(ValueError, match=r"data have variances beyond the range of torch\.float"):
        gt.Mixture.fit((scale * torch.randn(40, 8, dtype=torch.float64)).to(dtype), 2)


def test_shape_and_precision_are_those_of_the_data():
    mixture = gt.Mixture.fit(overlapping().float().reshape(-1, 2, 3), 2, rank=1)
    assert mixture.event_shape == (2, 3)
    assert mixture.means.dtype == torch.float32
    assert mixture.ranks.tolist() == [1, 1]


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_components": 0}, ValueError, "n_components is 0, expected an integer from 1 to 9"),
        ({"n_components": 10}, ValueError, "n_components is 10, expected an integer from 1 to 9"),
        ({"rank": 3}, ValueError, "rank is 3, expected an integer from 0 to 2"),
        ({"method": "gibbs"}, ValueError, "method is 'gibbs', expected 'em' or 'kmeans'"),
        ({"seed": -1}, ValueError, "seed is -1, expected an integer from 0 to 4294967295"),
        ({"data": torch.zeros(5)}, ValueError, r"data has shape \(\), expected the event's shape"),
        ({"data": torch.zeros(5, 0)}, ValueError, r"data has shape \(0,\), expected the event's shape"),
        ({"data": []}, ValueError, "no data was given"),
        ({"data": torch.zeros(3, 2, dtype=torch.int64)}, TypeError, "data has dtype torch.int64"),
        ({"data": [torch.zeros(3, 2), torch.zeros(3, 3)]}, ValueError, r"data has shape \(3, 3\)"),
        ({"data": torch.full((3, 2), torch.nan)}, ValueError, "data holds 6 values"),
    ],
)
def test_fits_that_cannot_be_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        gt.Mixture.fit(**{"data": torch.randn(10, 2), "n_components": 2, **change})


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r"pip install 'gausstools\[data\]'"):
        gt.Mixture.fit(torch.randn(10, 2), 2)
