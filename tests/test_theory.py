"""Exact quantities against scipy's matrix roots, torch's own KL, quadrature, Monte-Carlo and an adaptive ODE solver."""

import copy
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch
from cases import Case, gaussians, mixtures
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import gausstools as gt
from gausstools import theory

DOUBLE = torch.float64


@st.composite
def families(draw, members=2, singular=False):
    """Gaussians of one event shape, each of its own rank, basis and scale, all within a few standard deviations."""
    cases = [draw(gaussians(singular=singular))]
    first = cases[0].model
    for _ in range(members - 1):
        rank, scale = draw(st.integers(0, first.dim)), float(first.total_variance) / first.dim or 1.0
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        variances = scale * np.exp(rng.normal(size=rank))
        tail = scale * draw(st.floats(0.01, 1))
        if singular:
            variances[: rng.integers(0, rank + 1)] = 0
            tail = draw(st.sampled_from([0.0, tail]))
        basis = np.linalg.qr(rng.normal(size=(first.dim, first.dim)))[0][:, :rank]
        mean = first.mean + scale**0.5 * torch.from_numpy(rng.normal(size=first.event_shape))
        model = gt.Gaussian(mean, torch.from_numpy(variances), torch.from_numpy(basis), tail)
        covariance = (basis * variances) @ basis.T + tail * (np.eye(first.dim) - basis @ basis.T)
        cases.append(Case(model, covariance, cases[0].x, cases[0].sigma))
    return cases


def shift(p, q):
    return (p.model.mean - q.model.mean).flatten().numpy()


def scale_of(*cases):
    return sum(float(case.model.total_variance) for case in cases)


def dense(case, tail=7.0):
    """The same Gaussian with all D eigenpairs, in another order, and a tail that plays no part."""
    model = case.model
    others = torch.from_numpy(scipy.linalg.null_space(model.basis.T.numpy())).reshape(model.dim, -1)
    variances = torch.cat([model.tail.expand(model.dim - model.rank), model.variances])
    return gt.Gaussian(model.mean, variances, torch.cat([others, model.basis], 1), tail)


# ---- distances


@given(families())
def test_the_frechet_distance_is_scipys_matrix_root(pair):
    p, q = pair
    root = scipy.linalg.sqrtm(p.covariance @ q.covariance).real
    expected = shift(p, q) @ shift(p, q) + np.trace(p.covariance + q.covariance - 2 * root)
    actual = theory.frechet_distance(p.model, q.model)
    assert actual.dtype == DOUBLE
    assert actual.item() == pytest.approx(expected, rel=1e-8, abs=1e-10 * scale_of(p, q))


@given(families(singular=True))
def test_the_frechet_distance_of_singular_gaussians(pair):
    """tr (Σ_p^½ Σ_q Σ_p^½)^½ is the sum of the roots of the eigenvalues of Σ_p Σ_q, each good to half its digits."""
    p, q = pair
    roots = np.sqrt(np.linalg.eigvals(p.covariance @ q.covariance).real.clip(0))
    expected = shift(p, q) @ shift(p, q) + np.trace(p.covariance + q.covariance) - 2 * roots.sum()
    actual = theory.frechet_distance(p.model, q.model).item()
    assert actual == pytest.approx(expected, rel=1e-6, abs=1e-6 * scale_of(p, q))


@given(families(members=3, singular=True))
def test_wasserstein_is_a_metric(three):
    p, q, r = (case.model for case in three)
    between = theory.wasserstein2(p, q)
    torch.testing.assert_close(between, theory.wasserstein2(q, p), rtol=1e-7, atol=0)
    by_way = theory.wasserstein2(p, r) + theory.wasserstein2(r, q)
    assert between <= by_way * (1 + 1e-12) + 1e-10 * scale_of(*three) ** 0.5
    torch.testing.assert_close(between.square(), theory.frechet_distance(p, q))


@given(gaussians(singular=True))
def test_the_distance_to_itself_is_zero_in_any_basis(case):
    deviation = scale_of(case) ** 0.5
    assert theory.wasserstein2(case.model, copy.deepcopy(case.model)).item() <= 1e-13 * deviation
    assert theory.wasserstein2(case.model, dense(case)).item() <= 1e-13 * deviation


