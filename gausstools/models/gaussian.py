"""The Gaussian score model, solved.

For data with mean μ and covariance ``Σ = U diag(λ) Uᵀ + tail·(I − UUᵀ)``, everything along the noising path
``x_σ = x0 + σ·n`` is a function of Σ that acts on each eigendirection by itself (Wang & Vastola 2024):

* denoiser  ``D(x, σ) = μ + Σ (Σ + σ²I)⁻¹ (x − μ)``, per direction ``λ/(λ+σ²)``;
* score     ``−(Σ + σ²I)⁻¹ (x − μ)``, per direction ``−1/(λ+σ²)``;
* flow      ``μ + (Σ + σ²I)^{1/2} (Σ + σ_T²I)^{-1/2} (x_T − μ)``, per direction ``√((σ²+λ)/(σ_T²+λ))``.

So each is one call of :meth:`Gaussian._spectral` with its function of λ: two products with U, and no inverse.
"""

import math
import os
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gausstools.denoiser import Sigma, check_batch, check_count, check_sigma
from gausstools.models import files
from gausstools.models.moments import Moments

__all__ = ["Gaussian"]


class Gaussian(nn.Module):
    """The normal distribution N(μ, Σ) with ``Σ = U diag(variances) Uᵀ + tail·(I − UUᵀ)``, and its noised family.

    It is a denoiser, ``gaussian(x, sigma)``, and an ``nn.Module``: ``.to(device)``, ``.double()``. Rank 0 is isotropic;
    rank D is full, and then the tail plays no part. Units are those of the data: [-1, 1] for images.

    Args:
        mean: μ, ``(*event)``, floating point; its dtype and device become the model's.
        variances: λ, ``(rank,)``, each >= 0, in the order of the basis (``fit`` gives them decreasing).
        basis: U, ``(D, rank)`` with orthonormal columns, D the number of entries of one event.
        tail: variance in every direction outside the basis, >= 0.

    Raises:
        TypeError: for something that is no floating-point tensor.
        ValueError: for shapes that do not fit, NaN, negative variances, or a basis that is not orthonormal.

    >>> model = Gaussian(torch.zeros(2), torch.tensor([4.0]), torch.tensor([[1.0], [0.0]]), tail=1.0)
    >>> model(torch.ones(1, 2), sigma=1.0)          # λ/(λ+σ²) per direction: 4/5 and 1/2
    tensor([[0.8000, 0.5000]])
    """

    mean: Tensor
    variances: Tensor
    basis: Tensor
    tail: Tensor

    def __init__(self, mean: Tensor, variances: Tensor, basis: Tensor, tail: float | Tensor = 0.0):
        super().__init__()
        mean = _event(mean)
        like = {"dtype": mean.dtype, "device": mean.device}
        variances, basis, tail = (torch.as_tensor(value, **like) for value in (variances, basis, tail))
        if variances.ndim != 1 or basis.shape != (mean.numel(), len(variances)):
            raise ValueError(
                f"variances have shape {tuple(variances.shape)} and basis {tuple(basis.shape)}, expected (rank,) and "
                f"({mean.numel()}, rank) for events of shape {tuple(mean.shape)}"
            )
        if tail.numel() != 1:
            raise ValueError(f"tail has shape {tuple(tail.shape)}, expected one number")
        for name, values in (("variances", variances), ("tail", tail)):
            if not (values.isfinite() & (values >= 0)).all():
                raise ValueError(f"{name} hold {values.min():g}, expected finite numbers >= 0")
        _check_orthonormal(basis)
        for name, value in (("mean", mean), ("variances", variances), ("basis", basis), ("tail", tail.reshape(()))):
            self.register_buffer(name, value.detach().clone())

    # ---- making one

    @classmethod
    def fit(cls, data: Tensor | Iterable, rank: int | None = None) -> "Gaussian":
        """Return the Gaussian with the mean and covariance (divided by n) of the data.

        Args:
            data: a floating-point tensor ``(n, *event)``, or an iterable of such batches (a ``DataLoader``; of a batch
                with labels the first entry is taken), read once and accumulated in float64.
            rank: how many leading eigenpairs to keep, 0 to D; the variance of the others becomes an isotropic tail, so
                the total variance is kept (the maximum-likelihood fit of Tipping & Bishop 1999). None keeps all.

        >>> Gaussian.fit(torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), rank=1)
        Gaussian(event_shape=(2,), rank=1, tail=0.5)
        """
        return cls.from_moments(Moments.of(data), rank)

    @classmethod
    def from_moments(cls, moments: Moments, rank: int | None = None) -> "Gaussian":
        """Return the Gaussian with these moments, in the dtype and on the device of the data that they saw."""
        model = cls.from_covariance(moments.mean, moments.covariance)
        model = model if rank is None else model.truncate(rank)
        return model.to(device=moments.like.device, dtype=moments.like.dtype)

    @classmethod
    def from_covariance(cls, mean: Tensor, covariance: Tensor) -> "Gaussian":
        """Return the Gaussian with this mean, ``(*event)``, and covariance, ``(D, D)`` over the flattened event.

        The eigenpairs come in decreasing order, each vector with its largest entry positive, so that the same data
        give the same components on every machine. Eigenvalues that rounding cannot tell from 0 become 0.

        Raises:
            ValueError: if the covariance is not symmetric or has a negative eigenvalue.

        >>> Gaussian.from_covariance(torch.zeros(2), torch.tensor([[2.0, 1.0], [1.0, 2.0]])).variances
        tensor([3., 1.])
        """
        mean = _event(mean)
        check_batch(covariance, name="covariance")
        if covariance.shape != (mean.numel(), mean.numel()):
            raise ValueError(
                f"covariance has shape {tuple(covariance.shape)}, expected ({mean.numel()}, {mean.numel()}) for events "
                f"of shape {tuple(mean.shape)}"
            )
        # How far an eigenvalue may be off for the rounding of its entries: what is smaller is no variance.
        rounding = len(covariance) * torch.finfo(covariance.dtype).eps * float(covariance.detach().abs().max())
        covariance = covariance.detach().double()
        asymmetry = float((covariance - covariance.T).abs().max())
        if asymmetry > 100 * rounding:
            raise ValueError(f"covariance is not symmetric: entries differ from their mirror by up to {asymmetry:g}")
        variances, basis = torch.linalg.eigh((covariance + covariance.T) / 2)
        if variances[0] < -100 * rounding:
            raise ValueError(f"covariance has the eigenvalue {variances[0]:g}, expected none below 0")
        variances, basis = variances.where(variances > rounding, 0).flip(0), basis.flip(1)
        largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
        return cls(mean, variances, basis * largest.sign())

    @classmethod
    def isotropic(cls, mean: Tensor, variance: float | Tensor) -> "Gaussian":
        """Return N(mean, variance·I), of rank 0.

        >>> Gaussian.isotropic(torch.zeros(1, 8, 8), 0.25)
        Gaussian(event_shape=(1, 8, 8), rank=0, tail=0.25)
        """
        mean = _event(mean)
        return cls(mean, mean.new_empty(0), mean.new_empty(mean.numel(), 0), variance)

    def truncate(self, rank: int, discarded: Literal["tail", "drop"] = "tail") -> "Gaussian":
        """Return the Gaussian that keeps the ``rank`` largest variances.

        Args:
            rank: 0 to the rank of this one.
            discarded: "tail" spreads the variance of the other directions evenly over them; "drop" sets it to 0.

        >>> model = Gaussian.from_covariance(torch.zeros(3), torch.diag(torch.tensor([4.0, 2.0, 1.0])))
        >>> model.truncate(1).tail, model.truncate(1, "drop").tail
        (tensor(1.5000), tensor(0.))
        """
        rank = check_count(rank, "rank", 0, self.rank)
        if discarded not in ("tail", "drop"):
            raise ValueError(f"discarded is {discarded!r}, expected 'tail' or 'drop'")
        order = self.variances.argsort(descending=True, stable=True)
        kept, left = order[:rank], order[rank:]
        tail = 0.0
        if discarded == "tail" and rank < self.dim:
            tail = (self.variances[left].sum() + self.tail * (self.dim - self.rank)) / (self.dim - rank)
        return type(self)(self.mean, self.variances[kept], self.basis[:, kept], tail)

    # ---- what it is

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one data point."""
        return self.mean.shape

    @property
    def dim(self) -> int:
        """D, the number of entries of one data point."""
        return self.mean.numel()

    @property
    def rank(self) -> int:
        """Number of eigenpairs that are kept."""
        return len(self.variances)

    @property
    def covariance(self) -> Float[Tensor, "dim dim"]:
        """Σ as a dense matrix, ``(D, D)`` over the flattened event."""
        return self._spectral(lambda variance: variance, torch.eye(self.dim).to(self.mean))

    @property
    def total_variance(self) -> Float[Tensor, ""]:
        """The trace of Σ: the mean squared distance of a sample from the mean."""
        return self.variances.sum() + self.tail * (self.dim - self.rank)

    def extra_repr(self) -> str:
        """Return what ``repr`` shows."""
        return f"event_shape={tuple(self.event_shape)}, rank={self.rank}, tail={self.tail.item():.4g}"

    # ---- what it answers

    def forward(self, x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, "batch *event"]:
        """Return the denoiser ``E[x0 | x_σ = x] = μ + Σ(Σ+σ²I)⁻¹(x−μ)``.

        At σ = 0 it is the limit: ``x`` itself, projected onto the support of a singular Σ.

        Args:
            x: ``(batch, *event)``, in the model's dtype.
            sigma: noise level >= 0, a float or ``(batch,)``.
        """
        centred, level = self._centred(x), check_sigma(sigma, x)[:, None]
        return self._return(self._spectral(lambda v: _ratio(v, v + level**2), centred), x)

    def score(self, x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, "batch *event"]:
        """Return ``∇ log p(x; σ) = −(Σ+σ²I)⁻¹(x−μ)``, accurate at small σ too.

        Raises:
            ValueError: at σ = 0 where Σ is singular, since there is no density.
        """
        centred, level = self._centred(x), check_sigma(sigma, x)[:, None]
        self._check_density(level)
        return -self._spectral(lambda v: 1 / (v + level**2), centred).reshape(x.shape)

    def log_prob(self, x: Float[Tensor, "batch *event"], sigma: Sigma = 0.0) -> Float[Tensor, " batch"]:
        """Return the log density of ``x`` under N(μ, Σ+σ²I), in nats, ``(batch,)``.

        Raises:
            ValueError: at σ = 0 where Σ is singular, since there is no density.
        """
        centred, level = self._centred(x), check_sigma(sigma, x)[:, None]
        self._check_density(level)
        inside = centred @ self.basis
        spread = self.variances + level**2
        mahalanobis = (inside**2 / spread).sum(1)
        log_determinant = spread.log().sum(1)
        if self.rank < self.dim:
            outside = centred - inside @ self.basis.T
            spread = (self.tail + level**2)[:, 0]
            mahalanobis = mahalanobis + (outside**2).sum(1) / spread
            log_determinant = log_determinant + (self.dim - self.rank) * spread.log()
        return -0.5 * (mahalanobis + log_determinant + self.dim * math.log(2 * math.pi))

    def sample(
        self, n: int, sigma: float = 0.0, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n *event"]:
        """Return n draws from N(μ, Σ+σ²I), ``(n, *event)``.

        Args:
            n: how many, >= 0.
            sigma: noise level >= 0; 0 draws clean data.
            generator: on the model's device; None uses torch's global one.

        >>> Gaussian.isotropic(torch.zeros(1, 8, 8), 1.0).sample(4).shape
        torch.Size([4, 1, 8, 8])
        """
        n = check_count(n, "n", 0)
        white = torch.randn(n, self.dim, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        level = check_sigma(sigma, white)[:, None]
        return self._return(self._spectral(lambda v: (v + level**2).sqrt(), white), (n, *self.event_shape))

    def flow(
        self, x: Float[Tensor, "batch *event"], sigma_from: Sigma, sigma_to: Sigma
    ) -> Float[Tensor, "batch *event"]:
        """Return where the probability flow ``dx/dσ = (x − D(x, σ))/σ`` carries ``x``: exactly, in either direction.

        ``x_σ = μ + Σ_k √((σ²+λ_k)/(σ_T²+λ_k)) u_k u_kᵀ (x_T − μ)``, and the same factor with the tail off the span
        (Wang & Vastola 2024). Down from σ_T it is sampling; from ``sigma_max`` to ``sigma_skip`` it is
        analytical teleportation.

        Args:
            x: ``(batch, *event)``, a VE state at level sigma_from.
            sigma_from, sigma_to: noise levels >= 0, floats or ``(batch,)``.

        Raises:
            ValueError: upwards from σ = 0 where Σ is singular: the flow down to 0 has forgotten those directions.

        >>> model = Gaussian.isotropic(torch.zeros(2), 1.0)
        >>> model.flow(torch.ones(1, 2), 7.0, 1.0)                 # √((1+1)/(49+1)) = 0.2
        tensor([[0.2000, 0.2000]])
        """
        centred = self._centred(x)
        start = check_sigma(sigma_from, x, "sigma_from")[:, None]
        end = check_sigma(sigma_to, x, "sigma_to")[:, None]
        if ((start == 0) & (end > 0)).any() and self._smallest_variance() == 0:
            raise ValueError(
                "sigma_from is 0 and the covariance singular: the flow down to 0 forgot the directions without "
                "variance and cannot be run back. Start above 0"
            )

        def factor(variance):
            deviation = variance.sqrt()
            return _ratio(torch.hypot(end, deviation), torch.hypot(start, deviation))

        return self._return(self._spectral(factor, centred), x)

    # ---- files

    def save(self, path: str | os.PathLike) -> None:
        """Write the model as safetensors; an interrupted call leaves the old file, or none."""
        files.write(path, "Gaussian", dict(self.named_buffers()))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Gaussian":
        """Return the model in a file that ``save`` wrote, on the CPU.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged or holds something else.
        """
        tensors = files.read(path, "Gaussian")
        odd = {"mean", "variances", "basis", "tail"} ^ tensors.keys()
        if odd:
            raise ValueError(f"{path} is no complete Gaussian: missing or unknown are {', '.join(sorted(odd))}")
        return cls(**tensors)

    # ---- the one formula

    def _spectral(self, function: Callable[[Tensor], Tensor], centred: Tensor) -> Tensor:
        """Return ``f(Σ)·v`` for each row v: ``U (f(λ) − f(tail)) Uᵀ v + f(tail) v``, two products with U.

        ``function`` maps variances ``(k,)`` to factors ``(1 or batch, k)``.
        """
        inside = centred @ self.basis
        factors = function(self.variances)
        if self.rank == self.dim:
            return (inside * factors) @ self.basis.T
        outside = function(self.tail.reshape(1))
        return outside * centred + (inside * (factors - outside)) @ self.basis.T

    def _centred(self, x: Tensor) -> Tensor:
        check_batch(x, self.event_shape)
        if x.dtype != self.mean.dtype:
            raise TypeError(f"x is {x.dtype} and the Gaussian {self.mean.dtype}; convert one: gaussian.to(x.dtype)")
        return (x - self.mean).reshape(len(x), -1)

    def _return(self, centred: Tensor, like: Tensor | tuple[int, ...]) -> Tensor:
        shape = like.shape if isinstance(like, Tensor) else like
        return self.mean + centred.reshape(shape)

    def _smallest_variance(self) -> float:
        smallest = [self.variances.min()] if self.rank else []
        return float(min(smallest + ([self.tail] if self.rank < self.dim else [])))

    def _check_density(self, level: Tensor) -> None:
        if (level == 0).any() and self._smallest_variance() == 0:
            raise ValueError("sigma is 0 and the covariance singular: there is no density. Use sigma > 0, or a tail")


def _event(mean: Tensor) -> Tensor:
    if not isinstance(mean, Tensor) or not mean.is_floating_point():
        given = mean.dtype if isinstance(mean, Tensor) else type(mean).__name__
        raise TypeError(f"mean is {given}, expected a floating-point tensor of the event's shape")
    if mean.ndim == 0 or mean.numel() == 0:
        raise ValueError(f"mean has shape {tuple(mean.shape)}, expected the event's shape, e.g. (2,) or (1, 28, 28)")
    if not mean.isfinite().all():
        raise ValueError("mean holds NaN or infinite values")
    return mean


def _check_orthonormal(basis: Tensor) -> None:
    error = float((basis.T @ basis - torch.eye(basis.shape[1]).to(basis)).abs().max()) if basis.numel() else 0.0
    if not error < 1e3 * torch.finfo(basis.dtype).eps * max(1, basis.shape[0] ** 0.5):
        raise ValueError(f"basis is not orthonormal: UᵀU differs from the identity by up to {error:g}")


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, and 0 where both are 0: the limit in a direction without variance."""
    return numerator / torch.where(denominator == 0, 1, denominator)
