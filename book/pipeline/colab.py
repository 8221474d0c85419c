"""Run the generated notebooks as Colab does: alone in a folder, in a home without settings, beside Colab's packages.

`colab-packages.txt` lists what Colab has before a notebook starts. An environment with these packages is made once and
kept in `.cache/colab/`. Each notebook then gets an empty environment on top of that one, as a session of Colab is, so
that its first cell installs gausstools, and no notebook leaves anything to the next. The address in that cell is the
public one; git is told to take it from here.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from book.pipeline.errors import PipelineError
from book.pipeline.family import end
from book.pipeline.layout import Book, Chapter, make_writable
from book.pipeline.pairing import describe, is_generated

INSTALL_SECONDS = 60
"""What the first cell may take."""

_PUBLISHED = Path(__file__).with_name("colab-packages.txt")
_SETTINGS = ("GAUSSTOOLS", "GIT_", "HF_", "IPYTHON", "JUPYTER", "MPL", "PYTHON", "TORCH", "VIRTUAL_ENV", "XDG_")
_DRIVER = """\
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
try:
    NotebookClient(notebook, timeout=int(sys.argv[2]), kernel_name="python3").execute()
finally:
    nbformat.write(notebook, sys.argv[1])
"""
_VERSIONS = """\
import importlib.metadata, json
found = {}
for package in importlib.metadata.distributions():
    found.setdefault(package.metadata["Name"].lower().replace("_", "-"), package.version)
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Image:
    """What Colab has when a notebook starts, by its published list."""

    python: str
    date: str
    packages: dict[str, str]

    @classmethod
    def published(cls) -> "Image":
        """Read the list."""
        text = _PUBLISHED.read_text("utf-8")
        date, python = re.search(r"list of (\S+), Python ([\d.]+)", text).groups()
        return cls(python, date, dict(line.split("==") for line in text.splitlines() if "==" in line))

    def with_torch(self, version: str) -> "Image":
        """The same with another release of torch, and without torchvision, which fits one release only."""
        others = {name: pinned for name, pinned in self.packages.items() if name not in {"torch", "torchvision"}}
        return Image(self.python, self.date, {**others, "torch": version})