@given(gaussians(singular=True), st.floats(0, 100))
def test_a_shift_is_as_far_as_it_goes(case, length):
    direction = torch.linspace(-1, 2, case.model.dim, dtype=DOUBLE).reshape(case.model.event_shape)
    moved = copy.deepcopy(case.model)
    moved.mean += length * direction / direction.norm()
    expected = (moved.mean - case.model.mean).norm().item()
    assert theory.wasserstein2(case.model, moved).item() == pytest.approx(
        expected, rel=1e-12, abs=1e-12 * scale_of(case) ** 0.5
    )


@given(families(singular=True), families(singular=True))
def test_independent_directions_add_up(first, second):
    """W2² of products is the sum of the factors'."""

    def product(one, other):
        one, other = dense(one), dense(other)
        mean = torch.cat([one.mean.flatten(), other.mean.flatten()])
        return gt.Gaussian(mean, torch.cat([one.variances, other.variances]), torch.block_diag(one.basis, other.basis))

    # Scales that differ widely would hide one factor behind the other's rounding.
    assume(1e-3 * scale_of(*first) <= scale_of(*second) <= 1e3 * scale_of(*first))
    together = theory.frechet_distance(product(first[0], second[0]), product(first[1], second[1])).item()
    apart = sum(theory.frechet_distance(p.model, q.model).item() for p, q in (first, second))
    assert together == pytest.approx(apart, rel=1e-7, abs=1e-7 * scale_of(*first, *second))


@given(gaussians(), st.floats(0.01, 100))
def test_the_flow_is_the_optimal_map_between_its_noised_marginals(case, sigma_to):
    """E|x − flow(x)|² over the noised density is W2²; the flow is linear, its matrix where it takes unit vectors."""
    model, eye = case.model, np.eye(case.model.dim)
    units = model.mean + torch.from_numpy(eye).reshape(-1, *model.event_shape)
    moved = (model.flow(units, case.sigma, sigma_to) - model.mean).reshape(eye.shape).numpy()
    spread = case.covariance + case.sigma**2 * eye
    expected = np.trace((eye - moved).T @ spread @ (eye - moved))
    start, end = (
        gt.Gaussian(model.mean, model.variances + s**2, model.basis, model.tail + s**2) for s in (case.sigma, sigma_to)
    )
    actual = theory.frechet_distance(start, end).item()
    assert actual == pytest.approx(expected, rel=1e-7, abs=1e-13 * np.trace(spread))


@given(families())
def test_kl_is_torchs(pair):
    p, q = (
        torch.distributions.MultivariateNormal(case.model.mean.flatten(), torch.from_numpy(case.covariance))
        for case in pair
    )
    actual = theory.kl_divergence(pair[0].model, pair[1].model)
    assert actual.dtype == DOUBLE
    torch.testing.assert_close(actual, torch.distributions.kl_divergence(p, q), rtol=1e-9, atol=1e-9)


@given(gaussians(), st.floats(1e-8, 10))
def test_kl_vanishes_only_between_equals(case, step):
    model = case.model
    assert 0 <= theory.kl_divergence(model, copy.deepcopy(model)).item() < 1e-24
    assert abs(theory.kl_divergence(model, dense(case)).item()) < 1e-18
    wider = gt.Gaussian(model.mean, model.variances * (1 + step), model.basis, model.tail * (1 + step))
    expected = model.dim / 2 * (math.log1p(step) - step / (1 + step))
    # For small steps it is quadratic in them, far below the rounding of any single term.
    assert theory.kl_divergence(model, wider).item() == pytest.approx(
        model.dim / 4 * step**2 if step < 1e-5 else expected, rel=1e-4, abs=0
    )


