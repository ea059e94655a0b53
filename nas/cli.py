"""The command ``nas``. Results go to standard output, progress to standard error.

Exit codes: 0 done, 1 wrong data or a failure, 2 wrong usage, 3 no feasible candidate,
4 a self-check failed or an audit found something serious, 130 interrupted. torch, optuna and
pandas are imported inside the commands that need them, so that ``nas --help`` answers at once.
"""

from __future__ import annotations

import atexit
import difflib
import errno
import gc
import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from nas import __version__
from nas.rules import LR_TEST, folds
from nas.task import Modality

if TYPE_CHECKING:
    from nas.candidate import Candidate
    from nas.run import Progress, Run


# A write that fails for these does not know its file.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What is written to.
_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


def _read_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Options from a YAML file: below flags and NAS_* variables, above the defaults."""
    if path is None:
        return
    import yaml

    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise click.UsageError(f"{path} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(options, dict):
        raise click.UsageError(f"{path} must hold options like `time_limit: 10m`")
    # By the names that --help gives them: json is as_json only in here.
    known = {p.opts[0].lstrip("-").replace("-", "_"): p.name for p in ctx.command.params}
    options = {str(name).replace("-", "_"): value for name, value in options.items()}
    if unknown := sorted(set(options) - set(known)):
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise click.UsageError(
            f"{path}: unknown option {unknown[0]!r};"
            + (f" did you mean {near[0]}?" if near else " see `nas search --help`")
        )
    given = {known[name]: value for name, value in options.items()}
    ctx.default_map = {**(ctx.default_map or {}), **given}


class _Command(click.Command):
    """One that notes beside a write that failed what the user can do about it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            if mend := _mend(error, ctx.params):
                error.add_note(mend)
            raise


def _mend(error: OSError, given: dict[str, Any]) -> str:
    out: Path | None = given.get("out") or given.get("run")
    if error.errno in _NO_ROOM:
        begun = "resume" in given and out is not None and (out / "task.json").exists()
        return "make room" + (", and go on with --resume" if begun else "")
    if "out" in given and out is not None and error.filename is not None:
        failed = Path(error.filename)
        if out.is_relative_to(failed) or failed.is_relative_to(out):
            return "choose another place with --out"
    return ""


class _Group(click.Group):
    command_class = _Command


def _run_folder(ctx: click.Context, _: click.Parameter, out: Path | None) -> Path:
    from nas.run import default_folder

    return out or default_folder(ctx.params["data"])


@click.group(cls=_Group, context_settings={"auto_envvar_prefix": "NAS", "max_content_width": 100})
@click.version_option(__version__, prog_name="nas")
def cli() -> None:
    """Design neural networks for your own data.

    \b
    nas search data.csv --target price       search; ends in a front, a page and a recipe
    nas train runs/data/recipe.yaml          train the best at full scale, test it once
    nas predict runs/data/model new.csv      predict on new files
    nas audit net.py:Net --data data.csv     what is wrong with a network of your own?
    """


def _together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


