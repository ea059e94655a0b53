"""A candidate as a training recipe: the YAML of a LightningCLI run, with its provenance.

``nas train recipe.yaml`` or ``python -m nas.train fit --config recipe.yaml`` train it. A recipe may
come from anybody, so what it may name is an exact list: ``CLASSES`` and their parameters, the
``TRAINER``'s parameters, and output paths inside the folder of the training. ``checked`` holds a
recipe to that list before anything it names is imported; nas/train.py then builds the objects by
itself, without a library that imports what a string says.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from nas import rules
from nas.candidate import Candidate
from nas.files import write_whole
from nas.options import ReadOptions
from nas.space import ensemble, members
from nas.task import COSTS, InputError, Task, UsageError

FORMAT = 1


def make(
    candidate: Candidate,
    task: Task,
    source: dict[str, Any],
    versions: dict[str, str],
    epochs: int | None = None,
    network: int = 0,
) -> dict[str, Any]:
    """The recipe of ``candidate`` on all training data, by default for the planned epochs. Of
    several networks of it that are averaged the others have other seeds than the first, 0."""
    task, config = task.of_family(candidate.family), dict(candidate.config)
    batch_size = int(config["batch_size"])
    epochs = epochs or rules.full_epochs(task, batch_size)
    accumulate, quality = candidate.cost.accumulate, task.quality
    micro = batch_size // accumulate
    steps = rules.steps_per_epoch(task.profile.n_train, micro, accumulate) * epochs
    return {
        "seed_everything": (candidate.seed + network) % 2**31,
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
            "class_path": f"torch.optim.{'AdamW' if rules.decouples_decay(task) else 'Adam'}",
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
            "precision": candidate.cost.precision or _precision(task),
            "gradient_clip_val": rules.gradient_clip(config),
            "accumulate_grad_batches": accumulate,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": False,
            "callbacks": [
                {
                    "class_path": "nas.training.proxy.Patience",
                    "init_args": {
                        "monitor": quality.metric,
                        "mode": quality.direction,
                        "patience": rules.patience(epochs),
                        "within": rules.EARLY + rules.PATIENCE,
                    },
                },
                {
                    "class_path": "nas.training.proxy.LatestBest",
                    "init_args": {
                        "monitor": quality.metric,
                        "mode": quality.direction,
                        "filename": "best",
                        "enable_version_counter": False,
                        "save_weights_only": True,
                    },
                },
            ],
        },
        "provenance": _provenance(candidate, task, versions),
    }


def combined(networks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One recipe of several, whose networks are averaged: the first, with what differs in each of
    the others in its section ``networks``."""
    first = copy.deepcopy(networks[0])
    models = [own["model"]["init_args"] for own in networks]
    first["model"]["init_args"]["config"] = ensemble([(m["family"], m["config"]) for m in models])
    for own in networks[1:]:
        first.setdefault("networks", [])
        batch = {"batch_size": own["data"]["init_args"]["batch_size"]}
        differs = {key: own.get(key) for key in _OF_NETWORK if own.get(key) != first.get(key)}
        if batch["batch_size"] != first["data"]["init_args"]["batch_size"]:
            differs["data"] = batch
        first["networks"].append(copy.deepcopy(differs))
    return first


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


def _precision(task: Task) -> str:
    """In which a proxy was trained, of a run that does not say so."""
    return "32-true" if task.device == "cpu" else "bf16-mixed"


def _provenance(candidate: Candidate, task: Task, versions: dict[str, str]) -> dict[str, Any]:
    """Where a recipe comes from, and what a repetition of its proxy must arrive at."""
    objective, measured = task.quality.metric, candidate.cost.latency
    return {
        "format": FORMAT,
        "candidate": candidate.number,
        "origin": candidate.origin,
        "objective": objective,
        "tolerance": _tolerance(objective, candidate.metrics[objective], task),
        "proxy": {
            "epochs": candidate.epochs,
            "trained": len(candidate.curve),  # fewer where its time was up
            "share": task.fidelity.share,
            "seed": candidate.seed,
            "accumulate": candidate.cost.accumulate,
            "precision": candidate.cost.precision or _precision(task),
            "seconds": round(candidate.seconds, 1),
        },
        "validation": {k: v for k, v in candidate.metrics.items() if k not in COSTS},
        "cost": {k: v for k, v in candidate.metrics.items() if k in COSTS},
        "latency": measured.to_dict() if measured else {},
        "split_method": task.profile.split_method,
        "versions": versions,
    }


def _tolerance(metric: str, value: float, task: Task) -> float:
    """How far a repetition of the proxy may be off: two standard errors of a fraction
    of the samples that score it, or a twentieth of a metric that is no fraction."""
    if metric.split("[")[0] in ("rmse", "mae", "mase", "val_loss", "r2", "score"):
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
    write_whole(path, text(recipe, path.name))


