"""Every public name, asked with what it should not get: it refuses, or its answer is that of float64.

The table below has an entry for each public function, class and method that takes tensors or numbers: how to ask it,
and what each argument is. The kind of an argument says what is tried in its place, one at a time: NaN and infinity,
half precision, integers, an empty batch, another shape, values outside its range, and huge ones. A public name that is
neither in the table nor among those that take no such input fails a test, and so does an entry without a name.
"""

import copy
import dataclasses
import functools
import importlib
import inspect
import math
import pkgutil
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import ClassVar

import diffusers
import numpy as np
import pytest
import torch

import gausstools as gt
from gausstools import compare, convergence, features, theory, training
from gausstools.diffusers import HybridDenoiser, teleport_latents
from gausstools.models import batches, eigen
from gausstools.noise import seeded_noise
from gausstools.samplers.quadrature import Quadrature

DOUBLE = torch.float64
HALVES = (torch.float16, torch.bfloat16)
REFUSE, SAME, FINITE, EMPTY = "refuse", "same", "finite", "empty"


# ---- what is given, and what is tried in its place


def tensors(*values):
    return torch.tensor(values, dtype=DOUBLE)


POINTS = tensors([0.5, -1.0], [2.0, 0.3], [-1.2, 0.8])
IMAGES = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 1, 8, 8)))


def _nonsense(base):
    for value in (math.nan, math.inf):
        bad = base.clone()
        bad.view(-1)[0] = value
        yield str(value), bad, REFUSE


def _precisions(base):
    for dtype in HALVES:
        yield str(dtype), base.to(dtype), SAME
    yield "integers", (2 * base).round().long(), SAME


def _huge(base):
    yield "1e20 in float32", (1e20 * base).float(), SAME
    yield "1e39 in float64", 1e39 * base, FINITE
    yield "1e39 as float64 beside float32", 1e39 * base, SAME


def data(base):
    """Points ``(batch, *event)`` of any event."""
    yield from (*_nonsense(base), *_precisions(base), *_huge(base))
    yield "no rows", base[:0], EMPTY


def batch(base):
    """Points of the event that is expected."""
    yield from data(base)
    yield "an event that would broadcast", base[..., :1], REFUSE


def images(base):
    """Images for a network: what it makes of huge ones, in its own precision, is not looked at at each call."""
    yield from (*_nonsense(base), *_precisions(base))
    yield "no rows", base[:0], EMPTY
    yield "an event that would broadcast", base[..., :1], REFUSE


def rows(base):
    """Numbers, one for each point, in any unit."""
    yield from (*_nonsense(base), *_precisions(base), *_huge(base))
    yield "no rows", base[:0], EMPTY
    yield "two dimensions", base[:, None], REFUSE


def event(base):
    """One event, or parameters of that shape."""
    yield from (*_nonsense(base), *_precisions(base), *_huge(base))
    yield "nothing", base[:0], REFUSE


def parameters(base):
    """A tensor of parameters, whose values only together make sense: huge ones are refused or kept finite."""
    yield from (*_nonsense(base), *_precisions(base))
    yield "nothing", base[:0], REFUSE


def level(base):
    """A noise level."""
    for value in (math.nan, math.inf, -1.0):
        yield str(value), value, REFUSE
    for dtype in HALVES:
        yield str(dtype), torch.tensor(base).to(dtype), SAME
    yield "an integer", torch.tensor(round(base + 0.5)), SAME
    yield "one a row", torch.full((3,), base, dtype=torch.float32), SAME
    yield "one for each of other rows", torch.full((7,), base), REFUSE
    yield "1e20 in float32", torch.tensor(1e20), SAME
    yield "1e39 in float64", torch.tensor(1e39, dtype=DOUBLE), FINITE
    yield "1e39 as float64 beside float32", torch.tensor(1e39, dtype=DOUBLE), SAME


def but(without, kind):
    """What a kind tries, without that which is right here."""
    return lambda base: (variant for variant in kind(base) if variant[0] not in without)


one_level = but("one a row", level)


levels = but("one a row, one for each of other rows", level)


def time_until(high):
    """A time of a process."""

    def variants(base):
        outside = [-0.1] + ([1.01 * high] if high < math.inf else [])
        for value in (math.nan, math.inf, *outside):
            yield str(value), torch.tensor([value]), REFUSE
        for dtype in HALVES:
            yield str(dtype), torch.tensor([base]).to(dtype), SAME
        yield "no times", torch.empty(0), EMPTY

    return variants


def grid(base):
    """Decreasing levels or times."""
    yield from (*_nonsense(base),)
    for dtype in HALVES:
        yield str(dtype), base.to(dtype), SAME
    yield "integers", base.ceil().long(), SAME
    yield "nothing", base[:0], REFUSE
    yield "two dimensions", base[None], REFUSE
    yield "increasing", base.flip(0), REFUSE
    yield "below 0", base - 2 * base[0], REFUSE
    yield from _huge(base)


