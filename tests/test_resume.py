"""A training that is ended at any moment and goes on ends as if it had not been."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import yaml

import nas.train
from nas import recipe as recipes
from nas import rules
from nas.candidate import Candidate
from nas.data import read
from nas.driver import make_task
from nas.family import load_families
from nas.recipe_changes import Settings
from nas.task import Budget, InputError
from nas.training.callbacks import InTime
from nas.training.lr import WarmupCosine
from nas.training.proxy import Patience
from nas.training.resume import KeepLast, Signals

pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
ROWS, EPOCHS, BATCH = 200, 3, 16


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a network with dropout, so that the generators of random numbers matter."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(ROWS, 3)), columns=["a", "b", "c"])
    frame["y"] = np.where(frame.a * frame.b + 0.3 * rng.normal(size=ROWS) > 0, "yes", "no")
    frame.to_csv(folder / "table.csv", index=False)
    data = read(folder / "table.csv", target="y")
    task = make_task(data, budget=Budget(None, 1), device="cpu", epochs=1)
    config = load_families()["mlp"].baseline(task) | {"dropout": 0.2, "batch_size": BATCH}
    candidate = Candidate(3, "mlp", config, 1, epochs=1, metrics={task.quality.metric: 0.9})
    source = {"source": str(folder / "table.csv"), "target": ["y"]}
    made: dict[str, Any] = json.loads(json.dumps(recipes.make(candidate, task, source, {})))
    made["trainer"]["max_epochs"] = EPOCHS
    return made


def trained(
    recipe: dict[str, Any], folder: Path, settings: Settings | None = None, resume: bool = False
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The result and the weights of a training in ``folder``."""
    path = folder / "given.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe))
    result = nas.train.train(path, folder, test=False, resume=resume, settings=settings)
    content = torch.load(folder / "model.ckpt", weights_only=True)
    return result, content["state_dict"]


