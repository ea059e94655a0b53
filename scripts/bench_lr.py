"""Whether the learning-rate test pays: searches with and without it, at equal time.

    OMP_NUM_THREADS=1 python scripts/bench_lr.py $NAS_DATA/tabular/adult:income:mlp \\
        $NAS_DATA/text/trec:label:lstm,transformer --seeds 5 --time 240 --out lr.jsonl

A data set is PATH, PATH:TARGET or PATH:TARGET:FAMILIES. Of each seed the two searches run side by
side with one worker each, so that both see the same load. Printed for each, as mean and standard
error over the seeds, with the difference within a pair: the best quality at the end; the time to
the quality that the worse of both ends with; the hypervolume of the qualities and the logarithm of
the parameters, of which 0 and 1 are the best and worst of all searches of the data set; the
candidates. Results are kept in the file; what is there is not searched again. ``--off 30``
multiplies every family's own learning rate, and its bounds: what the test is worth to a family
whose author had other data in mind.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nas import rules
from nas.candidate import State
from nas.driver import search
from nas.front import hypervolume
from nas.space import Float, Param
from nas.task import NoFeasibleCandidate, Task

Record = dict[str, Any]
Key = tuple[str, int, float, float]


def one(data: str, seed: int, seconds: float, off: float, lr_test: bool) -> Record:
    """The complete candidates of a search, each with the seconds after which it was."""
    path, target, families = (*data.split(":"), "", "")[:3]
    began: list[float] = []
    if off != 1:
        training = rules.training

        def moved(task: Task, **given: float) -> list[Param]:
            return [
                replace(p, low=p.low * off, high=p.high * off, default=p.default * off)
                if isinstance(p, Float) and p.name == "lr"
                else p
                for p in training(task, **given)
            ]

        rules.training = moved  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        run = search(
            path,
            target or None,
            families=families.split(",") if families else (),
            time_limit=seconds,
            workers=1,
            device="cpu",
            seed=seed,
            out=Path(folder) / "run",
            lr_test=lr_test,
            on_start=lambda run: began.append(time.time()),
        )
        quality = run.task.quality
        sign = -1 if quality.direction == "max" else 1
        ended = [
            (
                c.started + c.seconds - began[0],
                sign * c.metrics[quality.metric],
                c.metrics["params"],
            )
            for c in run.candidates()
            if c.state == State.COMPLETE
        ]
        bounds = {name: test["bounds"] for name, test in run.rate_tests().items()}
        tried = len(run.candidates())
    return {
        "data": Path(path).name,
        "seed": seed,
        "seconds": seconds,
        "off": off,
        "lr_test": lr_test,
        "metric": quality.metric,
        "sign": sign,
        "complete": sorted(ended),
        "candidates": tried,
        "bounds": bounds,
    }


def pairs(out: Path) -> dict[Key, dict[bool, Record]]:
    """What the file holds."""
    found: dict[Key, dict[bool, Record]] = {}
    for line in out.read_text().splitlines() if out.exists() else []:
        record = json.loads(line)
        key = (record["data"], record["seed"], record["seconds"], record["off"])
        found.setdefault(key, {})[record["lr_test"]] = record
    return found


def time_to(record: Record, cost: float) -> float:
    """Seconds until the quality, as a cost, was reached."""
    return min(t for t, reached, _ in record["complete"] if reached <= cost)


def show(name: str, records: Sequence[dict[bool, Record]]) -> None:
    whole = np.array([row[1:] for pair in records for r in pair.values() for row in r["complete"]])
    whole[:, 1] = np.log(whole[:, 1])
    low, span = whole.min(axis=0), np.ptp(whole, axis=0)
    figures: dict[str, list[tuple[float, float]]] = {}
    for pair in records:
        both = (pair[False], pair[True])
        best = [min(row[1] for row in r["complete"]) for r in both]
        points = [np.array([[q, np.log(p)] for _, q, p in r["complete"]]) for r in both]
        volumes = [hypervolume((p - low) / span, (1.0, 1.0)) for p in points]
        sign = both[0]["sign"]
        for what, values in (
            (f"best {both[0]['metric']}", [sign * b for b in best]),
            ("time to the worse of both (s)", [time_to(r, max(best)) for r in both]),
            ("hypervolume", volumes),
            ("complete candidates", [float(len(r["complete"])) for r in both]),
            ("first complete after (s)", [r["complete"][0][0] for r in both]),
        ):
            figures.setdefault(what, []).append((values[0], values[1]))
    print(
        f"\n{name}: {len(records)} seeds\n{'':32}{'without':>20}{'with':>20}{'with - without':>20}"
    )
    for what, rows in figures.items():
        without, with_ = np.array(rows).T
        cells = [_summary(values) for values in (without, with_, with_ - without)]
        print(f"{what:32}" + "".join(f"{cell:>20}" for cell in cells))


def _summary(values: Any) -> str:
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{np.mean(values):.4g} ± {error:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", help="PATH[:TARGET[:FAMILIES]]")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--time", type=float, default=300.0, help="seconds of each search")
    parser.add_argument("--off", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("lr.jsonl"))
    given = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, max_tasks_per_child=1) as pool:
        for seed in range(given.seeds):
            for data in given.data:
                name = Path(data.partition(":")[0]).name
                if (name, seed, given.time, given.off) in pairs(given.out):
                    continue
                print(f"{name}, seed {seed}: two searches of {given.time:g} s", flush=True)
                job = (data, seed, given.time, given.off)
                both = [pool.submit(one, *job, lr_test) for lr_test in (False, True)]
                try:
                    lines = [json.dumps(each.result()) + "\n" for each in both]
                except NoFeasibleCandidate as error:
                    raise SystemExit(f"{name}, seed {seed}: {error}; give more --time") from None
                with given.out.open("a") as file:
                    file.write("".join(lines))
    found = pairs(given.out)
    for name in dict.fromkeys(key[0] for key in found):
        mine = [
            p for (n, _, s, off), p in found.items() if (n, s, off) == (name, given.time, given.off)
        ]
        if mine:
            show(f"{name}, {given.time:g} s", mine)


if __name__ == "__main__":
    main()
