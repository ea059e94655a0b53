"""A design document as Markdown, and as one self-contained page without a script."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nas.export.diagram import diagram
from nas.terminal import figure

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
Block = str | Table | list[str]  # a paragraph, a table, a list
# What Markdown would read as a mark anywhere in a text; a backslash before it makes it a character.
_MARKS = re.compile(r"[\\`*_\[\]!#&>~]")


def markdown(document: Mapping[str, Any]) -> str:
    """The document as Markdown; the picture of the network is in the page alone."""
    lines = [f"# {_plain(document['title'])}", ""]
    for title, blocks in _sections(document):
        lines += [f"## {title}", ""]
        for block in blocks:
            if isinstance(block, str):
                lines += [_plain(block), ""]
            elif isinstance(block, list):
                lines += [f"- {_plain(item)}" for item in block] + [""]
            elif block[1]:
                head, rows = block
                lines += ["| " + " | ".join(map(_cell, head)) + " |", "|" + "---|" * len(head)]
                lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows] + [""]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text that Markdown takes as it is: nothing in it is a mark, and it is on one line."""
    return _MARKS.sub(r"\\\g<0>", " ".join(text.split())).replace("<", "&lt;")


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def page(document: Mapping[str, Any]) -> str:
    """The document as HTML: nothing is loaded, no script runs, and every name is escaped."""
    parts = []
    for number, (title, blocks) in enumerate(_sections(document)):
        inner = "".join(_html(block, f"{title}: {place}") for place, block in enumerate(blocks, 1))
        if title.endswith("Architecture"):
            layers = document["architecture"]["layers"]
            family = document["architecture"]["family"]
            picture = diagram(layers, f"The layers of the {family} network")
            label = "Picture of the network"
            inner = (
                f'<div class="picture" tabindex="0" role="region" aria-label="{label}">'
                f"{picture}</div>{inner}"
            )
        parts.append(
            f'<section aria-labelledby="s{number}"><h2 id="s{number}">{html.escape(title)}</h2>'
            f"{inner}</section>"
        )
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = html.escape(str(document["title"]))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{title} · design</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<main><h1>{title}</h1>{''.join(parts)}</main>\n</body>\n</html>\n"
    )


def _html(block: Block, label: str) -> str:
    if isinstance(block, str):
        return f"<p>{html.escape(block)}</p>"
    if isinstance(block, list):
        return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in block) + "</ul>"
    head, rows = block
    if not rows:
        return ""
    top = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(map(_data, row)) + "</tr>" for row in rows)
    # A wide table scrolls by itself, by the keyboard too.
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{html.escape(label)}">'
        f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _data(cell: str) -> str:
    """A cell; one of a sentence keeps a width at which it can be read on a phone."""
    wide = ' class="sentence"' if len(cell) > 60 else ""
    return f"<td{wide}>{html.escape(cell)}</td>"


# -- the parts -------------------------------------------------------------------------------------


def _sections(document: Mapping[str, Any]) -> Iterator[tuple[str, list[Block]]]:
    yield "1. Task", list(_task(document["task"]))
    yield "2. Architecture", list(_architecture(document["architecture"]))
    yield "3. Parameters", list(_parameters(document["parameters"]))
    yield "4. Training recipe", list(_recipe(document["recipe"]))
    yield "5. Baselines", list(_baselines(document["baselines"]))
    yield "6. Compute", list(_compute(document["compute"]))
    yield "7. Scaling plan", list(_scaling(document["scaling"]))
    if document.get("weaknesses"):
        yield "Where it is weak", list(_weaknesses(document["weaknesses"]))
    yield "Known limits", [list(document["limits"])]
    versions = [[name, value] for name, value in document["versions"].items()]
    yield "Versions", [(("package", "version"), versions)]


