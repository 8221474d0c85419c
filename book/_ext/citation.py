"""Entries for a bibliography, to be copied.

    :::{bibtex} wang2024unreasonable
    :::

shows an entry as it stands in `book/refs.bib`, and

    :::{bibtex} CITATION.cff
    :::

that of the book itself, from this file and the repository's address.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.application import Sphinx

from book._ext.generated import Generated
from book.pipeline.layout import Book

_OWN = "CITATION.cff"


def entry(book: Book, key: str) -> str | None:
    """The entry of `book/refs.bib` with this key; None if there is none."""
    text = (book.root / "book" / "refs.bib").read_text("utf-8")
    found = re.search(rf"^@\w+\{{{re.escape(key)},\n.*?^\}}", text, re.MULTILINE | re.DOTALL)
    return found[0] if found else None


def own_entry(book: Book) -> str:
    """The entry of the book and the library."""
    about = yaml.safe_load((book.root / _OWN).read_text("utf-8"))
    fields = {
        "author": " and ".join(_authors(about["authors"])),
        "title": f"{{{about['title']}}}",
        "year": book.config["copyright"],
        "version": about["version"],
        "url": book.repository.url,
    }
    width = max(map(len, fields))
    lines = [f"  {name:<{width}} = {{{value}}}," for name, value in fields.items()]
    return "\n".join(["@software{gausstools,", *lines, "}"])


def _authors(authors: list[dict]) -> Iterator[str]:
    for author in authors:
        person = "family-names" in author
        # Braces keep a name that is no person's in one piece.
        yield f"{author['family-names']}, {author['given-names']}" if person else f"{{{author['name']}}}"


class _Bibtex(Generated):
    """Show an entry."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        key = self.arguments[0]
        self.env.note_dependency(str(Path(self.book.root, _OWN if key == _OWN else "book/refs.bib")))
        text = own_entry(self.book) if key == _OWN else entry(self.book, key)
        if text is None:
            raise self.error(f"book/refs.bib has no entry {key}")
        return self.parse(["```bibtex", *text.splitlines(), "```"])


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("bibtex", _Bibtex)
    return {"version": "1", "parallel_read_safe": True}
