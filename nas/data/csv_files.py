"""CSV files: the delimiter, the header, and rows that do not fit it.

pandas pads short rows and shifts long ones without a word. Where its result shows that this may
have happened the delimiters of all rows are counted, and a row that does not fit is named with
its line.
"""

from __future__ import annotations

import csv
import gzip
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

import numpy as np
import pandas as pd

from nas.task import InputError

BOM = b"\xef\xbb\xbf"
DELIMITERS = ",;\t|"
MISSING = ("", "?", "NA", "N/A", "n/a", "nan", "NaN", "NULL", "null", "<NA>", "#N/A")
CHUNK_BYTES = 2**23  # of a file: checked at once
MOST_CHUNKS = 16  # of one row
MOST_CLASSES = 1000  # distinct numbers up to which a column of labels is kept as it is written
_DECLARED = re.compile(r"""^["']?sep=(.|\\t)["']?\s*$""")  # a first line for spreadsheets
csv.field_size_limit(2**31 - 1)  # by default a text of 131,073 letters is refused
_WHOLE = re.compile(r"-?[1-9]\d{0,17}|0")
_THOUSANDS = re.compile(r"-?[1-9]\d{0,2}(\.\d{3})+")  # 1.118, which may be 1118


@dataclass(frozen=True)
class Layout:
    """How a file is written: its column names, its delimiter, and the lines before the header."""

    names: list[str]
    delimiter: str
    skipped_lines: int = 0
    spaced: bool = True  # whether values may begin with spaces, which are slow to skip


def read_csv(
    path: Path,
    rows: int | None,
    missing: Sequence[str],
    as_written: Collection[str] = (),
    targets: Collection[str] = (),
) -> pd.DataFrame:
    """The rows of a CSV or TSV file (also .gz), or the first of them.

    Args:
        path: The file. The delimiter is a comma, semicolon, tab or bar, whichever fits its first
            rows; a first line "sep=;" declares it.
        rows: How many are read at most; None for all.
        missing: Texts for a value that is not there.
        as_written: Columns of labels, where "01" is no 1 and "NA" no missing value: they are
            text unless all of their values are plain numbers.
        targets: Those of them that may be numbers with decimal commas, see ``with_points``.

    Raises:
        InputError: For an empty file, for a row that is wider or narrower than the header, and
            where the header names a column twice or holds numbers.
    """
    layout = layout_of(path)
    names = layout.names
    check_names(names, str(path))
    texts = [name for name in names if name in as_written]
    if rows is not None:
        _check_rows(path, layout, rows)
        how = {"index_col": False, "nrows": rows, "low_memory": False}
        found = parsed(path, layout, texts, missing, **how)
    else:
        found = _parsed_if_even(path, layout, texts, missing)
        mixed = [n for n in names if n not in texts and _is_mixed(found[n], missing)]
        if mixed:
            again = parsed(
                path, layout, [], missing, index_col=False, low_memory=False, usecols=mixed
            )
            found[mixed] = again[mixed]
    for name in texts:
        found[name] = labels_of(found[name])
    return with_points(found, layout, {*texts} - {*targets})


