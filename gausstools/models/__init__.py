"""Analytic score models: distributions whose noised score and denoiser are known in closed form."""

from gausstools.models.base import ScoreModel
from gausstools.models.gaussian import Gaussian
from gausstools.models.moments import Moments

__all__ = ["Gaussian", "Moments", "ScoreModel"]
