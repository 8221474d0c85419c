"""Data as they come: what is one batch, what are many, and what is no batch at all, told before anything is fitted."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import gausstools as gt
from gausstools.models import fit_streamed

IMAGES = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3
PAIRS = TensorDataset(IMAGES, LABELS)
FITS = {
    "moments": lambda data: gt.Moments.of(data).mean,
    "gaussian": gt.Gaussian.fit,
    "streamed": lambda data: fit_streamed(data, 2),
    "cloud": gt.PointCloud,
    "mixture": lambda data: gt.Mixture.fit(data, 2),
    "distance": lambda data: gt.features.gaussian(data, lambda x: x.flatten(1)[:, :2]),
}


@pytest.mark.parametrize(
    "data",
    [
        IMAGES.numpy(),
        list(IMAGES.split(5)),
        [batch.numpy() for batch in IMAGES.split(5)],
        [(batch.numpy(), None) for batch in IMAGES.split(5)],
        [[batch, batch] for batch in IMAGES.split(5)],
        (IMAGES[:5], IMAGES[5:]),
        DataLoader(PAIRS, batch_size=5),
        DataLoader(PAIRS, batch_size=1),
        DataLoader(list(IMAGES), batch_size=5),
        DataLoader([(image, int(label)) for image, label in PAIRS], batch_size=5),
        IMAGES.clone().requires_grad_(),
    ],
)
def test_a_data_set_is_the_same_however_it_comes(data):
    found, expected = gt.Gaussian.fit(data), gt.Gaussian.fit(IMAGES)
    torch.testing.assert_close(found.state_dict(), expected.state_dict())
    assert torch.equal(gt.PointCloud(data).data, gt.PointCloud(IMAGES).data)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (
            list(IMAGES),
            ValueError,
            r"data yield tensors of shape \(3, 8, 8\): single images, .*DataLoader\(data, batch",
        ),
        (list(IMAGES[:, :1]), ValueError, r"data yield tensors of shape \(1, 8, 8\): single images"),
        (list(IMAGES.numpy()), ValueError, r"shape \(3, 8, 8\): single images"),
        (iter(IMAGES), ValueError, r"shape \(3, 8, 8\): single images"),
        (
            [PAIRS[k] for k in range(12)],
            ValueError,
            r"pairs of one label and tensors of shape \(3, 8, 8\): single images",
        ),
        ([(image, 3) for image in IMAGES], ValueError, "pairs of one label"),
        ([(image, "cat") for image in IMAGES], ValueError, "pairs of one label"),
        ([(image, 3) for image in IMAGES[:, 0]], ValueError, r"pairs of one label and tensors of shape \(8, 8\)"),
        (PAIRS, TypeError, "data is TensorDataset, .*; of a Dataset, give a DataLoader"),
        ((IMAGES, LABELS), TypeError, "has dtype torch.int64"),
        ([{"images": IMAGES}], TypeError, "is dict, expected a torch.Tensor"),
        (IMAGES.mul(9).byte(), TypeError, "has dtype torch.uint8, expected a floating-point tensor"),
        (iter([]), ValueError, "no (data|images) (was|were) given"),
        ("a folder", TypeError, "is str, expected a torch.Tensor"),
        (None, TypeError, "NoneType"),
    ],
)
def test_what_is_no_batch_is_refused_by_every_fit(fit, data, error, message):
    if hasattr(data, "__next__") and fit is FITS["streamed"]:
        error, message = TypeError, "which can be read only once"
    with pytest.raises(error, match=message):
        fit(data)


@pytest.mark.parametrize("shape", [(5, 8), (1, 8), (3, 2), (5, 2, 2), (3, 1, 8, 8), (1, 3, 8, 8)])
def test_batches_of_every_other_shape_are_batches(shape):
    """Vectors, planes in batches of five, and images in batches of one are taken as before."""
    batches = [np.random.default_rng(k).normal(size=shape) for k in range(4)]
    assert gt.Moments.of(batches).count == 4 * shape[0]
    assert gt.Gaussian.fit(batches).event_shape == shape[1:]


def test_classes_are_fitted_to_batches_and_not_to_single_images():
    for data in (DataLoader(PAIRS, batch_size=5), [(x.numpy(), y.numpy()) for x, y in DataLoader(PAIRS, batch_size=5)]):
        assert [*gt.Gaussian.fit_classes(data)] == [0, 1, 2]
    with pytest.raises(ValueError, match="pairs of one label and tensors"):
        gt.Gaussian.fit_classes([PAIRS[k] for k in range(12)])
    with pytest.raises(TypeError, match=r"data yield Tensor, expected pairs \(x, labels\)"):
        gt.Gaussian.fit_classes(IMAGES)


def test_reduced_moments_stand_alone():
    data = torch.arange(12.0, dtype=torch.float64).reshape(6, 2)
    own = gt.Moments.of(data[:3])
    reduced = own.reduced(lambda tensor: tensor)
    own.update(data[3:])
    assert (own.count, reduced.count) == (6, 3)
    torch.testing.assert_close(reduced.mean, data[:3].mean(0))
    reduced.update(data[3:5])
    assert (own.count, reduced.count) == (6, 5)
