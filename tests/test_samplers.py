"""Samplers: their order on a Gaussian whose flow is known, agreement with diffusers, restarts and cost."""

import itertools
import pickle
from functools import partial

import diffusers
import numpy as np
import pytest
import scipy.integrate
import torch
from cases import gaussians
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import gausstools as gt
from gausstools.samplers import ddim, dpmpp, euler, heun, ipndm, unipc

DOUBLE = torch.float64

# Each method and its order: on a grid that is uniform in ln σ, and with a history, so that its start is of full order.
ONE_STEP = [(euler, 1), (heun, 2), (ddim, 1)]
MULTISTEP = [
    (partial(dpmpp, order=1), 1),
    (partial(dpmpp, order=2), 2),
    (partial(dpmpp, order=3), 2),  # the published weights halve a moment
    (partial(dpmpp, order=1, weights="exact"), 1),
    (partial(dpmpp, order=2, weights="exact"), 2),
    (partial(dpmpp, order=3, weights="exact"), 3),
    *[(partial(unipc, order=order), order + 1) for order in (1, 2, 3, 4)],  # its corrector gains one
    *[(partial(ipndm, order=order), min(order, 2)) for order in (1, 2, 3, 4)],  # its weights are for equal steps
    *[(partial(ipndm, order=order, variable_step=True), order) for order in (1, 2, 3, 4)],
]


def name(value):
    if isinstance(value, partial):
        return "-".join([value.func.__name__, *(f"{key}={of}" for key, of in value.keywords.items())])
    return getattr(value, "__name__", str(value))


every_sampler = pytest.mark.parametrize("sampler", [sampler for sampler, _ in ONE_STEP + MULTISTEP], ids=name)
every_function = pytest.mark.parametrize("sampler", [euler, heun, ddim, dpmpp, unipc, ipndm], ids=name)
every_multistep = pytest.mark.parametrize("sampler", [sampler for sampler, _ in MULTISTEP], ids=name)


def last(states):
    *_, final = states
    return final


def warm(sampler, model, x, grid):
    """The sampler with the history that the Gaussian gives it, on the grid continued upwards by its own ratio."""
    ratio = grid[0] / grid[1]
    return partial(sampler, history=gt.samplers.gaussian_history(model, x, grid[0] * ratio ** torch.arange(3, -1, -1)))


@st.composite
def grids(draw, most=14):
    """Decreasing levels with steps of any factor from 1.1 to 4, ending in 0 or above it."""
    factors = draw(st.lists(st.floats(1.1, 4), min_size=1, max_size=most - 1))
    levels = 50 / np.cumprod([1, *factors])
    return torch.tensor([*levels, *[0.0] * draw(st.integers(len(levels) == 1, 1))], dtype=DOUBLE)


# ---- what is exact


def observed_order(run, seed, grids, end):
    """Median over modes and rows of log2 of the error's fall from one grid to the next, on a random spectrum."""
    rng = np.random.default_rng(seed)
    variances = torch.from_numpy(10 ** rng.uniform(-2, 1, 8))
    model = gt.Gaussian(torch.from_numpy(rng.normal(size=8)), variances, torch.eye(8, dtype=DOUBLE))
    start = model.mean + 10 * torch.from_numpy(rng.normal(size=(3, 8)))
    exact = model.flow(start, 10.0, end)
    errors = [(last(run(model, start, grid)).x - exact).abs() for grid in grids]
    return (errors[0] / errors[1]).log2().median().item()


@pytest.mark.parametrize(("sampler", "order"), ONE_STEP + MULTISTEP, ids=name)
@given(seed=st.integers(0, 1000))
@settings(max_examples=1)
def test_order_of_convergence(sampler, order, seed):
    """Halving the steps divides the error by 2^order, on the smooth grid that is uniform in ln σ."""

    def run(model, start, grid):
        started = warm(sampler, model, start, grid) if isinstance(sampler, partial) else sampler
        return started(model, start, grid)

    halved = [gt.log_uniform_sigmas(n + 1, 0.1, 10.0)[:-1] for n in (80, 160)]
    assert observed_order(run, seed, halved, 0.1) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@given(seed=st.integers(0, 1000))
