"""The moving picture of the front page, and pages on paper."""

from pathlib import Path

import pytest

from book.pipeline.browser import offline_context, open_page
from book.pipeline.layout import Book

BOOK = Book(Path(__file__).parents[2])

PAPER = {"width": 688, "height": 1000}
"""What the margins of the print style leave of an A4 page, in pixels: 182 mm by 265 mm."""


@pytest.fixture
def opened(browser, site):
    """Open the front page with a browser's settings; errors on the page fail the test."""
    contexts, errors = [], []

    def open_front(**settings):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{site}/book/index.html")
        return page

    yield open_front
    for context in contexts:
        context.close()
    assert errors == []


def frame(page):
    return int(page.evaluate("() => document.getElementById('moving-picture').style.getPropertyValue('--frame')"))


def last_frame(page):
    return int(page.locator("#moving-picture input").get_attribute("max"))


def calls(page):
    return [int(count) for count in page.locator("#moving-picture [data-row]").all_inner_texts()]


def test_it_plays_by_itself_from_the_first_step_and_can_be_paused(opened):
    page = opened(reduced_motion="no-preference")
    page.get_by_role("button", name="Pause").wait_for()
    begin = frame(page)
    assert begin < last_frame(page)
    page.wait_for_function(f"() => document.querySelector('#moving-picture input').value > {begin}")
    page.get_by_role("button", name="Pause").click()
    paused = frame(page)
    page.wait_for_timeout(900)
    assert frame(page) == paused
    page.get_by_role("button", name="Play").click()
    page.wait_for_function(f"() => document.querySelector('#moving-picture input').value > {paused}")


def test_it_stands_still_for_readers_who_asked_for_less_motion(opened):
    page = opened(reduced_motion="reduce")
    assert page.get_by_role("button", name="Play").is_visible()
    page.wait_for_timeout(900)
    assert frame(page) == last_frame(page)


def test_its_slider_answers_to_keys(opened):
    page = opened(reduced_motion="reduce")
    slider = page.locator("#moving-picture input")
    slider.focus()
    network, gaussian, jump = calls(page)
    assert (gaussian, jump < network) == (0, True)
    page.keyboard.press("Home")
    assert (frame(page), calls(page)) == (0, [1, 0, 0])
    assert slider.get_attribute("aria-valuetext") == "σ = 80"
    page.keyboard.press("ArrowRight")
    assert (frame(page), calls(page)) == (1, [3, 0, 0])
    page.keyboard.press("End")
    assert calls(page) == [network, gaussian, jump]


def test_without_scripts_there_is_a_still_picture_and_no_dead_control(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("#moving-picture img").count() == 3
    assert page.locator("#moving-picture img").first.is_visible()
    assert not page.locator("#moving-picture .controls").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("document", [f"notebooks/{c.slug}" for c in BOOK.published] + ["book/index", "book/gallery"])
def test_on_paper_nothing_is_cut_or_folded_away(browser, site, document, scheme):
    """Each figure fits a page, and may not be broken; nothing is wider than the paper; solutions are unfolded."""
    context, _ = offline_context(browser, site, PAPER["width"], scheme)
    page = context.new_page()
    open_page(page, f"{site}/{document}.html")
    page.emulate_media(media="print")
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    found = page.evaluate(
        """({ width, height }) => {
        const found = [];
        const shown = (element) => element.getClientRects().length > 0;
        const name = (element) => element.id || element.className || element.tagName;
        for (const figure of document.querySelectorAll('article :is(figure, .moving-picture, .gallery li)')) {
            if (getComputedStyle(figure).breakInside !== 'avoid') found.push(`may be cut: ${name(figure)}`);
            if (figure.getBoundingClientRect().height > height) found.push(`higher than a page: ${name(figure)}`);
        }
        for (const element of document.querySelectorAll('article :is(pre, figure, img, div.math, table)')) {
            const box = element.getBoundingClientRect();
            if (shown(element) && Math.max(box.right, box.left + element.scrollWidth) > width + 1)
                found.push(`wider than the paper: ${name(element)} ${element.textContent.slice(0, 60)}`);
        }
        for (const solution of document.querySelectorAll('.tag_hide-cell details'))
            if (!solution.open) found.push('a solution is folded');
        for (const aside of document.querySelectorAll('.bd-sidebar, .bd-header, .bd-header-article, .controls'))
            if (shown(aside)) found.push(`no part of the text: ${name(aside)}`);
        if (getComputedStyle(document.body).color !== 'rgb(34, 40, 50)') found.push('the text is not dark');
        return found;
    }""",
        PAPER,
    )
    page.evaluate("() => window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("() => document.documentElement.dataset.theme") == scheme
    context.close()
    assert found == []
