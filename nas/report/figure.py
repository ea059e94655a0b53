"""The front of a study in a notebook: a plotly figure, and a picture with a table."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nas.candidate import Candidate, State
from nas.front import standard_error
from nas.report import StudyView, front, ranked
from nas.task import COSTS, UsageError
from nas.terminal import visible

if TYPE_CHECKING:
    import plotly.graph_objects

# A positive cost that spans more than this factor gets a logarithmic axis.
_WIDE = 20


def figure(study: StudyView, x: str = "", y: str = "") -> plotly.graph_objects.Figure:
    """The complete candidates over two measures, by family, with the front on top.

    Args:
        study: To be shown.
        x: A metric; default: the first objective that is a cost, else the latency.
        y: A metric; default: the quality.

    Raises:
        UsageError: No candidate has this metric.
    """
    import plotly.graph_objects as go

    task = study.task
    costs = [o.metric for o in task.objectives if o.metric in COSTS]
    x, y = x or (costs or ["latency_ms"])[0], y or study.quality.metric
    complete = [c for c in study.candidates if c.state == State.COMPLETE]
    for name in (x, y):
        if complete and not any(name in c.metrics for c in complete):
            known = ", ".join(sorted({m for c in complete for m in c.metrics}))
            raise UsageError(f"no candidate has the metric {name!r}; there are {known}")
    shown = [c for c in complete if {x, y} <= c.metrics.keys()]
    best = {c.number for c in front(study)}
    found = go.Figure()
    for family in dict.fromkeys(c.label for c in shown):
        for on_front in (False, True):
            own = [c for c in shown if c.label == family and (c.number in best) == on_front]
            marker = {"size": 11, "line": {"width": 1}} if on_front else {"size": 6, "opacity": 0.5}
            found.add_scatter(
                x=[c.metrics[x] for c in own],
                y=[c.metrics[y] for c in own],
                mode="markers",
                name=html.escape(visible(family)) + (", front" if on_front else ""),
                marker=marker,
                customdata=[c.number for c in own],
                hovertemplate="#%{customdata}: %{x:.4g}, %{y:.4g}<extra></extra>",
                error_y=_errors(study, own, y) if on_front else None,
            )
    for simple in study.baselines:
        if y in simple["metrics"]:
            name = html.escape(visible(simple["name"]))
            found.add_hline(y=simple["metrics"][y], line_dash="dash", annotation_text=name)
    wide = _is_wide([c.metrics[x] for c in shown])
    found.update_layout(
        title=html.escape(visible(study.name)),
        xaxis_title=x,
        yaxis_title=y,
        template="simple_white",
    )
    found.update_xaxes(type="log" if wide else "linear")
    return found


def _errors(study: StudyView, candidates: Sequence[Candidate], metric: str) -> Any:
    if metric != study.quality.metric:
        return None
    array = [standard_error(study.task, metric, c.metrics[metric]) for c in candidates]
    return {"type": "data", "array": array, "thickness": 1, "width": 0}


def _is_wide(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > _WIDE * min(values)


def notebook_html(study: StudyView, most: int = 20) -> str:
    """What a notebook shows of a run: a picture of its front, and the front as a table of at most
    ``most`` rows. It needs neither scripts nor the network."""
    best = front(study)
    if not best:
        return f"<p>{_text(study.name)}: no candidate is on the front yet.</p>"
    quality = study.quality.metric
    names = [n for n in (quality, "latency_ms", "params") if any(n in c.metrics for c in best)]
    heads = "".join(f"<th>{_text(n)}</th>" for n in ("#", "family", *names))
    rows = []
    for c in best[:most]:
        figures = [f"{c.metrics[n]:,.4g}" if n in c.metrics else "–" for n in names]
        error = standard_error(study.task, quality, c.metrics[quality])
        figures[0] += f" ± {error:.2g}"
        cells = "".join(f"<td>{_text(t)}</td>" for t in (str(c.number), c.label, *figures))
        rows.append(f"<tr>{cells}</tr>")
    more = f"<p>and {len(best) - most} more</p>" if len(best) > most else ""
    return (
        f"<p><b>{_text(study.name)}</b>: {len(study.candidates)} candidates, {len(best)} on the"
        f" front</p>{_picture(study, best)}<table><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>{more}"
    )


def _text(text: str) -> str:
    return html.escape(visible(text, lines=False))


def _picture(study: StudyView, best: Sequence[Candidate]) -> str:
    """Quality against the first cost among the objectives, as SVG."""
    costs = [o.metric for o in study.task.objectives if o.metric in COSTS]
    x, y = (costs or ["params"])[0], study.quality.metric
    points = [c for c in ranked(study) if x in c.metrics]
    if not points:
        return ""
    scale = math.log10 if _is_wide([c.metrics[x] for c in points]) else float
    xs, ys = [scale(c.metrics[x]) for c in points], [c.metrics[y] for c in points]
    width, height, pad = 460, 260, 36
    on_front = {c.number for c in best}

    def place(value: float, values: Sequence[float], low: float, high: float) -> float:
        spread = max(values) - min(values)
        return low + (high - low) * ((value - min(values)) / spread if spread else 0.5)

    marks = []
    for c, a, b in sorted(zip(points, xs, ys, strict=True), key=lambda p: p[0].number in on_front):
        cx, cy = place(a, xs, pad, width - 12), place(b, ys, height - pad, 12)
        strong = c.number in on_front
        look = 'r="5" fill="#0072b2"' if strong else 'r="3" fill="#8c98a4" fill-opacity="0.6"'
        title = _text(f"#{c.number} {c.label}: {x} {c.metrics[x]:.4g}, {y} {c.metrics[y]:.4g}")
        marks.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" {look}><title>{title}</title></circle>')
    axes = f"M{pad} 8V{height - pad}H{width - 8}"
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
        f' aria-label="{_text(y)} against {_text(x)}" font-size="12" fill="currentColor">'
        f'<path d="{axes}" fill="none" stroke="#8a97a3"/>{"".join(marks)}'
        f'<text x="{width / 2}" y="{height - 8}" text-anchor="middle">{_text(x)}'
        f"{' (log)' if scale is math.log10 else ''}</text>"
        f'<text x="12" y="{height / 2}" text-anchor="middle"'
        f' transform="rotate(-90 12 {height / 2})">{_text(y)}</text></svg>'
    )
