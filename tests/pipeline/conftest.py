"""A toy book of two chapters, with the real pipeline and the real settings, to break in every way."""

import base64
import io
import shutil
import signal
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from book._ext import paper_table
from book.pipeline import execute, pairing, runs
from book.pipeline.__main__ import main
from book.pipeline.layout import Book, Chapter

ROOT = Path(__file__).parents[2]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
FIGURE = '{"figure": {"caption": "A dot.", "name": "fig-dot"}, "image": {"alt": "One dark dot."}}'
CORES = 10
"""Pretended for the shared execution, so that the share of each chapter is not 1."""

FILES = {
    ".gitignore": ".cache/\n_build/\n__pycache__/\n",
    "requirements.txt": "numpy==2.0.0\n",
    "data/number.txt": "7\n",
    "gausstools/__init__.py": '''\
"""A toy."""

__all__ = ["Ball", "balls"]


def __getattr__(name):
    if name != "Ball":
        raise AttributeError(name)
    from gausstools.balls import Ball

    return Ball
''',
    "gausstools/balls.py": '''\
"""Balls, of volume ``4/3·πr³``. See :class:`gausstools.Ball`."""

import abc
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["COLOR", "Shape", "Size", "weigh", "Ball", "Pair"]

COLOR = "red"
"""How a ball looks."""

Size = float | Tensor
"""How large."""


class Shape(abc.ABC):
    """Something."""

    @abc.abstractmethod
    def weigh(self):
        """Of the public base."""


class _Round(Shape, nn.Module):
    def roll(self):
        """Of the private base."""


class Ball(_Round):
    """A ball.

    Args:
        low, high: two sizes, "about right".

    >>> Ball(1.0, 2.0).middle
    1.5
    """

    def __init__(self, low: Size, high: Size):
        super().__init__()
        self.low, self.high = low, high

    @property
    def middle(self) -> float:
        """The middle: half of both."""
        return (self.low + self.high) / 2

    def _burst(self):
        """Private."""


class Pair(NamedTuple):
    """Two of them."""

    left: Ball
    right: Ball


def weigh(ball: Ball, points: Float[Tensor, "batch *event"], gravity: float = 9.81) -> "Ball":
    """Weigh it, as :meth:`gausstools.Ball.roll` does.

    Raises:
        ValueError: if it is gone.
    """
''',
    "gausstools/shapes.py": f'''\
import base64

from IPython.display import Image


def area(size):
    return size * size


def picture():
    return Image(base64.b64decode("{PIXEL}"))
''',
    "gausstools/words.py": 'GREETING = "hello"\n',
    "notebooks/01_first.py": f"""\
# %% [markdown]
# # First
#
# How large is it? [The second chapter](02_second.ipynb) follows; [the dot](#fig-dot) is below.

# %% tags=["parameters"]
SIZE = 3

# %%
import os

from gausstools import shapes

print("threads:", os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"])
print("area:", shapes.area(SIZE))

# %% [markdown]
# ## A picture

# %% mystnb={FIGURE}
shapes.picture()
""",
    "notebooks/02_second.py": """\
# %% [markdown]
# # Second

# %% tags=["parameters"]
TIMES = 2

# %%
import os
from pathlib import Path

from gausstools import words

print("threads:", os.environ["OMP_NUM_THREADS"])
print(words.GREETING * TIMES, Path("data/number.txt").read_text())

# %%
from IPython.display import display

rows = [["residual | at σ = 1", "0.016", "0.02", "1.25"]]
table = {"source": "table.csv", "rows": rows}
display({"text/plain": "…", "KIND": table}, raw=True)
""".replace("KIND", paper_table.KIND),
    "book/refs.bib": "",
    "book/index.md": "# Toy\n\nRead [the first](../notebooks/01_first.ipynb).\n",
    "book/_toc.yml": """\
format: jb-book
root: book/index
chapters:
  - file: notebooks/01_first
  - file: notebooks/02_second
""",
}


