"""What a full training shows of itself, and how many compute threads it uses."""

from __future__ import annotations

import copy
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only

from nas import terminal
from nas.training.batches import Batch
from nas.training.lr import WarmupCosine
from nas.training.proxy import Proxy

# Several threads are clearly faster where a step of one takes so many times theirs, and an epoch is
# slow where it takes so many times the fastest.
FASTER, SLOWER = 1.25, 2.0
PACED_BY = 5  # last epochs, whose mean is a training's pace
SHOWN_S = 0.25  # between two updates of a terminal
LOGGED_S = 60.0  # between two lines elsewhere, where an epoch takes longer


class EpochLines(pl.Callback):
    """One line for each epoch on standard error, with the time that is left of all ``folds``,
    which are trained one after the other, each for ``epochs`` (None: the trainer's). On a terminal
    the steps of the present epoch are shown below; elsewhere they are a line a minute."""

    def __init__(self, folds: int = 1, epochs: int | None = None) -> None:
        self.fold, self.folds, self.epochs = 0, folds, epochs
        self.begin = math.nan
        self.before = 0  # epochs that were done in an earlier part of this training
        self._bar: Any = None
        self._shown = -math.inf

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.fold += 1
        if self.fold == 1:
            self.begin = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.fold == 1:
            self.before = trainer.current_epoch
        self._shown = time.monotonic()
        if trainer.is_global_zero and sys.stderr.isatty():
            self._bar = _progress()
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        now = time.monotonic()
        if now - self._shown < (LOGGED_S if self._bar is None else SHOWN_S):
            return
        if not trainer.is_global_zero:
            return
        self._shown = now
        steps = int(trainer.num_training_batches)
        left = f"{self._left(trainer, trainer.current_epoch + (i + 1) / steps):.0f} s left"
        epoch = f"epoch {trainer.current_epoch + 1}/{self.epochs or int(trainer.max_epochs or 0)}"
        if self._bar is None:
            terminal.line(
                f"{self._of_fold()}{epoch}  step {i + 1:,} of {steps:,}  ({left})", err=True
            )
            return
        task = self._bar.task_ids[0] if self._bar.task_ids else self._bar.add_task("", left="")
        self._bar.update(task, description=epoch, completed=i + 1, total=steps, left=left)

    def _of_fold(self) -> str:
        return f"fold {self.fold}/{self.folds} " if self.folds > 1 else ""

    def _left(self, trainer: pl.Trainer, done: float) -> float:
        """Seconds, from the pace so far, where ``done`` epochs of this fold are over."""
        epochs = self.epochs or int(trainer.max_epochs or 0)
        done += (self.fold - 1) * epochs
        pace = (time.monotonic() - self.begin) / (done - self.before)
        return pace * (self.folds * epochs - done)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        epoch, epochs = trainer.current_epoch + 1, self.epochs or int(trainer.max_epochs or 0)
        shown = "  ".join(
            f"{name} {float(value):.4g}"
            for name, value in trainer.callback_metrics.items()
            if "[" not in name
        )
        left = self._left(trainer, epoch)
        line = f"{self._of_fold()}epoch {epoch}/{epochs}  {shown}  ({left:.0f} s left)"
        self._shown = time.monotonic()
        if self._bar is None:
            terminal.line(line, err=True)
        else:
            self._bar.console.print(terminal.visible(line, lines=False))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _progress() -> Any:
    """A line on a terminal that is written over: the epoch, its steps, and the time that is left
    of the training."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
        console=terminal.console(err=True),
        transient=True,
    )


class StopAfter(pl.Callback):
    """Ends a training after ``epochs`` of its schedule (None: after all)."""

    def __init__(self, epochs: int | None) -> None:
        self.epochs = epochs

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


class InTime(pl.Callback):
    """Ends a training at ``end`` (of ``time.monotonic``): it is shortened to the epochs that fit by
    the pace of the last ones, so that its learning rate has come down when the time is over. Says
    so once.

    ``of_first`` returns, in all of several processes, the value that the first one gives it: their
    clocks differ, and they must plan alike. A training that continues has what its earlier parts
    have left of the time.
    """

    def __init__(self, end: float, of_first: Callable[[int], int] = lambda left: left) -> None:
        self.end, self.of_first, self._said = end, of_first, False
        self._planned, self._laps = 0, [math.nan]
        self._spent_s, self._begin = 0.0, math.nan  # in earlier parts; of this one
        self._shortened: tuple[int, int] | None = None  # epochs, steps of the schedule

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._planned, self._begin = trainer.max_epochs or 0, time.monotonic()
        self._laps = [self._begin]
        if self._shortened is not None:
            trainer.fit_loop.max_epochs, steps = self._shortened
            for schedule in _schedules(trainer):
                schedule.total_steps = steps

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._laps.append(time.monotonic())
        now = self._laps[-1]
        recent = self._laps[-1 - PACED_BY :]
        each_s, done = (now - recent[0]) / (len(recent) - 1), trainer.current_epoch + 1
        if done > self._planned:  # a training without a last epoch
            return
        left = max(0, min(self._planned - done, int((self.end - now) / each_s)))
        left = self.of_first(left)
        trainer.fit_loop.max_epochs = done + left
        steps = 0
        for schedule in _schedules(trainer):
            if left:
                schedule.end_after(round(left * schedule.last_epoch / done))
            steps = schedule.total_steps
        self._shortened = done + left, steps
        if done + left < self._planned and not self._said:
            rank_zero_only(terminal.line)(
                f"note: epochs of {each_s:.1f} s: the time is for about {done + left} of"
                f" {self._planned}, and the learning rate comes down by then",
                err=True,
            )
            self._said = True

    def state_dict(self) -> dict[str, Any]:
        spent_s = self._spent_s + time.monotonic() - self._begin
        return {"spent_s": spent_s, "shortened": self._shortened}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Subtract the time of the earlier parts, as Lightning's own limit of time does."""
        self._spent_s, self._shortened = state_dict["spent_s"], state_dict["shortened"]
        self.end -= self._spent_s


