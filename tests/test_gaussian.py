"""The Gaussian against dense linear algebra in numpy, scipy's densities, autograd and an adaptive ODE solver."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from cases import gaussians
from hypothesis import given
from hypothesis import strategies as st

import gausstools as gt
from gausstools.models import moments as moments_module
from gausstools.models.eigen import eigenpairs


def close(actual, expected, rtol=1e-9, scale=1.0):
    expected = torch.as_tensor(expected).reshape(actual.shape)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * scale)


@given(gaussians(singular=True))
def test_the_denoiser_is_the_linear_regression_of_clean_on_noised(case):
    gain = case.covariance @ np.linalg.inv(case.covariance + case.sigma**2 * np.eye(case.model.dim))
    expected = case.model.mean.numpy() + (case.rows @ gain.T).reshape(case.x.shape)
    close(case.model(case.x, case.sigma), expected, scale=float(case.x.abs().max()))


@given(gaussians())
def test_log_prob_is_scipys(case):
    spread = case.covariance + case.sigma**2 * np.eye(case.model.dim)
    expected = scipy.stats.multivariate_normal(np.zeros(case.model.dim), spread).logpdf(case.rows)
    close(case.model.log_prob(case.x, case.sigma), np.atleast_1d(expected), rtol=1e-8)


@given(gaussians())
def test_the_score_is_the_gradient_of_log_prob(case):
    x = case.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(case.model.log_prob(x, case.sigma).sum(), x)
    close(case.model.score(case.x, case.sigma), gradient, scale=float(gradient.abs().max()))


@given(gaussians())
def test_tweedie_ties_the_score_to_the_denoiser(case):
    ours = case.model.score(case.x, case.sigma)
    general = gt.score(case.model, case.x, case.sigma)
    close(ours * case.sigma**2, general * case.sigma**2, scale=float(case.x.abs().max()))


@given(gaussians(smallest_sigma=0.1), st.floats(0.05, 20))
def test_the_flow_is_where_an_adaptive_solver_goes(case, sigma_to):
    """In t = ln σ the flow is dx/dt = x − D(x, σ); DOP853 integrates it from numpy's covariance alone."""

    def velocity(t, flat):
        rows = flat.reshape(len(case.x), -1)
        spread = case.covariance + np.exp(2 * t) * np.eye(case.model.dim)
        return (np.exp(2 * t) * np.linalg.solve(spread, rows.T).T).ravel()

    span = np.log([case.sigma, sigma_to])
    solved = scipy.integrate.solve_ivp(velocity, span, case.rows.ravel(), method="DOP853", rtol=1e-12, atol=1e-12)
    expected = case.model.mean.numpy() + solved.y[:, -1].reshape(case.x.shape)
    actual = case.model.flow(case.x, case.sigma, sigma_to)
    close(actual, expected, rtol=1e-8, scale=float(actual.abs().max()))


