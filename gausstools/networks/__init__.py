"""Neural denoisers: EDM's preconditioning, and the networks that it goes around."""

from gausstools.networks.edm import EDM
from gausstools.networks.unet import UNet

__all__ = ["EDM", "UNet"]
