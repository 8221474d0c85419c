"""Noise conventions: variance-exploding inside, every other process translated at this border.

A process noises an image as ``x_t = a(t)·x0 + b(t)·n``. With ``s = a`` and ``σ = b/a`` that is
``x_t = s(t)·(x0 + σ(t)·n)``: a rescaled variance-exploding (VE) sample (Karras et al. 2022, eq. 4 and appendix B). So a
process is two functions of time, and one denoiser ``D(x, σ)`` serves them all:

* its posterior mean is ``D(x_t / a, b/a)``;
* its probability flow is ``dx_t/dt = a'(t)·E[x0 | x_t] + b'(t)·E[n | x_t]``.
"""

import abc
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import Batch, Denoiser, Levels, Sigma, check_batch, check_count, check_sigma, check_that, wide

__all__ = [
    "DDPM", "VE", "VP", "FlowMatching", "Prediction", "Process", "karras_sigmas", "log_uniform_sigmas", "seeded_noise",
]  # fmt: skip

Prediction = Literal["epsilon", "sample", "v_prediction", "velocity"]
"""What a network was trained to return: the noise n, the image x0, Salimans & Ho's a·n − b·x0, or dx_t/dt."""


_SLACK = 1e-5


def karras_sigmas(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Levels:
    """Return the noise levels of Karras et al. 2022 (eq. 5): uniform in ``σ^(1/ρ)``, then 0.

    Args:
        n: number of levels above 0, at least 1; a sampler takes n steps.
        sigma_min, sigma_max: the last level above 0 and the first, ``0 < sigma_min <= sigma_max``.
        rho: the larger, the shorter the steps near sigma_min.

    Returns:
        ``(n + 1,)`` in float64, decreasing from exactly sigma_max to exactly 0. For n = 1 that is ``[sigma_max, 0]``.

    >>> karras_sigmas(3)
    tensor([8.0000e+01, 2.5152e+00, 2.0000e-03, 0.0000e+00], dtype=torch.float64)
    """
    check_that(0 < rho < math.inf, f"rho is {rho}", "a finite number > 0")

    def between(ramp: Tensor) -> Tensor:
        first, last = torch.tensor([sigma_max, sigma_min], dtype=torch.float64) ** (1 / rho)
        return (first * (1 - ramp) + last * ramp) ** rho

    return _grid(n, sigma_min, sigma_max, between)


def log_uniform_sigmas(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Levels:
    """Return noise levels that fall by the same factor at each step, uniform in ``ln σ``, then 0.

    It is the grid of Karras et al. as ρ → ∞; diffusers and k-diffusion call it exponential, Lu et al. 2022 uniform in
    log-SNR. Drop the last level to end at sigma_min.

    Args:
        n: number of levels above 0, at least 1; a sampler takes n steps.
        sigma_min, sigma_max: the last level above 0 and the first, ``0 < sigma_min <= sigma_max``.

    Returns:
        ``(n + 1,)`` in float64, decreasing from exactly sigma_max to exactly 0. For n = 1 that is ``[sigma_max, 0]``.

    >>> log_uniform_sigmas(3, 0.5, 50.0)
    tensor([50.0000,  5.0000,  0.5000,  0.0000], dtype=torch.float64)
    """
    return _grid(n, sigma_min, sigma_max, lambda ramp: sigma_max * (sigma_min / sigma_max) ** ramp)


def seeded_noise(seed: int, numbers: Iterable[int], event_shape: Sequence[int]) -> Batch:
    """Return standard normal noise whose row for number i follows from the seed and i alone.

    So image i of a run is the same image in whatever batch, and on whatever device, it is drawn. Two pairs of a seed
    and a number give the same noise with a chance of 2⁻³², because torch's generator keeps 32 bits of a seed.

    Args:
        seed: of the run, >= 0.
        numbers: of the images, each >= 0.
        event_shape: of one image.

    Returns:
        ``(batch, *event)``, float32, on the CPU.

    Raises:
        ValueError: for a negative seed or number, or one that is no integer.

    >>> torch.equal(seeded_noise(0, range(8), (3,))[5:], seeded_noise(0, [5, 6, 7], (3,)))
    True
    """
    seed = check_count(seed, "seed", 0)
    rows = []
    for number in numbers:
        pair = (seed, check_count(number, "numbers", 0))
        # Words of 32 bits in turn: one after the other, the second word of a large seed would pass for the number.
        words = [value >> bit & 0xFFFFFFFF for bit in range(0, max(pair).bit_length() or 1, 32) for value in pair]
        mixed = np.random.SeedSequence(words).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(mixed[0]))
        rows.append(torch.randn(*event_shape, generator=generator))
    return torch.stack(rows) if rows else torch.empty(0, *event_shape)


def _within(bounds: Callable[["Process"], tuple[float, float]], name: str, formula: Callable) -> Callable:
    """Return the formula of a process with its one check: no value out of bounds, and none in half precision."""

    @functools.wraps(formula)
    def checked(self: "Process", values: Tensor | float) -> Tensor | tuple[Tensor, Tensor]:
        values, (low, high) = torch.as_tensor(values), bounds(self)
        given = values.detach().flatten().tolist()
        # Rounding in float32 must not refuse a process's own ends.
        least, most = low - _SLACK * abs(low), high + _SLACK * abs(high)
        between = f"{name} lies between {min(given, default=0):g} and {max(given, default=0):g}"
        inside = all(least <= value <= most and math.isfinite(value) for value in given)
        check_that(inside, between, f"{low:g} to {high:g}, the range of {type(self).__name__}")
        answer = formula(self, wide(values).clamp(low, high))
        dtype = (values if values.is_floating_point() else wide(values)).dtype
        return tuple(part.to(dtype) for part in answer) if isinstance(answer, tuple) else answer.to(dtype)

    return checked


class Process(abc.ABC):
    """A noising process ``x_t = a(t)·x0 + b(t)·n``, and its translation to and from VE.

    A subclass gives ``signal`` (a), ``noise`` (b), their ``rates``, ``time``, the inverse of ``sigma = b/a``, and
    ``span``, its first and last time, if it has such. Times are floats or ``(batch,)`` tensors; each method returns
    tensors, and raises ValueError, with the range, for a time outside the span or a noise level that no time in it has.

    >>> process = FlowMatching()
    >>> process.from_ve(torch.ones(1, 2), 3.0)           # σ = 3 is reached at t = 3/4, where a = 1/4
    (tensor([[0.2500, 0.2500]]), tensor([0.7500]))
    >>> process.to_ve(torch.ones(1, 2), 0.75)
    (tensor([[4., 4.]]), tensor([3.]))
    >>> process.span, process.levels
    ((0.0, 1.0), (0.0, inf))
    """

    span: tuple[float, float] = (-math.inf, math.inf)

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        for name in {"signal", "noise", "rates", "sigma", "time"} & vars(cls).keys():
            bounds = (lambda self: self.levels, "sigma") if name == "time" else (lambda self: self.span, "t")
            setattr(cls, name, _within(*bounds, vars(cls)[name]))

    @functools.cached_property
    def levels(self) -> tuple[float, float]:
        """The VE noise levels ``b/a`` at the ends of the span."""
        reached = [
            self.sigma(torch.tensor(t, dtype=torch.float64)).item() if math.isfinite(t) else t for t in self.span
        ]
        return max(reached[0], 0.0), reached[1]

    @abc.abstractmethod
    def signal(self, t: Tensor) -> Tensor:
        """Return a(t), the factor of the clean image; it is also the scale s(t)."""

    @abc.abstractmethod
    def noise(self, t: Tensor) -> Tensor:
        """Return b(t), the standard deviation of the noise in ``x_t``."""

    @abc.abstractmethod
    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return da/dt and db/dt."""

    @abc.abstractmethod
    def time(self, sigma: Tensor) -> Tensor:
        """Return the time at which the VE noise level ``b/a`` is sigma."""

    def sigma(self, t: Tensor) -> Tensor:
        """Return the VE noise level ``σ(t) = b(t)/a(t)``."""
        return self.noise(t) / self.signal(t)

    def to_ve(self, x: Batch, t: Sigma) -> tuple[Batch, Tensor]:
        """Return the VE sample ``x_t / a(t)`` and its noise level, ``(1,)`` or ``(batch,)`` in float32 at least.

        Raises:
            ValueError: where no signal is left (flow matching at t = 1), since σ is infinite there; or where
                ``x_t / a(t)`` is too large for the dtype of x.
        """
        t = _rows(t, x, "t")
        signal = self._signal_left(t)
        x_ve = check_batch(_scaled(x, 1 / signal).to(x.dtype), name="x / signal(t)")
        return x_ve, _beside(self.noise(t) / signal, x)

    def from_ve(self, x: Batch, sigma: Sigma) -> tuple[Batch, Tensor]:
        """Return the process's own sample ``a·x`` of a VE sample at level sigma, and its time, as ``to_ve`` does."""
        t = self.time(_rows(sigma, x))
        return _scaled(x, self._signal_left(t)).to(x.dtype), _beside(t, x)

    def velocity(self, denoiser: Denoiser, x: Batch, t: Sigma) -> Batch:
        """Return the probability flow ``dx_t/dt = a'·E[x0 | x_t] + b'·E[n | x_t]`` that follows from a VE denoiser.

        Args:
            denoiser: a VE denoiser.
            x: ``(batch, *event)``, a sample of this process (not of VE) at time t.
            t: a float or ``(batch,)``, with noise above 0 and signal left.
        """
        x_ve, sigma = self.to_ve(x, t)
        check_that((sigma > 0).all(), "there is no noise at time t", "noise(t) > 0: the flow's speed is 0/0 there")
        clean = denoiser(x_ve, sigma)
        noise = _scaled(x_ve.to(sigma.dtype) - clean, 1 / sigma)
        signal_rate, noise_rate = self.rates(_rows(t, x, "t"))
        return (_scaled(clean, signal_rate) + _scaled(noise, noise_rate)).to(x.dtype)

    def denoiser(self, network: Callable[[Tensor, Tensor], Tensor], predicts: Prediction) -> Denoiser:
        """Wrap a network of this process into a VE denoiser.

        It also answers beyond the noise levels of the process (``levels``), σ_0 and σ_T, which a grid may pass:

        * below, the network is asked for the noise at σ_0, and that much of it is taken away which is there,
          ``D(x, σ) = x − σ·ε(x)`` with ``ε(x) = (x − D(x, σ_0))/σ_0``. So ``D(x, σ) → x`` as σ → 0;
        * above, the image is little but noise: it is scaled down to the variance that the network knows,
          ``D(x, σ) = D(x·√((1+σ_T²)/(1+σ²)), σ_T)``. So D stays what it is at σ_T, next to the mean of the data.

        Args:
            network: called as ``network(x_t, t)`` with ``x_t`` of shape ``(batch, *event)`` and ``t`` ``(batch,)``, in
                float32 at least.
            predicts: what it returns, in diffusers' words: "epsilon" (n), "sample" (x0), "v_prediction"
                (``a·n − b·x0``, Salimans & Ho 2022), or "velocity" (``a'·x0 + b'·n``, the target of flow matching).

        >>> process = VP()
        >>> perfect = lambda x_t, t: x_t * process.noise(t)[:, None]      # E[n | x_t] when x0 is standard normal
        >>> process.denoiser(perfect, "epsilon")(torch.ones(1, 2), 2.0)   # x / (1 + σ²)
        tensor([[0.2000, 0.2000]])
        """
        # x_t = a·x0 + b·n and the prediction are two linear equations in x0 and n; these weights solve them for x0.
        weights = {
            "epsilon": lambda t, a, b: (1 / a, -b / a),
            "sample": lambda t, a, b: (torch.zeros_like(a), torch.ones_like(a)),
            "v_prediction": lambda t, a, b: (a / (a**2 + b**2), -b / (a**2 + b**2)),
            "velocity": lambda t, a, b: _solve_velocity(a, b, *self.rates(t)),
        }
        check_that(predicts in weights, f"predicts is {predicts!r}", f"one of {', '.join(map(repr, weights))}")
        lowest, highest = self.levels

        def denoise(x: Batch, sigma: Sigma) -> Batch:
            levels = _rows(sigma, x)
            known, one = levels.clamp(lowest, highest), torch.ones_like(levels)
            t = self.time(known)
            a, b = self._signal_left(t), self.noise(t)
            of_sample, of_prediction = weights[predicts](t, a, b)
            asked = a * torch.where(levels > highest, torch.hypot(one, known) / torch.hypot(one, levels), 1)
            share = torch.where(levels < lowest, levels / lowest, 1) if lowest else one
            answer = network(_scaled(x, asked).to(x.dtype), _beside(t, x).expand(len(x)))
            of_x = 1 - share + share * of_sample * asked
            return (_scaled(x, of_x) + _scaled(answer, share * of_prediction)).to(x.dtype)

        return denoise

    def _signal_left(self, t: Tensor) -> Tensor:
        signal = self.signal(t)
        given = f"{type(self).__name__} has no signal left at t = {float(t.max()):g}" if len(t) else ""
        check_that((signal > 0).all(), given, "a smaller t: the VE noise level is infinite there")
        return signal


@dataclass(frozen=True)
class VE(Process):
    """Variance exploding, the EDM convention: ``x_σ = x0 + σ·n``, and time *is* the noise level.

    >>> VE().sigma(torch.tensor([0.5, 80.0]))
    tensor([ 0.5000, 80.0000])
    """

    span: ClassVar = (0.0, math.inf)

    def signal(self, t):
        """Return 1."""
        return torch.ones_like(t)

    def noise(self, t):
        """Return t: time is the noise level."""
        return t

    def rates(self, t):
        """Return 0 and 1."""
        return torch.zeros_like(t), torch.ones_like(t)

    def time(self, sigma):
        """Return sigma: the noise level is time."""
        return sigma


@dataclass(frozen=True)
class VP(Process):
    """Variance preserving with a linear rate ``β(t)``, t in [0, 1] (Song et al. 2021, eq. 32-33).

    ``σ(t)² = exp(∫β) − 1`` with ``∫β = β_min·t + (β_max − β_min)·t²/2``.

    Args:
        beta_min, beta_max: the rate of noising at t = 0 and t = 1; ``0 < beta_min <= beta_max``.

    >>> VP().sigma(torch.tensor([0.0, 0.5, 1.0]))
    tensor([  0.0000,   3.4129, 152.1670])
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    span: ClassVar = (0.0, 1.0)

    def __post_init__(self):
        given = f"beta_min is {self.beta_min} and beta_max {self.beta_max}"
        check_that(0 < self.beta_min <= self.beta_max < math.inf, given, "0 < beta_min <= beta_max")

    def signal(self, t):
        """Return ``exp(−½∫β)``."""
        return torch.exp(-self._integral(t) / 2)

    def noise(self, t):
        """Return ``√(1 − exp(−∫β))``."""
        return (-torch.expm1(-self._integral(t))).sqrt()

    def rates(self, t):
        """Return ``−½β·a`` and ``½β·a²/b``."""
        half, signal = (self.beta_min + (self.beta_max - self.beta_min) * t) / 2, self.signal(t)
        return -half * signal, half * signal**2 / self.noise(t)

    def time(self, sigma):
        """Return the root of ``∫β = ln(1+σ²)``, in the form that keeps its digits at small σ."""
        total, slope = torch.log1p(sigma**2), self.beta_max - self.beta_min
        return 2 * total / (self.beta_min + (self.beta_min**2 + 2 * slope * total).sqrt())

    def _integral(self, t):
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2


@dataclass(frozen=True, eq=False)
class DDPM(Process):
    """Variance preserving in discrete steps: ``ᾱ_t = Π(1 − β)`` over a table of N steps (Ho et al. 2020, eq. 4).

    Between the steps, ``ln σ`` is linear in t, so that any noise level within the table has a time.

    Args:
        alphas_cumprod: ``(steps,)``, the table ᾱ, decreasing, within (0, 1).

    >>> process = DDPM(torch.tensor([0.9, 0.5, 0.1]))
    >>> process.sigma(torch.tensor([0.0, 1.0, 2.0]))     # √(1/ᾱ − 1)
    tensor([0.3333, 1.0000, 3.0000])
    """

    alphas_cumprod: Float[Tensor, " steps"]

    def __post_init__(self):
        table = torch.as_tensor(self.alphas_cumprod, dtype=torch.float64)
        given, expected = f"alphas_cumprod has shape {tuple(table.shape)}", "(steps,) with at least 2 steps"
        check_that(table.ndim == 1 and len(table) > 1, given, expected)
        right = ((table > 0) & (table < 1)).all() and (table.diff() < 0).all()
        expected = "a strictly decreasing table within (0, 1); of betas it is (1 - betas).cumprod(0)"
        check_that(right, f"alphas_cumprod runs from {table[0]:g} to {table[-1]:g}", expected)
        object.__setattr__(self, "alphas_cumprod", table)

    @classmethod
    def linear(cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> "DDPM":
        """Return the schedule of Ho et al. 2020: β rises linearly over the steps.

        >>> DDPM.linear().sigma(torch.tensor([0.0, 999.0]))
        tensor([1.0000e-02, 1.5741e+02])
        """
        betas = torch.linspace(beta_start, beta_end, check_count(steps, "steps", 2), dtype=torch.float64)
        return cls((1 - betas).cumprod(0))

    @property
    def span(self) -> tuple[float, float]:
        """The first and the last index of the table."""
        return 0.0, len(self.alphas_cumprod) - 1.0

    def signal(self, t):
        """Return ``1/√(1+σ²)``, which is √ᾱ at the steps."""
        return self.sigma(t).square().add(1).rsqrt()

    def noise(self, t):
        """Return ``σ/√(1+σ²)``."""
        return self.sigma(t) * self.signal(t)

    def rates(self, t):
        """Return ``−b²a·dlnσ/dt`` and ``a²b·dlnσ/dt``."""
        a, b, slope = self.signal(t), self.noise(t), self._line(t)[1]
        return -(b**2) * a * slope, a**2 * b * slope

    def sigma(self, t):
        """Return σ at time t, an index into the table with ``ln σ`` linear in between."""
        return self._line(t)[0].exp()

    def time(self, sigma):
        """Return the (fractional) index at which the table reaches sigma."""
        logs, level = self._log_sigmas.to(sigma), sigma.log()
        index = (torch.searchsorted(logs, level.detach(), right=True) - 1).clamp(0, len(logs) - 2)
        return (index + (level - logs[index]) / (logs[index + 1] - logs[index])).clamp(0, len(logs) - 1)

    def _line(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``ln σ`` at time t, and its slope there."""
        logs = self._log_sigmas.to(t)
        index = t.detach().floor().long().clamp(max=len(logs) - 2)
        slope = logs[index + 1] - logs[index]
        return logs[index] + (t - index) * slope, slope

    @functools.cached_property
    def _log_sigmas(self) -> Tensor:
        return 0.5 * (1 / self.alphas_cumprod - 1).log()


@dataclass(frozen=True)
class FlowMatching(Process):
    """The straight path ``x_t = (1 − t)·x0 + t·n``, t in [0, 1]: ``σ = t/(1 − t)`` (Lipman et al. 2023).

    >>> FlowMatching().sigma(torch.tensor([0.0, 0.5, 0.75]))
    tensor([0., 1., 3.])
    """

    span: ClassVar = (0.0, 1.0)

    def signal(self, t):
        """Return ``1 − t``."""
        return 1 - t

    def noise(self, t):
        """Return t."""
        return t

    def rates(self, t):
        """Return −1 and 1."""
        return -torch.ones_like(t), torch.ones_like(t)

    def time(self, sigma):
        """Return ``σ/(1 + σ)``."""
        return sigma / (1 + sigma)


def _rows(values: Sigma, x: Tensor, name: str = "sigma") -> Tensor:
    """Return a time or noise level for the batch x where it was given, checked, in float32 at least.

    So numbers stay off the device of x, which would have to be waited for at each check.
    """
    given = values if isinstance(values, Tensor) else torch.empty(0, dtype=torch.float64)
    return check_sigma(values, given.new_empty(len(check_batch(x)), 0), name)


def _beside(values: Tensor, x: Tensor) -> Tensor:
    return values.to(wide(x[:0]))


def _scaled(x: Tensor, factors: Tensor) -> Tensor:
    """Return the rows of x, each by its factor, in float32 at least."""
    return (x.movedim(0, -1) * _beside(factors, x)).movedim(-1, 0)


def _solve_velocity(a, b, a_rate, b_rate):
    """Weights of x_t and v in x0, from ``x_t = a·x0 + b·n`` and ``v = a'·x0 + b'·n``."""
    determinant = a * b_rate - b * a_rate
    return b_rate / determinant, -b / determinant


def _grid(n: int, sigma_min: float, sigma_max: float, between: Callable[[Tensor], Tensor]) -> Tensor:
    """Return n levels, a function of a ramp from 0 to 1 with its ends freed from rounding, and 0 after them."""
    ends = f"sigma_min is {sigma_min} and sigma_max {sigma_max}"
    check_that(0 < sigma_min <= sigma_max < math.inf, ends, "0 < sigma_min <= sigma_max")
    levels = between(torch.linspace(0, 1, check_count(n, "n", 1), dtype=torch.float64))
    levels[-1], levels[0] = sigma_min, sigma_max
    given = f"{n} levels from {sigma_max} to {sigma_min} do not decrease in float64"
    check_that((levels.diff() < 0).all(), given, "fewer, further apart, or another rho")
    return torch.cat([levels, levels.new_zeros(1)])