# How the data is read, and what is planned for it: of all commands that do so.
_data_options = _together(
    click.option(
        "--target",
        "-t",
        help="Column(s) to predict, separated by commas; several of 0 and 1 are one multilabel"
        " target.",
    ),
    click.option("--split", help="'0.7,0.15,0.15', 'column=', 'group=' or 'time=COLUMN'."),
    click.option(
        "--problem",
        type=click.Choice(["classification", "regression"]),
        help="Where the target's values leave it open.",
    ),
    click.option("--image-size", type=click.IntRange(min=8), help="Longer side in pixels."),
    click.option(
        "--columns",
        help="Types of a manifest's columns where they are not what they look like:"
        " 'photo=image,note=text,id=ignore' (also audio, pointcloud, graph, numeric, categorical).",
    ),
    click.option("--seed", type=int, default=0, show_default=True),
)
_plan_options = _together(
    click.option("--modality", type=click.Choice(get_args(Modality)), help="Default: inferred."),
    click.option("--family", "-f", multiple=True, help="Only these families (repeatable)."),
    click.option(
        "--objective",
        "-o",
        multiple=True,
        help="Metrics to optimise (repeatable). Default: a quality, latency_ms, params.",
    ),
    click.option(
        "--constraint",
        "-c",
        multiple=True,
        help="Limit every answer must meet (repeatable): 'latency_ms<=5', 'params<=1e6'.",
    ),
    click.option(
        "--time-limit",
        default="auto",
        help="90s, 10m, 2h or none; default: 10m, or none where another budget is given.",
    ),
    click.option("--workers", type=click.IntRange(min=1), help="Default: one a core, two a GPU."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
    click.option("--epochs", type=click.IntRange(min=1), help="Of a proxy. Default: from data."),
    click.option(
        "--sampler",
        type=click.Choice(["auto", "ehvi", "evolution", "tpe", "nsga2", "random"]),
        default="auto",
        show_default=True,
        help="Where configurations come from; auto is ehvi (the expected hypervolume improvement at"
        " known costs) with one quality among the objectives, and tpe with several.",
    ),
)


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@_data_options
@_plan_options
@click.option("--trials", type=click.IntRange(min=1), help="End after so many candidates.")
@click.option("--cpu-hours", type=float, help="End after so many hours of a core for candidates.")
@click.option(
    "--gpu-hours",
    type=float,
    help="End after so many hours of a GPU; two candidates on one share it.",
)
@click.option(
    "--out",
    type=_FOLDER,
    callback=_run_folder,
    help="Folder; default: runs/NAME.",
)
@click.option("--resume", is_flag=True, help="Go on with the search in the folder.")
@click.option(
    "--storage",
    help="Keep the candidates in PostgreSQL: postgresql://host/database. The password goes"
    " into PGPASSWORD or a password file.",
)
@click.option("--study", help="Its name in the storage; default: that of the folder.")
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes on this machine, or Ray Tune on a cluster.",
)
@click.option(
    "--address",
    help="Of a Ray cluster: HOST:PORT, or auto for the one on this machine. Default: RAY_ADDRESS,"
    " or a Ray of its own on this machine alone.",
)
@click.option("--cpus-per-trial", type=float, help="On Ray; default: 1.")
@click.option("--gpus-per-trial", type=float, help="On Ray; default: 0.5 where there are GPUs.")
@click.option(
    "--deterministic",
    is_flag=True,
    help="Workers go in step: the same seed and number of workers give the same candidates."
    " Needs --trials, knows no limit of time, and latency steers nothing (FLOPs do).",
)
@click.option(
    "--lr-test/--no-lr-test",
    default=LR_TEST,
    show_default=True,
    help="Begin with a learning-rate range test of each family's baseline: sets bounds right that"
    " are far off, as those of a family of your own may be.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=_read_config,
    is_eager=True,
    expose_value=False,
    help="YAML file of these options.",
)
def search(
    data: Path,
    target: str | None,
    family: tuple[str, ...],
    objective: tuple[str, ...],
    constraint: tuple[str, ...],
    time_limit: str,
    columns: str | None,
    as_json: bool,
    out: Path,
    **options: Any,
) -> None:
    """Search networks for DATA.

    DATA is a table (.csv, .tsv, .parquet, .jsonl) of numbers, names or texts, a folder with
    train and test tables, a folder of class folders of images, sounds or point clouds, or
    with a metadata.csv that lists them, a folder of graphs (nodes.csv and edges.csv, or
    TUDataset files), an .npz file, or a table with columns of several kinds: files of
    images, sounds, point clouds or graphs (an .npz a row, with edges), texts, numbers.

    \b
    nas search adult/ --target income --time-limit 10m
    nas search photos/ -c 'params<=100000' -c 'latency_ms<=5'
    nas search shop.csv --target sold --columns photo=image,note=text,id=ignore
    nas search adult/ --target income --resume --time-limit 20m

    Ctrl-C keeps all that is finished; the same command with --resume goes on.
    """
    from nas import run as runs

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    show = _Display(data)
    try:
        run = runs.search(
            data,
            target.split(",") if target else None,
            families=family,
            objectives=objective,
            constraints=constraint,
            time_limit=None if time_limit.lower() == "none" else time_limit,
            columns=_typed(columns) if columns else None,
            out=out,
            on_start=show.start,
            on_progress=show.update,
            **options,
        )
    except KeyboardInterrupt:
        show.close()
        if not (out / "task.json").exists():
            raise
        run = runs.Run(out)
        kept = sum(c.state.value == "complete" for c in run.candidates())
        click.echo(f"interrupted; {kept} complete candidates are kept in {out}", err=True)
        if run.front():
            _finish(run, as_json)
        click.echo("go on with the same command and --resume", err=True)
        sys.exit(130)
    finally:
        show.close()
    _finish(run, as_json)


def _typed(columns: str) -> dict[str, str]:
    pairs = [pair.rpartition("=")[::2] for pair in columns.split(",")]
    if not all(name.strip() and kind.strip() for name, kind in pairs):
        raise click.UsageError(f"--columns {columns!r} is not of the form NAME=TYPE,NAME=TYPE")
    return {name.strip(): kind.strip() for name, kind in pairs}


