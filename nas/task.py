"""What is to be solved: the data profile, the targets, the objectives, the limits.

Everything here is frozen and JSON-able, imports neither torch nor pandas, and is
the only thing the rules and the search spaces see of a user's data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

if TYPE_CHECKING:
    from pydantic import ValidationError

Modality = Literal[
    "tabular", "images", "text", "series", "audio", "graphs", "pointclouds", "multimodal"
]
Kind = Literal["binary", "multiclass", "multilabel", "regression"]


class InputError(ValueError):
    """A mistake in what the user gave: one line that says what, where, and the repair."""

    exit_code = 1


class UsageError(InputError):
    """The command or call itself is wrong (an unknown name, a malformed expression)."""

    exit_code = 2


class NoFeasibleCandidate(InputError):  # noqa: N818  # an outcome, not a fault
    """The search ended without one candidate that meets the constraints."""

    exit_code = 3


class SelfCheckFailed(InputError):  # noqa: N818
    """A re-run did not reproduce what the recipe or the checkpoint promises."""

    exit_code = 4


def _word(value: Any) -> Any:
    """Numbers that are not finite as the words that ``JsonRecord`` has for them."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def wrong_field(error: ValidationError) -> str:
    """The first field that pydantic refuses, what it holds, and what is wrong, in one line."""
    wrong = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, wrong["loc"])) or "the whole"
    if wrong["type"] == "missing":
        return f"{where} is missing"
    return " ".join(f"{where} = {wrong['input']!r:.60}: {wrong['msg']}".split())


