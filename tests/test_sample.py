"""Images from the command line: the same files whatever the batches, the processes and the interruptions."""

import hashlib
import json
import math
import multiprocessing
import os
import random
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import published
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import gausstools as gt
from gausstools.commands import sample as module
from gausstools.commands.sample import sample
from gausstools.models import files
from gausstools.networks import hub
from gausstools.noise import seeded_noise

FEW = {"num": 10, "steps": 3, "batch_size": 4}


@pytest.fixture(autouse=True, scope="module")
def loaded_once():
    """The shipped network and Gaussian of the digits are read and checked once."""
    network, load = gt.pretrained.load("digits"), gt.pretrained.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gt.pretrained, "load", lambda name, **more: network if name == "digits" else load(name, **more))
        yield


def contents(folder) -> dict:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(st.integers(0, 2**70), st.lists(st.integers(0, 10**9), min_size=1, max_size=5))
def test_noise_follows_from_the_seed_and_the_number_alone(seed, numbers):
    together = seeded_noise(seed, numbers, (2, 3))
    for row, number in zip(together, numbers, strict=True):
        assert torch.equal(seeded_noise(seed, [7, number], (2, 3))[1], row)
    assert len({tuple(row.flatten().tolist()) for row in together}) == len({*numbers})


def test_noise_is_standard_normal_and_differs_from_seed_to_seed():
    rows = torch.cat([seeded_noise(seed, range(300), (64,)) for seed in range(3)])
    n = rows.numel()
    assert abs(rows.mean()) < 5 / n**0.5
    assert abs(rows.var() - 1) < 5 * (2 / n) ** 0.5
    products = rows @ rows.T / 64
    assert (products - products.diag().diag()).abs().max() < 6 / 8


def test_negative_numbers_are_named():
    with pytest.raises(ValueError, match="numbers is -1, expected an integer >= 0"):
        seeded_noise(0, [-1], (2,))
    with pytest.raises(ValueError, match="seed is -1, expected an integer >= 0"):
        seeded_noise(-1, [0], (2,))


def test_the_files_hold_what_the_sampler_gives(tmp_path):
    sample("digits", tmp_path / "png", skip="12", **FEW)
    sample("digits", tmp_path / "npz", skip="12", format="npz", **FEW)
    network, gaussian = gt.pretrained.load("digits"), gt.shipped.statistics("digits")
    noise = 80 * seeded_noise(0, range(12), (1, 8, 8))
    grid = gt.karras_sigmas(3)
    below = torch.cat([torch.tensor([12.0], dtype=torch.float64), grid[grid < 12]])
    *_, last = gt.samplers.heun(network, gaussian.flow(noise, 80.0, 12.0), below)
    expected = ((last.x.clamp(-1, 1) + 1) * 127.5)[:10, 0].numpy()
    arrays = [np.load(tmp_path / "npz" / f"{first:06d}.npz") for first in (0, 4, 8)]
    found = np.concatenate([array["images"] for array in arrays])
    assert np.concatenate([array["numbers"] for array in arrays]).tolist() == list(range(10))
    assert found.dtype == np.uint8
    assert found.shape == (10, 8, 8, 1)
    assert np.abs(found[..., 0] - expected).max() <= 0.51
    for number in range(10):
        assert (np.array(Image.open(tmp_path / "png" / f"{number:06d}.png")) == found[number, ..., 0]).all()


@pytest.mark.parametrize("format", ["png", "npz"])
def test_a_larger_number_adds_to_a_run(tmp_path, format):
    sample("digits", tmp_path / "grown", format=format, **FEW | {"num": 6})
    sample("digits", tmp_path / "grown", format=format, **FEW)
    sample("digits", tmp_path / "whole", format=format, **FEW)
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


