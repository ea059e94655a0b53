"""A study, driven without workers: each candidate is a formula."""

from __future__ import annotations

import errno
import math
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from nas.candidate import Candidate, Cost, Latency, State
from nas.rules import folds
from nas.search.classic import TpeSampler
from nas.search.clock import Clock
from nas.search.journal import repair_journal
from nas.search.samplers import History, stable_seed
from nas.search.study import Study, load_candidates
from nas.space import Config, Int, Space, config_key, join_family, split_family
from nas.task import Budget, InputError, Task, UsageError
from nas.testing import formula, small_spaces, small_task

SPACES = small_spaces()
SPACE = Space.join(SPACES)
BASELINES = {name: space.baseline() for name, space in SPACES.items()}
STARTS = {name: space.starts() for name, space in SPACES.items()}
FINITE = Space.join({"plain": Space((Int("width", 8, 32, default=16, step=8),))})


OPEN: list[Study] = []


def opened(
    folder: Path, task: Task | None = None, space: Space = SPACE, sampler: str = "tpe"
) -> Study:
    OPEN.append(Study(folder, task or small_task(), space, sampler=sampler))
    return OPEN[-1]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def train(study: Study, candidate: Candidate, **changes: object) -> Candidate:
    """All epochs of ``candidate``, unless the study stops it, and its end."""
    for epoch in range(1, candidate.epochs + 1):
        if verdict := study.report(candidate.number, epoch, formula(candidate.config, epoch)):
            end = replace(study[candidate.number], state=State.PRUNED, reason=verdict)
            break
    else:
        end = replace(study[candidate.number], state=State.COMPLETE)
    study.tell(replace(end, **changes))  # type: ignore[arg-type]
    return study[candidate.number]


def run(folder: Path, trials: int, task: Task | None = None, sampler: str = "tpe") -> Study:
    """A search from wherever ``folder`` is up to ``trials``."""
    return search(opened(folder, task, sampler=sampler), trials)


def search(study: Study, trials: int) -> Study:
    """Go on with ``study`` up to ``trials``, one candidate at a time."""
    study.enqueue_baselines(STARTS)
    while study.spent < trials:
        candidate = study.ask()
        assert candidate is not None
        train(study, candidate)
    return study


def asked(study: Study) -> list[tuple[str, Config, int]]:
    return [(c.family, c.config, c.seed) for c in study.candidates()]


def kill_while(folder: Path, lines: str) -> None:
    """Run ``lines`` on a study in a process of its own that is killed."""
    code = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_study import *
study = opened(Path({str(folder)!r}))
{lines}
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_baselines_come_first_and_once_also_over_a_resume(tmp_path: Path) -> None:
    for trials in (3, 5):
        study = run(tmp_path, trials)
        study.close()
    origins = [c.origin for c in study.candidates()]
    assert origins == ["baseline", "baseline", "sampled", "sampled", "sampled"]
    assert {c.family: c.config for c in study.candidates()[:2]} == BASELINES


@pytest.mark.parametrize("sampler", ["ehvi", "evolution", "tpe", "nsga2", "random"])
def test_twelve_and_a_resume_to_24_ask_what_24_in_one_go_ask(tmp_path: Path, sampler: str) -> None:
    (tmp_path / "straight").mkdir()
    (tmp_path / "halves").mkdir()
    run(tmp_path / "halves", 12, sampler=sampler).close()
    halves = run(tmp_path / "halves", 24, sampler=sampler)
    straight = run(tmp_path / "straight", 24, sampler=sampler)
    assert asked(halves) == asked(straight)
    assert len({config_key(f, c) for f, c, _ in asked(straight)}) == 24


