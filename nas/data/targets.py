"""Targets: the kind of problem a label column is, and its values coded for a network."""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd

from nas.data.columns import WRONG, ColumnValues, as_text, canonical, distinct
from nas.data.csv_files import MISSING
from nas.task import InputError, Kind, Target, UsageError

MOST_INTEGER_CLASSES = 20  # distinct integers that are still classes
MOST_CLASSES = 1_000  # of integers 0, 1, 2, … with about as many samples each
FEWEST_SAMPLES = 3  # of a class: one for each part
WIDE_RANGE = 1_000.0  # largest over smallest of a positive target, from which on a note says so
SEPARATORS = (";", "|", ",")
TAGGED = 0.1  # fraction of the rows that have several labels in one cell, at least
RECURRING = 0.8  # fraction of the labels that are in several combinations, at least
LISTS = "[]"
LabelType = Literal["text", "integer", "number", "boolean"]
_CODE = re.compile(r"[+-]?0\d+$")  # 007: no number loses its zeros


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
    return [_infer_one(frame[name], problem, place, notes) for name in frame], notes


def _yes_no(column: pd.Series) -> np.ndarray | None:
    """float32 (n,) of a column that is all 0 and 1, else None."""
    read = ColumnValues(column).numbers
    if read.wrong or read.form == "date" or not np.isin(read.values, (0, 1)).all():
        return None
    return read.values.astype(np.float32)


