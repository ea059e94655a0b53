"""Features of sequences for simple models: MiniRocket's, and statistics.

Dempster et al. 2021, "MiniRocket: A Very Fast (Almost) Deterministic Transform for Time Series
Classification": convolutions with the 84 kernels of nine weights of which three are 2 and six -1,
at several dilations, of which each feature is the fraction of the steps that are above a bias. The
biases are quantiles of the convolution of a training sequence. Kernels of several channels sum over
a random few of them (Dempster et al.'s code for multivariate data).
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np

from nas.data.ragged import Ragged
from nas.models.random_kernels import GOLDEN, KERNELS, MOST_CHANNELS, spaced

FEATURES = 9_996  # as the paper, sec. 3.3
WEIGHTS = np.array(KERNELS)  # where each kernel has its three of 2
MOST_DILATIONS = 32
CHUNK = 512  # samples whose convolutions are in memory at a time
# Of all samples, steps and features, and of samples and features: beyond them there are fewer
# features.
COMPARISONS, VALUES = 4e9, 2e7


def mini_rocket(series: Ragged, train: np.ndarray, seed: int = 0) -> np.ndarray:
    """Features float32 (n, k) of each sequence, whose biases come from the rows ``train``.

    Sequences that are shorter than the dilated kernels see zeros around them.
    """
    lengths = series.lengths
    size = max(int(np.median(lengths[train])), 9)
    most = min(FEATURES, COMPARISONS / max(int(lengths.sum()), 1), VALUES / len(series))
    kernels = _fitted(series, train, size, max(1, int(most / len(WEIGHTS))), seed)
    features = np.empty((len(series), sum(len(bias) for *_, bias in kernels)), np.float32)
    for start in range(0, len(series), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(series)))
        features[rows] = _fractions(series.take(rows), kernels)
    return features


# A kernel: its dilation, where its weights of 2 are, its channels, and its biases.
_Kernel = tuple[int, np.ndarray, np.ndarray, np.ndarray]


def _fitted(series: Ragged, train: np.ndarray, size: int, each: int, seed: int) -> list[_Kernel]:
    """The kernels, each with the quantiles of what it makes of one training sequence."""
    rng = np.random.default_rng(seed)
    channels = series.values.shape[1]
    kernels: list[_Kernel] = []
    place = 0
    for dilation, count in _dilations(size, each).items():
        for weights in WEIGHTS:
            chosen = np.arange(channels)
            if channels > 1:  # few of them more often than many
                few = int(2 ** rng.uniform(0, math.log2(min(channels, MOST_CHANNELS) + 1)))
                chosen = rng.choice(channels, few, replace=False)
            sample = series[int(train[int(rng.integers(len(train)))])]
            taps = _taps(sample[None, :, chosen], int(dilation))
            quantiles = np.arange(place + 1, place + count + 1) * GOLDEN % 1
            place += count
            bias = np.quantile(_convolved(taps, weights), quantiles).astype(np.float32)
            kernels.append((int(dilation), weights, chosen, bias))
    return kernels


def _fractions(series: Ragged, kernels: list[_Kernel]) -> np.ndarray:
    """(n, k): of each sequence the fraction of its steps that are above each bias."""
    lengths = series.lengths
    padded = np.zeros((len(series), int(lengths.max()), series.values.shape[1]), np.float32)
    for i in range(len(series)):
        padded[i, : lengths[i]] = series[i]
    real = np.arange(padded.shape[1]) < lengths[:, None]
    parts = []
    taps, before = np.empty(0), 0
    for dilation, weights, chosen, biases in kernels:
        if dilation != before:
            taps, before = _taps(padded, dilation), dilation
        convolved = _convolved(taps[..., chosen], weights)
        parts += [((convolved > bias) & real).sum(axis=1) / lengths for bias in biases]
    return np.stack(parts, axis=1)


def _convolved(taps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Six weights of -1 and three of 2 are three times those three, less all nine; the channels
    are added up."""
    summed = taps.sum(axis=-1)
    convolved: np.ndarray = 3 * summed[weights].sum(axis=0) - summed.sum(axis=0)
    return convolved


def _dilations(size: int, each: int) -> dict[int, int]:
    """The dilations for sequences of ``size`` steps, and how many of the ``each`` features of a
    kernel are at each (sec. 3.1.2)."""
    most = min(each, MOST_DILATIONS)
    found = Counter(spaced(size, most))
    counts = [count * each // most for count in found.values()]
    short = each - sum(counts)
    for i in range(len(counts)):
        counts[i] += short // len(counts) + (i < short % len(counts))
    return dict(zip(found, counts, strict=True))


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
