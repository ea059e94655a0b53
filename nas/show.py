"""What the commands print on standard output: fronts, latencies, designs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import terminal
from nas.rules import folds, time_limit_s
from nas.task import COSTS
from nas.terminal import figure, percent

if TYPE_CHECKING:
    import pandas as pd

    from nas.candidate import Candidate, Latency
    from nas.design import Design
    from nas.family import Family
    from nas.rulebook import Use
    from nas.run import Run
    from nas.space import Space
    from nas.task import Task

PROGRESS_S = 5.0  # between lines of a long prediction


def finished(run: Run, as_json: bool) -> None:
    """Write the report and the recipe of a run, and print its front or one JSON object."""
    from nas.family import published_weights

    candidates = run.front()
    if not as_json:
        # Before the files, for which there may be no room.
        front(run, candidates, concluded=False)
    try:
        recipe, report = run.export(), run.report()  # the small one first
    except OSError:
        if not as_json:
            _conclusion(run, candidates)  # its last lines, also where there is no room
        raise
    if as_json:
        terminal.echo(
            json.dumps(
                {
                    "run": str(run.folder),
                    "front": [c.row() for c in candidates],
                    "baselines": run.baselines(),
                    "report": str(report),
                    "recipe": str(recipe),
                    "finished": run.finished.to_dict() if run.finished else None,
                }
            )
        )
        return
    trained = run.finished
    number = trained.candidate if trained and trained.result else run.best().number
    terminal.echo(f"\nreport  {report}\nrecipe  {recipe}  (candidate {number})")
    if trained is None:
        terminal.echo(f"next    nas train {recipe}")
    elif trained.error:
        terminal.echo(f"train   candidate {trained.candidate} at full scale: {trained.error}")
    else:
        metric = run.task.quality.metric
        value = figure(trained.result["test"].get(metric, math.nan))
        known = {row["candidate"] for row in trained.finalists if "validation" in row}
        among = f", chosen of {n} by validation" if (n := len(known)) > 1 else ""
        terminal.echo(
            f"model   {run.folder / 'model'}  (candidate {trained.candidate}, {trained.epochs} of"
            f" {trained.recipe_epochs} epochs at full scale{among}: test {metric} {value})"
        )
        if (count := trained.networks) > 1:
            terminal.echo(
                f"        the mean of {count} networks, {trained.result['params']:,} parameters in"
                f" all; --candidate {trained.candidate} is a single one"
            )
        if shown := [f"{n} {figure(score)}" for n, score in run.simple_test_scores().items()]:
            first = ", the best by validation first" if len(shown) > 1 else ""
            terminal.echo(f"beside  on the same test part{first}: {', '.join(shown)}")
        terminal.echo(f"next    nas predict {run.folder} NEW_DATA")
    # Without the first ones, which say what each checkpoint is.
    for sentence in published_weights(run.task, run.candidates())[len(run.task.pretrained) :]:
        terminal.line(f"weights {sentence}")
    _conclusion(run, candidates)


def _conclusion(run: Run, candidates: Sequence[Candidate]) -> None:
    """How many points of the front have weights, what those take that the search has kept, and how
    the best network and the best simple model compare."""
    kept = run.kept
    ready = run.trained.union(kept).intersection(c.number for c in candidates)
    terminal.line(
        f"usable  {len(ready)} of {len(candidates)} points of the front at once: nas predict"
        f" {run.folder} NEW_DATA --candidate N  ({sum(kept.values()) / 2**20:.2g} MiB of weights)"
    )
    if verdict := run.verdict():
        terminal.line(verdict)


def front(run: Run, candidates: Sequence[Candidate], *, concluded: bool = True) -> None:
    """Print the front of a run, the simple models beside it, what limits its figures and, where it
    is ``concluded``, what can be used of it and how it compares with the simple models."""
    from nas.front import beats, constant_guess, within_noise

    quality = run.task.quality.metric
    more = [m for m in ("balanced_accuracy", "auc", "f1", "mae", "r2") if m != quality]
    more = [m for m in more if any(m in c.metrics for c in candidates)]
    heads = [m.replace("balanced_accuracy", "balanced") for m in (quality, *more)]
    names = ("#", "family", *heads, "latency ms", "params", "FLOPs", "epochs", "s")
    rows: list[list[Any] | None] = []
    noise = within_noise(candidates, run.task)
    for c in (c for c in candidates if c.number not in noise):
        latency = c.cost.latency
        scores = [figure(c.metrics[m]) if m in c.metrics else "" for m in (quality, *more)]
        spread = f" ±{latency.iqr_ms / 2:.1g}{_contended_mark(latency)}" if latency else ""
        rows.append(
            [
                str(c.number),
                c.label,
                *scores,
                f"{c.metrics['latency_ms']:.3g}{spread}" if "latency_ms" in c.metrics else "–",
                f"{c.metrics['params']:,.0f}",
                f"{c.metrics['flops']:.3g}",
                str(len(c.curve)),
                f"{c.seconds:.0f}",
            ]
        )
    rows.append(None)
    for b in run.baselines():
        scores = [figure(b["metrics"][m]) if m in b["metrics"] else "" for m in (quality, *more)]
        rows.append(["", terminal.text(b["name"], "italic"), *scores])
    terminal.table(
        [(name, "left" if name == "family" else "right") for name in names],
        rows,
        optional=("s", "epochs", "FLOPs", *reversed(heads[1:])),
        elsewhere=120,
        title=f"Pareto front of {run.folder.name} (validation)",
        title_justify="left",
    )
    if noise:
        each = ", ".join(f"#{number} (#{other})" for number, other in sorted(noise.items()))
        terminal.line(f"left out, as not clearly better than a cheaper one (in brackets): {each}")
    guess = constant_guess(run.task)
    if not any(beats(c.metrics, run.task.objectives, guess) for c in candidates):
        terminal.echo("none is clearly better than a constant guess, which looks at no input")
    measured = [c.cost.latency for c in candidates if c.cost.latency is not None]
    if any(map(_contended_mark, measured)):
        reasons = {latency.contended_because for latency in measured} - {""}
        terminal.line(f"† measured while other work ran{''.join(f'; {r}' for r in reasons)}")
    for b in run.baselines():
        if "error" in b:
            terminal.line(f"{b['name']} could not be fitted: {b['error']}")
    failures(run)
    if concluded:
        _conclusion(run, candidates)


def failures(run: Run) -> None:
    """Print which baselines a limit has left out, and which errors ended candidates."""
    for text in (*run.infeasible_baselines(), *run.failures()):
        terminal.line(text)


def trained(result: Mapping[str, Any]) -> None:
    """The scores of a training, the interval of the tested one, and where the weights are."""
    metrics = [m for m in result["test"] or result["validation"] if m != "loss"]
    for part in ("validation", *(("test",) if result["test"] else ())):
        shown = "  ".join(f"{m} {figure(result[part][m])}" for m in metrics if m in result[part])
        terminal.echo(f"{part:10}  {shown}")
    for metric, (low, high) in (result.get("test_interval") or {}).items():
        terminal.echo(f"{'':10}  {metric} {figure(low)} to {figure(high)} with 95 % confidence")
    for name, own in (result.get("intervals") or {}).items():
        held = own.get("test_coverage")
        terminal.echo(
            f"{'':10}  {name} ± {figure(own['half_width'])} is an interval of"
            f" {100 * own['level']:.0f} %"
            + ("" if held is None else f", which held {100 * held:.1f} % of the test part")
        )
    for name, scores in (result.get("simple_test") or {}).items():
        shown = "  ".join(f"{m} {figure(scores[m])}" for m in metrics if m in scores)
        terminal.echo(f"{'':10}  {shown}  ({name}, on the same test part)")
    terminal.echo(f"checkpoint  {result['checkpoint']}  ({result['seconds']:.0f} s)")


def full_front(rows: Sequence[Mapping[str, Any]]) -> None:
    """The front at full scale beside that of the proxies."""
    if not rows:
        return
    metric = rows[0]["metric"]
    terminal.echo(
        f"{'':>4}  {'family':20} {'proxy':>9} {'full':>9} {'test':>9} {'params':>10}  {metric}"
    )
    for row in rows:
        values = (row["proxy"], row["full"], row["test"])
        shown = " ".join(f"{'—' if v is None else figure(v):>9}" for v in values)
        terminal.echo(f"{row['candidate']:>4}  {row['family']:20} {shown} {row['params']:>10,}")


def exports(found: Mapping[str, Any]) -> None:
    """What was written of a trained network, and how far each file is from it."""
    for kind, about in found.items():
        if isinstance(about, str):
            terminal.echo(about)
            continue
        opset = f", opset {about['opset']}" if about["opset"] else ""
        terminal.echo(
            f"{about['file']}  ({kind.replace('_', '.')}{opset}, free: {about['free']}; outputs"
            f" within {about['difference']:.1g} of the network's)"
        )
        if about["int8"]:
            eight = about["int8"]
            pairs = (
                (eight["metric"], eight["quality"]),
                ("ms", eight["latency_ms"]),
                ("MiB", eight["megabytes"]),
            )
            changes = "  ".join(f"{n} {figure(a)} → {figure(b)}" for n, (a, b) in pairs)
            terminal.echo(f"int8 {eight['how']}: {changes}")


def predictions(
    frames: pd.DataFrame | Iterable[pd.DataFrame], out: Path | None, *, numbered: bool
) -> None:
    """Write predictions as CSV to a file or to standard output, with the number of each row where
    they are to be ``numbered`` and are of no files. What comes in pieces is written piece by piece;
    a file is there when all of it is."""
    import pandas as pd

    from nas.files import whole_file

    pieces = [frames] if isinstance(frames, pd.DataFrame) else frames
    if out is not None:
        with whole_file(out) as file:
            _write_pieces(pieces, file.write, numbered)
    else:
        _write_pieces(pieces, lambda text: terminal.echo(text.rstrip("\n")), numbered)


def _write_pieces(
    frames: Iterable[pd.DataFrame], write: Callable[[str], Any], numbered: bool
) -> None:
    rows, said = 0, time.monotonic()
    for frame in frames:
        frame = frame.rename(columns=lambda name: no_formula(str(name)))
        for name, column in frame.items():
            if column.dtype == object or str(column.dtype).startswith(("str", "category")):
                frame[name] = column.map(no_formula)
        if numbered and not {"row", "file_name"} & set(frame):
            frame.insert(0, "row", range(rows + 1, rows + len(frame) + 1))
        write(frame.to_csv(index=False, header=not rows))
        rows += len(frame)
        if time.monotonic() - said > PROGRESS_S:
            said = time.monotonic()
            terminal.line(f"{rows:,} samples are predicted", err=True)


def no_formula(cell: Any) -> Any:
    """A cell that no spreadsheet runs: an apostrophe before text that begins like a formula.
    Numbers stay as they are (OWASP, CSV Injection).

    >>> no_formula("=cmd|x"), no_formula("-1.5"), no_formula("cat")
    ("'=cmd|x", '-1.5', 'cat')
    """
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def _contended_mark(latency: Latency) -> str:
    """The mark of a latency that was measured beside trainings."""
    return "" if latency.isolated else " †"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def latencies(found: dict[str, Any]) -> None:
    """Print what `nas latency` has measured."""
    from nas.candidate import Latency

    device = found["device"]
    terminal.echo(
        f"latency in ms on {device['name']} ({device['processor']}, {device['kind']},"
        f" {device['backend']}, {device['threads']} thread(s)); inputs {found['inputs']}"
    )
    noisy = False
    for number, row in found["candidates"].items():
        shown = []
        for batch, figures in row.get("latency", {}).items():
            latency = Latency.from_dict(figures)
            noisy = noisy or not latency.isolated
            mark = _contended_mark(latency)
            shown.append(f"batch {batch}: {latency.ms:.3g} ±{latency.iqr_ms / 2:.1g}{mark}")
        shown += [row["error"]] if "error" in row else []
        terminal.echo(f"{number:>5}  {row['family']:21} {'  '.join(shown)}")
    if noisy:
        terminal.echo("† other work of this user was not paused")


def design(found: Design) -> None:
    """Print a design."""
    from rich.padding import Padding
    from rich.table import Table

    from nas.design import described

    console = terminal.console()

    def heading(content: str, about: str = "") -> None:
        console.print()
        console.print(terminal.text(f"{content}  ", "bold") + terminal.text(about, "dim"))

    def line(content: str, mark: str = "") -> None:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(*([mark, content] if mark else [content]))
        console.print(Padding(grid, (0, 0, 0, 2)))

    def by_family(contents: Sequence[Any], above: int = 0) -> None:
        grid = Table.grid(padding=(0, 2))
        for plan, content in zip(found.plans, contents, strict=True):
            grid.add_row(plan.family.name, content)
        console.print(Padding(grid, (above, 0, 0, 2)))

    console.print(terminal.text(found.name, "bold"))
    for content in described(found.task):
        line(content)
    heading("Notes", "" if found.notes else "nothing looks odd")
    for content in found.notes:
        line(content, "-")
    heading("Families", "each begins with this baseline; times are of a core or a GPU to itself")
    _plans(found)
    verdicts = [
        terminal.text(f"misses {'; '.join(plan.misses)}. " if plan.misses else "", "red")
        + terminal.text(plan.family.good_for)
        for plan in found.plans
    ]
    by_family(verdicts, above=1)
    heading("Space", f"`nas families {found.plans[0].family.name} --data …` has bounds and reasons")
    by_family(
        [
            f"{len(plan.space.params)} parameters, {plan.reals} of them real numbers;"
            f" {_short(plan.configurations)} settings of the rest"
            for plan in found.plans
        ]
    )
    heading("Search")
    for content in _search_words(found):
        line(content)


def _plans(found: Design) -> None:
    """Print the families with their baselines' costs and pace."""
    heads = ("params", "FLOPs", "latency ms", "train MiB", "run MiB", "step ms", "epoch s")
    rows = []
    for plan in found.plans:
        pace = plan.pace
        c = {name: plan.costs.get(name) for name in ("params", *COSTS)}  # a task alone has few
        spread = f"±{_short(round(pace.spread_ms / 2, 1))}" if pace and pace.steps else ""
        rows.append(
            [
                plan.family.name,
                f"{plan.costs['params']:,.0f}",
                "" if c["flops"] is None else _short(c["flops"]),
                *(
                    "" if value is None else f"{value:,.3g}"
                    for value in (c["latency_ms"], c["memory_mb"], c["inference_mb"])
                ),
                f"{pace.step_ms:.3g} {spread}".rstrip() if pace else "no memory",
                f"{pace.epoch_s:.2g}" if pace else "",
            ]
        )
    terminal.table(
        [("family", "left"), *((head, "right") for head in heads)],
        rows,
        optional=("run MiB", "FLOPs", "train MiB", "step ms"),
        indent=2,
        box=None,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )


def _search_words(found: Design) -> Iterator[str]:
    from nas.plan import rungs

    task = found.task
    fidelity, budget = task.fidelity, task.budget
    wanted = ", ".join(f"{o.metric} ({o.direction})" for o in task.objectives)
    limits = f"; limits: {', '.join(map(str, task.constraints))}" if task.constraints else ""
    yield f"objectives: {wanted}{limits}"
    yield f"sampler: {found.sampler}, after the {len(found.plans)} baselines"
    parts = folds(task)
    folded = f", {parts}-fold cross-validation" if parts > 1 else ""
    stops = rungs(fidelity.epochs)
    yield from found.plan.reasons if found.plan else ()
    judged = f", judged after {' and '.join(map(str, stops))}" if stops else ""
    yield (
        f"proxies: {fidelity.epochs} epochs on {percent(fidelity.share)} of the training part"
        f"{judged}{folded}; {budget.workers} workers on {task.device}"
    )
    if found.candidates:
        few, many = found.candidates
        slow = ""
        if found.cut:
            limit_s, longer_s = (time_limit_s(task, baseline=b) or math.inf for b in (False, True))
            slow = (
                f"; one of {' or '.join(found.cut)} would train for longer than it may,"
                f" {limit_s:.0f} s{' for all folds' * (parts > 1)} (a baseline"
                f" {longer_s:.0f} s)"
            )
        stopped = f", or {many:,} if rungs stop some" if stops else ""
        yield (
            f"in {budget.time_limit_s:.0f} s about {few:,} candidates of the baselines' size, each"
            f" trained to its end{stopped}; smaller ones take less{slow}"
        )


