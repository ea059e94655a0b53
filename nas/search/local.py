"""What an executor is, the local one (worker processes on this machine), and the loop that
keeps the workers of any executor busy."""

from __future__ import annotations

import json
import math
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nas.candidate import Candidate, State
from nas.task import InputError

if TYPE_CHECKING:
    from nas.search.study import Study

# So many errors and nothing else: the fault is not one candidate's.
FIRST_ERRORS = 6
# So many over a limit and nothing else, with a sampler that learns by how much: give up.
FIRST_INFEASIBLE = 40
# Workers in a row that die before they are ready: none will ever be.
FAILED_STARTS = 4
GRACE_S = 3.0  # after the deadline, for a candidate to hear of it
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Worker:
    index: int
    ready: bool = False
    job: Any = None  # what it works on; None when idle


@dataclass(frozen=True)
class Event:
    """``kind``: ready, report, result, error, or lost (the process is gone)."""

    kind: str
    worker: int
    job: Any = None
    content: dict[str, Any] = field(default_factory=dict)


class Workers:
    """A fixed number of workers, each with an evaluator of its own; what all executors share.

    An executor starts them in ``self._workers`` and says how they are called, answered, killed
    and heard (``_happened``). A worker that dies is replaced; where none comes to life
    ``events`` raises InputError.

    Events come as they happen. In ``lockstep`` they come in rounds, which do not depend on how
    fast a worker is: one event of each busy worker, by its number, when all have theirs; and
    nobody is idle before the round is over.
    """

    def __init__(self, lockstep: bool = False) -> None:
        self._lockstep = lockstep
        self._round: dict[int, Event] = {}
        self._workers: Sequence[Worker] = ()
        self._lived = False  # whether any has ever been ready
        self._failed_starts = 0

    def call(self, index: int, job: Any, method: str, **arguments: Any) -> None:
        """Have an idle worker run a method of its evaluator; ``job`` names it in events."""
        raise NotImplementedError

    def answer(self, index: int, answer: str) -> None:
        """Answer a report: "" to go on, or why to stop."""
        raise NotImplementedError

    def kill(self, index: int) -> None:
        """End a worker that does not listen; its job comes back as a lost event."""
        raise NotImplementedError

    def close(self) -> None:
        """End all workers and wait for them."""
        raise NotImplementedError

    def _happened(self, timeout: float) -> Iterator[Event]:
        raise NotImplementedError

    def _place(self, index: int) -> str:
        """Where to read more of a worker, for the end of an error message."""
        return ""

    def events(self, timeout: float) -> Iterator[Event]:
        """What has happened; waits up to ``timeout`` seconds for the first."""
        for event in self._happened(timeout):
            if not self._lockstep or event.job is None:
                yield event
            else:
                self._round[event.worker] = event
        if all(w.ready and (w.job is None or w.index in self._round) for w in self._workers):
            over, self._round = self._round, {}
            for index in sorted(over):
                yield over[index]

    def idle(self) -> list[int]:
        if self._lockstep and (self._round or not all(w.ready for w in self._workers)):
            return []
        return [w.index for w in self._workers if w.ready and w.job is None]

    def busy(self) -> list[int]:
        return [w.index for w in self._workers if w.job is not None or w.index in self._round]

    def jobs(self) -> list[Any]:
        """What the busy workers are at."""
        return [w.job for w in self._workers if w.job is not None]

    def ask(self, method: str, *, on_wait: Callable[[Self], None], **arguments: Any) -> Any:
        """Call the first worker while the others rest, and return its result.

        One that is still starting does not rest: it would disturb a measurement of time.
        """
        while len(self.idle()) < len(self._workers):
            for _ in self.events(timeout=0.5):
                pass
        self.call(0, method, method, **arguments)
        while True:
            for event in self.events(timeout=0.5):
                if event.job == method and event.kind == "result":
                    return event.content["value"]
                if event.job == method:
                    raise self.failure(event)
            on_wait(self)

    def map(
        self,
        method: str,
        calls: Sequence[dict[str, Any]],
        *,
        on_wait: Callable[[int], None],
    ) -> list[Any]:
        """Call a method once with each of ``calls``, on all workers, and return the results in
        their order. An InputError stands where a call failed or took its worker with it.
        ``on_wait`` hears how many are over."""
        results: dict[int, Any] = {}
        waiting = list(range(len(calls)))
        while len(results) < len(calls):
            for index in self.idle()[: len(waiting)]:
                number = waiting.pop(0)
                self.call(index, number, method, **calls[number])
            for event in self.events(timeout=0.5):
                if event.kind == "result":
                    results[event.job] = event.content["value"]
                elif event.job is not None:
                    results[event.job] = self.failure(event, f"{method} failed")
            on_wait(len(results))
        return [results[number] for number in range(len(calls))]

    def failure(self, event: Event, what: str | None = None) -> InputError:
        """The error to raise where ``event`` leaves the search without a way on."""
        what = what or f"{event.job} failed"
        return InputError(f"{what}: {_last_line(_trouble(event))}{self._place(event.worker)}")

    def _came_to_life(self) -> None:
        self._lived, self._failed_starts = True, 0

    def _broke(self, event: Event) -> None:
        """Raise InputError where a worker cannot build its evaluator and none ever has: the next
        would fail alike. Later it is one that died, of what may pass, like a lack of memory."""
        if not self._lived:
            raise self.failure(event, "a worker could not start")

    def _died(self, event: Event, started: bool) -> None:
        """Count a lost worker; raise InputError where none comes to life."""
        self._failed_starts += not started
        if self._failed_starts >= FAILED_STARTS:
            raise self.failure(event, "workers die while they start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class _Process(Worker):
    process: subprocess.Popen[bytes] = field(kw_only=True)
    buffer: bytes = b""

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        # One that has just died is handled where its closed output is noticed.
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()


class LocalWorkers(Workers):
    """Worker processes with one compute thread each.

    ``evaluator`` names a class as MODULE:NAME; each worker calls it once with
    ``settings``. With ``gpus`` (as CUDA_VISIBLE_DEVICES names them) each sees one, in
    turn, as its only GPU. They sit in process groups of their own, so that a Ctrl-C at the
    terminal reaches the driver alone.
    """

    _workers: list[_Process]

    def __init__(
        self,
        count: int,
        evaluator: str,
        settings: dict[str, Any],
        logs: Path,
        gpus: Sequence[str] = (),
        lockstep: bool = False,
    ) -> None:
        super().__init__(lockstep)
        self._evaluator, self._settings, self._logs = evaluator, settings, logs
        self._selector = selectors.DefaultSelector()
        self._gpus = gpus
        logs.mkdir(parents=True, exist_ok=True)
        self._workers = [self._start(index) for index in range(count)]

    def _start(self, index: int) -> _Process:
        environment = os.environ | dict.fromkeys(_THREADS, "1")
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[index % len(self._gpus)]
        with (self._logs / f"worker-{index}.log").open("ab") as log:
            process = subprocess.Popen(
                # -P: a torch.py in the folder where the user happens to be is not torch.
                [sys.executable, "-P", "-m", "nas.search.worker", self._evaluator],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        worker = _Process(index, process=process)
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        worker.send({"settings": self._settings})
        return worker

    def log(self, index: int) -> Path:
        return self._logs / f"worker-{index}.log"

    def _place(self, index: int) -> str:
        return f" (see {self.log(index)})"

    def call(self, index: int, job: Any, method: str, **arguments: Any) -> None:
        worker = self._workers[index]
        worker.job = job
        worker.send({"method": method, "arguments": arguments})

    def answer(self, index: int, answer: str) -> None:
        self._workers[index].send({"answer": answer})

    def kill(self, index: int) -> None:
        self._workers[index].process.kill()

    def _happened(self, timeout: float) -> Iterator[Event]:
        for key, _ in self._selector.select(timeout):
            worker: _Process = key.data
            chunk = worker.process.stdout.read()  # type: ignore[union-attr]  # a pipe, see _start
            if chunk:
                *lines, worker.buffer = (worker.buffer + chunk).split(b"\n")
                for line in lines:
                    yield self._event(worker, json.loads(line))
            elif chunk == b"":
                yield self._lost(worker)

    def _event(self, worker: _Process, content: dict[str, Any]) -> Event:
        kind = content.pop("event")
        event = Event(kind, worker.index, worker.job, content)
        if kind == "broken":
            self._broke(event)
            worker.process.kill()
            return self._lost(worker, content["error"])
        if kind == "ready":
            worker.ready = True
            self._came_to_life()
        elif kind in ("result", "error"):
            worker.job = None
        return event

    def _lost(self, worker: _Process, detail: str = "") -> Event:
        code = worker.process.wait()
        detail = detail or f"its worker ended with code {code}"
        event = Event("lost", worker.index, worker.job, {"detail": detail})
        self._died(event, started=worker.ready)
        self._retire(worker)
        self._workers[worker.index] = self._start(worker.index)
        return event

    def _retire(self, worker: _Process) -> None:
        self._selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
        for pipe in (worker.process.stdin, worker.process.stdout):
            with suppress(BrokenPipeError):  # bytes that were meant for a dead worker
                pipe.close()  # type: ignore[union-attr]

    def close(self) -> None:
        for worker in self._workers:
            self._retire(worker)
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()


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
    earlier = _all_ended(study, "infeasible")
    end = math.inf if deadline is None else deadline

    def listed() -> list[Shortlist]:
        return [job for job in workers.jobs() if isinstance(job, Shortlist)]

    def done() -> bool:
        spent = trials is not None and study.spent + len(listed()) >= trials
        hopeless = _all_ended(study, "infeasible") >= earlier + FIRST_INFEASIBLE
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
        workers.answer(event.worker, "interrupted" if stop else verdict)
    elif event.kind == "result":
        finished = Candidate.from_dict(event.content["value"])
        if finished.reason == "interrupted":
            study.requeue(finished)
        study.tell(finished)
    elif event.kind == "error":
        _give_up(study, candidate, "error", event.content["error"])
        if (errors := _all_ended(study, "error")) >= FIRST_ERRORS:
            last = _last_line(event.content["error"])
            raise InputError(f"the first {errors} candidates all failed, the last with: {last}")
    elif late:
        _give_up(study, candidate, "interrupted", "the budget was spent while in training")
    else:
        _give_up(study, candidate, "lost", _trouble(event))


def _give_up(study: Study, candidate: Candidate, reason: str, detail: str) -> None:
    lost = any(c.root == candidate.root and c.reason == "lost" for c in study.candidates())
    failed = replace(
        study[candidate.number],
        state=State.FAILED,
        reason=reason,
        detail=detail,
        seconds=max(0.0, time.time() - candidate.started),
    )
    # A configuration that takes its worker with it a second time is left alone.
    if reason == "interrupted" or (reason == "lost" and not lost):
        study.requeue(failed)
    study.tell(failed)


def _all_ended(study: Study, reason: str) -> int:
    """How many candidates have ended where all did so for ``reason``; else 0."""
    no_fault = study.ended["duplicate"] + study.ended["interrupted"]
    same = study.ended[reason] == study.ended.total() - no_fault
    return study.ended[reason] if same else 0


def _trouble(event: Event) -> str:
    """What went wrong, of an event that is an error or a lost worker."""
    return str(event.content.get("error") or event.content["detail"])


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]