def test_another_seed_asks_for_other_candidates_with_other_seeds(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a = asked(run(tmp_path / "a", 6))
    b = asked(run(tmp_path / "b", 6, small_task(seed=1)))
    assert [x[:2] for x in a[:2]] == [x[:2] for x in b[:2]]  # the baselines
    assert all(x[1:] != y[1:] for x, y in zip(a[2:], b[2:], strict=True))
    assert len({seed for _, _, seed in a + b}) == 12


def test_a_seed_is_the_same_in_every_process_and_release() -> None:
    assert stable_seed(0, 0) == 2318824108  # the first four bytes of SHA-256 of "0:0"


def test_a_finite_space_is_asked_for_exactly_once_each_and_then_is_exhausted(
    tmp_path: Path,
) -> None:
    for sampler in ("ehvi", "evolution", "tpe", "nsga2", "random"):
        (folder := tmp_path / sampler).mkdir()
        study = opened(folder, space=FINITE, sampler=sampler)
        widths = []
        while candidate := study.ask():
            train(study, candidate)
            widths.append(candidate.config["width"])
        assert sorted(widths) == [8, 16, 24, 32]
        assert study.spent == 4
        assert study.ask() is None


def test_what_the_model_repeats_is_a_duplicate_that_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TpeSampler, "propose", lambda *_: None)  # all is left to Optuna
    space = Space.join({"plain": Space((Int("width", 1, 12, default=6),))})
    study = opened(tmp_path, space=space)
    for _ in range(12):
        candidate = study.ask()
        assert candidate is not None
        train(study, candidate)
    doubles = [c for c in study.candidates() if c.reason == "duplicate"]
    assert doubles, "the model repeated nothing, so that this test says nothing"
    for double in doubles:
        twin = study[int(double.detail.split()[-1])]
        assert (twin.config, twin.reason) == (double.config, "")
        assert (double.state, double.curve) == (State.FAILED, ())
    assert study.spent == 12


def test_a_budget_counts_a_requeued_candidate_once(tmp_path: Path) -> None:
    study = opened(tmp_path)
    first, second = study.ask(), study.ask()
    assert first is not None
    assert second is not None
    assert study.spent == 2
    lost = replace(first, state=State.FAILED, reason="lost")
    study.requeue(lost)
    study.requeue(lost)
    study.tell(lost)
    assert (study.spent, study.waiting) == (1, True)
    again = study.ask()
    assert again is not None
    assert (study.spent, study.waiting) == (2, False)
    assert (again.root, again.seed, again.origin) == (first.number, first.seed, "requeued")
    assert (again.family, again.config) == (first.family, first.config)
    assert again.number != first.number


def test_a_requeued_baseline_is_still_a_baseline(tmp_path: Path) -> None:
    study = opened(tmp_path)
    study.enqueue_baselines(STARTS)
    first = study.ask()
    assert first is not None
    lost = replace(first, state=State.FAILED, reason="lost")
    study.requeue(lost)
    study.tell(lost)
    study.ask()
    again = study.ask()
    assert again is not None
    assert (again.origin, again.root) == ("baseline", first.number)


def test_a_candidate_is_not_judged_by_its_own_earlier_attempt(
    tmp_path: Path,
) -> None:
    study = opened(tmp_path, small_task(epochs=6, objectives=("accuracy",)))
    figures = iter((0.5, 0.4, 0.9, 0.9))
    verdicts = []
    for _ in range(4):
        candidate = study.ask()
        assert candidate is not None
        verdicts.append(study.report(candidate.number, 2, {"accuracy": next(figures)}))
        end = replace(study[candidate.number], state=State.FAILED, reason="lost")
        if len(verdicts) == 3:
            study.requeue(end)
        study.tell(end)
    assert verdicts[2:] == ["", ""]


def test_halving_stops_the_dominated_at_a_rung_but_no_baseline(tmp_path: Path) -> None:
    task = small_task(epochs=9, objectives=("accuracy", "params"))
    study = opened(tmp_path, task)
    study.enqueue_baselines(STARTS)
    verdicts = []
    asked = [study.ask() for _ in range(5)]
    for i, accuracy in ((2, 0.9), (3, 0.8), (0, 0.1), (4, 0.7), (1, 0.95)):
        candidate = asked[i]
        assert candidate is not None
        figures = {"accuracy": accuracy, "params": 10.0}
        assert study.report(candidate.number, 1, figures) == ""
        verdicts.append((candidate.origin, study.report(candidate.number, 3, figures)))
    assert verdicts == [
        ("sampled", ""),
        ("sampled", ""),  # nothing to compare with yet
        ("baseline", ""),
        ("sampled", "halving"),
        ("baseline", ""),
    ]


def test_halving_spares_no_cheap_network_that_is_hardly_better_than_a_guess(tmp_path: Path) -> None:
    task = small_task(epochs=9, objectives=("accuracy", "params"))
    study = opened(tmp_path, task)
    verdicts = []
    # Of 34 samples of two equal classes a lucky guess gets 0.757.
    for accuracy, params in ((0.9, 30.0), (0.8, 20.0), (0.74, 10.0), (0.77, 10.0)):
        candidate = study.ask()
        assert candidate is not None
        verdicts.append(study.report(candidate.number, 3, {"accuracy": accuracy, "params": params}))
        study.tell(replace(study[candidate.number], state=State.COMPLETE))
        study.close()
        study = opened(tmp_path, task)  # what is known of a rung survives this
    assert verdicts == ["", "", "halving", ""]
    assert [c.metrics["accuracy"] for c in study.front()] == [0.9, 0.8, 0.77]


