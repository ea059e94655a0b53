"""Tables: files and objects in memory to one frame with unique column names."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import pandas as pd

from nas.data.csv_files import MISSING, read_csv, refuse_duplicates
from nas.data.csv_pieces import is_large, read_large_csv
from nas.data.forms import READERS, plain_frame, refuse_large_gzip
from nas.data.samples import to_numpy
from nas.task import InputError

CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
SUFFIXES = (*CSV, ".jsonl", ".jsonl.gz", *READERS)


def is_table(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def read_table(
    path: Path,
    rows: int | None = None,
    missing: Sequence[str] = MISSING,
    as_written: Collection[str] = (),
    targets: Collection[str] = (),
) -> pd.DataFrame:
    """The rows (or the first of them) of one CSV, TSV or JSONL (also .gz), Parquet, Feather, JSON
    or Excel file, under unique column names. ``missing`` are the texts of a CSV or Excel file for a
    value that is not there; ``as_written`` and ``targets`` its columns of labels, see ``read_csv``.
    """
    if path.exists() and not path.is_file():  # to open a pipe would wait for ever
        raise InputError(f"{path} is no file; name a table")
    with in_one_line(path):
        if path.suffix.lower() == ".gz":
            refuse_large_gzip(path)
        if reader := READERS.get(path.suffix.lower()):
            frame = reader(path, rows, missing, as_written)
            refuse_duplicates(list(frame.columns), str(path))
        elif path.name.lower().endswith((".jsonl", ".jsonl.gz")):
            frame = pd.read_json(path, lines=True, dtype=False, convert_dates=False, nrows=rows)
            frame.columns = [str(name) for name in frame.columns]
        elif rows is None and is_large(path):
            frame = read_large_csv(path, missing, as_written, targets)
        else:
            frame = read_csv(path, rows, missing, as_written, targets)
    if frame.empty:
        raise InputError(f"{path} holds no rows")
    return frame


@contextmanager
def in_one_line(path: Path) -> Iterator[None]:
    """What libraries raise for a table that cannot be read, as InputError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from None
    except InputError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zlib.error, csv.Error, BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read: {reason}") from None


def frame_of(x: Any) -> pd.DataFrame:
    """A frame as it is; the columns of a 2-D array are called x0, x1, …"""
    if isinstance(x, pd.DataFrame):
        refuse_duplicates(list(x.columns), "the table")
        frame = plain_frame(x).reset_index(drop=True)
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
