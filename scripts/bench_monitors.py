"""What the monitors save, what they cost, and whom they stop wrongly, on real data.

    OMP_NUM_THREADS=1 python scripts/bench_monitors.py DATA --trials 60

DATA holds tabular/adult and images/sign_digits. Trials are drawn at random from a space that is
wide on purpose: plain and residual stacks of any depth, any activation, normalised or not, with
weights, biases and learning rates far from and near to what is sound. Each is trained once to
its end by a monitor that notes and does not stop. A search with monitors and one without are
then replayed from the record, over many orders of the trials; without monitors a network whose
output is not finite still ends at its first validation. All times are this process's own.
Overhead: what the monitor's hooks take, over the rest of the training's steps in the same run;
and, as a check, the good trials once more in short runs with and without the monitor in turn.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from nas.data import read
from nas.family import load_families
from nas.plan import make_task
from nas.task import Budget, Task
from nas.training.batches import Batches, Tensors
from nas.training.fit import folds
from nas.training.monitors import GradientMonitor, TrainingStopped
from nas.training.proxy import Proxy

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
ORDERS = 2_000
OVERHEAD_RUNS, OVERHEAD_EPOCHS = 8, 3


@dataclass(frozen=True)
class Setting:
    """A data set and how its trials are trained."""

    folder: str
    read: dict[str, Any]
    family: str  # whose losses and inputs the stack is given
    samples: int
    batch_size: int
    epochs: int
    widths: tuple[int, ...]
    deepest: int


SETTINGS = {
    "adult": Setting(
        "tabular/adult", {"target": "income"}, "mlp", 6_400, 128, 10, (32, 64, 96), 30
    ),
    "sign_digits": Setting(
        "images/sign_digits", {"image_size": 16}, "resnet", 1_405, 32, 10, (8, 12, 16), 10
    ),
}


@dataclass(frozen=True)
class Trial:
    config: dict[str, Any]
    quality: float  # accuracy after the last epoch; 0 where it never came
    seconds: float
    reason: str = ""
    stop_s: float = math.inf  # when a monitor that stops would have ended it
    overhead: float = 0.0  # time in the monitor's hooks over the rest of the steps
    evidence: str = ""


# -- the wide space ----------------------------------------------------------------------------


def draw(rng: random.Random, setting: Setting) -> dict[str, Any]:
    return {
        "depth": round(math.exp(rng.uniform(0, math.log(setting.deepest)))),
        "width": rng.choice(setting.widths),
        "activation": rng.choice(list(ACTIVATIONS)),
        "norm": rng.choice(("none", "none", "batch", "layer")),
        "residual": rng.random() < 1 / 3,
        "gain": math.exp(rng.gauss(0.0, 0.6)),  # of the weights' spread over He's
        "bias": rng.choice((0.0, 0.0, 0.0, -1.0)),
        "lr": 10 ** rng.uniform(-5, 0),
        "weight_decay": 10 ** rng.uniform(-4, -1),
    }


class Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Stack(nn.Module):
    """``depth`` + 1 blocks of linear layers (or 3 x 3 convolutions, halved twice), and a head."""

    def __init__(
        self, config: dict[str, Any], encode: Callable[..., Tensor], channels: int, outputs: int
    ) -> None:
        super().__init__()
        self.images = not isinstance(encode, nn.Module)
        self.encode = encode
        width = config["width"]
        layers = [self.block(config, channels, 2)]
        for i in range(config["depth"]):
            block = self.block(config, width, 1)
            layers.append(Residual(block) if config["residual"] else block)
            if self.images and i == config["depth"] // 2:
                layers.append(nn.MaxPool2d(2))
        self.body, self.head = nn.Sequential(*layers), nn.Linear(width, outputs)
        for layer in self.body.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                nn.init.kaiming_normal_(layer.weight)
                layer.weight.data *= config["gain"]
                nn.init.constant_(layer.bias, config["bias"])

    def block(self, config: dict[str, Any], inputs: int, stride: int) -> nn.Sequential:
        width = config["width"]
        batch = nn.BatchNorm2d if self.images else nn.BatchNorm1d
        return nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride, 1) if self.images else nn.Linear(inputs, width),
            {"none": nn.Identity, "batch": batch, "layer": lambda w: nn.GroupNorm(1, w)}[
                config["norm"]
            ](width),
            ACTIVATIONS[config["activation"]](),
        )

    def forward(self, **inputs: Tensor) -> Tensor:
        x = self.body(self.encode(**inputs))
        return self.head(x.mean((2, 3)) if self.images else x)


def pixels(image: Tensor) -> Tensor:
    return image.float() / 127.5 - 1


class Bench:
    """The data of a setting, and the trainings on it."""

    def __init__(self, data: Path, setting: Setting) -> None:
        self.setting = setting
        dataset = read(data / setting.folder, **setting.read)
        self.task: Task = make_task(dataset, budget=Budget(None, 1, 1), device="cpu")
        (train, self.val), *_ = folds(dataset, self.task)
        samples = len(next(iter(train[1].values())))
        picked = torch.randperm(samples, generator=torch.Generator().manual_seed(0))
        picked = picked[: setting.samples]
        self.train: Tensors = tuple({k: v[picked] for k, v in part.items()} for part in train)
        self.base = load_families()[setting.family].baseline(self.task)

    def proxy(self, config: dict[str, Any], seed: int) -> Proxy:
        torch.manual_seed(seed)
        plain = {"augment": "none", "label_smoothing": 0.0}
        training = {name: config[name] for name in ("lr", "weight_decay")}
        proxy = Proxy(self.setting.family, self.base | plain | training, self.task)
        if self.setting.family == "mlp":
            encode = proxy.network.input
            channels = encode.width
        else:
            encode, channels = pixels, self.task.profile.inputs["image"][0]
        proxy.network = Stack(config, encode, channels, self.task.outputs)
        return proxy

    def fit(
        self, proxy: Proxy, epochs: int, seed: int, callbacks: list[pl.Callback], **options: Any
    ) -> pl.Trainer:
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", devices=1, gradient_clip_val=1.0,
            callbacks=callbacks, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            **options,
        )  # fmt: skip
        trainer.fit(
            proxy, Batches(*self.train, self.setting.batch_size, seed), Batches(*self.val, 512)
        )
        return trainer

    def trial(self, config: dict[str, Any], seed: int) -> Trial:
        monitor, clock = Timed(stop=False), Clock()
        proxy = self.proxy(config, seed)
        begin = time.process_time()
        try:
            trainer = self.fit(proxy, self.setting.epochs, seed, [clock, monitor])
            quality = float(trainer.callback_metrics["accuracy"])
        except TrainingStopped:  # its output on the validation part is not finite
            quality = 0.0
        seconds = time.process_time() - begin
        steps_s = clock.times[-1] - clock.times[0]
        trial = Trial(config, quality, seconds, overhead=monitor.own_s / (steps_s - monitor.own_s))
        if (found := monitor.finding) is None:
            return trial
        # Reached in the course of the step after whose beginning the clock was read.
        stop_s = clock.times[min(found.step + 1, len(clock.times) - 1)] - begin
        return replace(trial, reason=found.reason, stop_s=stop_s, evidence=found.evidence)

    def overhead(self, config: dict[str, Any], seed: int) -> float:
        """Process time of the steps with the monitor over that without."""
        times: dict[bool, list[float]] = {True: [], False: []}
        for run in range(OVERHEAD_RUNS + 1):
            for on in (True, False) if run % 2 else (False, True):
                clock = Clock()
                callbacks = [GradientMonitor(), clock] if on else [clock]
                self.fit(
                    self.proxy(config, seed), OVERHEAD_EPOCHS, seed, callbacks, limit_val_batches=0
                )
                if run:  # the first warms up
                    times[on].append(clock.times[-1] - clock.times[0])
        return sum(times[True]) / sum(times[False]) - 1


class Timed(GradientMonitor):
    """The monitor, and the process time that it takes for itself."""

    own_s = 0.0


def _timed(name: str) -> Callable[..., None]:
    hook = getattr(GradientMonitor, name)

    def timed(self: Timed, *arguments: Any, **named: Any) -> None:
        begin = time.process_time()
        try:
            hook(self, *arguments, **named)
        finally:
            self.own_s += time.process_time() - begin

    return timed


for _name in (
    "on_train_batch_start", "on_before_backward", "on_before_optimizer_step", "on_train_batch_end"
):  # fmt: skip
    setattr(Timed, _name, _timed(_name))


class Clock(pl.Callback):
    """Process time at the beginning of each step, and after the last."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.times.append(time.process_time())

    def on_train_end(self, *_: Any) -> None:
        self.times.append(time.process_time())


