"""Training a denoiser, such that a run can be killed at any moment and resumed to the same weights.

Everything random in step k, which images, which noise levels, which noise, follows from the seed and k alone. So a
checkpoint needs only the weights, their running average, the optimiser's moments and k.
"""

import copy
import csv
import hashlib
import io
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import filelock
import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.compare import residuals
from gausstools.denoiser import Denoiser, along_batch, check_batch, check_count
from gausstools.models import files
from gausstools.networks.edm import EDM, GAUSSIAN

__all__ = ["RECIPES", "SIGMAS", "Recipe", "Trainer", "machine", "residual_rows"]

SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0)
"""Noise levels at which networks are compared with models, along a training and after it."""

EDGE = 1e-7  # of the distribution of ln σ: noise levels farther out are drawn as if they lay here
NOTED = 10_000  # images over which losses.csv averages
HIGH = (5.0, 80.0)  # the noise levels of which a recipe may draw some more
LOWEST = {"batch_size": 1, "warmup": 0, "warmup_again": 0, "averaging_at_most": 1, "seed": -(2**63)}
# Within these, float32 can hold the squares of all noise levels.
RANGES = {"learning_rate": (1e-12, 1), "log_sigma_mean": (-20, 20), "log_sigma_std": (1e-6, 4), "high_noise": (0, 0.9)}
RANGES |= {"averaging": (1e-6, 1000), "beta2": (0, 0.9999)}


@dataclass(frozen=True)
class Recipe:
    """How to train: what a resumed run must share with the one before.

    Args:
        batch_size: images in a step, over all processes.
        learning_rate: of Adam, after the warm-up; at most 1.
        warmup: images over which the learning rate rises from 0.
        beta2: of Adam: how much of the squared gradients' average a step keeps.
        log_sigma_mean, log_sigma_std: of the normal distribution of ln σ. EDM's −1.2 and 1.2 suit long training; with
            few images a wider one learns the high noise levels too.
        high_noise: fraction of the levels, 0 to 0.9, that are drawn uniform in ln σ from 5 to 80 instead.
        mirror: show each image mirrored along its last axis every other time, by chance.
        averaging: half-life of the running average of the weights, as a fraction of the images seen so far.
        averaging_at_most: the half-life's limit, in images.
        warmup_again: images over which the learning rate rises again where Adam begins anew (``go_on_from``).
        seed: of everything random. The noise of seed s + 1,000,003·k is that of seed s, k steps earlier (orders of the
            images: 7,000,003·k, k epochs), so take seeds less than a million apart.

    >>> Recipe(batch_size=128).learning_rate
    0.0005
    """

    batch_size: int = 64
    learning_rate: float = 5e-4
    warmup: int = 10_000
    log_sigma_mean: float = -0.5
    log_sigma_std: float = 1.7
    averaging: float = 0.05
    averaging_at_most: int = 500_000
    seed: int = 0
    beta2: float = 0.99
    high_noise: float = 0.0
    mirror: bool = False
    warmup_again: int = 20_000

    def __post_init__(self):
        for name, low in LOWEST.items():
            # A number of numpy's would not go into a checkpoint.
            object.__setattr__(self, name, check_count(getattr(self, name), name, low, 2**64 - 1))
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number from {low} to {high}")


RECIPES = {
    "short": Recipe(),
    "edm": Recipe(256, 1e-3, 10_000_000, log_sigma_mean=-1.2, log_sigma_std=1.2, beta2=0.999, mirror=True),
}
"""Recipes by name: "short", for up to a million images, and "edm", that of Karras et al. (2022) with half its batch."""


@dataclass
class Progress:
    """What a run has done so far: it stands in the checkpoint, and the tables and the card are written from it."""

    step: int = 0
    seconds: float = 0.0
    recent: list[float] = field(default_factory=list)  # the losses since the last entry of losses
    losses: list[dict] = field(default_factory=list)
    residuals: list[dict] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)  # images seen where another run was gone on from