def _finish(run: Run, as_json: bool) -> None:
    front = run.front()
    if not as_json:
        _print_front(run, front)  # before the files, for which there may be no room
    recipe, report = run.export(), run.report()  # the small one first
    if as_json:
        click.echo(
            json.dumps(
                {
                    "run": str(run.folder),
                    "front": [c.row() for c in front],
                    "baselines": run.baselines(),
                    "report": str(report),
                    "recipe": str(recipe),
                }
            )
        )
        return
    click.echo(f"\nreport  {report}\nrecipe  {recipe}  (candidate {run.best().number})")
    click.echo(f"next    nas train {recipe}")


def _print_front(run: Run, front: Sequence[Candidate]) -> None:
    from rich.console import Console
    from rich.table import Table

    from nas.front import beats, constant_guess

    quality = run.task.quality.metric
    more = [m for m in ("balanced_accuracy", "auc", "f1", "mae", "r2") if m != quality]
    more = [m for m in more if any(m in c.metrics for c in front)]
    table = Table(title=f"Pareto front of {run.folder.name} (validation)", title_justify="left")
    heads = [m.replace("balanced_accuracy", "balanced") for m in (quality, *more)]
    names = ("#", "family", *heads, "latency ms", "params", "FLOPs", "epochs", "s")
    for i, name in enumerate(names):
        table.add_column(name, justify="left" if i == 1 else "right")
    for c in front:
        spread = c.cost["latency"]["iqr_ms"]
        table.add_row(
            str(c.number),
            c.label,
            *(_figure(c.metrics[m]) if m in c.metrics else "" for m in (quality, *more)),
            f"{c.metrics['latency_ms']:.3g} ±{spread / 2:.1g}{_loud(c)}",
            f"{c.metrics['params']:,.0f}",
            f"{c.metrics['flops']:.3g}",
            str(len(c.curve)),
            f"{c.seconds:.0f}",
        )
    table.add_section()
    for b in run.baselines():
        values = (_figure(b["metrics"][m]) if m in b["metrics"] else "" for m in (quality, *more))
        table.add_row("", f"[italic]{b['name']}", *values)
    width = None if sys.stdout.isatty() else 120
    Console(width=width).print(table)
    guess = constant_guess(run.task)
    if not any(beats(c.metrics, run.task.objectives, guess) for c in front):
        click.echo("none is clearly better than a constant guess, which looks at no input")
    if any(map(_loud, front)):
        reasons = {c.cost["latency"].get("loud_because") for c in front} - {None}
        click.echo(f"† measured while other work ran{''.join(f'; {r}' for r in reasons)}")
    for b in run.baselines():
        if "error" in b:
            click.echo(f"{b['name']} could not be fitted: {b['error']}")


def _loud(candidate: Candidate) -> str:
    """The mark of a latency that was measured beside trainings."""
    return "" if candidate.cost["latency"]["quiet"] else " †"