def number(base):
    """A number of any sign."""
    yield "nan", math.nan, REFUSE
    yield "inf", math.inf, REFUSE
    yield "1e20", 1e20, FINITE
    yield "1e39", 1e39, FINITE


def positive(base):
    """A number >= 0, or above 0."""
    yield from number(base)
    yield "-1", -1.0, REFUSE


def share(base):
    """A number from 0 to below 1."""
    yield from ((name, value, REFUSE) for name, value, _ in positive(base))


def count(base):
    """A whole number >= 0."""
    for value in (math.nan, math.inf, -1, 2.5):
        yield str(value), value, REFUSE


def model(base):
    """A Gaussian of two entries."""
    for dtype in HALVES:
        yield str(dtype), copy.deepcopy(base).to(dtype), SAME
    yield "another event", gt.Gaussian.isotropic(torch.zeros(3), 1.0), REFUSE
    yield "a function", lambda x, sigma: x, REFUSE


@functools.cache
def world(dtype):
    """The models that are asked, in a dtype."""
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=dtype)
    gaussian = gt.Gaussian(torch.tensor([0.25, -0.5], dtype=dtype), torch.tensor([2.0, 0.5], dtype=dtype), turn)
    near = [gt.Gaussian.isotropic(torch.tensor(mean, dtype=dtype), 0.5) for mean in ([1.0, 0.0], [-1.0, 0.5])]
    torch.manual_seed(0)
    classifier = features.Classifier((1, 8, 8), classes=3, width=4, features=2).eval()
    unet = gt.networks.UNet((1, 8, 8), widths=[4], layers=1, groups=2)
    return SimpleNamespace(
        dtype=dtype,
        gaussian=gaussian,
        other=gaussian.with_mean(gaussian.mean + 0.125),
        images=gt.Gaussian.isotropic(torch.zeros(1, 8, 8, dtype=dtype), 1.0),
        mixture=gt.Mixture([0.4, 0.6], near),
        cloud=gt.PointCloud(torch.tensor([[0.0, 1.0], [1.0, -0.5], [-1.0, 0.3]], dtype=dtype)),
        unet=gt.networks.EDM(unet, (1, 8, 8)).to(dtype).eval(),
        classifier=classifier.to(dtype),
    )


@dataclasses.dataclass
class Ask:
    """How to ask for an answer, and what to expect of it."""

    call: Callable
    arguments: dict  # for each, its value and its kind
    drawn: bool  # at random, which differs between dtypes
    digits: float  # how far off in units of the dtype's last digit


def ask(call, drawn=False, digits=8, **arguments):
    return Ask(call, arguments, drawn, digits)


X, DATA, SQUARES = (POINTS, batch), (POINTS, data), (IMAGES, images)
SIGMA, SKIP = (2.0, level), (2.0, level)
KINDS = ("gaussian", "mixture", "cloud")
GRID = (tensors(8.0, 3.0, 1.0), grid)
P, N, K = (1.5, positive), (1.5, number), (3, count)
VALUES = (tensors(1.0, 0.5, 0.25), rows)
EVENT = (tensors(0.3, -0.2), event)
GAUSSIAN = ("gaussian", model)
OTHER = ("other", model)


def last(states):
    return list(states)[-1].x


def sampler(name, **options):
    def call(w, x, sigmas):
        extra = {"gaussian": w.gaussian} if name == "gaussian_exponential" else options
        return last(getattr(gt.samplers, name)(w.other, x, sigmas, **extra))

    return ask(call, x=X, sigmas=GRID)


def statistics(w):
    levels = torch.tensor([1e42, 9.0, 1.0, 1e-3], dtype=DOUBLE)
    flat = torch.ones(4, 2, dtype=DOUBLE)
    return gt.samplers.ModelStatistics(levels, linear=0.5 * flat, scale=0.1 * flat, bias=0.0 * flat)


def flat(x):
    """Features of points: the points."""
    return x


def many():
    """Enough points for statistics of features."""
    return torch.from_numpy(np.random.default_rng(1).normal(size=(8, 2)))


def moments(found):
    return found.count, found.mean, found.covariance


def updated(data):
    found = gt.Moments()
    found.update(data)
    return found


def merged(data):
    found = gt.Moments.of(POINTS)
    found.merge(gt.Moments.of(data))
    return found


def diffusers_network(w):
    return gt.networks.DiffusersDenoiser(
        lambda x, t: SimpleNamespace(sample=0.5 * x), gt.DDPM.linear(), "epsilon", (2,)
    )


def scheduler():
    return diffusers.DDIMScheduler()


