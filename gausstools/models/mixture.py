"""The Gaussian mixture as a score model.

For ``p(x0) = Σ_k w_k N(μ_k, Σ_k)`` the noised density is the mixture of ``N(μ_k, Σ_k + σ²I)``, and with its posterior
weights (responsibilities) ``ρ_k(x) ∝ w_k N(x; μ_k, Σ_k + σ²I)``

* denoiser  ``D(x, σ) = Σ_k ρ_k [μ_k + Σ_k (Σ_k + σ²I)⁻¹ (x − μ_k)]``;
* score     ``−Σ_k ρ_k (Σ_k + σ²I)⁻¹ (x − μ_k)``.

The eigenvectors of all components stand in one matrix, so that both cost two products with it. The sum over components
is taken inside the second, and nothing of size ``(batch, K, D)`` is built.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import Sigma
from gausstools.models.base import ScoreModel, check_lengths, resolved
from gausstools.models.gaussian import Gaussian
from gausstools.models.spectrum import Factor, Spectrum, check_positive, gain, posterior_variance

__all__ = ["Mixture"]

CHUNK = 2**23  # projections of the batch on eigenvectors that are held at once: 32 MB in float32


class Mixture(ScoreModel):
    """The mixture of Gaussians ``Σ_k w_k N(μ_k, Σ_k)``, and its noised family.

    It is a denoiser, ``mixture(x, sigma)``, and an ``nn.Module``. Components may be full, low-rank or isotropic, each
    of its own rank; ``mixture[k]`` gives a copy of one, ``list(mixture)`` of all. In float32, log densities are right
    to about ``1e-7·|x−μ_k|²/(tail+σ²)`` nats, which matters for components without a tail at tiny σ; use ``.double()``
    there.

    Args:
        weights: w, ``(K,)``, each >= 0, with sum 1.
        components: K Gaussians with events of one shape, in one dtype, on one device.

    Raises:
        TypeError: for components that are no Gaussians.
        ValueError: for weights that are negative or do not sum to 1, or components that do not fit together.

    >>> left, right = (Gaussian.isotropic(torch.tensor([m]), 0.25) for m in (-2.0, 2.0))
    >>> mixture = Mixture([0.5, 0.5], [left, right])
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> mixture.posterior(x, sigma=1.0)[:, 1]       # of the right one: 1/(1 + exp(−2·2·x/(0.25+1)))
    tensor([0.5000, 0.9608])
    >>> mixture(x, sigma=1.0)
    tensor([[0.0000],
            [1.6747]])
    """

    weights: Tensor
    means: Tensor
    directions: Tensor
    variances: Tensor
    tails: Tensor
    ranks: Tensor

    _SAVED = ("weights", "means", "directions", "variances", "tails", "ranks")

    def __init__(self, weights: Tensor | Sequence[float], components: Iterable[Gaussian]):
        super().__init__()
        components = list(components)
        first = _check_components(components)
        self._hold(
            components[0].dtype,
            weights=_check_weights(weights, len(components), first.dtype).to(first),
            means=torch.stack([component.mean for component in components]),
            directions=torch.cat([component.basis.T for component in components]),
            variances=torch.cat([component.variances for component in components]),
            tails=torch.stack([component.tail for component in components]),
            ranks=torch.tensor([component.rank for component in components], device=first.device),
        )
        check_lengths(self._derived.offsets, "means")

    # ---- making one

    @classmethod
    def fit(
        cls, data: Tensor | Iterable, n_components: int, rank: int | None = None, seed: int = 0, *, method: str = "em"
    ) -> "Mixture":
        """Return a mixture fitted to data: k-means, then expectation–maximisation (Dempster, Laird & Rubin 1977).

        Each component has the weighted mean and covariance of its points, plus 1e-5 in every direction. With a rank it
        keeps that many eigenpairs and spreads the rest as its tail, which makes the mixture one of probabilistic
        principal component analysers (Tipping & Bishop 1999), fitted by maximum likelihood.

        EM does not see a tenth of the data. Its likelihood decides after each step whether to go on: not once it grows
        by less than 1e-3 nats per point, nor after 50 steps. With fewer than ten points that of all the data decides.

        Args:
            data: a floating-point tensor ``(n, *event)``, or an iterable of such batches, gathered in memory.
            n_components: K, 1 to n.
            rank: of each component, 0 to D; None keeps all directions that have data.
            seed: of the initial centres and of the images held out; the same seed gives the same mixture.
            method: "kmeans" stops after k-means and gives each cluster its share, mean and covariance, as Wang &
                Vastola (2024) do; "em" goes on from there.

        Raises:
            ImportError: without scikit-learn, whose k-means begins the fit.
            ValueError: for a number of components or a rank that cannot be.

        >>> x = torch.cat([torch.randn(100, 2) - 5, torch.randn(400, 2) + 5])
        >>> mixture = Mixture.fit(x, n_components=2)
        >>> sorted(round(weight, 1) for weight in mixture.weights.tolist())
        [0.2, 0.8]
        """
        from gausstools.models.em import fit  # it needs scikit-learn, which a mixture does not

        return fit(data, n_components, rank, seed, method)

    # ---- what it is

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[Gaussian]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, k: int) -> Gaussian:
        """Return component k."""
        k = range(len(self))[k]
        return Gaussian(self.means[k], *self.spectrum(k)).to(self.dtype)

    def spectrum(self, k: int) -> Spectrum:
        """Return the covariance of component k, of the same tensors; 0 to K − 1."""
        part = slice(int(self.ranks[:k].sum()), int(self.ranks[: k + 1].sum()))
        return Spectrum(self.variances[part], self.directions[part].T, self.tails[k])

    @property
    def covariance(self) -> Float[Tensor, "dim dim"]:
        """The covariance of the whole, ``(D, D)``: within the components and between them."""
        offsets = self._derived.offsets
        within = sum(weight * self.spectrum(k).dense() for k, weight in enumerate(self.weights))
        whole = within + (offsets.T * self.weights) @ offsets
        return (whole + whole.T) / 2

    @property
    def total_variance(self) -> Float[Tensor, ""]:
        """The trace of the covariance."""
        return self._derived.typical * self.dim

    def to_gaussian(self, rank: int | None = None) -> Gaussian:
        """Return the Gaussian with the same mean and covariance: what the mixture looks like from far away.

        >>> two = Mixture([0.5, 0.5], [Gaussian.isotropic(torch.tensor([m]), 1.0) for m in (-2.0, 2.0)])
        >>> two.to_gaussian().variances
        tensor([5.])
        """
        return Gaussian.from_covariance(self.mean, self.covariance, rank).to(self.dtype)

    def extra_repr(self) -> str:
        """Return what ``repr`` shows."""
        low, high = int(self.ranks.min()), int(self.ranks.max())
        ranks = f"rank={low}" if low == high else f"ranks={low}–{high}"
        return f"event_shape={tuple(self.event_shape)}, components={len(self)}, {ranks}"

    # ---- what it answers

    def _offset(self, rows: Tensor, level: Tensor) -> Tensor:
        return self._weighted(rows, level, gain, 1.0)

    def _score(self, rows: Tensor, level: Tensor) -> Tensor:
        return self._weighted(rows, level, lambda v, noise: -1 / (v + noise), 0.0)

    def _log_density(self, rows: Tensor, level: Tensor) -> Tensor:
        typical = self._derived.typical
        common = math.log(2 * math.pi) + (typical + level[:, 0] ** 2).log()
        return self._log_joint(rows, level.T**2, self._inside(rows)).logsumexp(0) - 0.5 * self.dim * common

    def posterior(self, x: Float[Tensor, "batch *event"], sigma: Sigma = 0.0) -> Float[Tensor, "batch component"]:
        """Return the probability that each component made ``x``, ``(batch, K)``, each row of sum 1."""
        return self.by_rows(lambda rows, level: self._responsibilities(rows, level, self._inside(rows)).T, x, sigma)

    def _posterior_variance(self, rows: Tensor, level: Tensor) -> Tensor:
        """Return the variance within the components, and between what they denoise to."""
        share, mean = self._responsibilities(rows, level, self._inside(rows)), self._offset(rows, level)
        total = rows.new_zeros(len(rows))
        # One by one, because the square of a difference keeps the digits that a difference of squares loses.
        for k, offset in enumerate(self._derived.offsets):
            spectrum = self.spectrum(k)
            within = spectrum.trace(lambda v: posterior_variance(v, level**2))
            own = offset + spectrum.apply(lambda v: gain(v, level**2), rows - offset)
            total = total + share[k] * (within + (own - mean).square().sum(1))
        return total

    def _draw(self, n: int, sigma: float, generator: torch.Generator | None) -> Tensor:
        draws = self.means.new_empty(n, self.dim)
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator) if n else draws.new_empty(0)
        for k in chosen.unique().int().tolist():
            rows = chosen == k
            white = torch.randn(int(rows.sum()), self.dim, generator=generator, dtype=draws.dtype, device=draws.device)
            draws[rows] = self._derived.offsets[k] + self.spectrum(k).apply(lambda v: (v + sigma**2).sqrt(), white)
        return draws

    # ---- the one formula

    def _weighted(self, rows: Tensor, level: Tensor, function: Callable, part: float) -> Tensor:
        """Return ``Σ_k ρ_k [part·(μ_k−μ) + f(Σ_k)(x−μ_k)]``, ``(rows, D)``, for an f of variance and noise."""
        seen, owner = self._inside(rows), self._derived.owner
        share = self._responsibilities(rows, level, seen)
        inside, outside = self._factors(lambda v: function(v, level.T**2))
        inside = (inside - outside[owner]) * seen * share[owner]
        rest = (share * outside).sum(0)[:, None] * rows
        rest = torch.addmm(rest, (share * (part - outside)).T, self._derived.offsets)
        return torch.addmm(rest, inside.T, self.directions)

    def _inside(self, rows: Tensor) -> Tensor:
        """Return the projections of ``x − μ_k`` on the eigenvectors of component k, ``(R, rows)``."""
        return self.directions @ rows.T - self._derived.shifts

    def _responsibilities(self, rows: Tensor, level: Tensor, seen: Tensor) -> Tensor:
        """Return ``ρ``, ``(K, rows)``. A noise level below what rounding resolves is taken as what it resolves."""
        scale = rows.detach().square().sum(1) + self._derived.lengths.max()
        return self._log_joint(rows, resolved(level.T**2, scale), seen).softmax(0)

    def _log_joint(self, rows: Tensor, noise: Tensor, seen: Tensor) -> Tensor:
        """Return ``ln w_k + ln N(x; μ_k, Σ_k+σ²I)`` less what is common to all components, ``(K, rows)``."""
        _, offsets, lengths, _, typical, *_ = self._derived
        squared = rows.square().sum(1) - 2 * (offsets @ rows.T) + lengths
        off_span = (squared - self._sum_of_parts(seen.square())).clamp(min=0)
        inside, outside = self._factors(lambda v: 1 / (v + noise))
        mahalanobis = self._sum_of_parts(seen.square() * inside) + off_span * outside
        # Relative to a typical variance: at large σ the determinants are huge, and nearly the same.
        inside, outside = self._factors(lambda v: ((v + noise) / (typical + noise)).log())
        log_determinant = self._sum_of_parts(inside) + (self.dim - self.ranks)[:, None] * outside
        return self.weights.log()[:, None] - 0.5 * (mahalanobis + log_determinant)

    def _factors(self, function: Factor) -> tuple[Tensor, Tensor]:
        """Return f of all variances, ``(R, n)``, and of the tails, ``(K, n)``: 0 where nothing is off the span."""
        full = self._derived.full
        tails = torch.where(full, 1, self.tails[:, None])  # f may have no value at 0
        return function(self.variances[:, None]), torch.where(full, 0, function(tails))

    def _sum_of_parts(self, values: Tensor) -> Tensor:
        """Sum over the eigenvectors of each component, ``(R, n) -> (K, n)``."""
        return values.new_zeros(len(self), values.shape[1]).index_add(0, self._derived.owner, values)

    def _rows_at_once(self) -> int:
        return max(1, CHUNK // max(len(self.variances), self.dim, len(self)))

    def _smallest_variance(self) -> float:
        return min(float(self.spectrum(k).values.min()) for k in range(len(self)))

    # ---- what follows from the buffers

    @property
    def mean(self) -> Float[Tensor, "*event"]:
        """The mean of the whole, ``(*event)``."""
        return self._derived.mean

    def _derive(self) -> "_Derived":
        weights, means = self.weights.double(), self.means.double()
        mean = torch.tensordot(weights, means, 1)
        offsets = (means - mean).flatten(1)
        parts = zip(self.directions.split(self.ranks.tolist()), offsets, strict=True)
        shifts = torch.cat([vectors.double() @ offset for vectors, offset in parts])[:, None]
        owner = torch.arange(len(self), device=self.ranks.device).repeat_interleave(self.ranks)
        lengths, off = offsets.square().sum(1, keepdim=True), offsets.shape[1] - self.ranks
        within = (off * self.tails.double()).index_add(0, owner, self.variances.double())
        typical = weights @ (within + lengths[:, 0]) / offsets.shape[1]
        values = (value.to(self.means) for value in (mean, offsets, lengths, shifts, typical))
        return _Derived(*values, owner, full=(off == 0)[:, None])

    @classmethod
    def _restore(cls, weights, means, directions, variances, tails, ranks) -> "Mixture":
        sizes = ranks.flatten().tolist()
        parts = zip(means, variances.split(sizes), directions.split(sizes), tails, strict=True)
        return cls(weights, [Gaussian(mean, v, basis.T, tail) for mean, v, basis, tail in parts])


class _Derived(NamedTuple):
    """What follows from the tensors of a mixture."""

    mean: Tensor  # of the whole, (*event)
    offsets: Tensor  # μ_k − μ, (K, D)
    lengths: Tensor  # |μ_k − μ|², (K, 1)
    shifts: Tensor  # projections of μ_k − μ on the eigenvectors of component k, (R, 1)
    typical: Tensor  # the average variance of an entry
    owner: Tensor  # the component of each eigenvector, (R,)
    full: Tensor  # whether a component is of full rank, so that nothing is outside its span, (K, 1)


def _check_weights(weights: Tensor | Sequence[float], count: int, dtype: torch.dtype) -> Tensor:
    weights = torch.as_tensor(weights, dtype=torch.float64).detach()
    if weights.shape != (count,):
        raise ValueError(f"weights have shape {tuple(weights.shape)}, expected ({count},), one per component")
    check_positive(weights, "weights")
    excess = abs(weights.sum() - 1)
    if excess > 1e-4:
        raise ValueError(f"weights sum to {weights.sum():g}, expected 1; divide them by their sum")
    rounding = count * torch.finfo(dtype).eps
    return weights / weights.sum() if excess > rounding else weights  # what was saved comes back to the bit


def _check_components(components: list) -> Tensor:
    """Return the first mean, if the components can stand together."""
    if not components:
        raise ValueError("components are empty, expected at least one Gaussian")
    for k, component in enumerate(components):
        if not isinstance(component, Gaussian):
            raise TypeError(f"components hold {type(component).__name__}, expected Gaussians")
        given, first = (
            f"{tuple(c.event_shape)}, {c.mean.dtype} on {c.mean.device}" for c in (component, components[0])
        )
        if given != first:
            raise ValueError(f"component {k} has events of shape {given}, but component 0 {first}; expected the same")
    return components[0].mean
