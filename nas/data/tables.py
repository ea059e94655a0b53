"""Tables: files and objects in memory to one frame with unique column names."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data.samples import to_numpy
from nas.task import InputError

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet", ".pq")
MISSING = ("", "?", "NA", "N/A", "n/a", "nan", "NaN", "NULL", "null", "<NA>", "#N/A")
_DECIMAL_COMMA = re.compile(r"^\s*([+-]?\d+),(\d+(?:[eE][+-]?\d+)?)\s*$")


def is_table(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def read_table(
    path: Path, rows: int | None = None, missing: Sequence[str] = MISSING
) -> pd.DataFrame:
    """The rows (or the first of them) of one CSV, TSV or JSONL (also .gz) or Parquet file,
    under unique column names. ``missing`` are the texts of a CSV for a value that is not there.
    """
    try:
        if path.name.lower().endswith((".parquet", ".pq")):
            frame = pd.read_parquet(path)
            frame = frame if rows is None else frame.head(rows)
        elif path.name.lower().endswith((".jsonl", ".jsonl.gz")):
            frame = pd.read_json(path, lines=True, dtype=False, convert_dates=False, nrows=rows)
            frame.columns = [str(name) for name in frame.columns]
        else:
            frame = _read_csv(path, rows, missing)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from None
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zlib.error, csv.Error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read: {reason}") from None
    if frame.empty:
        raise InputError(f"{path} holds no rows")
    return frame


def _read_csv(path: Path, most: int | None, missing: Sequence[str]) -> pd.DataFrame:
    # pandas pads short rows and shifts long ones without a word; this pass names the line.
    opening = gzip.open if path.suffix.lower() == ".gz" else open
    with opening(path, "rt", encoding="utf-8-sig", newline="") as stream:
        first = stream.readline()
        if not first.strip():
            raise InputError(f"{path} is empty; expected a header line and rows")
        tab = ".tsv" in path.suffixes
        comma = "\t" if tab else max(",;\t|", key=first.count)
        stream.seek(0)
        rows = csv.reader(stream, delimiter=comma, skipinitialspace=True)
        header = [name.strip() for name in next(rows)]
        for row in rows:
            if len(row) != len(header) and row:
                raise InputError(
                    f"{path} line {rows.line_num}: {len(row)} values, but the header names"
                    f" {len(header)} columns; mend the line or put quotes around the values"
                )
            if most is not None and rows.line_num > most:
                break
    twice = len(set(header)) < len(header)
    if all(map(_is_number, header)) and (twice or "." in "".join(header)):
        raise InputError(
            f"{path}: the first line holds numbers ({', '.join(header[:4])} …), not the names of"
            " the columns; add a header line"
        )
    refuse_duplicates(header, str(path))
    frame = pd.read_csv(
        path, sep=comma, names=header, header=0, index_col=False, skipinitialspace=True, nrows=most,
        keep_default_na=False, na_values=list(missing), low_memory=False, encoding="utf-8-sig",
    )  # fmt: skip
    if comma == ";":  # spreadsheets divide by semicolons where the comma marks the decimals
        texts = [name for name in header if not pd.api.types.is_numeric_dtype(frame[name])]
        frame[texts] = frame[texts].replace(_DECIMAL_COMMA, r"\1.\2", regex=True)
    return frame


def refuse_duplicates(names: Sequence[Any], where: str) -> None:
    double = sorted({str(name) for name in names if list(names).count(name) > 1})
    if double:
        raise InputError(
            f"{where}: several columns are called {', '.join(map(repr, double))}; rename them"
        )


def _is_number(text: str) -> bool:
    try:
        return not np.isnan(float(text))
    except ValueError:
        return False


def frame_of(x: Any) -> pd.DataFrame:
    """A frame as it is; the columns of a 2-D array are called x0, x1, …"""
    if isinstance(x, pd.DataFrame):
        refuse_duplicates(list(x.columns), "the table")
        frame = x.reset_index(drop=True)
        frame.columns = [str(name) for name in frame.columns]
    else:
        array = to_numpy(x)
        if array.ndim != 2:
            raise InputError(f"a table is 2-D (rows, columns), but X has the shape {array.shape}")
        frame = pd.DataFrame(array, columns=[f"x{i}" for i in range(array.shape[1])])
        if array.dtype == object:
            frame = frame.infer_objects()
    if frame.empty:
        raise InputError("the table holds no rows or no columns")
    return frame
