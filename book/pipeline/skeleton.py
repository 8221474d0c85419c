"""The beginning of a new chapter: a source that runs and follows every rule, to be written over piece by piece."""

import re
from pathlib import Path

from book.pipeline.layout import Book, Chapter, PipelineError, write_atomically

_TEMPLATE = Path(__file__).with_name("skeleton.txt")
_SLUG = re.compile(r"\d\d_[a-z0-9_]+")
_ENTRY = re.compile(r"^(?P<before> *- file: notebooks/)(?P<slug>\d\d_\w+).*", re.MULTILINE)


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
    contents = book.toc_file.read_text("utf-8")
    lower = [entry for entry in _ENTRY.finditer(contents) if entry["slug"] < slug]
    if not lower:
        raise PipelineError(f"{book.relative(book.toc_file)} lists no chapter before {slug}; take a higher number.")
    previous = max(lower, key=lambda entry: entry["slug"])
    contents = f"{contents[: previous.end()]}\n{previous['before']}{slug}{contents[previous.end() :]}"
    chapter, front = Chapter(book.notebooks / f"{slug}.py"), book.root / "book" / "index.md"
    # The front page says what each chapter claims, appendices excepted.
    claim = re.compile(rf"^{int(previous['slug'][:2])}: .*", re.MULTILINE)
    own = f"{chapter.number}: say in a sentence what it claims"
    claims = claim.sub(rf"\g<0>\n{own}", front.read_text("utf-8"), count=1)

    source = _TEMPLATE.read_text("utf-8")
    names = {"NUMBER": str(chapter.number), "LABEL": slug[3:].replace("_", "-"), "TITLE": title.strip()}
    for name, value in names.items():
        source = source.replace(name, value)
    write_atomically(chapter.source, source)
    write_atomically(book.toc_file, contents)
    write_atomically(front, claims)
    return chapter
