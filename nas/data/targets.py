"""Targets: the kind of problem a label column is, and its values coded for a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from nas.data.tabular import distinct, numbers
from nas.task import InputError, Target, UsageError

MOST_INTEGER_CLASSES = 20  # distinct integers that are still classes
FEWEST_SAMPLES = 3  # samples of a class: one for each part


@dataclass(frozen=True)
class Labels:
    """One target and its values: class index, (n, k) 0/1, or the number itself."""

    target: Target
    values: np.ndarray


def infer(
    frame: pd.DataFrame, problem: str | None, place: Callable[[int], str]
) -> tuple[list[Labels], list[str]]:
    """The targets of all label columns, and notes.

    Args:
        frame: One column for each target, (n, targets).
        problem: "classification" or "regression" where the user says so, else None.
        place: How to call a row in a message, see ``Samples.place``.

    Raises:
        UsageError: For another ``problem``.
        InputError: For missing, infinite or constant labels and for classes of too few samples.
    """
    if problem not in (None, "classification", "regression"):
        raise UsageError(f"unknown problem {problem!r}; use classification or regression")
    notes: list[str] = []
    if frame.shape[1] > 1 and problem != "regression":
        answers = [_yes_no(frame[name]) for name in frame]
        if all(answer is not None for answer in answers):
            values = np.stack([a for a in answers if a is not None], axis=1)
            names = tuple(map(str, frame.columns))
            if (values.sum(axis=1) == 1).all():
                notes.append(
                    "every row has exactly one of the targets set; if the columns are one-hot"
                    " classes, give one column with the class instead"
                )
            return [Labels(Target("+".join(names), "multilabel", names), values)], notes
    return [_infer_one(frame[name], problem, place) for name in frame], notes


def _yes_no(column: pd.Series) -> np.ndarray | None:
    """float32 (n,) of a column that is all 0 and 1, else None."""
    values, wrong, dates = numbers(column)
    if wrong or dates or not np.isin(values, (0, 1)).all():
        return None
    return values.astype(np.float32)


def _infer_one(column: pd.Series, problem: str | None, place: Callable[[int], str]) -> Labels:
    name = str(column.name)
    codes, texts = distinct(column)
    missing = np.flatnonzero(codes < 0)
    if len(missing):
        raise InputError(
            f"target {name!r} is missing in {len(missing)} of {len(codes)} rows, first in"
            f" {place(int(missing[0]))}; drop or label these rows"
        )
    values, wrong, dates = numbers(column)
    named = isinstance(column.dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(column)
    named = named or {text.lower() for text in texts} <= {"true", "false"}
    mostly_numbers = not named and len(wrong) <= 0.05 * len(texts)
    if problem == "regression" or (problem is None and mostly_numbers and (wrong or dates)):
        if wrong:
            row = int(np.flatnonzero(codes == texts.index(wrong[0]))[0])
            raise InputError(
                f"target {name!r} is {wrong[0]!r} in {place(row)}, which is not a number;"
                " correct the value, or ask for problem=classification"
            )
        return _regression(name, values, place)
    if problem is None and mostly_numbers:
        whole = bool(np.isfinite(values).all() and (values == np.round(values)).all())
        few = len(texts) <= MOST_INTEGER_CLASSES and len(values) >= 5 * len(texts)
        if not (whole and (few or len(texts) <= 2)):
            return _regression(name, values, place)
    return _classes(name, codes, texts)


def _regression(name: str, values: np.ndarray, place: Callable[[int], str]) -> Labels:
    infinite = np.flatnonzero(~np.isfinite(values))
    if len(infinite):
        raise InputError(
            f"target {name!r} is infinite in {len(infinite)} rows, first in"
            f" {place(int(infinite[0]))}; drop or correct these rows"
        )
    if values.min() == values.max():
        raise InputError(f"target {name!r} is {values[0]:g} in every row: nothing to predict")
    return Labels(Target(name, "regression"), values)


def _order(texts: list[str]) -> list[str]:
    """Sorted; by value when all are numbers."""
    try:
        return sorted(texts, key=lambda text: (float(text), text))
    except ValueError:
        return sorted(texts)


def _classes(name: str, codes: np.ndarray, texts: list[str]) -> Labels:
    if len(texts) == 1:
        raise InputError(f"target {name!r} has the single class {texts[0]!r}: nothing to predict")
    counts = dict(zip(texts, np.bincount(codes).tolist(), strict=True))
    rare = [text for text in _order(texts) if counts[text] < FEWEST_SAMPLES]
    if rare:
        shown = ", ".join(f"{text!r} ({counts[text]})" for text in rare[:5])
        more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
        raise InputError(
            f"target {name!r}: fewer than {FEWEST_SAMPLES} samples of class {shown}{more};"
            " merge or drop these classes"
        )
    classes = tuple(_order(texts))
    position = {text: i for i, text in enumerate(classes)}
    index = np.array([position[text] for text in texts], np.int64)
    kind = "binary" if len(classes) == 2 else "multiclass"
    return Labels(Target(name, kind, classes), index[codes])  # type: ignore[arg-type]


def describe(labels: Labels, train: np.ndarray) -> Target:
    """The target with its statistics on the rows ``train``: class counts, or mean and spread.

    Raises InputError for a class without a training sample and for a constant target.
    """
    target, values = labels.target, labels.values[train]
    if target.kind == "regression":
        std = float(values.std())
        if std == 0:
            raise InputError(f"target {target.name!r} is {values[0]:g} in every training row")
        return replace(target, mean=float(values.mean()), std=std)
    if target.kind == "multilabel":
        counts = values.sum(axis=0).astype(int)
    else:
        counts = np.bincount(values, minlength=len(target.classes))
    absent = [name for name, n in zip(target.classes, counts, strict=True) if not n]
    if absent and target.kind != "multilabel":
        raise InputError(
            f"target {target.name!r}: the training part holds no sample of class"
            f" {', '.join(map(repr, absent[:5]))}; split otherwise or drop the class"
        )
    return replace(target, counts=tuple(counts.tolist()))


def encode(
    frame: pd.DataFrame, targets: tuple[Target, ...], place: Callable[[int], str]
) -> dict[str, np.ndarray]:
    """The labels of those targets whose columns are in ``frame``, coded as in training.

    Raises InputError for a class that training has not seen and for values that are not numbers.
    """
    labels: dict[str, np.ndarray] = {}
    for target in targets:
        names = target.classes if target.kind == "multilabel" else (target.name,)
        if not all(name in frame for name in names):
            continue
        parts = []
        for name in names:
            codes, texts = distinct(frame[name])
            if target.kind in ("binary", "multiclass"):
                known = {text: i for i, text in enumerate(target.classes)}
            else:
                values, _, _ = numbers(frame[name])
                known = {}
            if (codes < 0).all():
                break  # an empty target column, as in a file made for predictions
            if known:
                values = np.array([*(known.get(text, np.nan) for text in texts), np.nan])[codes]
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad):
                first = int(bad[0])
                found = repr(texts[codes[first]]) if codes[first] >= 0 else "missing"
                raise InputError(
                    f"target {name!r} is {found} in {place(first)}; expected"
                    f" {'one of ' + ', '.join(target.classes) if known else 'a number'}, or no"
                    " such column at all"
                )
            parts.append(values)
        else:
            if target.kind == "multilabel":
                labels[target.name] = np.stack(parts, axis=1).astype(np.float32)
            else:
                kind = np.float64 if target.kind == "regression" else np.int64
                labels[target.name] = parts[0].astype(kind)
    return labels
