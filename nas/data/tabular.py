"""Tables: files and frames to samples; columns to numbers and category codes."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data.column_types import apply_types
from nas.data.columns import AMOUNTS, ColumnValues, as_text, canonical, distinct, numbers
from nas.data.csv_files import MISSING
from nas.data.dataset import shape_profile
from nas.data.decoded import scratch
from nas.data.limits import resident_limit
from nas.data.mapped import by_columns, is_large
from nas.data.precision import LARGEST, LOST, column_shift, distinct_lost
from nas.data.ragged import Input
from nas.data.samples import PART_NAMES, PARTS, Arrays, Samples, label_frame, read_parts
from nas.data.tables import frame_of, is_table, read_table
from nas.task import Column, DataProfile, InputError, UsageError

CATEGORIES = 1000  # the most frequent ones of the training part are kept
EDGES = 49  # quantile edges: 48 bins
EDGE_ROWS = 2**17  # that the edges come from; up to twice as many are all taken
THREADS, THREADED_CELLS = 2, 10**6  # of a table whose columns are described side by side
BLOCK_ROWS = 2**14  # written at once, so that rows of columns side by side stay in the cache
ENOUGH_ROWS = 10  # without a number, from which on a column is another than in training
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
    columns: Mapping[str, str],
    missing: Sequence[str] = MISSING,
) -> Samples:
    """Rows with their target columns; a folder brings one file for each part.

    ``columns`` are the types of input columns that the user gave: those to ignore are left out.
    """
    files: tuple[tuple[str, int], ...] = ()
    given: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    written = {*(target or ()), *(c for c, kind in columns.items() if kind == "categorical")}
    if isinstance(source, Arrays):
        frame, given = frame_of(source.x), source.given
        if source.y is not None:
            labels = label_frame(source.y, target)
            if len(labels) != len(frame):
                raise InputError(f"X has {len(frame)} rows, but y has {len(labels)}")
            _refuse_other_order(source.x, source.y)
            clash = [name for name in labels if name in frame]
            if clash:
                raise InputError(f"X holds the target column {clash[0]!r}; drop it from X")
            return Samples(apply_types(frame, columns), labels, given, frame)
    elif isinstance(source, pd.DataFrame):
        frame = frame_of(source)
    elif source.is_dir():
        frame, given, files, notes = _load_folder(source, missing, target or [], written)
    else:
        frame = read_table(source, None, missing, written, target or ())
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
    beside = frame.drop(columns=target)
    if given is None and "split" not in target and names_parts(frame):
        given = read_parts(frame["split"], where)
        frame = frame.drop(columns="split")
    typed = apply_types(frame.drop(columns=target), columns)
    return Samples(typed, frame[target], given, beside, files, notes)


def names_parts(frame: pd.DataFrame) -> bool:
    """Whether a column "split" says the part of each row: it names the training part, or parts
    alone. Another one is a column like any other, though it may hold "test" among its words."""
    if "split" not in frame:
        return False
    codes = frame["split"].dropna().astype("str").str.strip().str.lower().map(PART_NAMES)
    return bool((codes == 0).any() or (len(codes) and codes.notna().all()))


def _refuse_other_order(x: object, y: object) -> None:
    """Raise InputError where the rows of two pandas objects go together by the index only."""
    if not isinstance(x, pd.DataFrame) or not isinstance(y, (pd.DataFrame, pd.Series)):
        return
    if x.index.equals(y.index) or not x.index.is_unique or not y.index.is_unique:
        return
    if x.index.isin(y.index).all():
        raise InputError(
            "X and y have the same index in another order, but rows are taken by their position;"
            " give y.loc[X.index]"
        )


def load_inputs(
    source: Path | pd.DataFrame | Arrays,
    as_written: Collection[str] = (),
    missing: Sequence[str] = MISSING,
) -> Samples:
    """Rows to predict: every column an input, those of a target among them if present."""
    if isinstance(source, Path):
        if source.is_dir():
            raise UsageError(f"{source} is a folder; name one table in it")
        frame = read_table(source, missing=missing, as_written=as_written)
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
    folder: Path, missing: Sequence[str], target: list[str], written: Collection[str]
) -> tuple[pd.DataFrame, np.ndarray, tuple[tuple[str, int], ...], tuple[str, ...]]:
    """The rows of the tables for each part, their parts, their files, and notes.

    A table without the target, as in a contest, is for predictions, and left out.
    """
    found = part_files(folder)
    for part, name in enumerate(PARTS):
        same = [path.name for path in found if found[path] == part]
        if len(same) > 1:
            raise InputError(f"{folder} holds {' and '.join(same)} for the {name} part; keep one")
    if 0 not in found.values():
        raise UsageError(f"{folder} holds no train.csv, .tsv or .parquet; name the table itself")
    frames = {path: read_table(path, None, missing, written, target) for path in found}
    first, *rest = frames
    notes: list[str] = []
    for path in rest:
        differing = sorted(set(map(str, frames[first])) ^ set(map(str, frames[path])))
        if target and not set(target) & set(frames[path]) and set(target) <= set(frames[first]):
            del frames[path]
            more = [name for name in differing if name not in target]
            notes.append(
                f"{path.name} has no column {target[0]!r} and is not read: predict it with the"
                " trained model"
                + (
                    f"; the columns {', '.join(map(repr, more[:5]))} are in only one of"
                    f" {first.name} and {path.name}: ignore those that it lacks"
                    if more
                    else ""
                )
            )
        elif differing:
            raise InputError(
                f"{folder}: the columns {', '.join(map(repr, differing[:5]))} are in only one of"
                f" {first.name} and {path.name}; both need the same columns"
            )
    _read_alike(frames, missing, written, target)
    given = np.concatenate([np.full(len(frames[path]), found[path], np.int8) for path in frames])
    files = tuple((path.name, len(frame)) for path, frame in frames.items())
    return _joined([*frames.values()]), given, files, tuple(notes)


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    rows, names = sum(map(len, frames)), list(frames[0])
    if not is_large(rows, len(names)):
        return pd.concat(frames, ignore_index=True)
    return by_columns(
        lambda few: pd.concat([frame[few] for frame in frames], ignore_index=True), names, rows
    )


def _read_alike(
    frames: dict[Path, pd.DataFrame],
    missing: Sequence[str],
    written: Collection[str],
    target: Collection[str],
) -> None:
    """Read again, as they are written, columns that are numbers in only some of the files: of
    01 and A1 in one file and 01 alone in another, that is no 1."""
    numeric: list[set[str]] = [
        {str(name) for name in frame if pd.api.types.is_numeric_dtype(frame[name])}
        for frame in frames.values()
    ]
    mixed = set().union(*numeric) - numeric[0].intersection(*numeric) - set(written)
    for path in [*frames] if mixed else ():
        again = read_table(path, None, missing, {*written, *mixed}, target)
        words = again[[*mixed]]
        again[[*mixed]] = words.mask(words.isin(missing))
        frames[path] = again


# Columns ---------------------------------------------------------------------------------


def code(samples: Samples, train: np.ndarray) -> tuple[dict[str, Input], DataProfile, list[str]]:
    """The inputs, their columns as the rows ``train`` (k,) describe them, and a note for whatever
    was done to a column.

    Raises InputError where no column can be used.
    """
    inputs, columns, notes = code_columns(samples.inputs, train)
    if not columns:
        raise InputError(
            f"no column can be used as an input: {'; '.join(notes) or 'there is none'}"
        )
    return inputs, replace(shape_profile(inputs, train), columns=columns), notes


def code_columns(
    frame: pd.DataFrame, train: np.ndarray
) -> tuple[dict[str, Input], tuple[Column, ...], list[str]]:
    """As ``code``; there may be no column of use."""
    large = is_large(*frame.shape)

    def look(name: str) -> tuple[Column | None, ColumnValues, list[str]]:
        notes: list[str] = []
        values = ColumnValues(frame[name])
        column = _described(str(name), values, train, notes)
        # Numbers are read again without effort, texts are not, unless all take too much memory.
        again = large or pd.api.types.is_numeric_dtype(values.column)
        return column, ColumnValues(frame[name]) if again else values, notes

    with _pool(frame.size) as pool:
        looked = list(pool.map(look, frame.columns))
    columns = [column for column, _, _ in looked if column is not None]
    values = [value for column, value, _ in looked if column is not None]
    notes = [note for _, _, own in looked for note in own]
    return _side_by_side(values, columns, len(frame)), tuple(columns), notes


def _side_by_side(
    values: Sequence[ColumnValues], columns: Sequence[Column], rows: int
) -> dict[str, Input]:
    """The coded columns by their kind, (rows, columns of the kind)."""
    inputs: dict[str, Input] = {}
    for kind in dict.fromkeys(column.kind for column in columns):
        own = [(v, c) for v, c in zip(values, columns, strict=True) if c.kind == kind]
        dtype, shape = np.float32 if kind == "numeric" else np.int32, (rows, len(own))
        large = 4 * rows * len(own) > resident_limit()
        coded = scratch(shape, dtype) if large else np.empty(shape, dtype)
        read = _numbers_of if kind == "numeric" else _codes_of
        inputs[kind] = coded
        if large:  # one after the other: all as they are read would be larger than the table
            for i, (value, column) in enumerate(own):
                part = read(ColumnValues(value.column), column)
                for start in range(0, rows, BLOCK_ROWS):
                    _write(coded[:, i : i + 1], [part], [column.shift], start)
            continue
        with _pool(coded.size) as pool:
            parts = list(pool.map(read, *zip(*own, strict=True)))
            shifts = [column.shift for _, column in own]
            for _ in pool.map(partial(_write, coded, parts, shifts), range(0, rows, BLOCK_ROWS)):
                pass
    return inputs


def _write(
    coded: np.ndarray, parts: Sequence[np.ndarray], shifts: Sequence[float], start: int
) -> None:
    """Write a block of rows from ``start`` on, all columns of it while it is in the cache."""
    block = coded[start : start + BLOCK_ROWS]
    for i, (part, shift) in enumerate(zip(parts, shifts, strict=True)):
        values = part[start : start + BLOCK_ROWS]
        block[:, i] = _finite(values - shift) if coded.dtype == np.float32 else values


def _pool(cells: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS if cells > THREADED_CELLS else 1)


def _described(
    name: str, values: ColumnValues, train: np.ndarray, notes: list[str]
) -> Column | None:
    """A column as the rows ``train`` describe it; None, and a note, where it is dropped."""
    if is_index_name(name):
        notes.append("a column without a name (a saved index) is dropped")
        return None
    if _all_missing(values.column, train):
        notes.append(f"column {name!r} is dropped: every training value is missing")
        return None
    if values.is_numeric:
        return _described_numeric(name, values, train, notes)
    return _described_categorical(name, values, train, notes)


def _all_missing(column: pd.Series, train: np.ndarray) -> bool:
    """Whether no training row has a value; most columns have one among their first."""
    first = column.iloc[train[:100]]
    return bool(first.isna().all() and column.isna().to_numpy()[train].all())


def is_index_name(name: str) -> bool:
    """Whether pandas calls a saved index so."""
    return name in ("", "Unnamed: 0")


def _described_numeric(
    name: str, column: ColumnValues, train: np.ndarray, notes: list[str]
) -> Column | None:
    read = column.numbers
    values, dates = read.values, read.form == "date"
    if dates:
        notes.append(f"column {name!r} holds dates: read as days since 1970-01-01")
    if read.form in AMOUNTS:
        notes.append(_amounts_note(name, column))
    if read.wrong:
        notes.append(
            f"column {name!r} holds {'dates' if dates else 'numbers'}, but also"
            f" {', '.join(map(repr, read.wrong[:3]))}: counted as missing"
        )
    used = values[train]
    finite = _kept(used, np.isfinite(used))
    lost = distinct_lost(finite)
    shift = column_shift(finite) if lost > LOST else 0.0
    infinite = _count_infinite(values, shift)
    if infinite:
        notes.append(
            f"column {name!r}: {infinite} values that are infinite in float32 count as missing"
        )
    shifted = finite - shift if shift else finite
    with np.errstate(over="ignore"):
        known = shifted.astype(np.float32).astype(np.float64)
    known = _kept(known, np.isfinite(known)) if infinite else known
    if not len(known) or known.min() == known.max():
        if 0 < len(known) < len(used):
            return _flag(name, column, train)
        what = f"{finite[0]:.15g} wherever it is known" if len(known) else "missing"
        notes.append(f"column {name!r} is dropped: it is {what} in every training row")
        return None
    lost = distinct_lost(shifted) if shift else lost
    if lost > LOST:
        notes.append(
            f"column {name!r}: float32 merges {100 * lost:.0f} % of its different values, which lie"
            " far apart beside their steps; divide it into columns of nearer values"
        )
    if not dates and identifies(name, values):
        notes.append(
            f"column {name!r} holds another whole number in every row: if it numbers or names the"
            f" rows, leave it out: --columns {shlex.quote(f'{name}=ignore')}"
        )
    missing = 1 - len(known) / len(used)
    mean, std = float(known.mean()), float(known.std())
    edges = tuple(_edges(known).tolist())
    return Column(name, "numeric", missing, mean, std, edges, shift=shift, form=read.form)


def _kept(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``values[mask]``, without a copy where all are kept."""
    return values if mask.all() else values[mask]


