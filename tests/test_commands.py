"""What the commands do around a run: a resume, a hang-up, names, and the end of a search."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import nas
from nas import cli, driver, show
from nas.candidate import Candidate, Reason, State
from nas.run import Finished, Run, stamp
from nas.task import InputError, UsageError

EARLIER = Path(__file__).parent / "earlier_format"
FAST: dict[str, Any] = {"families": ["mlp"], "trials": 2, "workers": 1, "device": "cpu"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    shutil.copytree(EARLIER / "run", tmp_path / "run")
    return Run(tmp_path / "run")


def numbers(rows: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"a": rng.random(rows), "b": rng.random(rows), "y": [0, 1] * (rows // 2)})


# -- a resume with other data --------------------------------------------------------------


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Run]:
    """A search that has begun, of which no candidate is trained."""
    monkeypatch.setattr(driver, "drive_run", lambda *_: None)
    return lambda data: nas.search(data, "y", out=tmp_path / "run", **FAST)


def rewritten(path: Path, frame: pd.DataFrame) -> Path:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", "/train.csv"])
def test_a_resume_with_other_data_is_refused_in_one_line(
    suffix: str, begun: Callable[[Any], Run], tmp_path: Path
) -> None:
    file = rewritten(tmp_path / f"first{suffix}", numbers())
    data = file.parent if suffix.startswith("/") else file
    if suffix.startswith("/"):
        rewritten(file.with_name("test.csv"), numbers(20))
    run = begun(data)
    again = FAST | {"trials": 4, "out": run.folder, "resume": True}
    nas.search(data, **again)  # the same is no other

    other = rewritten(tmp_path / f"other{suffix}", numbers(90))
    with pytest.raises(InputError, match=r"samples, not \d+.*leave the data out") as refused:
        nas.search(other, **again)
    assert "\n" not in str(refused.value)
    values = numbers()
    values.loc[3, "a"] += 1
    rewritten(file, values)
    with pytest.raises(InputError, match=r"was begun with \(other values\)"):
        nas.search(data, **again)
    with pytest.raises(UsageError, match=r"absent\.csv does not exist; leave the data out"):
        nas.search(tmp_path / "absent.csv", **again)
    nas.search(None, **again)


@pytest.mark.parametrize("form", ["frame", "arrays"])
def test_a_resume_compares_the_data_of_a_session_too(
    form: str, begun: Callable[[Any], Run], tmp_path: Path
) -> None:
    def of(frame: pd.DataFrame) -> Any:
        x = frame[["a", "b"]].to_numpy()
        return frame if form == "frame" else (x, frame["y"].to_numpy())

    target = "y" if form == "frame" else None
    again = FAST | {"trials": 4, "out": tmp_path / "run"}
    driver.search(of(numbers()), target, **again)
    driver.search(of(numbers()), target, resume=True, **again)
    with pytest.raises(InputError, match="the data is not what the search in"):
        driver.search(of(numbers(90)), target, resume=True, **again)


def test_files_that_did_not_change_are_not_read_again(
    begun: Callable[[Any], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = rewritten(tmp_path / "first.csv", numbers())
    run = begun(file)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "read", lambda *_, **__: pytest.fail("read again"))
        nas.search(file, out=run.folder, resume=True, **FAST | {"trials": 4})
    moved = shutil.copy2(file, tmp_path / "moved.csv")  # the same values elsewhere
    nas.search(moved, out=run.folder, resume=True, **FAST | {"trials": 4})
    before = stamp(file)
    os.utime(file, (0, 0))
    assert stamp(file) != before


# -- a terminal that is closed -------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_report_and_recipe(
    number: signal.Signals, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hung_up(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr("nas.driver.search", hung_up)
    for name in ("report.html", "recipe.yaml"):
        (run.folder / name).unlink(missing_ok=True)
    before = {n: signal.getsignal(n) for n in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)}
    # Under nohup, or in the background of a script, both would be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as end:
            cli.main(["search", "--resume", "--out", str(run.folder)])
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    assert end.value.code == 130
    assert (run.folder / "report.html").exists()
    assert (run.folder / "recipe.yaml").exists()


@pytest.mark.slow
def test_a_search_whose_terminal_is_closed_leaves_its_report(tmp_path: Path) -> None:
    numbers(200).to_csv(tmp_path / "data.csv", index=False)
    words = "search data.csv -t y -f mlp --workers 1 --epochs 1 --trials 500 --out run"
    pid, terminal = pty.fork()
    if pid == 0:  # the leader of a session of its own, on a terminal of its own
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-P", "-m", "nas", *words.split()])
    while not (tmp_path / "run" / "task.json").exists() or not any(
        c.state == State.COMPLETE for c in Run(tmp_path / "run").candidates()
    ):
        os.read(terminal, 10_000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "recipe.yaml").exists()
    left = subprocess.run(["pgrep", "-f", f"{tmp_path}/run"], capture_output=True, check=False)
    assert left.stdout == b""


# A cluster of one node, and a search that ends as it should when it is asked to.
FAKES = {
    "scontrol": "echo node1",
    "srun": "echo 127.0.0.1",
    "ray": "echo ' 1 node_1'",
    "nas": "trap 'echo kept > kept; exit 130' TERM; touch begun; while :; do sleep 0.05; done",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_slurm_job_whose_time_is_up_ends_its_search_and_waits_for_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    for name, does in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    script = Path(__file__).parents[1] / "scripts" / "slurm.sbatch"
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    job = subprocess.Popen(
        ["bash", script, "data"],
        cwd=tmp_path,
        env=os.environ | variables | {"SLURM_JOB_NODELIST": "node1"},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not (tmp_path / "begun").exists():
            assert job.poll() is None
            time.sleep(0.05)
        job.send_signal(number)
        assert job.wait(20) == 128 + number
        assert (tmp_path / "kept").exists()
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)


# -- the end of a search -------------------------------------------------------------------


def with_candidates(run: Run, candidates: list[Candidate], patch: pytest.MonkeyPatch) -> Run:
    patch.setattr(Run, "candidates", lambda self: candidates)
    return run


def test_errors_and_baselines_over_a_limit_are_named_at_the_end_and_in_the_status(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, *rest = run.candidates()
    trace = "Traceback (most recent call last):\n  File x\nValueError: Expected more than 1 value\n"
    ends = [
        replace(c, state=State.FAILED, reason=Reason.ERROR, detail=detail, worker=0)
        for c, detail in zip(rest, [trace, trace, "RuntimeError: \x1b[31mred"], strict=False)
    ]
    over = replace(
        rest[3],
        state=State.PRUNED,
        reason=Reason.INFEASIBLE,
        detail="params 51,534, not params<=9",
        origin="baseline",
    )
    (run.folder / "logs").mkdir(exist_ok=True)
    (run.folder / "logs" / "worker-0.log").touch()
    with_candidates(run, [good, *ends, over], monkeypatch)
    show.finished(run, as_json=False)
    at_the_end = capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["status", str(run.folder)])
    for printed in (at_the_end, capsys.readouterr().out):
        log = run.folder / "logs" / "worker-0.log"
        assert f"2 candidates failed: ValueError: Expected more than 1 value (see {log})" in printed
        assert f"candidate {ends[2].number} failed: RuntimeError: \\x1b[31mred" in printed
        assert f"baseline of {over.label} (candidate {over.number}) was not trained" in printed
        assert "params 51,534, not params<=9" in printed
        assert printed.index("2 candidates") < printed.index(f"candidate {ends[2].number} failed")


def test_a_status_names_the_errors_also_where_no_candidate_is_complete(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = [
        replace(c, state=State.FAILED, reason=Reason.ERROR, detail="ValueError: no", worker=0)
        for c in run.candidates()
    ]
    with_candidates(run, failed, monkeypatch)
    with pytest.raises(SystemExit):
        cli.main(["status", str(run.folder)])
    assert f"{len(failed)} candidates failed: ValueError: no" in capsys.readouterr().out


def test_a_search_ends_with_its_verdict_and_a_status_too(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Run, "verdict", lambda run: "candidate 1 beats the simple models")
    show.finished(run, as_json=False)
    at_the_end = capsys.readouterr().out.splitlines()
    with pytest.raises(SystemExit):
        cli.main(["status", str(run.folder)])
    for lines in (at_the_end, capsys.readouterr().out.splitlines()):
        assert lines[-1].endswith("candidate 1 beats the simple models")
        assert sum("beats" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("ours", "sentence"),
    [
        (0.95, "candidate 7 beats forest (accuracy 0.95 ± 0.01 against 0.9 on the test part)"),
        (0.905, "candidate 7 is not clearly better than forest"),
        (0.80, "candidate 7 does not beat forest"),
    ],
)
def test_the_verdict_is_of_the_trained_network_on_the_test_part(
    run: Run, monkeypatch: pytest.MonkeyPatch, ours: float, sentence: str
) -> None:
    """The simple model is the one that is best on the validation part."""
    simple = [
        {"name": "logistic", "metrics": {"accuracy": 0.8}},
        {"name": "forest", "metrics": {"accuracy": 0.9}},
        {"name": "failed", "metrics": {}},
    ]
    monkeypatch.setattr(Run, "baselines", lambda run: simple)
    assert list(run.simple_scores()) == ["forest", "logistic"]
    proxies = run.verdict()
    assert "test part" not in proxies
    assert "against 0.9)" in proxies
    result = {
        "test": {"accuracy": ours},
        "test_interval": {"accuracy": [ours - 0.0196, ours + 0.0196]},
        "simple_test": {"forest": {"accuracy": 0.9}, "logistic": {"accuracy": 0.99}},
    }
    monkeypatch.setattr(Run, "finished", Finished(7, 3, 3, result))
    assert run.verdict().startswith(sentence)
    monkeypatch.setattr(Run, "finished", Finished(7, 0, 3, {}, "no time"))
    assert run.verdict() == proxies


def test_a_run_shows_itself_and_never_fails_to(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = repr(run)
    assert shown.startswith(f"nas.Run({str(run.folder)!r}, tabular, target ")
    assert f"{len(run.candidates())} candidates, {len(run.front())} on the front" in shown

    def torn(self: Run) -> list[Candidate]:
        raise InputError("study.journal is damaged")

    monkeypatch.setattr(Run, "candidates", torn)
    assert "study.journal is damaged" in repr(run)


# -- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "/etc/x", "..", ".", "a/b", "C:\\x", "ü ✓", "x" * 300])
def test_a_latency_file_stays_in_the_run(
    name: str, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads((EARLIER / "run" / "latency-phone.json").read_text())
    monkeypatch.setattr(Run, "measure_latency", lambda self, numbers, files, **how: found)
    before = {p for p in run.folder.parent.rglob("*") if p.parent != run.folder}
    with pytest.raises(SystemExit):
        cli.main(["latency", str(run.folder), "--name", name, "--json"])
    file = Path(json.loads(capsys.readouterr().out)["file"])
    assert file.resolve().parent == run.folder.resolve()
    assert file.exists()
    assert {p for p in run.folder.parent.rglob("*") if p.parent != run.folder} == before


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t=1"),
        ("-1", "-1"),
        ("+1e5", "+1e5"),
        ("cat", "cat"),
        (-1.5, -1.5),
    ],
)
def test_a_spreadsheet_runs_nothing_of_predictions(cell: Any, written: Any, tmp_path: Path) -> None:
    frame = pd.DataFrame({"file_name": [cell], "y": [cell], "probability[=x]": [0.5]})
    show.predictions(frame, tmp_path / "p.csv", numbered=False)
    back = pd.read_csv(tmp_path / "p.csv", dtype=str)
    assert back["file_name"][0] == back["y"][0] == str(written)
    several = pd.DataFrame([[1, 0.5]], columns=[str(cell), "b"])
    show.predictions(several, tmp_path / "p.csv", numbered=True)
    assert list(pd.read_csv(tmp_path / "p.csv").columns) == ["row", str(written), "b"]


def test_predictions_carry_their_row_or_the_columns_to_keep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(EARLIER / "wine.csv").iloc[::-1]
    target = Run(EARLIER / "run").task.targets[0].name
    table.insert(0, "customer", [f"c{i}" for i in range(len(table))])
    table.to_csv(tmp_path / "new.csv", index=False)

    command = ["predict", str(EARLIER / "model"), str(tmp_path / "new.csv")]

    def predicted(*words: str) -> pd.DataFrame:
        out = tmp_path / "p.csv"
        with pytest.raises(SystemExit) as end:
            cli.main([*command, "--out", str(out), *words])
        assert end.value.code == 0
        return pd.read_csv(out)

    plain = predicted()
    assert plain["row"].tolist() == list(range(1, len(table) + 1))
    kept = predicted("--keep", "customer", "--keep", target)
    assert kept["customer"].tolist() == table["customer"].tolist()
    assert kept[f"{target} (data)"].tolist() == table[target].tolist()
    assert kept[target].tolist() == plain[target].tolist()
    assert "row" not in kept
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--keep", "costumer"])
    assert end.value.code == 2
    assert (
        "there is no column 'costumer' to keep; the columns are 'customer'"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("flag", ["-c", "--constraint", "--limit"])
def test_a_constraint_is_called_so_everywhere(
    flag: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    smallest = min(c.metrics["params"] for c in run.front())
    with pytest.raises(SystemExit) as end:
        cli.main(["export", str(run.folder), flag, f"params<={smallest}"])
    assert end.value.code == 0
    for command in ("search", "design", "families", "export"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert "-c, --constraint" in capsys.readouterr().out.replace("--limit, ", "")


def test_every_point_of_the_front_is_trained_and_drawn(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nas import recipe, train

    asked = []

    def trained(path: Path, out: Path, *rest: Any) -> dict[str, Any]:
        asked.append(out.name)
        of = recipe.load(path)["provenance"]
        value = of["validation"]["accuracy"] / 2
        scores = {"accuracy": value}
        figures: dict[str, Any] = {"validation": scores, "test": scores, "seconds": 1.0}
        figures["params"] = of["cost"]["params"]
        (out / "result.json").write_text(json.dumps(figures))
        (out / "model.ckpt").touch()
        return figures

    monkeypatch.setattr(train, "train", trained)
    with pytest.raises(SystemExit) as end:
        cli.main(["train", str(run.folder), "--front", "--json"])
    assert not end.value.code
    found = json.loads(capsys.readouterr().out)
    front = run.front()
    assert [row["candidate"] for row in found["front"]] == [c.number for c in front]
    assert [row["full"] for row in found["front"]] == [c.metrics["accuracy"] / 2 for c in front]
    assert json.loads((run.folder / "full_front.json").read_text()) == found["front"]
    drawn = (run.folder / "full_front.svg").read_text()
    assert drawn.count("<title>") == 2 * len(front)
    (run.folder / "models" / str(front[0].number) / "model.ckpt").unlink()
    asked.clear()
    with pytest.raises(SystemExit):
        cli.main(["train", str(run.folder), "--front", "--json", "--resume"])
    assert json.loads(capsys.readouterr().out) == found
    assert asked == [str(front[0].number)]  # the others are trained


def test_a_point_that_fails_leaves_the_others_of_the_front_to_be_trained(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nas import train

    first, *others = (c.number for c in run.front())

    def trained(path: Path, out: Path, *rest: Any) -> dict[str, Any]:
        if out.name == str(first):
            raise InputError("training ended: nan; lower the learning rate")
        return {"validation": {"accuracy": 0.5}, "test": {}, "seconds": 1.0, "params": 9}

    monkeypatch.setattr(train, "train", trained)
    with pytest.raises(SystemExit) as end:
        cli.main(["train", str(run.folder), "--front", "--json"])
    assert end.value.code == 1
    printed = capsys.readouterr()
    assert [row["candidate"] for row in json.loads(printed.out)["front"]] == others
    assert f"error: candidate {first}: training ended: nan; lower" in printed.err
    count = f"1 of {1 + len(others)} points of the front were not trained (candidates {first}, see"
    assert count in printed.err.splitlines()[-1]


def test_a_mistake_in_the_command_ends_a_front_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nas import train

    def refused(*_: Any) -> dict[str, Any]:
        raise UsageError("'soon' is not a time; write 90s, 10m or 2h")

    monkeypatch.setattr(train, "train", refused)
    with pytest.raises(SystemExit) as end:
        cli.main(["train", str(run.folder), "--front", "--time-limit", "soon"])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("'soon' is not a time") == 1


def test_a_point_that_fails_on_a_cluster_leaves_the_others_and_ctrl_c_ends_all(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nas import remote

    first, *others = (c.number for c in run.front())
    codes = [1, 130]  # of the first point, one a command

    def trained(path: Path, out: Path, *rest: Any) -> dict[str, Any]:
        if out.name == str(first):
            raise SystemExit(codes.pop(0))  # what the training has printed says why
        return {"validation": {"accuracy": 0.5}, "test": {}, "seconds": 1.0, "params": 9}

    monkeypatch.setattr(remote, "train", trained)
    command = ["train", str(run.folder), "--front", "--json", "--executor", "ray"]
    with pytest.raises(SystemExit) as end:
        cli.main(command)
    assert end.value.code == 1
    printed = capsys.readouterr()
    assert [row["candidate"] for row in json.loads(printed.out)["front"]] == others
    assert f"were not trained (candidates {first}, see above)" in printed.err
    with pytest.raises(SystemExit) as end:
        cli.main(command)
    assert end.value.code == 130
    assert not capsys.readouterr().out


def test_a_front_has_one_device_here(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["train", str(run.folder), "--front", "--devices", "2"])
    assert end.value.code == 2
    assert "--front does not go with --devices" in capsys.readouterr().err


def test_a_front_is_trained_by_its_own_recipes(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["train", str(run.folder), "--front", "--set", "optimizer.lr=1", "--scale", "2"])
    assert end.value.code == 2
    assert "--front does not go with --set, --scale" in capsys.readouterr().err


def test_a_changed_recipe_is_a_file_only_as_it_is_trained(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second process would else write it over what the first has written."""
    from nas import train

    seen: list[tuple[Path, float, bool]] = []

    def trained(path: Path, out: Path, *rest: Any) -> dict[str, Any]:
        *_, content = rest
        rate = content["optimizer"]["init_args"]["lr"]
        seen.append((path, rate, (out / "recipe.yaml").exists()))
        return {}

    monkeypatch.setattr(train, "train", trained)
    path = run.export()
    with pytest.raises(SystemExit) as end:
        cli.main(["train", str(path), "--json", "--set", "optimizer.lr=0.5"])
    assert not end.value.code
    assert seen == [(path, 0.5, False)]


