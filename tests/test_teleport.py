"""Teleportation: the jump is the flow of each process's own ODE, composes, and counts what it saves."""

import itertools
import math
import re
import warnings

import numpy as np
import pytest
import scipy.integrate
import torch
from cases import gaussians, mixtures
from hypothesis import example, given, settings
from hypothesis import strategies as st

import gausstools as gt
from gausstools.teleportation import guided

DOUBLE = torch.float64
# A process, the time at which it starts, and one on the way.
PROCESSES = {
    "VE": (gt.VE(), 80.0, 5.0),
    "VP": (gt.VP(), 1.0, 0.4),
    "DDPM": (gt.DDPM.linear(), 999.0, 996.0),
    "flow matching": (gt.FlowMatching(), 0.98, 0.5),
}


def grid(*levels):
    return torch.tensor(levels, dtype=DOUBLE)


@pytest.mark.parametrize(("process", "start", "end"), PROCESSES.values(), ids=PROCESSES)
@given(case=gaussians())
@settings(max_examples=3)
def test_the_jump_solves_the_ode_of_each_process(process, start, end, case):
    """scipy integrates the velocity that the process derives from the Gaussian's denoiser."""
    shape = case.x.shape

    def velocity(t, flat):
        return process.velocity(case.model, torch.from_numpy(flat.reshape(shape)), t).numpy().ravel()

    x = case.x / case.x.abs().max() * (1 + process.noise(grid(start)))
    # The table of DDPM has a kink at every step, where an integrator must stop.
    stops = np.linspace(start, end, 4 if isinstance(process, gt.DDPM) else 2)
    flat = x.numpy().ravel()
    for a, b in itertools.pairwise(stops.tolist()):
        flat = scipy.integrate.solve_ivp(velocity, (a, b), flat, rtol=1e-10, atol=1e-12, method="DOP853").y[:, -1]
    jump = gt.teleport(case.model, x, grid(start, end), process.sigma(grid(end)).item(), process=process)
    np.testing.assert_allclose(jump.x.numpy(), flat.reshape(shape), rtol=1e-6, atol=1e-7)


@given(gaussians(singular=True), st.floats(0, 80), st.floats(0, 1))
def test_in_ve_it_is_the_flow_of_the_gaussian(case, sigma, share):
    """And two jumps are one."""
    jump = gt.teleport(case.model, case.x, grid(80, 0), sigma)
    torch.testing.assert_close(jump.x, case.model.flow(case.x, 80.0, sigma))
    first = gt.teleport(case.model, case.x, grid(80, 0), max(sigma, 1e-3))
    target = max(sigma, 1e-3) * share
    second = gt.teleport(case.model, first.x, first.times, target)
    torch.testing.assert_close(second.x, gt.teleport(case.model, case.x, grid(80, 0), target).x)


@pytest.mark.parametrize("name", ["VP", "flow matching"])
@given(case=gaussians(), sigma=st.floats(0.01, 10))
def test_every_process_is_ve_in_other_coordinates(name, case, sigma):
    process, start, _ = PROCESSES[name]
    x_ve, sigma_max = process.to_ve(case.x, start)
    there = case.model.flow(x_ve, sigma_max, sigma)
    jump = gt.teleport(case.model, case.x, grid(start, 0), sigma, process=process)
    torch.testing.assert_close(jump.x, process.from_ve(there, sigma)[0])
    assert jump.sigma == pytest.approx(sigma)
    assert jump.times[0].item() == pytest.approx(process.time(grid(sigma)).item())


