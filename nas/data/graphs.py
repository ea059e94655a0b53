"""Graphs: tables, TUDataset folders, objects and .npz files to nodes, edges and their features.

Two kinds of problem. Where the graphs are the samples, each has its label; where the nodes
of one graph are, the whole graph is seen in training and some of its nodes have labels. The
forms, nodes being numbered from 0 within their graph unless they have ids:

- a folder with nodes.csv (id, features, target, perhaps split and graph) and edges.csv
  (source, target, features, and graph where ids repeat from graph to graph); a target that
  is one for all nodes of a graph is the graph's, and so are those of graphs.csv (graph,
  target, perhaps split);
- a TUDataset folder: NAME_A.txt, NAME_graph_indicator.txt, NAME_graph_labels.txt or
  NAME_graph_attributes.txt, and node and edge labels and attributes where there are any;
- an object with ``edge_index`` (2, E) and ``x``, ``edge_attr``, ``y``, ``train_mask`` …, as
  torch_geometric's Data, or a list of them;
- .npz of one graph: ``edges`` (E, 2); ``x`` or ``node_feat`` (N, f) or, as CSR matrix,
  ``x_data``, ``x_indices``, ``x_indptr``, ``x_shape``; ``node_tag`` (N,), numbers that stand for
  names; ``edge_feat`` (E, k) and ``edge_type`` (E,) likewise; ``y`` (N,), negative or NaN where
  unknown; ``train``, ``val``, ``test``, node numbers or masks;
- .npz of many graphs end to end: ``node_ptr`` (n + 1,), ``edge_ptr``, ``edges``; ``node_tag``
  and ``node_feat``; ``edge_type`` and ``edge_feat``; ``y`` (n, …), and any other array (n,) as a
  column: "split" holds the parts, and "fold" 0 for test, 1 for val. A table beside it of the
  same name, one row a graph, adds columns.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data.folders import read_each, refuse_bad
from nas.data.ragged import Input, Ragged, Whole
from nas.data.samples import (
    PART_NAMES,
    PARTS,
    Arrays,
    Samples,
    label_frame,
    read_archive,
    read_parts,
    to_numpy,
)
from nas.data.tabular import SUFFIXES, distinct, is_numeric, numbers, read_table
from nas.task import Column, DataProfile, InputError, UsageError

TAGS = 256  # the most frequent names of a feature are kept
FEW = 20  # distinct whole numbers that are names rather than amounts
WIDE = 64  # features from which on a table may hold the words of documents
_TARGETS = ("target", "label", "y")
_GRAPH = ("graph", "graph_id")
_EDGE = "edges."  # before the names of the edges' features


@dataclass(frozen=True)
class Features:
    """What is known of each node or edge: ``numbers`` float32 (n, p), NaN where missing, and
    ``tags``, columns of names. ``names`` are those of the numbers, if the source has any.

    ``whole`` are the columns of numbers that may stand for names: the data of training
    decides, for a few new graphs may show too few of the values.
    """

    numbers: np.ndarray
    tags: dict[str, pd.Series] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    whole: tuple[int, ...] = ()

    @property
    def empty(self) -> bool:
        return not self.numbers.shape[1] and not self.tags

    def settled(self, columns: Sequence[Column] | None = None) -> Features:
        """Without doubtful numbers: they are names if ``columns`` say so, those of the training
        data, or, without these, if they take few values."""
        known = None if columns is None else {c.name for c in columns if c.kind == "categorical"}
        names = self.names or tuple(f"feature{i}" for i in range(self.numbers.shape[1]))

        def named(i: int) -> bool:
            if known is not None:
                return names[i] in known
            values = self.numbers[:, i]
            return 2 < len(np.unique(values[~np.isnan(values)])) <= FEW

        tags = [i for i in self.whole if named(i)]
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

    def __len__(self) -> int:
        return len(self.node_ptr) - 1 if self.rows is None else len(self.rows)


def recognise(source: Any) -> str:
    if isinstance(source, Path):
        if source.is_file():
            return f"{source.name} holds edges" if is_archive(source) else ""
        if _table(source, "nodes") and _table(source, "edges"):
            return f"{source.name} holds tables of nodes and edges"
        if _tu_name(source):
            return f"{source.name} holds the files of a TUDataset"
        archive, _ = _archive_of(source)
        return f"{archive.name} holds edges" if archive else ""
    objects = _objects(source)
    return "objects with edge_index" if objects else ""


def load(source: Any, target: list[str] | None) -> Samples:
    """Labelled graphs, or the labelled nodes of one."""
    samples = _load(source, target)
    if samples.labels.empty:
        raise UsageError(f"{_name(source)} holds no labels; give y, or name the target column")
    return samples


def load_inputs(source: Any) -> Samples:
    """Graphs to predict, or all nodes of one graph."""
    return _load(source, None, predict=True)


def from_files(files: Sequence[Path]) -> Graphs:
    """The graphs of .npz files of one graph each, whose labels and parts are not looked at.

    Raises InputError that names at once all files that cannot be read.
    """
    graphs, bad = read_each(files, _of_file, (ValueError,), str)
    refuse_bad(files, bad, "graphs", "graph")
    rows = [row for row, graph in enumerate(graphs) if len(graph.edges)]
    nodes = _end_to_end(files, [graph.nodes for graph in graphs], "a node")
    of_edges = _end_to_end(
        [files[row] for row in rows], [graphs[row].edge_features for row in rows], "an edge"
    )
    node_ptr, edge_ptr = (
        np.concatenate([[0], np.cumsum(sizes)])
        for sizes in ([g.node_ptr[-1] for g in graphs], [len(g.edges) for g in graphs])
    )
    edges = np.concatenate([graph.edges for graph in graphs])
    return Graphs(nodes, edges, of_edges, node_ptr, edge_ptr)


# What is read ----------------------------------------------------------------------------


def code(samples: Samples, train: np.ndarray) -> tuple[dict[str, Input], dict[str, Any], list[str]]:
    """Nodes, edges and the edges' features, what describes them, and notes.

    Names are one-hot; numbers stay as they are beside their mean and spread, of the training
    graphs, or of all nodes of a graph that is seen whole in training (labels are not looked
    at). ``channel_mean`` and ``channel_std`` are of the nodes' features, then of the edges';
    names and 0/1 columns have 0 and 1 there. Every edge is there in both directions, as
    Kipf & Welling 2017, sec. 5.1, read citations.
    """
    graphs: Graphs = samples.inputs
    if not len(graphs.edges):
        raise InputError("there is no edge; without edges the nodes are a table")
    edges, origin, edge_ptr, notes = _undirected(graphs)
    nodes, more = _described_nodes(graphs, edges)
    nodes, features = nodes.settled(), _take(graphs.edge_features.settled(), origin)
    notes = [*graphs.notes, *notes, *more]
    if graphs.rows is None:
        known = np.zeros(len(graphs.node_ptr) - 1, bool)
        known[train] = True
        seen = np.repeat(known, np.diff(graphs.node_ptr))
        seen_edges = np.repeat(known, np.diff(edge_ptr))
    else:
        seen, seen_edges = np.ones(len(nodes.numbers), bool), np.ones(len(edges), bool)
    columns, mean, std, more = _describe(nodes, seen, "")
    notes += more
    edge_columns, edge_mean, edge_std, more = _describe(features, seen_edges, _EDGE)
    notes += more
    profile = {
        "columns": (*columns, *edge_columns),
        "channel_mean": (*mean, *edge_mean),
        "channel_std": (*std, *edge_std),
    }
    x = _coded(nodes, columns, mean)
    described = _coded(features, edge_columns, edge_mean)
    return _inputs(graphs, x, edges, edge_ptr, described), profile, notes


def encode(graphs: Graphs, profile: DataProfile) -> dict[str, Input]:
    """New graphs, or the nodes of one, by the features of the training data."""
    by_node = "node" in profile.inputs
    if by_node and graphs.rows is None:
        raise InputError("the network reads the nodes of one graph; give one graph")
    if not by_node and graphs.rows is not None:
        graphs = replace(graphs, rows=None)  # a single graph is a sample as well
    edges, origin, edge_ptr, _ = _undirected(graphs)
    columns = [c for c in profile.columns if not c.name.startswith(_EDGE)]
    edge_columns = [c for c in profile.columns if c.name.startswith(_EDGE)]
    plain = [replace(c, name=c.name.removeprefix(_EDGE)) for c in edge_columns]
    nodes = _described_nodes(graphs, edges)[0].settled(columns)
    features = _take(graphs.edge_features.settled(plain), origin)
    width = profile.inputs["nodes"][-1]
    mean = profile.channel_mean
    x = _coded(nodes, columns, mean[:width], width)
    edge_width = profile.inputs["edge_features"][-1] if "edge_features" in profile.inputs else 0
    described = np.zeros((0, edge_width), np.float32)
    if len(edges):  # without any, their features need not be known
        described = _coded(features, edge_columns, mean[width:], edge_width)
    return _inputs(graphs, x, edges, edge_ptr, described)


def _inputs(
    graphs: Graphs, x: np.ndarray, edges: np.ndarray, edge_ptr: np.ndarray, described: np.ndarray
) -> dict[str, Input]:
    inputs: dict[str, Input] = {}
    if graphs.rows is not None:
        inputs["node"] = graphs.rows.astype(np.int64)
        inputs |= {"nodes": Whole(x), "edges": Whole(edges.astype(np.int32))}
        if described.shape[1]:
            inputs["edge_features"] = Whole(described)
        return inputs
    starts = np.repeat(graphs.node_ptr[:-1], np.diff(edge_ptr))
    local = (edges - starts[:, None]).astype(np.int32)
    inputs["nodes"] = Ragged(x, graphs.node_ptr, "packed")
    inputs["edges"] = Ragged(local, edge_ptr, "packed", into="nodes")
    if described.shape[1]:
        inputs["edge_features"] = Ragged(described, edge_ptr, "packed")
    return inputs


def _undirected(graphs: Graphs) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Edges (E, 2) between rows of all nodes, each in both directions, ordered by target; the
    edge each comes from; where each graph's edges begin; and notes."""
    starts = np.repeat(graphs.node_ptr[:-1], np.diff(graphs.edge_ptr))
    edges = graphs.edges + starts[:, None]
    total = int(graphs.node_ptr[-1])
    notes: list[str] = []
    origin = np.flatnonzero(edges[:, 0] != edges[:, 1])
    if loops := len(edges) - len(origin):
        notes.append(f"{loops} edges from a node to itself are dropped")
    keys = edges[origin, 0] * total + edges[origin, 1]
    if graphs.edge_features.empty:
        keys, first = np.unique(keys, return_index=True)
        if double := len(origin) - len(first):
            notes.append(f"{double} edges are given twice: counted once")
        origin = origin[first]
    single = origin[~np.isin(edges[origin, 1] * total + edges[origin, 0], keys)]
    if len(single):
        notes.append(
            f"{len(single)} of {len(origin)} edges are given in one direction only: each is"
            " read in both"
        )
    pairs = np.concatenate([edges[origin], edges[single][:, ::-1]])
    origin = np.concatenate([origin, single])
    order = np.lexsort((pairs[:, 0], pairs[:, 1]))
    pairs, origin = pairs[order], origin[order]
    edge_ptr = np.searchsorted(pairs[:, 1], graphs.node_ptr).astype(np.int64)
    return pairs, origin, edge_ptr, notes


