"""A search against one sensible training of the same length, all in, test part scored once.

    python -m experiments.equal_time.compare WORK --data FOLDER \
        [--minutes 10] [--seeds 2] [--only trec,fsdd] [--table]

For each data set and seed three contenders run one after the other, with the machine to
themselves: `nas` (search, then training of the winner, then the test part), `rival` (rival.py for
the same time) and `simple` (a scikit-learn model). Each finished run is one line of
WORK/results.jsonl with the commit it was made by; what stands there is not run again, so that an
interrupted comparison continues. --table only prints what is there.
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
from typing import Any

from experiments.equal_time.data import PROBLEMS, Problem
from experiments.results import Results, mean_and_error

ROOT = Path(__file__).parents[2]


def last_json(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failed": f"exit {done.returncode}: {last[:300]}"}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def by_nas(problem: Problem, seed: int, seconds: float, data: Path, work: Path) -> dict[str, Any]:
    folder, out = problem.folder(data, work), work / "runs" / f"{problem.name}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "nas", "search", str(folder), *problem.options, "--json"]
    command += [f"--objective={m}" for m in (problem.metric, "latency_ms", "params")]
    command += ["--time-limit", f"{seconds:.0f}s", "--seed", str(seed), "--out", str(out)]
    found = last_json(command)
    if "failed" in found:
        return found
    finished = json.loads((out / "finished.json").read_text())
    if finished["error"]:
        return {"failed": finished["error"]}
    result = finished["result"]
    kept = {"score": result["test"][problem.metric], "validation": result["validation"]}
    return kept | {"epochs": finished["epochs"], "recipe_epochs": finished["recipe_epochs"]}


def by_script(
    problem: Problem, seed: int, seconds: float, data: Path, simple: bool
) -> dict[str, Any]:
    arguments = [problem.name, "--data", str(data), "--seconds", str(seconds), "--seed", str(seed)]
    script = [sys.executable, "-m", "experiments.equal_time.rival", *arguments]
    return last_json([*script, "--simple"] if simple else script)


def version() -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def table(results: Results) -> None:
    print("| data | metric | nas | rival | simple |\n|---|---|---|---|---|")
    for problem in PROBLEMS.values():
        cells = [problem.name, problem.metric]
        for contender in ("nas", "rival", "simple"):
            own = results.having(data=problem.name, contender=contender)
            scores = [r["score"] for r in own if "score" in r]
            failures = [r["failed"] for r in own if "failed" in r]
            cells.append(mean_and_error(scores) + "".join(f"; {f}" for f in failures))
        print("| " + " | ".join(cells) + " |")


def main(arguments: argparse.Namespace) -> None:
    results = Results(arguments.work)
    names = arguments.only.split(",") if arguments.only else list(PROBLEMS)
    wanted = product(range(arguments.seeds), names, ("nas", "rival", "simple"))
    for seed, name, contender in () if arguments.table else wanted:
        key = {"data": name, "contender": contender, "seed": seed}
        if results.having(**key):
            continue
        begin, given = time.monotonic(), (PROBLEMS[name], seed, 60 * arguments.minutes)
        if contender == "nas":
            found = by_nas(*given, arguments.data, arguments.work)
        else:
            found = by_script(*given, arguments.data, simple=contender == "simple")
        row = key | {"version": version(), "minutes": arguments.minutes} | found
        results.add(row | {"all_in_s": time.monotonic() - begin, "load": os.getloadavg()[0]})
    table(results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", help="names of data.py, separated by commas")
    parser.add_argument("--table", action="store_true")
    main(parser.parse_args())