def _figure(value: float) -> str:
    """Four digits, or all before the point: 0.8712, 45,439."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


class _Display:
    """A live table on a terminal; elsewhere a line every 15 seconds and for each phase."""

    EVERY = 15.0

    def __init__(self, data: Path) -> None:
        self._live: Any = None
        self._last = 0.0
        self._phase = ""
        # Of large data; what is read at once needs no word.
        self._reading = threading.Timer(2.0, click.echo, (f"reading {data}",), {"err": True})
        self._reading.daemon = True
        self._reading.start()

    def start(self, run: Run) -> None:
        self._reading.cancel()
        task = run.task
        profile, fidelity = task.profile, task.fidelity
        for note in run.notes:
            click.echo(f"note: {note}", err=True)
        wanted = ", ".join(f"{o.metric} ({o.direction})" for o in task.objectives)
        limits = f"; limits: {', '.join(map(str, task.constraints))}" if task.constraints else ""
        kinds = ", ".join(
            f"{t.name} ({t.kind}{f', {len(t.classes)} classes' if t.classes else ''})"
            for t in task.targets[:5]
        )
        parts = folds(task)
        folded = f", {parts}-fold cross-validation" if parts > 1 else ""
        for line in (
            f"{task.modality}: {profile.n_train} train, {profile.n_val} validation,"
            f" {profile.n_test} test samples ({profile.split_method})",
            f"target: {kinds}",
            f"objectives: {wanted}{limits}",
            f"families: {', '.join(run.spaces)}",
            f"proxies: {fidelity.epochs} epochs on {fidelity.share:.0%} of the training part"
            f"{folded}, {task.budget.workers} workers on {task.device}",
            f"folder: {run.folder}",
        ):
            click.echo(line, err=True)

    def update(self, progress: Progress) -> None:
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        phase = progress.phase.partition(":")[0]
        wait = 0.5 if terminal else self.EVERY
        if now - self._last < wait and phase == self._phase:
            return
        self._last, self._phase = now, phase
        if terminal:
            self._draw(progress)
        else:
            stamp = datetime.now().isoformat(timespec="seconds")
            fields = " ".join(f"{k}={v}" for k, v in _summary(progress).items())
            click.echo(f"{stamp} {fields}", err=True)

    def _draw(self, progress: Progress) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for c in progress.running:
            last = c.curve[-1] if c.curve else {}
            shown = "  ".join(f"{k} {_figure(v)}" for k, v in last.items() if k != "epoch")
            table.add_row(f"#{c.number}", c.family, f"epoch {_reached(progress, c)}", shown)
        for name in progress.calls:
            table.add_row("", name)
        head = "  ".join(f"[bold]{k}[/] {v}" for k, v in _summary(progress).items())
        if self._live is None:
            self._live = Live(console=Console(stderr=True), refresh_per_second=2, transient=True)
            self._live.start()
        self._live.update(Group(head, table))

    def close(self) -> None:
        self._reading.cancel()
        if self._live is not None:
            self._live.stop()
            self._live = None


def _summary(progress: Progress) -> dict[str, str]:
    """What a user wants to know of a running search, in a few words each."""
    study, budget, spent_s = progress.study, progress.budget, progress.spent_s
    summary = {"phase": progress.phase, "spent": _clock(spent_s)}
    if study is None:
        return summary
    standings = Counter(c.standing[0] for c in study.candidates())
    budgets = {
        device + "_hours": (study.hours(device), n) for device, n in budget.device_hours.items()
    }
    if budget.trials is not None:
        budgets["trials"] = (study.spent - len(progress.running), budget.trials)
    left = {name: spent_s * (limit / used - 1) for name, (used, limit) in budgets.items() if used}
    if budget.time_limit_s is not None:
        left["time"] = budget.time_limit_s - spent_s
        summary["spent"] += f"/{_clock(budget.time_limit_s)}"
    if left:
        summary["left"] = _clock(max(0.0, min(left.values())))
    for name, (used, limit) in budgets.items():
        eta = f"(left:{_clock(max(0.0, left[name]))})" if name in left else ""
        summary[name] = f"{used:.3g}/{limit:g}{eta}"
    for name in ("complete", "pruned", "failed"):
        summary[name] = str(standings[name])
    if standings["cut off"]:  # at the end, or earlier in a search that was resumed
        summary["cut_off"] = str(standings["cut off"])
    at = [f"#{c.number}:{c.family}({_reached(progress, c)})" for c in progress.running]
    summary["running"] = ",".join([*at, *progress.calls]) or "-"
    front = study.front()
    if front:
        quality = study.task.quality
        sign = -1 if quality.direction == "max" else 1
        best = min(front, key=lambda c: sign * c.metrics[quality.metric])
        value = best.metrics[quality.metric]
        summary["best"] = f"{quality.metric}:{_figure(value)}(#{best.number}:{best.family})"
        summary["front"] = str(len(front))
    return summary


def _reached(progress: Progress, candidate: Candidate) -> str:
    """The epochs of a candidate that are over: 12/30, or with several folds 12/30,fold:2/5."""
    assert progress.study is not None
    fold, epoch = progress.study.reached.get(candidate.number, (1, 0))
    parts = folds(progress.study.task)
    return f"{epoch}/{candidate.epochs}" + (f",fold:{fold}/{parts}" if parts > 1 else "")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


_RUN = click.argument("run", type=click.Path(path_type=Path))


@cli.command()
@_RUN
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def status(run: Path, as_json: bool) -> None:
    """Show how far the search in folder RUN is, also while it runs.

    \b
    nas status runs/adult
    """
    from nas.run import Run

    opened = Run(run)
    candidates, front = opened.candidates(), opened.front()
    standings = (c.standing for c in candidates)
    counts = Counter(f"{how} ({why})" if why else how for how, why in standings)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "run": str(run),
                    "candidates": counts,
                    "spent_s": opened.spent_s,
                    "cpu_hours": opened.hours("cpu"),
                    "gpu_hours": opened.hours("gpu"),
                    "front": [c.row() for c in front],
                    "baselines": opened.baselines(),
                }
            )
        )
        return
    told = ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "no candidate yet"
    hours = {f"{d.upper()}-hours": opened.hours(d) for d in ("cpu", "gpu")}
    spent = [f"{_clock(opened.spent_s)} spent", *(f"{h:.3g} {n}" for n, h in hours.items() if h)]
    click.echo(f"{told}; {', '.join(spent)}")
    if front:
        _print_front(opened, front)


_LATENCY = click.option(
    "--latency",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Rank by the figures in this file of `nas latency`.",
)


@cli.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--recipe", type=click.Path(path_type=Path), help="Of one network, instead of RUN.")
@click.option(
    "--number",
    "-n",
    type=int,
    multiple=True,
    help="Candidates of RUN (repeatable); default: its front.",
)
@click.option(
    "--backend",
    type=click.Choice(["eager", "compile", "onnxruntime"]),
    default="eager",
    show_default=True,
    help="PyTorch as it is, torch.compile, or ONNX in onnxruntime (CPU).",
)
@click.option(
    "--batch", default="1", show_default=True, help="Samples at once, '1,8,32'; the first ranks."
)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--name", help="Of this device in reports; default: its host name.")
@click.option("--out", type=_FILE, help="Default: RUN/latency-NAME.json with a RUN.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def latency(
    run: Path | None,
    recipe: Path | None,
    number: tuple[int, ...],
    backend: str,
    batch: str,
    threads: int,
    device: str,
    name: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure latencies on this machine, for a RUN or a recipe that was found on another.

    Copy the run's folder here (of data/ only what you want: without it inputs are made up from
    the profile), measure, copy the file back: `nas report` and `nas export` rank by it.

    \b
    nas latency runs/adult --name server --threads 4
    nas latency --recipe recipe.yaml --backend onnxruntime --batch 1,8,32
    nas report runs/adult --latency runs/adult/latency-server.json

    Networks are measured in turn, in many short rounds, while trainings of this user hold still;
    the lowest decile of the rounds counts. One that a backend cannot run says why.
    """
    import platform

    from nas.run import Run, measure_recipe
    from nas.task import InputError, UsageError

    if (run is None) == (recipe is None) or (recipe and number):
        raise UsageError("give a RUN, with --number for some of its candidates, or a --recipe")
    try:
        batches = [int(b) for b in batch.split(",")]
        if min(batches) < 1:
            raise ValueError
    except ValueError:
        raise UsageError(f"--batch {batch!r} is not of the form 1,8,32") from None
    if backend == "onnxruntime" and device != "cpu":
        raise UsageError("onnxruntime is measured on the CPU; choose --device cpu")
    name = name or platform.node()
    how: dict[str, Any] = {
        "backend": backend,
        "device": device,
        "threads": threads,
        "batches": batches,
        "name": name,
        "on_step": lambda text: click.echo(text, err=True),
    }
    if run is not None:
        found = Run(run).measure_latency(number, **how)
        out = out or run / f"latency-{name}.json"
    else:
        assert recipe is not None
        found = measure_recipe(recipe, **how)
    if out is not None:
        from nas.training.latency import write

        write(found, out)
    if as_json:
        click.echo(json.dumps(found | {"file": str(out) if out else None}))
    else:
        _print_latencies(found)
        if out is not None:
            click.echo(f"\nfile    {out}")
    if not any("latency" in row for row in found["candidates"].values()):
        raise InputError(f"{backend} measured none of them")


