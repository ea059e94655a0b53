"""The report of a search: one HTML page that needs neither a server nor the network.

``page`` bakes a study into that page, ``payload`` is the JSON object it draws: a live
server can hand out the same page and call its ``render(data)`` with fresh payloads.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from nas.candidate import Candidate, Reason, State
from nas.files import write_whole
from nas.front import beats, by_quality, constant_guess, pareto
from nas.space import Space
from nas.task import COSTS, Objective, Task, UsageError, plain
from nas.terminal import visible

__all__ = ["StudyView", "front", "page", "payload", "ranked", "write"]

# Curves, layers and gradient norms are most of a candidate's bytes. The page keeps them
# for the front and for this many of the best others (10,000 candidates: under 15 MB) ...
DETAILED_OTHERS = 300
# ... but for no more than this many in all, however large the front is.
DETAILED_MOST = 900
# More points than this are drawn by WebGL, for SVG takes seconds to follow a slider.
WEBGL_FROM = 1500
# Of each reason for failing, this many of the latest candidates keep theirs too.
EXAMPLES = 5


@dataclass(frozen=True)
class StudyView:
    """All that a report shows of a study, finished or running.

    ``baselines`` are simple models outside the search, each ``{"name", "metrics",
    "seconds"}``, whose costs may be absent. ``spaces`` are keyed by family; ``rules``
    maps the ids in a parameter's ``why`` to (statement, source). ``rate_tests`` are the
    learning-rate range tests by family, as a run keeps them. ``failures`` are sentences
    on what ended candidates, the most frequent first. ``seconds`` is the wall-clock time spent
    so far.
    """

    task: Task
    candidates: Sequence[Candidate]
    baselines: Sequence[Mapping[str, Any]] = ()
    name: str = "study"
    spaces: Mapping[str, Space] = field(default_factory=dict)
    rules: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    rate_tests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    failures: Sequence[str] = ()
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    latency_on: str = ""  # the device's short name, where it is not that of the search

    def __post_init__(self) -> None:
        if all(o.metric in COSTS for o in self.task.objectives):
            raise UsageError(
                "a report needs a task with an objective that is a quality;"
                " task.with_objectives() sets the usual three"
            )

    @property
    def quality(self) -> Objective:
        """The first objective that is not a cost; the vertical axis of every plot."""
        return self.task.quality


def ranked(study: StudyView) -> list[Candidate]:
    """The complete candidates that have every metric which objectives and limits name.

    A complete candidate without one of them (latency could not be measured, say) has no
    place in a front; the page counts those it leaves out.
    """
    needed = {o.metric for o in study.task.objectives} | {c.metric for c in study.task.constraints}
    return [
        c
        for c in study.candidates
        if c.state == State.COMPLETE
        and all(math.isfinite(c.metrics.get(name, math.nan)) for name in needed)
    ]


def front(study: StudyView) -> list[Candidate]:
    """The feasible Pareto front of the study, best value of the quality first."""
    task = study.task
    order = sorted(task.objectives, key=lambda o: o != study.quality)
    return pareto(ranked(study), order, task.constraints, constant_guess(task))


def payload(study: StudyView) -> dict[str, Any]:
    """The page's data as plain JSON values; NaN and infinity become null, control characters and
    marks of writing direction backslash escapes."""
    task, profile = study.task, study.task.profile
    best, guess = front(study), constant_guess(task)
    detailed = _detailed(study, best)
    data = {
        "name": study.name,
        "modality": task.modality,
        "quality": study.quality.to_dict(),
        "objectives": [o.to_dict() for o in task.objectives],
        "constraints": [c.to_dict() for c in task.constraints],
        "costs": COSTS,
        "device": task.device,
        "latency_on": study.latency_on,
        "seconds": study.seconds,
        "notes": study.notes,
        "failures": study.failures,
        "versions": dict(study.versions),
        "states": Counter(c.standing[0] for c in study.candidates),
        # What is cut off stands in the page by its kind, as ``Candidate.standing`` has it.
        "reasons": {(r.kind if r.kind == "cut off" else r.value): r.sentence for r in Reason if r},
        "webgl": sum(c.state == State.COMPLETE for c in study.candidates) > WEBGL_FROM,
        "front": [c.number for c in best],
        "unranked": sum(c.state == State.COMPLETE for c in study.candidates) - len(ranked(study)),
        "candidates": [_row(c, task, guess) for c in study.candidates],
        "details": {c.number: _detail(c) for c in detailed},
        "baselines": [dict(b) for b in study.baselines],
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
    # Names come from strangers' files: characters that steer how a line is read are escapes here,
    # as in a terminal; the page isolates each text, for scripts that run from right to left.
    result: dict[str, Any] = plain(data, visible)
    return result


def page(study: StudyView) -> str:
    """The self-contained HTML page of a study, about 5 MB of which are plotly.js.

    Its Content-Security-Policy lets exactly the two inlined scripts run, named by their
    hashes, and forbids every connection. Only a page with so many candidates that it needs
    WebGL also lets these scripts compile code, as plotly.js does for its drawing commands.
    """
    from plotly.offline import get_plotlyjs

    here = files("nas.report")
    plotly = get_plotlyjs()
    script = _text(here / "panels.js") + _text(here / "explorer.js")
    # In a script element "<" could open a tag or a comment; in JSON it is only ever text.
    content = payload(study)
    data = json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    parts = {
        "policy": "; ".join(
            [
                "default-src 'none'",
                f"script-src {_hash(plotly)} {_hash(script)}"
                + (" 'unsafe-eval'" if content["webgl"] else ""),
                "style-src 'unsafe-inline'",  # plotly.js writes style attributes
                "img-src data: blob:",
                "connect-src 'none'",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        "title": html.escape(visible(study.name)),
        "style": _text(here / "explorer.css"),
        "plotly": plotly,
        "data": data.replace("<", "\\u003c"),
        "script": script,
    }
    # One pass, so that a placeholder inside the data stays what it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _text(here / "explorer.html"))


def write(study: StudyView, path: str | Path) -> None:
    """Write the page of a study to ``path``."""
    write_whole(path, page(study))


def _text(file: Any) -> str:
    # A browser hashes a script with its line ends normalised; so do we.
    return str(file.read_text(encoding="utf-8")).replace("\r\n", "\n")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _row(candidate: Candidate, task: Task, guess: Mapping[str, float]) -> dict[str, Any]:
    complete = candidate.state == State.COMPLETE
    state, reason = candidate.standing
    row = {
        "number": candidate.number,
        "family": candidate.family,
        "state": state,
        "reason": reason,
        "origin": candidate.origin,
        "epochs": len(candidate.curve),
        "started": round(candidate.started, 2),
        "seconds": round(candidate.seconds, 2),
        "metrics": candidate.metrics,
        "latency": candidate.cost.latency and candidate.cost.latency.to_dict(),
        "config": candidate.config,
        # No better than a constant guess, which dominates it.
        "guess": None if not complete or beats(candidate.metrics, task.objectives, guess) else True,
    }
    return {key: value for key, value in row.items() if value not in (None, "", {})}


def _detail(candidate: Candidate) -> dict[str, Any]:
    return {
        "detail": candidate.detail,
        "seed": candidate.seed,
        "cost": replace(candidate.cost, latency=None).to_dict(),
        "curve": candidate.curve,
        "gradient_norms": candidate.gradient_norms,
        "health": candidate.health.to_dict(),
        "layers": candidate.layers,
    }


def _detailed(study: StudyView, best: list[Candidate]) -> list[Candidate]:
    ordered = by_quality(ranked(study), study.quality)
    chosen = {c.number: c for c in best}
    room = min(len(chosen) + DETAILED_OTHERS, DETAILED_MOST)
    # Looser limits in the browser uncover more of the front without limits: that goes first.
    unlimited = pareto(ordered, study.task.objectives, (), constant_guess(study.task))
    for candidate in _spread(unlimited, DETAILED_OTHERS // 2) + ordered:
        if len(chosen) >= room:
            break
        chosen[candidate.number] = candidate
    kept = list(chosen.values())[:DETAILED_MOST]
    examples: dict[tuple[State, str], list[Candidate]] = {}
    for candidate in reversed(study.candidates):
        if candidate.state != State.COMPLETE and candidate.number not in chosen:
            of_reason = examples.setdefault((candidate.state, candidate.reason), [])
            if len(of_reason) < EXAMPLES:
                of_reason.append(candidate)
    return kept + [c for of_reason in examples.values() for c in of_reason]


def _spread(candidates: list[Candidate], most: int) -> list[Candidate]:
    """At most ``most`` of the candidates, evenly over their order."""
    return candidates[:: max(1, math.ceil(len(candidates) / most))]


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