def _short(value: float) -> str:
    """Three digits: 812, 1.23 k, 45.1 M, 3.2 G, and powers of ten beyond."""
    if value >= 1e15:
        return f"10^{math.log10(value):.0f}"
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def rules(found: dict[str, Use]) -> None:
    """Print all rules, each with its source and what it is used for."""
    from rich.padding import Padding

    console = terminal.console()
    for name, use in found.items():
        console.print(terminal.text(name, "bold"))
        for style, content in (
            ("", use.rule.statement),
            ("dim", use.rule.source),
            ("", _used(use)),
        ):
            console.print(Padding(content, (0, 0, 0, 4)), style=style)


def rule(use: Use) -> None:
    """Print one rule with every parameter that it bounds."""
    from rich.table import Table

    console = terminal.console()
    console.print(terminal.text(use.rule.id, "bold"))
    console.print(use.rule.statement)
    console.print(terminal.text(use.rule.source, "dim"))
    grid = Table.grid(padding=(0, 3))
    for param, families in use.parameters.items():
        grid.add_row(param, ", ".join(families))
    if use.parameters:
        console.print(terminal.text("\nbounds or sets", "dim"))
        console.print(grid)
    if use.decides:
        console.print(
            terminal.text("\ndecides", "dim") + terminal.text(f"  {', '.join(use.decides)}")
        )
    if use.checked:
        console.print(
            terminal.text("\nchecks", "dim") + terminal.text("   any network: `nas audit`")
        )