@pytest.mark.parametrize("length", [0, 5, -1])
@pytest.mark.parametrize("format", ["png", "npz"])
def test_what_is_cut_off_is_drawn_again(tmp_path, format, length):
    sample("digits", tmp_path, format=format, **FEW)
    whole = contents(tmp_path)
    cut = tmp_path / f"000004.{format}"
    cut.write_bytes(whole[cut.name][:length])
    sample("digits", tmp_path, format=format, **FEW)
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("format", ["png", "npz"])
def test_interrupted_anywhere_it_ends_with_the_same_files(tmp_path, monkeypatch, format):
    sample("digits", tmp_path / "whole", format=format, **FEW)
    chance = random.Random(0)
    write = os.replace

    def fragile(source, target):
        if chance.random() < {"png": 0.3, "npz": 0.6}[format]:
            raise KeyboardInterrupt
        write(source, target)

    monkeypatch.setattr(files.os, "replace", fragile)
    interruptions = 0
    while True:
        try:
            sample("digits", tmp_path / "broken", format=format, **FEW)
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions >= 2
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_killed_and_started_again_and_in_two_processes_the_bytes_are_the_same(tmp_path):
    options = {"num": 40, "batch_size": 4, "steps": 6, "skip": "20"}
    sample("digits", tmp_path / "whole", **options)
    expected = contents(tmp_path / "whole")
    killed = multiprocessing.get_context("fork").Process(
        target=sample, args=("digits", tmp_path / "killed"), kwargs=options
    )
    killed.start()
    while len(list(tmp_path.glob("killed/*.png"))) < 9:
        assert killed.is_alive()
        time.sleep(0.01)
    killed.kill()
    killed.join()
    assert 9 <= len(list(tmp_path.glob("killed/*.png"))) < 40
    (tmp_path / "killed" / ".000039.png.1").write_text("what a kill leaves in the middle of writing")
    launch = "-m accelerate.commands.launch --cpu --num_processes 2 --num_machines 1 --main_process_port 0"
    launch += " --mixed_precision no --dynamo_backend no -m gausstools sample digits --num 40 --batch-size 4"
    launch += f" --steps 6 --skip 20 --out {tmp_path / 'killed'}"
    two = subprocess.run([sys.executable, *launch.split()], capture_output=True, text=True, timeout=120)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("40 images of shape (1, 8, 8)") == 1
    assert contents(tmp_path / "killed") == expected


@pytest.mark.parametrize("sampler", module.SAMPLERS)
def test_the_calls_that_are_told_are_those_that_were_made(tmp_path, monkeypatch, capsys, sampler):
    counted = gt.samplers.Counted(lambda x, sigma: x / 2)
    stand_in(monkeypatch, counted)
    for skip in (None, "20"):
        counted.calls = 0
        sample("digits", tmp_path / str(skip), sampler=sampler, skip=skip, num=4, batch_size=4)
        calls = counted.calls / 2  # of one image that is tried, and of the batch
        told = capsys.readouterr().out
        assert f"each by {calls:.0f} network calls" in told
    assert calls == (29 if sampler == "heun" else 15)
    assert told.endswith(f"({35 if sampler == 'heun' else 18} without the jump to σ = 20)\n")


def test_a_jump_needs_statistics(tmp_path):
    gt.networks.EDM.load(gt.shipped.path("digits-network.safetensors")).save(tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match="there is no Gaussian: python -m gausstools stats DATA --out FILE"):
        sample(str(tmp_path / "mine.safetensors"), tmp_path / "out", skip="12", **FEW)
    assert not (tmp_path / "out").exists()
    gt.shipped.statistics("digits").double().save(tmp_path / "mine-statistics.safetensors")
    sample(
        str(tmp_path / "mine.safetensors"),
        tmp_path / "out",
        gaussian=tmp_path / "mine-statistics.safetensors",
        skip="12",
        **FEW,
    )
    sample("digits", tmp_path / "shipped", skip="12", **FEW)
    ours, theirs = contents(tmp_path / "out"), contents(tmp_path / "shipped")
    assert {k: v for k, v in ours.items() if k != "sampling.json"} == {
        k: v for k, v in theirs.items() if k != "sampling.json"
    }


def test_the_level_of_the_jump_can_be_chosen_by_a_tolerance(tmp_path, monkeypatch, capsys):
    sample("digits", tmp_path / "auto", skip="auto", tolerance=0.01, **FEW | {"steps": 18})
    level = gt.choose_skip(
        gt.pretrained.load("digits"), gt.shipped.statistics("digits"), gt.karras_sigmas(18)[:-1], 0.01
    ).sigma
    assert f"without the jump to σ = {level:.4g})" in capsys.readouterr().out
    sample("digits", tmp_path / "fixed", skip=str(level), **FEW | {"steps": 18})
    assert pngs(tmp_path / "auto") == pngs(tmp_path / "fixed")
    monkeypatch.setattr(gt, "choose_skip", None)  # a run that goes on keeps its level, however it was chosen
    (tmp_path / "auto" / "000001.png").unlink()
    sample("digits", tmp_path / "auto", skip="auto", tolerance=0.01, **FEW | {"steps": 18})
    assert pngs(tmp_path / "auto") == pngs(tmp_path / "fixed")


