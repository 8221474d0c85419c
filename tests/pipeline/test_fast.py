"""Fast runs: small sizes, no claims, and nothing of them on a page."""

import json

import pytest

from book.pipeline import execute
from book.pipeline.fast import quickened

CLAIM = """
assert shapes.area(SIZE) == 9, "a claim"
for size in [SIZE]:
    assert size == 3
print("to the end")
"""


@pytest.fixture
def claiming(toy):
    """The first chapter claims what is true of its own sizes only."""
    toy.edit("notebooks/01_first.py", 'tags=["parameters"]', 'tags=["parameters"] fast={"SIZE": 2}')
    toy.edit("notebooks/01_first.py", 'print("area:"', f'{CLAIM}print("area:"')
    toy.pair()
    return toy


def test_small_sizes_stand_between_the_parameters_and_what_uses_them(claiming):
    notebook = claiming.notebook("01_first")
    fast = quickened(notebook)
    sizes = next(i for i, cell in enumerate(fast.cells) if "SIZE = 2" in cell.source)
    assert fast.cells[sizes - 1].source == "SIZE = 3"
    assert "claims were not checked" in fast.cells[0].source
    added = [fast.cells[0], fast.cells[sizes]]
    assert [cell for cell in fast.cells if cell not in added] == notebook.cells


def test_a_fast_run_has_small_sizes_and_no_claims_and_is_not_cached(claiming):
    """And one that breaks is a failure, whatever became of the others."""
    claiming.edit("notebooks/02_second.py", "print(words", 'raise ValueError("planted")\nprint(words')
    claiming.pair()
    done = claiming.command("execute", "--fast")
    assert done.returncode == 1
    assert "01_first.py: done" in done.stdout
    assert "ValueError" in done.stderr
    assert "1 of 2 chapters failed; the others are in _build/fast." in done.stderr
    shown = json.loads(claiming.read("_build/fast/01_first.ipynb"))
    outputs = str([cell.get("outputs") for cell in shown["cells"]])
    assert "to the end" in outputs
    assert "area: 4" in outputs
    assert claiming.reason("01_first") == "never executed"


def test_a_fast_run_says_that_claims_were_not_checked(toy, monkeypatch):
    outcome = execute.Outcome(executed=toy.book.chapters)
    monkeypatch.setattr(execute, "execute", lambda *_, **__: outcome)
    done = toy.command("execute", "--fast")
    assert done.returncode == 0
    assert "2 chapters ran with small sizes, their claims unchecked" in done.stdout
