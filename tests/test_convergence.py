"""The reference that samplers are measured against, and the measurement."""

import functools
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gausstools as gt
from gausstools.convergence import converged, solver_errors


def gaussian(dim: int, seed: int, widest: float = 2.0) -> gt.Gaussian:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    variances = widest * torch.rand(dim, generator=generator, dtype=torch.float64) + 0.01
    return gt.Gaussian(torch.randn(dim, generator=generator, dtype=torch.float64), variances, basis)


def noise(n: int, dim: int, seed: int, sigma: float = 80.0) -> torch.Tensor:
    return sigma * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=6)
@given(dim=st.integers(1, 5), seed=st.integers(0, 10**6), tolerance=st.sampled_from([1e-2, 3e-3]))
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


class Noting:
    """A denoiser with its own note of what it was asked, apart from the library's counter."""

    def __init__(self, denoiser):
        self.denoiser, self.asked = denoiser, []

    def __call__(self, x, sigma):
        self.asked.append(sigma)
        return self.denoiser(x, sigma)


def midpoint(denoiser, x, sigmas):
    """A user's own method, which declares nothing and asks twice a step."""
    for start, end in itertools.pairwise(sigmas.tolist()):
        asked = gt.samplers.Evaluation(x, start, denoiser(x, start))
        half = x + (end - start) / 2 * (x - asked.denoised) / start
        x = x + (end - start) * (half - denoiser(half, (start + end) / 2)) / ((start + end) / 2)
        yield gt.samplers.State(x, end, asked)


SOLVERS = {
    "Heun": gt.samplers.heun,
    "heun, but Euler": gt.samplers.euler,
    "within partial": functools.partial(functools.partial(gt.samplers.heun)),
    "heun": midpoint,
}


@pytest.mark.parametrize("to_zero", [True, False])
@pytest.mark.parametrize("nfe", [1, 2, 9, 20, 35])
@pytest.mark.parametrize("name", SOLVERS)
def test_the_calls_are_as_many_as_are_reported_whatever_the_name(name, nfe, to_zero):
    noting, x = Noting(gaussian(2, 0)), noise(2, 2, 0)
    grid = gt.karras_sigmas if to_zero else lambda n, sigma_max: gt.karras_sigmas(n + 1, sigma_max=sigma_max)[:-1]
    (row,) = solver_errors(noting, x, x, {name: SOLVERS[name]}, [nfe], grid=grid)
    assert row.nfe == len(noting.asked)
    expected = {"heun": 2 * nfe, "heun, but Euler": nfe}.get(name, nfe - (nfe % 2 != to_zero))  # of each parity
    assert row.nfe == max(expected, 1 if to_zero else 1 + (name != "heun, but Euler"))


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

    @gt.samplers.sampler(takes=["history"])
    def remembering(denoiser, x, sigmas, *, history=()):
        seen["history"] = history
        yield from gt.samplers.euler(denoiser, x, sigmas)

    model, x = gaussian(2, 1), noise(3, 2, 1)
    next(solver_errors(model, x, x, {"mine": remembering}, [nfe], sigma_skips=[10.0], gaussian=model))
    levels = [evaluation.sigma for evaluation in seen["history"]]
    grid = gt.karras_sigmas(nfe, sigma_max=10.0)
    ratio = float(grid[0] / grid[1])
    assert levels == pytest.approx(sorted({min(10 * ratio**k, 80.0) for k in (3, 2, 1)}, reverse=True))
    for evaluation in seen["history"]:
        torch.testing.assert_close(evaluation.x, model.flow(x, 80.0, evaluation.sigma))
        torch.testing.assert_close(evaluation.denoised, model(evaluation.x, evaluation.sigma))


