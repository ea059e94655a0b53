"""What a recipe may hold: exact classes, exact parameters, outputs inside the training's folder.

A recipe may come from anybody. ``checked`` holds it to these lists before anything it names is
imported: ``CLASSES`` and their parameters, the ``TRAINER``'s parameters, and output paths. What
differs in the networks of an ensemble is held to them too, each as a recipe of its own
(``network_recipe``).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from nas.options import ReadOptions
from nas.space import members
from nas.task import InputError, Task

# The kinds of values of a parameter, joined by "|"; "=word" is that word, and a leading "!" marks
# a parameter that must be there.
_EPOCH = "int|none"
_CHECKPOINT = {
    "dirpath": "path|none",
    "filename": "name|none",
    "monitor": "str|none",
    "verbose": "bool",
    "save_last": "bool|none",
    "save_top_k": "int",
    "save_on_exception": "bool",
    "save_weights_only": "bool",
    "mode": "=min|=max",
    "auto_insert_metric_name": "bool",
    "every_n_train_steps": _EPOCH,
    "every_n_epochs": _EPOCH,
    "save_on_train_epoch_end": "bool|none",
    "enable_version_counter": "bool",
}
_ADAM = {
    "lr": "float",
    "betas": "floats",
    "eps": "float",
    "weight_decay": "float",
    "amsgrad": "bool",
    "foreach": "bool|none",
    "maximize": "bool",
    "capturable": "bool",
    "differentiable": "bool",
    "fused": "bool|none",
}
# The kinds of the options of a reader, by their annotations.
_HINTS = {
    "None": "none",
    "bool": "bool",
    "int": "int",
    "float": "float",
    "str": "str",
    "tuple[str, ...]": "strs",
    "dict[str, str]": "texts",
}
# Every class that a recipe may name, by the section it may stand in, and each of its parameters
# that it may set.
CLASSES: dict[str, dict[str, dict[str, str]]] = {
    "model": {
        "nas.training.proxy.Proxy": {"family": "!str", "config": "!config", "task": "!plain"}
    },
    "data": {
        "nas.training.proxy.TaskData": {
            "source": "!str",
            "batch_size": "!count",
            "fingerprint": "str|none",
            "split_hash": "str|none",
            **{
                field.name: "|".join(_HINTS[hint] for hint in str(field.type).split(" | "))
                for field in fields(ReadOptions)
            },
        }
    },
    "optimizer": {
        "torch.optim.AdamW": _ADAM,
        "torch.optim.Adam": _ADAM | {"decoupled_weight_decay": "bool"},
        "torch.optim.SGD": {
            "lr": "float",
            "momentum": "float",
            "dampening": "float",
            "weight_decay": "float",
            "nesterov": "bool",
            "maximize": "bool",
            "foreach": "bool|none",
            "differentiable": "bool",
            "fused": "bool|none",
        },
    },
    "lr_scheduler": {
        "nas.training.lr.WarmupCosine": {
            "total_steps": "!int",
            "warmup_steps": "!int",
            "final": "float",
        },
        "torch.optim.lr_scheduler.CosineAnnealingLR": {
            "T_max": "!int",
            "eta_min": "float",
            "last_epoch": "int",
        },
        "torch.optim.lr_scheduler.OneCycleLR": {
            "max_lr": "!float",
            "total_steps": "!int",
            "pct_start": "float",
            "anneal_strategy": "=cos|=linear",
            "cycle_momentum": "bool",
            "base_momentum": "float",
            "max_momentum": "float",
            "div_factor": "float",
            "final_div_factor": "float",
            "three_phase": "bool",
            "last_epoch": "int",
        },
    },
    "callbacks": {
        "nas.training.proxy.LatestBest": _CHECKPOINT,
        "nas.training.proxy.AveragedWeights": {"decay": "float"},
        "nas.training.proxy.Patience": {
            "monitor": "!str",
            "mode": "!=min|=max",
            "patience": "!count",
            "within": "float",
        },
        "pytorch_lightning.callbacks.ModelCheckpoint": _CHECKPOINT,
        "pytorch_lightning.callbacks.EarlyStopping": {
            "monitor": "!str",
            "min_delta": "float",
            "patience": "int",
            "verbose": "bool",
            "mode": "=min|=max",
            "strict": "bool",
            "check_finite": "bool",
            "stopping_threshold": "float|none",
            "divergence_threshold": "float|none",
            "check_on_train_epoch_end": "bool|none",
        },
        "pytorch_lightning.callbacks.StochasticWeightAveraging": {
            "swa_lrs": "!float|floats",
            "swa_epoch_start": "float",
            "annealing_epochs": "int",
            "annealing_strategy": "=cos|=linear",
        },
    },
    "logger": {
        "pytorch_lightning.loggers.CSVLogger": {
            "save_dir": "!path",
            "name": "name|none",
            "version": "name|int|none",
            "prefix": "str",
            "flush_logs_every_n_steps": "count",
        }
    },
}
# Parameters of pytorch_lightning.Trainer, without those that take a plug-in of any kind.
TRAINER = {
    "accelerator": "=auto|=cpu|=gpu|=cuda",
    "strategy": "=auto|=ddp|=fsdp",
    "devices": "int|ints|=auto",
    "num_nodes": "int",
    "precision": "=32|=32-true|=64|=64-true|=bf16|=bf16-mixed|=bf16-true|=16-mixed|int|none",
    "logger": "bool|none|object",
    "callbacks": "objects|none",
    "fast_dev_run": "bool|int",
    "max_epochs": "int|none",
    "min_epochs": "int|none",
    "max_steps": "int",
    "min_steps": "int|none",
    "max_time": "str|none",
    "limit_train_batches": "float|none",
    "limit_val_batches": "float|none",
    "limit_test_batches": "float|none",
    "limit_predict_batches": "float|none",
    "overfit_batches": "float",
    "val_check_interval": "float|none",
    "check_val_every_n_epoch": "int|none",
    "num_sanity_val_steps": "int|none",
    "log_every_n_steps": "int|none",
    "enable_checkpointing": "bool|none",
    "enable_progress_bar": "bool|none",
    "enable_model_summary": "bool|none",
    "accumulate_grad_batches": "count",
    "gradient_clip_val": "float|none",
    "gradient_clip_algorithm": "=norm|=value|none",
    "deterministic": "bool|none|=warn",
    "benchmark": "bool|none",
    "inference_mode": "bool",
    "use_distributed_sampler": "bool",
    "profiler": "none",
    "detect_anomaly": "bool",
    "barebones": "bool",
    "plugins": "none",
    "sync_batchnorm": "bool",
    "reload_dataloaders_every_n_epochs": "int",
    "default_root_dir": "path|none",
    "enable_autolog_hparams": "bool",
    "model_registry": "none",
}
# What a repetition of the proxy needs; all else in the provenance is for people.
_PROVENANCE = {
    "candidate": "!int",
    "objective": "!str",
    "tolerance": "!float",
    "validation": "!numbers",
    "proxy": "!plain",
}
_PRECISION = "=32-true|=64-true|=bf16-mixed|=bf16-true|=16-mixed"
_PROXY = {
    "epochs": "!count",
    "seed": "!int",
    "trained": "int|none",
    "accumulate": "count",
    "precision": _PRECISION,
}
# Sections in which the networks of an ensemble may differ, beside their models and batches.
OF_NETWORK = ("seed_everything", "optimizer", "lr_scheduler", "trainer", "provenance")
_TOP = (*OF_NETWORK, "model", "data", "networks")
_REQUIRED = ("model", "data", "trainer", "provenance")
NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # a text in YAML 1.1
_FILE = re.compile(r"(?!\.)([\w.=+ -]|\{\w+(:[\w.]*)?\})+")  # Lightning fills in {epoch} and such


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_float(value: Any) -> bool:
    return _is_int(value) or isinstance(value, float)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str))


def _is_plain(value: Any) -> bool:
    """JSON, and nothing in it that reads as a class to build."""
    if isinstance(value, dict):
        named = isinstance(value.get("class_path"), str)
        return not named and all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or _is_scalar(value)


def _all(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _each(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, dict) and all(isinstance(k, str) and test(v) for k, v in value.items())
    )


def _is_str(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


# By kind: how it is called in a message, and the test.
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "none": ("null", lambda value: value is None),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "int": ("a whole number", _is_int),
    "count": ("a whole number from 1 on", lambda value: _is_int(value) and value >= 1),
    "float": ("a number", _is_float),
    "str": ("a text", _is_str),
    "ints": ("a list of whole numbers", _all(_is_int)),
    "floats": ("a list of numbers", _all(_is_float)),
    "strs": ("a list of texts", _all(_is_str)),
    "texts": ("a text for each name", _each(_is_str)),
    "numbers": ("a number for each name", _each(_is_float)),
    "config": ("a number, a text or true or false for each name", _each(_is_scalar)),
    "plain": ("plain values by name, without class_path", _each(_is_plain)),
    "path": ("a path inside the output folder", _is_str),
    "name": (
        "the name of a file, without a folder",
        lambda value: isinstance(value, str) and bool(_FILE.fullmatch(value)),
    ),
}


def network_recipe(recipe: dict[str, Any], number: int) -> dict[str, Any]:
    """The recipe of one network of those that a recipe averages, the first 0. Without a section
    ``networks`` all are as the first, with seeds of their own."""
    own: dict[str, Any]
    own = copy.deepcopy({key: value for key, value in recipe.items() if key != "networks"})
    model = own["model"]["init_args"]
    model["family"], model["config"] = members(model["family"], model["config"])[number]
    if number == 0:
        return own
    if "networks" in recipe:
        differs: dict[str, Any] = copy.deepcopy(recipe["networks"][number - 1])
        own["data"]["init_args"] |= differs.pop("data", {})
        own |= differs
        return own
    seed = own["seed_everything"]
    if seed is not False:
        own["seed_everything"] = (int(seed if seed is not True else 0) + number) % 2**31
    return own


def size(recipe: Mapping[str, Any]) -> int:
    """Of how many networks a recipe takes the mean; 1 of a single one."""
    model = recipe["model"]["init_args"]
    return len(members(model["family"], model["config"]))


def checked(content: Mapping[str, Any], where: str, out: Path) -> dict[str, Any]:
    """A recipe that names nothing but ``CLASSES`` and parameters of theirs and of ``TRAINER``.

    ``where`` is what error messages begin with. Output paths are taken relative to the folder
    ``out``, must stay inside it with all links followed, and come back absolute. Imports nothing
    that the recipe names. Raises InputError, one line that says which key is wrong.
    """
    if missing := [key for key in _REQUIRED if key not in content]:
        raise InputError(
            f"{where} is not a recipe (no {', '.join(missing)}); `nas export RUN` writes one"
        )
    for key in content:
        if key not in _TOP:
            raise InputError(f"{where}: {key!r} is no section of a recipe; use {', '.join(_TOP)}")
    check = _Check(where, out)
    recipe = {
        "seed_everything": check.value(
            content.get("seed_everything", True), "seed_everything", "bool|int"
        ),
        "trainer": check.trainer(content["trainer"]),
        "provenance": check.provenance(content["provenance"]),
    }
    for section in ("model", "data", "optimizer", "lr_scheduler"):
        if section in ("model", "data") or content.get(section) is not None:
            recipe[section] = check.object(content[section], section, section)
    try:
        task = Task.from_dict(recipe["model"]["init_args"]["task"])
    except InputError as error:
        raise InputError(f"{where}: model.init_args.task: {error}") from None
    if not task.targets:
        raise InputError(f"{where}: model.init_args.task.targets is empty; a network needs one")
    if "networks" in content:
        recipe["networks"] = check.networks(content["networks"])
        if size(recipe) != 1 + len(recipe["networks"]):
            raise check.error(
                "networks", f"expected {size(recipe) - 1}, as the model is", len(recipe["networks"])
            )
        for number in range(1, size(recipe)):
            own = network_recipe({**recipe, "trainer": content["trainer"]}, number)
            checked(own, f"{where}: networks[{number - 1}]", out)
    return recipe


class _Check:
    """Holds the parts of one recipe to the lists above; messages begin with ``where``."""

    def __init__(self, where: str, out: Path) -> None:
        self.where, self.out = where, out.resolve()

    def trainer(self, content: Any) -> dict[str, Any]:
        result = self.parameters(content, "trainer", TRAINER, "pytorch_lightning.Trainer")
        if isinstance(callbacks := result.get("callbacks"), list):
            result["callbacks"] = [
                self.object(each, f"trainer.callbacks[{i}]", "callbacks")
                for i, each in enumerate(callbacks)
            ]
        if isinstance(logger := result.get("logger"), dict):
            result["logger"] = self.object(logger, "trainer.logger", "logger")
        return result

    def networks(self, content: Any) -> list[dict[str, Any]]:
        """What differs in networks after the first: sections of a recipe, which are looked at
        with it."""
        allowed = {*OF_NETWORK, "data"}
        if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
            raise self.error("networks", "expected a list of sections by name", content)
        for number, each in enumerate(content):
            if unknown := each.keys() - allowed:
                key = f"networks[{number}]"
                raise self.error(key, f"expected some of {', '.join(sorted(allowed))}", unknown)
            self.parameters(
                each.get("data", {}),
                f"networks[{number}].data",
                {"batch_size": "count"},
                "TaskData",
            )
        return copy.deepcopy(content)

    def provenance(self, content: Any) -> dict[str, Any]:
        result: dict[str, Any] = self.value(content, "provenance", "plain")
        self.needed(result, "provenance", _PROVENANCE)
        self.needed(result["proxy"], "provenance.proxy", _PROXY)
        if (objective := result["objective"]) not in result["validation"]:
            raise self.error(
                "provenance.validation", "expected a figure of the objective", objective
            )
        return result

    def needed(self, content: Mapping[str, Any], key: str, kinds: Mapping[str, str]) -> None:
        """Those of ``content`` that ``kinds`` names are as it says; others may be there."""
        known = {name: value for name, value in content.items() if name in kinds}
        self.parameters(known, key, kinds, "a recipe")

    def object(self, content: Any, key: str, section: str) -> dict[str, Any]:
        """A class_path that may stand in ``section``, with init_args of its own."""
        if not isinstance(content, dict) or not content.keys() <= {"class_path", "init_args"}:
            raise self.error(key, "expected class_path and init_args", content)
        kinds, name = CLASSES[section], content.get("class_path")
        if not isinstance(name, str) or name not in kinds:
            raise self.error(
                f"{key}.class_path", f"a recipe may name {' or '.join(kinds)} here", name
            )
        given = content.get("init_args") or {}
        return {
            "class_path": name,
            "init_args": self.parameters(given, f"{key}.init_args", kinds[name], name),
        }

    def parameters(
        self, content: Any, key: str, kinds: Mapping[str, str], name: str
    ) -> dict[str, Any]:
        if not isinstance(content, dict):
            raise self.error(key, "expected parameters by name", content)
        for parameter in content:
            if parameter not in kinds:
                raise InputError(
                    f"{self.where}: {key} may not set {parameter!r} of {name}; it may set"
                    f" {', '.join(kinds)}"
                )
        for parameter, kind in kinds.items():
            if kind.startswith("!") and parameter not in content:
                raise InputError(f"{self.where}: {key} lacks {parameter!r}, which {name} needs")
        return {
            parameter: self.value(value, f"{key}.{parameter}", kinds[parameter].removeprefix("!"))
            for parameter, value in content.items()
        }

    def value(self, value: Any, key: str, kind: str) -> Any:
        for option in kind.split("|"):
            if option in ("object", "objects"):  # checked by ``trainer``
                if isinstance(value, dict if option == "object" else list):
                    return value
            elif option.startswith("="):
                if value == option[1:]:
                    return value
            elif option == "float" and isinstance(value, str) and NUMBER.fullmatch(value):
                return float(value)
            elif _KINDS[option][1](value):
                return self.inside(value, key) if option == "path" else value
        options = [o[1:] if o.startswith("=") else _KINDS.get(o, (o,))[0] for o in kind.split("|")]
        raise self.error(key, f"expected {' or '.join(options)}", value)

    def inside(self, value: str, key: str) -> str:
        path = (self.out / value).resolve()
        if not path.is_relative_to(self.out):
            raise self.error(key, f"an output must stay inside {self.out}", value)
        return str(path)

    def error(self, key: str, expected: str, value: Any) -> InputError:
        return InputError(f"{self.where}: {key}: {expected}, found {value!r:.80}")
