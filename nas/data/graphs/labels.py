"""The labels and the parts of graphs and of nodes, from columns and from arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from nas.data.graphs.content import Graphs
from nas.data.samples import PART_NAMES, PARTS, Samples, label_frame, read_parts
from nas.task import InputError, UsageError


def labelled_nodes(
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


def label_columns(y: Any, target: list[str] | None) -> pd.DataFrame:
    """One column for each target; the class -1 means unknown."""
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


def part_codes(arrays: Mapping[str, np.ndarray], total: int, where: str) -> np.ndarray | None:
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


def given_parts(columns: pd.DataFrame, where: str) -> np.ndarray | None:
    """The parts of a column "split"; where it is empty a row is in none."""
    if "split" not in columns or not is_parts(columns["split"]):
        return None
    known = columns["split"].notna().to_numpy()
    codes = np.full(len(columns), -1, np.int8)
    codes[known] = read_parts(columns["split"][known], where)
    return codes


def is_parts(column: pd.Series) -> bool:
    texts = column.dropna().astype("str").str.strip().str.lower()
    return bool(len(texts)) and bool(texts.isin(PART_NAMES).all())


def named_targets(columns: pd.DataFrame, target: list[str], where: str) -> pd.DataFrame:
    absent = [name for name in target if name not in columns]
    if absent:
        raise UsageError(
            f"{where} has no target column {absent[0]!r}; its columns are"
            f" {', '.join(map(str, columns)) or 'none'}"
        )
    return columns[target]
