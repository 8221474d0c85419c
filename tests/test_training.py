"""Training: the loss and what minimises it, runs that are killed and resumed, and what they leave in their folder."""

import csv
import hashlib
import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import gausstools as gt
from gausstools import training
from gausstools.commands.train import _Cached, _indices, _model, train
from gausstools.models import files
from gausstools.networks import EDM, UNet
from gausstools.training import Recipe, Trainer, residual_rows

SHAPE = (1, 8, 8)


def small(seed=0):
    torch.manual_seed(seed)
    return EDM(UNet(SHAPE, widths=(8, 8), layers=1, fold=1, groups=4), SHAPE)


def images(count=50):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def weights(denoiser):
    return torch.cat([value.flatten() for value in denoiser.state_dict().values()])


def spend(iteration):
    for _ in iteration:
        pass


class Linear(torch.nn.Module):
    """The smallest network, for tests of the book-keeping."""

    def __init__(self):
        super().__init__()
        self.config, self.layer = {}, torch.nn.Linear(4, 4)

    def forward(self, x, c_noise):
        return self.layer(x) * c_noise[:, None]


POINTS = torch.rand(10, 4, generator=torch.Generator().manual_seed(0))


def quick(folder, data=POINTS, batch_size=4, **options):
    torch.manual_seed(0)
    recipe = Recipe(batch_size=batch_size, learning_rate=0.01, warmup=0)
    return Trainer(EDM(Linear(), (4,)), data, folder, recipe, **options)


def held(folder):
    """Weights, average and moments in the checkpoint, in one row."""
    tensors = files.read(folder / "checkpoint.safetensors", "Trainer")
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def rewritten(folder, settings=None, **tensors):
    """Write the checkpoint anew, with other settings or tensors; None takes a tensor away."""
    file = folder / "checkpoint.safetensors"
    found = files.read(file, "Trainer") | tensors
    settings = settings or files.read_settings(file, "Trainer")
    files.write(file, "Trainer", {name: value for name, value in found.items() if value is not None}, settings)


def table(file):
    return list(csv.DictReader(file.read_text().splitlines()))


# ---- the preconditioning and the loss


@given(st.floats(0.01, 100), st.floats(0.1, 3), st.floats(0.1, 3), st.integers(0, 2**31))
def test_the_network_that_answers_what_edm_asks_gives_the_exact_denoiser(sigma, sigma_data, scale, seed):
    """For data N(0, s²I) the best F is linear; its slope follows from solving D = s²/(s²+σ²)·x for F by hand."""
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 5)) * np.hypot(sigma, scale))

    def answer(scaled, c_noise):
        noise = torch.exp(4 * c_noise)[:, None]
        whole = torch.sqrt(noise**2 + sigma_data**2)
        gain = scale**2 / (scale**2 + noise**2)
        skip = sigma_data**2 / whole**2
        return (gain - skip) * whole**2 / (noise * sigma_data) * scaled

    expected = scale**2 / (scale**2 + sigma**2) * x
    torch.testing.assert_close(EDM(answer, (5,), sigma_data)(x, sigma), expected, rtol=1e-9, atol=1e-9)


@given(st.floats(0.1, 3), st.floats(0.1, 3), st.integers(0, 2**31))
def test_the_expected_loss_of_an_untrained_network_is_that_of_its_isotropic_gaussian(sigma_data, scale, seed):
    """F = 0 on data N(0, s²I): E|D − x0|² per entry is (σ_d⁴σ² + σ⁴s²)/(σ²+σ_d²)², over c_out²."""
    generator = torch.Generator().manual_seed(seed)
    sigma = torch.tensor([0.5, 2.0], dtype=torch.float64)
    x0 = scale * torch.randn(2, 100_000, generator=generator, dtype=torch.float64)
    found = EDM(lambda x, c: torch.zeros_like(x), x0.shape[1:], sigma_data).loss(
        x0, sigma, torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    )
    total = sigma**2 + sigma_data**2
    squared_error = (sigma_data**4 * sigma**2 + sigma**4 * scale**2) / total**2
    expected = (squared_error * total / (sigma * sigma_data) ** 2).mean()
    assert float(found) == pytest.approx(float(expected), rel=0.05)


