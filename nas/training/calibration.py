"""How sure a trained network may be: temperatures of its probabilities, intervals of the numbers
that it predicts, and intervals of its scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.data import Dataset
from nas.task import Target, Task, UsageError
from nas.training.batches import Batches, evaluation_batch, part_inputs
from nas.training.ensemble import write_checkpoint
from nas.training.metrics import score
from nas.training.neighbours import layered_tensors
from nas.training.proxy import Proxy

RESAMPLES = 200
MOST_SAMPLES = 20_000  # of a part that a network is examined on
CONFIDENCE = 0.95
LEVEL = 0.9  # of the intervals whose coverage is reported
MOST_ERRORS = 1000  # that a checkpoint keeps
COOLEST, HOTTEST = 0.05, 20.0


def some_rows(rows: np.ndarray, most: int) -> np.ndarray:
    """All rows of a part or, of many, ``most`` at random, in their order: the first would be those
    of the first classes."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def part_logits(proxy: Proxy, dataset: Dataset, rows: np.ndarray) -> Tensor:
    """Logits (n, outputs) of samples of a data set, in their order, on the CPU; they are computed
    where the network is."""
    device = str(proxy.device)
    given = part_inputs(dataset.inputs, np.asarray(rows), device)
    inputs, _ = layered_tensors(proxy.network, (given, {}))
    size = evaluation_batch(dataset.modality, inputs)
    batches = Batches(inputs, {"row": torch.arange(len(rows), device=device)}, size)
    with torch.inference_mode():
        parts = [(proxy.logits(batch), labels["row"]) for batch, labels in batches]
    order = torch.cat([row for _, row in parts]).argsort()
    return torch.cat([values for values, _ in parts])[order].float().cpu()


@dataclass(frozen=True)
class Examined:
    """Samples of a part, ``rows`` (n,) of the data set, and what a network predicts of them, as
    ``Proxy.predictions`` has it."""

    rows: np.ndarray
    predicted: Mapping[str, np.ndarray]


def examined(proxy: Proxy, dataset: Dataset, part: str) -> Examined:
    """Have a network predict at most ``MOST_SAMPLES`` of the part "val" or "test"."""
    rows = some_rows(dataset.parts[part], MOST_SAMPLES)
    return Examined(rows, proxy.predictions(part_logits(proxy, dataset, rows)))


def calibrate(proxy: Proxy, checkpoint: Path, dataset: Dataset) -> float | None:
    """Find the temperature of each target of classes on the validation part, and keep it in the
    network and in its checkpoint: logits are divided by it before they are probabilities (Guo et
    al. 2017, "On Calibration of Modern Neural Networks", sec. 4.2). It is above 1 where the network
    was too sure; which label is likeliest does not change.

    Of each target of numbers its errors on the validation part are kept, see ``half_width``. Of a
    large part both are of ``MOST_SAMPLES``.

    Returns the loss with the temperatures: the mean cross-entropy of the targets of classes, None
    where there are none. Raises OSError where the disk is full; the checkpoint is then as before.
    """
    rows = some_rows(dataset.parts["val"], MOST_SAMPLES)
    logits = part_logits(proxy, dataset, rows)
    heads, predicted = proxy.heads(logits), proxy.predictions(logits)
    losses: list[float] = []
    proxy.temperatures, proxy.val_errors = {}, {}
    for target in proxy.task.targets:
        name, labels = target.name, dataset.labels[target.name][rows]
        if target.kind == "regression":
            proxy.val_errors[name] = _errors(predicted[name] - labels)
            continue
        proxy.temperatures[name] = _temperature(target, heads[name], labels)
        truth = torch.from_numpy(np.array(labels))
        losses.append(_cross_entropy(target, heads[name] / proxy.temperature(name), truth))
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    kept = {"temperatures": proxy.temperatures, "val_errors": proxy.val_errors}
    content["hyper_parameters"] |= kept
    write_checkpoint(content, checkpoint)
    return float(np.mean(losses)) if losses else None


def _cross_entropy(target: Target, logits: Tensor, truth: Tensor, wrong: float = 0.0) -> float:
    """Of labels of which the fraction ``wrong`` may be, whatever they say."""
    if target.kind == "multilabel":
        soft = truth.float() * (1 - 2 * wrong) + wrong
        return float(F.binary_cross_entropy_with_logits(logits, soft))
    smoothing = wrong * logits.shape[1] / max(logits.shape[1] - 1, 1)  # spread over all classes
    return float(F.cross_entropy(logits, truth.long(), label_smoothing=smoothing))


