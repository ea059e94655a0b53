"""How much of a training step is waiting for data that stay in a file.

    python scripts/bench_stream.py [--samples 4000] [--side 224] [--batch 64] [--steps 30]

Made-up images in a mapped file; training steps of a small network and of ResNet's baseline, with
the batches as tensors in memory and streamed from the file. Printed are the time of a step, the
ratio, and the share of the streamed steps that waits for a batch. One compute thread.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nas.data import Dataset
from nas.driver import make_task
from nas.family import load_families
from nas.task import Budget, DataProfile, Target
from nas.training import batches as module
from nas.training.batches import Batches, part_tensors
from nas.training.proxy import build_network


def made(folder: Path, samples: int, side: int) -> Dataset:
    rng = np.random.default_rng(0)
    shape = (3, side, side)
    pixels = rng.integers(0, 256, (samples, *shape), np.uint8)
    label = np.arange(samples) % 10
    target = Target("y", "multiclass", tuple("abcdefghij"), (samples // 10,) * 10)
    profile = DataProfile(
        samples - 20, 10, 10, {"image": shape}, channel_mean=(0.5,) * 3, channel_std=(0.3,) * 3
    )
    rows = np.arange(samples)
    parts = {"train": rows[:-20], "val": rows[-20:-10], "test": rows[-10:]}
    Dataset("images", (target,), profile, {"image": pixels}, {"y": label}, parts).save(folder)
    return Dataset.load(folder)


class Small(nn.Module):
    """So fast that reading matters most."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(8, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(image.float() / 255).flatten(1))


def step_s(network: nn.Module, batches: Batches, steps: int) -> tuple[float, float]:
    """Seconds of a step, and of waiting for its batch."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    waited, done = 0.0, 0
    source = iter(batches)
    next(source)
    begin = time.perf_counter()
    while done < steps:
        asked = time.perf_counter()
        found = next(source, None)
        if found is None:
            source = iter(batches)
            found = next(source)
        waited += time.perf_counter() - asked
        inputs, labels = found
        loss = nn.functional.cross_entropy(network(**inputs), labels["y"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done += 1
    return (time.perf_counter() - begin) / steps, waited / steps


def main(given: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("| network | in memory, ms | streamed, ms | ratio | waiting |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        dataset = made(Path(folder), given.samples, given.side)
        task = make_task(dataset, budget=Budget(None, 1), device="cpu", epochs=1)
        family = load_families("images")["resnet"]
        networks = {
            "small": lambda: Small(),
            "resnet, baseline": lambda: build_network("resnet", family.baseline(task), task),
        }
        for name, make in networks.items():
            found = []
            for limit in (1e18, 0.0):
                torch.manual_seed(0)
                module.resident_limit = lambda device, limit=limit: limit  # type: ignore[assignment]
                parts = part_tensors(dataset, dataset.parts["train"], "cpu")
                found.append(step_s(make(), Batches(*parts, given.batch, seed=0), given.steps))
            (memory, _), (streamed, waited) = found
            print(
                f"| {name} | {1e3 * memory:.1f} | {1e3 * streamed:.1f} | {streamed / memory:.2f} |"
                f" {waited / streamed:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    main(parser.parse_args())
