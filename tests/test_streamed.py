"""What is larger than memory stays in its file, and is trained on as if it did not."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from nas.data import Dataset
from nas.data.ragged import Ragged, Whole
from nas.driver import make_task
from nas.family import load_families
from nas.task import Budget, Modality
from nas.testing import example_datasets
from nas.training import batches as module
from nas.training.batches import Batches, StreamedInput, part_tensors
from nas.training.fit import folds, train_folds
from nas.training.frozen import _contents

CASES = [(modality, name) for modality in get_args(Modality) for name in example_datasets(modality)]


@pytest.fixture
def nothing_resident(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_bytes", lambda *_: math.inf)


def saved(modality: Modality, name: str, folder: Path) -> Dataset:
    """An example as a worker has it: its arrays in files."""
    example_datasets(modality)[name].save(folder)
    return Dataset.load(folder)


def all_batches(dataset: Dataset, seed: int | None) -> list[Any]:
    return list(Batches(*part_tensors(dataset, dataset.parts["train"], "cpu"), 7, seed))


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize(("modality", "name"), CASES)
def test_streamed_batches_are_those_of_tensors(
    modality: Modality,
    name: str,
    seed: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = saved(modality, name, tmp_path)
    before = all_batches(dataset, seed)
    monkeypatch.setattr(module, "_bytes", lambda *_: math.inf)
    inputs, _ = part_tensors(dataset, dataset.parts["train"], "cpu")
    alone = [n for n, array in dataset.inputs.items() if not isinstance(array, Whole)]
    assert [n for n, value in inputs.items() if isinstance(value, StreamedInput)] == alone
    after = all_batches(dataset, seed)
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        for x, y in zip(one, other, strict=True):
            assert list(x) == list(y)
            for key in x:
                assert x[key].dtype == y[key].dtype
                torch.testing.assert_close(x[key], y[key], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("modality", "family"), [("images", "resnet"), ("audio", "audio_cnn"), ("tabular", "mlp")]
)
@pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
def test_a_network_comes_out_the_same(
    modality: Modality, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(iter(example_datasets(modality)))
    dataset = saved(modality, name, tmp_path)
    task = make_task(dataset, budget=Budget(None, 1), device="cpu", epochs=2)
    found = load_families(modality)
    chosen = found[family] if family in found else next(iter(found.values()))

    def trained() -> Any:
        parts = folds(dataset, task)[:1]
        args = chosen.name, chosen.baseline(task), task, parts, 2, 0
        return train_folds(*args, list, precision="32-true")

    before = trained()
    monkeypatch.setattr(module, "_bytes", lambda *_: math.inf)
    assert trained() == before


@pytest.mark.usefixtures("nothing_resident")
def test_the_next_batch_is_read_while_one_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = example_datasets("images")[next(iter(example_datasets("images")))]
    read, threads = [], set()
    original = StreamedInput.read

    def seen(self: StreamedInput, rows: torch.Tensor) -> Any:
        read.append(len(rows))
        threads.add(threading.current_thread().name)
        return original(self, rows)

    monkeypatch.setattr(StreamedInput, "read", seen)
    inputs, labels = part_tensors(dataset, dataset.parts["train"], "cpu")
    batches = iter(Batches(inputs, labels, 8, seed=0))
    next(batches)
    deadline = time.monotonic() + 10
    while len(read) < 1 + module.AHEAD and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(read) == 1 + module.AHEAD
    assert threading.current_thread().name not in threads
    batches.close()  # type: ignore[attr-defined]  # an epoch that is left early ends its thread
    assert not any(t.name in threads for t in threading.enumerate())


@pytest.mark.usefixtures("nothing_resident")
def test_an_error_in_the_reading_thread_is_raised_where_the_batch_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = example_datasets("tabular")[next(iter(example_datasets("tabular")))]

    def broken(self: StreamedInput, rows: torch.Tensor) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(StreamedInput, "read", broken)
    with pytest.raises(OSError, match="Input/output"):
        list(Batches(*part_tensors(dataset, dataset.parts["train"], "cpu"), 8))


def test_features_of_a_frozen_network_are_kept_by_the_same_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AsItIs:
        def seen(self, name: str, values: np.ndarray) -> np.ndarray:
            return values

    for modality in ("images", "text", "audio"):
        dataset = saved(modality, next(iter(example_datasets(modality))), tmp_path / modality)
        rows = dataset.parts["train"]
        network: Any = AsItIs()
        before = _contents(network, part_tensors(dataset, rows, "cpu")[0])
        with monkeypatch.context() as patch:
            patch.setattr(module, "_bytes", lambda *_: math.inf)
            assert _contents(network, part_tensors(dataset, rows, "cpu")[0]) == before


@pytest.mark.parametrize("long", [0, 10**9])
def test_samples_are_copied_one_by_one_or_by_an_index_to_the_same_end(
    long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    stored = Ragged.of([rng.normal(size=(n, 2)) for n in (3, 0, 5, 1)])
    monkeypatch.setattr("nas.data.ragged.LONG", long)
    taken = stored.take(np.array([2, 0, 2, 1]))
    for i, row in enumerate((2, 0, 2, 1)):
        np.testing.assert_array_equal(taken[i], stored[row])
    np.testing.assert_array_equal(stored.take(slice(1, 3)).values, stored.values[3:8])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_node_that_does_not_see_the_data_says_so(tmp_path: Path) -> None:
    from nas.task import InputError
    from nas.testing import small_task
    from nas.training.evaluator import from_shared

    wanted = r"does not see .*data, and the data set there is too large to be sent; give --out"
    with pytest.raises(InputError, match=wanted):
        from_shared(small_task(), str(tmp_path / "data"))


@pytest.mark.parametrize(("modality", "name"), CASES)
def test_simple_models_make_features_of_the_samples_that_they_see_alone(
    modality: Modality, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.training import baselines as simple

    dataset = example_datasets(modality)[name]
    task = make_task(dataset, budget=Budget(None, 1), device="cpu", epochs=1)
    train, val = dataset.parts["train"][::2], dataset.parts["val"]
    seen: list[Dataset] = []
    original = simple._of

    def of(whole: Dataset, rows: np.ndarray) -> Dataset:
        seen.append(original(whole, rows))
        return seen[-1]

    monkeypatch.setattr(simple, "_of", of)
    found = simple.baselines(dataset, task, [(train, val)])
    assert found
    assert not any("error" in row for row in found), found
    (few,) = seen
    rows = np.sort(np.concatenate([train, val]))
    for key, array in dataset.inputs.items():
        own: Any = few.inputs[key]
        if isinstance(array, Ragged):
            assert len(own) == len(rows)
            for place, row in enumerate(rows):
                np.testing.assert_array_equal(own[place], array[row])
        elif not isinstance(array, Whole):
            np.testing.assert_array_equal(own[0 : len(rows)], array[rows])
    for key, label in dataset.labels.items():
        np.testing.assert_array_equal(few.labels[key], np.asarray(label)[rows])
    np.testing.assert_array_equal(rows[few.parts["train"]], train)
    np.testing.assert_array_equal(rows[few.parts["val"]], val)
    assert len(few.parts["test"]) == 0


@pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
@pytest.mark.parametrize("modality", ["images", "audio", "graphs"])
def test_predictions_of_more_than_memory_are_the_same(
    modality: Modality, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.training.proxy import Proxy, predict

    dataset = next(iter(example_datasets(modality).values()))
    task = make_task(dataset, budget=Budget(None, 1), device="cpu", epochs=1)
    family = next(iter(load_families(modality).values()))
    proxy = Proxy(family.name, family.baseline(task), task).eval()
    before = predict(proxy, dataset.inputs)
    monkeypatch.setattr(module, "_bytes", lambda *_: math.inf)
    after = predict(proxy, dataset.inputs)
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=0, atol=1e-6)
