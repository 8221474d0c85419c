"""What all analytic models have in common: one interface, the checks of a question, and files.

Each is a distribution of clean data ``x0`` together with its noised family, the laws of ``x0 + σ·n``, named in the
words of ``torch.distributions``. As a callable it is the denoiser of that family.
"""

import os
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gausstools.denoiser import Sigma, check_batch, check_count, check_sigma
from gausstools.models import files

__all__ = ["ScoreModel"]


class ScoreModel(nn.Module):
    """A distribution whose noised density, score and denoiser are known in closed form.

    It is an ``nn.Module``: ``.to(device)``, ``.double()``. Points come as ``(batch, *event)`` in the model's dtype,
    noise levels as a float or ``(batch,)`` in the units of the data.

    >>> import gausstools as gt
    >>> cloud = gt.PointCloud(torch.tensor([[-1.0], [1.0]]))
    >>> mixture = gt.Mixture([0.5, 0.5], [gt.Gaussian.isotropic(x, 0.0) for x in cloud.data])
    >>> [round(model(torch.tensor([[2.0]]), sigma=2.0).item(), 3) for model in (cloud, mixture, cloud.to_gaussian())]
    [0.462, 0.462, 0.4]
    >>> isinstance(cloud, gt.models.ScoreModel)
    True
    """

    mean: Tensor

    def __init__(self):
        super().__init__()
        self.register_load_state_dict_post_hook(_derive_again)

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one data point."""
        return self.mean.shape

    @property
    def dim(self) -> int:
        """D, the number of entries of one data point."""
        return self.mean.numel()

    # ---- what each of them answers

    def forward(self, x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, "batch *event"]:
        """Return the denoiser ``E[x0 | x_σ = x]``."""
        raise NotImplementedError

    def score(self, x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, "batch *event"]:
        """Return ``∇ log p(x; σ)``."""
        raise NotImplementedError

    def log_prob(self, x: Float[Tensor, "batch *event"], sigma: Sigma = 0.0) -> Float[Tensor, " batch"]:
        """Return the log density of ``x0 + σ·n`` at ``x``, in nats."""
        raise NotImplementedError

    def posterior_variance(self, x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, " batch"]:
        """Return the total variance of the clean data given the noised, the trace of ``Cov[x0 | x_σ = x]``.

        It is what the denoiser cannot know: its squared error at ``x``, expected. It equals ``σ²·div D``.
        """
        raise NotImplementedError

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
        level = check_sigma(sigma, self.mean.new_empty(n, 0))
        if len(level) > 1:
            raise ValueError(f"sigma has shape ({len(level)},), expected one number for all draws")
        return self._return(self._draw(n, level.item(), generator), (n, *self.event_shape))

    def _draw(self, n: int, sigma: float, generator: torch.Generator | None) -> Tensor:
        """Return n draws around the mean, ``(n, D)``."""
        raise NotImplementedError

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
        return cls._restore(**tensors)

    _SAVED: tuple[str, ...] = ()

    @classmethod
    def _restore(cls, **tensors: Tensor) -> "ScoreModel":
        return cls(**tensors)

    def _derive(self) -> None:
        """Compute again what follows from the saved tensors."""

    def _apply(self, fn: Callable, recurse: bool = True) -> "ScoreModel":
        # nn.Module moves and converts its buffers here; what derives from them must not keep the old precision.
        super()._apply(fn, recurse)
        self._derive()
        return self

    # ---- checks

    def _question(self, x: Tensor, sigma: Sigma) -> tuple[Tensor, Tensor]:
        """Return the points, centred at the mean, ``(batch, D)``, and the noise levels, ``(1 or batch, 1)``."""
        check_batch(x, self.event_shape)
        if x.dtype != self.mean.dtype:
            name = type(self).__name__
            raise TypeError(f"x is {x.dtype} and the {name} {self.mean.dtype}; convert one: model.to(x.dtype)")
        return (x - self.mean).flatten(1), check_sigma(sigma, x)[:, None]

    def _check_density(self, level: Tensor) -> None:
        if (level == 0).any() and self._smallest_variance() == 0:
            raise ValueError("sigma is 0 and the covariance singular: there is no density. Use sigma > 0, or a tail")

    def _smallest_variance(self) -> float:
        """Return the variance of clean data in the direction where it is smallest."""
        raise NotImplementedError

    def _return(self, centred: Tensor, like: Tensor | tuple[int, ...]) -> Tensor:
        """Return rows around the mean in the event's shape."""
        shape = like.shape if isinstance(like, Tensor) else like
        return self.mean + centred.reshape(shape)


def _derive_again(model: ScoreModel, _: object) -> None:
    model._derive()


def check_event(mean: Tensor, name: str = "mean") -> Tensor:
    """Return one finite floating-point event, else raise TypeError or ValueError."""
    if not isinstance(mean, Tensor) or not mean.is_floating_point():
        given = mean.dtype if isinstance(mean, Tensor) else type(mean).__name__
        raise TypeError(f"{name} is {given}, expected a floating-point tensor of the event's shape")
    if mean.ndim == 0 or mean.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(mean.shape)}, expected the event's shape, e.g. (2,) or (1, 28, 28)")
    if not mean.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite values")
    return mean


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, and 0 where both are 0: the limit in a direction without variance."""
    return numerator / torch.where(denominator == 0, 1, denominator)
