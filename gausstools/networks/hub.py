"""Unconditional networks of diffusers, as VE denoisers.

They were trained on a table of discrete steps, with images noised as ``x_t = √ᾱ_t·x0 + √(1 − ᾱ_t)·n``. Between the
steps :class:`gausstools.DDPM` gives a fractional t, which these networks take; what they answer beyond the ends of the
table stands in :meth:`gausstools.Process.denoiser`.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gausstools.denoiser import Sigma, check_batch, check_choice, working_dtype
from gausstools.models import files
from gausstools.networks.imports import import_diffusers
from gausstools.noise import DDPM, Prediction

__all__ = ["DiffusersDenoiser"]

WEIGHTS = "diffusion_pytorch_model"
PLACES = ("", "unet/")  # where a network lies: alone, or within a pipeline
CONSISTENCY = {"CMStochasticIterativeScheduler", "FlowMatchLCMScheduler", "LCMScheduler", "TCDScheduler"}
MOST_STEPS = 10**6  # of a table: what a file asks for is allocated before anything is known of it
LATENT = ("vae", "vqvae", "movq")  # parts of a pipeline whose network does not work on images


class DiffusersDenoiser(nn.Module):
    """A denoiser made of a network that diffusers trained on discrete steps.

    Args:
        network: called as ``UNet2DModel`` is, with ``x_t`` ``(batch, *event)`` and fractional steps t ``(batch,)``; its
            answer has a ``.sample`` in the shape of ``x_t``. It computes in the dtype of its parameters.
        process: the table of noise levels that it was trained on.
        predicts: what it answers: "epsilon", "sample" or "v_prediction".
        event_shape: shape of one image.

    >>> from types import SimpleNamespace
    >>> process = DDPM.linear()
    >>> exact = lambda x_t, t: SimpleNamespace(sample=x_t * process.noise(t)[:, None])     # of a standard normal
    >>> DiffusersDenoiser(exact, process, "epsilon", (2,))(torch.ones(1, 2), 2.0)          # x / (1 + σ²)
    tensor([[0.2000, 0.2000]])
    """

    def __init__(self, network: Callable, process: DDPM, predicts: Prediction, event_shape: Sequence[int]):
        super().__init__()
        check_choice(predicts, "predicts", "epsilon", "sample", "v_prediction")
        self.network = network
        self.process = process
        self.predicts = predicts
        self.event_shape = torch.Size(event_shape)

    def forward(self, x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, "batch *event"]:
        """Return the denoiser ``E[x0 | x_σ = x]`` as the network knows it; ``x`` itself at σ = 0.

        Args:
            x: ``(batch, *event)``.
            sigma: noise level >= 0, a float or ``(batch,)``.
        """
        wide = check_batch(x, self.event_shape).to(working_dtype(x.dtype))
        return self.process.denoiser(self._ask, self.predicts)(wide, sigma).to(x.dtype)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "DiffusersDenoiser":
        """Return the denoiser in a folder that diffusers wrote: on the CPU, to be asked and not trained.

        Args:
            folder: made by ``save_pretrained`` of a ``DDPMPipeline``, ``DDIMPipeline`` or the like; or of a
                ``UNet2DModel``, with the scheduler's ``scheduler_config.json`` beside its ``config.json``.

        Raises:
            ImportError: without diffusers.
            FileNotFoundError: if there is no such folder, or a part of it is missing.
            ValueError: if it holds a conditional or latent model, a scheduler that is no table of steps, or weights
                that are NaN, damaged or of another network.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}")
        parts = _read(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
        if latent := [part for part in LATENT if part in parts]:
            raise ValueError(f"{folder} holds a latent model, with {' and '.join(latent)}; expected one of images")
        home = folder / "unet" if (folder / "unet").is_dir() else folder
        config = _read(home / "config.json")
        shape = _check_network(home / "config.json", config)
        process, predicts = _read_process(folder)
        return cls(_read_network(home, config), process, predicts, shape).eval().requires_grad_(False)

    def _ask(self, x_t: Tensor, t: Tensor) -> Tensor:
        parameters = self.network.parameters() if isinstance(self.network, nn.Module) else ()
        own = next(iter(parameters), x_t)
        # t keeps its own dtype: half precision would round the steps, and the network embeds them in float32 anyway.
        return self.network(x_t.to(own), t.to(own.device)).sample.to(x_t)


def download(name: str) -> Path:
    """Return the local folder of a diffusers model on the Hugging Face hub, after downloading what is not there yet.

    Files are kept in the hub client's own cache. Of the weights only one file comes, safetensors if there are any.

    Args:
        name: ``owner/name``, such as "google/ddpm-cifar10-32".

    Raises:
        ImportError: without huggingface_hub, which comes with diffusers.
        OSError: if it cannot be had: no connection and nothing in the cache, or no such model.
    """
    import_diffusers("models of the Hugging Face hub need")
    from huggingface_hub import snapshot_download

    try:
        for ending in ("safetensors", "bin"):
            weights = [f"{place}{WEIGHTS}.{ending}" for place in PLACES]
            folder = Path(snapshot_download(name, allow_patterns=["*.json", *weights]))
            if any(any((folder / place).glob(f"{WEIGHTS}.*")) for place in PLACES):
                return folder
    except Exception as error:  # the client raises its own kinds, and those of the library that it connects with
        raise OSError(
            f"{name!r} is no folder here, nor to be had from the Hugging Face hub ({' '.join(str(error).split())}). "
            "Connect to the internet and check the name; or download the model elsewhere, with `hf download "
            f"{name} --local-dir FOLDER`, copy the folder here and give its path"
        ) from error
    raise OSError(f"{name!r} on the Hugging Face hub has no {WEIGHTS}.safetensors or .bin, expected one of diffusers")


def _read(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; expected a folder that save_pretrained of diffusers wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no readable JSON of settings; expected what save_pretrained writes")
    return content


def _check_network(path: Path, config: dict) -> tuple[int, int, int]:
    """The shape of an image, if the network is one that takes nothing but images, and their step."""
    needed = {
        "_class_name": "UNet2DModel",
        "time_embedding_type": "positional",
        "out_channels": config.get("in_channels"),
    }
    for name, expected in (needed | {"class_embed_type": None, "num_class_embeds": None}).items():
        if config.get(name, expected) != expected:
            raise ValueError(
                f"{path} states {name} {config[name]!r}, expected {expected!r}: an unconditional UNet2DModel"
            )
    shape = event_shape(config)
    if shape is None:
        raise ValueError(f"{path} states no sample_size, expected pixels along a side, such as 32")
    return shape


def event_shape(config: Mapping) -> tuple[int, int, int] | None:
    """Return the shape ``(channels, height, width)`` of a network's images by its settings; None if they do not say."""
    size = config.get("sample_size")
    sides = size if isinstance(size, list | tuple) else (size, size)
    shape = (config.get("in_channels"), *sides)
    return shape if len(shape) == 3 and all(isinstance(side, int) for side in shape) else None


def _read_network(home: Path, config: dict) -> nn.Module:
    kind, held = import_diffusers("this model is one of").UNet2DModel, sum(f.stat().st_size for f in home.iterdir())
    try:
        with torch.device("meta"):
            entries = sum(weights.numel() for weights in kind.from_config(config).parameters())
        if entries > held:
            raise ValueError(f"its config.json asks for {entries} weights, but the files hold {held} bytes")
        network, report = kind.from_pretrained(
            home, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except Exception as error:  # whatever the settings in the file make of it
        raise ValueError(f"{home} holds no network that diffusers can read: {error}") from error
    # diffusers only warns of these, and leaves random numbers where it finds none.
    wrong = [f"{kind} {names[0]} and {len(names) - 1} more" for kind, names in report.items() if names]
    if wrong:
        raise ValueError(f"{home} holds weights that do not fit its config.json: {'; '.join(wrong)}")
    files.check_weights(network, f"in {home} the")
    return network


def _read_process(folder: Path) -> tuple[DDPM, Prediction]:
    """The table of noise levels that the network was trained on, and what it predicts."""
    home = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    config = _read(home / "scheduler_config.json")
    kind = str(config.get("_class_name"))
    diffusers = import_diffusers("this model is one of")
    try:
        scheduler = getattr(diffusers, kind)
        if not issubclass(scheduler, diffusers.SchedulerMixin) or config.get("num_train_timesteps", 0) > MOST_STEPS:
            raise ValueError(f"expected a scheduler, with num_train_timesteps up to {MOST_STEPS}")
        scheduler = scheduler.from_config(config)
    except Exception as error:  # whatever the settings in the file make of it
        raise ValueError(f"{home} holds a {kind!r} that diffusers cannot build: {error}") from error
    config, table = scheduler.config, getattr(scheduler, "alphas_cumprod", None)
    predicts, continuous = config.get("prediction_type"), config.get("timestep_type") == "continuous"
    levels = config.get("use_flow_sigmas") or (continuous and predicts == "v_prediction")  # Euler's, for v alone
    if table is None or levels or kind in CONSISTENCY or predicts not in ("epsilon", "sample", "v_prediction"):
        raise ValueError(
            f"{home} holds a {kind} of prediction type {predicts!r} that tells its network "
            f"{'noise levels' if levels else 'steps'}. Expected one such as DDPMScheduler, not for distilled "
            "networks: with steps, their table alphas_cumprod, and 'epsilon', 'sample' or 'v_prediction'"
        )
    # Schedules that end in pure noise have ᾱ = 0 there, thus no finite VE level; the step before it is the last.
    return DDPM(table[table > 0].cpu()), predicts
