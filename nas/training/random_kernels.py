"""Features of sequences for simple models: MiniRocket's, and statistics.

Dempster et al. 2021, "MiniRocket: A Very Fast (Almost) Deterministic Transform for Time Series
Classification": convolutions with the 84 kernels of nine weights of which three are 2 and six -1,
at several dilations, of which each feature is the fraction of the steps that are above a bias. The
biases are quantiles of the convolution of a training sequence. Kernels of several channels sum over
a random few of them (Dempster et al.'s code for multivariate data).
"""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np

from nas.data.ragged import Ragged

FEATURES = 9_996  # as the paper, sec. 3.3
KERNELS = np.array(list(combinations(range(9), 3)))  # where each kernel has its weights of 2
MOST_DILATIONS = 32
COMPARISONS = 4e9  # of all samples, steps and features, beyond which there are fewer features
GOLDEN = (math.sqrt(5) + 1) / 2  # its multiples spread the quantiles evenly (sec. 3.1.3)


def mini_rocket(series: Ragged, train: np.ndarray, seed: int = 0) -> np.ndarray:
    """Features float32 (n, k) of each sequence, whose biases come from the rows ``train``.

    Sequences that are shorter than the dilated kernels see zeros around them.
    """
    lengths = series.lengths
    size, channels = max(int(np.median(lengths[train])), 9), series.values.shape[1]
    total = int(lengths.sum())
    wanted = min(FEATURES, max(len(KERNELS), int(COMPARISONS / max(total, 1))))
    each = max(1, wanted // len(KERNELS))
    dilations, counts = _dilations(size, each)
    rng = np.random.default_rng(seed)
    most = min(channels, 9)
    parts = []
    place = 0
    padded = np.zeros((len(series), int(lengths.max()), channels), np.float32)
    for i in range(len(series)):
        padded[i, : lengths[i]] = series[i]
    real = np.arange(padded.shape[1]) < lengths[:, None]
    for dilation, count in zip(dilations, counts, strict=True):
        taps = _taps(padded, int(dilation))  # (9, n, T, channels)
        ones = taps.sum(axis=0)
        for kernel in KERNELS:
            chosen = np.arange(channels)
            if channels > 1:
                few = int(2 ** rng.uniform(0, math.log2(most + 1)))
                chosen = rng.choice(channels, few, replace=False)
            # Six weights of -1 and three of 2: three times those three, less all nine.
            convolved = 3 * taps[kernel][..., chosen].sum(axis=(0, -1)) - ones[..., chosen].sum(
                axis=-1
            )
            row = train[int(rng.integers(len(train)))]
            quantiles = np.arange(place + 1, place + count + 1) * GOLDEN % 1
            place += count
            bias = np.quantile(convolved[row, : lengths[row]], quantiles).astype(np.float32)
            for limit in bias:
                above = (convolved > limit) & real
                parts.append(above.sum(axis=1) / lengths)
    return np.stack(parts, axis=1).astype(np.float32)


def _dilations(size: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """The dilations for sequences of ``size`` steps, and how many of ``each`` features of a kernel
    are at each: exponentially spaced up to where a kernel is as long as a sequence (sec. 3.1.2)."""
    most = min(each, MOST_DILATIONS)
    top = math.log2(max((size - 1) / 8, 1))
    dilations, counts = np.unique(
        np.logspace(0, top, most, base=2).astype(np.int64), return_counts=True
    )
    counts = (counts * each / most).astype(np.int64)
    short = each - counts.sum()
    counts += short // len(counts)
    counts[: short % len(counts)] += 1
    return dilations, counts


def _taps(padded: np.ndarray, dilation: int) -> np.ndarray:
    """(9, n, T, channels): the steps that each of nine weights sees, zero outside."""
    reach = 4 * dilation
    wide = np.pad(padded, ((0, 0), (reach, reach), (0, 0)))
    size = padded.shape[1]
    return np.stack([wide[:, k * dilation : k * dilation + size] for k in range(9)])


def statistics(series: Ragged, stretches: int = 4, bands: int = 8) -> np.ndarray:
    """Features float32 (n, k) of each channel of a sequence: mean, deviation, quantiles, slope,
    roughness and crossings of the whole and the mean and deviation of ``stretches`` of it, and how
    much of its variation is in each of ``bands`` of frequencies; and its length."""
    return np.stack([_described(series[i], stretches, bands) for i in range(len(series))])


def _described(x: np.ndarray, stretches: int, bands: int) -> np.ndarray:
    least = max(len(x), 2 * bands, stretches)  # a very short one stands still
    x = x[np.arange(least) * len(x) // least].astype(np.float64)
    time = np.linspace(-1, 1, len(x))[:, None]
    centred = x - x.mean(axis=0)
    change = np.diff(x, axis=0)
    parts = [
        x.mean(axis=0),
        x.std(axis=0),
        *np.quantile(x, (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1), axis=0),
        (centred * time).mean(axis=0),
        abs(change).mean(axis=0),
        change.std(axis=0),
        (np.diff(centred > 0, axis=0)).mean(axis=0),
        x[0],
        x[-1],
    ]
    for stretch in np.array_split(x, stretches):
        parts += [stretch.mean(axis=0), stretch.std(axis=0)]
    power = abs(np.fft.rfft(centred, axis=0)[1:]) ** 2
    edges = np.geomspace(1, len(power) + 1, bands + 1).astype(int) - 1
    edges = np.maximum.accumulate(np.maximum(edges, np.arange(bands + 1)))
    total = power.sum(axis=0) + 1e-12
    for low, high in pairwise(edges):
        parts.append(power[low : max(high, low + 1)].sum(axis=0) / total)
    row = np.concatenate([*parts, [len(x)]])
    return row.astype(np.float32)
