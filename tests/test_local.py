"""Worker processes and the loop that keeps them busy, with real processes and a formula."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from nas.candidate import Candidate, State
from nas.search import loop, workers
from nas.search.local import LocalWorkers
from nas.search.loop import FIRST_ERRORS, drive
from nas.search.study import Study, load_candidates
from nas.search.workers import Workers
from nas.space import Int, Space, config_key
from nas.task import Budget, InputError, Task
from nas.testing import EVALUATOR, small_spaces, small_task

SPACE = Space.join(small_spaces())


def search(
    folder: Path,
    *,
    trials: int | None = None,
    workers: int = 2,
    task: Task | None = None,
    space: Space = SPACE,
    limit_s: float | None = None,
    latest_s: float | None = None,
    later: Callable[[], float] = lambda: -math.inf,
    calls: tuple[str, ...] = (),
    on_event: Callable[[Workers], None] = lambda workers: None,
    lockstep: bool = False,
    **settings: Any,
) -> list[Candidate]:
    """A search with ``workers`` processes; ``settings`` are those of FormulaEvaluator."""
    settings = {"folder": str(folder)} | settings
    with (
        closing(Study(folder, task or small_task(), space)) as study,
        LocalWorkers(workers, EVALUATOR, settings, folder / "logs", lockstep=lockstep) as pool,
    ):
        limits = (None if s is None else time.monotonic() + s for s in (limit_s, latest_s))
        ends = dict(zip(("deadline", "latest"), limits, strict=True))
        drive(study, pool, trials=trials, calls=calls, later=later, on_event=on_event, **ends)
    return load_candidates(folder)


def trained(folder: Path) -> Counter[str]:
    """How often each root was begun and ended, from the evaluator's own notes."""
    notes = folder / "evaluated.txt"
    return Counter(notes.read_text().splitlines()) if notes.exists() else Counter()


def finished(candidates: list[Candidate]) -> list[Candidate]:
    return [c for c in candidates if c.state in (State.COMPLETE, State.PRUNED)]


def test_workers_train_a_budget_of_candidates_each_once(tmp_path: Path) -> None:
    candidates = search(tmp_path, trials=20)
    assert len(finished(candidates)) == 20
    assert len({config_key(c.family, c.config) for c in finished(candidates)}) == 20
    assert {c.worker for c in candidates} == {0, 1}
    counted = trained(tmp_path)
    assert counted == Counter(
        f"{w} {c.root}" for c in finished(candidates) for w in ("begin", "end")
    )


def test_a_space_that_is_exhausted_ends_the_search_also_where_a_worker_died(tmp_path: Path) -> None:
    space = Space.join({"plain": Space((Int("width", 8, 32, default=16, step=8),))})
    # The fourth dies when the other workers have found out that nothing is left to ask for.
    candidates = search(tmp_path, space=space, workers=3, die_once=[3], seconds_per_epoch=0.05)
    assert [c.root for c in candidates if c.reason == "lost"] == [3]
    assert sorted(c.config["width"] for c in finished(candidates)) == [8, 16, 24, 32]


