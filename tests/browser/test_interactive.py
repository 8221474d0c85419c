"""Interactive figures in a real browser: they answer to keys, mouse and finger, and they compute right."""

import html
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.pyplot import imread
from sklearn.datasets import make_moons

import gausstools as gt
from book.pipeline.browser import WIDTHS
from book.pipeline.layout import Book
from gausstools.figures import interactive
from gausstools.figures.interactive import Line, Panel, Points

BOOK = Book(Path(__file__).parents[2])
FIGURE = ".gausstools-live"
PAGES = [
    document
    for document in BOOK.documents
    if (page := BOOK.html / f"{document}.html").is_file() and 'class="gausstools-live"' in page.read_text("utf-8")
]


@pytest.fixture
def opened(browser):
    """Open an address, as a reader with these settings would; errors on the page fail the test."""
    contexts, errors = [], []

    def open_page(address, width=1280, **settings):
        context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def alone(opened, tmp_path):
    """Open figures on a page of their own."""

    def open_alone(*figures, **settings):
        body = "".join(figure.html for figure in figures)
        page = f'<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">{body}'
        (tmp_path / "index.html").write_text(page, "utf-8")
        return opened((tmp_path / "index.html").as_uri(), **settings)

    return open_alone


def picture(figure):
    """The moving layers, and the points that can be dragged, as they are drawn now."""
    return figure.evaluate("root => [...root.querySelectorAll('.moving, .handle')].map(node => node.outerHTML).join()")


def changes(figure, act):
    """Act, and say whether another picture is shown a moment later."""
    before = picture(figure)
    act()
    for _ in range(60):  # a slow film shows a picture for 0.6 s
        if picture(figure) != before:
            return True
        figure.page.wait_for_timeout(20)
    return False


def press(figure, key):
    """Press a key where the focus is; say whether the picture changed."""
    return changes(figure, lambda: figure.page.keyboard.press(key))


def drag(figure, begin, by):
    """Drag with the mouse; say whether the picture changed."""
    return changes(figure, lambda: _drag(figure.page, begin, by))


def _drag(page, begin, by):
    page.mouse.move(*begin)
    page.mouse.down()
    page.mouse.move(begin[0] + by[0] / 2, begin[1] + by[1] / 2)
    page.mouse.move(begin[0] + by[0], begin[1] + by[1])
    page.mouse.up()


def middle(locator):
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


