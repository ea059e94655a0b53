"""Data of any ordinary form to one ``Dataset``: coded inputs, labels, parts and a profile.

``read`` gives the data set to search on, ``encode`` new samples to predict, and ``Dataset.load``
one that was saved. Each modality has a module of its name, with the functions of
``nas.data.readers.Reader``.

Nothing here imports torch, and pandas and Pillow are imported only where a source is read: a
worker that loads a saved data set needs NumPy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.data.dataset import Dataset, count_leaked, fingerprint
from nas.data.ragged import Input
from nas.files import release
from nas.options import ReadOptions, takes
from nas.task import DataProfile, InputError, Target, UsageError

if TYPE_CHECKING:
    from nas.data.samples import Samples

__all__ = ["Dataset", "Encoded", "categories", "encode", "read"]

FEWEST_ROWS = 10


@takes(ReadOptions)
def read(source: Any, **options: Any) -> Dataset:
    """Read, divide and code a data set.

    What a network learns of the data (means, spreads, bin edges, categories) comes from the
    training part; the classes, the kinds of columns and the common size of images from all parts.

    Args:
        source: A table (.csv, .tsv, .jsonl, .gz of these, .json, .parquet, .feather, .xlsx); a
            folder with train and test tables; a folder of class folders (inside train, val and test
            folders or not) or with a metadata.csv; .ts or .arff files of sequences; an .npz file; a
            .zip of any of these; a frame of pandas, polars, pyarrow or Hugging Face; (X, y) of
            NumPy arrays, sparse matrices, pandas objects or torch tensors; a torch data set of (x,
            y); graphs of torch_geometric or networkx; or another form that the module of a modality
            names.
        {options}

    Raises:
        UsageError: For a wrong call, as a target column that does not exist.
        InputError: For wrong data. Both are one line.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"x": range(100), "y": ["no", "yes"] * 50})
    >>> data = read(frame, target="y")
    >>> data.modality, data.targets[0].kind, data.inputs["numeric"].shape
    ('tabular', 'binary', (100, 1))
    >>> {part: len(rows) for part, rows in data.parts.items()}
    {'train': 70, 'val': 15, 'test': 15}
    """
    from nas.data import long_tables, sources
    from nas.data import split as splits
    from nas.data import targets as labelling
    from nas.data.archives import is_zip, unpacked
    from nas.data.column_types import check_modality
    from nas.data.readers import reader

    if is_zip(source):
        with unpacked(Path(source)) as folder:
            return read(folder, **options)
    how = ReadOptions(**options)
    opened = sources.open_source(source)
    names = sources.target_names(how.target, opened)
    asked = "series" if how.is_long else how.modality
    kind, why = sources.modality_of(opened, asked, names, how.columns or {})
    if how.image_size is not None and kind != "images":
        raise UsageError(f"image_size is for images, but the data is {kind}")
    check_modality(how.columns or {}, kind)
    if how.is_long:
        samples = long_tables.gather(opened, names, how)
    else:
        samples = reader(kind).load(opened, names, how.columns or {})
    n = len(samples.inputs)
    if n < FEWEST_ROWS:
        raise InputError(f"at least {FEWEST_ROWS} samples are needed, got {n}")
    labels, notes = labelling.infer(samples.labels, how.problem or samples.problem, samples.place)
    classified = [label for label in labels if label.target.kind in ("binary", "multiclass")]
    strata = classified[0].values if classified else None
    parts, method = _divided(samples, strata, how)
    by, _, column = (how.split or "").partition("=")
    targets = tuple(labelling.describe(label, parts["train"]) for label in labels)
    values = {label.target.name: label.values for label in labels}

    held = getattr(samples.inputs, "frame", samples.inputs)  # of a manifest its table
    of_columns = kind in ("tabular", "multimodal", "series") and hasattr(held, "columns")
    if of_columns and by in ("column", "group", "time") and column in held.columns:
        samples = replace(samples, inputs=samples.inputs.drop(columns=column))
        notes.append(f"column {column!r} divides the data and is not an input")
    inputs, profile, more = reader(kind).code(samples, parts["train"], **_own(kind, how))
    notes = [*([f"{kind}: {why}"] if why else []), *samples.notes, *notes, *more]
    profile = replace(
        profile,
        n_val=len(parts["val"]),
        n_test=len(parts["test"]),
        split=splits.membership(parts),
        split_method=method,
    )
    dataset = Dataset(kind, targets, profile, inputs, values, parts)
    return _checked(dataset, notes)


def _checked(dataset: Dataset, notes: list[str]) -> Dataset:
    """The data with its fingerprint, its notes, and warnings of what is wrong with it."""
    from nas.data.warnings import duplicates, warnings

    inputs, labels, parts = dataset.inputs, dataset.labels, dataset.parts
    with ThreadPoolExecutor(1) as beside:  # hashing and sorting do not hold the interpreter
        hashed = {**inputs, **{f"label {name}": values for name, values in labels.items()}}
        digest, warned = beside.submit(fingerprint, hashed), beside.submit(warnings, dataset)
        outside = len(parts["val"]) + len(parts["test"])
        notes = [*notes, *duplicates(count_leaked(inputs, labels, parts), outside)]
    profile = replace(dataset.profile, fingerprint=digest.result())
    for array in inputs.values():
        release(array if isinstance(array, np.ndarray) else array.values)
    return replace(dataset, profile=profile, notes=(*notes, *warned.result()))


def _own(kind: str, how: ReadOptions) -> dict[str, Any]:
    """What one modality alone is coded by."""
    from nas.pretrained.tokenizer import folders

    if kind == "images":
        return {"image_size": how.image_size}
    if kind in ("text", "multimodal") and how.pretrained:
        return {"tokenizers": folders(how.pretrained)}
    return {}


def _divided(
    samples: Samples, strata: np.ndarray | None, how: ReadOptions
) -> tuple[dict[str, np.ndarray], str]:
    """The parts of the data, and how they came about."""
    from nas.data import split as splits

    if how.horizon:  # windows are divided as they are made, into all three parts
        parts, _ = splits.divide(samples, strata, None, how.seed)
        return parts, f"time within each sequence, {how.split or '70/15/15'}"
    return splits.divide(samples, strata, how.split, how.seed)


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
    columns: Any = None  # the columns of the source as they were read, one row a sample


def encode(
    source: Any, profile: DataProfile, modality: str, targets: Sequence[Target] = ()
) -> Encoded:
    """Code new samples, labelled or not, by the profile of the training data alone.

    Args:
        source: One table, a folder of files or one file, an .npz file with x (and y) or with
            parts, of which x_test is read alone, a DataFrame, an array or tensor, or (X, y).
        profile: Of the training data, see ``Dataset.profile``.
        modality: Of the training data.
        targets: Of the training data; their columns are read where they are there.

    Raises:
        InputError: For a column that is absent, or for values of another kind than in training.
            Categories that training has not seen get code 0.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"x": range(100), "y": ["no", "yes"] * 50})
    >>> data = read(frame, target="y")
    >>> encode(pd.DataFrame({"x": [3.0]}), data.profile, data.modality).inputs["numeric"]
    array([[3.]], dtype=float32)
    """
    from nas.data import sources
    from nas.data import targets as labelling
    from nas.data.archives import is_zip, unpacked
    from nas.data.readers import reader

    if is_zip(source):
        with unpacked(Path(source)) as folder:
            return encode(folder, profile, modality, targets)
    opened = sources.open_source(source, predict=True)
    notes: tuple[str, ...] = getattr(opened, "notes", ())
    read_by = reader(sources.known_modality(modality))
    written = {*labelling.columns_of(targets), *categories(profile)}
    if profile.series is not None and profile.series.is_long:
        from nas.data import long_tables

        labelled = [name for target in targets for name in labelling.names_of(target)]
        samples = long_tables.gather_new(opened, profile, labelled)
    elif profile.series is not None:
        from nas.data import series

        samples = series.load_new(opened, profile, written)
    else:
        samples = read_by.load_inputs(opened, written)
    if samples.given is not None:
        notes += ("the samples of all parts are predicted, those of training too",)
    notes += samples.notes
    inputs = read_by.encode(samples.inputs, profile)
    columns = samples.labels if samples.labels.shape[1] else samples.columns
    of_files = isinstance(samples.inputs, list) and isinstance(samples.inputs[0], Path)
    of_files = of_files or (profile.series is not None and bool(profile.series.sequence))
    names = tuple(name for name, _ in samples.files) if of_files else ()
    if len(targets) == 1 and samples.labels.shape[1] == 1:
        columns, unknown = labelling.of_target(samples.labels, targets[0], of_files=bool(names))
        notes += unknown
    labels = labelling.encode(columns, tuple(targets), samples.place)
    return Encoded(inputs, labels, names, notes, samples.columns)


def categories(profile: DataProfile) -> set[str]:
    """The columns whose values are kept as they are written: categories, texts, and amounts, of
    which "1.118" may be 1118."""
    from nas.data.columns import AMOUNTS

    members = (member.profile for member in profile.members.values())
    columns = [*profile.columns, *(c for of in members for c in of.columns if c.kind != "text")]
    return {c.name for c in columns if c.kind != "numeric" or c.form in AMOUNTS}
