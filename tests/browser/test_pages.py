"""Every page in a real browser that reaches nothing but the site itself: `make browser`, after `make book`."""

from pathlib import Path

import pytest

from book.pipeline.browser import SCHEMES, WIDTHS, background, look, open_page
from book.pipeline.layout import Book

BOOK = Book(Path(__file__).parents[2])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("document", [*BOOK.documents, "search", "genindex", "py-modindex"])
def test_a_page_is_whole_and_open_to_all_without_a_network(browser, site, document, width):
    assert look(browser, site, f"{document}.html", width) == []


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
    """By the keyboard too, and a screen reader says what there is to unfold and whether it is."""
    page = browser.new_page()
    page.goto(f"{site}/notebooks/01_noise_and_score.html")
    session = page.context.new_cdp_session(page)

    def said(name):
        nodes = session.send("Accessibility.getFullAXTree")["nodes"]
        named = [node for node in nodes if node.get("name", {}).get("value", "").strip() == name]
        node = next(node for node in named if node["role"]["value"] == "DisclosureTriangle")
        return {entry["name"]: entry["value"]["value"] for entry in node["properties"]}

    for show in ("Show the solution", "Show the code of this figure"):
        summary = page.get_by_text(show, exact=True).first.locator("xpath=ancestor::summary[1]")
        code = summary.locator("xpath=ancestor::details[1]").locator("pre").first
        assert not code.is_visible()
        assert said(show)["expanded"] is False
        summary.press("Enter")
        assert code.is_visible()
        assert said(show.replace("Show", "Hide"))["expanded"] is True
        summary.press("Space")
        assert not code.is_visible()
        summary.click()
        assert code.is_visible()
    page.close()


def test_the_first_stop_of_the_keyboard_skips_to_the_text(browser, site):
    page = browser.new_page()
    page.goto(f"{site}/notebooks/01_noise_and_score.html")
    page.keyboard.press("Tab")
    link = page.get_by_role("link", name="Skip to main content")
    assert link.evaluate("node => node === document.activeElement")
    page.wait_for_function("() => document.activeElement.getBoundingClientRect().top >= 0")  # it slides in
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.closest('main') !== null")
    page.close()


LOOKS = """node => {
    const marks = ['outline', 'boxShadow', 'backgroundColor', 'borderColor', 'stroke'];
    const look = part => { const style = getComputedStyle(part); return marks.map(mark => style[mark]).join(); };
    return [node, ...node.querySelectorAll('*')].map(look).join();
}"""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("document", ["notebooks/01_noise_and_score", "book/api/models", "search"])
def test_every_stop_of_the_keyboard_is_seen(browser, site, document, scheme):
    """What has the focus looks otherwise than without it, and the focus gets to the end of the page."""
    page = browser.new_page(color_scheme=scheme, reduced_motion="reduce")
    open_page(page, f"{site}/{document}.html")
    page.add_style_tag(content="* { transition: none !important }")
    passed = []
    while len(passed) < 500:
        page.keyboard.press("Tab")
        stop = page.evaluate_handle("() => document.activeElement")
        if stop.evaluate("node => node === document.body"):
            break
        with_focus = stop.evaluate(LOOKS)
        passed.append((stop, with_focus))
    assert 20 < len(passed) < 500
    unseen = [stop.evaluate("node => node.outerHTML") for stop, seen in passed if stop.evaluate(LOOKS) == seen]
    assert unseen == []
    page.close()


def test_what_is_too_wide_is_scrolled_by_keys(browser, site):
    """A line of code on a phone, one that is there at once and one that was folded."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    open_page(page, f"{site}/notebooks/01_noise_and_score.html")
    folded = page.locator("details pre").filter(has_text="plt").first
    assert not folded.is_visible()
    folded.locator("xpath=ancestor::details[1]").locator("summary").click()
    for code in (page.locator("article pre:visible").first, folded):
        assert code.evaluate("node => node.scrollWidth > node.clientWidth")
        page.wait_for_function("node => node.tabIndex === 0", arg=code.element_handle())
        code.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("node => node.scrollLeft > 0", arg=code.element_handle())
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
    "<mjx-assistive-mml><mtext>a\\_b</mtext></mjx-assistive-mml>": "a formula shows its source: a",
    "<div class='cell_output'><img src='dot.svg' style='opacity: 0.5'></div>": "not shown in its own colours",
    "<div class='cell_output'><img src='dot.svg' style='filter: invert(1)'></div>": "does not stand on white",
    "<div class='cell_output'><div class='gausstools-live' id='x' style='filter: invert(1)'></div></div>": "colours: x",
    "<div class='cell_output'><div class='gausstools-live' id='x'></div></div>": "does not stand on white: x",
    "<div class='gausstools-live' id='x'></div>": "an interactive figure does not live: x",
    "<p id='x'></p><p id='x'></p>": "2 elements have the id x",
    "<p style='color: #888'>faint</p>": "light: color-contrast (serious)",
    "<details><summary>more</summary><p style='color: #888'>faint</p></details>": "light: color-contrast (serious)",
    "<style>@media (prefers-color-scheme: dark) { body { background: #222 } }</style>black": "dark: color-contrast",
    "<p>A <a href='#' style='text-decoration: none; color: #222'>link</a> in text</p>": "light: link-in-text-block",
    "<img src='dot.svg'>": "image-alt (critical)",
    "<button></button>": "button-name (critical)",
    "<input type='text'>": "label (critical)",
    "<h2>Two</h2><h4>Four</h4>": "heading-order (moderate)",
    "<dl><dd>no term</dd></dl>": "definition-list (serious)",
    "<pre style='width: 50px; overflow: auto'>a line that is cut</pre>": "scrollable-region-focusable (serious)",
}


@pytest.mark.parametrize(("body", "finding"), FAULTS.items())
def test_each_fault_is_found(browser, tmp_path, body, finding):
    (tmp_path / "dot.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>")
    (tmp_path / "index.html").write_text(f"<html><body><article>{body}</article></body></html>")
    with background(tmp_path) as address:
        assert any(finding in found for found in look(browser, address, "index.html", 390))
