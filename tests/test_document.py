"""The design document: figures read off a run, a safe page, a scaling plan that builds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from default_run import mostly_slow

from nas.export import document as document_of
from nas.export import scaling
from nas.export.document import _ROLES, design_of_run, json_schema, write_design
from nas.export.document_page import markdown, page
from nas.export.weaknesses import calibration
from nas.family import load_families
from nas.rulebook import typical_task
from nas.run import Finished, Run
from nas.task import InputError, Task
from nas.testing import example_datasets, sample_inputs
from nas.training import cost

RUN = Path(__file__).parent / "earlier_format" / "run"
FAMILIES = load_families()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with simple models beside it."""
    folder = tmp_path_factory.mktemp("runs") / "wine"
    shutil.copytree(RUN, folder)
    return folder


@pytest.fixture(scope="module")
def document(run: Path) -> dict[str, Any]:
    return design_of_run(Run(run)).to_dict()


@pytest.mark.parametrize("number", [None, 1])
def test_a_document_is_of_the_network_that_the_search_ended_with(
    number: int | None, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several as one, in RUN/model, rather than the best of them."""
    asked: list[int | None] = []

    def opened(folder: Path, number: int | None = None) -> None:
        asked.append(number)
        raise InputError("not trained")

    found = Run(run)
    best = found.best().number
    ended = Finished(best, 3, 3, {"test": {"accuracy": 0.9}}, "", (), 2)
    monkeypatch.setattr(Run, "finished", property(lambda _: ended))
    monkeypatch.setattr(document_of, "open_trained", opened)
    design_of_run(found, number)
    assert asked == [number]


def test_a_document_has_seven_parts_and_keeps_to_its_schema(
    document: dict[str, Any], run: Path, tmp_path: Path
) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(document, json_schema())
    titles = re.findall(r"^## (\d)\. ", markdown(document), re.MULTILINE)
    assert titles == list("1234567")
    write_design(design_of_run(Run(run)), tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"design.json", "design.schema.json", "design.md", "design.html"}
    assert json.loads((tmp_path / "design.json").read_text()) == document


def test_its_figures_are_those_of_the_run(document: dict[str, Any], run: Path) -> None:
    opened = Run(run)
    best = opened.best()
    assert document["candidate"] == best.number
    assert document["parameters"]["params"] == best.metrics["params"]
    assert (
        sum(layer["params"] for layer in document["architecture"]["layers"])
        == (best.metrics["params"])
    )
    assert document["baselines"]["value"] == best.metrics["accuracy"]
    names = {rival["name"] for rival in document["baselines"]["rivals"]}
    assert names >= {row["name"] for row in opened.baselines()}
    assert document["compute"]["candidates"] == len(opened.candidates())


@pytest.mark.slow  # three processes
def test_the_dashboard_makes_the_same_document_in_a_process_of_its_own(
    run: Path, document: dict[str, Any]
) -> None:
    command = [sys.executable, "-m", "nas.dashboard.design", str(run)]
    made = subprocess.run([*command, str(document["candidate"])], capture_output=True, check=False)
    assert (made.returncode, json.loads(made.stdout)) == (0, json.loads(json.dumps(document)))
    refused = subprocess.run([*command, "99999"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stdout.startswith("candidate 99999 ")


def test_a_run_that_changes_changes_its_document(run: Path, document: dict[str, Any]) -> None:
    file = run / "baselines.json"
    before = file.read_text()
    rows = json.loads(before)
    rows[0]["metrics"]["accuracy"] = 0.123456
    file.write_text(json.dumps(rows))
    try:
        changed = design_of_run(Run(run))
    finally:
        file.write_text(before)
    assert "0.1235" in markdown(changed.to_dict())
    assert "0.1235" not in markdown(document)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(text: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(text)
    return parser.found


def test_the_page_loads_nothing_and_runs_no_script(document: dict[str, Any]) -> None:
    found = tags(page(document))
    assert not {"script", "link", "img", "iframe", "object", "form"} & {tag for tag, _ in found}
    for _, attributes in found:
        assert not {"src", "href", "style", "onclick", "onload"} & attributes.keys()
    policy = next(a["content"] for _, a in found if "http-equiv" in a)
    assert str(policy).startswith("default-src 'none'; style-src 'sha256-")


def test_names_in_the_page_are_escaped(document: dict[str, Any]) -> None:
    evil = "<script>alert(1)</script>"
    changed = json.loads(json.dumps(document))
    changed["title"] = evil
    changed["task"]["notes"] = [evil]
    changed["architecture"]["layers"][0] |= {"name": f'x"{evil}', "type": evil}
    assert "<script" not in page(changed)
    assert "<script" not in markdown(changed)


def test_names_in_the_markdown_are_no_marks(document: dict[str, Any]) -> None:
    evil = r"a|b*c_d`e`[f](g)!\h&amp;#i<b>"
    shown = r"a\|b\*c\_d\`e\`\[f\](g)\!\\h\&amp;\#i&lt;b\>"
    changed = json.loads(json.dumps(document))
    changed["title"] = evil
    target = {"target": "y", "residuals": [], "interval": None, "calibration": []}
    confusion = {"classes": [evil], "confusion": [[3]], "worst": []}
    changed["weaknesses"] = {"samples": 3, "targets": [target | confusion]}
    lines = markdown(changed).splitlines()
    assert lines[0] == "# " + shown.replace(r"\|", "|")
    head, rule, row = lines[lines.index(f"| {shown} | 3 |") - 2 :][:3]
    assert head == f"| true, below; predicted, right | {shown} |"
    assert (rule, row) == ("|---|---|", f"| {shown} | 3 |")


def test_the_page_can_be_read_without_seeing_it(document: dict[str, Any]) -> None:
    text = page(document)
    found = tags(text)
    assert dict(found[0][1]) == {"lang": "en"}
    names = [tag for tag, _ in found]
    assert names.count("h1") == 1
    assert "h3" not in names  # no heading is left out on the way down
    svg = re.search(r"<svg.*?</svg>", text, re.DOTALL)
    assert svg is not None
    picture = ElementTree.fromstring(svg[0])
    assert picture.get("role") == "img"
    assert str(picture[0].text).startswith("The layers of the")
    for tag, attributes in found:
        if tag == "section":
            assert f'id="{attributes["aria-labelledby"]}"' in text
        if tag == "th":
            assert attributes["scope"] == "col"


TRAINING = {"lr", "weight_decay", "batch_size", "augment", "masks", "layer_decay", "dropout"}


@pytest.mark.parametrize("name", FAMILIES)
def test_what_only_a_training_uses_stands_in_the_recipe_and_not_in_the_architecture(
    name: str,
) -> None:
    params = FAMILIES[name].space(typical_task(FAMILIES[name].modality)).params
    found = {p.name for p in params if p.name in TRAINING and not _ROLES.keys() & {*p.why}}
    assert found == set()


def test_a_candidate_that_is_not_complete_has_no_document(run: Path) -> None:
    with pytest.raises(InputError, match=r"candidate 99 of .* is not complete"):
        design_of_run(Run(run), 99)


def test_calibration_is_the_mean_distance_of_confidence_and_accuracy() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1.0, 50_000)
    assert calibration(sure, rng.random(50_000) < sure)[1] < 0.01
    assert calibration(sure, rng.random(50_000) < sure - 0.2)[1] == pytest.approx(0.2, abs=0.01)


# The scaling plan -----------------------------------------------------------------------


def task_of(name: str) -> Task:
    dataset = next(iter(example_datasets(FAMILIES[name].modality).values()))
    return Task(FAMILIES[name].modality, dataset.targets, dataset.profile).with_objectives()


FIRST = {family.modality: name for name, family in reversed(FAMILIES.items())}


@pytest.mark.parametrize("name", mostly_slow([*FIRST.values(), "vit"], ["mlp", "vit"]))
def test_a_plan_grows_with_the_data(name: str) -> None:
    task = task_of(name)
    config = FAMILIES[name].baseline(task)
    steps = scaling.plan(name, config, task, seconds=10.0)
    assert [step.factor for step in steps] == [2, 5, 10]
    params = [step.params for step in steps]
    assert params == sorted(params)
    assert all(step.seconds is not None and step.seconds > 10.0 for step in steps)
    assert steps[2].samples == 10 * task.profile.n_train


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("factor", scaling.FACTORS)
def test_every_step_builds_and_trains_one_step(name: str, factor: int) -> None:
    task = task_of(name)
    config = FAMILIES[name].baseline(task)
    step = next(s for s in scaling.plan(name, config, task) if s.factor == factor)
    torch.manual_seed(0)
    network = FAMILIES[name].build(step.config, task).train()
    assert cost.parameters(network) == step.params
    network(**sample_inputs(task, 4)).float().square().mean().backward()
    optimizer = torch.optim.AdamW(network.parameters(), lr=float(step.config["lr"]))
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in network.parameters())


def test_a_factor_of_one_is_no_scaling() -> None:
    task = task_of("mlp")
    with pytest.raises(InputError, match="a factor over 1, got 1"):
        scaling.scale("mlp", FAMILIES["mlp"].baseline(task), task, 1)


def test_the_rate_follows_the_batch_and_the_width() -> None:
    task = replace(task_of("mlp"))
    config = {**FAMILIES["mlp"].baseline(task), "batch_size": 64, "width": 64, "lr": 0.001}
    scaled, _ = scaling.scale("mlp", config, task, 10)
    expected = 0.001 * (scaled["batch_size"] / 64) ** 0.5 * 64 / scaled["width"]
    assert scaled["lr"] == pytest.approx(expected)
