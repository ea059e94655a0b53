"""Studies that were never trained: plausible candidates for tests of what shows them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nas.candidate import Candidate, Cost, Health, Latency, Reason, State
from nas.options import SearchOptions
from nas.records import RunRecord
from nas.report import StudyView
from nas.space import Choice, Float, Int, Space
from nas.task import Column, Constraint, DataProfile, Target, Task

FAMILIES = ("mlp", "tabnet", "ft_transformer")
REASONS = (
    *(Reason.HALVING, Reason.HALVING, Reason.NAN),
    *(Reason.EXPLODING, Reason.OOM, Reason.INFEASIBLE),
)


def make_task(kind: str = "multiclass", limits: tuple[str, ...] = ("latency_ms<=3",)) -> Task:
    classes = ("setosa", "versicolor", "virginica") if kind == "multiclass" else ()
    target = Target("y", kind, classes, (312, 98, 41) if classes else (), mean=2.1, std=1.2)  # type: ignore[arg-type]
    profile = DataProfile(
        n_train=451,
        n_val=97,
        n_test=97,
        inputs={"numeric": (8,), "categorical": (3,)},
        columns=(Column("age", "numeric", missing=0.03), Column("city", "categorical")),
        fingerprint="5f0c1d9e",
        split="91ab77c2",
        split_method="stratified 70/15/15, seed 0",
    )
    task = Task("tabular", (target,), profile).with_objectives()
    return replace(task, constraints=tuple(map(Constraint.parse, limits)))


def make_candidates(
    task: Task, n: int, seed: int = 0, families: tuple[str, ...] = FAMILIES
) -> list[Candidate]:
    """Plausible candidates: quality saturates with size, latency follows size with noise."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(n):
        family = families[number % len(families)]
        depth, width = int(rng.integers(1, 7)), int(2 ** rng.uniform(4, 9))
        params = 11 * width + depth * width * width
        gap = 0.35 * math.exp(-0.3 * math.log10(params)) + abs(rng.normal(0, 0.03))
        lr = float(10 ** rng.uniform(-4, -1.5))
        latency = 0.05 * depth + params / 4e5 + abs(rng.normal(0, 0.1)) + number % len(families)
        score = {"accuracy": 0.99 - gap, "auc": 0.995 - gap / 2}
        quality = (
            score if task.default_quality == "accuracy" else {"rmse": 0.4 + 2 * gap, "r2": 1 - gap}
        )
        epochs = int(rng.integers(5, 21))
        worse = -0.5 if task.default_quality == "accuracy" else 1.0
        curve: tuple[dict[str, float], ...] = tuple(
            {"epoch": e, "loss": 1.4 * math.exp(-e / 5) + 0.1, "val_loss": 1.2 * math.exp(-e / 6)}
            | {
                "lr": lr,
                task.default_quality: quality[task.default_quality]
                * (1 + worse * math.exp(-e / 3)),
            }
            for e in range(epochs)
        )
        candidate = Candidate(
            number=number,
            family=family,
            config={
                "depth": depth,
                "width": width,
                "dropout": round(float(rng.random()) / 2, 3),
                "norm": ("batch", "layer", "none")[number % 3],
                "lr": lr,
                "residual": depth > 3,
                "batch_size": 32,
                "weight_decay": 1e-3,
            },
            seed=number,
            origin="baseline" if number < len(families) else "sampled",
            epochs=20,
            metrics=quality | {"latency_ms": latency, "params": params, "flops": 2.0 * params},
            curve=curve,
            cost=Cost(
                Latency(latency, latency / 9, isolated=number % 4 > 0, threads=1, batch=1),
                step_ms=latency * 30,
                device="AMD EPYC 9B14",
                use=0.9,
            ),
            gradient_norms={
                f"blocks.{i}.linear": float(10 ** rng.normal(-2, 1)) for i in range(depth)
            },
            health=Health(samples=20, gradient_norm=0.1, exploding=131.0, vanishing=1e-6),
            layers=_layers(depth, width),
            state=State.COMPLETE,
            worker=number % 4,
            started=1.7e9 + 7.0 * number + 1,
            seconds=4 + 10 * float(rng.random()),
        )
        if number >= 3 and rng.random() < 0.25:
            reason = REASONS[int(rng.integers(len(REASONS)))]
            state = State.FAILED if reason is Reason.OOM else State.PRUNED
            detail = f"gradient norm of blocks.0.linear was {rng.normal():.3g}"
            candidate = replace(candidate, state=state, reason=reason, detail=detail)
        made.append(candidate)
    return made


