"""The noise conventions against textbook formulas in numpy, and against each other through the VE flow."""

import math

import numpy as np
import pytest
import scipy.integrate
import torch
from cases import gaussians
from hypothesis import given, settings
from hypothesis import strategies as st

import gausstools as gt
from gausstools.noise import seeded_noise

DOUBLE = torch.float64
PROCESSES = [gt.VE(), gt.VP(), gt.VP(0.5, 5.0), gt.DDPM.linear(), gt.FlowMatching()]
TIMES = {gt.VE: (0.01, 80.0), gt.VP: (0.02, 1.0), gt.DDPM: (1.0, 998.0), gt.FlowMatching: (0.01, 0.99)}

processes = st.sampled_from(PROCESSES)
fractions = st.floats(0.01, 0.99)


def time_of(process, fraction):
    low, high = TIMES[type(process)]
    return torch.tensor([low + fraction * (high - low)], dtype=DOUBLE)


def posterior(case, a, b):
    """E[x0 | x_t] and E[n | x_t] for x_t = a·x0 + b·n, by conditioning the joint Gaussian; x_t is the case's x."""
    mean, dim = case.model.mean.numpy().ravel(), case.model.dim
    gain = np.linalg.inv(a**2 * case.covariance + b**2 * np.eye(dim))
    innovation = (case.x.reshape(len(case.x), dim).numpy() - a * mean) @ gain
    return mean + a * innovation @ case.covariance, b * innovation


# ---- the schedules


@given(processes, fractions)
def test_sigma_is_noise_over_signal_and_time_inverts_it(process, fraction):
    t = time_of(process, fraction)
    sigma = process.sigma(t)
    torch.testing.assert_close(sigma, process.noise(t) / process.signal(t))
    torch.testing.assert_close(process.time(sigma), t, rtol=1e-9, atol=1e-12)


@given(processes, fractions)
def test_the_rates_are_derivatives(process, fraction):
    t = time_of(process, fraction).requires_grad_()
    for value, rate in zip((process.signal, process.noise), process.rates(t), strict=True):
        result = value(t)
        expected = torch.autograd.grad(result.sum(), t)[0] if result.requires_grad else torch.zeros_like(t)
        torch.testing.assert_close(rate.detach(), expected, rtol=1e-9, atol=1e-12)


@given(st.sampled_from([gt.VP(), gt.DDPM.linear()]), fractions)
def test_variance_is_preserved(process, fraction):
    t = time_of(process, fraction)
    torch.testing.assert_close(process.signal(t) ** 2 + process.noise(t) ** 2, torch.ones_like(t))


def test_vp_is_song_et_al():
    """α = exp(−¼t²(β_max−β_min) − ½tβ_min), eq. 33 of Song et al. 2021."""
    t = torch.linspace(0.01, 1, 50, dtype=DOUBLE)
    torch.testing.assert_close(gt.VP().signal(t), torch.exp(-0.25 * t**2 * 19.9 - 0.5 * t * 0.1))


def test_vp_of_one_rate():
    t, process = torch.linspace(0, 1, 9, dtype=DOUBLE), gt.VP(10.0, 10.0)
    torch.testing.assert_close(process.sigma(t), torch.expm1(10 * t).sqrt())
    torch.testing.assert_close(process.time(process.sigma(t)), t)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_times_of_any_dtype_are_computed_with_in_float32_at_least(process, dtype):
    low, high = TIMES[type(process)]
    t = torch.tensor([low + share * (high - low) for share in (0.2, 0.5, 0.9)]).to(dtype)
    asks = [process.signal, process.noise, process.sigma]
    if dtype.is_floating_point or high > 2:  # else t is 0, where a rate may be infinite
        asks += [lambda t: process.rates(t)[0], lambda t: process.rates(t)[1]]
    for ask in asks:
        answer, expected = ask(t), ask(t.double())
        assert answer.dtype == (dtype if dtype.is_floating_point else torch.float32)
        torch.testing.assert_close(answer.to(DOUBLE), expected, rtol=2 * torch.finfo(answer.dtype).eps, atol=1e-7)


