"""Statistics of data too large for a covariance matrix, shared among processes, from the command line."""

import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

import gausstools as gt
from gausstools.__main__ import app
from gausstools.commands.stats import stats
from gausstools.models import fit_streamed, streamed

GENERATOR = torch.Generator().manual_seed(0)
TENSORS = ("mean", "variances", "tail")


def sample(n: int, deviations: torch.Tensor, offset: float = 0.0) -> torch.Tensor:
    """Draw data with about these standard deviations along random directions."""
    dim = len(deviations)
    basis = torch.linalg.qr(torch.randn(dim, dim, generator=GENERATOR, dtype=torch.float64))[0]
    mean = offset + torch.randn(dim, generator=GENERATOR, dtype=torch.float64)
    return mean + torch.randn(n, dim, generator=GENERATOR, dtype=torch.float64) * deviations @ basis.T


def assert_same(found: gt.Gaussian, expected: gt.Gaussian, rtol: float = 1e-4):
    for name in TENSORS:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=rtol, atol=1e-9, msg=name)
    torch.testing.assert_close(found.total_variance, expected.total_variance, rtol=1e-6, atol=1e-9)
    # The same covariance to the accuracy of the eigenvalues, however repeated ones choose their vectors.
    error = torch.linalg.matrix_norm(found.covariance - expected.covariance, 2)
    assert error <= max(100 * rtol * float(expected.tail), 1e-2 * rtol**0.5 * float(expected.total_variance))


# ---- the mathematics


@pytest.mark.parametrize("dim", [40, 400])
@pytest.mark.parametrize("rank", [1, 20])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_streamed_equals_dense_where_variances_decay_as_in_images(dim, rank, offset):
    data = sample(500, torch.arange(1, dim + 1, dtype=torch.float64) ** -0.75, offset)
    assert_same(fit_streamed(data.split(77), rank), gt.Gaussian.fit(data, rank))


def test_repeated_eigenvalues_are_all_found():
    basis = torch.linalg.qr(torch.randn(300, 300, generator=GENERATOR, dtype=torch.float64))[0]
    variances = torch.tensor([4.0] * 20 + [1.0] * 10 + [0.01] * 270, dtype=torch.float64)
    data = torch.cat([rows := basis.T * (300 * variances).sqrt()[:, None], -rows])  # has exactly these variances
    found = fit_streamed(data, 30)
    torch.testing.assert_close(found.variances, variances[:30], rtol=1e-6, atol=0)
    torch.testing.assert_close(found.tail, variances[-1], rtol=1e-4, atol=0)


@pytest.mark.parametrize("points", [1, 2, 5])
def test_few_points_and_constant_entries_leave_variances_of_0(points):
    data = torch.zeros(points, 200, dtype=torch.float64)
    data[:, ::2] = torch.randn(points, 100, generator=GENERATOR, dtype=torch.float64)
    found = fit_streamed(data, 20)
    expected = gt.Gaussian.fit(data, 20)
    torch.testing.assert_close(found.variances, expected.variances)
    assert (found.variances > 0).sum() == points - 1
    assert found.tail == 0


def test_every_rank_of_the_digits_is_that_of_the_dense_fit():
    """64 entries, three of them constant: the space becomes all there is."""
    data = gt.datasets.load("digits").images
    for rank in (0, 10, 61, 64):
        found, expected = fit_streamed(data.split(100), rank), gt.Gaussian.fit(data, rank)
        assert found.event_shape == (1, 8, 8)
        assert found.mean.dtype == torch.float32
        for name in TENSORS:
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-6)


def test_more_passes_explain_more_and_the_total_variance_is_exact(monkeypatch):
    data = sample(1000, torch.arange(1, 501, dtype=torch.float64) ** -0.5)
    dense = gt.Gaussian.fit(data, 30)
    errors = []
    for passes in (2, 3, 4):
        monkeypatch.setattr(streamed, "PASSES", passes)
        found = fit_streamed(data, 30)
        torch.testing.assert_close(found.total_variance, dense.total_variance)
        errors.append(float((dense.variances - found.variances).sum() / dense.variances.sum()))
    assert 1e-12 < errors[2] < errors[1] / 3 < errors[0] / 9  # from below


