"""The bridge to Hugging Face diffusers: teleportation in its pipelines, with any of the schedulers that it suits.

A scheduler's state is ``a·x0 + s·n`` for its own a and s; ``σ = s/a`` is its VE noise level (Karras et al. 2022,
appendix B). Above ``σ_skip`` the Gaussian's flow, known in closed form, does what a network would do there (Wang &
Vastola 2024). There are three ways to leave the network out:

* :func:`teleport_latents` makes the state at ``σ_skip`` and a scheduler that starts there, for any pipeline that takes
  ``latents``. It saves the calls;
* :class:`HybridDenoiser` stands in for the pipeline's network and answers analytically above ``σ_skip``. It works also
  in pipelines that take no latents, and with more schedulers;
* :class:`TeleportPipeline` is a pipeline of unconditional networks that does the first by itself.

Noise levels are VE levels everywhere here, whatever the scheduler's own units; "noise" is standard normal.
"""

import contextlib
import copy
import functools
import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any, Literal

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from gausstools.denoiser import Denoiser, check_batch, check_count, check_shape
from gausstools.models import Gaussian
from gausstools.models.base import ScoreModel
from gausstools.networks import DiffusersDenoiser, hub
from gausstools.networks.imports import import_diffusers
from gausstools.noise import FlowMatching, karras_sigmas
from gausstools.teleportation import teleport

diffusers = import_diffusers("gausstools.diffusers bridges to")

__all__ = ["HybridDenoiser", "TeleportPipeline", "Teleported", "signal_and_noise", "teleport_latents"]

_STARTS_ANYWHERE = {
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "UniPCMultistepScheduler",
}
"""The schedulers whose run from the middle of a grid was checked against the same run by other means."""

_REFUSED = {
    "PNDMScheduler": "its first step asks the network twice, at timesteps that its grid repeats, so the rest of its "
    "grid is not a run of its own",
    "DPMSolverSinglestepScheduler": "the order of each of its steps is laid down for the whole grid, so a run from the "
    "middle begins with a step that needs answers of the network from before",
}

_TURNED = {
    "HiDreamImageTransformer2DModel",
    "Ideogram4Transformer2DModel",
    "Lumina2Transformer2DModel",
    "LuminaNextDiT2DModel",
    "NucleusMoEImageTransformer2DModel",
    "ZImageTransformer2DModel",
}
"""Networks of flow matching whose pipelines turn the sign of the answer, most of them the time as well."""

_GAUSSIAN_FILE = "gaussian.safetensors"
_OF_THE_HUB = ("cache_dir", "force_download", "local_files_only", "revision", "token")

_KARRAS = {"use_karras_sigmas": True, "sigma_schedule": "karras"}
_PER_STEP = ("timesteps", "sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down")

_FAR = 1e8
"""In place of an infinite σ, where no signal is left: the spread of images is below float32's rounding there."""


def signal_and_noise(scheduler: Any) -> tuple[Float[Tensor, " steps"], Float[Tensor, " steps"]]:
    """Return a and s of a scheduler's state ``a·x0 + s·n`` at each of its timesteps; the VE noise level is ``s/a``.

    They are read off what the scheduler's own ``add_noise`` or ``scale_noise`` makes of ``x0 = 1, n = 0`` and of
    ``x0 = 0, n = 1``. Where it evaluates between two levels (KDPM2), it is the level of the evaluation.

    Args:
        scheduler: one that has ``add_noise`` or ``scale_noise``, after ``set_timesteps``. It is left as it is.

    Returns:
        ``(steps,)`` each, float64, in the order of ``scheduler.timesteps``.

    Raises:
        ValueError: for a scheduler that does not tell what its states are, such as ``IPNDMScheduler``.

    >>> scheduler = diffusers.DDIMScheduler()
    >>> scheduler.set_timesteps(3)
    >>> signal, noise = signal_and_noise(scheduler)
    >>> noise / signal                                   # at t = 666, 333, 0
    tensor([9.4889, 1.4624, 0.0100], dtype=torch.float64)
    """
    _check_known(scheduler)
    levels = [_signal_and_noise_at(scheduler, index) for index in range(len(scheduler.timesteps))]
    signal, noise = torch.tensor(levels, dtype=torch.float64).T
    return signal, noise