def test_an_untrained_network_is_an_isotropic_gaussian():
    x, model = torch.randn(4, *SHAPE), gt.Gaussian.isotropic(torch.zeros(SHAPE), 0.25)
    for sigma in (0.0, 0.1, 5.0, 1e4):
        torch.testing.assert_close(small()(x, sigma), model(x, sigma))


def test_training_learns_a_gaussian_of_which_half_the_pixels_are_dark(tmp_path):
    """The denoiser after training is nearer to that of the data's Gaussian than the untrained one, by far."""
    data = 0.2 * images(500) + torch.where(torch.arange(64).reshape(SHAPE) < 32, -0.7, 0.7)
    trainer = Trainer(small(), data, tmp_path, Recipe(batch_size=32, learning_rate=3e-3, warmup=500))
    gaussian = {"gaussian": gt.Gaussian.fit(data)}

    def unexplained(denoiser):
        return residual_rows(denoiser, gaussian, {"train": data}, [2.0], points=100)[0]["denoiser"]

    before = unexplained(trainer.averaged)
    spend(trainer.run(4000))
    assert before > 5
    assert unexplained(trainer.averaged) < 0.1


# ---- a run


def test_every_epoch_shows_each_image_once_in_an_order_of_its_own(tmp_path):
    trainer = Trainer(small(), images(50), tmp_path, Recipe(batch_size=8))
    shown = torch.cat([trainer._chosen(step) for step in range(25)])
    first, second = shown[:50], shown[50:100]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("count", [1, 3, 10])
