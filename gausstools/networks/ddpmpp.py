"""DDPM++ and NCSN++, the networks of the published EDM models for CIFAR-10, FFHQ and AFHQv2.

A U-Net of residual blocks with one attention head at low resolution (Song et al. 2021, appendix H, as adjusted by
Karras et al. 2022, appendix C). A block with input h and time embedding e returns

``(skip(h) + conv1(silu(norm1(conv0(silu(norm0(h))) + affine(e)))))/√2``,

and where it attends, ``(h + proj(attention(qkv(norm2(h)))))/√2`` of that. Of n classes, the label of an image adds
``W(√n·onehot) + b`` to the waves from which its time embedding is made. Parameters are named as in the published
files, so that :mod:`gausstools.networks.edm_pickle` can fill them in.
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
LONGEST = 10_000  # wavelength of the embedding, of which the shortest is 1
TINY = 1e-5  # gain of the layers that end a branch: untrained, a block returns little but its input


class DDPMpp(nn.Module):
    """A raw network ``F(x, c_noise)`` for square images, to be wrapped in :class:`gausstools.networks.EDM`.

    The arguments are those that the published files state. Their defaults are DDPM++. NCSN++ has
    ``embedding_type="fourier"``, ``channel_mult_noise=2``, ``encoder_type="residual"`` and
    ``resample_filter=(1, 3, 3, 1)``.

    Args:
        img_resolution: pixels along a side, divisible by ``2^(len(channel_mult) − 1)``.
        in_channels, out_channels: of the image and of the answer.
        label_dim: number of classes, 0 for a network that is told none; it is kept as ``classes``.
        augment_dim: length of the vector that tells the network how a training image was augmented, 0 for none.
        model_channels: the unit of width, divisible by 4.
        channel_mult: width at each resolution in that unit, each resolution half as fine as the one before.
        channel_mult_emb, channel_mult_noise: length of the time embedding, and of the waves that it is made from.
        num_blocks: residual blocks at each resolution.
        attn_resolutions: resolutions (pixels along a side) whose blocks attend. The middle one always does.
        dropout: probability that a block drops a feature, in training.
        label_dropout: how often a label was hidden in training; of no effect here.
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
        if not 1 <= len(multiples) <= 8 or side % 2 ** (len(multiples) - 1):
            raise ValueError(
                f"img_resolution is {side} and channel_mult {multiples}, expected a resolution that can be halved "
                f"{max(len(multiples) - 1, 0)} times, and 1 to 8 multiples"
            )
        if width % 4:
            raise ValueError(f"model_channels is {width}, expected a multiple of 4: features are normalised in fours")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout!r}, expected a probability below 1")
        taps = [float(tap) for tap in resample_filter]
        if len(taps) not in (2, 4, 6, 8) or not math.isfinite(sum(taps)) or sum(taps) == 0:
            raise ValueError(f"resample_filter is {taps}, expected 2, 4, 6 or 8 taps with a sum that is not 0")

        self.event_shape = torch.Size((check_count(in_channels, "in_channels", 1, 64), side, side))
        waves = width * check_count(channel_mult_noise, "channel_mult_noise", 1, 64)
        embedding = width * check_count(channel_mult_emb, "channel_mult_emb", 1, 64)
        self.map_noise = _Waves(waves) if embedding_type == "positional" else _RandomWaves(waves)
        self.classes = check_count(label_dim, "label_dim", 0, 4096)
        if self.classes:
            self.map_label = nn.Linear(self.classes, waves)
        if check_count(augment_dim, "augment_dim", 0, 4096):
            self.map_augment = nn.Linear(augment_dim, waves, bias=False)
        self.map_layer0 = nn.Linear(waves, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)

        def block(narrow: int, wide: int, **options) -> _Block:
            return _Block(narrow, wide, embedding, dropout=dropout, taps=taps, **options)

        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        attn_resolutions = set(attn_resolutions)
        sides = [side >> level for level in range(len(multiples))]
        features, seen = width, in_channels  # of the image as the residual encoder has it so far: seen
        passed = []  # widths that the encoder passes to the decoder
        for level, (here, multiple) in enumerate(zip(sides, multiples, strict=True)):
            if level == 0:
                self.enc[f"{here}x{here}_conv"] = _Conv(in_channels, features, 3)
            else:
                self.enc[f"{here}x{here}_down"] = block(features, features, resample="down")
                if encoder_type == "residual":
                    self.enc[f"{here}x{here}_aux_residual"] = _Shrink(seen, features, taps)
                    seen = features
            passed.append(features)
            for index in range(blocks):
                self.enc[f"{here}x{here}_block{index}"] = block(
                    features, width * multiple, attends=here in attn_resolutions
                )
                features = width * multiple
                passed.append(features)
        for level, (here, multiple) in reversed([*enumerate(zip(sides, multiples, strict=True))]):
            if level == len(sides) - 1:
                self.dec[f"{here}x{here}_in0"] = block(features, features, attends=True)
                self.dec[f"{here}x{here}_in1"] = block(features, features)
            else:
                self.dec[f"{here}x{here}_up"] = block(features, features, resample="up")
            for index in range(blocks + 1):
                self.dec[f"{here}x{here}_block{index}"] = block(
                    features + passed.pop(), width * multiple, attends=index == blocks and here in attn_resolutions
                )
                features = width * multiple
        self.dec[f"{side}x{side}_aux_norm"] = _norm(features)
        self.dec[f"{side}x{side}_aux_conv"] = _Conv(
            features, check_count(out_channels, "out_channels", 1, 64), 3, gain=TINY
        )
        for layer in (module for module in self.modules() if isinstance(module, nn.Linear)):
            _initialise(layer)

    def published(self) -> dict[str, tuple[str, dict[str, float | int]]]:
        """Return what a published file says of each layer, by name: its class, and constants that it computes with."""
        return {name: _published(layer) for name, layer in self.named_modules()}

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        c_noise: Float[Tensor, " batch"],
        augment: Float[Tensor, "batch augment"] | None = None,
        labels: Integer[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch out height width"]:
        """Return F for scaled images ``(batch, *event_shape)`` and ``c_noise = ln(σ)/4``, ``(batch,)``.

        Args:
            x: the images.
            c_noise: the noise level.
            augment: ``(batch, augment_dim)``, how each image was augmented in training; None for not at all.
            labels: ``(batch,)``, the class of each, from 0, for a network with classes; None is no class in particular.
        """
        waves = self.map_noise(c_noise)
        if self.classes:
            told = x.new_zeros(len(x), self.classes)
            if labels is not None:
                told[torch.arange(len(x)), labels] = math.sqrt(self.classes)
            waves = waves + self.map_label(told)
        if augment is not None:
            waves = waves + self.map_augment(augment)
        embedding = functional.silu(self.map_layer1(functional.silu(self.map_layer0(waves))))

        passed, image = [], x
        for name, layer in self.enc.items():
            if name.endswith("_aux_residual"):
                x = passed[-1] = image = HALF * (x + layer(image))
            else:
                x = layer(x, embedding) if isinstance(layer, _Block) else layer(x)
                passed.append(x)
        for name, layer in self.dec.items():
            if "_block" in name:
                x = torch.cat([x, passed.pop()], dim=1)
            if name.endswith("_aux_conv"):
                x = functional.silu(x)
            x = layer(x, embedding) if isinstance(layer, _Block) else layer(x)
        return x


class _Block(nn.Module):
    """A residual block, which may halve or double the resolution, and may attend."""

    def __init__(
        self,
        narrow: int,
        wide: int,
        embedding: int,
        *,
        dropout: float | int,
        taps: Sequence[float | int],
        resample: str | None = None,
        attends: bool = False,
    ):
        super().__init__()
        self.dropout = dropout
        self.norm0 = _norm(narrow)
        self.conv0 = _Conv(narrow, wide, 3, resample, taps)
        self.affine = nn.Linear(embedding, wide)
        self.norm1 = _norm(wide)
        self.conv1 = _Conv(wide, wide, 3, gain=TINY)
        self.skip = _Conv(narrow, wide, 1, resample, taps) if resample or narrow != wide else None
        self.attends = attends
        if attends:
            self.norm2 = _norm(wide)
            self.qkv = _Conv(wide, 3 * wide, 1, gain=math.sqrt(0.2))
            self.proj = _Conv(wide, wide, 1, gain=TINY)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(functional.silu(self.norm0(x))) + self.affine(embedding)[:, :, None, None]
        h = functional.dropout(functional.silu(self.norm1(h)), self.dropout, self.training)
        x = HALF * (self.conv1(h) + (x if self.skip is None else self.skip(x)))
        return HALF * (x + self.proj(_attend(self.qkv(self.norm2(x))))) if self.attends else x


class _Conv(nn.Conv2d):
    """A convolution that keeps the resolution, after a filter that halves or doubles it."""

    def __init__(
        self,
        narrow: int,
        wide: int,
        kernel: int,
        resample: str | None = None,
        taps: Sequence[float | int] = (1, 1),
        gain: float = 1.0,
    ):
        super().__init__(narrow, wide, kernel, padding=kernel // 2)
        self.resample = resample
        if resample:
            self.register_buffer("resample_filter", _filter(taps))
        _initialise(self, gain)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_RESAMPLE[self.resample](x, self.resample_filter) if self.resample else x)


class _Shrink(_Conv):
    """The same layer when it halves the residual encoder's image: first the convolution, then the filter."""

    def __init__(self, narrow: int, wide: int, taps: Sequence[float | int]):
        super().__init__(narrow, wide, 3, "down", taps)

    def forward(self, x: Tensor) -> Tensor:
        # The convolution sees the zeros around the image once, wide enough for both.
        border = (self.resample_filter.shape[-1] - 1) // 2
        return _halve(functional.conv2d(x, self.weight, self.bias, padding=1 + border), self.resample_filter, padding=0)


class _Waves(nn.Module):
    """Sines and cosines of c_noise with wavelengths in a geometric series (Vaswani et al. 2017)."""

    def __init__(self, length: int):
        super().__init__()
        self.length = length

    def forward(self, c_noise: Tensor) -> Tensor:
        count = self.length // 2
        phases = c_noise[:, None] * float(LONGEST) ** -torch.linspace(
            0, 1, count, dtype=c_noise.dtype, device=c_noise.device
        )
        return torch.cat([phases.sin(), phases.cos()], dim=1)


class _RandomWaves(nn.Module):
    """Sines and cosines of c_noise with random frequencies (Tancik et al. 2020)."""

    def __init__(self, length: int):
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(length // 2))

    def forward(self, c_noise: Tensor) -> Tensor:
        phases = 2 * math.pi * c_noise[:, None] * self.freqs
        return torch.cat([phases.sin(), phases.cos()], dim=1)


def _published(layer: nn.Module) -> tuple[str, dict[str, float | int]]:
    match layer:
        case _Block():
            constants = {"in_channels": layer.conv0.in_channels, "num_heads": int(layer.attends)}
            return "UNetBlock", constants | {"skip_scale": HALF, "adaptive_scale": False}
        case _Conv():
            constants = {"in_channels": layer.in_channels, "out_channels": layer.out_channels}
            resampling = {"up": layer.resample == "up", "down": layer.resample == "down"}
            return "Conv2d", constants | resampling | {"fused_resample": isinstance(layer, _Shrink)}
        case nn.GroupNorm():
            return "GroupNorm", {"num_groups": layer.num_groups, "eps": layer.eps}
        case nn.Linear():
            return "Linear", {"in_features": layer.in_features}
        case _Waves():
            return "PositionalEmbedding", {"num_channels": layer.length, "max_positions": LONGEST, "endpoint": True}
    return {DDPMpp: "SongUNet", _RandomWaves: "FourierEmbedding"}.get(type(layer), "ModuleDict"), {}


def _attend(qkv: Tensor) -> Tensor:
    """One head of self-attention over the pixels; in ``(batch, 3C, height, width)`` q, k and v alternate."""
    batch, channels, height, width = qkv.shape
    q, k, v = qkv.reshape(batch, channels // 3, 3, height * width).permute(2, 0, 3, 1)
    attended = functional.scaled_dot_product_attention(q, k, v)
    return attended.transpose(1, 2).reshape(batch, channels // 3, height, width)


def _filter(taps: Sequence[float | int]) -> Tensor:
    """The separable filter ``(1, 1, taps, taps)``, with sum 1."""
    line = torch.tensor(taps, dtype=torch.float32)
    return (line[:, None] * line / line.sum().square())[None, None]


def _halve(x: Tensor, kernel: Tensor, padding: int | None = None) -> Tensor:
    channels = x.shape[1]
    padding = (kernel.shape[-1] - 1) // 2 if padding is None else padding
    return functional.conv2d(x, kernel.expand(channels, -1, -1, -1), stride=2, padding=padding, groups=channels)


def _double(x: Tensor, kernel: Tensor) -> Tensor:
    channels, padding = x.shape[1], (kernel.shape[-1] - 1) // 2
    kernel = 4 * kernel.expand(channels, -1, -1, -1)  # each pixel is spread over four
    return functional.conv_transpose2d(x, kernel, stride=2, padding=padding, groups=channels)


_RESAMPLE = {"down": _halve, "up": _double}


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-6)


def _initialise(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> None:
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
