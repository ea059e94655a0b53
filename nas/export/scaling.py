"""A network for more data: the same family, deeper, wider and at a higher resolution.

With ``factor`` times the samples a network gets ``factor`` times the multiplications of a sample,
as parameters and data grow together (Hoffmann et al. 2022, "Training Compute-Optimal Large Language
Models", sec. 3). They are spread over depth, width and resolution in the proportions of Tan & Le
2019, "EfficientNet", sec. 3.3: 1.2, 1.1 and 1.15 to one power. The batch grows with the root of
the data (McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", sec. 2). The rate
grows with the root of the batch (Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive
Gradient Algorithms", sec. 5) and falls with the width (Yang et al. 2022, "Tensor Programs V",
table 3). Regularisation stays, as the parameters for each sample do; epochs follow the project's
rule.

Which parameters are depths and widths is read off the rules that bound them ("depth-from-data",
"width-from-data", "resolution"), so that any family has a plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from nas import rules
from nas.family import Family, load_families
from nas.models.meta import without_values
from nas.recipe_changes import for_epochs
from nas.recipe_form import network_recipe
from nas.space import Choice, Config, Float, Int, Param, Space
from nas.task import DataProfile, InputError, JsonRecord, Task
from nas.training import cost
from nas.training.batches import made_up_inputs
from nas.training.proxy import TaskData, build_network

FACTORS = (2, 5, 10)
DEPTH, WIDTH, RESOLUTION = 1.2, 1.1, 1.15  # Tan & Le 2019, sec. 3.3
LARGEST_BATCH = 1024
_OF_DEPTH, _OF_WIDTH, _OF_SIZE = "depth-from-data", "width-from-data", "resolution"
SOURCES = (
    "Tan & Le 2019, EfficientNet, sec. 3.3",
    "Hoffmann et al. 2022, sec. 3",
    "McCandlish et al. 2018, sec. 2",
    "Malladi et al. 2022, sec. 5",
    "Yang et al. 2022, Tensor Programs V, table 3",
)


@dataclass(frozen=True)
class Scaled(JsonRecord):
    """One step of a scaling plan: the configuration for ``factor`` times the data, and its costs.

    ``seconds`` are those of a full training, predicted from ``seconds`` of this one by the
    multiplications; None where it was not measured. ``changes`` say what is new, in words.
    """

    factor: int
    samples: int
    config: Config
    changes: tuple[str, ...]
    epochs: int
    params: int
    flops: int
    memory_mb: float
    seconds: float | None = None


def plan(
    family: str, config: Config, task: Task, seconds: float | None = None
) -> tuple[Scaled, ...]:
    """The scaling plan of a network: one step for each of ``FACTORS``.

    Args:
        family: Its name.
        config: Its configuration.
        task: With the profile of the data that it was found on.
        seconds: That its full training took, if it was measured.

    Example:
        >>> from nas.family import load_families
        >>> from nas.rulebook import typical_task
        >>> task = typical_task("tabular")
        >>> steps = plan("mlp", load_families()["mlp"].baseline(task), task)
        >>> [step.factor for step in steps], steps[0].params < steps[2].params
        ([2, 5, 10], True)
    """
    now = _costs(family, config, task)
    work = now["flops"] * task.profile.n_train * rules.full_epochs(task, int(config["batch_size"]))
    steps = []
    for factor in FACTORS:
        scaled, larger = scale(family, config, task, factor)
        costs = _costs(family, scaled, larger)
        epochs = rules.full_epochs(larger, int(scaled["batch_size"]))
        time = None
        if seconds is not None:
            time = seconds * costs["flops"] * larger.profile.n_train * epochs / max(work, 1)
        batch = int(scaled["batch_size"])
        memory = cost.training_mb(
            lambda scaled=scaled: _build(family, scaled, task),  # type: ignore[misc]
            lambda n: made_up_inputs(task, n),
            batch,
        )
        steps.append(
            Scaled(
                factor,
                larger.profile.n_train,
                scaled,
                tuple(_changes(config, scaled)),
                epochs,
                costs["params"],
                costs["flops"],
                memory,
                time,
            )
        )
    return tuple(steps)


def scale(family: str, config: Config, task: Task, factor: float) -> tuple[Config, Task]:
    """The configuration for ``factor`` times the data, and the task of such data.

    Raises:
        InputError: ``factor`` is not over 1, or the family builds no such network.
    """
    if not factor > 1:
        raise InputError(f"a network is scaled by a factor over 1, got {factor:g}")
    families = load_families(task.modality)
    if family not in families:
        raise InputError(f"the family {family!r} is not installed here")
    profile = task.profile
    larger = replace(task, profile=_more(profile, factor))
    space = families[family].space(task)
    for attempt in _attempts(space, config, factor):
        if _builds(families[family], attempt, task):
            return _trained(space, config, attempt, factor), larger
    raise InputError(f"{family} cannot be scaled by {factor:g} from this configuration")


def scaled_recipe(recipe: dict[str, Any], factor: float) -> dict[str, Any]:
    """The recipe of a network for ``factor`` times the data: its configuration, batch size, rate,
    epochs, patience and schedule. The data are read again, and may have grown: their profile is the
    new one's. Of an ensemble it is that of the first network. Errors as for ``scale``."""
    changed = network_recipe(recipe, 0)
    model, data = changed["model"]["init_args"], changed["data"]["init_args"]
    data |= {"fingerprint": None, "split_hash": None}
    found = TaskData(**data)
    found.setup()
    assert found.dataset is not None
    profile = found.dataset.profile
    old = Task.from_dict(model["task"])
    task = replace(old, profile=profile, targets=found.dataset.targets)
    config, _ = scale(model["family"], model["config"], task, factor)
    batch = int(config["batch_size"])
    accumulate = int(changed["trainer"].get("accumulate_grad_batches") or 1)
    micro = batch // accumulate
    model |= {"config": config, "task": task.to_dict()}
    data |= {"batch_size": micro, "fingerprint": profile.fingerprint, "split_hash": profile.split}
    steps = rules.steps_per_epoch(profile.n_train, micro, accumulate)
    for_epochs(changed, rules.full_epochs(task, batch), steps)
    if "optimizer" in changed:
        changed["optimizer"]["init_args"]["lr"] = float(config["lr"])
    return changed


