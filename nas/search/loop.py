"""The loop of a search: keeps the workers of any executor busy with a study's candidates."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from nas.candidate import Candidate, Reason, State
from nas.search.study import Study
from nas.search.workers import Event, Workers, last_line
from nas.task import InputError

# So many errors and nothing else: the fault is not one candidate's.
FIRST_ERRORS = 6
# So many over a limit and nothing else, with a sampler that learns by how much: give up.
FIRST_INFEASIBLE = 40
GRACE_S = 3.0  # after the deadline, for a candidate to hear of it


def drive(
    study: Study,
    workers: Workers,
    *,
    deadline: float | None = None,
    trials: int | None = None,
    calls: Mapping[str, dict[str, Any]] | None = None,
    on_result: Callable[[str, Any], None] = lambda method, value: None,
    on_event: Callable[[Workers], None] = lambda workers: None,
) -> None:
    """Keep the workers busy with candidates until ``trials`` are spent, ``deadline`` (of
    ``time.monotonic``) has come, or the study is out of device-hours; candidates in training
    are stopped by the last two. Ends early where the space is exhausted, or the first
    ``FIRST_INFEASIBLE`` are all over a limit.

    ``calls`` are methods of the evaluator, with their arguments, that a worker runs once,
    before candidates.
    Raises InputError where workers cannot start, and where the first candidates all end in
    errors. On KeyboardInterrupt the candidates in training are stored as interrupted and
    queued again.
    """
    from nas.search.ehvi import Shortlist  # scipy, which workers do without

    todo = list((calls or {}).items())
    late = exhausted = False
    earlier = _all_ended(study, Reason.INFEASIBLE)
    end = math.inf if deadline is None else deadline

    def listed() -> list[Shortlist]:
        return [job for job in workers.jobs() if isinstance(job, Shortlist)]

    def done() -> bool:
        spent = trials is not None and study.spent + len(listed()) >= trials
        hopeless = _all_ended(study, Reason.INFEASIBLE) >= earlier + FIRST_INFEASIBLE
        return late or spent or hopeless or (exhausted and not study.waiting)

    with _Interrupts() as interrupts:
        while not interrupts.noted:
            now = time.monotonic()
            if study.out_of_hours:
                end = min(end, now)
            late = now >= end
            for index in workers.idle():
                if todo and not late:
                    method, arguments = todo.pop(0)
                    workers.call(index, method, method, **arguments)
                elif done():
                    break
                elif shortlist := study.shortlist(listed()):
                    limits = {"configs": shortlist.configs, "limit_s": study.listing_s}
                    workers.call(index, shortlist, "costs", **limits)
                elif candidate := study.ask(index):
                    workers.call(index, candidate, "evaluate", candidate=candidate.to_dict())
                else:
                    exhausted = True
            if done() and not workers.busy():
                return
            if now > end + GRACE_S:
                for index in workers.busy():  # no report came in time to answer "stop"
                    workers.kill(index)
            for event in workers.events(timeout=0.5):
                if isinstance(event.job, Candidate):
                    _handle(study, workers, event, late)
                elif isinstance(event.job, Shortlist):
                    _choose(study, workers, event, late)
                elif event.kind == "result":
                    on_result(event.job, event.content["value"])
                elif event.job is not None and not late:
                    on_result(event.job, workers.failure(event))
            on_event(workers)
        study.settle("stopped by the user while in training")
    raise KeyboardInterrupt


class _Interrupts:
    """Notes a Ctrl-C instead of raising it anywhere: in the middle of a write, or in code
    that swallows exceptions, where it would be lost. A second one is raised at once.

    Signals that the caller handles in its own way, and other threads, are left alone.
    """

    def __init__(self) -> None:
        self.noted = False
        self._signals: list[signal.Signals] = []

    def _note(self, *_: object) -> None:
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True

    def __enter__(self) -> _Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is signal.default_int_handler:
                    signal.signal(number, self._note)
                    self._signals.append(number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._signals:
            signal.signal(number, signal.default_int_handler)


def _choose(study: Study, workers: Workers, event: Event, late: bool) -> None:
    """Train the best of a shortlist, now that costs are known; of one whose costs cannot be
    measured, the best as foretold: its training tells what is wrong."""
    if event.kind == "lost":
        study.lost_shortlist()
    elif not late:
        costs = event.content["value"] if event.kind == "result" else []
        study.learn_costs(event.job.configs, costs)
        if candidate := study.ask(event.worker, event.job.ranked(costs)):
            workers.call(event.worker, candidate, "evaluate", candidate=candidate.to_dict())


def _handle(study: Study, workers: Workers, event: Event, late: bool) -> None:
    candidate: Candidate = event.job
    if event.kind == "report":
        verdict = study.report(candidate.number, **event.content)
        # One that has had its last epoch is as good as finished.
        stop = late and event.content["epoch"] < candidate.epochs
        workers.answer(event.worker, Reason.INTERRUPTED if stop else verdict)
    elif event.kind == "result":
        finished = Candidate.from_dict(event.content["value"])
        if finished.reason is Reason.INTERRUPTED:
            study.requeue(finished)
        study.tell(finished)
    elif event.kind == "error":
        _give_up(study, candidate, Reason.ERROR, event.content["error"])
        if (errors := _all_ended(study, Reason.ERROR)) >= FIRST_ERRORS:
            last = last_line(event.content["error"])
            raise InputError(f"the first {errors} candidates all failed, the last with: {last}")
    elif late:
        _give_up(study, candidate, Reason.INTERRUPTED, "the budget was spent while in training")
    else:
        _give_up(study, candidate, Reason.LOST, event.trouble)


def _give_up(study: Study, candidate: Candidate, reason: Reason, detail: str) -> None:
    lost = any(c.root == candidate.root and c.reason is Reason.LOST for c in study.candidates())
    failed = replace(
        study[candidate.number],
        state=State.FAILED,
        reason=reason,
        detail=detail,
        seconds=max(0.0, time.time() - candidate.started),
    )
    # A configuration that takes its worker with it a second time is left alone.
    if reason is Reason.INTERRUPTED or (reason is Reason.LOST and not lost):
        study.requeue(failed)
    study.tell(failed)


def _all_ended(study: Study, reason: Reason) -> int:
    """How many candidates have ended where all did so for ``reason``; else 0."""
    no_fault = study.ended[Reason.DUPLICATE] + study.ended[Reason.INTERRUPTED]
    same = study.ended[reason] == study.ended.total() - no_fault
    return study.ended[reason] if same else 0
