"""The bridge to diffusers: every scheduler from the middle of its grid, the hybrid network, and whole pipelines.

The network is the Gaussian's own denoiser in the scheduler's words, so that the solution is known: what was skipped
must not be missed. Levels are read here from the schedulers' tables, independently of the library.
"""

import copy
import itertools
import json
import math
import sys
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

import gausstools as gt
from gausstools.diffusers import HybridDenoiser, TeleportPipeline, signal_and_noise, teleport_latents

EVENT = (1, 4, 4)
LINSPACE = {"timestep_spacing": "linspace"}
TABLE = {  # VP networks, whose scheduler has a table of steps
    "DDIM": diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True),
    "DDIM-trailing-zero-snr": diffusers.DDIMScheduler(
        clip_sample=False, rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction"
    ),
    "DDPM": diffusers.DDPMScheduler(clip_sample=False),
    "DPM++": diffusers.DPMSolverMultistepScheduler(),
    "DPM++Karras": diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True, prediction_type="v_prediction"),
    "UniPC": diffusers.UniPCMultistepScheduler(),
    "DEIS": diffusers.DEISMultistepScheduler(),
    "Euler": diffusers.EulerDiscreteScheduler(),
    "EulerLeading": diffusers.EulerDiscreteScheduler(timestep_spacing="leading", prediction_type="v_prediction"),
    "EulerAncestral": diffusers.EulerAncestralDiscreteScheduler(),
    "Heun": diffusers.HeunDiscreteScheduler(),
    "HeunKarras": diffusers.HeunDiscreteScheduler(use_karras_sigmas=True, prediction_type="sample"),
    "KDPM2": diffusers.KDPM2DiscreteScheduler(),
    "KDPM2Ancestral": diffusers.KDPM2AncestralDiscreteScheduler(),
    "LMS": diffusers.LMSDiscreteScheduler(),
}
OTHERS = {
    "EDMEuler": diffusers.EDMEulerScheduler(),
    "EDMEuler-v": diffusers.EDMEulerScheduler(prediction_type="v_prediction"),
    "EDMDPM++": diffusers.EDMDPMSolverMultistepScheduler(),
    "Flow": diffusers.FlowMatchEulerDiscreteScheduler(),
    "FlowShift": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "FlowHeun": diffusers.FlowMatchHeunDiscreteScheduler(),
    "FlowInverted": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, invert_sigmas=True),  # Mochi's: 0 is noise
    "DPM++Flow": diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    "DPM++FlowSample": diffusers.DPMSolverMultistepScheduler(prediction_type="sample", use_flow_sigmas=True),
    "Heir": type("Heir", (diffusers.EDMEulerScheduler,), {})(),  # what a scheduler is does not hang on its name
}
ALL = TABLE | OTHERS
RANDOM = {"DDPM", "EulerAncestral", "KDPM2Ancestral"}
MULTISTEP = {"DPM++", "DPM++Karras", "UniPC", "DEIS", "LMS", "EDMDPM++", "DPM++Flow", "DPM++FlowSample"}


@pytest.fixture(scope="module")
def gaussian():
    draw = torch.Generator().manual_seed(0)
    mix = torch.randn(16, 16, generator=draw) * torch.logspace(0, -1.5, 16)
    return gt.Gaussian.fit((torch.randn(400, 16, generator=draw) @ mix.T / 4 + 0.3).reshape(-1, *EVENT))


def level(scheduler, index):
    """The VE noise level and the factor a at a step, from the scheduler's table."""
    if "sigmas" not in vars(scheduler):
        alpha = float(scheduler.alphas_cumprod[int(scheduler.timesteps[index])])
        return (math.sqrt(1 / alpha - 1) if alpha else math.inf), math.sqrt(alpha)
    name = type(scheduler).__name__
    if "KDPM2" in name and index % 2:  # where it evaluates between two levels
        return float(scheduler.sigmas_interpol[index - ("Ancestral" in name)]), 1.0
    sigma = float(scheduler.sigmas[index])
    if "Flow" in name or scheduler.config.get("use_flow_sigmas"):
        sigma = 1 - sigma if scheduler.config.get("invert_sigmas") else sigma
        return (sigma / (1 - sigma) if sigma < 1 else math.inf), 1 - sigma
    vp = "Multistep" in name and "EDM" not in name
    return sigma, 1 / math.sqrt(1 + sigma**2) if vp else 1.0


class Exact(nn.Module):
    """The Gaussian's denoiser as a network of a scheduler; it counts its calls and remembers where it was asked."""

    dtype = torch.float32

    def __init__(self, gaussian, scheduler):
        super().__init__()
        self.gaussian, self.scheduler, self.index, self.asked = gaussian, scheduler, 0, []
        self.config = diffusers.configuration_utils.FrozenDict(in_channels=1, out_channels=1, sample_size=4)

    def forward(self, sample, timestep, return_dict=True):
        sigma, a = level(self.scheduler, self.index)
        self.asked.append(sigma)
        config = self.scheduler.config
        predicts, straight = config.get("prediction_type", "flow_prediction"), config.get("use_flow_sigmas")
        edm, vp = "sigma_data" in config, 1 / math.hypot(1, sigma)
        scale = a if predicts == "flow_prediction" or straight else 1 / math.hypot(sigma, 0.5) if edm else vp
        x = sample / scale if scale else None
        clean = self.gaussian(x, sigma) if scale else self.gaussian.mean.expand_as(sample)
        noise = (x - clean) / sigma if scale else sample
        answer = {
            "epsilon": noise,
            "sample": clean,
            "v_prediction": vp * noise - (sigma * vp if scale else 1.0) * clean,
            "flow_prediction": clean - noise if config.get("invert_sigmas") else noise - clean,
        }[predicts]
        if edm:
            answer = (clean - 0.25 / (sigma**2 + 0.25) * x) * math.hypot(sigma, 0.5) / (sigma * 0.5)
            answer = -answer if predicts == "v_prediction" else answer
        return SimpleNamespace(sample=answer) if return_dict else (answer,)


