"""How far samples are from a data set: the Fréchet distance in the features of a small classifier that is shipped.

Images are sent through a classifier up to the layer before its last, and the numbers there are an image's features.
Over a set of images they have a mean and a covariance, and between two sets, as if both were Gaussians p and q, lies
the Fréchet distance (Dowson & Landau 1982)

``d = |μ_p − μ_q|² + tr(Σ_p + Σ_q − 2(Σ_p^½ Σ_q Σ_p^½)^½)``.

With the features of the Inception network that was trained on ImageNet, d is the FID (Heusel et al. 2017). With others
it is not: its numbers can be compared with one another, in one and the same classifier, and with no FID.

From N images d comes out too large, by about F/N with an F that nobody knows (Chong & Forsyth 2020): N images do not
fill the covariance. So d is computed again without each of g groups of the images, and the line in 1/N through the two
sizes gives d at N → ∞. That is the jackknife (Quenouille 1956), which gives the standard error as well (Tukey 1958).

Two ways to draw images are best compared from the same noise: then what chance adds to one distance it adds to the
other, and if the same images are left out of both sets, the jackknife knows that of their difference.
"""

import copy
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from gausstools import shipped
from gausstools.denoiser import check_batch, check_choice, check_count, check_that, working_dtype
from gausstools.models import files
from gausstools.models.batches import labelled_batches, unlabelled_batches
from gausstools.models.gaussian import Gaussian
from gausstools.theory import frechet_distance

__all__ = ["Classifier", "Distance", "frechet", "frechet_difference", "gaussian", "load", "train"]

GROUPS = 32  # of the jackknife: its standard error is then itself known to 13 %
BATCH = 256  # images that a classifier sees at once

Features = Callable[[Tensor], Tensor]
Images = Tensor | np.ndarray | Iterable


