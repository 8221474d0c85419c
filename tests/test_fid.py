"""``python -m gausstools fid``: what it reads, what it says, and what it asks of torch-fidelity, played by a stand-in.

torch-fidelity needs torchvision, which has no wheel for this machine's torch; its own computation is not run here.
"""

import importlib.machinery
import io
import json
import re
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import gausstools as gt
from gausstools import features
from gausstools.__main__ import app
from gausstools.commands.fid import fid


def bytes_of(images):
    return images.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def digits():
    """Held-out digits in uint8, (360, 8, 8, 1)."""
    return bytes_of(gt.datasets.load("digits", "test").images)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits):
    """The digits as numbered files."""
    folder = tmp_path_factory.mktemp("pngs")
    for number, image in enumerate(digits):
        Image.fromarray(image[..., 0]).save(folder / f"{number:06}.png")
    return folder


@pytest.fixture
def npz(tmp_path, digits):
    np.savez(tmp_path / "digits.npz", images=digits, numbers=np.arange(len(digits)))
    return tmp_path / "digits.npz"


@pytest.fixture
def asked(monkeypatch):
    """A torch-fidelity that notes what it is asked."""

    def calculate_metrics(**arguments):
        asked.append(arguments)
        return {"frechet_inception_distance": np.float64(12.3456)}

    asked = []
    module = types.ModuleType("torch_fidelity")
    module.__spec__ = importlib.machinery.ModuleSpec("torch_fidelity", None)
    module.calculate_metrics = calculate_metrics
    monkeypatch.setitem(sys.modules, "torch_fidelity", module)
    return asked


def answer(capsys, *arguments, **options):
    fid(*arguments, as_json=True, **options)
    return json.loads(capsys.readouterr().out)


# ---- in the features of a small classifier


def test_all_ways_to_bring_images_give_one_distance_that_of_the_library(folder, npz, digits, tmp_path, capsys):
    images = torch.from_numpy(digits).permute(0, 3, 1, 2).float() / 127.5 - 1
    reference, classifier = gt.shipped.feature_statistics("digits"), features.load("digits")
    expected = features.frechet(images, reference, classifier.features)._asdict()
    np.savez(tmp_path / "first.npz", digits.transpose(0, 3, 1, 2))  # channels first, under numpy's own name
    (tmp_path / "npzs").mkdir()
    for start in range(0, 360, 100):  # as `sample --format npz` leaves them
        numbers = np.arange(start, min(start + 100, 360))
        np.savez(tmp_path / "npzs" / f"{start:06}.npz", images=digits[numbers], numbers=numbers)
    for samples in (folder, npz, tmp_path / "first.npz", tmp_path / "npzs"):
        found = answer(capsys, samples, "digits", features="small")
        assert found["measure"] == "Fréchet distance in the features of the shipped classifier of digits (no FID)"
        assert found["reference"] == "digits, train"
        assert found["floor"] == gt.shipped.floor("digits")
        assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_references_are_data_sets_and_paths(folder, npz, capsys):
    assert answer(capsys, npz, "digits", split="test")["value"] == pytest.approx(0, abs=1e-4)
    same = answer(capsys, npz, str(folder))
    assert same["value"] == pytest.approx(0, abs=1e-6)
    assert same["reference"] == str(folder)
    assert "floor" not in same
    assert same["images"] == 360


