"""Figures of a study for notebooks and scripts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nas.candidate import Candidate
from nas.report import StudyView, front, ranked
from nas.task import UsageError

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Okabe & Ito, "Color Universal Design" (2008): told apart by colour-blind readers too.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000")
LABELS = {
    "latency_ms": "latency (ms)",
    "params": "parameters",
    "flops": "FLOPs",
    "memory_mb": "memory (MB)",
}
WIDE = 20.0  # a cost that spans more than this factor gets a logarithmic axis


def front_figure(study: StudyView, x: str = "latency_ms") -> go.Figure:
    """Quality against the metric ``x``: all ranked candidates, the front, the baselines.

    Infeasible candidates are grey; the traces of the front are in the legend group
    "front". Show it with ``config={"showSendToCloud": False}``.

    Raises ``UsageError`` where no candidate has the metric ``x``.
    """
    import plotly.graph_objects as go

    quality = study.quality.metric
    drawn = [c for c in ranked(study) if math.isfinite(c.metrics.get(x, math.nan))]
    if not drawn:
        known = sorted({name for c in ranked(study) for name in c.metrics})
        raise UsageError(
            f"no complete candidate has the metric {x!r};"
            f" they have {', '.join(known) or 'none, for none is complete'}"
        )
    best = {c.number for c in front(study)}
    families = list(dict.fromkeys([*study.spaces, *(c.family for c in drawn)]))
    figure = go.Figure()

    def add(name: str, some: list[Candidate], group: str, marker: dict[str, object]) -> None:
        figure.add_scatter(
            name=name,
            legendgroup=group,
            showlegend=bool(some),
            mode="markers",
            x=[c.metrics[x] for c in some],
            y=[c.metrics[quality] for c in some],
            customdata=[c.number for c in some],
            hovertemplate=f"#%{{customdata}}<br>{quality} %{{y:.4g}}<br>{x} %{{x:.4g}}",
            marker=marker,
        )

    limits = study.task.constraints
    outside = [c for c in drawn if not c.feasible(limits)]
    add("outside the limits", outside, "outside", {"color": "#cfd6dc", "size": 6})
    for i, family in enumerate(families):
        colour, text = COLOURS[i % len(COLOURS)], _escaped(family)
        own = [c for c in drawn if c.family == family and c.feasible(limits)]
        rest, top = ([c for c in own if (c.number in best) == which] for which in (False, True))
        add(text, rest, "dominated", {"color": colour, "size": 7, "opacity": 0.45})
        edge = {"color": "#16232f", "width": 1}
        add(f"{text}, front", top, "front", {"color": colour, "size": 10, "line": edge})
    for baseline in study.baselines:
        if quality in baseline["metrics"]:
            name, level = _escaped(baseline["name"]), baseline["metrics"][quality]
            figure.add_hline(level, line={"dash": "dash", "color": "#8a6d00"}, annotation_text=name)
    values = [c.metrics[x] for c in drawn]
    better = "lower" if study.quality.direction == "min" else "higher"
    figure.update_layout(
        template="plotly_white",
        xaxis_title=LABELS.get(x, _escaped(x)),
        xaxis_type="log" if 0 < WIDE * min(values) < max(values) else "linear",
        yaxis_title=f"{_escaped(quality)} ({better} is better)",
        hovermode="closest",
    )
    return figure


def _escaped(name: str) -> str:
    # plotly.js reads a little HTML in its texts; a name must not be read so.
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
