"""Pages of the library, written from its docstrings. A page names modules, and what they offer appears.

    :::{api} gausstools.noise
    :::

shows the module's docstring, then each name of its `__all__` in that order, with Sphinx's autodoc. A name stands under
the shortest path that exports it, as users type it: `gausstools.Gaussian`, `gausstools.samplers.heun`. What a package
passes on from its modules is shown with the module that defines it, so once.

    :::{api-index}
    :::

lists what the pages of the same folder show, in the order of the table of contents.
"""

import ast
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.typing import stringify_annotation

from book._ext.generated import Generated

_SHOWN = re.compile(r"^:::\{api\} +(\S+)$", re.MULTILINE)


def modules_on(page: str) -> list[str]:
    """The modules that a page's source names."""
    return _SHOWN.findall(page)


def names_of(module: ModuleType) -> list[str]:
    """What a module offers and defines itself, in the order of its `__all__`."""
    imports = [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.ImportFrom)]
    passed_on = {alias.asname or alias.name for node in imports for alias in node.names}
    return [name for name in module.__all__ if name not in passed_on]


def public_path(module: ModuleType, name: str) -> str:
    """The shortest path that exports `name`."""
    parts = module.__name__.split(".")
    above = [importlib.import_module(".".join(parts[:depth])) for depth in range(1, len(parts))]
    exporting = [
        package.__name__
        for package in above
        if name in getattr(package, "__all__", ()) and getattr(package, name) is getattr(module, name)
    ]
    return f"{[*exporting, module.__name__][0]}.{name}"


def _docstring(module: ModuleType, name: str) -> str:
    value = getattr(module, name)
    if _is_definition(value, name):
        return inspect.getdoc(value) or ""
    return "\n".join(ModuleAnalyzer.for_module(module.__name__).find_attr_docs().get(("", name), []))


def _is_definition(value: object, name: str) -> bool:
    return (inspect.isclass(value) or inspect.isroutine(value)) and value.__name__ == name


def _package(value: type | Callable) -> str:
    return value.__module__.partition(".")[0]


def _public_bases(cls: type) -> list[type]:
    """The classes that `cls` derives from, with those of the library's private ones instead of these."""
    found: list[type] = []
    for base in cls.__bases__:
        private = base.__name__.startswith("_") and _package(base) == _package(cls)
        found += _public_bases(base) if private else [base]
    return found


def _shown_bases(cls: type) -> list[type]:
    return [base for base in _public_bases(cls) if _package(base) not in ("abc", "builtins")]


def _entry(module: ModuleType, name: str) -> Iterator[str]:
    """The directive, in reStructuredText, that shows one name."""
    path, value = public_path(module, name), getattr(module, name)
    if not _is_definition(value, name):
        alias = typing.get_origin(value) is not None or inspect.isclass(value)
        yield f".. py:{'type' if alias else 'data'}:: {name}"
        yield f"   :module: {path.removesuffix(f'.{name}')}"
        yield f"   :canonical: {stringify_annotation(value, 'smart')}" if alias else f"   :value: {value!r}"
        yield ""
        yield from (f"   {line}" for line in _docstring(module, name).splitlines())
    elif inspect.isroutine(value):
        yield f".. autofunction:: {path}"
    else:
        yield f".. autoclass:: {path}"
        yield "   :members:"
        yield "   :member-order: bysource"
        yield "   :special-members: __call__"
        yield "   :exclude-members: extra_repr"
        # Methods of private bases are this class's own to a reader; those of public ones stand with these.
        yield f"   :inherited-members: {', '.join(base.__name__ for base in _public_bases(value))}"
        yield from ["   :show-inheritance:"] if _shown_bases(value) else []
    yield ""


class _FromLibrary(Generated):
    """A directive that shows what modules offer."""

    def import_module(self, name: str) -> ModuleType:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a module may fail in any way
            reason = f"{type(error).__name__}: {error}"
            raise self.error(f"{name} cannot be shown, because it cannot be imported: {reason}") from error
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):  # the packages above decide under which path a name stands
            self.env.note_dependency(sys.modules[".".join(parts[:depth])].__file__)
        return module


