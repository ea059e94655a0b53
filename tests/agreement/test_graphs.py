"""The convolutions on graphs against torch_geometric on identical weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nas.models.gnn import Edges, GATConv, GCNConv, GraphPool, SAGEConv

pytestmark = pytest.mark.agreement
geometric: Any = pytest.importorskip("torch_geometric.nn", reason="torch_geometric is not here")

NODES, INPUTS, WIDTH, FEATURES = 40, 7, 12, 3


@pytest.fixture
def graph() -> tuple[Tensor, Tensor, Tensor]:
    """Nodes, directed edges without loops (some nodes have none), features of edges."""
    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(0, NODES - 5, (120, 2), generator=generator)
    edges = edges[edges[:, 0] != edges[:, 1]].unique(dim=0)
    x = torch.randn(NODES, INPUTS, generator=generator)
    return x, edges, torch.randn(len(edges), FEATURES, generator=generator)


def assert_agree(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gcn_agrees(graph: tuple[Tensor, Tensor, Tensor]) -> None:
    x, edges, _ = graph
    theirs = geometric.GCNConv(INPUTS, WIDTH)
    ours = GCNConv(INPUTS, WIDTH)
    torch.nn.init.normal_(theirs.bias)
    ours.load_state_dict({"linear.weight": theirs.lin.weight, "bias": theirs.bias})
    assert_agree(ours(x, Edges.of(edges, NODES)), theirs(x, edges.T))


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("described", [False, True])
def test_gat_agrees(graph: tuple[Tensor, Tensor, Tensor], heads: int, described: bool) -> None:
    x, edges, features = graph
    k = FEATURES if described else 0
    theirs = geometric.GATConv(INPUTS, WIDTH // heads, heads, edge_dim=k or None)
    ours = GATConv(INPUTS, WIDTH, heads, k)
    torch.nn.init.normal_(theirs.bias)
    weights = {
        "linear.weight": theirs.lin.weight,
        "source": theirs.att_src[0],
        "target": theirs.att_dst[0],
        "bias": theirs.bias,
    }
    if described:  # the library keeps two matrices of which only the product matters
        matrix = theirs.lin_edge.weight.view(heads, -1, k)
        weights["edge.weight"] = (matrix * theirs.att_edge[0].unsqueeze(2)).sum(1)
    ours.load_state_dict(weights)
    given = features if described else None
    assert_agree(ours(x, Edges.of(edges, NODES, given)), theirs(x, edges.T, edge_attr=given))


@pytest.mark.parametrize("width", [4, WIDTH])  # narrower and wider than the inputs
@pytest.mark.parametrize("aggregation", ["mean", "max"])
def test_graphsage_agrees(
    graph: tuple[Tensor, Tensor, Tensor], aggregation: str, width: int
) -> None:
    x, edges, _ = graph
    theirs = geometric.SAGEConv(INPUTS, width, aggr=aggregation)
    ours = SAGEConv(INPUTS, width, aggregation)
    ours.load_state_dict(
        {
            "neighbours.weight": theirs.lin_l.weight,
            "neighbours.bias": theirs.lin_l.bias,
            "root.weight": theirs.lin_r.weight,
        }
    )
    assert_agree(ours(x, Edges.of(edges, NODES)), theirs(x, edges.T))


@pytest.mark.parametrize("kind", ["mean", "max", "sum", "attention"])
def test_pooling_agrees(kind: str) -> None:
    lengths = torch.tensor([3, 1, 8])
    x = torch.randn(12, WIDTH, generator=torch.Generator().manual_seed(0))
    graph = torch.arange(3).repeat_interleave(lengths)
    ours = GraphPool(kind, WIDTH)
    if ours.score is not None:
        torch.nn.init.normal_(ours.score)
        gate = torch.nn.Linear(WIDTH, 1, bias=False)
        gate.load_state_dict({"weight": ours.score.T})
        theirs = geometric.AttentionalAggregation(gate)(x, graph)
    else:
        pools = {"mean": "global_mean_pool", "max": "global_max_pool", "sum": "global_add_pool"}
        theirs = getattr(geometric, pools[kind])(x, graph)
    assert_agree(ours(x, lengths), theirs)


def test_data_objects_of_the_library_are_read() -> None:
    from torch_geometric.data import Data  # type: ignore[import-not-found]

    from nas.data import read

    generator = torch.Generator().manual_seed(0)

    def graph(label: Tensor, nodes: int) -> Any:
        start = torch.arange(nodes)
        edges = torch.stack([start, (start + 1) % nodes])
        return Data(x=torch.randn(nodes, 2, generator=generator), edge_index=edges, y=label)

    many = [graph(torch.tensor([i % 2]), 3 + i % 4) for i in range(20)]
    data = read(many)
    assert data.modality == "graphs"
    assert data.profile.inputs["nodes"] == (6, 2)
    one = graph(torch.arange(20) % 2, 20)
    one.train_mask, one.val_mask = torch.arange(20) < 10, torch.arange(20) >= 16
    one.test_mask = ~(one.train_mask | one.val_mask)
    data = read(one)
    assert data.parts["test"].tolist() == [10, 11, 12, 13, 14, 15]
    assert data.profile.inputs["nodes"] == (20, 2)
