"""DPM-Solver-v3: exact where its formula is, of its order, other samplers at their coefficients, and the estimates."""

import math
from functools import partial

import numpy as np
import pytest
import scipy.integrate
import scipy.interpolate
import torch
from cases import gaussians
from hypothesis import given, settings
from hypothesis import strategies as st

import gausstools as gt
from gausstools.models import files
from gausstools.samplers import Evaluation, ModelStatistics, dpm_v3

DOUBLE = torch.float64
WIDE = torch.logspace(3, -3, 60, dtype=DOUBLE)


def last(states):
    *_, final = states
    return final.x


def constant(event_shape, linear, scale, bias, levels=WIDE[[0, -1]]):
    """Coefficients that are the same at each level and entry."""
    return ModelStatistics(
        levels, *(torch.full((len(levels), *event_shape), value, dtype=DOUBLE) for value in (linear, scale, bias))
    )


def wavy(dim, seed):
    """Smooth coefficients of no meaning, other ones for each entry."""
    rng = np.random.default_rng(seed)
    angle = torch.log(WIDE)[:, None] + torch.from_numpy(rng.uniform(0, 6, (3, 1, dim)))
    return ModelStatistics(WIDE, 0.5 + 0.4 * angle[0].sin(), 0.4 * angle[1].cos(), 0.5 * angle[2].sin())


@st.composite
def grids(draw):
    """Decreasing levels with steps of any factor from 1.1 to 4, ending in 0 or above it."""
    factors = draw(st.lists(st.floats(1.1, 4), min_size=2, max_size=8))
    return torch.tensor([*(50 / np.cumprod([1, *factors])), *[0.0] * draw(st.integers(0, 1))], dtype=DOUBLE)


def history_of(denoiser, x, levels):
    return [Evaluation(x, level, denoiser(x, level)) for level in levels]


# ---- the steps


