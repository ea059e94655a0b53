"""Temperatures and intervals: against closed forms, and through a checkpoint."""

from __future__ import annotations

import errno
import json
import shutil
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from sklearn import metrics as sk

import nas
from nas.cli import cli
from nas.data import Dataset, read
from nas.export.weaknesses import weaknesses
from nas.family import load_families
from nas.task import DataProfile, InputError, Target, Task, UsageError
from nas.training import calibration
from nas.training.calibration import (
    COOLEST,
    HOTTEST,
    _cross_entropy,
    _temperature,
    calibrate,
    examined,
    half_width,
    intervals,
    part_logits,
    score_interval,
    some_rows,
)
from nas.training.ensemble import merge
from nas.training.metrics import score
from nas.training.proxy import Proxy, load_proxy

EARLIER = Path(__file__).parent / "earlier_format"
CLASSES = Target("y", "multiclass", ("a", "b", "c"), (1, 1, 1))


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_a_temperature_undoes_what_made_logits_too_large(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 3, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0].numpy()
    assert _temperature(CLASSES, factor * logits, labels) == pytest.approx(factor, rel=0.05)


@pytest.mark.parametrize("factor", [0.01, 0.3, 1.0, 5.0, 100.0])
def test_a_temperature_has_the_smallest_loss_of_all(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    truth = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    tried = np.geomspace(COOLEST, HOTTEST, 6000)  # 1e-3 apart
    losses = [_cross_entropy(CLASSES, factor * logits / t, truth, 1 / 302) for t in tried]
    found = _temperature(CLASSES, factor * logits, truth.numpy())
    assert found == pytest.approx(tried[int(np.argmin(losses))], rel=1.5e-3)


def test_few_samples_that_are_all_right_do_not_make_a_network_certain() -> None:
    labels = np.arange(40) % 3
    logits = 6 * torch.eye(3)[torch.from_numpy(labels)]
    sure = (logits / _temperature(CLASSES, logits, labels)).softmax(1).max(1).values
    assert sure.mean() == pytest.approx(41 / 42, abs=1e-3)  # the rule of succession


def test_a_checkpoint_keeps_its_temperature(tmp_path: Path) -> None:
    shutil.copytree(EARLIER / "model", tmp_path / "model")
    checkpoint = next((tmp_path / "model").glob("*.ckpt"))
    dataset = read(EARLIER / "wine.csv", target="cultivar")
    before, proxy = nas.load(checkpoint), load_proxy(checkpoint)
    loss = calibrate(proxy, checkpoint, dataset)
    after = nas.load(checkpoint)
    assert after.proxy.temperature("cultivar") == proxy.temperature("cultivar") != 1.0
    wine = EARLIER / "wine.csv"
    assert (before.predict(wine) == after.predict(wine)).all()  # the likeliest stays
    rows = dataset.parts["val"]
    truth = dataset.labels["cultivar"][rows]
    likely = after.predict_proba(wine)[rows, truth]
    assert loss == pytest.approx(-np.log(likely).mean(), rel=1e-4)
    assert np.abs(before.predict_proba(wine) - after.predict_proba(wine)).max() > 1e-3


def test_a_checkpoint_is_as_before_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Path(shutil.copy(next((EARLIER / "model").glob("*.ckpt")), tmp_path))
    before = checkpoint.read_bytes()
    dataset, proxy = read(EARLIER / "wine.csv", target="cultivar"), load_proxy(checkpoint)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        calibrate(proxy, checkpoint, dataset)
    with pytest.raises(OSError, match="No space left"):
        merge([checkpoint], dict(proxy.hparams), checkpoint)
    assert checkpoint.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [checkpoint.name]


def interval(checkpoint: Path, dataset: Dataset) -> dict[str, list[float]]:
    proxy = load_proxy(checkpoint)
    return score_interval(proxy.task, dataset, examined(proxy, dataset, "test"))


def test_an_interval_holds_the_score_and_is_as_wide_as_theory_says(tmp_path: Path) -> None:
    checkpoint = next((EARLIER / "model").glob("*.ckpt"))
    dataset = read(EARLIER / "wine.csv", target="cultivar")
    low, high = interval(checkpoint, dataset)["accuracy"]
    assert 0 < low <= high <= 1
    width = 2 * 1.96 * (0.9 * 0.1 / len(dataset.parts["test"])) ** 0.5
    assert high - low < 2.5 * width


def test_of_a_large_part_a_sample_is_drawn_that_has_all_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Path(shutil.copy(next((EARLIER / "model").glob("*.ckpt")), tmp_path))
    dataset = read(EARLIER / "wine.csv", target="cultivar")
    whole = interval(checkpoint, dataset)
    rows = some_rows(np.arange(300), 60)  # a hundred of each of three classes, one after the other
    assert len(set(rows)) == 60
    assert (np.diff(rows) > 0).all()
    assert np.bincount(rows // 100) == pytest.approx(20, abs=8)
    assert (some_rows(rows, 60) == rows).all()
    monkeypatch.setattr(calibration, "MOST_SAMPLES", 60)
    assert interval(checkpoint, dataset) == whole  # of fewer rows all are taken
    seen: list[np.ndarray] = []

    def noted(proxy: Proxy, dataset: Dataset, rows: np.ndarray) -> torch.Tensor:
        seen.append(rows)
        return part_logits(proxy, dataset, rows)

    monkeypatch.setattr(calibration, "part_logits", noted)
    monkeypatch.setattr(calibration, "MOST_SAMPLES", 6)
    interval(checkpoint, dataset)
    calibrate(load_proxy(checkpoint), checkpoint, dataset)
    for rows, part in zip(seen, ("test", "val"), strict=True):
        assert rows.tolist() == some_rows(dataset.parts[part], 6).tolist()
        assert len(rows) == 6
    val = dataset.parts["val"]
    dataset.parts["val"] = val[dataset.labels["cultivar"][val].argsort()]
    trained: Any = SimpleNamespace(dataset=dataset, proxy=load_proxy(checkpoint), result={})
    found = weaknesses(trained)
    assert found.samples == 6
    assert sum(sum(row) > 0 for row in found.targets[0].confusion) > 1, "one class alone"


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_an_interval_of_a_number_holds_it_as_often_as_its_level_says(level: float) -> None:
    rng = np.random.default_rng(0)
    count, held = 60, []
    for _ in range(3000):
        *errors, new = np.abs(rng.standard_cauchy(count + 1))
        held.append(new <= half_width(sorted(errors), level))
    expected = np.ceil((count + 1) * level) / (count + 1)  # Lei et al. 2018, sec. 2.2
    assert np.mean(held) == pytest.approx(expected, abs=4 * (0.25 / 3000) ** 0.5)


@pytest.mark.parametrize(
    ("errors", "level", "message"),
    [
        ([1.0] * 9, 90, "the level of an interval must be between 0 and 1, got 90"),
        (
            [1.0] * 9,
            0.95,
            r"needs 19 validation samples, and the network had 9; use .* 0\.9 or less",
        ),
        ([], 0.9, "the network keeps no errors of its validation part"),
    ],
)
def test_a_level_that_cannot_be_held_is_one_line(
    errors: list[float], level: float, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        half_width(errors, level)
    assert half_width([1.0] * 9, 0.9) == 1.0


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Path]:
    """A table with a number to predict, its data set, and the checkpoint of a network for it: an
    untrained one, as the rule of the intervals asks no more than like samples."""
    folder = tmp_path_factory.mktemp("houses")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=3000), "age": rng.normal(size=3000)})
    frame["price"] = 100 * frame["size"] + rng.standard_t(3, 3000)
    frame.to_csv(folder / "houses.csv", index=False)
    dataset = read(folder / "houses.csv", target="price")
    task = Task("tabular", dataset.targets, dataset.profile).with_objectives()
    torch.manual_seed(0)
    checkpoint = folder / "model.ckpt"
    proxy = Proxy("mlp", load_families()["mlp"].baseline(task), task)
    content = {"hyper_parameters": dict(proxy.hparams), "state_dict": proxy.state_dict()}
    torch.save(content, checkpoint)
    calibrate(load_proxy(checkpoint), checkpoint, dataset)
    return folder / "houses.csv", dataset, checkpoint


