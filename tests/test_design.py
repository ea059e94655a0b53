"""`nas design`, `nas rules` and `nas families FAMILY`: what is shown without a search."""

from __future__ import annotations

import json
import math
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from nas import rulebook, rules, show
from nas.cli import cli, main
from nas.design import Design, Plan, _advice, described, design
from nas.family import load_families
from nas.plan import Pace, rungs
from nas.rulebook import typical_task
from nas.rules.effort import EFFORT
from nas.space import Choice, Float, Int, Space
from nas.task import Budget, Fidelity, InputError, UsageError
from nas.terminal import WIDTH
from nas.testing import example_datasets, small_spaces


def run(*args: str) -> Any:
    return CliRunner().invoke(cli, args, catch_exceptions=False)


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sklearn.datasets import load_iris

    file = tmp_path_factory.mktemp("data") / "flowers.csv"
    frame = load_iris(as_frame=True).frame
    frame.assign(target=np.array(["x", "y", "z"])[frame.target]).to_csv(file, index=False)
    return file


# A design ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(flowers: Path) -> dict[str, Any]:
    result = run(
        "design", str(flowers), "-t", "target", "-c", "params<=3000", "--time-limit", "1h",
        "--workers", "1", "--json",
    )  # fmt: skip
    assert result.exit_code == 0
    answer: dict[str, Any] = json.loads(result.output)
    return answer


def test_a_design_names_data_families_spaces_and_the_search(found: dict[str, Any]) -> None:
    assert any("4 numeric columns" in sentence for sentence in found["profile"])
    assert any(note.startswith("few samples") for note in found["notes"])
    assert [f["name"] for f in found["families"]] == ["mlp", "tabnet", "ft_transformer"]
    for family in found["families"]:
        assert family["good_for"]
        space = Space.from_dict(family["space"])
        assert family["baseline"] == space.baseline()
        assert family["parameters"] == len(space.params)
        assert family["pace"]["epoch_s"] > 0
    assert found["search"]["sampler"] == "ehvi"
    assert found["search"]["folds"] == 5
    assert found["task"]["budget"]["time_limit_s"] == 3600


def test_the_costs_are_those_of_the_network_that_a_search_would_train(
    found: dict[str, Any],
) -> None:
    from nas.task import Task
    from nas.training.cost import parameters
    from nas.training.proxy import build_network

    task = Task.from_dict(found["task"])
    for family in found["families"]:
        network = build_network(family["name"], family["baseline"], task)
        assert family["costs"]["params"] == parameters(network)
        assert (family["costs"]["params"] > 3_000) == bool(family["misses"])


def test_the_figure_is_the_text(flowers: Path) -> None:
    result = run("design", str(flowers), "-t", "target", "-f", "mlp", "--time-limit", "1m")
    text = result.output
    assert max(len(line.rstrip()) for line in text.splitlines()) <= WIDTH
    for part in ("Notes", "Families", "Space", "Search", "mlp", "candidates", "few samples"):
        assert part in text


@pytest.mark.parametrize(
    ("args", "code", "printed"),
    [
        (("design", "nowhere.csv"), 2, "does not exist"),
        (("design", "FLOWERS", "-t", "petal"), 2, "no target column"),
        (("design", "FLOWERS", "-t", "target", "-f", "resnet"), 2, "unknown family"),
        (("design", "FLOWERS", "-t", "target", "--device", "tpu"), 2, "is not one of"),
        (("design", "FLOWERS", "-t", "target", "--time-limit", "soon"), 2, "is not a time"),
        (("rules", "residual"), 2, "residual-from-10"),
        (("families", "resnett"), 2, "did you mean resnet?"),
        (("families", "resnet", "--data", "FLOWERS", "-t", "target"), 2, "is for images"),
    ],
)
def test_mistakes_are_one_line(
    args: tuple[str, ...],
    code: int,
    printed: str,
    flowers: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(flowers) if a == "FLOWERS" else a for a in args])
    assert end.value.code == code
    error = capsys.readouterr().err
    assert printed in error
    assert error.count("\n") == 1


def plan(epoch_s: float) -> Plan:
    family = load_families()["mlp"]
    return Plan(family, small_spaces()["plain"], {}, Pace(1.0, 0.1, 9, epoch_s), ())


def of(task_changes: dict[str, Any], *epochs_s: float) -> Design:
    task = replace(typical_task("tabular"), **task_changes)
    return Design("x", task, (), tuple(map(plan, epochs_s)), "ehvi", 0.0)


def test_the_candidates_are_those_that_the_worker_time_is_for() -> None:
    changes = {"budget": Budget(1_000, workers=2), "fidelity": Fidelity(9)}
    few, many = of(changes, 1.0, 2.0).candidates or (0, 0)
    # Of 9 epochs of 1 or 2 seconds, and half a second beside; a twentieth is for the end.
    assert few == int(0.95 * 2_000 / ((9.5 + 18.5) / 2))
    # Judged after 3 alone (9/9 is fewer than it takes): half of them go on for 6 more.
    assert rungs(9) == (3,)
    assert many == int(0.95 * 2_000 / ((6.5 + 12.5) / 2))
    none = of({"budget": Budget(None, 10), "fidelity": Fidelity(9)}, 1.0)
    assert none.candidates is None