def test_later_folds_are_not_judged_and_leave_no_figures(tmp_path: Path) -> None:
    study = opened(tmp_path, small_task(epochs=9, objectives=("accuracy",)))
    for accuracy in (0.9, 0.8, 0.7):
        candidate = study.ask()
        assert candidate is not None
        assert study.reached.get(candidate.number) is None
        verdict = study.report(candidate.number, 3, {"accuracy": accuracy})
    assert verdict == "halving"
    before = study[candidate.number]
    assert study.report(candidate.number, 3, {}, fold=2) == ""
    assert study[candidate.number] == before
    assert study.reached[candidate.number] == (2, 3)


def test_rungs_survive_a_resume(tmp_path: Path) -> None:
    task = small_task(epochs=9, objectives=("accuracy",))
    study = opened(tmp_path, task)
    for accuracy in (0.9, 0.8, 0.7):
        candidate = study.ask()
        assert candidate is not None
        study.report(candidate.number, 3, {"accuracy": accuracy})
        study.tell(replace(study[candidate.number], state=State.PRUNED, reason="halving"))
    study.close()
    study = opened(tmp_path, task)
    candidate = study.ask()
    assert candidate is not None
    assert study.report(candidate.number, 3, {"accuracy": 0.85}) == "halving"


def test_a_rung_is_of_candidates_that_are_trained_alike(tmp_path: Path) -> None:
    """Networks from published weights are trained for as few epochs on other data."""
    task = small_task(epochs=9, objectives=("accuracy",))
    other = {"deep": replace(task.fidelity, share=0.2)}
    task = replace(task, fidelity=replace(task.fidelity, other=other))
    verdicts = []
    for family, accuracy in (("plain", 0.9), ("plain", 0.8), ("deep", 0.77), ("plain", 0.7)):
        study = opened(tmp_path, task)  # what is known of a rung survives this
        config = join_family(family, SPACES[family].sample(np.random.default_rng(len(verdicts))))
        candidate = study.ask(preferred=[config])
        assert candidate is not None
        assert candidate.family == family
        verdicts.append(study.report(candidate.number, 3, {"accuracy": accuracy}))
        study.tell(replace(study[candidate.number], state=State.COMPLETE))
        study.close()
    assert verdicts == ["", "", "", "halving"]


def test_at_a_rung_latencies_are_those_that_were_measured_beside_trainings(tmp_path: Path) -> None:
    """The front's are measured again at the end of a search, and are lower then."""
    study = opened(tmp_path, small_task(epochs=9, objectives=("accuracy", "latency_ms")))
    for accuracy, latency_ms in ((0.9, 1.0), (0.85, 2.0), (0.8, 0.8)):
        candidate = study.ask()
        assert candidate is not None
        figures = {"accuracy": accuracy, "latency_ms": latency_ms}
        verdict = study.report(candidate.number, 3, figures)
        study.tell(replace(study[candidate.number], state=State.COMPLETE))
        if accuracy == 0.9:
            found = Latency(0.5, 0.0, isolated=True, threads=1, batch=1, contended_ms=1.0)
            end = replace(study[candidate.number], metrics=figures | {"latency_ms": 0.5})
            study.revise(replace(end, cost=Cost(found)))
            study.close()
            study = opened(tmp_path, study.task)
    assert verdict == "", "0.8 ms of it are less than 1.0 ms of the best"
    assert study[0].metrics["latency_ms"] == 0.5, "of the front the isolated ones count"


def test_one_out_of_time_counts_where_its_own_family_is_not_cross_validated(
    tmp_path: Path,
) -> None:
    task = small_task()
    assert folds(task) == 5
    other = {"deep": replace(task.fidelity, folds=1)}
    study = opened(tmp_path, replace(task, fidelity=replace(task.fidelity, other=other)))
    study.enqueue_baselines(STARTS)
    for _ in STARTS:
        candidate = study.ask()
        assert candidate is not None
        study.report(candidate.number, 1, formula(candidate.config, 1))
        end = replace(study[candidate.number], state=State.PRUNED, reason="timeout")
        study.tell(replace(end, detail="after 9 s at step 5 of 9"))
    states = {c.family: c.state for c in study.candidates()}
    assert states == {"plain": State.PRUNED, "deep": State.COMPLETE}


