"""Exact quantities that simulations are checked with: distances of Gaussians, denoising losses, linear learning.

Two Gaussians, p with eigenpairs ``(λ_j, u_j)`` and q with ``(ν_i, v_i)``, are compared by their eigenvectors' overlaps
``O_ij = v_iᵀu_j``, an orthogonal matrix, and the difference of their means ``δ_i = v_iᵀ(μ_p − μ_q)``:

* Fréchet distance  ``|δ|² + min_Q |diag(√ν)·Q − O·diag(√λ)|²`` over orthogonal Q (Bhatia, Jain & Lim 2019), which is
  ``|δ|² + tr(Σ_p + Σ_q − 2(Σ_p^½ Σ_q Σ_p^½)^½)`` (Dowson & Landau 1982);
* KL divergence     ``½ Σ_ij O_ij² (λ_j/ν_i − 1 − ln(λ_j/ν_i)) + ½ Σ_i δ_i²/ν_i`` (Kullback & Leibler 1951).

All terms are >= 0, so that none is lost in the difference of larger ones. Outside the joint span of the bases and of
``μ_p − μ_q`` both are isotropic about one mean, which leaves a matrix O of that span's size. All is done in float64.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import Batch, Denoiser, Levels, Sigma, check_batch, check_sigma, check_that
from gausstools.models.gaussian import Gaussian
from gausstools.models.spectrum import gain, posterior_variance

__all__ = [
    "LinearDynamics", "denoising_loss", "frechet_distance", "kl_divergence", "misfit", "rank_residuals", "wasserstein2",
]  # fmt: skip


def wasserstein2(p: Gaussian, q: Gaussian) -> Float[Tensor, ""]:
    """Return the 2-Wasserstein distance ``min √E|x−y|²`` over x ~ p and y ~ q, in units of the data.

    It is the root of :func:`frechet_distance`; see there for arguments, accuracy and errors.

    >>> wasserstein2(Gaussian.isotropic(torch.zeros(2), 1.0), Gaussian.isotropic(torch.tensor([3.0, 4.0]), 1.0))
    tensor(5., dtype=torch.float64)
    """
    return frechet_distance(p, q).sqrt()


def frechet_distance(p: Gaussian, q: Gaussian) -> Float[Tensor, ""]:
    """Return ``|μ_p−μ_q|² + tr(Σ_p + Σ_q − 2(Σ_p^½ Σ_q Σ_p^½)^½)``, in squared units of the data.

    Between Gaussians fitted to Inception features it is the FID (Heusel et al. 2017). It is computed as the least
    distance between roots of the covariances over all rotations. Near p = q its root, the distance, errs by about
    ``1e-16·λ_max/√λ_min`` (λ_min the least variance above 0), and never by more than ``1e-8·√λ_max``, to which the
    difference of traces falls everywhere. Singular covariances and rank 0 are as good as any.

    Args:
        p, q: Gaussians with one event shape. If their ranks add up to less than D − 1, nothing of size (D, D) is built.

    Returns:
        A float64 scalar >= 0 on the device of p.

    Raises:
        TypeError: if one is no Gaussian.
        ValueError: if their event shapes differ.

    >>> frechet_distance(Gaussian.isotropic(torch.zeros(2), 1.0), Gaussian.isotropic(torch.zeros(2), 9.0))
    tensor(8., dtype=torch.float64)
    """
    pair = _compare(p, q)
    root_p, root_q = pair.overlap * pair.p.sqrt(), pair.q.sqrt()[:, None]
    left, _, right = torch.linalg.svd(root_q * root_p)
    inside = (root_q * (left @ right) - root_p).square().sum()
    outside = pair.rest * (pair.q_tail.sqrt() - pair.p_tail.sqrt()).square()
    return pair.shift.square().sum() + inside + outside


def kl_divergence(p: Gaussian, q: Gaussian) -> Float[Tensor, ""]:
    """Return ``KL(p‖q) = E_p[ln p − ln q]`` in nats.

    Near p = q the error is about ``1e-16·√(KL·λ_max/λ_min)``.

    Args:
        p, q: Gaussians with one event shape. If their ranks add up to less than D − 1, nothing of size (D, D) is built.

    Returns:
        A float64 scalar >= 0 on the device of p.

    Raises:
        TypeError: if one is no Gaussian.
        ValueError: if their event shapes differ, or one has no variance in some direction, and so no density.

    >>> kl_divergence(Gaussian.isotropic(torch.ones(1), 1.0), Gaussian.isotropic(torch.zeros(1), 1.0))
    tensor(0.5000, dtype=torch.float64)
    """
    pair = _compare(p, q)
    for name, model in (("p", p), ("q", q)):
        check_that((model.spectrum.values > 0).all(), f"{name} has no variance in some direction", "a density: a tail")
    inside = (pair.overlap.square() * _excess(pair.p / pair.q[:, None])).sum()
    outside = pair.rest * _excess(pair.p_tail / pair.q_tail) if pair.rest else 0.0
    return (inside + outside + (pair.shift.square() / pair.q).sum()) / 2


def denoising_loss(gaussian: Gaussian, sigma: Sigma) -> Levels:
    """Return ``E|D(x0 + σn, σ) − x0|² = σ² Σ_k λ_k/(λ_k+σ²)`` of a Gaussian's denoiser, in squared units of the data.

    It is that on any data with the Gaussian's mean and covariance, since the denoiser is linear.

    Args:
        gaussian: whose denoiser it is, and whose moments the data have.
        sigma: noise level >= 0, a float or ``(levels,)``.

    Returns:
        ``(levels,)`` in float64, summed over the D entries; ``(1,)`` for a float.

    >>> denoising_loss(Gaussian.isotropic(torch.zeros(3), 1.0), 1.0)           # 3 · 1/(1+1)
    tensor([1.5000], dtype=torch.float64)
    """
    spectrum = _check_gaussian(gaussian, "gaussian").spectrum.to(torch.float64)
    levels = torch.atleast_1d(torch.as_tensor(sigma, dtype=torch.float64)).to(spectrum.variances)
    noise = check_sigma(levels, levels)[:, None] ** 2
    return spectrum.trace(lambda v: posterior_variance(v, noise))


def misfit(gaussian: Gaussian, sigma: Sigma, squares: Float[Tensor, " points"]) -> str:
    """Return why a network and a Gaussian cannot both be right about the same data, or "" if nothing says so.

    For the ideal denoiser D* of data with these moments, ``E|D* − D_G|² = E|D_G − x0|² − E|D* − x0|²``: the linear
    minimum mean squared error minus the minimum mean squared error. So the squared residual of an ideal network is at
    most the Gaussian's own :func:`denoising_loss`, ``σ² Σ_k λ_k/(λ_k+σ²)``, in the mean over noised images that the
    Gaussian was not fitted to. A mean above that by more than three standard errors, and by more than half precision
    rounds, is a misfit.

    Args:
        gaussian: of the data.
        sigma: noise level >= 0, a float or ``(points,)``.
        squares: ``(points,)``, the network's ``|D(x, σ) − D_G(x, σ)|²`` at each point, summed over the D entries. One
            point has no standard error, and shows nothing.

    >>> gaussian = Gaussian.isotropic(torch.zeros(3), 1.0)                # its loss at σ = 1 is 3/2
    >>> misfit(gaussian, 1.0, torch.tensor([1.4, 1.5]))
    ''
    >>> misfit(gaussian, 1.0, torch.tensor([6.0, 6.3]))[:71]
    'at σ = 1 the mean squared residual of the network is 4.1 times the loss'
    """
    levels = check_sigma(sigma, check_batch(squares, torch.Size(), "squares").double())
    limit = denoising_loss(gaussian, levels)
    above = squares.double() - limit
    rounding = 1e-6 * float(gaussian.mean.double().square().sum())
    if len(above) < 2 or not above.mean() - 3 * above.std() / len(above) ** 0.5 > rounding:
        return ""
    times = f"{above.mean() / limit.mean() + 1:.2g} times the loss" if limit.mean() > 0 else "above the loss, 0,"
    return (
        f"at σ = {levels.double().mean():g} the mean squared residual of the network is {times} of the Gaussian's own "
        "denoiser, which that of an ideal network cannot exceed: network and statistics do not belong together (other "
        "data, another scaling, too few images), or the network is bad at this noise level"
    )


def rank_residuals(gaussian: Gaussian, sigma: float, full: float) -> Float[Tensor, " ranks"]:
    """Return what Gaussians cut off at each rank leave unexplained of an ideal score, from what the whole one leaves.

    The ideal denoiser is the posterior mean of data with this mean and covariance, whatever else they are. It differs
    from the Gaussian's, the best linear one, by something uncorrelated with every linear function of x. So the squares
    add up: ``E|s − s_r|² = E|s − s_G|² + E|s_G − s_r|²`` and ``E|s|² = E|s − s_G|² + E|s_G|²``, with

    * ``E|s_G|² = Σ_k 1/(λ_k+σ²)``,
    * ``E|s_G − s_r|² = Σ_{k>r} (λ_k − τ_r)² / ((λ_k+σ²)(τ_r+σ²)²)``, where τ_r is the mean of the variances beyond r.

    Args:
        gaussian: the whole Gaussian, of any rank.
        sigma: noise level > 0.
        full: the fraction of the score that it leaves unexplained, 0 to below 1: a ratio of means, as
            ``unexplained(..., pooled=True)`` gives.

    Returns:
        Fractions for the ranks 0 (the isotropic Gaussian) to that of the Gaussian, the rest as a tail,
        ``(rank + 1,)``, in float64. The last is ``full``.

    Raises:
        ValueError: for σ = 0, or a fraction outside [0, 1).

    >>> model = Gaussian.from_covariance(torch.zeros(2), torch.diag(torch.tensor([3.0, 1.0])))
    >>> rank_residuals(model, 1.0, full=0.0)             # τ_0 = 2: (1/(4·9) + 1/(2·9)) / (1/4 + 1/2)
    tensor([0.1111, 0.0000, 0.0000], dtype=torch.float64)
    """
    check_that(0 <= full < 1, f"full is {full}", "a fraction from 0 to below 1")
    spectrum, noise = gaussian.spectrum.to(torch.float64).decreasing(), _level(sigma, positive=True) ** 2
    tails = spectrum.tails()[:, None]
    missed = spectrum.counts * (spectrum.values - tails) ** 2 / ((spectrum.values + noise) * (tails + noise) ** 2)
    return full + (1 - full) * missed.triu().sum(1) / spectrum.trace(lambda v: 1 / (v + noise))


@dataclass(frozen=True, eq=False)
class LinearDynamics:
    """A linear denoiser ``D(x) = b + W(x − μ)`` that learns at one σ: gradient flow on its expected denoising loss.

    For data with moments μ and Σ, whatever the distribution, ``W* = Σ(Σ+σ²I)⁻¹`` and learning rate η,

    * ``dW/dt = −2η(W(Σ+σ²I) − Σ)``, so ``W(t) = W* + (W0 − W*)·exp(−2η(Σ+σ²I)t)``;
    * ``db/dt = −2η(b − μ)``, so ``b(t) = μ + (b0 − μ)·exp(−2ηt)``.

    Mode k approaches ``λ_k/(λ_k+σ²)`` at the rate ``2η(λ_k+σ²)``: large variances come first (Saxe et al. 2014; for
    denoisers Wang & Pehlevan 2025).

    Args:
        data: carries the moments μ and Σ.
        sigma: noise level >= 0, one number.
        rate: η > 0; ``2η·t`` is in units of 1 over those of the data squared.
        weight: W0 over the flattened event, ``(D, D)``, or a number w for w·I.
        bias: b0, ``(*event)``, or one number for all entries.

    Raises:
        TypeError: if data is no Gaussian, or W0 or b0 no floating-point tensor.
        ValueError: for a noise level or rate out of range, NaN, or shapes that do not fit.

    >>> data = Gaussian(torch.zeros(3), torch.tensor([3.0, 1.0]), torch.eye(3)[:, :2])
    >>> learning = LinearDynamics(data, sigma=1.0)
    >>> learning.rates
    tensor([8., 4.], dtype=torch.float64)
    >>> learning.gains(torch.tensor([0.0, 0.1, 9.0]))
    tensor([[0.0000, 0.0000],
            [0.4130, 0.1648],
            [0.7500, 0.5000]], dtype=torch.float64)
    >>> learning.loss(torch.tensor([0.0, 9.0]))          # from tr Σ to the loss of the Gaussian denoiser
    tensor([4.0000, 1.2500], dtype=torch.float64)
    >>> learning.denoiser(9.0)(torch.ones(1, 3), 1.0)
    tensor([[0.7500, 0.5000, 0.0000]])
    """

    data: Gaussian
    sigma: Sigma
    rate: float = 1.0
    weight: float | Tensor = 0.0
    bias: float | Tensor = 0.0

    def __post_init__(self):
        _check_gaussian(self.data, "data")
        object.__setattr__(self, "sigma", _level(self.sigma))
        check_that(0 < self.rate < math.inf, f"rate is {self.rate}", "a finite number > 0")
        for name, shape in (("weight", (self.data.dim, self.data.dim)), ("bias", tuple(self.data.event_shape))):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                given = f"{name} has shape {tuple(value.shape)}"
                check_that(check_batch(value, name=name).shape == shape, given, str(shape))
            else:
                check_that(math.isfinite(value), f"{name} is {value}", "a finite number or a tensor")

    @property
    def rates(self) -> Float[Tensor, " rank"]:
        """The rate ``2η(λ+σ²)`` of each mode, ``(rank,)`` in float64."""
        return self._rate(self.data.variances.double())

    def gains(self, times: Float[Tensor, " times"]) -> Float[Tensor, "times rank"]:
        """Return ``u_kᵀ W(t) u_k`` of each mode k at each time t >= 0, ``(T, rank)`` in float64."""
        modes = self.data.basis.double().T
        start, final = (modes * self._start(modes)).sum(1), self._gain(self.data.variances.double())
        return final + (start - final) * torch.exp(-_times(times, final)[:, None] * self.rates)

    def denoiser(self, time: float) -> Denoiser:
        """Return ``D(x) = b(t) + W(t)(x − μ)`` at a time t >= 0, a callable in the dtype of the data.

        It raises ValueError when asked at another noise level than its own, about which it has learned nothing.
        """
        time = _times(torch.tensor([time], dtype=torch.float64), self.data.mean).item()

        spectrum = self.data.spectrum
        bias = (self.data.mean.double() + math.exp(-2 * self.rate * time) * self._bias_error).flatten()

        def ask(rows: Tensor, level: Tensor) -> Tensor:
            learned = spectrum.apply(lambda v: -self._gain(v) * (-self._rate(v) * time).expm1(), rows)
            return bias.to(rows) + learned + self._start(spectrum.apply(lambda v: (-self._rate(v) * time).exp(), rows))

        def denoise(x: Batch, sigma: Sigma) -> Batch:
            answer = self.data.by_rows(ask, x, sigma).reshape(x.shape)
            if (check_sigma(sigma, x) != check_sigma(self.sigma, x)).any():
                raise ValueError(f"sigma is {sigma}, but this linear denoiser has learned at {self.sigma:g} alone")
            return answer

        return denoise

    def loss(self, times: Float[Tensor, " times"]) -> Float[Tensor, " times"]:
        """Return ``E|D(x0 + σn) − x0|²`` at each time, ``(T,)`` in float64, in squared units of the data.

        It is ``|b−μ|² + σ² tr W* + tr((W−W*)(Σ+σ²I)(W−W*)ᵀ)``, exactly.
        """
        spectrum = self.data.spectrum.to(torch.float64)
        variances, rank = spectrum.values, spectrum.rank
        final, times = self._gain(variances), _times(times, variances)
        # |(W0 − W*)u_k|² for each mode, and |(W0 − W*)(I − UUᵀ)|² for all directions off the span together.
        if isinstance(self.weight, Tensor):
            modes = spectrum.basis.T
            off = self.weight.to(final) - final[-1] * torch.eye(self.data.dim).to(final)
            error = torch.empty_like(final)
            error[:rank] = (self._start(modes) - final[:rank, None] * modes).square().sum(1)
            error[rank:] = (off - (off @ modes.T) @ modes).square().sum()
        else:
            error = spectrum.counts * (self.weight - final).square()
        decay = torch.exp(-2 * times[:, None] * self._rate(variances))
        bias = torch.exp(-4 * self.rate * times) * self._bias_error.square().sum()
        return bias + self.sigma**2 * spectrum.trace(self._gain) + decay @ (error * (variances + self.sigma**2))

    def _start(self, rows: Tensor) -> Tensor:
        """Return ``W0 v`` for each row v."""
        return rows @ self.weight.to(rows).T if isinstance(self.weight, Tensor) else self.weight * rows

    def _gain(self, variances: Tensor) -> Tensor:
        return gain(variances, self.sigma**2)

    def _rate(self, variances: Tensor) -> Tensor:
        return 2 * self.rate * (variances + self.sigma**2)

    @property
    def _bias_error(self) -> Tensor:
        mean = self.data.mean.double()
        return torch.as_tensor(self.bias, dtype=torch.float64).to(mean) - mean


class _Pair(NamedTuple):
    """Two Gaussians in their eigenvectors, within a span of k directions outside which both are isotropic."""

    p: Tensor  # (k,) variances
    q: Tensor
    overlap: Tensor  # (k, k): eigenvectors of q by those of p
    shift: Tensor  # (k,): μ_p − μ_q along the eigenvectors of q
    rest: int  # D − k, how many directions lie outside, where variances are the tails and means agree
    p_tail: Tensor
    q_tail: Tensor


def _compare(p: Gaussian, q: Gaussian) -> _Pair:
    shapes = f"p and q have events of shape {tuple(_check_gaussian(p, 'p').event_shape)}"
    shapes += f" and {tuple(_check_gaussian(q, 'q').event_shape)}"
    check_that(p.event_shape == q.event_shape, shapes, "one shape")
    shift = (p.mean.double() - q.mean.to(p.mean.device, torch.float64)).reshape(-1, 1)
    p, q = (model.spectrum.to(p.mean.device, torch.float64) for model in (p, q))
    vectors = torch.cat([p.basis, q.basis, shift], 1)
    if vectors.shape[1] < p.dim:
        vectors = torch.linalg.qr(vectors).Q.T @ vectors
    size = len(vectors)
    of_p, of_q, shift = vectors.split([p.rank, q.rank, 1], 1)
    # Completed to all k directions, and orthonormal to the last digit even where a basis comes from float32.
    of_p, of_q = (torch.linalg.qr(basis, mode="complete").Q for basis in (of_p, of_q))
    variances = (torch.cat([model.variances, model.tail.expand(size - model.rank)]) for model in (p, q))
    return _Pair(*variances, of_q.T @ of_p, (of_q.T @ shift)[:, 0], p.dim - size, p.tail, q.tail)


def _excess(quotient: Tensor) -> Tensor:
    """Return ``r − 1 − ln r`` >= 0. Near r = 1 the rounding of r cancels, so that its error is 1e-16 of its root."""
    return (quotient - 1 - quotient.log()).clamp(min=0)


def _check_gaussian(model: Gaussian, name: str) -> Gaussian:
    if not isinstance(model, Gaussian):
        raise TypeError(f"{name} is {type(model).__name__}, expected a Gaussian")
    return model


def _level(sigma: Sigma, *, positive: bool = False) -> float:
    return check_sigma(sigma, torch.zeros(1, dtype=torch.float64), positive=positive).item()


def _times(times: Tensor, like: Tensor) -> Tensor:
    right = times.ndim == 1 and (times.isfinite() & (times >= 0)).all()
    check_that(right, f"times have shape {tuple(times.shape)}", "finite times >= 0 of shape (T,)")
    return times.to(like)