@given(gaussians(), st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_flow_composes_and_inverts(case, between, sigma_to):
    direct = case.model.flow(case.x, case.sigma, sigma_to)
    by_way = case.model.flow(case.model.flow(case.x, case.sigma, between), between, sigma_to)
    close(by_way, direct, scale=float(direct.abs().max()))
    close(case.model.flow(direct, sigma_to, case.sigma), case.x, scale=float(case.x.abs().max()))


@given(gaussians(), st.floats(0.01, 100))
def test_the_flow_carries_the_noised_density_into_the_noised_density(case, sigma_to):
    """Change of variables: log p(x; a) = log p(flow(x); b) + log |det ∂flow/∂x|."""
    moved = case.model.flow(case.x, case.sigma, sigma_to)
    variances = np.linalg.eigvalsh(case.covariance)
    log_det = 0.5 * np.log((variances + sigma_to**2) / (variances + case.sigma**2)).sum()
    before = case.model.log_prob(case.x, case.sigma)
    close(before, case.model.log_prob(moved, sigma_to) + log_det, rtol=1e-8)


@given(gaussians(singular=True))
def test_images_and_vectors_give_the_same(case):
    model, x, flat = case.model, case.x, case.x.reshape(len(case.x), -1)
    vectors = gt.Gaussian(model.mean.reshape(-1), model.variances, model.basis, model.tail)
    for ask in (
        lambda m, x: m(x, case.sigma),
        lambda m, x: m.score(x, case.sigma),
        lambda m, x: m.flow(x, case.sigma, 0.3),
        lambda m, x: m.log_prob(x, case.sigma),
    ):
        close(ask(model, x).reshape(len(x), -1), ask(vectors, flat).reshape(len(x), -1), rtol=1e-14)


@given(gaussians(singular=True))
def test_a_batch_of_noise_levels_is_its_rows(case):
    sigmas = case.sigma * torch.linspace(1, 2, len(case.x), dtype=torch.float64)
    batched = case.model(case.x, sigmas), case.model.score(case.x, sigmas), case.model.flow(case.x, sigmas, 0.5)
    for i, sigma in enumerate(sigmas.tolist()):
        row = case.x[i : i + 1]
        single = case.model(row, sigma), case.model.score(row, sigma), case.model.flow(row, sigma, 0.5)
        for together, alone in zip(batched, single, strict=True):
            close(together[i : i + 1], alone, scale=float(together.abs().max()))


@given(gaussians())
def test_rank_d_is_full_and_the_tail_is_then_without_effect(case):
    full = gt.Gaussian.from_covariance(case.model.mean, torch.from_numpy(case.covariance))
    other_tail = gt.Gaussian(full.mean, full.variances, full.basis, tail=7.0)
    for model in (full, other_tail):
        close(model(case.x, case.sigma), case.model(case.x, case.sigma), scale=float(case.x.abs().max()))
        close(model.log_prob(case.x, case.sigma), case.model.log_prob(case.x, case.sigma), rtol=1e-8)


@given(gaussians(singular=True))
def test_covariance_and_total_variance(case):
    # At full rank the dense oracle leaves the rounding of the tail.
    scale = float(max(np.abs(case.covariance).max(), case.model.tail))
    close(case.model.covariance, case.covariance, scale=scale)
    assert case.model.total_variance.item() == pytest.approx(np.trace(case.covariance), rel=1e-9, abs=1e-12)


@given(gaussians(singular=True))
def test_samples_have_the_moments_that_they_should(case):
    n = 20_000
    draws = case.model.sample(n, 0.5, generator=torch.Generator().manual_seed(0)).reshape(n, -1).numpy()
    spread = case.covariance + 0.25 * np.eye(case.model.dim)
    deviation = np.sqrt(np.diag(spread))
    assert (np.abs(draws.mean(0) - case.model.mean.numpy().ravel()) < 6 * deviation / n**0.5).all()
    # The variance of an entry of a sample covariance is (Σ_ii Σ_jj + Σ_ij²)/n.
    tolerance = 6 * np.sqrt((np.outer(deviation, deviation) ** 2 + spread**2) / n)
    assert (np.abs(np.cov(draws.T, bias=True).reshape(spread.shape) - spread) < tolerance).all()


def test_sampling_depends_on_its_generator_alone():
    model = gt.Gaussian.isotropic(torch.zeros(3), 1.0)
    one, two = (model.sample(5, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    other = model.sample(5, generator=torch.Generator().manual_seed(8))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@given(gaussians())
def test_float32_stays_close_to_float64(case):
    single = gt.Gaussian.from_covariance(case.model.mean, torch.from_numpy(case.covariance)).float()
    x = case.x.float()
    scale = float(case.x.abs().max())
    close(single(x, case.sigma).double(), case.model(x.double(), case.sigma), rtol=2e-5, scale=scale)
    close(single.flow(x, case.sigma, 0.1).double(), case.model.flow(x.double(), case.sigma, 0.1), 2e-5, scale)


@pytest.mark.parametrize("sigma", [0.0, 1e-6, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_noise_levels(sigma, dtype):
    """σ → 0 gives x back, σ → ∞ gives the mean; every answer is finite."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(50, 6, generator=generator, dtype=dtype)
    model = gt.Gaussian.fit(data)
    x = data[:5] + sigma * torch.randn(5, 6, generator=generator, dtype=dtype)
    expected = model.mean.expand(5, 6) if sigma > 1 else x
    torch.testing.assert_close(model(x, sigma), expected, atol=2e-5, rtol=0)
    for answer in (
        model.score(x, sigma),
        model.flow(x, sigma, 0.0),
        model.flow(x, sigma, 1e6),
        model.log_prob(x, sigma),
    ):
        assert answer.isfinite().all()


def test_without_variance_everything_is_the_mean():
    point = gt.Gaussian.isotropic(torch.tensor([1.0, 2.0]), 0.0)
    x = torch.tensor([[5.0, -3.0]])
    for answer in (point(x, 2.0), point(x, 0.0), point.flow(x, 2.0, 0.0), point.sample(1)):
        torch.testing.assert_close(answer, point.mean[None])
    torch.testing.assert_close(point.score(x, 2.0), (point.mean - x) / 4)
    with pytest.raises(ValueError, match="no density"):
        point.score(x, 0.0)
    with pytest.raises(ValueError, match="no density"):
        point.log_prob(x)
    with pytest.raises(ValueError, match="sigma_from is 0"):
        point.flow(x, 0.0, 1.0)


def test_the_denoiser_is_the_best_linear_one_for_any_data():
    """Least squares of x0 on noised x, with the noise integrated out exactly, on data that is far from Gaussian."""
    data = torch.rand(300, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 4
    sigma, centred = 0.2, data - data.mean(0)
    second_moment = centred.T @ centred / len(data)
    gain = torch.linalg.solve(second_moment + sigma**2 * torch.eye(3, dtype=torch.float64), second_moment)
    model = gt.Gaussian.fit(data)
    close(model(data, sigma), data.mean(0) + centred @ gain)


# ---- fitting


@given(st.sampled_from([(1,), (3,), (2, 2)]), st.integers(1, 60), st.integers(0, 10_000), st.data())
def test_fit_is_numpys_mean_and_covariance_however_the_data_come(shape, n, seed, data):
    x = 5 + torch.from_numpy(np.random.default_rng(seed).normal(size=(n, *shape)))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    batches = torch.tensor_split(x, cuts)
    flat = x.reshape(n, -1).numpy()
    covariance = np.cov(flat.T, bias=True).reshape(flat.shape[1], flat.shape[1])
    labelled = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.zeros(n)), batch_size=7)
    for model in (gt.Gaussian.fit(x), gt.Gaussian.fit(iter(batches)), gt.Gaussian.fit(labelled)):
        assert model.mean.dtype == torch.float64
        assert model.event_shape == shape
        close(model.mean, flat.mean(0))
        close(model.covariance, covariance, scale=1.0)
        assert (model.variances.diff() <= 0).all()


@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(1, 20))
def test_moments_of_shards_merge_exactly(seed, n, m):
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(n + m, 3)))
    merged, whole = gt.Moments.of(x[:n]), gt.Moments.of(x)
    merged.merge(gt.Moments.of(x[n:]))
    merged.merge(gt.Moments())
    assert merged.count == whole.count
    close(merged.mean, whole.mean)
    close(merged.covariance, whole.covariance)


def test_moments_keep_their_digits_far_from_the_origin():
    x = 1e4 + torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    expected = np.cov(x.double().numpy().T, bias=True)
    close(gt.Moments.of(x.split(100)).covariance, expected, rtol=1e-9)


@given(gaussians())
def test_truncation_keeps_the_leading_pairs_and_the_total_variance(case):
    full = gt.Gaussian.from_covariance(case.model.mean, torch.from_numpy(case.covariance))
    for rank in range(full.dim + 1):
        kept, dropped = full.truncate(rank), full.truncate(rank, "drop")
        assert kept.rank == rank
        close(kept.variances, np.linalg.eigvalsh(case.covariance)[::-1][:rank].copy(), scale=1.0)
        close(kept.total_variance, full.total_variance)
        close(dropped.total_variance, kept.variances.sum())


def test_a_truncated_fit_gives_the_discarded_variance_to_the_tail():
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    variances = np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True))[::-1]
    assert gt.Gaussian.fit(x, rank=2).tail.item() == pytest.approx(variances[2:].mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_directions_without_data_have_no_variance_at_all(dtype):
    """Fewer points than dimensions, and a constant entry: rounding must not pass for variance, nor give a density."""
    x = 3 + torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x[:, 2] = 0.1
    model = gt.Gaussian.fit(x)
    assert (model.variances > 0).sum() == 3
    assert gt.Gaussian.from_covariance(x[0], torch.cov(x.T, correction=0)).variances.count_nonzero() == 3
    for ask in (model.score, model.log_prob):
        with pytest.raises(ValueError, match="no density"):
            ask(x, 0.0)
    torch.testing.assert_close(model(x, 0.0), x, rtol=1e-4, atol=1e-5)


def test_components_have_a_sign_that_does_not_depend_on_the_machine():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for model in (gt.Gaussian.fit(x), gt.Gaussian.fit(-x), gt.Gaussian.fit(x.flip(0))):
        assert (model.basis.gather(0, model.basis.abs().argmax(0, keepdim=True)) > 0).all()
        close(model.basis, gt.Gaussian.fit(x).basis, rtol=1e-8)


@pytest.mark.usefixtures("as_installed")
def test_numbers_may_be_numpys():
    model = gt.Gaussian.isotropic(torch.zeros(2), np.float32(1.0))
    x = model.sample(np.int64(3), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x, np.float32(1.0)), x / 2)
    torch.testing.assert_close(model.truncate(np.int32(0)).tail, torch.tensor(1.0))
    assert gt.karras_sigmas(np.int64(3)).shape == (4,)


def test_one_point_and_repeated_points_fit():
    point = torch.tensor([[1.0, 2.0, 3.0]])
    for data in (point, point.repeat(9, 1)):
        model = gt.Gaussian.fit(data)
        torch.testing.assert_close(model.mean, point[0])
        torch.testing.assert_close(model.total_variance, torch.tensor(0.0))


# ---- files


@given(gaussians(singular=True))
def test_a_saved_model_comes_back_bit_for_bit(tmp_path_factory, case):
    path = tmp_path_factory.mktemp("model") / "gaussian.safetensors"
    case.model.save(path)
    loaded = gt.Gaussian.load(path)
    for name, tensor in case.model.named_buffers():
        assert torch.equal(dict(loaded.named_buffers())[name], tensor)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_saved_file_can_be_read_by_whom_any_new_file_can(tmp_path):
    gt.Gaussian.isotropic(torch.zeros(2), 1.0).save(tmp_path / "model")
    (tmp_path / "other").touch()
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_an_interrupted_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "gaussian.safetensors"
    gt.Gaussian.isotropic(torch.zeros(2), 1.0).save(path)
    before = path.read_bytes()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gt.Gaussian.isotropic(torch.zeros(2), 2.0).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_not_ours_are_refused(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        gt.Gaussian.load(path)
    with pytest.raises(FileNotFoundError, match="create it first"):
        gt.Gaussian.isotropic(torch.zeros(2), 1.0).save(tmp_path / "missing" / "file")
    path.write_bytes(b"\x80\x04not safetensors")
    with pytest.raises(ValueError, match="no readable safetensors"):
        gt.Gaussian.load(path)
    gt.Gaussian.isotropic(torch.zeros(20), 1.0).save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="no readable safetensors"):
        gt.Gaussian.load(path)
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="written by something else, expected a gausstools Gaussian"):
        gt.Gaussian.load(path)
    safetensors.torch.save_file({"mean": torch.zeros(1)}, path, metadata={"gausstools": "Gaussian"})
    with pytest.raises(ValueError, match="missing or unknown are basis, tail, variances"):
        gt.Gaussian.load(path)


# ---- bad input

MODEL = {"mean": torch.zeros(2, 2), "variances": torch.ones(1), "basis": torch.tensor([[1.0], [0], [0], [0]])}


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mean": [0.0, 0.0]}, TypeError, "mean is list, expected a floating-point tensor"),
        ({"mean": torch.zeros(2, dtype=torch.int64)}, TypeError, "mean is torch.int64"),
        ({"mean": torch.zeros(())}, ValueError, r"mean has shape \(\)"),
        ({"mean": torch.full((2, 2), torch.nan)}, ValueError, "mean holds 4 values that are NaN"),
        ({"variances": torch.ones(2)}, ValueError, r"variances have shape \(2,\) and basis \(4, 1\)"),
        ({"variances": -torch.ones(1)}, ValueError, "variances hold -1"),
        ({"variances": torch.full((1,), torch.nan)}, ValueError, "variances hold nan"),
        ({"basis": torch.ones(4, 1)}, ValueError, "basis is not orthonormal: .* by up to 3"),
        ({"tail": -0.5}, ValueError, "tail hold -0.5"),
        ({"tail": torch.zeros(2)}, ValueError, r"tail has shape \(2,\)"),
    ],
)
def test_a_model_that_cannot_be_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        gt.Gaussian(**{**MODEL, **change})


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("x", "sigma", "error", "message"),
    [
        ([[0.0]], 1.0, TypeError, "x is list, expected a torch.Tensor of shape"),
        (torch.zeros(3, 2, 2, dtype=torch.int32), 1.0, TypeError, "x has dtype torch.int32"),
        (
            torch.zeros(3, 2, 2, dtype=torch.float64),
            1.0,
            TypeError,
            "x is torch.float64 and the Gaussian torch.float32",
        ),
        (torch.zeros(3, 4), 1.0, ValueError, r"x has shape \(3, 4\), expected \(batch, 2, 2\)"),
        (torch.zeros(2, 2), 1.0, ValueError, r"x has shape \(2, 2\), expected \(batch, 2, 2\)"),
        (torch.full((3, 2, 2), torch.nan), 1.0, ValueError, "x holds 12 values that are NaN or infinite, of 12"),
        (torch.zeros(3, 2, 2), -1.0, ValueError, "is -1.0, expected a finite number >= 0"),
        (torch.zeros(3, 2, 2), float("nan"), ValueError, "is nan, expected a finite number"),
        (torch.zeros(3, 2, 2), float("inf"), ValueError, "is inf, expected a finite number"),
        (torch.zeros(3, 2, 2), "1", TypeError, "is str, expected a float or a tensor"),
        (torch.zeros(3, 2, 2), True, TypeError, "is bool"),
        (
            torch.zeros(3, 2, 2),
            torch.ones(2),
            ValueError,
            r"has shape \(2,\), expected one value or one per row.*\(3,\)",
        ),
        (torch.zeros(3, 2, 2), torch.tensor([1.0, -1.0, 1.0]), ValueError, "lies between -1 and 1"),
    ],
)
def test_a_question_that_cannot_be_is_refused(x, sigma, error, message):
    model = gt.Gaussian(**MODEL, tail=1.0)
    questions = (lambda: model(x, sigma), lambda: model.score(x, sigma), lambda: model.log_prob(x, sigma))
    for ask in (*questions, lambda: model.flow(x, sigma, 0.5)):
        with pytest.raises(error, match=message):
            ask()


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gt.Gaussian.fit([]), ValueError, "no data was given"),
        (lambda: gt.Gaussian.fit(torch.empty(0, 3)), ValueError, "no data was given"),
        (lambda: gt.Gaussian.fit(torch.tensor([[1, 2]])), TypeError, "data has dtype torch.int64"),
        (lambda: gt.Gaussian.fit(torch.tensor([[1.0, torch.inf]])), ValueError, "data holds 1 values"),
        (lambda: gt.Gaussian.fit([torch.zeros(2, 3), torch.zeros(2, 4)]), ValueError, r"data has shape \(2, 4\)"),
        (lambda: gt.Gaussian.fit(torch.zeros(4, 3), rank=4), ValueError, "rank is 4, expected an integer from 0 to 3"),
        (lambda: gt.Gaussian.fit(torch.zeros(4, 3), rank=1.0), ValueError, "rank is 1.0"),
        (
            lambda: gt.Gaussian.from_covariance(torch.zeros(2), torch.eye(3)),
            ValueError,
            r"shape \(3, 3\), expected \(2, 2\)",
        ),
        (lambda: gt.Gaussian.from_covariance(torch.zeros(2), -torch.eye(2)), ValueError, "eigenvalue -1"),
        (
            lambda: gt.Gaussian.from_covariance(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])),
            ValueError,
            "not symmetric: .* up to 0.5",
        ),
        (lambda: gt.Gaussian.isotropic(torch.zeros(2), 1.0).sample(-1), ValueError, "n is -1"),
        (lambda: gt.Gaussian.isotropic(torch.zeros(2), 1.0).truncate(0, "lose"), ValueError, "'tail' or 'drop'"),
        (lambda: gt.Gaussian.fit(3.0), TypeError, "data is float, expected a tensor"),
        (lambda: gt.Moments().mean, ValueError, "no data was given"),
        (lambda: gt.Moments().event_shape, ValueError, "no data was given"),
        (lambda: gt.Moments().merge(3), TypeError, "other is int"),
    ],
)
def test_fits_that_cannot_be_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---- paths, relatives, and what is left unknown


@given(gaussians(), st.integers(1, 4))
def test_a_path_of_the_flow_is_each_of_its_levels(case, count):
    levels = torch.linspace(0, 3, count, dtype=torch.float64)[:, None]
    per_row = levels * torch.linspace(1, 2, len(case.x), dtype=torch.float64)
    sigma_from = case.sigma * torch.linspace(1, 2, len(case.x), dtype=torch.float64)
    for start in (case.sigma, sigma_from):
        for end in (levels, per_row):
            path = case.model.flow(case.x, start, end)
            assert path.shape == (count, *case.x.shape)
            for state, level in zip(path, end, strict=True):
                close(state, case.model.flow(case.x, start, level), scale=float(state.abs().max()))


@given(gaussians(singular=True))
def test_with_another_mean_it_is_the_same_elsewhere(case):
    mean = case.model.mean + 3
    moved = case.model.with_mean(mean)
    close(moved(case.x + 3, case.sigma), case.model(case.x, case.sigma) + 3, scale=10 + float(case.x.abs().max()))
    assert torch.equal(moved.mean, mean)
    assert moved.basis.data_ptr() == case.model.basis.data_ptr()
    mean.zero_()
    assert not torch.equal(moved.mean, mean)
    single = moved.float()
    assert single.mean.dtype == torch.float32
    assert case.model.mean.dtype == case.model.basis.dtype == torch.float64


@given(gaussians(singular=True))
def test_noised_it_is_the_gaussian_of_noised_data(case):
    noised = case.model.noised(case.sigma)
    expected = case.covariance + case.sigma**2 * np.eye(case.model.dim)
    close(noised.covariance, expected, scale=float(expected.max()))
    close(noised.log_prob(case.x), case.model.log_prob(case.x, case.sigma), rtol=1e-9)
    close(noised.score(case.x, 0.0), case.model.score(case.x, case.sigma), scale=1 / case.sigma)


@given(gaussians(singular=True))
def test_the_posterior_variance_is_a_trace_and_a_divergence(case):
    spread = case.covariance + case.sigma**2 * np.eye(case.model.dim)
    expected = case.sigma**2 * np.trace(np.linalg.solve(spread, case.covariance))
    actual = case.model.posterior_variance(case.x, case.sigma)
    close(actual, np.full(len(case.x), expected), scale=1e-3 * case.sigma**2)
    x = case.x.clone().requires_grad_()
    answer = case.model(x, case.sigma).reshape(len(x), -1)
    divergence = torch.zeros(len(x), dtype=torch.float64)
    for i in range(answer.shape[1]):
        (gradient,) = torch.autograd.grad(answer[:, i].sum(), x, retain_graph=True)
        divergence += gradient.reshape(len(x), -1)[:, i]
    close(actual, case.sigma**2 * divergence, scale=case.sigma**2)


def test_no_rows_are_answered_with_none():
    model = gt.Gaussian.isotropic(torch.zeros(2, 3), 1.0)
    x = torch.zeros(0, 2, 3)
    for sigma in (1.0, torch.ones(0)):
        assert model(x, sigma).shape == model.score(x, sigma).shape == model.flow(x, sigma, 0.5).shape == x.shape
        assert model.log_prob(x, sigma).shape == model.posterior_variance(x, sigma).shape == (0,)


def test_a_model_that_was_float32_is_still_one_in_float64(tmp_path):
    model = gt.Gaussian.fit(torch.randn(50, 20, generator=torch.Generator().manual_seed(0))).double()
    model.save(tmp_path / "model")
    close(gt.Gaussian.load(tmp_path / "model").basis, model.basis)
    assert model.truncate(3).rank == 3


# ---- classes


@pytest.mark.parametrize("rank", [None, 1])
@pytest.mark.parametrize("shared", [False, True])
def test_classes_have_numpys_moments_however_the_data_come(shared, rank):
    rng = np.random.default_rng(0)
    labels = rng.choice([4, -1, 7], 200)
    x = rng.normal(size=(200, 3)) * (1 + np.abs(labels))[:, None] + labels[:, None]
    spreads = {label: np.cov(x[labels == label].T, bias=True) for label in (-1, 4, 7)}
    if shared:
        average = sum(np.mean(labels == label) * spread for label, spread in spreads.items())
        spreads = dict.fromkeys(spreads, average)
    tensors = torch.from_numpy(x), torch.from_numpy(labels)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors), batch_size=7)
    options = {"rank": rank, "shared_covariance": shared}
    for family in (gt.Gaussian.fit_classes(*tensors, **options), gt.Gaussian.fit_classes(loader, **options)):
        assert list(family) == [-1, 4, 7]
        for label, model in family.items():
            close(model.mean, x[labels == label].mean(0), scale=10.0)
            eigenvalues = np.linalg.eigvalsh(spreads[label])[::-1]
            if rank is None:
                close(model.covariance, spreads[label], scale=100.0)
            else:
                close(model.variances, eigenvalues[:1].copy(), scale=100.0)
                assert model.tail.item() == pytest.approx(eigenvalues[1:].mean())
    if shared:
        assert family[4].basis.data_ptr() == family[7].basis.data_ptr()


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("data", "labels", "error", "message"),
    [
        (torch.zeros(4, 2), torch.zeros(3).long(), ValueError, r"labels are torch.int64 of shape \(3,\)"),
        (torch.zeros(4, 2), torch.zeros(4), ValueError, "labels are torch.float32"),
        (torch.zeros(4, 2), torch.zeros(4, 1).long(), ValueError, r"expected integers of shape \(4,\)"),
        (torch.zeros(4, 2), None, TypeError, "expected pairs"),
        ([torch.zeros(4, 2)], None, TypeError, "data yield Tensor, expected pairs"),
        (torch.zeros(4, 2).int(), torch.zeros(4).long(), TypeError, "data has dtype torch.int32"),
        (torch.full((4, 2), torch.nan), torch.zeros(4).long(), ValueError, "data holds 8 values"),
        ([], None, ValueError, "no data"),
        (torch.zeros(0, 2), torch.zeros(0).long(), ValueError, "no data"),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_classes_that_cannot_be_are_refused(data, labels, error, message, shared):
    with pytest.raises(error, match=message):
        gt.Gaussian.fit_classes(data, labels, shared_covariance=shared)


# ---- eigenpairs of large matrices


def spectra(dim):
    rng = np.random.default_rng(0)
    decaying = np.arange(1, dim + 1) ** -1.5
    return {
        "decaying": decaying,
        "steep": np.exp(-np.arange(dim) / 10.0),
        "repeated": np.repeat(np.arange(dim // 20, 0, -1.0) ** 2, 20)[:dim],
        "deficient": np.where(np.arange(dim) < 30, rng.uniform(1, 2, dim), 0),
        "flat": np.ones(dim),
        "noisy": np.where(np.arange(dim) < 40, 5.0, 1.0) + rng.uniform(size=dim),
        "zero": np.zeros(dim),
    }


@pytest.mark.parametrize("kind", ["decaying", "steep", "repeated", "deficient", "flat", "noisy", "zero"])
def test_leading_eigenpairs_of_a_large_matrix_are_numpys(kind):
    dim, rank = 800, 60
    vectors = np.linalg.qr(np.random.default_rng(1).normal(size=(dim, dim)))[0]
    matrix = (vectors * spectra(dim)[kind]) @ vectors.T
    matrix = torch.from_numpy((matrix + matrix.T) / 2)
    expected = np.linalg.eigvalsh(matrix.numpy())[::-1][:rank].copy()
    values, basis = eigenpairs(matrix, rank)
    torch.testing.assert_close(values, torch.from_numpy(expected), rtol=1e-4, atol=1e-10 * expected[0])
    torch.testing.assert_close(basis.T @ basis, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-10)
    # The span holds as much variance as the best one does.
    assert (basis.T @ matrix @ basis).trace().item() == pytest.approx(expected.sum(), rel=1e-4, abs=1e-10)
    assert (basis.gather(0, basis.abs().argmax(0, keepdim=True)) > 0).all()
    model = gt.Gaussian.from_covariance(torch.zeros(dim, dtype=torch.float64), matrix, rank)
    torch.testing.assert_close(model.variances, torch.from_numpy(expected), rtol=1e-4, atol=1e-10 * (1 + expected[0]))
    trace = matrix.trace().item()
    assert model.total_variance.item() == pytest.approx(trace, rel=1e-9, abs=1e-9)
    assert model.tail.item() == pytest.approx((trace - expected.sum()) / (dim - rank), rel=1e-3, abs=1e-9)


# ---- moments in parts


@given(st.integers(1, 60), st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 4), st.data())
def test_moments_are_numpys_whatever_the_sizes_of_parts(n, seed, chunk, columns, data):
    x = torch.from_numpy(3 + np.random.default_rng(seed).normal(size=(n, 5)))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=8)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments_module, "CHUNK", chunk)
        patch.setattr(moments_module, "COLUMNS", columns)
        for batches in (torch.tensor_split(x, cuts), x.split(1), [x]):
            moments = gt.Moments.of(batches)
            assert moments.count == n
            close(moments.mean, x.mean(0))
            close(moments.covariance, np.cov(x.numpy().T, bias=True))


@pytest.mark.parametrize("chunk", [6, 9, 60, 10**6])
def test_a_loader_may_use_its_memory_again(monkeypatch, chunk):
    monkeypatch.setattr(moments_module, "CHUNK", chunk)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loader():
        buffer = torch.empty(4, 3, dtype=torch.float64)
        for part in x.split(4):
            yield buffer.copy_(part)
        buffer.fill_(1e9)

    moments = gt.Moments.of(loader())
    close(moments.mean, x.mean(0))
    close(moments.covariance, np.cov(x.numpy().T, bias=True))
    given_back = x.clone()
    gt.Moments.of(given_back)
    assert torch.equal(given_back, x)
