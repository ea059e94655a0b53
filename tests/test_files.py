"""Files are written whole or not at all, and one that was cut short since says so."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from nas.files import read_array, read_json, release, write_array, write_whole
from nas.task import InputError, Objective


def test_a_write_that_finds_the_disk_full_leaves_what_was_there_and_names_the_file(
    tmp_path: Path,
) -> None:
    """A limit on the size of a file fails a write half-way, as a full disk does."""
    code = """
import resource
from pathlib import Path
import numpy as np
from nas.files import write_array, write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
text, array = "x" * 10_000, np.arange(10_000)
for name, write, value in (
    ("old", write_whole, text), ("new", write_whole, text), ("a.npy", write_array, array)
):
    try:
        write(Path(name), value)
    except OSError as error:
        print(error.filename, error.strerror)
"""
    (tmp_path / "old").write_text("before")
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    expected = [f"{name} File too large" for name in ("old", "new", "a.npy")]
    assert ended.stdout.splitlines() == expected
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"old": "before"}


def test_a_reader_never_sees_half_of_what_two_write_at_once(tmp_path: Path) -> None:
    code = "from nas.files import write_whole\nfor _ in range(99): write_whole('f', {!r} * 100_000)"
    (tmp_path / "f").write_text("a" * 100_000)
    command = [sys.executable, "-c"]
    writers = [subprocess.Popen([*command, code.format(c)], cwd=tmp_path) for c in "ab"]
    while any(writer.poll() is None for writer in writers):
        text = (tmp_path / "f").read_text()
        assert (len(text), len(set(text))) == (100_000, 1)
    assert [writer.wait() for writer in writers] == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_link_stays_one_and_a_pipe_gets_the_text(tmp_path: Path) -> None:
    write_whole(tmp_path / "new" / "file", "1")
    (tmp_path / "link").symlink_to(Path("new", "file"))
    write_whole(tmp_path / "link", "2")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "new" / "file").read_text() == "2"
    os.mkfifo(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_whole(tmp_path / "pipe", "3")
    reader.join()
    assert got == ["3"]
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("kept", [None, 0, 0.5])
def test_a_file_that_is_missing_or_cut_short_is_named(tmp_path: Path, kept: float | None) -> None:
    write_whole(tmp_path / "a.json", '{"name": "Zoë"}')
    write_array(tmp_path / "a.npy", np.arange(1000))
    assert read_json(tmp_path / "a.json") == {"name": "Zoë"}
    for mapped in (True, False):
        assert read_array(tmp_path / "a.npy", mapped=mapped).sum() == 499_500
    wrong = "missing" if kept is None else "damaged"
    for file in (tmp_path / "a.json", tmp_path / "a.npy"):
        content = file.read_bytes()
        file.unlink()
        if kept is not None:
            file.write_bytes(content[: int(kept * len(content))])
        read = read_json if file.suffix == ".json" else read_array
        with pytest.raises(InputError, match=rf"{file.name} is {wrong}.*; copy the folder again"):
            read(file)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "it is empty"),
        (b"\0" * 40, "it holds NUL bytes alone"),
        (b'{"a": 1', "it is not JSON"),
        (b'{"a": "\xe9"}', r"its byte 8 \(0xe9\) is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), r"its byte 1 \(0xff\) is not UTF-8"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b"1" * 9000, "it is not JSON"),
        (b"[]", r"the whole = \[\]"),
        (b"{}", "metric is missing"),
        (b'{"metric": "auc", "direction": "up"}', "direction = 'up'"),
        (b'{"metric": "auc", "direction": "max", "more": 1}', "more = 1"),
    ],
)
def test_a_damaged_json_file_is_one_line_with_what_was_found_and_the_repair(
    tmp_path: Path, content: bytes, found: str
) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.json is damaged: {found}.*; remove it$") as error:
        read_json(tmp_path / "a.json", Objective, repair="remove it")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("header", [b"\x93NUMPY\x01\x00\xff\xff", b"", b"PK\x03\x04", b"\x80\x04."])
def test_a_file_that_is_no_array_is_one_line(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(header + b"{'descr': (((" * 3)
    for mapped in (True, False):
        with pytest.raises(InputError, match=r"a\.npy is damaged: it is no whole \.npy file"):
            read_array(tmp_path / "a.npy", mapped=mapped)


def test_a_mapped_array_is_taken_out_of_the_process_and_stays_readable(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((64, 2**20), np.uint8))

    def mapped_mb() -> float:
        status = Path("/proc/self/status").read_text().splitlines()
        return int(next(s for s in status if s.startswith("RssFile")).split()[1]) / 1024

    array = read_array(tmp_path / "x.npy")
    before = mapped_mb()
    assert int(array.sum()) == 2**26
    assert mapped_mb() > before + 50
    release(np.asarray(array)[:5])
    assert mapped_mb() < before + 10
    assert array[63, 5] == 1


def test_what_a_mapped_array_alone_holds_is_never_taken_away(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(9, np.uint8))
    changed = np.load(tmp_path / "x.npy", mmap_mode="c")
    changed[3] = 7
    release(changed)
    release(np.zeros(3))
    assert changed[3] == 7
