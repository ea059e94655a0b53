"""Zip archives of files: unpacked for as long as they are read."""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from nas.data.limits import refuse_larger
from nas.task import InputError, UsageError


def is_zip(source: Any) -> bool:
    """Whether a source names a .zip file that is there (an .npz is none)."""
    return (
        isinstance(source, (str, Path))
        and Path(source).suffix.lower() == ".zip"
        and Path(source).expanduser().is_file()
    )


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A temporary folder, called as the archive, with what it holds.

    Raises InputError where it is no archive, is encrypted, names files outside of itself, or
    unpacks to more than the memory limit.
    """
    path = path.expanduser()
    with tempfile.TemporaryDirectory(prefix="nas-") as place:
        folder = Path(place) / path.stem
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
                unpacks = sum(member.file_size for member in members)
                refuse_larger(unpacks, f"{path} unpacks to", "unpack it and name the folder")
                for member in members:
                    name = PurePosixPath(member.filename.replace("\\", "/"))
                    if name.is_absolute() or ".." in name.parts:
                        raise InputError(f"{path} names {member.filename!r}, outside of itself")
                names = Counter(member.filename for member in members)
                if double := [name for name, n in names.items() if n > 1]:
                    raise InputError(f"{path} holds {double[0]!r} twice; keep one")
                archive.extractall(folder)
        except InputError:
            raise
        except (OSError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{path} cannot be unpacked: {reason}") from None
        try:
            yield folder
        except (InputError, UsageError) as error:  # nobody knows the folder's name
            raise type(error)(str(error).replace(str(folder), str(path))) from None
