"""Every page in a real browser that reaches nothing but the site itself: `make browser`, after `make book`."""

from pathlib import Path

import pytest

from book.pipeline.browser import SCHEMES, WIDTHS, look
from book.pipeline.layout import Book
from book.pipeline.serve import background

BOOK = Book(Path(__file__).parents[2])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("document", BOOK.documents)
def test_a_page_is_whole_without_a_network(browser, site, document, width, scheme):
    assert look(browser, site, f"{document}.html", width, scheme) == []


def test_formulas_are_set_and_figures_are_there(browser, site):
    """What the page test would pass over if there were nothing to look at."""
    page = browser.new_page()
    page.goto(f"{site}/notebooks/01_noise_and_score.html")
    page.evaluate("() => window.MathJax.startup.promise")
    assert page.locator("article mjx-container").count() > 20
    assert page.locator("article .cell_output img").count() >= 5
    assert page.locator("article .provenance").count() == 1
    page.close()


def test_solutions_and_the_code_of_figures_unfold(browser, site):
    page = browser.new_page()
    page.goto(f"{site}/notebooks/01_noise_and_score.html")
    for prompt in ("Show the solution", "Show the code of this figure"):
        summary = page.get_by_text(prompt, exact=True).first
        code = summary.locator("xpath=ancestor::details[1]").locator("pre").first
        assert not code.is_visible()
        summary.click()
        assert code.is_visible()
    page.close()


def test_a_formula_keeps_its_punctuation(browser, site):
    """At any width: the full stop stands in the line in which the formula ends."""
    page = browser.new_page()
    page.goto(f"{site}/notebooks/02_gaussian_model.html")
    page.evaluate("() => window.MathJax.startup.promise")
    apart = """() => [...document.querySelectorAll('article mjx-container:not([display])')].filter(formula => {
        const next = formula.parentElement.nextSibling;
        if (!next || next.nodeType !== Node.TEXT_NODE || !/^[.,;:]/.test(next.data)) return false;
        const range = document.createRange();
        range.setStart(next, 0);
        range.setEnd(next, 1);
        const [mark, box] = [range.getBoundingClientRect(), formula.getBoundingClientRect()];
        return mark.top > box.bottom || mark.left < box.left;
    }).length"""
    for width in range(360, 720, 10):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(apart) == 0, width
    page.close()


def test_search_finds_a_chapter(browser, site):
    page = browser.new_page()
    page.goto(f"{site}/search.html?q=Tweedie")
    page.wait_for_selector("#search-results li a")
    assert "Noise and score" in page.locator("#search-results").inner_text()
    page.close()


FAULTS = {
    "<script src='https://example.invalid/x.js'></script>": "reaches out to https://example.invalid/x.js",
    "<script>console.error('broken')</script>": "console: broken",
    "<script>undefined_function()</script>": "script: ",
    "<img src='missing.png' alt='x'>": "an image is not shown: missing.png",
    "<div style='width: 3000px'>wide</div>": "pixels wider than the window",
    "<span class='math'>\\(x\\)</span>": "a formula is not set",
    "<div class='math' style='width: 9px; overflow: auto'><mjx-container><p style='width: 99px'>x": "cut off by 90",
    "<mjx-merror title='Undefined control sequence'></mjx-merror>": "a formula is wrong: Undefined",
    "<div class='cell_output'><img src='dot.svg' style='opacity: 0.5'></div>": "not shown in its own colours",
    "<div class='cell_output'><img src='dot.svg' style='filter: invert(1)'></div>": "does not stand on white",
    "<div class='cell_output'><div class='gausstools-live' id='x' style='filter: invert(1)'></div></div>": "colours: x",
    "<div class='cell_output'><div class='gausstools-live' id='x'></div></div>": "does not stand on white: x",
    "<div class='gausstools-live' id='x'></div>": "an interactive figure does not live: x",
}


@pytest.mark.parametrize(("body", "finding"), FAULTS.items())
def test_each_fault_is_found(browser, tmp_path, body, finding):
    (tmp_path / "dot.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>")
    (tmp_path / "index.html").write_text(f"<html><body><article>{body}</article></body></html>")
    with background(tmp_path) as address:
        assert any(finding in found for found in look(browser, address, "index.html", 390, "light"))
