"""Training a denoiser, such that a run can be killed at any moment and resumed to the same weights.

Everything random in step k, which images, which noise levels, which noise, follows from the seed and k alone. So a
checkpoint needs only the weights, their running average, the optimiser's moments and k.
"""

import copy
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.compare import residuals
from gausstools.denoiser import Denoiser, check_batch, check_count
from gausstools.models import files
from gausstools.networks.edm import EDM

__all__ = ["Recipe", "Trainer", "residual_rows"]

EDGE = 1e-4  # of the distribution of ln σ: noise levels farther out are drawn as if they lay here


@dataclass(frozen=True)
class Recipe:
    """How to train: what a resumed run must share with the one before.

    Args:
        batch_size: images in a step, over all processes.
        learning_rate: of Adam, after the warm-up.
        warmup: images over which the learning rate rises from 0.
        log_sigma_mean, log_sigma_std: of the normal distribution of ln σ. EDM's −1.2 and 1.2 suit long training; with
            few images a wider one learns the high noise levels too.
        averaging: half-life of the running average of the weights, as a fraction of the images seen so far.
        averaging_at_most: the half-life's limit, in images.
        seed: of everything random.

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

    def __post_init__(self):
        check_count(self.batch_size, "batch_size", 1)
        check_count(self.warmup, "warmup", 0)
        check_count(self.averaging_at_most, "averaging_at_most", 1)
        for name in ("learning_rate", "log_sigma_std", "averaging"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}, expected a finite number > 0")


@dataclass
class Progress:
    """What a run has done so far: it stands in the checkpoint, and the tables and the card are written from it."""

    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0  # since the last entry of losses
    loss_steps: int = 0
    losses: list[dict] = field(default_factory=list)
    residuals: list[dict] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)


class Trainer:
    """Trains an EDM denoiser on images, in a folder that holds all there is to know about the run.

    The folder gets ``checkpoint.safetensors``, from which a new Trainer goes on; ``network.safetensors``, the averaged
    weights in float16, which :meth:`gausstools.networks.EDM.load` reads; ``losses.csv`` and ``residuals.csv``. Each
    file is whole at any moment.

    Args:
        denoiser: what is trained; its device is where it happens.
        images: ``(n, *event)``, in [-1, 1]; moved to the device once.
        folder: of the run; made if it does not exist.
        recipe: how to train.
        half_precision: compute in bfloat16 where that is safe; the weights stay float32.
        processes, process: how many share each batch, and which one this is; only process 0 writes.
        parallel: makes the raw network one whose gradients are averaged over the processes.

    Raises:
        ValueError: if the folder holds a run with another recipe or network, or the images do not fit.

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
        processes: int = 1,
        process: int = 0,
        parallel: Callable[[torch.nn.Module], torch.nn.Module] | None = None,
    ):
        self.recipe = recipe or Recipe()
        check_batch(images, denoiser.event_shape, "images")
        if len(images) == 0:
            raise ValueError("images are empty, expected at least one")
        if self.recipe.batch_size % processes:
            raise ValueError(
                f"batch_size is {self.recipe.batch_size}, expected a multiple of the {processes} processes"
            )
        self.denoiser = denoiser.train().requires_grad_(True)
        self.device = next(denoiser.parameters()).device
        self.images = images.to(self.device)
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.averaged = copy.deepcopy(denoiser).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(denoiser.parameters(), self.recipe.learning_rate, betas=(0.9, 0.99))
        self.progress = Progress()
        self._processes, self._process = processes, process
        self._epoch, self._order = -1, torch.empty(0)
        if self._checkpoint.exists():
            self._resume()
        network = parallel(denoiser.network) if parallel else denoiser.network
        self._parallel = EDM(network, denoiser.event_shape, denoiser.sigma_data)
        self._half_precision = half_precision
        self._between_steps = True  # where the weights, their average and the step belong together

    @property
    def images_seen(self) -> int:
        """How many images the network was trained on so far, with repetitions."""
        return self.progress.step * self.recipe.batch_size

    def run(
        self,
        images: int,
        *,
        seconds: float | None = None,
        save_every: float = 60.0,
        note_every: int = 10_000,
        evaluate_at: Mapping[int, Callable[[EDM], list[dict]]] | None = None,
    ) -> Iterator[float]:
        """Train until so many images have been seen, counted from the very first; yield the loss of each step.

        The run is saved every now and then, when it ends, and when the iteration is left or interrupted.

        Args:
            images: when to stop.
            seconds: stop earlier after this time in this call.
            save_every: seconds between two checkpoints.
            note_every: images over which ``losses.csv`` averages.
            evaluate_at: what to ask of the averaged network once so many images have been seen; the rows that come
                back stand in ``residuals.csv``, with the number of images.
        """
        begun = last = now = time.monotonic()
        due = sorted((evaluate_at or {}).items())
        try:
            while True:
                while due and due[0][0] <= self.images_seen:
                    mark, question = due.pop(0)
                    if mark > self.images_seen - self.recipe.batch_size:  # else the run was past it when it began
                        self._evaluate(question)
                if self.images_seen >= images or (seconds is not None and now - begun >= seconds):
                    return
                step_begun = time.monotonic()
                loss = float(self._step())
                now = time.monotonic()
                self._note(loss, now - step_begun, note_every)
                yield loss
                if now - last > save_every:
                    self.save()
                    last = now
        finally:
            if self._between_steps:
                self.save()

    def save(self) -> None:
        """Write the checkpoint, and the files that follow from it."""
        if self._process != 0:
            return
        machine = f"{_machine(self.device)}, torch {torch.__version__}"
        if machine not in self.progress.machines:
            self.progress.machines.append(machine)
        tensors = {f"network.{k}": v for k, v in self.denoiser.network.state_dict().items()}
        tensors |= {f"averaged.{k}": v for k, v in self.averaged.network.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        settings = {"setup": self._setup, "progress": asdict(self.progress)}
        files.write(self._checkpoint, "Trainer", tensors, settings)
        self.averaged.save(self.folder / "network.safetensors", torch.float16)
        for name, rows in (("losses", self.progress.losses), ("residuals", self.progress.residuals)):
            if rows:
                lines = [",".join(rows[0]), *(",".join(_brief(value) for value in row.values()) for row in rows)]
                files.write_bytes(self.folder / f"{name}.csv", ("\n".join(lines) + "\n").encode())

    def _note(self, loss: float, seconds: float, note_every: int) -> None:
        progress = self.progress
        progress.seconds += seconds
        progress.loss_sum += loss
        progress.loss_steps += 1
        if self.images_seen // note_every > (self.images_seen - self.recipe.batch_size) // note_every:
            progress.losses.append({"images": self.images_seen, "loss": progress.loss_sum / progress.loss_steps})
            progress.loss_sum, progress.loss_steps = 0.0, 0

    def _evaluate(self, question: Callable[[EDM], list[dict]]) -> None:
        done = {row["images"] for row in self.progress.residuals}
        if self._process == 0 and self.images_seen not in done:
            self.progress.residuals += [{"images": self.images_seen} | row for row in question(self.averaged)]

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def _setup(self) -> dict:
        return {
            "recipe": asdict(self.recipe),
            "unet": self.denoiser.network.config,
            "data": {"sigma_data": self.denoiser.sigma_data, "number of images": len(self.images)},
        }

    def _resume(self) -> None:
        settings = files.read_settings(self._checkpoint, "Trainer")
        mine, theirs = (_flat(setup) for setup in (json.loads(json.dumps(self._setup)), settings["setup"]))
        odd = [
            f"{name} {theirs.get(name)} there and {mine.get(name)} now"
            for name in sorted(mine.keys() | theirs)
            if mine.get(name) != theirs.get(name)
        ]
        if odd:
            raise ValueError(
                f"{self.folder} holds another run: {'; '.join(odd)}. Give the same settings to go on, or another folder"
            )
        tensors = files.read(self._checkpoint, "Trainer")
        parts = {"network": {}, "averaged": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = value
        self.denoiser.network.load_state_dict(parts["network"])
        self.averaged.network.load_state_dict(parts["averaged"])
        states = {}
        for name, value in parts["optimizer"].items():
            index, key = name.split(".", 1)
            states.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": states})
        self.progress = Progress(**settings["progress"])

    def _step(self) -> Tensor:
        recipe, step = self.recipe, self.progress.step
        mine = slice(self._process, None, self._processes)
        x0 = self.images[self._chosen(step)[mine].to(self.device)]
        generator = torch.Generator().manual_seed(recipe.seed + 1_000_003 * (step + 1))
        # One noise level from each of batch_size equal parts of the distribution: less noise in the gradient.
        place = (torch.arange(recipe.batch_size) + torch.rand(1, generator=generator)) / recipe.batch_size
        quantile = torch.special.ndtri(place.double().clamp(EDGE, 1 - EDGE)).float()
        sigma = (recipe.log_sigma_mean + recipe.log_sigma_std * quantile).exp()[mine].to(self.device)
        if self.device.type != "cpu":  # where drawing the noise on the processor would take as long as the step
            seed = int(torch.randint(2**62, (1,), generator=generator))
            generator = torch.Generator(self.device).manual_seed(seed)
        shape = (recipe.batch_size, *x0.shape[1:])
        noise = torch.randn(shape, generator=generator, device=generator.device)[mine]

        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min(1.0, (self.images_seen + recipe.batch_size) / (recipe.warmup or 1))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half_precision):
            loss = self._parallel.loss(x0, sigma, noise)
        if not loss.isfinite():
            self._between_steps = False  # the weights may be broken already, and must not replace those of the file
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.progress.step}; the checkpoint before it was kept. Use a "
                "smaller learning rate, or look for images outside [-1, 1]"
            )
        loss.backward()
        self._between_steps = False
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        half_life = max(1.0, min(recipe.averaging_at_most, recipe.averaging * self.images_seen))
        torch._foreach_lerp_(
            list(self.averaged.parameters()),
            list(self.denoiser.parameters()),
            1 - 0.5 ** (recipe.batch_size / half_life),
        )
        self._between_steps = True
        return loss.detach()

    def _chosen(self, step: int) -> Tensor:
        """Indices of the images of a step: a new order of all images in each epoch."""
        count = len(self.images)
        place = torch.arange(step * self.recipe.batch_size, (step + 1) * self.recipe.batch_size)
        epochs, chosen = place // count, place % count
        for epoch in epochs.unique().tolist():
            if epoch != self._epoch:
                generator = torch.Generator().manual_seed(self.recipe.seed + 7_000_003 * (epoch + 1))
                self._epoch, self._order = epoch, torch.randperm(count, generator=generator)
            chosen[epochs == epoch] = self._order[chosen[epochs == epoch]]
        return chosen


