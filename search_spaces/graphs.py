"""Families for graphs: GCN, GAT, GraphSAGE, for the nodes of one graph and for many graphs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nas import rules
from nas.family import Family, Reference, carried
from nas.space import Choice, Config, Float, Int, Param, Space, When
from nas.task import DataProfile, Target, Task

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


def _few_labels(task: Task) -> bool:
    """Whether fewer nodes of a single graph have labels than each has features."""
    return rules.is_node_level(task) and task.profile.n_train < _widths(task)[0]


def _space(
    task: Task,
    weights: float,
    own: list[Param],
    references: tuple[Reference, ...],
    *,
    left_out: float = 0.8,
) -> Space:
    """The space of all three families; ``weights`` × width² parameters are in a layer, and
    ``left_out`` is the fraction of a single graph's many features that a step leaves out where
    labels are few."""
    drawn = rules.samples_neighbours(task)
    published = [_allowed(reference.config, task) for reference in carried(references, task)]
    published.sort(key=lambda c: (int(c["width"]), int(c["depth"]), c["norm"] != "none"))
    by_node = rules.is_node_level(task)
    classes = any(t.kind != "regression" for t in task.targets)
    features, _ = _widths(task)
    depth = rules.depth(task, low=1, base=4, default=2 if by_node else 3)
    if drawn:
        depth = replace(depth, high=rules.MOST_HOPS, why=("sampled-neighbours",))
    # A layer has at most three products; linear layers and the head stand around them.
    plain = rules.plain_depths(depth, around=3, each=3)
    plain = tuple(sorted({*plain, *(int(c["depth"]) for c in published if not c["residual"])}))
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
            # Nodes at the edge of what is drawn lack neighbours, and would distort the statistics.
            ("layer", "none") if drawn else ("batch", "layer", "none"),
            "none" if by_node else "batch",
            rule="graph-layers",
        ),
        rules.activation("activation", "relu", ("relu", "silu")),
        Choice(
            "residual",
            (True, False),
            default=not by_node,
            when={"depth": plain},
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
    if by_node:
        when: When = {"jumping": ("last",), "post": (0,)}
        heads = ("convolution", "linear")
        params.append(
            Choice("head", heads, default="convolution", when=when, why=("graph-layers",))
        )
    if _plain(task):
        params.append(Choice("features", ("rows", "plain"), default="rows", why=("word-counts",)))
    if not by_node:
        kinds = ("mean", "max", "sum", "attention")
        pooled = "mean" if classes else "sum"
        params.append(Choice("pooling", kinds, default=pooled, why=("graph-pooling",)))
    scarce = _few_labels(task) and features >= WORD_COUNTS_FROM
    params += [
        rules.dropout(task, default=0.5 if by_node else 0.1),
        Float(
            "input_dropout", 0.0, 0.9, default=left_out if scarce else 0.0, why=("drop-features",)
        ),
        Float("edge_dropout", 0.0, 0.5, default=0.0, why=("drop-edge",)),
    ]
    if drawn:
        params.append(rules.fan_out())
    lr = 1e-2 if by_node and not drawn else 3e-3
    space = Space((*params, *rules.label_smoothing(task), *rules.training(task, lr=lr)))
    # Those that are no wider than the baseline do not replace it.
    small = [c for c in published if int(c["width"]) <= int(space["width"].default)]
    return space.holding([c for c in published if c not in small], "references", small)


def _allowed(config: Config, task: Task) -> Config:
    """A published configuration without what only word counts have, where there are none."""
    return {n: v for n, v in config.items() if n != "features" or _plain(task)}


def _gcn_space(task: Task) -> Space:
    return _space(task, 1, [], GCNS)


def _gat_space(task: Task) -> Space:
    own: list[Param] = [
        rules.heads(default=8 if rules.is_node_level(task) else 4),
        Float(
            "attention_dropout",
            0.0,
            0.6,
            default=0.6 if _few_labels(task) else 0.0,
            why=("drop-features", "drop-edge"),
        ),
    ]
    # Attention leaves out more of the same: 0.6, as Veličković et al. 2018, sec. 3.3.
    return _space(task, 1, own, GATS, left_out=0.6)


def _graphsage_space(task: Task) -> Space:
    kinds = ("mean", "max")
    own: list[Param] = [Choice("aggregation", kinds, default="mean", why=("neighbours-mean",))]
    return _space(task, 2, own, GRAPHSAGES)


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
        head=str(config.get("head", "linear")),
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
        fan_out=rules.fan_outs(int(config["fan_out"]), layers.depth) if "fan_out" in config else (),
    )


def _build_gcn(config: Config, task: Task) -> nn.Module:
    return _build("gcn", config, task)


def _build_gat(config: Config, task: Task) -> nn.Module:
    return _build("gat", config, task)


def _build_graphsage(config: Config, task: Task) -> nn.Module:
    return _build("graphsage", config, task)


# Published networks --------------------------------------------------------------------------


def _one_graph(nodes: int, edges: int, features: int, labelled: int, classes: int) -> Task:
    """The nodes of one graph, whose edges count in both directions. Where features are more than
    1,000 they are counts of words."""
    names = tuple(f"class {i}" for i in range(classes))
    target = Target("label", "multiclass", names, (labelled // classes,) * classes)
    mean, std = (0.0, 1.0) if features > 1_000 else (0.01, 0.1)
    profile = DataProfile(
        labelled,
        nodes // 10,
        nodes // 10,
        {"nodes": (nodes, features), "edges": (edges, 2), "node": ()},
        channel_mean=(mean,) * features,
        channel_std=(std,) * features,
    )
    return Task("graphs", (target,), profile)


_CORA = _one_graph(2_708, 10_556, 1_433, 140, 7)
_ARXIV = _one_graph(169_343, 2_315_598, 128, 90_941, 40)  # ogbn-arxiv
_PRODUCTS = _one_graph(2_449_029, 123_718_280, 100, 196_615, 47)  # ogbn-products
_REDDIT = _one_graph(232_965, 114_615_892, 602, 153_431, 41)
_OGB = "Hu et al. 2020 (Open Graph Benchmark), leaderboard and its examples"


def _published(
    name: str, source: str, params: int, task: Task, own: Config, extra: int = 0, differs: str = ""
) -> Reference:
    config: Config = {"depth": 2, "norm": "none", "activation": "relu", "residual": False}
    config |= {"jumping": "last", "pre": 0, "post": 0, "head": "convolution", "dropout": 0.5}
    config |= {"input_dropout": 0.0, "edge_dropout": 0.0, **own}
    nodes = task.profile.inputs["nodes"][0]
    # Of the whole graph, for each node that has a label. Sums over neighbours wait for memory.
    macs, slow = params * nodes / task.profile.n_train, 0.05
    width = int(config["width"])
    return Reference(name, source, params, config, task, extra, differs, macs, slow, width)


_WORDS: Config = {"features": "rows", "input_dropout": 0.5}
_WIDE: Config = {"depth": 3, "width": 256}
_MEAN: Config = {"aggregation": "mean"}
GCNS = (
    _published(
        "GCN on Cora", "Kipf & Welling 2017, sec. 5.2", 23_063, _CORA, {"width": 16, **_WORDS},
        differs="no count is published: it is that of the layers",
    ),
    _published("GCN on ogbn-products", _OGB, 103_727, _PRODUCTS, _WIDE),
    _published("GCN on ogbn-arxiv", _OGB, 110_120, _ARXIV, {**_WIDE, "norm": "batch"}),
)  # fmt: skip
GATS = (
    _published(
        "GAT on Cora", "Veličković et al. 2018, sec. 3.3", 92_373, _CORA,
        {
            "width": 64, "heads": 8, "attention_dropout": 0.6, **_WORDS, "input_dropout": 0.6,
            "dropout": 0.6,
        },
        differs="ReLU in the place of ELU; no count is published: it is that of the layers",
    ),
)  # fmt: skip
GRAPHSAGES = (
    _published("GraphSAGE on ogbn-products", _OGB, 206_895, _PRODUCTS, {**_WIDE, **_MEAN}),
    _published(
        "GraphSAGE on ogbn-arxiv", _OGB, 218_664, _ARXIV, {**_WIDE, **_MEAN, "norm": "batch"}
    ),
    _published(
        "GraphSAGE on Reddit", "Hamilton et al. 2017, alg. 1 and sec. 4", 449_833, _REDDIT,
        {"width": 256, "head": "linear", **_MEAN}, 2 * 256,
        "biases in both layers, but no scaling to unit length; no count is published: it is that"
        " of two layers of 256 by alg. 1 and of a linear one",
    ),
)  # fmt: skip

FAMILIES = (
    Family(
        "gcn",
        "graphs",
        "Kipf & Welling 2017, Semi-Supervised Classification with Graph Convolutional Networks",
        _gcn_space,
        _build_gcn,
        "Graphs whose neighbours are alike; the cheapest.",
        GCNS,
    ),
    Family(
        "gat",
        "graphs",
        "Veličković et al. 2018, Graph Attention Networks",
        _gat_space,
        _build_gat,
        "Graphs of which some neighbours matter more than others: attention weighs them.",
        GATS,
    ),
    Family(
        "graphsage",
        "graphs",
        "Hamilton et al. 2017, Inductive Representation Learning on Large Graphs",
        _graphsage_space,
        _build_graphsage,
        "Large graphs, and nodes unlike their neighbours: a node is kept apart from those.",
        GRAPHSAGES,
    ),
)
