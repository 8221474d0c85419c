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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gausstools.denoiser import (
    Denoiser,
    check_batch,
    check_choice,
    check_count,
    check_shape,
    check_values,
    working_dtype,
)
from gausstools.models import Gaussian
from gausstools.models.base import ScoreModel
from gausstools.networks import hub
from gausstools.networks.imports import import_diffusers
from gausstools.noise import FlowMatching
from gausstools.teleportation import teleport

diffusers = import_diffusers("gausstools.diffusers bridges to")

__all__ = ["HybridDenoiser", "TeleportPipeline", "Teleported", "signal_and_noise", "teleport_latents"]

_STARTS_ANYWHERE = {
    f"{name}Scheduler" for name in (
        "DDIM", "DDPM", "DEISMultistep", "DPMSolverMultistep", "EDMDPMSolverMultistep", "EDMEuler",
        "EulerAncestralDiscrete", "EulerDiscrete", "FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "HeunDiscrete",
        "KDPM2AncestralDiscrete", "KDPM2Discrete", "LMSDiscrete", "UniPCMultistep",
    )
}  # fmt: skip
"""The schedulers whose run from the middle of a grid was checked against the same run by other means."""

_TURNED = ("HiDreamImage", "Ideogram4", "Lumina", "NucleusMoEImage", "ZImage")
"""Networks of flow matching whose pipelines turn the sign of the answer, most of them the time as well."""

_GAUSSIAN_FILE = "gaussian.safetensors"

_KARRAS = {"use_karras_sigmas": True, "sigma_schedule": "karras"} | dict.fromkeys(
    ("use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"), False
)
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
    return torch.tensor(levels, dtype=torch.float64).unbind(1)