def run(scheduler, network, x, first=0, seed=0):
    """Steps from a scheduler's state x at step ``first``, as pipelines take them; every state, the first included."""
    extra = {}
    if "generator" in type(scheduler).step.__code__.co_varnames:
        extra["generator"] = torch.Generator().manual_seed(seed)
    states = [x]
    for index, t in enumerate(scheduler.timesteps[first:], first):
        if isinstance(network, Exact):
            network.index = index
        elif isinstance(network, HybridDenoiser):
            network.network.index = index
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(scaled, t, return_dict=False)[0], t, x, **extra).prev_sample
        states.append(x)
    return states


def initial(scheduler):
    return float(getattr(scheduler, "init_noise_sigma", 1.0))


def draw_noise(rows=3):
    return torch.randn(rows, *EVENT, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ALL)
def test_signal_and_noise_are_those_of_the_scheduler(name):
    scheduler = copy.deepcopy(ALL[name])
    scheduler.set_timesteps(12)
    before = copy.deepcopy(vars(scheduler))
    signal, noise = signal_and_noise(scheduler)
    expected = [level(scheduler, index) for index in range(len(scheduler.timesteps))]
    torch.testing.assert_close(signal, torch.tensor([a for _, a in expected], dtype=torch.float64), rtol=1e-6, atol=0)
    sigmas = torch.tensor([sigma for sigma, _ in expected], dtype=torch.float64)
    torch.testing.assert_close(noise / signal, sigmas, rtol=1e-5, atol=0)
    assert scheduler.step_index is None if hasattr(scheduler, "step_index") else True
    assert set(vars(scheduler)) == set(before)


@pytest.mark.parametrize("name", ALL)
def test_the_latents_are_the_flow_of_the_noise(name, gaussian):
    """From the pipeline's own start; multiplied by init_noise_sigma they are the scheduler's state."""
    scheduler, noise = copy.deepcopy(ALL[name]), draw_noise()
    jump = teleport_latents(scheduler, gaussian, noise, 6.0, 12)
    scheduler.set_timesteps(12)
    top, a = level(scheduler, 0)
    start = noise * initial(scheduler)
    start, top = (1e6 * start, 1e6) if math.isinf(top) else (start / a, top)
    sigma, a = level(jump.scheduler, 0)
    assert jump.sigma == pytest.approx(sigma, rel=1e-5)
    assert sigma <= 6.0
    state = jump.latents * initial(jump.scheduler)
    torch.testing.assert_close(state, a * gaussian.flow(start, top, sigma), rtol=1e-4, atol=2e-5)
    levels = [level(scheduler, index)[0] for index in range(len(scheduler.timesteps))]
    skipped = next(i for i in range(0, len(levels), scheduler.order) if levels[i] <= 6.0)
    assert (jump.nfe, jump.nfe_saved) == (len(levels) - skipped, skipped)
    assert len(jump.scheduler.timesteps) == jump.nfe


@pytest.mark.parametrize("name", sorted(set(ALL) - MULTISTEP))
def test_one_step_methods_go_on_as_the_whole_run_does(name, gaussian):
    """From the state of the whole run at that level, the rest of the run is the same."""
    whole, noise = copy.deepcopy(ALL[name]), draw_noise()
    jump = teleport_latents(whole, gaussian, noise, 6.0, 12)
    whole.set_timesteps(12)
    first = jump.nfe_saved
    states = run(whole, Exact(gaussian, whole), noise * initial(whole))
    if name in RANDOM:
        whole.set_timesteps(12)
        if hasattr(whole, "set_begin_index"):
            whole.set_begin_index(first)
        states = [None] * first + run(whole, Exact(gaussian, whole), states[first], first)
    rest = run(jump.scheduler, Exact(gaussian, jump.scheduler), states[first])
    assert len(rest) == jump.nfe + 1
    for expected, actual in zip(states[first:], rest, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "sigma_skip", "steps"),
    [*((name, 6.0, 12) for name in sorted(MULTISTEP - {"LMS"})), ("DPM++Karras", 0.045, 300)],
)
def test_multistep_methods_go_on_as_from_a_begin_index(name, sigma_skip, steps, gaussian):
    """As image-to-image pipelines start them: the history is empty, the steps are those of the grid.

    The last case starts where rounded timesteps repeat; without a begin index it would start at the second of them.
    """
    scheduler, noise = copy.deepcopy(ALL[name]), draw_noise()
    jump = teleport_latents(scheduler, gaussian, noise, sigma_skip, steps)
    state = jump.latents * initial(jump.scheduler)
    scheduler.set_timesteps(steps)
    first = jump.nfe_saved
    assert (scheduler.timesteps[first] == scheduler.timesteps[first + 1]) == (sigma_skip < 1)
    scheduler.set_begin_index(first)
    expected = run(scheduler, Exact(gaussian, scheduler), state, first)
    actual = run(jump.scheduler, Exact(gaussian, jump.scheduler), state)
    torch.testing.assert_close(torch.stack(actual), torch.stack(expected), rtol=1e-5, atol=1e-5)


def adams_bashforth(sigmas, slope, x, order=4):
    """The linear multistep method in σ: the polynomial through the last slopes, integrated."""
    slopes, states = [], [x]
    for i, (a, b) in enumerate(itertools.pairwise(sigmas)):
        slopes.append(slope(x, a))
        nodes = np.array(sigmas[max(0, i - order + 1) : i + 1], dtype=float)
        for j, node in enumerate(nodes):
            others = np.delete(nodes, j)
            weight = np.polynomial.Polynomial(np.atleast_1d(np.poly(others))[::-1]).integ() / np.prod(node - others)
            x = x + float(weight(b) - weight(a)) * slopes[len(slopes) - len(nodes) + j]
        states.append(x)
    return states


