"""The picture of a network: what is drawn, what is folded, and that no name breaks it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
import torch
from default_run import one_of_each_modality
from torch import Tensor, nn

from nas.export.diagram import diagram
from nas.family import load_families
from nas.task import Task
from nas.testing import example_datasets, sample_inputs
from nas.training.cost import analyse

SVG = "{http://www.w3.org/2000/svg}"


def row(name: str, kind: str, output: list[int], params: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "output": output, "params": params, **more}


def boxes(svg: str) -> list[ElementTree.Element]:
    return [r for r in ElementTree.fromstring(svg).iter(f"{SVG}rect") if r.get("data-layer")]


def texts(svg: str) -> list[str]:
    return [str(t.text) for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_equal_blocks_are_drawn_once_and_counted() -> None:
    rows = [row(f"blocks.{i}.{j}", "Linear", [8], 72) for i in range(5) for j in range(2)]
    svg = diagram([*rows, row("blocks.5.0", "Linear", [4], 36), row("head", "Linear", [2], 10)])
    assert [r.get("data-layer") for r in boxes(svg)] == [
        "blocks.0.0", "blocks.0.1", "blocks.5.0", "head",
    ]  # fmt: skip
    assert "× 5" in texts(svg)


def test_a_box_is_as_high_as_the_root_of_its_fraction_of_the_parameters() -> None:
    rows = [row("a", "Linear", [8], 0), row("b", "Linear", [8], 250), row("c", "Linear", [8], 1000)]
    none, quarter, most = (float(str(r.get("height"))) for r in boxes(diagram(rows)))
    assert (quarter - none) / (most - none) == pytest.approx(0.5, abs=0.01)


def test_shapes_stand_where_they_change() -> None:
    rows = [row("a", "Linear", [8, 3], 1), row("b", "ReLU", [8, 3]), row("c", "Linear", [4], 1)]
    assert [t for t in texts(diagram(rows)) if t in ("8 × 3", "4")] == ["8 × 3", "4"]


def test_names_are_escaped() -> None:
    svg = diagram([row('x"><script>alert(1)</script>', "<b>Linear</b>", [8], 1)], "<i>&")
    assert "<script" not in svg
    assert "<b>" not in svg
    assert ElementTree.fromstring(svg).find(f"{SVG}title").text == "<i>&"  # type: ignore[union-attr]


class Residual(nn.Module):
    def __init__(self, projected: bool) -> None:
        super().__init__()
        self.entry = nn.Linear(6, 6)
        self.branch = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
        self.shortcut = nn.Linear(6, 6) if projected else nn.Identity()
        self.root, self.other = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        x = self.shortcut(x) + self.branch(x)
        y: Tensor = self.root(x) + self.other(x)  # two ways of one length: no shortcut
        return y


@pytest.mark.parametrize("projected", [False, True])
def test_a_shortcut_goes_from_where_two_ways_part_to_where_they_meet(projected: bool) -> None:
    layers = analyse(lambda: Residual(projected), {"x": torch.zeros(2, 6)})["layers"]
    names = [layer["name"] for layer in layers]
    ends = {layer["name"]: [names[i] for i in layer.get("skips", ())] for layer in layers}
    assert {name: begin for name, begin in ends.items() if begin} == {"branch.2": ["entry"]}
    assert diagram(layers).count("net-shortcut") == 1


@pytest.mark.parametrize("name", one_of_each_modality())
def test_every_baseline_has_a_picture_with_all_its_parts(name: str) -> None:
    family = load_families()[name]
    dataset = next(iter(example_datasets(family.modality).values()))
    task = Task(family.modality, dataset.targets, dataset.profile).with_objectives()
    config = family.baseline(task)
    layers = analyse(lambda: family.build(config, task), sample_inputs(task, 2))["layers"]
    svg = diagram(layers, name)
    drawn = {str(r.get("data-layer")).split(".")[0] for r in boxes(svg)}
    assert {str(r["name"]).split(".")[0] for r in layers if r["params"] and r["output"]} <= drawn
