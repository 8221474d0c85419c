"""What would break on another laptop: names that Windows or macOS cannot keep, and what only Unix has.

Paths, encodings and shells are ruff's (`PTH`, `PLW1514`, `S602` to `S605` in pyproject.toml).
"""

import ast
import re
import subprocess
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
RESERVED = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)
UNIX = {
    "import": {"fcntl", "grp", "pty", "pwd", "resource", "termios"},
    "os": {"fork", "forkpty", "getuid", "geteuid", "getpgid", "killpg", "mkfifo", "sched_getaffinity", "uname"},
    "signal": {"SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "alarm", "setitimer"},
}
GUARDED = {("book/pipeline/execute.py", "os.sched_getaffinity")}
"""Behind a `hasattr`."""


def git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


@pytest.fixture(scope="module")
def files() -> list[str]:
    return git("ls-files", "-z", "--cached", "--others", "--exclude-standard")


def unix_only(tree: ast.AST) -> list[str]:
    """What a module uses that Windows lacks."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in UNIX["import"]]
        elif isinstance(node, ast.ImportFrom) and node.module in UNIX["import"]:
            found.append(node.module)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in UNIX.get(node.value.id, ()):
                found.append(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Constant) and re.match(r"fork(server)?$|/tmp/|/dev/null", str(node.value)):
            found.append(repr(node.value))
    return found


def test_every_name_can_be_a_file_on_windows(files):
    parts = {(file, part) for file in files for part in PurePosixPath(file).parts}
    assert [file for file, part in parts if RESERVED.search(part)] == []
    assert max(map(len, files)) < 120  # a path has 260 characters at most, the folder of the clone included


def test_no_two_names_differ_in_case_alone(files):
    folded = Counter(file.casefold() for file in files)
    assert [name for name, count in folded.items() if count > 1] == []


def test_every_text_has_unix_line_ends_in_the_repository_and_gets_them_on_checkout():
    lines = git("ls-files", "-z", "--eol")
    assert [line for line in lines if line.startswith(("i/crlf", "i/mixed"))] == []
    assert [line for line in lines if "eol=lf" not in line] == []


def test_the_library_the_pipeline_and_the_chapters_use_nothing_that_only_unix_has(files):
    ours = [file for file in files if file.endswith(".py") and file.startswith(("gausstools/", "book/", "notebooks/"))]
    assert ours
    found = {
        (file, use) for file in ours for use in unix_only(ast.parse((ROOT / file).read_text("utf-8"), filename=file))
    }
    assert found - GUARDED == set()
    assert found >= GUARDED


@pytest.mark.parametrize(
    "code",
    [
        "import fcntl",
        "from resource import getrusage",
        "import os\nos.fork()",
        "import signal\nsignal.SIGKILL",
        "from multiprocessing import get_context\nget_context('fork')",
        "open('/tmp/x')",
    ],
)
def test_that_would_be_noticed(code):
    assert len(unix_only(ast.parse(code))) == 1


@pytest.mark.parametrize("name", ["a:b.csv", "con.txt", "nul", "a?.py", "name.", "x|y"])
def test_those_names_would_be_noticed(name):
    assert RESERVED.search(name)
