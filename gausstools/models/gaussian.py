"""The Gaussian score model, solved.

For data with mean μ and covariance ``Σ = U diag(λ) Uᵀ + tail·(I − UUᵀ)``, everything along the noising path
``x_σ = x0 + σ·n`` is a function of Σ that acts on each eigendirection by itself (Wang & Vastola 2024):

* denoiser  ``D(x, σ) = μ + Σ (Σ + σ²I)⁻¹ (x − μ)``, per direction ``λ/(λ+σ²)``;
* score     ``−(Σ + σ²I)⁻¹ (x − μ)``, per direction ``−1/(λ+σ²)``;
* flow      ``μ + (Σ + σ²I)^{1/2} (Σ + σ_T²I)^{-1/2} (x_T − μ)``, per direction ``√((σ²+λ)/(σ_T²+λ))``.

So each is one call of :meth:`Gaussian._spectral` with its function of λ: two products with U, and no inverse.
"""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import Sigma, check_batch, check_count, check_sigma, working_dtype
from gausstools.models.base import ScoreModel, as_asked, check_event, ratio
from gausstools.models.batches import labelled_batches
from gausstools.models.eigen import eigenpairs
from gausstools.models.moments import Moments

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
        mean = check_event(mean)
        rounding = torch.finfo(basis.dtype).eps if isinstance(basis, Tensor) and basis.is_floating_point() else 0.0
        like = {"dtype": working_dtype(mean.dtype), "device": mean.device}
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
        _check_orthonormal(basis, rounding)
        own = {"mean": mean, "variances": variances, "basis": basis, "tail": tail.reshape(())}
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
        cls,
        data: Tensor | Iterable,
        labels: Tensor | None = None,
        rank: int | None = None,
        *,
        shared_covariance: bool = False,
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
        total, sums, classes = Moments(), {}, {}
        for x, y in labelled_batches(data, labels):
            for label in y.unique().tolist():
                rows = x[(y == label).to(x.device)]
                if shared_covariance:
                    total.update(rows)
                    count, so_far = sums.get(label, (0, 0.0))
                    sums[label] = count + len(rows), so_far + rows.detach().double().sum(0)
                else:
                    classes.setdefault(label, Moments()).update(rows)
        if not sums and not classes:
            raise ValueError("no data was given: expected at least one batch with at least one row")
        if not shared_covariance:
            return {label: cls.from_moments(classes[label], rank) for label in sorted(classes)}
        # The scatter within the classes is the total scatter less that of their means.
        means = {label: sums[label][1] / sums[label][0] for label in sorted(sums)}
        within = total.covariance
        for label, mean in means.items():
            offset = (mean - total.mean).flatten()
            within.addr_(offset, offset, alpha=-sums[label][0] / total.count)
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
        mean = check_event(mean)
        dim = mean.numel()
        rank = None if rank is None else check_count(rank, "rank", 0, dim)
        check_batch(covariance, name="covariance")
        if covariance.shape != (dim, dim):
            raise ValueError(
                f"covariance has shape {tuple(covariance.shape)}, expected ({dim}, {dim}) for events of shape "
                f"{tuple(mean.shape)}"
            )
        # How far an eigenvalue may be off for the rounding of its entries: what is smaller is no variance.
        rounding = dim * torch.finfo(covariance.dtype).eps * float(covariance.detach().abs().max())
        covariance = covariance.detach().double()
        asymmetry = float((covariance - covariance.T).abs().max())
        if asymmetry > 100 * rounding:
            raise ValueError(f"covariance is not symmetric: entries differ from their mirror by up to {asymmetry:g}")
        variances, basis = eigenpairs((covariance + covariance.T) / 2, rank)
        if len(variances) and variances[-1] < -100 * rounding:
            raise ValueError(f"covariance has the eigenvalue {variances[-1]:g}, expected none below 0")
        variances = variances.where(variances > rounding, 0)
        left = covariance.trace() - variances.sum()
        tail = left / (dim - len(variances)) if len(variances) < dim and left > rounding else 0.0
        return cls(mean, variances, basis, tail)

    @classmethod
    def isotropic(cls, mean: Tensor, variance: float | Tensor) -> "Gaussian":
        """Return N(mean, variance·I), of rank 0.

        >>> Gaussian.isotropic(torch.zeros(1, 8, 8), 0.25)
        Gaussian(event_shape=(1, 8, 8), rank=0, tail=0.25)
        """
        mean = check_event(mean)
        none = torch.empty(mean.numel(), 0)
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
        rank = check_count(rank, "rank", 0, self.rank)
        if discarded not in ("tail", "drop"):
            raise ValueError(f"discarded is {discarded!r}, expected 'tail' or 'drop'")
        order = self.variances.argsort(descending=True, stable=True)
        kept, left = order[:rank], order[rank:]
        tail = 0.0
        if discarded == "tail" and rank < self.dim:
            tail = (self.variances[left].sum() + self.tail * (self.dim - self.rank)) / (self.dim - rank)
        return type(self)(self.mean, self.variances[kept], self.basis[:, kept], tail).to(self.dtype)

    def with_mean(self, mean: Tensor) -> "Gaussian":
        """Return N(mean, Σ): the same covariance around another mean, ``(*event)``.

        The tensors of Σ are one in memory: what is written into them in place is written for both. Loading a state and
        moving to another device or dtype are for one alone.

        >>> Gaussian.isotropic(torch.zeros(2), 1.0).with_mean(torch.ones(2)).mean
        tensor([1., 1.])
        """
        check_event(mean)
        if mean.shape != self.event_shape or working_dtype(mean.dtype) != self.mean.dtype:
            raise ValueError(
                f"mean is {mean.dtype} of shape {tuple(mean.shape)}, expected {self.mean.dtype} of shape "
                f"{tuple(self.event_shape)}"
            )
        other = copy.copy(self)
        other._buffers = {**self._buffers, "mean": mean.detach().clone().to(self.mean)}
        return other

    def noised(self, sigma: float) -> "Gaussian":
        """Return N(μ, Σ+σ²I), the law of ``x0 + σ·n``.

        >>> Gaussian.isotropic(torch.zeros(2), 1.0).noised(3.0)
        Gaussian(event_shape=(2,), rank=0, tail=10)
        """
        level = check_sigma(sigma, self.mean.reshape(1, -1))
        return type(self)(self.mean, self.variances + level**2, self.basis, self.tail + level**2).to(self.dtype)

    # ---- what it is

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
            x: ``(batch, *event)``, in the model's dtype or in half precision.
            sigma: noise level >= 0, a float or ``(batch,)``.
        """
        mean = self.mean.flatten()

        def ask(centred: Tensor, level: Tensor) -> Tensor:
            return mean + self._spectral(lambda v: ratio(v, v + level**2), centred)

        return self._by_rows(ask, x, sigma).reshape(x.shape)

    def score(self, x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, "batch *event"]:
        """Return ``∇ log p(x; σ) = −(Σ+σ²I)⁻¹(x−μ)``, accurate at small σ too.

        Raises:
            ValueError: at σ = 0 where Σ is singular, since there is no density.
        """

        def ask(centred: Tensor, level: Tensor) -> Tensor:
            return self._spectral(lambda v: -1 / (v + level**2), centred)

        return self._by_rows(ask, x, sigma, density=True).reshape(x.shape)

    def log_prob(self, x: Float[Tensor, "batch *event"], sigma: Sigma = 0.0) -> Float[Tensor, " batch"]:
        """Return the log density of ``x`` under N(μ, Σ+σ²I), in nats, ``(batch,)``.

        Raises:
            ValueError: at σ = 0 where Σ is singular, since there is no density.
        """

        def ask(centred: Tensor, level: Tensor) -> Tensor:
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

        return self._by_rows(ask, x, sigma, density=True)

    def posterior_variance(self, x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, " batch"]:
        """Return the trace of ``Cov[x0 | x_σ = x] = σ²Σ(Σ+σ²I)⁻¹``: for a Gaussian the same at every x.

        >>> Gaussian.isotropic(torch.zeros(3), 4.0).posterior_variance(torch.ones(1, 3), 2.0)      # 3 · 4·4/(4+4)
        tensor([6.])
        """

        def ask(centred: Tensor, level: Tensor) -> Tensor:
            noise = level**2
            inside = (self.variances * ratio(noise, self.variances + noise)).sum(1)
            outside = (self.tail * ratio(noise, self.tail + noise))[:, 0] * (self.dim - self.rank)
            return (inside + outside).expand(len(centred))

        return self._by_rows(ask, x, sigma)

    def _draw(self, n: int, sigma: float, generator: torch.Generator | None) -> Tensor:
        white = torch.randn(n, self.dim, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self._spectral(lambda v: (v + sigma**2).sqrt(), white)

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
        centred, _ = self._question(x, 0.0)
        start = check_sigma(sigma_from, x, "sigma_from")[:, None]
        if isinstance(sigma_to, Tensor) and sigma_to.ndim == 2 and len(sigma_to):
            end = torch.stack([check_sigma(level, x, "sigma_to")[:, None] for level in sigma_to])
        else:
            end = check_sigma(sigma_to, x, "sigma_to")[:, None]
        if ((start == 0) & (end > 0)).any() and self._smallest_variance() == 0:
            raise ValueError(
                "sigma_from is 0 and the covariance singular: the flow down to 0 forgot the directions without "
                "variance and cannot be run back. Start above 0"
            )

        def spread(level: Tensor, deviation: Tensor) -> Tensor:
            # At 0 the slope of √(σ²+λ) in σ is 0, but 1 where λ is 0: there it is σ itself.
            none = deviation == 0
            return torch.where(none, level, torch.hypot(level, deviation.where(~none, 1)))

        def factor(variance: Tensor) -> Tensor:
            return ratio(*(spread(level, variance.sqrt()) for level in (end, start)))

        return as_asked(self._return(self._spectral(factor, centred), (*end.shape[:-2], *x.shape)), x.dtype)

    # ---- the one formula

    def _spectral(self, function: Callable[[Tensor], Tensor], centred: Tensor) -> Tensor:
        """Return ``f(Σ)·v`` for each row v: ``U (f(λ) − f(tail)) Uᵀ v + f(tail) v``, two products with U.

        ``function`` maps variances ``(k,)`` to factors ``(k,)``, ``(1 or batch, k)``, or ``(levels, 1 or batch, k)``
        for as many answers.
        """
        inside = (centred @ self.basis).T
        factors = torch.atleast_2d(function(self.variances))
        if self.rank == self.dim:
            return self._expand(inside * factors.mT)
        outside = torch.atleast_2d(function(self.tail.reshape(1)))
        return outside * centred + self._expand(inside * (factors - outside).mT)

    def _expand(self, coefficients: Tensor) -> Tensor:
        """Return ``U·c`` as rows for the columns c of ``(k, batch)`` or ``(levels, k, batch)``, in one product."""
        if coefficients.ndim == 2:
            return (self.basis @ coefficients).T
        levels, _, batch = coefficients.shape
        columns = self.basis @ coefficients.transpose(0, 1).flatten(1)
        return columns.T.reshape(levels, batch, self.dim)

    def _smallest_variance(self) -> float:
        smallest = [self.variances.min()] if self.rank else []
        return float(min(smallest + ([self.tail] if self.rank < self.dim else [])))


def _check_orthonormal(basis: Tensor, rounding: float) -> None:
    error = float((basis.T @ basis - torch.eye(basis.shape[1]).to(basis)).abs().max()) if basis.numel() else 0.0
    eps = torch.finfo(torch.float32).eps  # it may have been float32 before
    if not error < 1e3 * eps * max(1, basis.shape[0] ** 0.5) + 4 * rounding:
        raise ValueError(f"basis is not orthonormal: UᵀU differs from the identity by up to {error:g}")
