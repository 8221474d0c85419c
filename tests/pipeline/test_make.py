"""The Makefile, where it meets a machine that lacks something."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


@pytest.fixture
def make(tmp_path):
    """`make WORDS` where there is no environment yet."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    variables.pop("PYTHON", None)

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(["make", *words], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60)

    return run


def pretend(path: Path, version: str) -> str:
    """A Python that believes to be of this version, and can do nothing but run code."""
    code = f"import sys; sys.version_info = ({version}); exec(sys.argv[1])"
    path.write_text(f'#!/bin/sh\n[ "$1" = -c ] || exit 77\nexec "{sys.executable}" -c "{code}" "$2"\n', "utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("goal", ["setup", "book", "test"])
def test_an_old_python_is_a_clear_error(make, tmp_path, goal):
    python = pretend(tmp_path / "python3.9", "3, 9, 1")
    done = make(goal, f"PYTHON={python}")
    assert done.returncode != 0
    assert f"error: {python} is Python 3.9" in done.stderr
    assert "the book needs 3.11 or newer" in done.stderr
    assert "make PYTHON=python3.12" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_new_enough_python_is_taken(make, tmp_path):
    done = make("setup", f"PYTHON={pretend(tmp_path / 'python3.11', '3, 11, 0')}")
    assert "the book needs" not in done.stderr
    assert "Error 77" in done.stderr  # it went on to make the environment


def test_the_commands_are_listed(make):
    done = make()
    assert done.returncode == 0
    assert {"make book", "make test"} <= {line.strip()[:9] for line in done.stdout.splitlines()}
