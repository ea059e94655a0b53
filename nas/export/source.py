"""Code taken out of its modules: definitions, and all that they need, as one file.

What a name stands for is looked up as Python does, in the module where it is written; classes,
functions and constants of ``ROOTS`` and of any other package that is not installed beside torch
are copied, all else is imported. ``Pruning`` may leave out what is never used.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from nas.task import InputError

Key = tuple[str, str]  # a module and a name in it
Edit = tuple[int, int, int, int, str]  # first line and column, last ones, the new text
# Of a definition: its text, with what is never used left out.
Shorten = Callable[[Key, list[str], ast.stmt], list[str]]

ANY = ("typing", "Any")
_HINTS = re.compile(r"\s*# (?:type: ignore|noqa|fmt: skip).*$")
_BUILTINS = set(dir(builtins))


@dataclass(frozen=True)
class External:
    """A name that an import brings: ``from module import name as alias``, or, without a name, the
    module itself."""

    module: str
    name: str | None
    alias: str

    @property
    def statement(self) -> str:
        if self.name is None:
            plain = self.alias == self.module
            return f"import {self.module}" + ("" if plain else f" as {self.alias}")
        renamed = "" if self.alias == self.name else f" as {self.alias}"
        return f"from {self.module} import {self.name}{renamed}"


@dataclass
class Module:
    """A module's text, its statements by the names that they define, and its imports."""

    name: str
    lines: list[str]
    defined: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imported: dict[str, External] = field(default_factory=dict)
    typing_only: set[str] = field(default_factory=set)

    def add(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Import() | ast.ImportFrom():
                self.imported |= _imported(statement, self.name)
            case ast.If() if ast.unparse(statement.test) == "TYPE_CHECKING":
                for inner in statement.body:
                    if isinstance(inner, (ast.Import, ast.ImportFrom)):
                        found = _imported(inner, self.name)
                        self.typing_only |= found.keys()
                        self.imported |= found
            case ast.FunctionDef() | ast.ClassDef() if statement.name != "_":
                self.defined[statement.name] = [statement]
            case ast.Assign() | ast.AnnAssign():
                targets = (
                    statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                )
                for target in targets:
                    for node in ast.walk(target):
                        if isinstance(node, ast.Name):
                            self.defined[node.id] = [statement]
            case _:
                self._attach(statement)

    def _attach(self, statement: ast.stmt) -> None:
        """What is done to a definition below it, as the registration of a backward pass."""
        for node in ast.walk(statement):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                known = self.defined.get(node.value.id)
                if known is not None and not isinstance(known[0], (ast.Assign, ast.AnnAssign)):
                    known.append(statement)
                    return


def _imported(statement: ast.Import | ast.ImportFrom, within: str) -> dict[str, External]:
    if isinstance(statement, ast.Import):
        return {
            (a.asname or a.name.split(".")[0]): External(
                a.name if a.asname else a.name.split(".")[0],
                None,
                a.asname or a.name.split(".")[0],
            )
            for a in statement.names
        }
    module = statement.module or ""
    if statement.level:  # relative
        base = within.split(".")[: -statement.level]
        module = ".".join([*base, module] if module else base)
    return {
        (a.asname or a.name): External(module, a.name, a.asname or a.name) for a in statement.names
    }


@cache
def module_of(name: str) -> Module:
    """The text of an importable module, read from its file."""
    loaded = sys.modules.get(name) or importlib.import_module(name)
    file = getattr(loaded, "__file__", None)
    if file is None or not str(file).endswith(".py"):
        raise InputError(f"the module {name} has no source file, so its code cannot be copied")
    text = Path(file).read_text(encoding="utf-8")
    found = Module(name, text.splitlines())
    for statement in ast.parse(text).body:
        found.add(statement)
    return found


@cache
def is_copied(module: str) -> bool:
    """Whether the code of a module is copied: this project's, and that of families that people
    write beside it; libraries are imported."""
    top = module.split(".")[0]
    if top in ("nas", "search_spaces"):
        return True
    if top in sys.stdlib_module_names:
        return False
    if (loaded := sys.modules.get(top)) is not None:
        file = str(getattr(loaded, "__file__", None) or "")
    else:
        spec = importlib.util.find_spec(top)
        file = str(spec.origin or "") if spec else ""
    return file.endswith(".py") and "site-packages" not in file and "dist-packages" not in file


def resolve(module: str, name: str) -> Key | External | None:
    """What a name of a module stands for: a definition to copy, an import, or None (a builtin).

    A ``Key`` with the name "" is a module that is copied.
    """
    while True:
        known = module_of(module)
        if name in known.defined:
            return module, name
        if name not in known.imported:
            if name in _BUILTINS or name in ("__file__", "__name__"):
                return None
            raise InputError(f"{name!r} in {module} is defined nowhere, so it cannot be copied")
        found = known.imported[name]
        if not is_copied(found.module):
            return found
        if found.name is None:
            return found.module, ""
        whole = f"{found.module}.{found.name}"
        if found.name not in module_of(found.module).defined and _is_module(whole):
            return whole, ""
        module, name = found.module, found.name


@cache
def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, AttributeError, ValueError):
        return False


