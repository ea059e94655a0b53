"""Files with labels: in class folders, in part folders, or listed by a table."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data.column_types import ignored_only
from nas.data.forms import repair_of
from nas.data.limits import THREADS
from nas.data.samples import PART_NAMES, Samples, read_parts
from nas.data.tables import is_table, read_table
from nas.data.tabular import names_parts
from nas.task import InputError, UsageError

FILE_COLUMNS = ("file_name", "file", "path")
PROBED = 10  # files of a table, by which the folder that holds them is found
# Folders that programs make beside the user's, and files that they leave in them.
HIDDEN = {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information",
          "lost+found", "Thumbs.db", "desktop.ini"}  # fmt: skip
_ENDING = re.compile(r"\.[a-z][a-z0-9_]{0,5}$")
# Endings whose modality is known: not worth importing a library to ask whether it claims them.
_KNOWN = {
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet", ".npz", ".gz", ".md",
    ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
    ".wav", ".flac", ".ogg", ".off", ".ply", ".npy", ".pcd", ".xyz",
}  # fmt: skip


@dataclass(frozen=True)
class Files:
    """The files of one modality: their endings, and what one of them is called.

    ``common`` are the endings that every installation reads, and ``registered`` returns those
    that the library behind reads besides; it is called, and the library imported, only for a
    file with another ending.

    Every source is a folder of class folders, of train, val and test folders of these, or a
    table with one row for each file: a metadata.csv or the only table of a folder, or the
    table itself. Its column file_name, file or path is relative to it, or to one subfolder
    beside it; "split" divides the rows; all others are targets or groups. A folder that holds
    nothing but one folder stands for that one.
    """

    common: tuple[str, ...]
    noun: str
    registered: Callable[[], Iterable[str]] = tuple

    @cached_property
    def suffixes(self) -> frozenset[str]:
        """All endings, in lower case with their dot."""
        return frozenset((*self.common, *self.registered()))

    def has(self, name: object) -> bool:
        """Whether a file of this name is of the modality, by its ending."""
        text = str(name).strip().lower()
        if text.endswith(self.common):
            return True
        ending = _ENDING.search(text)
        return ending is not None and ending[0] not in _KNOWN and ending[0] in self.suffixes

    def find(self, folder: Path) -> list[Path]:
        """All files of the modality below a folder, in the order of their paths; what is hidden
        is left out, and links are followed."""
        return sorted(Path(entry.path) for entry in self._matches(folder))

    def any_in(self, folder: Path) -> bool:
        """Whether ``find`` finds a file."""
        return next(self._matches(folder), None) is not None

    def _matches(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        return (e for e in _entries(folder) if self.has(e.name) and e.is_file())

    def recognise(self, source: object) -> str:
        """Why a path or a frame plainly holds such files, or ""."""
        if isinstance(source, Path) and source.is_dir():
            listing = self.listing(source)
            if listing is not None:
                return self.recognise(listing)
            return f"{source.name} holds {self.noun} files" if self.any_in(source) else ""
        if isinstance(source, Path) and is_table(source):
            source = _first_rows(source)
        if isinstance(source, pd.DataFrame):
            named = [c for c in FILE_COLUMNS if c in source]
            if named and source[named[0]].head(100).map(self.has).all():
                return f"its column {named[0]!r} names {self.noun} files"
        return ""

    def load(
        self, source: Path | pd.DataFrame, target: list[str] | None, columns: Mapping[str, str]
    ) -> Samples:
        """A list of files, with one label column (or those that ``target`` names); ``columns``
        says which others to ignore."""
        if isinstance(source, pd.DataFrame):
            return self._listed(self._without(source, columns), Path(), "the table", target)
        if source.is_file() and not is_table(source):
            raise UsageError(
                f"{source} is one {self.noun} file; give the folder of the files or their table"
            )
        if source.is_file():
            table = self._without(_labels_of(source), columns)
            return self._listed(table, source.parent, str(source), target)
        inner = self._unwrapped(source)
        if (listing := self.listing(inner)) is not None:
            table = self._without(_labels_of(listing), columns)
            return self._listed(table, inner, str(listing), target, source)
        parts = self._part_folders(inner)
        if not parts:
            ignored_only(columns, (), self.noun)
            return self._classes(inner, source, target)
        loaded = [self._part(path, source, target, columns) for path in parts]
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
            tuple(dict.fromkeys(note for part in loaded for note in part.notes)),
        )

    def load_inputs(self, source: Path | pd.DataFrame, as_written: Collection[str] = ()) -> Samples:
        """Files to predict, labelled or not: one, those of a table in its order, or all of a
        folder in the order of their paths, whose names are their labels where all have one."""
        if isinstance(source, pd.DataFrame):
            return self._unlabelled(source, Path(), "the table")
        inner = self._unwrapped(source) if source.is_dir() else source
        listing = self.listing(inner) if inner.is_dir() else source
        if listing is not None and is_table(listing):
            table = read_table(listing, as_written=as_written)
            return self._unlabelled(table, listing.parent, str(listing))
        files = self.find(inner) if inner.is_dir() else [source]
        if not files:
            raise InputError(
                f"{source} holds no {self.noun} file ({', '.join(self.common)}), but"
                f" {_endings(walk(inner)) or 'nothing'}"
            )
        base = inner if inner.is_dir() else inner.parent
        folders = [file.relative_to(base).parts[0] for file in files if file.parent != base]
        labels = pd.DataFrame(index=range(len(files)))
        if len(folders) == len(files):
            labels["label"] = pd.Categorical(folders)
        notes = self._ignored([inner]) if inner.is_dir() else ()
        names = _names(files, source if source.is_dir() else base)
        return Samples(files, labels, None, labels, names, notes)

    def listing(self, folder: Path) -> Path | None:
        """The table that lists a folder's files: metadata.csv, or the only one at its top."""
        if (folder / "metadata.csv").is_file():
            return folder / "metadata.csv"
        tables = [p for p in folder.iterdir() if is_table(p) and not is_hidden(p.name)]
        return tables[0] if len(tables) == 1 and self.recognise(tables[0]) else None

    # Folders -----------------------------------------------------------------------------

    def _unwrapped(self, folder: Path) -> Path:
        """The folder itself, or the one that alone stands in it and holds folders or a table."""
        while True:
            below = [path for path in folder.iterdir() if not is_hidden(path.name)]
            if len(below) != 1 or not below[0].is_dir() or below[0].name.lower() in PART_NAMES:
                return folder
            if not subfolders(below[0]) and self.listing(below[0]) is None:
                return folder  # a single class folder
            folder = below[0]

    def _part_folders(self, folder: Path) -> dict[Path, int]:
        """The folders of the parts; none where the folders are classes.

        Beside other folders, one called train that holds files is a class.
        """
        folders = subfolders(folder)
        parts = {path: PART_NAMES.get(path.name.lower()) for path in folders}
        if 0 not in parts.values():
            return {}
        other = [path.name for path, part in parts.items() if part is None]
        named = [path for path, part in parts.items() if part is not None]
        if other and not any(subfolders(path) or self.listing(path) for path in named):
            return {}
        if other:
            raise InputError(
                f"{folder} holds the part folder train beside {', '.join(map(repr, other[:5]))};"
                " keep only train, val and test there"
            )
        return {path: part for path, part in parts.items() if part is not None}

    def _part(
        self, folder: Path, source: Path, target: list[str] | None, columns: Mapping[str, str]
    ) -> Samples:
        listing = self.listing(folder)
        if listing is None:
            ignored_only(columns, (), self.noun)
            return self._classes(folder, source, target)
        table = self._without(_labels_of(listing), columns)
        return self._listed(table, folder, str(listing), target, source)

    def _classes(self, folder: Path, source: Path, target: list[str] | None) -> Samples:
        if target is not None and len(target) > 1:
            raise UsageError(
                f"{folder}: class folders are one target; name one, or add metadata.csv"
            )
        found = {path: self.find(path) for path in subfolders(folder)}
        beside = [path for path in sorted(folder.iterdir()) if not is_hidden(path.name)]
        loose = [path for path in beside if self.has(path.name) and path.is_file()]
        if not any(found.values()):
            what = f"{len(loose)} {self.noun} files" if loose else f"no {self.noun} file"
            none = ", but none in a folder named for its class" if loose else ""
            there = "" if loose else f"; there are {_endings(walk(folder))}"
            if not loose and (repair := repair_of(walk(folder))):
                raise InputError(f"{folder} holds {what}; {repair}")
            raise InputError(
                f"{folder} holds {what}{none}; expected one folder per class, or a metadata.csv"
                f" with file_name and a target column ({self.noun} files end in"
                f" {', '.join(self.common)}{there})"
            )
        if empty := [path for path, files in found.items() if not files]:
            there = _endings(walk(empty[0]))
            raise InputError(
                f"{folder}: no {self.noun} file in the class folder"
                f" {', '.join(repr(path.name) for path in empty[:5])}"
                f"{f' (but {there})' if there else ''};"
                f" {repair_of(walk(empty[0])) or 'fill or remove it'}"
            )
        files = [file for group in found.values() for file in group]
        refuse_other_encodings(found)
        # A folder is a class, even if it is called 07 or null.
        names = pd.Categorical([path.name for path, group in found.items() for _ in group])
        labels = pd.DataFrame({target[0] if target else "label": names})
        given = _parts_in_classes(found)
        notes = [*self._ignored(list(found))]
        if loose:
            notes.append(
                f"{len(loose)} {self.noun} files beside the class folders are not read, as"
                f" {loose[0].name}: they have no class"
            )
        deep = [file for path, group in found.items() for file in group if file.parent != path]
        if given is None and deep:
            first = deep[0].relative_to(folder)
            notes.append(
                f"{len(deep)} of {len(files)} files lie deeper than their class folder ({first}):"
                f" their class is the outer folder, as {first.parts[0]!r}"
            )
        return Samples(files, labels, given, labels, _names(files, source), tuple(notes))

    def _ignored(self, folders: Sequence[Path]) -> tuple[str, ...]:
        """A note that counts the files of folders that are not of this modality."""
        others = [
            Path(entry.path)
            for folder in folders
            for entry in _entries(folder)
            if not (self.has(entry.name) and entry.is_file())
        ]
        if not others:
            return ()
        return (f"{len(others)} files are not read as {self.noun} ({_endings(others)})",)

    # Tables of files ---------------------------------------------------------------------

    def _without(self, table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
        """A table of files without the columns that the user ignores."""
        others = [name for name in table.columns if name not in FILE_COLUMNS]
        return table.drop(columns=[*ignored_only(columns, others, self.noun)])

    def _listed(
        self,
        table: pd.DataFrame,
        base: Path,
        where: str,
        target: list[str] | None,
        source: Path | None = None,
    ) -> Samples:
        files, column, notes = self._files(table, base, where)
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
        if "split" not in target and names_parts(table):
            given = read_parts(table["split"], where)
        if source is not None:  # a folder: all of its files were meant
            listed = set(map(os.path.normpath, map(str, files)))
            found = (os.path.normpath(entry.path) for entry in self._matches(base))
            left = [path for path in found if path not in listed and path != where]
            if left:
                notes += (
                    f"{len(left)} {self.noun} files are not named in {where} and not read, as"
                    f" {os.path.relpath(min(left), base)}",
                )
        names = _names(files, source or base)
        return Samples(files, table[target], given, table, names, notes)

    def _unlabelled(self, table: pd.DataFrame, base: Path, where: str) -> Samples:
        files, column, notes = self._files(table, base, where)
        labels = table.drop(columns=column)
        return Samples(files, labels, None, table, _names(files, base), notes)

    def _files(
        self, table: pd.DataFrame, base: Path, where: str
    ) -> tuple[list[Path], str, tuple[str, ...]]:
        """The files of a table's rows, all in one folder, the column that names them, and notes."""
        columns = [c for c in FILE_COLUMNS if c in table]
        if not columns:
            raise InputError(
                f"{where} has no column {', '.join(FILE_COLUMNS[:-1])} or {FILE_COLUMNS[-1]};"
                f" it has {', '.join(map(str, table.columns))}"
            )
        names = [str(name).strip() for name in table[columns[0]]]
        missing = {base: [name for name in names if not (base / name).is_file()]}
        if missing[base] and base != Path():
            # Of a thousand folders only those are searched that hold one of the first files.
            first = missing[base][:PROBED]
            held = [f for f in subfolders(base) if any((f / name).is_file() for name in first)]
            missing |= {f: [name for name in names if not (f / name).is_file()] for f in held}
        whole = [root for root, lost in missing.items() if not lost]
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
        notes = outside_notes(names, f"column {columns[0]!r} of {where}") if base != Path() else ()
        return [whole[0] / name for name in names], columns[0], notes


def _image_endings() -> Iterator[str]:
    """What Pillow opens, without formats that hold no pixels themselves (they need a program or
    library that Pillow calls) and without PhotoCD, whose ending is that of point clouds."""
    from PIL import Image

    without = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PCD", "WMF"}
    known = Image.registered_extensions()  # imports its plug-ins
    return (end for end, form in known.items() if form in Image.OPEN and form not in without)


def _sound_endings() -> list[str]:
    """What libsndfile reads, without files that do not say their rate (raw) and Matlab's."""
    import soundfile

    endings = {
        "AIFF": (".aiff", ".aif", ".aifc"), "AU": (".au", ".snd"), "IRCAM": (".sf",),
        "NIST": (".sph", ".nist"), "OGG": (".ogg", ".oga", ".opus"), "SVX": (".svx", ".8svx"),
        "WAV": (".wav", ".wave"), "WAVEX": (), "RAW": (), "MAT4": (), "MAT5": (),
    }  # fmt: skip
    known = soundfile.available_formats()
    return [end for form in known for end in endings.get(form, (f".{form.lower()}",))]


IMAGES = Files(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
    "image",
    _image_endings,
)
SOUNDS = Files((".wav", ".flac", ".ogg"), "audio", _sound_endings)
CLOUDS = Files((".off", ".ply", ".npy", ".pcd", ".xyz"), "point cloud")
SERIES = Files((".csv", ".tsv", ".parquet"), "series")


def outside_notes(names: Iterable[str], where: str) -> tuple[str, ...]:
    """A note on names of files that lead out of the folder they are relative to."""
    outside = [n for n in names if os.path.isabs(n) or os.path.normpath(n).split(os.sep)[0] == ".."]
    if not outside:
        return ()
    return (
        f"{where} names {len(outside)} files outside of its folder, as {outside[0]}: they are read,"
        " but do not travel with the folder",
    )


def is_hidden(name: str) -> bool:
    """Whether people do not see a file or folder of this name, or a program left it."""
    return name.startswith(".") or name in HIDDEN


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden, by name; links to folders count."""
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not is_hidden(p.name)]


def walk(folder: Path) -> Iterator[Path]:
    """All files below a folder that are not hidden. Links to folders are followed, except to one
    that they lie in."""
    return (Path(entry.path) for entry in _entries(folder))


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What ``walk`` finds, and broken links, as the system lists it: a folder of thousands of
    files is searched several times, and a Path of each takes longer than the search."""
    top = folder.resolve()
    # Each folder to search, where it really lies, and the folders that it lies in.
    waiting = [(str(folder), str(top), frozenset(map(str, top.parents)))]
    while waiting:
        place, real, parents = waiting.pop()
        around = parents | {real}
        try:
            scan = os.scandir(place)
        except OSError as error:
            raise InputError(f"{place} cannot be read: {error.strerror or error}") from None
        with scan as entries:
            for entry in entries:
                if is_hidden(entry.name) or _leads_to_itself(entry):
                    continue
                if not entry.is_dir():
                    yield entry
                    continue
                linked = entry.is_symlink()
                below = os.path.realpath(entry.path) if linked else os.path.join(real, entry.name)
                if below not in around:
                    waiting.append((entry.path, below, around))


def refuse_other_encodings(folders: Iterable[Path]) -> None:
    """Raise InputError for a class folder whose name is not UTF-8: no label can be written so."""
    for folder in folders:
        try:
            folder.name.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"the class folder {os.fsencode(folder.name)!r} in {folder.parent} has no name in"
                " UTF-8; rename it"
            ) from None