def test_the_report_is_never_called_fid_and_has_all_that_is_needed_to_judge_it(npz, capsys):
    fid(npz, "digits")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "360 images of shape (1, 8, 8), against digits, train"
    number = r"0\.39\d ± 0\.1\d\d, without bias 0\.1\d\d$"
    assert re.match(r"Fréchet distance in .* shipped classifier of digits \(no FID\): " + number, lines[1])
    assert re.match("Floor, 360 held-out real images: " + number, lines[2])
    assert lines[3].startswith("Warning: the bias of so few images is larger than the error")
    assert "FID" not in "".join(lines).replace("no FID", "")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"images": np.zeros((40, 8, 8, 1))},
            r"holds images \(40, 8, 8, 1\) in float64, expected one array of",
        ),
        (
            {"images": np.zeros((40, 8, 8, 2), np.uint8)},
            r"holds images \(40, 8, 8, 2\) in uint8, .*1 or 3 channels",
        ),
        ({"labels": np.zeros(40)}, r"holds labels \(40,\) in float64, expected one array of images"),
        ({}, "holds nothing, expected one array"),
        ({name: np.zeros((40, 8, 8, 1), np.uint8) for name in "ab"}, r"holds a \(40, 8, 8, 1\) in uint8, b \(40"),
        ({"images": np.zeros((40, 9, 9, 1), np.uint8)}, r"images of shape \(1, 9, 9\), expected \(1, 8, 8\)"),
        ({"images": np.zeros((20, 8, 8, 1), np.uint8)}, "there are 20 images for 32 features"),
        ({"images": np.zeros((40, 8, 8, 1), object)}, "cannot be read as .npz: Object arrays cannot be loaded"),
        ({"images": np.zeros((40, 0, 8, 1), np.uint8)}, r"holds images \(40, 0, 8, 1\) in uint8, expected one array"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "samples.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        fid(tmp_path / "samples.npz", "digits", features="small")


def test_a_damaged_npz_is_named(npz, tmp_path):
    """Cut short, of another kind, with a wrong header: numpy raises EOFError, TypeError, MemoryError, and others."""
    whole, other = npz.read_bytes(), tmp_path / "other.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**13, 8, 8, 1)})
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    array = io.BytesIO()
    np.save(array, np.zeros((40, 8, 8, 1), np.uint8))
    method = whole.replace(b"PK\x03\x04\x2d\0\0\0\0\0", b"PK\x03\x04\x2d\0\0\0\x63\0")
    method = method.replace(b"PK\x01\x02\x2d\x03\x2d\0\0\0\0\0", b"PK\x01\x02\x2d\x03\x2d\0\0\0\x63\0")
    for content in (b"", whole[: len(whole) // 2], array.getvalue(), other.read_bytes(), method, b"\x80\x04N."):
        npz.write_bytes(content)
        with pytest.raises(ValueError, match=r"digits\.npz cannot be read as \.npz"):
            fid(npz, "digits", features="small")


def test_folders_are_resized_and_converted_as_asked(folder, npz, digits, tmp_path, asked, capsys):
    """The small classifier and Inception get what ImageFolder makes of them."""
    (tmp_path / "large").mkdir()
    for number, image in enumerate(digits):
        large = Image.fromarray(image[..., 0].repeat(4, 0).repeat(4, 1)).convert("RGB")
        large.save(tmp_path / "large" / f"{number:03}.png")
    found = answer(capsys, tmp_path / "large", str(folder), features="small", size=8, channels=1)
    resized = gt.datasets.ImageFolder(tmp_path / "large", size=8, channels=1, batch_size=360)
    expected = features.frechet(resized, gt.datasets.ImageFolder(folder), features.load("digits").features)
    assert found["value"] == pytest.approx(expected.value, rel=1e-4)
    fid(npz, str(tmp_path / "large"), size=8, channels=1, features="inception")
    (arguments,) = asked
    theirs = torch.stack([arguments["input2"][index] for index in range(360)]).int()
    assert theirs.shape == (360, 3, 8, 8)
    expected = next(iter(resized)).add(1).mul(127.5)
    torch.testing.assert_close(theirs.float(), expected.expand(-1, 3, -1, -1), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match=r"\(1, 8, 8\), expected \(3, 32, 32\); a command's --size and --channels"):
        fid(npz, str(tmp_path / "large"))
    with pytest.raises(ValueError, match="size and channels are for folders of images"):
        fid(npz, "digits", size=8)


def test_what_torch_fidelity_sees_is_what_was_counted(npz, folder, tmp_path, asked, capsys):
    """Its own search for files follows no links, and takes hidden files."""
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "all").symlink_to(folder)
    Image.new("L", (8, 8)).save(tmp_path / "links" / ".hidden.png")
    assert answer(capsys, tmp_path / "links", str(folder))["images"] == 360
    (arguments,) = asked
    assert len(arguments["input1"]) == len(arguments["input2"]) == 360
    (tmp_path / "links" / "digits.npz").write_bytes(npz.read_bytes())
    Image.new("L", (8, 8)).save(tmp_path / "links" / "a.png")
    with pytest.raises(ValueError, match=r"holds arrays \(digits.npz\) and images \(a.png\), expected one kind"):
        fid(tmp_path / "links", "digits")


def test_what_cannot_be_compared_is_refused(folder, npz, tmp_path):
    def refused(error, message, samples=npz, reference="digits", **options):
        with pytest.raises(error, match=message):
            fid(samples, reference, **options)

    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text("text")
    (tmp_path / "odd").mkdir()
    np.savez(tmp_path / "odd" / "0.npz", np.zeros((40, 8, 8, 1), np.uint8))
    np.savez(tmp_path / "odd" / "1.npz", np.zeros((40, 9, 9, 1), np.uint8))
    refused(FileNotFoundError, "empty holds no images; expected files", samples=tmp_path / "empty")
    refused(ValueError, r"nowhere is neither a data set \(.*\) nor a folder", samples=tmp_path / "nowhere")
    refused(ValueError, r"faces is neither a data set \(digits", reference="faces")
    refused(ValueError, "text.npz cannot be read as .npz", samples=tmp_path / "text.npz")
    refused(ValueError, "000000.png is neither a data set .* nor a folder", samples=folder / "000000.png")
    refused(ValueError, r"1.npz: images of shape \(1, 9, 9\), expected \(1, 8, 8\)", samples=tmp_path / "odd")
    refused(ValueError, r"images of shape \(1, 8, 8\), expected \(1, 28, 28\)", reference="mnist")
    refused(ValueError, "split is for data sets", reference=str(folder), split="train")
    np.savez(tmp_path / "held-out.npz", np.zeros((40, 8, 8, 1), np.uint8))
    refused(ValueError, "split is train, expected none", reference=str(tmp_path / "held-out.npz"), split="train")
    refused(ValueError, "split is 'all'", split="all")
    refused(ValueError, "batch-size is 0", batch_size=0)
    refused(ValueError, "features is 'large', expected 'inception' or 'small'", features="large")


# ---- through torch-fidelity


def test_the_fid_is_asked_of_torch_fidelity_where_it_is_installed(npz, folder, digits, asked, capsys):
    fid(npz, str(folder), batch_size=7, device="cpu")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"360 images of shape (1, 8, 8), against {folder}"
    assert lines[1] == "FID: 12.346, in the features of torch-fidelity's Inception"
    assert lines[2].startswith("Warning: an FID of few images is too large; compare it with those of 360 images only")
    (arguments,) = asked
    samples = arguments["input1"]
    assert isinstance(samples, torch.utils.data.Dataset)
    assert len(samples) == 360
    assert samples[5].dtype == torch.uint8
    assert torch.equal(samples[5], torch.from_numpy(digits[5, ..., 0]).expand(3, 8, 8))
    theirs = arguments["input2"]  # in the order of the folder's files, as they were counted
    assert len(theirs) == 360
    assert all(torch.equal(samples[index], theirs[index]) for index in range(0, 360, 40))
    assert (arguments["fid"], arguments["cuda"], arguments["batch_size"]) == (True, False, 7)


def test_a_data_set_reaches_torch_fidelity_in_its_own_bytes(npz, digits, asked, capsys, monkeypatch):
    monkeypatch.setattr("gausstools.commands.fid.check_device", str)  # this machine may have no GPU
    found = answer(capsys, npz, "digits", split="test", device="cuda")
    assert found == {"measure": "FID", "value": 12.3456, "images": 360, "reference": "digits, test"}
    (arguments,) = asked
    ours, theirs = ([source[index] for index in range(360)] for source in (arguments["input1"], arguments["input2"]))
    assert all(map(torch.equal, ours, theirs))
    assert arguments["cuda"]


def test_small_features_can_be_chosen_although_it_is_installed(npz, asked, capsys):
    assert "no FID" in answer(capsys, npz, "digits", features="small")["measure"]
    assert not asked


def test_a_torch_fidelity_that_is_missing_or_broken_is_said(npz, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match=r"cannot be imported \(.*pip install torch-fidelity.*--features small"):
        fid(npz, "digits", features="inception")


@pytest.mark.usefixtures("as_installed")
def test_the_command_line_prints_results_and_errors(npz):
    def run(*more):
        return CliRunner().invoke(app, ["fid", str(npz), "--reference", "digits", "--features", "small", *more])

    assert json.loads(run("--json").stdout)["images"] == 360
    done = run("--split", "all")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: split is 'all'")