@pytest.mark.parametrize("sampler", ["dpmpp", "unipc", "ipndm"])
def test_a_jump_to_where_it_starts_changes_nothing(tmp_path, sampler):
    sample("digits", tmp_path / "none", sampler=sampler, **FEW)
    sample("digits", tmp_path / "top", sampler=sampler, skip="80", **FEW)
    sample("digits", tmp_path / "auto", sampler=sampler, skip="auto", tolerance=1e-9, **FEW)
    sample("digits", tmp_path / "bottom", sampler=sampler, skip="0.001", **FEW)
    assert pngs(tmp_path / "none") == pngs(tmp_path / "top") == pngs(tmp_path / "auto")


def stand_in(monkeypatch, denoiser):
    """Let every name be that of this network."""
    network = torch.nn.Module()
    network.event_shape, network.forward = torch.Size((1, 8, 8)), denoiser
    monkeypatch.setattr(gt.pretrained, "load", lambda *_, **__: network)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda sigma: True, "the denoiser's first answer holds 64 values that are NaN or infinite"),
        (lambda sigma: sigma < 1, "the last state, to which the denoiser's answers led, holds 64 values that are NaN"),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_network_that_answers_nan_does_not_take_a_folder(tmp_path, monkeypatch, broken, message, value):
    stand_in(monkeypatch, lambda x, sigma: value * x if broken(sigma) else x / 2)
    with pytest.raises(ValueError, match=message):
        sample("digits", tmp_path / "out", **FEW)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "magic"}, "sampler is 'magic', expected 'euler', 'heun'"),
        ({"grid": "linear"}, "grid is 'linear', expected 'karras' or 'log'"),
        ({"format": "jpg"}, "format is 'jpg', expected 'png' or 'npz'"),
        ({"num": 0}, "num is 0, expected an integer >= 1"),
        ({"batch_size": 0}, "batch-size is 0, expected an integer >= 1"),
        ({"skip": "100"}, "sigma_skip is 100, .* expected a level that the grid passes: it runs from 80 to 0"),
        ({"skip": "0"}, "skip is 0, expected auto, or a noise level above 0"),
        ({"skip": "high"}, "skip is high, expected"),
        ({"order": 2}, "heun has no choice of order"),
        ({"sigma_min": -1.0}, "sigma_min is -1.0"),
        ({"seed": -1}, "seed is -1, expected an integer >= 0"),
        ({"sampler": "dpmpp", "order": 9}, "order is 9, expected an integer from 1 to 3"),
        (
            {"skip": "12", "gaussian": Path("plane.safetensors")},
            r"plane.safetensors: images of shape \(2,\), expected \(1, 8, 8\)",
        ),
        ({"skip": "auto", "tolerance": 0.0}, "tolerance is 0.0"),
    ],
)
def test_bad_settings_are_named_and_leave_nothing(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    gt.Gaussian.isotropic(torch.zeros(2), 1.0).save("plane.safetensors")
    with pytest.raises(ValueError, match=message):
        sample("digits", tmp_path / "out", **FEW | change)
    assert not (tmp_path / "out").exists()


def test_other_settings_do_not_mix_with_a_run(tmp_path):
    sample("digits", tmp_path, **FEW)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"level None there, 5.0 now; seed 0 there, 1 now; skip None there, 5.0 now"):
        sample("digits", tmp_path, seed=1, skip="5", **FEW)
    assert contents(tmp_path) == before
    assert json.loads(before["sampling.json"])["steps"] == 3


def test_the_same_names_with_other_contents_do_not_mix_with_a_run(tmp_path):
    network, gaussian = tmp_path / "mine.safetensors", tmp_path / "statistics.safetensors"
    first = gt.pretrained.load("digits")
    first.save(network)
    gt.shipped.statistics("digits").save(gaussian)
    folder, options = tmp_path / "out", {"skip": "12", "gaussian": gaussian, **FEW}
    sample(str(network), folder, **options)
    before = contents(folder)
    noted = json.loads(before["sampling.json"])
    for name, path in (("model", network), ("gaussian", gaussian)):
        assert noted.pop(f"{name}_sha256") == hashlib.sha256(path.read_bytes()).hexdigest()
    first.sigma_data = 0.6
    first.save(network)
    with pytest.raises(ValueError, match=r"other settings: model_sha256 '\w+' there, .* now, expected what was given"):
        sample(str(network), folder, **options | {"num": 20})
    first.sigma_data = 0.5
    first.save(network)
    gt.Gaussian.isotropic(torch.zeros(1, 8, 8), 1.0).save(gaussian)
    with pytest.raises(ValueError, match="other settings: gaussian_sha256 "):
        sample(str(network), folder, **options | {"num": 20})
    assert contents(folder) == before
    gt.shipped.statistics("digits").save(gaussian)
    sample(str(network), folder, **options)
    assert contents(folder) == before


