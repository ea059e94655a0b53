"""Files with labels: in class folders, in part folders, or listed by a table."""

from __future__ import annotations

import csv
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data.samples import PART_NAMES, Samples, read_parts
from nas.data.tables import is_table, read_table
from nas.task import InputError, UsageError

FILE_COLUMNS = ("file_name", "file", "path")
THREADS = 8


@dataclass(frozen=True)
class Files:
    """The files of one modality: their endings, and what one of them is called.

    Every source is a folder of class folders, of train, val and test folders of these, or
    a table with one row for each file: a metadata.csv or the only table of a folder, or the
    table itself. Its column file_name, file or path is relative to it, or to one subfolder
    beside it; "split" divides the rows; all others are targets or groups.
    """

    suffixes: tuple[str, ...]
    noun: str

    def find(self, folder: Path) -> list[Path]:
        """All files below a folder, in the order of their paths; hidden ones are no data."""
        return sorted(
            path
            for path in folder.rglob("*")
            if self.has(path.name) and not path.name.startswith(".") and path.is_file()
        )

    def has(self, name: object) -> bool:
        return str(name).strip().lower().endswith(self.suffixes)

    def recognise(self, source: object) -> str:
        """Why a path or a frame plainly holds such files, or ""."""
        if isinstance(source, Path) and source.is_dir():
            listing = self.listing(source)
            if listing is not None:
                return self.recognise(listing)
            return f"{source.name} holds {self.noun} files" if self.find(source) else ""
        if isinstance(source, Path) and is_table(source):
            source = _opening(source)
        if isinstance(source, pd.DataFrame):
            named = [c for c in FILE_COLUMNS if c in source]
            if named and source[named[0]].head(100).map(self.has).all():
                return f"its column {named[0]!r} names {self.noun} files"
        return ""

    def load(self, source: Path | pd.DataFrame, target: list[str] | None) -> Samples:
        """A list of files, with one label column (or those that ``target`` names)."""
        if isinstance(source, pd.DataFrame):
            return self._listed(source, Path(), "the table", target)
        if source.is_file() and not is_table(source):
            raise UsageError(
                f"{source} is one {self.noun} file; give the folder of the files or their table"
            )
        listing = source if source.is_file() else self.listing(source)
        if listing is not None:
            return self._listed(read_table(listing), listing.parent, str(listing), target)
        folders = subfolders(source)
        parts = {path: PART_NAMES.get(path.name.lower()) for path in folders}
        if 0 not in parts.values():
            return self._classes(source, source, target)
        other = [path.name for path, part in parts.items() if part is None]
        if other:
            raise InputError(
                f"{source} holds the part folder train beside {', '.join(map(repr, other[:5]))};"
                " keep only train, val and test there"
            )
        loaded = [self._part(path, source, target) for path in parts]
        names = [set(part.labels.columns) for part in loaded]
        if any(each != names[0] for each in names):
            raise InputError(f"{source}: the parts differ in their target columns")
        labels = pd.concat([part.labels for part in loaded], ignore_index=True)
        if all(isinstance(c.dtype, pd.CategoricalDtype) for _, c in loaded[0].labels.items()):
            labels = labels.astype("category")  # lost where the parts differ in their classes
        return Samples(
            [file for part in loaded for file in part.inputs],
            labels,
            np.concatenate(
                [
                    np.full(len(part.inputs), code, np.int8)
                    for part, code in zip(loaded, parts.values(), strict=True)
                ]
            ),
            pd.concat([part.columns for part in loaded], ignore_index=True),
            tuple(name for part in loaded for name in part.files),
        )

    def load_inputs(self, source: Path | pd.DataFrame) -> Samples:
        """Files to predict, labelled or not: one, those of a table in its order, or all of a
        folder in the order of their paths, whose names are their labels where all have one."""
        if isinstance(source, pd.DataFrame):
            return self._unlabelled(source, Path(), "the table")
        listing = self.listing(source) if source.is_dir() else source
        if listing is not None and is_table(listing):
            return self._unlabelled(read_table(listing), listing.parent, str(listing))
        files = self.find(source) if source.is_dir() else [source]
        if not files:
            raise InputError(f"{source} holds no {self.noun} file ({', '.join(self.suffixes)})")
        base = source if source.is_dir() else source.parent
        folders = [file.relative_to(base).parts[0] for file in files if file.parent != base]
        labels = pd.DataFrame(index=range(len(files)))
        if len(folders) == len(files):
            labels["label"] = pd.Categorical(folders)
        return Samples(files, labels, None, labels, _names(files, base))

    def listing(self, folder: Path) -> Path | None:
        """The table that lists a folder's files: metadata.csv, or the only one at its top."""
        if (folder / "metadata.csv").is_file():
            return folder / "metadata.csv"
        tables = [p for p in folder.iterdir() if is_table(p) and not p.name.startswith(".")]
        return tables[0] if len(tables) == 1 and self.recognise(tables[0]) else None

    def _part(self, folder: Path, source: Path, target: list[str] | None) -> Samples:
        listing = self.listing(folder)
        if listing is None:
            return self._classes(folder, source, target)
        return self._listed(read_table(listing), folder, str(listing), target, source)

    def _classes(self, folder: Path, source: Path, target: list[str] | None) -> Samples:
        if target is not None and len(target) > 1:
            raise UsageError(
                f"{folder}: class folders are one target; name one, or add metadata.csv"
            )
        found = {path.name: self.find(path) for path in subfolders(folder)}
        if not any(found.values()):
            loose = len(self.find(folder))
            what = f"{loose} {self.noun} files" if loose else f"no {self.noun} file"
            none = ", but none in a folder named for its class" if loose else ""
            raise InputError(
                f"{folder} holds {what}{none}; expected one folder per class, or a metadata.csv"
                f" with file_name and a target column ({self.noun} files end in"
                f" {', '.join(self.suffixes)})"
            )
        if empty := [label for label, files in found.items() if not files]:
            raise InputError(
                f"{folder}: no {self.noun} file in the class folder"
                f" {', '.join(map(repr, empty[:5]))}; fill or remove it"
            )
        files = [file for group in found.values() for file in group]
        # A folder is a class, even if it is called 07 or null.
        names = pd.Categorical([label for label, group in found.items() for _ in group])
        labels = pd.DataFrame({target[0] if target else "label": names})
        return Samples(files, labels, None, labels, _names(files, source))

    def _listed(
        self,
        table: pd.DataFrame,
        base: Path,
        where: str,
        target: list[str] | None,
        source: Path | None = None,
    ) -> Samples:
        files, column = self._files(table, base, where)
        others = [c for c in table.columns if c not in (column, "split")]
        if target is None:
            target = ["label"] if "label" in others else others
            if len(target) != 1:
                named = ", ".join(map(str, others)) or "none"
                raise UsageError(f"{where}: name the target column, one of {named}")
        if unknown := [name for name in target if name not in table]:
            raise UsageError(
                f"{where} has no target column {unknown[0]!r}; its columns are"
                f" {', '.join(map(str, others))}"
            )
        given = None
        if "split" in table and "split" not in target:
            known = table["split"].astype("str").str.strip().str.lower().isin(PART_NAMES)
            if known.any():
                given = read_parts(table["split"], where)
        return Samples(files, table[target], given, table, _names(files, source or base))

    def _unlabelled(self, table: pd.DataFrame, base: Path, where: str) -> Samples:
        files, column = self._files(table, base, where)
        return Samples(files, table.drop(columns=column), None, table, _names(files, base))

    def _files(self, table: pd.DataFrame, base: Path, where: str) -> tuple[list[Path], str]:
        """The files of a table's rows, all in one folder, and the column that names them."""
        columns = [c for c in FILE_COLUMNS if c in table]
        if not columns:
            raise InputError(
                f"{where} has no column {', '.join(FILE_COLUMNS[:-1])} or {FILE_COLUMNS[-1]};"
                f" it has {', '.join(map(str, table.columns))}"
            )
        names = [str(name).strip() for name in table[columns[0]]]
        roots = [base, *(subfolders(base) if base != Path() else [])]
        missing = {root: [name for name in names if not (root / name).is_file()] for root in roots}
        whole = [root for root in roots if not missing[root]]
        if len(whole) > 1 and whole[0] != base:
            raise InputError(
                f"{where}: the folders {', '.join(repr(r.name) for r in whole)} all hold the files"
                f" it names; put the folder into the column {columns[0]!r}"
            )
        if not whole:
            lost = min(missing.values(), key=len)
            raise InputError(
                f"{where} names {len(lost)} files that do not exist: {', '.join(lost[:3])}"
                f"{' …' if len(lost) > 3 else ''}; {columns[0]} is relative to"
                f" {'the table' if base != Path() else 'the working folder'}"
            )
        return [whole[0] / name for name in names], columns[0]


