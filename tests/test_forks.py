"""Processes that are forked from one import: the trainings at the end of a search."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from test_child import is_alive
from test_local import wait_for

import nas
from nas.machine import Here
from nas.search.forks import Forks
from nas.testing import small_task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forked under Linux alone")

SLEEPER = (
    "import os, time\n\n\n"
    "def main() -> None:\n"
    "    print(os.environ['PLACE'], flush=True)\n"
    "    time.sleep(60)\n\n\n"
    "if __name__ == '__main__':\n"
    "    main()\n"
)


@pytest.fixture
def forks() -> Iterator[Forks]:
    with closing(Forks("nas.candidate")) as made:
        yield made


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return "sleeper"


def test_one_is_the_command_with_its_output_and_its_exit_code(forks: Forks, tmp_path: Path) -> None:
    ended = []
    for i, arguments in enumerate((["--version"], ["status", str(tmp_path / "nowhere")])):
        with (tmp_path / f"out{i}").open("wb") as out, (tmp_path / f"log{i}").open("wb") as log:
            process = forks.start(["nas.child", *arguments], log, out)
            assert process.wait(60.0) == process.poll() == process.returncode
        ended.append(process.returncode)
    assert ended == [0, 1]
    assert nas.__version__ in (tmp_path / "out0").read_text()
    assert "nowhere" in (tmp_path / "log1").read_text()


def test_what_workers_import_starts_no_thread_that_would_forbid_a_fork(
    sleeper: str, tmp_path: Path
) -> None:
    with (
        closing(Forks("nas.training.evaluator")) as forks,
        (tmp_path / "log").open("wb") as log,
    ):
        process = forks.start([sleeper], log, log, {"PLACE": ""})
        wait_for(lambda: process.pid is not None, 60.0)
        assert forks._server is not None
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.kill()
    assert b"nas.search.forks" in command  # it has begun no Python of its own


def test_where_an_import_starts_a_thread_processes_are_begun_anew_and_say_so(
    sleeper: str, tmp_path: Path
) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    with closing(Forks("threaded")) as forks, (tmp_path / "log").open("wb") as log:
        both = [forks.start([sleeper], log, log, {"PLACE": ""}) for _ in range(2)]
        wait_for(lambda: all(process.pid is not None for process in both), 60.0)
        for process in both:  # at once: the server waits for both before it begins another
            process.kill()
        third = forks.start(["nas.child", "--version"], log, log)
        assert [process.wait(60.0) for process in both] == [-signal.SIGKILL] * 2
        assert third.wait(60.0) == 0
    assert (tmp_path / "log").read_text().count("note: starts Python anew") == 3


def test_two_run_side_by_side_with_variables_of_their_own(
    forks: Forks, sleeper: str, tmp_path: Path
) -> None:
    files = [(tmp_path / f"{i}").open("wb") for i in range(2)]
    both = [forks.start([sleeper], file, file, {"PLACE": f"p{i}"}) for i, file in enumerate(files)]
    wait_for(lambda: all((tmp_path / f"{i}").read_text() == f"p{i}\n" for i in range(2)))
    assert [process.poll() for process in both] == [None, None]
    both[0].send_signal(signal.SIGINT)
    assert both[0].wait(20.0) not in (0, None)
    assert both[1].poll() is None
    both[1].kill()
    assert both[1].wait(20.0) == -signal.SIGKILL
    for file in files:
        file.close()


def test_where_the_server_is_killed_what_it_has_begun_counts_as_killed_and_another_begins(
    forks: Forks, sleeper: str, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("wb") as log:
        first = forks.start([sleeper], log, log, {"PLACE": ""})
        wait_for(lambda: first.pid is not None)
        assert forks._server is not None
        forks._server.kill()
        assert first.wait(20.0) == -signal.SIGKILL
        again = forks.start(["nas.child", "--version"], log, log)
        assert again.wait(60.0) == 0


def test_a_training_of_a_search_ends_with_the_server(tmp_path: Path, sleeper: str) -> None:
    """nas.child ends with the process that has forked it, as that ends with the driver."""
    module = tmp_path / "ending.py"
    module.write_text(
        "import os, sys, time\n"
        "from nas import child\n\n\n"
        "def main() -> None:\n"
        "    child.end_with(int(os.environ[child.PARENT]))\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    forks = Forks("nas.candidate")
    with (tmp_path / "log").open("wb") as log:
        process = forks.start(["ending"], log, log)
        wait_for(lambda: (tmp_path / "log").read_text().strip().isdigit())
        pid = process.pid
        assert pid is not None
        assert is_alive(pid)
        forks.close()
        wait_for(lambda: not is_alive(pid))


def test_the_trainings_of_a_search_on_a_cpu_are_forked_a_core_each_or_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], dict[str, str]]] = []

    class Recorded(Forks):
        def start(self, command, errors, output=None, env=None):  # type: ignore[no-untyped-def]
            seen.append((list(command), dict(env or {})))

    monkeypatch.setattr("nas.machine._cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    here = Here(small_task(), Recorded("nas.candidate"))
    with (tmp_path / "log").open("wb") as log:
        here.start(tmp_path, ("--json",), log, log, 0)
        here.start(tmp_path, ("--json",), log, log)
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        here.start(tmp_path, ("--json",), log, log)
    assert [env["OMP_NUM_THREADS"] for _, env in seen] == ["1", "6", "4"]
    assert seen[0][0][:2] == ["nas.child", "train"]
    assert seen[0][0][-1] == "--json"
