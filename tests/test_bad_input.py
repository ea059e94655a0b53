"""Bad input to every command: one line on standard error, a documented exit code, no traceback.

The table is made of combinations: every command that takes a kind of input with everything that
may be wrong with this kind. Exit codes: 1 wrong data or a failure, 2 wrong usage (see `nas.cli`).
"""

from __future__ import annotations

import gzip
import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nas import cli
from nas.pretrained import sources

EARLIER = Path(__file__).parent / "earlier_format"
TABLE = "a,b,y\n" + "".join(f"{i},{i % 7},{'yes' if i % 2 else 'no'}\n" for i in range(40))

# What is wrong with data, and the exit code of it.
DATA: dict[str, int] = {
    "absent.csv": 2,
    "absent/": 2,
    "empty.csv": 1,
    "blank.csv": 1,
    "header.csv": 1,
    "three_rows.csv": 1,
    "ragged.csv": 1,
    "nul.csv": 1,
    "random.csv": 1,
    "random.parquet": 1,
    "random.npz": 1,
    "random.jsonl": 1,
    "random.csv.gz": 1,
    "random.xyz": 2,
    "one_class.csv": 1,
    "no_target_values.csv": 1,
    "empty_folder": 1,
    "letters_only": 2,
    "torn_images": 1,
}
RUNS: dict[str, int] = {
    "absent_run": 1,
    "empty_folder": 1,
    "good.csv": 1,
    **{
        f"run_{name}_{wrong}": 1
        for name, wrong in product(
            ("task.json", "run.json"), ("empty", "object", "list", "null", "random")
        )
    },
}
RECIPES: dict[str, int] = dict.fromkeys(
    (
        "absent.yaml",
        "empty.yaml",
        "list.yaml",
        "text.yaml",
        "tabs.yaml",
        "random.yaml",
        "object.yaml",
        "foreign.yaml",
        "empty_folder",
    ),
    1,
)
MODELS: dict[str, int] = dict.fromkeys(
    ("absent.ckpt", "random.ckpt", "empty.ckpt", "empty_folder"), 1
)
# Options of a search, and of those that a design has too.
PLAN = [
    "--workers 0",
    "--workers two",
    "--epochs 0",
    "--epochs -3",
    "--device tpu",
    "--sampler best",
    "--seed -1",
    "--seed 4294967296",
    "--seed x",
    "--time-limit soon",
    "--time-limit -5",
    "--time-limit 0",
    "--objective speed",
    "--objective params",
    "--objective rmse",
    "-o accuracy -o accuracy",
    "-c params",
    "-c params<1million",
    "-c speed<=1",
    "-c accuracy>=2",
    "-c params<=-1",
    "-c rmse<=3",
    "--split 0.5",
    "--split 0.9,0.9,0.9",
    "--split column=absent",
    "--split group=absent",
    "--split time=absent",
    "--problem ranking",
    "--problem regression",
    "--image-size 4",
    "--image-size 32",
    "--columns a",
    "--columns a=shape",
    "--columns absent=image",
    "--modality tables",
    "--modality images",
    "--family resnet",
    "--family nothing",
    "--nothing",
    "--pretrained absent/network.pth",
    "--pretrained letters_only/network",
    "--target absent",
    "--target y,y",
    "--target",
]
SEARCH = [
    "--trials 0",
    "--trials x",
    "--cpu-hours -1",
    "--cpu-hours 0",
    "--gpu-hours 1 --device cpu",
    "--time-limit none",
    "--executor slurm",
    "--address 1.2.3.4:1",
    "--cpus-per-trial 1",
    "--executor ray --cpus-per-trial -1",
    "--storage mysql://host/db",
    "--study mine",
    "--config absent.yaml",
    "--config text.yaml",
    "--config unknown.yaml",
    "--config list.yaml",
    "--deterministic",
    "--deterministic --trials 3 --time-limit 1m",
    "--deterministic --trials 3 -o latency_ms",
    "--out good.csv",
    "--out letters_only",
    "--trials 1 --out good.csv/inside",
]
# Data that is wrong for its values, where the option itself is right.
OF_DATA = {
    "--problem regression": 1,
    "--modality images": 1,
    "--pretrained absent/network.pth": 1,
    "--pretrained letters_only/network": 1,
    "--out letters_only": 1,
    "--trials 1 --out good.csv/inside": 1,
}
OTHERS: list[tuple[str, int]] = [
    ("serch", 2),
    ("--nothing", 2),
    ("search", 2),
    ("search --resume", 2),
    ("pretrained", 2),
    ("pretrained nothing", 2),
    ("pretrained list --nothing", 2),
    ("design", 2),
    ("train", 2),
    ("predict", 2),
    ("predict x", 2),
    ("dashboard absent", 1),
    ("dashboard run --port x", 2),
    ("dashboard run --port 99999999", 2),
    ("serve absent", 1),
    ("serve run --port x", 2),
    ("report", 2),
    ("status", 2),
    ("export", 2),
    ("latency", 2),
    ("latency run --recipe r.yaml -n 1", 2),
    ("latency --recipe r.yaml -n 1", 2),
    ("latency run --batch x", 2),
    ("latency run --batch 0", 2),
    ("latency run --threads 0", 2),
    ("latency run --backend tensorrt", 2),
    ("latency run --backend onnxruntime --device cuda", 2),
    ("latency run -n 9999", 2),
    ("export run -n 9999", 2),
    ("export run -n x", 2),
    ("export run -n 0 -c params<=1", 2),
    ("export run -c params<=0", 3),
    ("export run -c speed<=1", 2),
    ("export run -c rmse<=1", 2),
    ("export run --latency absent.json", 2),
    ("export run --latency object.json", 1),
    ("report run --latency random.ckpt", 1),
    ("report run --out good.csv/inside.html", 1),
    ("status run extra", 2),
    ("rules nothing", 2),
    ("families nothing", 2),
    ("families resnet --data good.csv -t y", 2),
    ("families --data good.csv", 2),
    ("families --modality sound", 2),
    ("families mlp -c params<=x", 2),
    ("families mlp --device tpu", 2),
    ("audit", 2),
    ("audit nothing", 2),
    ("audit nothing:Net --shape 3", 1),
    ("audit net.py:Net", 2),
    ("audit absent.py:Net --shape 3", 2),
    ("audit net.py:Absent --shape 3", 2),
    ("audit net.py:number --shape 3", 2),
    ("audit net.py:Net --shape 3x3", 2),
    ("audit net.py:Net --shape 0", 2),
    ("audit net.py:Net --shape 5", 1),
    ("audit net.py:Net --shape 3 --args {", 2),
    ("audit net.py:Net --shape 3 --args [1]", 2),
    ('audit net.py:Net --shape 3 --args {"depth":1}', 1),
    ("audit net.py:Net --shape 3 --data good.csv", 2),
    ("audit net.py:Net --shape 3 --figure f.html", 2),
    ("audit net.py:Net --shape 3 --classes 1", 2),
    ("audit net.py:Net --data good.csv -t absent", 2),
    *(
        (f"audit --data good.csv -t y {o}", 2)
        for o in ("--shape 3", "--args {}", "--figure f.html")
    ),
    *((f"audit --data good.csv -t y {o}", 2) for o in ("--lr 1", "--batch-size 8", "--classes 2")),
    ("audit torn.py:Net --shape 3", 1),
    ("train run --epochs 0", 2),
    ("predict run absent.csv", 2),
    ("predict run good.csv", 1),
]

