"""Analytic score models: distributions whose noised score and denoiser are known in closed form."""

from gausstools.models.base import ScoreModel
from gausstools.models.far_field import FarField, NearestNeighbour
from gausstools.models.gaussian import Gaussian
from gausstools.models.mixture import Mixture
from gausstools.models.moments import Moments
from gausstools.models.pointcloud import PointCloud
from gausstools.models.spectrum import Spectrum
from gausstools.models.streamed import fit_streamed

__all__ = [
    "FarField", "Gaussian", "Mixture", "Moments", "NearestNeighbour", "PointCloud", "ScoreModel", "Spectrum",
    "fit_streamed",
]  # fmt: skip
