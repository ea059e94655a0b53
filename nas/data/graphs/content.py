"""Graphs in one form, whatever their source: nodes, edges and the features of both."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from nas.data.precision import narrowed
from nas.data.samples import to_numpy
from nas.task import Column, InputError

MOST_CODES = 20  # distinct whole numbers of a column that are categories rather than amounts
EDGE = "edges."  # before the names of the edges' features
WIDE = 64  # features from which on a table may hold the words of documents


@dataclass(frozen=True)
class Features:
    """The features of ``n`` nodes or edges: ``numbers`` (n, p), NaN where missing, of float32 or,
    where that would merge values, float64; their columns are called ``names`` if the source names
    them; and ``tags``, categorical columns.

    ``whole`` lists the columns of numbers that may be categories. The training data decides, as a
    few new graphs may hold too few of the values.
    """

    numbers: np.ndarray
    tags: dict[str, pd.Series] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    whole: tuple[int, ...] = ()

    @property
    def empty(self) -> bool:
        return not self.numbers.shape[1] and not self.tags

    @property
    def number_names(self) -> tuple[str, ...]:
        """The names of the numbers; feature0, feature1, … where the source has none."""
        return self.names or tuple(f"feature{i}" for i in range(self.numbers.shape[1]))

    def without(self, ignored: Collection[str]) -> Features:
        """Without the columns of these names."""
        kept = [i for i, name in enumerate(self.number_names) if name not in ignored]
        return Features(
            self.numbers[:, kept],
            {name: tag for name, tag in self.tags.items() if name not in ignored},
            tuple(self.number_names[i] for i in kept) if self.names else (),
            tuple(kept.index(i) for i in self.whole if i in kept),
        )

    def settled(self, columns: Sequence[Column] | None = None) -> Features:
        """The features with each column of ``whole`` decided: it is categorical where ``columns``,
        those of the training data, say so; without them, where it has few distinct values."""
        known = None if columns is None else {c.name for c in columns if c.kind == "categorical"}
        names = self.number_names

        def is_category(i: int) -> bool:
            if known is not None:
                return names[i] in known
            missing = np.isnan(self.numbers[:, i])
            distinct = len(np.unique(self.numbers[~missing, i]))
            flag = distinct == 1 and bool(missing.any())  # of one value or none
            return flag or 2 < distinct <= MOST_CODES

        tags = [i for i in self.whole if is_category(i)]
        kept = [i for i in range(len(names)) if i not in tags]
        return Features(
            self.numbers[:, kept],
            self.tags | {names[i]: pd.Series(self.numbers[:, i]) for i in tags},
            tuple(names[i] for i in kept) if self.names else (),
        )


@dataclass(frozen=True)
class Graphs:
    """Graphs end to end. ``edges`` (E, 2) number the nodes within each graph, from source to
    target; graph i has the nodes ``node_ptr[i]:node_ptr[i + 1]``, and its edges likewise.
    Where nodes are the samples there is one graph, and ``rows`` are their numbers."""

    nodes: Features
    edges: np.ndarray
    edge_features: Features
    node_ptr: np.ndarray
    edge_ptr: np.ndarray
    rows: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features of the nodes, and those of the edges after "edges."."""
        of_edges = (*self.edge_features.number_names, *self.edge_features.tags)
        named = (f"{EDGE}{name}" for name in of_edges)
        return (*self.nodes.number_names, *self.nodes.tags, *named)

    def without(self, ignored: Collection[str]) -> Graphs:
        """Without the features of these names, see ``feature_names``."""
        of_edges = {name.removeprefix(EDGE) for name in ignored if name.startswith(EDGE)}
        nodes, edge_features = self.nodes.without(ignored), self.edge_features.without(of_edges)
        return replace(self, nodes=nodes, edge_features=edge_features)

    def __len__(self) -> int:
        return len(self.node_ptr) - 1 if self.rows is None else len(self.rows)