class Trainer:
    """Trains an EDM denoiser on images, in a folder that holds all there is to know about the run.

    The folder gets ``checkpoint.safetensors``, from which a new Trainer goes on; ``network.safetensors``, the averaged
    weights in float16, which :meth:`gausstools.networks.EDM.load` reads; ``losses.csv`` and ``residuals.csv``. Each
    file is whole at any moment. While a run writes there, a second one is refused. ``settings`` is what all parts of a
    run share: the recipe, the network, the images and what else is compared.

    Args:
        denoiser: what is trained, its weights in float32 or float64; its device is where it happens. The noise of a GPU
            is not that of the processor: a run that moves from one to the other goes on with other noise.
        images: ``(n, *event)``, in any floating-point dtype; moved to the device once. EDM's σ_d and the recipe's noise
            levels are meant for images in [-1, 1]; nothing else depends on the range.
        folder: of the run; made if it does not exist.
        recipe: how to train.
        half_precision: compute in bfloat16 where that is safe; the weights stay as they are.
        compared: what the rows of ``residuals.csv`` depend on, by name, in values that JSON knows, or tensors, which
            are recorded by their sha256.
        share: which share of each batch is taken, of how many: one process each, of which the first, 0, alone writes.
        parallel: makes the raw network one whose gradients are averaged over the processes.
        go_on_from: a file that :meth:`gausstools.training.Trainer.save` wrote, such as ``network.safetensors`` of
            another folder. Without a checkpoint of its own, the run begins from these averaged weights, their count of
            images and steps, and the tables beside them, with Adam anew.

    Raises:
        ValueError: if the folder holds a run with other settings or images, or a damaged checkpoint, or the images do
            not fit.

    >>> import gausstools as gt, tempfile
    >>> denoiser = gt.networks.EDM(gt.networks.UNet((1, 8, 8), (8, 8), layers=1, fold=1, groups=4), (1, 8, 8))
    >>> trainer = Trainer(denoiser, torch.zeros(10, 1, 8, 8), tempfile.mkdtemp(), Recipe(batch_size=4))
    >>> losses = [loss for loss in trainer.run(images=12)]
    >>> len(losses), trainer.images_seen
    (3, 12)
    """

    def __init__(
        self,
        denoiser: EDM,
        images: Float[Tensor, "n *event"],
        folder: str | os.PathLike,
        recipe: Recipe | None = None,
        *,
        half_precision: bool = False,
        compared: Mapping[str, object] | None = None,
        share: tuple[int, int] = (0, 1),
        parallel: Callable[[torch.nn.Module], torch.nn.Module] | None = None,
        go_on_from: str | os.PathLike | None = None,
    ):
        self.recipe = recipe or Recipe()
        check_batch(images, denoiser.event_shape, "images")
        check_count(len(images), "the number of images", 1)
        self._process, self._processes = check_count(share[0], "share", 0, share[1] - 1), share[1]
        if self.recipe.batch_size % self._processes:
            raise ValueError(f"batch_size is {self.recipe.batch_size}, expected a multiple of {share[1]} processes")
        if not hasattr(denoiser.network, "config"):
            raise TypeError(f"the network is {denoiser.network}, expected one with a config, such as UNet")
        for name, parameter in denoiser.named_parameters():
            if parameter.dtype not in (torch.float32, torch.float64):  # in which small steps are lost
                raise TypeError(f"{name} is {parameter.dtype}, expected float32; use half_precision to compute in half")
        self.denoiser = denoiser.train().requires_grad_(True)
        self.device = next(denoiser.parameters()).device
        self.images = images.to(self.device)
        self.averaged = copy.deepcopy(denoiser).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(
            denoiser.parameters(), self.recipe.learning_rate, betas=(0.9, self.recipe.beta2)
        )
        for value in denoiser.parameters():  # as Adam makes them at its first step; a checkpoint is read into them
            moments = {"exp_avg": torch.zeros_like(value), "exp_avg_sq": torch.zeros_like(value)}
            self.optimizer.state[value] = {"step": torch.tensor(0.0)} | moments
        self.progress = Progress()
        self._half_precision = half_precision
        settings = asdict(self.recipe) | denoiser.network.config | {"sigma_data": denoiser.sigma_data}
        settings |= {"number of images": len(images), "sha256 of the images": images}
        if denoiser.gaussian is not None:
            numbers = torch.cat([value.flatten() for value in denoiser.gaussian.state_dict().values()])
            settings |= {"sha256 of the Gaussian": numbers}
        settings |= {"precision": "bfloat16" if half_precision else "float32"} | dict(compared or {})
        self.settings = json.loads(json.dumps(settings, default=_sha256))
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._checkpoint = self.folder / "checkpoint.safetensors"
        self._lock = filelock.FileLock(self.folder / ".lock", timeout=0, thread_local=False)
        if not self._resume() and go_on_from is not None:
            self._begin(Path(go_on_from))
        self._parallel = copy.copy(denoiser)  # the same weights, their gradients averaged over the processes
        self._parallel._modules = denoiser._modules | ({"network": parallel(denoiser.network)} if parallel else {})

    @property
    def images_seen(self) -> int:
        """How many images the network was trained on so far, with repetitions."""
        return self.progress.step * self.recipe.batch_size

    def run(
        self, images: int, *, save_every: float = 60.0, evaluate_at: Mapping[int, Callable] | None = None
    ) -> Iterator[float]:
        """Train until so many images have been seen, counted from the very first; yield the loss of each step.

        It goes on from the checkpoint in the folder, whoever wrote it. The run is saved when it begins, now and then,
        when it ends, and when the iteration is left; a step that fails or is interrupted is not.

        Args:
            images: when to stop.
            save_every: seconds between two checkpoints.
            evaluate_at: what to ask of the averaged network once so many images have been seen, a function of it; the
                rows of a table that it returns stand in ``residuals.csv``, with the number of images. What the run had
                passed before it began is not asked.

        Raises:
            BlockingIOError: if another run is going on in the folder.
            FloatingPointError: if the loss or the weights are NaN or infinite; the last checkpoint is kept.
            ValueError: for limits that are negative or NaN.
        """
        check_count(images, "images", 0)
        if not save_every >= 0:
            raise ValueError(f"save_every is {save_every}, expected a number >= 0")
        try:
            with self._lock if self._process == 0 else nullcontext():
                yield from self._steps(images, save_every, evaluate_at or {})
        except filelock.Timeout:
            raise BlockingIOError(f"{self.folder} is held by a run that is going on; wait, or close it") from None

    def _steps(self, images: int, save_every: float, evaluate_at: Mapping[int, Callable]) -> Iterator[float]:
        if not self._resume():
            self._save()
        saved = time.monotonic()
        try:
            while True:
                self._evaluate(evaluate_at)
                if self.images_seen >= images:
                    break
                yield self._step()
                if time.monotonic() - saved > save_every:
                    self._save()
                    saved = time.monotonic()
        except GeneratorExit:  # left between two steps
            pass
        self._save()

    def _evaluate(self, evaluate_at: Mapping[int, Callable]) -> None:
        """Ask what is to be asked at the marks that the last step has passed."""
        seen = self.images_seen
        if self._process == 0 and not any(row["images"] == seen for row in self.progress.residuals):
            due = [question for mark, question in evaluate_at.items() if seen - self.recipe.batch_size < mark <= seen]
            for question in dict.fromkeys(due):
                self.progress.residuals += [{"images": seen} | row for row in question(self.averaged)]

    # ---- files

    def save(self, path: str | os.PathLike) -> None:
        """Write the averaged weights in float16, as ``network.safetensors``, and what is needed to go on from them.

        Args:
            path: the file, which :meth:`gausstools.networks.EDM.load` reads.
        """
        progress = asdict(self.progress) | {"losses": [], "residuals": []}  # which stand beside it
        self.averaged.save(path, torch.float16, {"settings": self.settings, "progress": progress})

    def _save(self) -> None:
        """Write the checkpoint and the files that follow from it, unless a weight is not finite in them."""
        if self._process != 0:
            return
        for part in self.folder.glob(".*.safetensors.*"):  # what was killed while it wrote leaves these
            part.unlink()
        self.progress.machines = list(dict.fromkeys([*self.progress.machines, machine(self.device)]))
        tensors = self._tensors()
        for name, value in tensors.items():
            if not (value.half() if name.startswith("averaged.") else value).isfinite().all():
                raise self._broken(f"{name} holds values that are NaN, infinite or too large for float16")
        progress = asdict(self.progress)
        files.write(self._checkpoint, "Trainer", tensors, {"settings": self.settings, "progress": progress})
        self.save(self.folder / "network.safetensors")
        for name in ("losses", "residuals"):
            if rows := progress[name]:
                table, columns = io.StringIO(), dict.fromkeys(column for row in rows for column in row)
                writer = csv.DictWriter(table, list(columns), lineterminator="\n")
                writer.writeheader()
                for row in rows:
                    writer.writerow({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()})
                files.write_bytes(self.folder / f"{name}.csv", table.getvalue().encode())

    def _resume(self) -> bool:
        """Go on from the checkpoint; return whether there is one."""
        if not self._checkpoint.exists():
            return False
        record = files.read_settings(self._checkpoint, "Trainer")
        self._take(self._checkpoint, record, files.read(self._checkpoint, "Trainer"))
        return True

    def _begin(self, file: Path) -> None:
        """Begin with the averaged weights in a file, their count of steps and the tables beside it."""
        record = files.read_settings(file, "EDM").get("training", {})
        weights = {name: value for name, value in files.read(file, "EDM").items() if not name.startswith(GAUSSIAN)}
        both = {f"{part}.{name}": value for part in ("network", "averaged") for name, value in weights.items()}
        moments = {name: value for name, value in self._tensors().items() if name.startswith("optimizer.")}
        self._take(file, record, moments | both)
        self.progress.breaks.append(self.images_seen)
        for name in ("losses", "residuals"):
            if (table := file.with_name(f"{name}.csv")).exists():
                rows = csv.DictReader(table.read_text("utf-8").splitlines())
                rows = [{column: _number(value) for column, value in row.items() if value} for row in rows]
                getattr(self.progress, name).extend(row for row in rows if row["images"] <= self.images_seen)

    def _take(self, file: Path, record: dict, tensors: dict[str, Tensor]) -> None:
        """Take weights, moments and progress of a run with the same settings."""
        own = self._tensors()
        try:
            mine, theirs, progress = self.settings, dict(record["settings"]), Progress(**record["progress"])
            odd = sorted(name for name in mine.keys() | theirs if mine.get(name) != theirs.get(name))
            if odd:
                odd = "; ".join(f"{name} {theirs.get(name)} there and {mine.get(name)} now" for name in odd)
                raise ValueError(f"{file} is of another run: {odd}. Give the same settings, or another folder")
            if {name: value.shape for name, value in tensors.items()} != {name: own[name].shape for name in own}:
                raise KeyError("tensors are missing, unknown or of another shape")
        except (KeyError, TypeError) as error:
            raise ValueError(f"{file} is no complete checkpoint: {error!r}") from error
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])
        self.progress = progress

    def _tensors(self) -> dict[str, Tensor]:
        """Return the weights, their average and Adam's moments, by their names in the checkpoint."""
        parts = {"network": self.denoiser.network.state_dict(), "averaged": self.averaged.network.state_dict()}
        parts |= {f"optimizer.{k}": state for k, state in self.optimizer.state_dict()["state"].items()}
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}

    # ---- a step

    def _step(self) -> float:
        begun, recipe, progress = time.monotonic(), self.recipe, self.progress
        x0, sigma, noise = self._batch(progress.step)
        images = self.images_seen + recipe.batch_size
        again = [(images - break_at) / (recipe.warmup_again or 1) for break_at in progress.breaks[-1:]]
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min(1.0, images / (recipe.warmup or 1), *again)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half_precision):
            loss = self._parallel.loss(x0, sigma, noise)
        if not loss.isfinite():
            raise self._broken(f"the loss is {loss.detach()}")
        loss.backward()
        self.optimizer.step()
        progress.step += 1
        half_life = max(1.0, min(recipe.averaging_at_most, recipe.averaging * self.images_seen))
        averages, weights = (list(each.parameters()) for each in (self.averaged, self.denoiser))
        torch._foreach_lerp_(averages, weights, 1 - 0.5 ** (recipe.batch_size / half_life))
        progress.seconds += time.monotonic() - begun
        progress.recent.append(loss.item())
        if self.images_seen // NOTED > (self.images_seen - recipe.batch_size) // NOTED:
            progress.losses.append({"images": self.images_seen, "loss": sum(progress.recent) / len(progress.recent)})
            progress.recent.clear()
        return loss.item()

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return this process's share of the images of a step, their noise levels and their noise."""
        recipe, mine = self.recipe, slice(self._process, None, self._processes)
        x0 = self.images[self._chosen(step)[mine].to(self.device)]
        generator = self._generator(1_000_003 * (step + 1))
        # One noise level from each of batch_size equal parts of the distribution: less noise in the gradient.
        place = (torch.arange(recipe.batch_size) + torch.rand(1, generator=generator)) / recipe.batch_size
        place = place.double() / (1 - recipe.high_noise)  # above 1 they are of the second law
        normal = torch.special.ndtri(place.clamp(EDGE, 1 - EDGE)).float()
        log_sigma = recipe.log_sigma_mean + recipe.log_sigma_std * normal
        if recipe.high_noise:
            low, high = map(math.log, HIGH)
            above = low + (high - low) * (place - 1) * (1 - recipe.high_noise) / recipe.high_noise
            log_sigma = torch.where(place < 1, log_sigma, above.float())
        sigma = log_sigma.exp()[mine].to(self.device)
        if recipe.mirror:
            turned = (torch.rand(recipe.batch_size, generator=generator) < 0.5)[mine].to(self.device)
            x0 = torch.where(along_batch(turned, x0), x0.flip(-1), x0)
        if self.device.type != "cpu":  # where drawing the noise on the processor would take as long as the step
            seed = int(torch.randint(2**62, (1,), generator=generator))
            generator = torch.Generator(self.device).manual_seed(seed)
        shape = (recipe.batch_size, *x0.shape[1:])
        return x0, sigma, torch.randn(shape, generator=generator, device=generator.device)[mine]

    def _broken(self, what: str) -> FloatingPointError:
        return FloatingPointError(
            f"{what} at step {self.progress.step}; the checkpoint before it was kept. Use a smaller learning rate, or "
            "look for images far outside [-1, 1]"
        )

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.recipe.seed + stream) % 2**64)

    def _chosen(self, step: int) -> Tensor:
        """Indices of the images of a step: a new order of all images in each epoch."""
        count = len(self.images)
        place = torch.arange(step * self.recipe.batch_size, (step + 1) * self.recipe.batch_size)
        epochs, chosen = place // count, place % count
        for epoch in epochs.unique().tolist():
            order = torch.randperm(count, generator=self._generator(7_000_003 * (epoch + 1)))
            chosen[epochs == epoch] = order[chosen[epochs == epoch]]
        return chosen