def read_texts(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """Columns of a CSV or TSV file as texts, whatever they hold."""
    layout = replace(layout_of(path), spaced=True)
    found: pd.DataFrame = parsed(path, layout, [*names], [], index_col=False, usecols=[*names])
    return found[[*names]]


def with_points(found: pd.DataFrame, layout: Layout, kept: Collection[str]) -> pd.DataFrame:
    """Decimal commas as points, in a file with semicolons, where commas may also group thousands;
    not in the columns ``kept``. Other commas are read as of any table, see ``columns.numbers``."""
    if layout.delimiter == ";":
        from nas.data.columns import with_decimal_commas  # which needs this module

        for name in layout.names:
            if name not in kept and not pd.api.types.is_numeric_dtype(found[name]):
                found[name] = with_decimal_commas(found[name])
    return found


def refuse_duplicates(names: Sequence[object], where: str) -> None:
    """Raise InputError where two columns have one name."""
    double = sorted(name for name, count in Counter(map(str, names)).items() if count > 1)
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


def binary(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked."""
    packed = path.suffix.lower() == ".gz"
    return cast(BinaryIO, gzip.open(path, "rb")) if packed else path.open("rb")


def _text(path: Path) -> TextIO:
    packed = path.suffix.lower() == ".gz"
    if packed:
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def layout_of(path: Path) -> Layout:
    """How a file is written, by its first lines; InputError where it is empty."""
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
    spaced = any(f"{delimiter} " in line or line.startswith(" ") for line in lines)
    return Layout(header, delimiter, 1 if declared else 0, spaced)


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


class _Uncountable(Exception):  # noqa: N818
    """The rows of a file have to be read one by one: to name a wrong one, or to see that quotes
    stand in the middle of values."""


def check_widths(path: Path, layout: Layout) -> None:
    """Raise InputError for a row that is wider or narrower than the header."""
    try:
        _count_delimiters(path, layout)
    except _Uncountable:
        _check_rows(path, layout, None)


def _check_rows(path: Path, layout: Layout, rows: int | None) -> None:
    """Raise InputError that names the first line which is wider or narrower than the header."""
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


def hides_delimiters(path: Path, layout: Layout) -> bool:
    """Whether quotes behind a space hold a delimiter or the end of a line, at which pandas divides
    the value, as it does not skip spaces."""
    sign = re.escape(layout.delimiter).encode()
    held = re.compile(rb'(?:^|%b) +"(?:[^"\n%b]|"")*[\n%b]' % (sign, sign, sign))
    with binary(path) as lines:
        return not layout.spaced and any(b' "' in x and held.search(x) for x in lines)


def _count_delimiters(path: Path, layout: Layout) -> None:
    """Raise _Uncountable where a row has more or fewer delimiters outside quotes than the header,
    and where that cannot be said by counting."""
    left = layout.skipped_lines
    with binary(path) as stream:
        begun = stream.read(len(BOM)).removeprefix(BOM)  # of the row that a chunk ends in
        while read := stream.read(CHUNK_BYTES):
            chunk = begun + read
            if len(chunk) > MOST_CHUNKS * CHUNK_BYTES:
                raise _Uncountable
            ends = _row_ends(chunk, layout, left)
            left = max(0, left - len(ends))
            begun = chunk[int(ends[-1]) + 1 :] if len(ends) else chunk
    if begun and not begun.isspace() and not len(_row_ends(begun + b"\n", layout, left)):
        raise _Uncountable  # a quote is left open


def _row_ends(chunk: bytes, layout: Layout, skipped: int) -> np.ndarray:
    """The positions of the line feeds that end a row, in bytes that begin with one; the first
    ``skipped`` rows may have any width.

    Raises _Uncountable, see ``_count_delimiters``.
    """
    signs = np.frombuffer(chunk, np.uint8)
    ends = signs == 10
    delimiters = signs == ord(layout.delimiter)
    if b'"' in chunk:
        # The parity of the quotes so far; the counts may wrap around at 256.
        quotes = signs == 34
        inside = np.cumsum(quotes, dtype=np.uint8)
        inside &= 1
        if not _open_values(signs, np.flatnonzero(quotes & inside), ord(layout.delimiter)):
            raise _Uncountable
        outside = inside == 0
        ends &= outside
        delimiters &= outside
    at = np.flatnonzero(ends)
    if not len(at):
        return at
    if b"\r" in chunk and chunk.count(b"\r", 0, at[-1]) > chunk.count(b"\r\n", 0, at[-1] + 1):
        raise _Uncountable  # a carriage return alone ends a row, too
    # The delimiters from each line's end to the next.
    counts = np.add.reduceat(delimiters, at, dtype=np.int32)
    counts[1:] = counts[:-1]
    counts[0] = np.count_nonzero(delimiters[: at[0]])
    lengths = np.diff(at, prepend=-1) - 1
    returns = (at > 0) & (signs[np.maximum(at - 1, 0)] == 13)
    odd = (counts != len(layout.names) - 1) & (lengths - returns > 0)
    odd[:skipped] = False
    if odd.any():
        raise _Uncountable
    return at


def _open_values(signs: np.ndarray, opening: np.ndarray, delimiter: int) -> bool:
    """Whether all quotes that open something stand at the start of a value, or double the quote
    before them. Elsewhere a quote is a sign like any other."""
    before = opening[opening > 0] - 1
    before = before[signs[before] != 34]
    while (spaces := (signs[before] == 32) & (before > 0)).any():
        before = before - spaces
    return bool(np.isin(signs[before], (delimiter, 10, 13, 32)).all())


# Values ----------------------------------------------------------------------------------


def _parsed_if_even(
    path: Path, layout: Layout, texts: list[str], missing: Sequence[str]
) -> pd.DataFrame:
    """The frame, if all rows are as wide as the header; else InputError."""
    try:
        found: pd.DataFrame = parsed(path, layout, texts, missing)
    except pd.errors.ParserError:  # a row is wider than those before it, or a quote is left open
        check_widths(path, layout)
    else:
        # pandas takes the first values of rows that are all too wide for an index, and a row that
        # is too narrow has no last value. To count all rows takes as long as to parse them.
        indexed = not isinstance(found.index, pd.RangeIndex)
        if not indexed and not found[layout.names[-1]].isna().any():
            return found
        check_widths(path, layout)
        if not indexed and not hides_delimiters(path, layout):
            return found
    spaced = replace(layout, spaced=True)  # a quote after a space
    again: pd.DataFrame = parsed(path, spaced, texts, missing, index_col=False)
    return again


def parsed(
    source: Path | BinaryIO, layout: Layout, texts: list[str], missing: Sequence[str], **how: Any
) -> Any:
    """What pandas reads, by the options that decide on values; more of them in ``how``."""
    how = {"dtype": dict.fromkeys(texts, "str")} | how
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # see ``_is_mixed``
        return pd.read_csv(
            source, sep=layout.delimiter, names=layout.names, header=0,
            skiprows=layout.skipped_lines, skipinitialspace=layout.spaced, encoding="utf-8-sig",
            keep_default_na=False, na_values={name: [""] if name in texts else list(missing)
            for name in layout.names}, **how,
        )  # fmt: skip


def _is_mixed(column: pd.Series, missing: Sequence[str]) -> bool:
    """Whether a column may have been of several types in the parts that pandas parses a file in,
    which is twice as fast as at once: then it has to be read again as a whole."""
    if pd.api.types.is_float_dtype(column):  # unsigned integers beside others become floats
        return len(column) > 0 and bool(np.fmax.reduce(column.to_numpy()) >= 2**63)
    if pd.api.types.is_bool_dtype(column) or pd.api.types.is_numeric_dtype(column):
        return False
    if column.dtype == object and pd.api.types.infer_dtype(column, skipna=True) != "string":
        return True
    if column.dtype == object and pd.Series(["text"]).dtype != object:
        return True  # text beside a part without a value
    first = column.first_valid_index()
    # Beside a missing value pandas reads 2**63 as text, and the missing one, too.
    unsigned = first is not None and (column[first] in missing or _is_number(column[first]))
    return unsigned and bool(column.isin(missing).any())


def labels_of(column: pd.Series) -> pd.Series:
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
    grouped = all(_WHOLE.fullmatch(t) or _THOUSANDS.fullmatch(t) for t in known)
    if not whole and (grouped or not fractions) and len(known) <= MOST_CLASSES:
        return column.str.strip()  # as numbers 01, 1E5 and 1.0 would not come back the same
    if whole and not any(empty) and (codes >= 0).all():
        return pd.Series(np.array([int(text) for text in texts])[codes], index=column.index)
    return pd.Series(np.append(values, np.nan)[codes], index=column.index, dtype=np.float64)