def test_memory_is_that_of_the_blocks(monkeypatch):
    """No tensor has more entries than the space, though D² would be 20 times as many."""
    dim, rank, passes = 6000, 4, 4
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            results = function(*args, **(kwargs or {}))
            for value in results if isinstance(results, tuple | list) else [results]:
                largest = max(largest, value.numel() if isinstance(value, torch.Tensor) else 0)
            return results

    batches = torch.randn(20, 10, dim, generator=GENERATOR).unbind(0)
    monkeypatch.setattr(streamed, "PASSES", passes)
    with Watch():
        fit_streamed(batches, rank)
    assert 0 < largest <= (passes - 1) * dim * (rank + 32) < dim**2 / 50


def shared(work, shards):
    """Let threads play processes: each works on its shard, with a sum over all; return what each has found."""
    barrier, parts, found = threading.Barrier(len(shards)), [None] * len(shards), [None] * len(shards)

    def run(index):
        def total(tensor):
            parts[index] = tensor
            barrier.wait(20)
            result = sum(parts[1:], parts[0])
            barrier.wait(20)
            return result

        found[index] = work(shards[index], total)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(shards))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_shares_of_several_processes_make_one_whole():
    data = sample(200, torch.arange(1, 101, dtype=torch.float64) ** -1.0, 3.0)
    data[:50] += 5  # shares with different means
    shards = [data[:1], data[1:60], data[60:]]
    alone = fit_streamed(data, 8)
    for model in shared(lambda shard, total: fit_streamed(shard.split(16), 8, total=total), shards):
        torch.testing.assert_close(model.state_dict(), alone.state_dict(), rtol=1e-9, atol=1e-9)
    alone = gt.Moments.of(data)
    for moments in shared(lambda shard, total: gt.Moments.of(shard).reduced(total), shards):
        assert moments.count == 200
        torch.testing.assert_close(moments.mean, alone.mean)
        torch.testing.assert_close(moments.covariance, alone.covariance)


def test_data_that_cannot_be_streamed_are_refused(as_installed):
    data = torch.randn(10, 5, generator=GENERATOR)
    with pytest.raises(TypeError, match="data is generator, which can be read only once"):
        fit_streamed((batch for batch in [data]), 1)
    with pytest.raises(ValueError, match="no data was given"):
        fit_streamed([], 1)
    with pytest.raises(ValueError, match="rank is 6, expected an integer from 0 to 5"):
        fit_streamed(data, 6)
    with pytest.raises(ValueError, match=r"data has shape \(10, 4\), expected \(batch, 5\)"):
        fit_streamed([data, data[:, :4]], 1)
    with pytest.raises(ValueError, match="data holds 1 values that are NaN"):
        fit_streamed([data, torch.tensor([[0.0, 0.0, 0.0, 0.0, torch.nan]])], 1)

    class Augmented:
        def __iter__(self):
            yield torch.randn(10, 5, generator=GENERATOR)

    with pytest.raises(ValueError, match="the data changed between two passes: 10 points before and 10 now"):
        fit_streamed(Augmented(), 1)


# ---- the command