@pytest.mark.parametrize("order", [1, 2, 3])
@given(data=st.data())
@settings(max_examples=5)
def test_what_the_polynomial_can_be_is_solved_exactly(order, data):
    """l, s, b linear in λ, and g a polynomial: against scipy's solution of ``dx/dλ = D − x``."""
    draw = partial(data.draw, st.floats(-0.5, 0.5))
    (l0, l1), (s0, s1), (b0, b1) = ((0.5 + draw(), draw() / 10), (draw(), draw() / 10), (draw(), draw()))
    g = np.polynomial.Polynomial([draw() for _ in range(order)])

    def grown(lam):  # from the base λ = 0; any other makes g another polynomial of its degree
        return s0 * lam + s1 * lam**2 / 2

    tight = {"rtol": 1e-12, "atol": 1e-12, "method": "DOP853", "dense_output": True}
    shift = scipy.integrate.solve_ivp(lambda u, _: [math.exp(-grown(u)) * (b0 + b1 * u)], (-2, 3), [0.0], **tight).sol

    def f(lam):
        return math.exp(grown(lam)) * (g(lam) + shift(lam)[0])

    def denoiser(x, sigma):
        lam = -math.log(sigma)
        return (1 - l0 - l1 * lam) * x - f(lam)

    levels = torch.logspace(0.8, -1.2, 3, dtype=DOUBLE)
    lam = -levels.log()[:, None]
    statistics = ModelStatistics(levels, l0 + l1 * lam, s0 + s1 * lam, b0 + b1 * lam)
    x = torch.ones(1, 1, dtype=DOUBLE)
    sigmas = torch.tensor([3.0, 1.0, 0.7, 0.1], dtype=DOUBLE)
    history = history_of(denoiser, x, (6.0, 5.0))
    path = scipy.integrate.solve_ivp(
        lambda lam, y: -(l0 + l1 * lam) * y - f(lam), (-math.log(3), 2.4), [1.0], **tight
    ).sol
    for corrector in (False, True):
        for state in dpm_v3(
            denoiser, x, sigmas, statistics=statistics, order=order, corrector=corrector, history=history
        ):
            assert state.x.item() == pytest.approx(path(-math.log(state.sigma))[0], rel=1e-8, abs=1e-8)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"order": p, "corrector": c}, p + c) for p in (1, 2, 3) for c in (False, True)]
    + [({"order": 3, "pseudo": True}, 2), ({"order": 3, "pseudo": True, "corrector": True}, 2)],
    ids=str,
)
@given(seed=st.integers(0, 1000))
@settings(max_examples=1)
def test_order_of_convergence_whatever_the_coefficients(options, expected, seed):
    """Good coefficients make the error small; its order they cannot change."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(6, 6))
    model = gt.Gaussian.from_covariance(*(torch.from_numpy(a) for a in (rng.normal(size=6), root @ root.T / 6)))
    x = model.mean + 10 * torch.from_numpy(rng.normal(size=(3, 6)))
    errors = []
    for n in (40, 80):
        sigmas = gt.log_uniform_sigmas(n + 1, 0.1, 10.0)[:-1]
        above = 10 * (sigmas[0] / sigmas[1]) ** torch.arange(3, -1, -1)
        history = gt.samplers.gaussian_history(model, x, above)
        ours = last(dpm_v3(model, x, sigmas, statistics=wavy(6, seed), history=history, **options))
        errors.append((ours - model.flow(x, 10.0, 0.1)).abs())
    assert (errors[0] / errors[1]).log2().median().item() == pytest.approx(expected, abs=0.4)


@pytest.mark.parametrize("order", [1, 2, 3])
@given(case=gaussians(), grid=grids())
@settings(max_examples=10)
def test_at_1_0_0_it_is_data_prediction(order, case, grid):
    """The exponential Adams–Bashforth methods, and with the corrector UniPC where it matches all moments."""
    denoiser = lambda x, sigma: torch.tanh(x) / (1 + sigma)  # noqa: E731
    ours = partial(dpm_v3, statistics=constant(case.model.event_shape, 1.0, 0.0, 0.0))
    expected = gt.samplers.dpmpp(denoiser, case.x, grid, order=order, weights="exact")
    for mine, theirs in zip(ours(denoiser, case.x, grid, order=order), expected, strict=True):
        torch.testing.assert_close(mine.x, theirs.x, rtol=1e-9, atol=1e-9 * case.x.abs().max().item())
    history = history_of(denoiser, case.x, (90.0, 60.0))
    mine = last(ours(denoiser, case.x, grid, order=3, corrector=True, history=history))
    theirs = last(gt.samplers.unipc(denoiser, case.x, grid, order=3, history=history))
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9 * case.x.abs().max().item())


@given(case=gaussians(), grid=grids())
@settings(max_examples=10)
def test_at_0_minus_1_0_order_1_is_noise_prediction(case, grid):
    """And that is Euler's method too, but for the step to 0, where it lands on D as well."""
    denoiser = lambda x, sigma: torch.tanh(x) / (1 + sigma)  # noqa: E731
    ours = dpm_v3(denoiser, case.x, grid, statistics=constant(case.model.event_shape, 0.0, -1.0, 0.0), order=1)
    for mine, theirs in zip(ours, gt.samplers.euler(denoiser, case.x, grid), strict=True):
        torch.testing.assert_close(mine.x, theirs.x, rtol=1e-9, atol=1e-9 * case.x.abs().max().item())


