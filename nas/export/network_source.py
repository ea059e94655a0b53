"""The code of one network as a file that imports torch alone: its classes, with its sizes.

A network is built once more while its constructors are watched. What each was given becomes the
call that builds it again; what was not executed is left out: branches of constructors, and
branches of ``forward`` that depend on the network's attributes alone. So of a normalisation that
may be any of five kinds one line stays. That the result is the same network is checked by whoever
writes it: on the names and shapes of its weights, and on predictions.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from nas.export.source import Bundle, Key, import_lines, is_copied, module_of
from nas.models.meta import without_values
from nas.task import InputError

LINE = 100  # characters
# What a test may hold that is evaluated for what is always so.
_PURE = (
    ast.Name, ast.Attribute, ast.Constant, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp,
    ast.Load, ast.And, ast.Or, ast.Not, ast.Tuple, ast.Subscript, ast.cmpop, ast.operator,
    ast.unaryop,
)  # fmt: skip
_BASE = "class JsonRecord:\n    pass"


def network_source(build: Callable[[], nn.Module], network: nn.Module, inputs: dict[str, Tensor],
                   namespace: str) -> str:  # fmt: skip
    """The file: definitions, and ``build()``, which makes the network without its weights.

    Args:
        build: Makes the network.
        network: One that it has made, in eval mode.
        inputs: Of a batch that it is run on, to see which functions a prediction needs.
        namespace: Of operators that the code registers.

    Raises:
        InputError: A constructor was given what cannot be written down.
    """
    seen = _Watch()
    with without_values():
        made = seen.during(build)
    running = _Watch()
    with torch.inference_mode():
        running.during(lambda: network(**inputs))
    writer = _Writer(seen.calls)
    call = writer.value(made)
    pruning = _Pruning(seen, running, made)
    replaced = {("nas.task", "JsonRecord"): _BASE}
    while True:  # methods that a method calls, which is called itself
        bundle = Bundle(writer.roots, pruning.shortened, replaced, ("build",))
        if bundle.attributes <= pruning.attributes:
            break
        pruning.attributes |= bundle.attributes
    imports = bundle.imports()
    text = import_lines(imports)
    body = bundle.body()
    function = f"def build() -> {_return_type(bundle, made)}:\n" + _indented(
        '"""The network, with weights as they are before training."""\nreturn '
        + writer.shown(call, bundle.names)
    )
    whole = f"from __future__ import annotations\n\n{text}\n\n\n{body}\n\n{function}\n"
    whole = whole.replace('"nas::', f'"{namespace}::')
    return re.sub(r"\btorch\.ops\.nas\b", f"torch.ops.{namespace}", whole)


def _return_type(bundle: Bundle, network: nn.Module) -> str:
    kind = type(network)
    return bundle.names.get((kind.__module__, kind.__qualname__), "nn.Module")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else line for line in text.splitlines())


# -- what happens while a network is built ---------------------------------------------------------


class _Watch:
    """Executed lines and functions of code that may be copied, what tests came out as, and the
    arguments of every constructor."""

    def __init__(self) -> None:
        self.lines: set[tuple[str, int]] = set()
        self.called: set[tuple[str, str]] = set()  # module, qualified name
        self.truth: defaultdict[tuple[str, int, int], set[bool]] = defaultdict(set)
        self.calls: dict[int, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {}
        self._tests: dict[str, dict[int, list[ast.If | ast.IfExp]]] = {}

    def during(self, work: Callable[[], Any]) -> Any:
        """Run ``work`` under watch."""
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            return work()
        finally:
            sys.settrace(before)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if code.co_name == "__init__" and code.co_varnames:
            self._record(frame)
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("torch.") or module == "torch" or not is_copied(module):
            return None
        self.called.add((module, code.co_qualname))
        pending: list[ast.If] = []

        def line(frame: FrameType, event: str, arg: Any) -> Any:
            number = frame.f_lineno
            if pending and (event == "return" or number not in _rows(pending[0].test)):
                last = pending.pop()
                inside = event != "return" and number in _rows(*last.body)
                self.truth[module, last.lineno, last.col_offset].add(inside)
            if event == "line":
                self.lines.add((module, number))
                for test in self._tests_of(module).get(number, ()):
                    if isinstance(test, ast.If):
                        pending[:] = [test]
                    else:
                        found = _evaluated(test.test, frame.f_globals, frame.f_locals)
                        if found is not None:
                            self.truth[module, test.lineno, test.col_offset].add(found)
            return line

        return line

    def _tests_of(self, module: str) -> dict[int, list[ast.If | ast.IfExp]]:
        if module not in self._tests:
            found = self._tests[module] = {}
            for node in ast.walk(ast.parse("\n".join(module_of(module).lines))):
                if isinstance(node, ast.If):
                    found.setdefault(node.lineno, []).append(node)
                elif isinstance(node, ast.IfExp):
                    found.setdefault(node.test.lineno, []).append(node)
        return self._tests[module]

    def _record(self, frame: FrameType) -> None:
        """The arguments of the outermost constructor of an object."""
        code, values = frame.f_code, frame.f_locals
        names = code.co_varnames
        made = values.get(names[0])
        if not isinstance(made, nn.Module) or id(made) in self.calls:
            return
        count = code.co_argcount + code.co_kwonlyargcount
        plain = {name: values[name] for name in names[1:count] if name in values}
        rest: tuple[Any, ...] = ()
        if code.co_flags & inspect.CO_VARARGS:
            rest = tuple(values.get(names[count], ()))
            count += 1
        if code.co_flags & inspect.CO_VARKEYWORDS:
            plain |= values.get(names[count], {})
        self.calls[id(made)] = (made, rest, plain)


def _rows(*nodes: ast.AST) -> range:
    return range(nodes[0].lineno, nodes[-1].end_lineno + 1)  # type: ignore[attr-defined]


def _evaluated(test: ast.expr, names: Mapping[str, Any], local: Mapping[str, Any]) -> bool | None:
    """The truth of a test without side effects; None where it has some or does not evaluate."""
    for node in ast.walk(test):
        if isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Name) or node.func.id not in (
                "isinstance", "len", "any", "all", "max", "min", "bool",
            ):  # fmt: skip
                return None
        elif not isinstance(node, _PURE):
            return None
    try:
        code = compile(ast.Expression(test), "<test>", "eval")
        return bool(eval(code, dict(names), dict(local)))
    except Exception:  # a name that is not bound here, a tensor of several values
        return None


# -- what is left out ------------------------------------------------------------------------------


class _Pruning:
    """Which parts of a definition a network does without."""

    def __init__(self, built: _Watch, running: _Watch, network: nn.Module) -> None:
        self.built, self.running = built, running
        self.attributes = {"forward", "__init__"}  # that code which is kept names
        self.instances: defaultdict[Key, list[nn.Module]] = defaultdict(list)
        for module in network.modules():
            for kind in type(module).__mro__:
                self.instances[kind.__module__, kind.__qualname__].append(module)

    def shortened(self, key: Key, lines: Sequence[str], node: ast.stmt) -> list[str]:
        """The lines of a definition without methods that are not named in ``attributes`` and
        without branches that are never taken."""
        edit = _Edit(lines)
        if isinstance(node, ast.FunctionDef):
            self._function(edit, key[0], node, node.name, None)
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    if self._is_used(part, key):
                        self._function(edit, key[0], part, f"{key[1]}.{part.name}", key)
                    else:
                        edit.drop(part)
        return edit.text(node)

    def _is_used(self, method: ast.FunctionDef, key: Key) -> bool:
        if method.name == "__post_init__":
            return (key[0], f"{key[1]}.__post_init__") in self.built.called
        if method.name in ("extra_repr", "__getstate__"):
            return False
        dunder = method.name.startswith("__") and method.name != "__init__"
        return dunder or method.name in self.attributes or method.name in _HOOKS

    def _function(
        self, edit: _Edit, module: str, node: ast.FunctionDef, name: str, owner: Key | None
    ) -> None:
        built = (module, name) in self.built.called and (module, name) not in self.running.called

        def truth(test: ast.If | ast.IfExp) -> bool | None:
            if built:
                found = self.built.truth.get((module, test.lineno, test.col_offset), set())
            else:
                found = self._by_attributes(test.test, owner)
            return found.copy().pop() if len(found) == 1 else None

        executed = {row for of, row in self.built.lines if of == module} if built else None
        edit.function(node, truth, executed)

    def _by_attributes(self, test: ast.expr, owner: Key | None) -> set[bool]:
        """What a test of ``self`` alone comes out as, over all instances."""
        if owner is None or not self.instances[owner]:
            return set()
        attributes = {
            n.attr for n in ast.walk(test)
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
        }  # fmt: skip
        names = {n.id for n in ast.walk(test) if isinstance(n, ast.Name)}
        if names != {"self"} or attributes & {"training", *self._assigned(owner)}:
            return set()
        found = {_evaluated(test, {}, {"self": each}) for each in self.instances[owner]}
        return set() if None in found else {bool(each) for each in found}

    def _assigned(self, owner: Key) -> set[str]:
        """The attributes that change after the constructor."""
        (node, *_) = module_of(owner[0]).defined[owner[1]]
        assert isinstance(node, ast.ClassDef)
        return {
            part.attr
            for method in node.body
            if isinstance(method, ast.FunctionDef) and method.name != "__init__"
            for part in ast.walk(method)
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)
        }


# Methods that torch calls by itself.
_HOOKS = {"forward", "backward", "setup_context", "jvp", "vmap", "train"}
_Truth = Callable[["ast.If | ast.IfExp"], "bool | None"]


class _Edit:
    """The lines of a definition with statements removed or set one level out."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)
        self._dropped: set[ast.stmt] = set()
        self._functions: dict[ast.FunctionDef, tuple[_Truth, set[int] | None]] = {}

    def drop(self, node: ast.stmt) -> None:
        self._dropped.add(node)

    def function(self, node: ast.FunctionDef, truth: _Truth, executed: set[int] | None) -> None:
        self._functions[node] = (truth, executed)

    def text(self, node: ast.stmt) -> list[str]:
        assert node.end_lineno is not None
        if isinstance(node, ast.ClassDef):
            found = self.lines[node.lineno - 1 : node.body[0].lineno - 1]
            return found + self._class(node, self._head_end(node))
        if isinstance(node, ast.FunctionDef):
            return self._def(node)
        return self.lines[node.lineno - 1 : node.end_lineno]

    def _head_end(self, node: ast.ClassDef) -> int:
        return _begin(node.body[0]) - 1

    def _class(self, node: ast.ClassDef, after: int) -> list[str]:
        found: list[str] = []
        for part in node.body:
            first, last = _begin(part), part.end_lineno
            assert last is not None
            gap = self.lines[after : first - 1]
            after = last
            if part in self._dropped:
                continue
            if isinstance(part, ast.FunctionDef):
                text = [*self.lines[first - 1 : part.lineno - 1], *self._def(part)]
                if part.name == "__post_init__" and _is_empty(text):
                    continue
                found += gap + text
            else:
                found += gap + self.lines[first - 1 : last]
        return found or [f"{' ' * node.body[0].col_offset}pass"]

    def _def(self, node: ast.FunctionDef) -> list[str]:
        if node not in self._functions:
            return self.lines[node.lineno - 1 : node.end_lineno]
        truth, executed = self._functions[node]
        chosen = _Body(self.lines, node, truth, executed)
        body = chosen.block(node.body, node.body[0].lineno - 1)
        head = chosen.lines[node.lineno - 1 : node.body[0].lineno - 1]
        if not any(line.strip() for line in body):
            body = [f"{' ' * node.body[0].col_offset}pass"]
        return [line for line in [*head, *body] if line is not _GONE]


