"""More images than fit into memory: they are decoded once, to a file."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import shutil
import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nas.data import Dataset, decoded, images, limits, read
from nas.task import InputError

SIDE, EACH = 12, 10


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAS_DECODED", str(tmp_path / "decoded"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / "decoded"


@pytest.fixture
def small_memory(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "resident_limit", lambda: 1000)
    monkeypatch.setattr(decoded, "PIECE_BYTES", 4 * 3 * SIDE * SIDE)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return made(tmp_path / "images")


def made(folder: Path, grey: bool = False, side: int = SIDE) -> Path:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog", "owl"):
        (folder / label).mkdir(parents=True)
        for i in range(EACH):
            pixels = rng.integers(0, 256, (side, side, 1 if grey else 3), np.uint8)
            Image.fromarray(np.broadcast_to(pixels, (side, side, 3)).copy()).save(
                folder / label / f"{i}.png"
            )
    return folder


def count_decoding(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each piece held that was decoded."""
    counts: list[int] = []
    original = images._each

    def counted(files: Any, work: Any, *beside: Any) -> Any:
        if beside:
            counts.append(len(files))
        return original(files, work, *beside)

    monkeypatch.setattr(images, "_each", counted)
    return counts


@pytest.mark.parametrize("grey", [False, True])
def test_images_in_a_file_are_those_in_memory(
    grey: bool, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made(tmp_path / "images", grey)
    before = read(source)
    assert not cache.exists()
    monkeypatch.setattr(images, "resident_limit", lambda: 1000)
    after = read(source)
    pixels = after.inputs["image"]
    assert isinstance(pixels, np.memmap)
    assert not pixels.flags.writeable
    np.testing.assert_array_equal(pixels, np.asarray(before.inputs["image"]))
    assert after.profile == before.profile
    assert after.notes == before.notes


@pytest.mark.usefixtures("small_memory")
def test_they_are_decoded_once_until_a_file_changes(
    source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = count_decoding(monkeypatch)
    first = read(source)
    assert counts == [4] * 7 + [2]
    assert f"30 images are decoded once to {cache}" in capsys.readouterr().err
    again = read(source)
    assert len(counts) == 8
    assert again.profile.fingerprint == first.profile.fingerprint
    Image.new("RGB", (SIDE, SIDE), "red").save(source / "cat" / "0.png")
    assert read(source).profile.fingerprint != first.profile.fingerprint
    assert len(counts) == 16


@pytest.mark.usefixtures("small_memory")
def test_an_interrupted_reading_goes_on_where_it_was(
    source: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, pieces = images._each, []

    def interrupted(files: Any, work: Any, *beside: Any) -> Any:
        if beside:
            pieces.append(len(files))
            if len(pieces) == 4:
                raise KeyboardInterrupt
        return original(files, work, *beside)

    with monkeypatch.context() as patch:
        patch.setattr(images, "_each", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read(source)
    assert not list(cache.glob("*.npy"))
    counts = count_decoding(monkeypatch)
    found = read(source)
    assert sum(counts) == 3 * EACH - 3 * 4
    monkeypatch.setattr(images, "resident_limit", lambda: 10**9)
    np.testing.assert_array_equal(
        np.asarray(found.inputs["image"]), np.asarray(read(source).inputs["image"])
    )
    assert sorted(file.suffix for file in cache.iterdir()) == [".hashes", ".lock", ".npy"]


@pytest.mark.parametrize("large", [0, 2**40])
def test_hashes_that_are_kept_find_what_others_find(
    large: int, source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.data.dataset.LARGE_BYTES", large)
    monkeypatch.setattr("nas.data.hashes.NARROW_BYTES", 8)
    monkeypatch.setattr("nas.data.dataset.NARROW_BYTES", 8)
    for i in range(1, EACH):  # what is in every part
        shutil.copyfile(source / "cat" / "0.png", source / "cat" / f"{i}.png")
    before = read(source)
    monkeypatch.setattr(images, "resident_limit", lambda: 1000)
    after = read(source)
    assert after.profile.fingerprint == before.profile.fingerprint
    assert any("also occur in train" in note for note in after.notes)
    assert after.notes == before.notes
    (kept,) = cache.glob("*.hashes")
    np.testing.assert_array_equal(
        np.load(kept), decoded.row_hashes(np.asarray(before.inputs["image"]))
    )


@pytest.mark.usefixtures("small_memory")
def test_all_that_cannot_be_decoded_are_named_and_nothing_is_kept(
    source: Path, cache: Path
) -> None:
    (source / "cat" / "3.png").write_bytes(b"no image")
    whole = (source / "owl" / "7.png").read_bytes()
    (source / "owl" / "7.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"2 of 30 images cannot be read: .*3\.png.*7\.png"):
        read(source)
    assert [file.suffix for file in cache.iterdir()] == [".lock"]
    (source / "cat" / "3.png").write_bytes(whole)
    (source / "owl" / "7.png").write_bytes(whole)
    assert len(np.asarray(read(source).inputs["image"])) == 30


@pytest.mark.usefixtures("small_memory")
def test_a_run_links_the_file_and_outlives_the_cache(
    source: Path, cache: Path, tmp_path: Path
) -> None:
    dataset = read(source)
    dataset.save(tmp_path / "run")
    (kept,) = cache.glob("*.npy")
    assert os.path.samefile(kept, tmp_path / "run" / "inputs-0.npy")
    shutil.rmtree(cache)
    loaded = Dataset.load(tmp_path / "run")
    assert loaded.profile.fingerprint == dataset.profile.fingerprint
    np.testing.assert_array_equal(
        np.asarray(loaded.inputs["image"]), np.asarray(dataset.inputs["image"])
    )


@pytest.mark.usefixtures("small_memory")
def test_a_file_that_was_removed_meanwhile_is_written_again(
    source: Path, cache: Path, tmp_path: Path
) -> None:
    dataset = read(source)
    shutil.rmtree(cache)
    dataset.save(tmp_path / "run")
    np.testing.assert_array_equal(
        np.asarray(Dataset.load(tmp_path / "run").inputs["image"]),
        np.asarray(dataset.inputs["image"]),
    )


@pytest.mark.usefixtures("small_memory")
def test_a_users_own_mapped_array_is_copied(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 3, SIDE, SIDE)).astype(np.uint8)
    np.save(tmp_path / "mine.npy", pixels)
    mapped = np.load(tmp_path / "mine.npy", mmap_mode="r")
    assert not decoded.is_kept(mapped)
    dataset = read((mapped, np.arange(30) % 3), modality="images")
    dataset.save(tmp_path / "run")
    assert not os.path.samefile(tmp_path / "mine.npy", tmp_path / "run" / "inputs-0.npy")


@pytest.mark.usefixtures("small_memory")
def test_a_short_disk_loses_the_oldest_file_first_and_then_says_what_is_needed(
    source: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read(source)
    (old,) = cache.glob("*.npy")
    other = made(tmp_path / "others", side=SIDE + 4)
    usage = namedtuple("usage", "free")

    def free(_: Path) -> Any:
        return usage(0 if old.exists() else 10 * limits.GIB)

    monkeypatch.setattr(decoded.shutil, "disk_usage", free)
    read(other)
    assert not old.exists()
    assert np.asarray(first.inputs["image"]).max() > 0  # who reads it keeps it
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: usage(2**20))
    needed = r"30 images of 12 x 12 need 1\.0 GiB on disk, and .* has 0\.0 GiB free; give a smaller"
    with pytest.raises(InputError, match=needed):
        read(source)


@pytest.mark.usefixtures("small_memory")
def test_a_short_disk_loses_interrupted_readings_but_none_that_goes_on(
    source: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    for name in ("left", "filled"):
        for ending in (".part", ".hashes", ".count", ".lock"):
            (cache / name).with_suffix(ending).write_bytes(b"1")
    usage = namedtuple("usage", "free")
    full = [usage(0), usage(0), usage(0)]
    monkeypatch.setattr(
        decoded.shutil, "disk_usage", lambda _: full.pop() if full else usage(10 * limits.GIB)
    )
    with (cache / "filled.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        read(source)
    left = {file.name for file in cache.iterdir() if file.stem in ("left", "filled")}
    assert left == {"filled.part", "filled.hashes", "filled.count", "filled.lock", "left.lock"}


@pytest.mark.usefixtures("small_memory")
def test_images_of_an_archive_are_decoded_once(
    source: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "pets"), "zip", source))
    counts = count_decoding(monkeypatch)
    first = read(archive)
    again = read(archive)
    assert sum(counts) == 3 * EACH
    assert len([*cache.glob("*.npy")]) == 1
    assert again.profile.fingerprint == first.profile.fingerprint
    Image.new("RGB", (SIDE, SIDE), "red").save(source / "cat" / "0.png")
    shutil.make_archive(str(tmp_path / "pets"), "zip", source)
    assert read(archive).profile.fingerprint != first.profile.fingerprint


@pytest.mark.usefixtures("small_memory")
def test_a_disk_that_fills_up_and_a_folder_that_may_not_be_written_are_one_line(
    source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(decoded.os, "posix_fallocate", full)
        with pytest.raises(InputError, match=r"cannot be kept in .* \(No space left on device\)"):
            read(source)
    assert len(np.asarray(read(source).inputs["image"])) == 30
    monkeypatch.setenv("NAS_DECODED", str(source / "cat" / "0.png"))
    with pytest.raises(InputError, match=r"cannot be kept in .* set NAS_DECODED to a folder"):
        read(source)


@pytest.mark.usefixtures("small_memory")
def test_two_readers_at_once_decode_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = count_decoding(monkeypatch)
    found: list[str] = []
    readers = [
        threading.Thread(target=lambda: found.append(read(source).profile.fingerprint))
        for _ in range(2)
    ]
    for each in readers:
        each.start()
    for each in readers:
        each.join()
    assert found[0] == found[1]
    assert sum(counts) == 3 * EACH


@pytest.mark.parametrize(("many", "side"), [(31, 128), (30, 224)])
def test_of_many_images_more_pixels_are_kept(
    many: int, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MANY", many)
    source = made(tmp_path / "images", side=300)
    assert read(source).profile.inputs["image"] == (3, side, side)
    assert read(source, image_size=50).profile.inputs["image"] == (3, 50, 50)


def test_a_table_that_is_larger_than_memory_is_coded_to_a_file_that_a_run_links(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(90, 3)), columns=["a", "b", "c"])
    frame["colour"] = rng.choice(["red", "blue"], 90)
    frame["y"] = rng.choice(["yes", "no"], 90)
    frame.to_parquet(tmp_path / "table.parquet")
    before = read(tmp_path / "table.parquet", target="y")
    monkeypatch.setattr("nas.data.tabular.resident_limit", lambda: 0)
    cache.mkdir()
    own = decoded.new_file(".npy").name.split("-")[1:3]
    left = "-".join(["scratch", *own, "999999999", "left.npy"])
    (cache / left).write_bytes(b"of a process that was killed")
    there = cache / "scratch-another_machine-1-999999999-used.npy"
    there.write_bytes(b"of a process on another machine")
    after = read(tmp_path / "table.parquet", target="y")
    assert after.profile == before.profile
    for name, array in before.inputs.items():
        assert isinstance(after.inputs[name], np.memmap)
        np.testing.assert_array_equal(np.asarray(after.inputs[name]), np.asarray(array))
    assert len(list(cache.iterdir())) == len(before.inputs) + 1
    after.save(tmp_path / "run")
    del after
    gc.collect()
    assert list(cache.iterdir()) == [there]
    loaded = Dataset.load(tmp_path / "run")
    for name, array in before.inputs.items():
        np.testing.assert_array_equal(np.asarray(loaded.inputs[name]), np.asarray(array))
