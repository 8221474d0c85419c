"""The beginning of a new chapter: a source that runs and follows every rule, to be written over piece by piece."""

import re
from pathlib import Path

from book.pipeline.errors import PipelineError
from book.pipeline.layout import Book, Chapter, write_atomically

_TEMPLATE = Path(__file__).with_name("skeleton.txt")
_SLUG = re.compile(r"\d\d_[a-z0-9_]+")
_ENTRY = re.compile(r"^(?P<before>\s*- file: notebooks/)(?P<slug>\d\d_\w+)")


def begin_chapter(book: Book, slug: str, title: str) -> Chapter:
    """Write notebooks/SLUG.py; list it in the table of contents and on the front page, after the next lower number."""
    if not _SLUG.fullmatch(slug):
        raise PipelineError(
            f'"{slug}" names no chapter; expected two digits and lower-case words, such as 16_latent_space.'
        )
    if not title.strip():
        raise PipelineError('The title is empty; give one, such as --title "Latent space".')
    if taken := [chapter.label for chapter in book.chapters if chapter.slug[:2] == slug[:2]]:
        numbers = ", ".join(chapter.slug[:2] for chapter in book.chapters)
        raise PipelineError(f"Number {slug[:2]} is taken by {taken[0]}; these are: {numbers}. Choose another.")
    lines = book.toc_file.read_text("utf-8").splitlines()
    listed = [
        (match["slug"], number, match["before"]) for number, line in enumerate(lines) if (match := _ENTRY.match(line))
    ]
    lower = [entry for entry in listed if entry[0] < slug]
    if not lower:
        raise PipelineError(f"{book.relative(book.toc_file)} lists no chapter before {slug}; take a higher number.")
    previous, place, before = max(lower)
    lines.insert(place + 1, before + slug)
    front = book.root / "book" / "index.md"
    claims = front.read_text("utf-8").splitlines()
    # The front page says what each chapter claims, appendices excepted.
    for number, line in enumerate(claims):
        if line.startswith(f"{int(previous[:2])}: "):
            claims.insert(number + 1, f"{int(slug[:2])}: say in a sentence what it claims")
            break

    chapter = Chapter(book.notebooks / f"{slug}.py")
    source = _TEMPLATE.read_text("utf-8")
    names = {"NUMBER": str(int(slug[:2])), "LABEL": slug[3:].replace("_", "-"), "TITLE": title.strip()}
    for name, value in names.items():
        source = source.replace(name, value)
    write_atomically(chapter.source, source)
    write_atomically(book.toc_file, "\n".join(lines) + "\n")
    write_atomically(front, "\n".join(claims) + "\n")
    return chapter