def test_lms_from_the_middle_is_adams_bashforth_on_the_rest(gaussian):
    """By a begin index it is not: it takes as many old slopes as there were steps, and has none of them."""
    scheduler, noise = copy.deepcopy(ALL["LMS"]), draw_noise()
    jump = teleport_latents(scheduler, gaussian, noise, 6.0, 12)
    state = jump.latents * initial(jump.scheduler)
    actual = run(jump.scheduler, Exact(gaussian, jump.scheduler), state)
    sigmas = jump.scheduler.sigmas.tolist()
    expected = adams_bashforth(sigmas, lambda x, sigma: (x - gaussian(x, sigma)) / sigma, state)
    torch.testing.assert_close(torch.stack(actual), torch.stack(expected), rtol=1e-4, atol=1e-4)
    scheduler.set_timesteps(12)
    scheduler.set_begin_index(jump.nfe_saved)
    wrong = run(scheduler, Exact(gaussian, scheduler), state, jump.nfe_saved)[-1]
    assert (wrong - expected[-1]).norm() > 0.1 * expected[-1].norm()


@pytest.mark.parametrize("name", sorted(set(ALL) - RANDOM))
def test_the_jump_costs_nothing_where_the_network_is_the_gaussian(name, gaussian):
    """Whole run and teleported run converge to the same end, the exact flow's, up to the scheduler's last step to 0."""
    noise, apart, off = draw_noise(), [], []
    for steps in (25, 100):  # divisors of 1000: by others, DDIM's trailing grid does not step to its own next level
        whole = copy.deepcopy(ALL[name])
        jump = teleport_latents(whole, gaussian, noise, 6.0, steps)
        whole.set_timesteps(steps)
        top, a = level(whole, 0)
        start, top = (1e6 * noise, 1e6) if math.isinf(top) else (noise * initial(whole) / a, top)
        exact = gaussian.flow(start, top, 0.0)
        runs = [(whole, noise), (jump.scheduler, jump.latents)]
        ends = [run(s, Exact(gaussian, s), x * initial(s))[-1] for s, x in runs]
        apart.append(float((ends[0] - ends[1]).norm() / exact.norm()))
        off.append(float((ends[1] - exact).norm() / exact.norm()))
    assert apart[1] < min(0.4 * apart[0], 1e-3)
    assert off[1] < min(0.95 * off[0], 0.03)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("sigma_skip", [6.0, 0.5])
def test_the_hybrid_is_the_whole_run_where_the_network_is_the_gaussian(name, sigma_skip, gaussian):
    whole, mixed, noise = copy.deepcopy(ALL[name]), copy.deepcopy(ALL[name]), draw_noise()
    for scheduler in (whole, mixed):
        scheduler.set_timesteps(12)
    expected = run(whole, Exact(gaussian, whole), noise * initial(whole))
    hybrid = HybridDenoiser(Exact(gaussian, mixed), gaussian, sigma_skip, mixed)
    actual = run(mixed, hybrid, noise * initial(mixed))
    torch.testing.assert_close(torch.stack(actual), torch.stack(expected), rtol=2e-4, atol=2e-5)
    levels = [level(mixed, index)[0] for index in range(len(mixed.timesteps))]
    assert (hybrid.calls, hybrid.saved) == (sum(x <= sigma_skip for x in levels), sum(x > sigma_skip for x in levels))
    assert hybrid.network.asked == [x for x in levels if x <= sigma_skip]


# ---- what does not work, and is refused


@pytest.mark.parametrize("name", ["Heun", "KDPM2", "FlowHeun"])
def test_methods_of_order_two_start_wrongly_between_their_two_calls(name, gaussian):
    """Why the jump lands on every other timestep only: from an odd one, the half that is left of a step goes wrong."""
    scheduler, noise, off = copy.deepcopy(ALL[name]), draw_noise(), []
    for odd in (0, 1):
        scheduler.set_timesteps(60)
        first = 2 * (len(scheduler.timesteps) // 4) + odd
        scheduler.set_begin_index(first)
        sigma, a = level(scheduler, first)
        states = run(scheduler, Exact(gaussian, scheduler), a * gaussian.flow(80.0 * noise, 80.0, sigma), first)
        exact = gaussian.flow(80.0 * noise, 80.0, 0.0)
        off.append(float((states[-1] - exact).norm() / exact.norm()))
    assert off[1] > 5 * off[0]


def test_pndm_starts_wrongly_in_the_middle_of_its_timesteps(gaussian):
    """Started on the rest of its timesteps, it takes the second for the repetition of the first, and lags behind."""
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=True)
    exact, off = gaussian.flow(80.0 * draw_noise(), 80.0, 0.0), []
    for first in (0, 5):
        scheduler.set_timesteps(10)
        sigma, a = level(scheduler, first)
        x = a * gaussian.flow(80.0 * draw_noise(), 80.0, sigma)
        end = run(scheduler, Exact(gaussian, scheduler), x, first)[-1]
        off.append(float((end - exact).norm() / exact.norm()))
    assert off[1] > 2 * off[0]
    with pytest.raises(ValueError, match=r"PNDMScheduler is not known to start rightly .* DDIMScheduler, "):
        teleport_latents(scheduler, gaussian, 1, 6.0, 20)


def test_from_config_drops_a_sigma_max_that_is_not_declared():
    """So the Karras grid below σ_skip is asked for by register_to_config."""
    kept = {}
    for name in ("EulerDiscrete", "UniPCMultistep", "EDMEuler", "EDMDPMSolverMultistep"):
        kept[name] = True
    for name in ("DPMSolverMultistep", "HeunDiscrete", "DEISMultistep"):
        kept[name] = False
    for name, expected in kept.items():
        kind = getattr(diffusers, f"{name}Scheduler")
        scheduler = kind.from_config(dict(kind().config), use_karras_sigmas=True, sigma_max=6.0)
        scheduler.set_timesteps(10)
        assert (abs(level(scheduler, 0)[0] - 6.0) < 1e-4) == expected, name


