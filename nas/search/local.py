"""The local executor: worker processes on this machine, which talk through pipes."""

from __future__ import annotations

import json
import math
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.search.forks import THREADS, Forked, Forks
from nas.search.workers import MAX_SILENCE_S, Event, Worker, Workers

# For a killed process to be gone: one that waits for a dead drive never is.
_KILL_S = 5.0


@dataclass
class _Process(Worker):
    process: subprocess.Popen[bytes] | Forked = field(kw_only=True)
    received: bytes = b""
    unsent: bytes = b""  # a worker that is stopped takes nothing, and the driver must not wait
    killed_at: float = math.inf

    def send(self, message: dict[str, Any]) -> None:
        self.unsent += json.dumps(message).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        assert self.process.stdin is not None
        # One that has just died is handled where its closed output is noticed.
        with suppress(BrokenPipeError, BlockingIOError):
            while self.unsent:
                self.unsent = self.unsent[os.write(self.process.stdin.fileno(), self.unsent) :]


class LocalWorkers(Workers):
    """Worker processes with one compute thread each.

    ``evaluator`` names a class as MODULE:NAME; each worker calls it once with
    ``settings``. With ``gpus`` (as CUDA_VISIBLE_DEVICES names them) each sees one, in
    turn, as its only GPU. They sit in process groups of their own, so that a Ctrl-C at the
    terminal reaches the driver alone. Under Linux they are forked where they use no GPU, by
    ``forks``, which others may use after them, or by some of their own.
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
        forks: Forks | None = None,
    ) -> None:
        super().__init__(lockstep)
        self._evaluator, self._settings, self._logs = evaluator, settings, logs
        self._selector = selectors.DefaultSelector()
        self._gpus = gpus
        self._ends_forks = forks is None
        self._forks = forks or Forks(evaluator.split(":")[0])
        logs.mkdir(parents=True, exist_ok=True)
        self._workers = [self._start(index) for index in range(count)]

    def _start(self, index: int) -> _Process:
        command = ["nas.search.worker", self._evaluator]
        process: subprocess.Popen[bytes] | Forked
        with (self._logs / f"worker-{index}.log").open("ab") as log:
            if sys.platform == "linux" and not self._gpus:
                process = self._forks.start(command, log)
            else:
                environment = os.environ | dict.fromkeys(THREADS, "1")
                if self._gpus:
                    environment["CUDA_VISIBLE_DEVICES"] = self._gpus[index % len(self._gpus)]
                process = subprocess.Popen(
                    # -P: a torch.py in the folder where the user happens to be is not torch.
                    [sys.executable, "-P", "-m", *command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
        assert process.stdin is not None
        assert process.stdout is not None
        for pipe in (process.stdin, process.stdout):
            os.set_blocking(pipe.fileno(), False)
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
        worker.job, worker.signed_at = job, time.monotonic()
        worker.send({"method": method, "arguments": arguments})

    def answer(self, index: int, answer: str) -> None:
        self._workers[index].send({"answer": answer})

    def kill(self, index: int) -> None:
        worker = self._workers[index]
        worker.process.kill()
        worker.killed_at = min(worker.killed_at, time.monotonic())

    def _is_watched(self, worker: Worker) -> bool:
        """Not before its process is there: the server that forks it imports torch first, which a
        shared drive may take minutes for, and nobody gives signs of life meanwhile."""
        process = self._workers[worker.index].process
        imports = process.pid is None and time.monotonic() < self._forks.begun + MAX_SILENCE_S
        if imports:
            worker.signed_at = time.monotonic()
        return super()._is_watched(worker) and not imports

    def _happened(self, timeout: float) -> Iterator[Event]:
        if any(worker.unsent for worker in self._workers):
            timeout = min(timeout, 0.05)
        for key, _ in self._selector.select(timeout):
            worker: _Process = key.data
            chunk = worker.process.stdout.read()  # type: ignore[union-attr]  # a pipe, see _start
            if chunk:
                *lines, worker.received = (worker.received + chunk).split(b"\n")
                for line in lines:
                    if event := self._event(worker, json.loads(line)):
                        yield event
            elif chunk == b"":
                yield self._lost(worker)
        now = time.monotonic()
        for worker in list(self._workers):
            if now > worker.killed_at + _KILL_S:
                yield self._lost(worker)
            elif not worker.start_at:
                worker.flush()
            elif now >= worker.start_at:
                self._workers[worker.index] = self._start(worker.index)

    def _event(self, worker: _Process, content: dict[str, Any]) -> Event | None:
        self._signs(worker)
        kind = content.pop("event")
        event = Event(kind, worker.index, worker.job, content)
        if kind == "beat":
            return None
        if kind == "broken":
            self._broke(event)
            worker.process.kill()
            return self._lost(worker, content["error"])
        if kind == "ready":
            worker.ready = True
            self._started()
        elif kind in ("result", "error"):
            worker.job = None
        return event

    def _lost(self, worker: _Process, detail: str = "") -> Event:
        code = _ended(worker.process, _KILL_S if worker.killed_at == math.inf else 0.1)
        detail = detail or worker.ended_because or f"its worker ended with code {code}"
        event = Event("lost", worker.index, worker.job, {"detail": detail})
        pause_s = self._died(event, started=worker.ready)
        self._retire(worker)
        if pause_s:
            worker.ready, worker.job = False, None
            worker.killed_at, worker.unsent = math.inf, b""
            worker.start_at = time.monotonic() + pause_s
        else:
            self._workers[worker.index] = self._start(worker.index)
        return event

    def _retire(self, worker: _Process) -> None:
        if worker.start_at:
            return
        self._selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
        for pipe in (worker.process.stdin, worker.process.stdout):
            with suppress(BrokenPipeError):  # bytes that were meant for a dead worker
                pipe.close()  # type: ignore[union-attr]

    def close(self) -> None:
        for worker in self._workers:
            self._retire(worker)
            worker.process.kill()
        for worker in self._workers:
            _ended(worker.process, _KILL_S)
        if self._ends_forks:
            self._forks.close()


def _ended(process: subprocess.Popen[bytes] | Forked, timeout_s: float) -> int | None:
    """The code with which a process ends soon; it is killed, and the answer None, where not."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return None
