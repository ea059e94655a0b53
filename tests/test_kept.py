"""The weights of a front: a worker writes them, the driver removes them, and they are used."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from default_run import one_of_each_modality
from safetensors.torch import load_file, save_file

from nas import kept
from nas.candidate import Candidate, Cost, Latency, Reason, State
from nas.data import Dataset, read
from nas.family import load_families
from nas.kept import FrontWeights, place, restore, sizes
from nas.plan import make_task
from nas.task import Budget, Constraint, InputError, Task
from nas.testing import example_datasets, small_task
from nas.training import evaluator as evaluation
from nas.training.batches import Batches, evaluation_batch
from nas.training.evaluator import Evaluator
from nas.training.fit import folds
from nas.training.metrics import score
from nas.training.monitors import TrainingStopped
from nas.training.proxy import Proxy

pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")


def task_of(dataset: Dataset, epochs: int = 1, parts: int = 1) -> Task:
    task = make_task(dataset, budget=Budget(trials=1), device="cpu", epochs=epochs)
    return replace(task, fidelity=replace(task.fidelity, folds=parts))


def table() -> Dataset:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 200))
    return read(pd.DataFrame({"a": a, "b": b, "y": np.where(a + b > 0, "yes", "no")}), target="y")


def trained(
    run: Path,
    task: Task,
    dataset: Dataset,
    family: str = "mlp",
    report: Callable[..., str] = lambda *_: "",
) -> Candidate:
    """A candidate as a worker of ``run`` returns it."""
    config = load_families()[family].space(task).baseline()
    asked = Candidate(7, family, config, seed=1, epochs=task.fidelity.epochs)
    work = Evaluator(task, dataset, deterministic=True, run=str(run))
    return Candidate.from_dict(work.evaluate(asked.to_dict(), report))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder, as a driver has begun it."""
    (tmp_path / kept.FOLDER).mkdir()
    return tmp_path


def opened(run: Path, task: Task, candidate: Candidate) -> tuple[Proxy, str]:
    """Its network with the weights that were kept, and how far they are trained."""
    torch.manual_seed(candidate.seed)  # of parameters that stay as they are, for want of a file
    proxy = Proxy(candidate.family, dict(candidate.config), task).eval()
    published = load_families()[candidate.family].load is not None
    file = place(run, candidate.number)
    return proxy, restore(file, candidate, proxy.network, published=published, repair="train it")


def scores(proxy: Proxy, task: Task, dataset: Dataset) -> dict[str, float]:
    """Of the samples that score a proxy, or its first fold."""
    inputs, labels = folds(dataset, task)[0][1]
    batches = Batches(inputs, labels, evaluation_batch(dataset.modality, inputs))
    with torch.inference_mode():
        found = [(proxy.logits(inputs), labels) for inputs, labels in batches]
    logits = torch.cat([logits for logits, _ in found]).float()
    names = [target.name for target in task.targets]
    truth = {name: torch.cat([labels[name] for _, labels in found]).numpy() for name in names}
    return score(task, truth, proxy.predictions(logits))


# -- a worker writes them --------------------------------------------------------------------------


@pytest.mark.parametrize("family", one_of_each_modality())
def test_the_kept_weights_of_every_family_score_as_at_the_end_of_the_proxy(
    family: str, run: Path
) -> None:
    for dataset in example_datasets(load_families()[family].modality).values():
        task = task_of(dataset)
        end = trained(run, task, dataset, family)
        assert (end.state, end.detail) == (State.COMPLETE, "")
        proxy, fidelity = opened(run, task, end)
        assert fidelity == "1 epoch of all training samples"
        again = scores(proxy, task, dataset)
        assert again == pytest.approx({name: end.metrics[name] for name in again}, abs=1e-6)


def test_of_several_folds_the_weights_of_the_first_are_kept(run: Path) -> None:
    dataset, reports = table(), list[dict[str, float]]()
    task = task_of(dataset, epochs=2, parts=5)

    def report(epoch: int, metrics: dict[str, float], fold: int = 1) -> str:
        reports.append(metrics)
        return ""

    proxy, fidelity = opened(run, task, trained(run, task, dataset, report=report))
    assert fidelity == "2 epochs on the first of 5 folds"
    again = scores(proxy, task, dataset)
    assert again == pytest.approx({name: reports[1][name] for name in again}, abs=1e-6)


class Late(pl.Callback):
    """A limit of time that is over in the middle of the third epoch."""

    def __init__(self, *_: Any) -> None:
        pass

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 2:
            raise TrainingStopped(Reason.TIMEOUT, "after 9 s")


def test_one_that_ran_out_of_time_has_the_weights_of_its_last_epoch(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "TimeLimit", Late)
    dataset = table()
    task = task_of(dataset, epochs=4)
    task = replace(task, fidelity=replace(task.fidelity, time_limit_s=9.0))
    end = trained(run, task, dataset)
    assert (end.reason, len(end.curve)) == (Reason.TIMEOUT, 2)
    proxy, fidelity = opened(run, task, end)
    assert fidelity == "2 epochs of all training samples"
    again = scores(proxy, task, dataset)
    assert again == pytest.approx({name: end.curve[-1][name] for name in again}, abs=1e-6)


def test_a_candidate_that_a_limit_keeps_off_the_front_is_not_written(run: Path) -> None:
    dataset = table()
    task = replace(task_of(dataset), constraints=(Constraint.parse("accuracy>=1"),))
    end = trained(run, task, dataset)
    assert (end.state, end.detail) == (State.COMPLETE, "")
    assert sizes(run) == {}