@dataclass(frozen=True)
class Teleported:
    """Where a pipeline starts after a jump: its latents, and the scheduler that goes on from there.

    Args:
        latents: ``(batch, *event)``, what the pipeline takes as ``latents``. It multiplies them by the scheduler's
            ``init_noise_sigma`` itself.
        scheduler: a copy of the pipeline's, whose ``set_timesteps`` leaves out what was skipped.
        sigma: the VE noise level of the latents.
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
    gaussian: ScoreModel,
    noise: Float[Tensor, "batch *event"] | int,
    sigma_skip: float,
    num_inference_steps: int | None = None,
    *,
    grid: Literal["cut", "karras"] = "cut",
    generator: torch.Generator | None = None,
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
            autoencoder's ``scaling_factor``. A Gaussian, or a model that has ``to_gaussian``; with guidance it is
            :func:`gausstools.teleportation.guided`.
        noise: ``(batch, *event)``, standard normal; or a batch size, and it is drawn.
        sigma_skip: VE noise level to jump to.
        num_inference_steps: what the pipeline is given; None where ``sigmas`` or ``timesteps`` say how many.
        grid: "cut" keeps the levels that the pipeline has at ``num_inference_steps``, and starts at the first that is
            not above sigma_skip: fewer calls. "karras" spreads all ``num_inference_steps`` anew between sigma_skip and
            the scheduler's lowest level (Karras et al. 2022, eq. 5): as many calls, closer together.
        generator: draws the noise, if a batch size was given.
        timesteps: what else the pipeline hands to ``set_timesteps``, such as ``sigmas`` or ``mu``. When it then asks
            for another grid than this, the scheduler refuses.

    Raises:
        TypeError: if there is no flow to gaussian.
        ValueError: for a pipeline that takes no latents, or an image as well; a scheduler that is not known to start
            rightly in the middle of its grid; or a sigma_skip that is not within its levels.

    >>> gaussian = Gaussian.isotropic(torch.zeros(1, 2, 2), 0.25)
    >>> noise = torch.ones(1, 1, 2, 2)
    >>> scheduler = diffusers.EulerDiscreteScheduler()
    >>> jump = teleport_latents(scheduler, gaussian, noise, sigma_skip=5.0, num_inference_steps=10)
    >>> state = jump.latents * jump.scheduler.init_noise_sigma
    >>> bool(torch.isclose(state, gaussian.flow(157.4 * noise, 157.4, jump.sigma), rtol=1e-4).all())
    True
    """
    scheduler = copy.deepcopy(_scheduler_of(target))
    check_choice(grid, "grid", "cut", "karras")
    if num_inference_steps is not None:
        timesteps["num_inference_steps"] = check_count(num_inference_steps, "num_inference_steps", 1)
    if not isinstance(gaussian, ScoreModel):
        raise TypeError(f"gaussian is {type(gaussian).__name__}, expected a Gaussian, whose flow is the jump")
    if not isinstance(noise, Tensor):
        shape = (check_count(noise, "noise", 1), *gaussian.event_shape)
        noise = torch.randn(shape, generator=generator, dtype=gaussian.dtype, device=gaussian.mean.device)
    check_batch(noise, gaussian.event_shape, "noise")

    scheduler.set_timesteps(**timesteps)
    signal, spread = signal_and_noise(scheduler)
    sigma_skip = _check_skip(sigma_skip, float(spread[0] / signal[0]))
    weight = float(signal[0] + spread[0])
    x = noise.to(gaussian.mean) * (float(_initial(scheduler)) / weight)

    if grid == "karras":
        straight = torch.allclose(signal + spread, torch.ones_like(spread))
        # from_config drops a sigma_max that the scheduler does not declare; what is registered its set_timesteps finds.
        settings = {"sigma_max": sigma_skip / (1 + sigma_skip) if straight else sigma_skip}
        settings |= {name: value for name, value in _KARRAS.items() if name in scheduler.config}
        scheduler.register_to_config(**settings)
    scheduler.set_timesteps(**timesteps)
    reached, scale = _cut(scheduler, sigma_skip)
    # On a Karras grid, timesteps that were given and those of flow sigmas tell the network a wrong time.
    known = "timesteps" not in timesteps and not scheduler.config.get("use_flow_sigmas")
    if grid == "karras" and not (known and math.isclose(reached, sigma_skip, rel_tol=1e-4)):
        raise ValueError(
            f"{type(scheduler).__name__} does not spread its levels below a given one: asked for {sigma_skip:g} its "
            f"Karras grid starts at {reached:g}, or at a wrong time. Expected grid='cut', or EulerDiscreteScheduler"
        )
    _start_there(scheduler, sigma_skip, reached)
    # Any state a·x0 + s·n is a + s times one of flow matching, at time s/(a + s), also where no signal is left.
    grid_of_flow = torch.tensor([float(spread[0]) / weight, 0.0], dtype=torch.float64)
    jump = teleport(gaussian, x, grid_of_flow, reached, process=FlowMatching())
    latents = (jump.x * (scale * (1 + reached) / float(_initial(scheduler)))).to(noise)
    left = len(scheduler.timesteps)
    return Teleported(latents, scheduler, reached, left, len(signal) - left)


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
            any other, such as one that answers differently for each part of a batch that guidance has stacked. It
            computes on the device of the sample, in float32 at least.
        sigma_skip: VE noise level above which the network is not asked.
        scheduler: the pipeline's own, ``pipe.scheduler``: where it stands tells the noise level of a call.

    Attributes:
        calls: how often the network was asked.
        saved: how often it was not.

    Raises:
        TypeError: if network is no ``nn.Module`` with a parameter ``timestep``, or one whose pipelines turn its answer.
        ValueError: if sigma_skip is not above 0; for a scheduler that does not tell its states, or whose networks
            answer with no posterior mean (those of consistency models); on a call at a timestep that is none of the
            scheduler's.

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

    def __init__(self, network: nn.Module, gaussian: Denoiser, sigma_skip: float, scheduler: Any):
        super().__init__()
        kind = type(network).__name__
        self._signature = inspect.signature(getattr(network, "forward", network))
        if "timestep" not in self._signature.parameters or kind.startswith(_TURNED):
            raise TypeError(
                f"network is {kind}, expected one that takes timestep, and whose answer is not turned round"
            )
        if not callable(gaussian):
            raise TypeError(f"gaussian is {type(gaussian).__name__}, expected a denoiser such as a Gaussian")
        _check_known(scheduler)
        _as_the_network_sees_it(scheduler, 1.0, 1.0)
        self.network = network
        # In a tuple it is no part of this module, which a pipeline may cast to half precision as a whole.
        self._gaussian = (gaussian,)
        self.sigma_skip = _check_skip(sigma_skip)
        self.calls = self.saved = 0
        self._scheduler = scheduler

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the network's answer, or the analytic one in its form: a tuple if ``return_dict`` is False."""
        given = self._signature.bind(*args, **kwargs).arguments
        sample, index = given[next(iter(self._signature.parameters))], _index(self._scheduler, given["timestep"])
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
        (denoiser,) = self._gaussian
        if isinstance(denoiser, nn.Module):
            denoiser.to(sample.device)
        mean = getattr(denoiser, "mean", None)
        x = sample.to(mean.dtype if isinstance(mean, Tensor) else working_dtype(sample.dtype))
        clean = denoiser(x * scale, sigma)
        answer = form(x, clean, (x - signal * clean) / noise).to(sample)
        if self.network.config.get("out_channels") == 2 * self.network.config.get("in_channels", 0):
            if self._scheduler.config.get("variance_type") == "learned":
                raise ValueError("variance_type is 'learned': there is no analytic answer, expected 'learned_range'")
            # Networks that learned a variance return it beside: 0 is the middle of the range that it is a share of.
            answer = torch.cat([answer, torch.zeros_like(answer)], dim=1)
        return answer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)


