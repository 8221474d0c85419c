"""Teleportation: the first steps of sampling, which a Gaussian explains, taken at once and without a network call.

While the noise is large, a network's denoiser is that of the Gaussian with the mean and covariance of its data, and the
flow of a Gaussian is known in closed form (Wang & Vastola 2024, section 6). A process noises an image as
``x_t = a·x0 + b·n``, so the law of ``x_t`` is ``N(aμ, a²Σ + b²I)``, and its probability flow from t to t' is the linear
map between two such laws,

``x_t' = a'μ + Σ_k √((b'²+a'²λ_k) / (b²+a²λ_k)) u_k u_kᵀ (x_t − aμ)``.

With a = 1 and b = σ this is the variance-exploding flow of :meth:`gausstools.Gaussian.flow`. At a = 0, where flow
matching begins and σ is infinite, it is the limit: ``x_t`` is pure noise n, and ``√(b'²+a'²λ_k)`` of it remains in each
direction.

How far can one jump? Write a network's denoiser as ``D = D_G + R``, with R what the Gaussian leaves. In direction k the
network's flow gains ``−R_k dlnσ`` on the Gaussian's at every level on the way down, which the Gaussian's flow carries
on. So a jump from σ_max to s ends beside the network's own state by

``e_k(s) = ∫_{ln s}^{ln σ_max} √((λ_k+s²)/(λ_k+σ²)) R_k dlnσ``

to first order in R, with R along the Gaussian's path, where it can be measured before anything is sampled. A Gaussian
would carry that on to the sample with the factor ``√(λ_k/(λ_k+s²))``. The exact flow of data with more structure
carries a random error further, on average: its squared derivatives exceed the variance (Poincaré's inequality), and
equal it for a Gaussian alone. A network's flow may carry its own R less far; that of this package's CIFAR-10 network
does. How far is a number that hardly depends on s, and :func:`gausstools.choose_skip` measures it.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Integer
from torch import Tensor

from gausstools.denoiser import Batch, Denoiser, Levels, Sigma, check_answer, check_batch, check_sigma, check_that, wide
from gausstools.models.base import ScoreModel
from gausstools.models.gaussian import Gaussian
from gausstools.noise import VE, Process
from gausstools.samplers.exponential import gaussian_exponential
from gausstools.samplers.one_step import heun
from gausstools.samplers.path import check_steps, declared
from gausstools.theory import misfit

__all__ = ["Skip", "Teleport", "choose_skip", "guided", "teleport"]

_SAME = 1e-6  # relative distance within which two levels are one: tables of schedules are often float32
_PROBES = 16


@dataclass(frozen=True)
class Teleport:
    """Where a jump landed, what is left to do, and what it saved.

    Args:
        x: ``(batch, *event)``, the state after the jump, in the coordinates of the process that it came in.
        times: ``(steps + 1,)`` in float64, the grid that remains: where the jump landed, then the levels below. For VE
            these are noise levels, and a sampler takes them as they are.
        sigma: the VE noise level ``b/a`` where the jump landed.
        steps_skipped: steps of the grid that the jump replaced, counting one that it cut short as not replaced.
        nfe_saved: network calls saved with a sampler that asks once a step: Euler, DDIM, a multistep method.
        nfe_saved_heun: the same with Heun's method, which asks twice, but once for a last step to σ = 0.

    >>> import gausstools as gt
    >>> jump = teleport(gt.Gaussian.isotropic(torch.zeros(2), 1.0), torch.ones(1, 2), gt.karras_sigmas(18), 12.0)
    >>> jump.steps_skipped, jump.nfe_saved, jump.nfe_saved_heun, len(jump.times) - 1
    (5, 5, 10, 13)
    """

    x: Batch
    times: Levels
    sigma: float
    steps_skipped: int
    nfe_saved: int
    nfe_saved_heun: int


def teleport(
    gaussian: ScoreModel | Mapping[int, Gaussian],
    x: Batch,
    times: Levels,
    sigma_skip: float,
    *,
    process: Process | None = None,
    labels: Integer[Tensor, " batch"] | None = None,
) -> Teleport:
    """Jump from the start of a grid to the noise level sigma_skip along the flow of a Gaussian, exactly.

    Args:
        gaussian: whose flow is followed.

            - A family by label, as :meth:`gausstools.Gaussian.fit_classes` gives, moves each row by its class's own.
            - For a :class:`gausstools.Mixture` or :class:`gausstools.PointCloud`, whose flow has no closed form, it is
              the Gaussian of the same mean and covariance. Far out the posterior weights hardly depend on x, and both
              denoisers agree to first order in 1/σ²; one component alone would be wrong there already by the distance
              of the means. ``to_gaussian`` is called each time: call it yourself, once, if you jump often.
        x: ``(batch, *event)``, the state at ``times[0]``, in the coordinates of the process: pure noise, as a rule.
        times: ``(steps + 1,)``, decreasing times of the process, for VE noise levels such as ``karras_sigmas`` gives.
            Flow matching may start at t = 1. Their range is ``process.span``.
        sigma_skip: the VE noise level to land at, within those of the grid; :func:`gausstools.choose_skip` finds
            one. It need not stand on the grid; the first step after the jump is then a part of one.
        process: whose coordinates and times these are; None is VE.
        labels: ``(batch,)``, the class of each row, with a family alone.

    Raises:
        TypeError: for something that is no Gaussian, mixture, point cloud or family of Gaussians.
        ValueError: for a grid that does not decrease or leaves the times of the process, a sigma_skip outside it,
            labels without a family or a family without labels, or an unknown label.

    >>> import gausstools as gt
    >>> model, noise = gt.Gaussian.isotropic(torch.ones(2), 3.0), torch.ones(1, 2)
    >>> jump = teleport(model, noise, torch.linspace(1, 0, 11), sigma_skip=1.0, process=gt.FlowMatching())
    >>> jump.x, jump.times                       # at t = 1/2, half of 1 + √(σ²+3)·n
    (tensor([[1.5000, 1.5000]]), tensor([0.5000, 0.4000, 0.3000, 0.2000, 0.1000, 0.0000], dtype=torch.float64))
    """
    process = VE() if process is None else process
    check_steps(x, times)
    levels = times.detach().cpu().double()
    before = declared(heun).calls(process.noise(levels))  # which refuses times outside the process
    sigma_skip = check_sigma(sigma_skip, levels[:1], "sigma_skip")[0]
    landing = process.time(sigma_skip)
    passed = levels[-1] * (1 - _SAME) <= landing <= levels[0] * (1 + _SAME)
    given = f"sigma_skip is {sigma_skip:g}, reached at time {landing:g}"
    check_that(passed, given, f"a level that the grid passes: it runs from {levels[0]:g} to {levels[-1]:g}")
    on_grid = (levels - landing).abs() <= _SAME * landing
    landing = levels[on_grid][0] if on_grid.any() else landing
    remaining = torch.cat([landing.reshape(1), levels[levels < landing]])
    moved = torch.empty_like(x)
    for model, rows in _by_model(gaussian, x, labels):
        moved[rows] = _flow(model, x[rows], process, levels[0], landing)
    return Teleport(
        x=check_batch(moved, name="the state after the jump"),
        times=remaining,
        sigma=float(process.sigma(landing)),
        steps_skipped=len(levels) - len(remaining),
        nfe_saved=len(levels) - len(remaining),
        nfe_saved_heun=before - declared(heun).calls(process.noise(remaining)),
    )


@dataclass(frozen=True)
class Skip:
    """A noise level to jump to, and the curve that justifies it: entry j for a jump to ``sigmas[j]``.

    Args:
        sigma: the level to jump to.
        tolerance: the RMS change of a sample that was allowed, per entry, in units of the data.
        sigmas: ``(levels,)``, the levels at which the network was asked, from the start down to the first too far.
        residual: ``(levels,)``, RMS per entry of what the Gaussian leaves of the network's denoiser.
        predicted: ``(levels,)``, RMS per entry of the change that the jump makes to a finished sample.
        amplification: how many times further the network's flow carries a change than the Gaussian's would; it is
            contained in ``predicted``.

    >>> model = Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> skip = choose_skip(model, model, torch.tensor([80.0, 5.0]))      # the network is the Gaussian
    >>> skip.sigma, skip.amplification
    (5.0, 1.0)
    """

    sigma: float
    tolerance: float
    sigmas: Levels
    residual: Levels
    predicted: Levels
    amplification: float


@torch.no_grad()
def choose_skip(
    denoiser: Denoiser,
    gaussian: Gaussian,
    sigmas: Levels,
    tolerance: float = 0.005,
    *,
    x: Batch | None = None,
    finish: int = 8,
    seed: int = 0,
) -> Skip:
    """Return the lowest level to which a jump changes samples by no more than a tolerance, and how that is known.

    The integral of the module's formula is taken by the trapezoidal rule for each probe, so that what has one sign at
    one level and another at the next cancels as it does in the flow. At the lowest level that may still do, the state
    after the jump and the network's own, as predicted, are both sampled to the end in a few steps: that tells what the
    network's flow makes of the difference. The prediction is how far the sample moves from the network's own, not
    whether it becomes better or worse, and a network for which it can only become better is warned of
    (:func:`gausstools.theory.misfit`): where σ² exceeds all variances of the Gaussian, so that the states of its flow
    are as good as noised images. Against jumps that were made and solved to convergence, it is within 5 % for
    this package's network of CIFAR-10; for that of MNIST it is 10 to 80 % too large down to σ = 15, and more below.

    Args:
        denoiser: a network.
        gaussian: whose flow the jump would follow.
        sigmas: ``(levels,)``, decreasing, above 0: levels to be tried, the first of which is where sampling starts.
            About eight between 80 and 5 are enough; a sampler's grid will do.
        tolerance: RMS change of a sample per entry, in units of the data, > 0: 0.005 is two thirds of a grey level.
        x: ``(batch, *event)``, states at ``sigmas[0]`` to probe with; None draws 16 from the Gaussian.
        finish: steps to sample both to the end: so many calls for a batch of twice the size. 0 saves them and takes
            the Gaussian's own factor, which was between 0.2 and 1.4 of what was right for this package's networks.
        seed: of these draws.

    Returns:
        The level, ``sigmas[0]`` if even the second is too far, and the curve. Levels below the first that is surely too
        far are not asked about.

    Raises:
        ValueError: for levels that do not decrease or end in 0, a tolerance that is not positive, a network that
            answers NaN or in another shape, or a Gaussian without variance where the network differs from it.

    >>> import gausstools as gt
    >>> model, levels = gt.Gaussian.isotropic(torch.zeros(2), 1.0), torch.tensor([80.0, 40.0, 20.0, 10.0, 5.0])
    >>> network = lambda x, sigma: model(x, sigma) + 0.1
    >>> skip = choose_skip(network, model, levels, tolerance=0.01)
    >>> skip.sigma, skip.predicted                       # 0.1·∫ dlnσ/√(1+σ²), about 0.1/σ_skip
    (10.0, tensor([0.0000, 0.0013, 0.0039, 0.0091, 0.0193], dtype=torch.float64))
    """
    check_that(0 < tolerance < math.inf, f"tolerance is {tolerance}", "a finite number > 0: an RMS change per entry")
    gaussian = _gaussian(gaussian)
    check_steps(gaussian.mean[None], sigmas)
    levels = sigmas.double().tolist()
    check_that(levels[-1] > 0, "sigmas end in 0", "levels above 0: a jump to 0 leaves the network nothing to do")
    if x is None:
        generator = torch.Generator(gaussian.mean.device).manual_seed(seed)
        x = gaussian.sample(_PROBES, levels[0], generator=generator)
    check_batch(x, least=1)
    check_that(finish >= 0, f"finish is {finish}", "a number of steps >= 0")
    dtype, x = x.dtype, wide(x)

    def ask(state: Tensor, sigma: Sigma) -> Tensor:
        answer = check_answer(denoiser(state.to(dtype), sigma), state)
        return check_batch(answer, name="the denoiser's answer").to(state)

    change, above, left_above = torch.zeros_like(x), levels[0], torch.zeros_like(x)
    residual, predicted, lowest, doubts = [], [], (levels[0], change), []
    largest = float(gaussian.spectrum.values.max())
    for sigma in levels:
        state = gaussian.flow(x, levels[0], sigma).to(dtype).to(x)
        left, half = ask(state, sigma) - gaussian(state, sigma), math.log(above / sigma) / 2  # 0 at the first level
        change = _carried(gaussian, change + half * left_above, above, sigma) + half * left
        above, left_above = sigma, left
        residual.append(_rms(left))
        predicted.append(_rms(_carried(gaussian, change, sigma, 0.0)))
        # Else the flow would carry no change to the sample.
        given = "gaussian has no variance in the directions in which the denoiser differs from it"
        check_that(predicted[-1] or not change.any(), given, "one that is fitted to more images, or has a tail")
        if sigma**2 >= largest:
            doubts.append(misfit(gaussian, sigma, left.flatten(1).square().sum(1)))
        if predicted[-1] > tolerance:
            break
        lowest = sigma, change
    if any(doubts):
        warnings.warn(next(filter(None, doubts)), stacklevel=3)  # the frame between is that of no_grad
    amplification = 1.0
    if finish and lowest[1].any():
        amplification = _amplification(ask, gaussian, x, levels[0], *lowest, finish)
    predicted = amplification * torch.tensor(predicted, dtype=torch.float64)
    asked = torch.tensor(levels[: len(predicted)], dtype=torch.float64)
    residual = torch.tensor(residual, dtype=torch.float64)
    return Skip(asked[predicted <= tolerance][-1].item(), tolerance, asked, residual, predicted, amplification)


def guided(unconditional: Gaussian, conditional: Gaussian, scale: float) -> Gaussian:
    """Return the Gaussian whose denoiser is the guided one of two that share a covariance.

    Classifier-free guidance asks ``D_u + w(D_c − D_u)`` (Ho & Salimans 2022). With one Σ the gains are one, so this is
    the denoiser of ``N(μ_u + w(μ_c − μ_u), Σ)``, whose flow is known. With two covariances it is no Gaussian's
    denoiser: the guided gain is that of no Σ at all noise levels.

    Args:
        unconditional: w = 0.
        conditional: w = 1, such as one of ``Gaussian.fit_classes(..., shared_covariance=True)``.
        scale: w, any finite number.

    Raises:
        ValueError: if the covariances differ.

    >>> base = Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> guided(base, base.with_mean(torch.tensor([1.0, 0.0])), 7.5).mean
    tensor([7.5000, 0.0000])
    """
    check_that(math.isfinite(scale), f"scale is {scale}", "a finite number")
    unconditional, conditional = _gaussian(unconditional), _gaussian(conditional)
    pairs = zip(unconditional.spectrum, conditional.spectrum, strict=True)
    expected = "one that they share: by Gaussian.fit_classes(..., shared_covariance=True), or with_mean"
    shared = all(torch.equal(ours, theirs) for ours, theirs in pairs)
    check_that(shared, "the two Gaussians have different covariances", expected)
    return unconditional.with_mean(unconditional.mean + scale * (conditional.mean - unconditional.mean))


def _by_model(gaussian: object, x: Tensor, labels: Tensor | None) -> list[tuple[Gaussian, Tensor | slice]]:
    """Return the Gaussians that move the batch, each with its rows."""
    if not isinstance(gaussian, Mapping):
        check_that(labels is None, "labels were given with a single model", "a family: a dict of Gaussians by label")
        return [(_gaussian(gaussian), slice(None))]
    given = f"labels are of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else f"labels are {labels}"
    fits = isinstance(labels, Tensor) and labels.shape == x.shape[:1]
    check_that(fits, given, f"({len(x)},): the class of each row, for a family")
    unknown = sorted({*labels.tolist()} - {*gaussian})
    check_that(not unknown, f"labels hold {unknown}", f"those of the family, which has {sorted(gaussian)}")
    return [(_gaussian(gaussian[label]), labels == label) for label in labels.unique().tolist()]


def _gaussian(model: object) -> Gaussian:
    if isinstance(model, Gaussian):
        return model
    if isinstance(model, ScoreModel) and hasattr(model, "to_gaussian"):
        return model.to_gaussian()
    raise TypeError(f"gaussian is {type(model).__name__}, expected a Gaussian, or a model that has to_gaussian()")


def _flow(gaussian: Gaussian, x: Tensor, process: Process, start: Tensor, end: Tensor) -> Tensor:
    check_batch(x, gaussian.event_shape)
    if end >= start:
        return x
    (a, b), (a_end, b_end) = ((process.signal(t).item(), process.noise(t).item()) for t in (start, end))
    # Where a = 0, σ is infinite. From here on the spread of the data is below the last digit of float64.
    far = 1e8 * (1 + float(gaussian.total_variance) ** 0.5)
    sigma = min(b / a, far) if a else far
    state = gaussian.mean + (wide(x) - a * gaussian.mean) * (sigma / b)
    return (a_end * gaussian.flow(state, sigma, b_end / a_end)).to(x.dtype)


def _carried(gaussian: Gaussian, change: Tensor, start: float, end: float) -> Tensor:
    """Return what the Gaussian's flow makes of a change to its state."""
    return gaussian.flow(gaussian.mean + change, start, end) - gaussian.mean


def _amplification(
    denoiser: Denoiser, gaussian: Gaussian, x: Tensor, start: float, sigma: float, change: Tensor, steps: int
) -> float:
    """Return how many times further the denoiser's flow carries a change at sigma than the Gaussian's does."""
    state = gaussian.flow(x, start, sigma)
    last = 0.2 * float(gaussian.total_variance / gaussian.dim) ** 0.5  # where little is left but the finest detail
    levels = [sigma]
    if 0 < last < sigma:
        levels = torch.logspace(math.log10(sigma), math.log10(last), steps, dtype=torch.float64).tolist()
    both, grid = torch.cat([state, state + change]), torch.tensor([*levels, 0.0], dtype=torch.float64)
    *_, final = gaussian_exponential(denoiser, both, grid, gaussian=gaussian, warm=False)
    jumped, own = final.x.chunk(2)
    return _rms(own - jumped) / _rms(_carried(gaussian, change, sigma, 0.0))


def _rms(values: Tensor) -> float:
    return values.double().square().mean().sqrt().item()
