"""Recipes at full scale: ``nas train`` and ``python -m nas.train fit --config recipe.yaml``.

A recipe may come from anybody. nas/recipe.py holds it to an exact list of classes and parameters;
here each name of that list stands beside its class (``_CLASSES``), and nothing else is looked up:
no string of a recipe is imported, called, or read as the name of a file to load.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shlex
import shutil
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from pytorch_lightning.loggers import CSVLogger

from nas import recipe as recipes
from nas import rules, terminal
from nas.candidate import Reason
from nas.data import Dataset
from nas.files import LAST, NETWORKS, PREVIOUS, read_json, write_whole
from nas.options import parse_duration
from nas.recipe_changes import Settings, apply
from nas.space import members
from nas.task import InputError, SelfCheckFailed, Task, UsageError
from nas.training.baselines import tested
from nas.training.calibration import calibrate, intervals, score_interval
from nas.training.callbacks import EpochLines, InTime, StopAfter, Threads, kept_threads
from nas.training.cost import parameters
from nas.training.device import cpu_has_bfloat16, precision, prepare
from nas.training.energy import Energy
from nas.training.ensemble import merge
from nas.training.fit import folds, train_folds
from nas.training.loggers import make_logger
from nas.training.lr import WarmupCosine
from nas.training.metrics import mean_scores
from nas.training.monitors import GradientMonitor, TrainingStopped
from nas.training.proxy import (
    AveragedWeights,
    LatestBest,
    Patience,
    Proxy,
    TaskData,
    load_proxy,
    proxy_of,
    quiet_lightning,
)
from nas.training.resume import (
    Interrupted,
    KeepLast,
    Signals,
    kept_generators,
    refuse_others,
    signals,
)

# Every class that a recipe may name (``nas.recipe.CLASSES``).
_CLASSES: dict[str, Callable[..., Any]] = {
    "nas.training.proxy.Proxy": Proxy,
    "nas.training.proxy.TaskData": TaskData,
    "torch.optim.AdamW": torch.optim.AdamW,
    "torch.optim.Adam": torch.optim.Adam,
    "torch.optim.SGD": torch.optim.SGD,
    "nas.training.lr.WarmupCosine": WarmupCosine,
    "torch.optim.lr_scheduler.CosineAnnealingLR": torch.optim.lr_scheduler.CosineAnnealingLR,
    "torch.optim.lr_scheduler.OneCycleLR": torch.optim.lr_scheduler.OneCycleLR,
    "nas.training.proxy.LatestBest": LatestBest,
    "nas.training.proxy.AveragedWeights": AveragedWeights,
    "nas.training.proxy.Patience": Patience,
    "pytorch_lightning.callbacks.ModelCheckpoint": ModelCheckpoint,
    "pytorch_lightning.callbacks.EarlyStopping": EarlyStopping,
    "pytorch_lightning.callbacks.StochasticWeightAveraging": StochasticWeightAveraging,
    "pytorch_lightning.loggers.CSVLogger": CSVLogger,
}


class _RecipeProxy(Proxy):
    """A proxy with the optimiser and the schedule of a recipe in place of its own."""

    recipe: dict[str, Any]

    def configure_optimizers(self) -> Any:
        if "optimizer" not in self.recipe:
            return super().configure_optimizers()
        given = self.recipe["optimizer"]["init_args"]
        groups = self.trained(
            float(given.get("lr", self.config["lr"])), float(given.get("weight_decay", 0.0))
        )
        optimizer = _made(self.recipe, "optimizer", groups)
        if "lr_scheduler" not in self.recipe:
            return optimizer
        schedule = _made(self.recipe, "lr_scheduler", optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _made(sections: dict[str, Any], key: str, *given: Any) -> Any:
    """The object that a section describes; InputError where its values do not fit."""
    named = sections[key]
    try:
        return _CLASSES[named["class_path"]](*given, **named["init_args"])
    except InputError:
        raise
    except Exception as error:  # whatever torch and Lightning raise for a value they refuse
        raise InputError(f"{key}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no reason given'}"


@dataclass(frozen=True)
class Training:
    """What a recipe describes, ready for ``trainer.fit(module, data)``."""

    module: Proxy
    data: TaskData
    trainer: pl.Trainer


def build(recipe: dict[str, Any], where: str) -> Training:
    """The objects of a recipe that ``nas.recipe.checked`` has returned.

    Seeds all generators, so that the same recipe gives the same network. Raises InputError, which
    begins with ``where``, for values that a class refuses.
    """
    quiet_lightning()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's hints are about options we have chosen
        if (seed := recipe["seed_everything"]) is not False:
            pl.seed_everything(0 if seed is True else seed, workers=True, verbose=False)
        prepare("cuda" if torch.cuda.is_available() else "cpu")
        module = proxy_of(recipe["model"]["init_args"], where, _RecipeProxy)
        module.recipe = recipe
        options = dict(recipe["trainer"])
        try:
            if "optimizer" in recipe:
                module.configure_optimizers()  # wrong values are found before data are read
            data = _made(recipe, "data")
            if isinstance(options.get("logger"), dict):
                options["logger"] = _made(options, "logger")
            callbacks = options.get("callbacks") or []
            options["callbacks"] = [_made({"callbacks": each}, "callbacks") for each in callbacks]
            if _is_alone(options):  # whatever the variables of Slurm or torchrun say
                options["plugins"] = [LightningEnvironment()]
            elif here := _placed(options):
                options |= here
            trainer = pl.Trainer(**options)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except Exception as error:  # whatever Lightning raises for a value it refuses
            raise InputError(f"{where}: trainer: {_one_line(error)}") from error
    return Training(module, data, trainer)


def _is_alone(options: dict[str, Any]) -> bool:
    """Whether a trainer has one device on one machine."""
    return _processes(options) == 1


def _processes(options: dict[str, Any]) -> int:
    """How many processes a trainer has; 0 where it finds that out itself."""
    devices = options.get("devices", 1)
    count = len(devices) if isinstance(devices, list) else devices
    return count * int(options.get("num_nodes", 1)) if isinstance(count, int) else 0


def _placed(options: dict[str, Any]) -> dict[str, int]:
    """How many devices and machines there are where torchrun, or a cluster in its way, has started
    as many processes as a trainer has devices: it has chosen the machines."""
    if not TorchElasticEnvironment.detect():
        return {}
    everywhere, here = (int(os.environ[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if everywhere != _processes(options):
        return {}
    return {"devices": here, "num_nodes": everywhere // here}


def _on_this_device(recipe: dict[str, Any]) -> None:
    """Train in float32 where the recipe's precision is not this device's: most CPUs emulate
    bfloat16, which is slow, and GPUs before Ampere have none."""
    trainer = recipe["trainer"]
    gpu = trainer.get("accelerator", "auto") != "cpu" and torch.cuda.is_available()
    wanted, here = trainer.get("precision"), precision("cuda" if gpu else "cpu")
    half = isinstance(wanted, str) and wanted in ("16-mixed", "bf16-mixed", "bf16-true", "bf16")
    if not gpu and wanted == "bf16-mixed" and cpu_has_bfloat16():
        return
    if half and here == "32-true" and (not gpu or wanted != "16-mixed"):
        trainer["precision"] = here
        where = "this GPU has no bfloat16" if gpu else "this CPU has no arithmetic for it"
        terminal.line(
            f"note: trained in {here}, not in {wanted} as the recipe says: {where}"
            f" (--precision {wanted} insists)",
            err=True,
        )


def main(args: Sequence[str]) -> None:
    """``fit --config FILE … --SECTION.KEY=VALUE …``: train, without more.

    Files and values are merged in their order, and the result is checked as a whole. What is
    written stays in ``--trainer.default_root_dir``, or the working directory. Raises InputError.
    """
    usage = "python -m nas.train fit --config recipe.yaml [--trainer.max_epochs=3 …]"
    if not args or args[0] in ("-h", "--help"):
        terminal.echo(f"usage: {usage}")
        return
    if args[0] != "fit":
        raise UsageError(f"{args[0]!r} is unknown; use {usage}")
    merged: dict[str, Any] = {}
    out, files, rest = Path(), [], list(args[1:])
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        if not key.startswith("-") or not (equals or rest):
            raise UsageError(f"{key!r} has no value or is no option; use {usage}")
        value = value if equals else rest.pop(0)
        if key in ("-c", "--config"):
            files.append(value)
            _merge(merged, recipes.read(Path(value)))
            continue
        if key == "--trainer.default_root_dir":
            out, value = Path(value), "."
        nested: Any = _value(key, value)
        for part in reversed(key.removeprefix("--").split(".")):
            nested = {part: nested}
        _merge(merged, nested)
    if not files:
        raise UsageError(f"no recipe is given; use {usage}")
    recipe = recipes.checked(merged, files[-1], out)
    if recipes.size(recipe) > 1:
        raise InputError(f"{files[-1]}: an ensemble is trained by `nas train {files[-1]}`")
    _on_this_device(recipe)
    training = build(recipe, files[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _fit(training)


def _value(key: str, text: str) -> Any:
    try:
        return recipes.parse(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{key}={text}: {str(error).splitlines()[0]}") from None


def _merge(content: dict[str, Any], more: dict[str, Any]) -> None:
    """Put ``more`` into ``content``, section by section; another class replaces a section."""
    for key, value in more.items():
        old = content.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            name = old.get("class_path")
            if value.get("class_path", name) == name:
                _merge(old, value)
                continue
        content[key] = copy.deepcopy(value)


def train(
    path: Path,
    out: Path,
    epochs: int | None = None,
    test: bool = True,
    resume: bool = False,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Train a recipe, then score the best epoch once on the test part (not without ``test``).

    The generators of random numbers (of a recipe with a seed) and torch's number of threads are as
    before afterwards.

    Args:
        path: The recipe.
        out: A folder for ``model.ckpt``, ``recipe.yaml`` as it was trained, and ``result.json``.
        epochs: In place of the recipe's; its schedule is shortened alike.
        resume: Go on with the training whose state is in ``out``/last.ckpt; where there is none,
            begin.
        settings: Further changes of the recipe.

    Returns:
        The result: test and validation metrics, epochs, seconds, parameters. Of several processes
        only the first returns; the others end.

    Raises:
        InputError: A recipe, data or a state that are wrong.
        KeyboardInterrupt: At Ctrl-C and SIGTERM, with what is kept: the state in last.ckpt, and in
            model.ckpt the best epoch so far, or the network as it is where none is over.
    """
    recipe = recipes.load(path, out)
    settings = settings or Settings()
    if epochs is not None:
        settings = replace(settings, epochs=epochs)
    if settings.devices == "auto":
        settings = replace(settings, devices=str(max(1, torch.cuda.device_count())))
    if settings.ensemble is not None:
        apply(recipe, Settings(ensemble=settings.ensemble))
        settings = replace(settings, ensemble=None)
    how = _train_each if recipes.size(recipe) > 1 else _train
    # Without a seed the next training must draw on, and give another network.
    seeded = recipe["seed_everything"] is not False
    with kept_generators() if seeded else nullcontext():
        return how(recipe, path, out, test, resume, settings)


