"""The pages of the library: everything public is on one of them, and a broken docstring breaks the build."""

import importlib
import pkgutil
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

import gausstools as gt
from book._ext.api import modules_on, names_of, public_path
from book.pipeline.layout import Book

ROOT = Path(__file__).parents[2]
ROOMS = [f"gausstools.{room.name}" for room in pkgutil.iter_modules(gt.__path__) if not room.name.startswith("_")]
"""What users import from. The modules within a package stand behind what the package itself offers."""


def test_every_public_name_stands_on_one_page():
    pages = [ROOT / f"{document}.md" for document in Book(ROOT).documents if document.startswith("book/api/")]
    modules = [importlib.import_module(name) for page in pages for name in modules_on(page.read_text("utf-8"))]
    shown = [public_path(module, name) for module in modules for name in names_of(module)]
    public = {public_path(room, name) for room in map(importlib.import_module, ROOMS) for name in room.__all__}
    public |= {f"gausstools.{name}" for name in gt.__all__} - {*ROOMS, "gausstools.__version__"}
    missing = sorted(public - {*shown})
    assert not missing, f"on no page in book/api; name their modules there (`:::{{api}} gausstools.…`): {missing}"
    assert sorted(shown) == sorted({*shown})


FILES = {
    "gausstools/__init__.py": '''\
"""A toy."""

from gausstools.balls import Ball

__all__ = ["Ball", "balls"]
''',
    "gausstools/balls.py": '''\
"""Balls, of volume ``4/3·πr³``. See :class:`gausstools.Ball`."""

import abc
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["COLOR", "Shape", "Size", "weigh", "Ball", "Pair"]

COLOR = "red"
"""How a ball looks."""

Size = float | Tensor
"""How large."""


class Shape(abc.ABC):
    """Something."""

    @abc.abstractmethod
    def weigh(self):
        """Of the public base."""


class _Round(Shape, nn.Module):
    def roll(self):
        """Of the private base."""


class Ball(_Round):
    """A ball.

    Args:
        low, high: two sizes, "about right".

    >>> Ball(1.0, 2.0).middle
    1.5
    """

    def __init__(self, low: Size, high: Size):
        super().__init__()
        self.low, self.high = low, high

    @property
    def middle(self) -> float:
        """The middle: half of both."""
        return (self.low + self.high) / 2

    def _burst(self):
        """Private."""


class Pair(NamedTuple):
    """Two of them."""

    left: Ball
    right: Ball


def weigh(ball: Ball, points: Float[Tensor, "batch *event"], gravity: float = 9.81) -> "Ball":
    """Weigh it, as :meth:`gausstools.Ball.roll` does.

    Raises:
        ValueError: if it is gone.
    """
''',
    "book/index.md": "# Toy\n",
    "book/api/index.md": "# Names\n\n:::{api-index}\n:::\n",
    "book/api/balls.md": "# Round things\n\n:::{api} gausstools.balls\n:::\n",
    "book/_toc.yml": """\
format: jb-book
root: book/index
chapters:
  - file: book/api/index
    sections:
      - file: book/api/balls
""",
}


@pytest.fixture
def documented(toy):
    """A toy book about its library alone."""
    for path, text in FILES.items():
        toy.write(path, text)
    return toy


def page(toy, name: str) -> BeautifulSoup:
    found = BeautifulSoup(toy.read(f"_build/html/book/api/{name}.html"), "lxml")
    for link in found.select(".headerlink"):
        link.decompose()
    return found


def test_pages_show_a_module_as_users_know_it_and_follow_its_docstrings(documented):
    toy = documented
    assert toy.command("pages").returncode == 0
    balls = page(toy, "balls").article
    assert [entry["id"] for entry in balls.select("dt.sig[id]")] == [
        "gausstools.balls.COLOR",
        "gausstools.balls.Shape",
        "gausstools.balls.Shape.weigh",
        "gausstools.balls.Size",
        "gausstools.balls.weigh",
        "gausstools.Ball",
        "gausstools.Ball.middle",
        "gausstools.Ball.roll",
        "gausstools.balls.Pair",
    ]
    text = " ".join(balls.get_text().split())
    for part in (
        "gausstools.balls.COLOR = 'red'",
        "type gausstools.balls.Size = float | Tensor",
        "points: Float[Tensor, 'batch *event'],",
        "→ Ball",
        'low, high – two sizes, "about right".',
        "class gausstools.balls.Shape Something.",
        "Bases: Shape, Module A ball.",
        "class gausstools.balls.Pair(left: Ball, right: Ball) Two of them.",
        "The middle: half of both.",
        "ValueError – if it is gone.",
    ):
        assert part in text
    assert [block.get_text().split()[0] for block in balls.select(".doctest pre")] == [">>>"]
    rows = [[cell.get_text().strip() for cell in row.select("td")] for row in page(toy, "index").select("tr")]
    assert rows[0] == ["balls.COLOR", "How a ball looks."]
    assert rows[-1] == ["balls.Pair", "Two of them."]
    assert "no findings" in toy.command("scan").stdout

    toy.edit("gausstools/balls.py", "How a ball looks.", "What it looks like.")
    assert toy.command("pages").returncode == 0
    for name in ("balls", "index"):
        assert "What it looks like." in page(toy, name).get_text()
        assert "How a ball looks." not in page(toy, name).get_text()
