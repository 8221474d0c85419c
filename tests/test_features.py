"""The Fréchet distance of features, its error and its bias; the classifiers that come with the package."""

import hostile
import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gausstools as gt
from gausstools import features
from gausstools.features import Classifier, frechet, frechet_difference

HELD_OUT, WHEEL = 0.978, 0.998  # of the digits and of MNIST's training digits, data/classifiers.md


@pytest.fixture(autouse=True, scope="module")
def fewer_groups():
    """The facts are those of any number of groups; what is shipped is of 32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "GROUPS", 10)
        yield


def pixels(images):
    """The simplest features: the pixels themselves."""
    return images.flatten(1)


def oracle(left, right):
    """The distance of two arrays (n, D), the textbook way."""
    (m, a), (n, b) = ((rows.mean(0), np.atleast_2d(np.cov(rows, rowvar=False, bias=True))) for rows in (left, right))
    return ((m - n) ** 2).sum() + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)


@st.composite
def pairs(draw, most=90):
    """Two sets of images with 4 pixels, of different number, mean and spread."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10 ** draw(st.floats(-2, 2))
    sets = []
    for _ in range(2):
        mixing = rng.normal(size=(4, 4))
        rows = scale * (rng.normal(size=4) + rng.normal(size=(draw(st.integers(5, most)), 4)) @ mixing)
        sets.append(torch.from_numpy(rows.reshape(-1, 1, 2, 2)))
    return (*sets, scale**2)


# ---- the distance


@given(pairs())
@settings(max_examples=5)
def test_the_value_is_that_of_scipy_whether_the_reference_is_a_gaussian_or_images(pair):
    left, right, unit = pair
    expected = oracle(pixels(left).numpy(), pixels(right).numpy())
    for reference in (right, features.gaussian(right, pixels)):
        found = frechet(left, reference, pixels)
        assert found.value == pytest.approx(expected, rel=1e-6, abs=1e-6 * unit)
        assert found.images == len(left)


@given(pairs())
@settings(max_examples=3)
def test_identical_sets_have_distance_0_and_a_shift_adds_its_square(pair):
    images, _, unit = pair
    shift = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64).reshape(1, 2, 2) * unit**0.5
    assert abs(frechet(images, images, pixels).value) < 1e-12 * unit
    found = frechet(images + shift, images, pixels)
    assert found.value == pytest.approx(float(shift.square().sum()), rel=1e-9)


@given(pairs(), st.integers(1, 100))
@settings(max_examples=3)
def test_batches_are_as_good_as_all_at_once(pair, size):
    left, right, unit = pair
    whole = frechet(left, right, pixels)
    labelled = ((batch, torch.zeros(len(batch))) for batch in left.split(size))
    for images in (iter(left.split(size)), labelled, left.numpy()):
        found = frechet(images, right.split(size), pixels)
        assert found == pytest.approx(whole, rel=1e-7, abs=1e-9 * unit)


@given(pairs(most=10))
@settings(max_examples=4)
def test_error_and_extrapolation_are_those_of_the_jackknife(pair):
    """With no more images than groups, each image is a group."""
    left, right, unit = pair
    rows, target = pixels(left).numpy(), pixels(right).numpy()
    value, count = oracle(rows, target), len(rows)
    without = np.array([oracle(np.delete(rows, index, 0), target) for index in range(count)])
    pseudo = count * value - (count - 1) * without  # Tukey's pseudo-values
    found = frechet(left, features.gaussian(right, pixels), pixels)
    assert found.extrapolated == pytest.approx(pseudo.mean(), rel=1e-5, abs=1e-5 * unit)
    assert found.error == pytest.approx(pseudo.std() / (count - 1) ** 0.5, rel=1e-4, abs=1e-5 * unit)
    # With images as the reference, each side is left out in its turn.
    both, other = frechet(left, right, pixels), frechet(right, features.gaussian(left, pixels), pixels)
    assert both.error == pytest.approx(np.hypot(found.error, other.error), rel=1e-6, abs=1e-9 * unit)
    both_bias, found_bias, other_bias = (distance.value - distance.extrapolated for distance in (both, found, other))
    assert both_bias == pytest.approx(found_bias + other_bias, rel=1e-5, abs=1e-7 * unit)


