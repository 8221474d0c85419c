"""The point cloud: the exact score model of a training set.

For data ``y_1 … y_N`` taken as a sum of deltas, the noised density is the mixture of ``N(y_i, σ²I)``. With the softmax
weights ``w_i ∝ exp(−|x − y_i|²/2σ²)`` the denoiser is ``D = Σ_i w_i y_i``: attention of the query x over the data. It
streams over the data in chunks with a running log-sum-exp (Milakov & Gimelshein 2018), so memory is bounded by a chunk.
"""

import math
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from gausstools.denoiser import Sigma, working_dtype
from gausstools.models.base import ScoreModel, check_event, check_lengths, resolved
from gausstools.models.batches import gather
from gausstools.models.gaussian import Gaussian

__all__ = ["PointCloud"]

CHUNK = 2**21  # entries of the data that are read at once, 8 MB in float32: few enough to stay in a cache
ROWS = 1024  # of the batch that are asked about at once


class PointCloud(ScoreModel):
    """The mixture of deltas at the points of a data set, and its noised family: the exact score of a training set.

    It is a denoiser, ``cloud(x, sigma)``, and an ``nn.Module``. The data are held once more, around their mean. A call
    costs two products with the data, ``4·batch·N·D`` operations, and memory for one chunk.

    Args:
        data: a floating-point tensor ``(N, *event)``, or an iterable of such batches, gathered in memory.

    Raises:
        TypeError: for something that is no floating-point tensor.
        ValueError: for no points, or NaN.

    >>> cloud = PointCloud(torch.tensor([[-1.0], [1.0]]))
    >>> cloud(torch.tensor([[0.5]]), sigma=1.0)        # tanh(x/σ²)
    tensor([[0.4621]])
    >>> cloud(torch.tensor([[0.5]]), sigma=0.0)        # the nearest point
    tensor([[1.]])
    """

    points: Tensor

    _SAVED = ("mean", "points")

    def __init__(self, data: Tensor | Iterable):
        super().__init__()
        gathered = gather(data)
        data = gathered.to(working_dtype(gathered.dtype))
        mean = check_event(data.mean(0, dtype=torch.float64).to(data), "data")
        self._hold(gathered.dtype, mean=mean, points=check_lengths((data - mean).flatten(1), "data"))

    # ---- what it is

    def __len__(self) -> int:
        return len(self.points)

    @property
    def data(self) -> Float[Tensor, "n *event"]:
        """The points, ``(N, *event)``, as a copy."""
        return self._events(self.points, self.dtype)

    def to_gaussian(self, rank: int | None = None) -> Gaussian:
        """Return the Gaussian with the same mean and covariance: what the cloud looks like from far away."""
        return Gaussian.fit(self.data, rank)

    def extra_repr(self) -> str:
        """Return what ``repr`` shows."""
        return f"event_shape={tuple(self.event_shape)}, points={len(self)}"

    # ---- what it answers

    def _offset(self, rows: Tensor, level: Tensor) -> Tensor:
        """Return ``Σ_i w_i y_i − μ``, streaming over the data; at σ = 0 it goes to the nearest point."""
        peak = rows.new_full((len(rows),), -math.inf)
        total, mean = torch.zeros_like(peak), torch.zeros_like(rows)
        for logits, points, _ in self._logits(rows, self._resolved(rows, level)):
            higher = torch.maximum(peak, logits.detach().amax(0))
            shrink, weights = (peak - higher).exp(), (logits - higher).exp()
            total = total * shrink + weights.sum(0)
            mean = torch.addmm(mean * shrink[:, None], weights.T, points)
            peak = higher
        return mean / total[:, None]

    def _score(self, rows: Tensor, level: Tensor) -> Tensor:
        """Return ``(D − x)/σ²``."""
        return (self._offset(rows, level) - rows) / level**2

    def _log_density(self, rows: Tensor, level: Tensor) -> Tensor:
        # From the nearest point, whose distance is no difference of large numbers, as the logits are.
        noise, seen = level[:, 0] ** 2, self._resolved(rows, level)
        peak, index = self.peak(rows, seen)
        others = torch.stack([(logits - peak).exp().sum(0) for logits, _, _ in self._logits(rows, seen)]).sum(0)
        nearest = (rows - self.points[index]).square().sum(1)
        constant = self.dim * (math.log(2 * math.pi) + noise.log())
        return (others / len(self)).log() - (nearest / noise + constant) / 2

    def posterior(self, x: Float[Tensor, "batch *event"], sigma: Sigma) -> Float[Tensor, "batch n"]:
        """Return the probability of each point to be the one that was noised, ``(batch, N)``, each row of sum 1.

        >>> PointCloud(torch.tensor([[-1.0], [1.0]])).posterior(torch.tensor([[0.5]]), sigma=1.0)
        tensor([[0.2689, 0.7311]])
        """

        def ask(rows: Tensor, level: Tensor) -> Tensor:
            logits = [logits for logits, _, _ in self._logits(rows, self._resolved(rows, level))]
            return torch.cat(logits).softmax(0).T

        return self.by_rows(ask, x, sigma)

    def _posterior_variance(self, rows: Tensor, level: Tensor) -> Tensor:
        """Return how undecided the weights are.

        In float32 it is right to about ``1e-6·|y−μ|²`` times the weight of all points but the most likely one, y, so
        that it keeps its digits where y has almost all of the weight.
        """
        # Around the most likely point, which then adds nothing: what is summed is as small as the others' weight.
        noise, start = self._resolved(rows, level), 0
        peak, index = self.peak(rows, noise)
        centre, numbers = self.points[index], torch.arange(len(self), device=index.device)[:, None]
        total, weight, square = (torch.zeros_like(peak) for _ in range(3))
        moved = torch.zeros_like(rows)
        for logits, points, half_norms in self._logits(rows, noise):
            weights = (logits - peak).exp()
            others = weights.where(numbers[start : start + len(points)] != index, 0)
            total, weight = total + weights.sum(0), weight + others.sum(0)
            square = square + 2 * (half_norms * others).sum(0)
            moved = torch.addmm(moved, others.T, points)
            start += len(points)
        square = square - 2 * (centre * moved).sum(1) + weight * centre.square().sum(1)
        moved = moved - weight[:, None] * centre
        return (square / total - (moved / total[:, None]).square().sum(1)).clamp(min=0)

    def _draw(self, n: int, sigma: float, generator: torch.Generator | None) -> Tensor:
        like = {"generator": generator, "device": self.points.device}
        drawn = self.points[torch.randint(len(self), (n,), **like)]
        return drawn + sigma * torch.randn(drawn.shape, dtype=drawn.dtype, **like)

    # ---- the data, by chunks

    def peak(self, rows: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest logit of each row, ``(b,)``, and the number of its point: the first one, of several."""
        best, index, start = rows.new_full((len(rows),), -math.inf), rows.new_zeros(len(rows)).long(), 0
        for logits, points, _ in self._logits(rows, noise):
            value, place = logits.max(0)
            index, best = torch.where(value > best, start + place, index), value.maximum(best)
            start += len(points)
        return best, index

    def _logits(self, rows: Tensor, noise: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield ``(c·x − |c|²/2)/σ²``, ``(n, b)``, with the points ``(n, D)`` and half norms ``(n, 1)``, by chunks."""
        columns = rows.T.contiguous()
        for points, half_norms in self.chunks():
            yield torch.addmm(half_norms, points, columns, beta=-1) / noise, points, half_norms

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the points around the mean, ``(n, D)``, and half their squared norms, ``(n, 1)``, as fit a cache."""
        size = max(1, CHUNK // self.dim)
        return zip(self.points.split(size), self._derived.split(size), strict=True)

    def _resolved(self, rows: Tensor, level: Tensor) -> Tensor:
        """Return σ², ``(1, 1 or b)``, or what rounding resolves."""
        return resolved(level.T**2, rows.detach().square().sum(1) + 2 * self._derived.max())

    def _rows_at_once(self) -> int:
        return ROWS

    def _derive(self) -> Tensor:
        """Return ``|c_i|²/2``, ``(N, 1)``."""
        return torch.cat([part.double().square().sum(1, True) for part in self.points.split(4096)]).to(self.points) / 2

    def _smallest_variance(self) -> float:
        return 0.0

    @classmethod
    def _restore(cls, mean: Tensor, points: Tensor) -> "PointCloud":
        if points.dtype != mean.dtype or points.shape[1:] != (mean.numel(),):
            raise ValueError("expected points (N, D) around a mean of D entries")
        cloud = cls(points.reshape(-1, *mean.shape))
        cloud.mean, cloud.points = check_event(mean), points  # as they were, not centred once more
        return cloud
