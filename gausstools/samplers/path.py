"""What the samplers share: what each declares, the grid that they walk down, the state after a step, the evaluations.

A sampler is a generator function under :func:`gausstools.samplers.sampler`, which says what it costs and takes, and
holds what is true of all: a denoiser's answers are looked at, and a state in half precision is carried in float32
between two questions.

A multistep method builds each step from the denoiser's last answers. At its start it has none, so its first steps are
of lower order, unless it is given them: a ``history``. A jump along a Gaussian's closed-form flow has one for nothing,
since the flow passes through every level above (:func:`gausstools.samplers.gaussian_history`).
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gausstools.denoiser import Batch, Denoiser, Levels, Sigma, check_batch, check_shape, check_that, sampler_asks, wide
from gausstools.models.gaussian import Gaussian

__all__ = ["Counted", "Declared", "Evaluation", "State", "declared", "gaussian_history", "sampler"]


@dataclass(frozen=True)
class Evaluation:
    """A question that a denoiser was asked, and its answer: what a multistep method remembers.

    Args:
        x: ``(batch, *event)``, the state that it was given.
        sigma: the noise level of that state, above 0.
        denoised: ``(batch, *event)``, its answer ``D(x, sigma)``.

    >>> import torch, gausstools as gt
    >>> prior, x = gt.Gaussian.isotropic(torch.zeros(1), 1.0), torch.tensor([[2.0]])
    >>> Evaluation(x, 1.0, prior(x, 1.0)).denoised
    tensor([[1.]])
    """

    x: Batch
    sigma: float
    denoised: Batch


@dataclass(frozen=True)
class State:
    """Where a sampler stands after a step, and the evaluation that led there.

    Args:
        x: ``(batch, *event)``, the state at noise level sigma.
        sigma: the noise level that the step reached.
        asked: what the denoiser was asked at the step's start.

    >>> import torch, gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(1), 1.0)
    >>> first, *_, last = gt.samplers.heun(prior, torch.tensor([[80.0]]), gt.karras_sigmas(18))
    >>> round(first.sigma, 2), last.sigma, last.x
    (57.59, 0.0, tensor([[1.0447]]))
    >>> first.asked.sigma, first.denoised                # 80/(1 + 80²)
    (80.0, tensor([[0.0125]]))
    """

    x: Batch
    sigma: float
    asked: Evaluation

    @property
    def denoised(self) -> Batch:
        """What the denoiser answered at the step's start, ``(batch, *event)``."""
        return self.asked.denoised


History = Sequence[Evaluation | State]
"""What was asked and answered at levels above a state, oldest first, or the states of a run."""


class Counted:
    """A denoiser that counts its calls: whatever reports network calls has counted them with it.

    Args:
        denoiser: what answers.

    >>> import torch, gausstools as gt
    >>> prior = Counted(gt.Gaussian.isotropic(torch.zeros(1), 1.0))
    >>> *_, last = gt.samplers.heun(prior, torch.tensor([[80.0]]), gt.karras_sigmas(18))
    >>> prior.calls
    35
    """

    def __init__(self, denoiser: Denoiser):
        self.denoiser, self.calls = denoiser, 0

    def __call__(self, x: Batch, sigma: Sigma) -> Batch:
        """Return the denoiser's answer."""
        self.calls += 1
        return self.denoiser(x, sigma)


@dataclass(frozen=True)
class Declared:
    """What a sampler says of itself.

    Args:
        calls_a_step: network calls of a step; one to 0 takes a single call.
        takes: keywords that it wants to be given: "history" after a jump, "gaussian" or "statistics" always.

    >>> import gausstools as gt
    >>> declared(gt.samplers.heun).calls(gt.karras_sigmas(18)), declared(gt.samplers.unipc).takes
    (35, frozenset({'history'}))
    """

    calls_a_step: int = 1
    takes: frozenset[str] = frozenset()

    def calls(self, sigmas: Levels) -> int:
        """Return how many network calls a grid costs."""
        steps = len(sigmas) - 1
        return steps * self.calls_a_step - (self.calls_a_step - 1) * int(steps > 0 and sigmas[-1] == 0)


