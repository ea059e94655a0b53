"""Warnings on a data set: leaks, empty columns, rare classes, few samples. Nothing is changed.

A false alarm is a fault here: each threshold leaves room for data that are merely easy, rare
or coarse.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from nas.rules import CROSS_VALIDATED, MOST_TOKENS
from nas.task import Column, DataProfile, Target, input_type

if TYPE_CHECKING:
    from nas.data.dataset import Dataset

LEAK = 0.98  # of a constant guess's error removed by one column: it may hold the answer
FEWEST_ERRORS = 10  # of the constant guess, below which there is no warning of a leak
MOSTLY_MISSING = 0.5  # fraction of missing values
NEARLY_CONSTANT = 0.995  # fraction of the rows that have the same value
SAMPLED_ROWS, MAYBE_CONSTANT = 10_000, 0.9  # where fewer of these rows have it, it is not searched
IMBALANCED = 10.0  # largest class over smallest
RARE = 10  # training samples of a class
LEAKED_SAMPLES = 0.01  # fraction of val and test samples that also are in the training part
PRECISE = 500  # samples behind a score, below which its standard error is stated
LEAK_ROWS, LEAK_CELLS = 20_000, 3 * 10**7  # examined at most in the search for leaks


def warnings(dataset: Dataset) -> list[str]:
    """Sentences on leaks, on nearly empty or constant columns, on classes and on the sample count.

    >>> warnings(dataset)  # doctest: +SKIP
    ["rare classes of 'y', in 420 training samples: 'c' (4); an objective of balanced_accuracy …"]
    """
    tables = {"": dataset.profile, **{k: m.profile for k, m in dataset.profile.members.items()}}
    found: list[str] = []
    for member, profile in tables.items():
        if {"numeric", "categorical"} & profile.inputs.keys():  # graphs have columns of nodes
            found += _empty(profile.columns)
            found += _constant(dataset, member, profile)
            found += _leaks(dataset, member, profile)
        found += _long(member, profile)
    found += [note for target in dataset.targets for note in _classes(target)]
    return [*found, *_amount(dataset)]


def _values(
    dataset: Dataset, member: str, profile: DataProfile
) -> Iterator[tuple[Column, np.ndarray]]:
    """Each column with its values (n,): numbers, NaN where missing, or codes."""
    before = f"{member}." if member else ""
    place = {"numeric": 0, "categorical": 0}
    for column in profile.columns:
        if column.kind in place:
            array = np.asarray(dataset.inputs[f"{before}{column.kind}"])
            yield column, array[:, place[column.kind]]
            place[column.kind] += 1


# Columns with little information ----------------------------------------------------------


def _empty(columns: tuple[Column, ...]) -> Iterator[str]:
    empty = [c for c in columns if c.missing > MOSTLY_MISSING]
    if empty:
        yield f"mostly missing: {_listed([f'{c.name!r} ({_percent(c.missing)})' for c in empty])}"


def _constant(dataset: Dataset, member: str, profile: DataProfile) -> Iterator[str]:
    train = dataset.parts["train"]
    found = []
    for column, values in _values(dataset, member, profile):
        sample = values[train[:: max(1, len(train) // SAMPLED_ROWS)]]
        if np.unique(sample, return_counts=True)[1].max() < MAYBE_CONSTANT * len(sample):
            continue  # most columns, without sorting them
        _, counts = np.unique(values[train], return_counts=True)
        if counts.max() >= NEARLY_CONSTANT * len(train) and column.missing < MOSTLY_MISSING:
            found.append(f"{column.name!r} ({_percent(counts.max() / len(train))})")
    if found:
        yield f"one value in nearly every training row: {_listed(found)}"


# Columns that leak the target ------------------------------------------------------------


def _leaks(dataset: Dataset, member: str, profile: DataProfile) -> Iterator[str]:
    """Columns that alone predict a target almost without error, as a copy of the answer does, or
    one that was rescaled or recorded afterwards. Each half of the rows outside the test part is
    predicted from the other: by the same value, or by the nearest one of a numeric column."""
    rows = np.concatenate([dataset.parts["train"], dataset.parts["val"]])
    most = min(LEAK_ROWS, max(1_000, LEAK_CELLS // max(len(profile.columns), 1)))
    rows = np.random.default_rng(0).permutation(rows)[:most]
    halves = (rows[0::2], rows[1::2])
    for target in dataset.targets:
        labels = np.asarray(dataset.labels[target.name])
        answers = {target.name: labels}
        if target.kind == "multilabel":
            answers = {name: labels[:, i] for i, name in enumerate(target.classes)}
        for name, label in answers.items():
            regression = target.kind == "regression"
            if not regression:
                label = label.astype(np.int64)
            for column, values in _values(dataset, member, profile):
                explained = _explained(values, label, halves, column.kind == "numeric", regression)
                if explained >= LEAK:
                    measure = (
                        "of its variance" if regression else "fewer errors than its commonest class"
                    )
                    yield (
                        f"column {column.name!r} alone predicts {name!r} ({_percent(explained)}"
                        f" {measure}): does it hold the answer? If it is not known beforehand,"
                        f" leave it out: --columns {shlex.quote(f'{column.name}=ignore')}"
                    )


def _explained(
    values: np.ndarray,
    label: np.ndarray,
    halves: tuple[np.ndarray, np.ndarray],
    number: bool,
    regression: bool,
) -> float:
    """The fraction of a constant guess's error that a column removes; 0 where that error is too
    small to judge."""
    error = chance = 0.0
    for known, predicted in (halves, halves[::-1]):
        distinct, place = np.unique(values[known], return_inverse=True, equal_nan=True)
        at = _nearest(distinct, values[predicted], number)
        if regression:
            mean = label[known].mean()
            sums = np.bincount(place, label[known]) / np.bincount(place)
            guess = np.where(at >= 0, sums[at], mean)
            error += float(((label[predicted] - guess) ** 2).sum())
            chance += float(((label[predicted] - mean) ** 2).sum())
        else:
            classes = int(label.max()) + 1
            pairs = np.bincount(place * classes + label[known], minlength=len(distinct) * classes)
            common = np.bincount(label[known]).argmax()
            guess = np.where(at >= 0, pairs.reshape(-1, classes).argmax(1)[at], common)
            error += float((label[predicted] != guess).sum())
            chance += float((label[predicted] != common).sum())
    reliable = chance > 0 if regression else chance >= FEWEST_ERRORS
    return 1 - error / chance if reliable else 0.0


def _nearest(distinct: np.ndarray, values: np.ndarray, number: bool) -> np.ndarray:
    """Positions of ``values`` (n,) in ``distinct`` (k,), which is sorted with NaN last: of the
    nearest value if they are numbers, else of the same one; -1 where there is none."""
    at = np.searchsorted(distinct, values).clip(max=len(distinct) - 1)
    if not number:
        return np.where(distinct[at] == values, at, -1)
    before = (at - 1).clip(min=0)
    with np.errstate(invalid="ignore"):
        nearer = np.abs(values - distinct[before]) < np.abs(distinct[at] - values)
        at = np.where(nearer | (np.isnan(distinct[at]) & ~np.isnan(values)), before, at)
    return np.where(np.isnan(values) & ~np.isnan(distinct[at]), -1, at)


# Classes, lengths, amounts ---------------------------------------------------------------


def _classes(target: Target) -> Iterator[str]:
    if target.kind not in ("binary", "multiclass"):
        return
    order = np.argsort(target.counts, kind="stable")
    total = sum(target.counts)
    smallest = int(order[0])
    few = [i for i in order if target.counts[i] < RARE]
    if target.imbalance >= IMBALANCED or few:
        named = [f"{target.classes[i]!r} ({target.counts[i]})" for i in few] or [
            f"{target.classes[smallest]!r} ({target.counts[smallest]})"
        ]
        yield (
            f"rare classes of {target.name!r}, in {total:,} training samples: {_listed(named)};"
            " an objective of balanced_accuracy counts them as much as the others"
        )


def _long(member: str, profile: DataProfile) -> Iterator[str]:
    for name, lengths in profile.lengths.items():
        if input_type(name) == "tokens" and "." not in name and lengths[5] >= MOST_TOKENS:
            which = f"{member}: " if member else ""
            yield (
                f"{which}one text in twenty has {lengths[5]:,} tokens or more: attention to all of"
                " them is expensive (rule long-sequences)"
            )


def _amount(dataset: Dataset) -> Iterator[str]:
    profile = dataset.profile
    whole = "node" in profile.inputs or profile.parts_differ  # as `rules.folds` has it
    folded = profile.n_val < CROSS_VALIDATED and not whole
    scored = profile.n_val + (profile.n_train if folded else 0)
    if scored < PRECISE:
        error = "small differences may be chance"
        if all(target.kind != "regression" for target in dataset.targets):
            error = f"an accuracy has a standard error of up to {50 / math.sqrt(scored):.1f} points"
        yield f"few samples: a score rests on {scored}, so that {error}"


def duplicates(leaked: int, outside: int) -> list[str]:
    """A note on samples of val and test that equal one of the training part, label included; in
    coarse data a few always do."""
    if leaked < LEAKED_SAMPLES * outside:
        return []
    return [
        f"{leaked} of {outside} samples of val and test ({_percent(leaked / outside)}) also occur"
        " in train, label included: scores on them may be too good"
    ]


def _listed(texts: list[str], most: int = 6) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def _percent(fraction: float) -> str:
    """Two digits, or three near the top: 77 %, 99.7 %."""
    digits = 1 if fraction > 0.985 and round(fraction, 3) < 1 else 0
    return f"{100 * fraction:.{digits}f} %"