def test_a_proxy_that_is_too_slow_is_named_and_counted_with_its_limit() -> None:
    changes = {"budget": Budget(1_000), "fidelity": Fidelity(10, time_limit_s=60)}
    slow = of(changes, 30.0)
    assert slow.cut == ("mlp",)
    assert (slow.candidates or (0, 0))[0] == int(950 / 60.5)
    *_, printed = show._search_words(slow)
    assert "one of mlp would train for longer than it may, 60 s (a baseline 120 s)" in printed
    assert of(changes, 1.0).cut == ()


def test_the_limit_of_a_candidate_is_shown_and_counted_for_all_folds_together() -> None:
    """Ten epochs of 3 s are done in time on one fold, and are not on five."""
    changes = {"budget": Budget(1_000), "fidelity": Fidelity(10, time_limit_s=60)}
    one = of(changes, 3.0)
    five = of(changes | {"profile": replace(one.task.profile, n_val=100)}, 3.0)
    assert (rules.folds(one.task), rules.folds(five.task)) == (1, 5)
    assert (one.cut, five.cut) == ((), ("mlp",))
    assert (one.candidates or (0, 0))[0] == int(950 / 30.5)
    assert (five.candidates or (0, 0))[0] == int(950 / 60.5)
    *_, printed = show._search_words(five)
    assert "longer than it may, 60 s for all folds (a baseline 120 s)" in printed


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"workers": -2}, {"epochs": 0}])
def test_numbers_below_one_are_refused(wrong: dict[str, int]) -> None:
    ((name, count),) = wrong.items()
    with pytest.raises(UsageError, match=f"{name} must be at least 1, got {count}"):
        design("nowhere.csv", **wrong)


def test_real_numbers_are_left_out_where_settings_are_counted() -> None:
    space = Space((Int("n", 1, 4, default=1), Choice("c", ("x", "y"), default="x"),
                   Float("f", 0, 1, default=0, when={"c": ("x",)})))  # fmt: skip
    of_space = replace(plan(1.0), space=space)
    assert (of_space.configurations, of_space.reals) == (8, 1)
    assert math.isinf(space.size)


@pytest.mark.parametrize("modality", rulebook._PROFILES)
def test_data_of_every_modality_is_described_in_words(modality: Any) -> None:
    for dataset in example_datasets(modality).values():
        task = replace(typical_task(modality), profile=dataset.profile, targets=dataset.targets)
        printed = list(described(task))
        assert len(printed) >= 3
        assert f"{dataset.profile.n_train} samples" in printed[0]


def test_the_pace_predicts_an_epoch() -> None:
    """Of a training long enough to have many steps, by the seconds of the process."""
    import pytorch_lightning as pl
    import torch

    from nas.data import read
    from nas.plan import make_task
    from nas.training.evaluator import Evaluator
    from nas.training.fit import fit_proxy
    from nas.training.monitors import GradientMonitor
    from nas.training.proxy import Proxy

    class Epochs(pl.Callback):
        def __init__(self) -> None:
            self.at: list[float] = []

        def on_train_epoch_start(self, *_: Any) -> None:
            self.at.append(time.process_time())

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(6_000, 12)))
    frame.columns = frame.columns.astype(str)
    frame = frame.assign(y=frame["0"] > 0)
    dataset = read(frame, target="y")
    task = make_task(dataset, budget=Budget(600), device="cpu", epochs=3)
    evaluator = Evaluator(task, dataset)
    config = load_families()["mlp"].baseline(task)
    ratios = []
    for _ in range(3):  # the machine may be busy: one of three will do
        pace = evaluator.pace("mlp", config, 0.2, lambda *_: "")
        assert pace is not None
        torch.manual_seed(0)
        clock = Epochs()
        module = Proxy("mlp", dict(config), task)
        fold = evaluator._folds_of("mlp")[0]
        fit_proxy(module, *fold, 3, 0, [GradientMonitor(stop=False), clock])
        ratios.append(pace["epoch_s"] / (clock.at[2] - clock.at[1]))
        if 1 / 1.5 < ratios[-1] < 1.5:
            return
    raise AssertionError(ratios)


# Rules and families ------------------------------------------------------------------------


def test_rules_are_listed_with_their_source_and_use() -> None:
    listed = json.loads(run("rules", "--json").output)["rules"]
    assert [rule["id"] for rule in listed] == list(rules.RULES)
    text = run("rules").output
    for rule in listed:
        assert rule["id"] in text
        assert rule["parameters"] or rule["decides"] or rule["checked"]
    assert max(len(line.rstrip()) for line in text.splitlines()) <= WIDTH


def test_the_advice_to_start_from_published_weights_names_the_option() -> None:
    (advice,) = _advice(typical_task("images", 500))
    assert "--pretrained" in advice


