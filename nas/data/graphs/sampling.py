"""Neighbourhoods of nodes out of one large graph, whose edges stay in their file.

Edges (E, 2), from source to target, are ordered by target, as ``nas.data.graphs.coding`` leaves
them: with the place where each node's edges begin they are a sparse matrix in CSR form, and a
neighbourhood is read from a few pages of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COUNTED = 2**22  # edges that are read at once


@dataclass(frozen=True)
class Neighbourhood:
    """Nodes and what reaches them along edges, numbered anew from 0.

    ``nodes`` (n,) are the graph's numbers of them, those that were asked for first; ``edges``
    (e, 2) are rows of ``nodes``, source and target; ``origin`` (e,) are rows of the graph's edges.
    """

    nodes: np.ndarray
    edges: np.ndarray
    origin: np.ndarray


def first_edges(edges: np.ndarray, nodes: int) -> np.ndarray:
    """Where the edges that end in each node begin among ``edges`` (E, 2), int64 (nodes + 1,).

    Example:
        >>> first_edges(np.array([[1, 0], [2, 0], [0, 2]]), 3).tolist()
        [0, 2, 2, 3]
    """
    degree = np.zeros(nodes, np.int64)
    for start in range(0, len(edges), COUNTED):
        degree += np.bincount(edges[start : start + COUNTED, 1], minlength=nodes)
    return np.concatenate([[0], np.cumsum(degree)])


def neighbourhood(
    edges: np.ndarray,
    starts: np.ndarray,
    nodes: np.ndarray,
    fan_out: Sequence[int | None],
    rng: np.random.Generator,
) -> Neighbourhood:
    """Nodes with what reaches them in ``len(fan_out)`` hops (Hamilton et al. 2017, "Inductive
    Representation Learning on Large Graphs", alg. 2).

    Each node that the hop before has found first gets its edges once: at most ``fan_out`` of that
    hop, drawn without replacement, each set of them with the same chance; all where it is None. A
    network of as many convolutions gives the logits of ``nodes`` that it gives on the whole graph,
    where no fan-out is less than a degree.

    Args:
        edges: Of the graph, int (E, 2), ordered by target.
        starts: What ``first_edges`` returns.
        nodes: Numbers of the nodes that are asked for, int64 (n,).
        fan_out: The most edges of a node, for each hop.
        rng: Draws them.

    Example:
        Of a chain 2 → 1 → 0 one hop reaches the neighbour alone:

        >>> chain = np.array([[1, 0], [2, 1]])
        >>> rng = np.random.default_rng(0)
        >>> neighbourhood(chain, first_edges(chain, 3), np.array([0]), [5], rng).nodes.tolist()
        [0, 1]
    """
    place = np.full(len(starts) - 1, -1, np.int32)  # of each node of the graph among those found
    frontier = found = _first_seen(nodes, place, 0)
    pairs, origin = [], []
    for most in fan_out:
        rows, counts = _drawn(starts, frontier, most, rng)
        sources = np.asarray(edges[rows, 0])
        targets = np.repeat(place[frontier], counts)
        frontier = _first_seen(sources, place, len(found))
        found = np.concatenate([found, frontier])
        pairs.append(np.stack([place[sources], targets], axis=1))
        origin.append(rows)
    return Neighbourhood(found, np.concatenate(pairs).astype(np.int64), np.concatenate(origin))


def _first_seen(nodes: np.ndarray, place: np.ndarray, start: int) -> np.ndarray:
    """Those that have no ``place`` yet, once each; they get places from ``start`` on."""
    new = nodes[place[nodes] < 0]
    number = np.arange(len(new), dtype=place.dtype)
    place[new] = number  # of a node that comes several times the last stays
    once: np.ndarray = new[place[new] == number]
    place[once] = start + np.arange(len(once), dtype=place.dtype)
    return once


def _drawn(
    starts: np.ndarray, nodes: np.ndarray, most: int | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the edges that end in each of the nodes, end to end, and how many of each."""
    first = starts[nodes]
    degree = starts[nodes + 1] - first
    counts = degree if most is None else np.minimum(degree, most)
    rows = np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    if most is not None and (many := degree > most).any():
        chosen = _distinct(degree[many], most, rng) + first[many, None]
        rows[np.repeat(many, counts)] = chosen.ravel()
    return rows, counts


def _distinct(sizes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """For each of ``sizes`` (n,) that many different numbers below it, (n, count): Floyd's
    algorithm (Bentley & Floyd 1987, "A Sample of Brilliance") for all of them at once."""
    chosen = np.empty((len(sizes), count), np.int64)
    for i in range(count):
        last = sizes - count + i
        drawn = rng.integers(last + 1)
        again = (chosen[:, :i] == drawn[:, None]).any(axis=1)
        chosen[:, i] = np.where(again, last, drawn)
    return chosen
