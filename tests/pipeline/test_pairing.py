"""From sources to notebooks: a function of the source and the address alone, and checked."""

import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest

from book.pipeline import layout
from book.pipeline.pairing import mismatches

PATH = "notebooks/01_first.ipynb"


def ids(toy):
    return [cell.id for cell in toy.notebook("01_first").cells]


def test_the_same_source_gives_the_same_bytes(toy):
    before = toy.read(PATH)
    assert toy.pair() == []
    (toy.root / PATH).unlink()
    assert toy.pair() == [PATH]
    assert toy.read(PATH) == before


def test_cell_ids_are_unique_even_for_equal_cells(toy):
    source = toy.read("notebooks/01_first.py")
    toy.write("notebooks/01_first.py", source + "\n# %%\nprint(1)\n\n# %%\nprint(1)\n")
    toy.pair()
    written = [cell["id"] for cell in json.loads(toy.read(PATH))["cells"]]  # nbformat would repair them at random
    assert len(set(written)) == len(written) == 9
    assert toy.pair() == []
    nbformat.validate(toy.notebook("01_first"))


def test_an_edit_of_prose_changes_the_id_of_its_cell_only(toy):
    before = ids(toy)
    toy.edit("notebooks/01_first.py", "How large is it?", "How small is it?")
    toy.pair()
    changed = [old != new for old, new in zip(before, ids(toy), strict=True)]
    assert changed == [False, True, *[False] * 5]  # the badge, the edited title, the rest


def test_notebooks_have_no_outputs_and_no_counts(executed):
    executed.pair()  # after an execution, too
    code = [cell for cell in executed.notebook("01_first").cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_badge_and_installation_have_the_address_from_the_config(toy):
    badge, title, install, parameters = toy.notebook("01_first").cells[:4]
    assert f"colab.research.google.com/github/someone/toy-book/blob/main/{PATH}" in badge.source
    assert title.source.startswith("# First")
    assert f"git+{toy.url}@main" in install.source
    assert parameters.source == "SIZE = 3"

    toy.edit("_config.yml", "someone/toy-book", "another/book")
    assert any(PATH in finding for finding in mismatches(toy.book))
    toy.pair()
    badge, _, install = toy.notebook("01_first").cells[:3]
    assert "github/another/book/" in badge.source
    assert "git+https://github.com/another/book@" in install.source


@pytest.fixture
def install(toy, monkeypatch):
    """Run the installation cell with a pip that only records; returns the calls."""

    def run(*, colab: bool, installed: bool, returncode: int = 0) -> list[list[str]]:
        calls = []

        def pip(command, **_):
            calls.append(command)
            return SimpleNamespace(returncode=returncode, stderr="no such branch")

        monkeypatch.setattr(subprocess, "run", pip)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
        if colab:
            monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
        exec(source, {})
        return calls

    source = toy.notebook("01_first").cells[2].source
    return run


def test_the_installation_does_nothing_outside_colab(install):
    assert install(colab=False, installed=False) == []


def test_the_installation_does_nothing_where_gausstools_is_there(install):
    assert install(colab=True, installed=True) == []


def test_the_installation_runs_pip_in_colab(install, toy):
    (command,) = install(colab=True, installed=False)
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-1] == f"gausstools[chapters] @ git+{toy.url}@main"
    assert not {"--upgrade", "-U", "--force-reinstall"} & set(command)


def test_a_failed_installation_shows_what_pip_said(install):
    with pytest.raises(RuntimeError, match="no such branch"):
        install(colab=True, installed=False, returncode=1)


def test_pairs_that_agree_have_no_finding(toy):
    assert mismatches(toy.book) == []
    assert toy.command("pair", "--check").returncode == 0


def test_mismatched_missing_and_orphaned_notebooks_are_named(toy):
    toy.edit("notebooks/01_first.py", "SIZE = 3", "SIZE = 4")
    (toy.root / "notebooks/02_second.ipynb").rename(toy.root / "notebooks/03_third.ipynb")
    before = toy.read(PATH)
    done = toy.command("pair", "--check")
    assert done.returncode == 1
    assert f"{PATH}: not what notebooks/01_first.py generates" in done.stderr
    assert "notebooks/02_second.ipynb: missing: what notebooks/02_second.py generates" in done.stderr
    assert "notebooks/03_third.ipynb: no source" in done.stderr
    assert "3 findings" in done.stderr
    assert toy.read(PATH) == before  # --check writes nothing


def test_an_output_saved_in_a_notebook_is_a_mismatch(toy):
    notebook = toy.notebook("01_first")
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="1")]
    nbformat.write(notebook, toy.root / PATH)
    assert [finding.split(":")[0] for finding in mismatches(toy.book)] == [PATH]


@pytest.mark.parametrize("replaced", [False, True])
def test_an_interrupted_write_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch, replaced):
    path = tmp_path / "file"
    path.write_text("old")
    replace = layout.os.replace

    def interrupted(*arguments):
        if replaced:
            replace(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(layout.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        layout.write_atomically(path, "new")
    assert path.read_text() == ("new" if replaced else "old")
    assert list(tmp_path.iterdir()) == [path]
