"""Files of tables beyond CSV and JSONL, and what is said of files that nobody reads."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data import limits
from nas.data.csv_files import refuse_duplicates
from nas.data.limits import refuse_larger
from nas.data.mapped import by_columns, is_large
from nas.data.samples import COMPLEX
from nas.task import InputError, UsageError

SHEET_BYTES = 10  # that a workbook takes in memory for each byte of its unpacked XML
_TABLE = "save it as .csv or .parquet"
_UNPACK = "unpack it and name the folder"
_SOUND = "convert it to .wav, .flac or .mp3"
_IMAGE = "convert it to .png or .jpg"
_CLOUD = "save it as .ply, .pcd or .xyz"
_ARRAYS = "save its arrays as .npz (numpy.savez) with x and y"
_PICKLE = f"pickles run code when they are opened and are not read; {_TABLE}, arrays as .npz"
# What to do with a file of each ending that is not read.
REPAIRS: dict[str, str] = {
    **dict.fromkeys((".xls", ".xlsb", ".ods", ".numbers", ".dta", ".sav", ".sas7bdat", ".rds",
                     ".rdata", ".orc", ".avro", ".arff", ".db", ".sqlite", ".sqlite3",
                     ".duckdb", ".xml", ".html", ".yaml", ".yml"), _TABLE),
    **dict.fromkeys((".csv.bz2", ".csv.xz", ".csv.zst", ".csv.lz4"),
                    "save it as .csv, .csv.gz or .parquet"),
    **dict.fromkeys((".pkl", ".pickle", ".joblib", ".pt", ".pth"), _PICKLE),
    **dict.fromkeys((".mat", ".tfrecord", ".tfrecords", ".npy", ".safetensors"), _ARRAYS),
    **dict.fromkeys((".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar"), _UNPACK),
    **dict.fromkeys((".m4a", ".aac", ".wma", ".amr"), _SOUND),
    **dict.fromkeys((".heic", ".heif", ".svg", ".dcm", ".nii", ".nii.gz", ".raw", ".cr2"), _IMAGE),
    **dict.fromkeys((".las", ".laz", ".e57", ".obj", ".stl", ".gltf", ".glb"), _CLOUD),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv"), "save its frames as images"),
    **dict.fromkeys((".pdf", ".docx", ".doc", ".rtf"), "save its text in a column of a .csv"),
    **dict.fromkeys((".graphml", ".gml", ".gexf"), "save nodes.csv and edges.csv in a folder"),
}  # fmt: skip
TEXT_LINES = (
    "one text on each line has no labels to learn from; save a .csv with the columns text and label"
)


def refuse_unread(path: Path, *, predict: bool = False) -> None:
    """Raise UsageError, with the form to convert to, for a file whose ending nobody reads."""
    name = path.name.lower()
    if predict and name.endswith(".npy"):
        return  # one cloud
    if name.endswith(".arff"):
        from nas.data.series_files import is_series_arff  # which reads tables by this module

        if is_series_arff(path):
            return
    if ending := _unread(name):
        raise UsageError(f"{path}: {ending} files are not read; {REPAIRS[ending]}")
    if name.endswith(".txt") and not predict:
        raise UsageError(f"{path}: {TEXT_LINES}")


def repair_of(files: Iterable[Path]) -> str:
    """What to do with the ending that most of the unread files have, as ".heic files are not read:
    convert it …"; "" where nothing is known of any."""
    counts = Counter(ending for path in files if (ending := _unread(path.name.lower())))
    if not counts:
        return ""
    ending, _ = counts.most_common(1)[0]
    return f"{ending} files are not read: {REPAIRS[ending]}"


def _unread(name: str) -> str:
    """The longest ending of ``REPAIRS`` that a file's name has, or ""."""
    return max((ending for ending in REPAIRS if name.endswith(ending)), key=len, default="")


# Tables ----------------------------------------------------------------------------------


# What Arrow has read is given up column by column as it becomes a frame (pandas from 3.0 on).
_LEAN: Any = {"to_pandas_kwargs": {"split_blocks": True, "self_destruct": True}}
if "to_pandas_kwargs" not in signature(pd.read_parquet).parameters:
    _LEAN = {}


