"""The command line: `python -m book.pipeline COMMAND`, from the repository's root."""

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

from book.pipeline.errors import PipelineError
from book.pipeline.layout import Book, make_writable

# Each command imports what it needs: `pair` should not wait for a browser's bindings.


@contextmanager
def _alone(book: Book) -> Iterator[None]:
    """Keep a second command from writing into the same clone; the system lets go of the lock of a killed one."""
    try:
        with FileLock(make_writable(book.cache) / "lock", timeout=0):
            yield
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


def pair(book: Book, options: argparse.Namespace) -> None:
    """Generate notebooks/*.ipynb from notebooks/*.py."""
    from book.pipeline import pairing

    if options.check:
        _report(pairing.mismatches(book), f"{len(book.chapters)} notebooks agree with their sources.")
        return
    changed = pairing.pair(book)
    for path in changed:
        print(f"  {path}: written")
    print(f"{len(book.chapters)} notebooks paired, {len(changed)} of them written.")


def execute(book: Book, options: argparse.Namespace) -> None:
    """Execute the chapters whose cached runs are no longer true."""
    from book.pipeline.execute import execute as execute_chapters

    outcome = execute_chapters(book, options.chapters, jobs=options.jobs, timeout=options.timeout, fast=options.fast)
    if outcome.failures:
        kept = f"in {book.relative(book.fast)}" if options.fast else "cached"
        count = (
            f"{len(outcome.failures)} of {len(book.select(options.chapters))} chapters failed; the others are {kept}."
        )
        raise PipelineError("\n\n".join([*map(str, outcome.failures), count]))
    if options.fast:
        print(f"{len(outcome.executed)} chapters ran with small sizes, their claims unchecked: {book.fast}")
        return
    print(f"{len(outcome.executed)} chapters executed, {len(outcome.up_to_date)} up to date.")


def pages(book: Book, _options: argparse.Namespace) -> None:
    """Build the pages from the cached runs."""
    from book.pipeline.pages import build_pages

    index = build_pages(book)
    print(f"{len(book.documents)} pages built: {index}")


def scan(book: Book, _options: argparse.Namespace) -> None:
    """Look for faults in the cached runs and the built pages."""
    from book.pipeline.scan import scan_pages, scan_runs

    _report(scan_runs(book) + scan_pages(book), f"{len(book.documents)} pages scanned: no findings.")


def rules(book: Book, _options: argparse.Namespace) -> None:
    """Check the chapters' sources, and that the repository's address stands once."""
    from book.pipeline.rules import check_address, check_chapters

    _report(check_chapters(book) + check_address(book), f"{len(book.chapters)} sources follow the rules.")


def new(book: Book, options: argparse.Namespace) -> None:
    """Begin a chapter: a source that runs, its notebook, its lines in the table of contents and on the front page."""
    from book.pipeline import pairing
    from book.pipeline.skeleton import begin_chapter

    chapter = begin_chapter(book, options.slug, options.title)
    pairing.pair(Book(book.root))
    print(f"{chapter.label}: begun, and listed in book/_toc.yml and book/index.md. It runs as it is: `make book`.")


def colab(book: Book, options: argparse.Namespace) -> None:
    """Run the notebooks as Colab does: each alone, in a fresh environment with Colab's packages."""
    from book.pipeline.colab import run

    findings = run(book, options.chapters, torch=options.torch, timeout=options.timeout)
    _report(findings, f"{len(book.select(options.chapters))} notebooks ran as in Colab.")


def screenshots(book: Book, _options: argparse.Namespace) -> None:
    """Take a picture of every page at two widths, in light and dark."""
    from book.pipeline.screenshots import take_screenshots

    print(f"{len(take_screenshots(book))} pictures in {book.build / 'screenshots'}")


def build(book: Book, options: argparse.Namespace) -> None:
    """Pair, execute, pages and scan, one after the other."""
    times = []
    for stage in (pair, execute, pages, scan):
        print(f"== {stage.__name__}: {stage.__doc__}", flush=True)
        begun = time.monotonic()
        stage(book, options)
        times.append(f"{stage.__name__} {time.monotonic() - begun:.0f} s")
    print(f"\nThe book is ready ({', '.join(times)}). Open it with `make serve`, or from\n  {book.html / 'index.html'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m book.pipeline", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the repository's root (default: where you are)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(function, name: str, *, writes: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        command.set_defaults(function=function, writes=writes)
        return command

    def add_timeout(command: argparse.ArgumentParser) -> None:
        command.add_argument("--timeout", type=int, default=600, help="seconds that a cell may take (default: 600)")

    def add_chapters(command: argparse.ArgumentParser) -> None:
        command.add_argument("chapters", nargs="*", help="chapters by slug, number or path (default: all)")

    def add_execution_options(command: argparse.ArgumentParser) -> None:
        command.add_argument("--jobs", type=int, default=2, help="chapters at a time (default: 2)")
        add_timeout(command)

    whole = add(build, "book")
    add_execution_options(whole)
    whole.set_defaults(check=False, fast=False, chapters=[])
    add(pair, "pair").add_argument("--check", action="store_true", help="write nothing; fail where they disagree")
    some = add(execute, "execute")
    add_execution_options(some)
    some.add_argument("--fast", action="store_true", help="small sizes, no claims: does each run to its end?")
    add_chapters(some)
    add(pages, "pages")
    add(scan, "scan", writes=False)
    add(rules, "rules", writes=False)
    chapter = add(new, "new")
    chapter.add_argument("slug", help="two digits and lower-case words, such as 16_latent_space")
    chapter.add_argument("--title", required=True, help='its title, such as "Latent space"')
    there = add(colab, "colab")
    there.add_argument("--torch", help="another release of torch, where Colab's has no build without CUDA")
    add_timeout(there)
    add_chapters(there)
    add(screenshots, "screenshots")
    return parser


# What ends a job in CI or closes a terminal ends the pipeline as Ctrl-C does, with its workers.
_ENDINGS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _interrupt(*_: object) -> None:
    for ending in _ENDINGS:  # a second one must not cut the cleaning-up short
        signal.signal(ending, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Run the command; return the exit status."""
    for ending in _ENDINGS:
        signal.signal(ending, _interrupt)
    options = _parser().parse_args()
    try:
        book = Book(options.root.resolve())
        with _alone(book) if options.writes and not vars(options).get("check") else nullcontext():
            options.function(book, options)
    except PipelineError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        place = f"at {error.filename}" if error.filename else f"on the way into {options.root}"
        print(
            f"\nerror: {error.strerror or error} ({type(error).__name__}, {place}). Check the free disk space, and "
            "what is at this path. What had finished is kept.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. What had finished is kept; nothing is half-written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
