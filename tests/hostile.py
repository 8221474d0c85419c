"""Hostile files are read in a process of their own, with little memory and time."""

import multiprocessing
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

GIGABYTE = 2**30
SECONDS = 10  # of computing


def assert_refused(load: Callable[[Path], object], path: Path, message: str) -> None:
    """Assert that the call ends in a short ValueError that matches, within 10 s and 1 GB beyond what imports take."""
    if sys.platform != "linux":
        pytest.skip("memory is counted as Linux does")
    processes = multiprocessing.get_context("fork")  # what is imported already costs nothing again
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_answer, args=(load, path, sender))
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        process.join()
        answer = f"nothing: the process died, {process.exitcode}"
    process.join()
    assert re.search(f"ValueError: .*{message}", answer, re.DOTALL), answer[:1000]
    assert len(answer) < 2000, answer[:1000]


def _answer(load: Callable[[Path], object], path: Path, sender) -> None:
    import resource

    mapped = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + GIGABYTE, mapped + GIGABYTE))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    try:
        load(path)
        answer = "nothing was raised"
    except BaseException as error:  # whatever it is, it is reported
        answer = f"{type(error).__name__}: {error}"
    sender.send(answer[:100_000])