class TeleportPipeline(diffusers.DiffusionPipeline):
    """Unconditional image generation that starts by a jump.

    ``DDPMPipeline`` and ``DDIMPipeline`` take no latents, so this is what to turn them into::

        pipe = gt.diffusers.TeleportPipeline.from_pipe(pipe, gaussian=gt.shipped.statistics("cifar10"))
        images = pipe(16, num_inference_steps=20, sigma_skip=8.0).images

    ``save_pretrained`` writes the Gaussian beside the rest, and ``from_pretrained`` of such a folder finds it; that of
    another pipeline's folder, or of a name on the hub, takes it as ``gaussian=…``.

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
            raise ValueError(f"gaussian has shape {tuple(gaussian.event_shape)}, expected {shape}, that of the images")
        self.register_modules(unet=unet, scheduler=scheduler)
        self.gaussian = gaussian  # not registered: diffusers would cast it to half precision with the network
        self.nfe = 0

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Write the pipeline into a folder, as diffusers does, and its Gaussian with it."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        self.gaussian.save(Path(save_directory) / _GAUSSIAN_FILE)
        super().save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> "TeleportPipeline":
        """Return a pipeline from a folder or the hub, as diffusers does.

        Args:
            pretrained_model_name_or_path: a folder, or ``owner/name`` on the hub; it may hold another pipeline of
                unconditional networks, such as a ``DDPMPipeline``.
            kwargs: those of diffusers; and ``gaussian``, unless it was saved in the folder.
        """
        saved = Path(pretrained_model_name_or_path) / _GAUSSIAN_FILE
        if "gaussian" not in kwargs and saved.is_file():
            kwargs["gaussian"] = Gaussian.load(saved)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

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
        output_type: Literal["pil", "np", "pt"] = "pil",
    ) -> Any:
        """Return a batch of images, as an ``ImagePipelineOutput``.

        Args:
            batch_size: number of images; where latents are given, there are as many as of them.
            generator: draws the noise; with a list of one for each image, an image depends on its own alone.
            num_inference_steps: steps of the whole grid, of which those above sigma_skip are not taken.
            sigma_skip: VE noise level to jump to; None for an ordinary run.
            latents: ``(batch, *event)``, the standard normal noise to start from instead of drawn one.
            grid: as for :func:`teleport_latents`.
            output_type: "pil", "np" ``(batch, height, width, channels)`` or "pt" ``(batch, channels, height, width)``;
                the latter in [0, 1].

        Raises:
            ValueError: for an argument out of its range, another number of generators than of images, or a run that
                ends in NaN, which no image is made of.
        """
        device, dtype = self._execution_device, self.unet.dtype
        check_choice(output_type, "output_type", "pil", "np", "pt")
        rows = check_count(batch_size, "batch_size", 1) if latents is None else len(latents)
        if isinstance(generator, list) and len(generator) != rows:
            raise ValueError(f"generator is a list of {len(generator)}, expected one for each of {rows} images")
        if latents is None:
            draw, shape = diffusers.utils.torch_utils.randn_tensor, (rows, *self.gaussian.event_shape)
            latents = draw(shape, generator=generator, device=device, dtype=dtype)
        latents = check_batch(latents, self.gaussian.event_shape, "latents").to(device)
        steps = {"num_inference_steps": check_count(num_inference_steps, "num_inference_steps", 1), "device": device}
        if sigma_skip is None:
            scheduler = copy.deepcopy(self.scheduler)
            scheduler.set_timesteps(**steps)
        else:
            jump = teleport_latents(self.scheduler, self.gaussian.to(device), latents, sigma_skip, grid=grid, **steps)
            scheduler, latents = jump.scheduler, jump.latents
        extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
        x = latents.to(dtype) * _initial(scheduler)
        for t in self.progress_bar(scheduler.timesteps):
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(self.unet(scaled, t).sample, t, x, **extra).prev_sample
        self.nfe = len(scheduler.timesteps)
        check_values(x, f"the end of the run, in {dtype},")
        images = diffusers.image_processor.VaeImageProcessor().postprocess(x, output_type)
        self.maybe_free_model_hooks()
        return diffusers.ImagePipelineOutput(images=images)


# ---- reading a scheduler


def _scheduler_of(target: Any) -> Any:
    """A pipeline's scheduler, or the scheduler itself, if it can start in the middle of its grid."""
    if isinstance(target, diffusers.DiffusionPipeline):
        takes = inspect.signature(type(target).__call__).parameters.keys()
        if "latents" not in takes or takes & {"strength", "mask_image"}:
            raise ValueError(
                f"{type(target).__name__} takes no latents, or not as all that it starts from. Put a HybridDenoiser in "
                "the place of its network; or use TeleportPipeline.from_pipe(pipe, gaussian=…) if it is unconditional"
            )
        target = target.scheduler
    if not {base.__name__ for base in type(target).__mro__}.intersection(_STARTS_ANYWHERE):
        raise ValueError(
            f"{type(target).__name__} is not known to start rightly in the middle of its grid, as these schedulers do: "
            f"{', '.join(sorted(_STARTS_ANYWHERE))}. Use one of them, or a HybridDenoiser, which takes others too"
        )
    if "set_timesteps" in vars(target):
        raise ValueError("this scheduler starts after a jump already, expected the pipeline's own")
    return target