@pytest.fixture
def photographs(tmp_path):
    """A folder of 30 images with more entries than the covariance of which may be held."""
    rng = np.random.default_rng(0)
    (tmp_path / "photographs").mkdir()
    patterns = rng.normal(size=(4, 66, 66, 3)) * np.array([40, 20, 10, 5])[:, None, None, None]
    for k, weights in enumerate(rng.normal(size=(30, 4))):
        image = 128 + np.tensordot(weights, patterns, 1) + rng.normal(size=(66, 66, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(tmp_path / "photographs" / f"{k:02}.png")
    return tmp_path / "photographs"


def as_tensor(folder):
    return torch.cat(list(gt.datasets.ImageFolder(folder)))


def test_a_data_sets_statistics_are_those_of_the_fit(tmp_path, capsys):
    stats("digits", tmp_path / "digits.safetensors", rank=5, split="test", batch_size=7)
    expected = gt.Gaussian.fit(gt.datasets.load("digits", "test").images, 5)
    torch.testing.assert_close(gt.Gaussian.load(tmp_path / "digits.safetensors").state_dict(), expected.state_dict())
    printed = capsys.readouterr()
    assert "digits, test: 360 images of shape (1, 8, 8)" in printed.out
    assert f"total variance {expected.total_variance:.4f}" in printed.out
    share = 100 * float(expected.variances.sum() / expected.total_variance)
    assert f", 5: {share:.1f} %" in printed.out
    assert "360/360" in printed.err
    stats("digits", tmp_path / "all.safetensors")
    assert gt.Gaussian.load(tmp_path / "all.safetensors").rank == 64


def test_images_too_large_for_a_covariance_are_streamed(photographs, tmp_path, capsys):
    assert 3 * 66 * 66 > 12_000
    stats(str(photographs), tmp_path / "out.safetensors", rank=4, batch_size=8)
    found, data = gt.Gaussian.load(tmp_path / "out.safetensors"), as_tensor(photographs)
    # The eigenpairs of a few images, by way of their Gram matrix.
    centred = (data - data.mean(0)).flatten(1).double()
    values = torch.linalg.eigvalsh(centred @ centred.T / len(data)).flip(0)
    torch.testing.assert_close(found.mean, data.mean(0))
    torch.testing.assert_close(found.variances.double(), values[:4], rtol=1e-4, atol=0)
    torch.testing.assert_close(found.total_variance.double(), values.sum(), rtol=1e-5, atol=0)
    along = centred @ found.basis.double()
    torch.testing.assert_close(along.square().mean(0), values[:4], rtol=1e-4, atol=0)
    assert capsys.readouterr().err.count("| 30/30") >= 2  # a bar for each pass
    stats(str(photographs), tmp_path / "small.safetensors", size=8)
    small = torch.cat(list(gt.datasets.ImageFolder(photographs, size=8)))
    torch.testing.assert_close(gt.Gaussian.load(tmp_path / "small.safetensors").mean, small.mean(0))
    stats(str(photographs), tmp_path / "grey.safetensors", size=8, channels=1)
    grey = torch.cat(list(gt.datasets.ImageFolder(photographs, size=8, channels=1)))
    torch.testing.assert_close(gt.Gaussian.load(tmp_path / "grey.safetensors").mean, grey.mean(0))


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("imagenet", {}, r"neither a data set \(digits, .*\) nor a folder"),
        ("digits", {"size": 8}, "size and channels are for folders"),
        ("digits", {"channels": 3}, "size and channels are for folders"),
        (".", {"channels": 2}, "channels is 2, expected 1"),
        ("digits", {"rank": 65}, "rank is 65, expected an integer from 0 to 64"),
        ("digits", {"batch_size": 0}, "batch-size is 0"),
        (".", {"split": "test"}, "split is for data sets"),
        ("digits", {"out": "nowhere/x.safetensors"}, "cannot write .*, expected the name of a file in a folder"),
        ("digits", {"out": "."}, "cannot write .*, expected the name of a file"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_work(tmp_path, monkeypatch, dataset, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        stats(dataset, Path(options.pop("out", "x.safetensors")), **options)
    assert not any(tmp_path.iterdir())


def test_directions_in_half_precision_take_half_the_file_and_are_the_same_model(tmp_path):
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    stats("digits", whole, rank=40)
    stats("digits", half, rank=40, half=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    found, expected = gt.Gaussian.load(half), gt.Gaussian.load(whole)
    assert found.basis.dtype == torch.float32
    for name in TENSORS:
        assert torch.equal(getattr(found, name), getattr(expected, name))
    x = gt.datasets.load("digits", "test").images[:20]
    torch.testing.assert_close(found(x, 0.5), expected(x, 0.5), rtol=0, atol=2e-3)
    torch.testing.assert_close(found.flow(80 * x, 80.0, 0.0), expected.flow(80 * x, 80.0, 0.0), rtol=0, atol=2e-3)


@pytest.mark.usefixtures("as_installed")
def test_the_command_line_reports_errors_and_help_without_torch(tmp_path):
    done = CliRunner().invoke(app, ["stats", "nothing", "--out", str(tmp_path / "x")])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: nothing is neither a data set")
    code = "import sys; sys.argv = ['gausstools', '--help']; import runpy\n"
    code += "try: runpy.run_module('gausstools', run_name='__main__')\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "stats" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def share(rank, port, arguments):
    """Be one of two processes, as accelerate launch starts them (its own start is tested in tests/test_sample.py)."""
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    stats(*arguments, rank=4)


@pytest.mark.parametrize("dataset", ["digits", "photographs"])
def test_two_processes_find_what_one_finds(photographs, tmp_path, capfd, dataset):
    dataset = str(photographs) if dataset == "photographs" else dataset
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = {name: tmp_path / f"{name}.safetensors" for name in ("one", "two")}
    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=share, args=(rank, port, (dataset, files["two"]))) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0]
    printed = capfd.readouterr()
    assert printed.out.count("images of shape") == 1
    # Each has read its half: the bar is that of the first process.
    assert f"/{719 if dataset == 'digits' else 15} " in printed.err
    stats(dataset, files["one"], rank=4)
    one, two = (gt.Gaussian.load(file).state_dict() for file in files.values())
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)