@settings(max_examples=1)
def test_ipndm_has_its_full_order_on_equal_steps(order, seed):
    def run(model, start, grid):
        above = grid[0] + (grid[0] - grid[1]) * torch.arange(3, -1, -1)
        history = gt.samplers.gaussian_history(model, start, above)
        constant, variable = (
            list(ipndm(model, start, grid, order=order, variable_step=flag, history=history)) for flag in (False, True)
        )
        torch.testing.assert_close(constant[-1].x, variable[-1].x, rtol=1e-12, atol=1e-12)
        return constant

    halved = [torch.linspace(10, 5, n + 1, dtype=DOUBLE) for n in (40, 80)]
    assert observed_order(run, seed, halved, 5.0) == pytest.approx(order, abs=0.35)


@every_sampler
@given(grid=grids())
@settings(max_examples=10)
def test_a_constant_denoiser_is_solved_exactly(sampler, grid):
    x = torch.linspace(-1, 1, 6, dtype=DOUBLE).reshape(3, 2)
    for state in sampler(lambda x, sigma: torch.full_like(x, 2.0), x, grid):
        torch.testing.assert_close(state.x, 2 + state.sigma / grid[0] * (x - 2), rtol=1e-12, atol=1e-12)


@every_multistep
def test_tiny_steps_lose_no_digits(sampler):
    """Weights of any size would cancel here in exact arithmetic, but not in float32."""
    grid = torch.exp(-1e-6 * torch.arange(20, dtype=DOUBLE))
    x = torch.linspace(-1, 1, 6).reshape(3, 2)
    state = last(sampler(lambda x, sigma: torch.full_like(x, 2.0), x, grid))
    torch.testing.assert_close(state.x, 2 + state.sigma * (x - 2), rtol=0, atol=1e-5)


@every_multistep
def test_the_step_to_zero_is_no_wild_extrapolation(sampler):
    """From 0.002 to 0, after steps a hundred times shorter, noise in the answers stays as small as it was."""
    generator = torch.Generator().manual_seed(0)

    def denoiser(x, sigma):
        return 1 + 1e-4 * torch.randn(x.shape, generator=generator, dtype=DOUBLE)

    x = torch.ones(100, 2, dtype=DOUBLE)
    grid = torch.cat([torch.linspace(0.0022, 0.002, 11, dtype=DOUBLE), torch.zeros(1)])
    assert (last(sampler(denoiser, x, grid)).x - 1).abs().max() < 0.002


