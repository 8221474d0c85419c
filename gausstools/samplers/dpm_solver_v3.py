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
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import Denoiser, check_batch, check_count, check_sigma
from gausstools.models import files
from gausstools.noise import seeded_noise
from gausstools.samplers.path import Evaluation, State, check_history, check_steps, correctable, sampler
from gausstools.samplers.quadrature import Quadrature

__all__ = ["ModelStatistics", "dpm_v3"]

# Central differences over this much of σ: short against what changes in a denoiser, long against float32's rounding.
_DIFFERENCE = 0.05

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

    sigmas: Float[Tensor, " levels"]
    linear: Float[Tensor, "levels *event"]
    scale: Float[Tensor, "levels *event"]
    bias: Float[Tensor, "levels *event"]

    def __post_init__(self):
        levels = _check_levels(self.sigmas)
        object.__setattr__(self, "sigmas", levels)
        for name in ("linear", "scale", "bias"):
            values = check_batch(getattr(self, name), name=name).detach().cpu().double()
            if len(values) != len(levels) or values.shape != self.linear.shape:
                raise ValueError(
                    f"{name} has shape {tuple(values.shape)}, expected ({len(levels)}, *event) with one row for each "
                    f"of sigmas and the event of linear, {tuple(self.linear.shape[1:])}"
                )
            object.__setattr__(self, name, values)

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one image."""
        return self.linear.shape[1:]

    @classmethod
    def fit(
        cls,
        denoiser: Denoiser,
        data: Float[Tensor, "n *event"],
        sigmas: Float[Tensor, " levels"],
        *,
        seed: int = 0,
        batch_size: int = 64,
        watch: Callable = iter,
    ) -> "ModelStatistics":
        """Estimate the coefficients of a denoiser from clean images, noised at each level.

        The images may be data or the denoiser's own samples. An image's diagonal is estimated with one random vector of
        signs, ``v ⊙ (∂D/∂x) v`` (Hutchinson). Two derivatives are asked for each image and level, along v and along
        the flow: by forward-mode products, which cost about two calls each. Where the denoiser has none that agree
        with a difference of its answers, differences take their place: five calls for each image and level.

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

        Warns:
            UserWarning: where differences take the place of forward-mode products.

        >>> import torch, gausstools as gt
        >>> gaussian = gt.Gaussian.isotropic(torch.ones(2).double(), 3.0)
        >>> data = gaussian.sample(50, generator=torch.Generator().manual_seed(0))
        >>> found = ModelStatistics.fit(gaussian, data, torch.tensor([3.0, 1.0]))
        >>> found.linear                                     # σ²/(σ²+3)
        tensor([[0.7500, 0.7500],
                [0.2500, 0.2500]], dtype=torch.float64)
        """
        levels = _check_levels(sigmas)
        check_batch(data, name="data")
        if len(data) < 2:
            raise ValueError(f"data has {len(data)} images, expected at least 2")
        check_count(batch_size, "batch_size", 1)
        check_sigma(levels[0], data, "sigmas")
        derivative = _Derivative(denoiser)
        linear, moments = [], []
        with torch.no_grad():
            for k, sigma in enumerate(watch(levels.tolist())):
                parts = [
                    _asked(denoiser, derivative, data, rows, sigma, seed, k)
                    for rows in torch.arange(len(data)).split(batch_size)
                ]
                x, denoised, along_flow, diagonal = torch.cat(parts, 1).flatten(2).double().cpu()
                linear.append(1 - diagonal.mean(0))
                moments.append(_moments(torch.stack([x, denoised, along_flow])))
        scale, bias = _regression(_Spline(-levels.log(), torch.stack(linear)), moments)
        return cls(levels, *(values.reshape(-1, *data.shape[1:]) for values in (torch.stack(linear), scale, bias)))

    def save(self, path: str | os.PathLike) -> None:
        """Write the statistics as safetensors; an interrupted call leaves the old file, or none."""
        tensors = {name: getattr(self, name) for name in ("sigmas", "linear", "scale", "bias")}
        files.write(path, "ModelStatistics", tensors)

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
    x: Float[Tensor, "batch *event"],
    sigmas: Float[Tensor, " levels"],
    *,
    statistics: ModelStatistics,
    order: int = 3,
    corrector: bool = False,
    pseudo: bool = False,
    history: Sequence[Evaluation] = (),
) -> Iterator[State]:
    """DPM-Solver-v3: the polynomial in ``ln σ`` through the last values of what the statistics leave.

    Args:
        denoiser: any denoiser.
        x: ``(batch, *event)``, the state at ``sigmas[0]``.
        sigmas: ``(steps + 1,)``, decreasing; 0 may stand at the end only, and that step is of order 1.
        statistics: of this denoiser. Their levels reach over those of the grid, and of the history.
        order: 1, 2 or 3: how many values a step uses, where it has them.
        corrector: take each step again once its end has been asked about. The states that are yielded are the
            predicted ones, where the denoiser is asked.
        pseudo: the paper's pseudo-order, for few steps. It differs from order 3 on.
        history: evaluations above ``sigmas[0]``, oldest first.

    Raises:
        TypeError: if statistics is something else.
        ValueError: for a grid that does not decrease or that leaves the levels of the statistics, another order, or a
            history or x that does not fit.

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
    steps = check_steps(x, sigmas)
    past = check_history(history, x, steps[0][0])
    check_batch(x, statistics.event_shape)
    coefficients = _Coefficients(statistics)
    coefficients.check_range([evaluation.sigma for evaluation in past] + [level for step in steps for level in step])
    past = [_Value(e.sigma, coefficients.rest(e)) for e in past]
    step_before = None
    for start, end in steps:
        asked = Evaluation(x, start, denoiser(x, start))
        value = _Value(start, coefficients.rest(asked))
        if step_before is not None and correctable(step_before[1], start, end):
            x, before, used = step_before
            x = coefficients.advance(x, before, start, [used[0], value, *used[1:]], pseudo)
        past = [*past, value][-order:]
        if end == 0:
            x = asked.denoised
        else:
            step_before = (x, start, past[::-1]) if corrector else None
            x = coefficients.advance(x, start, end, past[::-1], pseudo)
        yield State(x, end, asked.denoised)


