"""Unexplained variance against its definition in numpy, and what exact models must leave unexplained."""

import numpy as np
import pytest
import torch
from cases import gaussians
from hypothesis import given, settings
from hypothesis import strategies as st

import gausstools as gt

DOUBLE = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(gaussians(smallest_sigma=0.1), st.integers(1, 5))
def test_the_fractions_are_their_definition(case, batch_size):
    """A ratio for each point, then the average and its standard error, from the scores themselves."""
    network = gt.Gaussian.isotropic(case.model.mean + 0.3, 0.7)
    found = gt.unexplained(network, case.model, case.x, case.sigma, batch_size=batch_size)
    answers = (
        ("score", network.score(case.x, case.sigma), case.model.score(case.x, case.sigma)),
        ("denoiser", network(case.x, case.sigma), case.model(case.x, case.sigma)),
    )
    n = len(case.x)
    for name, theirs, ours in answers:
        theirs, ours = theirs.reshape(n, -1).numpy(), ours.reshape(n, -1).numpy()
        ratios = np.linalg.norm(theirs - ours, axis=1) ** 2 / np.linalg.norm(theirs, axis=1) ** 2
        assert getattr(found, name) == pytest.approx(ratios.mean(), rel=1e-6)
        if n > 1:
            assert getattr(found, f"{name}_error") == pytest.approx(ratios.std(ddof=1) / n**0.5, rel=1e-6, abs=1e-12)
    assert found.points == n
    assert n > 1 or np.isnan([found.score_error, found.denoiser_error]).all()


@given(gaussians())
def test_a_model_explains_itself_and_nothing_explains_nothing(case):
    itself = gt.unexplained(case.model, case.model, case.x, case.sigma)
    assert (itself.score, itself.denoiser) == (0, 0)
    silent = gt.unexplained(case.model, lambda x, sigma: x, case.x, case.sigma)  # D = x is a score of 0
    assert silent.score == pytest.approx(1)
    blank = gt.unexplained(case.model, lambda x, sigma: 0 * x, case.x, case.sigma)
    assert blank.denoiser == pytest.approx(1)


@given(gaussians(smallest_sigma=0.1), st.integers(1, 5))
@settings(max_examples=20)
def test_each_rank_is_the_truncated_gaussian(case, batch_size):
    network = gt.Gaussian.isotropic(case.model.mean + 0.3, 0.7)
    found = gt.unexplained_by_rank(network, case.model, case.x, case.sigma, batch_size=batch_size)
    assert len(found.score) == len(found.denoiser) == case.model.rank + 1
    for rank, (score, denoiser) in enumerate(zip(*found, strict=True)):
        direct = gt.unexplained(network, case.model.truncate(rank), case.x, case.sigma)
        assert float(score) == pytest.approx(direct.score, rel=1e-6, abs=1e-9 * (1 + direct.score))
        assert float(denoiser) == pytest.approx(direct.denoiser, rel=1e-6, abs=1e-9 * (1 + direct.denoiser))


def test_the_smallest_rank_is_where_the_curve_stays_below_the_line():
    curve = torch.tensor([9.0, 1.0, 3.0, 1.04, 1.0])
    assert gt.compare.ByRank(curve, curve.flip(0)).smallest() == (3, 0)
    assert gt.compare.ByRank(torch.ones(5), 1.06 - 0.01 * torch.arange(7)).smallest() == (0, 2)


def test_a_level_for_each_point_is_each_point_at_its_level():
    model, network, x = gt.Gaussian.fit(normal(50, 3)), gt.Gaussian.isotropic(torch.ones(3).double(), 2.0), normal(4, 3)
    sigmas = torch.tensor([0.1, 0.5, 1.0, 8.0])
    together = gt.unexplained(network, model, x, sigmas, batch_size=3)
    alone = [gt.unexplained(network, model, x[i : i + 1], s.item()) for i, s in enumerate(sigmas)]
    assert together.score == pytest.approx(np.mean([one.score for one in alone]))
    assert together.denoiser == pytest.approx(np.mean([one.denoiser for one in alone]))