# -- the replay --------------------------------------------------------------------------------


def replay(trials: list[Trial], overhead: float, good: float) -> dict[str, float]:
    """Means over orders of the trials, one after another on one worker: how long until the
    quality that the search without monitors ends with, and how many good trials are finished in
    half of the time that all take without them."""
    quality = np.array([t.quality for t in trials])
    stopped = np.array([bool(t.reason) for t in trials])
    without = np.array([t.seconds for t in trials]) / (1 + overhead)
    with_them = np.array([min(t.stop_s, t.seconds) for t in trials])
    best, half = quality.max(), without.sum() / 2
    rng = np.random.default_rng(0)
    to_best: dict[bool, list[float]] = {True: [], False: []}
    finished: dict[bool, list[int]] = {True: [], False: []}
    for _ in range(ORDERS):
        order = rng.permutation(len(trials))
        for on, seconds in ((True, with_them), (False, without)):
            ends = seconds[order].cumsum()
            completes = ~stopped[order] if on else np.ones(len(order), bool)
            reached = completes & (quality[order] >= best)
            to_best[on].append(float(ends[reached][0]) if reached.any() else math.inf)
            inside = completes & (quality[order] >= good) & (ends <= half)
            finished[on].append(int(inside.sum()))
    return {
        "all_on": with_them.sum(),
        "all_off": without.sum(),
        "to_best_on": fmean(to_best[True]),
        "to_best_off": fmean(to_best[False]),
        "good_on": fmean(finished[True]),
        "good_off": fmean(finished[False]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--trials", type=int, default=60, help="on each data set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="write each trial to this file, a line each")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("pytorch_lightning", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")  # Lightning's advice on choices that are the benchmark's
    everything: list[Trial] = []
    wrong_in_all = 0
    for name, setting in SETTINGS.items():
        bench, rng = Bench(given.data, setting), random.Random(f"{name} {given.seed}")
        trials = [bench.trial(draw(rng, setting), i) for i in range(given.trials)]
        if given.record:
            with given.record.open("a") as file:
                file.writelines(json.dumps({"data": name} | asdict(t)) + "\n" for t in trials)
        ranked = sorted(range(len(trials)), key=lambda i: -trials[i].quality)
        top = ranked[: len(trials) // 4]
        good = trials[top[-1]].quality
        wrong = [t for t in trials if t.reason and t.quality >= good]
        each = [trials[i].overhead for i in top]
        overhead = median(each)
        again = [bench.overhead(trials[i].config, i) for i in top]
        gain = replay(trials, overhead, good)
        reasons = Counter(t.reason or "completed" for t in trials)
        stopped = [t.quality for t in trials if t.reason]
        print(f"\n{name}: {len(trials)} trials, {sum(t.seconds for t in trials):.0f} s; best"
              f" {trials[top[0]].quality:.4f}, the best quarter from {good:.4f}")  # fmt: skip
        print("  verdicts            ", ", ".join(f"{r} {n}" for r, n in reasons.most_common()))
        print(f"  wrongly stopped      {len(wrong)} of {len(trials)} trials; of the best quarter"
              f" {len(wrong) / len(top):.1%}; the best that was stopped ended at"
              f" {max(stopped, default=math.nan):.4f}")  # fmt: skip
        for t in wrong:
            print(f"    {t.quality:.4f} {t.reason}: {t.evidence}; {t.config}")
        print(f"  time for all trials  {1 - gain['all_on'] / gain['all_off']:.1%} less")
        print(f"  time to equal best   {gain['to_best_on']:.0f} s against {gain['to_best_off']:.0f}"
              f" s: {1 - gain['to_best_on'] / gain['to_best_off']:.1%} less")  # fmt: skip
        print(f"  good trials in half  {gain['good_on']:.2f} against {gain['good_off']:.2f}:"
              f" {gain['good_on'] / gain['good_off'] - 1:.1%} more")  # fmt: skip
        print(f"  overhead             {overhead:.1%} in the median of the best quarter"
              f" ({min(each):.1%} to {max(each):.1%}); with and without in turn"
              f" {fmean(again):.1%} ± {stdev(again) / len(again) ** 0.5:.1%}")  # fmt: skip
        sys.stdout.flush()
        everything += trials
        wrong_in_all += len(wrong)
    print(f"\nwrongly stopped in all: {wrong_in_all} of {len(everything)}"
          f" ({wrong_in_all / len(everything):.1%})")  # fmt: skip


if __name__ == "__main__":
    main()
