"""The design document of a network: one JSON with a schema, in seven parts.

Every figure is read off a run, a recipe and what a training has left; nothing is written by hand.
``nas.export.document_page`` renders it as Markdown and as a page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas import recipe as recipes
from nas import rules
from nas.candidate import Candidate
from nas.data import Dataset
from nas.export import scaling
from nas.export.document_page import markdown, page, rounded
from nas.export.trained import Trained, open_trained
from nas.export.weaknesses import Weaknesses, weaknesses
from nas.family import load_families, started_from
from nas.files import read_json, write_whole
from nas.front import standard_error
from nas.recipe_changes import EARLY
from nas.records import LatencyFile, LayerRow
from nas.run import Run
from nas.space import ENSEMBLE, Config, Value, members
from nas.task import InputError, JsonRecord, Target, Task
from nas.terminal import figure
from nas.training import cost
from nas.training.batches import made_up_inputs
from nas.training.proxy import build_network

FORMAT = 1
# What a parameter is for, by the rule that bounds it; of all other rules it is the architecture.
_ROLES = {
    "learning-rate-by-family": "optimiser",
    "pretrained-rate": "optimiser",
    "layer-wise-rates": "optimiser",
    "weight-decay-from-risk": "regularisation",
    "l2-one-graph": "regularisation",
    "batch-from-data": "batch",
    "whole-graph": "batch",
    "gradient-clipping": "optimiser",
    "dropout-from-risk": "regularisation",
    "no-dropout-after-batchnorm": "regularisation",
    "label-smoothing": "regularisation",
    "token-dropout": "regularisation",
    "modality-dropout": "regularisation",
    "drop-edge": "regularisation",
    "drop-features": "regularisation",
    "imbalance": "loss",
    "augmentation": "augmentation",
    "series-augmentation": "augmentation",
    "time-shift": "augmentation",
    "spec-augment": "augmentation",
    "cloud-augmentation": "augmentation",
}


@dataclass(frozen=True)
class TaskPart(JsonRecord):
    """What is to be solved: the data, what is predicted, and what is required."""

    modality: str
    targets: tuple[Target, ...]
    samples: dict[str, int]  # of each part
    inputs: dict[str, tuple[int, ...]]
    divided_by: str
    fingerprint: str
    objectives: tuple[str, ...]
    constraints: tuple[str, ...]
    device: str
    notes: tuple[str, ...] = ()
    license: str = "not stated"  # of the data, to be filled in by whoever knows


@dataclass(frozen=True)
class Choice(JsonRecord):
    """One value of the configuration, and the rules that bound it, in words with their source."""

    name: str
    value: Value
    role: str
    rules: tuple[str, ...] = ()


@dataclass(frozen=True)
class ArchitecturePart(JsonRecord):
    """The network layer by layer; ``skips`` of a layer are the places where shortcuts begin."""

    family: str
    paper: str
    choices: tuple[Choice, ...]
    layers: tuple[LayerRow, ...]
    pretrained: str = ""  # the weights that it starts from, in two sentences


@dataclass(frozen=True)
class ParametersPart(JsonRecord):
    """How large it is. FLOPs are of one sample (a multiply-add is two), memory is of a training
    step and of a prediction of one sample, in MiB."""

    params: int
    components: dict[str, int]
    flops: int
    memory_mb: float
    inference_mb: float
    trained: int | None = None  # of the parameters; None for all


@dataclass(frozen=True)
class RecipePart(JsonRecord):
    """How it is trained."""

    optimizer: str
    schedule: str
    batch_size: int
    epochs: int
    steps: int
    early_stopping: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Rival(JsonRecord):
    """A model beside the network, on the same validation samples: a simple one, or the baseline of
    a family at the cost of a proxy. ``better_by`` is the network's lead, in standard errors."""

    name: str
    kind: str
    value: float
    standard_error: float
    better_by: float | None = None


@dataclass(frozen=True)
class BaselinesPart(JsonRecord):
    """What it is measured against."""

    metric: str
    value: float | None
    standard_error: float | None
    rivals: tuple[Rival, ...]
    verdict: str
    test: dict[str, float]


@dataclass(frozen=True)
class LatencyRow(JsonRecord):
    """A latency of one sample, or of ``batch``, with its interquartile range."""

    device: str
    ms: float
    iqr_ms: float
    batch: int
    isolated: bool


