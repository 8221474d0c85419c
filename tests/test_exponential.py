"""The Gaussian exponential integrator: exact on Gaussians, of its order on mixtures, classical at λ = 0."""

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import torch
from cases import gaussians
from hypothesis import given, settings
from hypothesis import strategies as st

import gausstools as gt
from gausstools.samplers import Evaluation, gaussian_exponential

DOUBLE = torch.float64


def last(states):
    *_, final = states
    return final.x


def grid(*levels):
    return torch.tensor(levels, dtype=DOUBLE)


def residual_model(case, coefficients, seed=0):
    """A denoiser that the Gaussian leaves ``√(σ²/(σ²+λ_k))·Σ_m c_m (ln σ)^m`` of, in random amounts, whatever x is.

    Returns it, with what it leaves in numpy's own eigenbasis, and that basis.
    """
    variances, vectors = np.linalg.eigh(case.covariance)
    amounts = np.random.default_rng(seed).normal(size=(len(coefficients), len(variances)))

    def residual(sigma):
        powers = [c * math.log(sigma) ** m for m, c in enumerate(coefficients)]
        return powers @ amounts * sigma / np.sqrt(sigma**2 + variances)

    def denoiser(x, sigma):
        left = torch.from_numpy(vectors @ residual(sigma)).reshape(case.model.event_shape)
        return case.model(x, sigma) + left

    return denoiser, residual, variances, vectors


@given(
    gaussians(singular=True),
    st.floats(1e-3, 1e3),
    st.floats(0, 1),
    st.integers(1, 3),
    st.booleans(),
)
@settings(max_examples=25)
def test_a_gaussian_is_solved_in_one_step_of_any_length(case, start, share, order, warm):
    sigmas = grid(start, share * 0.99 * start)
    (state,) = gaussian_exponential(case.model, case.x, sigmas, gaussian=case.model, order=order, warm=warm)
    expected = case.model.flow(case.x, start, share * 0.99 * start)
    torch.testing.assert_close(state.x, expected, rtol=1e-7, atol=1e-9 * case.x.abs().max().item())