# -- names in a definition -------------------------------------------------------------------------


@dataclass
class Names:
    """The names of a definition that are not its own: where they stand, whether in an annotation,
    and the imports inside its functions."""

    used: list[tuple[ast.Name, ast.Attribute | None, bool]] = field(default_factory=list)
    local: dict[str, External] = field(default_factory=dict)
    statements: list[ast.stmt] = field(default_factory=list)  # local imports of what is copied
    attributes: set[str] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)  # of torch.ops, as namespace::name


class _Finder(ast.NodeVisitor):
    def __init__(self, module: str) -> None:
        self.module, self.found = module, Names()
        self._scopes: list[set[str]] = []
        self._annotation = False

    def top(self, statement: ast.stmt) -> None:
        """A statement of a module; what a loop there binds is its own."""
        own = set(_bound([statement])) if isinstance(statement, ast.For) else set()
        self._scopes.append(own)
        self.visit(statement)
        self._scopes.pop()

    def visit_Name(self, node: ast.Name, parent: ast.Attribute | None = None) -> None:
        if not any(node.id in scope for scope in self._scopes) and not (
            isinstance(node.ctx, ast.Store)
        ):
            self.found.used.append((node, parent, self._annotation))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.found.attributes.add(node.attr)
        if (operator := re.fullmatch(r"torch\.ops\.(\w+)\.(\w+)", ast.unparse(node))) is not None:
            self.found.operators.add(f"{operator[1]}::{operator[2]}")
        if isinstance(node.value, ast.Name):
            self.visit_Name(node.value, node)
        else:
            self.visit(node.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and node.value.isidentifier():
            self.found.attributes.add(node.value)  # of getattr and its like

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for each in node.decorator_list:
            self.visit(each)
        self._function(node.args, node.body, node.returns)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node.args, [node.body], None)

    def _function(
        self, args: ast.arguments, body: Iterable[ast.AST], returns: ast.expr | None
    ) -> None:
        every = [*args.posonlyargs, *args.args, *args.kwonlyargs]
        every += [a for a in (args.vararg, args.kwarg) if a is not None]
        for default in (*args.defaults, *args.kw_defaults):
            if default is not None:
                self.visit(default)
        for annotation in (*(a.annotation for a in every), returns):
            self._annotated(annotation)
        body = list(body)
        scope = {a.arg for a in every} | set(_bound(body))
        for statement in _statements(body):
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                for name, external in _imported(statement, self.module).items():
                    if is_copied(external.module):
                        scope.discard(name)
                        self.found.local[name] = external
                        if statement not in self.found.statements:
                            self.found.statements.append(statement)
        self._scopes.append(scope)
        for each in body:
            self.visit(each)
        self._scopes.pop()

    def _annotated(self, annotation: ast.expr | None) -> None:
        if annotation is not None:
            before, self._annotation = self._annotation, True
            self.visit(annotation)
            self._annotation = before

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._annotated(node.annotation)
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for each in (*node.decorator_list, *node.bases, *(k.value for k in node.keywords)):
            self.visit(each)
        self._class_body(node)

    def _class_body(self, node: ast.ClassDef) -> None:
        own = set(_bound(node.body))
        for each in node.body:
            if isinstance(each, ast.FunctionDef):
                self.visit(each)  # a method does not see the names of its class
            else:
                self._scopes.append(own)
                self.visit(each)
                self._scopes.pop()

    def _comprehension(self, node: ast.AST) -> None:
        generators: list[ast.comprehension] = node.generators  # type: ignore[attr-defined]
        scope = {n.id for g in generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
        self._scopes.append(scope)
        self.generic_visit(node)
        self._scopes.pop()

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension  # noqa: N815


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The statements of a function, without those of functions in it."""
    for node in body:
        yield node
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        yield from _statements(ast.iter_child_nodes(node))


def _bound(body: Iterable[ast.AST]) -> Iterator[str]:
    """The names that a body binds itself."""
    for node in _statements(body):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (a.asname or a.name.split(".")[0] for a in node.names)
        elif (isinstance(node, ast.ExceptHandler) and node.name) or (
            isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name
        ):
            yield node.name


def names_in(module: str, text: str) -> Names:
    """The names that a definition of ``module`` uses and does not bind."""
    finder = _Finder(module)
    for statement in ast.parse(text).body:
        finder.top(statement)
    return finder.found


# -- one file --------------------------------------------------------------------------------------


def text_of(key: Key, shorten: Shorten | None = None) -> str:
    """The text of a definition and of what is attached to it, with the comment above it."""
    module = module_of(key[0])
    parts = []
    for statement in module.defined[key[1]]:
        decorated = getattr(statement, "decorator_list", [])
        first = min([statement.lineno, *(d.lineno for d in decorated)])
        while first > 1 and module.lines[first - 2].startswith("#"):
            first -= 1
        assert statement.end_lineno is not None
        head = module.lines[first - 1 : statement.lineno - 1]
        body = module.lines[statement.lineno - 1 : statement.end_lineno]
        if shorten is not None:
            body = shorten(key, module.lines, statement)
        parts.append("\n".join(_HINTS.sub("", line) for line in [*head, *body]))
    return "\n\n\n".join(parts)


class Bundle:
    """The definitions that ``roots`` need, in an order in which each stands behind what it uses.

    Args:
        roots: What the file is for.
        shorten: Gives the lines of a definition without what is never used.
        replaced: The text of definitions that are to be others here.
        reserved: Names that the file uses otherwise.
    """

    def __init__(
        self,
        roots: Iterable[Key],
        shorten: Shorten | None = None,
        replaced: Mapping[Key, str] | None = None,
        reserved: Iterable[str] = (),
    ) -> None:
        self._shorten, self._replaced = shorten, dict(replaced or {})
        self._texts: dict[Key, str] = {}
        self.order: list[Key] = []
        self.attributes: set[str] = set()
        self._roots = list(roots)
        for key in self._roots:
            self._visit(key)
        self.names = self._named(set(reserved))

    def _text(self, key: Key) -> str:
        if key not in self._texts:
            self._texts[key] = self._replaced.get(key) or text_of(key, self._shorten)
        return self._texts[key]

    def _visit(self, key: Key, path: tuple[Key, ...] = ()) -> None:
        if key in self.order or key in path:
            return
        names = names_in(key[0], self._text(key))
        self.attributes |= names.attributes
        for found in self._needed(key[0], names):
            self._visit(found, (*path, key))
        # Several names of one statement are written once.
        if all(self._statement(other) is not self._statement(key) for other in self.order):
            self.order.append(key)

    def _statement(self, key: Key) -> object:
        return key if key in self._replaced else module_of(key[0]).defined[key[1]][0]

    def _needed(self, module: str, names: Names) -> Iterator[Key]:
        for operator in names.operators:
            for defined, statements in module_of(module).defined.items():
                for decorator in getattr(statements[0], "decorator_list", ()):
                    if f"'{operator}'" in ast.unparse(decorator) and "custom_op" in (
                        ast.unparse(decorator)
                    ):
                        yield module, defined
        for name, parent, annotation in names.used:
            if not annotation:
                found = self._meaning(module, name.id, parent, names)
                if isinstance(found, tuple):
                    yield found

    def _meaning(
        self, module: str, name: str, parent: ast.Attribute | None, names: Names
    ) -> Key | External | None:
        if name in names.local:
            external = names.local[name]
            found: Key | External | None
            if external.name is None:
                found = (external.module, "")
            elif _is_module(whole := f"{external.module}.{external.name}") and (
                external.name not in module_of(external.module).defined
            ):
                found = (whole, "")
            else:
                found = resolve(external.module, external.name)
        else:
            found = resolve(module, name)
        if isinstance(found, tuple) and not found[1]:
            if parent is None:
                raise InputError(f"{module} uses the module {found[0]} as a value; name its parts")
            return resolve(found[0], parent.attr)
        return found

    def _named(self, taken: set[str]) -> dict[Key, str]:
        """A name for each definition; of equal ones the second gets its module's before it."""
        names: dict[Key, str] = {}
        for key in [*reversed(self.order)]:
            name = key[1]
            if name in taken:
                bare = name.lstrip("_")
                stem = key[0].rpartition(".")[2]
                stem = stem.title().replace("_", "") if bare[:1].isupper() else stem + "_"
                name = "_" * name.startswith("_") + (stem + bare)
            while name in taken:
                name += "_"
            taken.add(name)
            names[key] = name
        return names

    def imports(self) -> set[External]:
        """What the definitions import."""
        found: set[External] = set()
        self.body(found.add)
        return found

    def body(self, on_import: Callable[[External], object] = lambda _: None) -> str:
        """All definitions, one below the other; ``on_import`` receives what they import."""
        return "\n\n\n".join(self._renamed(key, on_import) for key in self.order) + "\n"

    def _renamed(self, key: Key, on_import: Callable[[External], object]) -> str:
        text = self._text(key)
        names = names_in(key[0], text)
        edits: list[Edit] = []
        for name, parent, annotation in names.used:
            found = self._meaning(key[0], name.id, parent, names)
            if found is None:
                continue
            place: ast.expr = name
            if isinstance(found, External):
                of_types = name.id in module_of(key[0]).typing_only
                if not of_types:
                    on_import(found)
                    continue
                on_import(External(*ANY, "Any"))
                new = "Any"
            else:
                new = self._name(found)
                if annotation and not new:
                    on_import(External(*ANY, "Any"))
                    new = "Any"
                if _through_module(names, key[0], name.id) and parent is not None:
                    place = parent
            if new != name.id or place is not name:
                edits.append(_span(place, new))
        edits += [_span(statement, "") for statement in names.statements]
        own = self.names[key]
        if own != key[1]:
            text_lines = text.splitlines()
            row = next(
                i
                for i, line in enumerate(text_lines)
                if re.match(rf"(class |def )?{re.escape(key[1])}\b", line)
            )
            column = re.search(rf"\b{re.escape(key[1])}\b", text_lines[row])
            assert column is not None
            edits.append((row + 1, column.start(), row + 1, column.end(), own))
        return edited(text, edits)

    def _name(self, key: Key) -> str:
        for other, name in self.names.items():
            if other == key:
                return name
            if other not in self._replaced and self._statement(other) is self._statement(key):
                return key[1]
        return ""


def _through_module(names: Names, module: str, name: str) -> bool:
    """Whether a name stands for a module that is copied."""
    external = names.local.get(name) or module_of(module).imported.get(name)
    if external is None or not is_copied(external.module):
        return False
    if external.name is None:
        return True
    whole = f"{external.module}.{external.name}"
    return external.name not in module_of(external.module).defined and _is_module(whole)


def _span(node: ast.AST, new: str) -> Edit:
    return (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset, new)  # type: ignore[attr-defined]


def edited(text: str, edits: Iterable[Edit]) -> str:
    """A text with parts replaced, from the last to the first; columns count bytes, as in ``ast``.
    A line of which nothing is left is removed."""
    lines: list[str | None] = [*text.splitlines()]
    for first, begin, last, end, new in sorted(set(edits), reverse=True):
        head = str(lines[first - 1]).encode()[:begin].decode()
        tail = str(lines[last - 1]).encode()[end:].decode()
        whole = head + new + tail
        lines[first - 1] = whole if new or whole.strip() else None
        for row in range(first, last):
            lines[row] = None
    return "\n".join(line for line in lines if line is not None)


def import_lines(imports: Iterable[External]) -> str:
    """Import statements as isort orders them: the standard library, then others."""
    plain = sorted({e.statement for e in imports if e.name is None})
    grouped: dict[str, set[str]] = {}
    for e in imports:
        if e.name is not None:
            grouped.setdefault(e.module, set()).add(e.statement.partition(" import ")[2])
    lines = [*plain]
    for module, names in sorted(grouped.items()):
        line = f"from {module} import {', '.join(sorted(names))}"
        if len(line) > 100:
            line = f"from {module} import (\n    " + ",\n    ".join(sorted(names)) + ",\n)"
        lines.append(line)

    def is_standard(line: str) -> bool:
        return line.split()[1].split(".")[0] in sys.stdlib_module_names

    parts = [[x for x in lines if is_standard(x)], [x for x in lines if not is_standard(x)]]
    return "\n\n".join("\n".join(part) for part in parts if part)


def distributions(text: str) -> set[str]:
    """The distributions, by their names on PyPI, that a file imports."""
    tops: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            tops |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            tops.add(node.module.split(".")[0])
    known = packages_distributions()
    return {known[top][0] for top in tops if top not in sys.stdlib_module_names and top in known}