def _described_nodes(graphs: Graphs, edges: np.ndarray) -> tuple[Features, list[str]]:
    """The nodes' features; where there are none, the degree as a name (Xu et al. 2019, "How
    Powerful are Graph Neural Networks?", sec. 7)."""
    degree = np.bincount(edges[:, 1], minlength=int(graphs.node_ptr[-1]))
    notes = []
    if alone := int((degree == 0).sum()):
        notes.append(f"{alone} of {len(degree)} nodes have no edge: only their own features count")
    if not graphs.nodes.empty:
        return graphs.nodes, notes
    notes.append("the nodes have no features: the number of their neighbours is taken for one")
    return replace(graphs.nodes, tags={"degree": pd.Series(degree)}), notes


def _describe(
    features: Features, seen: np.ndarray, prefix: str
) -> tuple[list[Column], tuple[float, ...], tuple[float, ...], list[str]]:
    """Columns, mean and spread of the coded features on the rows ``seen``, and notes."""
    columns: list[Column] = []
    notes: list[str] = []
    known = features.numbers[seen].astype(np.float64)
    missing = np.isnan(known)
    if missing.any():
        notes.append(f"{int(missing.sum())} missing values of features count as the mean")
    filled = np.where(missing, 0.0, known)
    counts = np.maximum((~missing).sum(axis=0), 1)
    mean = filled.sum(axis=0) / counts
    std = np.sqrt((np.where(missing, 0.0, known - mean) ** 2).sum(axis=0) / counts)
    plain = ((filled == 0) | (filled == 1)).all(axis=0) & ~missing.any(axis=0)
    if len(mean) >= WIDE:  # most are zero and mean that a word is absent, or none is plain
        plain[:] = not missing.any() and (filled >= 0).all() and (filled > 0).mean() < 0.1
    mean[plain], std[plain] = 0.0, 1.0
    for i, name in enumerate(features.names):
        columns.append(Column(prefix + name, "numeric", missing[:, i].mean(), mean[i], std[i]))
    added = 0
    for name, series in features.tags.items():
        codes, texts = distinct(series)
        counts = np.bincount(codes[seen & (codes >= 0)], minlength=len(texts))
        order = sorted(range(len(texts)), key=lambda i: (-counts[i], texts[i]))
        kept = sorted(texts[i] for i in order[:TAGS] if counts[i])
        if (counts > 0).sum() > TAGS:
            notes.append(
                f"{prefix}{name} has {int((counts > 0).sum())} names: the {TAGS} most frequent"
                " are kept"
            )
        added += len(kept)
        columns.append(Column(prefix + name, "categorical", categories=tuple(kept)))
    means = (*map(float, mean), *[0.0] * added)
    return columns, means, (*map(float, std), *[1.0] * added), notes


