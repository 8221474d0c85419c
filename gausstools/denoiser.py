"""The denoiser: the one protocol that models, networks and samplers share.

A denoiser is any callable ``D(x, sigma) -> E[x0 | x]`` for ``x = x0 + sigma·n``. Tweedie's formula ties it to the score
of the noised distribution, ``∇ log p(x; σ) = (D(x, σ) − x) / σ²`` (Robbins 1956; Miyasawa 1961), so whoever has one has
the other.
"""

import math
import numbers
import operator
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Denoiser", "Sigma", "score"]

Sigma = float | int | Tensor
"""A noise level: a number, or a tensor with one value for all or one per row of the batch."""


Denoiser = Callable[[Tensor, Sigma], Tensor]
"""Any callable that maps a noised batch, ``(batch, *event)``, and its noise level, a float or ``(batch,)`` in the units
of the batch, to the posterior mean ``E[x0 | x0 + sigma·n = x]``, in the shape of the batch."""


def score(denoiser: Denoiser, x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, "batch *event"]:
    """Return the score ``(D(x, σ) − x) / σ²`` of the distribution that a denoiser belongs to.

    The difference loses digits when σ is far below the scale of ``x``; the analytic models' own ``.score`` does not.

    Args:
        denoiser: any denoiser.
        x: ``(batch, *event)``.
        sigma: noise level > 0, a float or ``(batch,)``.

    Raises:
        ValueError: if sigma is 0, where the score of a general distribution is not defined by its denoiser; if the
            denoiser answers in another shape; or if the score is too large for the dtype.

    >>> prior = lambda x, sigma: x / (1 + sigma**2)      # the denoiser of a standard normal
    >>> score(prior, torch.ones(1, 2), 2.0)              # −x / (1 + σ²)
    tensor([[-0.2000, -0.2000]])
    """
    level = along_batch(check_sigma(sigma, check_batch(x)), x)
    if (level == 0).any():
        raise ValueError("sigma is 0 in the batch, expected sigma > 0: (D(x, σ) − x) / σ² has no value there")
    denoised = denoiser(x, sigma)
    if denoised.shape != x.shape:
        raise ValueError(f"the denoiser answers in shape {tuple(denoised.shape)}, expected {tuple(x.shape)}")
    # In two steps, since σ² may leave the range of the dtype where the score does not.
    return in_dtype((denoised - x.to(level)) / level / level, x.dtype)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: float32 for integers and half precision, which store, else the dtype itself."""
    return dtype if dtype.is_floating_point and dtype.itemsize >= 4 else torch.float32


def check_batch(x: Tensor, event_shape: torch.Size | None = None, name: str = "x") -> Tensor:
    """Return ``x`` if it is a finite floating-point batch ``(batch, *event_shape)``, else raise.

    Raises:
        TypeError: if it is no floating-point tensor.
        ValueError: if its shape does not fit, or it holds NaN or infinity.
    """
    return check_values(check_shape(x, event_shape, name), name)


def check_shape(x: Tensor, event_shape: torch.Size | None = None, name: str = "x") -> Tensor:
    """Return ``x`` if it is a floating-point batch ``(batch, *event_shape)``, else raise TypeError or ValueError."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is {type(x).__name__}, expected a torch.Tensor of shape {_batch_of(event_shape)}")
    if not x.is_floating_point():
        raise TypeError(f"{name} has dtype {x.dtype}, expected a floating-point tensor; images live in [-1, 1]")
    if x.ndim == 0 or (event_shape is not None and x.shape[1:] != event_shape):
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {_batch_of(event_shape)}")
    return x


