"""Training: the loss and what minimises it, runs that are killed and resumed, and what they leave in their folder."""

import copy
import csv
import functools
import hashlib
import importlib
import multiprocessing
import os
import re
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import scipy
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
commands = importlib.import_module("gausstools.commands.train")


def small(seed=0, gaussian=None):
    torch.manual_seed(seed)
    return EDM(UNet(SHAPE, widths=(8, 8), layers=1, fold=1, groups=4), SHAPE, gaussian=gaussian)


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
    spend(trainer.run(3000))
    assert before > 5
    assert unexplained(trainer.averaged) < 0.1


# ---- from a Gaussian


def wavy(x, c_noise):
    return torch.sin(3 * x) + c_noise.reshape(-1, *[1] * (x.ndim - 1))


@given(st.floats(1e-3, 100), st.floats(0.1, 3), st.integers(0, 2**31))
def test_edms_own_form_is_that_of_an_isotropic_gaussian(sigma, sigma_data, seed):
    x0, noise = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gaussian = gt.Gaussian.isotropic(torch.zeros(5, dtype=torch.float64), sigma_data**2)
    own, other = EDM(wavy, (5,), sigma_data), EDM(wavy, (5,), sigma_data, gaussian)
    torch.testing.assert_close(other(x0, sigma), own(x0, sigma), rtol=1e-13, atol=1e-13)
    levels = torch.full((3,), sigma, dtype=torch.float64)
    torch.testing.assert_close(other.loss(x0, levels, noise), own.loss(x0, levels, noise), rtol=1e-11, atol=0)


def correlated(rank=None):
    """The Gaussian of images whose neighbours are alike."""
    return gt.Gaussian.fit(images(200).cumsum(3) / 3, rank)