class Half(torch.nn.Module):
    """A network as pipelines ask it, which answers half of what it is given."""

    config: ClassVar = {}

    def forward(self, sample, timestep, return_dict=True):
        return (0.5 * sample,)


def hybrid(w, sigma_skip):
    steps = scheduler()
    steps.set_timesteps(10)
    return HybridDenoiser(Half(), w.gaussian, sigma_skip, steps)


# ---- the table

CALLS = {
    "denoiser.score": [ask(lambda w, x, s: gt.score(w.gaussian, x, s), x=X, s=SIGMA)],
    # noise
    "noise.karras_sigmas": [
        ask(lambda w, n, low, high, rho: gt.karras_sigmas(n, low, high, rho), n=K, low=P, high=(9.0, positive), rho=P)
    ],
    "noise.log_uniform_sigmas": [
        ask(lambda w, n, low, high: gt.log_uniform_sigmas(n, low, high), n=K, low=P, high=(9.0, positive))
    ],
    "noise.seeded_noise": [ask(lambda w, seed, i: seeded_noise(seed, [i], (2,)), seed=K, i=K)],
    "noise.VP": [ask(lambda w, low, high: gt.VP(low, high), low=P, high=(9.0, positive))],
    "noise.DDPM": [ask(lambda w, table: gt.DDPM(table), table=(tensors(0.875, 0.5, 0.125), parameters))],
    "noise.DDPM.linear": [
        ask(lambda w, steps, low, high: gt.DDPM.linear(steps, low, high), steps=K, low=(0.1, share), high=(0.2, share))
    ],
    "noise.Process.sigma": [ask(lambda w, t: gt.VP().sigma(t), t=(0.5, time_until(1)))],
    "noise.Process.to_ve": [ask(lambda w, x, t: gt.VP().to_ve(x, t), x=DATA, t=(0.5, time_until(1)))],
    "noise.Process.from_ve": [ask(lambda w, x, s: gt.FlowMatching().from_ve(x, s), x=DATA, s=SIGMA)],
    "noise.Process.velocity": [
        ask(lambda w, x, t: gt.VP().velocity(w.gaussian, x, t), x=X, t=(0.5, time_until(1))),
        ask(lambda w, x, t: gt.FlowMatching().velocity(w.gaussian, x, t), x=X, t=(0.5, time_until(1))),
    ],
    "noise.Process.denoiser": [
        ask(
            lambda w, x, s, process=process: process.denoiser(lambda x_t, t: 0.5 * x_t, "sample")(x, s), x=DATA, s=SIGMA
        )
        for process in (gt.VE(), gt.VP(), gt.DDPM.linear(), gt.FlowMatching())
    ],
    **{
        f"noise.{name}.{method}": [
            ask(lambda w, t, process=process, method=method: getattr(process, method)(t), t=(base, time_until(high)))
        ]
        for name, process, base, high in (
            ("VE", gt.VE(), 2.0, math.inf),
            ("VP", gt.VP(), 0.5, 1.0),
            ("DDPM", gt.DDPM.linear(), 500.0, 999.0),
            ("FlowMatching", gt.FlowMatching(), 0.5, 1.0),
        )
        for method in ("signal", "noise", "rates") + (("sigma",) if name == "DDPM" else ())
    },
    **{
        f"noise.{name}.time": [ask(lambda w, s, process=process: process.time(s), s=(2.0, levels))]
        for name, process in (
            ("VE", gt.VE()),
            ("VP", gt.VP()),
            ("DDPM", gt.DDPM.linear()),
            ("FlowMatching", gt.FlowMatching()),
        )
    },
    # models
    "models.gaussian.Gaussian": [
        ask(
            lambda w, mean, variances, basis, tail: gt.Gaussian(mean, variances, basis, tail),
            mean=EVENT,
            variances=(tensors(2.0), parameters),
            basis=(tensors([0.75**0.5], [0.5]), lambda base: _nonsense(base)),
            tail=P,
        )
    ],
    "models.gaussian.Gaussian.fit": [
        ask(lambda w, data, rank: gt.Gaussian.fit(data, rank), data=DATA, rank=(1, count))
    ],
    "models.gaussian.Gaussian.fit_classes": [
        ask(lambda w, data: gt.Gaussian.fit_classes(data, torch.zeros(len(data), dtype=torch.int64)), data=DATA)
    ],
    "models.gaussian.Gaussian.from_moments": [
        ask(lambda w, data: gt.Gaussian.from_moments(gt.Moments.of(data)), data=DATA),
    ],
    "models.gaussian.Gaussian.from_covariance": [
        ask(
            lambda w, mean, covariance: gt.Gaussian.from_covariance(mean, covariance),
            mean=EVENT,
            covariance=(tensors([2.0, 0.5], [0.5, 1.0]), parameters),
        )
    ],
    "models.gaussian.Gaussian.isotropic": [
        ask(lambda w, mean, variance: gt.Gaussian.isotropic(mean, variance), mean=EVENT, variance=P)
    ],
    "models.spectrum.Spectrum.checked": [
        ask(
            lambda w, variances, basis, tail: gt.Spectrum.checked(variances, basis, tail, POINTS[0].to(w.dtype)),
            variances=(tensors(2.0), parameters),
            basis=(tensors([0.75**0.5], [0.5]), lambda base: _nonsense(base)),
            tail=P,
        )
    ],
    "models.spectrum.Spectrum.truncate": [ask(lambda w, rank: w.gaussian.spectrum.truncate(rank), rank=(1, count))],
    "models.gaussian.Gaussian.truncate": [ask(lambda w, rank: w.gaussian.truncate(rank), rank=(1, count))],
    "models.gaussian.Gaussian.with_mean": [ask(lambda w, mean: w.gaussian.with_mean(mean), mean=EVENT)],
    "models.gaussian.Gaussian.noised": [ask(lambda w, s: w.gaussian.noised(s), s=(2.0, levels))],
    "models.gaussian.Gaussian.flow": [
        ask(lambda w, x, a, b: w.gaussian.flow(x, a, b), x=X, a=(3.0, level), b=SIGMA),
        ask(
            lambda w, x, b: w.gaussian.flow(x, 9.0, b[:, None]),
            x=X,
            b=(tensors(3.0, 1.0, 0.0), but("increasing", grid)),
        ),
    ],
    "models.mixture.Mixture": [
        ask(lambda w, weights: gt.Mixture(weights, [w.gaussian, w.other]), weights=(tensors(0.25, 0.75), parameters)),
    ],
    "models.mixture.Mixture.fit": [
        ask(lambda w, data, k: gt.Mixture.fit(data, k, rank=1), data=(POINTS.repeat(4, 1), data), k=(1, count))
    ],
    "models.pointcloud.PointCloud": [ask(lambda w, data: gt.PointCloud(data), data=DATA)],
    **{
        f"models.{home}.{method}": [
            ask(lambda w, x, s, kind=kind, method=method: getattr(getattr(w, kind), method)(x, s), x=X, s=SIGMA)
            for kind in kinds
        ]
        for home, kinds, methods in (
            ("base.ScoreModel", KINDS, ("forward", "score", "log_prob", "posterior_variance")),
            ("mixture.Mixture", ["mixture"], ["posterior"]),
            ("pointcloud.PointCloud", ["cloud"], ["posterior"]),
        )
        for method in methods
    },
    "models.base.ScoreModel.sample": [
        ask(
            lambda w, n, s, kind=kind: getattr(w, kind).sample(n, s, generator=torch.Generator().manual_seed(0)),
            drawn=True,
            n=K,
            s=(2.0, one_level),
        )
        for kind in KINDS
    ],
    "models.far_field.FarField": [ask(lambda w, x, s: gt.FarField(w.cloud, 1)(x, s), x=X, s=(9.0, level))],
    "models.far_field.NearestNeighbour": [ask(lambda w, x, s: gt.NearestNeighbour(w.cloud)(x, s), x=X, s=SIGMA)],
    "models.far_field._Limit.score": [
        ask(lambda w, x, s: gt.FarField(w.cloud, 2).score(x, s), x=X, s=(9.0, level)),
        ask(lambda w, x, s: gt.NearestNeighbour(w.cloud).score(x, s), x=X, s=SIGMA),
    ],
    "models.moments.Moments.of": [ask(lambda w, data: moments(gt.Moments.of(data)), data=DATA)],
    "models.moments.Moments.update": [ask(lambda w, data: moments(updated(data)), data=DATA)],
    "models.moments.Moments.merge": [ask(lambda w, data: moments(merged(data)), data=X)],
    "models.moments.Moments.reduced": [
        ask(lambda w, data: moments(gt.Moments.of(data).reduced(lambda share: share)), data=DATA)
    ],
    "models.streamed.fit_streamed": [
        ask(lambda w, data, rank: gt.models.fit_streamed(data, rank), data=DATA, rank=(1, count))
    ],
    "models.batches.gather": [
        ask(lambda w, data: batches.gather(data), data=(POINTS, lambda base: (*_nonsense(base), *_precisions(base))))
    ],
    "models.batches.labelled_batches": [
        ask(
            lambda w, data: list(batches.labelled_batches(data, torch.zeros(3, dtype=torch.int64))),
            data=(POINTS, lambda base: (*_nonsense(base), *_precisions(base))),
        )
    ],
    "models.eigen.eigenpairs": [
        ask(
            lambda w, matrix, rank: eigen.eigenpairs(matrix, rank),
            matrix=(tensors([2.0, 0.5], [0.5, 1.0]), parameters),
            rank=(1, count),
        )
    ],
    # networks
    "networks.edm.EDM": [ask(lambda w, s: gt.networks.EDM(lambda x, c: x, (2,), s)(POINTS, 2.0), s=P)],
    "networks.edm.EDM.forward": [
        ask(lambda w, x, s: w.unet(x, s), x=SQUARES, s=SIGMA),
        ask(lambda w, x, s: gt.networks.EDM(lambda x, c: 0.5 * x, (2,))(x, s), x=X, s=SIGMA),
    ],
    "networks.edm.EDM.loss": [
        # The loss of NaN is NaN, which the trainer looks at.
        ask(
            lambda w, x, s, n: w.unet.loss(x, s, n),
            x=(IMAGES, lambda base: tuple(images(base))[2:]),
            s=(tensors(0.5, 1.0, 2.0), lambda base: tuple(parameters(base))[2:]),
            n=(IMAGES, lambda base: tuple(images(base))[2:]),
        )
    ],
    "networks.hub.DiffusersDenoiser": [
        ask(lambda w, x, s: diffusers_network(w)(x, s), x=X, s=SIGMA),
    ],
    "networks.hub.DiffusersDenoiser.forward": [ask(lambda w, x, s: diffusers_network(w)(x, s), x=X, s=SIGMA)],
    # samplers
    **{f"samplers.one_step.{name}": [sampler(name)] for name in ("euler", "heun", "ddim")},
    **{f"samplers.multistep.{name}": [sampler(name)] for name in ("dpmpp", "unipc", "ipndm")},
    "samplers.exponential.gaussian_exponential": [sampler("gaussian_exponential")],
    "samplers.dpm_solver_v3.dpm_v3": [
        ask(lambda w, x, s: last(gt.samplers.dpm_v3(w.other, x, s, statistics=statistics(w))), x=X, s=GRID)
    ],
    "samplers.dpm_solver_v3.ModelStatistics": [
        ask(
            lambda w, s, scale: gt.samplers.ModelStatistics(s, linear=POINTS, scale=scale, bias=POINTS), s=GRID, scale=X
        )
    ],
    "samplers.dpm_solver_v3.ModelStatistics.fit": [
        ask(lambda w, data, s: gt.samplers.ModelStatistics.fit(w.gaussian, data, s), drawn=True, data=X, s=GRID)
    ],
    "samplers.path.gaussian_history": [
        ask(lambda w, x, s: gt.samplers.gaussian_history(w.gaussian, x, s), x=X, s=GRID)
    ],
    "samplers.quadrature.Quadrature": [
        ask(lambda w, a, b: Quadrature([a, b]).points, a=(0.5, number), b=(1.5, number)),
    ],
    # teleportation
    "teleportation.teleport": [
        ask(lambda w, x, t, s: gt.teleport(w.gaussian, x, t, s), x=X, t=GRID, s=SKIP),
        ask(
            lambda w, x, t: gt.teleport(w.gaussian, x, t, 2.0, process=gt.FlowMatching()),
            x=X,
            t=(tensors(1.0, 0.75, 0.5), but("integers", grid)),
        ),
    ],
    "teleportation.choose_skip": [
        ask(
            lambda w, s, tolerance, x: gt.choose_skip(w.other, w.gaussian, s, tolerance, x=x, finish=2),
            digits=256,
            s=(tensors(80.0, 40.0, 20.0), grid),
            tolerance=(1e9, positive),
            x=(80 * POINTS, batch),
        )
    ],
    "teleportation.guided": [
        ask(lambda w, a, b, scale: gt.teleportation.guided(a, b, scale), a=GAUSSIAN, b=OTHER, scale=N)
    ],
    # theory
    **{
        f"theory.{name}": [ask(lambda w, p, q, name=name: getattr(theory, name)(p, q), p=GAUSSIAN, q=OTHER)]
        for name in ("frechet_distance", "wasserstein2", "kl_divergence")
    },
    "theory.denoising_loss": [
        ask(
            lambda w, p, s: theory.denoising_loss(p, s),
            p=("gaussian", but("another event", model)),
            s=(2.0, levels),
        )
    ],
    "theory.misfit": [
        ask(
            lambda w, s, squares: theory.misfit(w.gaussian, s, squares),
            s=SIGMA,
            squares=(tensors(9.0, 9.5, 9.25), rows),
        )
    ],
    "theory.rank_residuals": [
        ask(
            lambda w, s, full: theory.rank_residuals(w.gaussian, s, full),
            s=(2.0, one_level),
            full=(0.1, share),
        )
    ],
    "theory.LinearDynamics": [
        ask(
            lambda w, s, rate, weight, bias: theory.LinearDynamics(w.gaussian, s, rate, weight, bias).loss(VALUES[0]),
            s=(2.0, one_level),
            rate=P,
            weight=N,
            bias=EVENT,
        )
    ],
    "theory.LinearDynamics.loss": [
        ask(lambda w, t: theory.LinearDynamics(w.gaussian, 2.0).loss(t), t=VALUES),
    ],
    "theory.LinearDynamics.gains": [
        ask(lambda w, t: theory.LinearDynamics(w.gaussian, 2.0).gains(t), t=VALUES),
    ],
    "theory.LinearDynamics.denoiser": [
        ask(lambda w, t, x: theory.LinearDynamics(w.gaussian, 2.0).denoiser(t)(x, 2.0), t=(0.1, positive), x=X),
    ],
    # comparison and convergence
    "compare.unexplained": [ask(lambda w, x, s: gt.unexplained(w.other, w.gaussian, x, s), x=X, s=SIGMA)],
    "compare.unexplained_by_rank": [
        ask(lambda w, x, s: gt.unexplained_by_rank(w.other, w.gaussian, x, s), x=X, s=SIGMA)
    ],
    "compare.residuals": [
        ask(
            lambda w, data, s: gt.residuals(w.other, {"g": w.gaussian}, data, s, points=4),
            digits=64,
            data=X,
            s=(tensors(8.0, 3.0, 1.0), but("nothing increasing", grid)),
        )
    ],
    "compare.evaluation_points": [
        ask(
            lambda w, data, s, n: gt.evaluation_points(data, s, n),
            data=DATA,
            s=(2.0, one_level),
            n=(4, count),
        )
    ],
    "compare.crossings": [
        ask(
            lambda w, s, a, b: compare.crossings(s, a, b),
            s=(GRID[0], lambda base: (*_nonsense(base), ("below 0", -base, REFUSE))),
            a=(tensors(0.5, 0.4, 0.1), rows),
            b=(tensors(5.0, 0.2, 0.1), rows),
        )
    ],
    "compare.ByRank.smallest": [ask(lambda w, v: compare.ByRank(v, v).smallest(), v=(VALUES[0], _nonsense))],
    "convergence.converged": [
        ask(
            lambda w, x, high, tolerance: convergence.converged(
                w.gaussian, x, high, sigma_min=0.5, tolerance=tolerance, most_steps=32
            ),
            digits=128,
            x=X,
            high=(9.0, positive),
            tolerance=(0.1, positive),
        )
    ],
    "convergence.solver_errors": [
        ask(
            lambda w, x, end, n, high: list(
                convergence.solver_errors(w.gaussian, x, end, {"euler": gt.samplers.euler}, [n], sigma_max=high)
            ),
            x=X,
            end=X,
            n=(4, count),
            high=(9.0, positive),
        )
    ],
    # features and training
    "features.Classifier.forward": [ask(lambda w, x: w.classifier(x), x=SQUARES)],
    "features.Classifier.features": [ask(lambda w, x: w.classifier.features(x), x=SQUARES)],
    "features.Classifier.accuracy": [
        ask(lambda w, x: w.classifier.accuracy(x, torch.zeros(len(x), dtype=torch.int64)), x=SQUARES)
    ],
    "features.gaussian": [ask(lambda w, x: features.gaussian(x, flat), x=DATA)],
    "features.frechet": [ask(lambda w, x: features.frechet(x, w.gaussian, flat), digits=64, x=(many(), images))],
    "features.frechet_difference": [
        ask(
            lambda w, x: features.frechet_difference(x, -many().to(x), w.gaussian, flat),
            digits=64,
            x=(many(), lambda base: tuple(images(base))[:4]),
        )
    ],
    "features.train": [
        ask(
            lambda w, x: list(
                features.train(copy.deepcopy(w.classifier), x, torch.zeros(len(x), dtype=torch.int64), 1)
            ),
            drawn=True,
            x=SQUARES,
        )
    ],
    "training.residual_rows": [
        ask(
            lambda w, data, s: training.residual_rows(w.other, {"g": w.gaussian}, {"train": data}, [s], points=4),
            data=X,
            s=(2.0, positive),
        )
    ],
    "training.Recipe": [
        ask(
            lambda w, size, rate, spread: training.Recipe(size, rate, log_sigma_std=spread),
            size=K,
            rate=(0.1, positive),
            spread=P,
        )
    ],
    # the bridge
    "diffusers.teleport_latents": [
        ask(
            lambda w, noise, s: teleport_latents(scheduler(), w.gaussian, noise, s, 10).latents,
            noise=X,
            s=(5.0, levels),
        )
    ],
    "diffusers.HybridDenoiser": [
        ask(lambda w, s: hybrid(w, s)(POINTS.to(w.dtype), 900)[0], s=(5.0, but("inf", positive))),
    ],
    "diffusers.HybridDenoiser.forward": [
        ask(lambda w, x: hybrid(w, 5.0)(x, 900, return_dict=False)[0], x=X),
    ],
}