def test_ddpm_is_the_running_product_of_its_betas():
    betas = np.linspace(1e-4, 0.02, 1000)
    process = gt.DDPM.linear()
    steps = torch.arange(1000, dtype=DOUBLE)
    alpha_bar = np.cumprod(1 - betas)
    np.testing.assert_allclose(process.signal(steps).numpy(), np.sqrt(alpha_bar), rtol=1e-9)
    np.testing.assert_allclose(process.noise(steps).numpy(), np.sqrt(1 - alpha_bar), rtol=1e-9)
    np.testing.assert_allclose(process.time(process.sigma(steps)).numpy(), steps.numpy(), atol=1e-6)


def test_ddpm_agrees_with_diffusers_tables():
    from diffusers import DDPMScheduler

    table = DDPMScheduler(beta_schedule="linear").alphas_cumprod
    ours = gt.DDPM.linear().alphas_cumprod
    torch.testing.assert_close(ours.float(), table, rtol=1e-5, atol=0)


def test_karras_grid():
    """Eq. 5 of Karras et al. 2022, and their 18-step CIFAR-10 grid's first steps."""
    sigmas = gt.karras_sigmas(18)
    index = np.arange(18)
    expected = (80 ** (1 / 7) + index / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(sigmas[:-1].numpy(), expected, rtol=1e-12)
    assert sigmas.shape == (19,)
    assert sigmas[0] == 80
    assert sigmas[-2] == 0.002
    assert sigmas[-1] == 0
    assert gt.karras_sigmas(1).tolist() == [80.0, 0.0]
    assert gt.karras_sigmas(1, 1.0, 1.0).tolist() == [1.0, 0.0]


@given(st.integers(2, 200), st.floats(1e-4, 1), st.floats(1.5, 1e3), st.floats(1, 20))
def test_karras_grids_decrease_from_end_to_end(n, sigma_min, sigma_max, rho):
    sigmas = gt.karras_sigmas(n, sigma_min, sigma_max, rho)
    assert (sigmas.diff() < 0).all()
    assert sigmas[[0, -2, -1]].tolist() == [sigma_max, sigma_min, 0.0]


@given(st.integers(2, 200), st.floats(1e-4, 1), st.floats(1.5, 1e3))
def test_a_grid_uniform_in_log_sigma(n, sigma_min, sigma_max):
    sigmas = gt.log_uniform_sigmas(n, sigma_min, sigma_max)
    np.testing.assert_allclose(sigmas[:-1].numpy(), np.geomspace(sigma_max, sigma_min, n), rtol=1e-12)
    assert sigmas[[0, -2, -1]].tolist() == [sigma_max, sigma_min, 0.0]
    assert gt.log_uniform_sigmas(1, sigma_min, sigma_max).tolist() == [sigma_max, 0.0]


@given(st.integers(2, 20))
def test_karras_grids_tend_to_the_one_uniform_in_log_sigma(n):
    """As ρ grows, σ^(1/ρ) tends to 1 + (ln σ)/ρ."""
    torch.testing.assert_close(gt.karras_sigmas(n, rho=1e6), gt.log_uniform_sigmas(n), rtol=1e-4, atol=0)


# ---- seeds


def test_large_seeds_and_numbers_are_told_apart():
    """Their words of 32 bits, written one after the other, were taken for each other."""
    large = 2**32
    pairs = [(3, 7), (3 + 7 * large, 0), (3, 7 * large), (3 * large, 7), (7, 3), (0, 3 + 7 * large), (3, 7 + large)]
    pairs += [(3 + large, 7), (3 + 7 * large**2, 0), (0, 0), (large, 0), (0, large), (large**2, 0)]
    first = {pair: seeded_noise(pair[0], [pair[1]], (4,)) for pair in pairs}
    assert len({tuple(row.flatten().tolist()) for row in first.values()}) == len(pairs)


def test_small_seeds_give_what_they_always_gave():
    for seed, number in ((0, 0), (3, 7), (2**32 - 1, 2**32 - 1)):
        mixed = np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)
        expected = torch.randn(5, generator=torch.Generator().manual_seed(int(mixed[0])))
        assert torch.equal(seeded_noise(seed, [number], (5,))[0], expected)


# ---- translation


@given(gaussians(), processes, fractions)
def test_to_and_from_ve_are_inverse(case, process, fraction):
    t = time_of(process, fraction)
    x_ve, sigma = process.to_ve(case.x, t)
    back, time = process.from_ve(x_ve, sigma)
    torch.testing.assert_close(back, case.x)
    torch.testing.assert_close(time, t, rtol=1e-9, atol=1e-12)


