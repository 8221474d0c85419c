"""A browser without a network, to look at the pages with."""

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
