"""Closed-form Gaussian models of diffusion scores, and what they buy.

Everything inside is variance-exploding: ``x_σ = x0 + σ·n`` with images in [-1, 1]. A *denoiser* is any callable
``D(x, sigma) -> E[x0 | x]``; models, wrapped networks and samplers all speak it. The paper behind the library is
Wang & Vastola, "The Unreasonable Effectiveness of Gaussian Score Approximation for Diffusion Models and its
Applications", arXiv 2412.09726.

>>> import torch, gausstools as gt
>>> model = gt.Gaussian.fit(torch.randn(500, 1, 8, 8))
>>> noise = 80.0 * torch.randn(4, 1, 8, 8)
>>> model.flow(noise, 80.0, 0.0).shape          # sampling, solved in closed form
torch.Size([4, 1, 8, 8])

Names are imported when they are first used, so that ``import gausstools`` costs little and a chapter depends only on
the modules that it touches.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "DDPM": "noise",
    "Denoiser": "denoiser",
    "FarField": "models.far_field",
    "FlowMatching": "noise",
    "Gaussian": "models.gaussian",
    "Mixture": "models.mixture",
    "Moments": "models.moments",
    "NearestNeighbour": "models.far_field",
    "PointCloud": "models.pointcloud",
    "Process": "noise",
    "Spectrum": "models.spectrum",
    "VE": "noise",
    "VP": "noise",
    "choose_skip": "teleportation",
    "evaluation_points": "compare",
    "karras_sigmas": "noise",
    "log_uniform_sigmas": "noise",
    "residuals": "compare",
    "score": "denoiser",
    "teleport": "teleportation",
    "unexplained": "compare",
    "unexplained_by_rank": "compare",
}
_MODULES = (
    "compare",
    "convergence",
    "datasets",
    "denoiser",
    "diffusers",
    "features",
    "figures",
    "models",
    "networks",
    "noise",
    "pretrained",
    "samplers",
    "shipped",
    "teleportation",
    "theory",
    "training",
)

__all__ = ["__version__", *sorted(_HOME), *_MODULES]


def __getattr__(name):
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module 'gausstools' has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