IMAGES = Files(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"), "image"
)
SOUNDS = Files((".wav", ".flac", ".ogg"), "audio")
CLOUDS = Files((".off", ".ply", ".npy"), "point cloud")


def _opening(path: Path) -> pd.DataFrame | None:
    """The first rows of a table of text, however long it is; none where it cannot be read:
    whoever reads it then says why."""
    try:
        return pd.read_csv(path, sep=None, engine="python", nrows=100, dtype=str)
    except (OSError, ValueError, EOFError, zlib.error, csv.Error):
        return None


def subfolders(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def _names(files: list[Path], base: Path) -> tuple[tuple[str, int], ...]:
    below = (str(f.relative_to(base)) if f.is_relative_to(base) else str(f) for f in files)
    return tuple((name, 1) for name in below)


def read_each(
    sources: Sequence[Any],
    work: Callable[..., Any],
    errors: tuple[type[Exception], ...],
    say: Callable[[Exception], str],
    *beside: Iterable[Any],
) -> tuple[list[Any], list[tuple[int, str]]]:
    """``work`` of every file or array, with what ``beside`` holds for each, several at a time;
    and the rows of those that end in one of ``errors`` with the reason in the words of ``say``."""

    def attempt(source: Any, *more: Any) -> tuple[Any, str]:
        try:
            return work(source, *more), ""
        except errors as error:
            if isinstance(source, Path) and source.is_file() and not source.stat().st_size:
                return None, "empty"
            return None, say(error) or type(error).__name__

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        done = list(pool.map(attempt, sources, *beside))
    return [found for found, _ in done], [(row, why) for row, (_, why) in enumerate(done) if why]


def refuse_bad(sources: Sequence[Any], bad: list[tuple[int, str]], nouns: str, noun: str) -> None:
    """Raise InputError that names at once all that cannot be read."""
    if not bad:
        return
    names = [sources[r] if isinstance(sources[r], Path) else f"{noun} {r + 1}" for r, _ in bad]
    shown = "; ".join(f"{n} ({why})" for n, (_, why) in zip(names[:5], bad, strict=False))
    raise InputError(
        f"{len(bad)} of {len(sources)} {nouns} cannot be read: {shown}"
        f"{' …' if len(bad) > 5 else ''}; replace or remove them"
    )
