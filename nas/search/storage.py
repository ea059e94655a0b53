"""Where a study is kept, for one driver at a time to write.

By default that is a journal in the run's folder; a PostgreSQL database holds several
studies, of drivers on several machines. Both are in Optuna's own format, which its
dashboard reads.
"""

from __future__ import annotations

import fcntl
import gc
import hashlib
import json
import logging
import math
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState

from nas.files import COPY, damaged, write_whole
from nas.task import InputError, UsageError

if TYPE_CHECKING:
    import psycopg

# A candidate's row is an attribute of its trial; one that is revised later, of the study,
# as Optuna refuses to change a finished trial.
ROW, REVISED = "candidate", "revised:"
# What a study says of itself, an attribute of the study: ``Study.describe``.
ABOUT = "about"
# What Optuna's journal calls some of its operations.
_STUDY_ATTR, _TRIAL_CREATION, _TRIAL_STATE, _TRIAL_ATTR = 2, 4, 6, 8
_CHUNK = 1 << 26  # bytes
_DIALECT = "postgresql+psycopg://"
# For the session of a driver that has just died to be noticed, and for a server to restart.
_LOCK_TIMEOUT_S, _SERVER_TIMEOUT_S = 2, 60
# A driver whose machine has vanished loses its session, and with it the lock, in a minute.
_KEEPALIVES = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}


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


def study_storage(folder: Path, url: str, name: str) -> Journal | Postgres:
    """The storage of the study ``name``: the database at ``url``, or ("") a journal in
    ``folder``. Nothing is opened yet."""
    return Postgres(url, name) if url else Journal(folder / "study.journal")