# ---- the statistics


def _check_levels(sigmas: Tensor) -> Tensor:
    if not isinstance(sigmas, Tensor) or sigmas.ndim != 1 or len(sigmas) < 2:
        given = tuple(sigmas.shape) if isinstance(sigmas, Tensor) else type(sigmas).__name__
        raise ValueError(f"sigmas is {given}, expected a 1-D tensor with at least 2 levels")
    levels = sigmas.detach().cpu().double()
    if not levels.isfinite().all() or not (levels.diff() < 0).all() or levels[-1] <= 0:
        raise ValueError(
            f"sigmas runs {levels[0]:g}, {levels[1]:g}, …, {levels[-1]:g}, expected finite levels, strictly decreasing "
            "and > 0; a grid of samplers ends in 0, which [:-1] drops"
        )
    return levels


def _asked(
    denoiser: Denoiser, derivative: "_Derivative", data: Tensor, rows: Tensor, sigma: float, seed: int, k: int
) -> Tensor:
    """Return x, D, D′ and the estimated diagonal of ``∂D/∂x`` of some images, ``(4, rows, *event)``."""
    numbers = 2 * (k * len(data) + rows)  # no other image and level has them
    noise, signs = (seeded_noise(seed, (numbers + which).tolist(), data.shape[1:]).to(data) for which in (0, 1))
    x, signs = data[rows] + sigma * noise, signs.sign()
    denoised = denoiser(x, x.new_full((len(x),), sigma))
    along_flow = derivative(x, sigma, denoised - x, -1.0)
    return torch.stack([x, denoised, along_flow, signs * derivative(x, sigma, sigma * signs, 0.0) / sigma])


