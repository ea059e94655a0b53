"""Two real searches from data to predictions, and what each kind of problem is scored by."""

from __future__ import annotations

import errno
import inspect
import json
import math
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from default_run import mostly_slow
from optuna.exceptions import StorageInternalError
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.metrics import accuracy_score

import nas
from nas import cli, driver, finals, machine, rules
from nas import recipe as recipes
from nas.candidate import Candidate, Cost, Latency, State
from nas.data import Dataset, read
from nas.driver import Progress, drive_run
from nas.export.card import model_card
from nas.export.document import design_of_run
from nas.export.trained import open_trained
from nas.family import load_families
from nas.model import load
from nas.options import SearchOptions, parse_duration
from nas.plan import KEPT_MOST, make_task
from nas.records import RunRecord
from nas.run import Run, default_folder
from nas.search import ehvi
from nas.search.clock import Clock, lock
from nas.search.local import LocalWorkers
from nas.search.study import Study
from nas.space import Space
from nas.task import Budget, InputError, NoFeasibleCandidate, SelfCheckFailed, UsageError
from nas.testing import example_datasets, formula, small_spaces, small_task
from nas.train import check, train
from nas.train.__main__ import main as run_recipe
from nas.training.callbacks import EpochLines, InTime, Threads
from nas.training.evaluator import Evaluator, from_folder
from nas.training.fit import folds, train_folds
from nas.training.lr import WarmupCosine
from nas.training.metrics import mean_scores
from nas.training.monitors import TrainingStopped
from nas.training.proxy import Proxy

# Lightning gives hints about choices that we have made; they are no fault of a test.
pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
FAST: dict[str, Any] = {"epochs": 2, "workers": 2, "time_limit": None, "device": "cpu"}


def tumours() -> pd.DataFrame:
    x, y = load_breast_cancer(return_X_y=True, as_frame=True)
    return x.assign(diagnosis=np.where(y == 1, "benign", "malignant"))


