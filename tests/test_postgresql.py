"""Studies in a PostgreSQL database, with a real server of their own (``make postgresql``)."""

from __future__ import annotations

import json
import math
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_study import OPEN, SPACE, asked, run, search, train

from nas.candidate import State
from nas.dashboard.sources import source
from nas.dashboard.studies import Studies
from nas.search.follow import PostgresFollower
from nas.search.postgres import Postgres
from nas.search.study import Study, load_candidates
from nas.task import InputError, Task, UsageError
from nas.testing import small_task

pytestmark = pytest.mark.postgresql


@dataclass
class Server:
    bin: Path
    folder: Path

    @property
    def url(self) -> str:
        return f"postgresql:///postgres?host={self.folder}&user=tester"

    def control(self, *args: str) -> None:
        """pg_ctl, which refuses to work for root."""
        root = os.getuid() == 0
        subprocess.run(
            [self.bin / "pg_ctl", "--wait", f"--pgdata={self.folder}/data", *args],
            check=True,
            stdout=subprocess.DEVNULL,
            user="nobody" if root else None,
            cwd=self.folder,
        )

    def start(self) -> None:
        options = f"-c fsync=off -c listen_addresses= -k {self.folder}"
        self.control("start", f"--log={self.folder}/log", f"--options={options}")

    def execute(self, query: str) -> None:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(query.encode())


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    found = shutil.which("initdb")
    binaries = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not binaries:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="nas-postgresql-"))
    if os.getuid() == 0:
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
    server = Server(binaries[-1], folder)
    try:
        server.control("initdb", "--options=--no-sync --username=tester --auth=trust")
        server.start()
        yield server
        server.control("stop", "--mode=immediate")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A study of one's own for each test."""
    return str(request.node.name)[:60]


def opened(server: Server, name: str, folder: Path, task: Task | None = None) -> Study:
    folder.mkdir(exist_ok=True)
    where = {"storage": server.url, "name": name}
    OPEN.append(Study(folder, task or small_task(), SPACE, sampler="tpe", **where))
    return OPEN[-1]


def test_it_asks_for_what_a_journal_asks_for_also_over_a_resume(
    server: Server, name: str, tmp_path: Path
) -> None:
    search(opened(server, name, tmp_path / "a"), 9).close()
    study = search(opened(server, name, tmp_path / "b"), 18)
    (tmp_path / "journal").mkdir()
    assert asked(study) == asked(run(tmp_path / "journal", 18))
    assert [c.number for c in study.front()] == [c.number for c in OPEN[-1].front()]


def test_a_dashboard_shows_the_studies_of_a_database(
    server: Server, name: str, tmp_path: Path
) -> None:
    study = search(opened(server, name, tmp_path / "a"), 9)
    space = {"plain": SPACE.to_dict()}
    about = {"task": study.task.to_dict(), "spaces": space, "versions": {}, "notes": []}
    shown = Studies([server.url])
    shown.refresh()
    assert name not in str(shown.updates(0, 100))  # it does not say what it is yet
    study.describe(about | {"baselines": [], "rate_tests": {}})
    shown = Studies([server.url])
    shown.refresh()
    [mine] = [s for s in shown._followed.values() if s.name == name]
    assert list(mine.numbers) == [c.number for c in study.candidates()]
    assert mine.live["state"] == "running"  # a driver holds its lock
    assert source(mine.source.place).view()[0] == study.candidates()
    study.close()
    mine.source.follower._due = 0.0  # type: ignore[union-attr]
    shown.refresh()
    assert mine.live["state"] in ("stopped", "starting")


