"""The mixture against dense linear algebra in numpy, scipy's densities, autograd and Monte Carlo."""

import numpy as np
import pytest
import safetensors.torch
import scipy.special
import torch
from cases import REFUSED, gaussians, mixtures
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import gausstools as gt
from gausstools.models import mixture as module

DOUBLE = torch.float64


def close(actual, expected, rtol=1e-9, scale=1.0):
    expected = torch.as_tensor(expected).reshape(actual.shape)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * scale)


def divergence(denoiser, x):
    """Σ_i ∂D_i/∂x_i by autograd, one row of the Jacobian at a time."""
    x = x.clone().requires_grad_()
    answer = denoiser(x).reshape(len(x), -1)
    total = torch.zeros(len(x), dtype=x.dtype)
    for i in range(answer.shape[1]):
        (gradient,) = torch.autograd.grad(answer[:, i].sum(), x, retain_graph=True)
        total += gradient.reshape(len(x), -1)[:, i]
    return total


def everything(model, x, sigma):
    """Every answer of a mixture, flattened."""
    answers = model(x, sigma), model.score(x, sigma), model.log_prob(x, sigma), model.posterior(x, sigma)
    return [answer.reshape(len(x), -1) for answer in (*answers, model.posterior_variance(x, sigma))]


def same(one, other, case, rtol=1e-9):
    """Whether two mixtures give the same answers, each to the precision of its own units."""
    units = (case.scale, 1 / case.sigma, 1.0, 0.0, case.scale**2)
    questions = (everything(model, case.x, case.sigma) for model in (one, other))
    for first, second, unit in zip(*questions, units, strict=True):
        if unit != 0:  # the posterior depends on the order
            close(first, second, rtol, max(unit, float(first.abs().max())))


# ---- the definitions


@given(mixtures(singular=True))
def test_the_denoiser_is_bayes_weighted_regression(case):
    expected = (case.posterior()[:, :, None] * case.denoised()).sum(1)
    close(case.model(case.x, case.sigma), expected, rtol=1e-8, scale=case.scale)


@given(mixtures(singular=True))
def test_log_prob_is_the_log_sum_of_scipys(case):
    expected = scipy.special.logsumexp(case.log_joint(), 1)
    close(case.model.log_prob(case.x, case.sigma), expected, rtol=1e-8)


@given(mixtures())
def test_log_prob_without_noise_is_that_of_clean_data(case):
    close(case.model.log_prob(case.x), scipy.special.logsumexp(case.log_joint(0.0), 1), rtol=1e-8)


@given(mixtures(singular=True))
def test_the_posterior_is_bayes_rule(case):
    posterior = case.model.posterior(case.x, case.sigma)
    close(posterior, case.posterior(), rtol=1e-8)
    close(posterior.sum(1), np.ones(len(case.x)), rtol=1e-12)


@given(mixtures(singular=True))
def test_the_score_is_the_gradient_of_log_prob(case):
    x = case.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(case.model.log_prob(x, case.sigma).sum(), x)
    close(case.model.score(case.x, case.sigma), gradient, rtol=1e-8, scale=float(gradient.abs().max()))


@given(mixtures(singular=True))
def test_tweedie_ties_the_score_to_the_denoiser(case):
    ours = case.model.score(case.x, case.sigma)
    close(ours * case.sigma**2, gt.score(case.model, case.x, case.sigma) * case.sigma**2, scale=case.scale)


@given(mixtures(singular=True))
def test_the_posterior_variance_is_within_and_between_components(case):
    noise = case.sigma**2 * np.eye(case.model.dim)
    within = [case.sigma**2 * np.trace(np.linalg.solve(spread + noise, spread)) for spread in case.covariances]
    share, denoised = case.posterior(), case.denoised()
    mean = (share[:, :, None] * denoised).sum(1, keepdims=True)
    expected = (share * (within + ((denoised - mean) ** 2).sum(2))).sum(1)
    close(case.model.posterior_variance(case.x, case.sigma), expected, rtol=1e-7, scale=case.scale**2)


