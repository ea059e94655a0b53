"""A run whose files are damaged: one line from every command, and nothing finished is lost.

Each file of a small run is truncated, overwritten, emptied, or replaced by other JSON or another
encoding, and every command that reads it is called. The damages are drawn from a fixed seed: a
failure names the file and the number of the damage. All 200 a file: ``pytest -m slow``.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

import nas
from nas import Run, cli, recipe
from nas.search.study import Study
from nas.space import Space
from nas.task import InputError

pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
ORIGINAL = Path(__file__).with_name("earlier_format") / "run"
# Of single candidates: read where all figures are shown.
LAYERS = "layers/1.json"
LATENCY, JOURNAL = "latency-phone.json", "study.journal"
FILES = (
    *("task.json", "run.json", "plan.json", "lr.json", "baselines.json", "finished.json", "clock"),
    *(LAYERS, LATENCY, JOURNAL, "costs.jsonl"),
    *("data/dataset.json", "data/inputs-0.npy", "data/labels-0.npy", "data/parts-1.npy"),
)
RATE_TEST = {
    "rates": [1e-4, 1e-3, 1e-2],
    "losses": [1.0, 0.9, 0.5],
    "smooth": [1.0, 0.9, 0.5],
    "steepest": 1e-3,
    "lowest": 1e-2,
    "diverges": None,
    "bounds": {"low": 1e-4, "high": 1e-2, "default": 1e-3, "why": ["learning-rate-first"]},
}
FINISHED = {"candidate": 0, "epochs": 3, "recipe_epochs": 30, "result": {}, "error": "no time"}
PLAN = {
    "fidelity": {"epochs": 6, "share": 1.0},
    "candidates": 9,
    "candidate_s": 2.5,
    "finish_s": 8.0,
    "full_s": 30.0,
    "reasons": ["the baselines take 0.1 s an epoch"],
}
FOREIGN: tuple[Any, ...] = ({}, [], None, 1, "x", [{}], {"name": "other", "version": 3})
ODD: tuple[Any, ...] = (
    *(None, -1, 0, 10**400, 1e308, True, "", "x", "\u202e\x1b[31m", "\ud800", "../../x"),
    *([], {}, [[]], {"a": 1}, "9" * 5000, float("nan"), float("inf")),
)


def damage(content: bytes, seed: str) -> bytes:
    """One way in which a file may be found."""
    rng = random.Random(seed)

    def at(most: int) -> int:
        return rng.randrange(max(1, most))

    def overwritten(by: Callable[[int], bytes]) -> bytes:
        begin, size = at(len(content)), 1 + at(64)
        return content[:begin] + by(size) + content[begin + size :]

    ways: list[Callable[[], bytes]] = [
        lambda: b"",
        lambda: content[: at(len(content))],
        lambda: overwritten(rng.randbytes),
        lambda: overwritten(bytes),
        lambda: bytes(len(content)),
        lambda: rng.randbytes(1 + at(400)),
        lambda: content + rng.randbytes(1 + at(40)),
        lambda: content * 2,
        lambda: b"[" * 100_000,
        lambda: json.dumps(rng.choice(FOREIGN)).encode(),
        lambda: content.decode("latin-1").encode("utf-16"),
        lambda: b"\xef\xbb\xbf" + content,
        *[lambda: _other_json(content, rng)] * 12,
    ]
    return rng.choice(ways)()


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def _other_json(content: bytes, rng: random.Random) -> bytes:
    """JSON in which a value is another or missing; of JSON lines, in one of them."""
    if (lines := content.splitlines(keepends=True))[1:] and content.startswith(b"{"):
        at = rng.randrange(len(lines))
        if _is_json(lines[at]):
            return b"".join([*lines[:at], _other_json(lines[at], rng) + b"\n", *lines[at + 1 :]])
    if not _is_json(content):
        return content[::-1]
    value = json.loads(content)
    if not isinstance(value, (dict, list)):
        return json.dumps(rng.choice(ODD)).encode()
    places: list[tuple[Any, Any]] = []
    left = [value]
    while left:
        node = left.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, item in items:
            places.append((node, key))
            if isinstance(item, (dict, list)):
                left.append(item)
    node, key = rng.choice(places)
    if rng.random() < 0.2:
        del node[key]
    else:
        node[key] = rng.choice(ODD)
    return json.dumps(value).encode()


def last_lines(journal: bytes) -> dict[int, bytes]:
    """The line of the latest row of each candidate, by its number."""
    found = {}
    for line in journal.splitlines(keepends=True):
        for row in json.loads(line).get("user_attr", {}).values():
            if isinstance(row, dict) and "number" in row:
                found[row["number"]] = line
    return found


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all files that a search may leave."""
    folder = tmp_path_factory.mktemp("sound") / "run"
    shutil.copytree(ORIGINAL, folder)
    for name, content in (("lr", {"mlp": RATE_TEST}), ("finished", FINISHED), ("plan", PLAN)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


class _Started(Exception):  # noqa: N818
    """A search has read all that it goes on from."""


def resumed(folder: Path) -> None:
    """Go on with a search as far as the files of its folder decide."""

    def stop(run: Run) -> None:
        raise _Started

    options: dict[str, Any] = {"epochs": 6, "constraints": ["params<=20000"]}
    options |= {"deterministic": True, "trials": 7, "workers": 1}
    with suppress(_Started):
        nas.search(None, "cultivar", out=folder, resume=True, on_start=stop, **options)
    run = Run(folder)
    with closing(Study(folder, run.task, Space.join(run.spaces), sampler="ehvi")) as study:
        study.candidates()


@pytest.fixture
def outcomes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[Path], dict[str, str]]:
    """What each command says of a run, in one line; "" where all is well."""
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "")  # 5 MB in each page

    def called(*args: str | Path) -> str:
        with pytest.raises(SystemExit) as end:
            cli.main([str(arg) for arg in args])
        error = capfd.readouterr().err
        if not end.value.code:
            return ""
        assert end.value.code in (1, 2, 3), error
        assert error.startswith("error: "), error
        assert error.count("\n") == 1, error
        return error.strip()

    def run_all(folder: Path) -> dict[str, str]:
        phone = ("--latency", folder / LATENCY)
        found = {
            "status": called("status", folder),
            "status --json": called("status", folder, "--json"),
            "report": called("report", folder),
            "report --latency": called("report", folder, *phone),
            "export": called("export", folder, "--out", folder / "new.yaml"),
            "export --latency": called("export", folder, "--out", folder / "new.yaml", *phone),
            "--resume": "",
        }
        try:
            resumed(folder)
        except InputError as error:
            found["--resume"] = f"error: {error}"
            assert "\n" not in found["--resume"]
        return found

    return run_all