@given(grid=grids())
@settings(max_examples=10)
def test_pseudo_order_is_the_taylor_step_with_estimated_derivatives(grid):
    """At (1, 0, 0), order 3: slopes from two answers, the second derivative from three, moments from scipy."""
    denoiser = lambda x, sigma: torch.tanh(x) / (1 + sigma)  # noqa: E731
    a, b = grid[:2].tolist()
    x = torch.linspace(-1, 1, 4, dtype=DOUBLE)[None]
    history = history_of(denoiser, x, (3 * a, 1.5 * a))
    oldest, older, now = (e.denoised for e in [*history, Evaluation(x, a, denoiser(x, a))])
    recent, earlier = (now - older) / math.log(1.5), (older - oldest) / math.log(2)
    bend = (recent - earlier) / math.log(3)
    h = math.log(a / b)
    moments = [scipy.integrate.quad(lambda u, k=k: math.exp(u - h) * u**k, 0, h)[0] for k in range(3)]
    expected = b / a * x + moments[0] * now + moments[1] * recent + moments[2] * bend
    statistics = constant((4,), 1.0, 0.0, 0.0)
    first = next(dpm_v3(denoiser, x, grid, statistics=statistics, order=3, pseudo=True, history=history))
    torch.testing.assert_close(first.x, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_tiny_steps_lose_no_digits(order):
    grid = torch.exp(-1e-6 * torch.arange(20, dtype=DOUBLE))
    x = torch.linspace(-1, 1, 6).reshape(3, 2)
    state = last(dpm_v3(lambda x, sigma: torch.full_like(x, 2.0), x, grid, statistics=wavy(2, 0), order=order))
    torch.testing.assert_close(state, 2 + float(grid[-1]) * (x - 2), rtol=0, atol=1e-5)


@given(case=gaussians(), grid=grids(), order=st.integers(1, 3), pseudo=st.booleans(), data=st.data())
@settings(max_examples=20)
def test_a_late_start_is_the_rest_of_the_whole_run(case, grid, order, pseudo, data):
    """The coefficients belong to the noise levels: after a cut, with the history, each step is what it was."""
    cut = data.draw(st.integers(1, len(grid) - 2))
    statistics = wavy(case.model.dim, 0)
    shaped = (v.reshape(-1, *case.model.event_shape) for v in (statistics.linear, statistics.scale, statistics.bias))
    run = partial(dpm_v3, case.model, statistics=ModelStatistics(WIDE, *shaped), order=order, pseudo=pseudo)
    whole = list(run(case.x, grid))
    states = [case.x, *(state.x for state in whole)]
    history = [Evaluation(states[k], grid[k].item(), whole[k].denoised) for k in range(cut)]
    rest = list(run(states[cut], grid[cut:], history=history if order > 1 else ()))
    for state, expected in zip(rest, whole[cut:], strict=True):
        torch.testing.assert_close(state.x, expected.x, rtol=1e-11, atol=1e-11 * case.x.abs().max().item())


# ---- the statistics


ROOT = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.7, -0.6], [0.2, 0.0, 0.3]], dtype=DOUBLE)
COVARIANCE = ROOT @ ROOT.T


def correlated():
    """A Gaussian in three dimensions whose axes are not the entries."""
    return gt.Gaussian.from_covariance(torch.tensor([0.5, -1.0, 0.2], dtype=DOUBLE), COVARIANCE)