@given(gaussians(), st.integers(1, 8), st.floats(0.5, 5))
def test_a_gaussian_with_another_mean_is_solved_in_one_step_to_zero(case, seed, size):
    """The step to 0 takes what is left for a shift of the mean, so it is exact for one."""
    shift = size * torch.randn(case.model.event_shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
    other = case.model.with_mean(case.model.mean + shift)
    (state,) = gaussian_exponential(other, case.x, grid(case.sigma, 0), gaussian=case.model)
    expected = other.flow(case.x, case.sigma, 0.0)
    torch.testing.assert_close(state.x, expected, rtol=1e-6, atol=1e-6 * case.x.abs().max().item())


@given(gaussians(), st.integers(1, 12), st.booleans())
@settings(max_examples=12)
def test_without_variance_order_1_is_ddim(case, n, to_zero):
    """λ = 0: a point at the mean, in the full basis or as a tail."""
    denoiser = lambda x, sigma: torch.tanh(x) / (1 + sigma)  # noqa: E731
    sigmas = gt.karras_sigmas(n) if to_zero else torch.logspace(2, -2, n + 1, dtype=DOUBLE)
    mean, identity = case.model.mean, torch.eye(case.model.dim, dtype=DOUBLE)
    for rank in (0, case.model.dim):
        point = gt.Gaussian(mean, torch.zeros(rank, dtype=DOUBLE), identity[:, :rank])
        ours = list(gaussian_exponential(denoiser, case.x, sigmas, gaussian=point, order=1))
        for mine, theirs in zip(ours, gt.samplers.euler(denoiser, case.x, sigmas), strict=True):
            torch.testing.assert_close(mine.x, theirs.x, rtol=1e-11, atol=1e-11 * case.x.abs().max().item())
            assert mine.sigma == theirs.sigma
            torch.testing.assert_close(mine.denoised, theirs.denoised, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
@given(case=gaussians(), data=st.data())
@settings(max_examples=10)
def test_without_variance_it_is_exponential_adams_bashforth(order, case, data):
    """``x(b) = (b/a)·x(a) + ∫ (b/σ)·p(ln σ) dlnσ``: numpy fits p to the last answers, scipy integrates."""
    denoiser = lambda x, sigma: torch.tanh(x) / (1 + sigma)  # noqa: E731
    ratios = data.draw(st.lists(st.floats(1.2, 6), min_size=3, max_size=4))
    sigmas = [20.0, *(20 / np.cumprod(ratios))]
    x, answers = case.x.numpy().reshape(len(case.x), -1), []
    for step, (a, b) in enumerate(itertools.pairwise(sigmas)):
        shaped = torch.from_numpy(x).reshape(case.x.shape)
        answers.append(denoiser(shaped, a).numpy().reshape(x.shape))
        used = min(order, step + 1)
        logs = np.log(sigmas[step + 1 - used : step + 1])
        fit = np.linalg.solve(np.vander(logs, increasing=True), np.stack(answers[-used:]).reshape(used, -1))
        moments = [
            scipy.integrate.quad(lambda u, m=m, b=b: b * np.exp(-u) * u**m, np.log(b), np.log(a), epsabs=1e-13)[0]
            for m in range(used)
        ]
        x = (b / a) * x + (np.array(moments) @ fit).reshape(x.shape)
    point = gt.Gaussian.isotropic(case.model.mean, 0.0)
    ours = last(gaussian_exponential(denoiser, case.x, grid(*sigmas), gaussian=point, order=order, warm=False))
    np.testing.assert_allclose(ours.numpy().reshape(x.shape), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
@given(case=gaussians(smallest_sigma=1), seed=st.integers(0, 99), ratio=st.floats(1.1, 30))
@settings(max_examples=10)
def test_a_residual_that_is_a_polynomial_is_integrated_exactly(order, case, seed, ratio):
    """Against scipy's quadrature of the formula, eigenvalue by eigenvalue, in numpy's own eigenbasis."""
    start, end = case.sigma, case.sigma / ratio
    denoiser, residual, variances, vectors = residual_model(case, [1.0, 0.5, -0.3][:order], seed)
    above = [start * ratio ** (0.4 * k) for k in range(order - 1, 0, -1)]
    history = [Evaluation(case.x, sigma, denoiser(case.x, sigma)) for sigma in above]
    ours = last(
        gaussian_exponential(
            denoiser, case.x, grid(start, end), gaussian=case.model, order=order, warm=False, history=history
        )
    )
    factor = np.sqrt((variances + end**2) / (variances + start**2))

    def integrand(u):
        return residual(math.exp(u)) * np.sqrt((variances + end**2) / (variances + math.exp(2 * u)))

    gained = scipy.integrate.quad_vec(integrand, math.log(end), math.log(start), epsabs=1e-12, epsrel=1e-12)[0]
    expected = case.model.mean.numpy().ravel() + (case.rows @ vectors * factor + gained) @ vectors.T
    np.testing.assert_allclose(ours.numpy().reshape(expected.shape), expected, rtol=1e-8, atol=1e-9)


@given(st.floats(-8, 8), st.floats(-4, 4), st.floats(0.01, 15))
def test_the_weight_of_order_1_is_its_closed_form_to_twelve_digits(log_variance, log_start, length):
    """``∫ √(b²+λ)·σ/(σ²+λ) dlnσ = √(b²+λ)·(atan(a/√λ) − atan(b/√λ))/√λ``, over its value at a."""
    variance, start = math.exp(log_variance), math.exp(log_start)
    end, root = start * math.exp(-length), math.exp(log_variance / 2)
    model = gt.Gaussian.isotropic(torch.zeros(1, dtype=DOUBLE), variance)
    (state,) = gaussian_exponential(
        lambda x, sigma: model(x, sigma) + 1, grid(0)[None], grid(start, end), gaussian=model, order=1
    )
    turned = math.atan((start - end) * root / (variance + start * end))  # the difference of the two
    weight = math.hypot(end, root) * turned / root * math.hypot(start, root) / start
    assert state.x.item() == pytest.approx(weight, rel=1e-12)


def mixture():
    generator = torch.Generator().manual_seed(3)
    components = []
    for _ in range(3):
        factor = torch.randn(4, 4, dtype=DOUBLE, generator=generator)
        mean = 2 * torch.randn(4, dtype=DOUBLE, generator=generator)
        components.append(gt.Gaussian.from_covariance(mean, factor @ factor.T / 4 + 0.05 * torch.eye(4).double()))
    return gt.Mixture([0.2, 0.3, 0.5], components)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("rank", "corrector"), [(0, False), (2, False), (2, True)])
def test_order_of_convergence(order, rank, corrector):
    """On a mixture's own denoiser, halving the steps divides the error by 2^order, with the corrector by twice that.

    Path and history are scipy's.
    """
    model = mixture()
    gaussian = model.to_gaussian().truncate(rank)
    x = 20 * torch.randn(3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))

    def slope(u, flat):
        state = torch.from_numpy(flat.reshape(3, 4))
        return (state - model(state, math.exp(u))).numpy().ravel()

    path = scipy.integrate.solve_ivp(
        slope, (math.log(20), 0), x.numpy().ravel(), "DOP853", rtol=1e-12, atol=1e-12, dense_output=True
    ).sol

    def on_path(sigma):
        return torch.from_numpy(path(math.log(sigma)).reshape(3, 4))

    errors = []
    for n in (40, 80):
        sigmas = torch.logspace(1, 0, n + 1, dtype=DOUBLE)
        above = [10 * (sigmas[0] / sigmas[1]).item() ** k for k in range(order - 1, 0, -1)]
        history = [Evaluation(on_path(sigma), sigma, model(on_path(sigma), sigma)) for sigma in above]
        options = {"gaussian": gaussian, "order": order, "corrector": corrector, "history": history}
        ours = last(gaussian_exponential(model, on_path(10), sigmas, warm=False, **options))
        errors.append((ours - on_path(1)).norm().item())
    slope = math.log2(errors[0] / errors[1])
    assert slope == pytest.approx(order + corrector, abs=0.25)


@given(gaussians(singular=True), st.integers(1, 3), st.integers(1, 6))
@settings(max_examples=12)
def test_the_corrector_leaves_a_gaussian_alone(case, order, n):
    sigmas = gt.karras_sigmas(n)
    ours = last(gaussian_exponential(case.model, case.x, sigmas, gaussian=case.model, order=order, corrector=True))
    expected = case.model.flow(case.x, 80.0, 0.0)
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9 * case.x.abs().max().item())


