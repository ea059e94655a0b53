"""Files of point clouds: OFF, PLY, PCD, text and .npy to points, the names of their channels and
faces.

Counts in a header are never trusted: before anything is allocated they are compared with
what the file holds.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data.limits import read_npy, room_for
from nas.files import first_line

TEXT_BYTES = 10  # that reading takes for each byte of a file of text
BINARY_BYTES = 4
AXES = ("x", "y", "z")
_PLY = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2",
    "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
# The same channel by the names of different programs.
_SAME = {
    "r": "red", "g": "green", "b": "blue", "a": "alpha", "diffuse_red": "red",
    "diffuse_green": "green", "diffuse_blue": "blue", "diffuse_alpha": "alpha",
    "normal_x": "nx", "normal_y": "ny", "normal_z": "nz", "i": "intensity",
    "scalar_intensity": "intensity",
}  # fmt: skip


@dataclass(frozen=True)
class Cloud:
    """One cloud as it stands in its source: ``points`` (P, channels) of numbers; ``channels``,
    their names where the source has them, of which the first three are x, y and z; ``faces``
    int64 (F, 3), triangles between points, or None."""

    points: np.ndarray
    channels: tuple[str, ...] = ()
    faces: np.ndarray | None = None


def read_cloud(path: Path) -> Cloud:
    """The cloud in a file, by its ending.

    Raises ValueError, in one line, where it is damaged or of a kind that is not read, and where
    reading takes more memory than is allowed.
    """
    form = path.suffix.lower()
    if form == ".npy":
        return Cloud(read_npy(path))
    binary = form in (".ply", ".pcd") and b"binary" in _opening(path)
    times = BINARY_BYTES if binary else TEXT_BYTES
    with room_for(times * path.stat().st_size, "reading it"):
        content = path.read_bytes()
        match form:
            case ".off":
                return _off(content)
            case ".ply":
                return _ply(content)
            case ".pcd":
                return _pcd(content)
        return _text(content)


def is_text_cloud(path: Path) -> bool:
    """Whether a file of text begins with lines of at least three numbers each."""
    try:
        width: int = _text(_opening(path).rpartition(b"\n")[0]).points.shape[1]
    except ValueError:
        return False
    return width >= 3


def _opening(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _canonical(names: Sequence[str]) -> tuple[str, ...]:
    lower = [name.strip().lower() for name in names]
    return tuple(_SAME.get(name, name) for name in lower)


def _from_columns(columns: dict[str, np.ndarray], faces: np.ndarray | None = None) -> Cloud:
    """A cloud of named columns (P,), coordinates first and the others in their order."""
    named = dict(zip(_canonical(list(columns)), columns.values(), strict=True))
    if len(named) < len(columns):
        raise ValueError(f"several of its channels have one name: {', '.join(columns)}")
    if not set(AXES) <= named.keys():
        raise ValueError(f"has no x, y and z, but {', '.join(named) or 'no channel'}")
    channels = (*AXES, *(name for name in named if name not in AXES))
    points = np.stack([np.asarray(named[name], np.float64) for name in channels], axis=1)
    return Cloud(points, channels, faces)


def _triangles(polygons: Sequence[Sequence[float]]) -> np.ndarray | None:
    """Polygons as fans of triangles, (F, 3); none where there is not one. Raises ValueError for a
    vertex that no number of 64 bits names."""
    found = [(face[0], face[i], face[i + 1]) for face in polygons for i in range(1, len(face) - 1)]
    try:
        return np.array(found, np.int64) if found else None
    except OverflowError:
        raise ValueError("a face names a vertex by an infinite or too large number") from None


# OFF -------------------------------------------------------------------------------------


def _off(content: bytes) -> Cloud:
    """Object File Format, also with normals (NOFF) and colours (COFF). The counts may stand in
    the first line beside the word, even without a space, as in some files of ModelNet."""
    lines = [line.split(b"#")[0].strip() for line in content.splitlines()]
    lines = [line for line in lines if line]
    word = re.match(rb"(ST)?(C)?(N)?OFF", lines[0].upper()) if lines else None
    if word is None:
        raise ValueError("does not begin with OFF")
    rest = lines[0][word.end() :].strip()
    if rest.upper().startswith(b"BINARY"):
        raise ValueError("is a binary OFF, which is not read: save it as text, or as .ply")
    lines = [rest, *lines[1:]] if rest else lines[1:]
    if not lines:
        raise ValueError("ends after OFF")
    vertices, faces = (int(number) for number in lines[0].split()[:2])
    if vertices < 0 or faces < 0 or len(lines) < 1 + vertices + faces:
        raise ValueError(f"promises {vertices} vertices and {faces} faces, but ends before")
    rows = b" ".join(lines[1 : 1 + vertices]).split()
    points = np.array(rows, np.float64).reshape(vertices, -1 if vertices else 3)
    names = [*AXES, *(["nx", "ny", "nz"] if word[3] else [])]
    if word[2]:
        names += ["red", "green", "blue", "alpha"][: points.shape[1] - len(names)]
    if vertices and points.shape[1] < len(names):
        raise ValueError(f"has {points.shape[1]} numbers a vertex; expected {' '.join(names)}")
    polygons = [[int(number) for number in line.split()] for line in lines[1 + vertices :][:faces]]
    triangles = _triangles([polygon[1 : 1 + polygon[0]] for polygon in polygons])
    return Cloud(points[:, : len(names)], tuple(names), triangles)


# PLY -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Element:
    """One element of a PLY header: its name, its count, and its properties as (name, type, type
    of the count), the last of which is "" for a scalar."""

    name: str
    count: int
    properties: tuple[tuple[str, str, str], ...]

    @property
    def scalar(self) -> bool:
        return not any(count for _, _, count in self.properties)


def _ply(content: bytes) -> Cloud:
    """Polygon File Format, ascii and binary: the scalars of a vertex by name, and the faces."""
    if not content.startswith(b"ply"):
        raise ValueError("does not begin with ply")
    end = content.find(b"end_header")
    line_end = content.find(b"\n", end)
    if end < 0 or line_end < 0:
        raise ValueError("its header has no end")
    elements, order = _ply_header(content[:end].decode("ascii", "replace"))
    body = content[line_end + 1 :]
    table = _ply_binary(body, elements, order) if order else _ply_text(body, elements)
    if "vertex" not in table:
        raise ValueError("has no vertices with x, y and z")
    lists = [value for key, value in table.get("face", {}).items() if "ind" in key]
    # A list of a vertex is no channel.
    plain = {p for e in elements if e.name == "vertex" for p, _, count in e.properties if not count}
    vertex = {name: values for name, values in table["vertex"].items() if name in plain}
    return _from_columns(vertex, _triangles(lists[0]) if lists else None)


def _ply_header(header: str) -> tuple[list[_Element], str]:
    """The elements and the byte order, which is "" for text."""
    elements: list[_Element] = []
    order = ""
    for line in header.splitlines():
        match line.split():
            case ["format", "ascii" | "binary_little_endian" | "binary_big_endian" as form, *_]:
                order = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}[form]
            case ["element", name, count] if count.isdigit():
                elements.append(_Element(name, int(count), ()))
            case ["property", "list", size, kind, name] if size in _PLY and kind in _PLY:
                elements.append(_with(elements, line, (name, _PLY[kind], _PLY[size])))
            case ["property", kind, name] if kind in _PLY:
                elements.append(_with(elements, line, (name, _PLY[kind], "")))
            case ["format" | "element" | "property", *_]:
                raise ValueError(f"its header has the line {line.strip()!r}, which is not known")
    return elements, order


def _with(elements: list[_Element], line: str, added: tuple[str, str, str]) -> _Element:
    if not elements:
        raise ValueError(f"its header has {line.strip()!r} before any element")
    last = elements.pop()
    if any(name == added[0] for name, _, _ in last.properties):
        raise ValueError(f"several properties of {last.name} are called {added[0]!r}")
    return _Element(last.name, last.count, (*last.properties, added))


def _ply_text(body: bytes, elements: Sequence[_Element]) -> dict[str, dict[str, Any]]:
    words = body.split()
    table: dict[str, dict[str, Any]] = {}
    at = 0
    for element in elements:
        names = [name for name, _, _ in element.properties]
        if not names:
            continue
        if element.count * len(names) > len(words) - at:
            raise ValueError("ends before its last element")
        if element.scalar:
            end = at + element.count * len(names)
            rows = np.array(words[at:end], np.float64).reshape(element.count, len(names))
            table[element.name] = dict(zip(names, rows.T, strict=True))
            at = end
            continue
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for _ in range(element.count):
            for name, _, size in element.properties:
                number = 1
                if size:
                    number = int(words[at]) if at < len(words) else 1
                    at += 1
                if number < 0 or at + number > len(words):
                    raise ValueError("ends before its last element")
                values = [float(word) for word in words[at : at + number]]
                at += number
                columns[name].append(values if size else values[0])
        table[element.name] = columns
    return table


def _ply_binary(body: bytes, elements: Sequence[_Element], order: str) -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    at = 0
    for element in elements:
        if not element.properties:
            continue
        if element.scalar:
            kind = np.dtype([(name, order + form) for name, form, _ in element.properties])
            if len(body) < at + element.count * kind.itemsize:
                raise ValueError("ends before its last element")
            rows = np.frombuffer(body, kind, element.count, at)
            at += element.count * kind.itemsize
            table[element.name] = {name: rows[name] for name in rows.dtype.names or ()}
            continue
        if element.count > len(body) - at:
            raise ValueError("ends before its last element")
        columns: dict[str, list[Any]] = {name: [] for name, _, _ in element.properties}
        for _ in range(element.count):
            for name, form, size in element.properties:
                number = 1
                if size:
                    (number,) = _take(body, np.dtype(order + size), 1, at)
                    at += np.dtype(size).itemsize
                values = _take(body, np.dtype(order + form), int(number), at)
                at += len(values) * np.dtype(form).itemsize
                columns[name].append(values if size else values[0])
        table[element.name] = columns
    return table


def _take(body: bytes, kind: np.dtype, number: int, at: int) -> list[Any]:
    if number < 0 or len(body) < at + number * kind.itemsize:
        raise ValueError("ends before its last element")
    values: list[Any] = np.frombuffer(body, kind, number, at).tolist()
    return values


# PCD -------------------------------------------------------------------------------------


def _pcd(content: bytes) -> Cloud:
    """Point Cloud Data of PCL, ascii and binary; a packed colour becomes red, green and blue."""
    header: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in header:
        end = content.find(b"\n", at)
        if end < 0:
            raise ValueError("its header has no line DATA")
        word, *values = content[at:end].decode("ascii", "replace").split() or [""]
        header[word.upper()] = values
        at = end + 1
    fields, sizes, kinds = (header.get(key, []) for key in ("FIELDS", "SIZE", "TYPE"))
    counts = header.get("COUNT", ["1"] * len(fields))
    points = next(iter(header.get("POINTS", [])), "")
    if not fields or not len(fields) == len(sizes) == len(kinds) == len(counts):
        raise ValueError("its header does not say FIELDS, SIZE, TYPE and COUNT of each channel")
    if not points.isdigit() or not all(count.isdigit() for count in counts):
        raise ValueError("its header does not say how many POINTS there are")
    types = [f"{kind.lower()}{size}" for kind, size in zip(kinds, sizes, strict=True)]
    if bad := [kind for kind in types if kind not in _PCD_TYPES]:
        raise ValueError(f"its header has the type {bad[0]!r}, which is not known")
    columns = list(_pcd_columns(fields, types, [int(count) for count in counts]))
    return _from_columns(
        _unpacked(_pcd_rows(content[at:], columns, int(points), " ".join(header["DATA"])))
    )


_PACKED = ("rgb", "rgba")
_PCD_TYPES = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f4", "f8"}


def _pcd_columns(
    fields: Sequence[str], types: Sequence[str], counts: Sequence[int]
) -> Iterator[tuple[str, str]]:
    """The name and the type of each column; those of padding ("_") are made distinct."""
    for place, (name, kind, count) in enumerate(zip(fields, types, counts, strict=True)):
        for i in range(count):
            number = f"_{i}" if count > 1 else ""
            yield (f"_{place}" if name == "_" else name) + number, f"<{kind}"


def _pcd_rows(
    body: bytes, columns: Sequence[tuple[str, str]], points: int, form: str
) -> dict[str, np.ndarray]:
    if form == "binary":
        kind = np.dtype(list(columns))
        if len(body) < points * kind.itemsize:
            raise ValueError(f"promises {points} points, but ends before")
        rows = np.frombuffer(body, kind, points)
        return {name: rows[name] for name, _ in columns}
    if form != "ascii":
        raise ValueError(f"holds {form or 'unknown'} data, which is not read: save it as binary")
    words = body.split()
    if len(words) < points * len(columns):
        raise ValueError(f"promises {points} points, but ends before")
    table = np.array(words[: points * len(columns)], np.float64).reshape(points, len(columns))
    # Text may have more digits than the type that the header names.
    return {
        name: table[:, i].astype(kind) if name in _PACKED else table[:, i]
        for i, (name, kind) in enumerate(columns)
    }


def _unpacked(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without padding, and with the packed colour "rgb" or "rgba" as its channels."""
    plain: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        if name in _PACKED and values.dtype.itemsize == 4:
            packed = np.ascontiguousarray(values).view("<u4")
            plain |= {"red": packed >> 16 & 255, "green": packed >> 8 & 255, "blue": packed & 255}
            if name == "rgba":
                plain["alpha"] = packed >> 24
        elif not name.startswith("_"):
            plain[name] = values
    return plain


