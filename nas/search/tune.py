"""The Ray executor: every call of a worker is a trial of Ray Tune.

Tune starts, places, reuses and watches the actors, on one machine or a cluster. What they are
to do comes from ``drive``, as for any executor, through a ``Searcher``; what they say goes back
to it through a ``TrialScheduler``. The study stays the only state: nothing is restored from
Tune. Three things are ours because Tune has no way for them:

- It cannot tell a trial anything but to stop, and a candidate that is stopped is to end in its
  own way, with its final figures. So answers go through an actor, ``_Answers``.
- It keeps one actor for which there is no trial yet and throws others away, and a new one takes
  seconds to import torch. So a trial that has given its result is held, and ends only when the
  next call is there to take its actor; one after the other.
- Its loop blocks; it runs in a thread.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.search.cluster import Cluster, beside_driver  # first: it sets what Ray reads

# isort: split

import ray
from ray import tune
from ray.air.execution._internal import actor_manager
from ray.exceptions import OutOfMemoryError, RayActorError, RayError
from ray.tune.execution import tune_controller
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.heartbeat import waiting
from nas.search.worker import serve
from nas.search.workers import SILENCE_S, Event, Worker, Workers, last_line
from nas.task import InputError, UsageError

# Tune's loop takes an actor that Ray's memory monitor has ended for an error of its own and
# falls, with all trials (2.60: "Caught unexpected exception"). Let it be one that has died.
for _module in (actor_manager, tune_controller):
    vars(_module)["RayActorError"] = (RayActorError, OutOfMemoryError)

_WAIT_S = 0.1
# About as long as an actor takes to start.
_START_S = 10.0
# The longest wait for a first actor, with a cluster that grows; and for Tune to come to its end.
_NO_ACTOR_S, _CLOSE_S = 900.0, 60.0
# Of what a worker prints: bytes that go with one event, and those of a log before it is turned.
_PRINTED, _LOG = 65_536, 8 * 2**20
_MARKS = (":job_id:", ":actor_name:", ":task_name:")  # Ray's own lines in it


@dataclass
class _Call:
    """One call on its way through Tune."""

    index: int
    text: str  # as a worker reads it
    successor_of: str = ""  # the trial that ends to hand its actor on
    trial: str = ""  # Tune's name for it, once it is a trial
    begun: bool = False  # its actor is ready
    alive: bool = False  # its actor gives signs of life
    dropped: bool = False
    since: float = field(default_factory=time.monotonic)


@dataclass
class _Place(Worker):
    ready: bool = True
    call: _Call | None = None
    held: str = ""  # the trial whose actor waits here


class TuneWorkers(Workers):
    """Actors of Ray Tune, each with an evaluator of its own, on a ``cluster``.

    ``evaluator`` names a class as MODULE:NAME, which each actor calls once with ``settings``:
    any objects; they are put into the object store once and cross to each node once.

    A worker is a place for one call at a time, for which Tune finds an actor. With more of them
    than the cluster holds some wait for resources (which is what makes a cluster grow). What the
    actors print is kept in the folder ``logs``, a file a place and the one before it.

    Raises UsageError where workers in lockstep would wait for each other for ever.
    """

    _workers: list[_Place]

    def __init__(
        self,
        count: int,
        evaluator: str,
        settings: dict[str, Any],
        cluster: Cluster,
        lockstep: bool = False,
        logs: Path | None = None,
    ) -> None:
        super().__init__(lockstep)
        self._logs = logs
        if lockstep and count > cluster.workers:
            raise UsageError(
                f"{count} workers in lockstep must all run at once, and the Ray cluster holds"
                f" {cluster.workers}; lower --workers"
            )
        self._workers = [_Place(index) for index in range(count)]
        self._given: dict[str, _Call] = {}
        self._delayed: list[tuple[float, _Call]] = []  # and when they are handed over
        self._messages: _Messages = queue.SimpleQueue()
        self._last_message_at = time.monotonic()
        self._end = threading.Event()
        self._failed: BaseException | None = None
        self._folder = tempfile.mkdtemp(prefix="nas-tune-")
        self._answers: Any = beside_driver(_Answers)
        self._calls = _Calls(self._given, self._messages, self._end, self._answers)
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(count)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        actor = tune.with_parameters(
            _Actor, evaluator=evaluator, settings=settings, answers=self._answers
        )
        # Not a Tuner, which pickles all it is given in order to be restored.
        self._loop = threading.Thread(
            target=self._run,
            kwargs={
                "run_or_experiment": tune.with_resources(actor, cluster.resources),
                "search_alg": self._calls,
                "scheduler": _Listener(self._messages),
                "stop": _End(self._end),
                "num_samples": -1,
                "reuse_actors": True,
                "raise_on_failed_trial": False,
                "trial_dirname_creator": lambda trial: trial.trial_id,
                "name": "nas",
                "storage_path": self._folder,
                "verbose": 0,
            },
            daemon=True,
        )
        self._loop.start()

    def _run(self, **options: Any) -> None:
        try:
            tune.run(**options)
        except BaseException as error:  # reported where the driver listens
            self._failed = error

    def log(self, index: int) -> Path | None:
        return self._logs / f"worker-{index}.log" if self._logs else None

    def _place(self, index: int) -> str:
        log = self.log(index)
        return f" (see {log})" if log and log.exists() else ""

    def _keep_printed(self, index: int, text: str) -> None:
        if log := self.log(index):
            log.parent.mkdir(parents=True, exist_ok=True)
            if log.exists() and log.stat().st_size > _LOG:
                log.replace(log.with_name(f"{log.name}.1"))
            with log.open("a", encoding="utf-8") as file:
                file.write(text)

    def call(self, index: int, job: Any, method: str, **arguments: Any) -> None:
        place = self._workers[index]
        place.job, place.ended_because = job, ""
        place.call = _Call(index, json.dumps({"method": method, "arguments": arguments}))
        self._hand_over(place.call)

    def _hand_over(self, call: _Call) -> None:
        # Its own place's actor or, where that one died, any that waits.
        own = self._workers[call.index]
        giver = own if own.held else next((p for p in self._workers if p.held), own)
        call.successor_of, giver.held = giver.held, ""
        self._calls.put(call)

    def answer(self, index: int, answer: str) -> None:
        call = self._workers[index].call
        assert call is not None
        self._answers.put.remote(call.trial, answer)

    def kill(self, index: int) -> None:
        call = self._workers[index].call
        if call is not None and not call.dropped:
            call.dropped = True
            self._messages.put(("dropped", index, ""))
            if call.trial:
                self._end_trial(call.trial)

    def _end_trial(self, trial: str) -> Any:
        """End a trial's actor, whatever it does; where it is stopped, Ray alone cannot."""
        process = self._answers.kill.remote(trial)
        return _end_process.remote(process)

    def begun(self) -> list[Any]:
        return [p.job for p in self._workers if p.call is not None and p.call.begun]

    def _is_watched(self, worker: Worker) -> bool:
        call = self._workers[worker.index].call
        return call is not None and call.alive and not call.dropped

    def _is_alive(self, worker: Worker) -> bool:
        place = self._workers[worker.index]
        return bool(place.held) or (place.call is not None and place.call.begun)

    def _watch(self, timeout: float) -> None:
        """Beside workers that are silent: those that rest and do not make room for the next call,
        and a cluster that gives no actor to any call."""
        super()._watch(timeout)
        now = time.monotonic()
        calls = [p.call for p in self._workers if p.call is not None]
        for call in calls:
            if call.successor_of and now > call.since + SILENCE_S:
                self._end_trial(call.successor_of)
                call.since = now
        latest = max((call.since for call in calls), default=now)
        if now > latest + _NO_ACTOR_S and not any(call.alive for call in calls):
            raise InputError(
                f"the Ray cluster has given no room for a trial for {_NO_ACTOR_S:.0f} s; look at"
                " `ray status`, and go on with --resume"
            )
        self._release_idle()

    def _happened(self, timeout: float) -> Iterator[Event]:
        if not self._loop.is_alive():
            reason = last_line(str(self._failed or ""))
            raise InputError(f"Ray Tune came to an end: {reason}; go on with --resume")
        self._hand_over_delayed()
        try:
            received = [self._messages.get(timeout=timeout)]
        except queue.Empty:
            return
        while not self._messages.empty():
            received.append(self._messages.get())
        for kind, about, text in received:
            if kind != "event":
                self._last_message_at = time.monotonic()
            if kind == "dropped":
                place = self._workers[int(about)]
                detail = place.ended_because or "it was ended"
                event = Event("lost", place.index, place.job, {"detail": detail})
                place.job = place.call = None
                yield event
            elif (known := self._event(kind, str(about), text)) is not None:
                yield known

    def _release_idle(self) -> None:
        """End an idle trial where calls wait in vain for an actor: the cluster has become too
        small, and Tune gives them this one."""
        stuck = any(p.call is not None and not p.call.begun for p in self._workers)
        idle = next((p for p in self._workers if p.held), None)
        if stuck and idle is not None and time.monotonic() > self._last_message_at + _START_S:
            self._answers.put.remote(idle.held, None)
            idle.held, self._last_message_at = "", time.monotonic()

    def _event(self, kind: str, trial: str, text: str) -> Event | None:
        if kind == "ended":
            self._given.pop(trial, None)
            self._answers.forget.remote(trial)
            return None
        call = self._given.get(trial)
        if call is None or call.dropped:
            return None
        place = self._workers[call.index]
        if kind == "lost":
            return self._lost(place, call, text)
        if not call.alive:
            call.alive, place.signed_at = True, time.monotonic()
        self._signs(place)
        content = json.loads(text)
        kind = content.pop("event")
        if kind == "beat":
            return None
        if kind == "log":
            self._keep_printed(place.index, content["text"])
            return None
        self._last_message_at = time.monotonic()
        event = Event(kind, place.index, place.job, content)
        if kind == "broken":
            self._broke(event)
            call.dropped = True  # its further messages are ignored
            self._end_trial(trial)
            return self._lost(place, call, content["error"])
        if kind == "ready":
            call.begun = True
            self._started()
            return None
        if kind in ("result", "error"):
            place.job = place.call = None
            place.held = trial
        return event

    def _lost(self, place: _Place, call: _Call, text: str) -> Event | None:
        if place.call is not call:  # it had given its result
            for p in self._workers:
                if p.held == call.trial:
                    p.held = ""
                elif p.call is not None and p.call.successor_of == call.trial:
                    p.call.successor_of = ""
            return None
        event = Event("lost", place.index, place.job, {"detail": text})
        pause_s = self._died(event, started=call.begun)
        if call.begun:
            place.job = place.call = None
            return event
        place.call = _Call(call.index, call.text)  # no fault of this call
        self._delayed.append((time.monotonic() + pause_s, place.call))
        self._hand_over_delayed()
        return None

    def _hand_over_delayed(self) -> None:
        now = time.monotonic()
        due = [call for at, call in self._delayed if at <= now]
        self._delayed = [(at, call) for at, call in self._delayed if at > now]
        for call in due:
            if not call.dropped:
                call.since = now
                self._hand_over(call)

    def close(self) -> None:
        self._end.set()
        ending = [self._end_trial(trial) for trial in list(self._given)]
        self._loop.join(_CLOSE_S)
        if ending:  # they ask ``_Answers``
            ray.wait(ending, num_returns=len(ending), timeout=_START_S)
        ray.kill(self._answers)
        shutil.rmtree(self._folder, ignore_errors=True)


