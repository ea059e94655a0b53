"""Predict on new files: python predict.py DATA [--interval 0.9] [--out predictions.csv]"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import preprocess  # noqa: E402  # type: ignore[import-not-found]
from model import build  # noqa: E402  # type: ignore[import-not-found]

BATCH = 128  # samples at a time


def load_network() -> torch.nn.Module:
    """The trained network, in eval mode."""
    network: torch.nn.Module = build()
    network.load_state_dict(load_file(HERE / "model.safetensors"))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):  # faster, and as it was trained
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


@torch.inference_mode()
def predict(source: Path) -> tuple[dict[str, Any], list[str]]:
    """Probabilities (n, labels), or values (n,), by target; and the samples' file names."""
    inputs, names = preprocess.load(source)
    network = load_network()
    parts = [
        network(**{name: torch.from_numpy(value) for name, value in batch.items()})
        for batch in preprocess.batches(inputs, BATCH)
    ]
    logits = torch.cat(parts).float()
    found = {}
    place = 0
    for target in json.loads((HERE / "labels.json").read_text(encoding="utf-8")):
        width = max(len(target["labels"]), 1)
        part, place = logits[:, place : place + width], place + width
        if target["kind"] == "regression":
            value = part[:, 0].double() * target["std"] + target["mean"]
        elif target["kind"] == "multilabel":
            value = (part / target["temperature"]).sigmoid()
        else:
            value = (part / target["temperature"]).softmax(dim=1)
        found[target["name"]] = value.numpy()
    return found, names


def half_widths(level: float) -> dict[str, float]:
    """How far an interval that holds the true number with this probability reaches below and above
    a prediction, by target: split conformal prediction (Lei et al. 2018, sec. 2.2) with the sizes
    of the errors on the validation part."""
    file = HERE / "errors.json"
    if not file.is_file():
        raise ValueError("there are no errors of numbers here, which intervals are made of")
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must be between 0 and 1, got {level:g}")
    found = {}
    for name, errors in json.loads(file.read_text(encoding="utf-8")).items():
        rank = math.ceil((len(errors) + 1) * level - 1e-9)
        if rank > len(errors):
            raise ValueError(
                f"{len(errors)} validation samples are too few for the level {level:g}"
            )
        found[name] = errors[rank - 1]
    return found


def rows(source: Path, level: float | None = None) -> list[dict[str, Any]]:
    """One row for each sample: its file or number, what is predicted, and the probabilities; of
    numbers with a ``level`` the ends of the interval that holds the true one. Several labels are
    written as in the training data: joined, as a list, or 0 or 1 in a column of each."""
    half = {} if level is None else half_widths(level)
    found, names = predict(source)
    targets = json.loads((HERE / "labels.json").read_text(encoding="utf-8"))
    count = len(next(iter(found.values())))
    result: list[dict[str, Any]] = [
        {"file_name": names[i]} if names else {"row": i + 1} for i in range(count)
    ]
    for target in targets:
        name, labels = target["name"], target["labels"]
        prefix = f"{name}=" if len(targets) > 1 else ""
        for row, value in zip(result, found[name], strict=True):
            if target["kind"] == "regression":
                row[name] = float(value)
                if name in half:
                    row[f"low[{name}]"] = float(value) - half[name]
                    row[f"high[{name}]"] = float(value) + half[name]
                continue
            if target["kind"] == "multilabel":
                chosen = [label for label, p in zip(labels, value, strict=True) if p >= 0.5]
                between = target["separator"]
                if not between:
                    for label, p in zip(labels, value, strict=True):
                        row[label], row[f"probability[{label}]"] = int(p >= 0.5), float(p)
                    continue
                row[name] = chosen if between == "[]" else between.join(chosen)
            else:
                row[name] = labels[int(value.argmax())]
            for label, p in zip(labels, value, strict=True):
                row[f"probability[{prefix}{label}]"] = float(p)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Predict on new files.")
    parser.add_argument("data", type=Path, help="a file, or a folder of files")
    parser.add_argument(
        "--interval",
        type=float,
        metavar="LEVEL",
        help="of numbers: two columns that hold the true one with this probability, such as 0.9",
    )
    parser.add_argument("--out", type=Path, help="a CSV file; by default standard output")
    given = parser.parse_args()
    if not given.data.exists():
        sys.exit(f"error: {given.data} does not exist")
    try:
        found = rows(given.data, given.interval)
    except ValueError as error:
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"error: {given.data} needs {error.name}: pip install {error.name}")
    file = given.out.open("w", newline="", encoding="utf-8") if given.out else sys.stdout
    safe = preprocess.no_formula
    with file:
        writer = csv.writer(file)
        writer.writerow(map(safe, found[0]))
        writer.writerows(map(safe, row.values()) for row in found)


if __name__ == "__main__":
    main()
