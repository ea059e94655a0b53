"""Multimodal data: a manifest, which is a table with typed columns, and one member a modality.

A column of files is a member of its own; all columns of text form the member "text", and all
of numbers and categories the member "table" (a single text column keeps its name). Each member
is read by the module of its modality. ``kind_of_table`` decides which modality a table is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data import graphs, tables, tabular
from nas.data.column_types import IGNORE, TYPES, check_types
from nas.data.columns import ColumnValues
from nas.data.dataset import shape_profile
from nas.data.folders import CLOUDS, FILE_COLUMNS, IMAGES, SERIES, SOUNDS, outside_notes
from nas.data.pipes import is_kept
from nas.data.ragged import Input, Ragged, Whole
from nas.data.readers import reader
from nas.data.samples import Arrays, Samples
from nas.task import DataProfile, InputError, Member, Modality, UsageError, input_type

JOINED = {"text": "text", "tabular": "table"}  # the members of several columns
# Words on average from which on a column is text; beside such a column a shorter one, as of
# titles, is text too. And the fraction of different values.
LONG, SHORT, DISTINCT = 5.0, 2.0, 0.5
FIRST_ROWS = 1_000  # examined to recognise the modality of a table
_FILES = {"image": IMAGES, "audio": SOUNDS, "pointcloud": CLOUDS, "series": SERIES}
_WORD = re.compile(r"[^\W\d_]{2,}")
# Scripts without spaces between words, and the letters of one word there on average: Chinese and
# Japanese, then Thai, Lao, Khmer and Burmese.
_UNSPACED = (
    (re.compile("[\u2e80-\u2fdf\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"), 2),
    (re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"), 5),
)
# The content of a member that a sample lacks, by the type of the input.
_BLANK: dict[str, Any] = {
    "image": np.uint8, "numeric": np.float32, "categorical": np.int32, "tokens": np.int32,
    "wave": np.int16, "points": np.float32, "nodes": np.float32, "edges": np.int32,
    "edge_features": np.float32, "series": np.float32,
}  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """The input columns of ``n`` samples, the folder that relative paths start from, and the types
    of columns that the user gave."""

    frame: pd.DataFrame
    folder: Path
    types: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frame)

    def drop(self, columns: str) -> Manifest:
        types = {name: kind for name, kind in self.types.items() if name != columns}
        return replace(self, frame=self.frame.drop(columns=columns), types=types)


# Recognition -----------------------------------------------------------------------------


def recognise(source: Any) -> str:
    """Always "": only tables are multimodal, and ``kind_of_table`` needs their target as well."""
    return ""


def kind_of_table(
    source: Any, target: list[str] | None, columns: Mapping[str, str]
) -> tuple[Modality, str] | None:
    """The modality of a table, by the first rows of its columns, and why; None for a source
    that is no table.

    "text" where one text is all there is beside the target; the modality of the files where
    one column lists them as a table of such files does; "multimodal" with other columns of
    files or of texts, or with ``columns`` typed by the user; else "tabular".
    """
    table = _table(source)
    if table is None:
        return None
    frame = table
    if isinstance(table, Path):
        file = table if table.is_file() else next(iter(tabular.part_files(table)))
        frame = tables.read_table(file, rows=FIRST_ROWS)
    frame = frame.head(FIRST_ROWS).rename(columns=str)
    if frame.columns.has_duplicates:
        return "tabular", "rows and columns"  # whose reader says so
    frame = frame.drop(columns=[*(target or ()), "split"], errors="ignore")
    types = infer(frame, columns, _folder(source))
    found = {name: kind for name, kind in types.items() if TYPES[kind] != "tabular"}
    listed = ", ".join(f"{name} ({kind})" for name, kind in [*found.items()][:5])
    rest = [name for name in types if name in columns or informative(str(name), frame[name])]
    inputs = len(rest) - (target is None)
    if inputs == 1 and [*found.values()] == ["text"]:
        return "text", f"the only input column is {listed}"
    alone = rest[0] if target and inputs == 1 and not found else ""
    if alone and alone not in columns and _is_text(frame[alone], SHORT):
        return "text", f"the only input column is {alone}, of several words a row"
    kinds = ("image", "audio", "pointcloud", "series")  # whose readers take a table of files
    of_files = [kind for name, kind in found.items() if name in FILE_COLUMNS and kind in kinds]
    if len(found) == len(of_files) == 1 and (inputs == 1 or of_files[0] != "image"):
        return TYPES[of_files[0]], f"the column {listed} lists its files"
    if found:
        return "multimodal", f"of its columns are {listed}{' …' if len(found) > 5 else ''}"
    if columns:
        return "tabular", "its columns were given types"
    return ("tabular", "columns of numbers and names") if table is source else None


def informative(name: str, column: pd.Series) -> bool:
    """Whether a column may say something about a sample: not a saved index, empty, constant, or
    another value in every row, as an id has it."""
    if tabular.is_index_name(name):
        return False
    known = column.dropna()
    if known.dtype == object or pd.api.types.is_string_dtype(known):
        known = known[known.map(lambda value: str(value).strip() != "")]
    try:
        distinct = known.nunique()
    except (TypeError, NotImplementedError):  # lists, arrays, graphs; of Arrow
        return True
    if distinct <= 1:
        return distinct == 1 and len(known) < len(column)  # a flag: one value or none
    if distinct < len(known) or _is_text(column, SHORT) or _kind(column, Path()) != "numeric":
        return True
    values = ColumnValues(column)
    if values.is_numeric:
        return not tabular.identifies(name, values.numbers.values)
    return False


def _table(source: Any) -> Any:
    """The frame, or the path of the table or of a folder with one for each part; None where
    the source is none of these."""
    if not isinstance(source, Path):
        frame = source.x if isinstance(source, Arrays) else source
        return frame if isinstance(frame, pd.DataFrame) else None
    if source.is_file():
        return source if tables.is_table(source) else None
    if (source / "metadata.csv").is_file():
        return None
    if tabular.part_files(source):
        return source
    if graphs.recognise(source):
        return None  # the table describes the graphs
    named = [p for p in source.iterdir() if tables.is_table(p) and not p.name.startswith(".")]
    found = [p for p in named if p.is_file()]
    return found[0] if len(found) == 1 else None  # a manifest beside the folders of its files


def infer(frame: pd.DataFrame, columns: Mapping[str, str], folder: Path = Path()) -> dict[str, str]:
    """The type of each column (a key of ``TYPES``), without those to ignore; ``columns`` says
    the types that the user gave, and paths start from ``folder``. Numbers and categories are both
    "numeric" here; ``tabular`` separates them.

    Raises UsageError for a type or a column that does not exist.
    """
    check_types(columns, frame.columns)
    types = {name: columns.get(name) or _kind(frame[name], folder) for name in frame.columns}
    if "text" in types.values():
        for name, kind in types.items():
            if kind == "numeric" and name not in columns and _is_text(frame[name], SHORT):
                types[name] = "text"
    return {name: kind for name, kind in types.items() if kind != IGNORE}


def _kind(column: pd.Series, folder: Path) -> str:
    known = _texts(column).str.strip()
    if _holds_graphs(column):
        return "graph"
    if len(known):
        for kind, of in _FILES.items():
            if all(map(of.has, known)):
                return kind
        if known.str.lower().str.endswith(".npz").all():  # which may hold anything
            files = [folder / name for name in known]
            if any(map(graphs.is_archive, files)) or not any(f.is_file() for f in files):
                return "graph"
    return "text" if _is_text(column, LONG) else "numeric"


def _holds_graphs(column: pd.Series) -> bool:
    """Whether a frame's column holds graphs themselves, not the names of their files."""
    objects = column.dropna() if column.dtype == object else ()
    return any(hasattr(value, "edge_index") for value in objects)