# What Tune reports: the kind (event, lost, ended, dropped), the trial or place, and a text.
_Messages = queue.SimpleQueue[tuple[str, str | int, str]]


class _Calls(Searcher):
    """Suggests what the driver has called for, when there is an actor for it."""

    def __init__(
        self, given: dict[str, _Call], messages: _Messages, end: threading.Event, answers: Any
    ) -> None:
        super().__init__()
        self._given, self._messages, self._end, self._answers = given, messages, end, answers
        self._waiting: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._next: _Call | None = None  # its predecessor was asked to end
        self._live: set[str] = set()

    def put(self, call: _Call) -> None:
        self._waiting.put(call)

    def suggest(self, trial_id: str) -> Any:
        while not self._end.is_set():
            call = self._next or self._take()
            if call is None and self._live:
                return None
            if call is None or call.dropped:
                self._next = None
                continue
            if call.successor_of in self._live:
                if self._next is None:
                    self._answers.put.remote(call.successor_of, None)
                    self._next = call
                return None
            self._next = None
            call.trial = trial_id
            self._given[trial_id] = call
            self._live.add(trial_id)
            return {"call": call.text}
        return Searcher.FINISHED

    def _take(self) -> _Call | None:
        try:
            # With nothing alive Tune would sleep a second: wait here.
            return self._waiting.get(timeout=0.0 if self._live else _WAIT_S)
        except queue.Empty:
            return None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._live.discard(trial_id)
        self._messages.put(("ended", trial_id, ""))

    def save(self, checkpoint_path: str) -> None:
        """The study is the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """The study is the only state."""


class _Listener(FIFOScheduler):
    """Hands on what trials say; it stops none, as each ends in its own way."""

    def __init__(self, messages: _Messages) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._messages = messages

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Leave it to Tune's queue: a trial that is chosen here would take the actor that was
        meant for another's successor, and its own, about to start, would be thrown away."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        self._messages.put(("event", trial.trial_id, result["event"]))
        return str(FIFOScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        detail = Path(trial.error_file).read_text() if trial.error_file else "its worker is gone"
        self._messages.put(("lost", trial.trial_id, detail))


class _End(Stopper):
    def __init__(self, end: threading.Event) -> None:
        self._end = end

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._end.is_set()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune writes it down, and it is never read


@ray.remote(num_cpus=0)
def _end_process(process: tuple[str, int] | None) -> None:
    """Kill the process of an actor, on whichever node: Ray asks a process to end itself, which
    one that is stopped does not hear."""
    if process is None:
        return
    node, number = process
    here = ray.get_runtime_context().get_node_id()
    if node != here:
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        _end_process.options(scheduling_strategy=there).remote(process)
        return
    command = Path(f"/proc/{number}/cmdline")
    with suppress(OSError):
        if b"ray::" in command.read_bytes():  # the number may be another's by now
            os.kill(number, signal.SIGKILL)


class _Answers:
    """An actor between driver and workers: keeps answers until they are asked for."""

    def __init__(self) -> None:
        self._boxes: defaultdict[str, asyncio.Queue[str | None]] = defaultdict(asyncio.Queue)
        self._actors: dict[str, Any] = {}
        self._processes: dict[str, tuple[str, int]] = {}  # node and number
        self._doomed: set[str] = set()

    async def put(self, trial: str, answer: str | None) -> None:
        self._boxes[trial].put_nowait(answer)

    async def wait(self, trial: str) -> str | None:
        """The next answer; None where the trial is over."""
        return await self._boxes[trial].get()

    async def forget(self, trial: str) -> None:
        """Its end has been noticed: it is not to be killed any more."""
        for known in (self._boxes, self._actors, self._processes):
            known.pop(trial, None)
        self._doomed.discard(trial)

    async def register(self, trial: str, actor: Any, process: tuple[str, int]) -> None:
        self._actors[trial], self._processes[trial] = actor, process
        if trial in self._doomed:
            ray.kill(actor)

    async def kill(self, trial: str) -> tuple[str, int] | None:
        """End the trial's actor, at once or where it comes to life; its process, if it has one."""
        self._doomed.add(trial)
        if trial in self._actors:
            ray.kill(self._actors[trial])
        return self._processes.get(trial)