@pytest.mark.parametrize(
    ("files", "options", "begins"),
    [
        ((), (), True),
        (("model.ckpt",), (), False),
        (("model.ckpt",), ("--resume",), False),
        (("model.ckpt", "last.ckpt"), ("--resume",), True),
        (("model.ckpt",), ("--test", "only"), True),
        (("model.ckpt",), ("--out", "other"), True),
    ],
    ids=["free", "trained", "nothing to resume", "interrupted", "scored", "elsewhere"],
)
def test_a_training_replaces_no_trained_network_unasked(
    files: tuple[str, ...],
    options: tuple[str, ...],
    begins: bool,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from nas import train

    asked: list[Path] = []

    def trained(path: Path, out: Path, *rest: Any) -> dict[str, Any]:
        asked.append(out)
        return {}

    for name in ("train", "score_once"):
        monkeypatch.setattr(train, name, trained)
    model = run.folder / "model"
    model.mkdir()
    for name in files:
        (model / name).touch()
    with pytest.raises(SystemExit) as end:
        cli.main(["train", str(run.export()), "--json", *options])
    assert (end.value.code or 0) == (0 if begins else 2)
    assert asked == ([Path("other") if "--out" in options else model] if begins else [])
    assert begins or "holds a trained network; choose --out" in capsys.readouterr().err


def test_the_command_at_the_head_of_a_recipe_trains_it_beside_a_trained_network(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas import train

    def trained(path: Path, out: Path, *rest: Any) -> dict[str, Any]:
        return {"out": str(out)}

    monkeypatch.setattr(train, "train", trained)
    monkeypatch.chdir(run.export().parent)
    Path("model").mkdir()
    Path("model/model.ckpt").touch()
    (line,) = (line for line in Path("recipe.yaml").read_text().splitlines() if "nas train" in line)
    with pytest.raises(SystemExit) as end:
        cli.main([*line.partition("nas ")[2].split(), "--json"])
    assert not end.value.code, line