@given(gaussians(), st.integers(0, 1000))
def test_near_neighbours_are_as_far_as_the_metrics_say(case, seed):
    """To second order in a change εH of Σ, W2² is ½ Σ_ij (εH_ij)²/(λ_i+λ_j) and KL is ¼ tr (Σ⁻¹εH)².

    At ε = 1e-8 λ_min both are below the rounding of the traces and determinants of which they are made.
    """
    variances, basis = np.linalg.eigh(case.covariance)
    change = np.random.default_rng(seed).normal(size=(case.model.dim,) * 2)
    change = 1e-8 * variances.min() * (change + change.T)  # in the eigenbasis
    moved = case.covariance + basis @ change @ basis.T
    near = gt.Gaussian.from_covariance(case.model.mean, torch.from_numpy((moved + moved.T) / 2))
    bures = (change**2 / (variances[:, None] + variances)).sum() / 2
    fisher = (change**2 / (variances[:, None] * variances)).sum() / 4
    assert theory.frechet_distance(dense(case), near).item() == pytest.approx(bures, rel=1e-2, abs=0)
    assert theory.kl_divergence(dense(case), near).item() == pytest.approx(fisher, rel=1e-2, abs=0)


@given(families())
def test_low_rank_equals_dense(pair):
    p, q = pair
    for distance in (theory.wasserstein2, theory.kl_divergence):
        expected = distance(dense(p), dense(q))
        for one, other in ((p.model, q.model), (p.model, dense(q)), (dense(p, tail=0.0), q.model)):
            torch.testing.assert_close(distance(one, other), expected, rtol=1e-8, atol=1e-8)
    exact = theory.denoising_loss(dense(p), p.sigma).item()
    assert theory.denoising_loss(p.model, p.sigma).item() == pytest.approx(exact, rel=1e-9, abs=0)


