"""How much of a network an analytic model explains.

At a noise level σ, over points x of the noised data, the fraction of unexplained variance of the score is

``mean of |s_net(x, σ) − s_model(x, σ)|² / |s_net(x, σ)|²``,

uncentred, a ratio per point that is then averaged (Wang & Vastola 2024), and in the same way for the denoiser, with D
in place of s. By Tweedie's formula ``s = (D − x)/σ²``, so both follow from the two denoisers. A score is hard to
explain at small σ, where the noise to remove is what is left; a denoiser is easy there, since it returns nearly x.

In one and two dimensions that average has no expectation: around a point where the network's score is zero and the
model's is not, ``1/|s_net|²`` is too large to be integrated, and single points decide. There, ask for the ratio of the
two means (``pooled``): the mean of ``|s_net − s_model|²`` over the mean of ``|s_net|²``.

A small fraction is cheap where the noise is high: there the score is nearly all noise, and the mean alone explains it.
What an ideal network may leave of a Gaussian has a bound that is not relative, the Gaussian's own denoising loss
(:func:`gausstools.theory.misfit`). Results say where a network is above it.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import Batch, Denoiser, Sigma, check_answer, check_batch, check_count, check_sigma, check_that
from gausstools.models.gaussian import Gaussian
from gausstools.models.spectrum import gain
from gausstools.theory import misfit

__all__ = [
    "ByRank", "Residual", "Unexplained", "crossings", "evaluation_points", "residuals", "unexplained",
    "unexplained_by_rank",
]  # fmt: skip


class Unexplained(NamedTuple):
    """Fractions of unexplained variance, 0 (the model is the network) upwards, with their standard errors.

    Args:
        score: of the score.
        denoiser: of the denoiser.
        score_error: standard error of ``score``; NaN for a single point.
        denoiser_error: standard error of ``denoiser``; NaN for a single point.
        points: how many points were averaged.
        misfit: of a Gaussian: why it and the network cannot both be right about these points; empty if nothing says so.

    >>> Unexplained(score=0.016, denoiser=0.004, score_error=0.001, denoiser_error=0.0002, points=2048).score
    0.016
    """

    score: float
    denoiser: float
    score_error: float
    denoiser_error: float
    points: int
    misfit: str = ""


class Residual(NamedTuple):
    """One entry of a table of residuals: which model, at which noise level, and what it leaves unexplained.

    Args:
        model: name of the model.
        sigma: noise level.
        unexplained: the fractions.

    >>> Residual("gaussian", 2.0, Unexplained(0.016, 0.004, 0.001, 0.0002, 2048)).sigma
    2.0
    """

    model: str
    sigma: float
    unexplained: Unexplained


class ByRank(NamedTuple):
    """Fractions of unexplained variance by a Gaussian cut off at each rank.

    Args:
        score: ``(ranks,)``, of the score: entry r with the r leading eigenpairs.
        denoiser: ``(ranks,)``, of the denoiser, in the same way.

    >>> ByRank(score=torch.tensor([0.9, 0.11, 0.102, 0.1]), denoiser=torch.tensor([0.5, 0.4, 0.2, 0.1])).smallest()
    (2, 3)
    """

    score: Float[Tensor, " ranks"]
    denoiser: Float[Tensor, " ranks"]

    def smallest(self) -> tuple[int, int]:
        """Return the ranks from which on score and denoiser leave at most 5 % more than all ranks leave."""
        check_that(all(curve.isfinite().all() for curve in self), "the curves hold NaN or infinite values", "numbers")
        # After the last rank that leaves too much: a curve may dip below the line before it stays there.
        return tuple(max((curve > 1.05 * curve[-1]).nonzero().flatten().tolist(), default=-1) + 1 for curve in self)


def unexplained(
    network: Denoiser, model: Denoiser, x: Batch, sigma: Sigma, *, pooled: bool = False, batch_size: int = 256
) -> Unexplained:
    """Return the fractions of a network's score and denoiser that a model leaves unexplained.

    Args:
        network: the denoiser to be explained.
        model: the denoiser that explains it.
        x: noised points ``(batch, *event)`` at level sigma, such as ``evaluation_points`` gives.
        sigma: noise level > 0, a float or ``(batch,)``.
        pooled: return the ratio of two means over the points, instead of the mean of a ratio for each point: the
            choice in one and two dimensions.
        batch_size: how many points both are asked about at once.

    Raises:
        ValueError: for no points, sigma = 0, or a denoiser that answers in another shape, or with NaN.

    >>> network, model = (lambda x, sigma: x / (1 + sigma**2)), (lambda x, sigma: 0.6 * x)
    >>> unexplained(network, model, torch.ones(2, 3), 1.0)      # D: 1/2 against 3/5; D − x: −1/2 against −2/5
    Unexplained(score=0.04..., denoiser=0.04..., score_error=0.0, denoiser_error=0.0, points=2, misfit='')
    """
    return _explained(network, {"": model}, x, sigma, pooled, batch_size)[""]


def residuals(
    network: Denoiser,
    models: Mapping[str, Denoiser],
    data: Batch,
    sigmas: Sequence[float] | Tensor,
    *,
    points: int = 2048,
    seed: int = 0,
    pooled: bool = False,
    batch_size: int = 256,
) -> list[Residual]:
    """Return what each model leaves unexplained at each noise level; the network is asked once for all models.

    Args:
        network: the denoiser to be explained.
        models: denoisers by name.
        data: clean data ``(n, *event)`` to be noised: training images, or held-out ones.
        sigmas: noise levels > 0.
        points: how many noised images, the same images and noise at every level.
        seed: of these images and noise.
        pooled: as in :func:`unexplained`.
        batch_size: how many points are asked about at once.

    >>> import gausstools as gt
    >>> data = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    >>> models = {"mean": gt.Gaussian.isotropic(data.mean(0), 0.0), "Gaussian": gt.Gaussian.fit(data)}
    >>> for row in residuals(models["Gaussian"], models, data, [1.0, 10.0]):
    ...     print(row.sigma, row.model, round(row.unexplained.score, 2))
    1.0 mean 1.09
    1.0 Gaussian 0.0
    10.0 mean 0.0
    10.0 Gaussian 0.0
    """
    table = []
    for sigma in map(float, sigmas):
        x = evaluation_points(data, sigma, points, seed)
        found = _explained(network, models, x, sigma, pooled, batch_size)
        table += [Residual(name, sigma, fractions) for name, fractions in found.items()]
    return table


@torch.no_grad()
def unexplained_by_rank(
    network: Denoiser, gaussian: Gaussian, x: Batch, sigma: Sigma, *, batch_size: int = 256
) -> ByRank:
    """Return what a Gaussian leaves unexplained when it is cut off at each rank: all ranks for the price of one.

    Entry r is what ``unexplained(network, gaussian.truncate(r), x, sigma)`` gives. In the eigenbasis the
    squares of the kept directions and of the discarded ones are running sums.

    Args:
        network: the denoiser to be explained.
        gaussian: the model.
        x: noised points ``(batch, *event)`` at level sigma.
        sigma: noise level > 0, a float or ``(batch,)``.
        batch_size: how many points are asked about at once.

    Returns:
        Fractions for the ranks 0 to that of the Gaussian, ``(rank + 1,)`` each, in float64.

    >>> import gausstools as gt
    >>> model = gt.Gaussian.from_covariance(torch.zeros(3), torch.diag(torch.tensor([9.0, 4.0, 1.0])))
    >>> by_rank = unexplained_by_rank(model, model, torch.ones(1, 3), 1.0)
    >>> by_rank.denoiser.round(decimals=2)               # D is 0.9, 0.8 and 0.5; with the mean variance 0.82 each
    tensor([0.0700, 0.0300, 0.0000, 0.0000], dtype=torch.float64)
    """
    levels = _check_points(x, sigma, batch_size)
    spectrum = gaussian.spectrum.decreasing()
    basis, variances, tails = spectrum.basis, spectrum.variances.double(), spectrum.tails()
    missed, lengths = [], []
    for part, level in _parts(x, levels, batch_size):
        denoised = _answer(network, part, level, "network")
        noise = torch.as_tensor(level, dtype=torch.float64, device=x.device).reshape(-1, 1) ** 2
        answer, place = ((points - gaussian.mean).flatten(1).to(basis) for points in (denoised, part))
        inner, coordinates = (answer @ basis).double(), (place @ basis).double()
        kept = (inner - gain(variances, noise) * coordinates).square()
        shrink = gain(tails, noise)
        left = [
            _remainders(a, b, (u.double() * v.double()).sum(1))
            for a, b, u, v in (
                (inner, inner, answer, answer),
                (inner, coordinates, answer, place),
                (coordinates, coordinates, place, place),
            )
        ]
        missed.append(_running(kept) + left[0] - 2 * shrink * left[1] + shrink**2 * left[2])
        lengths.append(_lengths(denoised, part))
    return ByRank(*_ratios(torch.cat(missed).clamp(min=0), torch.cat(lengths, 1)[..., None]).mean(1))


def evaluation_points(data: Batch, sigma: float, points: int = 2048, seed: int = 0) -> Float[Tensor, "points *event"]:
    """Return noised data ``x0 + σ·n`` to compare denoisers at, ``(points, *event)``.

    Which data and which noise depends on the seed alone, not on sigma or the device: curves against σ are then smooth,
    and models are compared at the same points. No data point is used again before all have been used.

    Args:
        data: clean data ``(n, *event)``.
        sigma: noise level >= 0, a float.
        points: how many, >= 1.
        seed: of the choice and the noise.

    >>> x = evaluation_points(torch.zeros(10, 3), sigma=2.0, points=4)
    >>> torch.equal(x, 2 * evaluation_points(torch.zeros(10, 3), sigma=1.0, points=4))
    True
    """
    check_batch(data, name="data", least=1)
    check_count(points, "points", 1)
    generator = torch.Generator().manual_seed(check_count(seed, "seed", -(2**63), 2**64 - 1))
    order = torch.randperm(len(data), generator=generator)
    chosen = data[order[torch.arange(points) % len(data)].to(data.device)]
    noise = torch.randn(chosen.shape, generator=generator).to(chosen)
    return (chosen + check_sigma(sigma, chosen[:1]) * noise).to(chosen.dtype)


def crossings(
    sigmas: Sequence[float] | Tensor, first: Sequence[float] | Tensor, second: Sequence[float] | Tensor
) -> list[float]:
    """Return the noise levels at which two curves cross, in the order of ``sigmas``.

    Between neighbouring levels ``ln(first/second)`` is taken as linear in ln σ, so powers of σ cross where they do.
    Curves that touch at a level without changing sides do not cross there.

    Args:
        sigmas: noise levels > 0, increasing or decreasing.
        first, second: values > 0 at these levels, such as fractions of unexplained variance.

    Raises:
        ValueError: for curves of different lengths, levels without order, or values that are not positive and finite.

    >>> crossings([0.1, 1.0, 10.0], [0.5, 0.4, 0.1], [5.0, 0.2, 0.1])        # by a factor of 10 below, then 2 above
    [0.586...]
    """
    levels, *curves = (torch.as_tensor(values, dtype=torch.float64) for values in (sigmas, first, second))
    shapes = [tuple(values.shape) for values in (levels, *curves)]
    check_that(shapes == 3 * [(len(levels),)], f"sigmas and curves have shapes {shapes}", "three of one length (n,)")
    numbers, steps = torch.stack([levels, *curves]), levels.diff()
    right = (numbers > 0).all() and numbers.isfinite().all()
    check_that(right, "sigmas or curves hold other values", "positive and finite ones, which have a logarithm")
    ordered = (steps >= 0).all() or (steps <= 0).all()
    check_that(ordered, "sigmas go up and down", "them in increasing or decreasing order")
    gap = curves[0].log() - curves[1].log()
    # A level where the curves are equal belongs to neither side, so the interval that is judged spans it.
    apart = gap != 0
    gap, place = gap[apart], levels.log()[apart]
    before = (gap[:-1] * gap[1:] < 0).nonzero().flatten()
    share = gap[before] / (gap[before] - gap[before + 1])
    return (place[before] + share * (place[before + 1] - place[before])).exp().tolist()


@torch.no_grad()
def _explained(
    network: Denoiser, models: Mapping[str, Denoiser], x: Tensor, sigma: Sigma, pooled: bool, batch_size: int
) -> dict[str, Unexplained]:
    levels = _check_points(x, sigma, batch_size)
    squares, misses = [], {name: [] for name in models}
    for part, level in _parts(x, levels, batch_size):
        denoised = _answer(network, part, level, "network")
        squares.append(_lengths(denoised, part))
        for name, model in models.items():
            misses[name].append(_square(denoised, _answer(model, part, level, f"model {name}".strip())))
    found = {}
    for name, parts in misses.items():
        missed = torch.cat(parts)
        values, shares = _average(missed, torch.cat(squares, 1), pooled)
        errors = shares.std(1) / len(x) ** 0.5 if len(x) > 1 else torch.full((2,), torch.nan)
        reason = misfit(models[name], levels, missed) if isinstance(models[name], Gaussian) else ""
        found[name] = Unexplained(*values.tolist(), *errors.tolist(), len(x), reason)
    return found


def _check_points(x: Tensor, sigma: Sigma, batch_size: int) -> Tensor:
    check_count(batch_size, "batch_size", 1)
    return check_sigma(sigma, check_batch(x, least=1).new_empty(len(x), dtype=torch.float64), positive=True)


def _parts(x: Tensor, levels: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Sigma]]:
    of_parts = levels.to(x).split(batch_size) if len(levels) > 1 else itertools.repeat(levels.item())
    return zip(x.split(batch_size), of_parts, strict=False)


def _running(values: Tensor) -> Tensor:
    """Sums of the first 0, 1, 2, … columns."""
    return torch.cat([values.new_zeros(len(values), 1), values.cumsum(1)], 1)


def _remainders(first: Tensor, second: Tensor, total: Tensor) -> Tensor:
    """What is left of a scalar product when its first 0, 1, 2, … coordinates are taken out."""
    return total[:, None] - _running(first * second)


def _ratios(missed: Tensor, squares: Tensor) -> Tensor:
    """Nothing to explain and nothing missed is nothing unexplained."""
    return torch.where(missed == 0, 0, missed / squares)


def _average(missed: Tensor, squares: Tensor, pooled: bool) -> tuple[Tensor, Tensor]:
    """The mean of the ratios, or the ratio of the means, and each point's share in its error, to first order."""
    ratios = _ratios(missed, squares)
    if not pooled:
        return ratios.mean(1), ratios
    ratio = _ratios(missed.mean(), squares.mean(1))
    return ratio, _ratios(missed - ratio[:, None] * squares, squares.mean(1, keepdim=True))


def _answer(denoiser: Denoiser, x: Tensor, level: Sigma, name: str) -> Tensor:
    return check_batch(check_answer(denoiser(x, level), x, name), name=f"the answer of the {name}")


def _lengths(denoised: Tensor, x: Tensor) -> Tensor:
    """Return ``|D − x|²`` and ``|D|²`` of each point, ``(2, points)``: what score and denoiser have to explain."""
    return torch.stack([_square(denoised, x), _square(denoised, 0)])


def _square(first: Tensor, second: Tensor | int) -> Tensor:
    """Return the squared distances of rows, in float64, whatever the precision of the answers."""
    return (first.double() - second).flatten(1).square().sum(1)