@given(gaussians(), processes, fractions)
def test_velocity_is_the_conditional_expectation(case, process, fraction):
    """For Gaussian data, a'·E[x0|x_t] + b'·E[n|x_t] by conditioning in numpy."""
    t = time_of(process, fraction)
    clean, noise = posterior(case, process.signal(t).item(), process.noise(t).item())
    signal_rate, noise_rate = (rate.item() for rate in process.rates(t))
    expected = signal_rate * clean + noise_rate * noise
    actual = process.velocity(case.model, case.x, t).reshape(expected.shape).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


@given(gaussians(), fractions)
def test_vp_velocity_is_the_probability_flow_of_the_vp_sde(case, fraction):
    """−½β(t)·(x + score), eq. 13 of Song et al. 2021 with f = −½βx and g² = β."""
    process = gt.VP()
    t = time_of(process, fraction)
    a, b = process.signal(t).item(), process.noise(t).item()
    spread = a**2 * case.covariance + b**2 * np.eye(case.model.dim)
    rows = case.x.reshape(len(case.x), -1).numpy()
    score = -(rows - a * case.model.mean.numpy().ravel()) @ np.linalg.inv(spread)
    beta = 0.1 + 19.9 * t.item()
    expected = -0.5 * beta * (rows + score)
    actual = process.velocity(case.model, case.x, t).reshape(rows.shape).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("process", [p for p in PROCESSES if not isinstance(p, gt.DDPM)], ids=repr)
@given(case=gaussians(), start=fractions, end=fractions)
@settings(max_examples=5)
def test_every_process_flows_as_ve_does(process, case, start, end):
    """Solving the process's own flow adaptively equals: to VE, the closed form, and back."""
    t0, t1 = time_of(process, start), time_of(process, end)
    model, shape = case.model, case.x.shape

    def velocity(t, flat):
        return process.velocity(model, torch.from_numpy(flat.reshape(shape)), t).numpy().ravel()

    flat = case.x.numpy().ravel()
    scale = np.abs(flat).max()
    solved = scipy.integrate.solve_ivp(
        velocity, (t0.item(), t1.item()), flat, method="DOP853", rtol=1e-11, atol=1e-12 * scale
    )
    x_ve, sigma = process.to_ve(case.x, t0)
    expected, _ = process.from_ve(model.flow(x_ve, sigma, process.sigma(t1)), process.sigma(t1))
    tolerance = 1e-8 * max(scale, float(expected.abs().max()))
    np.testing.assert_allclose(solved.y[:, -1], expected.numpy().ravel(), rtol=1e-8, atol=tolerance)


