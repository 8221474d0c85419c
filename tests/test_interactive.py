"""The interactive figures' still pictures and markup. tests/browser/test_interactive.py looks at them alive."""

import copy
import gzip
import json
import re
import tomllib
from pathlib import Path
from urllib.parse import unquote

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

import gausstools as gt
from gausstools.figures import COLORS, interactive
from gausstools.figures.interactive import Arrows, Ellipse, Line, Panel, Points
from gausstools.figures.svg import as_array

PLANE = Panel(x=(-4, 4), y=(-3, 3), equal=True)
GAUSSIAN = gt.Gaussian.from_covariance(torch.tensor([0.4, -0.2]), torch.tensor([[1.0, 0.3], [0.3, 0.4]]))
CLOUD = gt.PointCloud(torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]]))
limit = st.floats(-50, 50)


def stills(figure):
    """The still pictures in a figure's markup, parsed as XML, which is what an `img` wants."""
    images = BeautifulSoup(figure.html, "lxml").select(".panels > img")
    assert all(image["alt"] for image in images)
    return [etree.fromstring(unquote(image["src"].removeprefix("data:image/svg+xml,"))) for image in images]


def layer(panel, *layers):
    return etree.fromstring(f"<g>{panel.draw(layers)}</g>")


def numbers(text):
    return np.array(re.findall(r"-?\d+(?:\.\d+)?", text), dtype=float)


@given(x=st.tuples(limit, limit), y=st.tuples(limit, limit), log=st.booleans(), data=st.data())
def test_a_point_stands_where_matplotlib_puts_it(x, y, log, data):
    if abs(x[0] - x[1]) < 0.1 or abs(y[0] - y[1]) < 0.1:
        return
    if log:
        x = tuple(np.exp(np.array(x) / 10))
    panel = Panel(x=x, y=y, xscale="log" if log else "linear")
    share = data.draw(st.floats(0, 1))
    point = np.array([[x[0] ** (1 - share) * x[1] ** share if log else x[0] + share * (x[1] - x[0]), np.mean(y)]])
    figure, axes = plt.subplots()
    axes.set(xlim=x, ylim=y, xscale="log" if log else "linear")
    expected = axes.transAxes.inverted().transform(axes.transData.transform(point))[0]
    plt.close(figure)
    edge = np.array([[x[0], y[0]], [x[1], y[1]]])
    (left, bottom), (right, top) = panel.pixels(edge)
    assert left == pytest.approx(0, abs=1e-9)
    assert top == pytest.approx(0, abs=1e-9)
    found = panel.pixels(point)[0] / (right, bottom)
    np.testing.assert_allclose([found[0], 1 - found[1]], expected, atol=1e-6)


def test_equal_axes_have_equal_units():
    origin, unit = PLANE.pixels(np.array([[0.0, 0.0], [1.0, 1.0]]))
    assert unit[0] - origin[0] == pytest.approx(origin[1] - unit[1])


def test_dots_and_lines_lie_on_their_pixels():
    xy = np.array([[-1.0, 2.0], [3.0, -0.5]])
    pixels = PLANE.pixels(xy)
    dots, line = layer(PLANE, Points(xy), Line(torch.tensor(xy)))
    np.testing.assert_allclose(numbers(dots.get("d").replace("h0", "")), pixels.ravel(), atol=0.051)
    np.testing.assert_allclose(numbers(line.get("d")), pixels.ravel(), atol=0.051)
    (sized,) = layer(PLANE, Points(xy, size=[2, 6]))
    assert [float(circle.get("r")) for circle in sized] == [1, 3]


def test_an_arrow_reaches_from_its_point_to_its_tip():
    (arrow,) = layer(PLANE, Arrows([[1.0, 1.0]], [[-2.0, 0.5]]))
    tail, tip = PLANE.pixels(np.array([[1.0, 1.0], [-1.0, 1.5]]))
    np.testing.assert_allclose(numbers(arrow.get("d"))[:4], [*tail, *tip], atol=0.051)


@given(entries=st.tuples(limit, limit, limit, limit), equal=st.booleans())
def test_an_ellipse_has_the_distance_from_its_mean(entries, equal):
    """Each of its corners lies at that many standard deviations, also where axes are stretched, and it is closed."""
    root = np.array(entries).reshape(2, 2) / 50
    covariance, mean = root @ root.T + 0.05 * np.eye(2), np.array([0.3, -0.4])
    panel = Panel(x=(-4, 4), y=(-3, 3), equal=equal, width=4000)
    (drawn,) = layer(panel, Ellipse(mean, covariance, deviations=(1.5,)))
    corners = numbers(drawn.get("d")).reshape(-1, 2)
    centre, unit = panel.pixels(np.stack([mean, mean + 1]))
    offsets = (corners - centre) / (unit - centre)
    distances = np.sqrt((offsets * np.linalg.solve(covariance, offsets.T).T).sum(1))
    np.testing.assert_allclose(distances, 1.5, rtol=0.02)
    np.testing.assert_array_equal(corners[0], corners[-1])
    steps = np.linalg.norm(np.diff(offsets @ np.linalg.inv(np.linalg.cholesky(covariance)).T, axis=0), axis=1)
    assert steps.max() < 1.5 * 2 * np.pi / len(steps) * 1.1


