"""Cached runs: true exactly as long as nothing that they depend on changed, and proven whole."""

import os
import platform

import pytest

from book.pipeline import runs
from book.pipeline.layout import PipelineError


def reasons(toy):
    return {slug: toy.reason(slug) for slug in ("01_first", "02_second")}


VALID = {"01_first": "up to date", "02_second": "up to date"}


def test_runs_are_up_to_date_while_nothing_changes(executed):
    assert reasons(executed) == VALID


def test_an_edit_of_prose_keeps_the_run(executed):
    executed.edit("notebooks/01_first.py", "How large is it?", "How small is it?")
    assert executed.pair() == ["notebooks/01_first.ipynb"]
    assert reasons(executed) == VALID


def test_a_new_caption_keeps_the_run(executed):
    executed.edit("notebooks/01_first.py", "A dot.", "A spot.")
    assert executed.pair() == ["notebooks/01_first.ipynb"]
    assert reasons(executed) == VALID


def test_a_change_of_code_outdates_the_run(executed):
    executed.edit("notebooks/01_first.py", "SIZE = 3", "SIZE = 4")
    executed.pair()
    assert reasons(executed) == VALID | {"01_first": "its code changed"}


def test_a_change_of_a_module_outdates_the_runs_that_loaded_it_only(executed):
    executed.edit("gausstools/shapes.py", "size * size", "size + size")
    assert reasons(executed) == VALID | {"01_first": "gausstools/shapes.py changed"}


def test_a_script_beside_a_module_of_its_name_counts_with_it(executed):
    executed.write("gausstools/shapes.js", "(x) => x")
    assert reasons(executed) == VALID | {"01_first": "gausstools/shapes.py changed"}


def test_a_removed_module_outdates_the_run(executed):
    (executed.root / "gausstools/words.py").unlink()
    assert reasons(executed) == VALID | {"02_second": "gausstools/words.py changed"}


def test_a_new_module_that_nothing_loads_keeps_the_runs(executed):
    executed.write("gausstools/new.py", "x = 1\n")
    assert reasons(executed) == VALID


@pytest.mark.parametrize("path", ["data/number.txt", "data/new.md", "gausstools/table.json"])
def test_a_change_of_the_shipped_data_outdates_all_runs(executed, path):
    executed.write(path, "8\n")
    assert set(reasons(executed).values()) == {"the shipped data changed"}


def test_a_change_of_the_lock_outdates_all_runs(executed):
    executed.edit("requirements.txt", "2.0.0", "2.0.1")
    assert set(reasons(executed).values()) == {"requirements.txt changed"}


def test_another_python_outdates_all_runs(executed, monkeypatch):
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    assert set(reasons(executed).values()) == {"the version of Python changed"}


def test_an_optional_data_set_that_appears_outdates_all_runs(executed, monkeypatch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    monkeypatch.setenv("GAUSSTOOLS_DATA", str(folder))
    assert reasons(executed) == VALID  # nothing in it yet
    (folder / "cifar10").mkdir()
    assert set(reasons(executed).values()) == {"the optional data sets changed"}


def test_at_most_three_runs_are_kept_of_each_chapter(toy):
    other = toy.store("02_second")
    stored = []
    for size in range(3, 8):
        stored.append(toy.store("01_first"))
        os.utime(stored[-1], (size, size))  # all of them long ago, in this order
        toy.edit("notebooks/01_first.py", f"SIZE = {size}", f"SIZE = {size + 1}")
        toy.pair()
    assert set(toy.runs()) == {path.name for path in [*stored[-3:], other]}


def path_of(toy, slug):
    (path,) = (toy.root / ".cache/executed").glob(f"{slug}.*")
    return path


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path, at=b"area: 9"):
    data = bytearray(path.read_bytes())
    data[data.index(at) + len(at) - 1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip,
        lambda path: flip(path, b'"commit'),
        lambda path: flip(path, b'"data'),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text("[]"),
    ],
    ids=["truncated", "output flipped", "provenance flipped", "key flipped", "empty", "not text", "another format"],
)
def test_a_damaged_run_is_refused_by_name(executed, damage):
    path = path_of(executed, "01_first")
    damage(path)
    with pytest.raises(runs.DamagedRun, match=f"{path.name}: this cached run is damaged: .*make execute"):
        executed.find("01_first")
    assert executed.find("02_second")


def test_no_flipped_bit_goes_unnoticed(executed):
    """Wherever a bit is flipped, the run is refused or nothing is different."""
    path = path_of(executed, "01_first")
    data = path.read_bytes()
    sound = runs.load(executed.book, path).notebook
    refused = 0
    for position in range(0, len(data), 13):
        flipped = bytearray(data)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        try:
            found = runs.load(executed.book, path).notebook
        except runs.DamagedRun:
            refused += 1
        else:
            assert found == sound, f"byte {position} of {path.name}"
    assert refused > 50


def test_a_notebook_that_is_none_is_named(executed):
    executed.write("notebooks/01_first.ipynb", "{")
    with pytest.raises(PipelineError, match=r"notebooks/01_first.ipynb is missing or no notebook .*make notebooks"):
        executed.find("01_first")
