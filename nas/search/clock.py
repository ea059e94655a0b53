"""How long the searches of a folder have taken, and the lock of the driver that writes there."""

from __future__ import annotations

import fcntl
import math
import os
from pathlib import Path
from typing import IO

from nas.files import damaged, write_whole
from nas.task import InputError


def lock(path: Path) -> IO[str]:
    """Lock the file ``path`` until it is closed; InputError where another process has it, and on
    a file system without locks."""
    file = path.open("a+", errors="replace")
    try:
        if not take_lock(file, wait=False):
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise InputError(
                f"{path.parent} is in use by another search (process {owner});"
                " wait for it, or choose another folder with --out"
            )
    except InputError:
        file.close()
        raise
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def take_lock(file: IO[str], *, wait: bool) -> bool:
    """Lock an open file until it is closed. False where another process has it, without ``wait``.

    Raises InputError on a file system that has no locks (ENOLCK, ENOSYS), as some mounts of Lustre
    and NFS.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise InputError(
            f"{file.name} cannot be locked ({error.strerror}); choose --out on a file system with"
            " locks"
        ) from None
    return True


def written(path: Path) -> float:
    """When a file was last written (epoch seconds); 0 where there is none."""
    return path.stat().st_mtime if path.exists() else 0.0


class Clock:
    """How long the searches of a folder have taken, in seconds of the wall clock, in a file that
    is written all along: its last change says until when a killed driver was alive."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "clock"

    def read(self) -> float:
        """0 before the first search. Raises InputError where the file holds no time."""
        if not self.path.exists():
            return 0.0
        content = self.path.read_bytes()
        try:
            seconds = float(content)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < math.inf:
            raise damaged(
                self.path,
                f"it holds {content[:20]!r} in place of the seconds that the search has taken",
                "write them there, as 120.0, or remove it: the time then counts from 0 again",
            )
        return seconds

    def write(self, seconds: float) -> None:
        if not self.path.exists():  # nobody sees it empty
            write_whole(self.path, f"{seconds:16.1f}\n")
            return
        # One write of one length, which a killed driver leaves whole.
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.write(file, b"%16.1f\n" % seconds)
        finally:
            os.close(file)

    @property
    def written(self) -> float:
        """When a driver last wrote (epoch seconds); 0 before the first."""
        return written(self.path)
