"""Tables: files and frames to samples; columns to numbers and category codes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data.dataset import shape_profile
from nas.data.precision import LOST, column_shift, distinct_lost
from nas.data.samples import PART_NAMES, Arrays, Samples, label_frame, read_parts
from nas.data.tables import MISSING, frame_of, is_table, read_table
from nas.task import Column, DataProfile, InputError, UsageError

CATEGORIES = 1000  # the most frequent ones of the training part are kept
EDGES = 49  # quantile edges: 48 bins
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?$")
_LIKE_NUMBERS = re.compile(r"\W*\d[\d\s.,/:%€$£-]*$")  # 1,234  12 %  $5  31/01/2024


def recognise(source: Any) -> str:
    if isinstance(source, Path):
        if source.is_file():
            return f"{source.name} is a table" if is_table(source) else ""
        if (source / "metadata.csv").is_file() or not part_files(source):
            return ""
        return f"{source.name} holds tables named for the parts"
    return "rows and columns" if getattr(source, "ndim", 0) == 2 else ""


def load(
    source: Path | pd.DataFrame | Arrays,
    target: list[str] | None,
    missing: Sequence[str] = MISSING,
) -> Samples:
    """Rows with their target columns; a folder brings one file for each part."""
    files: tuple[tuple[str, int], ...] = ()
    given: np.ndarray | None = None
    if isinstance(source, Arrays):
        frame, given = frame_of(source.x), source.given
        if source.y is not None:
            labels = label_frame(source.y, target)
            if len(labels) != len(frame):
                raise InputError(f"X has {len(frame)} rows, but y has {len(labels)}")
            clash = [name for name in labels if name in frame]
            if clash:
                raise InputError(f"X holds the target column {clash[0]!r}; drop it from X")
            return Samples(frame, labels, given, frame)
    elif isinstance(source, pd.DataFrame):
        frame = frame_of(source)
    elif source.is_dir():
        frame, given, files = _load_folder(source, missing)
    else:
        frame = read_table(source, missing=missing)
        files = ((source.name, len(frame)),)
    where = "the table" if isinstance(source, (pd.DataFrame, Arrays)) else str(source)
    if target is None:
        raise UsageError(
            f"{where} needs a target column; name one of {', '.join(map(str, frame.columns))}"
        )
    for name in target:
        if name not in frame:
            near = difflib.get_close_matches(name, list(frame.columns), n=1)
            raise UsageError(
                f"{where} has no target column {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else ";")
                + f" its columns are {', '.join(frame.columns)}"
            )
    if given is None and "split" in frame and "split" not in target:
        known = frame["split"].astype("str").str.strip().str.lower().isin(PART_NAMES)
        if known.any():
            given = read_parts(frame["split"], where)
            frame = frame.drop(columns="split")
    inputs = frame.drop(columns=target)
    return Samples(inputs, frame[target], given, inputs, files)


def load_inputs(source: Path | pd.DataFrame | Arrays, missing: Sequence[str] = MISSING) -> Samples:
    """Rows to predict: every column an input, those of a target among them if present."""
    if isinstance(source, Path):
        if source.is_dir():
            raise UsageError(f"{source} is a folder; name one table in it")
        frame = read_table(source, missing=missing)
        files = ((source.name, len(frame)),)
        return Samples(frame, pd.DataFrame(index=frame.index), None, frame, files)
    frame = frame_of(source.x if isinstance(source, Arrays) else source)
    y = source.y if isinstance(source, Arrays) else None
    labels = pd.DataFrame(index=frame.index) if y is None else label_frame(y, None)
    return Samples(frame, labels, None, frame)


def part_files(folder: Path) -> dict[Path, int]:
    """The tables of a folder that are named for a part, in the order train, val, test."""
    tables = [path for path in sorted(folder.iterdir()) if path.is_file() and is_table(path)]
    stems = {path: path.name.lower().split(".")[0] for path in tables}
    found = {path: PART_NAMES[stem] for path, stem in stems.items() if stem in PART_NAMES}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _load_folder(
    folder: Path, missing: Sequence[str]
) -> tuple[pd.DataFrame, np.ndarray, tuple[tuple[str, int], ...]]:
    found = part_files(folder)
    for part, name in enumerate(("train", "val", "test")):
        same = [path.name for path in found if found[path] == part]
        if len(same) > 1:
            raise InputError(f"{folder} holds {' and '.join(same)} for the {name} part; keep one")
    if 0 not in found.values():
        raise UsageError(f"{folder} holds no train.csv, .tsv or .parquet; name the table itself")
    frames = {path: read_table(path, missing=missing) for path in found}
    first, *rest = frames
    for path in rest:
        differing = sorted(set(map(str, frames[first])) ^ set(map(str, frames[path])))
        if differing:
            raise InputError(
                f"{folder}: the columns {', '.join(map(repr, differing[:5]))} are in only one of"
                f" {first.name} and {path.name}; both need the same columns"
            )
    given = np.concatenate([np.full(len(frames[path]), found[path], np.int8) for path in found])
    files = tuple((path.name, len(frame)) for path, frame in frames.items())
    return pd.concat(frames.values(), ignore_index=True), given, files


# Columns ---------------------------------------------------------------------------------


def distinct(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Codes (n,) into the distinct values as stripped text; -1 where the value is missing.

    Whole floats read as integers, so that a category 1 stays "1" in a column that
    holds missing values, which NumPy can only store as floats. In a column of category
    dtype "null" is a name like any other.
    """
    named = isinstance(column.dtype, pd.CategoricalDtype)
    try:
        codes, values = pd.factorize(column)
    except TypeError:  # lists or dicts, which cannot be compared
        codes, values = pd.factorize(column.map(str, na_action="ignore"))
    texts: dict[str, int] = {}
    remap = np.full(len(values) + 1, -1)  # the last entry serves code -1
    for i, value in enumerate(values):
        whole = isinstance(value, (float, np.floating)) and float(value).is_integer()
        text = (str(int(value)) if whole else str(value)).strip()
        if named or text not in MISSING:
            remap[i] = texts.setdefault(text, len(texts))
    return remap[codes], list(texts)


