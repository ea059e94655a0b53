"""Graphs of tables: nodes.csv and edges.csv, and graphs.csv where there are many."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data.columns import ColumnValues
from nas.data.csv_files import read_texts
from nas.data.graphs.content import WIDE, Features, checked_graphs, is_exact, take_features
from nas.data.graphs.labels import given_parts, is_parts, labelled_nodes, named_targets
from nas.data.precision import narrowed
from nas.data.samples import Samples
from nas.data.tables import CSV, SUFFIXES, read_table
from nas.task import InputError, UsageError

TARGETS = ("target", "label", "y")
# Between the name of a graph and the id of a node. Not NUL: NumPy drops it at the end of a text.
_BETWEEN = "\x1f"
_GRAPH = ("graph", "graph_id")


def table_file(folder: Path, name: str) -> Path | None:
    return next((f for suffix in SUFFIXES if (f := folder / f"{name}{suffix}").is_file()), None)


def from_tables(
    folder: Path, target: list[str] | None, predict: bool, written: Collection[str]
) -> Samples:
    """The graphs of a folder's tables; the columns ``written`` are labels, kept as they are."""
    node_file, edge_file = table_file(folder, "nodes"), table_file(folder, "edges")
    assert node_file is not None
    assert edge_file is not None
    nodes, edges = read_table(node_file, as_written=written), read_table(edge_file)
    by = _find(nodes, _GRAPH)
    identity = _column(nodes, ("id", "node_id", "node"), node_file)
    ends = [
        _column(edges, ("source", "src", "from"), edge_file),
        _column(edges, ("target", "dst", "to"), edge_file),
    ]
    ids = nodes[identity], *(edges[end] for end in ends)
    if len({pd.api.types.is_numeric_dtype(column) for column in ids}) > 1:
        # Of 01 and A1 in one file and 01 alone in the other, that is no 1.
        for file, frame, which in ((node_file, nodes, [identity]), (edge_file, edges, ends)):
            if file.name.endswith(CSV):
                frame[which] = read_texts(file, which)
    graph_file = table_file(folder, "graphs")
    names: np.ndarray = np.zeros(0)
    if by is not None:  # the nodes of a graph together, the graphs in the order of their first
        codes, found_names = pd.factorize(nodes[by].map(_text), use_na_sentinel=False)
        names = np.asarray(found_names)
        order = np.argsort(codes, kind="stable")
        nodes, codes = nodes.iloc[order].reset_index(drop=True), codes[order]
    else:
        codes = np.zeros(len(nodes), int)
    node_ptr = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=max(len(names), 1)))])
    pairs = _ends(nodes[identity], nodes[by] if by else None, edges, ends, (node_file, edge_file))
    split = "split" if "split" in nodes else None
    reserved = [c for c in (identity, by, split) if c]
    of_edges = edges.drop(columns=[*ends, *([g] if (g := _find(edges, _GRAPH)) else [])])
    rest = nodes.drop(columns=reserved)
    columns = nodes.drop(columns=[identity])

    # Whose labels are they?
    per_graph: pd.DataFrame | None = None
    if graph_file is not None:
        per_graph = _graph_table(graph_file, names, written)
        target = target or ([] if predict else _target(per_graph, graph_file))
    else:
        candidates = [c for c in rest if not is_parts(rest[c])]
        target = target or ([] if predict else _target(nodes[candidates], node_file))
        named_targets(nodes, target, str(node_file))
        if by is not None:
            checked = nodes[target or [c for c in TARGETS if c in nodes]]
            if (checked.groupby(codes).nunique(dropna=False) <= 1).all(axis=None):
                first = np.asarray(node_ptr[:-1], int)
                per_graph = nodes.iloc[first].reset_index(drop=True)
    features = rest.drop(columns=[c for c in rest if c in target or is_parts(rest[c])])
    found = _frame_features(features)
    of = _frame_features(of_edges)
    if per_graph is None:  # nodes are the samples, of all graphs as one
        order = np.arange(len(pairs))
        ptrs = np.array([0, len(nodes)]), np.array([0, len(pairs)])
    else:
        order = np.argsort(codes[pairs[:, 0]], kind="stable")
        counts = np.bincount(codes[pairs[:, 0]], minlength=len(names))
        ptrs = node_ptr, np.concatenate([[0], np.cumsum(counts)])
        pairs = pairs - node_ptr[codes[pairs[:, 0]]][:, None]
    graphs = checked_graphs(found, pairs[order], take_features(of, order), *ptrs, where=str(folder))
    if per_graph is None:
        given = given_parts(nodes, str(node_file))
        return labelled_nodes(graphs, nodes[target], given, columns, predict, str(node_file))
    where = str(graph_file or node_file)
    given = given_parts(per_graph, where)
    return Samples(graphs, named_targets(per_graph, target, where), given, per_graph)