def test_device_hours_count_from_when_a_worker_is_at_a_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(tmp_path)
    first, second = study.ask(), study.ask()
    assert first is not None
    assert second is not None
    now = time.monotonic()
    for later in (100.0, 130.0):
        monkeypatch.setattr(time, "monotonic", lambda later=later: now + later)
        study.begin(first.number)
    assert study.training_s(first.number) == pytest.approx(30.0)
    assert study.hours("cpu") * 3600 == pytest.approx(30.0)
    study.settle("stopped")
    assert [c.seconds for c in study.candidates()] == pytest.approx([30.0, 0.0])


def test_the_front_is_that_of_a_brute_force(tmp_path: Path) -> None:
    task = small_task(constraints=("params<=40000", "latency_ms<=1"))
    study = run(tmp_path, 30, task)
    inside = [
        c
        for c in study.candidates()
        if c.state == State.COMPLETE
        and c.metrics["params"] <= 40000
        and c.metrics["latency_ms"] <= 1
    ]
    costs = {
        c.number: (-c.metrics["accuracy"], c.metrics["latency_ms"], c.metrics["params"])
        for c in inside
    }
    expected = {
        i
        for i, a in costs.items()
        if not any(b != a and all(np.less_equal(b, a)) for b in costs.values())
    }
    assert {c.number for c in study.front()} == expected
    assert 0 < len(expected) < len(inside) < 30


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("metric", ["accuracy", "memory_mb"])
def test_a_complete_candidate_without_a_finite_figure_is_stored_as_pruned(
    tmp_path: Path, metric: str, value: float
) -> None:
    task = small_task(constraints=("memory_mb<=1000",))
    study = opened(tmp_path, task)
    candidate = study.ask()
    assert candidate is not None
    metrics = formula(candidate.config, 4) | {metric: value}
    end = train(study, candidate, metrics=metrics)
    assert (end.state, end.reason, end.detail) == (
        State.PRUNED,
        "nan",
        f"no finite {metric} at the end",
    )
    study.close()
    study = opened(tmp_path, task)  # no trial is left running
    assert [c.reason for c in study.candidates()] == ["nan"]
    assert not study.waiting


def test_a_candidate_that_runs_out_of_time_counts_with_its_last_figures(tmp_path: Path) -> None:
    """The task is large enough not to be cross-validated: a fold is no figure."""
    task = small_task()
    large = replace(task, profile=replace(task.profile, n_val=1000))
    for number, (case, counts) in enumerate(((large, True), (task, False))):
        (folder := tmp_path / str(number)).mkdir()
        study = opened(folder, case)
        study.enqueue_baselines(STARTS)
        for trained in (True, False, True):  # the second is stopped before its first epoch
            expected = counts and trained
            candidate = study.ask()
            assert candidate is not None
            if trained:
                study.report(candidate.number, 1, formula(candidate.config, 1))
            end = replace(study[candidate.number], state=State.PRUNED, reason="timeout")
            study.tell(replace(end, detail="after 9 s at step 5 of 9"))
            end = study[candidate.number]
            assert (end.state == State.COMPLETE) == expected
            assert end.reason == ("" if expected else "timeout")
            assert end.detail.startswith("1 epochs trained") == expected
        assert bool(study.front()) == counts
        assert study._study.get_trials()[0].values == (
            [study[0].metrics[o.metric] for o in task.objectives] if counts else None
        )


def test_an_objective_that_was_not_measured_stops_a_candidate_at_its_rung(tmp_path: Path) -> None:
    study = opened(tmp_path, small_task(epochs=9, objectives=("auc", "params")))
    candidate = study.ask()
    assert candidate is not None
    assert study.report(candidate.number, 3, {"params": 10.0}) == "nan"


def test_how_far_a_candidate_is_over_a_limit_is_reported_relative_to_it(tmp_path: Path) -> None:
    study = opened(tmp_path, small_task(constraints=("params<=1000", "latency_ms<=5")))
    ends = [
        (State.PRUNED, "infeasible", {"params": 3000.0}),
        (State.PRUNED, "halving", {"params": 10.0}),
        (State.COMPLETE, "", {"accuracy": 0.5, "params": 500.0, "latency_ms": 10.0}),
    ]
    for state, reason, metrics in ends:
        candidate = study.ask()
        assert candidate is not None
        study.tell(replace(candidate, state=state, reason=reason, metrics=metrics))
    assert [t.constraints for t in study._study.get_trials()] == [
        {"pruned": 1.0, "params<=1000": 2.0},
        {"pruned": 1.0},
        {"pruned": 0.0, "params<=1000": -0.5, "latency_ms<=5": 1.0},
    ]


