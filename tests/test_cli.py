"""The command as a user meets it: what it prints, where, and with which exit code."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from nas import cli, cli_models
from nas import run as runs
from nas.candidate import Candidate, State
from nas.data import multimodal
from nas.driver import Progress
from nas.files import COPY
from nas.progress import _picture, _summary
from nas.search import ehvi
from nas.search.study import Study
from nas.space import Space
from nas.task import Budget, Modality
from nas.testing import small_spaces, small_task

COMMANDS = (
    *("design", "search", "status", "report", "export", "train", "predict"),
    *("audit", "families", "latency", "rules", "dashboard", "serve", "pretrained"),
)


def table(n: int = 60, **columns: Any) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2))
    label = np.where(x[:, 0] > 0, "yes", "no")
    return pd.DataFrame(x, columns=["p", "q"]).assign(**{"label": label} | columns)


def pictures(folder: Path, spoil: Callable[[Path], object]) -> None:
    rng = np.random.default_rng(0)
    for label in "ab":
        (folder / label).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.jpg")
    spoil(folder / "a" / "3.jpg")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with every sort of wrong file."""
    monkeypatch.chdir(tmp_path)
    table().to_csv("good.csv", index=False)
    table(2).to_csv("two.csv", index=False)
    table(label="yes").to_csv("single.csv", index=False)
    table()[["label"]].assign(empty=np.nan).to_csv("empty.csv", index=False)
    table()[["label"]].assign(same=1.0).to_csv("constant.csv", index=False)
    price = [f"{i + 0.5}" for i in range(59)] + ["cheap"]
    table(price=price).to_csv("price.csv", index=False)
    table(price=[np.nan, *np.arange(59) / 7]).to_csv("nan.csv", index=False)
    Path("recipe.yaml").write_text("model: [1, 2")
    Path("other.yaml").write_text("colour: blue\n")
    Path("options.yaml").write_text("time_limits: 10m\n")
    Path("wrong.yaml").write_text("trials: many\n")
    Path("list.yaml").write_text("trials: [5]\n")
    Path("latin.yaml").write_bytes("target: Länge\n".encode("latin-1"))
    Path("garbage.npz").write_text("hello\n")
    Path("hollow", "a").mkdir(parents=True)
    Path("model.ckpt").write_bytes(b"PK\x03\x04 not weights")
    pictures(tmp_path / "blank", lambda file: file.write_bytes(b""))
    pictures(tmp_path / "torn", lambda file: file.write_bytes(file.read_bytes()[:200]))
    return tmp_path


@dataclass
class Ended:
    code: int
    out: str
    err: str
    errors: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.errors = re.findall(r"^(?:error|Error): (.*)$", self.err, flags=re.M)