def _errors(errors: np.ndarray) -> list[float]:
    """The sizes of all errors in ascending order; of many, a random sample of them."""
    sizes = np.abs(errors)
    if len(sizes) > MOST_ERRORS:
        sizes = np.random.default_rng(0).choice(sizes, MOST_ERRORS, replace=False)
    return [float(size) for size in np.sort(sizes)]


def half_width(errors: Sequence[float], level: float) -> float:
    """How far below and above a prediction an interval reaches that holds the true number with the
    probability ``level``, where new samples are like those of the validation part.

    Split conformal prediction (Vovk et al. 2005, "Algorithmic Learning in a Random World", ch. 2;
    Lei et al. 2018, "Distribution-Free Predictive Inference for Regression", sec. 2.2): of n errors
    it is the one of rank ceil((n + 1) * level).

    Args:
        errors: Of samples that the weights were not fitted to: sizes, in ascending order.
        level: Between 0 and 1.

    Raises:
        UsageError: The level is no probability, or there are too few errors for it.

    Example:
        >>> half_width([1.0, 2.0, 3.0, 4.0], 0.8)
        4.0
    """
    if not 0 < level < 1:
        raise UsageError(f"the level of an interval must be between 0 and 1, got {level:g}")
    if not errors:
        raise UsageError(
            "the network keeps no errors of its validation part, which intervals are made of; train"
            " it again to its end with `nas train`"
        )
    count = len(errors)
    rank = math.ceil((count + 1) * level - 1e-9)
    if rank > count:
        needed = math.ceil(level / (1 - level) - 1e-9)
        raise UsageError(
            f"an interval of the level {level:g} needs {needed:,} validation samples, and the"
            f" network had {count:,}; use a level of"
            f" {math.floor(1000 * count / (count + 1)) / 1000:g} or less"
        )
    return float(errors[rank - 1])


def intervals(proxy: Proxy, dataset: Dataset, test: Examined | None) -> dict[str, dict[str, float]]:
    """Of each target of numbers the half width of its intervals of the level ``LEVEL`` and, with
    the ``test`` part, the fraction of its numbers that they hold. A target with too few validation
    samples for the level is left out."""
    fewest = math.ceil(LEVEL / (1 - LEVEL) - 1e-9)
    found = {
        name: {"level": LEVEL, "half_width": half_width(errors, LEVEL)}
        for name, errors in proxy.val_errors.items()
        if len(errors) >= fewest
    }
    if test is not None:
        for name, own in found.items():
            apart = np.abs(test.predicted[name] - np.asarray(dataset.labels[name])[test.rows])
            own["test_coverage"] = float((apart <= own["half_width"]).mean())
    return found


def _temperature(target: Target, logits: Tensor, labels: np.ndarray) -> float:
    """The one of the smallest loss, by Brent's search in its logarithm: the loss has one minimum.

    Of n samples one in n + 2 may be wrong, whatever the labels say (Platt 1999, "Probabilistic
    Outputs for Support Vector Machines", sec. 2.2): where all are right, the network would be made
    certain otherwise.
    """
    from scipy.optimize import minimize_scalar  # not for `nas predict`

    truth = torch.from_numpy(np.array(labels))
    wrong = 1 / (len(truth) + 2)

    def loss(log_t: float) -> float:
        return _cross_entropy(target, logits / float(np.exp(log_t)), truth, wrong)

    limits = (float(np.log(COOLEST)), float(np.log(HOTTEST)))
    return float(np.exp(minimize_scalar(loss, bounds=limits, method="bounded").x))


def score_interval(task: Task, dataset: Dataset, test: Examined) -> dict[str, list[float]]:
    """The interval that holds the quality with a confidence of 95 %, by the bootstrap over the
    samples of the ``test`` part (Efron & Tibshirani 1993, ch. 13)."""
    truth = {name: np.asarray(label)[test.rows] for name, label in dataset.labels.items()}
    metric, count = task.quality.metric, len(test.rows)
    rng = np.random.default_rng(0)
    values = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(count, size=count)
        some = {name: values_of[drawn] for name, values_of in truth.items()}
        ours = {name: values_of[drawn] for name, values_of in test.predicted.items()}
        value = score(task, some, ours, only=[metric]).get(metric)
        if value is not None and np.isfinite(value):
            values.append(value)
    if not values:
        return {}
    low, high = np.quantile(values, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return {metric: [float(low), float(high)]}