def _number(text: str) -> float:
    """The number a text stands for, NaN if none ("1_000" is one to Python, not to people)."""
    if text.lower() in ("true", "false"):
        return float(text.lower() == "true")
    try:
        return np.nan if "_" in text else float(text)
    except ValueError:
        return np.nan


def numbers(column: pd.Series) -> tuple[np.ndarray, list[str], bool]:
    """float64 (n,) with NaN for missing, the texts that are no number, and whether it is a date.

    A date counts as days since 1970-01-01 (UTC).
    """
    if pd.api.types.is_datetime64_any_dtype(column):
        moments = pd.to_datetime(column, utc=True)
        return _days(moments), [], True
    if pd.api.types.is_timedelta64_dtype(column):
        return column.dt.total_seconds().to_numpy(np.float64) / 86_400, [], True
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(np.float64, na_value=np.nan), [], False
    codes, texts = distinct(column)
    dates = bool(texts) and all(_DATE.match(text) for text in texts)
    if dates:
        moments = pd.to_datetime(pd.Series(texts), utc=True, errors="coerce", format="ISO8601")
        values = _days(moments)
    else:
        values = np.array([_number(text) for text in texts])
    wrong = [text for text, value in zip(texts, values, strict=True) if np.isnan(value)]
    return np.append(values, np.nan)[codes], wrong, dates


def _days(moments: pd.Series) -> np.ndarray:
    epoch = pd.Timestamp("1970-01-01", tz="UTC")
    return ((moments - epoch) / pd.Timedelta(days=1)).to_numpy(np.float64)