@kept_threads()
def _train(
    recipe: dict[str, Any],
    path: Path,
    out: Path,
    test: bool,
    resume: bool,
    settings: Settings,
) -> dict[str, Any]:
    """Train one network; see ``train``."""
    begin = time.monotonic()
    apply(recipe, settings)
    if settings.precision is None:
        _on_this_device(recipe)
    limit_s = parse_duration(settings.time_limit)
    recipe["trainer"]["default_root_dir"] = str(out.resolve())
    with warnings.catch_warnings(), signals() as heard:
        warnings.simplefilter("ignore")  # Lightning's hints are about options we have chosen
        training = build(_timed(recipe, limit_s) if limit_s else recipe, str(path))
        if settings.logger is not None:
            training.trainer.loggers = [make_logger(settings.logger, out)]
        _keeps_best(training, path, out)
        last = _begin(training, recipe, out, resume, heard)
        if limit_s:
            in_time = InTime(begin + limit_s)
            training.trainer.callbacks += [in_time]  # type: ignore[attr-defined]
        try:
            _fit(training, last.path if last.path.exists() else None)
            if not training.trainer.is_global_zero:
                raise SystemExit(0)
            return _finish(training, recipe, out, last.seconds, test)
        except (KeyboardInterrupt, Interrupted):
            if not training.trainer.is_global_zero:
                raise SystemExit(0) from None
            kept = _keep(training, out)
            if last.path.exists():
                kept += f"; {_continued(out)}"
            raise KeyboardInterrupt(kept) from None


