"""A search against that of an earlier commit, in the same time: hypervolume of the trained fronts.

    git worktree add CHECKOUT COMMIT
    pip install --no-deps --target BEFORE CHECKOUT
    python -m experiments.before.compare WORK --before BEFORE --data FOLDER \
        [--minutes 5] [--seeds 2] [--points 6] [--epochs 15] [--only adult,trec] [--table]

For each data set and seed both commits search at once, each on a core of its own; a second seed
swaps the cores. Of each front the points of evenly spaced ranks by parameters are trained in
full by their own recipes, for as many epochs on both sides, and scored on the test part. What is
compared is the hypervolume of error and logarithm of parameters. A finished pair is one line of
WORK/results.jsonl and is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from experiments.equal_time.data import PROBLEMS, Problem
from experiments.results import Results, mean_and_error
from nas.front import hypervolume

ROOT = Path(__file__).parents[2]
FRONT = """
import json, sys
from pathlib import Path
from nas.run import Run
run = Run(Path(sys.argv[1]))
done = [c for c in run.candidates() if c.state == "complete"]
front = {c.number: c.metrics["params"] for c in run.front()}
print(json.dumps({"complete": len(done), "front": front}))
"""


def called(checkout: Path, core: int, *arguments: str) -> str:
    """What Python prints on standard output, with the package in a folder and one core."""
    done = subprocess.run(
        ["taskset", "-c", str(core), sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SystemExit(f"{checkout}: {' '.join(arguments[:4])}: {last}")
    return done.stdout


def spread(front: dict[str, float], points: int) -> list[str]:
    """Numbers of a front's points of evenly spaced ranks by parameters, ends included."""
    ordered = sorted(front, key=lambda number: front[number])
    places = np.linspace(0, len(ordered) - 1, min(points, len(ordered))).round().astype(int)
    return [ordered[i] for i in sorted(set(places.tolist()))]


def trained_front(
    checkout: Path, core: int, problem: Problem, seed: int, given: argparse.Namespace
) -> dict[str, Any]:
    """How many candidates a search completes, and error and parameters of points of its front."""
    out = given.work / "runs" / f"{problem.name}-{seed}-{core}"
    shutil.rmtree(out, ignore_errors=True)
    data = problem.folder(given.data, given.work)
    command = ["-m", "nas", "search", str(data), *problem.options, "--workers", "1"]
    command += [f"--objective={m}" for m in (problem.metric, "latency_ms", "params")]
    command += ["--time-limit", f"{60 * given.minutes:.0f}s", "--seed", str(seed)]
    if "--no-finish" in called(checkout, core, "-m", "nas", "search", "--help"):
        command.append("--no-finish")  # the winner's training is not compared
    called(checkout, core, *command, "--out", str(out))
    found = json.loads(called(checkout, core, "-c", FRONT, str(out)))
    points = []
    for number in spread(found["front"], given.points):
        recipe, model = out / f"{number}.yaml", out / f"full{number}"
        called(checkout, core, "-m", "nas", "export", str(out), "-n", number, "--out", str(recipe))
        train = ["-m", "nas", "train", str(recipe), "--epochs", str(given.epochs), "--json"]
        printed = called(checkout, core, *train, "--out", str(model))
        score = json.loads(printed.strip().splitlines()[-1])["test"][problem.metric]
        error = 1 - score if problem.higher_is_better else score
        points.append({"number": int(number), "error": error, "params": found["front"][number]})
    return {"complete": found["complete"], "front": len(found["front"]), "points": points}


def volumes(row: dict[str, Any]) -> dict[str, float]:
    """The hypervolume of each side, of 1, which a network has that is nowhere worse than any."""
    costs = {
        side: np.array([[p["error"], np.log10(p["params"])] for p in row[side]["points"]])
        for side in ("before", "now")
    }
    together = np.concatenate(list(costs.values()))
    best, worst = together.min(axis=0), together.max(axis=0)
    width = np.where(worst > best, worst - best, 1.0)
    reference = np.full(2, 1.1)  # a tenth beyond the worst, so that the ends count
    whole = float(reference.prod())
    return {side: hypervolume((c - best) / width, reference) / whole for side, c in costs.items()}


def table(results: Results) -> None:
    print("| data | seed | complete, before and now | hypervolume, before | now |")
    print("|---|---|---|---|---|")
    apart = []
    for row in results.rows:
        own = volumes(row)
        apart.append(own["now"] - own["before"])
        complete = ", ".join(str(row[side]["complete"]) for side in ("before", "now"))
        cells = [row["data"], row["seed"], complete, f"{own['before']:.3f}", f"{own['now']:.3f}"]
        print("| " + " | ".join(map(str, cells)) + " |")
    print(f"now less before: {mean_and_error(apart, 3)}")


def main(given: argparse.Namespace) -> None:
    results = Results(given.work)
    names = given.only.split(",")
    for seed in () if given.table else range(given.seeds):
        for name in names:
            if results.having(data=name, seed=seed):
                continue
            sides = {"before": given.before.resolve(), "now": ROOT}
            cores = sorted(os.sched_getaffinity(0))[:2][:: -1 if seed % 2 else 1]
            with ThreadPoolExecutor(2) as pool:
                asked = {
                    side: pool.submit(trained_front, place, core, PROBLEMS[name], seed, given)
                    for (side, place), core in zip(sides.items(), cores, strict=True)
                }
                found = {side: each.result() for side, each in asked.items()}
            results.add({"data": name, "seed": seed, "minutes": given.minutes} | found)
    table(results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=lambda text: Path(text).resolve())
    parser.add_argument("--before", type=Path, help="where the earlier commit is installed")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--points", type=int, default=6, help="of a front that are trained")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--only", default="adult,trec,sign_digits")
    parser.add_argument("--table", action="store_true")
    main(parser.parse_args())