KARRAS = {"DPM++", "DPM++Karras", "UniPC", "DEIS", "Euler", "EulerLeading", "Heun", "HeunKarras", "KDPM2"}
KARRAS |= {"KDPM2Ancestral", "EDMEuler", "EDMEuler-v", "EDMDPM++", "Flow", "FlowShift", "FlowInverted", "Heir"}


@pytest.mark.parametrize("name", ALL)
def test_the_karras_grid_starts_at_sigma_skip(name, gaussian):
    if name not in KARRAS:
        with pytest.raises(ValueError, match="does not spread its levels below a given one: asked for 6 "):
            teleport_latents(ALL[name], gaussian, 1, 6.0, 12, grid="karras")
        return
    jump = teleport_latents(ALL[name], gaussian, draw_noise(), 6.0, 50, grid="karras")
    assert jump.sigma == pytest.approx(6.0, rel=1e-5)
    assert (jump.nfe, jump.nfe_saved) == (len(jump.scheduler.timesteps), 0)
    if name not in RANDOM:
        ends = run(jump.scheduler, Exact(gaussian, jump.scheduler), jump.latents * initial(jump.scheduler))
        exact = gaussian.flow(1e6 * draw_noise(), 1e6, 0.0)
        assert (ends[-1] - exact).norm() < 0.05 * exact.norm()


def test_flow_matching_shifts_the_sigmas_that_it_is_given(gaussian):
    """So what counts is the grid after set_timesteps; the jump is given what the pipeline hands to it."""
    scheduler, sigmas = copy.deepcopy(OTHERS["FlowShift"]), [1.0, 0.8, 0.6, 0.4, 0.2]
    scheduler.set_timesteps(sigmas=sigmas)
    assert scheduler.sigmas[:-1].tolist() == pytest.approx([3 * s / (1 + 2 * s) for s in sigmas])
    jump = teleport_latents(scheduler, gaussian, 1, 4.0, sigmas=sigmas)
    assert jump.sigma == pytest.approx(2.0)  # t = 3·0.4/(1 + 2·0.4) = 2/3, the first at which t/(1 − t) is below 4
    assert (jump.nfe, jump.nfe_saved) == (2, 3)


def test_edm_takes_sigmas_for_places_on_its_grid(gaussian):
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(sigmas=torch.tensor([6.0, 1.0]))
    assert not torch.allclose(scheduler.sigmas[:2], torch.tensor([6.0, 1.0]), rtol=0.5)
    with pytest.raises(ValueError, match=r"sigma_skip is 6.0, expected a VE noise level between 0 and the first, -"):
        teleport_latents(scheduler, gaussian, 1, 6.0, sigmas=torch.tensor([6.0, 1.0]))


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": diffusers.DPMSolverSinglestepScheduler()}, ValueError, "is not known to start rightly"),
        ({"target": diffusers.LCMScheduler()}, ValueError, "is not known to start rightly .* DDIMScheduler, "),
        ({"target": nn.Identity()}, ValueError, "Identity is not known to start rightly"),
        (
            {"target": object.__new__(diffusers.FluxInpaintPipeline)},
            ValueError,
            "takes no latents, or not as all .* Put a HybridDenoiser",
        ),
        ({"target": diffusers.IPNDMScheduler()}, ValueError, "is not known to start rightly"),
        ({"gaussian": nn.Identity()}, TypeError, "Identity"),
        ({"gaussian": {}}, TypeError, "gaussian is dict"),
        ({"noise": torch.zeros(1, 3)}, ValueError, r"noise has shape \(1, 3\), expected \(batch, 1, 4, 4\)"),
        ({"noise": 0}, ValueError, "noise is 0"),
        ({"sigma_skip": 200.0}, ValueError, "sigma_skip is 200.0, expected .* between 0 and the first, 157.4"),
        ({"sigma_skip": 0.0}, ValueError, "sigma_skip is 0.0"),
        ({"sigma_skip": -1.0}, ValueError, "sigma_skip is -1.0"),
        ({"sigma_skip": math.nan}, ValueError, "sigma_skip is nan"),
        ({"sigma_skip": torch.ones(2)}, ValueError, "sigma_skip is tensor.* expected a VE noise level"),
        ({"sigma_skip": 0.001}, ValueError, "expected 0.01 at least, where the last step starts"),
        ({"num_inference_steps": 0}, ValueError, "num_inference_steps is 0"),
        ({"grid": "cosine"}, ValueError, "grid is 'cosine', expected 'cut' or 'karras'"),
    ],
)
def test_bad_input_is_named(change, error, message, gaussian):
    given = {"target": TABLE["DDIM"], "gaussian": gaussian, "noise": 1, "sigma_skip": 6.0, "num_inference_steps": 1000}
    with pytest.raises(error, match=message):
        teleport_latents(**(given | change))


def test_a_grid_that_rises_or_is_given_has_no_jump(gaussian):
    with pytest.raises(ValueError, match=r"sigma_skip is 6.0, expected a VE noise level between 0 and the first, 1"):
        teleport_latents(TABLE["Euler"], gaussian, 1, 6.0, sigmas=[1.0, 8.0, 30.0, 0.0])
    with pytest.raises(ValueError, match=r"FlowMatchEulerDiscreteScheduler .* at a wrong time"):
        teleport_latents(OTHERS["FlowShift"], gaussian, 1, 6.0, timesteps=[990.0, 500.0, 20.0], grid="karras")


@pytest.mark.usefixtures("as_installed")
def test_a_level_in_a_tensor_and_an_empty_batch_are_taken(gaussian):
    jump = teleport_latents(TABLE["Euler"], gaussian, draw_noise(), torch.tensor(6.0), 12)
    assert torch.equal(jump.latents, teleport_latents(TABLE["Euler"], gaussian, draw_noise(), 6.0, 12).latents)
    assert teleport_latents(TABLE["Euler"], gaussian, draw_noise(0), 6.0, 12).latents.shape == (0, *EVENT)