class Classifier(nn.Module):
    """A small convolutional network that tells classes apart; what matters here is its layer before the last.

    Blocks of pixels are folded into channels; then come five 3×3 convolutions, each with batch normalisation and ReLU,
    halved in resolution after the second and the fourth. The means of the last one's channels are the features, and a
    linear layer makes the classes of them.

    Args:
        event_shape: ``(channels, height, width)``; height and width divisible by ``fold``, and at least ``4·fold``.
        classes: how many.
        width: channels of the first two convolutions; the next two have twice as many.
        features: channels of the last one.
        fold: side of the blocks of pixels that become channels; 1 folds nothing.

    Raises:
        ValueError: for images that cannot be folded or halved, or a number below 1.

    >>> classifier = Classifier((1, 8, 8), width=8, features=4, fold=1).eval()
    >>> classifier(torch.zeros(2, 1, 8, 8)).shape, classifier.features(torch.zeros(2, 1, 8, 8)).shape
    (torch.Size([2, 10]), torch.Size([2, 4]))
    """

    def __init__(
        self, event_shape: Sequence[int], classes: int = 10, width: int = 64, features: int = 64, fold: int = 2
    ):
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        sizes = {"classes": classes, "width": width, "features": features, "fold": fold}
        for name, value in sizes.items():
            check_count(value, name, 1)
        fits = len(self.event_shape) == 3 and all(n >= 4 * fold and n % fold == 0 for n in self.event_shape[1:])
        expected = f"(channels, height, width) with sides divisible by the fold, {fold}, and at least {4 * fold}"
        check_that(fits, f"event_shape is {tuple(event_shape)}", expected)
        self.config = {"event_shape": list(event_shape), **sizes}
        self.trunk = nn.Sequential(
            nn.PixelUnshuffle(fold),
            *_convolution(self.event_shape[0] * fold**2, width),
            *_convolution(width, width),
            nn.MaxPool2d(2),
            *_convolution(width, 2 * width),
            *_convolution(2 * width, 2 * width),
            nn.MaxPool2d(2),
            *_convolution(2 * width, features),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(features, classes)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of the classes, for images in [-1, 1], in their dtype."""
        return self.head(self._trunk(images)).to(images.dtype)

    def features(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """Return the features, all >= 0, of images in [-1, 1], in their dtype."""
        return self._trunk(images).to(images.dtype)

    def _trunk(self, images: Tensor) -> Tensor:
        check_that(len(check_batch(images, self.event_shape, "images")) > 0, "images are none", "at least one")
        return self.trunk(images.to(self.head.weight))

    def accuracy(self, images: Float[Tensor, "n channels height width"], labels: Integer[Tensor, " n"]) -> float:
        """Return the fraction of images whose largest logit is that of their label."""
        with torch.no_grad():
            guesses = torch.cat([self(part).argmax(1) for part in images.split(BATCH)])
        return (guesses == labels).double().mean().item()

    def save(self, path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> None:
        """Write the network as safetensors, its weights in ``dtype``; an interrupted call leaves the old file, or none.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Classifier((1, 8, 8), width=8, fold=1).save(f"{folder}/mine.safetensors", torch.float16)
        ...     Classifier.load(f"{folder}/mine.safetensors").config["width"]
        8
        """
        files.write(path, "Classifier", copy.deepcopy(self).to(dtype).state_dict(), self.config)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Classifier":
        """Return the network in a file that ``save`` wrote: on the CPU, in float32, to be asked and not trained.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged or holds something else, or a weight is NaN or infinite.
        """
        tensors, settings = files.read(path, "Classifier"), files.read_settings(path, "Classifier")
        try:
            with torch.device("meta"):
                classifier = cls(**settings)
            files.fill(classifier, tensors)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} is no complete Classifier: {str(error)[:1000]}") from error
        return classifier.eval().requires_grad_(False)


def load(name: str) -> Classifier:
    """Return a shipped classifier, trained on the images of a data set, for images of their size.

    Args:
        name: "digits", "mnist" or "cifar10".

    Raises:
        ValueError: for another name.

    >>> load("mnist").event_shape
    torch.Size([1, 28, 28])
    """
    check_choice(name, "name", *shipped.names("classifier"))
    return Classifier.load(shipped.path(f"{name}-classifier.safetensors"))


class Distance(NamedTuple):
    """A Fréchet distance between two sets of images, or the difference of two such distances.

    Args:
        value: the distance of the images that are there, in squared units of the features.
        error: its standard error, from the choice of images.
        extrapolated: what the value tends to with more images, without its bias; it may fall below 0 by chance.
        images: how many there are; of a difference, in each set.

    >>> Distance(value=1.5, error=0.1, extrapolated=1.2, images=1000).error
    0.1
    """

    value: float
    error: float
    extrapolated: float
    images: int


def frechet(images: Images, reference: Gaussian | Images, features: Features) -> Distance:
    """Return the Fréchet distance of images to a reference in a classifier's features, with a standard error.

    **Few images**: the distance is too large by about F/N, and this bias can be more than the standard error. N random
    training images lie at about 90/N (MNIST) or 100/N (CIFAR-10) from the moments of all, so at 0.09 or 0.11 for
    N = 1,024, with a spread of 0.05 or 0.02. So compare distances from equally many images, or the extrapolated ones.
    With few images to a feature the error itself comes out too large: for CIFAR-10 up to twice at N = 128 to 1,024.

    Args:
        images: ``(n, channels, height, width)`` in [-1, 1], or an iterable of such batches, read once. A batch may be a
            pair of images and labels. More of them than there are features; each counts as an independent draw. They
            are taken as they are: clamp samples first, as a file of images does.
        reference: the Gaussian of features to compare with, such as ``shipped.feature_statistics("mnist")``, taken as
            exact; or images like the others, whose number then adds to the bias and the error.
        features: maps a batch of images to ``(batch, features)``: ``load("mnist").features``, for example.

    Raises:
        ValueError: if there are not more images than features, for NaN, for images that the classifier does not take,
            or a reference with another number of features.

    >>> import gausstools as gt
    >>> digits, classifier = gt.datasets.load("digits"), load("digits")
    >>> near = frechet(digits.images[:400], gt.shipped.feature_statistics("digits"), classifier.features)
    >>> upside_down = digits.images[:400].flip(2)
    >>> near.value < 0.05 * frechet(upside_down, gt.shipped.feature_statistics("digits"), classifier.features).value
    True
    """
    rows = _rows(images, features, "images")
    return _jackknife(_distances(_without_groups(rows), _target(reference, features, rows)), len(rows))


def frechet_difference(images: Images, others: Images, reference: Gaussian | Images, features: Features) -> Distance:
    """Return by how much images are further from a reference than others that were drawn from the same noise.

    The value is ``Δ = d(images) − d(others)``, above 0 where the others are nearer to the reference. Without group j of
    the g groups, which is left out of both sets, it is ``Δ_j``, and the standard error is the paired jackknife's

    ``√((g − 1)/g · Σ_j (Δ_j − Δ̄)²)``.

    Noise in common cancels in it, and so do most of the bias of few images and of the excess of the error that
    :func:`gausstools.features.frechet` warns of. Nothing breaks if the images are not pairs, but then the error only
    happens to be near ``√(error² + error²)``, by which independent sets are judged.

    Args:
        images: ``(n, channels, height, width)`` in [-1, 1], or an iterable of such batches, as ``frechet`` takes them.
        others: as many; image i of each comes from the same noise (:func:`gausstools.noise.seeded_noise`, for example).
        reference: the Gaussian of features to compare both with, taken as exact; or images.
        features: maps a batch of images to ``(batch, features)``.

    Returns:
        The difference; ``images`` is the number in each set, and ``extrapolated`` the difference of the two distances
        without bias.

    Raises:
        ValueError: if the sets differ in number or shape, and for what ``frechet`` refuses.

    >>> import gausstools as gt
    >>> digits, classifier = gt.datasets.load("digits").images[:400], load("digits")
    >>> softer, reference = digits.mul(0.99), gt.shipped.feature_statistics("digits")
    >>> paired = frechet_difference(softer, digits, reference, classifier.features)
    >>> paired.error < 0.5 * frechet(digits, reference, classifier.features).error
    True
    """
    ours, theirs = _rows(images, features, "images"), _rows(others, features, "others")
    given = f"the images have features of shape {tuple(ours.shape)} and the others of shape {tuple(theirs.shape)}"
    check_that(ours.shape == theirs.shape, given, "pairs: as many of each, image i of both from the same noise")
    target = _target(reference, features, ours)
    pairs = zip(*(_distances(_without_groups(rows), target) for rows in (ours, theirs)), strict=True)
    return _jackknife([first - second for first, second in pairs], len(ours))


def gaussian(images: Images, features: Features) -> Gaussian:
    """Return the Gaussian of the features of images, in float64: a reference for :func:`gausstools.features.frechet`.

    Args:
        images: ``(n, channels, height, width)`` in [-1, 1], or an iterable of such batches.
        features: maps a batch of images to ``(batch, features)``.

    >>> gaussian(torch.rand(50, 3, 8, 8), lambda x: x.mean((2, 3))).event_shape        # the mean colour as features
    torch.Size([3])
    """
    return Gaussian.fit(_rows(images, features, "images"))


def train(
    classifier: Classifier,
    images: Float[Tensor, "n channels height width"],
    labels: Integer[Tensor, " n"],
    epochs: int,
    *,
    batch_size: int = 256,
    learning_rate: float = 0.2,
    mirror: bool = False,
    shift: int = 0,
    half_precision: bool = False,
    seed: int = 0,
) -> Iterator[float]:
    """Train a classifier in place; yield its mean loss after each epoch.

    Stochastic gradient descent with Nesterov's momentum 0.9 and weight decay 5e-4. The learning rate rises from 0
    during the first fifth of the steps and falls to 0 during the others. On one machine, the same arguments and initial
    weights give the same network.

    Args:
        classifier: with its initial weights.
        images: in [-1, 1].
        labels: their classes, from 0.
        epochs: how often each image is seen.
        batch_size: images in a step.
        learning_rate: the highest.
        mirror: show each image mirrored every other time, by chance.
        shift: move each image by up to so many pixels each way; what becomes free is filled by reflection.
        half_precision: compute in bfloat16 where that is safe; the weights stay float32.
        seed: of the order, the mirroring and the shifts.

    >>> import gausstools as gt
    >>> digits, classifier = gt.datasets.load("digits"), Classifier((1, 8, 8), width=8, features=8, fold=1)
    >>> losses = list(train(classifier, digits.images, digits.labels, epochs=3))
    >>> losses[2] < losses[0]
    True
    """
    check_count(len(images), "the number of images", 1)
    check_count(epochs, "epochs", 1)
    check_count(batch_size, "batch_size", 2)
    check_count(shift, "shift", 0, min(classifier.event_shape[1:]) - 1)
    ((images, labels),) = labelled_batches(images, labels)
    generator = torch.Generator().manual_seed(seed)
    classifier.train().requires_grad_(True).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(classifier.parameters(), learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    starts = range(0, len(images), batch_size)
    steps = epochs * len(starts)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.2 * steps), (steps - step) / (0.8 * steps), 1.0)
    )
    for _ in range(epochs):
        order, total = torch.randperm(len(images), generator=generator), 0.0
        for start in starts:
            chosen = order[start : start + batch_size]
            batch = _altered(images[chosen], mirror, shift, generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast(images.device.type, torch.bfloat16, enabled=half_precision):
                loss = nn.functional.cross_entropy(classifier(batch), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        if not math.isfinite(total):
            raise FloatingPointError(f"the loss is {total}; use a smaller learning rate than {learning_rate:g}")
        yield total / len(images)
    classifier.eval().requires_grad_(False)


def _convolution(channels: int, out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]


def _altered(images: Tensor, mirror: bool, shift: int, generator: torch.Generator) -> Tensor:
    count, channels, height, width = images.shape
    if mirror:
        turned = torch.rand(count, generator=generator) < 0.5
        images = torch.where(turned[:, None, None, None], images.flip(3), images)
    if not shift:
        return images
    down, right = torch.randint(2 * shift + 1, (2, count, 1), generator=generator)
    rows, columns = torch.arange(height) + down, torch.arange(width) + right
    padded = nn.functional.pad(images, [shift] * 4, mode="reflect")
    places = torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None]
    return padded[*places, rows[:, None, :, None], columns[:, None, None, :]]


def _rows(images: Images, features: Features, name: str) -> Tensor:
    """Return the features of images, ``(n, features)`` in float64, of more images than features."""
    found, event_shape = [], None
    for batch in unlabelled_batches(images):
        event_shape = check_batch(batch, event_shape, name).shape[1:]
        for part in batch.split(BATCH) if len(batch) else ():
            with torch.no_grad():
                rows = check_batch(features(part.to(working_dtype(part.dtype))), name=f"features of the {name}")
            fits = rows.ndim == 2 and len(rows) == len(part)
            check_that(fits, f"features have shape {tuple(rows.shape)}", f"({len(part)}, features)")
            found.append(rows)
    check_that(len(found) > 0, f"no {name} were given", "at least one batch with at least one image")
    count, dim = (rows := torch.cat(found).double()).shape
    expected = f"more than features, so that their covariance is not singular: at least {dim + 1}, better {10 * dim}"
    check_that(count > dim, f"there are {count} {name} for {dim} features", expected)
    return rows


def _groups(count: int) -> Tensor:
    """Return the groups of so many images.

    Among any 32 that follow one another each group has one, by chance: taken in turns, groups would differ in their
    classes where the classes take turns too, and the jackknife would count that as error and bias.
    """
    blocks = range(-(-count // GROUPS))
    order = np.concatenate([np.random.default_rng(block).permutation(GROUPS) for block in blocks])
    return torch.from_numpy(order[:count])


def _without_groups(rows: Tensor) -> list[Gaussian]:
    """Return the Gaussian of all images, and those without each group of them."""
    groups = _groups(len(rows)).to(rows.device)
    return [Gaussian.fit(rows), *(Gaussian.fit(rows[groups != group]) for group in groups.unique())]


def _target(reference: Gaussian | Images, features: Features, rows: Tensor) -> list[Gaussian]:
    """Return the Gaussian to compare with, and those without each group of the images behind it, if there are any."""
    if not isinstance(reference, Gaussian):
        return _without_groups(_rows(reference, features, "reference"))
    given, expected = reference.event_shape, rows.shape[1:]
    check_that(given == expected, f"the reference is a Gaussian over {tuple(given)}", f"{tuple(expected)}, of features")
    return [reference]


def _distances(ours: list[Gaussian], theirs: list[Gaussian]) -> list[Tensor]:
    """Return the distance; those without each group of ours; and, if there are any, without each of theirs."""
    sides = [[frechet_distance(ours[0], theirs[0])], [frechet_distance(part, theirs[0]) for part in ours[1:]]]
    sides.append([frechet_distance(ours[0], part) for part in theirs[1:]])
    return [torch.stack(side).cpu() for side in sides if side]


def _jackknife(found: list[Tensor], count: int) -> Distance:
    """Return what was found of all images, ``found[0]``, with what leaving out groups says of its error and bias."""
    value, *sides = found
    # Each side is drawn by itself, so their biases and the squares of their errors add up.
    bias = sum((len(without) - 1) * (without.mean() - value) for without in sides)
    variance = sum((len(without) - 1) * without.var(correction=0) for without in sides)
    return Distance(value.item(), math.sqrt(variance), (value - bias).item(), count)
