"""A hash of each sample: equal for equal samples."""

from __future__ import annotations

import hashlib

import numpy as np

from nas.data.ragged import Ragged

NARROW_BYTES = 1024  # of a row, up to which its columns are hashed one by one
HASHED_ROWS = 2**14  # at once, so that they stay in the cache

_PRIME = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, as hash functions take it


def mixed(hashes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """uint64 (n,): both combined, each bit of either spread over the result."""
    both: np.ndarray = (hashes ^ values) * _PRIME  # wraps around
    both ^= both >> np.uint64(29)
    both *= _PRIME
    both ^= both >> np.uint64(32)
    return both


def row_hashes(array: np.ndarray | Ragged) -> np.ndarray:
    """uint64 (n,): equal for equal rows. Narrow rows are hashed column by column, which is fast
    for many, and wide ones each as bytes."""
    width = 0 if isinstance(array, Ragged) else array[:1].nbytes
    if isinstance(array, Ragged) or width > NARROW_BYTES:
        digests = (hashlib.blake2b(array[i].tobytes(), digest_size=8) for i in range(len(array)))
        return np.frombuffer(b"".join(each.digest() for each in digests), "<u8")
    flat = np.ascontiguousarray(array).reshape(len(array), -1)
    if len(flat) and width % 8 == 0:
        flat = flat.view(np.uint64)
    hashes = np.zeros(len(flat), np.uint64)
    for start in range(0, len(flat), HASHED_ROWS):
        block = flat[start : start + HASHED_ROWS]
        own = hashes[start : start + HASHED_ROWS]
        for column in block.T:
            own[:] = mixed(own, column.view(f"u{column.dtype.itemsize}").astype(np.uint64))
    return hashes