@pytest.mark.parametrize("rank", [None, 0, 5])
def test_an_untrained_network_is_the_gaussian_that_it_starts_from(rank):
    gaussian, x = correlated(rank), torch.randn(4, *SHAPE)
    denoiser = small(gaussian=gaussian)
    for sigma in (0.0, 0.002, 0.5, 80.0, torch.tensor([0.1, 1.0, 5.0, 20.0])):
        assert torch.equal(denoiser(x, sigma), gaussian(x, sigma))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_beside_a_network_in_half_precision_the_gaussian_is_computed_in_float32(dtype):
    gaussian = correlated(5)
    denoiser = small(gaussian=gaussian).to(dtype)
    x = torch.randn(4, *SHAPE).to(dtype)
    exact = gaussian.double()(x.double(), 0.3)
    assert denoiser(x, 0.3).dtype == dtype
    torch.testing.assert_close(denoiser(x, 0.3).double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)
    torch.testing.assert_close(denoiser(x.float(), 0.3).double(), exact, rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(small(gaussian=correlated(5))(x.float(), 0.3).double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [None, 5])
def test_a_network_comes_back_from_its_file_with_its_gaussian(tmp_path, rank):
    gaussian, x = correlated(rank), torch.randn(4, *SHAPE)
    denoiser = small(gaussian=gaussian)
    torch.nn.init.normal_(denoiser.network.unet.conv_out.weight, 0, 0.1)
    denoiser.save(tmp_path / "half.safetensors", torch.float16)
    found = gt.pretrained.load(tmp_path / "half.safetensors")
    assert found.gaussian.rank == gaussian.rank
    for one, other in zip(found.gaussian.buffers(), gaussian.buffers(), strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(found(x, 1.0), denoiser(x, 1.0), rtol=1e-2, atol=1e-2)
    copied = copy.deepcopy(found).double()
    torch.testing.assert_close(copied(x.double(), 1.0).float(), found(x, 1.0), rtol=1e-4, atol=1e-4)
    assert found.gaussian.mean.dtype == torch.float32
    files_own = files.read(tmp_path / "half.safetensors", "EDM")
    files.write(
        tmp_path / "part.safetensors",
        "EDM",
        {name: value for name, value in files_own.items() if name != "gaussian.basis"},
        files.read_settings(tmp_path / "half.safetensors", "EDM"),
    )
    with pytest.raises(ValueError, match=r"part\.safetensors is no complete EDM.*basis"):
        EDM.load(tmp_path / "part.safetensors")


def test_a_gaussian_of_other_events_is_refused(as_installed):
    with pytest.raises(ValueError, match=r"gaussian has events of shape \(2,\), expected \(1, 8, 8\)"):
        small(gaussian=gt.Gaussian.isotropic(torch.zeros(2), 1.0))


def test_another_preconditioning_is_a_small_subclass(tmp_path):
    """Inputs whitened by the Gaussian have unit variance in every direction, and the Trainer trains the subclass."""

    class Whitened(EDM):
        def _scaled(self, x, level):
            rows = (x - self.gaussian.mean).flatten(1)
            return self.gaussian.spectrum.apply(lambda v: (v + level.flatten()[:, None] ** 2).rsqrt(), rows).reshape(
                x.shape
            )

    inputs = []
    gaussian = correlated().double()
    denoiser = Whitened(lambda x, c_noise: inputs.append(x) or 0 * x, SHAPE, gaussian=gaussian)
    denoiser(gaussian.sample(20_000, 0.3, generator=torch.Generator().manual_seed(0)), 0.3)
    torch.testing.assert_close(inputs[0].flatten(1).T.cov(), torch.eye(64).double(), rtol=0, atol=0.05)
    network = small().network
    trainer = Trainer(Whitened(network, SHAPE, gaussian=correlated()), images(), tmp_path, Recipe(batch_size=8))
    spend(trainer.run(16))
    assert isinstance(trainer.averaged, Whitened)
    assert isinstance(trainer._parallel, Whitened)


def test_a_run_from_a_gaussian_resumes_to_the_same_bits_and_with_the_same_gaussian_only(tmp_path):
    for folder, stops in (("whole", [160]), ("parts", [48, 160])):
        for stop in stops:
            trainer = Trainer(small(gaussian=correlated()), images(), tmp_path / folder, Recipe(batch_size=16))
            spend(trainer.run(stop))
    assert torch.equal(held(tmp_path / "whole"), held(tmp_path / "parts"))
    found, x = EDM.load(tmp_path / "parts" / "network.safetensors"), torch.randn(2, *SHAPE)
    torch.testing.assert_close(found(x, 0.5), trainer.averaged(x, 0.5), rtol=1e-3, atol=1e-3)
    assert not torch.equal(found(x, 0.5), correlated()(x, 0.5))
    for other in (None, correlated(5)):
        with pytest.raises(ValueError, match=r"sha256 of the Gaussian \w{64} there and (None|\w{64}) now"):
            Trainer(small(gaussian=other), images(), tmp_path / "parts", Recipe(batch_size=16))


# ---- the recipe


def test_noise_levels_follow_the_law_of_the_recipe(tmp_path):
    """A tenth uniform in ln σ from 5 to 80, the others normal: each quantile of both laws, by scipy."""
    recipe = Recipe(batch_size=5000, log_sigma_mean=-1.2, log_sigma_std=1.2, high_noise=0.1)
    _, sigma, _ = Trainer(EDM(Linear(), (4,)), POINTS, tmp_path, recipe)._batch(3)
    log_sigma = sigma.double().log().numpy()
    places = (np.arange(5000) + 0.5) / 5000
    inside = scipy.stats.norm.ppf(places / 0.9, -1.2, 1.2)[: round(0.9 * 5000)]
    outside = np.log(5) + (places[len(inside) :] - 0.9) / 0.1 * np.log(80 / 5)
    np.testing.assert_allclose(log_sigma[10 : len(inside) - 10], inside[10:-10], atol=0.05)
    np.testing.assert_allclose(log_sigma[len(inside) :], outside, atol=0.01)


def test_the_highest_noise_levels_are_as_rare_as_the_law_says(tmp_path):
    """EDM's law draws σ >= 20 (3.5 standard deviations) in 236 of a million images, σ >= 80 (4.7) in 1.6."""
    recipe = Recipe(batch_size=1_000_000, log_sigma_mean=-1.2, log_sigma_std=1.2)
    trainer = Trainer(EDM(Linear(), (4,)), torch.zeros(1_000_000, 4), tmp_path, recipe)
    sigma = torch.cat([trainer._batch(step)[1] for step in range(4)])
    for level in (20.0, 80.0):
        expected = len(sigma) * scipy.stats.norm.sf(np.log(level), -1.2, 1.2)
        assert abs(int((sigma >= level).sum()) - expected) < 3 * expected**0.5


def test_every_other_image_is_mirrored_by_the_number_of_the_step(tmp_path):
    data = images(500)
    recipe = Recipe(batch_size=500, mirror=True)
    trainer = Trainer(small(), data, tmp_path / "one", recipe)
    shown, sigma, noise = trainer._batch(2)
    chosen = data[trainer._chosen(2)]
    turned = torch.tensor([torch.equal(one, other.flip(-1)) for one, other in zip(shown, chosen, strict=True)])
    assert torch.equal(shown[~turned], chosen[~turned])
    assert 200 < turned.sum() < 300
    assert torch.equal(trainer._batch(2)[0], shown)
    shares = [Trainer(small(), data, tmp_path / "one", recipe, share=(k, 2))._batch(2) for k in (0, 1)]
    for whole, *parts in zip((shown, sigma, noise), *shares, strict=True):
        assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)


def test_the_learning_rate_rises_over_the_warm_up(tmp_path):
    trainer = Trainer(EDM(Linear(), (4,)), POINTS, tmp_path, Recipe(batch_size=10, learning_rate=0.01, warmup=40))
    rates = [trainer.optimizer.param_groups[0]["lr"] for _ in trainer.run(60)]
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])


