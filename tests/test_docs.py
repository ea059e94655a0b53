"""What README and docs say can be done, can be done.

Every `nas` command line is parsed by the command's own parser and the quick ones are run. The
slow ones (searches, trainings, designs) run with `make docs`, with small budgets.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import pandas as pd
import pytest
import yaml
from default_run import mostly_slow
from PIL import Image

from nas import cli
from nas.family import load_families
from nas.search import samplers
from nas.task import Modality

pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
MARKDOWN = [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md"))]
MARKDOWN.append(ROOT / "experiments" / "LOG.md")
NAMES = {page: str(page.relative_to(ROOT)) for page in MARKDOWN}

QUICK = {"status", "report", "export", "predict", "families", "rules"}
ELSEWHERE = ("--executor ray", "--storage postgresql:")  # tested by make ray, make postgresql
ENDLESS = ("serve ", "dashboard ")  # until Ctrl-C
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(page.read_text()) if kind == language]


def commands(page: Path) -> Iterator[str]:
    """The `nas` command lines of the code blocks, without comments."""
    for block in blocks(page, ""):
        for line in block.splitlines():
            if match := re.search(r"(?:^|-- )nas (.*)", line):
                yield shlex.join(shlex.split(match[1], comments=True))


def examples(command: click.Command) -> Iterator[str]:
    """The command lines in the help of a command, without what follows two spaces."""
    for line in (command.help or "").splitlines():
        if line.strip().startswith("nas "):
            yield re.split(r"\s{2,}", line.strip())[0].removeprefix("nas ")


LINES = [(page, line) for page in PAGES for line in commands(page)]
COMMANDS = (cli.cli, *cli.cli.commands.values())
IN_HELP = [line for command in COMMANDS for line in examples(command)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file that the pages name."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    age, hours = rng.integers(20, 70, 160), rng.integers(10, 60, 160)
    work = rng.choice(["office", "farm", "shop"], 160)
    income = np.where(age + hours + rng.normal(0, 10, 160) > 80, ">50K", "<=50K")
    people = pd.DataFrame({"age": age, "hours": hours, "work": work, "income": income})
    people.to_csv(folder / "people.csv", index=False)
    (folder / "adult").mkdir()
    people[:130].to_csv(folder / "adult" / "train.csv", index=False)
    people[130:].to_csv(folder / "adult" / "test.csv", index=False)

    photos = []
    for label, brightness in (("cat", 60), ("dog", 120)):
        (folder / "photos" / label).mkdir(parents=True)
        for i in range(30):
            photos.append(f"photos/{label}/{i}.png")
            pixels = rng.integers(0, brightness + 60, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / photos[-1])

    words = {1: ["dull", "broken", "poor"], 5: ["bright", "solid", "good"]}
    stars = rng.choice([1, 5], 60)
    notes = [" ".join([*rng.choice(words[s], 4), "thing", "it", "was"]) for s in stars]
    pd.DataFrame({"text": notes, "stars": stars}).to_csv(folder / "reviews.csv", index=False)
    offers = {"photo": photos, "note": notes, "price": rng.normal(10, 3, 60).round(2)}
    offers["sold"] = np.where(stars == 5, "yes", "no")
    pd.DataFrame(offers).to_csv(folder / "offers.csv", index=False)

    steps = np.arange(600)
    moving = np.sin(steps * (0.5 + steps // 12 % 2)) + 0.1 * rng.normal(size=600)
    motion = {"recording": steps // 12, "second": steps % 12, "x": moving, "y": moving**2}
    motion |= {"person": steps // 60, "activity": np.where(steps // 12 % 2, "run", "walk")}
    pd.DataFrame(motion).to_csv(folder / "motion.csv", index=False)
    load = np.sin(steps * np.pi / 12) + 0.1 * rng.normal(size=600)
    pd.DataFrame({"hour": steps, "load": load}).to_csv(folder / "load.csv", index=False)

    earlier = Path(__file__).with_name("earlier_format")
    shutil.copy(earlier / "wine.csv", folder)
    wine = pd.read_csv(folder / "wine.csv")
    wine.assign(customer_id=range(len(wine))).to_csv(folder / "new.csv", index=False)
    for name in ("adult", "people", "data"):
        run = folder / "runs" / name
        shutil.copytree(earlier / "run", run)
        shutil.copytree(earlier / "model", run / "model")
        for file in (run / "run.json", *run.rglob("*.yaml")):
            file.write_text(file.read_text().replace("/data/wine.csv", str(folder / "wine.csv")))
    latency = earlier / "run" / "latency-phone.json"
    for copy in ("phone.json", "runs/adult/latency-server.json"):
        shutil.copy(latency, folder / copy)
    (folder / "net.py").write_text(NETWORK)
    return folder


NETWORK = """
from torch import nn