@given(gaussians(), st.integers(1, 8))
def test_without_variance_the_corrector_of_order_1_is_a_trapezoid_of_the_exponential(case, n):
    """One step, its end asked about, and the step again with the line in ln σ through both answers."""
    denoiser = lambda x, sigma: torch.tanh(x) / (1 + sigma)  # noqa: E731
    a, b, c = 3.0, 3.0 / (1 + 0.3 * n), 0.1
    first = denoiser(case.x, a)
    predicted = first + b / a * (case.x - first)
    second = denoiser(predicted, b)
    h = math.log(a / b)
    whole, slope = 1 - b / a, (1 - (1 - b / a) / h)  # ∫ (b/σ) dlnσ, and with (ln a − ln σ)/h under it
    corrected = b / a * case.x + whole * first + slope * (second - first)
    expected = second + c / b * (corrected - second)
    point = gt.Gaussian.isotropic(case.model.mean, 0.0)
    ours = last(gaussian_exponential(denoiser, case.x, grid(a, b, c), gaussian=point, order=1, corrector=True))
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@given(gaussians(), st.integers(1, 3))
@settings(max_examples=12)
def test_low_rank_and_full_rank_with_one_spectrum_are_one(case, order):
    """Whether a direction stands in the basis or in the tail is bookkeeping."""
    model = case.model
    values, vectors = np.linalg.eigh(case.covariance)
    full = gt.Gaussian(model.mean, *(torch.from_numpy(array) for array in (values, vectors)))
    denoiser = lambda x, sigma: torch.tanh(x) / (1 + sigma)  # noqa: E731
    ours, theirs = (
        last(gaussian_exponential(denoiser, case.x, gt.karras_sigmas(6), gaussian=gaussian, order=order))
        for gaussian in (model, full)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8 * case.x.abs().max().item())


