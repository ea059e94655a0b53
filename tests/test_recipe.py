"""What a recipe may hold: exact classes and parameters, and outputs inside its folder.

The recipes here are attacks. Each must be refused in one line, from every command that reads a
recipe, before anything that it names is imported.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas import cli, recipe, recipe_form, rules
from nas.candidate import Candidate
from nas.family import load_families
from nas.options import ReadOptions
from nas.recipe_changes import Settings, apply
from nas.rulebook import typical_task
from nas.task import Budget, InputError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
EVIL = "evil_module_of_a_recipe"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """A recipe as `nas export` writes it, in memory."""
    task = typical_task("tabular")
    config = load_families()["mlp"].baseline(task)
    metrics = {task.quality.metric: 0.9, "params": 9.0}
    candidate = Candidate(3, "mlp", config, 1, epochs=2, metrics=metrics)
    return json.loads(json.dumps(recipe.make(candidate, task, {"source": "here.csv"}, {})))


def written(folder: Path, content: Any) -> Path:
    path = folder / "attack.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def at(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of the recipe with ``value`` at a dotted ``key``."""
    changed = copy.deepcopy(content)
    *outer, last = key.split(".")
    place: Any = changed
    for part in outer:
        place = place[int(part)] if part.isdigit() else place.setdefault(part, {})
    place[int(last) if isinstance(place, list) else last] = value
    return changed


def touch(folder: Path) -> dict[str, Any]:
    """What would leave a mark if it ever ran."""
    return {"class_path": "os.system", "init_args": {"command": f"touch {folder / 'mark'}"}}


def call(name: str) -> Callable[[Path], Any]:
    return lambda folder: {"class_path": name, "init_args": {"init": touch(folder)}}


# What is put where, by what it tries.
ATTACKS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    **{
        f"a class in {key}": (key, touch)
        for key in ("model", "data", "optimizer", "lr_scheduler", "trainer.logger")
    },
    "a class among the callbacks": ("trainer.callbacks", lambda folder: [touch(folder)]),
    "a function of Lightning": ("optimizer", call("pytorch_lightning.cli.instantiate_class")),
    "a function of torch": ("lr_scheduler", call("torch.optim.lr_scheduler.os.system")),
    "a function of nas": ("data", call("nas.files.write_whole")),
    "a function that loads": ("model", call("nas.training.proxy.load_proxy")),
    "a class of an allowed package": ("trainer.callbacks.1", call("pytorch_lightning.Trainer")),
    "a module to import": ("optimizer", call(f"{EVIL}.Thing")),
    "a plug-in of the trainer": ("trainer.plugins", lambda folder: [touch(folder)]),
    "a strategy": ("trainer.strategy", touch),
    "a strategy by name": ("trainer.strategy", lambda _: "ddp_spawn"),
    "a profiler": ("trainer.profiler", lambda _: "advanced"),
    "a registry": ("trainer.model_registry", lambda _: "somewhere"),
    "a callable of a schedule": (
        "lr_scheduler",
        lambda _: {
            "class_path": "torch.optim.lr_scheduler.LambdaLR",
            "init_args": {"lr_lambda": "os.system"},
        },
    ),
    "a callable of a callback": (
        "trainer.callbacks.1",
        lambda folder: {
            "class_path": "pytorch_lightning.callbacks.StochasticWeightAveraging",
            "init_args": {"swa_lrs": 0.1, "avg_fn": touch(folder)},
        },
    ),
    "a class inside a learning rate": ("optimizer.init_args.lr", touch),
    "a class inside the configuration": ("model.init_args.config.width", touch),
    "a class inside the task": ("model.init_args.task.device", touch),
    "a class deep inside the task": ("model.init_args.task.profile.inputs", lambda f: [[touch(f)]]),
    "a class inside the provenance": ("provenance.versions", touch),
    "a class inside the columns": ("data.init_args.columns", lambda f: {"photo": touch(f)}),
    "a class as a source": ("data.init_args.source", touch),
    "further arguments": ("optimizer.dict_kwargs", lambda _: {"lr": 1}),
    "a list for a class": ("optimizer.class_path", lambda _: ["torch.optim.SGD"]),
    "a text for a section": ("model", lambda _: "nas.training.proxy.Proxy"),
    "a file for a section": ("optimizer", lambda folder: str(folder / "more.yaml")),
    "a file for the trainer": ("trainer", lambda folder: str(folder / "more.yaml")),
    "a file for the callbacks": ("trainer.callbacks", lambda folder: str(folder / "more.yaml")),
    "a checkpoint to unpickle": ("ckpt_path", lambda folder: str(folder / "more.ckpt")),
    "a folder elsewhere": ("trainer.callbacks.1.init_args.dirpath", lambda _: "/tmp"),
    "a folder above": ("trainer.callbacks.1.init_args.dirpath", lambda _: "../../x"),
    "a folder behind a link": ("trainer.callbacks.1.init_args.dirpath", lambda _: "link/x"),
    "a root above": ("trainer.default_root_dir", lambda _: ".."),
    "a file above": ("trainer.callbacks.1.init_args.filename", lambda _: "../../x"),
    "a file by attributes": (
        "trainer.callbacks.1.init_args.filename",
        lambda _: "{accuracy.__class__}",
    ),
    "a log above": (
        "trainer.logger",
        lambda _: {
            "class_path": "pytorch_lightning.loggers.CSVLogger",
            "init_args": {"save_dir": "..", "name": "x"},
        },
    ),
    "a log's name above": (
        "trainer.logger",
        lambda _: {
            "class_path": "pytorch_lightning.loggers.CSVLogger",
            "init_args": {"save_dir": ".", "name": "../../x"},
        },
    ),
}


