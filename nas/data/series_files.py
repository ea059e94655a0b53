"""Files of sequences of numbers: .ts and .arff of the UCR and UEA archives, and a table a sample.

The formats: Löning et al. 2019 (sktime) for .ts; Hall et al. 2009 (Weka) for .arff, whose
sequences of several channels are relational attributes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data.columns import ColumnValues, numbers
from nas.data.precision import LARGEST
from nas.data.samples import PART_NAMES, Samples
from nas.data.tables import read_table
from nas.task import InputError, SeriesForm, UsageError

ARCHIVES = (".ts", ".arff")
TIMES = ("time", "timestamp", "t", "date", "datetime")  # what people call a column of times


@dataclass(frozen=True)
class Sequences:
    """``n`` samples: ``values`` float64 (T, channels) of each, NaN where one is missing.

    ``channels`` are the names of the values where the source has them. ``times`` float64 (T,) of
    each, in the units of the source (days of dates), where it has times. ``form`` holds what the
    source says of them.
    """

    values: list[np.ndarray]
    channels: tuple[str, ...] = ()
    times: list[np.ndarray] | None = None
    form: SeriesForm = field(default_factory=SeriesForm)

    def __len__(self) -> int:
        return len(self.values)


def within_float32(found: Sequences) -> tuple[Sequences, tuple[str, ...]]:
    """The sequences without finite values that float32 does not hold, as some programs write where
    nothing was measured, and a note that says how many count as missing."""
    beyond = [np.isfinite(sample) & (np.abs(sample) > LARGEST) for sample in found.values]
    if not (count := sum(int(each.sum()) for each in beyond)):
        return found, ()
    values = [np.where(b, np.nan, x) for b, x in zip(beyond, found.values, strict=True)]
    note = f"{count} values that are infinite in float32 count as missing"
    return replace(found, values=values), (note,)


# Archives --------------------------------------------------------------------------------


def archive_files(source: Path) -> dict[Path, int | None]:
    """The .ts or .arff files of a source with their parts: NAME_TRAIN and NAME_TEST of a folder,
    or the file itself, or the only one of a folder, of no part; none of other sources."""
    if source.is_file():
        return {source: None} if source.suffix.lower() in ARCHIVES else {}
    for ending in ARCHIVES:
        found = [p for p in sorted(source.iterdir()) if p.suffix.lower() == ending]
        found = [p for p in found if p.name[0] != "."]
        if len(found) == 1:
            return {found[0]: None}
        # Several problems in one folder, or forms of one ("eq", "nomissing"), are not guessed at.
        parts = {p: PART_NAMES.get(p.stem.rpartition("_")[2].lower()) for p in found}
        if found and None not in parts.values():
            return dict(sorted(parts.items(), key=lambda item: item[1] or 0))
    return {}


def read_archive_files(
    files: dict[Path, int | None], target: Sequence[str] | None, *, labelled: bool
) -> Samples:
    """The sequences of .ts or .arff files, with their classes or numbers as the only target.

    Raises InputError for a file that is damaged, or without labels where ``labelled``.
    """
    stems = {file.stem.rpartition("_")[0] or file.stem for file in files}
    parts = [part for part in files.values() if part is not None]
    if len(stems) > 1 or len(set(parts)) < len(parts):
        raise InputError(
            f"{next(iter(files)).parent} holds {', '.join(file.name for file in files)}; keep one"
            " pair, as NAME_TRAIN.ts and NAME_TEST.ts, or name a file"
        )
    if target is not None and len(target) > 1:
        raise UsageError("a .ts or .arff file has one target; name one, or none")
    read = [_read_archive(file) for file in files]
    kinds = {each.kind for each in read}
    if labelled and (kinds == {""} or len(kinds) > 1):
        raise InputError(
            f"{next(iter(files))} holds no labels: expected @classLabel true or @targetLabel true"
        )
    values = [sample for each in read for sample in each.values]
    times = [sample for each in read for sample in each.times]
    frame = pd.DataFrame(index=range(len(values)))
    if kinds != {""}:
        name = target[0] if target else "label" if kinds == {"class"} else "target"
        answers = [label for each in read for label in each.labels]
        frame[name] = (
            pd.Categorical(answers) if kinds == {"class"} else np.array(answers, np.float64)
        )
    given = None
    if None not in files.values() and 0 in files.values():
        given = np.concatenate(
            [np.full(len(r.values), part, np.int8) for r, part in zip(read, parts, strict=True)]
        )
    return Samples(
        Sequences(values, read[0].channels, times if len(times) == len(values) else None),
        frame,
        given,
        frame,
        tuple((file.name, len(each.values)) for file, each in zip(files, read, strict=True)),
        problem="regression" if kinds == {"number"} else None,
    )


@dataclass(frozen=True)
class _Archive:
    """What one file holds: ``kind`` of its labels is "class", "number" or "" for none."""

    values: list[np.ndarray]
    kind: str
    labels: list[Any]
    times: list[np.ndarray]
    channels: tuple[str, ...] = ()


def is_series_arff(file: Path) -> bool:
    """Whether the header of an .arff file is that of sequences: of a relational attribute, or of
    numbers that are counted, as att1, att2, …; other files are tables."""
    names: list[str] = []
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for _, text in _lines(lines, "%"):
                if text.lower().startswith("@data"):
                    break
                if not text.lower().startswith("@attribute"):
                    continue
                name, kind = _attribute(text)
                if kind.lower() == "relational":
                    return True
                names.append(name)
    except (OSError, UnicodeDecodeError, IndexError):
        return False
    counted = [re.fullmatch(r"(.*?)(\d+)", name) for name in names[:-1]]
    runs = {(match[1], int(match[2]) - place) for place, match in enumerate(counted) if match}
    return len(counted) > 1 and all(counted) and len(runs) == 1


def _read_archive(file: Path) -> _Archive:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from None
    read = _read_ts if file.suffix.lower() == ".ts" else _read_arff
    found = read(file, text.split("\n"))
    if not found.values:
        raise InputError(f"{file} holds no sequences behind @data")
    widths = [sample.shape[1] for sample in found.values]
    if len(set(widths)) > 1:
        row = next(i for i, width in enumerate(widths) if width != widths[0])
        raise InputError(
            f"{file}: sequence {row + 1} has {widths[row]} dimensions, but the first {widths[0]}"
        )
    if found.kind == "number":
        return replace(found, labels=[_number(file, label) for label in found.labels])
    return found


def _number(file: Path, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{file}: the target {text!r} is not a number") from None


def _floats(texts: Sequence[str]) -> np.ndarray:
    """Numbers, NaN where there is a question mark. Raises ValueError."""
    return np.array(["nan" if text.strip() == "?" else text for text in texts], np.float64)


def _lines(lines: Iterable[str], comment: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        if (text := line.strip()) and text[0] not in comment:
            yield number, text


def _read_ts(file: Path, lines: Sequence[str]) -> _Archive:
    header: dict[str, str] = {}
    values: list[np.ndarray] = []
    times: list[np.ndarray] = []
    labels: list[str] = []
    begun = False
    for number, text in _lines(lines, "#%"):
        if not begun:
            if text[0] != "@":
                raise InputError(f"{file}, line {number}: expected @data before the sequences")
            name, _, value = text[1:].partition(" ")
            header[name.lower()] = value.strip().lower()
            begun = name.lower() == "data"
            continue
        stamped = header.get("timestamps") == "true"
        *parts, last = _split_stamped(text) if stamped else text.split(":")
        if "class" not in (kind := _kind(header)) and kind != "number":
            parts, last = [*parts, last], ""
        try:
            if stamped:
                sample, moments = _stamped(parts)
                times.append(moments)
            else:
                sample = _joined([_floats(part.split(",")) if part else [] for part in parts])
        except ValueError as error:
            raise InputError(f"{file}, line {number}: {error}") from None
        values.append(sample)
        labels.append(last.strip())
    if not begun:
        raise InputError(f"{file} has no line @data, behind which the sequences stand")
    return _Archive(values, _kind(header), labels, times)


def _kind(header: dict[str, str]) -> str:
    if header.get("targetlabel", "false").startswith("true"):
        return "number"
    return "class" if header.get("classlabel", "false").startswith("true") else ""


def _joined(parts: Sequence[Any]) -> np.ndarray:
    """(T, channels) of the dimensions of a sample, the shorter ones filled with NaN."""
    if not parts:
        raise ValueError("no values")
    sample = np.full((max(map(len, parts)), len(parts)), np.nan)
    for i, part in enumerate(parts):
        sample[: len(part), i] = part
    return sample


def _split_stamped(text: str) -> list[str]:
    """The dimensions of "(0,1.5),(1,2.5):(0,7)", whose moments may hold colons themselves."""
    pieces, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if sign == ":" and not depth:
            pieces.append(text[start:place])
            start = place + 1
    return [*pieces, text[start:]]


def _stamped(parts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Values (T, channels) and moments (T,) of dimensions that each have their own."""
    columns = []
    for part in parts:
        pairs = [pair.split(",") for pair in part.strip().strip("()").split("),(")]
        moments = numbers(pd.Series([pair[0].strip().strip('"') for pair in pairs])).values
        if not np.isfinite(moments).all():
            raise ValueError(f"{pairs[int(np.isnan(moments).argmax())][0]!r} is no time")
        columns.append(pd.Series(_floats([pair[-1] for pair in pairs]), index=moments))
    try:
        frame = pd.concat(columns, axis=1).sort_index()
    except (pd.errors.InvalidIndexError, ValueError):
        raise ValueError("a dimension has two values of one time; keep one of them") from None
    return frame.to_numpy(np.float64), frame.index.to_numpy(np.float64)


