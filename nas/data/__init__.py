"""Data of any ordinary form to one ``Dataset``: coded inputs, labels, parts and a profile.

Nothing here imports torch, and pandas and Pillow are imported only where a source is
read: a worker that loads a saved data set needs NumPy alone.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from nas.task import DataProfile, InputError, Modality, Target, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from nas.data.samples import Arrays, Samples

__all__ = ["Dataset", "Encoded", "encode", "read"]

MODALITIES = ("tabular", "images")
FEWEST_ROWS = 10


@dataclass(frozen=True)
class Dataset:
    """Everything a search needs of a user's data; ``n`` samples, all arrays in memory.

    ``inputs``: tables have "numeric" float32 (n, k), NaN where missing, and
    "categorical" int32 (n, m), code 0 where missing or never seen in training and
    i + 1 for ``Column.categories[i]``; images have "image" uint8 (n, C, H, W).
    ``labels``, by target name: int64 (n,) class index, float32 (n, k) of 0 and 1 for
    multilabel, float64 (n,) in the user's units for regression. ``parts``: sorted
    int64 row numbers of "train", "val" and "test". ``notes`` say in plain sentences
    what was dropped, changed or looks wrong.
    """

    modality: Modality
    targets: tuple[Target, ...]
    profile: DataProfile
    inputs: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    parts: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()

    def save(self, folder: Path) -> None:
        """Write one .npy file per array and dataset.json, which comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, dict[str, str]] = {}
        for group in ("inputs", "labels", "parts"):
            arrays[group] = {}
            for i, (name, array) in enumerate(getattr(self, group).items()):
                file = arrays[group][name] = f"{group}-{i}.npy"  # a name may hold any character
                np.save(folder / file, array, allow_pickle=False)
        record = {
            "modality": self.modality,
            "targets": [target.to_dict() for target in self.targets],
            "profile": self.profile.to_dict(),
            "notes": list(self.notes),
            "arrays": arrays,
        }
        (folder / "dataset.json").write_text(json.dumps(record), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what ``save`` wrote; the arrays are memory-mapped and read-only."""
        file = Path(folder) / "dataset.json"
        if not file.is_file():
            raise InputError(f"{folder} holds no saved data set (dataset.json is absent)")
        record = json.loads(file.read_text(encoding="utf-8"))
        arrays = {
            group: {name: np.load(file.parent / f, mmap_mode="r") for name, f in files.items()}
            for group, files in record["arrays"].items()
        }
        return cls(
            record["modality"],
            tuple(Target.from_dict(target) for target in record["targets"]),
            DataProfile.from_dict(record["profile"]),
            notes=tuple(record["notes"]),
            **arrays,
        )


def read(
    source: Any,
    *,
    target: str | Sequence[str] | None = None,
    modality: str | None = None,
    split: str | None = None,
    problem: str | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Read, divide and code a data set.

    What a network is given of the data (means, spreads, bin edges, categories) comes from the
    training part; the classes, the kinds of columns and the common size of images from all.

    ``source`` is a table (.csv, .tsv, .gz of these, .parquet), a folder with train and
    test tables, a folder of class folders (in train, val and test folders or not) or
    with a metadata.csv, an .npz file, a DataFrame, or (X, y) of NumPy arrays, pandas
    objects or torch tensors. ``target`` names the column or columns to predict;
    ``split`` is "0.7,0.15,0.15", "group=COLUMN" or "time=COLUMN"; ``problem`` is
    "classification" or "regression" where the values leave it open; ``image_size`` is
    the longer side in pixels.

    Raises ``UsageError`` for a wrong call and ``InputError`` for wrong data, each in
    one line.
    """
    from nas.data import split as splits
    from nas.data import targets as labelling

    opened = _open(source)
    kind = _modality(opened, modality)
    if image_size is not None and kind != "images":
        raise UsageError(f"image_size is for images, but the data is {kind}")
    samples = _load(opened, kind, _names(target))
    n = len(samples.inputs)
    if n < FEWEST_ROWS:
        raise InputError(f"{n} samples are too few to learn from; at least {FEWEST_ROWS} needed")
    labels, notes = labelling.infer(samples.labels, problem, samples.place)
    classified = [label for label in labels if label.target.kind in ("binary", "multiclass")]
    strata = classified[0].values if classified else None
    parts, method = splits.divide(samples, strata, split, seed)
    targets = tuple(labelling.describe(label, parts["train"]) for label in labels)
    values = {label.target.name: label.values for label in labels}

    inputs, description, more = _code(kind, samples, parts["train"], split, image_size)
    notes = [*notes, *more]
    leaked = _leaked(inputs, values, parts)
    if leaked:
        notes.append(
            f"{leaked} samples of val and test also occur in train, label and all:"
            " scores on them may be too good"
        )
    profile = DataProfile(
        n_train=len(parts["train"]),
        n_val=len(parts["val"]),
        n_test=len(parts["test"]),
        inputs={name: array.shape[1:] for name, array in inputs.items()},
        fingerprint=_fingerprint({**inputs, **{f"label {k}": v for k, v in values.items()}}),
        split=splits.membership(parts),
        split_method=method,
        **description,
    )
    return Dataset(kind, targets, profile, inputs, values, parts, tuple(notes))


@dataclass(frozen=True)
class Encoded:
    """New samples coded like the training data; ``labels`` of the targets that were there.

    ``names`` are the files of images (relative to the source) and empty for tables and
    arrays, whose rows keep their order.
    """

    inputs: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    names: tuple[str, ...] = ()


def encode(
    source: Any, profile: DataProfile, modality: str, targets: Sequence[Target] = ()
) -> Encoded:
    """Code new, possibly unlabeled data by the profile alone.

    ``source`` is one table, a folder of images or one image, an .npz file with x (and
    y), a DataFrame, an array or tensor, or (X, y). Categories never seen in training
    get code 0; a column that is absent is an ``InputError``.
    """
    from nas.data import targets as labelling

    if modality not in MODALITIES:
        raise UsageError(f"modality {modality!r} cannot be read; use {' or '.join(MODALITIES)}")
    opened = _open(source, alone=True)
    samples = _load_inputs(opened, modality)
    if modality == "tabular":
        from nas.data import tabular

        inputs = tabular.encode(samples.inputs, profile.columns)
        columns = samples.labels if samples.labels.shape[1] else samples.inputs
        names: tuple[str, ...] = ()
    else:
        from nas.data import images

        inputs = {"image": images.encode(samples.inputs, profile.inputs["image"])}
        columns = samples.labels
        if len(targets) == 1 and columns.shape[1] == 1:
            columns = columns.set_axis([targets[0].name], axis=1)
            if samples.files and not set(columns[targets[0].name]) <= set(targets[0].classes):
                columns = columns.drop(columns=targets[0].name)  # folders of another meaning
        names = tuple(name for name, _ in samples.files)
    labels = labelling.encode(columns, tuple(targets), samples.place)
    return Encoded(inputs, labels, names)


# Sources ---------------------------------------------------------------------------------


def _open(source: Any, alone: bool = False) -> Path | pd.DataFrame | Arrays:
    """The source as a path, a frame, or arrays; ``alone`` allows arrays without labels."""
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if not path.exists():
            siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            near = difflib.get_close_matches(path.name, siblings, n=1)
            raise UsageError(
                f"{path} does not exist"
                + (f"; did you mean {path.parent / near[0]}?" if near else "")
            )
        if path.is_dir() and len(only := [f for f in path.iterdir() if f.name[0] != "."]) == 1:
            from nas.data import tabular

            # A folder around one file of data stands for the file.
            if only[0].suffix.lower() == ".npz" or tabular.is_table(only[0]):
                path = only[0]
        if path.suffix.lower() == ".npz":
            from nas.data.samples import read_npz

            return read_npz(path)
        return path
    import pandas as pd

    from nas.data.samples import Arrays, to_numpy

    if isinstance(source, pd.DataFrame):
        return source
    if isinstance(source, tuple) and len(source) == 2:
        x, y = source
        return Arrays(x if isinstance(x, pd.DataFrame) else to_numpy(x), y)
    if alone or hasattr(source, "ndim"):
        return Arrays(to_numpy(source))
    raise UsageError(
        f"data of the type {type(source).__name__} cannot be read; give a path, a DataFrame,"
        " or (X, y) arrays"
    )


def _modality(source: Path | pd.DataFrame | Arrays, given: str | None) -> Modality:
    if given is not None and given not in MODALITIES:
        near = difflib.get_close_matches(given, MODALITIES, n=1)
        raise UsageError(
            f"modality {given!r} cannot be read; known are {', '.join(MODALITIES)}"
            + (f" (did you mean {near[0]}?)" if near else "")
        )
    if given is not None:
        return given  # type: ignore[return-value]  # one of MODALITIES
    if not isinstance(source, Path):
        if source.ndim in (3, 4):
            return "images"
        if source.ndim == 2:
            return "tabular"
        raise UsageError(f"X has {source.ndim} axes; give 2 for a table, 3 or 4 for images")
    from nas.data import images, tabular

    if source.is_file() and tabular.is_table(source):
        return "tabular"
    if source.is_dir():
        if (source / "metadata.csv").is_file() and images.find(source):
            return "images"
        if tabular.part_files(source):
            return "tabular"
        if images.find(source):
            return "images"
    raise UsageError(
        f"{source}: cannot tell what kind of data this is; expected a table"
        f" ({', '.join(tabular.SUFFIXES)}), a folder of images, a folder with train and test"
        " tables, or an .npz file; say modality=tabular or modality=images if it is one"
    )


def _names(target: str | Sequence[str] | None) -> list[str] | None:
    """Target names as a list; a frame's integer column names are asked for as they are."""
    if target is None:
        return None
    names = [str(target)] if isinstance(target, (str, int)) else [str(name) for name in target]
    double = sorted({name for name in names if names.count(name) > 1})
    if double or not names:
        raise UsageError(
            f"target names {', '.join(double) or 'no column'}{' twice' * bool(double)}"
        )
    return names


def _load(source: Any, kind: Modality, target: list[str] | None) -> Samples:
    if kind == "tabular":
        from nas.data import tabular

        return tabular.load(source, target)
    from nas.data import images

    return images.load(source, target)


def _load_inputs(source: Any, kind: str) -> Samples:
    if kind == "tabular":
        from nas.data import tabular

        return tabular.load_inputs(source)
    from nas.data import images

    return images.load_inputs(source)


# Coding ----------------------------------------------------------------------------------


def _code(
    kind: Modality, samples: Samples, train: np.ndarray, split: str | None, image_size: int | None
) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str]]:
    """The inputs, the fields of the profile that describe them, and notes."""
    if kind == "images":
        from nas.data import images

        pixels, notes = images.read(samples.inputs, image_size)
        mean, std = images.channel_statistics(pixels, train)
        described = {"channel_mean": tuple(mean), "channel_std": tuple(std)}
        return {"image": pixels}, described, notes
    from nas.data import tabular

    frame, notes = samples.inputs, []
    if split is not None and "=" in split:
        column = split.split("=", 1)[1]
        frame = frame.drop(columns=column)
        notes.append(f"column {column!r} divides the data and is not an input")
    columns, more = tabular.describe(frame, train)
    return tabular.encode(frame, columns), {"columns": columns}, notes + more


def _fingerprint(arrays: dict[str, np.ndarray]) -> str:
    """A hash of names, types, shapes and values: equal on every machine and memory layout."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        little = array.dtype.newbyteorder("<")
        digest.update(f"{name} {little.str} {array.shape};".encode())
        for start in range(0, len(array), 4096):
            digest.update(array[start : start + 4096].astype(little, copy=False).tobytes())
    return digest.hexdigest()[:16]


def _leaked(
    inputs: dict[str, np.ndarray], labels: dict[str, np.ndarray], parts: dict[str, np.ndarray]
) -> int:
    """How many samples outside the training part equal one inside it."""
    arrays = [*inputs.values(), *labels.values()]

    def digest(row: int) -> bytes:
        content = b"".join(array[row].tobytes() for array in arrays)
        return hashlib.blake2b(content, digest_size=16).digest()

    train = {digest(row) for row in parts["train"]}
    return sum(digest(row) in train for part in ("val", "test") for row in parts[part])
