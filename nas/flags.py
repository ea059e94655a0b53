"""The flags of the options records (``nas.options``), and the same options from a YAML file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import click

from nas.options import ReadOptions, names
from nas.recipe_changes import Settings

Record = type[ReadOptions] | type[Settings]
# What is written to.
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
RUN = click.argument("run", type=click.Path(path_type=Path))
LATENCY = click.option(
    "--latency",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Rank by the figures in this file of `nas latency`.",
)


def _named(param: click.Parameter) -> str:
    """What YAML files and variables call an option: the name that --help gives it, as "json", which
    is as_json only in here."""
    return param.opts[0].lstrip("-").replace("-", "_")


def name_variables(group: click.Group, prefix: str) -> None:
    """Give each option of a group's commands its variable: PREFIX_COMMAND_OPTION."""
    for name, command in group.commands.items():
        below = f"{prefix}_{name}".upper()
        if isinstance(command, click.Group):
            name_variables(command, below)
        for param in command.params:
            if isinstance(param, click.Option):
                param.envvar = f"{below}_{_named(param)}".upper()


def read_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Options from a YAML file: below flags and NAS_* variables, above the defaults."""
    if path is None:
        return
    import yaml

    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path} is not in UTF-8 ({error}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise click.UsageError(f"{path} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(options, dict):
        raise click.UsageError(f"{path} must hold options like `time_limit: 10m`")
    known = {_named(p): p for p in ctx.command.params}
    options = {str(name).replace("-", "_"): value for name, value in options.items()}
    if unknown := sorted(set(options) - set(known)):
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise click.UsageError(
            f"{path}: unknown option {unknown[0]!r};"
            + (f" did you mean {near[0]}?" if near else " see `nas search --help`")
        )
    given = {known[n].name: _from_yaml(path, n, known[n], v) for n, v in options.items()}
    ctx.default_map = {**(ctx.default_map or {}), **given}


def _from_yaml(path: Path, name: str, param: click.Parameter, value: Any) -> Any:
    """A value of a YAML file in the form that click takes."""
    if isinstance(value, (list, dict)) and not (param.multiple or param.name in _SEVERAL):
        raise click.UsageError(f"{path}: {name} takes one value, got {value!r}")
    if isinstance(value, str) and param.multiple:
        return [value]  # one name is as good as a list of one
    return str(value) if isinstance(param.type, click.Path) and value is not None else value


def _names(value: Any) -> tuple[str, ...]:
    """Names, separated by commas; in a YAML file a list or a number too."""
    return names(value.split(",") if isinstance(value, str) else value)


def _types(value: Any) -> dict[str, str]:
    """NAME=TYPE, separated by commas; in a YAML file a mapping or a list too."""
    if isinstance(value, dict):
        return {str(name): str(kind) for name, kind in value.items()}
    value = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    # A name may hold commas, a type never: 'price, EUR=ignore,photo=image'.
    pairs = re.findall(r"(.+?)=([^,=]*)(?:,|$)", value)
    if not pairs or not all(name.strip() and kind.strip() for name, kind in pairs):
        raise click.UsageError(f"--columns {value!r} is not of the form NAME=TYPE,NAME=TYPE")
    return {name.strip(): kind.strip() for name, kind in pairs}


def _limit(value: Any) -> str | None:
    """A time, or "none"."""
    return None if str(value).lower() == "none" else str(value)


class _Sampler(click.ParamType):  # type: ignore[type-arg]
    """The name of a sampler; which there are is looked up when it matters."""

    name = "sampler"

    def get_metavar(self, *_: Any, **__: Any) -> str:
        from nas.search import samplers

        return f"[{'|'.join(samplers.names())}]"

    def convert(self, value: Any, *_: Any) -> str:
        from nas.search import samplers

        samplers.check(value)
        return str(value)


SAMPLER = {"type": _Sampler(), "metavar": None}
# How the texts of these options are read.
_KINDS: dict[str, Any] = {"target": _names, "columns": _types, "time_limit": _limit}
_SEVERAL = ("target", "columns")  # whose one text is several values


def options(record: Record, *only: str, **changed: Any) -> Callable[[Any], Any]:
    """The flags of an options record as one decorator; ``only`` of these fields, if any.
    ``changed`` are other arguments of a field's ``click.option``."""

    def decorate(command: Any) -> Any:
        for about in reversed(fields(record)):
            if not only or about.name in only:
                flags, how = _flag(about)
                command = click.option(*flags, **(how | changed.get(about.name, {})))(command)
        return command

    return decorate


def _flag(about: Field[Any]) -> tuple[list[str], dict[str, Any]]:
    """The flags of an option, and the arguments of its ``click.option``."""
    hint, choices, least = str(about.type), about.metadata["choices"], about.metadata["at_least"]
    names = about.metadata["flag"].split()
    if not any(name.startswith("--") for name in names):
        names = ["--" + about.name.replace("_", "-"), *names]
    how: dict[str, Any] = {"help": about.metadata["help"], "default": about.default}
    how["show_default"] = about.default not in (None, ()) and about.name != "time_limit"
    if hint == "bool":
        return [f"{names[0]}/--no-{names[0][2:]}"], how
    if hint.startswith("tuple") and about.name not in _SEVERAL:
        how["multiple"] = True
    how["metavar"] = "TEXT"
    if hint.startswith("int"):
        how |= {"type": int if least is None else click.IntRange(min=int(least)), "metavar": None}
    elif choices:
        how |= {"type": click.Choice(choices), "metavar": None}
    elif about.name in _KINDS:
        how["type"] = _KINDS[about.name]
    elif hint == "float | None":
        how |= {"type": float, "metavar": None}
    return names, how


def given(record: Record, values: dict[str, Any]) -> dict[str, Any]:
    """What the flags of a record say, by the names of its fields."""
    found = {}
    for about in fields(record):
        flag = _flag(about)[0][0].partition("/")[0].lstrip("-").replace("-", "_")
        if flag in values:
            value = values[flag]
            found[about.name] = about.default if value == () else value
    return found