_GONE = "\0"
_SELF_ASSIGNED = re.compile(r"\s*(\w+) = \1\s*")  # what is left of a choice


def _begin(node: ast.stmt) -> int:
    decorated: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(d.lineno for d in decorated)])


def _is_empty(text: list[str]) -> bool:
    node = ast.parse("\n".join(["class _:", *text])).body[0]
    assert isinstance(node, ast.ClassDef)
    method = node.body[0]
    assert isinstance(method, ast.FunctionDef)
    return all(isinstance(s, (ast.Pass, ast.Expr)) for s in method.body)


class _Body:
    """The statements of one function that are executed; choices that always come out alike are
    replaced by what they choose."""

    def __init__(
        self,
        lines: Sequence[str],
        function: ast.FunctionDef,
        truth: _Truth,
        executed: set[int] | None,
    ) -> None:
        self.truth, self.executed = truth, executed
        self.lines = list(lines)
        for node in sorted(
            (n for n in ast.walk(function) if isinstance(n, ast.IfExp)),
            key=lambda n: (n.lineno, n.col_offset),
        ):
            self._choice(node, function)

    def _choice(self, node: ast.IfExp, function: ast.FunctionDef) -> None:
        """``a if test else b`` as the one that is always chosen; choices inside others stay."""
        chosen = self.truth(node)
        outer = (n for n in ast.walk(function) if isinstance(n, ast.IfExp) and n is not node)
        if chosen is None or any(node in ast.walk(n) for n in outer):
            return
        part = node.body if chosen else node.orelse
        assert node.end_lineno is not None
        assert part.end_lineno is not None
        if part.lineno != part.end_lineno:
            return
        row = self.lines[part.lineno - 1].encode()
        new = row[part.col_offset : part.end_col_offset].decode()
        first, last = node.lineno - 1, node.end_lineno - 1
        head = self.lines[first].encode()[: node.col_offset].decode()
        tail = self.lines[last].encode()[node.end_col_offset :].decode()
        if head.endswith("(") and tail.startswith(")("):  # (a if test else b)(…)
            head, tail = head[:-1], tail[1:]
        if len(head + new + tail) > LINE or (first != last and len(self.lines) == 0):
            return
        # Columns of other choices on the same line are those of the text as it was: one a line.
        if getattr(self, "_touched", None) is None:
            self._touched: set[int] = set()
        if self._touched & set(range(first, last + 1)):
            return
        self._touched |= set(range(first, last + 1))
        self.lines[first] = head + new + tail
        for gone in range(first + 1, last + 1):
            self.lines[gone] = _GONE

    def _is_live(self, node: ast.stmt) -> bool:
        if self.executed is None or isinstance(node, (ast.Pass, ast.Global, ast.Nonlocal)):
            return True
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return True
        if isinstance(node, ast.AnnAssign) and node.value is None:
            return True
        return any(row in self.executed for row in _rows(node))

    def block(self, statements: Sequence[ast.stmt], after: int, out: int = 0) -> list[str]:
        """The lines of statements, ``out`` columns further left; ``after`` is the last line before
        them."""
        found: list[str] = []
        for node in statements:
            first, last = _begin(node), node.end_lineno
            assert last is not None
            gap = self.lines[after : first - 1]
            after = last
            if not self._is_live(node):
                continue
            text = self._statement(node, out)
            if text and not _SELF_ASSIGNED.fullmatch("\n".join(text)):
                found += [_moved(line, out) for line in gap] + text
            if self._leaves(node):
                break
        return found

    def _leaves(self, node: ast.stmt) -> bool:
        """Whether nothing after a statement is reached."""
        if isinstance(node, (ast.Return, ast.Raise)):
            return True
        if not isinstance(node, ast.If) or (chosen := self.truth(node)) is None:
            return False
        own = node.body if chosen else node.orelse
        return bool(own) and self._leaves(own[-1])

    def _statement(self, node: ast.stmt, out: int) -> list[str]:
        assert node.end_lineno is not None
        own = getattr(node, "body", None)
        one_line = isinstance(own, list) and own and own[0].lineno == node.lineno
        if isinstance(node, ast.If) and not one_line:
            return self._if(node, "if", out)
        if isinstance(node, ast.Match) and self.executed is not None:
            live = [c for c in node.cases if self._is_live(c.body[0])]
            if len(live) == 1 and not any(
                isinstance(n, (ast.MatchAs, ast.MatchStar)) and n.name
                for n in ast.walk(live[0].pattern)
            ):
                inner = live[0].body
                step = inner[0].col_offset - node.col_offset
                return self.block(inner, _begin(inner[0]) - 1, out + step)
        if (
            isinstance(node, (ast.For, ast.With, ast.While))
            and not one_line
            and not (getattr(node, "orelse", None))
        ):
            start = _begin(node.body[0]) - 1
            head = [_moved(x, out) for x in self.lines[node.lineno - 1 : start]]
            body = self.block(node.body, start, out)
            return [*head, *body] if body else []
        return [_moved(x, out) for x in self.lines[_begin(node) - 1 : node.end_lineno]]

    def _if(self, node: ast.If, keyword: str, out: int) -> list[str]:
        chosen = self.truth(node)
        if self.executed is not None and chosen is None and not self._is_live(node.body[0]):
            chosen = False
        start = _begin(node.body[0]) - 1
        step = node.body[0].col_offset - node.col_offset
        margin = " " * (node.col_offset - out)
        if chosen is True:
            if keyword == "if":
                return self.block(node.body, start, out + step)
            return [f"{margin}else:", *self.block(node.body, start, out)]
        if chosen is False:
            return self._otherwise(node, keyword, out)
        head = [_moved(x, out) for x in self.lines[node.lineno - 1 : start]]
        head[0] = re.sub(r"^(\s*)(el)?if\b", rf"\1{keyword}", head[0])
        body = self.block(node.body, start, out) or [f"{margin}    pass"]
        return [*head, *body, *self._otherwise(node, "elif", out)]

    def _otherwise(self, node: ast.If, keyword: str, out: int) -> list[str]:
        if not node.orelse:
            return []
        first = node.orelse[0]
        if (
            len(node.orelse) == 1
            and isinstance(first, ast.If)
            and (first.col_offset == node.col_offset)
        ):
            return self._if(first, keyword, out)
        after = first.lineno - 1
        step = first.col_offset - node.col_offset
        if keyword == "if":
            return self.block(node.orelse, after, out + step)
        body = self.block(node.orelse, after, out)
        return [f"{' ' * (node.col_offset - out)}else:", *body] if body else []


