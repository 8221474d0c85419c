"""DPM-Solver-v3: a multistep method in the parametrisation that the model's own statistics choose.

Data prediction takes the denoiser as the simple thing, noise prediction the slope. Zheng, Lu, Chen & Zhu (2023, arXiv
2310.13268) let measured coefficients decide, for each entry of an image and each noise level. What follows is their
section 3 in this package's convention: a = 1, ``λ = −ln σ``, ``dx/dλ = D − x``. Sections are cited, not equations.

**The form of the solution** (section 3.1). For any l, s, b, functions of λ for each entry, let

``f = (x − D) − l·x``  and  ``g = e^{−∫s}·f − B``, with ``B(λ) = ∫ e^{−∫s} b dλ``,

all integrals from the start λ₀ of a step. Then the flow is exactly

``x(λ₁) = e^{−∫l} x(λ₀) − e^{−L₁} ∫ e^{∫(l+s)} (g + B) dλ``,

where ``L₁`` is ``∫l`` over the whole step and the integrals within run up to λ. Data prediction, DPM-Solver++, is
``(l, s, b) = (1, 0, 0)``, where f = −D; noise prediction, DPM-Solver, is ``(0, −1, 0)``, where g = ε but for a
constant. A method replaces g by a polynomial in λ through its last values; the other integrals are known.

**The coefficients** (section 3.1). l makes f depend as little on x as it can, and s, b make g as constant along the
flow as they can, each in the mean square over noised data:

``l = E[diag ∂(x − D)/∂x] = 1 − E[diag ∂D/∂x]``,  and ``s, b`` minimise ``E|f′ − s·f − b|²``,

the regression of the derivative along the flow, ``f′ = (1−l)(D−x) − l′x − D′``, on f. For data N(μ, Σ) that is
``l = diag(σ²(Σ+σ²)⁻¹)``. If Σ is diagonal f is then ``−lμ`` on every path, so all is known: one step is exact.

**The step** (section 3.2). The polynomial runs through 1, 2 or 3 values of g, in Newton's form, which is their solution
of the Taylor conditions. Their *pseudo-order* keeps the divided differences but takes powers of ``λ − λ₀`` as their
partners: the k-th derivative is estimated from k + 1 values. It is of second order at most, and meant for few steps.
The corrector takes the step again with the answer at its end as one more value; that answer is kept.

**What is ours.** Between the levels of the table the coefficients are natural cubic splines in ln σ. So they belong to
noise levels, not to the steps of a run: a run that starts late, after a jump, finds its own. The paper stops above 0;
here a step to 0 lands on D, as in data prediction.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import Batch, Denoiser, Levels, check_batch, check_count, check_shape, check_sigma, check_that
from gausstools.models import files
from gausstools.noise import seeded_noise
from gausstools.samplers.path import Evaluation, History, State, check_history, check_steps, multistep, sampler
from gausstools.samplers.quadrature import Quadrature

__all__ = ["ModelStatistics", "dpm_v3"]

# A regressor with less than this share of the variance of what it is the difference of is rounding.
_NOTHING = 1e-10


@dataclass(frozen=True)
class ModelStatistics:
    """The coefficients of DPM-Solver-v3 at a grid of noise levels: l, s and b of each entry of an image.

    Args:
        sigmas: ``(levels,)``, decreasing, above 0, at least two.
        linear: l, ``(levels, *event)``.
        scale: s, ``(levels, *event)``.
        bias: b, ``(levels, *event)``.

    Raises:
        ValueError: for levels that do not decrease to above 0, other shapes, or values that are not finite.

    >>> import torch, gausstools as gt
    >>> levels, one = torch.tensor([80.0, 0.01]), torch.ones(2, 3)
    >>> data_prediction = ModelStatistics(levels, linear=one, scale=0 * one, bias=0 * one)
    >>> prior, x = lambda x, sigma: x / (1 + sigma**2), 80 * torch.ones(1, 3)
    >>> *_, ours = dpm_v3(prior, x, levels, statistics=data_prediction, order=1)
    >>> *_, ddim = gt.samplers.ddim(prior, x, levels)
    >>> bool(torch.allclose(ours.x, ddim.x))
    True
    """

    sigmas: Levels
    linear: Float[Tensor, "levels *event"]
    scale: Float[Tensor, "levels *event"]
    bias: Float[Tensor, "levels *event"]

    def __post_init__(self):
        object.__setattr__(self, "sigmas", _check_levels(self.linear, self.sigmas))
        for name in ("linear", "scale", "bias"):
            values = check_batch(getattr(self, name), self.event_shape, name)
            check_that(len(values) == len(self.sigmas), f"{name} has {len(values)} rows", "one for each of sigmas")
            object.__setattr__(self, name, values.detach().cpu().double())

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one image."""
        return self.linear.shape[1:]

    @classmethod
    def fit(
        cls,
        denoiser: Denoiser,
        data: Batch,
        sigmas: Levels,
        *,
        seed: int = 0,
        batch_size: int = 64,
        watch: Callable = iter,
    ) -> "ModelStatistics":
        """Estimate the coefficients of a denoiser from clean images, noised at each level.

        The images may be data or the denoiser's own samples. An image's diagonal is estimated with one random vector of
        signs, ``v ⊙ (∂D/∂x) v`` (Hutchinson). Two derivatives are taken for each image and level, along v and along
        the flow, as central differences of its answers: five calls for each image and level.

        Args:
            denoiser: any denoiser. That of a network is given ``(batch,)`` noise levels.
            data: ``(n, *event)``, n >= 2, in the dtype that the denoiser takes; its noise follows from the seed alone,
                whatever the batch size.
            sigmas: ``(levels,)``, decreasing, above 0, at least two, such as ``log_uniform_sigmas(32)[:-1]``. They must
                reach from the first level of every run to its last above 0.
            seed: of noise and signs.
            batch_size: how many images are asked about at once.
            watch: wraps the levels as they are worked through: tqdm, to show progress.

        Raises:
            ValueError: for levels that do not decrease to above 0, or fewer than two images.

        >>> import torch, gausstools as gt
        >>> gaussian = gt.Gaussian.isotropic(torch.ones(2).double(), 3.0)
        >>> data = gaussian.sample(50, generator=torch.Generator().manual_seed(0))
        >>> found = ModelStatistics.fit(gaussian, data, torch.tensor([3.0, 1.0]))
        >>> found.linear                                     # σ²/(σ²+3)
        tensor([[0.7500, 0.7500],
                [0.2500, 0.2500]], dtype=torch.float64)
        """
        levels = _check_levels(check_batch(data, name="data", least=2), sigmas)
        check_count(batch_size, "batch_size", 1)
        check_sigma(levels[0], data, "sigmas")
        found = []
        with torch.no_grad():
            for k, sigma in enumerate(watch(levels.tolist())):
                batches = torch.arange(len(data)).split(batch_size)
                parts = [_asked(denoiser, data, rows, sigma, seed, k) for rows in batches]
                found.append(_moments(*torch.cat(parts, 1).flatten(2).double().cpu()))
        tables = _regression(levels, *torch.stack(found, 1))
        return cls(levels, *(values.reshape(-1, *data.shape[1:]) for values in tables))

    def save(self, path: str | os.PathLike) -> None:
        """Write the statistics as safetensors; an interrupted call leaves the old file, or none."""
        files.write(path, "ModelStatistics", vars(self))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ModelStatistics":
        """Return the statistics in a file that ``save`` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged or holds something else.
        """
        try:
            return cls(**files.read(path, "ModelStatistics"))
        except TypeError as error:
            raise ValueError(f"{path} holds no complete ModelStatistics: {error}") from error


