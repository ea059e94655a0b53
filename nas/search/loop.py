"""The loop of a search: keeps the workers of any executor busy with a study's candidates."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from threadpoolctl import threadpool_limits

from nas.candidate import Candidate, Reason, State
from nas.search.samplers import Shortlist
from nas.search.study import Study
from nas.search.workers import Event, Workers, last_line
from nas.space import Config
from nas.task import InputError

# So many errors and nothing else, on all workers: the fault is not one candidate's.
FIRST_ERRORS = 6
# So many over a limit and nothing else, with a sampler that learns by how much: give up.
FIRST_INFEASIBLE = 40
# After the deadline, for a candidate to be answered "stop" at its next report.
GRACE_S = 3.0


def drive(
    study: Study,
    workers: Workers,
    *,
    deadline: float | None = None,
    latest: float | None = None,
    later: Callable[[], float] = lambda: -math.inf,
    trials: int | None = None,
    calls: Mapping[str, dict[str, Any]] | None = None,
    on_end: Callable[[Candidate], None] = lambda candidate: None,
    on_result: Callable[[str, Any], None] = lambda method, value: None,
    on_report: Callable[[str, int], None] = lambda method, done: None,
    on_event: Callable[[Workers], None] = lambda workers: None,
) -> None:
    """Keep the workers busy with candidates until ``trials`` are spent, ``deadline`` (of
    ``time.monotonic``) has come, or the study is out of device-hours; candidates in training
    are stopped by the last two. As long as none is complete, the deadline is ``latest``; when it
    has come, ``later`` may give another one. Ends early where the space is exhausted, or the first
    ``FIRST_INFEASIBLE`` are all over a limit.

    ``calls`` are methods of the evaluator, with their arguments, that a worker runs once,
    before candidates, and once more where that worker is lost; ``on_report`` receives how far one
    is that says so. ``on_end`` receives each candidate whose worker gave its result, as it is
    stored.
    Raises InputError where workers cannot start, and where the first candidates all end in
    errors. On KeyboardInterrupt the candidates in training are stored as interrupted and
    queued again.
    """
    end = math.inf if deadline is None else deadline
    last = max(end, latest or end)
    also = list((calls or {}).items())
    interrupts = _Interrupts()
    loop = _Loop(
        study, workers, interrupts, trials, end, last, later, also, on_end, on_result, on_report
    )
    # The workers use the cores: with two threads of BLAS that wait for one an ask took 3 s.
    with interrupts, threadpool_limits(1):
        while not interrupts.noted:
            if loop.turn() and not interrupts.noted:
                return
            on_event(workers)
        study.settle("stopped by the user while in training")
    raise KeyboardInterrupt


@dataclass
class _Loop:
    study: Study
    workers: Workers
    interrupts: _Interrupts
    trials: int | None
    end: float
    latest: float  # the end as long as no candidate is complete
    later: Callable[[], float]  # another end, when that has come
    calls: list[tuple[str, dict[str, Any]]]
    on_end: Callable[[Candidate], None]
    on_result: Callable[[str, Any], None]
    on_report: Callable[[str, int], None]
    late: bool = False
    exhausted: bool = False
    # A candidate whose shortlist took its worker with it: it is chosen without one.
    without_shortlist: int = -1

    def __post_init__(self) -> None:
        self._infeasible_before = _all_ended(self.study, Reason.INFEASIBLE)
        self._repeatable = dict(self.calls)  # whose worker has not been lost yet

    def turn(self) -> bool:
        """Hand out work and take what has happened; True where the search is over."""
        now = time.monotonic()
        if self.study.out_of_hours:
            self.end = self.latest = min(self.end, now)
        if self.end <= now < self.latest:
            complete = any(c.state == State.COMPLETE for c in self.study.candidates())
            self.latest = now if complete else self.latest
        if not self.late and now >= self.latest:
            self.end = self.latest = now if self.study.out_of_hours else max(now, self.later())
            self.late = self.latest <= now
        for _ in self.workers.idle():
            idle = self.workers.idle()
            if not idle or not self._assign(idle[0]):
                break
            # A proposal takes long, and who waits for an answer to a report meanwhile is idle too.
            if not self.workers.lockstep:
                for event in self.workers.events(timeout=0.0):
                    self._handle(event)
        for job in self.workers.begun():
            if isinstance(job, Candidate):
                self.study.begin(job.number)
        if self._done() and not self.workers.busy():
            return True
        if self.late and now > self.end + GRACE_S:
            for index in self.workers.busy():  # no report came in time to answer "stop"
                self.workers.kill(index)
        for event in self.workers.events(timeout=0.5):
            self._handle(event)
        return False

    def _done(self) -> bool:
        listed = len(self._shortlists())
        spent = self.trials is not None and self.study.spent + listed >= self.trials
        infeasible = _all_ended(self.study, Reason.INFEASIBLE)
        hopeless = infeasible >= self._infeasible_before + FIRST_INFEASIBLE
        return self.late or spent or hopeless or (self.exhausted and not self.study.waiting)

    def _shortlists(self) -> list[Shortlist]:
        return [job for job in self.workers.jobs() if isinstance(job, Shortlist)]

    def _assign(self, index: int) -> bool:
        """Give an idle worker something to do; False where there is nothing for any."""
        if self.calls and not self.late:
            method, arguments = self.calls.pop(0)
            self.workers.call(index, method, method, **arguments)
        elif self._done():
            return False
        elif shortlist := self._shortlist():
            limits = {"configs": shortlist.configs, "limit_s": shortlist.limit_s}
            self.workers.call(index, shortlist, "costs", **limits)
        else:
            self._train(index)
        return True

    def _shortlist(self) -> Shortlist | None:
        history = self.study.history()
        if self.study.waiting or history.number == self.without_shortlist:
            return None
        return self.study.sampler.shortlist(history, self._shortlists())

    def _train(self, index: int, preferred: Sequence[Config] = ()) -> None:
        if candidate := self.study.ask(index, preferred):
            fidelity = self.study.task.fidelity.to_dict()
            arguments = {"candidate": candidate.to_dict(), "fidelity": fidelity}
            self.workers.call(index, candidate, "evaluate", **arguments)
        else:
            self.exhausted = True

    def _handle(self, event: Event) -> None:
        if event.kind == "lost" and self.interrupts.noted:
            return  # a signal to all processes has ended its worker too: ``settle`` queues it again
        if isinstance(event.job, Candidate):
            _handle_candidate(self.study, self.workers, event, self.late)
            if event.kind == "result":
                self.on_end(self.study[event.job.number])
        elif event.kind == "report":
            self.on_report(str(event.job), event.content["epoch"])
            self.workers.answer(event.worker, "")
        elif isinstance(event.job, Shortlist):
            self._choose(event, event.job)
        elif event.kind == "result":
            self.on_result(event.job, event.content["value"])
        elif event.kind == "lost" and event.job in self._repeatable:
            self.calls.append((event.job, self._repeatable.pop(event.job)))
        elif event.job is not None and not self.late:
            self.on_result(event.job, self.workers.failure(event))

    def _choose(self, event: Event, shortlist: Shortlist) -> None:
        """Train the best of a shortlist, now that costs are known; of one whose costs cannot be
        measured, the best by predicted costs: its training shows what is wrong."""
        if event.kind == "lost":
            self.without_shortlist = self.study.history().number
        elif not self.late:
            costs = event.content["value"] if event.kind == "result" else []
            self.study.sampler.learn_costs(shortlist.configs, costs)
            self._train(event.worker, shortlist.ranked(costs))


class _Interrupts:
    """Notes a Ctrl-C, or a terminal that is closed, instead of raising it anywhere: in the middle
    of a write, or in code that swallows exceptions, where it would be lost. A second one is
    raised at once.

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
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.default_int_handler:
                    signal.signal(number, self._note)
                    self._signals.append(number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._signals:
            signal.signal(number, signal.default_int_handler)


def _handle_candidate(study: Study, workers: Workers, event: Event, late: bool) -> None:
    candidate: Candidate = event.job
    if event.kind == "report":
        verdict = study.report(candidate.number, **event.content)
        # One that has had its last epoch is as good as finished.
        stop = late and event.content["epoch"] < candidate.epochs
        workers.answer(event.worker, Reason.INTERRUPTED if stop else verdict)
    elif event.kind == "result":
        finished = Candidate.from_dict(event.content["value"])
        if finished.reason is Reason.LOST:  # by a neighbour's fault: once more
            _give_up(study, candidate, Reason.LOST, finished.detail)
            return
        if finished.reason is Reason.INTERRUPTED:
            study.requeue(finished)
        study.tell(finished)
    elif event.kind == "error":
        _give_up(study, candidate, Reason.ERROR, event.content["error"])
        errors = _all_ended(study, Reason.ERROR)
        if errors >= FIRST_ERRORS and _on_all_workers(study, workers.count):
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
        seconds=study.training_s(candidate.number),
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


def _on_all_workers(study: Study, count: int) -> bool:
    """Whether candidates have failed on each worker that is at one, and on more than one of
    several: the fault is not one machine's."""
    candidates = study.candidates()
    failed = {c.worker for c in candidates if c.reason is Reason.ERROR}
    at_work = {c.worker for c in candidates if c.state == State.RUNNING}
    return at_work <= failed and len(failed) >= min(2, count)
