"""The shared plots put on paper what they were given."""

import html
import re

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from gausstools import figures


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_stands_in_its_place_and_the_rest_is_white(ax, channels):
    images = torch.linspace(-1, 0.8, 5 * channels * 6).reshape(5, channels, 2, 3)
    figures.image_grid(ax, images, columns=3)
    sheet = np.asarray(ax.images[0].get_array()).reshape(5, 11, channels)
    for i in range(5):
        top, left = i // 3 * 3, i % 3 * 4
        tile = sheet[top : top + 2, left : left + 3].transpose(2, 0, 1)
        np.testing.assert_allclose(tile, (images[i].numpy() + 1) / 2, rtol=1e-6)
    assert (sheet[2] == 1).all()
    assert (sheet[3:, 8:] == 1).all()


def test_what_lies_outside_the_limits_is_clipped(ax):
    figures.image_grid(ax, torch.tensor([[[[-9.0, 0.0, 9.0]]]]), columns=1)
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()).ravel(), [0, 0.5, 1])


def test_ellipses_lie_where_the_distance_from_the_mean_is_one_and_two(ax):
    covariance = torch.tensor([[2.0, 0.7], [0.7, 1.0]], dtype=torch.float64)
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    figures.draw_covariance(ax, mean, covariance)
    for deviations, patch in enumerate(ax.patches, start=1):
        points = torch.from_numpy(ax.transData.inverted().transform(patch.get_verts())) - mean
        distance = (points @ torch.linalg.inv(covariance) * points).sum(1).sqrt()
        torch.testing.assert_close(distance, torch.full_like(distance, deviations), atol=0.01, rtol=0)


def test_arrows_start_and_end_where_they_should(ax):
    points, vectors = torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    figures.vector_field(ax, points, vectors)
    (arrows,) = ax.collections
    np.testing.assert_allclose(arrows.get_offsets(), points)
    np.testing.assert_allclose(np.stack([arrows.U, arrows.V], 1), vectors)


def test_half_precision_is_drawn_as_its_numbers(ax):
    images = torch.linspace(-1, 1, 8).reshape(2, 1, 2, 2).bfloat16()
    figures.image_grid(ax, images, columns=1)
    sheet = np.asarray(ax.images[0].get_array())
    shown = np.stack([sheet[:2], sheet[3:]])[:, None]
    np.testing.assert_allclose(shown, (images.double().numpy() + 1) / 2)
    figures.vector_field(ax, torch.ones(3, 2).bfloat16(), torch.ones(3, 2).bfloat16())
    np.testing.assert_allclose(ax.collections[0].get_offsets(), np.ones((3, 2)))


def test_figures_stand_on_an_opaque_white_ground():
    with matplotlib.rc_context():
        figures.set_style()
        figure = plt.figure()
        assert figure.get_facecolor() == (1, 1, 1, 1)
        assert figure.dpi >= 144
        plt.close(figure)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda ax: figures.image_grid(ax, torch.zeros(8, 8), 2), r"images have shape \(8, 8\)"),
        (lambda ax: figures.image_grid(ax, torch.zeros(2, 1, 8, 8), 0), "columns is 0"),
        (lambda ax: figures.draw_covariance(ax, torch.zeros(3), torch.eye(3)), r"mean has shape \(3,\)"),
        (lambda ax: figures.vector_field(ax, torch.zeros(4, 2), torch.zeros(3, 2)), r"points have shape \(4, 2\)"),
        (
            lambda ax: figures.image_grid(ax, torch.full((2, 1, 8, 8), torch.nan), 2),
            "images holds 128 values that are NaN",
        ),
        (lambda ax: figures.image_grid(ax, torch.zeros(2, 1, 8, 8), 2, limits=(1, 1)), r"limits are \(1, 1\)"),
        (lambda ax: figures.draw_covariance(ax, torch.zeros(2), torch.eye(2) / 0), "covariance holds 4 values"),
        (lambda ax: figures.draw_covariance(ax, torch.zeros(2) / 0, torch.eye(2)), "mean holds 2 values"),
        (lambda ax: figures.vector_field(ax, torch.zeros(4, 2), torch.zeros(4, 2) / 0), "vectors holds 8 values"),
    ],
)
def test_what_cannot_be_drawn_is_refused(ax, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(ax)


# ---- published beside measured


def test_a_table_of_published_numbers_shows_the_same_rows_to_readers_and_to_the_appendix():
    table = figures.BesidePaper([("a < b", 0.5, 0.25), ("c", 2.0, 3.0, 0.11)], "some.csv")
    bundle = table._repr_mimebundle_()
    rows = [["a < b", "0.5", "0.25", "0.50"], ["c", "2", "3.0 ± 0.1", "1.50"]]
    assert bundle[figures.BESIDE_PAPER] == {"source": "some.csv", "rows": rows}
    cells = re.findall(r"<td>(.*?)</td>", bundle["text/html"])
    assert [html.unescape(cell) for cell in cells] == [cell for row in rows for cell in row]
    assert [line.split("  ")[-1].strip() for line in bundle["text/plain"].splitlines()] == ["ratio", "0.50", "1.50"]


@pytest.mark.parametrize(
    ("measured", "error", "shown"),
    [
        (0.002021, 5.3e-5, "0.00202 ± 0.00005"),
        (0.000212, 7e-6, "0.000212 ± 0.000007"),
        (1.0062, 0.0016, "1.006 ± 0.002"),
        (5.061, 0.096, "5.06 ± 0.10"),
        (431.7, 25.0, "432 ± 25"),
        (0.25, 0.0, "0.25 ± 0"),
    ],
)
def test_a_measured_number_has_the_digits_that_its_error_allows(measured, error, shown):
    ((_, _, cell, _),) = figures.BesidePaper([("x", 1.0, measured, error)], "some.csv").rows()
    assert cell == shown


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "entries are empty"),
        ([("x", 0.0, 1.0)], "'x' has published 0.0"),
        ([("x", 1.0, float("nan"))], "measured nan, error None: expected finite numbers"),
        ([("x", 1.0, 2.0, float("nan"))], "measured 2.0, error nan: expected finite numbers"),
        ([("x", 1.0, 2.0, -1.0)], "the error not below"),
    ],
)
def test_numbers_that_cannot_be_compared_are_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        figures.BesidePaper(entries, "some.csv")