@pytest.fixture(scope="module", autouse=True)
def fewer_costs() -> Iterator[None]:
    """A search measures 200 costs when it begins; 8 are enough for these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ehvi, "INITIAL_COSTS", 8)
        yield


@pytest.fixture(scope="module")
def phases() -> list[str]:
    """What the search of ``tabular`` showed of itself."""
    return []


@pytest.fixture(scope="module")
def tabular(tmp_path_factory: pytest.TempPathFactory, phases: list[str]) -> Run:
    """A search with a limit of time, which is far off: it ends with a training of the best."""
    folder = tmp_path_factory.mktemp("tabular")
    tumours().to_csv(folder / "tumours.csv", index=False)
    given = FAST | {"trials": 4, "time_limit": "1h", "workers": 1, "lr_test": True, "ensemble": 1}
    shown = {"out": folder / "run", "on_progress": lambda progress: phases.append(progress.phase)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finals, "MOST", 1)  # tests/test_finals.py has several
        patch.setattr(finals.rounds, "shorter", lambda *_: [])
        patch.setattr(rules, "longest_epochs", lambda task: 10)
        return nas.search(folder / "tumours.csv", "diagnosis", **given, **shown)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Run:
    digits = load_digits()
    pixels = (digits.images * 255 / 16).astype(np.uint8)
    out = tmp_path_factory.mktemp("images") / "run"
    return nas.search((pixels, digits.target), trials=4, out=out, **FAST)


@pytest.fixture(params=["tabular", pytest.param("images", marks=pytest.mark.slow)])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def trained(tabular: Run) -> dict[str, Any]:
    out = tabular.folder.parent / "model"
    return train(tabular.export(tabular.folder.parent / "recipe.yaml"), out, epochs=2)


# -- the search ----------------------------------------------------------------------------


def test_the_front_is_that_of_a_brute_force(run: Run) -> None:
    complete = [c for c in run.candidates() if c.state == State.COMPLETE]
    costs = {
        c.number: (-c.metrics["accuracy"], c.metrics["latency_ms"], c.metrics["params"])
        for c in complete
    }
    expected = {
        i
        for i, a in costs.items()
        if not any(
            a != b and all(y <= x for x, y in zip(a, b, strict=True)) for b in costs.values()
        )
    }
    assert {c.number for c in run.front()} == expected
    assert len(complete) >= 3


def test_every_point_of_the_front_has_weights_and_no_other_candidate_has(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    front = {c.number for c in run.front()}
    assert run.kept.keys() == front
    with pytest.raises(SystemExit):
        cli.main(["status", str(run.folder)])
    count = len(front)
    assert f"usable  {count} of {count} points of the front at once" in capsys.readouterr().out


def test_a_point_that_was_no_finalist_predicts_at_once_and_says_how_far_it_is_trained(
    tabular: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tabular.finished is not None
    winner = tabular.finished.candidate
    number = next(c.number for c in tabular.front() if c.number != winner)
    data, point = str(tabular.folder.parent / "tumours.csv"), ["--candidate", str(number)]
    with pytest.raises(SystemExit) as end:
        cli.main(["predict", str(tabular.folder), data, *point])
    assert not end.value.code
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1 + len(tumours())
    said = f"candidate {number} as the search trained it: 2 epochs on the first of 5 folds; `nas "
    assert printed.err.count(said) == 1
    labels = load(tabular.folder, number).predict(tumours())
    assert [line.split(",")[1] for line in printed.out.splitlines()[1:]] == labels.tolist()
    # Weights of full scale come first, where there are some.
    assert winner in tabular.kept
    assert (load(tabular.folder, number).note != "", load(tabular.folder, winner).note) == (
        True,
        "",
    )


def test_the_card_and_the_design_of_a_proxy_say_that_its_scores_are_of_one(run: Run) -> None:
    number = next(c.number for c in run.front() if c.number not in run.trained)
    trained = open_trained(run.folder, number)
    card = model_card(trained, [])
    assert "not trained at full scale, but as a proxy of a search: 2 epochs" in card
    value = trained.recipe["provenance"]["validation"]["accuracy"]
    assert f"| accuracy | {value:.4g} |" in card
    design = design_of_run(run, number)
    assert any("are those of a proxy (2 epochs" in limit for limit in design.limits)
    # A first fold was trained on samples of the validation part.
    assert (design.weaknesses is None) == (rules.folds(run.task) > 1)


def test_the_front_is_measured_again_in_isolation(run: Run) -> None:
    for c in run.front():
        assert c.cost.latency is not None
        assert c.cost.latency.isolated
        assert c.metrics["latency_ms"] == c.cost.latency.ms


def test_each_familys_baseline_comes_first_and_the_layers_add_up(run: Run) -> None:
    candidates = run.candidates()
    first = {c.family: c.config for c in candidates if c.origin == "baseline"}
    assert first == {name: space.baseline() for name, space in run.spaces.items()}
    for c in candidates:
        assert sum(layer["params"] for layer in run.layers(c.number)) == c.metrics["params"] > 0
        assert len(c.curve) == 2
        assert all(np.isfinite(list(point.values())).all() for point in c.curve)
        assert c.gradient_norms


def test_a_run_leaves_its_files_and_opens_again(run: Run) -> None:
    for name in ("task.json", "run.json", "study.journal", "baselines.json", "data/dataset.json"):
        assert (run.folder / name).is_file(), name
    again = Run(run.folder)
    assert again.candidates() == run.candidates()
    assert len(again.frame()) == len(run.candidates())
    assert again.best() in again.front()
    best = max(c.metrics["accuracy"] for c in again.front())
    assert again.best().metrics["accuracy"] == best
    for baseline in again.baselines():
        assert 0.5 < baseline["metrics"]["accuracy"] <= 1


def test_the_report_is_one_page_that_names_each_candidate(run: Run) -> None:
    page = run.report(run.folder.parent / "page.html").read_text(encoding="utf-8")
    assert page.lstrip().startswith("<!doctype html>")
    assert all(name in page for name in run.spaces)
    assert 'src="http' not in page


def test_a_limit_that_nothing_meets_is_reported_with_the_nearest(run: Run) -> None:
    smallest = min(c.metrics["params"] for c in run.front())
    assert run.best(f"params<={smallest:.0f}").metrics["params"] == smallest
    with pytest.raises(NoFeasibleCandidate, match="params<=1 "):
        run.best("params<=1")


def test_searching_again_in_the_folder_is_refused(tabular: Run) -> None:
    with pytest.raises(InputError, match="holds a search; go on with --resume"):
        nas.search(tumours(), "diagnosis", out=tabular.folder, trials=4)


def test_a_recipe_reproduces_the_figure_of_the_search(tabular: Run, tmp_path: Path) -> None:
    recipe = tabular.export(tmp_path / "recipe.yaml")
    found = check(recipe)
    assert found["again"] == found["measured"] == tabular.best().metrics["accuracy"]
    value = f" accuracy: {found['measured']}"
    assert value in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(value, " accuracy: 0.5"))
    printed = r"accuracy, the mean of 5 folds, is .* now and was 0.5"
    with pytest.raises(SelfCheckFailed, match=printed):
        check(recipe)


def test_a_check_by_cross_validation_numbers_its_folds_and_epochs(
    tabular: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = rules.folds(tabular.task)
    assert parts > 1
    found = check(tabular.export(tmp_path / "recipe.yaml"))
    printed = [line.partition("  ")[0] for line in capsys.readouterr().err.splitlines()]
    assert printed == [f"fold {f}/{parts} epoch {e}/2" for f in range(1, parts + 1) for e in (1, 2)]
    assert (found["objective"], found["folds"]) == ("accuracy", parts)


@pytest.mark.parametrize("epochs", [None, 3])
def test_the_time_left_is_that_of_all_folds(
    epochs: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two folds of three epochs, two seconds each; without ``epochs`` the trainer knows them."""
    clock = SimpleNamespace(now=100.0)
    clocks = SimpleNamespace(monotonic=lambda: clock.now)
    monkeypatch.setattr("nas.training.callbacks.time", clocks)
    lines, module = EpochLines(2, epochs), Any
    for _ in range(2):
        planned = 9 if epochs else 3
        metrics = {"r2": 0.5}
        trainer: Any = SimpleNamespace(
            max_epochs=planned, callback_metrics=metrics, is_global_zero=True
        )
        lines.on_fit_start(trainer, module)  # type: ignore[arg-type]
        for trainer.current_epoch in range(3):
            clock.now += 2.0
            lines.on_validation_end(trainer, module)  # type: ignore[arg-type]
    assert capsys.readouterr().err.splitlines() == [
        "fold 1/2 epoch 1/3  r2 0.5  (10 s left)",
        "fold 1/2 epoch 2/3  r2 0.5  (8 s left)",
        "fold 1/2 epoch 3/3  r2 0.5  (6 s left)",
        "fold 2/2 epoch 1/3  r2 0.5  (4 s left)",
        "fold 2/2 epoch 2/3  r2 0.5  (2 s left)",
        "fold 2/2 epoch 3/3  r2 0.5  (0 s left)",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_recipe_found_on_a_gpu_trains_without_one_and_says_where_to_check_it(
    tabular: Run, tmp_path: Path
) -> None:
    task = replace(tabular.task, device="cuda")
    made = recipes.make(tabular.best(), task, tabular.source, tabular.versions)
    recipes.write(made, tmp_path / "recipe.yaml")
    assert train(tmp_path / "recipe.yaml", tmp_path / "model", epochs=1)["epochs"] == 1
    with pytest.raises(InputError, match=r"recipe\.yaml: its proxy was trained on a GPU"):
        check(tmp_path / "recipe.yaml")


@pytest.mark.slow
def test_a_recipe_of_one_that_ran_out_of_time_reproduces_its_last_epoch(
    images: Run, tmp_path: Path
) -> None:
    whole = images.best()
    cut = replace(whole, curve=whole.curve[:1], metrics=whole.metrics | whole.curve[0])
    recipes.write(recipes.make(cut, images.task, images.source, {}), tmp_path / "recipe.yaml")
    found = check(tmp_path / "recipe.yaml")
    assert found["again"] == whole.curve[0]["accuracy"] != whole.metrics["accuracy"]


def test_a_resume_that_asks_for_another_search_is_refused(tabular: Run) -> None:
    with pytest.raises(UsageError, match="was begun with families = "):
        nas.search(
            out=tabular.folder,
            resume=True,
            families=["tabnet"],
            trials=9,
            **(FAST | {"epochs": None}),
        )
    assert Run(tabular.folder).task == tabular.task


def test_a_resume_continues_and_repeats_nothing(tabular: Run, tmp_path: Path) -> None:
    shutil.copytree(tabular.folder, folder := tmp_path / "run")
    stamp = (folder / "baselines.json").stat().st_mtime_ns
    again = FAST | {"epochs": None, "workers": 1}
    more = nas.search(out=folder, resume=True, trials=6, **again)
    before, after = tabular.candidates(), more.candidates()
    assert [(c.family, c.config, c.curve) for c in after[: len(before)]] == [
        (c.family, c.config, c.curve) for c in before
    ]
    trained = [c for c in after if c.reason != "duplicate"]
    assert len(trained) == 6
    assert len({(c.family, json.dumps(c.config, sort_keys=True)) for c in trained}) == 6
    assert (folder / "baselines.json").stat().st_mtime_ns == stamp
    assert more.kept.keys() <= {c.number for c in more.front()}


def test_the_clock_continues_over_a_resume_and_a_limit_that_is_spent_trains_no_more(
    tabular: Run, tmp_path: Path
) -> None:
    shutil.copytree(tabular.folder, folder := tmp_path / "run")
    seen: list[Progress] = []
    again = {"out": folder, "resume": True} | FAST | {"epochs": None}
    more = nas.search(**again | {"time_limit": 0.5 * tabular.spent_s}, on_progress=seen.append)
    assert len(more.candidates()) == len(tabular.candidates())
    assert 0 < tabular.spent_s < seen[0].spent_s
    # What is shown while it runs is what is shown of it later.
    assert Run(folder).spent_s == pytest.approx(seen[-1].spent_s, abs=0.1)


def test_learning_rates_are_tested_before_the_study_and_the_same_again(tabular: Run) -> None:
    tests = tabular.rate_tests()
    assert tests.keys() == tabular.spaces.keys()
    evaluator, report = from_folder(str(tabular.folder)), lambda *_: ""
    for name, test in tests.items():
        rate = tabular.spaces[name]["lr"].to_dict()
        assert {key: rate[key] for key in test["bounds"]} == test["bounds"]
        assert ("note" in test) != ("learning-rate-first" in rate["why"])
        own = untested(tabular)[name]
        again = evaluator.range_test(name, own.baseline(), None, report)
        assert list(again["losses"]) == pytest.approx(test["losses"], rel=1e-6)
    assert "note" not in tests["mlp"]
    for baseline in (c for c in tabular.candidates() if c.origin == "baseline"):
        assert baseline.config["lr"] == tests[baseline.family]["bounds"]["default"]
    with pytest.raises(TrainingStopped, match="timeout: not over after 0 s"):
        evaluator.range_test("mlp", tabular.spaces["mlp"].baseline(), 0.0, report)


def untested(run: Run) -> dict[str, Space]:
    """The spaces of a run's families as they are before a range test."""
    families = load_families(run.task.modality)
    return {name: families[name].space(run.task) for name in run.spaces}


def gone_back(run: Run, folder: Path) -> Run:
    """A copy of the run, whose spaces are as they were before the range tests."""
    shutil.copytree(run.folder, folder)
    record = json.loads((folder / "run.json").read_text())
    record["spaces"] = {name: space.to_dict() for name, space in untested(run).items()}
    (folder / "run.json").write_text(json.dumps(record))
    return Run(folder)


def test_a_driver_that_was_killed_after_the_range_tests_continues_with_them(
    tabular: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = gone_back(tabular, tmp_path / "run")
    assert run.spaces != tabular.spaces
    monkeypatch.setattr(driver._Session, "search", lambda *_: None)
    place: Any = SimpleNamespace(start=lambda run: nullcontext())  # nobody there to test
    drive_run(run, run.task.budget, place, lambda *_: None, lambda *_: None)
    assert run.spaces == Run(run.folder).spaces == tabular.spaces


def test_search_and_trainings_hold_the_run_without_a_gap_and_count_their_time(
    tabular: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tabular.folder, tmp_path / "run")
    run, clock = Run(tmp_path / "run"), Clock(tmp_path / "run")
    (run.folder / "finished.json").unlink()
    clock.write(40.0)
    asked: list[str] = []

    def check_locked() -> None:
        with pytest.raises(InputError, match="in use by another search"):
            lock(run.folder / "driver.lock")

    def finish(run: Run, site: Any, end: float, show: Callable[[str], None]) -> None:
        check_locked()
        asked.append("finish")
        show("finish")

    def search(session: driver._Session) -> None:
        check_locked()
        session.earlier = clock.read()

    def front() -> list[Candidate]:  # between the search and the trainings
        check_locked()
        asked.append("front")
        return run.ranked()

    monkeypatch.setattr(driver._Session, "plan", lambda *_: None)
    monkeypatch.setattr(driver._Session, "search", search)
    monkeypatch.setattr(run, "front", front)
    monkeypatch.setattr(driver, "train_finalists", finish)
    place: Any = SimpleNamespace(start=lambda run: nullcontext(), site=lambda run: None)
    drive_run(run, Budget(600.0), place, lambda *_: None, lambda *_: None, finish=True)
    assert asked == ["front", "finish"]
    assert 40.0 <= clock.read() < 50.0
    assert run.is_running, "it gives a sign of life"


@pytest.mark.slow  # six seconds
def test_a_search_that_has_ended_is_not_trained_again(
    tabular: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tabular.folder, tmp_path / "run")
    monkeypatch.setattr(driver, "train_finalists", lambda *_: pytest.fail("once more"))
    how = {"trials": 4, "time_limit": "1h", "workers": 1}
    again = nas.search(out=tmp_path / "run", resume=True, **how)
    assert again.finished == tabular.finished
    assert again.finished is not None
    assert again.finished.result


def test_a_family_whose_range_test_fails_or_is_unclear_keeps_its_bounds_and_says_why(
    tabular: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = gone_back(tabular, tmp_path / "run")
    (run.folder / "lr.json").unlink()
    found = {"rates": [1.0], "losses": [0.1], "smooth": [0.1], "lowest": 1.0}
    answers = [InputError("range_test failed: out of memory"), found | {"lowest": None}, found]
    workers = SimpleNamespace(map=lambda *_, **__: answers)
    monkeypatch.setattr(driver._Session, "search", lambda *_: None)
    place: Any = SimpleNamespace(start=lambda run: nullcontext(workers))
    drive_run(run, run.task.budget, place, lambda *_: None, lambda *_: None)
    own, (failed, flat, moved) = untested(run), run.spaces
    assert [run.spaces[name] == own[name] for name in run.spaces] == [True, True, False]
    assert run.spaces[moved]["lr"].default == pytest.approx(0.1 / rules.RATE_TOLERANCE)
    assert [note for note in run.notes if "learning rates" in note] == [
        f"{failed}: its learning rates stay its own: range_test failed: out of memory",
        f"{flat}: its learning rates stay its own: the loss hardly fell in the range test",
    ]


def test_the_search_never_looks_at_the_test_part(tabular: Run, tmp_path: Path) -> None:
    """With the inputs and labels of the test part scrambled, all figures are the same."""
    shutil.copytree(tabular.folder, folder := tmp_path / "run")
    dataset = Dataset.load(folder / "data")
    rows = dataset.parts["test"]
    assert len(rows) > 50
    # Copies, because the arrays are maps of the files that will be written over.
    inputs = {name: np.array(a) for name, a in dataset.inputs.items()}
    labels = {name: np.array(a) for name, a in dataset.labels.items()}
    parts = {name: np.array(a) for name, a in dataset.parts.items()}
    for array in inputs.values():
        array[rows] = 9999
    for array in labels.values():
        array[rows] = 1 - array[rows]
    scrambled = Dataset(dataset.modality, dataset.targets, dataset.profile, inputs, labels, parts)
    scrambled.save(folder / "data")
    candidate = next(c for c in tabular.candidates() if c.family == "mlp")
    asked = Candidate(
        candidate.number, candidate.family, candidate.config, candidate.seed, epochs=2
    )
    end = from_folder(str(folder)).evaluate(asked.to_dict(), lambda *_: "")
    found = {k: v for k, v in end["metrics"].items() if k != "latency_ms"}
    assert found == pytest.approx({k: candidate.metrics[k] for k in found}, rel=1e-5)
    again = from_folder(str(folder)).baselines(None)
    assert [b["metrics"] for b in again] == [b["metrics"] for b in tabular.baselines()]


@pytest.mark.parametrize(("name", "part"), [("search", "study"), ("audit", "anatomy")])
def test_a_package_is_also_the_function_of_its_name(name: str, part: str) -> None:
    package = getattr(nas, name)
    module = import_module(f"nas.{name}.{part}")
    assert package is sys.modules[f"nas.{name}"]
    assert getattr(package, part) is module
    assert callable(package)
    assert "Args:" in package.__doc__ or "Arguments" in package.__doc__ or name == "audit"
    assert "target" in inspect.signature(package).parameters


# -- from the winner to predictions --------------------------------------------------------


def test_a_recipe_reads_back_as_it_was_made(run: Run, tmp_path: Path) -> None:
    candidate = run.best()
    winner = run.finished
    # As many epochs as it was trained for, where there was time for more than the rules say.
    epochs = winner.recipe_epochs if winner and winner.candidate == candidate.number else None
    made = recipes.make(candidate, run.task, run.source, run.versions, epochs)
    read_back = recipes.load(run.export(tmp_path / "recipe.yaml", candidate.number))
    assert read_back == json.loads(json.dumps(made))
    model = read_back["model"]["init_args"]
    assert (model["family"], model["config"]) == (candidate.family, candidate.config)
    assert run.task == type(run.task).from_dict(model["task"])


def test_training_scores_the_best_epoch_once_on_the_test_part(
    tabular: Run, trained: dict[str, Any]
) -> None:
    assert trained["epochs"] == 2
    assert trained["params"] == tabular.best().metrics["params"]
    assert 0.6 < trained["test"]["accuracy"] <= 1
    assert json.loads((tabular.folder.parent / "model/result.json").read_text()) == trained
    # The same from the predictions on the rows of the test part.
    frame = tumours()
    rows = Dataset.load(tabular.folder / "data").parts["test"]
    predictions, _ = load(trained["checkpoint"]).frame(frame.iloc[rows])
    accuracy = accuracy_score(frame["diagnosis"].iloc[rows], predictions["diagnosis"])
    assert accuracy == pytest.approx(trained["test"]["accuracy"])


def test_a_checkpoint_loads_without_pickle_and_predicts_the_same(
    tabular: Run, trained: dict[str, Any]
) -> None:
    content = torch.load(trained["checkpoint"], weights_only=True)
    saved = content["hyper_parameters"]
    module = Proxy(saved["family"], saved["config"], saved["task"])
    module.load_state_dict(content["state_dict"])
    data = read(tumours(), target="diagnosis")
    with torch.inference_mode():
        inputs = {name: torch.from_numpy(array) for name, array in data.inputs.items()}
        logits = module.eval()(**inputs) / saved["temperatures"]["diagnosis"]
        expected = logits.softmax(dim=1).numpy()
    unlabeled = tumours().drop(columns="diagnosis")
    predictions, scores = load(trained["checkpoint"]).frame(unlabeled)
    got = predictions[["probability[benign]", "probability[malignant]"]].to_numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert scores == {}
    _, scores = load(trained["checkpoint"]).frame(tumours())
    assert scores["accuracy"] == pytest.approx(
        accuracy_score(tumours()["diagnosis"], predictions["diagnosis"])
    )


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "builtins.exec"])
@pytest.mark.parametrize("section", ["optimizer", "data", "callbacks"])
def test_a_recipe_cannot_name_foreign_code(
    tabular: Run, tmp_path: Path, section: str, name: str
) -> None:
    recipe = recipes.load(tabular.export(tmp_path / "recipe.yaml"))
    mark = tmp_path / "executed"
    arguments = {"os.system": "command", "subprocess.Popen": "args"}
    foreign = {
        "class_path": name,
        "init_args": {arguments.get(name, "source"): f"touch {mark}"},
    }
    if section == "callbacks":
        recipe["trainer"]["callbacks"] = [foreign]
    else:
        recipe[section] = foreign
    (tmp_path / "evil.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match=r"evil\.yaml"):
        train(tmp_path / "evil.yaml", tmp_path / "model", epochs=1)
    assert not mark.exists()


def test_the_command_of_the_module_runs_a_recipe_and_unpickles_nothing(
    tabular: Run, tmp_path: Path
) -> None:
    recipe = tabular.export(tmp_path / "recipe.yaml")
    short = ["--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path}"]
    run_recipe(["fit", "--config", str(recipe), *short])
    assert list(tmp_path.rglob("best.ckpt"))
    mark = tmp_path / "executed"
    torch.save(_Malicious(mark), tmp_path / "evil.ckpt")
    evil = f"ckpt_path: {tmp_path / 'evil.ckpt'}\nweights_only: false\n"
    recipe.write_text(recipe.read_text() + evil)
    with pytest.raises(InputError, match="'ckpt_path' is no section of a recipe"):
        run_recipe(["fit", "--config", str(recipe), *short])
    assert not mark.exists()


class _Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_data_that_changed_since_the_search_is_refused(tabular: Run, tmp_path: Path) -> None:
    recipe = recipes.load(tabular.export(tmp_path / "recipe.yaml"))
    tumours().iloc[:-1].to_csv(tmp_path / "other.csv", index=False)
    recipe["data"]["init_args"]["source"] = str(tmp_path / "other.csv")
    recipes.write(recipe, tmp_path / "recipe.yaml")
    with pytest.raises(InputError, match=r"data of .*other\.csv differs"):
        train(tmp_path / "recipe.yaml", tmp_path / "model", epochs=1)


# -- kinds of problem ----------------------------------------------------------------------

CLASSES = {"accuracy", "balanced_accuracy", "f1", "auc"}
NUMBERS = {"rmse", "mae", "r2"}
PROBLEMS: dict[str, tuple[list[str], set[str]]] = {
    "binary": (["yes"], CLASSES),
    "multiclass": (["colour"], CLASSES),
    "multilabel": (["a", "b"], {"accuracy", "f1", "auc"}),
    "regression": (["size"], NUMBERS),
    "several": (
        ["colour", "size"],
        {f"{m}[colour]" for m in CLASSES} | {f"{m}[size]" for m in NUMBERS} | {"score"},
    ),
}


def small_table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 3))
    return pd.DataFrame(x, columns=["p", "q", "r"]).assign(
        yes=np.where(x[:, 0] > 0, "yes", "no"),
        colour=np.select([x[:, 1] < -0.5, x[:, 1] > 0.5], ["red", "green"], "blue"),
        a=(x[:, 0] > 0).astype(int),
        b=(x[:, 2] > 0.2).astype(int),
        size=x[:, 0] * 40 + 100,
    )


