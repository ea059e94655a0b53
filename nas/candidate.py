"""One network of a study, from the moment it is asked for to its final figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from nas.space import Config
from nas.task import COSTS, Constraint, JsonRecord


class State(StrEnum):
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True)
class Candidate(JsonRecord):
    """One line of JSON, one row of a data frame.

    ``root`` is the number of the candidate this one repeats after its worker was
    lost (its own number otherwise). ``reason`` says why a candidate did not complete:
    halving, nan, exploding, vanishing, dead, plateau, oom, infeasible, timeout,
    duplicate; error, lost, interrupted. ``detail`` is the sentence or traceback behind the reason.
    ``metrics`` are those of the validation part and the costs; ``curve`` holds one
    entry per epoch. ``cpus`` and ``gpus`` are the share of the machine that it had to itself
    for ``seconds``: half a GPU where two are trained on one.
    """

    number: int
    family: str
    config: Config
    seed: int
    root: int = -1
    origin: str = "sampled"  # baseline | sampled | requeued
    epochs: int = 0  # of training asked for
    state: State = State.RUNNING
    reason: str = ""
    detail: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    curve: tuple[dict[str, float], ...] = ()
    cost: dict[str, Any] = field(default_factory=dict)
    gradient_norms: dict[str, float] = field(default_factory=dict)  # last ones, by layer
    health: dict[str, Any] = field(default_factory=dict)  # what the monitors saw, in numbers
    layers: tuple[dict[str, Any], ...] = ()
    worker: int = -1
    cpus: float = 1.0
    gpus: float = 0.0
    started: float = 0.0  # seconds since the epoch
    seconds: float = 0.0

    @property
    def label(self) -> str:
        """The family, and the member that a fused network uses alone."""
        members = str(self.config.get("members", "all"))
        return self.family if members == "all" else f"{self.family} ({members})"

    @property
    def standing(self) -> tuple[str, str]:
        """How it stands and why, in words for people. What the end of the budget, Ctrl-C or a
        killed driver cuts off is no failure, though stored as one: it is trained again on
        --resume."""
        if self.reason == "interrupted":
            return "cut off", ""
        return self.state.value, self.reason

    @property
    def device_seconds(self) -> dict[str, float]:
        """What it has cost, by the names of ``Budget.device_hours``."""
        return {"cpu": self.seconds * self.cpus, "gpu": self.seconds * self.gpus}

    def row(self) -> dict[str, Any]:
        """Flat: what a data frame or a table shows of it."""
        row: dict[str, Any] = {
            "number": self.number,
            "family": self.family,
            "state": self.state.value,
            "reason": self.reason,
            "origin": self.origin,
            "epochs": len(self.curve),
            "seconds": self.seconds,
        }
        return row | self.metrics | {f"config.{k}": v for k, v in self.config.items()}

    def feasible(self, constraints: tuple[Constraint, ...]) -> bool:
        """Complete, and inside every limit."""
        return self.state == State.COMPLETE and all(c.met(self.metrics) for c in constraints)


def curve_point(epoch: int, metrics: dict[str, float]) -> dict[str, float]:
    """One entry of a training curve: what changes from epoch to epoch."""
    return {"epoch": epoch} | {k: v for k, v in metrics.items() if k not in COSTS}