class _Printed:
    """What this process prints, in the files to which Ray has turned its output."""

    def __init__(self) -> None:
        links = (Path(f"/proc/self/fd/{number}") for number in (1, 2))
        self._read = {link.resolve(): 0 for link in links if link.is_file()}

    def more(self) -> str:
        """What is new since the last call, or the end of it where that is much."""
        found = b""
        for file, begin in self._read.items():
            size = file.stat().st_size
            with file.open("rb") as opened:
                opened.seek(max(begin, size - _PRINTED))
                found += opened.read(_PRINTED)
            self._read[file] = size
        lines = found.decode(errors="replace").splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith(_MARKS))


class _Mail:
    """A worker's channel: its messages are the results of a trial's steps."""

    def __init__(self, answers: Any) -> None:
        self._answers = answers
        self._calls: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._printed, self._sending = _Printed(), threading.Lock()
        self._trial = self._call = ""
        self._over = False

    def take(self, trial: str, call: str) -> None:
        self._trial, self._call, self._over = trial, call, False

    def receive(self) -> dict[str, Any]:
        return self._calls.get()

    def send(self, event: str, **content: Any) -> None:
        with self._sending:
            if text := self._printed.more():
                self._events.put({"event": "log", "text": text})
            self._events.put({"event": event, **content})

    def report(self, epoch: int, metrics: dict[str, float], fold: int = 1) -> str:
        self.send("report", epoch=epoch, metrics=metrics, fold=fold)
        try:
            with waiting():
                return str(ray.get(self._answers.wait.remote(self._trial)))
        except RayError:  # no fault of the candidate: it is lost, and is trained again elsewhere
            traceback.print_exc()
            os._exit(1)

    def next(self) -> dict[str, Any]:
        """The next event as the result of a step; after a call's last, wait for its successor.

        The call begins here: Tune makes actors that it then has no trial for.
        """
        if self._call:
            here = ray.get_runtime_context()
            process = (here.get_node_id(), os.getpid())
            self._answers.register.remote(self._trial, here.current_actor, process)
            self._calls.put(json.loads(self._call))
            self._call = ""
        if self._over:
            ray.get(self._answers.wait.remote(self._trial))
            return {"event": "", "done": True}
        event = self._events.get()
        self._over = event["event"] in ("result", "error")
        return {"event": json.dumps(event)}


class _Actor(tune.Trainable):
    """One worker; ``serve`` has a thread of its own."""

    def setup(
        self,
        config: dict[str, Any],
        evaluator: str = "",
        settings: dict[str, Any] | None = None,
        answers: Any = None,
    ) -> None:
        self._mail = _Mail(answers)
        self._mail.take(self.trial_id, config["call"])
        threading.Thread(target=serve, args=(self._mail, evaluator, settings), daemon=True).start()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._mail.send("ready")
        self._mail.take(self.trial_id, new_config["call"])
        return True

    def step(self) -> dict[str, Any]:
        return self._mail.next()
