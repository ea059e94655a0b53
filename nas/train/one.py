"""One network, trained by its recipe in a folder that keeps its state, its best epoch and its
result."""

from __future__ import annotations

import copy
import shlex
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import ModelCheckpoint

from nas import recipe as recipes
from nas import rules, terminal
from nas.candidate import Reason
from nas.files import LAST, PREVIOUS, read_json, write_whole
from nas.options import parse_duration
from nas.recipe_changes import Settings, apply, portable, same
from nas.task import InputError
from nas.train.objects import Training, build, on_this_device, one_line
from nas.train.score import add_test_part, of_network, trained_network, write_result
from nas.training.calibration import calibrate
from nas.training.callbacks import EpochLines, InTime, Threads, kept_threads
from nas.training.cost import parameters
from nas.training.energy import Energy
from nas.training.loggers import make_logger
from nas.training.monitors import GradientMonitor, TrainingStopped
from nas.training.proxy import AveragedWeights, LatestBest
from nas.training.resume import Interrupted, KeepLast, Signals, refuse_others, signals


@kept_threads()
def train_one(
    recipe: dict[str, Any],
    path: Path,
    out: Path,
    test: bool,
    resume: bool,
    settings: Settings,
) -> dict[str, Any]:
    """Train one network; see ``nas.train.train``."""
    begin = time.monotonic()
    apply(recipe, settings)
    if settings.precision is None:
        on_this_device(recipe)
    limit_s = parse_duration(settings.time_limit)
    recipe["trainer"]["default_root_dir"] = str(out.resolve())
    with warnings.catch_warnings(), signals() as heard:
        warnings.simplefilter("ignore")  # Lightning's hints are about options we have chosen
        training = build(_timed(recipe, limit_s) if limit_s else recipe, str(path))
        if settings.logger is not None:
            training.trainer.loggers = [make_logger(settings.logger, out)]
        _keeps_best(training, path, out)
        if resume and (done := trained_before(recipe, out)):
            if not training.trainer.is_global_zero:
                raise SystemExit(0)
            terminal.line(
                f"note: the training in {out} is over, after {done['epochs']} epochs: --resume"
                " leaves it; choose another --out for another training",
                err=True,
            )
            return tested(training, out, done) if test and not done["test"] else done
        last = _begin(training, recipe, out, resume, heard)
        if limit_s:
            in_time = InTime(begin + limit_s, training.trainer.strategy.broadcast)
            training.callbacks.append(in_time)
        try:
            fit(training, last.path if resume and last.path.exists() else None)
            if not training.trainer.is_global_zero:
                raise SystemExit(0)
            result = _finish(training, recipe, out, last.seconds)
        except (KeyboardInterrupt, Interrupted):
            if not training.trainer.is_global_zero:
                raise SystemExit(0) from None
            kept = _keep(training, out)
            if last.path.exists():
                kept += f"; {continued(out)}"
            raise KeyboardInterrupt(kept) from None
        return tested(training, out, result) if test else result


def tested(training: Training, out: Path, result: dict[str, Any]) -> dict[str, Any]:
    """The result of a training that is over, with test scores. KeyboardInterrupt says what there
    is."""
    try:
        return add_test_part(training, out, result)
    except (KeyboardInterrupt, Interrupted):
        raise KeyboardInterrupt(
            f"interrupted; the trained network and the scores so far are kept in {out};"
            f" {continued(out)}"
        ) from None


