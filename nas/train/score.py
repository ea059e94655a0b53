"""Scores of trained networks on the validation and the test part, beside those of simple models."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from nas import recipe as recipes
from nas.files import read_json, write_whole
from nas.train.objects import Training, build, on_this_device
from nas.training.baselines import tested
from nas.training.calibration import examined, intervals, score_interval
from nas.training.proxy import Proxy, load_proxy
from nas.training.resume import kept_generators


def trained_network(training: Training, out: Path) -> Proxy:
    """The network in ``out``/model.ckpt, on the device of the training."""
    return load_proxy(out / "model.ckpt", str(training.trainer.strategy.root_device))


def of_network(training: Training, proxy: Proxy, out: Path, test: bool = False) -> dict[str, Any]:
    """What a result says of the test part, with ``test``, and the intervals of numbers, of the
    network ``proxy`` in ``out``/model.ckpt; nothing yet of the simple models."""
    dataset = training.data.dataset
    assert dataset is not None
    found = examined(proxy, dataset, "test") if test else None
    return {
        "test": scored(training, out / "model.ckpt", "test") if test else {},
        "test_interval": score_interval(proxy.task, dataset, found) if found else {},
        "intervals": intervals(proxy, dataset, found),
        "simple_test": {},
    }


def _simple(training: Training) -> dict[str, dict[str, float]]:
    """The simple models' scores on the test part, by their names."""
    dataset, task = training.data.dataset, training.module.task
    assert dataset is not None
    return {row["name"]: row["metrics"] for row in tested(dataset, task) if row["metrics"]}


def add_test_part(training: Training, out: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Score ``out``/model.ckpt on the test part and write the result again, with the scores; once
    more with those of the simple models, for which there may be no time."""
    training.data.setup()
    found = of_network(training, trained_network(training, out), out, True)
    result = result | found | {"checkpoint": str(out / "model.ckpt")}
    write_result(result, out)
    result["simple_test"] = _simple(training)
    write_result(result, out)
    return result


def write_result(result: dict[str, Any], out: Path) -> None:
    write_whole(out / "result.json", json.dumps(result, indent=1))


@kept_generators()
def score_once(path: Path, out: Path) -> dict[str, Any]:
    """Score a trained recipe, ``out``/model.ckpt, on the test part; training and figures are as in
    ``out``/result.json, which is written again with the score and returned.

    Raises InputError where one of the two is not there.
    """
    recipe = recipes.load(path, out)
    result: dict[str, Any] = read_json(out / "result.json", dict[str, Any])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        on_this_device(recipe)
        recipe["trainer"] |= {"devices": 1, "num_nodes": 1, "strategy": "auto"}  # as it is scored
        return add_test_part(build(recipe, str(path)), out, result)


def scored(training: Training, checkpoint: Path, part: str) -> dict[str, float]:
    """The scores of a network on the validation or the test part ("val", "test"), found by this
    process alone."""
    device = training.trainer.strategy.root_device
    alone = pl.Trainer(
        accelerator="cpu" if device.type == "cpu" else "gpu",
        devices=1 if device.index is None else [device.index],
        precision=training.trainer.precision,
        plugins=[LightningEnvironment()],  # whatever a cluster's variables say of many processes
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    score = alone.test if part == "test" else alone.validate
    (scores,) = score(load_proxy(checkpoint), training.data, verbose=False)
    return {name.removeprefix("test_"): value for name, value in scores.items()}
