"""The page about a model: what stands on it is what was measured."""

import html.parser
import json
import re

import pytest
import torch
from PIL import Image

import gausstools as gt
from gausstools.commands import report as module
from gausstools.commands.report import report
from gausstools.noise import seeded_noise

QUICK = {"points": 16, "seeds": 3, "steps": 8}


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.images, self.links, self.open, self.text = [], [], [], ""

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "img":
            self.images.append(attributes)
        self.links += [value for name, value in attributes.items() if name in {"src", "href"}]
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & {*self.open}:
            self.text += data


def read(path) -> tuple[Reader, dict]:
    written = path.read_text("utf-8")
    reader = Reader()
    reader.feed(written)
    assert reader.open == []
    return reader, json.loads(re.search(r'id="findings">(.*?)</script>', written)[1])


class Mixed(torch.nn.Module):
    """In place of a network, what is quicker to ask: the denoiser of a Gaussian for each class of digits."""

    def __init__(self):
        super().__init__()
        digits = gt.datasets.load("digits")
        self.event_shape, family = digits.event_shape, gt.Gaussian.fit_classes(digits.images, digits.labels)
        self.mixture = gt.Mixture(digits.labels.bincount().double() / len(digits), list(family.values()))

    def forward(self, x, sigma):
        return self.mixture(x, sigma)


@pytest.fixture(scope="module", autouse=True)
def network():
    network = Mixed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NFES", (6, 10))
        patch.setattr(gt.pretrained, "load", lambda *_, **__: network)
        yield network


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "digits.html"
    report("digits", "digits", out=path, tolerance=0.01, **QUICK)
    return read(path)


def test_it_is_one_file_with_pictures_that_are_described(written):
    reader, _ = written
    assert len(reader.images) == 5
    assert all(image["src"].startswith("data:image/png;base64,") and len(image["alt"]) > 30 for image in reader.images)
    assert all(link.startswith("data:") for link in reader.links)


def test_its_numbers_are_those_of_the_library(written, network):
    reader, numbers = written
    images = gt.datasets.load("digits").images
    gaussian = gt.Gaussian.fit(images)
    level = gt.choose_skip(network, gaussian, gt.karras_sigmas(8)[:-1], 0.01).sigma
    assert numbers["sigma_skip"] == pytest.approx(level)
    probe = images[:: len(images) // 16][:16]
    (row,) = (row for row in numbers["residuals"] if row["model"] == "gaussian" and row["sigma"] == 1.0)
    expected = gt.residuals(network, {"gaussian": gaussian}, probe, [1.0], points=16)[0].unexplained
    assert row["score"] == pytest.approx(expected.score, rel=1e-3)
    noise = 80 * seeded_noise(0, range(3), (1, 8, 8))
    ends = [
        list(gt.samplers.heun(network, start, gt.karras_sigmas(128, sigma_max=top)))[-1].x
        for start, top in ((noise, 80.0), (gaussian.flow(noise, 80.0, level), level))
    ]
    off = (ends[1] - ends[0]).flatten(1).square().mean(1).sqrt()
    assert numbers["jump_error"][0] == pytest.approx(off.mean().item(), abs=2e-3)
    assert f"Jump to σ = {level:.3g}." in reader.text
    grid = gt.karras_sigmas(8)
    assert numbers["steps_skipped"] == int((grid > level * (1 + 1e-6)).sum())
    euler = {
        row["nfe"]: row["rmse"] for row in numbers["errors"] if (row["solver"], row["sigma_skip"]) == ("euler", None)
    }
    off = [
        (list(gt.samplers.euler(network, noise, grid))[-1].x - ends[0]).flatten(1).square().mean(1).sqrt().mean().item()
        for grid in (gt.karras_sigmas(10), gt.log_uniform_sigmas(10, 0.05))
    ]
    assert euler[10] == pytest.approx(min(off), rel=0.05)


def test_a_tolerance_that_allows_no_jump_is_said(tmp_path):
    report("digits", "digits", out=tmp_path / "a.html", tolerance=1e-9, **QUICK | {"seeds": 2})
    reader, numbers = read(tmp_path / "a.html")
    assert "No jump within a tolerance of 1e-09" in reader.text
    assert numbers["steps_skipped"] == 0
    assert {row["sigma_skip"] for row in numbers["errors"]} == {None}


def test_a_folder_will_do(tmp_path):
    folder = tmp_path / "mine <b>"
    folder.mkdir()
    for i, image in enumerate(gt.datasets.load("digits").images[:40]):
        Image.fromarray(((image[0] + 1) * 127.5).round().byte().numpy()).save(folder / f"{i:03}.png")
    report("digits", str(folder), out=tmp_path / "a.html", **QUICK | {"seeds": 2})
    reader, _ = read(tmp_path / "a.html")
    assert "mine <b>" in reader.text
    assert "Gaussian of 40 images" in reader.text


def test_a_network_that_does_not_belong_to_the_data_is_named(tmp_path, capsys):
    """The digits' network and digits of the other sign: at high noise it answers the wrong mean."""
    for i, image in enumerate(gt.datasets.load("digits").images[:64]):
        Image.fromarray(((1 - image[0]) * 127.5).round().byte().numpy()).save(tmp_path / f"{i:03}.png")
    report("digits", str(tmp_path), out=tmp_path / "a.html", points=64, seeds=2, steps=4)
    reader, numbers = read(tmp_path / "a.html")
    (row,) = (row for row in numbers["residuals"] if (row["model"], row["sigma"]) == ("gaussian", 80.0))
    assert row["misfit"].startswith("at σ = 80 the mean squared residual of the network is")
    assert numbers["steps_skipped"] == 0
    for text in (reader.text, capsys.readouterr().out):
        assert "network and statistics do not belong together" in text


def test_a_tolerance_that_allows_a_jump_to_the_last_level(tmp_path):
    report("digits", "digits", out=tmp_path / "a.html", tolerance=10.0, **QUICK | {"seeds": 2, "steps": 4})
    reader, numbers = read(tmp_path / "a.html")
    assert "Solid: from σ = 80." in reader.text
    assert numbers["sigma_skip"] == pytest.approx(0.002)
    assert numbers["steps_skipped"] == 3
    assert "The prediction fails" not in reader.text


def test_data_of_another_shape_are_refused(tmp_path):
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"images of shape \(1, 28, 28\), expected \(1, 8, 8\); a command's --size"):
        report("digits", str(tmp_path), out=tmp_path / "a.html", **QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 1}, "seeds is 1, expected an integer >= 2"),
        ({"out": "missing/a.html"}, "cannot write .*, expected the name of a file in a folder that exists"),
        ({"out": "."}, "cannot write .*, expected the name of a file"),
        ({"data": "no-such"}, "neither a data set .* nor a folder"),
        ({"tolerance": -1.0}, "tolerance is -1"),
    ],
)
def test_bad_questions_are_named_and_leave_nothing(tmp_path, change, message):
    settings = {"data": "digits", "out": "a.html", **QUICK} | change
    settings["out"] = tmp_path / settings["out"]
    with pytest.raises(ValueError, match=message):
        report("digits", **settings)
    assert not list(tmp_path.iterdir())
