"""What Colab and papermill need of every chapter's source, checked without running it (part of `make lint`).

Whether it is Python is ruff's to judge, and links and references are Sphinx's.

A finding reads `notebooks/NN_slug.py:LINE: what is wrong; what to do`.
"""

import ast
import re
import subprocess
from collections.abc import Iterator

from book.pipeline.fast import small_sizes
from book.pipeline.layout import Book, PipelineError
from book.pipeline.pairing import SourceCell, source_cells

CODE_WIDTH = 100
"""Widest line of a code cell: wider ones scroll on a laptop's page."""

_FILE_NAME = re.compile(r"\d\d_[a-z0-9_]+\.(py|ipynb)")
_VERBATIM = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_LINK_WITHOUT_TEXT = re.compile(r"(?<!!)\[\s*\]\([^)\s]+\)")
_RAW_IN_COLAB = {
    re.compile(r"\{[a-zA-Z][\w:+-]*\}`"): "a MyST role, which Colab shows raw; write a link `[text](#name)`",
    re.compile(r"^#?\s*(```+|~~~+|:::+)\{"): "a MyST directive, which Colab shows raw; write plain Markdown",
    re.compile(r"\\(re)?newcommand|\\def\\|\\DeclareMathOperator"): "a macro, which other pages and Colab may lack",
    re.compile(r"\{\{.*?\}\}"): "a substitution, which Colab shows raw; write it out",
}
_PLAIN_VALUES = (
    ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.UnaryOp, ast.BinOp, ast.unaryop, ast.operator, ast.expr_context,
)  # fmt: skip


Finding = tuple[int, str]


def _title(cells: list[SourceCell]) -> Iterator[Finding]:
    if cells[0].is_code or not cells[0].content.source.startswith("# "):
        yield 1, "the file does not start with a title; begin with `# %% [markdown]` and `# # Title`"


def _code(cell: SourceCell) -> Iterator[Finding]:
    for number, line in enumerate(cell.lines, cell.marker + 1):
        if len(line) > CODE_WIDTH:
            yield number, f"{len(line)} characters; a line of a code cell has at most {CODE_WIDTH}"


def _text(cell: SourceCell) -> Iterator[Finding]:
    text = "\n".join(cell.lines)
    prose = _VERBATIM.sub(lambda match: "\n" * match[0].count("\n"), text)  # keeps the count of lines
    for number, (line, words) in enumerate(zip(cell.lines, prose.split("\n"), strict=True), cell.marker + 1):
        for pattern, fault in _RAW_IN_COLAB.items():
            if pattern.search(line):
                yield number, f"{fault}: {line.strip()[:60]}"
        if link := _LINK_WITHOUT_TEXT.search(words):
            yield number, f"the link {link[0]} has no text, so Colab shows nothing; give it words"


def _parameters(cells: list[SourceCell]) -> Iterator[Finding]:
    code = [cell for cell in cells if cell.is_code]
    tagged = [cell for cell in code if "parameters" in cell.content.metadata.get("tags", [])]
    if not tagged:
        yield 1, 'no cell is tagged `parameters`; put `# %% tags=["parameters"]` above the chapter\'s plain values'
    elif code[0] is not tagged[0]:
        yield code[0].marker, "code before the parameters; parameters come first, then the imports"
    for cell in tagged[1:]:
        yield cell.marker, "a second cell is tagged `parameters`; papermill and readers expect one"
    for cell in tagged:
        tree = ast.parse(cell.content.source)
        for statement in tree.body:
            plain = isinstance(statement, ast.Assign) and all(
                isinstance(node, _PLAIN_VALUES) for node in ast.walk(statement.value)
            )
            if not plain:
                line = cell.marker + statement.lineno
                yield line, "a parameters cell holds plain assignments only (`NAME = 64`); move this to a later cell"
        assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for name in sorted(small_sizes(cell.content).keys() - assigned):
            yield cell.marker, f"`fast` gives {name}, which is no parameter; give a small value of one that is"


def check_chapters(book: Book) -> list[str]:
    """Findings in the sources of the chapters."""
    findings = [
        f"notebooks/{path.name}:1: name not of the form NN_slug (two digits, lower case), so no command takes it up"
        for path in sorted(book.notebooks.glob("*.py")) + sorted(book.notebooks.glob("*.ipynb"))
        if not _FILE_NAME.fullmatch(path.name)
    ]
    for chapter in book.chapters:
        try:
            cells = source_cells(chapter)
            found = [*_title(cells), *_parameters(cells)]
        except (PipelineError, SyntaxError) as error:
            findings.append(f"{chapter.label}:1: {error}")
            continue
        for cell in cells:
            found += _code(cell) if cell.is_code else _text(cell)
        findings += [f"{chapter.label}:{line}: {message}" for line, message in sorted(found)]
    return findings


def check_address(book: Book) -> list[str]:
    """Findings for files, other than `_config.yml` and the notebooks, that hold the repository's address."""
    name = book.repository.name
    elsewhere = ["--", ":(exclude)_config.yml", ":(exclude)notebooks/*.ipynb"]
    search = ["git", "grep", "--untracked", "-z", "--files-with-matches", "--ignore-case", "--fixed-strings", name]
    found = subprocess.run([*search, *elsewhere], cwd=book.root, capture_output=True, text=True)
    if found.returncode > 1:  # 1 is none
        raise PipelineError(f"Cannot search the repository, so nothing proves the address unique: {found.stderr}")
    return [
        f"{file}: holds the repository's address ({name}), which stands in _config.yml alone; "
        "use a relative link, or derive it"
        for file in filter(None, found.stdout.split("\0"))
    ]
