"""Batches of drawn neighbours beside the whole graph: accuracy, seconds and memory.

    python scripts/large_data.py graph graph.npz
    python scripts/bench_neighbours.py graph.npz [--limit-mb 1000] [--epochs 5] [--steps 60]

Each family's baseline is trained in a process of its own with one thread: for ``--epochs`` on
batches, under a limit on memory that the whole graph exceeds, and for ``--steps`` on the whole
graph. Both are scored on the test part with all neighbours. Memory is the most that the process
held while it trained, beyond what it held before, and what was predicted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch


def held_mb() -> float:
    """Memory of this process that is in no file, MiB."""
    status = Path("/proc/self/status").read_text().split("RssAnon:")[1]
    return int(status.split()[0]) / 1024


class Peak(threading.Thread):
    """The most memory that is held from its start to ``stop``."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.most_mb = held_mb()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.01):
            self.most_mb = max(self.most_mb, held_mb())

    def stop(self) -> float:
        self.over.set()
        self.join()
        return self.most_mb - self.before


def trained(folder: Path, name: str, limit_mb: float | None, epochs: int) -> str:
    from nas.candidate import Candidate
    from nas.data import Dataset
    from nas.family import load_families
    from nas.plan import make_task
    from nas.task import Budget, Constraint
    from nas.training.batches import Batches, part_tensors
    from nas.training.cost import trim_heap
    from nas.training.evaluator import Evaluator
    from nas.training.fit import fit_proxy, folds
    from nas.training.metrics import score
    from nas.training.neighbours import layered_tensors
    from nas.training.proxy import Proxy

    dataset = Dataset.load(folder)
    limits = () if limit_mb is None else (Constraint("memory_mb", "<=", limit_mb),)
    task = make_task(dataset, constraints=limits, budget=Budget(), device="cpu", epochs=epochs)
    config = load_families("graphs")[name].space(task).baseline()
    evaluator = Evaluator(task, dataset)
    predicted = evaluator.preflight(Candidate(0, name, config, seed=0)).costs["memory_mb"]
    torch.manual_seed(0)
    module = Proxy(name, dict(config), task)
    (fold,) = folds(dataset, task)
    trim_heap(at_once=True)
    peak, begin = Peak(), time.perf_counter()
    peak.start()
    trainer = fit_proxy(module, *fold, epochs, 0, [])
    seconds, most_mb = time.perf_counter() - begin, peak.stop()
    peak, begin = Peak(), time.perf_counter()
    peak.start()
    given = layered_tensors(module.network, part_tensors(dataset, dataset.parts["test"], "cpu"))
    with torch.inference_mode():
        parts = [(module.eval().logits(batch), y) for batch, y in Batches(*given, 4096)]
    scored_s, scored_mb = time.perf_counter() - begin, peak.stop()
    target = task.targets[0].name
    truth = {target: np.concatenate([y[target].numpy() for _, y in parts])}
    found = score(task, truth, module.predictions(torch.cat([logits for logits, _ in parts])))
    return (
        f"{name:10} {'batches' if limits else 'whole':8} test {found['accuracy']:.4f}"
        f"  val {float(trainer.callback_metrics['accuracy']):.4f}  {trainer.global_step} steps in"
        f" {seconds:.0f} s  {most_mb:.0f} MiB (predicted {predicted:.0f})"
        f"  scored in {scored_s:.0f} s, {scored_mb:.0f} MiB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path)
    parser.add_argument("--limit-mb", type=float, default=1000.0)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        torch.set_num_threads(1)
        family, kind = args.one.split()
        batches = kind == "batches"
        print(trained(args.data, family, args.limit_mb if batches else None,
                      args.epochs if batches else args.steps))  # fmt: skip
    else:
        from tempfile import TemporaryDirectory

        from nas.data import read

        with TemporaryDirectory() as saved:
            read(args.data).save(Path(saved))
            for one in ("graphsage", "gcn", "gat"):
                for how in ("batches", "whole"):
                    own = [sys.executable, __file__, saved, "--one", f"{one} {how}"]
                    numbers = ("--limit-mb", args.limit_mb, "--epochs", args.epochs)
                    more = map(str, (*numbers, "--steps", args.steps))
                    subprocess.run([*own, *more], check=True)
