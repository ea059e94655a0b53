"""Samples of different lengths: stored end to end, batched padded or packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Layout = Literal["padded", "packed"]
PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
LONG = 256  # values of a sample, on average, from which on samples are copied one by one


@dataclass(frozen=True)
class Ragged:
    """``n`` samples: ``values`` (total, …) end to end, ``offsets`` int64 (n + 1,) between them.

    A batch of a "padded" input is (B, T, …), filled with zeros, beside its lengths (B,); one
    of a "packed" input is the samples end to end, (total, …), beside its lengths (B,). The
    values of a packed input with ``into`` number the rows of that input within the same
    sample (edges: of "nodes") and are shifted to number the rows of the batch.
    """

    values: np.ndarray
    offsets: np.ndarray
    layout: Layout = "padded"
    into: str = ""

    @classmethod
    def of(cls, samples: Sequence[np.ndarray], layout: Layout = "padded", into: str = "") -> Ragged:
        """From one array (length, …) for each sample; all agree in type and other axes."""
        lengths = [len(sample) for sample in samples]
        return cls(np.concatenate(samples), _offsets(lengths), layout, into)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        """The values of one sample, (length, …)."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray | slice) -> Ragged:
        """The given samples, in the given order."""
        lengths = self.lengths[rows]
        starts = self.offsets[:-1][rows]
        new = _offsets(lengths)
        if new[-1] > LONG * len(lengths):  # an index of each value would be larger than these
            values = np.empty((int(new[-1]), *self.values.shape[1:]), self.values.dtype)
            for start, begin, end in zip(starts.tolist(), new[:-1], new[1:], strict=True):
                values[begin:end] = self.values[start : start + end - begin]
        else:
            index = np.arange(new[-1]) + np.repeat(starts - new[:-1], lengths)
            values = np.asarray(self.values[index])
        return Ragged(values, new, self.layout, self.into)


@dataclass(frozen=True)
class Whole:
    """What all samples share and every batch is given as it is: the graph around its nodes."""

    values: np.ndarray


Input = np.ndarray | Ragged | Whole


def percentiles(lengths: np.ndarray) -> tuple[int, ...]:
    """The lengths at ``PERCENTILES``, as ``DataProfile.lengths`` holds them."""
    return tuple(int(v) for v in np.percentile(lengths, PERCENTILES, method="nearest"))


def _offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
