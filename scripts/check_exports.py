"""Does what a search finds leave in every form, for every modality? Searches of a minute, and then
all ways out of two points of each front.

    OMP_NUM_THREADS=1 python scripts/check_exports.py $NAS_DATA --out exports [--only images text]

Of each modality: a search; two points, trained at full scale; of both the design document, the
standalone folder, the ONNX file and the torch.export file, by one command. The folder predicts in
an environment of its own (OUT/environment, made once, with what the requirements.txt of the folders
name and nothing else), as `nas predict` does to 1e-5. The graphs' outputs are the network's to
1e-4. Last, `python -m nas.train fit --config` with three seeds reaches what the search measured,
less the tolerance that the recipe states.

Prints a line for each check, ``modality check figure PASS|FAIL``, and ends with exit code 4 where
one fails. What has passed is in OUT/passed.json, and is not repeated by a second run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from nas import recipe as recipes
from nas.run import Run
from nas.training.calibration import part_logits
from nas.training.metrics import score
from nas.training.proxy import TaskData, load_proxy

SEEDS = (11, 12, 13)
ALONE, GRAPH = 1e-5, 1e-4  # relative to the largest value, or to 1


@dataclass(frozen=True)
class Case:
    """A data set: below the folder of the data, with the options of its search, and what a trained
    network predicts of it."""

    data: str
    new: str
    options: tuple[str, ...] = ()


CASES = {
    "tabular": Case(
        "tabular/california_housing",
        "tabular/california_housing/test.csv.gz",
        ("--target", "median_house_value"),
    ),
    "series": Case("series/JapaneseVowels", "series/JapaneseVowels/JapaneseVowels_TEST.ts"),
    "graphs": Case("graphs/esol/esol.npz", "graphs/esol/esol.npz"),
    "text": Case("text/trec", "text/trec/test.csv.gz", ("--target", "label")),
    "multimodal": Case(
        "multimodal/womens_reviews",
        "multimodal/womens_reviews/test.csv.gz",
        ("--target", "Recommended IND"),
    ),
    "pointclouds": Case(
        "pointcloud/mnist_points/mnist_points.npz",
        "pointcloud/mnist_points/mnist_points.npz",
        ("--modality", "pointclouds"),
    ),
    "audio": Case("audio/fsdd", "audio/fsdd/wav", ("--modality", "audio")),
    "images": Case(
        "images/sign_digits",
        "images/sign_digits/test",
        ("--modality", "images", "--image-size", "32"),
    ),
}


class Failed(Exception):  # noqa: N818  # an outcome
    """A check that did not pass; the message is its figure."""


def command(*arguments: object, python: Path = Path(sys.executable)) -> str:
    """The standard output of a command; Failed where it ends with an error."""
    alone = python != Path(sys.executable)
    hidden = {"PYTHONPATH", "PYTHONHOME"} if alone else set()
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    done = subprocess.run(
        [str(python), *map(str, arguments)],
        env=environment, cwd="/" if alone else None,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise Failed(f"exit code {done.returncode}: {last:.200}")
    return done.stdout


def nas(*arguments: object) -> str:
    return command("-m", "nas", *arguments)


class Checks:
    """Runs checks that have not passed before, and prints a line for each."""

    def __init__(self, out: Path) -> None:
        self.file, self.failed = out / "passed.json", 0
        self.passed: dict[str, str] = (
            json.loads(self.file.read_text()) if self.file.exists() else {}
        )

    def __call__(self, modality: str, name: str, check: Callable[[], str]) -> bool:
        key = f"{modality} {name}"
        if key in self.passed:
            print(f"{modality:12} {name:24} {self.passed[key]}  PASS (before)", flush=True)
            return True
        begin = time.monotonic()
        try:
            self.passed[key] = check()
        except Failed as failed:
            self.failed += 1
            print(f"{modality:12} {name:24} {failed}  FAIL", flush=True)
            return False
        self.file.write_text(json.dumps(self.passed, indent=1))
        spent = time.monotonic() - begin
        print(f"{modality:12} {name:24} {self.passed[key]}  PASS ({spent:.0f} s)", flush=True)
        return True


class Modality:
    """The checks of one data set."""

    def __init__(self, name: str, data: Path, out: Path, limit: str, python: Path) -> None:
        self.case, self.data, self.limit, self.python = CASES[name], data, limit, python
        self.run = out / name

    def search(self) -> str:
        resume = ("--resume",) if (self.run / "task.json").exists() else ()
        nas("search", self.data / self.case.data, *self.case.options, "--out", self.run,
            "--time-limit", self.limit, *resume)  # fmt: skip
        run = Run(self.run)
        return f"{len(run.candidates())} candidates, {len(run.front())} on the front"

    def points(self) -> list[int]:
        """The best of the front, and the best of it of another family or else the cheapest."""
        run = Run(self.run)
        best, front = run.best(), run.front()
        metric, larger = run.task.quality.metric, run.task.quality.direction == "max"
        ordered = sorted(front, key=lambda c: c.metrics[metric], reverse=larger)
        others = [c for c in ordered if c.family != best.family] or [
            c for c in ordered[::-1] if c.number != best.number
        ]
        if not others:  # a front of one point: the best that is not on it
            others = [c for c in run.ranked() if c.number != best.number]
        return [best.number, *(c.number for c in others[:1])]

    def place(self, number: int) -> Path:
        return self.run / "models" / str(number)

    def train(self, number: int) -> str:
        recipe = self.place(number) / "recipe.yaml"
        nas("export", self.run, "-n", number, "--out", recipe)
        found = json.loads(
            nas("train", recipe, "--out", recipe.parent, "--time-limit", self.limit, "--json")
        )
        metric = next(iter(found["validation"]))
        intervals = "".join(
            f", 90 % intervals hold {100 * own['test_coverage']:.1f} %"
            for own in found["intervals"].values()
        )
        family = recipes.load(recipe)["model"]["init_args"]["family"]
        return f"{family}, test {metric} {found['test'][metric]:.4g}{intervals}"

    def export(self, number: int) -> str:
        """All forms at once; how far the graphs' outputs are from the network's."""
        place = self.place(number)
        options = [
            *("--design", place / "design", "--standalone", place / "alone"),
            *("--onnx", place / "network.onnx", "--torch-export", place / "network.pt2"),
        ]
        found = json.loads(nas("export", self.run, "-n", number, *options, "--json"))
        apart = {kind: found[kind]["difference"] for kind in ("onnx", "torch_export")}
        design = json.loads((place / "design" / "design.json").read_text())
        steps = ", ".join(f"{s['factor']:g}x {s['params']:,}" for s in design["scaling"]["steps"])
        text = (
            f"onnx within {apart['onnx']:.1g}, torch.export within {apart['torch_export']:.1g};"
            f" {design['parameters']['params']:,} parameters, {steps}"
        )
        if not max(apart.values()) <= GRAPH:
            raise Failed(text)
        return text

    def alone(self, number: int) -> str:
        """The largest difference of the folder's predictions from those of `nas predict`."""
        place, new = self.place(number), self.data / self.case.new
        if not self.python.exists():
            command("-m", "venv", self.python.parent.parent)
        command("-m", "pip", "install", "--quiet", "torch==2.13.0", "-r",
                place / "alone" / "requirements.txt", python=self.python)  # fmt: skip
        for absent in ("nas", "pytorch_lightning", "search_spaces"):
            try:
                command("-c", f"import {absent}", python=self.python)
            except Failed:
                continue
            raise Failed(f"the environment has {absent}")
        command(place / "alone" / "test_predictions.py", python=self.python)
        theirs, ours = place / "alone.csv", place / "nas.csv"
        command(place / "alone" / "predict.py", new, "--out", theirs, python=self.python)
        nas("predict", place, new, "--out", ours)
        return differences(pd.read_csv(theirs), pd.read_csv(ours))

    def seed(self, number: int, seed: int) -> str:
        """The validation quality that a training by Lightning's own command reaches."""
        recipe = self.place(number) / "recipe.yaml"
        folder = self.run / "seeds" / f"{number}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        command("-m", "nas.train", "fit", "--config", recipe, f"--seed_everything={seed}",
                "--trainer.default_root_dir", folder)  # fmt: skip
        of = recipes.load(recipe)
        (checkpoint,) = folder.glob("**/best.ckpt")
        proxy = load_proxy(checkpoint)
        data = TaskData(**of["data"]["init_args"])
        data.setup()
        assert data.dataset is not None
        rows = data.dataset.parts["val"]
        predicted = proxy.predictions(part_logits(proxy, data.dataset, rows))
        truth = {name: np.asarray(label)[rows] for name, label in data.dataset.labels.items()}
        about, metric = of["provenance"], of["provenance"]["objective"]
        value = score(proxy.task, truth, predicted)[metric]
        expected, tolerance = about["validation"][metric], float(about["tolerance"])
        sign = 1 if proxy.task.quality.direction == "max" else -1
        text = f"{metric} {value:.4g}, search {expected:.4g}, tolerance {tolerance:.2g}"
        if not sign * (value - expected) >= -tolerance:
            raise Failed(text)
        return text


