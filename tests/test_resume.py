"""A training that is ended at any moment and goes on ends as if it had not been."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import yaml

import nas.train
from nas import recipe as recipes
from nas.candidate import Candidate
from nas.data import read
from nas.driver import make_task
from nas.family import load_families
from nas.recipe_changes import Settings
from nas.task import Budget

pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
ROWS, EPOCHS, BATCH = 200, 3, 16


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a network with dropout, so that the generators of random numbers matter."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(ROWS, 3)), columns=["a", "b", "c"])
    frame["y"] = np.where(frame.a * frame.b + 0.3 * rng.normal(size=ROWS) > 0, "yes", "no")
    frame.to_csv(folder / "table.csv", index=False)
    data = read(folder / "table.csv", target="y")
    task = make_task(data, budget=Budget(None, 1), device="cpu", epochs=1)
    config = load_families()["mlp"].baseline(task) | {"dropout": 0.2, "batch_size": BATCH}
    candidate = Candidate(3, "mlp", config, 1, epochs=1, metrics={task.quality.metric: 0.9})
    source = {"source": str(folder / "table.csv"), "target": ["y"]}
    made: dict[str, Any] = json.loads(json.dumps(recipes.make(candidate, task, source, {})))
    made["trainer"]["max_epochs"] = EPOCHS
    return made


def trained(
    recipe: dict[str, Any], folder: Path, settings: Settings | None = None, resume: bool = False
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The result and the weights of a training in ``folder``."""
    path = folder / "given.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe))
    result = nas.train.train(path, folder, test=False, resume=resume, settings=settings)
    content = torch.load(folder / "model.ckpt", weights_only=True)
    return result, content["state_dict"]


def ended_at(step: int, end: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call ``end`` when an optimiser step is over."""

    class Ending(nas.train.EpochLines):
        def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
            if trainer.global_step == step:
                end()

    monkeypatch.setattr(nas.train, "EpochLines", Ending)


class Killed(BaseException):
    pass


def kill() -> None:
    raise Killed


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def assert_same(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    assert one[0]["validation"] == other[0]["validation"]
    assert one[0]["best_epoch"] == other[0]["best_epoch"]
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        torch.testing.assert_close(other[1][name], value, rtol=0, atol=0)


VARIANTS: dict[str, tuple[dict[str, Any], Settings]] = {
    "plain": ({}, Settings()),
    "accumulated": ({"accumulate_grad_batches": 2}, Settings()),
    "averaged": ({}, Settings(ema=0.9)),
    "patient": ({"max_epochs": 12}, Settings(patience=2)),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    variant: str, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, settings = VARIANTS[variant]
    recipe = recipe | {"trainer": recipe["trainer"] | changes}
    whole = trained(recipe, tmp_path / "whole", settings)
    steps = -(-ROWS * 7 // 10 // BATCH) // changes.get("accumulate_grad_batches", 1)
    with monkeypatch.context() as patch:
        ended_at(steps + 2, interrupt, patch)  # in the second epoch
        with pytest.raises(KeyboardInterrupt, match=r"--resume` goes on"):
            trained(recipe, tmp_path / "parts", settings)
    assert (tmp_path / "parts" / "last.ckpt").exists()
    assert_same(whole, trained(recipe, tmp_path / "parts", settings, resume=True))
    assert not (tmp_path / "parts" / "last.ckpt").exists()


@pytest.mark.parametrize("step", [1, 9, 20])
def test_a_training_that_is_killed_goes_on_from_its_last_epoch(
    step: int, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        ended_at(step, kill, patch)
        with pytest.raises(Killed):
            trained(recipe, tmp_path / "parts")
    assert_same(whole, trained(recipe, tmp_path / "parts", resume=True))