def test_the_standard_error_is_the_spread_over_seeds():
    data = normal(5000, 20).tanh()  # in few dimensions, 1/|s|² has no variance
    network, model = gt.PointCloud(data[:20]), gt.Gaussian.fit(data)
    runs = [gt.residuals(network, {"": model}, data, [1.0], points=100, seed=s)[0].unexplained for s in range(100)]
    spread = np.std([run.score for run in runs])
    assert np.mean([run.score_error for run in runs]) == pytest.approx(spread, rel=0.25)


@given(st.integers(1, 4), st.floats(-1, 1), st.integers(0, 2**31))
@settings(max_examples=12)
def test_pooled_the_fraction_is_a_closed_form_between_gaussians(dim, log_sigma, seed):
    """E|s − s'|²/E|s|² of two scores −Ax and −Bx at x ~ N(0, A⁻¹) is Σ(a−b)²/a over Σa, in any dimension."""
    rng = np.random.default_rng(seed)
    variances, others, sigma = rng.uniform(0.2, 2, dim), rng.uniform(0.2, 2, dim), 10**log_sigma
    mean, basis = torch.zeros(dim).double(), torch.eye(dim).double()
    network, model = (gt.Gaussian(mean, torch.from_numpy(v), basis) for v in (variances, others))
    a, b = 1 / (variances + sigma**2), 1 / (others + sigma**2)
    exact = ((a - b) ** 2 / a).sum() / a.sum()
    x = network.sample(4000, sigma, generator=torch.Generator().manual_seed(seed))
    found = gt.unexplained(network, model, x, sigma, pooled=True)
    assert abs(found.score - exact) < 6 * found.score_error + 1e-12


def test_pooled_the_standard_error_is_the_spread_over_seeds():
    data = normal(5000, 2).tanh()
    network, model = gt.PointCloud(data[:20]), gt.Gaussian.fit(data)
    for name in ("score", "denoiser"):
        runs = [gt.residuals(network, {"": model}, data, [1.0], points=200, seed=s, pooled=True) for s in range(100)]
        spread = np.std([getattr(run[0].unexplained, name) for run in runs])
        errors = [getattr(run[0].unexplained, f"{name}_error") for run in runs]
        assert np.mean(errors) == pytest.approx(spread, rel=0.25)


@given(gaussians(smallest_sigma=0.1))
def test_pooled_nothing_missed_is_nothing_unexplained(case):
    silent = lambda x, sigma: x  # noqa: E731
    for network, model, expected in ((case.model, case.model, 0), (case.model, silent, 1), (silent, silent, 0)):
        found = gt.unexplained(network, model, case.x, case.sigma, pooled=True)
        assert found.score == pytest.approx(expected)


def test_a_table_asks_the_network_once_per_point_and_agrees_with_single_questions():
    data, asked = normal(30, 2, 2), []
    cloud = gt.PointCloud(data)

    def network(x, sigma):
        asked.append(len(x))
        return cloud(x, sigma)

    models = {"isotropic": gt.Gaussian.isotropic(data.mean(0), 1.0), "Gaussian": gt.Gaussian.fit(data)}
    table = gt.residuals(network, models, data, [0.5, 5.0], points=70, seed=3, batch_size=32)
    assert sum(asked) == 2 * 70
    assert [(row.sigma, row.model) for row in table] == [(s, name) for s in (0.5, 5.0) for name in models]
    for row in table:
        x = gt.evaluation_points(data, row.sigma, 70, seed=3)
        single = gt.unexplained(cloud, models[row.model], x, row.sigma)
        # The order of summation differs with the batches.
        assert np.allclose(row.unexplained[:-1], single[:-1], rtol=1e-9)
        assert row.unexplained.misfit == single.misfit


@pytest.mark.parametrize("points", [1, 7, 10, 25])
def test_evaluation_points_are_data_and_noise_that_the_seed_alone_decides(points):
    data = 100 * torch.arange(10.0, dtype=torch.float64)[:, None].repeat(1, 6)
    near, far = (gt.evaluation_points(data, sigma, points, seed=1) for sigma in (0.0, 3.0))
    used = (near[:, 0] / 100).long().bincount(minlength=10)
    assert used.max() - used.min() <= 1  # nothing twice before all once
    noise = (far - near) / 3
    again = gt.evaluation_points(data, 1.0, points, seed=1) - near
    torch.testing.assert_close(noise, again)
    assert not torch.equal(near, gt.evaluation_points(data, 0.0, points, seed=2)) or points == 1
    if points == 25:
        assert abs(noise.mean()) < 5 / noise.numel() ** 0.5
        assert noise.std() == pytest.approx(1, abs=5 / (2 * noise.numel()) ** 0.5)
    single = gt.evaluation_points(data.float(), 3.0, points, seed=1)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), far, rtol=1e-6, atol=1e-4)