def drawn(model, n):
    return model.sample(n, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def independent():
    """A Gaussian whose axes are the entries, and its statistics from two images."""
    variances = torch.tensor([0.01, 0.3, 1.0, 40.0], dtype=DOUBLE)
    model = gt.Gaussian(torch.linspace(-2, 1, 4, dtype=DOUBLE), variances, torch.eye(4, dtype=DOUBLE))
    return model, ModelStatistics.fit(model, drawn(model, 2), torch.logspace(2, -3, 100, dtype=DOUBLE))


def test_of_independent_entries_two_images_tell_all(independent):
    """``l = σ²/(σ²+v)``, and f = −lμ whatever the path, so that any s will do, and b follows."""
    model, statistics = independent
    noise = statistics.sigmas[:, None] ** 2
    share = noise / (noise + model.variances)
    torch.testing.assert_close(statistics.linear, share, rtol=1e-9, atol=1e-9)
    rising = 2 * share * (1 - share) * model.mean  # −(lμ)′, of which s·f = −s·l·μ is a part
    inner = slice(5, -5)  # a natural spline bends at its ends
    expected = rising + statistics.scale * share * model.mean
    torch.testing.assert_close(statistics.bias[inner], expected[inner], rtol=1e-3, atol=1e-3)


@given(start=st.floats(0.5, 80), share=st.floats(0.001, 0.99), order=st.integers(1, 3))
@settings(max_examples=15)
def test_independent_entries_are_solved_in_one_step_of_any_length(independent, start, share, order):
    """But for the spline between the levels."""
    model, statistics = independent
    end = max(share * start, 0.001)
    x = model.mean + start * torch.tensor([[1.0], [-2.0]], dtype=DOUBLE)
    (state,) = dpm_v3(model, x, torch.tensor([start, end], dtype=DOUBLE), statistics=statistics, order=order)
    torch.testing.assert_close(state.x, model.flow(x, start, end), rtol=1e-4, atol=1e-4)


def test_the_estimates_are_those_of_the_population():
    """For a Gaussian f and f′ are linear in x ~ N(μ, Σ+σ²): covariances in numpy, the slope of l from scipy."""
    model, n = correlated(), 2500
    levels = torch.logspace(1, -1, 8, dtype=DOUBLE)
    statistics = ModelStatistics.fit(model, drawn(model, n), levels, batch_size=2500)
    covariance, mean, lam = COVARIANCE.numpy(), model.mean.numpy(), -levels.log().numpy()
    gains = np.stack([covariance @ np.linalg.inv(covariance + s**2 * np.eye(3)) for s in levels.tolist()])
    linear = 1 - np.diagonal(gains, axis1=1, axis2=2)
    spread = np.sqrt(((gains - np.einsum("kii->ki", gains)[:, :, None] * np.eye(3)) ** 2).sum(2) / n)
    assert (np.abs(statistics.linear.numpy() - linear) < 5 * spread + 1e-12).all()
    spline = scipy.interpolate.CubicSpline(lam, statistics.linear.numpy(), bc_type="natural")
    for k, sigma in enumerate(levels.tolist()):
        own, gain = statistics.linear[k].numpy(), gains[k]
        noised = covariance + sigma**2 * np.eye(3)
        f = np.diag(1 - own) - gain  # of x − μ; dx/dλ = −(1 − gain)(x − μ)
        slope = 2 * sigma**2 * gain @ np.linalg.inv(noised)
        rate = -np.diag(spline(lam[k], 1)) - slope - f @ (np.eye(3) - gain)
        scale = np.einsum("ij,jk,ik->i", f, noised, rate) / np.einsum("ij,jk,ik->i", f, noised, f)
        bias = -spline(lam[k], 1) * mean + scale * own * mean
        np.testing.assert_allclose(statistics.scale[k].numpy(), scale, atol=0.12)
        np.testing.assert_allclose(statistics.bias[k].numpy(), bias, atol=0.12)


def test_fitted_coefficients_leave_a_smaller_error_than_data_or_noise_prediction():
    """First order, on a mixture: what the coefficients are chosen for."""
    generator = torch.Generator().manual_seed(1)
    parts = [gt.Gaussian.from_covariance(m, 0.2 * COVARIANCE) for m in torch.randn(2, 3, generator=generator).double()]
    model = gt.Mixture(torch.tensor([0.4, 0.6], dtype=DOUBLE), parts)
    x, levels = model.sample(20, 10.0, generator=generator), torch.logspace(1.1, -1.1, 25, dtype=DOUBLE)
    sigmas = torch.logspace(1, -1, 11, dtype=DOUBLE)
    exact = last(gt.samplers.heun(model, x, torch.logspace(1, -1, 200, dtype=DOUBLE)))
    fitted = ModelStatistics.fit(model, model.sample(100, generator=generator), levels)
    others = [constant((3,), 1.0, 0.0, 0.0), constant((3,), 0.0, -1.0, 0.0)]
    ours, *theirs = (
        (last(dpm_v3(model, x, sigmas, statistics=statistics, order=1)) - exact).norm()
        for statistics in (fitted, *others)
    )
    assert ours < 0.5 * min(theirs)


def test_an_estimate_does_not_depend_on_the_batches():
    model = correlated()
    data, levels = drawn(model, 20), torch.logspace(1, -1, 4, dtype=DOUBLE)
    whole, parts = (ModelStatistics.fit(model, data, levels, seed=3, batch_size=size) for size in (20, 7))
    for name in ("linear", "scale", "bias"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name), rtol=1e-9, atol=1e-9)
    other = ModelStatistics.fit(model, data, levels, seed=4)
    assert not torch.equal(whole.linear, other.linear)