def _continued(out: Path) -> str:
    """The command that continues the training in a folder, in a sentence."""
    again = ["nas", "train", str(out / "recipe.yaml"), "--out", str(out), "--resume"]
    return f"`{shlex.join(again)}` goes on"


def _train_each(
    recipe: dict[str, Any], path: Path, out: Path, test: bool, resume: bool, settings: Settings
) -> dict[str, Any]:
    """Train the networks of an ensemble one after another, each in a folder of its own, and keep
    them as one. With ``resume`` those that are trained already stay. Those that there is no time
    for are left out."""
    limit_s, found = parse_duration(settings.time_limit), list[dict[str, Any]]()
    end = math.inf if limit_s is None else time.monotonic() + limit_s
    recipe["trainer"]["default_root_dir"] = str(out.resolve())
    folders = [out / NETWORKS / str(number) for number in range(recipes.size(recipe))]
    networks = _networks(_portable(recipe), path, folders, settings)
    pairs = list(zip(networks, folders, strict=True))
    before = [_trained_before(own, folder) if resume else {} for own, folder in pairs]
    (out / "result.json").unlink(missing_ok=True)
    # As it is continued, whatever options there are then.
    recipes.write(recipes.combined([_portable(own) for own in networks]), out / "recipe.yaml")
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
            found.append(_train(own, path, folder, False, resume, settings))
        except KeyboardInterrupt:
            where = f"network {number + 1} of {len(folders)}"
            raise KeyboardInterrupt(f"interrupted in {where}; {_continued(out)}") from None
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
        if several or not _is_alone(own["trainer"]):
            raise InputError(
                f"{path}: the networks of an ensemble are trained on one device each; leave out"
                " --devices and --num-nodes"
            )
        apply(own, replace(settings, time_limit=None))
        if settings.precision is None:
            _on_this_device(own)
        own["trainer"]["default_root_dir"] = str(folder.resolve())
        found.append(own)
    return found


