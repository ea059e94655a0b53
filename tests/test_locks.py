"""Locks on a device: who measures is alone, nobody else can interfere, nothing waits for ever."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nas.task import InputError
from nas.training import locks


@pytest.fixture(autouse=True)
def locks_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other searches on this machine have theirs."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_a_training_pauses_while_a_front_is_measured_and_continues_after() -> None:
    steps: list[float] = []
    over = threading.Event()

    def train() -> None:
        with locks.WorkLock("cpu") as lock:
            while not over.is_set():
                lock.give_way()
                steps.append(time.monotonic())
                time.sleep(0.002)

    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(train)
        while len(steps) < 20:
            time.sleep(0.01)
        with locks.isolated("cpu") as alone:
            begin = time.monotonic()
            time.sleep(0.3)
            end = time.monotonic()
        before = len(steps)
        while len(steps) < before + 20:
            time.sleep(0.01)
        over.set()
    assert alone
    assert not [s for s in steps if begin + 0.01 < s < end]


def test_a_gpu_finishes_what_it_was_given_before_a_front_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And only then: waiting for it at every step would cost more than the step."""
    waits: list[str] = []
    monkeypatch.setattr(locks, "settle", waits.append)
    with locks.WorkLock("cuda") as lock:
        before = len(waits)
        for _ in range(5):
            lock.give_way()
        assert len(waits) == before
        with ThreadPoolExecutor(1) as pool, locks.isolated("cuda", timeout_s=0.0) as alone:
            assert not alone  # this training is still at work
            giving = pool.submit(lock.give_way)
            while len(waits) == before:
                time.sleep(0.001)
            assert not giving.done()
    assert len(waits) == before + 1


def test_each_gpu_of_a_machine_has_locks_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker sees its GPU as the only one, "cuda"."""
    from nas.training import device

    places = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for uuid in ("aa", "bb", "aa"):
        found = SimpleNamespace(uuid=uuid)
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda _, found=found: found)
        device.name.cache_clear()
        with locks._Lock("cuda", "latency") as lock:
            places.append(lock.path.name)
    device.name.cache_clear()
    assert places == ["latency-gpu-aa.lock", "latency-gpu-bb.lock", "latency-gpu-aa.lock"]


def test_work_that_never_gives_way_makes_the_measurement_contended() -> None:
    with locks.WorkLock("cpu"), locks.isolated("cpu", timeout_s=0.05) as alone:
        assert not alone
    with locks.isolated("cpu", timeout_s=0.05) as alone:
        assert alone


def test_a_work_lock_that_is_not_held_blocks_no_measurement() -> None:
    lock = locks.WorkLock("cpu")
    lock.give_way()
    with lock:
        pass
    with locks.isolated("cpu", timeout_s=0.05) as alone:
        lock.give_way()
        assert alone


def _hold(device: str, held: Any, release: Any) -> None:
    with locks.device_lock(device):
        held.set()
        release.wait(20)


def test_two_processes_do_not_measure_one_device_at_the_same_time() -> None:
    context = multiprocessing.get_context("fork")
    device = f"test:{time.time_ns()}"
    held, release, second = context.Event(), context.Event(), context.Event()
    first = context.Process(target=_hold, args=(device, held, release))
    other = context.Process(target=_hold, args=(device, second, release))
    first.start()
    assert held.wait(10)
    other.start()
    assert not second.wait(0.3)
    release.set()
    assert second.wait(10)
    for process in (first, other):
        process.join()


# -- where they are ----------------------------------------------------------------------------


def in_place_of_the_folder(place: Path, what: str) -> None:
    """Somebody was there first."""
    match what:
        case "a file":
            place.touch()
        case "a link":
            place.symlink_to(place.parent)
        case "a fifo":
            os.mkfifo(place)
        case "open to all":
            place.mkdir(mode=0o777)
            place.chmod(0o777)
        case "another user's":
            place.mkdir(mode=0o700)
            os.chown(place, 12_345, -1)


TAKEN = [
    *("a file", "a link", "a fifo", "open to all"),
    pytest.param(
        "another user's",
        marks=pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away"),
    ),
]


@pytest.mark.parametrize("what", TAKEN)
def test_a_name_that_somebody_has_taken_is_left_for_the_next_place(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary, home = tmp_path / "tmp", tmp_path / "home"
    temporary.mkdir()
    monkeypatch.setattr(locks, "_TEMPORARY", temporary)
    monkeypatch.setattr(locks, "_RUN", tmp_path / "none")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("HOME", str(home))
    free = temporary / f"nas-{os.getuid()}"
    assert locks.folder() == free
    assert free.stat().st_mode & 0o777 == 0o700
    free.rmdir()
    in_place_of_the_folder(free, what)
    assert locks.folder() == home / ".cache" / f"nas-{os.getuid()}"
    with locks.device_lock("cpu"):
        pass
    in_place_of_the_folder(tmp_path / "nas", what)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert locks.folder() == home / ".cache" / f"nas-{os.getuid()}"


def test_where_every_place_is_taken_one_line_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_TEMPORARY", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in (tmp_path / "nas", tmp_path / f"nas-{os.getuid()}", tmp_path / ".cache"):
        place.touch()
    with pytest.raises(InputError, match=r"no folder for locks: of .*remove what is there"):
        locks.folder()


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/etc/passwd"),
        lambda path: path.mkdir(),
    ],
    ids=["a fifo", "a link", "a folder"],
)
def test_what_is_no_file_is_refused_at_once(make: Callable[[Path], Any]) -> None:
    make(locks.folder() / "latency-cpu.lock")
    begin = time.monotonic()
    with (
        pytest.raises(InputError, match=r"latency-cpu\.lock .*remove it"),
        locks.device_lock("cpu"),
    ):
        pass
    assert time.monotonic() - begin < 5


HOLD = """
import sys
from nas.training import locks
with getattr(locks, sys.argv[1])("cpu"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(kind: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, kind], env=os.environ | environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_searches_with_other_temporary_folders_take_turns(tmp_path: Path) -> None:
    with holder("WorkLock", TMPDIR=str(tmp_path)), locks.isolated("cpu", timeout_s=0.05) as alone:
        assert not alone
    with locks.isolated("cpu", timeout_s=0.05) as alone:
        assert alone


@pytest.mark.parametrize("waits", ["device_lock", "isolated", "WorkLock"])
def test_a_wait_for_a_stopped_process_ends_and_says_who_holds_the_lock(
    waits: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT_S", 0.2)
    with holder("isolated" if waits == "WorkLock" else "device_lock") as process:
        process.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        with getattr(locks, waits)("cpu") as lock:
            if waits == "WorkLock":
                for _ in range(20):
                    lock.give_way()  # the next ones do not wait again
        assert time.monotonic() - begin < 5
        said = capsys.readouterr().err
        assert len(said.splitlines()) == (2 if waits == "WorkLock" else 1)
        assert f"is held by process {process.pid} (" in said
    with getattr(locks, waits)("cpu"):
        assert capsys.readouterr().err == ""
