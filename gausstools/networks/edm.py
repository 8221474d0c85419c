"""EDM's preconditioning: a network sees inputs and gives answers of unit variance at every noise level.

Around a raw network F the denoiser is (Karras et al. 2022, eq. 7 and table 1)

``D(x, σ) = c_skip(σ)·x + c_out(σ)·F(c_in(σ)·x, c_noise(σ))``,

with ``c_skip = σ_d²/(σ²+σ_d²)``, ``c_out = σ·σ_d/√(σ²+σ_d²)``, ``c_in = 1/√(σ²+σ_d²)``, ``c_noise = ln(σ)/4`` and σ_d
the standard deviation of the data. Where F answers 0, D is the denoiser of the isotropic Gaussian N(0, σ_d²·I). Another
Gaussian can stand in its place, such as that of the data, ``D(x, σ) = D_G(x, σ) + c_out(σ)·F(c_in(σ)·x, c_noise(σ))``.
"""

import os
from collections.abc import Sequence

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from gausstools.denoiser import Sigma, along_batch, check_batch, check_shape, check_sigma, working_dtype
from gausstools.models import files
from gausstools.models.gaussian import Gaussian
from gausstools.networks.unet import UNet

__all__ = ["EDM"]

GAUSSIAN = "gaussian."  # before the names of its tensors in a file
SMALLEST = 1e-5  # noise levels below look like this one to the network, whose answer then weighs next to nothing


