"""Where the rules are at work: which parameters of which families each of them bounds.

Nothing here is written by hand: the spaces of all installed families are made for tasks of many
kinds, and the rules that their parameters name are collected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

from nas import rules
from nas.checks import CHECKS
from nas.family import load_families
from nas.space import Int, Param, Space
from nas.task import (
    Column,
    Constraint,
    DataProfile,
    Member,
    Modality,
    Objective,
    SeriesForm,
    Target,
    Task,
)

TYPICAL = 10_000  # samples


@dataclass(frozen=True)
class Use:
    """What one rule does: the parameters it bounds, each with the families that have it; what
    else it decides; and whether it is checked on networks that are already there."""

    rule: rules.Rule
    parameters: dict[str, tuple[str, ...]]
    decides: tuple[str, ...]

    @property
    def checked(self) -> bool:
        """Whether ``nas audit`` checks the rule on networks that are already there."""
        return self.rule.id in CHECKS

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``nas rules --json`` prints them."""
        return {
            "id": self.rule.id,
            "statement": self.rule.statement,
            "source": self.rule.source,
            "parameters": {param: list(families) for param, families in self.parameters.items()},
            "decides": list(self.decides),
            "checked": self.checked,
        }

    @property
    def families(self) -> tuple[str, ...]:
        """The families that have a parameter which the rule bounds."""
        return tuple(dict.fromkeys(f for found in self.parameters.values() for f in found))


@cache
def uses() -> dict[str, Use]:
    """Each rule's use, by its id."""
    found: dict[str, dict[str, dict[str, None]]] = {name: {} for name in rules.RULES}
    for family in load_families().values():
        for task in _tasks(family.modality):
            for param in family.space(task).params:
                if param.name.count(".") < 2:  # else of another family, nested in a fusion
                    for rule in param.why:
                        found[rule].setdefault(plain_name(param.name), {})[family.name] = None
    return {
        name: Use(
            rules.RULES[name],
            {param: tuple(families) for param, families in params.items()},
            rules.decided(name),
        )
        for name, params in found.items()
    }


def plain_name(parameter: str) -> str:
    """The name of a parameter without the stage, resolution or member that it is of."""
    return re.sub(r"\d+$", "", parameter.rpartition(".")[2].split("@")[0])


