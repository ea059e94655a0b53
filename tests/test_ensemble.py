"""Networks that are trained apart and averaged: the mean is that of the networks, the training is
that of each, and all that a single network can do they can as one."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import yaml
from default_run import one_of_each_modality
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import nas
import nas.train
from nas import recipe as recipes
from nas import rules
from nas.candidate import Candidate
from nas.data import read
from nas.driver import make_task
from nas.export.document import design_of_recipe
from nas.export.standalone import write_standalone
from nas.export.trained import open_trained
from nas.family import load_families
from nas.models.ensemble import Ensemble
from nas.recipe_changes import Settings
from nas.rulebook import typical_task
from nas.space import ENSEMBLE
from nas.task import Budget, Constraint, InputError, Task
from nas.testing import example_datasets, sample_inputs
from nas.train import several
from nas.train.__main__ import main
from nas.training.cost import parameters
from nas.training.proxy import build_network

pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")


class Fixed(torch.nn.Module):
    """A network that says always the same."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self) -> torch.Tensor:
        return self.logits


@given(st.integers(2, 5), st.integers(0, 2**31))
def test_the_loss_of_the_mean_is_never_above_the_mean_of_the_losses(count: int, seed: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    logits = [torch.randn(7, 3, generator=drawn, dtype=torch.double) * 4 for _ in range(count)]
    labels = torch.randint(3, (7,), generator=drawn)
    mean = Ensemble([Fixed(own) for own in logits])()
    for loss, truth in ((F.cross_entropy, labels), (F.mse_loss, F.one_hot(labels, 3).double())):
        each = torch.stack([loss(own, truth) for own in logits])  # type: ignore[operator]
        assert loss(mean, truth) <= each.mean() + 1e-9  # type: ignore[operator]


def test_an_ensemble_with_a_network_that_depends_on_values_depends_on_them_too() -> None:
    plain, dependent = Fixed(torch.zeros(1, 2)), Fixed(torch.zeros(1, 2))
    dependent.data_dependent = True  # type: ignore[assignment]
    assert Ensemble([plain, dependent]).data_dependent
    assert not Ensemble([plain, plain]).data_dependent


@pytest.mark.parametrize("name", one_of_each_modality())
def test_an_ensemble_of_any_family_is_the_mean_of_its_networks(name: str) -> None:
    family = load_families()[name]
    dataset = next(iter(example_datasets(family.modality).values()))
    task = Task(family.modality, dataset.targets, dataset.profile).with_objectives()
    config = family.baseline(task)
    torch.manual_seed(0)
    ensemble: Any = build_network(name, config | {ENSEMBLE: 2}, task).eval()
    inputs = sample_inputs(task, 2)
    with torch.no_grad():
        one, other = (network(**inputs) for network in ensemble.networks)
        torch.testing.assert_close(ensemble(**inputs), (one + other) / 2)
    assert parameters(ensemble) == 2 * parameters(build_network(name, config, task))


def test_limits_on_costs_are_limits_on_the_sum_of_all_networks() -> None:
    task = typical_task("tabular")
    costs = {"latency_ms": 1.0, "params": 100.0, "flops": 10.0, "inference_mb": 1.0}
    assert rules.ensemble_size(task, "mlp", costs, 5) == 5
    for limit, most in (
        ("latency_ms<=3.5", 3),
        ("params<=100", 1),
        ("params<=99", 1),
        ("flops<=1e9", 5),
        ("inference_mb<=2", 2),
        ("accuracy>=0.9", 5),
    ):
        limited = replace(task, constraints=(Constraint.parse(limit),))
        assert rules.ensemble_size(limited, "mlp", costs, 5) == most, limit
    published = replace(task, fidelity=replace(task.fidelity, other={"mlp": task.fidelity}))
    assert rules.ensemble_size(published, "mlp", costs, 5) == 1


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of two networks with dropout."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(200, 3)), columns=["a", "b", "c"])
    frame["y"] = np.where(frame.a * frame.b + 0.3 * rng.normal(size=200) > 0, "yes", "no")
    frame.to_csv(folder / "table.csv", index=False)
    data = read(folder / "table.csv", target="y")
    task = make_task(data, budget=Budget(None, 1), device="cpu", epochs=1)
    config = load_families()["mlp"].baseline(task) | {"dropout": 0.2, "batch_size": 16}
    candidate = Candidate(3, "mlp", config, 1, epochs=1, metrics={task.quality.metric: 0.9})
    source = {"source": str(folder / "table.csv"), "target": ["y"]}
    made = recipes.make(candidate, task, source, {}, 3)
    made["model"]["init_args"]["config"][ENSEMBLE] = 2
    return dict(json.loads(json.dumps(made)))


def trained(recipe: dict[str, Any], folder: Path, **how: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "given.yaml").write_text(yaml.safe_dump(recipe))
    return nas.train.train(folder / "given.yaml", folder, **how)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / "model.ckpt", weights_only=True)[
        "state_dict"
    ]
    return found