def test_ticks_and_words_are_written():
    panel = Panel(x=(100, 0.01), y=(-1, 1), xscale="log", xlabel="noise level σ", ylabel="<share>", title="A & B")
    texts = [text.text for text in etree.fromstring(panel.svg("a", [Points([[1, 0]], label="dots")])).iter("{*}text")]
    assert {"100", "10", "1", "0.1", "0.01", "−1", "0.5", "noise level σ", "<share>", "A & B", "dots"} <= set(texts)


def test_colours_go_by_their_meaning():
    (dots,) = layer(PLANE, Points([[0, 0]], color="denoised"))
    assert dots.get("stroke") == COLORS["denoised"]


def test_a_text_is_no_markup():
    figure = interactive.frames(
        [[[Points([[0, 0]], label='<b>"&'), Line([[0, 0]], label="</svg>")]]],
        ["</script><script>alert(1)"],
        [PLANE],
        name="words",
    )
    page = BeautifulSoup(figure.html, "lxml")
    assert len(page.find_all("script")) == 1
    (still,) = stills(figure)
    assert {'<b>"&', "</svg>"} <= {text.text for text in still.iter("{*}text")}


def test_frames_hold_each_panel_of_each_frame():
    other = Panel(x=(0, 1), y=(0, 1))
    steps = [[[Points([[k, 0]])], [Line([[0, 0], [1, k / 3]])]] for k in range(4)]
    figure = interactive.frames(steps, [0.5, 1, 2, "end"], [PLANE, other], name="steps", control="step", start=2)
    data = json.loads(re.search(r'\("live-steps",(.*)\)</script>', figure.html, re.DOTALL)[1])
    assert data["labels"] == ["0.5", "1", "2", "end"]
    assert data["frames"] == [[PLANE.draw(one), other.draw(two)] for one, two in steps]
    left, right = stills(figure)
    assert left.find(".//{*}g[@class='moving']")[0].get("d") == layer(PLANE, *steps[2][0])[0].get("d")
    assert right.find(".//{*}g[@class='moving']")[0].get("d") == layer(other, *steps[2][1])[0].get("d")


def test_the_still_picture_of_a_flow_shows_the_path():
    figure = interactive.flow(GAUSSIAN, [2.0, 1.0], PLANE, name="still", sigma_max=2.0, sigma_min=0.02)
    (still,) = stills(figure)
    (line,) = still.xpath(f"//*[local-name()='path'][@stroke='{COLORS['path']}'][contains(@d, 'L')]")
    sigmas = torch.from_numpy(np.geomspace(2.0, 0.02, 121))
    start = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    model = copy.deepcopy(GAUSSIAN).double()
    expected = torch.cat([model.flow(start, 2.0, sigma) for sigma in sigmas]).numpy()
    np.testing.assert_allclose(numbers(line.get("d")), PLANE.pixels(expected).ravel(), atol=0.15)


def test_the_still_picture_of_a_cloud_shows_the_weights():
    figure = interactive.denoiser(CLOUD, [0.5, 0.5], PLANE, name="weights", sigma_max=2.0, sigma=0.7)
    (still,) = stills(figure)
    sigma = np.geomspace(2.0, 0.02, 121)
    sigma = sigma[np.abs(np.log(sigma / 0.7)).argmin()]
    weights = CLOUD.posterior(torch.tensor([[0.5, 0.5]]), float(sigma))[0]
    circles = still.xpath(f"//*[local-name()='g'][@fill='{COLORS['denoised']}']/*[local-name()='circle']")
    radii = torch.tensor([float(circle.get("r")) for circle in circles])
    torch.testing.assert_close(radii, 5 * (weights / weights.max()).sqrt(), atol=0.051, rtol=0)


def test_a_second_model_is_drawn_and_named():
    gaussian = CLOUD.to_gaussian()
    figure = interactive.flow(CLOUD, [1.0, 1.0], PLANE, name="two", sigma_max=2.0, other=gaussian)
    (still,) = stills(figure)
    texts = {text.text for text in still.iter("{*}text")}
    assert {"path, point cloud", "path, Gaussian", "denoised, point cloud", "denoised, Gaussian", "start"} <= texts


def test_a_model_stays_as_it_was():
    interactive.flow(GAUSSIAN, [2.0, 1.0], PLANE, name="same", sigma_max=2.0)
    assert GAUSSIAN.mean.dtype == torch.float32