def residual_rows(
    denoiser: Denoiser,
    models: Mapping[str, Denoiser],
    sets: Mapping[str, Tensor],
    sigmas: list[float],
    *,
    points: int,
    seed: int = 0,
) -> list[dict]:
    """Return what each model leaves unexplained of a network, as rows of a table, for several sets of images.

    Args:
        denoiser: the network.
        models: by name.
        sets: images by name, such as "train" and "test".
        sigmas: noise levels > 0.
        points: noised images for each set and level.
        seed: of these.

    >>> import gausstools as gt
    >>> model = gt.Gaussian.isotropic(torch.zeros(2), 1.0)
    >>> residual_rows(model, {"itself": model}, {"train": torch.ones(5, 2)}, [1.0], points=3)[0]["score"]
    0.0
    """
    rows = []
    for name, images in sets.items():
        for model, sigma, found in residuals(denoiser, models, images, sigmas, points=points, seed=seed):
            rows.append({"images_from": name, "model": model, "sigma": sigma} | found._asdict())
    return rows


def _flat(setup: dict) -> dict:
    """Settings by their own names, without the groups that they stand in."""
    return {name: value for group in setup.values() for name, value in group.items()}


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"processor ({platform.machine()}, {torch.get_num_threads()} threads)"


def _brief(value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
