"""A data set as a search holds it: coded inputs, labels, parts and the profile; on disk as .npy."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from nas.data.decoded import hashes_of, is_kept
from nas.data.hashes import NARROW_BYTES, mixed
from nas.data.ragged import Input, Layout, Ragged, Whole, percentiles
from nas.files import damaged, read_array, read_json, write_array, write_whole
from nas.task import DataProfile, InputError, JsonRecord, Modality, Target, input_type

UNKNOWN = 1  # the token of a word without a vector
HASHED_BYTES = 2**24  # at once
LARGE_BYTES = 2**30  # from which on an array's fingerprint is made of the hashes of its samples


@dataclass(frozen=True)
class Dataset:
    """Everything a search needs of a user's data; ``n`` samples, all arrays in memory.

    ``inputs``, by the names that ``DataProfile`` lists:

    - tables: "numeric" float32 (n, k), NaN where missing, and "categorical" int32 (n, m),
      code 0 where missing or never seen in training and i + 1 for ``Column.categories[i]``;
    - images: "image" uint8 (n, C, H, W); text: "tokens" int32, 0 for padding, 1 for unknown;
      series: "series" float32 (T, channels), see ``nas.task.SeriesForm``;
      audio: "wave" int16; clouds: "points" float32 (P, d), of which the first three are the
      coordinates; these four are ``Ragged``, padded in a batch;
    - many graphs: "nodes" float32 (N, f), "edges" int32 (E, 2) from source to target and
      "edge_features" float32 (E, k), ``Ragged`` and packed; one graph: the same as
      ``Whole``, and "node" int64 (n,) numbers each sample's node.

    ``labels``, by target name: int64 (n,) class index, float32 (n, k) of 0 and 1 for
    multilabel, float64 (n,) in the user's units for regression. ``parts``: sorted
    int64 row numbers of "train", "val" and "test". ``notes`` say in plain sentences
    what was dropped, changed or looks wrong.
    """

    modality: Modality
    targets: tuple[Target, ...]
    profile: DataProfile
    inputs: dict[str, Input]
    labels: dict[str, np.ndarray]
    parts: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()

    def save(self, folder: Path) -> None:
        """Write one .npy file per array, and dataset.json last. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, dict[str, Any]] = {}
        for group in ("inputs", "labels", "parts"):
            arrays[group] = {}
            for i, (name, array) in enumerate(getattr(self, group).items()):
                file = f"{group}-{i}.npy"  # a name may hold any character
                about: dict[str, str] = {"values": file}
                if isinstance(array, Ragged):
                    about |= {"offsets": f"{group}-{i}-offsets.npy"}
                    about |= {"layout": array.layout, "into": array.into}
                    write_array(folder / about["offsets"], array.offsets)
                elif isinstance(array, Whole):
                    about["layout"] = "whole"
                values = array if isinstance(array, np.ndarray) else array.values
                _keep(folder / file, values)
                arrays[group][name] = about
        record = {
            "modality": self.modality,
            "targets": [target.to_dict() for target in self.targets],
            "profile": self.profile.to_dict(),
            "notes": list(self.notes),
            "arrays": arrays,
        }
        write_whole(folder / "dataset.json", json.dumps(record))

    @classmethod
    def load(cls, folder: Path, *, mapped: bool = True) -> Self:
        """Read what ``save`` wrote; ``mapped`` arrays stay in their files and are read-only.

        Raises InputError where a file is absent or damaged.
        """
        file = Path(folder) / "dataset.json"
        if not file.is_file():
            raise InputError(f"{folder} holds no saved data set (dataset.json is absent)")
        record: _Record = read_json(file, _Record)

        def read(about: _Array) -> Input:
            values = read_array(file.parent / about.values, mapped=mapped)
            if about.layout == "whole":
                return Whole(values)
            if about.layout is not None:
                offsets = read_array(file.parent / about.offsets, mapped=mapped)
                return Ragged(values, offsets, about.layout, about.into)
            return values

        groups: dict[str, Any] = {
            group: {name: read(about) for name, about in getattr(record.arrays, group).items()}
            for group in ("inputs", "labels", "parts")
        }
        loaded = cls(record.modality, record.targets, record.profile, notes=record.notes, **groups)
        if wrong := loaded._inconsistency():
            raise damaged(file.parent, wrong)
        return loaded

    def _inconsistency(self) -> str:
        """What does not fit together in arrays that were read from files, "" where all does."""
        rows = {name: len(x) for name, x in self.inputs.items() if not isinstance(x, Whole)}
        rows |= {f"label {name}": len(label) for name, label in self.labels.items()}
        if len(set(rows.values())) != 1:
            return f"its arrays differ in length ({rows})"
        n = next(iter(rows.values()))
        if set(self.labels) != {target.name for target in self.targets}:
            return f"it has labels of {sorted(self.labels)}, not of its targets"
        for name, x in self.inputs.items():
            if not isinstance(x, Ragged):
                continue
            steps = np.diff(x.offsets) if x.offsets.dtype == np.int64 else np.array([-1])
            if x.offsets.ndim != 1 or len(steps) == 0 or x.offsets[0] or steps.min() < 0:
                return f"the offsets of {name} do not grow from 0"
            if x.offsets[-1] != len(x.values):
                return f"the offsets of {name} end at {x.offsets[-1]} of {len(x.values)} values"
        for name, part in self.parts.items():
            if part.ndim != 1 or part.dtype != np.int64:
                return f"the part {name} holds no row numbers"
            if len(part) and not 0 <= part.min() <= part.max() < n:
                return f"the part {name} names rows outside 0 to {n - 1}"
        if not {"train", "val", "test"} <= set(self.parts):
            return f"it has the parts {sorted(self.parts)}, not train, val and test"
        for target in self.targets:
            label = self.labels[target.name]
            if target.kind in ("binary", "multiclass") and (
                label.dtype != np.int64 or not 0 <= label.min() <= label.max() < target.outputs
            ):
                return f"the labels of {target.name} are not its classes"
        return ""


