"""A search against one sensible training of the same length, all in, test part scored once.

    python compare.py WORK --data FOLDER [--minutes 10] [--seeds 2] [--only trec,fsdd] [--table]

For each data set and seed three contenders run one after the other, with the machine to
themselves: `nas` (search, then training of the winner, then the test part), `rival` (rival.py for
the same time) and `simple` (a scikit-learn model). Each finished run is one line of
WORK/results.jsonl with the commit it was made by; what stands there is not run again, so that an
interrupted comparison continues. --table only prints what is there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from data import PROBLEMS, Problem

HERE = Path(__file__).parent


def last_json(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
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
    script = [sys.executable, str(HERE / "rival.py"), *arguments]
    return last_json([*script, "--simple"] if simple else script)


def version() -> str:
    done = subprocess.run(
        ["git", "-C", str(HERE), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def load(results: Path) -> list[dict[str, Any]]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines() if line.endswith("}")]


def mean_and_error(scores: list[float]) -> str:
    if not scores:
        return "none"
    error = stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
    return f"{fmean(scores):.4f} ± {error:.4f} ({len(scores)})"


def table(rows: list[dict[str, Any]]) -> None:
    print("| data | metric | nas | rival | simple |\n|---|---|---|---|---|")
    for problem in PROBLEMS.values():
        cells = [problem.name, problem.metric]
        for contender in ("nas", "rival", "simple"):
            own = [r for r in rows if (r["data"], r["contender"]) == (problem.name, contender)]
            scores = [r["score"] for r in own if "score" in r]
            failures = [r["failed"] for r in own if "failed" in r]
            cells.append(mean_and_error(scores) + "".join(f"; {f}" for f in failures))
        print("| " + " | ".join(cells) + " |")


def main(arguments: argparse.Namespace) -> None:
    results = arguments.work / "results.jsonl"
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = load(results)
    done = {(r["data"], r["contender"], r["seed"]) for r in rows}
    names = arguments.only.split(",") if arguments.only else list(PROBLEMS)
    seconds = 60 * arguments.minutes
    for seed in range(arguments.seeds):
        for problem in (PROBLEMS[name] for name in names):
            for contender in ("nas", "rival", "simple"):
                if arguments.table or (problem.name, contender, seed) in done:
                    continue
                begin = time.monotonic()
                if contender == "nas":
                    found = by_nas(problem, seed, seconds, arguments.data, arguments.work)
                else:
                    simple = contender == "simple"
                    found = by_script(problem, seed, seconds, arguments.data, simple)
                key = {"data": problem.name, "contender": contender, "seed": seed}
                row = key | {"version": version(), "minutes": arguments.minutes} | found
                row |= {"all_in_s": time.monotonic() - begin, "load": os.getloadavg()[0]}
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), file=sys.stderr, flush=True)
                rows.append(row)
    table(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", help="names of data.py, separated by commas")
    parser.add_argument("--table", action="store_true")
    main(parser.parse_args())