def _texts(column: pd.Series) -> pd.Series:
    """The values that are there, of a column of texts; none of another."""
    if pd.api.types.is_numeric_dtype(column):
        return column[:0].astype(str)
    known = column.dropna()
    plain = not isinstance(column.dtype, pd.CategoricalDtype)
    if plain and len(known) and known.map(lambda value: isinstance(value, str)).all():
        return known[known.str.strip() != ""]
    return known[:0].astype(str)


def _is_text(column: pd.Series, words: float) -> bool:
    known = _texts(column)
    if not len(known) or known.nunique() < DISTINCT * len(known) or ColumnValues(known).is_numeric:
        return False
    return bool(known.map(count_words).mean() >= words)


def count_words(text: str) -> float:
    """The words of two letters or more; estimated where a script puts no spaces between them."""
    total = 0.0
    for letters, of_word in _UNSPACED:
        rest = letters.sub(" ", text)
        if rest != text:
            total += len(letters.findall(text)) / of_word
            text = rest
    return total + len(_WORD.findall(text))


# Samples ---------------------------------------------------------------------------------


def load(
    source: Path | pd.DataFrame | Arrays, target: list[str] | None, columns: Mapping[str, str]
) -> Samples:
    """The rows of a table, as ``tabular.load`` reads it, with files relative to its folder."""
    samples = tabular.load(_opened(source), target, columns)
    types = {name: kind for name, kind in columns.items() if kind != IGNORE}
    return replace(samples, inputs=Manifest(samples.inputs, _folder(source), types))


