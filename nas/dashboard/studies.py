"""The studies that a dashboard shows: what of them is new since a moment, as JSON.

Every change has the next of one sequence of numbers. A viewer says which it has seen, and is sent
what came later, in order.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas import terminal
from nas.candidate import Candidate, State
from nas.dashboard.sources import Source, sources, spent
from nas.report.importance import LEAST
from nas.report.payload import detail, table
from nas.task import InputError, plain
from nas.terminal import visible

# Candidates in one message: under 100 KB.
TOGETHER = 400
# Messages that are kept for the next viewer.
_KEPT = 64
# While a search runs its time is sent this often.
_CLOCK_S = 5.0
# New runs are looked for this often.
_LOOK_S = 3.0


class Followed:
    """One study: its head, and which of its candidates changed when."""

    def __init__(self, source: Source, name: str) -> None:
        self.source, self.name = source, name
        self.id = hashlib.sha256(source.place.encode()).hexdigest()[:12]
        self.numbers: dict[int, int] = {}  # the change in which a candidate came last, in order
        self.head_at = self.live_at = self.reset_at = self.gone_at = 0
        self.head: dict[str, Any] | None = None
        self.live: dict[str, Any] = {}
        self.judgement: dict[str, Any] = {}  # "importance" and "chance"
        self.judged = 0  # candidates at which it was asked for
        self.problem = ""
        self.is_missed = False  # whether candidates could not be read for a viewer
        self.is_again = False  # whether viewers may hold rows of a deleted run in the same place
        self._spent: tuple[int, dict[str, float]] = (0, {})  # up to which change, and what

    def refresh(self, count: Iterator[int]) -> None:
        """Read what is new, and number each change. Raises InputError or OSError where it cannot
        be read."""
        if self.gone_at:
            return
        if self.source.is_gone():
            self.head, self.gone_at = None, next(count)
            self.numbers.clear()
            return
        if (found := self.source.head(self.name)) is not None:
            if self.is_again:
                self.is_again, self.reset_at = False, next(count)
            self.head, self.head_at = found, next(count)
        anew, changed = self.source.follower.changed()
        if anew:
            self.numbers.clear()
            self.live, self.judgement, self.judged = {}, {}, 0
            self.reset_at = next(count)
        elif self.is_missed:
            changed = [*self.numbers, *changed]
        self.is_missed = False
        for number in changed:
            self.numbers.pop(number, None)
            self.numbers[number] = next(count)
        self._look_at_clock(count)
        self.problem = ""

    def lose(self, error: Exception, count: Iterator[int]) -> None:
        """Take note that it cannot be read now: what is known stays, but not whether it runs."""
        if str(error) != self.problem:
            self.problem = str(error)
            terminal.line(f"{self.source.place}: {error}", err=True)
        if self.head is not None and self.live.get("state") != "unreadable":
            self.live = self.live | {"state": "unreadable"}
            self.live_at = next(count)

    def _look_at_clock(self, count: Iterator[int]) -> None:
        now = time.time()
        state, seconds = self.source.clock(self._ends, self._spent_so_far)
        moved = state == "running" and now - self.live.get("now", 0.0) >= _CLOCK_S
        if state != self.live.get("state") or moved:
            self.live = {"state": state, "seconds": round(seconds, 1), "now": round(now, 1)}
            self.live_at = next(count)

    def _ends(self) -> list[Candidate]:
        numbers = [min(self.numbers), next(reversed(self.numbers))] if self.numbers else []
        return self.source.follower.candidates(numbers)

    def _spent_so_far(self) -> dict[str, float]:
        """What candidates have spent of the budget; after each change all are read once."""
        last, numbers = next(reversed(self.numbers.values()), 0), list(self.numbers)
        if self._spent[0] != last:
            parts = (numbers[at : at + TOGETHER] for at in range(0, len(numbers), TOGETHER))
            found = (c for part in parts for c in self.source.follower.candidates(part))
            self._spent = last, spent(found)
        return self._spent[1]

    def table(self, numbers: Sequence[int]) -> dict[str, Any]:
        return table(self.source.follower.candidates(numbers), self.source.task)

    def detail(self, number: int) -> dict[str, Any] | None:
        """What is shown of one candidate; None where there is none of this number."""
        found = self._candidate(number)
        if found is None:
            return None
        more = self.source.complete(found)
        layers = more.pop("layers")
        return detail(replace(found, layers=layers)) | more

    def recipe(self, number: int) -> str | None:
        """The training recipe of a complete candidate, as YAML; None where there is none."""
        found = self._candidate(number)
        if found is None or found.state != State.COMPLETE:
            return None
        return self.source.recipe(found)

    def _candidate(self, number: int) -> Candidate | None:
        if number not in self.numbers:
            return None
        return next(iter(self.source.follower.candidates([number])), None)


class Studies:
    """The studies at some places: folders, journals, URLs of databases. All calls may come from
    several threads, but ``refresh`` from one at a time."""

    def __init__(self, places: Sequence[str | Path]) -> None:
        self._places = [str(place) for place in places]
        self._problems: dict[str, str] = {}
        self._followed: dict[str, Followed] = {}
        self._count = iter(range(1, 1 << 62))
        self._lock = threading.Lock()
        self._messages: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
        self._looked = -_LOOK_S
        self.last = 0  # the latest change

    def refresh(self) -> None:
        """Read what is new in all runs; a run that cannot be read is said once, and tried again."""
        found: list[Followed] = []
        if time.monotonic() - self._looked >= _LOOK_S:
            found = self._look()  # viewers need not wait for a database that does not answer
        with self._lock:
            for study in found:
                known = self._followed.get(study.id)
                if known is None or known.gone_at:
                    study.is_again = known is not None
                    self._followed[study.id] = study
            for study in self._followed.values():
                try:
                    study.refresh(self._count)
                except (InputError, OSError) as error:
                    study.lose(error, self._count)
            self.last = max(self.last, *map(_last, self._followed.values()), 0)

    def _look(self) -> list[Followed]:
        """The studies at the places; a place that cannot be read is said once."""
        found: list[tuple[str, Source]] = []
        for place in self._places:
            problem = ""
            try:
                found += sources(place)
            except (InputError, OSError) as error:
                problem = str(error)
            if problem and problem != self._problems.get(place):
                terminal.line(f"{place}: {problem}", err=True)
            self._problems[place] = problem
        self._looked = time.monotonic()
        names = [name for name, _ in found]
        return [
            Followed(s, name if names.count(name) == 1 else f"{Path(s.place).parent.name}/{name}")
            for name, s in found
        ]

    def updates(self, since: int, most: int) -> tuple[list[bytes], int]:
        """Messages about what came after the change ``since``, each a JSON object, and the change
        up to which they tell all. At most ``most``, beside a head of each study for a viewer who
        knows none (0)."""
        if since == self.last:
            return [], since
        messages: list[bytes] = []
        with self._lock:
            every = self._followed.values()
            shown = [s for s in every if s.head is not None or 0 < since < s.gone_at]
            if since == 0:  # a viewer who knows nothing of them
                messages += [self._message(s, {"reset": True, "head": s.head}) for s in shown]
            for group, (study, changes) in enumerate(_in_order(shown, since)):
                if group >= most:
                    return messages, since
                messages.append(self._built(study, changes))
                since = changes[-1][0]
            return messages, self.last

    def _built(self, study: Followed, changes: list[tuple[int, Any]]) -> bytes:
        key = (study.id, changes[0][0], changes[-1][0], len(changes))
        if key not in self._messages:
            kinds = [kind for _, kind in changes]
            content: dict[str, Any] = {}
            if "gone" in kinds:
                content["gone"] = True
            if "reset" in kinds:
                content["reset"] = True
            if "head" in kinds or "reset" in kinds:
                content["head"] = study.head
            if "live" in kinds:
                content["live"] = study.live | study.judgement
            if numbers := [kind for kind in kinds if isinstance(kind, int)]:
                try:
                    content["table"] = study.table(numbers)
                except (InputError, OSError):
                    study.is_missed = True  # they are sent when they can be read again
                    return self._message(study, content)
            self._messages[key] = self._message(study, content)
            while len(self._messages) > _KEPT:
                self._messages.popitem(last=False)
        return self._messages[key]

    def _message(self, study: Followed, content: dict[str, Any]) -> bytes:
        row = {"study": study.id, **content}
        return json.dumps(row, allow_nan=False, separators=(",", ":")).encode()

    def to_judge(self) -> Followed | None:
        """A study that has grown by a fifth since its importances were computed."""
        with self._lock:
            for study in self._followed.values():
                if study.head is not None and len(study.numbers) > max(LEAST, 1.2 * study.judged):
                    study.judged = len(study.numbers)
                    return study
        return None

    def judge(self, study: Followed, found: dict[str, Any]) -> None:
        """Show the importances of a study's parameters, and what chance would have reached."""
        with self._lock:
            study.judgement = plain(found, visible)
            study.live_at = self.last = next(self._count)

    def detail(self, study: str, number: int) -> bytes | None:
        """What is shown of one candidate, as JSON; None where there is none."""
        with self._lock:
            followed = self._followed.get(study)
            found = followed.detail(number) if followed else None
        return None if found is None else json.dumps(found, allow_nan=False).encode()

    def recipe(self, study: str, number: int) -> str | None:
        """The training recipe of a complete candidate, as YAML; None where there is none."""
        with self._lock:
            followed = self._followed.get(study)
            return followed.recipe(number) if followed else None

    def place(self, study: str, number: int) -> str | None:
        """The folder of a complete candidate's run; None where there is none at hand."""
        with self._lock:
            followed = self._followed.get(study)
            if followed is None or followed.recipe(number) is None:
                return None
            return followed.source.place


def _last(study: Followed) -> int:
    row = next(reversed(study.numbers.values()), 0)
    return max(row, study.head_at, study.live_at, study.reset_at, study.gone_at)


def _in_order(
    studies: Sequence[Followed], since: int
) -> Iterator[tuple[Followed, list[tuple[int, Any]]]]:
    """The changes after ``since`` in order, those of one study that follow each other together:
    the number of a candidate, "head", "live", "reset" or "gone"."""
    changes: list[tuple[int, Followed, Any]] = []
    for study in studies:
        marks = [("head", study.head_at), ("live", study.live_at), ("reset", study.reset_at)]
        if study.gone_at:  # which is all that there is to say of it
            marks = [("gone", study.gone_at)]
        changes += [(at, study, kind) for kind, at in marks if at > since]
        for number, at in reversed(study.numbers.items()):
            if at <= since:
                break
            changes.append((at, study, number))
    changes.sort(key=lambda change: change[0])
    group: list[tuple[int, Any]] = []
    owner: Followed | None = None
    for at, study, kind in changes:
        if group and owner is not None and (study is not owner or len(group) >= TOGETHER):
            yield owner, group
            group = []
        owner = study
        group.append((at, kind))
    if owner is not None and group:
        yield owner, group