INDEX = """\
# Toy

:::{chapters}
1: squares have areas, even small ones
2: greetings | repeat
:::

:::{gallery}
:::

```{literalinclude} refs.bib
:language: bibtex
:start-at: somebody2000
:end-before: other
```
"""
ENTRY = "@book{somebody2000,\n  author = {Body, Some},\n  title = {{B}ook},\n  publisher = {P},\n  year = 2000,\n}"
FORMULA = "\n# %% [markdown]\n# Areas are\n#\n# $$\n# a = s^2.\n# $$ (eq-area)\n"


class Toy:
    """A repository of its own below `root`."""

    url = "https://github.com/someone/toy-book"

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def book(self) -> Book:
        """A fresh view: `Book` remembers what it has read."""
        return Book(self.root)

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
        return file

    def read(self, path: str) -> str:
        return (self.root / path).read_text("utf-8")

    def edit(self, path: str, old: str, new: str) -> None:
        text = self.read(path)
        assert old in text
        self.write(path, text.replace(old, new))

    def pair(self) -> list[str]:
        return pairing.pair(self.book)

    def chapter(self, slug: str) -> Chapter:
        return Chapter(self.root / "notebooks" / f"{slug}.py")

    def notebook(self, slug: str) -> nbformat.NotebookNode:
        return pairing.read_paired(self.book, self.chapter(slug))

    def find(self, slug: str) -> runs.Run:
        """What the pipeline would show for a chapter, as things are now."""
        return runs.find(self.book, self.chapter(slug), runs.Inputs.of(self.book))

    def reason(self, slug: str) -> str:
        """Why the pipeline would execute a chapter now."""
        try:
            self.find(slug)
        except runs.NoRun as missing:
            return missing.reason
        return "up to date"

    def outputs(self, slug: str) -> list:
        """What the chapter's code cells showed."""
        return [cell.outputs for cell in runs.code_cells(self.find(slug).notebook)]

    def store(self, slug: str, *outputs: dict) -> Path:
        """A true run without executing anything: `outputs` are those of the last code cell."""
        notebook, inputs = self.notebook(slug), runs.Inputs.of(self.book)
        cell = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
        cell.outputs = [nbformat.v4.new_output(**output) for output in outputs]
        manifest = {key: getattr(inputs, key) for key in ("data", "datasets", "lock", "python")}
        manifest |= {"slug": slug, "code": runs.code_hash(notebook), "modules": {}, "seconds": 1.0}
        runs.store(self.book, self.chapter(slug), notebook, manifest)
        return self.find(slug).path

    def arguments(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "book.pipeline", *words]

    def command(self, *words: str) -> subprocess.CompletedProcess:
        """What `python -m book.pipeline WORDS` does here, without the seconds that a new process takes to begin."""
        out, err, status = io.StringIO(), io.StringIO(), 0
        with chdir(self.root), redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["book.pipeline", *words])
            patch.setattr(signal, "signal", lambda *_: None)
            try:
                main()
            except SystemExit as ended:
                status = ended.code
        if isinstance(status, str):  # as Python does at its end
            err.write(status)
            status = 1
        return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *who, *words], cwd=self.root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def left_over(self) -> list[str]:
        """Temporary files and folders of the pipeline, which should be none."""
        working = self.root / ".cache" / "executing"
        jobs = list(working.iterdir()) if working.is_dir() else []
        hidden = [*self.root.glob("notebooks/.*"), *self.root.glob(".cache/executed/.*")]
        return [str(path) for path in jobs + hidden]

    def runs(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((self.root / ".cache" / "executed").iterdir())}


def _create(root: Path) -> Toy:
    toy = Toy(root)
    for path, text in FILES.items():
        toy.write(path, text)
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    config["repository"] = {"url": Toy.url, "branch": "main"}
    toy.write("_config.yml", yaml.safe_dump(config, sort_keys=False))
    for code in ("pipeline", "_ext", "_static", "_templates"):
        (root / "book" / code).symlink_to(ROOT / "book" / code)
    toy.pair()
    return toy


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_user():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GAUSSTOOLS_DATA", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def toy(tmp_path) -> Toy:
    """Paired, nothing executed."""
    return _create(tmp_path)