def load_inputs(source: Path | pd.DataFrame | Arrays, as_written: Collection[str] = ()) -> Samples:
    """Rows to predict, labelled or not."""
    samples = tabular.load_inputs(_opened(source), as_written)
    return replace(samples, inputs=Manifest(samples.inputs, _folder(source)))


def _opened(source: Any) -> Any:
    if isinstance(source, Arrays):
        return source
    table = _table(source)
    if table is None:
        raise UsageError(
            f"{source} is not a manifest; give a table ({', '.join(tables.SUFFIXES)}) with a row"
            " for each sample, or a folder with one such table"
        )
    return table


def _folder(source: Any) -> Path:
    if not isinstance(source, Path) or is_kept(source):
        return Path()
    return source if source.is_dir() else source.parent


def code(
    samples: Samples, train: np.ndarray, *, tokenizers: Sequence[Path] = ()
) -> tuple[dict[str, Input], DataProfile, list[str]]:
    """Each member coded by its modality, on the rows that have it; texts by the first of
    ``tokenizers``, folders of pretrained networks, where there are some.

    The inputs of a member have its name and a point before theirs; "<member>.present" float32
    (n,) is 1 where a sample has it, and where it is 0 the rest is zeros. A table without a column
    of use is left out. Raises InputError for a member that no training sample has, for files that
    do not exist, and where no member is left.
    """
    manifest: Manifest = samples.inputs
    types = infer(manifest.frame, manifest.types, manifest.folder)
    grouped = _members(types)
    inputs: dict[str, Input] = {}
    members: dict[str, Member] = {}
    notes: list[str] = []
    for member, (modality, names) in grouped.items():
        rows, content = _content(manifest, modality, names, samples)
        if modality not in JOINED and manifest.folder != Path():
            notes += outside_notes(_texts(manifest.frame[names[0]]), f"column {member!r}")
        own = np.flatnonzero(np.isin(rows, train))
        if not len(own):
            raise InputError(
                f"column {member!r} is empty in every training sample; fill it, or leave it out"
                f" with --columns {member}={IGNORE}"
            )
        if modality == "tabular":
            coded, used, more = tabular.code_columns(content.inputs, own)
            profile = replace(shape_profile(coded, own), columns=used)
        else:
            with _about(member, modality):
                how = {"tokenizers": tokenizers} if modality == "text" else {}
                coded, profile, more = reader(modality).code(content, own, **how)
        notes += [f"{member}: {note}" for note in more]
        if not coded:
            continue
        if any(isinstance(value, Whole) for value in coded.values()):
            raise UsageError(f"column {member!r}: one graph for all samples cannot be a member")
        members[member] = Member(modality, profile)
        inputs |= _spread(member, coded, rows, len(samples.inputs))
        if len(rows) < len(samples.inputs):
            absent = len(samples.inputs) - len(rows)
            notes.append(f"{member} is missing in {absent} of {len(samples.inputs)} samples")
    if not members:
        raise InputError(f"no column can be used as an input: {'; '.join(notes)}")
    notes.insert(0, _describe_members({name: grouped[name] for name in members}))
    return inputs, replace(shape_profile(inputs, train), members=members), notes


def encode(inputs: Manifest, profile: DataProfile) -> dict[str, Input]:
    """New samples, by the members of the training data; one may be missing in any of them.

    A column that is absent is an InputError: an empty one says that it is meant.
    """
    coded: dict[str, Input] = {}
    for member, about in profile.members.items():
        joined = about.modality in JOINED
        names = [column.name for column in about.profile.columns] if joined else [member]
        absent = [name for name in names if name not in inputs.frame]
        if absent:
            raise InputError(
                f"the table lacks the columns {', '.join(map(repr, absent))} of the training"
                " data; add them, empty where the samples have none"
            )
        rows, content = _content(inputs, about.modality, names, None)
        found: Mapping[str, Input] = {}
        if len(rows):
            with _about(member, about.modality):
                found = reader(about.modality).encode(content.inputs, about.profile)
        blank = {name: _blank(name, shape) for name, shape in about.profile.inputs.items()}
        coded |= _spread(member, {**blank, **found}, rows, len(inputs))
    return coded


@contextmanager
def _about(member: str, modality: Modality) -> Iterator[None]:
    """Puts a column's name before the message of a wrong input."""
    try:
        yield
    except InputError as error:
        if modality == "tabular":  # which names the column itself
            raise
        raise type(error)(f"column {member!r}: {error}") from None