def _task(part: Mapping[str, Any]) -> Iterator[Block]:
    for target in part["targets"]:
        classes = target.get("classes") or ()
        shown = ", ".join(classes[:12]) + (", …" if len(classes) > 12 else "")
        labels = f": {shown}" if classes else ""
        yield f"Predicts {target['name']} of {part['modality']} ({target['kind']}{labels})."
    samples = ", ".join(f"{n:,} {name}" for name, n in part["samples"].items())
    divided = part["divided_by"] or "unknown"
    yield f"Samples: {samples}; divided by: {divided}. Fingerprint {part['fingerprint']}."
    inputs = [[name, " × ".join(map(str, shape)) or "1"] for name, shape in part["inputs"].items()]
    yield ("input", "shape of a sample"), inputs
    required = ", ".join(part["constraints"]) or "no limits"
    yield f"Required: {', '.join(part['objectives'])}; {required}; on {part['device']}."
    if part["notes"]:
        yield [str(note) for note in part["notes"]]
    yield f"Licence of the data: {part['license']}."


def _architecture(part: Mapping[str, Any]) -> Iterator[Block]:
    yield f"Family {part['family']}: {part['paper']}."
    if part["pretrained"]:
        yield part["pretrained"]
    yield _choices(part["choices"])
    rows = []
    for place, layer in enumerate(part["layers"]):
        skips = layer.get("skips") or ()
        ends = ", ".join(
            f"shortcut from {i}" if i >= 0 else "shortcut from the input" for i in skips
        )
        shape = " × ".join(map(str, layer["output"]))
        rows.append([str(place), layer["name"], layer["type"], shape, f"{layer['params']:,}", ends])
    yield ("#", "layer", "type", "output", "parameters", "connections"), rows


def _choices(choices: Sequence[Mapping[str, Any]]) -> Table:
    rows = [[c["name"], _number(c["value"]), c["role"], " ".join(c["rules"])] for c in choices]
    return ("parameter", "value", "role", "because"), rows


def _trained(part: Mapping[str, Any]) -> str:
    return "" if part["trained"] is None else f", of which {part['trained']:,} are trained"


def _parameters(part: Mapping[str, Any]) -> Iterator[Block]:
    yield (
        f"{part['params']:,} parameters{_trained(part)}; {part['flops']:,} FLOPs a sample;"
        f" {part['memory_mb']:.1f} MiB for a training step, {part['inference_mb']:.2f} MiB for a"
        " prediction."
    )
    total = max(part["params"], 1)
    rows = [[name, f"{n:,}", f"{100 * n / total:.1f} %"] for name, n in part["components"].items()]
    yield ("component", "parameters", "of all"), rows


def _recipe(part: Mapping[str, Any]) -> Iterator[Block]:
    yield (
        ("what", "value"),
        [
            ["optimiser", part["optimizer"]],
            ["schedule", part["schedule"]],
            ["batch", str(part["batch_size"])],
            ["epochs", str(part["epochs"])],
            ["steps", f"{part['steps']:,}"],
            ["early stopping", part["early_stopping"]],
        ],
    )
    yield _choices(part["choices"])


def _baselines(part: Mapping[str, Any]) -> Iterator[Block]:
    yield part["verdict"] + "."
    rows = [
        [
            r["name"],
            r["kind"],
            f"{figure(r['value'])} ± {rounded(r['standard_error'])}",
            "" if r["better_by"] is None else f"{r['better_by']:+.1f}",
        ]
        for r in part["rivals"]
    ]
    yield ("model", "kind", part["metric"], "lead of the network, standard errors"), rows
    if part["test"]:
        tested = [[name, figure(value)] for name, value in part["test"].items()]
        yield ("on the test part", "value"), tested


