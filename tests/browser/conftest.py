"""A browser, and the built book behind an address."""

from pathlib import Path

import pytest

from book.pipeline.browser import background, open_browser
from book.pipeline.layout import Book


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def site():
    with background(Book(Path(__file__).parents[2]).html) as address:
        yield address
