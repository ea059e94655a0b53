"""Processes that share one import of what they run: the workers of a search, and the trainings at
its end.

torch and Lightning take seconds of a core to import, a fork milliseconds. ``Forks`` is the driver's
side of a process that imports a module once (``python -m nas.search.forks``) and then forks another
for each request. A worker talks with the driver through pipes of its own, so that only its process
number and its exit code go through the server.

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

from nas import child

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# pyarrow starts a thread of an allocator that it does not use by default.
_NO_THREADS = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
_MESSAGE_BYTES = 65_536
_POLL_S, _KILL_S = 0.05, 5.0


class Forks:
    """The driver's side. The server imports ``module`` with one compute thread; it is started with
    the first process, and another where it was killed."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._server: _Server | None = None
        self.begun = 0.0  # when the server was started, of time.monotonic

    def start(
        self,
        command: Sequence[str],
        errors: IO[bytes],
        output: IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Forked:
        """``python -m COMMAND``, whose module has a ``main``, with more variables ``env``. It
        writes into the files ``errors`` and ``output`` or, without ``output``, talks through pipes,
        and begins when the server is ready."""
        if self._server is not None:
            with suppress(OSError):  # the server was killed: another takes its place
                return self._server.start(command, errors, output, env or {})
            self._server.close()
        self._server, self.begun = _Server(self._module), time.monotonic()
        return self._server.start(command, errors, output, env or {})

    def close(self) -> None:
        """End the server; workers go on, trainings end with it."""
        if self._server is not None:
            self._server.close()


class _Server:
    """One such process, and what it has said of those that it has started."""

    def __init__(self, module: str) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            server = [sys.executable, "-P", "-m", "nas.search.forks", module, str(theirs.fileno())]
            self.process = subprocess.Popen(
                server,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_NO_THREADS | child.environment() | dict.fromkeys(THREADS, "1"),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._pids: dict[int, int] = {}
        self._codes: dict[int, int] = {}
        self._started = 0

    def start(
        self,
        command: Sequence[str],
        errors: IO[bytes],
        output: IO[bytes] | None,
        env: Mapping[str, str],
    ) -> Forked:
        """See ``Forks.start``. Raises OSError where the server is gone."""
        self._started += 1
        request = {"start": self._started, "command": list(command), "env": dict(env)}
        ours: list[int] = []
        if output is None:
            stdin, to_stdin = os.pipe()
            from_stdout, stdout = os.pipe()
            theirs, ours = [stdin, stdout], [to_stdin, from_stdout]
        else:
            theirs = [os.open(os.devnull, os.O_RDONLY), os.dup(output.fileno())]
        try:
            content = json.dumps(request).encode()
            socket.send_fds(self._socket, [content], [*theirs, errors.fileno()])
        except OSError:
            for pipe in ours:
                os.close(pipe)
            raise
        finally:
            for pipe in theirs:
                os.close(pipe)
        pipes = [os.fdopen(pipe, mode) for pipe, mode in zip(ours, ("wb", "rb"), strict=False)]
        return Forked(self, self._started, *pipes)

    def pid(self, number: int) -> int | None:
        """The process number of what was started; None before it runs."""
        while number not in self._pids and self._receive(0.0):
            pass
        return self._pids.get(number)

    def ask(self, pid: int) -> None:
        """Have the exit code of a process sent when it ends."""
        with suppress(OSError):
            self._socket.send(json.dumps({"wait": pid}).encode())

    def code(self, pid: int, timeout: float) -> int | None:
        """The exit code that was asked for, if it comes within ``timeout``. Of one whose server is
        gone, and with it the code, it is that of a process that was killed."""
        deadline = time.monotonic() + timeout
        while pid not in self._codes:
            left = max(0.0, deadline - time.monotonic())
            if not self._receive(left):
                if self.is_gone():
                    return -signal.SIGKILL
                if left <= 0:
                    return None
        return self._codes[pid]

    def is_gone(self) -> bool:
        return self.process.poll() is not None

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

    def kill(self) -> None:
        """End the server; its workers go on."""
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):  # it waits for a dead drive
            self.process.wait(_KILL_S)

    def close(self) -> None:
        """End the server for good."""
        self.kill()
        self._socket.close()


class Forked:
    """A process of ``Forks``: as much of ``subprocess.Popen`` as is used of one."""

    def __init__(
        self,
        server: _Server,
        number: int,
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
    ) -> None:
        self._server, self._number = server, number
        self._asked = False
        self.stdin, self.stdout = stdin, stdout
        self.returncode: int | None = None

    @property
    def pid(self) -> int | None:
        return self._server.pid(self._number)

    def poll(self) -> int | None:
        return self._code(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises TimeoutExpired."""
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self._code(min(1.0, max(0.0, end - time.monotonic())))) is None:
            if time.monotonic() >= end:
                raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
        return code

    def _code(self, timeout: float) -> int | None:
        if self.returncode is not None:
            return self.returncode
        pid = self.pid
        if pid is not None:
            if not self._asked:
                self._server.ask(pid)
                self._asked = True
            self.returncode = self._server.code(pid, timeout)
        elif self._server.is_gone():
            self.returncode = -signal.SIGKILL
        else:
            time.sleep(min(timeout, _POLL_S))
        return self.returncode

    def send_signal(self, number: int) -> None:
        pid = self.pid
        if pid is None:  # an import that does not end
            self._server.kill()
        elif self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


# The server's side ------------------------------------------------------------------------


def _serve(module: str, requests: socket.socket) -> list[str] | None:
    """Start processes until the driver is gone; in each of them its command, while its files are
    its standard streams."""
    os.environ[child.PARENT] = str(os.getpid())  # trainings end with this process
    with suppress(Exception):  # a worker will say why
        import_module(module)
    waited: set[int] = set()
    while True:
        _reap(waited, requests)
        if not select.select([requests], [], [], _POLL_S if waited else None)[0]:
            continue
        content, files, *_ = socket.recv_fds(requests, _MESSAGE_BYTES, 3)
        if not content:
            return None
        message: dict[str, Any] = json.loads(content)
        if "wait" in message:
            waited.add(message["wait"])
            continue
        pid = _start(files, message["command"], message["env"])
        if not pid:
            requests.close()
            return list(message["command"])
        for file in files:
            os.close(file)
        requests.send(json.dumps({"start": message["start"], "pid": pid}).encode())


# Kept, as those that are not are waited for by the next one.
_NEW: list[subprocess.Popen[bytes]] = []


def _start(files: Sequence[int], command: Sequence[str], env: Mapping[str, str]) -> int:
    """The number of a new process; 0 in one that was forked."""
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        stdin, stdout, stderr = files
        os.write(stderr, b"note: starts Python anew, as an import here has started a thread\n")
        started = subprocess.Popen(
            [sys.executable, "-P", "-m", *command],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=os.environ | env,
            start_new_session=True,
        )
        _NEW.append(started)
        return started.pid
    pid = os.fork()
    if not pid:
        os.setsid()
        os.environ.update(env)
        for standard, file in enumerate(files):
            os.dup2(file, standard)
            os.close(file)
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
    if command := _serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2]))):
        sys.argv = command
        import_module(command[0]).main()
