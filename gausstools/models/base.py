"""What all analytic models have in common: one interface, the checks of a question, and files.

Each is a distribution of clean data ``x0`` together with its noised family, the laws of ``x0 + σ·n``, named in the
words of ``torch.distributions``. As a callable it is the denoiser of that family.
"""

import math
import os
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gausstools.denoiser import Sigma, check_count, check_shape, check_sigma, check_values, in_dtype, working_dtype
from gausstools.models import files

__all__ = ["ScoreModel"]


class ScoreModel(nn.Module):
    """A distribution whose noised density, score and denoiser are known in closed form.

    It is an ``nn.Module``: ``.to(device)``, ``.double()``. Points come as ``(batch, *event)``, in the model's dtype or
    in half precision, noise levels as a float or ``(batch,)`` in the units of the data.

    Answers have the dtype of the points. They are computed in float32 at least, because variances and squared distances
    leave the range of float16 and the digits of bfloat16. So a model's tensors are float32 or float64 even after
    ``.half()``, which decides in which dtype it samples.

    The tensors may be moved, loaded and replaced, but not written into: what follows from them would not notice.

    A kind of model is its ``mean`` and some functions of rows around it, ``(b, D)``, at levels ``(1 or b, 1)``:
    ``_offset``, which is D − μ, ``_score``, ``_log_density`` and ``_posterior_variance``. Also ``_draw(n, sigma,
    generator)``, draws around the mean, and ``_smallest_variance()``, that of clean data in any direction.

    >>> import gausstools as gt
    >>> cloud = gt.PointCloud(torch.tensor([[-1.0], [1.0]]))
    >>> mixture = gt.Mixture([0.5, 0.5], [gt.Gaussian.isotropic(x, 0.0) for x in cloud.data])
    >>> [round(model(torch.tensor([[2.0]]), sigma=2.0).item(), 3) for model in (cloud, mixture, cloud.to_gaussian())]
    [0.462, 0.462, 0.4]
    >>> isinstance(cloud, gt.models.ScoreModel)
    True
    """

    mean: Tensor
    dtype: torch.dtype

    _SAVED: tuple[str, ...] = ()
    _known = None  # what was derived, behind the tensors that it follows from

    def _hold(self, dtype: torch.dtype, **tensors: Tensor) -> None:
        """Keep the tensors that the model is made of, for a model of this dtype."""
        self.dtype = dtype
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.to(working_dtype(tensor.dtype)) if tensor.is_floating_point() else tensor)

    @property
    def _derived(self) -> Any:
        """What follows from the tensors, ``_derive()``: computed once, and again when one of them was replaced."""
        tensors = list(self.buffers())
        # A kept value would lack the way back to a tensor that is being optimised.
        if any(tensor.requires_grad for tensor in tensors):
            self._known = None
            return self._derive()
        if self._known is None or any(old is not new for old, new in zip(self._known[0], tensors, strict=True)):
            with torch.no_grad():
                self._known = tensors, self._derive()
        return self._known[1]

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one data point."""
        return self.mean.shape

    @property
    def dim(self) -> int:
        """D, the number of entries of one data point."""
        return self.mean.numel()

    # ---- what each of them answers, by the formula of its kind

    def forward(self, x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, "batch *event"]:
        """Return the denoiser ``E[x0 | x_σ = x]``.

        At σ = 0 it is the limit: ``x`` itself, moved to the nearest place where clean data can be.

        Args:
            x: ``(batch, *event)``, in the model's dtype or in half precision.
            sigma: noise level >= 0, a float or ``(batch,)``.
        """
        mean = self.mean.flatten()
        return self.by_rows(lambda rows, level: mean + self._offset(rows, level), x, sigma).reshape(x.shape)

    def score(self, x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, "batch *event"]:
        """Return ``∇ log p(x; σ)``, accurate at small σ too.

        Raises:
            ValueError: at σ = 0 where there is no density: for a Gaussian or a component of a mixture without variance
                in some direction, and for every point cloud.
        """
        return self.by_rows(self._score, x, sigma, density=True).reshape(x.shape)

    def log_prob(self, x: Float[Tensor, "batch *event"], sigma: Sigma = 0.0) -> Float[Tensor, " batch"]:
        """Return the log density of ``x0 + σ·n`` at ``x``, in nats, ``(batch,)``.

        Raises:
            ValueError: at σ = 0 where there is no density, as for the score.
        """
        return self.by_rows(self._log_density, x, sigma, density=True)

    def posterior_variance(self, x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, " batch"]:
        """Return the total variance of the clean data given the noised, the trace of ``Cov[x0 | x_σ = x]``.

        It is what the denoiser cannot know: its squared error at ``x``, expected. It equals ``σ²·div D``.

        >>> import gausstools as gt
        >>> gt.Gaussian.isotropic(torch.zeros(3), 4.0).posterior_variance(torch.ones(1, 3), 2.0)     # 3 · 4·4/(4+4)
        tensor([6.])
        >>> pair = gt.PointCloud(torch.tensor([[-1.0], [1.0]]))
        >>> pair.posterior_variance(torch.zeros(1, 1), sigma=1.0)                    # it can be either: variance 1
        tensor([1.])
        """
        return self.by_rows(self._posterior_variance, x, sigma)

    def sample(
        self, n: int, sigma: float = 0.0, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n *event"]:
        """Return n draws of ``x0 + σ·n``, ``(n, *event)``.

        Args:
            n: how many, >= 0.
            sigma: noise level >= 0; 0 draws clean data.
            generator: on the model's device; None uses torch's global one.

        >>> import gausstools as gt
        >>> gt.Gaussian.isotropic(torch.zeros(1, 8, 8), 1.0).sample(4).shape
        torch.Size([4, 1, 8, 8])
        """
        n = check_count(n, "n", 0)
        level = check_sigma(sigma, self.mean[None]).item()
        return self._events(self._draw(n, level, generator), self.dtype)

    # ---- files

    def save(self, path: str | os.PathLike) -> None:
        """Write the model as safetensors; an interrupted call leaves the old file, or none."""
        files.write(path, type(self).__name__, dict(self.state_dict()))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ScoreModel":
        """Return the model in a file that ``save`` wrote, on the CPU.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged or holds something else.
        """
        tensors = files.read(path, cls.__name__)
        odd = set(cls._SAVED) ^ tensors.keys()
        if odd:
            raise ValueError(f"{path} is no complete {cls.__name__}: missing or unknown are {', '.join(sorted(odd))}")
        try:
            return cls._restore(**tensors)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            given = ", ".join(f"{value.dtype} {name} of shape {tuple(value.shape)}" for name, value in tensors.items())
            raise ValueError(f"the tensors in {path} do not fit together: {given} ({error})") from error

    @classmethod
    def _restore(cls, **tensors: Tensor) -> "ScoreModel":
        return cls(**tensors)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        # nn.Module writes into the tensors that are there, which a sibling may share (`Gaussian.with_mean`).
        for name, tensor in self._buffers.items():
            self._buffers[name] = tensor.detach().clone().requires_grad_(tensor.requires_grad)
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict:
        # For copies and pickles. What is derived may belong to a transform of torch.func.
        return self.__dict__ | {"_known": None}

    def _apply(self, fn: Callable, recurse: bool = True) -> "ScoreModel":
        # nn.Module moves and converts its buffers here.
        def convert(tensor: Tensor) -> Tensor:
            moved, name = fn(tensor), f"a tensor of the {type(self).__name__}"
            if moved.dtype == tensor.dtype:
                return moved
            return in_dtype(tensor.to(moved.device), working_dtype(moved.dtype), name)

        self.dtype, self._known = fn(torch.empty(0, dtype=self.dtype)).dtype, None
        return super()._apply(convert, recurse)

    # ---- the border: every question comes in here, and every answer goes out

    def by_rows(
        self, ask: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Sigma, *, density: bool = False
    ) -> Tensor:
        """Return ``ask(rows, level)`` for all rows, in the dtype of x, asked in parts that bound the memory.

        Args:
            ask: gets points around the mean, ``(rows, D)``, and their noise levels, ``(1 or rows, 1)``, in float32 at
                least, and answers with one row for each.
            x: ``(batch, *event)``.
            sigma: a float or ``(batch,)``.
            density: whether a density is asked for. It must exist, and its logarithm and score may be too large for the
                dtype, which the others are not, float16 apart.
        """
        rows, level = self.validate(x, sigma)
        if density:
            self._check_density(level)
        size = self._rows_at_once()
        starts = range(0, max(1, len(rows)), size)
        # Autocast would take the products in half precision.
        with torch.autocast(x.device.type, enabled=False):
            parts = [ask(rows[i : i + size], level[i : i + size] if len(level) > 1 else level) for i in starts]
        return as_asked(torch.cat(parts), x.dtype, look=density)

    def _rows_at_once(self) -> int:
        """Return how many rows may be asked about at once, for the memory that it takes."""
        return 2**62

    def validate(self, x: Tensor, sigma: Sigma) -> tuple[Tensor, Tensor]:
        """Return the points around the mean, ``(batch, D)``, and the noise levels, ``(1 or batch, 1)``, if they fit.

        Raises:
            TypeError: for points that are no floating-point tensor, or in another dtype that is not half precision.
            ValueError: for another event's shape, NaN or infinity, lengths or levels out of range.
        """
        check_shape(x, self.event_shape)
        dtype = working_dtype(self.mean.dtype)
        if x.dtype != dtype and torch.finfo(x.dtype).bits >= 32:
            name = type(self).__name__
            raise TypeError(f"x is {x.dtype} and the {name} {dtype}; convert one: model.to(x.dtype)")
        rows = (x.to(dtype) - self.mean).flatten(1)
        level = check_sigma(sigma, check_lengths(rows, "x"))[:, None]
        return rows, level.where(level**2 >= torch.finfo(dtype).tiny, 0)  # σ² without its digits is none

    def _check_density(self, level: Tensor) -> None:
        tiny = torch.finfo(level.dtype).tiny
        if (level == 0).any() and self._smallest_variance() < tiny:
            limit = f"Use sigma > {tiny**0.5:.1g}, or a tail"
            raise ValueError(f"sigma is 0, or as good as 0, and the covariance singular: there is no density. {limit}")

    def _events(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return rows around the mean, ``(*sizes, D)``, as events ``(*sizes, *event)`` in a dtype."""
        return as_asked(self.mean + rows.unflatten(-1, self.event_shape), dtype)