def _coded(
    features: Features, columns: Sequence[Column], mean: Sequence[float], width: int | None = None
) -> np.ndarray:
    """float32 (n, width): the numbers, the missing ones as ``mean``, then each tag one-hot; a
    name that training has not seen is all zeros."""
    tags = [c for c in columns if c.kind == "categorical"]
    names = [c.name.removeprefix(_EDGE) for c in columns if c.kind == "numeric"]
    values = features.numbers
    if names:
        absent = [name for name in names if name not in features.names]
        if absent:
            raise InputError(
                f"the features {', '.join(map(repr, absent[:5]))} of the training data are absent"
            )
        values = values[:, [features.names.index(name) for name in names]]
    coded = sum(len(c.categories) for c in tags)
    expected = values.shape[1] if width is None else width - coded
    if values.shape[1] != expected:
        raise InputError(f"{values.shape[1]} numeric features, but {expected} in training")
    parts = [np.where(np.isnan(values), np.asarray(mean[:expected], np.float32), values)]
    for column in tags:
        name = column.name.removeprefix(_EDGE)
        if name not in features.tags:
            raise InputError(f"the feature {name!r} of the training data is absent")
        codes, texts = distinct(features.tags[name])
        position = {text: i for i, text in enumerate(column.categories)}
        unknown = len(position)
        index = np.array([*(position.get(text, unknown) for text in texts), unknown], int)
        parts.append(np.eye(unknown + 1, unknown, dtype=np.float32)[index[codes]])
    return np.concatenate(parts, axis=1, dtype=np.float32)