def read_parquet(path: Path, rows: int | None, *_: object) -> pd.DataFrame:
    """A Parquet file; a few of its columns at a time where all are too large for memory."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        about, schema = file.metadata, file.schema_arrow
        if rows is not None:
            first: pd.DataFrame = _first(file.iter_batches(rows), schema, rows).to_pandas()
            return first
    return _whole(
        path, schema, about.num_rows, lambda few: pd.read_parquet(path, columns=few, **_LEAN)
    )


def _whole(
    path: Path, schema: Any, rows: int, read: Callable[[list[str]], pd.DataFrame]
) -> pd.DataFrame:
    """All columns of a file, which ``read`` reads by their names: as many at a time as memory is
    for, each time with those that are the index of the frame."""
    names = list(schema.names)
    refuse_duplicates(names, str(path))
    refuse_larger(8 * rows * len(names), f"{path} unpacks to", "give fewer rows")
    if not is_large(rows, len(names)):
        return read(names)
    index = [n for n in (schema.pandas_metadata or {}).get("index_columns", ()) if n in names]
    return by_columns(lambda few: read([*few, *index]), [n for n in names if n not in index], rows)


def _first(batches: Iterable[Any], schema: Any, rows: int) -> Any:
    """A pyarrow table of the first rows of batches, of which no more are read."""
    import pyarrow as pa

    kept, count = [], 0
    for batch in batches:
        kept.append(batch)
        count += batch.num_rows
        if count >= rows:
            break
    return pa.Table.from_batches(kept, schema).slice(0, rows)


def read_arrow(path: Path, rows: int | None, *_: object) -> pd.DataFrame:
    """An Arrow IPC file (Feather) or stream; a few of its columns at a time where all are too large
    for memory."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:

        def read(few: list[str]) -> pd.DataFrame:
            fields, batches = _batches(source, [schema.names.index(name) for name in few])
            held, kept = 0, []
            for batch in batches:
                held += batch.get_total_buffer_size()
                refuse_larger(held, f"{path} unpacks to", "give fewer rows")
                kept.append(batch)
            return arrow_frame(pa.Table.from_batches(kept, fields))

        schema, batches = _batches(source)
        if rows is not None:
            return arrow_frame(_first(batches, schema, rows))
        count = sum(batch.num_rows for batch in _batches(source, [0])[1])
        return _whole(path, schema, count, read)


def _batches(source: Any, fields: Sequence[int] | None = None) -> tuple[Any, Iterator[Any]]:
    """The schema and the record batches of an Arrow IPC file or stream, of these fields alone."""
    import pyarrow as pa

    options = pa.ipc.IpcReadOptions(included_fields=fields)
    source.seek(0)
    try:
        reader = pa.ipc.open_file(source, options=options)
        return reader.schema, map(reader.get_batch, range(reader.num_record_batches))
    except pa.ArrowInvalid:
        source.seek(0)
        reader = pa.ipc.open_stream(source, options=options)
        return reader.schema, iter(reader)


def arrow_frame(table: Any) -> pd.DataFrame:
    """A pandas frame of a pyarrow table; whole numbers with gaps stay whole."""
    import pyarrow as pa

    whole = {
        getattr(pa, f"{sign}int{bits}")(): getattr(pd, f"{sign.upper()}Int{bits}Dtype")()
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    }
    for i, field in enumerate(table.schema):  # pyarrow before 24 refuses codes without a sign
        kind = field.type
        if pa.types.is_dictionary(kind) and pa.types.is_unsigned_integer(kind.index_type):
            texts = kind.value_type == pa.string_view()
            values = pa.large_string() if texts else kind.value_type
            signed = pa.dictionary(pa.int64(), values, kind.ordered)
            table = table.set_column(i, field.name, table.column(i).cast(signed))
    gaps = {name for name in table.column_names if table[name].null_count}
    frame: pd.DataFrame = table.to_pandas()
    for name in gaps:
        kind = table.schema.field(name).type
        if kind in whole:
            frame[name] = table[name].to_pandas(types_mapper=whole.get).array  # by position
    return frame


