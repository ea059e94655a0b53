"""Loggers that people use (``--logger``): Lightning's own, for a training and for a search."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from nas import terminal
from nas.candidate import Candidate, State
from nas.task import InputError

WAIT_S = 60.0  # for what is not logged yet when a search has ended


def make_logger(name: str, folder: Path, version: str | None = None) -> Logger:
    """A logger that writes into ``folder``/logs or to the server that the package's own variables
    name (WANDB_*, MLFLOW_TRACKING_URI).

    Args:
        name: csv, tensorboard, wandb or mlflow.
        folder: Of the training or the search; it gives the project or the experiment its name.
        version: Of one run among several.

    Raises:
        InputError: Its package is not installed.
    """
    place, title = str(folder.resolve()), folder.resolve().name
    try:
        match name:
            case "csv":
                return CSVLogger(place, name="logs", version=version)
            case "tensorboard":
                return TensorBoardLogger(
                    place, name="logs", version=version, default_hp_metric=False
                )
            case "wandb":
                if version is None:
                    return WandbLogger(name=title, save_dir=place)
                return WandbLogger(name=version, project=title, group=title, save_dir=place)
            case _:
                uri = os.environ.get("MLFLOW_TRACKING_URI", f"file:{place}/mlruns")
                return MLFlowLogger(experiment_name=title, run_name=version, tracking_uri=uri)
    except ModuleNotFoundError as error:
        raise InputError(f"--logger {name} needs its package: pip install {name}") from error


class CandidateLog:
    """Hands each candidate of a search that has ended to a logger, as a run of its own: its
    configuration, its learning curve, and its metrics and costs at the end.

    A thread of its own does it, as a server may be slow. Where a logger fails, one line says so,
    and the search continues without it. What was logged stands in ``folder``/logs/NAME.txt, so
    that a resumed search logs no candidate twice.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        make_logger(name, folder, "candidate-0")  # a package that is missing is reported at once
        self._record = folder / "logs" / f"{name}.txt"
        known = self._record.read_text().split() if self._record.exists() else []
        self._given = {int(number) for number in known}
        self._waiting: queue.SimpleQueue[Candidate | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def update(self, candidates: Sequence[Candidate]) -> None:
        """Log those that have ended since the last call."""
        for candidate in candidates:
            if candidate.state != State.RUNNING and candidate.number not in self._given:
                self._given.add(candidate.number)
                self._waiting.put(candidate)

    def close(self) -> None:
        """Wait until all is logged, ``WAIT_S`` at most."""
        self._waiting.put(None)
        self._thread.join(WAIT_S)
        if self._thread.is_alive():
            terminal.line(f"note: --logger {self.name} is not done after {WAIT_S:g} s", err=True)

    def _work(self) -> None:
        while (candidate := self._waiting.get()) is not None:
            try:
                self._log(candidate)
                self._record.parent.mkdir(parents=True, exist_ok=True)
                with self._record.open("a") as file:
                    file.write(f"{candidate.number}\n")
            except Exception as error:  # whatever a logger's package or its server raises
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                terminal.line(f"note: --logger {self.name} ends: {reason}", err=True)
                return

    def _log(self, candidate: Candidate) -> None:
        logger = make_logger(self.name, self.folder, f"candidate-{candidate.number}")
        about = {"family": candidate.family, "origin": candidate.origin}
        ended = {"state": candidate.state.value, "reason": candidate.reason.value}
        logger.log_hyperparams(about | ended | candidate.config)
        for point in candidate.curve:
            metrics = {name: value for name, value in point.items() if name != "epoch"}
            logger.log_metrics(metrics, step=int(point["epoch"]))
        final = candidate.metrics | {"seconds": candidate.seconds}
        last = len(candidate.curve)
        logger.log_metrics({f"final/{name}": v for name, v in final.items()}, step=last)
        logger.save()
        logger.finalize("success" if candidate.state == State.COMPLETE else "failed")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()  # one process has one run at a time