def test_a_batch_may_be_larger_than_all_images(tmp_path, count):
    trainer = quick(tmp_path, POINTS[:count], batch_size=32)
    shown = torch.cat([trainer._chosen(step) for step in range(5)])[: 150 // count * count].reshape(-1, count)
    assert torch.equal(shown.sort(1).values, torch.arange(count).expand(len(shown), count))
    spend(trainer.run(64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_in_half_precision_train_as_the_same_ones_in_float32(tmp_path, dtype):
    for name, data in (("half", POINTS.to(dtype)), ("single", POINTS.to(dtype).float())):
        spend(quick(tmp_path / name, data).run(40))
    assert torch.equal(held(tmp_path / "half"), held(tmp_path / "single"))


def test_the_average_is_the_exponential_one_with_a_half_life_in_images(tmp_path):
    denoiser = small()
    recipe = Recipe(batch_size=10, averaging=0.1, averaging_at_most=15)
    trainer = Trainer(denoiser, images(), tmp_path, recipe)
    expected = weights(denoiser).double()
    for step, _ in enumerate(trainer.run(300), 1):
        kept = 0.5 ** (10 / max(1.0, min(15, 0.1 * 10 * step)))
        expected = kept * expected + (1 - kept) * weights(denoiser).double()
    torch.testing.assert_close(weights(trainer.averaged).double(), expected, rtol=1e-4, atol=1e-6)


def test_stopped_and_resumed_a_run_ends_in_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "NOTED", 100)

    def question(network):
        model = {"isotropic": gt.Gaussian.isotropic(torch.zeros(SHAPE), 0.25)}
        return residual_rows(network, model, {"train": images()}, [1.0], points=8)

    def run(folder, stops):
        for stop in (*stops, 640):
            trainer = Trainer(small(), images(), folder, Recipe(batch_size=16))
            steps = trainer.run(640, evaluate_at={0: question, 100: question})
            for _ in steps:
                if trainer.images_seen >= stop and stop < 640:
                    break
            steps.close()
        return trainer

    whole, parts = run(tmp_path / "whole", []), run(tmp_path / "parts", [16, 112, 400])
    assert torch.equal(weights(whole.denoiser), weights(parts.denoiser))
    assert torch.equal(weights(whole.averaged), weights(parts.averaged))
    folders = (tmp_path / "whole", tmp_path / "parts")
    assert len({(folder / "losses.csv").read_bytes() for folder in folders}) == 1
    one, other = (weights(EDM.load(folder / "network.safetensors")) for folder in folders)
    assert torch.equal(one, other)
    rows, others = (table(tmp_path / folder / "residuals.csv") for folder in ("parts", "whole"))
    assert [float(row["score"]) for row in rows] == pytest.approx([float(row["score"]) for row in others], abs=1e-6)
    assert [row["images"] for row in rows] == ["0", "112"]  # the first step past each mark
    assert float(rows[0]["score"]) == 0
    assert float(rows[1]["score"]) > 0


def test_a_network_in_the_order_of_channels_trains_and_resumes_to_the_same_weights(tmp_path):
    """The order that GPUs are fast in changes no number but by rounding, and a checkpoint does not depend on it."""
    usual = Trainer(small(), images(), tmp_path / "usual", Recipe(batch_size=16))
    spend(usual.run(320))
    for stop in (160, 320):
        other = Trainer(small().to(memory_format=torch.channels_last), images(), tmp_path / "c", Recipe(batch_size=16))
        spend(other.run(stop))
    assert not other.denoiser.network.unet.mid_block.resnets[0].conv1.weight.is_contiguous()
    torch.testing.assert_close(weights(other.averaged), weights(usual.averaged), rtol=1e-3, atol=1e-4)


def work(folder):
    spend(Trainer(small(), images(), folder, Recipe(batch_size=16)).run(800, save_every=0.0))


def test_killed_at_any_moment_a_run_resumes_to_the_same_bits(tmp_path):
    """SIGKILL leaves no chance to tidy up; with save_every=0 many of these strike while a checkpoint is written."""
    folder = tmp_path / "killed"
    for delay in (0.0, 0.05, 0.2):
        child = multiprocessing.Process(target=work, args=(folder,))
        child.start()
        while not (folder / "checkpoint.safetensors").exists():
            time.sleep(0.001)
        time.sleep(delay)
        child.kill()  # which leaves a lock, and perhaps a part of a file
        child.join()
        assert child.exitcode not in (0, 1)
    (folder / ".checkpoint.safetensors.123").write_bytes(b"part")
    work(folder)
    whole = Trainer(small(), images(), tmp_path / "whole", Recipe(batch_size=16))
    spend(whole.run(800))
    resumed = Trainer(small(), images(), folder, Recipe(batch_size=16))
    assert resumed.images_seen == 800
    assert not list(folder.glob(".checkpoint*"))
    assert torch.equal(weights(whole.averaged), weights(resumed.averaged))


def test_an_interruption_within_a_step_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    trainer = Trainer(small(), images(), tmp_path, Recipe(batch_size=16))
    spend(trainer.run(160))
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "_foreach_lerp_", interrupted)  # after the weights moved, before their average did
    with pytest.raises(KeyboardInterrupt):
        spend(trainer.run(320))
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def interrupting(at, run):
    """Call a function with KeyboardInterrupt at this event of the trainer's and Adam's code; return how many came."""
    came = 0

    def trace(frame, event, _):
        nonlocal came
        ours = frame.f_code.co_filename == training.__file__
        if not ours and "/optim/adam" not in Path(frame.f_code.co_filename).as_posix():
            return None
        frame.f_trace_opcodes = ours
        came += event in ("line", "opcode")
        if came == at:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return came


def test_interrupted_anywhere_and_run_again_a_trainer_ends_in_the_same_bits(tmp_path, monkeypatch):
    """In the notebook one presses Stop, and runs the cell again: the object goes on, whatever it was doing."""
    monkeypatch.setattr(training, "NOTED", 4)

    def run(trainer):
        spend(trainer.run(12))

    whole = quick(tmp_path / "whole")
    events = interrupting(None, lambda: run(whole))
    for at in range(1, events, 97):
        trainer = quick(tmp_path / str(at))
        interrupting(at, lambda: run(trainer))  # noqa: B023 (called at once)
        run(trainer)
        assert torch.equal(held(trainer.folder), held(whole.folder)), at
        assert trainer.progress.losses == whole.progress.losses


def test_two_runs_do_not_write_in_one_folder(tmp_path):
    """The second is refused while the first goes on, and then goes on from where that ended."""
    first, second = quick(tmp_path), quick(tmp_path)
    steps = first.run(20)
    next(steps)
    with pytest.raises(BlockingIOError, match="held by a run that is going on"):
        next(second.run(20))
    assert second.progress.step == 0
    next(steps)
    steps.close()
    spend(second.run(40))
    whole = quick(tmp_path / "whole")
    spend(whole.run(40))
    assert torch.equal(held(tmp_path), held(whole.folder))
    assert second.progress.step == 10


@pytest.mark.parametrize("value", [torch.nan, 1e30])
def test_weights_that_no_file_should_hold_stop_the_run_and_keep_the_checkpoint(tmp_path, value):
    trainer, whole = quick(tmp_path), quick(tmp_path / "whole")
    spend(trainer.run(20))
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    steps = trainer.run(32)
    next(steps)
    with torch.no_grad():
        next(trainer.averaged.parameters()).fill_(value)  # of which the loss knows nothing
    with pytest.raises(FloatingPointError, match=r"averaged\.layer\.weight holds values that are NaN.* at step 8"):
        spend(steps)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    spend(trainer.run(32))
    spend(whole.run(32))
    assert torch.equal(held(tmp_path), held(whole.folder))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    trainer = Trainer(small(), images(), tmp_path, Recipe(batch_size=16))
    steps = trainer.run(320)
    next(steps)
    with torch.no_grad():
        next(trainer.denoiser.parameters()).fill_(torch.nan)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(FloatingPointError, match="loss is nan at step 1"):
        spend(steps)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_folder_with_another_run_is_refused(tmp_path):
    spend(Trainer(small(), images(), tmp_path, Recipe(batch_size=16)).run(16))
    with pytest.raises(ValueError, match=r"another run: learning_rate 0.0005 there and 0.1 now.*or another folder"):
        Trainer(small(), images(), tmp_path, Recipe(batch_size=16, learning_rate=0.1))
    with pytest.raises(ValueError, match="number of images 50 there and 49 now"):
        Trainer(small(), images(49), tmp_path, Recipe(batch_size=16))
    with pytest.raises(ValueError, match="precision float32 there and bfloat16 now"):
        Trainer(small(), images(), tmp_path, Recipe(batch_size=16), half_precision=True)
    with pytest.raises(ValueError, match=r"sha256 of the images \w{64} there and \w{64} now"):
        Trainer(small(), images().flip(0), tmp_path, Recipe(batch_size=16))
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half a checkpoint")
    with pytest.raises(ValueError, match="no readable safetensors"):
        Trainer(small(), images(), tmp_path, Recipe(batch_size=16))


def test_what_is_compared_is_compared_to_the_end(tmp_path):
    spend(quick(tmp_path, compared={"points": 5, "judged": POINTS}).run(4))
    quick(tmp_path, compared={"points": 5, "judged": POINTS.clone()})
    with pytest.raises(ValueError, match=r"judged \w{64} there and \w{64} now; points 5 there and 6 now"):
        quick(tmp_path, compared={"points": 6, "judged": -POINTS})


@pytest.mark.parametrize(
    "damage",
    [
        {"settings": {"settings": {}}},
        {"settings": {"progress": {}}},
        {"progress": None},
        {"progress": {"unheard": 1}},
        {"averaged.layer.bias": None},
        {"optimizer.1.exp_avg": None},
        {"optimizer.1.exp_avg": torch.zeros(3)},
        {"optimizer.2.exp_avg": torch.zeros(4)},
        {"unheard": torch.zeros(4)},
    ],
    ids=str,
)
def test_a_checkpoint_that_lacks_parts_or_holds_others_is_refused(tmp_path, damage):
    spend(quick(tmp_path).run(20))
    settings = files.read_settings(tmp_path / "checkpoint.safetensors", "Trainer")
    if "progress" in damage:
        progress = damage.pop("progress")
        settings["progress"] = progress and settings["progress"] | progress
    rewritten(tmp_path, damage.pop("settings", settings), **damage)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is no complete checkpoint"):
        quick(tmp_path)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"images": -1}, "images is -1, expected an integer >= 0"),
        ({"images": float("nan")}, "images is nan"),
        ({"images": 4, "save_every": -1.0}, "save_every is -1"),
    ],
)
def test_limits_that_say_nothing_are_refused_before_the_folder_is_taken(tmp_path, as_installed, limits, message):
    with pytest.raises(ValueError, match=message):
        spend(quick(tmp_path).run(**limits))
    assert not list(tmp_path.iterdir())


