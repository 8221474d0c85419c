"""The network of the shipped models: diffusers' ``UNet2DModel``, fed with folded images.

Folding (pixel unshuffling) turns blocks of 2×2 pixels into channels, so that the first and costliest layers work on a
quarter of the positions. That is what makes training on a laptop's processor bearable.
"""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from gausstools.denoiser import check_count
from gausstools.networks.imports import import_diffusers

__all__ = ["UNet"]

TIME = 1000.0  # c_noise = ln(σ)/4 is stretched to the range that the sinusoidal embedding resolves, as DDPM's steps are


class UNet(nn.Module):
    """A convolutional network ``F(x, c_noise)`` for images, to be wrapped in :class:`gausstools.networks.EDM`.

    Its last layer begins at zero, so that untrained it answers 0.

    Args:
        event_shape: ``(channels, height, width)``; height and width divisible by ``fold·2^(len(widths) − 1)``.
        widths: channels at each resolution, each half as fine as the one before; up to 8 of them.
        layers: residual blocks at each resolution, up to 32.
        fold: side of the blocks of pixels that become channels; 1 folds nothing.
        attention: at each resolution, whether its blocks attend; the middle one always does.
        groups: of the group normalisation; it must divide each width.

    Raises:
        ImportError: without diffusers.
        ValueError: for numbers that make no network, such as an image size that the resolutions cannot halve.

    >>> import torch
    >>> network = UNet((1, 8, 8), widths=(16, 32), fold=1, groups=8)
    >>> network(torch.ones(2, 1, 8, 8), torch.zeros(2)).abs().max().item()
    0.0
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        widths: Sequence[int] = (64, 128, 128),
        layers: int = 2,
        fold: int = 2,
        attention: Sequence[bool] | None = None,
        groups: int = 32,
    ):
        super().__init__()
        channels, *size = (check_count(length, "event_shape", 1) for length in event_shape)
        check_count(len(widths), "the number of widths", 1, 8)
        for value, name in [*((width, "widths") for width in widths), (fold, "fold"), (groups, "groups")]:
            check_count(value, name, 1)
        check_count(layers, "layers", 1, 32)
        attention = list(attention or (False,) * len(widths))
        self.config = {"event_shape": list(event_shape), "widths": list(widths), "layers": layers, "fold": fold}
        self.config |= {"attention": attention, "groups": groups}
        halved = fold * 2 ** (len(widths) - 1)
        if len(size) != 2 or any(side % halved for side in size):
            raise ValueError(
                f"event_shape is {tuple(event_shape)}, expected (channels, height, width) with sides divisible by "
                f"{halved}: fold {fold}, then {len(widths) - 1} halvings. Use fewer widths, or another fold"
            )
        self.fold = fold
        self.unet = import_diffusers("the network is built from").UNet2DModel(
            sample_size=tuple(side // fold for side in size),
            in_channels=channels * fold**2,
            out_channels=channels * fold**2,
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attention),
            up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attention)),
            attention_head_dim=math.gcd(32, *widths),
            norm_num_groups=groups,
        )
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)

    def forward(
        self, x: Float[Tensor, "batch channels height width"], c_noise: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return F, the shape of ``x``, for scaled images and ``c_noise = ln(σ)/4``, ``(batch,)``."""
        if not len(x):
            return x  # which torch would not fold
        folded = nn.functional.pixel_unshuffle(x, self.fold)
        return nn.functional.pixel_shuffle(self.unet(folded, TIME * c_noise).sample, self.fold)