def _print_latencies(found: dict[str, Any]) -> None:
    device = found["device"]
    click.echo(
        f"latency in ms on {device['name']} ({device['processor']}, {device['kind']},"
        f" {device['backend']}, {device['threads']} thread(s)); inputs {found['inputs']}"
    )
    noisy = False
    for number, row in found["candidates"].items():
        told = []
        for batch, figures in row.get("latency", {}).items():
            noisy = noisy or not figures["quiet"]
            mark = "" if figures["quiet"] else " †"
            told.append(f"batch {batch}: {figures['ms']:.3g} ±{figures['iqr_ms'] / 2:.1g}{mark}")
        told += [row["error"]] if "error" in row else []
        click.echo(f"{number:>5}  {row['family']:21} {'  '.join(told)}")
    if noisy:
        click.echo("† other work of this user did not hold still")


@cli.command()
@_RUN
@click.option("--out", type=_FILE, help="Default: RUN/report.html.")
@_LATENCY
def report(run: Path, out: Path | None, latency: Path | None) -> None:
    """Write the report of RUN: one HTML page that works offline.

    \b
    nas report runs/adult --out adult.html
    nas report runs/adult --latency phone.json     ranked by another device's latency
    """
    from nas.run import Run

    click.echo(Run(run, latency).report(out))