@pytest.fixture
def nas(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    def call(*args: str) -> Ended:
        with pytest.raises(SystemExit) as end:
            cli.main(args)
        out, err = capfd.readouterr()
        return Ended(int(end.value.code or 0), out, err)

    return call


WRONG = [
    # command, exit code, what its one line must say
    ("search nowhere.csv -t label", 2, r"nowhere\.csv does not exist"),
    ("search god.csv -t label", 2, r"did you mean good\.csv\?"),
    ("search good.csv", 2, "target"),
    ("search good.csv -t labl", 2, "labl.*label"),
    ("search single.csv -t label", 1, "single class 'yes'"),
    ("search empty.csv -t label", 1, "empty|no column"),
    ("search constant.csv -t label", 1, "constant|same|no column"),
    ("search two.csv -t label", 1, "at least 10 samples are needed, got 2"),
    ("search price.csv -t price --problem regression", 1, "'cheap' in .*not a number"),
    ("search price.csv -t price", 1, "'cheap' in .*not a number"),
    ("search nan.csv -t price", 1, "missing in 1 of 60 rows"),
    ("search blank", 1, r"3\.jpg"),
    ("search torn", 1, r"3\.jpg"),
    ("search good.csv -t label -c params=5", 2, "METRIC<=NUMBER"),
    ("search good.csv -t label -c speed<=5", 2, "unknown metric 'speed'"),
    ("search good.csv -t label -o speed", 2, "unknown metric 'speed'"),
    ("search good.csv -t label -o rmse", 2, "'rmse' is not measured on this data"),
    ("search good.csv -t label -o params", 2, "hold no quality; add accuracy"),
    ("search good.csv -t label -f resnet", 2, "unknown family 'resnet'.*mlp"),
    ("search good.csv -t label --modality sound", 2, "'sound' is not one of"),
    ("search good.csv -t label --sampler best", 2, "unknown sampler 'best'"),
    ("search good.csv -t label --time-limit soon", 2, "'soon' is not a time; write 90s"),
    ("search good.csv -t label --time-limit none", 2, "needs an end"),
    ("search good.csv -t label --device tpu", 2, "'tpu' is not one of"),
    ("search good.csv -t label --split half", 2, "split"),
    ("search good.csv -t label --trials 0", 2, "0 is not in the range"),
    ("search --out new --resume", 1, "holds no search to resume; give the data to start one"),
    ("search good.csv -t label --out good.csv", 2, r"'--out': Directory 'good\.csv' is a file"),
    ("search good.csv -t label --out two.csv/run", 1, "two.csv.*choose another place with --out"),
    ("search good.csv -t label -c accuracy>=2", 2, "no network can meet.*between 0 and 1"),
    ("search hollow", 1, "hollow is empty: there is no file in it"),
    ("search garbage.npz", 1, r"garbage\.npz cannot be read as \.npz: it is not an archive"),
    ("search good.csv -t label --config options.yaml", 2, "'time_limits'; did you mean time_limit"),
    ("search good.csv -t label --config wrong.yaml", 2, "'many' is not a valid integer"),
    ("search good.csv -t label --config list.yaml", 2, r"list\.yaml: trials takes one value"),
    ("search good.csv --config latin.yaml", 2, r"latin\.yaml is not in UTF-8"),
    ("search good.csv -t label --config other.csv", 2, r"other\.csv"),
    ("search good.csv -t label --config recipe.yaml", 2, r"recipe\.yaml is not YAML"),
    ("search", 2, "give DATA, or the folder of a search with --out and --resume"),
    ("serch good.csv", 2, "No such command 'serch'"),
    ("status .", 1, "holds no search"),
    ("report nowhere", 1, "nowhere holds no search"),
    ("export nowhere -n 3", 1, "nowhere holds no search"),
    ("train nowhere.yaml", 1, r"no recipe at nowhere\.yaml"),
    ("train recipe.yaml", 1, r"recipe\.yaml is not a YAML file"),
    ("train other.yaml", 1, r"other\.yaml is not a recipe"),
    ("train blank", 1, "no recipe at blank/recipe.yaml"),
    ("train x --check --set a=1 --patience 0 --out y", 2, r"with --set, --patience, --out \(see"),
    ("train x --seeds 3", 2, "--seeds 3 is of --check"),
    ("train x --test only --scale 2 --epochs 3", 2, r"only .* with --scale, --epochs \(see"),
    ("predict nowhere good.csv", 1, r"no checkpoint at nowhere"),
    ("predict model.ckpt good.csv", 1, r"model\.ckpt is not a checkpoint of `nas train`"),
    ("families --modality sound", 2, "no family of the modality 'sound'.*tabular"),
]


@pytest.mark.parametrize(("command", "code", "printed"), WRONG, ids=[row[0] for row in WRONG])
def test_a_mistake_is_one_line_and_an_exit_code(
    here: Path, nas: Callable[..., Ended], command: str, code: int, printed: str
) -> None:
    ended = nas(*command.split())
    assert "Traceback" not in ended.err
    assert len(ended.errors) == 1, ended.err
    assert re.search(printed, ended.errors[0]), ended.errors[0]
    assert ended.code == code
    assert ended.out == ""
    assert not (here / "runs").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(nas: Callable[..., Ended], command: str) -> None:
    ended = nas(command, "--help")
    assert ended.code == 0
    assert f"\n  nas {command} " in ended.out


def test_help_names_every_type_that_a_column_of_a_manifest_can_have(
    nas: Callable[..., Ended],
) -> None:
    listed = nas("search", "--help").out
    about = next(p.help for p in cli.search.params if p.name == "columns")
    for kind in (*multimodal.TYPES, multimodal.IGNORE):
        assert re.search(rf"\b{kind}\b", about), kind
    assert "graphs (an .npz a row" in " ".join(listed.split())


def test_help_lists_all_commands_and_the_exit_codes_are_those_of_the_errors(
    nas: Callable[..., Ended],
) -> None:
    assert set(COMMANDS) == set(cli.cli.commands)
    listed = nas("--help").out
    assert all(re.search(rf"^  {command} ", listed, flags=re.M) for command in COMMANDS)
    from nas import task

    doc = " ".join((cli.__doc__ or "").split())
    for kind, words in (
        (task.InputError, "wrong data"),
        (task.UsageError, "wrong usage"),
        (task.NoFeasibleCandidate, "no feasible candidate"),
        (task.SelfCheckFailed, "self-check failed"),
    ):
        assert f"{kind.exit_code} {words}" in doc or f"{kind.exit_code} a {words}" in doc
    assert "130 interrupted" in doc


def test_families_are_listed_as_text_and_as_json(nas: Callable[..., Ended]) -> None:
    lines = nas("families").out.splitlines()
    listed = json.loads(nas("families", "--json").out)["families"]
    assert len(listed) == len(lines) >= 6
    assert {row["modality"] for row in listed} == set(get_args(Modality))
    only = json.loads(nas("families", "--modality", "images", "--json").out)["families"]
    assert {row["name"] for row in only} >= {"resnet", "vit"}


def test_an_audit_reads_data_by_the_options_of_a_search(
    here: Path, nas: Callable[..., Ended]
) -> None:
    for more, width in ((), 2), (("--columns", "q=ignore"), 1):
        ended = nas("audit", "--data", "good.csv", "-t", "label", *more)
        assert f"numeric ({width},)" in ended.out


def test_an_audit_of_data_alone_is_one_json_object_too(
    here: Path, nas: Callable[..., Ended]
) -> None:
    words = nas("audit", "--data", "good.csv", "-t", "label").out
    found = json.loads(nas("audit", "--data", "good.csv", "-t", "label", "--json").out)
    assert found["inputs"] == {"numeric": [2]}
    assert found["outputs"] == {"label": 2}
    assert found["described"] == words.strip()


# -- a search ------------------------------------------------------------------------------


@dataclass
class Searched:
    folder: Path
    ended: Ended
    during: list[dict[str, Any]]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """A search by the command, with its status asked for while it runs."""
    folder = tmp_path_factory.mktemp("cli")
    table(200, empty=np.nan, same=1).to_csv(folder / "data.csv", index=False)
    command = [sys.executable, "-c", "from nas.cli import main; main()"]
    # Flags, a variable and a file, as --help names the options. A random search measures no costs.
    (folder / "options.yaml").write_text(
        "{json: true, family: [mlp], epochs: 3, trials: 9, sampler: random}"
    )
    search = "search data.csv -t label --trials 3 --device cpu --config options.yaml"
    process = subprocess.Popen(
        [*command, *search.split(), "--out", "run"],
        cwd=folder,
        env=os.environ | {"NAS_SEARCH_WORKERS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    during = []
    while process.poll() is None:
        if (folder / "run" / "task.json").exists():
            shown = CliRunner().invoke(cli.cli, ["status", str(folder / "run"), "--json"])
            assert shown.exit_code == 0, shown.output
            during.append(json.loads(shown.stdout)["candidates"])
        time.sleep(0.1)
    out, err = process.communicate()
    return Searched(folder, Ended(process.returncode, out, err), during)


def test_a_search_prints_one_json_object_and_its_progress_elsewhere(searched: Searched) -> None:
    assert searched.ended.code == 0, searched.ended.err
    found = json.loads(searched.ended.out)
    assert {row["state"] for row in found["front"]} == {"complete"}
    assert all(Path(searched.folder, found[name]).is_file() for name in ("report", "recipe"))
    assert [b["name"] for b in found["baselines"]]
    printed = searched.ended.err
    assert "note: column 'empty'" in printed
    assert "note: column 'same'" in printed
    assert "tabular: 140 train, 30 validation, 30 test samples" in printed
    assert not searched.ended.errors


def test_a_running_search_can_be_looked_at(searched: Searched) -> None:
    assert any(counts.get("running") for counts in searched.during)
    finished = [sum(counts.values()) - counts.get("running", 0) for counts in searched.during]
    assert finished == sorted(finished)


def test_status_counts_and_shows_the_front(searched: Searched, nas: Callable[..., Ended]) -> None:
    run = str(searched.folder / "run")
    found = json.loads(nas("status", run, "--json").out)
    assert sum(found["candidates"].values()) >= 3
    assert found["front"] == json.loads(searched.ended.out)["front"]
    text = nas("status", run).out
    assert "complete" in text
    assert "mlp" in text


def test_progress_shows_what_is_left_of_each_budget() -> None:
    """After ten minutes half of the trials are spent, and a quarter of the GPU-hours."""
    running = Candidate(3, "plain", {}, 0, epochs=12)
    study = SimpleNamespace(
        candidates=lambda: [Candidate(i, "plain", {}, 0, state=State.COMPLETE) for i in range(3)],
        spent=4,
        hours={"gpu": 0.25, "cpu": 0.0}.get,
        front=list,
        reached={3: (2, 7)},
        task=small_task(),
    )
    budget = Budget(1500.0, trials=6, gpu_hours=1.0, cpu_hours=2.0)
    progress = Progress(study, (running,), 600.0, budget, "search", ("simple-models",))  # type: ignore[arg-type]
    shown = _summary(progress)
    assert shown["running"] == "#3:plain(7/12,fold:2/5),simple-models"
    assert shown["spent"] == "10m00s/25m00s"
    assert shown["left"] == "10m00s"
    assert shown["trials"] == "3/6(left:10m00s)"
    assert shown["gpu_hours"] == "0.25/1(left:30m00s)"
    assert shown["cpu_hours"] == "0/2"  # no pace yet


def rendered(progress: Progress) -> str:
    from rich.console import Console

    file = io.StringIO()
    Console(file=file, width=120).print(_picture(progress))
    return file.getvalue()


def test_a_terminal_shows_the_phase_one_bar_and_each_candidate_once() -> None:
    running = tuple(Candidate(i, "plain", {}, 0, epochs=12) for i in (3, 4))
    study = SimpleNamespace(
        candidates=lambda: [Candidate(i, "plain", {}, 0, state=State.COMPLETE) for i in range(3)],
        spent=5,
        hours={"gpu": 0.0, "cpu": 0.0}.get,
        front=list,
        reached={3: (1, 7)},
        task=small_task(),
    )
    budget = Budget(1500.0, trials=6)
    shown = rendered(Progress(study, running, 600.0, budget, "search", ("costs:40/200",)))  # type: ignore[arg-type]
    assert shown.startswith("searching\n")
    assert [shown.count(f"#{i}") for i in (3, 4)] == [1, 1]
    assert "measuring costs 40/200" in shown
    bar = next(line for line in shown.splitlines() if "━" in line)
    assert sum("━" in line for line in shown.splitlines()) == 1
    assert bar.strip("━╸╺ ") == "50%"
    costs = rendered(Progress(study, (), 60.0, budget, "search", ("costs:37/200",)))  # type: ignore[arg-type]
    assert costs.startswith("measuring costs 37/200\n")
    assert costs.count("costs") == 1


ENDS = {"": 3, "halving": 1, "interrupted": 2, "lost": 1}


def ended_candidates() -> list[Candidate]:
    state = {"": State.COMPLETE, "halving": State.PRUNED}
    reasons = [reason for reason, n in ENDS.items() for _ in range(n)]
    return [
        Candidate(i, "plain", {}, 0, state=state.get(reason, State.FAILED), reason=reason)
        for i, reason in enumerate(reasons)
    ]


def test_progress_counts_what_was_cut_off_by_itself_and_not_as_failed() -> None:
    study = SimpleNamespace(candidates=ended_candidates, front=list, task=small_task())
    progress = Progress(study, (), 60.0, Budget(120.0), "search")  # type: ignore[arg-type]
    shown = _summary(progress)
    counts = {name: shown[name] for name in ("complete", "pruned", "failed", "cut_off")}
    assert counts == {"complete": "3", "pruned": "1", "failed": "1", "cut_off": "2"}
    study.candidates = list
    assert "cut_off" not in _summary(progress)


def test_status_and_refusals_say_cut_off_and_not_failed(
    searched: Searched, nas: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.run.Run.candidates", lambda run: ended_candidates())
    monkeypatch.setattr("nas.run.Run.front", lambda run, *limits: [])
    run = str(searched.folder / "run")
    counts = {"3 complete", "2 cut off", "1 failed (lost)", "1 pruned (halving)"}
    assert set(nas("status", run).out.partition(";")[0].split(", ")) == counts
    found = json.loads(nas("status", run, "--json").out)["candidates"]
    assert {f"{n} {name}" for name, n in found.items()} == counts
    assert nas("export", run, "-n", "4").errors == [
        "candidate 4 is not complete (cut off); choose another"
    ]
    assert "(3 complete, 1 halving, 2 cut off, 1 lost" in nas("export", run, "-c", "flops<=1").err


@pytest.mark.parametrize(("folds", "mean"), [(5, ", mean of 5 folds"), (1, "")])
def test_the_verdict_of_a_check_names_the_mean_of_folds(
    nas: Callable[..., Ended],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folds: int,
    mean: str,
) -> None:
    figures = {"measured": 0.96078, "again": 0.96078, "tolerance": 0.01}
    found = {"objective": "accuracy", "folds": folds, **figures}
    monkeypatch.setattr("nas.train.check", lambda recipe, seeds: found)
    monkeypatch.setattr("nas.recipe.load", lambda recipe: {})
    printed = nas("train", str(tmp_path / "recipe.yaml"), "--check").out
    assert printed == f"accuracy{mean}: measured 0.96078  again 0.96078  tolerance 0.01\n"


def test_a_write_without_room_is_one_line_and_only_a_search_that_began_can_be_resumed(
    nas: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("nas.driver.search", full)
    ended = nas("search", ".", "--out", str(tmp_path))
    assert ended.code == 1
    assert ended.errors == ["No space left on device; make room"]
    (tmp_path / "task.json").touch()
    ended = nas("search", ".", "--out", str(tmp_path))
    assert ended.errors == ["No space left on device; make room, and go on with --resume"]


def test_a_search_prints_its_front_also_where_there_is_no_room_for_its_files(
    searched: Searched, nas: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.html")

    found = runs.Run(searched.folder / "run")
    monkeypatch.setattr("nas.driver.search", lambda *_, **__: found)
    monkeypatch.setattr("nas.report.write", full)
    ended = nas("search", ".", "--out", str(found.folder))
    assert ended.out == nas("status", str(found.folder)).out.partition("\n")[2]
    assert ended.errors == [
        "report.html: No space left on device; make room, and go on with --resume"
    ]


@pytest.mark.parametrize("command", ["export", "report"])
def test_on_a_full_disk_the_recipe_and_the_page_stay_as_they_were(
    searched: Searched, tmp_path: Path, command: str
) -> None:
    """A limit on the size of a file fails a write half-way, as a full disk does."""
    code = (
        "import resource, sys; from nas.cli import main;"
        " resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); main(sys.argv[1:])"
    )
    (tmp_path / "file").write_text("before")
    ended = subprocess.run(
        [sys.executable, "-c", code, command, searched.folder / "run", "--out", "file"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "error: file: File too large; make room\n"
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"file": "before"}


def test_the_package_runs_as_the_command_does() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "nas", "--version"], capture_output=True, text=True, check=True
    )
    assert asked.stdout.startswith("nas, version ")


@pytest.mark.parametrize("kept", [0, 0.5])
@pytest.mark.parametrize(
    ("name", "repair"),
    [
        ("run.json", COPY),
        ("task.json", COPY),
        ("data/dataset.json", COPY),
        ("data/inputs-0.npy", COPY),
        ("baselines.json", "remove it and go on with --resume, which fits the simple models again"),
        ("clock", "write them there, as 120.0, or remove it: the time then counts from 0 again"),
        ("layers/0.json", "remove it: the report then shows candidate 0 without layers"),
    ],
)
def test_a_run_that_was_half_copied_names_the_damaged_file(
    searched: Searched,
    nas: Callable[..., Ended],
    tmp_path: Path,
    name: str,
    repair: str,
    kept: float,
) -> None:
    shutil.copytree(searched.folder / "run", run := tmp_path / "run")
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[: int(kept * len(content))])
    commands = ["report", "status", "export", "search . --resume --trials 9 --out"]
    for command in commands[:1] if "layers" in name else commands:
        ended = nas(*command.split(), str(run))
        assert ended.code == 1
        (error,) = ended.errors
        assert error.startswith(f"{run / name} is damaged: ")
        assert error.endswith(f"; {repair}")


def test_a_run_of_another_version_names_the_field_that_is_wrong(
    searched: Searched, nas: Callable[..., Ended], tmp_path: Path
) -> None:
    shutil.copytree(searched.folder / "run", run := tmp_path / "run")
    (run / "task.json").write_text('{"modality": "smells"}')
    (printed,) = nas("status", str(run)).errors
    assert re.search(r"task\.json is damaged: modality = 'smells'.*or another version", printed)


def test_a_folder_in_use_is_refused(
    searched: Searched, nas: Callable[..., Ended], tmp_path: Path
) -> None:
    shutil.copytree(searched.folder / "run", run := tmp_path / "run")
    (run / "study.journal").unlink()
    (run / "clock").unlink()
    study = Study(run, small_task(), Space.join(small_spaces()))
    data = str(searched.folder / "data.csv")
    ended = nas("search", data, "-t", "label", "--resume", "--out", str(run))
    study.close()
    assert (ended.code, len(ended.errors)) == (1, 1)
    assert "is in use by another search (process " in ended.errors[0]


def test_a_finished_search_is_not_written_over(
    searched: Searched, nas: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(searched.folder)
    ended = nas("search", "data.csv", "-t", "label", "--out", "run")
    assert ended.code == 1
    assert "go on with --resume, or choose --out" in ended.errors[0]


@pytest.mark.parametrize(
    ("options", "code", "printed"),
    [
        (["-n", "99"], 2, "no candidate 99"),
        (["-c", "params<=1"], 3, "no candidate is complete and meets params<=1"),
        (["-n", "1", "-c", "params<=1"], 2, "not both"),
    ],
)
def test_export_says_what_it_cannot_export(
    searched: Searched, nas: Callable[..., Ended], options: list[str], code: int, printed: str
) -> None:
    ended = nas("export", str(searched.folder / "run"), *options)
    assert (ended.code, len(ended.errors)) == (code, 1)
    assert printed in ended.errors[0]


def test_export_writes_the_recipe_beside_the_network(
    searched: Searched, nas: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_models, "_trained", lambda *_: {"onnx": "a.onnx"})
    recipe = tmp_path / "recipe.yaml"
    run = str(searched.folder / "run")
    ended = nas("export", run, "--onnx", "a.onnx", "--out", str(recipe), "--json")
    assert json.loads(ended.out) == {"recipe": str(recipe), "onnx": "a.onnx"}
    assert recipe.is_file()


def test_export_train_and_predict_follow_one_another(
    searched: Searched, nas: Callable[..., Ended], tmp_path: Path
) -> None:
    recipe = str(tmp_path / "recipe.yaml")
    assert nas("export", str(searched.folder / "run"), "--out", recipe).out.strip() == recipe
    ended = nas("train", recipe, "--epochs", "1", "--json", "--out", str(tmp_path / "model"))
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["epochs"] == 1
    new = table(20, empty=np.nan, same=1).drop(columns="label")
    new.to_csv(tmp_path / "new.csv", index=False)
    model = str(tmp_path / "model")
    lines = nas("predict", model, str(tmp_path / "new.csv")).out.splitlines()
    assert len(lines) == 21
    written = tmp_path / "new" / "predictions.csv"
    assert nas("predict", model, str(tmp_path / "new.csv"), "--out", str(written)).code == 0
    assert written.read_text().splitlines() == lines
    assert lines[0] == "row,label,probability[no],probability[yes]"
    new.drop(columns="p").to_csv(tmp_path / "lacking.csv", index=False)
    ended = nas("predict", model, str(tmp_path / "lacking.csv"))
    assert (ended.code, len(ended.errors)) == (1, 1)
    assert "'p'" in ended.errors[0]


def test_predictions_are_not_written_where_they_would_be_read_as_labels(
    nas: Callable[..., Ended], tmp_path: Path
) -> None:
    inside = tmp_path / "photos" / "predictions.csv"
    inside.parent.mkdir()
    ended = nas("predict", "model", str(inside.parent), "--out", str(inside))
    assert (ended.code, len(ended.errors)) == (2, 1)
    assert "would be read as the labels of its files" in ended.errors[0]


def test_what_predict_chose_of_the_data_is_noted_on_standard_error(
    nas: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas import model
    from nas.rulebook import typical_task

    class Noting:
        task, note = typical_task("tabular"), ""

        def stream(
            self,
            data: Path,
            keep: tuple[str, ...],
            on_note: Callable[[str], object],
            interval: float | None,
        ) -> Iterator[Any]:
            on_note("of x_train, x_test only x_test is predicted")
            yield model.Piece(pd.DataFrame({"label": ["no"]}), {}, {})

    monkeypatch.setattr(model, "load", lambda path, candidate: Noting())
    for name in ("model.ckpt", "d.npz"):
        (tmp_path / name).touch()
    ended = nas("predict", str(tmp_path / "model.ckpt"), str(tmp_path / "d.npz"))
    assert ended.out.splitlines() == ["row,label", "1,no"]
    assert ended.err.strip() == "note: of x_train, x_test only x_test is predicted"


def test_a_page_is_written_into_a_new_folder_but_not_over_one(
    searched: Searched, nas: Callable[..., Ended], tmp_path: Path
) -> None:
    page = tmp_path / "new" / "page.html"
    assert nas("report", str(searched.folder / "run"), "--out", str(page)).code == 0
    assert page.stat().st_size > 0
    ended = nas("report", str(searched.folder / "run"), "--out", str(tmp_path))
    printed = (
        f"Invalid value for '--out': File '{tmp_path}' is a directory (see `nas report --help`)"
    )
    assert (ended.code, ended.errors) == (2, [printed])


@pytest.mark.slow  # a search
def test_an_impossible_limit_ends_the_search_soon(
    here: Path, nas: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ehvi, "INITIAL_COSTS", 24)  # of 200
    begin = time.monotonic()
    search = "search good.csv -t label -f mlp -c params<=1 --device cpu --workers 1 --out run"
    ended = nas(*search.split())
    assert (ended.code, len(ended.errors)) == (3, 1)
    assert re.search(r"meets params<=1 \(.*the nearest params was \d+\)", ended.errors[0])
    assert time.monotonic() - begin < 40
