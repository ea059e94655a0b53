"""Tables that are too large for memory: frames whose columns lie in files, and are read from there.

A frame stays a frame, so that whoever asks for a column finds the same values as of a small table.
Numbers, dates, booleans and texts are in a file; columns of Python objects, of categories, of
nullable numbers and of dates with a time zone stay in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nas.data.decoded import scratch
from nas.data.limits import resident_limit

ALIGNED = 64  # bytes, where each piece of memory begins in its file, as Arrow has it


def is_large(rows: int, columns: int) -> bool:
    """Whether a table of so many values has to be kept in files."""
    return 8 * rows * columns > resident_limit()


def by_columns(
    read: Callable[[list[Any]], pd.DataFrame], names: Sequence[Any], rows: int
) -> pd.DataFrame:
    """A table of which only a few columns are in memory at a time.

    Args:
        read: Reads the columns of these names, all of ``rows`` rows and with the same index.
        names: All of them; as many are read at once as ``resident_limit`` allows, one at least.
        rows: Of the table.

    Raises:
        InputError: The disk has no room for it.

    >>> frame = pd.DataFrame({"x": [0.5, 1.5], "name": ["a", "b"]})
    >>> by_columns(lambda names: frame[names], ["x", "name"], 2).equals(frame)
    True
    """
    import pyarrow as pa

    step = max(1, resident_limit() // max(1, 8 * rows))
    columns: dict[Any, pd.Series] = {}
    index: pd.Index | None = None
    for start in range(0, len(names), step):
        piece = _in_file(read(list(names[start : start + step])))
        index = piece[0].index if index is None else index
        columns |= {column.name: column.set_axis(index) for column in piece}
        pa.default_memory_pool().release_unused()  # which Arrow keeps for the next columns
    return pd.DataFrame(columns, index, copy=False)


def _in_file(frame: pd.DataFrame) -> list[pd.Series]:
    """The columns of a frame, with the values of those that can be in one new file."""
    columns = [frame.iloc[:, i] for i in range(frame.shape[1])]
    parted = [_parted(column) for column in columns]
    size = sum(_room(piece) for pieces, _ in parted for piece in pieces)
    file, end = scratch((size,), np.uint8) if size else np.empty(0, np.uint8), 0
    found = []
    for column, (pieces, of) in zip(columns, parted, strict=True):
        moved = []
        for piece in pieces:
            moved.append(file[end : end + piece.nbytes])
            moved[-1][:] = piece
            end += _room(piece)
        found.append(pd.Series(of(moved), column.index, name=column.name, copy=False))
    return found


def _room(piece: np.ndarray) -> int:
    return -(-piece.nbytes // ALIGNED) * ALIGNED


def _parted(column: pd.Series) -> tuple[list[np.ndarray], Callable[[list[np.ndarray]], Any]]:
    """The bytes that a column's values are in, and what makes an array of them again; no bytes of
    a column that stays in memory."""
    import pyarrow as pa

    kind, array = column.dtype, column.array
    if isinstance(kind, np.dtype) and not kind.hasobject:
        values = np.ascontiguousarray(column.to_numpy())
        return [values.view(np.uint8)], lambda pieces: np.asarray(pieces[0]).view(kind)
    if not isinstance(array, pd.arrays.ArrowStringArray):  # of texts, from pandas 3.0 on
        return [], lambda _: array
    texts = pa.array(column)
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    buffers = texts.buffers()
    absent = buffers[0] is None  # where no text is missing

    def of(pieces: list[np.ndarray]) -> Any:
        kept = [*([None] if absent else []), *map(pa.py_buffer, pieces)]
        same = pa.Array.from_buffers(texts.type, len(texts), kept, texts.null_count, texts.offset)
        return pd.array(same, dtype=kind)

    return [np.frombuffer(buffer or b"", np.uint8) for buffer in buffers[absent:]], of
