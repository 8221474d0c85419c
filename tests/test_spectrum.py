"""The covariance as an object: each of its answers is that of the dense matrix, by numpy."""

import numpy as np
import pytest
import torch

import gausstools as gt
from gausstools.models.spectrum import flow_factor, gain, posterior_variance, spread

DIM = 6
RANKS = (0, 1, 3, DIM)


def covariance(rank, seed=0):
    """A covariance of a rank, and the dense matrix."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.normal(size=(DIM, DIM)))[0][:, :rank]
    variances, tail = generator.uniform(0.1, 3.0, rank), 0.0 if rank == DIM else 0.7
    dense = basis * variances @ basis.T + tail * (np.eye(DIM) - basis @ basis.T)
    return gt.Spectrum(*map(torch.tensor, (variances, basis)), torch.tensor(tail, dtype=torch.float64)), dense


def of(function, dense):
    """f(Σ) by numpy."""
    values, vectors = np.linalg.eigh(dense)
    return vectors * function(values) @ vectors.T


def rows(count=4):
    return np.random.default_rng(1).normal(size=(count, DIM))


def close(ours, right):
    torch.testing.assert_close(ours, torch.as_tensor(right, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rank", RANKS)
def test_functions_of_the_covariance_are_those_of_the_dense_matrix(rank):
    spectrum, dense = covariance(rank)
    x, root, inverse = rows(), of(np.sqrt, dense), of(lambda v: 1 / v, dense)
    close(spectrum.dense(), dense)
    close(spectrum.apply(torch.sqrt, torch.tensor(x)), x @ root)
    close(spectrum.quadratic(torch.reciprocal, torch.tensor(x)), np.einsum("ni,ij,nj->n", x, inverse, x))
    close(spectrum.trace(), dense.trace())
    close(spectrum.trace(torch.log), np.linalg.slogdet(dense)[1])
    assert spectrum.counts.sum() == DIM
    assert len(spectrum.counts) == len(spectrum.values)


@pytest.mark.parametrize("rank", RANKS)
def test_factors_may_differ_by_row_and_by_level(rank):
    spectrum, dense = covariance(rank)
    x, noise = rows(), np.array([0.1, 1.0, 4.0, 9.0])
    right = np.stack([row @ of(lambda v, n=n: v / (v + n), dense) for row, n in zip(x, noise, strict=True)])
    by_row = torch.tensor(noise)[:, None]
    close(spectrum.apply(lambda v: gain(v, by_row), torch.tensor(x)), right)
    close(spectrum.trace(lambda v: gain(v, by_row)), [of(lambda v, n=n: v / (v + n), dense).trace() for n in noise])
    levels = by_row[:, :, None]
    expected = np.stack([x @ of(lambda v, n=n: v / (v + n), dense) for n in noise])
    close(spectrum.apply(lambda v: gain(v, levels), torch.tensor(x)), expected)
    close(spectrum.apply(lambda v: gain(v, torch.stack([by_row, 2 * by_row])), torch.tensor(x))[0], right)


@pytest.mark.parametrize("rank", RANKS)
def test_what_is_split_is_joined_and_the_parts_are_orthogonal(rank):
    spectrum, _ = covariance(rank)
    x = torch.tensor(rows())
    inside, rest = spectrum.split(x)
    assert (inside.shape, rest.shape) == ((4, rank), (4, 0 if rank == DIM else DIM))
    close(spectrum.join(inside, rest), x.numpy())
    if rank < DIM:
        close(rest @ spectrum.basis, np.zeros((4, rank)))


@pytest.mark.parametrize("rank", RANKS)
def test_a_truncation_keeps_the_largest_variances_and_the_trace(rank):
    spectrum, dense = covariance(rank)
    order = np.sort(np.linalg.eigvalsh(dense) if rank == DIM else spectrum.variances.numpy())[::-1]
    for kept, tail in enumerate(spectrum.decreasing().tails()):
        cut = spectrum.truncate(kept)
        close(cut.variances, order[:kept].copy())
        close(cut.tail, tail.item())
        close(cut.trace(), dense.trace())
        assert spectrum.truncate(kept, "drop").tail == 0


def test_the_functions_of_a_variance_have_their_limits():
    variance, none = torch.tensor([0.0, 1e-300, 1.0, 1e300], dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    assert gain(variance, none).tolist() == [0, 1, 1, 1]
    assert posterior_variance(variance, none).tolist() == [0, 0, 0, 0]
    close(posterior_variance(variance, none + 1), [0, 1e-300, 0.5, 1.0])
    close(spread(variance, 2.0), [2.0, 2.0, 5**0.5, 1e150])
    assert flow_factor(variance, 2.0, 0.0)[0] == 0
    close(flow_factor(variance, 7.0, 3.0) * flow_factor(variance, 3.0, 0.5), flow_factor(variance, 7.0, 0.5).numpy())


def test_the_flow_has_a_slope_at_a_variance_and_a_level_of_zero():
    variance = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    level = torch.zeros((), dtype=torch.float64, requires_grad=True)
    flow_factor(variance, 2.0, level).backward()
    assert (variance.grad.item(), level.grad.item()) == (0.0, 0.5)


def test_a_gaussian_and_the_components_of_a_mixture_are_made_of_one():
    one = gt.Gaussian.fit(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), rank=1)
    assert all(
        torch.equal(*pair) for pair in zip(gt.Gaussian(one.mean, *one.spectrum).spectrum, one.spectrum, strict=True)
    )
    mixture = gt.Mixture([0.5, 0.5], [one, gt.Gaussian.isotropic(one.mean, 2.0)])
    assert all(torch.equal(*pair) for pair in zip(mixture.spectrum(0), one.spectrum, strict=True))
    assert mixture.spectrum(1).rank == 0