@sampler(takes=["statistics", "history"])
def dpm_v3(
    denoiser: Denoiser,
    x: Batch,
    sigmas: Levels,
    *,
    statistics: ModelStatistics,
    order: int = 3,
    corrector: bool = False,
    pseudo: bool = False,
    history: History = (),
) -> Iterator[State]:
    """DPM-Solver-v3: the polynomial in ``ln σ`` through the last values of what the statistics leave.

    Args:
        statistics: of this denoiser. Their levels reach over those of the grid, and of the history.
        order: 1, 2 or 3: how many values a step uses, where it has them.
        corrector: take each step again once its end has been asked about.
        pseudo: the paper's pseudo-order, for few steps. It differs from order 3 on.

    Raises:
        ValueError: for a grid or a history that leaves the levels of the statistics.

    >>> import torch, gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(2).double(), 1.0)
    >>> data = prior.sample(10, generator=torch.Generator().manual_seed(0))
    >>> known = ModelStatistics.fit(prior, data, gt.log_uniform_sigmas(100)[:-1])
    >>> (only,) = dpm_v3(prior, 80 * torch.ones(1, 2).double(), torch.tensor([80.0, 0.5]), statistics=known)
    >>> only.x.round(decimals=3)                         # the exact flow: 80·√((1+0.5²)/(1+80²)) = 1.1179
    tensor([[1.1180, 1.1180]], dtype=torch.float64)
    """
    order = check_count(order, "order", 1, 3)
    if not isinstance(statistics, ModelStatistics):
        raise TypeError(f"statistics is {type(statistics).__name__}, expected ModelStatistics, of this denoiser")
    steps = check_steps(check_shape(x, statistics.event_shape), sigmas)
    past = check_history(history, x, steps[0][0])
    levels = [evaluation.sigma for evaluation in past] + [level for step in steps for level in step]
    coefficients = _Coefficients(statistics, levels, pseudo)
    yield from multistep(denoiser, x, sigmas, past, order, coefficients.advance, corrector=corrector)