@pytest.mark.parametrize("problem", mostly_slow(PROBLEMS, ("regression", "several")))
def test_each_kind_of_problem_trains_and_is_scored(problem: str, tmp_path: Path) -> None:
    targets, expected = PROBLEMS[problem]
    table = small_table()[["p", "q", "r", *targets]]
    dataset = read(table, target=targets)
    task = make_task(dataset, budget=Budget(trials=1), device="cpu", epochs=1)
    evaluator = Evaluator(task, dataset)
    config = nas.load_families("tabular")["mlp"].baseline(task)
    reports: list[Any] = []
    asked = Candidate(0, "mlp", config, seed=1, epochs=1)
    result = evaluator.evaluate(asked.to_dict(), lambda *it: reports.append(it) or "")
    end = Candidate.from_dict(result)
    assert (end.state, end.reason, end.detail) == (State.COMPLETE, "", "")
    costs = {"params", "flops", "memory_mb", "inference_mb", "latency_ms"}
    assert set(end.metrics) == expected | costs | {"val_loss", "loss"}
    assert set(task.quality_metrics) == expected | {"val_loss"}
    assert all(np.isfinite(value) for value in end.metrics.values())
    # Of the other folds the driver hears that they go on.
    assert [(epoch, *fold) for epoch, _, *fold in reports] == [(1,), (1, 2), (1, 3), (1, 4), (1, 5)]
    assert end.metrics.keys() >= reports[0][1].keys()
    # Few samples: the figures are the means over five folds.
    parts = folds(dataset, task)
    assert len(parts) == 5
    mean = mean_scores(train_folds("mlp", config, task, parts, 1, 1, list))
    assert {name: end.metrics[name] for name in mean} == pytest.approx(mean)
    for baseline in evaluator.baselines(None):
        assert set(baseline["metrics"]) == expected