class Largest(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that any operation returns."""

    nbytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.nbytes = max(self.nbytes, tensor.nbytes)
        return result


def test_nothing_of_size_d_by_d_is_built_for_low_rank():
    """Images with 3072 entries and 64 components, in one basis: per direction every answer is that for a number."""
    dim, rank, sigma = 3072, 64, 0.7
    basis = torch.linalg.qr(torch.randn(dim, rank, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)).Q
    a, b = torch.logspace(2, 0, rank, dtype=DOUBLE), torch.logspace(1, -1, rank, dtype=DOUBLE)
    mean = torch.zeros(3, 32, 32, dtype=DOUBLE)
    p, q = gt.Gaussian(mean, a, basis, 0.1), gt.Gaussian(mean, b, basis.flip(1), 0.2)
    every = torch.cat([a, torch.full((dim - rank,), 0.1, dtype=DOUBLE)])
    other = torch.cat([b.flip(0), torch.full((dim - rank,), 0.2, dtype=DOUBLE)])
    gain = other / (other + sigma**2)
    with Largest() as largest:
        distance, divergence = theory.frechet_distance(p, q), theory.kl_divergence(p, q)
        loss = theory.denoising_loss(q, sigma)
        learning = theory.LinearDynamics(p, sigma, 0.01, weight=0.3)
        losses, gains = learning.loss(torch.ones(2)), learning.gains(torch.ones(2))
        learning.denoiser(1.0)(mean[None], sigma)
    torch.testing.assert_close(distance, (every.sqrt() - other.sqrt()).square().sum())
    torch.testing.assert_close(divergence, (every / other - 1 - (every / other).log()).sum() / 2)
    assert loss.item() == pytest.approx(sigma**2 * gain.sum().item())
    assert losses.shape == (2,)
    assert gains.shape == (2, rank)
    assert 8 * dim * rank < largest.nbytes < 8 * dim * (3 * rank)


def test_kl_wants_a_density_of_both():
    axes, mean = torch.eye(4, dtype=DOUBLE), torch.zeros(4, dtype=DOUBLE)
    full, plane = gt.Gaussian.isotropic(mean, 1.0), gt.Gaussian(mean, torch.ones(2, dtype=DOUBLE), axes[:, :2])
    gap = gt.Gaussian(mean, torch.zeros(1, dtype=DOUBLE), axes[:, :1], tail=1.0)
    for singular in (plane, gap, gt.Gaussian.isotropic(mean, 0.0)):
        for pair, name in (((singular, full), "p"), ((full, singular), "q"), ((singular, singular), "p")):
            with pytest.raises(ValueError, match=f"{name} has no variance in some direction"):
                theory.kl_divergence(*pair)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_any_dtype_is_computed_with_in_float64(dtype):
    data = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    p, q = gt.Gaussian.fit(data, rank=2), gt.Gaussian.fit(2 * data + 1)
    for distance in (theory.wasserstein2, theory.kl_divergence):
        assert distance(p, q).dtype == DOUBLE
        assert distance(p, q.double()).item() == distance(p, q).item()
        assert distance(p, copy.deepcopy(p).double()).item() < 1e-14
    assert p.mean.dtype == dtype  # the arguments are left alone


# ---- denoising loss


@given(gaussians(singular=True), st.sampled_from([0.0, None]))
def test_the_loss_of_a_gaussian_is_that_of_its_matrix(case, sigma):
    """tr (I−W)Σ(I−W)ᵀ + σ² tr WWᵀ, with W as the model itself applies it to unit vectors."""
    model, eye = case.model, np.eye(case.model.dim)
    sigma = case.sigma if sigma is None else sigma
    units = model.mean + torch.from_numpy(eye).reshape(-1, *model.event_shape)
    missed = eye - (model(units, sigma) - model.mean).reshape(eye.shape).numpy().T
    expected = np.trace(missed @ case.covariance @ missed.T) + sigma**2 * ((eye - missed) ** 2).sum()
    loss = theory.denoising_loss(model, torch.tensor([sigma, 2 * sigma], dtype=DOUBLE))
    assert loss.shape == (2,)
    assert loss[0].item() == pytest.approx(expected, rel=1e-8, abs=1e-12 * scale_of(case))
    assert theory.denoising_loss(model, sigma).item() == pytest.approx(expected, rel=1e-8, abs=1e-12 * scale_of(case))


def test_the_exact_loss_is_what_noised_data_give():
    """Monte-Carlo on points that are far from Gaussian, with two moments in common."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(50, 3, generator=generator, dtype=DOUBLE) ** 4
    model = gt.Gaussian.fit(points)
    clean = points[torch.randint(50, (100_000,), generator=generator)]
    noised = clean + 0.3 * torch.randn(clean.shape, generator=generator, dtype=DOUBLE)
    losses = (model(noised, 0.3) - clean).square().sum(1)
    exact = theory.denoising_loss(model, 0.3).item()
    assert abs(losses.mean().item() - exact) < 4 * losses.std().item() / 100_000**0.5


@given(mixtures(), st.integers(0, 2**32 - 1))
def test_an_ideal_denoiser_is_no_misfit_and_one_of_other_data_is(case, seed):
    """The mixture's own denoiser on its own noised draws; and the answers of one whose data lie far from there."""
    gaussian, generator = case.model.to_gaussian(), torch.Generator().manual_seed(seed)
    x = case.model.sample(500, case.sigma, generator=generator)
    left = case.model(x, case.sigma) - gaussian(x, case.sigma)
    assert theory.misfit(gaussian, case.sigma, left.flatten(1).square().sum(1)) == ""
    variances = np.linalg.eigvalsh(gaussian.covariance.numpy())
    loss = case.sigma**2 * (variances / (variances + case.sigma**2)).sum()
    far = left + 3 * (loss / gaussian.dim) ** 0.5
    squares = far.flatten(1).square().sum(1)
    found = theory.misfit(gaussian, torch.full((500,), case.sigma), squares)
    assert f"at σ = {case.sigma:g} " in found
    assert f" {squares.mean() / loss:.2g} times the loss" in found


def test_a_misfit_is_more_than_chance_and_rounding():
    gaussian = gt.Gaussian.isotropic(torch.full((3,), 2.0), 1.0)
    for squares, found in (([9.0], False), ([0.1, 9.0], False), ([9.0, 9.1], True), ([1.5, 1.5], False)):
        assert bool(theory.misfit(gaussian, 1.0, torch.tensor(squares))) == found
    one_image = gt.Gaussian.isotropic(torch.full((3,), 2.0), 0.0)
    assert theory.misfit(one_image, 1.0, torch.full((4,), 1e-6)) == ""
    assert "above the loss, 0, of" in theory.misfit(one_image, 1.0, torch.full((4,), 1.0))


# ---- linear dynamics


@given(gaussians(singular=True, smallest_sigma=0.1, largest_sigma=10), st.data())
@settings(max_examples=10)
def test_gradient_flow_is_where_an_adaptive_solver_takes_the_gradient_of_the_loss(case, data):
    """The gradient is autograd's, of the expected loss written with the dense covariance."""
    model, eye = case.model, torch.eye(case.model.dim, dtype=DOUBLE)
    covariance, mean = torch.from_numpy(case.covariance), model.mean.flatten()
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    fastest = max(1.0, float(np.linalg.eigvalsh(case.covariance).max()) + case.sigma**2)
    rate = data.draw(st.floats(0.1, 10)) / fastest
    weight = data.draw(st.sampled_from([0.0, -1.5, torch.from_numpy(rng.normal(size=eye.shape))]))
    bias = data.draw(st.sampled_from([0.0, torch.from_numpy(rng.normal(size=model.event_shape))]))

    def loss(w, b):
        missed = w - eye
        spread = torch.trace(missed @ covariance @ missed.T) + case.sigma**2 * w.square().sum()
        return (b - mean).square().sum() + spread

    def unpack(state):
        state = torch.from_numpy(state.copy())
        return state[: eye.numel()].reshape(eye.shape), state[eye.numel() :]

    def velocity(_, state):
        parameters = [part.requires_grad_() for part in unpack(state)]
        return (
            -rate * torch.cat([part.flatten() for part in torch.autograd.grad(loss(*parameters), parameters)]).numpy()
        )

    start = weight if isinstance(weight, torch.Tensor) else weight * eye
    state = torch.cat([start.flatten(), torch.as_tensor(bias).expand(model.event_shape).flatten().to(mean)]).numpy()
    times = np.array([0.0, 0.1, 0.7, 2.0]) / (rate * fastest)

    learning = theory.LinearDynamics(model, case.sigma, rate, weight, bias)
    gains, losses = learning.gains(torch.from_numpy(times)), learning.loss(torch.from_numpy(times))
    for i, time in enumerate(times):
        if i:
            solver = {"method": "DOP853", "rtol": 1e-11, "atol": 1e-13}
            state = scipy.integrate.solve_ivp(velocity, (times[i - 1], time), state, **solver).y[:, -1]
        w, b = unpack(state)
        denoise = learning.denoiser(float(time))
        expected = b + (case.x - model.mean).reshape(len(case.x), -1) @ w.T
        close = {"rtol": 1e-7, "atol": 1e-7 * float(expected.abs().max())}
        torch.testing.assert_close(denoise(case.x, case.sigma), expected.reshape(case.x.shape), **close)
        torch.testing.assert_close(gains[i], torch.einsum("dk,de,ek->k", model.basis, w, model.basis), **close)
        torch.testing.assert_close(losses[i], loss(w, b), rtol=1e-7, atol=1e-9 * losses[0].item())


@given(gaussians(singular=True), st.floats(0.01, 10))
def test_learning_ends_in_the_gaussian_denoiser_and_every_mode_at_its_rate(case, rate):
    model, slowest = case.model, 2 * rate * min(1.0, case.sigma**2)
    learning = theory.LinearDynamics(model, case.sigma, rate, weight=0.5)
    end = 60 / slowest
    denoised = learning.denoiser(end)(case.x, case.sigma)
    torch.testing.assert_close(denoised, model(case.x, case.sigma), rtol=1e-9, atol=1e-12 * float(case.x.abs().max()))
    own = theory.denoising_loss(model, case.sigma).item()
    assert learning.loss(torch.tensor([end], dtype=DOUBLE)).item() == pytest.approx(own, rel=1e-9, abs=1e-14)
    torch.testing.assert_close(learning.rates, 2 * rate * (model.variances + case.sigma**2))
    final = model.variances / (model.variances + case.sigma**2)
    times = torch.tensor([0.0, 0.3], dtype=DOUBLE) / slowest
    start, later = learning.gains(times) - final
    torch.testing.assert_close(later, start * torch.exp(-learning.rates * times[1]), rtol=1e-6, atol=1e-13)
    assert (learning.loss(torch.linspace(0, end, 50, dtype=DOUBLE)).diff() <= 1e-9 * scale_of(case)).all()


@given(gaussians(singular=True))
def test_the_minimum_is_at_rest(case):
    eye = np.eye(case.model.dim)
    gain = torch.from_numpy(case.covariance @ np.linalg.inv(case.covariance + case.sigma**2 * eye))
    learning = theory.LinearDynamics(case.model, case.sigma, weight=gain, bias=case.model.mean)
    losses = learning.loss(torch.tensor([0.0, 0.01, 5.0]))
    own = theory.denoising_loss(case.model, case.sigma).item()
    torch.testing.assert_close(losses, torch.full_like(losses, own), rtol=1e-9, atol=1e-14)
    moved = learning.denoiser(0.3)(case.x, case.sigma)
    torch.testing.assert_close(moved, case.model(case.x, case.sigma), rtol=1e-8, atol=1e-9 * float(case.x.abs().max()))


@given(gaussians(singular=True), st.floats(-2, 2), st.floats(0, 3))
def test_a_number_times_the_identity_is_a_weight_like_any(case, number, time):
    times = torch.tensor([0.0, time], dtype=DOUBLE) / (scale_of(case) + case.sigma**2)
    matrix = number * torch.eye(case.model.dim, dtype=DOUBLE)
    for model in (case.model, dense(case)):
        one, other = (theory.LinearDynamics(model, case.sigma, weight=weight) for weight in (number, matrix))
        torch.testing.assert_close(one.loss(times), other.loss(times), rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(one.gains(times), other.gains(times), rtol=1e-9, atol=1e-12)


def test_at_sigma_0_directions_without_variance_are_never_learned():
    data = gt.Gaussian(torch.ones(2), torch.tensor([4.0]), torch.tensor([[1.0], [0.0]]))
    learning = theory.LinearDynamics(data, 0.0, weight=0.5, bias=torch.ones(2))
    assert learning.loss(torch.tensor([0.0, 9.0])).tolist() == pytest.approx([1.0, 0.0])
    moved = learning.denoiser(9.0)(torch.tensor([[3.0, 3.0]]), 0.0)
    torch.testing.assert_close(moved, torch.tensor([[3.0, 2.0]]))
    assert theory.denoising_loss(data, 0.0).item() == 0


def test_a_linear_denoiser_answers_at_its_own_noise_level_alone():
    data = gt.Gaussian.fit(torch.randn(50, 1, 2, 3, generator=torch.Generator().manual_seed(0)), rank=3)
    denoise = theory.LinearDynamics(data, 0.1).denoiser(0.5)
    x = torch.zeros(4, 1, 2, 3)
    assert denoise(x, torch.full((4,), 0.1)).shape == x.shape
    assert denoise(x, 0.1).dtype == torch.float32
    for sigma in (0.2, torch.tensor([0.1, 0.1, 0.1, 0.2])):
        with pytest.raises(ValueError, match=r"this linear denoiser has learned at 0\.1 alone"):
            denoise(x, sigma)


# ---- bad input

MODEL = gt.Gaussian.isotropic(torch.zeros(1, 2), 1.0)
OTHER = gt.Gaussian.isotropic(torch.zeros(3), 1.0)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda: theory.wasserstein2(MODEL, OTHER), ValueError, r"p and q have .* \(1, 2\) and \(3,\), expected one"),
        (lambda: theory.kl_divergence(OTHER, MODEL), ValueError, r"p and q have .* \(3,\) and \(1, 2\)"),
        (lambda: theory.frechet_distance(MODEL, torch.zeros(2)), TypeError, "q is Tensor, expected a Gaussian"),
        (lambda: theory.kl_divergence(3, MODEL), TypeError, "p is int, expected a Gaussian"),
        (lambda: theory.denoising_loss(torch.tanh, 1.0), TypeError, "gaussian is .*, expected a Gaussian"),
        (lambda: theory.denoising_loss(MODEL, -1.0), ValueError, "sigma lies between -1 and -1, expected finite"),
        (lambda: theory.rank_residuals(MODEL, torch.ones(2), 0.1), ValueError, r"sigma has shape \(2,\), expected one"),
        (lambda: theory.LinearDynamics(torch.zeros(2), 1.0), TypeError, "data is Tensor, expected a Gaussian"),
        (lambda: theory.LinearDynamics(MODEL, math.nan), ValueError, "sigma is nan"),
        (lambda: theory.LinearDynamics(MODEL, 1.0, rate=0.0), ValueError, "rate is 0.0, expected a finite number > 0"),
        (lambda: theory.LinearDynamics(MODEL, 1.0, weight=math.inf), ValueError, "weight is inf"),
        (lambda: theory.LinearDynamics(MODEL, 1.0, weight=torch.eye(3)), ValueError, r"weight .*, expected \(2, 2\)"),
        (lambda: theory.LinearDynamics(MODEL, 1.0, weight=torch.eye(2).int()), TypeError, "weight has dtype"),
        (lambda: theory.LinearDynamics(MODEL, 1.0, bias=torch.zeros(2)), ValueError, r"bias has .*, expected \(1, 2\)"),
        (lambda: theory.LinearDynamics(MODEL, 1.0).loss(torch.tensor(1.0)), ValueError, r"times have shape \(\)"),
        (lambda: theory.LinearDynamics(MODEL, 1.0).gains(torch.tensor([-1.0])), ValueError, "finite times >= 0"),
        (lambda: theory.LinearDynamics(MODEL, 1.0).denoiser(math.nan), ValueError, "finite times >= 0"),
    ],
)
def test_what_cannot_be_is_refused(ask, error, message):
    with pytest.raises(error, match=message):
        ask()


