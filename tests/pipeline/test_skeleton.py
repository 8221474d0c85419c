"""A new chapter, begun by one command, follows every rule and runs."""

import subprocess
import sys
from pathlib import Path

import jupytext
import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch

from book.pipeline.layout import PipelineError
from book.pipeline.pairing import mismatches
from book.pipeline.rules import check_chapters
from book.pipeline.skeleton import begin_chapter

ROOT = Path(__file__).parents[2]


def test_one_command_begins_a_chapter(toy):
    done = toy.command("new", "05_latent_space", "--title", "Latent space")
    assert done.returncode == 0, done.stderr
    assert "notebooks/05_latent_space.py: begun" in done.stdout
    assert check_chapters(toy.book) == []
    assert mismatches(toy.book) == []
    assert [chapter.slug for chapter in toy.book.published] == ["01_first", "02_second", "05_latent_space"]
    assert toy.read("notebooks/05_latent_space.py").startswith("# %% [markdown]\n# # 5 · Latent space\n")


def test_it_has_its_place_by_its_number(toy):
    toy.edit("book/_toc.yml", "02_second\n", "02_second  # a remark\n  - file: book/notes")
    toy.write("notebooks/90_last.py", toy.read("notebooks/02_second.py"))
    begin_chapter(toy.book, "03_between", "Between")
    lines = toy.read("book/_toc.yml").splitlines()
    assert lines[-3:] == [
        "  - file: notebooks/02_second  # a remark",
        "  - file: notebooks/03_between",
        "  - file: book/notes",
    ]


def test_the_front_page_has_a_claim_of_it_but_not_of_an_appendix(toy):
    toy.write("book/index.md", "# Toy\n\n:::{chapters}\n1: one\n2: two\n:::\n")
    begin_chapter(toy.book, "04_more", "More")
    assert toy.read("book/index.md").splitlines()[-4:] == [
        "1: one",
        "2: two",
        "4: say in a sentence what it claims",
        ":::",
    ]
    toy.edit("book/_toc.yml", "04_more", "90_last")
    begin_chapter(toy.book, "91_proof", "Proof")
    assert "91: " not in toy.read("book/index.md")


def test_it_runs_and_is_formatted(toy, monkeypatch):
    chapter = begin_chapter(toy.book, "05_latent_space", "Latent space")
    cells = jupytext.read(chapter.source).cells
    figures = [
        cell.metadata["mystnb"]["figure"]["name"] for cell in cells if "figure" in cell.metadata.get("mystnb", {})
    ]
    assert figures == ["fig-latent-space-distance"]
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    monkeypatch.chdir(ROOT)
    with matplotlib.rc_context({"backend": "agg"}):
        exec(code, {})
        plt.close("all")
    torch.set_default_dtype(torch.float32)  # chapters compute in float64
    for words in (["check"], ["format", "--check"]):
        settings = ["--config", str(ROOT / "notebooks" / "ruff.toml")]
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, *settings, chapter.source], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("slug", "title", "message"),
    [
        ("latent_space", "Latent space", '"latent_space" names no chapter; expected two digits'),
        ("05-latent", "Latent space", '"05-latent" names no chapter'),
        ("05_Latent", "Latent space", '"05_Latent" names no chapter'),
        ("05_latent", "  ", "The title is empty"),
        ("02_latent", "Latent space", "Number 02 is taken by notebooks/02_second.py; these are: 01, 02"),
        ("00_latent", "Latent space", "lists no chapter before 00_latent"),
    ],
)
def test_what_cannot_be_begun_changes_nothing(toy, slug, title, message):
    before = {path: path.read_bytes() for path in toy.root.rglob("*") if path.is_file()}
    with pytest.raises(PipelineError, match=message):
        begin_chapter(toy.book, slug, title)
    assert {path: path.read_bytes() for path in toy.root.rglob("*") if path.is_file()} == before
