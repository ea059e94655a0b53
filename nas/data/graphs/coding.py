"""Codes graphs: the arrays that a network reads, and their profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from nas.data.columns import distinct
from nas.data.dataset import shape_profile
from nas.data.graphs.content import EDGE, WIDE, Features, Graphs, take_features
from nas.data.precision import column_shift
from nas.data.ragged import Input, Ragged, Whole
from nas.data.samples import Samples
from nas.task import Column, DataProfile, InputError

MOST_CATEGORIES = 256  # the most frequent ones of a feature are kept


def code(samples: Samples, train: np.ndarray) -> tuple[dict[str, Input], DataProfile, list[str]]:
    """Nodes, edges and the edges' features, their profile, and notes.

    Categories are one-hot; numbers stay as they are beside their mean and spread, of the training
    graphs, or of all nodes of a graph that is seen whole in training (labels are not looked
    at). ``channel_mean`` and ``channel_std`` are of the nodes' features, then of the edges';
    categories and 0/1 columns have 0 and 1 there. Every edge is there in both directions, as
    Kipf & Welling 2017, sec. 5.1, read citations.
    """
    graphs: Graphs = samples.inputs
    if not len(graphs.edges):
        raise InputError("there is no edge; without edges the nodes are a table")
    edges, origin, edge_ptr, notes = _undirected(graphs)
    nodes, more = _described_nodes(graphs, edges)
    nodes, features = nodes.settled(), take_features(graphs.edge_features.settled(), origin)
    notes = [*graphs.notes, *notes, *more]
    if graphs.rows is None:
        known = np.zeros(len(graphs.node_ptr) - 1, bool)
        known[train] = True
        seen = np.repeat(known, np.diff(graphs.node_ptr))
        seen_edges = np.repeat(known, np.diff(edge_ptr))
    else:
        seen, seen_edges = np.ones(len(nodes.numbers), bool), np.ones(len(edges), bool)
    columns, mean, std, shift, more = _describe(nodes, seen, "")
    notes += more
    edge_columns, edge_mean, edge_std, edge_shift, more = _describe(features, seen_edges, EDGE)
    notes += more
    x = _coded(nodes, columns, mean, shift)
    described = _coded(features, edge_columns, edge_mean, edge_shift)
    inputs = _inputs(graphs, x, edges, edge_ptr, described)
    profile = replace(
        shape_profile(inputs, train),
        columns=(*columns, *edge_columns),
        channel_mean=(*mean, *edge_mean),
        channel_std=(*std, *edge_std),
        channel_shift=(*shift, *edge_shift) if any((*shift, *edge_shift)) else (),
    )
    return inputs, profile, notes


def encode(graphs: Graphs, profile: DataProfile) -> dict[str, Input]:
    """New graphs, or the nodes of one, with the features of the training data.

    Raises InputError where a feature is absent, and where one graph is expected but many are given.
    """
    by_node = "node" in profile.inputs
    if by_node and graphs.rows is None:
        raise InputError("the network reads the nodes of one graph; give one graph")
    if not by_node and graphs.rows is not None:
        graphs = replace(graphs, rows=None)  # a single graph is a sample as well
    edges, origin, edge_ptr, _ = _undirected(graphs)
    columns = [c for c in profile.columns if not c.name.startswith(EDGE)]
    edge_columns = [c for c in profile.columns if c.name.startswith(EDGE)]
    plain = [replace(c, name=c.name.removeprefix(EDGE)) for c in edge_columns]
    nodes = _described_nodes(graphs, edges)[0].settled(columns)
    features = take_features(graphs.edge_features.settled(plain), origin)
    width = profile.inputs["nodes"][-1]
    mean = profile.channel_mean
    shift = profile.channel_shift or (0.0,) * len(mean)
    x = _coded(nodes, columns, mean[:width], shift[:width], width)
    edge_width = profile.inputs["edge_features"][-1] if "edge_features" in profile.inputs else 0
    described = np.zeros((0, edge_width), np.float32)
    if len(edges):  # without any, their features need not be known
        described = _coded(features, edge_columns, mean[width:], shift[width:], edge_width)
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
    """The nodes' features; where there are none, the degree as a category (Xu et al. 2019, "How
    Powerful are Graph Neural Networks?", sec. 7)."""
    degree = np.bincount(edges[:, 1], minlength=int(graphs.node_ptr[-1]))
    notes = []
    if alone := int((degree == 0).sum()):
        notes.append(f"{alone} of {len(degree)} nodes have no edge: only their own features count")
    if not graphs.nodes.empty:
        return graphs.nodes, notes
    notes.append("the nodes have no features: their degree is used as one")
    return replace(graphs.nodes, tags={"degree": pd.Series(degree)}), notes


def _describe(
    features: Features, seen: np.ndarray, prefix: str
) -> tuple[list[Column], tuple[float, ...], tuple[float, ...], tuple[float, ...], list[str]]:
    """Columns, mean, spread and shift of the coded features on the rows ``seen``, and notes."""
    columns: list[Column] = []
    notes: list[str] = []
    known = features.numbers[seen].astype(np.float64)
    missing = np.isnan(known)
    shift = np.zeros(known.shape[1])
    if features.numbers.dtype != np.float32:  # which lose nothing: see ``narrowed``
        shift[:] = [column_shift(values[~np.isnan(values)]) for values in known.T]
        known = known - shift if shift.any() else known
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
        kept = sorted(texts[i] for i in order[:MOST_CATEGORIES] if counts[i])
        if (counts > 0).sum() > MOST_CATEGORIES:
            notes.append(
                f"{prefix}{name} has {int((counts > 0).sum())} categories: the {MOST_CATEGORIES}"
                " most frequent are kept"
            )
        added += len(kept)
        columns.append(Column(prefix + name, "categorical", categories=tuple(kept)))
    means = (*map(float, mean), *[0.0] * added)
    stds = (*map(float, std), *[1.0] * added)
    return columns, means, stds, (*map(float, shift), *[0.0] * added), notes


def _coded(
    features: Features,
    columns: Sequence[Column],
    mean: Sequence[float],
    shift: Sequence[float],
    width: int | None = None,
) -> np.ndarray:
    """float32 (n, width): the numbers less ``shift``, missing ones as ``mean``, then each tag
    one-hot, with zeros for a category that training has not seen."""
    tags = [c for c in columns if c.kind == "categorical"]
    names = [c.name.removeprefix(EDGE) for c in columns if c.kind == "numeric"]
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
    if any(shift[:expected]):
        values = values.astype(np.float64) - np.asarray(shift[:expected])
    parts = [np.where(np.isnan(values), np.asarray(mean[:expected], np.float32), values)]
    for column in tags:
        name = column.name.removeprefix(EDGE)
        if name not in features.tags:
            raise InputError(f"the feature {name!r} of the training data is absent")
        codes, texts = distinct(features.tags[name])
        position = {text: i for i, text in enumerate(column.categories)}
        unknown = len(position)
        index = np.array([*(position.get(text, unknown) for text in texts), unknown], int)
        parts.append(np.eye(unknown + 1, unknown, dtype=np.float32)[index[codes]])
    return np.concatenate(parts, axis=1, dtype=np.float32)
