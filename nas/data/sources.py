"""Sources: opens what a user names as the data and decides which modality it is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nas.data.pipes import is_pipe, kept
from nas.data.readers import MODALITIES, reader
from nas.task import InputError, Modality, UsageError

_UNKNOWN = (
    "holds no data that is read: give a table (.csv, .parquet, .xlsx …), a folder with a folder of"
    " images, sounds, clouds or texts for each class, graphs, or an .npz of x and y"
)
MOST_HEADERS = 20  # of the tables in a folder, in search of a column's name
# What an archive holds in a folder of its own; the readers of files find class folders themselves.
_WRAPPED: tuple[Modality, ...] = ("tabular", "series", "graphs")


def open_source(source: Any, *, predict: bool = False) -> Any:
    """The source as a path, a frame, or ``Arrays``; objects of other kinds as they are."""
    if isinstance(source, (str, Path)):
        from nas.data.folders import walk

        path = _path(source)
        if not str(source).strip():
            raise UsageError("the data has no name; give the path of a file or a folder")
        if re.match(r"\w+:/", str(source)) and not path.exists():
            raise UsageError(f"{source} is an address, and nothing is downloaded; give a file")
        if not path.exists():
            siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            near = difflib.get_close_matches(path.name, siblings, n=1)
            raise UsageError(
                f"{path} does not exist"
                + (f"; did you mean {path.parent / near[0]}?" if near else "")
            )
        if is_pipe(path):
            path = kept(path)
        if path.is_file():
            from nas.data.forms import refuse_unread

            refuse_unread(path, predict=predict)
        if path.is_dir() and not any(p.is_file() for p in walk(path)):
            raise InputError(f"{path} is empty: there is no file in it; name another folder")
        if path.is_dir():
            path = _unwrapped(path)
        if path.is_dir() and len(only := list(islice(walk(path), 2))) == 1:
            from nas.data.tables import is_table

            # A folder around one file of data stands for the file.
            if only[0].suffix.lower() == ".npz" or is_table(only[0]):
                path = only[0]
        if path.is_dir() and (texts := _texts_in(path, predict)):
            return texts
        if path.suffix.lower() == ".npz":
            from nas.data import graphs
            from nas.data.samples import read_npz

            return path if graphs.is_archive(path) else read_npz(path, predict=predict)
        return path
    import pandas as pd

    from nas.data import graphs
    from nas.data.objects import plain_object, refuse_unknown
    from nas.data.samples import Arrays, to_numpy

    source = plain_object(source)
    if isinstance(source, pd.DataFrame):
        return source
    x, y = source if isinstance(source, tuple) and len(source) == 2 else (source, None)
    if isinstance(x, pd.DataFrame):
        return Arrays(x, y)
    if hasattr(x, "ndim") or (isinstance(x, list) and _rectangular(x)):
        return Arrays(to_numpy(x), y)
    if isinstance(x, (list, tuple)):  # texts, samples of different lengths, graphs
        return Arrays(list(x), y)
    if not graphs.recognise(source):
        refuse_unknown(source)
    return source


def _path(source: str | Path) -> Path:
    """The path that a user names; UsageError where the system takes no such name."""
    try:
        path = Path(source).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        name = str(source)
        shown = name if len(name) <= 80 else f"{name[:77]}…"
        raise UsageError(f"{shown!r} cannot be opened: {reason}") from None
    return path


def _unwrapped(folder: Path) -> Path:
    """The folder that alone stands in another, and alone in that one, where it holds tables or
    graphs; else the folder itself."""
    from nas.data.folders import is_hidden
    from nas.data.samples import PART_NAMES

    inner = folder
    while len(below := [path for path in inner.iterdir() if not is_hidden(path.name)]) == 1:
        if not below[0].is_dir() or below[0].name.lower() in PART_NAMES:
            break
        inner = below[0]
    known = inner != folder and any(reader(kind).recognise(inner) for kind in _WRAPPED)
    return inner if known else folder


def _texts_in(folder: Path, predict: bool) -> Any:
    """The texts of class folders; None where the folder holds graphs or other data."""
    from nas.data import graphs
    from nas.data.text_files import text_folder

    return None if graphs.recognise(folder) else text_folder(folder, predict=predict)


def _rectangular(x: list[Any]) -> bool:
    """Whether a list holds numbers, or arrays and lists of numbers, all of one shape."""
    try:
        return np.asarray(x).dtype.kind in "biuf"
    except (ValueError, TypeError):
        return False


def known_modality(modality: str) -> Modality:
    for known in MODALITIES:
        if modality == known:
            return known
    near = difflib.get_close_matches(modality, MODALITIES, n=1)
    raise UsageError(
        f"unknown modality {modality!r}; known are {', '.join(MODALITIES)}"
        + (f" (did you mean {near[0]}?)" if near else "")
    )


def modality_of(
    source: Any, given: str | None, target: list[str] | None, columns: Mapping[str, str]
) -> tuple[Modality, str]:
    """The modality and the reason for it; the reason is "" where the user named the modality.

    A table is judged by its columns, any other source by its form.

    Raises UsageError where no reader or more than one recognises the source.
    """
    if given is not None:
        return known_modality(given), ""
    from nas.data import multimodal

    if found := multimodal.kind_of_table(source, target, columns):
        return found
    claims = {kind: why for kind in MODALITIES if (why := reader(kind).recognise(source))}
    if len(claims) == 1:
        return next(iter(claims.items()))
    from nas.data.objects import EXPECTED

    name = source if isinstance(source, Path) else getattr(source, "name", "the data")
    if not claims and isinstance(source, Path):
        from nas.data.folders import walk
        from nas.data.forms import repair_of

        if source.is_dir() and (repair := repair_of(walk(source))):
            raise UsageError(f"{name} holds no data that is read; {repair}")
        raise UsageError(f"{name} {_UNKNOWN}")
    if not claims:
        raise UsageError(f"the form of the data is not known; {EXPECTED}")
    reasons = "; ".join(f"{kind}: {why}" for kind, why in claims.items())
    raise UsageError(
        f"{name}: the modality is not clear ({reasons}); say --modality {' or '.join(claims)}"
    )


def target_names(target: Sequence[str] | None, source: Any) -> list[str] | None:
    """The target columns of an opened source; names that a comma was read into are joined again.

    Raises UsageError where a column is named twice.
    """
    if target is None:
        return None
    names = list(target)
    if len(names) > 1 or any("," in name for name in names):
        from nas.data.column_types import names_in

        names = names_in(names, _columns(source))
    double = sorted({name for name in names if names.count(name) > 1})
    if double or not names:
        raise UsageError(
            f"target names {', '.join(double) or 'no column'}{' twice' * bool(double)}"
        )
    return names


def _columns(source: Any) -> list[str]:
    """The names of all columns of a source, or of the tables in and one level below a folder."""
    import pandas as pd

    from nas.data.samples import Arrays
    from nas.data.tables import is_table, read_table

    if isinstance(source, Arrays):
        return [*_columns(source.x), *_columns(source.y)]
    if isinstance(source, pd.Series):
        return [str(source.name)]
    if isinstance(source, pd.DataFrame):
        return list(map(str, source.columns))
    if not isinstance(source, Path):
        return []
    files = [source] if source.is_file() else [*source.glob("*"), *source.glob("*/*")]
    found = [path for path in files if is_table(path) and path.is_file()][:MOST_HEADERS]
    return [str(name) for path in found for name in read_table(path, rows=1).columns]
