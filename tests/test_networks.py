"""Networks as denoisers: what holds for each of them, and diffusers' own arithmetic as the oracle."""

import copy
import functools
import itertools
import json
import math
import os
import re
import shutil
import sys
from types import SimpleNamespace

import hostile
import numpy as np
import published
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import gausstools as gt
from gausstools.models import files
from gausstools.networks import EDM, DDPMpp, DiffusersDenoiser, UNet, hub

EVENT = (1, 8, 8)
PREDICTIONS = ["epsilon", "sample", "v_prediction"]
KINDS = ["EDM around UNet", "EDM pickle", *PREDICTIONS]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A pipeline of diffusers for each kind of prediction, as its users save it."""
    from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

    root = tmp_path_factory.mktemp("diffusers")
    for seed, predicts in enumerate(PREDICTIONS):
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            norm_num_groups=4,
        )
        scheduler = DDIMScheduler if predicts == "sample" else DDPMScheduler
        DDPMPipeline(unet, scheduler(prediction_type=predicts, clip_sample=False)).save_pretrained(root / predicts)
    return root


@pytest.fixture(scope="module")
def denoisers(folders, tmp_path_factory):
    """Each kind of network, with random weights."""
    torch.manual_seed(0)
    around = EDM(UNet(EVENT, widths=(16, 32), layers=1, fold=1, groups=8), EVENT, 0.5).eval().requires_grad_(False)
    nn.init.normal_(around.network.unet.conv_out.weight, 0, 0.1)
    path = tmp_path_factory.mktemp("edm") / "network.pkl"
    published.write(path)
    found = {"EDM around UNet": around, "EDM pickle": gt.pretrained.load(path)}
    return found | {predicts: gt.pretrained.load(folders / predicts) for predicts in PREDICTIONS}


@pytest.fixture(params=KINDS)
def denoiser(request, denoisers):
    return denoisers[request.param]


def noised(sigma, rows=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(2, rows, *EVENT, generator=generator, dtype=torch.float64)
    return (0.5 * clean + sigma * noise).to(dtype)


# What holds for every network.


def test_it_is_a_denoiser_at_rest(denoiser):
    assert isinstance(denoiser, nn.Module)
    assert denoiser.event_shape == EVENT
    assert not any(module.training for module in denoiser.modules())
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_dtype_and_forms_of_sigma(denoiser, dtype):
    x = noised(0.7, dtype=dtype)
    answers = [denoiser(x, level) for level in (0.7, torch.tensor(0.7), torch.full((3,), 0.7))]
    for answer in answers:
        assert answer.shape == x.shape
        assert answer.dtype == dtype
        assert answer.isfinite().all()
        torch.testing.assert_close(answer, answers[0], rtol=1e-5, atol=1e-5)


class Linear(nn.Linear):
    def forward(self, x, c_noise):
        return super().forward(x) + c_noise[:, None]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sigma", [0.002, 1.0, 80.0, 3e4])
@pytest.mark.parametrize("network", [lambda x, c_noise: x.tanh() + c_noise[:, None], Linear(3, 3)])
def test_half_precision_is_computed_in_float32_and_answered_in_kind(dtype, sigma, network):
    denoiser = EDM(network, (3,)).requires_grad_(False)
    exact = copy.deepcopy(denoiser).double()
    noise = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).clamp(-2, 2).to(dtype)
    x = sigma * noise
    for level in (sigma, torch.tensor(sigma), torch.tensor(sigma, dtype=dtype)):
        answer, expected = denoiser(x, level), exact(x.double(), float(level))
        assert answer.dtype == dtype
        torch.testing.assert_close(answer.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)
    question = torch.ones_like(x), torch.full((4,), sigma, dtype=dtype), noise
    expected = exact.loss(*(values.double() for values in question))
    assert float(denoiser.loss(*question)) == pytest.approx(float(expected), rel=1e-3)


def test_rows_do_not_know_of_each_other_and_nothing_is_random(denoiser):
    x, levels = noised(1.0), torch.tensor([0.001, 1.3, 500.0])
    together = denoiser(x, levels)
    assert torch.equal(denoiser(x, levels), together)
    alone = torch.cat([denoiser(x[i : i + 1], float(levels[i])) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_no_gradient_unless_asked(denoiser):
    x = noised(0.7)
    assert denoiser(x, 0.7).grad_fn is None
    assert denoiser(x.requires_grad_(), 0.7).grad_fn is not None


@pytest.mark.parametrize("sigma", [0.003, 0.7, 400.0])
def test_the_gradient_is_that_of_finite_differences(denoiser, sigma):
    denoiser = copy.deepcopy(denoiser).double()
    x, step = noised(sigma, rows=1, dtype=torch.float64), 1e-4 * max(sigma, 1)
    direction, weights = torch.randn(2, 1, *EVENT, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * denoiser(x.requires_grad_(), sigma)).sum(), x)
    with torch.no_grad():
        ahead, behind = ((weights * denoiser(x + sign * step * direction, sigma)).sum() for sign in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / (2 * step), rel=1e-4)


def test_without_noise_nothing_is_denoised(denoiser):
    x = noised(0.0)
    assert torch.equal(denoiser(x, 0.0), x)
    change = [(denoiser(x, sigma) - x).abs().max().item() for sigma in (1e-4, 1e-6, 1e-8)]
    assert change[0] < 0.05
    assert change[1] < 0.0005
    assert change[2] < 0.0001


class Elsewhere(nn.Module):
    """A network that is on a device of its own, and knows nothing."""

    def __init__(self, wrap):
        super().__init__()
        self.weight, self.wrap = nn.Parameter(torch.empty(1, device="meta")), wrap

    def forward(self, x, step):
        assert x.device == step.device == self.weight.device
        return self.wrap(torch.zeros(x.shape))  # on the CPU, since meta has no numbers to bring back


@pytest.mark.parametrize(
    ("denoiser", "factor"),
    [
        (EDM(Elsewhere(lambda answer: answer), (2,), 0.5), 0.5),
        (
            DiffusersDenoiser(
                Elsewhere(lambda answer: SimpleNamespace(sample=answer)), gt.DDPM.linear(), "sample", (2,)
            ),
            0,
        ),
    ],
    ids=["EDM", "diffusers"],
)
def test_it_is_asked_on_its_own_device_and_answers_on_the_readers(denoiser, factor):
    x = torch.ones(3, 2, dtype=torch.float64)
    answer = denoiser(x, 0.5)
    assert answer.device == x.device
    torch.testing.assert_close(answer, factor * x)


def test_its_answer_does_not_grow_with_the_noise(denoiser):
    """Untrained, a network knows no mean; where it is exact, the next test asks for that."""
    top = 157.5
    answers = [denoiser(noised(sigma), sigma).abs().max().item() for sigma in (1e3, 1e4, 1e6)]
    assert max(answers) < 5 * top
    assert answers[2] == pytest.approx(answers[1], rel=0.1, abs=0.05)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("x", "sigma", "error", "message"),
    [
        (torch.zeros(3, 1, 8, 9), 1.0, ValueError, r"x has shape \(3, 1, 8, 9\), expected \(batch, 1, 8, 8\)"),
        (torch.zeros(1, 8, 8), 1.0, ValueError, r"x has shape \(1, 8, 8\), expected"),
        (torch.full((2, *EVENT), torch.nan), 1.0, ValueError, "x holds 128 values that are NaN or infinite"),
        (torch.zeros(2, *EVENT, dtype=torch.uint8), 1.0, TypeError, "x has dtype torch.uint8"),
        (torch.zeros(2, *EVENT), -1.0, ValueError, "sigma is -1.0, expected a finite number >= 0"),
        (torch.zeros(2, *EVENT), math.inf, ValueError, "sigma is inf, expected a finite number"),
        (torch.zeros(2, *EVENT), torch.ones(3), ValueError, r"sigma has shape \(3,\), expected one value or one"),
        (torch.zeros(2, *EVENT), "1", TypeError, "sigma is str"),
    ],
)
def test_bad_input_is_refused(denoiser, x, sigma, error, message):
    with pytest.raises(error, match=message):
        denoiser(x, sigma)


def test_it_samples(denoiser):
    *_, last = gt.samplers.heun(denoiser, noised(80.0, rows=1), gt.karras_sigmas(3))
    assert last.x.shape == (1, *EVENT)
    assert last.x.isfinite().all()


def test_a_copy_stands_alone(denoiser):
    x, other = noised(0.7), copy.deepcopy(denoiser)
    for parameter in other.parameters():
        nn.init.constant_(parameter, 0.0)
    assert not torch.equal(other(x, 0.7), denoiser(x, 0.7))


# diffusers: levels between the steps, beyond them, and diffusers' own step.


def exact(model, table, predicts):
    """A network that knows a Gaussian, and the noise levels by interpolation of ln σ in numpy."""
    logs = 0.5 * np.log(1 / table - 1)

    def network(x_t, t):
        level = torch.from_numpy(np.exp(np.interp(t.numpy(), np.arange(len(table)), logs)))
        a = (1 + level**2).rsqrt()[:, None]
        b = level[:, None] * a
        clean = model(x_t / a, level)
        noise = (x_t - a * clean) / b
        return SimpleNamespace(
            sample={"epsilon": noise, "sample": clean, "v_prediction": a * noise - b * clean}[predicts]
        )

    return network


TABLE = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
LOWEST, HIGHEST = np.sqrt(1 / TABLE[[0, -1]] - 1)
GAUSSIAN = gt.Gaussian(
    torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64),
    torch.tensor([0.6, 0.01], dtype=torch.float64),
    torch.eye(3, dtype=torch.float64)[:, :2],
    1e-4,
)
EXACT = {
    predicts: DiffusersDenoiser(exact(GAUSSIAN, TABLE, predicts), gt.DDPM(torch.from_numpy(TABLE)), predicts, (3,))
    for predicts in PREDICTIONS
}


@given(st.sampled_from(PREDICTIONS), st.lists(st.floats(0, 1), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_a_network_that_knows_a_gaussian_is_its_denoiser_between_the_steps_too(predicts, shares, seed):
    levels = torch.tensor([LOWEST ** (1 - share) * HIGHEST**share for share in shares], dtype=torch.float64)
    levels = levels.clamp(LOWEST * (1 + 1e-12), HIGHEST * (1 - 1e-12))
    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(levels), 3)))
    x = GAUSSIAN.mean + (levels[:, None] + 0.5) * noise
    torch.testing.assert_close(EXACT[predicts](x, levels), GAUSSIAN(x, levels), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_below_the_table_the_noise_is_that_of_its_lowest_level(predicts):
    x = torch.randn(4, 3, dtype=torch.float64)
    for sigma in (0.9999 * LOWEST, 0.005, 1e-6):
        noise = (x - GAUSSIAN(x, LOWEST)) / LOWEST
        torch.testing.assert_close(EXACT[predicts](x, sigma), x - sigma * noise, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_above_the_table_the_answer_is_that_of_its_highest_level_next_to_the_mean(predicts):
    for sigma in (1.0001 * HIGHEST, 300.0, 1e5):
        x = GAUSSIAN.mean + sigma * torch.randn(4, 3, dtype=torch.float64)
        found = EXACT[predicts](x, sigma)
        scaled = x * math.sqrt((1 + HIGHEST**2) / (1 + sigma**2))
        torch.testing.assert_close(found, GAUSSIAN(scaled, HIGHEST), rtol=1e-8, atol=1e-8)
        assert (found - GAUSSIAN.mean).abs().max() < 0.03


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize(
    ("dtype", "sigmas"),
    [(torch.float16, (0.005, 1.0, 157.0, 3e4)), (torch.bfloat16, (0.005, 157.0, 1e20)), (torch.float32, (1.0, 1e20))],
)
def test_in_any_precision_the_answer_is_the_exact_one_rounded(predicts, dtype, sigmas):
    def network(x_t, t):
        return SimpleNamespace(sample=EXACT[predicts].network(x_t.double(), t.double()).sample.to(x_t))

    denoiser = DiffusersDenoiser(network, EXACT[predicts].process, predicts, (3,))
    for sigma in sigmas:
        x = (sigma * torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)).to(dtype)
        answer, expected = denoiser(x, sigma), EXACT[predicts](x.double(), sigma)
        assert answer.dtype == dtype
        torch.testing.assert_close(answer.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=2e-4)


def test_the_ends_of_the_table_join(denoisers):
    for predicts in PREDICTIONS:
        network = denoisers[predicts]
        for end in network.process.sigma(torch.tensor([0.0, 999.0])).tolist():
            x = noised(end)
            below, above = network(x, 0.9999 * end), network(x, 1.0001 * end)
            torch.testing.assert_close(below, above, rtol=2e-3, atol=2e-3 * max(end, 1))


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_at_the_steps_it_is_what_diffusers_predicts(predicts, folders, denoisers):
    from diffusers import DDPMScheduler, UNet2DModel

    unet = UNet2DModel.from_pretrained(folders / predicts / "unet")
    scheduler = DDPMScheduler.from_pretrained(folders / predicts / "scheduler", clip_sample=False)
    for t in (1, 250, 600, 999):
        x_t = noised(1.0)
        with torch.no_grad():
            answer = unet(x_t, t).sample
        clean = scheduler.step(answer, t, x_t, generator=torch.Generator().manual_seed(0)).pred_original_sample
        signal = scheduler.alphas_cumprod[t].double()
        found = denoisers[predicts](x_t / signal.sqrt().float(), float((1 / signal - 1).sqrt()))
        torch.testing.assert_close(found, clean, rtol=1e-3, atol=1e-3 * float(clean.abs().max()))


# Where networks come from.


def test_a_bare_network_with_a_scheduler_beside_it(folders, denoisers, tmp_path):
    for part in ("unet", "scheduler"):
        shutil.copytree(folders / "sample" / part, tmp_path, dirs_exist_ok=True)
    x = noised(0.7)
    assert torch.equal(gt.pretrained.load(tmp_path)(x, 0.7), denoisers["sample"](x, 0.7))
    assert torch.equal(gt.pretrained.load(str(tmp_path))(x, 0.7), denoisers["sample"](x, 0.7))


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_a_loaded_network_is_to_be_asked_and_not_trained(folders, predicts):
    denoiser = DiffusersDenoiser.load(folders / predicts)
    assert denoiser.predicts == predicts
    assert not denoiser.training
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())


def test_weights_in_pytorchs_format(folders, denoisers, tmp_path):
    from safetensors.torch import load_file

    shutil.copytree(folders / "epsilon", tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "unet" / f"{hub.WEIGHTS}.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    x = noised(0.7)
    assert torch.equal(gt.pretrained.load(tmp_path)(x, 0.7), denoisers["epsilon"](x, 0.7))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2"}),
        ("DDIMScheduler", {"beta_schedule": "scaled_linear", "num_train_timesteps": 100}),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True}),
        ("PNDMScheduler", {}),
        ("DPMSolverMultistepScheduler", {}),
        ("EulerDiscreteScheduler", {}),
    ],
)
def test_the_table_is_the_schedulers(folders, tmp_path, kind, settings):
    import diffusers

    shutil.copytree(folders / "epsilon" / "unet", tmp_path / "unet")
    scheduler = getattr(diffusers, kind)(**settings)
    scheduler.save_pretrained(tmp_path / "scheduler")
    network = gt.pretrained.load(tmp_path)
    table = scheduler.alphas_cumprod[scheduler.alphas_cumprod > 0].double()
    assert torch.equal(network.process.alphas_cumprod, table)
    assert len(table) >= settings.get("num_train_timesteps", 1000) - 1
    assert network(noised(0.7), torch.tensor([0.001, 0.7, 1e4])).isfinite().all()


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "_class_name 'UNet2DConditionModel', expected"),
        (
            "unet/config.json",
            {"num_class_embeds": 10},
            "num_class_embeds 10, expected None: an unconditional UNet2DModel",
        ),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type 'timestep', expected None"),
        ("unet/config.json", {"out_channels": 2}, "out_channels 2, expected 1"),
        ("unet/config.json", {"sample_size": None}, "states no sample_size"),
        (
            "unet/config.json",
            {"time_embedding_type": "fourier"},
            "time_embedding_type 'fourier', expected 'positional'",
        ),
        ("unet/config.json", {"time_embedding_type": "learned"}, "time_embedding_type 'learned'"),
        ("model_index.json", {"vqvae": ["diffusers", "VQModel"]}, "a latent model, with vqvae"),
        ("scheduler/scheduler_config.json", {"_class_name": "ScoreSdeVeScheduler"}, "a ScoreSdeVeScheduler"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "alphas_cumprod"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "LCMScheduler"},
            "LCMScheduler .* not for distilled networks",
        ),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous", "prediction_type": "v_prediction"},
            "a EulerDiscreteScheduler .* that tells its network noise levels",
        ),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True},
            "a UniPCMultistepScheduler .* that tells its network noise levels",
        ),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "UNet2DModel"},
            "a 'UNet2DModel' that diffusers cannot build: expected a scheduler",
        ),
        ("scheduler/scheduler_config.json", {"_class_name": "Mine"}, "a 'Mine' that diffusers cannot build"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "of prediction type 'flow'"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "mine"}, "a 'DDPMScheduler' that diffusers cannot build"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**10}, "num_train_timesteps up to 1000000"),
        ("unet/config.json", {"block_out_channels": [10**5, 10**5]}, "config.json asks for .* but the files hold"),
        ("unet/config.json", {"norm_num_groups": 0}, "no network that diffusers can read"),
        ("unet/config.json", {"sample_size": "large"}, "states no sample_size"),
    ],
)
def test_models_of_other_kinds_are_refused(folders, tmp_path, file, changes, message):
    shutil.copytree(folders / "epsilon", tmp_path, dirs_exist_ok=True)
    edit(tmp_path / file, **changes)
    with pytest.raises(ValueError, match=message):
        gt.pretrained.load(tmp_path)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("unet/config.json", "there is no file .*config.json; expected a folder that save_pretrained"),
        ("scheduler/scheduler_config.json", "there is no file .*scheduler_config.json"),
    ],
)
def test_missing_parts_are_named(folders, tmp_path, missing, message):
    shutil.copytree(folders / "epsilon", tmp_path, dirs_exist_ok=True)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        gt.pretrained.load(tmp_path)


def test_weights_that_do_not_fit_are_refused(folders, tmp_path):
    """diffusers itself would leave random numbers where it finds no weights for a layer."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folders / "epsilon", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "unet" / f"{hub.WEIGHTS}.safetensors"
    weights, whole = load_file(path), path.read_bytes()
    for changed, message in [
        ({name: value for name, value in weights.items() if name != "conv_in.bias"}, "missing_keys conv_in.bias"),
        (weights | {"more": torch.ones(1)}, "unexpected_keys more"),
        (weights | {"conv_in.bias": torch.ones(9)}, "no network that diffusers can read"),
    ]:
        save_file(changed, path)
        with pytest.raises(ValueError, match=message):
            gt.pretrained.load(tmp_path)
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="no network that diffusers can read"):
        gt.pretrained.load(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"config.json asks for \d+ weights, but the files hold"):
        gt.pretrained.load(tmp_path)


