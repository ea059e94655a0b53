"""Standalone folders: plain PyTorch that needs nothing of this project, and predicts the same."""

from __future__ import annotations

import ast
import csv
import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image

from nas import recipe as recipes
from nas import show
from nas.candidate import Candidate
from nas.data import Dataset, read
from nas.export import standalone
from nas.export.folder.files import files_of
from nas.export.network_source import network_source
from nas.export.standalone import preprocess_source, write_standalone
from nas.export.trained import Trained, open_trained
from nas.family import load_families
from nas.model import _answers, load
from nas.task import InputError, SelfCheckFailed, Target, Task
from nas.testing import example_datasets
from nas.training.batches import row_inputs
from nas.training.calibration import calibrate
from nas.training.proxy import Proxy, channels_last, load_proxy

pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
FAMILIES = load_families()
FIRST = {family.modality: name for name, family in reversed(FAMILIES.items())}
# Put before a script: as in an environment that has neither this project nor Lightning.
ALONE = """
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nas", "search_spaces", "pytorch_lightning", "lightning_fabric"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def alone(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A script run where neither this project nor Lightning can be imported."""
    command = [sys.executable, "-I", "-c", ALONE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def proxy_of(name: str, dataset: Dataset, **changed: object) -> Proxy:
    task = Task(FAMILIES[name].modality, dataset.targets, dataset.profile).with_objectives()
    torch.manual_seed(0)
    return Proxy(name, {**FAMILIES[name].baseline(task), **changed}, task).eval()


def trained(
    folder: Path,
    proxy: Proxy,
    dataset: Dataset,
    source: str | None = None,
    how: dict[str, Any] | None = None,
) -> Trained:
    """As `nas train` leaves it: a checkpoint with its recipe beside; the source is read as ``how``
    says."""
    import pytorch_lightning as pl

    trainer = pl.Trainer(logger=False, accelerator="cpu", max_epochs=0, barebones=True)
    trainer.strategy.connect(proxy)
    folder.mkdir(parents=True, exist_ok=True)
    trainer.save_checkpoint(folder / "model.ckpt", weights_only=True)
    quality = proxy.task.quality.metric
    candidate = Candidate(3, proxy.family, proxy.config, 1, epochs=2, metrics={quality: 0.9})
    if source is None:
        dataset.save(folder / "data")
        source = str(folder / "data")
    origin = {"source": source, "modality": dataset.modality, **(how or {})}
    if "target" in origin:
        origin["target"] = [origin["target"]]
    elif dataset.modality in ("tabular", "text", "multimodal"):
        origin["target"] = [dataset.targets[0].name]
    made = recipes.make(candidate, proxy.task, origin, {})
    recipes.write(json.loads(json.dumps(made)), folder / "recipe.yaml")
    return open_trained(folder)


def modules_of(text: str) -> set[str]:
    """The packages that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).split(".")[0])
    return found - set(sys.stdlib_module_names)


def rebuilt(proxy: Proxy, inputs: dict[str, torch.Tensor]) -> tuple[str, torch.nn.Module]:
    from nas.training.proxy import build_network

    text = network_source(
        lambda: build_network(proxy.family, proxy.config, proxy.task),
        proxy.network,
        inputs,
        f"alone_{proxy.family}",
    )
    module = types.ModuleType(f"alone_{proxy.family}")
    sys.modules[module.__name__] = module  # where dataclasses look for their annotations
    exec(compile(text, module.__name__, "exec"), module.__dict__)
    network = channels_last(module.build().eval())
    network.load_state_dict(proxy.network.state_dict())
    return text, network


@pytest.mark.parametrize("name", FIRST.values())
def test_the_code_of_a_network_imports_torch_alone_and_gives_the_same(name: str) -> None:
    for dataset in example_datasets(FAMILIES[name].modality).values():
        proxy = proxy_of(name, dataset)
        with torch.no_grad():
            for p in proxy.network.parameters():  # branches start at zero
                p.add_(0.02 * torch.randn_like(p))
        inputs = row_inputs(dataset, dataset.parts["train"][:3])
        text, network = rebuilt(proxy, inputs)
        assert modules_of(text) == {"torch"}
        other = row_inputs(dataset, dataset.parts["test"][:5])
        with torch.inference_mode():
            assert torch.equal(network(**other), proxy.network(**other))


def test_only_the_classes_that_a_network_uses_are_written() -> None:
    dataset = example_datasets("images")["images"]
    proxy = proxy_of("resnet", dataset)
    text, _ = rebuilt(proxy, row_inputs(dataset, dataset.parts["train"][:2]))
    classes = {n.name for n in ast.parse(text).body if isinstance(n, ast.ClassDef)}
    assert {"ConvNet", "ImageInput", "GlobalPool"} <= classes
    assert not classes & {"_RMSNorm", "_LayerNorm2d", "Attention", "EfficientNet"}
    assert "def features" not in text  # of fusions alone
    assert "raise ValueError" not in text  # what was built needs no check


def test_a_value_that_is_no_code_is_refused() -> None:
    class Holder(torch.nn.Module):
        def __init__(self, table: torch.Tensor) -> None:
            super().__init__()
            self.table = table

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.table

    network = Holder(torch.eye(2))
    with pytest.raises(InputError, match="given a Tensor, which cannot be written as code"):
        network_source(lambda: Holder(torch.eye(2)), network, {"x": torch.ones(1, 2)}, "x")


class Labelled(torch.nn.Module):
    def __init__(self, labels: dict[str, str]) -> None:
        super().__init__()
        self.labels = labels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_texts_that_a_network_was_given_are_the_same_in_its_code() -> None:
    labels = {name: name for name in ('a"', "b'", "c\nimport os", "d\\", "e\u2028", "f\udc80", "g")}
    network = Labelled(labels)
    text = network_source(lambda: Labelled(labels), network, {"x": torch.ones(1)}, "alone")
    module = types.ModuleType("alone")
    exec(compile(text, "alone", "exec"), module.__dict__)
    assert module.build().labels == labels


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Trained]:
    """A table in a file, a network for it, and its standalone folder."""
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    label = np.arange(60) % 3
    frame = pd.DataFrame(
        {
            "size": rng.normal(label, 1.0).round(3),
            "price": [f"${1000 + 10 * i:,}.50" for i in range(60)],
            "colour": np.where(rng.random(60) < 0.7, np.array(["a", "b", "c"])[label], "a"),
            "label": np.array([7, 8, 9])[label],
        }
    )
    frame.loc[::9, "size"] = np.nan
    frame.to_csv(folder / "data.csv", index=False)
    dataset = read(folder / "data.csv", target="label")
    found = trained(folder / "model", proxy_of("mlp", dataset), dataset, str(folder / "data.csv"))
    return folder, write_standalone(found, folder / "alone"), found


def test_a_folder_predicts_the_same_where_nothing_of_this_project_is(
    table: tuple[Path, Path, Trained],
) -> None:
    folder, made, found = table
    done = alone(made / "predict.py", folder / "data.csv", "--out", folder / "out.csv")
    assert done.returncode == 0, done.stderr
    ours, _ = load(found.checkpoint).frame(folder / "data.csv")
    theirs = pd.read_csv(folder / "out.csv")
    assert theirs["label"].tolist() == ours["label"].tolist()
    for column in (c for c in ours if c.startswith("probability")):
        assert np.abs(theirs[column] - ours[column]).max() <= 1e-5


def sines(samples: int, length: int = 24) -> np.ndarray:
    """Sequences (n, length) of a class that is 0, 1, 2, 0 … by their frequency."""
    rng = np.random.default_rng(0)
    rate = 0.2 + 0.2 * (np.arange(samples) % 3)
    return np.sin(np.arange(length) * rate[:, None]) + 0.1 * rng.normal(size=(samples, length))


def archive(folder: Path) -> tuple[Path, dict[str, Any]]:
    names = np.array(["a", "b", "c"])
    for part, samples in (("TRAIN", 60), ("TEST", 20)):
        rows = [
            f"{','.join(f'{v:.4f}' for v in row[: len(row) - i % 5])}:{names[i % 3]}"
            for i, row in enumerate(sines(samples))
        ]
        head = "@problemName waves\n@classLabel true a b c\n@data\n"
        (folder / f"waves_{part}.ts").write_text(head + "\n".join(rows) + "\n")
    return folder, {}


def wide(folder: Path) -> tuple[Path, dict[str, Any]]:
    frame = pd.DataFrame(sines(60), columns=[f"t{i}" for i in range(24)])
    frame.assign(label=np.arange(60) % 3).to_csv(folder / "wide.csv", index=False)
    return folder / "wide.csv", {"target": "label", "modality": "series"}


def long(folder: Path) -> tuple[Path, dict[str, Any]]:
    frame = pd.DataFrame({"value": sines(60).ravel(), "who": np.repeat(np.arange(60), 24)})
    frame["step"] = np.tile(np.arange(24), 60)
    frame["label"] = frame["who"] % 3
    frame.sample(frac=1, random_state=0).to_csv(folder / "long.csv", index=False)
    return folder / "long.csv", {"target": "label", "sequence": "who", "time": "step"}


def forecast(folder: Path) -> tuple[Path, dict[str, Any]]:
    frame = pd.DataFrame({"load": np.sin(np.arange(300) / 3) + np.arange(300) / 100})
    frame.to_csv(folder / "load.csv", index=False)
    return folder / "load.csv", {"target": "load", "horizon": 3}


def arrays(folder: Path) -> tuple[Path, dict[str, Any]]:
    np.savez(folder / "waves.npz", x=sines(60)[..., None], y=np.arange(60) % 3)
    return folder / "waves.npz", {"modality": "series"}


def tables(folder: Path) -> tuple[Path, dict[str, Any]]:
    for i, row in enumerate(sines(60)):
        place = folder / "tables" / "abc"[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"value": row, "other": row[::-1]}).to_csv(place / f"{i}.csv", index=False)
    return folder / "tables", {"modality": "series"}


@pytest.mark.slow  # a training, an export and two predictions in processes of their own
@pytest.mark.parametrize("form", [archive, forecast, wide, long, arrays, tables])
def test_a_folder_reads_sequences_in_the_form_of_the_training_data(
    form: Callable[[Path], tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    source, how = form(tmp_path)
    dataset = read(source, **how)
    found = trained(
        tmp_path / "model", proxy_of("inception_time", dataset), dataset, str(source), how
    )
    made = write_standalone(found, tmp_path / "alone")
    assert json.loads((made / "examples" / "predictions.json").read_text())["source"]
    new = source / "waves_TEST.ts" if form is archive else source
    done = alone(made / "predict.py", new, "--out", tmp_path / "out.csv")
    assert done.returncode == 0, done.stderr
    theirs, (ours, _) = pd.read_csv(tmp_path / "out.csv"), load(found.checkpoint).frame(new)
    assert len(theirs) == len(ours)
    assert ("file_name" in theirs) == ("file_name" in ours)
    for column in ours:
        if column != "file_name" and ours[column].dtype.kind == "f":
            assert np.abs(theirs[column] - ours[column]).max() <= 1e-5
        else:
            assert theirs[column].astype(str).tolist() == ours[column].astype(str).tolist()


@pytest.mark.slow  # a training, an export and two predictions in processes of their own
def test_a_folder_of_an_archive_of_graphs_is_written_without_raw_samples(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ends = np.arange(61) * 4
    ring = np.tile(np.array([[0, 1], [1, 2], [2, 3], [3, 0]]), (60, 1))
    nodes = rng.normal(size=(240, 2)).astype(np.float32)
    made_of = {"node_feat": nodes, "edges": ring, "node_ptr": ends, "edge_ptr": ends}
    np.savez(tmp_path / "graphs.npz", **made_of, y=rng.normal(size=60))
    dataset = read(tmp_path / "graphs.npz")
    source = str(tmp_path / "graphs.npz")
    found = trained(tmp_path / "model", proxy_of("gcn", dataset), dataset, source)
    made = write_standalone(found, tmp_path / "alone")
    assert json.loads((made / "examples" / "predictions.json").read_text())["source"] == ""
    done = alone(made / "predict.py", source, "--out", tmp_path / "out.csv")
    assert done.returncode == 0, done.stderr
    ours, _ = load(found.checkpoint).frame(tmp_path / "graphs.npz")
    theirs = pd.read_csv(tmp_path / "out.csv")[dataset.targets[0].name]
    assert np.abs(theirs - ours[dataset.targets[0].name]).max() <= 1e-5


@pytest.mark.slow  # a training, an export and two predictions in processes of their own
def test_a_folder_gives_the_intervals_of_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=200), "price": rng.normal(size=200)})
    frame.to_csv(tmp_path / "data.csv", index=False)
    dataset = read(tmp_path / "data.csv", target="price")
    found = trained(
        tmp_path / "model", proxy_of("mlp", dataset), dataset, str(tmp_path / "data.csv")
    )
    calibrate(load_proxy(found.checkpoint), found.checkpoint, dataset)
    made = write_standalone(open_trained(tmp_path / "model"), tmp_path / "alone")
    given = (tmp_path / "data.csv", "--out", tmp_path / "out.csv", "--interval")
    done = alone(made / "predict.py", *given, "0.8")
    assert done.returncode == 0, done.stderr
    theirs = pd.read_csv(tmp_path / "out.csv")
    ends = load(found.checkpoint).predict_interval(tmp_path / "data.csv", 0.8)
    assert np.abs(theirs[["low[price]", "high[price]"]].to_numpy() - ends).max() <= 1e-5
    done = alone(made / "predict.py", *given, "0.99")
    assert done.stderr.startswith("error: ")
    assert "too few for the level 0.99" in done.stderr


def test_a_folder_repeats_ten_recorded_predictions(table: tuple[Path, Path, Trained]) -> None:
    _, made, _ = table
    recorded = json.loads((made / "examples" / "predictions.json").read_text())
    assert [len(values) for values in recorded["predictions"].values()] == [10]
    done = alone(made / "test_predictions.py")
    assert done.stdout == "the recorded predictions are repeated\n", done.stderr


@pytest.fixture
def unrepeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's own test is not run when it is written, as other tests see it run."""
    monkeypatch.setattr(standalone, "_repeat", lambda *_: None)


@pytest.mark.usefixtures("unrepeated")
def test_a_folder_may_be_read_by_others_and_keeps_nothing_of_another_network(
    table: tuple[Path, Path, Trained], tmp_path: Path
) -> None:
    _, _, found = table
    made = tmp_path / "alone"
    (made / "examples").mkdir(parents=True)
    (made / "examples" / "mine.txt").touch()
    made.chmod(0o755)
    write_standalone(found, made)
    assert (made / "examples" / "mine.txt").exists(), "it was no network's folder"
    (made / "errors.json").write_text("{}")
    write_standalone(found, made)
    assert made.stat().st_mode & 0o777 == 0o777 & ~umask()
    assert not (made / "errors.json").exists()
    assert not (made / "examples" / "mine.txt").exists()


def umask() -> int:
    """The permissions that this process takes from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_folder_says_what_it_needs_and_has_a_model_card(
    table: tuple[Path, Path, Trained],
) -> None:
    _, made, _ = table
    needed = (made / "requirements.txt").read_text().split()
    assert [line.partition(">")[0] for line in needed] == ["pandas", "safetensors", "torch"]
    card = (made / "README.md").read_text()
    assert card.startswith("---\nlicense: other\n")
    assert "pipeline_tag: tabular-classification" in card
    labels = json.loads((made / "labels.json").read_text())
    assert labels[0]["labels"] == [7, 8, 9]


@pytest.mark.usefixtures("unrepeated")
def test_names_of_the_data_stay_text_in_the_files_of_a_folder(tmp_path: Path) -> None:
    name = 'y"""\nraise SystemExit("ran")\n"""\\'
    label = np.array(["a|b", "c`d", "[e](f)"])[np.arange(60) % 3]
    dataset = read(pd.DataFrame({"size": np.arange(60.0), name: label}), target=name)
    found = trained(tmp_path / "model", proxy_of("mlp", dataset), dataset)
    made = write_standalone(found, tmp_path / "alone")
    code = ast.parse((made / "model.py").read_text())
    assert ast.get_docstring(code, clean=False) == f"mlp that predicts {name} of tabular."
    card = (made / "README.md").read_text()
    assert "\nraise" not in card
    assert r"(\[e](f), a\|b, c\`d)" in card


@pytest.mark.usefixtures("unrepeated")
def test_examples_of_a_manifest_hold_the_files_of_its_folder_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    rows = range(40)
    for place in ("a", "b"):
        (data / place).mkdir(parents=True)
    photos = [f"{'ab'[i % 2]}/{i // 2}.png" for i in rows]
    photos[3] = "../outside.png"
    for i, photo in zip(rows, photos, strict=True):
        Image.fromarray(np.full((8, 8), 5 * i, np.uint8)).save(data / photo)
    (tmp_path / "secret.txt").write_text("secret")
    texts = [f"the photo number {i} shows a plain surface" for i in rows]
    texts[1:3] = "../secret.txt", "ä" * 199  # in bytes longer than a name of a file may be
    table = pd.DataFrame({"photo": photos, "about": texts, "label": np.arange(40) % 2})
    table.to_csv(data / "manifest.csv", index=False)
    dataset = read(data / "manifest.csv", target="label")
    proxy = proxy_of(FIRST["multimodal"], dataset)
    how = {"target": "label"}
    found = trained(tmp_path / "model", proxy, dataset, str(data / "manifest.csv"), how)
    examples = write_standalone(found, tmp_path / "alone") / "examples"
    written = pd.read_csv(examples / "examples.csv")
    assert written["about"].tolist() == texts[:10]
    assert written["photo"].isna().tolist() == [i == 3 for i in range(10)]
    for photo, copy in zip(photos, written["photo"], strict=False):
        if isinstance(copy, str):
            assert (examples / copy).read_bytes() == (data / photo).read_bytes()
    assert len([*examples.glob("*.png")]) == 9
    assert not [*examples.glob("*.txt")]


def test_a_folder_compares_numbers_in_standard_deviations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.export.folder import inputs

    (tmp_path / "examples").mkdir()
    (tmp_path / "repeat.py").write_text(Path(inputs.__file__).with_name("repeat.py").read_text())
    about = {"name": "at", "kind": "regression", "mean": 1.7e9, "std": 100.0}
    (tmp_path / "labels.json").write_text(json.dumps([about]))
    recorded = {"source": "x.csv", "predictions": {"at": [1.7e9, 1.7e9 + 50]}}
    (tmp_path / "examples" / "predictions.json").write_text(json.dumps(recorded))
    found = np.array([1.7e9, 1.7e9 + 50])
    own = types.SimpleNamespace(load_network=None, predict=lambda _: ({"at": found}, []))
    monkeypatch.setitem(sys.modules, "predict", own)
    monkeypatch.setattr(sys, "path", [*sys.path])
    repeated = runpy.run_path(str(tmp_path / "repeat.py"))
    repeated["test_the_files_give_the_recorded_predictions"]()
    found[1] += 1
    with pytest.raises(AssertionError, match=r"predictions of at differ by 0\.01"):
        repeated["test_the_files_give_the_recorded_predictions"]()


def test_files_that_a_table_lists_are_called_as_it_calls_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.export import standalone
    from nas.export.folder import inputs

    for name in (*(f"data/{'ab'[i % 2]}/{i}.png" for i in range(20)), "other/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 5 * len(name), np.uint8)).save(tmp_path / name)
    profile = json.loads(json.dumps(standalone._needed(read(tmp_path / "data").profile)))
    settings = {"modality": "images", "as_written": [], "profile": profile}
    monkeypatch.setattr(inputs, "settings", lambda: settings)
    listed = ["a/0.png", str(tmp_path / "other" / "x.png")]
    table = tmp_path / "data" / "new.csv"
    pd.DataFrame({"file_name": listed}).to_csv(table, index=False)
    assert inputs.load(table)[1] == listed
    assert inputs.load(tmp_path / "other")[1] == ["x.png"]
    assert inputs.load(tmp_path / "other" / "x.png")[1] == ["x.png"]


def touched(folder: Path, *names: str) -> list[Path]:
    """Empty files of these names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def test_a_folder_reads_the_files_that_people_see(tmp_path: Path) -> None:
    seen = touched(tmp_path, "a/0.PNG", "b/1.png")
    touched(tmp_path, ".ipynb_checkpoints/0.png", "__MACOSX/._0.png", "b/._1.png", "b/notes.txt")
    assert files_of(tmp_path, (".png",)) == seen
    assert files_of(tmp_path, (".off", ".ply"), (".txt",)) == [tmp_path / "b" / "notes.txt"]
    with pytest.raises(InputError, match=r"no file with one of the endings \.off, \.txt"):
        files_of(tmp_path / "a", (".off",), (".txt",))


def test_files_that_a_table_lists_may_lie_in_one_folder_beside_it(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file_name,label\n 0.png,a\n1.png ,b\n")
    listed = touched(tmp_path, "pictures/0.png", "pictures/1.png")
    touched(tmp_path, "others/0.png")
    assert files_of(tmp_path, (".png",)) == listed
    assert files_of(tmp_path / "metadata.csv", (".png",)) == listed
    touched(tmp_path, "others/1.png")
    with pytest.raises(InputError, match="'others', 'pictures' all hold the files"):
        files_of(tmp_path, (".png",))


def test_a_table_that_lists_no_files_may_be_a_sample_itself(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("value\n1\n2\n")
    assert files_of(tmp_path / "one.csv", (".csv", ".tsv")) == [tmp_path / "one.csv"]
    with pytest.raises(InputError, match="has no column file_name or file or path"):
        files_of(tmp_path / "one.csv", (".png",))


def targa(file: Path, i: int) -> Path:
    Image.fromarray(np.full((8, 8, 3), 4 * i, np.uint8)).save(file.with_suffix(".tga"))
    return file.with_suffix(".tga")


def aiff(file: Path, i: int) -> Path:
    soundfile.write(file.with_suffix(".aiff"), np.sin(np.arange(2000) / (5 + i)) / 2, 8000)
    return file.with_suffix(".aiff")


def text_cloud(file: Path, i: int) -> Path:
    np.savetxt(file.with_suffix(".txt"), np.random.default_rng(i).normal(size=(30, 3)))
    return file.with_suffix(".txt")


@pytest.mark.slow  # an export and two predictions in processes of their own
@pytest.mark.parametrize(
    ("modality", "make"), [("images", targa), ("audio", aiff), ("pointclouds", text_cloud)]
)
def test_a_folder_reads_every_format_that_the_project_reads(
    modality: str, make: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for i in range(40):
        (data / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        file = make(data / "ab"[i % 2] / str(i), i)
    (data / ".ipynb_checkpoints").mkdir()
    shutil.copy(file, data / ".ipynb_checkpoints")
    dataset = read(data)
    assert dataset.modality == modality
    found = trained(tmp_path / "model", proxy_of(FIRST[modality], dataset), dataset, str(data))
    made = write_standalone(found, tmp_path / "alone")
    assert json.loads((made / "examples" / "predictions.json").read_text())["source"] == "files"
    done = alone(made / "predict.py", data, "--out", tmp_path / "out.csv")
    assert done.returncode == 0, done.stderr
    theirs, (ours, _) = pd.read_csv(tmp_path / "out.csv"), load(found.checkpoint).frame(data)
    assert theirs["file_name"].tolist() == ours["file_name"].tolist()
    for column in (c for c in ours if c.startswith("probability")):
        assert np.abs(theirs[column] - ours[column]).max() <= 1e-5


@pytest.mark.parametrize("separator", ["", ";", "|", "[]"])
def test_a_folder_writes_the_table_that_the_command_writes(
    separator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.export.folder import inputs

    targets = (
        Target("=tags", "multilabel", ("-a", "@b", "c"), separator=separator),
        Target("+kind", "binary", ("=1+1", "no")),
        Target("at", "regression"),
    )
    found = {
        "=tags": np.array([[0.75, 0.5, 0.25], [0.25, 0.125, 0.125]]),
        "+kind": np.array([[0.75, 0.25], [0.25, 0.75]]),
        "at": np.array([-1.5, 2.5]),
    }
    names = ["=a.png", "b.png"]
    expected = pd.DataFrame({"file_name": names})
    for target in targets:
        expected = expected.assign(**_answers(target, found[target.name], True))
    show.predictions(expected, tmp_path / "ours.csv", numbered=True)

    written = [
        {"name": t.name, "kind": t.kind, "labels": t.labels, "separator": t.separator}
        for t in targets
    ]
    (tmp_path / "labels.json").write_text(json.dumps(written))
    shutil.copy(Path(inputs.__file__).with_name("predict.py"), tmp_path)
    own = types.SimpleNamespace(no_formula=show.no_formula)
    monkeypatch.setitem(sys.modules, "preprocess", own)
    monkeypatch.setitem(sys.modules, "model", types.SimpleNamespace(build=None))
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("alone", tmp_path / "predict.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "predict", lambda _: (found, names))
    given = ["predict.py", str(tmp_path), "--out", str(tmp_path / "theirs.csv")]
    monkeypatch.setattr(sys, "argv", given)
    script.main()
    ours, theirs = (
        list(csv.reader(StringIO((tmp_path / name).read_text())))
        for name in ("ours.csv", "theirs.csv")
    )
    assert theirs == ours


@pytest.mark.slow  # a training and an export
def test_a_folder_that_does_not_repeat_its_predictions_is_not_handed_over(
    table: tuple[Path, Path, Trained], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from nas.export import standalone

    monkeypatch.setattr(
        standalone, "network_source", lambda *_: "def build():\n    raise ValueError('no network')"
    )
    with pytest.raises(SelfCheckFailed, match=r"does not repeat the predictions .*no network"):
        write_standalone(table[2], tmp_path / "alone")
    assert not (tmp_path / "alone").exists()


@pytest.mark.parametrize("modality", FIRST)
def test_the_code_that_reads_files_imports_nothing_of_this_project(modality: str) -> None:
    dataset = next(iter(example_datasets(modality).values()))  # type: ignore[arg-type]
    task = Task(dataset.modality, dataset.targets, dataset.profile)
    text = preprocess_source(task)
    compile(text, "preprocess.py", "exec")
    assert not modules_of(text) & {"nas", "search_spaces", "torch", "pydantic"}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_folder_that_stands_alone(name: str, tmp_path: Path) -> None:
    for place, dataset in enumerate(example_datasets(FAMILIES[name].modality).values()):
        found = trained(tmp_path / f"model{place}", proxy_of(name, dataset), dataset)
        made = write_standalone(found, tmp_path / f"alone{place}")
        assert modules_of((made / "model.py").read_text()) == {"torch"}
        done = alone(made / "test_predictions.py")
        assert done.stdout == "the recorded predictions are repeated\n", done.stderr
