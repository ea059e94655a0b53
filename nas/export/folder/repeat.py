"""Repeats recorded predictions: python test_predictions.py (or pytest)"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from predict import load_network, predict  # noqa: E402  # type: ignore[import-not-found]

TOLERANCE = 1e-5  # relative to the largest value, or to 1; of numbers as they are standardised


def largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


@torch.inference_mode()
def test_the_network_gives_the_recorded_outputs() -> None:
    inputs = load_file(HERE / "examples" / "inputs.safetensors")
    expected = inputs.pop("outputs")
    apart = largest_difference(load_network()(**inputs).numpy(), expected.numpy())
    assert apart <= TOLERANCE, f"outputs differ by {apart:.2g}"


def test_the_files_give_the_recorded_predictions() -> None:
    recorded = json.loads((HERE / "examples" / "predictions.json").read_text(encoding="utf-8"))
    if not recorded["source"]:
        return  # the training data was no file
    found, _ = predict(HERE / "examples" / recorded["source"])
    for target in json.loads((HERE / "labels.json").read_text(encoding="utf-8")):
        name, numbers = target["name"], target["kind"] == "regression"
        mean, unit = (target["mean"], target["std"]) if numbers else (0.0, 1.0)
        expected = (np.array(recorded["predictions"][name]) - mean) / unit
        apart = largest_difference((found[name] - mean) / unit, expected)
        assert apart <= TOLERANCE, f"predictions of {name} differ by {apart:.2g}"


if __name__ == "__main__":
    test_the_network_gives_the_recorded_outputs()
    test_the_files_give_the_recorded_predictions()
    print("the recorded predictions are repeated")
