"""Studies in a PostgreSQL database, of drivers on several machines, in Optuna's own format, which
its dashboard reads."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from nas.files import first_line
from nas.search.journal import ABOUT, REVISED, ROW
from nas.task import InputError, UsageError

if TYPE_CHECKING:
    import psycopg

_DIALECT = "postgresql+psycopg://"
# For the session of a driver that has just died to be noticed, and for a server to restart.
_LOCK_TIMEOUT_S, _SERVER_TIMEOUT_S = 2, 60
# A driver whose machine has vanished loses its session, and with it the lock, in a minute.
_KEEPALIVES = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
# Who holds an advisory lock.
_OWNER = (
    "select application_name from pg_locks join pg_stat_activity using (pid)"
    " where locktype = 'advisory' and granted and objsubid = 1"
    " and (classid::bigint << 32 | objid::bigint) = %s"
)


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
        """Connect as the study's driver; InputError where it has another one, and where the
        tables cannot be made or are another version's."""
        one = {"creator": self._drive, "pool_size": 1, "max_overflow": 0, "pool_pre_ping": True}
        try:
            with self._connect() as connection:  # two that start at once both make the tables
                key = _key("the tables of Optuna")
                connection.execute("select pg_advisory_lock(%s)", [key])
                RDBStorage(_DIALECT, {"creator": self._connect, "poolclass": NullPool})
            storage = RDBStorage(
                _DIALECT, one, skip_compatibility_check=True, skip_table_creation=True
            )
        except (SQLAlchemyError, RuntimeError) as error:  # as without the right to make tables
            raise self._unusable(error.__cause__ or error) from None
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
        """A connection to read by; InputError where the server goes meanwhile, or refuses it."""
        try:
            with self._connect() as connection:
                yield connection
        except _psycopg().Error as error:
            raise self._unusable(error) from None

    def _unusable(self, error: BaseException) -> InputError:
        return InputError(f"{self.url} cannot be used: {first_line(error)}")

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
