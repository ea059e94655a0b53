"""Locks on a device, by which all searches of one user on a machine take turns.

They only make measurements better, so nothing waits for them for ever: a wait that is over says
on standard error who holds the lock, and continues without it.

The files lie in a folder of the user's own (see ``folder``), whatever TMPDIR is, so that another
user can neither hold them nor put something else in their place. Processes on other machines, of
other users, and in containers that share no such folder do not take part.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nas import heartbeat, terminal
from nas.task import InputError
from nas.training.device import name, settle

TIMEOUT_S = 10.0  # for trainings to pause
LOCK_TIMEOUT_S = 60.0  # for those that measure, who hold a lock for some seconds
_POLL_S = 0.002
_RUN, _TEMPORARY = Path("/run/user"), Path("/tmp")


def folder() -> Path:
    """Where this user's locks are: a folder that nobody else can enter.

    ``nas`` in $XDG_RUNTIME_DIR or in /run/user/UID (the same, where a session has not set it);
    where there is neither, nas-UID in /tmp, or in ~/.cache where somebody else has taken that
    name. Raises InputError where none of them can be made.
    """
    user = os.getuid()
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    runtime = Path(given) if os.path.isabs(given) else _RUN / str(user)
    places = [runtime / "nas"] if _is_private(runtime) else []
    places += [_TEMPORARY / f"nas-{user}", Path.home() / ".cache" / f"nas-{user}"]
    for place in places:
        with suppress(OSError):
            place.mkdir(mode=0o700, parents=place.parent.name == ".cache", exist_ok=True)
        if _is_private(place):
            return place
    tried = ", ".join(map(str, places))
    raise InputError(
        f"no folder for locks: of {tried} none is a folder that you own and nobody else may"
        " enter; remove what is there, or set XDG_RUNTIME_DIR"
    )


def _is_private(path: Path) -> bool:
    """Whether it is a folder (no link) of this user's that nobody else can enter."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


class _Lock:
    """One lock file, open; ``take`` gives up after a time."""

    def __init__(self, device: str, kind: str) -> None:
        device = name(device).replace(":", "-").replace("/", "-")
        self.path = folder() / f"{kind}-{device}.lock"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._file = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise InputError(
                f"the lock {self.path} cannot be opened ({error.strerror}); remove it"
            ) from None
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
            os.close(self._file)
            raise InputError(f"the lock {self.path} is no file of yours; remove it")
        self._waited_in_vain = False

    def take(self, how: int, timeout_s: float) -> bool:
        """Whether it was had in ``timeout_s``, as fcntl.LOCK_SH or LOCK_EX. After a wait in vain
        the next ones do not wait, until it was free once."""
        end = time.monotonic() + (0.0 if self._waited_in_vain else timeout_s)
        while True:
            try:
                fcntl.flock(self._file, how | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    return False
            else:
                self._waited_in_vain = False
                return True
            with heartbeat.waiting():
                time.sleep(_POLL_S)

    def take_or_say(self, how: int) -> None:
        """Take it, or say once who holds it, and go on without it."""
        known = self._waited_in_vain
        if self.take(how, LOCK_TIMEOUT_S) or known:
            return
        self._waited_in_vain = True
        terminal.line(
            f"the lock {self.path} is held by {self.holders()} for more than"
            f" {LOCK_TIMEOUT_S:.0f} s; going on without it: latencies may be those of a busy"
            " device. End that process to mend this",
            err=True,
        )

    def holders(self) -> str:
        """Who holds it, as Linux says in /proc/locks (man 5 proc)."""
        inode = os.fstat(self._file).st_ino
        with suppress(OSError, ValueError, IndexError):
            rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
            pids = {
                int(row[4]) for row in rows if row[1] == "FLOCK" and row[5].endswith(f":{inode}")
            }
            if named := [f"process {pid} ({_command(pid)})" for pid in sorted(pids) if pid > 0]:
                return ", ".join(named[:3])
        return "another process"

    def release(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> _Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _command(pid: int) -> str:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return ascii(b" ".join(words).decode(errors="replace").strip()[:60]).strip("'")
    return "gone"


@contextmanager
def device_lock(device: str) -> Iterator[None]:
    """One latency measurement at a time on a device, over all of this user's processes."""
    with _Lock(device, "latency") as lock:
        lock.take_or_say(fcntl.LOCK_EX)
        yield


class WorkLock:
    """The shared lock on a device of work that pauses while a front is measured.

    Inside ``with``, call ``give_way()`` between two steps: it returns at once unless a process
    of this user measures on an isolated device, and then when that is over.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._working = False  # whether the lock on work has been taken
        self._locks: tuple[_Lock, _Lock] | None = None

    def __enter__(self) -> WorkLock:
        self._locks = (_Lock(self._device, "turn"), _Lock(self._device, "work"))
        self.give_way()
        return self

    def give_way(self) -> None:
        if self._locks is None:
            return
        heartbeat.step()
        turn, work = self._locks
        if self._working and turn.take(fcntl.LOCK_SH, 0.0):
            turn.release()  # nobody measures
            return
        settle(self._device)  # a GPU is not idle while it has work that was given before
        work.release()
        self._working = True
        # Who measures holds the turn while it waits for work to end: none begins meanwhile.
        turn.take_or_say(fcntl.LOCK_SH)
        work.take_or_say(fcntl.LOCK_SH)
        turn.release()

    def __exit__(self, *_: object) -> None:
        for lock in self._locks or ():
            lock.close()
        self._locks, self._working = None, False


@contextmanager
def isolated(device: str, timeout_s: float = TIMEOUT_S) -> Iterator[bool]:
    """Pauses all work under a ``WorkLock`` of ``device``; yields False where some of it did not
    pause within ``timeout_s``: the measurement is then a contended one."""
    with device_lock(device), _Lock(device, "turn") as turn, _Lock(device, "work") as work:
        turn.take_or_say(fcntl.LOCK_EX)
        yield work.take(fcntl.LOCK_EX, timeout_s)