@pytest.mark.parametrize("as_partial", [True, False])
def test_a_gaussian_that_a_sampler_has_already_is_kept(as_partial):
    model, other, x = gaussian(2, 1), gaussian(2, 2), noise(3, 2, 1)
    sampler, seen = gt.samplers.gaussian_exponential, {}

    @gt.samplers.sampler(takes=["gaussian"])
    def plain(denoiser, x, sigmas, *, gaussian):
        seen["gaussian"] = gaussian
        yield from sampler(denoiser, x, sigmas, gaussian=gaussian)

    solvers = {"told": functools.partial(sampler if as_partial else plain, gaussian=other)}
    for told in (None, model):
        (row,) = solver_errors(other, x, other.flow(x, 80.0, 0.0), solvers, [1], gaussian=told)
        assert row.rmse < 1e-9  # the Gaussian that it has is the denoiser, so one step is exact
    if not as_partial:
        assert seen["gaussian"] is other
        next(solver_errors(other, x, x, {"untold": plain}, [1], gaussian=model))
        assert seen["gaussian"] is model


def test_numbers_of_calls_may_come_from_a_generator():
    model, x = gaussian(2, 0), noise(2, 2, 0)
    solvers = {"euler": gt.samplers.euler, "ddim": gt.samplers.ddim}
    rows = solver_errors(model, x, x, solvers, iter([3, 5]), sigma_skips=iter([None, 10.0]), gaussian=model)
    assert [row.nfe for row in rows] == 4 * [3, 5]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_as_its_numbers_in_float64_are(dtype):
    """What is measured of the same samples: the network rounds, the measurement does not."""
    model = gaussian(3, 0)
    x = noise(4, 3, 0).to(dtype)

    def rounded(x, sigma):
        return model(x.double(), sigma).to(x.dtype)

    reference = converged(rounded, x, tolerance=0.05)
    assert reference.x.dtype == dtype
    exact = model.flow(x.double(), 80.0, 0.0)
    assert (reference.x - exact).abs().max() < 30 * torch.finfo(dtype).eps
    (row,) = solver_errors(rounded, x, exact, {"": gt.samplers.euler}, [9])
    (state, *_) = list(gt.samplers.euler(rounded, x, gt.karras_sigmas(9)))[-1:]
    assert row.rmse == pytest.approx((state.x.double() - exact).square().mean(1).sqrt().mean().item())


def late(x, sigma):
    return x * torch.nan if sigma < 1 else x / (1 + sigma**2)


@pytest.mark.usefixtures("as_installed")
def test_bad_questions_are_refused():
    model, x, euler = gaussian(2, 0), noise(2, 2, 0), {"euler": gt.samplers.euler}
    refused = [
        ({"sigma_skips": [5.0]}, "gaussian is None, expected whose flow it follows"),
        *[
            (
                {"sigma_skips": [skip], "gaussian": model},
                f"sigma_skips has {skip}, expected noise levels above 0, up to",
            )
            for skip in (81.0, 0.0, math.nan)
        ],
        ({"nfes": [0]}, "nfe is 0"),
        ({"reference": x[:1]}, "reference has 1 images, expected as many as x, 2"),
        ({"reference": x * torch.nan}, "reference holds 4 values that are NaN"),
        ({"denoiser": late, "solvers": {"mine": midpoint}}, "the end of mine holds 4 values that are NaN"),
        ({"x": x[:0]}, "x has 0 rows, expected at least 1"),
    ]
    for changed, message in refused:
        with pytest.raises(ValueError, match=message):
            list(solver_errors(**{"denoiser": model, "x": x, "reference": x, "solvers": euler, "nfes": [9]} | changed))
    with pytest.raises(ValueError, match="the last state, to which the denoiser's answers led, holds 4 values"):
        converged(late, x)
    with pytest.raises(ValueError, match="x has 0 rows"):
        converged(model, x[:0])
    with pytest.raises(ValueError, match="tolerance is 0"):
        converged(model, x, tolerance=0.0)
    with pytest.raises(ValueError, match="most_steps is 31"):
        converged(model, x, most_steps=31)