def _compute(part: Mapping[str, Any]) -> Iterator[Block]:
    rows = [
        ["search, wall clock", _time(part["search_s"])],
        ["CPU-hours of all candidates", _number(part["cpu_hours"])],
        ["GPU-hours of all candidates", _number(part["gpu_hours"])],
        ["candidates", _number(part["candidates"])],
        ["proxy of this network", _time(part["proxy_s"])],
        ["full training, predicted", _time(part["training_predicted_s"])],
        ["full training, measured", _time(part["training_measured_s"])],
        ["energy of the full training", "not reported by the device"
         if part["energy_wh"] is None else
         f"{part['energy_wh']:.3g} Wh ({' and '.join(part['energy_of'])}, other work included)"],
    ]  # fmt: skip
    yield ("what", "value"), rows
    latencies = [
        [
            r["device"],
            f"{r['ms']:.3g} ms",
            f"{r['iqr_ms']:.2g} ms",
            str(r["batch"]),
            "isolated" if r["isolated"] else "beside other work",
        ]
        for r in part["latency"]
    ]
    yield ("latency on", "median", "interquartile range", "batch", "measured"), latencies


def _scaling(part: Mapping[str, Any]) -> Iterator[Block]:
    rows = [
        [
            f"{s['factor']}×",
            f"{s['samples']:,}",
            "; ".join(s["changes"]) or "nothing",
            f"{s['params']:,}",
            f"{s['flops']:,}",
            f"{s['memory_mb']:.0f} MiB",
            _time(s["seconds"]),
            str(s["epochs"]),
        ]
        for s in part["steps"]
    ]
    head = ("data", "samples", "changes", "parameters", "FLOPs", "memory", "training", "epochs")
    yield head, rows
    yield "Build one of them: nas train RECIPE --scale 2. Sources: " + "; ".join(part["sources"])


def _weaknesses(part: Mapping[str, Any]) -> Iterator[Block]:
    yield f"On {part['samples']:,} samples of the validation part."
    for target in part["targets"]:
        if target["residuals"]:
            shown = ", ".join(map(figure, target["residuals"]))
            yield f"{target['target']}: errors at 5, 25, 50, 75 and 95 %: {shown}."
        if interval := target["interval"]:
            held = interval.get("test_coverage")
            yield (
                f"{target['target']}: ± {figure(interval['half_width'])} is an interval of"
                f" {100 * interval['level']:.0f} %"
                + (f"; it held {100 * held:.1f} % of the test part." if held is not None else ".")
            )
        if target["worst"]:
            worst = [
                [s["label"], f"{100 * s['recall']:.1f} %", str(s["samples"])]
                for s in target["worst"]
            ]
            yield (f"{target['target']}: class", "found", "samples"), worst
        if target["confusion"]:
            head = ("true, below; predicted, right", *target["classes"])
            pairs = zip(target["classes"], target["confusion"], strict=True)
            yield head, [[name, *map(str, row)] for name, row in pairs]
        if target["calibration"]:
            yield f"Calibration error {target['calibration_error']:.3f}."
            bins = [
                [f"{b['confidence']:.2f}", f"{b['accuracy']:.2f}", str(b["samples"])]
                for b in target["calibration"]
            ]
            yield ("confidence", "right", "samples"), bins


def _number(value: Any) -> str:
    if value is None:
        return "not known"
    return figure(value) if isinstance(value, float) else str(value)


def rounded(error: float) -> str:
    """Two digits, or all before the point: 0.015, 1,102."""
    return f"{error:,.0f}" if error >= 100 else f"{error:.2g}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; margin: 0; }
main { max-width: 62rem; margin: 0 auto; padding: 1rem 1.25rem 3rem; }
h1, p, li { overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.table { overflow-x: auto; margin: .75rem 0; }
.picture { overflow: auto; max-height: 40rem; border: 1px solid #ccc; }
table { border-collapse: collapse; font-size: .875rem; }
th, td { border: 1px solid #d0d0d0; padding: .2rem .5rem; text-align: left; vertical-align: top; }
.sentence { min-width: 17rem; }
th { background: #f3f3f3; }
@media print { .picture { max-height: none; } }
"""