@pytest.mark.parametrize(
    ("sampler", "degree"),
    [(partial(dpmpp, order=p, weights="exact"), p - 1) for p in (1, 2, 3)]
    + [(partial(unipc, order=p), p - 1) for p in (1, 3, 4)],
    ids=name,
)
@given(grid=grids(), data=st.data())
@settings(max_examples=10)
def test_a_denoiser_polynomial_in_log_sigma_is_solved_exactly(sampler, degree, grid, data):
    """``x(b) = (b/a)·x(a) + b·∫ D/σ² dσ``, by scipy's quadrature in ln σ."""
    coefficients = data.draw(st.lists(st.floats(-1, 1), min_size=degree + 1, max_size=degree + 1))
    polynomial = np.polynomial.Polynomial(coefficients)

    def denoiser(x, sigma):
        return torch.full_like(x, polynomial(np.log(sigma)))

    grid = grid[grid > 0]
    grid = torch.cat([grid, grid[-1:] / 2])
    x = torch.ones(1, 1, dtype=DOUBLE)
    levels = grid[0] * torch.tensor([3.0, 2.0, 1.4], dtype=DOUBLE)
    history = [gt.samplers.Evaluation(x, level, denoiser(x, level)) for level in levels.tolist()]
    top = grid[0].item()
    for state in sampler(denoiser, x, grid, history=history):
        log_end = np.log(state.sigma)
        integral, _ = scipy.integrate.quad(
            lambda log, log_end=log_end: polynomial(log) * np.exp(log_end - log), log_end, np.log(top), epsabs=1e-12
        )
        assert state.x.item() == pytest.approx(state.sigma / top + integral, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@given(grid=grids(), data=st.data())
@settings(max_examples=10)
def test_a_slope_polynomial_in_sigma_is_solved_exactly_by_variable_steps(order, grid, data):
    slope = np.polynomial.Polynomial(data.draw(st.lists(st.floats(-1, 1), min_size=order, max_size=order)))

    def denoiser(x, sigma):
        return x - sigma * slope(sigma)

    grid = torch.cat([grid[grid > 0], grid[grid > 0][-1:] / 2])
    x = torch.ones(1, 1, dtype=DOUBLE)
    history = [gt.samplers.Evaluation(x, level, denoiser(x, level)) for level in (90.0, 70.0, 60.0)]
    path = slope.integ()
    for state in ipndm(denoiser, x, grid, order=order, variable_step=True, history=history):
        expected = 1 + path(state.sigma) - path(grid[0].item())
        assert state.x.item() == pytest.approx(expected, rel=1e-9, abs=1e-9 * max(1, abs(path(grid[0].item()))))


@given(gaussians(), st.integers(1, 30))
def test_euler_is_the_product_of_its_factors(case, n):
    """On N(0, λ) one Euler step multiplies by λ/(λ+a²) + (b/a)·a²/(λ+a²); for a vector, eigenvalue by eigenvalue."""
    sigmas = gt.karras_sigmas(n)
    variances, vectors = np.linalg.eigh(case.covariance)
    factor = np.ones(len(variances))
    for a, b in itertools.pairwise(sigmas.tolist()):
        factor *= (variances + a * b) / (variances + a**2)
    expected = case.model.mean.numpy().ravel() + ((case.rows @ vectors) * factor) @ vectors.T
    actual = last(euler(case.model, case.x, sigmas)).x
    np.testing.assert_allclose(actual.reshape(expected.shape).numpy(), expected, rtol=1e-9, atol=1e-9)


@given(gaussians(), grids())
@settings(max_examples=12)
def test_methods_of_order_one_are_euler(case, grid):
    expected = last(euler(case.model, case.x, grid)).x
    for sampler in (
        ddim,
        partial(dpmpp, order=1),
        partial(ipndm, order=1),
    ):
        torch.testing.assert_close(last(sampler(case.model, case.x, grid)).x, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_draws_from_the_prior_whatever_eta(eta):
    """The noise that is added is the noise that is missing: fine steps end in N(μ, Σ)."""
    variances = torch.tensor([4.0, 1.0, 0.01], dtype=DOUBLE)
    prior = gt.Gaussian.from_covariance(torch.tensor([1.0, 0.0, -1.0]).double(), torch.diag(variances))
    generator = torch.Generator().manual_seed(0)
    start = prior.mean + 80 * torch.randn(4000, 3, generator=generator, dtype=DOUBLE)
    x = last(ddim(prior, start, gt.log_uniform_sigmas(300), eta=eta, generator=generator)).x
    standard_error = 4000**-0.5
    assert ((x.mean(0) - prior.mean).abs() < 4 * standard_error * variances.sqrt()).all()
    assert ((x.var(0) / variances - 1).abs() < 0.05 + 4 * 2**0.5 * standard_error).all()


# ---- what diffusers does on the same grid


def vp(sigma):
    """(a, b) of the variance-preserving state a·x0 + b·n at a VE level."""
    return (1 + sigma**2) ** -0.5, sigma * (1 + sigma**2) ** -0.5


def texture():
    generator = torch.Generator().manual_seed(0)
    model = gt.Gaussian.fit(torch.randn(50, 1, 4, 4, generator=generator, dtype=DOUBLE))
    return model, torch.randn(3, 1, 4, 4, generator=generator, dtype=DOUBLE)


def solved_by(scheduler, grid, start, model):
    """The states of a multistep scheduler of diffusers, in VE, its float32 levels replaced by ours in float64.

    Its state is a·x with a² + b² = 1, and it is told x0.
    """
    scheduler.set_timesteps(len(grid) - 1)
    scheduler.sigmas = grid
    scheduler.set_begin_index(0)
    x = vp(grid[0])[0] * start
    for t, (sigma, end) in zip(scheduler.timesteps, itertools.pairwise(grid), strict=True):
        x = scheduler.step(model(x / vp(sigma)[0], sigma), t, x).prev_sample
        yield x / vp(end)[0]


def assert_same_path(theirs, ours, rtol=1e-9, atol=1e-9):
    for expected, state in zip(theirs, ours, strict=True):
        torch.testing.assert_close(state.x, expected, rtol=rtol, atol=atol, check_dtype=False)


@pytest.mark.parametrize("order", [1, 2, 3])
@given(grid=grids(), lower_order_final=st.booleans())
@settings(max_examples=10)
def test_dpmpp_is_that_of_diffusers(order, grid, lower_order_final):
    model, noise = texture()
    scheduler = diffusers.DPMSolverMultistepScheduler(
        solver_order=order,
        prediction_type="sample",
        lower_order_final=lower_order_final,
        final_sigmas_type="zero" if grid[-1] == 0 else "sigma_min",
    )
    start = grid[0] * noise
    ours = dpmpp(model, start, grid, order=order, lower_order_final=lower_order_final)
    # It rounds its state to float32.
    assert_same_path(solved_by(scheduler, grid, start, model), ours, rtol=1e-5, atol=1e-4)


@given(grid=grids(), lower_order_final=st.booleans())
@settings(max_examples=10)
def test_dpmpp_with_exact_weights_is_what_diffusers_calls_heun(grid, lower_order_final):
    model, noise = texture()
    scheduler = diffusers.DPMSolverMultistepScheduler(
        solver_order=2,
        solver_type="heun",
        prediction_type="sample",
        lower_order_final=lower_order_final,
        final_sigmas_type="zero" if grid[-1] == 0 else "sigma_min",
    )
    start = grid[0] * noise
    ours = dpmpp(model, start, grid, order=2, weights="exact", lower_order_final=lower_order_final)
    assert_same_path(solved_by(scheduler, grid, start, model), ours, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@given(grid=grids(), lower_order_final=st.booleans())
@settings(max_examples=10)
def test_unipc_is_that_of_diffusers(order, grid, lower_order_final):
    if grid[-1] == 0 and not lower_order_final:  # its last step would hold ∞·0
        grid = torch.cat([grid[:-1], grid[-2:-1] / 2])
    model, noise = texture()
    scheduler = diffusers.UniPCMultistepScheduler(
        solver_order=order,
        prediction_type="sample",
        lower_order_final=lower_order_final,
    )
    start = grid[0] * noise
    ours = unipc(model, start, grid, order=order, lower_order_final=lower_order_final)
    assert_same_path(solved_by(scheduler, grid, start, model), ours)


@given(grid=grids())
@settings(max_examples=10)
def test_ipndm_is_that_of_diffusers(grid):
    """Its network predicts ``v = a·n − b·x0``."""
    model, noise = texture()
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(len(grid) - 1)
    scheduler.alphas, scheduler.betas = vp(grid)
    scheduler.set_begin_index(0)

    def theirs():
        x = vp(grid[0])[0] * start
        for t, (sigma, end) in zip(scheduler.timesteps, itertools.pairwise(grid), strict=True):
            a, b = vp(sigma)
            denoised = model(x / a, sigma)
            x = scheduler.step(a * (x - a * denoised) / b - b * denoised, t, x).prev_sample
            yield x / vp(end)[0]

    start = grid[0] * noise
    assert_same_path(theirs(), ipndm(model, start, grid))


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_ddim_is_that_of_diffusers(eta, steps):
    """In VP, at its timesteps, with the same draws."""
    model, noise = texture()
    scheduler = diffusers.DDIMScheduler(clip_sample=False, prediction_type="sample")
    scheduler.set_timesteps(steps)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    process = gt.DDPM(scheduler.alphas_cumprod)
    grid = torch.cat([process.sigma(scheduler.timesteps.double()), torch.zeros(1, dtype=DOUBLE)])
    start = grid[0] * noise
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]

    def theirs():
        x = vp(grid[0])[0] * start
        for t, (sigma, end) in zip(scheduler.timesteps, itertools.pairwise(grid), strict=True):
            denoised = model(x / vp(sigma)[0], sigma)
            x = scheduler.step(denoised, int(t), x, eta=eta, generator=generators[0]).prev_sample
            yield x / vp(end)[0]

    assert_same_path(theirs(), ddim(model, start, grid, eta=eta, generator=generators[1]))


@pytest.mark.parametrize("sampler", [euler, heun], ids=name)
def test_euler_and_heun_are_those_of_diffusers(sampler):
    """On its own Karras grid, in its float32, the Gaussian given as an ε-network."""
    scheduler = {euler: diffusers.EulerDiscreteScheduler, heun: diffusers.HeunDiscreteScheduler}[sampler]
    scheduler = scheduler(use_karras_sigmas=True, timestep_spacing="linspace")
    scheduler.set_timesteps(12)
    sigmas = scheduler.sigmas.double()
    sigmas = torch.cat([sigmas[:-1].unique().flip(0), sigmas[-1:]])
    model, noise = texture()
    x = start = sigmas[0] * noise
    for t in scheduler.timesteps:
        scheduler.scale_model_input(x, t)  # the schedulers insist; our model takes the unscaled state
        sigma = float(scheduler.sigmas[scheduler.step_index])
        x = scheduler.step((x - model(x, sigma)) / sigma, t, x).prev_sample
    torch.testing.assert_close(x, last(sampler(model, start, sigmas)).x, rtol=1e-4, atol=1e-4)


# ---- starting anywhere


@given(case=gaussians(), grid=grids())
@settings(max_examples=15)
def test_a_history_is_the_gaussians_own_path(case, grid):
    grid = grid[grid > 0]
    if len(grid) == 1:
        grid = torch.cat([2 * grid, grid])
    history = gt.samplers.gaussian_history(case.model, case.x, grid)
    assert [evaluation.sigma for evaluation in history] == grid[:-1].tolist()
    for evaluation in history:
        down = case.model.flow(evaluation.x, evaluation.sigma, grid[-1].item())
        torch.testing.assert_close(down, case.x, rtol=1e-9, atol=1e-9 * float(evaluation.x.abs().max()))
        assert torch.equal(evaluation.denoised, case.model(evaluation.x, evaluation.sigma))


def test_above_the_first_level_there_is_no_history():
    model, x = texture_gaussian(), torch.ones(2, 3, dtype=DOUBLE)
    assert gt.samplers.gaussian_history(model, x, torch.tensor([80.0])) == []
    with pytest.raises(ValueError, match="sigmas has shape"):
        gt.samplers.gaussian_history(model, x, torch.tensor([]))


@pytest.mark.parametrize("sampler", [euler, heun], ids=name)
def test_a_grid_cut_in_two_is_the_same_path(sampler):
    model, x = gt.Gaussian.isotropic(torch.zeros(3, dtype=DOUBLE), 2.0), torch.randn(5, 3, dtype=DOUBLE)
    sigmas = gt.karras_sigmas(10)
    whole = list(sampler(model, x, sigmas))
    first = list(sampler(model, x, sigmas[:5]))
    second = list(sampler(model, first[-1].x, sigmas[4:]))
    assert [torch.equal(a.x, b.x) for a, b in zip(whole, first + second, strict=True)] == [True] * 10


@pytest.mark.parametrize("sampler", [sampler for sampler, _ in MULTISTEP if sampler.func is not unipc], ids=name)
@given(case=gaussians(), grid=grids(), data=st.data())
@settings(max_examples=10)
def test_with_its_history_a_run_goes_on_as_if_it_had_not_stopped(sampler, case, grid, data):
    cut = data.draw(st.integers(0, len(grid) - 2))
    whole = list(sampler(case.model, case.x, grid))
    before = [case.x, *(state.x for state in whole)]
    rest = list(sampler(case.model, before[cut], grid[cut:], history=whole[:cut]))
    for state, expected in zip(rest, whole[cut:], strict=True):
        torch.testing.assert_close(state.x, expected.x, rtol=1e-12, atol=1e-12)
    asked = [state.asked for state in whole]
    assert all(torch.equal(evaluation.x, x) for evaluation, x in zip(asked, before, strict=False))
    assert [evaluation.sigma for evaluation in asked] == grid[:-1].tolist()
    again = list(sampler(case.model, before[cut], grid[cut:], history=asked[:cut]))
    assert all(torch.equal(a.x, b.x) for a, b in zip(rest, again, strict=True))


@every_multistep
def test_without_a_history_nothing_is_remembered(sampler):
    """A run from the middle is a run of its own: another that goes on beside it leaves no trace."""
    model, noise = texture()
    grid = gt.karras_sigmas(8)
    alone = list(sampler(model, noise, grid[3:]))
    other = sampler(model, 80 * noise, grid)
    next(other), next(other)
    beside = [state for state, _ in zip(sampler(model, noise, grid[3:]), other, strict=False)]
    assert all(torch.equal(a.x, b.x) for a, b in zip(alone, beside, strict=True))
    torch.testing.assert_close(alone[0].x, next(euler(model, noise, grid[3:])).x)


@pytest.mark.parametrize("sampler", [s for s, _ in MULTISTEP if s.keywords["order"] > 1], ids=name)
def test_after_a_jump_a_history_lets_the_first_step_be_of_full_order(sampler):
    """Where the network is the Gaussian, the jump is exact, and what is left is the step's own error."""
    model, noise = texture()
    jumped = model.flow(80 * noise, 80.0, 2.0)
    grid = gt.log_uniform_sigmas(20, 0.1, 2.0)
    exact = model.flow(jumped, 2.0, grid[1].item())
    cold, filled = next(sampler(model, jumped, grid)), next(warm(sampler, model, jumped, grid)(model, jumped, grid))
    assert (filled.x - exact).norm() < 0.5 * (cold.x - exact).norm()


# ---- the protocol


def texture_gaussian(dtype=DOUBLE):
    return gt.Gaussian.isotropic(torch.full((3,), 0.5, dtype=dtype), 1.0)


def with_statistics():
    levels = torch.tensor([100.0, 1e-3], dtype=DOUBLE)
    return gt.samplers.ModelStatistics(levels, *(torch.full((2, 3), value, dtype=DOUBLE) for value in (0.5, 0.1, 0.1)))


EACH = [
    euler, heun, ddim, partial(dpmpp, order=3), partial(unipc, order=3), ipndm,
    partial(gt.samplers.gaussian_exponential, order=3, corrector=True, gaussian=texture_gaussian(torch.float32)),
    partial(gt.samplers.dpm_v3, corrector=True, statistics=with_statistics()),
]  # fmt: skip
each_sampler = pytest.mark.parametrize("sampler", EACH, ids=lambda sampler: getattr(sampler, "func", sampler).__name__)
every_half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


@pytest.mark.parametrize(
    "sampler", [sampler for sampler, _ in ONE_STEP + MULTISTEP] + EACH[-2:], ids=lambda s: name(s)[:60]
)
@pytest.mark.parametrize("sigmas", [gt.karras_sigmas(18), gt.karras_sigmas(18)[:-1]], ids=["to 0", "above 0"])
def test_cost_and_what_is_yielded(sampler, sigmas):
    seen = []

    def denoiser(x, sigma):
        seen.append(sigma)
        return 0 * x + 3.0

    x = torch.zeros(2, 3)
    states = list(sampler(denoiser, x, sigmas))
    assert len(seen) == (len(states) + int((sigmas[1:] > 0).sum()) if sampler is heun else len(states))
    assert gt.samplers.declared(sampler).calls(sigmas) == len(seen)
    assert gt.samplers.declared(sampler).calls(sigmas[-1:]) == 0
    assert [state.sigma for state in states] == sigmas[1:].tolist()
    assert 0.0 not in seen
    assert all(torch.equal(state.denoised, torch.full((2, 3), 3.0)) for state in states)
    assert all(state.x.dtype == torch.float32 for state in states)
    assert torch.equal(x, torch.zeros(2, 3))


def test_what_is_taken_is_declared_and_kept_by_partial():
    takes = {
        sampler: set(gt.samplers.declared(sampler).takes)
        for sampler in (euler, dpmpp, gt.samplers.gaussian_exponential, gt.samplers.dpm_v3)
    }
    assert [*takes.values()] == [set(), {"history"}, {"gaussian"}, {"statistics", "history"}]
    assert gt.samplers.declared(partial(dpmpp, order=3)).takes == {"history"}
    assert gt.samplers.declared(partial(partial(gt.samplers.dpm_v3, history=[]), order=3)).takes == {"statistics"}
    assert all(pickle.loads(pickle.dumps(sampler)) is sampler for sampler in takes)


@every_half
@each_sampler
def test_half_precision_is_that_of_the_network_not_of_the_path(sampler, dtype):
    """Against the path in float64: sixty steps round no more than a few."""
    model = texture_gaussian()
    x = 80 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    x = x.to(dtype)
    asked = set()

    def network(x, sigma):
        asked.add(x.dtype)
        return model(x.double(), sigma).to(x.dtype)

    if "gaussian" in getattr(sampler, "keywords", {}):
        sampler, exact = (partial(sampler, gaussian=texture_gaussian(kind)) for kind in (dtype, DOUBLE))
    else:
        exact = sampler
    grid = gt.karras_sigmas(60)
    state, expected = last(sampler(network, x, grid)), last(exact(model, x.double(), grid))
    assert asked == {dtype}
    assert state.x.dtype == state.denoised.dtype == dtype
    assert (state.x.double() - expected.x).abs().max() < 16 * torch.finfo(dtype).eps


@every_half
@pytest.mark.parametrize("sampler", [dpmpp, unipc, ipndm], ids=name)
def test_a_history_may_have_fewer_digits_than_the_state(sampler, dtype):
    model, x = texture_gaussian(), torch.ones(1, 3, dtype=DOUBLE)
    history = [gt.samplers.Evaluation(x, 5.0, model(x, 5.0))]
    few = [gt.samplers.Evaluation(x.to(dtype), 5.0, model(x, 5.0).to(dtype))]
    grid = torch.tensor([4.0, 2.0, 1.0])
    within_half = last(sampler(lambda x, s: model(x.double(), s).to(dtype), x.to(dtype), grid, history=few)).x
    expected = last(sampler(model, x, grid, history=history)).x
    torch.testing.assert_close(within_half.double(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.usefixtures("as_installed")
@each_sampler
@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda x, s: x * torch.nan, ValueError, "the denoiser's first answer holds 6 values that are NaN or infinite"),
        (lambda x, s: x * torch.nan if s < 1 else x, ValueError, "the last state, to which the denoiser's answers led"),
        (lambda x, s: x[:1], ValueError, r"the denoiser answers in shape \(1, 3\), expected \(2, 3\)"),
        (lambda x, s: x[:, :1], ValueError, r"the denoiser answers in shape \(2, 1\)"),
        (lambda x, s: 0.0, ValueError, "the denoiser answers in a float"),
        (lambda x, s: torch.ones(2, 3, dtype=torch.int64), TypeError, "the denoiser's first answer has dtype"),
    ],
)
def test_a_denoiser_that_answers_nonsense_is_named(sampler, answer, error, message):
    with pytest.raises(error, match=message):
        list(sampler(answer, torch.ones(2, 3), gt.karras_sigmas(6)))


@each_sampler
@pytest.mark.parametrize("answers", [torch.float16, torch.float64])
def test_answers_in_another_precision_become_that_of_the_state(sampler, answers):
    """As of a network under autocast."""
    states = list(sampler(lambda x, s: (0 * x + 0.5).to(answers), torch.ones(2, 3), gt.karras_sigmas(6)))
    assert {(state.x.dtype, state.denoised.dtype) for state in states} == {(torch.float32, torch.float32)}


@each_sampler
@pytest.mark.parametrize("gap", [1e-6, 1e-9, 1e-14])
def test_a_level_that_stands_twice_but_for_rounding_changes_nothing(sampler, gap):
    model = texture_gaussian(torch.float64)
    if "gaussian" in getattr(sampler, "keywords", {}):
        sampler = partial(sampler, gaussian=gt.Gaussian.isotropic(torch.zeros(3, dtype=DOUBLE), 2.0))
    x = 80 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    grid = gt.log_uniform_sigmas(30, 0.01, 80.0)
    twice = torch.cat([grid[:10], grid[9:10] * (1 - gap), grid[10:]])
    once, again = (last(sampler(lambda x, s: model(x, s) + x.sin() / 9, x, levels)).x for levels in (grid, twice))
    assert (once - again).abs().max() < 0.05


@each_sampler
@pytest.mark.parametrize("end", [0.0, 1.5])
def test_one_step_of_an_empty_batch_and_of_one_image(sampler, end):
    model = texture_gaussian(torch.float32)
    (none,) = sampler(model, torch.ones(0, 3), torch.tensor([2.0, end]))
    assert none.x.shape == (0, 3)
    (one,) = sampler(model, torch.ones(1, 3), torch.tensor([2.0, end]))
    expected = model.flow(torch.ones(1, 3), 2.0, end)
    torch.testing.assert_close(one.x, expected, rtol=0, atol=0.03 if end else 0.15)


@every_sampler
def test_rows_do_not_know_of_each_other(sampler):
    model, noise = texture()
    grid = gt.karras_sigmas(6)
    together = last(sampler(model, 80 * noise, grid)).x
    alone = torch.cat([last(sampler(model, 80 * row[None], grid)).x for row in noise])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)


