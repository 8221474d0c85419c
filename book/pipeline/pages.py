"""Build the pages with jupyter-book, warnings as errors, from the cached runs, and only where all of these are true."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from book.pipeline import runs
from book.pipeline.layout import Book, PipelineError
from book.pipeline.pairing import source_cells

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NOTEBOOK_LINE = re.compile(r"notebooks/(?P<slug>\w+)\.ipynb:(?P<line>\d+)")


def missing_runs(book: Book) -> list[str]:
    """Findings for chapters of the table of contents that have no true run to show."""
    findings = []
    inputs = runs.Inputs.of(book)
    for chapter in book.published:
        try:
            runs.find(book, chapter, inputs)
        except PipelineError as error:
            findings.append(str(error))
    return findings


def _machinery(book: Book) -> str:
    """Hash of what shapes every page. Sphinx notices changed pages, not a changed extension or table of contents."""
    folders = [Path(__file__).parent, *(book.root / "book" / part for part in ("_ext", "_static", "_templates"))]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix != ".pyc"]
    total = hashlib.sha256()
    for path in [book.config_file, book.toc_file, book.root / "requirements.txt", *sorted(files)]:
        total.update(path.name.encode() + b"\0" + (path.read_bytes() if path.is_file() else b""))
    return total.hexdigest()


def _readable(book: Book, messages: str) -> str:
    """Sphinx's messages with places in the chapters' sources: it counts lines as 10000 times the cell."""
    chapters = {chapter.slug: chapter for chapter in book.published}

    def place(match: re.Match) -> str:
        label, (index, line) = f"notebooks/{match['slug']}.py", divmod(int(match["line"]), 10_000)
        # The closing note is a cell that the source does not have. The first line of a cell counts as its second.
        with suppress(IndexError, PipelineError):
            label += f":{source_cells(chapters[match['slug']])[index - 1].marker + line - 1}"
        return label

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
    book.html.mkdir(parents=True, exist_ok=True)
    # The stamp is there only after a build that succeeded with the present machinery. Without it everything is built
    # anew: an incremental build repeats no warning of a page that it does not read again, and removes no old page.
    stamp, machinery = book.build / "built-with", _machinery(book)
    if not stamp.is_file() or stamp.read_text("utf-8") != machinery:
        for leftover in (book.html, book.build / ".doctrees", book.build / "jupyter_execute"):
            shutil.rmtree(leftover, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    follower = [sys.executable, "-m", "book.pipeline.family", str(os.getpid()), "jupyter_book.cli.main"]
    done = subprocess.run(
        [*follower, "build", book.root, "--toc", book.toc_file, "-n", "-W", "--keep-going", "--quiet"],
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
