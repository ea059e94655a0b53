"""Imports point down, and what a user types first does not wait for torch."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "pytorch_lightning", "optuna", "ray", "pandas", "sklearn", "plotly")


def heavy_modules_after(code: str) -> list[str]:
    """Run ``code`` in a fresh interpreter and list the heavy packages it imported."""
    report = f"import sys; print('\\n', *(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    "module", ["nas", "nas.task", "nas.space", "nas.family", "nas.candidate", "nas.front"]
)
def test_the_foundation_imports_nothing_heavy(module: str) -> None:
    assert heavy_modules_after(f"import {module}") == []


def test_the_check_for_heavy_imports_sees_one() -> None:
    assert heavy_modules_after("import nas, plotly") == ["plotly"]


def test_help_imports_nothing_heavy() -> None:
    call = "try: main()\nexcept SystemExit as end: assert not end.code"
    code = f"import sys; from nas.cli import main; sys.argv = ['nas', '--help']\n{call}"
    assert heavy_modules_after(code) == []


def test_imports_point_down_only() -> None:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_has_a_layer() -> None:
    """But nas.models, whose imports have a contract of their own."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    listed = {".".join(name.split(".")[:2]) for layer in layers for name in layer.split(" | ")}
    modules = {f"nas.{path.stem}" for path in (ROOT / "nas").glob("[a-z]*.py")}
    packages = {f"nas.{path.parent.name}" for path in (ROOT / "nas").glob("*/__init__.py")}
    assert (modules | packages) - listed == {"nas.models"}


@pytest.mark.parametrize("package", ["nas", "search_spaces"])
def test_type_checkers_see_the_annotations(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