def test_the_recipe_of_edm_is_the_published_one_but_for_the_batch():
    """Karras et al. 2022, table 1 and appendix F.2: P_mean, P_std, Adam, ramps; a batch of 512."""
    published = {
        "log_sigma_mean": -1.2,
        "log_sigma_std": 1.2,
        "learning_rate": 1e-3,
        "warmup": 10_000_000,
        "beta2": 0.999,
    }
    published |= {"averaging": 0.05, "averaging_at_most": 500_000, "batch_size": 256}
    recipe = asdict(training.RECIPES["edm"])
    assert {name: recipe[name] for name in published} == published


# ---- going on elsewhere


def test_a_run_goes_on_elsewhere_from_its_averaged_weights(tmp_path, monkeypatch):
    """A broken run shows the images and the noise that an unbroken one does at each step, and keeps its counts."""
    monkeypatch.setattr(training, "NOTED", 40)

    def run(folder, images, **options):
        recipe = Recipe(batch_size=10, learning_rate=0.01, warmup=0, warmup_again=30)
        trainer = Trainer(EDM(Linear(), (4,)), POINTS, tmp_path / folder, recipe, **options)
        losses = {}
        for loss in trainer.run(images, evaluate_at=dict.fromkeys((0, 50, 150), lambda _: [{"a": 0.5, "b": "x"}])):
            losses[trainer.images_seen] = loss, trainer.optimizer.param_groups[0]["lr"]
        return trainer, losses

    torch.manual_seed(0)
    first, before = run("first", 100)
    for name in ("checkpoint.safetensors", "README.md"):  # which is lost
        (tmp_path / "first" / name).unlink(missing_ok=True)
    second, after = run("second", 130, go_on_from=tmp_path / "first" / "network.safetensors")
    third, last = run("second", 200, go_on_from=tmp_path / "first" / "network.safetensors")  # from its own checkpoint
    assert list(before | after | last) == list(range(10, 201, 10))
    assert third.progress.step == 20
    assert third.progress.breaks == [100]
    assert [rate for _, rate in (after | last).values()] == pytest.approx([0.01 / 3, 0.02 / 3, *[0.01] * 8])
    assert [row["images"] for row in table(tmp_path / "second" / "losses.csv")] == ["40", "80", "120", "160", "200"]
    assert table(tmp_path / "second" / "losses.csv")[:2] == table(tmp_path / "first" / "losses.csv")
    noted = [loss for seen, (loss, _) in (before | after).items() if 80 < seen <= 120]
    assert float(table(tmp_path / "second" / "losses.csv")[2]["loss"]) == pytest.approx(sum(noted) / 4, rel=1e-5)
    assert [(row["images"], row["a"]) for row in table(tmp_path / "second" / "residuals.csv")] == [
        (seen, "0.5") for seen in ("0", "50", "150")
    ]
    assert third.progress.seconds > first.progress.seconds
    for one, other in zip(first._batch(12), third._batch(12), strict=True):
        assert torch.equal(one, other)
    begun = torch.cat([value.flatten() for value in first.averaged.parameters()]).half().float()
    start = Trainer(
        EDM(Linear(), (4,)), POINTS, tmp_path / "x", first.recipe, go_on_from=tmp_path / "first" / "network.safetensors"
    )
    for network in (start.denoiser, start.averaged):
        assert torch.equal(torch.cat([value.flatten() for value in network.parameters()]), begun)
    assert not any(state["exp_avg"].any() for state in start.optimizer.state.values())
    assert second.progress.breaks == [100]


