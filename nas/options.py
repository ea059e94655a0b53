"""The options of reading, planning and searching, each declared once.

The Python API, the command line, YAML files, NAS_* variables, run.json and a resume all read the
same three records. A new option is one line here, with its help; `nas.cli` makes its flag, and
``takes`` its keyword and its line in the docstring.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Self, TypeVar, cast, get_args, get_type_hints

from nas.rules import LR_TEST
from nas.task import Budget, Constraint, JsonRecord, Modality, UsageError, direction

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DEFAULT_TIME_LIMIT_S = 600.0
LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")


def option(
    default: T,
    help: str,
    *,
    flag: str = "",
    at_least: float | None = None,
    choices: tuple[str, ...] = (),
    stays: bool = True,
) -> T:
    """A field of an options record.

    Args:
        default: Its value where nothing is given.
        help: One sentence for ``--help`` and for the docstrings of the functions.
        flag: On the command line, where it is not the name: "--family", or "-t" beside the name.
        at_least: The lowest number that is allowed.
        choices: The texts that are allowed.
        stays: Whether a resumed search keeps it. The others say how long and where to go on.
    """
    about = {"help": help, "flag": flag, "at_least": at_least, "choices": choices, "stays": stays}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class ReadOptions(JsonRecord):
    """How a data set is read: the keywords of ``nas.data.read``.

    Raises UsageError, on construction, for a value that is not allowed.
    """

    target: tuple[str, ...] | None = option(
        None,
        "Column(s) to predict, separated by commas; several of 0 and 1 are one multilabel target.",
        flag="-t",
    )
    modality: str | None = option(
        None, "Kind of data; default: inferred.", choices=get_args(Modality)
    )
    split: str | None = option(
        None,
        "'0.7,0.15,0.15', 'column=COLUMN' (which holds the parts), 'group=COLUMN' or"
        " 'time=COLUMN'; default: the parts of the data, else stratified 70/15/15,"
        " of many samples less for validation and test.",
    )
    problem: str | None = option(
        None,
        "Kind of problem, where the target's values leave it open.",
        choices=("classification", "regression"),
    )
    image_size: int | None = option(
        None,
        "Longer side of images in pixels. Default: 128 at most, 224 of 100,000 or more.",
        at_least=8,
    )
    columns: dict[str, str] | None = option(
        None,
        "Types of columns that are not what they look like: 'zip=categorical,photo=image,id=ignore'"
        " (also numeric, text, audio, series, pointcloud, graph).",
    )
    sequence: str | None = option(
        None, "Column of a long table (a row a step) that names the sequence of each row."
    )
    time: str | None = option(None, "Column of times of a long table.")
    horizon: int | None = option(
        None, "Forecast the next so many values of the target, from a long table.", at_least=1
    )
    seed: int = option(0, "Seed of the split, the search and the trainings, in [0, 2**32).")
    pretrained: tuple[str, ...] | None = option(
        None,
        "Pretrained network to start from too (repeatable): a folder of transformers or"
        " sentence-transformers, a file of weights, or a hub id, which is downloaded.",
    )

    def __post_init__(self) -> None:
        for name, hint in _hints(cast(Hashable, type(self))).items():
            about = type(self).__dataclass_fields__[name].metadata
            object.__setattr__(self, name, _valid(name, getattr(self, name), hint, about))
        if not 0 <= self.seed < 2**32:  # what NumPy and scikit-learn take
            raise UsageError(f"seed must be in [0, 2**32), got {self.seed}")
        double = sorted({name for name in self.target or () if (self.target or ()).count(name) > 1})
        if double:
            raise UsageError(f"target names {', '.join(double)} twice")
        if self.target == ():
            raise UsageError("target names no column")
        if self.time and not (self.sequence or self.horizon):
            raise UsageError("time goes with sequence or horizon; name the column of the sequences")
        if self.is_long and self.modality not in (None, "series"):
            raise UsageError(f"sequence and horizon are for series, not for {self.modality}")

    @property
    def is_long(self) -> bool:
        """Whether the data is a long table of sequences."""
        return bool(self.sequence or self.horizon)

    def reading(self) -> dict[str, Any]:
        """The keywords of ``nas.data.read``, as JSON has them."""
        all_of_them = self.to_dict()
        return {f.name: all_of_them[f.name] for f in fields(ReadOptions)}


@dataclass(frozen=True)
class PlanOptions(ReadOptions):
    """What is planned for a data set: the keywords of ``nas.design.design``."""

    families: tuple[str, ...] = option((), "Only these families (repeatable).", flag="--family -f")
    objectives: tuple[str, ...] = option(
        (),
        "Metrics to optimise (repeatable). Default: a quality, latency_ms, params.",
        flag="--objective -o",
    )
    constraints: tuple[str, ...] = option(
        (),
        "Limit every answer must meet (repeatable): 'latency_ms<=5', 'params<=1e6'.",
        flag="--constraint -c",
    )
    time_limit: str | float | None = option(
        "auto",
        "90s, 10m, 2h or none; default: 10m, or none where another budget is given.",
        stays=False,
    )
    finish: bool = option(
        True,
        "Within the time limit, train the best candidates at full scale too, and score the winner"
        " once on the test part.",
        stays=False,
    )
    ensemble: int = option(
        5,
        "At the end, average the logits of at most so many networks: the best, those nearly as"
        " good, and others of its configuration; 1: a single network.",
        at_least=1,
    )
    workers: int | None = option(
        None, "Candidates trained at once; default: one a core, two a GPU.", at_least=1, stays=False
    )
    device: str = option(
        "auto", "Where networks are trained: auto, cpu or cuda.", choices=("auto", "cpu", "cuda")
    )
    epochs: int | None = option(
        None,
        "Epochs of a proxy. Default: those of the plan or, without a plan, of the rules.",
        at_least=1,
    )
    sampler: str = option(
        "auto",
        "Where configurations come from; auto is ehvi (the expected hypervolume improvement at"
        " known costs) with one quality among the objectives, and tpe with several.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for metric in self.objectives:
            direction(metric)  # an unknown one is reported before the data is read
        parsed = tuple(str(Constraint.parse(text)) for text in self.constraints)
        object.__setattr__(self, "constraints", parsed)
        if self.time_limit != "auto":
            parse_duration(self.time_limit)

    @property
    def limits(self) -> tuple[Constraint, ...]:
        """The constraints, parsed."""
        return tuple(map(Constraint.parse, self.constraints))

    @property
    def time_limit_s(self) -> float | None:
        """Seconds of the wall clock; None for no limit."""
        if self.time_limit == "auto":
            return DEFAULT_TIME_LIMIT_S
        return parse_duration(self.time_limit)


@dataclass(frozen=True)
class SearchOptions(PlanOptions):
    """A search: the keywords of ``nas.search``."""

    trials: int | None = option(None, "End after so many candidates.", at_least=1, stays=False)
    cpu_hours: float | None = option(
        None, "End after so many hours of a core for candidates.", stays=False
    )
    gpu_hours: float | None = option(
        None, "End after so many hours of a GPU; two candidates on one share it.", stays=False
    )
    storage: str | None = option(
        None,
        "Keep the candidates in PostgreSQL: postgresql://host/database. The password goes into"
        " PGPASSWORD or a password file.",
    )
    study: str | None = option(None, "Name in the storage; default: that of the folder.")
    executor: str = option(
        "local",
        "Processes on this machine, or Ray on a cluster.",
        choices=("local", "ray"),
        stays=False,
    )
    address: str | None = option(
        None,
        "Address of a Ray cluster of which this machine is a node: HOST:PORT, or auto. From others,"
        " use `ray job submit`. Default: RAY_ADDRESS, or a Ray of its own on this machine alone.",
        stays=False,
    )
    cpus_per_trial: float | None = option(
        None, "Cores of a candidate on Ray; default: 1.", at_least=0, stays=False
    )
    gpus_per_trial: float | None = option(
        None,
        "GPUs of a candidate on Ray; default: 0.5 where there are some.",
        at_least=0,
        stays=False,
    )
    deterministic: bool = option(
        False,
        "Workers go in step: the same seed and number of workers give the same candidates."
        " Needs --trials, knows no limit of time, and latency steers nothing (FLOPs do).",
    )
    logger: str | None = option(
        None,
        "Hand each candidate that has ended to a logger too, as a run of its own, in --out or by"
        " the variables of its package.",
        choices=LOGGERS,
        stays=False,
    )
    lr_test: bool = option(
        LR_TEST,
        "Begin with a learning-rate range test of each family's baseline: sets bounds right that"
        " are far off, as those of a family of your own may be.",
    )

    @property
    def time_limit_s(self) -> float | None:
        others = (self.trials, self.cpu_hours, self.gpu_hours)
        if self.time_limit == "auto" and others != (None, None, None):
            return None
        return super().time_limit_s

    def budget(self) -> Budget:
        """What ends the search.

        Raises UsageError where nothing does, and where a deterministic search would be steered
        by a clock.
        """
        limits = Budget(self.time_limit_s, self.trials, self.cpu_hours, self.gpu_hours)
        if limits.time_limit_s is None and self.trials is None and not limits.device_hours:
            raise UsageError(
                "a search needs an end: give a time limit, a number of trials, or device-hours"
            )
        for device, hours in limits.device_hours.items():
            if not (math.isfinite(hours) and hours > 0):
                raise UsageError(f"{device}_hours must be above 0, got {hours:g}")
        if self.deterministic:
            if limits.time_limit_s is not None or limits.device_hours:
                raise UsageError(
                    "a clock never stops twice at the same candidate: a deterministic search"
                    " takes --trials and no limit of time or device-hours"
                )
            if "latency_ms" in [*self.objectives, *(c.metric for c in self.limits)]:
                raise UsageError(
                    "latency_ms differs from measurement to measurement: it cannot be an"
                    " objective or a limit of a deterministic search; flops can"
                )
        return limits

    def kept(self) -> dict[str, Any]:
        """What run.json keeps: the options that a resumed search cannot change."""
        values = self.to_dict()
        return {f.name: values[f.name] for f in fields(self) if f.metadata["stays"]}

    def resumed(self, given: Self) -> Self:
        """These options, with how long and where to go on of ``given``.

        Raises UsageError where ``given`` asks for another search; what it leaves at its default
        stands as it was.
        """
        changes = {}
        for f in fields(self):
            first, now = getattr(self, f.name), getattr(given, f.name)
            if not f.metadata["stays"]:
                changes[f.name] = now
            elif now not in (first, f.default):
                raise UsageError(
                    f"the search was begun with {f.name} = {_shown(first)}, not {_shown(now)};"
                    " resume with the same, or start another with --out"
                )
        return replace(self, **changes)


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@cache
def _hints(record: Hashable) -> dict[str, Any]:
    found = get_type_hints(cast(Any, record))
    return {f.name: found[f.name] for f in fields(cast(Any, record))}


@cache
def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter  # 0.1 s, and `nas --help` does not need it

    return TypeAdapter(hint)


def _valid(name: str, value: Any, hint: Any, about: Mapping[str, Any]) -> Any:
    """``value`` in the type of its field. Raises UsageError where it is not allowed."""
    if value is None and type(None) in get_args(hint):
        return None
    if name == "constraints" and isinstance(value, Mapping):
        value = [f"{metric}{bound}" for metric, bound in value.items()]
    if hint in (tuple[str, ...], tuple[str, ...] | None):
        value = names(value)
    if about["choices"] and value not in about["choices"]:
        near = difflib.get_close_matches(str(value), about["choices"], n=1)
        hint_text = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(
            f"unknown {name} {value!r}; choose {', '.join(about['choices'])}{hint_text}"
        )
    from pydantic import ValidationError

    try:
        value = _adapter(hint).validate_python(value)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise UsageError(f"{name}: {reason[0].lower()}{reason[1:]}, got {value!r:.60}") from None
    least = about["at_least"]
    if least is not None and not (math.isfinite(value) and value >= least):
        raise UsageError(f"{name} must be at least {least}, got {value}")
    return value


def names(given: Any) -> tuple[str, ...]:
    """One name or several, as a tuple; a frame's integer column names are texts here."""
    if isinstance(given, (str, int)) or not isinstance(given, Iterable):
        return (str(given),)
    return tuple(map(str, given))


def parse_duration(value: str | float | None) -> float | None:
    """Seconds of 90, "90", "90s", "10m" or "1.5h"; None of None.

    Raises UsageError for a text that is no time, and for one that is not above 0.

    >>> parse_duration("1.5h")
    5400.0
    """
    if value is None:
        return None
    text = str(value).strip().lower()
    factor = _SECONDS.get(text[-1:], 0)
    try:
        seconds = float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        seconds = -1.0
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"{value!r} is not a time; write 90s, 10m or 2h")
    return seconds


def takes(record: type[ReadOptions]) -> Callable[[Function], Function]:
    """Have a function with ``**options`` show the fields of ``record``: in its signature, and in
    its docstring in place of a line "{options}"."""

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = {n: p for n, p in signature.parameters.items() if p.kind != p.VAR_KEYWORD}
        more = [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type
            )
            for f in fields(record)
            if f.name not in own
        ]
        cast(Any, function).__signature__ = signature.replace(parameters=[*own.values(), *more])
        lines = [f"{f.name} ({f.type}): {f.metadata['help']}" for f in fields(record)]
        indent = "        "
        text = f"\n{indent}".join(lines)
        function.__doc__ = (function.__doc__ or "").replace("{options}", text)
        return function

    return decorate
