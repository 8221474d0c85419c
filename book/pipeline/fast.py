"""A chapter in seconds: the same code with small sizes, which the chapter gives itself.

The cell of parameters names them in its header, `fast={"SEEDS": [0]}`. A chapter's claims are true of the sizes that it
states, and some are false of smaller ones. So a fast run checks none: it shows that the code runs to its end, says so
at its top, is never cached, and never shown on a page of the book.
"""

import copy
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

NOTE = (
    "**A fast run.** The sizes are small, so numbers and figures are rough, and the chapter's claims were not checked."
)

_WITHOUT_CLAIMS = Path(__file__).with_name("fast_cell.txt")


def small_sizes(cell: NotebookNode) -> dict[str, Any]:
    """What the header of a cell of parameters gives for a fast run."""
    return cell.metadata.get("fast", {})


def quickened(notebook: NotebookNode) -> NotebookNode:
    """The notebook with its small sizes, without its claims, and with a note that says so."""
    fast = copy.deepcopy(notebook)
    (place,) = (i for i, cell in enumerate(fast.cells) if "parameters" in cell.metadata.get("tags", []))
    values = "".join(f"{name} = {value!r}\n" for name, value in small_sizes(fast.cells[place]).items())
    fast.cells.insert(place + 1, new_code_cell(_WITHOUT_CLAIMS.read_text("utf-8") + (f"\n{values}" if values else "")))
    fast.cells.insert(0, new_markdown_cell(NOTE))
    return fast