@given(mixtures(singular=True))
@settings(max_examples=25)
def test_the_posterior_variance_is_the_divergence_of_the_denoiser(case):
    expected = case.sigma**2 * divergence(lambda x: case.model(x, case.sigma), case.x)
    close(case.model.posterior_variance(case.x, case.sigma), expected, rtol=1e-7, scale=case.scale**2)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("sigma", [1e-5, 1e-3, 1e-1, 1e1, 1e3, 1e6])
def test_the_posterior_variance_keeps_its_digits(dtype, sigma):
    """At small σ it is about the number of directions times σ², at large σ the variance of the data."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(2, 40, 6, generator=generator, dtype=DOUBLE)
    data[1, :, 0] += 3
    mixture = gt.Mixture([0.3, 0.7], [gt.Gaussian.fit(part, rank=3) for part in data])
    x = data[:, 0] + sigma * torch.randn(2, 6, generator=generator, dtype=DOUBLE)
    asked = mixture.to(dtype)
    x = x.to(dtype)
    expected = sigma**2 * divergence(lambda rows: mixture.double()(rows, sigma), x.double())
    actual = asked.to(dtype).posterior_variance(x, sigma).double()
    torch.testing.assert_close(actual, expected, rtol=1e-4 if dtype == torch.float32 else 1e-7, atol=0)


@given(mixtures(singular=True))
def test_covariance_and_total_variance(case):
    mean = case.weights @ case.means
    offsets = case.means - mean
    expected = np.tensordot(case.weights, case.covariances, 1) + (offsets.T * case.weights) @ offsets
    # At full rank the dense oracle leaves the rounding of the tail.
    scale = float(max(np.abs(expected).max(), case.model.tails.max()))
    close(case.model.mean, mean, scale=case.scale)
    close(case.model.covariance, expected, scale=scale)
    assert case.model.total_variance.item() == pytest.approx(np.trace(expected), rel=1e-9, abs=1e-12)
    close(case.model.to_gaussian().covariance, expected, scale=scale)


# ---- what it is made of


@given(gaussians(singular=True), st.integers(1, 4))
def test_equal_components_are_one_gaussian(case, count):
    """A mixture of one, or of the same several times, with whatever weights."""
    weights = torch.from_numpy(np.random.default_rng(count).dirichlet(np.ones(count)))
    mixture = gt.Mixture(weights, [case.model] * count)
    scale = float(max(case.x.abs().max(), case.model.mean.abs().max()))
    x, sigma = case.x, case.sigma
    close(mixture(x, sigma), case.model(x, sigma), scale=scale)
    close(mixture.score(x, sigma) * sigma**2, case.model.score(x, sigma) * sigma**2, scale=scale)
    close(mixture.log_prob(x, sigma), case.model.log_prob(x, sigma), rtol=1e-8)
    close(mixture.posterior(x, sigma), weights.expand(len(x), -1))
    expected = case.model.posterior_variance(x, sigma)
    close(mixture.posterior_variance(x, sigma), expected, scale=scale**2)
    close(mixture.covariance, case.covariance, scale=scale**2)


@given(mixtures())
def test_rank_d_is_full(case):
    whole = [
        gt.Gaussian.from_covariance(torch.from_numpy(mean).reshape(case.model.event_shape), torch.from_numpy(spread))
        for mean, spread in zip(case.means, case.covariances, strict=True)
    ]
    same(gt.Mixture(case.weights.tolist(), whole), case.model, case, rtol=1e-8)


@given(mixtures(singular=True), st.randoms(use_true_random=False))
def test_the_order_of_components_changes_nothing(case, random):
    order = random.sample(range(len(case.model)), len(case.model))
    shuffled = gt.Mixture(case.model.weights[order], [case.model[k] for k in order])
    same(shuffled, gt.Mixture(case.model.weights, case.model), case, rtol=1e-8)
    close(shuffled.posterior(case.x, case.sigma), case.model.posterior(case.x, case.sigma)[:, order], rtol=1e-8)


@given(mixtures(singular=True, zero_weights=False), gaussians())
def test_components_without_weight_have_no_effect(case, other):
    dim, shape = case.model.dim, case.model.event_shape
    ghosts = [
        gt.Gaussian.isotropic(torch.zeros(shape, dtype=DOUBLE), 0.0),
        gt.Gaussian.isotropic(case.x[0], 1.0),
        gt.Gaussian(torch.ones(shape, dtype=DOUBLE), torch.ones(dim, dtype=DOUBLE), torch.eye(dim, dtype=DOUBLE)),
    ]
    haunted = gt.Mixture(torch.cat([torch.zeros(3, dtype=DOUBLE), case.model.weights]), [*ghosts, *case.model])
    same(haunted, case.model, case)
    assert (haunted.posterior(case.x, case.sigma)[:, :3] == 0).all()
    close(haunted.covariance, case.model.covariance, scale=case.scale**2)
    close(haunted(case.x, 0.0), case.model(case.x, 0.0), scale=case.scale)


@given(mixtures(singular=True))
def test_components_come_back_as_they_were(case):
    for k, (component, mean) in enumerate(zip(case.model, case.means, strict=True)):
        close(component.covariance, case.covariances[k], scale=case.scale**2)
        close(component.mean, mean)
    again = gt.Mixture(case.model.weights, case.model)
    for name, tensor in case.model.named_buffers():
        assert torch.equal(dict(again.named_buffers())[name], tensor), name
    assert len(case.model) == len(case.weights)
    close(case.model[-1].mean, case.means[-1])
    with pytest.raises(IndexError):
        case.model[len(case.model)]


@given(mixtures(singular=True))
def test_images_and_vectors_give_the_same(case):
    flat = [gt.Gaussian(c.mean.reshape(-1), c.variances, c.basis, c.tail) for c in case.model]
    vectors = gt.Mixture(case.model.weights, flat)
    rows = case.x.reshape(len(case.x), -1)
    for image, vector in zip(
        everything(case.model, case.x, case.sigma), everything(vectors, rows, case.sigma), strict=True
    ):
        close(image, vector, rtol=1e-13)


@given(mixtures(singular=True))
def test_a_batch_of_noise_levels_is_its_rows(case):
    sigmas = case.sigma * torch.linspace(1, 2, len(case.x), dtype=DOUBLE)
    together = everything(case.model, case.x, sigmas)
    for i, sigma in enumerate(sigmas.tolist()):
        for batched, alone in zip(together, everything(case.model, case.x[i : i + 1], sigma), strict=True):
            close(batched[i : i + 1], alone, rtol=1e-8, scale=float(batched.abs().max()))


# ---- chunks and memory


@given(mixtures(singular=True), st.integers(1, 40))
@settings(max_examples=20)
def test_chunks_change_nothing(case, chunk):
    x = torch.cat([case.x, case.x + case.sigma, case.x - case.sigma])
    sigmas = case.sigma * torch.linspace(1, 2, len(x), dtype=DOUBLE)
    for sigma in (case.sigma, sigmas):
        whole = everything(case.model, x, sigma)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "CHUNK", chunk)
            parts = everything(case.model, x, sigma)
        for one, other in zip(whole, parts, strict=True):
            close(other, one, rtol=1e-8, scale=float(one.abs().max()))


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that is made while it is on."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **(kwargs or {}))
        if isinstance(answer, torch.Tensor):
            self.entries = max(self.entries, answer.numel())
        return answer


def test_nothing_of_size_batch_times_components_times_dimensions_is_made():
    batch, count, dim, rank = 16, 8, 600, 4
    generator = torch.Generator().manual_seed(0)
    bases = (torch.linalg.qr(torch.randn(dim, rank, generator=generator))[0] for _ in range(count))
    means = torch.randn(count, dim, generator=generator)
    components = [gt.Gaussian(mean, torch.ones(rank), basis, 0.1) for mean, basis in zip(means, bases, strict=True)]
    mixture = gt.Mixture([1 / count] * count, components)
    x = torch.randn(batch, dim, generator=generator)
    for ask in (mixture, mixture.score, mixture.log_prob, mixture.posterior, mixture.posterior_variance):
        with Largest() as largest:
            ask(x, 1.0)
        assert 0 < largest.entries <= max(count * rank * dim, batch * dim)  # the eigenvectors, or the answer


# ---- draws


def pair():
    """Two components of different ranks in three dimensions, with their dense covariances."""
    basis = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE))[0]
    low = gt.Gaussian(torch.tensor([-1.0, 0.0, 1.0], dtype=DOUBLE), torch.tensor([2.0]), basis[:, :1], 0.1)
    full = gt.Gaussian(torch.tensor([2.0, 1.0, 0.0], dtype=DOUBLE), torch.tensor([0.5, 0.2, 1.5]), basis)
    return gt.Mixture([0.3, 0.7], [low, full])


def clean_draws(n):
    """Draws of ``pair()`` from numpy alone."""
    rng, mixture = np.random.default_rng(0), pair()
    chosen = rng.random(n) < 0.7
    parts = [rng.multivariate_normal(c.mean.numpy(), c.covariance.numpy(), n, method="cholesky") for c in mixture]
    return np.where(chosen[:, None], parts[1], parts[0]), rng


def test_the_denoiser_and_the_posterior_variance_are_those_of_weighted_draws():
    """Tweedie by importance sampling: clean draws, weighted with the likelihood of the noised point."""
    draws, _ = clean_draws(400_000)
    for x, sigma in (([0.5, 0.5, 0.5], 1.0), ([-2.0, 0.0, 2.0], 2.0), ([4.0, 1.0, 1.0], 1.5)):
        squared = ((draws - x) ** 2).sum(1)
        weights = np.exp(-squared / (2 * sigma**2))
        weights /= weights.sum()
        mean = weights @ draws
        error = np.sqrt(weights**2 @ (draws - mean) ** 2)
        point = torch.tensor([x], dtype=DOUBLE)
        assert (np.abs(pair()(point, sigma).numpy()[0] - mean) < 5 * error).all()
        lengths = ((draws - mean) ** 2).sum(1)
        spread = weights @ lengths
        error = np.sqrt(weights**2 @ (lengths - spread) ** 2)
        assert abs(pair().posterior_variance(point, sigma).item() - spread) < 5 * error


@pytest.mark.parametrize("sigma", [0.2, 1.0, 5.0])
def test_the_posterior_variance_is_the_squared_error_of_the_denoiser(sigma):
    """The law of total variance, as a mean over draws; and no other denoiser does better."""
    draws, rng = clean_draws(40_000)
    noised = torch.from_numpy(draws + sigma * rng.normal(size=draws.shape))
    mixture = pair()
    error = (mixture(noised, sigma) - torch.from_numpy(draws)).square().sum(1)
    gap = error - mixture.posterior_variance(noised, sigma)
    assert gap.mean().abs() < 5 * gap.std() / len(gap) ** 0.5
    linear = (mixture.to_gaussian()(noised, sigma) - torch.from_numpy(draws)).square().sum(1)
    assert linear.mean() > error.mean()


def test_the_log_density_is_normalised():
    line = torch.linspace(-40, 40, 20_001, dtype=DOUBLE)[:, None]
    parts = [gt.Gaussian.isotropic(torch.tensor([m], dtype=DOUBLE), v) for m, v in ((-1.0, 0.1), (2.0, 0.5))]
    mixture = gt.Mixture([0.25, 0.75], parts)
    for sigma in (0.0, 0.3, 3.0):
        assert torch.trapezoid(mixture.log_prob(line, sigma).exp(), line[:, 0]).item() == pytest.approx(1, abs=1e-9)


@given(mixtures(singular=True))
@settings(max_examples=20)
def test_samples_have_the_moments_that_they_should(case):
    n = 20_000
    draws = case.model.sample(n, 0.5, generator=torch.Generator().manual_seed(0)).reshape(n, -1).numpy()
    mean = case.weights @ case.means
    offsets = case.means - mean
    spread = np.tensordot(case.weights, case.covariances, 1) + (offsets.T * case.weights) @ offsets
    spread = spread + 0.25 * np.eye(len(mean))
    centred = draws - mean
    assert (np.abs(centred.mean(0)) < 6 * np.sqrt(np.diag(spread) / n)).all()
    # Entry by entry, with error bars from the draws themselves.
    products = centred[:, :, None] * centred[:, None]
    assert (np.abs(products.mean(0) - spread) < 6 * products.std(0) / n**0.5 + 1e-12).all()


def test_sampling_draws_the_components_by_weight_and_depends_on_its_generator_alone():
    points = [gt.Gaussian.isotropic(torch.tensor([value]), 0.0) for value in (-1.0, 0.0, 1.0)]
    mixture = gt.Mixture([0.2, 0.0, 0.8], points)
    draws, again, other = (mixture.sample(5000, generator=torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(draws, again)
    assert not torch.equal(draws, other)
    assert set(draws.unique().tolist()) == {-1.0, 1.0}
    assert (draws > 0).double().mean().item() == pytest.approx(0.8, abs=5 * (0.16 / 5000) ** 0.5)
    assert mixture.sample(0).shape == (0, 1)


# ---- near and far


def test_from_far_away_it_is_the_gaussian_with_its_moments():
    """At fixed z the two denoisers differ by a term of order σ⁻², made of third moments; or σ⁻³ where they vanish."""
    mixture = pair()
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)

    def distance(model, sigma):
        x = model.mean + sigma * z
        return (model(x, sigma) - model.to_gaussian()(x, sigma)).norm(dim=1)

    ratio = distance(mixture, 400.0) / distance(mixture, 800.0)
    close(ratio, torch.full((4,), 4.0, dtype=DOUBLE), rtol=0.05)
    mirrored = [c.with_mean(2 * mixture.mean - c.mean) for c in mixture]
    even = gt.Mixture(torch.cat([mixture.weights, mixture.weights]) / 2, [*mixture, *mirrored])
    ratio = distance(even, 200.0) / distance(even, 400.0)
    close(ratio, torch.full((4,), 8.0, dtype=DOUBLE), rtol=0.05)


@given(mixtures())
def test_far_away_the_denoiser_is_the_mean_and_nearby_it_is_x(case):
    close(case.model(case.x, 1e8), case.model.mean.expand_as(case.x), rtol=1e-6, scale=case.scale)
    assert torch.equal(case.model(case.x, 0.0), case.model(case.x, 1e-300))
    close(case.model(case.x, 0.0), case.x, scale=case.scale)


def test_without_noise_and_with_singular_components_it_projects_on_the_nearest_support():
    line = gt.Gaussian(torch.tensor([0.0, 0.0]), torch.tensor([1.0]), torch.tensor([[1.0], [0.0]]))
    point = gt.Gaussian.isotropic(torch.tensor([0.0, 4.0]), 0.0)
    mixture = gt.Mixture([0.5, 0.5], [line, point])
    x = torch.tensor([[3.0, 1.0], [0.1, 3.0], [-2.0, 0.0]])
    expected = torch.tensor([[3.0, 0.0], [0.0, 4.0], [-2.0, 0.0]])
    torch.testing.assert_close(mixture(x, 0.0), expected)
    assert mixture.posterior(x, 0.0).tolist() == [[1, 0], [0, 1], [1, 0]]
    torch.testing.assert_close(mixture.posterior_variance(x, 0.0), torch.zeros(3))
    for ask in (mixture.score, mixture.log_prob):
        with pytest.raises(ValueError, match="no density"):
            ask(x, 0.0)


def test_one_direction_without_variance_in_one_component_is_enough_to_have_no_density():
    round_one, flat = gt.Gaussian.isotropic(torch.zeros(2), 1.0), gt.Gaussian.isotropic(torch.ones(2), 0.0)
    disc = gt.Gaussian(torch.zeros(2), torch.tensor([1.0, 0.0]), torch.eye(2))
    line = gt.Gaussian(torch.zeros(2), torch.tensor([1.0]), torch.eye(2)[:, :1])
    for singular in (flat, disc, line):
        mixture = gt.Mixture([0.5, 0.5], [round_one, singular])
        for ask in (mixture.score, mixture.log_prob):
            for sigma in (0.0, torch.tensor([1.0, 0.0, 2.0])):
                with pytest.raises(ValueError, match="no density"):
                    ask(torch.ones(3, 2), sigma)
            assert ask(torch.ones(3, 2), 0.1).isfinite().all()


@pytest.mark.parametrize("sigma", [0.0, 1e-6, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_extreme_noise_levels(sigma, dtype):
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(2, 50, 6, generator=generator, dtype=dtype) + torch.tensor([[[0.0]], [[2.0]]], dtype=dtype)
    mixture = gt.Mixture([0.4, 0.6], [gt.Gaussian.fit(part, rank) for part, rank in zip(data, (6, 2), strict=True)])
    x = data[:, :3].flatten(0, 1) + sigma * torch.randn(6, 6, generator=generator, dtype=dtype)
    expected = mixture.mean.expand(6, 6) if sigma > 1 else x
    torch.testing.assert_close(mixture(x, sigma), expected, atol=2e-5, rtol=0)
    expected = mixture.total_variance if sigma > 1 else torch.tensor(0.0, dtype=dtype)
    torch.testing.assert_close(mixture.posterior_variance(x, sigma), expected.expand(6), atol=1e-4, rtol=0)
    for answer in everything(mixture, x, sigma):
        assert answer.isfinite().all()


@given(mixtures(zero_weights=False))
def test_float32_stays_close_to_float64(case):
    single = gt.Mixture(case.model.weights, [component.float() for component in case.model])
    x = case.x.float()
    exact = single.double()
    for model in (exact, case.model):
        difference = model(case.x, case.sigma) - case.model(case.x, case.sigma)
        assert difference.abs().max() < 1e-3 * case.scale
    single = gt.Mixture(case.model.weights, [component.float() for component in case.model])
    nats = 1e-6 * (1 + case.model.dim + float(case.log_joint().min() ** 2) ** 0.5)
    close(single.posterior(x, case.sigma).double(), exact.posterior(x.double(), case.sigma), rtol=10 * nats)
    close(single(x, case.sigma).double(), exact(x.double(), case.sigma), rtol=10 * nats, scale=case.scale)


def test_images_of_full_size_with_few_components():
    """3072 dimensions in float32, against a dense formula that stays in the span of a few vectors."""
    shape, dim, rank, generator = (3, 32, 32), 3072, 2, torch.Generator().manual_seed(0)
    variances = torch.tensor([30.0, 10.0])
    bases = [torch.linalg.qr(torch.randn(dim, rank, generator=generator))[0] for _ in range(3)]
    means = 0.1 * torch.randn(3, *shape, generator=generator)
    components = [gt.Gaussian(mean, variances, basis, 0.02) for mean, basis in zip(means, bases, strict=True)]
    mixture = gt.Mixture([0.2, 0.3, 0.5], components)
    for sigma in (0.1, 1.0, 30.0, 1000.0):
        x = mixture.sample(3, sigma, generator=generator)
        logs, denoised = [], []
        for weight, c in zip((0.2, 0.3, 0.5), components, strict=True):
            offset = (x - c.mean).double().flatten(1)
            inside = offset @ c.basis.double()
            outside = offset - inside @ c.basis.double().T
            spread, tail = c.variances.double() + sigma**2, 0.02 + sigma**2
            quadratic = (inside**2 / spread).sum(1) + (outside**2).sum(1) / tail
            logs.append(np.log(weight) - 0.5 * (quadratic + spread.log().sum() + (dim - rank) * np.log(tail)))
            inside = inside * c.variances / spread
            denoised.append(c.mean.flatten() + inside @ c.basis.double().T + 0.02 / tail * outside)
        share = torch.stack(logs).softmax(0)
        expected = (share[:, :, None] * torch.stack(denoised)).sum(0)
        torch.testing.assert_close(mixture.posterior(x, sigma).double(), share.T, rtol=0, atol=1e-4)
        torch.testing.assert_close(mixture(x, sigma).flatten(1).double(), expected, rtol=0, atol=2e-4)


def test_one_dimension_and_no_rows():
    mixture = gt.Mixture([0.5, 0.5], [gt.Gaussian.isotropic(torch.tensor([value]), 0.0) for value in (-1.0, 1.0)])
    x = torch.linspace(-2, 2, 9)[:, None]
    torch.testing.assert_close(mixture(x, 0.7), torch.tanh(x / 0.49))
    for sigma in (1.0, torch.ones(0)):
        shapes = [tuple(answer.shape) for answer in (mixture(x[:0], sigma), mixture.score(x[:0], sigma))]
        shapes += [tuple(ask(x[:0], sigma).shape) for ask in (mixture.log_prob, mixture.posterior)]
        assert [*shapes, tuple(mixture.posterior_variance(x[:0], sigma).shape)] == [(0, 1), (0, 1), (0,), (0, 2), (0,)]


# ---- files and precision


@given(mixtures(singular=True))
@settings(max_examples=15)
def test_a_saved_model_comes_back_bit_for_bit(tmp_path_factory, case):
    path = tmp_path_factory.mktemp("model") / "mixture.safetensors"
    for model in (case.model, gt.Mixture(case.model.weights, case.model).float()):
        model.save(path)
        loaded = gt.Mixture.load(path)
        for name, tensor in model.named_buffers():
            assert torch.equal(dict(loaded.named_buffers())[name], tensor), name
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_files_that_do_not_hold_a_mixture_are_refused(tmp_path):
    path = tmp_path / "file"
    gt.Gaussian.isotropic(torch.zeros(2), 1.0).save(path)
    with pytest.raises(ValueError, match="holds a gausstools Gaussian, expected a gausstools Mixture"):
        gt.Mixture.load(path)
    tensors = pair().state_dict()
    for name in tensors:
        left = {key: value.contiguous() for key, value in tensors.items() if key != name}
        safetensors.torch.save_file(left, path, metadata={"gausstools": "Mixture"})
        with pytest.raises(ValueError, match=f"{path} is no complete Mixture: missing or unknown are {name}"):
            gt.Mixture.load(path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("weights", lambda w: w[:1], r"weights have shape \(1,\), expected \(2,\)"),
        ("weights", lambda w: w * 2, "weights sum to 2"),
        ("means", lambda m: m[:1], "do not fit together: .*means of shape"),
        ("means", lambda m: m[:, :2], "do not fit together"),
        ("means", lambda m: m * torch.nan, "NaN"),
        ("directions", lambda d: d[:-1], "do not fit together"),
        ("directions", lambda d: d * 2, "not orthonormal"),
        ("variances", lambda v: -v, "variances hold"),
        ("tails", lambda t: t[0], "do not fit together"),
        ("ranks", lambda r: r + 1, r"do not fit together: .*\[2, 4\]"),
        ("ranks", lambda r: r.double(), "do not fit together"),
        ("ranks", lambda r: torch.tensor([-1, 5]), "do not fit together"),
        ("ranks", lambda r: r[0], "do not fit together"),
    ],
)
@pytest.mark.usefixtures("as_installed")
def test_tensors_that_do_not_fit_together_are_refused(tmp_path, name, change, message):
    tensors = pair().state_dict()
    tensors[name] = change(tensors[name]).clone()
    safetensors.torch.save_file(
        {key: value.contiguous() for key, value in tensors.items()}, tmp_path / "m", metadata={"gausstools": "Mixture"}
    )
    with pytest.raises(ValueError, match=message):
        gt.Mixture.load(tmp_path / "m")


@given(mixtures(singular=True))
@settings(max_examples=15)
def test_conversion_computes_again_what_derives_from_the_tensors(case):
    single = gt.Mixture(case.model.weights, [component.float() for component in case.model])
    parts = [gt.Gaussian(c.mean, c.variances, c.basis, c.tail) for c in (c.double() for c in single)]
    rebuilt, converted = gt.Mixture(single.weights.double(), parts), single.double()
    assert converted.mean.dtype == DOUBLE
    for name, tensor in rebuilt.named_buffers():
        torch.testing.assert_close(dict(converted.named_buffers())[name], tensor, rtol=1e-7, atol=1e-7 * case.scale)
    # Weights in float32 need not sum to 1 in float64; the model takes them as they are, and so do the derived ones.
    mean = torch.tensordot(converted.weights, converted.means, 1)
    close(converted.mean, mean, rtol=1e-14, scale=case.scale)
    assert converted.to("cpu")(case.x, case.sigma).isfinite().all()


# ---- bad input

POINTS = [gt.Gaussian.isotropic(torch.tensor([value, 0.0]), 1.0) for value in (-1.0, 1.0)]
OTHER = {
    "shape": gt.Gaussian.isotropic(torch.zeros(3), 1.0),
    "dtype": gt.Gaussian.isotropic(torch.zeros(2, dtype=DOUBLE), 1.0),
}


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("weights", "components", "error", "message"),
    [
        ([1.5, -0.5], POINTS, ValueError, "weights hold -0.5, expected finite numbers >= 0"),
        ([0.5, 0.4], POINTS, ValueError, "weights sum to 0.9, expected 1; divide them by their sum"),
        ([0.0, 0.0], POINTS, ValueError, "weights sum to 0"),
        ([1.0], POINTS, ValueError, r"weights have shape \(1,\), expected \(2,\)"),
        ([[0.5, 0.5]], POINTS, ValueError, r"weights have shape \(1, 2\)"),
        ([0.5, float("nan")], POINTS, ValueError, "weights hold nan"),
        ([0.5, float("inf")], POINTS, ValueError, "expected finite numbers"),
        ([], [], ValueError, "components are empty"),
        ([0.5, 0.5], [POINTS[0], torch.zeros(2)], TypeError, "components hold Tensor, expected Gaussians"),
        ([0.5, 0.5], [POINTS[0], OTHER["shape"]], ValueError, r"component 1 has events of shape \(3,\)"),
        ([0.5, 0.5], [POINTS[0], OTHER["dtype"]], ValueError, "component 1 has events of .* torch.float64"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(weights, components, error, message):
    with pytest.raises(error, match=message):
        gt.Mixture(weights, components)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(("x", "sigma", "error", "message"), REFUSED)
def test_a_question_that_cannot_be_is_refused(x, sigma, error, message):
    mixture = gt.Mixture([0.5, 0.5], POINTS)
    for ask in (mixture, mixture.score, mixture.log_prob, mixture.posterior, mixture.posterior_variance):
        with pytest.raises(error, match=message):
            ask(x, sigma)


@pytest.mark.usefixtures("as_installed")
def test_draws_that_cannot_be_are_refused():
    mixture = gt.Mixture([0.5, 0.5], POINTS)
    with pytest.raises(ValueError, match="n is -1"):
        mixture.sample(-1)
    with pytest.raises(ValueError, match="sigma is -1"):
        mixture.sample(2, -1.0)
    with pytest.raises(ValueError, match="sigma is -1"):
        mixture.sample(0, -1.0)