def test_groups_are_equal_and_do_not_follow_an_order_of_the_classes():
    whole = features._groups(3200)
    assert torch.equal(whole.bincount(), torch.full((10,), 320))
    assert torch.equal(features._groups(245), whole[:245])
    for period in (2, 10, 32):
        counts = torch.stack([whole[index::period].bincount(minlength=10) for index in range(period)])
        expected = 320 / period
        assert float(((counts - expected) ** 2).mean()) < 1.5 * expected  # not more uneven than by chance


def test_extrapolation_takes_off_the_bias_of_few_images_and_the_error_is_their_spread():
    """40 times 150 draws from a Gaussian in 6 dimensions, at a known distance from the reference."""
    generator = torch.Generator().manual_seed(0)
    reference = gt.Gaussian.isotropic(torch.zeros(6, dtype=torch.float64), 1.0)
    data = gt.Gaussian.isotropic(torch.full((6,), 0.2, dtype=torch.float64), 1.44)
    exact = 6 * 0.2**2 + 6 * 0.2**2
    found = [frechet(data.sample(150, generator=generator), reference, pixels) for _ in range(40)]
    value, error, extrapolated, _ = (np.array(column) for column in zip(*found, strict=True))
    bias, uncertainty = value.mean() - exact, value.std() / 40**0.5
    assert bias > 4 * uncertainty
    assert abs(extrapolated.mean() - exact) < 2.5 * uncertainty
    assert error.mean() == pytest.approx(value.std(), rel=0.3)


# ---- the difference of two distances


