"""A study as a journal in the run's folder, for one driver at a time to write, in Optuna's own
format, which its dashboard reads."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState

from nas.files import COPY, damaged
from nas.search.clock import Clock, written
from nas.task import InputError

# A candidate's row is an attribute of its trial; one that is revised later, of the study,
# as Optuna refuses to change a finished trial.
ROW, REVISED = "candidate", "revised:"
# What a study says of itself, an attribute of the study: ``Study.describe``.
ABOUT = "about"
# What Optuna's journal calls some of its operations.
_STUDY_ATTR, _TRIAL_CREATION, _TRIAL_STATE, _TRIAL_ATTR = 2, 4, 6, 8
_CHUNK = 1 << 26  # bytes

_warned: set[str] = set()


def warn_once(message: str) -> None:
    """Log a warning, which Python writes to standard error where nobody asks for it elsewhere."""
    if message not in _warned:
        _warned.add(message)
        logging.getLogger("nas").warning("%s", message)


# The repair of a journal without a candidate.
NEW = f"{COPY}, or start another search with --out"


class DamagedJournal(Exception):  # noqa: N818
    """A journal that Optuna cannot read from end to end: which line, and what is wrong with it."""


def repair_journal(path: Path) -> int:
    """Cut a torn last line off and return how many bytes went.

    A writer killed half-way leaves one; the next write would glue itself to it and make
    the file unreadable for good. What does not begin as JSON is no journal, or in another
    encoding: it is left as it is, for its reader to refuse.
    """
    if not path.exists():
        return 0
    with path.open("rb+") as file:
        data = file.read()
        keep = data.rfind(b"\n") + 1 if data.startswith((b"{", b"[")) else len(data)
        if keep < len(data):
            file.truncate(keep)
    return len(data) - keep


class Journal(BaseJournalBackend):
    """The file ``path``, a line of JSON for each operation.

    Optuna's own backend takes a lock, opens the file and waits for the disk at each of a
    trial's dozen lines and more. Here one driver alone writes: a line is one write, which
    outlives a process that is killed, and the disk is waited for where a trial ends. A
    power cut takes back at most what was in training.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1
        self._read = self._trials = 0  # bytes, and trials in them

    def open(self) -> BaseStorage:
        """Open for a driver, that holds the folder's lock. Raises DamagedJournal."""
        repair_journal(self.path)
        # Optuna's own writers leave it where they are killed, and would wait 30 s for it.
        Path(f"{self.path}.lock").unlink(missing_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            return JournalStorage(self)
        except (DamagedJournal, InputError, OSError):
            raise
        except Exception as error:  # operations that do not follow from each other
            raise DamagedJournal(f"{type(error).__name__}: {error}") from None

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @property
    def written(self) -> float:
        """When a driver last wrote (epoch seconds); 0 before the first."""
        return written(self.path)

    def rows(self) -> dict[int, dict[str, Any]]:
        """The latest row of each candidate by number, also beside a running driver.

        Lines that hold no row are not even parsed: Optuna's own loading takes many times
        as long. Lines that are damaged are left out, and counted in a warning.
        """
        rows: dict[int, dict[str, Any]] = {}
        self.check_there()
        if not self.path.exists():
            return rows
        lines: list[int] = []  # that are damaged
        for number, line in enumerate(_whole_lines(self.path.read_bytes()), 1):
            try:
                if (row := row_in(line)) is not None:
                    rows[int(row["number"])] = row
            except ValueError:
                lines.append(number)
        if lines and not rows:
            raise damaged(
                self.path, f"line {lines[0]} cannot be read, and none holds a candidate", NEW
            )
        if lines:
            self._warn(lines, len(rows))
        return rows

    def _warn(self, lines: list[int], kept: int) -> None:
        first, more = lines[0], len(lines) - 1
        others = f" and {more} more" if more else ""
        warn_once(
            f"{self.path}: line {first}{others} cannot be read; {kept} candidates are read from the"
            " whole lines, those of the others are lost unless you copy the file again"
        )

    def check_there(self) -> None:
        """Raise InputError where there is no journal, but was a search."""
        if self.path.exists() and self.path.stat().st_size:
            with self.path.open("rb") as file:
                head = file.read(20)
                if not head.startswith(b"{") and b'\n{"op_code":' not in file.read():
                    raise damaged(self.path, f"it begins with {head!r}, not as a journal", NEW)
            return
        clock = Clock(self.path.parent)
        if clock.path.exists():
            what = "is empty" if self.path.exists() else "is missing"
            raise InputError(
                f"{self.path} {what}, but {clock.path} says that a search took"
                f" {clock.read():.0f} s here; copy it again from where it is whole, or start"
                " another search with --out"
            )

    def replace(self, whole: Journal) -> Path:
        """Put a ``whole`` journal in the place of this one, whose file is kept; its new path."""
        self.close()
        whole.close()
        kept = (self.path.with_name(f"{self.path.name}.damaged-{n}") for n in range(1, 1000))
        aside = next(path for path in kept if not path.exists())
        self.path.rename(aside)
        whole.path.rename(self.path)
        self._read = self._trials = 0
        return aside

    # -- what Optuna asks of a journal ---------------------------------------------------

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The operations since the last call, which ended before ``log_number_from``."""
        while lines := _whole_lines(os.pread(self._file, _CHUNK, self._read)):
            for line in lines:
                try:
                    operation = _operation(line)
                except ValueError as error:
                    raise DamagedJournal(f"{str(error)[:80]} (at byte {self._read})") from None
                self._read += len(line)
                self._trials += operation["op_code"] == _TRIAL_CREATION
                if operation.get("trial_id", -1) >= self._trials:
                    raise DamagedJournal(f"the beginning of trial {self._trials} is missing")
                yield operation

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        data = b"".join(json.dumps(x, separators=(",", ":")).encode() + b"\n" for x in logs)
        end = os.fstat(self._file).st_size
        try:
            while data:
                data = data[os.write(self._file, data) :]
            if any(_must_last(log) for log in logs):
                os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, end)  # half a line would spoil the next
            raise InputError(
                f"{self.path} cannot be written ({error.strerror}); what is finished is kept:"
                " make room and go on with --resume"
            ) from error


_ATTRIBUTES = tuple(f'{{"op_code":{code},'.encode() for code in (_TRIAL_ATTR, _STUDY_ATTR))
_HAS_ROW = re.compile(rf'.{{0,200}}?"user_attr":{{"(?:{ROW}|{REVISED}\d+)":'.encode())


def holds_row(line: bytes) -> bool:
    """Whether a line of a journal holds the row of a candidate. Raises ValueError where it is no
    whole line of a journal."""
    if not (line.startswith(b'{"op_code":') and line.endswith(b"}\n")):
        raise ValueError("no line of a journal")
    return line.startswith(_ATTRIBUTES) and bool(_HAS_ROW.match(line))


def describes(line: bytes) -> bool:
    """Whether a line of a journal holds what the study says of itself."""
    return line.startswith(_ATTRIBUTES[1]) and f'"user_attr":{{"{ABOUT}":'.encode() in line[:200]


def row_in(line: bytes) -> dict[str, Any] | None:
    """The row of a candidate in a line of a journal, None where it holds none. Raises ValueError
    where it cannot be read."""
    if not holds_row(line):
        return None
    try:
        (row,) = _operation(line)["user_attr"].values()
        return {**row, "number": int(row["number"])}
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no row of a candidate: {error}") from None


def _whole_lines(data: bytes) -> list[bytes]:
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def _operation(line: bytes) -> dict[str, Any]:
    """A line of a journal. Raises ValueError where it is none."""
    try:
        found = json.loads(line.decode())  # of bytes it would guess at encodings
    except RecursionError:
        raise ValueError("deeply nested brackets") from None
    if not (isinstance(found, dict) and isinstance(found.get("op_code"), int)):
        raise ValueError(f"no operation of a study: {line[:40]!r}")
    return found


def _must_last(log: dict[str, Any]) -> bool:
    ended: bool = log["op_code"] == _TRIAL_STATE and log["state"] != TrialState.RUNNING
    return ended or log["op_code"] == _STUDY_ATTR
