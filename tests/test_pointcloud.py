"""The point cloud and its limits against brute force in numpy, scipy's densities, autograd and Monte Carlo."""

import numpy as np
import pytest
import safetensors.torch
import scipy.special
import scipy.stats
import torch
from cases import REFUSED, clouds
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import gausstools as gt
from gausstools.models import pointcloud as module

DOUBLE = torch.float64


def close(actual, expected, rtol=1e-9, scale=1.0):
    expected = torch.as_tensor(expected).reshape(actual.shape)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * scale)


def random(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def everything(cloud, x, sigma):
    """Every answer of a cloud, flattened."""
    answers = cloud(x, sigma), cloud.score(x, sigma), cloud.log_prob(x, sigma), cloud.posterior(x, sigma)
    return [answer.reshape(len(x), -1) for answer in (*answers, cloud.posterior_variance(x, sigma))]


# ---- the definitions


@given(clouds())
def test_the_denoiser_is_the_mean_of_the_points_by_bayes_rule(case):
    close(case.model(case.x, case.sigma), case.posterior() @ case.points, rtol=1e-8, scale=case.scale)


@given(clouds())
def test_the_posterior_is_bayes_rule(case):
    posterior = case.model.posterior(case.x, case.sigma)
    close(posterior, case.posterior(), rtol=1e-8)
    close(posterior.sum(1), np.ones(len(case.x)), rtol=1e-12)


@given(clouds())
def test_log_prob_is_the_log_mean_of_scipys(case):
    noise = case.sigma**2 * np.eye(case.model.dim)
    logs = [np.atleast_1d(scipy.stats.multivariate_normal(y, noise).logpdf(case.rows)) for y in case.points]
    expected = scipy.special.logsumexp(logs, 0) - np.log(len(case.points))
    close(case.model.log_prob(case.x, case.sigma), expected, rtol=1e-8)


@given(clouds())
def test_the_score_is_the_gradient_of_log_prob(case):
    x = case.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(case.model.log_prob(x, case.sigma).sum(), x)
    unit = case.scale / case.sigma**2
    close(case.model.score(case.x, case.sigma), gradient, rtol=1e-8, scale=unit)


@given(clouds())
def test_tweedie_ties_the_score_to_the_denoiser(case):
    close(case.model.score(case.x, case.sigma), gt.score(case.model, case.x, case.sigma), rtol=1e-7, scale=case.scale)


@given(clouds())
def test_the_posterior_variance_is_the_spread_of_the_points_by_bayes_rule(case):
    share = case.posterior()
    offsets = case.points - (share @ case.points)[:, None]
    expected = (share * (offsets**2).sum(2)).sum(1)
    close(case.model.posterior_variance(case.x, case.sigma), expected, rtol=1e-8, scale=case.scale**2)


@given(clouds())
@settings(max_examples=25)
def test_the_posterior_variance_is_the_divergence_of_the_denoiser(case):
    x = case.x.clone().requires_grad_()
    answer = case.model(x, case.sigma).reshape(len(x), -1)
    divergence = torch.zeros(len(x), dtype=DOUBLE)
    for i in range(answer.shape[1]):
        (gradient,) = torch.autograd.grad(answer[:, i].sum(), x, retain_graph=True)
        divergence += gradient.reshape(len(x), -1)[:, i]
    actual = case.model.posterior_variance(case.x, case.sigma)
    close(actual, case.sigma**2 * divergence, rtol=1e-7, scale=case.scale**2)


@given(clouds(most=12))
def test_a_cloud_is_a_mixture_of_gaussians_without_variance(case):
    weights = torch.full((len(case.data),), 1 / len(case.data), dtype=DOUBLE)
    mixture = gt.Mixture(weights, (gt.Gaussian.isotropic(y, 0.0) for y in case.data))
    units = (case.scale, case.scale / case.sigma**2, 1.0, 1.0, case.scale**2)
    questions = (everything(model, case.x, case.sigma) for model in (case.model, mixture))
    for ours, theirs, unit in zip(*questions, units, strict=True):
        close(ours, theirs, rtol=1e-7, scale=unit)


@given(clouds())
def test_moments_are_those_of_the_points(case):
    expected = np.cov(case.points.T, bias=True).reshape(case.model.dim, -1)
    close(case.model.mean, case.points.mean(0), scale=case.scale)
    close(case.model.to_gaussian().covariance, expected, scale=case.scale**2)
    close(case.model.data, case.data, scale=case.scale)
    assert len(case.model) == len(case.data)


@given(clouds(), st.data())
def test_the_order_and_the_batches_of_the_data_change_nothing(case, data):
    order = data.draw(st.permutations(range(len(case.data))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(case.data)), max_size=3)))
    shuffled = gt.PointCloud(case.data[order])
    streamed = gt.PointCloud(iter(torch.tensor_split(case.data, cuts)))
    labelled = gt.PointCloud([(part, torch.zeros(len(part))) for part in torch.tensor_split(case.data, cuts)])
    expected = case.model(case.x, case.sigma)
    for model in (shuffled, streamed, labelled):
        close(model(case.x, case.sigma), expected, rtol=1e-8, scale=case.scale)
    assert torch.equal(streamed.data, case.model.data)