def test_each_question_has_its_rows_and_each_value_its_column(tmp_path):
    """Two marks within a step, rows with other columns later, and marks that the run had passed."""
    marks = {2: lambda _: [{"a": 1, "b": "x, y"}], 3: lambda _: [{"b": "z", "c": 0.5}], 8: lambda _: [{"c": 2}]}
    spend(quick(tmp_path).run(4, evaluate_at=marks))
    spend(quick(tmp_path).run(12, evaluate_at=marks | {0: lambda _: pytest.fail("asked late")}))
    assert table(tmp_path / "residuals.csv") == [
        {"images": "4", "a": "1", "b": "x, y", "c": ""},
        {"images": "4", "a": "", "b": "z", "c": "0.5"},
        {"images": "8", "a": "", "b": "", "c": "2"},
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 1e30}, r"learning_rate is 1e\+30, expected a number above 0 and up to 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"log_sigma_mean": float("nan")}, "log_sigma_mean is nan"),
        ({"log_sigma_mean": 90.0}, "log_sigma_mean is 90.0, expected a number above -20 and up to 20"),
        ({"log_sigma_std": 11.0}, "log_sigma_std is 11.0"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"warmup": -1}, "warmup is -1"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"log_sigma_std": float("nan")}, "log_sigma_std is nan"),
        ({"averaging": 0.0}, "averaging is 0.0"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**change)


