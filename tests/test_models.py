"""What all analytic models share: half precision, the range of a dtype, tensors that change, gradients at no noise."""

import copy
import pickle

import numpy as np
import pytest
import scipy.special
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gausstools as gt
from gausstools.denoiser import check_sigma
from gausstools.models import base

DOUBLE, HALVES = torch.float64, (torch.float16, torch.bfloat16)
DIGITS = gt.datasets.load("digits").images[:200]
MAKE = {
    "full": gt.Gaussian.fit,
    "low rank": lambda data: gt.Gaussian.fit(data, 5),
    "mixture": lambda data: gt.Mixture([0.4, 0.6], [gt.Gaussian.fit(data[:100], 5), gt.Gaussian.fit(data[100:], 64)]),
    "cloud": gt.PointCloud,
}
EVERY = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def questions(model):
    """Every answer of a model, by name."""
    asked = [model, model.score, model.log_prob, model.posterior_variance]
    if isinstance(model, gt.Gaussian):
        asked += [lambda x, sigma: model.flow(x, sigma, 0.0), lambda x, sigma: model.flow(x, 1.0, sigma)]
    else:
        asked.append(model.posterior)
    if isinstance(model, gt.PointCloud):
        limits = [gt.FarField(model, 1), gt.FarField(model, 2), gt.NearestNeighbour(model)]
        asked += [*limits, *(limit.score for limit in limits)]
    return asked


def noised(sigma, count=6, dtype=torch.float32):
    noise = torch.randn(count, *DIGITS.shape[1:], generator=torch.Generator().manual_seed(0))
    return (DIGITS[:count] + sigma * noise).to(dtype)


# ---- half precision


@EVERY
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("sigma", [0.002, 80.0, 300.0])
def test_half_precision_is_answered_in_kind_and_as_float64_does(make, dtype, sigma):
    model, x = make(DIGITS), noised(sigma, dtype=dtype)
    exact = copy.deepcopy(model).double()
    for model in (model, copy.deepcopy(model).to(dtype)):  # noqa: B020
        for ask, ask_exact in zip(questions(model), questions(exact), strict=True):
            expected = ask_exact(x.double(), sigma)
            if expected.abs().max() > torch.finfo(dtype).max:
                with pytest.raises(ValueError, match=r"which torch.float16 cannot hold"):
                    ask(x, sigma)
                continue
            answer = ask(x, sigma)
            assert answer.dtype == dtype
            scale = expected.abs().double().mean().item()
            torch.testing.assert_close(answer.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-3 * scale)


@EVERY
@pytest.mark.parametrize("dtype", HALVES)
def test_a_model_of_half_precision_keeps_its_numbers_and_draws_in_kind(make, dtype):
    model = make(DIGITS)
    half = copy.deepcopy(model).to(dtype)
    for name, tensor in half.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    relatives = [half, copy.deepcopy(half)]
    if isinstance(half, gt.Gaussian):
        relatives += [half.truncate(3), half.noised(1.0), half.with_mean(half.mean.to(dtype))]
    else:
        relatives += [half.to_gaussian(3)]
    for relative in relatives:
        assert relative.sample(3, 0.5).dtype == dtype
    assert half.double().sample(2).dtype == DOUBLE


@pytest.mark.parametrize("dtype", HALVES)
def test_data_of_half_precision_are_fitted_as_the_numbers_that_they_are(dtype):
    """Up to 455, so that squares leave the range of float16."""
    data = (455 * DIGITS).to(dtype)
    exact = gt.Gaussian.fit(data.double(), 4)
    fits = gt.Gaussian.fit(data, 4), gt.models.fit_streamed(data, 4), gt.PointCloud(data).to_gaussian(4)
    classes = gt.Gaussian.fit_classes(data, torch.zeros(len(data)).long(), 4, shared_covariance=True)
    for model in (*fits, classes[0]):
        torch.testing.assert_close(model.variances.double(), exact.variances, rtol=1e-4, atol=0)
        torch.testing.assert_close(model.mean.double(), exact.mean, rtol=1e-6, atol=1e-4)
        assert model(data[:2], 1.0).dtype == model.sample(2).dtype == dtype