def test_weights_that_are_nan_are_named(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folders / "epsilon", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "unet" / f"{hub.WEIGHTS}.safetensors"
    for bad in (float("nan"), float("inf")):
        save_file(load_file(path) | {"conv_in.bias": torch.full((8,), bad)}, path)
        with pytest.raises(ValueError, match=r"weight conv_in.bias holds 8 values that are NaN or infinite"):
            gt.pretrained.load(tmp_path)


class Hostile:
    """Pickled as a call."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_weights_in_pytorchs_format_run_nothing(folders, tmp_path):
    shutil.copytree(folders / "epsilon", tmp_path, dirs_exist_ok=True)
    path, mark = tmp_path / "unet" / f"{hub.WEIGHTS}.safetensors", tmp_path / "mark"
    path.unlink()
    torch.save({"conv_in.bias": Hostile(f"touch {mark}")}, path.with_suffix(".bin"))
    with pytest.raises(ValueError, match="no network that diffusers can read"):
        gt.pretrained.load(tmp_path)
    assert not mark.exists()


def test_damaged_settings_are_named(folders, tmp_path):
    shutil.copytree(folders / "epsilon", tmp_path, dirs_exist_ok=True)
    for content, message in [("{", "no readable JSON"), ("[" * 10**5, "no readable JSON"), ("[]", "no readable JSON")]:
        (tmp_path / "unet" / "config.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            gt.pretrained.load(tmp_path)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The hub's client without a connection, and its empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_offline_and_with_nothing_in_the_cache_the_ways_are_named(offline):
    with pytest.raises(OSError, match=r"'google/ddpm-cifar10-32' is no folder here") as caught:
        gt.pretrained.load("google/ddpm-cifar10-32")
    for part in ("Connect to the internet", "hf download google/ddpm-cifar10-32", "copy the folder here"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_of_the_hub_is_served_from_the_cache(offline, folders, denoisers):
    cached = offline / "models--someone--ddpm-tiny"
    shutil.copytree(folders / "epsilon", cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    x = noised(0.7)
    assert torch.equal(gt.pretrained.load("someone/ddpm-tiny")(x, 0.7), denoisers["epsilon"](x, 0.7))


def test_of_the_weights_one_file_is_asked_for_and_the_other_only_without_it(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append(allow_patterns)
        if len(asked) == 2:
            (tmp_path / f"{hub.WEIGHTS}.bin").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert hub.download("someone/old") == tmp_path
    weights = [[pattern for pattern in patterns if hub.WEIGHTS in pattern] for patterns in asked]
    assert weights == [[f"{place}{hub.WEIGHTS}.{kind}" for place in ("", "unet/")] for kind in ("safetensors", "bin")]


def test_a_model_without_weights_on_the_hub_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, allow_patterns: str(tmp_path))
    with pytest.raises(OSError, match=r"'someone/empty' on the Hugging Face hub has no diffusion_pytorch_model"):
        hub.download("someone/empty")


@pytest.mark.parametrize("name", ["nothing-of-this-name", "a/b/c", "/there/is/no/folder", "", "model.bin", "../up"])
def test_unknown_names_are_refused_with_what_is_possible(name):
    with pytest.raises(ValueError, match=re.escape(repr(name))) as caught:
        gt.pretrained.load(name)
    for part in (".safetensors", ".pkl", "a folder that diffusers wrote", "owner/name"):
        assert part in str(caught.value)


def test_missing_files_are_missing_files(tmp_path):
    for name in ("network.pkl", "network.safetensors"):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            gt.pretrained.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        DiffusersDenoiser.load(tmp_path / "folder")


def test_our_own_files_by_path(tmp_path):
    network = EDM(UNet(EVENT, widths=(16, 32), layers=1, fold=1, groups=8), EVENT, 0.4)
    network.save(tmp_path / "mine.safetensors")
    denoiser = gt.pretrained.load(tmp_path / "mine.safetensors")
    assert not denoiser.training
    assert torch.equal(denoiser(noised(1.0), 1.0), network(noised(1.0), 1.0))


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("suffix", ["safetensors", "pkl"])
def test_a_weight_that_is_no_number_is_named_with_its_file(tmp_path, value, suffix):
    path = tmp_path / f"diverged.{suffix}"
    if suffix == "pkl":
        name, network = "dec.8x8_aux_conv.bias", DDPMpp(**published.TINY)
    else:
        name, network = "unet.conv_in.bias", UNet(EVENT, widths=(16, 32), layers=1, fold=1, groups=8)
    network.get_parameter(name).data[0] = value
    if suffix == "pkl":
        path.write_bytes(published.dump(published.snapshot(network, published.TINY)))
    else:
        EDM(network, EVENT).save(path, torch.float16)
    with pytest.raises(
        ValueError, match=rf"diverged\.{suffix} .*weight {name} holds 1 values that are NaN or infinite"
    ):
        gt.pretrained.load(path)


GOOD = {"event_shape": EVENT, "widths": [16, 32], "layers": 1, "fold": 1, "attention": [False, False], "groups": 8}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 3000}, "layers is 3000, expected an integer from 1 to 32"),
        ({"layers": 32}, "Missing key"),
        ({"layers": -1}, "layers is -1"),
        ({"widths": [40_000, 40_000]}, "size mismatch"),
        ({"widths": [2**40, 2**40]}, "overflow"),
        ({"widths": [8] * 100_000}, "the number of widths is 100000, expected an integer from 1 to 8"),
        ({"widths": [0, 0]}, "widths is 0"),
        ({"widths": 3}, "int"),
        ({"fold": 0}, "fold is 0"),
        ({"fold": 10**400}, "sides divisible by"),
        ({"groups": 0}, "groups is 0"),
        ({"event_shape": [1, 8, 0]}, "event_shape is 0"),
        ({"event_shape": [1, 8, "8"]}, "event_shape is '8'"),
        ({"colour": 1}, "colour"),
        ({"sigma_data": 10**400}, "sigma_data is 1000.* whose square float32 can hold"),
        ({"sigma_data": 1e300}, r"sigma_data is 1e\+300"),
        ({"sigma_data": "0.5"}, "str"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_that_make_no_network_cost_nothing(as_installed, tmp_path, changes, message):
    path = tmp_path / "odd.safetensors"
    settings = {"sigma_data": changes.pop("sigma_data", 0.5), "unet": GOOD | changes}
    files.write(path, "EDM", UNet(**GOOD).state_dict(), settings)
    hostile.assert_refused(EDM.load, path, rf"odd\.safetensors is no complete EDM: .*{message}")


def test_shipped_names_come_before_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    denoiser = gt.pretrained.load("digits")
    assert isinstance(denoiser, EDM)
    assert denoiser.event_shape == (1, 8, 8)
    assert not denoiser.training


@pytest.mark.usefixtures("as_installed")
def test_what_cannot_be_wrapped_is_refused():
    with pytest.raises(ValueError, match="predicts is 'velocity', expected 'epsilon'"):
        DiffusersDenoiser(lambda x, t: x, gt.DDPM.linear(), "velocity", EVENT)


def test_without_diffusers_the_extra_is_named(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'gausstools\[networks\]'"):
        gt.pretrained.load(folders / "epsilon")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'gausstools\[networks\]'"):
        gt.pretrained.load("someone/else")


# DDPM++.


def published_size(**changes):
    with torch.device("meta"):
        return DDPMpp(**{"in_channels": 3, "out_channels": 3, "augment_dim": 9} | changes)


NCSN = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
    "channel_mult_noise": 2,
}


def test_the_published_networks_have_the_published_size():
    """Karras et al. 2022 state 56 and 62 million parameters; for CIFAR-10, 55.73 is the figure that others cite."""
    for size, changes in [
        (55.73e6, {"img_resolution": 32, "channel_mult": [2, 2, 2]}),
        (61.8e6, {"img_resolution": 64, "channel_mult": [1, 2, 2, 2]}),
    ]:
        assert sum(value.numel() for value in published_size(**changes).parameters()) == pytest.approx(size, rel=1e-3)


def test_the_parameters_have_the_published_names_and_shapes():
    state = published_size(img_resolution=32, channel_mult=[2, 2, 2]).state_dict()
    shapes = {
        "map_augment.weight": (128, 9),
        "map_layer0.weight": (512, 128),
        "map_layer1.bias": (512,),
        "enc.32x32_conv.weight": (128, 3, 3, 3),
        "enc.32x32_block0.skip.weight": (256, 128, 1, 1),
        "enc.16x16_down.conv0.resample_filter": (1, 1, 2, 2),
        "enc.16x16_down.skip.resample_filter": (1, 1, 2, 2),
        "enc.16x16_block3.qkv.weight": (768, 256, 1, 1),
        "enc.8x8_block3.affine.weight": (256, 512),
        "dec.8x8_in0.proj.weight": (256, 256, 1, 1),
        "dec.8x8_in1.norm1.weight": (256,),
        "dec.16x16_up.skip.weight": (256, 256, 1, 1),
        "dec.16x16_block4.norm2.weight": (256,),
        "dec.32x32_block4.conv0.weight": (256, 384, 3, 3),
        "dec.32x32_aux_norm.weight": (256,),
        "dec.32x32_aux_conv.weight": (3, 256, 3, 3),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    attends = [name.removesuffix(".qkv.weight") for name in state if name.endswith("qkv.weight")]
    assert attends == [*(f"enc.16x16_block{i}" for i in range(4)), "dec.8x8_in0", "dec.16x16_block4"]
    state = published_size(img_resolution=32, channel_mult=[2, 2, 2], **NCSN).state_dict()
    assert state["map_noise.freqs"].shape == (128,)
    assert state["enc.16x16_aux_residual.weight"].shape == (256, 3, 3, 3)
    assert state["enc.8x8_aux_residual.weight"].shape == (256, 256, 3, 3)
    assert state["enc.8x8_aux_residual.resample_filter"].shape == (1, 1, 4, 4)


# Answers of NVIDIA Modulus 0.9.0 (SongUNet, under the Apache licence), with weights and inputs filled as below: three
# pixels of the first image, three of the second, and the mean square. It attends in float32.
MODULUS = [
    ({}, [-0.043789188, -0.120086585, -0.121279649], [0.560069240, 0.676798085, 0.541643906], 0.099744355),
    (NCSN, [0.339115652, 0.354278521, 0.186836399], [0.530493442, 0.384891288, 0.292731486], 0.138076109),
]


@pytest.mark.parametrize(("changes", "first", "last", "square"), MODULUS)
def test_another_implementation_gives_the_same_answers(changes, first, last, square):
    network = DDPMpp(
        8, 2, 2, augment_dim=3, model_channels=8, channel_mult=[1, 2, 2], num_blocks=1, attn_resolutions=[4], **changes
    )
    network = network.double().eval()
    for i, (name, value) in enumerate(network.state_dict().items()):
        if "resample" not in name:
            filled = 0.3 * torch.sin(0.7 * torch.arange(value.numel(), dtype=torch.float64) + i)
            value.copy_(filled.reshape(value.shape))
    x = torch.sin(torch.arange(256, dtype=torch.float64)).reshape(2, 2, 8, 8)
    c_noise = torch.tensor([-1.3, 0.7], dtype=torch.float64)
    answer = network(x, c_noise).detach()
    for found, expected in [
        (answer[0, 0, 0, :3], first),
        (answer[1, 1, 7, 5:], last),
        (answer.square().mean(), square),
    ]:
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)


def test_waves_groups_filters_and_attention_are_the_textbooks():
    network = DDPMpp(8, 1, 1, model_channels=8, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[4])
    waves = network.map_noise(torch.tensor([0.3]))
    frequencies = [10000 ** (-i / 3) for i in range(4)]
    expected = [math.sin(0.3 * f) for f in frequencies] + [math.cos(0.3 * f) for f in frequencies]
    torch.testing.assert_close(waves, torch.tensor([expected]))

    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    assert {(norm.num_channels, norm.num_groups) for norm in norms} >= {(8, 2), (16, 4)}
    assert {norm.eps for norm in norms} == {1e-6}

    x = torch.randn(2, 8, 8, 8)
    for name, resample, plain in [
        ("enc.4x4_down.skip", nn.functional.avg_pool2d, {"kernel_size": 2}),
        ("dec.8x8_up.skip", nn.functional.interpolate, {"scale_factor": 2, "mode": "nearest"}),
    ]:
        layer = network.get_submodule(name)
        x = torch.randn(2, layer.in_channels, 8, 8)
        expected = nn.functional.conv2d(resample(x, **plain), layer.weight, layer.bias)
        torch.testing.assert_close(layer(x), expected)

    block = network.get_submodule("dec.4x4_in0")
    nn.init.normal_(block.proj.weight)
    h, embedding = torch.randn(1, 16, 4, 4), torch.zeros(1, 32)
    block.num_heads = 0
    before = block(h, embedding)
    block.num_heads = 1
    qkv = block.qkv(block.norm2(before)).reshape(16, 3, 16)
    q, k, v = qkv[:, 0], qkv[:, 1], qkv[:, 2]
    attended = (v @ torch.softmax(q.T @ k / 4, 1).T).reshape(1, 16, 4, 4)
    torch.testing.assert_close(block(h, embedding), (before + block.proj(attended)) / math.sqrt(2))


def test_a_label_adds_its_column_to_the_waves_before_the_embedding():
    """Karras et al. 2022: one column of a matrix for each class, times the square root of their number, and a bias."""
    network = DDPMpp(**published.TINY | {"label_dim": 4}).double()
    nn.init.normal_(network.map_label.bias)
    seen = []
    network.map_layer0.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    x, c_noise = torch.randn(3, *EVENT, dtype=torch.float64), torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64)
    labels = torch.tensor([2, 0, 2])
    network(x, c_noise, labels=labels)
    network(x, c_noise)
    waves = network.map_noise(c_noise) + network.map_label.bias
    torch.testing.assert_close(seen[0], waves + 2 * network.map_label.weight.T[labels])
    torch.testing.assert_close(seen[1], waves)


@pytest.mark.usefixtures("as_installed")
def test_the_denoiser_of_a_class_answers_as_if_asked_about_each_image_alone():
    torch.manual_seed(0)
    network = DDPMpp(**published.TINY | {"label_dim": 4}).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    denoiser, x = EDM(network, EVENT), torch.randn(3, *EVENT)
    assert denoiser.classes == 4
    assert EDM(DDPMpp(**published.TINY), EVENT).classes == 0
    labels = torch.tensor([1, 3, 1])
    together = denoiser(x, 0.6, labels)
    for index, label in enumerate(labels.tolist()):
        alone = functools.partial(denoiser, labels=label)(x[index : index + 1], 0.6)
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-4, atol=1e-5)
    answers = [denoiser(x, 0.6, label) for label in (None, 0, 1, 2, 3)]
    for first, second in itertools.combinations(answers, 2):
        assert (first - second).abs().max() > 1e-3
    with pytest.raises(ValueError, match="labels lie from 1 to 4, expected 0 to 3"):
        denoiser(x, 0.6, torch.tensor([1, 4, 2]))
    with pytest.raises(ValueError, match=r"labels are torch.int64 of shape \(2,\), expected integers: one or \(3,\)"):
        denoiser(x, 0.6, labels[:2])
    with pytest.raises(ValueError, match=r"labels are torch.float32 of shape \(3,\), expected integers"):
        denoiser(x, 0.6, labels.float())
    with pytest.raises(ValueError, match="this network has no classes; leave them out"):
        EDM(DDPMpp(**published.TINY), EVENT)(x, 0.6, 1)


@pytest.mark.parametrize("classes", [0, 3])
def test_its_gradient_flows_to_every_parameter_that_it_asks(classes):
    network = DDPMpp(**published.TINY | {"label_dim": classes}).train()
    labels = torch.tensor([0, 2]) if classes else None
    network(torch.randn(2, *EVENT), torch.zeros(2), labels).square().sum().backward()
    still = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert still == ["map_augment.weight"]


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_dim": -1}, "label_dim is -1"),
        ({"img_resolution": 7}, "img_resolution is 7, expected one that channel_mult can halve 1 times"),
        ({"channel_mult": []}, "the length of channel_mult is 0"),
        ({"model_channels": 6}, "model_channels is 6, expected a multiple of 4"),
        ({"embedding_type": "zero"}, "embedding_type is 'zero', expected 'positional' or 'fourier'"),
        ({"decoder_type": "skip"}, "decoder_type is 'skip', expected 'standard'"),
        ({"resample_filter": [1, -1]}, "resample_filter"),
        ({"resample_filter": [1, 2, 1]}, "resample_filter"),
        ({"num_blocks": 0}, "num_blocks is 0"),
    ],
)
def test_arguments_that_make_no_network_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DDPMpp(**published.TINY | changes)
