"""scripts/check_gpu.py, as far as a machine without a GPU can run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "check_gpu.py"


def checked(tmp_path: Path, *parts: str) -> tuple[int, list[dict[str, object]], str]:
    found = tmp_path / "check.json"
    command = [sys.executable, str(SCRIPT), "--cpu", "--json", str(found), "--only", *parts]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(found.read_text()), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [
        ("environment", "families", "hub", "syncs"),
        ("assert", "workers"),
        ("search", "devices"),
    ],
)
def test_every_part_that_needs_no_gpu_passes(parts: tuple[str, ...], tmp_path: Path) -> None:
    """Without those that measure time, which other work on the machine stretches."""
    code, figures, printed = checked(tmp_path, *parts)
    assert code == 0, printed
    assert len(figures) > len(parts)


@pytest.mark.slow
def test_the_part_that_measures_latencies_runs_to_its_end(tmp_path: Path) -> None:
    """Whatever they are: other work on the machine stretches them."""
    _, figures, printed = checked(tmp_path, "latency")
    assert len(figures) == 2, printed
    assert all(isinstance(figure["value"], float) for figure in figures), printed


@pytest.mark.slow
def test_a_part_that_breaks_is_a_failure_that_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "check_gpu.py"
    text = SCRIPT.read_text().replace('    yield told("torch", torch.__version__)', "    1 / 0")
    broken.write_text(text)
    done = subprocess.run(
        [sys.executable, str(broken), "--cpu", "--only", "environment"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert "ZeroDivisionError" in done.stdout
    assert "FAIL" in done.stdout
