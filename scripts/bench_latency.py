"""Does a front's latency rank alike on an idle machine and on a loaded one?

    OMP_NUM_THREADS=1 python scripts/bench_latency.py runs/digits DATA [--searches 2] [--out FILE]

measures the front of a finished run (or, with fewer than 20 on it, its complete candidates) twice,
the second time while searches on DATA load the machine, in three ways:

- "held": as a search ends: side by side in rounds, while trainings of this user pause;
- "side by side": the same, while trainings run;
- "in turn": each by itself, the median of half a second, while trainings run.

and prints Kendall's tau between the first and the second, by how much the second is slower, and
how long it took.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from nas.candidate import State
from nas.run import Run
from nas.training import latency
from nas.training.evaluator import from_folder

LEAST = 20  # points that a rank is worth telling of


@contextmanager
def open_to_all(*_: Any) -> Iterator[bool]:
    """In the place of ``latency.isolated``: nobody holds still."""
    yield True


def measured(passes: list[latency.Pass], way: str) -> list[float]:
    if way == "in turn":
        with torch.inference_mode():
            found = []
            for once in passes:
                latency._repeat(once, 0.1, least=3)
                found.append(float(np.median(latency._repeat(once, 0.5, least=11))))
        return found
    held = latency.isolated
    latency.isolated = held if way == "held" else open_to_all
    try:
        return [row.ms for row in latency.side_by_side(passes, "cpu")]
    finally:
        latency.isolated = held


@contextmanager
def load(data: str, searches: int) -> Iterator[None]:
    """Searches that train meanwhile, two workers each."""
    with tempfile.TemporaryDirectory() as folder:
        nas = str(Path(sys.executable).with_name("nas"))
        command = [nas, "search", data, "--time-limit", "20m"]
        processes = []
        for i in range(searches):
            out = Path(folder) / str(i)
            own = [*command, "--workers", "2", "--seed", str(i), "--out", str(out)]
            log = (Path(folder) / f"{i}.log").open("w")
            processes.append(subprocess.Popen(own, stdout=log, stderr=log))
        try:
            for i in range(searches):
                while not any(c.curve for c in trained(Path(folder) / str(i))):
                    if processes[i].poll() is not None:
                        raise SystemExit((Path(folder) / f"{i}.log").read_text())
                    time.sleep(2)
            yield
        finally:
            for process in processes:
                process.kill()  # its workers end with it
            for process in processes:
                process.wait()
            time.sleep(2)


def trained(folder: Path) -> list[Any]:
    return Run(folder).candidates() if (folder / "task.json").exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("data")
    parser.add_argument("--searches", type=int, default=2)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    run, work = Run(asked.run), from_folder(str(asked.run))
    points = run.front()
    if len(points) < LEAST:
        points = [c for c in run.candidates() if c.state in (State.COMPLETE, State.PRUNED)]
        points = [c for c in points if "latency_ms" in c.metrics][:40]
    passes = [latency.timed(work._network(c).eval(), work._sample(c, 1), "cpu") for c in points]
    ways = ("held", "side by side", "in turn")
    first = {way: measured(passes, way) for way in ways}
    found: dict[str, Any] = {"points": len(points), "searches": asked.searches}
    with load(asked.data, asked.searches):
        for way in ways:
            begin = time.monotonic()
            again = measured(passes, way)
            found[way] = {
                "tau": float(kendalltau(first[way], again).statistic),
                "slower": float(np.median(np.array(again) / np.array(first[way]))),
                "seconds": time.monotonic() - begin,
                "first": first[way],
                "second": again,
            }
            print(
                f"{way:13} tau {found[way]['tau']:.3f}  {found[way]['slower']:.2f} times as slow"
                f"  {found[way]['seconds']:.0f} s  ({len(points)} points)",
                flush=True,
            )
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