def check_values(x: Tensor, name: str = "x", largest: float = math.inf) -> Tensor:
    """Return ``x`` if it holds no NaN or infinity, and nothing above ``largest`` in magnitude, else raise ValueError.

    Such a largest value is what a computation in the dtype can take.
    """
    if x.numel() == 0:
        return x
    # The extremes are found several times faster than each entry is looked at; NaN is both.
    extremes = torch.stack(torch.aminmax(x.detach())).abs()
    if (extremes < largest).all():
        return x
    bad = x.numel() - int(x.detach().isfinite().sum())
    if bad:
        raise ValueError(f"{name} holds {bad} values that are NaN or infinite, of {x.numel()}")
    raise ValueError(
        f"{name} holds values up to {extremes.max():.3g}, expected at most {largest:.3g}: squares leave the range of "
        f"{x.dtype}. Use smaller units or float64"
    )


def in_dtype(values: Tensor, dtype: torch.dtype, name: str = "the answer") -> Tensor:
    """Return values in a dtype, or raise ValueError if they are NaN or infinite there."""
    found = values.to(dtype)
    if found.numel() and not torch.stack(torch.aminmax(found.detach())).isfinite().all():
        largest = values.detach().abs().max()
        raise ValueError(f"{name} reaches {largest:.3g}, which {dtype} cannot hold; use a wider dtype")
    return found


def check_sigma(sigma: Sigma, x: Tensor, name: str = "sigma") -> Tensor:
    """Return the noise level as a tensor ``(1,)`` or ``(batch,)`` on the device of ``x``, else raise.

    Its dtype is that of ``x``, or float32 if that is half precision, in which σ² would leave the range.

    Raises:
        TypeError: if it is neither a number nor a tensor of numbers.
        ValueError: if it is negative, NaN, infinite or so large that its square is infinite, or has neither one value
            nor one per row of ``x``.
    """
    dtype = working_dtype(x.dtype)
    largest = math.sqrt(torch.finfo(dtype).max)
    if isinstance(sigma, bool) or not isinstance(sigma, (numbers.Real, Tensor)):
        raise TypeError(f"{name} is {type(sigma).__name__}, expected a float or a tensor of shape ({len(x)},)")
    if isinstance(sigma, Tensor) and (sigma.dtype == torch.bool or sigma.is_complex()):
        raise TypeError(f"{name} has dtype {sigma.dtype}, expected real numbers")
    if not isinstance(sigma, Tensor):
        if not 0 <= sigma <= largest:
            raise ValueError(f"{name} is {sigma}, expected a finite number >= 0, at most {largest:.2g} in {dtype}")
        return x.new_full((1,), float(sigma), dtype=dtype)
    if sigma.numel() != 1 and sigma.shape != x.shape[:1]:
        raise ValueError(
            f"{name} has shape {tuple(sigma.shape)}, expected one value or one per row of the batch: ({len(x)},)"
        )
    level = sigma.reshape(-1).to(x.device, dtype)
    if not ((level.detach() >= 0) & (level.detach() <= largest)).all():
        raise ValueError(
            f"{name} lies between {sigma.min():g} and {sigma.max():g}, expected finite numbers >= 0, at most "
            f"{largest:.2g} in {dtype}"
        )
    return level


def check_count(value: int, name: str, low: int, high: int | None = None) -> int:
    """Return a whole number from ``low`` to ``high`` (without end if None), else raise ValueError."""
    try:
        count = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = None
    if count is None or count < low or (high is not None and count > high):
        expected = f">= {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} is {value!r}, expected an integer {expected}")
    return count


def check_choice(value: str, name: str, *choices: str) -> None:
    """Raise ValueError if a value is none of the choices."""
    if value not in choices:
        *others, last = map(repr, choices)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{name} is {value!r}, expected {expected}")


def along_batch(values: Tensor, x: Tensor) -> Tensor:
    """Reshape ``(1,)`` or ``(batch,)`` so that it multiplies ``x``, ``(batch, *event)``, row by row."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def _batch_of(event_shape: torch.Size | None) -> str:
    return "(batch, *event)" if event_shape is None else f"(batch, {', '.join(map(str, event_shape))})"


def check_that(true: bool | Tensor, given: str, expected: str) -> None:
    """Raise ValueError, which says what was given and what is expected, if that is not true."""
    if not true:
        raise ValueError(f"{given}, expected {expected}")