def _read_arff(file: Path, lines: Sequence[str]) -> _Archive:
    names: list[str] = []  # attributes of a sample, or those inside the relational one
    last, nested, relational, begun = "", False, False, False
    values: list[np.ndarray] = []
    labels: list[str] = []
    for number, text in _lines(lines, "%"):
        lower = text.lower()
        if begun:
            try:
                (row,) = csv.reader([text], quotechar="'" if "'" in text else '"')
                *cells, label = row if last else [*row, ""]
                if relational and not cells:
                    raise ValueError("one value; expected a sequence and its label")
                if relational:
                    channels = cells[0].replace("\\n", "\n").split("\n")
                    sample = _joined([_floats(channel.split(",")) for channel in channels])
                else:
                    sample = _floats(cells)[:, None]
            except ValueError as error:
                raise InputError(f"{file}, line {number}: {error}") from None
            values.append(sample)
            labels.append(label.strip())
        elif lower.startswith("@attribute"):
            name, kind = _attribute(text)
            if kind.lower() == "relational":
                nested = relational = True
            elif nested:
                names.append(name)
            elif kind.startswith("{") or name.lower() in ("target", "class"):
                last = kind
            else:
                names.append(name)
        elif lower.startswith("@end"):
            nested = False
        elif lower.startswith("@data"):
            begun = True
    if not begun:
        raise InputError(f"{file} has no line @data, behind which the sequences stand")
    kind = "" if not last else "class" if last.startswith("{") else "number"
    return _Archive(values, kind, labels, [])


