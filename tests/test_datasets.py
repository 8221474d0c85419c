"""The digits: what the card in data/ says of them is true."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import gausstools as gt

CARD = Path(__file__).parents[1] / "data" / "digits.md"


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


def test_the_cards_checksum_is_that_of_the_pixels():
    images = torch.cat([gt.datasets.load("digits", split).images for split in ("train", "test")])
    pixels = ((images + 1) * 8).numpy().astype(np.uint8).tobytes()
    assert hashlib.sha256(pixels).hexdigest() == re.search(r"[0-9a-f]{64}", CARD.read_text(encoding="utf-8"))[0]


def test_unknown_names_are_refused_with_what_there_is():
    with pytest.raises(ValueError, match="no data set 'imagenet'; expected one of 'digits'"):
        gt.datasets.load("imagenet")
    with pytest.raises(ValueError, match="split is 'validation', expected 'train' or 'test'"):
        gt.datasets.load("digits", "validation")