def test_a_jump_changes_nothing_and_is_not_made_twice(gaussian):
    scheduler = diffusers.EulerDiscreteScheduler()
    scheduler.set_timesteps(7)
    before = copy.deepcopy(vars(scheduler))
    for grid in ("cut", "karras"):
        jump = teleport_latents(scheduler, gaussian, 1, 6.0, 12, grid=grid)
        assert vars(scheduler).keys() == before.keys()
        assert scheduler.config == before["_internal_dict"]
        assert torch.equal(scheduler.timesteps, before["timesteps"])
    with pytest.raises(ValueError, match="starts after a jump already, expected the pipeline's own"):
        teleport_latents(jump.scheduler, gaussian, 1, 3.0, 12)


@pytest.mark.parametrize("grid", ["cut", "karras"])
def test_another_grid_than_the_latents_stand_on_is_refused(grid, gaussian):
    """Copies keep the cut, and apply it to themselves."""
    jump = teleport_latents(TABLE["Euler"], gaussian, 1, 6.0, 12, grid=grid)
    twin = copy.deepcopy(jump.scheduler)
    twin.set_timesteps(12)
    assert torch.equal(twin.sigmas, jump.scheduler.sigmas)
    if grid == "cut":
        with pytest.raises(ValueError, match=r"the pipeline's grid starts at .* but the latents stand at"):
            jump.scheduler.set_timesteps(20)
    assert len(twin.timesteps) == jump.nfe


# ---- the hybrid network


class Tokens(nn.Module):
    """Called by name as transformers are, and told the time in [0, 1], as some are, in bfloat16."""

    def __init__(self):
        super().__init__()
        self.config = diffusers.configuration_utils.FrozenDict(in_channels=1)
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen = []

    def forward(self, hidden_states, encoder_hidden_states=None, timestep=None, return_dict=True):
        self.seen.append(float(timestep[0]))
        return (0 * hidden_states,)


@pytest.mark.parametrize("named", ["Flow", "FlowShift"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_hybrid_knows_the_level_however_it_is_called(named, dtype, gaussian):
    scheduler = copy.deepcopy(OTHERS[named])
    scheduler.set_timesteps(30)
    hybrid, x = HybridDenoiser(Tokens(), gaussian, 2.0, scheduler), draw_noise()
    for t in scheduler.timesteps:
        x = scheduler.step(hybrid(timestep=t.expand(3).to(dtype) / 1000, hidden_states=x, return_dict=False)[0], t, x)
        x = x.prev_sample
    levels = [level(scheduler, index)[0] for index in range(30)]
    assert (hybrid.calls, hybrid.saved) == (sum(x <= 2.0 for x in levels), sum(x > 2.0 for x in levels))
    assert max(hybrid.network.seen) <= 0.67


@pytest.mark.parametrize("name", ["DDIM", "Euler", "DPM++"])
def test_outside_a_run_a_timestep_is_that_of_its_own_step(name, gaussian):
    scheduler = copy.deepcopy(ALL[name])
    scheduler.set_timesteps(1000)
    hybrid, x = HybridDenoiser(tiny_unet(), gaussian, 1e-3, scheduler), draw_noise()
    t = scheduler.timesteps[4]  # within a hundredth of the first
    sigma = level(scheduler, 4)[0]
    expected = gaussian(x * math.hypot(1, sigma), sigma)
    answer = hybrid(x, t).sample
    torch.testing.assert_close(answer, (x * math.hypot(1, sigma) - expected) / sigma, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_hybrid_computes_in_the_dtype_of_its_gaussian(dtype, gaussian):
    scheduler = copy.deepcopy(TABLE["DDIM"])
    scheduler.set_timesteps(10)
    wide = copy.deepcopy(gaussian).to(dtype)
    for asked in (torch.float32, torch.float64):
        answer = HybridDenoiser(tiny_unet(), wide, 1e-3, scheduler)(draw_noise().to(asked), scheduler.timesteps[0])
        assert answer.sample.dtype == asked


def test_on_the_whole_grid_of_training_a_timestep_of_1_is_no_share_of_1000(gaussian):
    scheduler = copy.deepcopy(TABLE["DDIM"])
    scheduler.set_timesteps(1000)
    hybrid = HybridDenoiser(tiny_unet(), gaussian, 6.0, scheduler)
    hybrid(draw_noise(), scheduler.timesteps[-2])
    assert scheduler.timesteps[-2] == 1
    assert (hybrid.calls, hybrid.saved) == (1, 0)


def test_the_hybrid_is_the_network_in_all_else(gaussian):
    hybrid = HybridDenoiser(tiny_unet(), gaussian, 6.0, TABLE["DDIM"])
    assert hybrid.config is hybrid.network.config
    assert (hybrid.dtype, hybrid.device) == (torch.float32, torch.device("cpu"))
    assert hybrid.config.in_channels == 1
    assert hybrid.half().dtype == torch.float16
    assert gaussian.mean.dtype == torch.float32
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = hybrid.nonsense


STRAIGHT = {"use_flow_sigmas": True}


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (diffusers.IPNDMScheduler(), "IPNDMScheduler does not tell its states by add_noise"),
        (diffusers.DDIMInverseScheduler(), "DDIMInverseScheduler does not tell"),
        (diffusers.SASolverScheduler(**STRAIGHT), "SASolverScheduler does not tell"),
        (diffusers.LCMScheduler(), "what LCMScheduler asks its network for is 'the image of a distilled network"),
        (diffusers.TCDScheduler(), "distilled"),
        (diffusers.CMStochasticIterativeScheduler(), "distilled"),
        (diffusers.FlowMatchLCMScheduler(), "distilled"),
        (diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "distilled"),
        (
            diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction"),
            "what UniPCMultistepScheduler asks its network for is 'flow_prediction', expected",
        ),
        (
            diffusers.UniPCMultistepScheduler(prediction_type="v_prediction", **STRAIGHT),
            "is 'v_prediction', expected .* 'flow_prediction'",
        ),
    ],
)
def test_the_hybrid_refuses_what_it_has_no_answer_for(scheduler, message, gaussian):
    with pytest.raises(ValueError, match=message):
        HybridDenoiser(tiny_unet(), gaussian, 6.0, scheduler)


def test_an_sde_solver_asks_between_its_levels(monkeypatch, gaussian):
    """Where its own step says: the level that it scales the input of its second call for."""
    monkeypatch.setitem(sys.modules, "torchsde", SimpleNamespace())
    from diffusers.schedulers.scheduling_dpmsolver_sde import DPMSolverSDEScheduler

    scheduler, x = DPMSolverSDEScheduler(), draw_noise()
    scheduler.set_timesteps(5)
    scheduler.noise_sampler = lambda *_: torch.zeros_like(x)
    _, noise = signal_and_noise(scheduler)
    for index, t in enumerate(scheduler.timesteps[:-1]):
        scaled = scheduler.scale_model_input(x, t)
        torch.testing.assert_close(x / scaled, torch.full_like(x, math.hypot(1, noise[index])), rtol=1e-5, atol=0)
        x = scheduler.step(0 * x, t, x).prev_sample


def test_a_state_that_is_not_told_is_refused():
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match=r"does not tell its states .* such as DDIMScheduler"):
        signal_and_noise(scheduler)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["DDIM", "Euler", "Flow"])
