"""The command line: `python -m book.pipeline COMMAND`, from the repository's root."""

import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from filelock import FileLock, Timeout

from book.pipeline.layout import Book, PipelineError

# Each command imports what it needs: `pair` should not wait for a browser's bindings.

READERS = {"pair", "rules", "scan"}
"""What may run beside a command that writes. `pair` replaces whole files by what follows from their sources."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Chapters = Annotated[list[str] | None, typer.Argument(help="chapters by slug, number or path (default: all)")]
Seconds = Annotated[int, typer.Option(min=1, help="seconds that a cell may take")]


@app.callback()
def _from_notebooks_to_pages(context: typer.Context) -> None:
    """From notebooks/*.py to the pages of the book."""
    context.obj = book = Book(Path.cwd())
    if context.invoked_subcommand not in READERS:
        book.cache.mkdir(exist_ok=True)
        try:  # the system lets go of the lock of a killed one
            context.with_resource(FileLock(book.cache / "lock", timeout=0))
        except Timeout:
            raise PipelineError(
                f"Another command is writing into {book.cache} or {book.build}. "
                "Wait until it has ended, or end it, and try again."
            ) from None


def _report(findings: list[str], passed: str) -> None:
    """Print `passed`, or stop with all findings."""
    if findings:
        raise PipelineError("\n".join([*findings, f"{len(findings)} finding{'s' if len(findings) > 1 else ''}."]))
    print(passed)


@app.command()
def pair(
    context: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="write nothing; fail where they disagree")] = False,
) -> None:
    """Generate notebooks/*.ipynb from notebooks/*.py."""
    from book.pipeline import pairing

    book = context.obj
    if check:
        _report(pairing.mismatches(book), f"{len(book.chapters)} notebooks agree with their sources.")
        return
    changed = pairing.pair(book)
    for path in changed:
        print(f"  {path}: written")
    print(f"{len(book.chapters)} notebooks paired, {len(changed)} of them written.")


@app.command()
def execute(
    context: typer.Context,
    chapters: Chapters = None,
    timeout: Seconds = 600,
    fast: Annotated[bool, typer.Option("--fast", help="small sizes, no claims: does each run to its end?")] = False,
) -> None:
    """Execute the chapters whose cached runs are no longer true."""
    from book.pipeline.execute import execute as execute_chapters

    book = context.obj
    outcome = execute_chapters(book, chapters or [], timeout=timeout, fast=fast)
    if outcome.failures:
        kept = f"in {book.relative(book.fast)}" if fast else "cached"
        count = f"{len(outcome.failures)} of {len(book.select(chapters or []))} chapters failed; the others are {kept}."
        raise PipelineError("\n\n".join([*outcome.failures, count]))
    if fast:
        print(f"{len(outcome.executed)} chapters ran with small sizes, their claims unchecked: {book.fast}")
    else:
        print(f"{len(outcome.executed)} chapters executed, {len(outcome.up_to_date)} up to date.")


@app.command()
def pages(context: typer.Context) -> None:
    """Build the pages from the cached runs."""
    from book.pipeline.pages import build_pages

    print(f"{len(context.obj.documents)} pages built: {build_pages(context.obj)}")


@app.command()
def scan(context: typer.Context) -> None:
    """Look for faults in the cached runs and the built pages."""
    from book.pipeline.scan import scan_pages, scan_runs

    book = context.obj
    _report(scan_runs(book) + scan_pages(book), f"{len(book.documents)} pages scanned: no findings.")


@app.command("book")
def build(context: typer.Context, timeout: Seconds = 600) -> None:
    """Pair, execute, pages and scan, one after the other."""
    times = []
    for stage, options in ((pair, {}), (execute, {"timeout": timeout}), (pages, {}), (scan, {})):
        print(f"== {stage.__name__}: {stage.__doc__}", flush=True)
        begun = time.monotonic()
        stage(context, **options)
        times.append(f"{stage.__name__} {time.monotonic() - begun:.0f} s")
    first = context.obj.html / "index.html"
    print(f"\nThe book is ready ({', '.join(times)}). Open it with `make serve`, or from\n  {first}")


@app.command()
def rules(context: typer.Context) -> None:
    """Check the chapters' sources, and that the repository's address stands once."""
    from book.pipeline.rules import check_address, check_chapters

    book = context.obj
    _report(check_chapters(book) + check_address(book), f"{len(book.chapters)} sources follow the rules.")


@app.command()
def new(
    context: typer.Context,
    slug: Annotated[str, typer.Argument(help="two digits and lower-case words, such as 16_latent_space")],
    title: Annotated[str, typer.Option(help='its title, such as "Latent space"')],
) -> None:
    """Begin a chapter: a source that runs, its notebook, its lines in the table of contents and on the front page."""
    from book.pipeline import pairing
    from book.pipeline.skeleton import begin_chapter

    chapter = begin_chapter(context.obj, slug, title)
    pairing.pair(Book(Path.cwd()))
    print(f"{chapter.label}: begun, and listed in book/_toc.yml and book/index.md. It runs as it is: `make book`.")


@app.command()
def colab(
    context: typer.Context,
    chapters: Chapters = None,
    torch: Annotated[str | None, typer.Option(help="another release, where Colab's has no build without CUDA")] = None,
    timeout: Seconds = 600,
) -> None:
    """Run the notebooks as Colab does: each alone, in a fresh environment with Colab's packages."""
    from book.pipeline.colab import check

    findings = check(context.obj, chapters or [], torch=torch, timeout=timeout)
    _report(findings, f"{len(context.obj.select(chapters or []))} notebooks ran as in Colab.")


@app.command()
def screenshots(context: typer.Context) -> None:
    """Take a picture of every page at two widths, in light and dark."""
    from book.pipeline.browser import take_screenshots

    print(f"{take_screenshots(context.obj)} pictures in {context.obj.build / 'screenshots'}")


# What ends a job in CI or closes a terminal ends the pipeline as Ctrl-C does, with its workers.
_ENDINGS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _interrupt(*_: object) -> None:
    for ending in _ENDINGS:  # a second one must not cut the cleaning-up short
        signal.signal(ending, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    """Run the command; failures and interruptions are told in a line."""
    for ending in _ENDINGS:
        signal.signal(ending, _interrupt)
    try:
        app(prog_name="python -m book.pipeline")
    except PipelineError as error:
        sys.exit(f"\nerror: {error}")
    except OSError as error:
        place = f"at {error.filename}" if error.filename else f"on the way into {Path.cwd()}"
        sys.exit(
            f"\nerror: {error.strerror or error} ({type(error).__name__}, {place}). Check what is at this path, its "
            "owner and permissions, and the free disk space. What had finished is kept."
        )
    except SystemExit as end:
        if end.code == 130:  # typer's, for an interruption
            print("\nInterrupted. What had finished is kept; nothing is half-written.", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
