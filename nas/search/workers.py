"""The contract of an executor: a fixed number of workers that run calls and report events."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from nas.task import InputError

# Workers in a row that die before they are ready, where none has ever been: none will ever be.
FAILED_STARTS = 4
# Later a start that fails is repeated after longer and longer pauses. So many in a row while no
# worker is left end the search.
RESTART_S, MAX_RESTART_S, FAILED_RESTARTS = 1.0, 60.0, 8
# A worker that works gives a sign of life each second, or when its step is over. One without a
# sign is ended after so many seconds, or so many times the longest pause between two signs so far.
SILENCE_S, SILENCE_FACTOR, MAX_SILENCE_S = 60.0, 10.0, 600.0


@dataclass
class Worker:
    index: int
    ready: bool = False
    job: Any = None  # what it works on; None when idle
    signed_at: float = field(default_factory=time.monotonic)  # its last sign of life
    ended_because: str = ""  # why it is being ended, where that was the driver's decision
    start_at: float = 0.0  # when a start that failed is repeated; 0 where it runs

    @property
    def is_resting(self) -> bool:
        return self.job is None and bool(self.ready or self.start_at)


@dataclass(frozen=True)
class Event:
    """``kind``: ready, report, result, error, or lost (the process is gone)."""

    kind: str
    worker: int
    job: Any = None
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def trouble(self) -> str:
        """What went wrong, of an event that is an error or a lost worker."""
        return str(self.content.get("error") or self.content["detail"])


class Workers:
    """A fixed number of workers, each with an evaluator of its own; what all executors share.

    An executor starts them in ``self._workers`` and says how they are called, answered, killed
    and listened to (``_happened``). A worker that dies is replaced, and so is one that works and
    gives no sign of life; where none starts ``events`` raises InputError.

    Events come as they happen. In ``lockstep`` they come in rounds, which do not depend on how
    fast a worker is: one event of each busy worker, by its number, when all have theirs; and
    nobody is idle before the round is over.
    """

    def __init__(self, lockstep: bool = False) -> None:
        self.lockstep = lockstep
        self._round: dict[int, Event] = {}
        self._workers: Sequence[Worker] = ()
        self._lived = False  # whether any has ever been ready
        self._failed_starts = 0
        self._longest_silence = 0.0
        self._watched_at = math.inf

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
        self._watch(timeout)
        for event in self._happened(timeout):
            if not self.lockstep or event.job is None:
                yield event
            else:
                self._round[event.worker] = event
        if all(w.ready and (w.job is None or w.index in self._round) for w in self._workers):
            over, self._round = self._round, {}
            for index in sorted(over):
                yield over[index]

    @property
    def count(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    @property
    def ready(self) -> int:
        """How many workers are ready; the others are still starting."""
        return sum(worker.ready for worker in self._workers)

    # -- signs of life -------------------------------------------------------------------

    def _signs(self, worker: Worker) -> None:
        """Take note of a sign of life."""
        now = time.monotonic()
        if worker.ready and worker.job is not None:
            self._longest_silence = max(self._longest_silence, now - worker.signed_at)
        worker.signed_at = now

    def _is_watched(self, worker: Worker) -> bool:
        """Whether a worker has to give signs of life: while it starts and while it works."""
        return not worker.start_at and (not worker.ready or worker.job is not None)

    def _is_alive(self, worker: Worker) -> bool:
        return worker.ready

    def _watch(self, timeout: float) -> None:
        """End workers without a sign of life. Time in which the driver itself did not listen
        does not count."""
        now = time.monotonic()
        away = max(0.0, now - self._watched_at - timeout)
        self._watched_at = now
        limit = max(SILENCE_S, min(SILENCE_FACTOR * self._longest_silence, MAX_SILENCE_S))
        for worker in self._workers:
            worker.signed_at = min(now, worker.signed_at + away)
            silent = now - worker.signed_at
            if self._is_watched(worker) and not worker.ended_because and silent > limit:
                worker.ended_because = f"its worker gave no sign of life for {silent:.0f} s"
                self.kill(worker.index)

    def idle(self) -> list[int]:
        if self.lockstep and (self._round or not all(w.ready for w in self._workers)):
            return []
        return [w.index for w in self._workers if w.ready and w.job is None]

    def busy(self) -> list[int]:
        return [w.index for w in self._workers if w.job is not None or w.index in self._round]

    def jobs(self) -> list[Any]:
        """What the busy workers are at."""
        return [w.job for w in self._workers if w.job is not None]

    def begun(self) -> list[Any]:
        """Those jobs that do not wait for a machine any more."""
        return self.jobs()

    def call_alone(
        self,
        method: str,
        *,
        on_wait: Callable[[Self], None],
        deadline: float = math.inf,
        **arguments: Any,
    ) -> Any:
        """Call one worker while the others rest, and return its result.

        One that is still starting does not rest: it would disturb a measurement of time. Raises
        InputError where the call fails, takes its worker with it, or is not over at ``deadline``
        (of ``time.monotonic``).
        """
        while not (resting := self.idle()) or not all(w.is_resting for w in self._workers):
            self._check_deadline(deadline, method)
            for _ in self.events(timeout=0.5):
                pass
        self.call(resting[0], method, method, **arguments)
        while True:
            for event in self.events(timeout=0.5):
                if event.job == method and event.kind == "result":
                    return event.content["value"]
                if event.job == method:
                    raise self.failure(event)
            on_wait(self)
            self._check_deadline(deadline, method)

    def _check_deadline(self, deadline: float, method: str) -> None:
        if time.monotonic() > deadline:
            for index in self.busy():
                self.kill(index)
            raise InputError(f"{method} was not over when its time was")

    def map(
        self,
        method: str,
        calls: Sequence[dict[str, Any]],
        *,
        on_wait: Callable[[int], None],
    ) -> list[Any]:
        """Call a method once with each of ``calls``, on all workers, and return the results in
        their order. An InputError stands where a call failed or took its worker with it.
        ``on_wait`` gets how many are over."""
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
        return InputError(f"{what}: {last_line(event.trouble)}{self._place(event.worker)}")

    def _started(self) -> None:
        self._lived, self._failed_starts = True, 0

    def _broke(self, event: Event) -> None:
        """Raise InputError where a worker cannot build its evaluator and none ever has: the next
        would fail alike. Later it is one that died, of what may pass, like a lack of memory."""
        if not self._lived:
            raise self.failure(event, "a worker could not start")

    def _died(self, event: Event, started: bool) -> float:
        """Count a lost worker, and return after how many seconds another may start. Raises
        InputError where workers die while they start: at once a few times where none has ever
        been ready, and after longer and longer pauses where none of those that were is left."""
        if started:
            return 0.0
        self._failed_starts += 1
        others = (w for w in self._workers if w.index != event.worker)
        left = any(map(self._is_alive, others)) and not self.lockstep  # where all wait for each
        # A node that goes takes all its workers with it: what counts is how often each has failed.
        count = max(1, self.count)
        most = max(FAILED_RESTARTS, 2 * count) if self._lived else max(FAILED_STARTS, count)
        if self._failed_starts >= most and not left:
            raise self.failure(event, "workers die while they start")
        times = math.ceil(self._failed_starts / count)
        return min(RESTART_S * 2.0 ** (times - 1), MAX_RESTART_S) * self._lived

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def last_line(text: str) -> str:
    return (text.strip() or "no reason given").splitlines()[-1]
