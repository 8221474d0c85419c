"""What comes with the package: files with cards and checksums, statistics that are those of the data, sane networks."""

import hashlib
import itertools
import shutil
from pathlib import Path

import pytest
import torch

import gausstools as gt
from gausstools import shipped
from gausstools.commands.train import SIGMAS

DATA = Path(__file__).parents[1] / "data"
NAMES = ("cifar10", "digits", "mnist")
FILES = sorted(path.name for path in DATA.iterdir() if path.suffix in (".csv", ".safetensors"))


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the shipped files that a test may damage."""
    folder = tmp_path / "data"
    shutil.copytree(DATA, folder)
    monkeypatch.setattr(shipped, "_FOLDERS", (folder,))
    shipped._checksums.cache_clear()
    yield folder
    shipped._checksums.cache_clear()


# ---- files


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_whole_small_and_described_by_a_card(file):
    assert hashlib.sha256(shipped.path(file).read_bytes()).hexdigest() == shipped._checksums()[file]
    assert (DATA / file).stat().st_size < 16e6
    cards = [path.name for path in DATA.glob("*.md") if f"`{file}`" in path.read_text(encoding="utf-8")]
    assert cards


def test_nothing_else_is_listed():
    assert sorted(shipped._checksums()) == FILES
    for kind in ("network", "statistics", "residuals", "classifier", "features-train", "features-test"):
        foreign = ["foreign"] if kind == "residuals" else []  # a table of a network that is not shipped
        assert shipped.names(kind) == sorted([*NAMES, *foreign])


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_jumps_are_counted_on_the_grid_of_eighteen_steps_and_compared_with_none(name):
    rows, grid = shipped.jumps(name), gt.karras_sigmas(18)
    assert [row["steps_skipped"] for row in rows] == sorted({row["steps_skipped"] for row in rows})
    assert (rows[0]["steps_skipped"], rows[0]["rmse"], {row["images"] for row in rows}) == (0, 0, {1024})
    for row in rows:
        assert row["sigma_skip"] == pytest.approx(grid[row["steps_skipped"]].item(), abs=1e-3)
        assert row["nfe"] == 2 * (18 - row["steps_skipped"]) - 1
        assert row["difference"] == pytest.approx(row["distance"] - rows[0]["distance"], abs=2e-5)
    # Same noise: the difference is known better than either distance.
    assert all(row["difference_error"] < row["error"] for row in rows)
    assert all(earlier["rmse"] < later["rmse"] for earlier, later in itertools.pairwise(rows))


def test_a_changed_file_is_refused(copied):
    file = copied / "digits-statistics.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"not the file that was shipped.*Install gausstools again"):
        shipped.statistics("digits")


def test_a_missing_file_is_said(copied):
    (copied / "digits-network.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"digits-network\.safetensors is missing"):
        gt.pretrained.load("digits")
    (copied / "checksums.txt").unlink()
    shipped._checksums.cache_clear()
    with pytest.raises(FileNotFoundError, match="no shipped data in"):
        shipped.names("network")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda: shipped.statistics("faces"),
            "gausstools ships no statistics of 'faces'; it ships those of cifar10, digits",
        ),
        (lambda: shipped.residuals("faces"), "ships no residuals of 'faces'"),
        (
            lambda: shipped.published("fid"),
            "gausstools ships no table of 'fid'; it ships those of edm_residuals, edm_training",
        ),
    ],
)
def test_unknown_names_are_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()
    with pytest.raises(FileNotFoundError, match=r"ships no file 'faces\.csv'; it ships .*digits-network"):
        shipped.path("faces.csv")


# ---- statistics


def test_the_statistics_of_the_digits_are_those_of_their_images():
    found = shipped.statistics("digits")
    expected = gt.Gaussian.fit(gt.datasets.load("digits").images.double())
    torch.testing.assert_close(found.mean.double(), expected.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.covariance.double(), expected.covariance, rtol=1e-5, atol=1e-5)


def test_the_statistics_of_mnist_are_near_those_of_5000_of_its_digits():
    """Classes of equal size are no random sample: the mean is off by more than chance, but by little of the spread."""
    found, part = shipped.statistics("mnist"), gt.datasets.load("mnist-5000").images
    assert float((found.mean - part.mean(0)).square().sum()) < 0.005 * float(found.total_variance)
    assert float(found.total_variance) == pytest.approx(float(gt.Gaussian.fit(part, 0).total_variance), rel=0.01)


def test_the_statistics_of_cifar10_are_near_the_official_ones():
    """24.784 and 761.6 over the official images (data/cifar10.md); JPEG takes off a little of the variance."""
    found = shipped.statistics("cifar10")
    assert found.rank == 1024
    assert float(found.mean.square().sum()) == pytest.approx(24.784, rel=0.005)
    assert float(found.total_variance) == pytest.approx(761.6, rel=0.01)


# ---- networks


@pytest.fixture(scope="module", params=NAMES)
def network(request):
    return request.param, gt.pretrained.load(request.param)


def noised(gaussian, sigma, count=4):
    return gaussian.sample(count, sigma, generator=torch.Generator().manual_seed(1))


def test_a_network_keeps_shape_and_needs_no_gradient(network):
    name, denoiser = network
    x = noised(shipped.statistics(name), 1.0)
    assert denoiser(x, 1.0).shape == x.shape
    assert not denoiser.training
    assert not any(value.requires_grad for value in denoiser.parameters())
    rows = torch.cat([denoiser(row[None], sigma) for row, sigma in zip(x, (0.1, 0.5, 2.0, 80.0), strict=True)])
    torch.testing.assert_close(denoiser(x, torch.tensor([0.1, 0.5, 2.0, 80.0])), rows, rtol=1e-4, atol=1e-4)


def test_a_network_returns_x_where_there_is_no_noise_and_the_mean_where_all_is_noise(network):
    name, denoiser = network
    gaussian = shipped.statistics(name)
    x = noised(gaussian, 0.002)
    assert float((denoiser(x, 0.002) - x).square().mean()) < (3 * 0.002) ** 2
    far = denoiser(noised(gaussian, 80.0, 32), 80.0)
    spread = float(gaussian.total_variance)
    # Across the batch, the answers vary by as little as the posterior mean does: Σ λ²/(λ+σ²) for the Gaussian.
    assert float((far.mean(0) - gaussian.mean).square().sum()) < 0.03 * spread
    assert float((far - far.mean(0)).square().flatten(1).sum(1).mean()) < 0.1 * spread


def test_the_network_of_the_digits_denoises_what_it_never_saw_better_than_their_gaussian():
    denoiser, gaussian = gt.pretrained.load("digits"), shipped.statistics("digits")
    test = gt.datasets.load("digits", "test").images
    for sigma in (0.2, 0.5, 1.0):
        x = gt.evaluation_points(test, sigma, len(test))
        clean = gt.evaluation_points(test, 0.0, len(test))
        missed, theirs = ((model(x, sigma) - clean).square().mean() for model in (denoiser, gaussian))
        assert missed < 0.9 * theirs


# ---- tables


@pytest.mark.parametrize("name", NAMES)
def test_a_table_of_residuals_has_every_entry_from_the_first_step(name):
    rows = shipped.residuals(name)
    marks = sorted({row["images"] for row in rows})
    models = {row["model"] for row in rows}
    assert {"mean", "isotropic", "gaussian", "mixture-10", "cloud"} <= models
    assert marks[0] == 0
    assert len(marks) >= 8
    entries = [(row["images"], row["images_from"], row["model"], row["sigma"]) for row in rows]
    assert len(entries) == len(set(entries)) == len(marks) * 2 * len(models) * len(SIGMAS)
    assert all(row["denoiser"] > 0 and row["points"] >= 256 for row in rows)


def test_the_last_rows_of_the_digits_are_those_of_the_shipped_network():
    rows = shipped.residuals("digits")
    last = max(row["images"] for row in rows)
    denoiser, data = gt.pretrained.load("digits"), gt.datasets.load("digits").images
    models = {"gaussian": gt.Gaussian.fit(data), "cloud": gt.PointCloud(data)}
    for images_from in ("train", "test"):
        noised_images = gt.datasets.load("digits", images_from).images
        for name, sigma, found in gt.residuals(denoiser, models, noised_images, [0.5, 5.0], points=512):
            wanted = {"images": last, "images_from": images_from, "model": name, "sigma": sigma}
            (row,) = [row for row in rows if wanted.items() <= row.items()]
            assert row["score"] == pytest.approx(found.score, rel=0.02)


def test_published_tables_are_read_with_their_numbers():
    rows = shipped.published("edm_residuals")
    (row,) = [row for row in rows if row["sigma"] == 1.0 and row["model"] == "gaussian"]
    assert 0.01 < row["score_residual"] < 0.1
    assert {row["solver"] for row in shipped.published("solver_fid")} == {"heun", "dpm++", "dpm_v3", "unipc_bh1"}
    assert max(row["kimg"] for row in shipped.published("edm_training")) == 5000
