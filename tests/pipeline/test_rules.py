"""The rules for sources: each finding with file and line. And the real repository follows them."""

from pathlib import Path

import pytest

from book.pipeline.layout import Book, PipelineError
from book.pipeline.pairing import mismatches
from book.pipeline.rules import CODE_WIDTH, check_address, check_chapters

ROOT = Path(__file__).parents[2]

SOUND = """\
# %% [markdown]
# # Title
#
# Text with [a link](01_first.ipynb#a-picture) and [another](https://example.org).

# %% tags=["parameters"]
SIZE = 3
RATES = [0.1, -2 * 10**3]

# %%
print(SIZE)

# %% mystnb={"figure": {"caption": "A line.", "name": "fig-line"}, "image": {"alt": "A straight line."}}
print(RATES)
"""


@pytest.fixture
def check(toy):
    """Findings in a chapter with this source."""

    def findings(source: str) -> list[str]:
        toy.write("notebooks/02_second.py", source)
        return check_chapters(toy.book)

    return findings


def test_a_sound_chapter_has_no_finding(check, toy):
    assert check(SOUND) == []
    assert toy.command("rules").returncode == 1  # no git here, so nothing proves the address
    toy.git("init")
    done = toy.command("rules")
    assert done.returncode == 0, done.stderr
    assert "2 sources follow the rules" in done.stdout


LONG = "x" * (CODE_WIDTH + 1)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("# # Title", "# Title", 1, "does not start with a title"),
        ("# %% [markdown]\n# # Title", "# %%\nx = 1\n\n# %% [markdown]\n# # Title", 1, "does not start with a title"),
        ("print(SIZE)", "print(SIZE)  #" + "x" * CODE_WIDTH, 11, f"has at most {CODE_WIDTH}"),
        (' tags=["parameters"]', "", 1, "no cell is tagged `parameters`"),
        ("# %%\nprint", '# %% tags=["parameters"]\nprint', 10, "a second cell is tagged `parameters`"),
        ("SIZE = 3", "SIZE = max(1, 3)", 7, "a parameters cell holds plain assignments only"),
        ('tags=["parameters"]', 'tags=["parameters"] fast={"SIZE": 1, "SIDE": 1}', 6, "`fast` gives SIDE, which is no"),
        ("RATES = [", "import os\nRATES = [", 8, "a parameters cell holds plain assignments only"),
        ("# %% tags", "# %%\nx = 1\n\n# %% tags", 6, "code before the parameters"),
        ("Text with", "Text {ref}`x` with", 4, "a MyST role"),
        ("Text with", "Text\n# ```{note}\n# ```\n# with", 5, "a MyST directive"),
        ("Text with", "Text\n# :::{note}\n# :::\n# with", 5, "a MyST directive"),
        ("Text with", "Text $\\newcommand{\\x}{y}$ with", 4, "a macro"),
        ("Text with", "Text {{ it }} with", 4, "a substitution"),
        ("[a link]", "[]", 4, "has no text"),
    ],
)
def test_a_broken_rule_is_told_with_file_and_line(check, old, new, line, message):
    assert old in SOUND
    findings = check(SOUND.replace(old, new))
    places = [finding for finding in findings if message in finding]
    assert places, findings
    assert places[0].startswith(f"notebooks/02_second.py:{line}: ")


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        (f"# %%\n\n\n{LONG}", 19),
        (f"# %%\n#\n# x\n{LONG}", 19),
        ("# %% [markdown]\n#\n#\n# [](b.md)", 19),
        ('# %% [markdown]\n"""\ntext\n[](b.md)\n"""', 19),
        ('# %% [markdown]\n"""\n```{note}\n"""', 18),
    ],
)
def test_lines_are_counted_in_every_notation_of_a_cell(check, cell, line):
    (finding,) = check(f"{SOUND}\n{cell}\n")
    assert finding.startswith(f"notebooks/02_second.py:{line}: ")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (f"x = 1\n\n{SOUND}", "4 lines start with `# %%`, but there are 5 cells"),
        (f'{SOUND}\n# %%\ns = """\n# %%\n"""\n', "6 lines start with `# %%`, but there are 5 cells"),
        (f"{SOUND}\n#%%\nx = 1\n", "4 lines start with `# %%`, but there are 5 cells"),
        (f"{SOUND}\n# In[3]:\nx = 1\n", "4 lines start with `# %%`, but there are 5 cells"),
        ("", "0 lines start with `# %%`"),
    ],
    ids=["text before", "in a string", "no space", "another notation", "empty"],
)
def test_a_cell_that_begins_otherwise_is_told(check, source, message):
    (finding,) = check(source)
    assert finding.startswith("notebooks/02_second.py:1: ")
    assert message in finding


def test_examples_of_links_in_code_are_no_links(check):
    assert check(SOUND.replace("Text with", "Text `[](b.md)` with")) == []


@pytest.mark.parametrize("name", ["third.py", "03-third.py", "03_Third.py", "third.ipynb"])
def test_a_file_name_that_no_command_would_take_up_is_told(toy, name):
    toy.write(f"notebooks/{name}", SOUND if name.endswith("py") else "{}")
    assert any(finding.startswith(f"notebooks/{name}:1: name not of the form") for finding in check_chapters(toy.book))


def test_the_address_in_another_file_is_told(toy):
    toy.git("init")
    toy.write("README.md", f"Clone {toy.url.upper()}.git")
    toy.write("_build/page.html", toy.url)  # git ignores it
    (finding,) = check_address(toy.book)
    assert finding.startswith("README.md: holds the repository's address (someone/toy-book)")
    toy.git("add", "README.md")
    assert check_address(toy.book) == [finding]
    assert "README.md: holds" in toy.command("rules").stderr


def test_a_config_without_the_address_is_a_clear_error(toy):
    toy.edit("_config.yml", "  url:", "  address:")
    with pytest.raises(PipelineError, match=r"_config.yml gives no 'url' for the repository"):
        _ = toy.book.repository


def test_the_real_chapters_follow_the_rules():
    assert check_chapters(Book(ROOT)) == []


def test_the_real_notebooks_agree_with_their_sources():
    assert mismatches(Book(ROOT)) == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone: git lists the files that belong to the book")
def test_the_real_address_stands_in_one_place():
    assert check_address(Book(ROOT)) == []
