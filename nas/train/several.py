"""The networks of an ensemble: trained one after another, each in a folder of its own, and kept as
one network that averages their logits."""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas import recipe as recipes
from nas import rules, terminal
from nas.files import NETWORKS
from nas.options import parse_duration
from nas.recipe_changes import Settings, apply, portable
from nas.task import InputError, Task
from nas.train.objects import build, is_alone, on_this_device
from nas.train.one import continued, tested, train_one, trained_before
from nas.train.score import of_network, scored, trained_network, write_result
from nas.training.calibration import calibrate
from nas.training.cost import parameters
from nas.training.ensemble import merge


def train_each(
    recipe: dict[str, Any], path: Path, out: Path, test: bool, resume: bool, settings: Settings
) -> dict[str, Any]:
    """Train the networks of an ensemble one after another, each in a folder of its own, and keep
    them as one. With ``resume`` those that are trained already stay. Those that there is no time
    for are left out."""
    limit_s, found = parse_duration(settings.time_limit), list[dict[str, Any]]()
    end = math.inf if limit_s is None else time.monotonic() + limit_s
    recipe["trainer"]["default_root_dir"] = str(out.resolve())
    folders = [out / NETWORKS / str(number) for number in range(recipes.size(recipe))]
    networks = _networks(portable(recipe), path, folders, settings)
    pairs = list(zip(networks, folders, strict=True))
    before = [trained_before(own, folder) if resume else {} for own, folder in pairs]
    (out / "result.json").unlink(missing_ok=True)
    # As it is continued, whatever options there are then.
    recipes.write(recipes.combined([portable(own) for own in networks]), out / "recipe.yaml")
    settings = Settings(logger=settings.logger, precision=settings.precision)
    for number, (own, folder) in enumerate(pairs):
        if before[number]:
            found.append(before[number])
            continue
        if found and time.monotonic() > end:
            terminal.line(f"note: the time was for {number} of {len(folders)} networks", err=True)
            break
        if limit_s is not None:
            left_s = max(1.0, (end - time.monotonic()) / (len(folders) - number))
            settings = replace(settings, time_limit=f"{left_s:.0f}s")
        terminal.line(f"network {number + 1} of {len(folders)}", err=True)
        try:
            found.append(train_one(own, path, folder, False, resume, settings))
        except KeyboardInterrupt:
            where = f"network {number + 1} of {len(folders)}"
            raise KeyboardInterrupt(f"interrupted in {where}; {continued(out)}") from None
        except InputError as error:  # with another seed it may fail as well
            if not found:
                raise
            terminal.line(
                f"note: network {number + 1} failed ({error}); {len(found)} are averaged", err=True
            )
            break
    # As they were trained: what the time has changed stands in it.
    trained = [recipes.read(folder / "recipe.yaml") for folder in folders[: len(found)]]
    whole = recipes.combined(trained)
    whole["data"] = networks[0]["data"]  # where they lie now
    recipes.write(whole, out / "recipe.yaml")
    return _averaged(recipes.load(out / "recipe.yaml"), path, out, found, test)


def _networks(
    recipe: dict[str, Any], path: Path, folders: Sequence[Path], settings: Settings
) -> list[dict[str, Any]]:
    """The recipes of an ensemble's networks, with ``settings``, each for its folder. InputError
    where they cannot be averaged."""
    found: list[dict[str, Any]] = []
    if rules.samples_neighbours(Task.from_dict(recipe["model"]["init_args"]["task"])):
        raise InputError(
            f"{path}: networks that are trained on drawn neighbours are not averaged; leave out"
            " --ensemble"
        )
    several = settings.devices not in (None, "1") or settings.num_nodes not in (None, 1)
    for number, folder in enumerate(folders):
        own = recipes.checked(recipes.network_recipe(recipe, number), str(path), folder)
        if several or not is_alone(own["trainer"]):
            raise InputError(
                f"{path}: the networks of an ensemble are trained on one device each; leave out"
                " --devices and --num-nodes, or give --ensemble 1 for one network"
            )
        apply(own, replace(settings, time_limit=None))
        if settings.precision is None:
            on_this_device(own)
        own["trainer"]["default_root_dir"] = str(folder.resolve())
        found.append(own)
    return found


def _averaged(
    recipe: dict[str, Any], path: Path, out: Path, found: Sequence[dict[str, Any]], test: bool
) -> dict[str, Any]:
    """Keep trained networks as one, score it, and write the result."""
    first = found[0]
    networks = [out / NETWORKS / str(number) / "model.ckpt" for number in range(len(found))]
    merge(networks, recipe["model"]["init_args"], out / "model.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        training = build(recipe, str(path))
        training.data.setup()
        dataset = training.data.dataset
        assert dataset is not None
        proxy = trained_network(training, out)
        calibrated = calibrate(proxy, out / "model.ckpt", dataset)
        scores = scored(training, out / "model.ckpt", "val")
        monitor = next(iter(first["validation"]))
        result = first | {
            **of_network(training, proxy, out),
            "validation": {monitor: scores[monitor]},
            "validation_loss": scores["val_loss"],
            "calibrated_loss": calibrated,
            "networks": [each["validation"][monitor] for each in found],
            "seconds": round(sum(each["seconds"] for each in found), 1),
            "scored_s": round(sum(each.get("scored_s", 0.0) for each in found), 2),
            "energy_wh": dict(sum((Counter(e["energy_wh"]) for e in found), Counter())),
            "params": parameters(training.module.network),
            "checkpoint": str(out / "model.ckpt"),
            "temperature": proxy.temperatures,
        }
        write_result(result, out)
        return tested(training, out, result) if test else result