# ---- on the pages of the book


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("document", PAGES)
def test_every_figure_answers_to_keys_and_pointer(opened, site, document, width):
    page = opened(f"{site}/{document}.html", width=width)
    figures = page.locator(FIGURE)
    assert figures.count() > 0
    for figure in figures.all():
        figure.scroll_into_view_if_needed()
        name = figure.get_attribute("id")
        slider = figure.locator("input[type=range]")
        said = figure.locator("output")
        slider.focus()
        page.keyboard.press("Home")
        for key in ("PageUp", "PageDown", "End", "Home"):
            assert press(figure, key), f"{name}: {key}"
        for key in ("ArrowRight", "ArrowLeft"):  # so small a step may move nothing by a pixel, but it counts
            heard = said.inner_text()
            page.keyboard.press(key)
            assert said.inner_text() != heard, f"{name}: {key}"
        heard = said.inner_text()
        box = slider.bounding_box()
        begin = (box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
        assert drag(figure, begin, (-box["width"] / 2, 0)), f"{name}: slider dragged"
        assert said.inner_text() != heard
        for handle in figure.locator(".handle").all():
            handle.focus()
            for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown"):
                assert press(figure, key), f"{name}: point, {key}"
            assert drag(figure, middle(handle), (-25, 15)), f"{name}: point dragged"


@pytest.mark.parametrize("document", PAGES)
def test_every_figure_can_be_played_and_stopped(opened, site, document):
    page = opened(f"{site}/{document}.html", reduced_motion="no-preference")
    for figure in page.locator(FIGURE).all():
        button, slider = figure.get_by_role("button"), figure.locator("input[type=range]")
        slider.press("Home")
        resting = picture(figure)
        page.wait_for_timeout(300)
        assert picture(figure) == resting, "it plays by itself"
        assert changes(figure, button.click)
        assert button.inner_text() == "Stop"
        button.click()
        resting = picture(figure)
        page.wait_for_timeout(300)
        assert picture(figure) == resting, "it plays on"
        assert button.inner_text() == "Play"


@pytest.mark.parametrize("document", PAGES)
def test_without_scripts_a_still_picture_is_there_and_no_control(opened, site, document):
    page = opened(f"{site}/{document}.html", java_script_enabled=False)
    for figure in page.locator(FIGURE).all():
        images = figure.locator(".panels > img").all()
        assert images
        assert all(image.get_attribute("alt") and image.bounding_box()["height"] > 100 for image in images)
        assert figure.locator("input, button, .handle").count() == 0


@pytest.mark.parametrize("document", PAGES)
def test_every_control_has_a_name_a_size_and_a_visible_focus(opened, site, document):
    page = opened(f"{site}/{document}.html", width=390)
    for figure in page.locator(FIGURE).all():
        for control in figure.locator("input, button").all():
            assert control.get_attribute("aria-label") or control.inner_text()
            assert control.bounding_box()["height"] >= 40
            control.focus()
            page.keyboard.press("Shift")  # so that the browser counts the focus as the keyboard's
            assert control.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
        for handle in figure.locator(".handle").all():
            handle.focus()
            assert handle.get_attribute("aria-label")
            assert handle.get_attribute("aria-valuetext")
            assert handle.bounding_box()["width"] >= 24
            assert handle.evaluate("node => getComputedStyle(node.querySelector('.ring')).stroke") == "rgb(1, 115, 178)"


# ---- the script's mathematics, beside the library's


def moons():
    points, _ = make_moons(200, noise=0.04, random_state=0)
    return gt.PointCloud(torch.from_numpy(points))


def mixture():
    parts = [
        gt.Gaussian.from_covariance(
            torch.tensor(mean, dtype=torch.float64), torch.tensor(covariance, dtype=torch.float64)
        )
        for mean, covariance in (
            ([-1.0, 0.2], [[0.3, 0.1], [0.1, 0.05]]),
            ([1.0, 0.5], [[0.02, 0.0], [0.0, 0.2]]),
            ([0.3, -1.0], [[0.1, -0.05], [-0.05, 0.1]]),
        )
    ]
    return gt.Mixture([0.5, 0.3, 0.2], parts)


def gaussian():
    return gt.Gaussian.from_covariance(
        torch.tensor([0.4, -0.2], dtype=torch.float64), torch.tensor([[0.8, 0.4], [0.4, 0.24]], dtype=torch.float64)
    )


MODELS = {"gaussian": gaussian, "mixture": mixture, "cloud": moons}
PLANE = Panel(x=(-6, 6), y=(-5, 5), equal=True)
HIGH, LOW, STEPS = 4.0, 0.02, 120


def shown(figure, what):
    """Numbers that the browser computed, as the page holds them."""
    return np.array(figure.locator("svg").get_attribute(f"data-{what}").split(","), dtype=float)


def moved(page, figure, seed):
    """Move the point somewhere else by keys; return where it is."""
    rng = np.random.default_rng(seed)
    handle = figure.locator(".handle")
    handle.focus()
    for key in rng.choice(["ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown"], 12):
        page.keyboard.press(key)
    across, up = map(float, re.findall(r"-?[\d.]+", handle.get_attribute("transform")))
    (left, top), (right, bottom) = PLANE.pixels(np.array([[0.0, 0.0], [1.0, 1.0]]))
    return np.array([(across - left) / (right - left), (up - top) / (bottom - top)])


def slide(figure, index):
    move = "(node, value) => { node.value = value; node.dispatchEvent(new Event('input')) }"
    figure.locator("input").evaluate(move, index)


def reference(model, start, indices):
    """Where the flow is at these positions of the slider: the closed form, or Heun's method with finer steps."""
    x, finer = torch.from_numpy(start)[None], 12
    levels = torch.from_numpy(np.geomspace(HIGH, LOW, STEPS * finer + 1))
    if isinstance(model, gt.Gaussian):
        path = [model.flow(x, HIGH, levels[finer * index]) for index in indices]
    else:
        states = list(gt.samplers.heun(model, x, levels))
        path = [states[finer * index - 1].x for index in indices]
    return torch.cat(path).numpy()


@pytest.mark.parametrize("name", MODELS)
def test_the_browser_follows_the_flow(alone, name):
    model = MODELS[name]()
    page = alone(interactive.flow(model, [1.0, 2.0], PLANE, name="flow", sigma_max=HIGH, sigma_min=LOW))
    figure = page.locator(FIGURE)
    for seed in range(3):
        start = moved(page, figure, seed)
        indices = (40, 90, STEPS)
        for index, expected in zip(indices, reference(model, start, indices), strict=True):
            slide(figure, index)
            sigma = HIGH * (LOW / HIGH) ** (index / STEPS)
            np.testing.assert_allclose(shown(figure, "state"), expected, atol=2e-4)
            at = torch.from_numpy(shown(figure, "state"))[None]
            np.testing.assert_allclose(shown(figure, "answer"), model(at, sigma)[0], atol=5e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_browser_denoises(alone, name):
    model = MODELS[name]()
    page = alone(interactive.denoiser(model, [1.0, 2.0], PLANE, name="answer", sigma_max=HIGH))
    figure = page.locator(FIGURE)
    for seed in range(3):
        at = moved(page, figure, seed)
        for index in (0, 60, STEPS):
            slide(figure, index)
            sigma = HIGH * (LOW / HIGH) ** (index / STEPS)
            answer = model(torch.from_numpy(at)[None], sigma)[0].numpy()
            np.testing.assert_allclose(shown(figure, "answer"), answer, atol=2e-5)
    if name == "cloud":
        weights = model.posterior(torch.from_numpy(at)[None], sigma)[0]
        averaged = (1 / weights.square().sum()).item()
        said = re.search(r"an average of ([\d.]+) points", figure.locator("output").inner_text())[1]
        assert float(said) == pytest.approx(averaged, abs=0.051)


def test_the_living_picture_begins_as_the_still_one(alone, browser):
    """Pixel by pixel, up to anti-aliasing and the handle."""
    for model in (gaussian(), mixture(), moons()):
        figure = interactive.flow(model, [1.0, 2.0], PLANE, name="same", sigma_max=HIGH, other=gaussian())
        shots = [
            imread(io.BytesIO(alone(figure, java_script_enabled=scripts).locator(".panels > *").screenshot()))
            for scripts in (True, False)
        ]
        assert shots[0].shape == shots[1].shape
        assert (np.abs(shots[0] - shots[1]).max(-1) > 0.3).mean() < 0.002


# ---- manners


def leaf(start=5):
    steps = [[[Points([[k / 10, 0]], size=9), Line([[0, 0], [k / 10, 1]])]] for k in range(-20, 21)]
    return interactive.frames(steps, range(-20, 21), [PLANE], name="leaf", control="step", start=start)


def test_figures_on_one_page_leave_each_other_alone(alone):
    page = alone(leaf(), interactive.denoiser(moons(), [1, 1], PLANE, name="other", sigma_max=2.0))
    first, second = page.locator(FIGURE).all()
    before = picture(second)
    first.locator("input").press("End")
    assert first.locator("output").inner_text() == "step: 20"
    assert picture(second) == before
    assert page.evaluate("Object.keys(window).filter(key => /live|gausstools|leaf/i.test(key))") == []


def test_a_figure_shown_twice_lives_twice(alone):
    page = alone(leaf(), leaf())
    for figure in page.locator(FIGURE).all():
        assert figure.locator("input").count() == 1
        assert changes(figure, lambda figure=figure: figure.locator("input").press("End"))


def test_a_finger_drags_the_point_and_the_page_stays(alone):
    figure = interactive.flow(gaussian(), [1, 2], PLANE, name="touch", sigma_max=HIGH)
    page = alone(figure, width=390, has_touch=True)
    shown_figure = page.locator(FIGURE)
    x, y = middle(shown_figure.locator(".handle"))
    session = page.context.new_cdp_session(page)
    before = picture(shown_figure)
    for kind, step in (("touchStart", 0), *(("touchMove", step) for step in range(1, 7)), ("touchEnd", 7)):
        points = [] if kind == "touchEnd" else [{"x": x - 5 * step, "y": y + 10 * step}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.wait_for_timeout(40)
    assert picture(shown_figure) != before
    assert page.evaluate("scrollY") == 0
    moved_to = middle(shown_figure.locator(".handle"))
    assert moved_to == pytest.approx((x - 30, y + 60), abs=2)


def test_reduced_motion_steps(alone):
    page = alone(leaf(), reduced_motion="reduce")
    figure = page.locator(FIGURE)
    button = figure.get_by_role("button")
    assert button.inner_text() == "Step"
    button.click()
    after = picture(figure)
    page.wait_for_timeout(200)
    assert picture(figure) == after
    assert figure.locator("output").inner_text() == "step: -13"


def test_playing_ends_at_the_last_frame(alone):
    page = alone(leaf(start=34), reduced_motion="no-preference")
    figure = page.locator(FIGURE)
    figure.get_by_role("button").click()
    figure.get_by_text("step: 20").wait_for()
    assert figure.get_by_role("button").inner_text() == "Play"


def test_home_brings_the_point_back_and_it_stays_inside(alone):
    page = alone(interactive.flow(gaussian(), [1, 2], PLANE, name="home", sigma_max=HIGH))
    handle = page.locator(".handle")
    begin = handle.get_attribute("transform")
    for _ in range(60):
        handle.press("ArrowRight")
    assert float(handle.get_attribute("aria-valuenow")) == 6
    handle.press("Home")
    assert handle.get_attribute("transform") == begin


def test_moving_is_quick(alone):
    """A drag over a cloud of 400 points takes less than two frames of a screen a move, on a slow machine too."""
    points, _ = make_moons(400, noise=0.04, random_state=0)
    cloud = gt.PointCloud(torch.from_numpy(points))
    page = alone(interactive.flow(cloud, [1, 2], PLANE, name="quick", sigma_max=HIGH))
    page.locator(".handle").focus()
    took = page.evaluate(
        """() => {
            const handle = document.querySelector('.handle');
            const begin = performance.now();
            for (let k = 0; k < 40; k++) {
                const key = k % 2 ? 'ArrowLeft' : 'ArrowRight';
                handle.dispatchEvent(new KeyboardEvent('keydown', { key }));
            }
            return (performance.now() - begin) / 40;
        }"""
    )
    assert took < 33, f"{took:.0f} ms a move"


def test_it_lives_in_a_sandboxed_frame_as_in_colab(opened, tmp_path):
    frame = f'<iframe sandbox="allow-scripts" width="700" height="700" srcdoc="{html.escape(leaf().html)}"></iframe>'
    (tmp_path / "index.html").write_text(f'<!doctype html><meta charset="utf-8">{frame}', "utf-8")
    page = opened((tmp_path / "index.html").as_uri())
    figure = page.frame_locator("iframe").locator(FIGURE)
    figure.locator("input").press("End")
    assert figure.locator("output").inner_text() == "step: 20"
    assert figure.locator("svg").bounding_box()["width"] == pytest.approx(PLANE.width)