def test_only_the_same_run_goes_on_elsewhere(tmp_path):
    spend(quick(tmp_path / "first").run(20))
    file = tmp_path / "first" / "network.safetensors"
    with pytest.raises(ValueError, match="batch_size 4 there and 5 now"):
        quick(tmp_path / "second", batch_size=5, go_on_from=file)
    with pytest.raises(ValueError, match="sha256 of the images"):
        quick(tmp_path / "third", -POINTS, go_on_from=file)
    small().save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors is no complete checkpoint"):
        quick(tmp_path / "fourth", go_on_from=tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError):
        quick(tmp_path / "fifth", go_on_from=tmp_path / "none.safetensors")


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
        for stop in (*stops, 320):
            trainer = Trainer(small(), images(), folder, Recipe(batch_size=16))
            steps = trainer.run(320, evaluate_at={0: question, 100: question})
            for _ in steps:
                if trainer.images_seen >= stop and stop < 320:
                    break
            steps.close()
        return trainer

    whole, parts = run(tmp_path / "whole", []), run(tmp_path / "parts", [16, 112, 208])
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
    spend(usual.run(160))
    for stop in (80, 160):
        other = Trainer(small().to(memory_format=torch.channels_last), images(), tmp_path / "c", Recipe(batch_size=16))
        spend(other.run(stop))
    assert not other.denoiser.network.unet.mid_block.resnets[0].conv1.weight.is_contiguous()
    torch.testing.assert_close(weights(other.averaged), weights(usual.averaged), rtol=1e-3, atol=1e-4)


def work(folder):
    spend(Trainer(small(), images(), folder, Recipe(batch_size=8)).run(10**9, save_every=0.0))


def test_killed_at_any_moment_a_run_resumes_to_the_same_bits(tmp_path):
    """SIGKILL leaves no chance to tidy up; with save_every=0 many of these strike while a checkpoint is written."""
    folder, whole = tmp_path / "killed", Trainer(small(), images(), tmp_path / "whole", Recipe(batch_size=8))
    written = folder / "checkpoint.safetensors"
    for delay in (0.0, 0.003, 0.006, 0.01, 0.03):
        before = written.stat().st_mtime_ns if written.exists() else None
        child = multiprocessing.Process(target=work, args=(folder,))
        child.start()
        while not written.exists() or written.stat().st_mtime_ns == before:
            time.sleep(0.0005)
        time.sleep(delay)
        child.kill()  # which leaves a lock, and perhaps a part of a file
        child.join()
        assert child.exitcode not in (0, 1)
    (folder / ".checkpoint.safetensors.123").write_bytes(b"part")
    resumed = Trainer(small(), images(), folder, Recipe(batch_size=8))
    assert resumed.images_seen > 0
    spend(resumed.run(resumed.images_seen + 40))
    spend(whole.run(resumed.images_seen))
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
        ({"learning_rate": 1e30}, r"learning_rate is 1e\+30, expected a number from 1e-12 to 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"log_sigma_mean": float("nan")}, "log_sigma_mean is nan"),
        ({"log_sigma_mean": 90.0}, "log_sigma_mean is 90.0, expected a number from -20 to 20"),
        ({"log_sigma_std": 11.0}, "log_sigma_std is 11.0"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"warmup": -1}, "warmup is -1"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"log_sigma_std": float("nan")}, "log_sigma_std is nan"),
        ({"averaging": 0.0}, "averaging is 0.0"),
        ({"high_noise": 1.0}, "high_noise is 1.0, expected a number from 0 to 0.9"),
        ({"beta2": 1.0}, "beta2 is 1.0"),
        ({"warmup_again": -1}, "warmup_again is -1"),
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