class EDM(nn.Module):
    """A denoiser made of a raw network, by EDM's preconditioning.

    Args:
        network: F, called with scaled images ``(batch, *event)`` and ``c_noise = ln(σ)/4``, ``(batch,)``; it answers
            in the shape of the images. It computes in the dtype and on the device of its parameters, whatever those of
            ``x``; without parameters, in float32 at least. If its attribute ``classes`` is above 0, it takes ``labels``
            as well, ``(batch,)``.
        event_shape: shape of one image.
        sigma_data: σ_d > 0, the standard deviation of the data, in the units of the data.
        gaussian: what D is where the network answers 0, with events of this shape; None is N(0, σ_d²·I). It becomes a
            part of the denoiser, that moves, is copied and is saved with it, and computes in float32 at least.

    Another preconditioning is a subclass with its own ``_scaled(x, level)``, the network's input, ``_skip(x, level)``,
    ``_correction(answer, level)``, what the network adds to it, or ``_c_out(level)``, which weights the loss, for
    levels ``(1 or batch, 1, …)``.

    >>> untrained = EDM(lambda x, c_noise: torch.zeros_like(x), (1, 8, 8), sigma_data=0.5)
    >>> untrained(torch.ones(1, 1, 8, 8), 0.5).mean()        # σ_d²/(σ²+σ_d²)
    tensor(0.5000)
    """

    def __init__(self, network, event_shape: Sequence[int], sigma_data: float = 0.5, gaussian: Gaussian | None = None):
        super().__init__()
        if not 1e-18 < sigma_data < 1e18:
            raise ValueError(f"sigma_data is {sigma_data}, expected a number > 0 whose square float32 can hold")
        self.network = network
        self.event_shape = torch.Size(event_shape)
        self.sigma_data = float(sigma_data)
        if gaussian is not None and gaussian.event_shape != self.event_shape:
            given = tuple(gaussian.event_shape)
            raise ValueError(f"gaussian has events of shape {given}, expected {tuple(event_shape)}")
        self.gaussian = gaussian

    @property
    def classes(self) -> int:
        """How many classes the network can be told, by their labels from 0; 0 if it takes no labels."""
        return getattr(self.network, "classes", 0)

    def forward(
        self, x: Float[Tensor, "batch *event"], sigma: Sigma, labels: Integer[Tensor, " batch"] | int | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Return the denoiser ``E[x0 | x_σ = x]`` as the network knows it; at σ = 0 ``x`` itself, or what its Gaussian
        answers there, which differs from ``x`` in directions without variance.

        ``functools.partial(denoiser, labels=3)`` is the denoiser of one class, which samplers take.

        Args:
            x: ``(batch, *event)``.
            sigma: noise level >= 0, a float or ``(batch,)``.
            labels: the class of each image, ``(batch,)``, or one for all. None tells a network with classes a vector of
                zeros. Unless labels were dropped in training (``label_dropout``), it has never seen that, and answers
                for no mixture of its classes: draw a class for each image instead, as EDM's own sampler does.

        Returns:
            In the dtype of ``x``. The formula is computed in float32 if that is half precision.

        Raises:
            ValueError: for labels that the network does not know, or any if it has no classes.
        """
        return self._denoise(x, check_sigma(sigma, check_batch(x, self.event_shape)), self._told(labels, x))

    def loss(
        self, x0: Float[Tensor, "batch *event"], sigma: Float[Tensor, " batch"], noise: Float[Tensor, "batch *event"]
    ) -> Float[Tensor, ""]:
        """Return EDM's training loss, the mean squared error of F: ``(D − x0)²/c_out²`` (Karras et al. 2022, eq. 8).

        Args:
            x0: clean images ``(batch, *event)``.
            sigma: noise level > 0 of each, ``(batch,)``.
            noise: standard normal, in the shape of x0.

        >>> untrained = EDM(lambda x, c_noise: torch.zeros_like(x), (2,), sigma_data=1.0)
        >>> untrained.loss(torch.zeros(1, 2), torch.tensor([1.0]), torch.ones(1, 2))     # (1/2)²·(1 + 1)
        tensor(0.5000)
        """
        check_shape(x0, self.event_shape, "x0")
        if not len(x0) or noise.shape != x0.shape or sigma.shape != x0.shape[:1]:
            shapes = ", ".join(str(tuple(values.shape)) for values in (x0, sigma, noise))
            raise ValueError(f"x0, sigma and noise have shapes {shapes}, expected images, (batch,) and that of x0")
        x0, noise, sigma = (values.to(working_dtype(values.dtype)) for values in (x0, noise, sigma))
        level = along_batch(sigma, x0)
        missed = self._denoise(x0 + level * noise, sigma) - x0
        return (missed / self._c_out(level)).square().mean()

    def save(
        self, path: str | os.PathLike, dtype: torch.dtype = torch.float32, training: dict[str, object] | None = None
    ) -> None:
        """Write a denoiser around a :class:`gausstools.networks.UNet` as safetensors.

        An interrupted call leaves the old file, or none.

        Args:
            path: the file.
            dtype: of the weights; a Gaussian keeps its own.
            training: what to write beside them of how they were trained, in values that JSON knows.
        """
        settings = {"sigma_data": self.sigma_data, "unet": self.network.config} | (
            {"training": training} if training else {}
        )
        tensors = {name: value.to(dtype) for name, value in self.network.state_dict().items()}
        numbers = {} if self.gaussian is None else self.gaussian.state_dict(prefix=GAUSSIAN)
        files.write(path, "EDM", tensors | numbers, settings)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "EDM":
        """Return the denoiser in a file that ``save`` wrote: on the CPU, in float32, to be asked and not trained.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged or holds something else, or a weight is NaN or infinite.
        """
        tensors, settings = files.read(path, "EDM"), files.read_settings(path, "EDM")
        try:
            with torch.device("meta"):  # shapes only: the settings do not get to allocate what there are no weights for
                network = UNet(**settings["unet"])
            numbers = {name: tensors.pop(name) for name in list(tensors) if name.startswith(GAUSSIAN)}
            gaussian = (
                Gaussian(**{name.removeprefix(GAUSSIAN): value for name, value in numbers.items()}) if numbers else None
            )
            files.fill(network, tensors)
            denoiser = cls(network, network.config["event_shape"], settings["sigma_data"], gaussian)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} is no complete EDM: {str(error)[:1000]}") from error
        return denoiser.eval().requires_grad_(False)

    def _told(self, labels: Tensor | int | None, x: Tensor) -> dict[str, Tensor]:
        """Return what the network is told of classes, as its keyword arguments."""
        if labels is None:
            return {}
        if not self.classes:
            raise ValueError("labels were given, but this network has no classes; leave them out")
        labels = torch.as_tensor(labels, device=x.device)
        odd = labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool
        if odd or labels.shape not in ((), x.shape[:1]):
            given = f"{labels.dtype} of shape {tuple(labels.shape)}"
            raise ValueError(f"labels are {given}, expected integers: one or ({len(x)},)")
        if labels.numel() and not 0 <= labels.min() <= labels.max() < self.classes:
            raise ValueError(f"labels lie from {labels.min()} to {labels.max()}, expected 0 to {self.classes - 1}")
        return {"labels": labels.expand(len(x))}

    def _denoise(self, x: Tensor, levels: Tensor, told: dict[str, Tensor] | None = None) -> Tensor:
        level = along_batch(levels, x)
        parameters = self.network.parameters() if isinstance(self.network, nn.Module) else ()
        own = next(iter(parameters), level)
        c_noise = levels.clamp(min=SMALLEST).log().expand(len(x)) / 4
        told = {name: value.to(own.device) for name, value in (told or {}).items()}
        answer = self.network(self._scaled(x, level).to(own), c_noise.to(own), **told).to(level)
        return (self._skip(x, level) + self._correction(answer, level)).to(x.dtype)

    def _scaled(self, x: Tensor, level: Tensor) -> Tensor:
        """Return ``c_in·x``."""
        return x / (level**2 + self.sigma_data**2).sqrt()

    def _skip(self, x: Tensor, level: Tensor) -> Tensor:
        """Return ``c_skip·x``, or what the Gaussian answers."""
        if self.gaussian is None:
            return self.sigma_data**2 / (level**2 + self.sigma_data**2) * x
        return self.gaussian(x.to(self.gaussian.mean), level.flatten()).to(level)

    def _correction(self, answer: Tensor, level: Tensor) -> Tensor:
        return self._c_out(level) * answer

    def _c_out(self, level: Tensor) -> Tensor:
        return level * self.sigma_data / (level**2 + self.sigma_data**2).sqrt()
