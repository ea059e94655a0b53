"""Trainings at full scale on a Ray cluster: ``make ray``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_local import wait_for
from test_resume import recipe as recipe  # a fixture

import nas
import nas.train
from nas import recipe as recipes
from nas.data import read

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),  # Ray leaves sockets and files to the garbage collector
]
EPOCHS = 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two cores, and a GPU that Ray believes in."""
    from nas.search.cluster import Cluster, ray

    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield Cluster(gpus_per_trial=0.0)
    ray.shutdown()


@pytest.fixture
def given(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with more epochs, which all are trained."""
    made: dict[str, Any] = json.loads(json.dumps(recipe))
    trainer = made["trainer"]
    trainer |= {"max_epochs": EPOCHS, "callbacks": trainer["callbacks"][1:]}
    return made


def written(recipe: dict[str, Any], folder: Path) -> Path:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def trained_here(recipe: dict[str, Any], folder: Path, *, resume: bool = False) -> dict[str, Any]:
    torch.set_num_threads(1)  # as there
    path = folder / "recipe.yaml"
    return nas.train.train(path, folder, test=False, resume=resume)


def is_own(process: int) -> bool:
    """Whether a process descends from this one: others may train on this machine too."""
    while process > 1 and process != os.getpid():
        stat = Path(f"/proc/{process}/stat").read_text()
        process = int(stat.rpartition(")")[2].split()[1])
    return process > 1


def process_of(folder: Path) -> tuple[int, dict[str, str]]:
    """The process that trains on the node, and its environment."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            if b"nas.child" in command and b"nas-train-" in command and is_own(int(entry.name)):
                pairs = (entry / "environ").read_bytes().decode().split("\0")
                environment = dict(p.split("=", 1) for p in pairs if "=" in p)
                if environment.get("NAS_DECODED") == os.environ["NAS_DECODED"]:  # of these tests
                    return int(entry.name), environment
    raise AssertionError(f"nothing trains for {folder}")


def test_a_training_whose_worker_is_lost_ends_as_if_it_had_not_been(
    given: dict[str, Any], cluster: Any, tmp_path: Path
) -> None:
    """On the GPU that it asked for, with the driver's folder as the only one that is shared."""
    from nas.remote import Trainings

    source = given["data"]["init_args"]["source"]
    site = Trainings(cluster, read(source, target="y"), "cuda")
    assert site.count == 1
    folder = written(given, tmp_path / "there")
    with (folder / "log").open("wb") as errors, (folder / "log.json").open("wb") as output:
        training = site.start(folder, ("--test", "no", "--json"), output, errors)
        wait_for(lambda: training.poll() is None and (folder / "last.ckpt").exists(), seconds=120.0)
        number, environment = process_of(folder)
        assert environment["CUDA_VISIBLE_DEVICES"] == "0"
        os.kill(int(environment["NAS_PARENT"]), signal.SIGKILL)
        assert training.wait(120.0) == 0
    assert not Path(f"/proc/{number}").exists()
    log = (folder / "log").read_text()
    assert "continues from what is kept" in log
    lines = [line for line in log.splitlines() if line.startswith("epoch")]
    assert EPOCHS <= len(lines) < 2 * EPOCHS
    there = json.loads((folder / "result.json").read_text())
    here = trained_here(given, written(given, tmp_path / "here"))
    assert there["validation"] == pytest.approx(here["validation"], abs=1e-6)
    assert there["best_epoch"] == here["best_epoch"]
    assert there["checkpoint"] == str(folder / "model.ckpt")
    assert json.loads((folder / "log.json").read_text()) == there
    assert (
        yaml.safe_load((folder / "recipe.yaml").read_text())["data"]["init_args"]["source"]
        == source
    )
    assert not (folder / "last.ckpt").exists()


def test_another_training_than_the_one_that_lost_its_worker_is_not_continued(
    given: dict[str, Any], cluster: Any, tmp_path: Path
) -> None:
    """The folder holds the state of an earlier one, which nobody has asked to resume."""
    from nas.remote import Trainings

    site = Trainings(cluster, read(given["data"]["init_args"]["source"], target="y"), "cpu")
    folder = written(given, tmp_path / "there")
    (folder / "last.ckpt").write_bytes(b"of another training")
    with (folder / "log").open("wb") as errors, (folder / "log.json").open("wb") as output:
        training = site.start(folder, ("--test", "no", "--json"), output, errors)

        def lose() -> bool:
            assert training.poll() is None
            with suppress(AssertionError):  # nothing trains yet
                os.kill(int(process_of(folder)[1]["NAS_PARENT"]), signal.SIGKILL)
                return True
            return False

        wait_for(lose, seconds=120.0)
        assert training.wait(240.0) == 0
    log = (folder / "log").read_text()
    assert "begins again" in log
    assert "continues from what is kept" not in log
    assert (folder / "previous.ckpt").read_bytes() == b"of another training"


def test_ctrl_c_keeps_the_last_checkpoint_which_goes_on_here(
    given: dict[str, Any], cluster: Any, tmp_path: Path
) -> None:
    import ray

    given["trainer"]["max_epochs"] = 400  # so many that it is not over when the signal arrives
    address = ray.get_runtime_context().gcs_address
    folder, model = written(given, tmp_path / "given"), tmp_path / "model"
    command = [sys.executable, "-m", "nas", "train", str(folder), "--out", str(model)]
    with subprocess.Popen(
        [*command, "--executor", "ray", "--address", address, "--test", "no", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 3/"):
                break
        process.send_signal(signal.SIGINT)
        *_, last = [line, *process.stderr.read().splitlines()]
    assert process.returncode == 130, last
    assert last.endswith("--resume` continues")
    assert f"is kept in {model / 'model.ckpt'}" in last
    assert (model / "last.ckpt").exists()
    resumed = trained_here(given, model, resume=True)
    whole = trained_here(given, folder)
    assert resumed["validation"] == pytest.approx(whole["validation"], abs=1e-6)
    assert resumed["epochs"] == whole["epochs"]


def test_a_search_ends_with_a_trained_model_and_its_test_score(
    recipe: dict[str, Any], cluster: Any, tmp_path: Path
) -> None:
    run = nas.search(
        recipe["data"]["init_args"]["source"], "y", out=tmp_path / "run", executor="ray",
        families="mlp", trials=1, epochs=1, time_limit=300.0, workers=1, device="cpu",
    )  # fmt: skip
    found = run.finished
    assert found is not None
    assert found.error == ""
    assert found.result["checkpoint"] == str(run.folder / "model" / "model.ckpt")
    assert 0.0 <= found.result["test"][run.task.quality.metric] <= 1.0
    assert (run.folder / "model" / "model.ckpt").exists()
    assert "evaluate candidate 0 (mlp)" in (run.folder / "logs" / "worker-0.log").read_text()
    assert "epoch 1/" in (run.folder / "finalists" / "0" / "log").read_text()


def test_networks_that_were_trained_here_are_averaged_where_the_data_were_sent(
    recipe: dict[str, Any], cluster: Any, tmp_path: Path
) -> None:
    """The file that their recipes name is not there."""
    from nas.remote import Trainings

    source = Path(recipe["data"]["init_args"]["source"])
    away = tmp_path / source.name
    away.write_bytes(source.read_bytes())
    single: dict[str, Any] = json.loads(json.dumps(recipe))
    single["data"]["init_args"]["source"] = str(away)
    site = Trainings(cluster, read(away, target="y"), "cpu")
    folder, networks = tmp_path / "mean", []
    for number in range(2):
        own = single | {"seed_everything": number}
        place = folder / "networks" / str(number)
        place.mkdir(parents=True)
        (place / "recipe.yaml").write_text(yaml.safe_dump(own))
        networks.append(trained_here(own, place)["validation"]["accuracy"])
    found = [recipes.read(folder / "networks" / str(n) / "recipe.yaml") for n in range(2)]
    recipes.write(recipes.combined(found), folder / "recipe.yaml")
    away.unlink()
    with (folder / "log").open("wb") as errors, (folder / "log.json").open("wb") as output:
        given = ("--resume", "--test", "no", "--json")
        code = site.start(folder, given, output, errors).wait(240.0)
    assert code == 0, (folder / "log").read_text()
    result = json.loads((folder / "result.json").read_text())
    assert result["networks"] == networks
    kept = recipes.read(folder / "recipe.yaml")["data"]["init_args"]["source"]
    assert kept == str(away), "as here"


def test_an_ensemble_whose_worker_is_lost_keeps_the_networks_that_are_trained(
    given: dict[str, Any], cluster: Any, tmp_path: Path
) -> None:
    from nas.remote import Trainings

    given["model"]["init_args"]["config"]["ensemble"] = 2
    site = Trainings(cluster, read(given["data"]["init_args"]["source"], target="y"), "cpu")
    folder = written(given, tmp_path / "there")
    second = folder / "networks" / "1" / "last.ckpt"
    with (folder / "log").open("wb") as errors, (folder / "log.json").open("wb") as output:
        training = site.start(folder, ("--test", "no", "--json"), output, errors)
        wait_for(lambda: training.poll() is None and second.exists(), seconds=120.0)
        os.kill(int(process_of(folder)[1]["NAS_PARENT"]), signal.SIGKILL)
        assert training.wait(240.0) == 0
    log = (folder / "log").read_text()
    assert "continues from what is kept" in log
    assert log.count("network 1 of 2") == 1
    assert len(json.loads((folder / "result.json").read_text())["networks"]) == 2


def test_two_devices_are_two_workers_of_ray_train(
    recipe: dict[str, Any], cluster: Any, tmp_path: Path
) -> None:
    from nas.remote import Trainings

    site = Trainings(cluster, Path(recipe["data"]["init_args"]["source"]), "cpu")
    folder = written(recipe, tmp_path / "two")
    with (folder / "log").open("wb") as errors, (folder / "log.json").open("wb") as output:
        given = ("--test", "no", "--json", "--devices", "2")
        assert site.start(folder, given, output, errors, devices=2).wait(240.0) == 0
    log = (folder / "log").read_text().splitlines()
    assert sum(line.startswith("note: trains on") for line in log) == 2
    assert sum(line.startswith("epoch") for line in log) == recipe["trainer"]["max_epochs"]
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["trainer"]["devices"] == 2
