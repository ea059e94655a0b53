"""A search hands its candidates to the loggers that people use."""

from __future__ import annotations

import csv
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import nas
from nas.candidate import Candidate, Reason, State
from nas.task import InputError
from nas.training import loggers
from nas.training.loggers import CandidateLog

pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")


def candidate(number: int, state: State = State.COMPLETE, **more: Any) -> Candidate:
    curve = ({"epoch": 1, "accuracy": 0.5}, {"epoch": 2, "accuracy": 0.75})
    metrics = {"accuracy": 0.75, "latency_ms": 0.3, "params": 9.0}
    return Candidate(
        number, "mlp", {"depth": 2, "norm": "layer"}, 0, state=state, curve=curve, metrics=metrics,
        **more,
    )  # fmt: skip


def logged(log: CandidateLog, *candidates: Candidate) -> None:
    log.update(candidates)
    log.close()


def test_a_candidate_is_a_run_with_its_configuration_its_curve_and_its_figures(
    tmp_path: Path,
) -> None:
    stopped = candidate(4, State.PRUNED, reason=Reason.HALVING)
    running = candidate(5, State.RUNNING)
    logged(CandidateLog("csv", tmp_path), candidate(3), stopped, running)
    runs = sorted(path.name for path in (tmp_path / "logs").iterdir() if path.is_dir())
    assert runs == ["candidate-3", "candidate-4"]
    about = yaml.safe_load((tmp_path / "logs" / "candidate-4" / "hparams.yaml").read_text())
    assert about == {
        "family": "mlp", "origin": "sampled", "state": "pruned", "reason": "halving",
        "depth": 2, "norm": "layer",
    }  # fmt: skip
    table = pd.read_csv(tmp_path / "logs" / "candidate-3" / "metrics.csv").set_index("step")
    assert table["accuracy"].dropna().to_dict() == {1: 0.5, 2: 0.75}
    assert table["final/latency_ms"].dropna().to_dict() == {2: 0.3}
    assert table["final/params"].dropna().tolist() == [9.0]


def test_no_candidate_is_logged_twice_by_a_search_that_is_resumed(tmp_path: Path) -> None:
    log = CandidateLog("csv", tmp_path)
    log.update([candidate(1)])
    logged(log, candidate(1), candidate(2))
    before = (tmp_path / "logs" / "candidate-1" / "metrics.csv").read_text()
    logged(CandidateLog("csv", tmp_path), candidate(1), candidate(2), candidate(3))
    assert (tmp_path / "logs" / "candidate-1" / "metrics.csv").read_text() == before
    assert (tmp_path / "logs" / "csv.txt").read_text().split() == ["1", "2", "3"]


def test_tensorboard_gets_a_run_for_each(tmp_path: Path) -> None:
    logged(CandidateLog("tensorboard", tmp_path), candidate(1), candidate(2))
    for number in (1, 2):
        assert list((tmp_path / "logs" / f"candidate-{number}").glob("events.out.tfevents.*"))


def test_a_logger_that_fails_is_one_line_and_the_search_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(self: Any, *_: Any) -> None:
        raise ConnectionError("no server\nat that address")

    log = CandidateLog("csv", tmp_path)
    monkeypatch.setattr(loggers.CSVLogger, "log_hyperparams", refused)
    logged(log, candidate(1), candidate(2))
    assert capsys.readouterr().err == "note: --logger csv ends: no server\n"


def test_a_slow_server_holds_nothing_up_but_the_end_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loggers, "WAIT_S", 0.1)
    answer = threading.Event()
    log = CandidateLog("csv", tmp_path)
    monkeypatch.setattr(log, "_log", lambda _: answer.wait(30))
    logged(log, candidate(1))
    assert "note: --logger csv is not done after 0.1 s" in capsys.readouterr().err
    answer.set()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_said_before_the_search(name: str, tmp_path: Path) -> None:
    from importlib.util import find_spec

    if find_spec(name):
        pytest.skip(f"{name} is installed")
    what = f"--logger {name} needs its package: pip install {name}"
    with pytest.raises(InputError, match=what):
        CandidateLog(name, tmp_path)
    table = tmp_path / "table.csv"
    table.write_text("a,y\n" + "1,no\n2,yes\n" * 40)
    with pytest.raises(InputError, match=what):
        nas.search(table, target="y", trials=1, logger=name, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()  # the same command begins it once that is there


@pytest.mark.slow  # a search
def test_a_search_logs_all_that_ended(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "y"])
        writer.writerows([i, i % 7, "no" if i < 60 else "yes"] for i in range(120))
    run = nas.search(
        table, target="y", trials=2, epochs=1, workers=1, families=("mlp",), logger="csv",
        out=tmp_path / "run",
    )  # fmt: skip
    ended = {c.number for c in run.candidates() if c.state != State.RUNNING}
    found = {int(n) for n in (tmp_path / "run" / "logs" / "csv.txt").read_text().split()}
    assert found == ended
    best = run.best()
    file = tmp_path / "run" / "logs" / f"candidate-{best.number}" / "metrics.csv"
    figures = pd.read_csv(file)["final/accuracy"].dropna()
    assert figures.tolist() == pytest.approx([best.metrics["accuracy"]])
