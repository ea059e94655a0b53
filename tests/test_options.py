"""One record of options behind the Python API, the flags, NAS_* variables, YAML and run.json."""

from __future__ import annotations

import doctest
import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from default_run import mostly_slow
from sklearn.datasets import load_iris

import nas
from nas import cli, design, flags
from nas.data import read
from nas.options import PlanOptions, ReadOptions, SearchOptions, option, takes
from nas.run import Run
from nas.task import Budget, Constraint, InputError, UsageError

EARLIER = Path(__file__).parent / "earlier_format"
GIVEN: dict[str, Any] = {
    "target": ("a", "b"),
    "columns": {"photo": "image"},
    "image_size": 32,
    "families": ("mlp", "tabnet"),
    "pretrained": ("A", "B"),
    "constraints": ("params<=1000000",),
    "time_limit": None,
    "trials": 5,
    "deterministic": True,
    "cpus_per_trial": 0.5,
}
FLAGS = (
    "--target a,b --columns photo=image --image-size 32 -f mlp -f tabnet -c params<=1e6"
    " --pretrained A --pretrained B --time-limit none --trials 5 --deterministic"
    " --cpus-per-trial 0.5"
)
VARIABLES = {
    "TARGET": "a,b",
    "COLUMNS": "photo=image",
    "IMAGE_SIZE": "32",
    "FAMILY": "mlp tabnet",
    "PRETRAINED": "A B",
    "CONSTRAINT": "params<=1e6",
    "TIME_LIMIT": "none",
    "TRIALS": "5",
    "DETERMINISTIC": "1",
    "CPUS_PER_TRIAL": "0.5",
}
YAML = """
target: [a, b]
columns: {photo: image}
image-size: 32
family: [mlp, tabnet]
pretrained: [A, B]
constraint: [params<=1e6]
time_limit: none
trials: 5
deterministic: true
cpus_per_trial: 0.5
"""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[SearchOptions]:
    """The options of each search that would have begun."""
    found: list[SearchOptions] = []

    def search(data: Any, *, out: Any, resume: bool, on_start: Any, on_progress: Any, **rest: Any):  # type: ignore[no-untyped-def]
        found.append(SearchOptions(**rest))
        raise InputError("not now")

    monkeypatch.setattr("nas.driver.search", search)
    return found