def nas(*args: str) -> tuple[int, str]:
    """Exit code and what stands on standard error, in this process."""
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
        cli.main(list(args))
    return int(str(end.value.code)), said.getvalue()


def commands(path: Path) -> dict[str, list[str]]:
    out = ["--out", str(path.parent / "model")]
    return {
        "train": ["train", str(path), *out],
        "check": ["train", str(path), "--check"],
        "latency": ["latency", "--recipe", str(path)],
    }


@pytest.mark.parametrize("what", ATTACKS)
def test_an_attack_is_refused_in_one_line_before_anything_is_imported(
    what: str, made: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.train.__main__ import main

    (tmp_path / "link").symlink_to("/")
    (tmp_path / f"{EVIL}.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    key, value = ATTACKS[what]
    attack = at(made, key, value(tmp_path))
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(touch(tmp_path)))
    path = written(tmp_path, attack)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "link").symlink_to("/")
    before = set(sys.modules)
    for name, command in commands(path).items():
        code, said = nas(*command)
        assert (code, said.count("\n")) == (1, 1), (name, said)
        assert said.startswith("error: ")
        assert "attack.yaml" in said
    good = written(tmp_path / "model", made)
    given: Any = attack
    for part in key.split(".")[:1]:
        given = {part: given[part]}
    monkeypatch.chdir(tmp_path)
    for files in ([path], [good, written(tmp_path, given)]):
        with pytest.raises(InputError):
            main(["fit", *(f"--config={file}" for file in files)])
    if not any(part.isdigit() for part in key.split(".")):
        with pytest.raises(InputError):
            main(["fit", f"--config={good}", f"--{key}={json.dumps(value(tmp_path))}"])
    assert not (tmp_path / "mark").exists()
    assert EVIL not in sys.modules
    assert not {m for m in set(sys.modules) - before if m.startswith(EVIL)}