@dataclass(frozen=True)
class ComputePart(JsonRecord):
    """What it has cost. Energy is that of the full training by the counters of ``energy_of``, other
    work on the devices included; None where they report none."""

    search_s: float | None
    cpu_hours: float | None
    gpu_hours: float | None
    candidates: int | None
    proxy_s: float | None
    training_predicted_s: float | None
    training_measured_s: float | None
    latency: tuple[LatencyRow, ...]
    energy_wh: float | None = None
    energy_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScalingPart(JsonRecord):
    """The network for more data; ``nas train RECIPE --scale FACTOR`` builds each step."""

    steps: tuple[scaling.Scaled, ...]
    sources: tuple[str, ...] = scaling.SOURCES


@dataclass(frozen=True)
class DesignDocument(JsonRecord):
    """The whole document; ``json_schema`` describes its JSON."""

    title: str
    task: TaskPart
    architecture: ArchitecturePart
    parameters: ParametersPart
    recipe: RecipePart
    baselines: BaselinesPart
    compute: ComputePart
    scaling: ScalingPart
    limits: tuple[str, ...]
    versions: dict[str, str]
    weaknesses: Weaknesses | None = None
    candidate: int | None = None
    format: int = FORMAT


def json_schema() -> dict[str, Any]:
    """The JSON schema of a document."""
    schema: dict[str, Any] = DesignDocument._adapter().json_schema()
    return schema


def write_design(document: DesignDocument, folder: Path) -> Path:
    """Write design.json, design.schema.json, design.md and design.html; the page is returned."""
    write_whole(folder / "design.json", json.dumps(document.to_dict(), indent=1))
    write_whole(folder / "design.schema.json", json.dumps(json_schema(), indent=1))
    write_whole(folder / "design.md", markdown(document.to_dict()))
    write_whole(folder / "design.html", page(document.to_dict()))
    return folder / "design.html"


def design_of_run(run: Run, number: int | None = None) -> DesignDocument:
    """The document of a candidate of a run; by default of the one that was trained at full scale,
    else of the best. Raises as ``Run.export``."""
    finished = run.finished
    ended = finished is not None and bool(finished.result)
    one = number  # of a search's end it may be several networks as one, in RUN/model
    if number is None:
        number = finished.candidate if finished and ended else run.best().number
    candidate = next((c for c in run.candidates() if c.number == number), None)
    if candidate is None or not candidate.metrics:
        raise InputError(f"candidate {number} of {run.folder} is not complete; choose another")
    try:
        trained = open_trained(run.folder, one if ended else number)
    except InputError:
        trained = None  # a network that is not trained has a document too
    recipe = recipes.make(candidate, run.task, run.source, run.versions)
    if trained is not None and trained.recipe and recipes.size(trained.recipe) > 1:
        recipe = trained.recipe
    return _document(recipe, run, candidate, trained)


def design_of_recipe(path: Path) -> DesignDocument:
    """The document of a recipe, without what only its run knows."""
    return _document(recipes.load(path), None, None, None)


def _document(
    recipe: Mapping[str, Any], run: Run | None, candidate: Candidate | None, trained: Trained | None
) -> DesignDocument:
    arguments, of = recipe["model"]["init_args"], recipe["provenance"]
    task, family, config = (
        Task.from_dict(arguments["task"]),
        arguments["family"],
        arguments["config"],
    )
    compute = _compute(recipe, run, candidate, trained.result if trained else {})
    # The proxy of a first fold was trained on samples of the validation part.
    is_fold = trained is not None and trained.fidelity and rules.folds(trained.task) > 1
    counted = cost.analyse(lambda: build_network(family, config, task), made_up_inputs(task, 2))
    full_s = compute.training_measured_s or compute.training_predicted_s
    return DesignDocument(
        title=f"{family} for {', '.join(t.name for t in task.targets[:3])} ({task.modality})",
        task=_task(task, run),
        architecture=_architecture(family, config, task, counted["layers"]),
        parameters=_parameters(family, config, task, counted),
        recipe=_recipe(recipe, family, config, task),
        baselines=_baselines(task, run, candidate, trained, of),
        compute=compute,
        scaling=ScalingPart(
            scaling.plan(
                *members(family, config)[0], task, full_s and full_s / recipes.size(recipe)
            )
        ),
        limits=tuple(_limits(task, run, trained)),
        versions=dict(of.get("versions") or {}),
        weaknesses=weaknesses(trained) if trained and not is_fold else None,
        candidate=of["candidate"],
    )