def _attribute(text: str) -> tuple[str, str]:
    """The name and the type of "@attribute 'a name' numeric"."""
    rest = text.split(None, 1)[1].strip()
    if rest[0] in "'\"":
        name, _, kind = rest[1:].partition(rest[0])
    else:
        name, _, kind = rest.replace("\t", " ").partition(" ")
    return name.strip(), kind.strip()


# A table a sample ------------------------------------------------------------------------


def read_sample(file: Path) -> tuple[pd.DataFrame, np.ndarray | None]:
    """The values of one file, a column a channel, and the times (T,) where a column is called one
    of ``TIMES`` and grows.

    Raises ValueError, with the reason, for a column of other things than numbers.
    """
    try:
        frame = read_table(file)
    except InputError as error:
        raise ValueError(str(error).removeprefix(f"{file} ")) from None
    headless = ColumnValues(pd.Series([str(name) for name in frame.columns])).numbers
    if not headless.wrong and frame.shape[1]:  # the first row is no header
        first = pd.DataFrame([headless.values], columns=frame.columns)
        frame = pd.concat([first, frame], ignore_index=True)
        frame.columns = [f"x{i}" for i in range(frame.shape[1])]
    named = [name for name in frame.columns if str(name).strip().lower() in TIMES]
    times = None
    if named:
        found = numbers(frame[named[0]]).values
        if np.isfinite(found).all() and (np.diff(found) >= 0).all():
            times, frame = found, frame.drop(columns=named[0])
    return numeric_frame(frame), times


def numeric_frame(frame: pd.DataFrame, what: str = "column") -> pd.DataFrame:
    """The columns of a frame as float64, NaN where a value is missing.

    Raises ValueError for a column that holds other things than numbers, or for none.
    """
    if not frame.shape[1]:
        raise ValueError("no column of values")
    result = {}
    for name in frame.columns:
        read = ColumnValues(frame[name]).numbers
        if read.wrong:
            raise ValueError(f"{what} {name!r} holds {read.wrong[0]!r}, which is no number")
        result[str(name)] = read.values
    return pd.DataFrame(result)
