"""A search without training: a task, two spaces, and an evaluator that computes a formula, so
that a sampler or an executor is tested in milliseconds."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nas.candidate import Candidate, Cost, Latency, Reason, State
from nas.space import Choice, Config, Float, Int, Space, split_family
from nas.task import COSTS, Constraint, DataProfile, Fidelity, Target, Task

EVALUATOR = "nas.testing:FormulaEvaluator"
FAULTS = {"fail", "die", "die_once", "stop", "stop_once", "hang", "hang_once", "hog", "nan"}
FAULTS |= {"poison_once", "crowd", "crowd_once"}


def small_task(
    *,
    epochs: int = 4,
    seed: int = 0,
    constraints: Sequence[str] = (),
    objectives: Sequence[str] = (),
) -> Task:
    """A binary classification of a small table; accuracy, latency and parameters count."""
    return Task(
        modality="tabular",
        targets=(Target("label", "binary", ("no", "yes"), (70, 70)),),
        profile=DataProfile(n_train=140, n_val=30, n_test=30, inputs={"numeric": (4,)}),
        constraints=tuple(Constraint.parse(text) for text in constraints),
        fidelity=Fidelity(epochs=epochs),
        seed=seed,
    ).with_objectives(tuple(objectives))


def small_spaces() -> dict[str, Space]:
    """Two families with conditional parameters of each type."""
    lr = Float("lr", 1e-4, 1e-1, default=1e-3, log=True)
    plain = Space((Int("width", 8, 256, default=64, step=8, log=True), lr))
    deep = Space(
        (
            Int("width", 8, 128, default=32, step=8),
            Int("depth", 1, 6, default=2),
            Choice("norm", ("batch", "none"), default="batch"),
            Float("dropout", 0.0, 0.5, default=0.1, when={"norm": ("none",)}),
            lr,
        )
    )
    return {"plain": plain, "deep": deep}


def formula(config: Config, epoch: int) -> dict[str, float]:
    """Figures that a network of ``config`` might have after ``epoch`` epochs: larger ones are
    better and slower, and each has a learning rate that suits it."""
    width, depth = float(config.get("width", 32)), float(config.get("depth", 1))
    params = width * width * depth + 10 * width
    error = 0.4 / math.log10(params + 10)
    error += 0.02 * (math.log10(float(config.get("lr", 1e-3)) * width) + 1) ** 2
    error += 0.03 * (config.get("norm") == "none") * (0.6 - float(config.get("dropout", 0.0)))
    error *= 1 + 1 / epoch
    return {
        "accuracy": max(0.0, 1 - error),
        "val_loss": error,
        "latency_ms": 0.05 * depth + params / 1e5,
        "params": params,
        "flops": params,
        "memory_mb": params * 16 / 2**20,
        "inference_mb": params * 4 / 2**20,
    }


class FormulaEvaluator:
    """Stands in for ``nas.training.evaluator.Evaluator`` in a worker.

    It writes what it is asked to train and what it finished into ``folder``/evaluated.txt,
    one "begin ROOT" or "end ROOT" a line, and itself into evaluators.txt, one "PROCESS GPUS"
    (as CUDA_VISIBLE_DEVICES names them) a line.

    An epoch takes ``seconds_per_epoch`` and, by chance, up to ``jitter`` seconds more. ``faults``
    are candidates by their roots. In the middle of their training those in ``fail`` raise, those
    in ``die`` kill their own process, those in ``stop`` stop it (SIGSTOP), those in ``hang`` never
    come back, and those in ``hog`` take memory until they are killed; ``die_once``, ``stop_once``
    and ``hang_once`` do so the first time. Those in ``nan`` end with a quality that is NaN. Those
    in ``poison_once`` leave their process without a device, where nothing can be trained any more;
    those in ``crowd`` and ``crowd_once`` are refused memory that a neighbour holds.

    ``start`` is "fail", "die" or "stop" for workers that never become ready, and ``broken`` holds
    the numbers (from 1) of the starts that fail. ``costing`` is "fail" or "die" for what becomes
    of costs, and ``measuring`` "stop" or "hang" for what becomes of a first latency.
    """

    def __init__(
        self,
        folder: str,
        seconds_per_epoch: float = 0.0,
        jitter: float = 0.0,
        start: str = "",
        broken: Sequence[int] = (),
        costing: str = "",
        measuring: str = "",
        **faults: Sequence[int],
    ) -> None:
        if wrong := faults.keys() - FAULTS:
            raise TypeError(f"unknown faults {sorted(wrong)}; known are {sorted(FAULTS)}")
        if start == "fail":
            raise RuntimeError("no such device")
        if start in ("die", "stop"):
            self._end(start)
        self.folder, self.seconds_per_epoch = Path(folder), seconds_per_epoch
        self._note(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}", "evaluators.txt")
        if len((self.folder / "evaluators.txt").read_text().splitlines()) in broken:
            raise MemoryError("out of memory, for a moment")
        self.jitter, self._chance = jitter, random.Random()  # seeded by the clock
        self.faults, self.costing, self.measuring = faults, costing, measuring
        self._poisoned = False

    def usable(self) -> bool:
        return not self._poisoned

    def evaluate(
        self,
        candidate: dict[str, Any],
        report: Callable[..., str],
        fidelity: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        now = Candidate.from_dict(candidate)
        self._note(f"begin {now.root}")
        begun = time.monotonic()
        for epoch in range(1, now.epochs + 1):
            time.sleep(self.seconds_per_epoch + self.jitter * self._chance.random())
            metrics = formula(now.config, epoch)
            if now.root in self.faults.get("nan", ()):
                metrics["accuracy"] = math.nan
            point = {"epoch": epoch, "accuracy": metrics["accuracy"]}
            now = replace(now, metrics=metrics, curve=(*now.curve, point))
            if verdict := report(epoch, metrics):
                reason = Reason(verdict)
                state = State.FAILED if reason.kind == "cut off" else State.PRUNED
                now = replace(now, state=state, reason=reason, detail=f"after epoch {epoch}")
                break
            if 2 * epoch >= now.epochs:
                self._fail(now.root)
                if self._crowded(now.root):
                    now = replace(now, state=State.FAILED, reason=Reason.LOST, detail="crowded")
                    break
        else:
            now = replace(now, state=State.COMPLETE)
        latency = Latency(now.metrics["latency_ms"], 0.0, isolated=False, threads=1, batch=1)
        self._note(f"end {now.root}")
        seconds = time.monotonic() - begun
        return replace(now, cost=Cost(latency), seconds=seconds).to_dict()

    def _crowded(self, root: int) -> bool:
        once = root in self.faults.get("crowd_once", ()) and self._is_first(f"crowd-{root}")
        return once or root in self.faults.get("crowd", ())

    def _fail(self, root: int) -> None:
        poison = root in self.faults.get("poison_once", ()) and self._is_first(f"poison-{root}")
        if poison or self._poisoned:
            self._poisoned = True
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        for fault in (name for name, roots in self.faults.items() if root in roots):
            if fault == "fail":
                raise RuntimeError(f"candidate {root} cannot be trained")
            if fault.partition("_")[0] in ("crowd", "poison"):
                continue
            if not fault.endswith("_once") or self._is_first(f"{fault}-{root}"):
                self._end(fault.removesuffix("_once"))

    def _is_first(self, name: str) -> bool:
        mark = self.folder / name
        first = not mark.exists()
        mark.touch()
        return first

    def _end(self, how: str) -> None:
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        while how == "hang":
            time.sleep(1e6)
        taken = []
        while how == "hog":
            taken.append(np.ones(2**24))  # 128 MiB
            time.sleep(0.05)

    def _note(self, line: str, file_name: str = "evaluated.txt") -> None:
        with (self.folder / file_name).open("a") as file:
            file.write(line + "\n")

    def baselines(
        self,
        report: Callable[..., str],
        fidelity: dict[str, Any] | None = None,
        limit_s: float | None = None,
    ) -> list[dict[str, Any]]:
        metrics = {"accuracy": 0.5}
        return [{"name": "majority", "metrics": metrics, "seconds": 0.0, "samples": 140}]

    def costs(
        self, configs: list[Config], limit_s: float | None, report: Callable[..., str]
    ) -> list[dict[str, float]]:
        if self.costing == "fail":
            raise RuntimeError("no costs here")
        self._end(self.costing)
        report(len(configs) // 2, {})
        figures = [formula(split_family(config)[1], 1) for config in configs]
        return [{metric: f[metric] for metric in COSTS} for f in figures]

    def latencies(
        self, candidates: list[dict[str, Any]], report: Callable[..., str]
    ) -> list[dict[str, Any]]:
        return [self.latency(candidate, report) for candidate in candidates]

    def latency(self, candidate: dict[str, Any], report: Callable[..., str]) -> dict[str, Any]:
        if self.measuring and self._is_first("measured"):
            self._end(self.measuring)
        median = formula(Candidate.from_dict(candidate).config, 1)["latency_ms"]
        return Latency(0.9 * median, 0.0, isolated=True, threads=1, batch=1).to_dict()
