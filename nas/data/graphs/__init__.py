"""Graphs: tables, TUDataset folders, objects and .npz files to nodes, edges and their features.

There are two kinds of problem. Either each graph is a sample and has a label; or the nodes of
one graph are the samples, the whole graph is seen in training, and some nodes have labels.
Nodes are numbered from 0 within their graph unless they have ids. The forms:

- a folder with nodes.csv (id, features, target, perhaps split and graph) and edges.csv
  (source, target, features, and graph where ids repeat from graph to graph); a target that
  is one for all nodes of a graph is the graph's, and so are those of graphs.csv (graph,
  target, perhaps split);
- a TUDataset folder: NAME_A.txt, NAME_graph_indicator.txt, NAME_graph_labels.txt or
  NAME_graph_attributes.txt, and node and edge labels and attributes where there are any;
- an object with ``edge_index`` (2, E) and ``x``, ``edge_attr``, ``y``, ``train_mask`` …, as
  torch_geometric's Data, or a list of them; graphs of networkx, with attributes that are numbers
  and the label as y or as the attribute that the target names;
- .npz of one graph: ``edges`` (E, 2); ``x`` or ``node_feat`` (N, f) or, as CSR matrix,
  ``x_data``, ``x_indices``, ``x_indptr``, ``x_shape``; ``node_tag`` (N,), numbers that are
  categories; ``edge_feat`` (E, k) and ``edge_type`` (E,) likewise; ``y`` (N,), negative or NaN
  where unknown; ``train``, ``val``, ``test``, node numbers or masks;
- .npz of many graphs end to end: ``node_ptr`` (n + 1,), ``edge_ptr``, ``edges``; ``node_tag``
  and ``node_feat``; ``edge_type`` and ``edge_feat``; ``y`` (n, …), and any other array (n,) as a
  column: "split" holds the parts, and "fold" 0 for test, 1 for val. A table beside it of the
  same name, one row a graph, adds columns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.data.column_types import ignored_only
from nas.data.graphs.archives import archive_of, from_archive, from_files, is_archive
from nas.data.graphs.coding import code, encode
from nas.data.graphs.objects import from_objects, holds_graphs, objects_of
from nas.data.graphs.tables import TARGETS, from_tables, table_file
from nas.data.graphs.tudataset import from_tudataset, tudataset_name
from nas.data.samples import Arrays, Samples
from nas.task import InputError, UsageError

__all__ = ["code", "encode", "from_files", "is_archive", "load", "load_inputs", "recognise"]


def recognise(source: Any) -> str:
    if isinstance(source, Path):
        if source.is_file():
            return f"{source.name} holds edges" if is_archive(source) else ""
        if table_file(source, "nodes") and table_file(source, "edges"):
            return f"{source.name} holds tables of nodes and edges"
        if tudataset_name(source):
            return f"{source.name} holds the files of a TUDataset"
        archive, _ = archive_of(source)
        return f"{archive.name} holds edges" if archive else ""
    return "objects with edge_index, or of networkx" if holds_graphs(source) else ""


def load(source: Any, target: list[str] | None, columns: Mapping[str, str]) -> Samples:
    """Labelled graphs, or the labelled nodes of one; ``columns`` says which features to ignore."""
    samples = _load(source, target)
    features = samples.inputs.feature_names
    samples = replace(
        samples, inputs=samples.inputs.without(ignored_only(columns, features, "graph"))
    )
    if samples.labels.empty:
        raise UsageError(f"{_name(source)} holds no labels; give y, or name the target column")
    return samples


def load_inputs(source: Any, as_written: Collection[str] = ()) -> Samples:
    """Graphs to predict, or all nodes of one graph."""
    return _load(source, None, predict=True, written=as_written)


def _load(
    source: Any,
    target: list[str] | None,
    predict: bool = False,
    written: Collection[str] = (),
) -> Samples:
    if not isinstance(source, Path):
        objects = objects_of(source, target)
        if not objects:
            raise UsageError(
                f"{_name(source)}: expected graphs, objects with edge_index or of networkx"
            )
        y = source.y if isinstance(source, Arrays) else None
        return from_objects(objects, y, target, predict)
    if source.is_file():
        return from_archive(source, None, target, predict)
    if table_file(source, "nodes") and table_file(source, "edges"):
        return from_tables(source, target, predict, written or target or TARGETS)
    if tudataset_name(source):
        return from_tudataset(source, target)
    archive, table = archive_of(source)
    if archive:
        return from_archive(archive, table, target, predict)
    raise InputError(
        f"{source} holds no graphs; expected nodes.csv and edges.csv, the files of a TUDataset"
        " (NAME_A.txt …), or one .npz file with edges"
    )


def _name(source: Any) -> str:
    return str(source) if isinstance(source, Path) else getattr(source, "name", "the data")
