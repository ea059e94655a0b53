"""Point clouds: files (see ``cloud_files``), HDF5 or arrays to float32 (points, channels).

Channels are x, y, z and whatever else is known of a point; of two channels z becomes 0.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data.cloud_files import Cloud, is_text_cloud, read_cloud
from nas.data.column_types import ignored_only
from nas.data.dataset import shape_profile
from nas.data.folders import CLOUDS, Files, read_each, refuse_bad
from nas.data.limits import npy_shape, refuse_larger
from nas.data.precision import COARSE, spacing
from nas.data.ragged import Ragged
from nas.data.samples import PART_NAMES, Arrays, Samples, label_frame, to_numpy
from nas.rules import CLOUD_MOST
from nas.task import DataProfile, InputError, UsageError

TEXTS = Files((".txt",), "point cloud")  # where nothing else is there
HDF5 = (".h5", ".hdf5")
UNLIKE = 4.0  # spreads of the axes that differ more are not in one unit
ROUNDED = 1e-3  # of a cloud's size, from which on what float32 rounds is worth a note
NARROW = 8  # pixels: an image of three axes less wide than this may be the points of a cloud
CHANNELS = 64  # of a point, above which an array is taken for something else


def recognise(source: Any) -> str:
    """Of arrays with three axes, which may as well be images, only those of narrow ones are
    claimed: then the user is asked."""
    if isinstance(source, Arrays):
        if source.ndim == 3 and 2 <= source.x.shape[2] < NARROW:
            return f"arrays of points with {source.x.shape[2]} channels"
        return "a list of (points, channels) arrays" if _clouds(source.x) else ""
    if isinstance(source, Path) and _hdf5_files(source):
        return f"{source.name} holds HDF5 files"
    why = _files_of(source).recognise(source)
    if why and isinstance(source, Path) and source.is_dir():
        # An .npy file may hold anything: its header decides.
        first = next(iter(CLOUDS.find(source)), None)
        if first is not None and first.suffix.lower() == ".npy" and not _npy_is_cloud(first):
            return ""
    return why


def load(source: Any, target: list[str] | None, columns: Mapping[str, str]) -> Samples:
    """Clouds with one label column (or those of the table).

    Class folders may hold train and test folders as well as lie in them (ModelNet); HDF5
    files hold ``data`` (n, points, 3) and ``label``, and "train" or "test" in their name says
    their part. Arrays are (n, points, channels), or a list of (points, channels).
    """
    if not isinstance(source, Arrays) and not (isinstance(source, Path) and _hdf5_files(source)):
        return _files_of(source).load(source, target, columns)
    ignored_only(columns, (), "point cloud")
    if isinstance(source, Path):
        return _load_hdf5(_hdf5_files(source), target, labelled=True)
    if source.y is None:
        raise UsageError("a list of clouds needs its labels; give (clouds, labels)")
    clouds, labels = _arrays(source.x), label_frame(source.y, target)
    if len(labels) != len(clouds):
        raise InputError(f"X has {len(clouds)} clouds, but y has {len(labels)}")
    return Samples(clouds, labels, source.given, labels)


def load_inputs(source: Any, as_written: Collection[str] = ()) -> Samples:
    """Clouds to predict, labelled or not: a folder, a table, one file, or arrays."""
    if isinstance(source, Path) and (files := _hdf5_files(source)):
        return _load_hdf5(files, None, labelled=False)
    if not isinstance(source, Arrays):
        return _files_of(source).load_inputs(source, as_written)
    clouds = _arrays(source.x)
    labels = pd.DataFrame(index=range(len(clouds)))
    return Samples(clouds, labels if source.y is None else label_frame(source.y, None))


def code(samples: Samples, train: np.ndarray) -> tuple[dict[str, Ragged], DataProfile, list[str]]:
    """The clouds, and the mean and spread of each channel over the training part.

    The axes of space share one spread, as a shape must not be distorted, unless they plainly
    are no lengths of one unit: then each has its own, and a note says so. Channels that the
    files name are put into one order by their names. What lies far from zero is shifted by the
    same for all clouds, see ``nas.data.precision``.

    Raises InputError for clouds that differ in their channels.
    """
    clouds = _read(samples.inputs)
    channels, notes = _shared_channels(clouds)
    clouds = [_ordered(cloud, channels) for cloud in clouds]
    widths = [cloud.points.shape[1] for cloud in clouds]
    if len(set(widths)) > 1:
        usual = max(set(widths), key=widths.count)
        row = next(r for r, width in enumerate(widths) if width != usual)
        raise InputError(
            f"{samples.place(row)} has {widths[row]} channels a point, but most have {usual};"
            " give all clouds the same"
        )
    shift = _common_shift([clouds[row] for row in train])
    notes += _notes(clouds, shift)
    points = Ragged.of([_shifted(cloud, shift) for cloud in clouds])
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
        channels=channels,
        channel_mean=tuple(mean.tolist()),
        channel_std=tuple(std.tolist()),
        channel_shift=tuple(shift.tolist()) if shift.any() else (),
    )
    return inputs, profile, notes


def encode(inputs: Any, profile: DataProfile) -> dict[str, Ragged]:
    """New clouds; they need the channels of the training data, by name where they have names.

    Raises InputError where one lacks them.
    """
    expected = profile.inputs["points"][1]
    shift = np.array(profile.channel_shift or [0.0] * expected)
    coded = []
    for row, cloud in enumerate(_read(inputs)):
        name = inputs[row] if isinstance(inputs[row], Path) else f"cloud {row + 1}"
        absent = [c for c in profile.channels if cloud.channels and c not in cloud.channels]
        if absent:
            raise InputError(
                f"{name} has no channel {', '.join(absent)}, as the training data had; it has"
                f" {', '.join(cloud.channels)}"
            )
        cloud = _ordered(cloud, profile.channels)
        if cloud.points.shape[1] != expected:
            raise InputError(
                f"{name} has {cloud.points.shape[1]} channels a point, but the training data had"
                f" {expected}"
            )
        coded.append(_shifted(cloud, shift))
    return {"points": Ragged.of(coded)}


# Clouds ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Drawn:
    """The points of a cloud that are used: float32 (P, channels) less ``origin`` float64
    (channels,), which is 0 where float32 holds the values as they are; whether they were drawn
    from more, and how many were left out because one of their values was no number."""

    points: np.ndarray
    origin: np.ndarray
    channels: tuple[str, ...]
    drawn: bool
    dropped: int


def _read(sources: Sequence[Any]) -> list[_Drawn]:
    """Each file or array (points, channels); all that cannot be read are named at once."""

    def read(source: Any) -> _Drawn:
        return _draw(read_cloud(source) if isinstance(source, Path) else Cloud(source))

    errors = (OSError, ValueError, EOFError, MemoryError)
    found, bad = read_each(sources, read, errors, lambda e: next(iter(str(e).splitlines()), ""))
    refuse_bad(sources, bad, "clouds", "cloud")
    return found


def _draw(cloud: Cloud) -> _Drawn:
    """At most ``CLOUD_MOST`` points in random order, so that the first of them are a sample
    too. The draw is seeded by the points: a cloud is the same wherever it stands.

    Raises ValueError where there are no points.
    """
    points, faces = cloud.points, cloud.faces
    if points.ndim != 2 or points.shape[1] < 2 or points.dtype.kind not in "biuf":
        raise ValueError(
            f"expected numbers of the shape (points, 2 or more), got {points.shape}"
            f" of {points.dtype}"
        )
    if not len(points):
        raise ValueError("no points")
    points, faces, dropped = _finite(points, faces)
    origin = _origin(points)
    if origin.any():
        points = points - origin
    points = np.ascontiguousarray(points, np.float32)
    channels = cloud.channels
    if points.shape[1] == 2:
        points = np.concatenate([points, np.zeros_like(points[:, :1])], axis=1)
        origin = np.append(origin, 0.0)
    rng = np.random.default_rng([len(points), zlib.crc32(points.tobytes())])
    if faces is not None and len(faces):
        surface = _on_faces(points, faces, rng)
        if surface is not None:
            return _Drawn(surface, origin, channels, False, dropped)
    order = rng.permutation(len(points))[:CLOUD_MOST]
    return _Drawn(points[order], origin, channels, len(points) > CLOUD_MOST, dropped)


def _finite(
    points: np.ndarray, faces: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """The points of which all values are numbers that float32 holds, the faces between these, and
    how many points were left out. A depth camera writes NaN where it measured nothing."""
    if faces is not None and (faces.min() < 0 or faces.max() >= len(points)):
        raise ValueError(f"a face names vertex {faces.max()} of {len(points)}")
    with np.errstate(invalid="ignore"):
        kept = (np.abs(points) <= np.finfo(np.float32).max).all(axis=1)  # not so for NaN
    if kept.all():
        return points, faces, 0
    if not kept.any():
        raise ValueError("every point has NaN or infinite values")
    if faces is not None:
        number = np.cumsum(kept) - 1
        faces = number[faces[kept[faces].all(axis=1)]]
    return points[kept], faces, int((~kept).sum())


def _origin(points: np.ndarray) -> np.ndarray:
    """What to subtract from each channel (float64) before a cast to float32: the middle of those
    whose values lie far from zero beside their extent, else 0."""
    if points.dtype.itemsize < 4 or points.dtype == np.float32:
        return np.zeros(points.shape[1])
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    largest = np.maximum(np.abs(low), np.abs(high))
    far = (high > low) & (spacing(largest) > COARSE * (high - low))
    origin: np.ndarray = np.where(far, np.round((low + high) / 2), 0.0)
    return origin


def _shared_channels(clouds: Sequence[_Drawn]) -> tuple[tuple[str, ...], list[str]]:
    """The channels that all clouds have, in the order of the first, and a note on the others; ()
    where a cloud does not name its channels, which then stand in their order."""
    if not all(cloud.channels for cloud in clouds):
        return (), []
    shared = set.intersection(*(set(cloud.channels) for cloud in clouds))
    channels = tuple(name for name in clouds[0].channels if name in shared)
    others = sorted({name for cloud in clouds for name in cloud.channels} - shared)
    if not others:
        return channels, []
    return channels, [f"only some of the clouds have the channels {', '.join(others)}: not used"]


def _ordered(cloud: _Drawn, channels: tuple[str, ...]) -> _Drawn:
    """A cloud with the given channels alone, by their names; as it is where it has no names."""
    if not channels or not cloud.channels or cloud.channels == channels:
        return cloud
    place = [cloud.channels.index(name) for name in channels]
    return replace(
        cloud,
        points=np.ascontiguousarray(cloud.points[:, place]),
        origin=cloud.origin[place],
        channels=channels,
    )


def _common_shift(clouds: Sequence[_Drawn]) -> np.ndarray:
    """What is subtracted from every cloud, float64 (channels,): the mean of the training clouds'
    origins, in the channels where one has an origin."""
    origins = np.stack([cloud.origin for cloud in clouds])
    shift: np.ndarray = np.where(origins.any(axis=0), np.round(origins.mean(axis=0)), 0.0)
    return shift


def _shifted(cloud: _Drawn, shift: np.ndarray) -> np.ndarray:
    """The points, float32, less ``shift``."""
    if (cloud.origin == shift).all():
        return cloud.points
    moved: np.ndarray = (cloud.points + (cloud.origin - shift)).astype(np.float32)
    return moved


def _notes(clouds: Sequence[_Drawn], shift: np.ndarray) -> list[str]:
    """What was left out of the clouds, and what float32 rounds of those that lie far apart."""
    notes = []
    if drawn := sum(cloud.drawn for cloud in clouds):
        notes.append(f"of {drawn} of {len(clouds)} clouds {CLOUD_MOST} points are drawn at random")
    if holed := [cloud.dropped for cloud in clouds if cloud.dropped]:
        notes.append(
            f"{sum(holed)} points with NaN or infinite values, in {len(holed)} of {len(clouds)}"
            " clouds, are left out"
        )
    coarse = 0
    for cloud in clouds:
        extent = np.ptp(cloud.points, axis=0)
        away = spacing(cloud.origin - shift)
        coarse += bool(((extent > 0) & (away > ROUNDED * extent)).any())
    if coarse:
        notes.append(
            f"{coarse} of {len(clouds)} clouds lie so far from the others that float32 rounds them"
            f" by more than {100 * ROUNDED:g} % of their size; move each to its own middle"
        )
    return notes


def _on_faces(points: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """``CLOUD_MOST`` points, uniform on the triangles (F, 3) (Osada et al. 2002, sec. 4.1);
    none where the triangles have no area."""
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


def _files_of(source: Any) -> Files:
    """The endings that count for a source: .txt only where the first such file in class folders,
    or the column of a table, is of clouds and no file of another ending is."""
    if isinstance(source, Path) and source.is_file():
        return TEXTS if TEXTS.has(source.name) else CLOUDS
    if isinstance(source, Path):
        texts = [] if CLOUDS.any_in(source) else TEXTS.find(source)
        return TEXTS if texts and texts[0].parent != source and is_text_cloud(texts[0]) else CLOUDS
    return TEXTS if TEXTS.recognise(source) else CLOUDS


def _npy_is_cloud(file: Path) -> bool:
    try:
        shape = npy_shape(file)
    except (OSError, ValueError, EOFError):
        return True  # load names it as broken, with all others that are
    return len(shape) == 2 and 2 <= shape[1] <= CHANNELS


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
                refuse_larger(content["data"].nbytes, f"{file} unpacks to", "store fewer clouds")
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
