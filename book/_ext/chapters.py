"""The chapters in a table: what each claims, how long it runs, and where to open it.

    :::{chapters}
    1: who can denoise knows the score
    2: for Gaussian data the whole sampling path is a one-line formula
    :::

takes claims by the chapters' numbers, and everything else from the table of contents and the chapters' own runs, so
that no time is typed. A part of the book of which no chapter has a claim is left out; of any other part, each has one.
"""

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx

from book._ext.generated import FromRuns, title
from book.pipeline.layout import Chapter

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
        lines, manifests = [], []
        for caption, chapters in self.book.parts:
            if not any(int(chapter.slug[:2]) in claims for chapter in chapters):
                continue
            lines += [f"### {caption}", ""] if caption else []
            lines += [":::{list-table}", ":header-rows: 1", ":widths: 76 12 12", ":class: chapters", ""]
            lines += ["* - chapter, and its claim", "  - time", "  - run it"]
            for chapter in chapters:
                notebook, run = self.read(chapter)
                number = int(chapter.slug[:2])
                if number not in claims:
                    raise self.error(f"{chapter.label} has no claim here; give it one, as `{number}: what it claims`")
                lines += self._row(chapter, title(notebook), claims.pop(number), run.manifest if run else None)
                manifests += [run.manifest] if run else []
            lines += [":::", ""]
        if claims:
            raise self.error(f"no chapter of the table of contents has the number {', '.join(map(str, claims))}")
        return self.parse([*lines, *_summary(manifests)])

    def _claims(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for line in filter(None, map(str.strip, self.content)):
            claim = _CLAIM.fullmatch(line)
            if claim:
                found[int(claim[1])] = claim[2]
            elif found:  # a claim may go on in the next line
                found[list(found)[-1]] += f" {line}"
            else:
                raise self.error(f"{line!r} is no claim; expected `1: what chapter 1 claims`")
        return found

    def _row(self, chapter: Chapter, heading: str, claim: str, manifest: dict | None) -> Iterator[str]:
        yield f"* - **[{heading}](../notebooks/{chapter.slug}.ipynb)**"
        yield ""
        yield f"    {claim}"
        time = duration(manifest["seconds"]) if manifest else "?"
        yield f"  - {time}" + (f", on {manifest['gpu']}" if manifest and manifest["gpu"] else "")
        yield f"  - [Colab]({self.book.repository.colab(f'notebooks/{chapter.paired.name}')})"


def _summary(manifests: list[dict]) -> Iterator[str]:
    """What the times are of."""
    if manifests:
        processors = " and ".join(dict.fromkeys(manifest["processor"] for manifest in manifests))
        rest = "" if any(manifest["gpu"] for manifest in manifests) else ", without a GPU"
        total = duration(sum(manifest["seconds"] for manifest in manifests))
        yield (
            f"All of them: {total}. These are the times of the runs whose outputs the pages show, "
            f"on {processors}{rest}."
        )


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("chapters", _Chapters)
    return {"version": "1", "parallel_read_safe": True}
