"""A candidate as a training recipe: the YAML of a LightningCLI run, with its provenance.

``nas train recipe.yaml`` or ``python -m nas.train fit --config recipe.yaml`` train it. It may come
from anybody, so what it may name is an exact list, nas/recipe_form.py, to which ``load`` holds it
before anything it names is imported. nas/train then builds the objects by itself, without a library
that imports what a string says.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from nas import rules
from nas.candidate import Candidate
from nas.files import write_whole
from nas.recipe_changes import for_batches, for_epochs
from nas.recipe_form import CLASSES as CLASSES
from nas.recipe_form import NUMBER, OF_NETWORK
from nas.recipe_form import TRAINER as TRAINER
from nas.recipe_form import checked as checked
from nas.recipe_form import network_recipe as network_recipe
from nas.recipe_form import size as size
from nas.space import ensemble, members
from nas.task import COSTS, InputError, Task, UsageError

FORMAT = 1
DEEPEST = 100  # levels of a recipe that is read; ours have about 10


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
        differs = {key: own.get(key) for key in OF_NETWORK if own.get(key) != first.get(key)}
        if batch["batch_size"] != first["data"]["init_args"]["batch_size"]:
            differs["data"] = batch
        first["networks"].append(copy.deepcopy(differs))
    return first


def read_from(recipe: dict[str, Any], source: str) -> dict[str, Any]:
    """A recipe whose data are read from ``source``."""
    data = recipe["data"]
    return recipe | {"data": data | {"init_args": data["init_args"] | {"source": source}}}


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


# libyaml's are ten times as fast.
_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class _Dumper(yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper):  # type: ignore[misc]
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
        f"# Train it at full scale:  nas train {name} --out again\n"
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
    except ValueError as error:
        raise InputError(f"{path} cannot be read: {type(error).__name__}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a recipe (no sections); `nas export RUN` writes one")
    return content


def overridden(content: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A recipe with values of its own: ``optimizer.lr=1e-4``, ``trainer.max_epochs=40``,
    ``config.dropout=0.2`` (of the network), or a key with init_args in it. What stands in a recipe
    twice is changed in both places, and the schedule follows the epochs and the batches.

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
        # What a recipe leaves to Lightning, without plug-ins.
        new = outer == ["trainer"] and TRAINER.get(last, "none") != "none"
        if not isinstance(place, dict) or not (last in place or new):
            known = ", ".join(place) if isinstance(place, dict) else ", ".join(changed)
            raise UsageError(f"--set {key}: the recipe has no such value; here are {known}")
        try:
            value = parse(text)
        except yaml.YAMLError:
            raise UsageError(f"--set {setting!r}: the value cannot be read") from None
        number = isinstance(value, str) and NUMBER.fullmatch(value)
        value = float(value) if number else value
        before, place[last] = place.get(last), value
        _follow(changed, (*outer, last), before, value)
    return changed


def _follow(recipe: dict[str, Any], path: tuple[str, ...], before: Any, value: Any) -> None:
    """Change what in a recipe follows from the value at ``path``, which was ``before``."""
    config = ("model", "init_args", "config")
    name, model, optimizer = path[-1], recipe["model"]["init_args"], recipe.get("optimizer", {})
    if path[:-1] == config and name in ("batch_size", "clip"):
        other = {"batch_size": "data.batch_size", "clip": "trainer.gradient_clip_val"}[name]
        raise UsageError(f"--set config.{name}: a training reads {other}; set that")
    if name in ("lr", "weight_decay"):
        arguments, own = optimizer.get("init_args", {}), model["config"]
        if path[:-1] == config and name in arguments:
            arguments[name] = value
        elif path[:-1] == ("optimizer", "init_args") and name in own:
            own[name] = value
    if not isinstance(value, int) or not isinstance(before, int) or value < 1:
        return  # what is wrong is refused with the whole recipe
    if path == ("trainer", "max_epochs"):
        recipe["trainer"]["max_epochs"] = before
        for_epochs(recipe, value)
    elif path == ("data", "init_args", "batch_size"):
        for_batches(recipe, before)


def _path_of(key: str) -> list[str]:
    """The keys on the way to a value, with the init_args that people leave out."""
    parts = key.split(".")
    if parts[0] == "config":
        return ["model", "init_args", *parts]
    if parts[0] in ("optimizer", "lr_scheduler", "data", "model") and "init_args" not in parts:
        return [parts[0], "init_args", *parts[1:]]
    return parts


def parse(text: str) -> Any:
    """The value of a YAML text, as in a recipe; raises yaml.YAMLError.

    Plain values only. Aliases are refused, as nested ones make gigabytes of a small file, and so is
    what is nested deeper than ``DEEPEST``.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise _refused(f"found the alias *{event.anchor}, and aliases are not read", event)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise _refused(f"found more than {DEEPEST} levels of lists and mappings", event)
    return yaml.load(text, Loader=_LOADER)


def _refused(problem: str, event: yaml.Event) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{problem} in line {mark.line + 1}" if mark else str(problem)
