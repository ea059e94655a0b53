"""The progress of a search, on standard error: a live picture on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import terminal
from nas.rules import folds
from nas.show import duration
from nas.terminal import figure, percent

if TYPE_CHECKING:
    from nas.candidate import Candidate
    from nas.driver import Progress
    from nas.run import Run


class Display:
    """A live table on a terminal; elsewhere a line every 15 seconds and for each phase."""

    EVERY = 15.0

    def __init__(self, data: Path) -> None:
        self._live: Any = None
        self._last = 0.0
        self._phase = ""
        self._seconds: dict[str, float] = {}  # spent in each phase
        self._spent_s: float | None = None
        # Of large data; what is read at once needs no word.
        self._reading = threading.Timer(2.0, terminal.line, (f"reading {data}",), {"err": True})
        self._reading.daemon = True
        self._reading.start()

    def start(self, run: Run) -> None:
        self._reading.cancel()
        task = run.task
        profile, fidelity = task.profile, task.fidelity
        for note in run.notes:
            terminal.line(f"note: {note}", err=True)
        wanted = ", ".join(f"{o.metric} ({o.direction})" for o in task.objectives)
        limits = f"; limits: {', '.join(map(str, task.constraints))}" if task.constraints else ""
        kinds = ", ".join(
            f"{t.name} ({t.kind}{f', {len(t.classes)} classes' if t.classes else ''})"
            for t in task.targets[:5]
        )
        parts = folds(task)
        folded = f", {parts}-fold cross-validation" if parts > 1 else ""
        for line in (
            f"{task.modality}: {profile.n_train} train, {profile.n_val} validation,"
            f" {profile.n_test} test samples ({profile.split_method})",
            f"target: {kinds}",
            f"objectives: {wanted}{limits}",
            f"families: {', '.join(run.spaces)}",
            f"proxies: {fidelity.epochs} epochs on {percent(fidelity.share)} of the training part"
            f"{folded}, {task.budget.workers} workers on {task.device}",
            f"folder: {run.folder}",
            "start: workers import torch and load the data; the time limit counts this",
        ):
            terminal.line(line, err=True)

    def update(self, progress: Progress) -> None:
        now = time.monotonic()
        live = terminal.is_live(sys.stderr)
        phase = progress.phase.partition(":")[0]
        before = progress.spent_s if self._spent_s is None else self._spent_s
        self._seconds[phase] = self._seconds.get(phase, 0.0) + progress.spent_s - before
        self._spent_s = progress.spent_s
        wait = 0.5 if live else self.EVERY
        if now - self._last < wait and phase == self._phase:
            return
        self._last, self._phase = now, phase
        if live:
            self._draw(progress)
        else:
            stamp = datetime.now().isoformat(timespec="seconds")
            fields = " ".join(f"{k}={v}" for k, v in _summary(progress).items())
            terminal.line(f"{stamp} {fields}", err=True)

    def _draw(self, progress: Progress) -> None:
        from rich.live import Live

        if self._live is None:
            self._live = Live(
                console=terminal.console(err=True), refresh_per_second=2, transient=True
            )
            self._live.start()
        self._live.update(_picture(progress))

    def close(self) -> None:
        """End the display, and say where the time went."""
        self._reading.cancel()
        if self._live is not None:
            self._live.stop()
            self._live = None
        spent = {phase: seconds for phase, seconds in self._seconds.items() if seconds >= 0.5}
        if spent:
            phases = ", ".join(f"{phase} {duration(s)}" for phase, s in spent.items())
            terminal.line(f"time: {phases}", err=True)
        self._seconds = {}


# What a search is at, by the first word of a phase or of what workers do beside candidates.
_PHASES = {
    "start": "starting workers",
    "learning-rates": "testing learning rates",
    "pace": "timing the baselines",
    "search": "searching",
    "costs": "measuring costs",
    "simple-models": "fitting simple models",
    "latency": "measuring latency",
    "measure": "measuring latencies of the front",
    "finish": "training the best at full scale",
}


def _phase(word: str) -> str:
    """A phase for people: "measuring costs 40/200"."""
    name, _, done = word.partition(":")
    return " ".join(filter(None, (_PHASES.get(name, name), done)))


def _picture(progress: Progress) -> Any:
    """A moment of a search for a terminal: the phase, one bar of what is spent of the budget, what
    was found, and what each worker is at. Each candidate in training has one line."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    summary = _summary(progress)
    phase, running = summary.pop("phase"), summary.pop("running", "")
    if phase == "search" and not progress.running and progress.calls:
        phase = progress.calls[0]
    found = terminal.text("")
    for name, value in summary.items():
        found = found + terminal.text(f"{name} ", "bold") + terminal.text(f"{value}  ")
    at_work = Table.grid(padding=(0, 2))
    for c in progress.running if running else ():
        assert progress.study is not None
        last = c.curve[-1] if c.curve else {}
        names = (progress.study.task.quality.metric, "val_loss")
        shown = "  ".join(f"{name} {figure(last[name])}" for name in names if name in last)
        at_work.add_row(f"#{c.number}", c.label, f"epoch {_reached(progress, c)}", shown)
    for word in progress.calls:
        if word != phase:
            at_work.add_row("", _phase(word))
    used = _spent_fraction(progress)
    bar = Table.grid(padding=(0, 1))
    if used is not None:
        bar.add_row(ProgressBar(total=1.0, completed=used, width=40), f"{used:.0%}")
    return Group(terminal.text(_phase(phase), "bold"), bar, found, at_work)