RECORDS = "a record of results: it holds what it is given"
FILE = "takes the name of a file, whose contents have tests of their own"
NAME = "takes a name"
DRAWING = "draws what it is given: no number comes of it"
COMMAND = "a command line, whose options have tests of their own"
PART = "is told nothing but other objects of this table"
SPECTRUM = [
    f"Spectrum.{method}"
    for method in ("apply", "decreasing", "dense", "join", "leading", "quadratic", "split", "tails", "to", "trace")
]

NOT_ASKED = {
    "models.base.ScoreModel": "abstract",
    "noise.Process": "abstract",
    **{f"noise.Process.{m}": "abstract" for m in ("signal", "noise", "rates", "time")},
    **dict.fromkeys(("noise.VE", "noise.FlowMatching", "models.moments.Moments"), "takes nothing"),
    "samplers.path.Declared.calls": "counts the levels of a grid, whatever they are",
    **dict.fromkeys(("samplers.path.Counted", "samplers.path.declared", "samplers.path.sampler"), PART),
    **dict.fromkeys(("models.mixture.Mixture.to_gaussian", "models.pointcloud.PointCloud.to_gaussian"), PART),
    **{f"models.{m}.extra_repr": PART for m in ("gaussian.Gaussian", "mixture.Mixture", "pointcloud.PointCloud")},
    "models.spectrum.Spectrum": "a record: what it is given is looked at by Spectrum.checked",
    **{
        f"models.spectrum.{f}": "a formula: it holds for what a Spectrum has been checked to hold"
        for f in ("flow_factor", "gain", "posterior_variance", "ratio", "spread", *SPECTRUM)
    },
    **dict.fromkeys(("models.base.ScoreModel.by_rows", "models.base.ScoreModel.validate"), "what all others ask by"),
    **dict.fromkeys(("models.pointcloud.PointCloud.chunks", "models.pointcloud.PointCloud.peak"), PART),
    "models.mixture.Mixture.spectrum": "takes the number of a component",
    "models.em.fit": "asked through Mixture.fit",
    "models.batches.unlabelled_batches": "hands on what it is given; asked through gather",
    **dict.fromkeys(("samplers.path.State", "samplers.path.Evaluation", "samplers.path.Declared"), RECORDS),
    **dict.fromkeys(("teleportation.Teleport", "teleportation.Skip", "features.Distance"), RECORDS),
    **dict.fromkeys(("compare.Unexplained", "compare.Residual", "compare.ByRank"), RECORDS),
    **dict.fromkeys(("convergence.Converged", "convergence.SolverError", "diffusers.Teleported"), RECORDS),
    "diffusers.Teleported.on": PART,
    "diffusers.signal_and_noise": "takes a scheduler",
    "diffusers.TeleportPipeline": "made of parts; tests/test_diffusers.py calls it",
}

