"""Splits: which sample is in which part (train, val, test)."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np

from nas.data.samples import PARTS, Samples, read_parts
from nas.task import OTHER_GROUPS, InputError, UsageError

if TYPE_CHECKING:
    import pandas as pd

RATIOS = (0.70, 0.15, 0.15)
VAL = 0.15  # of a given training part
# Of many samples so many are enough to validate by, and to test by: the standard error of a
# fraction is then 0.22 % at most. Of a rare class so many: that of its recall is 3.5 % at most.
ENOUGH, ENOUGH_OF_CLASS = 50_000, 200
NO_TRAIN = "the data holds no training part; name one part train"
# Of groups that are kept apart unasked: rows on average, as single values are apart by chance; and
# those of the validation part, as fewer say more of themselves than of others (experiments/LOG.md).
GROUP_ROWS, FEWEST_GROUPS = 5, 5


def divide(
    samples: Samples, strata: np.ndarray | None, split: str | None, seed: int
) -> tuple[dict[str, np.ndarray], str]:
    """The sorted rows of each part, and a short phrase that says how they were chosen.

    The order of precedence: "column=COLUMN", which holds the parts; parts the data brings;
    ``split``, one of "0.7,0.15,0.15", "group=COLUMN", "time=COLUMN"; 70/15/15. ``strata``
    (n,) are the classes whose shares every drawn part keeps; where there are none, rows are
    drawn at random. Of many samples validation and test get less than 15 % (``_drawn_share``).
    Where a given test part holds other groups than the training part, as speakers or patients
    (``_kept_apart``), so does the validation part.
    """
    n = len(samples.inputs)
    rng = np.random.default_rng(seed)
    named = split is not None and split.startswith("column=")
    if samples.given is not None and split is not None and not named:
        raise UsageError(
            f"the data brings its own train and test parts, so split={split!r} cannot be used;"
            " leave it out, or give one file without a split column"
        )
    if samples.given is not None and not named:
        codes, method = _complete(samples.given, strata, rng, _beside(samples, "split"))
    elif split is not None and split.startswith(("column=", "group=", "time=")):
        how, column = split.split("=", 1)
        if column not in samples.columns:
            raise UsageError(
                f"split={split!r}: there is no column {column!r}; the columns are"
                f" {', '.join(map(str, samples.columns)) or 'none'}"
            )
        if how == "column":
            given = read_parts(samples.columns[column], f"split={split!r}")
            codes, method = _complete(given, strata, rng, _beside(samples, column))
            method = f"{method} by {column}"
        else:
            codes = _by_group(samples, column, rng) if how == "group" else _by_time(samples, column)
            method = f"{how} by {column}, 70/15/15"
    else:
        classes = strata if strata is not None else np.zeros(n, int)
        ratios = _with_rest(_drawn_share(classes)) if split is None else parse_ratios(split)
        codes = draw(classes, ratios, rng)
        percent = "/".join(f"{100 * ratio:.4g}" for ratio in ratios)
        method = f"{'random' if strata is None else 'stratified'} {percent}"
    parts = {name: np.flatnonzero(codes == i) for i, name in enumerate(PARTS)}
    for name, rows in parts.items():
        if not len(rows):
            raise InputError(f"the split ({method}) leaves no sample in the {name} part")
    return parts, method


def _beside(samples: Samples, column: str) -> pd.DataFrame:
    """The columns that are neither input nor label, nor name the parts as ``column`` does."""
    others = {*getattr(samples.inputs, "columns", ()), *samples.labels, column}
    return samples.columns[[name for name in samples.columns if name not in others]]


def draw(strata: np.ndarray, ratios: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """The part (n,) of each row, at random, in the given ratios within each stratum.

    A stratum with at least as many rows as parts has a row in each. What rounding
    takes from one stratum the next one gives back, so that the sizes of the parts
    are right too when there are many small strata.
    """
    codes = np.zeros(len(strata), np.int8)
    total = sum(ratios)
    owed = [0.0] * len(ratios)
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        share = len(rows) / total
        least = 1 if len(rows) >= len(ratios) else 0
        spare = max(len(rows) - len(ratios), 0)  # what is left when each part has one row
        for part in range(1, len(ratios)):
            owed[part] += share * ratios[part]
            size = min(max(math.floor(owed[part] + 0.5), least), spare + 1, len(rows) - 1)
            spare -= max(size - 1, 0)
            owed[part] -= size
            codes[rows[:size]] = part
            rows = rows[size:]
    return codes


def _drawn_share(strata: np.ndarray) -> float:
    """Of samples with these classes (n,) what validation and test get each: 15 % or, of many, as
    few as ``ENOUGH`` of all and ``ENOUGH_OF_CLASS`` of the rarest class.

    Example:
        >>> _drawn_share(np.zeros(1000, int)), _drawn_share(np.zeros(10**6, int))
        (0.15, 0.05)
    """
    _, counts = np.unique(strata, return_counts=True)
    return float(min(VAL, max(ENOUGH / len(strata), ENOUGH_OF_CLASS / counts.min())))


def _with_rest(share: float, parts: int = 2) -> tuple[float, ...]:
    """The ratios of train and of ``parts`` parts with a ``share`` each."""
    return (1 - parts * share, *[share] * parts)


def _complete(
    given: np.ndarray,
    strata: np.ndarray | None,
    rng: np.random.Generator,
    columns: pd.DataFrame,
) -> tuple[np.ndarray, str]:
    """The given parts; for each of val and test that is absent a part of the training part. Of
    ``columns`` one may hold groups that keep the given parts apart, as folds then must too."""
    codes = given.astype(np.int8).copy()
    if not (codes == 0).any():
        raise InputError(NO_TRAIN)
    absent = [i for i in (1, 2) if not (codes == i).any()]
    names = " and ".join(PARTS[i] for i in range(3) if i not in absent)
    if not absent:
        groups = _group_columns(columns, codes, 1)
        others = f", val {OTHER_GROUPS} {groups[0][1]!r}" if groups else ""
        return codes, f"given {names}{others}"
    rows = np.flatnonzero(codes == 0)
    others = ""
    if absent == [1] and (found := _kept_apart(columns, codes, strata, rng)):
        column, chosen = found
        if len(chosen):
            codes[chosen] = 1
            share = len(chosen) / len(rows)
            how = f"{OTHER_GROUPS} {column!r}, as test has"
            return codes, f"given {names}, {share:.0%} of train as val {how}"
        others = f" (test has other values of {column!r}: scores on val may be too good)"
    classes = strata[rows] if strata is not None else np.zeros(len(rows), int)
    share = _drawn_share(classes)
    drawn = draw(classes, _with_rest(share, len(absent)), rng)
    codes[rows] = np.array([0, *absent], np.int8)[drawn]
    how = "random" if strata is None else "stratified"
    missing = " and ".join(PARTS[i] for i in absent)
    return codes, f"given {names}, {how} {100 * share:.4g} % of train as {missing}{others}"


def _kept_apart(
    columns: pd.DataFrame,
    codes: np.ndarray,
    strata: np.ndarray | None,
    rng: np.random.Generator,
) -> tuple[str, np.ndarray] | None:
    """The column of few values of which train (0) and test (2) share none, and the rows of train
    with some of these values that are to be the validation part, none where these would be fewer
    than ``FEWEST_GROUPS`` or without some class. None where there is no such column.

    A random part of the training rows would share the values, and say nothing of how a network does
    on others (Roberts et al. 2017, "Cross-validation strategies for data with temporal, spatial,
    hierarchical, or phylogenetic structure").
    """
    found = _group_columns(columns, codes, 2)
    if not found:
        return None
    _, name, groups = found[0]
    rows = np.flatnonzero(codes == 0)
    sizes = np.bincount(groups[rows])
    order = rng.permutation(np.flatnonzero(sizes))
    taken = np.cumsum(sizes[order]) / len(rows)
    chosen = order[: 1 + int(np.argmin(abs(taken - VAL)))]
    inside = np.isin(groups[rows], chosen)
    complete = strata is None or _same_values(strata[rows[inside]], strata[rows[~inside]])
    return name, rows[inside] if complete and len(chosen) >= FEWEST_GROUPS else rows[:0]


def _group_columns(
    columns: pd.DataFrame, codes: np.ndarray, part: int
) -> list[tuple[int, str, np.ndarray]]:
    """The columns of few values of which train (0) and a ``part`` share none: how many values train
    has, fewest first, the name, and the value (n,) of each row as a number."""
    import pandas as pd

    found: list[tuple[int, str, np.ndarray]] = []
    for name, column in columns.items():
        groups, values = pd.factorize(column)
        if (groups < 0).any() or len(values) > len(groups) / GROUP_ROWS:
            continue
        train, other = (np.unique(groups[codes == each]) for each in (0, part))
        if len(train) > 1 and not np.intersect1d(train, other).size:
            found.append((len(train), str(name), groups))
    return sorted(found, key=lambda each: each[0])


def _same_values(some: np.ndarray, others: np.ndarray) -> bool:
    return np.array_equal(np.unique(some), np.unique(others))


def parse_ratios(split: str) -> tuple[float, ...]:
    """The fractions of train, val and test of "0.7,0.15,0.15"; UsageError for other texts."""
    try:
        ratios = tuple(float(part) for part in split.split(","))
    except ValueError:
        ratios = ()
    if len(ratios) != 3 or min(ratios) <= 0 or not math.isclose(sum(ratios), 1, abs_tol=1e-6):
        raise UsageError(
            f"split={split!r} is not valid; give three ratios that sum to 1"
            " (0.7,0.15,0.15), column=COLUMN, group=COLUMN or time=COLUMN"
        )
    return ratios


def _by_group(samples: Samples, column: str, rng: np.random.Generator) -> np.ndarray:
    """Every group in one part, the largest first, each in the part that lacks most rows."""
    import pandas as pd

    groups, names = pd.factorize(samples.columns[column], use_na_sentinel=False)
    if len(names) < 3:
        raise InputError(f"split=group={column}: {len(names)} groups cannot fill three parts")
    sizes = np.bincount(groups)
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    lacking = len(groups) * np.array(RATIOS)
    part_of = np.zeros(len(sizes), np.int8)
    empty = [0, 1, 2]
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        part = empty[0] if left == len(empty) else int(np.argmax(lacking))
        part_of[group] = part
        lacking[part] -= sizes[group]
        empty = [i for i in empty if i != part]
    codes: np.ndarray = part_of[groups]
    return codes


def _by_time(samples: Samples, column: str) -> np.ndarray:
    """The oldest rows are train, the newest test; rows of one time stay together."""
    from nas.data.columns import numbers

    times = numbers(samples.columns[column]).values
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        value = samples.columns[column].iloc[bad[0]]
        raise InputError(
            f"split=time={column}: {value!r} in {samples.place(int(bad[0]))} is neither a"
            f" number nor an ISO date ({len(bad)} such rows); correct or drop them"
        )
    moments, inverse, sizes = np.unique(times, return_inverse=True, return_counts=True)
    if len(moments) < 3:
        raise InputError(f"split=time={column}: {len(moments)} moments cannot fill three parts")
    share = np.cumsum(sizes) / len(times)  # of the rows, up to and with each moment
    last = len(moments) - 1
    first_val = min(int(np.argmin(abs(share - RATIOS[0]))) + 1, last - 1)
    first_test = int(np.argmin(abs(share - RATIOS[0] - RATIOS[1]))) + 1
    first_test = min(max(first_test, first_val + 1), last)
    codes = np.zeros(len(moments), np.int8)
    codes[first_val:first_test] = 1
    codes[first_test:] = 2
    result: np.ndarray = codes[inverse]
    return result


def membership(parts: dict[str, np.ndarray]) -> str:
    """A hash of which row is in which part."""
    codes = np.full(1 + max(int(rows[-1]) for rows in parts.values()), -1, np.int8)
    for i, name in enumerate(PARTS):
        codes[parts[name]] = i
    return hashlib.sha256(codes.tobytes()).hexdigest()[:16]