def partner(images, seed=0):
    """Images from the same noise as others: near them, one by one."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=images.dtype)
    return 0.9 * images + 0.2 * images.std() * noise


@given(pairs(most=10))
@settings(max_examples=4)
def test_a_difference_and_its_error_are_those_of_the_jackknife_that_leaves_out_pairs(pair):
    left, reference, unit = pair
    a, b, target = (pixels(images).numpy() for images in (left, partner(left), reference))
    without = np.array(
        [oracle(np.delete(a, index, 0), target) - oracle(np.delete(b, index, 0), target) for index in range(len(a))]
    )
    pseudo = len(a) * (oracle(a, target) - oracle(b, target)) - (len(a) - 1) * without
    found = frechet_difference(left, partner(left), features.gaussian(reference, pixels), pixels)
    assert found.value == pytest.approx(oracle(a, target) - oracle(b, target), rel=1e-5, abs=1e-5 * unit)
    assert found.error == pytest.approx(pseudo.std() / (len(a) - 1) ** 0.5, rel=1e-4, abs=1e-5 * unit)
    assert found.extrapolated == pytest.approx(pseudo.mean(), rel=1e-5, abs=1e-4 * unit)
    assert found.images == len(a)
    # Images as the reference are left out of both differences at once.
    both = frechet_difference(left, partner(left), reference, pixels)
    without = np.array(
        [
            oracle(a, np.delete(target, index, 0)) - oracle(b, np.delete(target, index, 0))
            for index in range(len(target))
        ]
    )
    expected = np.hypot(found.error, (len(target) - 1) ** 0.5 * without.std())
    assert both.error == pytest.approx(expected, rel=1e-4, abs=1e-5 * unit)
    assert both.value == pytest.approx(found.value, rel=1e-9, abs=1e-9 * unit)


@given(pairs())
@settings(max_examples=2)
def test_a_difference_changes_its_sign_with_the_order_and_vanishes_between_equals(pair):
    left, right, _ = pair
    other = partner(left)
    forth, back = (frechet_difference(*sets, right, pixels) for sets in ((left, other), (other, left)))
    assert forth == (-back.value, back.error, -back.extrapolated, back.images)
    assert frechet_difference(left, left.clone(), right, pixels) == (0, 0, 0, len(left))
    parts = zip(*(iter(images.split(7)) for images in (left, other)), strict=True)
    alternating = [torch.cat([part[0] for part in parts])]
    assert frechet_difference(alternating, other.split(11), right, pixels) == pytest.approx(forth, rel=1e-6)


def test_the_error_of_a_difference_is_its_spread_which_shared_noise_makes_small():
    """40 times 150 pairs of draws from two Gaussians in 3 dimensions, from the same noise; the distances are known."""
    generator = torch.Generator().manual_seed(0)
    reference = gt.Gaussian.isotropic(torch.zeros(3, dtype=torch.float64), 1.0)
    paired, independent = [], []
    for index in range(40):
        noise = torch.randn(150, 3, generator=generator, dtype=torch.float64)
        near, far = 0.3 + 1.2 * noise, 0.4 + 1.25 * noise
        paired.append(frechet_difference(far, near, reference, pixels))
        if index < 3:
            alone = [frechet(images, reference, pixels) for images in (near, far)]
            independent.append(np.hypot(*(distance.error for distance in alone)))
    exact = 3 * (0.4**2 + 0.25**2) - 3 * (0.3**2 + 0.2**2)
    value, error, extrapolated, _ = (np.array(column) for column in zip(*paired, strict=True))
    assert abs(extrapolated.mean() - exact) < 3 * value.std() / 40**0.5
    assert error.mean() == pytest.approx(value.std(), rel=0.35)  # a spread of 40 is known to 11 %
    assert np.mean(np.abs(extrapolated - exact) < 2 * error) > 0.8  # 92 % for Student's t of 9 degrees
    assert error.mean() < 0.4 * np.mean(independent)


def test_sets_that_are_no_pairs_are_refused():
    images = torch.randn(40, 1, 2, 2)
    for others in (images[:39], images[:, :, :1]):
        shape = rf"features of shape \(40, 4\) and the others of shape \({len(others)}, {others[0].numel()}\)"
        with pytest.raises(ValueError, match=f"{shape}, expected pairs"):
            frechet_difference(images, others, images, pixels)
    with pytest.raises(ValueError, match="others holds 4 values that are NaN"):
        frechet_difference(images, images.index_fill(0, torch.tensor([3]), torch.nan), images, pixels)
    with pytest.raises(ValueError, match=r"a Gaussian over \(1, 2, 2\), expected \(4,\)"):
        frechet_difference(images, images, gt.Gaussian.fit(images), pixels)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(4, 1, 2, 2), r"there are 4 images for 4 features, expected more.* at least 5, better 40"),
        (torch.zeros(0, 1, 2, 2), "no images were given"),
        ([], "no images were given"),
        (torch.full((9, 1, 2, 2), torch.nan), "images holds 36 values that are NaN"),
        (
            [torch.zeros(9, 1, 2, 2), torch.zeros(9, 1, 2, 3)],
            r"images has shape \(9, 1, 2, 3\), expected \(batch, 1, 2, 2\)",
        ),
    ],
)
def test_images_that_cannot_be_compared_are_refused(images, message):
    reference = torch.randn(9, 1, 2, 2)
    with pytest.raises(ValueError, match=message):
        frechet(images, reference, pixels)
    with pytest.raises(ValueError, match=message.replace("images", "reference")):
        frechet(reference, images, pixels)


def test_what_is_no_set_of_features_is_refused(as_installed):
    images = torch.randn(9, 1, 2, 2)
    with pytest.raises(ValueError, match=r"a Gaussian over \(1, 2, 2\), expected \(4,\), of features"):
        frechet(images, gt.Gaussian.fit(images), pixels)
    with pytest.raises(ValueError, match=r"features have shape \(9, 1, 2, 2\), expected \(9, features\)"):
        frechet(images, images, lambda x: x)
    with pytest.raises(ValueError, match="features of the images holds 36 values that are NaN"):
        frechet(images, images, lambda x: pixels(x) / 0 * 0)
    with pytest.raises(TypeError, match="data is int, expected a tensor"):
        frechet(3, images, pixels)


# ---- the classifier


@pytest.fixture(scope="module")
def digits():
    return gt.datasets.load("digits"), gt.datasets.load("digits", "test")


@pytest.fixture(scope="module")
def wheel():
    """The 5,000 digits of MNIST in the wheel, and their labels; the ten classes take turns."""
    parts = [gt.datasets.load("mnist-5000", split) for split in ("train", "test")]
    return torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])


def small():
    torch.manual_seed(0)
    return Classifier((1, 8, 8), width=8, features=8, fold=1)


def trained(digits, epochs=4, **options):
    classifier = small()
    data = digits[0]
    losses = list(features.train(classifier, data.images, data.labels, epochs, **{"batch_size": 64} | options))
    return classifier, losses


def test_training_learns_and_can_be_repeated(digits):
    (first, losses), (second, again) = (trained(digits, shift=1) for _ in range(2))
    assert losses == again
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert first.accuracy(digits[1].images, digits[1].labels) > 0.8
    other, _ = trained(digits, epochs=1, shift=1, seed=1)
    assert not torch.equal(first.head.weight, other.head.weight)
    _, half = trained(digits, shift=1, half_precision=True)
    assert half[0] == pytest.approx(losses[0], rel=0.1)
    assert half[0] != losses[0]
    assert half[-1] < 0.3 * half[0]


def test_a_training_image_is_mirrored_or_shifted_by_chance():
    generator = torch.Generator().manual_seed(0)
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="reflect")
    variants = {
        tuple(version[0, 0, down : down + 4, right : right + 4].flatten().tolist())
        for version in (padded, padded.flip(3))
        for down in range(3)
        for right in range(3)
    }
    seen = features._altered(image.expand(500, -1, -1, -1), True, 1, generator)
    assert {tuple(row.tolist()) for row in seen.flatten(1)} == variants
    assert torch.equal(features._altered(image, False, 0, generator), image)


def test_a_file_keeps_the_network(digits, tmp_path):
    classifier = trained(digits, epochs=1)[0]
    images = digits[1].images
    classifier.save(tmp_path / "whole.safetensors")
    classifier.save(tmp_path / "half.safetensors", torch.float16)
    whole, half = (Classifier.load(tmp_path / f"{name}.safetensors") for name in ("whole", "half"))
    torch.testing.assert_close(whole.features(images), classifier.features(images))
    torch.testing.assert_close(half.features(images), classifier.features(images), rtol=0.01, atol=0.01)
    assert half.head.weight.dtype == torch.float32
    gt.shipped.statistics("digits").save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"holds a gausstools Gaussian, expected a gausstools Classifier"):
        Classifier.load(tmp_path / "other.safetensors")
    gt.models.files.write(tmp_path / "part.safetensors", "Classifier", {}, classifier.config)
    with pytest.raises(ValueError, match=r"part\.safetensors is no complete Classifier"):
        Classifier.load(tmp_path / "part.safetensors")
    classifier.head.bias[3] = torch.nan
    classifier.save(tmp_path / "diverged.safetensors")
    with pytest.raises(ValueError, match=r"diverged\.safetensors .* its weight head.bias holds 1 values that are NaN"):
        Classifier.load(tmp_path / "diverged.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold": 0}, "fold is 0, expected an integer >= 1"),
        ({"width": -8}, "width is -8"),
        ({"classes": 2.0}, "classes is 2.0"),
        ({"features": 10**9}, "size mismatch"),
        ({"width": 10**12}, "overflow"),
        ({"event_shape": [1, 8, "8"]}, ""),
    ],
    ids=str,
)
def test_settings_that_make_no_classifier_cost_nothing(as_installed, tmp_path, changes, message):
    classifier = small()
    gt.models.files.write(tmp_path / "odd", "Classifier", classifier.state_dict(), classifier.config | changes)
    hostile.assert_refused(Classifier.load, tmp_path / "odd", f"odd is no complete Classifier: .*{message}")


def test_arguments_that_make_no_network_and_no_training_are_refused(digits, as_installed):
    with pytest.raises(ValueError, match=r"event_shape is \(1, 6, 6\), expected .* fold, 2, and at least 8"):
        Classifier((1, 6, 6))
    with pytest.raises(ValueError, match=r"event_shape is \(9, 9\), expected \(channels, height, width\)"):
        Classifier((9, 9), fold=1)
    images, labels = digits[0].images, digits[0].labels
    for arguments, message in (
        ((images[:, :, :7], labels, 1), r"images has shape \(256, 1, 7, 8\), expected \(batch, 1, 8, 8\)"),
        ((images, labels[:9], 1), r"labels are torch.int64 of shape \(9,\), expected integers of shape \(1437,\)"),
        ((images, labels, 0), "epochs is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            next(features.train(small(), *arguments))
    with pytest.raises(IndexError, match="Target 10 is out of bounds"):
        next(features.train(small(), images, labels + 1, 1))
    with pytest.raises(ValueError, match="shift is 8, expected an integer from 0 to 7"):
        next(features.train(small(), images, labels, 1, shift=8))
    with pytest.raises(FloatingPointError, match="the loss is nan; use a smaller learning rate than 1e\\+20"):
        list(features.train(small(), images, labels, 1, learning_rate=1e20))
    with pytest.raises(ValueError, match="name is 'faces', expected 'cifar10', 'digits' or 'mnist'"):
        features.load("faces")


# ---- what is shipped


@pytest.mark.parametrize("name", ["cifar10", "digits", "mnist"])
def test_a_shipped_classifier_answers_each_image_by_itself(name):
    classifier = features.load(name)
    images = gt.shipped.statistics(name).sample(5, generator=torch.Generator().manual_seed(0))
    found = classifier.features(images)
    assert found.shape == (5, *gt.shipped.feature_statistics(name).event_shape)
    assert (found >= 0).all()
    torch.testing.assert_close(found, torch.cat([classifier.features(image[None]) for image in images]))
    with pytest.raises(ValueError, match=r"images has shape \(5, .*\), expected \(batch, "):
        classifier.features(images[..., 1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_in_any_precision_are_answered_in_kind_and_compared_in_float32(dtype, as_installed):
    classifier = features.load("digits")
    images = gt.shipped.statistics("digits").sample(200, generator=torch.Generator().manual_seed(0)).to(dtype)
    single = images.float()
    assert torch.equal(classifier.features(images), classifier.features(single).to(dtype))
    assert torch.equal(classifier(images), classifier(single).to(dtype))
    reference = gt.shipped.feature_statistics("digits")
    assert frechet(images, reference, classifier.features) == frechet(single, reference, classifier.features)
    channels = frechet(images[:, :, :2, :2], single[:, :, :2, 2:4], pixels)
    assert channels == pytest.approx(frechet(single[:, :, :2, :2], single[:, :, :2, 2:4], pixels), rel=1e-9)


def test_the_shipped_classifiers_read_digits_as_their_card_says(digits, wheel):
    assert features.load("digits").accuracy(digits[1].images, digits[1].labels) >= HELD_OUT - 0.01
    assert features.load("mnist").accuracy(*wheel) >= WHEEL - 0.003


def test_shipped_moments_and_floor_are_those_of_the_images(digits, monkeypatch):
    monkeypatch.setattr(features, "GROUPS", 32)
    classifier = features.load("digits")
    for data in digits:
        found = gt.shipped.feature_statistics("digits", data.split)
        expected = features.gaussian(data.images, classifier.features)
        torch.testing.assert_close(found.mean.double(), expected.mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.covariance.double(), expected.covariance, rtol=1e-3, atol=1e-3)
    floor = frechet(digits[1].images, gt.shipped.feature_statistics("digits"), classifier.features)
    assert gt.shipped.floor("digits") == pytest.approx(floor._asdict(), rel=1e-3)


def test_real_digits_of_mnist_lie_near_its_moments_and_gaussian_ones_do_not(wheel):
    classifier, reference = features.load("mnist"), gt.shipped.feature_statistics("mnist")
    real = frechet(wheel[0][:2000], reference, classifier.features)
    drawn = gt.shipped.statistics("mnist").sample(1000, generator=torch.Generator().manual_seed(0))
    assert real.value < 0.05 * frechet(drawn, reference, classifier.features).value
    floor = gt.shipped.floor("mnist")
    assert abs(real.extrapolated) < 3 * real.error + floor["extrapolated"]


@pytest.mark.parametrize("name", ["cifar10", "digits", "mnist"])
def test_the_floor_is_the_distance_of_the_two_shipped_moments(name):
    test, training = (gt.shipped.feature_statistics(name, split) for split in ("test", "train"))
    floor = gt.shipped.floor(name)
    assert floor["value"] == pytest.approx(float(gt.theory.frechet_distance(test, training)), rel=1e-3)
    assert floor["extrapolated"] < floor["value"]


def test_names_and_splits_that_are_not_shipped_are_refused():
    with pytest.raises(ValueError, match="ships no features-test of 'faces'; it ships those of cifar10, digits"):
        gt.shipped.feature_statistics("faces", "test")
    with pytest.raises(ValueError, match="split is 'all', expected 'train' or 'test'"):
        gt.shipped.feature_statistics("digits", "all")
    with pytest.raises(ValueError, match="ships no floor of 'faces'; it ships those of cifar10, digits"):
        gt.shipped.floor("faces")
