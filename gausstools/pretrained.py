"""Trained networks by name or path, each as a denoiser ``D(x, sigma)``.

What is behind a name differs (a process, what the network predicts, the format of the file), and
:func:`gausstools.pretrained.load` hides it: what it returns can be asked like a :class:`gausstools.Gaussian`.
"""

import os
import re
from pathlib import Path

import torch
from torch import nn

from gausstools import shipped
from gausstools.networks import EDM, DiffusersDenoiser, edm_pickle, hub

__all__ = ["load"]


def load(name_or_path: str | os.PathLike, *, device: str | torch.device | None = "cpu") -> nn.Module:
    """Return a trained denoiser ``D(x, sigma) -> E[x0 | x]``, to be asked and not trained.

    Args:
        name_or_path: one of

            - "digits", "mnist" or "cifar10": a small network that comes with this package, trained on that data set;
            - a path that ends in ``.safetensors``: what :meth:`gausstools.networks.EDM.save` wrote;
            - a path that ends in ``.pkl``: a published EDM network, such as ``edm-cifar10-32x32-uncond-vp.pkl``; one
              with classes takes ``labels`` as well, and should be given them: :meth:`gausstools.networks.EDM.forward`
              says what it answers without. The code in the file is not run;
            - a folder: an unconditional model of diffusers, as ``save_pretrained`` wrote it;
            - ``owner/name``: the same on the Hugging Face hub, such as "google/ddpm-cifar10-32".
        device: where it computes; None takes the GPU if there is one. Wherever that is, it takes points from any device
            and answers on theirs.

    Returns:
        An ``nn.Module`` in eval mode, whose parameters need no gradient and which has an ``event_shape``.

    Raises:
        FileNotFoundError: if a file is missing.
        OSError: if a model is not on this machine and cannot be downloaded.
        ValueError: if the name is none of these, or the file holds something that is no such network, or weights that
            are NaN or infinite.

    >>> import tempfile
    >>> from gausstools.networks import UNet
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     EDM(UNet((1, 8, 8), widths=(16, 32), fold=1, groups=8), (1, 8, 8)).save(f"{folder}/mine.safetensors")
    ...     denoiser = load(f"{folder}/mine.safetensors")
    >>> denoiser(torch.ones(1, 1, 8, 8), 0.5).mean()         # untrained: the Gaussian of variance 0.5²
    tensor(0.5000)
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return _find(name_or_path).eval().requires_grad_(False).to(device)


def _find(name_or_path: str | os.PathLike) -> nn.Module:
    name, path = os.fspath(name_or_path), Path(name_or_path)
    if name in shipped.names("network"):
        return EDM.load(shipped.path(f"{name}-network.safetensors"))
    if path.suffix == ".safetensors":
        return EDM.load(path)
    if path.suffix == ".pkl":
        return edm_pickle.load(path)
    if name and path.is_dir():
        return DiffusersDenoiser.load(path)
    if isinstance(name_or_path, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return DiffusersDenoiser.load(hub.download(name))
    known = ", ".join(map(repr, shipped.names("network")))
    raise ValueError(
        f"{name!r} is neither a folder nor a name that is known, expected {known}, a path that ends in .safetensors or "
        ".pkl, the path of a folder that diffusers wrote, or owner/name of a model on the Hugging Face hub"
    )