def checked_graphs(
    nodes: Features,
    edges: np.ndarray,
    edge_features: Features,
    node_ptr: np.ndarray,
    edge_ptr: np.ndarray,
    where: str,
    notes: Sequence[str] = (),
) -> Graphs:
    """``Graphs`` of pieces that fit together. Raises InputError that says where they do not."""
    edges = edges.reshape(-1, 2).astype(np.int64)
    for what, ptr, total in (
        ("node", node_ptr, len(nodes.numbers)),
        ("edge", edge_ptr, len(edges)),
    ):
        if ptr[0] != 0 or (np.diff(ptr) < 0).any() or ptr[-1] != total:
            raise InputError(
                f"{where}: {what}_ptr must rise from 0 to the {total} {what}s, but it goes from"
                f" {ptr[0]} to {ptr[-1]}"
            )
    if len(node_ptr) != len(edge_ptr):
        raise InputError(
            f"{where}: {len(node_ptr) - 1} graphs of nodes, but {len(edge_ptr) - 1} of edges"
        )
    if len(edge_features.numbers) != len(edges):
        raise InputError(
            f"{where}: {len(edges)} edges, but features of {len(edge_features.numbers)}"
        )
    sizes = np.diff(node_ptr)
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        raise InputError(
            f"{where}: {len(empty)} graphs have no node, first graph {empty[0]} (counted from 0);"
            " drop them"
        )
    graph = np.repeat(np.arange(len(sizes)), np.diff(edge_ptr))
    wrong = np.flatnonzero(((edges < 0) | (edges >= sizes[graph][:, None])).any(axis=1))
    if len(wrong):
        i = wrong[0]
        raise InputError(
            f"{where}: edge {i} joins the nodes {edges[i, 0]} and {edges[i, 1]}, but graph"
            f" {graph[i]} has the nodes 0 to {sizes[graph[i]] - 1} ({len(wrong)} such edges)"
        )
    if np.isinf(nodes.numbers).any() or np.isinf(edge_features.numbers).any():
        raise InputError(f"{where}: features are infinite; drop or correct them")
    return Graphs(
        nodes,
        edges,
        edge_features,
        node_ptr.astype(np.int64),
        edge_ptr.astype(np.int64),
        notes=tuple(notes),
    )


def array_features(total: int, tags: Any, values: Any, where: str) -> Features:
    """Features of ``total`` nodes or edges, of ``values`` (total, p), which are numbers, and
    ``tags`` (total, q), which are categories; either may be None or one-dimensional.

    Columns of integers among the values may be categories, see ``Features.whole``. Raises
    InputError for other shapes and types.
    """
    found: dict[str, pd.Series] = {}
    measured = np.zeros((total, 0), np.float32)
    whole: tuple[int, ...] = ()
    for name, given in (("tag", tags), ("feature", values)):
        if given is None:
            continue
        array = to_numpy(given)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or len(array) != total or array.dtype.kind not in "biuf":
            raise InputError(
                f"{where}: expected {total} rows of numbers, but got {array.dtype} of the shape"
                f" {array.shape}"
            )
        if name == "tag":
            found = {f"tag{i}": pd.Series(array[:, i]) for i in range(array.shape[1])}
            continue
        measured = narrowed(array)
        if array.dtype.kind in "iu" and array.shape[1] <= WIDE:
            whole = tuple(i for i in range(array.shape[1]) if is_exact(array[:, i]))
    return Features(measured, found, whole=whole)


def is_exact(column: np.ndarray) -> bool:
    """Whether float32 keeps all of these whole numbers apart."""
    return bool(np.abs(column).max(initial=0) < 2**24)


def take_features(features: Features, rows: np.ndarray) -> Features:
    tags = {name: tag.iloc[rows] for name, tag in features.tags.items()}
    return replace(features, numbers=features.numbers[rows], tags=tags)