def test_a_study_that_was_deleted_from_its_database_is_gone(
    server: Server, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.search.follow._LOAD", math.inf)
    study = search(opened(server, name, tmp_path / "a"), 3)
    study.describe({"task": study.task.to_dict()})
    follower = PostgresFollower(server.url, name)
    follower.changed()
    assert not follower.is_gone()
    server.execute(f"update studies set study_name = 'deleted' where study_name = '{name}'")
    follower.changed()
    assert follower.is_gone()


def test_a_server_that_is_away_is_away_until_it_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.search.follow._LOAD", 1e-9)
    follower = PostgresFollower(f"postgresql:///postgres?host={tmp_path}", "study")
    for _ in range(2):
        with pytest.raises(InputError, match="cannot be used"):
            follower.changed()


def test_studies_in_one_database_know_nothing_of_each_other(
    server: Server, name: str, tmp_path: Path
) -> None:
    one = opened(server, f"{name} 1", tmp_path / "1")
    two = opened(server, f"{name} 2", tmp_path / "2", task=small_task(seed=1))
    for study in (one, two, one):
        candidate = study.ask()
        assert candidate is not None
        train(study, candidate)
    assert (len(one.candidates()), len(two.candidates())) == (2, 1)
    for study, n in ((one, 1), (two, 2)):
        assert load_candidates(tmp_path, server.url, f"{name} {n}") == study.candidates()
    assert load_candidates(tmp_path, server.url, f"{name} 3") == []


def test_candidates_are_read_beside_a_running_driver_and_revised_ones_last(
    server: Server, name: str, tmp_path: Path
) -> None:
    study = opened(server, name, tmp_path)
    candidate = study.ask(worker=1)
    assert load_candidates(tmp_path, server.url, name) == [candidate]
    assert candidate is not None
    end = train(study, candidate)
    assert load_candidates(tmp_path, server.url, name) == [end]
    study.revise(quiet := replace(end, metrics=end.metrics | {"latency_ms": 0.5}))
    assert load_candidates(tmp_path, server.url, name) == [quiet] == study.candidates()


def test_a_follower_reads_what_is_new_or_revised_alone(
    server: Server, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.search.follow._LOAD", math.inf)
    study = opened(server, name, tmp_path / "a")
    follower = PostgresFollower(server.url, name)
    first = study.ask()
    assert first is not None
    assert follower.changed() == (False, [first.number])
    assert follower.changed() == (False, [])
    end = train(study, first)
    assert follower.changed() == (False, [first.number])
    study.revise(replace(end, worker=7))
    assert follower.changed() == (False, [first.number])
    assert [c.worker for c in follower.candidates([first.number])] == [7]
    monkeypatch.setattr("nas.search.follow._LOAD", 1e-9)
    assert study.ask() is not None
    assert follower.changed()[1] != []
    assert study.ask() is not None
    assert follower.changed() == (False, [])  # not yet: the database has worked enough for it


def test_a_second_driver_is_refused_and_the_message_names_it(
    server: Server, name: str, tmp_path: Path
) -> None:
    opened(server, name, tmp_path / "one")
    with pytest.raises(InputError, match=rf"in use by another search \(nas \S+ {os.getpid()}\)"):
        opened(server, name, tmp_path / "two")
    OPEN.pop().close()
    opened(server, name, tmp_path / "two")


def test_a_driver_that_is_killed_blocks_nobody_and_loses_nothing(
    server: Server, name: str, tmp_path: Path
) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_postgresql import *
study = opened(Server(Path(), Path({str(server.folder)!r})), {name!r}, Path({str(tmp_path)!r}))
study.ask(); train(study, study.ask()); study.ask()
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.run([sys.executable, "-c", code], check=False)
    assert process.returncode == -signal.SIGKILL
    study = opened(server, name, tmp_path)
    interrupted = (State.FAILED, "interrupted")
    states = [(c.state, c.reason) for c in study.candidates()]
    assert states == [interrupted, (State.COMPLETE, ""), interrupted]
    again = [study.ask(), study.ask()]
    assert [c.root for c in again if c] == [0, 2]


def test_a_search_outlives_a_restart_of_the_server(
    server: Server, name: str, tmp_path: Path
) -> None:
    study = search(opened(server, name, tmp_path / "one"), 3)
    server.control("restart", "--mode=fast")
    assert search(study, 5).spent == 5
    with pytest.raises(InputError, match="in use by another search"):
        opened(server, name, tmp_path / "two")


def test_a_driver_that_lost_its_lock_to_another_writes_nothing_more(
    server: Server, name: str, tmp_path: Path
) -> None:
    first = search(opened(server, name, tmp_path / "one"), 3)
    candidate = first.ask()
    assert candidate is not None
    server.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name ~ '^nas'"
    )
    second = search(opened(server, name, tmp_path / "two"), 5)
    before = second.candidates()
    with pytest.raises(InputError, match="in use by another search"):
        train(first, candidate)
    assert load_candidates(tmp_path, server.url, name) == before


def test_a_study_is_not_gone_on_with_on_other_data(
    server: Server, name: str, tmp_path: Path
) -> None:
    search(opened(server, name, tmp_path / "one"), 2).close()
    task = small_task()
    other = replace(task, profile=replace(task.profile, fingerprint="another"))
    with pytest.raises(InputError, match=r"begun with other data.*another name with --study"):
        opened(server, name, tmp_path / "two", task=other)
    assert opened(server, name, tmp_path / "one").spent == 2


def test_a_search_by_the_command_keeps_its_candidates_there(
    server: Server, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    label = np.where(x[:, 0] > 0, "yes", "no")
    pd.DataFrame(x, columns=["p", "q"]).assign(label=label).to_csv("data.csv", index=False)

    def nas(command: str) -> str:
        given = [sys.executable, "-c", "from nas.cli import main; main()", *command.split()]
        ended = subprocess.run(given, capture_output=True, text=True, check=False)
        return ended.stdout if ended.returncode == 0 else f"{ended.returncode} {ended.stderr}"

    search = f"search data.csv -t label -f mlp --epochs 2 --workers 1 --storage {server.url}"
    found = json.loads(nas(f"{search} --study {name} --trials 2 --out run --json"))
    assert not Path("run/study.journal").exists()
    assert Path("run/report.html").is_file()
    status = json.loads(nas("status run --json"))
    assert status["front"] == found["front"]
    assert status["candidates"]["complete"] == 2
    assert status["cpu_hours"] > 0
    refused = nas(f"{search} --study {name} --trials 2 --out again")
    assert refused.startswith("1 ")
    assert f"error: {server.url} holds a study '{name}'; go on with --resume" in refused
    nas("search data.csv -t label --trials 3 --workers 1 --out run --resume --json")
    assert sum(json.loads(nas("status run --json"))["candidates"].values()) == 3
    assert [c.number for c in load_candidates(tmp_path, server.url, name)] == [0, 1, 2]


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    url = f"postgresql:///postgres?host={tmp_path}"
    with pytest.raises(InputError, match=r"^postgresql:///\S+ cannot be used: connection [^\n]+$"):
        Study(tmp_path, small_task(), SPACE, storage=url)


def test_a_role_that_may_not_make_tables_is_one_line(server: Server, tmp_path: Path) -> None:
    server.execute("create database closed")
    server.execute("create role guest login")
    url = server.url.replace("/postgres?", "/closed?").replace("user=tester", "user=guest")
    with pytest.raises(InputError, match=r"cannot be used: permission denied for schema public$"):
        Study(tmp_path, small_task(), SPACE, storage=url)


@pytest.mark.parametrize(
    "url", ["postgresql://me:secret@host/db", "postgresql://host/db?password=secret&user=me"]
)
def test_a_password_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match="PGPASSWORD") as error:
        Postgres(url, "study")
    assert "secret" not in str(error.value)