def lock(path: Path) -> IO[str]:
    """Lock the file ``path`` until it is closed; InputError where another process has it."""
    file = path.open("a+", errors="replace")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise InputError(
            f"{path.parent} is in use by another search (process {owner});"
            " wait for it, or choose another folder with --out"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _written(path: Path) -> float:
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
        return _written(self.path)


@contextmanager
def keeping_all() -> Iterator[None]:
    """Without the garbage collector, which takes a quarter of the time in which a large study
    is read, and finds nothing."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


# -- a journal in the folder ---------------------------------------------------------------


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
        return _written(self.path)

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


# Who holds an advisory lock.
_OWNER = (
    "select application_name from pg_locks join pg_stat_activity using (pid)"
    " where locktype = 'advisory' and granted and objsubid = 1"
    " and (classid::bigint << 32 | objid::bigint) = %s"
)

# -- PostgreSQL ----------------------------------------------------------------------------


class Postgres:
    """The study ``name`` in the PostgreSQL database at ``url``, as libpq reads it.

    The driver's only connection holds an advisory lock on the study for as long as it
    lives: what is written is written under the lock, and a driver that dies leaves none.
    (A pooler that hands each transaction another session would break this.) Passwords
    belong into PGPASSWORD, a password file or a service file; one in the URL is refused.
    """

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name
        if not url.startswith(("postgresql://", "postgres://")):
            kind = url.partition(":")[0] if "://" in url else "that"
            raise UsageError(
                "a storage is a PostgreSQL database, like postgresql://host/database;"
                f" {kind} is not one"
            )
        psycopg = _psycopg()
        try:
            parts = psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.ProgrammingError:  # which repeats the URL, and so its password
            raise UsageError("the storage's URL cannot be read; see `nas search --help`") from None
        if "password" in parts or "sslpassword" in parts:
            raise UsageError(
                "the storage's URL holds a password, which others may read; leave it out and"
                " set PGPASSWORD, or name a file with PGPASSFILE or a service with ?service="
            )
        self._engine: Any = None
        self._held = False

    def open(self) -> BaseStorage:
        """Connect as the study's driver; InputError where it has another one."""
        with self._connect() as connection:  # two that start at once both make the tables
            connection.execute("select pg_advisory_lock(%s)", [_key("the tables of Optuna")])
            RDBStorage(_DIALECT, {"creator": self._connect}).engine.dispose()
        one = {"pool_size": 1, "max_overflow": 0, "pool_pre_ping": True}
        creator = {"creator": self._drive, **one}
        storage = RDBStorage(
            _DIALECT, creator, skip_compatibility_check=True, skip_table_creation=True
        )
        self._engine = storage.engine
        return storage

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()

    @property
    def written(self) -> float:
        """When a driver last wrote (epoch seconds); 0 before the first."""
        found = self._select(
            "select max(greatest(datetime_start, datetime_complete)) from trials"
            " where study_id = %s having count(datetime_start) > 0"
        )
        return float(found[0][0].timestamp()) if found else 0.0  # Optuna writes local time

    def exists(self) -> bool:
        return bool(self._select("select 1 where %s > 0"))

    def described(self) -> list[str]:
        """The names of the studies in the database that say what they are, in their order."""
        with self._reading() as connection:
            if connection.execute("select to_regclass('studies')").fetchone() == (None,):
                return []
            found = connection.execute(
                "select study_name from studies join study_user_attributes using (study_id)"
                " where key = %s order by study_id",
                [ABOUT],
            ).fetchall()
        return [str(name) for (name,) in found]

    def about(self) -> str | None:
        """What the study says of itself, as JSON; None where it does not."""
        found = self._select(
            f"select value_json from study_user_attributes where study_id = %s and key = '{ABOUT}'"
        )
        return str(found[0][0]) if found else None

    def is_driven(self) -> bool:
        """Whether a driver holds the study's lock."""
        with self._reading() as connection:
            found = connection.execute(_OWNER, [_key(self.name)]).fetchone()
        return found is not None

    def rows(self, numbers: Sequence[int] | None = None) -> dict[int, dict[str, Any]]:
        """The latest row of each candidate by number, or of those with some ``numbers``; also
        beside a running driver."""
        of, revised = "", f"starts_with(key, '{REVISED}')"
        if numbers is not None:
            of = f" and t.number in ({', '.join(str(int(n)) for n in (-1, *numbers))})"
            revised = f"key in ({', '.join(repr(f'{REVISED}{int(n)}') for n in (-1, *numbers))})"
        found = self._select(
            "select value_json from trial_user_attributes a join trials t using (trial_id)"
            f" where study_id = %s and key = '{ROW}'{of} order by t.number"
        )
        found += self._select(
            f"select value_json from study_user_attributes where study_id = %s and {revised}"
        )
        rows = map(json.loads, (text for (text,) in found))
        return {row["number"]: row for row in rows}

    def hashes(self) -> dict[int, str]:
        """A hash of the latest row of each candidate, by number: a thousandth of their bytes."""
        found = self._select(
            "select t.number, md5(value_json) from trial_user_attributes a"
            f" join trials t using (trial_id) where study_id = %s and key = '{ROW}'"
            " order by t.number"
        )
        found += self._select(
            f"select substr(key, {len(REVISED) + 1})::integer, md5(value_json)"
            f" from study_user_attributes where study_id = %s and starts_with(key, '{REVISED}')"
        )
        return dict(found)

    def _select(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query with one parameter, the study's id; none where it is not there."""
        with self._reading() as connection:
            if connection.execute("select to_regclass('studies')").fetchone() == (None,):
                return []
            study = connection.execute(
                "select study_id from studies where study_name = %s", [self.name]
            ).fetchone()
            return connection.execute(query.encode(), study).fetchall() if study else []

    @contextmanager
    def _reading(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection to read by; InputError where the server goes meanwhile."""
        try:
            with self._connect() as connection:
                yield connection
        except _psycopg().OperationalError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> InputError:
        reason = str(error).strip().splitlines()[0]
        return InputError(f"{self.url} cannot be used: {reason}")

    def _connect(self, timeout_s: float = 0.0) -> psycopg.Connection[Any]:
        module = _psycopg()
        name = f"nas {socket.gethostname()} {os.getpid()}"
        end = time.monotonic() + timeout_s
        while True:
            try:
                found: psycopg.Connection[Any] = module.connect(self.url, application_name=name)
                return found
            except module.OperationalError as error:
                if time.monotonic() >= end:
                    raise self._unusable(error) from None
            time.sleep(1)

    def _drive(self) -> psycopg.Connection[Any]:
        """A connection that holds the study's lock; the pool makes another when it is lost."""
        connection = self._connect(_SERVER_TIMEOUT_S if self._held else 0.0)
        key = _key(self.name)
        for name, value in _KEEPALIVES.items():
            connection.execute(f"set {name} = {value}".encode())
        connection.execute(f"set lock_timeout = '{_LOCK_TIMEOUT_S}s'".encode())
        connection.commit()
        try:
            connection.execute("select pg_advisory_lock(%s)", [key])
        except _psycopg().errors.LockNotAvailable:
            connection.rollback()
            owner = connection.execute(_OWNER, [key]).fetchone()
            connection.close()
            raise InputError(
                f"the study {self.name!r} in {self.url} is in use by another search"
                f" ({owner[0] if owner else 'which has just ended'}); wait for it, or choose"
                " another name with --study"
            ) from None
        connection.commit()
        self._held = True
        return connection


def _key(text: str) -> int:
    """The number of an advisory lock: a signed 64-bit hash."""
    digest = hashlib.sha256(f"nas:{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError:
        raise InputError(
            "a PostgreSQL storage needs psycopg: pip install 'frontier-nas[postgresql]'"
        ) from None
    return psycopg