@given(gaussians(), processes, fractions, st.sampled_from(["epsilon", "sample", "v_prediction", "velocity"]))
def test_a_perfect_network_becomes_the_exact_denoiser(case, process, fraction, predicts):
    """The network answers from numpy's posterior in its own convention; the wrapped one must be the Gaussian itself."""
    seen = []

    def network(x_t, t):
        seen.append(t.shape)
        a, b = process.signal(t[:1]).item(), process.noise(t[:1]).item()
        rates = [rate.item() for rate in process.rates(t[:1])]
        at_t = type(case)(case.model, case.covariance, x_t, case.sigma)
        clean, noise = posterior(at_t, a, b)
        answer = {
            "epsilon": noise,
            "sample": clean,
            "v_prediction": a * noise - b * clean,
            "velocity": rates[0] * clean + rates[1] * noise,
        }[predicts]
        return torch.from_numpy(answer.reshape(x_t.shape))

    sigma = process.sigma(time_of(process, fraction)).item()
    wrapped = process.denoiser(network, predicts)(case.x, sigma)
    scale = float(case.x.abs().max()) * (1 + sigma)
    torch.testing.assert_close(wrapped, case.model(case.x, sigma), rtol=1e-7, atol=1e-9 * scale)
    assert seen == [(len(case.x),)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_half_precision_is_translated_in_float32(process, dtype):
    """The answers are those of float64 up to the rounding of what goes in and comes out."""
    t = torch.tensor([sum(TIMES[type(process)]) / 2, TIMES[type(process)][1]])
    sigma = process.sigma(t.double())
    x = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    denoiser = process.denoiser(lambda x_t, t: x_t * process.noise(t)[:, None].to(x_t), "epsilon")
    asks = {
        "to_ve": lambda x: process.to_ve(x, t),
        "from_ve": lambda x: process.from_ve(x, sigma),
        "velocity": lambda x: (process.velocity(lambda x, s: 0.5 * x, x, t),),
        "denoiser": lambda x: (denoiser(x, sigma),),
    }
    for ask in asks.values():
        answer, expected = ask(x), ask(x.double())
        assert answer[0].dtype == dtype
        scale = float(x.abs().max() / process.signal(t.max()))
        torch.testing.assert_close(
            answer[0].to(DOUBLE), expected[0], rtol=4 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps * scale
        )
        for value, right in zip(answer[1:], expected[1:], strict=True):
            torch.testing.assert_close(value.to(DOUBLE), right, rtol=1e-5, atol=0)


@given(gaussians(), st.sampled_from(["epsilon", "sample", "v_prediction"]), st.floats(0, 1))
def test_beyond_a_table_the_denoiser_is_continued(case, predicts, share):
    """Below, as much of the noise seen at σ_0 is taken away as is there; above, x is scaled down to σ_T."""
    process = gt.DDPM.linear()

    def network(x_t, t):
        a, b = process.signal(t[:1]).item(), process.noise(t[:1]).item()
        clean, noise = posterior(type(case)(case.model, case.covariance, x_t, case.sigma), a, b)
        answer = {"epsilon": noise, "sample": clean, "v_prediction": a * noise - b * clean}[predicts]
        return torch.from_numpy(answer.reshape(x_t.shape))

    lowest, highest = process.levels
    assert [lowest, highest] == process.sigma(torch.tensor([0.0, 999.0], dtype=DOUBLE)).tolist()
    denoiser = process.denoiser(network, predicts)
    noise = (case.x - case.model(case.x, lowest)) / lowest
    scale = 1e-8 * float(case.x.abs().max())
    torch.testing.assert_close(denoiser(case.x, share * lowest), case.x - share * lowest * noise, rtol=1e-6, atol=scale)
    above = highest * (1 + 9 * share)
    scaled = case.x * ((1 + highest**2) / (1 + above**2)) ** 0.5
    torch.testing.assert_close(denoiser(case.x, above), case.model(scaled, highest), rtol=1e-6, atol=scale)


def test_the_default_grid_runs_on_ddpms_table():
    """Down to σ = 0.002 and 0, with the exact network of a standard normal, whose flow is known."""
    process = gt.DDPM.linear()
    denoiser = process.denoiser(lambda x_t, t: x_t * process.noise(t)[:, None], "epsilon")
    x = 80 * torch.ones(1, 2, dtype=DOUBLE)
    *_, last = gt.samplers.heun(denoiser, x, gt.karras_sigmas(100))
    torch.testing.assert_close(last.x, x / (1 + 80**2) ** 0.5, rtol=2e-3, atol=0)


def test_a_batch_of_times_is_its_rows():
    model = gt.Gaussian.isotropic(torch.zeros(3, dtype=DOUBLE), 2.0)
    x = torch.randn(4, 3, dtype=DOUBLE)
    t = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=DOUBLE)
    for process in (gt.VP(), gt.FlowMatching()):
        together = process.velocity(model, x, t)
        for i in range(4):
            torch.testing.assert_close(together[i : i + 1], process.velocity(model, x[i : i + 1], t[i].item()))


# ---- bad input


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_times_and_levels_outside_a_process_are_refused_with_its_range(process):
    x, model = torch.zeros(1, 2), gt.Gaussian.isotropic(torch.zeros(2), 1.0)
    low, high = process.span
    of_time = [process.signal, process.noise, process.rates, process.sigma]
    of_time += [lambda t: process.to_ve(x, t), lambda t: process.velocity(model, x, t)]
    for t in [-1e-3, math.nan, math.inf] + ([1.001 * high] if high < math.inf else []):
        for ask in of_time:
            with pytest.raises(ValueError, match=f"expected {low:g} to {high:g}, the range of|finite number"):
                ask(torch.tensor([t]))
    lowest, highest = process.levels
    for sigma in [-1e-3, math.nan, math.inf] + [0.99 * lowest] * (lowest > 0) + [1.01 * highest] * (highest < math.inf):
        for ask in (process.time, lambda sigma: process.from_ve(x, sigma)):
            with pytest.raises(ValueError, match=f"expected {lowest:g} to {highest:g}, the range of|finite number"):
                ask(torch.tensor([sigma]))


