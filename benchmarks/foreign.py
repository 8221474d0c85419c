"""What the models leave of a network that nobody here trained, along its training: `python -m benchmarks.foreign FILE`.

FILE holds thirteen checkpoints of a small network on MNIST (github.com/james-hughes1/diffusion-mnist, MIT licence),
weights only; `data/foreign.md` says what network it is. It is rebuilt here, without any code of its author. The table
goes to data/foreign-residuals.csv; the weights stay where they are.
"""

import argparse
import csv
import io
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

import gausstools as gt
from gausstools.models import files
from gausstools.training import SIGMAS

IMAGES_AN_EPOCH = 48_000  # four fifths of MNIST's training images
BATCH = 128
EVENT_SHAPE = (1, 28, 28)
PROCESS = gt.DDPM(gt.DDPM.linear(1001).alphas_cumprod[1:1000])  # it was trained at t = 1 to 999 of this table
COLUMNS = ("images", "steps", "images_from", "model", "sigma", "score", "denoiser", "score_error", "denoiser_error")
COLUMNS += ("loss", "loss_error", "network_loss", "network_loss_error", "points")


class Network(nn.Module):
    """The network in the file: it predicts the noise in images of [-0.5, 0.5], ``(batch, 1, 28, 28)``."""

    def __init__(self):
        super().__init__()
        channels = (1, 16, 32, 32, 16)
        blocks = [
            nn.ModuleDict({"net": nn.Sequential(nn.Conv2d(before, after, 7, padding=3), nn.LayerNorm((28, 28)))})
            for before, after in pairwise(channels)
        ]
        self.blocks = nn.ModuleList([*blocks, nn.Conv2d(16, 1, 3, padding=1)])
        widths = (32, 128, 128, 128, 16)
        linear = [nn.Linear(before, after) for before, after in pairwise(widths)]
        self.time_embed = nn.Sequential(*(part for layer in linear for part in (layer, nn.GELU())))[:-1]
        self.register_buffer("frequencies", torch.zeros(16))

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """Return the noise in x at steps ``(batch,)``, indices into the table of ``PROCESS``."""
        angle = (step[:, None] + 1) / 1000 * self.frequencies
        embedded = self.time_embed(torch.cat([angle.sin(), angle.cos() - 1], 1))[..., None, None]
        for index, block in enumerate(self.blocks[:-1]):
            x = nn.functional.gelu(block["net"](x)) + (embedded if index == 0 else 0)
        return self.blocks[-1](x)


def checkpoints(file: Path) -> dict[int, gt.Denoiser]:
    """Return the denoisers of images in [-1, 1] by their epoch, counted from 0: each was saved at its epoch's end."""
    tensors = load_file(file)
    found = {}
    for epoch in sorted({int(re.match(r"epoch(\d+)\.", name)[1]) for name in tensors}):
        network, prefix = Network(), f"epoch{epoch:04d}."
        network.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        found[epoch] = _whole_range(PROCESS.denoiser(network.eval().requires_grad_(False), "epsilon"))
    return found


def _whole_range(half: gt.Denoiser) -> gt.Denoiser:
    """Make a denoiser of images in [-0.5, 0.5] one of images in [-1, 1]."""
    return lambda x, sigma: 2 * half(x / 2, sigma / 2)


def losses(denoiser: gt.Denoiser, images: Tensor, sigma: float, points: int) -> tuple[float, float]:
    """Return the mean squared error a pixel at the points of :func:`gausstools.residuals`, and its standard error."""
    clean, noised = (gt.compare.evaluation_points(images, level, points) for level in (0.0, sigma))
    parts = zip(clean.split(256), noised.split(256), strict=True)
    missed = torch.cat([(denoiser(x, sigma) - x0).flatten(1).square().mean(1) for x0, x in parts])
    return missed.mean().item(), missed.std().item() / points**0.5


def rows(
    series: Mapping[int, gt.Denoiser], models: Mapping[str, gt.Denoiser], sets: Mapping[str, Tensor], points: int
) -> list[dict]:
    """Return the table: each model against each network, on each set of images, at each noise level."""
    of_models = {
        (name, split, sigma): losses(model, images, sigma, points)
        for name, model in models.items()
        for split, images in sets.items()
        for sigma in SIGMAS
    }
    table = []
    for epoch, network in tqdm(series.items(), unit=" checkpoints"):
        seen = (epoch + 1) * IMAGES_AN_EPOCH
        for split, images in sets.items():
            own = {sigma: losses(network, images, sigma, points) for sigma in SIGMAS}
            for model, sigma, found in gt.residuals(network, models, images, SIGMAS, points=points):
                fractions = (found.score, found.denoiser, found.score_error, found.denoiser_error)
                values = (*fractions, *of_models[model, split, sigma], *own[sigma])
                clocks = (seen, seen // BATCH, split, model, sigma)
                table.append(dict(zip(COLUMNS, (*clocks, *(f"{v:.6g}" for v in values), points), strict=True)))
    return table


@torch.no_grad()
def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="mnist-ddpm-series.safetensors")
    parser.add_argument("--points", type=int, default=512, help="noised images for each residual")
    arguments = parser.parse_args()
    sets = {split: gt.datasets.load("mnist", split).images for split in ("train", "test")}
    data = sets["train"]
    models = {
        "mean": gt.Gaussian.isotropic(data.mean(0), 0.0),
        "isotropic": gt.Gaussian.isotropic(data.mean(0), data.var(0, correction=0).mean()),
        "gaussian": gt.Gaussian.fit(data),
        "mixture-10": gt.Mixture.fit(data, 10, method="kmeans"),
        "cloud": gt.PointCloud(data),
    }
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows(checkpoints(arguments.file), models, sets, arguments.points))
    files.write_bytes(Path(__file__).parents[1] / "data" / "foreign-residuals.csv", text.getvalue().encode())


if __name__ == "__main__":
    main()
