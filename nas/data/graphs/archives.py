"""Graphs of .npz files: one graph, or many end to end."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nas.data.folders import read_each, refuse_bad
from nas.data.graphs.content import Features, Graphs, array_features, checked_graphs
from nas.data.graphs.labels import (
    given_parts,
    label_columns,
    labelled_nodes,
    named_targets,
    part_codes,
)
from nas.data.limits import read_archive, refuse_larger
from nas.data.precision import narrowed
from nas.data.samples import Samples
from nas.data.tables import SUFFIXES, read_table
from nas.task import InputError


def is_archive(path: Path) -> bool:
    """Whether a file is an .npz with edges."""
    if path.suffix.lower() != ".npz" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return "edges.npy" in archive.namelist()


def archive_of(folder: Path) -> tuple[Path | None, Path | None]:
    """The one .npz with edges in a folder, and the table of the same name beside it."""
    files = [path for path in folder.iterdir() if path.name[0] != "." and path.is_file()]
    archives = [path for path in files if is_archive(path)]
    if len(archives) != 1:
        return None, None
    tables = {archives[0].stem + suffix for suffix in SUFFIXES}
    table = next((path for path in files if path.name in tables), None)
    return archives[0], table


def from_archive(
    path: Path, table: Path | None, target: list[str] | None, predict: bool
) -> Samples:
    arrays = _arrays_of(path)
    if "node_ptr" in arrays:
        return _many(path, table, arrays, target)
    graphs, y = _one(path, arrays), arrays.get("y")
    total = int(graphs.node_ptr[-1])
    given = part_codes(arrays, total, str(path))
    labels = pd.DataFrame(index=range(total)) if y is None else label_columns(y, target)
    return labelled_nodes(graphs, labels, given, labels, predict, str(path))


def from_files(files: Sequence[Path]) -> Graphs:
    """The graphs of .npz files of one graph each, whose labels and parts are ignored.

    Raises InputError that names at once all files that cannot be read.
    """
    graphs, bad = read_each(files, _read_file, (ValueError,), str)
    refuse_bad(files, bad, "graphs", "graph")
    rows = [row for row, graph in enumerate(graphs) if len(graph.edges)]
    nodes = _concatenate(files, [graph.nodes for graph in graphs], "a node")
    of_edges = _concatenate(
        [files[row] for row in rows], [graphs[row].edge_features for row in rows], "an edge"
    )
    node_ptr, edge_ptr = (
        np.concatenate([[0], np.cumsum(sizes)])
        for sizes in ([g.node_ptr[-1] for g in graphs], [len(g.edges) for g in graphs])
    )
    edges = np.concatenate([graph.edges for graph in graphs])
    return Graphs(nodes, edges, of_edges, node_ptr, edge_ptr)


def _read_file(path: Path) -> Graphs:
    """The graph of a file; a ValueError says what is wrong without naming the file."""
    try:
        arrays = _arrays_of(path)
        if "node_ptr" in arrays:
            raise ValueError("holds node_ptr: many graphs end to end; give each a file of its own")
        arrays.pop("y", None)  # of the graph or of its nodes: the table holds the targets
        return _one(path, arrays)
    except InputError as error:
        raise ValueError(str(error).removeprefix(str(path)).lstrip(": ")) from None


def _arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz, ``edges`` (E, 2) among them."""
    arrays = read_archive(path)
    if "edges" not in arrays:
        raise InputError(f"{path} holds {', '.join(arrays) or 'nothing'}; expected edges (E, 2)")
    edges = arrays["edges"]
    if not edges.size:  # of an empty list, whatever its type
        arrays["edges"] = edges = np.zeros((0, 2), np.int64)
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
        raise InputError(
            f"{path}: edges are {edges.dtype} of the shape {edges.shape}; expected integers (E, 2)"
        )
    return arrays


def _edge_features(path: Path, arrays: Mapping[str, np.ndarray]) -> Features:
    kinds, values = arrays.get("edge_type"), arrays.get("edge_feat")
    return array_features(len(arrays["edges"]), kinds, values, f"{path}: edges")


def _one(path: Path, arrays: Mapping[str, np.ndarray]) -> Graphs:
    """One graph; without features, labels and edges say how many nodes it has."""
    edges, tag, x = arrays["edges"], arrays.get("node_tag"), _dense(path, arrays)
    described = x if x is not None else tag
    named = max(int(edges.max(initial=-1)) + 1, np.atleast_1d(arrays.get("y", [])).shape[0])
    total = named if described is None else len(np.atleast_1d(described))
    if not total:
        raise InputError(f"{path} holds no node")
    nodes = array_features(total, tag, x, f"{path}: nodes")
    ptrs = np.array([0, total]), np.array([0, len(edges)])
    return checked_graphs(nodes, edges, _edge_features(path, arrays), *ptrs, str(path))