def _check_known(scheduler: Any) -> None:
    kind, tells = type(scheduler).__name__, hasattr(scheduler, "add_noise") or hasattr(scheduler, "scale_noise")
    # SASolver adds noise by its table also where its states are those of flow matching.
    if not tells or (kind == "SASolverScheduler" and scheduler.config.get("use_flow_sigmas")):
        raise ValueError(
            f"{kind} does not tell its states by add_noise or scale_noise, expected one such as DDIMScheduler"
        )


def _check_skip(sigma_skip: Any, top: float = math.inf) -> float:
    """The one noise level that it is, above 0, and not above the top where the run starts."""
    level = torch.as_tensor(sigma_skip, dtype=torch.float64)
    if level.numel() != 1 or not 0 < level <= top:
        raise ValueError(f"sigma_skip is {sigma_skip}, expected a VE noise level between 0 and the first, {top:.4g}")
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
    if not hasattr(probe, "scale_noise"):
        return float(probe.add_noise(one, 0 * one, t)), float(probe.add_noise(0 * one, one, t))
    levels = float(probe.scale_noise(one, t, 0 * one)), float(probe.scale_noise(0 * one, t, one))
    # Mochi's time runs the other way, which scale_noise does not know: its 0 is noise.
    return levels[::-1] if scheduler.config.get("invert_sigmas") else levels


