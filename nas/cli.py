"""The command ``nas``. Results go to standard output, progress to standard error.

Exit codes: 0 done, 1 wrong data or a failure, 2 wrong usage, 3 no feasible candidate,
4 a self-check failed or an audit found something serious, 130 interrupted. torch, optuna and
pandas are imported inside the commands that need them, so that ``nas --help`` answers at once.
"""

from __future__ import annotations

import atexit
import difflib
import gc
import json
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nas import __version__, cli_models, exits, flags, progress, show, terminal
from nas.options import PlanOptions, ReadOptions, SearchOptions

if TYPE_CHECKING:
    from nas.run import Run


class _Group(click.Group):
    command_class = exits.Command


def _run_folder(ctx: click.Context, _: click.Parameter, out: Path | None) -> Path:
    from nas.run import default_folder

    data = ctx.params.get("data")
    if out is None and data is None:
        raise click.UsageError("give DATA, or the folder of a search with --out and --resume", ctx)
    return out or default_folder(data)


@click.group(cls=_Group, context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="nas")
def cli() -> None:
    """Design neural networks for your own data.

    \b
    nas search data.csv --target price           a front, a page, a trained model
    nas predict runs/data new.csv                predict on new files
    nas train runs/data/recipe.yaml --out again  train the recipe once more
    nas audit net.py:Net --shape 3,32,32         what is wrong with your own network?
    """


@cli.command()
@click.argument("data", required=False, type=click.Path(path_type=Path))
@flags.options(SearchOptions, sampler=flags.SAMPLER)
@click.option(
    "--out",
    type=flags.FOLDER,
    callback=_run_folder,
    help="Folder of the run; default: runs/NAME.",
)
@click.option("--resume", is_flag=True, help="Continue the search in the folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=flags.read_config,
    is_eager=True,
    expose_value=False,
    help="YAML file of these options.",
)
def search(data: Path | None, as_json: bool, out: Path, resume: bool, **options: Any) -> None:
    """Search networks for DATA.

    DATA is a table (.csv, .tsv, .json, .jsonl, .parquet, .feather, .xlsx, or a .zip of one)
    of numbers, names or texts, a folder with
    train and test tables, a folder of class folders of images, sounds or point clouds, or
    with a metadata.csv that lists them, a folder of graphs (nodes.csv and edges.csv, or
    TUDataset files), .ts or .arff files of sequences, a long table of them (--sequence),
    an .npz file, or a table with columns of several kinds: files of images, sounds, sequences,
    point clouds or graphs (an .npz a row, with edges), texts, numbers.

    \b
    nas search adult/ --target income --time-limit 10m
    nas search photos/ -c 'params<=100000' -c 'latency_ms<=5'
    nas search shop.csv --target sold --columns photo=image,note=text,id=ignore
    nas search adult/ --target income --resume --time-limit 20m

    Ctrl-C keeps all that is finished; the same command with --resume continues. DATA may be left
    out then: the folder of the run (--out) has a copy.
    """
    from nas import driver
    from nas.run import Run

    for number in (signal.SIGTERM, signal.SIGHUP):  # of kill, and of a terminal that is closed
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
    display = progress.Display(data or out)
    try:
        run = driver.search(
            data,
            out=out,
            resume=resume,
            on_start=display.start,
            on_progress=display.update,
            **flags.given(SearchOptions, options),
        )
    except KeyboardInterrupt:
        display.close()
        if not (out / "task.json").exists():
            raise
        run = Run(out)
        kept = sum(c.state.value == "complete" for c in run.candidates())
        terminal.echo(f"interrupted; {kept} complete candidates are kept in {out}", err=True)
        if run.front():
            show.finished(run, as_json)
        terminal.echo("go on with the same command and --resume", err=True)
        sys.exit(130)
    finally:
        display.close()
    show.finished(run, as_json)


@cli.command()
@flags.RUN
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("--watch", is_flag=True, help="Again every two seconds, while the search runs.")
def status(run: Path, as_json: bool, watch: bool) -> None:
    """Show how far the search in folder RUN is, also while it runs.

    \b
    nas status runs/adult
    nas status runs/adult --watch
    """
    from nas.run import Run

    opened = Run(run)
    while True:
        if watch and sys.stdout.isatty():
            click.clear()
        _show_status(run, opened, as_json)
        if not watch or not opened.is_running:
            return
        time.sleep(_WATCH_S)
        opened = Run(run)


# Seconds between two samples of `nas status --watch`.
_WATCH_S = 2.0


