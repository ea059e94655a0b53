"""The commands for what a search has found: ``nas export``, ``train``, ``predict``, ``serve``; and
for what it may start from: ``nas pretrained``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from nas import exits, flags, show, terminal
from nas.options import SearchOptions
from nas.recipe_changes import Settings

if TYPE_CHECKING:
    from nas.candidate import Candidate
    from nas.run import Run

# A candidate is called by either name.
_CANDIDATE = ("--candidate", "--number", "-n", "number")


@click.command(cls=exits.Command)
@flags.RUN
@click.option(
    *_CANDIDATE,
    type=int,
    help="Number of the candidate; default: the one trained at full scale, else the best.",
)
@click.option(
    "--constraint",
    "--limit",
    "-c",
    "limit",
    multiple=True,
    help="Best inside this limit: 'latency_ms<=1' (repeatable).",
)
@click.option("--out", type=flags.FILE, help="File of the recipe; default: RUN/recipe.yaml.")
@flags.LATENCY
@click.option("--design", type=flags.FOLDER, help="Folder for the design document.")
@click.option("--standalone", type=flags.FOLDER, help="Folder with plain PyTorch code and weights.")
@click.option("--onnx", type=flags.FILE, help="File of the trained network's operators.")
@click.option(
    "--int8",
    type=click.Choice(["dynamic", "static"]),
    help="Quantise the ONNX file; what that costs and brings is measured.",
)
@click.option("--torch-export", type=flags.FILE, help="The same network for torch.export (.pt2).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def export(
    run: Path,
    number: int | None,
    limit: tuple[str, ...],
    out: Path | None,
    latency: Path | None,
    design: Path | None,
    standalone: Path | None,
    onnx: Path | None,
    int8: Literal["dynamic", "static"] | None,
    torch_export: Path | None,
    as_json: bool,
) -> None:
    """Write the training recipe of a candidate of RUN, its design, or the trained network itself.

    \b
    nas export runs/adult                        the model that ended the search
    nas export runs/adult -c 'latency_ms<=1'     the best inside a limit
    nas export runs/adult -c 'latency_ms<=1' --latency phone.json     on another device
    nas export runs/adult --design design        JSON, Markdown and a page, in seven parts
    nas export runs/adult --standalone adult     what `nas train` has trained, as a folder
    nas export runs/adult --onnx adult.onnx --int8 static

    A trained network needs neither this project nor Lightning in its folder: model.py imports
    torch alone. RUN may be the folder of a model too. A candidate that was not trained in full has
    the weights that the search has kept of its front. ONNX and torch.export hold the whole way from
    raw values to probabilities; a file is kept after its outputs were those of the network.
    """
    from nas.run import Run

    if number is not None and limit:
        raise click.UsageError("give --candidate or --constraint, not both")
    if int8 and onnx is None:
        raise click.UsageError("--int8 is of --onnx FILE")
    if limit:
        number = Run(run, latency).best(*limit).number
    found: dict[str, Any] = {}
    others = (design, standalone, onnx, torch_export)
    if out is not None or all(each is None for each in others):
        found["recipe"] = str(Run(run, latency).export(out, number))
    if design is not None:
        found["design"] = str(_design(run, latency, number, design))
    if standalone is not None or onnx is not None or torch_export is not None:
        found |= _trained(run, number, standalone, onnx, int8, torch_export)
    if as_json:
        terminal.echo(json.dumps(found))
    else:
        show.exports(found)


def _design(run: Path, latency: Path | None, number: int | None, folder: Path) -> Path:
    from nas.export import document
    from nas.run import Run

    if run.suffix in (".yaml", ".yml"):
        return document.write_design(document.design_of_recipe(run), folder)
    return document.write_design(document.design_of_run(Run(run, latency), number), folder)


def _trained(
    run: Path,
    number: int | None,
    standalone: Path | None,
    onnx: Path | None,
    int8: Literal["dynamic", "static"] | None,
    torch_export: Path | None,
) -> dict[str, Any]:
    """Write what is wanted of a trained network; what was written."""
    from nas.export.trained import open_trained

    trained = open_trained(run, number)
    if trained.note:
        terminal.line(trained.note, err=True)
    found: dict[str, Any] = {}
    if standalone is not None:
        from nas.export.standalone import write_standalone

        found["standalone"] = str(write_standalone(trained, standalone))
    if onnx is not None or torch_export is not None:
        from nas.export import graph

        if onnx is not None:
            found["onnx"] = graph.described(graph.write_onnx(trained, onnx, int8))
        if torch_export is not None:
            written = graph.write_torch_export(trained, torch_export)
            found["torch_export"] = graph.described(written)
    return found


@click.command(cls=exits.Command)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=flags.FOLDER,
    help="Folder; default: model beside RECIPE, with --scale 2 model-x2.",
)
@flags.options(Settings)
@flags.options(SearchOptions, "executor", "address")
@click.option("--resume", is_flag=True, help="Continue the training in --out.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="'optimizer.lr=1e-4' (repeatable).",
)
@click.option("--scale", type=float, help="Scale the network for so many times the data.")
@click.option("--front", is_flag=True, help="Train every point of a run's front.")
@click.option("--check", is_flag=True, help="Train the proxy again instead, and compare.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    help="With --check: train so many seeds; their spread becomes the recipe's tolerance.",
)
@click.option(
    "--test",
    type=click.Choice(["after", "no", "only"]),
    default="after",
    help="Score the test part after the training, not at all, or only that (of a trained network).",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def train(
    recipe: Path,
    out: Path | None,
    resume: bool,
    settings: tuple[str, ...],
    scale: float | None,
    front: bool,
    check: bool,
    seeds: int,
    test: str,
    as_json: bool,
    executor: str,
    address: str | None,
    **changes: Any,
) -> None:
    """Train RECIPE at full scale and score it once on the test part.

    RECIPE is a file, or the folder of a run for its recipe.yaml.

    \b
    nas train runs/adult/recipe.yaml --out model
    nas train runs/adult/recipe.yaml --set optimizer.lr=1e-4 --epochs 40 --out slower
    nas train runs/adult/recipe.yaml --scale 2     deeper and wider, for twice the data
    nas train runs/adult --front                   every point of the front (--resume continues)
    nas train runs/adult/recipe.yaml --check     does the proxy give the same figure again?
    nas train small.yaml --out model --resume      after Ctrl-C, or a machine that was lost
    nas train small.yaml --out model --executor ray --address 10.0.0.5:6379 --devices 4

    Several devices get the recipe's batches each, with fewer steps and a higher learning rate.
    """
    from nas import recipe as recipes

    how = Settings(**flags.given(Settings, changes))
    train_at = _trainer(executor, address, how, check)
    if seeds > 1 and not check:
        raise click.UsageError(f"--seeds {seeds} is of --check: give it too")
    changed: dict[str, Any] = {"--set": settings, "--scale": scale}
    also = {"--" + f.name.replace("_", "-"): getattr(how, f.name) for f in fields(how)}
    if front:
        others: dict[str, Any] = {"--out": out, "--check": check, "--test": test != "after"}
        if executor == "local":  # the processes of other devices begin the command anew
            others |= {"--devices": how.devices, "--num-nodes": how.num_nodes}
        refuse("--front", changed | others)
        _train_front(recipe, train_at, resume, as_json)
        return
    if check:
        others = {"--out": out, "--resume": resume, "--test": test != "after"}
        refuse("--check", changed | also | others)
    if test == "only":
        refuse("--test only", changed | also | {"--devices": None})  # it is scored on one
    recipe = recipe / "recipe.yaml" if recipe.is_dir() else recipe
    recipes.load(recipe)  # a wrong file is reported before torch is imported, which takes seconds
    if check:
        _check(recipe, seeds, as_json)
        return
    if out is None:
        out = recipe.parent / ("model" if scale is None else f"model-x{scale:g}")
        if test != "only":
            _refuse_trained(out, resume)
    is_changed = bool(settings) or scale is not None
    content = _changed(recipe, settings, scale, out) if is_changed else None
    result = train_at(recipe, content, out, test, resume)
    if as_json:
        terminal.echo(json.dumps(result))
    else:
        show.trained(result)


def refuse(name: str, others: dict[str, Any]) -> None:
    """Raise UsageError where options are given that another one does not go with."""
    absent = (None, False, ())  # compared by identity: a patience of 0 is given
    if refused := [k for k, v in others.items() if not any(v is each for each in absent)]:
        raise click.UsageError(f"{name} does not go with {', '.join(refused)}")


def _refuse_trained(out: Path, resume: bool) -> None:
    """Raise UsageError where a training that names no folder would replace a trained network, such
    as the one that a search has ended with."""
    from nas.files import LAST, NETWORKS
    from nas.task import UsageError

    begun = resume and any((out / name).exists() for name in (LAST, NETWORKS))
    if (out / "model.ckpt").exists() and not begun:
        raise UsageError(
            f"{out} holds a trained network; choose --out, or --resume one that was interrupted"
        )


# A recipe, its content where that is not the file's, the folder of its training, what becomes of
# the test part, and whether it is resumed.
_Train = Callable[[Path, dict[str, Any] | None, Path, str, bool], dict[str, Any]]


def _trainer(executor: str, address: str | None, how: Settings, check: bool) -> _Train:
    """What trains a recipe, here or on a cluster. Raises UsageError for options that do not go
    together."""
    from nas.task import UsageError

    if executor == "local":
        if address is not None:
            raise UsageError("--address is of a Ray cluster: give --executor ray")

        def here(
            recipe: Path, content: dict[str, Any] | None, out: Path, test: str, resume: bool
        ) -> dict[str, Any]:
            from nas import train as training

            if test == "only":
                return training.score_once(recipe, out)
            return training.train(recipe, out, None, test == "after", resume, how, content)

        return here
    if check or how.num_nodes is not None:
        other = "--check trains a proxy, here" if check else "--num-nodes is of torchrun and srun"
        raise UsageError(f"{other}; with --executor ray give --devices alone")

    def there(
        recipe: Path, content: dict[str, Any] | None, out: Path, test: str, resume: bool
    ) -> dict[str, Any]:
        from nas import recipe as recipes
        from nas import remote

        if content is not None:
            recipe = out / "recipe.yaml"
            recipes.write(content, recipe)
        given = {f.name: getattr(how, f.name) for f in fields(how) if f.name != "devices"}
        flagged = (("--" + n.replace("_", "-"), str(v)) for n, v in given.items() if v is not None)
        options = [word for pair in flagged for word in pair]
        options += ["--test", test, *(["--resume"] if resume else [])]
        return remote.train(recipe, out, options, how.devices, address)

    return there


def _changed(
    recipe: Path, settings: tuple[str, ...], scale: float | None, out: Path
) -> dict[str, Any]:
    """The content of a recipe with other values. It is no file yet: of several processes each makes
    it, and the first writes the recipe as it is trained."""
    from nas import recipe as recipes

    content = recipes.read(recipe)
    if scale is not None:
        from nas.export.scaling import scaled_recipe

        of_data = [setting for setting in settings if setting.startswith("data.")]
        content = scaled_recipe(recipes.overridden(content, of_data), scale)
    content = recipes.overridden(content, settings)
    recipes.checked(content, str(recipe), out)
    return content


def _check(recipe: Path, seeds: int, as_json: bool) -> None:
    from nas.train import check as run_check

    found = run_check(recipe, seeds)
    if as_json:
        terminal.echo(json.dumps(found))
        return
    name, folded = found["objective"], found["folds"]
    mean = f", mean of {folded} folds" if folded > 1 else ""
    figures = (f"{k} {found[k]:.5g}" for k in ("measured", "again", "tolerance"))
    terminal.echo(f"{name}{mean}: {'  '.join(figures)}")
    if "repeats" in found:
        shown = "  ".join(f"{value:.5g}" for value in found["repeats"])
        terminal.echo(f"{seeds} seeds: {shown}; the tolerance is kept in {recipe}")


def _train_front(folder: Path, train_at: _Train, resume: bool, as_json: bool) -> None:
    """Train every point of a run's front, each in RUN/models/NUMBER; the figures are in
    RUN/full_front.json, and drawn in RUN/full_front.svg. To ``resume`` leaves those as they are
    that are trained. Raises InputError at the end where points have failed."""
    from nas.files import write_whole
    from nas.report.figure import full_front_picture
    from nas.run import Run
    from nas.task import InputError, UsageError

    run = Run(folder)
    rows, failed = [], []
    for candidate in run.front():
        terminal.line(f"candidate {candidate.number} ({candidate.label})", err=True)
        try:
            rows.append(_front_row(run, candidate, train_at, resume))
        except UsageError:  # all others would fail alike
            raise
        except InputError as error:
            terminal.line(f"error: candidate {candidate.number}: {error}", err=True)
            failed.append(str(candidate.number))
            continue
        except SystemExit as end:  # of a training on a cluster, which has said why
            if end.code != InputError.exit_code:
                raise
            failed.append(str(candidate.number))
            continue
        write_whole(run.folder / "full_front.json", json.dumps(rows, indent=1))
    picture = run.folder / "full_front.svg"
    if drawn := full_front_picture(run.task, rows):
        write_whole(picture, drawn)
    if as_json:
        terminal.echo(json.dumps({"front": rows, "picture": str(picture) if drawn else None}))
    else:
        show.full_front(rows)
        if drawn:
            terminal.echo(str(picture))
    if failed:
        raise InputError(
            f"{len(failed)} of {len(failed) + len(rows)} points of the front were not trained"
            f" (candidates {', '.join(failed)}, see above); --resume tries them again"
        )


def _front_row(run: Run, candidate: Candidate, train_at: _Train, resume: bool) -> dict[str, Any]:
    """Train a point of a run's front; its figures as a proxy and at full scale."""
    from nas.files import read_json
    from nas.task import COSTS

    metric = run.task.quality.metric
    place = run.folder / "models" / str(candidate.number)
    done, result = place / "result.json", dict[str, Any]()
    if resume and done.is_file() and (place / "model.ckpt").is_file():
        result = read_json(done, dict[str, Any])
    if not result.get("test"):
        path = run.export(place / "recipe.yaml", candidate.number)
        result = train_at(path, None, place, "after", resume)
    return {
        "candidate": candidate.number,
        "family": candidate.label,
        "metric": metric,
        "proxy": candidate.metrics[metric],
        "full": result["validation"].get(metric),
        "test": result["test"].get(metric),
        **{cost: candidate.metrics.get(cost) for cost in COSTS},
        "params": result["params"],
        "seconds": result["seconds"],
    }


