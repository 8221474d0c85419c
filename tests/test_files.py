"""Files of models: whole or absent, the same bytes for the same content, and in memory once they are read."""

import errno
import json
import os
import stat
import sys
import threading

import pytest
import safetensors.torch
import torch

from gausstools.models import files

TENSORS = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.float16), "count": torch.tensor(3)}


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows refuses to replace a file that is being replaced")
def test_two_threads_that_write_one_file_leave_it_whole_and_nothing_beside_it(tmp_path):
    path, errors = tmp_path / "file", []

    def write(letter):
        try:
            for _ in range(150):
                files.write_bytes(path, letter * 1000)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert path.read_bytes() in (b"a" * 1000, b"b" * 1000)
    assert names(tmp_path) == ["file"]


def test_a_file_has_the_permissions_that_others_have_and_what_a_kill_leaves_its_pattern(tmp_path, monkeypatch):
    (tmp_path / "ordinary").touch()
    files.write_bytes(tmp_path / "written", b"x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "written")]
    assert modes[0] == modes[1]

    def killed(source, target):
        (name,) = (entry.name for entry in tmp_path.glob(".written.*"))  # which `sample` sweeps
        assert str(os.getpid()) in name
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_bytes(tmp_path / "written", b"y")
    assert (tmp_path / "written").read_bytes() == b"x"
    assert names(tmp_path) == ["ordinary", "written"]


def test_where_there_is_no_room_the_file_is_named_and_the_old_one_stays(tmp_path):
    resource = pytest.importorskip("resource")  # not on Windows
    path = tmp_path / "model.safetensors"
    files.write(path, "Kind", TENSORS)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**24, limits[1]))
    try:
        with pytest.raises(OSError, match=r"model\.safetensors") as caught:
            files.write(path, "Kind", {"large": torch.zeros(2**23)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert names(tmp_path) == [path.name]
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist"):
        files.write_bytes(tmp_path / "nowhere" / "file", b"x")


def test_the_same_model_is_the_same_bytes(tmp_path):
    contents = set()
    for _ in range(20):
        files.write(tmp_path / "model", "Kind", TENSORS, {"text": 'ü "quoted"', "number": 0.5})
        contents.add((tmp_path / "model").read_bytes())
    (content,) = contents
    assert int.from_bytes(content[:8], "little") % 8 == 0  # the numbers begin where they can be read in place
    found = safetensors.torch.load(content)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) and found[name].dtype == TENSORS[name].dtype for name in found)
    assert files.read_settings(tmp_path / "model", "Kind") == {"text": 'ü "quoted"', "number": 0.5}


def test_files_of_earlier_versions_are_read_in_either_order_of_their_metadata(tmp_path):
    metadata = {"gausstools": "Kind", "settings": json.dumps({"a": 1})}
    for _ in range(8):
        safetensors.torch.save_file(TENSORS, tmp_path / "old", metadata)
        assert files.read_settings(tmp_path / "old", "Kind") == {"a": 1}
        assert files.read(tmp_path / "old", "Kind").keys() == TENSORS.keys()


def test_what_was_read_does_not_change_with_the_file(tmp_path):
    """Truncated, a file that is mapped into memory ends the process with a bus error."""
    files.write(tmp_path / "model", "Kind", {"a": torch.zeros(100_000)})
    found = files.read(tmp_path / "model", "Kind")["a"]
    content = bytearray((tmp_path / "model").read_bytes())
    with (tmp_path / "model").open("r+b") as file:
        file.write(content[:-400_000] + b"\x40" * 400_000)
    assert not found.any()
    os.truncate(tmp_path / "model", 10)
    assert not found.any()


@pytest.mark.parametrize(
    "settings", ["[" * 100_000, '{"a": ' * 100_000, "[1, 2]", '[["a", 1]]', "null", "{", "1" * 5000]
)
def test_settings_that_cannot_be_read_are_said(tmp_path, settings):
    safetensors.torch.save_file(TENSORS, tmp_path / "odd", {"gausstools": "Kind", "settings": settings})
    with pytest.raises(ValueError, match="odd has no readable settings beside its tensors"):
        files.read_settings(tmp_path / "odd", "Kind")