def share(rank, port, arguments):
    """Be one of two processes, as accelerate launch starts them (its own start is tested in tests/test_sample.py)."""
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    done = invoked(*arguments)
    sys.stderr.write(done.stderr)
    sys.exit(done.exit_code)


def command(*arguments, processes=1):
    """Run the command, in this process or in several."""
    if processes == 1:
        done = invoked(*arguments)
        sys.stderr.write(done.stderr)
        assert done.exit_code == 0, done.exception
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [multiprocessing.Process(target=share, args=(rank, port, arguments)) for rank in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0]


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
        ((*SMALL, "--out", "x", "--models", "cubist"), "'cubist' is no model, expected mean, isotropic"),
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


def recorded(folder):
    return files.read_settings(folder / "checkpoint.safetensors", "Trainer")["settings"]


def told(folder):
    return " ".join((folder / "README.md").read_text("utf-8").split())


FEW = SMALLEST | {"models": ""}
OPTIONS = {"warmup": 77, "log_sigma_mean": -0.7, "log_sigma_std": 1.1, "high_noise": 0.25, "averaging": 0.1}


def test_the_recipe_is_a_named_one_with_what_is_given_and_is_recorded(tmp_path):
    train(
        "digits", tmp_path, **FEW | {"images": 64, "recipe": "edm", "learning_rate": 2e-3, "mirror": False, "seed": 3}
    )
    wanted = asdict(training.RECIPES["edm"]) | {"batch_size": 32, "learning_rate": 2e-3, "mirror": False, "seed": 3}
    assert wanted.items() <= recorded(tmp_path).items()
    assert "none mirrored" in told(tmp_path)
    train("digits", tmp_path / "b", **FEW | OPTIONS | {"mirror": True})
    assert (asdict(Recipe(batch_size=32)) | OPTIONS | {"mirror": True}).items() <= recorded(tmp_path / "b").items()
    assert "every other one mirrored" in told(tmp_path / "b")
    for name, value in OPTIONS.items():
        assert f"{name} {value}" in told(tmp_path / "b")
    with pytest.raises(ValueError, match="recipe is 'long', expected 'short' or 'edm'"):
        train("digits", tmp_path / "c", **FEW | {"recipe": "long"})


def test_the_command_starts_from_the_gaussian_of_the_images_or_of_a_file(tmp_path):
    digits, x = gt.datasets.load("digits").images, torch.randn(3, *SHAPE)
    gt.Gaussian.fit(digits, 7).save(tmp_path / "seven.safetensors")
    for start, rank in (("fit", None), (str(tmp_path / "seven.safetensors"), 7)):
        out = tmp_path / str(rank)
        train("digits", out, **FEW | {"images": 0, "gaussian": start})
        assert torch.equal(EDM.load(out / "network.safetensors")(x, 0.5), gt.Gaussian.fit(digits, rank)(x, 0.5))
        assert f"from the Gaussian in the same file (rank {rank or 64})" in told(out)
    train("digits", tmp_path / "None", **FEW | {"gaussian": "fit"})
    with pytest.raises(ValueError, match="sha256 of the Gaussian"):
        train("digits", tmp_path / "None", **FEW)