def differences(theirs: pd.DataFrame, ours: pd.DataFrame) -> str:
    """The largest difference of two tables of predictions; Failed where one is above ``ALONE`` or
    a label differs."""
    columns = [c for c in ours if c not in ("row", "file_name")]
    if len(theirs) != len(ours) or not set(columns) <= set(theirs):
        raise Failed(f"{theirs.shape} {list(theirs)} instead of {ours.shape} {list(ours)}")
    if "file_name" in ours and "file_name" in theirs:
        theirs, ours = theirs.sort_values("file_name"), ours.sort_values("file_name")
    largest = 0.0
    for name in columns:
        a, b = theirs[name].to_numpy(), ours[name].to_numpy()
        if b.dtype.kind == "f":
            largest = max(largest, float(np.abs(a - b).max() / max(1.0, np.abs(b).max())))
        elif (wrong := int((a != b).sum())) > 0:
            raise Failed(f"{wrong} of {len(b)} labels in {name!r} differ")
    text = f"{len(ours)} samples within {largest:.1g}"
    if not largest <= ALONE:
        raise Failed(text)
    return text


def check(name: str, of: Modality, checks: Checks) -> None:
    """All checks of a modality; what needs one that failed is left out."""
    if not checks(name, "search", of.search):
        return
    for place, number in enumerate(of.points()):
        if not checks(name, f"{number} train", partial(of.train, number)):
            continue
        if checks(name, f"{number} export", partial(of.export, number)):
            checks(name, f"{number} alone", partial(of.alone, number))
        for seed in SEEDS if place == 0 else ():
            checks(name, f"{number} seed {seed}", partial(of.seed, number, seed))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--time-limit", default="1m", help="of a search, and of a full training")
    given = parser.parse_args(arguments)
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    python = out / "environment" / "bin" / "python"
    checks = Checks(out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in given.only:
            check(name, Modality(name, given.data.resolve(), out, given.time_limit, python), checks)
    print(f"{checks.failed} failed")
    return 4 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