def _count_infinite(values: np.ndarray, shift: float) -> int:
    """How many values are there, but infinite once they are float32."""
    low, high = np.fmin.reduce(values, initial=np.inf), np.fmax.reduce(values, initial=-np.inf)
    if low - shift >= -LARGEST and high - shift <= LARGEST:
        return 0  # most columns
    return int((np.isnan(_finite(values - shift)) & ~np.isnan(values)).sum())


def _flag(name: str, column: ColumnValues, train: np.ndarray) -> Column:
    """A column of one value or none: the value is the only category."""
    codes, texts = column.distinct
    known = codes[train][codes[train] >= 0]
    missing = 1 - len(known) / len(train)
    return Column(name, "categorical", missing, categories=(texts[int(known[0])],))


def _amounts_note(name: str, column: ColumnValues) -> str:
    """Says by an example how amounts as "$1,118.27" are read."""
    codes, texts = column.distinct
    known = np.flatnonzero((codes >= 0) & ~np.isnan(column.numbers.values))
    plain = [row for row in known[:100] if not texts[codes[row]].replace(".", "").isdigit()]
    row = (plain or known.tolist())[0]
    value = column.numbers.values[row]
    return f"column {name!r} is read as numbers: {texts[codes[row]]!r} is {value:.15g}"


