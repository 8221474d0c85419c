"""``python -m gausstools fid``: what it reads, what it says, and what it asks of torch-fidelity, played by a stand-in.

torch-fidelity needs torchvision, which has no wheel for this machine's torch; its own computation is not run here.
"""

import importlib.machinery
import io
import json
import pickle
import subprocess
import sys
import types
import urllib.error
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import gausstools as gt
from gausstools import features
from gausstools.commands import fid as command
from gausstools.commands.fid import fid


def bytes_of(images):
    return images.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def digits():
    """Held-out digits in uint8, (360, 8, 8, 1)."""
    return bytes_of(gt.datasets.load("digits", "test").images)


@pytest.fixture
def folder(tmp_path, digits):
    """The digits as numbered files."""
    (tmp_path / "pngs").mkdir()
    for number, image in enumerate(digits):
        Image.fromarray(image[..., 0]).save(tmp_path / "pngs" / f"{number:06}.png")
    return tmp_path / "pngs"


@pytest.fixture
def npz(tmp_path, digits):
    np.savez(tmp_path / "digits.npz", images=digits, numbers=np.arange(len(digits)))
    return tmp_path / "digits.npz"


@pytest.fixture
def asked(monkeypatch):
    """A torch-fidelity that notes what it is asked, and may answer with an error."""

    def calculate_metrics(**arguments):
        asked.append(arguments)
        if calculate_metrics.error:
            raise calculate_metrics.error
        return {"frechet_inception_distance": np.float64(12.3456)}

    asked = []
    calculate_metrics.error = None
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
    assert lines[1] == "Fréchet distance in the features of the shipped classifier of digits (no FID): 0.39 ± 0.11"
    assert lines[2].startswith("Without the bias of 360 images: 0.1")
    assert lines[3].startswith("Floor, 360 held-out real images: 0.39 ± 0.11, without bias 0.1")
    assert lines[4].startswith("Warning: the bias of so few images is larger than the error")
    assert "FID" not in "".join(lines).replace("no FID", "")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((40, 8, 8, 1))}, "holds images in float64, expected uint8"),
        ({"images": np.zeros((40, 8, 8, 2), np.uint8)}, r"holds images of shape \(8, 8, 2\), expected \(height, width"),
        ({"labels": np.zeros(40)}, r"holds labels \(40,\), expected one array of images with four axes"),
        ({}, "holds nothing, expected one array"),
        ({name: np.zeros((40, 8, 8, 1), np.uint8) for name in "ab"}, r"holds a \(40, 8, 8, 1\), b \(40, 8, 8, 1\)"),
        ({"images": np.zeros((40, 9, 9, 1), np.uint8)}, r"no shipped classifier takes images of shape \(1, 9, 9\)"),
        ({"images": np.zeros((20, 8, 8, 1), np.uint8)}, "there are 20 images for 32 features"),
        ({"images": np.zeros((40, 8, 8, 1), object)}, "cannot be read as .npz: Object arrays cannot be loaded"),
        ({"images": np.full((40, 8, 8, 1), np.nan)}, "holds images in float64, expected uint8"),
        ({"images": np.zeros((40, 0, 8, 1), np.uint8)}, r"holds images \(40, 0, 8, 1\), expected one array"),
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
    with pytest.raises(ValueError, match=r"\(1, 8, 8\) and the reference \(3, 32, 32\).* --size and --channels resize"):
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
    np.savez(npz, np.zeros((1, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match="there are 1 samples and 360 reference images, expected 2 or more"):
        fid(npz, str(folder))


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
    refused(FileNotFoundError, "there is no folder or file .*nowhere", samples=tmp_path / "nowhere")
    refused(FileNotFoundError, "faces, and no data set of this name: digits", reference="faces")
    refused(ValueError, "text.npz cannot be read as .npz", samples=tmp_path / "text.npz")
    refused(ValueError, "neither a folder nor an .npz file", samples=folder / "000000.png")
    refused(ValueError, "1.npz holds images of another shape than 0.npz", samples=tmp_path / "odd")
    refused(ValueError, r"have shape \(1, 8, 8\) and the reference \(1, 28, 28\)", reference="mnist")
    refused(ValueError, "split and data-dir are for data sets", reference=str(folder), split="train")
    refused(ValueError, "split is 'all'", split="all")
    refused(ValueError, "batch-size is 0", batch_size=0)
    refused(ValueError, "features is 'large', expected inception or small", features="large")


# ---- through torch-fidelity


def test_the_fid_is_asked_of_torch_fidelity_where_it_is_installed(npz, folder, digits, tmp_path, asked, capsys):
    weights = tmp_path / "weights.pth"
    weights.touch()
    fid(npz, str(folder), weights=weights, batch_size=7, device="cpu")
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
    assert arguments["feature_extractor_weights_path"] == str(weights)
    assert (arguments["fid"], arguments["cuda"], arguments["batch_size"]) == (True, False, 7)


def test_a_data_set_reaches_torch_fidelity_in_its_own_bytes(npz, digits, asked, capsys):
    found = answer(capsys, npz, "digits", split="test", device="cuda")
    assert found == {"measure": "FID", "value": 12.3456, "images": 360, "reference": "digits, test"}
    (arguments,) = asked
    ours, theirs = ([source[index] for index in range(360)] for source in (arguments["input1"], arguments["input2"]))
    assert all(map(torch.equal, ours, theirs))
    assert arguments["cuda"]
    assert arguments["feature_extractor_weights_path"] is None


def test_small_features_can_be_chosen_although_it_is_installed(npz, asked, capsys):
    assert "no FID" in answer(capsys, npz, "digits", features="small")["measure"]
    assert not asked


def test_what_hinders_a_fid_is_said_with_what_to_do(npz, tmp_path, asked, monkeypatch):
    sys.modules["torch_fidelity"].calculate_metrics.error = urllib.error.URLError("no route to host")
    with pytest.raises(
        OSError, match=r"could not get its Inception weights .*no route.* with --weights\. Or give --fe"
    ):
        fid(npz, "digits")
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.pth, expected torch-fidelity's Inception weights"):
        fid(npz, "digits", weights=tmp_path / "nothing.pth")
    sys.modules["torch_fidelity"].calculate_metrics.error = RuntimeError("Error(s) in loading state_dict for Inception")
    with pytest.raises(
        ValueError, match=r"digits\.npz does not hold the Inception weights of torch-fidelity's releases"
    ):
        fid(npz, "digits", weights=npz)
    sys.modules["torch_fidelity"].calculate_metrics.error = pickle.UnpicklingError()
    with pytest.raises(ValueError, match=r"digits\.npz does not hold the Inception weights"):
        fid(npz, "digits", weights=npz)
    sys.modules["torch_fidelity"].calculate_metrics.error = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        fid(npz, "digits", weights=npz)
    with pytest.raises(ValueError, match="weights are for Inception's features, but features is small"):
        fid(npz, "digits", features="small", weights=npz)
    with pytest.raises(ValueError, match=r"have shape \(1, 8, 8\) and the reference \(1, 28, 28\)"):
        fid(npz, "mnist-5000")
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    for options in ({"features": "inception"}, {"weights": npz}):
        with pytest.raises(ImportError, match=r"pip install torch-fidelity\. Or give --features small"):
            fid(npz, "digits", **options)


def test_an_installation_that_is_broken_is_said(npz, asked, monkeypatch):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match=r"torch-fidelity is installed but cannot be imported.*fits torch"):
        fid(npz, "digits")


def test_the_command_line_prints_results_and_errors_without_a_traceback(npz):
    def run(*arguments):
        done = [sys.executable, "-m", "gausstools", "fid", *map(str, arguments)]
        return subprocess.run(done, capture_output=True, text=True, timeout=120, encoding="utf-8")

    done = run(npz, "--reference", "digits", "--features", "small", "--json")
    assert json.loads(done.stdout)["images"] == 360, done.stderr
    done = run(npz, "--reference", "digits", "--features", "small", "--split", "all")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: split is 'all'")
    assert "Traceback" not in done.stderr
