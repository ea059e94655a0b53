"""The objects that a recipe describes: network, data and trainer.

A recipe may come from anybody. nas/recipe_form.py holds it to an exact list of classes and
parameters; here each name of that list stands beside its class (``CONSTRUCTORS``), and nothing else
is looked up: no string of a recipe is imported, called, or read as the name of a file to load.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from pytorch_lightning.loggers import CSVLogger

from nas import terminal
from nas.task import InputError
from nas.training.device import cpu_has_bfloat16, precision, prepare
from nas.training.lr import WarmupCosine
from nas.training.proxy import (
    AveragedWeights,
    LatestBest,
    Patience,
    Proxy,
    TaskData,
    proxy_of,
    quiet_lightning,
)

# What makes an object of every class that a recipe may name (``nas.recipe.CLASSES``).
CONSTRUCTORS: dict[str, Callable[..., Any]] = {
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
        return CONSTRUCTORS[named["class_path"]](*given, **named["init_args"])
    except InputError:
        raise
    except Exception as error:  # whatever torch and Lightning raise for a value they refuse
        raise InputError(f"{key}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """An exception's type and the first line of what it says."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no reason given'}"


@dataclass(frozen=True)
class Training:
    """What a recipe describes, ready for ``trainer.fit(module, data)``."""

    module: Proxy
    data: TaskData
    trainer: pl.Trainer

    @property
    def callbacks(self) -> list[pl.Callback]:
        """Those of the trainer, which may be added to."""
        found: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return found

    @property
    def checkpoint(self) -> ModelCheckpoint:
        """The callback that keeps the best epoch."""
        found = self.trainer.checkpoint_callback
        assert isinstance(found, ModelCheckpoint)
        return found


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
            data.task = module.task
            if isinstance(options.get("logger"), dict):
                options["logger"] = _made(options, "logger")
            callbacks = options.get("callbacks") or []
            options["callbacks"] = [_made({"callbacks": each}, "callbacks") for each in callbacks]
            if is_alone(options):  # whatever the variables of Slurm or torchrun say
                options["plugins"] = [LightningEnvironment()]
            elif here := _placed(options):
                options |= here
            trainer = pl.Trainer(**options)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except Exception as error:  # whatever Lightning raises for a value it refuses
            raise InputError(f"{where}: trainer: {one_line(error)}") from error
    return Training(module, data, trainer)


def is_alone(options: dict[str, Any]) -> bool:
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


def on_this_device(recipe: dict[str, Any]) -> None:
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
