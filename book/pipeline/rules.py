"""What Colab and papermill need of every chapter's source, checked without running it (part of `make lint`).

Whether it is Python is ruff's to judge, and links and references are Sphinx's.

A finding reads `notebooks/NN_slug.py:LINE: what is wrong; what to do`.
"""

import ast
import re
import subprocess
from collections.abc import Iterator

from book.pipeline.errors import PipelineError
from book.pipeline.fast import small_sizes
from book.pipeline.layout import Book
from book.pipeline.pairing import SourceCell, source_cells

CODE_WIDTH = 100
"""Widest line of a code cell: wider ones scroll on a laptop's page."""

_FILE_NAME = re.compile(r"\d\d_[a-z0-9_]+\.(py|ipynb)")
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_VERBATIM = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_RAW_IN_COLAB = {
    re.compile(r"\{[a-zA-Z][\w:+-]*\}`"): "a MyST role, which Colab shows raw; write a link `[text](#name)`",
    re.compile(r"^\s*(```+|~~~+|:::+)\{"): "a MyST directive, which Colab shows raw; write plain Markdown",
    re.compile(r"\\(re)?newcommand|\\def\\|\\DeclareMathOperator"): "a macro, which other pages and Colab may lack",
    re.compile(r"\{\{.*?\}\}"): "a substitution, which Colab shows raw; write it out",
}
_PLAIN_VALUES = (
    ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.UnaryOp, ast.BinOp, ast.unaryop, ast.operator, ast.expr_context,
)  # fmt: skip


Finding = tuple[int, str]


def _title(cells: list[SourceCell]) -> Iterator[Finding]:
    if not cells or cells[0].is_code or cells[0].marker != 1 or not cells[0].text.startswith("# "):
        yield 1, "the file does not start with a title; begin with `# %% [markdown]` and `# # Title`"


def _width(cells: list[SourceCell]) -> Iterator[Finding]:
    for cell in cells:
        if not cell.is_code:
            continue
        for offset, line in enumerate(cell.text.splitlines()):
            if len(line) > CODE_WIDTH:
                yield cell.start + offset, f"{len(line)} characters; a line of a code cell has at most {CODE_WIDTH}"


def _tree(cell: SourceCell) -> ast.Module:
    try:
        return ast.parse(cell.text)
    except SyntaxError:  # which ruff reports
        return ast.Module(body=[], type_ignores=[])


def _parameters(cells: list[SourceCell]) -> Iterator[Finding]:
    tagged = [cell for cell in cells if cell.is_code and "parameters" in cell.tags]
    if not tagged:
        yield 1, 'no cell is tagged `parameters`; put `# %% tags=["parameters"]` above the chapter\'s plain values'
    for cell in tagged[1:]:
        yield cell.marker, "a second cell is tagged `parameters`; papermill and readers expect one"
    for cell in tagged:
        for statement in _tree(cell).body:
            plain = isinstance(statement, ast.Assign | ast.AnnAssign) and all(
                isinstance(node, _PLAIN_VALUES) for node in ast.walk(statement.value or ast.Constant(None))
            )
            if not plain:
                line = cell.start + statement.lineno - 1
                yield line, "a parameters cell holds plain assignments only (`NAME = 64`); move this to a later cell"
        assigned = {node.id for node in ast.walk(_tree(cell)) if isinstance(node, ast.Name)}
        for name in sorted(small_sizes(cell.content).keys() - assigned):
            yield cell.marker, f"`fast` gives {name}, which is no parameter; give a small value of one that is"
    for cell in cells:
        if tagged and cell.marker >= tagged[0].marker:
            break
        if cell.is_code:
            yield cell.marker, "code before the parameters; parameters come first, then the imports"


def _markdown(cells: list[SourceCell]) -> Iterator[Finding]:
    for cell in cells:
        if cell.is_code:
            continue
        for offset, line in enumerate(cell.text.splitlines()):
            for pattern, fault in _RAW_IN_COLAB.items():
                if pattern.search(line):
                    yield cell.start + offset, f"{fault}: {line.strip()[:60]}"
        text = _VERBATIM.sub(lambda match: "\n" * match[0].count("\n"), cell.text)  # keeps the count of lines
        for offset, line in enumerate(text.splitlines()):
            for link in _LINK.finditer(line):
                if not link["text"].strip():
                    yield (
                        cell.start + offset,
                        f"the link to {link['target']} has no text, so Colab shows nothing; give it words",
                    )


def check_chapters(book: Book) -> list[str]:
    """Findings in the sources of the chapters."""
    findings = [
        f"notebooks/{path.name}:1: name not of the form NN_slug (two digits, lower case), so no command takes it up"
        for ending in ("*.py", "*.ipynb")
        for path in sorted(book.notebooks.glob(ending))
        if not _FILE_NAME.fullmatch(path.name)
    ]
    for chapter in book.chapters:
        try:
            cells = source_cells(chapter)
        except PipelineError as error:
            findings.append(str(error))
            continue
        found = [
            *_title(cells),
            *_width(cells),
            *_parameters(cells),
            *_markdown(cells),
        ]
        findings += [f"{chapter.label}:{max(line, 1)}: {message}" for line, message in sorted(found)]
    return findings


def check_address(book: Book) -> list[str]:
    """Findings for files, other than `_config.yml` and the generated notebooks, that hold the repository's address."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=book.root, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode != 0:
        raise PipelineError(
            f"Cannot list the repository's files, so nothing proves the address unique: {listed.stderr}"
        )
    generated = {book.relative(chapter.paired) for chapter in book.chapters}
    name = book.repository.name.lower().encode()
    return [
        f"{file}: holds the repository's address ({book.repository.name}), which stands in _config.yml alone; "
        "use a relative link, or derive it"
        for file in sorted(set(listed.stdout.split("\0")) - generated - {"", "_config.yml"})
        if (book.root / file).is_file() and name in (book.root / file).read_bytes().lower()
    ]