class JsonRecord:
    """JSON in and out for the frozen dataclasses; a wrong field is refused, not ignored.

    Infinities and NaN survive as the strings "Infinity" and "NaN", which JSON allows. Keys that
    files of earlier versions hold are read by the names they have now (``EARLIER``: old to new).
    A record that is ``SPARSE`` leaves out what is at its default.
    """

    EARLIER: ClassVar[Mapping[str, str]] = {}
    SPARSE: ClassVar[bool] = False

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "ser_json_inf_nan": "strings",
    }

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> Any:
        schema = handler(source)
        if not (cls.EARLIER or cls.SPARSE):
            return schema
        from pydantic_core import core_schema

        def renamed(data: Any) -> Any:
            if not isinstance(data, dict):
                return data
            return {cls.EARLIER.get(name, name): value for name, value in data.items()}

        defaults = {f.name: f.default for f in fields(source) if f.default is not MISSING}

        def shortened(record: Any, write: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
            return {
                name: _word(value)
                for name, value in write(record).items()
                if name not in defaults or getattr(record, name) != defaults[name]
            }

        schema = core_schema.no_info_before_validator_function(renamed, schema)
        if cls.SPARSE:
            schema["serialization"] = core_schema.wrap_serializer_function_ser_schema(
                shortened, schema=schema["schema"]
            )
        return schema

    @classmethod
    @cache
    def _adapter(cls) -> Any:
        from pydantic import TypeAdapter  # 0.1 s, and `nas --help` does not need it

        return TypeAdapter(cls)

    @classmethod
    def _read(cls, validate: Callable[[Any], Self], data: Any) -> Self:
        from pydantic import ValidationError

        try:
            return validate(data)
        except ValidationError as error:
            raise InputError(f"not a valid {cls.__name__}: {wrong_field(error)}") from None

    def to_dict(self) -> dict[str, Any]:
        result: dict[str, Any] = self._adapter().dump_python(self, mode="json")
        return result

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Raises InputError, which names the first field that is wrong."""
        return cls._read(cls._adapter().validate_python, data)

    def to_json(self) -> str:
        text: bytes = self._adapter().dump_json(self)
        return text.decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Raises InputError, which names the first field that is wrong."""
        return cls._read(cls._adapter().validate_json, text)


def plain(value: Any, text: Callable[[str], str] = str) -> Any:
    """Values as JSON for a browser has them: numbers that are not finite are None, and ``text``
    is applied to every string and key."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, (dict, Mapping)):  # the first of them is found ten times as fast
        return {text(str(key)): plain(item, text) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [plain(item, text) for item in value]
    return value


@dataclass(frozen=True)
class Target(JsonRecord):
    """One thing to predict. A task with several targets gets one head for each.

    ``classes`` are the labels in the order of the network's outputs; for
    "multilabel" they are the names of the yes/no questions. ``mean`` and ``std``
    (of the training part, in the user's units) standardise a regression target.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()  # training samples per class
    mean: float = 0.0
    std: float = 1.0
    label_type: Literal["text", "integer", "number", "boolean"] = "text"  # of the user's labels
    separator: str = ""  # between the labels of one column; "[]" where it holds lists

    @property
    def outputs(self) -> int:
        return 1 if self.kind == "regression" else len(self.classes)

    @property
    def labels(self) -> tuple[str | int | float | bool, ...]:
        """``classes`` as the values that the user's data holds."""
        convert: dict[str, Callable[[str], str | int | float | bool]] = {
            "text": str, "integer": int, "number": float, "boolean": lambda text: text == "True",
        }  # fmt: skip
        return tuple(convert[self.label_type](text) for text in self.classes)

    @property
    def imbalance(self) -> float:
        """Largest over smallest class count (1.0 for a regression target)."""
        seen = [n for n in self.counts if n]
        return max(seen) / min(seen) if seen else 1.0


@dataclass(frozen=True)
class Column(JsonRecord):
    """One input column of a table, described on the training part.

    The input holds the values less ``shift``; ``mean``, ``std`` and ``quantiles`` are those of
    the input.
    """

    name: str
    kind: Literal["numeric", "categorical", "text"]
    missing: float = 0.0  # fraction of missing values
    mean: float = 0.0
    std: float = 1.0
    quantiles: tuple[float, ...] = ()  # distinct, increasing bin edges; numeric columns only
    categories: tuple[str, ...] = ()  # code i + 1; code 0 is "missing or never seen"
    shift: float = 0.0  # subtracted in float64 from numbers that float32 could not tell apart
    form: str = ""  # of numbers in a table: plain, date, grouped (1,234.5) or comma (1.234,5)


# Of a method of splitting: the validation part was chosen by the values of a column.
OTHER_GROUPS = "with other values of"


@dataclass(frozen=True)
class DataProfile(JsonRecord):
    """What the rules need to know of the data, and what identifies it.

    ``inputs`` maps each input of the network to the shape of one sample. The name of an
    input is its type, after the member's name and a point where there are several
    (``input_type``):

    - "numeric" (columns,), "categorical" (columns,), "image" (channels, height, width);
    - of samples that differ in length, the longest: "tokens" (T,), "wave" (T,),
      "series" (T, channels), "points" (P, features);
    - graphs: "nodes" (N, features), "edges" (E, 2), "edge_features" (E, features) of the
      largest graph, or of the only one, where "node" () numbers the sample's node.
    """

    n_train: int
    n_val: int
    n_test: int
    inputs: dict[str, tuple[int, ...]]
    columns: tuple[Column, ...] = ()
    # Lengths in the training part, of inputs that differ: percentiles 0, 5, 25, 50, 75, 95, 100
    lengths: dict[str, tuple[int, ...]] = field(default_factory=dict)
    channel_mean: tuple[float, ...] = ()  # images: of values scaled to 0..1; else of a feature
    channel_std: tuple[float, ...] = ()
    # Subtracted in float64 from points and features that float32 could not tell apart
    channel_shift: tuple[float, ...] = ()
    channels: tuple[str, ...] = ()  # of a point, where the files name them
    # Images of more than 8 bits a value: what became 0 and 255; () of others
    pixel_range: tuple[float, ...] = ()
    vocabulary: int = 0  # tokens, with those for padding and for unknown words
    tokenizer: str = ""  # its JSON
    sample_rate: int = 0  # Hz
    series: SeriesForm | None = None  # of sequences of numbers
    members: dict[str, Member] = field(default_factory=dict)  # of multimodal data
    fingerprint: str = ""  # hash of the encoded data
    split: str = ""  # hash of which sample is in which part
    split_method: str = ""

    @property
    def parts_differ(self) -> bool:
        """Whether the parts hold other groups or other times, so that no sample of one may be mixed
        with those of another; what ``nas.data.split`` says of its method."""
        apart = self.split_method.startswith(("group ", "time "))
        return apart or OTHER_GROUPS in self.split_method

    @property
    def features(self) -> int:
        """Values in one sample, over all inputs."""
        total = 0
        for shape in self.inputs.values():
            size = 1
            for side in shape:
                size *= side
            total += size
        return total


@dataclass(frozen=True)
class SeriesForm(JsonRecord):
    """How sequences of numbers are coded: the channels of the input "series" are the values, one
    for each of ``DataProfile.channels``, then a 1 where a value of ``marked`` was missing."""

    marked: tuple[int, ...] = ()  # values of which what is missing is marked
    median_step: float = 0.0  # between two times of the source; 0 where it has no times
    irregular: bool = False  # whether sequences are resampled to steps of ``median_step``
    stride: int = 1  # steps of the source that are averaged to one
    columns: tuple[str, ...] = ()  # of a wide table, one for each step
    sequence: str = ""  # the column of a long table that says which sequence a row is of
    time: str = ""  # and that of the times
    # Of forecasts: the steps that are predicted, those of a window, and after how many values
    # repeat; by target column the mean error of a value that long before, in training.
    horizon: int = 0
    window: int = 0
    season: int = 1
    naive_errors: dict[str, float] = field(default_factory=dict)

    @property
    def is_long(self) -> bool:
        """Whether the source is a long table."""
        return bool(self.sequence or self.horizon)

    @property
    def added(self) -> int:
        """Channels behind those of the values."""
        return len(self.marked)


@dataclass(frozen=True)
class Member(JsonRecord):
    """One part of multimodal data: a column, or all columns of the table together."""

    modality: Modality
    profile: DataProfile


def input_type(name: str) -> str:
    """The type of an input: what its name says after the last point."""
    return name.rpartition(".")[2]


@dataclass(frozen=True)
class Objective(JsonRecord):
    metric: str
    direction: Literal["min", "max"]

    @property
    def sign(self) -> int:
        """1 where larger values are better, else -1."""
        return 1 if self.direction == "max" else -1


@dataclass(frozen=True)
class Constraint(JsonRecord):
    metric: str
    op: Literal["<=", ">="]
    bound: float

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Read ``latency_ms<=5``, ``params<=1e6``, ``accuracy>=0.9``.

        Raises UsageError, also where no value of the metric meets the limit.
        """
        found = re.fullmatch(r"\s*([\w.\[\] -]+?)\s*(<=|>=|<|>)\s*([-+0-9.eE_]+)\s*", text)
        try:
            if not found or not math.isfinite(float(found[3])):
                raise ValueError
            name, op, bound = found[1], found[2][0] + "=", float(found[3])
        except ValueError:
            raise UsageError(
                f"constraint {text!r} is not of the form METRIC<=NUMBER or METRIC>=NUMBER,"
                " for example latency_ms<=5"
            ) from None
        direction(name)  # an unknown metric is reported now, not after the first candidate
        low, high, words = _range(name)
        if bound > high if op == ">=" else bound < low:
            raise UsageError(f"no network can meet {text.strip()!r}: {name} {words}")
        return cls(name, op, bound)  # type: ignore[arg-type]  # op is one of the two

    def met(self, metrics: dict[str, float]) -> bool:
        return self.violation(metrics) <= 0

    def violation(self, metrics: dict[str, float]) -> float:
        """How far the metric is outside, in its own units; at most zero where it is inside."""
        gap = metrics[self.metric] - self.bound
        return gap if self.op == "<=" else -gap

    def __str__(self) -> str:
        return f"{self.metric}{self.op}{self.bound:.15g}"  # params<=1234567 keeps its digits


# Every metric the framework reports, and which way is better.
DIRECTIONS: dict[str, Literal["min", "max"]] = {
    "accuracy": "max",
    "balanced_accuracy": "max",
    "auc": "max",
    "f1": "max",
    "r2": "max",
    "score": "max",
    "val_loss": "min",
    "rmse": "min",
    "mae": "min",
    "mase": "min",  # mean absolute error over that of a seasonal naive forecast
    "latency_ms": "min",
    "params": "min",
    "flops": "min",
    "memory_mb": "min",  # of a training step
    "inference_mb": "min",  # of a prediction for one sample
}
# Known before training: parameters and FLOPs exactly, memory nearly, latency after a preflight.
COSTS = ("latency_ms", "params", "flops", "memory_mb", "inference_mb")

_METRICS: dict[Kind, tuple[str, ...]] = {
    "regression": ("rmse", "mae", "r2"),
    "multilabel": ("accuracy", "f1", "auc"),
    "binary": ("accuracy", "balanced_accuracy", "f1", "auc"),
    "multiclass": ("accuracy", "balanced_accuracy", "f1", "auc"),
}


def direction(metric: str) -> Literal["min", "max"]:
    """Which way ``metric`` is better; ``rmse[price]`` is judged as ``rmse``."""
    name = metric.split("[")[0]
    if name not in DIRECTIONS:
        raise UsageError(f"unknown metric {metric!r}; known are {', '.join(DIRECTIONS)}")
    return DIRECTIONS[name]


def _range(metric: str) -> tuple[float, float, str]:
    """The lowest and the highest value of ``metric``, and both in words."""
    name = metric.split("[")[0]
    if name in ("accuracy", "balanced_accuracy", "auc", "f1"):
        return 0.0, 1.0, "lies between 0 and 1 (90 % are 0.9)"
    if name in ("r2", "score"):
        return -math.inf, 1.0, "is at most 1"
    return 0.0, math.inf, "is at least 0"


@dataclass(frozen=True)
class Budget(JsonRecord):
    """What the search may spend; whichever ends first ends it."""

    time_limit_s: float | None = 600.0  # wall-clock
    trials: int | None = None
    cpu_hours: float | None = None
    gpu_hours: float | None = None
    workers: int = 1
    cpus: float = 1.0  # of the machine, for each worker
    gpus: float = 0.0
    memory_mb: float | None = None  # MiB of the device, for each worker; None where unknown
    start_s: float = 10.0  # until a training in full that is begun has taken its first step

    @property
    def device_hours(self) -> dict[str, float]:
        """The limits that there are on device-hours: "cpu", "gpu"."""
        limits = {"cpu": self.cpu_hours, "gpu": self.gpu_hours}
        return {device: limit for device, limit in limits.items() if limit is not None}

    @property
    def worker_s(self) -> float | None:
        """Seconds of all workers together that it lasts for at most; None without an end in
        time."""
        seconds = [] if self.time_limit_s is None else [self.time_limit_s * self.workers]
        part = {"cpu": self.cpus, "gpu": self.gpus}
        seconds += [3600 * hours / part[d] for d, hours in self.device_hours.items() if part[d]]
        return min(seconds, default=None)


@dataclass(frozen=True)
class Fidelity(JsonRecord):
    """How much training a proxy gets: epochs over a stratified fraction of the training part."""

    epochs: int
    share: float = 1.0
    time_limit_s: float | None = None  # for the training of one candidate, all folds together
    folds: int | None = None  # that score it; None for what the rules say of the data
    rule_epochs: int | None = None  # that the length of a recipe follows from; None for ``epochs``
    recipe_epochs: int | None = None  # of a recipe, as the search's plan says
    other: dict[str, Fidelity] = field(default_factory=dict)  # of families that need less, by name


@dataclass(frozen=True)
class Checkpoint(JsonRecord):
    """A pretrained network that a search may start from.

    ``path`` is its file of weights and ``sha256`` their hash. ``sizes`` are what its
    ``architecture`` needs (of text: vocabulary, positions, dim, heads, hidden, blocks ...);
    ``licence`` and ``trained_on`` are what it says of itself, "" where it says nothing.
    """

    name: str
    path: str
    modality: Modality
    architecture: str
    sizes: dict[str, int | float | str]
    sha256: str = ""
    licence: str = ""
    trained_on: str = ""

    @property
    def origin(self) -> str:
        """What it is and says of itself, in two sentences."""
        stated = "not stated"
        return (
            f"Starts from the published weights {self.name} ({self.architecture}, sha256"
            f" {self.sha256[:16]}; licence: {self.licence or stated}; trained on:"
            f" {self.trained_on or stated}). Whether these data were among that is not known: a"
            " score would then be too good."
        )


@dataclass(frozen=True)
class Task(JsonRecord):
    modality: Modality
    targets: tuple[Target, ...]
    profile: DataProfile
    objectives: tuple[Objective, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    device: str = "cpu"
    budget: Budget = field(default_factory=Budget)
    fidelity: Fidelity = field(default_factory=lambda: Fidelity(epochs=10))
    seed: int = 0
    pretrained: tuple[Checkpoint, ...] = ()  # that its networks may start from

    def of_family(self, family: str) -> Task:
        """The task with the fidelity of a family: pretrained networks need fewer steps."""
        own = self.fidelity.other.get(family)
        return self if own is None else replace(self, fidelity=own)

    @property
    def outputs(self) -> int:
        """Width of the network's last layer: all heads side by side."""
        return sum(target.outputs for target in self.targets)

    @property
    def is_forecast(self) -> bool:
        """Whether the targets are the next values of sequences of numbers."""
        return self.profile.series is not None and self.profile.series.horizon > 0

    @property
    def default_quality(self) -> str:
        """The metric that says how good a network is, from the kind of problem.

        Several targets are averaged to "score": accuracy (multilabel: F1) or R² of each. All steps
        of a forecast are scored together.
        """
        if self.is_forecast:
            return "mase"
        if len(self.targets) > 1:
            return "score"
        return {"regression": "rmse", "multilabel": "f1"}.get(self.targets[0].kind, "accuracy")

    @property
    def quality(self) -> Objective:
        """The first objective that is not a cost: what "best" means."""
        return next(o for o in self.objectives if o.metric not in COSTS)

    @property
    def quality_metrics(self) -> tuple[str, ...]:
        """The quality metrics that networks of this task are scored by."""
        if self.is_forecast:
            return ("mase", "mae", "rmse", "val_loss")
        if len(self.targets) == 1:
            return (*_METRICS[self.targets[0].kind], "val_loss")
        each = tuple(f"{metric}[{t.name}]" for t in self.targets for metric in _METRICS[t.kind])
        return ("score", *each, "val_loss")

    def check_measured(self, metrics: Iterable[str]) -> None:
        """Raise UsageError for the first of ``metrics`` that no network of this task has."""
        known = self.quality_metrics + COSTS
        for metric in metrics:
            if metric not in known:
                raise UsageError(
                    f"{metric!r} is not measured on this data; measured are {', '.join(known)}"
                )

    def with_objectives(self, names: tuple[str, ...] = ()) -> Task:
        names = names or (self.default_quality, "latency_ms", "params")
        if not any(name not in COSTS for name in names):
            raise UsageError(
                f"objectives {', '.join(names)} hold no quality; add {self.default_quality}"
            )
        if len(set(names)) < len(names):
            raise UsageError(f"objectives {', '.join(names)} name one metric twice")
        return replace(self, objectives=tuple(Objective(n, direction(n)) for n in names))
