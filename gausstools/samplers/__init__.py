"""Samplers: stateless generators that carry a batch down a grid of noise levels.

Each is called as ``sampler(denoiser, x, sigmas)``, and yields a :class:`gausstools.samplers.State` after every step, so
the last one is the sample and the list of all is the path. What is true of all is said here, and their own pages give
what differs.

* ``denoiser``: any denoiser. One that answers NaN, or in another shape, is named as the cause, at its first answer or
  by the last state.
* ``x``: ``(batch, *event)``, the state at ``sigmas[0]``, in VE. In half precision it is carried in float32 from step to
  step, and asked about and yielded in half precision.
* ``sigmas``: ``(steps + 1,)``, decreasing; 0 may stand at the end only. A grid that does not decrease, holds NaN or has
  fewer than 2 levels is a ``ValueError``.
* ``history``, of a multistep method: a sequence of :class:`gausstools.samplers.Evaluation` at levels above
  ``sigmas[0]``, oldest first, or of the states of another run, the path of any sampler. With as many as its order less
  one it starts at full order; without, each of its first steps is of the order that its evaluations so far allow.
  :func:`gausstools.samplers.gaussian_history` fills it after a jump. :func:`gausstools.samplers.gaussian_exponential`
  needs none there, since it is told which Gaussian the jump followed.
* ``order``, of a multistep method: how many answers a step uses, where it has them.
* ``corrector``: take each step again once its end has been asked about. The states that are yielded are the predicted
  ones, where the denoiser is asked.

Each says what it costs and takes (:func:`gausstools.samplers.declared`), and ``functools.partial``, which gives it
options, keeps that. Network calls that are reported are counted (:class:`gausstools.samplers.Counted`). Another
generator function becomes a sampler by :func:`gausstools.samplers.sampler`. An option that is none of those listed is a
``ValueError``.
"""

from gausstools.samplers.dpm_solver_v3 import ModelStatistics, dpm_v3
from gausstools.samplers.exponential import gaussian_exponential
from gausstools.samplers.multistep import dpmpp, ipndm, unipc
from gausstools.samplers.one_step import ddim, euler, heun
from gausstools.samplers.path import Counted, Declared, Evaluation, State, declared, gaussian_history, sampler

__all__ = [
    "Counted", "Declared", "Evaluation", "ModelStatistics", "State", "ddim", "declared", "dpm_v3", "dpmpp", "euler",
    "gaussian_exponential", "gaussian_history", "heun", "ipndm", "sampler", "unipc",
]  # fmt: skip