@dataclass(frozen=True)
class Teleported:
    """Where a pipeline starts after a jump: its latents, and the scheduler that goes on from there.

    Args:
        latents: ``(batch, *event)``, what the pipeline takes as ``latents``. It multiplies them by the scheduler's
            ``init_noise_sigma`` itself.
        scheduler: a copy of the pipeline's, whose ``set_timesteps`` leaves out what was skipped.
        sigma: the VE noise level of the latents.
        num_inference_steps: what to give to the pipeline; None where its ``sigmas`` say how many.
        nfe: calls of the network that are left, as many as the scheduler has timesteps.
        nfe_saved: calls that the jump saved, of those that ``num_inference_steps`` cost without it.

    >>> gaussian = Gaussian.isotropic(torch.zeros(1, 8, 8), 0.25)
    >>> jump = teleport_latents(diffusers.DDIMScheduler(), gaussian, 4, sigma_skip=10.0, num_inference_steps=20)
    >>> jump.latents.shape, round(jump.sigma, 2), jump.nfe, jump.nfe_saved
    (torch.Size([4, 1, 8, 8]), 8.52, 14, 6)
    """

    latents: Float[Tensor, "batch *event"]
    scheduler: Any
    sigma: float
    num_inference_steps: int | None
    nfe: int
    nfe_saved: int

    @contextlib.contextmanager
    def on(self, pipe: Any) -> Iterator[Any]:
        """Lend the scheduler to a pipeline: within the ``with`` block only, then the pipeline has its own again.

        For good it is ``pipe.scheduler = jump.scheduler``.
        """
        own = pipe.scheduler
        pipe.scheduler = self.scheduler
        try:
            yield pipe
        finally:
            pipe.scheduler = own


def teleport_latents(
    target: Any,
    gaussian: ScoreModel | Mapping[int, Gaussian],
    noise: Float[Tensor, "batch *event"] | int,
    sigma_skip: float,
    num_inference_steps: int | None = None,
    *,
    grid: Literal["cut", "karras"] = "cut",
    generator: torch.Generator | None = None,
    labels: Integer[Tensor, " batch"] | None = None,
    **timesteps: Any,
) -> Teleported:
    """Carry noise down to ``σ_skip`` by the Gaussian's flow, for a pipeline that goes on from there.

    The jump begins where the pipeline would begin: at the first level of the scheduler's grid, with the noise that it
    would have started from. Nothing that is handed in is changed. An existing pipeline takes three lines::

        jump = gt.diffusers.teleport_latents(pipe, gaussian, 4, sigma_skip=8.0, num_inference_steps=30)
        with jump.on(pipe):
            images = pipe(prompt, latents=jump.latents, num_inference_steps=30).images

    Args:
        target: a pipeline that starts from noise alone, or its scheduler.
        gaussian: of what the network works on, in its scaling and shape: of images in [-1, 1], or of latents times the
            autoencoder's ``scaling_factor``. What :func:`gausstools.teleport` takes, a family by label included; with
            guidance it is :func:`gausstools.teleportation.guided`.
        noise: ``(batch, *event)``, standard normal; or a batch size, and it is drawn.
        sigma_skip: VE noise level to jump to.
        num_inference_steps: what the pipeline is given; None where ``sigmas`` or ``timesteps`` say how many.
        grid: "cut" keeps the levels that the pipeline has at ``num_inference_steps``, and starts at the first that is
            not above sigma_skip: fewer calls. "karras" spreads all ``num_inference_steps`` anew between sigma_skip and
            the scheduler's lowest level (Karras et al. 2022, eq. 5): as many calls, closer together.
        generator: draws the noise, if a batch size was given.
        labels: ``(batch,)``, the class of each row, with a family of Gaussians alone.
        timesteps: what else the pipeline hands to ``set_timesteps``, such as ``sigmas`` or ``mu``. When it then asks
            for another grid than this, the scheduler refuses.

    Raises:
        TypeError: if target is neither a pipeline nor a scheduler, or there is no flow to gaussian.
        ValueError: for a pipeline that takes no latents, or an image as well; a scheduler that does not start rightly
            in the middle of its grid, or that is not known to; a grid that rises; or a sigma_skip that is not within
            its levels.

    >>> gaussian = Gaussian.isotropic(torch.zeros(1, 2, 2), 0.25)
    >>> noise = torch.ones(1, 1, 2, 2)
    >>> scheduler = diffusers.EulerDiscreteScheduler()
    >>> jump = teleport_latents(scheduler, gaussian, noise, sigma_skip=5.0, num_inference_steps=10)
    >>> state = jump.latents * jump.scheduler.init_noise_sigma
    >>> bool(torch.isclose(state, gaussian.flow(157.4 * noise, 157.4, jump.sigma), rtol=1e-4).all())
    True
    """
    scheduler = copy.deepcopy(_scheduler_of(target))
    _check_starts_anywhere(scheduler, timesteps)
    if num_inference_steps is not None:
        check_count(num_inference_steps, "num_inference_steps", 1)
        timesteps = {"num_inference_steps": num_inference_steps, **timesteps}
    several = isinstance(gaussian, Mapping)
    model = next(iter(gaussian.values()), None) if several else gaussian
    if not isinstance(model, ScoreModel):
        raise TypeError(f"gaussian is {type(model).__name__}, expected a gausstools.Gaussian, whose flow is the jump")
    if not isinstance(noise, Tensor):
        shape = (check_count(noise, "noise", 1), *model.event_shape)
        noise = torch.randn(shape, generator=generator, dtype=model.mean.dtype, device=model.mean.device)
    check_batch(noise, model.event_shape, "noise")
    gaussian = {label: _precise(each) for label, each in gaussian.items()} if several else _precise(gaussian)
    device, dtype = model.mean.device, torch.promote_types(model.mean.dtype, torch.float32)

    scheduler.set_timesteps(**timesteps)
    signal, spread = signal_and_noise(scheduler)
    levels = spread / signal
    calls, steps = len(levels), levels[:: scheduler.order]
    if (steps.diff() > 0).any():
        raise ValueError(
            f"the grid of {type(scheduler).__name__} rises from a noise level of {float(steps[0]):.4g} to "
            f"{float(steps.max()):.4g}, expected levels that fall: the jump takes the place of its first steps"
        )
    sigma_skip = _check_skip(sigma_skip, float(levels[0]), type(scheduler).__name__)
    weight = float(signal[0] + spread[0])
    x = noise.to(device, dtype) * (float(_initial(scheduler)) / weight)

    if grid == "karras":
        if "timesteps" in timesteps:
            raise ValueError("timesteps were given with grid='karras', which has its own: expected grid='cut', or none")
        _spread_anew(scheduler, sigma_skip, signal, spread)
    elif grid != "cut":
        raise ValueError(f"grid is {grid!r}, expected 'cut' or 'karras'")
    scheduler.set_timesteps(**timesteps)
    reached, scale = _cut(scheduler, sigma_skip)
    if grid == "karras" and not math.isclose(reached, sigma_skip, rel_tol=1e-4):
        raise ValueError(
            f"{type(scheduler).__name__} does not spread its levels below a given one: asked for {sigma_skip:g} its "
            f"Karras grid starts at {reached:g}. Expected grid='cut', or EulerDiscreteScheduler"
        )
    _start_there(scheduler, sigma_skip, reached)
    # Any state a·x0 + s·n is a + s times one of flow matching, at time s/(a + s), also where no signal is left.
    grid_of_flow = torch.tensor([float(spread[0]) / weight, 0.0], dtype=torch.float64)
    jump = teleport(gaussian, x, grid_of_flow, reached, process=FlowMatching(), labels=labels)
    latents = (jump.x * (scale * (1 + reached) / float(_initial(scheduler)))).to(noise)
    left = len(scheduler.timesteps)
    return Teleported(latents, scheduler, reached, num_inference_steps, left, calls - left)