def test_an_error_is_reported_as_bad_and_not_as_unknown(tmp_path: Path) -> None:
    """Optuna learns nothing from a failed trial; all plain networks raise here."""
    study = opened(tmp_path)
    families = []
    for _ in range(40):
        candidate = study.ask()
        assert candidate is not None
        families.append(candidate.family)
        if candidate.family == "plain":
            study.tell(replace(candidate, state=State.FAILED, reason="error", detail="no"))
        else:
            train(study, candidate)
    assert families[-20:].count("plain") <= 5
    reported = {
        t.number: (t.state.name, t.constraints["pruned"]) for t in study._study.get_trials()
    }
    wrong = [c.number for c in study.candidates() if c.reason == "error"]
    assert {reported[number] for number in wrong} == {("PRUNED", 1.0)}


def test_a_study_of_failures_alone_continues(tmp_path: Path) -> None:
    study = opened(tmp_path)
    for reason in ("error", "lost", "nan", "halving", "oom") * 4:
        candidate = study.ask()
        assert candidate is not None
        failed = reason in ("error", "lost")
        state = State.FAILED if failed else State.PRUNED
        study.tell(replace(candidate, state=state, reason=reason))
    assert study.front() == []


def test_revised_figures_survive_reopening_and_change_the_front(tmp_path: Path) -> None:
    study = run(tmp_path, 8)
    best = study.front()[0]
    slow = replace(
        best, metrics=best.metrics | {"accuracy": -1.0, "latency_ms": 1e3, "params": 1e9}
    )
    study.revise(slow)
    assert best.number not in {c.number for c in study.front()}
    before = study.candidates()
    study.close()
    assert load_candidates(tmp_path) == before
    study = opened(tmp_path)
    assert study.candidates() == before
    study.close()


def test_candidates_are_read_beside_a_running_driver(tmp_path: Path) -> None:
    assert load_candidates(tmp_path) == []
    study = opened(tmp_path)
    assert load_candidates(tmp_path) == []
    candidate = study.ask(worker=1)
    assert load_candidates(tmp_path) == [candidate] == study.candidates()
    assert candidate is not None
    end = train(study, candidate)
    assert load_candidates(tmp_path) == [end]


def test_an_empty_journal_holds_no_candidates(tmp_path: Path) -> None:
    (tmp_path / "study.journal").touch()
    assert load_candidates(tmp_path) == []