def _infer_one(
    column: pd.Series, problem: str | None, place: Callable[[int], str], notes: list[str]
) -> Labels:
    name = str(column.name)
    tagged = _several_labels(column, problem)
    if tagged is not None:
        target, values = tagged
        between = "in lists" if target.separator == LISTS else f"divided by {target.separator!r}"
        notes.append(
            f"target {name!r}: several labels a row, {between}: read as multilabel, of"
            f" {len(target.classes)} labels; problem=classification makes each combination a class"
        )
        return Labels(target, values)
    codes, texts = _label_codes(column)
    missing = np.flatnonzero(codes < 0)
    if len(missing):
        raise InputError(
            f"target {name!r} is missing in {len(missing)} of {len(codes)} rows, first in"
            f" {place(int(missing[0]))}; drop or label these rows"
        )
    read = ColumnValues(column).numbers
    dates = read.form == "date"
    named = isinstance(column.dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(column)
    named = named or {text.lower() for text in texts} <= {"true", "false"}
    named = named or any(map(_CODE.match, texts)) or not set(MISSING).isdisjoint(texts)
    mostly_numbers = not named and len(read.wrong) <= WRONG * len(texts)
    if problem == "regression" or (problem is None and mostly_numbers and (read.wrong or dates)):
        if read.wrong:
            row = int(np.flatnonzero(codes == texts.index(read.wrong[0]))[0])
            raise InputError(
                f"target {name!r} is {read.wrong[0]!r} in {place(row)}, which is not a number;"
                " correct the value, or ask for problem=classification"
            )
        return _regression(column, read.values, place, notes)
    if problem is None and mostly_numbers and not _are_classes(read.values, len(texts)):
        if _is_whole(read.values) and len(texts) <= max(MOST_INTEGER_CLASSES, len(codes) // 3):
            notes.append(
                f"target {name!r} holds {len(texts)} different whole numbers: read as a"
                " regression; if they are classes, say --problem classification"
            )
        return _regression(column, read.values, place, notes)
    if problem is None and mostly_numbers and len(texts) > MOST_INTEGER_CLASSES:
        notes.append(
            f"target {name!r} holds {len(texts)} whole numbers, each about as often: read as"
            " classes; if they are amounts, say --problem regression"
        )
    if absent := [text for text in texts if text in MISSING]:
        notes.append(
            f"target {name!r}: {', '.join(map(repr, absent))} is read as a class; leave the cell"
            " empty, or drop the row, where no label is known"
        )
    return _classes(column, codes, texts, notes)


# Classes ---------------------------------------------------------------------------------


def _label_codes(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Codes (n,) into the distinct labels; -1 where there is none. Texts as "NA" are labels
    among others of words, and mark a missing value among numbers."""
    codes, texts = distinct(column, missing=("",))
    words = [text for text in texts if text in MISSING]
    if not words or isinstance(column.dtype, pd.CategoricalDtype):
        return codes, texts
    rest = [text for text in texts if text not in MISSING]
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    rare = all(counts[texts.index(word)] < FEWEST_SAMPLES for word in words)
    if rare or not ColumnValues(pd.Series(rest, dtype=object)).numbers.wrong:
        return distinct(column)
    return codes, texts


def _is_whole(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and (values == np.round(values)).all())


def _are_classes(values: np.ndarray, distinct_values: int) -> bool:
    """Whether numbers are classes: two whole ones, few whole ones, or 0, 1, 2, … each about as
    often."""
    if not _is_whole(values):
        return False
    if distinct_values <= 2:
        return True
    if distinct_values <= MOST_INTEGER_CLASSES:
        return len(values) >= 5 * distinct_values
    if distinct_values > MOST_CLASSES or values.min() not in (0, 1):
        return False
    counts = np.bincount(values.astype(np.int64))[int(values.min()) :]
    return bool(len(counts) == distinct_values and counts.min() >= max(5, counts.max() / 2))


def _label_type(column: pd.Series) -> LabelType:
    """What the labels are in the user's data, so that predictions come back the same."""
    if pd.api.types.is_bool_dtype(column):
        return "boolean"
    if pd.api.types.is_integer_dtype(column):
        return "integer"
    if pd.api.types.is_float_dtype(column):
        return "number"
    if isinstance(column.dtype, pd.CategoricalDtype):
        return _label_type(pd.Series(column.cat.categories))
    kinds = {type(value) for value in column.dropna()} if column.dtype == object else {str}
    if kinds and kinds <= {bool, np.bool_}:
        return "boolean"
    if kinds and all(issubclass(kind, (int, np.integer)) and kind is not bool for kind in kinds):
        return "integer"
    return "text"


def _order(texts: list[str]) -> list[str]:
    """Sorted; by value when all are numbers."""
    try:
        return sorted(texts, key=lambda text: (float(text), text))
    except ValueError:
        return sorted(texts)


def _alike(first: str, second: str) -> bool:
    return first.casefold() == second.casefold()


def _classes(column: pd.Series, codes: np.ndarray, texts: list[str], notes: list[str]) -> Labels:
    name = str(column.name)
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
    if alike := [pair for pair in pairwise(sorted(texts, key=str.casefold)) if _alike(*pair)]:
        notes.append(
            f"target {name!r}: the classes {alike[0][0]!r} and {alike[0][1]!r} differ in capitals"
            " only; if they are one class, write them alike"
        )
    position = {text: i for i, text in enumerate(classes)}
    index = np.array([position[text] for text in texts], np.int64)
    kind: Kind = "binary" if len(classes) == 2 else "multiclass"
    target = Target(name, kind, classes, label_type=_label_type(column))
    return Labels(target, index[codes])


# Several labels in a cell ----------------------------------------------------------------


def _several_labels(column: pd.Series, problem: str | None) -> tuple[Target, np.ndarray] | None:
    """A multilabel target of a column like "a;c" or of lists, and its values (n, k); None for
    other columns.

    Texts are divided only where the labels recur in several combinations: "Paris;France" beside
    "Rome;Italy" are two classes.
    """
    if problem is not None or isinstance(column.dtype, pd.CategoricalDtype):
        return None
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
        return None
    known = column.dropna()
    if column.dtype == object and known.map(_is_list).any():
        return _multilabel(column, LISTS) if known.map(_is_list).all() else None
    codes, texts = distinct(column, missing=("",))
    if texts and all(text[0] == "[" and text[-1] == "]" for text in texts):
        return _multilabel(column, LISTS) if all(map(_as_list, texts)) else None
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    for separator in SEPARATORS:
        divided = [split_labels(text, separator) for text in texts]
        several = np.array([len(labels) > 1 for labels in divided], bool)
        if counts[several].sum() < max(1, TAGGED * len(column)):
            continue
        combinations = {frozenset(labels) for labels in divided}
        among = Counter(label for labels in combinations for label in labels)
        recurring = sum(number > 1 for number in among.values())
        if len(among) >= len(combinations) or recurring < RECURRING * len(among):
            continue
        if not ColumnValues(column).is_numeric:  # 1,5 is a number
            return _multilabel(column, separator)
    return None


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple, set, frozenset, np.ndarray))


def _as_list(text: str) -> bool:
    try:
        return isinstance(ast.literal_eval(text), list)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def split_labels(cell: Any, separator: str) -> list[str]:
    """The labels in one cell: of a list, of the text of a list, or of a text like "a;c"."""
    if separator == LISTS:
        if isinstance(cell, str):
            cell = ast.literal_eval(cell) if _as_list(cell) else [cell]
        elif not _is_list(cell):
            return []  # a missing value
        return [as_text(label) for label in cell]
    if not isinstance(cell, str):
        return [] if pd.isna(cell) else [as_text(cell)]
    return [label.strip() for label in cell.split(separator) if label.strip()]


def _multilabel(column: pd.Series, separator: str) -> tuple[Target, np.ndarray]:
    rows = [split_labels(cell, separator) for cell in column]
    classes = tuple(_order(sorted({label for labels in rows for label in labels})))
    target = Target(str(column.name), "multilabel", classes, separator=separator)
    return target, _membership(rows, classes)


def _membership(rows: list[list[str]], classes: Collection[str]) -> np.ndarray:
    """float32 (n, k), 1 where a row has the label; unknown labels are left out."""
    position = {label: i for i, label in enumerate(classes)}
    values = np.zeros((len(rows), len(position)), np.float32)
    for row, labels in enumerate(rows):
        for label in labels:
            if label in position:
                values[row, position[label]] = 1
    return values


# Numbers ---------------------------------------------------------------------------------


def _regression(
    column: pd.Series, values: np.ndarray, place: Callable[[int], str], notes: list[str]
) -> Labels:
    name = str(column.name)
    infinite = np.flatnonzero(~np.isfinite(values))
    if len(infinite):
        raise InputError(
            f"target {name!r} is infinite in {len(infinite)} rows, first in"
            f" {place(int(infinite[0]))}; drop or correct these rows"
        )
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise InputError(f"target {name!r} is {low:g} in every row: nothing to predict")
    if low > 0 and high >= WIDE_RANGE * low and values.mean() > 2 * np.median(values):
        notes.append(
            f"target {name!r} is positive and spans {math.log10(high / low):.1f} orders of"
            " magnitude: a network that predicts its logarithm may be better"
        )
    return Labels(Target(name, "regression"), values)


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


# New samples -----------------------------------------------------------------------------


def names_of(target: Target) -> tuple[str, ...]:
    """The columns that hold the labels of a target."""
    return target.classes if _has_columns(target) else (target.name,)


def columns_of(targets: Collection[Target]) -> tuple[str, ...]:
    """The columns of labels that are texts, and in new files kept as they are written."""
    texts = [t for t in targets if t.kind != "regression" and t.label_type == "text"]
    return tuple(name for target in texts for name in names_of(target))


def _has_columns(target: Target) -> bool:
    """Whether each label of a target has a column of its own, with 0 and 1."""
    return target.kind == "multilabel" and not target.separator


def of_target(
    labels: pd.DataFrame, target: Target, *, of_files: bool
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The only column of labels under the name of the only target: an array's has any name, that
    of class folders is "label". Others of files keep theirs, as they come from a table.

    Folders of another meaning are no labels: there is no column then, but a note.
    """
    (name,) = labels
    if of_files and name != "label":
        return labels, ()
    labels = labels.set_axis([target.name], axis=1)
    unknown = _unknown(labels[target.name], target) if of_files else ""
    if not unknown:
        return labels, ()
    what = "number" if target.kind == "regression" else "label of the training data"
    return labels.iloc[:, :0], (f"{unknown!r} is no {what}: there are no scores",)


def _unknown(column: pd.Series, target: Target) -> str:
    """The first value that is no label of a target, "" where all are."""
    if target.kind == "regression":
        return next(iter(ColumnValues(column).numbers.wrong), "")
    _, texts = distinct(column, [word for word in MISSING if word not in target.classes])
    if target.separator:
        texts = [label for text in texts for label in split_labels(text, target.separator)]
    known = {*target.classes}
    return next((text for text in texts if known.isdisjoint((text, canonical(text)))), "")


def encode(
    frame: pd.DataFrame, targets: tuple[Target, ...], place: Callable[[int], str]
) -> dict[str, np.ndarray]:
    """The labels of those targets whose columns are in ``frame``, coded as in training.

    Raises InputError for a class that training has not seen and for values that are not numbers.
    """
    labels: dict[str, np.ndarray] = {}
    for target in targets:
        names = names_of(target)
        if not all(name in frame for name in names):
            continue
        if target.separator:
            column = frame[target.name]
            if not column.isna().all():
                rows = [split_labels(cell, target.separator) for cell in column]
                labels[target.name] = _membership(rows, target.classes)
            continue
        parts = [_encode_column(frame[name], target, place) for name in names]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            continue  # an empty target column, as in a file made for predictions
        if target.kind == "multilabel":
            labels[target.name] = np.stack(known, axis=1).astype(np.float32)
        else:
            kind = np.float64 if target.kind == "regression" else np.int64
            labels[target.name] = known[0].astype(kind)
    return labels


def _encode_column(
    column: pd.Series, target: Target, place: Callable[[int], str]
) -> np.ndarray | None:
    """float64 (n,) of class indices or numbers; None where no value is there."""
    classes = target.classes if target.kind in ("binary", "multiclass") else ()
    codes, texts = distinct(column, [word for word in MISSING if word not in classes])
    if (codes < 0).all():
        return None
    if classes:
        position = {text: float(i) for i, text in enumerate(classes)}
        found = [position.get(text, position.get(canonical(text), np.nan)) for text in texts]
        values: np.ndarray = np.array([*found, np.nan])[codes]
    else:
        values = ColumnValues(column).numbers.values
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        first = int(bad[0])
        shown = repr(texts[codes[first]]) if codes[first] >= 0 else "missing"
        raise InputError(
            f"target {column.name!r} is {shown} in {place(first)}; expected"
            f" {'one of ' + ', '.join(classes) if classes else 'a number'}, or no"
            " such column at all"
        )
    return values