def residual_rows(
    denoiser: Denoiser, models: Mapping[str, Denoiser], sets: Mapping[str, Tensor], sigmas: list[float], *, points: int
) -> list[dict]:
    """Return what each model leaves unexplained of a network, as rows of a table, for several sets of images.

    Args:
        denoiser: the network.
        models: by name.
        sets: images by name, such as "train" and "test".
        sigmas: noise levels > 0.
        points: noised images for each set and level.

    >>> import gausstools as gt
    >>> model = gt.Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> residual_rows(model, {"itself": model}, {"train": torch.ones(5, 2)}, [1.0], points=3)[0]["score"]
    0.0
    """
    rows = []
    for name, images in sets.items():
        for model, sigma, found in residuals(denoiser, models, images, sigmas, points=points):
            rows.append({"images_from": name, "model": model, "sigma": sigma} | found._asdict())
    return rows


def machine(device: torch.device) -> str:
    """Return what a run's times belong to: the processor or graphics card, and the version of torch.

    >>> machine(torch.device("cpu"))
    'processor (..., torch ...'
    """
    processor = f"processor ({platform.machine()}, {torch.get_num_threads()} threads)"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor
    return f"{name}, torch {torch.__version__}"


def _number(text: str) -> int | float | str:
    """Read an entry of a table as what it was."""
    with suppress(ValueError):
        return json.loads(text)
    return text


def _sha256(tensor: Tensor) -> str:
    """Stand for a tensor among the settings."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().view(torch.uint8).numpy()).hexdigest()