def _timed(recipe: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """A recipe whose training ends after ``limit_s`` seconds: this one alone, so that the recipe
    that is kept has no such limit."""
    return {**recipe, "trainer": {**recipe["trainer"], "max_time": timedelta(seconds=limit_s)}}


def _keeps_best(training: Training, path: Path, out: Path) -> None:
    """Have the best epoch kept in ``out``/checkpoints, whatever loggers do; InputError where no
    callback keeps it."""
    checkpoint = training.trainer.checkpoint_callback
    if not isinstance(checkpoint, ModelCheckpoint) or checkpoint.monitor is None:
        raise InputError(
            f"{path}: trainer.callbacks: no ModelCheckpoint with a monitor keeps the best epoch;"
            " add nas.training.proxy.LatestBest"
        )
    if checkpoint.dirpath is None:
        checkpoint.dirpath = str(out.resolve() / "checkpoints")
    averages = any(isinstance(each, AveragedWeights) for each in training.callbacks)
    if averages and not isinstance(checkpoint, LatestBest):
        raise InputError(
            f"{path}: trainer.callbacks: averaged weights are kept by"
            " nas.training.proxy.LatestBest alone; use it in the place of ModelCheckpoint"
        )


def _begin(
    training: Training, recipe: dict[str, Any], out: Path, resume: bool, heard: Signals
) -> KeepLast:
    """Read the data, look at what an earlier training left in ``out``, and add the callbacks."""
    trainer, path = training.trainer, out / LAST
    training.data.setup()
    out.mkdir(parents=True, exist_ok=True)
    wanted = same(recipe)
    if trainer.is_global_zero:
        if not (resume and path.exists()):
            (out / "result.json").unlink(missing_ok=True)  # of an earlier training
        if resume and path.exists():
            refuse_others(path, wanted)
        elif path.exists():
            path.replace(out / PREVIOUS)
            terminal.line(
                f"note: begins anew; an unfinished training is kept in {out / PREVIOUS}"
                " (--resume would have continued it)",
                err=True,
            )
        elif resume:
            terminal.line(f"note: nothing to resume in {out}; begins", err=True)
        recipes.write(portable(recipe), out / "recipe.yaml")
    last = KeepLast(path, wanted, heard)
    if trainer.strategy.root_device.type == "cpu":
        batch = next(iter(training.data.train_dataloader()))
        training.callbacks.append(Threads(training.module, batch))
    training.callbacks.extend([EpochLines(), GradientMonitor(), Energy(), last])
    return last


def trained_before(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The result of a training in ``folder`` that is over; {} where there is none. InputError where
    it, or one that is not over, was of another network. One that a limit of time has shortened, or
    that had another precision, as on another machine, is the same."""
    result, model = folder / "result.json", folder / "model.ckpt"
    if (folder / LAST).is_file():
        refuse_others(folder / LAST, same(recipe))
        return {}
    if not (result.is_file() and model.is_file()):
        return {}
    kept, wanted = recipes.load(folder / "recipe.yaml"), copy.deepcopy(recipe)
    kept["trainer"]["default_root_dir"] = str(folder.resolve())
    epochs = [each["trainer"].get("max_epochs") or 0 for each in (kept, wanted)]
    if 0 < epochs[0] < epochs[1]:
        apply(wanted, Settings(epochs=epochs[0]))
    for each in (kept, wanted):
        each["trainer"].pop("precision", None)
    if same(kept) != same(wanted):
        raise InputError(f"{folder} holds a network of another recipe; choose another --out")
    found: dict[str, Any] = read_json(result, dict[str, Any])
    return found


def _finish(
    training: Training, recipe: dict[str, Any], out: Path, seconds: float
) -> dict[str, Any]:
    """Keep the best epoch of a training that is over, and write the result without test scores."""
    module, trainer, checkpoint = training.module, training.trainer, training.checkpoint
    best, score_of_best = Path(checkpoint.best_model_path), checkpoint.best_model_score
    if score_of_best is None:
        raise InputError("no epoch was trained (trainer.max_epochs is too low)")
    write_whole(out / "model.ckpt", best.read_bytes())
    best_epoch = torch.load(best, map_location="cpu", weights_only=True)["epoch"] + 1
    if trainer.current_epoch < (most := trainer.max_epochs or 0):
        shorter = rules.shorter_schedule(most, best_epoch)
        advice = f"; a training with --epochs {shorter} may do better" if shorter else ""
        terminal.line(
            f"ended after {trainer.current_epoch} of {most} epochs; the best one,"
            f" {best_epoch}, is kept{advice}",
            err=True,
        )
    if most < recipe["trainer"].get("max_epochs", most):  # it was shortened to end in time
        apply(recipe, Settings(epochs=trainer.max_epochs))
        recipes.write(portable(recipe), out / "recipe.yaml")
    dataset = training.data.dataset
    assert dataset is not None
    begin = time.monotonic()
    proxy = trained_network(training, out)
    calibrated = calibrate(proxy, out / "model.ckpt", dataset)
    scored_s = round(time.monotonic() - begin, 2)
    result = {
        **of_network(training, proxy, out),
        "validation": {str(checkpoint.monitor): float(score_of_best)},
        "validation_loss": getattr(checkpoint, "loss", None),
        "calibrated_loss": calibrated,
        "proxy_validation": recipe["provenance"]["validation"],
        "epochs": trainer.current_epoch,
        "schedule_epochs": trainer.max_epochs,
        "best_epoch": best_epoch,
        "seconds": round(seconds, 1),
        "scored_s": scored_s,
        "threads": torch.get_num_threads(),
        "energy_wh": next(e.spent_wh for e in training.callbacks if isinstance(e, Energy)),
        "params": parameters(module.network),
        "checkpoint": str(out / "model.ckpt"),
        "temperature": proxy.temperatures,
    }
    write_result(result, out)
    (out / LAST).unlink(missing_ok=True)
    return result


def fit(training: Training, state: Path | None = None) -> None:
    """Train, from a ``state`` on; InputError where a monitor ends it, KeyboardInterrupt at a
    second Ctrl-C. Of several processes that a monitor ends only the first raises it."""
    try:
        with _together(training.trainer):
            training.trainer.fit(
                training.module,
                training.data,
                ckpt_path=state,
                weights_only=True if state else None,  # nothing in the file is executed
            )
    except TrainingStopped as stop:
        if not training.trainer.is_global_zero:
            raise SystemExit(0) from None
        large = stop.reason in (Reason.NAN, Reason.EXPLODING)
        repair = "lower the learning rate" if large else "export another candidate (--number)"
        raise InputError(f"training ended: {stop}; {repair}") from None
    except MisconfigurationException as error:  # a monitored metric that there is not, and such
        raise InputError(f"trainer: {one_line(error)}") from error
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on metric"):
            raise
        raise InputError(f"trainer.callbacks: {one_line(error)}") from error
    except SystemExit:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from None


@contextmanager
def _together(trainer: pl.Trainer) -> Iterator[None]:
    """End the processes that Lightning has started where this one fails: they would wait for it
    for ever, and hold their GPUs."""
    try:
        yield
    except Interrupted:  # they end by themselves
        raise
    except BaseException:
        started: list[Any] = getattr(trainer.strategy.launcher, "procs", [])
        others = started[:]
        started.clear()  # or Lightning's observer of them would end this process too
        for process in others:
            process.kill()
        raise


def _keep(training: Training, out: Path) -> str:
    """Leave the best weights of an interrupted training in ``model.ckpt``; what was done."""
    trainer = training.trainer
    epochs = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    checkpoint = trainer.checkpoint_callback
    best = Path(str(getattr(checkpoint, "best_model_path", "")))
    if best.is_file():
        write_whole(out / "model.ckpt", best.read_bytes())
        kept = "the best of them"
    elif trainer.world_size > 1:  # all would have to save it together, and the others have ended
        return f"interrupted after {epochs} of {trainer.max_epochs} epochs; no model is kept yet"
    else:
        trainer.save_checkpoint(out / "model.ckpt", weights_only=True)
        kept = "the network as it was"
    return (
        f"interrupted after {epochs} of {trainer.max_epochs} epochs; {kept} is kept in"
        f" {out / 'model.ckpt'}, not scored on the test part: `nas predict {out} DATA` uses it"
    )


def continued(out: Path) -> str:
    """The command that continues the training in a folder, in a sentence."""
    again = ["nas", "train", str(out / "recipe.yaml"), "--out", str(out), "--resume"]
    return f"`{shlex.join(again)}` continues"
