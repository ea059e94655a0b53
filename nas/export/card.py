"""The model card of a trained network: README.md with Hugging Face's metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from nas.family import started_from
from nas.rules import is_node_level
from nas.task import Kind, Modality
from nas.terminal import figure, visible

if TYPE_CHECKING:
    from nas.export.trained import Trained

# Tasks of Hugging Face's hub; a modality without one has none in its card.
_TASKS: dict[Modality, dict[str, str]] = {
    "tabular": {"class": "tabular-classification", "number": "tabular-regression"},
    "images": {"class": "image-classification"},
    "text": {"class": "text-classification"},
    "audio": {"class": "audio-classification"},
    "graphs": {"class": "graph-ml", "number": "graph-ml"},
}


def model_card(trained: Trained, requirements: Sequence[str]) -> str:
    """The text of README.md in a standalone folder.

    Metadata as in https://huggingface.co/docs/hub/model-cards: library, tags, task, licence (to be
    filled in), and the measured results. Below it what the network is, how it is used, how good
    it is, on which data, and what is not known of it.
    """
    metadata = yaml.safe_dump(_metadata(trained), sort_keys=False, allow_unicode=True)
    return f"---\n{metadata}---\n\n# {_plain(trained.title)}\n\n{_body(trained, requirements)}"


def _metadata(trained: Trained) -> dict[str, Any]:
    task = trained.task
    kind = "number" if task.targets[0].kind == "regression" else "class"
    hub = _TASKS.get(task.modality, {}).get(kind)
    found: dict[str, Any] = {
        "license": "other",
        "license_name": "to-be-filled-in",
        "library_name": "pytorch",
        "tags": [task.modality, trained.proxy.family, "neural-architecture-search"],
    }
    if hub:
        found["pipeline_tag"] = hub
    tested = trained.result.get("test", {})
    metrics = [
        {"type": name, "value": round(float(value), 6)}
        for name, value in tested.items()
        if name != "loss" and "[" not in name
    ]
    if metrics:
        dataset = {"name": trained.source.name if trained.source else "own data"}
        dataset["type"] = task.profile.fingerprint
        about = {"type": hub or task.modality}
        result = {"task": about, "dataset": dataset, "metrics": metrics}
        found["model-index"] = [{"name": trained.proxy.family, "results": [result]}]
    return found


def _body(trained: Trained, requirements: Sequence[str]) -> str:
    task, profile = trained.task, trained.task.profile
    parts = f"{profile.n_train:,} samples to train, {profile.n_val:,} to validate"
    lines = [
        f"A network of the family {trained.proxy.family}, found by architecture search.",
        "",
        "## Use",
        "",
        "```",
        "pip install -r requirements.txt",
        "python predict.py DATA --out predictions.csv",
        "python test_predictions.py",
        "```",
        "",
        "`model.py` needs torch alone; `preprocess.py` makes its inputs of files. From Python:",
        "",
        "```python",
        "from predict import predict",
        "",
        'probabilities, names = predict(Path("DATA"))',
        "```",
        "",
        f"Requirements: {', '.join(requirements)}.",
        "",
        "## What it predicts",
        "",
        *[f"- {_target(t.name, t.kind, t.classes)}" for t in task.targets],
        "",
        "## Data",
        "",
        f"{parts}, {profile.n_test:,} to test; divided by:"
        f" {_plain(profile.split_method or 'unknown')}."
        f" Fingerprint {profile.fingerprint}.",
        "",
        "## Results",
        "",
        *_results(trained),
        "",
        "## Limits",
        "",
        *_limits(trained),
        "",
    ]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A name from the data as Markdown shows it: on one line, without cells, code, links, tags."""
    return re.sub(r"[\\`|<\[]", r"\\\g<0>", visible(text, lines=False))


def _code(name: str) -> str:
    """A name from the data between backticks, which cannot be escaped there."""
    return "`" + visible(name, lines=False).replace("`", "'") + "`"


def _target(name: str, kind: Kind, classes: Sequence[str]) -> str:
    if kind == "regression":
        return f"{_code(name)}: a number"
    shown = ", ".join(map(_plain, classes[:10])) + (", …" if len(classes) > 10 else "")
    return f"{_code(name)}: {kind} of {len(classes)} labels ({shown})"


def _results(trained: Trained) -> list[str]:
    if trained.fidelity:
        known = trained.task.quality_metrics
        scores = trained.recipe["provenance"]["validation"].items()
        return [
            f"It was not trained at full scale, but as a proxy of a search: {trained.fidelity}. The"
            " scores of this proxy on the validation part, by which the search has chosen it:",
            *_table({name: value for name, value in scores if name in known}),
        ]
    tested = trained.result.get("test")
    if not tested:
        return ["It was not scored on a test part."]
    seen = "On the test part, which the search has not seen:"
    return [seen, *_table(tested), *_intervals(trained)]


def _table(scores: Mapping[str, float]) -> list[str]:
    rows = (f"| {_plain(name)} | {figure(value)} |" for name, value in scores.items())
    return ["", "| metric | value |", "|---|---|", *rows]


def _intervals(trained: Trained) -> list[str]:
    """What its intervals hold of the test part."""
    lines = [
        f"- {_code(name)} ± {figure(own['half_width'])} is an interval of"
        f" {100 * own['level']:.0f} %; it held {100 * own['test_coverage']:.1f} % of the test part."
        for name, own in trained.result.get("intervals", {}).items()
        if "test_coverage" in own
    ]
    return ["", *lines] if lines else []


def _limits(trained: Trained) -> list[str]:
    task = trained.task
    limits = [
        "- It knows what the training data shows; other sources of data may differ from it.",
        "- The licence of the data was not examined: fill in `license` above.",
    ]
    source = started_from(trained.proxy.family, trained.proxy.config, task)
    if source is not None:
        limits.append(f"- {source.origin}")
    rare = [
        f"{_plain(c)} ({n})"
        for t in task.targets
        for c, n in zip(t.classes, t.counts, strict=False)
        if n < 50
    ]
    if rare:
        limits.append(f"- Few training samples: {', '.join(rare[:8])}.")
    if is_node_level(task):
        limits.append("- It predicts the nodes of one graph, which must have the same features.")
    return limits
