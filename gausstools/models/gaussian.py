"""The Gaussian score model, solved.

For data with mean μ and covariance ``Σ = U diag(λ) Uᵀ + tail·(I − UUᵀ)``, everything along the noising path
``x_σ = x0 + σ·n`` is a function of Σ, and acts on each eigendirection by itself (Wang & Vastola 2024):

* denoiser  ``D(x, σ) = μ + Σ (Σ + σ²I)⁻¹ (x − μ)``, per direction ``λ/(λ+σ²)``;
* score     ``−(Σ + σ²I)⁻¹ (x − μ)``, per direction ``−1/(λ+σ²)``;
* flow      ``μ + (Σ + σ²I)^{1/2} (Σ + σ_T²I)^{-1/2} (x_T − μ)``, per direction ``√((σ²+λ)/(σ_T²+λ))``.

So each is a call of :meth:`gausstools.Spectrum.apply` with its function of λ.
"""

import copy
import math
from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import Sigma, check_batch, check_count, check_sigma, working_dtype
from gausstools.models.base import ScoreModel, check_event
from gausstools.models.batches import labelled_batches
from gausstools.models.eigen import eigenpairs
from gausstools.models.moments import Moments
from gausstools.models.spectrum import Spectrum, flow_factor, gain, posterior_variance

__all__ = ["Gaussian"]


