"""Objects with ``edge_index``, as those of torch_geometric, and graphs of networkx, alone or in a
sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data.graphs.content import array_features, checked_graphs
from nas.data.graphs.labels import label_columns, labelled_nodes, part_codes
from nas.data.graphs.networks import is_network, network_object
from nas.data.samples import PARTS, Arrays, Samples, to_numpy
from nas.task import InputError


def holds_graphs(source: Any) -> bool:
    """Whether a source is an object with ``edge_index``, a graph of networkx, or a sequence of
    either."""
    return _first(source) is not None


def objects_of(source: Any, target: list[str] | None = None) -> list[Any]:
    """The graphs in a source as objects with ``edge_index``, else none; ``target`` names the
    attribute of networkx's that is the label."""
    first = _first(source)
    if first is None:
        return []
    source = source.x if isinstance(source, Arrays) else source
    found = [source] if first is source else [source[i] for i in range(len(source))]
    return [network_object(each, target) if is_network(each) else each for each in found]


def _first(source: Any) -> Any:
    """The first graph of a source, or None; a single graph is the source itself."""
    if isinstance(source, Arrays):
        source = source.x
    if isinstance(source, (Path, pd.DataFrame, np.ndarray, str, dict)):
        return None
    if is_network(source):
        return source
    if hasattr(source, "edge_index") and not isinstance(source, (list, tuple)):
        return source
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__") or not len(source):
        return None
    try:
        first = source[0]
    except (KeyError, IndexError, TypeError):
        return None
    known = is_network(first) or getattr(first, "edge_index", None) is not None
    return first if known else None


def from_objects(objects: list[Any], y: Any, target: list[str] | None, predict: bool) -> Samples:
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

    nodes = array_features(sum(sizes), None, joined(xs, "x"), "x")
    described = array_features(len(edges), None, joined(attributes, "edge_attr"), "edge_attr")
    graphs = checked_graphs(nodes, edges, described, node_ptr, edge_ptr, "the data")
    if len(objects) == 1 and (y is not None or ys[0] is None or len(ys[0]) == sizes[0]):
        masks: dict[str, np.ndarray] = {}
        for part in PARTS:
            mask = read(objects[0], f"{part}_mask")
            if mask is not None:
                masks[part] = mask[:, 0] if mask.ndim == 2 else mask  # of several splits, one
        labels = pd.DataFrame(index=range(sizes[0]))
        if y is not None or ys[0] is not None:
            labels = label_columns(ys[0] if y is None else y, target)
        given = part_codes(masks, sizes[0], "the data")
        return labelled_nodes(graphs, labels, given, labels, predict, "the data")
    if y is None and ys[0] is not None:
        rows = [np.atleast_1d(np.squeeze(value)) for value in ys if value is not None]
        if len({row.shape for row in rows}) > 1 or rows[0].ndim != 1:
            raise InputError("the graphs differ in the shape of y; each needs one label or row")
        y = np.stack(rows)
    labels = pd.DataFrame(index=range(len(objects))) if y is None else label_columns(y, target)
    if len(labels) != len(objects):
        raise InputError(f"{len(objects)} graphs, but y has {len(labels)}")
    return Samples(graphs, labels, None, labels)
