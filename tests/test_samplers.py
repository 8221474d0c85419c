"""Euler and Heun: their order on a Gaussian whose flow is known, their cost, their agreement with diffusers."""

import numpy as np
import pytest
import torch
from cases import gaussians
from hypothesis import given, settings
from hypothesis import strategies as st

import gausstools as gt

DOUBLE = torch.float64
SAMPLERS = {gt.samplers.euler: 1, gt.samplers.heun: 2}


def last(states):
    *_, final = states
    return final


def log_grid(steps, sigma_max=80.0, sigma_min=0.01):
    return torch.logspace(np.log10(sigma_max), np.log10(sigma_min), steps + 1, dtype=DOUBLE)


@pytest.mark.parametrize(("sampler", "order"), SAMPLERS.items(), ids=lambda value: getattr(value, "__name__", value))
@given(case=gaussians())
@settings(max_examples=10)
def test_order_of_convergence(sampler, order, case):
    """Halving the steps divides the error by 2^order, on the smooth grid that is uniform in ln σ."""
    start = 80.0 * case.x / case.x.abs().max()
    exact = case.model.flow(start, 80.0, 0.01)
    errors = [(last(sampler(case.model, start, log_grid(n))).x - exact).norm().item() for n in (200, 400, 800)]
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert slopes == pytest.approx(order, abs=0.15)


@given(gaussians(), st.integers(1, 30))
def test_euler_is_the_product_of_its_factors(case, n):
    """On N(0, λ) one Euler step multiplies by λ/(λ+a²) + (b/a)·a²/(λ+a²); for a vector, eigenvalue by eigenvalue."""
    sigmas = gt.karras_sigmas(n)
    variances, vectors = np.linalg.eigh(case.covariance)
    factor = np.ones(len(variances))
    for a, b in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        factor *= (variances + a * b) / (variances + a**2)
    expected = case.model.mean.numpy().ravel() + ((case.rows @ vectors) * factor) @ vectors.T
    actual = last(gt.samplers.euler(case.model, case.x, sigmas)).x
    np.testing.assert_allclose(actual.reshape(expected.shape).numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("sampler", "calls"), [(gt.samplers.euler, 18), (gt.samplers.heun, 35)])
def test_cost_and_what_is_yielded(sampler, calls):
    seen = []

    def denoiser(x, sigma):
        seen.append(sigma)
        return 0 * x + 3.0

    sigmas = gt.karras_sigmas(18)
    states = list(sampler(denoiser, torch.zeros(2, 3), sigmas))
    assert len(seen) == calls
    assert [state.sigma for state in states] == sigmas[1:].tolist()
    assert 0.0 not in seen
    assert torch.equal(states[-1].x, torch.full((2, 3), 3.0))
    assert all(torch.equal(state.denoised, torch.full((2, 3), 3.0)) for state in states)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: s.__name__)
def test_a_constant_denoiser_is_solved_in_one_step(sampler):
    x = torch.randn(4, 2, dtype=DOUBLE)
    state = last(sampler(lambda x, sigma: torch.ones_like(x), x, torch.tensor([5.0, 0.5], dtype=DOUBLE)))
    torch.testing.assert_close(state.x, 1 + 0.1 * (x - 1))


def test_the_path_can_start_and_end_anywhere():
    """A grid cut in two is the same path."""
    model, x = gt.Gaussian.isotropic(torch.zeros(3, dtype=DOUBLE), 2.0), torch.randn(5, 3, dtype=DOUBLE)
    sigmas = gt.karras_sigmas(10)
    whole = list(gt.samplers.heun(model, x, sigmas))
    first = list(gt.samplers.heun(model, x, sigmas[:5]))
    second = list(gt.samplers.heun(model, first[-1].x, sigmas[4:]))
    assert [torch.equal(a.x, b.x) for a, b in zip(whole, first + second, strict=True)] == [True] * 10


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_diffusers_steps_to_the_same_states(name):
    """Its scheduler and ours, on the same grid and the same Gaussian given as an ε-network."""
    import diffusers

    scheduler = getattr(diffusers, name)(use_karras_sigmas=True, timestep_spacing="linspace")
    scheduler.set_timesteps(12)
    sigmas = scheduler.sigmas.double()
    sigmas = torch.cat([sigmas[:-1].unique().flip(0), sigmas[-1:]])
    model = gt.Gaussian.fit(torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double())
    start = sigmas[0] * torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    sampler = {"EulerDiscreteScheduler": gt.samplers.euler, "HeunDiscreteScheduler": gt.samplers.heun}[name]
    ours = last(sampler(model, start, sigmas)).x
    x = start
    for t in scheduler.timesteps:
        scheduler.scale_model_input(x, t)  # the schedulers insist; our model takes the unscaled state
        sigma = float(scheduler.sigmas[scheduler.step_index])
        x = scheduler.step((x - model(x, sigma)) / sigma, t, x).prev_sample
    torch.testing.assert_close(x, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: s.__name__)
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
    ],
)
def test_grids_that_cannot_be_are_refused(sampler, sigmas, error, message):
    with pytest.raises(error, match=message):
        next(sampler(lambda x, s: x, torch.zeros(1, 2), sigmas))