def test_in_half_precision_the_answer_is_the_exact_one_rounded(name, dtype, gaussian):
    scheduler, x = copy.deepcopy(ALL[name]), draw_noise()
    scheduler.set_timesteps(12)
    answer = HybridDenoiser(tiny_unet(), gaussian, 1.0, scheduler)(x.to(dtype), scheduler.timesteps[2]).sample
    exact = Exact(copy.deepcopy(gaussian).double(), scheduler)
    exact.index = 2
    assert answer.dtype == dtype
    torch.testing.assert_close(answer.double(), exact(x.to(dtype).double(), None).sample, rtol=8e-3, atol=1e-3)
    jump = teleport_latents(scheduler, gaussian, x.to(dtype), 6.0, 12)
    whole = teleport_latents(scheduler, gaussian, x, 6.0, 12)
    assert jump.latents.dtype == dtype
    torch.testing.assert_close(jump.latents.float(), whole.latents, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_gaussian_in_half_precision_is_computed_with_in_float32(dtype):
    """Its numbers are whole in any precision here, so that all answers are the same."""
    scheduler, x, whole = (
        copy.deepcopy(OTHERS["Flow"]),
        draw_noise(),
        gt.Gaussian.isotropic(torch.full(EVENT, 0.5), 0.25),
    )
    scheduler.set_timesteps(12)
    half = copy.deepcopy(whole).to(dtype)
    hybrid, exact = (HybridDenoiser(tiny_unet(), g, 1.0, scheduler)(x, 1000.0).sample for g in (half, whole))
    assert torch.equal(hybrid, exact)
    exact = teleport_latents(scheduler, whole, x, 6.0, 12).latents
    assert torch.equal(teleport_latents(scheduler, half, x, 6.0, 12).latents, exact)
    assert teleport_latents(scheduler, half, 2, 6.0, 12).latents.dtype == half.dtype == dtype


def test_a_variance_that_was_learned_outright_is_not_answered(gaussian):
    scheduler = diffusers.DDPMScheduler(variance_type="learned")
    scheduler.set_timesteps(10)
    network = tiny_unet()
    network.register_to_config(out_channels=2)
    with pytest.raises(ValueError, match="variance_type is 'learned'"):
        HybridDenoiser(network, gaussian, 6.0, scheduler)(draw_noise(), scheduler.timesteps[0])


@pytest.mark.usefixtures("as_installed")
def test_the_hybrid_names_what_it_cannot_use(gaussian):
    scheduler = copy.deepcopy(TABLE["DDIM"])
    scheduler.set_timesteps(10)
    hybrid = HybridDenoiser(tiny_unet(), gaussian, 6.0, scheduler)
    with pytest.raises(ValueError, match="timestep 444 is none of the scheduler's 10"):
        hybrid(draw_noise(), 444)
    with pytest.raises(ValueError, match="timesteps lie between 0 and 900, expected one for the whole batch"):
        hybrid(draw_noise(), torch.tensor([0, 900, 900]))
    for level in (0, math.nan):
        with pytest.raises(ValueError, match=f"sigma_skip is {level}, expected"):
            HybridDenoiser(tiny_unet(), gaussian, level, scheduler)
    with pytest.raises(TypeError, match="network is function, expected one that takes timestep,"):
        HybridDenoiser(lambda x, t: x, gaussian, 1.0, scheduler)
    with pytest.raises(TypeError, match="network is Identity, expected one that takes timestep,"):
        HybridDenoiser(nn.Identity(), gaussian, 1.0, scheduler)
    for nothing in (None, (gaussian,), {0: gaussian}):
        with pytest.raises(TypeError, match="expected a denoiser such as a Gaussian"):
            HybridDenoiser(tiny_unet(), nothing, 1.0, scheduler)
    turned = type("Lumina2Transformer2DModel", (Tokens,), {})()
    with pytest.raises(
        TypeError, match=r"network is Lumina2Transformer2DModel, expected .* whose answer is not turned round"
    ):
        HybridDenoiser(turned, gaussian, 1.0, OTHERS["Flow"])


# ---- whole pipelines, with random weights


def tiny_unet(size=4, channels=1, **settings):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        **settings,
    ).eval()


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def count(network):
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_pipelines_without_latents_take_a_hybrid_or_become_a_teleport_pipeline(kind, gaussian):
    pipe = quiet(getattr(diffusers, f"{kind}Pipeline")(tiny_unet(), copy.deepcopy(TABLE[kind])))
    with pytest.raises(ValueError, match=f"{kind}Pipeline takes no latents"):
        teleport_latents(pipe, gaussian, 2, 6.0, 20)
    unet, calls = pipe.unet, count(pipe.unet)
    pipe.unet = HybridDenoiser(unet, gaussian, 6.0, pipe.scheduler)
    images = pipe(2, num_inference_steps=20, output_type="np", generator=torch.Generator().manual_seed(0)).images
    assert images.shape == (2, 4, 4, 1)
    assert np.isfinite(images).all()
    assert len(calls) == pipe.unet.calls == 20 - pipe.unet.saved
    pipe.unet = pipe.unet.network
    assert pipe.unet is unet
    calls.clear()
    teleport = quiet(TeleportPipeline.from_pipe(pipe, gaussian=gaussian))
    teleport(2, num_inference_steps=20, sigma_skip=6.0)
    assert teleport.nfe == len(calls) == 20 - teleport_latents(pipe.scheduler, gaussian, 1, 6.0, 20).nfe_saved


