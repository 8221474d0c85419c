"""What each page weighs, and how soon it is there: bytes and requests, and the largest contentful paint."""

from dataclasses import dataclass

from playwright.sync_api import Browser

from book.pipeline.browser import WIDTHS, offline_context, open_browser, open_page, sent
from book.pipeline.layout import Book
from book.pipeline.serve import background

_OBSERVE = """
window.painted = window.moved = 0;
new PerformanceObserver(list => { for (const { startTime } of list.getEntries()) window.painted = startTime; })
    .observe({ type: 'largest-contentful-paint', buffered: true });
new PerformanceObserver(list => { for (const { value } of list.getEntries()) window.moved += value; })
    .observe({ type: 'layout-shift', buffered: true });
"""


@dataclass(frozen=True)
class Weight:
    """A page at one width of the window.

    Args:
        document: its path from the root, without ending.
        width: of the window, in pixels.
        paint: milliseconds until the largest part of the first screen is shown (largest contentful paint).
        shift: how far what was shown then moved (cumulative layout shift, in parts of the window).
        sent: bytes, text compressed, with all figures that come only when the reader is near them.
        requests: for them.
    """

    document: str
    width: int
    paint: float
    shift: float
    sent: int
    requests: int


def weigh_page(browser: Browser, site: str, document: str, width: int) -> Weight:
    """Measure one page, alone in a fresh window."""
    context, _ = offline_context(browser, site, width, "light")
    page = context.new_page()
    answered = []
    page.on("requestfinished", lambda request: answered.append(request))
    page.add_init_script(_OBSERVE)
    open_page(page, f"{site}/{document}.html")
    paint, shift = page.evaluate("() => [window.painted, window.moved]")
    sizes = sent(answered)
    context.close()
    return Weight(document, width, paint, shift, sum(sizes), len(sizes))


def weigh(book: Book) -> list[Weight]:
    """Measure every page, from this machine to itself."""
    with background(book.html) as site, open_browser() as browser:
        return [weigh_page(browser, site, document, width) for document in book.documents for width in WIDTHS]