class _Api(_FromLibrary):
    """Show a module."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = self.import_module(self.arguments[0])
        entries = [line for name in names_of(module) for line in _entry(module, name)]
        return self.parse(["```{eval-rst}", f".. automodule:: {module.__name__}", "", *entries, "```"])


class _Index(_FromLibrary):
    """List what the pages of this folder show."""

    def run(self) -> list[nodes.Node]:
        folder = PurePosixPath(self.env.docname).parent
        lines: list[str] = []
        for document in self.book.documents:
            if PurePosixPath(document).parent == folder and document != self.env.docname:
                lines += self._table(Path(self.env.doc2path(document)))
        return self.parse(lines)

    def _table(self, page: Path) -> Iterator[str]:
        self.env.note_dependency(str(page))
        text = page.read_text("utf-8")
        title = re.search(r"^# (.+)$", text, re.MULTILINE)[1]
        yield from [f"## [{title}]({page.name})", "", "```{eval-rst}", ".. list-table::", "   :widths: 35 65", ""]
        for module in map(self.import_module, modules_on(text)):
            for name in names_of(module):
                path = public_path(module, name)
                yield f"   * - :py:obj:`{path.partition('.')[2]} <{path}>`"
                docstring = _docstring(module, name)
                if not docstring:
                    raise self.error(f"{path} has no docstring. A constant has it as a string in the line below")
                yield f"     - {docstring.splitlines()[0]}"
        yield from ["```", ""]


def _bases(_app: Sphinx, _name: str, cls: type, _options: object, bases: list[type]) -> None:
    bases[:] = _shown_bases(cls)


def _skip(_app: Sphinx, _what: str, _name: str, member: object, *_: object) -> bool | None:
    """Skip what Python, not the library, says about the fields of a named tuple."""
    return True if (inspect.getdoc(member) or "").startswith("Alias for field number") else None


def _google(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Translate a docstring in Google's style. Arguments that it describes together stay together."""
    # Of a property, napoleon would take what stands before a colon ("The trace of Σ: the mean …") for its type.
    what = "method" if what == "property" else what
    lines[:] = GoogleDocstring(lines, Config(napoleon_use_param=False), app, what, name, value, options).lines()


def _bare(_app: Sphinx, value: object, _bound_method: bool) -> None:
    """Leave the types alone of annotations that say more, to the command line for instance."""
    annotations = getattr(value, "__annotations__", {}) if inspect.isfunction(value) else {}
    if any(typing.get_origin(annotation) is typing.Annotated for annotation in annotations.values()):
        value.__annotations__ = typing.get_type_hints(value)
    if signature := getattr(value, "__signature__", None):  # of a command, whose options are fields of dataclasses
        bare = (
            each.replace(annotation=typing.get_args(each.annotation)[0])
            if typing.get_origin(each.annotation) is typing.Annotated
            else each
            for each in signature.parameters.values()
        )
        value.__signature__ = signature.replace(parameters=list(bare))


def _signature(_app: Sphinx, what: str, _name: str, value: object, *_: object) -> tuple[str, None] | None:
    """No signature where nothing can be made (an abstract class) or another package would make it (a protocol)."""
    if what != "class":
        return None
    foreign = hasattr(value.__init__, "__module__") and _package(value.__init__) != _package(value)
    return ("", None) if inspect.isabstract(value) or foreign else None


def _this_repository_first(app: Sphinx) -> None:
    sys.path.insert(0, str(app.srcdir))


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("api", _Api)
    app.add_directive("api-index", _Index)
    app.connect("builder-inited", _this_repository_first)
    app.connect("autodoc-before-process-signature", _bare)
    app.connect("autodoc-process-bases", _bases)
    app.connect("autodoc-process-docstring", _google)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
    return {"version": "1", "parallel_read_safe": True}
