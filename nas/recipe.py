"""A candidate as a training recipe: the YAML of a LightningCLI run, with its provenance.

``nas train recipe.yaml`` or ``python -m nas.train fit --config recipe.yaml`` train it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from nas import rules
from nas.candidate import Candidate
from nas.files import write_whole
from nas.task import COSTS, InputError, Task

FORMAT = 1


def make(
    candidate: Candidate, task: Task, source: dict[str, Any], versions: dict[str, str]
) -> dict[str, Any]:
    """The recipe of ``candidate`` at full scale: the whole training part, and more epochs."""
    config = dict(candidate.config)
    batch_size = int(config["batch_size"])
    epochs = rules.full_epochs(task, batch_size)
    accumulate = candidate.cost.accumulate
    micro = batch_size // accumulate
    steps = rules.steps_per_epoch(task.profile.n_train, micro, accumulate) * epochs
    quality = task.quality
    return {
        "seed_everything": candidate.seed % 2**31,
        "model": {
            "class_path": "nas.training.proxy.Proxy",
            "init_args": {
                "family": candidate.family,
                "config": config,
                "task": task.to_dict(),
            },
        },
        "data": {
            "class_path": "nas.training.proxy.TaskData",
            "init_args": {
                **source,
                "batch_size": micro,
                "fingerprint": task.profile.fingerprint,
                "split_hash": task.profile.split,
            },
        },
        "optimizer": {
            "class_path": "torch.optim.AdamW",
            "init_args": {
                "lr": float(config["lr"]),
                "weight_decay": float(config["weight_decay"]),
                "fused": True,
            },
        },
        "lr_scheduler": {
            "class_path": "nas.training.lr.WarmupCosine",
            "init_args": {"total_steps": steps, "warmup_steps": rules.warmup_steps(steps)},
        },
        "trainer": {
            "max_epochs": epochs,
            # Found on a GPU, it can be trained without one too.
            "accelerator": "cpu" if task.device == "cpu" else "auto",
            "devices": 1,
            "gradient_clip_val": rules.gradient_clip(config),
            "accumulate_grad_batches": accumulate,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": False,
            "callbacks": [
                {
                    "class_path": "nas.training.proxy.LatestBest",
                    "init_args": {
                        "monitor": quality.metric,
                        "mode": quality.direction,
                        "filename": "best",
                        "enable_version_counter": False,
                        "save_weights_only": True,
                    },
                }
            ],
        },
        "provenance": {
            "format": FORMAT,
            "candidate": candidate.number,
            "origin": candidate.origin,
            "objective": quality.metric,
            "tolerance": _tolerance(quality.metric, candidate.metrics[quality.metric], task),
            "proxy": {
                "epochs": candidate.epochs,
                "trained": len(candidate.curve),  # fewer where its time was up
                "share": task.fidelity.share,
                "seed": candidate.seed,
                "accumulate": accumulate,
                "seconds": round(candidate.seconds, 1),
            },
            "validation": {k: v for k, v in candidate.metrics.items() if k not in COSTS},
            "cost": {k: v for k, v in candidate.metrics.items() if k in COSTS},
            "latency": measured.to_dict() if (measured := candidate.cost.latency) else {},
            "split_method": task.profile.split_method,
            "versions": versions,
        },
    }


def _tolerance(metric: str, value: float, task: Task) -> float:
    """How far a repetition of the proxy may be off: two standard errors of a fraction
    of the samples that score it, or a twentieth of a metric that is no fraction."""
    if metric.split("[")[0] in ("rmse", "mae", "val_loss", "r2", "score"):
        return 0.05 * abs(value)
    return 2 * math.sqrt(max(value * (1 - value), 0.01) / rules.scored_samples(task))


class _Dumper(yaml.SafeDumper):
    """Short lists on one line: a table's quantiles are not to be read one a line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _flow_short_lists(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    plain = all(not isinstance(item, (dict, list)) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=plain)


_Dumper.add_representer(list, _flow_short_lists)


def write(recipe: dict[str, Any], path: Path) -> None:
    of = recipe["provenance"]
    metric = of["objective"]
    value = of["validation"][metric]
    head = (
        f"# Candidate {of['candidate']}: {recipe['model']['init_args']['family']},"
        f" validation {metric} {value:.4g} as a proxy.\n"
        f"# Train it at full scale:  nas train {path.name}\n"
    )
    body = yaml.dump(recipe, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
    write_whole(path, head + body)


def load(path: str | Path) -> dict[str, Any]:
    """Read a recipe; InputError where the file is none."""
    path = Path(path)
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no recipe at {path}; `nas export RUN` writes one") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        line = str(error).splitlines()[0]
        raise InputError(f"{path} is not a YAML file: {line}") from None
    missing = [
        key
        for key in ("model", "data", "trainer", "provenance")
        if not isinstance(recipe, dict) or key not in recipe
    ]
    if missing:
        raise InputError(
            f"{path} is not a recipe (no {', '.join(missing)}); `nas export RUN` writes one"
        )
    checked: dict[str, Any] = recipe
    return checked
