"""ONNX and torch.export files: the same outputs on real samples, and in eight bits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from default_run import mostly_slow

from nas.data import Dataset, read
from nas.export import graph
from nas.export.trained import Trained
from nas.family import load_families
from nas.task import InputError, Task
from nas.testing import example_datasets
from nas.training import latency
from nas.training.batches import row_inputs
from nas.training.proxy import Proxy

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")
FAMILIES = load_families()


def trained(name: str, dataset: Dataset, folder: Path) -> Trained:
    task = Task(FAMILIES[name].modality, dataset.targets, dataset.profile).with_objectives()
    torch.manual_seed(0)
    proxy = Proxy(name, FAMILIES[name].baseline(task), task).eval()
    (folder / "model.ckpt").write_bytes(b"weights")
    found = Trained(proxy, folder / "model.ckpt", {"provenance": {"candidate": 7}})
    found.__dict__["dataset"] = dataset  # what the recipe beside a model leads to
    return found


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    found = trained("mlp", example_datasets("tabular")["table"], folder)
    exported = graph.write_onnx(found, folder / "table.onnx")
    assert exported.difference <= graph.TOLERANCE
    return found, exported.file


def test_a_file_answers_in_probabilities_for_any_batch(table: tuple[Trained, Path]) -> None:
    found, file = table
    session = latency.onnx_session(file)
    assert [output.name for output in session.get_outputs()] == ["label"]
    for rows in ([0], range(17)):
        inputs = row_inputs(found.dataset, np.array(rows))
        (given,) = session.run(None, {name: v.numpy() for name, v in inputs.items()})
        with torch.inference_mode():
            expected = found.proxy.predictions(found.proxy(**inputs))["label"]
        assert np.abs(given - expected).max() <= 1e-4
        assert np.allclose(given.sum(axis=1), 1, atol=1e-5)


def test_a_file_says_what_it_is(table: tuple[Trained, Path]) -> None:
    found, file = table
    about = latency.onnx_session(file).get_modelmeta().custom_metadata_map
    assert about["family"] == "mlp"
    assert json.loads(about["config"]) == found.proxy.config
    assert json.loads(about["targets"])[0]["labels"] == ["a", "b", "c"]
    assert latency.of_file(file)[0].number == 7


@pytest.mark.slow  # exports
def test_a_file_that_differs_is_not_kept(
    table: tuple[Trained, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "_difference", lambda *_: 0.5)
    with pytest.raises(InputError, match=r"cannot be written as onnx: its outputs differ by 0\.5"):
        graph.write_onnx(table[0], tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


def test_torch_export_needs_none_of_the_code(table: tuple[Trained, Path], tmp_path: Path) -> None:
    found, _ = table
    exported = graph.write_torch_export(found, tmp_path / "table.pt2")
    assert exported.free == "batch"
    module = torch.export.load(tmp_path / "table.pt2").module()
    inputs = row_inputs(found.dataset, np.arange(9))
    with torch.inference_mode():
        expected = found.proxy.predictions(found.proxy(**inputs))["label"]
        (given,) = module(dict(inputs))
    assert np.abs(given.numpy() - expected).max() <= 1e-4
    with pytest.raises(InputError, match=r"a file of torch\.export ends in \.pt2"):
        graph.write_torch_export(found, tmp_path / "table.bin")


@pytest.mark.parametrize("form", mostly_slow(["onnx", "pt2", "static"], ["onnx"]))
def test_numbers_far_from_zero_are_exact(form: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(60, 2)), columns=["a", "b"])
    dataset = read(frame.assign(at=1.7e9 + 1e4 * frame["a"]), target="at")  # seconds since 1970
    found, file = trained("mlp", dataset, tmp_path), tmp_path / f"net.{form}"
    if form == "static":
        assert graph.write_onnx(found, file, "static").int8 is not None
        return
    write = graph.write_onnx if form == "onnx" else graph.write_torch_export
    assert write(found, file).difference <= graph.TOLERANCE
    session = graph._onnx_session(file) if form == "onnx" else graph._program_session(file)
    inputs = row_inputs(dataset, np.arange(9))
    with torch.inference_mode():
        expected = found.proxy.predictions(found.proxy(**inputs))["at"]
    assert np.abs(session(inputs)[0] - expected).max() < 0.1


def test_a_file_of_numbers_is_compared_in_standard_deviations(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(60, 2)), columns=["a", "b"])
    for scale in (1e-6, 1.0, 1e6):
        dataset = read(frame.assign(y=scale * (frame["a"] + 1000)), target="y")
        proxy = trained("mlp", dataset, tmp_path).proxy
        inputs = row_inputs(dataset, np.arange(9))
        with torch.inference_mode():
            expected = proxy.predictions(proxy(**inputs))["y"]
        off = [expected + 0.5 * dataset.targets[0].std]
        found = graph._difference(proxy, lambda _, off=off: off, iter([inputs]))
        assert found == pytest.approx(0.5, rel=0.5)


@pytest.mark.parametrize("how", mostly_slow(["dynamic", "static"], ["dynamic"]))
def test_eight_bits_are_measured(
    how: graph.Int8, table: tuple[Trained, Path], tmp_path: Path
) -> None:
    exported = graph.write_onnx(table[0], tmp_path / "small.onnx", how)
    assert exported.int8 is not None
    assert exported.int8.metric == table[0].task.quality.metric
    assert all(ms > 0 for ms in exported.int8.latency_ms)
    assert exported.file.stat().st_size > 0


def test_eight_bits_are_calibrated_and_judged_on_samples_of_all_classes(
    table: tuple[Trained, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts are sorted as the data are, so that the first are often of one class."""
    parts, given = table[0].dataset.parts, graph._inputs
    drawn: dict[int, list[int]] = {}
    seen: list[list[int]] = []

    def some_rows(rows: np.ndarray, most: int) -> np.ndarray:
        drawn[most] = rows[-3:].tolist()
        return rows[-3:]

    def inputs(trained: Trained, rows: np.ndarray) -> dict[str, torch.Tensor]:
        seen.append(rows.tolist())
        return given(trained, rows)

    monkeypatch.setattr(graph, "some_rows", some_rows)
    monkeypatch.setattr(graph, "_inputs", inputs)
    graph.write_onnx(table[0], tmp_path / "small.onnx", "static")
    last = {graph.CALIBRATED: parts["train"][-3:], graph.SCORED: parts["val"][-3:]}
    assert drawn == {most: rows.tolist() for most, rows in last.items()}
    assert all([row] in seen for row in drawn[graph.CALIBRATED])
    assert drawn[graph.SCORED] in seen


def test_a_network_that_no_file_holds_is_one_line_before_it_is_written(
    table: tuple[Trained, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "MOST_BYTES", 100)
    with pytest.raises(InputError, match="write it with --torch-export"):
        graph.write_onnx(table[0], tmp_path / "large.onnx")
    assert not (tmp_path / "large.onnx").exists()


def test_latency_of_a_file_is_measured_as_it_is(table: tuple[Trained, Path]) -> None:
    from nas.run import measure_file

    how = {"backend": "onnxruntime", "device": "cpu", "threads": 1, "batches": [1], "name": "x"}
    found = measure_file(table[1], **how)
    assert found["candidates"]["7"]["latency"]["1"]["ms"] > 0


def test_a_file_of_others_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match="is no file of ONNX that runs here"):
        latency.of_file(tmp_path / "no.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_leaves_in_both_forms(name: str, tmp_path: Path) -> None:
    for dataset in example_datasets(FAMILIES[name].modality).values():
        found = trained(name, dataset, tmp_path)
        assert graph.write_onnx(found, tmp_path / "a.onnx").difference <= graph.TOLERANCE
        assert graph.write_torch_export(found, tmp_path / "a.pt2").difference <= graph.TOLERANCE
