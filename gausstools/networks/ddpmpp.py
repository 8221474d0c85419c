"""DDPM++ and NCSN++, the networks of the published EDM models for CIFAR-10, FFHQ and AFHQv2.

A U-Net of residual blocks with one attention head at low resolution (Song et al. 2021, appendix H, as adjusted by
Karras et al. 2022, appendix C). A block with input h and time embedding e returns

``(skip(h) + conv1(silu(norm1(conv0(silu(norm0(h))) + affine(e)))))/√2``,

and where it attends, ``(h + proj(attention(qkv(norm2(h)))))/√2`` of that. Of n classes, the label of an image adds
``W(√n·onehot) + b`` to the waves from which its time embedding is made.

Parameters, classes of layers and the constants of these are named as in the published files, so that
:mod:`gausstools.networks.edm_pickle` can fill in the former and compare the latter.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional

from gausstools.denoiser import check_choice, check_count

__all__ = ["DDPMpp"]

HALF = math.sqrt(0.5)  # the sum of two branches of unit variance has unit variance again


class DDPMpp(nn.Module):
    """A raw network ``F(x, c_noise)`` for square images, to be wrapped in :class:`gausstools.networks.EDM`.

    The arguments are those that the published files state. Their defaults are DDPM++. NCSN++ has
    ``embedding_type="fourier"``, ``channel_mult_noise=2``, ``encoder_type="residual"`` and
    ``resample_filter=(1, 3, 3, 1)``. Such networks are read here and not trained: the first weights are PyTorch's, and
    nothing is dropped.

    Args:
        img_resolution: pixels along a side, divisible by ``2^(len(channel_mult) − 1)``.
        in_channels, out_channels: of the image and of the answer.
        label_dim: number of classes, 0 for a network that is told none; it is kept as ``classes``.
        augment_dim: length of the vector that told the network how a training image was augmented, 0 for none. Its
            weights are kept; of no effect here.
        model_channels: the unit of width, divisible by 4.
        channel_mult: width at each resolution in that unit, each resolution half as fine as the one before.
        channel_mult_emb, channel_mult_noise: length of the time embedding, and of the waves that it is made from.
        num_blocks: residual blocks at each resolution.
        attn_resolutions: resolutions (pixels along a side) whose blocks attend. The middle one always does.
        dropout, label_dropout: how often features and labels were hidden in training; of no effect here.
        embedding_type: "positional" (fixed wavelengths) or "fourier" (random ones).
        encoder_type: "standard", or "residual", which adds the shrunken image to the features of each resolution.
        decoder_type: "standard".
        resample_filter: taps of the filter that halves and doubles the resolution, an even number of them.

    Raises:
        ValueError: for arguments that make no network, or one that is not built here.

    >>> network = DDPMpp(8, 1, 1, model_channels=8, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[4])
    >>> network(torch.zeros(2, 1, 8, 8), torch.zeros(2)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float | int = 0.1,
        label_dropout: float | int = 0.0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[float | int] = (1, 1),
    ):
        super().__init__()
        check_choice(embedding_type, "embedding_type", "positional", "fourier")
        check_choice(encoder_type, "encoder_type", "standard", "residual")
        check_choice(decoder_type, "decoder_type", "standard")
        # The upper ends are far above any published network. They keep a hostile file from asking for too much.
        side = check_count(img_resolution, "img_resolution", 1, 4096)
        width = check_count(model_channels, "model_channels", 4, 4096)
        multiples = [check_count(value, "channel_mult", 1, 64) for value in channel_mult]
        blocks = check_count(num_blocks, "num_blocks", 1, 32)
        halved = check_count(len(multiples), "the length of channel_mult", 1, 8) - 1
        if side % 2**halved:
            raise ValueError(f"img_resolution is {side}, expected one that channel_mult can halve {halved} times")
        if width % 4:
            raise ValueError(f"model_channels is {width}, expected a multiple of 4: features are normalised in fours")
        taps = [float(tap) for tap in resample_filter]
        if len(taps) not in (2, 4, 6, 8) or not math.isfinite(sum(taps)) or sum(taps) == 0:
            raise ValueError(f"resample_filter is {taps}, expected 2, 4, 6 or 8 taps with a sum that is not 0")

        self.event_shape = torch.Size((check_count(in_channels, "in_channels", 1, 64), side, side))
        waves = width * check_count(channel_mult_noise, "channel_mult_noise", 1, 64)
        embedding = width * check_count(channel_mult_emb, "channel_mult_emb", 1, 64)
        self.map_noise = (_PositionalEmbedding if embedding_type == "positional" else _FourierEmbedding)(waves)
        self.classes = check_count(label_dim, "label_dim", 0, 4096)
        if self.classes:
            self.map_label = nn.Linear(self.classes, waves)
        if check_count(augment_dim, "augment_dim", 0, 4096):
            self.map_augment = nn.Linear(augment_dim, waves, bias=False)
        self.map_layer0 = nn.Linear(waves, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)

        def block(narrow: int, wide: int, **options) -> _UNetBlock:
            return _UNetBlock(narrow, wide, embedding, taps, **options)

        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        levels = [(side >> level, width * multiple) for level, multiple in enumerate(multiples)]
        features, seen = width, in_channels  # of the image as the residual encoder has it so far: seen
        passed = []  # widths that the encoder passes to the decoder
        for here, wide in levels:
            if here == side:
                self.enc[f"{here}x{here}_conv"] = _Conv2d(in_channels, features, 3)
            else:
                self.enc[f"{here}x{here}_down"] = block(features, features, resample="down")
                if encoder_type == "residual":
                    self.enc[f"{here}x{here}_aux_residual"] = _Conv2d(seen, features, 3, taps, "fused")
                    seen = features
            passed.append(features)
            for index in range(blocks):
                self.enc[f"{here}x{here}_block{index}"] = block(features, wide, attends=here in attn_resolutions)
                features = wide
                passed.append(features)
        for here, wide in reversed(levels):
            if here == side >> halved:
                self.dec[f"{here}x{here}_in0"] = block(features, features, attends=True)
                self.dec[f"{here}x{here}_in1"] = block(features, features)
            else:
                self.dec[f"{here}x{here}_up"] = block(features, features, resample="up")
            for index in range(blocks + 1):
                attends = index == blocks and here in attn_resolutions
                self.dec[f"{here}x{here}_block{index}"] = block(features + passed.pop(), wide, attends=attends)
                features = wide
        self.dec[f"{side}x{side}_aux_norm"] = _norm(features)
        self.dec[f"{side}x{side}_aux_conv"] = _Conv2d(features, check_count(out_channels, "out_channels", 1, 64), 3)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        c_noise: Float[Tensor, " batch"],
        labels: Integer[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch out height width"]:
        """Return F for scaled images ``(batch, *event_shape)`` and ``c_noise = ln(σ)/4``, ``(batch,)``.

        Args:
            x: the images.
            c_noise: the noise level.
            labels: ``(batch,)``, the class of each, from 0, for a network with classes; None is no class in particular.
        """
        waves = self.map_noise(c_noise)
        if self.classes:
            waves = waves + self.map_label.bias
        if labels is not None:
            waves = waves + math.sqrt(self.classes) * self.map_label.weight.T[labels.long()]
        embedding = functional.silu(self.map_layer1(functional.silu(self.map_layer0(waves))))

        passed, image = [], x
        for name, layer in self.enc.items():
            if name.endswith("_aux_residual"):
                x = passed[-1] = image = HALF * (x + layer(image))
            else:
                x = layer(x, embedding) if isinstance(layer, _UNetBlock) else layer(x)
                passed.append(x)
        for name, layer in self.dec.items():
            if "_block" in name:
                x = torch.cat([x, passed.pop()], dim=1)
            if name.endswith("_aux_conv"):
                x = functional.silu(x)
            x = layer(x, embedding) if isinstance(layer, _UNetBlock) else layer(x)
        return x


class _UNetBlock(nn.Module):
    """A residual block, which may halve or double the resolution, and may attend."""

    def __init__(self, narrow: int, wide: int, embedding: int, taps: list, resample: str = "", attends: bool = False):
        super().__init__()
        self.skip_scale, self.adaptive_scale, self.num_heads = HALF, False, int(attends)
        self.norm0 = _norm(narrow)
        self.conv0 = _Conv2d(narrow, wide, 3, taps, resample)
        self.affine = nn.Linear(embedding, wide)
        self.norm1 = _norm(wide)
        self.conv1 = _Conv2d(wide, wide, 3)
        self.skip = _Conv2d(narrow, wide, 1, taps, resample) if resample or narrow != wide else None
        if attends:
            self.norm2 = _norm(wide)
            self.qkv = _Conv2d(wide, 3 * wide, 1)
            self.proj = _Conv2d(wide, wide, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(functional.silu(self.norm0(x))) + self.affine(embedding)[:, :, None, None]
        h = self.conv1(functional.silu(self.norm1(h)))
        x = self.skip_scale * (h + (x if self.skip is None else self.skip(x)))
        return self.skip_scale * (x + self.proj(_attend(self.qkv(self.norm2(x))))) if self.num_heads else x


class _Conv2d(nn.Conv2d):
    """A convolution, after a filter that halves or doubles the resolution; if that is "fused", before it."""

    def __init__(self, narrow: int, wide: int, kernel: int, taps: list | None = None, resample: str = ""):
        super().__init__(narrow, wide, kernel, padding=kernel // 2)
        self.up, self.down, self.fused_resample = resample == "up", resample in ("down", "fused"), resample == "fused"
        if resample:
            line = torch.tensor(taps, dtype=torch.float32)
            self.register_buffer("resample_filter", (line[:, None] * line / line.sum().square())[None, None])

    def forward(self, x: Tensor) -> Tensor:
        if not (self.up or self.down):
            return super().forward(x)
        border, kernel = (self.resample_filter.shape[-1] - 1) // 2, self.resample_filter
        if self.fused_resample:
            # The convolution sees the zeros around the image once, wide enough for both.
            x, border = functional.conv2d(x, self.weight, self.bias, padding=1 + border), 0
        filtered = functional.conv_transpose2d if self.up else functional.conv2d
        kernel = (4 * kernel if self.up else kernel).expand(x.shape[1], -1, -1, -1)  # up, a pixel is spread over four
        x = filtered(x, kernel, stride=2, padding=border, groups=x.shape[1])
        return x if self.fused_resample else super().forward(x)


class _PositionalEmbedding(nn.Module):
    """Sines and cosines of c_noise with wavelengths in a geometric series from 1 (Vaswani et al. 2017)."""

    def __init__(self, length: int):
        super().__init__()
        self.num_channels, self.max_positions, self.endpoint = length, 10_000, True

    def forward(self, c_noise: Tensor) -> Tensor:
        powers = torch.linspace(0, 1, self.num_channels // 2, dtype=c_noise.dtype, device=c_noise.device)
        phases = c_noise[:, None] * float(self.max_positions) ** -powers
        return torch.cat([phases.sin(), phases.cos()], dim=1)


class _FourierEmbedding(nn.Module):
    """Sines and cosines of c_noise with random frequencies (Tancik et al. 2020)."""

    def __init__(self, length: int):
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(length // 2))

    def forward(self, c_noise: Tensor) -> Tensor:
        phases = 2 * math.pi * c_noise[:, None] * self.freqs
        return torch.cat([phases.sin(), phases.cos()], dim=1)


def _attend(qkv: Tensor) -> Tensor:
    """One head of self-attention over the pixels; in ``(batch, 3C, height, width)`` q, k and v alternate."""
    batch, channels, height, width = qkv.shape
    q, k, v = qkv.reshape(batch, channels // 3, 3, height * width).permute(2, 0, 3, 1)
    attended = functional.scaled_dot_product_attention(q, k, v)
    return attended.transpose(1, 2).reshape(batch, channels // 3, height, width)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-6)