def _keep(path: Path, values: np.ndarray) -> None:
    """Write an array, or link the file of the cache that holds it already."""
    if is_kept(values):
        try:
            path.unlink(missing_ok=True)
            os.link(values.filename, path)  # type: ignore[attr-defined]
            return
        except OSError:  # another disk
            pass
    write_array(path, values)


@dataclass(frozen=True)
class _Array(JsonRecord):
    """Where the values of an array are, and how they are divided into samples."""

    values: str
    layout: Layout | Literal["whole"] | None = None
    offsets: str = ""
    into: str = ""

    def __post_init__(self) -> None:
        for file in (self.values, self.offsets):
            if file != Path(file).name:
                raise InputError(f"{file!r} is not the name of a file in the folder")
        if (self.layout in ("padded", "packed")) != bool(self.offsets):
            raise InputError("a layout goes with offsets")


@dataclass(frozen=True)
class _Arrays(JsonRecord):
    inputs: dict[str, _Array]
    labels: dict[str, _Array]
    parts: dict[str, _Array]


@dataclass(frozen=True)
class _Record(JsonRecord):
    """What dataset.json holds."""

    modality: Modality
    targets: tuple[Target, ...]
    profile: DataProfile
    notes: tuple[str, ...]
    arrays: _Arrays


def shape_profile(inputs: Mapping[str, Input], train: np.ndarray) -> DataProfile:
    """A profile with the shapes of the inputs and the lengths of the samples ``train``."""
    shapes: dict[str, tuple[int, ...]] = {}
    lengths: dict[str, tuple[int, ...]] = {}
    for name, value in inputs.items():
        if isinstance(value, Ragged):
            shapes[name] = (int(value.lengths.max()), *value.values.shape[1:])
            lengths[name] = percentiles(value.lengths[train])
        else:
            shapes[name] = value.values.shape if isinstance(value, Whole) else value.shape[1:]
    return DataProfile(len(train), 0, 0, shapes, lengths=lengths)


def fingerprint(arrays: Mapping[str, Input]) -> str:
    """A hash of names, types, shapes and values: equal on every machine and memory layout."""
    plain: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        plain[name] = array if isinstance(array, np.ndarray) else array.values
        if isinstance(array, Ragged):
            plain[f"{name} offsets"] = array.offsets
    digest = hashlib.sha256()
    for name in sorted(plain):
        values = plain[name]
        little = values.dtype.newbyteorder("<")
        digest.update(f"{name} {little.str} {values.shape};".encode())
        if values.nbytes > LARGE_BYTES and values[:1].nbytes > NARROW_BYTES:  # they are kept
            digest.update(hashes_of(values).astype("<u8").tobytes())
            continue
        size = max(1, min(4096, HASHED_BYTES // max(1, values[:1].nbytes)))
        for start in range(0, len(values), size):
            digest.update(values[start : start + size].astype(little, copy=False).tobytes())
    return digest.hexdigest()[:16]


def count_leaked(
    inputs: Mapping[str, Input], labels: dict[str, np.ndarray], parts: dict[str, np.ndarray]
) -> int:
    """How many samples of val and test equal one of train, labels included. A text with unknown
    words does not count: a different text may have the same tokens."""
    arrays = [a for a in (*inputs.values(), *labels.values()) if not isinstance(a, Whole)]
    hashes = np.zeros(len(arrays[0]), np.uint64)
    for array in arrays:
        hashes = mixed(hashes, hashes_of(array))
    outside = np.concatenate([parts["val"], parts["test"]])
    known = np.sort(hashes[parts["train"]])
    outside = outside[np.argsort(hashes[outside])]  # a search for sorted values is faster
    nearest = known[np.searchsorted(known, hashes[outside]).clip(max=len(known) - 1)]
    rows = outside[nearest == hashes[outside]]
    texts = [a for name, a in inputs.items() if input_type(name) == "tokens"]
    unknown = [
        any((text[row] == UNKNOWN).any() for text in texts if isinstance(text, Ragged))
        for row in rows
    ]
    return len(rows) - sum(unknown)