def test_surrogates_are_samples_of_the_gaussian_of_the_images(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(commands, "residual_rows", lambda *arguments, **_: seen.update(arguments[2]) or [])
    for seed in (0, 0, 1):
        train("digits", tmp_path / str(seed), **FEW | {"surrogate": True, "seed": seed, "models": "mean"})
    digits = gt.datasets.load("digits").images
    assert seen["train"].shape == digits.shape
    assert len(seen["test"]) == len(gt.datasets.load("digits", "test").images)
    expected, found = gt.Gaussian.fit(digits), gt.Gaussian.fit(seen["train"])
    assert float(gt.theory.frechet_distance(found, expected)) < 0.01 * float(expected.total_variance)
    assert not torch.isin(seen["train"][:, 0, 4, 4], digits[:, 0, 4, 4]).any()
    assert recorded(tmp_path / "0")["surrogate"] is True
    assert "in their place as many samples of N(μ, Σ) from seed 1" in told(tmp_path / "1")
    with pytest.raises(ValueError, match="surrogate True there and False now"):
        train("digits", tmp_path / "0", **FEW | {"models": "mean"})


@pytest.mark.usefixtures("as_installed")
def test_a_compiled_network_has_the_same_names_and_computes_in_bfloat16_channels_last(tmp_path, monkeypatch):
    """Compiled to torch's own operations, for the time that code would take; what is compiled is the same."""
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(torch.nn.Module.compile, backend="eager"))
    seen = []

    class Watched(Trainer):
        def _step(self):
            seen.append(self)
            return super()._step()

    monkeypatch.setattr(commands, "Trainer", Watched)
    for name, options in (("plain", {"precision": "bfloat16"}), ("compiled", {"compile": True})):
        train("digits", tmp_path / name, **FEW | options | {"widths": "16"})
        assert seen[-1]._half_precision
        weight = seen[-1].denoiser.network.unet.mid_block.resnets[0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert (seen[-1].denoiser.network._compiled_call_impl is not None) == (name == "compiled")
    plain, compiled = (EDM.load(tmp_path / name / "network.safetensors") for name in ("plain", "compiled"))
    assert list(plain.state_dict()) == list(compiled.state_dict())
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-2, atol=2e-3)
    assert "precision bfloat16, compiled True" in told(tmp_path / "compiled")
    with pytest.raises(ValueError, match="compiled True there and False now"):
        train("digits", tmp_path / "compiled", **FEW | {"precision": "bfloat16", "widths": "16"})


def test_the_weights_at_the_marks_are_kept(tmp_path):
    train("digits", tmp_path, **FEW | {"images": 128, "keep": "40,128"})
    for mark, seen in ((40, 64), (128, 128)):
        train("digits", tmp_path / str(mark), **FEW | {"images": seen})
        kept, other = (
            EDM.load(tmp_path / name) for name in (f"network-{mark}.safetensors", f"{mark}/network.safetensors")
        )
        assert torch.equal(weights(kept), weights(other))


def test_the_command_goes_on_elsewhere_and_the_card_says_so(tmp_path):
    """With its Gaussian: on another machine a fit would be another one, as here one of rank 7 is."""
    gt.Gaussian.fit(gt.datasets.load("digits").images, 7).save(tmp_path / "seven.safetensors")
    options = FEW | {"gaussian": "fit", "models": "mean", "points": 2, "widths": "16"}
    first = {"images": 64, "keep": "32", "gaussian": str(tmp_path / "seven.safetensors")}
    train("digits", tmp_path / "first", **options | first)
    assert "anew, after so many images: none." in told(tmp_path / "first")
    for begin in ("first", "first/network.safetensors", "first/network-32.safetensors"):
        out = tmp_path / begin.replace("/", "-") / "second"
        train("digits", out, **options | {"images": 96, "go_on_from": tmp_path / begin})
        assert EDM.load(out / "network.safetensors").gaussian.rank == 7
        begun = 32 if "32" in begin else 64
        assert f"anew, after so many images: {begun}." in told(out)
        assert "3 steps of 32, so 96 images" in told(out)
        marks = sorted({int(row["images"]) for row in table(out / "residuals.csv")})
        assert marks == sorted({0, 32, begun, 96})


def test_minutes_end_a_run_after_a_step(tmp_path):
    train("digits", tmp_path, **FEW | {"images": 320, "minutes": 0.0})
    assert "1 steps of 32" in told(tmp_path)