class _Derivative:
    """The derivative of ``D(x + t·direction, σ·e^{rate·t})`` at t = 0, in forward mode where that can be had."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser
        self.forward: bool | None = None

    def __call__(self, x: Tensor, sigma: float, direction: Tensor, rate: float) -> Tensor:
        level = x.new_full((len(x),), sigma)
        if self.forward is None:
            self.forward = self._agrees(x, level, direction, rate)
        return (self._product if self.forward else self._difference)(x, level, direction, rate)

    def _product(self, x: Tensor, level: Tensor, direction: Tensor, rate: float) -> Tensor:
        return torch.func.jvp(self.denoiser, (x, level), (direction, rate * level))[1]

    def _difference(self, x: Tensor, level: Tensor, direction: Tensor, rate: float) -> Tensor:
        ahead, behind = (
            self.denoiser(x + t * direction, level * math.exp(rate * t)) for t in (_DIFFERENCE, -_DIFFERENCE)
        )
        return (ahead - behind) / (2 * _DIFFERENCE)

    def _agrees(self, *question) -> bool:
        """Whether there is a product, and it is right: a denoiser that reads σ as a number loses that part of it."""
        try:
            product = self._product(*question)
        except RuntimeError as error:
            reason = f"it has no forward-mode derivative ({str(error).splitlines()[0]})"
        else:
            difference = self._difference(*question)
            if (product - difference).norm() <= 0.1 * difference.norm():
                return True
            reason = "its forward-mode derivative does not agree with a difference of its answers"
        warnings.warn(f"differences of the denoiser's answers are taken: {reason}", stacklevel=4)
        return False


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of ``(3, n, dim)`` over n, ``(3, dim)``, and the covariances, ``(3, 3, dim)``."""
    means = values.mean(1)
    centred = values - means[:, None]
    return means, torch.einsum("ind,jnd->ijd", centred, centred) / values.shape[1]


