"""Folders of TUDataset (Morris et al. 2020), as graphlearning.io describes their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from nas.data.graphs.content import array_features, checked_graphs, take_features
from nas.data.samples import Samples, label_frame
from nas.files import first_line
from nas.task import InputError


def tudataset_name(folder: Path) -> str:
    found = [p.name.removesuffix("_A.txt") for p in folder.glob("*_A.txt")]
    if len(found) == 1 and (folder / f"{found[0]}_graph_indicator.txt").is_file():
        return found[0]
    return ""


def from_tudataset(folder: Path, target: list[str] | None) -> Samples:
    """Morris et al. 2020, "TUDataset", the files described at graphlearning.io."""
    name = tudataset_name(folder)

    def numbers_of(what: str) -> np.ndarray | None:
        file = folder / f"{name}_{what}.txt"
        if not file.is_file():
            return None
        try:
            array = np.loadtxt(file, delimiter=",", ndmin=2)
        except (ValueError, UnicodeDecodeError) as error:
            raise InputError(f"{file} cannot be read: {first_line(error)}") from None
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
    nodes = array_features(
        len(graph), whole(numbers_of("node_labels")), numbers_of("node_attributes"), where
    )
    described = array_features(
        len(pairs), whole(numbers_of("edge_labels")), numbers_of("edge_attributes"), where
    )
    local = (pairs - node_ptr[of_pair][:, None])[order]
    graphs = checked_graphs(
        nodes, local, take_features(described, order), node_ptr, edge_ptr, where
    )
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
