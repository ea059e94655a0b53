"""A run, a recipe and a model written by version 0.1.0 (November 2026) still open and work.

tests/earlier_format was made from scikit-learn's wine data, with text classes, a column of
categories and missing values, by:

    nas search /data/wine.csv --target cultivar --trials 6 --deterministic --workers 1 \
        --epochs 6 -c 'params<=20000' --out run
    nas latency run --name phone
    nas export run -n 3 --out recipe.yaml
    nas train recipe.yaml --epochs 20 --out model
    nas predict model /data/wine.csv --out predictions.csv
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nas import Run, cli

pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
ORIGINAL = Path(__file__).with_name("earlier_format")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy whose recipes find the data where they are now."""
    folder = tmp_path_factory.mktemp("earlier") / "copy"
    shutil.copytree(ORIGINAL, folder)
    for file in (folder / "run" / "run.json", *folder.rglob("*.yaml")):
        file.write_text(file.read_text().replace("/data/wine.csv", str(folder / "wine.csv")))
    return folder


@pytest.fixture
def nas(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must succeed; what it prints on standard output."""

    def call(*args: str | Path) -> str:
        with pytest.raises(SystemExit) as end:
            cli.main([str(arg) for arg in args])
        out, err = capfd.readouterr()
        assert not end.value.code, err
        return out

    return call


def test_status_shows_the_figures_of_an_earlier_run(earlier: Path, nas: Callable[..., str]) -> None:
    shown = json.loads(nas("status", earlier / "run", "--json"))
    assert shown["candidates"] == {"complete": 4, "pruned (halving)": 2}
    assert shown["spent_s"] == 91.1
    first, last = shown["front"]
    assert (first["number"], last["number"]) == (0, 3)
    assert first["accuracy"] == pytest.approx(0.966882, abs=1e-6)
    assert first["latency_ms"] == pytest.approx(0.209730, abs=1e-6)
    assert (first["params"], first["flops"]) == (16009, 31040)


def test_the_latencies_of_an_earlier_run_still_count_as_isolated(
    earlier: Path, nas: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    shown = nas("status", earlier / "run")
    assert "0.21 ±0.0008" in shown
    assert "†" not in shown  # the mark of a latency measured while something else trained


def test_an_earlier_run_is_reported_with_the_latencies_of_another_device(
    earlier: Path, nas: Callable[..., str]
) -> None:
    latency = earlier / "run" / "latency-phone.json"
    page = earlier / "page.html"
    nas("report", earlier / "run", "--out", page, "--latency", latency)
    text = page.read_text()
    assert "phone" in text
    assert "16009" in text


def test_an_earlier_run_exports_by_a_limit(earlier: Path, nas: Callable[..., str]) -> None:
    out = earlier / "exported.yaml"
    nas("export", earlier / "run", "-c", "params<=5000", "--out", out)
    assert "Candidate 3" in out.read_text()


def test_the_proxy_of_an_earlier_recipe_repeats_its_figure(
    earlier: Path, nas: Callable[..., str]
) -> None:
    checked = json.loads(nas("train", earlier / "model" / "recipe.yaml", "--check", "--json"))
    assert checked["measured"] == pytest.approx(0.834194, abs=1e-6)
    assert checked["again"] == pytest.approx(checked["measured"], abs=checked["tolerance"])


def test_an_earlier_recipe_trains_and_is_scored(earlier: Path, nas: Callable[..., str]) -> None:
    out = earlier / "again"
    recipe = earlier / "model" / "recipe.yaml"
    result = json.loads(nas("train", recipe, "--epochs", "2", "--out", out, "--json"))
    assert result["params"] == 2697
    assert 0 <= result["test"]["accuracy"] <= 1


def test_an_earlier_model_predicts_the_same(earlier: Path, nas: Callable[..., str]) -> None:
    out = earlier / "now.csv"
    nas("predict", earlier / "model", earlier / "wine.csv", "--out", out)
    expected, actual = pd.read_csv(earlier / "predictions.csv"), pd.read_csv(out)
    assert actual["cultivar"].tolist() == expected["cultivar"].tolist()
    columns = [name for name in expected if name.startswith("probability")]
    assert len(columns) == 3
    pd.testing.assert_frame_equal(actual[columns], expected[columns], atol=1e-5)


@pytest.mark.slow  # a search
def test_an_earlier_search_is_resumed_without_training_anything_again(
    earlier: Path, nas: Callable[..., str]
) -> None:
    folder = earlier / "run"
    before = Run(folder).frame()
    options: list[Any] = ["--target", "cultivar", "--trials", "7", "--deterministic"]
    options += ["--workers", "1", "--epochs", "6", "-c", "params<=20000", "--resume", "--json"]
    nas("search", earlier / "wine.csv", "--out", folder, *options)
    after = Run(folder).frame()
    assert (len(before), len(after)) == (6, 7)
    same = ["number", "family", "state", "reason", "params", "flops", "accuracy", "config.lr"]
    pd.testing.assert_frame_equal(after[same][:6], before[same])
