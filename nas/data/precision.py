"""Numbers far from zero: what float32 would round away, and what is subtracted to keep it.

float32 has 24 bits of mantissa, so the seconds of a timestamp (1.7e9) fall onto a grid of
128 and coordinates in metres (5e6) onto one of 0.5. Where that grid is coarse beside the
spread of the values, a reader subtracts a constant in float64 before it casts.
"""

from __future__ import annotations

import numpy as np

COARSE = 1e-5  # of the spread: a coarser grid of float32 is worth a shift
LOST = 0.1  # of the distinct values, from which on they count as rounded away
ENOUGH = 2**16  # values that are kept apart: nobody misses those between
LARGEST = float(np.finfo(np.float32).max)


def spacing(values: np.ndarray) -> np.ndarray:
    """The distance from each value to the next one in float32; float64, shaped like ``values``."""
    with np.errstate(over="ignore", invalid="ignore"):
        grid: np.ndarray = np.spacing(np.abs(values).astype(np.float32)).astype(np.float64)
    return grid


def distinct_lost(values: np.ndarray) -> float:
    """The fraction of the distinct values (n,), all finite, that float32 does not keep apart;
    0.0 where it keeps ``ENOUGH``."""
    with np.errstate(over="ignore"):
        if len(np.unique(values[: 2 * ENOUGH].astype(np.float32))) >= ENOUGH:
            return 0.0  # without sorting all of a long column
        small = values.astype(np.float32)
    if np.array_equal(small, values) or (kept := len(np.unique(small))) >= ENOUGH:
        return 0.0
    return 1 - kept / len(np.unique(values))


def column_shift(values: np.ndarray) -> float:
    """What to subtract from a column before it becomes float32; 0.0 where float32 is enough.

    ``values`` float64 (n,) are the known, finite ones of the training part. The shift is
    their median, rounded to float32's grid so that it is a short number; it is taken where
    float32 merges more than ``LOST`` of the distinct values and its grid at the median is
    coarser than ``COARSE`` of the quartiles' distance.
    """
    if not len(values) or distinct_lost(values) <= LOST:
        return 0.0
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    if np.abs(middle) > np.finfo(np.float32).max or spacing(middle) <= COARSE * (high - low):
        return 0.0
    return float(np.float32(middle))


def narrowed(values: np.ndarray) -> np.ndarray:
    """An array (n, k) of numbers as float32, or as float64 where its columns may lose by that."""
    return values.astype(np.float64 if needs_float64(values) else np.float32)


def needs_float64(values: np.ndarray) -> bool:
    """Whether the columns of an array (n, k) may lose by a cast to float32: its grid at the
    largest value is coarser than ``COARSE`` of a column's standard deviation."""
    if values.dtype.kind == "b" or values.dtype.itemsize < 4 or values.dtype == np.float32:
        return False
    known = np.where(np.isfinite(values), values, 0).astype(np.float64)
    if not len(known) or np.array_equal(known.astype(np.float32), known):
        return False
    spread = known.std(axis=0)
    coarse = spacing(np.abs(known).max(axis=0)) > COARSE * spread
    return bool((coarse & (spread > 0)).any())