@every_function
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradients_are_the_callers_choice(sampler, context):
    model, noise = texture()
    start = noise.clone().requires_grad_()
    with context():
        x = last(sampler(model, start, torch.tensor([2.0, 1.0, 0.5, 0.0]))).x
    assert x.requires_grad == (context is torch.enable_grad)


@pytest.mark.usefixtures("as_installed")
@every_function
@pytest.mark.parametrize(
    ("sigmas", "error", "message"),
    [
        ([2.0, 1.0], TypeError, "sigmas is list, expected a 1-D tensor"),
        (torch.tensor([1.0]), ValueError, r"shape \(1,\), expected \(steps \+ 1,\)"),
        (torch.ones(2, 2), ValueError, r"shape \(2, 2\)"),
        (torch.tensor([1.0, 2.0]), ValueError, "sigmas runs 1, 2, …, 2, expected finite levels, strictly decreasing"),
        (torch.tensor([1.0, 1.0, 0.0]), ValueError, "strictly decreasing"),
        (torch.tensor([1.0, -1.0]), ValueError, ">= 0"),
        (torch.tensor([torch.nan, 1.0]), ValueError, "expected finite"),
        (torch.tensor([2.0 + 1j, 1.0]), TypeError, "sigmas is torch.complex64"),
        (torch.tensor([4.001, 4.0]).half(), ValueError, "strictly decreasing"),
    ],
)
def test_grids_that_cannot_be_are_refused(sampler, sigmas, error, message):
    with pytest.raises(error, match=message):
        next(sampler(lambda x, s: x, torch.zeros(1, 2), sigmas))


