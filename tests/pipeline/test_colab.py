"""The check of notebooks as in Colab: that it starts from nothing, and that it notices."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from book.pipeline import colab

PLACE = """
import sys

assert "google.colab" in sys.modules
assert os.listdir() == ["01_first.ipynb"]
assert os.listdir(os.path.expanduser("~")) == [".ipython"]
assert "GAUSSTOOLS_DATA" not in os.environ
"""

HARM = """
import pathlib
import sysconfig

old = pathlib.Path(sysconfig.get_path("purelib"), "numpy-0.1.dist-info")
old.mkdir()
(old / "METADATA").write_text("Name: numpy\\nVersion: 0.1\\n", "utf-8")
raise ValueError("planted")
"""


def test_what_colab_has_is_known():
    image = colab.Image.published()
    assert image.python == "3.13"
    assert {"numpy", "torch", "diffusers", "matplotlib"} <= image.packages.keys()
    assert all(version[0].isdigit() for version in image.packages.values())
    assert image.date.startswith("20")


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
@pytest.mark.parametrize("status", [0, 127])
def test_colabs_python_is_taken_if_it_runs(tmp_path, monkeypatch, status):
    stand_in = tmp_path / "python3.13"
    stand_in.write_text(f"#!/bin/sh\nexit {status}\n", "utf-8")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert colab._interpreter("3.13") == (sys.executable if status else str(stand_in))
    assert colab._interpreter("3.14") == sys.executable


def test_another_torch_goes_without_torchvision():
    image = colab.Image.published("2.13.0")
    assert image.packages["torch"] == "2.13.0"
    assert "torchvision" not in image.packages
    assert image.packages["numpy"] == colab.Image.published().packages["numpy"]


def test_errors_changed_packages_and_a_missing_or_slow_installation_are_found(toy, monkeypatch):
    """In a notebook that starts alone, in a home without settings, as `PLACE` asserts before the planted error.

    This environment is in the place of Colab's. It has gausstools, which Colab lacks.
    """
    monkeypatch.setenv("GAUSSTOOLS_DATA", "/somewhere")
    monkeypatch.setattr(colab, "INSTALL_SECONDS", -1)
    toy.edit("notebooks/01_first.py", 'print("threads:"', f'{PLACE}{HARM}\nprint("threads:"')
    toy.edit("notebooks/01_first.py", "import os\n\nfrom gausstools import shapes", "import os")
    toy.pair()
    settings = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    found = colab.visit(Path(sys.executable), toy.chapter("01_first"), settings, timeout=60).findings
    failed, changed, missing, slow = (re.sub(r"\x1b\[[0-9;]*m", "", finding) for finding in found)
    assert 'cell "import os" failed' in failed
    assert "ValueError: planted" in failed
    assert changed.startswith("installing gausstools changes numpy from ")
    assert " to 0.1" in changed
    assert missing == "its first cell did not install gausstools"
    assert slow.startswith("installing took ")


def test_git_takes_the_public_address_for_what_is_here_now(toy, tmp_path_factory, monkeypatch):
    toy.git("init")
    toy.write("notebooks/new.txt", "not committed")
    toy.write(".cache/large", "ignored")
    served, clone = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("clone")
    for name, value in colab._publish(toy.book, served).items():
        monkeypatch.setenv(name, value)
    subprocess.run(["git", "clone", "--quiet", "--branch=main", toy.url, clone], check=True)
    assert (clone / "notebooks" / "new.txt").read_text("utf-8") == "not committed"
    assert not (clone / ".cache").exists()
