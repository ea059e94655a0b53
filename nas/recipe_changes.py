"""How a recipe is trained here: other epochs, several devices, another precision, and such.

``apply`` changes a recipe that ``nas.recipe.checked`` has returned, so that what was trained stands
in the recipe beside the model. ``portable`` is that recipe as it is kept, and ``same`` what it must
have in common with another one for the training to continue.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas import rules
from nas.options import LOGGERS, option
from nas.space import ensemble, members
from nas.task import InputError, UsageError

Recipe = dict[str, Any]
LATEST, EARLY = "nas.training.proxy.LatestBest", "nas.training.proxy.Patience"
AVERAGE = "nas.training.proxy.AveragedWeights"


@dataclass(frozen=True)
class Settings:
    """What to change in a recipe, as options of ``nas train``; None leaves it as it is."""

    epochs: int | None = option(None, "Instead of the recipe's.", at_least=1)
    devices: str | None = option(
        None,
        "GPUs, or processes on a CPU, of a machine or of a Ray cluster: a number, or auto for all"
        " GPUs.",
    )
    num_nodes: int | None = option(None, "Machines (torchrun or srun starts them).", at_least=1)
    strategy: str | None = option(
        None,
        "ddp: each device has the whole network; fsdp: a part of it.",
        choices=("auto", "ddp", "fsdp"),
    )
    precision: str | None = option(
        None,
        "Precision of the training; default: the recipe's.",
        choices=("32-true", "bf16-mixed", "16-mixed", "bf16-true"),
    )
    time_limit: str | None = option(
        None, "End within 10m or 2h: the schedule has the epochs that fit."
    )
    ema: float | None = option(
        None, "Keep a moving average of the weights with this decay, such as 0.999."
    )
    patience: int | None = option(
        None, "End after so many epochs without a better one; 0: never.", at_least=0
    )
    ensemble: int | None = option(
        None, "Train so many networks, one after another, and average their logits.", at_least=1
    )
    logger: str | None = option(
        None,
        "Where the metrics of each epoch go too, in --out or by the variables of its package.",
        choices=LOGGERS,
    )


def apply(recipe: Recipe, settings: Settings) -> None:
    """Change ``recipe``. Raises UsageError for a value that is not allowed, InputError where the
    recipe lacks what is to be changed."""
    trainer = recipe["trainer"]
    if settings.epochs is not None:
        for_epochs(recipe, settings.epochs)
    if settings.devices is not None or settings.num_nodes is not None:
        devices = device_count(
            trainer if settings.devices is None else {"devices": settings.devices}
        )
        _on_devices(recipe, devices, settings.num_nodes or int(trainer.get("num_nodes", 1)))
    if settings.strategy is not None:
        trainer["strategy"] = settings.strategy
    if settings.precision is not None:
        trainer["precision"] = settings.precision
        if settings.precision == "16-mixed" and "optimizer" in recipe:
            # It would unscale the gradients itself, after they are clipped.
            recipe["optimizer"]["init_args"]["fused"] = False
    if settings.ema is not None:
        _callback(recipe, AVERAGE, {"decay": settings.ema})
    if settings.ensemble is not None:
        model = recipe["model"]["init_args"]
        first = members(model["family"], model["config"])[0]
        model["config"] = ensemble([first] * settings.ensemble)
        recipe.pop("networks", None)
    if settings.patience is not None:
        _for_patience(recipe, settings.patience)


def for_epochs(recipe: Recipe, epochs: int, steps: int | None = None) -> None:
    """Train for ``epochs``, with as much of them for the warm-up and the patience as before. An
    epoch has so many optimiser ``steps``; None: as many as before."""
    schedule, old = recipe.get("lr_scheduler"), recipe["trainer"].get("max_epochs")
    recipe["trainer"]["max_epochs"] = epochs
    for each in _callbacks(recipe, EARLY):
        if old and old > 0 and "patience" in each["init_args"]:
            patience = each["init_args"]["patience"]
            scaled = math.ceil(patience * epochs / old)
            each["init_args"]["patience"] = max(scaled, min(patience, rules.PATIENCE_EPOCHS))
    if schedule is None or "total_steps" not in schedule["init_args"]:
        return
    if steps is None:
        if not old or old < 1:
            raise InputError(
                "--epochs needs a recipe with trainer.max_epochs, to scale its schedule by"
            )
        steps = schedule["init_args"]["total_steps"] // old
    _for_steps(schedule["init_args"], steps * epochs)


def _for_steps(schedule: dict[str, Any], steps: int) -> None:
    schedule["total_steps"] = steps
    if "warmup_steps" in schedule:
        schedule["warmup_steps"] = rules.warmup_steps(steps)


def device_count(trainer: dict[str, Any]) -> int:
    """How many devices a trainer has on a machine."""
    devices = trainer.get("devices", 1)
    if isinstance(devices, list):
        return len(devices)
    try:
        if (found := int(devices)) >= 1:
            return found
    except ValueError:
        pass
    raise UsageError(f"devices must be a number from 1 on, got {devices!r}; see --devices")


def _on_devices(recipe: Recipe, devices: int, nodes: int) -> None:
    """Train on so many devices: each gets the recipe's batches, so that an epoch has fewer steps.

    Where gradients were accumulated, devices do that first. The learning rate grows with the
    square root of the samples in a step (Malladi et al. 2022, "On the SDEs and Scaling Rules for
    Adaptive Gradient Algorithms"), of SGD in proportion to them (Goyal et al. 2017, sec. 2.1).
    """
    trainer, data = recipe["trainer"], recipe["data"]["init_args"]
    before = device_count(trainer) * int(trainer.get("num_nodes", 1))
    now, accumulate = devices * nodes, int(trainer.get("accumulate_grad_batches", 1))
    trainer |= {"devices": devices, "num_nodes": nodes}
    if now == before:
        return
    fewer = max(1, accumulate * before // now)
    trainer["accumulate_grad_batches"] = fewer
    samples = recipe["model"]["init_args"]["task"]["profile"]["n_train"]
    growth = fewer * now / (accumulate * before)
    if "optimizer" in recipe and "lr" in recipe["optimizer"]["init_args"]:
        sgd = recipe["optimizer"]["class_path"] == "torch.optim.SGD"
        recipe["optimizer"]["init_args"]["lr"] *= growth if sgd else math.sqrt(growth)
    old = rules.steps_per_epoch(samples, data["batch_size"], accumulate, before)
    new = rules.steps_per_epoch(samples, data["batch_size"], fewer, now)
    _for_steps_per_epoch(recipe, old, new)


def for_batches(recipe: Recipe, before: int) -> None:
    """Have the schedule follow a batch size that was ``before``."""
    trainer, samples = recipe["trainer"], recipe["model"]["init_args"]["task"]["profile"]["n_train"]
    devices = device_count(trainer) * int(trainer.get("num_nodes", 1))
    accumulate, now = int(trainer.get("accumulate_grad_batches", 1)), recipe["data"]["init_args"]
    old, new = (
        rules.steps_per_epoch(samples, size, accumulate, devices)
        for size in (before, now["batch_size"])
    )
    _for_steps_per_epoch(recipe, old, new)


def _for_steps_per_epoch(recipe: Recipe, before: int, now: int) -> None:
    """Have the schedule follow the optimiser's steps in an epoch."""
    schedule = recipe.get("lr_scheduler")
    if schedule is not None and "total_steps" in schedule["init_args"]:
        total = max(1, round(schedule["init_args"]["total_steps"] / before * now))
        _for_steps(schedule["init_args"], total)


def _callbacks(recipe: Recipe, name: str) -> list[dict[str, Any]]:
    found = recipe["trainer"].get("callbacks") or []
    return [each for each in found if each["class_path"] == name]


def _callback(recipe: Recipe, name: str, arguments: dict[str, Any]) -> None:
    """Add a callback, or set these arguments of the one that is there."""
    if present := _callbacks(recipe, name):
        present[0]["init_args"] |= arguments
        return
    others = recipe["trainer"].get("callbacks") or []
    recipe["trainer"]["callbacks"] = [{"class_path": name, "init_args": arguments}, *others]


def _for_patience(recipe: Recipe, epochs: int) -> None:
    if epochs == 0:
        others = recipe["trainer"].get("callbacks") or []
        recipe["trainer"]["callbacks"] = [e for e in others if e["class_path"] != EARLY]
        return
    best = (_callbacks(recipe, LATEST) or _callbacks(recipe, EARLY))[:1]
    if not best:
        raise InputError(f"--patience needs a recipe that keeps its best epoch ({LATEST})")
    followed = {key: best[0]["init_args"][key] for key in ("monitor", "mode")}
    _callback(recipe, EARLY, {**followed, "patience": epochs})


def portable(recipe: Recipe) -> Recipe:
    """A recipe whose output paths are relative to the folder of the training, which may move."""
    trainer = copy.deepcopy(recipe["trainer"])
    folder = Path(trainer.pop("default_root_dir"))
    objects = [*(trainer.get("callbacks") or []), trainer.get("logger")]
    for arguments in (each["init_args"] for each in objects if isinstance(each, dict)):
        for key in {"dirpath", "save_dir"} & arguments.keys():
            if arguments[key] is not None:
                arguments[key] = str(Path(arguments[key]).relative_to(folder))
    return {**recipe, "trainer": trainer}


def same(recipe: Recipe) -> dict[str, Any]:
    """What must be the same for a training to continue: not where data lie, on what it runs and how
    long it may."""
    free = ("accelerator", "max_time")
    trainer = {k: v for k, v in portable(recipe)["trainer"].items() if k not in free}
    arguments = {k: v for k, v in recipe["data"]["init_args"].items() if k != "source"}
    return {
        **{key: recipe.get(key) for key in ("seed_everything", "model", "optimizer")},
        "lr_scheduler": recipe.get("lr_scheduler"),
        "trainer": trainer,
        "data": arguments,
    }