def test_figures_on_one_page_share_no_id():
    both = [interactive.denoiser(CLOUD, [0, 0], PLANE, name=name, sigma_max=2.0) for name in ("one", "two")]
    ids = [set(re.findall(r'\bid="([\w-]+)"', unquote(figure.html))) for figure in both]
    assert all(ids)
    assert not ids[0] & ids[1]


def test_script_and_style_come_with_the_package_and_are_light():
    figure = interactive.denoiser(CLOUD, [0, 0], PLANE, name="light", sigma_max=2.0)
    assert len(gzip.compress(figure._repr_html_().encode())) < 7000
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    shipped = project["tool"]["setuptools"]["package-data"]["gausstools"]
    folder = Path(gt.__path__[0])
    beside = {path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert {path for pattern in shipped for path in folder.glob(pattern)} == beside
    assert {"interactive.css", "interactive.js", "page.html"} <= {path.name for path in beside}


def test_a_figure_that_is_too_heavy_is_refused():
    many = [[[Points(torch.rand(2000, 2))]] for _ in range(20)]
    with pytest.raises(ValueError, match=r"figure heavy has \d+ kB, at most 500 .*fewer frames"):
        interactive.frames(many, range(20), [PLANE], name="heavy")


def frames(steps=None, labels=(1,), panels=(PLANE,), **options):
    steps = [[Points([[0, 0]])]] if steps is None else steps
    return interactive.frames([[layers] for layers in steps], labels, panels, **{"name": "x", **options})


def flow(model=GAUSSIAN, start=(1, 1), panel=PLANE, **options):
    return interactive.flow(model, start, panel, **{"name": "x", "sigma_max": 2.0, **options})


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: frames(name="Fig 1"), "name is 'Fig 1'"),
        (lambda: frames(name='x"><script>'), "name is"),
        (lambda: frames(steps=[]), "0 frames and 1 labels"),
        (lambda: frames(labels=[1, 2]), "1 frames and 2 labels"),
        (lambda: frames(start=1), "start is 1, expected an integer from 0 to 0"),
        (lambda: frames(panels=[PLANE, PLANE]), "frames have layers for 1 panels, expected 2"),
        (lambda: frames(steps=[[Points([[0, np.nan]])]]), "not finite"),
        (lambda: frames(steps=[[Points([[0, 0, 0]])]]), r"xy of points has shape \(1, 3\)"),
        (lambda: frames(steps=[[Points([[0, 0]], size=[1, 2])]]), r"size has shape \(2,\)"),
        (lambda: frames(steps=[[Line([[0, 0, 0]])]]), r"xy of a line has shape \(1, 3\)"),
        (
            lambda: frames(steps=[[Arrows([[0, 0]], [[0, 0], [1, 1]])]]),
            r"points have shape \(1, 2\) and vectors \(2, 2\)",
        ),
        (lambda: frames(steps=[[Ellipse([0, 0, 0], np.eye(3))]]), r"mean has shape \(3,\)"),
        (lambda: Panel(x=(0, 0), y=(0, 1)), r"x is \(0, 0\), expected two different"),
        (lambda: Panel(x=(0, 1), y=(0, np.inf)), "y is"),
        (lambda: Panel(x=(0, 1), y=(0, 1), xscale="log"), "limits above 0"),
        (lambda: Panel(x=(1, 2), y=(0, 1), xscale="symlog"), "xscale is 'symlog'"),
        (lambda: Panel(x=(1, 2), y=(0, 1), xscale="log", equal=True), "equal is for two linear axes"),
        (lambda: flow(start=(9, 0)), r"the point \[9.0, 0.0\] does not lie in the panel"),
        (lambda: flow(start=(1, 1, 1)), "does not lie in the panel"),
        (lambda: flow(sigma_min=0.0), "sigma_min is 0.0"),
        (lambda: flow(sigma_min=3.0), "sigma_min is 3.0 and sigma_max 2.0"),
        (lambda: flow(sigma=5.0), "sigma is 5.0"),
        (lambda: flow(panel=Panel(x=(1, 2), y=(1, 2), xscale="log")), "logarithmic axis"),
        (lambda: flow(model=gt.Gaussian.isotropic(torch.zeros(3), 1.0)), r"events of shape \(3,\)"),
    ],
)
def test_what_cannot_be_shown_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


@pytest.mark.usefixtures("as_installed")
def test_a_model_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="model is a function, expected a Gaussian, a Mixture or a PointCloud"):
        flow(model=lambda x, sigma: x)


def test_numbers_come_from_anywhere():
    assert as_array(torch.ones(2, requires_grad=True)).tolist() == as_array([1, 1]).tolist() == [1.0, 1.0]