def _task(task: Task, run: Run | None) -> TaskPart:
    profile = task.profile
    has_data = run is not None and (run.folder / "data" / "dataset.json").is_file()
    notes = Dataset.load(run.folder / "data").notes if run is not None and has_data else ()
    return TaskPart(
        modality=task.modality,
        targets=task.targets,
        samples={"train": profile.n_train, "val": profile.n_val, "test": profile.n_test},
        inputs=profile.inputs,
        divided_by=profile.split_method,
        fingerprint=profile.fingerprint,
        objectives=tuple(f"{o.metric} ({o.direction})" for o in task.objectives),
        constraints=tuple(map(str, task.constraints)),
        device=task.device,
        notes=notes,
    )


def _choices(family: str, config: Config, task: Task) -> list[Choice]:
    space = load_families(task.modality)[family].space(task)
    why = {param.name: param.why for param in space.params} | {ENSEMBLE: ("deep-ensemble",)}
    found = []
    for name, value in config.items():
        ids = why.get(name, ())
        role = next((_ROLES[i] for i in ids if i in _ROLES), "architecture")
        found.append(Choice(name, value, role, tuple(map(_rule, ids))))
    return found


def _rule(name: str) -> str:
    rule = rules.RULES.get(name)
    return f"{rule.statement} ({rule.source})" if rule else name


def _architecture(
    family: str, config: Config, task: Task, rows: Sequence[Mapping[str, Any]]
) -> ArchitecturePart:
    chosen = [c for c in _choices(family, config, task) if c.role == "architecture"]
    layers = tuple(LayerRow.from_dict(dict(row)) for row in rows)
    paper = load_families(task.modality)[family].paper
    source = started_from(family, config, task)
    origin = source.origin if source else ""
    return ArchitecturePart(family, paper, tuple(chosen), layers, origin)


def _parameters(
    family: str, config: Config, task: Task, counted: Mapping[str, Any]
) -> ParametersPart:
    def build() -> Any:
        return build_network(family, config, task)

    def inputs(n: int) -> Any:
        return made_up_inputs(task, n)

    return ParametersPart(
        int(counted["params"]),
        counted["components"],
        int(counted["flops"]) // 2,
        cost.training_mb(build, inputs, int(config["batch_size"])),
        cost.inference_mb(build, inputs, 1),
        None if counted["trainable"] == counted["params"] else int(counted["trainable"]),
    )


def _recipe(recipe: Mapping[str, Any], family: str, config: Config, task: Task) -> RecipePart:
    optimizer, schedule = recipe["optimizer"], recipe.get("lr_scheduler")
    trainer = recipe["trainer"]
    steps = schedule["init_args"].get("total_steps", 0) if schedule else 0
    described = {k: v for k, v in optimizer["init_args"].items() if k != "fused"}
    return RecipePart(
        optimizer=_call(optimizer["class_path"], described),
        schedule=_call(schedule["class_path"], schedule["init_args"]) if schedule else "none",
        batch_size=int(config["batch_size"]),
        epochs=int(trainer["max_epochs"]),
        steps=int(steps),
        early_stopping=_early_stopping(trainer),
        choices=tuple(c for c in _choices(family, config, task) if c.role != "architecture"),
    )


def _early_stopping(trainer: Mapping[str, Any]) -> str:
    """When a training ends, and what is kept of it."""
    kept = "the weights of the best validation epoch are kept"
    for each in trainer.get("callbacks") or ():
        if each["class_path"] == EARLY:
            epochs = each["init_args"]["patience"]
            return f"after {epochs} epochs without better quality or a lower loss; {kept}"
    return kept


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    shown = ", ".join(
        f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in arguments.items()
    )
    return f"{name.rpartition('.')[2]}({shown})"