def test_a_later_fold_is_reported_now_and_then_and_can_be_stopped() -> None:
    dataset = read(small_table()[["p", "q", "r", "colour"]], target="colour")
    task = make_task(dataset, budget=Budget(trials=1), device="cpu", epochs=12)
    config = nas.load_families("tabular")["mlp"].baseline(task)
    reports: list[tuple[int, int]] = []

    def report(epoch: int, metrics: dict[str, float], fold: int = 1) -> str:
        reports.append((fold, epoch))
        return "interrupted" if (fold, epoch) == (3, 6) else ""

    asked = Candidate(0, "mlp", config, seed=1, epochs=12)
    end = Candidate.from_dict(Evaluator(task, dataset).evaluate(asked.to_dict(), report))
    assert reports[12:] == [(2, 3), (2, 6), (2, 9), (2, 12), (3, 3), (3, 6)]
    assert (end.state, end.reason) == (State.FAILED, "interrupted")
    assert end.detail == "after epoch 6 of 12 on fold 3"


@pytest.mark.parametrize("origin", ["sampled", "baseline"])
def test_a_candidate_whose_time_is_over_in_a_later_fold_ends_without_a_mean(
    origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a report takes a second, and nothing else does: the first fold has twelve of them, a
    later one four. A baseline has twice the time."""
    dataset = read(small_table()[["p", "q", "r", "colour"]], target="colour")
    task = make_task(dataset, budget=Budget(trials=1), device="cpu", epochs=12)
    limit_s = {"sampled": 17, "baseline": 8.5}[origin]
    task = replace(task, fidelity=replace(task.fidelity, time_limit_s=limit_s))
    config = nas.load_families("tabular")["mlp"].baseline(task)
    printed: list[dict[str, float]] = []
    clock = SimpleNamespace(**vars(time) | {"monotonic": lambda: float(len(printed))})
    monkeypatch.setattr("nas.training.monitors.time", clock)

    def report(epoch: int, metrics: dict[str, float], fold: int = 1) -> str:
        printed.append(metrics)
        return ""

    asked = Candidate(0, "mlp", config, seed=1, epochs=12, origin=origin)
    end = Candidate.from_dict(Evaluator(task, dataset).evaluate(asked.to_dict(), report))
    assert (end.state, end.reason) == (State.PRUNED, "timeout")
    ended = r"after 18 s at step \d+ of \d+ on fold 3 \(the limit is 17 s\)"
    assert re.fullmatch(ended, end.detail)
    assert end.metrics.items() >= printed[11].items()


# -- the folder, the budget and the end -----------------------------------------------------


def test_of_two_searches_that_start_at_once_in_a_folder_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[str] = []
    save = Dataset.save
    both_have_read = threading.Barrier(2)

    def slow_save(self: Dataset, folder: Path) -> None:
        began.append(folder.name)
        time.sleep(0.3)
        save(self, folder)

    def slow_create(*args: Any) -> Run:
        both_have_read.wait(timeout=60)
        return create(*args)

    create = driver.create
    monkeypatch.setattr(driver, "create", slow_create)
    monkeypatch.setattr(Dataset, "save", slow_save)
    monkeypatch.setattr(driver, "drive_run", lambda *_: None)
    given = FAST | {"trials": 3, "out": tmp_path / "run"}
    with ThreadPoolExecutor(2) as pool:
        starts = [pool.submit(nas.search, small_table(), t, **given) for t in ("yes", "colour")]
        errors = [start.exception() for start in starts]
    [refused] = [e for e in errors if e is not None]
    assert str(refused).startswith(f"{tmp_path / 'run'} holds a search; go on with --resume")
    winner = ("yes", "colour")[errors.index(None)]
    run = Run(tmp_path / "run")
    assert [t.name for t in run.task.targets] == run.source["target"] == [winner]
    assert began == ["data"]
    assert not (run.folder / ".creating").exists()


def test_a_search_that_was_killed_while_it_began_can_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "drive_run", lambda *_: None)
    given = FAST | {"trials": 3, "out": tmp_path / "run"}

    def killed(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nas.run.write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            nas.search(small_table(), "colour", **given)
    assert (tmp_path / "run" / "data").is_dir()
    run = nas.search(small_table(), "yes", **given)
    assert [t.name for t in run.task.targets] == ["yes"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    with pytest.raises(InputError, match="is not empty and holds no search"):
        nas.search(small_table(), "yes", **given | {"out": tmp_path / "other"})
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["letter.txt"]


def test_a_new_search_on_a_file_system_without_locks_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(InputError, match=r"\.creating cannot be locked \(No locks .*--out on a"):
        nas.search(small_table(), "yes", out=tmp_path / "run", **FAST | {"trials": 3})


@pytest.mark.parametrize(
    "where", ["nas.search.study.Study._open", "nas.driver._Session._candidates"]
)
def test_a_storage_that_fails_ends_the_search_in_one_line(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise StorageInternalError("of Optuna") from OSError(
            "server closed the connection\nby force"
        )

    with monkeypatch.context() as patch:
        patch.setattr(driver, "drive_run", lambda *_: None)
        given = FAST | {"trials": 3, "lr_test": False}
        run = nas.search(small_table(), "yes", out=tmp_path / "run", **given)
    monkeypatch.setattr(where, failing)
    place: Any = SimpleNamespace(start=lambda run: nullcontext())
    for _ in range(2):  # and leaves no lock behind
        with pytest.raises(InputError, match=r"storage failed \(server closed the connection\);"):
            drive_run(run, run.task.budget, place, lambda *_: None, lambda *_: None)


def test_a_latency_that_costs_two_workers_their_lives_stays_the_contended_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dying.py").write_text(
        """
import os
from nas.testing import FormulaEvaluator

class Dying(FormulaEvaluator):
    def latency(self, candidate, report):
        self._note(f"measure {candidate['number']}")
        printed = (self.folder / "evaluated.txt").read_text().split("\\n")
        if candidate["number"] == 0 or candidate["number"] == 1 and printed.count("measure 1") == 1:
            os._exit(3)
        return {"ms": 0.001, "iqr_ms": 0.0, "isolated": True, "threads": 1, "batch": 1}
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    task = small_task()
    (folder := tmp_path / "run").mkdir()
    (folder / "task.json").write_text(task.to_json())
    record = RunRecord(SearchOptions(), small_spaces(), {"source": "data.csv"}, {})
    (folder / "run.json").write_text(record.written())
    space = Space.join(small_spaces())
    workers = LocalWorkers(1, "dying:Dying", {"folder": str(folder)}, folder / "logs")
    with closing(Study(folder, task, space)) as study, workers:
        for _ in range(3):  # each the best in one way: all are on the front
            candidate = study.ask()
            assert candidate is not None
            metrics = formula(candidate.config, 1) | {
                "accuracy": 0.1 * candidate.number,
                "latency_ms": 1.0 + candidate.number,
            }
            cost = Cost(Latency(metrics["latency_ms"], 0.0, isolated=False, threads=1, batch=1))
            end = replace(candidate, state=State.COMPLETE, metrics=metrics, cost=cost)
            study.tell(end)
        session = driver._Session(Run(folder), workers, 0.0, lambda _: None)
        session._measure_front(study, math.inf, lambda _: None)
        zero, *others = study.candidates()
    assert zero.metrics["latency_ms"] == 1.0
    assert zero.cost.latency is not None
    assert not zero.cost.latency.isolated
    assert "its worker ended with code 3" in zero.cost.latency.contended_because
    for other in others:
        latency = other.cost.latency
        assert latency is not None
        assert (other.metrics["latency_ms"], latency.isolated) == (0.001, True)
    printed = (folder / "evaluated.txt").read_text().splitlines()
    # Together, by quality, until one dies; then each by itself.
    assert printed == [f"measure {n}" for n in (2, 1, 2, 1, 0, 0)]


@contextmanager
def measured(folder: Path, rows: list[dict[str, float]], *limits: str) -> Iterator[Any]:
    """The session, and the study of complete candidates whose latencies were measured beside
    trainings."""
    task = small_task(constraints=limits)
    folder.mkdir()
    (folder / "task.json").write_text(task.to_json())
    record = RunRecord(SearchOptions(), small_spaces(), {"source": "data.csv"}, {})
    (folder / "run.json").write_text(record.written())
    with closing(Study(folder, task, Space.join(small_spaces()), sampler="random")) as study:
        for row in rows:
            candidate = study.ask()
            assert candidate is not None
            cost = Cost(Latency(row["latency_ms"], 0.0, isolated=False, threads=1, batch=1))
            metrics = formula(candidate.config, 1) | row
            study.tell(replace(candidate, state=State.COMPLETE, metrics=metrics, cost=cost))
        workers: Any = Measuring()
        yield driver._Session(Run(folder), workers, 0.0, lambda _: None), study


class Measuring:
    """A worker that measures 20 latencies, 0.8 of the contended ones, and then takes for ever."""

    def __init__(self) -> None:
        self.measured: list[int] = []

    def call_alone(
        self, method: str, *, candidates: list[dict[str, Any]], deadline: float, **_: Any
    ) -> list[dict[str, Any]]:
        assert method == "latencies"
        if len(self.measured) >= 20:
            time.sleep(deadline - time.monotonic())
            raise InputError("latencies was not over when its time was")
        self.measured += [c["number"] for c in candidates]
        found = (0.8 * c["metrics"]["latency_ms"] for c in candidates)
        return [Latency(ms, 0.0, isolated=True, threads=1, batch=1).to_dict() for ms in found]


def test_latencies_that_are_measured_by_the_deadline_count_the_best_quality_first(
    tmp_path: Path,
) -> None:
    rows = [{"accuracy": 0.65 + 0.01 * i, "latency_ms": 1.0 + 0.1 * i} for i in range(30)]
    with measured(tmp_path / "run", rows) as (session, study):
        session._measure_front(study, time.monotonic() + 2.0, lambda _: None)
        known = [c.cost.latency for c in study.candidates()]
    assert session.workers.measured == list(range(29, 9, -1))
    assert [latency.isolated for latency in known] == [False] * 10 + [True] * 20
    assert all("time for latencies was over" in latency.contended_because for latency in known[:10])
    latencies_ms = [c.metrics["latency_ms"] for c in study.candidates()]
    assert latencies_ms[9:11] == pytest.approx([1.9, 0.8 * 2.0])


def test_networks_whose_latency_is_never_over_are_measured_one_by_one() -> None:
    slow, fast = ({"latency_ms": ms} for ms in (1000.0, 1.0))
    rows = [
        Candidate(i, "plain", {}, 0, metrics=m) for i, m in enumerate([slow, slow, *[fast] * 12])
    ]
    assert [len(group) for group in driver._side_by_side(rows)] == [1, 1, 10, 2]


def test_a_limit_on_latency_is_judged_on_the_isolated_device(tmp_path: Path) -> None:
    """All are outside it as they were measured beside trainings."""
    rows = [{"accuracy": 0.8 + 0.001 * i, "latency_ms": 5.2 + 0.1 * i} for i in range(20)]
    rows += [{"accuracy": 0.99, "latency_ms": 7.6}]  # too far outside it
    with measured(tmp_path / "run", rows, "latency_ms<=5") as (session, study):
        session._measure_front(study, math.inf, lambda _: None)
        front = study.front()
    first = session.workers.measured[: driver._OUTSIDE]
    assert first == list(range(19, 19 - driver._OUTSIDE, -1))  # the best quality first
    best = max(c.metrics["accuracy"] for c in front)
    assert best == pytest.approx(0.81), "5.0 ms from 6.2 ms"
    assert 20 not in session.workers.measured


@pytest.mark.parametrize(
    ("rows", "again"),
    [
        (None, True),
        ([{"name": "simple models", "metrics": {}, "error": "its worker was lost"}], True),
        (
            [{"name": "a", "metrics": {}, "error": "x"}, {"name": "b", "metrics": {"r2": 0.1}}],
            False,
        ),
        ([], False),
    ],
    ids=["none yet", "a lost worker", "one has failed", "none of such data"],
)
def test_simple_models_that_a_worker_took_with_it_are_fitted_by_a_resume(
    rows: list[Any] | None, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rows is not None:
        (tmp_path / "baselines.json").write_text(json.dumps(rows))
    task = replace(small_task(), budget=Budget(900.0))
    run: Any = SimpleNamespace(plan=None, task=task, folder=tmp_path, baselines=lambda: rows)
    study: Any = SimpleNamespace(sampler=SimpleNamespace(to_measure=list))
    nobody: Any = None
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("nas.search.loop.drive", lambda *_, calls, **__: asked.append(calls))
    session = driver._Session(run, nobody, time.monotonic(), lambda _: None)
    session._candidates(study, SimpleNamespace(add=None), lambda: None)  # type: ignore[arg-type]
    assert ["baselines" in calls for calls in asked] == [again]


# -- time for the trainings at the end -----------------------------------------------------


@pytest.mark.parametrize(
    ("planned_s", "left_s", "kept_s"),
    [(400.0, 300.0, 200.0), (100.0, 300.0, 100.0), (0.0, 300.0, 150.0), (None, 300.0, 150.0)],
    ids=["a little more time", "enough", "begun with --no-finish", "with --epochs"],
)
def test_what_is_kept_for_the_finals_follows_from_the_time_that_is_left(
    planned_s: float | None,
    left_s: float,
    kept_s: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = replace(small_task(), budget=Budget(900.0))
    plan = None if planned_s is None else SimpleNamespace(finish_s=planned_s)
    run: Any = SimpleNamespace(plan=plan, task=task, folder=tmp_path)
    study: Any = SimpleNamespace(sampler=SimpleNamespace(to_measure=list))
    nobody: Any = None
    ends: list[float] = []
    monkeypatch.setattr("nas.search.loop.drive", lambda *_, deadline, **__: ends.append(deadline))
    for finish, kept in ((True, kept_s), (False, 0.0)):
        begin, weights = time.monotonic(), SimpleNamespace(add=None)
        session = driver._Session(run, nobody, begin, lambda _: None, finish, 900.0 - left_s)
        session._candidates(study, weights, lambda: None)  # type: ignore[arg-type]
        assert ends.pop() - begin == pytest.approx(left_s - 30.0 - kept, abs=1.0)


def test_a_study_of_trials_that_goes_on_by_time_keeps_its_fidelity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[driver._Session] = []
    pace = {"step_ms": 10.0, "spread_ms": 1.0, "steps": 9, "epoch_s": 0.5}
    workers = SimpleNamespace(ready=1, map=lambda *_, **__: [pace, pace])
    place: Any = SimpleNamespace(start=lambda run: nullcontext(workers), site=lambda run: None)
    monkeypatch.setattr(driver._Session, "search", lambda session: sessions.append(session))
    monkeypatch.setattr(driver, "train_finalists", lambda *_: None)
    with measured(tmp_path / "run", [{"accuracy": 0.9, "latency_ms": 1.0}]) as (session, _):
        run = session.run
    Clock(run.folder).write(500.0)
    before = run.task.fidelity
    drive_run(run, Budget(800.0), place, lambda *_: None, lambda *_: None, finish=True)
    [session] = sessions
    assert session.end - time.monotonic() == pytest.approx(300.0, abs=5.0)
    assert (run.plan, run.task.fidelity) == (None, before)
    assert session.kept_s is not None
    assert 0 < session.kept_s <= KEPT_MOST * 300.0
    assert session._kept_s() == session.kept_s


@pytest.mark.parametrize(
    ("given", "limit_s"),
    [
        ((), 600),
        (("2m",), 120),
        (("auto", 5), None),
        (("auto", None, 1.5), None),
        (("1h", 5, None, 2.0), 3600),
    ],
)
def test_ten_minutes_are_the_limit_where_nothing_else_is(
    given: tuple[Any, ...], limit_s: float | None
) -> None:
    given = (*given, *("auto", None, None, None)[len(given) :])
    assert SearchOptions(
        time_limit=given[0], trials=given[1], cpu_hours=given[2], gpu_hours=given[3]
    ).budget() == Budget(limit_s, *given[1:])


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ({}, 16),
        ({"cpu.max": "max 100000"}, 16),
        ({"cpu.max": "250000 100000"}, 2),
        ({"docker/1/cpu.max": "50000 100000"}, 1),
        ({"docker/1/cpu.max": "max 100000", "docker/cpu.max": "400000 100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ({"cpu/own/cpu.cfs_quota_us": "300000", "cpu/own/cpu.cfs_period_us": "100000"}, 3),
    ],
    ids=["none", "max", "2.5", "half a core", "of its parent", "none of version 1", "version 1"],
)
def test_a_container_has_as_many_cores_as_its_quota_pays_for(
    quota: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in quota.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    (tmp_path / "own").write_text("4:memory:/other\n3:cpu,cpuacct:/own\n0::/docker/1\n")
    monkeypatch.setattr(machine, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert machine._cores() == cores
    monkeypatch.setattr(machine, "_OWN_CGROUPS", tmp_path / "none")
    assert machine._cores() == 16


def test_a_worker_has_its_part_of_what_the_job_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    physical = machine._memory_mb()
    assert physical is not None
    limit = int(physical * 2**20 / 4)
    monkeypatch.setattr("nas.data.limits.memory_groups", lambda: iter([(limit, Path(), "")]))
    assert machine._memory_mb() == limit / 2**20
    assert machine.local_room(0).budget(Budget(60.0), 2).memory_mb == limit / 2**21


def test_the_home_of_a_user_is_found_by_the_trainings_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Begun(Exception):  # noqa: N818
        pass

    def create(*given: Any) -> None:
        raise Begun(given[4].path)

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(driver, "create", create)
    tumours().to_csv(tmp_path / "tumours.csv", index=False)
    with pytest.raises(Begun, match=re.escape(f"{tmp_path.resolve() / 'tumours.csv'}")):
        nas.search("~/tumours.csv", "diagnosis", trials=1, out=tmp_path / "run", **FAST)


def test_the_trainings_at_the_end_read_the_runs_own_copy_of_the_data(tabular: Run) -> None:
    winner = tabular.finished
    assert winner is not None
    place = tabular.folder / "finalists" / str(winner.candidate) / "recipe.yaml"
    sources = [
        recipes.load(path)["data"]["init_args"]["source"]
        for path in (place, tabular.folder / "model" / "recipe.yaml")
    ]
    assert sources == [str((tabular.folder / "data").resolve()), tabular.source["source"]]


def test_what_a_worker_has_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cores", lambda: 4)
    for workers, gpus, expected in (
        (None, (), (4, 1.0, 0.0)),
        (8, (), (8, 0.5, 0.0)),
        (None, ("0", "1"), (4, 1.0, 0.5)),
        (1, ("0", "1"), (1, 1.0, 1.0)),
        (8, ("0", "1"), (8, 0.5, 0.25)),
    ):
        found = (list(gpus), 8_000.0 if gpus else None)
        monkeypatch.setattr(machine, "visible_gpus", lambda _, found=found: found)
        with machine.open_machine(SearchOptions()) as place:
            budget = place.room.budget(Budget(60), workers)
        assert (budget.workers, budget.cpus, budget.gpus) == expected


@pytest.mark.parametrize(
    ("version", "asked"),
    [
        ("cuda = None\nhip = None", False),
        ("cuda = '12.6'\nhip = None", True),
        ("cuda = None\nhip = '6.2'", True),
        (None, True),
    ],
)
def test_a_torch_that_is_built_for_the_cpu_alone_is_not_asked_for_gpus(
    version: str | None, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if version is not None:
        (tmp_path / "version.py").write_text(version)
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(machine, "find_spec", lambda name: {"torch": spec}[name])
    monkeypatch.setattr(machine, "_ask_torch", lambda: (2, 80_000.0))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.visible_gpus("auto") == ((["0", "1"], 80_000.0) if asked else ([], None))
    if not asked:
        with pytest.raises(InputError, match="no CUDA device is visible here"):
            machine.visible_gpus("cuda")


# -- calls that are wrong ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        ({"sampler": "best"}, "unknown sampler 'best'"),
        ({"trials": None}, "a search needs an end"),
        ({"trials": -3}, "trials must be at least 1, got -3"),
        ({"workers": -1}, "workers must be at least 1, got -1"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"cpu_hours": 0.0}, "cpu_hours must be above 0, got 0"),
        ({"gpu_hours": 2.0}, "a search on the CPU spends no GPU-hours"),
        ({"study": "mine"}, "only a storage names its studies"),
        ({"storage": "mysql://host/db"}, r"postgresql://host/database; mysql is not one"),
        ({"objectives": ["params"]}, "hold no quality"),
        ({"objectives": ["rmse"]}, "not measured on this data"),
        ({"constraints": {"params": "<1 million"}}, "not of the form"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
    ],
)
def test_a_wrong_call_is_refused_and_leaves_no_folder(
    options: dict[str, Any], printed: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=printed):
        nas.search(
            tumours(), "diagnosis", **(FAST | {"trials": 2, "out": tmp_path / "run"} | options)
        )
    assert not (tmp_path / "run").exists()


def test_a_resume_begins_a_search_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cluster that repeats a job repeats its command, and the first time there is nothing."""

    def machine(_: object) -> None:
        raise InterruptedError("the search begins")

    monkeypatch.setattr("nas.driver.open_machine", machine)
    with pytest.raises(InterruptedError, match="the search begins"):
        nas.search(tumours(), "diagnosis", out=tmp_path / "run", resume=True, trials=1)
    assert "holds no search yet; begins one" in capsys.readouterr().err


def test_a_search_without_a_folder_is_named_for_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a shell hides them, or hands them over by a pipe that is another each time."""
    monkeypatch.chdir(tmp_path)
    names = {"flowers.tar.gz": "flowers", ".photos/": "photos", "/": "search"}
    assert {data: default_folder(data).name for data in names} == names
    assert default_folder(tumours()) == Path("runs/search")
    reader, writer = os.pipe()
    try:
        assert default_folder(f"/dev/fd/{reader}") == Path("runs/stdin")
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), (90, 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("2d", 172800), (None, None)],
)
def test_durations(text: str | float | None, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", "0", "nan", "1y", "inf"])
def test_a_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time; write 90s, 10m or 2h"):
        parse_duration(text)


def test_a_search_ends_with_the_best_candidate_trained_and_tested(
    tabular: Run, phases: list[str]
) -> None:
    trained = tabular.finished
    assert trained is not None
    assert trained.error == ""
    assert trained.candidate == tabular.best().number
    assert 1 <= trained.epochs <= trained.recipe_epochs
    assert trained.result["test"][tabular.task.quality.metric] > 0.8
    assert phases[-1] == "finish"
    frame, scores = load(tabular.folder / "model" / "model.ckpt").frame(tumours())
    assert len(frame) == len(tumours())
    assert scores["accuracy"] > 0.8


@pytest.mark.slow
def test_a_search_without_finish_leaves_the_training_to_the_user(tmp_path: Path) -> None:
    given = FAST | {"trials": 1, "time_limit": 120, "families": ["mlp"], "finish": False}
    run = nas.search(tumours(), "diagnosis", out=tmp_path / "run", **given)
    assert run.finished is None
    assert not (run.folder / "model").exists()


@pytest.mark.slow
def test_a_time_limit_is_kept(tmp_path: Path) -> None:
    begin = time.monotonic()
    run = nas.search(
        small_table()[["p", "q", "r", "yes"]],
        "yes",
        families=["mlp"],
        time_limit=20,
        workers=1,
        out=tmp_path / "run",
    )
    assert time.monotonic() - begin < 20 + 6
    assert len(run.candidates()) > 1


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        ({"deterministic": True, "time_limit": "1m"}, "takes --trials and no limit of time"),
        ({"deterministic": True, "trials": 4, "cpu_hours": 1.0}, "no limit of time or device"),
        ({"deterministic": True, "trials": 4, "objectives": ["latency_ms"]}, "flops can"),
        ({"deterministic": True, "trials": 4, "constraints": ["latency_ms<=5"]}, "flops can"),
        ({"executor": "slurm"}, "unknown executor 'slurm'; choose local, ray"),
        ({"gpus_per_trial": 0.5}, "are for Ray: give --executor ray"),
        ({"executor": "ray", "cpus_per_trial": -1.0}, "cpus_per_trial must be at least 0, got -1"),
        ({"executor": "ray", "device": "cpu", "gpus_per_trial": 1.0}, "needs another --device"),
    ],
)
def test_a_wrong_choice_of_executor_or_order_is_refused(
    options: dict[str, Any], printed: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=printed):
        nas.search(tumours(), "diagnosis", out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


# Threads of a training ---------------------------------------------------------------------------


class _Timed(Threads):
    """Steps that take what ``seconds`` says of a number of threads."""

    seconds: ClassVar[dict[int, float]]

    def _step_s(self, module: Proxy) -> float:
        return self.seconds[torch.get_num_threads()]


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 1.0, 2: 0.9, 4: 0.85}, 1),  # none is clearly faster
        ({1: 1.0, 2: 0.5, 4: 0.45}, 2),
        ({1: 1.0, 2: 0.6, 4: 0.3}, 4),
        ({1: 1.0, 2: 3.0, 4: 16.0}, 1),  # other work uses the cores
    ],
)
@pytest.mark.usefixtures("four_threads")
def test_a_training_has_one_thread_unless_several_are_clearly_faster(
    seconds: dict[int, float], expected: int
) -> None:
    module = SimpleNamespace(state_dict=dict, zero_grad=lambda **_: None, load_state_dict=dict)
    timed = type("Timed", (_Timed,), {"seconds": seconds})
    timed(module, ({}, {}))
    assert torch.get_num_threads() == expected


