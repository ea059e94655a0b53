"""Point clouds: .off, .ply, .npy and .h5 files or arrays to float32 (points, channels).

Channels are x, y, z and whatever else is known of a point; of two channels z becomes 0.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data.dataset import shape_profile
from nas.data.folders import CLOUDS, read_each, refuse_bad
from nas.data.limits import npy_shape, read_npy
from nas.data.ragged import Ragged
from nas.data.samples import PART_NAMES, Arrays, Samples, label_frame, to_numpy
from nas.rules import CLOUD_MOST
from nas.task import DataProfile, InputError, UsageError

HDF5 = (".h5", ".hdf5")
UNLIKE = 4.0  # spreads of the axes that differ more are not in one unit
NARROW = 8  # pixels: an image of three axes less wide than this may be the points of a cloud
CHANNELS = 64  # of a point, above which an array is taken for something else
_PLY = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2",
    "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip


def recognise(source: Any) -> str:
    """Of arrays with three axes, which may as well be images, only those of narrow ones are
    claimed: then the user is asked."""
    if isinstance(source, Arrays):
        if source.ndim == 3 and 2 <= source.x.shape[2] < NARROW:
            return f"arrays of points with {source.x.shape[2]} channels"
        return "a list of (points, channels) arrays" if _clouds(source.x) else ""
    if isinstance(source, Path) and _hdf5_files(source):
        return f"{source.name} holds HDF5 files"
    why = CLOUDS.recognise(source)
    if why and isinstance(source, Path) and source.is_dir():
        # An .npy file may hold anything: its header tells.
        first = next(iter(CLOUDS.find(source)), None)
        if first is not None and first.suffix.lower() == ".npy" and not _npy_is_cloud(first):
            return ""
    return why


def load(source: Any, target: list[str] | None) -> Samples:
    """Clouds with one label column (or those of the table).

    Class folders may hold train and test folders as well as lie in them (ModelNet); HDF5
    files hold ``data`` (n, points, 3) and ``label``, and "train" or "test" in their name says
    their part. Arrays are (n, points, channels), or a list of (points, channels).
    """
    if isinstance(source, Path) and (files := _hdf5_files(source)):
        return _load_hdf5(files, target, labelled=True)
    if not isinstance(source, Arrays):
        return CLOUDS.load(source, target)
    if source.y is None:
        raise UsageError("a list of clouds needs its labels; give (clouds, labels)")
    clouds, labels = _arrays(source.x), label_frame(source.y, target)
    if len(labels) != len(clouds):
        raise InputError(f"X has {len(clouds)} clouds, but y has {len(labels)}")
    return Samples(clouds, labels, source.given, labels)


def load_inputs(source: Any) -> Samples:
    """Clouds to predict, labelled or not: a folder, a table, one file, or arrays."""
    if isinstance(source, Path) and (files := _hdf5_files(source)):
        return _load_hdf5(files, None, labelled=False)
    if not isinstance(source, Arrays):
        return CLOUDS.load_inputs(source)
    clouds = _arrays(source.x)
    labels = pd.DataFrame(index=range(len(clouds)))
    return Samples(clouds, labels if source.y is None else label_frame(source.y, None))


def code(samples: Samples, train: np.ndarray) -> tuple[dict[str, Ragged], DataProfile, list[str]]:
    """The clouds, and the mean and spread of each channel over the training part.

    The axes of space share one spread, as a shape must not be distorted, unless they plainly
    are no lengths of one unit: then each has its own, and a note says so.
    """
    clouds, sampled = _read(samples.inputs)
    widths = [cloud.shape[1] for cloud in clouds]
    if len(set(widths)) > 1:
        usual = max(set(widths), key=widths.count)
        row = next(r for r, width in enumerate(widths) if width != usual)
        raise InputError(
            f"{samples.place(row)} has {widths[row]} channels a point, but most have {usual};"
            " give all clouds the same"
        )
    notes = []
    if sampled:
        notes.append(
            f"of {sampled} of {len(clouds)} clouds {CLOUD_MOST} points are drawn at random"
        )
    points = Ragged.of(clouds)
    seen = points.take(train).values.astype(np.float64)
    mean, std = seen.mean(axis=0), seen.std(axis=0)
    space = std[:3]
    known = space[space > 0]
    if len(known) and known.max() > UNLIKE * known.min():
        spreads = ", ".join(f"{s:.3g}" for s in space)
        notes.append(
            f"the spreads of x, y and z ({spreads}) differ more than {UNLIKE:g}-fold: each axis"
            " is scaled for itself"
        )
    elif len(known):
        std[:3] = np.sqrt((known**2).mean())
    std[std == 0] = 1.0  # the same everywhere
    inputs = {"points": points}
    profile = replace(
        shape_profile(inputs, train),
        channel_mean=tuple(mean.tolist()),
        channel_std=tuple(std.tolist()),
    )
    return inputs, profile, notes


def encode(inputs: Any, profile: DataProfile) -> dict[str, Ragged]:
    """New clouds; they need as many channels as those of the training data."""
    clouds, _ = _read(inputs)
    expected = profile.inputs["points"][1]
    for row, cloud in enumerate(clouds):
        if cloud.shape[1] != expected:
            name = inputs[row] if isinstance(inputs[row], Path) else f"cloud {row + 1}"
            raise InputError(
                f"{name} has {cloud.shape[1]} channels a point, but the training data had"
                f" {expected}"
            )
    return {"points": Ragged.of(clouds)}


# Clouds ----------------------------------------------------------------------------------


def _read(sources: Sequence[Any]) -> tuple[list[np.ndarray], int]:
    """Each cloud as float32 (points, channels), and how many were larger than allowed."""
    done = _each(sources, lambda source: _cloud(_file(source)))
    return [cloud for cloud, _ in done], sum(cut for _, cut in done)


def _cloud(found: tuple[np.ndarray, np.ndarray | None]) -> tuple[np.ndarray, bool]:
    """At most ``CLOUD_MOST`` points in random order, so that the first of them are a sample
    too. The draw is seeded by the points: a cloud is the same wherever it stands.

    Raises ValueError where there are no points.
    """
    points, faces = found
    if points.ndim != 2 or points.shape[1] < 2 or points.dtype.kind not in "biuf":
        raise ValueError(
            f"expected numbers of the shape (points, 2 or more), got {points.shape}"
            f" of {points.dtype}"
        )
    if not len(points):
        raise ValueError("no points")
    with np.errstate(over="ignore"):  # told below
        points = np.ascontiguousarray(points, np.float32)
    if not np.isfinite(points).all():
        raise ValueError("NaN or infinite values")
    if points.shape[1] == 2:
        points = np.concatenate([points, np.zeros_like(points[:, :1])], axis=1)
    rng = np.random.default_rng([len(points), zlib.crc32(points.tobytes())])
    if faces is not None and len(faces):
        surface = _on_faces(points, faces, rng)
        if surface is not None:
            return surface, False
    order = rng.permutation(len(points))[:CLOUD_MOST]
    return points[order], len(points) > CLOUD_MOST


def _on_faces(points: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """``CLOUD_MOST`` points, uniform on the triangles (F, 3) (Osada et al. 2002, sec. 4.1);
    none where the triangles have no area."""
    if faces.min() < 0 or faces.max() >= len(points):
        raise ValueError(f"a face names vertex {faces.max()} of {len(points)}")
    corners = points[faces].astype(np.float64)  # (F, 3, channels)
    sides = corners[:, 1:, :3] - corners[:, :1, :3]
    area = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
    if not area.sum() > 0:
        return None
    chosen = corners[rng.choice(len(faces), CLOUD_MOST, p=area / area.sum())]
    root, along = np.sqrt(rng.random(CLOUD_MOST)), rng.random(CLOUD_MOST)
    weights = np.stack([1 - root, root * (1 - along), root * along], axis=1)
    drawn: np.ndarray = (chosen * weights[:, :, None]).sum(axis=1).astype(np.float32)
    return drawn


def _each(sources: Sequence[Any], work: Callable[[Any], Any]) -> list[Any]:
    """``work`` of every cloud; all that fail are named at once."""
    errors = (OSError, ValueError, EOFError)
    found, bad = read_each(sources, work, errors, lambda e: next(iter(str(e).splitlines()), ""))
    refuse_bad(sources, bad, "clouds", "cloud")
    return found


# Arrays ----------------------------------------------------------------------------------


def _clouds(x: Any) -> bool:
    """Whether a list plainly holds clouds: (points, channels) of one number of channels."""
    shapes = [tuple(getattr(cloud, "shape", ())) for cloud in x] if isinstance(x, list) else []
    widths = {int(shape[-1]) if len(shape) == 2 else 0 for shape in shapes}
    return len(widths) == 1 and 2 <= min(widths) <= CHANNELS


def _arrays(x: Any) -> list[np.ndarray]:
    """Each sample as (points, channels)."""
    if getattr(x, "ndim", 3) != 3:
        raise InputError(f"clouds need the shape (n, points, channels), but X has {x.shape}")
    clouds = [to_numpy(cloud) for cloud in (x if isinstance(x, list) else to_numpy(x))]
    if not clouds:
        raise InputError("X holds no cloud")
    return clouds


# Files -----------------------------------------------------------------------------------


def _file(source: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Points (P, channels), and triangles (F, 3) where the file has faces."""
    if not isinstance(source, Path):
        return source, None
    match source.suffix.lower():
        case ".off":
            return _off(source.read_bytes())
        case ".ply":
            return _ply(source.read_bytes())
    return read_npy(source), None


