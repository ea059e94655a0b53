"""Which files a folder's preprocess.py reads, where each sample is a file."""

from __future__ import annotations

import csv
from pathlib import Path

from nas.task import InputError

COLUMNS = ("file_name", "file", "path")  # of a table that lists files


def files_of(source: Path, endings: tuple[str, ...]) -> list[Path]:
    """One file, those that a CSV table (or the metadata.csv of a folder) lists, or all below a
    folder, in the order of their paths."""
    table = source / "metadata.csv" if source.is_dir() else source
    if table.suffix.lower() == ".csv" and table.is_file():
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        column = next((name for name in COLUMNS if rows and name in rows[0]), None)
        if column is None:
            raise InputError(f"{table} has no column {' or '.join(COLUMNS)}")
        return [table.parent / row[column] for row in rows]
    if source.is_file():
        return [source]
    found = sorted(p for p in source.rglob("*") if p.is_file() and p.suffix.lower() in endings)
    if not found:
        raise InputError(f"{source} holds no file with one of the endings {', '.join(endings)}")
    return found