def _layers(depth: int, width: int) -> tuple[dict[str, Any], ...]:
    """The layers of an MLP, with gradient norms that fall along it and in time, and with units that
    die in its first layer."""
    return tuple(
        {
            "name": f"blocks.{i}.{part}",
            "type": kind,
            "output": [width],
            "params": size,
            "gradients": [
                [10 * t, float(f"{10 ** (-1 - 0.4 * i - 0.03 * t):.3g}")] for t in range(20)
            ]
            if size
            else [],
            "dead": [[10 * t, round(0.02 * t, 2)] for t in range(20)]
            if (i, part) == (0, "linear")
            else [],
        }
        for i in range(depth)
        for part, kind, size in (
            ("norm", "BatchNorm1d", 2 * width),
            ("linear", "Linear", width * width + width),
            ("act", "ReLU", 0),
        )
    )


def make_study(n: int = 60, kind: str = "multiclass", **changes: object) -> StudyView:
    task = make_task(kind)
    space = Space(
        (
            Int("depth", 1, 6, 3, why=("depth-from-data",)),
            Int("width", 16, 512, 128, log=True, why=("width-from-data", "params-per-sample")),
            Choice("residual", (False, True), True, why=("residual-when-deep",)),
            Float("dropout", 0.0, 0.5, 0.1, why=("dropout-from-risk",)),
            Choice("norm", ("batch", "layer", "none"), "batch", when={"residual": (True,)}),
            Float("lr", 1e-4, 3e-2, 1e-3, log=True, why=("lr-range-test",)),
        )
    )
    quality = {"accuracy": 0.88, "auc": 0.93} if kind == "multiclass" else {"rmse": 0.61}
    better = {"accuracy": 0.903, "auc": 0.95} if kind == "multiclass" else {"rmse": 0.55}
    study = StudyView(
        task=task,
        candidates=make_candidates(task, n),
        baselines=(
            {"name": "LogisticRegression", "metrics": quality, "seconds": 0.4},
            {"name": "HistGradientBoosting", "metrics": better, "seconds": 1.9},
        ),
        name="iris-large" if kind == "multiclass" else "house-prices",
        spaces=dict.fromkeys(FAMILIES, space),
        rules={
            "depth-from-data": ("Depth grows with the training samples.", "Tan & Le 2019, sec. 3"),
            "width-from-data": ("Width grows with the complexity of the data.", "design rules"),
            "params-per-sample": ("At most 100 parameters per sample.", "design rules"),
            "residual-when-deep": ("Residual from ten layers on.", "He et al. 2016, sec. 4.1"),
            "dropout-from-risk": ("Dropout follows the risk of overfitting.", "Srivastava 2014"),
        },
        notes=("Latency was measured again on the isolated device for the front.",),
        seconds=431.0,
        versions={"nas": "0.1.0", "torch": "2.13.0"},
    )
    return replace(study, **changes)  # type: ignore[arg-type]


def write_run(folder: Path, study: StudyView) -> Path:
    """The folder of a run that holds a study, as a search writes it; without its data."""
    folder.mkdir(parents=True)
    source = {"source": "nowhere", "target": ["y"], "modality": study.task.modality}
    record = RunRecord(SearchOptions(), dict(study.spaces), source, dict(study.versions))
    (folder / "run.json").write_text(record.written())
    (folder / "baselines.json").write_text(json.dumps(list(study.baselines)))
    (folder / "clock").write_text(f"{study.seconds:16.1f}\n")
    (folder / "layers").mkdir()
    (folder / "task.json").write_text(study.task.to_json())
    append(folder, study.candidates)
    return folder


def append(folder: Path, candidates: Sequence[Candidate]) -> None:
    """Write candidates into the journal of a run, as its driver does when each of them ends."""
    lines = []
    for c in candidates:
        if c.layers:
            (folder / "layers" / f"{c.number}.json").write_text(json.dumps(c.layers))
        row = {"candidate": replace(c, layers=()).to_dict()}
        line = {"op_code": 8, "worker_id": "made-up", "trial_id": c.number, "user_attr": row}
        lines.append(json.dumps(line, separators=(",", ":")) + "\n")
    with (folder / "study.journal").open("a") as file:
        file.write("".join(lines))
