"""The pages of the library: everything public is on one of them, and a broken docstring breaks the build."""

import importlib
import pkgutil
from pathlib import Path

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


def test_pages_show_a_module_as_users_know_it(built):
    balls, index = (built.page(f"book/api/{name}").article for name in ("balls", "index"))
    for link in balls.select(".headerlink"):
        link.decompose()
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
    rows = [[cell.get_text().strip() for cell in row.select("td")] for row in index.select("tr")]
    assert rows[0] == ["balls.COLOR", "How a ball looks."]
    assert rows[-1] == ["balls.Pair", "Two of them."]
