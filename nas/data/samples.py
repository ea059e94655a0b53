"""Samples as a reader hands them on: not yet coded, with their labels and the given parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data.limits import read_archive
from nas.files import first_line
from nas.task import InputError, UsageError

PARTS = ("train", "val", "test")
COMPLEX = "complex numbers cannot be read; give real and imaginary columns"
# The names under which people file the parts, in lower case.
PART_NAMES = {
    "train": 0, "training": 0,
    "val": 1, "valid": 1, "validation": 1, "dev": 1,
    "test": 2, "testing": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Samples:
    """``n`` samples of one modality.

    ``inputs`` is what the modality's ``code`` takes, of length ``n``: a table (a frame of the
    input columns), a list of files, an array of images. ``labels`` holds one column per
    target, and none where the data is unlabeled. ``given`` says the part of each sample
    (0 train, 1 val, 2 test, -1 none) if the data came divided. ``columns`` can be named by
    ``column=``, ``group=`` and ``time=``.
    """

    inputs: Any
    labels: pd.DataFrame
    given: np.ndarray | None = None
    columns: pd.DataFrame = field(default_factory=pd.DataFrame)
    files: tuple[tuple[str, int], ...] = ()  # where the rows came from: name, rows
    notes: tuple[str, ...] = ()  # what was left out or looks wrong, in plain sentences
    problem: str | None = None  # "regression" where the source says that its labels are numbers

    def place(self, row: int) -> str:
        """How to call a row, counted from 1 without the header, in a message."""
        for name, rows in self.files:
            if row < rows:
                return name if rows == 1 else f"row {row + 1} of {name}"  # one image, one file
            row -= rows
        return f"row {row + 1}"


def read_parts(names: pd.Series, where: str) -> np.ndarray:
    """The part of each sample from a column of part names."""
    texts = names.astype("str").str.strip().str.lower()
    codes = texts.map(PART_NAMES)
    unknown = sorted({str(t) for t in names[codes.isna()]})
    if unknown:
        raise InputError(
            f"{where}: unknown split value {', '.join(map(repr, unknown[:5]))};"
            " use train, val (valid, dev) or test"
        )
    return codes.to_numpy(np.int8)


def to_numpy(values: Any) -> np.ndarray:
    """An array of a NumPy array, list or torch tensor (which is not imported here), in the byte
    order of this machine; what a mask hides is NaN."""
    if hasattr(values, "detach"):
        values = of_tensor(values)
    try:
        array = _unmasked(values) if np.ma.is_masked(values) else np.asarray(values)
    except ValueError:
        raise InputError("the samples differ in length; give one rectangular array") from None
    if np.iscomplexobj(array):
        raise InputError(COMPLEX)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def of_tensor(tensor: Any) -> np.ndarray:
    """A torch tensor of any layout as an array, bfloat16 as float32."""
    try:
        dense = tensor.detach().to_dense() if str(tensor.layout) != "torch.strided" else tensor
        half = str(dense.dtype) == "torch.bfloat16"
        array: np.ndarray = (dense.float() if half else dense).detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:  # quantised, nested, without data
        reason = first_line(error)
        raise InputError(f"a tensor cannot be read as an array ({reason}); convert it") from None
    return array


def _unmasked(values: Any) -> np.ndarray:
    """A masked array with NaN, or None among texts, for what the mask hides."""
    wide = values.astype(np.float64 if values.dtype.kind in "biuf" else object)
    filled: np.ndarray = wide.filled(np.nan if wide.dtype.kind == "f" else None)
    return filled


def label_frame(y: Any, names: list[str] | None) -> pd.DataFrame:
    """The targets as one column each; a 1-D ``y`` is "target", a 2-D one "y0", "y1", …"""
    if isinstance(y, pd.DataFrame):
        frame = y.reset_index(drop=True)
    elif isinstance(y, pd.Series):
        frame = y.reset_index(drop=True).to_frame(y.name if y.name is not None else "target")
    else:
        array = to_numpy(y)
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim not in (1, 2):
            raise InputError(f"y must be 1-D or 2-D, but its shape is {array.shape}")
        columns = ["target"] if array.ndim == 1 else [f"y{i}" for i in range(array.shape[1])]
        frame = pd.DataFrame(array if array.ndim == 2 else array[:, None], columns=columns)
    frame.columns = [str(c) for c in frame.columns]
    if names:
        if len(names) != frame.shape[1]:
            raise UsageError(f"target names {len(names)} columns, but y has {frame.shape[1]}")
        frame.columns = names
    return frame


@dataclass(frozen=True)
class Arrays:
    """Arrays in memory: ``x`` (n, …), a frame or a list of samples that differ in length;
    ``y`` (n,), (n, t) or absent; the given parts; what was left out of them."""

    x: Any
    y: Any = None
    given: np.ndarray | None = None
    name: str = "the data"
    notes: tuple[str, ...] = ()

    @property
    def ndim(self) -> int:
        return int(getattr(self.x, "ndim", 0))


def read_npz(path: Path, *, predict: bool = False) -> Arrays:
    """``x_train, y_train, x_test, y_test`` (and ``x_val, y_val``), or ``x, y``; to predict, of
    parts the test part alone, with or without ``y_test``."""
    arrays = {name.lower(): array for name, array in read_archive(path).items()}
    if "x" in arrays:
        return Arrays(arrays["x"], arrays.get("y"), name=path.name)
    keys = [key for key in arrays if key[:2] == "x_" and key[2:] in PART_NAMES]
    keys.sort(key=lambda key: PART_NAMES[key[2:]])
    if not keys:
        raise InputError(
            f"{path} holds {', '.join(arrays) or 'nothing'};"
            " expected x_train, y_train, x_test, y_test or x, y"
        )
    if predict:
        found = [key for key in keys if PART_NAMES[key[2:]] == PART_NAMES["test"]]
        if not found:
            raise InputError(f"{path} holds {', '.join(keys)}; what is predicted is x_test or x")
        note = f"of {', '.join(keys)} only {found[0]} is predicted"
        y = arrays.get(f"y_{found[0][2:]}")
        return Arrays(arrays[found[0]], y, None, path.name, (note,) if len(keys) > 1 else ())
    absent = [f"y_{key[2:]}" for key in keys if f"y_{key[2:]}" not in arrays]
    if absent:
        raise InputError(f"{path} holds no {', '.join(absent)}")
    for key in keys:
        x, y = arrays[key], arrays[f"y_{key[2:]}"]
        if x.shape[1:] != arrays[keys[0]].shape[1:]:
            raise InputError(f"{path}: {key} and {keys[0]} differ in the shape of a sample")
        if y.shape[:1] != x.shape[:1]:
            raise InputError(f"{path}: {key} has {len(x)} samples, its y {y.shape}")
    given = np.concatenate(
        [np.full(len(arrays[key]), PART_NAMES[key[2:]], np.int8) for key in keys]
    )
    return Arrays(
        np.concatenate([arrays[key] for key in keys]),
        np.concatenate([arrays[f"y_{key[2:]}"] for key in keys]),
        given,
        path.name,
    )