def test_far_away_the_gaussian_explains_the_point_cloud_better_and_better():
    """The uncentred score residual of the Gaussian falls at least as fast as the far field says: σ⁻⁴ here."""
    data = normal(200, 4) ** 3
    cloud = gt.PointCloud(data)
    table = gt.residuals(cloud, {"": gt.Gaussian.fit(data)}, data, [50.0, 100.0, 200.0], points=500)
    scores = [row.unexplained.denoiser for row in table]
    assert scores[0] / scores[1] > 8
    assert scores[1] / scores[2] > 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_measured_as_its_numbers_in_float64_are(dtype):
    """The answers may be rounded; what is made of them is not: numpy, from the same answers."""
    data = gt.datasets.load("digits").images[:64].to(dtype)
    network, model = (gt.Gaussian.isotropic(torch.full((1, 8, 8), mean, dtype=DOUBLE), 0.3) for mean in (0.0, 0.1))
    ours, theirs = (lambda x, s, each=each: each(x.double(), s).to(dtype) for each in (model, network))
    for sigma in (0.5, 80.0):
        x = gt.evaluation_points(data, sigma, points=64)
        assert x.dtype == dtype
        found = gt.unexplained(theirs, ours, x, sigma)
        place, answer, guess = (f.double().flatten(1).numpy() for f in (x, theirs(x, sigma), ours(x, sigma)))
        missed = ((answer - guess) ** 2).sum(1)
        assert found.denoiser == pytest.approx((missed / (answer**2).sum(1)).mean(), rel=1e-9)
        assert found.score == pytest.approx((missed / ((answer - place) ** 2).sum(1)).mean(), rel=1e-9)
    low = gt.Gaussian.fit(data.double(), rank=5)
    x = gt.evaluation_points(data, 1.0, points=64)
    curves = gt.unexplained_by_rank(theirs, low.to(dtype), x, 1.0)
    expected = gt.unexplained_by_rank(lambda x, s: theirs(x.to(dtype), s).double(), low.double(), x.double(), 1.0)
    torch.testing.assert_close(curves.score, expected.score, rtol=50 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
def test_what_an_ideal_network_leaves_is_below_the_loss_and_another_is_named(sigma):
    """The ideal network is a cloud's own denoiser: numpy's linear and least losses on the same pairs bound it."""
    data = normal(400, 4).sign() + 0.1 * normal(400, 4, seed=1)
    model, cloud = gt.Gaussian.fit(data), gt.PointCloud(data)
    others = {"ideal": cloud, "itself": model, "other data": gt.PointCloud(3 - data), "bad": lambda x, s: x}
    verdicts = {
        name: gt.residuals(network, {"Gaussian": model, "cloud": cloud}, data, [sigma], points=400)
        for name, network in others.items()
    }
    covariance = np.cov(data.numpy().T, ddof=0)
    loss = np.trace(sigma**2 * covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(4)))
    for name, (gaussian, rest) in verdicts.items():
        x = gt.evaluation_points(data, sigma, points=400)
        squares = (others[name](x, sigma) - model(x, sigma)).square().sum(1).numpy()
        above = squares.mean() - loss
        assert bool(gaussian.unexplained.misfit) == (above > 3 * squares.std(ddof=1) / 20)
        assert rest.unexplained.misfit == ""
    assert not verdicts["ideal"][0].unexplained.misfit
    assert "network and statistics do not belong together" in verdicts["other data"][0].unexplained.misfit
    if sigma > 1:  # at low noise what is nearly x is nearly right
        assert verdicts["bad"][0].unexplained.misfit.startswith("at σ = 10 the mean squared residual")