@cli.command()
@_RUN
@click.option("--number", "-n", type=int, help="Candidate; default: the best quality.")
@click.option(
    "--limit", "-c", multiple=True, help="Best inside this limit: 'latency_ms<=1' (repeatable)."
)
@click.option("--out", type=_FILE, help="Default: RUN/recipe.yaml.")
@_LATENCY
def export(
    run: Path,
    number: int | None,
    limit: tuple[str, ...],
    out: Path | None,
    latency: Path | None,
) -> None:
    """Write the training recipe of a candidate of RUN.

    \b
    nas export runs/adult                        the best quality
    nas export runs/adult -c 'latency_ms<=1'     the best inside a limit
    nas export runs/adult -c 'latency_ms<=1' --latency phone.json     on another device
    """
    from nas.run import Run

    opened = Run(run, latency)
    if number is not None and limit:
        raise click.UsageError("give --number or --limit, not both")
    click.echo(opened.export(out, opened.best(*limit).number if limit else number))


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--out", type=_FOLDER, help="Folder; default: beside RECIPE.")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--check", is_flag=True, help="Train the proxy again instead, and compare.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def train(recipe: Path, out: Path | None, epochs: int | None, check: bool, as_json: bool) -> None:
    """Train RECIPE at full scale and score it once on the test part.

    RECIPE is a file, or the folder of a run for its recipe.yaml.

    \b
    nas train runs/adult/recipe.yaml --out model
    nas train runs/adult/recipe.yaml --check     does the proxy give the same figure again?
    """
    from nas import recipe as recipes

    recipe = recipe / "recipe.yaml" if recipe.is_dir() else recipe
    recipes.load(recipe)  # a wrong file is told before the seconds that torch takes
    if check:
        from nas.train import check as run_check

        found = run_check(recipe)
        if as_json:
            click.echo(json.dumps(found))
        else:
            name, folded = found["objective"], found["folds"]
            mean = f", mean of {folded} folds" if folded > 1 else ""
            figures = (f"{k} {found[k]:.5g}" for k in ("measured", "again", "tolerance"))
            click.echo(f"{name}{mean}: {'  '.join(figures)}")
        return
    from nas.train import train as run_training

    result = run_training(recipe, out or recipe.parent / "model", epochs)
    if as_json:
        click.echo(json.dumps(result))
        return
    metrics = [m for m in result["test"] if m != "loss"]
    for part in ("validation", "test"):
        shown = "  ".join(f"{m} {_figure(result[part][m])}" for m in metrics if m in result[part])
        click.echo(f"{part:10}  {shown}")
    click.echo(f"checkpoint  {result['checkpoint']}  ({result['seconds']:.0f} s)")


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", type=_FILE, help="CSV file; default: standard output.")
def predict(model: Path, data: Path, out: Path | None) -> None:
    """Predict on new DATA with a trained MODEL (its folder or checkpoint).

    Writes one row for each sample: the file of an image, the prediction, and for classes
    the probability of each. Where DATA holds the targets, their scores go to standard error.
    Of an .npz file with x_train and x_test only x_test is predicted.

    \b
    nas predict runs/adult/model new.csv --out predictions.csv
    """
    from nas.task import InputError, UsageError

    if not data.exists():
        raise UsageError(f"{data} does not exist")
    # A run's folder holds the model's; a wrong path is told before torch is loaded.
    places = (model / "model.ckpt", model / "model" / "model.ckpt") if model.is_dir() else (model,)
    checkpoint = next((place for place in places if place.is_file()), None)
    if checkpoint is None:
        raise InputError(f"no checkpoint at {model}; `nas train` makes one")
    from nas.files import write_whole
    from nas.train import predict as run_prediction

    frame, scores = run_prediction(
        checkpoint, data, lambda note: click.echo(f"note: {note}", err=True)
    )
    if out is not None:
        write_whole(out, frame.to_csv(index=False))
    else:
        frame.to_csv(sys.stdout, index=False)
    if scores:
        click.echo("  ".join(f"{k} {_figure(v)}" for k, v in scores.items()), err=True)


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@_data_options
@_plan_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def design(
    data: Path,
    target: str | None,
    family: tuple[str, ...],
    objective: tuple[str, ...],
    constraint: tuple[str, ...],
    columns: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what a search of DATA would do: seconds, and no training.

    The data in words and what looks wrong in it, the families with their baselines' costs and
    pace, the spaces that follow from the data, and how many candidates the time is for. The
    options are those of `nas search`.

    \b
    nas design adult/ --target income
    nas design photos/ -c 'params<=100000' --time-limit 1h
    """
    from nas.design import design as make
    from nas.design import show

    found = make(
        data,
        target.split(",") if target else None,
        families=family,
        objectives=objective,
        constraints=constraint,
        columns=_typed(columns) if columns else None,
        **options,
    )
    if as_json:
        click.echo(json.dumps(found.to_dict()))
    else:
        show(found, _width())


def _width() -> int | None:
    """Of what is printed: the terminal's, or a hundred columns."""
    return None if sys.stdout.isatty() else 100


@cli.command()
@click.argument("rule", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def rules(rule: str | None, as_json: bool) -> None:
    """List the design rules, or show one RULE with all that it bounds.

    Where a rule is used is read off the spaces of the installed families.

    \b
    nas rules
    nas rules groupnorm-for-small-batches
    """
    from nas import rulebook
    from nas.task import UsageError

    found = rulebook.uses()
    if rule is not None and rule not in found:
        near = difflib.get_close_matches(rule, found, n=1)
        hint = f"did you mean {near[0]}?" if near else "`nas rules` lists them"
        raise UsageError(f"there is no rule {rule!r}; {hint}")
    if as_json:
        chosen = found.values() if rule is None else [found[rule]]
        click.echo(json.dumps({"rules": [use.to_dict() for use in chosen]}))
    elif rule is None:
        rulebook.show_rules(found, _width())
    else:
        rulebook.show_rule(found[rule], _width())


@cli.command()
@click.argument("family", required=False)
@click.option("--modality", help="Only the families of this modality; of DATA: default inferred.")
@click.option("--data", type=click.Path(path_type=Path), help="Whose bounds to show.")
@_data_options
@click.option(
    "--constraint", "-c", multiple=True, help="Limit that bounds the space: 'params<=1e6'."
)
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Of the search to be."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def families(
    family: str | None,
    data: Path | None,
    target: str | None,
    modality: str | None,
    constraint: tuple[str, ...],
    device: str,
    columns: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """List the families of networks, or show the space of one FAMILY.

    Each parameter with its bounds, its default, where it applies, and the rules that set it:
    for DATA, or for ordinary data of its modality.

    \b
    nas families --modality images
    nas families resnet
    nas families mlp --data adult/ --target income
    """
    from nas.family import load_families

    if family is not None:
        reading = {
            **options,
            "target": target.split(",") if target else None,
            "modality": modality,
            "columns": _typed(columns) if columns else None,
        }
        _show_family(family, data, reading, constraint, device, as_json)
        return
    if data is not None:
        raise click.UsageError("--data shows the bounds of one family: name it")
    found = load_families(modality)
    if as_json:
        listed = [
            {"name": f.name, "modality": f.modality, "paper": f.paper} for f in found.values()
        ]
        click.echo(json.dumps({"families": listed}))
        return
    if not found:
        from nas.task import UsageError

        known = ", ".join(sorted({f.modality for f in load_families().values()}))
        raise UsageError(f"no family of the modality {modality!r}; there are {known}")
    for f in found.values():
        click.echo(f"{f.modality:11} {f.name:21} {f.paper}")


def _show_family(
    name: str,
    data: Path | None,
    reading: dict[str, Any],
    constraint: tuple[str, ...],
    device: str,
    as_json: bool,
) -> None:
    from dataclasses import replace

    from nas import rulebook
    from nas.family import load_families
    from nas.task import Budget, Constraint, UsageError

    known = load_families()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise UsageError(f"unknown family {name!r}; {hint}")
    family, limits = known[name], tuple(map(Constraint.parse, constraint))
    if data is not None:
        from nas.data import read
        from nas.run import make_task

        dataset = read(data, **reading)
        if dataset.modality != family.modality:
            raise UsageError(f"{name} is for {family.modality}, but {data} is {dataset.modality}")
        task = make_task(dataset, constraints=limits, budget=Budget(), device=device)
        about = f"Bounds for {data}: {task.profile.n_train:,} training samples."
    else:
        task = replace(rulebook.typical_task(family.modality), constraints=limits, device=device)
        about = (
            f"Bounds for {task.profile.n_train:,} samples of {rulebook.described(family.modality)};"
            " ten classes. With --data they are yours."
        )
    space = family.space(task)
    if as_json:
        parameters = [
            {**param.to_dict(), "where": rulebook.condition(param, space)} for param in space.params
        ]
        click.echo(json.dumps({"name": name, "data": about, "parameters": parameters}))
        return
    heading = f"{name}: {family.paper}"
    rulebook.show_space(space, heading, f"{family.good_for}\n{about}", _width())


@cli.command()
@click.argument("model")
@click.option(
    "--args", "arguments", help="What makes the network is given these: '{\"depth\": 20}' (JSON)."
)
@click.option(
    "--shape",
    multiple=True,
    help="Of one sample, as 3,32,32; repeat it for several inputs. Ids are drawn where the"
    " network looks an input up in a table.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Anything that `nas search` reads.")
@click.option("--target", "-t", help="Column(s) of DATA to predict, separated by commas.")
@click.option("--modality", type=click.Choice(get_args(Modality)), help="Default: inferred.")
@click.option("--classes", type=click.IntRange(min=2), help="That the network is to tell apart.")
@click.option("--samples", type=click.IntRange(min=1), help="That it is to be trained on.")
@click.option("--batch-size", type=click.IntRange(min=1), help="On one device, as you train.")
@click.option("--lr", type=float, help="Your learning rate; default: where the loss falls fastest.")
@click.option("--weight-decay", type=float, help="Yours, of AdamW.")
@click.option("--time-limit", default="1m", show_default=True, help="Of the short training.")
@click.option("--figure", type=_FILE, help="HTML file of the training.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def audit(
    model: str,
    arguments: str | None,
    shape: tuple[str, ...],
    data: Path | None,
    target: str | None,
    time_limit: str,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find what is wrong with MODEL, any torch.nn.Module, before and while it trains.

    MODEL is package.module:Class, file.py:Class or file.py:function(); loading it runs the code
    that stands there. The design rules are checked on one forward pass; with --data a short
    training is watched too: learning rates, gradients by layer, dead units, the loss at the start,
    one batch learnt by heart. What you do not tell (--batch-size, --lr ...) is not judged.

    \b
    nas audit net.py:Net --shape 3,32,32 --classes 10 --batch-size 8
    nas audit net.py:Net --args '{"depth": 20}' --data photos/ --lr 1e-3 --figure audit.html
    nas audit my_package.models:build --data reviews.csv --target stars --json

    Exit code 4 where something serious was found, 0 where not.
    """
    from nas import audit as run_audit
    from nas.audit import load
    from nas.run import parse_duration
    from nas.task import UsageError

    shapes = [_sides(text) for text in shape]
    if figure is not None and data is None:
        raise UsageError("--figure shows a training: give --data too")
    if bool(shapes) == (data is not None):
        raise UsageError("give the network's input: --shape 3,32,32 or --data FILE")
    try:
        given = json.loads(arguments or "{}")
    except json.JSONDecodeError as error:
        raise UsageError(f"--args {arguments!r} is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise UsageError(f'--args {arguments!r} is not an object like {{"depth": 20}}')
    found = run_audit(
        load(model, given),
        shape=shapes or None,
        data=data,
        target=target.split(",") if target else None,
        limit_s=parse_duration(time_limit) or 60.0,
        name=model,
        on_phase=lambda phase: click.echo(f"{phase} …", err=True),
        **options,
    )
    click.echo(json.dumps(found.to_dict()) if as_json else found.text())
    if figure is not None:
        found.figure(figure)
        click.echo(f"figure  {figure}", err=as_json)
    sys.exit(4 if found.serious else 0)


def _sides(text: str) -> tuple[int, ...]:
    sides = [side.strip() for side in text.split(",")]
    if not all(side.isdigit() and int(side) > 0 for side in sides):
        raise click.UsageError(f"--shape {text!r} is not a list of sides like 3,32,32")
    return tuple(map(int, sides))


def main(args: Sequence[str] | None = None) -> None:
    """Run the command and turn a user's mistake into one line and an exit code."""
    # What is left at the end goes with the process: looking for cycles in it takes a second.
    atexit.register(gc.freeze)
    code = _guarded(lambda: cli.main(args, prog_name="nas", standalone_mode=False))
    sys.exit(code)


def _guarded(call: Callable[[], Any]) -> int:
    from nas.task import InputError

    try:
        result = call()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except InputError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:  # `nas … | head`: the reader has what it wanted
        sys.stderr.close()
        return 0
    except OSError as error:  # a full disk, a folder that may not be written
        if error.filename is None and error.errno not in _NO_ROOM:
            raise
        where = f"{error.filename}: " if error.filename else ""
        told = (f"{where}{error.strerror}", *getattr(error, "__notes__", ()))
        click.echo(f"error: {'; '.join(told)}", err=True)
        return 1