def test_a_model_of_diffusers_is_known_by_its_files(tmp_path, monkeypatch):
    stand_in(monkeypatch, lambda x, sigma: x / 2)
    model = tmp_path / "model"
    parts = {"model_index.json": "{}", "unet/diffusion_pytorch_model.bin": "1", "scheduler/scheduler_config.json": "2"}
    for name, content in parts.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(content)
    sample(str(model), tmp_path / "local", **FEW)
    (model / "README.md").write_text("a note")
    sample(str(model), tmp_path / "local", **FEW)
    for name, content in parts.items():
        (model / name).write_text(content + " ")
        with pytest.raises(ValueError, match="other settings: model_sha256 "):
            sample(str(model), tmp_path / "local", **FEW)
        (model / name).write_text(content)
    monkeypatch.setattr(hub, "download", lambda name: model)
    sample("owner/name", tmp_path / "hub", **FEW)
    (model / "model_index.json").write_text("another revision")
    with pytest.raises(ValueError, match="other settings: model_sha256 "):
        sample("owner/name", tmp_path / "hub", **FEW)


@pytest.mark.parametrize("content", ["null", "", "{}", "[]", "[" * 10**5, "\xff"])
def test_unreadable_settings_of_a_run_are_named(tmp_path, content):
    (tmp_path / "sampling.json").write_text(content, "latin-1")
    with pytest.raises(ValueError, match=r"sampling.json does not hold the settings of a run; give another folder"):
        sample("digits", tmp_path, **FEW)


@pytest.mark.parametrize("links", [True, False])
def test_of_two_that_begin_at_once_one_has_the_folder(tmp_path, monkeypatch, links):
    """The other is refused, or draws the same images; without links, as on FAT, the one that comes alone goes on."""
    theirs, link = tmp_path / "theirs", os.link
    sample("digits", theirs, seed=1, **FEW)

    def late(draft, path):
        (tmp_path / "out" / "sampling.json").write_bytes((theirs / "sampling.json").read_bytes())
        link(draft, path)

    def never(draft, path):
        raise PermissionError

    monkeypatch.setattr(os, "link", late if links else never)
    if links:
        with pytest.raises(ValueError, match="holds images of other settings: seed 1 there, 2 now"):
            sample("digits", tmp_path / "out", seed=2, **FEW)
        sample("digits", tmp_path / "out", seed=1, **FEW)
    else:
        sample("digits", tmp_path / "out", seed=1, **FEW)
    assert pngs(tmp_path / "out") == pngs(theirs)
    assert not list((tmp_path / "out").glob(".*"))


def test_one_step_has_nothing_to_skip(tmp_path):
    sample("digits", tmp_path / "auto", skip="auto", **FEW | {"steps": 1})
    sample("digits", tmp_path / "none", **FEW | {"steps": 1})
    assert pngs(tmp_path / "auto") == pngs(tmp_path / "none")


@pytest.mark.parametrize("format", ["png", "npz"])
def test_a_second_run_beside_the_first_does_not_disturb_it(tmp_path, monkeypatch, format):
    """It takes the first one's unfinished file for a leftover of a kill."""
    sample("digits", tmp_path / "alone", format=format, **FEW)
    replace = os.replace

    def interrupted(source, target):
        if target.suffix == f".{format}":
            monkeypatch.setattr(os, "replace", replace)
            sample("digits", tmp_path / "both", format=format, **FEW)
            assert not source.exists()
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    sample("digits", tmp_path / "both", format=format, **FEW)
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds files, but no run"):
        sample("digits", tmp_path, **FEW)
    with pytest.raises(NotADirectoryError, match=r"Not a directory: .*thesis\.tex"):
        sample("digits", tmp_path / "thesis.tex", **FEW)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


# ---- classes


@pytest.fixture
def conditional(tmp_path):
    """A tiny random network with four classes, as EDM publishes them, that heeds them."""
    torch.manual_seed(0)
    arguments = published.TINY | {"label_dim": 4}
    network = gt.networks.DDPMpp(**arguments).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    (tmp_path / "edm-tiny-cond.pkl").write_bytes(published.dump(published.snapshot(network, arguments)))
    return str(tmp_path / "edm-tiny-cond.pkl")


