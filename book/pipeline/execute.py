"""Execute the chapters whose cached runs are no longer true, two at a time, and cache what they show and came from."""

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
from book.pipeline.family import end
from book.pipeline.fast import quickened
from book.pipeline.layout import Book, Chapter, write_atomically
from book.pipeline.pairing import describe, read_paired

AT_A_TIME = 2  # chapters that are executed side by side
SLOW_SECONDS = 90  # what a chapter may take on two processor cores

_THREADS = [f"{library}_NUM_THREADS" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB")]


@dataclass
class Outcome:
    """What became of the chapters; the failures in words."""

    up_to_date: list[Chapter] = field(default_factory=list)
    executed: list[Chapter] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class _Failed(Exception):
    """The chapter did not run to its end."""


@dataclass
class _Job:
    """A chapter to be executed, why, and how long it took last; then its process, and what it started from."""

    chapter: Chapter
    notebook: NotebookNode
    folder: Path
    reason: str = "fast"
    last: float | None = None
    process: subprocess.Popen | None = None
    inputs: runs.Inputs | None = None
    git: dict[str, Any] = field(default_factory=dict)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def say(text: str) -> None:
    """Tell the one who waits, at once."""
    print(f"  {text}", flush=True)


def _git_state(book: Book, chapter: Chapter) -> dict[str, Any]:
    """The commit, and whether anything that the chapter is made from differs from it."""

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", *arguments], cwd=book.root, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    sources = [book.relative(chapter.source), "gausstools", "data", "requirements.txt"]
    return {"commit": git("rev-parse", "--verify", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *sources))}