def build(depth=1):
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

def Net():
    return build(2)
"""


@pytest.fixture
def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[str], None]:
    monkeypatch.chdir(folder)

    def call(line: str) -> None:
        with pytest.raises(SystemExit) as end:
            cli.main(shlex.split(line))
        _, err = capfd.readouterr()
        # 4: the audit found something serious in the network.
        allowed = (0, 4) if line.startswith("audit") else (0,)
        assert int(end.value.code or 0) in allowed, err

    return call


@pytest.mark.parametrize("line", [line for _, line in LINES] + IN_HELP)
def test_every_command_line_is_understood(
    folder: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.chdir(folder)
    name, *args = shlex.split(line)
    command = cli.cli.commands[name]
    command.parse_args(click.Context(command, info_name=name), args)


@pytest.mark.parametrize("page", PAGES, ids=NAMES.get)
def test_commands_in_running_text_exist_with_their_options(page: Path) -> None:
    for code in re.findall(r"`nas ([a-z]+[^`]*)`", BLOCK.sub("", page.read_text())):
        name, *args = shlex.split(code)
        known = {option for p in cli.cli.commands[name].params for option in p.opts}
        given = {arg for arg in args if arg.startswith("-")}
        assert given <= known | {"--help"}, code


QUICK_LINES = [
    line
    for _, line in LINES
    if line.split()[0] in QUICK or (line.startswith("audit") and "--shape" in line)
]


@pytest.mark.parametrize(
    "line",
    mostly_slow(dict.fromkeys(QUICK_LINES), [n for n in QUICK_LINES if n.split()[0] != "export"]),
)
def test_the_quick_commands_run(run: Callable[[str], None], line: str) -> None:
    run(line)


@pytest.mark.slow
def test_what_the_help_names_after_a_search_runs_in_its_order(run: Callable[[str], None]) -> None:
    for line in list(examples(cli.cli))[1:]:
        run(shortened(line, ""))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=NAMES.get)
def test_the_slow_commands_run_with_small_budgets(run: Callable[[str], None], page: Path) -> None:
    for number, line in enumerate(commands(page)):
        if not (line.startswith(ENDLESS) or any(words in line for words in ELSEWHERE)):
            run(shortened(line, f"runs/{page.stem}-{number}"))


def shortened(line: str, out: str) -> str:
    """The same command for seconds: few candidates, few epochs, and a folder of its own."""
    name = line.split()[0]
    if name == "search":
        line = re.sub(r"--(time-limit|trials|out) \S+", "", line)
        line += f" --trials 3 --epochs 1 --workers 2 --out {out}"
    if name == "train":
        line += " --epochs 1" if "--check" not in line else ""
    if name == "audit" and "--data" in line:
        line += " --time-limit 5s"
    return line


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=NAMES.get)
def test_the_python_examples_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    people = pd.read_csv(folder / "people.csv")
    people.to_csv("people.csv", index=False)
    people.assign(price=people["age"] * 1.5).to_parquet("train.parquet")
    for code in blocks(page, "python"):
        exec(re.sub(r'time_limit="\w+"', 'trials=3, epochs=1, out="run"', code), {})


@pytest.mark.parametrize("page", PAGES, ids=NAMES.get)
def test_other_examples_are_well_formed(page: Path) -> None:
    for code in blocks(page, "python"):
        compile(code, NAMES[page], "exec")
    for code in blocks(page, "toml"):
        assert tomllib.loads(code)
    for code in blocks(page, "yaml"):
        options = {p.name for p in cli.cli.commands["search"].params}
        assert set(yaml.safe_load(code)) <= options


def test_every_pod_of_the_kubernetes_job_sees_the_run_and_has_the_tested_ray() -> None:
    text = (ROOT / "scripts" / "rayjob.yaml").read_text()
    job = yaml.safe_load(text)["spec"]
    _, name, *args = shlex.split(job["entrypoint"])
    cluster, out = job["rayClusterSpec"], Path(args[args.index("--out") + 1])
    command = cli.cli.commands[name]
    command.parse_args(click.Context(command, info_name=name), args)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        claims = {v["name"] for v in pod.get("volumes", ()) if "persistentVolumeClaim" in v}
        mounts = container.get("volumeMounts", ())
        assert any(m["name"] in claims and out.is_relative_to(m["mountPath"]) for m in mounts)
    version = cluster["rayVersion"]
    assert f"FROM rayproject/ray:{version}-" in text
    assert f"\nray=={version}\n" in (ROOT / "constraints.txt").read_text()


@pytest.mark.parametrize("page", MARKDOWN, ids=NAMES.get)
def test_links_and_named_files_exist(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    relative = [target for target in targets if "://" not in target]
    missing = [target for target in relative if not (page.parent / target).exists()]
    named = re.findall(r"(?<![\w/])((?:nas|scripts|search_spaces|tests|docs)/[\w/]+\.\w+)", text)
    if page in PAGES:
        missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_the_families_page_lists_every_family_under_its_modality() -> None:
    rows = re.findall(r"^\| (\w+) \| (`.*) \|$", (ROOT / "docs" / "families.md").read_text(), re.M)
    listed = {(modality, name) for modality, text in rows for name in re.findall(r"`(\w+)`", text)}
    assert listed == {(family.modality, name) for name, family in load_families().items()}


def test_the_search_page_names_every_sampler_and_the_data_page_every_modality() -> None:
    names = samplers.names()
    assert len(names) > 4
    text = (ROOT / "docs" / "search.md").read_text()
    assert [name for name in names if f"`{name}`" not in text] == ["auto"]
    rows = re.findall(r"^\| (\w+) \|", (ROOT / "docs" / "data.md").read_text(), re.MULTILINE)
    assert set(rows) >= set(get_args(Modality))


def test_every_page_of_docs_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in DOCS if f"(docs/{page.name})" not in readme] == []


@pytest.mark.parametrize("page", MARKDOWN, ids=NAMES.get)
def test_make_targets_exist(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    code = [*blocks(page, ""), *re.findall(r"`(make [^`]+)`", page.read_text())]
    named = re.findall(r"^make (\w+)|(?<= )make (\w+)$", "\n".join(code), re.MULTILINE)
    assert {a or b for a, b in named} <= set(targets)


@pytest.mark.parametrize("page", PAGES, ids=NAMES.get)
def test_sentences_are_short(page: Path) -> None:
    text = BLOCK.sub("\n\n", page.read_text())
    text = re.sub(r"^(\||#|!\[).*$", "\n", text, flags=re.MULTILINE)  # tables, headings, pictures
    text = re.sub(r"`[^`]*`", "CODE", text)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    paragraphs = re.split(r"\n\s*\n|\n(?=- |\d+\. )", text)
    sentences = [s for p in paragraphs for s in re.split(r"(?<=[.!?:;])\s+", " ".join(p.split()))]
    assert [s for s in sentences if len(s.split()) > 25] == []


def test_the_exit_codes_are_those_of_the_errors() -> None:
    from nas import task

    errors: list[Any] = [e for e in vars(task).values() if hasattr(e, "exit_code")]
    text = (ROOT / "docs" / "reference.md").read_text()
    assert {e.exit_code for e in errors} <= set(map(int, re.findall(r"^\| (\d+) ", text, re.M)))
