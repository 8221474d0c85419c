"""Pages of the library from its docstrings, each name once and under the path that users type, as no autosummary does.

A page names modules, and what they offer appears:

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
import typing
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import ModuleType

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.typing import stringify_annotation

from book._ext.generated import Generated, render

_SHOWN = re.compile(r"^:::\{api\} +(\S+)$", re.MULTILINE)


def modules_on(page: str) -> list[str]:
    """The modules that a page's source names."""
    return _SHOWN.findall(page)


def names_of(module: ModuleType) -> list[str]:
    """What a module offers and defines itself, in the order of its `__all__`."""
    imports = [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.ImportFrom)]
    passed_on = {alias.asname or alias.name for node in imports for alias in node.names}
    return [name for name in module.__all__ if name not in passed_on]


def _above(module: ModuleType) -> list[ModuleType]:
    """The packages that a module is in, the outermost first."""
    parts = module.__name__.split(".")
    return [importlib.import_module(".".join(parts[:depth])) for depth in range(1, len(parts))]


def public_path(module: ModuleType, name: str) -> str:
    """The shortest path that exports `name`."""
    exporting = [
        package.__name__
        for package in _above(module)
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


def _bases(cls: type) -> list[type]:
    """The classes that `cls` derives from, with those of the library's private ones instead of these."""
    found: list[type] = []
    for base in cls.__bases__:
        private = base.__name__.startswith("_") and _package(base) == _package(cls)
        found += _bases(base) if private else [base]
    return found


def _shown_bases(cls: type) -> list[type]:
    return [base for base in _bases(cls) if _package(base) not in ("abc", "builtins")]


def _entry(module: ModuleType, name: str) -> dict:
    """What api.jinja needs to show one name."""
    path, value = public_path(module, name), getattr(module, name)
    entry = {"path": path, "module": path.removesuffix(f".{name}"), "name": name, "docstring": _docstring(module, name)}
    if not _is_definition(value, name):
        alias = typing.get_origin(value) is not None or inspect.isclass(value)
        written = stringify_annotation(value, "smart") if alias else repr(value)
        return entry | {"directive": "py:type" if alias else "py:data", "value": written}
    if inspect.isroutine(value):
        return entry | {"directive": "autofunction"}
    bases = [base.__name__ for base in _bases(value)]
    return entry | {"directive": "autoclass", "bases": bases, "inherits": bool(_shown_bases(value))}


class _FromLibrary(Generated):
    """A directive that shows what modules offer."""

    def import_module(self, name: str) -> ModuleType:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a module may fail in any way
            reason = f"{type(error).__name__}: {error}"
            raise self.error(f"{name} cannot be shown, because it cannot be imported: {reason}") from error
        for package in (*_above(module), module):  # those above decide under which path a name stands
            self.env.note_dependency(package.__file__)
        return module


class _Api(_FromLibrary):
    """Show a module."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = self.import_module(self.arguments[0])
        entries = [_entry(module, name) for name in names_of(module)]
        return self.parse(render("api.jinja", module=module.__name__, entries=entries))


class _Index(_FromLibrary):
    """List what the pages of this folder show."""

    def run(self) -> list[nodes.Node]:
        here = PurePosixPath(self.env.docname)
        siblings = [page for page in map(PurePosixPath, self.book.documents) if page.parent == here.parent]
        pages = [self._page(Path(self.env.doc2path(str(page)))) for page in siblings if page != here]
        return self.parse(render("api_index.jinja", pages=pages))

    def _page(self, page: Path) -> dict:
        self.env.note_dependency(str(page))
        text = page.read_text("utf-8")
        modules = map(self.import_module, modules_on(text))
        entries = [_entry(module, name) for module in modules for name in names_of(module)]
        for entry in entries:
            if not entry["docstring"]:
                path = entry["path"]
                raise self.error(f"{path} has no docstring. A constant has it as a string in the line below")
        return {"file": page.name, "title": re.search(r"^# (.+)$", text, re.MULTILINE)[1], "entries": entries}


def _show_bases(_app: Sphinx, _name: str, cls: type, _options: object, bases: list[type]) -> None:
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


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("api", _Api)
    app.add_directive("api-index", _Index)
    app.connect("autodoc-before-process-signature", _bare)
    app.connect("autodoc-process-bases", _show_bases)
    app.connect("autodoc-process-docstring", _google)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
    return {"version": "1", "parallel_read_safe": True}
