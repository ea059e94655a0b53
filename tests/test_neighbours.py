"""Neighbours that are drawn from a graph too large for a batch, and networks on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from default_run import mostly_slow
from torch import Tensor, nn

import nas
from nas import recipe, rules
from nas.candidate import Candidate
from nas.data import read
from nas.data.graphs.sampling import first_edges, neighbourhood
from nas.export.graph import write_onnx
from nas.export.standalone import write_standalone
from nas.export.trained import open_trained
from nas.family import load_families
from nas.models.gnn import GNN, FeatureInput, GNNConfig
from nas.plan import make_task
from nas.task import Budget, Constraint, DataProfile, Target, Task
from nas.train import train
from nas.training import neighbours
from nas.training.batches import Batches, SampledNodes, WholeTensor, row_inputs
from nas.training.latency import onnx_session
from nas.training.neighbours import layered_tensors, sampled_tensors

FAMILIES = ["gcn", "gat", "graphsage"]
NODES = 90


def random_edges(nodes: int = NODES, each: int = 6, seed: int = 0) -> np.ndarray:
    """(E, 2) in both directions, ordered by target, with a hub and a node without edges."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, nodes - 1, (nodes * each // 2, 2))
    pairs = np.concatenate([pairs, np.stack([np.zeros(40, int), np.arange(1, 41)], axis=1)])
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    return pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))].astype(np.int32)


EDGES = random_edges()
STARTS = first_edges(EDGES, NODES)
LARGEST = int(np.diff(STARTS).max())


def tensors(node: np.ndarray, edge_features: bool = False) -> Any:
    rng = np.random.default_rng(1)
    inputs: dict[str, Any] = {
        "node": torch.from_numpy(node),
        "nodes": WholeTensor(rng.normal(size=(NODES, 5)).astype(np.float32), "cpu"),
        "edges": WholeTensor(EDGES, "cpu"),
    }
    if edge_features:
        features = rng.normal(size=(len(EDGES), 3)).astype(np.float32)
        inputs["edge_features"] = WholeTensor(features, "cpu")
    return inputs, {"y": torch.from_numpy(node % 4)}


def network(kind: str, edge_features: bool = False, **options: Any) -> GNN:
    torch.manual_seed(0)
    fan_out = options.pop("fan_out", (LARGEST, LARGEST))
    layers = GNNConfig(**{"kind": kind, "width": 8, "depth": len(fan_out), "heads": 2, **options})
    edge_input = FeatureInput([0.0] * 3, [1.0] * 3) if edge_features else None
    given = FeatureInput([0.0] * 5, [1.0] * 5)
    return GNN(given, 4, layers, edge_input=edge_input, fan_out=fan_out)


def step(model: nn.Module, batch: dict[str, Tensor], label: Tensor) -> tuple[float, list[Tensor]]:
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(**batch), label)
    loss.backward()
    return float(loss.detach()), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def features_of(model: GNN, given: Any) -> Tensor:
    """What the head of a network reads of the nodes, layer by layer."""
    return torch.cat([x["features"] for x, _ in Batches(*layered_tensors(model, given), 16)])


# -- what is drawn ---------------------------------------------------------------------------------