@given(clouds())
def test_repeated_data_count_as_often(case):
    twice = gt.PointCloud(torch.cat([case.data, case.data]))
    once = everything(case.model, case.x, case.sigma)
    for actual, expected in zip(everything(twice, case.x, case.sigma), once, strict=True):
        if actual.shape == expected.shape:
            close(actual, expected, rtol=1e-7, scale=max(1.0, case.scale**2, float(expected.abs().max())))
    assert twice.posterior(case.x, case.sigma).sum(1).allclose(torch.ones(1, dtype=DOUBLE))


@given(clouds())
def test_images_and_vectors_give_the_same(case):
    vectors = gt.PointCloud(case.data.flatten(1))
    flat = everything(vectors, case.x.flatten(1), case.sigma)
    for image, vector in zip(everything(case.model, case.x, case.sigma), flat, strict=True):
        close(image, vector, rtol=1e-13)


@given(clouds())
def test_a_batch_of_noise_levels_is_its_rows(case):
    sigmas = case.sigma * torch.linspace(1, 2, len(case.x), dtype=DOUBLE)
    together = everything(case.model, case.x, sigmas)
    for i, sigma in enumerate(sigmas.tolist()):
        for batched, alone in zip(together, everything(case.model, case.x[i : i + 1], sigma), strict=True):
            close(batched[i : i + 1], alone, rtol=1e-7, scale=max(float(batched.abs().max()), case.scale**2))


# ---- chunks and memory