@dataclass(frozen=True)
class Base:
    """An environment with the packages of an image."""

    python: Path
    image: Image

    @cached_property
    def version(self) -> str:
        """Its version of Python."""
        return _output([self.python, "-c", "import platform; print(platform.python_version())"]).strip()

    @cached_property
    def site(self) -> Path:
        """Where its packages are."""
        return Path(_output([self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())


@dataclass
class Visit:
    """What became of one notebook."""

    chapter: Chapter
    findings: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    install_seconds: float = float("nan")
    seconds: float = float("nan")


def _output(command: list[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise PipelineError(f"{' '.join(map(str, command))} failed:\n{(done.stderr or done.stdout)[-4000:]}")
    return done.stdout


def _python_of(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _interpreter(version: str) -> str:
    """Return Colab's Python if there is one here that runs, else this one."""
    found = shutil.which(f"python{version}")
    # One by that name may be pyenv's stand-in for a release that is not chosen here.
    return (
        found if found and subprocess.run([found, "--version"], capture_output=True).returncode == 0 else sys.executable
    )


def make_base(book: Book, image: Image) -> Base:
    """Make the environment with the image's packages, or find it made."""
    maker = _interpreter(image.python)
    pins = "".join(f"{name}=={version}\n" for name, version in sorted(image.packages.items()))
    folder = make_writable(book.cache / "colab") / sha256(f"{maker}\n{sys.version}\n{pins}".encode()).hexdigest()[:12]
    base, stamp = Base(_python_of(folder), image), folder / "ready"
    if not stamp.is_file():
        for old in folder.parent.iterdir():
            shutil.rmtree(old)
        print(f"Installing Colab's {len(image.packages)} packages into {book.relative(folder)}", flush=True)
        _output([maker, "-m", "venv", folder])
        (folder / "pins.txt").write_text(pins, "utf-8")
        _output([base.python, "-m", "pip", "install", "--quiet", "--requirement", folder / "pins.txt"])
        stamp.touch()
    return base


def _publish(book: Book, folder: Path) -> dict[str, str]:
    """Make a git repository of what is here now, and return the settings that make git take it for the public one."""
    listed = _output(["git", "-C", book.root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
    for name in filter(None, listed.split("\0")):
        if (book.root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(book.root / name, folder / name)
    settings = ("user.name=colab", "user.email=colab@localhost", "commit.gpgsign=false")
    git = ["git", "-C", folder, *(word for setting in settings for word in ("-c", setting))]
    _output([*git, "init", "--quiet", f"--initial-branch={book.repository.branch}"])
    _output([*git, "add", "--force", "."])
    _output([*git, "commit", "--quiet", "--message=as it is now"])
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{folder.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": book.repository.url,
    }


@dataclass(frozen=True)
class _Session:
    """An empty folder, a fresh environment, and the variables that a notebook meets there."""

    python: Path
    content: Path
    variables: dict[str, str]

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run the environment's Python in the folder; return its status and what it wrote. An interruption ends it."""
        process = subprocess.Popen(
            [self.python, *words], cwd=self.content, env=self.variables, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            out, err = process.communicate()
        finally:
            if process.poll() is None:
                end(process)
        return process.returncode, out, err

    def versions(self) -> dict[str, str]:
        """Each package that a cell of the notebook could import, with its version."""
        return json.loads(self.run("-c", _VERSIONS)[1])


@contextmanager
def _session(base: Base, settings: dict[str, str]) -> Iterator[_Session]:
    """A session that nothing was done in yet; it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="colab-", ignore_cleanup_errors=True) as place:
        environment, content, home = Path(place) / "session", Path(place) / "content", Path(place) / "home"
        python, startup = _python_of(environment), home / ".ipython" / "profile_default" / "startup"
        for folder in (content, startup):
            folder.mkdir(parents=True)
        _output([base.python, "-m", "venv", "--without-pip", environment])
        site = Path(_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
        (site / "colab.pth").write_text(f"import site; site.addsitedir({str(base.site)!r})\n", "utf-8")
        (site / "google" / "colab").mkdir(parents=True)
        (site / "google" / "colab" / "__init__.py").touch()
        (startup / "00-colab.py").write_text("import google.colab\n", "utf-8")  # Colab loads it before any cell
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(_SETTINGS)}
        own = {"HOME": str(home), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        yield _Session(python, content, inherited | settings | own)


def _seconds(cells: list[NotebookNode]) -> float:
    times = [cell.metadata.get("execution", {}) for cell in cells if cell.cell_type == "code"]
    stamps = [datetime.fromisoformat(stamp) for entry in times for stamp in entry.values()]
    return (max(stamps) - min(stamps)).total_seconds() if stamps else float("nan")


def _failure(notebook: NotebookNode, status: int, messages: str) -> str:
    """What is wrong with an executed notebook, or nothing."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"{describe(cell)} failed:\n" + "\n".join(output.traceback)
    return f"did not end:\n{messages[-4000:]}" if status else ""


def visit(book: Book, base: Base, chapter: Chapter, settings: dict[str, str], timeout: int) -> Visit:
    """Open a chapter's notebook as Colab does, run all its cells, and look at what that changed."""
    result = Visit(chapter)
    with _session(base, settings) as session:
        file = session.content / chapter.paired.name
        shutil.copyfile(chapter.paired, file)
        before = session.versions()
        status, _, messages = session.run("-c", _DRIVER, file.name, str(timeout))
        after = session.versions()
        notebook = nbformat.read(file, as_version=4)
    if failure := _failure(notebook, status, messages):
        result.findings.append(failure)
    result.seconds = _seconds(notebook.cells)
    result.install_seconds = _seconds([cell for cell in notebook.cells if is_generated(cell)])
    result.added = sorted(f"{name} {after[name]}" for name in after.keys() - before.keys())
    result.findings += [
        f"installing gausstools changes {name} from {version} to {after.get(name, 'none')}, which Colab had before"
        for name, version in sorted(before.items())
        if after.get(name) != version
    ]
    if "gausstools" not in after.keys() - before.keys():
        result.findings.append("its first cell did not install gausstools")
    if result.install_seconds > INSTALL_SECONDS:
        result.findings.append(f"installing took {result.install_seconds:.0f} s, at most {INSTALL_SECONDS} s expected")
    return result


def run(book: Book, names: list[str], *, torch: str | None, timeout: int) -> list[str]:
    """Visit the named chapters (all of them if none is named), one after the other; return the findings."""
    image = Image.published()
    base = make_base(book, image.with_torch(torch) if torch else image)
    print(
        f"Colab's list of {image.date}: Python {image.python}, torch {image.packages['torch']}. "
        f"Here: Python {base.version}, torch {base.image.packages['torch']}.",
        flush=True,
    )
    findings = []
    with tempfile.TemporaryDirectory(prefix="colab-repository-") as served:
        settings = _publish(book, Path(served))
        for chapter in book.select(names):
            result = visit(book, base, chapter, settings, timeout)
            print(
                f"  notebooks/{chapter.paired.name}: {'FAILED' if result.findings else 'ran'}, {result.seconds:.0f} s, "
                f"of which installing {result.install_seconds:.0f} s ({', '.join(result.added)})",
                flush=True,
            )
            findings += [f"notebooks/{chapter.paired.name}: {finding}" for finding in result.findings]
    return findings