NOT_ASKED |= {
    **dict.fromkeys(("models.base.ScoreModel.save", "models.base.ScoreModel.load", "pretrained.load"), FILE),
    **dict.fromkeys((f"models.files.{f}" for f in ("read", "read_settings", "write", "write_bytes")), FILE),
    **dict.fromkeys(("models.files.check_weights", "models.files.fill"), FILE),
    **dict.fromkeys(("networks.edm.EDM.save", "networks.edm.EDM.load", "networks.edm_pickle.load"), FILE),
    **dict.fromkeys((f"diffusers.TeleportPipeline.{m}" for m in ("from_pretrained", "save_pretrained")), FILE),
    **dict.fromkeys(("networks.hub.DiffusersDenoiser.load", "features.Classifier.save"), FILE),
    **dict.fromkeys(("features.Classifier.load", "samplers.dpm_solver_v3.ModelStatistics.save"), FILE),
    **dict.fromkeys(("samplers.dpm_solver_v3.ModelStatistics.load",), FILE),
    **dict.fromkeys(("features.load", "networks.imports.import_diffusers"), NAME),
    **dict.fromkeys(("networks.unet.UNet", "networks.unet.UNet.forward", "features.Classifier"), "a bare network"),
    **{f"networks.ddpmpp.DDPMpp{m}": "a bare network" for m in ("", ".forward")},
    **{f"training.Trainer{m}": "works in a folder; tests/test_training.py" for m in ("", ".run", ".save")},
    "training.machine": "says where this runs",
    "samplers.quadrature.Quadrature.running": "integrates what it is given",
}
ROOMS = {"commands": COMMAND, "figures": DRAWING, "shipped": NAME, "datasets": FILE}
"""Rooms of which nothing is asked here, and why."""


