"""Search spaces: conditional parameters, each with its bounds, its default and the reasons.

A space is plain data. It can be sampled, mutated, asked about and written to JSON
without Optuna; ``suggest`` hands the same parameters to an Optuna trial.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from nas.task import JsonRecord, UsageError

if TYPE_CHECKING:
    import numpy as np
    import optuna

Value = bool | int | float | str
ENSEMBLE = "ensemble"  # in a configuration: of how many networks the logits are averaged
Config = dict[str, Value]
When = dict[str, tuple[Value, ...]]


@dataclass(frozen=True)
class Int(JsonRecord):
    """A whole number in ``low..high``, a multiple of ``step`` away from ``low``.

    ``log=True`` samples evenly in the logarithm and rounds to the nearest step, so
    that a width runs over 8, 16, 24 … without most samples being wide.
    """

    name: str
    low: int
    high: int
    default: int
    step: int = 1
    log: bool = False
    when: When = field(default_factory=dict)
    why: tuple[str, ...] = ()
    type: Literal["int"] = "int"

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"{self.name}: low <= high must hold, but got {self.low}, {self.high}")
        if self.step < 1:
            raise ValueError(f"{self.name}: step >= 1 must hold, but got {self.step}")
        if self.log and self.low < 1:
            raise ValueError(f"{self.name}: low >= 1 must hold for log=True, but got {self.low}")
        if not self.contains(self.default):
            raise ValueError(f"{self.name}: default {self.default} is not in {self.domain}")

    def contains(self, value: Value) -> bool:
        """Whether ``value`` is an integer on the grid; a bool is not."""
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and self.low <= value <= self.high
            and (value - self.low) % self.step == 0
        )

    def snap(self, value: float) -> int:
        """The nearest value on the grid."""
        steps = round((value - self.low) / self.step)
        return self.low + self.step * min(max(steps, 0), (self.high - self.low) // self.step)

    def sample(self, rng: np.random.Generator) -> int:
        """A random value, evenly or evenly in the logarithm."""
        if self.log:
            return self.snap(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return self.low + self.step * int(rng.integers((self.high - self.low) // self.step + 1))

    def suggest(self, trial: optuna.Trial, name: str) -> int:
        """Ask an Optuna trial for a value, under ``name``."""
        if self.log:
            return self.snap(trial.suggest_int(name, self.low, self.high, log=True))
        top = self.snap(self.high)
        return trial.suggest_int(name, self.low, top, step=self.step)

    @property
    def size(self) -> float:
        """How many values there are."""
        return (self.high - self.low) // self.step + 1

    @property
    def domain(self) -> str:
        """The possible values as people read them."""
        step = f" step {self.step}" if self.step > 1 else ""
        return f"{self.low} … {self.high}{step}{' log' if self.log else ''}"


@dataclass(frozen=True)
class Float(JsonRecord):
    """A real number in ``low..high``; ``log=True`` samples evenly in the logarithm."""

    name: str
    low: float
    high: float
    default: float
    log: bool = False
    when: When = field(default_factory=dict)
    why: tuple[str, ...] = ()
    type: Literal["float"] = "float"

    def __post_init__(self) -> None:
        if not -math.inf < self.low <= self.high < math.inf:
            raise ValueError(
                f"{self.name}: low <= high must hold and both be finite,"
                f" but got {self.low}, {self.high}"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"{self.name}: low > 0 must hold for log=True, but got {self.low}")
        if not self.contains(self.default):
            raise ValueError(f"{self.name}: default {self.default} is not in {self.domain}")

    def contains(self, value: Value) -> bool:
        """Whether ``value`` is a number within the bounds; a bool is not."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high  # type: ignore[operator]

    def sample(self, rng: np.random.Generator) -> float:
        """A random value, evenly or evenly in the logarithm."""
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
            return min(max(value, self.low), self.high)
        return float(rng.uniform(self.low, self.high))

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        """Ask an Optuna trial for a value, under ``name``."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    @property
    def size(self) -> float:
        """Infinite, or 1 where both bounds are equal."""
        return math.inf if self.low < self.high else 1

    @property
    def domain(self) -> str:
        """The possible values as people read them."""
        return f"{self.low:g} … {self.high:g}{' log' if self.log else ''}"


@dataclass(frozen=True)
class Choice(JsonRecord):
    """One of several options without an order.

    ``each=True`` asks a search to begin with every option, all else as in the baseline.
    """

    name: str
    options: tuple[Value, ...]
    default: Value
    when: When = field(default_factory=dict)
    why: tuple[str, ...] = ()
    each: bool = False
    type: Literal["choice"] = "choice"

    def __post_init__(self) -> None:
        if wrong := [o for o in self.options if type(o) not in (bool, int, float, str)]:
            raise ValueError(f"{self.name}: options must be bool, int, float or str, got {wrong}")
        # Optuna finds an option by ==, so 1, 1.0 and True would be one option there.
        if not self.options or len(set(self.options)) < len(self.options):
            raise ValueError(
                f"{self.name}: options must be distinct and not empty, got {self.options}"
            )
        if not self.contains(self.default):
            raise ValueError(f"{self.name}: default {self.default!r} is not in {self.domain}")

    def contains(self, value: Value) -> bool:
        """Whether ``value`` is one of the options, of the same type."""
        # True == 1 in Python; a switch is not a number here.
        return any(type(value) is type(o) and value == o for o in self.options)

    def sample(self, rng: np.random.Generator) -> Value:
        """A random option."""
        return self.options[int(rng.integers(len(self.options)))]

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """Ask an Optuna trial for a value, under ``name``."""
        return trial.suggest_categorical(name, self.options)  # type: ignore[return-value]

    @property
    def size(self) -> float:
        """How many options there are."""
        return len(self.options)

    @property
    def domain(self) -> str:
        """The possible values as people read them."""
        return " | ".join(map(str, self.options))


Param = Int | Float | Choice


def _holding(param: Param, values: Sequence[Value]) -> Param:
    """``param`` with bounds or options that hold ``values`` too."""
    missing = [value for value in values if not param.contains(value)]
    if not missing:
        return param
    if isinstance(param, Choice):
        return replace(param, options=tuple(dict.fromkeys((*param.options, *missing))))
    low, high = min(param.low, *missing), max(param.high, *missing)
    if isinstance(param, Float):
        return replace(param, low=float(low), high=float(high))
    # The grid goes through all of them, and where it began.
    step = math.gcd(param.step, *(int(value) - int(low) for value in (param.low, *values)))
    return replace(param, low=int(low), high=int(high), step=max(1, step))


@dataclass(frozen=True)
class Space(JsonRecord):
    """An ordered set of parameters; one that has ``when`` follows those it names.

    ``when={"depth": (1, 2)}`` makes a parameter active where depth is active and 1 or 2. The
    parent must be an Int or a Choice.

    >>> space = Space((
    ...     Int("depth", 1, 3, default=2),
    ...     Choice("residual", (True, False), default=True, when={"depth": (1, 2)}),
    ... ))
    >>> space.baseline()
    {'depth': 2, 'residual': True}
    >>> space.complete({"depth": 3})
    {'depth': 3}

    ``ladder`` holds configurations that are trained before the baseline, the smallest first; what
    they leave open is at its default.
    """

    SPARSE: ClassVar[bool] = True

    params: tuple[Param, ...]
    ladder: tuple[Config, ...] = ()

    def __post_init__(self) -> None:
        seen: dict[str, Param] = {}
        for param in self.params:
            if param.name in seen:
                raise ValueError(f"two parameters are called {param.name!r}")
            for parent, values in param.when.items():
                if parent not in seen:
                    raise ValueError(
                        f"{param.name!r} depends on {parent!r}, which does not come before it"
                    )
                if isinstance(seen[parent], Float):
                    raise ValueError(
                        f"{param.name!r} depends on {parent!r}, which is a Float; a parent must be"
                        " an Int or a Choice"
                    )
                wrong = [v for v in values if not seen[parent].contains(v)]
                if wrong or not values:
                    raise ValueError(
                        f"{param.name!r} depends on {parent} = {wrong or values},"
                        f" but {parent} is {seen[parent].domain}"
                    )
            seen[param.name] = param
        for config in self.ladder:
            self.check(self.complete(config))

    def __getitem__(self, name: str) -> Param:
        for param in self.params:
            if param.name == name:
                return param
        raise KeyError(name)

    @staticmethod
    def _active(param: Param, config: Config) -> bool:
        for parent, values in param.when.items():  # no generator: this is where samplers spend time
            if parent not in config or config[parent] not in values:
                return False
        return True

    def baseline(self) -> Config:
        """The defaults: the proven configuration, scaled to the data."""
        return self.complete({})

    def complete(self, given: Config) -> Config:
        """The values of ``given`` where they apply, and defaults elsewhere."""
        config: Config = {}
        for param in self.params:
            if self._active(param, config):
                config[param.name] = given.get(param.name, param.default)
        return config

    def starts(self) -> list[Config]:
        """The ladder, the baseline, and the baseline with each other option of a choice that is
        marked ``each``."""
        baseline = self.baseline()
        starts = [*map(self.complete, self.ladder), baseline]
        for choice in self.params:
            if not (isinstance(choice, Choice) and choice.each and choice.name in baseline):
                continue
            others = (option for option in choice.options if option != choice.default)
            starts += [self.complete({choice.name: option}) for option in others]
        return starts

    def holding(self, configs: Sequence[Config], why: str, small: Sequence[Config] = ()) -> Space:
        """This space with bounds as wide as ``configs`` need, the smallest network first.

        The last one's values become the defaults. ``small`` are networks that the baseline exceeds:
        the bounds hold them too, and nothing else changes. What was the baseline, and the others,
        are the ladder to it. A parameter whose bounds move has the rule ``why`` among its reasons.
        What a configuration leaves open keeps its default.

        >>> space = Space((Int("depth", 1, 3, default=2), Float("lr", 0.1, 1.0, default=0.3)))
        >>> wide = space.holding([{"depth": 6}], why="references")
        >>> wide["depth"].domain, wide.baseline(), wide.ladder
        ('1 … 6', {'depth': 6, 'lr': 0.3}, ({'depth': 2},))
        """
        if not configs and not small:
            return self
        params: list[Param] = []
        for param in self.params:
            held = [c[param.name] for c in (*configs, *small) if param.name in c]
            wide = _holding(param, held)
            if wide != param:
                wide = replace(wide, why=(*param.why, why))
            default = configs[-1].get(param.name, param.default) if configs else param.default
            params.append(replace(wide, default=default))  # type: ignore[arg-type]
        if not configs:
            return replace(self, params=tuple(params))
        moved = {o.name: o.default for o, p in zip(self.params, params, strict=True) if o != p}
        return Space(tuple(params), (moved, *configs[:-1]))

    def sample(self, rng: np.random.Generator) -> Config:
        """A random configuration: a value for each active parameter."""
        config: Config = {}
        for param in self.params:
            if self._active(param, config):
                config[param.name] = param.sample(rng)
        return config

    def suggest(self, trial: optuna.Trial) -> Config:
        """Draw a configuration through Optuna's define-by-run interface."""
        config: Config = {}
        for param in self.params:
            if self._active(param, config):
                config[param.name] = param.suggest(trial, param.name)
        return config

    def mutate(self, config: Config, rng: np.random.Generator, changes: int = 1) -> Config:
        """A neighbour: ``changes`` active parameters drawn anew, the rest kept where active.

        The drawn values differ from the old ones wherever the parameter has another value.
        """
        movable = [p for p in self.params if p.name in config and p.size > 1]
        picked = rng.choice(len(movable), size=min(changes, len(movable)), replace=False)
        redraw = {movable[i].name for i in picked}
        result: Config = {}
        for param in self.params:
            if not self._active(param, result):
                continue
            value = config.get(param.name, param.default)
            if param.name in redraw:
                while (new := param.sample(rng)) == value:
                    pass
                value = new
            result[param.name] = value
        return result

    def check(self, config: Config) -> None:
        """Raise UsageError where ``config`` is not a point of this space."""
        expected = [p for p in self.params if self._active(p, config)]
        # A wrong parent first: its children would be blamed for not applying.
        for param in expected:
            if param.name in config and not param.contains(config[param.name]):
                raise UsageError(
                    f"parameter {param.name} = {config[param.name]!r} is outside {param.domain}"
                )
        names = [param.name for param in expected]
        for name in config:
            if name not in names:
                raise UsageError(
                    f"parameter {name!r} does not apply here; those that do: {', '.join(names)}"
                )
        for param in expected:
            if param.name not in config:
                raise UsageError(f"parameter {param.name!r} is missing ({param.domain})")

    @property
    def size(self) -> float:
        """Number of configurations; infinite with an active real-valued parameter."""
        return _count(self.params, {})

    @classmethod
    def join(cls, spaces: dict[str, Space]) -> Space:
        """One space over several families: a ``family`` choice and prefixed names."""
        names = tuple(spaces)
        params: list[Param] = [Choice("family", names, default=names[0])]
        for family, space in spaces.items():
            for param in space.params:
                when: When = {f"{family}.{p}": v for p, v in param.when.items()}
                # A parameter with a parent is active only where the parent is.
                when = when or {"family": (family,)}
                params.append(replace(param, name=f"{family}.{param.name}", when=when))
        return cls(tuple(params))