def check_event(mean: Tensor, name: str = "mean") -> Tensor:
    """Return one finite floating-point event, else raise TypeError or ValueError."""
    if not isinstance(mean, Tensor) or not mean.is_floating_point():
        given = mean.dtype if isinstance(mean, Tensor) else type(mean).__name__
        raise TypeError(f"{name} is {given}, expected a floating-point tensor of the event's shape")
    if mean.ndim == 0 or mean.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(mean.shape)}, expected the event's shape, e.g. (2,) or (1, 28, 28)")
    return check_values(mean, name)


def check_lengths(rows: Tensor, name: str) -> Tensor:
    """Return ``(n, D)`` if the squared lengths of rows and of their differences are finite, else raise ValueError."""
    return check_values(rows, name, math.sqrt(torch.finfo(rows.dtype).max / rows.shape[1]) / 4)


def as_asked(answer: Tensor, dtype: torch.dtype, *, look: bool = False) -> Tensor:
    """Return an answer in the dtype of its question; float16 is looked at for overflow, another one if told so."""
    return in_dtype(answer, dtype) if look or torch.finfo(dtype).max < 1e38 else answer.to(dtype)


def resolved(noise: Tensor, scale: Tensor) -> Tensor:
    """Return σ² no smaller than what rounding resolves at a scale of squared lengths: there the nearest point wins."""
    precision = torch.finfo(noise.dtype)
    return noise.maximum(precision.eps**2 * scale + precision.tiny)
