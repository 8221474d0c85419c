"""Processes that belong together: what the pipeline starts ends with all that it started, and with the pipeline.

`python -m book.pipeline.family PARENT MODULE ARGUMENTS` runs the `main` of a module, and ends with the process PARENT.
"""

import importlib
import os
import subprocess
import sys
from contextlib import suppress
from threading import Thread

import psutil


def end(process: subprocess.Popen) -> None:
    """End a worker and all that it started, sessions of their own (a kernel is one) included."""
    with suppress(psutil.NoSuchProcess):
        _end([psutil.Process(process.pid)])
    process.wait()


def _end(family: list[psutil.Process]) -> None:
    for member in family:  # grows meanwhile
        with suppress(psutil.NoSuchProcess):
            member.suspend()  # before its children are listed, so that no later one escapes
            family += member.children()
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()


def follow(parent: int) -> None:
    """End this process and what it started as soon as the process `parent` is gone, however that came about.

    A killed pipeline cannot end its workers, which would go on for minutes and write into folders of the next one.
    """

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(parent).wait()
        _end(psutil.Process().children())
        os._exit(1)

    Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    parent, module, *arguments = sys.argv[1:]
    follow(int(parent))
    sys.argv[1:] = arguments
    importlib.import_module(module).main()