# Said before the mistake is found.
SLOW = ("note: ", "one forward pass", "reading ")

CASES: list[tuple[str, int]] = [
    *((f"search {d} -t y --trials 1 --out new", code) for d, code in DATA.items()),
    *((f"design {d} -t y", code) for d, code in DATA.items()),
    *((f"families mlp --data {d} -t y", code) for d, code in DATA.items()),
    *((f"audit net.py:Net --data {d} -t y", code) for d, code in DATA.items()),
    *((f"audit --data {d} -t y", code) for d, code in DATA.items()),
    *((f"{c} {r}", code) for c, (r, code) in product(("status", "report", "export"), RUNS.items())),
    *((f"latency {r}", code) for r, code in RUNS.items()),
    *(
        (f"search good.csv --resume --trials 9 --out {r}", 2 if r == "good.csv" else code)
        for r, code in RUNS.items()
        if r not in ("absent_run", "empty_folder")  # there it begins one
    ),
    *(
        (f"{c} {r}", code)
        for c, (r, code) in product(("train", "train --check", "latency --recipe"), RECIPES.items())
    ),
    *((f"predict {m} good.csv", code) for m, code in MODELS.items()),
    *((f"design good.csv -t y {o}", OF_DATA.get(o, 2)) for o in PLAN),
    *((f"search good.csv -t y --out new {o}", OF_DATA.get(o, 2)) for o in [*PLAN, *SEARCH]),
    *OTHERS,
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the table names."""
    folder = tmp_path_factory.mktemp("bad")
    random = np.random.default_rng(0).bytes(4000)

    def write(name: str, content: str | bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    write("good.csv", TABLE)
    write("empty.csv", "")
    write("blank.csv", "\n \n\n")
    write("header.csv", "a,b,y\n")
    write("three_rows.csv", "a,b,y\n1,2,no\n2,3,yes\n3,4,no\n")
    write("ragged.csv", "a,b,y\n1,2,no\n1,2,3,4,5\n" * 20)
    write("nul.csv", TABLE.encode().replace(b"5,", b"\0\0"))
    for name in ("random.csv", "random.parquet", "random.npz", "random.jsonl", "random.xyz"):
        write(name, random)
    write("random.csv.gz", gzip.compress(TABLE.encode())[:60] + random)
    frame = pd.DataFrame({"a": range(40), "y": "same"})
    frame.to_csv(folder / "one_class.csv", index=False)
    frame.assign(y="").to_csv(folder / "no_target_values.csv", index=False)
    (folder / "empty_folder").mkdir()
    write("letters_only/letter.txt~", "dear sir")
    for i in range(20):
        write(f"torn_images/{'ab'[i % 2]}/{i}.png", b"\x89PNG\r\n\x1a\n" + random[: 50 + i])
    shutil.copytree(EARLIER / "run", folder / "run")
    wrong = {"empty": "", "object": "{}", "list": "[]", "null": "null", "random": random}
    for name in RUNS:
        if name.startswith("run_"):
            shutil.copytree(EARLIER / "run", folder / name)
            _, file, how = name.split("_")
            write(f"{name}/{file}", wrong[how])
    recipe = (EARLIER / "run" / "recipe.yaml").read_text()
    foreign = recipe.replace("torch.optim.AdamW", "os.system")
    assert foreign != recipe
    for name, content in {
        "empty": "",
        "list": "- 1\n- 2\n",
        "text": "hello",
        "tabs": "a:\n\t- b: [",
        "object": "{}",
        "random": random,
        "foreign": foreign,
        "unknown": "colour: red\n",
    }.items():
        write(f"{name}.yaml", content)
    write("random.ckpt", random)
    write("empty.ckpt", b"")
    write("object.json", json.dumps({}))
    write(
        "net.py",
        "from torch import nn\nnumber = 3\n"
        "class Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Linear(3, 2))\n",
    )
    write("torn.py", "class Net(:\n")
    return folder


@pytest.mark.parametrize(("words", "code"), CASES, ids=[words for words, _ in CASES])
def test_bad_input_is_one_line_and_an_exit_code(
    words: str,
    code: int,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(SystemExit) as end:
        cli.main(words.split())
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith(SLOW)]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert len(lines[0]) > 20
    assert (end.value.code, out) == (code, "")
    assert not (place / "new").exists()


@pytest.mark.parametrize("command", ["design", "search --trials 1 --out new"])
def test_nothing_begins_where_a_hub_gives_none_of_the_networks(
    command: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fetched(name: str) -> Path:
        raise sources.Unreachable(f"pretrained network {name}: not to be had")

    monkeypatch.chdir(place)
    monkeypatch.setattr(sources, "_fetched", fetched)
    with pytest.raises(SystemExit) as end:
        cli.main([*command.split(), "good.csv", "-t", "y", "--pretrained", "somebody/absent"])
    assert end.value.code == 1
    assert capfd.readouterr().err == "error: pretrained network somebody/absent: not to be had\n"
    assert not (place / "new").exists()


def test_the_table_is_long_and_names_every_command() -> None:
    assert len(CASES) >= 200
    assert len({words for words, _ in CASES}) == len(CASES)
    assert {words.split()[0] for words, _ in CASES} >= set(cli.cli.commands)
