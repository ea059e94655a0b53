"""Which files a folder's preprocess.py reads, where each sample is a file."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

from nas.data.folders import FILE_COLUMNS, subfolders, walk
from nas.task import InputError


def files_of(source: Path, *endings: Collection[str]) -> list[Path]:
    """One file, those that a CSV table (or the metadata.csv of a folder) lists, or all below a
    folder that are not hidden, in the order of their paths: those with the first of ``endings``
    that there are files of."""
    table = source / "metadata.csv" if source.is_dir() else source
    if table.suffix.lower() == ".csv" and table.is_file():
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        column = next((name for name in FILE_COLUMNS if rows and name in rows[0]), None)
        if column is not None:
            return _listed(table.parent, [(row[column] or "").strip() for row in rows])
        if source.is_dir() or ".csv" not in endings[0]:
            raise InputError(f"{table} has no column {' or '.join(FILE_COLUMNS)}")
    if source.is_file():
        return [source]
    below = sorted(file for file in walk(source) if file.is_file())
    for each in endings:
        if found := [file for file in below if file.suffix.lower() in each]:
            return found
    known = ", ".join(ending for each in endings for ending in each)
    raise InputError(f"{source} holds no file with one of the endings {known}")


def _listed(folder: Path, names: list[str]) -> list[Path]:
    """Files of a table in ``folder``: relative to it, or to the one subfolder that holds all."""
    roots = [folder, *subfolders(folder)]
    whole = [root for root in roots if all((root / name).is_file() for name in names)]
    if len(whole) > 1 and whole[0] != folder:
        shown = ", ".join(repr(root.name) for root in whole)
        raise InputError(f"the folders {shown} all hold the files of the table; keep one of them")
    return [(whole or roots)[0] / name for name in names]
