"""A training that can be ended at any moment and continues as if it had not been.

Everything that its next step depends on is in ``last.ckpt``: Lightning's own state (weights,
optimiser, schedule, progress, what callbacks keep) and, beside it, the generators of random
numbers and the place in the shuffled data. It is written at the end of every epoch, within long
ones every ``EVERY_S`` seconds, and when a signal asks for the end.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from nas.task import InputError
from nas.training.batches import Batches

EVERY_S = 600.0  # a training that is killed loses so much at most, whatever an epoch takes
ASKED_EVERY = 20  # steps of several processes: to agree, each of them waits for its GPU
_SEEDS = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")  # variables in which Lightning keeps a seed


class Interrupted(Exception):  # noqa: N818  # a wish, not an error
    """A signal asked for the end of the training, whose state is kept."""


class Signals:
    """Ctrl-C, SIGTERM (of ``kill`` and of a cluster that wants its machine back), SIGHUP (of a
    terminal that is closed) and, under Slurm, SIGUSR1. During a training the first one asks for
    its end (``heard``); elsewhere, and for the second time, they raise KeyboardInterrupt."""

    def __init__(self) -> None:
        self.heard = self.training = False

    def numbers(self) -> list[signal.Signals]:
        """Those to listen to; what is ignored (``nohup``) stays so."""
        wanted = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        wanted += [signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else []
        return [number for number in wanted if signal.getsignal(number) != signal.SIG_IGN]

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in self.numbers():
                signal.signal(number, self._hear)

    def _hear(self, *_: Any) -> None:
        if self.heard or not self.training:
            raise KeyboardInterrupt
        self.heard = True


@contextmanager
def signals() -> Iterator[Signals]:
    """Listen to signals, and leave them as they were."""
    found = Signals()
    kept = {number: signal.getsignal(number) for number in found.numbers()}
    found.listen()
    try:
        yield found
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in kept.items():
                signal.signal(number, handler)


class KeepLast(Checkpoint):
    """Keeps the state of a training in the file ``path``, and restores it where ``trainer.fit`` is
    given that file. Ends the training, by raising Interrupted, where a signal was heard.

    ``recipe`` is kept in the file: a training continues only by the recipe that it was begun
    with; ``seconds`` are those of all its parts.
    """

    def __init__(self, path: Path, recipe: dict[str, Any], heard: Signals) -> None:
        self.path, self.recipe, self.heard = path, recipe, heard
        self.seconds = 0.0
        self._begin = self._saved = time.monotonic()
        self._batches_done = 0
        self._restored: dict[str, Any] | None = None
        self._trainer: pl.Trainer | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._trainer = trainer

    # -- restoring -----------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict
        self.seconds = float(state_dict["seconds"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin = self._saved = time.monotonic()
        self.heard.listen()  # Lightning has put its own handlers in the place of ours
        self.heard.training = True
        restored = self._restored is not None
        if self._any(trainer, restored) and self._any(trainer, not restored):
            raise InputError(
                f"{self.path} is not seen by all {trainer.world_size} processes; --out must be a"
                " folder that all machines share"
            )
        if (state := self._restored) is None:
            return
        self._restored = None
        of_rank = state["ranks"][trainer.global_rank]
        loader = trainer.train_dataloader
        assert isinstance(loader, Batches)
        loader.go_to(of_rank["position"])
        self._batches_done = of_rank["position"]["done"]
        _set_generators(of_rank["generators"])

    # -- keeping -------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        self._batches_done = done = i + 1
        if done % trainer.accumulate_grad_batches or done >= trainer.num_training_batches:
            return  # gradients are no part of the state; the end of an epoch is another hook
        if trainer.world_size > 1 and done // trainer.accumulate_grad_batches % ASKED_EVERY:
            return
        due = trainer.is_global_zero and time.monotonic() - self._saved > EVERY_S
        if self._any(trainer, self.heard.heard or due):
            self._save(trainer)
            self._end_if_asked(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._batches_done = int(trainer.num_training_batches)
        self._save(trainer)
        self._end_if_asked(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.heard.training = False
        self.seconds += time.monotonic() - self._begin
        self._begin = time.monotonic()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.heard.training = False

    def _end_if_asked(self, trainer: pl.Trainer) -> None:
        if self._any(trainer, self.heard.heard):
            raise Interrupted

    @staticmethod
    def _any(trainer: pl.Trainer, wish: bool) -> bool:
        """Whether one of all processes wishes it: they must stop at the same step."""
        if trainer.world_size == 1:
            return wish
        return bool(trainer.strategy.reduce_boolean_decision(wish, all=False))

    def _save(self, trainer: pl.Trainer) -> None:
        unfinished = self.path.with_name(f"{self.path.name}.new")
        trainer.save_checkpoint(unfinished)
        if trainer.is_global_zero:
            unfinished.replace(self.path)
        self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        trainer = self._trainer
        assert trainer is not None
        loader = trainer.train_dataloader
        assert isinstance(loader, Batches)
        own = {
            "position": loader.position(self._batches_done),
            "generators": _generators(),
        }
        ranks: list[Any] = [own]
        if trainer.world_size > 1:
            ranks = [None] * trainer.world_size
            torch.distributed.all_gather_object(ranks, own)
        now = time.monotonic()
        return {
            "recipe": json.dumps(self.recipe, sort_keys=True),
            "ranks": ranks,
            "seconds": self.seconds + now - self._begin,
        }


def _generators() -> dict[str, Any]:
    """The states of the generators of random numbers, as plain values and tensors."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": (version, list(numbers), gauss),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_generators(states: dict[str, Any]) -> None:
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


@contextmanager
def kept_generators() -> Iterator[None]:
    """Gives the generators of random numbers back as they were, whatever a training seeds."""
    states, seeds = _generators(), {name: os.environ.get(name) for name in _SEEDS}
    try:
        yield
    finally:
        _set_generators(states)
        for name, value in seeds.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def refuse_others(path: Path, recipe: dict[str, Any]) -> None:
    """Raise InputError where the state in the file ``path`` is that of another recipe, or no state
    of a training. Nothing in the file is executed."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        kept = json.loads(content["callbacks"][KeepLast.__qualname__]["recipe"])
    except (*(AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError),
            pickle.UnpicklingError) as error:  # fmt: skip
        raise InputError(
            f"{path} is not the state of a training; remove it to begin anew"
        ) from error
    if differing := sorted(_differing(kept, recipe)):
        raise InputError(
            f"{path} is of a training with another {', '.join(differing)}; train with the recipe"
            " that it was begun with, or without --resume"
        )


def _differing(one: Any, other: Any, key: str = "") -> Iterator[str]:
    """The keys in which two recipes differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in one.keys() | other.keys():
            yield from _differing(one.get(name), other.get(name), f"{key}.{name}".strip("."))
    elif one != other:
        yield key
