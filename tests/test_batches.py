"""Samples of different lengths: stored, saved, and cut into batches, against plain loops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import rules
from nas.data import Dataset
from nas.data.dataset import shape_profile
from nas.data.ragged import Input, Ragged, Whole
from nas.task import DataProfile, Target, Task
from nas.training import batches
from nas.training.batches import (
    Batches,
    RaggedTensor,
    WholeTensor,
    batch_inputs,
    part_tensors,
    proxy_folds,
    to_tensors,
    typical_rows,
)

LENGTHS = st.lists(st.integers(0, 7), min_size=1, max_size=12).filter(any)


def ragged(lengths: list[int], width: int = 2, **kind: Any) -> tuple[list[np.ndarray], Ragged]:
    rng = np.random.default_rng(sum(lengths))
    samples = [rng.normal(size=(n, width)).astype(np.float32) for n in lengths]
    return samples, Ragged.of(samples, **kind)


def graphs(sizes: list[int], seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    nodes = [np.full((n, 1), i, np.float32) for i, n in enumerate(sizes)]
    edges = [rng.integers(0, n, (2 * n, 2)).astype(np.int32) for n in sizes]
    return nodes, edges


@given(LENGTHS, st.data())
@settings(max_examples=50, deadline=None)
def test_rows_taken_from_ragged_samples_are_those_samples_in_that_order(
    lengths: list[int], data: st.DataObject
) -> None:
    samples, stored = ragged(lengths)
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=9)))
    taken = stored.take(rows)
    assert len(taken) == len(rows)
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(taken[i], samples[row])


@given(LENGTHS, st.data())
@settings(max_examples=50, deadline=None)
def test_a_padded_batch_holds_each_sample_then_zeros(
    lengths: list[int], data: st.DataObject
) -> None:
    samples, stored = ragged(lengths)
    tensor = to_tensors({"points": stored}, slice(None), "cpu")
    rows = torch.tensor(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1)))
    batch = batch_inputs(tensor, rows, rows)
    assert batch["points_length"].tolist() == [lengths[r] for r in rows]
    assert batch["points"].shape[1] == max(1, *(lengths[r] for r in rows), 1)
    for i, row in enumerate(rows.tolist()):
        n = lengths[row]
        np.testing.assert_array_equal(batch["points"][i, :n].numpy(), samples[row])
        assert not batch["points"][i, n:].any()


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
@settings(max_examples=50, deadline=None)
def test_the_edges_of_a_packed_batch_number_the_nodes_of_the_batch(
    sizes: list[int], data: st.DataObject
) -> None:
    nodes, edges = graphs(sizes)
    stored = {
        "nodes": Ragged.of(nodes, "packed"),
        "edges": Ragged.of(edges, "packed", into="nodes"),
    }
    rows = torch.tensor(data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1)))
    batch = batch_inputs(to_tensors(stored, slice(None), "cpu"), rows, rows)
    expected, start = [], 0
    for row in rows.tolist():
        expected.append(edges[row] + start)
        start += sizes[row]
    np.testing.assert_array_equal(batch["edges"].numpy(), np.concatenate(expected))
    np.testing.assert_array_equal(
        batch["nodes"].numpy(), np.concatenate([nodes[r] for r in rows.tolist()])
    )
    assert batch["nodes_length"].tolist() == [sizes[r] for r in rows.tolist()]
    assert set(batch) == {"nodes", "nodes_length", "edges"}


@pytest.mark.parametrize("seed", [None, 3])
def test_an_epoch_holds_every_sample_once_with_its_own_label(seed: int | None) -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 203).tolist()
    _, stored = ragged(lengths)
    inputs = to_tensors({"points": stored}, slice(None), "cpu")
    batches = Batches(inputs, {"row": torch.arange(203)}, 4, seed)
    for _ in range(2):
        seen = []
        for batch, labels in batches:
            assert batch["points_length"].tolist() == [lengths[r] for r in labels["row"]]
            seen += labels["row"].tolist()
        assert sorted(seen) == list(range(203))
        assert len(batches) == 51


def test_samples_of_like_length_share_a_batch_and_the_order_of_batches_is_shuffled() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 640).tolist()
    _, stored = ragged(lengths, width=1)
    inputs = to_tensors({"points": stored}, slice(None), "cpu")
    padded = [batch["points"] for batch, _ in Batches(inputs, {}, 16, seed=0)]
    filled = sum(lengths) / sum(each.shape[0] * each.shape[1] for each in padded)
    assert filled > 0.9  # at random, 53 % of a batch would be real
    widths = [each.shape[1] for each in padded]
    assert widths != sorted(widths)
    again = [batch["points"] for batch, _ in Batches(inputs, {}, 16, seed=0)]
    assert all(torch.equal(a, b) for a, b in zip(padded, again, strict=True))


def test_one_batch_holds_all_nodes_of_a_graph_that_is_shared_whole() -> None:
    inputs: dict[str, Input] = {"nodes": Whole(np.ones((9, 2))), "node": np.arange(9)}
    tensors = to_tensors(inputs, np.array([1, 4, 7]), "cpu")
    assert isinstance(tensors["nodes"], WholeTensor)
    ((batch, labels),) = list(Batches(tensors, {"y": torch.arange(3)}, 2, seed=0))
    assert batch["nodes"].shape == (9, 2)
    assert sorted(batch["node"].tolist()) == [1, 4, 7]
    assert batch["node"].tolist() == [1 + 3 * y for y in labels["y"].tolist()]


def test_a_ragged_data_set_is_saved_and_read_back(tmp_path: Path) -> None:
    _, points = ragged([3, 0, 5, 2])
    nodes, edges = graphs([2, 3, 1, 4])
    inputs: dict[str, Input] = {
        "points": points,
        "nodes": Ragged.of(nodes, "packed"),
        "edges": Ragged.of(edges, "packed", into="nodes"),
        "whole": Whole(np.arange(6.0)),
    }
    parts = {"train": np.array([0, 1]), "val": np.array([2]), "test": np.array([3])}
    profile = replace(shape_profile(inputs, parts["train"]), n_val=1, n_test=1)
    assert profile.inputs["points"] == (5, 2)
    assert profile.lengths["points"] == (0, 0, 0, 0, 3, 3, 3)
    target = Target("y", "regression")
    stored = Dataset("pointclouds", (target,), profile, inputs, {"y": np.arange(4.0)}, parts)
    stored.save(tmp_path)
    back = Dataset.load(tmp_path)
    assert back.profile == profile
    for row in range(4):
        for name in ("points", "nodes", "edges"):
            one, other = back.inputs[name], inputs[name]
            assert isinstance(one, Ragged)
            assert isinstance(other, Ragged)
            assert (one.layout, one.into) == (other.layout, other.into)
            np.testing.assert_array_equal(one[row], other[row])
    whole = back.inputs["whole"]
    assert isinstance(whole, Whole)
    np.testing.assert_array_equal(whole.values, np.arange(6.0))
    tensors, labels = part_tensors(back, parts["train"], "cpu")
    assert isinstance(tensors["points"], RaggedTensor)
    assert labels["y"].tolist() == [0.0, 1.0]


def test_costs_are_stated_for_samples_of_median_length() -> None:
    lengths = [9, 1, 5, 7, 3, 100]
    _, points = ragged(lengths)
    parts = {"train": np.arange(5), "val": np.array([5]), "test": np.array([5])}
    profile = replace(shape_profile({"points": points}, parts["train"]), n_val=1, n_test=1)
    labels = {"y": np.arange(6.0)}
    target = Target("y", "regression")
    stored = Dataset("pointclouds", (target,), profile, {"points": points}, labels, parts)
    assert [lengths[r] for r in typical_rows(stored, 1)] == [5]


@pytest.mark.parametrize(("validation", "count"), [(12, 5), (149, 5), (150, 1)])
def test_few_validation_samples_make_five_folds_of_all_but_the_test_part(
    validation: int, count: int
) -> None:
    n = 6 * validation
    part = np.repeat([0, 0, 0, 0, 1, 2], validation)
    parts = {name: np.flatnonzero(part == i) for i, name in enumerate(("train", "val", "test"))}
    label = np.arange(n) % 3
    target = Target("y", "multiclass", ("a", "b", "c"), (n, n, n))
    profile = DataProfile(4 * validation, validation, validation, {"numeric": (1,)})
    inputs: dict[str, Input] = {"numeric": np.zeros((n, 1), np.float32)}
    stored = Dataset("tabular", (target,), profile, inputs, {"y": label}, parts)
    task = Task("tabular", (target,), profile).with_objectives()
    pairs = proxy_folds(stored, task)
    assert len(pairs) == count
    for train, val in pairs:
        assert not set(train) & set(val)
        assert not set(parts["test"]) & {*train, *val}
        shares = np.bincount(label[val]) / len(val)
        np.testing.assert_allclose(shares, 1 / 3, atol=0.1)
    if count > 1:
        scored = np.sort(np.concatenate([val for _, val in pairs]))
        np.testing.assert_array_equal(scored, np.arange(5 * validation))
        assert all(len(train) + len(val) == 5 * validation for train, val in pairs)


# Several processes --------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("n", [9, 64, 101])
def test_processes_share_the_batches_of_an_epoch(n: int, world: int) -> None:
    """Together they have the rows of one process with batches of ``world`` times the size, without
    those of a last batch that cannot be shared evenly."""
    rows = {"row": torch.arange(n)}
    whole = Batches(rows, {}, 4 * world, seed=5)
    shares = [Batches(rows, {}, 4, seed=5, rank=r, world=world) for r in range(world)]
    for _ in range(2):  # epochs
        parts = [[batch["row"] for batch, _ in share] for share in shares]
        assert {len(part) for part in parts} == {len(shares[0])}
        assert len(shares[0]) == rules.steps_per_epoch(n, 4, 1, world)
        for (batch, _), *own in zip(whole, *parts, strict=False):
            assert len({len(each) for each in own}) == 1
            together = torch.cat(own)
            assert len(together) == len(batch["row"]) // world * world
            assert set(together.tolist()) <= set(batch["row"].tolist())
            assert len(set(together.tolist())) == len(together)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("n", [1, 9, 101])
def test_what_processes_find_of_a_validation_part_is_put_together(n: int, world: int) -> None:
    rows = {"row": torch.arange(n)}
    shares = [Batches(rows, {}, 4, rank=r, world=world) for r in range(world)]
    parts = [list(share) for share in shares]
    assert {len(part) for part in parts} == {len(shares[0])}
    found = torch.stack([torch.cat([batch["row"] for batch, _ in part]) for part in parts])
    assert shares[0].gathered(found).tolist() == list(range(n))


@pytest.mark.parametrize("done", [0, 2, 5])
def test_an_epoch_goes_on_where_it_was(done: int) -> None:
    rows = {"row": torch.arange(20)}
    first, second = Batches(rows, {}, 4, seed=1), Batches(rows, {}, 4, seed=9)

    def epoch(batches: Batches) -> list[list[int]]:
        return [batch["row"].tolist() for batch, _ in batches]

    epoch(first)
    whole = epoch(first)
    second.go_to(first.position(done))
    assert epoch(second) == (whole[done:] if done < 5 else epoch(first))


@pytest.mark.parametrize("seed", [None, 0])
def test_the_order_of_an_epoch_is_moved_to_the_device_once(
    seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy from the host makes it wait for all that the device was given before."""
    batches = Batches({"row": torch.arange(64)}, {"y": torch.arange(64)}, 4, seed)
    copies: list[Any] = []
    to = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, *a, **k: copies.append(a) or to(self, *a, **k)
    )
    assert len(list(batches)) == 16
    assert len(copies) == 1


@pytest.mark.parametrize(("side", "expected"), [(28, 128), (224, 30), (4096, 1)])
@pytest.mark.parametrize("streams", [False, True])
def test_an_evaluation_batch_of_large_images_is_smaller(
    side: int, expected: int, streams: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches.limits, "resident_limit", lambda: 3 * 2**28)
    images = np.zeros((1, side, side, 3), dtype=np.uint8)
    whole = torch.from_numpy(images)
    given = batches.StreamedInput(images, np.arange(1), "cpu") if streams else whole
    assert batches.evaluation_batch("images", {"image": given}) == expected


def test_an_evaluation_batch_follows_the_longest_sample() -> None:
    values = np.zeros(10, dtype=np.int64)
    tokens = Ragged.of([values[:2], values[2:]], layout="padded")
    inputs = batches.to_tensors({"text": tokens}, slice(None), "cpu")
    assert batches._values_of_a_sample(inputs["text"]) == 8
    streamed = batches.StreamedInput(tokens, np.array([0]), "cpu")
    assert batches._values_of_a_sample(streamed) == 2
