"""CSV files: the delimiter, the header, and rows that do not fit it.

pandas pads short rows and shifts long ones without a word. Here the widths of all rows are
checked first, by arrays of bytes, and a row that does not fit is named with its line.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TextIO, cast

import numpy as np
import pandas as pd

from nas.task import InputError

DELIMITERS = ",;\t|"
MISSING = ("", "?", "NA", "N/A", "n/a", "nan", "NaN", "NULL", "null", "<NA>", "#N/A")
CHUNK_BYTES = 2**23  # of a file whose rows are checked
PIECE_ROWS = 2**18  # parsed at once
MOST_CLASSES = 1000  # distinct numbers up to which a column of labels is kept as it is written
_DECIMAL_COMMA = re.compile(r"^\s*([+-]?\d+),(\d+(?:[eE][+-]?\d+)?)\s*$")
_DECLARED = re.compile(r"""^["']?sep=(.|\\t)["']?\s*$""")  # a first line for spreadsheets
_WHOLE = re.compile(r"-?[1-9]\d{0,17}|0")


@dataclass(frozen=True)
class Layout:
    """How a file is written: its column names, its delimiter, and the lines before the header."""

    names: list[str]
    delimiter: str
    skipped_lines: int = 0


def read_csv(
    path: Path, rows: int | None, missing: Sequence[str], as_written: Collection[str] = ()
) -> pd.DataFrame:
    """The rows of a CSV or TSV file (also .gz), or the first of them.

    Args:
        path: The file. The delimiter is a comma, semicolon, tab or bar, whichever fits its first
            rows; a first line "sep=;" declares it.
        rows: How many are read at most; None for all.
        missing: Texts for a value that is not there.
        as_written: Columns of labels, where "01" is no 1 and "NA" no missing value: they are
            text unless all of their values are plain numbers.

    Raises:
        InputError: For an empty file, for a row that is wider or narrower than the header, and
            where the header names a column twice or holds numbers.
    """
    layout = _layout(path)
    names = layout.names
    check_names(names, str(path))
    texts = [name for name in names if name in as_written]
    with ThreadPoolExecutor(1) as pool:  # both take about as long, and wait for no lock
        checked = pool.submit(_check_rows, path, layout, rows)
        try:
            found = _parse(path, layout, texts, rows, missing)
        finally:
            checked.result()  # whose error says more than the parser's
    if layout.delimiter == ";":  # spreadsheets write semicolons where commas mark the decimals
        words = [
            name
            for name in names
            if name not in texts and not pd.api.types.is_numeric_dtype(found[name])
        ]
        found[words] = found[words].replace(_DECIMAL_COMMA, r"\1.\2", regex=True)
    for name in texts:
        found[name] = _labels(found[name])
    return found


def refuse_duplicates(names: Sequence[object], where: str) -> None:
    """Raise InputError where two columns have one name."""
    texts = [str(name) for name in names]
    double = sorted({name for name in texts if texts.count(name) > 1})
    if double:
        raise InputError(
            f"{where}: several columns are called {', '.join(map(repr, double))}; rename them"
        )


def check_names(names: Sequence[str], where: str) -> None:
    """Raise InputError for a header that is a row of numbers, or that names a column twice."""
    twice = len(set(names)) < len(names)
    if all(map(_is_number, names)) and (twice or "." in "".join(names)):
        raise InputError(
            f"{where}: the first line holds numbers ({', '.join(names[:4])} …), not the names of"
            " the columns; add a header line"
        )
    refuse_duplicates(names, where)


# Layout ----------------------------------------------------------------------------------


def _binary(path: Path) -> BinaryIO:
    packed = path.suffix.lower() == ".gz"
    return cast(BinaryIO, gzip.open(path, "rb")) if packed else path.open("rb")


def _text(path: Path) -> TextIO:
    packed = path.suffix.lower() == ".gz"
    if packed:
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _layout(path: Path) -> Layout:
    with _text(path) as stream:
        first = stream.readline()
        declared = _DECLARED.match(first)
        lines = [line for line in (first, *islice(stream, 50)) if line.strip()]
    if declared:
        lines = lines[1:]
    if not lines:
        raise InputError(f"{path} is empty; expected a header line and rows")
    if ".tsv" in (suffix.lower() for suffix in path.suffixes):
        delimiter = "\t"
    elif declared:
        delimiter = declared[1].replace("\\t", "\t")
    else:
        delimiter = _delimiter(lines)
    header = [name.strip() for name in next(_records(lines, delimiter))]
    if header.count("") > 1:
        header = [name or f"Unnamed: {i}" for i, name in enumerate(header)]
    return Layout(header, delimiter, 1 if declared else 0)


def _records(lines: Sequence[str] | TextIO, delimiter: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True)


def _delimiter(lines: Sequence[str]) -> str:
    """The delimiter that is most frequent in the header outside quotes; where another also is in
    the header, the first that gives all of the first rows its width."""
    header = re.sub(r'"[^"]*"?', "", lines[0])
    ordered = sorted(DELIMITERS, key=lambda sign: -header.count(sign))
    for sign in (sign for sign in ordered if sign in header):
        widths = [len(record) for record in _records(lines, sign) if record]
        # The last of these lines may be cut within a quoted value.
        if len(set(widths[:-1] or widths)) == 1:
            return sign
    return ordered[0]


def _is_number(text: str) -> bool:
    try:
        return not np.isnan(float(text))
    except ValueError:
        return False


# Rows ------------------------------------------------------------------------------------


def _check_rows(path: Path, layout: Layout, rows: int | None) -> None:
    """Raise InputError that names the first line which is wider or narrower than the header."""
    if rows is None and _is_even(path, layout):
        return
    with _text(path) as stream:
        for _ in range(layout.skipped_lines):
            stream.readline()
        records = csv.reader(stream, delimiter=layout.delimiter, skipinitialspace=True)
        for record in records:
            if record and len(record) != len(layout.names):
                raise InputError(
                    f"{path} line {records.line_num + layout.skipped_lines}: {len(record)} values,"
                    f" but the header names {len(layout.names)} columns; mend the line or put"
                    " quotes around the values"
                )
            if rows is not None and records.line_num > rows:
                return


def _is_even(path: Path, layout: Layout) -> bool:
    """Whether all lines have as many delimiters outside quotes as the header; False also where
    that cannot be said this way, as with a quote in the middle of an unquoted value."""
    expected = len(layout.names) - 1
    open_quote, begun = 0, 0  # is the chunk's start inside quotes; delimiters of its first line
    left = layout.skipped_lines
    line_bytes = 0  # of the line that a chunk ends in
    with _binary(path) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            signs = np.frombuffer(chunk, np.uint8)
            ends = signs == 10
            commas = signs == ord(layout.delimiter)
            if open_quote or b'"' in chunk:
                # The parity of the quotes so far; the counts may wrap around at 256.
                inside = np.cumsum(signs == 34, dtype=np.uint8)
                inside += np.uint8(open_quote)
                inside &= 1
                open_quote = int(inside[-1])
                outside = inside == 0
                ends &= outside
                commas &= outside
            at = np.flatnonzero(ends)
            if not len(at):
                begun += int(np.count_nonzero(commas))
                line_bytes += len(chunk)
                continue
            # The delimiters from each line's end to the next; those before the first are added.
            counts = np.add.reduceat(commas, at, dtype=np.int32)
            last = int(counts[-1])
            counts[1:] = counts[:-1]
            counts[0] = begun + np.count_nonzero(commas[: at[0]])
            lengths = np.diff(at, prepend=-1) - 1
            lengths[0] += line_bytes
            returns = (at > 0) & (signs[np.maximum(at - 1, 0)] == 13)
            odd = (counts != expected) & (lengths - returns > 0)
            odd[:left] = False
            left = max(0, left - len(at))
            if odd.any():
                return False
            begun = last
            line_bytes = len(chunk) - 1 - int(at[-1])
    return not open_quote and (line_bytes == 0 or begun == expected)


# Values ----------------------------------------------------------------------------------


def _parse(
    path: Path, layout: Layout, texts: list[str], rows: int | None, missing: Sequence[str]
) -> pd.DataFrame:
    """The frame, parsed in pieces, which takes less memory; columns that are not of one type in all
    of them are read again as a whole."""

    def pieces(columns: list[str] | None, size: int | None) -> Iterator[pd.DataFrame]:
        found = pd.read_csv(
            path, sep=layout.delimiter, names=layout.names, header=0,
            skiprows=layout.skipped_lines, index_col=False, usecols=columns,
            dtype=dict.fromkeys(texts, "str"), skipinitialspace=True, nrows=rows,
            keep_default_na=False, encoding="utf-8-sig", low_memory=False, chunksize=size,
            na_values={name: [""] if name in texts else list(missing) for name in layout.names},
        )  # fmt: skip
        return iter([found]) if isinstance(found, pd.DataFrame) else iter(found)

    parsed = list(pieces(None, PIECE_ROWS))
    if len(parsed) == 1:
        return parsed[0]
    kinds = {name: {_kind(piece[name]) for piece in parsed} for name in layout.names}
    mixed = [n for n, found in kinds.items() if len(found) > 1 and found != {"number", "empty"}]
    frame = pd.concat(parsed, ignore_index=True) if parsed else pd.DataFrame(columns=layout.names)
    del parsed
    if mixed:
        frame[mixed] = next(pieces(mixed, None))[mixed]
    return frame


def _kind(column: pd.Series) -> str:
    """The type of a column in one piece; numbers of all types are joined without a change."""
    if column.isna().all():
        return "empty"
    if pd.api.types.is_bool_dtype(column):
        return "bool"
    return "number" if pd.api.types.is_numeric_dtype(column) else "text"


def _labels(column: pd.Series) -> pd.Series:
    """A column that was read as text: numbers where all values are written plainly as such, else
    the text as it is, of which only an empty one is missing."""
    codes, found = pd.factorize(column)
    texts = [str(text).strip() for text in found]
    empty = [text in MISSING for text in texts]
    known = [text for text, absent in zip(texts, empty, strict=True) if not absent]
    whole = all(map(_WHOLE.fullmatch, known))
    if not known or not (whole or all(map(_is_number, known))):
        return column.str.strip()
    values = [np.nan if absent else float(t) for t, absent in zip(texts, empty, strict=True)]
    fractions = any(value % 1 for value in values if value == value)
    if not whole and not fractions and len(known) <= MOST_CLASSES:
        return column.str.strip()  # 01, 1E5, 1.0: as numbers they would not come back the same
    if whole and not any(empty) and (codes >= 0).all():
        return pd.Series(np.array([int(text) for text in texts])[codes], index=column.index)
    return pd.Series(np.append(values, np.nan)[codes], index=column.index, dtype=np.float64)