def affine(model, sigma):
    """A and c of the score ``A x + c``, asked point by point."""
    probe = torch.cat([torch.zeros(1, model.dim, dtype=DOUBLE), torch.eye(model.dim, dtype=DOUBLE)])
    answers = model.score(probe.reshape(-1, *model.event_shape), sigma).flatten(1).numpy()
    return (answers[1:] - answers[0]).T, answers[0]


@given(gaussians(smallest_sigma=0.1, largest_sigma=10.0))
def test_of_a_gaussian_score_each_rank_leaves_what_its_matrix_says(case):
    """E|Ax + c|² over the noised data is a trace, for the score and for what the cut-off one misses of it."""
    model, sigma = case.model, float(torch.as_tensor(case.sigma).flatten()[0])
    mean = model.mean.flatten().numpy()
    spread = model.covariance.numpy() + sigma**2 * np.eye(model.dim)

    def square(matrix, offset):
        return np.trace(matrix @ spread @ matrix.T) + ((matrix @ mean + offset) ** 2).sum()

    whole = affine(model, sigma)
    found = theory.rank_residuals(model, sigma, 0.0)
    assert len(found) == model.rank + 1
    for rank, residual in enumerate(found.tolist()):
        cut = affine(model.truncate(rank), sigma)
        expected = square(whole[0] - cut[0], whole[1] - cut[1]) / square(*whole)
        assert residual == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0])
