"""EDM's preconditioning: a network sees inputs and answers of unit variance at every noise level.

Around a raw network F the denoiser is (Karras et al. 2022, eq. 7 and table 1)

``D(x, σ) = c_skip(σ)·x + c_out(σ)·F(c_in(σ)·x, c_noise(σ))``,

with ``c_skip = σ_d²/(σ²+σ_d²)``, ``c_out = σ·σ_d/√(σ²+σ_d²)``, ``c_in = 1/√(σ²+σ_d²)``, ``c_noise = ln(σ)/4`` and σ_d the
standard deviation of the data. Where F answers 0, D is the denoiser of the isotropic Gaussian N(0, σ_d²·I).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gausstools.denoiser import Sigma, along_batch, check_batch, check_sigma

__all__ = ["EDM", "loss"]

SMALLEST = 1e-5  # noise levels below look like this one to the network, whose answer then weighs next to nothing


class EDM(nn.Module):
    """A denoiser made of a raw network, by EDM's preconditioning.

    Args:
        network: F, called with scaled images ``(batch, *event)`` and ``c_noise = ln(σ)/4``, ``(batch,)``; it answers
            in the shape of the images. It computes in the dtype of its parameters, whatever the dtype of ``x``.
        event_shape: shape of one image.
        sigma_data: σ_d, the standard deviation of the data, in the units of the data.

    >>> untrained = EDM(lambda x, c_noise: torch.zeros_like(x), (1, 8, 8), sigma_data=0.5)
    >>> untrained(torch.ones(1, 1, 8, 8), 0.5).mean().item()        # σ_d²/(σ²+σ_d²)
    0.5
    """

    def __init__(self, network, event_shape, sigma_data: float = 0.5):
        super().__init__()
        self.network = network
        self.event_shape = torch.Size(event_shape)
        self.sigma_data = float(sigma_data)

    def forward(self, x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, "batch *event"]:
        """Return the denoiser ``E[x0 | x_σ = x]`` as the network knows it; ``x`` itself at σ = 0.

        Args:
            x: ``(batch, *event)``.
            sigma: noise level >= 0, a float or ``(batch,)``.
        """
        levels = check_sigma(sigma, check_batch(x, self.event_shape))
        level = along_batch(levels, x)
        total = (level**2 + self.sigma_data**2).sqrt()
        like = next((value for value in _tensors(self.network) if value.is_floating_point()), x)
        noise = levels.clamp(min=SMALLEST).log().expand(len(x)) / 4
        answer = self.network((x / total).to(like.dtype), noise.to(like.dtype)).to(x.dtype)
        return (self.sigma_data / total) ** 2 * x + level * self.sigma_data / total * answer


def loss(
    denoiser: EDM,
    x0: Float[Tensor, "batch *event"],
    sigma: Float[Tensor, " batch"],
    noise: Float[Tensor, "batch *event"],
) -> Float[Tensor, ""]:
    """Return EDM's training loss, the squared error of F: ``mean of (D − x0)²/c_out²`` (Karras et al. 2022, eq. 8).

    Args:
        denoiser: the network that is trained.
        x0: clean images ``(batch, *event)``.
        sigma: noise level > 0 of each, ``(batch,)``.
        noise: standard normal, the shape of x0.

    >>> untrained = EDM(lambda x, c_noise: torch.zeros_like(x), (2,), sigma_data=1.0)
    >>> loss(untrained, torch.zeros(1, 2), torch.tensor([1.0]), torch.ones(1, 2)).item()     # (1/2)²/(1/2)
    0.5
    """
    level = along_batch(sigma, x0)
    missed = denoiser(x0 + level * noise, sigma) - x0
    return (missed.square() * (1 / level**2 + 1 / denoiser.sigma_data**2)).mean()


def _tensors(network):
    return network.parameters() if isinstance(network, nn.Module) else iter(())
