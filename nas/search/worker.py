"""The worker's side of an executor: build the evaluator once, then answer calls one at a time.

``python -m nas.search.worker MODULE:NAME`` is a worker process of the local executor. Its
messages are lines of JSON: calls and answers come in on standard input, results and reports
go out on what was standard output, while anything a library prints goes to standard error,
the worker's log. When standard input ends, the driver is gone and so is the worker.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from datetime import datetime
from importlib import import_module
from typing import Any, Protocol

from nas import terminal
from nas.heartbeat import Heartbeat, waiting


class Channel(Protocol):
    """The way to the driver and back."""

    def receive(self) -> dict[str, Any]:
        """The next call: its ``method`` and ``arguments``."""

    def send(self, event: str, **content: Any) -> None:
        """Send an event: ready or broken, then a result or an error for each call, and a beat each
        second in which the work gets ahead (see ``nas.heartbeat``). Threads may call it."""

    def report(self, epoch: int, metrics: dict[str, float], fold: int = 1) -> str:
        """Hand over the metrics of an epoch; returns "" to go on or why to stop. Of a later
        ``fold`` the epoch alone is reported."""


def serve(channel: Channel, target: str, settings: dict[str, Any]) -> None:
    """Build the evaluator ``target`` (MODULE:NAME) and answer calls to its methods."""
    module, name = target.split(":")
    heartbeat = Heartbeat(lambda: channel.send("beat"))
    try:
        evaluator = getattr(import_module(module), name)(**settings)
    except Exception:
        channel.send("broken", error=traceback.format_exc())
        return
    channel.send("ready")
    while True:
        heartbeat.active = False
        call = channel.receive()
        heartbeat.active = True
        try:
            method = getattr(evaluator, call["method"])
            value = method(report=channel.report, **call["arguments"])
            _log(call, _ending(value))
            channel.send("result", value=value)
        except Exception:
            _log(call, f"error\n{traceback.format_exc()}")
            if not getattr(evaluator, "usable", lambda: True)():
                # Every further candidate would fail: the driver starts another worker, and trains
                # this one again there.
                terminal.echo("the device of this worker is lost; it ends", err=True)
                os._exit(1)
            channel.send("error", error=traceback.format_exc())


def _ending(value: Any) -> str:
    """How a candidate ended, in a few words; of other calls there is nothing to say."""
    if not isinstance(value, dict) or "state" not in value:
        return "done"
    words = [str(value["state"]), str(value.get("reason", ""))]
    words += [f"{len(value.get('curve', ()))} epochs", f"{value.get('seconds', 0.0):.1f} s"]
    return ", ".join(word for word in words if word)


def _log(call: dict[str, Any], ending: str) -> None:
    """One line of the worker's log."""
    candidate, what = call["arguments"].get("candidate"), call["method"]
    if isinstance(candidate, dict):
        what = f"{what} candidate {candidate.get('number')} ({candidate.get('family')})"
    stamp = datetime.now().isoformat(timespec="seconds")
    terminal.echo(f"{stamp} {what}: {ending}", err=True)


class _Pipes:
    """The two pipes to the driver."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # a stray print must not break the protocol
        self._writing = threading.Lock()
        self._in: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._in.put(json.loads(line))
        os._exit(0)  # the driver is gone: stop in the middle of a training step too

    def receive(self) -> dict[str, Any]:
        return self._in.get()

    def send(self, event: str, **content: Any) -> None:
        with self._writing:
            self._out.write(json.dumps({"event": event, **content}) + "\n")

    def report(self, epoch: int, metrics: dict[str, float], fold: int = 1) -> str:
        self.send("report", epoch=epoch, metrics=metrics, fold=fold)
        with waiting():
            return str(self.receive()["answer"])


def serve_pipes(target: str) -> None:
    """``serve`` on standard input and output; the first message holds the settings.

    Signals are for the driver, as systemd and Slurm send them to all processes at once: a worker
    that ended by one would count as lost. They are blocked, as Lightning handles them otherwise.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    pipes = _Pipes()
    serve(pipes, target, pipes.receive()["settings"])


def main() -> None:
    serve_pipes(sys.argv[1])


if __name__ == "__main__":
    main()