# ---- the statistics


def _check_levels(batch: Tensor, sigmas: Tensor) -> Tensor:
    check_steps(batch, sigmas)
    check_that(sigmas[-1] > 0, "sigmas ends in 0", "levels above 0; a sampler's grid ends in 0, which [:-1] drops")
    return sigmas.detach().cpu().double()


def _spline(sigmas: Tensor, values: Tensor) -> Callable:
    """Return the natural cubic spline in ``λ = −ln σ`` through values, ``(levels, …)``."""
    from scipy.interpolate import CubicSpline  # takes longer to import than the rest of the samplers

    return CubicSpline(-sigmas.log().numpy(), values.numpy(), bc_type="natural")


def _asked(denoiser: Denoiser, data: Tensor, rows: Tensor, sigma: float, seed: int, k: int) -> Tensor:
    """Return x, D, D′ and the estimated diagonal of ``∂D/∂x`` of some images, ``(4, rows, *event)``."""
    numbers = 2 * (k * len(data) + rows)  # no other image and level has them
    noise, signs = (seeded_noise(seed, (numbers + which).tolist(), data.shape[1:]).to(data) for which in (0, 1))
    x, signs = data[rows] + sigma * noise, signs.sign()
    level = x.new_full((len(x),), sigma)
    step = torch.finfo(x.dtype).eps ** 0.2  # of σ: short against what changes in a denoiser, long against rounding

    def derivative(direction: Tensor, rate: float) -> Tensor:
        """Of ``D(x + t·direction, σ·e^{rate·t})`` at t = 0."""
        ahead, behind = (denoiser(x + t * direction, level * math.exp(rate * t)) for t in (step, -step))
        return (ahead - behind) / (2 * step)

    denoised = denoiser(x, level)
    along_flow = derivative(denoised - x, -1.0)
    return torch.stack([x, denoised, along_flow, signs * derivative(sigma * signs, 0.0) / sigma])


def _moments(x: Tensor, denoised: Tensor, along_flow: Tensor, diagonal: Tensor) -> Tensor:
    """Return what the regression needs of the images at a level, ``(8, dim)``: means and covariances.

    f is ``gain·x − D``, and f′ is ``gain·(D − x) − D′`` less ``l′·x``, which takes all levels.
    """
    gain = diagonal.mean(0)
    f, rate = gain * x - denoised, gain * (denoised - x) - along_flow
    size = gain**2 * x.var(0) + denoised.var(0)
    covariances = [((f - f.mean(0)) * other).sum(0) / (len(x) - 1) for other in (f, rate, x)]
    return torch.stack([gain, size, *covariances, f.mean(0), rate.mean(0), x.mean(0)])


