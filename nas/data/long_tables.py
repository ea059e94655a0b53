"""Long tables of sequences: a row a step, with columns that say of which sequence, and when.

``gather`` makes sequences with a label each of one, or, with a horizon, windows of the sequences
with the values that follow them.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data import tabular
from nas.data.column_types import ignored_only
from nas.data.columns import distinct, numbers
from nas.data.folders import is_hidden
from nas.data.samples import PART_NAMES, PARTS, Samples, read_parts
from nas.data.series_files import Sequences, numeric_frame, within_float32
from nas.data.split import NO_TRAIN, RATIOS, parse_ratios
from nas.data.tables import frame_of, is_table, read_table
from nas.options import ReadOptions
from nas.rules import forecast_window
from nas.task import DataProfile, InputError, SeriesForm, UsageError

MOST_WINDOWS = 20_000  # of all sequences together; where there are more, some are skipped
SEASONAL = 0.3  # autocorrelation, from which on a lag is a season
ALIKE = 0.9  # of the highest, from which on a shorter lag is preferred
LONGEST_SEASON = 400  # steps


@dataclass(frozen=True)
class _Rows:
    """The rows of a long table in the order of their sequences and times: ``starts`` (n + 1,) of
    each sequence, the ``names`` of them, the parts where the table is divided by files, and
    ``labels`` that stand in a table beside it."""

    frame: pd.DataFrame
    starts: np.ndarray
    names: list[str]
    times: np.ndarray | None
    given: np.ndarray | None
    labels: pd.DataFrame | None
    notes: tuple[str, ...]
    sequence: str  # the column of the sequences' names, and that of the times
    time: str


def gather(source: Any, target: Sequence[str] | None, how: ReadOptions) -> Samples:
    """A sample for each sequence of a long table, or for each window of it where ``how.horizon``.

    A column that stays the same throughout each sequence is a property of it, which the split may
    name, and no channel. Raises UsageError for columns that do not exist, and InputError for rows
    that make no sequences.
    """
    if target is None:
        raise UsageError("a long table needs a target column; name one with --target")
    rows = _rows(source, how.sequence or "", how.time or "")
    for name in target:
        if name not in rows.frame and (rows.labels is None or name not in rows.labels):
            raise _unknown(name, "target", rows.frame)
    ignored = ignored_only(how.columns or {}, rows.frame.columns, "series")
    rows = replace(rows, frame=rows.frame.drop(columns=[*ignored]))
    keys = {how.sequence, how.time} - {None}
    fixed = _fixed(rows, keys)
    columns = rows.frame.iloc[rows.starts[:-1]][fixed].reset_index(drop=True)
    if rows.times is not None:
        columns[how.time] = rows.times[rows.starts[:-1]]
    given = rows.given
    if given is None and "split" in columns and "split" not in target:
        known = columns["split"].astype("str").str.strip().str.lower().isin(PART_NAMES)
        if known.any():
            given = read_parts(columns["split"], "the long table")
    if how.horizon:
        return _windows(replace(rows, given=given), target, columns, how)
    labels = _labels(rows, target, columns)
    properties = [name for name in fixed if name not in (*target, "split", how.sequence)]
    notes = [*rows.notes, *_group_notes(columns[properties], how.split, given)]
    values = [c for c in rows.frame.columns if c not in {*fixed, *keys, *target}]
    if properties:
        notes.append(
            f"{_listed(properties)} stay the same throughout each sequence: not channels of it"
        )
    return Samples(
        _sequences(rows, values),
        labels,
        given,
        columns,
        tuple((f"sequence {name}", 1) for name in rows.names),
        tuple(notes),
    )


def gather_new(source: Any, profile: DataProfile, targets: Collection[str]) -> Samples:
    """The sequences of a new long table, labelled or not; for a forecast the last window of each.

    Raises InputError where it lacks a channel or holds too few rows for a window.
    """
    form, channels = profile.series, profile.channels
    assert form is not None
    rows = _rows(source, form.sequence, form.time)
    absent = [name for name in channels if name not in rows.frame]
    if absent:
        raise InputError(
            f"the table lacks the columns {_listed(absent)} of the training data; it has"
            f" {_listed([*rows.frame.columns])}"
        )
    found = _sequences(rows, channels)
    names = tuple((name, 1) for name in rows.names)
    labels = pd.DataFrame(index=range(len(rows.names)))
    if form.horizon:
        short = [n for n, x in zip(rows.names, found.values, strict=True) if len(x) < form.window]
        if short:
            raise InputError(
                f"a forecast needs {form.window} rows of each sequence, but"
                f" {_listed([f'{name!r}' for name in short])} has fewer"
            )
        last = [sample[-form.window :] for sample in found.values]
        times = None if found.times is None else [t[-form.window :] for t in found.times]
        note = f"predicted are the {form.horizon} steps after the last row of each sequence"
        return Samples(replace(found, values=last, times=times), labels, files=names, notes=(note,))
    known = [name for name in targets if name in rows.frame]
    if known:
        labels = rows.frame.iloc[rows.starts[:-1]][known].reset_index(drop=True)
    return Samples(found, labels, None, labels, names)


# Rows ------------------------------------------------------------------------------------


def _rows(source: Any, sequence: str, time: str) -> _Rows:
    tables, beside = tables_of(source, sequence)
    parts = [part for _, part in tables]
    for frame, _ in tables:
        for name, what in ((sequence, "sequence"), (time, "time")):
            if name and name not in frame:
                raise _unknown(name, what, frame)
    frame = pd.concat([frame for frame, _ in tables], ignore_index=True)
    part = np.repeat([-1 if p is None else p for p in parts], [len(f) for f, _ in tables])
    codes, names = np.zeros(len(frame), np.int64), ["1"]
    if sequence:
        codes, names = distinct(frame[sequence], missing=("",))
        if (codes < 0).any():
            row = int((codes < 0).argmax())
            raise InputError(f"column {sequence!r} is empty in row {row + 1}; fill or drop it")
    # The same name in two files is of two sequences, in the order of the files.
    whole, codes = np.unique(part * len(names) + codes, return_inverse=True)
    first = np.full(len(whole), len(frame))
    np.minimum.at(first, codes, np.arange(len(frame)))
    order_of = np.argsort(np.argsort(first))
    codes = order_of[codes]
    names = [names[int(whole[i]) % len(names)] for i in np.argsort(first)]
    notes: list[str] = []
    times = None
    if time:
        times = _times(frame[time], time)
        order = np.lexsort((times, codes))
        repeated = (np.diff(codes[order]) == 0) & (np.diff(times[order]) == 0)
        if repeated.any():
            notes.append(
                f"{int(repeated.sum())} rows have the time of another row of their sequence: they"
                " keep the order of the table"
            )
        times = times[order]
    else:
        order = np.argsort(codes, kind="stable")
    frame = frame.iloc[order].reset_index(drop=True)
    starts = np.concatenate([[0], np.cumsum(np.bincount(codes))])
    given = part[order][starts[:-1]].astype(np.int8) if None not in parts else None
    labels = _beside(beside, sequence, names)
    return _Rows(frame, starts, names, times, given, labels, tuple(notes), sequence, time)


def tables_of(
    source: Any, sequence: str
) -> tuple[list[tuple[pd.DataFrame, int | None]], pd.DataFrame | None]:
    """The long tables of a source with their parts, and the table beside it in which each sequence
    has one row."""
    if isinstance(source, pd.DataFrame):
        return [(frame_of(source), None)], None
    if not isinstance(source, Path):
        raise UsageError("--sequence, --time and --horizon are for a table: name one, or a frame")
    as_written = [sequence] if sequence else []
    if source.is_file():
        if not is_table(source):
            raise UsageError(f"{source} is no table, which --sequence and --horizon are for")
        return [(read_table(source, as_written=as_written), None)], None
    if parts := tabular.part_files(source):
        return [(read_table(p, as_written=as_written), part) for p, part in parts.items()], None
    found = [p for p in sorted(source.iterdir()) if is_table(p) and not is_hidden(p.name)]
    frames = [read_table(path, as_written=as_written) for path in found]
    with_ids = [frame for frame in frames if sequence in frame]
    unique = [frame for frame in with_ids if frame[sequence].is_unique]
    if len(with_ids) == len(frames) == 2 and len(unique) == 1:
        (long,) = (frame for frame in with_ids if frame is not unique[0])
        return [(long, None)], unique[0]
    if len(frames) == 1:
        return [(frames[0], None)], None
    raise UsageError(
        f"{source} holds {len(frames)} tables; expected a long one, with a second in which each"
        f" {sequence or 'sequence'} has one row, or train and test tables"
    )


def _beside(table: pd.DataFrame | None, sequence: str, names: list[str]) -> pd.DataFrame | None:
    """The rows of a table of labels in the order of the sequences."""
    if table is None:
        return None
    codes, texts = distinct(table[sequence], missing=("",))
    place = {texts[code]: row for row, code in enumerate(codes)}
    absent = [name for name in names if name not in place]
    if absent:
        raise InputError(
            f"{len(absent)} sequences have no row in the table of labels, as {sequence}"
            f" {absent[0]!r}; add or drop them"
        )
    return table.iloc[[place[name] for name in names]].reset_index(drop=True)


def _unknown(name: str, what: str, frame: pd.DataFrame) -> UsageError:
    columns = [*map(str, frame.columns)]
    near = difflib.get_close_matches(name, columns, n=1)
    return UsageError(
        f"there is no {what} column {name!r}"
        + (f"; did you mean {near[0]!r}?" if near else "")
        + f"; the columns are {_listed(columns)}"
    )


def _times(column: pd.Series, name: str) -> np.ndarray:
    times = numbers(column).values
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        raise InputError(
            f"column {name!r} is {column.iloc[bad[0]]!r} in row {bad[0] + 1}, neither a number nor"
            f" an ISO date ({len(bad)} such rows); correct or drop them"
        )
    return times


def _fixed(rows: _Rows, keys: set[Any]) -> list[str]:
    """The columns that have one value throughout each sequence."""
    if len(rows.names) == 1:
        return []
    same = []
    which = np.repeat(np.arange(len(rows.names)), np.diff(rows.starts))
    inside = np.flatnonzero(np.diff(which) == 0)
    for name in rows.frame.columns:
        column = rows.frame[name]
        numeric = pd.api.types.is_numeric_dtype(column)
        codes, _ = pd.factorize(column) if numeric else distinct(column, missing=("",))
        if name not in keys and len(inside) and (codes[inside] == codes[inside + 1]).all():
            same.append(str(name))
    return same


def _labels(rows: _Rows, target: Sequence[str], columns: pd.DataFrame) -> pd.DataFrame:
    labels = {}
    for name in target:
        if rows.labels is not None and name in rows.labels:
            labels[name] = rows.labels[name]
        elif name in columns:
            labels[name] = columns[name]
        else:
            raise InputError(
                f"target {name!r} changes within a sequence; expected one label for each, or"
                " --horizon for a forecast of it"
            )
    return pd.DataFrame(labels)


def _sequences(rows: _Rows, channels: Sequence[str]) -> Sequences:
    try:
        values = numeric_frame(rows.frame[[*channels]]).to_numpy(np.float64)
    except ValueError as error:
        raise InputError(f"{error}; leave it out with --columns NAME=ignore") from None
    cuts = rows.starts[1:-1]
    times = None if rows.times is None else np.split(rows.times, cuts)
    form = SeriesForm(sequence=rows.sequence, time=rows.time)
    return Sequences(np.split(values, cuts), tuple(map(str, channels)), times, form)


def _group_notes(columns: pd.DataFrame, split: str | None, given: np.ndarray | None) -> list[str]:
    """A note on each property of which several sequences share the values, as those that were cut
    from one recording do, where the split does not keep them together."""
    if given is not None or (split or "").startswith(("group=", "column=")):
        return []
    notes = []
    for name in columns:
        distinct_values = columns[name].nunique()
        if 3 <= distinct_values <= len(columns) / 2:
            notes.append(
                f"column {name!r} has {distinct_values} values over {len(columns)} sequences: if"
                " those of one value are alike, as windows of one recording are, say --split"
                f" group={name}"
            )
    return notes


def _listed(names: Sequence[object], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


# Windows ---------------------------------------------------------------------------------


def _windows(
    rows: _Rows, target: Sequence[str], columns: pd.DataFrame, how: ReadOptions
) -> Samples:
    """Windows of the sequences, and as labels the next ``how.horizon`` values of each target.

    Parts follow in time, within each sequence: what is predicted in one part lies behind all that
    is predicted in the part before. Windows that reach over the border are left out.
    """
    horizon, split = how.horizon or 1, how.split or ""
    if split.startswith(("time=", "group=", "column=")):
        raise UsageError(
            f"split={split!r}: the windows of a forecast follow in time; leave it out, or give"
            " three ratios or a column 'split' of the sequences"
        )
    properties = {str(name) for name in columns} - {*target}
    values = [
        c for c in rows.frame.columns if c not in {*properties, how.sequence, how.time, "split"}
    ]
    found, beyond = within_float32(_sequences(rows, values))
    at = [values.index(name) for name in target]
    ratios = _ratios(rows, parse_ratios(split) if split else RATIOS)
    known = [
        x[: round(len(x) * part[0])]
        for x, part in zip(found.values, ratios, strict=True)
        if part[0]
    ]
    season = find_season([x[:, at[0]] for x in known])
    if 2 * season > min(map(len, known)):
        season = 1
    window = forecast_window(horizon, season, min(map(len, known)))
    if season > window:  # the value a season before would not be in it
        season = 1
        window = forecast_window(horizon, season, min(map(len, known)))
    if window < 1:
        raise InputError(
            f"the shortest sequence has {min(map(len, found.values))} rows: too few for windows"
            f" and a horizon of {horizon}; give longer ones, or a shorter horizon"
        )
    places, parts, step = _places(found.values, window, horizon, ratios)
    after = [found.values[row][start : start + horizon, at] for row, start in places]
    kept = np.array([np.isfinite(values).all() for values in after], bool)
    if not kept.any():
        raise InputError("no window has all of its next values; fill them, or shorten --horizon")
    places, parts = [place for place, keep in zip(places, kept, strict=True) if keep], parts[kept]
    _refuse_empty(parts, found.values, (window, horizon), ratios)
    windows = [found.values[row][start - window : start] for row, start in places]
    labels = {
        f"{name}+{ahead + 1}": [found.values[row][start + ahead, i] for row, start in places]
        for name, i in zip(target, at, strict=True)
        for ahead in range(horizon)
    }
    times = found.times
    of_row = [row for row, _ in places]
    notes = [
        *rows.notes,
        *beyond,
        f"windows of {window} steps"
        + (f", of a season of {season}" if season > 1 else ", as no season shows")
        + (f", each {step} steps" if step > 1 else ""),
    ]
    if not kept.all():
        notes.append(f"{int((~kept).sum())} windows are left out: values after them are missing")
    if times is not None and rows.given is None:
        at_times = np.array([times[row][start] for row, start in places])
        late, early = at_times[parts == 0].max(), at_times[parts == 2].min()
        if late >= early:
            notes.append(
                "the parts follow in the time of each sequence, and training of some reaches beyond"
                " where the test part of others begins: what is common to all at a time may be"
                " known; to rule that out, cut the sequences to the same times"
            )
    return Samples(
        replace(
            found,
            values=windows,
            times=None if times is None else [times[r][s - window : s] for r, s in places],
            form=replace(
                found.form,
                horizon=horizon,
                window=window,
                season=season,
                naive_errors=_seasonal_errors(known, dict(zip(target, at, strict=True)), season),
            ),
        ),
        pd.DataFrame(labels),
        parts,
        columns.iloc[of_row].reset_index(drop=True),
        tuple((f"the window before row {s + 1} of {rows.names[r]}", 1) for r, s in places),
        tuple(notes),
        problem="regression",
    )


def _ratios(rows: _Rows, ratios: Sequence[float]) -> list[Sequence[float]]:
    """The fractions of train, val and test in the time of each sequence: of one whose part is given
    all of it, but for the parts that are not there, which are cut from the end of train."""
    if rows.given is None:
        return [ratios] * len(rows.names)
    if 0 not in rows.given:
        raise InputError(NO_TRAIN)
    absent = [part for part in (1, 2) if part not in rows.given]
    cut = {part: ratios[part] if part in absent else 0.0 for part in (1, 2)}
    whole = {0: (1 - cut[1] - cut[2], cut[1], cut[2]), 1: (0.0, 1.0, 0.0), 2: (0.0, 0.0, 1.0)}
    return [whole[int(part)] for part in rows.given]


def _places(
    sequences: Sequence[np.ndarray], window: int, horizon: int, ratios: Sequence[Sequence[float]]
) -> tuple[list[tuple[int, int]], np.ndarray, int]:
    """The sequence and the row after each window, its part in time, and how many steps lie between
    two windows."""
    total = sum(max(len(x) - window - horizon + 1, 0) for x in sequences)
    step = max(1, -(-total // MOST_WINDOWS))
    places, parts = [], []
    for row, sample in enumerate(sequences):
        for part, (begin, end) in enumerate(pairwise(_borders(len(sample), ratios[row]))):
            first, after = max(begin, window), end - horizon + 1
            # Those of every so many steps, and of a part that lies between two of them the first.
            chosen = range(first + (window - first) % step, after, step) or range(first, after)[:1]
            places += [(row, start) for start in chosen]
            parts += [part] * len(chosen)
    return places, np.array(parts, np.int8), step


def _borders(steps: int, ratios: Sequence[float]) -> tuple[int, ...]:
    """Where the parts of a sequence begin and end in time."""
    return (0, *(round(steps * float(sum(ratios[:k]))) for k in (1, 2)), steps)


def _refuse_empty(
    parts: np.ndarray,
    sequences: Sequence[np.ndarray],
    size: tuple[int, int],
    ratios: Sequence[Sequence[float]],
) -> None:
    """Raise InputError for a part without a window of this ``size`` (the steps before, and those
    that are predicted): one drawn from another part would be scored on values that training
    knows."""
    borders = [_borders(len(x), ratio) for x, ratio in zip(sequences, ratios, strict=True)]
    for part, name in enumerate(PARTS):
        if not (parts == part).any():
            most = max(each[part + 1] - each[part] for each in borders)
            raise InputError(
                f"no window of {size[0]} rows has its next {size[1]} values in the {name} part,"
                f" which has {most} rows of a sequence at most; shorten --horizon or give more rows"
            )


def find_season(series: Sequence[np.ndarray]) -> int:
    """The steps after which values repeat: the lag, of at most a third of the longest sequence, of
    the highest peak of the autocorrelation of the detrended values, or the shortest that is nearly
    as high; 1 where there is none.

    >>> find_season([np.sin(np.arange(200) * 2 * np.pi / 12)])
    12
    """
    longest = max(series, key=len)
    values = longest[np.isfinite(longest)]
    most = min(len(values) // 3, LONGEST_SEASON)
    if most < 4:
        return 1
    time = np.arange(len(values))
    values = values - np.polyval(np.polyfit(time, values, 1), time)
    power = np.abs(np.fft.rfft(values, 2 * len(values))) ** 2
    shared = np.fft.irfft(power)[: most + 1] / (len(values) - np.arange(most + 1))
    if shared[0] <= 1e-12:
        return 1
    correlation = shared / shared[0]
    peaks = [
        lag
        for lag in range(2, most)
        if correlation[lag] >= max(correlation[lag - 1], correlation[lag + 1])
        and correlation[lag] > SEASONAL
    ]
    if not peaks:
        return 1
    highest = max(correlation[lag] for lag in peaks)
    return next(lag for lag in peaks if correlation[lag] >= ALIKE * highest)


def _seasonal_errors(
    known: Sequence[np.ndarray], names: Mapping[str, int], season: int
) -> dict[str, float]:
    """The mean absolute error of the values a season before, on the training steps: the scale of
    MASE (Hyndman & Koehler 2006, eq. 2)."""
    errors = {}
    for name, i in names.items():
        changes = [np.abs(x[season:, i] - x[:-season, i]) for x in known if len(x) > season]
        found = np.concatenate(changes) if changes else np.zeros(0)
        found = found[np.isfinite(found)]
        if not len(found) or not found.mean() > 0:
            raise InputError(
                f"target {name!r} repeats exactly after {season} steps, or has no value twice:"
                " there is nothing to forecast"
            )
        errors[name] = float(found.mean())
    return errors