def pngs(folder) -> dict:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_classes_take_turns_by_the_number_of_the_image_alone(tmp_path, conditional):
    sample(conditional, tmp_path / "turns", labels=[2, 0, 2], **FEW)
    for label in ("0", "2"):
        sample(conditional, tmp_path / label, labels=[int(label)], **FEW)
    turns, zero, two = (pngs(tmp_path / name) for name in ("turns", "0", "2"))
    whole = gt.pretrained.load(conditional)
    noise = 80 * seeded_noise(0, range(10), (1, 8, 8))
    for number in range(10):
        name = f"{number:06d}.png"
        assert turns[name] == (zero if number % 3 == 1 else two)[name]
        *_, last = gt.samplers.heun(
            lambda x, sigma, label=(2, 0, 2)[number % 3]: whole(x, sigma, label), noise[[number]], gt.karras_sigmas(3)
        )
        pixels = (last.x.clamp(-1, 1) + 1)[0, 0] * 127.5
        assert np.abs(np.array(Image.open(tmp_path / "turns" / name)) - pixels.numpy()).max() <= 0.51
    assert not {*zero.values()} & {*two.values()}
    with pytest.raises(ValueError, match=r"other settings: labels \[0\] there, None now"):
        sample(conditional, tmp_path / "0", **FEW)


def test_classes_are_drawn_from_the_seed_and_the_number_where_none_is_given(tmp_path, conditional, capsys):
    options = FEW | {"seed": 3}
    sample(conditional, tmp_path / "drawn", **options)
    assert "each by 5 network calls; classes drawn from the seed" in capsys.readouterr().out
    sample(conditional, tmp_path / "other batches", **options | {"batch_size": 3})
    for label in range(4):
        sample(conditional, tmp_path / str(label), labels=[label], **options)
    drawn = []
    for number in range(10):
        pixels = {
            folder.name: np.array(Image.open(folder / f"{number:06d}.png")).astype(int)
            for folder in tmp_path.iterdir()
            if folder.is_dir()
        }
        assert np.abs(pixels["drawn"] - pixels["other batches"]).max() <= 1
        drawn += [label for label in range(4) if np.abs(pixels["drawn"] - pixels[str(label)]).max() <= 1]
    words = [np.random.SeedSequence(3, spawn_key=(number,)).generate_state(2) for number in range(10)]
    assert drawn == [int(low) + 2**32 * int(high) & 3 for low, high in words]
    assert len({*drawn}) == 4
    gaussian = tmp_path / "statistics.safetensors"
    gt.shipped.statistics("digits").save(gaussian)
    sample(conditional, tmp_path / "auto", skip="auto", tolerance=0.5, gaussian=gaussian, **FEW)


def test_a_class_jumps_by_the_gaussian_that_is_given(tmp_path, conditional):
    digits = gt.datasets.load("digits")
    gt.Gaussian.fit(digits.images[digits.labels == 2]).save(tmp_path / "2.safetensors")
    sample(conditional, tmp_path / "out", labels=[2], skip="12", gaussian=tmp_path / "2.safetensors", **FEW)
    noise, grid = 80 * seeded_noise(0, range(10), (1, 8, 8)), gt.karras_sigmas(3)
    jump = gt.teleport(gt.Gaussian.load(tmp_path / "2.safetensors"), noise, grid, 12.0)
    *_, last = gt.samplers.heun(partial(gt.pretrained.load(conditional), labels=2), jump.x, jump.times)
    for number, image in enumerate(((last.x.clamp(-1, 1) + 1) * 127.5)[:, 0].numpy()):
        assert np.abs(np.array(Image.open(tmp_path / "out" / f"{number:06d}.png")) - image).max() <= 0.51


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [1, 4]}, r"labels are \[1, 4\], expected classes of the network, of which there are 4"),
        ({"labels": [-1]}, r"labels are \[-1\], expected classes"),
        ({"labels": [0], "model": "digits"}, r"labels are \[0\], expected classes of the network, .* there are 0"),
    ],
)
def test_labels_that_cannot_be_drawn_are_named_and_leave_nothing(tmp_path, conditional, change, message):
    with pytest.raises(ValueError, match=message):
        sample(**{"model": conditional, "out": tmp_path / "out"} | FEW | change)
    assert not (tmp_path / "out").exists()
