"""A process that ends with the one that has started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_local import wait_for

from nas import child, machine, remote
from nas.testing import small_task

CHILD = (
    "import os, time\n"
    "from nas.child import end_with\n"
    "end_with(os.getppid())\n"
    "print(os.getpid(), flush=True)\n"
    "time.sleep(60)\n"
)
PARENT = (
    "import subprocess, sys\n"
    f"subprocess.Popen([sys.executable, '-c', {CHILD!r}], start_new_session=True).wait()\n"
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="a signal of Linux")


def is_alive(pid: int) -> bool:
    """Also one that has ended, and that nobody has asked for its code, is not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@linux
def test_a_training_ends_with_a_driver_that_is_killed() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not is_alive(pid))


@linux
def test_where_its_parent_is_gone_already_it_does_not_begin() -> None:
    environment = os.environ | {child.PARENT: str(os.getpid() + 1)}
    command = [sys.executable, "-m", "nas.child", "--version"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("where", ["here", "on a node"])
def test_variables_of_nas_train_do_not_reach_the_trainings_of_a_search(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: seen.append(env))
    monkeypatch.setenv("NAS_TRAIN_EPOCHS", "1")
    if where == "here":
        with (tmp_path / "log").open("wb") as log:
            machine.Here(small_task()).start(tmp_path, (), log, log)
    else:
        copy: Any = SimpleNamespace(
            _folder=tmp_path, _place=tmp_path, _job=SimpleNamespace(options=())
        )
        remote._Copy.start(copy, {"RANK": "1"})
        assert seen[0]["RANK"] == "1"
    assert seen[0][child.PARENT] == str(os.getpid())
    assert "PATH" in seen[0]
    assert "NAS_TRAIN_EPOCHS" not in seen[0]


def test_it_is_the_command() -> None:
    environment = os.environ | {child.PARENT: str(os.getpid())}
    command = [sys.executable, "-m", "nas.child"]
    said = [
        subprocess.run([*command, *args], env=environment, capture_output=True, text=True)
        for args in (["--version"], ["status", "nowhere"])
    ]
    assert [done.returncode for done in said] == [0, 1]
    assert "nowhere" in said[1].stderr
