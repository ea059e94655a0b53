"""What an executor costs a candidate: searches whose evaluator computes a formula.

    python scripts/bench_executors.py --trials 40 --trials 200

For each number of trials and each executor, in turn: the seconds until the first candidate is
trained, and the milliseconds per candidate after the first ten; ``--epochs`` is how often a
candidate reports and waits for an answer. The sampler is random, the cheapest.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from nas.search.local import LocalWorkers
from nas.search.loop import drive
from nas.search.study import Study
from nas.search.workers import Workers
from nas.space import Space
from nas.testing import EVALUATOR, small_spaces, small_task


@contextmanager
def local(workers: int) -> Iterator[Any]:
    yield lambda folder: LocalWorkers(workers, EVALUATOR, {"folder": str(folder)}, folder / "logs")


@contextmanager
def ray(workers: int) -> Iterator[Any]:
    from nas.search.cluster import Cluster
    from nas.search.tune import TuneWorkers

    with Cluster(cpus_per_trial=0.5, gpus_per_trial=0) as cluster:
        yield lambda folder: TuneWorkers(workers, EVALUATOR, {"folder": str(folder)}, cluster)


def measure(start: Any, trials: int, epochs: int) -> tuple[float, float]:
    """Seconds until the first candidate is trained, and seconds per candidate after ten."""
    with tempfile.TemporaryDirectory() as name:
        folder, begin = Path(name), time.monotonic()
        ends: list[float] = []

        def note(_: Workers) -> None:
            done = sum(study.ended.values())
            ends.extend([time.monotonic()] * (done - len(ends)))

        with (
            closing(
                Study(
                    folder, small_task(epochs=epochs), Space.join(small_spaces()), sampler="random"
                )
            ) as study,
            start(folder) as pool,
        ):
            drive(study, pool, trials=trials, on_event=note)
        return ends[0] - begin, (ends[-1] - ends[9]) / (len(ends) - 10)


@click.command(help=__doc__)
@click.option("--trials", multiple=True, type=int, default=(40, 200))
@click.option("--epochs", default=1)
@click.option("--workers", default=2)
def main(trials: tuple[int, ...], epochs: int, workers: int) -> None:
    click.echo("executor  trials  first s  ms per candidate")
    for executor in (local, ray):
        with executor(workers) as start:
            for count in trials:
                first, each = measure(start, count, epochs)
                click.echo(f"{executor.__name__:8}  {count:6}  {first:7.2f}  {each * 1e3:8.1f}")


if __name__ == "__main__":
    main()
