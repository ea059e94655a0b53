"""The front of a study as pictures: in a notebook, and at full scale beside that of the proxies."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas.candidate import Candidate, State
from nas.front import standard_error
from nas.report import StudyView, front, ranked
from nas.task import COSTS, Task, UsageError
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


# -- a front at full scale -------------------------------------------------------------------------

_LOOKS = {"proxy": ("#6b7680", "4 3"), "full": ("#0072b2", "none")}
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 400, 70, 50


def full_front_picture(task: Task, rows: Sequence[Mapping[str, Any]]) -> str:
    """The front of networks trained at full scale beside that of their proxies, as SVG.

    Each network is a hollow mark where its proxy was, and a filled one where it came to, on the
    same validation samples, with one standard error. A line of steps joins those that none of the
    others beats in quality and cost.

    Args:
        task: Whose quality and first cost are the axes.
        rows: Each with ``candidate``, ``family``, ``proxy``, ``full`` and its costs by name. One
            without the cost or the quality is left out.

    Returns:
        The picture; "" where no row is left.
    """
    costs = [o.metric for o in task.objectives if o.metric in COSTS]
    x, quality = (costs or ["params"])[0], task.quality
    shown = [row for row in rows if row.get(x) is not None and row["full"] is not None]
    if not shown:
        return ""
    log = _is_wide([row[x] for row in shown])
    across = _Scale([row[x] for row in shown], _LEFT, _WIDTH - 20, log)
    scored = {"proxy": None, "full": task.profile.n_val}
    errors = {kind: [standard_error(task, quality.metric, row[kind], scored[kind]) for row in shown]
              for kind in _LOOKS}  # fmt: skip
    reached = [row[k] + s * e for k in _LOOKS for row, e in zip(shown, errors[k], strict=True)
               for s in (-1, 1)]  # fmt: skip
    up = _Scale(reached, _HEIGHT - _BOTTOM, 40, False)
    parts = [
        f'<line x1="{across(row[x]):.1f}" x2="{across(row[x]):.1f}" y1="{up(row["proxy"]):.1f}"'
        f' y2="{up(row["full"]):.1f}" stroke="#b8c0c8"/>'
        for row in shown
    ]
    for place, (kind, (colour, dash)) in enumerate(_LOOKS.items()):
        points = [(row[x], row[kind]) for row in shown]
        steps = _steps(points, quality.direction == "max")
        path = "".join(f"H{across(a):.1f}V{up(b):.1f}" for a, b in steps[1:])
        start = f"M{across(steps[0][0]):.1f} {up(steps[0][1]):.1f}"
        line = f'fill="none" stroke="{colour}" stroke-dasharray="{dash}" stroke-width="1.5"'
        parts.append(f'<path d="{start}{path}" {line}/>')
        filled = colour if kind == "full" else "#ffffff"
        for row, error in zip(shown, errors[kind], strict=True):
            at, y = across(row[x]), up(row[kind])
            name = f"#{row['candidate']} {row['family']}, {kind}: {row[kind]:.4g} ± {error:.2g}"
            ends = f'y1="{up(row[kind] - error):.1f}" y2="{up(row[kind] + error):.1f}"'
            parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" {ends} stroke="{colour}"/>')
            parts.append(
                f'<circle cx="{at:.1f}" cy="{y:.1f}" r="5" fill="{filled}" stroke="{colour}"'
                f' stroke-width="1.5"><title>{_text(name)}</title></circle>'
            )
        label = {"proxy": "as proxies", "full": "at full scale"}[kind]
        at = _LEFT + 120 * place
        parts.append(
            f'<circle cx="{at + 6}" cy="18" r="5" fill="{filled}" stroke="{colour}"'
            f' stroke-width="1.5"/><text x="{at + 18}" y="22">{label}</text>'
        )
    numbers = "".join(
        f'<text x="{across(row[x]) + 8:.1f}" y="{up(row["full"]) - 6:.1f}">'
        f"#{row['candidate']}</text>"
        for row in shown
    )
    about = f"{quality.metric} against {x}, as proxies and at full scale"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}"'
        f' height="{_HEIGHT}" role="img" aria-label="{_text(about)}" font-family="sans-serif"'
        f' font-size="12" fill="#1c1c1c"><rect width="100%" height="100%" fill="#ffffff"/>'
        f"{_axes(across, up, x, quality.metric)}{''.join(parts)}{numbers}</svg>\n"
    )


class _Scale:
    """Places of values between two pixels."""

    def __init__(self, values: Sequence[float], first: float, last: float, log: bool) -> None:
        self.log, self.first, self.last = log, first, last
        ends = [math.log10(v) if log else v for v in (min(values), max(values))]
        pad = 0.06 * (ends[1] - ends[0]) or 0.1 * abs(ends[0]) or 1.0
        self.low, self.high = ends[0] - pad, ends[1] + pad

    def __call__(self, value: float) -> float:
        at = ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)
        return self.first + (self.last - self.first) * at

    def ticks(self) -> list[float]:
        """Five values in equal distances."""
        places = [self.low + (self.high - self.low) * k / 4 for k in range(5)]
        return [10**v if self.log else v for v in places]


def _short(value: float) -> str:
    """Three digits with a unit: 26200 is 26.2k."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _steps(points: Sequence[tuple[float, float]], larger: bool) -> list[tuple[float, float]]:
    """Those of (cost, quality) that no cheaper point reaches, from the cheapest on."""
    found: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda p: (p[0], -p[1] if larger else p[1])):
        if not found or (value > found[-1][1] if larger else value < found[-1][1]):
            found.append((cost, value))
    return found


def _axes(across: _Scale, up: _Scale, x: str, y: str) -> str:
    foot = _HEIGHT - _BOTTOM
    parts = [f'<path d="M{_LEFT} 32V{foot}H{_WIDTH - 12}" fill="none" stroke="#6b7680"/>']
    for value in across.ticks():
        at = across(value)
        parts.append(f'<path d="M{at:.1f} {foot}v5" stroke="#6b7680"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{foot + 18}" text-anchor="middle">{_short(value)}</text>'
        )
    for value in up.ticks():
        at = up(value)
        parts.append(f'<path d="M{_LEFT} {at:.1f}h-5" stroke="#6b7680"/>')
        parts.append(
            f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{_short(value)}</text>'
        )
    unit = " (log)" if across.log else ""
    parts.append(f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 10}" text-anchor="middle">'
                 f"{_text(x)}{unit}</text>")  # fmt: skip
    middle = _HEIGHT / 2
    parts.append(f'<text x="14" y="{middle}" text-anchor="middle"'
                 f' transform="rotate(-90 14 {middle})">{_text(y)}</text>')  # fmt: skip
    return "".join(parts)