@pytest.mark.parametrize("way", ["python", "flags", "variables", "yaml"])
def test_all_ways_of_giving_options_end_in_the_same_record(
    way: str, seen: list[SearchOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    if way == "python":
        dictionary = GIVEN | {"constraints": {"params": "<=1e6"}, "target": ["a", "b"]}
        seen.append(SearchOptions(**dictionary))
    elif way == "flags":
        given = FLAGS.split()
    elif way == "variables":
        for name, value in VARIABLES.items():
            monkeypatch.setenv(f"NAS_SEARCH_{name}", value)
        given = ["--seed", "0"]
    else:
        (tmp_path / "options.yaml").write_text(YAML)
        given = ["--config", str(tmp_path / "options.yaml")]
    if given:
        with pytest.raises(SystemExit):
            cli.main(["search", "data.csv", *given])
    assert seen == [SearchOptions(**GIVEN)]


def test_one_value_in_a_file_is_as_good_as_a_list_or_a_text(
    seen: list[SearchOptions], tmp_path: Path
) -> None:
    content = "target: 2020\ncolumns: [photo=image, note=text]\npretrained: A\nfamily: mlp\nout: 1"
    (tmp_path / "options.yaml").write_text(content)
    with pytest.raises(SystemExit):
        cli.main(["search", "data.csv", "--config", str(tmp_path / "options.yaml")])
    (found,) = seen
    assert (found.target, found.pretrained, found.families) == (("2020",), ("A",), ("mlp",))
    assert found.columns == {"photo": "image", "note": "text"}


def test_an_option_that_may_be_repeated_and_is_not_given_is_its_default(
    seen: list[SearchOptions],
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["search", "data.csv"])
    assert seen == [SearchOptions()]


def test_a_flag_goes_before_a_variable_and_that_before_a_file(
    seen: list[SearchOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "options.yaml").write_text("trials: 1\nepochs: 1\nworkers: 1")
    monkeypatch.setenv("NAS_SEARCH_EPOCHS", "2")
    monkeypatch.setenv("NAS_SEARCH_WORKERS", "2")
    config = str(tmp_path / "options.yaml")
    with pytest.raises(SystemExit):
        cli.main(["search", "data.csv", "--config", config, "--workers", "3"])
    (found,) = seen
    assert (found.trials, found.epochs, found.workers) == (1, 2, 3)


@dataclass(frozen=True)
class More(SearchOptions):
    """A search with one more option: one line."""

    patience: int | None = option(None, "Epochs without progress.", at_least=1)


def test_an_option_is_one_line_with_its_help() -> None:
    @takes(More)
    def function(data: Any, **options: Any) -> More:
        """Do it.

        Args:
            {options}
        """
        return More(**options)

    assert function("data", patience=3).patience == 3
    assert "patience (int | None): Epochs without progress." in str(function.__doc__)
    assert inspect.signature(function).parameters["patience"].default is None
    found: list[int] = []
    command = click.command()(
        flags.options(More)(lambda **values: found.append(flags.given(More, values)["patience"]))
    )
    assert CliRunner().invoke(command, ["--patience", "4"]).exit_code == 0
    assert CliRunner().invoke(command, ["--patience", "0"]).exit_code == 2
    assert "Epochs without progress." in CliRunner().invoke(command, ["--help"]).output
    assert found == [4]
    assert "patience" in More(patience=2).kept()
    with pytest.raises(UsageError, match="patience must be at least 1, got 0"):
        More(patience=0)


def every_option(
    group: click.Group, context: click.Context, prefix: str
) -> Iterator[tuple[str, click.Context, click.Option]]:
    """The options of all commands, with the name of their variable and their context."""
    for name, command in group.commands.items():
        below = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from every_option(command, below, f"{prefix}{name}_")
        for param in command.params:
            if isinstance(param, click.Option):
                flag = next(flag for flag in param.opts if flag.startswith("--"))
                yield f"{prefix}{name}_{flag[2:]}".replace("-", "_").upper(), below, param


def test_each_option_of_each_command_is_read_from_the_variable_of_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = click.Context(cli.cli, info_name="nas", **cli.cli.context_settings)
    found = list(every_option(cli.cli, context, "nas_"))
    assert {name for name, _, _ in found} >= {"NAS_SEARCH_JSON", "NAS_PRETRAINED_LIST_MODALITY"}
    for name, _, _ in found:
        monkeypatch.setenv(name, name)
    assert [n for n, below, param in found if param.resolve_envvar_value(below) != n] == []


def test_a_flag_is_given_by_its_variable() -> None:
    listed = CliRunner().invoke(cli.cli, ["families"], env={"NAS_FAMILIES_JSON": "1"})
    assert json.loads(listed.stdout)["families"]


@pytest.mark.parametrize(
    ("function", "record"),
    [(nas.search, SearchOptions), (design.design, PlanOptions), (read, ReadOptions)],
)
def test_functions_name_and_explain_each_option(
    function: Callable[..., Any], record: type[ReadOptions]
) -> None:
    names = set(inspect.signature(function).parameters)
    for about in fields(record):
        assert about.name in names
        assert about.metadata["help"] in str(function.__doc__) or about.name == "target"
    with pytest.raises((UsageError, TypeError), match="unexpected keyword argument 'colour'"):
        function("data.csv", colour=1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"modality": "image"}, "unknown modality 'image'; choose .*did you mean images"),
        ({"problem": "ranking"}, "unknown problem 'ranking'; choose classification, regression"),
        ({"device": "tpu"}, "unknown device 'tpu'; choose auto, cpu, cuda"),
        ({"executor": "slurm"}, "unknown executor 'slurm'; choose local, ray"),
        ({"seed": -1}, r"seed must be in \[0, 2\*\*32\), got -1"),
        ({"seed": 2**32}, r"seed must be in \[0, 2\*\*32\)"),
        ({"seed": "one"}, "seed: input should be a valid integer.*got 'one'"),
        ({"image_size": 7}, "image_size must be at least 8, got 7"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"epochs": 1.5}, "epochs: .*got 1.5"),
        ({"cpus_per_trial": float("nan")}, "cpus_per_trial must be at least 0, got nan"),
        ({"target": ["a", "a"]}, "target names a twice"),
        ({"target": []}, "target names no column"),
        ({"objectives": ["speed"]}, "unknown metric 'speed'"),
        ({"constraints": ["params<1 million"]}, "not of the form METRIC<=NUMBER"),
        ({"time_limit": "soon"}, "'soon' is not a time"),
        ({"columns": "photo"}, "columns: .*got 'photo'"),
        ({"lr_test": "perhaps"}, "lr_test: .*got 'perhaps'"),
    ],
)
def test_a_wrong_value_is_refused_on_construction(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected) as error:
        SearchOptions(**given)
    assert "\n" not in str(error.value)


