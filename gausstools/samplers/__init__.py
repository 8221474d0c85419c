"""Samplers: stateless generators that carry a batch down a grid of noise levels.

Each is called as ``sampler(denoiser, x, sigmas)`` with any denoiser, a VE state ``x`` at ``sigmas[0]``, and a
decreasing 1-D tensor of noise levels that ends in 0 or above it. It yields a :class:`State` after every step, so the
last one is the sample and the list of all is the path. A state in half precision is carried in float32 from step to
step, and asked about and yielded in half precision. A denoiser that answers NaN is named as the cause, at its first
answer or by the last state.

Each says what it costs and takes (:func:`gausstools.samplers.declared`), with options that ``functools.partial`` gives
it too. Network calls that are reported are counted (:class:`gausstools.samplers.Counted`). Another generator function
becomes a sampler by :func:`gausstools.samplers.sampler`.

A multistep method also takes ``history``: a sequence of :class:`gausstools.samplers.Evaluation`
``(x, sigma, denoised)`` at levels above ``sigmas[0]``, oldest first. With as many as its order less one it starts at
full order; without, each of its first steps is of the order that its evaluations so far allow.
:func:`gausstools.samplers.gaussian_history` fills it after a jump.
:func:`gausstools.samplers.gaussian_exponential` needs none there, since it is told which Gaussian the jump followed.

:func:`gausstools.samplers.dpm_v3` is also told ``statistics`` of its denoiser, which
:class:`gausstools.samplers.ModelStatistics` estimates once and for all.
"""

from gausstools.samplers.dpm_solver_v3 import ModelStatistics, dpm_v3
from gausstools.samplers.exponential import gaussian_exponential
from gausstools.samplers.multistep import dpmpp, ipndm, unipc
from gausstools.samplers.one_step import ddim, euler, heun
from gausstools.samplers.path import Counted, Declared, Evaluation, State, declared, gaussian_history, sampler

__all__ = [
    "Counted",
    "Declared",
    "Evaluation",
    "ModelStatistics",
    "State",
    "ddim",
    "declared",
    "dpm_v3",
    "dpmpp",
    "euler",
    "gaussian_exponential",
    "gaussian_history",
    "heun",
    "ipndm",
    "sampler",
    "unipc",
]