# Text ------------------------------------------------------------------------------------


def _text(content: bytes) -> Cloud:
    """Lines of numbers, divided by spaces, commas or semicolons. Comments begin with # or //; the
    first line may be a count of the points, or name the channels."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"is no text (byte {error.start})") from None
    rows = [line.strip() for line in lines]
    names: tuple[str, ...] = ()
    begin = 0
    for begin, row in enumerate(rows):  # noqa: B007
        words = _words(row.lstrip("#/ "))
        if not words:
            continue
        if len(words) >= 3 and not any(map(_is_number, words)) and "x" in _canonical(words):
            names = _canonical(words)
        elif not row.startswith(("#", "//")) and not (len(words) == 1 and words[0].isdigit()):
            break
    body = [row for row in rows[begin:] if row and not row.startswith(("#", "//"))]
    if not body:
        raise ValueError("no points")
    first = _words(body[0])
    if len(first) < 2 or not all(map(_is_number, first)):
        raise ValueError(f"its line {body[0][:40]!r} is not of numbers")
    comma = ";" if ";" in body[0] else "," if "," in body[0] else r"\s+"
    try:
        table = pd.read_csv(
            io.StringIO("\n".join(body)), sep=comma, header=None, dtype=np.float64,
            skipinitialspace=True,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(first_line(error)) from None
    points = table.to_numpy(np.float64)
    if np.isnan(points).any() and len({len(_words(row)) for row in body}) > 1:
        raise ValueError("its lines differ in how many numbers they have")
    if points.shape[1] > 2 and comma != r"\s+" and np.isnan(points[:, -1]).all():
        points = points[:, :-1]  # a comma ends each line
    if not names:
        return Cloud(points)
    if len(names) != points.shape[1]:
        raise ValueError(f"names {len(names)} channels, but has {points.shape[1]} numbers a line")
    return _from_columns(dict(zip(names, points.T, strict=True)))


def _words(row: str) -> list[str]:
    return row.replace(",", " ").replace(";", " ").split()


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