def test_a_full_disk_loses_no_candidate_and_says_so_once(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(kept, "write_whole", full)
    dataset = table()
    task = task_of(dataset)
    end = trained(run, task, dataset)
    assert end.state == State.COMPLETE
    assert end.detail == "its weights are not kept: No space left on device"
    with caplog.at_level(logging.WARNING, "nas"):
        weights = FrontWeights(run, task)
        weights.add(end)
        weights.add(replace(end, number=8))
    said = "candidate 7: its weights are not kept: No space left on device; it is complete"
    assert caplog.messages == [said]


def test_a_worker_that_does_not_see_the_folder_says_what_helps(tmp_path: Path) -> None:
    dataset, elsewhere = table(), tmp_path / "elsewhere"
    end = trained(elsewhere, task_of(dataset), dataset)
    assert end.state == State.COMPLETE
    assert end.detail == (
        f"its weights are not kept: its worker does not see {elsewhere}; give --out on a file"
        " system that all nodes share"
    )
    assert not elsewhere.exists()


# -- the driver removes them -----------------------------------------------------------------------


def candidate(
    number: int, accuracy: float, params: float = 10.0, ms: float = 1.0, isolated: bool = True
) -> Candidate:
    return Candidate(
        number=number,
        family="mlp",
        config={"batch_size": 32},
        seed=0,
        state=State.COMPLETE,
        metrics={"accuracy": accuracy, "latency_ms": ms, "params": params},
        cost=Cost(Latency(ms, 0.0, isolated=isolated, threads=1, batch=1)),
    )


@pytest.fixture
def weights(tmp_path: Path) -> FrontWeights:
    return FrontWeights(tmp_path, small_task().with_objectives())


def add(weights: FrontWeights, *candidates: Candidate, size: int = 100) -> None:
    for each in candidates:
        place(weights.run, each.number).write_bytes(bytes(size))
        weights.add(each)


def test_a_point_that_is_dominated_later_loses_its_file(weights: FrontWeights) -> None:
    add(weights, candidate(0, 0.75), candidate(1, 0.7, params=5.0))
    assert sizes(weights.run) == {0: 100, 1: 100}
    add(weights, candidate(2, 0.85), candidate(3, 0.8))
    assert sizes(weights.run) == {1: 100, 2: 100}


def test_what_a_latency_on_the_isolated_device_may_bring_back_stays_until_the_end(
    weights: FrontWeights,
) -> None:
    near = candidate(1, 0.7, ms=1.4, isolated=False)
    found = [candidate(0, 0.8, ms=1.0), near, candidate(2, 0.7, ms=1.6, isolated=False)]
    add(weights, *found)
    assert sizes(weights.run).keys() == {0, 1}
    weights.end([found[0], candidate(1, 0.7, ms=0.9), found[2]])
    assert sizes(weights.run).keys() == {0, 1}
    weights.end([found[0], candidate(1, 0.7, ms=1.1), found[2]])
    assert sizes(weights.run).keys() == {0}


def test_the_files_have_a_largest_size_together_and_the_best_quality_goes_first(
    weights: FrontWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST_BYTES", 250)
    add(weights, *(candidate(n, 0.6 + n / 20, params=10.0 + n) for n in (1, 3, 0, 2)))
    assert sizes(weights.run) == {3: 100, 2: 100}
    disk = SimpleNamespace(free=1300)  # and 200 bytes of weights: a tenth is one file
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    weights.end([candidate(n, 0.6 + n / 20, params=10.0 + n) for n in range(4)])
    assert sizes(weights.run) == {3: 100}


def test_a_resume_removes_what_killed_workers_have_left(weights: FrontWeights) -> None:
    for name in ("0.safetensors", "4.safetensors", "0.safetensors.77.new"):
        (weights.run / kept.FOLDER / name).write_bytes(bytes(10))
    weights.begin([candidate(0, 0.8), candidate(4, 0.7)])
    assert [file.name for file in (weights.run / kept.FOLDER).iterdir()] == ["0.safetensors"]


# -- and they are used -----------------------------------------------------------------------------


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def of_other_sizes(file: Path) -> None:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    save_file({n: v.double() for n, v in load_file(file).items()}, file, about)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"7\.safetensors is damaged: it is no whole file of a candidate's weights .*"),
        (lambda file: file.write_bytes(b""), r"7\.safetensors is damaged: .*"),
        (lambda file: file.write_bytes(bytes(100)), r"7\.safetensors is damaged: .*"),
        (lambda file: save_file({"a": torch.ones(1)}, file), r"7\.safetensors is damaged: .*"),
        (of_other_sizes, r"7\.safetensors holds another network than candidate 7 .*"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(
    damage: Callable[[Path], Any], message: str, run: Path
) -> None:
    dataset = table()
    task = task_of(dataset)
    end = trained(run, task, dataset)
    damage(place(run, 7))
    with pytest.raises(InputError, match=rf"^[^\n]*{message}; train it$"):
        opened(run, task, end)


def test_the_weights_of_another_configuration_are_refused(run: Path) -> None:
    dataset = table()
    task = task_of(dataset)
    end = trained(run, task, dataset)
    other = replace(end, config={**end.config, "lr": 2 * float(end.config["lr"])})
    with pytest.raises(InputError, match=r"another network than candidate 7 \(candidate 7, mlp\)"):
        opened(run, task, other)