class Gaussian(ScoreModel):
    """The normal distribution N(μ, Σ) with ``Σ = U diag(variances) Uᵀ + tail·(I − UUᵀ)``, and its noised family.

    It is a denoiser, ``gaussian(x, sigma)``, and an ``nn.Module``: ``.to(device)``, ``.double()``. Rank 0 is isotropic;
    rank D is full, and then the tail plays no part. Units are those of the data: [-1, 1] for images.

    Args:
        mean: μ, ``(*event)``, floating point; its dtype and device become the model's, which computes in float32 at
            least.
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

    variances: Tensor
    basis: Tensor
    tail: Tensor

    _SAVED = ("mean", "variances", "basis", "tail")

    def __init__(self, mean: Tensor, variances: Tensor, basis: Tensor, tail: float | Tensor = 0.0):
        super().__init__()
        spectrum = Spectrum.checked(variances, basis, tail, check_event(mean).to(working_dtype(mean.dtype)))
        own = {"mean": mean, **spectrum._asdict()}
        own = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in own.items()}
        self._hold(mean.dtype, **own)

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
    def fit_classes(
        cls, data: Tensor | Iterable, labels: Tensor | None = None, rank: int | None = None, *, shared_covariance=False
    ) -> "dict[int, Gaussian]":
        """Return the Gaussian of each class of labelled data, by label in increasing order.

        Args:
            data: a floating-point tensor ``(n, *event)``, or an iterable of batches ``(x, labels)``, read once.
            labels: integers ``(n,)``; None when each batch brings its own.
            rank: how many leading eigenpairs each keeps, as in ``fit``.
            shared_covariance: give all the average covariance within a class (linear discriminant analysis), held in
                memory once, instead of each its own (quadratic).

        Raises:
            ValueError: if data and labels differ in length, or there are none.

        >>> x = torch.tensor([[0.0], [2.0], [9.0], [9.0]])
        >>> family = Gaussian.fit_classes(x, torch.tensor([0, 0, 7, 7]))
        >>> {label: (model.mean.item(), model.total_variance.item()) for label, model in family.items()}
        {0: (1.0, 1.0), 7: (9.0, 0.0)}
        """
        total, classes = Moments(), {}
        for x, y in labelled_batches(data, labels):
            for label in y.unique().tolist():
                rows = x[(y == label).to(x.device)]
                if shared_covariance:
                    total.update(rows)
                    count, so_far = classes.get(label, (0, 0.0))
                    classes[label] = count + len(rows), so_far + rows.detach().double().sum(0)
                else:
                    classes.setdefault(label, Moments()).update(rows)
        if not classes:
            raise ValueError("no data was given: expected at least one batch with at least one row")
        if not shared_covariance:
            return {label: cls.from_moments(moments, rank) for label, moments in sorted(classes.items())}
        # The scatter within the classes is the total scatter less that of their means.
        within, means = total.covariance, {}
        for label, (count, summed) in sorted(classes.items()):
            means[label] = summed / count
            offset = (means[label] - total.mean).flatten()
            within.addr_(offset, offset, alpha=-count / total.count)
        shared = cls.from_covariance(total.mean, within, rank).to(total.like)
        return {label: shared.with_mean(mean.to(shared.mean)) for label, mean in means.items()}

    @classmethod
    def from_moments(cls, moments: Moments, rank: int | None = None) -> "Gaussian":
        """Return the Gaussian with these moments, in the dtype and on the device of the data that they saw."""
        return cls.from_covariance(moments.mean, moments.covariance, rank).to(moments.like)

    @classmethod
    def from_covariance(cls, mean: Tensor, covariance: Tensor, rank: int | None = None) -> "Gaussian":
        """Return the Gaussian with this mean, ``(*event)``, and covariance, ``(D, D)`` over the flattened event.

        The eigenpairs come in decreasing order, each vector with its largest entry positive, so that the same data
        give the same components on every machine. Eigenvalues that rounding cannot tell from 0 become 0. With a rank,
        only the leading pairs are computed, and the rest of the trace becomes the tail.

        Raises:
            ValueError: if the covariance is not symmetric or has a negative eigenvalue (the smallest one is looked at
                only without a rank).

        >>> Gaussian.from_covariance(torch.zeros(2), torch.tensor([[2.0, 1.0], [1.0, 2.0]])).variances
        tensor([3., 1.])
        """
        dim = check_event(mean).numel()
        rank = None if rank is None else check_count(rank, "rank", 0, dim)
        check_batch(covariance, name="covariance")
        if covariance.shape != (dim, dim):
            raise ValueError(f"covariance has shape {tuple(covariance.shape)}, expected ({dim}, {dim})")
        # How far an eigenvalue may be off for the rounding of its entries: what is smaller is no variance.
        rounding = dim * torch.finfo(covariance.dtype).eps * float(covariance.detach().abs().max())
        covariance = covariance.detach().double()
        asymmetry = float((covariance - covariance.T).abs().max())
        if asymmetry > 100 * rounding:
            raise ValueError(f"covariance is not symmetric: entries differ from their mirror by up to {asymmetry:g}")
        variances, basis = eigenpairs((covariance + covariance.T) / 2, rank)
        if len(variances) and variances[-1] < -100 * rounding:
            raise ValueError(f"covariance has the eigenvalue {variances[-1]:g}, expected none below 0")
        return cls(mean, *Spectrum.leading(variances, basis, covariance.trace(), rounding))

    @classmethod
    def isotropic(cls, mean: Tensor, variance: float | Tensor) -> "Gaussian":
        """Return N(mean, variance·I), of rank 0.

        >>> Gaussian.isotropic(torch.zeros(1, 8, 8), 0.25)
        Gaussian(event_shape=(1, 8, 8), rank=0, tail=0.25)
        """
        none = torch.empty(check_event(mean).numel(), 0)
        return cls(mean, none[0], none, variance)

    def truncate(self, rank: int, discarded: Literal["tail", "drop"] = "tail") -> "Gaussian":
        """Return the Gaussian that keeps the ``rank`` largest variances.

        Args:
            rank: 0 to the rank of this one.
            discarded: "tail" spreads the variance of the other directions evenly over them; "drop" sets it to 0.

        >>> model = Gaussian.from_covariance(torch.zeros(3), torch.diag(torch.tensor([4.0, 2.0, 1.0])))
        >>> model.truncate(1).tail, model.truncate(1, "drop").tail
        (tensor(1.5000), tensor(0.))
        """
        return type(self)(self.mean, *self.spectrum.truncate(rank, discarded)).to(self.dtype)

    def with_mean(self, mean: Tensor) -> "Gaussian":
        """Return N(mean, Σ): the same covariance around another mean, ``(*event)``.

        The tensors of Σ are one in memory: what is written into them in place is written for both. Loading a state and
        moving to another device or dtype are for one alone.

        >>> Gaussian.isotropic(torch.zeros(2), 1.0).with_mean(torch.ones(2)).mean
        tensor([1., 1.])
        """
        if check_event(mean).shape != self.event_shape or working_dtype(mean.dtype) != self.mean.dtype:
            expected = f"{self.mean.dtype} of shape {tuple(self.event_shape)}"
            raise ValueError(f"mean is {mean.dtype} of shape {tuple(mean.shape)}, expected {expected}")
        other = copy.copy(self)
        other._buffers = {**self._buffers, "mean": mean.detach().clone().to(self.mean)}
        return other

    def noised(self, sigma: float) -> "Gaussian":
        """Return N(μ, Σ+σ²I), the law of ``x0 + σ·n``.

        >>> Gaussian.isotropic(torch.zeros(2), 1.0).noised(3.0)
        Gaussian(event_shape=(2,), rank=0, tail=10)
        """
        level = check_sigma(sigma, self.mean[None])
        return type(self)(self.mean, self.variances + level**2, self.basis, self.tail + level**2).to(self.dtype)

    # ---- what it is

    @property
    def spectrum(self) -> Spectrum:
        """Σ as an object, of the same tensors."""
        return Spectrum(self.variances, self.basis, self.tail)

    @property
    def rank(self) -> int:
        """Number of eigenpairs that are kept."""
        return len(self.variances)

    @property
    def covariance(self) -> Float[Tensor, "dim dim"]:
        """Σ as a dense matrix, ``(D, D)`` over the flattened event."""
        return self.spectrum.dense()

    @property
    def total_variance(self) -> Float[Tensor, ""]:
        """The trace of Σ: the mean squared distance of a sample from the mean."""
        return self.spectrum.trace()

    def extra_repr(self) -> str:
        """Return what ``repr`` shows."""
        return f"event_shape={tuple(self.event_shape)}, rank={self.rank}, tail={self.tail.item():.4g}"

    # ---- what it answers

    def _offset(self, rows: Tensor, level: Tensor) -> Tensor:
        """Return ``D − μ = Σ(Σ+σ²I)⁻¹(x−μ)``."""
        return self.spectrum.apply(lambda v: gain(v, level**2), rows)

    def _score(self, rows: Tensor, level: Tensor) -> Tensor:
        """Return ``−(Σ+σ²I)⁻¹(x−μ)``."""
        return self.spectrum.apply(lambda v: -1 / (v + level**2), rows)

    def _log_density(self, rows: Tensor, level: Tensor) -> Tensor:
        """Return ``−½ [(x−μ)ᵀ(Σ+σ²I)⁻¹(x−μ) + ln det(Σ+σ²I) + D ln 2π]``."""
        mahalanobis = self.spectrum.quadratic(lambda v: 1 / (v + level**2), rows)
        log_determinant = self.spectrum.trace(lambda v: (v + level**2).log())
        return -0.5 * (mahalanobis + log_determinant + self.dim * math.log(2 * math.pi))

    def _posterior_variance(self, rows: Tensor, level: Tensor) -> Tensor:
        """Return the trace of ``σ²Σ(Σ+σ²I)⁻¹``: the same at every x."""
        return self.spectrum.trace(lambda v: posterior_variance(v, level**2)).expand(len(rows))

    def _draw(self, n: int, sigma: float, generator: torch.Generator | None) -> Tensor:
        white = torch.randn(n, self.dim, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.spectrum.apply(lambda v: (v + sigma**2).sqrt(), white)

    def flow(self, x: Float[Tensor, "batch *event"], sigma_from: Sigma, sigma_to: Sigma) -> Float[Tensor, "..."]:
        """Return where the probability flow ``dx/dσ = (x − D(x, σ))/σ`` carries ``x``: exactly, in either direction.

        ``x_σ = μ + Σ_k √((σ²+λ_k)/(σ_T²+λ_k)) u_k u_kᵀ (x_T − μ)``, and the same factor with the tail off the span
        (Wang & Vastola 2024). Down from σ_T it is sampling; from ``sigma_max`` to ``sigma_skip`` it is
        analytical teleportation.

        Args:
            x: ``(batch, *event)``, a VE state at level sigma_from.
            sigma_from, sigma_to: noise levels >= 0, floats or ``(batch,)``. With ``sigma_to`` of shape ``(levels, 1)``
                or ``(levels, batch)`` the whole path is returned, ``(levels, batch, *event)``: one product with the
                basis less per level than to ask for each alone.

        Raises:
            ValueError: upwards from σ = 0 where Σ is singular: the flow down to 0 has forgotten those directions.

        >>> model = Gaussian.isotropic(torch.zeros(2), 1.0)
        >>> model.flow(torch.ones(1, 2), 7.0, 1.0)                 # √((1+1)/(49+1)) = 0.2
        tensor([[0.2000, 0.2000]])
        >>> model.flow(torch.ones(1, 2), 7.0, torch.tensor([[7.0], [1.0], [0.0]])).shape      # a path
        torch.Size([3, 1, 2])
        """
        rows, start = self.validate(x, 0.0)[0], check_sigma(sigma_from, x, "sigma_from")[:, None]
        path = isinstance(sigma_to, Tensor) and sigma_to.ndim == 2 and len(sigma_to) > 0
        end = torch.stack([check_sigma(s, x, "sigma_to")[:, None] for s in (sigma_to if path else [sigma_to])])
        if ((start == 0) & (end > 0)).any() and self._smallest_variance() == 0:
            forgotten = "the flow down to 0 forgot the directions without variance and cannot be run back"
            raise ValueError(f"sigma_from is 0 and the covariance singular: {forgotten}. Start above 0")
        moved = self._events(self.spectrum.apply(lambda v: flow_factor(v, start, end), rows), x.dtype)
        return moved if path else moved[0]

    def _smallest_variance(self) -> float:
        return float(self.spectrum.values.min())
