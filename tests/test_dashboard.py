"""The dashboard: whom it answers, and that a viewer is sent what is new and nothing else."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from uvicorn.server import ServerState

from nas.candidate import Reason, State
from nas.dashboard import serve
from nas.dashboard.app import Connection, Guard, make_app
from nas.dashboard.sources import spent
from nas.dashboard.studies import TOGETHER, Studies
from nas.report import StudyView
from nas.report.payload import detail, table
from nas.run import Run
from nas.search.follow import JournalFollower
from nas.task import Budget, InputError, UsageError
from nas.testing.studies import append, make_candidates, make_study, write_run

TOKEN = "a-token-of-a-test-1234"
ALLOWED = {"host": "127.0.0.1:1", "authorization": f"Bearer {TOKEN}"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    app: Guard, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> Answer:
    """The answer of an ASGI application to one request."""
    path, _, query = path.partition("?")
    given = ALLOWED if headers is None else headers
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(k.encode(), v.encode("latin-1")) for k, v in given.items()],
        "scheme": "http",
        "server": ("127.0.0.1", 1),
        "client": ("127.0.0.1", 2),
        "http_version": "1.1",
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start = sent[0]
    body = b"".join(m.get("body", b"") for m in sent[1:])
    return Answer(start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, body)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "iris", make_study(30))


@pytest.fixture
def studies(run: Path) -> Studies:
    found = Studies([run.parent])
    found.refresh()
    return found


@pytest.fixture
def app(studies: Studies) -> Guard:
    return make_app(studies, TOKEN, host="127.0.0.1")


# ---- whom it answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/explorer.js", "/api/updates", "/api/events", "/nothing"])
@pytest.mark.parametrize(
    "brought",
    [{}, {"authorization": "Bearer wrong"}, {"cookie": "nas=x"}, {"authorization": TOKEN}],
)
def test_nothing_is_answered_without_the_token(
    app: Guard, path: str, brought: dict[str, str]
) -> None:
    answer = ask(app, path, {"host": "localhost", **brought})
    assert answer.status == 401
    assert b"iris" not in answer.body
    assert TOKEN.encode() not in answer.body


def test_the_token_of_the_address_becomes_a_cookie_that_scripts_cannot_read(app: Guard) -> None:
    first = ask(app, f"/?token={TOKEN}", {"host": "localhost:8321"})
    assert first.status == 303
    assert first.headers["location"] == "./"
    cookie, *attributes = first.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Lax"} <= set(attributes)
    assert ask(app, "/", {"host": "localhost:8321", "cookie": cookie}).status == 200
    assert ask(app, "/?token=wrong", {"host": "localhost:8321"}).status == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"])
def test_only_get_is_answered(app: Guard, method: str) -> None:
    answer = ask(app, "/api/updates", method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example:8321", "", "10.0.0.7", "[::1", "localhost@evil"],
)
def test_another_host_is_refused(app: Guard, host: str) -> None:
    assert ask(app, "/", ALLOWED | {"host": host}).status == 421


def test_on_all_addresses_an_address_is_its_own_and_a_foreign_name_is_not(studies: Studies) -> None:
    app = make_app(studies, TOKEN, host="0.0.0.0", names=["board.example"])
    for host, status in {"10.0.0.7:1": 200, "board.example": 200, "evil.example": 421}.items():
        assert ask(app, "/", ALLOWED | {"host": host}).status == status, host


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://localhost.evil.example"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"},
    ],
)
def test_requests_of_other_sites_are_refused(app: Guard, headers: dict[str, str]) -> None:
    assert ask(app, "/api/updates", ALLOWED | headers).status == 403


def test_an_address_of_many_fields_is_refused_as_one_without_the_token(app: Guard) -> None:
    path = f"/?{'x=1&' * 20}token={TOKEN}"
    answer = ask(app, path, {"host": "localhost"})
    assert answer.status == 401
    assert "content-security-policy" in answer.headers
    assert ask(app, path).status == 200


def test_its_own_page_and_links_to_it_are_answered(app: Guard) -> None:
    assert ask(app, "/api/updates", ALLOWED | {"origin": "http://127.0.0.1:1"}).status == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert ask(app, "/", ALLOWED | link).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/task.json",
        "/iris/run.json",
        "/explorer.js/../app.py",
        "/api/studies/iris/candidates/1",
        "/api/studies/..%2f..%2fetc/candidates/1",
        "/api/studies/{id}/candidates/99999",
        "/api/studies/{id}/candidates/-1",
        "/api/studies/{id}/candidates/1e3",
        "/api/studies/{id}/candidates/" + "9" * 400,
        "/api/studies/{id}/../x",
    ],
)
def test_what_is_no_id_is_not_found(app: Guard, studies: Studies, path: str) -> None:
    answer = ask(app, path.replace("{id}", study_id(app)))
    assert answer.status == 404
    assert b"root:" not in answer.body


@pytest.mark.parametrize("since", ["", "x", "1.1", "..", "\0", "9" * 300, "1.٣", "-1"])
def test_a_since_that_means_nothing_begins_anew(app: Guard, since: str) -> None:
    found = ask(app, f"/api/updates?since={since}")
    assert found.status == 200
    assert found.json["updates"][0]["reset"]


@pytest.mark.parametrize("path", ["/", "/api/updates", "/nothing", "/explorer.js"])
@pytest.mark.parametrize("headers", [ALLOWED, {"host": "evil.example"}, {"host": "localhost"}])
def test_every_answer_forbids_foreign_scripts_and_frames(
    app: Guard, path: str, headers: dict[str, str]
) -> None:
    answer = ask(app, path, headers)
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe-eval" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers


def test_the_page_has_no_inline_script(app: Guard) -> None:
    text = ask(app, "/").body.decode()
    assert "<script>" not in text
    assert text.count("<script src=") == 2


def test_behind_a_prefix_the_same_is_answered(studies: Studies) -> None:
    app = make_app(studies, TOKEN, host="127.0.0.1", prefix="/nas")
    for path in ("/nas/", "/nas", "/"):
        assert ask(app, path).status == 200, path
    assert ask(app, "/nas/api/updates").json["updates"]


@pytest.mark.parametrize(
    "token",
    ["short", "ünsicher-aber-lang-genug", "of;two-cookies-at-once", "four words of a token"],
)
def test_a_token_that_is_weak_or_that_no_cookie_holds_is_refused(
    tmp_path: Path, token: str
) -> None:
    with pytest.raises(UsageError, match="token"):
        serve([tmp_path], token=token)


def test_the_address_that_is_printed_leads_in_with_any_token(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "a+token/of~a.test=="
    addresses: list[str] = []
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: None)
    serve([run], token=token, on_start=addresses.append)
    app = make_app(Studies([run]), token, host="127.0.0.1")
    first = ask(app, f"/?{urlsplit(addresses[0]).query}", {"host": "localhost"})
    assert first.status == 303
    cookie = first.headers["set-cookie"].split("; ")[0]
    assert ask(app, "/", {"host": "localhost", "cookie": cookie}).status == 200


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        serve([tmp_path / "nowhere"])


def test_an_address_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f":{port} cannot be used .*choose another --port"):
            serve([tmp_path], port=port)


# ---- what is new ---------------------------------------------------------------------------------


def study_id(app: Guard) -> str:
    return str(ask(app, "/api/updates").json["updates"][0]["study"])


def all_updates(app: Guard, since: str = "") -> tuple[str, list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []
    while True:
        answer = ask(app, f"/api/updates?since={since}").json
        since = answer["since"]
        if not answer["updates"]:
            return since, found
        found += answer["updates"]


def numbers(updates: list[dict[str, Any]]) -> list[int]:
    return [n for update in updates for n in update.get("table", {}).get("number", [])]


def test_a_new_viewer_is_sent_the_head_and_then_all_candidates(app: Guard) -> None:
    _, updates = all_updates(app)
    assert updates[0]["head"]["name"] == "iris"
    assert numbers(updates) == list(range(30))
    study = make_study(30)
    sent = next(u["table"] for u in updates if "table" in u)
    assert sent == json.loads(json.dumps(table(study.candidates, study.task)))


def test_a_viewer_is_sent_what_is_new_alone(app: Guard, studies: Studies, run: Path) -> None:
    since, _ = all_updates(app)
    assert all_updates(app, since) == (since, [])
    later = make_candidates(make_study(0).task, 33)[30:]
    append(run, later[:2])
    studies.refresh()
    second, updates = all_updates(app, since)
    assert numbers(updates) == [30, 31]
    append(run, [replace(later[0], state=State.FAILED), later[2]])
    studies.refresh()
    _, updates = all_updates(app, second)
    assert numbers(updates) == [30, 32]
    assert numbers(all_updates(app, since)[1]) == [31, 30, 32]


def test_a_message_of_a_large_study_stays_under_100_kb(tmp_path: Path) -> None:
    write_run(tmp_path / "large", make_study(2 * TOGETHER + 1))
    studies = Studies([tmp_path])
    studies.refresh()
    messages, _ = studies.updates(0, most=10)
    assert max(map(len, messages)) < 100_000
    assert len([m for m in messages if b'"table"' in m]) == 3


def test_a_torn_line_waits_for_its_end(run: Path, studies: Studies, app: Guard) -> None:
    since, _ = all_updates(app)
    append(run, make_candidates(make_study(0).task, 31)[30:])
    journal = run / "study.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-40])
    studies.refresh()
    assert all_updates(app, since)[1] == []
    with journal.open("ab") as file:
        file.write(whole[-40:])
    studies.refresh()
    assert numbers(all_updates(app, since)[1]) == [30]


def test_damaged_lines_are_passed_over(run: Path) -> None:
    journal = run / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[3:5] = [b"\0\0\0\n", b'{"op_code":8,"user_attr":{"candidate":{"number":4,\n']
    journal.write_bytes(b"".join(lines))
    follower = JournalFollower(journal)
    _, found = follower.changed()
    assert set(found) == set(range(30)) - {3, 4}
    assert [c.number for c in follower.candidates([5, 4, 6])] == [5, 6]


def test_a_line_that_is_longer_than_what_is_read_at_once_is_read_whole(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.search.follow._CHUNK", 100)
    follower = JournalFollower(run / "study.journal")
    assert follower.changed() == (False, list(range(30)))
    assert [c.number for c in follower.candidates([0, 17, 29])] == [0, 17, 29]


def test_a_journal_that_is_replaced_begins_anew(run: Path, studies: Studies, app: Guard) -> None:
    since, _ = all_updates(app)
    other = run.parent.parent / "other.journal"
    other.write_bytes(b"".join((run / "study.journal").read_bytes().splitlines(keepends=True)[:5]))
    other.rename(run / "study.journal")
    studies.refresh()
    _, updates = all_updates(app, since)
    assert updates[0]["reset"]
    assert numbers(updates) == list(range(5))


def test_with_many_runs_the_candidates_of_each_reach_a_viewer(tmp_path: Path) -> None:
    for number in range(9):  # more than there are messages in one answer
        write_run(tmp_path / f"run-{number}", make_study(2))
    studies = Studies([tmp_path])
    studies.refresh()
    app = make_app(studies, TOKEN, host="127.0.0.1")
    since, updates = "", []
    for _ in range(3):
        answer = ask(app, f"/api/updates?since={since}").json
        since, updates = answer["since"], updates + answer["updates"]
    assert answer["updates"] == []
    assert len({u["study"] for u in updates if "table" in u}) == 9
    assert numbers(updates) == [0, 1] * 9


def test_a_run_that_is_deleted_is_said_to_be_gone_and_leaves_the_others(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.dashboard.studies._LOOK_S", 0.0)
    write_run(run.parent / "second", make_study(3))
    studies = Studies([run.parent])
    studies.refresh()
    app = make_app(studies, TOKEN, host="127.0.0.1")
    before, updates = all_updates(app)
    gone, other = (u["study"] for u in updates[:2])
    place = f"/api/studies/{gone}/candidates/0"
    studies._messages.clear()  # as for a viewer of long after
    shutil.rmtree(run)
    assert numbers(all_updates(app)[1]) == [0, 1, 2]  # before the dashboard looks again
    assert [ask(app, where).status for where in (place, f"{place}/recipe.yaml")] == [503, 503]
    studies.refresh()
    since, updates = all_updates(app, before)
    assert updates == [{"study": gone, "gone": True}]
    assert {u["study"] for u in all_updates(app)[1]} == {other}
    assert ask(app, place).status == 404
    write_run(run, make_study(5))
    studies.refresh()
    _, updates = all_updates(app, since)
    assert (updates[0]["study"], updates[0]["head"]["name"]) == (gone, "iris")
    assert numbers(updates) == [0, 1, 2, 3, 4]
    # A viewer who was away in between forgets the rows of the run that was deleted.
    again = [u for u in all_updates(app, before)[1] if u["study"] == gone]
    assert again[0]["reset"]
    assert numbers(again) == [0, 1, 2, 3, 4]


def test_a_study_that_cannot_be_read_does_not_run_and_comes_back_whole(
    run: Path, studies: Studies, app: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise InputError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(JournalFollower, "changed", away)
        patch.setattr(JournalFollower, "candidates", away)
        studies.refresh()
        since, updates = all_updates(app)
        assert numbers(updates) == []
        assert [u["live"]["state"] for u in updates if "live" in u] == ["unreadable"]
        assert ask(app, f"/api/studies/{study_id(app)}/candidates/0").status == 503
    studies.refresh()
    _, updates = all_updates(app, since)
    assert numbers(updates) == list(range(30))
    assert [u["live"]["state"] for u in updates if "live" in u] == ["running"]


def test_a_run_that_is_replaced_is_judged_anew(run: Path, studies: Studies, app: Guard) -> None:
    append(run, make_candidates(make_study(0).task, 60)[30:])
    studies.refresh()
    study = studies.to_judge()
    assert study is not None
    studies.judge(study, {"importance": {"mlp": {"r2": 0.5}}})
    studies.refresh()
    since, _ = all_updates(app)
    other = run.parent.parent / "other.journal"
    other.write_bytes(b"".join((run / "study.journal").read_bytes().splitlines(True)[:50]))
    other.rename(run / "study.journal")
    studies.refresh()
    _, updates = all_updates(app, since)
    assert [sorted(u["live"]) for u in updates if "live" in u] == [["now", "seconds", "state"]]
    assert studies.to_judge() is study


def described(study: StudyView) -> dict[str, Any]:
    """What a study says of itself in its storage."""
    spaces = {name: space.to_dict() for name, space in study.spaces.items()}
    about = {"baselines": list(study.baselines), "rate_tests": {}, "notes": [], "versions": {}}
    return about | {"task": study.task.to_dict(), "spaces": spaces}


def test_a_journal_without_its_folder_is_shown(run: Path, tmp_path: Path) -> None:
    study = make_study(30)
    line = {"op_code": 2, "worker_id": "x", "study_id": 0, "user_attr": {"about": described(study)}}
    copied = tmp_path / "copied.journal"
    rows = (run / "study.journal").read_text()
    copied.write_text(json.dumps(line, separators=(",", ":")) + "\n" + rows)
    studies = Studies([copied])
    studies.refresh()
    app = make_app(studies, TOKEN, host="127.0.0.1")
    updates = all_updates(app)[1]
    [shown] = [u["head"] for u in updates if "reset" in u]
    assert (shown["name"], shown["folder"]) == ("copied", "")
    assert set(shown["spaces"]) == set(study.spaces)
    assert numbers(updates) == list(range(30))
    [live] = [u["live"] for u in updates if "live" in u]
    assert live["state"] == "stored"
    assert live["seconds"] > 200
    place = f"/api/studies/{study_id(app)}/candidates/0"
    assert ask(app, place).json["layers"] == []
    assert ask(app, f"{place}/recipe.yaml").status == 404


def test_a_journal_in_its_folder_is_that_of_the_run(run: Path) -> None:
    studies = Studies([run / "study.journal"])
    studies.refresh()
    app = make_app(studies, TOKEN, host="127.0.0.1")
    [shown] = [u["head"] for u in all_updates(app)[1] if "reset" in u]
    assert (shown["name"], shown["folder"]) == ("iris", str(run))


def test_a_journal_that_does_not_say_what_it_is_of_is_named_once(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "study.journal").rename(tmp_path / "copied.journal")
    studies = Studies([tmp_path / "copied.journal", tmp_path / "absent"])
    for _ in range(2):
        studies.refresh()
    said = capsys.readouterr().err
    assert said.count("its task is not kept there") == 1
    assert said.count("absent") >= 1


def test_a_run_that_begins_later_is_found(
    studies: Studies, app: Guard, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    since, _ = all_updates(app)
    write_run(run.parent / "second", make_study(3))
    monkeypatch.setattr("nas.dashboard.studies._LOOK_S", 0.0)
    studies.refresh()
    _, updates = all_updates(app, since)
    assert {u["head"]["name"] for u in updates if "head" in u} == {"second"}


def test_a_folder_that_may_not_be_read_leaves_the_others(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.parent / "lost+found").mkdir()
    stat = os.stat

    def refusing(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if "lost+found" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **options)

    monkeypatch.setattr("os.stat", refusing)
    studies = Studies([run.parent])
    studies.refresh()
    assert numbers(all_updates(make_app(studies, TOKEN, host="127.0.0.1"))[1]) == list(range(30))


def test_the_head_of_a_large_run_is_read_without_its_candidates(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_all(run: Run) -> Any:
        raise AssertionError("a large run would take hundreds of MB")

    monkeypatch.setattr(Run, "candidates", read_all)
    studies = Studies([run])
    studies.refresh()
    assert numbers(all_updates(make_app(studies, TOKEN, host="127.0.0.1"))[1]) == list(range(30))


def test_a_run_that_cannot_be_read_leaves_the_others(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = write_run(run.parent / "broken", make_study(1))
    (broken / "run.json").write_text("{")
    studies = Studies([run.parent])
    studies.refresh()
    studies.refresh()
    app = make_app(studies, TOKEN, host="127.0.0.1")
    assert [u["head"]["name"] for u in all_updates(app)[1] if "head" in u and "reset" in u] == [
        "iris"
    ]
    assert capsys.readouterr().err.count("run.json is damaged") == 1


@pytest.mark.parametrize(
    ("age_s", "state"), [(0.0, "running"), (60.0, "stopped")], ids=["fresh", "old"]
)
def test_the_clock_says_whether_a_search_runs(run: Path, age_s: float, state: str) -> None:
    os.utime(run / "clock", (time.time() - age_s,) * 2)
    studies = Studies([run])
    studies.refresh()
    app = make_app(studies, TOKEN, host="127.0.0.1")
    live = [u["live"] for u in all_updates(app)[1] if "live" in u]
    assert live[-1]["state"] == state


@pytest.mark.parametrize(
    ("budget", "state"),
    [
        ({"trials": 30}, "finished"),
        ({"trials": 31}, "stopped"),
        ({"cpu_hours": 0.07}, "finished"),
        ({"cpu_hours": 0.7}, "stopped"),
    ],
)
def test_a_search_is_finished_when_any_of_its_budgets_is_spent(
    tmp_path: Path, budget: dict[str, float], state: str
) -> None:
    study = make_study(30)
    task = replace(study.task, budget=Budget(time_limit_s=None, **budget))  # type: ignore[arg-type]
    run = write_run(tmp_path / "run", replace(study, task=task))
    os.utime(run / "clock", (time.time() - 60,) * 2)
    studies = Studies([run])
    studies.refresh()
    app = make_app(studies, TOKEN, host="127.0.0.1")
    assert [u["live"]["state"] for u in all_updates(app)[1] if "live" in u] == [state]


def test_the_trials_of_a_search_are_counted_as_its_budget_counts_them(tmp_path: Path) -> None:
    """A duplicate is none, and one that was cut off is trained again."""
    first, second, *others = make_candidates(make_study(0).task, 6)
    others[0] = replace(others[0], state=State.RUNNING)
    others[1] = replace(others[1], state=State.FAILED, reason=Reason.DUPLICATE)
    others[2] = replace(others[2], state=State.FAILED, reason=Reason.INTERRUPTED)
    others[3] = replace(others[3], root=second.number)  # its worker was lost the first time
    found = spent([first, second, *others])
    assert found["trials"] == 2
    assert found["cpu"] == pytest.approx(sum(c.seconds for c in [first, second, *others]) / 3600)


def test_every_candidate_can_be_opened_with_its_layers(app: Guard, run: Path) -> None:
    for candidate in make_study(30).candidates:
        answer = ask(app, f"/api/studies/{study_id(app)}/candidates/{candidate.number}")
        layers = Run(run).layers(candidate.number)
        expected = detail(replace(candidate, layers=layers)) | {"trained": False, "kept": False}
        assert answer.json == json.loads(json.dumps(expected))
        assert len(layers) == len(candidate.layers) > 0


def test_the_recipe_of_a_complete_candidate_can_be_saved(app: Guard, run: Path) -> None:
    place = f"/api/studies/{study_id(app)}/candidates"
    complete = next(c for c in make_study(30).candidates if c.state == State.COMPLETE)
    other = next(c for c in make_study(30).candidates if c.state != State.COMPLETE)
    answer = ask(app, f"{place}/{complete.number}/recipe.yaml")
    assert answer.headers["content-disposition"].startswith("attachment;")
    exported = Run(run).export(run.parent / f"recipe-{complete.number}.yaml", complete.number)
    assert answer.body == exported.read_bytes()
    for missing in (other.number, 999):
        for name in ("recipe.yaml", "design.html"):
            assert ask(app, f"{place}/{missing}/{name}").status == 404


def test_a_design_document_is_made_in_a_process_of_its_own(
    app: Guard, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    async def output(*words: str) -> tuple[int, bytes]:
        asked.append(words)
        return len(asked) - 1, b'{"title": "mlp"}' if len(asked) == 1 else b"no data\n"

    monkeypatch.setattr("nas.dashboard.app.document_page.page", lambda made: f"<p>{made['title']}")
    monkeypatch.setattr("nas.dashboard.app._output", output)
    place = f"/api/studies/{study_id(app)}/candidates/0/design.html"
    answer = ask(app, place)
    assert (answer.status, answer.body) == (200, b"<p>mlp")
    assert answer.headers["content-disposition"] == 'attachment; filename="design-0.html"'
    assert asked == [("nas.dashboard.design", str(run), "0")]
    failed = ask(app, place)
    assert (failed.status, failed.body) == (503, b"no data\n")


def test_importances_are_computed_apart_and_sent(run: Path) -> None:
    append(run, make_candidates(make_study(0).task, 60)[30:])
    studies = Studies([run])
    studies.refresh()
    study = studies.to_judge()
    assert study is not None
    assert studies.to_judge() is None  # it has not grown since
    importance = {"mlp": {"r2": 0.5, "candidates": 40, "parameters": [["width", 1.0]]}}
    studies.judge(study, {"importance": importance, "chance": {"at": [1]}})
    studies.refresh()
    app = make_app(studies, TOKEN, host="127.0.0.1")
    live = [u["live"] for u in all_updates(app)[1] if "live" in u]
    assert live[-1]["importance"]["mlp"]["r2"] == 0.5
    assert live[-1]["chance"] == {"at": [1]}


def test_status_watches_until_the_search_has_ended(run: Path) -> None:
    command = [sys.executable, "-m", "nas", "status", str(run), "--watch"]
    os.utime(run / "clock", (time.time() - 4,) * 2)  # six seconds more, then it has ended
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Pareto front") >= 2


# ---- a real server -------------------------------------------------------------------------------


@pytest.fixture
def server(run: Path) -> Iterator[int]:
    """The port of ``nas dashboard`` in a process of its own."""
    command = [sys.executable, "-m", "nas", "dashboard", str(run.parent)]
    env = os.environ | {"NAS_DASHBOARD_TOKEN": TOKEN}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        address = process.stdout.readline()
        assert address.endswith(f"/?token={TOKEN}\n")
        yield int(address.split(":")[2].split("/")[0])
        process.send_signal(signal.SIGINT)
        assert process.wait(10) in (0, 130)


def connect(port: int) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10))


def test_a_connection_on_which_no_request_comes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.dashboard.app.REQUEST_S", 0.2)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.6)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def answer(port: int, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        found = await asyncio.wait_for(reader.read(12), 10)
        writer.close()
        return found

    async def answers() -> list[bytes]:
        config, state = uvicorn.Config(slow, log_config=None, lifespan="off"), ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: Connection(config, state, {}), "127.0.0.1", 0
        )
        async with server:
            port = server.sockets[0].getsockname()[1]
            requests = (b"", b"GET / HTTP/1.1\r\nhost: ", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            return await asyncio.gather(*(answer(port, request) for request in requests))

    assert asyncio.run(answers()) == [b"", b"", b"HTTP/1.1 204"]


def test_it_survives_hundreds_of_refused_requests_and_junk(server: int) -> None:
    statuses: list[int] = []

    def burst() -> None:
        with connect(server) as connection:
            for _ in range(100):
                connection.request("GET", "/api/updates?since=x", headers={"cookie": "nas=wrong"})
                with connection.getresponse() as answer:
                    answer.read()
                    statuses.append(answer.status)

    threads = [threading.Thread(target=burst) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [401] * 400
    with connect(server) as connection:
        connection.putrequest("GET", "/" + "a" * 200_000)
        connection.endheaders()
        with connection.getresponse() as answer:
            assert answer.status >= 400
    with connect(server) as connection:
        connection.request("GET", "/api/updates", headers={"authorization": f"Bearer {TOKEN}"})
        with connection.getresponse() as answer:
            assert answer.status == 200


def test_it_survives_a_thousand_requests_a_second(server: int, run: Path) -> None:
    """They come in one piece on each of ten connections; an answer says who is refused."""
    allowed = b"authorization: Bearer " + TOKEN.encode()
    each = (allowed, b"authorization: Bearer wrong", b"cookie: nas=x", allowed)
    head = b"GET /api/updates?since=x HTTP/1.1\r\nhost: 127.0.0.1\r\n%s\r\n\r\n"
    request = b"".join(head % line for line in each) * 25
    statuses: Counter[bytes] = Counter()
    sockets = [socket.create_connection(("127.0.0.1", server), timeout=60) for _ in range(10)]
    try:
        for connection in sockets:
            connection.sendall(request)
        for connection in sockets:
            file = connection.makefile("rb")
            for _ in range(100):
                statuses[file.readline().split()[1]] += 1
                length = 0
                while (line := file.readline()) != b"\r\n":
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                file.read(length)
            file.close()
    finally:
        for connection in sockets:
            connection.close()
    assert statuses == {b"200": 500, b"401": 500}
    with connect(server) as connection:
        connection.request("GET", "/api/updates", headers={"authorization": f"Bearer {TOKEN}"})
        with connection.getresponse() as answer:
            assert len(json.loads(answer.read())["updates"]) > 0


def test_events_bring_a_new_candidate_within_two_seconds(server: int, run: Path) -> None:
    with connect(server) as connection:
        connection.request("GET", "/api/events", headers={"authorization": f"Bearer {TOKEN}"})
        with connection.getresponse() as answer:
            assert answer.getheader("content-type", "").startswith("text/event-stream")
            assert len(next_table(answer)["number"]) == 30
            begin = time.monotonic()
            append(run, make_candidates(make_study(0).task, 31)[30:])
            assert next_table(answer)["number"] == [30]
            assert time.monotonic() - begin < 2.0


def next_table(events: http.client.HTTPResponse) -> dict[str, Any]:
    while True:
        line = events.readline()
        if line.startswith(b"data: ") and "table" in (row := json.loads(line[6:])):
            return dict(row["table"])