def _take(features: Features, rows: np.ndarray) -> Features:
    tags = {name: tag.iloc[rows] for name, tag in features.tags.items()}
    return replace(features, numbers=features.numbers[rows], tags=tags)


# Sources ---------------------------------------------------------------------------------


def _load(source: Any, target: list[str] | None, predict: bool = False) -> Samples:
    if not isinstance(source, Path):
        objects = _objects(source)
        if not objects:
            raise UsageError(f"{_name(source)}: these are no graphs: there is no edge_index")
        y = source.y if isinstance(source, Arrays) else None
        return _from_objects(objects, y, target, predict)
    if source.is_file():
        return _from_archive(source, None, target, predict)
    if _table(source, "nodes") and _table(source, "edges"):
        return _from_tables(source, target, predict)
    if _tu_name(source):
        return _from_tu(source, target)
    archive, table = _archive_of(source)
    if archive:
        return _from_archive(archive, table, target, predict)
    raise InputError(
        f"{source} holds no graphs; expected nodes.csv and edges.csv, the files of a TUDataset"
        " (NAME_A.txt …), or one .npz file with edges"
    )


def _name(source: Any) -> str:
    return str(source) if isinstance(source, Path) else getattr(source, "name", "the data")


def _graphs(
    nodes: Features,
    edges: np.ndarray,
    edge_features: Features,
    node_ptr: np.ndarray,
    edge_ptr: np.ndarray,
    where: str,
    notes: Sequence[str] = (),
) -> Graphs:
    """Graphs whose pieces fit together; else an InputError that says where they do not."""
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