def read_json(path: Path, rows: int | None, *_: object) -> pd.DataFrame:
    """A list of rows or a table of columns, in the forms that pandas writes, or lines of rows."""
    text = path.read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        if "Extra data" not in str(error):
            raise
        content = [json.loads(line) for line in text.split("\n") if line.strip()]
    except RecursionError:
        raise InputError(f"{path} is nested too deeply; expected a list of rows") from None
    if isinstance(content, dict) and {"columns", "data"} <= content.keys():  # orient="split"
        content = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    if isinstance(content, dict) and {"schema", "data"} <= content.keys():  # orient="table"
        content = content["data"]
    if isinstance(content, dict) and content:
        values = list(content.values())
        if all(isinstance(each, list) for each in values):
            frame = pd.DataFrame(content)
        elif all(isinstance(each, dict) for each in values):  # by index, as pandas writes
            frame = pd.DataFrame({name: list(each.values()) for name, each in content.items()})
        else:
            frame = pd.DataFrame()
    elif isinstance(content, list) and all(isinstance(row, dict) for row in content):
        frame = pd.DataFrame(content)
    else:
        frame = pd.DataFrame()
    if frame.empty:
        raise InputError(
            f'{path} holds no table; expected a list of rows, as [{{"a": 1, "y": "no"}}, …], or'
            " lists of equal length by the names of the columns"
        )
    frame.columns = [str(name) for name in frame.columns]
    return frame if rows is None else frame.head(rows)


def read_workbook(
    path: Path, rows: int | None, missing: Sequence[str], as_written: Collection[str] = ()
) -> pd.DataFrame:
    """The only sheet of an Excel workbook that is not empty; ``missing`` and ``as_written`` as of
    ``csv_files.read_csv``."""
    try:
        import openpyxl
    except ModuleNotFoundError:
        raise InputError(
            f"{path} needs openpyxl: pip install 'frontier-nas[formats]', or {_TABLE}"
        ) from None
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    refuse_larger(SHEET_BYTES * unpacked, f"{path} takes", _TABLE)
    book = openpyxl.load_workbook(path, read_only=True)
    try:
        sheets = [sheet.title for sheet in book.worksheets if _filled(sheet)]
    finally:
        book.close()
    if len(sheets) != 1:
        raise InputError(
            f"{path} holds {'the sheets ' + ', '.join(sheets) if sheets else 'no filled sheet'};"
            " keep the one with the table, or save it as .csv"
        )
    # As objects, a text that looks like a number stays a text.
    frame: pd.DataFrame = pd.read_excel(
        path, sheet_name=sheets[0], nrows=rows, keep_default_na=False, dtype=object,
        engine="openpyxl",
    )  # fmt: skip
    frame.columns = [str(name).strip() for name in frame.columns]
    inputs = [name for name in frame.columns if name not in as_written]
    frame[inputs] = frame[inputs].replace(list(missing), None)
    return frame.infer_objects()


def _filled(sheet: Any) -> bool:
    return any(cell is not None for row in sheet.iter_rows(values_only=True) for cell in row)


READERS: dict[str, Callable[[Path, int | None, Sequence[str], Collection[str]], pd.DataFrame]] = {
    ".feather": read_arrow, ".arrow": read_arrow, ".ipc": read_arrow, ".json": read_json,
    ".xlsx": read_workbook, ".xlsm": read_workbook, ".parquet": read_parquet, ".pq": read_parquet,
}  # fmt: skip


def refuse_large_gzip(path: Path) -> None:
    """Raise InputError where a .gz file unpacks to more than the limit."""
    import gzip

    held = 0
    with gzip.open(path) as stream:
        while chunk := stream.read(2**22):
            held += len(chunk)
            if held > limits.memory_limit():
                refuse_larger(held + 1, f"{path} unpacks to more than", "give fewer rows")


def plain_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with sparse columns of pandas as plain ones, lists of Arrow as Python's, and
    numbers in the byte order of this machine.

    Raises InputError for complex numbers, and where plain columns take more than the limit.
    """
    kinds: list[Any] = list(frame.dtypes)
    sparse = sum(isinstance(kind, pd.SparseDtype) for kind in kinds)
    refuse_larger(8 * len(frame) * sparse, "the sparse columns take", "give fewer columns")
    changed: dict[int, Any] = {}
    for i, kind in enumerate(kinds):
        if isinstance(kind, pd.SparseDtype):
            changed[i] = kind.subtype
        elif isinstance(kind, pd.ArrowDtype) and kind.kind == "O" and kind.type is not str:
            changed[i] = object
        elif isinstance(kind, np.dtype) and kind.kind == "c":
            raise InputError(f"column {str(frame.columns[i])!r}: {COMPLEX}")
        elif isinstance(kind, np.dtype) and not kind.isnative:
            changed[i] = kind.newbyteorder("=")
    if not changed:
        return frame
    columns = [frame.iloc[:, i] for i in range(frame.shape[1])]
    for i, kind in changed.items():
        columns[i] = columns[i].astype(kind)
    return pd.concat(columns, axis=1)
