"""Build the pages with jupyter-book, warnings as errors, from the cached runs."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from book.pipeline import runs
from book.pipeline.errors import PipelineError
from book.pipeline.layout import Book, make_writable
from book.pipeline.pairing import read_paired, source_cells

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_JUPYTER_BOOK = """\
import sys
from book.pipeline.family import follow
from jupyter_book.cli.main import main
follow(int(sys.argv.pop(1)))
main()
"""
_NOTEBOOK_LINE = re.compile(r"notebooks/(?P<slug>\w+)\.ipynb:(?P<line>\d+)")


def missing_runs(book: Book) -> list[str]:
    """Findings for chapters of the table of contents that have no true run to show."""
    findings = []
    inputs = runs.Inputs.of(book)
    for chapter in book.published:
        try:
            found = runs.find(book, chapter, read_paired(book, chapter), inputs)
        except PipelineError as error:
            findings.append(str(error))
            continue
        if not found.run:
            findings.append(f"{chapter.label}: no executed run to show ({found.reason}). Run `make execute`.")
    return findings


def _machinery(book: Book) -> str:
    """Hash of what shapes every page. Sphinx notices changed pages, not a changed extension or table of contents."""
    folders = [Path(__file__).parent, *(book.root / "book" / part for part in ("_ext", "_static", "_templates"))]
    files = [book.config_file, book.toc_file, book.root / "requirements.txt"]
    files += [
        path for folder in folders for path in folder.rglob("*") if path.suffix in {".py", ".css", ".js", ".html"}
    ]
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(path.name.encode() + b"\0" + (path.read_bytes() if path.is_file() else b""))
    return total.hexdigest()


def _readable(book: Book, messages: str) -> str:
    """Sphinx's messages with places in the chapters' sources: it counts lines as 10000 times the cell."""
    cells = {}
    for chapter in book.published:
        with suppress(PipelineError):  # its cells cannot be told apart, so its name must do
            cells[chapter.slug] = source_cells(chapter)

    def place(match: re.Match) -> str:
        index, line = divmod(int(match["line"]), 10_000)
        chapter = cells.get(match["slug"], [])
        # The closing note is a cell that the source does not have. The first line of a cell counts as its second.
        return f"notebooks/{match['slug']}.py" + (
            f":{chapter[index - 1].start + line - 2}" if 0 < index <= len(chapter) else ""
        )

    plain = _COLOUR.sub("", messages).strip().replace(f"{book.root}/", "")
    return _NOTEBOOK_LINE.sub(place, plain)


def build_pages(book: Book) -> Path:
    """Build the site incrementally; return the page to open."""
    for document in book.documents:
        if not any((book.root / f"{document}{ending}").is_file() for ending in (".md", ".ipynb")):
            raise PipelineError(
                f"{book.relative(book.toc_file)} lists {document}, but there is no {document}.md or {document}.ipynb. "
                "Write the page, or take it out of the table of contents."
            )
    if findings := missing_runs(book):
        raise PipelineError("\n".join(findings))
    make_writable(book.build)
    make_writable(book.html)

    # The stamp is there only after a build that succeeded with the present machinery. Without it everything is built
    # anew: an incremental build repeats no warning of a page that it does not read again, and removes no old page.
    stamp, machinery = book.build / "built-with", _machinery(book)
    if not stamp.is_file() or stamp.read_text("utf-8") != machinery:
        for leftover in (book.html, book.build / ".doctrees", book.build / "jupyter_execute"):
            shutil.rmtree(leftover, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    command = [sys.executable, "-c", _JUPYTER_BOOK, str(os.getpid()), "build", book.root, "--toc", book.toc_file]
    done = subprocess.run(
        [*command, "-n", "-W", "--keep-going", "--quiet"],
        cwd=book.root,
        stdin=subprocess.DEVNULL,
        text=True,
        capture_output=True,
    )
    if done.returncode != 0:
        raise PipelineError(
            f"jupyter-book did not build the pages; every warning counts as an error:\n{_readable(book, done.stderr)}"
        )
    stamp.write_text(machinery, "utf-8")
    return book.html / "index.html"