def test_one_name_is_as_good_as_a_list_of_one() -> None:
    one = SearchOptions(target="y", families="mlp", constraints="params<=10")  # type: ignore[arg-type]
    assert (one.target, one.families, one.constraints) == (("y",), ("mlp",), ("params<=10",))
    assert one.limits == (Constraint("params", "<=", 10.0),)
    assert ReadOptions(target=3).target == ("3",)  # type: ignore[arg-type]


def test_run_json_keeps_what_a_resume_cannot_change_and_gives_it_back() -> None:
    first = SearchOptions(**GIVEN | {"seed": 3, "workers": 2})
    kept = json.loads(json.dumps(first.kept()))
    assert {"trials", "time_limit", "workers", "executor"}.isdisjoint(kept)
    again = SearchOptions.from_dict(kept)
    assert (again.seed, again.target, again.deterministic) == (3, ("a", "b"), True)
    assert again.workers is None


def test_the_run_json_of_version_0_1_0_is_read() -> None:
    options = Run(EARLIER / "run").options
    written = json.loads((EARLIER / "run" / "run.json").read_text())["options"]
    kept = options.kept()  # with options that are newer, at their defaults
    assert {name: kept[name] for name in written} == written


def test_a_wrong_option_in_run_json_is_named_with_its_file(tmp_path: Path) -> None:
    shutil.copytree(EARLIER / "run", tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    record = json.loads(file.read_text())
    record["options"]["device"] = "tpu"
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"run\.json.*unknown device 'tpu'"):
        _ = Run(tmp_path / "run").options


def test_a_resume_keeps_the_search_and_takes_the_new_budget() -> None:
    first = SearchOptions(target="y", seed=3, epochs=4, trials=2)  # type: ignore[arg-type]
    resumed = first.resumed(SearchOptions(trials=9, workers=3))
    assert (resumed.seed, resumed.epochs, resumed.trials, resumed.workers) == (3, 4, 9, 3)
    with pytest.raises(UsageError, match=r"begun with target = \['y'\], not \['z'\]"):
        first.resumed(SearchOptions(target="z", trials=9))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Budget(600.0)),
        ({"trials": 3}, Budget(None, 3)),
        ({"time_limit": "2h", "cpu_hours": 1.5}, Budget(7200.0, cpu_hours=1.5)),
    ],
)
def test_the_budget_of_the_options(given: dict[str, Any], expected: Budget) -> None:
    assert SearchOptions(**given).budget() == expected


@pytest.mark.parametrize(
    "module",
    mostly_slow(
        ["nas.options", "nas.run", "nas.design", "nas.driver"],
        ["nas.options", "nas.run", "nas.design"],
    ),
)
@pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
def test_the_examples_of_the_public_functions_run(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flowers = load_iris(as_frame=True).frame.rename(columns={"target": "species"})
    flowers.to_csv(tmp_path / "flowers.csv", index=False)
    shutil.copytree(EARLIER / "run", tmp_path / "runs" / "flowers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nas.search.ehvi.INITIAL_COSTS", 24)  # instead of 200 that are measured
    failed, tried = doctest.testmod(import_module(module))
    assert tried > 0
    assert failed == 0
    assert os.getcwd() == str(tmp_path)
