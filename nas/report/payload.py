"""What the explorer page is given of a study, as plain JSON values.

``head`` is all that changes seldom, ``table`` the candidates by column, ``detail`` what is shown
of a single one. The baked page holds all three; the dashboard sends the table of what is new.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nas.candidate import Candidate, Reason, State
from nas.export.diagram import diagram
from nas.front import beats, by_quality, constant_guess, expected_guess, pareto, standard_error
from nas.plan import rungs
from nas.report.chance import chance
from nas.report.importance import importance
from nas.rules import scored_samples
from nas.space import Space
from nas.task import COSTS, Task, plain
from nas.terminal import visible

if TYPE_CHECKING:
    from nas.report import StudyView

# Curves, layers and gradient norms are most of a candidate's bytes. The page keeps them for the
# front, for the best others and for some of each failure, until these bytes are full, compressed.
DETAILS_BYTES = 2_000_000
# ... and for no more than so many, each of which takes a millisecond to write.
DETAILS_MOST = 3000
# A recipe that is longer (of a table of many columns) is left to the command that writes it.
_RECIPE_CHARS = 40_000
# So many candidates are unpacked together when one of them is opened.
_TOGETHER = 40
# Of each reason for failing, this many of the latest candidates keep theirs first.
EXAMPLES = 5
# Sentences and tracebacks are shown from their end, where the error stands.
_DETAIL_CHARS = 4000


def head(study: StudyView) -> dict[str, Any]:
    """The study without its candidates. Its texts are ``visible``: names come from strangers'
    files, and characters that steer how a line is read are escapes in the page too."""
    task, profile = study.task, study.task.profile
    quality = study.quality.metric
    data = {
        "name": study.name,
        "folder": study.folder,
        "modality": task.modality,
        "quality": study.quality.to_dict(),
        "objectives": [o.to_dict() for o in task.objectives],
        "constraints": [c.to_dict() for c in task.constraints],
        "costs": COSTS,
        "device": task.device,
        "workers": task.budget.workers,
        "budget": task.budget.to_dict(),
        "latency_on": study.latency_on,
        "seconds": study.seconds,
        "notes": study.notes,
        "failures": study.failures,
        "versions": dict(study.versions),
        "rungs": rungs(task.fidelity.epochs),
        "scored": scored_samples(task),
        "guess": expected_guess(task).get(quality),
        # What is cut off stands in the page by its kind, as ``Candidate.standing`` has it.
        "reasons": {(r.kind if r.kind == "cut off" else r.value): r.sentence for r in Reason if r},
        "baselines": [_simple_model(b, task) for b in study.baselines],
        "tested": dict(study.tested),
        "spaces": {family: _parameters(space) for family, space in study.spaces.items()},
        "rate_tests": {name: dict(test) for name, test in study.rate_tests.items()},
        "rules": {name: list(rule) for name, rule in study.rules.items()},
        "profile": {
            "n_train": profile.n_train,
            "n_val": profile.n_val,
            "n_test": profile.n_test,
            "inputs": profile.inputs,
            "numeric": sum(c.kind == "numeric" for c in profile.columns),
            "categorical": sum(c.kind == "categorical" for c in profile.columns),
            "missing": max((c.missing for c in profile.columns), default=0.0),
            "split_method": profile.split_method,
            "split": profile.split,
            "fingerprint": profile.fingerprint,
            "targets": [t.to_dict() for t in task.targets],
        },
    }
    return _shown(data)


def _simple_model(model: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """A simple model with its costs among its metrics, as candidates have them."""
    costs = dict(model.get("costs", {}))
    spread = costs.pop("spread_ms", None)
    error = _error(task, task.quality.metric, model["metrics"])
    return {**model, "metrics": model["metrics"] | costs, "spread": spread, "error_of": error}


def whole(study: StudyView) -> dict[str, Any]:
    """All of a study in one update, for a page that gets no other."""
    own = head(study) | _shown(
        {
            "importance": importance(study.candidates, study.task),
            "chance": chance(study.candidates, study.task, study.spaces),
        }
    )
    return {"study": "study", "head": own, "table": table(study.candidates, study.task)}


def table(candidates: Sequence[Candidate], task: Task) -> dict[str, Any]:
    """Candidates by column, without what ``detail`` holds: a third of the bytes of rows.

    Metrics that rank are exact, as the page computes fronts from them; others have six digits.
    ``root`` is the candidate that one repeats, or -1. ``error`` is one standard error of the
    quality, ``errors`` those of other qualities among the objectives, ``spread`` half the
    interquartile range of the latency. The values of a family's parameters are in the order of its
    own candidates.
    """
    exact = {o.metric for o in task.objectives} | {c.metric for c in task.constraints}
    guess = constant_guess(task)
    quality = task.quality.metric
    others = [o.metric for o in task.objectives if o.metric not in (quality, *COSTS)]
    families = list(dict.fromkeys(c.family for c in candidates))
    names = list(dict.fromkeys(name for c in candidates for name in c.metrics))
    latencies = [c.cost.latency for c in candidates]

    def metric(c: Candidate, name: str) -> float | None:
        return _number(c.metrics.get(name), 17 if name in exact else 6)

    columns = {
        "number": [c.number for c in candidates],
        "root": [c.root for c in candidates],
        "family": _words(c.family for c in candidates),
        "state": _words(c.standing[0] for c in candidates),
        "reason": _words(c.standing[1] for c in candidates),
        "origin": _words(c.origin for c in candidates),
        "epochs": [len(c.curve) for c in candidates],
        "planned": [c.epochs for c in candidates],
        "started": [round(c.started, 2) for c in candidates],
        "seconds": [round(c.seconds, 2) for c in candidates],
        "worker": [c.worker for c in candidates],
        "cpus": _words(str(c.cpus) for c in candidates),
        "gpus": _words(str(c.gpus) for c in candidates),
        "device": _words(c.cost.device for c in candidates),
        "use": [_number(c.cost.use, 2) for c in candidates],
        "metrics": {name: [metric(c, name) for c in candidates] for name in names},
        "error": [_error(task, quality, c.metrics) for c in candidates],
        "errors": {name: [_error(task, name, c.metrics) for c in candidates] for name in others},
        "spread": [_number(x.iqr_ms / 2, 3) if x else None for x in latencies],
        "contended": [None if x is None else int(not x.isolated) for x in latencies],
        "config": {family: _settings(candidates, family) for family in families},
        # No better than a constant guess, which dominates it.
        "guess": [
            c.number
            for c in candidates
            if c.state == State.COMPLETE and not beats(c.metrics, task.objectives, guess)
        ],
    }
    return _shown(columns)


def detail(candidate: Candidate) -> dict[str, Any]:
    """What is shown of a single candidate beside its row."""
    return _shown(
        {
            "detail": candidate.detail[-_DETAIL_CHARS:],
            "seed": candidate.seed,
            "latency": candidate.cost.latency and candidate.cost.latency.to_dict(),
            "cost": replace(candidate.cost, latency=None).to_dict(),
            "curve": [{k: _number(v, 5) for k, v in point.items()} for point in candidate.curve],
            "gradient_norms": {k: _number(v, 4) for k, v in candidate.gradient_norms.items()},
            "health": candidate.health.to_dict(),
            "layers": [{k: v for k, v in row.items() if v} for row in candidate.layers],
            "picture": diagram(candidate.layers, f"Network of candidate {candidate.number}")
            if candidate.layers
            else "",
        }
    )


def packed_details(study: StudyView, best: Sequence[Candidate]) -> list[dict[str, Any]]:
    """The details of as many candidates as there is room for, ``best`` first: parcels of
    ``{"numbers", "data"}``, the latter the JSON of a list, deflated (RFC 1950) in base64."""
    parcels: list[dict[str, Any]] = []
    room = DETAILS_BYTES
    order = _by_interest(study, best)[:DETAILS_MOST]

    def shown(candidate: Candidate) -> dict[str, Any]:
        # The text of a file, which is not shown: nothing in it is escaped but by YAML.
        recipe = study.recipes.get(candidate.number, "")
        held = {"recipe": recipe} if 0 < len(recipe) <= _RECIPE_CHARS else {}
        number = candidate.number
        ready = {"trained": number in study.trained, "kept": number in study.kept}
        return detail(candidate) | ready | held

    for at in range(0, len(order), _TOGETHER):
        chosen = order[at : at + _TOGETHER]
        text = json.dumps([shown(c) for c in chosen], allow_nan=False, separators=(",", ":"))
        data = base64.b64encode(zlib.compress(text.encode())).decode()
        room -= len(data)
        if room < 0:
            break
        parcels.append({"numbers": [c.number for c in chosen], "data": data})
    return parcels


def _by_interest(study: StudyView, best: Sequence[Candidate]) -> list[Candidate]:
    """All candidates, those first that somebody is the most likely to open."""
    from nas.report import ranked

    ordered = by_quality(ranked(study), study.quality)
    # Looser limits in the browser uncover more of the front without limits.
    unlimited = pareto(ordered, study.task.objectives, (), constant_guess(study.task))
    examples: dict[tuple[State, str], list[Candidate]] = {}
    for candidate in reversed(study.candidates):
        if candidate.state != State.COMPLETE:
            of_reason = examples.setdefault((candidate.state, candidate.reason), [])
            if len(of_reason) < EXAMPLES:
                of_reason.append(candidate)
    failed = [c for of_reason in examples.values() for c in of_reason]
    everyone = (*best, *failed, *unlimited, *ordered, *study.candidates)
    return list({c.number: c for c in everyone}.values())


def _error(task: Task, quality: str, metrics: Mapping[str, float]) -> float | None:
    """One standard error of a quality; None where that is not known."""
    value = metrics.get(quality, math.nan)
    return _number(standard_error(task, quality, value), 3) if math.isfinite(value) else None


def _words(texts: Iterable[str]) -> dict[str, list[Any]]:
    """A column of few distinct texts: the texts, and which of them each row has."""
    known: dict[str, int] = {}
    at = [known.setdefault(text, len(known)) for text in texts]
    return {"words": list(known), "at": at}


def _settings(candidates: Sequence[Candidate], family: str) -> dict[str, list[Any]]:
    own = [c.config for c in candidates if c.family == family]
    names = dict.fromkeys(name for config in own for name in config)
    return {name: [_setting(config.get(name)) for config in own] for name in names}


def _setting(value: Any) -> Any:
    return _number(value, 5) if isinstance(value, float) else value


def _number(value: float | None, digits: int) -> float | int | None:
    """As short as its value allows; None where it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    if value == int(value):
        return int(value)
    return value if digits > 16 else float(f"{value:.{digits}g}")


def _shown(data: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = plain(data, visible)
    return result


def _parameters(space: Space) -> list[dict[str, Any]]:
    return [
        {
            "name": p.name,
            "domain": p.domain,
            "default": p.default,
            "when": {name: list(values) for name, values in p.when.items()},
            "why": p.why,
        }
        for p in space.params
    ]
