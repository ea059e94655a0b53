"""Where the studies of a dashboard are read: folders of runs, journals that were copied without
their folder, and PostgreSQL databases."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from nas import rules
from nas.candidate import Candidate, Reason, State
from nas.report import StudyView
from nas.report.payload import head
from nas.run import Run
from nas.search.follow import Follower, JournalFollower, PostgresFollower, follow
from nas.search.postgres import Postgres
from nas.space import Space
from nas.task import InputError, Task

# The files of a run from which its head is made.
_FILES = ("task.json", "run.json", "lr.json", "baselines.json", "finished.json")


Ends = Callable[[], Sequence[Candidate]]
Spent = Callable[[], Mapping[str, float]]


class Source(Protocol):
    """One study: ``place`` says where, and ``follower`` and ``task`` are there once its head is."""

    place: str
    follower: Follower
    task: Task

    def is_gone(self) -> bool:
        """Whether there is nothing at its place any more."""

    def head(self, name: str) -> dict[str, Any] | None:
        """What changes seldom (``nas.report.payload.head``); None where it is as before."""

    def clock(self, ends: Ends, spent: Spent) -> tuple[str, float]:
        """Whether it is "starting", "running", "stopped", "finished" or only "stored", and its
        seconds so far. ``ends`` gives the first candidate and the one that has changed last,
        ``spent`` what ``nas.dashboard.sources.spent`` says of all."""

    def complete(self, candidate: Candidate) -> dict[str, Any]:
        """What is known of a candidate beside its row: ``layers``, and whether it was ``trained``
        at full scale, and whether its weights were ``kept``."""

    def recipe(self, candidate: Candidate) -> str | None:
        """Its training recipe, as YAML; None where its run's folder is not at hand."""

    def view(self) -> tuple[list[Candidate], Task, Mapping[str, Space]]:
        """All candidates, the task and its spaces."""


class Folder:
    """A run in a folder."""

    follower: Follower

    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder, str(folder.resolve())
        self._stamp: Any = None

    def is_gone(self) -> bool:
        return not (self.folder / "task.json").exists()

    def head(self, name: str) -> dict[str, Any] | None:
        stamps = tuple(_stamp(self.folder / file) for file in _FILES)
        if stamps == self._stamp:
            return None
        self.run = Run(self.folder)
        self.task = self.run.task
        # Whoever copies a command may be anywhere.
        found = head(replace(self.run.view([]), name=name, folder=self.place))
        if self._stamp is None:
            self.follower = follow(self.folder, **self.run.storage)
        self._stamp = stamps
        return found

    def clock(self, ends: Ends, spent: Spent) -> tuple[str, float]:
        seconds = self.run.spent_s
        if self.run.is_running:
            return "running", seconds
        if self.run.finished is not None:
            return "finished", seconds
        return _ended(self.task, seconds, spent), seconds

    def complete(self, candidate: Candidate) -> dict[str, Any]:
        number, run = candidate.number, self.run
        ready = {"trained": number in run.trained, "kept": number in run.kept}
        return {"layers": run.layers(number), **ready}

    def recipe(self, candidate: Candidate) -> str | None:
        return self.run.recipe_text(candidate)

    def view(self) -> tuple[list[Candidate], Task, Mapping[str, Space]]:
        run = Run(self.folder)
        return run.candidates(), run.task, run.spaces


