"""A browser without a network: what it finds wrong with a page, and what it needs for pictures of one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from book.pipeline.errors import PipelineError

WIDTHS = (1280, 390)
"""Pixels of a laptop and of a phone."""

SCHEMES = ("light", "dark")

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
    const wide = document.documentElement.scrollWidth - window.innerWidth;
    if (wide > 0) findings.push('the page is ' + wide + ' pixels wider than the window');
    return findings;
}"""


def look(browser: Browser, site: str, address: str, width: int, scheme: str) -> list[str]:
    """Open a page as a reader without a network would; return what is wrong with it."""
    context, blocked = offline_context(browser, site, width, scheme)
    page = context.new_page()
    findings: list[str] = []
    page.on(
        "console", lambda message: message.type in {"error", "warning"} and findings.append(f"console: {message.text}")
    )
    page.on("pageerror", lambda error: findings.append(f"script: {error}"))
    page.on("requestfailed", lambda request: findings.append(f"not loaded: {request.url}"))
    page.on("response", lambda answer: answer.status >= 400 and findings.append(f"{answer.status}: {answer.url}"))
    open_page(page, f"{site}/{address}")
    findings += page.evaluate(_LOOK)
    findings += [f"reaches out to {url}" for url in blocked]
    context.close()
    return findings