def _members(types: Mapping[str, str]) -> dict[str, tuple[Modality, list[str]]]:
    """The modality and the columns of each member, in the order of the columns."""
    grouped: dict[str, tuple[Modality, list[str]]] = {}
    for modality in dict.fromkeys(TYPES[kind] for kind in types.values()):
        names = [name for name, kind in types.items() if TYPES[kind] == modality]
        if modality == "tabular" or (modality == "text" and len(names) > 1):
            member = JOINED[modality]
            while member in types and member not in names:
                member += "_"
            grouped[member] = (modality, names)
        else:
            grouped |= {name: (modality, [name]) for name in names}
    if not grouped:
        raise InputError("no column is left to be an input")
    return grouped


def _describe_members(grouped: Mapping[str, tuple[Modality, list[str]]]) -> str:
    described = []
    for member, (modality, names) in grouped.items():
        more = f" of {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
        described.append(f"{member} ({modality}{more if names != [member] else ''})")
    return f"members: {'; '.join(described)}; change a type with --columns NAME=TYPE"


def _content(
    manifest: Manifest,
    modality: Modality,
    names: list[str],
    samples: Samples | None,
) -> tuple[np.ndarray, Samples]:
    """The rows that have a member, and its samples as the member's module reads them."""
    frame = manifest.frame[names]
    content: Any
    if modality == "tabular":
        # Missing values of a table are marked one by one; all rows are read.
        rows, content = np.arange(len(frame)), frame
    elif modality == "graphs" and _holds_graphs(frame[names[0]]):
        rows = np.flatnonzero(frame[names[0]].notna())
        objects = list(frame[names[0]].iloc[rows])
        # Of a single graph the samples would be its nodes.
        content = replace(graphs.load_inputs(Arrays(objects)).inputs, rows=None)
    else:
        texts = frame.astype("str").where(frame.notna(), "").apply(lambda c: c.str.strip())
        rows = np.flatnonzero((texts != "").any(axis=1))
        texts = texts.iloc[rows].reset_index(drop=True)
        content = texts if modality == "text" else _paths(texts[names[0]], manifest.folder)
    files: tuple[tuple[str, int], ...] = ()
    if isinstance(content, list):
        files = tuple((str(path), 1) for path in content)
        if modality == "graphs" and content:
            with _about(names[0], modality):
                content = graphs.from_files(content)
    elif samples is not None and len(rows) == len(manifest):
        files = samples.files
    labels = pd.DataFrame(index=range(len(rows)))
    return rows, Samples(content, labels, None, labels, files)


def _paths(texts: pd.Series, folder: Path) -> list[Path]:
    files = [folder / text for text in texts]
    missing = [text for text, file in zip(texts, files, strict=True) if not file.is_file()]
    if missing:
        raise InputError(
            f"column {texts.name!r} names {len(missing)} files that do not exist:"
            f" {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}; paths start from"
            f" {folder}, and a cell is left empty where a sample has no file"
        )
    return files


# Missing members -------------------------------------------------------------------------


def _blank(name: str, shape: tuple[int, ...]) -> Input:
    """No sample at all, in the form of the input ``name``."""
    kind = input_type(name)
    dtype = _BLANK[kind]
    if kind in ("image", "numeric", "categorical"):
        return np.zeros((0, *shape), dtype)
    packed = kind in ("nodes", "edges", "edge_features")
    return Ragged(
        np.zeros((0, *shape[1:]), dtype),
        np.zeros(1, np.int64),
        "packed" if packed else "padded",
        "nodes" if kind == "edges" else "",
    )


def _spread(member: str, coded: Mapping[str, Input], rows: np.ndarray, n: int) -> dict[str, Input]:
    """The inputs of ``rows`` among all ``n``; the others get zeros, one of each length.

    A graph that is missing is one node without edges, so that no average is one of nothing.
    """
    present = np.zeros(n, np.float32)
    present[rows] = 1
    result: dict[str, Input] = {f"{member}.present": present}
    for name, value in coded.items():
        if isinstance(value, Ragged):
            filler = 0 if name in ("edges", "edge_features") else 1
            lengths = np.full(n, filler, np.int64)
            lengths[rows] = value.lengths
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            values = np.zeros((offsets[-1], *value.values.shape[1:]), value.values.dtype)
            values[np.repeat(present > 0, lengths)] = value.values[: value.offsets[-1]]
            into = f"{member}.{value.into}" if value.into else ""
            result[f"{member}.{name}"] = Ragged(values, offsets, value.layout, into)
        else:
            assert isinstance(value, np.ndarray)
            if not np.array_equal(rows, np.arange(n)):  # else as it is, which may be a mapped file
                held, value = value, np.zeros((n, *value.shape[1:]), value.dtype)
                value[rows] = held
            result[f"{member}.{name}"] = value
    return result