def sampler(*, calls_a_step: int = 1, takes: Sequence[str] = ()) -> Callable[[Callable], Callable]:
    """Make a sampler of a generator function ``method(denoiser, x, sigmas, **options)`` that yields states.

    The method is given x in float32 at least, and answers of the denoiser in the dtype and shape of x, the first of
    them finite. What it yields is in the caller's dtype, and its last state is finite. To look at every answer would
    make a GPU wait at each call.

    Args:
        calls_a_step, takes: what :class:`Declared` says.

    >>> import torch
    >>> @sampler()
    ... def mine(denoiser, x, sigmas):
    ...     asked = Evaluation(x, 2.0, denoiser(x, 2.0))
    ...     yield State(asked.denoised, 0.0, asked)
    >>> next(mine(lambda x, sigma: x / sigma, torch.zeros(1, 2), torch.tensor([2.0, 0.0]))).x
    tensor([[0., 0.]])
    >>> next(mine(lambda x, sigma: x / 0, torch.zeros(1, 2), torch.tensor([2.0, 0.0])))
    Traceback (most recent call last):
        ...
    ValueError: the denoiser's first answer holds 2 values that are NaN or infinite, of 2
    """

    def declare(method: Callable) -> Callable:
        @functools.wraps(method)
        def run(denoiser, x, sigmas, **options):
            dtype = check_shape(x).dtype
            states = method(sampler_asks(denoiser, x), wide(x), sigmas, **options)
            for number, state in enumerate(states, 1):
                state = State(state.x.to(dtype), state.sigma, _in_dtype(state.asked, dtype))
                if number == len(sigmas) - 1:
                    check_batch(state.x, name="the last state, to which the denoiser's answers led,")
                yield state

        run.declared = Declared(calls_a_step, frozenset(takes))
        return run

    return declare


def declared(sampler: Callable) -> Declared:
    """Return what a sampler declares, less what ``functools.partial`` has given it already.

    A generator function that declares nothing is taken to ask once a step.

    >>> import functools, torch, gausstools as gt
    >>> known = functools.partial(gt.samplers.gaussian_exponential, gaussian=gt.Gaussian.isotropic(torch.zeros(1), 1.0))
    >>> declared(gt.samplers.gaussian_exponential).takes, declared(known).takes
    (frozenset({'gaussian'}), frozenset())
    """
    if isinstance(sampler, functools.partial):
        inner = declared(sampler.func)
        return replace(inner, takes=inner.takes.difference(sampler.keywords))
    return getattr(sampler, "declared", Declared())


def gaussian_history(gaussian: Gaussian, x: Batch, sigmas: Levels) -> list[Evaluation]:
    """Return the evaluations that a sampler would have left on its way down to ``x``, had all been Gaussian.

    The path through ``x`` is followed upwards by the Gaussian's flow, and the Gaussian's denoiser answers on it.

    Args:
        gaussian: the model whose path it is.
        x: ``(batch, *event)``, the state at the last level, ``sigmas[-1]``.
        sigmas: ``(levels,)``, decreasing, above 0: the levels to evaluate, oldest first, then that of ``x``. With a
            grid cut at level k, ``grid[k - 2 : k + 1]`` gives the two evaluations that a third-order method wants.

    Returns:
        One evaluation for each level but the last, oldest first, so none where nothing lies above x.

    Raises:
        ValueError: for levels that do not decrease or hold NaN.

    >>> import torch, gausstools as gt
    >>> prior = gt.Gaussian.isotropic(torch.zeros(1), 1.0)
    >>> (before,) = gaussian_history(prior, torch.tensor([[2.0]]), torch.tensor([7.0, 1.0]))
    >>> before.x, before.sigma, before.denoised          # 2·√(50/2), and 1/50 of it
    (tensor([[10.]]), 7.0, tensor([[0.2000]]))
    """
    above = [start for start, _ in check_steps(x, sigmas, least=1)]
    level = float(sigmas[-1])
    path = [(gaussian.flow(x, level, sigma), sigma) for sigma in above]
    return [Evaluation(state, sigma, gaussian(state, sigma)) for state, sigma in path]


