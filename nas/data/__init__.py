"""Data of any ordinary form to one ``Dataset``: coded inputs, labels, parts and a profile.

Nothing here imports torch, and pandas and Pillow are imported only where a source is
read: a worker that loads a saved data set needs NumPy alone.

Each modality has a module of its name with the same five functions:

- ``recognise(source)``: why an opened source plainly is of this modality, or "";
- ``load(source, target)``: labelled ``Samples``;
- ``load_inputs(source)``: ``Samples`` to predict, labelled or not;
- ``code(samples, train, **options)``: the inputs by name, the fields of the profile that
  describe them, and notes; what is learnt of the data comes from the rows ``train``;
- ``encode(inputs, profile)``: new samples, coded by the profile alone.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np

from nas.data.ragged import Input, Ragged, Whole, percentiles
from nas.files import read_array, read_json, write_array, write_whole
from nas.task import DataProfile, InputError, Modality, Target, UsageError, input_type

__all__ = ["Dataset", "Encoded", "encode", "read"]

MODALITIES: tuple[Modality, ...] = get_args(Modality)
FEWEST_ROWS = 10
UNKNOWN = 1  # the token of a word without a vector


@dataclass(frozen=True)
class Dataset:
    """Everything a search needs of a user's data; ``n`` samples, all arrays in memory.

    ``inputs``, by the names that ``DataProfile`` lists:

    - tables: "numeric" float32 (n, k), NaN where missing, and "categorical" int32 (n, m),
      code 0 where missing or never seen in training and i + 1 for ``Column.categories[i]``;
    - images: "image" uint8 (n, C, H, W); text: "tokens" int32, 0 for padding, 1 for unknown;
      audio: "wave" int16; clouds: "points" float32 (P, d), of which the first three are the
      coordinates; these three are ``Ragged``, padded in a batch;
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
        """Write one .npy file per array and dataset.json, which comes last."""
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
                write_array(folder / file, values)
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
        """Read what ``save`` wrote; ``mapped`` arrays stay in their files and are read-only."""
        file = Path(folder) / "dataset.json"
        if not file.is_file():
            raise InputError(f"{folder} holds no saved data set (dataset.json is absent)")
        record = read_json(file)

        def array(about: dict[str, str]) -> Input:
            values = read_array(file.parent / about["values"], mapped=mapped)
            if about.get("layout") == "whole":
                return Whole(values)
            if "offsets" in about:
                offsets = read_array(file.parent / about["offsets"], mapped=mapped)
                return Ragged(values, offsets, about["layout"], about["into"])  # type: ignore[arg-type]
            return values

        arrays: dict[str, Any] = {
            group: {name: array(about) for name, about in found.items()}
            for group, found in record["arrays"].items()
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
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Dataset:
    """Read, divide and code a data set.

    What a network is given of the data (means, spreads, bin edges, categories) comes from the
    training part; the classes, the kinds of columns and the common size of images from all.

    ``source`` is a table (.csv, .tsv, .gz of these, .parquet), a folder with train and
    test tables, a folder of class folders (in train, val and test folders or not) or
    with a metadata.csv, an .npz file, a DataFrame, or (X, y) of NumPy arrays, pandas
    objects or torch tensors, or another form that the module of a modality names.
    ``target`` names the column or columns to predict; ``split`` is "0.7,0.15,0.15",
    "column=COLUMN" (which holds the parts), "group=COLUMN" or "time=COLUMN"; ``problem`` is
    "classification" or "regression" where the values leave it open; ``image_size`` is
    the longer side in pixels; ``columns`` are the types of columns in multimodal data, as
    {"photo": "image"}, where they are not what they look like.

    Raises ``UsageError`` for a wrong call and ``InputError`` for wrong data, each in
    one line.
    """
    from nas.data import doubts as doubtful
    from nas.data import split as splits
    from nas.data import targets as labelling

    if not 0 <= seed < 2**32:  # what NumPy and scikit-learn take
        raise UsageError(f"seed {seed} is none; give a whole number from 0 to {2**32 - 1}")
    opened = _open(source)
    kind, why = _modality(opened, modality, _names(target), columns or {})
    if image_size is not None and kind != "images":
        raise UsageError(f"image_size is for images, but the data is {kind}")
    if columns and kind != "multimodal":
        raise UsageError(f"columns have types in multimodal data, but the data is {kind}")
    options: dict[str, Any] = {"image_size": image_size} if kind == "images" else {}
    if kind == "multimodal":
        options = {"columns": columns}
    reader = _reader(kind)
    samples = reader.load(opened, _names(target))
    n = len(samples.inputs)
    if n < FEWEST_ROWS:
        raise InputError(f"{n} samples are too few to learn from; at least {FEWEST_ROWS} needed")
    labels, notes = labelling.infer(samples.labels, problem, samples.place)
    classified = [label for label in labels if label.target.kind in ("binary", "multiclass")]
    strata = classified[0].values if classified else None
    parts, method = splits.divide(samples, strata, split, seed)
    targets = tuple(labelling.describe(label, parts["train"]) for label in labels)
    values = {label.target.name: label.values for label in labels}

    divided = split is not None and split.startswith(("column=", "group=", "time="))
    if kind in ("tabular", "multimodal") and split is not None and divided:
        column = split.split("=", 1)[1]
        samples = replace(samples, inputs=samples.inputs.drop(columns=column))
        notes.append(f"column {column!r} divides the data and is not an input")
    inputs, description, more = reader.code(samples, parts["train"], **options)
    notes = [*([f"{kind}: {why}"] if why else []), *notes, *more]
    outside = len(parts["val"]) + len(parts["test"])
    notes += doubtful.doubles(_leaked(inputs, values, parts), outside)
    profile = DataProfile(
        n_train=len(parts["train"]),
        n_val=len(parts["val"]),
        n_test=len(parts["test"]),
        **describe(inputs, parts["train"]),
        fingerprint=_fingerprint({**inputs, **{f"label {k}": v for k, v in values.items()}}),
        split=splits.membership(parts),
        split_method=method,
        **description,
    )
    dataset = Dataset(kind, targets, profile, inputs, values, parts)
    return replace(dataset, notes=(*notes, *doubtful.doubts(dataset)))


def describe(inputs: Mapping[str, Input], train: np.ndarray) -> dict[str, Any]:
    """The fields ``inputs`` and ``lengths`` of a profile."""
    shapes: dict[str, tuple[int, ...]] = {}
    lengths: dict[str, tuple[int, ...]] = {}
    for name, value in inputs.items():
        if isinstance(value, Ragged):
            shapes[name] = (int(value.lengths.max()), *value.values.shape[1:])
            lengths[name] = percentiles(value.lengths[train])
        else:
            shapes[name] = value.values.shape if isinstance(value, Whole) else value.shape[1:]
    return {"inputs": shapes, "lengths": lengths}


@dataclass(frozen=True)
class Encoded:
    """New samples coded like the training data; ``labels`` of the targets that were there.

    ``names`` are the files of the samples (relative to the source) where each has its own,
    and empty for tables and arrays, whose rows keep their order. ``notes`` say in plain
    sentences which of the given parts these samples are.
    """

    inputs: dict[str, Input]
    labels: dict[str, np.ndarray]
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def encode(
    source: Any, profile: DataProfile, modality: str, targets: Sequence[Target] = ()
) -> Encoded:
    """Code new, possibly unlabeled data by the profile alone.

    ``source`` is one table, a folder of files or one file, an .npz file with x (and
    y) or with parts, of which x_test is read alone, a DataFrame, an array or tensor, or
    (X, y). Categories never seen in training get code 0; a column that is absent is an
    ``InputError``.
    """
    from nas.data import targets as labelling

    opened = _open(source, predict=True)
    notes: tuple[str, ...] = getattr(opened, "notes", ())
    reader = _reader(_known(modality))
    samples = reader.load_inputs(opened)
    if samples.given is not None:
        notes += ("the samples of all parts are predicted, those of training too",)
    inputs = reader.encode(samples.inputs, profile)
    columns = samples.labels if samples.labels.shape[1] else samples.columns
    of_files = isinstance(samples.inputs, list) and isinstance(samples.inputs[0], Path)
    names = tuple(name for name, _ in samples.files) if of_files else ()
    if len(targets) == 1 and samples.labels.shape[1] == 1:  # a folder's or an array's own name
        columns = columns.set_axis([targets[0].name], axis=1)
        if names and not set(columns[targets[0].name]) <= set(targets[0].classes):
            columns = columns.drop(columns=targets[0].name)  # folders of another meaning
    labels = labelling.encode(columns, tuple(targets), samples.place)
    return Encoded(inputs, labels, names, notes)


# Sources ---------------------------------------------------------------------------------


def _open(source: Any, *, predict: bool = False) -> Any:
    """The source as a path, a frame, or ``Arrays``; objects of other kinds as they are."""
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if not path.exists():
            siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            near = difflib.get_close_matches(path.name, siblings, n=1)
            raise UsageError(
                f"{path} does not exist"
                + (f"; did you mean {path.parent / near[0]}?" if near else "")
            )
        if path.is_dir() and not any(p.is_file() for p in path.rglob("*")):
            raise InputError(f"{path} is empty: there is no file in it; name another folder")
        if path.is_dir() and len(only := [f for f in path.iterdir() if f.name[0] != "."]) == 1:
            from nas.data.tables import is_table

            # A folder around one file of data stands for the file.
            if only[0].suffix.lower() == ".npz" or is_table(only[0]):
                path = only[0]
        if path.suffix.lower() == ".npz":
            from nas.data import graphs
            from nas.data.samples import read_npz

            return path if graphs.is_archive(path) else read_npz(path, predict=predict)
        return path
    import pandas as pd

    from nas.data.samples import Arrays, to_numpy

    if isinstance(source, pd.DataFrame):
        return source
    x, y = source if isinstance(source, tuple) and len(source) == 2 else (source, None)
    if isinstance(x, pd.DataFrame):
        return Arrays(x, y)
    if hasattr(x, "ndim") or (isinstance(x, list) and _rectangular(x)):
        return Arrays(to_numpy(x), y)
    if isinstance(x, (list, tuple)):  # texts, samples of different lengths, graphs
        return Arrays(list(x), y)
    return source


def _rectangular(x: list[Any]) -> bool:
    """Whether a list holds numbers, or arrays and lists of numbers, all of one shape."""
    try:
        return np.asarray(x).dtype.kind in "biuf"
    except (ValueError, TypeError):
        return False


def _known(modality: str) -> Modality:
    for known in MODALITIES:
        if modality == known:
            return known
    near = difflib.get_close_matches(modality, MODALITIES, n=1)
    raise UsageError(
        f"modality {modality!r} cannot be read; known are {', '.join(MODALITIES)}"
        + (f" (did you mean {near[0]}?)" if near else "")
    )


def _modality(
    source: Any, given: str | None, target: list[str] | None, columns: Mapping[str, str]
) -> tuple[Modality, str]:
    """The modality and why it is plain; no reason where the user said it.

    What a table holds is told by its columns, and any other source by its form.

    Raises UsageError where no reader or more than one claims the source.
    """
    if given is not None:
        return _known(given), ""
    from nas.data import multimodal

    if found := multimodal.kind_of_table(source, target, columns):
        return found
    claims = {kind: why for kind in MODALITIES if (why := _reader(kind).recognise(source))}
    if len(claims) == 1:
        return next(iter(claims.items()))
    name = source if isinstance(source, Path) else getattr(source, "name", "the data")
    told = "; ".join(f"{kind}: {why}" for kind, why in claims.items())
    raise UsageError(
        f"{name}: cannot tell what kind of data this is ({told or 'no reader knows its form'});"
        f" say --modality {' or '.join(claims or MODALITIES)}"
    )


def _reader(modality: Modality) -> Any:
    return import_module(f"nas.data.{modality}")


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


# Coding ----------------------------------------------------------------------------------


def _fingerprint(arrays: Mapping[str, Input]) -> str:
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
        for start in range(0, len(values), 4096):
            digest.update(values[start : start + 4096].astype(little, copy=False).tobytes())
    return digest.hexdigest()[:16]


def _leaked(
    inputs: Mapping[str, Input], labels: dict[str, np.ndarray], parts: dict[str, np.ndarray]
) -> int:
    """How many samples outside the training part equal one inside it. A text with unknown words
    does not count: another may read the same."""
    arrays = [a for a in (*inputs.values(), *labels.values()) if not isinstance(a, Whole)]
    texts = [a for name, a in inputs.items() if input_type(name) == "tokens"]

    def known(row: int) -> bool:
        return not any((text[row] == UNKNOWN).any() for text in texts if isinstance(text, Ragged))

    def digest(row: int) -> bytes:
        content = b"".join(array[row].tobytes() for array in arrays)
        return hashlib.blake2b(content, digest_size=16).digest()

    train = {digest(row) for row in parts["train"]}
    return sum(
        digest(row) in train and known(row) for part in ("val", "test") for row in parts[part]
    )
