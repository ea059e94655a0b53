"""Graphs: every form in which they are read, networks against dense matrices, costs by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from nas import recipe as recipes
from nas import rules
from nas.candidate import Candidate
from nas.data import Dataset, encode, read
from nas.data.ragged import Ragged, Whole
from nas.family import load_families
from nas.models.gnn import (
    GNN,
    Edges,
    FeatureInput,
    GATConv,
    GCNConv,
    GNNConfig,
    GraphPool,
    SAGEConv,
)
from nas.space import Value
from nas.task import DataProfile, InputError, Target, Task, UsageError
from nas.testing import example_datasets, sample_inputs
from nas.training import cost
from nas.training.baselines import baselines
from nas.training.evaluator import Evaluator
from nas.training.proxy import Proxy

RNG = np.random.default_rng(0)
N = 30  # graphs


def ring(nodes: int) -> np.ndarray:
    """The edges of a ring, in both directions."""
    start = np.arange(nodes)
    one = np.stack([start, (start + 1) % nodes], axis=1)
    return np.concatenate([one, one[:, ::-1]])


SIZES = [3 + i % 5 for i in range(N)]
TAGS = [RNG.integers(0, 3, size) for size in SIZES]
FLOATS = [RNG.normal(2.0, 3.0, (size, 2)).astype(np.float32) for size in SIZES]
KINDS = [RNG.integers(0, 4, 2 * size) for size in SIZES]
LABELS = np.array([i % 2 for i in range(N)])


def archive() -> dict[str, np.ndarray]:
    return {
        "node_ptr": np.concatenate([[0], np.cumsum(SIZES)]),
        "edge_ptr": np.concatenate([[0], np.cumsum(2 * np.array(SIZES))]),
        "edges": np.concatenate([ring(size) for size in SIZES]),
        "node_tag": np.concatenate(TAGS),
        "node_feat": np.concatenate(FLOATS),
        "edge_type": np.concatenate(KINDS),
        "y": LABELS,
    }


def save(folder: Path, name: str = "rings", **arrays: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{name}.npz", **arrays)
    return folder


def as_csv(folder: Path, graph: bool = True) -> Path:
    """The same graphs as tables; the tags are letters."""
    folder.mkdir(exist_ok=True)
    nodes, edges = [], []
    for i, size in enumerate(SIZES):
        nodes.append(
            pd.DataFrame(
                {
                    "id": np.arange(size),
                    "graph": f"g{i}",
                    "element": [f"{'abc'[t]}" for t in TAGS[i]],
                    "p": FLOATS[i][:, 0],
                    "q": FLOATS[i][:, 1],
                    "target": "even" if LABELS[i] == 0 else "odd",
                }
            )
        )
        pairs = ring(size)
        kind = [f"k{t}" for t in KINDS[i]]
        edges.append(
            pd.DataFrame(
                {"graph": f"g{i}", "source": pairs[:, 0], "target": pairs[:, 1], "kind": kind}
            )
        )
    pd.concat(nodes).to_csv(folder / "nodes.csv", index=False)
    pd.concat(edges).to_csv(folder / "edges.csv", index=False)
    return folder


def as_tu(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    ptr = np.concatenate([[0], np.cumsum(SIZES)])
    edges = np.concatenate([ring(s) + 1 + ptr[i] for i, s in enumerate(SIZES)])
    files = {
        "A": edges,
        "graph_indicator": np.repeat(np.arange(N), SIZES) + 1,
        "graph_labels": LABELS,
        "node_labels": np.concatenate(TAGS),
        "edge_labels": np.concatenate(KINDS),
    }
    for what, array in files.items():
        np.savetxt(folder / f"R_{what}.txt", array, fmt="%d", delimiter=", ")
    np.savetxt(folder / "R_node_attributes.txt", np.concatenate(FLOATS), delimiter=", ")
    return folder


def as_objects() -> list[Any]:
    return [
        SimpleNamespace(
            x=torch.from_numpy(np.concatenate([np.eye(3)[TAGS[i]], FLOATS[i]], 1)),
            edge_index=torch.from_numpy(ring(size).T.copy()),
            edge_attr=torch.from_numpy(KINDS[i]),
            y=torch.tensor([LABELS[i]]),
        )
        for i, size in enumerate(SIZES)
    ]


def one_graph(nodes: int = 60, wide: int = 0) -> dict[str, np.ndarray]:
    """A ring of nodes whose class is half of it, with chords; every sixth is unlabelled."""
    y = (np.arange(nodes) >= nodes // 2).astype(np.int64)
    chords = np.stack([np.arange(0, nodes - 7), np.arange(7, nodes)], axis=1)
    x = np.random.default_rng(1).normal(y[:, None], 1.0, (nodes, 5)).astype(np.float32)
    if wide:
        x = (np.random.default_rng(1).random((nodes, wide)) < 0.05).astype(np.float32)
    return {"edges": np.concatenate([ring(nodes), chords]), "x": x, "y": y}


def node_task(tmp_path: Path, **changes: Any) -> tuple[Dataset, Task]:
    data = read(save(tmp_path / "one", "one", **one_graph(**changes)))
    task = Task("graphs", data.targets, data.profile).with_objectives()
    return data, replace(task, fidelity=rules.fidelity(task))


# Reading ---------------------------------------------------------------------------------


def ragged(data: Dataset, name: str) -> Ragged:
    value = data.inputs[name]
    assert isinstance(value, Ragged)
    return value


def test_tables_tudatasets_objects_and_archives_of_the_same_graphs_hold_the_same(
    tmp_path: Path,
) -> None:
    sources = {
        "npz": save(tmp_path / "npz", **archive()),
        "csv": as_csv(tmp_path / "csv"),
        "tu": as_tu(tmp_path / "tu"),
        "objects": as_objects(),
    }
    found = {name: read(source) for name, source in sources.items()}
    for name, data in found.items():
        assert data.modality == "graphs", name
        assert data.targets[0].kind == "binary"
        assert ragged(data, "nodes").lengths.tolist() == SIZES
        # Of one-hot tags and numbers each form has its own order: the sums of rows do not.
        sums = ragged(data, "nodes").values.sum(1)
        reference = np.concatenate(FLOATS).sum(1) + 1
        np.testing.assert_allclose(sums, reference, atol=1e-4, err_msg=name)
        for i in (0, 7, N - 1):
            pairs = ragged(data, "edges")[i]
            assert set(map(tuple, pairs.tolist())) == set(map(tuple, ring(SIZES[i]).tolist()))
            kinds = ragged(data, "edge_features")[i]
            given = {tuple(e): k for e, k in zip(ring(SIZES[i]).tolist(), KINDS[i], strict=True)}
            expected = np.eye(4)[[given[tuple(e)] for e in pairs.tolist()]]
            np.testing.assert_array_equal(kinds, expected)
        np.testing.assert_array_equal(data.labels[data.targets[0].name], LABELS)
        assert data.profile.lengths["nodes"][-1] <= max(SIZES)


def test_a_table_of_graphs_brings_targets_and_parts(tmp_path: Path) -> None:
    folder = as_csv(tmp_path / "csv")
    nodes = pd.read_csv(folder / "nodes.csv").drop(columns="target")
    nodes.to_csv(folder / "nodes.csv", index=False)
    parts = ["train"] * 20 + ["val"] * 5 + ["test"] * 5
    table = {"graph": [f"g{i}" for i in range(N)], "weight": np.linspace(0, 9.5, N), "split": parts}
    pd.DataFrame(table).iloc[::-1].to_csv(folder / "graphs.csv", index=False)
    data = read(folder, target="weight")
    assert data.targets[0].kind == "regression"
    np.testing.assert_allclose(data.labels["weight"], np.linspace(0, 9.5, N))
    assert data.parts["test"].tolist() == [25, 26, 27, 28, 29]


def test_the_nodes_of_one_graph_are_samples_where_each_has_its_own_target(tmp_path: Path) -> None:
    graph = one_graph()
    target = np.where(np.arange(60) % 6 == 5, "", np.where(graph["y"], "right", "left"))
    frame = pd.DataFrame(graph["x"], columns=list("abcde"))
    frame = frame.assign(id=[f"n{i}" for i in range(60)], label=target)
    frame.to_csv(tmp_path / "nodes.csv", index=False)
    ids = np.array(frame["id"])[graph["edges"]]
    pd.DataFrame(ids, columns=["source", "target"]).to_csv(tmp_path / "edges.csv", index=False)
    data = read(tmp_path)
    assert data.targets[0].classes == ("left", "right")
    nodes = data.inputs["node"]
    assert isinstance(nodes, np.ndarray)
    assert nodes.tolist() == [i for i in range(60) if i % 6 != 5]
    whole = data.inputs["nodes"]
    assert isinstance(whole, Whole)
    assert whole.values.shape == (60, 5)
    assert any("10 of 60 nodes are in no part" in note for note in data.notes)


def test_masks_and_node_numbers_divide_one_graph_and_other_nodes_are_in_no_part(
    tmp_path: Path,
) -> None:
    graph = one_graph()
    order = np.random.default_rng(0).permutation(60)
    parts = {"train": order[:20], "val": order[20:30], "test": order[30:40]}
    by_number = read(save(tmp_path / "a", "a", **graph, **parts))
    masks = {f"{name}_mask": torch.zeros(60, dtype=torch.bool) for name in parts}
    for name, rows in parts.items():
        masks[f"{name}_mask"][rows] = True
    item = SimpleNamespace(
        edge_index=torch.from_numpy(graph["edges"].T.copy()),
        x=torch.from_numpy(graph["x"]),
        y=torch.from_numpy(graph["y"]),
        **masks,
    )
    by_mask = read(item)
    assert by_mask.profile.fingerprint == by_number.profile.fingerprint
    for name, rows in parts.items():
        node = by_number.inputs["node"]
        assert isinstance(node, np.ndarray)
        assert set(node[by_number.parts[name]]) == set(rows.tolist())


def test_a_sparse_matrix_of_word_counts_is_not_centred(tmp_path: Path) -> None:
    from scipy import sparse

    graph = one_graph(wide=100)
    matrix = sparse.csr_matrix(graph.pop("x"))
    arrays = {"x_data": matrix.data, "x_indices": matrix.indices, "x_indptr": matrix.indptr}
    data = read(save(tmp_path / "a", "a", **graph, **arrays, x_shape=np.array(matrix.shape)))
    whole = data.inputs["nodes"]
    assert isinstance(whole, Whole)
    np.testing.assert_array_equal(whole.values, matrix.toarray())
    assert set(data.profile.channel_mean) == {0.0}
    assert set(data.profile.channel_std) == {1.0}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x_indices": np.array([0, 7])}, "x_indices are outside 0 to 2"),
        ({"x_indices": np.array([0, -1])}, "x_indices are outside 0 to 2"),
        ({"x_indices": np.array([0.0, 1.0])}, r"expected x_data and x_indices \(k,\)"),
        ({"x_indptr": np.array([0, 2])}, "x_indptr does not divide x_data"),
        ({"x_indptr": np.array([0, 2, 1, 2])}, "x_indptr does not divide x_data"),
        ({"x_indptr": np.zeros(0, int)}, "x_indptr does not divide x_data"),
        ({"x_shape": np.array([3])}, r"and x_shape \(2,\)"),
        ({"x_shape": np.array([3, 2**40])}, "x takes .* GiB, more than half"),
    ],
)
def test_what_is_no_sparse_matrix_is_said(
    wrong: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    matrix = {"x_data": np.ones(2), "x_indices": np.array([0, 2]), "x_shape": np.array([3, 3])}
    matrix["x_indptr"] = np.array([0, 1, 1, 2])
    folder = save(tmp_path / "a", "a", edges=ring(3), y=np.array([0, 1, 0]), **matrix | wrong)
    with pytest.raises(InputError, match=message):
        read(folder)


def test_values_of_a_sparse_matrix_that_share_a_place_are_summed(tmp_path: Path) -> None:
    from scipy import sparse

    matrix = {"x_data": np.array([1.0, 2.0, 4.0]), "x_indices": np.array([0, 0, 1])}
    matrix |= {"x_indptr": np.array([0, *[2] * 29, 3]), "x_shape": np.array([30, 2])}
    y = np.arange(30) % 2
    data = read(save(tmp_path / "a", "a", edges=ring(30), y=y, **matrix))
    whole = data.inputs["nodes"]
    assert isinstance(whole, Whole)
    expected = sparse.csr_matrix(tuple(matrix[f"x_{k}"] for k in ("data", "indices", "indptr")))
    np.testing.assert_array_equal(whole.values, expected.toarray())


def test_edges_given_once_are_read_in_both_directions_and_loops_and_doubles_dropped(
    tmp_path: Path,
) -> None:
    arrays = archive()
    once = [np.stack([np.arange(s), (np.arange(s) + 1) % s], axis=1) for s in SIZES]
    once = [np.concatenate([e, [[1, 1], e[0]]]) for e in once]  # a loop and a double
    arrays["edges"] = np.concatenate(once)
    arrays["edge_ptr"] = np.concatenate([[0], np.cumsum([len(e) for e in once])])
    del arrays["edge_type"]
    data = read(save(tmp_path / "a", **arrays))
    for i in (0, 4):
        pairs = [tuple(e) for e in ragged(data, "edges")[i].tolist()]
        assert sorted(pairs) == sorted(map(tuple, ring(SIZES[i]).tolist()))
    shown = " ".join(data.notes)
    assert "one direction" in shown
    assert "itself" in shown
    assert "twice" in shown


def test_statistics_come_from_the_training_graphs_and_names_unseen_there_are_zeros(
    tmp_path: Path,
) -> None:
    arrays = archive() | {"split": np.array(["train"] * 20 + ["val"] * 5 + ["test"] * 5)}
    first = int(arrays["node_ptr"][25])
    arrays["node_tag"][first] = 7  # only in the test part
    arrays["node_feat"][first:] += 100.0
    data = read(save(tmp_path / "a", **arrays))
    train = np.concatenate(FLOATS[:20])
    np.testing.assert_allclose(data.profile.channel_mean[:2], train.mean(0), rtol=1e-4)
    np.testing.assert_allclose(data.profile.channel_std[:2], train.std(0), rtol=1e-4)
    assert data.profile.columns[0].categories == ("0", "1", "2")
    np.testing.assert_array_equal(ragged(data, "nodes").values[first, 2:], 0)


def test_new_graphs_are_coded_as_those_of_training(tmp_path: Path) -> None:
    arrays = archive()
    data = read(save(tmp_path / "a", **arrays))
    del arrays["y"]
    again = encode(save(tmp_path / "b", **arrays), data.profile, "graphs", data.targets)
    assert not again.labels
    for name in ("nodes", "edges", "edge_features"):
        value = again.inputs[name]
        assert isinstance(value, Ragged)
        np.testing.assert_array_equal(value.values, ragged(data, name).values)
        assert value.into == ragged(data, name).into
    assert not again.notes
    parts = save(tmp_path / "d", **arrays, fold=np.arange(N) % 3)
    shown = "the samples of all parts are predicted, those of training too"
    assert encode(parts, data.profile, "graphs").notes == (shown,)
    arrays["node_feat"] = np.concatenate([arrays["node_feat"]] * 2, axis=1)[:, :3]
    wider = save(tmp_path / "c", **arrays)
    with pytest.raises(InputError, match="3 numeric features, but 2 in training"):
        encode(wider, data.profile, "graphs")


def test_whole_numbers_are_names_in_new_graphs_where_they_were_in_training(tmp_path: Path) -> None:
    def as_kinds(edges: np.ndarray) -> np.ndarray:
        return (edges.sum(1) % 4)[:, None]

    rings = [
        SimpleNamespace(
            x=np.stack([np.arange(size) % 5, 100 * i + np.arange(size)], axis=1),
            edge_index=ring(size).T,
            edge_attr=as_kinds(ring(size)),
        )
        for i, size in enumerate(SIZES)
    ]
    data = read((rings, LABELS))
    assert [c.name for c in data.profile.columns] == ["feature0", "edges.feature0"]
    # One graph shows three of the five names, and as many of what were amounts.
    alone = encode([rings[5]], data.profile, "graphs").inputs
    for name in ("nodes", "edge_features"):
        value = alone[name]
        assert isinstance(value, Ragged)
        np.testing.assert_array_equal(value.values, ragged(data, name)[5])

    folder = as_csv(tmp_path / "csv")
    nodes = pd.read_csv(folder / "nodes.csv").assign(charge=lambda t: t["id"] % 3)
    nodes.to_csv(folder / "nodes.csv", index=False)
    data = read(folder)
    nodes[nodes["graph"] == "g0"].assign(charge=1).to_csv(folder / "nodes.csv", index=False)
    edges = pd.read_csv(folder / "edges.csv")
    edges[edges["graph"] == "g0"].to_csv(folder / "edges.csv", index=False)
    found = encode(folder, data.profile, "graphs").inputs["nodes"]
    assert isinstance(found, Ragged)
    np.testing.assert_array_equal(found.values[:, -3:], [[0, 1, 0]] * SIZES[0])


def test_prediction_on_one_graph_is_for_all_of_its_nodes(tmp_path: Path) -> None:
    data, _ = node_task(tmp_path)
    graph = one_graph()
    labels = graph.pop("y")
    found = encode(save(tmp_path / "new", "n", **graph), data.profile, "graphs", data.targets)
    node = found.inputs["node"]
    assert isinstance(node, np.ndarray)
    assert node.tolist() == list(range(60))
    found = encode(save(tmp_path / "n2", "n", **graph, y=labels), data.profile, "graphs",
                   data.targets)  # fmt: skip
    np.testing.assert_array_equal(found.labels["y"], labels)


def test_nodes_without_features_are_distinguished_by_their_degrees(tmp_path: Path) -> None:
    arrays = archive()
    del arrays["node_tag"], arrays["node_feat"], arrays["edge_type"]
    arrays["edges"][0:2] = [[0, 2], [2, 0]]
    data = read(save(tmp_path / "a", **arrays))
    assert data.profile.columns[0].name == "degree"
    assert any("no features" in note for note in data.notes)


@pytest.mark.parametrize("named", ["column=b", None])
def test_a_column_of_a_table_beside_the_graphs_may_hold_the_parts(
    tmp_path: Path, named: str | None
) -> None:
    folder = save(tmp_path / "a", **archive())
    parts = ["train"] * 10 + ["val"] * 10 + ["test"] * 10
    name = "b" if named else "split"
    pd.DataFrame({name: parts, "other": range(N)}).to_csv(folder / "rings.csv", index=False)
    data = read(folder, split=named)
    assert data.parts["val"].tolist() == list(range(10, 20))


def test_a_column_holds_the_parts_of_a_table_and_is_no_input(tmp_path: Path) -> None:
    rows = 60
    parts = np.array(["train", "dev", "test"])[np.arange(rows) % 3]
    frame = pd.DataFrame({"x": RNG.normal(size=rows), "y": np.arange(rows) % 2, "fold": parts})
    data = read(frame, target="y", split="column=fold")
    assert data.parts["test"].tolist() == list(range(2, rows, 3))
    assert [c.name for c in data.profile.columns] == ["x"]
    assert data.profile.split_method == "given train and val and test by fold"
    with pytest.raises(InputError, match="unknown split value"):
        read(frame, target="y", split="column=x")


def test_folds_are_parts(tmp_path: Path) -> None:
    arrays = archive() | {"fold": np.arange(N) % 10}
    data = read(save(tmp_path / "a", **arrays))
    assert data.parts["test"].tolist() == [0, 10, 20]
    assert data.parts["val"].tolist() == [1, 11, 21]
    assert any("fold 0" in note for note in data.notes)


def wrong(change: str, folder: Path) -> Path:
    arrays = archive()
    match change:
        case "edge out of range":
            arrays["edges"][4] = [0, 3]
        case "graph without nodes":
            arrays["node_ptr"][2] = arrays["node_ptr"][1]
        case "pointer":
            arrays["node_ptr"][-1] += 1
        case "edges transposed":
            arrays["edges"] = arrays["edges"].T
        case "no edges":
            arrays["edges"] = arrays["edges"][:0]
            arrays["edge_type"], arrays["edge_ptr"] = np.zeros(0, int), np.zeros(N + 1, int)
        case "short labels":
            arrays["y"] = arrays["y"][:-1]
        case "unlabelled":
            del arrays["y"]
        case "infinite":
            arrays["node_feat"][3, 0] = np.inf
        case "no edge_ptr":
            del arrays["edge_ptr"]
    return save(folder, **arrays)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("edge out of range", InputError, "edge 4 joins the nodes 0 and 3, but graph 0 has"),
        ("graph without nodes", InputError, "1 graphs have no node, first graph 1"),
        ("pointer", InputError, "expected"),
        ("edges transposed", InputError, r"expected integers \(E, 2\)"),
        ("no edges", InputError, "there is no edge"),
        ("short labels", InputError, "30 graphs, but y has 29"),
        ("unlabelled", UsageError, "holds no labels"),
        ("infinite", InputError, "infinite"),
        ("no edge_ptr", InputError, "no edge_ptr"),
    ],
)
def test_wrong_archives_are_refused_in_one_line(
    tmp_path: Path, change: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as found:
        read(wrong(change, tmp_path / "a"))
    assert "\n" not in str(found.value)


def wrong_tables(change: str, folder: Path) -> Path:
    as_csv(folder)
    nodes, edges = pd.read_csv(folder / "nodes.csv"), pd.read_csv(folder / "edges.csv")
    match change:
        case "unknown node":
            edges.loc[2, "source"] = 99
        case "id twice":
            nodes.loc[1, "id"] = 0
        case "no id":
            nodes = nodes.drop(columns="id")
        case "no source":
            edges = edges.drop(columns="source")
        case "no target":
            nodes = nodes.drop(columns="target")
        case "no such target":
            nodes = nodes.rename(columns={"target": "class"})
    nodes.to_csv(folder / "nodes.csv", index=False)
    edges.to_csv(folder / "edges.csv", index=False)
    if change == "empty":
        (folder / "edges.csv").write_text("")
    return folder


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("unknown node", InputError, "edges.csv row 3: source '99' is no node"),
        ("id twice", InputError, "the id '0' stands for several nodes"),
        ("no id", InputError, "no column id"),
        ("no source", InputError, "no column source"),
        ("no target", UsageError, "name the target column"),
        ("no such target", UsageError, "name the target column, one of .*class"),
        ("empty", InputError, "is empty"),
    ],
)
def test_wrong_tables_are_refused_in_one_line(
    tmp_path: Path, change: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read(wrong_tables(change, tmp_path / "a"))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("R_A.txt", "1, 999\n", "line 1 names a node that is not among"),
        ("R_A.txt", "1, b\n", "cannot be read"),
        ("R_A.txt", "1, 5\n", "joins nodes of two graphs"),
        ("R_graph_indicator.txt", "2\n1\n", "numbered 1, 2"),
        ("R_graph_labels.txt", "1\n0\n", "30 graphs, but labels of 2"),
    ],
)
def test_wrong_tudatasets_are_refused(tmp_path: Path, file: str, text: str, message: str) -> None:
    folder = as_tu(tmp_path / "a")
    (folder / file).write_text(text)
    with pytest.raises(InputError, match=message):
        read(folder)


# Networks --------------------------------------------------------------------------------


def dense(edges: Tensor, nodes: int) -> Tensor:
    """The adjacency matrix, row i holding the neighbours that send to i."""
    matrix = torch.zeros(nodes, nodes)
    matrix[edges[:, 1], edges[:, 0]] = 1
    return matrix


@pytest.fixture
def graph() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(0, 11, (40, 2), generator=generator)
    edges = edges[edges[:, 0] != edges[:, 1]].unique(dim=0)
    return torch.randn(12, 6, generator=generator), edges  # the last node has no edge


def test_gcn_is_the_product_with_the_normalised_adjacency_matrix(
    graph: tuple[Tensor, Tensor],
) -> None:
    x, edges = graph
    layer = GCNConv(6, 4)
    a = dense(edges, 12) + torch.eye(12)
    scale = a.sum(1).rsqrt()
    expected = scale[:, None] * a * scale @ x @ layer.linear.weight.T + layer.bias
    torch.testing.assert_close(layer(x, Edges.of(edges, 12)), expected)


def test_gat_is_a_softmax_over_neighbours(graph: tuple[Tensor, Tensor]) -> None:
    x, edges = graph
    layer = GATConv(6, 8, heads=2)
    mask = dense(edges, 12) + torch.eye(12) > 0
    h = layer.linear(x).view(12, 2, 4)
    parts = []
    for k in range(2):
        by_target = h[:, k] @ layer.target[k]
        score = by_target[:, None] + h[:, k] @ layer.source[k]
        score = torch.nn.functional.leaky_relu(score, 0.2)
        parts.append(score.masked_fill(~mask, -torch.inf).softmax(1) @ h[:, k])
    torch.testing.assert_close(layer(x, Edges.of(edges, 12)), torch.cat(parts, 1))


@pytest.mark.parametrize("width", [3, 9])
def test_graphsage_joins_a_node_with_the_mean_of_its_neighbours(
    graph: tuple[Tensor, Tensor], width: int
) -> None:
    x, edges = graph
    layer = SAGEConv(6, width)
    a = dense(edges, 12)
    mean = a @ x / a.sum(1, keepdim=True).clamp(min=1)
    expected = layer.root(x) + layer.neighbours(mean)
    torch.testing.assert_close(layer(x, Edges.of(edges, 12)), expected)


def test_edges_left_out_count_neither_as_messages_nor_in_degrees(
    graph: tuple[Tensor, Tensor],
) -> None:
    x, edges = graph
    torch.manual_seed(0)
    some = Edges.of(edges, 12, drop=0.5)
    assert some.kept is not None
    kept = some.kept[:, 0] > 0
    assert 0 < kept.sum() < len(edges)
    for layer in (GCNConv(6, 4), GATConv(6, 4, 2), SAGEConv(6, 4), SAGEConv(6, 4, "max")):
        expected = layer(x, Edges.of(edges[kept], 12))
        torch.testing.assert_close(layer(x, some), expected)


@pytest.mark.parametrize("pre", [0, 1])
@pytest.mark.parametrize("kind", ["gcn", "gat", "graphsage"])
def test_a_sparse_matrix_of_features_gives_the_logits_and_gradients_of_a_dense_one(
    graph: tuple[Tensor, Tensor], kind: str, pre: int
) -> None:
    x, edges = graph[0].relu(), graph[1]
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        rows = FeatureInput([0.0] * 6, [1.0] * 6, rows=True)
        net = GNN(rows, 3, GNNConfig(kind, 4, 2, pre=pre), sparse=sparse)
        assert net.sparse == sparse
        logits = net(x, edges, node=torch.arange(12))
        logits.square().sum().backward()
        found.append([logits, *(p.grad for p in net.parameters())])
    torch.testing.assert_close(found[1], found[0])


def test_dropout_of_a_sparse_matrix_is_that_of_its_entries() -> None:
    torch.manual_seed(0)
    x = (torch.rand(100, 100) < 0.1).float()
    rows = FeatureInput([0.0] * 100, [1.0] * 100)
    net = GNN(rows, 3, GNNConfig("gcn", 4, 1), sparse=True, input_dropout=0.3)
    y = net.input_dropout(x.to_sparse()).to_dense()
    assert abs(float((y[x > 0] == 0).float().mean()) - 0.3) < 0.05
    assert set(y.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.7))}


def network(kind: str, pooling: str | None = "mean", size: float = 1.0, **options: Any) -> GNN:
    torch.manual_seed(0)
    net = GNN(
        FeatureInput([0.1] * 6, [2.0] * 6),
        3,
        GNNConfig(kind, 8, 2, heads=2, norm="batch", residual=True, **options),
        edge_input=FeatureInput([0.0] * 2, [1.0] * 2),
        pooling=pooling,
    ).eval()
    with torch.no_grad():
        net.head.weight.normal_()
    return net


def batch(sizes: list[int], seed: int = 0) -> list[dict[str, Tensor]]:
    """Graphs one by one; the second has no edge."""
    generator = torch.Generator().manual_seed(seed)
    graphs = []
    for i, size in enumerate(sizes):
        edges = torch.randint(0, size, (0 if i == 1 else 3 * size, 2), generator=generator)
        graphs.append(
            {
                "nodes": torch.randn(size, 6, generator=generator),
                "edges": edges,
                "edge_features": torch.randn(len(edges), 2, generator=generator),
                "nodes_length": torch.tensor([size]),
            }
        )
    return graphs


def joined(graphs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    start = np.cumsum([0, *(len(g["nodes"]) for g in graphs[:-1])])
    shifted = [g | {"edges": g["edges"] + int(s)} for g, s in zip(graphs, start, strict=True)]
    return {name: torch.cat([g[name] for g in shifted]) for name in graphs[0]}


@pytest.mark.parametrize("pooling", ["mean", "max", "sum", "attention"])
@pytest.mark.parametrize("kind", ["gcn", "gat", "graphsage"])
def test_a_graph_has_the_same_logits_alone_and_in_a_batch(kind: str, pooling: str) -> None:
    graphs = batch([5, 3, 9, 4])
    net = network(kind, pooling, jumping="cat", pre=1, post=1)
    alone = torch.cat([net(**g) for g in graphs])
    torch.testing.assert_close(net(**joined(graphs)), alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(net(**joined(graphs[::-1])), alone.flip(0), atol=1e-5, rtol=1e-5)


def test_the_order_of_nodes_does_not_matter() -> None:
    (graph,) = batch([9])
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    place = order.argsort()
    turned = graph | {"nodes": graph["nodes"][order], "edges": place[graph["edges"]]}
    for kind in ("gcn", "gat", "graphsage"):
        net = network(kind, aggregation="max")
        torch.testing.assert_close(net(**turned), net(**graph), atol=1e-5, rtol=1e-5)


def test_the_logits_of_a_node_are_the_same_whichever_are_asked_for() -> None:
    (graph,) = batch([9])
    del graph["nodes_length"]
    for kind in ("gcn", "gat", "graphsage"):
        net = network(kind, None)
        every = net(**graph, node=torch.arange(9))
        torch.testing.assert_close(net(**graph, node=torch.tensor([7, 2])), every[[7, 2]])


def test_features_of_edges_matter_in_every_family() -> None:
    (graph,) = batch([9])
    for kind in ("gcn", "gat", "graphsage"):
        net = network(kind)
        changed = net(**graph | {"edge_features": graph["edge_features"] + 1})
        assert not torch.allclose(changed, net(**graph), atol=1e-3), kind


def test_features_are_what_the_head_reads() -> None:
    (graph,) = batch([9])
    net = network("gcn", jumping="max")
    x, mask = net.features(**graph)
    assert x.shape == (1, 1, net.width)
    assert mask is None
    torch.testing.assert_close(net.head(x[:, 0]), net(**graph))


def test_the_last_convolution_on_a_node_is_linear_where_only_the_head_follows() -> None:
    (graph,) = batch([9])
    del graph["nodes_length"]
    read_out = {"linear": {}, "post": {"post": 1}, "all layers": {"jumping": "cat"}}
    for name, options in read_out.items():
        x, _ = network("graphsage", None, **options).features(**graph, node=torch.arange(9))
        assert bool((x < 0).any()) == (name == "linear"), name


def test_a_sum_counts_the_nodes_and_a_mean_does_not() -> None:
    x, lengths = torch.ones(6, 4), torch.tensor([2, 4])
    assert GraphPool("mean", 4)(x, lengths)[:, 0].tolist() == [1, 1]
    assert GraphPool("sum", 4, size=2.0)(x, lengths)[:, 0].tolist() == [1, 2]


# Costs, families, baselines --------------------------------------------------------------


def test_flops_of_a_gcn_are_those_counted_by_hand() -> None:
    nodes, edges, f, w, classes = 50, 120, 7, 16, 3

    def build() -> GNN:
        return GNN(FeatureInput([0.0] * f, [1.0] * f), classes, GNNConfig("gcn", w, 2))

    inputs = {
        "nodes": torch.randn(nodes, f),
        "edges": torch.randint(0, nodes, (edges, 2)),
        "node": torch.arange(10),
    }
    by_hand = 2 * (
        edges  # degrees
        + nodes * f * w + edges * w  # the first layer: X W and A (X W)
        + nodes * w * w + edges * w  # the second
        + 10 * w * classes
    )  # fmt: skip
    assert cost.analyse(build, inputs)["flops"] == by_hand


def test_flops_of_a_gat_are_those_counted_by_hand() -> None:
    nodes, edges, f, w, heads = 50, 120, 7, 16, 4

    def build() -> GNN:
        return GNN(FeatureInput([0.0] * f, [1.0] * f), 3, GNNConfig("gat", w, 1, heads=heads))

    inputs = {
        "nodes": torch.randn(nodes, f),
        "edges": torch.randint(0, nodes, (edges, 2)),
        "node": torch.arange(10),
    }
    by_hand = 2 * (edges + nodes * f * w + edges * (heads + w) + 10 * w * 3)
    assert cost.analyse(build, inputs)["flops"] == by_hand


@pytest.mark.parametrize("name", ["gcn", "gat", "graphsage"])
def test_one_graph_is_one_batch_and_the_norm_of_weights_is_a_term_of_its_loss(
    tmp_path: Path, name: str
) -> None:
    data, task = node_task(tmp_path)
    space = load_families("graphs")[name].space(task)
    config = space.baseline()
    assert config["batch_size"] == data.profile.n_train
    assert "pooling" not in config
    assert (space["weight_decay"].low, config["weight_decay"]) == (1e-5, 5e-4)  # type: ignore[union-attr]
    proxy = Proxy(name, config, task)
    proxy.trainer = SimpleNamespace(estimated_stepping_batches=100)  # type: ignore[assignment]
    optimizer = proxy.configure_optimizers()["optimizer"]
    assert not optimizer.defaults["decoupled_weight_decay"]
    candidate = Candidate(1, name, config, 1, metrics={"accuracy": 0.5})
    recipe = recipes.make(candidate, task, {"source": "graph"}, {})
    assert recipe["optimizer"]["class_path"] == "torch.optim.Adam"
    assert task.fidelity.epochs >= 100
    net = load_families("graphs")[name].build(config, task).eval()
    assert net(**sample_inputs(task, 4)).shape == (4, 2)


def test_the_simple_models_see_features_alone_or_statistics_of_graphs(tmp_path: Path) -> None:
    data, task = node_task(tmp_path)
    (found,) = baselines(data, task)
    assert "error" not in found
    assert found["name"] == "features only + logistic"
    data = read(save(tmp_path / "a", **archive()))
    task = replace(task, targets=data.targets, profile=data.profile)
    (found,) = baselines(data, task)
    assert "error" not in found
    assert found["name"] == "graph statistics + forest"


def test_word_counts_are_divided_by_their_sum_where_the_space_says_so(tmp_path: Path) -> None:
    _, task = node_task(tmp_path, wide=100)
    space = load_families("graphs")["gcn"].space(task)
    assert space.baseline()["features"] == "rows"
    assert space.baseline()["input_dropout"] == 0.8
    rows = FeatureInput([0.0] * 3, [1.0] * 3, rows=True)(torch.tensor([[1.0, 1, 2], [0, 0, 0]]))
    assert rows.tolist() == [[0.25, 0.25, 0.5], [0, 0, 0]]


@pytest.mark.parametrize("name", ["gcn", "gat", "graphsage"])
def test_most_features_are_left_out_only_where_labels_are_fewer(tmp_path: Path, name: str) -> None:
    _, task = node_task(tmp_path, wide=100)
    family, most = load_families("graphs")[name], 0.6 if name == "gat" else 0.8
    for labelled, features, attention in ((99, most, 0.6), (100, 0.0, 0.0), (90_000, 0.0, 0.0)):
        config = family.baseline(replace(task, profile=replace(task.profile, n_train=labelled)))
        assert config["input_dropout"] == features
        assert config.get("attention_dropout", attention) == attention


def test_a_task_of_graphs_of_one_size_has_a_space() -> None:
    profile = DataProfile(
        100, 20, 20,
        {"nodes": (5, 3), "edges": (8, 2)},
        lengths={"nodes": (5,) * 7, "edges": (8,) * 7},
        channel_mean=(0.0,) * 3,
        channel_std=(1.0,) * 3,
    )  # fmt: skip
    target = (Target("y", "regression", mean=5.0, std=2.0),)
    task = Task("graphs", target, profile).with_objectives()
    for family in load_families("graphs").values():
        config = family.baseline(task)
        net = family.build(config, task)
        assert net(**sample_inputs(task, 4)).shape == (4, 1)
        assert config["pooling"] == "sum"


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "sizes"),
    [("cora", (140, 500, 1000)), ("mutag", (152, 18, 18)), ("esol", (903, 113, 112))],
)
def test_the_real_graphs_have_their_published_parts(
    data_folder: Path, name: str, sizes: tuple[int, ...]
) -> None:
    split = "column=split_random" if name == "esol" else None
    profile = read(data_folder / "graphs" / name, split=split).profile
    assert (profile.n_train, profile.n_val, profile.n_test) == sizes


@pytest.mark.parametrize("name", ["gcn", "gat", "graphsage"])
def test_memory_is_predicted_where_batch_norm_follows_the_read_out_of_nodes(name: str) -> None:
    dataset = example_datasets("graphs")["nodes"]
    task = Task("graphs", dataset.targets, dataset.profile).with_objectives()
    space = load_families("graphs")[name].space(task)
    evaluator = Evaluator(task, dataset)

    def memory_mb(**changes: Value) -> float:
        config = space.complete(changes)
        return evaluator.preflight(Candidate(0, name, config, seed=0)).costs["memory_mb"]

    assert memory_mb(norm="batch", post=1) > memory_mb(norm="batch", post=0) > 0


HUB = 5_000  # neighbours of node 0


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gcn", {}),
        ("gat", {"heads": 2}),
        ("graphsage", {"aggregation": "mean"}),
        ("graphsage", {"aggregation": "max"}),
    ],
)
@pytest.mark.parametrize("described", [False, True], ids=["plain", "edge features"])
def test_a_hub_sees_all_its_neighbours_in_mixed_precision(
    kind: str, options: dict[str, Any], described: bool
) -> None:
    torch.manual_seed(0)
    edge_input = FeatureInput([0.0] * 2, [1.0] * 2) if described else None
    front, layers = FeatureInput([0.0] * 16, [1.0] * 16), GNNConfig(kind, 8, 2, **options)
    net = GNN(front, 3, layers, edge_input=edge_input).eval()
    with torch.no_grad():
        net.head.weight.normal_()
    inputs = {
        "nodes": 1 + 0.1 * torch.randn(HUB + 1, 16),
        "edges": torch.stack([torch.arange(1, HUB + 1), torch.zeros(HUB).long()], dim=1),
        "node": torch.tensor([0]),
    }
    if described:
        inputs["edge_features"] = torch.rand(HUB, 2)
    with torch.no_grad():
        exact = net(**inputs)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = net(**inputs).float()
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))


def test_sums_over_thousands_of_neighbours_and_nodes_are_exact_in_half_precision() -> None:
    ones, index = torch.ones(HUB, 2).bfloat16(), torch.arange(1, HUB + 1)
    edges = Edges.of(torch.stack([index, torch.zeros_like(index)], dim=1), HUB + 1)
    assert edges.sum(ones)[0].tolist() == [HUB, HUB]
    assert GraphPool("sum", 2)(ones, torch.tensor([HUB])).tolist() == [[HUB, HUB]]
    assert GraphPool("mean", 2)(ones, torch.tensor([HUB])).tolist() == [[1, 1]]


def test_the_last_convolution_may_give_the_logits_of_nodes() -> None:
    """Kipf & Welling 2017, eq. 9, with a dense matrix."""
    torch.manual_seed(0)
    layers = GNNConfig("gcn", 8, 2, head="convolution")
    net = GNN(FeatureInput([0.0] * 6, [1.0] * 6), 3, layers).eval()
    x, pairs = torch.randn(5, 6), torch.tensor([[0, 1], [1, 2], [2, 3], [0, 3]])
    edges = torch.cat([pairs, pairs.flip(1)])
    matrix = torch.eye(5)
    matrix[edges[:, 1], edges[:, 0]] = 1
    scale = matrix.sum(1).rsqrt()
    matrix = scale[:, None] * matrix * scale
    last, first = (v for name, v in net.named_parameters() if name.endswith("linear.weight"))
    assert (first.shape, last.shape) == ((8, 6), (3, 8))
    expected = matrix @ (matrix @ x @ first.T).relu() @ last.T
    node = torch.tensor([4, 0, 2])
    torch.testing.assert_close(net(nodes=x, edges=edges, node=node), expected[node])


@pytest.mark.parametrize(
    ("options", "pooling"), [({"post": 1}, None), ({"jumping": "cat"}, None), ({}, "mean")]
)
def test_a_convolution_is_the_head_of_nodes_alone(
    options: dict[str, Any], pooling: str | None
) -> None:
    def make() -> GNN:
        layers = GNNConfig("gcn", 8, 2, head="convolution", **options)
        return GNN(FeatureInput([0.0] * 6, [1.0] * 6), 3, layers, pooling=pooling)

    with pytest.raises(ValueError, match="a convolution"):
        make()