def text(recipe: dict[str, Any], name: str) -> str:
    """A recipe as the YAML of a file called ``name``."""
    of = recipe["provenance"]
    metric = of["objective"]
    value = of["validation"][metric]
    model = recipe["model"]["init_args"]
    networks = members(model["family"], model["config"])
    families = " and ".join(dict.fromkeys(family for family, _ in networks))
    several = f" {len(networks)} networks whose logits are averaged," if len(networks) > 1 else ""
    head = (
        f"# Candidate {of['candidate']}: {families},{several}"
        f" validation {metric} {value:.4g} as a proxy.\n"
        f"# Train it at full scale:  nas train {name}\n"
    )
    body = yaml.dump(recipe, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
    return head + body


def load(path: str | Path, out: Path | None = None) -> dict[str, Any]:
    """Read a recipe and check it, see ``checked``.

    ``out`` is the folder that the training may write to (None: that of the recipe). Raises
    InputError where the file is no recipe or names what a recipe may not.
    """
    path = Path(path)
    return checked(read(path), str(path), out or path.parent)


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file: plain values, no aliases. InputError where it holds none."""
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no recipe at {path}; `nas export RUN` writes one") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise InputError(f"{path} is not a YAML file: {_one_line(error)}") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {type(error).__name__}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a recipe (no sections); `nas export RUN` writes one")
    return content


def overridden(content: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A recipe with values of its own: ``optimizer.lr=1e-4``, ``trainer.max_epochs=40``,
    ``config.dropout=0.2`` (of the network), or a key with init_args in it.

    Raises UsageError for a setting without a key that the recipe has.
    """
    changed = copy.deepcopy(content)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {setting!r} is not of the form SECTION.KEY=VALUE")
        *outer, last = _path_of(key)
        place: Any = changed
        for part in outer:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            known = ", ".join(place) if isinstance(place, dict) else ", ".join(changed)
            raise UsageError(f"--set {key}: the recipe has no such value; here are {known}")
        try:
            value = parse(text)
        except yaml.YAMLError:
            raise UsageError(f"--set {setting!r}: the value cannot be read") from None
        number = isinstance(value, str) and _NUMBER.fullmatch(value)
        place[last] = float(value) if number else value
    return changed


def _path_of(key: str) -> list[str]:
    """The keys on the way to a value, with the init_args that people leave out."""
    parts = key.split(".")
    if parts[0] == "config":
        return ["model", "init_args", *parts]
    if parts[0] in ("optimizer", "lr_scheduler", "data", "model") and "init_args" not in parts:
        return [parts[0], "init_args", *parts[1:]]
    return parts


def parse(text: str) -> Any:
    """The value of a YAML text, as in a recipe; raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{problem} in line {mark.line + 1}" if mark else str(problem)


class _Loader(yaml.SafeLoader):
    """Plain values only. Aliases are refused: nested ones make gigabytes of a small file."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None,
                None,
                f"found the alias *{event.anchor}, and aliases are not read",
                event.start_mark,
            )
        return super().compose_node(parent, index)


# -- what a recipe may hold ------------------------------------------------------------------------

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
# Every class that a recipe may name, and each of its parameters that it may set.
CLASSES: dict[str, dict[str, str]] = {
    "nas.training.proxy.Proxy": {"family": "!str", "config": "!config", "task": "!plain"},
    "nas.training.proxy.TaskData": {
        "source": "!str",
        "batch_size": "!count",
        "fingerprint": "str|none",
        "split_hash": "str|none",
        **{
            field.name: "|".join(_HINTS[hint] for hint in str(field.type).split(" | "))
            for field in fields(ReadOptions)
        },
    },
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
    "pytorch_lightning.loggers.CSVLogger": {
        "save_dir": "!path",
        "name": "name|none",
        "version": "name|int|none",
        "prefix": "str",
        "flush_logs_every_n_steps": "count",
    },
}
_OF_SECTION = {
    "model": ("nas.training.proxy.Proxy",),
    "data": ("nas.training.proxy.TaskData",),
    "optimizer": ("torch.optim.AdamW", "torch.optim.Adam", "torch.optim.SGD"),
    "lr_scheduler": (
        "nas.training.lr.WarmupCosine",
        "torch.optim.lr_scheduler.CosineAnnealingLR",
        "torch.optim.lr_scheduler.OneCycleLR",
    ),
    "callbacks": (
        "nas.training.proxy.LatestBest",
        "nas.training.proxy.AveragedWeights",
        "nas.training.proxy.Patience",
        "pytorch_lightning.callbacks.ModelCheckpoint",
        "pytorch_lightning.callbacks.EarlyStopping",
        "pytorch_lightning.callbacks.StochasticWeightAveraging",
    ),
    "logger": ("pytorch_lightning.loggers.CSVLogger",),
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
_OF_NETWORK = ("seed_everything", "optimizer", "lr_scheduler", "trainer", "provenance")
_TOP = (*_OF_NETWORK, "model", "data", "networks")
_REQUIRED = ("model", "data", "trainer", "provenance")
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # a text in YAML 1.1
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
            recipe[section] = check.object(content[section], section, _OF_SECTION[section])
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
                self.object(each, f"trainer.callbacks[{i}]", _OF_SECTION["callbacks"])
                for i, each in enumerate(callbacks)
            ]
        if isinstance(logger := result.get("logger"), dict):
            result["logger"] = self.object(logger, "trainer.logger", _OF_SECTION["logger"])
        return result

    def networks(self, content: Any) -> list[dict[str, Any]]:
        """What differs in networks after the first: sections of a recipe, which are looked at
        with it."""
        allowed = {*_OF_NETWORK, "data"}
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

    def object(self, content: Any, key: str, allowed: tuple[str, ...]) -> dict[str, Any]:
        """A class_path of ``allowed`` with init_args of its own."""
        if not isinstance(content, dict) or not content.keys() <= {"class_path", "init_args"}:
            raise self.error(key, "expected class_path and init_args", content)
        name = content.get("class_path")
        if name not in allowed:
            raise self.error(
                f"{key}.class_path", f"a recipe may name {' or '.join(allowed)} here", name
            )
        given = content.get("init_args") or {}
        return {
            "class_path": name,
            "init_args": self.parameters(given, f"{key}.init_args", CLASSES[name], name),
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
            elif option == "float" and isinstance(value, str) and _NUMBER.fullmatch(value):
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