@given(clouds(), st.integers(1, 60), st.integers(1, 5))
@settings(max_examples=25)
def test_chunks_change_nothing(case, chunk, rows):
    x = torch.cat([case.x, case.x + case.sigma, case.x - case.sigma])
    for sigma in (case.sigma, case.sigma * torch.linspace(1, 2, len(x), dtype=DOUBLE)):
        answers = []
        for sizes in ((module.CHUNK, module.ROWS), (chunk, rows)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, "CHUNK", sizes[0])
                patch.setattr(module, "ROWS", sizes[1])
                more = [gt.FarField(case.model, order)(x, sigma).flatten(1) for order in (0, 1, 2)]
                more.append(gt.NearestNeighbour(case.model)(x, sigma).flatten(1))
                answers.append([*everything(case.model, x, sigma), *more])
        for whole, parts in zip(*answers, strict=True):
            close(parts, whole, rtol=1e-8, scale=max(float(whole.abs().max()), case.scale**2))


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that is made while it is on, views of some tensors left out."""

    def __init__(self, *known):
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **(kwargs or {}))
        if isinstance(answer, torch.Tensor) and answer.untyped_storage().data_ptr() not in self.known:
            self.entries = max(self.entries, answer.numel())
        return answer


def test_memory_is_that_of_a_chunk_however_many_the_points(monkeypatch):
    batch, dim, chunk = 16, 600, 100
    monkeypatch.setattr(module, "CHUNK", chunk * dim)
    x = random(batch, dim, dtype=torch.float32)
    for count in (500, 2000):
        cloud = gt.PointCloud(random(count, dim, dtype=torch.float32))
        far = [gt.FarField(cloud, order) for order in (0, 1, 2)]
        for ask in (cloud, cloud.score, cloud.log_prob, cloud.posterior_variance, *far, gt.NearestNeighbour(cloud)):
            with Largest(cloud.points, cloud._derived) as largest:
                ask(x, 1.0)
            assert 0 < largest.entries <= max(batch * dim, batch * chunk)


def test_many_rows_are_asked_in_parts(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 7)
    cloud, x = gt.PointCloud(random(300, 2)), random(100, 2, seed=1)
    with Largest(cloud.points, cloud._derived) as largest:
        cloud(x, 1.0)
    assert largest.entries <= 300 * 7


# ---- draws


def test_samples_are_points_of_the_data_and_noise():
    data = random(20, 2, 3) + 5
    cloud, n = gt.PointCloud(data), 40_000
    clean, again, other = (cloud.sample(n, generator=torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(clean, again)
    assert not torch.equal(clean, other)
    distances = torch.cdist(clean.flatten(1), data.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    assert distances.min(1).values.max() < 1e-12
    counts = distances.argmin(1).bincount(minlength=20).numpy()
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    noised = cloud.sample(n, 2.0, generator=torch.Generator().manual_seed(1)).flatten(1)
    spread = np.cov(data.flatten(1).numpy().T, bias=True) + 4 * np.eye(6)
    centred = noised.numpy() - data.flatten(1).mean(0).numpy()
    assert (np.abs(centred.mean(0)) < 6 * np.sqrt(np.diag(spread) / n)).all()
    products = centred[:, :, None] * centred[:, None]
    assert (np.abs(products.mean(0) - spread) < 6 * products.std(0) / n**0.5).all()
    assert cloud.sample(0).shape == (0, 2, 3)


@pytest.mark.parametrize("sigma", [0.2, 1.0, 5.0])
def test_the_posterior_variance_is_the_squared_error_of_the_denoiser(sigma):
    """The law of total variance, as a mean over draws from numpy; and no other denoiser does better."""
    rng = np.random.default_rng(0)
    data = rng.exponential(size=(40, 3))
    clean = data[rng.integers(40, size=20_000)]
    noised = torch.from_numpy(clean + sigma * rng.normal(size=clean.shape))
    cloud = gt.PointCloud(torch.from_numpy(data))
    errors = [(d(noised, sigma) - torch.from_numpy(clean)).square().sum(1) for d in (cloud, cloud.to_gaussian())]
    gap = errors[0] - cloud.posterior_variance(noised, sigma)
    assert gap.mean().abs() < 5 * gap.std() / len(gap) ** 0.5
    assert errors[1].mean() > errors[0].mean()


def test_the_denoiser_is_the_mean_of_what_was_noised_into_a_narrow_window():
    """Tweedie by Monte Carlo, with nothing but draws."""
    rng = np.random.default_rng(0)
    data = np.array([-1.0, 0.2, 2.0])
    clean = data[rng.integers(3, size=1_000_000)]
    noised = clean + 0.8 * rng.normal(size=clean.shape)
    cloud = gt.PointCloud(torch.from_numpy(data)[:, None])
    for x in (-1.0, 0.0, 1.0, 2.5):
        inside = clean[np.abs(noised - x) < 0.01]
        error = inside.std() / len(inside) ** 0.5
        assert abs(cloud(torch.tensor([[x]], dtype=DOUBLE), 0.8).item() - inside.mean()) < 5 * error + 1e-4


# ---- from far away


def skewed(count=50, dim=3):
    """Points with third moments, around a mean that is not 0, and directions z."""
    rng = np.random.default_rng(3)
    return torch.from_numpy(2 + rng.exponential(size=(count, dim))), torch.from_numpy(rng.normal(size=(4, dim)))


def distance(model, other, z, sigma):
    x = model.mean + sigma * z
    return model(x, sigma) - other(x, sigma)


def test_the_gaussian_misses_third_moments_at_order_two():
    data, z = skewed()
    cloud = gt.PointCloud(data)
    centred = (data - data.mean(0)).numpy()
    along, lengths = centred @ z.numpy().T, (centred**2).sum(1)
    predicted = ((along.T**2) @ centred - lengths @ centred) / (2 * len(centred))
    assert np.abs(predicted).min() > 0.01
    gap = distance(cloud, cloud.to_gaussian(), z, 1e4)
    close(gap * 1e8, predicted, rtol=2e-3, scale=10.0)
    close(gap / distance(cloud, cloud.to_gaussian(), z, 2e4), torch.full((4, 3), 4.0, dtype=DOUBLE), rtol=0.05)


def test_for_a_symmetric_cloud_the_gaussian_is_right_to_order_three():
    data, z = skewed()
    cloud = gt.PointCloud(torch.cat([data, 4 - data]))
    near, far = (distance(cloud, cloud.to_gaussian(), z, sigma).norm(dim=1) for sigma in (200.0, 400.0))
    close(near / far, torch.full((4,), 8.0, dtype=DOUBLE), rtol=0.05)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_far_field_of_an_order_errs_at_the_next(order):
    data, z = skewed()
    cloud = gt.PointCloud(data)
    expansion = gt.FarField(cloud, order)
    near, far = (distance(cloud, expansion, z, sigma).norm(dim=1) for sigma in (300.0, 600.0))
    close(near / far, torch.full((4,), 2.0 ** (order + 1), dtype=DOUBLE), rtol=0.05)


@given(clouds(smallest_sigma=0.5))
def test_the_far_field_is_the_formula(case):
    centred = case.points - case.points.mean(0)
    along = (case.rows - case.points.mean(0)) @ centred.T / case.sigma**2
    terms = np.ones_like(along), along, (along**2 - (centred**2).sum(1) / case.sigma**2) / 2
    for order in (0, 1, 2):
        expected = case.points.mean(0) + sum(terms[: order + 1]) @ centred / len(centred)
        scale = max(case.scale, float(np.abs(expected).max()), *(float(np.abs(t).max()) * case.scale for t in terms))
        expansion = gt.FarField(case.model, order)
        close(expansion(case.x, case.sigma), expected, rtol=1e-9, scale=scale)
        close(
            expansion.score(case.x, case.sigma),
            (expected.reshape(case.x.shape) - case.x.numpy()) / case.sigma**2,
            rtol=1e-9,
            scale=scale / case.sigma**2,
        )


@given(clouds())
def test_far_away_the_denoiser_is_the_mean(case):
    close(case.model(case.x, 1e8), case.model.mean.expand_as(case.x), rtol=1e-6, scale=case.scale)


# ---- from near


@given(clouds())
def test_the_nearest_neighbour_is_brute_forces(case):
    squared = case.squared_distances()
    nearest = gt.NearestNeighbour(case.model)
    answers = nearest(case.x, case.sigma).flatten(1)
    index = torch.cdist(answers, case.data.flatten(1)).argmin(1).numpy()  # which point it is
    rows = np.arange(len(index))
    assert (squared[rows, index] <= squared.min(1) + 1e-12 * case.scale**2).all()
    expected = case.data[index]
    close(answers, expected.flatten(1), scale=case.scale)
    close(nearest.score(case.x, case.sigma), (expected - case.x) / case.sigma**2, scale=case.scale / case.sigma**2)
    close(case.model(case.x, 0.0), expected, scale=case.scale)
    close(case.model.posterior_variance(case.x, 0.0), torch.zeros(len(index)).double(), 1e-12, case.scale**2)


def test_points_may_stand_at_one_place(monkeypatch):
    cloud = gt.PointCloud(torch.tensor([[5.0], [-1.0], [1.0], [-1.0], [-1.0]]))
    nearest = gt.NearestNeighbour(cloud)
    for chunk in (1, 2, 100):
        monkeypatch.setattr(module, "CHUNK", chunk)
        assert nearest(torch.tensor([[-2.0], [2.0], [90.0]]), 1.0).tolist() == [[-1.0], [1.0], [5.0]]
    torch.testing.assert_close(cloud(torch.tensor([[-2.0]]), 0.0), torch.tensor([[-1.0]]))
    torch.testing.assert_close(cloud.posterior(torch.tensor([[-2.0]]), 0.0), torch.tensor([[0, 1, 0, 1, 1.0]]) / 3)


@pytest.mark.parametrize("sigma", [0.0, 1e-6, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_extreme_noise_levels(sigma, dtype):
    data = random(50, 6, dtype=dtype)
    cloud = gt.PointCloud(data)
    x = data[:5] + sigma * random(5, 6, seed=1, dtype=dtype)
    expected = cloud.mean.expand(5, 6) if sigma > 1 else data[:5]
    torch.testing.assert_close(cloud(x, sigma), expected, atol=2e-5, rtol=0)
    expected = cloud.to_gaussian().total_variance if sigma > 1 else torch.tensor(0.0, dtype=dtype)
    torch.testing.assert_close(cloud.posterior_variance(x, sigma), expected.expand(5), atol=1e-4, rtol=0)
    assert cloud.posterior(x, sigma).isfinite().all()
    for ask in (cloud.score, cloud.log_prob):
        if sigma:
            assert ask(x, sigma).isfinite().all()
        else:
            with pytest.raises(ValueError, match="no density"):
                ask(x, sigma)


@pytest.mark.parametrize("sigma", [1e-30, 1e-12, 1e-8, 1e-3, 1.0])
def test_at_a_point_the_log_density_is_that_of_its_peak(sigma):
    """The nearest point alone counts, at distance 0: −D/2 ln 2πσ² − ln N, however small σ is."""
    cloud = gt.PointCloud(10 * torch.eye(3, dtype=DOUBLE))
    expected = -1.5 * np.log(2 * np.pi) - 3 * np.log(sigma) - np.log(3)
    nearby = np.log1p(2 * np.exp(-100 / sigma**2)) if sigma > 1e-2 else 0.0
    assert cloud.log_prob(cloud.data[:1], sigma).item() == pytest.approx(expected + nearby, rel=1e-6)


def test_one_point_and_repeated_points():
    point = torch.tensor([[1.0, 2.0, 3.0]])
    x = torch.tensor([[5.0, -3.0, 0.0]])
    for data in (point, point.repeat(9, 1)):
        cloud = gt.PointCloud(data)
        for sigma in (0.0, 1e-6, 2.0, 1e6):
            torch.testing.assert_close(cloud(x, sigma), point)
            torch.testing.assert_close(cloud.posterior_variance(x, sigma), torch.zeros(1))
            torch.testing.assert_close(cloud.posterior(x, sigma), torch.full((1, len(data)), 1 / len(data)))
        torch.testing.assert_close(cloud.score(x, 2.0), (point - x) / 4)
        expected = scipy.stats.multivariate_normal(point[0].numpy(), 4 * np.eye(3)).logpdf(x.numpy())
        assert cloud.log_prob(x, 2.0).item() == pytest.approx(float(expected), rel=1e-6)
        torch.testing.assert_close(cloud.sample(2), point.expand(2, 3))


def test_one_dimension_and_no_rows():
    cloud = gt.PointCloud(torch.tensor([[-1.0], [1.0]]))
    x = torch.linspace(-2, 2, 9)[:, None]
    torch.testing.assert_close(cloud(x, 0.7), torch.tanh(x / 0.49))
    torch.testing.assert_close(cloud.posterior_variance(x, 0.7), 1 - torch.tanh(x / 0.49)[:, 0] ** 2)
    for sigma in (1.0, torch.ones(0)):
        shapes = [tuple(ask(x[:0], sigma).shape) for ask in (cloud, cloud.score, cloud.log_prob, cloud.posterior)]
        assert [*shapes, tuple(cloud.posterior_variance(x[:0], sigma).shape)] == [(0, 1), (0, 1), (0,), (0, 2), (0,)]
        for other in (gt.FarField(cloud, 2), gt.NearestNeighbour(cloud)):
            assert other(x[:0], sigma).shape == (0, 1)


@given(clouds(smallest_sigma=0.05))
def test_float32_stays_close_to_float64(case):
    cloud = gt.PointCloud(case.data.float())
    exact, x = gt.PointCloud(cloud.data.double()), case.x.float()
    nats = 1e-6 * (1 + case.scale**2 * case.model.dim / case.sigma**2)
    close(cloud.posterior(x, case.sigma).double(), exact.posterior(x.double(), case.sigma), rtol=10 * nats)
    close(cloud(x, case.sigma).double(), exact(x.double(), case.sigma), rtol=10 * nats, scale=case.scale)


def test_images_of_full_size():
    """3072 dimensions in float32 against distances the long way in float64."""
    data = 0.5 * random(64, 3, 32, 32, dtype=torch.float32)
    cloud = gt.PointCloud(data)
    for sigma in (0.1, 3.0, 20.0, 1000.0):
        x = data[:4] + sigma * random(4, 3, 32, 32, seed=1, dtype=torch.float32)
        squared = (x.double()[:, None] - data.double()).flatten(2).square().sum(2)
        share = (-squared / (2 * sigma**2)).softmax(1)
        torch.testing.assert_close(cloud.posterior(x, sigma).double(), share, rtol=0, atol=1e-3)
        expected = torch.tensordot(share, data.double(), 1)
        torch.testing.assert_close(cloud(x, sigma).double(), expected, rtol=0, atol=1e-3)


# ---- files and precision


@given(clouds())
@settings(max_examples=20)
def test_a_saved_cloud_comes_back_bit_for_bit(tmp_path_factory, case):
    path = tmp_path_factory.mktemp("model") / "cloud.safetensors"
    for cloud in (case.model, gt.PointCloud(case.data.float())):
        cloud.save(path)
        loaded = gt.PointCloud.load(path)
        for name, tensor in cloud.named_buffers():
            assert torch.equal(dict(loaded.named_buffers())[name], tensor), name
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def written(path, **tensors):
    safetensors.torch.save_file(tensors, path, metadata={"gausstools": "PointCloud"})
    return path


def test_files_that_do_not_hold_a_cloud_are_refused(tmp_path):
    path = tmp_path / "file"
    gt.Gaussian.isotropic(torch.zeros(2), 1.0).save(path)
    with pytest.raises(ValueError, match="holds a gausstools Gaussian, expected a gausstools PointCloud"):
        gt.PointCloud.load(path)
    with pytest.raises(ValueError, match=f"{path} is no complete PointCloud: missing or unknown are points"):
        gt.PointCloud.load(written(path, mean=torch.zeros(2)))
    with pytest.raises(ValueError, match="missing or unknown are extra"):
        gt.PointCloud.load(written(path, mean=torch.zeros(2), points=torch.zeros(3, 2), extra=torch.zeros(1)))


@pytest.mark.parametrize(
    ("mean", "points", "message"),
    [
        (torch.zeros(2), torch.zeros(3, 4), r"do not fit together: .*torch.float32 points of shape \(3, 4\)"),
        (torch.zeros(2), torch.zeros(0, 2), r"do not fit together: .* points of shape \(0, 2\)"),
        (torch.zeros(2), torch.zeros(2), "do not fit together"),
        (torch.zeros(2), torch.zeros(3, 2).double(), "do not fit together"),
        (torch.zeros(2), torch.full((3, 2), torch.nan), "NaN"),
        (torch.full((2,), torch.nan), torch.zeros(3, 2), "NaN"),
        (torch.zeros(2).int(), torch.zeros(3, 2).int(), "do not fit together"),
        (torch.zeros(()), torch.zeros(3, 1), "shape"),
    ],
)
@pytest.mark.usefixtures("as_installed")
def test_tensors_that_do_not_fit_together_are_refused(tmp_path, mean, points, message):
    with pytest.raises(ValueError, match=message):
        gt.PointCloud.load(written(tmp_path / "file", mean=mean, points=points))


@given(clouds())
@settings(max_examples=20)
def test_conversion_computes_again_what_derives_from_the_tensors(case):
    converted = gt.PointCloud(case.data.float()).double()
    assert converted.points.dtype == converted.mean.dtype == DOUBLE
    close(converted._derived, converted.points.square().sum(1) / 2, rtol=1e-14)
    rebuilt = gt.PointCloud(converted.data)
    close(converted(case.x, case.sigma), rebuilt(case.x, case.sigma), rtol=1e-7, scale=case.scale)
    assert torch.equal(converted.to("cpu")(case.x, case.sigma), converted(case.x, case.sigma))


# ---- bad input


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gt.PointCloud([]), ValueError, "no data was given"),
        (lambda: gt.PointCloud(torch.empty(0, 3)), ValueError, "no data was given"),
        (lambda: gt.PointCloud(torch.tensor([[1, 2]])), TypeError, "data has dtype torch.int64"),
        (lambda: gt.PointCloud(torch.tensor([[1.0, torch.nan]])), ValueError, "data holds 1 values"),
        (lambda: gt.PointCloud(torch.tensor([1.0, 2.0])), ValueError, r"data has shape \(\)"),
        (lambda: gt.PointCloud([torch.zeros(2, 3), torch.zeros(2, 4)]), ValueError, r"data has shape \(2, 4\)"),
        (lambda: gt.PointCloud(3.0), TypeError, "data is float, expected a tensor"),
        (lambda: gt.PointCloud(torch.zeros(2, 1)).sample(-1), ValueError, "n is -1"),
        (lambda: gt.PointCloud(torch.zeros(2, 1)).sample(1, -1.0), ValueError, "sigma is -1"),
        (lambda: gt.FarField(gt.PointCloud(torch.zeros(2, 1)), 3), ValueError, "order is 3, expected .* 0 to 2"),
        (lambda: gt.FarField(gt.PointCloud(torch.zeros(2, 1)), -1), ValueError, "order is -1"),
        (lambda: gt.FarField(gt.PointCloud(torch.zeros(2, 1)), 1.5), ValueError, "order is 1.5"),
    ],
)
def test_a_cloud_that_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(("x", "sigma", "error", "message"), REFUSED)
def test_a_question_that_cannot_be_is_refused(x, sigma, error, message):
    cloud = gt.PointCloud(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    limits = [gt.FarField(cloud, order) for order in (0, 1, 2)]
    ours = (cloud, cloud.score, cloud.log_prob, cloud.posterior, cloud.posterior_variance)
    for ask in (*ours, *limits, limits[1].score, gt.NearestNeighbour(cloud), gt.NearestNeighbour(cloud).score):
        with pytest.raises(error, match=message):
            ask(x, sigma)


def test_without_noise_there_is_no_expansion_and_no_density():
    cloud = gt.PointCloud(torch.tensor([[0.0], [1.0]]))
    x = torch.zeros(3, 1)
    for sigma in (0.0, torch.tensor([1.0, 0.0, 1.0])):
        for order in (0, 1, 2):
            with pytest.raises(ValueError, match="sigma is 0, expected sigma > 0"):
                gt.FarField(cloud, order)(x, sigma)
        with pytest.raises(ValueError, match="sigma is 0"):
            gt.NearestNeighbour(cloud).score(x, sigma)
        for ask in (cloud.score, cloud.log_prob):
            with pytest.raises(ValueError, match="no density"):
                ask(x, sigma)
