"""Multistep methods for the probability-flow ODE ``dx/dσ = (x − D)/σ``: one network call a step, past ones reused.

Two ways to write its solution over a step from a to b put the network's answers under an integral:

* data prediction, with ``λ = −ln σ`` and ``h = ln(a/b)`` (Lu et al. 2022, DPM-Solver++, proposition 4.1):
  ``x(b) = (b/a)·x(a) + ∫ e^{λ − λ(b)} D dλ``;
* noise prediction: ``x(b) = x(a) + ∫ ε dσ`` with ``ε = (x − D)/σ``.

A method replaces D or ε by the polynomial through its evaluations, at places t in units of the step (0 where it
starts, 1 where it ends, below 0 in the past). So a method is its nodes and its moments ``∫ t^k`` under the integral's
weight: :func:`_weights` gives what each evaluation counts. With exact moments, p nodes give order p, and the published
methods differ from that in a moment or two, which each states.

No polynomial in λ can be followed to σ = 0, where λ is infinite: in data prediction, a step to 0 lands on D.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from gausstools.denoiser import Batch, Denoiser, Levels, check_choice, check_count
from gausstools.samplers.path import Evaluation, History, State, multistep, sampler

__all__ = ["dpmpp", "ipndm", "unipc"]


@sampler(takes=["history"])
def dpmpp(
    denoiser: Denoiser,
    x: Batch,
    sigmas: Levels,
    *,
    order: int = 2,
    weights: Literal["published", "exact"] = "published",
    lower_order_final: bool = False,
    history: History = (),
) -> Iterator[State]:
    """DPM-Solver++, multistep: the polynomial in ``ln σ`` through the last answers (Lu et al. 2022, algorithm 2).

    Order 1 is Euler's method, order 2 the 2M of the paper, order 3 the 3M of its authors' code.

    Args:
        order: 1, 2 or 3: how many answers a step uses, where it has them.
        weights: "published" are those of the authors' code and of diffusers. In 2M they take ``∫ t`` as half of
            ``∫ 1`` (the midpoint rule); in 3M they take half of ``∫ t²``, which leaves 3M of second order. "exact"
            integrates the polynomial exactly: the exponential Adams-Bashforth method, of third order with 3.
        lower_order_final: bound the order by the number of steps left, as the authors advise below 15 steps.

    >>> import torch, gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> *_, last = dpmpp(prior, 80 * torch.ones(1, 2), gt.log_uniform_sigmas(40))
    >>> last.x                                           # the exact flow ends at 80/√(1+80²) = 0.9999
    tensor([[1.0044, 1.0044]])
    """
    order = check_count(order, "order", 1, 3)
    check_choice(weights, "weights", "published", "exact")

    def approximate(moments):
        if weights == "published" and len(moments) == 2:
            moments[1] = moments[0] / 2
        if weights == "published" and len(moments) == 3:
            moments[2] /= 2

    options = {"lower_order_final": lower_order_final}
    yield from multistep(denoiser, x, sigmas, history, order, _data_prediction(approximate), **options)


@sampler(takes=["history"])
def unipc(
    denoiser: Denoiser,
    x: Batch,
    sigmas: Levels,
    *,
    order: int = 2,
    lower_order_final: bool = False,
    history: History = (),
) -> Iterator[State]:
    """UniPC in data prediction: a predictor, and a corrector that costs no call (Zhao et al. 2023, section 3).

    The answer at a predicted state also tells how the step that led there should have gone. The corrector takes that
    step again with it, and the next step starts from the corrected state; the answer is kept, not asked for again. So
    a method of order p reaches p + 1. The x at ``sigmas[0]`` is taken as it is: the first to be corrected is the next.

    Of the paper's variants it is B₂, ``B(h) = 1 − e^{−h}``: half of it stands for ``∫ t`` where that is the one moment
    left to match, in a prediction of order 2 and a correction of order 1.

    Args:
        order: 1 to 4: how many answers a prediction uses, where it has them.
        lower_order_final: bound the order by the number of steps left.

    >>> import torch, gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> *_, last = unipc(prior, 80 * torch.ones(1, 2), gt.log_uniform_sigmas(40))
    >>> last.x                                           # the exact flow ends at 80/√(1+80²) = 0.9999
    tensor([[1.0015, 1.0015]])
    """
    order = check_count(order, "order", 1, 4)

    def approximate(moments):
        if len(moments) == 2:
            moments[1] = moments[0] / 2

    options = {"corrector": True, "lower_order_final": lower_order_final}
    yield from multistep(denoiser, x, sigmas, history, order, _data_prediction(approximate), **options)


@sampler(takes=["history"])
def ipndm(
    denoiser: Denoiser, x: Batch, sigmas: Levels, *, order: int = 4, variable_step: bool = False, history: History = ()
) -> Iterator[State]:
    """iPNDM: Adams-Bashforth on the slope ``ε = (x − D)/σ`` (Zhang & Chen 2022, after the PNDM of Liu et al. 2022).

    Unlike PNDM it needs no Runge-Kutta start: the first steps are of lower order.

    Args:
        order: 1 to 4: how many slopes a step uses, where it has them.
        variable_step: False takes the classical weights (3/2, −1/2), (23, −16, 5)/12, …, made for equal steps: on
            another smooth grid the order is 2 at most. True takes those of the actual levels, of full order on any
            grid: the ρAB-DEIS of Zhang & Chen. A step to 0, which can be many times as long as those before it, is
            then of order 1: the polynomial cannot be followed that far.

    >>> import torch, gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> *_, last = ipndm(prior, 80 * torch.ones(1, 2), gt.log_uniform_sigmas(40))
    >>> last.x                                           # the exact flow ends at 80/√(1+80²) = 0.9999
    tensor([[1.0032, 1.0032]])
    """
    order = check_count(order, "order", 1, 4)

    def advance(x, start, end, used):
        nodes = [1.0 - age for age in range(len(used), 0, -1)]
        if variable_step:
            used = used[-1:] if end == 0 else used
            nodes = [(e.sigma - start) / (end - start) for e in used]
        for weight, e in zip(_weights(nodes, [1 / (k + 1) for k in range(len(nodes))]), used, strict=True):
            x = x + (end - start) * weight * ((e.x - e.denoised) / e.sigma)
        return x

    yield from multistep(denoiser, x, sigmas, history, order, advance)


def _data_prediction(approximate: Callable[[list[float]], None]) -> Callable:
    """Return the step for which D is the polynomial in ``ln σ`` through its values, some of its moments changed."""

    def advance(x: Tensor, start: float, end: float, used: list[Evaluation]) -> Tensor:
        if end == 0:
            return used[-1].denoised
        h = math.log(start / end)
        moments = _moments(h, len(used))
        approximate(moments)
        nodes = [math.log(start / e.sigma) / h for e in used]
        x = (end / start) * x
        for weight, e in zip(_weights(nodes, moments), used, strict=True):
            x = x + weight * e.denoised
        return x

    return advance


def _moments(h: float, count: int) -> list[float]:
    """Return ``∫ t^k e^{λ − λ(end)} dλ`` over a step of length h, t running from 0 to 1, for k below count."""
    if h < 1:  # the recurrence below loses digits like k!/h^k
        return [
            h * sum((-h) ** j * math.factorial(k) / math.factorial(j + k + 1) for j in range(20)) for k in range(count)
        ]
    moments = [-math.expm1(-h)]
    for k in range(1, count):
        moments.append(1 - k / h * moments[-1])
    return moments


def _weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Return the weights that integrate each power ``t^k``, sampled at the nodes, to its moment."""
    powers = torch.tensor([[node**k for node in nodes] for k in range(len(moments))], dtype=torch.float64)
    return torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64)).tolist()