@pytest.mark.usefixtures("four_threads")
def test_threads_are_chosen_again_where_an_epoch_gets_slow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = example_datasets("tabular")["table"]
    task = make_task(dataset, budget=Budget(None, 1), device="cpu", epochs=1)
    module = Proxy("mlp", load_families("tabular")["mlp"].baseline(task), task)
    fast, busy = {1: 1.0, 2: 0.6, 4: 0.3}, {1: 1.0, 2: 3.0, 4: 16.0}
    timed = type("Timed", (_Timed,), {"seconds": fast})
    threads = timed(module, ({}, {}))
    assert torch.get_num_threads() == 4
    clock = iter([0.0, 2.0, 10.0, 12.5, 20.0, 60.0])
    monkeypatch.setattr("nas.training.callbacks.time.monotonic", lambda: next(clock))
    for seconds, expected in ((fast, 4), (busy, 4), (busy, 1)):  # the second is hardly slower
        timed.seconds = seconds
        threads.on_train_epoch_start(None, module)
        threads.on_train_epoch_end(None, module)
        assert torch.get_num_threads() == expected
    assert "an epoch took 40.0 s instead of 2.0 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("laps", "epochs"),
    [([1.0], 20), ([4.0], 10), ([50.0], 1), ([10.0, 2.0], 16), ([1.0] * 10 + [4.0], 17)],
    ids=["in time", "late", "one epoch", "a slow first epoch", "slower later"],
)
def test_a_training_whose_epochs_take_too_long_ends_in_time_with_a_low_rate(
    laps: list[float], epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of the laps is that of all further epochs."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = WarmupCosine(optimizer, total_steps=100, warmup_steps=5, final=0.01)
    trainer: Any = SimpleNamespace(
        max_epochs=20,
        fit_loop=SimpleNamespace(max_epochs=20),
        lr_scheduler_configs=[SimpleNamespace(scheduler=schedule)],
        current_epoch=0,
    )
    now = [0.0]
    monkeypatch.setattr("nas.training.callbacks.time.monotonic", lambda: now[0])
    callback, module = InTime(end=40.0), Any
    callback.on_train_start(trainer, module)
    while trainer.current_epoch < trainer.fit_loop.max_epochs:
        trainer.max_epochs = trainer.fit_loop.max_epochs
        for _ in range(5):
            optimizer.step()
            schedule.step()
        now[0] += laps[min(trainer.current_epoch, len(laps) - 1)]
        callback.on_train_epoch_end(trainer, module)
        trainer.current_epoch += 1
    assert trainer.current_epoch == epochs
    if epochs > 1:
        assert schedule.get_last_lr()[0] == pytest.approx(0.01)


def test_a_training_that_begins_after_its_time_ends_with_its_first_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the data took longer to read."""
    loop = SimpleNamespace(max_epochs=20)
    trainer: Any = SimpleNamespace(
        max_epochs=20, fit_loop=loop, lr_scheduler_configs=[], current_epoch=0
    )
    now = iter([100.0, 110.0])
    monkeypatch.setattr("nas.training.callbacks.time.monotonic", lambda: next(now))
    callback, module = InTime(end=40.0), Any
    callback.on_train_start(trainer, module)
    callback.on_train_epoch_end(trainer, module)
    assert loop.max_epochs == 1
