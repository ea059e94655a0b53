"""The peak memory of training and of inference: predicted on the meta device, and measured.

    OMP_NUM_THREADS=1 python scripts/bench_memory.py            # all families, a table
    OMP_NUM_THREADS=1 python scripts/bench_memory.py lstm vit   # some

Each network is large: its training step takes some hundred MiB. It is built and trained for
three steps in a fresh process, and predicts in another; what is measured is by how much the
greatest resident size of the process (VmHWM, man 5 proc) exceeds that before the network was
built. One thread, float32, AdamW. Linux.

Twice: where freed memory is handed back at once, as a search does when memory is short, which
shows what is needed; and with glibc's own habit of keeping it, which is faster, in pieces that
new tensors often do not fit into.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor

from nas.family import load_families
from nas.space import Config
from nas.task import Column, DataProfile, Member, Modality, SeriesForm, Target, Task
from nas.testing import sample_inputs
from nas.training import cost
from nas.training.augment import augment
from nas.training.proxy import Proxy, build_network

warnings.filterwarnings("ignore")

TARGET = (Target("y", "multiclass", tuple("abcdefghij"), (5_000,) * 10),)
COLUMNS = tuple(
    Column(f"n{i}", "numeric", quantiles=tuple(j / 8 for j in range(9))) for i in range(64)
)
TABLE = DataProfile(50_000, 50, 50, {"numeric": (64,)}, columns=COLUMNS)
IMAGES = DataProfile(
    50_000, 50, 50, {"image": (3, 96, 96)}, channel_mean=(0.5,) * 3, channel_std=(0.2,) * 3
)
TEXTS = DataProfile(
    50_000, 50, 50, {"tokens": (256,)}, lengths={"tokens": (256,) * 7}, vocabulary=20_000
)
SERIES = DataProfile(
    50_000, 50, 50, {"series": (512, 6)}, lengths={"series": (512,) * 7},
    channel_mean=(0.0,) * 6, channel_std=(1.0,) * 6, series=SeriesForm(),
)  # fmt: skip
WAVES = DataProfile(
    50_000, 50, 50, {"wave": (80_000,)}, lengths={"wave": (80_000,) * 7}, sample_rate=16_000
)
GRAPHS = DataProfile(
    50_000,
    50,
    50,
    {"nodes": (100, 32), "edges": (400, 2)},
    lengths={"nodes": (100,) * 7, "edges": (400,) * 7},
    channel_mean=(0.1,) * 32,
    channel_std=(1.0,) * 32,
)
CLOUDS = DataProfile(
    50_000, 50, 50, {"points": (1024, 3)}, lengths={"points": (1024,) * 7},
    channel_mean=(0.0,) * 3, channel_std=(0.4,) * 3,
)  # fmt: skip
BOTH = DataProfile(
    50_000,
    50,
    50,
    {"photo.image": (3, 96, 96), "photo.present": (), "note.tokens": (256,), "note.present": ()},
    lengths={"note.tokens": (256,) * 7},
    members={"photo": Member("images", IMAGES), "note": Member("text", TEXTS)},
)
PROFILES: dict[Modality, DataProfile] = {
    "tabular": TABLE,
    "images": IMAGES,
    "text": TEXTS,
    "series": SERIES,
    "audio": WAVES,
    "graphs": GRAPHS,
    "pointclouds": CLOUDS,
    "multimodal": BOTH,
}
# What differs from each family's baseline, and the batch.
LARGE: dict[str, tuple[Config, int]] = {
    "mlp": ({"width": 2048, "depth": 4}, 4096),
    "tabnet": ({"width": 64}, 4096),
    "ft_transformer": ({"dim": 128, "depth": 3}, 256),
    "resnet": ({"stem_width": 32, "width1": 32, "width2": 64, "width3": 128}, 256),
    "efficientnet": ({}, 64),
    "vit": ({"dim": 192, "depth": 6}, 64),
    "transformer": ({"dim": 128, "depth": 3, "vocabulary": 10_000}, 64),
    "lstm": ({"dim": 128, "hidden": 128, "depth": 2, "vocabulary": 10_000}, 64),
    "mamba": ({"dim": 64, "vocabulary": 10_000}, 96),
    "text_cnn": ({"dim": 128, "width": 128, "vocabulary": 10_000}, 128),
    "ngrams": ({"dim": 32, "longest": 3, "buckets": 2**17, "vocabulary": 10_000}, 64),
    "inception_time": ({}, 64),
    "series_resnet": ({}, 128),
    "random_kernels": ({}, 256),
    "series_transformer": ({"dim": 128, "patch": 4}, 128),
    "series_lstm": ({"dim": 96, "hidden": 96, "patch": 4}, 256),
    "series_mamba": ({"patch": 4}, 96),
    "audio_resnet": ({}, 64),
    "audio_cnn_transformer": ({}, 128),
    "wav2vec": ({"dim": 128}, 32),
    "whisper": ({"dim": 128}, 32),
    "gcn": ({"width": 128}, 256),
    "gat": ({"width": 128}, 256),
    "graphsage": ({"width": 128}, 256),
    "pointnet": ({"width": 64}, 256),
    "dgcnn": ({"width": 64}, 128),
    "sparse_cnn": ({"width": 48, "grid": 32}, 64),
    "early_fusion": ({}, 64),
    "late_fusion": ({}, 192),
    "cross_attention": ({}, 64),
}


def case(name: str) -> tuple[Task, Config, int]:
    family = load_families()[name]
    task = Task(family.modality, TARGET, PROFILES[family.modality]).with_objectives()
    changes, batch = LARGE[name]
    return task, family.space(task).complete(changes), batch


def resident(what: str) -> float:
    """MiB; ``what`` is VmRSS or VmHWM."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{what}:")[1].split()[0]) / 2**10


