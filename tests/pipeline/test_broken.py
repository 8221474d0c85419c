"""What must stop a build, all of it in one: each fault is told with its place."""

import re

import pytest

FILES = {
    "book/_toc.yml": """\
format: jb-book
root: book/index
chapters:
  - file: notebooks/01_first
  - file: notebooks/02_second
  - file: book/without_claim
  - file: book/unknown_chapter
  - file: book/no_claim
  - file: book/appendix
  - file: book/api/index
    sections:
      - file: book/api/balls
      - file: book/api/bowls
""",
    "book/without_claim.md": "# A\n\n:::{chapters}\n1: one\n:::\n",
    "book/unknown_chapter.md": "# B\n\n:::{chapters}\n1: one\n2: two\n7: seven\n:::\n",
    "book/no_claim.md": "# C\n\n:::{chapters}\none\n2: two\n:::\n",
    "book/appendix.md": "# D\n\n:::{gallery}\n:::\n\n[gone](#fig-missing)\n",
    "book/api/index.md": "# Names\n\n:::{api-index}\n:::\n",
    "book/api/balls.md": "# Balls\n\n:::{api} gausstools.balls\n:::\n",
    "book/api/bowls.md": "# Bowls\n\n:::{api} gausstools.bowls\n:::\n",
    "gausstools/balls.py": '''\
"""Balls."""

__all__ = ["COLOR", "burst", "weigh"]

COLOR = "red"


def burst(ball):
    """Of ``a ball."""


def weigh(ball):
    """Weigh it, as :func:`gausstools.balls.wei` does."""
''',
}


@pytest.fixture(scope="module")
def broken(executed_for_module):
    """A toy book that is wrong in every way, and what the command said of it."""
    toy = executed_for_module
    for path, text in FILES.items():
        toy.write(path, text)
    toy.edit(
        "notebooks/02_second.py", "# # Second\n", "# # Second\n#\n# See [it](#fig-gone) and [that](09_gone.ipynb).\n"
    )
    toy.pair()
    toy.write("_build/built-with", "a success")
    return toy, toy.command("pages")


@pytest.mark.parametrize(
    "message",
    [
        r"book/without_claim.md:3: .*notebooks/02_second.py has no claim here",
        r"book/unknown_chapter.md:3: .*no chapter of the table of contents has the number 7",
        r"book/no_claim.md:3: .*'one' is no claim; expected `1: what chapter 1 claims`",
        r"book/appendix.md:6: .*fig-missing",
        r"notebooks/02_second.py:4: .*fig-gone",
        r"notebooks/02_second.py:4: .*09_gone.ipynb",
        r"book/api/index.md:3: .*gausstools.balls.COLOR has no docstring",
        r"book/api/bowls.md:3: .*gausstools.bowls cannot be shown, because it cannot be imported: ModuleNotFoundError:",
        r"balls.py:docstring of gausstools.balls.burst:1: WARNING: Inline literal start-string",
        r"balls.py:docstring of gausstools.balls.weigh:1: WARNING: py:func reference target not found: .*wei",
    ],
)
def test_a_fault_is_told_with_its_place(broken, message):
    _, done = broken
    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr


def test_the_places_are_from_the_root_and_the_next_build_tells_them_again(broken):
    toy, done = broken
    assert str(toy.root) not in done.stderr.split("warning counts as an error")[1]
    assert not (toy.root / "_build/built-with").exists()