def _regression(linear: "_Spline", moments: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return s and b, ``(levels, dim)`` each, from the moments of x, D and D′, of which f and f′ are sums."""
    means, covariances = map(torch.stack, zip(*moments, strict=True))
    gain, one = 1 - linear.values, torch.ones_like(linear.values)
    f = torch.stack([gain, -one, 0 * one], 1)
    rate = torch.stack([-gain - linear.slopes, gain, -one], 1)
    variance, shared = (torch.einsum("kid,kijd,kjd->kd", f, covariances, other) for other in (f, rate))
    parts = torch.einsum("kid,kiid->kd", f.square(), covariances)
    known = variance > _NOTHING * parts
    scale = torch.where(known, shared / torch.where(known, variance, one), 0 * one)
    return scale, ((rate - scale[:, None] * f) * means).sum(1)


class _Spline:
    """The natural cubic spline through values at knots, and its slopes there.

    Args:
        knots: ``(n,)``, increasing, n >= 2.
        values: ``(n, dim)``.
    """

    def __init__(self, knots: Tensor, values: Tensor):
        self.knots, self.values = knots, values
        gaps = knots.diff()
        rises = values.diff(dim=0) / gaps[:, None]
        weights = 1 / gaps
        inner = weights[:-1] + weights[1:]
        ends = torch.ones(1, dtype=knots.dtype)
        system = (
            torch.diag(torch.cat([2 * ends, 2 * inner, 2 * ends]))
            + torch.diag(torch.cat([ends, weights[1:]]), 1)
            + torch.diag(torch.cat([weights[:-1], ends]), -1)
        )
        leaning = weights[:, None] * rises
        wanted = 3 * torch.cat([rises[:1], leaning[:-1] + leaning[1:], rises[-1:]])
        self.slopes = torch.linalg.solve(system, wanted)

    def at(self, place: Tensor) -> Tensor:
        """Return the values at places of any shape, ``(*places, dim)``."""
        left = (torch.searchsorted(self.knots, place.contiguous(), right=True) - 1).clamp(0, len(self.knots) - 2)
        gap = (self.knots[left + 1] - self.knots[left])[..., None]
        t = (place - self.knots[left])[..., None] / gap
        return (
            (1 + 2 * t) * (1 - t) ** 2 * self.values[left]
            + t**2 * (3 - 2 * t) * self.values[left + 1]
            + gap * t * (1 - t) * ((1 - t) * self.slopes[left] - t * self.slopes[left + 1])
        )


# ---- the steps


class _Value(NamedTuple):
    """What the linear term leaves of an evaluation, ``f = (1−l)·x − D``, and where."""

    sigma: float
    rest: Tensor


class _Coefficients:
    """l, s and b at any noise level within the range of the statistics, and the steps that they make."""

    def __init__(self, statistics: ModelStatistics):
        self.levels, self.event_shape = statistics.sigmas, statistics.event_shape
        table = torch.stack([statistics.linear, statistics.scale, statistics.bias], 1)
        self.dim = self.event_shape.numel()
        self.spline = _Spline(-self.levels.log(), table.flatten(1))

    def check_range(self, levels: list[float]) -> None:
        highest, lowest = float(self.levels[0]), float(self.levels[-1])
        outside = [level for level in levels if level and not lowest * (1 - 1e-6) <= level <= highest * (1 + 1e-6)]
        if outside:
            raise ValueError(
                f"sigmas or history has the level {outside[0]:g}, but the statistics reach from {highest:g} to "
                f"{lowest:g}; fit them on levels that reach further"
            )

    def rest(self, asked: Evaluation) -> Tensor:
        return (1 - self._linear(asked.sigma).to(asked.x)) * asked.x - asked.denoised

    def advance(self, x: Tensor, start: float, end: float, values: list[_Value], pseudo: bool) -> Tensor:
        """Return the state at end; the first of the values is that at start."""
        factor, constant, weights = self._step(start, end, [value.sigma for value in values], pseudo)
        x = factor.to(x) * x - constant.to(x)
        for weight, value in zip(weights, values, strict=True):
            x = x - weight.to(x) * value.rest
        return x

    def _step(self, start: float, end: float, nodes: list[float], pseudo: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the step as an affine map: of the state, what is added to it, and of the values of f."""
        places = [math.log(start / node) for node in nodes]  # of λ, from the start of the step
        low, high = min(places), math.log(start / end)
        knots = [knot for knot in (math.log(start) - self.levels.log()).tolist() if low < knot < high]
        rule = Quadrature(sorted({*places, *knots, high}))
        linear, scale, bias = self.spline.at(rule.points - math.log(start)).split(self.dim, -1)
        first = int((rule.edges == 0).nonzero())

        def from_start(rates):
            at_points, at_edges = rule.running(rates)
            return at_points - at_edges[first], at_edges - at_edges[first]

        (decay, decay_at), (growth, growth_at) = from_start(linear), from_start(scale)
        shift, shift_at = from_start((-growth).exp() * bias)
        kernel = rule.shares[first:, :, None] * (decay + growth - decay_at[-1]).exp()[first:]
        constant, weights = kernel * shift[first:], []
        for place, polynomial in zip(places, _basis(places, rule.points[first:], pseudo), strict=True):
            edge = int((rule.edges == place).nonzero())
            under = kernel * polynomial[..., None]
            constant = constant - under * shift_at[edge]
            weights.append(self._shaped(under.sum((0, 1)) * (-growth_at[edge]).exp()))
        return self._shaped((-decay_at[-1]).exp()), self._shaped(constant.sum((0, 1))), weights

    def _linear(self, sigma: float) -> Tensor:
        place = -torch.tensor(sigma, dtype=torch.float64).log()
        return self._shaped(self.spline.at(place)[: self.dim])

    def _shaped(self, values: Tensor) -> Tensor:
        return values.reshape(self.event_shape)


def _basis(nodes: list[float], points: Tensor, pseudo: bool) -> list[Tensor]:
    """Return what multiplies the value at each node, in Newton's form; the first node is 0.

    The k-th divided difference, of the first k + 1 values, goes with ``∏ (λ − λ_m)`` over the first k nodes: these are
    the Lagrange polynomials. In pseudo-order it goes with ``λ^k``.
    """
    basis = []
    for j, node in enumerate(nodes):
        total, product = torch.zeros_like(points), torch.ones_like(points)
        for k in range(len(nodes)):
            if k >= j:
                total = total + product / math.prod(node - other for m, other in enumerate(nodes[: k + 1]) if m != j)
            product = product * (points - (0.0 if pseudo else nodes[k]))
        basis.append(total)
    return basis
