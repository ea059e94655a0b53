"""Worker processes that share one import of what they run.

torch and Lightning take seconds of a core to import, a fork milliseconds. ``ForkServer`` is the
driver's side of a process that imports the evaluator once (``python -m nas.search.forks``) and then
forks a worker for each request. A worker talks with the driver through pipes of its own, so that
only its process number and its exit code go through the server.

Only for CPUs under Linux: a process that has used a GPU must not be forked, and one with threads
must not either; where an import has started some, the server starts processes as they are started
elsewhere.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

_MESSAGE_BYTES = 65_536
_POLL_S, _KILL_S = 0.05, 5.0


class ForkServer:
    """The driver's side. ``command`` is what a worker is where it cannot be forked."""

    def __init__(self, target: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            server = [sys.executable, "-P", "-m", "nas.search.forks", target, str(theirs.fileno())]
            self._process = subprocess.Popen(
                [*server, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=env,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._pids: dict[int, int] = {}
        self._codes: dict[int, int] = {}
        self._started = 0

    def start(self, log: IO[bytes]) -> Forked:
        """A new worker, which writes its errors into ``log``; it begins when the server is
        ready. Raises OSError where the server is gone."""
        stdin, parent_stdin = os.pipe()
        parent_stdout, stdout = os.pipe()
        self._started += 1
        try:
            request = json.dumps({"start": self._started}).encode()
            socket.send_fds(self._socket, [request], [stdin, stdout, log.fileno()])
        except OSError:
            os.close(parent_stdin)
            os.close(parent_stdout)
            raise
        finally:
            os.close(stdin)
            os.close(stdout)
        return Forked(
            self, self._started, os.fdopen(parent_stdin, "wb"), os.fdopen(parent_stdout, "rb")
        )

    def pid(self, number: int) -> int | None:
        """The process number of a worker; None before it runs."""
        while number not in self._pids and self._receive(0.0):
            pass
        return self._pids.get(number)

    def wait(self, pid: int, timeout: float) -> int | None:
        """The exit code of a worker; None where the server is gone, and with it the code. Raises
        TimeoutExpired."""
        deadline = time.monotonic() + timeout
        with suppress(OSError):
            self._socket.send(json.dumps({"wait": pid}).encode())
        while pid not in self._codes:
            left = deadline - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired("worker", timeout)
            if not self._receive(left) and self._process.poll() is not None:
                return None
        return self._codes[pid]

    def _receive(self, timeout: float) -> bool:
        """Take in one message; False where none came."""
        closed = self._socket.fileno() < 0  # another server has taken its place
        if closed or not select.select([self._socket], [], [], timeout)[0]:
            return False
        try:
            content = self._socket.recv(_MESSAGE_BYTES)
        except ConnectionResetError:  # the server was killed with requests that it had not read
            return False
        message = json.loads(content or "{}")
        if "code" in message:
            self._codes[message["pid"]] = message["code"]
        elif message:
            self._pids[message["start"]] = message["pid"]
        return bool(content)

    def kill(self) -> int | None:
        """End the server, and return its exit code; its workers go on."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # it waits for a dead drive
            self._process.wait(_KILL_S)
        return self._process.returncode

    def close(self) -> None:
        """End the server for good."""
        self.kill()
        self._socket.close()


class Forked:
    """A worker of a ``ForkServer``: as much of ``subprocess.Popen`` as the executor uses."""

    def __init__(
        self, server: ForkServer, number: int, stdin: IO[bytes], stdout: IO[bytes]
    ) -> None:
        self._server, self._number = server, number
        self.stdin, self.stdout = stdin, stdout

    @property
    def pid(self) -> int | None:
        return self._server.pid(self._number)

    def kill(self) -> None:
        pid = self.pid
        if pid is None:  # an import that does not end
            self._server.kill()
        else:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait(self, timeout: float) -> int | None:
        pid = self.pid
        return self._server.kill() if pid is None else self._server.wait(pid, timeout)


# The server's side ------------------------------------------------------------------------


def _serve(target: str, requests: socket.socket, command: Sequence[str]) -> bool:
    """Start workers until the driver is gone; True in a worker, whose pipes are its standard
    streams then."""
    with suppress(Exception):  # the worker will say why
        import_module(target.split(":")[0])
    waited: set[int] = set()
    while True:
        _reap(waited, requests)
        if not select.select([requests], [], [], _POLL_S if waited else None)[0]:
            continue
        content, pipes, *_ = socket.recv_fds(requests, _MESSAGE_BYTES, 3)
        if not content:
            return False
        message: dict[str, Any] = json.loads(content)
        if "wait" in message:
            waited.add(message["wait"])
            continue
        pid = _start(pipes, command)
        if not pid:
            requests.close()
            return True
        for pipe in pipes:
            os.close(pipe)
        requests.send(json.dumps({"start": message["start"], "pid": pid}).encode())


def _start(pipes: Sequence[int], command: Sequence[str]) -> int:
    """The number of a new process; 0 in one that was forked."""
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        stdin, stdout, stderr = pipes
        return subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
        ).pid
    pid = os.fork()
    if not pid:
        os.setsid()
        for standard, pipe in enumerate(pipes):
            os.dup2(pipe, standard)
            os.close(pipe)
    return pid


def _reap(waited: set[int], requests: socket.socket) -> None:
    for pid in list(waited):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            waited.remove(pid)
            code = os.waitstatus_to_exitcode(status)
            with suppress(OSError):  # the driver is gone
                requests.send(json.dumps({"pid": pid, "code": code}).encode())


if __name__ == "__main__":
    if _serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])), sys.argv[3:]):
        from nas.search.worker import serve_pipes

        serve_pipes(sys.argv[1])
