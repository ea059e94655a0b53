"""Temperatures and intervals: against closed forms, and through a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import nas
from nas.data import read
from nas.task import Target
from nas.training.calibration import _temperature, calibrate, score_interval

EARLIER = Path(__file__).parent / "earlier_format"
CLASSES = Target("y", "multiclass", ("a", "b", "c"), (1, 1, 1))


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_a_temperature_undoes_what_made_logits_too_large(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 3, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0].numpy()
    assert _temperature(CLASSES, factor * logits, labels) == pytest.approx(factor, rel=0.05)


def test_a_checkpoint_keeps_its_temperature(tmp_path: Path) -> None:
    shutil.copytree(EARLIER / "model", tmp_path / "model")
    checkpoint = next((tmp_path / "model").glob("*.ckpt"))
    dataset = read(EARLIER / "wine.csv", target="cultivar")
    before = nas.load(checkpoint)
    found = calibrate(checkpoint, dataset)
    after = nas.load(checkpoint)
    assert after.proxy.temperature("cultivar") == found["cultivar"] != 1.0
    wine = EARLIER / "wine.csv"
    assert (before.predict(wine) == after.predict(wine)).all()  # the likeliest stays
    assert np.abs(before.predict_proba(wine) - after.predict_proba(wine)).max() > 1e-3


def test_an_interval_holds_the_score_and_is_as_wide_as_theory_says(tmp_path: Path) -> None:
    checkpoint = next((EARLIER / "model").glob("*.ckpt"))
    dataset = read(EARLIER / "wine.csv", target="cultivar")
    low, high = score_interval(checkpoint, dataset)["accuracy"]
    assert 0 < low <= high <= 1
    width = 2 * 1.96 * (0.9 * 0.1 / len(dataset.parts["test"])) ** 0.5
    assert high - low < 2.5 * width