@pytest.mark.parametrize("name", ["DDIM", "DPM++", "Heun", "EDMEuler", "Flow"])
def test_teleport_pipeline_is_the_loop_from_the_jump(name, gaussian):
    pipe = quiet(TeleportPipeline(tiny_unet(), copy.deepcopy(ALL[name]), gaussian))
    noise = draw_noise()
    images = pipe(num_inference_steps=12, sigma_skip=6.0, latents=noise, output_type="pt").images
    jump = teleport_latents(ALL[name], gaussian, noise, 6.0, 12)
    with torch.no_grad():
        states = run(jump.scheduler, pipe.unet, jump.latents * initial(jump.scheduler))
    torch.testing.assert_close(images, (states[-1] / 2 + 0.5).clamp(0, 1))
    assert pipe.nfe == jump.nfe
    pipe(num_inference_steps=12, latents=noise)
    assert pipe.nfe == jump.nfe + jump.nfe_saved


def test_teleport_pipeline_is_read_from_any_saved_pipeline_and_a_gaussian(tmp_path, gaussian):
    """A list of generators makes each image depend on its own alone."""
    pipe = quiet(TeleportPipeline(tiny_unet(), copy.deepcopy(TABLE["DPM++"]), gaussian))
    run = {"num_inference_steps": 10, "sigma_skip": 6.0, "output_type": "np"}
    seeds = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    images = pipe(2, generator=seeds, **run).images
    diffusers.DDIMPipeline(pipe.unet, pipe.scheduler).save_pretrained(tmp_path / "other")
    pipe.save_pretrained(tmp_path / "own")
    for name, given in (("own", {}), ("other", {"gaussian": gaussian})):
        loaded = quiet(TeleportPipeline.from_pretrained(tmp_path / name, scheduler=pipe.scheduler, **given))
        alone = loaded(1, generator=torch.Generator().manual_seed(3), **run).images
        np.testing.assert_allclose(alone[0], images[0], atol=1e-5)
    with pytest.raises(TypeError, match="gaussian is NoneType"):
        TeleportPipeline.from_pretrained(tmp_path / "other")
    with pytest.raises(TypeError, match="gaussian is NoneType"):
        TeleportPipeline.from_pipe(diffusers.DDIMPipeline(pipe.unet, TABLE["DDIM"]))


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generator": [torch.Generator()] * 3}, "generator is a list of 3, expected one for each of 2 images"),
        ({"generator": [torch.Generator()]}, "a list of 1"),
        ({"generator": [torch.Generator()] * 2, "latents": draw_noise(3)}, "a list of 2, expected one for each of 3"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"latents": torch.zeros(2, 1, 3, 3)}, r"latents has shape \(2, 1, 3, 3\)"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"output_type": "jpeg"}, "output_type is 'jpeg', expected 'pil', 'np' or 'pt'"),
        ({"sigma_skip": math.nan}, "sigma_skip is nan"),
    ],
)
def test_teleport_pipeline_names_bad_input(change, message, gaussian):
    pipe = quiet(TeleportPipeline(tiny_unet(), copy.deepcopy(TABLE["DDIM"]), gaussian))
    with pytest.raises(ValueError, match=message):
        pipe(**({"batch_size": 2, "num_inference_steps": 3} | change))
    with pytest.raises(ValueError, match=r"gaussian has shape \(1, 4, 4\), expected \(1, 8, 8\)"):
        TeleportPipeline(tiny_unet(8), TABLE["DDIM"], gaussian)


def test_no_image_is_made_of_nan(gaussian):
    pipe = quiet(TeleportPipeline(tiny_unet(), copy.deepcopy(TABLE["DDIM"]), gaussian))
    pipe.unet.register_forward_hook(lambda module, args, answer: type(answer)(sample=answer.sample * math.nan))
    with pytest.raises(ValueError, match=r"the end of the run, in torch.float32, holds 16 values that are NaN"):
        pipe(1, num_inference_steps=2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_teleport_pipeline_in_half_precision(dtype, gaussian):
    noise, run = draw_noise(), {"num_inference_steps": 6, "sigma_skip": 6.0, "output_type": "pt"}
    pipe = quiet(TeleportPipeline(tiny_unet(), copy.deepcopy(TABLE["DDIM"]), gaussian))
    expected = pipe(latents=noise, **run).images
    pipe.unet.to(dtype)
    actual = pipe(latents=noise.to(dtype), **run).images
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.float(), expected, rtol=0, atol=0.05)
    assert pipe.gaussian.mean.dtype == torch.float32


LATENT = (4, 8, 8)
BLOCKS = {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4}


@pytest.fixture(scope="module")
def latent():
    draw = torch.Generator().manual_seed(0)
    return gt.Gaussian.fit(torch.randn(300, *LATENT, generator=draw).cumsum(-1) / 3 + 0.2, rank=20)


