"""The audit as a page of its own: the findings, and the curves of the training."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

from nas.audit import NOTHING, Audit, training_summary

if TYPE_CHECKING:
    from nas.audit.checkup import Checkup


def page(audit: Audit, seen: Checkup) -> str:
    """HTML that works offline: the findings, gradient norms by layer and step, the range test and
    the losses."""
    drawn = _figure(audit, seen).to_html(
        full_html=False,
        include_plotlyjs=True,
        config={"showSendToCloud": False, "displaylogo": False, "responsive": True},
    )
    cards = "".join(
        f'<section class="{f.severity}"><h2>{html.escape(f.where)}'
        f" <code>{html.escape(f.rule)}</code></h2><p>{html.escape(f.evidence)}</p>"
        f"<p><i>{html.escape(f.why)}</i></p><p>→ {html.escape(f.change)}</p></section>"
        for f in audit.findings
    )
    return _TEMPLATE.format(
        name=html.escape(audit.name),
        summary=html.escape(audit.summary()),
        course=html.escape(training_summary(seen)),
        cards=cards + ("" if audit.serious else f"<p>{NOTHING}</p>"),
        drawn=drawn,
    )


def _figure(audit: Audit, seen: Checkup) -> Any:
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=2,
        cols=2,
        specs=[[{"rowspan": 2}, {}], [None, {}]],
        column_widths=[0.52, 0.48],
        horizontal_spacing=0.09,
        vertical_spacing=0.16,
        subplot_titles=(
            "Gradient norm by layer (log₁₀; blank: zero)",
            "Learning-rate range test",
            f"Loss of {len(seen.losses)} steps at a rate of {seen.lr:.2g}",
        ),
    )
    layers = list(dict.fromkeys(name for sample in seen.samples for name in sample.norms))
    _draw_norms(figure, seen, layers)
    _draw_range_test(figure, seen, audit.anatomy.lr)
    _draw_losses(figure, seen)
    figure.update_layout(
        template="plotly_white",
        height=max(560, min(1400, 200 + 14 * len(layers))),
        margin={"l": 20, "r": 20, "t": 40, "b": 40},
        showlegend=False,
        font={"family": "system-ui, sans-serif", "size": 12},
    )
    return figure


def _draw_norms(figure: Any, seen: Checkup, layers: list[str]) -> None:
    norms = [[sample.norms.get(name, 0.0) for sample in seen.samples] for name in layers]
    shown = [[math.log10(n) if 0 < n < math.inf else None for n in row] for row in norms]
    figure.add_heatmap(
        x=[str(sample.step) for sample in seen.samples],
        y=layers,
        z=shown,
        colorscale="Viridis",
        colorbar={"x": 0.47, "thickness": 10},
        hovertemplate="%{y}, step %{x}: 10^%{z:.2f}<extra></extra>",
        row=1,
        col=1,
    )
    figure.update_yaxes(autorange="reversed", automargin=True, row=1, col=1)
    figure.update_xaxes(title="step", type="category", nticks=8, row=1, col=1)


def _draw_range_test(figure: Any, seen: Checkup, lr: float | None) -> None:
    test = seen.range_test
    lines = (("loss of a batch", test.losses, "#b9c3d0"), ("averaged", test.smooth, "#1f5fa8"))
    for name, values, colour in lines:
        kept = [v if math.isfinite(v) else None for v in values]
        figure.add_scatter(x=test.rates, y=kept, name=name, line_color=colour, row=1, col=2)
    marks = ((test.steepest, "falls fastest", "#2a8a4a"), (test.diverges, "rises again", "#c0392b"))
    given = ((lr, "yours", "#333333"),)
    for i, (rate, name, colour) in enumerate((*marks, *given)):
        if rate is not None:
            figure.add_vline(rate, line_color=colour, line_dash="dot", row=1, col=2)
            figure.add_annotation(
                x=math.log10(rate),  # of an annotation on a logarithmic axis
                y=1 - 0.09 * i,
                yref="y domain",
                text=f" {name} {rate:.2g}",
                font_color=colour,
                showarrow=False,
                xanchor="left",
                row=1,
                col=2,
            )
    figure.update_xaxes(type="log", title="learning rate", exponentformat="power", row=1, col=2)


def _draw_losses(figure: Any, seen: Checkup) -> None:
    finite = [v for v in seen.losses if math.isfinite(v)]
    figure.add_scatter(y=finite, name="loss", line_color="#1f5fa8", row=2, col=2)
    figure.add_hline(
        seen.observed.chance,
        line_dash="dot",
        annotation_text="uniform prediction",
        row=2,
        col=2,
    )
    figure.update_xaxes(title="step", row=2, col=2)
    if min(finite, default=0) > 0 and max(finite) > 10 * finite[0]:
        figure.update_yaxes(type="log", row=2, col=2)


_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<title>audit of {name}</title>
<style>
body {{ font: 14px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 1200px;
  padding: 0 1rem; color: #222 }}
h1 {{ font-size: 1.3rem; margin: 0 }}
h2 {{ font-size: 1rem; margin: 0 }}
section {{ border-left: 4px solid #d9a514; padding: .3rem .8rem; margin: .8rem 0;
  background: #fafafa }}
section.serious {{ border-color: #c0392b }}
section p {{ margin: .2rem 0 }}
code {{ font-size: .85rem; color: #667; font-weight: normal }}
</style>
</head>
<body>
<h1>Audit of {name}</h1>
<p>{summary}<br>{course}</p>
{cards}
{drawn}
</body>
</html>
"""