def _spent_fraction(progress: Progress) -> float | None:
    """How much of the budget is spent, 0 to 1: of its parts the one that ends the search first.
    None where nothing ends it."""
    study, budget = progress.study, progress.budget
    parts = []
    if budget.time_limit_s:
        parts.append(progress.spent_s / budget.time_limit_s)
    if study is not None:
        if budget.trials:
            parts.append((study.spent - len(progress.running)) / budget.trials)
        parts += [study.hours(device) / n for device, n in budget.device_hours.items() if n]
    return min(1.0, max(0.0, *parts)) if parts else None


def _summary(progress: Progress) -> dict[str, str]:
    """What a user wants to know of a running search, in a few words each."""
    from nas.front import best  # NumPy, which `nas --help` does without

    study, budget, spent_s = progress.study, progress.budget, progress.spent_s
    summary = {"phase": progress.phase, "spent": duration(spent_s)}
    if study is None:
        return summary
    standings = Counter(c.standing[0] for c in study.candidates())
    budgets = {
        device + "_hours": (study.hours(device), n) for device, n in budget.device_hours.items()
    }
    if budget.trials is not None:
        budgets["trials"] = (study.spent - len(progress.running), budget.trials)
    left = {name: spent_s * (limit / used - 1) for name, (used, limit) in budgets.items() if used}
    if budget.time_limit_s is not None:
        left["time"] = budget.time_limit_s - spent_s
        summary["spent"] += f"/{duration(budget.time_limit_s)}"
    if left:
        summary["left"] = duration(max(0.0, min(left.values())))
    for name, (used, limit) in budgets.items():
        eta = f"(left:{duration(max(0.0, left[name]))})" if name in left else ""
        summary[name] = f"{used:.3g}/{limit:g}{eta}"
    for name in ("complete", "pruned", "failed"):
        summary[name] = str(standings[name])
    if standings["cut off"]:  # at the end, or earlier in a search that was resumed
        summary["cut_off"] = str(standings["cut off"])
    at = [f"#{c.number}:{c.family}({_reached(progress, c)})" for c in progress.running]
    summary["running"] = ",".join([*at, *progress.calls]) or "-"
    front = study.front()
    if front:
        metric, first = study.task.quality.metric, best(front, study.task.quality)
        value = figure(first.metrics[metric])
        summary["best"] = f"{metric}:{value}(#{first.number}:{first.family})"
        summary["front"] = str(len(front))
    return summary


def _reached(progress: Progress, candidate: Candidate) -> str:
    """The epochs of a candidate that are over: 12/30, or with several folds 12/30,fold:2/5."""
    assert progress.study is not None
    fold, epoch = progress.study.reached.get(candidate.number, (1, 0))
    parts = folds(progress.study.task)
    return f"{epoch}/{candidate.epochs}" + (f",fold:{fold}/{parts}" if parts > 1 else "")
