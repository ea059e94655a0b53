"""The estimators hold scikit-learn's contract, and search when it matters."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import nas
from nas import estimators
from nas.data import read
from nas.family import load_families
from nas.task import InputError, Task
from nas.training.batches import part_tensors
from nas.training.proxy import Proxy

pytestmark = pytest.mark.filterwarnings("ignore")
SMALL: dict[str, Any] = {"trials": 1, "time_limit": None, "families": ("mlp",), "workers": 1}


def quick(self: Any, frame: Any, out: Path) -> Path:
    """In place of a search: one small network, trained for a few steps in this process."""
    import pytorch_lightning as pl

    dataset = read(frame, target=estimators.TARGET, modality="tabular")
    task = Task("tabular", dataset.targets, dataset.profile).with_objectives()
    torch.manual_seed(0)
    proxy = Proxy("mlp", load_families()["mlp"].baseline(task), task)
    inputs, labels = part_tensors(dataset, dataset.parts["train"], "cpu")
    optimizer = torch.optim.AdamW(proxy.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        proxy.loss(proxy(**inputs), labels).backward()  # type: ignore[arg-type]
        optimizer.step()
    trainer = pl.Trainer(logger=False, accelerator="cpu", max_epochs=0, barebones=True)
    trainer.strategy.connect(proxy)
    out.mkdir(parents=True)
    trainer.save_checkpoint(out / "model.ckpt", weights_only=True)
    return out / "model.ckpt"


@pytest.mark.slow
@parametrize_with_checks(
    [nas.SearchClassifier(**SMALL), nas.SearchRegressor(**SMALL)],
)
def test_the_contract_of_scikit_learn(
    estimator: Any, check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimators._Search, "_trained", quick)
    check(estimator)


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_they_work_in_a_pipeline_and_in_cross_validation(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimators._Search, "_trained", quick)
    if kind == "classes":
        x, y = load_iris(return_X_y=True)
        model: Any = nas.SearchClassifier(**SMALL)
    else:
        x, y = load_diabetes(return_X_y=True)
        model = nas.SearchRegressor(**SMALL)
    scores = cross_val_score(make_pipeline(StandardScaler(), model), x, y, cv=2)
    assert scores.mean() > (0.8 if kind == "classes" else 0.2)


def test_labels_of_any_kind_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimators._Search, "_trained", quick)
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    found = nas.SearchClassifier(**SMALL).fit(x, names)
    assert set(found.predict(x)) <= set(names)
    assert np.allclose(found.predict_proba(x).sum(axis=1), 1, atol=1e-5)
    assert json.dumps(found.get_params()["families"]) == '["mlp"]'


def test_their_help_explains_each_argument() -> None:
    for name in inspect.signature(nas.SearchClassifier).parameters:
        assert f"        {name}: " in str(nas.SearchClassifier.__doc__), name
    assert "those of ``SearchClassifier``" in str(nas.SearchRegressor.__doc__)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The kind of the target, the folder and the seed of each search that would have begun."""
    found: list[dict[str, Any]] = []

    def search(frame: Any, *, target: str, out: Path, **options: Any) -> None:
        kind = read(frame, target=target, problem=options.get("problem")).targets[0].kind
        found.append({"kind": kind, "out": out, "seed": options.get("seed")})
        raise InputError("not now")

    monkeypatch.setattr(estimators, "search", search)
    return found


def test_a_regressor_takes_whole_numbers_for_numbers(begun: list[dict[str, Any]]) -> None:
    x, ratings = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 5 + 1
    for model in (nas.SearchRegressor(**SMALL), nas.SearchClassifier(**SMALL)):
        with pytest.raises(InputError):
            model.fit(x, ratings)
    assert [each["kind"] for each in begun] == ["regression", "multiclass"]


def test_each_fit_has_a_folder_and_a_draw_of_the_random_state_of_its_own(
    begun: list[dict[str, Any]], tmp_path: Path
) -> None:
    x, y = load_iris(return_X_y=True)
    runs = str(tmp_path / "runs")
    model = nas.SearchClassifier(**SMALL, folder=runs, random_state=np.random.RandomState(0))
    for _ in range(2):
        with pytest.raises(InputError):
            model.fit(x, y)
    first, second = begun
    assert first["out"] != second["out"]
    assert {each["out"].parents[1] for each in begun} == {tmp_path / "runs"}
    assert first["seed"] != second["seed"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_a_search_finds_a_network_that_predicts(kind: str) -> None:
    data = load_iris if kind == "classes" else load_diabetes
    x, y = data(return_X_y=True)
    model = nas.SearchClassifier if kind == "classes" else nas.SearchRegressor
    found = model(**SMALL, random_state=0).fit(x, y)
    assert found.score(x, y) > (0.9 if kind == "classes" else 0.3)
