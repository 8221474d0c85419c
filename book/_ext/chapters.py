"""The chapters in a table: what each claims, how long it runs, and where to open it.

    :::{chapters}
    1: who can denoise knows the score
    2: for Gaussian data the whole sampling path is a one-line formula
    :::

takes claims by the chapters' numbers, and everything else from the table of contents and the chapters' own runs, so
that no time is typed. A part of the book of which no chapter has a claim is left out; of any other part, each has one.
"""

import re

from docutils import nodes
from sphinx.application import Sphinx

from book._ext.generated import FromRuns, render, title

_CLAIM = re.compile(r"(\d+): +(.+)")


def duration(seconds: float) -> str:
    """Seconds in words, as the closing note of a chapter rounds them."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class _Chapters(FromRuns):
    """Show the table."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        claims = self._claims()
        parts = [part for part in self.book.parts if any(chapter.number in claims for chapter in part[1])]
        chapters = [chapter for _, among in parts for chapter in among]
        if unknown := claims.keys() - {chapter.number for chapter in chapters}:
            raise self.error(f"no chapter of the table of contents has the number {', '.join(map(str, unknown))}")
        for chapter in chapters:
            if chapter.number not in claims:
                raise self.error(f"{chapter.label} has no claim here; give it one, as `number: what it claims`")
        runs = {chapter: self.read(chapter) for chapter in chapters}
        words = {"title": title, "duration": duration, "repository": self.book.repository}
        return self.parse(render("chapters.jinja", parts=parts, claims=claims, runs=runs, **words))

    def _claims(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for line in filter(None, map(str.strip, self.content)):
            claim = _CLAIM.fullmatch(line)
            if not claim:
                raise self.error(f"{line!r} is no claim; expected `1: what chapter 1 claims`")
            found[int(claim[1])] = claim[2]
        return found


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("chapters", _Chapters)
    return {"version": "1", "parallel_read_safe": True}