@pytest.mark.parametrize("dtype", HALVES)
def test_a_gaussian_is_made_of_half_precision(dtype):
    """Whose basis is orthonormal to its rounding."""
    angle = torch.tensor(0.3)
    basis = torch.stack([torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])])
    parts = torch.ones(2), torch.tensor([300.0, 0.25]), basis
    x = torch.tensor([[1.0, 0.0], [500.0, -3.0]]).to(dtype)
    model = gt.Gaussian(*(part.to(dtype) for part in parts))
    torch.testing.assert_close(model(x, 300.0), gt.Gaussian(*parts)(x, 300.0))
    assert model.sample(2).dtype == dtype


def test_a_noise_level_is_not_rounded_to_half_precision():
    assert check_sigma(7e4, torch.zeros(1, 1).half()).tolist() == [7e4]
    assert check_sigma(torch.tensor(0.002, dtype=DOUBLE), torch.zeros(1, 1).bfloat16()).item() == np.float32(0.002)


@EVERY
def test_autocast_does_not_reach_inside(make):
    model, x = make(DIGITS), noised(0.3)
    with torch.autocast("cpu", torch.bfloat16):
        inside = [ask(x, 0.3) for ask in questions(model)]
    for answer, ask in zip(inside[:4], questions(model), strict=False):
        assert torch.equal(answer, ask(x, 0.3))


# ---- the range of a dtype


@EVERY
@pytest.mark.parametrize("sigma", [1.9e19, 10**400, torch.tensor(1e39, dtype=DOUBLE), torch.tensor([1.0] * 5 + [2e19])])
def test_a_noise_level_beyond_the_range_is_refused(make, sigma):
    for ask in questions(make(DIGITS)):
        with pytest.raises(ValueError, match=r"expected (a )?finite numbers? >= 0, at most 1.8e\+19 in torch.float32"):
            ask(noised(1.0), sigma)


@EVERY
def test_values_beyond_the_range_are_refused(make):
    model, x = make(DIGITS), torch.full((1, *DIGITS.shape[1:]), 1e20)
    for ask in questions(model):
        with pytest.raises(ValueError, match=r"x holds values up to 1e\+20, expected at most .* Use .* float64"):
            ask(x, 1.0)
    with pytest.raises(ValueError, match=r"which torch.float32 cannot hold|data holds values up to|means holds"):
        make(1e20 * DIGITS)


@EVERY
def test_up_to_there_answers_are_those_of_float64(make):
    model, x = make(DIGITS), noised(1e15)
    exact = copy.deepcopy(model).double()
    for ask, ask_exact in list(zip(questions(model), questions(exact), strict=True))[:5]:
        torch.testing.assert_close(ask(x, 1e15).double(), ask_exact(x.double(), 1e15), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["full", "mixture", "cloud"])
def test_a_noise_level_whose_square_is_lost_is_none(kind):
    model, x = MAKE[kind](DIGITS), noised(0.0)
    torch.testing.assert_close(model(x, 1e-25), model(x, 0.0))
    torch.testing.assert_close(model.posterior_variance(x, 1e-25), model.posterior_variance(x, 0.0))
    for ask in (model.score, model.log_prob):
        with pytest.raises(ValueError, match=r"as good as 0, .* no density. Use sigma > 1e-19"):
            ask(x, 1e-25)


def test_a_score_that_overflows_is_refused():
    point, x = gt.Gaussian.isotropic(torch.zeros(2), 0.0), torch.full((1, 2), 1e3)
    cloud = gt.PointCloud(torch.zeros(1, 2))
    for ask in (point.score, cloud.score, gt.NearestNeighbour(cloud).score):
        with pytest.raises(ValueError, match=r"torch.float32 cannot hold"):
            ask(x, 2e-19)
    assert gt.score(point, x, 1e-15).tolist() == [[pytest.approx(-1e33)] * 2]
    with pytest.raises(ValueError, match=r"answers in shape \(1, 1\), expected .*\(1, 2\)"):
        gt.score(lambda x, sigma: x[:, :1], x, 1.0)


