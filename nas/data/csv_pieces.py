"""CSV files piece by piece: new rows to predict, and tables that are too large for memory."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from nas import terminal
from nas.data.csv_files import (
    MISSING,
    Layout,
    binary,
    check_names,
    check_widths,
    hides_delimiters,
    labels_of,
    layout_of,
    parsed,
    with_points,
)
from nas.data.decoded import SHOWN_S, folder, new_file
from nas.data.limits import GIB, resident_limit
from nas.data.mapped import by_columns
from nas.task import InputError

PIECES = 16  # of the memory that a table may take: one is parsed at a time
FEWEST_ROWS = 100  # of a piece
UNPACKED = 4  # bytes of a table for each of its .gz


def is_large(path: Path) -> bool:
    """Whether a CSV file is too large to be parsed at once: a value takes about as many bytes in
    memory as in the file."""
    packed = path.suffix.lower() == ".gz"
    return path.stat().st_size * (UNPACKED if packed else 1) > resident_limit()


def read_csv_pieces(
    path: Path, rows: int, as_written: Collection[str], missing: Sequence[str] = MISSING
) -> Iterator[pd.DataFrame]:
    """The rows of a CSV or TSV file, ``rows`` at a time; arguments and errors as for ``read_csv``.
    Each piece has the types that its own rows say."""
    layout = _even(path)
    texts = [name for name in layout.names if name in as_written]
    empty = True
    with parsed(path, layout, texts, missing, **_by_rows(rows)) as reader:
        for piece in reader:
            empty = False
            found = piece.reset_index(drop=True)
            for name in texts:
                found[name] = labels_of(found[name])
            yield with_points(found, layout, texts)
    if empty:
        raise InputError(f"{path} holds no rows")


def read_large_csv(
    path: Path,
    missing: Sequence[str],
    as_written: Collection[str] = (),
    targets: Collection[str] = (),
) -> pd.DataFrame:
    """All rows of a CSV or TSV file, a few columns at a time in memory; arguments, errors and
    values as of ``read_csv``.

    The file is parsed once, in pieces, which lie in files until the end. A column whose pieces are
    of several types, as of numbers with a word among the last rows, is parsed once more as text.
    """
    layout = _even(path)
    texts = [name for name in layout.names if name in as_written]
    with ExitStack() as stack:
        kept = _kept(path, layout, texts, missing, stack)
        mixed = [name for name, kinds in kept.kinds.items() if len(kinds) > 1]
        as_text = {"dtype": dict.fromkeys(mixed, "str"), "usecols": mixed}
        again = _kept(path, layout, texts, missing, stack, **as_text) if mixed else kept

        def column(name: str) -> pd.Series:
            if name in mixed:
                return _numbers_or_texts(again.column(name))
            return labels_of(kept.column(name)) if name in texts else kept.column(name)

        def read(names: list[str]) -> pd.DataFrame:
            found = pd.DataFrame({name: column(name) for name in names})
            return with_points(found, replace(layout, names=names), {*texts} - {*targets})

        return by_columns(read, layout.names, kept.rows)


class _Kept:
    """The pieces of a table in files, and of what kinds each of its columns is in them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.files: list[Path] = []
        self.rows = 0
        self.kinds: dict[str, set[str]] = {name: set() for name in names}

    def add(self, piece: pd.DataFrame, file: Path) -> None:
        piece = piece.reset_index(drop=True)
        for name in map(str, piece):
            kind = _kind(piece[name])
            self.kinds[name] |= {kind} - {""}
            if kind == "integer":  # of more than 64 bits, which is no type of a file
                self.kinds[name].add("number")
                piece[name] = piece[name].astype("str")
        piece.to_feather(file)
        self.files.append(file)
        self.rows += len(piece)

    def column(self, name: str) -> pd.Series:
        """All rows of a column. A piece without a value, which pandas reads as numbers, has the
        type of the others."""
        parts = [pd.read_feather(file, columns=[name])[name] for file in self.files]
        other: Any = next((part.dtype for part in parts if part.dtype.kind not in "fiu"), None)
        if other is not None:
            other = object if other.kind == "b" else other
            parts = [part.astype(other) if part.dtype.kind == "f" else part for part in parts]
        found: pd.Series = pd.concat(parts, ignore_index=True)
        return found.where(found.notna()) if found.dtype == object else found  # Arrow has None


def _kept(
    path: Path,
    layout: Layout,
    texts: list[str],
    missing: Sequence[str],
    stack: ExitStack,
    **how: Any,
) -> _Kept:
    """The pieces of a table in files that go with ``stack``; ``how`` as of ``parsed``. Says how far
    it is."""
    kept, size = _Kept(how.get("usecols", layout.names)), path.stat().st_size
    rows = resident_limit() // (PIECES * 8 * len(layout.names))
    how |= _by_rows(max(FEWEST_ROWS, rows))
    begin = shown = time.monotonic()
    with binary(path) as stream, parsed(stream, layout, texts, missing, **how) as reader:
        for piece in reader:
            try:
                file = new_file(".arrow")
                stack.callback(file.unlink, missing_ok=True)
                kept.add(piece, file)
            except OSError as error:
                raise InputError(
                    f"{path}: its {size / GIB:,.1f} GiB are read by way of files in {folder()}"
                    f" ({error.strerror}); set NAS_DECODED to a folder with room for them"
                ) from None
            if (now := time.monotonic()) - shown > SHOWN_S:
                left = ""
                if path.suffix.lower() != ".gz":
                    left_s = (now - begin) * (size / max(1, stream.tell()) - 1)
                    left = f", about {left_s:,.0f} s left"
                terminal.line(f"{path}: {kept.rows:,} rows are read{left}", err=True)
                shown = now
    if not kept.rows:
        raise InputError(f"{path} holds no rows")
    return kept


def _even(path: Path) -> Layout:
    """How a file is written; InputError where a row is wider or narrower than its header."""
    layout = layout_of(path)
    check_names(layout.names, str(path))
    check_widths(path, layout)
    return replace(layout, spaced=True) if hides_delimiters(path, layout) else layout


def _by_rows(rows: int) -> dict[str, Any]:
    return {"index_col": False, "chunksize": rows, "low_memory": False}


def _kind(column: pd.Series) -> str:
    """What a piece of a column holds, of what pandas tells apart; "" where it has no value."""
    if column.dtype.kind in "fiu":
        return "" if column.isna().all() else "unsigned" if column.dtype.kind == "u" else "number"
    kind = str(pd.api.types.infer_dtype(column, skipna=True))
    return "" if kind == "empty" else kind


def _numbers_or_texts(column: pd.Series) -> pd.Series:
    """A column of texts as numbers where all are, as pandas has it of a whole file."""
    try:
        return pd.to_numeric(column)
    except ValueError:
        return column
