"""Sequences of numbers: archives, tables and arrays to float32 (steps, channels).

A step is a row of values that were measured together. What is missing is filled along the
sequence and marked by a channel of its own. Where the times between steps differ, sequences are
resampled to regular ones, but for the windows of a forecast, whose steps are rows. They may differ
in length.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data import tabular
from nas.data.column_types import ignored_only
from nas.data.dataset import shape_profile
from nas.data.folders import SERIES, read_each, refuse_bad
from nas.data.precision import COARSE, spacing
from nas.data.ragged import Ragged, percentiles
from nas.data.samples import Arrays, Samples, label_frame, to_numpy
from nas.data.series_files import (
    Sequences,
    archive_files,
    numeric_frame,
    read_archive_files,
    read_sample,
    within_float32,
)
from nas.data.tables import is_table
from nas.rules import SERIES_LONGEST, series_stride
from nas.task import DataProfile, InputError, SeriesForm, UsageError

REGULAR = 0.01  # of the median step, by which the steps of regular times may differ
# Steps for each row, in the longest of twenty sequences, from which on most of what resampling made
# would be lines over pauses.
PAUSES = 16
IRREGULAR = 0.01  # fraction of the steps that differ more, from which on times are irregular
SHORTEST_WAVE = 256  # values on average, from which on a list of arrays may be one of waves
CHANNELS = 64  # of an array, above which it is taken for something else


def recognise(source: Any) -> str:
    """Of arrays with three axes, which may as well be images, only long ones of numbers that are
    no pixels are claimed: then the user is asked."""
    if isinstance(source, Arrays):
        return _plain_arrays(source)
    if isinstance(source, Path):
        if files := archive_files(source):
            return f"{next(iter(files)).name} holds sequences"
        if source.is_dir():
            return _class_folders(source)
    return ""


def load(source: Any, target: list[str] | None, columns: Mapping[str, str]) -> Samples:
    """Sequences with one label column (or those of the table).

    Arrays are (n, T) or (n, T, channels), or a list of (T,) or (T, channels). Of a table each row
    is a sequence of one channel, whose columns are its steps.
    """
    if isinstance(source, Arrays) and not isinstance(source.x, pd.DataFrame):
        ignored_only(columns, (), "series")
        if source.y is None:
            raise UsageError("an array of sequences needs its labels; give (X, y)")
        found, labels = Sequences(_arrays(source.x)), label_frame(source.y, target)
        if len(labels) != len(found):
            raise InputError(f"X has {len(found)} sequences, but y has {len(labels)}")
        return Samples(found, labels, source.given, labels)
    if isinstance(source, Path) and (files := archive_files(source)):
        ignored_only(columns, (), "series")
        return read_archive_files(files, target, labelled=True)
    if _is_wide(source):
        samples = tabular.load(source, target, columns)
        return replace(samples, inputs=_numeric(samples.inputs))
    return SERIES.load(source, target, columns)


def load_inputs(source: Any, as_written: Collection[str] = ()) -> Samples:
    """Sequences to predict, labelled or not."""
    if isinstance(source, Arrays) and not isinstance(source.x, pd.DataFrame):
        found = Sequences(_arrays(source.x))
        labels = pd.DataFrame(index=range(len(found)))
        return Samples(found, labels if source.y is None else label_frame(source.y, None))
    if isinstance(source, Path) and (files := archive_files(source)):
        return read_archive_files(files, None, labelled=False)
    if _is_wide(source):
        return tabular.load_inputs(source, as_written)
    return SERIES.load_inputs(source, as_written)


def load_new(source: Any, profile: DataProfile, as_written: Collection[str] = ()) -> Samples:
    """``load_inputs`` in the form of the training data: where each sequence was a table of named
    channels, a table by itself is one, too, and no wide one."""
    form = profile.series
    of_tables = form is not None and bool(profile.channels) and not form.columns
    if of_tables and isinstance(source, Path) and source.is_file() and _is_wide(source):
        unlabelled = pd.DataFrame(index=range(1))
        return Samples([source], unlabelled, None, unlabelled, ((source.name, 1),))
    return load_inputs(source, as_written)


def code(samples: Samples, train: np.ndarray) -> tuple[dict[str, Ragged], DataProfile, list[str]]:
    """The sequences, and the mean and spread of each channel over the training part.

    Raises InputError for sequences that differ in their channels, or have no step.
    """
    found, columns, beyond = _opened(samples.inputs)
    _check(found, samples.place)
    known = np.isfinite(np.concatenate([found.values[row] for row in train]))
    if not known.any(axis=0).all():
        name = _names(found)[int(known.any(axis=0).argmin())]
        raise InputError(f"{name} has no value in any training sequence; leave it out")
    form, paused = _form(found, train, columns)
    lengths = _lengths(found, form)
    form = replace(form, stride=series_stride(percentiles(lengths[train])))
    shift = _shift([found.values[row] for row in train])
    values = np.concatenate([found.values[row] for row in train]) - shift
    width = values.shape[1]
    usual = np.where(known, values, 0).sum(axis=0) / known.sum(axis=0)
    coded, late = _coded(found, form, shift, usual)
    series = Ragged.of(coded)
    rows = series.take(train).values.astype(np.float64)
    # Of values the mean of those that are known; marks stay 0 and 1.
    mean = rows.mean(axis=0)
    mean[:width] = usual
    mean[width : width + len(form.marked)] = 0.0
    std = np.sqrt(((rows - mean) ** 2).mean(axis=0))
    std[width : width + len(form.marked)] = 1.0
    notes = [*beyond, *paused, *_notes(found, form, known, lengths, late, std[:width])]
    std[std == 0] = 1.0  # the same everywhere
    inputs = {"series": series}
    profile = replace(
        shape_profile(inputs, train),
        channels=found.channels,
        channel_mean=tuple(mean.tolist()),
        channel_std=tuple(std.tolist()),
        channel_shift=tuple(shift.tolist()) if shift.any() else (),
        series=form,
    )
    return inputs, profile, notes


def encode(inputs: Any, profile: DataProfile) -> dict[str, Ragged]:
    """New sequences; they need the channels of the training data, by name where they have names.

    Raises InputError where one lacks them.
    """
    form = profile.series
    assert form is not None
    if isinstance(inputs, pd.DataFrame):  # a wide table, with whatever other columns
        absent = [name for name in form.columns if name not in inputs]
        if absent or not form.columns:
            raise InputError(
                f"the table lacks the columns {', '.join(map(repr, absent[:5]))} of the training"
                " data"
                if form.columns
                else "the training data was no wide table; give sequences in the same form"
            )
        inputs = _numeric(inputs[list(form.columns)])
    found, _, _ = _opened(inputs)
    width = profile.inputs["series"][1] - form.added
    found = _ordered(found, profile.channels)
    _check(found, lambda row: f"sequence {row + 1}", width)
    if form.irregular and found.times is None:
        raise InputError("the training data had irregular times, but these sequences have none")
    shift = np.array(profile.channel_shift or [0.0] * width)
    coded, _ = _coded(found, form, shift, np.array(profile.channel_mean[:width]))
    return {"series": Ragged.of(coded)}


# Channels --------------------------------------------------------------------------------


def _opened(inputs: Any) -> tuple[Sequences, tuple[str, ...], tuple[str, ...]]:
    """Sequences of what ``load`` hands on, the columns of a wide table, and notes."""
    columns: tuple[str, ...] = ()
    if isinstance(inputs, pd.DataFrame):
        inputs, columns = _rows(inputs), tuple(inputs.columns)
    found, notes = within_float32(inputs if isinstance(inputs, Sequences) else _files(inputs))
    return found, columns, notes


def _files(files: Sequence[Path]) -> Sequences:
    """A table a sample; all that cannot be read are named at once. Channels have one order."""
    found, bad = read_each(files, read_sample, (OSError, ValueError), str)
    refuse_bad(files, bad, "series", "series")
    channels = tuple(found[0][0].columns)
    for file, (frame, times) in zip(files, found, strict=True):
        if set(frame.columns) != set(channels):
            differing = sorted(set(frame.columns) ^ set(channels))
            raise InputError(
                f"{file} and {files[0]} differ in the columns"
                f" {', '.join(map(repr, differing[:5]))}; give all files the same"
            )
        if (times is None) != (found[0][1] is None):
            raise InputError(f"only one of {file} and {files[0]} has a column of growing times")
    times = [each for _, each in found if each is not None]
    values = [frame[list(channels)].to_numpy() for frame, _ in found]
    return Sequences(values, channels, times or None)


def _rows(frame: pd.DataFrame) -> Sequences:
    """The rows of a wide table, each up to its last value."""
    values = []
    for row in frame.to_numpy(np.float64):
        known = np.flatnonzero(~np.isnan(row))
        values.append(row[: known[-1] + 1 if len(known) else 1, None])
    return Sequences(values)


def _ordered(found: Sequences, channels: tuple[str, ...]) -> Sequences:
    """The channels in the order of the training data, where both have names."""
    if not channels or not found.channels or found.channels == channels:
        return found
    absent = [name for name in channels if name not in found.channels]
    if absent:
        raise InputError(
            f"there is no channel {', '.join(map(repr, absent))}, as the training data had; there"
            f" are {', '.join(map(repr, found.channels))}"
        )
    order = [found.channels.index(name) for name in channels]
    return replace(found, values=[v[:, order] for v in found.values], channels=channels)


def _check(found: Sequences, place: Any, width: int | None = None) -> None:
    """Raise InputError where sequences differ in their channels, are empty or infinite."""
    expected = found.values[0].shape[1] if width is None else width
    for row, sample in enumerate(found.values):
        if sample.shape[1] != expected:
            raise InputError(
                f"{place(row)} has {sample.shape[1]} channels, but"
                f" {'others have' if width is None else 'the training data had'} {expected}"
            )
        if not len(sample):
            raise InputError(f"{place(row)} has no steps; leave it out")
        if np.isinf(sample).any():
            raise InputError(f"{place(row)} holds infinite values; correct it or leave it out")


def _names(found: Sequences) -> list[str]:
    width = found.values[0].shape[1]
    return [f"channel {name!r}" for name in found.channels or map(str, range(1, width + 1))]


def _form(
    found: Sequences, train: np.ndarray, columns: tuple[str, ...]
) -> tuple[SeriesForm, list[str]]:
    """What is marked, and whether times are irregular, by the training part; and a note where they
    are but for the most part pauses, which are not filled."""
    gaps = np.any([np.isnan(found.values[row]).any(axis=0) for row in train], axis=0)
    marked = tuple(int(i) for i in np.flatnonzero(gaps))
    if found.times is None:
        return replace(found.form, marked=marked, columns=columns), []
    steps = np.concatenate([np.diff(found.times[row]) for row in train])
    step = float(np.median(steps)) if len(steps) else 0.0
    if step <= 0:
        step = float(steps[steps > 0].min()) if (steps > 0).any() else 1.0
    uneven = bool(len(steps)) and (abs(steps - step) > REGULAR * step).mean() > IRREGULAR
    # A forecast counts rows, as of working days: its windows keep their length.
    irregular = bool(uneven) and not found.form.horizon
    notes = []
    if irregular:
        spans = [(found.times[row][-1] - found.times[row][0]) / step + 1 for row in train]
        rows = [len(found.times[row]) for row in train]
        if (ratio := float(np.percentile(np.divide(spans, rows), 95))) > PAUSES:
            irregular = False
            notes.append(
                f"times have long pauses ({ratio:,.0f} times the median step of {step:.4g} for each"
                " row): the rows are the steps of a sequence, and times are left out"
            )
    return replace(found.form, marked=marked, median_step=step, irregular=irregular), notes


def _shift(samples: Sequence[np.ndarray]) -> np.ndarray:
    """What to subtract from each channel before it becomes float32, see ``nas.data.precision``."""
    values = np.concatenate(samples)
    known = np.isfinite(values)
    values = np.where(known, values, np.nan)
    with np.errstate(invalid="ignore"):
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
        coarse = spacing(np.maximum(abs(low), abs(high))) > COARSE * (high - low)
    return np.where(coarse & (high > low), np.float32((low + high) / 2), 0.0).astype(np.float64)


def _coded(
    found: Sequences, form: SeriesForm, shift: np.ndarray, usual: np.ndarray
) -> tuple[list[np.ndarray], int]:
    """float32 (steps, channels + marks) of each, and how many have gaps in a channel that had none
    in training: they are filled, but not marked. Where a channel is empty in
    a sequence, it is filled with ``usual``."""
    coded, late = [], 0
    for row, sample in enumerate(found.values):
        times = None if found.times is None or form.horizon else found.times[row]
        gaps = np.isnan(sample)
        late += bool(np.delete(gaps, form.marked, axis=1).any())
        marks = gaps[:, form.marked].astype(np.float64)
        whole = np.concatenate([_filled(sample - shift, times, usual), marks], axis=1)
        if form.irregular and not form.horizon:
            assert times is not None
            whole = _resampled(whole, times, form)
        coded.append(_strided(whole, form.stride)[:SERIES_LONGEST].astype(np.float32))
    return coded, late


def _filled(sample: np.ndarray, times: np.ndarray | None, usual: np.ndarray) -> np.ndarray:
    """Linear between the values before and after a gap, the nearest at the ends."""
    gaps = np.isnan(sample)
    if not gaps.any():
        return sample
    place = np.arange(len(sample)) if times is None else times
    filled = sample.copy()
    for i in np.flatnonzero(gaps.any(axis=0)):
        known = ~gaps[:, i]
        filled[~known, i] = (
            np.interp(place[~known], place[known], sample[known, i]) if known.any() else usual[i]
        )
    return filled


def _lengths(found: Sequences, form: SeriesForm) -> np.ndarray:
    """The steps (n,) of each sequence, after resampling where times are irregular."""
    if not form.irregular or found.times is None:
        return np.array([len(sample) for sample in found.values])
    spans = np.array([times[-1] - times[0] for times in found.times])
    lengths: np.ndarray = np.floor(spans / form.median_step + 0.5).astype(np.int64) + 1
    return lengths


def _resampled(sample: np.ndarray, times: np.ndarray, form: SeriesForm) -> np.ndarray:
    """The values at regular times from the first one on, linear between those that are there. As
    far as they are kept: a gap of a year between seconds is not filled."""
    steps = int((times[-1] - times[0]) / form.median_step + 0.5) + 1
    steps = min(steps, SERIES_LONGEST * form.stride)
    grid = times[0] + form.median_step * np.arange(steps)
    return np.stack([np.interp(grid, times, column) for column in sample.T], axis=1)


def _strided(sample: np.ndarray, stride: int) -> np.ndarray:
    """The means of ``stride`` steps each; the last of fewer."""
    if stride == 1:
        return sample
    starts = np.arange(0, len(sample), stride)
    sizes = np.diff(np.append(starts, len(sample)))
    means: np.ndarray = np.add.reduceat(sample, starts, axis=0) / sizes[:, None]
    return means


def _notes(
    found: Sequences,
    form: SeriesForm,
    known: np.ndarray,
    lengths: np.ndarray,
    late: int,
    std: np.ndarray,
) -> list[str]:
    notes = []
    names, stride = _names(found), form.stride
    if form.marked:
        share = 1 - known[:, form.marked].mean()
        listed = ", ".join(names[i] for i in form.marked[:5])
        more = f" and {len(form.marked) - 5} more" if len(form.marked) > 5 else ""
        notes.append(
            f"{share:.2%} of the values of {listed}{more} are missing: they are filled along the"
            " sequence, and marked"
        )
    if late:
        notes.append(f"{late} sequences have gaps where training has none: filled, but not marked")
    if form.irregular:
        notes.append(
            f"times are irregular: sequences are resampled to the median step,"
            f" {form.median_step:.4g}"
        )
    if stride > 1:
        notes.append(
            f"sequences are long ({int(np.median(lengths)):,} steps at the median): {stride} steps"
            " each are averaged (rule series-length)"
        )
    longest = math.ceil(int(lengths.max()) / stride)
    if longest > SERIES_LONGEST:
        cut = int((lengths > SERIES_LONGEST * stride).sum())
        notes.append(
            f"{cut} of {len(lengths)} sequences are cut after {SERIES_LONGEST * stride:,} steps"
        )
    constant = [names[i] for i in np.flatnonzero(std == 0)]
    if constant:
        notes.append(f"{', '.join(constant[:5])}: one value in all training sequences")
    return notes


# Forms -----------------------------------------------------------------------------------


def _plain_arrays(source: Arrays) -> str:
    """Why arrays plainly are sequences, or ""."""
    x = source.x
    if isinstance(x, list):
        shapes = [tuple(getattr(each, "shape", ())) for each in x]
        kinds = {getattr(getattr(each, "dtype", None), "kind", "") for each in x}
        flat = bool(shapes) and all(len(shape) == 1 for shape in shapes)
        narrow = bool(shapes) and all(len(shape) == 2 and shape[1] == 1 for shape in shapes)
        short = flat and sum(shape[0] for shape in shapes) < SHORTEST_WAVE * len(shapes)
        return "a list of sequences" if kinds <= {*"iuf"} and (short or narrow) else ""
    if source.ndim != 3 or x.dtype.kind != "f" or not 1 <= x.shape[2] <= CHANNELS:
        return ""
    if x.shape[1] < 2 * x.shape[2]:
        return ""
    low = np.nanmin(x) if x.size else 0.0
    pixels = low >= 0 and not np.isnan(x).any()
    return "" if pixels else f"arrays of {x.shape[1]} steps of {x.shape[2]} channels"


def _arrays(x: Any) -> list[np.ndarray]:
    """Each sample as float64 (T, channels)."""
    samples = x if isinstance(x, list) else list(to_numpy(x))
    values = []
    for row, sample in enumerate(samples):
        array = to_numpy(sample)
        if array.ndim not in (1, 2) or array.dtype.kind not in "biuf":
            raise InputError(
                f"sequence {row + 1} has the shape {array.shape} and the type {array.dtype};"
                " expected numbers of the shape (steps,) or (steps, channels)"
            )
        values.append(array.reshape(len(array), -1).astype(np.float64))
    if not values:
        raise InputError("X holds no sequence")
    return values


def _is_wide(source: Any) -> bool:
    """Whether a source is a table, or a folder with one for each part, that lists no files."""
    frame = source.x if isinstance(source, Arrays) else source
    if isinstance(frame, pd.DataFrame):
        return not SERIES.recognise(frame)
    if not isinstance(source, Path):
        return False
    if source.is_file():
        return is_table(source) and not SERIES.recognise(source)
    return bool(tabular.part_files(source)) and SERIES.listing(source) is None


def _numeric(frame: pd.DataFrame) -> pd.DataFrame:
    try:
        return numeric_frame(frame)
    except ValueError as error:
        raise InputError(
            f"{error}; of a table whose rows are sequences each input column is a step: leave"
            " others out with --columns NAME=ignore"
        ) from None


def _class_folders(folder: Path) -> str:
    """Why a folder plainly holds a table for each sample: a metadata.csv that lists tables, or
    class folders that hold several each and nothing else."""
    listing = SERIES.listing(folder) if (folder / "metadata.csv").is_file() else None
    if listing is not None:
        return SERIES.recognise(listing)
    below = [path for path in folder.iterdir() if path.name[0] != "."]
    if len(below) < 2 or not all(path.is_dir() for path in below):
        return ""
    for path in below:
        files = [p for p in path.rglob("*") if p.is_file() and p.name[0] != "."]
        samples = [p for p in files if SERIES.has(p.name)]
        if len(samples) < 2 or len(samples) < len(files):
            return ""
        named = {"nodes", "edges", "metadata", "train", "test"}
        if any(p.name.lower().split(".")[0] in named for p in samples):
            return ""
    return f"{folder.name} holds folders of tables, one a sample"
