"""A browser without a network: what it finds wrong with a page, and what it needs for pictures of one.

What a page is like for readers who do not see it, or see it badly, is judged by axe-core, a catalogue of some hundred
rules behind the guidelines WCAG 2.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright

from book.pipeline.errors import PipelineError

WIDTHS = (1280, 390)
"""Pixels of a laptop and of a phone."""

SCHEMES = ("light", "dark")

WEIGHT_LIMIT = 2_000_000
"""Bytes that are sent for a page with all that it loads, text compressed."""

REQUEST_LIMIT = 150
"""Files that a page may consist of, a gallery of all figures included."""

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str:
    """Path of Chromium or Chrome: `$CHROMIUM`, or the first found by name."""
    given = os.environ.get("CHROMIUM")
    path = shutil.which(given) if given else next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        looked = f"CHROMIUM={given} is no program" if given else f"none of {', '.join(_NAMES)} is on the PATH"
        raise PipelineError(
            f"No browser to look at the pages with: {looked}. Install Chromium, or set CHROMIUM to its path."
        )
    return path


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start the system's browser, headless, with a fresh profile."""
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def offline_context(browser: Browser, site: str, width: int, scheme: str) -> tuple[BrowserContext, list[str]]:
    """A window that reaches nothing but `site`, and the list of what it tried to reach elsewhere, which grows."""
    context = browser.new_context(
        viewport={"width": width, "height": 900 if width > 600 else 844}, color_scheme=scheme, reduced_motion="reduce"
    )
    blocked: list[str] = []

    def guard(route) -> None:
        if route.request.url.startswith(f"{site}/"):
            route.continue_()
        else:
            blocked.append(route.request.url)
            route.abort()

    context.route("**/*", guard)
    return context, blocked


def open_page(page: Page, address: str) -> None:
    """Load a page and wait until its formulas are set and its images are there."""
    page.goto(address, wait_until="load")
    page.evaluate("() => window.MathJax?.startup?.promise")
    page.evaluate("() => document.fonts.ready")
    page.evaluate("() => document.querySelectorAll('img[loading=lazy]').forEach(image => { image.loading = 'eager' })")
    page.wait_for_function("() => [...document.images].every(image => image.complete)")


_LOOK = """() => {
    const findings = [];
    const article = document.querySelector('article') || document.body;
    for (const formula of article.querySelectorAll('.math')) {
        if (!formula.querySelector('mjx-container')) findings.push('a formula is not set: ' + formula.textContent);
        const boxes = [formula, ...formula.querySelectorAll('mjx-container')];
        const box = boxes.find(element => element.scrollWidth > element.clientWidth + 1);
        if (formula.matches('div') && box) {
            findings.push('a formula is cut off by ' + (box.scrollWidth - box.clientWidth) + ' pixels: ' +
                          formula.textContent.trim());
        }
    }
    for (const element of document.querySelectorAll('mjx-merror, [data-mjx-error]')) {
        findings.push('a formula is wrong: ' + (element.getAttribute('title') || element.textContent.trim()));
    }
    for (const text of document.querySelectorAll('mjx-assistive-mml :is(mtext, mi)')) {
        if (text.textContent.includes('\\\\')) findings.push('a formula shows its source: ' + text.textContent);
    }
    for (const image of document.images) {
        if (!image.naturalWidth) findings.push('an image is not shown: ' + image.getAttribute('src'));
    }
    for (const figure of article.querySelectorAll('.cell_output img, .cell_output .gausstools-live')) {
        const { filter, opacity, backgroundColor, mixBlendMode } = getComputedStyle(figure);
        const name = figure.id || figure.getAttribute('src');
        if (filter !== 'none' || opacity !== '1' || mixBlendMode !== 'normal') {
            findings.push('a figure is not shown in its own colours: ' + name);
        }
        if (backgroundColor !== 'rgb(255, 255, 255)') findings.push('a figure does not stand on white: ' + name);
    }
    for (const figure of article.querySelectorAll('.gausstools-live:not([data-live])')) {
        findings.push('an interactive figure does not live: ' + figure.id);
    }
    const times = {};
    for (const { id } of document.querySelectorAll('[id]')) times[id] = (times[id] || 0) + 1;
    for (const id in times) if (times[id] > 1) findings.push(times[id] + ' elements have the id ' + id);
    const wide = document.documentElement.scrollWidth - window.innerWidth;
    if (wide > 0) findings.push('the page is ' + wide + ' pixels wider than the window');
    return findings;
}"""


