"""The report of a search: one HTML page that needs neither a server nor the network.

``page`` bakes a study into that page (``nas.report.payload``). The dashboard serves the same page
and gives its ``receive(update)`` what is new.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from nas.candidate import Candidate, State
from nas.files import write_whole
from nas.front import constant_guess, pareto
from nas.space import Space
from nas.task import COSTS, Objective, Task, UsageError
from nas.terminal import visible

__all__ = ["StudyView", "front", "page", "ranked", "write"]


@dataclass(frozen=True)
class StudyView:
    """All that a report shows of a study, finished or running.

    ``baselines`` are simple models outside the search, each ``{"name", "metrics",
    "seconds"}``, whose costs may be absent. ``spaces`` are keyed by family; ``rules``
    maps the ids in a parameter's ``why`` to (statement, source). ``rate_tests`` are the
    learning-rate range tests by family, as a run keeps them. ``failures`` are sentences
    on what ended candidates, the most frequent first. ``seconds`` is the wall-clock time spent
    so far. ``folder`` is that of its run, for commands; ``recipes`` are training recipes
    (YAML) by candidate, for those whose recipe the page holds; ``trained`` are the numbers of
    those that were trained at full scale, ``kept`` of those whose weights the search has kept.
    ``tested`` is what ended the search: the ``number`` and the ``family`` of the candidate that was
    trained at full scale, of how many ``networks`` it is the mean, and its ``value`` of the quality
    on the test part, from ``low`` to ``high`` with 95 % confidence, beside ``simple``, the name and
    the value of the best simple model; empty where no training ended it.
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
    folder: str = ""
    recipes: Mapping[int, str] = field(default_factory=dict)
    trained: frozenset[int] = frozenset()
    kept: frozenset[int] = frozenset()
    tested: Mapping[str, Any] = field(default_factory=dict)

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


def page(study: StudyView) -> str:
    """The self-contained HTML page of a study, about 5 MB of which are plotly.js.

    Its Content-Security-Policy lets exactly the inlined scripts run, named by their hashes, and
    forbids every connection.
    """
    from nas.report.payload import packed_details, whole

    plotly, script = plotly_js(), explorer_js()
    policy = (
        "default-src 'none'",
        f"script-src {_hash(plotly)} {_hash(script)}",
        "style-src 'unsafe-inline'",  # plotly.js writes style attributes
        "img-src data: blob:",
        "connect-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return explorer_html(
        title=html.escape(visible(study.name)),
        head=f"""<meta http-equiv="Content-Security-Policy" content="{"; ".join(policy)}">
<style>{explorer_css()}</style>""",
        scripts=f"""<script>{plotly}</script>
<script type="application/json" id="baked">{_embedded([whole(study)])}</script>
<script type="application/json" id="details">{_embedded(packed_details(study, front(study)))}\
</script>
<script>{script}</script>""",
    )


def write(study: StudyView, path: str | Path) -> None:
    """Write the page of a study to ``path``."""
    write_whole(path, page(study))


# -- the parts of the page, which the dashboard serves one by one ---------------------------

# In the order in which they need each other; all of them are one script in the end.
_SCRIPTS = (
    *("base", "store", "front", "filter", "view", "plots", "table"),
    *("explorer", "candidate", "studies", "why", "machine", "export", "live", "main"),
)


def explorer_html(**parts: str) -> str:
    """The page around its parts: title, head and scripts."""
    text = _text(files("nas.report") / "explorer.html")
    # One pass, so that a placeholder inside a part stays what it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], text)


def explorer_css() -> str:
    return _text(files("nas.report") / "explorer.css")


def explorer_js() -> str:
    """All scripts of the page but plotly.js."""
    folder = files("nas.report") / "js"
    return "".join(_text(folder / f"{name}.js") for name in _SCRIPTS)


def plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _embedded(data: Any) -> str:
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    # In a script element "<" could open a tag or a comment; in JSON it is only ever text.
    return text.replace("<", "\\u003c")


def _text(file: Any) -> str:
    # A browser hashes a script with its line ends normalised; so do we.
    return str(file.read_text(encoding="utf-8")).replace("\r\n", "\n")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