TEXTS = {
    "an alias": "a: &a [1]\nmodel: *a\n",
    "aliases of aliases": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n",
    "a merge key": "a: &a {x: 1}\nmodel: {<<: *a}\n",
    "a Python object": "model: !!python/object/apply:os.system ['touch mark']\n",
    "a Python name": "model: !!python/name:os.system\n",
    "a deep nest": "[" * 2_000,
    "a list": "- model\n",
    "nothing": "",
    "another encoding": "\ufeffmodel: ü\n",
    "a date for a section": "model: 2020-01-01\ndata: 1\ntrainer: 2\nprovenance: 3\n",
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_file_that_is_no_plain_recipe_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    path = tmp_path / "attack.yaml"
    path.write_text(TEXTS[what], encoding="utf-16" if what == "another encoding" else "utf-8")
    for command in commands(path).values():
        code, said = nas(*command)
        assert (code, said.count("\n")) == (1, 1), said
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.init_args.family", "not_here", "the family 'not_here' is not installed here"),
        ("model.init_args.config", {"depth": 3}, "'mlp' cannot build this configuration (KeyError"),
        ("model.init_args.config.width", -8, "cannot build this configuration"),
        ("model.init_args.config.norm", "none of these", "cannot build this configuration"),
        ("model.init_args.task.targets", [], "targets is empty"),
        ("model.init_args.task.profile", {}, "model.init_args.task: "),
        ("optimizer.init_args.lr", -1.0, "optimizer"),
        ("optimizer.init_args.lr", "fast", "expected a number, found 'fast'"),
        ("optimizer.init_args.speed", 3, "may not set 'speed' of torch.optim.AdamW"),
        ("lr_scheduler.init_args", {}, "lacks 'total_steps'"),
        ("data.init_args.batch_size", 0, "expected a whole number from 1 on, found 0"),
        ("data.init_args.source", "nowhere.csv", "nowhere.csv"),
        ("trainer.max_epochs", "many", "expected a whole number or null, found 'many'"),
        ("trainer.accelerator", "abacus", "expected auto or cpu or gpu or cuda"),
        ("trainer.callbacks", [], "add nas.training.proxy.LatestBest"),
        ("provenance.objective", "beauty", "provenance.validation"),
        ("provenance.proxy", {"epochs": 2}, "lacks 'seed'"),
        ("seed_everything", "dice", "expected true or false or a whole number"),
    ],
)
def test_a_value_that_does_not_fit_is_named_in_one_line(
    key: str, value: Any, said: str, made: dict[str, Any], tmp_path: Path
) -> None:
    path = written(tmp_path, at(made, key, value))
    for name, command in commands(path).items():
        if name == "train" or key.startswith(("model", "provenance")):
            code, line = nas(*command)
            assert (code, line.count("\n")) == (2 if "source" in key else 1, 1), line
            assert said in line
    assert not (tmp_path / "model").exists()


def test_the_environment_of_a_parser_changes_nothing(
    made: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.train.__main__ import main

    evil = written(tmp_path, at(made, "optimizer", touch(tmp_path)))
    (tmp_path / "good").mkdir()
    good = written(tmp_path / "good", made)
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    monkeypatch.setenv("PL_CONFIG", str(evil))
    monkeypatch.setenv("PL_FIT__CONFIG", str(evil))
    monkeypatch.setenv("PL_FIT__OPTIMIZER", json.dumps(touch(tmp_path)))
    with pytest.raises(InputError, match=r"here\.csv"):  # it comes as far as the data
        main(["fit", f"--config={good}"])
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "args",
    [
        ["fit"],
        ["test", "--config=x"],
        ["fit", "--config"],
        ["fit", "extra"],
        ["fit", "--optimizer.help=os.system", "--config"],
        ["fit", "--config={path}", "--print_config=yes"],
        ["fit", "--config={path}", "--optimizer=torch.optim.AdamW"],
        ["fit", "--config={path}", "--trainer.max_epochs=[1"],
        ["fit", "--config={path}", "--trainer.callbacks+=os.system"],
    ],
)
def test_an_argument_that_is_no_value_of_a_recipe_is_refused(
    args: list[str], made: dict[str, Any], tmp_path: Path
) -> None:
    from nas.train.__main__ import main

    path = written(tmp_path, made)
    with pytest.raises(InputError):
        main([arg.format(path=path) for arg in args])


