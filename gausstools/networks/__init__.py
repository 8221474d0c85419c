"""Neural denoisers: EDM's preconditioning, the networks that it goes around, and those of others, wrapped."""

from gausstools.networks.ddpmpp import DDPMpp
from gausstools.networks.edm import EDM
from gausstools.networks.hub import DiffusersDenoiser
from gausstools.networks.unet import UNet

__all__ = ["EDM", "DDPMpp", "DiffusersDenoiser", "UNet"]