def _environment(job: _Job, threads: int) -> dict[str, str]:
    """The worker's environment: threads that do not fight, and nothing of the user's own settings."""
    inherited = {key: value for key, value in os.environ.items() if key not in {"MPLBACKEND", "PYTHONWARNINGS"}}
    own = {
        "IPYTHONDIR": str(job.folder / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(job.folder / "runtime"),
        "OMP_WAIT_POLICY": "PASSIVE",  # else threads that wait for a busy core spin, and take it from the others
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else the debugger warns on the kernel's stderr
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",  # else what programs say to each other on Windows is in another encoding
        "TQDM_DISABLE": "1",  # a progress bar is for the one who waits; on a page it is noise on stderr
    }
    return inherited | dict.fromkeys(_THREADS, str(threads)) | own


@contextmanager
def _workplace(book: Book) -> Iterator[Path]:
    """A temporary folder for the jobs, on the file system of the cache; sweeps what a killed pipeline left there."""
    folder = book.cache / "executing" / str(os.getpid())
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.iterdir():
        if not (left.name.isdigit() and psutil.pid_exists(int(left.name))):
            shutil.rmtree(left, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(book: Book, job: _Job, threads: int, timeout: int) -> None:
    job.folder.mkdir()
    nbformat.write(job.notebook, job.folder / "input.ipynb")
    # Taken now, not at the end: a file that is edited during the run must make the run outdated.
    job.inputs, job.git = runs.Inputs.of(book), _git_state(book, job.chapter)
    with (job.folder / "worker.log").open("wb") as log:
        follower = [sys.executable, "-m", "book.pipeline.family", str(os.getpid()), "book.pipeline.worker"]
        job.process = subprocess.Popen(
            [*follower, str(job.folder), str(timeout)],
            cwd=book.root,
            env=_environment(job, threads),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends its workers
        )


def _collect(book: Book, job: _Job, fast: bool) -> float:
    """Turn a finished job into a cached run, a fast one into a notebook; return its seconds, or raise its failure."""
    result_file = job.folder / "result.json"
    if not result_file.is_file():
        log = (job.folder / "worker.log").read_text("utf-8", errors="replace")
        raise _Failed(f"its worker failed:\n{log[-4000:] or 'no output'}")
    result = json.loads(result_file.read_text("utf-8"))
    if "error" in result:
        cell = "an unknown cell" if result["cell"] is None else describe(job.notebook.cells[result["cell"]])
        raise _Failed(f"{cell} failed:\n{result['error']}")
    notebook = nbformat.read(job.folder / "output.ipynb", as_version=4)
    if fast:
        write_atomically(book.fast / job.chapter.paired.name, nbformat.writes(notebook) + "\n")
        return result["seconds"]

    loaded = sorted(book.relative(Path(path)) for path in result["probe"].pop("modules"))
    if foreign := [path for path in loaded if path not in job.inputs.modules]:
        raise _Failed(
            f"its imports failed:\nIt loaded {', '.join(foreign)} instead of this repository's gausstools. "
            "Run `make clean` and try again."
        )
    manifest = {
        "slug": job.chapter.slug,
        "code": runs.code_hash(job.notebook),
        **vars(job.inputs),
        "modules": {path: job.inputs.modules[path] for path in loaded},
        **result["probe"],
        "seconds": round(result["seconds"], 1),
        **job.git,
        "date": datetime.now(UTC).date().isoformat(),
    }
    runs.store(book, job.chapter, notebook, manifest)
    return manifest["seconds"]


def _waiting(book: Book, chapters: list[Chapter], folder: Path, fast: bool, outcome: Outcome) -> Iterator[_Job]:
    """The chapters that are to be executed: all of them in a fast run, else those without a true run."""
    inputs = runs.Inputs.of(book)
    for chapter in chapters:
        notebook = read_paired(book, chapter)
        if fast:
            yield _Job(chapter, quickened(notebook), folder / chapter.slug)
            continue
        try:
            seconds = runs.find(book, chapter, inputs).manifest["seconds"]
        except runs.NoRun as missing:
            if isinstance(missing, runs.DamagedRun):
                say(f"warning: {missing}")
            yield _Job(chapter, notebook, folder / chapter.slug, missing.reason, runs.last_seconds(book, chapter))
        else:
            outcome.up_to_date.append(chapter)
            say(f"{chapter.label}: up to date (took {seconds:.0f} s)")


def _finish(book: Book, job: _Job, fast: bool, outcome: Outcome) -> None:
    label = job.chapter.label
    try:
        seconds = _collect(book, job, fast)
    except _Failed as failure:
        outcome.failures.append(f"{label}, {failure}")
        say(f"{label}: FAILED")
        return
    outcome.executed.append(job.chapter)
    say(f"{label}: done in {seconds:.1f} s")
    if seconds > SLOW_SECONDS:
        say(f"warning: {label} took {seconds:.0f} s; a chapter should take at most {SLOW_SECONDS} s on 2 cores")


def execute(book: Book, names: list[str], *, timeout: int = 600, fast: bool = False) -> Outcome:
    """Execute the named chapters (all of them if none is named) where no true run is cached; all of them if fast.

    Every failure is collected, every success cached. On an interruption the workers and their kernels are ended and
    their files removed before the interruption is passed on.

    Args:
        book: that the chapters are of.
        names: of chapters.
        timeout: seconds after which a cell counts as hanging.
        fast: with small sizes and without claims, into a folder of their own.
    """
    outcome = Outcome()
    chapters = book.select(names)
    with _workplace(book) as workplace:
        # The longest first, and before them those of unknown length, the last chapter first, since the first are short:
        # then the last one to end is a short one.
        waiting = list(_waiting(book, chapters, workplace, fast, outcome))
        waiting.sort(key=lambda job: job.last or float("inf"))
        threads = max(1, cores() // min(AT_A_TIME, max(1, len(waiting))))
        running: list[_Job] = []
        try:
            while waiting or running:
                while waiting and len(running) < AT_A_TIME:
                    running.append(job := waiting.pop())  # before it starts: no interruption can fall between
                    last = f"; took {job.last:.0f} s last time" if job.last else ""
                    say(f"{job.chapter.label}: running ({job.reason}{last})")
                    _start(book, job, threads, timeout)
                time.sleep(0.05)
                for job in [job for job in running if job.process.poll() is not None]:
                    running.remove(job)
                    _finish(book, job, fast, outcome)
        finally:
            for job in running:
                if job.process:
                    end(job.process)
    return outcome