def _trained_before(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The result of a training in ``folder`` that is over; {} where there is none. InputError where
    it, or one that is not over, was of another network. One that a limit of time has shortened, or
    that had another precision, as on another machine, is the same."""
    result, model = folder / "result.json", folder / "model.ckpt"
    if (folder / LAST).is_file():
        refuse_others(folder / LAST, _same(recipe))
        return {}
    if not (result.is_file() and model.is_file()):
        return {}
    kept, wanted = recipes.load(folder / "recipe.yaml"), copy.deepcopy(recipe)
    kept["trainer"]["default_root_dir"] = str(folder.resolve())
    epochs = [each["trainer"].get("max_epochs") or 0 for each in (kept, wanted)]
    if 0 < epochs[0] < epochs[1]:
        apply(wanted, Settings(epochs=epochs[0]))
    for each in (kept, wanted):
        each["trainer"].pop("precision", None)
    if _same(kept) != _same(wanted):
        raise InputError(f"{folder} holds a network of another recipe; choose another --out")
    found: dict[str, Any] = read_json(result, dict[str, Any])
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
        temperatures, calibrated = calibrate(out / "model.ckpt", dataset)
        scores = _scored(training, out / "model.ckpt", "val")
        monitor = next(iter(first["validation"]))
        result = first | {
            **_of_test_part(training, out, test),
            "validation": {monitor: scores[monitor]},
            "validation_loss": scores["val_loss"],
            "calibrated_loss": calibrated,
            "networks": [each["validation"][monitor] for each in found],
            "seconds": round(sum(each["seconds"] for each in found), 1),
            "scored_s": round(sum(each.get("scored_s", 0.0) for each in found), 2),
            "energy_wh": dict(sum((Counter(e["energy_wh"]) for e in found), Counter())),
            "params": parameters(training.module.network),
            "checkpoint": str(out / "model.ckpt"),
            "temperature": temperatures,
        }
    write_whole(out / "result.json", json.dumps(result, indent=1))
    return result


def _timed(recipe: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """A recipe whose training ends after ``limit_s`` seconds: this one alone, so that the recipe
    that is kept has no such limit."""
    return {**recipe, "trainer": {**recipe["trainer"], "max_time": timedelta(seconds=limit_s)}}


def _keeps_best(training: Training, path: Path, out: Path) -> None:
    """Have the best epoch kept in ``out``/checkpoints, whatever loggers do; InputError where no
    callback keeps it."""
    checkpoint = training.trainer.checkpoint_callback
    if not isinstance(checkpoint, ModelCheckpoint) or checkpoint.monitor is None:
        raise InputError(
            f"{path}: trainer.callbacks: no ModelCheckpoint with a monitor keeps the best epoch;"
            " add nas.training.proxy.LatestBest"
        )
    if checkpoint.dirpath is None:
        checkpoint.dirpath = str(out.resolve() / "checkpoints")
    averages = any(isinstance(each, AveragedWeights) for each in _callbacks(training))
    if averages and not isinstance(checkpoint, LatestBest):
        raise InputError(
            f"{path}: trainer.callbacks: averaged weights are kept by"
            " nas.training.proxy.LatestBest alone; use it in the place of ModelCheckpoint"
        )


def _begin(
    training: Training, recipe: dict[str, Any], out: Path, resume: bool, heard: Signals
) -> KeepLast:
    """Read the data, look at what an earlier training left in ``out``, and add the callbacks."""
    trainer, path = training.trainer, out / LAST
    training.data.setup()
    out.mkdir(parents=True, exist_ok=True)
    same = _same(recipe)
    if trainer.is_global_zero:
        if not (resume and path.exists()):
            (out / "result.json").unlink(missing_ok=True)  # of an earlier training
        if resume and path.exists():
            refuse_others(path, same)
        elif path.exists():
            path.replace(out / PREVIOUS)
            terminal.line(
                f"note: begins anew; an unfinished training is kept in {out / PREVIOUS}"
                " (--resume would have gone on with it)",
                err=True,
            )
        elif resume:
            terminal.line(f"note: nothing to go on with in {out}; begins", err=True)
        recipes.write(_portable(recipe), out / "recipe.yaml")
    last = KeepLast(path, same, heard)
    if trainer.strategy.root_device.type == "cpu":
        batch = next(iter(training.data.train_dataloader()))
        trainer.callbacks += [Threads(training.module, batch)]  # type: ignore[attr-defined]
    _callbacks(training).extend([EpochLines(), GradientMonitor(), Energy(), last])
    return last


def _portable(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe whose output paths are relative to the folder of the training, which may move."""
    trainer = copy.deepcopy(recipe["trainer"])
    folder = Path(trainer.pop("default_root_dir"))
    objects = [*(trainer.get("callbacks") or []), trainer.get("logger")]
    for arguments in (each["init_args"] for each in objects if isinstance(each, dict)):
        for key in {"dirpath", "save_dir"} & arguments.keys():
            if arguments[key] is not None:
                arguments[key] = str(Path(arguments[key]).relative_to(folder))
    return {**recipe, "trainer": trainer}


def _same(recipe: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for a training to go on: not where data lie, on what it runs and how
    long it may."""
    free = ("accelerator", "max_time")
    trainer = {k: v for k, v in _portable(recipe)["trainer"].items() if k not in free}
    arguments = {k: v for k, v in recipe["data"]["init_args"].items() if k != "source"}
    return {
        **{key: recipe.get(key) for key in ("seed_everything", "model", "optimizer")},
        "lr_scheduler": recipe.get("lr_scheduler"),
        "trainer": trainer,
        "data": arguments,
    }


def _finish(
    training: Training, recipe: dict[str, Any], out: Path, seconds: float, test: bool
) -> dict[str, Any]:
    """Keep the best epoch of a training that is over, score it, and write the result."""
    module, trainer, checkpoint = training.module, training.trainer, _checkpoint(training)
    best, score_of_best = Path(checkpoint.best_model_path), checkpoint.best_model_score
    if score_of_best is None:
        raise InputError("no epoch was trained (trainer.max_epochs is too low)")
    shutil.copyfile(best, out / "model.ckpt")
    best_epoch = torch.load(best, map_location="cpu", weights_only=True)["epoch"] + 1
    if trainer.current_epoch < (most := trainer.max_epochs or 0):
        shorter = rules.shorter_schedule(most, best_epoch)
        advice = f"; a training with --epochs {shorter} may do better" if shorter else ""
        terminal.line(
            f"ended after {trainer.current_epoch} of {most} epochs; the best one,"
            f" {best_epoch}, is kept{advice}",
            err=True,
        )
    if most < recipe["trainer"].get("max_epochs", most):  # it was shortened to end in time
        apply(recipe, Settings(epochs=trainer.max_epochs))
        recipes.write(_portable(recipe), out / "recipe.yaml")
    dataset = training.data.dataset
    assert dataset is not None
    begin = time.monotonic()
    temperatures, calibrated = calibrate(out / "model.ckpt", dataset)
    scored_s = round(time.monotonic() - begin, 2)
    result = {
        **_of_test_part(training, out, test),
        "validation": {str(checkpoint.monitor): float(score_of_best)},
        "validation_loss": getattr(checkpoint, "loss", None),
        "calibrated_loss": calibrated,
        "proxy_validation": recipe["provenance"]["validation"],
        "epochs": trainer.current_epoch,
        "schedule_epochs": trainer.max_epochs,
        "best_epoch": best_epoch,
        "seconds": round(seconds, 1),
        "scored_s": scored_s,
        "threads": torch.get_num_threads(),
        "energy_wh": next(e.spent_wh for e in _callbacks(training) if isinstance(e, Energy)),
        "params": parameters(module.network),
        "checkpoint": str(out / "model.ckpt"),
        "temperature": temperatures,
    }
    write_whole(out / "result.json", json.dumps(result, indent=1))
    (out / LAST).unlink(missing_ok=True)
    return result


def _callbacks(training: Training) -> list[pl.Callback]:
    found: list[pl.Callback] = training.trainer.callbacks  # type: ignore[attr-defined]
    return found


def _checkpoint(training: Training) -> ModelCheckpoint:
    found = training.trainer.checkpoint_callback
    assert isinstance(found, ModelCheckpoint)
    return found


def _of_test_part(training: Training, out: Path, test: bool) -> dict[str, Any]:
    """What a result says of the test part, with ``test``, and the intervals of numbers."""
    model, dataset = out / "model.ckpt", training.data.dataset
    assert dataset is not None
    return {
        "test": _scored(training, model, "test") if test else {},
        "test_interval": score_interval(model, dataset) if test else {},
        "intervals": intervals(model, dataset, test),
        "simple_test": _simple(dataset, training.module.task) if test else {},
    }


def _simple(dataset: Dataset, task: Task) -> dict[str, dict[str, float]]:
    """The simple models' scores on the test part, by their names."""
    return {row["name"]: row["metrics"] for row in tested(dataset, task) if row["metrics"]}


@kept_generators()
def score_once(path: Path, out: Path) -> dict[str, Any]:
    """Score a trained recipe, ``out``/model.ckpt, on the test part; training and figures are as in
    ``out``/result.json, which is written again with the score and returned.

    Raises InputError where one of the two is not there.
    """
    recipe = recipes.load(path, out)
    result: dict[str, Any] = read_json(out / "result.json", dict[str, Any])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _on_this_device(recipe)
        recipe["trainer"] |= {"devices": 1, "num_nodes": 1, "strategy": "auto"}  # as it is scored
        training = build(recipe, str(path))
        training.data.setup()
        result |= _of_test_part(training, out, True)
    result["checkpoint"] = str(out / "model.ckpt")
    write_whole(out / "result.json", json.dumps(result, indent=1))
    return result


def _scored(training: Training, checkpoint: Path, part: str) -> dict[str, float]:
    """The scores of a network on the validation or the test part ("val", "test"), found by this
    process alone."""
    device = training.trainer.strategy.root_device
    alone = pl.Trainer(
        accelerator="cpu" if device.type == "cpu" else "gpu",
        devices=1 if device.index is None else [device.index],
        precision=training.trainer.precision,
        plugins=[LightningEnvironment()],  # whatever a cluster's variables say of many processes
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    score = alone.test if part == "test" else alone.validate
    (scores,) = score(load_proxy(checkpoint), training.data, verbose=False)
    return {name.removeprefix("test_"): value for name, value in scores.items()}


def _fit(training: Training, state: Path | None = None) -> None:
    """Train, from a ``state`` on; InputError where a monitor ends it, KeyboardInterrupt at a
    second Ctrl-C."""
    try:
        training.trainer.fit(
            training.module,
            training.data,
            ckpt_path=state,
            weights_only=True if state else None,  # nothing in the file is executed
        )
    except TrainingStopped as stop:
        large = stop.reason in (Reason.NAN, Reason.EXPLODING)
        repair = "lower the learning rate" if large else "export another candidate (--number)"
        raise InputError(f"training ended: {stop}; {repair}") from None
    except MisconfigurationException as error:  # a monitored metric that there is not, and such
        raise InputError(f"trainer: {_one_line(error)}") from error
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on metric"):
            raise
        raise InputError(f"trainer.callbacks: {_one_line(error)}") from error
    except SystemExit:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from None


def _keep(training: Training, out: Path) -> str:
    """Leave the best weights of an interrupted training in ``model.ckpt``; what was done."""
    trainer = training.trainer
    epochs = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    checkpoint = trainer.checkpoint_callback
    best = Path(str(getattr(checkpoint, "best_model_path", "")))
    if best.is_file():
        shutil.copyfile(best, out / "model.ckpt")
        kept = "the best of them"
    else:
        trainer.save_checkpoint(out / "model.ckpt", weights_only=True)
        kept = "the network as it was"
    return (
        f"interrupted after {epochs} of {trainer.max_epochs} epochs; {kept} is kept in"
        f" {out / 'model.ckpt'}, not scored on the test part: `nas predict {out} DATA` uses it"
    )


def check(path: Path, seeds: int = 1) -> dict[str, Any]:
    """Train the proxy of a recipe again and compare it with what the search measured.

    Returns the ``objective``, its ``measured``, ``again`` and ``tolerance``, and of how many
    ``folds`` the two are the mean. Raises SelfCheckFailed where they differ by more. On the
    machine of the search, with the same versions, the two are equal.

    With several ``seeds`` the proxy is trained with others too, and the recipe's tolerance becomes
    two standard deviations of what they give.
    """
    recipe = recipes.load(path)
    of = recipe["provenance"]
    found = [_proxy_again(recipe, path, of["proxy"]["seed"] + k) for k in range(seeds)]
    name, folded = of["objective"], found[0][1]
    values = [value for value, _ in found]
    tolerance = float(of["tolerance"])
    if seeds > 1:
        tolerance = max(2 * statistics.stdev(values), 1e-6)
        content = recipes.read(path)
        content["provenance"] |= {"tolerance": tolerance, "repeats": values}
        recipes.write(content, path)
    result = {
        "objective": name,
        "folds": folded,
        "measured": float(of["validation"][name]),
        "again": values[0],
        "tolerance": tolerance,
        **({"repeats": values} if seeds > 1 else {}),
    }
    if not abs(result["again"] - result["measured"]) <= result["tolerance"]:
        mean = f", the mean of {folded} folds," if folded > 1 else ""
        raise SelfCheckFailed(
            f"{path}: {name}{mean} is {result['again']:.5g} now and was {result['measured']:.5g},"
            f" more than {result['tolerance']:.2g} apart; compare the versions in its provenance"
        )
    return result


@kept_generators()
@kept_threads()
def _proxy_again(recipe: dict[str, Any], path: Path, seed: int) -> tuple[float, int]:
    """The objective of a recipe's proxy with a seed, and of how many folds it is the mean."""
    of, arguments = recipe["provenance"], recipe["model"]["init_args"]
    quiet_lightning()
    proxy_of(arguments, str(path), Proxy)  # a configuration that does not fit is refused here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)  # as in a worker: sums in another order differ
        data = TaskData(**recipe["data"]["init_args"])
        data.setup()
        assert data.dataset is not None
        task = Task.from_dict(arguments["task"])
        if task.device != "cpu" and not torch.cuda.is_available():
            raise InputError(
                f"{path}: its proxy was trained on a GPU, and none is visible here; check it on a"
                " machine that has one"
            )
        parts, trained = folds(data.dataset, task), of["proxy"].get("trained")
        lines = EpochLines(len(parts), trained)
        try:
            scores = train_folds(
                *members(arguments["family"], arguments["config"])[0],
                task,
                parts,
                of["proxy"]["epochs"],
                seed,
                lambda: [lines, GradientMonitor(), StopAfter(trained)],
                of["proxy"].get("accumulate", 1),
                of["proxy"].get("precision"),
            )
        except TrainingStopped as stop:
            raise SelfCheckFailed(f"{path}: the proxy did not finish this time: {stop}") from None
        except SystemExit:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from None
    return float(mean_scores(scores)[of["objective"]]), len(parts)


def _run(args: Sequence[str]) -> int:
    try:
        main(args)
    except InputError as error:
        terminal.line(f"error: {error}", err=True)
        return error.exit_code
    except OSError as error:  # a full disk, a folder that may not be written
        terminal.line(f"error: {error.filename or 'output'}: {error.strerror}", err=True)
        return 1
    except KeyboardInterrupt:
        terminal.echo("interrupted", err=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(_run(sys.argv[1:]))