def test_the_rule_of_proxies_has_the_steps_that_they_are_trained_for() -> None:
    steps = [n for effort in EFFORT.values() for n in (effort.cpu_steps, effort.gpu_steps)]
    stated = re.findall(r"\d[\d,]*", rules.RULES["proxy-steps"].statement)
    assert stated == [f"{min(steps):,}", f"{max(steps):,}"]


def test_one_rule_is_shown_with_every_parameter_that_it_bounds() -> None:
    text = run("rules", "heads").output
    assert rules.RULES["heads"].statement in text
    for family in ("vit", "gat", "cross_attention"):
        assert family in text


@pytest.mark.parametrize("name", load_families())
def test_a_family_is_shown_with_each_bound_and_its_rules(name: str) -> None:
    family = load_families()[name]
    space = family.space(typical_task(family.modality))
    answer = json.loads(run("families", name, "--json").output)
    assert [p["name"] for p in answer["parameters"]] == [p.name for p in space.params]
    assert [tuple(p["why"]) for p in answer["parameters"]] == [p.why for p in space.params]
    text = run("families", name).output
    for rule in {rule for p in space.params for rule in p.why}:
        assert rule in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= WIDTH


def test_the_bounds_are_those_of_the_data_and_the_limits(flowers: Path) -> None:
    def high(*more: str) -> int:
        answer = json.loads(run("families", "mlp", "--json", *more).output)
        return next(int(p["high"]) for p in answer["parameters"] if p["name"] == "width")

    data = ("--data", str(flowers), "-t", "target")
    assert high() > high(*data) > high(*data, "-c", "params<=2000")


def test_conditions_read_as_people_say_them() -> None:
    depth = Int("depth", 1, 6, default=2)
    kind = Choice("kind", ("a", "b"), default="a")
    few = Choice("few", (0, 1), default=0, when={"depth": (1, 2), "kind": ("b",)})
    many = Choice("many", (0, 1), default=0, when={"depth": (5, 6)})
    space = Space((depth, kind, few, many))
    assert rulebook.condition(few, space) == "depth ≤ 2, kind = b"
    assert rulebook.condition(many, space) == "depth ≥ 5"
    assert rulebook.condition(kind, space) == ""


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "target"),
    [("tabular/adult", "income"), ("text/sst2", "label"), ("images/sign_digits", None)],
)
def test_real_data_are_designed_for_in_ten_seconds(name: str, target: str | None) -> None:
    """By the seconds of the process: other work on the machine does not count."""
    folder = os.environ.get("NAS_DATA")
    if not folder:
        pytest.skip("NAS_DATA names no folder of real data")
    begin = time.process_time()
    design(Path(folder) / name, target)
    assert time.process_time() - begin < 10


# -- for other machines ---------------------------------------------------------------------


def another_machine(folder: Path, pace: str) -> Path:
    """The task of ImageNet without its data, and a file of paces."""
    resnet = load_families("images")["resnet"]
    (folder / "task.json").write_text(resnet.references[0].task.to_json())
    (folder / "pace.json").write_text(pace)
    return folder / "pace.json"


def test_a_search_is_planned_from_the_pace_of_another_machine(tmp_path: Path) -> None:
    pace = another_machine(tmp_path, '{"resnet": 520}')
    wanted = {"families": ["resnet"], "device": "cuda", "workers": 64, "time_limit": "24h"}
    found = design(tmp_path, pace=pace, **wanted)
    assert found.plans[0].costs == {"params": 25_557_032.0}  # ResNet-50, as published
    assert found.plan is not None
    assert found.plan.fidelity.epochs == found.plan.fidelity.recipe_epochs
    assert found.plan.fidelity.share == 1.0
    assert found.plan.candidates >= 10


@pytest.mark.parametrize(
    ("device", "workers", "places"), [("cuda", 64, 32), ("cuda", 1, 1), ("cpu", 64, 64)]
)
def test_another_machine_has_a_gpu_for_two_workers_or_a_core_for_each(
    device: str, workers: int, places: int, tmp_path: Path
) -> None:
    pace = another_machine(tmp_path, '{"resnet": 520}')
    found = design(tmp_path, pace=pace, families=["resnet"], device=device, workers=workers)
    budget = found.task.budget
    assert (budget.workers, budget.workers * (budget.gpus or budget.cpus)) == (workers, places)


@pytest.mark.parametrize(
    ("pace", "printed"),
    [
        ('{"vit": 1}', "has no pace of resnet"),
        ('{"resnet": 0}', "is not a file of paces"),
        ('{"resnet": "fast"}', "is not a file of paces"),
        ("[1, 2]", "is not a file of paces"),
        ("{", "is not a file of paces"),
    ],
)
def test_a_file_of_paces_that_is_none_is_one_line(tmp_path: Path, pace: str, printed: str) -> None:
    file = another_machine(tmp_path, pace)
    with pytest.raises(InputError, match=printed) as raised:
        design(tmp_path, pace=file, families=["resnet"], device="cuda", workers=2)
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="does not exist"):
        design(tmp_path, pace=tmp_path / "absent.json", families=["resnet"])
