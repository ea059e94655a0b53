"""The examples of CONTRIBUTING.md, followed to the letter: a family, a sampler and a rule."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nas.family import load_families
from nas.testing import check_family, check_sampler, example_datasets

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^```python\n# ([\w/.]+)([^\n]*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
ENTRY_POINTS = re.findall(r'entry-points\."(nas\.\w+)"\]\n(\w+ = )"(.*)"', TEXT)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """my_package with its entry points, installed as far as Python can see."""
    for file, _, code in BLOCKS:
        if file.startswith("my_package/"):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(code)
    (tmp_path / "my_package-1.dist-info").mkdir()
    points = "".join(f"[{group}]\n{name}{value}\n" for group, name, value in ENTRY_POINTS)
    (tmp_path / "my_package-1.dist-info" / "entry_points.txt").write_text(points)
    (tmp_path / "my_package-1.dist-info" / "METADATA").write_text("Name: my_package\nVersion: 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with the rule added."""
    for name in ("nas", "search_spaces"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file, place, code in BLOCKS:
        if file.startswith("nas/"):
            text = (tmp_path / file).read_text()
            if "last entry of _ALL" in place:
                assert text.count("\n)\nRULES = ") == 1
                text = text.replace("\n)\nRULES = ", f"\n{code.rstrip()},\n)\nRULES = ")
            else:
                text += f"\n\n{code}"
            (tmp_path / file).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "topic", ["my_package/network", "my_package/families", "my_package/sampler", "nas/"]
)
def test_each_example_has_at_most_forty_lines(topic: str) -> None:
    codes = [code for file, _, code in BLOCKS if file.startswith(topic)]
    assert codes
    assert sum(len(code.splitlines()) for code in codes) <= 40


def test_the_family_is_found_and_keeps_the_contract(package: Path) -> None:
    family = load_families("images")["one_conv"]
    check_family(
        family, list(example_datasets("images").values())[:1], draws=1, extremes=2, export=False
    )


@pytest.mark.usefixtures("package")
def test_the_sampler_is_found_and_keeps_the_contract() -> None:
    check_sampler("climb")


def test_the_rule_is_listed_and_found_in_a_network(project: Path) -> None:
    code = """
from nas.checks import check
from nas.layers import Anatomy, Layer
from nas.rulebook import uses
assert uses()["inputs-keep-most"].checked
for rate in (0.2, 0.3):
    layers = (Layer("x", "input"), Layer("drop", "dropout", rate=rate, reads=(0,)))
    print(rate, [(f.where, f.why) for f in check(Anatomy(layers, params=1))])
"""
    environment = os.environ | {"PYTHONPATH": str(project)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "0.2 []",
        "0.3 [('drop', 'Dropout on the inputs keeps at least four fifths of them.')]",
    ]


def test_the_reader_protocol_is_what_the_text_counts() -> None:
    from nas.data.readers import Reader

    functions = [name for name in vars(Reader) if not name.startswith("_")]
    assert f"the {['', '', '', '', 'four', 'five', 'six'][len(functions)]} functions" in TEXT


def test_every_named_file_exists() -> None:
    named = re.findall(r"`((?:nas|tests|docs|search_spaces|experiments)/[\w/]+\.\w+)`", TEXT)
    plain = [name for name in named if "NAME" not in name and "MODALITY" not in name]
    assert len(plain) > 8
    assert [name for name in plain if not (ROOT / name).exists()] == []
    # What the text says of a file's content.
    for file, word in re.findall(r"`(nas/[\w/]+\.py)`\s\((?:`(\w+)`)", TEXT):
        assert re.search(rf"\b{word}\b", (ROOT / file).read_text()), (file, word)