def test_one_that_takes_its_worker_with_it_is_trained_again_once(tmp_path: Path) -> None:
    with closing(Study(tmp_path, small_task(), SPACE)) as study:  # else a slow start leaves 1 to 0
        study.enqueue_baselines({name: space.starts() for name, space in small_spaces().items()})
    candidates = search(tmp_path, trials=8, die_once=[0], die=[1])
    lost = [c for c in candidates if c.reason == "lost"]
    assert sorted(c.root for c in lost) == [0, 1, 1]
    assert all(c.detail == "its worker ended with code -9" for c in lost)
    assert len(lost[0].curve) >= 1  # what it reported is kept
    first, again = [c for c in candidates if c.root == 0]
    assert again.number > first.number
    assert (again.family, again.config, again.seed) == (first.family, first.config, first.seed)
    assert again in finished(candidates)
    assert len({c.root for c in candidates}) == 8  # the budget counts it once
    assert trained(tmp_path)["begin 1"] == 2
    assert len(finished(candidates)) == 7
    assert all(trained(tmp_path)[f"end {c.root}"] == 1 for c in finished(candidates))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (
            "fail",
            r"^a worker could not start: RuntimeError: no such device \(see .*worker-\d\.log\)$",
        ),
        ("die", r"^workers die while they start: its worker ended with code -9 \(see .*log\)$"),
    ],
)
def test_workers_that_cannot_start_end_the_search_with_one_line(
    tmp_path: Path, start: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        search(tmp_path, trials=4, start=start)
    settings = {"folder": str(tmp_path), "start": start}
    with (
        LocalWorkers(1, EVALUATOR, settings, tmp_path / "logs") as pool,
        pytest.raises(InputError, match=message),  # and a single call does not wait for ever
    ):
        pool.call_alone("baselines", on_wait=lambda _: None)


@pytest.mark.parametrize("failures", [2, 3])
def test_a_worker_that_cannot_be_replaced_is_tried_again_after_longer_and_longer_pauses(
    tmp_path: Path, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only worker dies of the first candidate; then so many starts fail in a row."""
    monkeypatch.setattr(workers, "RESTART_S", 0.01)
    monkeypatch.setattr(workers, "FAILED_RESTARTS", 3)
    broken, ends = list(range(2, 2 + failures)), failures == 3
    what = r"^workers die while they start: MemoryError: out of memory, for a moment \(see .*log\)$"
    with pytest.raises(InputError, match=what) if ends else nullcontext():
        search(tmp_path, trials=4, workers=1, die_once=[0], broken=broken)
    starts = len((tmp_path / "evaluators.txt").read_text().splitlines())
    assert starts == 1 + failures + (not ends)
    assert len(finished(load_candidates(tmp_path))) == (0 if ends else 4)


def test_starts_that_fail_do_not_end_a_search_in_which_another_worker_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "RESTART_S", 0.001)
    monkeypatch.setattr(workers, "FAILED_RESTARTS", 2)
    broken = list(range(3, 9))
    candidates = search(tmp_path, trials=8, die_once=[0], broken=broken, seconds_per_epoch=0.3)
    assert len(finished(candidates)) == 8
    starts = len((tmp_path / "evaluators.txt").read_text().splitlines())
    assert starts > 4, "too few starts failed for this test to say anything"


class _Reporting(Workers):
    """Three workers, of which each reports once as soon as it is called, and then ends."""

    def __init__(self) -> None:
        super().__init__()
        self._workers = [workers.Worker(i, ready=True) for i in range(3)]
        self.log: list[tuple[str, int]] = []
        self._waiting: list[workers.Event] = []

    def call(self, index: int, job: Any, method: str, **arguments: Any) -> None:
        self.log.append(("call", index))
        self._workers[index].job = job
        report = {"epoch": 1, "metrics": {"accuracy": 0.5, "latency_ms": 1.0, "params": 1.0}}
        self._waiting.append(workers.Event("report", index, job, report))

    def answer(self, index: int, answer: str) -> None:
        self.log.append(("answer", index))
        job, self._workers[index].job = self._workers[index].job, None
        metrics = {"accuracy": 0.5, "latency_ms": 1.0, "params": 1.0}
        ended = replace(job, state=State.COMPLETE, metrics=metrics)
        self._waiting.append(workers.Event("result", index, job, {"value": ended.to_dict()}))

    def _happened(self, timeout: float) -> Iterator[workers.Event]:
        happened, self._waiting = self._waiting, []
        yield from happened

    def close(self) -> None:
        pass


def test_reports_are_answered_before_further_candidates_are_proposed(tmp_path: Path) -> None:
    """A proposal takes long, and a worker that waits for its answer is idle meanwhile."""
    with closing(Study(tmp_path, small_task(), SPACE, sampler="random")) as study:
        drive(study, pool := _Reporting(), trials=3)
    assert [kind for kind, _ in pool.log] == ["call", "answer"] * 3


def test_the_driver_proposes_with_one_thread_of_blas(tmp_path: Path) -> None:
    """More would wait for cores that the workers use."""

    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    seen: set[int] = set()
    with threadpool_limits(2):
        search(tmp_path, trials=2, on_event=lambda _: seen.update(threads()))
        assert 2 in threads()
    assert seen == {1}


def test_an_unknown_evaluator_is_reported(tmp_path: Path) -> None:
    with (
        LocalWorkers(1, "nas.testing:Nothing", {}, tmp_path) as pool,
        pytest.raises(InputError, match="no attribute 'Nothing'"),
    ):
        pool.call_alone("baselines", on_wait=lambda _: None)


def test_a_worker_whose_device_is_lost_ends_and_only_its_candidate_is_trained_again(
    tmp_path: Path,
) -> None:
    """It would turn every further candidate into an error."""
    candidates = search(tmp_path, trials=12, poison_once=[2])
    assert len(finished(candidates)) == 12
    (lost,) = (c for c in candidates if c.reason is not None and c.reason == "lost")
    assert lost.root == 2
    assert not any(c.reason == "error" for c in candidates)
    assert len((tmp_path / "evaluators.txt").read_text().splitlines()) == 3


def test_a_candidate_that_a_neighbour_left_no_memory_is_trained_once_more(tmp_path: Path) -> None:
    candidates = search(tmp_path, trials=6, crowd_once=[1], crowd=[0])
    ends = Counter(c.root for c in candidates if c.reason == "lost")
    assert ends == {1: 1, 0: 2}  # the latter never fits
    assert 1 in {c.root for c in finished(candidates)}


@pytest.mark.parametrize(
    ("count", "failures", "ends"), [(1, 8, True), (6, 8, False), (6, 12, True)]
)
def test_failed_starts_count_by_the_number_of_workers(
    count: int, failures: int, ends: bool
) -> None:
    """A node that is taken away takes all its workers with it."""
    pool = Workers()
    pool._workers = [workers.Worker(i) for i in range(count)]
    pool._started()
    pauses = []
    with pytest.raises(InputError, match="die while they start") if ends else nullcontext():
        for k in range(failures):
            event = workers.Event("lost", k % count, None, {"detail": "preempted"})
            pauses.append(pool._died(event, started=False))
    assert pauses == sorted(pauses)


def test_an_error_is_kept_with_its_traceback_and_the_search_continues(tmp_path: Path) -> None:
    candidates = search(tmp_path, trials=5, fail=[1])
    wrong = candidates[1]
    assert (wrong.state, wrong.reason) == (State.FAILED, "error")
    assert wrong.detail.startswith("Traceback")
    assert wrong.detail.strip().endswith("RuntimeError: candidate 1 cannot be trained")
    assert len(finished(candidates)) == 4


def test_a_search_in_which_all_fails_ends_early_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"first 6 candidates all failed.* cannot be trained"):
        search(tmp_path, trials=50, workers=1, fail=list(range(50)))
    assert len(load_candidates(tmp_path)) == FIRST_ERRORS


def test_a_search_in_which_all_fails_on_several_workers_ends_early_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"candidates all failed.* cannot be trained"):
        search(tmp_path, trials=500, workers=2, fail=list(range(500)))
    failed = load_candidates(tmp_path)
    assert {c.worker for c in failed} == {0, 1}
    assert FIRST_ERRORS <= len(failed) < 500


def test_one_bad_node_does_not_end_a_search_before_another_has_ended_a_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nodes.py").write_text(
        """
import time

from nas.testing import FormulaEvaluator

class Nodes(FormulaEvaluator):
    def evaluate(self, candidate, report, fidelity=None):
        if candidate["worker"] == 0:
            time.sleep(0.2)
            raise RuntimeError("no such device")
        return super().evaluate(candidate, report)
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    settings = {"folder": str(tmp_path), "seconds_per_epoch": 0.2}
    with (
        closing(Study(tmp_path, small_task(), SPACE)) as study,
        LocalWorkers(2, "nodes:Nodes", settings, tmp_path / "logs") as pool,
    ):
        wait_for_idle(pool, 2)
        drive(study, pool, trials=24)
        ends = Counter(c.reason for c in study.candidates())
    assert ends["error"] > FIRST_ERRORS
    assert len(finished(load_candidates(tmp_path))) == 24 - ends["error"] >= 1


def test_a_nan_is_a_pruned_candidate(tmp_path: Path) -> None:
    candidates = search(tmp_path, trials=4, nan=[0, 2])
    assert [(c.state, c.reason) for c in candidates if c.root in (0, 2)] == [
        (State.PRUNED, "nan")
    ] * 2
    assert len(finished(candidates)) == 4


def test_the_deadline_stops_at_the_next_report(tmp_path: Path) -> None:
    begin = time.monotonic()
    candidates = search(tmp_path, limit_s=2.0, task=small_task(epochs=1000), seconds_per_epoch=0.1)
    assert time.monotonic() - begin < 4.5
    assert [c.reason for c in candidates] == ["interrupted"] * len(candidates)
    assert all(0 < len(c.curve) < 40 for c in candidates)
    with closing(Study(tmp_path, small_task(), SPACE)) as study:
        assert study.spent == 0
        again = study.ask()
    assert again is not None
    assert again.root in {c.root for c in candidates}


def test_the_time_for_the_best_is_given_to_a_search_in_which_none_is_complete(
    tmp_path: Path,
) -> None:
    """An epoch takes half a second, and a candidate two: the first deadline is too early."""
    slow = {"task": small_task(epochs=4), "workers": 1, "seconds_per_epoch": 0.5}
    begin = time.monotonic()
    candidates = search(tmp_path, limit_s=1.0, latest_s=60.0, **slow)  # type: ignore[arg-type]
    assert len(finished(candidates)) == 1
    assert time.monotonic() - begin < 30.0


def test_a_search_that_has_more_time_than_was_kept_goes_on_until_there_is_none(
    tmp_path: Path,
) -> None:
    begin, asked = time.monotonic(), list[float]()

    def later() -> float:
        asked.append(time.monotonic() - begin)
        return begin + 4.0

    slow = {"task": small_task(epochs=2), "workers": 1, "seconds_per_epoch": 0.1}
    search(tmp_path, limit_s=1.0, later=later, **slow)  # type: ignore[arg-type]
    assert 4.0 < time.monotonic() - begin < 9.0
    assert len(asked) == 2, "when the first deadline has come, and when the second has"


def test_the_deadline_ends_workers_that_do_not_report(tmp_path: Path) -> None:
    begin = time.monotonic()
    candidates = search(tmp_path, limit_s=1.5, workers=1, seconds_per_epoch=60.0)
    assert time.monotonic() - begin < 8.0
    assert [c.reason for c in candidates] == ["interrupted"]


def test_device_hours_end_a_search_and_are_kept_over_a_resume(tmp_path: Path) -> None:
    """Two workers with half a GPU each spend a GPU's seconds as fast as the clock does, and a
    training takes two: the first ones are cut off, and finished when there is more to spend."""

    def begun(gpu_s: float) -> list[Candidate]:
        budget = Budget(None, gpu_hours=gpu_s / 3600, workers=2, gpus=0.5)
        task = replace(small_task(epochs=20), budget=budget)
        return search(tmp_path, task=task, seconds_per_epoch=0.1)

    def spent(candidates: list[Candidate]) -> float:
        return sum(0.5 * c.seconds for c in candidates)

    first = begun(1.0)
    assert 0.5 < spent(first) < 2.0
    assert [c.reason for c in first] == ["interrupted"] * 2
    assert not finished(begun(1.0))  # nothing is left but the way to the workers and back
    more = begun(4.5)
    assert 4.2 < spent(more) < 6.0
    assert {0, 1} <= {c.root for c in finished(more)}


def test_one_that_waits_for_a_machine_spends_no_device_hours(tmp_path: Path) -> None:
    class Waiting(LocalWorkers):
        def begun(self) -> list[Any]:
            return []

    task = replace(small_task(), budget=Budget(None, cpu_hours=0.01 / 3600))
    settings = {"folder": str(tmp_path), "seconds_per_epoch": 60.0}
    with (
        closing(Study(tmp_path, task, SPACE)) as study,
        Waiting(1, EVALUATOR, settings, tmp_path / "logs") as pool,
    ):
        drive(study, pool, deadline=time.monotonic() + 4.0)
    [candidate] = load_candidates(tmp_path)
    assert (candidate.reason, candidate.seconds) == ("interrupted", 0.0)


def test_calls_come_first_and_once_and_their_failure_is_reported(tmp_path: Path) -> None:
    results = []
    with (
        closing(Study(tmp_path, small_task(), SPACE)) as study,
        LocalWorkers(1, EVALUATOR, {"folder": str(tmp_path)}, tmp_path / "logs") as pool,
    ):
        on_result = lambda method, value: results.append((method, len(study.candidates())))  # noqa: E731
        drive(study, pool, trials=2, calls={"baselines": {}}, on_result=on_result)
        assert results == [("baselines", 0)]
        best = study.front()[0]
        latency = pool.call_alone("latency", candidate=best.to_dict(), on_wait=lambda _: None)
        assert latency["isolated"]
        failed = []
        drive(study, pool, trials=3, calls={"nothing": {}}, on_result=lambda *it: failed.append(it))
        [(method, error)] = failed
        assert method == "nothing"
        assert "nothing failed: AttributeError" in str(error)


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_call_whose_worker_is_lost_is_made_once_more(
    deaths: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "falling.py").write_text(
        f"""
import os
from nas.testing import FormulaEvaluator

class Falling(FormulaEvaluator):
    def baselines(self, report, **limits):
        if any(self._is_first(f"death-{{n}}") for n in range({deaths})):
            os._exit(3)
        return super().baselines(report)
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    settings, results = {"folder": str(tmp_path)}, list[Any]()
    with (
        closing(Study(tmp_path, small_task(), SPACE)) as study,
        LocalWorkers(1, "falling:Falling", settings, tmp_path / "logs") as pool,
    ):
        on_result = lambda method, value: results.append(value)  # noqa: E731
        drive(study, pool, trials=2, calls={"baselines": {}}, on_result=on_result)
    [value] = results
    if deaths == 1:
        assert value[0]["name"] == "majority"
    else:
        assert "baselines failed: its worker ended with code 3" in str(value)
    assert len(finished(load_candidates(tmp_path))) == 2


def test_a_call_says_how_far_it_is(tmp_path: Path) -> None:
    said: list[tuple[str, int]] = []
    with (
        closing(Study(tmp_path, small_task(), SPACE)) as study,
        LocalWorkers(1, EVALUATOR, {"folder": str(tmp_path)}, tmp_path / "logs") as pool,
    ):
        configs = [SPACE.baseline()] * 8
        calls = {"costs": {"configs": configs, "limit_s": None}}
        drive(study, pool, trials=1, calls=calls, on_report=lambda *it: said.append(it))
    assert said[0] == ("costs", 4)


@pytest.mark.parametrize("costing", ["fail", "die"])
def test_costs_that_cannot_be_measured_beforehand_do_not_end_a_search(
    tmp_path: Path, costing: str
) -> None:
    candidates = search(tmp_path, trials=16, costing=costing)
    assert len(finished(candidates)) == 16


def test_a_budget_of_trials_counts_those_whose_costs_are_being_measured(tmp_path: Path) -> None:
    """Of four workers that are idle at once three find the last trial spent by a shortlist."""
    assert len(search(tmp_path, trials=16)) == 16
    costs = tmp_path / "costs.jsonl"
    for trials in (17, 18):
        before = costs.read_text().count("\n") if costs.exists() else 0
        assert len(search(tmp_path, trials=trials, workers=4, lockstep=True)) == trials
        assert costs.read_text().count("\n") > before, "there was no shortlist"


def test_a_search_in_which_none_keeps_a_limit_is_given_up_and_may_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strict.py").write_text(
        """
from dataclasses import replace
from nas.candidate import Candidate, State
from nas.testing import FormulaEvaluator, formula

class Strict(FormulaEvaluator):
    def evaluate(self, candidate, report, fidelity=None):
        now = Candidate.from_dict(candidate)
        if now.root == 19:
            return super().evaluate(candidate, report)
        costs = {"params": formula(now.config, 1)["params"]}
        return replace(now, state=State.PRUNED, reason="infeasible", metrics=costs).to_dict()
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(loop, "FIRST_INFEASIBLE", 8)
    task = small_task(constraints=["params<=1"], epochs=1)
    settings = {"folder": str(tmp_path)}
    ended = []
    for _ in range(3):
        with (
            closing(Study(tmp_path, task, SPACE)) as study,
            LocalWorkers(1, "strict:Strict", settings, tmp_path / "logs") as pool,
        ):
            drive(study, pool, trials=24)
            ended.append(len(study.candidates()))
    # The third search has one that ends otherwise, and goes on to the end of its budget.
    assert ended == [8, 16, 24]


def test_calls_to_all_workers_come_back_in_order_with_their_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uneven.py").write_text(
        """
import os, time

class Uneven:
    def square(self, x, report):
        if x == 1:
            raise ValueError("one is too few")
        if x == 2:
            os._exit(3)
        time.sleep(0.3 * (x == 0))
        return x * x
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for lockstep in (False, True):
        counts: list[int] = []
        with LocalWorkers(2, "uneven:Uneven", {}, tmp_path / "logs", lockstep=lockstep) as pool:
            calls = [{"x": x} for x in range(6)]
            zero, one, two, *others = pool.map("square", calls, on_wait=counts.append)
        assert (zero, others) == (0, [9, 16, 25])
        assert "square failed: ValueError: one is too few" in str(one)
        assert "square failed: its worker ended with code 3" in str(two)
        assert counts == sorted(counts)
        assert counts[-1] == 6


def test_a_call_waits_until_no_worker_is_starting(tmp_path: Path) -> None:
    with LocalWorkers(2, EVALUATOR, {"folder": str(tmp_path)}, tmp_path / "logs") as pool:
        candidate = {"number": 0, "family": "plain", "config": {"width": 8}, "seed": 0}
        pool.call_alone("latency", candidate=candidate, on_wait=lambda _: None)
        pool.kill(1)
        list(pool.events(timeout=5.0))
        assert pool.idle() == [0]
        pool.call_alone("latency", candidate=candidate, on_wait=lambda _: None)
        assert pool.idle() == [0, 1]


def test_a_worker_takes_nothing_from_the_folder_it_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong queue')")
    monkeypatch.chdir(tmp_path)
    with LocalWorkers(1, EVALUATOR, {"folder": str(tmp_path)}, tmp_path / "logs") as pool:
        candidate = {"number": 0, "family": "plain", "config": {"width": 8}, "seed": 0}
        assert pool.call_alone("latency", candidate=candidate, on_wait=lambda _: None)["isolated"]


# -- workers that hang ---------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SILENCE_S", 3.0)
    monkeypatch.setattr(workers, "SILENCE_FACTOR", 0.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked under Linux alone")
@pytest.mark.parametrize("longest_s", [60.0, 0.0])
def test_an_import_may_take_longer_than_a_worker_may_be_silent(
    longest_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All workers wait for one import of torch, which a shared drive may take minutes for."""
    (tmp_path / "imported.py").write_text(
        """
import time
time.sleep(6)

class Late:
    def double(self, x, report):
        return 2 * x
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("nas.search.local.MAX_SILENCE_S", longest_s)
    ends = nullcontext() if longest_s else pytest.raises(InputError, match="die while they start")
    with LocalWorkers(4, "imported:Late", {}, tmp_path / "logs") as pool, ends:
        assert pool.call_alone("double", x=2, on_wait=lambda _: None) == 4


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("fault", "limit_s"), [("stop_once", None), ("hang_once", 60.0)])
def test_a_worker_that_hangs_costs_its_candidate_one_attempt(
    tmp_path: Path, fault: str, limit_s: float | None
) -> None:
    begin = time.monotonic()
    candidates = search(tmp_path, trials=6, limit_s=limit_s, **{fault: [1]})
    assert time.monotonic() - begin < 30.0
    [lost] = [c for c in candidates if c.reason == "lost"]
    assert lost.root == 1
    assert re.fullmatch(r"its worker gave no sign of life for \d+ s", lost.detail)
    assert len(finished(candidates)) == 6
    assert trained(tmp_path)["begin 1"] == 2


@pytest.mark.usefixtures("impatient")
def test_one_that_hangs_each_time_is_left_alone_after_the_second(tmp_path: Path) -> None:
    candidates = search(tmp_path, trials=4, hang=[0])
    assert [c.root for c in candidates if c.reason == "lost"] == [0, 0]
    assert len(finished(candidates)) == 3


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["stop", "hang"])
def test_a_latency_that_hangs_is_one_line_and_the_next_is_measured(
    tmp_path: Path, how: str
) -> None:
    settings = {"folder": str(tmp_path), "measuring": how}
    candidate = {"number": 0, "family": "plain", "config": {"width": 8}, "seed": 0}
    with LocalWorkers(2, EVALUATOR, settings, tmp_path / "logs") as pool:
        with pytest.raises(InputError, match="latency failed: its worker gave no sign of life"):
            pool.call_alone("latency", candidate=candidate, on_wait=lambda _: None)
        again = pool.call_alone("latency", candidate=candidate, on_wait=lambda _: None)
    assert again["isolated"]


def test_a_call_is_over_at_its_deadline_whatever_its_worker_does(tmp_path: Path) -> None:
    settings = {"folder": str(tmp_path), "measuring": "hang"}
    candidate = {"number": 0, "family": "plain", "config": {"width": 8}, "seed": 0}
    with LocalWorkers(1, EVALUATOR, settings, tmp_path / "logs") as pool:
        pool.call_alone("baselines", on_wait=lambda _: None)
        begin = time.monotonic()
        with pytest.raises(InputError, match="latency was not over when its time was"):
            pool.call_alone(
                "latency", candidate=candidate, on_wait=lambda _: None, deadline=begin + 1.0
            )
        assert time.monotonic() - begin < 3.0


@pytest.mark.usefixtures("impatient")
def test_workers_that_stop_while_they_start_end_the_search(tmp_path: Path) -> None:
    message = r"workers die while they start: its worker gave no sign of life for \d+ s \(see"
    with pytest.raises(InputError, match=message):
        search(tmp_path, trials=4, workers=4, start="stop")


@pytest.mark.usefixtures("impatient")
def test_slow_steps_and_a_wait_for_others_are_no_hang(tmp_path: Path) -> None:
    """Without a report for long: one that computes, and one that waits for its round."""
    (tmp_path / "slow.py").write_text(
        """
import time
from nas import heartbeat

class Slow:
    def compute(self, report):
        end = time.monotonic() + 5
        while time.monotonic() < end:
            sum(range(20_000_000))
        return "computed"

    def wait(self, report):
        with heartbeat.waiting():
            time.sleep(5)
        return "waited"

    def step(self, report):
        for _ in range(10):
            heartbeat.step()
            time.sleep(0.5)
        return "stepped"
"""
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        with LocalWorkers(3, "slow:Slow", {}, tmp_path / "logs") as pool:
            methods = ("compute", "wait", "step")
            while len(pool.idle()) < 3:
                list(pool.events(timeout=0.5))
            for index, method in enumerate(methods):
                pool.call(index, method, method)
            results = []
            while len(results) < 3:
                results += [e.content.get("value", e.content) for e in pool.events(timeout=0.5)]
    assert sorted(results) == ["computed", "stepped", "waited"]


def test_a_driver_that_was_stopped_itself_ends_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SILENCE_S", 2.0)
    with LocalWorkers(1, EVALUATOR, {"folder": str(tmp_path)}, tmp_path / "logs") as pool:
        while not pool.idle():
            list(pool.events(timeout=0.5))
        candidate = {"number": 0, "family": "plain", "config": {"width": 8}, "seed": 0, "epochs": 1}
        pool.call(0, "job", "evaluate", candidate=candidate)
        kinds, end, stopped = [""], time.monotonic() + 30.0, False
        while time.monotonic() < end and kinds[-1] not in ("result", "lost"):
            for event in pool.events(timeout=0.1):
                kinds.append(event.kind)
                if event.kind == "report":
                    pool.answer(0, "")
            if not stopped:
                time.sleep(4.0)
                stopped = True
    assert kinds[-1] == "result"


def test_a_stopped_worker_that_takes_no_messages_does_not_stop_the_driver(tmp_path: Path) -> None:
    with LocalWorkers(1, EVALUATOR, {"folder": str(tmp_path)}, tmp_path / "logs") as pool:
        while not pool.idle():
            list(pool.events(timeout=0.5))
        os.kill(pool._workers[0].process.pid or 0, signal.SIGSTOP)
        begin = time.monotonic()
        pool.call(0, "job", "latencies", candidates=["x" * 1_000_000])  # more than a pipe holds
        list(pool.events(timeout=0.1))
        assert time.monotonic() - begin < 2.0
        pool.kill(0)
        [lost] = [e for _ in range(10) for e in pool.events(timeout=0.5) if e.kind == "lost"]
    assert lost.job == "job"


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked under Linux alone")
def test_workers_are_forked_from_one_import_and_from_another_where_that_is_killed(
    tmp_path: Path,
) -> None:
    with LocalWorkers(2, EVALUATOR, {"folder": str(tmp_path)}, tmp_path / "logs") as pool:
        wait_for_idle(pool, 2)
        assert pool._forks._server is not None
        server = pool._forks._server.process.pid
        parents = [Path(f"/proc/{w.process.pid}/stat").read_text() for w in pool._workers]
        assert [int(stat.rpartition(")")[2].split()[1]) for stat in parents] == [server] * 2
        os.kill(server, signal.SIGKILL)
        pool.kill(0)
        [lost] = [e for _ in range(20) for e in pool.events(timeout=0.5) if e.kind == "lost"]
        assert lost.worker == 0
        wait_for_idle(pool, 2)
        assert pool._forks._server.process.pid != server


def wait_for_idle(pool: LocalWorkers, count: int) -> None:
    end = time.monotonic() + 60.0
    while len(pool.idle()) < count and time.monotonic() < end:
        list(pool.events(timeout=0.5))
    assert len(pool.idle()) == count


# -- order ---------------------------------------------------------------------------------


def outcome(candidates: list[Candidate]) -> list[tuple[Any, ...]]:
    """All of a study that does not come from a clock."""
    return [
        (c.number, c.root, c.worker, c.family, c.config, c.seed, c.state, c.reason, c.metrics)
        for c in candidates
    ]


def test_in_lockstep_a_study_does_not_depend_on_how_fast_its_workers_are(tmp_path: Path) -> None:
    def run(name: str, *, lockstep: bool) -> list[tuple[Any, ...]]:
        (tmp_path / name).mkdir()
        task = small_task(epochs=9)  # two rungs
        return outcome(
            search(
                tmp_path / name,
                trials=24,
                workers=3,
                task=task,
                jitter=0.02,
                die_once=[0],
                lockstep=lockstep,
            )
        )

    first = run("first", lockstep=True)
    assert run("second", lockstep=True) == first
    reasons = Counter(row[7] for row in first)
    assert reasons["halving"] >= 3
    assert reasons["lost"] == 1
    assert run("as it comes", lockstep=False) != first


# -- the driver is interrupted or killed ---------------------------------------------------

# A shell that starts the tests in the background has them ignore SIGINT.
DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_local import search, small_task
try:
    search(Path({folder!r}), trials={trials}, task=small_task(epochs=4), seconds_per_epoch={pace})
except KeyboardInterrupt:
    sys.exit(130)
"""


def driver(folder: Path, trials: int, pace: float = 0.03) -> subprocess.Popen[bytes]:
    script = DRIVER.format(
        tests=str(Path(__file__).parent), folder=str(folder), trials=trials, pace=pace
    )
    return subprocess.Popen([sys.executable, "-c", script])


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def workers_of(folder: Path) -> list[int]:
    """Processes whose standard error is a worker's log in ``folder``."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                log = os.readlink(process / "fd" / "2")
            except OSError:
                continue
            if log.startswith(str(folder / "logs")):
                found.append(int(process.name))
    return found


def test_ctrl_c_keeps_what_is_finished_and_queues_the_rest(tmp_path: Path) -> None:
    process = driver(tmp_path, trials=1000)
    wait_for(lambda: trained(tmp_path).total() > 12)
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
    candidates = load_candidates(tmp_path)
    assert Counter(c.reason for c in candidates)["interrupted"] <= 2
    assert not [c for c in candidates if c.state == State.RUNNING]
    assert len(finished(candidates)) >= 4
    cut = {c.root for c in candidates if c.reason == "interrupted"}
    candidates = search(tmp_path, trials=len(candidates) + 2)
    assert cut <= {c.root for c in finished(candidates)}
    # A worker may have ended one that the driver did not know of yet.
    twice = {int(line.split()[1]) for line, n in trained(tmp_path).items() if n > 1}
    assert twice <= cut


def test_a_signal_to_all_processes_ends_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As systemd and Slurm send it. Lightning has a handler of its own while it trains."""
    (tmp_path / "handling.py").write_text(
        """
import os, signal, sys
from nas.testing import FormulaEvaluator

class Handling(FormulaEvaluator):
    def evaluate(self, candidate, report, fidelity=None):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        os.kill(os.getpid(), signal.SIGTERM)
        return super().evaluate(candidate, report)
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        closing(Study(tmp_path, small_task(), SPACE)) as study,
        LocalWorkers(1, "handling:Handling", {"folder": str(tmp_path)}, tmp_path / "logs") as pool,
    ):
        drive(study, pool, trials=2)
    assert len(finished(load_candidates(tmp_path))) == 2


class _Signalled(_Reporting):
    """One signal reaches the driver and ends all workers, as on a cluster."""

    def __init__(self) -> None:
        super().__init__()
        self._is_sent = False

    def _happened(self, timeout: float) -> Iterator[workers.Event]:
        for worker in self._workers:
            if worker.job is not None:
                if not self._is_sent:
                    self._is_sent = True
                    signal.raise_signal(signal.SIGTERM)
                job, worker.job = worker.job, None
                yield workers.Event("lost", worker.index, job, {"detail": "its actor is gone"})


def test_workers_that_a_signal_ends_with_the_driver_cost_no_candidate_an_attempt(
    tmp_path: Path,
) -> None:
    kept = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command does
    try:
        with closing(Study(tmp_path, small_task(), SPACE)) as study:
            with pytest.raises(KeyboardInterrupt):
                drive(study, _Signalled(), trials=3)
            assert {c.reason for c in study.candidates()} == {"interrupted"}
            assert study.waiting
    finally:
        signal.signal(signal.SIGTERM, kept)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks processes up in /proc")
def test_a_killed_driver_takes_its_workers_along_and_a_resume_repeats_nothing(
    tmp_path: Path,
) -> None:
    for wanted in (6, 12):
        process = driver(tmp_path, trials=1000)
        wait_for(
            lambda wanted=wanted: sum("end" in x for x in trained(tmp_path).elements()) > wanted
        )
        assert len(workers_of(tmp_path)) == 2
        process.kill()
        process.wait()
        wait_for(lambda: not workers_of(tmp_path), seconds=2.0)
    before = load_candidates(tmp_path)
    kept = {c.root: c for c in finished(before)}
    assert len(kept) >= 10
    running = {c.root for c in before if c.state == State.RUNNING}
    candidates = search(tmp_path, trials=len(kept) + len(running) + 2)
    after = {c.root: c for c in finished(candidates)}
    assert {root: after[root] for root in kept} == kept
    assert running <= set(after)
    counted = trained(tmp_path)
    # One whose worker had just ended it when the driver died may be trained again.
    again = [root for root in kept if counted[f"begin {root}"] > 1 and root not in running]
    assert all(any(c.root == root and c.reason for c in before) for root in again)
    assert len({config_key(c.family, c.config) for c in after.values()}) == len(after)