def _column(frame: pd.DataFrame, names: Sequence[str], where: Any) -> str:
    """The first of the names that the frame has, whatever its case."""
    found = _find(frame, names)
    if found is None:
        raise InputError(
            f"{where} has no column {' or '.join(names)}; its columns are"
            f" {', '.join(map(str, frame))}"
        )
    return found


def _find(frame: pd.DataFrame, names: Sequence[str]) -> str | None:
    lower = {str(column).lower(): str(column) for column in frame}
    return next((lower[name] for name in names if name in lower), None)


def _text(value: Any) -> str:
    """An id as text: 7, 7.0 and "7" are one."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _ends(
    identity: pd.Series,
    graph: pd.Series | None,
    edges: pd.DataFrame,
    ends: list[str],
    files: tuple[Path, Path],
) -> np.ndarray:
    """Rows of the nodes (E, 2) that the edges join."""
    keys = identity.map(_text)
    own = _find(edges, _GRAPH)
    if graph is not None and own is not None:
        keys = graph.map(_text) + _BETWEEN + keys
    double = keys[keys.duplicated()]
    if len(double):
        raise InputError(
            f"{files[0]}: the id {double.iloc[0].split(_BETWEEN)[-1]!r} stands for several nodes"
            + ("" if own else "; add a column graph to both tables if ids repeat between graphs")
        )
    position = pd.Series(np.arange(len(keys)), index=keys.to_numpy())
    rows = []
    for end in ends:
        names = edges[end].map(_text)
        if graph is not None and own is not None:
            names = edges[own].map(_text) + _BETWEEN + names
        found = position.reindex(names.to_numpy()).to_numpy()
        wrong = np.flatnonzero(np.isnan(found))
        if len(wrong):
            raise InputError(
                f"{files[1]} row {wrong[0] + 1}: {end}"
                f" {names.iloc[wrong[0]].split(_BETWEEN)[-1]!r} is no node of {files[0].name}"
                f" ({len(wrong)} such rows)"
            )
        rows.append(found.astype(np.int64))
    pairs = np.stack(rows, axis=1)
    if graph is not None:
        codes, _ = pd.factorize(graph, use_na_sentinel=False)
        across = np.flatnonzero(codes[pairs[:, 0]] != codes[pairs[:, 1]])
        if len(across):
            raise InputError(f"{files[1]} row {across[0] + 1} joins nodes of two graphs")
    return pairs


def _graph_table(file: Path, names: np.ndarray, written: Collection[str]) -> pd.DataFrame:
    """The rows of graphs.csv in the order of the graphs."""
    table = read_table(file, as_written=written)
    identity = _column(table, (*_GRAPH, "id"), file)
    if not len(names):
        raise InputError(f"{file} is there, but the nodes have no column graph")
    keys = table[identity].map(_text)
    if keys.duplicated().any():
        raise InputError(f"{file} names the graph {keys[keys.duplicated()].iloc[0]!r} twice")
    rows = pd.Series(np.arange(len(keys)), index=keys.to_numpy()).reindex(list(names))
    if rows.isna().any():
        raise InputError(f"{file} has no row of the graph {names[rows.isna().to_numpy()][0]!r}")
    extra = len(keys) - len(names)
    if extra:
        raise InputError(f"{file}: {extra} graphs there have no node; drop them")
    return table.iloc[rows.to_numpy(int)].drop(columns=identity).reset_index(drop=True)


def _target(frame: pd.DataFrame, file: Path) -> list[str]:
    found = [str(column) for column in frame if str(column).lower() in TARGETS]
    if len(found) != 1:
        raise UsageError(
            f"{file}: name the target column, one of {', '.join(map(str, frame)) or 'none'}"
        )
    return found


def _frame_features(frame: pd.DataFrame) -> Features:
    """Columns of numbers, and others as categories; whole numbers may be either."""
    values: dict[str, np.ndarray] = {}
    tags: dict[str, pd.Series] = {}
    whole: list[int] = []
    for name in map(str, frame):
        read = ColumnValues(frame[name])
        if not read.is_numeric:
            tags[name] = frame[name]
            continue
        column = read.numbers.values
        known = column[~np.isnan(column)]
        if frame.shape[1] <= WIDE and (known == np.round(known)).all() and is_exact(known):
            whole.append(len(values))
        values[name] = column
    stacked = np.stack([*values.values()], axis=1) if values else np.zeros((len(frame), 0))
    return Features(narrowed(stacked), tags, tuple(values), tuple(whole))