def measure(name: str, mode: str, heap: str) -> float:
    """By how much the process grows, at most, MiB."""
    torch.set_num_threads(1)
    if heap == "back":
        cost.trim_heap(at_once=True)
    task, config, batch = case(name)
    steps(Proxy(name, dict(config), task), task, 2, mode)  # what is loaded when it is first used
    gc.collect()
    given = sample_inputs(task, batch)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = resident("VmRSS") - sum(v.nbytes for v in given.values()) / 2**20
    torch.manual_seed(0)
    steps(Proxy(name, dict(config), task), task, batch, mode, given)
    return resident("VmHWM") - before


def steps(
    module: Proxy, task: Task, batch: int, mode: str, given: dict[str, Tensor] | None = None
) -> None:
    given = given or sample_inputs(task, batch)
    if mode == "inference":
        with torch.inference_mode():
            module.eval()(**given)
        return
    labels = {t.name: torch.zeros(batch, dtype=torch.long) for t in task.targets}
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    module.train()
    for _ in range(3):
        loss = module.training_step((given, labels), 0)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()


def predicted(name: str, mode: str) -> tuple[float, float]:
    """MiB, and the seconds that the prediction takes."""
    task, config, batch = case(name)
    begin = time.perf_counter()
    build, inputs = lambda: build_network(name, config, task), lambda n: sample_inputs(task, n)
    if mode == "training":
        found = cost.training_mb(build, inputs, batch, lambda given: augment(given, config))
    else:
        found = cost.inference_mb(build, inputs, batch)
    return found, time.perf_counter() - begin


def main(names: list[str]) -> None:
    if names[:1] == ["--measure"]:
        print(json.dumps(measure(*names[1:])))
        return
    print("family                 mode       batch  predicted     needed   error     kept     time")
    worst = 0.0
    for name in names or list(LARGE):
        for mode in ("training", "inference"):
            estimate, seconds = predicted(name, mode)
            needed, kept = (fresh(name, mode, heap) for heap in ("back", "kept"))
            error = estimate / needed - 1
            worst = max(worst, abs(error) if needed > 200 else 0.0)
            print(
                f"{name:22} {mode:9} {LARGE[name][1]:6} {estimate:8.0f} MiB {needed:6.0f} MiB"
                f" {error:+7.1%} {kept:4.0f} MiB {seconds:5.2f} s",
                flush=True,
            )
    print(f"largest error of those that need more than 200 MiB: {worst:.1%}")


def fresh(name: str, mode: str, heap: str) -> float:
    command = [sys.executable, __file__, "--measure", name, mode, heap]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(answer.stderr)
    return float(json.loads(answer.stdout))


if __name__ == "__main__":
    main(sys.argv[1:])