def _more(profile: DataProfile, factor: float) -> DataProfile:
    return replace(profile, n_train=round(profile.n_train * factor), fingerprint="", split="")


def _attempts(space: Space, config: Config, factor: float) -> Iterator[Config]:
    """Configurations from the one that is wanted to more careful ones: widths on coarser grids,
    which more numbers of heads divide, then the depth alone."""
    own = [p for p in space.params if p.name in config]
    sizes = [p for p in own if _OF_SIZE in p.why and isinstance(p, Choice)]
    depths = [p for p in own if _OF_DEPTH in p.why]
    widths = [p for p in own if _OF_WIDTH in p.why]
    per_step = (
        (DEPTH if depths else 1.0)
        * (WIDTH**2 if widths else 1.0)
        * (RESOLUTION**2 if sizes else 1.0)
    )
    power = math.log(factor) / math.log(per_step) if per_step > 1 else 0.0
    for grid in (1, 2, 4, 8):
        changed = dict(config)
        for p in depths:
            changed[p.name] = _larger(p, config[p.name], DEPTH**power)
        for p in widths:
            changed[p.name] = _larger(p, config[p.name], WIDTH**power, grid)
        for p in sizes:
            changed[p.name] = _option(p, config[p.name], RESOLUTION**power)
        yield space.complete(changed)
    yield {**config, **{p.name: _larger(p, config[p.name], factor) for p in depths}}


def _larger(param: Param, value: Any, times: float, grid: int = 1) -> Any:
    if isinstance(param, Choice):
        return _option(param, value, times)
    if isinstance(param, Float):
        return float(value) * times
    assert isinstance(param, Int)
    step = param.step * grid
    return max(int(value), round(float(value) * times / step) * step, 1)


def _option(param: Param, value: Any, times: float) -> Any:
    """The option nearest to a larger value; the value where there is none."""
    assert isinstance(param, Choice)
    numbers = [o for o in param.options if isinstance(o, (int, float)) and not isinstance(o, bool)]
    above = [o for o in numbers if isinstance(value, (int, float)) and o >= value]
    return min(above, key=lambda o: abs(o - value * times)) if above else value


def _trained(space: Space, config: Config, scaled: Config, factor: float) -> Config:
    """The scaled configuration with its batch size and learning rate."""
    batch = int(config["batch_size"])
    # The power of two below the middle of two; one graph that is the whole batch stays so.
    wanted = 2 ** math.floor(math.log2(batch * factor**0.5) + 0.49)
    larger = batch if batch == 1 else max(batch, min(wanted, LARGEST_BATCH))
    widths = [p.name for p in space.params if p.name in config and _OF_WIDTH in p.why]
    ratios = [float(config[n]) / float(scaled[n]) for n in widths if _is_number(config[n])]
    narrower = math.prod(ratios) ** (1 / len(ratios)) if ratios else 1.0
    rate = float(config["lr"]) * (larger / batch) ** 0.5 * narrower
    return {**scaled, "batch_size": larger, "lr": rate}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _build(family: str, config: Config, task: Task) -> torch.nn.Module:
    return build_network(family, config, task)


def _builds(family: Family, config: Config, task: Task) -> bool:
    try:
        with without_values():
            family.build(config, task)
    except Exception:  # whatever a build raises for sizes that do not fit together
        return False
    return True


def _costs(family: str, config: Config, task: Task) -> dict[str, int]:
    """Parameters, and FLOPs of one sample; of two, as statistics of one are none."""
    found = cost.analyse(lambda: _build(family, config, task), made_up_inputs(task, 2))
    return {"params": int(found["params"]), "flops": int(found["flops"]) // 2}


def _changes(config: Config, scaled: Config) -> Iterator[str]:
    for name, value in scaled.items():
        if name not in config:
            yield f"{name} {_shown(value)}"
        elif value != config[name]:
            yield f"{name} {_shown(config[name])} → {_shown(value)}"


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
