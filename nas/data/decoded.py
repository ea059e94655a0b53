"""Decoded images that are too many for memory: an array in a file, which is filled once.

The file is named by what it holds (the images' paths, sizes and times of change, the size and the
channels they are decoded to), so that a design, a search and a training after it find it. It is
filled in pieces: an interrupted reading continues with the piece where it was. Nothing changes a
file that is whole; where the disk is short, the one that was used least recently is removed, whole
or not.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import secrets
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas import terminal
from nas.data.hashes import row_hashes
from nas.data.limits import GIB
from nas.data.ragged import Ragged
from nas.files import cache_folder
from nas.task import InputError

PIECE_BYTES = 2**26  # decoded between two records of how far a reading is
SHOWN_S = 15.0  # between two lines about it
SPARE = 2**30  # bytes that stay free on the disk
_VERSION = 1  # of what decoding gives


def folder() -> Path:
    """Where decoded images are kept: NAS_DECODED, or a folder of the user's cache."""
    return cache_folder("NAS_DECODED", "decoded")


def decoded(
    files: Sequence[Path],
    shape: tuple[int, ...],
    how: object,
    fill: Callable[[Sequence[Path], np.ndarray], list[tuple[int, str]]],
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """The images of ``files`` as a mapped, read-only uint8 array (n, *shape).

    Args:
        files: Of the images.
        shape: Of a decoded image, (channels, height, width).
        how: What else decoding follows from.
        fill: Decodes some files into an array of as many; returns the rows that cannot be
            decoded, with the reason.

    Returns:
        The array, and the rows of all that cannot be decoded; where there is one, nothing is kept.

    Raises:
        InputError: The disk has no room for it, or the folder may not be written.
    """
    place = folder() / f"{_key(files, shape, how)}.npy"
    bad: list[tuple[int, str]] = []
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with place.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second reader waits here, and finds the file
            if not place.exists():
                bad = _make(place, files, shape, fill)
            if not bad:
                os.utime(place)  # used now
                return np.load(place, mmap_mode="r"), []
    except OSError as error:
        raise InputError(
            f"decoded images cannot be kept in {folder()} ({error.strerror}); set NAS_DECODED to"
            " a folder with room for them"
        ) from None
    return np.empty((0, *shape), np.uint8), bad


def new_file(ending: str) -> Path:
    """The name of a new file of this process in ``folder``, for what goes with the process; those
    of processes of this machine that were killed are removed. Raises OSError."""
    folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    own = _scratch_of_this_machine()
    for old in folder().glob(f"{own}-*"):
        if not Path(f"/proc/{old.name.removeprefix(own).split('-')[1]}").exists():
            old.unlink(missing_ok=True)
    return folder() / f"{own}-{os.getpid()}-{secrets.token_hex(8)}{ending}"


def _scratch_of_this_machine() -> str:
    """How names of such files begin where process numbers are those of this process: on its
    machine, in its container. Others may share the folder."""
    try:
        numbers = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # not Linux
        numbers = 0
    host = "".join(c if c.isalnum() else "_" for c in platform.node())
    return f"scratch-{host}-{numbers}"


def scratch(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new array (n, …) in a file of ``folder``, to be filled, for what is too large for memory.
    The file is removed with the array; ``Dataset.save`` links it before."""
    size, place = int(np.prod(shape)) * np.dtype(dtype).itemsize, None
    try:
        place = new_file(".npy")
        array = _allocated(place, shape, dtype)
    except OSError as error:
        if place is not None:
            place.unlink(missing_ok=True)
        raise InputError(
            f"a table of {size / GIB:,.1f} GiB cannot be kept in {folder()} ({error.strerror});"
            " set NAS_DECODED to a folder with room for it"
        ) from None
    weakref.finalize(array, place.unlink, missing_ok=True)
    return array


def _allocated(place: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new array in the file ``place``, whose room on the disk is taken: a disk that is full later
    would end the process. Raises OSError."""
    array: np.ndarray = np.lib.format.open_memmap(place, "w+", dtype, shape)
    with place.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, place.stat().st_size)
    return array


def is_kept(array: np.ndarray) -> bool:
    """Whether an array is a whole file of ``folder``, which may be linked instead of copied."""
    if not isinstance(array, np.memmap) or array.filename is None:
        return False
    place = Path(array.filename)
    whole = array.nbytes + array.offset
    return place.parent == folder() and place.is_file() and place.stat().st_size == whole


def hashes_of(array: np.ndarray | Ragged) -> np.ndarray:
    """``nas.data.hashes.row_hashes``; those of decoded images are kept beside them."""
    if isinstance(array, np.memmap) and is_kept(array):
        kept = Path(str(array.filename)).with_suffix(".hashes")
        if kept.exists():  # not of a table
            found: np.ndarray = np.load(kept)
            return found
    return row_hashes(array)


def _key(files: Sequence[Path], shape: tuple[int, ...], how: object) -> str:
    digest = hashlib.sha256(repr((_VERSION, shape, how)).encode())
    temporary = Path(tempfile.gettempdir()).resolve()
    for file in files:
        try:
            about, place = file.stat(), file.resolve()
            if _is_unpacked(place, temporary):  # elsewhere each time, but with this content
                known = hashlib.sha256(place.read_bytes()).hexdigest()
            else:
                known = f"{place} {about.st_size} {about.st_mtime_ns}"
        except OSError:  # it is named as one that cannot be decoded
            known = f"{file} absent"
        digest.update(f"{known};".encode())
    return digest.hexdigest()[:32]


def _is_unpacked(place: Path, temporary: Path) -> bool:
    """Whether a file is of an archive that ``nas.data.archives.unpacked`` has unpacked."""
    inside = place.is_relative_to(temporary)
    return inside and place.relative_to(temporary).parts[0].startswith("nas-")


def _make(
    place: Path,
    files: Sequence[Path],
    shape: tuple[int, ...],
    fill: Callable[[Sequence[Path], np.ndarray], list[tuple[int, str]]],
) -> list[tuple[int, str]]:
    """Fill the file ``place``, or go on with it; the rows that cannot be decoded."""
    unfinished, count = place.with_suffix(".part"), place.with_suffix(".count")
    each = int(np.prod(shape))
    done = _continued(unfinished, count, (len(files), *shape))
    beside = place.with_suffix(".hashes")
    if done:
        array, hashes = (np.load(file, mmap_mode="r+") for file in (unfinished, beside))
    else:
        _remove(unfinished)
        _make_room(len(files), shape, each)
        array = _allocated(unfinished, (len(files), *shape), np.uint8)
        hashes = _allocated(beside, (len(files),), "<u8")
    size, begin, shown = max(1, PIECE_BYTES // each), time.monotonic(), -SHOWN_S
    first, bad = done, list[tuple[int, str]]()
    while done < len(files):
        if (now := time.monotonic()) - shown > SHOWN_S:
            left = (now - begin) / (done - first) * (len(files) - done) if done > first else None
            _say(done, files, place, each, left)
            shown = now
        rows = slice(done, min(done + size, len(files)))
        wrong = fill(files[rows], array[rows])
        bad += [(done + row, why) for row, why in wrong]
        done = rows.stop
        if not bad:
            hashes[rows] = row_hashes(array[rows])
            array.flush()
            hashes.flush()
            count.write_text(str(done))
    del array, hashes
    if bad:  # once they are replaced or removed, the file has another name
        _remove(unfinished)
    else:
        unfinished.chmod(0o444)
        unfinished.replace(place)
        count.unlink(missing_ok=True)
    return bad


def _continued(unfinished: Path, count: Path, shape: tuple[int, ...]) -> int:
    """How many images an interrupted reading has left; 0 where there was none."""
    try:
        known = np.load(unfinished, mmap_mode="r")
        hashes = np.load(unfinished.with_suffix(".hashes"), mmap_mode="r")
        done = int(count.read_text())
    except (OSError, ValueError):
        return 0
    same = known.shape == shape and known.dtype == np.uint8 and len(hashes) == len(known)
    return done if same else 0


def _make_room(n: int, shape: tuple[int, ...], each: int) -> None:
    """Remove what was used least recently, whole or not, until ``n`` images fit on the disk;
    InputError where they do not. What is read or filled at this moment stays."""
    needed = n * each + SPARE
    known = [*folder().glob("*.npy"), *folder().glob("*.part")]
    old = [file for file in known if not file.name.startswith("scratch-")]
    old.sort(key=lambda file: file.stat().st_mtime)
    while shutil.disk_usage(folder()).free < needed and old:
        oldest = old.pop(0)
        with oldest.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            _remove(oldest)
    if (free := shutil.disk_usage(folder()).free) < needed:
        height, width = shape[1:]
        raise InputError(
            f"{n:,} images of {height} x {width} need {needed / GIB:,.1f} GiB on disk, and"
            f" {folder()} has {free / GIB:,.1f} GiB free; give a smaller image_size, or set"
            " NAS_DECODED to a folder with more room"
        )


def _remove(file: Path) -> None:
    """Remove decoded images, whole or not, with what lies beside them."""
    for ending in (".hashes", ".count"):
        file.with_suffix(ending).unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def _say(done: int, files: Sequence[Path], place: Path, each: int, left_s: float | None) -> None:
    """How far a reading is; at its beginning where it leads."""
    if left_s is None:
        size = f"{len(files) * each / GIB:,.1f} GiB"
        start = f", {done:,} of which are there" if done else ""
        text = f"{len(files):,} images{start} are decoded once to {place} ({size})"
    else:
        text = f"{done:,} of {len(files):,} images decoded, about {left_s:,.0f} s left"
    terminal.line(text, err=True)