def test_a_process_of_ones_own_may_have_any_times():
    class InLogSigma(gt.VE):
        """VE in the time ln σ."""

        span = (-math.inf, math.inf)

        def noise(self, t):
            return t.exp()

        def time(self, sigma):
            return sigma.log()

    process = InLogSigma()
    assert process.levels == (0.0, math.inf)
    assert process.sigma(torch.tensor([-2.0])).item() == pytest.approx(math.exp(-2))
    assert process.from_ve(torch.ones(1, 2), 0.5)[1].item() == pytest.approx(math.log(0.5))
    with pytest.raises(ValueError, match="expected -inf to inf, the range of InLogSigma"):
        process.signal(torch.tensor([-math.inf]))


def test_an_end_that_float32_rounds_is_still_one():
    for process in PROCESSES[1:]:
        ends = torch.tensor([end for end in process.levels if 0 < end < math.inf] or [1.0]) * (1 + 1e-6)
        assert (process.sigma(process.time(ends)) / ends - 1).abs().max() < 1e-5


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gt.karras_sigmas(0), ValueError, "n is 0, expected an integer >= 1"),
        (lambda: gt.karras_sigmas(2.0), ValueError, "n is 2.0"),
        (lambda: gt.karras_sigmas(5, sigma_min=0.0), ValueError, "sigma_min is 0.0 and sigma_max 80.0"),
        (lambda: gt.karras_sigmas(5, 2.0, 1.0), ValueError, "expected 0 < sigma_min <= sigma_max"),
        (lambda: gt.karras_sigmas(5, 1.0, 1.0), ValueError, "5 levels from 1.0 to 1.0 do not decrease"),
        (lambda: gt.karras_sigmas(5, rho=0), ValueError, "rho is 0"),
        (lambda: gt.log_uniform_sigmas(0), ValueError, "n is 0, expected an integer >= 1"),
        (lambda: gt.log_uniform_sigmas(5, 2.0, 1.0), ValueError, "expected 0 < sigma_min <= sigma_max"),
        (lambda: gt.log_uniform_sigmas(5, 1.0, 1.0), ValueError, "5 levels from 1.0 to 1.0 do not decrease"),
        (lambda: gt.karras_sigmas(5, rho=1e-3), ValueError, "5 levels from 80.0 to 0.002 do not decrease in float64"),
        (lambda: gt.karras_sigmas(5, rho=1e18), ValueError, "5 levels from 80.0 to 0.002 do not decrease in float64"),
        (lambda: gt.log_uniform_sigmas(99, 1.0, 1 + 1e-15), ValueError, "99 levels from .* do not decrease"),
        (lambda: gt.DDPM.linear(-1), ValueError, "steps is -1, expected an integer >= 2"),
        (lambda: gt.VP(2.0, 1.0), ValueError, "beta_min is 2.0 and beta_max 1.0"),
        (lambda: gt.DDPM(torch.ones(1)), ValueError, r"alphas_cumprod has shape \(1,\)"),
        (lambda: gt.DDPM(torch.linspace(1e-4, 0.02, 10)), ValueError, r"of betas it is \(1 - betas\).cumprod\(0\)"),
        (
            lambda: gt.DDPM.linear().time(torch.tensor([0.001])),
            ValueError,
            "expected 0.010.* to 157.4.*, the range of DDPM",
        ),
        (lambda: gt.DDPM.linear().sigma(torch.tensor([1000.0])), ValueError, "expected 0 to 999"),
        (lambda: gt.FlowMatching().to_ve(torch.zeros(1, 2), 1.0), ValueError, "no signal left at t = 1"),
        (lambda: gt.FlowMatching().from_ve(torch.zeros(1, 2), 1e20), ValueError, "no signal left at t = 1"),
        (
            lambda: gt.FlowMatching().to_ve(torch.full((1, 2), 6e4, dtype=torch.float16), 0.5),
            ValueError,
            r"x / signal\(t\) holds 2 values that are NaN or infinite",
        ),
        (lambda: gt.VE().velocity(lambda x, s: x, torch.zeros(1, 2), 0.0), ValueError, "no noise at time t"),
        (
            lambda: gt.VP().denoiser(lambda x, t: x, "noise"),
            ValueError,
            "predicts is 'noise', expected one of 'epsilon'",
        ),
        (lambda: gt.score(lambda x, s: x, torch.full((1, 2), torch.nan), 1.0), ValueError, "x holds 2 values"),
        (lambda: gt.score(lambda x, s: x, torch.zeros(1, 2), 0.0), ValueError, "sigma is 0, expected sigma > 0"),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
