"""The reference that samplers are measured against, and the measurement."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gausstools as gt
from gausstools.convergence import converged, solver_errors, steps_for


def gaussian(dim: int, seed: int, widest: float = 2.0) -> gt.Gaussian:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    variances = widest * torch.rand(dim, generator=generator, dtype=torch.float64) + 0.01
    return gt.Gaussian(torch.randn(dim, generator=generator, dtype=torch.float64), variances, basis)


def noise(n: int, dim: int, seed: int, sigma: float = 80.0) -> torch.Tensor:
    return sigma * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Counting:
    def __init__(self, denoiser):
        self.denoiser, self.calls = denoiser, 0

    def __call__(self, x, sigma):
        self.calls += 1
        return self.denoiser(x, sigma)


@settings(max_examples=15)
@given(dim=st.integers(1, 5), seed=st.integers(0, 10**6), tolerance=st.sampled_from([1e-2, 3e-3, 1e-3]))
def test_the_reference_is_the_exact_flow_to_within_what_it_says(dim, seed, tolerance):
    model, x = gaussian(dim, seed), noise(3, dim, seed)
    end = converged(model, x, tolerance=tolerance)
    exact = model.flow(x, 80.0, 0.0)
    assert end.error <= tolerance
    # The second-order rest, and what lies below the last level above 0.
    assert (end.x - exact).square().mean().sqrt() <= 0.6 * end.error + 1e-4


def test_it_stops_at_the_most_steps_and_says_how_far_it_is():
    end = converged(gaussian(3, 0), noise(2, 3, 0), tolerance=1e-12, most_steps=100)
    assert end.steps == 64
    assert end.error > 1e-12


@pytest.mark.parametrize("nfe", [1, 2, 5, 20, 35])
@pytest.mark.parametrize("solver", ["heun", "euler"])
def test_the_calls_are_as_many_as_are_reported(solver, nfe):
    counting, x = Counting(gaussian(2, 0)), noise(2, 2, 0)
    (row,) = solver_errors(counting, x, x, {solver: getattr(gt.samplers, solver)}, [nfe])
    assert row.nfe == counting.calls <= nfe
    assert row.nfe >= nfe - (solver == "heun")
    assert steps_for(solver, nfe) == (counting.calls + 1) // 2 if solver == "heun" else counting.calls


@given(seed=st.integers(0, 10**6), nfe=st.integers(3, 15), skip=st.sampled_from([None, 5.0, 40.0]))
def test_the_error_is_the_distance_to_the_reference_per_entry(seed, nfe, skip):
    model, x = gaussian(3, seed), noise(4, 3, seed)
    reference = model.flow(x, 80.0, 0.0)
    (row,) = solver_errors(model, x, reference, {"euler": gt.samplers.euler}, [nfe], sigma_skips=[skip], gaussian=model)
    start = x if skip is None else model.flow(x, 80.0, skip)
    *_, last = gt.samplers.euler(model, start, gt.karras_sigmas(nfe, sigma_max=skip or 80.0))
    distances = [math.dist(a, b) / 3**0.5 for a, b in zip(last.x.tolist(), reference.tolist(), strict=True)]
    mean = sum(distances) / 4
    assert row.rmse == pytest.approx(mean)
    assert row.stderr == pytest.approx((sum((d - mean) ** 2 for d in distances) / 12) ** 0.5)
    assert (row.solver, row.nfe, row.sigma_skip) == ("euler", nfe, skip)


@pytest.mark.parametrize("nfe", [2, 3, 6, 20])
def test_a_sampler_with_history_is_given_what_the_jump_passed(nfe):
    seen = {}

    def remembering(denoiser, x, sigmas, *, history=()):
        seen["history"] = history
        yield from gt.samplers.euler(denoiser, x, sigmas)

    model, x = gaussian(2, 1), noise(3, 2, 1)
    solver_errors(model, x, x, {"mine": remembering}, [nfe], sigma_skips=[10.0], gaussian=model)
    levels = [evaluation.sigma for evaluation in seen["history"]]
    grid = gt.karras_sigmas(nfe, sigma_max=10.0)
    ratio = float(grid[0] / grid[1])
    assert levels == pytest.approx(sorted({min(10 * ratio**k, 80.0) for k in (3, 2, 1)}, reverse=True))
    for evaluation in seen["history"]:
        torch.testing.assert_close(evaluation.x, model.flow(x, 80.0, evaluation.sigma))
        torch.testing.assert_close(evaluation.denoised, model(evaluation.x, evaluation.sigma))


def test_bad_questions_are_refused():
    model, x = gaussian(2, 0), noise(2, 2, 0)
    with pytest.raises(ValueError, match="give the Gaussian"):
        solver_errors(model, x, x, {"euler": gt.samplers.euler}, [3], sigma_skips=[5.0])
    with pytest.raises(ValueError, match="nfe is 0"):
        solver_errors(model, x, x, {"euler": gt.samplers.euler}, [0])
    with pytest.raises(ValueError, match="tolerance is 0"):
        converged(model, x, tolerance=0.0)
    with pytest.raises(ValueError, match="most_steps is 31"):
        converged(model, x, most_steps=31)
