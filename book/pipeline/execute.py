"""Execute the chapters whose cached runs are no longer true, up to two at a time, and cache what they show."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbformat import NotebookNode

from book.pipeline import runs
from book.pipeline.errors import PipelineError
from book.pipeline.family import end
from book.pipeline.fast import quickened
from book.pipeline.layout import Book, Chapter, make_writable, write_atomically
from book.pipeline.pairing import describe, read_paired
from book.pipeline.progress import Progress

CELL_TIMEOUT = 600
"""Seconds after which a cell counts as hanging."""

_WORKPLACE = "executing"
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@dataclass(frozen=True)
class Failure:
    """A chapter that did not run to its end."""

    chapter: Chapter
    cell: str
    traceback: str

    def __str__(self) -> str:
        return f"{self.chapter.label}, {self.cell} failed:\n{self.traceback}"


@dataclass
class Outcome:
    """What became of the chapters."""

    up_to_date: list[Chapter] = field(default_factory=list)
    executed: list[Chapter] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


@dataclass
class _Job:
    """A chapter in execution: its folder, its process, and the state of the repository when it started."""

    chapter: Chapter
    notebook: NotebookNode
    reason: str
    last: float | None
    folder: Path
    process: subprocess.Popen | None = None
    state: dict[str, Any] = field(default_factory=dict)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def git_state(book: Book, chapter: Chapter) -> dict[str, Any]:
    """The commit, and whether anything that the chapter is made from differs from it."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=book.root, capture_output=True, text=True)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    sources = [book.relative(chapter.source), "gausstools", "data", "requirements.txt"]
    return {
        "commit": git("rev-parse", "--verify", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--", *sources)),
    }


def _environment(job: _Job, threads: int) -> dict[str, str]:
    """The worker's environment: threads that do not fight, and nothing of the user's own settings."""
    inherited = {key: value for key, value in os.environ.items() if key not in {"MPLBACKEND", "PYTHONWARNINGS"}}
    return (
        inherited
        | dict.fromkeys(_THREADS, str(threads))
        | {
            "IPYTHONDIR": str(job.folder / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(job.folder / "runtime"),
            "OMP_WAIT_POLICY": "PASSIVE",  # else threads that wait for a busy core spin, and take it from the others
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else the debugger warns on the kernel's stderr
            "PYTHONHASHSEED": "0",
            "PYTHONUTF8": "1",  # else what programs say to each other on Windows is in another encoding
            "TQDM_DISABLE": "1",  # a progress bar is for the one who waits; on a page it is noise on stderr
        }
    )


@contextmanager
def _workplace(book: Book) -> Iterator[Path]:
    """A temporary folder for the jobs, on the file system of the cache; sweeps what a killed pipeline left there."""
    parent = make_writable(book.cache / _WORKPLACE)
    for left in parent.iterdir():
        if not (left.name.isdigit() and psutil.pid_exists(int(left.name))):
            shutil.rmtree(left, ignore_errors=True)
    folder = make_writable(parent / str(os.getpid()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(book: Book, job: _Job, threads: int, timeout: int) -> None:
    make_writable(job.folder)
    nbformat.write(job.notebook, job.folder / "input.ipynb")
    # Taken now, not at the end: a file that is edited during the run must make the run outdated.
    job.state = {"inputs": runs.Inputs.of(book), **git_state(book, job.chapter)}
    with (job.folder / "worker.log").open("wb") as log:
        job.process = subprocess.Popen(
            [sys.executable, "-m", "book.pipeline.worker", str(os.getpid()), str(job.folder), str(timeout)],
            cwd=book.root,
            env=_environment(job, threads),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends its workers
        )


def _collect(book: Book, job: _Job, fast: bool) -> float | Failure:
    """Turn a finished job into a cached run, a fast one into a notebook; return its seconds, or its failure."""
    result_file = job.folder / "result.json"
    if not result_file.is_file():
        log = (job.folder / "worker.log").read_text("utf-8", errors="replace")
        return Failure(job.chapter, "before its first cell" if not log else "its worker", log[-4000:] or "no output")
    result = json.loads(result_file.read_text("utf-8"))
    if "error" in result:
        index = result["cell"]
        known = index is not None and index < len(job.notebook.cells)
        return Failure(
            job.chapter, describe(job.notebook.cells[index]) if known else "an unknown cell", result["error"]
        )

    notebook = nbformat.read(job.folder / "output.ipynb", as_version=4)
    if fast:
        write_atomically(book.fast / job.chapter.paired.name, nbformat.writes(notebook) + "\n")
        return result["seconds"]

    inputs: runs.Inputs = job.state["inputs"]
    probe = result["probe"]
    modules = {book.relative(Path(path)) for path in probe["modules"]}
    if foreign := sorted(modules - inputs.modules.keys()):
        message = (
            f"It loaded {', '.join(foreign)} instead of this repository's gausstools. Run `make clean` and try again."
        )
        return Failure(job.chapter, "its imports", message)
    manifest = {
        "slug": job.chapter.slug,
        "code": runs.code_hash(job.notebook),
        "modules": {path: inputs.modules[path] for path in sorted(modules)},
        "data": inputs.data,
        "datasets": inputs.datasets,
        "lock": inputs.lock,
        **{key: probe[key] for key in ("python", "torch", "gausstools", "processor", "gpu")},
        "seconds": round(result["seconds"], 1),
        "commit": job.state["commit"],
        "dirty": job.state["dirty"],
        "date": datetime.now(UTC).date().isoformat(),
    }
    return runs.store(book, job.chapter, notebook, manifest).manifest["seconds"]


def _waiting(
    book: Book, chapters: list[Chapter], folder: Path, fast: bool, outcome: Outcome, progress: Progress
) -> list[_Job]:
    """The chapters that are to be executed: all of them in a fast run, else those without a true run."""
    inputs = runs.Inputs.of(book)
    waiting: list[_Job] = []
    for chapter in chapters:
        notebook = read_paired(book, chapter)
        if fast:
            waiting.append(_Job(chapter, quickened(notebook), "fast", None, folder / chapter.slug))
            continue
        try:
            found = runs.find(book, chapter, notebook, inputs)
        except runs.DamagedRun as damage:
            progress.damaged(str(damage))
            found = runs.Lookup(None, "its cached run is damaged")
        if found.run:
            outcome.up_to_date.append(chapter)
            progress.up_to_date(chapter.label, found.run.manifest["seconds"])
        else:
            last = runs.last_seconds(book, chapter)
            waiting.append(_Job(chapter, notebook, found.reason, last, folder / chapter.slug))
    return waiting


def execute(
    book: Book,
    names: list[str],
    *,
    jobs: int = 2,
    timeout: int = CELL_TIMEOUT,
    fast: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Execute the named chapters (all of them if none is named) where no true run is cached; all of them if fast.

    Every failure is collected, every success cached. On an interruption the workers and their kernels are ended and
    their files removed before the interruption is passed on.
    """
    if jobs < 1 or timeout < 1:
        raise PipelineError(f"Got {jobs} jobs and a timeout of {timeout} s; both must be at least 1.")
    outcome = Outcome()
    chapters = book.select(names)
    make_writable(book.executed)
    with progress or Progress() as progress, _workplace(book) as workplace:
        waiting = _waiting(book, chapters, workplace, fast, outcome, progress)
        # The longest first, and those of unknown length before them: then the last one to end is a short one.
        waiting.sort(key=lambda job: -(job.last if job.last is not None else float("inf")))

        threads = max(1, cores() // min(jobs, max(1, len(waiting))))
        running: list[_Job] = []
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    job = waiting.pop(0)
                    progress.started(job.chapter.label, job.reason, job.last)
                    running.append(job)  # before it starts, so that no interruption can fall between
                    _start(book, job, threads, timeout)
                time.sleep(0.05)
                for job in [job for job in running if job.process.poll() is not None]:
                    running.remove(job)
                    result = _collect(book, job, fast)
                    if isinstance(result, Failure):
                        outcome.failures.append(result)
                        progress.failed(job.chapter.label)
                    else:
                        outcome.executed.append(job.chapter)
                        progress.finished(job.chapter.label, result)
        finally:
            for job in running:
                if job.process:
                    end(job.process)
    return outcome
