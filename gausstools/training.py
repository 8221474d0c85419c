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
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import filelock
import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.compare import residuals
from gausstools.denoiser import Denoiser, check_batch, check_count
from gausstools.models import files
from gausstools.networks.edm import EDM

__all__ = ["SIGMAS", "Recipe", "Trainer", "machine", "residual_rows"]

SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0)
"""Noise levels at which networks are compared with models, along a training and after it."""

EDGE = 1e-4  # of the distribution of ln σ: noise levels farther out are drawn as if they lay here


@dataclass(frozen=True)
class Recipe:
    """How to train: what a resumed run must share with the one before.

    Args:
        batch_size: images in a step, over all processes.
        learning_rate: of Adam, after the warm-up; at most 1.
        warmup: images over which the learning rate rises from 0.
        log_sigma_mean, log_sigma_std: of the normal distribution of ln σ. EDM's −1.2 and 1.2 suit long training; with
            few images a wider one learns the high noise levels too.
        averaging: half-life of the running average of the weights, as a fraction of the images seen so far.
        averaging_at_most: the half-life's limit, in images.
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

    def __post_init__(self):
        lowest = {"batch_size": 1, "warmup": 0, "averaging_at_most": 1, "seed": -(2**63)}
        for name, low in lowest.items():  # a number of numpy's would not go into a checkpoint
            object.__setattr__(self, name, check_count(getattr(self, name), name, low, 2**64 - 1))
        for name in ("learning_rate", "log_sigma_std", "averaging"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a finite number > 0")
        if self.learning_rate > 1:
            raise ValueError(f"learning_rate is {self.learning_rate}, expected at most 1: Adam moves weights by it")
        if not abs(self.log_sigma_mean) + 4 * self.log_sigma_std <= 40:
            raise ValueError(
                f"log_sigma_mean is {self.log_sigma_mean} and log_sigma_std {self.log_sigma_std}, expected levels from "
                "exp(-40) to exp(40), whose squares float32 can hold"
            )


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

    def __post_init__(self):
        check_count(self.step, "step", 0)
        check_count(self.loss_steps, "loss_steps", 0)
        if not (math.isfinite(self.seconds) and math.isfinite(self.loss_sum)):
            raise ValueError(f"seconds is {self.seconds} and loss_sum {self.loss_sum}, expected finite numbers")
        rows = [*({"loss"} - row.keys() for row in self.losses), *({"images"} - row.keys() for row in self.residuals)]
        if any(rows) or not all(isinstance(machine, str) for machine in self.machines):
            raise ValueError("losses, residuals or machines are not rows of a table, or names")


class Trainer:
    """Trains an EDM denoiser on images, in a folder that holds all there is to know about the run.

    The folder gets ``checkpoint.safetensors``, from which a new Trainer goes on; ``network.safetensors``, the averaged
    weights in float16, which :meth:`gausstools.networks.EDM.load` reads; ``losses.csv`` and ``residuals.csv``. Each
    file is whole at any moment. While a run writes there, a second one is refused.

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
        processes, process: how many share each batch, and which one this is; only process 0 writes.
        parallel: makes the raw network one whose gradients are averaged over the processes.

    Raises:
        ValueError: if the folder holds a run with other settings or images, or a damaged checkpoint, or the images do
            not fit. A checkpoint that an earlier version wrote, without all of this, is gone on from with a warning.

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
        processes: int = 1,
        process: int = 0,
        parallel: Callable[[torch.nn.Module], torch.nn.Module] | None = None,
    ):
        self.recipe = recipe or Recipe()
        check_batch(images, denoiser.event_shape, "images")
        if len(images) == 0:
            raise ValueError("images are empty, expected at least one")
        if self.recipe.batch_size % check_count(processes, "processes", 1):
            raise ValueError(
                f"batch_size is {self.recipe.batch_size}, expected a multiple of the {processes} processes"
            )
        if not hasattr(denoiser.network, "config"):
            raise TypeError(f"the network is {denoiser.network}, expected one with a config, such as UNet")
        for name, parameter in denoiser.named_parameters():
            if parameter.dtype not in (torch.float32, torch.float64):  # in which small steps are lost
                raise TypeError(f"{name} is {parameter.dtype}, expected float32; use half_precision to compute in half")
        self.denoiser = denoiser.train().requires_grad_(True)
        self.device = next(denoiser.parameters()).device
        self.images = images.to(self.device)
        self.averaged = copy.deepcopy(denoiser).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(denoiser.parameters(), self.recipe.learning_rate, betas=(0.9, 0.99))
        for value in denoiser.parameters():  # as Adam makes them at its first step; a checkpoint is read into them
            moments = {"exp_avg": torch.zeros_like(value), "exp_avg_sq": torch.zeros_like(value)}
            self.optimizer.state[value] = {"step": torch.tensor(0.0)} | moments
        self.progress = Progress()
        self._processes, self._process = processes, check_count(process, "process", 0, processes - 1)
        self._order = -1, torch.empty(0)  # an epoch, and the images' order in it
        self._half_precision = half_precision
        self._settings = self._all_settings(compared or {})
        self._whole = True  # whether weights, moments, average and progress are those of one step
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(self.folder / ".lock", timeout=0, thread_local=False)
        if self._checkpoint.exists():
            self._resume()
        network = parallel(denoiser.network) if parallel else denoiser.network
        self._parallel = EDM(network, denoiser.event_shape, denoiser.sigma_data)

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

        The run is saved when it begins, now and then, when it ends, and when the iteration is left or interrupted.
        Interrupted between the optimiser's step and the end of its book-keeping, the next call goes on from the
        checkpoint; so it does if another trainer has gone on in the folder meanwhile.

        Args:
            images: when to stop.
            seconds: stop earlier after this time in this call.
            save_every: seconds between two checkpoints.
            note_every: images over which ``losses.csv`` averages.
            evaluate_at: what to ask of the averaged network once so many images have been seen; the rows that come
                back stand in ``residuals.csv``, with the number of images. What the run had passed before it began is
                not asked.

        Raises:
            BlockingIOError: if another run is going on in the folder.
            FloatingPointError: if the loss or the weights are NaN or infinite; the last checkpoint is kept.
            ValueError: for limits that are negative or NaN.
        """
        for name, limit in (("images", images), ("seconds", seconds), ("save_every", save_every)):
            if limit is not None and not limit >= 0:
                raise ValueError(f"{name} is {limit}, expected a number >= 0")
        if not note_every > 0:
            raise ValueError(f"note_every is {note_every}, expected a number > 0")
        with self._alone():
            begun = last = now = time.monotonic()
            while True:
                self._evaluate(evaluate_at or {})
                if self.images_seen >= images or (seconds is not None and now - begun >= seconds):
                    return
                step_begun = time.monotonic()
                loss = float(self._step())
                now = time.monotonic()
                self._note(loss, now - step_begun, note_every)
                self._whole = True
                yield loss
                if now - last > save_every:
                    self.save()
                    last = now

    def save(self) -> None:
        """Write the checkpoint, and the files that follow from it.

        Raises:
            FloatingPointError: if weights are NaN, infinite or too large for float16; the files stay as they are.
            RuntimeError: after an interrupted step, from which the weights are not whole.
        """
        if self._process != 0:
            return
        if not self._whole:
            raise RuntimeError("the last step was interrupted; run goes on from the checkpoint before it")
        if machine(self.device) not in self.progress.machines:
            self.progress.machines.append(machine(self.device))
        tensors = self._tensors()
        for name, value in tensors.items():
            if not (value.half() if name.startswith("averaged.") else value).isfinite().all():
                raise self._broken(f"{name} holds values that are NaN, infinite or too large for float16")
        files.write(self._checkpoint, "Trainer", tensors, {"setup": self._settings, "progress": asdict(self.progress)})
        self.averaged.save(self.folder / "network.safetensors", torch.float16)
        for name, rows in (("losses", self.progress.losses), ("residuals", self.progress.residuals)):
            if rows:
                table = io.StringIO()
                columns = dict.fromkeys(column for row in rows for column in row)
                writer = csv.DictWriter(table, list(columns), lineterminator="\n")
                writer.writeheader()
                writer.writerows({column: _brief(value) for column, value in row.items()} for row in rows)
                files.write_bytes(self.folder / f"{name}.csv", table.getvalue().encode())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder from its checkpoint to the next one; a process that is killed lets go of it."""
        try:
            held = self._lock.acquire() if self._process == 0 else nullcontext()
        except filelock.Timeout:
            raise BlockingIOError(
                f"{self.folder} is held by a run that is going on, here or elsewhere; wait for its end, or close it"
            ) from None
        with held:
            if self._process == 0:
                for name in ("checkpoint", "network"):  # what was killed while it wrote leaves these
                    for part in self.folder.glob(f".{name}.safetensors.*"):
                        part.unlink()
            if not self._checkpoint.exists():
                self.save()
            elif not self._whole or self._recorded()[1].step != self.progress.step:
                self._resume()
            try:
                yield
            finally:
                if self._whole:
                    self.save()

    def _note(self, loss: float, seconds: float, note_every: int) -> None:
        progress = self.progress
        progress.seconds += seconds
        progress.loss_sum += loss
        progress.loss_steps += 1
        if self.images_seen // note_every > (self.images_seen - self.recipe.batch_size) // note_every:
            progress.losses.append({"images": self.images_seen, "loss": progress.loss_sum / progress.loss_steps})
            progress.loss_sum, progress.loss_steps = 0.0, 0

    def _evaluate(self, evaluate_at: Mapping[int, Callable[[EDM], list[dict]]]) -> None:
        """Ask what is to be asked at the marks that the last step has passed."""
        seen = self.images_seen
        if self._process == 0 and not any(row["images"] == seen for row in self.progress.residuals):
            due = [question for mark, question in evaluate_at.items() if seen - self.recipe.batch_size < mark <= seen]
            rows = [row for question in dict.fromkeys(due) for row in question(self.averaged)]
            self.progress.residuals += [{"images": seen} | row for row in rows]

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def _all_settings(self, compared: Mapping[str, object]) -> dict[str, dict]:
        """Return what a run that goes on must share, in groups, as JSON gives it back."""
        settings = {
            "recipe": asdict(self.recipe),
            "unet": self.denoiser.network.config,
            "data": {"sigma_data": self.denoiser.sigma_data, "number of images": len(self.images)},
            "content": {"sha256 of the images": self.images},
            "computing": {"precision": "bfloat16" if self._half_precision else "float32"},
        } | ({"compared": dict(compared)} if compared else {})
        return json.loads(json.dumps(settings, default=_sha256))

    def _tensors(self) -> dict[str, Tensor]:
        """Return the weights, their average and Adam's moments, by their names in the checkpoint."""
        parts = {"network": self.denoiser.network.state_dict(), "averaged": self.averaged.network.state_dict()}
        parts |= {f"optimizer.{k}": state for k, state in self.optimizer.state_dict()["state"].items()}
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}

    def _recorded(self) -> tuple[dict[tuple[str, str], object], Progress]:
        """Return the settings in the checkpoint, by group and name, and the progress."""
        recorded = files.read_settings(self._checkpoint, "Trainer")
        try:
            return _flat(recorded["setup"]), Progress(**recorded["progress"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self._checkpoint} is no complete checkpoint: {error!r}") from error

    def _resume(self) -> None:
        self._whole = False
        (theirs, progress), mine = self._recorded(), _flat(self._settings)
        groups = {group for group, _ in theirs} | {"recipe", "unet", "data"}
        odd = [
            f"{key[1]} {theirs.get(key)} there and {mine.get(key)} now"
            for key in sorted(mine.keys() | theirs)
            if mine.get(key) != theirs.get(key) and key[0] in groups
        ]
        if odd:
            raise ValueError(
                f"{self.folder} holds another run: {'; '.join(odd)}. Give the same settings to go on, or another folder"
            )
        lacking = sorted(name for group, name in mine if group not in groups)
        if lacking:
            what = ", ".join(lacking)
            warnings.warn(f"{self._checkpoint} does not hold its {what}; it goes on with today's", stacklevel=3)
        tensors, own = files.read(self._checkpoint, "Trainer"), self._tensors()
        if progress.step == 0:  # when earlier versions wrote no moments
            moments = {name: value for name, value in own.items() if name.startswith("optimizer.")}
            tensors = {name: torch.zeros_like(value) for name, value in moments.items()} | tensors
        expected = {name: value.shape for name, value in own.items()}
        found = {name: value.shape for name, value in tensors.items() if value.isfinite().all()}
        wrong = sorted(name for name in expected.keys() | tensors if expected.get(name) != found.get(name))
        if wrong:
            raise ValueError(
                f"{self._checkpoint} is no complete checkpoint: {len(wrong)} tensors are missing, not expected, of "
                f"another shape, or not finite, such as {wrong[0]}"
            )
        if int(tensors["optimizer.0.step"]) != min(progress.step, 2**24):  # where float32 stops counting
            raise ValueError(f"{self._checkpoint} holds the weights of another step than its {progress.step}")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])
        self.progress = progress
        self._whole = True

    def _step(self) -> Tensor:
        recipe, step = self.recipe, self.progress.step
        mine = slice(self._process, None, self._processes)
        x0 = self.images[self._chosen(step)[mine].to(self.device)]
        generator = self._generator(1_000_003 * (step + 1))
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
        self.optimizer.zero_grad()  # an interrupted step may have left its gradients
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half_precision):
            loss = self._parallel.loss(x0, sigma, noise)
        if not loss.isfinite():
            raise self._broken(f"the loss is {loss.item()}")
        loss.backward()
        self._whole = False
        self.optimizer.step()
        self.progress.step += 1
        half_life = max(1.0, min(recipe.averaging_at_most, recipe.averaging * self.images_seen))
        torch._foreach_lerp_(
            list(self.averaged.parameters()),
            list(self.denoiser.parameters()),
            1 - 0.5 ** (recipe.batch_size / half_life),
        )
        return loss.detach()

    def _broken(self, what: str) -> FloatingPointError:
        self._whole = False  # weights that may be broken must not replace those of the checkpoint
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
            if epoch != self._order[0]:  # assigned at once, so that an interruption cannot part the two
                self._order = epoch, torch.randperm(count, generator=self._generator(7_000_003 * (epoch + 1)))
            chosen[epochs == epoch] = self._order[1][chosen[epochs == epoch]]
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


def machine(device: torch.device) -> str:
    """Return what a run's times belong to: the processor or graphics card, and the version of torch.

    >>> machine(torch.device("cpu"))
    'processor (..., torch ...'
    """
    processor = f"processor ({platform.machine()}, {torch.get_num_threads()} threads)"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor
    return f"{name}, torch {torch.__version__}"


def _flat(setup: dict) -> dict[tuple[str, str], object]:
    """Settings by their group and name."""
    return {(group, name): value for group, values in setup.items() for name, value in values.items()}


def _sha256(value: object) -> str:
    """Stand for a tensor among the settings."""
    if not isinstance(value, Tensor):
        raise TypeError(f"a setting is {type(value).__name__}, expected a tensor or what JSON knows")
    return hashlib.sha256(value.detach().cpu().contiguous().view(torch.uint8).numpy()).hexdigest()


def _brief(value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