def identifies(name: str, values: np.ndarray) -> bool:
    """Whether a column of numbers may be an identifier: whole numbers without a repetition, where
    as many random ones of their range would have had ten, or where the column's name says so."""
    first = values[:1000]
    if len(np.unique(first)) < len(first) or not np.array_equal(first, np.round(first)):
        return False  # most columns end here
    if len(np.unique(values)) < len(values) or not np.array_equal(values, np.round(values)):
        return False
    doubles_by_chance = len(values) ** 2 / (2 * (np.ptp(values) + 1))
    named = re.search(r"(^|[_\W])(id|uuid|key)$|[a-z](Id|ID)$", name)
    return bool(doubles_by_chance >= 10 or (named and len(values) >= 10))


def _edges(known: np.ndarray) -> np.ndarray:
    """At most ``EDGES`` distinct, increasing values that cut a column into bins; of a long column
    every so many rows decide, beside its smallest and largest value.

    A value that alone fills a bin (the zeros of a capital gain) is an edge of its own, and
    the quantiles are those of the other values: taken over all they would fall on it again
    and again, and leave the tail, where trees find their splits, without bins.
    """
    ordered = np.sort(known[:: max(1, len(known) // EDGE_ROWS)])
    ordered[0], ordered[-1] = known.min(), known.max()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ordered)) + 1])
    values: np.ndarray = ordered[starts]
    counts = np.diff(starts, append=len(ordered))
    if len(values) <= EDGES:
        return values
    heavy = values[counts > len(ordered) / (EDGES - 1)]
    rest = ordered[~np.isin(ordered, heavy)] if len(heavy) else ordered
    quantiles = np.quantile(rest, np.linspace(0, 1, EDGES - len(heavy)))
    return np.unique(np.concatenate([heavy, quantiles]))


