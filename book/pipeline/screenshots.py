"""Take a picture of every page, on a laptop and a phone, in light and dark, to be looked at."""

from pathlib import Path

from book.pipeline.browser import SCHEMES, WIDTHS, background, offline_context, open_browser, open_page
from book.pipeline.layout import Book, make_writable


def take_screenshots(book: Book) -> list[Path]:
    """Write `_build/screenshots/PAGE-WIDTH-SCHEME.png` for each page; return the files."""
    folder = make_writable(book.build / "screenshots")
    taken = []
    with background(book.html) as site, open_browser() as browser:
        for width in WIDTHS:
            for scheme in SCHEMES:
                context, _ = offline_context(browser, site, width, scheme)
                page = context.new_page()
                for document in book.documents:
                    open_page(page, f"{site}/{document}.html")
                    path = folder / f"{document.replace('/', '-')}-{width}-{scheme}.png"
                    page.screenshot(path=path, full_page=True)
                    taken.append(path)
                context.close()
    return taken