def test_a_file_gives_back_what_was_written(tmp_path):
    statistics = wavy(5, 0)
    statistics.save(tmp_path / "statistics.safetensors")
    loaded = ModelStatistics.load(tmp_path / "statistics.safetensors")
    for name in ("sigmas", "linear", "scale", "bias"):
        assert torch.equal(getattr(loaded, name), getattr(statistics, name))
    assert loaded.event_shape == (5,)
    correlated().save(tmp_path / "gaussian.safetensors")
    with pytest.raises(ValueError, match="holds a gausstools Gaussian, expected a gausstools ModelStatistics"):
        ModelStatistics.load(tmp_path / "gaussian.safetensors")
    files.write(tmp_path / "half.safetensors", "ModelStatistics", {"sigmas": statistics.sigmas})
    with pytest.raises(ValueError, match=r"half.safetensors holds no complete ModelStatistics"):
        ModelStatistics.load(tmp_path / "half.safetensors")


# ---- the protocol


def test_one_call_a_step_and_what_is_yielded():
    asked = []

    def denoiser(x, sigma):
        asked.append(sigma)
        return torch.tanh(x)

    x, sigmas = torch.ones(3, 2), gt.karras_sigmas(7)
    states = list(dpm_v3(denoiser, x, sigmas, statistics=wavy(2, 0), corrector=True))
    assert asked == sigmas[:-1].tolist()
    assert [state.sigma for state in states] == sigmas[1:].tolist()
    assert all(state.x.dtype == torch.float32 for state in states)
    assert torch.equal(states[-1].x, states[-1].denoised)
    assert torch.equal(x, torch.ones(3, 2))


@pytest.mark.usefixtures("as_installed")
def test_what_cannot_be_is_refused():
    x, statistics = torch.zeros(2, 3), constant((3,), 1.0, 0.0, 0.0, torch.tensor([10.0, 0.1]))
    sigmas = torch.tensor([2.0, 1.0])
    far = torch.tensor([20.0, 1.0])
    refused = [
        ({"order": 4}, ValueError, "order is 4, expected an integer from 1 to 3"),
        ({"statistics": None}, TypeError, "statistics is NoneType, expected ModelStatistics"),
        ({"sigmas": sigmas.flip(0)}, ValueError, "strictly decreasing"),
        ({"sigmas": far}, ValueError, "level 20, expected 10 to 0.1, the levels of the statistics; fit them"),
        ({"sigmas": torch.tensor([2.0, 0.05, 0.0])}, ValueError, "level 0.05, expected"),
        ({"history": [Evaluation(x, 30.0, x)]}, ValueError, "level 30, expected"),
        ({"history": [Evaluation(x, 1.5, x)]}, ValueError, "expected them to decrease, oldest first, to above 2"),
        ({"x": torch.zeros(2, 4)}, ValueError, r"x has shape \(2, 4\), expected \(batch, 3\)"),
    ]
    for changed, error, message in refused:
        arguments = {"denoiser": torch.tanh, "x": x, "sigmas": sigmas, "statistics": statistics} | changed
        with pytest.raises(error, match=message):
            next(dpm_v3(**arguments))
    one = torch.ones(2, 3)
    for levels, tables, message in [
        (torch.tensor([1.0, 2.0]), (one, one, one), "sigmas runs 1, 2"),
        (torch.tensor([1.0, 0.0]), (one, one, one), r"ends in 0, expected levels above 0; .* which \[:-1\] drops"),
        (torch.tensor([1.0]), (one[:1],) * 3, r"sigmas has shape \(1,\), expected .* with at least 2 levels"),
        (sigmas, (one, one[:, :2], one), r"scale has shape \(2, 2\)"),
        (sigmas, (one[:1], one, one), "linear has 1 rows, expected one for each of sigmas"),
        (sigmas, (one, one, one * torch.nan), "bias holds 6 values that are NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            ModelStatistics(levels, *tables)
    with pytest.raises(ValueError, match="data has 1 rows, expected at least 2"):
        ModelStatistics.fit(torch.tanh, torch.zeros(1, 3), sigmas)
