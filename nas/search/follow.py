"""Reading a study while its driver writes it: which candidates are new or have changed, and their
rows when they are asked for. Rows stay where they are kept, as ten thousand are 50 MB."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.candidate import Candidate
from nas.search.journal import ABOUT, describes, holds_row, row_in
from nas.search.postgres import Postgres
from nas.task import InputError

_CHUNK = 1 << 22  # bytes that are read at once
_LOAD = 0.1  # of the time a database works for one who follows a study, at most
_NUMBER = re.compile(rb'"number":(\d+)')


class JournalFollower:
    """The journal at ``path``, read from where the last call ended. A torn last line waits for its
    end; lines that are damaged are passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[int, tuple[int, int]] = {}  # of each row: first byte, bytes
        self._about: tuple[int, int] | None = None  # of what the study says of itself
        self._read = 0
        self._file = 0  # which file that was (its inode)
        self._anew, self._new = False, dict[int, None]()  # since the last call of ``changed``

    def changed(self) -> tuple[bool, list[int]]:
        """Whether all begins anew (the file was replaced), and the numbers of candidates with a
        new row, in the order of their writing."""
        self._scan()
        anew, found = self._anew, list(self._new)
        self._anew, self._new = False, {}
        return anew, found

    def about(self, known: str | None) -> str | None:
        """What the study says of itself (``Study.describe``), as JSON; None where it does not.
        ``known`` is what an earlier call has returned."""
        self._scan()
        if self._about is None:
            return None
        start, length = self._about
        line = _read_at(self.path, [(start, length)])[0]
        try:
            found = json.loads(line)["user_attr"][ABOUT]
        except (ValueError, KeyError, TypeError):
            return known
        return json.dumps(found)

    def is_driven(self) -> bool | None:
        """Whether a driver writes it now; None where that cannot be known."""
        return None

    def is_gone(self) -> bool:
        """Whether there is no journal any more."""
        return not self.path.exists()

    def _scan(self) -> None:
        try:
            about = self.path.stat()
        except FileNotFoundError:
            if self._file:
                self._forget()
            return
        if self._file and (about.st_ino != self._file or about.st_size < self._read):
            self._forget()
        self._file = about.st_ino
        if about.st_size == self._read:
            return
        with self.path.open("rb") as file:
            while True:
                file.seek(self._read)
                data = file.read(_CHUNK)
                while not (whole := data.rfind(b"\n") + 1) and (more := file.read(_CHUNK)):
                    data += more  # a line that is longer
                if not whole:
                    return
                for line in data[:whole].splitlines(keepends=True):
                    self._take(line)

    def _forget(self) -> None:
        self._places, self._about, self._read, self._file = {}, None, 0, 0
        self._anew, self._new = True, {}

    def _take(self, line: bytes) -> None:
        place = (self._read, len(line))
        if (number := _number(line)) is not None:
            self._places[number] = place
            self._new.pop(number, None)
            self._new[number] = None
        elif describes(line):
            self._about = place
        self._read += len(line)

    def candidates(self, numbers: Sequence[int]) -> list[Candidate]:
        """The candidates with these numbers; those whose row cannot be read are left out."""
        places = sorted((self._places[n], n) for n in numbers if n in self._places)
        lines = _read_at(self.path, [place for place, _ in places])
        found = {n: _candidate(line) for (_, n), line in zip(places, lines, strict=True)}
        return [c for n in numbers if (c := found.get(n)) is not None]


def _read_at(path: Path, places: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes of a file at places: first byte, number of bytes."""
    if not places:
        return []
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return [os.pread(descriptor, length, start) for start, length in places]
    finally:
        os.close(descriptor)


def _number(line: bytes) -> int | None:
    """The number of the candidate whose row a line holds."""
    try:
        match = _NUMBER.search(line, 0, 600) if holds_row(line) else None
    except ValueError:
        return None
    return int(match[1]) if match else None


def _candidate(line: bytes) -> Candidate | None:
    try:
        row = row_in(line)
        return None if row is None else Candidate.from_dict(row)
    except (ValueError, InputError):
        return None


class PostgresFollower:
    """A study in a PostgreSQL database, by a hash of each row. The database works for it no more
    than ``_LOAD`` of the time: what is asked in between is answered as before."""

    def __init__(self, url: str, name: str) -> None:
        self._storage = Postgres(url, name)
        self._known: dict[int, str] = {}
        self._about: str | None = None
        self._is_driven = self._is_gone = False
        self._problem = ""  # of the last call that asked the database
        self._due = 0.0

    def changed(self) -> tuple[bool, list[int]]:
        begin = time.monotonic()
        if begin < self._due:
            if self._problem:
                raise InputError(self._problem)
            return False, []
        try:
            return False, self._changed()
        except InputError as error:
            self._problem = str(error)
            raise
        finally:
            self._due = begin + (time.monotonic() - begin) / _LOAD

    def _changed(self) -> list[int]:
        about, self._is_driven = self._storage.about(), self._storage.is_driven()
        self._is_gone = about is None and self._about is not None
        self._about = about
        hashes = self._storage.hashes()
        found = [n for n, text in hashes.items() if self._known.get(n) != text]
        self._known, self._problem = hashes, ""
        return found

    def is_gone(self) -> bool:
        """Whether the study was there, and was deleted."""
        return self._is_gone

    def about(self, known: str | None) -> str | None:
        """As of a journal."""
        if self._about is None:
            self._about = self._storage.about()
        return self._about

    def is_driven(self) -> bool | None:
        """Whether a driver holds the study's lock."""
        return self._is_driven

    def candidates(self, numbers: Sequence[int]) -> list[Candidate]:
        rows: dict[int, dict[str, Any]] = self._storage.rows(numbers)
        found = []
        for row in (rows[n] for n in numbers if n in rows):
            try:
                found.append(Candidate.from_dict(row))
            except InputError:  # of another version: left out, as in a journal
                continue
        return found


Follower = JournalFollower | PostgresFollower


def follow(folder: Path, storage: str = "", name: str = "") -> Follower:
    """A follower of the study of a run, by the arguments that say where it is kept."""
    return PostgresFollower(storage, name) if storage else JournalFollower(folder / "study.journal")
