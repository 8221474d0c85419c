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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from book.pipeline.family import end
from book.pipeline.layout import Book, Chapter, PipelineError
from book.pipeline.pairing import describe, is_generated

INSTALL_SECONDS = 60
"""What the first cell may take."""

_PUBLISHED = Path(__file__).with_name("colab-packages.txt")
_SETTINGS = ("GAUSSTOOLS", "GIT_", "HF_", "IPYTHON", "JUPYTER", "MPL", "PYTHON", "TORCH", "VIRTUAL_ENV", "XDG_")
_DRIVER = Path(__file__).with_name("colab_driver.txt")


@dataclass(frozen=True)
class Image:
    """What Colab has when a notebook starts, by its published list."""

    python: str
    date: str
    packages: dict[str, str]

    @classmethod
    def published(cls, torch: str | None = None) -> "Image":
        """Read the list; with another release of torch, without torchvision, which fits one release only."""
        text = _PUBLISHED.read_text("utf-8")
        date, python = re.search(r"list of (\S+), Python ([\d.]+)", text).groups()
        packages = dict(line.split("==") for line in text.splitlines() if "==" in line)
        if torch:
            packages["torch"] = torch
            packages.pop("torchvision", None)
        return cls(python, date, packages)


@dataclass
class Visit:
    """What became of one notebook."""

    findings: list[str]
    added: list[str]
    install_seconds: float
    seconds: float


