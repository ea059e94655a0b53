"""How sure a trained network may be: temperatures of its probabilities, intervals of its scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.data import Dataset
from nas.data.ragged import Whole
from nas.task import Target
from nas.training.batches import Batches, evaluation_batch, part_tensors
from nas.training.metrics import score
from nas.training.proxy import Proxy, load_proxy

RESAMPLES = 200
MOST_SAMPLES = 20_000  # that an interval is drawn from
CONFIDENCE = 0.95
COOLEST, HOTTEST = 0.05, 20.0


def part_logits(proxy: Proxy, dataset: Dataset, rows: np.ndarray) -> Tensor:
    """Logits (n, outputs) of samples of a data set, in their order."""
    inputs, _ = part_tensors(dataset, rows, "cpu")
    batches = Batches(inputs, {"row": torch.arange(len(rows))}, evaluation_batch(dataset.modality))
    shared = any(isinstance(value, Whole) for value in dataset.inputs.values())
    assert not shared or len(batches) == 1
    with torch.inference_mode():
        parts = [(proxy(**batch), labels["row"]) for batch, labels in batches]
    order = torch.cat([row for _, row in parts]).argsort()
    return torch.cat([values for values, _ in parts])[order].float()


def calibrate(checkpoint: Path, dataset: Dataset) -> dict[str, float]:
    """Find the temperature of each target of classes on the validation part, and keep it in the
    checkpoint: logits are divided by it before they are probabilities (Guo et al. 2017, "On
    Calibration of Modern Neural Networks", sec. 4.2). Which label is likeliest does not change.

    Returns the temperatures by target; above 1 the network was too sure.
    """
    proxy = load_proxy(checkpoint)
    rows = dataset.parts["val"]
    heads = proxy.heads(part_logits(proxy, dataset, rows))
    found = {
        target.name: _temperature(target, heads[target.name], dataset.labels[target.name][rows])
        for target in proxy.task.targets
        if target.kind != "regression"
    }
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    content["hyper_parameters"]["temperatures"] = found
    torch.save(content, checkpoint)
    return found


def _temperature(target: Target, logits: Tensor, labels: np.ndarray) -> float:
    """The one of the smallest loss, by golden-section search in its logarithm: the loss has one
    minimum."""
    truth = torch.from_numpy(np.array(labels))

    def loss(log_t: float) -> float:
        scaled = logits / float(np.exp(log_t))
        if target.kind == "multilabel":
            return float(F.binary_cross_entropy_with_logits(scaled, truth.float()))
        return float(F.cross_entropy(scaled, truth.long()))

    low, high = float(np.log(COOLEST)), float(np.log(HOTTEST))
    ratio = (5**0.5 - 1) / 2
    for _ in range(40):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def score_interval(checkpoint: Path, dataset: Dataset) -> dict[str, list[float]]:
    """The interval that holds the quality with a confidence of 95 %, by the bootstrap over the
    samples of the test part (Efron & Tibshirani 1993, ch. 13)."""
    proxy = load_proxy(checkpoint)
    rows = dataset.parts["test"][:MOST_SAMPLES]
    predicted = proxy.predictions(part_logits(proxy, dataset, rows))
    truth = {name: np.asarray(label)[rows] for name, label in dataset.labels.items()}
    metric = proxy.task.quality.metric
    rng = np.random.default_rng(0)
    values = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(rows), size=len(rows))
        some = {name: values_of[drawn] for name, values_of in truth.items()}
        ours = {name: values_of[drawn] for name, values_of in predicted.items()}
        value = score(proxy.task, some, ours).get(metric)
        if value is not None and np.isfinite(value):
            values.append(value)
    if not values:
        return {}
    low, high = np.quantile(values, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return {metric: [float(low), float(high)]}
