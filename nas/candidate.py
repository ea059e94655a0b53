"""One network of a study, from its configuration to its final figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar, Literal, Self

from nas.space import Config, join_family
from nas.task import COSTS, Constraint, JsonRecord


class State(StrEnum):
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


Kind = Literal["", "stopped", "failure", "limit", "duplicate", "lost", "cut off"]


class Reason(StrEnum):
    """Why a candidate did not complete: one word, its ``kind`` and a ``sentence`` for people.

    The word is what files hold. Kinds: ``stopped`` (others were better at the same training),
    ``failure`` (of the training or of the network's code), ``limit`` (of memory, time or the
    task), ``duplicate``, ``lost`` (with its worker), and ``cut off``: no failure, a resume trains
    it again. ``Reason.NONE`` is the empty word, for candidates that run or are complete.

    >>> Reason("oom").kind, Reason.OOM.sentence
    ('limit', 'ran out of memory')
    """

    kind: Kind
    sentence: str

    def __new__(cls, word: str, kind: Kind = "", sentence: str = "") -> Self:
        self = str.__new__(cls, word)
        self._value_ = word
        self.kind = kind
        self.sentence = sentence
        return self

    NONE = ""
    HALVING = "halving", "stopped", "behind others at the same amount of training"
    NAN = "nan", "failure", "loss, gradient or activation was not a number"
    EXPLODING = "exploding", "failure", "gradients grew without bound"
    VANISHING = "vanishing", "failure", "gradients did not reach the first layers"
    DEAD = "dead", "failure", "a layer put out the same for every sample"
    PLATEAU = "plateau", "failure", "nothing was learnt from the first step on"
    ERROR = "error", "failure", "an error was raised"
    OOM = "oom", "limit", "ran out of memory"
    INFEASIBLE = "infeasible", "limit", "outside a limit before training"
    TIMEOUT = "timeout", "limit", "over the time limit of a candidate"
    DUPLICATE = "duplicate", "duplicate", "same configuration as an earlier one"
    LOST = "lost", "lost", "its worker was lost"
    INTERRUPTED = (
        "interrupted",
        "cut off",
        "the budget or the search ended; a resume trains it again",
    )


@dataclass(frozen=True)
class Latency(JsonRecord):
    """How long one forward pass of ``batch`` samples takes, in milliseconds, and how that was
    measured.

    ``ms`` is the median of ``repeats`` passes where it was measured during a search, beside other
    trainings, and the lowest decile of ``rounds`` where networks were measured in turn on a device
    that was ``isolated`` (all trainings of this user paused). ``iqr_ms`` is the interquartile
    range of either. ``contended_ms`` is the ``ms`` of the search after a second measurement, and
    ``contended_because`` says why there is none. ``device`` is empty for that of the search.

    >>> Latency(0.52, 0.04, isolated=True, threads=1, batch=1, rounds=50).to_dict()
    {'ms': 0.52, 'iqr_ms': 0.04, 'isolated': True, 'threads': 1, 'batch': 1, 'rounds': 50}
    """

    EARLIER: ClassVar[Mapping[str, str]] = {
        "quiet": "isolated",
        "loud_ms": "contended_ms",
        "loud_because": "contended_because",
        "on": "device",
    }
    SPARSE: ClassVar[bool] = True

    ms: float
    iqr_ms: float
    isolated: bool
    threads: int
    batch: int
    repeats: int = 0
    rounds: int = 0
    contended_ms: float | None = None
    contended_because: str = ""
    device: str = ""


@dataclass(frozen=True)
class Cost(JsonRecord):
    """What a candidate costs in use and in training, beside the costs among its metrics: its
    ``latency``, the milliseconds of a training step, in how many parts a batch came, where memory
    was short (rule "micro-batch"), and in which ``precision`` it was trained, as Lightning names
    it ("" in runs of earlier versions). ``device`` is the model of its GPU or CPU, and ``use`` how
    busy that was: the mean fraction that a GPU reports of itself, or of one core what the training
    has computed (None where unknown)."""

    SPARSE: ClassVar[bool] = True

    latency: Latency | None = None
    step_ms: float | None = None
    accumulate: int = 1
    precision: str = ""
    device: str = ""
    use: float | None = None


@dataclass(frozen=True)
class Health(JsonRecord):
    """What the monitors saw of a training: at the last of ``samples`` the norm of the whole
    gradient, the fraction of dead units and the median ratio of updates to weights. Where they
    found a failure, its ``step`` and ``layer``, and the ``value`` beside its ``threshold``.
    ``exploding`` is the norm of the whole gradient, and ``vanishing`` that of the first layer over
    the largest of any, from which on they call a training that learns nothing by these names."""

    EARLIER: ClassVar[Mapping[str, str]] = {"looks": "samples"}
    SPARSE: ClassVar[bool] = True

    samples: int = 0
    gradient_norm: float | None = None
    dead_units: float | None = None
    update_ratio: float | None = None
    step: int | None = None
    layer: str = ""
    value: float | None = None
    threshold: float | None = None
    exploding: float | None = None
    vanishing: float | None = None


@dataclass(frozen=True)
class Candidate(JsonRecord):
    """One line of JSON, one row of a data frame.

    >>> made = Candidate(3, "mlp", {"depth": 2}, seed=0, metrics={"accuracy": 0.9})
    >>> Candidate.from_json(made.to_json()) == made
    True

    ``root`` is the number of the candidate this one repeats after its worker was
    lost (its own number otherwise). ``reason`` says why a candidate did not complete, and
    ``detail`` is the sentence or traceback behind the reason.
    ``metrics`` are those of the validation part and the costs; ``curve`` holds one
    entry per epoch. ``cpus`` and ``gpus`` are the part of the machine that it had to itself
    for ``seconds``: half a GPU where two are trained on one.
    """

    number: int
    family: str
    config: Config
    seed: int
    root: int = -1
    origin: str = "sampled"  # baseline | sampled | requeued
    epochs: int = 0  # planned; trained are those of the curve
    state: State = State.RUNNING
    reason: Reason = Reason.NONE
    detail: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    curve: tuple[dict[str, float], ...] = ()
    cost: Cost = Cost()
    gradient_norms: dict[str, float] = field(default_factory=dict)  # last ones, by layer
    health: Health = Health()
    layers: tuple[dict[str, Any], ...] = ()
    worker: int = -1
    cpus: float = 1.0
    gpus: float = 0.0
    started: float = 0.0  # seconds since the epoch
    seconds: float = 0.0

    def __post_init__(self) -> None:
        # Verdicts and files carry the word alone.
        object.__setattr__(self, "reason", Reason(self.reason))

    @property
    def joined(self) -> Config:
        """Its configuration in the joined space of all families."""
        return join_family(self.family, self.config)

    @property
    def contended(self) -> Candidate:
        """With its latency as it was measured beside other trainings, also where it has been
        measured again since: by that it is compared with candidates that have no other."""
        latency = self.cost.latency
        if latency is None or latency.contended_ms is None:
            return self
        return replace(self, metrics=self.metrics | {"latency_ms": latency.contended_ms})

    @property
    def label(self) -> str:
        """The family, and the member that a fused network uses alone."""
        members = str(self.config.get("members", "all"))
        return self.family if members == "all" else f"{self.family} ({members})"

    @property
    def standing(self) -> tuple[str, str]:
        """Its state and reason in words for people. A training that the end of the budget, Ctrl-C
        or a killed driver cuts off is stored as failed but is none: --resume trains it again."""
        if self.reason.kind == "cut off":
            return self.reason.kind, ""
        return self.state.value, self.reason.value

    @property
    def device_seconds(self) -> dict[str, float]:
        """The seconds of each kind of device that it has used, as in ``Budget.device_hours``."""
        return {"cpu": self.seconds * self.cpus, "gpu": self.seconds * self.gpus}

    def row(self) -> dict[str, Any]:
        """A flat row for a data frame or a table: one column for each metric and parameter."""
        row: dict[str, Any] = {
            "number": self.number,
            "family": self.family,
            "state": self.state.value,
            "reason": self.reason.value,
            "origin": self.origin,
            "epochs": len(self.curve),
            "seconds": self.seconds,
        }
        return row | self.metrics | {f"config.{k}": v for k, v in self.config.items()}

    def feasible(self, constraints: tuple[Constraint, ...]) -> bool:
        """Whether it is complete and inside every limit."""
        return self.state == State.COMPLETE and all(c.met(self.metrics) for c in constraints)


def curve_point(epoch: int, metrics: dict[str, float]) -> dict[str, float]:
    """One entry of a training curve: the epoch and the metrics that change with it, no costs."""
    return {"epoch": epoch} | {k: v for k, v in metrics.items() if k not in COSTS}
