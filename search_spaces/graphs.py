"""Families for graphs: GCN, GAT, GraphSAGE, for the nodes of one graph and for many graphs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nas import rules
from nas.family import Family
from nas.space import Choice, Config, Float, Int, Param, Space
from nas.task import Task

if TYPE_CHECKING:
    from torch import nn

WORD_COUNTS_FROM = 64  # features of a node, which may then be counts of words


def _widths(task: Task) -> tuple[int, int]:
    """Features of a node and of an edge."""
    inputs = task.profile.inputs
    return inputs["nodes"][-1], inputs.get("edge_features", (0,))[-1]


def _plain(task: Task) -> bool:
    """Whether the nodes have many features that the reader left as they are."""
    width, _ = _widths(task)
    mean, std = task.profile.channel_mean[:width], task.profile.channel_std[:width]
    return width >= WORD_COUNTS_FROM and not any(mean) and all(s == 1 for s in std)


def _space(
    task: Task, weights: float, own: list[Param], *, lr: float, left_out: float = 0.8
) -> Space:
    """The space of all three families; ``weights`` × width² parameters are in a layer, and
    ``left_out`` is the fraction of a single graph's many features that a step leaves out."""
    by_node = rules.is_node_level(task)
    classes = any(t.kind != "regression" for t in task.targets)
    features, _ = _widths(task)
    depth = rules.depth(task, low=1, base=4, default=2 if by_node else 3)
    params: list[Param] = [
        replace(depth, why=("graph-depth", *depth.why)),
        rules.width(
            task,
            "width",
            low=8,
            base=96,
            default=64,
            weights=weights,
            layers=depth.default,
            inputs=features + task.outputs,
        ),
        *own,
        rules.norm(
            task,
            "norm",
            ("batch", "layer", "none"),
            "none" if by_node else "batch",
            rule="graph-layers",
        ),
        rules.activation("activation", "relu", ("relu", "silu")),
        # A layer has at most three products; linear layers and the head stand around them.
        Choice(
            "residual",
            (True, False),
            default=not by_node,
            when={"depth": rules.plain_depths(depth, around=3, each=3)},
            why=("residual-from-10", "graph-layers"),
        ),
        Choice(
            "jumping",
            ("last", "max", "cat"),
            default="last" if by_node else "cat",
            why=("jumping-knowledge",),
        ),
        Int("pre", 0, 1, default=0 if by_node else 1, why=("graph-layers",)),
        Int("post", 0, 1, default=0 if by_node else 1, why=("graph-layers",)),
    ]
    if _plain(task):
        params.append(Choice("features", ("rows", "plain"), default="rows", why=("word-counts",)))
    if not by_node:
        kinds = ("mean", "max", "sum", "attention")
        pooled = "mean" if classes else "sum"
        params.append(Choice("pooling", kinds, default=pooled, why=("graph-pooling",)))
    scarce = by_node and features >= WORD_COUNTS_FROM
    params += [
        rules.dropout(task, default=0.5 if by_node else 0.1),
        Float(
            "input_dropout", 0.0, 0.9, default=left_out if scarce else 0.0, why=("drop-features",)
        ),
        Float("edge_dropout", 0.0, 0.5, default=0.0, why=("drop-edge",)),
    ]
    return Space((*params, *rules.label_smoothing(task), *rules.training(task, lr=lr)))


def _rate(task: Task) -> float:
    return 1e-2 if rules.is_node_level(task) else 3e-3


def _gcn_space(task: Task) -> Space:
    return _space(task, 1, [], lr=_rate(task))


def _gat_space(task: Task) -> Space:
    by_node = rules.is_node_level(task)
    own: list[Param] = [
        rules.heads(default=8 if by_node else 4),
        Float(
            "attention_dropout",
            0.0,
            0.6,
            default=0.6 if by_node else 0.0,
            why=("drop-features", "drop-edge"),
        ),
    ]
    # Attention leaves out more of the same: 0.6, as Veličković et al. 2018, sec. 3.3.
    return _space(task, 1, own, lr=_rate(task), left_out=0.6)


def _graphsage_space(task: Task) -> Space:
    kinds = ("mean", "max")
    own: list[Param] = [Choice("aggregation", kinds, default="mean", why=("neighbours-mean",))]
    return _space(task, 2, own, lr=_rate(task))


def _build(kind: str, config: Config, task: Task) -> nn.Module:
    from nas.models.gnn import GNN, FeatureInput, GNNConfig

    features, described = _widths(task)
    mean, std = task.profile.channel_mean, task.profile.channel_std
    by_node = rules.is_node_level(task)
    layers = GNNConfig(
        kind,
        width=int(config["width"]),
        depth=int(config["depth"]),
        pre=int(config["pre"]),
        post=int(config["post"]),
        heads=int(config.get("heads", 1)),
        aggregation=str(config.get("aggregation", "mean")),
        norm=str(config["norm"]),
        activation=str(config["activation"]),
        residual=bool(config.get("residual", True)),
        jumping=str(config["jumping"]),
        attention_dropout=float(config.get("attention_dropout", 0.0)),
    )
    return GNN(
        FeatureInput(mean[:features], std[:features], rows=config.get("features") == "rows"),
        task.outputs,
        layers,
        edge_input=FeatureInput(mean[features:], std[features:]) if described else None,
        pooling=None if by_node else str(config["pooling"]),
        size=1.0 if by_node else max(task.profile.lengths["nodes"][3], 1),
        sparse=_plain(task),
        dropout=float(config["dropout"]),
        input_dropout=float(config["input_dropout"]),
        edge_dropout=float(config["edge_dropout"]),
    )


def _build_gcn(config: Config, task: Task) -> nn.Module:
    return _build("gcn", config, task)


def _build_gat(config: Config, task: Task) -> nn.Module:
    return _build("gat", config, task)


def _build_graphsage(config: Config, task: Task) -> nn.Module:
    return _build("graphsage", config, task)


FAMILIES = (
    Family(
        "gcn",
        "graphs",
        "Kipf & Welling 2017, Semi-Supervised Classification with Graph Convolutional Networks",
        _gcn_space,
        _build_gcn,
        "Graphs whose neighbours are alike; the cheapest.",
    ),
    Family(
        "gat",
        "graphs",
        "Veličković et al. 2018, Graph Attention Networks",
        _gat_space,
        _build_gat,
        "Graphs of which some neighbours matter more than others: attention weighs them.",
    ),
    Family(
        "graphsage",
        "graphs",
        "Hamilton et al. 2017, Inductive Representation Learning on Large Graphs",
        _graphsage_space,
        _build_graphsage,
        "Large graphs, and nodes unlike their neighbours: a node is kept apart from those.",
    ),
)