def attack(
    sound: Path, folder: Path, name: str, number: int, outcomes: Callable[[Path], dict[str, str]]
) -> None:
    shutil.copytree(sound, folder)
    content = (folder / name).read_bytes()
    damaged = damage(content, f"{name} {number}")
    (folder / name).write_bytes(damaged)
    said = outcomes(folder)
    named = {command for command, error in said.items() if f"/{name} is " in error}
    readers = {LAYERS: {"report", "report --latency"}}
    readers[LATENCY] = {"report --latency", "export --latency"}
    if name == JOURNAL and not named:
        whole = set(damaged.splitlines(keepends=True))
        last = last_lines(content)
        kept = [number for number, line in last.items() if line in whole]
        found, expected = (
            [c for c in Run(run).candidates() if c.number in kept] for run in (folder, sound)
        )
        assert found == expected
    if named:
        assert named == readers.get(name, set(said)), (number, said)
        assert (folder / name).read_bytes() == damaged
    # The finished candidates are still there as soon as the file is whole again.
    (folder / name).write_bytes(content)
    assert Run(folder).frame().equals(Run(sound).frame())
    shutil.rmtree(folder)


def test_the_run_is_sound_before_it_is_damaged(
    sound: Path, tmp_path: Path, outcomes: Callable[[Path], dict[str, str]]
) -> None:
    shutil.copytree(sound, tmp_path / "run")
    assert set(outcomes(tmp_path / "run").values()) == {""}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_one_line_from_every_command(
    sound: Path, tmp_path: Path, name: str, outcomes: Callable[[Path], dict[str, str]]
) -> None:
    for number in range(3):
        attack(sound, tmp_path / f"{number}", name, number, outcomes)


def test_a_damaged_recipe_is_one_line(tmp_path: Path) -> None:
    content = (ORIGINAL / "recipe.yaml").read_bytes()
    for number in range(20):
        damaged = damage(content, f"recipe.yaml {number}")
        (tmp_path / "recipe.yaml").write_bytes(damaged)
        try:
            recipe.load(tmp_path / "recipe.yaml")
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_two_hundred_damages_of_a_file_are_one_line_each(
    sound: Path, tmp_path: Path, name: str, outcomes: Callable[[Path], dict[str, str]]
) -> None:
    for number in range(200):
        attack(sound, tmp_path / f"{number}", name, number, outcomes)