def typical_task(modality: Modality, samples: int = TYPICAL) -> Task:
    """A made-up task of ordinary data: ten classes, ``samples`` to train on."""
    classes = tuple(f"class {i}" for i in range(10))
    target = Target("label", "multiclass", classes, (samples // 10,) * 10)
    profile = _of_size(_PROFILES[modality], samples)
    return Task(modality, (target,), profile).with_objectives()


def _of_size(profile: DataProfile, samples: int) -> DataProfile:
    """A profile, and those of its members, with so many samples to train on."""
    few = max(samples // 5, 1)
    members = {
        name: replace(member, profile=replace(member.profile, n_train=samples))
        for name, member in profile.members.items()
    }
    return replace(profile, n_train=samples, n_val=few, n_test=few, members=members)


def described(modality: Modality) -> str:
    """The typical task's data in a few words."""
    return _WORDS[modality]


def _columns(numeric: int, categorical: int) -> tuple[Column, ...]:
    edges = tuple(i / 48 for i in range(49))
    numbers = (
        Column(f"number {i}", "numeric", 0.1 * (i == 0), quantiles=edges) for i in range(numeric)
    )
    names = (
        Column(f"name {i}", "categorical", categories=tuple(f"v{k}" for k in range(20)))
        for i in range(categorical)
    )
    return (*numbers, *names)


def _table(numeric: int, categorical: int) -> DataProfile:
    shapes: dict[str, tuple[int, ...]] = {"numeric": (numeric,), "categorical": (categorical,)}
    return DataProfile(0, 0, 0, shapes, columns=_columns(numeric, categorical))


def _images(side: int) -> DataProfile:
    return DataProfile(
        0, 0, 0, {"image": (3, side, side)}, channel_mean=(0.5,) * 3, channel_std=(0.25,) * 3
    )


def _graphs(features: int) -> DataProfile:
    return DataProfile(
        0, 0, 0,
        {"nodes": (120, features), "edges": (250, 2)},
        lengths={"nodes": (4, 8, 15, 25, 38, 70, 120), "edges": (6, 14, 30, 52, 80, 150, 250)},
        channel_mean=(0.0,) * features,
        channel_std=(1.0,) * features,
    )  # fmt: skip


_TEXTS = DataProfile(
    0, 0, 0, {"tokens": (90,)}, lengths={"tokens": (2, 6, 13, 20, 29, 45, 90)}, vocabulary=12_000
)
_PROFILES: dict[Modality, DataProfile] = {
    "tabular": _table(10, 5),
    "images": _images(64),
    "text": _TEXTS,
    "series": DataProfile(
        0, 0, 0,
        {"series": (400, 3)},
        lengths={"series": (60, 90, 120, 150, 200, 300, 400)},
        channel_mean=(0.0,) * 3,
        channel_std=(1.0,) * 3,
        series=SeriesForm(),
    ),
    "audio": DataProfile(
        0, 0, 0,
        {"wave": (48_000,)},
        lengths={"wave": (6_000, 9_000, 12_000, 16_000, 20_000, 32_000, 48_000)},
        sample_rate=16_000,
    ),
    "graphs": _graphs(16),
    "pointclouds": DataProfile(
        0, 0, 0,
        {"points": (2_048, 3)},
        lengths={"points": (200, 500, 800, 1_024, 1_200, 1_800, 2_048)},
        channel_mean=(0.0,) * 3,
        channel_std=(1.0,) * 3,
    ),
    "multimodal": DataProfile(
        0, 0, 0,
        {"photo.image": (3, 64, 64), "note.tokens": (90,), "table.numeric": (10,),
         "table.categorical": (5,)},
        lengths={"note.tokens": _TEXTS.lengths["tokens"]},
        members={
            "photo": Member("images", _images(64)),
            "note": Member("text", _TEXTS),
            "table": Member("tabular", _table(10, 5)),
        },
    ),
}  # fmt: skip
_WORDS: dict[Modality, str] = {
    "tabular": "10 numeric and 5 categorical columns",
    "images": "colour images of 64 x 64 pixels",
    "text": "texts of 20 words at the median, 45 at the 95th percentile, a vocabulary of 12,000",
    "series": "sequences of three channels, of 150 steps at the median",
    "audio": "sounds of a second at the median, 2 at the 95th percentile, at 16 kHz",
    "graphs": "graphs of 25 nodes at the median, 16 features each",
    "pointclouds": "clouds of 1,024 points at the median",
    "multimodal": "a photo of 64 x 64 pixels, a note of 20 words and a table of 15 columns",
}


def _tasks(modality: Modality) -> Iterator[Task]:
    """Tasks of many kinds: few and many samples, tight limits, long samples, imbalanced classes."""
    profiles = [_PROFILES[modality]]
    if modality == "tabular":
        profiles.append(_table(12_000, 0))
    if modality == "graphs":  # counts of a node's words; the nodes of one graph, and of a large one
        one = replace(_graphs(500), lengths={}, inputs=_graphs(500).inputs | {"node": ()})
        many = {"nodes": (2_500_000, 100), "edges": (120_000_000, 2)}
        profiles += [_graphs(500), one, replace(one, inputs=one.inputs | many)]
    if modality == "series":  # a forecast
        form = SeriesForm(horizon=12, window=24, season=12, naive_errors={"value": 1.0})
        profiles.append(replace(_PROFILES[modality], series=form))
    for profile, n, limit in product(profiles, (40, TYPICAL, 10**6), (None, 1e5, 5e3)):
        limits = (Constraint("params", "<=", limit),) if limit else ()
        task = replace(typical_task(modality, n), profile=_of_size(profile, n), constraints=limits)
        task = replace(task, budget=replace(task.budget, memory_mb=8_192.0))
        yield task
        if limit is None:
            long = {k: tuple(20 * v for v in found) for k, found in profile.lengths.items()}
            yield replace(task, profile=replace(task.profile, lengths=long))
            counts = (n // 2, *(n // 18,) * 9)
            rare = (replace(task.targets[0], counts=counts),)
            weighed = (Objective("balanced_accuracy", "max"),)
            yield replace(task, device="cuda", targets=rare, objectives=weighed)


# Words -----------------------------------------------------------------------------------


def condition(param: Param, space: Space) -> str:
    """Where a parameter applies: "depth ≤ 3", "residual = True"."""
    parts = []
    for parent, values in param.when.items():
        known = space[parent]
        if isinstance(known, Int) and len(values) > 1:
            least, most = min(map(int, values)), max(map(int, values))
            if (least, most) == (known.low, known.high):
                continue
            if least == known.low:
                parts.append(f"{parent} ≤ {most}")
            else:
                parts.append(f"{parent} ≥ {least}")
        else:
            parts.append(f"{parent} = {' | '.join(map(str, values))}")
    return ", ".join(parts)