def test_of_the_exact_score_of_a_mixture_each_rank_leaves_what_the_squares_say(sigma):
    """The posterior mean of data that are no Gaussian, against Monte Carlo over them."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        gt.Gaussian.from_covariance(torch.randn(3, generator=generator, dtype=DOUBLE) * 2, torch.diag(spread))
        for spread in torch.tensor([[2.0, 0.5, 0.1], [0.1, 1.0, 0.3]], dtype=DOUBLE)
    ]
    mixture = gt.Mixture([0.3, 0.7], parts)
    gaussian = mixture.to_gaussian()
    x = mixture.sample(50_000, sigma, generator=generator)
    full = gt.unexplained(mixture, gaussian, x, sigma, pooled=True, batch_size=50_000)
    assert full.score > 0.002
    for rank, predicted in enumerate(theory.rank_residuals(gaussian, sigma, full.score).tolist()):
        cut = gt.unexplained(mixture, gaussian.truncate(rank), x, sigma, pooled=True, batch_size=50_000)
        assert cut.score == pytest.approx(predicted, abs=4 * (cut.score_error + full.score_error))


def test_a_fraction_that_is_none_is_refused():
    model = gt.Gaussian.isotropic(torch.zeros(2), 1.0)
    with pytest.raises(ValueError, match="full is 1"):
        theory.rank_residuals(model, 1.0, 1.0)
    with pytest.raises(ValueError, match="sigma is 0"):
        theory.rank_residuals(model, 0.0, 0.5)
