"""Processes of ``nas train``, side by side on the places of a site."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.files import LAST, NETWORKS, PREVIOUS, first_line
from nas.finals.finalist import Finalist
from nas.finals.pace import recipe_epochs
from nas.machine import Process, Site
from nas.plan import GRACE_S
from nas.task import InputError, Task

LATE = 0.5  # of the time that it had: what a training may take beyond
# What is no part of a trained network's folder.
_OF_TRAINING = shutil.ignore_patterns("log", "log.json", NETWORKS, LAST, PREVIOUS)
_TICK_S = 0.2


@dataclass(frozen=True)
class Job:
    """``nas train`` of the recipe in ``folder``, on a place of a site or, without one, alone."""

    folder: Path
    options: tuple[str, ...]
    log: Path
    place: int | None = None


def train(
    task: Task, entries: list[Finalist], site: Site, end: float, show: Callable[[str], None]
) -> list[Finalist]:
    """Train ``entries`` side by side; on a machine for one alone with all that it has."""
    jobs: list[Job] = []
    entries = [replace(entry, alone=len(entries) == 1) for entry in entries]
    start_s = task.budget.start_s
    for place, entry in enumerate(entries):
        # Its schedule is as short as its pace asks for, from its first step on.
        left_s = max(start_s, end - time.monotonic() - 1.5 * start_s)
        limits = ("--epochs", str(entry.epochs), "--time-limit", f"{left_s:.0f}s")
        options = (*limits, "--test", "no", "--json")
        at = None if entry.alone else place
        jobs.append(Job(entry.folder, options, entry.folder / "log", at))
    found = run_all(jobs, site, end, show)
    return [
        replace(as_trained(task, entry, result), result=result or None, error=error)
        for entry, (result, error) in zip(entries, found, strict=True)
    ]


def as_trained(task: Task, entry: Finalist, result: dict[str, Any]) -> Finalist:
    """A finalist with the epochs of the schedule that it was trained by."""
    epochs = result.get("schedule_epochs", entry.epochs)
    if epochs == entry.epochs:
        return entry
    recipe = max(epochs, min(entry.recipe_epochs, recipe_epochs(task, entry.candidate)))
    return replace(entry, epochs=epochs, recipe_epochs=recipe)


def run_all(
    jobs: Sequence[Job], site: Site, end: float, show: Callable[[str], None]
) -> list[tuple[dict[str, Any], str]]:
    """What trainings print as JSON, and why there is none: all at the same time, each with its log.
    At ``end`` and ``LATE`` of the time more they are interrupted, as Ctrl-C does, then killed; one
    that still does not end is left behind."""
    deadline = end + LATE * max(0.0, end - time.monotonic()) + GRACE_S
    signals = iter((signal.SIGINT, signal.SIGKILL, signal.SIGKILL))
    processes: list[Process] = []
    late: set[int] = set()  # jobs that were interrupted
    with ExitStack() as stack:
        try:
            for job in jobs:
                job.log.parent.mkdir(parents=True, exist_ok=True)
                files = [job.log, job.log.with_suffix(".json")]
                errors, output = (stack.enter_context(file.open("wb")) for file in files)
                processes.append(site.start(job.folder, job.options, output, errors, job.place))
            while running := [i for i, process in enumerate(processes) if process.poll() is None]:
                show("finish")
                if time.monotonic() > deadline:
                    if (number := next(signals, None)) is None:
                        break  # it waits for a dead drive, and nothing ends it
                    _signal([processes[i] for i in running], number)
                    late, deadline = late | set(running), deadline + GRACE_S
                time.sleep(_TICK_S)
        except BaseException:
            _signal(processes, signal.SIGINT)
            for process in processes:
                try:
                    process.wait(GRACE_S)
                except subprocess.TimeoutExpired:  # it ignores Ctrl-C, as in a script's background
                    process.kill()
            raise
    return [
        _outcome(process, job.log, i in late)
        for i, (process, job) in enumerate(zip(processes, jobs, strict=True))
    ]


def _signal(processes: Sequence[Process], number: signal.Signals) -> None:
    for process in processes:
        if process.poll() is not None:
            continue
        if number == signal.SIGKILL:
            process.kill()
        else:
            process.send_signal(number)


def copy_trained(folder: Path, place: Path) -> None:
    """Copy what a trained network needs to a ``place`` that is not there yet. Raises InputError
    where it cannot be written."""
    try:
        shutil.copytree(folder, place, ignore=_OF_TRAINING)
    except OSError as error:  # of ``shutil`` one for all files, which has no ``errno``
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else first_line(error)
        raise InputError(
            f"{place} cannot be written ({reason}); make room and go on with --resume"
        ) from error


def _outcome(process: Process, log: Path, late: bool) -> tuple[dict[str, Any], str]:
    output = log.with_suffix(".json")
    printed = output.read_text().strip().splitlines()
    output.unlink()
    if not process.returncode and printed:
        return dict(json.loads(printed[-1])), ""
    if late:
        return {}, "it took longer than the time that was kept for it"
    if process.returncode == -signal.SIGKILL:
        return {}, f"its process was killed, most often for want of memory (see {log})"
    lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
    return {}, f"{lines[-1]} (see {log})"
