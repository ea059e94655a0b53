"""A network as a picture: its layers from the input down, as one self-contained SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

WIDTH = 380  # pixels of the picture
BOX, LEFT = 250, 90  # width of a layer, and its distance from the left edge
LOW, HIGH = 18.0, 64.0  # heights of a layer without parameters and of the one with most
GAP, INDENT = 16, 12  # between layers, where a shape is written; between a block and what it holds
ARC = 26  # how far a shortcut reaches out of the column
SMALL = 11  # of text
MOST_ROWS = 120  # boxes; of a longer network, the middle is left out

# Fill by what a layer does; a class of it comes before the first word that its type holds.
_COLOURS = (
    ("norm", "#d9d2e9"),
    ("dropout", "#eeeeee"),
    ("droppath", "#eeeeee"),
    ("relu", "#fff2cc"),
    ("gelu", "#fff2cc"),
    ("silu", "#fff2cc"),
    ("identity", "#eeeeee"),
    ("pool", "#cfe2f3"),
    ("embedding", "#d0e0e3"),
    ("input", "#d0e0e3"),
    ("conv", "#f9cb9c"),
    ("lstm", "#ea9999"),
    ("mixer", "#ea9999"),
    ("attention", "#ea9999"),
    ("linear", "#b6d7a8"),
)
_OTHER = "#dddddd"
ON_LAYER, BESIDE = "#222222", "#333333"  # texts; a dark page shows those beside layers in its own

Layers = Sequence[Mapping[str, Any]]


def diagram(layers: Layers, title: str = "Network") -> str:
    """The SVG picture of a network.

    Args:
        layers: The rows of ``nas.training.cost.analyse`` or ``Run.layers``, in the order of
            execution: ``name``, ``type``, ``output`` (shape without the batch), ``params`` and,
            where a shortcut ends, ``skips``: the places of the rows that it comes from (-1: the
            input).
        title: What a screen reader says first.

    Returns:
        An ``<svg>`` element as text. It refers to nothing outside itself, holds neither styles nor
        scripts, and every name in it is escaped. Equal blocks that follow each other are drawn once
        and counted (×N); a box is as high as the square root of its fraction of the parameters;
        shapes are written between boxes where they change; shortcuts are arcs at the left.

    >>> rows = [{"name": "head", "type": "Linear", "output": [10], "params": 650}]
    >>> diagram(rows).startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    True
    """
    rows = [_Row(place, row) for place, row in enumerate(layers)]
    drawing = _Drawing(max((row.params for row in rows), default=0))
    tree = _nested([row for row in rows if row.shown], 0)
    drawing.items(_shortened(_folded(tree)), LEFT, BOX)
    drawing.shortcuts(rows)
    about = f"{len(rows)} layers, {sum(row.params for row in rows):,} parameters."
    height = math.ceil(drawing.y + GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
        f' height="{height}" role="img" font-family="system-ui, sans-serif" font-size="{SMALL}">'
        f"<title>{escape(title)}</title><desc>{escape(about)}</desc>"
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>{"".join(drawing.parts)}</svg>'
    )


class _Row:
    """One layer, with its place in the order of execution."""

    def __init__(self, place: int, row: Mapping[str, Any]) -> None:
        self.place, self.type = place, str(row["type"]).lstrip("_")
        self.path = str(row["name"]).split(".")
        self.output = tuple(row.get("output") or ())
        self.params = int(row.get("params") or 0)
        self.skips = tuple(row.get("skips") or ())
        # Parameters that no layer owns come last, under the name of the module that does; and a
        # module that does nothing is no step.
        nothing = self.type in ("Identity", "Sequential")
        self.shown = bool(self.output) and not nothing

    @property
    def shape(self) -> str:
        return " × ".join(map(str, self.output))


@dataclass
class _Block:
    """Consecutive rows of one module, and how often equal ones follow each other."""

    name: str
    items: list[_Row | _Block] = field(default_factory=list)
    times: int = 1
    last: str = ""  # the name of the last of the equal ones
    hidden: list[_Row] = field(default_factory=list)  # rows of those that are not drawn

    def rows(self) -> Iterator[_Row]:
        for item in self.items:
            if isinstance(item, _Block):
                yield from item.rows()
            else:
                yield item

    def signature(self, depth: int) -> tuple[Any, ...]:
        """What equal blocks have in common; ``depth`` parts of a path come before their own."""
        rows = list(self.rows())
        outputs = {row.output for row in rows[:1]} | {row.output for row in rows[-1:]}
        described = ((row.type, tuple(row.path[depth:]), row.params, row.output) for row in rows)
        return (*described, len(outputs))


def _nested(rows: Sequence[_Row], depth: int) -> list[_Row | _Block]:
    """Rows grouped by the part of their paths at ``depth``; only numbered modules and those that
    hold several rows become blocks."""
    items: list[_Row | _Block] = []
    for row in rows:
        if len(row.path) <= depth + 1:
            items.append(row)
            continue
        name = row.path[depth]
        block = items[-1] if items else None
        if not isinstance(block, _Block) or block.name != name:
            block = _Block(name)
            items.append(block)
        block.items.append(row)
    result: list[_Row | _Block] = []
    for item in items:
        if isinstance(item, _Block):
            inner = _nested([row for row in item.items if isinstance(row, _Row)], depth + 1)
            if len(inner) == 1 and not item.name.isdigit():
                result += inner  # a box around a single box says nothing
                continue
            item.items = inner
        result.append(item)
    return result


def _folded(items: list[_Row | _Block], depth: int = 0) -> list[_Row | _Block]:
    """Equal numbered blocks that follow each other as one."""
    result: list[_Row | _Block] = []
    for item in items:
        if isinstance(item, _Block):
            item.items = _folded(item.items, depth + 1)
            before = result[-1] if result else None
            if (
                isinstance(before, _Block)
                and item.name.isdigit()
                and before.name.isdigit()
                and before.signature(depth + 1) == item.signature(depth + 1)
            ):
                before.times += 1
                before.last = item.name
                before.hidden += [*item.rows(), *item.hidden]
                continue
        result.append(item)
    return result


def _shortened(items: list[_Row | _Block]) -> list[_Row | _Block]:
    """The first and the last boxes of a network that has too many for a picture."""

    def size(item: _Row | _Block) -> int:
        return sum(1 for _ in item.rows()) if isinstance(item, _Block) else 1

    if sum(map(size, items)) <= MOST_ROWS:
        return items
    if len(items) == 1 and isinstance(items[0], _Block):
        items[0].items = _shortened(items[0].items)
        return items
    first, last, budget = 0, len(items), MOST_ROWS
    while first < last:
        budget -= size(items[first]) + size(items[last - 1])
        if budget < 0:
            break
        first, last = first + 1, last - 1
    omitted = _Block("…")
    omitted.times = sum(map(size, items[first:last]))
    return [*items[:first], omitted, *items[last:]] if omitted.times else items


class _Drawing:
    """Boxes from top to bottom; ``y`` is where the next one begins."""

    def __init__(self, most: int) -> None:
        self.parts: list[str] = []
        self.y, self.most = float(GAP), max(most, 1)
        self.shape = ""
        self.centre: dict[int, float] = {}  # of the box of each row that is drawn
        self.edges: dict[int, tuple[float, float]] = {}  # its top and its bottom

    def items(self, items: Sequence[_Row | _Block], x: float, width: float) -> None:
        for item in items:
            if isinstance(item, _Row):
                self.layer(item, x, width)
            elif item.name == "…":
                self.text(x + width / 2, self.y + SMALL, f"… {item.times} more layers …", "middle")
                self.y += LOW + GAP
            else:
                self.block(item, x, width)

    def layer(self, row: _Row, x: float, width: float) -> None:
        high = LOW + (HIGH - LOW) * math.sqrt(row.params / self.most)
        top = self.y
        self.parts.append(
            f'<rect class="net-layer" data-layer="{escape(".".join(row.path))}" x="{x:g}"'
            f' y="{top:.1f}" width="{width:g}" height="{high:.1f}" rx="3"'
            f' fill="{_colour(row.type)}" stroke="#888888" stroke-width="0.7"/>'
        )
        middle = top + high / 2 + SMALL * 0.35
        self.text(x + 8, middle, row.type, fill=ON_LAYER)
        if row.params:
            self.text(x + width - 8, middle, f"{row.params:,}", "end", ON_LAYER)
        self.edges[row.place] = (top, top + high)
        self.y = top + high + GAP
        if row.shape and row.shape != self.shape:
            self.text(x + width / 2, top + high + SMALL + 1, row.shape, "middle", "#555555")
            self.shape = row.shape

    def block(self, block: _Block, x: float, width: float) -> None:
        top = self.y
        place = len(self.parts)
        name = f"{block.name}–{block.last}" if block.times > 1 else block.name
        self.y = top + SMALL + 8
        self.text(x + 6, top + SMALL + 2, f"block {name}" if block.name.isdigit() else name)
        if block.times > 1:
            right = x + width - 6
            self.text(right, top + SMALL + 2, f"× {block.times}", "end", weight="bold")
        inset = min(INDENT, width / 12)
        self.items(block.items, x + inset, width - 2 * inset)
        frame = (
            f'<rect class="net-block" x="{x:g}" y="{top:.1f}" width="{width:g}"'
            f' height="{self.y - top:.1f}" rx="6" fill="none" stroke="#aaaaaa"'
            ' stroke-dasharray="4 3"/>'
        )
        self.parts.insert(place, frame)
        self.y += GAP

    def text(
        self,
        x: float,
        y: float,
        text: str,
        anchor: str = "start",
        fill: str = BESIDE,
        weight: str = "normal",
    ) -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"'
            f' font-weight="{weight}">{escape(text)}</text>'
        )

    def shortcuts(self, rows: Sequence[_Row]) -> None:
        """An arc from below the layer that a shortcut leaves to below the one where it ends."""
        lanes: list[tuple[float, float]] = []
        for row in rows:
            for source in row.skips:
                if row.place not in self.edges or (source >= 0 and source not in self.edges):
                    continue  # of a block that is drawn once for several
                begin = self.edges[source][1] + 2 if source >= 0 else GAP / 2
                end = self.edges[row.place][1] + 2
                within = sum(
                    1 for a, b in lanes if a < end and begin < b and (a, b) != (begin, end)
                )
                lanes.append((begin, end))
                reach = LEFT - ARC - 8 * min(within, 5)
                self.parts.append(
                    f'<path class="net-shortcut" d="M {LEFT:g} {begin:.1f} C {reach:g} {begin:.1f},'
                    f' {reach:g} {end:.1f}, {LEFT:g} {end:.1f}" fill="none" stroke="#3d85c6"'
                    ' stroke-width="1.4"/>'
                    f'<circle cx="{LEFT:g}" cy="{end:.1f}" r="2.5" fill="#3d85c6"/>'
                )


def _colour(kind: str) -> str:
    lower = kind.lower()
    return next((colour for word, colour in _COLOURS if word in lower), _OTHER)