def _index(scheduler: Any, timestep: Tensor | float) -> int:
    """The number of the step in which a network is asked at this timestep."""
    asked = torch.as_tensor(timestep).detach().double().reshape(-1).cpu()
    if asked.min() != asked.max():
        raise ValueError(f"timesteps lie between {asked.min():g} and {asked.max():g}, expected one for the whole batch")
    grid = scheduler.timesteps.double().cpu()
    # Some pipelines divide the timestep by the number of training steps, some round it to bfloat16.
    distances = torch.stack([(grid - asked[0] * unit).abs() for unit in (1, scheduler.config.num_train_timesteps)])
    close = distances <= 1e-2 * grid.abs()
    stands = getattr(scheduler, "step_index", len(grid))  # which DDIM and DDPM do not tell
    if stands is None:  # no run has begun: the first step, if none is nearer
        stands, close = getattr(scheduler, "begin_index", None) or 0, close & (distances == distances.amin(1)[:, None])
    if stands < len(grid) and close[:, stands].any():
        return stands
    for distance, near in zip(distances, close, strict=True):
        if near[distance.argmin()]:
            return int(distance.argmin())
    raise ValueError(f"timestep {asked[0]:g} is none of the scheduler's {len(grid)}, expected those of pipe.scheduler")


def _as_the_network_sees_it(scheduler: Any, signal: float, noise: float) -> tuple[float, float, Callable]:
    """The factors a and b of the network's input ``a·x0 + b·n``, and its answer as a function of input, x0 and n."""
    config, lineage = scheduler.config, {base.__name__ for base in type(scheduler).__mro__}
    predicts, straight = config.get("prediction_type"), config.get("use_flow_sigmas")
    if lineage & {"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"}:
        predicts, straight = "flow_prediction", True
    if lineage & hub.CONSISTENCY or config.get("stochastic_sampling"):
        predicts = "the image of a distilled network, no posterior mean"
    forms = {"epsilon": lambda sample, clean, white: white, "sample": lambda sample, clean, white: clean}
    if "sigma_data" in config:
        data, total = config.sigma_data, math.hypot(noise, config.sigma_data)
        turn = total / (noise * data) * (-1 if predicts == "v_prediction" else 1)
        signal, noise = 1 / total, noise / total
        forms = dict.fromkeys(
            ("epsilon", "v_prediction"), lambda sample, clean, _: turn * (clean - data**2 / total * sample)
        )
    elif straight:
        turn = -1 if config.get("invert_sigmas") else 1
        forms["flow_prediction"] = lambda sample, clean, white: turn * (white - clean)
    else:
        # Whatever the scheduler's own scale, its networks were trained on inputs of constant variance.
        total = math.hypot(signal, noise)
        signal, noise = signal / total, noise / total
        forms["v_prediction"] = lambda sample, clean, white: signal * white - noise * clean
    check_choice(predicts, f"what {type(scheduler).__name__} asks its network for", *forms)
    return signal, noise, forms[predicts]


# ---- changing a copy of it


def _cut(scheduler: Any, sigma_skip: float) -> tuple[float, float]:
    """Leave out the steps above sigma_skip; return the level at which it starts now, and its factor a there."""
    signal, noise = signal_and_noise(scheduler)
    # Schedulers of order 2 ask twice a step, so a step begins at every other timestep.
    starts = range(0, len(signal), scheduler.order)
    first = next((index for index in starts if noise[index] <= sigma_skip * (1 + 1e-5) * signal[index]), None)
    if first is None:
        lowest = float(noise[starts[-1]] / signal[starts[-1]])
        raise ValueError(f"sigma_skip is {sigma_skip}, expected {lowest:.4g} at least, where the last step starts")
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
                f"{reached:g}: give teleport_latents its num_inference_steps, sigmas, mu or whatever it sets"
            )

    scheduler.set_timesteps = MethodType(set_timesteps, scheduler)