def drawn(seed: int, *fan_out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes asked for, and pairs of the graph's numbers that are drawn around them."""
    rng = np.random.default_rng(seed)
    asked = rng.permutation(NODES)[:12]
    found = neighbourhood(EDGES, STARTS, asked, fan_out, rng)
    assert (found.nodes[: len(asked)] == asked).all()
    assert (EDGES[found.origin] == found.nodes[found.edges]).all()
    return asked, found.nodes, found.nodes[found.edges]


@pytest.mark.parametrize("seed", range(5))
def test_a_node_gets_as_many_different_neighbours_as_the_fan_out_or_all(seed: int) -> None:
    asked, nodes, pairs = drawn(seed, 4, 2)
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    degree = np.diff(STARTS)
    got = np.bincount(pairs[:, 1], minlength=NODES)
    first_hop = np.setdiff1d(pairs[np.isin(pairs[:, 1], asked), 0], asked)
    assert (got[asked] == np.minimum(degree[asked], 4)).all()
    assert (got[first_hop] == np.minimum(degree[first_hop], 2)).all()
    others = np.setdiff1d(nodes, np.concatenate([asked, first_hop]))
    assert not got[others].any()


@pytest.mark.parametrize("seed", range(5))
def test_nothing_comes_from_outside_the_hops(seed: int) -> None:
    asked, nodes, pairs = drawn(seed, 3, 3)
    known = {tuple(pair) for pair in EDGES.tolist()}
    assert all(tuple(pair) in known for pair in pairs.tolist())
    near = set(asked.tolist())
    for _ in range(2):
        near |= {source for source, target in known if target in near}
    assert set(nodes.tolist()) <= near
    assert len(set(nodes.tolist())) == len(nodes)


def test_each_neighbour_of_a_hub_has_the_same_chance() -> None:
    rng, hub, times = np.random.default_rng(0), np.array([int(np.diff(STARTS).argmax())]), 4_000
    found = [neighbourhood(EDGES, STARTS, hub, [7], rng).origin for _ in range(times)]
    counts = np.bincount(np.concatenate(found))[STARTS[hub[0]] :]
    expected = times * 7 / LARGEST
    assert len(counts) == LARGEST
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_places_of_edges_are_those_of_a_sorted_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.data.graphs.sampling.COUNTED", 50)
    expected = np.searchsorted(EDGES[:, 1], np.arange(NODES + 1))
    assert (first_edges(EDGES, NODES) == expected).all()


def test_a_graph_without_edges_has_neighbourhoods_of_single_nodes() -> None:
    given = tensors(np.array([4, 2]))
    given[0]["edges"] = WholeTensor(np.zeros((0, 2), np.int32), "cpu")
    model = network("graphsage")
    ((batch, _),) = Batches(*sampled_tensors(model, given), 8)
    assert len(batch["nodes"]) == 2
    assert len(batch["edges"]) == 0
    assert features_of(model, given).shape == (2, 8)


# -- batches ---------------------------------------------------------------------------------------


def test_an_epoch_holds_each_training_node_once_with_its_label_and_its_features() -> None:
    node = np.random.default_rng(3).permutation(NODES)[:50]
    given, labels = sampled_tensors(network("gcn", fan_out=(3, 2)), tensors(node))
    whole = tensors(node)[0]["nodes"].array
    orders = []
    batches = Batches(given, labels, 8, seed=0)
    for _ in range(2):
        seen = []
        for batch, label in batches:
            x = batch["nodes"][batch["node"]].numpy()
            own = np.array([int(np.flatnonzero((whole == row).all(axis=1))[0]) for row in x])
            assert (label["y"].numpy() == own % 4).all()
            seen.append(own)
        orders.append(np.concatenate(seen))
        assert len(batches) == 7
        assert sorted(orders[-1]) == sorted(node)
    assert orders[0].tolist() != orders[1].tolist()


def test_a_training_that_goes_on_draws_the_same_neighbours() -> None:
    given = sampled_tensors(network("graphsage", fan_out=(3, 2)), tensors(np.arange(60)))
    first, second = Batches(*given, 8, seed=1), Batches(*given, 8, seed=9)
    expected = [batch["edges"] for batch, _ in first]
    second.go_to({"generator": first.position(3)["generator"], "done": 3})
    found = [batch["edges"] for batch, _ in second]
    assert len(found) == len(expected) - 3
    assert all(torch.equal(a, b) for a, b in zip(found, expected[3:], strict=True))


# -- networks on them ------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("edge_features", [False, True])
@pytest.mark.parametrize("kind", FAMILIES)
def test_with_all_neighbours_loss_and_gradients_are_those_of_the_whole_graph(
    kind: str, edge_features: bool, norm: str
) -> None:
    given = tensors(np.arange(NODES), edge_features)
    model = network(kind, edge_features, norm=norm, jumping="cat", residual=True)
    sampled = Batches(*sampled_tensors(model, given), 16, seed=0)
    whole = {name: x.values for name, x in given[0].items() if isinstance(x, WholeTensor)}
    for batch, labels in sampled:
        loss, gradients = step(model, batch, labels["y"])
        node = torch.from_numpy(batch_nodes(batch, whole))
        assert len(set(node.tolist())) == len(node)
        expected, exact = step(model, whole | {"node": node}, labels["y"])
        assert loss == pytest.approx(expected, abs=1e-5)
        assert len(gradients) == len(exact)
        for ours, theirs in zip(gradients, exact, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)


def batch_nodes(batch: dict[str, Tensor], whole: dict[str, Tensor]) -> np.ndarray:
    """The graph's numbers of the nodes that a batch asks for."""
    x = batch["nodes"][batch["node"]]
    equal = (x[:, None] == whole["nodes"]).all(dim=2)
    return equal.float().argmax(dim=1).numpy()


def test_a_gcn_on_drawn_neighbours_estimates_that_on_all() -> None:
    model = network("gcn", fan_out=(5,)).eval()
    given = tensors(np.arange(NODES))
    (found,) = sampled_tensors(model, given)[0].values()
    assert isinstance(found, SampledNodes)
    rng, node = np.random.default_rng(0), np.arange(NODES)
    with torch.no_grad():
        whole = {name: x.values for name, x in given[0].items() if isinstance(x, WholeTensor)}
        exact = model(**whole, node=torch.arange(NODES))
        each = [model(**found.around(node, (5,), rng)) for _ in range(3_000)]
    stacked = torch.stack(each)
    error = stacked.std(0) / len(each) ** 0.5
    assert float((stacked.std(0) > 0.01).float().mean()) > 0.3  # there is something to estimate
    assert bool(((stacked.mean(0) - exact).abs() < 5 * error + 1e-5).all())


@pytest.mark.parametrize("options", [{}, {"jumping": "cat"}, {"head": "convolution"}, {"pre": 1}])
@pytest.mark.parametrize("edge_features", [False, True])
@pytest.mark.parametrize("kind", FAMILIES)
def test_layer_by_layer_in_pieces_a_network_gives_the_logits_of_the_whole_graph(
    kind: str, edge_features: bool, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "EDGES_AT_ONCE", 30)
    monkeypatch.setattr(neighbours, "NODES_AT_ONCE", 13)
    monkeypatch.setattr(neighbours.limits, "resident_limit", lambda: 1_000)
    node = np.random.default_rng(0).permutation(NODES)[:37]
    given = tensors(node, edge_features)
    model = network(kind, edge_features, norm="batch", fan_out=(2, 2), **options).train()
    whole = {name: x.values for name, x in given[0].items() if isinstance(x, WholeTensor)}
    model(**whole, node=given[0]["node"])  # statistics of BatchNorm
    features = features_of(model, given)
    assert model.training
    model.eval()
    with torch.no_grad():
        exact = model(**whole, node=given[0]["node"])
        assert torch.allclose(model.from_fixed(features), exact, atol=1e-5)


# -- which graphs ----------------------------------------------------------------------------------


def one_graph(nodes: int, edges: int, memory_mb: float | None, *limits: str) -> Task:
    target = Target("y", "multiclass", ("a", "b"), (nodes // 20, nodes // 20))
    inputs: dict[str, tuple[int, ...]] = {"nodes": (nodes, 100), "edges": (edges, 2), "node": ()}
    profile = DataProfile(
        nodes // 10, nodes // 10, nodes // 10, inputs, channel_mean=(0.1,) * 100,
        channel_std=(1.0,) * 100,
    )  # fmt: skip
    budget = Budget(memory_mb=memory_mb)
    constraints = tuple(map(Constraint.parse, limits))
    return Task("graphs", (target,), profile, budget=budget, constraints=constraints)


def test_neighbours_are_drawn_where_the_graph_does_not_fit_and_only_there() -> None:
    cora, products = (2_708, 10_556), (2_449_029, 123_718_280)
    assert rules.is_whole_graph(one_graph(*cora, 4_000.0))
    assert rules.is_whole_graph(one_graph(*products, None))
    assert rules.samples_neighbours(one_graph(*products, 141_000.0))
    assert rules.samples_neighbours(one_graph(*cora, 4_000.0, "memory_mb<=20"))
    assert not rules.samples_neighbours(one_graph(*cora, 4_000.0, "params<=20"))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_space_of_a_large_graph_has_a_fan_out_and_batches(name: str) -> None:
    family = load_families("graphs")[name]
    task = one_graph(2_449_029, 123_718_280, 24_000.0).with_objectives()
    space = family.space(task)
    assert space["depth"].high == 3
    assert "batch" not in space["norm"].options
    assert space["batch_size"].options == (256, 512, 1024)
    config = space.baseline()
    built = family.build(config, task)
    assert built.fan_out == (25, 10, 5)[: int(config["depth"])]
    small = family.space(replace(task, budget=Budget(memory_mb=None)))
    assert "fan_out" not in [param.name for param in small.params]
    assert family.build(small.baseline(), task).fan_out == ()
    assert 4 < rules.fidelity(task).epochs <= 30


# -- from end to end -------------------------------------------------------------------------------


def blocks(folder: Path, nodes: int = 1_500, edges: int = 9_000) -> Path:
    """A graph of three groups whose nodes are mostly joined within their group."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, nodes)
    order = np.argsort(label, kind="stable")
    source = rng.integers(0, nodes, edges)
    inside = order[
        (np.searchsorted(label[order], label[source])
         + rng.integers(0, np.bincount(label).min(), edges))
    ]  # fmt: skip
    target = np.where(rng.random(edges) < 0.85, inside, rng.integers(0, nodes, edges))
    x = np.eye(3)[label] @ rng.normal(size=(3, 8)) + 3 * rng.normal(size=(nodes, 8))
    path = folder / "blocks.npz"
    np.savez(path, edges=np.stack([source, target], axis=1), x=x.astype(np.float32), y=label)
    return path


@pytest.mark.parametrize("name", mostly_slow(FAMILIES, ["graphsage"]))
def test_a_graph_beyond_the_limit_is_trained_predicted_and_exported(
    name: str, tmp_path: Path
) -> None:
    data, out = blocks(tmp_path), tmp_path / "model"
    limits = (Constraint.parse("memory_mb<=34"),)
    task = make_task(read(data), constraints=limits, budget=Budget(), device="cpu", epochs=4)
    assert rules.samples_neighbours(task)
    config = load_families("graphs")[name].baseline(task)
    candidate = Candidate(0, name, config, 1, epochs=4, metrics={task.quality.metric: 0.9})
    made = recipe.make(candidate, task, {"source": str(data)}, {})
    made["trainer"] |= {"max_epochs": 12, "accelerator": "cpu"}
    recipe.write(made, tmp_path / "recipe.yaml")
    result = train(tmp_path / "recipe.yaml", out)
    assert result["test"]["accuracy"] > 0.85

    model = open_trained(out)
    found = nas.load(out / "model.ckpt").predict_proba(data)
    whole = row_inputs(model.dataset, np.arange(1_500))
    with torch.no_grad():
        exact = model.proxy.predictions(model.proxy.network(**whole))["y"]
    assert np.allclose(found, exact, atol=1e-5)

    write_standalone(model, tmp_path / "folder")  # which repeats its predictions, or raises
    exported = write_onnx(model, tmp_path / "network.onnx")
    assert exported.difference < 1e-4
    session = onnx_session(exported.file)
    wanted = {each.name for each in session.get_inputs()}
    assert wanted == {"nodes", "edges", "node"}
    given = {key: value.numpy() for key, value in whole.items() if key in wanted}
    assert np.allclose(session.run(None, given)[0], exact, atol=1e-4)
