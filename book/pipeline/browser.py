"""A browser without a network: what only a reader's machine can find wrong with a page, and pictures of every page.

What a page is like for readers who do not see it, or see it badly, is judged by axe-core, a catalogue of some hundred
rules behind the guidelines WCAG 2.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from threading import Thread

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from book.pipeline.layout import Book, PipelineError

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


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing: a page is some forty requests."""


@contextmanager
def background(folder: Path) -> Iterator[str]:
    """Serve `folder` on a free port from another thread; yields its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


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


_LOOK = Path(__file__).with_name("look.js").read_text("utf-8")
_MARK_KINDS_OF_TEXT = Path(__file__).with_name("kinds_of_text.js").read_text("utf-8")

_RUN_AXE = Path(__file__).with_name("run_axe.js").read_text("utf-8")

_OF_COLOUR = ["color-contrast", "link-in-text-block"]


def _violations(page: Page, context: object, options: dict) -> list[str]:
    return [
        f"{rule['id']} ({rule['impact']}): {rule['help']}: {node['target'][-1]}: {node['html'][:120]}"
        for rule in page.evaluate(_RUN_AXE, [context, options])
        if rule["impact"] in {"moderate", "serious", "critical"}
        for node in rule["nodes"]
    ]


def _colour_findings(page: Page) -> list[str]:
    """Text that stands out too little from its ground, and links from the text around them."""
    if not page.evaluate(_MARK_KINDS_OF_TEXT):
        return []
    texts, rules = {"include": [["[data-kind-of-text]"]]}, {"runOnly": {"type": "rule", "values": _OF_COLOUR}}
    return _violations(page, texts, rules)


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
    page.on(
        "console", lambda message: message.type in {"error", "warning"} and findings.append(f"console: {message.text}")
    )
    page.on("pageerror", lambda error: findings.append(f"script: {error}"))
    page.on("requestfailed", lambda request: findings.append(f"not loaded: {request.url}"))
    page.on("response", lambda answer: answer.status >= 400 and findings.append(f"{answer.status}: {answer.url}"))
    open_page(page, f"{site}/{address}")
    unfold(page)
    page.evaluate(AXE_SCRIPT)
    findings += _violations(page, None, {"rules": {rule: {"enabled": False} for rule in _OF_COLOUR}})
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(
            "scheme => [scheme, undefined].includes(document.documentElement.dataset.theme)", arg=scheme
        )
        findings += [f"{scheme}: {finding}" for finding in page.evaluate(_LOOK) + _colour_findings(page)]
    findings += [f"reaches out to {url}" for url in blocked]
    context.close()
    return findings


def take_screenshots(book: Book) -> int:
    """Write `_build/screenshots/PAGE-WIDTH-SCHEME.png` for each page, to be looked at; return how many."""
    folder = book.build / "screenshots"
    with background(book.html) as site, open_browser() as browser:
        for width, scheme in product(WIDTHS, SCHEMES):
            context, _ = offline_context(browser, site, width, scheme)
            page = context.new_page()
            for document in book.documents:
                open_page(page, f"{site}/{document}.html")
                path = folder / f"{document.replace('/', '-')}-{width}-{scheme}.png"
                page.screenshot(path=path, full_page=True)  # which makes the folder
            context.close()
    return len(WIDTHS) * len(SCHEMES) * len(book.documents)