def test_where_nothing_is_to_be_explained_no_rank_is_missing_it():
    point = gt.Gaussian(torch.zeros(2).double(), torch.zeros(1).double(), torch.eye(2).double()[:, :1])
    found = gt.unexplained_by_rank(point, point, normal(3, 2), 1.0)
    assert [curve.tolist() for curve in found] == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda m, x: gt.unexplained(m, m, x, 0.0), ValueError, "sigma is 0, expected sigma > 0"),
        (lambda m, x: gt.unexplained(m, m, x, -1.0), ValueError, "sigma is -1.0"),
        (lambda m, x: gt.unexplained(m, m, x[:0], 1.0), ValueError, "x has 0 rows, expected at least 1"),
        (lambda m, x: gt.unexplained(m, m, x * torch.nan, 1.0), ValueError, "x holds 6 values"),
        (lambda m, x: gt.unexplained(m, m, x, 1.0, batch_size=0), ValueError, "batch_size is 0"),
        (
            lambda m, x: gt.unexplained(lambda x, s: x[:1], m, x, 1.0),
            ValueError,
            r"the network answers in shape \(1, 3\), expected \(2, 3\)",
        ),
        (
            lambda m, x: gt.unexplained(m, lambda x, s: x * torch.inf, x, 1.0),
            ValueError,
            "the answer of the model holds 6 values",
        ),
        (lambda m, x: gt.evaluation_points(x[:0], 1.0), ValueError, "data has 0 rows, expected at least 1"),
        (lambda m, x: gt.evaluation_points(x, 1.0, points=0), ValueError, "points is 0"),
        (lambda m, x: gt.evaluation_points([1.0], 1.0), TypeError, "data is list"),
        (lambda m, x: gt.evaluation_points(x, 1.0, seed=2**64), ValueError, "seed is 18446744073709551616"),
        (lambda m, x: gt.compare.ByRank(x[0] * torch.nan, x[0]).smallest(), ValueError, "NaN or infinite"),
    ],
)
def test_questions_that_cannot_be_are_refused(ask, error, message):
    with pytest.raises(error, match=message):
        ask(gt.Gaussian.isotropic(torch.zeros(3), 1.0), torch.ones(2, 3))


powers = st.floats(-3, 3).filter(lambda value: abs(value) > 0.05)


@given(st.floats(-6, 6), powers, st.lists(st.floats(-7, 7), min_size=2, max_size=9, unique=True))
def test_powers_of_the_noise_level_cross_where_they_do(place, power, places):
    """Two lines on logarithmic axes, at any levels: one crossing if the levels span it, else none."""
    places = sorted(places)
    gaps = [power * (level - place) for level in places]
    sigmas, first = np.exp(places), np.exp(np.add(gaps, 0.3 * np.array(places)))
    found = gt.compare.crossings(sigmas.tolist(), first.tolist(), np.exp(0.3 * np.array(places)).tolist())
    if min(map(abs, gaps)) < 1e-6:
        return  # rounding decides on which side of the crossing that level lies
    assert np.log(found) == pytest.approx([place] if places[0] < place < places[-1] else [], abs=1e-6)


def test_curves_that_touch_do_not_cross():
    assert gt.compare.crossings([1.0, 2.0, 3.0], [2.0, 1.0, 2.0], [1.0, 1.0, 1.0]) == []
    assert gt.compare.crossings([1.0, 2.0, 3.0], [2.0, 1.0, 0.5], [1.0, 1.0, 1.0]) == pytest.approx([3**0.5])
    assert gt.compare.crossings([1.0, 2.0], [1.0, 1.0], [1.0, 1.0]) == []
    assert len(gt.compare.crossings([1.0, 2.0, 3.0], [2.0, 1.0, 2.0], [1.0, 1.5, 1.0])) == 2


def test_curves_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="one length"):
        gt.compare.crossings([1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0])
    for first in ([0.0, 1.0], [float("nan"), 1.0], [float("inf"), 1.0]):
        with pytest.raises(ValueError, match="expected positive"):
            gt.compare.crossings([1.0, 2.0], first, [1.0, 1.0])
    with pytest.raises(ValueError, match="sigmas go up and down"):
        gt.compare.crossings([1.0, 3.0, 2.0], [1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