def _count(params: tuple[Param, ...], config: Config) -> float:
    parents = {name for param in params for name in param.when}
    total = 1.0
    for i, param in enumerate(params):
        if not Space._active(param, config):
            continue
        if param.name not in parents:
            total *= param.size
            continue
        assert not isinstance(param, Float)  # Space refuses a real-valued parent
        options: Iterable[Value] = (
            param.options
            if isinstance(param, Choice)
            else range(param.low, param.high + 1, param.step)
        )
        rest = params[i + 1 :]
        return total * sum(_count(rest, {**config, param.name: value}) for value in options)
    return total


def split_family(config: Config) -> tuple[str, Config]:
    """Undo ``Space.join``: the family's name and its own configuration."""
    family = str(config["family"])
    own = {k.removeprefix(f"{family}."): v for k, v in config.items() if k != "family"}
    return family, own


def join_family(family: str, config: Config) -> Config:
    """Undo ``split_family``: a configuration of the joint space."""
    return {"family": family} | {f"{family}.{name}": value for name, value in config.items()}


def members(family: str, config: Config) -> list[tuple[str, Config]]:
    """The family and the configuration of each network of an ensemble; of a single network its own.

    Those of the network i that is not as the first are named ``ensemble.i.family`` and so on.

    Example:
        >>> members("mlp", {"width": 64, "ensemble": 2})
        [('mlp', {'width': 64}), ('mlp', {'width': 64})]
        >>> members("mlp", ensemble([("mlp", {"width": 64}), ("tabnet", {"steps": 3})]))
        [('mlp', {'width': 64}), ('tabnet', {'steps': 3})]
    """
    count = int(config.get(ENSEMBLE, 1))
    prefixes = [f"{ENSEMBLE}.{number}." for number in range(1, count)]
    own = [
        {name.removeprefix(p): value for name, value in config.items() if name.startswith(p)}
        for p in prefixes
    ]
    known = {f"{p}{name}" for p, of in zip(prefixes, own, strict=True) for name in of}
    first = {n: v for n, v in config.items() if n != ENSEMBLE and n not in known}
    return [(family, first)] + [
        (str(of["family"]), {n: v for n, v in of.items() if n != "family"})
        if of
        else (family, dict(first))
        for of in own
    ]


def ensemble(networks: Sequence[tuple[str, Config]]) -> Config:
    """Undo ``members``: one configuration, to be read with the family of the first network."""
    (family, first), *others = networks
    if not others:
        return dict(first)
    joined: Config = first | {ENSEMBLE: len(networks)}
    for number, (other, own) in enumerate(others, start=1):
        if (other, own) != (family, first):
            given = {"family": other} | own
            joined |= {f"{ENSEMBLE}.{number}.{name}": value for name, value in given.items()}
    return joined


def config_key(family: str, config: Config) -> str:
    """A text that is equal for equal configurations, to recognise duplicates."""
    return f"{family} {json.dumps(config, sort_keys=True)}"