def _output(command: list[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise PipelineError(f"{' '.join(map(str, command))} failed:\n{(done.stderr or done.stdout)[-4000:]}")
    return done.stdout


def _python_of(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _site_of(python: Path) -> Path:
    """Where an environment's packages are."""
    return Path(_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())


def _interpreter(version: str) -> str:
    """Return Colab's Python if there is one here that runs, else this one."""
    found = shutil.which(f"python{version}")
    # One by that name may be pyenv's stand-in for a release that is not chosen here.
    runs = found and subprocess.run([found, "--version"], capture_output=True).returncode == 0
    return found if runs else sys.executable


def make_base(book: Book, image: Image) -> Path:
    """Make the environment with the image's packages, or find it made; return its Python."""
    maker = _interpreter(image.python)
    pins = "".join(f"{name}=={version}\n" for name, version in sorted(image.packages.items()))
    folder = book.cache / "colab" / sha256(f"{maker}\n{sys.version}\n{pins}".encode()).hexdigest()[:12]
    python, stamp = _python_of(folder), folder / "ready"
    if not stamp.is_file():
        shutil.rmtree(folder.parent, ignore_errors=True)
        print(f"Installing Colab's {len(image.packages)} packages into {book.relative(folder)}", flush=True)
        _output([maker, "-m", "venv", folder])
        (folder / "pins.txt").write_text(pins, "utf-8")
        _output([python, "-m", "pip", "install", "--quiet", "--requirement", folder / "pins.txt"])
        stamp.touch()
    return python


def _publish(book: Book, folder: Path) -> dict[str, str]:
    """Make a git repository of what is here now, and return the settings that make git take it for the public one."""
    listed = _output(["git", "-C", book.root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
    for name in filter(None, listed.split("\0")):
        if (book.root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(book.root / name, folder / name)
    git = ["git", "-C", folder, "-c", "user.name=colab", "-c", "user.email=colab", "-c", "commit.gpgsign=false"]
    _output([*git, "init", "--quiet", f"--initial-branch={book.repository.branch}"])
    _output([*git, "add", "--force", "."])
    _output([*git, "commit", "--quiet", "--message=as it is now"])
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{folder.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": book.repository.url,
    }


Run = Callable[..., tuple[int, str, str]]
"""Runs Python with these arguments; returns its status and what it wrote."""


@contextmanager
def _session(base: Path, settings: dict[str, str]) -> Iterator[tuple[Path, Run]]:
    """An empty folder, and the Python of a fresh environment in it; both are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="colab-", ignore_cleanup_errors=True) as place:
        environment, content, home = Path(place) / "session", Path(place) / "content", Path(place) / "home"
        python, startup = _python_of(environment), home / ".ipython" / "profile_default" / "startup"
        for folder in (content, startup):
            folder.mkdir(parents=True)
        _output([base, "-m", "venv", "--without-pip", environment])
        site = _site_of(python)
        (site / "colab.pth").write_text(f"import site; site.addsitedir({str(_site_of(base))!r})\n", "utf-8")
        (site / "google" / "colab").mkdir(parents=True)
        (site / "google" / "colab" / "__init__.py").touch()
        (startup / "00-colab.py").write_text("import google.colab\n", "utf-8")  # Colab loads it before any cell
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(_SETTINGS)}
        variables = inherited | settings | {"HOME": str(home), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}

        def run(*words: str) -> tuple[int, str, str]:
            process = subprocess.Popen(
                [python, *words], cwd=content, env=variables, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            )  # fmt: skip
            try:
                out, err = process.communicate()
            finally:  # an interruption ends it, too
                if process.poll() is None:
                    end(process)
            return process.returncode, out, err

        yield content, run


def _versions(run: Run) -> dict[str, str]:
    """Each package that a cell of the notebook could import, with its version."""
    listed = json.loads(run("-m", "pip", "list", "--format=json", "--disable-pip-version-check")[1])
    return {package["name"]: package["version"] for package in listed}


def _seconds(cells: list[NotebookNode]) -> float:
    times = [cell.metadata.get("execution", {}) for cell in cells if cell.cell_type == "code"]
    stamps = [datetime.fromisoformat(stamp) for entry in times for stamp in entry.values()]
    return (max(stamps) - min(stamps)).total_seconds() if stamps else float("nan")


def _findings(notebook: NotebookNode, status: int, messages: str) -> Iterator[str]:
    """What is wrong with an executed notebook."""
    failed = [(cell, output) for cell in notebook.cells for output in cell.get("outputs", []) if "ename" in output]
    for cell, output in failed:
        yield f"{describe(cell)} failed:\n" + "\n".join(output.traceback)
    if status and not failed:
        yield f"did not end:\n{messages[-4000:]}"


def visit(base: Path, chapter: Chapter, settings: dict[str, str], timeout: int) -> Visit:
    """Open a chapter's notebook as Colab does, run all its cells, and look at what that changed."""
    with _session(base, settings) as (content, run):
        file = content / chapter.paired.name
        shutil.copyfile(chapter.paired, file)
        before = _versions(run)
        status, _, messages = run("-c", _DRIVER.read_text("utf-8"), file.name, str(timeout))
        after = _versions(run)
        notebook = nbformat.read(file, as_version=4)
    findings = [*_findings(notebook, status, messages)]
    findings += [
        f"installing gausstools changes {name} from {version} to {after.get(name, 'none')}, which Colab had before"
        for name, version in before.items()
        if after.get(name) != version
    ]
    added = {name: version for name, version in after.items() if name not in before}
    if "gausstools" not in added:
        findings.append("its first cell did not install gausstools")
    seconds = _seconds([cell for cell in notebook.cells if is_generated(cell)])
    if seconds > INSTALL_SECONDS:
        findings.append(f"installing took {seconds:.0f} s, at most {INSTALL_SECONDS} s expected")
    return Visit(findings, [f"{name} {version}" for name, version in added.items()], seconds, _seconds(notebook.cells))


def check(book: Book, names: list[str], *, torch: str | None, timeout: int) -> list[str]:
    """Visit the named chapters (all of them if none is named), one after the other; return the findings."""
    image = Image.published(torch)
    base = make_base(book, image)
    here = _output([base, "--version"]).strip()
    print(f"Colab's list of {image.date}: Python {image.python}, torch {Image.published().packages['torch']}. ", end="")
    print(f"Here: {here}, torch {image.packages['torch']}.", flush=True)
    findings = []
    with tempfile.TemporaryDirectory(prefix="colab-repository-") as served:
        settings = _publish(book, Path(served))
        for chapter in book.select(names):
            result = visit(base, chapter, settings, timeout)
            print(
                f"  notebooks/{chapter.paired.name}: {'FAILED' if result.findings else 'ran'}, {result.seconds:.0f} s, "
                f"of which installing {result.install_seconds:.0f} s ({', '.join(result.added)})",
                flush=True,
            )
            findings += [f"notebooks/{chapter.paired.name}: {finding}" for finding in result.findings]
    return findings
