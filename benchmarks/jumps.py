"""What jumps over the first steps do to samples, as data/NAME-jumps.csv: `python -m benchmarks.jumps NAME --num 1024`.

The command `sample` draws the images, from the same noise however many steps are skipped, into .cache/NAME-jumps, where
a run that was stopped goes on. The table is replaced at the end.
"""

import argparse
import csv
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import gausstools as gt
from gausstools.commands.sample import sample
from gausstools.features import frechet, frechet_difference
from gausstools.models import files
from gausstools.samplers import declared

STEPS = 18  # of Heun's method, on the Karras grid
SKIPPED = (0, 2, 4, 5, 6, 8)
BATCH = 64
COLUMNS = ("images", "steps_skipped", "sigma_skip", "nfe", "distance", "error")
COLUMNS += ("difference", "difference_error", "rmse", "rmse_error")


def drawn(name: str, num: int, skipped: int, folder: Path) -> Tensor:
    """Draw images after a jump, or take those that are there; in [-1, 1], from 8 bits."""
    level = float(gt.karras_sigmas(STEPS)[skipped])
    skip = str(level) if skipped else None
    sample(name, folder, num=num, steps=STEPS, skip=skip, batch_size=BATCH, format="npz")
    arrays = [np.load(folder / f"{first:06d}.npz")["images"] for first in range(0, num, BATCH)]
    return torch.from_numpy(np.concatenate(arrays)[:num]).permute(0, 3, 1, 2) / 127.5 - 1


def row(name: str, skipped: int, images: Tensor, without: Tensor) -> dict:
    """Compare the images after a jump with the training images, and with those without a jump."""
    reference, features = gt.shipped.feature_statistics(name), gt.features.load(name).features
    distance = frechet(images, reference, features)
    difference = frechet_difference(images, without, reference, features)
    moved = (images - without).flatten(1).square().mean(1).sqrt()
    measured = (distance.value, distance.error, difference.value, difference.error)
    measured += (moved.mean().item(), moved.std().item() / len(moved) ** 0.5)
    left = gt.karras_sigmas(STEPS)[skipped:]
    settings = (len(images), skipped, round(float(left[0]), 3), declared(gt.samplers.heun).calls(left))
    return dict(zip(COLUMNS, (*settings, *(round(value, 5) for value in measured)), strict=True))


def main() -> None:
    """Measure, or go on."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=gt.shipped.names("network"))
    parser.add_argument("--num", type=int, default=1024, help="images in each row")
    arguments = parser.parse_args()
    root = Path(__file__).parents[1]
    name, num, cache = arguments.name, arguments.num, root / ".cache" / f"{arguments.name}-jumps"
    cache.mkdir(parents=True, exist_ok=True)
    sets: dict[int, Tensor] = {}
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for skipped in SKIPPED:
        sets[skipped] = drawn(name, num, skipped, cache / f"skipped-{skipped}")
        table.writerow(row(name, skipped, sets[skipped], sets[0]))
    files.write_bytes(root / "data" / f"{name}-jumps.csv", text.getvalue().encode())


if __name__ == "__main__":
    main()