def test_images_that_do_not_fit_are_refused(tmp_path, as_installed):
    with pytest.raises(ValueError, match=r"images has shape \(2, 1, 9, 9\), expected \(batch, 1, 8, 8\)"):
        Trainer(small(), torch.zeros(2, 1, 9, 9), tmp_path)
    with pytest.raises(ValueError, match="the number of images is 0"):
        Trainer(small(), torch.zeros(0, *SHAPE), tmp_path)
    with pytest.raises(ValueError, match="expected a multiple of 3 processes"):
        Trainer(small(), images(), tmp_path, share=(0, 3))
    with pytest.raises(ValueError, match="share is 2, expected an integer from 0 to 1"):
        Trainer(small(), images(), tmp_path, share=(2, 2))
    with pytest.raises(ValueError, match="images holds 64 values that are NaN"):
        Trainer(small(), torch.full((1, *SHAPE), torch.nan), tmp_path)


def test_networks_that_cannot_be_trained_here_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"conv_in\.weight is torch\.bfloat16, expected float32"):
        Trainer(small().bfloat16(), images(), tmp_path / "run")
    with pytest.raises(TypeError, match=r"the network is .*lambda.*, expected one with a config"):
        Trainer(EDM(lambda x, c_noise: x, SHAPE), images(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    broken = quick(tmp_path / "run")
    with torch.no_grad():
        next(broken.denoiser.parameters()).fill_(torch.inf)
    with pytest.raises(FloatingPointError, match=r"network\.layer\.weight holds values that are NaN, infinite"):
        spend(broken.run(4))
    assert not list((tmp_path / "run").glob("*.safetensors"))


# ---- files


def test_a_network_comes_back_from_its_file(tmp_path):
    denoiser = small()
    torch.nn.init.normal_(denoiser.network.unet.conv_out.weight)
    denoiser.save(tmp_path / "network.safetensors")
    found = EDM.load(tmp_path / "network.safetensors")
    x = torch.randn(2, *SHAPE)
    # With a gradient to keep, attention takes another path, which rounds differently.
    assert torch.equal(found(x, 1.0), denoiser.eval().requires_grad_(False)(x, 1.0))
    assert not found.training
    assert not any(value.requires_grad for value in found.parameters())
    denoiser.save(tmp_path / "half.safetensors", torch.float16)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "network.safetensors").stat().st_size
    torch.testing.assert_close(EDM.load(tmp_path / "half.safetensors")(x, 1.0), found(x, 1.0), rtol=1e-2, atol=1e-2)


def test_a_file_that_holds_no_network_is_refused(tmp_path):
    gt.Gaussian.isotropic(torch.zeros(2), 1.0).save(tmp_path / "gaussian.safetensors")
    with pytest.raises(ValueError, match="holds a gausstools Gaussian, expected a gausstools EDM"):
        EDM.load(tmp_path / "gaussian.safetensors")
    settings = {"sigma_data": 0.5, "unet": small().network.config}
    files.write(tmp_path / "empty.safetensors", "EDM", {"unet.conv_in.weight": torch.zeros(1)}, settings)
    with pytest.raises(ValueError, match="no complete EDM"):
        EDM.load(tmp_path / "empty.safetensors")
    files.write(tmp_path / "bare.safetensors", "EDM", {"unet.conv_in.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="no readable settings"):
        EDM.load(tmp_path / "bare.safetensors")


# ---- the command


def invoked(*arguments):
    application = typer.Typer()
    application.command()(train)
    return CliRunner().invoke(application, [*map(str, arguments)])


def command(*arguments, processes=1):
    """Run the command, in this process or under accelerate launch."""
    if processes == 1:
        done = invoked(*arguments)
        sys.stderr.write(done.stderr)
        assert done.exit_code == 0, done.exception
        return
    launch = [*("--cpu", "--num_processes", str(processes), "--main_process_port", "0"), "-m", "gausstools", "train"]
    launch += map(str, arguments)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-m", "accelerate.commands.launch", *launch], check=True, env=environment)


SMALL = ("digits", "--batch-size", 32, "--widths", "16,16", "--layers", 1, "--device", "cpu")


@pytest.mark.parametrize("processes", [1, 2])
def test_the_command_trains_and_writes_a_card_that_is_true(tmp_path, capfd, processes):
    """Two processes share the batches; up to rounding they end in the weights of one."""
    out = tmp_path / "run"
    models = "isotropic,gaussian,mixture-3,mixture-2x5,cloud" if processes == 1 else "gaussian"
    command(*SMALL, "--out", out, "--images", 640, "--points", 16, "--models", models, processes=processes)
    assert "loss=" in capfd.readouterr().err  # of the progress bar
    text = (out / "README.md").read_text(encoding="utf-8")
    digits = gt.datasets.load("digits", "train").images
    assert f"the {len(digits):,} images" in text
    assert f"mean {digits.mean():.5f}" in text
    assert "20 steps of 32, so 640 images" in " ".join(text.split())
    assert (
        re.search(r"sha256\s+`(\w+)`", text)[1]
        == hashlib.sha256((out / "network.safetensors").read_bytes()).hexdigest()
    )
    rows = table(out / "residuals.csv")
    assert {row["images_from"] for row in rows} == {"train", "test"}
    assert {row["model"] for row in rows} == set(models.split(","))
    assert {row["images"] for row in rows} == {"0", "640"}
    # The same numbers from the network that was written, in half precision.
    network = EDM.load(out / "network.safetensors")
    model = {"gaussian": gt.Gaussian.fit(digits)}
    again = residual_rows(network, model, {"train": digits}, [1.0], points=16)[0]["score"]
    wanted = ("640", "train", "gaussian", "1")
    (row,) = [row for row in rows if (row["images"], row["images_from"], row["model"], row["sigma"]) == wanted]
    assert float(row["score"]) == pytest.approx(again, rel=1e-2)

    torch.manual_seed(0)
    denoiser = EDM(UNet(SHAPE, widths=(16, 16), layers=1, fold=1, groups=16), SHAPE)
    alone = Trainer(denoiser, digits, tmp_path / "alone", Recipe(batch_size=32))
    spend(alone.run(640))
    torch.testing.assert_close(
        weights(EDM.load(out / "network.safetensors")), weights(alone.averaged), rtol=1e-2, atol=1e-3
    )


def test_residuals_are_taken_on_the_chosen_training_images(tmp_path):
    np.save(tmp_path / "chosen.npy", np.array([7, 3], dtype=np.uint16))
    chosen = ("--points", 4, "--models", "mean,gaussian", "--residuals-on", tmp_path / "chosen.npy")
    command(*SMALL, "--out", tmp_path / "run", "--images", 64, *chosen)
    network, digits = EDM.load(tmp_path / "run" / "network.safetensors"), gt.datasets.load("digits").images
    models = {"mean": gt.Gaussian.isotropic(digits.mean(0), 0.0), "gaussian": gt.Gaussian.fit(digits)}
    expected = residual_rows(network, models, {"train": digits[[7, 3]]}, [1.0], points=4)
    rows = [row for row in table(tmp_path / "run" / "residuals.csv") if row["images"] == "64" and row["sigma"] == "1"]
    found = {row["model"]: float(row["score"]) for row in rows if row["images_from"] == "train"}
    assert found == pytest.approx({row["model"]: row["score"] for row in expected}, rel=1e-2)


@pytest.mark.parametrize("indices", [[], [0, 1437], [-1], [0.5], [[1, 2]]])
def test_indices_of_no_training_images_are_refused(tmp_path, indices):
    np.save(tmp_path / "wrong.npy", np.array(indices))
    with pytest.raises(ValueError, match=r"wrong\.npy: expected one row of whole numbers from 0 to 1436"):
        _indices(tmp_path / "wrong.npy", 1437)
    (tmp_path / "text.npy").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"no array of indices, expected what numpy\.save writes"):
        _indices(tmp_path / "text.npy", 1437)


SMALLEST = {"images": 32, "batch_size": 32, "widths": "16,16", "layers": 1, "device": "cpu"}


def test_the_command_checks_first_and_goes_on_with_the_same_settings_only(tmp_path):
    def again(**options):
        train("digits", tmp_path, **SMALLEST | {"models": "mean", "points": 4} | options)

    for wrong in ({"models": "mean,mixture-2000x1"}, {"models": "mixture-3,cubist"}, {"seed": 2**64}):
        with pytest.raises((ValueError, typer.BadParameter)):
            again(**wrong)
    assert not list(tmp_path.glob("*.safetensors"))
    again()
    again(images=64)
    np.save(tmp_path / "chosen.npy", np.array([7, 3]))
    for other, message in (
        ({"points": 5}, "points 4 there and 5 now"),
        ({"models": "mean,cloud"}, r"models \['mean'\] there and \['cloud', 'mean'\] now"),
        ({"residuals_on": tmp_path / "chosen.npy"}, r"residuals on None there and \w{64} now"),
        ({"precision": "bfloat16"}, "precision float32 there and bfloat16 now"),
    ):
        with pytest.raises(ValueError, match=message):
            again(**other)


@pytest.mark.parametrize("wrong", ["--layers=-1", "--points=0", "--images=-1", "--minutes=-1"])
def test_the_command_refuses_numbers_out_of_their_range(tmp_path, wrong):
    done = invoked("digits", "--out", tmp_path / "run", wrong)
    assert done.exit_code == 2
    assert f"Invalid value for '{wrong.partition('=')[0]}'" in done.output
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_fits_no_model_again(tmp_path, monkeypatch):
    data = images()
    for name, kind, arguments in (("mixture-2x3", gt.Mixture, (2, 3)), ("gaussian", gt.Gaussian, ())):
        _model(name, -data, tmp_path)  # those of other images are not taken for these
        first = _model(name, data, tmp_path)
        fitted = kind.fit(data, *arguments, **({"method": "kmeans"} if arguments else {}))
        assert torch.equal(first(data, 0.5), fitted(data, 0.5))
        monkeypatch.setattr(kind, "fit", lambda *_, **__: pytest.fail("fitted again"))
        assert torch.equal(_model(name, data, tmp_path)(data, 0.5), first(data, 0.5))


def test_a_model_is_asked_the_same_question_once():
    asked = []

    def model(x, sigma):
        asked.append(sigma)
        return x / (1 + sigma**2)

    remembering, x = _Cached(model), torch.randn(3, 2)
    for sigma in (1.0, 2.0, 1.0, 2.0):
        assert torch.equal(remembering(x.clone(), sigma), x / (1 + sigma**2))
    assert asked == [1.0, 2.0]
    assert torch.equal(remembering(x[:2], 1.0), x[:2] / 2)
    assert asked == [1.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("faces", "--out", "x"), "dataset is 'faces', expected 'digits', 'mnist' or 'cifar10'"),
        ((*SMALL, "--out", "x", "--models", "cubist"), "'cubist' is no model, expected mean|isotropic"),
        ((*SMALL[:4], "16,a", "--out", "x"), "expected whole numbers with commas"),
        ((*SMALL, "--precision", "float8", "--out", "x"), "precision is 'float8', expected 'float32' or 'bfloat16'"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(tmp_path, arguments, message):
    arguments = [str(tmp_path / "run" if value == "x" else value) for value in arguments]
    done = invoked(*arguments)
    assert done.exit_code != 0
    assert message in " ".join(re.sub(r"[│╭╮╰╯─]", " ", f"{done.stderr} {done.exception}").split())
    assert not (tmp_path / "run").exists()