class Stored:
    """A study in a database, or in a journal without its folder."""

    def __init__(self, follower: Follower, place: str) -> None:
        self.follower, self.place = follower, place
        self._about: str | None = None

    def is_gone(self) -> bool:
        return self.follower.is_gone()

    def head(self, name: str) -> dict[str, Any] | None:
        about = self.follower.about(self._about)
        if about is None:
            raise InputError(
                "its task is not kept there, as by searches of earlier versions; give its folder"
            )
        if about == self._about:
            return None
        found = json.loads(about)
        self.task = Task.from_dict(found["task"])
        self.spaces = {name: Space.from_dict(s) for name, s in found["spaces"].items()}
        self._about = about
        view = StudyView(
            task=self.task,
            candidates=(),
            name=name,
            spaces=self.spaces,
            rules={r.id: (r.statement, r.source) for r in rules.RULES.values()},
            **{key: found[key] for key in ("baselines", "rate_tests", "notes", "versions")},
        )
        return head(view)

    def clock(self, ends: Ends, spent: Spent) -> tuple[str, float]:
        candidates = ends()
        if not candidates:
            return "starting", 0.0
        first, last = candidates[0], candidates[-1]
        seconds = max(0.0, last.started + last.seconds - first.started)
        is_driven = self.follower.is_driven()
        if is_driven is None:
            return "stored", seconds
        return "running" if is_driven else _ended(self.task, seconds, spent), seconds

    def complete(self, candidate: Candidate) -> dict[str, Any]:
        return {"layers": (), "trained": False, "kept": False}

    def recipe(self, candidate: Candidate) -> str | None:
        return None

    def view(self) -> tuple[list[Candidate], Task, Mapping[str, Space]]:
        self.head("")
        _, numbers = self.follower.changed()
        return self.follower.candidates(sorted(numbers)), self.task, self.spaces


def sources(place: str) -> list[tuple[str, Source]]:
    """The studies at a place, each with its name: a run's folder, a folder that holds some, a
    journal, or the URL of a database. Raises InputError or OSError where it cannot be read."""
    if is_url(place):
        names = Postgres(place, "").described()
        return [(name, Stored(PostgresFollower(place, name), f"{place} {name}")) for name in names]
    path = Path(place)
    if path.is_file():
        if _is_run(path.parent):
            return [(path.parent.resolve().name, Folder(path.parent))]
        return [(path.stem, Stored(JournalFollower(path), str(path.resolve())))]
    runs = [path] if _is_run(path) else sorted(path.iterdir())
    return [(run.resolve().name, Folder(run)) for run in runs if _is_run(run)]


def _is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, as far as it may be read."""
    # Path.exists raises for lost+found and the like before Python 3.14.
    return os.path.exists(folder / "task.json")


def source(place: str) -> Source:
    """The study of a ``Source.place``."""
    url, _, name = place.partition(" ") if is_url(place) else ("", "", "")
    if name:
        return Stored(PostgresFollower(url, name), place)
    return sources(place)[0][1]


def is_url(place: str) -> bool:
    """Whether a place is a database and no path."""
    return "://" in place


def spent(candidates: Iterable[Candidate]) -> dict[str, float]:
    """What candidates have spent, as far as budgets count it: ``trials`` (``Study.spent``), and the
    hours of each kind of device."""
    waiting = (Reason.DUPLICATE, Reason.INTERRUPTED)  # the latter are trained again
    roots: set[int] = set()
    seconds = {"cpu": 0.0, "gpu": 0.0}
    for c in candidates:
        for device, more in c.device_seconds.items():
            seconds[device] += more
        if c.state != State.RUNNING and c.reason not in waiting:
            roots.add(c.number if c.root < 0 else c.root)
    return {"trials": float(len(roots))} | {device: s / 3600 for device, s in seconds.items()}


def _ended(task: Task, seconds: float, spent: Spent) -> str:
    """The state of a search that does not run."""
    budget = task.budget
    if budget.time_limit_s is not None and seconds >= 0.9 * budget.time_limit_s:
        return "finished"
    limits = {device: 0.9 * hours for device, hours in budget.device_hours.items()}
    if budget.trials is not None:
        limits["trials"] = budget.trials
    if limits and any(used >= limits.get(what, math.inf) for what, used in spent().items()):
        return "finished"
    return "stopped" if seconds else "starting"


def _stamp(path: Path) -> tuple[int, int]:
    try:
        about = path.stat()
    except FileNotFoundError:
        return 0, 0
    return about.st_mtime_ns, about.st_size