def is_numeric(column: pd.Series) -> bool:
    """Whether a column is measured rather than named: at least 95 % of its distinct values.

    A column of category dtype is named, and so is one of Python integers in an object
    column (someone took them out of the integers on purpose) with few distinct values.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        return False
    if column.dtype == object:
        kinds = {type(value) for value in column.dropna()}
        if kinds == {int} and column.nunique() <= 20:
            return False
    _, wrong, _ = numbers(column)
    return not wrong or len(wrong) <= 0.05 * len(distinct(column)[1])


def code(
    samples: Samples, train: np.ndarray
) -> tuple[dict[str, np.ndarray], DataProfile, list[str]]:
    """The inputs, the columns on the training rows, and notes."""
    columns, notes = describe(samples.inputs, train)
    inputs = _encode(samples.inputs, columns)
    return inputs, replace(shape_profile(inputs, train), columns=columns), notes


def describe(frame: pd.DataFrame, train: np.ndarray) -> tuple[tuple[Column, ...], list[str]]:
    """The usable columns on the training rows, and a note for whatever was done to one."""
    columns: list[Column] = []
    notes: list[str] = []
    for name in frame.columns:
        column = frame[name]
        if name in ("", "Unnamed: 0"):
            notes.append("a column without a name (a saved index) is dropped")
        elif column.iloc[train].isna().all():
            notes.append(f"column {name!r} is dropped: every training value is missing")
        elif is_numeric(column):
            columns.extend(_describe_numeric(name, column, train, notes))
        else:
            columns.extend(_describe_categorical(name, column, train, notes))
    if not columns:
        raise InputError(
            f"no column can be used as an input: {'; '.join(notes) or 'there is none'}"
        )
    return tuple(columns), notes


def _describe_numeric(
    name: str, column: pd.Series, train: np.ndarray, notes: list[str]
) -> list[Column]:
    values, wrong, dates = numbers(column)
    if dates:
        notes.append(f"column {name!r} holds dates: read as days since 1970-01-01")
    if wrong:
        notes.append(
            f"column {name!r} holds numbers, but also {', '.join(map(repr, wrong[:3]))}:"
            " counted as missing"
        )
    finite = np.isfinite(values[train])
    shift = column_shift(values[train][finite])
    coded = _finite(values - shift)
    infinite = int((np.isnan(coded) & ~np.isnan(values)).sum())
    if infinite:
        notes.append(
            f"column {name!r}: {infinite} values that are infinite in float32 count as missing"
        )
    used = coded[train].astype(np.float64)
    known = used[~np.isnan(used)]
    if not len(known) or known.min() == known.max():
        what = (
            f"{values[train][finite][0]:.15g} wherever it is known"
            if len(known)
            else "missing in every training row"
        )
        notes.append(f"column {name!r} is dropped: it is {what}")
        return []
    lost = distinct_lost(values[train][finite] - shift)
    if lost > LOST:
        notes.append(
            f"column {name!r}: float32 merges {100 * lost:.0f} % of its different values, which lie"
            " far apart beside their steps; divide it into columns of nearer values"
        )
    if not dates and _identifies(name, values):
        notes.append(
            f"column {name!r} holds another whole number in every row: drop it if it numbers or"
            " names the rows and tells nothing of new ones"
        )
    missing = 1 - len(known) / len(used)
    mean, std, edges = float(known.mean()), float(known.std()), tuple(_edges(known).tolist())
    return [Column(name, "numeric", missing, mean, std, edges, shift=shift)]


def _identifies(name: str, values: np.ndarray) -> bool:
    """Whether a column may be an identifier: whole numbers without a double, where as many drawn
    at random from their range would have had ten, or where its name says so."""
    if len(np.unique(values)) < len(values) or not np.array_equal(values, np.round(values)):
        return False
    doubles_by_chance = len(values) ** 2 / (2 * (np.ptp(values) + 1))
    named = re.search(r"(^|[_\W])(id|uuid|key)$|[a-z](Id|ID)$", name)
    return bool(doubles_by_chance >= 10 or (named and len(values) >= 10))


def _edges(known: np.ndarray) -> np.ndarray:
    """At most ``EDGES`` distinct, increasing values that cut a column into bins.

    A value that alone fills a bin (the zeros of a capital gain) is an edge of its own, and
    the quantiles are those of the other values: taken over all they would fall on it again
    and again, and leave the tail, where trees find their splits, without bins.
    """
    values, counts = np.unique(known, return_counts=True)
    if len(values) <= EDGES:
        return values
    heavy = values[counts > len(known) / (EDGES - 1)]
    rest = np.repeat(values, counts)[~np.isin(np.repeat(values, counts), heavy)]
    quantiles = np.quantile(rest, np.linspace(0, 1, EDGES - len(heavy)))
    return np.unique(np.concatenate([heavy, quantiles]))


def _describe_categorical(
    name: str, column: pd.Series, train: np.ndarray, notes: list[str]
) -> list[Column]:
    codes, texts = distinct(column)
    counts = np.bincount(codes[train][codes[train] >= 0], minlength=len(texts))
    known, seen = int(counts.sum()), int((counts > 0).sum())
    if seen <= 1 and known in (0, len(train)):
        what = f"constant ({texts[int(counts.argmax())]!r})" if seen else "missing in training"
        notes.append(f"column {name!r} is dropped: it is {what}")
        return []
    hint = ""
    if all(_LIKE_NUMBERS.match(text) for text in texts):
        hint = "; numbers must be written like 1234.5 and dates like 2024-01-31 to be read as such"
    if seen == known and seen > 1:
        notes.append(
            f"column {name!r} is dropped: every value is different (an id or free text){hint}"
        )
        return []
    if hint:
        notes.append(f"column {name!r} is read as {seen} categories ({texts[0]!r} …){hint}")
    if 2 * seen > known >= 50:
        notes.append(
            f"column {name!r}: {seen} different values in {known} training rows: too many to learn"
            " much from"
        )
    order = sorted(range(len(texts)), key=lambda i: (-counts[i], texts[i]))[: min(seen, CATEGORIES)]
    if seen > CATEGORIES:
        notes.append(
            f"column {name!r} has {seen} categories: the {CATEGORIES} most frequent are kept"
        )
    kept = tuple(sorted(texts[i] for i in order))
    return [Column(name, "categorical", 1 - known / len(train), categories=kept)]


def _finite(values: np.ndarray) -> np.ndarray:
    """float32 with NaN for whatever is not finite there."""
    with np.errstate(over="ignore"):
        small = values.astype(np.float32)
    small[~np.isfinite(small)] = np.nan
    return small


def encode(frame: pd.DataFrame, profile: DataProfile) -> dict[str, np.ndarray]:
    """New rows, by the columns of the training data; one that is absent is an InputError."""
    return _encode(frame, profile.columns)


def _encode(frame: pd.DataFrame, columns: tuple[Column, ...]) -> dict[str, np.ndarray]:
    """ "numeric" float32 (n, k) and "categorical" int32 (n, m), in the order of ``columns``."""
    absent = [column.name for column in columns if column.name not in frame]
    if absent:
        extra = [str(name) for name in frame if name not in {c.name for c in columns}]
        raise InputError(
            f"the table lacks the columns {', '.join(map(repr, absent))} of the training data"
            + (f"; it has {', '.join(map(repr, extra[:10]))} instead" if extra else "")
        )
    inputs: dict[str, list[np.ndarray]] = {}
    for column in columns:
        series = frame[column.name]
        if column.kind == "categorical":
            codes, texts = distinct(series)
            known = {text: i + 1 for i, text in enumerate(column.categories)}
            coded = np.array([*(known.get(text, 0) for text in texts), 0], np.int32)[codes]
        else:
            values, wrong, _ = numbers(series)
            if wrong and np.isnan(values).all():
                raise InputError(
                    f"column {column.name!r} held numbers in training, but here it holds none"
                    f" ({wrong[0]!r}); is it another column?"
                )
            coded = _finite(values - column.shift)
        inputs.setdefault(column.kind, []).append(coded)
    return {kind: np.stack(parts, axis=1) for kind, parts in inputs.items()}