@EVERY
def test_a_denoiser_waits_for_the_device_only_to_look_at_x(monkeypatch, make):
    """On a GPU, a number or a truth that Python asks for of a tensor stops it until all before is done."""
    model, x, waits = make(DIGITS), noised(1.0), []
    model(x, 1.0)  # what follows from the tensors is computed once

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
                waits.append(function)
            return function(*args, **(kwargs or {}))

    with Watch():
        model(x, 1.0)
    assert len(waits) == 1
    monkeypatch.setattr(base, "check_values", lambda x, *_: x)
    with Watch():
        model(x, 1.0)
    assert len(waits) == 1


# ---- tensors that change


def small(kind):
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(9, 2, 2, generator=generator, dtype=DOUBLE) + 1
    if kind == "Gaussian":
        return gt.Gaussian.fit(data, 2)
    if kind == "PointCloud":
        return gt.PointCloud(data)
    return gt.Mixture([0.3, 0.7], [gt.Gaussian.fit(data, 2), gt.Gaussian.fit(2 - data**2, 3)])


def changed(name, tensor):
    if name in ("basis", "directions"):
        return tensor.flip(1 if name == "directions" else 0)  # still orthonormal
    return tensor.flip(0) if name == "weights" else tensor * 1.5 + 0.1


WAYS = {
    "replaced": setattr,
    "loaded": lambda model, name, value: model.load_state_dict({**model.state_dict(), name: value}),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("kind", ["Gaussian", "Mixture", "PointCloud"])
def test_nothing_that_follows_from_a_tensor_stays_behind(tmp_path, kind, way):
    x = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    for name in small(kind).state_dict():
        if name == "ranks":
            continue
        model = small(kind)
        before = [ask(x, 0.7) for ask in questions(model)]
        way(model, name, changed(name, getattr(model, name).clone()))
        model.save(tmp_path / name)
        afresh = type(model).load(tmp_path / name)
        for ask, ask_afresh in zip(questions(model), questions(afresh), strict=True):
            torch.testing.assert_close(ask(x, 0.7), ask_afresh(x, 0.7))
        if kind != "PointCloud":
            torch.testing.assert_close(model.total_variance, afresh.total_variance)
        torch.testing.assert_close(model.mean, afresh.mean)
        assert not torch.equal(before[0], model(x, 0.7))


def test_what_an_optimiser_has_changed_in_place_is_noticed():
    model, x = small("Mixture"), torch.ones(2, 2, 2, dtype=DOUBLE)
    before = model(x, 0.7)
    model.means.requires_grad_()
    optimizer = torch.optim.SGD([model.means], 0.1)
    (-model.log_prob(x, 0.7).sum()).backward()
    optimizer.step()
    model.means.requires_grad_(False)
    weights, components = model.weights, [gt.Gaussian.from_covariance(c.mean, c.covariance) for c in model]
    torch.testing.assert_close(model(x, 0.7), gt.Mixture(weights, components)(x, 0.7))
    assert not torch.allclose(model(x, 0.7), before)


def test_a_state_that_is_loaded_is_loaded_for_one():
    one = small("Gaussian")
    other, before = one.with_mean(one.mean + 1), copy.deepcopy(one.state_dict())
    state = {name: changed(name, tensor) for name, tensor in before.items()}
    other.load_state_dict(state)
    for name, tensor in before.items():
        assert torch.equal(one.state_dict()[name], tensor)
        assert torch.equal(other.state_dict()[name], state[name])


@pytest.mark.parametrize("kind", ["Gaussian", "Mixture", "PointCloud"])
def test_copies_stand_alone_even_when_first_asked_under_a_transform(kind):
    model, x = small(kind), torch.ones(1, 2, 2, dtype=DOUBLE)
    torch.func.jacrev(lambda x: model(x, 1.0))(x)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(x, 1.0), model(x, 1.0))


