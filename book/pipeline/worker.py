"""Execute one notebook with papermill, in a process of its own; `execute` starts it with a JOB and a TIMEOUT.

`JOB` is a folder that holds `input.ipynb`; the result goes to `output.ipynb` and `result.json` there. The process
lets two chapters run at a time, and lets an interruption end a chapter whatever it is doing.
"""

import json
import sys
import time
from pathlib import Path

import nbformat
import papermill
from nbformat.v4 import new_code_cell
from papermill.exceptions import PapermillExecutionError

_PROBE_MIME = "application/vnd.gausstools.probe+json"


def _unfinished_cell(job: Path) -> int | None:
    """The cell that a run without traceback (a dead kernel, a timeout) ended in, from what papermill saved last."""
    output = job / "output.ipynb"
    if not output.is_file():
        return None
    cells = nbformat.read(output, as_version=4).cells
    # papermill calls the cell that broke off "completed", and all that it never came to; but these have no beginning.
    begun = [i for i, cell in enumerate(cells) if cell.metadata.get("papermill", {}).get("start_time")]
    return begun[-1] if begun else None


def execute(job: Path, timeout: int) -> dict:
    """Execute the job's notebook from the current directory; return what the probe saw, or how it failed."""
    notebook = nbformat.read(job / "input.ipynb", as_version=4)
    probed = nbformat.from_dict(notebook)
    probed.cells.append(new_code_cell(Path(__file__).with_name("probe.py").read_text("utf-8")))
    begun = time.monotonic()
    try:
        done = papermill.execute_notebook(
            probed,
            job / "output.ipynb",
            cwd=".",
            kernel_name="python3",
            execution_timeout=timeout,
            progress_bar=False,
        )
    except PapermillExecutionError as error:
        return {"cell": error.cell_index, "error": "\n".join(error.traceback)}
    except Exception as error:  # a dead kernel, a timeout: any of them is the chapter's failure, not the pipeline's
        return {"cell": _unfinished_cell(job), "error": f"{type(error).__name__}: {error}"}
    seconds = time.monotonic() - begun
    (shown,) = done.cells.pop().outputs
    # Only outputs are taken over: papermill writes times and states into the metadata.
    for cell, executed in zip(notebook.cells, done.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    nbformat.write(notebook, job / "output.ipynb")
    return {"seconds": seconds, "probe": shown["data"][_PROBE_MIME]}


def main() -> None:
    """Execute the job, and write down what came of it."""
    folder, timeout = Path(sys.argv[1]), int(sys.argv[2])
    (folder / "result.json").write_text(json.dumps(execute(folder, timeout)), "utf-8")