@click.command(cls=exits.Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(*_CANDIDATE, type=int, help="Candidate of a run; default: the one in RUN/model.")
@click.option(
    "--keep", multiple=True, metavar="COLUMN", help="Column of DATA to copy beside (repeatable)."
)
@click.option(
    "--interval",
    type=float,
    metavar="LEVEL",
    help="Add columns low and high that hold the true number with this probability: 0.9.",
)
@click.option("--out", type=flags.FILE, help="CSV file; default: standard output.")
def predict(
    model: Path,
    data: Path,
    number: int | None,
    keep: tuple[str, ...],
    interval: float | None,
    out: Path | None,
) -> None:
    """Predict on new DATA with a trained MODEL (its folder or checkpoint, or that of a run).

    Writes one row for each sample, in the order of DATA: its file, the columns to --keep or
    else the number of its row (from 1), the prediction, and for classes the probability of
    each. Where DATA holds the targets, their scores go to standard error. Of an .npz file with
    x_train and x_test only x_test is predicted. Names that a spreadsheet would take for a
    formula begin with an apostrophe. A candidate of a run that was not trained in full has the
    weights that the search has kept of its front, and a line says how far they are trained.

    \b
    nas predict runs/adult/model new.csv --out predictions.csv
    nas predict runs/adult/model new.csv --keep customer_id
    nas predict runs/adult new.csv --candidate 3
    nas predict runs/houses/model new.csv --interval 0.9
    """
    from nas.task import InputError, UsageError

    if not data.exists():
        raise UsageError(f"{data} does not exist")
    if out is not None and data.is_dir() and out.resolve().is_relative_to(data.resolve()):
        raise UsageError(
            f"--out {out} is inside {data}, where it would be read as the labels of its files;"
            " give a file elsewhere"
        )
    # A run's folder holds the model's; a wrong path is reported before torch is imported.
    places = (model / "model.ckpt", model / "model" / "model.ckpt") if model.is_dir() else (model,)
    if number is None and not any(place.is_file() for place in places):
        raise InputError(f"no checkpoint at {model}; `nas train` makes one")
    from nas.model import Scores, load

    opened = load(model, number)
    if opened.note:
        terminal.line(opened.note, err=True)
    scores = Scores(opened.task)

    def note(text: str) -> None:
        terminal.line(f"note: {text}", err=True)

    pieces = opened.stream(data, keep, note, interval)
    show.predictions((scores.add(piece) for piece in pieces), out, numbered=not keep)
    if found := scores.result():
        terminal.echo("  ".join(f"{k} {terminal.figure(v)}" for k, v in found.items()), err=True)


@click.command(cls=exits.Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--token", help="Token of requests; better in NAS_SERVE_TOKEN. Default: random.")
def serve(model: Path, port: int, token: str | None) -> None:
    """Answer HTTP requests with the predictions of a trained MODEL, on this machine alone.

    JSON in and out: POST /predict with rows, texts or files in base64, GET / says what exactly, and
    GET /health that it is alive. Requests need the token, which is printed at the start.

    \b
    nas serve runs/adult/model --port 8000
    """
    import secrets

    from nas.model import load
    from nas.serve import serve as run

    opened, secret = load(model), token or secrets.token_urlsafe(24)

    def say(address: str) -> None:
        terminal.echo(f"{address}  token {secret}")
        terminal.line("Ctrl-C ends it", err=True)

    run(opened, port, secret, say)


@click.group()
def pretrained() -> None:
    """Pretrained networks that a search can start from (`nas search --pretrained`).

    \b
    nas pretrained list
    """


@pretrained.command("list", cls=exits.Command)
@click.argument("sources", nargs=-1)
@click.option("--modality", help="Only networks that read text, images or audio.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def list_pretrained(sources: tuple[str, ...], modality: str | None, as_json: bool) -> None:
    """List pretrained networks: SOURCES (folders, files), or those in the hub's cache.

    What they read, their architecture, their size, and what they state of their licence and their
    training data. Nothing is downloaded but a hub id that is named.

    \b
    nas pretrained list
    nas pretrained list all-MiniLM-L6-v2/ efficientnet-lite0.pth
    """
    from nas.pretrained.listing import listed

    found = listed(sources, modality)
    if as_json:
        terminal.echo(json.dumps({"pretrained": [entry.to_dict() for entry in found]}))
        return
    if not found:
        terminal.echo("none is at hand; give --pretrained a folder, a file or a hub id")
    for entry in found:
        if entry.error:
            terminal.echo(f"{entry.source}: {entry.error}")
            continue
        terminal.echo(
            f"{entry.modality:7} {entry.architecture:19} {entry.size_mb:7.1f} MiB  {entry.source}"
            f"  (licence: {entry.licence}; trained on: {entry.trained_on})"
        )
