"""The film of the front page: what three travellers believe, from the same noise, at each step of a sampler.

A shipped network walks its own path by Heun's method; its Gaussian walks its own, which is a formula; and the network
takes over from the Gaussian after a jump. Each frame has a row of images for each of them: the denoised image, which is
the posterior mean that each would answer there.
"""

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import gausstools as gt
from book.pipeline import runs
from book.pipeline.layout import Book, write_atomically
from gausstools import shipped
from gausstools.noise import seeded_noise

NETWORK = "mnist"
SEEDS = range(7, 13)
"""Six in a row that draw different digits."""

SIGMA_MAX = 80.0
STEPS = 18
SKIPPED = 6
"""As in chapter 11, where the jump is measured."""


@dataclass(frozen=True)
class Film:
    """What is shown, frame by frame.

    Args:
        seeds: one for each column of images.
        skipped: how many steps the jump replaces, so the frame in which it lands.
        levels: the noise level of each frame, ending in 0.
        calls: network calls until each frame, of the network and of the jump.
        distances: of the Gaussian's and the jump's images from the network's, relative, mean over the seeds; None where
            a row has no image yet.
        change: what the jump changes in the final images, root mean square of a pixel, mean over the seeds.
        sheet: the rows of all frames, one below another, as WebP in base64.
        shape: rows and columns of pixels of one row of images.
    """

    seeds: list[int]
    skipped: int
    levels: list[float]
    calls: list[tuple[int, int]]
    distances: list[tuple[float, float | None]]
    change: float
    sheet: str
    shape: tuple[int, int]

    @property
    def shows(self) -> bool:
        """Whether it shows what the page says of it: paths that coincide until the jump lands, and part below."""
        gaussian = [distance for distance, _ in self.distances]
        jump = [distance for _, distance in self.distances if distance is not None]
        return max(gaussian[: self.skipped + 1]) < 0.1 and gaussian[-1] > 0.3 and max(jump) < 0.05


@torch.no_grad()
def film(name: str, seeds: Sequence[int], steps: int, skipped: int) -> Film:
    """Draw the film of a shipped network.

    Args:
        name: of the network and its statistics.
        seeds: one for each column.
        steps: of Heun's method.
        skipped: how many of them the jump replaces.
    """
    network, gaussian = gt.pretrained.load(name), shipped.statistics(name)
    sigmas = gt.karras_sigmas(steps, sigma_max=SIGMA_MAX)
    noise = SIGMA_MAX * seeded_noise(0, seeds, network.event_shape)
    own = _beliefs(gt.samplers.heun(network, noise, sigmas))
    jump = gt.teleport(gaussian, noise, sigmas, float(sigmas[skipped]))
    after = _beliefs(gt.samplers.heun(network, jump.x, jump.times))
    path = gaussian.flow(noise, SIGMA_MAX, sigmas.float()[:, None])
    formula = [*(gaussian(x, float(sigma)) for x, sigma in zip(path[:-1], sigmas[:-1], strict=True)), path[-1]]
    formula = torch.stack(formula)
    blank = torch.full_like(own[:skipped], -1.0)  # black
    sheet, shape = _webp(torch.stack([own, formula, torch.cat([blank, after])], dim=1))
    distances = zip(_distances(formula, own), [None] * skipped + _distances(after, own[skipped:]), strict=True)
    return Film(
        seeds=list(seeds),
        skipped=skipped,
        levels=sigmas.tolist(),
        calls=[(_calls(i, steps), _calls(i - skipped, steps - skipped)) for i in range(steps + 1)],
        distances=list(distances),
        change=(after[-1] - own[-1]).flatten(1).square().mean(1).sqrt().mean().item(),
        sheet=sheet,
        shape=shape,
    )


def _beliefs(states: Iterable) -> Tensor:
    """What is answered before each step, and the last state: ``(frames, n, channels, height, width)``."""
    states = list(states)
    return torch.stack([*(state.denoised for state in states), states[-1].x])


def _calls(step: int, steps: int) -> int:
    """Calls until the answer before a step is known. Heun's method asks twice a step, and once in the last."""
    return max(0, min(2 * step + 1, 2 * steps - 1))


def _distances(mine: Tensor, theirs: Tensor) -> list[float]:
    """Of each frame: relative, mean over the seeds."""
    return ((mine - theirs).flatten(2).norm(dim=2) / theirs.flatten(2).norm(dim=2)).mean(1).tolist()


def _webp(images: Tensor) -> tuple[str, tuple[int, int]]:
    """Images ``(frames, rows, n, channels, height, width)`` as one picture of rows, and the shape of one of them."""
    *_, count, channels, height, width = images.shape
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 1, 4, 2, 5, 3)
    sheet = pixels.reshape(-1, count * width, channels).numpy()
    file = io.BytesIO()
    picture = Image.fromarray(sheet.squeeze(2) if channels == 1 else sheet)
    picture.save(file, "WEBP", quality=80, method=6)
    return base64.b64encode(file.getvalue()).decode(), (height, count * width)


def cached_film(book: Book, inputs: runs.Inputs) -> Film:
    """The film of the front page, drawn only if anything that it depends on changed."""
    depends = [Path(__file__).read_text("utf-8"), inputs.modules, inputs.data, inputs.lock]
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:12]
    path = book.cache / "moving-picture" / f"{key}.json"
    if not path.is_file():
        drawn = asdict(film(NETWORK, SEEDS, STEPS, SKIPPED))
        for old in path.parent.glob("*.json"):
            old.unlink()
        write_atomically(path, json.dumps(drawn))
    return Film(**json.loads(path.read_text("utf-8")))
