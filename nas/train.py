"""Recipes at full scale: ``nas train`` and ``python -m nas.train fit --config recipe.yaml``.

A recipe may come from anybody. nas/recipe.py holds it to an exact list of classes and parameters;
here each name of that list stands beside its class (``_CLASSES``), and nothing else is looked up:
no string of a recipe is imported, called, or read as the name of a file to load.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from pytorch_lightning.loggers import CSVLogger

from nas import recipe as recipes
from nas import rules, terminal
from nas.candidate import Reason
from nas.data import Dataset
from nas.files import read_json, write_whole
from nas.task import InputError, SelfCheckFailed, Task, UsageError
from nas.training.baselines import tested
from nas.training.batches import Batch
from nas.training.calibration import calibrate, score_interval
from nas.training.cost import parameters
from nas.training.fit import folds, train_folds
from nas.training.lr import WarmupCosine
from nas.training.metrics import mean_scores
from nas.training.monitors import GradientMonitor, TrainingStopped
from nas.training.proxy import (
    LatestBest,
    Proxy,
    TaskData,
    load_proxy,
    proxy_of,
    quiet_lightning,
)

# Every class that a recipe may name (``nas.recipe.CLASSES``).
_CLASSES: dict[str, Callable[..., Any]] = {
    "nas.training.proxy.Proxy": Proxy,
    "nas.training.proxy.TaskData": TaskData,
    "torch.optim.AdamW": torch.optim.AdamW,
    "torch.optim.Adam": torch.optim.Adam,
    "torch.optim.SGD": torch.optim.SGD,
    "nas.training.lr.WarmupCosine": WarmupCosine,
    "torch.optim.lr_scheduler.CosineAnnealingLR": torch.optim.lr_scheduler.CosineAnnealingLR,
    "torch.optim.lr_scheduler.OneCycleLR": torch.optim.lr_scheduler.OneCycleLR,
    "nas.training.proxy.LatestBest": LatestBest,
    "pytorch_lightning.callbacks.ModelCheckpoint": ModelCheckpoint,
    "pytorch_lightning.callbacks.EarlyStopping": EarlyStopping,
    "pytorch_lightning.callbacks.StochasticWeightAveraging": StochasticWeightAveraging,
    "pytorch_lightning.loggers.CSVLogger": CSVLogger,
}


# Several threads are clearly faster where a step of one takes so many times theirs, and an epoch is
# slow where it takes so many times the fastest.
FASTER, SLOWER = 1.25, 2.0


class _RecipeProxy(Proxy):
    """A proxy with the optimiser and the schedule of a recipe in place of its own."""

    recipe: dict[str, Any]

    def configure_optimizers(self) -> Any:
        if "optimizer" not in self.recipe:
            return super().configure_optimizers()
        optimizer = _made(self.recipe, "optimizer", self.parameters())
        if "lr_scheduler" not in self.recipe:
            return optimizer
        schedule = _made(self.recipe, "lr_scheduler", optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _made(sections: dict[str, Any], key: str, *given: Any) -> Any:
    """The object that a section describes; InputError where its values do not fit."""
    named = sections[key]
    try:
        return _CLASSES[named["class_path"]](*given, **named["init_args"])
    except InputError:
        raise
    except Exception as error:  # whatever torch and Lightning raise for a value they refuse
        raise InputError(f"{key}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no reason given'}"


@dataclass(frozen=True)
class Training:
    """What a recipe describes, ready for ``trainer.fit(module, data)``."""

    module: Proxy
    data: TaskData
    trainer: pl.Trainer


def build(recipe: dict[str, Any], where: str) -> Training:
    """The objects of a recipe that ``nas.recipe.checked`` has returned.

    Seeds all generators, so that the same recipe gives the same network. Raises InputError, which
    begins with ``where``, for values that a class refuses.
    """
    quiet_lightning()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's hints are about options we have chosen
        if (seed := recipe["seed_everything"]) is not False:
            pl.seed_everything(0 if seed is True else seed, workers=True, verbose=False)
        module = proxy_of(recipe["model"]["init_args"], where, _RecipeProxy)
        module.recipe = recipe
        options = dict(recipe["trainer"])
        try:
            if "optimizer" in recipe:
                module.configure_optimizers()  # wrong values are found before data are read
            data = _made(recipe, "data")
            if isinstance(options.get("logger"), dict):
                options["logger"] = _made(options, "logger")
            callbacks = options.get("callbacks") or []
            options["callbacks"] = [_made({"callbacks": each}, "callbacks") for each in callbacks]
            trainer = pl.Trainer(**options)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except Exception as error:  # whatever Lightning raises for a value it refuses
            raise InputError(f"{where}: trainer: {_one_line(error)}") from error
    return Training(module, data, trainer)


def main(args: Sequence[str]) -> None:
    """``fit --config FILE … --SECTION.KEY=VALUE …``: train, without more.

    Files and values are merged in their order, and the result is checked as a whole. What is
    written stays in ``--trainer.default_root_dir``, or the working directory. Raises InputError.
    """
    usage = "python -m nas.train fit --config recipe.yaml [--trainer.max_epochs=3 …]"
    if not args or args[0] in ("-h", "--help"):
        terminal.echo(f"usage: {usage}")
        return
    if args[0] != "fit":
        raise UsageError(f"{args[0]!r} is unknown; use {usage}")
    merged: dict[str, Any] = {}
    out, files, rest = Path(), [], list(args[1:])
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        if not key.startswith("-") or not (equals or rest):
            raise UsageError(f"{key!r} has no value or is no option; use {usage}")
        value = value if equals else rest.pop(0)
        if key in ("-c", "--config"):
            files.append(value)
            _merge(merged, recipes.read(Path(value)))
            continue
        if key == "--trainer.default_root_dir":
            out, value = Path(value), "."
        nested: Any = _value(key, value)
        for part in reversed(key.removeprefix("--").split(".")):
            nested = {part: nested}
        _merge(merged, nested)
    if not files:
        raise UsageError(f"no recipe is given; use {usage}")
    training = build(recipes.checked(merged, files[-1], out), files[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _fit(training)


def _value(key: str, text: str) -> Any:
    try:
        return recipes.parse(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{key}={text}: {str(error).splitlines()[0]}") from None


def _merge(content: dict[str, Any], more: dict[str, Any]) -> None:
    """Put ``more`` into ``content``, section by section; another class replaces a section."""
    for key, value in more.items():
        old = content.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            name = old.get("class_path")
            if value.get("class_path", name) == name:
                _merge(old, value)
                continue
        content[key] = copy.deepcopy(value)


class EpochLines(pl.Callback):
    """One line for each epoch on standard error, with the time that is left of all ``folds``,
    which are trained one after the other, each for ``epochs`` (None: the trainer's)."""

    def __init__(self, folds: int = 1, epochs: int | None = None) -> None:
        self.fold, self.folds, self.epochs = 0, folds, epochs
        self.begin = math.nan

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.fold += 1
        if self.fold == 1:
            self.begin = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch, epochs = trainer.current_epoch + 1, self.epochs or int(trainer.max_epochs or 0)
        done = (self.fold - 1) * epochs + epoch
        left = (time.monotonic() - self.begin) / done * (self.folds * epochs - done)
        fold = f"fold {self.fold}/{self.folds} " if self.folds > 1 else ""
        shown = "  ".join(
            f"{name} {float(value):.4g}"
            for name, value in trainer.callback_metrics.items()
            if "[" not in name
        )
        terminal.line(f"{fold}epoch {epoch}/{epochs}  {shown}  ({left:.0f} s left)", err=True)


class StopAfter(pl.Callback):
    """Ends a training after ``epochs`` of its schedule (None: after all)."""

    def __init__(self, epochs: int | None) -> None:
        self.epochs = epochs

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


class Threads(pl.Callback):
    """The number of compute threads of a training on a CPU: one, unless several are clearly faster.

    Small networks are slower with several, and far slower where other work uses the cores. So it
    is measured again, and said, where an epoch takes ``SLOWER`` times the fastest one.
    """

    def __init__(self, module: Proxy, batch: Batch) -> None:
        self.batch, self.most = batch, torch.get_num_threads()
        self.fastest_s, self._begin = math.inf, math.nan
        torch.set_num_threads(self.pick(module))

    def pick(self, module: Proxy) -> int:
        """The number (1, 2, 4 … up to all): the smallest that no larger one beats clearly."""
        state = copy.deepcopy(module.state_dict())
        chosen, best_s = 1, math.inf
        for threads in sorted({min(2**k, self.most) for k in range(self.most.bit_length() + 1)}):
            torch.set_num_threads(threads)
            step_s = self._step_s(module)
            if threads == 1 or best_s > FASTER * step_s:
                chosen, best_s = threads, step_s
        module.zero_grad(set_to_none=True)
        module.load_state_dict(state)  # the statistics of BatchNorm have moved
        return chosen

    def _step_s(self, module: Proxy) -> float:
        """The median seconds of a step, after one to warm up."""
        laps = []
        for _ in range(6):
            begin = time.perf_counter()
            with torch.random.fork_rng(devices=[]):  # the training's own draws stay the same
                module.training_step(self.batch, 0).backward()  # type: ignore[no-untyped-call]
            laps.append(time.perf_counter() - begin)
        return statistics.median(laps[1:])

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        spent_s = time.monotonic() - self._begin
        self.fastest_s = min(self.fastest_s, spent_s)
        before = torch.get_num_threads()
        if before == 1 or spent_s <= max(SLOWER * self.fastest_s, 1.0):
            return
        assert isinstance(pl_module, Proxy)
        torch.set_num_threads(now := self.pick(pl_module))
        if now != before:
            terminal.line(
                f"an epoch took {spent_s:.1f} s instead of {self.fastest_s:.1f} s: other work uses"
                f" the cores; {now} thread(s) from now on",
                err=True,
            )


def train(path: Path, out: Path, epochs: int | None = None, test: bool = True) -> dict[str, Any]:
    """Train a recipe, then score the best epoch once on the test part (not without ``test``).

    Writes ``model.ckpt``, ``recipe.yaml`` and ``result.json`` into ``out`` and returns the
    result: test and validation metrics, epochs, seconds, parameters. ``epochs`` replaces the
    recipe's, and its schedule is shortened alike. Raises InputError for a recipe or data that are
    wrong. At KeyboardInterrupt the best epoch so far, or the network as it is where none is over,
    is left in ``model.ckpt``; what is raised on says so.
    """
    recipe = recipes.load(path, out)
    if epochs is not None:
        _shorten(recipe, epochs)
    recipe["trainer"]["default_root_dir"] = str(out.resolve())
    training = build(recipe, str(path))
    module, trainer, data = training.module, training.trainer, training.data
    checkpoint = trainer.checkpoint_callback
    if not isinstance(checkpoint, ModelCheckpoint) or checkpoint.monitor is None:
        raise InputError(
            f"{path}: trainer.callbacks: no ModelCheckpoint with a monitor keeps the best epoch;"
            " add nas.training.proxy.LatestBest"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's hints are about options we have chosen
        data.setup()
        out.mkdir(parents=True, exist_ok=True)
        if trainer.strategy.root_device.type == "cpu":
            batch = next(iter(data.train_dataloader()))
            trainer.callbacks += [Threads(module, batch)]  # type: ignore[attr-defined]
        begin = time.monotonic()
        trainer.callbacks += [EpochLines(), GradientMonitor()]  # type: ignore[attr-defined]
        try:
            _fit(training)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_keep(training, out)) from None
        seconds = time.monotonic() - begin
        best, score_of_best = Path(checkpoint.best_model_path), checkpoint.best_model_score
        if score_of_best is None:
            raise InputError(f"{path}: no epoch was trained (trainer.max_epochs is too low)")
        shutil.copyfile(best, out / "model.ckpt")
        assert data.dataset is not None
        temperatures = calibrate(out / "model.ckpt", data.dataset)
        tested = _tested(training, out / "model.ckpt") if test else {}
        interval = score_interval(out / "model.ckpt", data.dataset) if test else {}
    if path.resolve() != (out / "recipe.yaml").resolve():
        shutil.copyfile(path, out / "recipe.yaml")
    result = {
        "test": tested,
        "validation": {str(checkpoint.monitor): float(score_of_best)},
        "proxy_validation": recipe["provenance"]["validation"],
        "epochs": trainer.max_epochs,
        "seconds": round(seconds, 1),
        "params": parameters(module.network),
        "checkpoint": str(out / "model.ckpt"),
        "temperature": temperatures,
        "test_interval": interval,
        "simple_test": _simple(data.dataset, module.task) if test else {},
    }
    write_whole(out / "result.json", json.dumps(result, indent=1))
    return result


def _simple(dataset: Dataset, task: Task) -> dict[str, dict[str, float]]:
    """The simple models' scores on the test part, by their names."""
    return {row["name"]: row["metrics"] for row in tested(dataset, task) if row["metrics"]}


def score_once(path: Path, out: Path) -> dict[str, Any]:
    """Score a trained recipe, ``out``/model.ckpt, on the test part; training and figures are as in
    ``out``/result.json, which is written again with the score and returned.

    Raises InputError where one of the two is not there.
    """
    recipe = recipes.load(path, out)
    result: dict[str, Any] = read_json(out / "result.json", dict[str, Any])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        training = build(recipe, str(path))
        training.data.setup()
        result["test"] = _tested(training, out / "model.ckpt")
        assert training.data.dataset is not None
        result["test_interval"] = score_interval(out / "model.ckpt", training.data.dataset)
    result["checkpoint"] = str(out / "model.ckpt")
    write_whole(out / "result.json", json.dumps(result, indent=1))
    return result


def _tested(training: Training, checkpoint: Path) -> dict[str, float]:
    tested = training.trainer.test(load_proxy(checkpoint), training.data, verbose=False)[0]
    return {name.removeprefix("test_"): value for name, value in tested.items()}


def _shorten(recipe: dict[str, Any], epochs: int) -> None:
    """Train for ``epochs``, with as much of them for the warm-up as the rule says."""
    schedule, old = recipe.get("lr_scheduler"), recipe["trainer"].get("max_epochs")
    recipe["trainer"]["max_epochs"] = epochs
    if schedule is None or "total_steps" not in schedule["init_args"]:
        return
    if not old or old < 1:
        raise InputError(
            "--epochs needs a recipe with trainer.max_epochs, to scale its schedule by"
        )
    steps = schedule["init_args"]["total_steps"] // old * epochs
    schedule["init_args"]["total_steps"] = steps
    if "warmup_steps" in schedule["init_args"]:
        schedule["init_args"]["warmup_steps"] = rules.warmup_steps(steps)


def _fit(training: Training) -> None:
    """Train; InputError where a monitor ends it, KeyboardInterrupt at Ctrl-C."""
    try:
        training.trainer.fit(training.module, training.data)
    except TrainingStopped as stop:
        large = stop.reason in (Reason.NAN, Reason.EXPLODING)
        repair = "lower the learning rate" if large else "export another candidate (--number)"
        raise InputError(f"training ended: {stop}; {repair}") from None
    except MisconfigurationException as error:  # a monitored metric that there is not, and such
        raise InputError(f"trainer: {_one_line(error)}") from error
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on metric"):
            raise
        raise InputError(f"trainer.callbacks: {_one_line(error)}") from error
    except SystemExit:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from None


def _keep(training: Training, out: Path) -> str:
    """Leave the best weights of an interrupted training in ``model.ckpt``; what was done."""
    trainer = training.trainer
    epochs, checkpoint = trainer.current_epoch, trainer.checkpoint_callback
    best = Path(str(getattr(checkpoint, "best_model_path", "")))
    if best.is_file():
        shutil.copyfile(best, out / "model.ckpt")
        kept = "the best of them"
    else:
        trainer.save_checkpoint(out / "model.ckpt", weights_only=True)
        kept = "the network as it was"
    return (
        f"interrupted after {epochs} of {trainer.max_epochs} epochs; {kept} is kept in"
        f" {out / 'model.ckpt'}, not scored on the test part: `nas predict {out} DATA` uses it"
    )


def check(path: Path, seeds: int = 1) -> dict[str, Any]:
    """Train the proxy of a recipe again and compare it with what the search measured.

    Returns the ``objective``, its ``measured``, ``again`` and ``tolerance``, and of how many
    ``folds`` the two are the mean. Raises SelfCheckFailed where they differ by more. On the
    machine of the search, with the same versions, the two are equal.

    With several ``seeds`` the proxy is trained with others too, and the recipe's tolerance becomes
    two standard deviations of what they give.
    """
    recipe = recipes.load(path)
    of = recipe["provenance"]
    found = [_proxy_again(recipe, path, of["proxy"]["seed"] + k) for k in range(seeds)]
    name, folded = of["objective"], found[0][1]
    values = [value for value, _ in found]
    tolerance = float(of["tolerance"])
    if seeds > 1:
        tolerance = max(2 * statistics.stdev(values), 1e-6)
        content = recipes.read(path)
        content["provenance"] |= {"tolerance": tolerance, "repeats": values}
        recipes.write(content, path)
    result = {
        "objective": name,
        "folds": folded,
        "measured": float(of["validation"][name]),
        "again": values[0],
        "tolerance": tolerance,
        **({"repeats": values} if seeds > 1 else {}),
    }
    if not abs(result["again"] - result["measured"]) <= result["tolerance"]:
        mean = f", the mean of {folded} folds," if folded > 1 else ""
        raise SelfCheckFailed(
            f"{path}: {name}{mean} is {result['again']:.5g} now and was {result['measured']:.5g},"
            f" more than {result['tolerance']:.2g} apart; compare the versions in its provenance"
        )
    return result


def _proxy_again(recipe: dict[str, Any], path: Path, seed: int) -> tuple[float, int]:
    """The objective of a recipe's proxy with a seed, and of how many folds it is the mean."""
    of, arguments = recipe["provenance"], recipe["model"]["init_args"]
    quiet_lightning()
    proxy_of(arguments, str(path), Proxy)  # a configuration that does not fit is refused here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)  # as in a worker: sums in another order differ
        data = TaskData(**recipe["data"]["init_args"])
        data.setup()
        assert data.dataset is not None
        task = Task.from_dict(arguments["task"])
        if task.device != "cpu" and not torch.cuda.is_available():
            raise InputError(
                f"{path}: its proxy was trained on a GPU, and none is visible here; check it on a"
                " machine that has one"
            )
        parts, trained = folds(data.dataset, task), of["proxy"].get("trained")
        lines = EpochLines(len(parts), trained)
        try:
            scores = train_folds(
                arguments["family"],
                arguments["config"],
                task,
                parts,
                of["proxy"]["epochs"],
                seed,
                lambda: [lines, GradientMonitor(), StopAfter(trained)],
                of["proxy"].get("accumulate", 1),
            )
        except TrainingStopped as stop:
            raise SelfCheckFailed(f"{path}: the proxy did not finish this time: {stop}") from None
        except SystemExit:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from None
    return float(mean_scores(scores)[of["objective"]]), len(parts)


def _run(args: Sequence[str]) -> int:
    try:
        main(args)
    except InputError as error:
        terminal.line(f"error: {error}", err=True)
        return error.exit_code
    except OSError as error:  # a full disk, a folder that may not be written
        terminal.line(f"error: {error.filename or 'output'}: {error.strerror}", err=True)
        return 1
    except KeyboardInterrupt:
        terminal.echo("interrupted", err=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(_run(sys.argv[1:]))