def _used(use: Use, most: int = 3) -> str:
    """What a rule is used for, in a line."""
    parts = []
    for param, families in use.parameters.items():
        named = ", ".join(families) if len(families) <= most else f"{len(families)} families"
        parts.append(f"{param} of {named}")
    parts += use.decides
    parts += ["nas audit"] * use.checked
    return f"→ {'; '.join(parts)}"


def space(found: Space, heading: str, about: str) -> None:
    """Print each parameter with its bounds, default, condition and rules, and these rules."""
    from rich.padding import Padding

    from nas.rulebook import condition
    from nas.rules import RULES

    console = terminal.console()
    console.print(terminal.text(heading, "bold"))
    console.print(about + "\n")
    rows = []
    for param in found.params:
        value = param.default
        default = f"{value:.3g}" if isinstance(value, float) else str(value)
        why = "\n".join(param.why)
        rows.append([param.name, param.domain, default, condition(param, found), why])
    terminal.table(
        [(head, "left") for head in ("parameter", "bounds", "default", "where", "rules")],
        rows,
        optional=("rules",) if terminal.width() < 100 else (),
        box=None,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    console.print(terminal.text("\nthe rules", "dim"))
    for name in dict.fromkeys(rule for param in found.params for rule in param.why):
        console.print(terminal.text(name, "bold"))
        console.print(Padding(RULES[name].statement, (0, 0, 0, 4)))


def references(family: Family, task: Task) -> None:
    """Print the published networks of a family, and which of them the space of ``task`` holds."""
    if not family.references:
        return
    heading = "published networks, and why the space is without them"
    terminal.console().print(terminal.text(f"\n{heading}", "dim"))
    rows = [
        [r.name, f"{r.params:,}", r.left_out(task) or "in the space", r.source]
        for r in family.references
    ]
    terminal.table(
        [("network", "left"), ("parameters", "right"), ("", "left"), ("source", "left")],
        rows,
        optional=("source",) if terminal.width() < 100 else (),
        box=None,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