@pytest.fixture(scope="session")
def _executed_once(tmp_path_factory) -> tuple[Toy, execute.Outcome, str]:
    toy = _create(tmp_path_factory.mktemp("executed"))
    toy.git("init", "--initial-branch=main")
    toy.git("add", ".")
    toy.git("commit", "--message=toy")
    with redirect_stdout(io.StringIO()) as shown, pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "cores", lambda: CORES)
        outcome = execute.execute(toy.book, [])
    assert not outcome.failures, outcome.failures
    return toy, outcome, shown.getvalue()


@pytest.fixture
def executed(tmp_path, _executed_once) -> Toy:
    """Committed to git, and both chapters executed: a copy, to be changed at will."""
    shutil.copytree(_executed_once[0].root, tmp_path, symlinks=True, dirs_exist_ok=True)
    return Toy(tmp_path)


@pytest.fixture(scope="module")
def executed_for_module(tmp_path_factory, _executed_once) -> Toy:
    """The same, for a module that builds on it."""
    root = tmp_path_factory.mktemp("built")
    shutil.copytree(_executed_once[0].root, root, symlinks=True, dirs_exist_ok=True)
    return Toy(root)


@pytest.fixture(scope="session")
def built(tmp_path_factory, _executed_once) -> SimpleNamespace:
    """A book with everything that a page can hold, built once by the command, and what it looked like then."""
    toy = Toy(tmp_path_factory.mktemp("built"))
    shutil.copytree(_executed_once[0].root, toy.root, symlinks=True, dirs_exist_ok=True)
    toy.write("book/index.md", INDEX)
    toy.write("book/appendix.md", "# Appendix\n\n:::{paper-table}\n:::\n")
    toy.write("book/api/index.md", "# Names\n\n:::{api-index}\n:::\n")
    toy.write("book/api/balls.md", "# Round things\n\n:::{api} gausstools.balls\n:::\n")
    added = "\n  - file: book/".join(["02_second", "appendix", "api/index"])
    toy.edit("book/_toc.yml", "02_second", f"{added}\n    sections:\n      - file: book/api/balls")
    toy.write("book/refs.bib", ENTRY + "\n\n@book{other,\n  title = {Other},\n}\n")
    first = toy.read("notebooks/01_first.py") + FORMULA + "#\n# See [(above)](#eq-area) and [its formula](#eq-area).\n"
    toy.write("notebooks/01_first.py", first)
    second = toy.read("notebooks/02_second.py")
    second += "\n# %% [markdown]\n# See [(there)](01_first.ipynb#eq-area), or [that formula](01_first.ipynb#eq-area).\n"
    toy.write("notebooks/02_second.py", second)
    toy.pair()
    before = toy.git("status", "--porcelain")
    done = toy.command("pages")
    assert done.returncode == 0, done.stderr
    html = toy.root / "_build/html"
    texts = {
        path.relative_to(html).with_suffix("").as_posix(): path.read_text("utf-8") for path in html.rglob("*.html")
    }
    return SimpleNamespace(
        toy=toy,
        done=done,
        texts=texts,
        page=lambda name: BeautifulSoup(texts[name], "lxml"),
        manifests={slug: toy.find(slug).manifest for slug in ("01_first", "02_second")},
        touched=toy.git("status", "--porcelain") != before,
        scanned=toy.command("scan"),
    )


@pytest.fixture(scope="session")
def first_execution(_executed_once) -> tuple[execute.Outcome, str]:
    """What came of the shared execution, and what was shown meanwhile."""
    return _executed_once[1:]


@pytest.fixture
def pixel() -> bytes:
    return base64.b64decode(PIXEL)
