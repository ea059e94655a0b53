"""What training through the framework costs over a bare PyTorch loop, per step on one thread.

    OMP_NUM_THREADS=1 python scripts/bench_overhead.py --repeats 9

The same network, batches, optimiser (fused AdamW), clipping and schedule both ways, in short
runs one after the other in turn; medians over the runs. "process" is this process's own
time, which other work on the machine disturbs less than "wall".
"""

from __future__ import annotations

import argparse
import logging
import math
import time
import warnings
from statistics import median
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from nas.task import Column, DataProfile, Target, Task
from nas.training.lr import WarmupCosine
from nas.training.monitors import GradientMonitor, TimeLimit
from nas.training.proxy import Batches, Proxy

COLUMNS, BATCH = 64, 128
# Width, depth and steps of a run: about 2 ms and 20 ms a step.
NETWORKS = {"small": (80, 2, 200), "large": (384, 4, 40)}


def clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


class Stopwatch(pl.Callback):
    """The time of the steps alone, and the epoch's loss, as the search's reporter sums it."""

    def on_train_epoch_start(self, *_: Any) -> None:
        self.loss: Any = 0.0
        self.begin = clock()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.loss = self.loss + outputs["loss"].detach()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.end = clock()


def make_task(steps: int) -> Task:
    columns = tuple(Column(f"x{i}", "numeric", quantiles=(-1.0, 0.0, 1.0)) for i in range(COLUMNS))
    profile = DataProfile(steps * BATCH, 1, 1, {"numeric": (COLUMNS,)}, columns=columns)
    target = Target("y", "multiclass", tuple("abcdefghij"), (1,) * 10)
    return Task("tabular", (target,), profile).with_objectives()


def make_proxy(width: int, depth: int, task: Task) -> Proxy:
    torch.manual_seed(0)
    config = {
        "encoding": "standard", "width": width, "depth": depth, "residual": True,
        "norm": "batch", "activation": "relu", "dropout": 0.1, "lr": 1e-3,
        "weight_decay": 1e-3, "batch_size": BATCH,
    }  # fmt: skip
    return Proxy("mlp", config, task)


def framework(proxy: Proxy, batches: Batches) -> tuple[float, float]:
    """Wall and process seconds of one epoch, configured as in a search."""
    watch = Stopwatch()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        precision="32-true",
        gradient_clip_val=1.0,
        callbacks=[GradientMonitor(), watch, TimeLimit(600.0)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(proxy, batches)
    return watch.end[0] - watch.begin[0], watch.end[1] - watch.begin[1]


def bare(network: nn.Module, batches: Batches) -> tuple[float, float]:
    """The same epoch as a plain loop."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-3, fused=True)
    schedule = WarmupCosine(optimizer, len(batches), math.ceil(0.05 * len(batches)))
    network.train()
    begin = clock()
    for inputs, labels in batches:
        loss: Tensor = nn.functional.cross_entropy(network(**inputs), labels["y"])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    end = clock()
    return end[0] - begin[0], end[1] - begin[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")  # Lightning's advice on choices that are the benchmark's
    print("network    clock    bare ms  framework ms  ratio (quartiles)")
    for name, (width, depth, steps) in NETWORKS.items():
        task = make_task(steps)
        draw = torch.Generator().manual_seed(0)
        inputs = {"numeric": torch.randn(steps * BATCH, COLUMNS, generator=draw)}
        labels = {"y": torch.randint(0, 10, (steps * BATCH,), generator=draw)}
        times: list[tuple[tuple[float, float], tuple[float, float]]] = []
        for repeat in range(repeats + 1):
            plain = bare(make_proxy(width, depth, task).network, Batches(inputs, labels, BATCH, 0))
            ours = framework(make_proxy(width, depth, task), Batches(inputs, labels, BATCH, 0))
            if repeat:  # the first warms up
                times.append((plain, ours))
        for i, which in enumerate(("wall", "process")):
            one, other = (median(t[k][i] for t in times) / steps * 1e3 for k in (0, 1))
            low, high = np.percentile([t[1][i] / t[0][i] for t in times], (25, 75))
            ratio = f"{other / one:5.2f} ({low:.2f} to {high:.2f})"
            print(f"{name:10} {which:8} {one:7.2f}  {other:12.2f}  {ratio}")


if __name__ == "__main__":
    main()