def ended_at(step: int, end: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call ``end`` when an optimiser step is over."""

    class Ending(nas.train.one.EpochLines):
        def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
            if trainer.global_step == step:
                end()

    monkeypatch.setattr(nas.train.one, "EpochLines", Ending)


class Killed(BaseException):
    pass


def kill() -> None:
    raise Killed


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupted(
    recipe: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, resume: bool = False
) -> None:
    """Leave in ``folder`` what a training leaves that is interrupted after two steps."""
    with monkeypatch.context() as patch:
        ended_at(2, interrupt, patch)
        with pytest.raises(KeyboardInterrupt):
            trained(recipe, folder, resume=resume)


def assert_same(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    assert one[0]["validation"] == other[0]["validation"]
    assert one[0]["best_epoch"] == other[0]["best_epoch"]
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        torch.testing.assert_close(other[1][name], value, rtol=0, atol=0)


VARIANTS: dict[str, tuple[dict[str, Any], Settings]] = {
    "plain": ({}, Settings()),
    "accumulated": ({"accumulate_grad_batches": 2}, Settings()),
    "averaged": ({}, Settings(ema=0.9)),
    "patient": ({"max_epochs": 12}, Settings(patience=2)),
}


def test_a_training_leaves_the_generators_and_the_threads_of_its_process_as_they_were(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state() -> list[Any]:
        numbers = np.random.get_state(legacy=True)
        seeds = [os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")]
        drawn = [random.getstate(), numbers[1].tolist(), torch.get_rng_state().tolist()]
        return [*drawn, *seeds, torch.get_num_threads()]

    monkeypatch.setattr(nas.train.one.Threads, "pick", lambda *_: 1)
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    before, threads = state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trained(recipe, tmp_path)
        assert state() == [*before[:-1], 2]
        trained(recipe | {"seed_everything": False}, tmp_path / "unseeded")
        assert state()[:3] != before[:3]  # or the next one would give the same network
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    variant: str, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, settings = VARIANTS[variant]
    recipe = recipe | {"trainer": recipe["trainer"] | changes}
    whole = trained(recipe, tmp_path / "whole", settings)
    steps = -(-ROWS * 7 // 10 // BATCH) // changes.get("accumulate_grad_batches", 1)
    with monkeypatch.context() as patch:
        ended_at(steps + 2, interrupt, patch)  # in the second epoch
        with pytest.raises(KeyboardInterrupt, match=r"--resume` continues"):
            trained(recipe, tmp_path / "parts", settings)
    parts = tmp_path / "parts"
    assert (parts / "last.ckpt").exists()
    # As the message says: by the recipe beside the state, which holds the settings.
    result = nas.train.train(parts / "recipe.yaml", parts, test=False, resume=True)
    assert_same(whole, (result, torch.load(parts / "model.ckpt", weights_only=True)["state_dict"]))
    assert not (parts / "last.ckpt").exists()


def test_an_interruption_while_the_test_part_is_scored_loses_no_score(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, results = tmp_path / "given.yaml", []
    path.write_text(yaml.safe_dump(recipe))
    for name in ("examined", "tested"):  # before the test part, and at the simple models
        with monkeypatch.context() as patch:
            patch.setattr(nas.train.score, name, lambda *_: interrupt())
            with pytest.raises(KeyboardInterrupt, match=r"kept in .*; `nas train .*` continues"):
                nas.train.train(path, tmp_path / name)
        results.append(json.loads((tmp_path / name / "result.json").read_text()))
        assert not (tmp_path / name / "last.ckpt").exists()
    assert results[0]["validation"]
    assert not results[0]["test"]
    assert results[1]["test"]
    assert not results[1]["simple_test"]
    resumed = nas.train.train(path, tmp_path / "examined", resume=True)
    assert resumed["test"] == results[1]["test"]
    assert resumed["simple_test"]


@pytest.mark.parametrize("step", [1, 20])
def test_a_training_that_is_killed_goes_on_from_its_last_epoch(
    step: int, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        ended_at(step, kill, patch)
        with pytest.raises(Killed):
            trained(recipe, tmp_path / "parts")
    assert_same(whole, trained(recipe, tmp_path / "parts", resume=True))


def test_a_state_of_another_recipe_is_refused_and_what_differs_is_named(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(recipe, tmp_path, monkeypatch)
    other = json.loads(json.dumps(recipe))
    other["optimizer"]["init_args"]["lr"] = 0.5
    with pytest.raises(InputError, match=r"with another optimizer\.init_args\.lr; train") as raised:
        trained(other, tmp_path, resume=True)
    assert "\n" not in str(raised.value)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("mark",))


@pytest.mark.parametrize("content", [Evil(), {"callbacks": {}}, 1])
def test_a_file_that_is_no_state_is_refused_and_nothing_in_it_runs(
    content: Any, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match="is not the state of a training; remove it"):
        trained(recipe, tmp_path, resume=True)
    (tmp_path / "last.ckpt").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match="is not the state of a training; remove it"):
        trained(recipe, tmp_path, resume=True)
    assert not (tmp_path / "mark").exists()


def test_a_resume_says_that_it_begins_only_where_nothing_is_kept(
    recipe: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    interrupted(recipe, tmp_path, monkeypatch, resume=True)
    assert "nothing to resume" in capsys.readouterr().err
    trained(recipe, tmp_path, resume=True)
    assert "note:" not in capsys.readouterr().err


def test_an_unfinished_training_is_kept_where_another_begins(
    recipe: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    interrupted(recipe, tmp_path, monkeypatch)
    trained(recipe, tmp_path)
    assert (tmp_path / "previous.ckpt").exists()
    assert "begins anew" in capsys.readouterr().err


def test_a_training_ends_with_its_time_and_keeps_its_best_epoch(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe = recipe | {"trainer": recipe["trainer"] | {"max_epochs": 10**5}}
    result, _ = trained(recipe, tmp_path, Settings(time_limit="1s", patience=0))
    assert 1 <= result["best_epoch"] <= result["epochs"] <= result["schedule_epochs"] < 10**5
    assert result["seconds"] < 10
    kept = recipes.load(tmp_path / "recipe.yaml")
    assert kept["trainer"]["max_epochs"] == result["schedule_epochs"], "it can be repeated"
    assert "max_time" not in kept["trainer"]


STEPS, LIMIT_S, EPOCH_S = 5, 40.0, 4.0  # of an epoch; of a training, which 10 epochs fit in


def begun(callback: InTime, done: int = 0) -> Any:
    """A trainer that has begun: 20 epochs of ``STEPS``, of which ``done`` are over."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = WarmupCosine(optimizer, total_steps=20 * STEPS, warmup_steps=STEPS)
    for _ in range(done * STEPS):
        optimizer.step()
        schedule.step()
    trainer: Any = SimpleNamespace(
        max_epochs=20,
        fit_loop=SimpleNamespace(max_epochs=20),
        lr_scheduler_configs=[SimpleNamespace(scheduler=schedule)],
        current_epoch=done,
    )
    callback.on_train_start(trainer, trainer)
    return trainer


def epoch(trainer: Any, callback: InTime) -> float:
    """Train an epoch; the learning rate that it ends with."""
    (each,) = trainer.lr_scheduler_configs
    for _ in range(STEPS):
        each.scheduler.optimizer.step()
        each.scheduler.step()
    callback.on_train_epoch_end(trainer, trainer)
    trainer.current_epoch += 1
    return float(each.scheduler.get_last_lr()[0])


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of the clock."""
    found = [0.0]
    monkeypatch.setattr("nas.training.callbacks.time.monotonic", lambda: found[0])
    return found


def test_processes_that_were_begun_one_after_another_end_together(now: list[float]) -> None:
    plans = [0]

    def first_plan(left: int) -> int:
        plans[0] = left
        return left

    first, second = InTime(LIMIT_S, first_plan), InTime(LIMIT_S + 9.0, lambda _: plans[0])
    trainers = begun(first), begun(second)
    rates = set()
    while trainers[0].current_epoch < trainers[0].fit_loop.max_epochs:
        now[0] += EPOCH_S
        rates = {epoch(trainers[0], first), epoch(trainers[1], second)}
        assert len(rates) == len({each.fit_loop.max_epochs for each in trainers}) == 1
    assert trainers[0].current_epoch == 10
    assert max(rates) == pytest.approx(0.01)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_time_of_a_lost_part_counts_and_its_schedule_stays(
    parts: int, now: list[float]
) -> None:
    callback = InTime(LIMIT_S)
    trainer = begun(callback)
    rates = []
    for number in range(1, 11):
        now[0] += EPOCH_S
        rates.append(epoch(trainer, callback))
        if parts == 2 and number == 6:
            state = callback.state_dict()
            now[0] += 1000.0
            callback = InTime(now[0] + LIMIT_S)
            callback.load_state_dict(state)
            trainer = begun(callback, number)
            assert trainer.fit_loop.max_epochs == 10
    assert trainer.fit_loop.max_epochs == 10
    assert rates[6] < 0.4
    assert rates[-1] == pytest.approx(0.01)


def test_a_training_that_is_over_is_scored_at_most_and_never_replaced(
    recipe: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, weights = trained(recipe, tmp_path)
    monkeypatch.setattr(pl.Trainer, "fit", lambda *_, **__: pytest.fail("it is trained again"))
    again = trained(recipe, tmp_path, resume=True)
    assert_same((first, weights), again)
    assert (
        "is over, after 3 epochs: --resume leaves it; choose another --out"
        in capsys.readouterr().err
    )
    assert again[0] == json.loads((tmp_path / "result.json").read_text())
    scored = nas.train.train(tmp_path / "given.yaml", tmp_path, resume=True)
    assert scored["test"]
    assert scored == json.loads((tmp_path / "result.json").read_text())
    other = json.loads(json.dumps(recipe))
    other["optimizer"]["init_args"]["lr"] = 0.5
    with pytest.raises(InputError, match="a network of another recipe; choose another --out"):
        trained(other, tmp_path, resume=True)


def test_a_model_is_replaced_whole_by_that_of_another_training(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    """Who has opened it, or would find half of it after a kill, has the one of before."""
    trained(recipe, tmp_path)
    before = (tmp_path / "model.ckpt").read_bytes()
    with (tmp_path / "model.ckpt").open("rb") as opened:
        trained(recipe | {"seed_everything": 5}, tmp_path)
        assert opened.read() == before != (tmp_path / "model.ckpt").read_bytes()


def test_a_recipe_without_a_number_of_epochs_has_that_of_the_trainer(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    trainer = {k: v for k, v in recipe["trainer"].items() if k != "max_epochs"}
    result, _ = trained(recipe | {"trainer": trainer}, tmp_path, Settings(patience=3))
    assert 1 <= result["best_epoch"] <= result["epochs"] < result["schedule_epochs"] == 1000


def test_the_test_part_that_is_scored_later_has_the_same_scores_as_at_once(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    trained(recipe, tmp_path / "later")
    path = tmp_path / "later" / "given.yaml"
    later = nas.train.score_once(path, tmp_path / "later")
    at_once = nas.train.train(path, tmp_path / "at_once")
    keys = ("test", "test_interval", "intervals", "simple_test", "validation_loss")
    assert {key: later[key] for key in keys} == {key: at_once[key] for key in keys}
    assert later["simple_test"]


def test_a_training_without_a_better_epoch_ends_and_keeps_the_best(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe | {"trainer": recipe["trainer"] | {"max_epochs": 300}}
    result, _ = trained(recipe, tmp_path, Settings(patience=3))
    metric = next(iter(result["validation"]))
    lines = [line for line in capsys.readouterr().err.splitlines() if f"{metric} " in line]
    values = [float(line.split(f"{metric} ")[1].split()[0]) for line in lines]
    losses = [float(line.split("val_loss ")[1].split()[0]) for line in lines]
    assert len(values) == result["epochs"] < 300
    assert max(values) == pytest.approx(result["validation"][metric], rel=1e-3)
    assert max(values[:-3]) >= max(values[-3:])
    assert min(losses[:-3]) <= min(losses[-3:])


@pytest.mark.parametrize(
    ("quality", "losses", "end"),
    [
        ([0.5, 0.6, 0.6, 0.6, 0.6], [1.0, 0.9, 0.9, 0.9, 0.9], 4),
        ([0.5, 0.5, 0.5, 0.5, 0.5], [1.0, 0.9, 0.8, 0.7, 0.6], None),  # it still learns
        ([0.5, 0.6, 0.7, 0.8, 0.9], [1.0, 1.1, 1.2, 1.3, 1.4], None),  # its decisions get better
    ],
)
@pytest.mark.parametrize("mode", ["max", "min"])
def test_patience_ends_where_neither_quality_nor_loss_is_better(
    quality: list[float], losses: list[float], end: int | None, mode: str
) -> None:
    sign = 1 if mode == "max" else -1
    patience, ended = Patience("score", mode, 2), None
    for epoch, (value, loss) in enumerate(zip(quality, losses, strict=True), 1):
        metrics = {"score": torch.tensor(sign * value), "val_loss": torch.tensor(loss)}
        trainer: Any = SimpleNamespace(
            callback_metrics=metrics, should_stop=False, current_epoch=epoch - 1, max_epochs=9
        )
        patience.on_train_epoch_end(trainer, trainer)
        again = Patience("score", mode, 2)
        again.load_state_dict(patience.state_dict())
        patience = again
        if trainer.should_stop:
            ended = ended or epoch
    assert ended == end


@pytest.mark.parametrize(("epochs", "ends"), [(8, True), (7, False), (-1, True)])
def test_patience_ends_nothing_once_the_learning_rate_comes_down(epochs: int, ends: bool) -> None:
    patience = Patience("score", "max", 2, within=0.5)
    for epoch in range(4):
        metrics = {"score": torch.tensor(-epoch), "val_loss": torch.tensor(1.0 + epoch)}
        trainer: Any = SimpleNamespace(
            callback_metrics=metrics,
            should_stop=False,
            current_epoch=epoch,
            max_epochs=epochs if epoch == 3 else 4,
        )
        patience.on_train_epoch_end(trainer, trainer)
    assert trainer.should_stop == ends


def test_metrics_of_each_epoch_go_to_a_logger_and_its_folders_do_not_hold_the_best(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = Settings(logger="csv")
    with monkeypatch.context() as patch:
        ended_at(12, interrupt, patch)
        with pytest.raises(KeyboardInterrupt):
            trained(recipe, tmp_path, how)
    result, _ = trained(recipe, tmp_path, how, resume=True)
    tables = [pd.read_csv(file) for file in sorted(tmp_path.glob("logs/*/metrics.csv"))]
    assert sum(len(table) for table in tables) == result["epochs"]
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_metrics_go_to_tensorboard(recipe: dict[str, Any], tmp_path: Path) -> None:
    trained(recipe, tmp_path, Settings(logger="tensorboard"))
    assert list(tmp_path.glob("logs/*/events.out.tfevents.*"))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_whose_package_is_missing_is_one_line(
    name: str, recipe: dict[str, Any], tmp_path: Path
) -> None:
    if find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(InputError, match=f"--logger {name} needs its package: pip install {name}"):
        trained(recipe, tmp_path, Settings(logger=name))


# -- killed at random moments, as processes -------------------------------------------------------


def command(path: Path, folder: Path, *more: str) -> list[str]:
    # Where the tests run in the background of a script, their children would ignore Ctrl-C.
    listens = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code = f"{listens} from nas.cli import main; main()"
    begin = [sys.executable, "-c", code, "train", str(path), "--out", str(folder)]
    return [*begin, "--test", "no", "--json", "--patience", "0", *more]


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe | {"trainer": recipe["trainer"] | {"max_epochs": 150}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = subprocess.run(
        command(path, tmp_path / "whole"), capture_output=True, text=True, check=True
    )
    whole = json.loads(done.stdout)
    rng = random.Random(0)
    kinds = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT] * 3 + [signal.SIGKILL]
    parts = tmp_path / "parts"
    for number in kinds:
        with subprocess.Popen(
            command(path, parts, "--resume"),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("epoch"):
                    break
            time.sleep(rng.uniform(0, 0.6))
            process.send_signal(number)
            *_, last = [line, *process.stderr.read().splitlines()]
        if number != signal.SIGKILL:
            assert process.returncode == 130, last
            assert last.endswith("--resume` continues")
    done = subprocess.run(
        command(path, parts, "--resume"), capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["validation"] == pytest.approx(whole["validation"], abs=1e-6)
    assert found["best_epoch"] == whole["best_epoch"]
    one, other = (
        torch.load(f / "model.ckpt", weights_only=True)["state_dict"]
        for f in (tmp_path / "whole", parts)
    )
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-6)


# -- several processes -----------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_learn_as_one_with_the_same_batches_in_half_the_steps(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    """Without dropout, whose draws differ; the last batch of an epoch has as many samples."""
    recipe = json.loads(json.dumps(recipe))
    recipe["model"]["init_args"]["config"] |= {"dropout": 0.0, "norm": "layer"}
    recipe["trainer"]["max_epochs"] = 6
    one, two = tmp_path / "one", tmp_path / "two"
    double = json.loads(json.dumps(recipe))
    samples = recipe["model"]["init_args"]["task"]["profile"]["n_train"]
    double["data"]["init_args"]["batch_size"] = 2 * BATCH
    steps = 6 * -(-samples // (2 * BATCH))
    double["lr_scheduler"]["init_args"] |= _steps(steps)
    double["optimizer"]["init_args"]["lr"] *= 2**0.5
    recipe["lr_scheduler"]["init_args"] |= _steps(6 * -(-samples // BATCH))
    curves = {}
    for folder, content, more in ((one, double, ()), (two, recipe, ("--devices", "2"))):
        folder.mkdir()
        (folder / "given.yaml").write_text(yaml.safe_dump(content))
        begin = [sys.executable, "-m", "nas", "train", "given.yaml", "--out", "."]
        done = subprocess.run(
            [*begin, "--test", "no", "--json", *more],
            capture_output=True, text=True, check=False, cwd=folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stderr.splitlines() if line.startswith("epoch")]
        assert len(lines) == 6, done.stderr  # of the first process alone
        curves[folder] = [float(line.split("loss ")[1].split()[0]) for line in lines]
    assert curves[two] == pytest.approx(curves[one], abs=1e-4)
    trained_as = yaml.safe_load((two / "recipe.yaml").read_text())
    assert trained_as["lr_scheduler"]["init_args"] == _steps(steps)


def two_processes(
    recipe: dict[str, Any], folder: Path, code: str, *more: str
) -> subprocess.CompletedProcess[str]:
    """Train on two devices in ``folder``/out; each process runs ``code`` before, as RANK."""
    (folder / "given.yaml").write_text(yaml.safe_dump(recipe))
    script = folder / "script.py"
    head = "import os, pathlib, signal\nRANK = int(os.environ.get('LOCAL_RANK', 0))\n"
    script.write_text(f"{head}{dedent(code)}\nfrom nas.cli import main\nmain()\n")
    begin = [sys.executable, str(script), "train", "given.yaml", "--out", "out", "--devices", "2"]
    return subprocess.run(
        [*begin, "--test", "no", "--json", *more],
        capture_output=True, text=True, check=False, cwd=folder, timeout=240,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_end_in_time_with_the_same_network(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    """The second is begun by the first, seconds later."""
    recipe = recipe | {"trainer": recipe["trainer"] | {"max_epochs": 10**5}}
    code = """
    from nas.train import one
    class Ending(one.EpochLines):
        def on_train_end(self, trainer, module):
            (each,) = trainer.lr_scheduler_configs
            weights = [float(p.detach().abs().sum()) for p in module.parameters()]
            ended = [trainer.max_epochs, each.scheduler.get_last_lr(), weights]
            pathlib.Path(f"{RANK}.txt").write_text(str(ended))
    one.EpochLines = Ending
    """
    done = two_processes(recipe, tmp_path, code, "--time-limit", "20s", "--patience", "0")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["epochs"] == result["schedule_epochs"] < 10**5
    assert done.stderr.count("the learning rate comes down by then") == 1
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()


@pytest.mark.slow
def test_two_processes_that_are_interrupted_in_their_first_epoch_go_on(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    code = """
    from nas.train import one
    from nas.training import resume
    resume.ASKED_EVERY = 1
    class Ending(one.EpochLines):
        def on_train_batch_end(self, trainer, *rest):
            if RANK == 0 and trainer.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
    one.EpochLines = Ending
    """
    done = two_processes(recipe, tmp_path, code, "--set", "optimizer.lr=1e-3")
    assert done.returncode == 130, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("interrupted after 0 of 3 epochs; no model is kept yet; `nas train ")
    again = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert again["trainer"]["devices"] == 2
    done = two_processes(again, tmp_path, "", "--resume")
    assert done.returncode == 0, done.stderr
    assert "begins" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            """
            from nas.training.proxy import Proxy
            step = Proxy.training_step
            def spoiled(self, *given):
                return step(self, *given) * (float("nan") if self.global_step == 3 else 1.0)
            if RANK == 1:
                Proxy.training_step = spoiled
            """,
            "error: training ended: nan: the loss is nan at step 3; lower the learning rate",
        ),
        (
            """
            from nas.training.resume import KeepLast
            def full(self, trainer):
                raise OSError(28, "No space left on device", "out/last.ckpt.new")
            if RANK == 0:
                KeepLast._save = full
            """,
            "error: out/last.ckpt.new: No space left on device; make room",
        ),
    ],
    ids=["the second", "the first"],
)
def test_two_processes_of_which_one_fails_end_with_one_error(
    code: str, said: str, recipe: dict[str, Any], tmp_path: Path
) -> None:
    done = two_processes(recipe, tmp_path, code)
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert done.stderr.count("error") == 1


@pytest.mark.slow
def test_a_process_does_not_restore_what_the_first_sets_aside(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    """The second finds another file there, as it may before the first has moved one."""
    code = "if RANK: pathlib.Path('out/last.ckpt').write_text('of another training')"
    done = two_processes(recipe, tmp_path, code)
    assert done.returncode == 0, done.stderr


def test_processes_of_which_some_restore_nothing_are_refused(tmp_path: Path) -> None:
    strategy = SimpleNamespace(reduce_boolean_decision=lambda wish, all: True)
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy)
    last = KeepLast(tmp_path / "last.ckpt", {}, Signals())
    last.heard.listen = lambda: None  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"last\.ckpt is not seen by all 2 processes; --out must"):
        last.on_train_start(trainer, trainer)


def _steps(total: int) -> dict[str, int]:
    return {"total_steps": total, "warmup_steps": rules.warmup_steps(total)}


def test_a_training_that_only_time_ends_is_monitored_too(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    endless = json.loads(json.dumps(recipe))
    endless["trainer"]["max_epochs"] = -1
    del endless["lr_scheduler"]
    result, _ = trained(endless, tmp_path, Settings(time_limit="1s", patience=0))
    assert result["epochs"] > 1