def test_a_second_driver_is_refused_and_the_message_names_it(tmp_path: Path) -> None:
    study = opened(tmp_path)
    with pytest.raises(InputError, match=rf"in use by another search \(process {os.getpid()}\)"):
        opened(tmp_path)
    study.close()
    opened(tmp_path).close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_one_line_that_names_no_other_search(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(InputError, match=r"driver\.lock cannot be locked \(\w+.*\); choose --out"):
        opened(tmp_path)


def test_an_unknown_sampler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown sampler 'best'; known are auto, ehvi"):
        opened(tmp_path, sampler="best")


# -- after a crash -------------------------------------------------------------------------


def test_a_torn_last_line_is_cut_off_and_the_study_continues(tmp_path: Path) -> None:
    run(tmp_path, 3).close()
    journal = tmp_path / "study.journal"
    whole = journal.read_bytes()
    torn = b'{"op_code":4,"worker_id":"'
    journal.write_bytes(whole + torn)
    assert load_candidates(tmp_path) == load_candidates(tmp_path)  # a reader does not mind
    study = run(tmp_path, 5)
    assert study.spent == 5
    study.close()
    assert len(load_candidates(tmp_path)) == 5
    journal.write_bytes(whole + torn)
    assert repair_journal(journal) == len(torn)
    assert journal.read_bytes() == whole
    assert repair_journal(journal) == 0


def test_the_lock_of_a_writer_that_was_killed_does_not_stall(tmp_path: Path) -> None:
    run(tmp_path, 3).close()
    (tmp_path / "study.journal.lock").touch()
    assert run(tmp_path, 4).spent == 4  # Optuna would wait for half a minute


def test_candidates_in_training_at_the_drivers_death_are_trained_again(tmp_path: Path) -> None:
    kill_while(tmp_path, "study.ask(); train(study, study.ask()); study.ask()")
    study = opened(tmp_path)
    states = [(c.state, c.reason) for c in study.candidates()]
    interrupted = (State.FAILED, "interrupted")
    assert states == [interrupted, (State.COMPLETE, ""), interrupted]
    assert study.spent == 1
    again = [study.ask(), study.ask(), study.ask()]
    assert [c.root for c in again if c is not None] == [0, 2, 5]
    assert [c.seed for c in again[:2] if c] == [study[0].seed, study[2].seed]
    assert study.spent == 4


@pytest.mark.parametrize("step", ["Trial.set_constraint", "Study.tell"])
def test_a_driver_killed_between_storing_a_row_and_telling_it_loses_nothing(
    tmp_path: Path, step: str
) -> None:
    killed = f"import optuna; c = study.ask(); optuna.{step} = lambda *_, **__: os._exit(0)"
    kill_while(tmp_path, f"{killed}\ntrain(study, c)")
    study = opened(tmp_path)
    assert [c.state for c in study.candidates()] == [State.COMPLETE]
    assert not study.waiting
    assert len(study.front()) == 1
    values = study._study.get_trials()[0].values
    assert values == [study[0].metrics[o.metric] for o in study.task.objectives]


@pytest.mark.parametrize("call", ["set_user_attr", "set_constraint"])
def test_a_driver_killed_while_it_requeues_does_so_once(tmp_path: Path, call: str) -> None:
    kill_while(tmp_path, "study.ask()")
    code = f"import optuna\noptuna.Trial.{call} = lambda *_: os._exit(0)"
    kill_while(tmp_path, f"study.close()\n{code}\nopened(Path({str(tmp_path)!r}))")
    study = opened(tmp_path)
    again, new = study.ask(), study.ask()
    assert again is not None
    assert new is not None
    assert again.root == 0
    assert new.root == new.number


def test_what_was_in_training_has_cost_until_the_driver_was_last_alive(tmp_path: Path) -> None:
    kill_while(tmp_path, "study.ask()\nstudy.clock.write(70.0)")
    alive = time.time() + 40
    os.utime(tmp_path / "clock", (alive, alive))
    study = opened(tmp_path)
    assert study.clock.read() == 70.0
    assert study[0].seconds == pytest.approx(alive - study[0].started)
    assert study.hours("cpu") == pytest.approx(study[0].seconds / 3600)


@pytest.mark.parametrize("adjusted_s", [-86400, 86400])
def test_a_wall_clock_that_is_adjusted_costs_no_device_hours(
    adjusted_s: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    study = opened(tmp_path)
    candidate = study.ask()
    assert candidate is not None
    monkeypatch.setattr(time, "time", lambda: now + adjusted_s)
    assert 0 <= study.hours("cpu") * 3600 < 60
    study.clock.write(5.0)
    study.settle("stopped")
    assert 0 <= study[0].seconds < 60
    study.ask()
    study.close()
    later = now + 10 * abs(adjusted_s)  # the driver is killed, and the clock set, in either order
    os.utime(tmp_path / "clock", (later, later))
    assert opened(tmp_path).hours("cpu") * 3600 < 60 + 5


def test_a_candidate_popped_twice_by_drivers_that_died_waits_once(tmp_path: Path) -> None:
    kill_while(tmp_path, "study.ask()")
    kill_while(tmp_path, "study._study.ask()")  # popped: it has no row yet
    died = "import optuna\noptuna.Study.tell = lambda *_, **__: os._exit(0)"
    kill_while(tmp_path, f"study.close()\n{died}\nopened(Path({str(tmp_path)!r}))")
    study = opened(tmp_path)
    again = [study.ask(), study.ask()]
    assert [c.root == 0 for c in again if c] == [True, False]


def test_a_baseline_popped_by_a_driver_that_died_at_once_is_not_forgotten(tmp_path: Path) -> None:
    kill_while(tmp_path, "study.enqueue_baselines(STARTS); study._study.ask()")
    study = run(tmp_path, 3)
    baselines = [c for c in study.candidates() if c.origin == "baseline"]
    assert {c.family: c.config for c in baselines} == BASELINES
    assert len(baselines) == 2


def test_each_family_starts_with_a_draw_of_the_narrowest_widths() -> None:
    widths = Space((Int("width", 8, 256, 64, step=8, log=True), Int("depth", 1, 4, 2)))
    space = Space.join({"a": widths, "b": widths})
    drawn: list[Config] = []
    for number in range(4):
        before = [Candidate(i, *split_family(config), seed=0) for i, config in enumerate(drawn)]
        found = TpeSampler(space, small_task()).propose(History(before, number))
        assert found is not None
        drawn.append(next(iter(found)))
    assert [config["family"] for config in drawn] == ["a", "b", "a", "b"]
    assert [drawn[0]["a.width"], drawn[1]["b.width"]] == [8, 8]
    assert {drawn[2]["a.width"], drawn[3]["b.width"]} != {8}
    for config in drawn:
        space.check(config)


def test_a_full_disk_is_one_line_and_nothing_that_is_finished_is_lost(tmp_path: Path) -> None:
    """A limit on the size of a file fails a write half-way, as a full disk does."""
    code = f"""
import resource, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_study import *
folder = Path({str(tmp_path)!r})
study = run(folder, 3)
size = (folder / "study.journal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 7000, size + 7000))
try:
    while True:
        train(study, study.ask())
        print(study.spent, flush=True)
except InputError as error:
    print(error)
study.close()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *counts, message = ended.stdout.splitlines()
    assert re.fullmatch(
        r"\S+study\.journal cannot be written \(File too large\); what is finished is kept:.*",
        message,
    )
    kept = load_candidates(tmp_path)
    # The last may be stored, and Optuna not know of it.
    complete = [c.state for c in kept].count(State.COMPLETE)
    assert 3 < int(counts[-1]) <= complete <= int(counts[-1]) + 1
    assert (tmp_path / "study.journal").read_bytes().endswith(b"\n")
    study = run(tmp_path, complete + 2)
    assert study.candidates()[:complete] == kept[:complete]
    assert study.spent == complete + 2


def test_a_database_without_its_driver_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"pip install 'frontier-nas\[postgresql\]'"):
        Study(tmp_path, small_task(), SPACE, storage="postgresql://host/db")


def test_the_budget_of_hours_counts_all_candidates_by_their_share(tmp_path: Path) -> None:
    budget = Budget(gpu_hours=0.5, cpus=1.0, gpus=0.25)
    task = replace(small_task(), budget=budget)
    study = opened(tmp_path, task)
    for seconds, reason in ((1800.0, "lost"), (3600.0, "halving"), (1799.0, "")):
        candidate = study.ask()
        assert candidate is not None
        train(study, candidate, seconds=seconds, reason=reason)
    assert study.hours("cpu") == pytest.approx(7199 / 3600)
    assert study.hours("gpu") == pytest.approx(0.25 * 7199 / 3600)
    assert not study.out_of_hours
    study.close()
    study = opened(tmp_path, replace(task, budget=replace(budget, cpu_hours=1.9)))
    assert study.hours("cpu") == pytest.approx(7199 / 3600)
    assert study.out_of_hours


def test_a_journal_is_that_of_optuna(tmp_path: Path) -> None:
    """Its own storage reads the file, as its dashboard does, and finds the same trials."""
    study = run(tmp_path, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    read = optuna.load_study(study_name="nas", storage=storage)
    mine = study._study.get_trials()
    assert [(t.params, t.values, t.state, t.constraints) for t in read.trials] == [
        (t.params, t.values, t.state, t.constraints) for t in mine
    ]
    complete = [t for t in mine if t.state == TrialState.COMPLETE]
    assert len(complete) == 8
    assert complete[0].values == [study[0].metrics[o.metric] for o in study.task.objectives]


# -- damaged files -------------------------------------------------------------------------

ROW = re.compile(rb'"user_attr":\{"candidate":\{"number":(\d+)')
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda line: bytes(range(128, 256)) * 3 + b"\n",
    "NULs": lambda line: b"\0" * 4096,
    "torn": lambda line: line[: len(line) // 2],  # glued to the next
    "foreign JSON": lambda line: b'{"epoch": 3, "loss": 0.5}\n',
    "a list": lambda line: b"[1, 2, 3]\n",
    "a number": lambda line: b"17\n",
    "not UTF-8": lambda line: line[:40] + b"\xff\xfe" + line[40:],
    "deep nesting": lambda line: b'{"op_code":' + b"[" * 200_000 + b"\n",
    "gone": lambda line: b"",
    "an unknown operation": lambda line: b'{"op_code":99,"worker_id":"x"}\n',
    "an operation without its fields": lambda line: b'{"op_code":8,"worker_id":"x"}\n',
}


def finished_run(folder: Path) -> tuple[Path, list[bytes]]:
    """The journal of a search of ten candidates, two of which were in training at its end."""
    study = run(folder, 8)
    study.clock.write(120.0)
    study.ask()
    study.ask()
    study.close()
    journal = folder / "study.journal"
    return journal, journal.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("place", ["creation", "row", "state"])
def test_a_journal_that_is_damaged_in_the_middle_keeps_what_its_whole_lines_hold(
    tmp_path: Path, how: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    journal, lines = finished_run(tmp_path)
    before = {c.number: c for c in load_candidates(tmp_path)}
    start = {"creation": b'{"op_code":4', "row": b'{"op_code":8', "state": b'{"op_code":6'}[place]
    fit = [i for i, line in enumerate(lines) if line.startswith(start)]
    if place == "row":
        fit = [i for i in fit if ROW.search(lines[i])]
    at = fit[len(fit) // 2]
    content = b"".join([*lines[:at], DAMAGES[how](lines[at]), *lines[at + 1 :]])
    journal.write_bytes(content)

    read = {c.number: c for c in load_candidates(tmp_path)}
    touched = lines[at : at + 2] if how in ("torn", "NULs") else lines[at : at + 1]
    hit = {int(found.group(1)) for line in touched if (found := ROW.search(line))}
    # Of a candidate whose last row is lost an earlier one may be left.
    assert {n: c for n, c in read.items() if n not in hit} == {
        n: c for n, c in before.items() if n not in hit
    }
    study = opened(tmp_path)
    resumed = {c.number: c for c in study.candidates()}
    done = {n for n, c in read.items() if c.state != State.RUNNING}
    assert len(done) >= 7
    assert {n: resumed[n] for n in done} == {n: read[n] for n in done}
    assert {c.number: c for c in load_candidates(tmp_path)} == resumed
    search(study, study.spent + 2)
    values = {t.number: t.values for t in study._study.get_trials()}
    objectives = study.task.objectives
    for c in study.candidates():
        if c.state == State.COMPLETE and not (how == "gone" and c.number in hit):
            assert values[c.number] == [c.metrics[o.metric] for o in objectives]
    assert all("\n" not in record.message for record in caplog.records)
    for kept in tmp_path.glob("study.journal.damaged-*"):
        assert kept.read_bytes() == content
        assert "study.journal was damaged (" in caplog.text
        assert f"kept as {kept.name}" in caplog.text


def test_a_damaged_journal_is_read_with_one_line_of_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal, lines = finished_run(tmp_path)
    rows = [i for i, line in enumerate(lines) if ROW.search(line)]
    for at in (rows[3], rows[6]):
        lines[at] = b"\0\0\0\n"
    journal.write_bytes(b"".join(lines))
    load_candidates(tmp_path)
    load_candidates(tmp_path)
    [record] = caplog.records
    assert re.fullmatch(
        rf"\S+study\.journal: line {rows[3] + 1} and 1 more cannot be read; \d+ candidates are"
        r" read from the whole lines, .* unless you copy the file again",
        record.message,
    )


@pytest.mark.parametrize("content", [b"", None, b"\0" * 9000 + b"\n", b"[" * 100_000 + b"\n"])
def test_a_journal_of_nothing_beside_a_clock_is_one_line(
    tmp_path: Path, content: bytes | None
) -> None:
    journal, _ = finished_run(tmp_path)
    journal.unlink()
    if content is not None:
        journal.write_bytes(content)
    with pytest.raises(InputError, match=r"study\.journal .*; copy .*--out") as error:
        opened(tmp_path)
    assert "\n" not in str(error.value)
    if not content:
        with pytest.raises(InputError, match="says that a search took 120 s here"):
            load_candidates(tmp_path)


@pytest.mark.parametrize("content", [b"", b"soon", b"\xff\xfe", b"nan", b"-3", b"[]", b"1e999"])
def test_a_clock_that_holds_no_time_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clock").write_bytes(content)
    with pytest.raises(
        InputError, match=r"clock .*the seconds that the search has taken.*write them there"
    ):
        Clock(tmp_path).read()


def test_a_clock_is_never_there_without_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the disk is full: an empty one would not be a time."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        Clock(tmp_path).write(1.0)
    assert not list(tmp_path.iterdir())