# ---- the tests


def public_names():
    """Each public function and class, and each public method under the class that defines it."""
    names = set()
    for found in pkgutil.walk_packages(gt.__path__, "gausstools."):
        if found.name.split(".")[1] in {*ROOMS, "__main__"}:
            continue
        module = importlib.import_module(found.name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            home = value.__module__.removeprefix("gausstools.")
            if home.split(".")[0] in ROOMS:
                continue
            names.add(f"{home}.{value.__qualname__}")
            for owner in value.__mro__ if inspect.isclass(value) else ():
                if owner.__module__.startswith("gausstools."):
                    methods = [
                        method
                        for method, what in vars(owner).items()
                        if not method.startswith("_")
                        and (inspect.isfunction(what) or isinstance(what, classmethod | staticmethod))
                    ]
                    names |= {
                        f"{owner.__module__.removeprefix('gausstools.')}.{owner.__qualname__}.{m}" for m in methods
                    }
    return names


def test_the_table_has_every_public_name_and_no_other():
    known = {**CALLS, **NOT_ASKED}
    names = public_names()
    new, gone = sorted(names - known.keys()), sorted(known.keys() - names)
    assert not new, f"{new} are new: give each an entry in CALLS, or a reason in NOT_ASKED"
    assert not gone, f"{gone} are public no more: take them out of the table"
    assert not CALLS.keys() & NOT_ASKED.keys()


def numbers(answer):
    """All numbers of an answer as float64 tensors, and its texts."""
    if isinstance(answer, gt.Gaussian):
        return [answer.mean.double(), answer.covariance.double()]
    if isinstance(answer, torch.nn.Module):
        return numbers(list(answer.state_dict().values()))
    if isinstance(answer, torch.Tensor):
        return [answer.detach().double()]
    if isinstance(answer, dict):
        return numbers(list(answer.values()))
    if dataclasses.is_dataclass(answer):
        return numbers([getattr(answer, field.name) for field in dataclasses.fields(answer)])
    if isinstance(answer, list | tuple):
        return [number for part in answer for number in numbers(part)]
    if isinstance(answer, int | float):
        return [torch.tensor(float(answer), dtype=DOUBLE)]
    return [] if answer is None else [str(answer)]


def given(value, dtype):
    """An argument in the precision of the models that are asked."""
    if isinstance(value, str):
        return getattr(world(dtype), value)
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def asked(ask, dtype, name, value):
    """The numbers of the answer, or None if it was refused with a message."""
    models = world(dtype)
    arguments = {key: value if key == name else given(base, dtype) for key, (base, _) in ask.arguments.items()}
    try:
        return numbers(ask.call(models, **arguments))
    except (TypeError, ValueError, FloatingPointError, OverflowError) as error:
        if not str(error):
            raise
        return None


def complaint(ask, name, label, value, verdict):
    """What is wrong with the answer to one question, if anything."""
    wide = verdict == FINITE
    if isinstance(value, torch.Tensor) and value.dtype == DOUBLE and "float64" not in label:
        value = value.float()
    answer = asked(ask, DOUBLE if wide else torch.float32, name, value)
    if answer is None:
        return ""
    if verdict == REFUSE:
        return f"answers {answer}"
    if verdict != SAME or ask.drawn:
        bad = [part for part in answer if not isinstance(part, str) and not part.isfinite().all()]
        return f"answers {bad}" if bad else ""
    exact = value
    if isinstance(value, torch.Tensor | torch.nn.Module):
        exact = value.double() if isinstance(value, torch.Tensor) else copy.deepcopy(value).double()
    expected = asked(ask, DOUBLE, name, exact)
    if expected is None:
        return f"answers {answer}, which float64 refuses"
    dtype = getattr(value, "dtype", torch.float32)
    eps = torch.finfo(dtype if dtype in HALVES else torch.float32).eps
    for ours, right in zip(answer, expected, strict=True):
        same = ours == right
        if not isinstance(ours, str):
            scale = float(right.abs().max()) if right.numel() else 0.0
            same = ours.shape == right.shape and bool(
                torch.isclose(ours, right, rtol=ask.digits * eps, atol=ask.digits * eps * scale, equal_nan=True).all()
            )
        if not same:
            return f"answers {ours}, float64 {right}"
    return ""


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("name", CALLS)
def test_what_should_not_be_given_is_refused_or_answered_as_float64_does(name):
    wrong = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for ask in CALLS[name]:
            for dtype in (torch.float32, DOUBLE):
                assert asked(ask, dtype, "", None) is not None, "what is right is refused"
            for argument, (base, kind) in ask.arguments.items():
                for label, value, verdict in kind(given(base, DOUBLE)):
                    try:
                        found = complaint(ask, argument, label, value, verdict)
                    except Exception as error:  # of another kind than those that are promised
                        found = f"ends in {type(error).__name__}: {str(error)[:200]}"
                    if found:
                        wrong.append(f"{argument}, {label}: {found}")
    assert not wrong, "\n".join(wrong)
