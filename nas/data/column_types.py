"""The types that a user may give to columns, as {"photo": "image", "customer_id": "ignore"}."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from nas.data.columns import numbers
from nas.data.csv_files import MISSING
from nas.task import InputError, Modality, UsageError

# What the user calls a column, and the modality that reads it.
TYPES: dict[str, Modality] = {
    "image": "images", "audio": "audio", "text": "text", "pointcloud": "pointclouds",
    "series": "series",
    "graph": "graphs", "numeric": "tabular", "categorical": "tabular",
}  # fmt: skip
IGNORE = "ignore"


def check_types(types: Mapping[str, str], columns: Iterable[object]) -> None:
    """Raise UsageError for a type that is not known and for a name that is no input column."""
    names = [str(name) for name in columns]
    for name, kind in types.items():
        if kind not in TYPES and kind != IGNORE:
            near = difflib.get_close_matches(kind, [*TYPES, IGNORE], n=1)
            raise UsageError(
                f"column {name!r} cannot be of the type {kind!r}"
                + (f" (did you mean {near[0]}?)" if near else "")
                + f"; types are {', '.join(TYPES)}, {IGNORE}"
            )
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise UsageError(
                f"there is no input column {name!r} to be of the type {kind}"
                + (f"; did you mean {near[0]!r}?" if near else "")
                + f"; the input columns are {', '.join(names) or 'none'}"
            )


def check_modality(types: Mapping[str, str], modality: Modality) -> None:
    """Raise UsageError for a type of column that data of the modality does not have."""
    if modality not in ("tabular", "text"):  # multimodal data has all; others check for themselves
        return
    for name, kind in types.items():
        if TYPES.get(kind, modality) not in ("tabular", modality):
            raise UsageError(
                f"column {name!r} cannot be of the type {kind!r} in {modality} data; leave the"
                " modality out, or say multimodal"
            )


def ignored_only(types: Mapping[str, str], columns: Iterable[object], kind: str) -> set[str]:
    """The columns to ignore of a source whose columns can have no other type.

    Raises UsageError for one that is absent, and for another type than ``IGNORE``.
    """
    check_types(types, columns)
    for name, given in types.items():
        if given != IGNORE:
            raise UsageError(f"column {name!r} of {kind} data can only be of the type {IGNORE}")
    return set(types)


def apply_types(frame: pd.DataFrame, types: Mapping[str, str]) -> pd.DataFrame:
    """The input columns without those to ignore, numbers and categories as the user says.

    Raises UsageError as ``check_types``, and InputError for a numeric column without a number.
    """
    check_types(types, frame.columns)
    frame = frame.drop(columns=[name for name, kind in types.items() if kind == IGNORE])
    for name, kind in types.items():
        if kind == "categorical":
            column = frame[name]
            frame[name] = column.mask(column.isin(MISSING)).astype("category")
        elif kind == "numeric":
            read = numbers(frame[name])
            if read.wrong and pd.isna(read.values).all():
                raise InputError(f"column {name!r} holds no number ({read.wrong[0]!r})")
            frame[name] = read.values
    return frame


def names_in(names: Sequence[str], columns: Iterable[object]) -> list[str]:
    """Names that are separated or cut by commas, as the columns are called; the names as they are
    where one of them is no column.

    >>> names_in(["price", " EUR", "b"], ["price, EUR", "a", "b"])
    ['price, EUR', 'b']
    >>> names_in(["b,price, EUR"], ["price, EUR", "a", "b"])
    ['b', 'price, EUR']
    """
    known = {_plain(str(column)): str(column) for column in columns}
    pieces = [
        piece for name in names for piece in ([name] if _plain(name) in known else name.split(","))
    ]
    found: list[str] = []
    while pieces:
        joined = [_plain(",".join(pieces[:end])) for end in range(1, len(pieces) + 1)]
        fitting = [end for end, name in enumerate(joined, 1) if name in known]
        if not fitting:
            return list(names)
        end = 1 if 1 in fitting else fitting[-1]
        found.append(known[joined[end - 1]])
        pieces = pieces[end:]
    return found


def _plain(name: str) -> str:
    """A name without quotes around it and spaces around its commas."""
    text = name.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    return ",".join(part.strip() for part in text.split(","))