def _regression(levels: Tensor, gain: Tensor, size: Tensor, *moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return l, s and b, ``(levels, dim)`` each, from the moments at all levels."""
    variance, with_rate, with_x, f, rate, x = moments
    slope = torch.from_numpy(_spline(levels, 1 - gain)(-levels.log().numpy(), 1))
    scale = torch.where(variance > _NOTHING * size, (with_rate - slope * with_x) / variance, 0)
    return 1 - gain, scale, rate - slope * x - scale * f


# ---- the steps


class _Coefficients:
    """l, s and b at any noise level within the range of the statistics, and the steps that they make."""

    def __init__(self, statistics: ModelStatistics, levels: list[float], pseudo: bool):
        highest, lowest = float(statistics.sigmas[0]), float(statistics.sigmas[-1])
        for level in filter(None, levels):
            inside = lowest * (1 - 1e-6) <= level <= highest * (1 + 1e-6)
            given = f"sigmas or history has the level {level:g}"
            check_that(inside, given, f"{highest:g} to {lowest:g}, the levels of the statistics; fit them on more")
        self.event_shape, self.pseudo = statistics.event_shape, pseudo
        table = torch.stack([statistics.linear, statistics.scale, statistics.bias], 1)
        self.rates = _spline(statistics.sigmas, table.flatten(2))  # of λ, (3, dim)
        self.integrals = self.rates.antiderivative()

    def rest(self, asked: Evaluation) -> Tensor:
        """Return what the linear term leaves of an evaluation, ``f = (1−l)·x − D``."""
        linear = torch.from_numpy(self.rates(-math.log(asked.sigma))[0]).reshape(self.event_shape)
        return (1 - linear.to(asked.x)) * asked.x - asked.denoised

    def advance(self, x: Tensor, start: float, end: float, used: list[Evaluation]) -> Tensor:
        """Return the state at end; in Newton's form, the value at start comes first and then the nearest to end."""
        if end == 0:
            return used[-1].denoised
        used = sorted(used, key=lambda e: (e.sigma != start, e.sigma))
        table = self._step(start, end, [e.sigma for e in used])
        factor, constant, *weights = table.reshape(-1, *self.event_shape).to(x)
        x = factor * x - constant
        for weight, e in zip(weights, used, strict=True):
            x = x - weight * self.rest(e)
        return x

    def _step(self, start: float, end: float, nodes: list[float]) -> Tensor:
        """Return the step as an affine map: of the state, what is taken from it, and of the values of f."""
        places = [math.log(start / node) for node in nodes]  # of λ, from the start of the step
        base, low, high = -math.log(start), min(places), math.log(start / end)
        rule = Quadrature(sorted({*places, high, *(knot for knot in self.rates.x - base if low < knot < high)}))
        first = int((rule.edges == 0).nonzero())

        def integrals(places):
            """``∫l`` and ``∫s`` from the start."""
            return torch.from_numpy(self.integrals(base + places) - self.integrals(base)).unbind(-2)[:2]

        decay, growth = integrals(rule.points.numpy())
        shift, shift_at = rule.running((-growth).exp() * self.rates(base + rule.points.numpy())[..., 2, :])
        shift, shift_at = shift - shift_at[first], shift_at - shift_at[first]
        whole, _ = integrals(high)
        kernel = rule.shares[first:, :, None] * (decay + growth - whole).exp()[first:]
        constant, weights = kernel * shift[first:], []
        for place, polynomial in zip(places, _basis(places, rule.points[first:], self.pseudo), strict=True):
            under = kernel * polynomial[..., None]
            constant = constant - under * shift_at[rule.edges == place]
            weights.append(under.sum((0, 1)) * (-integrals(place)[1]).exp())
        return torch.stack([(-whole).exp(), constant.sum((0, 1)), *weights])


def _basis(nodes: list[float], points: Tensor, pseudo: bool) -> list[Tensor]:
    """Return what multiplies the value at each node, in Newton's form; the first node is 0.

    The k-th divided difference, of the first k + 1 values, goes with ``∏ (λ − λ_m)`` over the first k nodes: these are
    the Lagrange polynomials. In pseudo-order it goes with ``λ^k``.
    """
    starts = [0.0] * len(nodes) if pseudo else nodes
    powers = [torch.ones_like(points)]
    for start in starts[:-1]:
        powers.append(powers[-1] * (points - start))

    def share(j: int, k: int) -> float:
        """Of the value at node j in the k-th divided difference."""
        return 1 / math.prod(nodes[j] - other for m, other in enumerate(nodes[: k + 1]) if m != j)

    count = len(nodes)
    return [sum(share(j, k) * powers[k] for k in range(j, count)) for j in range(count)]
