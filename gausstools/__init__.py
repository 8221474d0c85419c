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

_NAMES = {
    "compare": ("evaluation_points", "residuals", "unexplained", "unexplained_by_rank"),
    "convergence": (),
    "datasets": (),
    "denoiser": ("Denoiser", "score"),
    "diffusers": (),
    "features": (),
    "figures": (),
    "models": ("FarField", "Gaussian", "Mixture", "Moments", "NearestNeighbour", "PointCloud", "Spectrum"),
    "networks": (),
    "noise": ("DDPM", "FlowMatching", "Process", "VE", "VP", "karras_sigmas", "log_uniform_sigmas"),
    "pretrained": (),
    "samplers": (),
    "shipped": (),
    "teleportation": ("choose_skip", "teleport"),
    "theory": (),
    "training": (),
}
"""The modules, and the names that each lends to the package."""

_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME), *_NAMES]


def __getattr__(name):
    if name not in _HOME and name not in _NAMES:
        raise AttributeError(f"module 'gausstools' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = importlib.import_module(f"{__name__}.{_HOME.get(name, name)}")
    globals()[name] = value = getattr(module, name) if name in _HOME else module
    return value


def __dir__():
    return sorted(__all__)
