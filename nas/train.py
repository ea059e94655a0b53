"""Recipes at full scale: ``python -m nas.train fit --config recipe.yaml``.

The LightningCLI with an allow-list: a recipe may name classes of nas, torch.optim and
pytorch_lightning, and nothing else, so that reading a YAML cannot run foreign code.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonargparse
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from nas import recipe as recipes
from nas import rules
from nas.candidate import Reason
from nas.data import encode
from nas.files import write_whole
from nas.task import InputError, SelfCheckFailed, Task
from nas.training.batches import Batch
from nas.training.cost import parameters
from nas.training.fit import folds, train_folds
from nas.training.metrics import mean_scores, score
from nas.training.monitors import GradientMonitor, TrainingStopped
from nas.training.proxy import Proxy, TaskData, load_proxy, quiet_lightning
from nas.training.proxy import predict as network_predictions

ALLOWED = ["nas", "torch.optim", "pytorch_lightning"]


class RecipeCLI(LightningCLI):
    """LightningCLI over the sections of a recipe."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--provenance", type=dict | None, default=None)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Without ckpt_path and weights_only: a recipe could name a file to unpickle."""
        hidden = {"ckpt_path", "weights_only"}
        return {name: skip | hidden for name, skip in LightningCLI.subcommands().items()}

    @staticmethod
    def configure_optimizers(module: Any, optimizer: Any, lr_scheduler: Any = None) -> Any:
        if lr_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"},
        }


def cli(args: list[str], run: bool) -> RecipeCLI:
    jsonargparse.set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=ALLOWED)
    return RecipeCLI(
        Proxy,
        TaskData,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=None,
        seed_everything_default=0,
        args=args,
        run=run,
    )


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
        print(f"{fold}epoch {epoch}/{epochs}  {shown}  ({left:.0f} s left)", file=sys.stderr)


class StopAfter(pl.Callback):
    """Ends a training after ``epochs`` of its schedule (None: after all)."""

    def __init__(self, epochs: int | None) -> None:
        self.epochs = epochs

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


def pick_threads(module: Proxy, batch: Batch) -> int:
    """The number of compute threads (1, 2, 4 … up to all) whose training step is fastest.

    Small networks are slower with more, and much slower where others use the cores too.
    """
    state = copy.deepcopy(module.state_dict())
    most = torch.get_num_threads()
    times: dict[int, float] = {}
    for threads in sorted({min(2**k, most) for k in range(most.bit_length() + 1)}):
        torch.set_num_threads(threads)
        laps = []
        for _ in range(4):
            begin = time.perf_counter()
            with torch.random.fork_rng(devices=[]):  # the training's own draws stay the same
                module.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
            laps.append(time.perf_counter() - begin)
        times[threads] = min(laps[1:])
    module.zero_grad(set_to_none=True)
    module.load_state_dict(state)  # the statistics of BatchNorm have moved
    return min(times, key=lambda threads: times[threads])


def train(path: Path, out: Path, epochs: int | None = None) -> dict[str, Any]:
    """Train a recipe, then score the best epoch once on the test part.

    Writes ``model.ckpt``, ``recipe.yaml`` and ``result.json`` into ``out`` and returns the
    result: test and validation metrics, epochs, seconds, parameters.
    """
    recipe = recipes.load(path)
    out.mkdir(parents=True, exist_ok=True)
    args = ["--config", str(path), f"--trainer.default_root_dir={out}"]
    if epochs is not None:
        total = int(recipe["lr_scheduler"]["init_args"]["total_steps"])
        steps = total // int(recipe["trainer"]["max_epochs"]) * epochs
        args += [
            f"--trainer.max_epochs={epochs}",
            f"--lr_scheduler.init_args.total_steps={steps}",
            f"--lr_scheduler.init_args.warmup_steps={rules.warmup_steps(steps)}",
        ]
    quiet_lightning()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's hints are about options we have chosen
        app = _parsed(args, path)
        if app.trainer.strategy.root_device.type == "cpu":
            batch = next(iter(app.datamodule.train_dataloader()))
            torch.set_num_threads(pick_threads(app.model, batch))
        begin = time.monotonic()
        app.trainer.callbacks += [EpochLines(), GradientMonitor()]  # type: ignore[attr-defined]
        try:
            app.trainer.fit(app.model, app.datamodule)
        except TrainingStopped as stop:
            large = stop.reason in (Reason.NAN, Reason.EXPLODING)
            mend = "lower the learning rate" if large else "export another candidate (--number)"
            raise InputError(f"training ended: {stop}; {mend}") from None
        seconds = time.monotonic() - begin
        checkpoint = app.trainer.checkpoint_callback
        assert isinstance(checkpoint, ModelCheckpoint)  # every recipe has one
        best, score_of_best = Path(checkpoint.best_model_path), checkpoint.best_model_score
        assert score_of_best is not None  # there was at least one epoch
        shutil.copyfile(best, out / "model.ckpt")
        module = load_proxy(out / "model.ckpt")
        tested = app.trainer.test(module, app.datamodule, verbose=False)[0]
    (out / "recipe.yaml").write_bytes(path.read_bytes())
    result = {
        "test": {name.removeprefix("test_"): value for name, value in tested.items()},
        "validation": {str(checkpoint.monitor): float(score_of_best)},
        "proxy_validation": recipe["provenance"]["validation"],
        "epochs": app.trainer.max_epochs,
        "seconds": round(seconds, 1),
        "params": parameters(module.network),
        "checkpoint": str(out / "model.ckpt"),
    }
    write_whole(out / "result.json", json.dumps(result, indent=1))
    return result


def check(path: Path) -> dict[str, Any]:
    """Train the proxy of a recipe again and compare it with what the search measured.

    Returns the ``objective``, its ``measured``, ``again`` and ``tolerance``, and of how many
    ``folds`` the two are the mean. Raises SelfCheckFailed where they differ by more. On the
    machine of the search, with the same versions, the two are equal.
    """
    recipe = recipes.load(path)
    of, arguments = recipe["provenance"], recipe["model"]["init_args"]
    quiet_lightning()
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
        scores = train_folds(
            arguments["family"],
            arguments["config"],
            task,
            parts,
            of["proxy"]["epochs"],
            of["proxy"]["seed"],
            lambda: [lines, GradientMonitor(), StopAfter(trained)],
            of["proxy"].get("accumulate", 1),
        )
    name = of["objective"]
    result = {
        "objective": name,
        "folds": len(parts),
        "measured": float(of["validation"][name]),
        "again": mean_scores(scores)[name],
        "tolerance": float(of["tolerance"]),
    }
    if not abs(result["again"] - result["measured"]) <= result["tolerance"]:
        mean = f", the mean of {len(parts)} folds," if len(parts) > 1 else ""
        raise SelfCheckFailed(
            f"{path}: {name}{mean} is {result['again']:.5g} now and was {result['measured']:.5g},"
            f" more than {result['tolerance']:.2g} apart; compare the versions in its provenance"
        )
    return result


def predict(
    checkpoint: Path, source: Any, on_note: Callable[[str], object] = lambda note: None
) -> tuple[Any, dict[str, float]]:
    """Predict on new files; returns a data frame with one row for each sample, and the
    scores where ``source`` holds all targets (empty where it does not). ``on_note``
    receives what was inferred from the source."""
    import pandas as pd

    module = load_proxy(checkpoint)
    task = module.task
    encoded = encode(source, task.profile, task.modality, task.targets)
    for note in encoded.notes:
        on_note(note)
    predicted = network_predictions(module, encoded.inputs)
    columns: dict[str, Any] = {"file_name": encoded.names} if encoded.names else {}
    for target in task.targets:
        values = predicted[target.name]
        if target.kind == "regression":
            columns[target.name] = values
        elif target.kind == "multilabel":
            for k, label in enumerate(target.classes):
                columns[label] = (values[:, k] >= 0.5).astype(int)
                columns[f"probability[{label}]"] = values[:, k]
        else:
            columns[target.name] = [target.classes[k] for k in values.argmax(axis=1)]
            several = f"{target.name}=" if len(task.targets) > 1 else ""
            for k, label in enumerate(target.classes):
                columns[f"probability[{several}{label}]"] = values[:, k]
    known = all(t.name in encoded.labels for t in task.targets)
    return pd.DataFrame(columns), score(task, encoded.labels, predicted) if known else {}


def _parsed(args: list[str], path: Path) -> RecipeCLI:
    import contextlib
    import io

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return cli(args, run=False)
    except SystemExit:
        lines = [line for line in said.getvalue().splitlines() if line.strip()]
        reason = next((x for x in lines if "rror" in x), lines[-1] if lines else "unknown")
        raise InputError(f"{path}: {reason.strip()}") from None


if __name__ == "__main__":
    cli(sys.argv[1:], run=True)