@pytest.mark.parametrize("kind", ["Mixture", "PointCloud"])
def test_a_gradient_finds_its_way_to_the_tensors(kind):
    """Moving all the data by one vector is moving x by its opposite: ∂ log p/∂(all means) = −score."""
    model, x = small(kind), torch.ones(2, 2, 2, dtype=DOUBLE)
    model.log_prob(x, 1.0)
    tensor = (model.means if kind == "Mixture" else model.points).requires_grad_()
    for _ in range(2):
        (gradient,) = torch.autograd.grad(model.log_prob(x, 1.0).sum(), tensor)
        torch.testing.assert_close(gradient.flatten(1).sum(0), -model.score(x, 1.0).detach().sum(0).flatten())


# ---- no noise, and almost none


@pytest.mark.parametrize("sigma_from", [0.5, 3.0])
def test_the_flows_slope_at_no_noise(sigma_from):
    """√((σ²+λ)/(σ_T²+λ)) has the slope 1/σ_T at σ = 0 where λ is 0, and 0 elsewhere."""
    basis = torch.linalg.qr(torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE))[0]
    x = torch.randn(1, 4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    for model in (gt.Gaussian(x[0] + 1, torch.tensor([2.0, 1.0, 0.0]), basis), gt.Gaussian.isotropic(x[0] - 1, 0.0)):
        support = model.basis[:, :2] if model.rank else model.basis
        expected = ((x - model.mean) - (x - model.mean) @ support @ support.T) / sigma_from
        slope = torch.autograd.functional.jacobian(
            lambda end, model=model: model.flow(x, sigma_from, end), torch.zeros((), dtype=DOUBLE)
        )
        torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("sigma", [0.0, 1e-25, 1e-12, 1e-6, 1e-3])
@pytest.mark.parametrize("kind", ["Gaussian", "Mixture", "PointCloud", "points"])
def test_gradients_at_little_noise_are_finite(kind, sigma):
    data = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    points = [
        gt.Gaussian(row, torch.tensor([value, 0.0]), torch.eye(3)[:, :2])
        for row, value in zip(data, (1, 0), strict=True)
    ]
    model = {"Gaussian": points[0], "Mixture": gt.Mixture([0.5, 0.5], points), "PointCloud": gt.PointCloud(data)}.get(
        kind, gt.Mixture([0.5, 0.5], [gt.Gaussian.isotropic(row, 0.0) for row in data])
    )
    x, level = (data + 0.1).requires_grad_(), torch.tensor(sigma, dtype=DOUBLE, requires_grad=True)
    asked = [model, model.posterior_variance] + ([model.score, model.log_prob] if sigma else [])
    for ask in asked:
        answer = ask(x, level)
        for gradient in torch.autograd.grad(answer.sum(), (x, level), allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize("sigma", [0.12, 0.15, 0.2, 0.3, 1.0, 5.0, 80.0])
def test_the_posterior_variance_of_points_keeps_its_digits_in_float32(sigma):
    """Where one point has all but 1e-20 of the weight, too; in float64 by numpy around the posterior mean."""
    data, x = DIGITS[:60], noised(sigma, 40)
    points, rows = data.flatten(1).double().numpy(), x.flatten(1).double().numpy()
    share = scipy.special.softmax(-((rows[:, None] - points) ** 2).sum(2) / (2 * sigma**2), 1)
    offsets = points - (share @ points)[:, None]
    expected = torch.from_numpy((share * (offsets**2).sum(2)).sum(1))
    assert sigma > 0.2 or expected.median() < 1e-12
    actual = gt.PointCloud(data).posterior_variance(x, sigma).double()
    torch.testing.assert_close(actual, expected, rtol=2e-3, atol=1e-37)
    twice = gt.PointCloud(torch.cat([data, data])).posterior_variance(x, sigma).double()
    torch.testing.assert_close(twice, expected, rtol=2e-3, atol=1e-5)
    mixture = gt.Mixture([1 / 60] * 60, [gt.Gaussian.isotropic(point, 0.0) for point in data])
    torch.testing.assert_close(mixture.posterior_variance(x, sigma).double(), expected, rtol=2e-3, atol=1e-12)