def _show_status(run: Path, opened: Run, as_json: bool) -> None:
    candidates, front = opened.candidates(), opened.front()
    standings = (c.standing for c in candidates)
    counts = Counter(f"{how} ({why})" if why else how for how, why in standings)
    if as_json:
        terminal.echo(
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
    ended = ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "no candidate yet"
    hours = {f"{d.upper()}-hours": opened.hours(d) for d in ("cpu", "gpu")}
    spent = [
        f"{show.duration(opened.spent_s)} spent",
        *(f"{h:.3g} {n}" for n, h in hours.items() if h),
    ]
    terminal.echo(f"{ended}; {', '.join(spent)}")
    if front:
        show.front(opened, front)
    else:
        show.failures(opened)


@cli.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--recipe", type=click.Path(path_type=Path), help="Recipe of one network, instead of RUN."
)
@click.option(
    "--number",
    "-n",
    type=int,
    multiple=True,
    help="Candidates of RUN (repeatable); default: its front.",
)
@click.option(
    "--file",
    type=flags.FILE,
    multiple=True,
    help="ONNX file of `nas export --onnx`, measured as it is; with RUN of one of its candidates"
    " alone (repeatable).",
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
@click.option("--name", help="Name of this device in reports; default: its host name.")
@click.option("--out", type=flags.FILE, help="Default: RUN/latency-NAME.json with a RUN.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def latency(
    run: Path | None,
    recipe: Path | None,
    number: tuple[int, ...],
    file: tuple[Path, ...],
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
    nas latency runs/adult --file small.onnx --file large.onnx
    nas report runs/adult --latency runs/adult/latency-server.json

    Networks are measured in turn, in many short rounds, while trainings of this user pause; the
    lowest decile of the rounds counts. One that a backend cannot run says why.
    """
    import platform

    from nas.run import Run, measure_file, measure_recipe
    from nas.task import InputError, UsageError

    one_file = run is None and recipe is None and len(file) == 1
    if (not one_file and (run is None) == (recipe is None)) or (recipe and (number or file)):
        raise UsageError(
            "give a RUN, with --number for some of its candidates or with the --file of some, a"
            " --recipe, or one --file"
        )
    if file and number:
        raise UsageError("give --number or --file, not both")
    backend = "onnxruntime" if file else backend
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
        "on_step": lambda text: terminal.echo(text, err=True),
    }
    if run is not None:
        found = Run(run).measure_latency(number, file, **how)
        out = out or run / f"latency-{_file_name(name)}.json"
    elif recipe is not None:
        found = measure_recipe(recipe, **how)
    else:
        found = measure_file(file[0], **how)
    if out is not None:
        from nas.training.latency import write

        write(found, out)
    if as_json:
        terminal.echo(json.dumps(found | {"file": str(out) if out else None}))
    else:
        show.latencies(found)
        if out is not None:
            terminal.echo(f"\nfile    {out}")
    if not any("latency" in row for row in found["candidates"].values()):
        raise InputError(f"{backend} measured none of them")


def _file_name(name: str) -> str:
    """A name as a part of a file name, which stays in its folder."""
    return re.sub(r"[^\w.-]+|^\.+", "-", name)[:100]


@cli.command()
@flags.RUN
@click.option("--out", type=flags.FILE, help="Default: RUN/report.html.")
@flags.LATENCY
def report(run: Path, out: Path | None, latency: Path | None) -> None:
    """Write the report of RUN: one HTML page that works offline.

    \b
    nas report runs/adult --out adult.html
    nas report runs/adult --latency phone.json     ranked by another device's latency
    """
    from nas.run import Run

    terminal.echo(Run(run, latency).report(out))


@cli.command()
@click.argument("runs", nargs=-1)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Default: one that is free.")
@click.option("--token", help="Its token; better in NAS_DASHBOARD_TOKEN. Default: random.")
@click.option("--name", "names", multiple=True, help="Name of a host in front of it (repeatable).")
@click.option("--prefix", default="", help="Path that a proxy puts before its own, as /nas.")
def dashboard(
    runs: tuple[str, ...],
    host: str,
    port: int,
    token: str | None,
    names: tuple[str, ...],
    prefix: str,
) -> None:
    """Serve the report of RUNS as a live page, until Ctrl-C.

    RUNS are folders of searches, folders that hold some (default: runs/), PostgreSQL databases by
    their URL, or journals; searches that begin later are found too. It only reads, and answers
    whoever has the token in its address.

    \b
    nas dashboard runs/adult
    nas dashboard runs/ --port 8321        elsewhere: ssh -L 8321:localhost:8321 MACHINE
    nas dashboard runs/ --host 0.0.0.0     for other machines of a cluster
    nas dashboard postgresql://host/nas    all searches of a database
    """
    from nas.dashboard import serve

    serve(
        runs or ("runs",),
        host,
        port,
        token=token,
        names=names,
        prefix=prefix,
        on_start=lambda address: terminal.echo(f"{address}\nCtrl-C ends it"),
    )


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@flags.options(PlanOptions, sampler=flags.SAMPLER)
@click.option(
    "--pace",
    type=click.Path(path_type=Path),
    help="Pace of another machine: JSON with the seconds of an epoch by family. Nothing is timed."
    " Each worker is to have a core there, or two of them a GPU.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def design(data: Path, pace: Path | None, as_json: bool, **options: Any) -> None:
    """Say what a search of DATA would do: seconds, and no training.

    The data in words and what looks wrong in it, the families with their baselines' costs and
    pace, the spaces that follow from the data, and how many candidates the time is for. The
    options are those of `nas search` that say how data are read and a search is planned.

    \b
    nas design adult/ --target income
    nas design photos/ -c 'params<=100000' --time-limit 1h
    nas design runs/photos --pace a100.json --device cuda --workers 64 --time-limit 24h
    """
    from nas.design import design as make

    found = make(data, pace=pace, **flags.given(PlanOptions, options))
    if as_json:
        terminal.echo(json.dumps(found.to_dict()))
    else:
        show.design(found)


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
        terminal.echo(json.dumps({"rules": [use.to_dict() for use in chosen]}))
    elif rule is None:
        show.rules(found)
    else:
        show.rule(found[rule])


_PLACE = {"type": click.Choice(["cpu", "cuda"]), "default": "cpu", "help": "Device of the search."}


@cli.command()
@click.argument("family", required=False)
@click.option("--data", type=click.Path(path_type=Path), help="Show the bounds for these data.")
@flags.options(
    ReadOptions, modality={"type": str, "help": "Only its families; of DATA: its modality."}
)
@flags.options(PlanOptions, "constraints", "time_limit", "workers", "device", device=_PLACE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def families(
    family: str | None, data: Path | None, modality: str | None, as_json: bool, **options: Any
) -> None:
    """List the families of networks, or show the space of one FAMILY.

    Each parameter with its bounds, its default, where it applies, and the rules that set it:
    for DATA, or for ordinary data of its modality. Then the published networks of the family:
    those that the space holds, and why the others are left out.

    \b
    nas families --modality images
    nas families resnet
    nas families resnet --data photos/ --time-limit 24h --workers 64 --device cuda
    nas families mlp --data adult/ --target income
    """
    from nas.family import load_families

    if family is not None:
        _show_family(family, data, {**options, "modality": modality}, as_json)
        return
    if data is not None:
        raise click.UsageError("--data shows the bounds of one family: name it")
    found = load_families(modality)
    if as_json:
        listed = [
            {"name": f.name, "modality": f.modality, "paper": f.paper} for f in found.values()
        ]
        terminal.echo(json.dumps({"families": listed}))
        return
    if not found:
        from nas.task import UsageError

        known = ", ".join(sorted({f.modality for f in load_families().values()}))
        raise UsageError(f"no family of the modality {modality!r}; there are {known}")
    for f in found.values():
        terminal.echo(f"{f.modality:11} {f.name:21} {f.paper}")


def _show_family(name: str, data: Path | None, options: dict[str, Any], as_json: bool) -> None:
    from dataclasses import replace

    from nas import rulebook
    from nas.family import load_families
    from nas.machine import local_room, other_room, visible_gpus
    from nas.task import Budget, UsageError

    chosen = PlanOptions(**flags.given(PlanOptions, options))
    known = load_families()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise UsageError(f"unknown family {name!r}; {hint}")
    family, limits, device = known[name], chosen.limits, chosen.device
    gpus, memory_mb = visible_gpus("auto" if device == "cuda" else "cpu")
    room = local_room(len(gpus), memory_mb)
    if room.device != device or (chosen.workers or 0) > room.workers:
        room = other_room(device)
    budget = room.budget(Budget(chosen.time_limit_s), chosen.workers)
    if data is not None:
        from nas.data import read
        from nas.plan import make_task

        dataset = read(data, **chosen.reading())
        if dataset.modality != family.modality:
            raise UsageError(f"{name} is for {family.modality}, but {data} is {dataset.modality}")
        task = make_task(dataset, constraints=limits, budget=budget, device=device)
        about = f"Bounds for {data}: {task.profile.n_train:,} training samples."
    else:
        typical = rulebook.typical_task(family.modality)
        task = replace(typical, constraints=limits, budget=budget, device=device)
        about = (
            f"Bounds for {task.profile.n_train:,} samples of {rulebook.described(family.modality)};"
            " ten classes. With --data they are yours."
        )
    space = family.space(task)
    if as_json:
        parameters = [
            {**param.to_dict(), "where": rulebook.condition(param, space)} for param in space.params
        ]
        published = [
            {"name": r.name, "params": r.params, "source": r.source, "left_out": r.left_out(task)}
            for r in family.references
        ]
        listed = {"name": name, "data": about, "parameters": parameters, "references": published}
        terminal.echo(json.dumps(listed))
        return
    heading = f"{name}: {family.paper}"
    show.space(space, heading, f"{family.good_for}\n{about}")
    show.references(family, task)


# How an audit reads data: a network of one's own starts from no published weights.
_READING = tuple(f.name for f in fields(ReadOptions) if f.name != "pretrained")


@cli.command()
@click.argument("model", required=False)
@click.option(
    "--args", "arguments", help="What makes the network is given these: '{\"depth\": 20}' (JSON)."
)
@click.option(
    "--shape",
    multiple=True,
    help="Shape of one sample, as 3,32,32; repeat it for several inputs. Ids are drawn where the"
    " network looks an input up in a table.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Anything that `nas search` reads.")
@flags.options(ReadOptions, *_READING, seed={"help": "Seed of the split, in [0, 2**32)."})
@click.option("--classes", type=click.IntRange(min=2), help="Number of classes of its task.")
@click.option("--samples", type=click.IntRange(min=1), help="Number of its training samples.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Your batch size on one device.")
@click.option("--lr", type=float, help="Your learning rate; default: where the loss falls fastest.")
@click.option("--weight-decay", type=float, help="Your weight decay, of AdamW.")
@click.option("--time-limit", default="1m", show_default=True, help="Limit of the short training.")
@click.option("--figure", type=flags.FILE, help="HTML file of the training.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def audit(
    model: str | None,
    arguments: str | None,
    shape: tuple[str, ...],
    data: Path | None,
    time_limit: str,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find what is wrong with MODEL, any torch.nn.Module, before and while it trains.

    MODEL is package.module:Class, file.py:Class or file.py:function(); loading it runs the code
    that stands there. The design rules are checked on one forward pass; with --data a short
    training is watched too: learning rates, gradients by layer, dead units, the loss at the start,
    one batch memorised. What you do not give (--batch-size, --lr ...) is not judged.

    Without a MODEL, it says what a network for DATA is given, and which outputs it needs.

    \b
    nas audit --data adult/ --target income
    nas audit net.py:Net --shape 3,32,32 --classes 10 --batch-size 8
    nas audit net.py:Net --args '{"depth": 20}' --data photos/ --lr 1e-3 --figure audit.html
    nas audit my_package.models:build --data reviews.csv --target stars --json

    Exit code 4 where something serious was found, 0 where not.
    """
    from nas import audit as run_audit
    from nas.audit import load
    from nas.options import parse_duration
    from nas.task import UsageError

    if model is None:
        if data is None:
            raise UsageError("give a MODEL, or --data alone to see what a network is given of it")
        others = {"--args": arguments, "--shape": shape, "--figure": figure}
        others |= {"--" + k.replace("_", "-"): v for k, v in options.items() if k not in _READING}
        cli_models.refuse("an audit without a MODEL", others)
        from nas.audit.feed import described
        from nas.data import read

        dataset = read(data, **{name: options[name] for name in _READING})
        words, outputs = described(dataset), {t.name: t.outputs for t in dataset.targets}
        about = {"inputs": dataset.profile.inputs, "outputs": outputs, "described": words}
        terminal.echo(json.dumps(about) if as_json else words)
        return
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
        limit_s=parse_duration(time_limit) or 60.0,
        name=model,
        on_phase=lambda phase: terminal.echo(f"{phase} …", err=True),
        **options,
    )
    terminal.echo(json.dumps(found.to_dict()) if as_json else found.text())
    if figure is not None:
        found.figure(figure)
        terminal.echo(f"figure  {figure}", err=as_json)
    sys.exit(4 if found.serious else 0)


def _sides(text: str) -> tuple[int, ...]:
    sides = [side.strip() for side in text.split(",")]
    if not all(side.isdigit() and int(side) > 0 for side in sides):
        raise click.UsageError(f"--shape {text!r} is not a list of sides like 3,32,32")
    return tuple(map(int, sides))


for _command in (
    *(cli_models.export, cli_models.train, cli_models.predict, cli_models.serve),
    cli_models.pretrained,
):
    cli.add_command(_command)
flags.name_variables(cli, "NAS")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command and turn a user's mistake into one line and an exit code."""
    # What is left at the end goes with the process: looking for cycles in it takes a second.
    atexit.register(gc.freeze)
    words = list(sys.argv[1:] if args is None else args) or ["--help"]
    terminal.spell_out()
    code = exits.guarded(lambda: cli.main(words, prog_name="nas", standalone_mode=False))
    terminal.let_go()
    sys.exit(code)