def _array_features(total: int, tags: Any, values: Any, where: str) -> Features:
    """Features (n, p) of ``values`` and ``tags``; either may be None.

    Numbers that are stored as integers may stand for names.
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
        measured = array.astype(np.float32)
        if array.dtype.kind in "iu" and array.shape[1] <= WIDE:
            whole = tuple(i for i in range(array.shape[1]) if _exact(array[:, i]))
    return Features(measured, found, whole=whole)


def _exact(column: np.ndarray) -> bool:
    """Whether float32 tells all of the whole numbers apart."""
    return bool(np.abs(column).max(initial=0) < 2**24)


def _labelled_nodes(
    graphs: Graphs,
    labels: pd.DataFrame,
    given: np.ndarray | None,
    columns: pd.DataFrame,
    predict: bool,
    where: str,
) -> Samples:
    """The nodes as samples: those with labels and, if parts are given, in one of these."""
    total = int(graphs.node_ptr[-1])
    for what, found in (("labels", labels), ("parts", given)):
        if found is not None and len(found) != total and (what == "parts" or labels.shape[1]):
            raise InputError(f"{where}: {total} nodes, but {what} of {len(found)}")
    known = labels.notna().all(axis=1).to_numpy() if labels.shape[1] else np.zeros(total, bool)
    if predict:
        rows = np.arange(total)
        labels = labels if known.all() else pd.DataFrame(index=range(total))
        columns = columns[[name for name in columns if columns[name].notna().all()]]
        return Samples(replace(graphs, rows=rows), labels, None, columns)
    notes = list(graphs.notes)
    if given is not None:
        unlabelled = int(((given >= 0) & ~known).sum())
        if unlabelled:
            raise InputError(f"{where}: {unlabelled} nodes of the parts have no label; add them")
        known = known & (given >= 0)
    rows = np.flatnonzero(known)
    if len(rows) < total:
        notes.append(f"{total - len(rows)} of {total} nodes are in no part: seen without label")
    labels, columns = (frame.iloc[rows].reset_index(drop=True) for frame in (labels, columns))
    graphs = replace(graphs, rows=rows, notes=tuple(notes))
    return Samples(graphs, labels, None if given is None else given[rows], columns)


# Archives --------------------------------------------------------------------------------


def is_archive(path: Path) -> bool:
    """Whether a file is an .npz with edges."""
    if path.suffix.lower() != ".npz" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return "edges.npy" in archive.namelist()


def _archive_of(folder: Path) -> tuple[Path | None, Path | None]:
    """The one .npz with edges in a folder, and the table of the same name beside it."""
    files = [path for path in folder.iterdir() if path.name[0] != "." and path.is_file()]
    archives = [path for path in files if is_archive(path)]
    if len(archives) != 1:
        return None, None
    tables = {archives[0].stem + suffix for suffix in SUFFIXES}
    table = next((path for path in files if path.name in tables), None)
    return archives[0], table


def _from_archive(
    path: Path, table: Path | None, target: list[str] | None, predict: bool
) -> Samples:
    arrays = _arrays_of(path)
    if "node_ptr" in arrays:
        return _many(path, table, arrays, target)
    graphs, y = _one(path, arrays), arrays.get("y")
    total = int(graphs.node_ptr[-1])
    given = _parts(arrays, total, str(path))
    labels = pd.DataFrame(index=range(total)) if y is None else _labels(y, target, predict)
    return _labelled_nodes(graphs, labels, given, labels, predict, str(path))


def _of_file(path: Path) -> Graphs:
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
    return _array_features(len(arrays["edges"]), kinds, values, f"{path}: edges")


def _one(path: Path, arrays: Mapping[str, np.ndarray]) -> Graphs:
    """One graph of as many nodes as have features, or else as labels and edges speak of."""
    edges, tag, x = arrays["edges"], arrays.get("node_tag"), _dense(path, arrays)
    described = x if x is not None else tag
    named = max(int(edges.max(initial=-1)) + 1, np.atleast_1d(arrays.get("y", [])).shape[0])
    total = named if described is None else len(np.atleast_1d(described))
    if not total:
        raise InputError(f"{path} holds no node")
    nodes = _array_features(total, tag, x, f"{path}: nodes")
    ptrs = np.array([0, total]), np.array([0, len(edges)])
    return _graphs(nodes, edges, _edge_features(path, arrays), *ptrs, str(path))


def _end_to_end(files: Sequence[Path], features: Sequence[Features], of: str) -> Features:
    """The features of several graphs; all must have as many as most have."""
    if not features:
        return Features(np.zeros((0, 0), np.float32))
    widths = [(each.numbers.shape[1], len(each.tags)) for each in features]
    usual = max(set(widths), key=widths.count)
    bad = [
        (row, f"{own[0]} numbers and {own[1]} names {of}, but most have {usual[0]} and {usual[1]}")
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


def _labels(y: Any, target: list[str] | None, predict: bool = False) -> pd.DataFrame:
    """One column for each target; a negative class is an unknown one."""
    frame = label_frame(y, target)
    if target is None and list(frame) == ["target"]:
        frame.columns = ["y"]
    whole = [name for name in frame if frame[name].dtype.kind in "iu"]
    for name in whole:
        # −1 is the usual mark of "unknown" in arrays of classes; among −1 and 1 it is a class.
        values = set(frame[name].unique())
        if min(values) == -1 and len(values) > 2:
            frame[name] = frame[name].astype("Int64").mask(frame[name] == -1)
    return frame


def _dense(path: Path, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    keys = ("x_data", "x_indices", "x_indptr", "x_shape")
    if "x_data" not in arrays:
        return arrays.get("x", arrays.get("node_feat"))
    absent = [key for key in keys if key not in arrays]
    if absent:
        raise InputError(f"{path} holds x_data, but no {', '.join(absent)}")
    from scipy import sparse

    data, indices, indptr, shape = (arrays[key] for key in keys)
    try:
        matrix = sparse.csr_matrix((data, indices, indptr), shape=tuple(shape))
        matrix.check_format()
    except ValueError as error:
        raise InputError(f"{path}: x is no CSR matrix: {error}") from None
    dense: np.ndarray = matrix.toarray()
    return dense.astype(np.float32)


def _parts(arrays: Mapping[str, np.ndarray], total: int, where: str) -> np.ndarray | None:
    """The part of each node from arrays of node numbers or masks; −1 in none."""
    found = {name: arrays[name] for name in PARTS if arrays.get(name) is not None}
    if not found:
        return None
    codes = np.full(total, -1, np.int8)
    for name, rows in found.items():
        rows = np.asarray(rows)
        if rows.dtype != bool and len(rows) and not 0 <= rows.min() <= rows.max() < total:
            raise InputError(f"{where}: {name} names the node {rows.max()} of {total}")
        if rows.dtype == bool and len(rows) != total:
            raise InputError(f"{where}: the mask {name} is of {len(rows)} nodes, not {total}")
        if (codes[rows] >= 0).any():
            raise InputError(f"{where}: {name} shares nodes with another part")
        codes[rows] = PARTS.index(name)
    return codes


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
    nodes = _array_features(int(node_ptr[-1]), tag, values, f"{path}: nodes")
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
    given, notes = _given(columns, where)
    if given is None and "fold" in arrays:
        fold = arrays["fold"]
        given = np.select([fold == 0, fold == 1], [2, 1], 0).astype(np.int8)
        notes = ["fold 0 is the test part and fold 1 the validation part"]
    if target is not None and (table is not None or y is None):
        labels = _named(columns, target, where)
    elif y is not None:
        labels = _labels(y, target)
        if len(labels) != n:
            raise InputError(f"{path}: {n} graphs, but y has {len(labels)}")
    else:
        labels = pd.DataFrame(index=range(n))
    graphs = _graphs(nodes, edges, of_edges, node_ptr, edge_ptr, str(path), notes)
    return Samples(graphs, labels, given, columns)


def _given(columns: pd.DataFrame, where: str) -> tuple[np.ndarray | None, list[str]]:
    """The parts of a column "split"; where it is empty a row is in none."""
    if "split" not in columns or not _is_parts(columns["split"]):
        return None, []
    known = columns["split"].notna().to_numpy()
    codes = np.full(len(columns), -1, np.int8)
    codes[known] = read_parts(columns["split"][known], where)
    return codes, []


def _is_parts(column: pd.Series) -> bool:
    texts = column.dropna().astype("str").str.strip().str.lower()
    return bool(len(texts)) and bool(texts.isin(PART_NAMES).all())


def _named(columns: pd.DataFrame, target: list[str], where: str) -> pd.DataFrame:
    absent = [name for name in target if name not in columns]
    if absent:
        raise UsageError(
            f"{where} has no target column {absent[0]!r}; its columns are"
            f" {', '.join(map(str, columns)) or 'none'}"
        )
    return columns[target]


# Tables ----------------------------------------------------------------------------------


def _table(folder: Path, name: str) -> Path | None:
    return next((f for suffix in SUFFIXES if (f := folder / f"{name}{suffix}").is_file()), None)


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


def _from_tables(folder: Path, target: list[str] | None, predict: bool) -> Samples:
    node_file, edge_file = _table(folder, "nodes"), _table(folder, "edges")
    assert node_file is not None
    assert edge_file is not None
    nodes, edges = read_table(node_file), read_table(edge_file)
    by = _find(nodes, _GRAPH)
    identity = _column(nodes, ("id", "node_id", "node"), node_file)
    ends = [
        _column(edges, ("source", "src", "from"), edge_file),
        _column(edges, ("target", "dst", "to"), edge_file),
    ]
    graph_file = _table(folder, "graphs")
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
        per_graph = _graph_table(graph_file, names)
        target = target or ([] if predict else _target(per_graph, graph_file))
    else:
        candidates = [c for c in rest if not _is_parts(rest[c])]
        target = target or ([] if predict else _target(nodes[candidates], node_file))
        _named(nodes, target, str(node_file))
        if by is not None:
            checked = nodes[target or [c for c in _TARGETS if c in nodes]]
            if (checked.groupby(codes).nunique(dropna=False) <= 1).all(axis=None):
                first = np.asarray(node_ptr[:-1], int)
                per_graph = nodes.iloc[first].reset_index(drop=True)
    features = rest.drop(columns=[c for c in rest if c in target or _is_parts(rest[c])])
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
    graphs = _graphs(found, pairs[order], _take(of, order), *ptrs, where=str(folder))
    if per_graph is None:
        given, _ = _given(nodes, str(node_file))
        return _labelled_nodes(graphs, nodes[target], given, columns, predict, str(node_file))
    where = str(graph_file or node_file)
    given, _ = _given(per_graph, where)
    return Samples(graphs, _named(per_graph, target, where), given, per_graph)


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
        keys = graph.map(_text) + "\0" + keys
    double = keys[keys.duplicated()]
    if len(double):
        raise InputError(
            f"{files[0]}: the id {double.iloc[0].split(chr(0))[-1]!r} stands for several nodes"
            + ("" if own else "; add a column graph to both tables if ids repeat between graphs")
        )
    position = pd.Series(np.arange(len(keys)), index=keys.to_numpy())
    rows = []
    for end in ends:
        names = edges[end].map(_text)
        if graph is not None and own is not None:
            names = edges[own].map(_text) + "\0" + names
        found = position.reindex(names.to_numpy()).to_numpy()
        wrong = np.flatnonzero(np.isnan(found))
        if len(wrong):
            raise InputError(
                f"{files[1]} row {wrong[0] + 1}: {end}"
                f" {names.iloc[wrong[0]].split(chr(0))[-1]!r} is no node of {files[0].name}"
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


def _graph_table(file: Path, names: np.ndarray) -> pd.DataFrame:
    """The rows of graphs.csv in the order of the graphs."""
    table = read_table(file)
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
    found = [str(column) for column in frame if str(column).lower() in _TARGETS]
    if len(found) != 1:
        raise UsageError(
            f"{file}: name the target column, one of {', '.join(map(str, frame)) or 'none'}"
        )
    return found


def _frame_features(frame: pd.DataFrame) -> Features:
    """Columns of numbers as they are, others as names; whole numbers may stand for names."""
    values: dict[str, np.ndarray] = {}
    tags: dict[str, pd.Series] = {}
    whole: list[int] = []
    for name in map(str, frame):
        if not is_numeric(frame[name]):
            tags[name] = frame[name]
            continue
        column, _, _ = numbers(frame[name])
        known = column[~np.isnan(column)]
        if frame.shape[1] <= WIDE and (known == np.round(known)).all() and _exact(known):
            whole.append(len(values))
        values[name] = column.astype(np.float32)
    stacked = np.stack([*values.values()], axis=1) if values else np.zeros((len(frame), 0))
    return Features(stacked.astype(np.float32), tags, tuple(values), tuple(whole))


# TUDataset -------------------------------------------------------------------------------


def _tu_name(folder: Path) -> str:
    found = [p.name.removesuffix("_A.txt") for p in folder.glob("*_A.txt")]
    if len(found) == 1 and (folder / f"{found[0]}_graph_indicator.txt").is_file():
        return found[0]
    return ""


def _from_tu(folder: Path, target: list[str] | None) -> Samples:
    """Morris et al. 2020, "TUDataset", the files described at graphlearning.io."""
    name = _tu_name(folder)

    def numbers_of(what: str) -> np.ndarray | None:
        file = folder / f"{name}_{what}.txt"
        if not file.is_file():
            return None
        try:
            array = np.loadtxt(file, delimiter=",", ndmin=2)
        except (ValueError, UnicodeDecodeError) as error:
            raise InputError(f"{file} cannot be read: {str(error).splitlines()[0]}") from None
        if not array.size:
            raise InputError(f"{file} is empty")
        return array

    def whole(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array.astype(np.int64)

    indicator, edges = numbers_of("graph_indicator"), numbers_of("A")
    assert indicator is not None
    assert edges is not None
    if edges.shape[1] != 2:
        raise InputError(f"{folder / name}_A.txt: expected two node numbers a line")
    graph = indicator[:, 0].astype(np.int64) - 1
    if graph[0] != 0 or not np.isin(np.diff(graph), (0, 1)).all():
        raise InputError(
            f"{folder / name}_graph_indicator.txt: the graphs must be numbered 1, 2, … in order"
        )
    pairs = edges.astype(np.int64) - 1
    outside = np.flatnonzero(((pairs < 0) | (pairs >= len(graph))).any(axis=1))
    if len(outside):
        raise InputError(
            f"{folder / name}_A.txt line {outside[0] + 1} names a node that is not among the"
            f" {len(graph)} of {name}_graph_indicator.txt"
        )
    of_pair = graph[pairs[:, 0]]
    across = np.flatnonzero(of_pair != graph[pairs[:, 1]])
    if len(across):
        raise InputError(f"{folder / name}_A.txt line {across[0] + 1} joins nodes of two graphs")
    n = int(graph[-1]) + 1
    node_ptr = np.concatenate([[0], np.cumsum(np.bincount(graph, minlength=n))])
    edge_ptr = np.concatenate([[0], np.cumsum(np.bincount(of_pair, minlength=n))])
    order = np.argsort(of_pair, kind="stable")
    where = str(folder / name)
    nodes = _array_features(
        len(graph), whole(numbers_of("node_labels")), numbers_of("node_attributes"), where
    )
    described = _array_features(
        len(pairs), whole(numbers_of("edge_labels")), numbers_of("edge_attributes"), where
    )
    local = (pairs - node_ptr[of_pair][:, None])[order]
    graphs = _graphs(nodes, local, _take(described, order), node_ptr, edge_ptr, where)
    labels = pd.DataFrame(index=range(n))
    y = whole(numbers_of("graph_labels"))
    y = numbers_of("graph_attributes") if y is None else y
    if y is not None:
        if len(y) != n:
            raise InputError(f"{where}: {n} graphs, but labels of {len(y)}")
        labels = label_frame(y, target)
        if target is None and labels.shape[1] == 1:
            labels.columns = ["label"]
    return Samples(graphs, labels, None, labels)


# Objects ---------------------------------------------------------------------------------


def _objects(source: Any) -> list[Any]:
    """The graphs in an object with ``edge_index``, or in a sequence of such, else none."""
    if isinstance(source, Arrays):
        source = source.x
    if isinstance(source, (Path, pd.DataFrame, np.ndarray, str, dict)):
        return []
    if hasattr(source, "edge_index") and not isinstance(source, (list, tuple)):
        return [source]
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__") or not len(source):
        return []
    if getattr(source[0], "edge_index", None) is None:
        return []
    return [source[i] for i in range(len(source))]


def _from_objects(objects: list[Any], y: Any, target: list[str] | None, predict: bool) -> Samples:
    def read(item: Any, name: str) -> np.ndarray | None:
        value = getattr(item, name, None)
        return None if value is None else to_numpy(value)

    sizes, pairs, xs, attributes, ys = [], [], [], [], []
    for i, item in enumerate(objects):
        edges = read(item, "edge_index")
        if edges is None or edges.ndim != 2 or edges.shape[0] != 2:
            raise InputError(f"graph {i}: edge_index must be (2, E)")
        x, own = read(item, "x"), read(item, "y")
        size = len(x) if x is not None else getattr(item, "num_nodes", None)
        if size is None:
            size = int(edges.max()) + 1 if edges.size else 0
        sizes.append(int(size))
        pairs.append(edges.T)
        xs.append(x if x is None or x.ndim == 2 else x[:, None])
        attributes.append(read(item, "edge_attr"))
        ys.append(own)
    for what, found in (("x", xs), ("edge_attr", attributes), ("y", ys)):
        some = [value is not None for value in found]
        if any(some) and not all(some):
            raise InputError(f"graph {some.index(False)} has no {what}, but others have")
    edges = np.concatenate(pairs)
    node_ptr = np.concatenate([[0], np.cumsum(sizes)])
    edge_ptr = np.concatenate([[0], np.cumsum([len(p) for p in pairs])])

    def joined(found: list[Any], what: str) -> np.ndarray | None:
        if found[0] is None:
            return None
        try:
            return np.concatenate(found)
        except ValueError:
            raise InputError(f"the graphs differ in the width of {what}") from None

    nodes = _array_features(sum(sizes), None, joined(xs, "x"), "x")
    described = _array_features(len(edges), None, joined(attributes, "edge_attr"), "edge_attr")
    graphs = _graphs(nodes, edges, described, node_ptr, edge_ptr, "the data")
    if len(objects) == 1 and (y is not None or ys[0] is None or len(ys[0]) == sizes[0]):
        masks: dict[str, np.ndarray] = {}
        for part in PARTS:
            mask = read(objects[0], f"{part}_mask")
            if mask is not None:
                masks[part] = mask[:, 0] if mask.ndim == 2 else mask  # of several splits, one
        labels = pd.DataFrame(index=range(sizes[0]))
        if y is not None or ys[0] is not None:
            labels = _labels(ys[0] if y is None else y, target, predict)
        given = _parts(masks, sizes[0], "the data")
        return _labelled_nodes(graphs, labels, given, labels, predict, "the data")
    if y is None and ys[0] is not None:
        rows = [np.atleast_1d(np.squeeze(value)) for value in ys if value is not None]
        if len({row.shape for row in rows}) > 1 or rows[0].ndim != 1:
            raise InputError("the graphs differ in the shape of y; each needs one label or row")
        y = np.stack(rows)
    labels = pd.DataFrame(index=range(len(objects))) if y is None else _labels(y, target)
    if len(labels) != len(objects):
        raise InputError(f"{len(objects)} graphs, but y has {len(labels)}")
    return Samples(graphs, labels, None, labels)