def kandinsky(scheduler):
    """The decoder of a text-to-image pipeline: image embeddings in, guidance, latents, a quantised autoencoder."""
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        in_channels=4,
        out_channels=8,
        addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        encoder_hid_dim=8,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=8,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
        **BLOCKS,
    )
    movq = diffusers.VQModel(
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
        block_out_channels=(32, 32),
    )
    pipe = quiet(KandinskyV22Pipeline(unet, scheduler, movq))
    embeds = torch.randn(2, 8, generator=torch.Generator().manual_seed(2))
    given = {"image_embeds": embeds, "negative_image_embeds": 0 * embeds, "height": 16, "width": 16}
    return pipe, given | {"guidance_scale": 4.0}


def stable_diffusion(scheduler, folder):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        **BLOCKS,
    )
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        **BLOCKS,
    )
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=16)
    config = transformers.CLIPTextConfig(
        hidden_size=8,
        intermediate_size=8,
        num_attention_heads=2,
        num_hidden_layers=1,
        vocab_size=len(words),
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    pipe = diffusers.StableDiffusionPipeline(
        vae, transformers.CLIPTextModel(config), tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    return quiet(pipe), {"prompt": ["a cat", "a dog"], "height": 16, "width": 16, "guidance_scale": 4.0}


def stable_diffusion_3(scheduler):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=16,
        pooled_projection_dim=8,
    )
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        **BLOCKS,
    )
    vae.register_to_config(shift_factor=0.0)
    pipe = quiet(diffusers.StableDiffusion3Pipeline(transformer, scheduler, vae, None, None, None, None, None, None))
    words, pooled = torch.randn(2, 5, 8), torch.randn(2, 8)
    given = {"prompt_embeds": words, "negative_prompt_embeds": 0 * words, "pooled_prompt_embeds": pooled}
    given |= {"negative_pooled_prompt_embeds": 0 * pooled, "height": 16, "width": 16, "guidance_scale": 4.0}
    return pipe, given


def pipelines(kind, name, folder):
    scheduler = copy.deepcopy(ALL[name])
    makers = {"kandinsky": kandinsky, "sd3": stable_diffusion_3}
    pipe, given = makers[kind](scheduler) if kind in makers else stable_diffusion(scheduler, folder)
    return pipe, given, "transformer" if kind == "sd3" else "unet"


KINDS = [("kandinsky", "DDPM"), ("kandinsky", "DPM++"), ("sd", "DDIM"), ("sd", "EulerLeading"), ("sd", "Heun")]
KINDS += [("sd", "DPM++Karras"), ("sd3", "Flow"), ("sd3", "FlowShift")]


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_text_to_image_pipelines_start_from_the_jump(kind, name, tmp_path, latent):
    """The three lines. The network is called as often as was promised, and the pipeline is afterwards as before."""
    pipe, given, part = pipelines(kind, name, tmp_path)
    own, calls = pipe.scheduler, count(getattr(pipe, part))
    noise = torch.randn(2, *LATENT, generator=torch.Generator().manual_seed(1))
    jump = teleport_latents(pipe, latent, noise, 6.0, 12)
    with jump.on(pipe):
        images = pipe(**given, latents=jump.latents, num_inference_steps=12, output_type="np").images
    assert images.shape[0] == 2
    assert np.isfinite(images).all()
    assert len(calls) == jump.nfe
    assert jump.nfe_saved > 0
    assert pipe.scheduler is own
    calls.clear()
    pipe(**given, latents=noise, num_inference_steps=12, output_type="latent")
    assert len(calls) == jump.nfe + jump.nfe_saved


@pytest.mark.parametrize(("kind", "name"), [k for k in KINDS if k[1] != "DDPM"])
def test_a_jump_and_a_hybrid_lead_text_to_image_pipelines_to_the_guided_flow(kind, name, tmp_path, latent):
    """A hybrid that answers at all levels is a Gaussian network; with two means, the flow is the guided Gaussian's.

    The pipelines stack the same latents twice, first for the unconditional mean.
    """
    pipe, given, part = pipelines(kind, name, tmp_path)
    unconditional, conditional = latent, latent.with_mean(latent.mean + 0.1)

    def both(x, sigma):
        first, second = x.chunk(2)
        assert torch.equal(first, second)
        return torch.cat([unconditional(first, sigma), conditional(second, sigma)])

    analytic = HybridDenoiser(getattr(pipe, part), both, 1e-9, pipe.scheduler)
    setattr(pipe, part, analytic)
    noise = torch.randn(2, *LATENT, generator=torch.Generator().manual_seed(1))
    guided = gt.teleportation.guided(unconditional, conditional, 4.0)
    run = given | {"num_inference_steps": 50, "output_type": "latent"}
    whole = pipe(**run, latents=noise).images
    exact = guided.flow(1e6 * noise, 1e6, 0.0)
    assert (whole - exact).norm() < 0.06 * exact.norm()
    assert analytic.calls == 0
    jump = teleport_latents(pipe, guided, noise, 6.0, 50)
    setattr(pipe, part, HybridDenoiser(analytic.network, both, 1e-9, jump.scheduler))
    with jump.on(pipe):
        rest = pipe(**run, latents=jump.latents).images
    assert (whole - rest).norm() < 0.01 * exact.norm()


def test_class_conditional_latent_pipelines_take_a_hybrid(latent):
    """DiT takes no latents, learns a variance, and stacks the guided half first."""
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, out_channels=8, num_layers=1, sample_size=8, norm_num_groups=4
    )
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        **BLOCKS,
    )
    pipe = quiet(diffusers.DiTPipeline(transformer, vae, copy.deepcopy(TABLE["DDIM"])))
    with pytest.raises(ValueError, match="DiTPipeline takes no latents"):
        teleport_latents(pipe, latent, 2, 6.0, 12)
    calls = count(transformer)
    pipe.transformer = HybridDenoiser(transformer, latent, 6.0, pipe.scheduler)
    images = pipe([1, 2], guidance_scale=4.0, num_inference_steps=12, output_type="np").images
    assert images.shape == (2, 16, 16, 3)
    assert np.isfinite(images).all()
    assert len(calls) == pipe.transformer.calls == 12 - pipe.transformer.saved > 0
    assert pipe.transformer.saved > 0