def test_intervals_hold_the_numbers_of_the_test_part(houses: tuple[Path, Dataset, Path]) -> None:
    source, dataset, checkpoint = houses
    proxy = load_proxy(checkpoint)
    (found,) = intervals(proxy, dataset, examined(proxy, dataset, "test")).values()
    samples = len(dataset.parts["test"])
    noise = (0.9 * 0.1 * (1 / samples + 1 / len(dataset.parts["val"]))) ** 0.5
    assert found["test_coverage"] == pytest.approx(0.9, abs=3 * noise)
    model = nas.load(checkpoint)
    truth = pd.read_csv(source)["price"].to_numpy()
    for level in (0.5, 0.9):
        low, high = model.predict_interval(source, level).T
        assert ((low <= truth) & (truth <= high)).mean() == pytest.approx(level, abs=0.04)
        assert np.allclose((low + high) / 2, model.predict(source))


def test_of_many_errors_a_sample_is_kept(
    houses: tuple[Path, Dataset, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(calibration, "MOST_ERRORS", 100)
    checkpoint = Path(shutil.copy(houses[2], tmp_path))
    calibrate(load_proxy(checkpoint), checkpoint, houses[1])
    kept = nas.load(checkpoint).proxy.val_errors["price"]
    assert len(kept) == 100
    assert kept == sorted(kept)
    every = nas.load(houses[2]).proxy.val_errors["price"]
    assert np.median(kept) == pytest.approx(np.median(every), rel=0.3)


def test_one_interval_in_python_the_command_the_server_and_a_frame(
    houses: tuple[Path, Dataset, Path],
) -> None:
    from nas.serve import answer

    source, _, checkpoint = houses
    model = nas.load(checkpoint)
    ends = model.predict_interval(source, 0.8)
    done = CliRunner().invoke(cli, ["predict", str(checkpoint), str(source), "--interval", "0.8"])
    assert done.exit_code == 0, done.output
    printed = pd.read_csv(StringIO(done.stdout))
    frame, _ = model.frame(source, interval=0.8)
    row = json.loads(pd.read_csv(source).head(1).to_json(orient="records"))
    (served,) = answer(model, json.dumps({"rows": row, "interval": 0.8}).encode())
    for column, expected in (("low[price]", ends[:, 0]), ("high[price]", ends[:, 1])):
        assert np.allclose(printed[column], expected)
        assert np.allclose(frame[column], expected)
        assert served[column] == pytest.approx(expected[0])
    assert "low[price]" not in model.frame(source)[0]
    with pytest.raises(InputError, match='"interval" is no number'):
        answer(model, json.dumps({"rows": row, "interval": "wide"}).encode())


def test_classes_have_no_intervals() -> None:
    model = nas.load(EARLIER / "model")
    with pytest.raises(UsageError, match="predicts classes, which have no intervals"):
        model.predict_interval(EARLIER / "wine.csv")
    arguments = ["predict", str(EARLIER / "model"), str(EARLIER / "wine.csv"), "--interval", "0.9"]
    done = CliRunner().invoke(cli, arguments)
    assert isinstance(done.exception, UsageError)  # exit code 2


def test_an_interval_takes_no_metric_many_times_that_it_is_not_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    for name in ("f1_score", "roc_auc_score"):
        original = getattr(sk, name)

        def noted(*args: Any, name: str = name, original: Any = original, **how: Any) -> Any:
            asked.append(name)
            return original(*args, **how)

        monkeypatch.setattr(sk, name, noted)
    checkpoint = next((EARLIER / "model").glob("*.ckpt"))
    dataset = read(EARLIER / "wine.csv", target="cultivar")
    assert interval(checkpoint, dataset).keys() == {"accuracy"}
    assert asked == []


@pytest.mark.parametrize("only", ["accuracy", "auc", "f1", "balanced_accuracy"])
def test_a_metric_alone_is_as_among_all(only: str) -> None:
    task = Task("tabular", (CLASSES,), DataProfile(100, 50, 50, {"numeric": (2,)}))
    rng = np.random.default_rng(0)
    truth, predicted = {"y": rng.integers(0, 3, 50)}, {"y": rng.dirichlet(np.ones(3), 50)}
    found, whole = score(task, truth, predicted, only=[only]), score(task, truth, predicted)
    assert found[only] == whole[only]
    assert {"auc", "f1"} - {only} == whole.keys() - found.keys()


def test_the_score_of_several_targets_alone_is_as_among_all() -> None:
    labels = Target("z", "multilabel", ("u", "v"), (1, 1))
    task = Task("tabular", (CLASSES, labels), DataProfile(100, 50, 50, {"numeric": (2,)}))
    rng = np.random.default_rng(0)
    truth = {"y": rng.integers(0, 3, 50), "z": rng.integers(0, 2, (50, 2)).astype(np.float32)}
    predicted = {"y": rng.dirichlet(np.ones(3), 50), "z": rng.random((50, 2))}
    found, whole = (score(task, truth, predicted, only=only) for only in (["score"], ()))
    assert found["score"] == whole["score"]
    assert "auc[y]" in whole.keys() - found.keys()