@pytest.fixture(scope="module")
def whole(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    trained(recipe, folder)
    return folder


def test_each_network_is_trained_as_alone_with_a_seed_of_its_own(
    recipe: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    own = json.loads(json.dumps(recipe))
    del own["model"]["init_args"]["config"][ENSEMBLE]
    own["seed_everything"] += 1
    alone = trained(own, tmp_path, test=False)
    result = json.loads((whole / "result.json").read_text())
    assert result["networks"][1] == alone["validation"]["accuracy"]
    together = weights(whole)
    for name, value in weights(tmp_path).items():
        second = name.replace("network.", "network.networks.1.", 1)
        torch.testing.assert_close(together[second], value, rtol=0, atol=0)


def test_the_result_is_that_of_the_mean(whole: Path) -> None:
    result = json.loads((whole / "result.json").read_text())
    task, model = open_trained(whole).task, nas.load(whole)
    assert isinstance(model.proxy.network, Ensemble)
    dataset = open_trained(whole).dataset
    rows = dataset.parts["test"]
    table = pd.read_csv(recipes.load(whole / "recipe.yaml")["data"]["init_args"]["source"])
    right = model.predict(table.iloc[rows]) == table["y"].iloc[rows].to_numpy()
    assert result["test"][task.quality.metric] == pytest.approx(right.mean())
    networks = sum(p.numel() for p in model.proxy.network.parameters())
    assert result["params"] == networks == 2 * parameters(model.proxy.network.networks[0])


def ending_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have trainings get a signal in a step, whichever network it is of."""
    steps = 0

    class Ending(nas.train.one.EpochLines):
        def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
            nonlocal steps
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(nas.train.one, "EpochLines", Ending)


@pytest.mark.parametrize("step", [2, 31])
def test_interrupted_in_any_network_it_goes_on_as_if_it_had_not_been(
    step: int,
    recipe: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        ending_at(step, patched)
        with pytest.raises(KeyboardInterrupt, match=r"nas train .* --resume` continues"):
            trained(recipe, tmp_path)
    trained(recipe, tmp_path, resume=True)
    again = weights(tmp_path)
    for name, value in weights(whole).items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


def test_one_network_that_fails_leaves_those_before_it(
    recipe: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train_one, begun = several.train_one, list[Path]()

    def failing(own: Any, path: Path, out: Path, *rest: Any) -> dict[str, Any]:
        begun.append(out)
        if len(begun) in fails:
            raise InputError("training ended: the loss is not finite")
        return train_one(own, path, out, *rest)

    monkeypatch.setattr(several, "train_one", failing)
    three = json.loads(json.dumps(recipe))
    three["model"]["init_args"]["config"][ENSEMBLE] = 3
    three["trainer"]["max_epochs"] = 1
    fails = [3]
    result = trained(three, tmp_path / "third", test=False)
    assert len(result["networks"]) == recipes.size(recipes.load(tmp_path / "third" / "recipe.yaml"))
    assert len(result["networks"]) == 2
    assert "network 3 failed (training ended: the loss is not finite); 2 are averaged" in (
        capsys.readouterr().err
    )
    fails, begun[:] = [1], []
    with pytest.raises(InputError, match="not finite"):
        trained(three, tmp_path / "first", test=False)


def test_a_resume_keeps_the_options_that_the_ensemble_was_begun_with(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trained(recipe, tmp_path / "whole", settings=Settings(epochs=1))
    with monkeypatch.context() as patched:
        ending_at(2, patched)
        with pytest.raises(KeyboardInterrupt, match="in network 1 of 2"):
            trained(recipe, tmp_path / "cut", settings=Settings(epochs=1))
    (tmp_path / "cut" / "given.yaml").unlink()
    after = nas.train.train(tmp_path / "cut" / "recipe.yaml", tmp_path / "cut", resume=True)
    assert after["networks"] == before["networks"]
    how: dict[str, Any] = {"settings": Settings(patience=1), "resume": True}
    written = (tmp_path / "cut" / "recipe.yaml").read_text()
    with pytest.raises(InputError, match="a network of another recipe"):
        nas.train.train(tmp_path / "cut" / "recipe.yaml", tmp_path / "cut", **how)
    assert (tmp_path / "cut" / "recipe.yaml").read_text() == written


def test_networks_that_a_limit_of_time_has_shortened_stay(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    """Their patience too, which grows with the epochs."""
    long: dict[str, Any] = json.loads(json.dumps(recipe))
    nas.recipe_changes.apply(long, Settings(epochs=400))
    whole = trained(long, tmp_path, settings=Settings(time_limit="5s"))
    place = tmp_path / "networks" / "1"
    shortened = recipes.read(place / "recipe.yaml")
    assert shortened["trainer"]["max_epochs"] < 400
    again = trained(long, tmp_path, resume=True)
    assert again["networks"] == whole["networks"]


def test_a_result_of_an_earlier_training_is_none_of_an_interrupted_one(
    recipe: dict[str, Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole / "networks", tmp_path / "networks")
    with monkeypatch.context() as patched:
        ending_at(2, patched)
        with pytest.raises(KeyboardInterrupt):
            trained(recipe, tmp_path, settings=Settings(epochs=2))
    assert not (tmp_path / "networks" / "0" / "result.json").exists()


def test_an_ensemble_may_have_output_paths(recipe: dict[str, Any], tmp_path: Path) -> None:
    own: dict[str, Any] = json.loads(json.dumps(recipe))
    logger = "pytorch_lightning.loggers.CSVLogger"
    own["trainer"]["logger"] = {"class_path": logger, "init_args": {"save_dir": "."}}
    assert len(trained(own, tmp_path, settings=Settings(epochs=1))["networks"]) == 2


def test_networks_that_there_is_no_time_for_are_left_out(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = trained(recipe, tmp_path, settings=Settings(time_limit="0.001s"))
    assert "the time was for 1 of 2 networks" in capsys.readouterr().err
    assert len(result["networks"]) == recipes.size(recipes.load(tmp_path / "recipe.yaml")) == 1
    one = nas.load(tmp_path).proxy.network
    assert result["params"] == sum(p.numel() for p in one.parameters())


def test_networks_are_put_together_where_their_data_lie_now(
    recipe: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    """Not where they lay when each was trained, as on another machine."""
    shutil.copytree(whole / "networks", tmp_path / "networks")
    for path in tmp_path.glob("networks/*/recipe.yaml"):
        path.write_text(path.read_text().replace("table.csv", "gone.csv"))
    again = trained(recipe, tmp_path, resume=True)
    assert again["networks"] == json.loads((whole / "result.json").read_text())["networks"]


def test_what_cannot_be_averaged_is_refused_in_a_line(
    recipe: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="on one device each"):
        trained(recipe, tmp_path / "two", settings=Settings(devices="2"))
    other = json.loads(json.dumps(recipe))
    other["model"]["init_args"]["config"]["dropout"] = 0.3
    (tmp_path / "networks").symlink_to(whole / "networks")
    with pytest.raises(InputError, match="a network of another recipe"):
        trained(other, tmp_path, resume=True)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match="trained by `nas train"):
        main(["fit", "--config", str(tmp_path / "r.yaml")])


def test_a_single_network_becomes_several_by_an_option_and_back(recipe: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(recipe))
    config = changed["model"]["init_args"]["config"]
    nas.recipe_changes.apply(changed, Settings(ensemble=4))
    assert changed["model"]["init_args"]["config"] == config | {ENSEMBLE: 4}
    nas.recipe_changes.apply(changed, Settings(ensemble=1))
    del config[ENSEMBLE]
    assert changed["model"]["init_args"]["config"] == config


def test_the_folder_of_plain_code_holds_all_networks(whole: Path, tmp_path: Path) -> None:
    """It is checked against the network's own predictions where it is written."""
    folder = write_standalone(open_trained(whole), tmp_path / "plain")
    code = (folder / "model.py").read_text()
    assert "class Ensemble" in code
    assert "import nas" not in code


def test_the_proxy_of_an_ensembles_recipe_is_one_network(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    again = nas.train.proof.proxy_again(recipe, tmp_path / "r.yaml", 1)[0]
    single = json.loads(json.dumps(recipe))
    del single["model"]["init_args"]["config"][ENSEMBLE]
    assert again == nas.train.proof.proxy_again(single, tmp_path / "r.yaml", 1)[0]


def test_the_document_of_an_ensemble_counts_all_its_networks(whole: Path) -> None:
    document = design_of_recipe(whole / "recipe.yaml").to_dict()
    result = json.loads((whole / "result.json").read_text())
    assert document["parameters"]["params"] == result["params"]
    assert {"name": "ensemble", "value": 2} in [
        {key: choice[key] for key in ("name", "value")}
        for choice in document["architecture"]["choices"]
    ]


@pytest.fixture(scope="module")
def mixed(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLP and a TabNet, each by a recipe of its own, as one."""
    folder = tmp_path_factory.mktemp("mixed")
    task = Task.from_dict(recipe["model"]["init_args"]["task"])
    first = recipes.network_recipe(recipe, 0)
    config = load_families()["tabnet"].baseline(task) | {"batch_size": 32}
    other = Candidate(7, "tabnet", config, 5, epochs=1, metrics={task.quality.metric: 0.8})
    source = {k: v for k, v in first["data"]["init_args"].items() if k in ("source", "target")}
    trained(recipes.combined([first, recipes.make(other, task, source, {}, 2)]), folder)
    return folder


def test_networks_of_different_families_are_one_by_a_recipe_that_repeats_them(
    recipe: dict[str, Any], mixed: Path, tmp_path: Path
) -> None:
    kept = recipes.load(mixed / "recipe.yaml")
    first, second = (recipes.network_recipe(kept, number) for number in range(2))
    assert (first["trainer"]["max_epochs"], second["trainer"]["max_epochs"]) == (3, 2)
    assert second["data"]["init_args"]["batch_size"] == 32
    assert second["provenance"]["candidate"] == 7
    alone = trained(second, tmp_path / "alone", test=False)
    result = json.loads((mixed / "result.json").read_text())
    assert result["networks"][1] == alone["validation"]["accuracy"]
    trained(kept, tmp_path / "again")
    again = weights(tmp_path / "again")
    for name, value in weights(mixed).items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


def test_an_ensemble_of_two_families_is_exported_as_one(mixed: Path, tmp_path: Path) -> None:
    folder = write_standalone(open_trained(mixed), tmp_path / "plain")
    assert "class TabNet" in (folder / "model.py").read_text()
    document = design_of_recipe(mixed / "recipe.yaml").to_dict()
    result = json.loads((mixed / "result.json").read_text())
    assert document["parameters"]["params"] == result["params"]


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ([], "networks: expected 1, as the model is"),
        ([{}, {}], "networks: expected 1, as the model is"),
        ({"a": 1}, "networks: expected a list of sections by name"),
        ([{"model": {}}], r"networks\[0\]: expected some of data, "),
        ([{"data": {"source": "/etc"}}], r"networks\[0\].data may not set 'source'"),
        ([{"optimizer": {"class_path": "os.system"}}], r"networks\[0\]: optimizer.class_path"),
        ([{"trainer": {"default_root_dir": "/tmp"}}], "an output must stay inside"),
    ],
)
def test_what_differs_in_a_network_is_held_to_the_list_of_a_recipe(
    networks: Any, message: str, recipe: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        recipes.checked(recipe | {"networks": networks}, "r.yaml", tmp_path)