# axe would take minutes for every piece of text. Text of the same colour and size on the same grounds is measured once:
# this marks one of each kind.
_MARK_KINDS_OF_TEXT = """() => {
    const known = new WeakMap();
    const ground = element => {
        if (!element) return '';
        if (!known.has(element)) {
            const { backgroundColor, backgroundImage, opacity, filter } = getComputedStyle(element);
            const own = [backgroundColor, backgroundImage, opacity, filter].join();
            known.set(element, ground(element.parentElement) + (own === 'rgba(0, 0, 0, 0),none,1,none' ? '' : own));
        }
        return known.get(element);
    };
    const seen = new Set();
    for (const element of document.querySelectorAll('body *')) {
        element.removeAttribute('data-kind-of-text');
        const { color, fontSize, fontWeight, textDecorationLine } = getComputedStyle(element);
        const { width, height } = element.getBoundingClientRect();
        const written = [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
        if (!written || width < 2 || height < 2 || element.closest('mjx-assistive-mml')) continue;
        const kind = [color, fontSize, fontWeight, textDecorationLine, ground(element)].join();
        if (!seen.has(kind)) element.setAttribute('data-kind-of-text', '');
        seen.add(kind);
    }
    return seen.size;
}"""

_AXE = """([context, options]) =>
    axe.run(context || document, { ...options, resultTypes: ['violations'], iframes: false, preload: false })
        .then(results => results.violations)"""

_OF_COLOUR = ["color-contrast", "link-in-text-block"]


def _violations(page: Page, context: object, options: dict) -> list[str]:
    return [
        f"{rule['id']} ({rule['impact']}): {rule['help']}: {node['target'][-1]}: {node['html'][:120]}"
        for rule in page.evaluate(_AXE, [context, options])
        if rule["impact"] in {"moderate", "serious", "critical"}
        for node in rule["nodes"]
    ]


def _structure_findings(page: Page) -> list[str]:
    """Faults in names, roles, landmarks, headings and the way of the keyboard."""
    return _violations(page, None, {"rules": {rule: {"enabled": False} for rule in _OF_COLOUR}})


def _colour_findings(page: Page) -> list[str]:
    """Text that stands out too little from its ground, and links from the text around them."""
    if not page.evaluate(_MARK_KINDS_OF_TEXT):
        return []
    return _violations(
        page, {"include": [["[data-kind-of-text]"]]}, {"runOnly": {"type": "rule", "values": _OF_COLOUR}}
    )


def sent(requests: list[Request]) -> list[int]:
    """Bytes that came over the line for each request, leaving out what a page holds as a data address."""
    sizes = [request.sizes() for request in requests if request.url.startswith("http")]
    return [size["responseBodySize"] + size["responseHeadersSize"] for size in sizes]


def _weight_findings(requests: list[Request]) -> list[str]:
    sizes = sent(requests)
    weight = sum(sizes)
    findings = [f"weighs {weight / 1e6:.1f} MB, over {WEIGHT_LIMIT / 1e6:g} MB"] if weight > WEIGHT_LIMIT else []
    return findings + ([f"takes {len(sizes)} requests, over {REQUEST_LIMIT}"] if len(sizes) > REQUEST_LIMIT else [])


def unfold(page: Page) -> None:
    """Unfold solutions and code, so that they are looked at as well."""
    folded = page.locator("details:not([open])")
    if folded.count():
        folded.evaluate_all("all => all.forEach(details => { details.open = true })")
        page.wait_for_timeout(400)  # the theme waits for 300 ms before it measures what can be scrolled


def look(browser: Browser, site: str, address: str, width: int) -> list[str]:
    """Open a page as a reader without a network would; return what is wrong with it, in light and then in dark."""
    context, blocked = offline_context(browser, site, width, SCHEMES[0])
    page = context.new_page()
    findings: list[str] = []
    answered: list[Request] = []
    page.on(
        "console", lambda message: message.type in {"error", "warning"} and findings.append(f"console: {message.text}")
    )
    page.on("pageerror", lambda error: findings.append(f"script: {error}"))
    page.on("requestfailed", lambda request: findings.append(f"not loaded: {request.url}"))
    page.on("requestfinished", lambda request: answered.append(request))
    page.on("response", lambda answer: answer.status >= 400 and findings.append(f"{answer.status}: {answer.url}"))
    open_page(page, f"{site}/{address}")
    findings += _weight_findings(answered)
    unfold(page)
    page.evaluate(AXE_SCRIPT)
    findings += _structure_findings(page)
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(
            "scheme => [scheme, undefined].includes(document.documentElement.dataset.theme)", arg=scheme
        )
        findings += [f"{scheme}: {finding}" for finding in page.evaluate(_LOOK) + _colour_findings(page)]
    findings += [f"reaches out to {url}" for url in blocked]
    context.close()
    return findings
