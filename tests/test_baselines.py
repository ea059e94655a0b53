"""How long simple models may take: models whose seconds follow from a formula, and its clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nas.data import Dataset, read
from nas.driver import make_task
from nas.task import Budget, Task
from nas.training import baselines as simple

Cost = Callable[[int, int], float]  # seconds by samples and classes


def table(samples: int, classes: int = 2) -> tuple[Dataset, Task]:
    draw = np.random.default_rng(0)
    labels = np.char.add("c", draw.integers(0, classes, samples).astype(str))
    dataset = read(pd.DataFrame({"a": draw.normal(size=samples), "y": labels}), target="y", seed=0)
    return dataset, make_task(dataset, budget=Budget(None, 1), device="cpu")


def fits(monkeypatch: pytest.MonkeyPatch, *costs: Cost) -> list[float]:
    """Have simple models take the seconds of ``costs``. Returns these, fit by fit."""
    seconds: list[float] = []

    class Slow:
        def __init__(self, cost: Cost, classes: int) -> None:
            self.cost, self.classes = cost, classes

        def fit(self, x: Any, y: Any) -> None:
            self.classes_ = np.unique(y)
            seconds.append(self.cost(len(x), len(self.classes_)))

        def predict(self, x: Any) -> Any:
            return self.predict_proba(x).argmax(axis=1)

        def predict_proba(self, x: Any) -> Any:
            return np.full((len(x), len(self.classes_)), 1 / len(self.classes_))

    def models(dataset: Dataset, task: Task) -> list[simple.Simple]:
        x = np.asarray(dataset.inputs["numeric"])

        def made(number: int, cost: Cost) -> simple.Simple:
            return f"model {number}", lambda: x, lambda t: Slow(cost, len(t.classes))

        return [made(number, cost) for number, cost in enumerate(costs)]

    monkeypatch.setitem(simple._SIMPLE, "tabular", models)
    clock = SimpleNamespace(perf_counter=lambda: math.fsum(seconds) + 1e-9 * len(seconds))
    monkeypatch.setattr(simple, "time", clock)
    return seconds


COSTS: dict[str, Cost] = {
    "in proportion": lambda n, k: 1e-2 * n,
    "squares": lambda n, k: 1e-4 * n**2,
    "cubes": lambda n, k: 1e-7 * n**3,
    "mostly the same": lambda n, k: 5 + 1e-3 * n,
    "by classes": lambda n, k: 1e-3 * n * k,
}


@pytest.mark.parametrize("name", COSTS)
def test_a_model_that_cannot_be_fitted_in_time_is_left_out_before_it_takes_long(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, task = table(8000, classes=100)
    train, scored = dataset.parts["train"], dataset.parts["val"]
    whole_s = COSTS[name](len(train), 100)
    for part, fitted in ((0.5, False), (3.0, True)):
        seconds = fits(monkeypatch, COSTS[name])
        limit_s = part * whole_s
        (row,) = simple.baselines(dataset, task, [(train, scored)], limit_s)
        assert ("error" not in row) == bool(row["metrics"]) == fitted, row
        assert row["seconds"] == pytest.approx(sum(seconds), rel=1e-3)
        assert sum(seconds) <= max(limit_s, seconds[0])
        if not fitted:
            assert row["error"].startswith("no time: ")
            assert whole_s not in seconds


def test_models_after_one_that_was_slow_are_left_out_and_folds_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset, task = table(120)
    seconds = fits(monkeypatch, lambda n, k: 1.0, lambda n, k: 1.0)
    slow, none = simple.baselines(dataset, task, limit_s=2.5)
    assert seconds == [1.0] * 3, "of five folds"
    assert (slow["error"], slow["metrics"]) == ("no time: it was over after 3 of 5 fits", {})
    assert (none["error"], none["metrics"]) == ("no time: 0 s are left", {})


def test_without_a_time_limit_the_size_alone_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, task = table(1200, classes=5)
    fitted = len(simple.proxy_folds(dataset, task)[0][0])
    for most, expected in ((5 * fitted, 1), (5 * fitted - 1, 0)):
        monkeypatch.setattr(simple, "MOST_WORK", most)
        seconds = fits(monkeypatch, lambda n, k: 1e9)
        (row,) = simple.baselines(dataset, task)
        assert len(seconds) == expected
        assert ("error" in row) == (not expected)


def test_beside_a_tested_network_a_slow_model_sees_fewer_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset, task = table(4000)
    monkeypatch.setattr(simple, "FEWER_TESTED", 300)
    monkeypatch.setattr(simple, "SIMPLE_TEST_S", 100.0)
    seconds = fits(monkeypatch, COSTS["in proportion"], COSTS["squares"], lambda n, k: n)
    quick, slow, slower = simple.tested(dataset, task)
    assert quick["samples"] == len(dataset.parts["train"])
    assert slow["samples"] == pytest.approx(300, abs=2)
    assert slow["metrics"].keys() == quick["metrics"].keys()
    assert slower["error"].startswith("no time: about ")
    assert sum(seconds) < 100.0


def test_a_part_of_one_class_alone_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, task = table(2000)
    asked: list[int] = []

    def refused(samples: int, classes: int) -> float:
        asked.append(samples)
        if samples < 1000:
            raise ValueError("one class")
        return 1.0

    fits(monkeypatch, refused)
    (row,) = simple.baselines(
        dataset, task, [(dataset.parts["train"], dataset.parts["val"])], limit_s=2.0
    )
    assert "error" not in row
    assert asked == [round(part * 1400) for part in (1 / 64, 1 / 8, 1)]
