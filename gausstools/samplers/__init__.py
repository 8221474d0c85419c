"""Samplers: stateless generators that carry a batch down a grid of noise levels.

Each is called as ``sampler(denoiser, x, sigmas)`` with any denoiser, a VE state ``x`` at ``sigmas[0]``, and a
decreasing 1-D tensor of noise levels that ends in 0 or above it. It yields a :class:`State` after every step, so the
last one is the sample and the list of all is the path.
"""

from gausstools.samplers.one_step import State, euler, heun

__all__ = ["State", "euler", "heun"]