def test_a_recipe_is_what_lightnings_own_command_reads(
    made: dict[str, Any], tmp_path: Path
) -> None:
    from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

    from nas.training.proxy import Proxy, TaskData

    class Own(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_argument("--provenance", type=dict | None, default=None)

    path = str(written(tmp_path, made))
    app = Own(
        Proxy, TaskData, subclass_mode_model=True, subclass_mode_data=True,
        save_config_callback=None, args=["--config", path], run=False,
    )  # fmt: skip
    from nas.train import build

    ours = build(recipe.load(path), path)
    assert app.trainer.max_epochs == ours.trainer.max_epochs
    for name, value in app.model.state_dict().items():
        assert value.equal(ours.module.state_dict()[name]), name


# -- the list, walked ------------------------------------------------------------------------------


def classes() -> dict[str, Any]:
    from nas.train.objects import CONSTRUCTORS

    return {**CONSTRUCTORS, "pytorch_lightning.Trainer": __import__("pytorch_lightning").Trainer}


LISTED = {name: kinds for section in recipe.CLASSES.values() for name, kinds in section.items()}
LISTED["pytorch_lightning.Trainer"] = recipe.TRAINER


def test_the_list_and_the_table_of_classes_name_the_same() -> None:
    from nas.train.objects import CONSTRUCTORS

    assert sorted(CONSTRUCTORS) == sorted(n for section in recipe.CLASSES.values() for n in section)


@pytest.mark.parametrize("name", LISTED)
def test_all_that_is_listed_is_a_class_whose_parameters_take_plain_values(name: str) -> None:
    found = classes()[name]
    assert inspect.isclass(found), "jsonargparse calls functions; here only classes are listed"
    assert name.rpartition(".")[2] == found.__name__
    assert found.__module__.startswith(name.rpartition(".")[0])
    known = dict(inspect.signature(found.__init__).parameters)
    if name.endswith("TaskData"):
        known |= inspect.signature(ReadOptions.__init__).parameters
    for parameter, kind in LISTED[name].items():
        assert parameter in known, parameter
        annotation = str(known[parameter].annotation)
        options = kind.removeprefix("!").split("|")
        plain = set(options) <= set(recipe_form._KINDS) | {o for o in options if o.startswith("=")}
        if not plain:
            assert set(options) & {"object", "objects"}, "and those are looked up in the list"
        if "Callable" in annotation or "Plugin" in annotation or "plugins" in annotation:
            assert kind == "none", f"{parameter} takes code: {annotation}"
    needed = {
        p.name
        for p in known.values()
        if p.name != "self"
        and p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    } - {"self", "params", "optimizer"}
    marked = {p for p, kind in LISTED[name].items() if kind.startswith("!")}
    assert needed <= marked


def trainable(folder: Path, **columns: list[Any]) -> tuple[dict[str, Any], Path]:
    """A recipe whose data are there, a table of 60 rows with further columns, and the table."""
    import pandas as pd

    from nas.data import read
    from nas.driver import make_task

    table = folder / "table.csv"
    rows = {"a": [float(i) for i in range(60)], "b": [i % 7 for i in range(60)]}
    labels = ["no" if i < 30 else "yes" for i in range(60)]
    pd.DataFrame(rows | columns | {"y": labels}).to_csv(table, index=False)
    task = make_task(read(table, target="y"), budget=Budget(None, 1), device="cpu", epochs=1)
    config = load_families()["mlp"].baseline(task)
    candidate = Candidate(3, "mlp", config, 1, epochs=1, metrics={task.quality.metric: 0.9})
    source = {"source": str(table), "target": ["y"]}
    good = json.loads(json.dumps(recipe.make(candidate, task, source, {})))
    good["trainer"] |= {"max_epochs": 1, "accelerator": "cpu"}
    return good, table


@pytest.mark.parametrize("command", ["train", "check"])
def test_data_without_a_fingerprint_must_have_the_codes_that_the_network_reads(
    command: str, tmp_path: Path
) -> None:
    """A category that comes first in the alphabet would shift the codes of all others."""
    import pandas as pd

    from nas.train import build

    good, table = trainable(tmp_path, colour=["red", "blue"] * 30)
    good["data"]["init_args"] |= {"fingerprint": None, "split_hash": None}
    path = written(tmp_path, good)
    frame = pd.read_csv(table)
    pd.concat([frame, frame[:20]]).to_csv(table, index=False)
    build(recipe.load(path), str(path)).data.setup()  # more rows with the same codes
    frame.replace("red", "amber").to_csv(table, index=False)
    code, said = nas(*commands(path)[command])
    assert (code, said.count("\n")) == (1, 1)
    assert "coded in another way" in said
    assert "(columns); put the old data back, or search on the new ones" in said


@pytest.mark.parametrize("command", ["train", "check"])
def test_a_recipe_whose_data_lie_elsewhere_says_how_they_are_named(
    command: str, tmp_path: Path
) -> None:
    good, table = trainable(tmp_path)
    path = written(tmp_path, good)
    table.rename(tmp_path / "moved.csv")
    code, said = nas(*commands(path)[command])
    assert (code, said.count("\n")) == (2, 1)
    assert f"{table} does not exist" in said
    assert "`nas train --set data.source=PATH`" in said


def test_a_network_is_scaled_on_data_that_lie_elsewhere(tmp_path: Path) -> None:
    from nas.cli_models import _changed

    good, table = trainable(tmp_path)
    moved = table.rename(tmp_path / "moved.csv")
    settings = (f"data.source={moved}",)
    scaled = _changed(written(tmp_path, good), settings, 2.0, tmp_path / "model")
    assert scaled["data"]["init_args"]["source"] == str(moved)


@pytest.mark.slow  # two processes that import Lightning
def test_a_training_as_a_module_runs_in_two_processes(tmp_path: Path) -> None:
    """Lightning starts the second one by the name of the module that the first one runs."""
    import torch

    good, _ = trainable(tmp_path)
    good["data"]["init_args"]["batch_size"] = 8
    samples = good["model"]["init_args"]["task"]["profile"]["n_train"]
    begin = [sys.executable, "-m", "nas.train", "fit", f"--config={written(tmp_path, good)}"]
    done = subprocess.run(
        [*begin, "--trainer.devices=2", f"--trainer.default_root_dir={tmp_path / 'model'}"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (best,) = (tmp_path / "model").rglob("best.ckpt")
    steps = torch.load(best, weights_only=True)["global_step"]
    assert steps == rules.steps_per_epoch(samples, 8, devices=2) < rules.steps_per_epoch(samples, 8)


WALK = """
import json, os, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
folder, content = Path(sys.argv[1]), json.loads(sys.stdin.read())
sys.path.insert(0, str(folder / "code"))
import torch, nas.train.one, nas.recipe as recipes
from nas.task import Budget, InputError, UsageError
from nas.testing import example_datasets
out = folder / "out"
os.chdir(folder / "out")
seen = []
BAD = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect",
       "pickle.find_class", "ctypes.dlopen", "webbrowser.open", "shutil.rmtree", "os.remove")
CHANGES = ("os.mkdir", "os.rename", "os.symlink", "os.link", "os.chmod", "os.truncate", "os.rmdir")
def hook(event, args):
    if event in BAD or event == "import" and str(args[0]).startswith("evil"):
        own = args and Path(str(args[0])).resolve().is_relative_to(out)
        if not (event in ("os.remove", "shutil.rmtree") and own):
            seen.append((event, str(args)[:200]))
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if writes or event in CHANGES:
        path = Path(os.fsdecode(args[0]) if isinstance(args[0], (str, bytes)) else str(args[0]))
        if not path.resolve().is_relative_to(out) and str(path) != os.devnull:
            seen.append((event, str(path)))
def run(recipe):
    try:
        built = nas.train.build(recipes.checked(recipe, "r.yaml", out), "r.yaml")
        nas.train.one.fit(built)
        return "ran"
    except InputError as error:
        assert len(str(error).splitlines()) == 1, error
        return "refused"
    except OSError as error:  # a file where a folder would be
        return "refused"
assert run(content["good"]) == "ran"
sys.addaudithook(hook)
ends = [run(each) for each in content["attacks"]]
print(json.dumps({"seen": seen, "ends": ends}))
"""


def test_no_text_in_any_parameter_executes_imports_unpickles_or_writes_outside(
    tmp_path: Path,
) -> None:
    """Every parameter of every listed class that takes a text is given hostile ones, and what
    still is a recipe is trained; an audit hook of Python (PEP 578) sees what happens."""
    import torch

    for name in ("out", "code"):
        (tmp_path / name).mkdir()
    (tmp_path / "code" / "evil.py").write_text("raise SystemExit('imported')")
    torch.save({"hyper_parameters": 1}, tmp_path / "out" / "evil.ckpt")
    good, _ = trainable(tmp_path / "out")
    config = good["model"]["init_args"]["config"]
    hostile = (
        "evil",
        f"{{class_path: os.system, init_args: {{command: touch {tmp_path / 'mark'}}}}}",
        str(tmp_path / "mark"),
        str(tmp_path / "out" / "evil.ckpt"),
    )
    spare = {
        "trainer.logger": ("pytorch_lightning.loggers.CSVLogger", {"save_dir": "."}),
        "optimizer": ("torch.optim.SGD", {"lr": 0.1}),
        "lr_scheduler": ("torch.optim.lr_scheduler.OneCycleLR", {"max_lr": 0.1, "total_steps": 9}),
    }
    bases = [good]
    for key, (name, arguments) in spare.items():
        bases.append(at(good, key, {"class_path": name, "init_args": arguments}))
    for name, extra in (
        ("pytorch_lightning.callbacks.ModelCheckpoint", {}),
        ("pytorch_lightning.callbacks.EarlyStopping", {"monitor": "accuracy"}),
        ("pytorch_lightning.callbacks.StochasticWeightAveraging", {"swa_lrs": 0.1}),
    ):
        both = [*good["trainer"]["callbacks"], {"class_path": name, "init_args": extra}]
        bases.append(at(good, "trainer.callbacks", both))
    places = {}
    for i, base in enumerate(bases):
        for key, named in _objects(base):
            for parameter, kind in LISTED[named].items():
                if set(kind.removeprefix("!").split("|")) & {"str", "path", "name"}:
                    places[named, parameter] = (i, f"{key}.init_args.{parameter}")
                if kind.removeprefix("!").split("|")[0] in ("strs",):
                    places[named, parameter] = (i, f"{key}.init_args.{parameter}.0")
                if "texts" in kind:
                    places[named, parameter] = (i, f"{key}.init_args.{parameter}.a")
    for parameter, kind in recipe.TRAINER.items():
        if set(kind.split("|")) & {"str", "path"}:
            places["Trainer", parameter] = (0, f"trainer.{parameter}")
    for name in config:
        places["config", name] = (0, f"model.init_args.config.{name}")
    attacks = []
    for i, key in places.values():
        for text in hostile:
            base = bases[i]
            if key.endswith("target.0"):
                place, value = key.removesuffix(".0"), [text]
            elif key.endswith("columns.a"):
                place, value = key.removesuffix(".a"), {"a": text}
            else:
                place, value = key, text
            attacks.append(at(base, place, value))
    assert len(places) > 25
    done = subprocess.run(
        [sys.executable, "-c", WALK, str(tmp_path)],
        input=json.dumps({"good": good, "attacks": attacks}),
        capture_output=True, text=True, check=False,
        env=os.environ | {"TMPDIR": str(tmp_path / "out")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert {tuple(each) for each in report["seen"]} == set()
    assert not (tmp_path / "mark").exists()
    assert {"ran", "refused"} == set(report["ends"])


def _objects(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Where a recipe names classes, and which."""
    keys = ["model", "data", "optimizer", "lr_scheduler"]
    keys += [f"trainer.callbacks.{i}" for i in range(len(content["trainer"]["callbacks"]))]
    keys += ["trainer.logger"] if content["trainer"]["logger"] else []
    found = []
    for key in keys:
        place: Any = content
        for part in key.split("."):
            place = place[int(part)] if part.isdigit() else place[part]
        found.append((key, place["class_path"]))
    return found


# -- Ctrl-C ----------------------------------------------------------------------------------------


INTERRUPTED = (
    r"interrupted after {} of \d+ epochs; .* uses it(; `nas train .* --resume` continues)?"
)


def test_ctrl_c_ends_with_a_line_code_130_and_weights_that_predict(tmp_path: Path) -> None:
    from nas.model import load

    good, table = trainable(tmp_path)
    good["trainer"]["max_epochs"] = 10**6
    path, out = written(tmp_path, good), tmp_path / "model"
    # Where the tests run in the background of a script, their children would ignore Ctrl-C.
    listens = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code = f"{listens} from nas.cli import main; main()"
    command = [sys.executable, "-c", code, "train", str(path)]
    with subprocess.Popen(
        [*command, "--out", str(out)], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("epoch 1/")
        process.send_signal(signal.SIGINT)
        *_, last = process.stderr.read().splitlines()
    assert process.returncode == 130, last
    assert re.fullmatch(INTERRUPTED.format(r"[1-9]\d*"), last), last
    assert last.endswith("continues")
    assert len(load(out / "model.ckpt").predict(table)) == 60


def test_ctrl_c_in_the_first_epoch_keeps_the_network_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nas.train.one

    class Impatient(nas.train.one.EpochLines):
        def on_train_batch_end(self, *_: Any) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(nas.train.one, "EpochLines", Impatient)
    good, table = trainable(tmp_path)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt, match=INTERRUPTED.format(0)):
            nas.train.train(written(tmp_path, good), tmp_path / "model")
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from the first on
    assert len(nas.load(tmp_path / "model" / "model.ckpt").predict(table)) == 60


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("config.dropout=0.3", "model.init_args.config.dropout", 0.3),
        ("lr_scheduler.warmup_steps=3", "lr_scheduler.init_args.warmup_steps", 3),
        ("data.source=there.csv", "data.init_args.source", "there.csv"),
        ("trainer.sync_batchnorm=true", "trainer.sync_batchnorm", True),
    ],
)
def test_a_setting_changes_one_value(
    made: dict[str, Any], setting: str, key: str, value: Any
) -> None:
    before = copy.deepcopy(made)
    changed = recipe.overridden(made, [setting])
    assert made == before
    assert changed == at(made, key, value)


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
@pytest.mark.parametrize("section", ["optimizer", "optimizer.init_args", "config"])
def test_what_stands_in_a_recipe_twice_is_set_in_both_places(
    section: str, name: str, made: dict[str, Any]
) -> None:
    changed = recipe.overridden(made, [f"{section}.{name}=3e-5"])
    both = at(made, f"optimizer.init_args.{name}", 3e-5)
    assert changed == at(both, f"model.init_args.config.{name}", 3e-5)


def test_the_schedule_follows_the_epochs_and_the_batches(made: dict[str, Any]) -> None:
    samples = made["model"]["init_args"]["task"]["profile"]["n_train"]
    changed = recipe.overridden(made, ["trainer.max_epochs=7", "data.batch_size=8"])
    assert changed["trainer"]["max_epochs"] == 7
    assert changed["data"]["init_args"]["batch_size"] == 8
    steps = 7 * rules.steps_per_epoch(samples, 8)
    schedule = {"total_steps": steps, "warmup_steps": rules.warmup_steps(steps)}
    assert changed["lr_scheduler"]["init_args"] == schedule
    patience = changed["trainer"]["callbacks"][0]["init_args"]["patience"]
    by_option = copy.deepcopy(made)
    apply(by_option, Settings(epochs=7))
    assert patience == by_option["trainer"]["callbacks"][0]["init_args"]["patience"]


@pytest.mark.parametrize(
    ("name", "other"), [("batch_size", "data.batch_size"), ("clip", "trainer.gradient_clip_val")]
)
def test_what_a_training_reads_elsewhere_is_not_set_in_the_network(
    name: str, other: str, made: dict[str, Any]
) -> None:
    known = at(made, f"model.init_args.config.{name}", 1)
    with pytest.raises(UsageError, match=f"a training reads {other}"):
        recipe.overridden(known, [f"config.{name}=4"])


@pytest.mark.parametrize(
    "setting", ["optimizer.rl=1", "lr=1", "optimizer", "=3", "config.a.b=1", "trainer.plugins=x"]
)
def test_a_setting_of_no_value_is_one_line(made: dict[str, Any], setting: str) -> None:
    with pytest.raises(UsageError) as raised:
        recipe.overridden(made, [setting])
    assert "\n" not in str(raised.value)


def test_a_network_for_more_data_has_the_patience_and_the_schedule_of_its_epochs(
    tmp_path: Path,
) -> None:
    from nas.export.scaling import scaled_recipe

    good, _ = trainable(tmp_path)
    patience = good["trainer"]["callbacks"][0]["init_args"]
    good["trainer"]["max_epochs"], patience["patience"] = 400, rules.patience(400)
    scaled = scaled_recipe(good, 2.0)
    epochs = scaled["trainer"]["max_epochs"]
    assert epochs < 400
    kept = scaled["trainer"]["callbacks"][0]["init_args"]
    assert kept == patience | {"patience": rules.patience(epochs)}
    samples = scaled["model"]["init_args"]["task"]["profile"]["n_train"]
    steps = epochs * rules.steps_per_epoch(samples, scaled["data"]["init_args"]["batch_size"])
    schedule = {"total_steps": steps, "warmup_steps": rules.warmup_steps(steps)}
    assert scaled["lr_scheduler"]["init_args"] == schedule
