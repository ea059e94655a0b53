"""Files that promise or unpack to more than a machine holds are refused before memory is taken."""

from __future__ import annotations

import resource
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from nas.data import limits, read
from nas.task import InputError

GIB = 2**30


def lying_npy(path: Path, shape: tuple[int, ...]) -> None:
    """A header of any shape before eight bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(8))


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> int:
    """A limit of 16 MiB, so that a test need not write gigabytes."""
    monkeypatch.setattr(limits, "memory_limit", lambda: 2**24)
    return 2**24


def one_line(source: object, **kwargs: object) -> str:
    with pytest.raises(InputError) as caught:
        read(source, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["x", "edges"])
def test_an_archive_that_unpacks_to_more_than_the_limit_is_refused(
    tmp_path: Path, small_machine: int, name: str
) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", **{name: np.zeros((2**22, 1)), "y": np.zeros(9)})
    assert (tmp_path / "bomb.npz").stat().st_size < 2**17
    message = one_line(tmp_path / "bomb.npz")
    assert "bomb.npz unpacks to" in message
    assert "half of this machine's" in message


@pytest.mark.parametrize("shape", [(10**12, 3), (10**25,), (-1, 3)], ids=str)
def test_an_archive_whose_header_lies_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    lying_npy(tmp_path / "x.npy", shape)
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        archive.write(tmp_path / "x.npy", "x.npy")
    assert "header" in one_line(tmp_path / "lie.npz")


def test_clouds_whose_headers_lie_are_named(tmp_path: Path) -> None:
    for label in "ab":
        for i in range(6):
            lying_npy(tmp_path / label / f"{i}.npy", (10**11, 3))
    message = one_line(tmp_path)
    assert "12 of 12 clouds cannot be read" in message
    assert "its header promises" in message


def white(path: Path, width: int, height: int) -> None:
    """A one-bit PNG of any size, of a few kilobytes."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    packer = zlib.compressobj()
    row = b"\0" + b"\xff" * -(-width // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def test_an_image_of_too_many_pixels_is_named_and_not_decoded(tmp_path: Path) -> None:
    for label in "ab":
        for i in range(6):
            white(tmp_path / label / f"{i}.png", 8, 8)
    white(tmp_path / "a" / "bomb.png", 20_000, 20_000)
    message = one_line(tmp_path)
    assert "1 of 13 images cannot be read" in message
    assert "exceeds limit" in message


def test_an_image_that_takes_too_much_memory_is_named(tmp_path: Path, small_machine: int) -> None:
    for label in "ab":
        for i in range(6):
            white(tmp_path / label / f"{i}.png", 8, 8)
    white(tmp_path / "a" / "large.png", 3000, 3000)
    message = one_line(tmp_path)
    assert "large.png (decoding 3000 x 3000 pixels takes 0.0 GiB" in message
    assert "of this machine's" in message


def wav_header(path: Path, rate: int, channels: int, size: int) -> None:
    """A WAV whose header promises ``size`` bytes of 16-bit values before a hundred."""
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2 % 2**32, 2 * channels, 16)
    body = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size)
    path.write_bytes(b"RIFF" + struct.pack("<I", 2**31) + b"WAVE" + body + bytes(range(100)))


@pytest.mark.parametrize(
    ("rate", "channels", "size"),
    [(2_000_000_011, 1, 200), (8000, 1, 2**31 - 2), (8000, 1000, 2**31)],
)
def test_a_sound_whose_header_lies_takes_no_memory(
    tmp_path: Path, rate: int, channels: int, size: int
) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(6):
            wav_header(tmp_path / label / f"{i}.wav", 8000, 1, 100)
    wav_header(tmp_path / "a" / "lie.wav", rate, channels, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read(tmp_path)
    except InputError as error:
        assert "lie.wav" in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_a_job_in_a_group_of_its_own_may_take_half_of_the_group(tmp_path: Path) -> None:
    group = tmp_path / "groups/system.slice/job_7"
    (group / "step_0").mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/job_7/step_0\n")
    (group / "memory.max").write_text(f"{16 * GIB}\n")
    (group / "step_0/memory.max").write_text("max\n")
    found = list(limits.memory_groups(tmp_path / "proc", tmp_path / "groups"))
    assert found == [(16 * GIB, group / "memory.current", "inactive_file")]
