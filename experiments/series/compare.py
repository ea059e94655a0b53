"""Searches on the official splits of five series data sets, all in, beside the simple models.

    python -m experiments.series.compare WORK --data FOLDER \
        [--minutes 5] [--seeds 0 1] [--only GunPoint] [--table]

Each is `nas search` with a time limit: reading, search, training of the winner and one scoring of
the test part. A finished run is a line of WORK/results.jsonl and is not run again. The simple
models are fitted on the same training part and scored on the same test part.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.results import Results
from nas.run import Run

# The metric, and what InceptionTime or the best of the archive reaches (the manifest of the data).
PUBLISHED = {
    "ItalyPowerDemand": ("accuracy", 0.966),
    "GunPoint": ("accuracy", 1.0),
    "BasicMotions": ("accuracy", 1.0),
    "JapaneseVowels": ("accuracy", 0.98),
    "Covid3Month": ("rmse", None),
}


def searched(name: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One search: the scores of its winner and of the simple models, or why there are none."""
    out = given.work / "runs" / f"{name}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "nas", "search", str(given.data / name), "--json"]
    command += ["--time-limit", f"{60 * given.minutes:.0f}s", "--seed", str(seed)]
    command += ["--out", str(out)]
    begin = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    row: dict[str, Any] = {"data": name, "seed": seed, "minutes": given.minutes}
    row |= {"all_in_s": round(time.monotonic() - begin, 1), "load": os.getloadavg()[0]}
    row["cores"] = len(os.sched_getaffinity(0))
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return row | {"failed": f"exit {done.returncode}: {last[:300]}"}
    run, metric = Run(out), PUBLISHED[name][0]
    finished = json.loads((out / "finished.json").read_text())
    if finished["error"]:
        return row | {"failed": finished["error"]}
    winner = next(c for c in run.candidates() if c.number == finished["candidate"])
    row |= {"score": finished["result"]["test"][metric], "family": winner.family}
    row |= {
        "validation": finished["result"]["validation"][metric],
        "params": winner.metrics["params"],
    }
    row["epochs"] = [finished["epochs"], finished["recipe_epochs"]]
    row["complete"] = sum(c.state.value == "complete" for c in run.candidates())
    row["finalists"] = finished["finalists"]
    simple = finished["result"].get("simple_test", {})
    return row | {"simple": {model: scores.get(metric) for model, scores in simple.items()}}


def table(results: Results) -> None:
    print("| data | metric | winners, seeds | mean | best simple | published |")
    print("|---|---|---|---|---|---|")
    for name, (metric, published) in PUBLISHED.items():
        own = sorted(results.having(data=name), key=lambda r: int(r["seed"]))
        scores = [r["score"] for r in own if "score" in r]
        cells = [str(round(r["score"], 4)) if "score" in r else r["failed"] for r in own]
        simple = [v for r in own for v in r.get("simple", {}).values() if v is not None]
        best = (min if metric == "rmse" else max)(simple, default=None)
        mean = round(fmean(scores), 4) if scores else None
        shown = None if best is None else round(best, 4)
        print(f"| {name} | {metric} | {', '.join(cells)} | {mean} | {shown} | {published} |")


def main(given: argparse.Namespace) -> None:
    results = Results(given.work)
    names = given.only.split(",") if given.only else list(PUBLISHED)
    for seed, name in () if given.table else product(given.seeds, names):
        if not results.having(data=name, seed=seed):
            results.add(searched(name, seed, given))
    table(results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--table", action="store_true", help="print what is there")
    main(parser.parse_args())