def _npy_is_cloud(file: Path) -> bool:
    try:
        shape = npy_shape(file)
    except (OSError, ValueError, EOFError):
        return True  # load names it as broken, with all others that are
    return len(shape) == 2 and 2 <= shape[1] <= CHANNELS


def _off(content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Object File Format; the counts may stand in the first line beside the word, even
    without a space, as in some files of ModelNet."""
    lines = [line.split(b"#")[0].strip() for line in content.splitlines()]
    lines = [line for line in lines if line]
    if not lines or not lines[0].upper().startswith(b"OFF"):
        raise ValueError("does not begin with OFF")
    rest = lines[0][3:].strip()
    lines = [rest, *lines[1:]] if rest else lines[1:]
    if not lines:
        raise ValueError("ends after OFF")
    vertices, faces = (int(number) for number in lines[0].split()[:2])
    if len(lines) < 1 + vertices + faces:
        raise ValueError(f"promises {vertices} vertices and {faces} faces, but ends before")
    rows = b" ".join(lines[1 : 1 + vertices]).split()
    points = np.array(rows, np.float64).reshape(vertices, -1 if vertices else 3)[:, :3]
    polygons = [[int(number) for number in line.split()] for line in lines[1 + vertices :][:faces]]
    return points, _triangles([polygon[1 : 1 + polygon[0]] for polygon in polygons])


def _triangles(polygons: Sequence[Sequence[int]]) -> np.ndarray | None:
    """Polygons as fans of triangles, (F, 3); none where there is not one."""
    found = [(face[0], face[i], face[i + 1]) for face in polygons for i in range(1, len(face) - 1)]
    return np.array(found, np.int64) if found else None


def _ply(content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Polygon File Format, ascii and binary: x, y, z and all other scalars of a vertex, and
    the faces."""
    if not content.startswith(b"ply"):
        raise ValueError("does not begin with ply")
    end = content.find(b"end_header")
    if end < 0:
        raise ValueError("its header has no end")
    start = content.index(b"\n", end) + 1
    elements: list[tuple[str, int, list[list[str]]]] = []
    order = ""
    for line in content[:end].decode("ascii", "replace").splitlines():
        words = line.split()
        match words[:1]:
            case ["format"]:
                order = {"binary_little_endian": "<", "binary_big_endian": ">"}.get(words[1], "")
            case ["element"]:
                elements.append((words[1], int(words[2]), []))
            case ["property"]:
                elements[-1][2].append(words[1:])
    body = content[start:]
    table: dict[str, Any] = (
        _ply_binary(body, elements, order) if order else _ply_text(body, elements)
    )
    if "vertex" not in table or not {"x", "y", "z"} <= table["vertex"].keys():
        raise ValueError("has no vertices with x, y and z")
    vertex = table["vertex"]
    names = ["x", "y", "z", *(name for name in vertex if name not in ("x", "y", "z"))]
    points = np.stack([np.asarray(vertex[name], np.float64) for name in names], axis=1)
    lists = [value for key, value in table.get("face", {}).items() if "ind" in key]
    return points, _triangles(lists[0]) if lists else None


def _ply_text(body: bytes, elements: Any) -> dict[str, Any]:
    words = iter(body.split())
    table: dict[str, Any] = {}
    try:
        for element, count, properties in elements:
            columns: dict[str, list[Any]] = {p[-1]: [] for p in properties}
            for _ in range(count):
                for p in properties:
                    if p[0] == "list":
                        size = int(next(words))
                        columns[p[-1]].append([int(float(next(words))) for _ in range(size)])
                    else:
                        columns[p[-1]].append(float(next(words)))
            table[element] = _scalars(element, properties, columns)
    except StopIteration:
        raise ValueError("ends before its last element") from None
    return table


def _ply_binary(body: bytes, elements: Any, order: str) -> dict[str, Any]:
    table: dict[str, Any] = {}
    at = 0
    for element, count, properties in elements:
        if not any(p[0] == "list" for p in properties):
            kind = np.dtype([(p[-1], order + _PLY[p[0]]) for p in properties])
            if len(body) < at + count * kind.itemsize:
                raise ValueError("ends before its last element")
            rows = np.frombuffer(body, kind, count, at)
            at += count * kind.itemsize
            table[element] = {name: rows[name] for name in rows.dtype.names or ()}
            continue
        columns: dict[str, list[Any]] = {p[-1]: [] for p in properties}
        for _ in range(count):
            for p in properties:
                number = 1
                if p[0] == "list":
                    kind = np.dtype(order + _PLY[p[1]])
                    number = int(np.frombuffer(body, kind, 1, at)[0])
                    at += kind.itemsize
                kind = np.dtype(order + _PLY[p[-2]])
                values = np.frombuffer(body, kind, number, at).tolist()
                at += number * kind.itemsize
                columns[p[-1]].append(values if p[0] == "list" else values[0])
        table[element] = _scalars(element, properties, columns)
    return table


def _scalars(element: str, properties: Any, columns: dict[str, Any]) -> dict[str, Any]:
    """Lists belong to faces; one that a vertex has is no channel."""
    if element != "vertex":
        return columns
    return {p[-1]: columns[p[-1]] for p in properties if p[0] != "list"}


def _hdf5_files(source: Path) -> list[Path]:
    """The HDF5 file, or those of a folder."""
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    return [file for file in files if file.suffix.lower() in HDF5 and file.name[0] != "."]


def _load_hdf5(files: list[Path], target: list[str] | None, *, labelled: bool) -> Samples:
    try:
        import h5py  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ModuleNotFoundError:
        raise InputError(
            f"{files[0]} is HDF5, which needs h5py: pip install h5py, or save it as .npz"
        ) from None
    clouds: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for file in files:
        try:
            with h5py.File(file, "r") as content:
                absent = {"data", *({"label"} if labelled else ())} - content.keys()
                if absent:
                    raise InputError(
                        f"{file} holds {', '.join(content)}, but no {min(absent)};"
                        " expected data (n, points, channels) and label (n,)"
                    )
                data = content["data"][:]
                label = content["label"][:].reshape(-1) if labelled else data[:0, 0, 0]
        except OSError as error:
            raise InputError(f"{file} cannot be read as HDF5: {error}") from None
        if data.ndim != 3 or (labelled and len(label) != len(data)):
            raise InputError(
                f"{file}: data {data.shape} and label {label.shape}; expected"
                " (n, points, channels) and (n,)"
            )
        clouds.append(data)
        labels.append(label)
    names = tuple((file.name, len(data)) for file, data in zip(files, clouds, strict=True))
    inputs = [cloud for data in clouds for cloud in data]
    if not labelled:
        return Samples(inputs, pd.DataFrame(index=range(len(inputs))), files=names)
    frame = label_frame(np.concatenate(labels), target)
    parts = [_part_named(file) for file in files]
    given = None
    if 0 in parts and None not in parts:
        given = np.concatenate(
            [np.full(len(data), part, np.int8) for data, part in zip(clouds, parts, strict=True)]
        )
    return Samples(inputs, frame, given, frame, names)


def _part_named(file: Path) -> int | None:
    """The part that a file's name speaks of, as ply_data_train0.h5 does."""
    found = {part for name, part in PART_NAMES.items() if name in file.stem.lower()}
    return found.pop() if len(found) == 1 else None