def _described_categorical(
    name: str, column: ColumnValues, train: np.ndarray, notes: list[str]
) -> Column | None:
    codes, texts = column.distinct
    counts = np.bincount(codes[train][codes[train] >= 0], minlength=len(texts))
    known, seen = int(counts.sum()), int((counts > 0).sum())
    if seen <= 1 and known in (0, len(train)):
        what = f"constant ({texts[int(counts.argmax())]!r})" if seen else "missing in training"
        notes.append(f"column {name!r} is dropped: it is {what}")
        return None
    hint = ""
    if all(_LIKE_NUMBERS.match(text) for text in texts):
        hint = "; numbers must be written like 1234.5 and dates like 2024-01-31 to be read as such"
    if seen == known and seen > 1:
        notes.append(
            f"column {name!r} is dropped: every value is different (an id or free text){hint}"
        )
        return None
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
    return Column(name, "categorical", 1 - known / len(train), categories=kept)


def _finite(values: np.ndarray) -> np.ndarray:
    """float32 with NaN for whatever is not finite there."""
    with np.errstate(over="ignore"):
        small = values.astype(np.float32)
    small[~np.isfinite(small)] = np.nan
    return small


def encode(frame: pd.DataFrame, profile: DataProfile) -> dict[str, Input]:
    """New rows by the columns of the training data: "numeric" float32 (n, k) and "categorical"
    int32 (n, m), in the order of ``profile.columns``.

    Raises InputError for a column that is absent, and for one of numbers that holds none here.
    """
    columns = profile.columns
    absent = [column.name for column in columns if column.name not in frame]
    if absent:
        extra = [str(name) for name in frame if name not in {c.name for c in columns}]
        raise InputError(
            f"the table lacks the columns {', '.join(map(repr, absent))} of the training data"
            + (f"; it has {', '.join(map(repr, extra[:10]))} instead" if extra else "")
        )
    values = [ColumnValues(frame[column.name]) for column in columns]
    return _side_by_side(values, columns, len(frame))


