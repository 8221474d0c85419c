"""Noise conventions: variance-exploding inside, every other process translated at this border.

A process noises an image as ``x_t = a(t)·x0 + b(t)·n``. With ``s = a`` and ``σ = b/a`` that is
``x_t = s(t)·(x0 + σ(t)·n)``: a rescaled variance-exploding (VE) sample (Karras et al. 2022, eq. 4 and appendix B). So a
process is two functions of time, and one denoiser ``D(x, σ)`` serves them all:

* its posterior mean is ``D(x_t / a, b/a)``;
* its probability flow is ``dx_t/dt = a'(t)·E[x0 | x_t] + b'(t)·E[n | x_t]``.
"""

import abc
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import Denoiser, Sigma, along_batch, check_batch, check_count, check_sigma

__all__ = [
    "DDPM",
    "VE",
    "VP",
    "FlowMatching",
    "Prediction",
    "Process",
    "karras_sigmas",
    "log_uniform_sigmas",
    "seeded_noise",
]

Prediction = Literal["epsilon", "sample", "v_prediction", "velocity"]
"""What a network was trained to return: the noise n, the image x0, Salimans & Ho's a·n − b·x0, or dx_t/dt."""


def karras_sigmas(
    n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Float[Tensor, " levels"]:
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
    n = _check_levels(n, sigma_min, sigma_max)
    if not 0 < rho < math.inf:
        raise ValueError(f"rho is {rho}, expected a finite number > 0")
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    return _with_ends(
        (sigma_max ** (1 / rho) * (1 - ramp) + sigma_min ** (1 / rho) * ramp) ** rho, sigma_min, sigma_max
    )


def log_uniform_sigmas(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Float[Tensor, " levels"]:
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
    n = _check_levels(n, sigma_min, sigma_max)
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    return _with_ends(sigma_max * (sigma_min / sigma_max) ** ramp, sigma_min, sigma_max)


def seeded_noise(seed: int, numbers: Iterable[int], event_shape: Sequence[int]) -> Float[Tensor, "batch *event"]:
    """Return standard normal noise whose row for number i follows from the seed and i alone.

    So image i of a run is the same image in whatever batch, and on whatever device, it is drawn.

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
        mixed = np.random.SeedSequence((seed, check_count(number, "numbers", 0))).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(mixed[0]))
        rows.append(torch.randn(*event_shape, generator=generator))
    return torch.stack(rows) if rows else torch.empty(0, *event_shape)


class Process(abc.ABC):
    """A noising process ``x_t = a(t)·x0 + b(t)·n``, and its translation to and from VE.

    A subclass gives ``signal`` (a), ``noise`` (b), their rates, and ``time``, the inverse of ``sigma = b/a``. Times are
    floats or ``(batch,)`` tensors; each method returns a tensor.

    >>> process = FlowMatching()
    >>> process.from_ve(torch.ones(1, 2), 3.0)           # σ = 3 is reached at t = 3/4, where a = 1/4
    (tensor([[0.2500, 0.2500]]), tensor([0.7500]))
    >>> process.to_ve(torch.ones(1, 2), 0.75)
    (tensor([[4., 4.]]), tensor([3.]))
    """

    @abc.abstractmethod
    def signal(self, t: Tensor) -> Tensor:
        """Return a(t), the factor of the clean image; it is also the scale s(t)."""

    @abc.abstractmethod
    def noise(self, t: Tensor) -> Tensor:
        """Return b(t), the standard deviation of the noise in ``x_t``."""

    @abc.abstractmethod
    def signal_rate(self, t: Tensor) -> Tensor:
        """Return da/dt."""

    @abc.abstractmethod
    def noise_rate(self, t: Tensor) -> Tensor:
        """Return db/dt."""

    @abc.abstractmethod
    def time(self, sigma: Tensor) -> Tensor:
        """Return the time at which the VE noise level ``b/a`` is sigma."""

    def sigma(self, t: Tensor) -> Tensor:
        """Return the VE noise level ``σ(t) = b(t)/a(t)``."""
        return self.noise(t) / self.signal(t)

    def to_ve(self, x: Float[Tensor, "batch *event"], t: Sigma) -> tuple[Float[Tensor, "batch *event"], Tensor]:
        """Return the VE sample ``x_t / a(t)`` and its noise level, ``(1,)`` or ``(batch,)``.

        Raises:
            ValueError: where no signal is left (flow matching at t = 1), since σ is infinite there.
        """
        t = check_sigma(t, check_batch(x), "t")
        signal = self._signal_left(t)
        return x / along_batch(signal, x), self.noise(t) / signal

    def from_ve(self, x: Float[Tensor, "batch *event"], sigma: Sigma) -> tuple[Float[Tensor, "batch *event"], Tensor]:
        """Return the process's own sample ``a·x`` of a VE sample at level sigma, and its time, as ``to_ve`` does."""
        t = self.time(check_sigma(sigma, check_batch(x)))
        return x * along_batch(self.signal(t), x), t

    def velocity(self, denoiser: Denoiser, x: Float[Tensor, "batch *event"], t: Sigma) -> Float[Tensor, "batch *event"]:
        """Return the probability flow ``dx_t/dt = a'·E[x0 | x_t] + b'·E[n | x_t]`` that follows from a VE denoiser.

        Args:
            denoiser: a VE denoiser.
            x: ``(batch, *event)``, a sample of this process (not of VE) at time t.
            t: a float or ``(batch,)``, with noise above 0 and signal left.
        """
        x_ve, sigma = self.to_ve(x, t)
        if (sigma == 0).any():
            raise ValueError("there is no noise at time t, expected t with noise(t) > 0: the flow's speed is 0/0 there")
        t = check_sigma(t, x, "t")
        clean = denoiser(x_ve, sigma)
        noise = (x_ve - clean) / along_batch(sigma, x)
        return along_batch(self.signal_rate(t), x) * clean + along_batch(self.noise_rate(t), x) * noise

    def denoiser(self, network: Callable[[Tensor, Tensor], Tensor], predicts: Prediction) -> Denoiser:
        """Wrap a network of this process into a VE denoiser.

        Args:
            network: called as ``network(x_t, t)`` with ``x_t`` of shape ``(batch, *event)`` and ``t`` ``(batch,)``.
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
            "velocity": lambda t, a, b: _solve_velocity(a, b, self.signal_rate(t), self.noise_rate(t)),
        }
        if predicts not in weights:
            raise ValueError(f"predicts is {predicts!r}, expected one of {', '.join(map(repr, weights))}")

        def denoise(x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, "batch *event"]:
            x_t, t = self.from_ve(x, sigma)
            of_sample, of_prediction = weights[predicts](t, self.signal(t), self.noise(t))
            return along_batch(of_sample, x) * x_t + along_batch(of_prediction, x) * network(x_t, t.expand(len(x)))

        return denoise

    def _signal_left(self, t: Tensor) -> Tensor:
        signal = self.signal(t)
        if not (signal > 0).all():
            raise ValueError(
                f"{type(self).__name__} has no signal left at t = {float(t.max()):g}: the VE noise level is infinite "
                "there. Start at a smaller t"
            )
        return signal


@dataclass(frozen=True)
class VE(Process):
    """Variance exploding, the EDM convention: ``x_σ = x0 + σ·n``, and time *is* the noise level.

    >>> VE().sigma(torch.tensor([0.5, 80.0]))
    tensor([ 0.5000, 80.0000])
    """

    def signal(self, t):
        """Return 1."""
        return torch.ones_like(t)

    def noise(self, t):
        """Return t: time is the noise level."""
        return t

    def signal_rate(self, t):
        """Return 0."""
        return torch.zeros_like(t)

    def noise_rate(self, t):
        """Return 1."""
        return torch.ones_like(t)

    def time(self, sigma):
        """Return sigma: the noise level is time."""
        return sigma


class _VariancePreserving(Process):
    """``a² + b² = 1``: everything follows from σ(t), ``a = 1/√(1+σ²)`` and ``b = σ·a``."""

    @abc.abstractmethod
    def sigma_rate(self, t: Tensor) -> Tensor:
        """Return dσ/dt."""

    def signal(self, t):
        """Return ``1/√(1+σ²)``."""
        return self.sigma(t).square().add(1).rsqrt()

    def noise(self, t):
        """Return ``σ/√(1+σ²)``."""
        return self.sigma(t) * self.signal(t)

    def signal_rate(self, t):
        """Return ``−σσ'/(1+σ²)^{3/2}``."""
        return -self.noise(t) * self.signal(t) ** 2 * self.sigma_rate(t)

    def noise_rate(self, t):
        """Return ``σ'/(1+σ²)^{3/2}``."""
        return self.signal(t) ** 3 * self.sigma_rate(t)


@dataclass(frozen=True)
class VP(_VariancePreserving):
    """Variance preserving with a linear rate ``β(t)``, t in [0, 1] (Song et al. 2021, eq. 32-33).

    ``σ(t)² = exp(∫β) − 1`` with ``∫β = β_min·t + (β_max − β_min)·t²/2``.

    Args:
        beta_min, beta_max: the rate of noising at t = 0 and t = 1; ``0 < beta_min < beta_max``.

    >>> VP().sigma(torch.tensor([0.0, 0.5, 1.0]))
    tensor([  0.0000,   3.4129, 152.1670])
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self):
        if not 0 < self.beta_min < self.beta_max < math.inf:
            raise ValueError(
                f"beta_min is {self.beta_min} and beta_max {self.beta_max}, expected 0 < beta_min < beta_max"
            )

    def sigma(self, t):
        """Return ``√(exp(∫β) − 1)``."""
        return torch.expm1(self._integral(t)).sqrt()

    def sigma_rate(self, t):
        """Return ``β·(1+σ²)/(2σ)``."""
        rate = self.beta_min + (self.beta_max - self.beta_min) * t
        return rate * torch.exp(self._integral(t)) / (2 * self.sigma(t))

    def time(self, sigma):
        """Return the root of ``∫β = ln(1+σ²)``, in the form that keeps its digits at small σ."""
        total, slope = torch.log1p(sigma**2), self.beta_max - self.beta_min
        return 2 * total / (self.beta_min + (self.beta_min**2 + 2 * slope * total).sqrt())

    def _integral(self, t):
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2


@dataclass(frozen=True, eq=False)
class DDPM(_VariancePreserving):
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
        if table.ndim != 1 or len(table) < 2:
            raise ValueError(f"alphas_cumprod has shape {tuple(table.shape)}, expected (steps,) with at least 2 steps")
        if not ((table > 0) & (table < 1)).all() or not (table.diff() < 0).all():
            raise ValueError(
                f"alphas_cumprod runs from {table[0]:g} to {table[-1]:g}, expected a strictly decreasing table within "
                "(0, 1); for a table of betas use DDPM.from_betas"
            )
        object.__setattr__(self, "alphas_cumprod", table)

    @classmethod
    def from_betas(cls, betas: Tensor) -> "DDPM":
        """Return the process with per-step noise variances ``betas``, ``(steps,)``, each within (0, 1)."""
        return cls((1 - torch.as_tensor(betas, dtype=torch.float64)).cumprod(0))

    @classmethod
    def linear(cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> "DDPM":
        """Return the schedule of Ho et al. 2020: β rises linearly over the steps.

        >>> DDPM.linear().sigma(torch.tensor([0.0, 999.0]))
        tensor([1.0000e-02, 1.5741e+02])
        """
        return cls.from_betas(torch.linspace(beta_start, beta_end, steps, dtype=torch.float64))

    def sigma(self, t):
        """Return σ at time t, an index into the table with ``ln σ`` linear in between."""
        logs, index = self._log_sigmas(t), self._step(t)
        return (logs[index] + (t - index) * (logs[index + 1] - logs[index])).exp()

    def sigma_rate(self, t):
        """Return dσ/dt, constant in ``ln σ`` between two steps of the table."""
        logs, index = self._log_sigmas(t), self._step(t)
        return self.sigma(t) * (logs[index + 1] - logs[index])

    def time(self, sigma):
        """Return the (fractional) index at which the table reaches sigma."""
        logs, level = self._log_sigmas(sigma), sigma.log()
        slack = 1e-5 * (logs[-1] - logs[0])  # rounding in float32 must not refuse the table's own ends
        if not ((level >= logs[0] - slack) & (level <= logs[-1] + slack)).all():
            raise ValueError(
                f"sigma lies between {float(sigma.min()):g} and {float(sigma.max()):g}, expected within the "
                f"{len(logs)}-step table: {float(logs[0].exp()):.4g} to {float(logs[-1].exp()):.4g}"
            )
        index = (torch.searchsorted(logs, level.detach(), right=True) - 1).clamp(0, len(logs) - 2)
        return (index + (level - logs[index]) / (logs[index + 1] - logs[index])).clamp(0, len(logs) - 1)

    def _log_sigmas(self, like: Tensor) -> Tensor:
        return (0.5 * (1 / self.alphas_cumprod - 1).log()).to(like)

    def _step(self, t: Tensor) -> Tensor:
        last = len(self.alphas_cumprod) - 1
        if not ((t >= 0) & (t <= last)).all():
            raise ValueError(f"t lies between {float(t.min()):g} and {float(t.max()):g}, expected 0 to {last}")
        return t.detach().floor().long().clamp(0, last - 1)


@dataclass(frozen=True)
class FlowMatching(Process):
    """The straight path ``x_t = (1 − t)·x0 + t·n``, t in [0, 1]: ``σ = t/(1 − t)`` (Lipman et al. 2023).

    >>> FlowMatching().sigma(torch.tensor([0.0, 0.5, 0.75]))
    tensor([0., 1., 3.])
    """

    def signal(self, t):
        """Return ``1 − t``."""
        return 1 - t

    def noise(self, t):
        """Return t."""
        return t

    def signal_rate(self, t):
        """Return −1."""
        return -torch.ones_like(t)

    def noise_rate(self, t):
        """Return 1."""
        return torch.ones_like(t)

    def time(self, sigma):
        """Return ``σ/(1 + σ)``."""
        return sigma / (1 + sigma)


def _solve_velocity(a, b, a_rate, b_rate):
    """Weights of x_t and v in x0, from ``x_t = a·x0 + b·n`` and ``v = a'·x0 + b'·n``."""
    determinant = a * b_rate - b * a_rate
    return b_rate / determinant, -b / determinant


def _check_levels(n, sigma_min, sigma_max):
    n = check_count(n, "n", 1)
    if not (0 < sigma_min <= sigma_max < math.inf):
        raise ValueError(f"sigma_min is {sigma_min} and sigma_max {sigma_max}, expected 0 < sigma_min <= sigma_max")
    if n > 1 and sigma_min == sigma_max:
        raise ValueError(f"sigma_min and sigma_max are both {sigma_max}, but {n} decreasing levels were asked for")
    return n


def _with_ends(levels, sigma_min, sigma_max):
    """Free the ends of a grid from rounding, and append 0."""
    levels[-1], levels[0] = sigma_min, sigma_max
    return torch.cat([levels, levels.new_zeros(1)])