class HybridDenoiser(nn.Module):
    """A pipeline's network that is asked only at and below ``σ_skip``; above it an analytic denoiser answers.

    A drop-in for ``pipe.unet`` or ``pipe.transformer``, in any pipeline whose scheduler tells what its states are and
    what it expects of the network (ε, x0, v, a flow's velocity, or EDM's F), guidance included: the answer has that
    form. All else that a pipeline reads, such as ``config`` and ``dtype``, is the network's::

        pipe.unet = gt.diffusers.HybridDenoiser(pipe.unet, gaussian, 8.0, pipe.scheduler)
        images = pipe(prompt).images
        pipe.unet = pipe.unet.network                    # as it was; do so before save_pretrained

    Args:
        network: called as ``network(sample, timestep, …)`` in whatever order or by whatever names; it has a parameter
            ``timestep``, and its first is the sample.
        gaussian: denoiser of what the network works on, in its scaling and shape: a :class:`gausstools.Gaussian` or
            any other. Or several, for classifier-free guidance: one for each equal part of the batch, in the order in
            which the pipeline stacks them. These parts hold the same latents; where they do not, the pipeline runs
            without guidance, and the call is refused. It computes on the device of the sample, in float32 at least.
        sigma_skip: VE noise level above which the network is not asked.
        scheduler: the pipeline's own, ``pipe.scheduler``: where it stands tells the noise level of a call.

    Attributes:
        calls: how often the network was asked.
        saved: how often it was not.

    Raises:
        TypeError: if network is no ``nn.Module``, or has no parameter ``timestep``.
        ValueError: if sigma_skip is not above 0; for a scheduler that does not tell its states, or whose networks
            answer with no posterior mean (those of consistency models); on a call at a timestep that is none of the
            scheduler's, or with parts of a batch that differ.

    >>> gaussian = Gaussian.isotropic(torch.zeros(1, 8, 8), 0.25)
    >>> unet = diffusers.UNet2DModel(
    ...     sample_size=8, in_channels=1, out_channels=1, layers_per_block=1,
    ...     block_out_channels=(8,), norm_num_groups=4, down_block_types=("DownBlock2D",),
    ...     up_block_types=("UpBlock2D",),
    ... )
    >>> pipe = diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler())
    >>> pipe.set_progress_bar_config(disable=True)
    >>> pipe.unet = HybridDenoiser(pipe.unet, gaussian, 10.0, pipe.scheduler)
    >>> images = pipe(num_inference_steps=20, output_type="np").images
    >>> images.shape, pipe.unet.calls, pipe.unet.saved
    ((1, 8, 8, 1), 14, 6)
    """

    def __init__(self, network: nn.Module, gaussian: Denoiser | Sequence[Denoiser], sigma_skip: float, scheduler: Any):
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network is {type(network).__name__}, expected an nn.Module, such as pipe.unet")
        if type(network).__name__ in _TURNED:
            raise ValueError(
                f"pipelines turn the sign of what a {type(network).__name__} answers, expected teleport_latents"
            )
        self._signature = inspect.signature(network.forward)
        if "timestep" not in self._signature.parameters:
            raise TypeError(f"{type(network).__name__} has no parameter timestep, expected a network of a pipeline")
        _check_known(scheduler)
        _as_the_network_sees_it(scheduler, 1.0, 1.0)
        self.network = network
        self.sigma_skip = _check_skip(sigma_skip)
        # In a tuple they are no parts of this module, which a pipeline may cast to half precision as a whole.
        several = gaussian if isinstance(gaussian, Sequence) else (gaussian,)
        if not several or not all(map(callable, several)):
            raise TypeError(
                f"gaussian is {type(gaussian).__name__}, expected a denoiser such as a gausstools.Gaussian, or several"
            )
        self._denoisers = tuple(_precise(denoiser) for denoiser in several)
        self._scheduler = scheduler
        self.reset()

    def reset(self) -> None:
        """Set both counts to 0."""
        self.calls = self.saved = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the network's answer, or the analytic one in its form: a tuple if ``return_dict`` is False."""
        given = self._signature.bind(*args, **kwargs).arguments
        sample, index = given[next(iter(self._signature.parameters))], _index(self._scheduler, given["timestep"])
        self._check_parts(sample)
        signal, noise = _signal_and_noise_at(self._scheduler, index)
        if noise <= self.sigma_skip * signal:
            self.calls += 1
            return self.network(*args, **kwargs)
        self.saved += 1
        answer = self._answer(check_shape(sample, name="sample"), signal, noise)
        if not given.get("return_dict", True):
            return (answer,)
        return diffusers.models.unets.unet_2d.UNet2DOutput(sample=answer)

    def _answer(self, sample: Tensor, signal: float, noise: float) -> Tensor:
        """What the network would say of ``sample = a·x0 + b·n`` if the analytic denoiser were right."""
        signal, noise, form = _as_the_network_sees_it(self._scheduler, signal, noise)
        scale, sigma = (1 / signal, noise / signal) if signal > 0 else (_FAR / noise, _FAR)
        parts = sample.chunk(len(self._denoisers))
        clean = torch.cat([_ask(d, part, scale, sigma) for d, part in zip(self._denoisers, parts, strict=True)])
        answer = form(sample.to(clean), clean, (sample.to(clean) - signal * clean) / noise).to(sample)
        config = self.network.config
        if config.get("out_channels") == 2 * config.get("in_channels", 0):
            if self._scheduler.config.get("variance_type") == "learned":
                raise ValueError("variance_type is 'learned': there is no analytic answer, expected 'learned_range'")
            # Networks that learned a variance return it beside: 0 is the middle of the range that it is a share of.
            answer = torch.cat([answer, torch.zeros_like(answer)], dim=1)
        return answer

    def _check_parts(self, sample: Tensor) -> None:
        """Refuse a batch that is not the same latents once for each denoiser, as guidance stacks them."""
        count = len(self._denoisers)
        if count > 1 and not sample.equal(sample[: len(sample) // count].repeat(count, *[1] * (sample.ndim - 1))):
            raise ValueError(
                f"{len(sample)} samples do not fall into {count} equal parts, the same latents once for each Gaussian, "
                "as a pipeline stacks them for guidance. Expected one Gaussian where guidance is off "
                "(guidance_scale=1), or where the pipeline calls its network once for each condition"
            )

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)


class TeleportPipeline(diffusers.DiffusionPipeline):
    """Unconditional image generation that starts by a jump. It saves and loads with its Gaussian.

    ``DDPMPipeline`` and ``DDIMPipeline`` take no latents, so this is what to turn them into::

        pipe = gt.diffusers.TeleportPipeline.from_pipe(pipe, gaussian=gt.shipped.statistics("cifar10"))
        images = pipe(16, num_inference_steps=20, sigma_skip=8.0).images

    Args:
        unet: a ``UNet2DModel``.
        scheduler: any scheduler that :func:`teleport_latents` takes.
        gaussian: of the images, ``(channels, height, width)`` in [-1, 1].

    Attributes:
        nfe: calls of the network in the last run.

    >>> unet = diffusers.UNet2DModel(
    ...     sample_size=8, in_channels=1, out_channels=1, layers_per_block=1,
    ...     block_out_channels=(8,), norm_num_groups=4, down_block_types=("DownBlock2D",),
    ...     up_block_types=("UpBlock2D",),
    ... )
    >>> pipe = diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler())
    >>> pipe = TeleportPipeline.from_pipe(pipe, gaussian=Gaussian.isotropic(torch.zeros(1, 8, 8), 0.25))
    >>> pipe.set_progress_bar_config(disable=True)
    >>> images = pipe(2, num_inference_steps=20, sigma_skip=10.0, output_type="np").images
    >>> images.shape, pipe.nfe
    ((2, 8, 8, 1), 14)
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: diffusers.UNet2DModel, scheduler: Any, gaussian: Gaussian | None = None):
        super().__init__()
        if not isinstance(gaussian, Gaussian):
            raise TypeError(f"gaussian is {type(gaussian).__name__}, expected the gausstools.Gaussian of the images")
        shape = hub.event_shape(getattr(unet, "config", {}))
        if shape and gaussian.event_shape != shape:
            raise ValueError(
                f"gaussian has shape {tuple(gaussian.event_shape)}, expected that of unet's images, {shape}"
            )
        self.register_modules(unet=unet, scheduler=scheduler)
        self.gaussian = gaussian  # not registered: diffusers would cast it to half precision with the network
        self.nfe = 0

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int = 50,
        sigma_skip: float | None = None,
        *,
        latents: Float[Tensor, "batch *event"] | None = None,
        grid: Literal["cut", "karras"] = "cut",
        sampler: Callable | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Return a batch of images, as an ``ImagePipelineOutput``; as a tuple if ``return_dict`` is False.

        Args:
            batch_size: number of images; where latents are given, there are as many as of them.
            generator: draws the noise; with a list of one for each image, an image depends on its own alone.
            num_inference_steps: steps of the whole grid, of which those above sigma_skip are not taken.
            sigma_skip: VE noise level to jump to; None for an ordinary run.
            latents: ``(batch, *event)``, the standard normal noise to start from instead of drawn one.
            grid: as for :func:`teleport_latents`.
            sampler: one of :mod:`gausstools.samplers` in place of the scheduler, with num_inference_steps steps on the
                Karras grid from sigma_skip to the network's lowest level, and then 0. For networks with a table of
                steps. Noise is added by no step.
            output_type: "pil", "np" ``(batch, height, width, channels)`` or "pt" ``(batch, channels, height, width)``;
                the latter in [0, 1].

        Raises:
            ValueError: for an argument out of its range, another number of generators than of images, or a run that
                ends in NaN, which no image is made of.
        """
        device, dtype = self._execution_device, self.unet.dtype
        check_count(num_inference_steps, "num_inference_steps", 1)
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type is {output_type!r}, expected 'pil', 'np' or 'pt'")
        rows = check_count(batch_size, "batch_size", 1) if latents is None else len(latents)
        if isinstance(generator, list) and len(generator) != rows:
            raise ValueError(f"generator is a list of {len(generator)}, expected one for each of {rows} images")
        if latents is None:
            draw, shape = diffusers.utils.torch_utils.randn_tensor, (rows, *self.gaussian.event_shape)
            latents = draw(shape, generator=generator, device=device, dtype=dtype)
        latents = check_batch(latents, self.gaussian.event_shape, "latents").to(device)
        gaussian, counted = _precise(self.gaussian).to(device), []
        counter = self.unet.register_forward_hook(lambda *_: counted.append(1))
        try:
            if sampler is not None:
                x = self._sample(sampler, gaussian, latents, num_inference_steps, sigma_skip)
            elif sigma_skip is None:
                scheduler = copy.deepcopy(self.scheduler)
                scheduler.set_timesteps(num_inference_steps, device=device)
                x = self._run(scheduler, latents.to(dtype), generator)
            else:
                jump = teleport_latents(
                    self.scheduler, gaussian, latents, sigma_skip, num_inference_steps, grid=grid, device=device
                )
                x = self._run(jump.scheduler, jump.latents.to(dtype), generator)
        finally:
            counter.remove()
        self.nfe = len(counted)
        if not x.isfinite().all():
            hub.check_weights(self.unet, "the pipeline")
            raise ValueError(
                f"the run ended in NaN or infinity: expected finite answers of the {type(self.unet).__name__}, whose "
                f"weights are finite. In {dtype} they may overflow; else see the settings of "
                f"{type(self.scheduler).__name__}"
            )
        images = (x / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return diffusers.ImagePipelineOutput(images=images) if return_dict else (images,)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Write the pipeline into a folder, as diffusers does, and the Gaussian beside it."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        self.gaussian.save(Path(save_directory) / _GAUSSIAN_FILE)  # first: the other pushes the folder to the hub
        super().save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> "TeleportPipeline":
        """Return a pipeline from a folder or the hub, as diffusers does.

        Args:
            pretrained_model_name_or_path: a folder, or ``owner/name`` on the hub. It may hold another pipeline of
                unconditional networks, such as a ``DDPMPipeline``.
            kwargs: those of diffusers, which hold for the Gaussian too where they say what to take from the hub, such
                as ``revision`` and ``token``; and ``gaussian``, which is needed where none was saved.

        Raises:
            FileNotFoundError: if no Gaussian was saved with it and none is given.
            ValueError: if weights are NaN or infinite.
        """
        from huggingface_hub import hf_hub_download

        name = os.fspath(pretrained_model_name_or_path)
        if "gaussian" not in kwargs:
            saved, problem = Path(name) / _GAUSSIAN_FILE, None
            if not Path(name).is_dir():
                wanted = {key: kwargs[key] for key in _OF_THE_HUB if key in kwargs}
                try:
                    saved = Path(hf_hub_download(name, _GAUSSIAN_FILE, **wanted))
                except Exception as error:  # of the client's own kinds, and of the library that it connects with
                    problem = error
            if not saved.is_file():
                tried = f", nor on the Hugging Face hub ({' '.join(str(problem).split())})" if problem else ""
                raise FileNotFoundError(
                    f"there is no file {saved}; give the Gaussian of the images, gaussian=…{tried}"
                ) from problem
            kwargs["gaussian"] = Gaussian.load(saved)
        pipe = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        hub.check_weights(pipe.unet, name)
        return pipe

    def _run(self, scheduler: Any, latents: Tensor, generator: Any) -> Tensor:
        """The loop of every pipeline of diffusers."""
        extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
        x = latents * _initial(scheduler)
        for t in self.progress_bar(scheduler.timesteps):
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(self.unet(scaled, t).sample, t, x, **extra).prev_sample
        return x

    def _sample(
        self, sampler: Callable, gaussian: Gaussian, latents: Tensor, steps: int, sigma_skip: float | None
    ) -> Tensor:
        process, predicts = hub.process_of(self.scheduler)
        denoiser = DiffusersDenoiser(self.unet, process, predicts, gaussian.event_shape)
        lowest, highest = process.levels
        start = highest if sigma_skip is None else _check_skip(sigma_skip, highest, "the table of the network")
        # The sampler computes in the Gaussian's precision, the network in its own.
        x = gaussian.flow(latents.to(gaussian.mean) * highest, highest, start)
        *_, last = sampler(denoiser, x, karras_sigmas(steps, lowest, start))
        return last.x.to(latents)


# ---- reading a scheduler


def _scheduler_of(target: Any) -> Any:
    """A pipeline's scheduler, or the scheduler itself."""
    if isinstance(target, diffusers.DiffusionPipeline):
        takes = inspect.signature(type(target).__call__).parameters
        if "latents" not in takes:
            raise ValueError(
                f"{type(target).__name__} takes no latents, so it cannot start from given ones. Use "
                "TeleportPipeline.from_pipe(pipe, gaussian=…) if it is unconditional, or put a HybridDenoiser in the "
                "place of its network"
            )
        if "strength" in takes or "mask_image" in takes:
            raise ValueError(
                f"{type(target).__name__} starts from an image or keeps parts of one, and takes the latents as its "
                "noise. Put a HybridDenoiser in the place of its network; or give pipe.scheduler, if it starts from "
                "noise alone and keeps no part"
            )
        target = target.scheduler
    if not isinstance(target, diffusers.SchedulerMixin):
        raise TypeError(f"expected a pipeline or a scheduler of diffusers, got {type(target).__name__}")
    return target


def _check_starts_anywhere(scheduler: Any, timesteps: dict) -> None:
    name = type(scheduler).__name__
    instead = "Use another scheduler, such as DDIMScheduler, or a HybridDenoiser, which takes most of them"
    if "set_timesteps" in vars(scheduler):
        raise ValueError("this scheduler starts after a jump already, expected the pipeline's own")
    lineage = [base.__name__ for base in type(scheduler).__mro__]
    for base in lineage:
        if base in _REFUSED:
            raise ValueError(f"{name} does not start rightly in the middle of its grid: {_REFUSED[base]}. {instead}")
    if not _STARTS_ANYWHERE.intersection(lineage):
        raise ValueError(
            f"{name} is not known to start rightly in the middle of its grid, as these do: "
            f"{', '.join(sorted(_STARTS_ANYWHERE))}. {instead}"
        )
    if "sigma_data" in scheduler.config and "sigmas" in timesteps:
        raise ValueError(
            f"{name}.set_timesteps takes sigmas for places between 0 and 1 on its Karras grid, not for noise levels. "
            "Expected num_inference_steps, and grid='karras' for levels below sigma_skip"
        )


def _check_known(scheduler: Any) -> None:
    """Refuse a scheduler whose states cannot be read off it."""
    if not (hasattr(scheduler, "add_noise") or hasattr(scheduler, "scale_noise")):
        wrong = "has neither add_noise nor scale_noise, which tell what its states are"
    elif type(scheduler).__name__ == "SASolverScheduler" and scheduler.config.get("use_flow_sigmas"):
        wrong = "adds noise by its table also where its states are those of flow matching"
    else:
        return
    raise ValueError(f"{type(scheduler).__name__} {wrong}. Expected another scheduler, such as DDIMScheduler")


def _check_skip(sigma_skip: Any, top: float | None = None, start: str = "") -> float:
    """The one noise level that it is, above 0, and below the top where the run starts."""
    level = torch.as_tensor(sigma_skip, dtype=torch.float64)
    if level.numel() != 1 or not level > 0 or (top is not None and not level < top):
        between = "> 0" if top is None else f"between 0 and {top:.4g}, where {start} starts"
        raise ValueError(f"sigma_skip is {sigma_skip}, expected a VE noise level {between}")
    return level.item()


def _initial(scheduler: Any) -> float | Tensor:
    """What pipelines multiply latents by; those of flow matching do not."""
    return getattr(scheduler, "init_noise_sigma", 1.0)


def _signal_and_noise_at(scheduler: Any, index: int) -> tuple[float, float]:
    between = getattr(scheduler, "sigmas_interpol", None)
    if between is not None and index % 2:
        # The ancestral one keeps it at the place where the step began.
        return 1.0, float(between[index - hasattr(scheduler, "sigmas_down")])
    if hasattr(scheduler, "mid_point_sigma") and index % 2:
        return 1.0, float(scheduler.sigmas[index - 1 : index + 1].prod().sqrt())  # DPMSolverSDE's mean of two levels
    probe = copy.copy(scheduler)
    if hasattr(probe, "set_begin_index"):
        # Timesteps may repeat, so the place in the grid is told by its number.
        probe._step_index = None
        probe.set_begin_index(index)
    t = scheduler.timesteps[index : index + 1]
    one = torch.ones(1, dtype=torch.float64, device=t.device)
    if hasattr(probe, "scale_noise"):
        levels = float(probe.scale_noise(one, t, 0 * one)), float(probe.scale_noise(0 * one, t, one))
        # Mochi's time runs the other way, which scale_noise does not know: its 0 is noise.
        return levels[::-1] if scheduler.config.get("invert_sigmas") else levels
    return float(probe.add_noise(one, 0 * one, t)), float(probe.add_noise(0 * one, one, t))


def _index(scheduler: Any, timestep: Tensor | float) -> int:
    """The number of the step in which a network is asked at this timestep."""
    asked = torch.as_tensor(timestep).detach().double().reshape(-1).cpu()
    if asked.min() != asked.max():
        raise ValueError(f"timesteps lie between {asked.min():g} and {asked.max():g}, expected one for the whole batch")
    grid = scheduler.timesteps.double().cpu()
    # Some pipelines divide the timestep by the number of training steps, some round it to bfloat16.
    distances = [(grid - asked[0] * unit).abs() for unit in (1, scheduler.config.num_train_timesteps)]
    close = [distance <= 1e-2 * grid.abs() for distance in distances]
    stands = getattr(scheduler, "step_index", None)
    if stands is not None and stands < len(grid) and any(near[stands] for near in close):
        return stands
    nearest = [near & (distance == distance.min()) for near, distance in zip(close, distances, strict=True)]
    for place in (getattr(scheduler, "begin_index", None) or 0, slice(None)):
        for near in nearest:
            if near[place].any():
                return place if isinstance(place, int) else int(near.nonzero()[0])
    raise ValueError(
        f"the network was asked at timestep {asked[0]:g}, which is none of the scheduler's {len(grid)}. Expected the "
        "scheduler that the pipeline runs: make the HybridDenoiser anew, with pipe.scheduler"
    )


def _as_the_network_sees_it(scheduler: Any, signal: float, noise: float) -> tuple[float, float, Callable]:
    """The factors a and b of the network's input ``a·x0 + b·n``, and its answer as a function of input, x0 and n."""
    config, lineage = scheduler.config, {base.__name__ for base in type(scheduler).__mro__}
    name, predicts, straight = type(scheduler).__name__, config.get("prediction_type"), config.get("use_flow_sigmas")
    if lineage & hub.CONSISTENCY or config.get("stochastic_sampling"):
        raise ValueError(
            f"{name} is for distilled networks, which answer with an image and not with the mean of all that are "
            "possible, as an analytic denoiser does: expected another scheduler, or teleport_latents where it takes it"
        )
    if lineage & {"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"}:
        predicts, straight = "flow_prediction", True
    if "sigma_data" in config:
        data = config.sigma_data
        total = math.hypot(noise, data)
        out = noise * data / total * (-1 if predicts == "v_prediction" else 1)
        return 1 / total, noise / total, lambda sample, clean, white: (clean - data**2 / total * sample) / out
    forms = {"epsilon": lambda sample, clean, white: white, "sample": lambda sample, clean, white: clean}
    if straight:
        turn = -1 if config.get("invert_sigmas") else 1
        forms["flow_prediction"] = lambda sample, clean, white: turn * (white - clean)
    else:
        # Whatever the scheduler's own scale, its networks were trained on inputs of constant variance.
        total = math.hypot(signal, noise)
        signal, noise = signal / total, noise / total
        forms["v_prediction"] = lambda sample, clean, white: signal * white - noise * clean
    if predicts not in forms:
        raise ValueError(
            f"{name} with use_flow_sigmas={bool(straight)} asks its network for {predicts!r}, expected one of "
            f"{', '.join(map(repr, forms))}"
        )
    return signal, noise, forms[predicts]


def _precise(model: Any) -> Any:
    """A model of half precision in float32, in which all is computed here; any other as it is."""
    half = isinstance(model, ScoreModel) and model.mean.dtype in (torch.float16, torch.bfloat16)
    return copy.deepcopy(model).float() if half else model


def _ask(denoiser: Denoiser, sample: Tensor, scale: float, sigma: float) -> Tensor:
    if isinstance(denoiser, nn.Module):
        denoiser.to(sample.device)
    mean = getattr(denoiser, "mean", None)
    x = sample.to(mean.dtype if isinstance(mean, Tensor) else torch.promote_types(sample.dtype, torch.float32))
    return denoiser(x * scale, sigma)


# ---- changing a copy of it


def _spread_anew(scheduler: Any, sigma_skip: float, signal: Tensor, noise: Tensor) -> None:
    """Ask for the Karras grid below sigma_skip."""
    if scheduler.config.get("use_flow_sigmas"):
        raise ValueError(
            f"{type(scheduler).__name__} tells the network a wrong time on a Karras grid of flow sigmas: "
            "expected grid='cut', or FlowMatchEulerDiscreteScheduler"
        )
    straight = torch.allclose(signal + noise, torch.ones_like(noise))
    # from_config drops a sigma_max that the scheduler does not declare; what is registered its set_timesteps finds.
    settings = {"sigma_max": sigma_skip / (1 + sigma_skip) if straight else sigma_skip}
    others = ("use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
    settings |= {name: False for name in others if name in scheduler.config}
    settings |= {name: value for name, value in _KARRAS.items() if name in scheduler.config}
    scheduler.register_to_config(**settings)


def _cut(scheduler: Any, sigma_skip: float) -> tuple[float, float]:
    """Leave out the steps above sigma_skip; return the level at which it starts now, and its factor a there."""
    signal, noise = signal_and_noise(scheduler)
    # Schedulers of order 2 ask twice a step, so a step begins at every other timestep.
    starts = range(0, len(signal), scheduler.order)
    first = next((index for index in starts if noise[index] <= sigma_skip * (1 + 1e-5) * signal[index]), None)
    if first is None:
        raise ValueError(
            f"sigma_skip is {sigma_skip}, but the last step of {type(scheduler).__name__} starts at "
            f"{float(noise[starts[-1]] / signal[starts[-1]]):.4g}: expected a higher sigma_skip, or more steps"
        )
    for name in _PER_STEP:
        if hasattr(scheduler, name):
            setattr(scheduler, name, getattr(scheduler, name)[first:])
    if hasattr(scheduler, "set_begin_index"):
        # Without it, a scheduler whose rounded timesteps repeat starts at the second of them.
        scheduler.set_begin_index(0)
    return float(noise[first] / signal[first]), float(signal[first])


def _start_there(scheduler: Any, sigma_skip: float, reached: float) -> None:
    """Make its set_timesteps, which pipelines call, leave the same steps out."""

    @functools.wraps(type(scheduler).set_timesteps)
    def set_timesteps(self, *args, **kwargs):
        type(self).set_timesteps(self, *args, **kwargs)
        start, _ = _cut(self, sigma_skip)
        if not math.isclose(start, reached, rel_tol=1e-4):
            raise ValueError(
                f"the pipeline's grid starts at a noise level of {start:g} below sigma_skip, but the latents stand at "
                f"{reached:g}: expected teleport_latents to be given the pipeline's own num_inference_steps and "
                "whatever else it hands to set_timesteps, such as sigmas or mu"
            )

    scheduler.set_timesteps = MethodType(set_timesteps, scheduler)