def _moved(line: str, out: int) -> str:
    return line[out:] if line[:out].strip() == "" else line.lstrip()


# -- the call that builds it -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Call:
    """A call of what ``key`` names (a definition to copy), or of a class of torch."""

    key: Key | None
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Name:
    key: Key


class _Writer:
    """Values as the code that makes them."""

    def __init__(self, calls: Mapping[int, tuple[Any, tuple[Any, ...], dict[str, Any]]]) -> None:
        self.calls = calls
        self.roots: list[Key] = []

    def value(self, value: Any) -> Any:
        """Constants as they are; objects as ``_Call``."""
        if isinstance(value, nn.Module):
            if id(value) not in self.calls:
                raise InputError(f"a {type(value).__name__} of the network was made elsewhere")
            _, args, kwargs = self.calls[id(value)]
            return self._call(type(value), args, kwargs)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = (f for f in dataclasses.fields(value) if f.init)
            return self._call(type(value), (), {f.name: getattr(value, f.name) for f in fields})
        if isinstance(value, Mapping):
            return {key: self.value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(map(self.value, value))
        if isinstance(value, (type, type(_indented))) and is_copied(value.__module__):
            self.roots.append((value.__module__, value.__qualname__))
            return _Name(self.roots[-1])
        if isinstance(value, (bool, int, float, str, type(None))):
            return value
        if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a number of NumPy
            return value.item()
        raise InputError(
            f"a constructor was given a {type(value).__name__}, which cannot be written as code;"
            " give it numbers, texts, lists and modules"
        )

    def _call(self, kind: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Call:
        parameters = inspect.signature(kind).parameters
        defaults = {name: p.default for name, p in parameters.items()}
        given = {}
        for name, item in kwargs.items():
            default = defaults.get(name, inspect.Parameter.empty)
            if default is not inspect.Parameter.empty and _equal(item, default):
                continue
            given[name] = self.value(item)
        key = None
        name = f"nn.{kind.__name__}" if hasattr(nn, kind.__name__) else kind.__name__
        if is_copied(kind.__module__):
            key = (kind.__module__, kind.__qualname__)
            if key not in self.roots:
                self.roots.append(key)
        return _Call(key, name, tuple(map(self.value, args)), given)

    def shown(self, value: Any, names: Mapping[Key, str], column: int = 11) -> str:
        """The code of ``value``, on several lines where it is longer than one."""
        short = _plain(value, names)
        if column + len(short) <= LINE:
            return short
        inner = column + 4 if column > 11 else 8
        if isinstance(value, _Call):
            items = [(f"{k}=", v) for k, v in value.kwargs.items()]
            items = [("", v) for v in value.args] + items
            ends = (f"{names[value.key] if value.key else value.name}(", ")")
        elif isinstance(value, dict):
            items, ends = [(f"{_plain(k, names)}: ", v) for k, v in value.items()], ("{", "}")
        elif isinstance(value, (list, tuple)):
            items = [("", v) for v in value]
            ends = ("[", "]") if isinstance(value, list) else ("(", ")")
            if all(isinstance(v, (int, float)) for v in value):
                return _wrapped([_plain(v, names) for v in value], ends)
        else:
            return short
        body = "".join(
            "\n".join(
                f"    {line}" for line in f"{k}{self.shown(v, names, inner + len(k))},".splitlines()
            )
            + "\n"
            for k, v in items
        )
        return f"{ends[0]}\n{body}{ends[1]}"


def _wrapped(items: Iterable[str], ends: tuple[str, str]) -> str:
    """Numbers side by side on as many lines as they need."""
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > LINE - 24:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return "\n".join([ends[0], *lines, line, ends[1]])


def _plain(value: Any, names: Mapping[Key, str]) -> str:
    if isinstance(value, _Name):
        return names[value.key]
    if isinstance(value, _Call):
        args = [_plain(v, names) for v in value.args]
        args += [f"{k}={_plain(v, names)}" for k, v in value.kwargs.items()]
        return f"{names[value.key] if value.key else value.name}({', '.join(args)})"
    if isinstance(value, dict):
        items = (f"{_plain(k, names)}: {_plain(v, names)}" for k, v in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, tuple):
        inner = ", ".join(_plain(v, names) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, list):
        return "[" + ", ".join(_plain(v, names) for v in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, str):
        return literal(value)
    return repr(value)


def literal(text: str, quotes: str = '"') -> str:
    """The code of a text: as it is between ``quotes`` where nothing in it needs an escape, else as
    ``repr`` writes it."""
    code = repr(str(text))
    return f"{quotes}{text}{quotes}" if code[1:-1] == text and '"' not in text else code


def _equal(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # tensors and arrays
        return False