def check_steps(x: Tensor, sigmas: Tensor, least: int = 2) -> list[tuple[float, float]]:
    """Return the steps of a grid, ``(σ from, σ to)`` as floats, if it is one for the batch x, else raise.

    Raises:
        TypeError: if it is no tensor of real numbers.
        ValueError: if it is not 1-D with so many levels or more, or not finite, strictly decreasing and >= 0.
    """
    check_batch(x)
    if not isinstance(sigmas, Tensor) or sigmas.is_complex():
        given = sigmas.dtype if isinstance(sigmas, Tensor) else type(sigmas).__name__
        raise TypeError(f"sigmas is {given}, expected a 1-D tensor of decreasing noise levels")
    levels = sigmas.detach().cpu().double()
    shape = f"sigmas has shape {tuple(sigmas.shape)}"
    check_that(levels.ndim == 1 and len(levels) >= least, shape, f"(steps + 1,) with at least {least} levels")
    decreasing = levels.isfinite().all() and (levels.diff() < 0).all() and levels[-1] >= 0
    runs = f"sigmas runs {', '.join(f'{level:g}' for level in levels[:2])}, …, {levels[-1]:g}"
    check_that(decreasing, runs, "finite levels, strictly decreasing and >= 0")
    return list(itertools.pairwise(levels.tolist()))


def correctable(above: float, start: float, end: float) -> bool:
    """Return whether a corrector may take the step from above to start again before that from start to end.

    It moves the state at start away from where the denoiser has answered. A polynomial through that answer and one at
    end takes the move for a slope, too steep by as much as the second step is the shorter one: in a grid that holds a
    level twice but for rounding, a million times.
    """
    return end == 0 or math.log(start / end) > 1e-3 * math.log(above / start)


def multistep(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    history: History,
    order: int,
    advance: Callable[[Tensor, float, float, list[Evaluation]], Tensor],
    *,
    corrector: bool = False,
    lower_order_final: bool = False,
) -> Iterator[State]:
    """Walk down a grid by steps ``advance(x, start, end, evaluations)`` from the last evaluations, oldest first.

    With a corrector each step is taken again once its end has been asked about, which is then the last evaluation.
    """
    steps = check_steps(x, sigmas)
    past, before = check_history(history, x, steps[0][0]), None
    for left, (start, end) in zip(range(len(steps), 0, -1), steps, strict=True):
        asked = Evaluation(x, start, denoiser(x, start))
        if before is not None and correctable(before[1], start, end):
            x, above, used = before
            x = advance(x, above, start, [*used, asked])
        past = [*past, asked][-order:]
        used = past[-left:] if lower_order_final else past
        before = (x, start, used) if corrector else None
        x = advance(x, start, end, used)
        yield State(x, end, asked)


def check_history(history: History, x: Tensor, sigma: float) -> list[Evaluation]:
    """Return the evaluations in the dtype of x if they lie above sigma, oldest first, on batches as x, else raise.

    Raises:
        TypeError: if one is neither an :class:`Evaluation` nor a :class:`State`.
        ValueError: if their levels do not decrease to above sigma, or a shape differs from that of x.
    """
    evaluations = [entry.asked if isinstance(entry, State) else entry for entry in history]
    for evaluation in evaluations:
        if not isinstance(evaluation, Evaluation):
            raise TypeError(f"history holds {type(evaluation).__name__}, expected gausstools.samplers.Evaluation")
        for value in (evaluation.x, evaluation.denoised):
            shape = check_batch(value, name="history").shape
            check_that(shape == x.shape, f"history has shape {tuple(shape)}", f"that of x, {tuple(x.shape)}")
    levels = [evaluation.sigma for evaluation in evaluations]
    decreasing = all(above > below for above, below in itertools.pairwise([*levels, sigma]))
    given = f"history has the levels {levels}"
    check_that(decreasing, given, f"them to decrease, oldest first, to above {sigma:g}")
    return [_in_dtype(evaluation, x.dtype) for evaluation in evaluations]


def _in_dtype(evaluation: Evaluation, dtype: torch.dtype) -> Evaluation:
    return replace(evaluation, x=evaluation.x.to(dtype), denoised=evaluation.denoised.to(dtype))