def _schedules(trainer: pl.Trainer) -> list[WarmupCosine]:
    found = (each.scheduler for each in trainer.lr_scheduler_configs)
    return [schedule for schedule in found if isinstance(schedule, WarmupCosine)]


@contextmanager
def kept_threads() -> Iterator[None]:
    """Gives torch the number of compute threads back that it had."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Threads(pl.Callback):
    """The number of compute threads of a training on a CPU: one, unless several are clearly faster.

    Small networks are slower with several, and far slower where other work uses the cores. So it
    is measured again, and said, where an epoch takes ``SLOWER`` times the fastest one.
    """

    def __init__(self, module: Proxy, batch: Batch) -> None:
        self.batch, self.most = batch, torch.get_num_threads()
        self.fastest_s, self._begin = math.inf, math.nan
        torch.set_num_threads(self.pick(module))

    def pick(self, module: Proxy) -> int:
        """The number (1, 2, 4 … up to all): the smallest that no larger one beats clearly."""
        state = copy.deepcopy(module.state_dict())
        chosen, best_s = 1, math.inf
        for threads in sorted({min(2**k, self.most) for k in range(self.most.bit_length() + 1)}):
            torch.set_num_threads(threads)
            step_s = self._step_s(module)
            if threads == 1 or best_s > FASTER * step_s:
                chosen, best_s = threads, step_s
        module.zero_grad(set_to_none=True)
        module.load_state_dict(state)  # the statistics of BatchNorm have moved
        return chosen

    def _step_s(self, module: Proxy) -> float:
        """The median seconds of a step, after one to warm up."""
        laps = []
        for _ in range(6):
            begin = time.perf_counter()
            with torch.random.fork_rng(devices=[]):  # the training's own draws stay the same
                module.training_step(self.batch, 0).backward()  # type: ignore[no-untyped-call]
            laps.append(time.perf_counter() - begin)
        return statistics.median(laps[1:])

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"threads": torch.get_num_threads()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with as many: sums in another order differ."""
        torch.set_num_threads(min(int(state_dict["threads"]), self.most))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if math.isnan(self._begin):  # the epoch was begun in an earlier part of the training
            return
        spent_s = time.monotonic() - self._begin
        self.fastest_s = min(self.fastest_s, spent_s)
        before = torch.get_num_threads()
        if before == 1 or spent_s <= max(SLOWER * self.fastest_s, 1.0):
            return
        assert isinstance(pl_module, Proxy)
        torch.set_num_threads(now := self.pick(pl_module))
        if now != before:
            terminal.line(
                f"an epoch took {spent_s:.1f} s instead of {self.fastest_s:.1f} s: other work uses"
                f" the cores; {now} thread(s) from now on",
                err=True,
            )