def _leads_to_itself(entry: os.DirEntry[str]) -> bool:
    """Whether a link ends nowhere, as its target is the link again."""
    try:
        entry.is_dir()
    except OSError:
        return True
    return False


def _endings(files: Iterable[Path]) -> str:
    """How many files there are by their endings, as ".mp4: 3, .txt: 1"; "" where there are none."""
    counts = Counter(
        "broken links" if not path.exists() else path.suffix.lower() or "no ending"
        for path in files
    )
    shown = ", ".join(f"{ending}: {n}" for ending, n in counts.most_common(5))
    return f"{shown}{', …' if len(counts) > 5 else ''}"


def _parts_in_classes(found: dict[Path, list[Path]]) -> np.ndarray | None:
    """The given parts where every class folder holds train and test folders (ModelNet)."""
    below = [file.relative_to(folder).parts for folder, files in found.items() for file in files]
    parts = [PART_NAMES.get(names[0].lower()) if len(names) > 1 else None for names in below]
    if 0 not in parts or any(part is None for part in parts):
        return None
    return np.array(parts, np.int8)


def _labels_of(path: Path) -> pd.DataFrame:
    """A table of files; its other columns are labels, and kept as they are written."""
    names = {*read_table(path, rows=1).columns}
    return read_table(path, as_written=names, targets=names)


def _first_rows(path: Path) -> pd.DataFrame | None:
    """The first rows of a table; none where it cannot be read: whoever reads it then says why."""
    try:
        return read_table(path, rows=100)
    except InputError:
        return None


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