@given(gaussians(), st.integers(2, 3))
@settings(max_examples=12)
def test_a_warm_start_is_the_history_of_the_gaussian(case, order):
    """R = 0 above the start is what the Gaussian's own evaluations there leave."""
    denoiser = lambda x, sigma: torch.tanh(x) / (1 + sigma)  # noqa: E731
    sigmas = torch.logspace(1, -1, 6, dtype=DOUBLE)
    above = torch.logspace(1.8, 1, 3, dtype=DOUBLE)[3 - order :]
    history = gt.samplers.gaussian_history(case.model, case.x, above)
    ours, theirs = (
        last(gaussian_exponential(denoiser, case.x, sigmas, gaussian=case.model, order=order, **start))
        for start in ({"warm": True}, {"warm": False, "history": history})
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8 * case.x.abs().max().item())


def test_after_a_jump_it_goes_on_as_if_it_had_come_all_the_way():
    """Where the network is the Gaussian down to the skip, the jump with a warm start is the whole path."""
    model = mixture()
    gaussian = model.to_gaussian()
    denoiser = lambda x, sigma: gaussian(x, sigma) if sigma > 6 else model(x, sigma)  # noqa: E731
    x = 80 * torch.randn(3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    sigmas = torch.cat([torch.logspace(math.log10(80), -1, 15, dtype=DOUBLE), grid(0)])
    jump = gt.teleport(gaussian, x, sigmas, sigmas[sigmas < 6][0].item())
    whole = list(gaussian_exponential(denoiser, x, sigmas, gaussian=gaussian, order=3))
    rest = list(gaussian_exponential(denoiser, jump.x, jump.times, gaussian=gaussian, order=3))
    assert len(whole) - len(rest) == jump.nfe_saved > 3
    torch.testing.assert_close(rest[-1].x, whole[-1].x, rtol=1e-10, atol=1e-10)


def test_one_call_a_step_and_what_is_yielded():
    asked = []

    def denoiser(x, sigma):
        asked.append(sigma)
        return torch.tanh(x)

    sigmas = gt.karras_sigmas(7)
    model = gt.Gaussian.isotropic(torch.zeros(2, dtype=DOUBLE), 1.0)
    states = list(gaussian_exponential(denoiser, torch.ones(3, 2, dtype=DOUBLE), sigmas, gaussian=model, order=3))
    assert asked == sigmas[:-1].tolist()
    assert [state.sigma for state in states] == sigmas[1:].tolist()


@pytest.mark.usefixtures("as_installed")
def test_what_cannot_be_is_refused():
    x, model = torch.zeros(2, 3), gt.Gaussian.isotropic(torch.zeros(3), 1.0)
    sigmas = torch.tensor([2.0, 1.0])
    refused = [
        ({"order": 4}, ValueError, "order is 4, expected an integer from 1 to 3"),
        ({"gaussian": gt.PointCloud(torch.zeros(2, 3))}, TypeError, "gaussian is PointCloud"),
        ({"sigmas": sigmas.flip(0)}, ValueError, "strictly decreasing"),
        ({"x": torch.zeros(2, 4)}, ValueError, r"x has shape \(2, 4\)"),
        ({"x": x.double()}, TypeError, "x is torch.float64"),
        ({"history": [Evaluation(x, 1.5, x)]}, ValueError, "expected them to decrease, oldest first, to above 2"),
    ]
    for changed, error, message in refused:
        arguments = {"denoiser": model, "x": x, "sigmas": sigmas, "gaussian": model} | changed
        with pytest.raises(error, match=message):
            next(gaussian_exponential(**arguments))