EVALUATION = gt.samplers.Evaluation(torch.zeros(1, 2), 3.0, torch.zeros(1, 2))


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("sampler", "options", "error", "message"),
    [
        (dpmpp, {"order": 4}, ValueError, "order is 4, expected an integer from 1 to 3"),
        (dpmpp, {"weights": "midpoint"}, ValueError, "weights is 'midpoint', expected 'published' or 'exact'"),
        (unipc, {"order": 0}, ValueError, "order is 0, expected an integer from 1 to 4"),
        (ipndm, {"order": 2.0}, ValueError, "order is 2.0, expected an integer from 1 to 4"),
        (ddim, {"eta": 1.5}, ValueError, "eta is 1.5, expected a number from 0, deterministic, to 1"),
        (ddim, {"eta": float("nan")}, ValueError, "eta is nan"),
        *[
            (sampler, {"history": history}, error, message)
            for sampler in (dpmpp, unipc, ipndm)
            for history, error, message in [
                ([(3.0, torch.zeros(1, 2))], TypeError, "history holds tuple, expected gausstools.samplers.Evaluation"),
                (
                    [EVALUATION, EVALUATION],
                    ValueError,
                    r"history has the levels \[3.0, 3.0\], expected them to decrease",
                ),
                (
                    [gt.samplers.Evaluation(torch.zeros(1, 2), 2.0, torch.zeros(1, 2))],
                    ValueError,
                    "oldest first, to above 2",
                ),
                (
                    [gt.samplers.Evaluation(torch.zeros(2, 2), 3.0, torch.zeros(2, 2))],
                    ValueError,
                    r"history has shape \(2, 2\), expected that of x, \(1, 2\)",
                ),
            ]
        ],
    ],
)
def test_options_that_cannot_be_are_refused(sampler, options, error, message):
    with pytest.raises(error, match=message):
        next(sampler(lambda x, s: x, torch.zeros(1, 2), torch.tensor([2.0, 1.0]), **options))


class Looks(TorchDispatchMode):
    """Counts how often extremes of values are asked for, which is what a check of values does."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten.aminmax.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("network", ["Gaussian", "process"])
@each_sampler
def test_no_values_are_looked_at_from_step_to_step(sampler, network):
    """On a GPU each look would have to be waited for; asked by itself, each of these denoisers looks."""
    model = texture_gaussian(torch.float32)
    denoiser = model if network == "Gaussian" else gt.VP().denoiser(lambda x, t: 0.5 * x, "sample")
    x, counts = torch.ones(2, 3), []
    with Looks() as looks:
        denoiser(x, 1.0)
    assert looks.count > 0
    for steps in (3, 12):
        with Looks() as looks:
            list(sampler(denoiser, x, gt.karras_sigmas(steps)))
        counts.append(looks.count)
    assert counts[0] == counts[1]