def _concatenate(files: Sequence[Path], features: Sequence[Features], of: str) -> Features:
    """The features of several graphs in one; all graphs need the same number of columns."""
    if not features:
        return Features(np.zeros((0, 0), np.float32))
    widths = [(each.numbers.shape[1], len(each.tags)) for each in features]
    usual = max(set(widths), key=widths.count)
    bad = [
        (row, f"{own[0]} numbers and {own[1]} categories {of}, most have {usual[0]} and {usual[1]}")
        for row, own in enumerate(widths)
        if own != usual
    ]
    refuse_bad(files, bad, "graphs", "graph")
    return Features(
        np.concatenate([each.numbers for each in features]),
        {
            name: pd.concat([each.tags[name] for each in features], ignore_index=True)
            for name in features[0].tags
        },
        whole=tuple(sorted(set.intersection(*(set(each.whole) for each in features)))),
    )


def _dense(path: Path, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    keys = ("x_data", "x_indices", "x_indptr", "x_shape")
    if "x_data" not in arrays:
        return arrays.get("x", arrays.get("node_feat"))
    absent = [key for key in keys if key not in arrays]
    if absent:
        raise InputError(f"{path} holds x_data, but no {', '.join(absent)}")
    data, indices, indptr, shape = (arrays[key] for key in keys)
    # Not by SciPy, whose import takes longer than all the rest of a file like Cora's.
    whole = all(array.dtype.kind in "iu" and array.ndim == 1 for array in (indices, indptr, shape))
    if not whole or data.shape != indices.shape or len(shape) != 2 or shape.min() < 0:
        raise InputError(
            f"{path}: x is no CSR matrix: expected x_data and x_indices (k,), x_indptr (n + 1,) and"
            f" x_shape (2,), got {', '.join(f'{key} {arrays[key].shape}' for key in keys)}"
        )
    rows, columns = map(int, shape)
    counts: np.ndarray = np.diff(indptr.astype(np.int64))
    if len(indptr) != rows + 1 or indptr[0] or counts.min(initial=0) < 0 or indptr[-1] != len(data):
        raise InputError(f"{path}: x is no CSR matrix: x_indptr does not divide x_data in {rows}")
    if len(data) and not 0 <= indices.min() <= indices.max() < columns:
        raise InputError(f"{path}: x is no CSR matrix: x_indices are outside 0 to {columns - 1}")
    refuse_larger(data.itemsize * rows * columns, f"{path}: x takes", "give fewer features")
    dense = np.zeros((rows, columns), data.dtype)
    np.add.at(dense, (np.repeat(np.arange(rows), counts), indices), data)
    return narrowed(dense)


def _many(
    path: Path,
    table: Path | None,
    arrays: dict[str, np.ndarray],
    target: list[str] | None,
) -> Samples:
    of_edges, edges = _edge_features(path, arrays), arrays["edges"]
    own = ("edges", "edge_type", "edge_feat")
    arrays = {name: array for name, array in arrays.items() if name not in own}
    node_ptr, edge_ptr = arrays.pop("node_ptr"), arrays.pop("edge_ptr", None)
    if edge_ptr is None:
        raise InputError(f"{path} holds node_ptr, but no edge_ptr")
    tag, values = arrays.pop("node_tag", None), arrays.pop("node_feat", None)
    nodes = array_features(int(node_ptr[-1]), tag, values, f"{path}: nodes")
    n = len(node_ptr) - 1
    y = arrays.pop("y", None)
    columns = pd.DataFrame(
        {name: array for name, array in arrays.items() if array.shape == (n,)}, index=range(n)
    )
    where = str(path)
    if table is not None:
        rows = read_table(table)
        if len(rows) != n:
            raise InputError(f"{table} has {len(rows)} rows, but {path.name} {n} graphs")
        columns = pd.concat([columns.drop(columns=[c for c in rows if c in columns]), rows], axis=1)
        where = str(table)
    given = given_parts(columns, where)
    notes: list[str] = []
    if given is None and "fold" in arrays:
        fold = arrays["fold"]
        given = np.select([fold == 0, fold == 1], [2, 1], 0).astype(np.int8)
        notes = ["fold 0 is the test part and fold 1 the validation part"]
    if target is not None and (table is not None or y is None):
        labels = named_targets(columns, target, where)
    elif y is not None:
        labels = label_columns(y, target)
        if len(labels) != n:
            raise InputError(f"{path}: {n} graphs, but y has {len(labels)}")
    else:
        labels = pd.DataFrame(index=range(n))
    graphs = checked_graphs(nodes, edges, of_edges, node_ptr, edge_ptr, str(path), notes)
    return Samples(graphs, labels, given, columns)