def _baselines(
    task: Task,
    run: Run | None,
    candidate: Candidate | None,
    trained: Trained | None,
    of: Mapping[str, Any],
) -> BaselinesPart:
    metric = of["objective"]
    value = float(of["validation"][metric])
    error = standard_error(task, metric, value)
    sign = 1 if task.quality.direction == "max" else -1

    def rival(name: str, kind: str, own: float) -> Rival:
        both = (error**2 + standard_error(task, metric, own) ** 2) ** 0.5
        lead = sign * (value - own) / both if both else None
        return Rival(name, kind, own, standard_error(task, metric, own), lead)

    rivals = []
    if run is not None:
        rivals += [
            rival(row["name"], "simple model", row["metrics"][metric])
            for row in run.baselines()
            if metric in row["metrics"]
        ]
        rivals += [
            rival(f"{c.label} (candidate {c.number})", "baseline of a family", c.metrics[metric])
            for c in run.candidates()
            if c.origin == "baseline" and metric in c.metrics and c.number != of["candidate"]
        ]
    tested = trained.result.get("test", {}) if trained else {}
    return BaselinesPart(
        metric, value, error, tuple(rivals), _verdict(rivals, metric, value, error), tested
    )


def _verdict(rivals: Sequence[Rival], metric: str, value: float, error: float) -> str:
    """In words: what it is better than by more than two standard errors, and what not."""
    own = f"{metric} {figure(value)} ± {rounded(error)}"
    if not rivals:
        return f"{own}; nothing was measured beside it"
    better = [r.name for r in rivals if r.better_by is not None and r.better_by > 2]
    worse = [r.name for r in rivals if r.better_by is not None and r.better_by < -2]
    level = [r.name for r in rivals if r.name not in better and r.name not in worse]
    parts = [f"better than {', '.join(better)}"] if better else []
    parts += [f"not better than {', '.join(level)}"] if level else []
    parts += [f"worse than {', '.join(worse)}"] if worse else []
    return f"{own}: {'; '.join(parts)}"


def _compute(
    recipe: Mapping[str, Any],
    run: Run | None,
    candidate: Candidate | None,
    result: Mapping[str, Any],
) -> ComputePart:
    of, proxy = recipe["provenance"], recipe["provenance"]["proxy"]
    epochs = int(recipe["trainer"]["max_epochs"])
    spent = float(proxy.get("seconds") or 0.0)
    trained = float(proxy.get("trained") or proxy["epochs"])
    share = float(proxy.get("share") or 1.0)
    predicted = spent / (trained * share) * epochs if spent and trained else None
    energy: dict[str, float] = result.get("energy_wh", {})
    rows = []
    own = of.get("latency") or {}
    if own:
        rows.append(_latency("this search's device", own))
    if run is not None and candidate is not None:
        for file in sorted(run.folder.glob("latency-*.json")):
            other: LatencyFile = read_json(file, LatencyFile)
            found = other.latency(candidate.number)
            if found is not None:
                rows.append(_latency(other.measured_on, found.to_dict()))
    return ComputePart(
        search_s=run.spent_s if run else None,
        cpu_hours=run.hours("cpu") if run else None,
        gpu_hours=run.hours("gpu") if run else None,
        candidates=len(run.candidates()) if run else None,
        proxy_s=spent or None,
        training_predicted_s=predicted,
        training_measured_s=result.get("seconds"),
        latency=tuple(rows),
        energy_wh=sum(energy.values()) if energy else None,
        energy_of=tuple(sorted(energy)),
    )


def _latency(device: str, found: Mapping[str, Any]) -> LatencyRow:
    return LatencyRow(
        device, found["ms"], found["iqr_ms"], found.get("batch", 1), bool(found.get("isolated"))
    )


def _limits(task: Task, run: Run | None, trained: Trained | None) -> list[str]:
    """What the document cannot say, or what it says with doubt."""
    limits = []
    if trained is None:
        limits.append("the network was not trained at full scale: its quality is a proxy's")
    elif trained.fidelity:
        limits.append(
            "the network was not trained at full scale: its quality and its errors are those of a"
            f" proxy ({trained.fidelity})"
        )
    if task.profile.n_val < 200:
        limits.append(f"its quality rests on {task.profile.n_val} validation samples")
    if run is None:
        limits.append("without its run no simple model stands beside it")
    rare = [c for t in task.targets for c, n in zip(t.classes, t.counts, strict=False) if n < 50]
    if rare:
        limits.append(f"fewer than 50 training samples: {', '.join(rare[:8])}")
    limits.append("the licence of the data was not examined")
    limits.append("other sources of data may differ from those it was trained on")
    return limits