def encode_rows(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]
) -> dict[str, Input] | None:
    """The same of a few rows of plain values by column, a hundred times as fast; None where a
    value needs a closer look: a column is absent, or a number is a text."""
    inputs: dict[str, Input] = {}
    for kind in dict.fromkeys(column.kind for column in columns):
        own = [column for column in columns if column.kind == kind]
        coded = np.empty((len(rows), len(own)), np.float32 if kind == "numeric" else np.int32)
        for place, column in enumerate(own):
            known = {text: i + 1 for i, text in enumerate(column.categories)}
            for i, row in enumerate(rows):
                if column.name not in row:
                    return None
                value = row[column.name]
                if kind == "numeric":
                    if isinstance(value, str):
                        return None
                    try:
                        number = np.nan if value is None else float(value) - column.shift
                    except OverflowError:  # an integer of more than 308 digits
                        return None
                    coded[i, place] = number if abs(number) < LARGEST else np.nan
                else:
                    coded[i, place] = 0 if value is None else _code_of(as_text(value), known)
        inputs[kind] = coded
    return inputs


def _code_of(text: str, known: Mapping[str, int]) -> int:
    """The code of a category, 0 of an unknown one; "NA" is a category if training knows it."""
    return known.get(text) or (0 if text in MISSING else known.get(canonical(text), 0))


def _codes_of(values: ColumnValues, column: Column) -> np.ndarray:
    """A column as int32 (n,) codes of its categories."""
    known = {text: i + 1 for i, text in enumerate(column.categories)}
    codes, texts = values.distinct
    if not known.keys().isdisjoint(MISSING):
        codes, texts = distinct(values.column, [word for word in MISSING if word not in known])
    order = [_code_of(text, known) for text in texts]
    coded: np.ndarray = np.array([*order, 0], np.int32)[codes]
    return coded


def _numbers_of(values: ColumnValues, column: Column) -> np.ndarray:
    """A column of numbers (n,) as it is stored, or as float64, NaN where one is missing."""
    stored = values.column.dtype
    if isinstance(stored, np.dtype) and (stored.kind in "iu" or stored == np.float64):
        return values.column.to_numpy()  # without a copy
    read = values.numbers
    # Where training had plain numbers there may be amounts, as "1,5" in a file with semicolons.
    amounts = column.form == "plain" and read.form in AMOUNTS and not read.wrong
    if column.form not in ("", read.form) and not amounts:
        read = numbers(values.column, column.form)
    known_rows = int((values.distinct[0] >= 0).sum()) if read.wrong else 0
    if known_rows >= ENOUGH_ROWS and np.isnan(read.values).all():
        raise InputError(
            f"column {column.name!r} held numbers in training, but here it holds none"
            f" ({read.wrong[0]!r}); is it another column?"
        )
    return read.values