@given(gaussians(), st.floats(0, 10))
def test_flow_matching_from_pure_noise_is_the_limit(case, sigma):
    """At t = 1 the noise level is infinite: μ + (Σ+σ²I)^½ n, with the root from numpy, and the limit of t → 1."""
    values, vectors = np.linalg.eigh(case.covariance)
    root = (vectors * np.sqrt(values.clip(0) + sigma**2)) @ vectors.T
    noise = torch.randn(case.x.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    there = case.model.mean + torch.from_numpy(noise.flatten(1).numpy() @ root).reshape(noise.shape)
    process = gt.FlowMatching()
    jump = gt.teleport(case.model, noise, grid(1, 0.5, 0), sigma, process=process)
    torch.testing.assert_close(jump.x, process.from_ve(there, sigma)[0], rtol=1e-6, atol=1e-6)
    near = gt.teleport(case.model, noise, grid(1 - 1e-9, 0), sigma, process=process)
    torch.testing.assert_close(jump.x, near.x, rtol=1e-5, atol=1e-5 * (1 + case.model.mean.abs().max().item()))


@pytest.mark.parametrize("variance", [0.0, 1.0, 1e12])
def test_the_limit_holds_at_any_scale_of_the_data(variance):
    """√(b'² + a'²λ)·n + a'μ, in float32 too."""
    mean = torch.full((3,), variance**0.5)
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    jump = gt.teleport(gt.Gaussian.isotropic(mean, variance), noise, grid(1, 0), 3.0, process=gt.FlowMatching())
    expected = 0.25 * mean + (0.75**2 + 0.25**2 * variance) ** 0.5 * noise
    torch.testing.assert_close(jump.x, expected, rtol=1e-6, atol=1e-6 * (1 + variance**0.5))


class Counting:
    """A denoiser that counts how often it is asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, sigma):
        self.calls += 1
        return 0 * x


@given(n=st.integers(1, 20), sigma=st.floats(0, 80), on_grid=st.booleans(), to_zero=st.booleans())
@example(n=5, sigma=5.0, on_grid=True, to_zero=True)  # a jump to 0, after which nothing is asked
def test_what_is_saved_is_what_samplers_no_longer_ask(n, sigma, on_grid, to_zero):
    levels = gt.karras_sigmas(n) if to_zero else torch.logspace(2, -2, n + 1, dtype=DOUBLE)
    if on_grid:
        sigma = levels[int(sigma) % len(levels)].item()
    sigma = min(max(sigma, levels[-1].item()), levels[0].item())
    x = torch.zeros(1, 2, dtype=DOUBLE)
    jump = gt.teleport(gt.Gaussian.isotropic(x[0], 1.0), x, levels, sigma)
    assert jump.times[0] == pytest.approx(sigma)
    assert jump.steps_skipped == len(levels) - len(jump.times)
    for sampler, saved in ((gt.samplers.euler, jump.nfe_saved), (gt.samplers.heun, jump.nfe_saved_heun)):
        before, after = Counting(), Counting()
        list(sampler(before, x, levels))
        if len(jump.times) > 1:
            list(sampler(after, x, jump.times))
        assert before.calls - after.calls == saved


def test_a_level_of_the_grid_is_met_in_spite_of_float32():
    levels = gt.karras_sigmas(18)
    x = torch.zeros(1, 2, dtype=DOUBLE)
    jump = gt.teleport(gt.Gaussian.isotropic(x[0], 1.0), x, levels, levels[5].float().item())
    assert torch.equal(jump.times, levels[5:])


@given(gaussians(), st.integers(0, 2**32 - 1))
def test_each_row_goes_the_way_of_its_class(case, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (len(case.x),), generator=generator)
    family = {k: case.model.with_mean(case.model.mean + k) for k in range(3)}
    jump = gt.teleport(family, case.x, grid(80, 1, 0), 1.0, labels=labels)
    for row, label in enumerate(labels.tolist()):
        alone = gt.teleport(family[label], case.x[row : row + 1], grid(80, 1, 0), 1.0)
        torch.testing.assert_close(jump.x[row], alone.x[0])


@given(mixtures())
@settings(max_examples=10)
def test_a_mixture_jumps_as_the_gaussian_of_its_moments(case):
    jump = gt.teleport(case.model, case.x, grid(80, 40, 0), 40.0)
    torch.testing.assert_close(jump.x, case.model.to_gaussian().flow(case.x, 80.0, 40.0))


def test_far_out_a_mixture_follows_the_gaussian_of_its_moments():
    """From σ to σ/2, both large: at twice the σ the error is at most half, where one component's would stay."""
    means = torch.tensor([[-1.0, 0.0], [2.0, 1.0], [0.0, 3.0]], dtype=DOUBLE)
    mixture = gt.Mixture([0.2, 0.5, 0.3], [gt.Gaussian.isotropic(mean, 0.1) for mean in means])
    noise = torch.randn(20, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    errors = []
    for sigma in (40.0, 80.0):
        levels = torch.logspace(np.log10(sigma), np.log10(sigma / 2), 100, dtype=DOUBLE)
        *_, solved = gt.samplers.heun(mixture, sigma * noise, levels)
        errors.append((gt.teleport(mixture, sigma * noise, levels, sigma / 2).x - solved.x).norm().item())
    assert errors[0] / errors[1] > 1.8


@given(gaussians(), st.floats(-2, 10), st.integers(0, 2**32 - 1))
def test_guidance_with_a_shared_covariance_is_a_gaussian(case, scale, seed):
    shift = torch.randn(case.model.event_shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
    conditional = case.model.with_mean(case.model.mean + shift)
    unguided, towards = case.model(case.x, case.sigma), conditional(case.x, case.sigma)
    expected = unguided + scale * (towards - unguided)
    torch.testing.assert_close(guided(case.model, conditional, scale)(case.x, case.sigma), expected)


@pytest.mark.usefixtures("as_installed")
def test_what_cannot_be_is_refused():
    x = torch.zeros(2, 3)
    model = gt.Gaussian.isotropic(x[0], 1.0)
    family = {0: model, 4: model}
    levels = torch.tensor([80.0, 1.0, 0.0])
    refused = [
        ((model, x, levels, 90.0), {}, ValueError, "sigma_skip is 90, reached at time 90, .* from 80 to 0"),
        ((model, x, levels[:2], 0.5), {}, ValueError, "sigma_skip is 0.5, .* from 80 to 1"),
        ((model, x, levels, -1.0), {}, ValueError, "sigma_skip is -1.0"),
        ((model, x, levels, float("nan")), {}, ValueError, "sigma_skip is nan"),
        ((model, x, levels.flip(0), 1.0), {}, ValueError, "strictly decreasing"),
        ((model, x.double(), levels, 1.0), {}, TypeError, "x is torch.float64"),
        ((model, x[:, :2], levels, 1.0), {}, ValueError, r"x has shape \(2, 2\)"),
        ((lambda x, sigma: x, x, levels, 1.0), {}, TypeError, "gaussian is function"),
        ((family, x, levels, 1.0), {}, ValueError, r"labels are None, expected \(2,\)"),
        ((family, x, levels, 1.0), {"labels": torch.tensor([0])}, ValueError, r"labels are of shape \(1,\)"),
        ((family, x, levels, 1.0), {"labels": torch.tensor([0, 3])}, ValueError, r"labels hold \[3\].*has \[0, 4\]"),
        ((family, x, levels, 1.0), {"labels": [0, 0]}, ValueError, r"labels are \[0, 0\], expected \(2,\)"),
        ((model, x, levels, 1.0), {"labels": torch.tensor([0, 0])}, ValueError, "with a single model"),
    ]
    for process, start, end in (
        (gt.FlowMatching(), 1000, 0),
        (gt.FlowMatching(), 1.1, 0),
        (gt.VP(), 999, 0),
        (gt.VP(), 1.5, 0.1),
        (gt.DDPM.linear(), 1000, 0),
    ):
        message = f"t lies between {end:g} and {start:g}, expected 0 to {process.span[1]:g}, the range of"
        refused.append(((model, x, torch.linspace(start, end, 11), 3.0), {"process": process}, ValueError, message))
    for process, sigma in ((gt.VP(), 200.0), (gt.DDPM.linear(), 1e-3)):
        message = f"sigma lies between {sigma:g} and .* the range of"
        refused.append(((model, x, grid(0.9, 0.1), sigma), {"process": process}, ValueError, message))
    for arguments, options, error, message in refused:
        with pytest.raises(error, match=message):
            gt.teleport(*arguments, **options)
    with pytest.raises(ValueError, match="different covariances"):
        guided(model, gt.Gaussian.isotropic(x[0], 2.0), 2.0)
    with pytest.raises(ValueError, match="scale is nan"):
        guided(model, model, math.nan)


def bent(model, size, seed=0):
    """A network that the Gaussian leaves a small function of x and σ of, smooth in both."""
    direction = torch.randn(model.event_shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))

    def network(x, sigma):
        return model(x, sigma) + size * direction * torch.cos(x / (1 + sigma)) * (1 + np.log(sigma))

    return network


@given(gaussians(largest_sigma=10))
@settings(max_examples=3)
def test_the_predicted_change_is_the_measured_one_to_first_order(case):
    """The jump against scipy over the same levels; there are a hundred, so that the integral is exact."""
    levels = torch.logspace(1, 0, 100, dtype=DOUBLE)
    size = 1e-4
    network = bent(case.model, size)
    x = 10 * torch.randn(4, *case.model.event_shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))

    def solved(start, sigma):
        def slope(u, flat):
            state = torch.from_numpy(flat.reshape(x.shape))
            return (state - network(state, np.exp(u))).numpy().ravel()

        # Below the jump both go the Gaussian's way, so that nothing but the jump is compared.
        path = scipy.integrate.solve_ivp(
            slope, (np.log(sigma), np.log(1.0)), start.numpy().ravel(), rtol=1e-9, atol=1e-12
        )
        return case.model.flow(torch.from_numpy(path.y[:, -1].reshape(x.shape)), 1.0, 0.0)

    jump = gt.teleport(case.model, x, levels, 1.0)
    measured = (case.model.flow(jump.x, 1.0, 0.0) - solved(x, 10.0)).square().mean().sqrt().item()
    skip = gt.choose_skip(network, case.model, levels, tolerance=1e9, x=x, finish=0)
    assert skip.predicted[-1].item() == pytest.approx(measured, rel=0.02)
    assert skip.sigma == levels[-1]


@pytest.mark.filterwarnings("ignore:at σ = .* the mean squared residual")
@given(gaussians(), st.floats(0, 1))
@settings(max_examples=12)
def test_the_chosen_level_is_the_last_within_the_tolerance(case, share):
    """The network is asked once for each level of the curve, which ends with the first that is too far."""
    asked = []

    def network(x, sigma):
        asked.append(sigma)
        return bent(case.model, 1.0)(x, sigma)

    levels = torch.logspace(2, -1, 12, dtype=DOUBLE)
    whole = gt.choose_skip(network, case.model, levels, tolerance=1e9, finish=0)
    assert asked == levels.tolist()
    tolerance = 1e-9 + share * whole.predicted.max().item()
    asked.clear()
    skip = gt.choose_skip(network, case.model, levels, tolerance=tolerance, finish=0)
    count = len(asked)
    assert asked == levels[:count].tolist() == skip.sigmas.tolist()
    assert torch.equal(skip.predicted, whole.predicted[:count])
    assert (skip.predicted[:-1] <= tolerance).all()
    assert skip.sigma == levels[count - 1 if skip.predicted[-1] <= tolerance else count - 2]


def test_the_gaussian_itself_can_be_jumped_all_the_way():
    model = gt.Gaussian.isotropic(torch.zeros(3, dtype=DOUBLE), 1.0)
    skip = gt.choose_skip(model, model, torch.logspace(2, -2, 9, dtype=DOUBLE), tolerance=1e-12)
    assert skip.sigma == pytest.approx(0.01)
    assert skip.residual.max() == 0
    assert skip.predicted.max() == 0


def test_on_a_trained_network_the_prediction_is_near_what_a_jump_changes():
    network, model = gt.pretrained.load("digits"), gt.shipped.statistics("digits")
    x = 80 * torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    skip = gt.choose_skip(network, model, torch.logspace(np.log10(80), np.log10(3), 8), tolerance=1e9, x=x)
    levels = gt.karras_sigmas(40)
    jump = gt.teleport(model, x, levels, skip.sigma)
    *_, whole = gt.samplers.heun(network, x, levels)
    *_, rest = gt.samplers.heun(network, jump.x, jump.times)
    measured = (whole.x - rest.x).square().mean().sqrt().item()
    assert 0.6 < skip.predicted[-1].item() / measured < 1.2


@pytest.mark.usefixtures("as_installed")
def test_levels_and_tolerances_that_cannot_be_are_refused():
    model, levels = gt.Gaussian.isotropic(torch.zeros(3), 1.0), torch.tensor([80.0, 1.0])
    with pytest.raises(ValueError, match="sigmas end in 0"):
        gt.choose_skip(model, model, torch.tensor([80.0, 0.0]))
    with pytest.raises(ValueError, match="tolerance is 0"):
        gt.choose_skip(model, model, levels, tolerance=0)
    with pytest.raises(ValueError, match="x has 0 rows, expected at least 1"):
        gt.choose_skip(model, model, levels, x=torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"the denoiser answers in shape \(1, 3\), expected \(16, 3\)"):
        gt.choose_skip(lambda x, sigma: x[:1], model, levels)
    with pytest.raises(TypeError, match="gaussian is function"):
        gt.choose_skip(model, lambda x, sigma: x, levels)


@pytest.mark.usefixtures("as_installed")
def test_a_network_that_answers_nan_is_named_wherever_it_does():
    """At the levels that are tried, and below them, where the sampler asks that finishes the probes."""
    model, levels = gt.Gaussian.isotropic(torch.zeros(3), 1.0), torch.tensor([80.0, 40.0])
    with pytest.raises(ValueError, match="the denoiser's answer holds 48 values that are NaN"):
        gt.choose_skip(lambda x, sigma: x * torch.nan, model, levels)
    with pytest.raises(ValueError, match=r"denoiser.* holds .* values that are NaN"):
        gt.choose_skip(lambda x, sigma: model(x, sigma) + (0.1 if sigma > 30 else torch.nan), model, levels, 1.0)


@pytest.mark.parametrize("finish", [0, 8])
def test_a_gaussian_without_variance_predicts_nothing(finish):
    """Of one image, or where the network differs from it: its flow to σ = 0 forgets whatever changes there."""
    levels, flat = torch.tensor([80.0, 20.0, 5.0]), torch.tensor([1.0, 0.0, 0.0])
    one_image = gt.Gaussian.fit(torch.ones(1, 3))
    one_direction = gt.Gaussian(torch.zeros(3), torch.ones(1), torch.eye(3)[:, 1:2])
    for model in (one_image, one_direction):
        with pytest.raises(ValueError, match="gaussian has no variance in the directions in which the denoiser"):
            gt.choose_skip(lambda x, sigma, model=model: model(x, sigma) + flat, model, levels, finish=finish)
        assert gt.choose_skip(model, model, levels, finish=finish).sigma == 5


def test_a_network_of_other_data_is_warned_of():
    """E|D − D_G|² of the Gaussian of other data, in closed form, against the Gaussian's own loss; and no false alarm.

    The exact denoiser of two images is as far from Gaussian as one can be.
    """
    model, shift = gt.Gaussian.isotropic(torch.zeros(4, dtype=DOUBLE), 1.0), 3.0
    other = model.with_mean(model.mean + shift)
    levels = torch.tensor([20.0, 10.0])
    loss = 4 * 400 / 401
    times = 4 * (shift * 400 / 401) ** 2 / loss
    with pytest.warns(
        UserWarning, match=re.escape(f"at σ = 20 the mean squared residual of the network is {times:.2g}")
    ):
        gt.choose_skip(other, model, levels, tolerance=10.0)
    images = torch.tensor([[-1.0], [1.0]], dtype=DOUBLE)
    with warnings.catch_warnings(action="error"):
        gt.choose_skip(gt.PointCloud(images), gt.Gaussian.fit(images), torch.logspace(1, -1, 9), 1e9, finish=0)
