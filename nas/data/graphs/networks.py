"""Graphs of networkx, by the attributes of their nodes and edges."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from nas.task import UsageError

TARGETS = ("y", "label", "target")


def is_network(x: Any) -> bool:
    """Whether an object is a graph of networkx, which is not imported here."""
    return hasattr(x, "is_directed") and hasattr(x, "nodes") and hasattr(x, "adj")


def network_object(network: Any, target: list[str] | None) -> SimpleNamespace:
    """A graph with ``edge_index`` (2, E), in both directions where it has none; ``x`` (N, f) and
    ``edge_attr`` (E, k), the attributes that are numbers, NaN where a node or an edge lacks one;
    and ``y``, the attribute that ``target`` names, or y, label or target: of the graph where it
    has it, else (N,) of the nodes, None where one lacks it.

    Raises UsageError where an attribute is no number, or ``target`` is nowhere.
    """
    names = target if target is not None else list(TARGETS)
    nodes = [attributes for _, attributes in network.nodes(data=True)]
    of_graph = next((name for name in names if name in network.graph), None)
    of_nodes = next((name for name in names if any(name in found for found in nodes)), None)
    if target is not None and of_graph is None and of_nodes is None:
        known = sorted({str(name) for found in (network.graph, *nodes) for name in found})
        raise UsageError(
            f"the graph has no attribute {target[0]!r}; its nodes and it have"
            f" {', '.join(known) or 'none'}"
        )
    number = {node: i for i, node in enumerate(network)}
    ends, attributes = [], []
    for first, second, found in network.edges(data=True):
        ends.append((number[first], number[second]))
        attributes.append(found)
        if not network.is_directed() and first != second:
            ends.append((number[second], number[first]))
            attributes.append(found)
    labels = None
    if of_graph is not None:
        labels = np.array([network.graph[of_graph]])
    elif of_nodes is not None:
        values = [found.get(of_nodes) for found in nodes]
        labels = np.array(values, dtype=object if None in values else None)
    return SimpleNamespace(
        edge_index=np.array(ends, np.int64).reshape(-1, 2).T,
        x=_numbers(nodes, "node", {of_nodes, *TARGETS}),
        edge_attr=_numbers(attributes, "edge", set()),
        y=labels,
        num_nodes=len(nodes),
    )


def _numbers(rows: list[dict[str, Any]], of: str, but: set[str | None]) -> np.ndarray | None:
    """The attributes as columns in alphabetic order, None where there is not one."""
    names = sorted({str(name) for row in rows for name in row} - {str(name) for name in but})
    if not names:
        return None
    try:
        return np.array([[float(row.get(name, np.nan)) for name in names] for row in rows])
    except (TypeError, ValueError):
        wrong = next(name for name in names if not all(_is_number(row.get(name)) for row in rows))
        raise UsageError(
            f"the {of} attribute {wrong!r} is not a number everywhere; delete it, or write"
            " nodes.csv and edges.csv into a folder, where names are read too"
        ) from None


def _is_number(value: Any) -> bool:
    try:
        float(np.nan if value is None else value)
    except (TypeError, ValueError):
        return False
    return True
