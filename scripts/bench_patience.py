"""When a training may end: what patience costs in quality and saves in time, on recorded trainings.

    OMP_NUM_THREADS=1 python scripts/bench_patience.py $NAS_DATA --out patience.jsonl [--limit-s 90]

Each case trains the baseline of a family by its recipe, as long as the rules let a recipe be (fewer
epochs where that would take longer than the limit), and scores every epoch on the validation part
and on the test part. Then training is ended, on paper, after 0.1 to 0.5 of its epochs without a
better one: by the quality, by the loss, or where neither is better; what is kept is the best epoch
until then. Shown are the fraction of the epochs that are trained and what the kept epoch loses on
the test part against the best one of the whole training, of trainings of more than ``LEAST``
epochs. A case that is in the file already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

import nas.train
from nas import recipe as recipes
from nas import rules
from nas.candidate import Candidate
from nas.data import read
from nas.driver import make_task
from nas.family import load_families
from nas.task import Budget
from nas.training.metrics import score
from nas.training.proxy import predict

CASES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "titanic": ("tabular/titanic", {"target": "Survived"}, ("mlp", "ft_transformer")),
    "adult": ("tabular/adult", {"target": "income"}, ("mlp",)),
    "california": (
        "tabular/california_housing",
        {"target": "median_house_value"},
        ("mlp", "tabnet"),
    ),
    "trec": ("text/trec", {"target": "label"}, ("ngrams", "transformer")),
    "sst2": ("text/sst2", {"target": "label"}, ("ngrams", "lstm")),
    "vowels": ("series/JapaneseVowels", {}, ("inception_time", "series_lstm")),
    "cora": ("graphs/cora", {}, ("gcn", "gat")),
    "proteins": ("graphs/proteins", {}, ("gcn", "graphsage")),
    "fsdd": ("audio/fsdd", {"modality": "audio"}, ("whisper",)),
    "sign_digits": ("images/sign_digits", {"modality": "images"}, ("resnet", "vit")),
}
FRACTIONS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
LEAST = 5  # epochs of patience


class Recorder(pl.Callback):
    """The metrics of the validation and of the test part after each epoch."""

    def __init__(self, data: Any) -> None:
        self.data, self.rows = data, []

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        dataset = self.data.dataset
        rows = dataset.parts["test"]
        inputs = {
            name: value.take(rows) if hasattr(value, "take") and hasattr(value, "lengths")
            else value if hasattr(value, "values") else value[rows]
            for name, value in dataset.inputs.items()
        }  # fmt: skip
        module.eval()
        truth = {name: np.asarray(label)[rows] for name, label in dataset.labels.items()}
        tested = score(module.task, truth, predict(module, inputs))
        module.train()
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        self.rows.append({"validation": metrics, "test": tested})


class Timed(pl.Callback):
    """Ends a training after its first epochs, whose seconds are measured."""

    def __init__(self) -> None:
        self.begin, self.epoch_s = 0.0, math.nan

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.current_epoch == 1:
            trainer.should_stop = True
        self.begin = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.epoch_s = time.monotonic() - self.begin
        trainer.should_stop = True


def record(folder: Path, how: dict[str, Any], family: str, limit_s: float) -> dict[str, Any]:
    """Train a case; the metric, its direction and the metrics of each epoch."""
    data = read(folder, **how)
    task = make_task(data, budget=Budget(None, 1), device="cpu")
    longest = rules.longest_epochs(task)
    task = replace(task, fidelity=replace(task.fidelity, recipe_epochs=longest))
    config = load_families(task.modality)[family].baseline(task)
    metrics = {task.quality.metric: 0.5}
    candidate = Candidate(1, family, config, 1, epochs=1, metrics=metrics)
    with tempfile.TemporaryDirectory() as place:
        data.save(Path(place) / "data")
        made = recipes.make(candidate, task, {"source": str(Path(place) / "data")}, {})

        def fit(epochs: int, callback: Any) -> Any:
            nas.recipe_changes.apply(made, nas.recipe_changes.Settings(epochs=epochs, patience=0))
            recipe = recipes.checked(made, "made", Path(place))
            recipe["trainer"]["default_root_dir"] = place
            training = nas.train.build(recipe, "made")
            training.data.dataset = data
            recorder = callback(training.data)
            training.trainer.callbacks += [recorder]
            training.trainer.fit(training.module, training.data)
            return recorder

        epoch_s = fit(longest, lambda _: Timed()).epoch_s
        epochs = max(5, min(longest, int(limit_s / (1.3 * epoch_s))))
        rows = fit(epochs, Recorder).rows
    return {
        "metric": task.quality.metric,
        "direction": task.quality.direction,
        "longest": longest,
        "epochs": epochs,
        "epoch_s": epoch_s,
        "rows": rows,
    }


def stopped(curves: list[list[float]], patience: int) -> int:
    """How many epochs are trained where larger values are better, and one curve's is enough."""
    best, since = [-math.inf] * len(curves), 0
    for epoch, values in enumerate(zip(*curves, strict=True), 1):
        better = any(value > so_far for value, so_far in zip(values, best, strict=True))
        since = 0 if better else since + 1
        best = [max(pair) for pair in zip(values, best, strict=True)]
        if since >= patience:
            return epoch
    return len(curves[0])


def kept(quality: list[float]) -> int:
    """The best epoch, of equally good ones the latest."""
    best = max(quality)
    return max(i for i, value in enumerate(quality) if value == best)


def show(found: list[dict[str, Any]]) -> None:
    """A row for each way to end: the epochs that are trained, what is lost, and where the most."""
    print("by       fraction  epochs  lost (mean)  lost most")
    for by in ("quality", "loss", "either"):
        for fraction in FRACTIONS:
            parts, losses = [], []
            for case in (case for case in found if case["epochs"] > LEAST):
                metric = case["metric"]
                sign = 1 if case["direction"] == "max" else -1
                quality = [sign * row["validation"][metric] for row in case["rows"]]
                loss = [-row["validation"]["val_loss"] for row in case["rows"]]
                tested = [sign * row["test"][metric] for row in case["rows"]]
                curves = {"quality": [quality], "loss": [loss], "either": [quality, loss]}[by]
                end = stopped(curves, max(LEAST, math.ceil(fraction * case["epochs"])))
                scale = 1 if case["direction"] == "max" else abs(tested[-1])
                lost = (tested[kept(quality)] - tested[kept(quality[:end])]) / scale
                parts.append(end / len(quality))
                losses.append((lost, f"{case['case']}/{case['family']}"))
            mean, worst = sum(lost for lost, _ in losses) / len(losses), max(losses)
            print(
                f"{by:8}{fraction:9.2f}{np.mean(parts):8.2f}{mean:13.4f}  {worst[0]:.4f} {worst[1]}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("patience.jsonl"))
    parser.add_argument("--limit-s", type=float, default=90.0)
    parser.add_argument("--only", nargs="*", default=list(CASES))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = given.out.read_text().splitlines() if given.out.exists() else []
    found = [json.loads(line) for line in lines]
    done = {(case["case"], case["family"]) for case in found}
    for name in given.only:
        place, how, families = CASES[name]
        for family in families:
            if (name, family) in done:
                continue
            case = record(given.data / place, how, family, given.limit_s)
            case |= {"case": name, "family": family}
            found.append(case)
            with given.out.open("a") as file:
                file.write(json.dumps(case) + "\n")
            print(
                name,
                family,
                case["epochs"],
                "epochs",
                round(case["epoch_s"], 2),
                "s each",
                flush=True,
            )
    show(found)


if __name__ == "__main__":
    main()
