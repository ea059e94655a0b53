"""``python -m nas.train fit --config recipe.yaml``: a training without more, in the form of a
LightningCLI."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from nas import recipe as recipes
from nas import terminal
from nas.task import InputError, UsageError
from nas.train.objects import build, on_this_device
from nas.train.one import fit


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
    recipe = recipes.checked(merged, files[-1], out)
    if recipes.size(recipe) > 1:
        raise InputError(f"{files[-1]}: an ensemble is trained by `nas train {files[-1]}`")
    on_this_device(recipe)
    training = build(recipe, files[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(training)


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
