"""A search on a Ray cluster of two nodes, with the dashboard open all along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nas.candidate import State
from nas.search.study import load_candidates

pytestmark = [
    pytest.mark.browser,
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),  # Ray leaves sockets and files to the garbage collector
]
TOKEN = "a-token-of-a-test-1234"


@pytest.fixture
def address() -> Iterator[str]:
    """A cluster of two nodes on this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    yield str(nodes.address)
    nodes.shutdown()


def search(folder: Path, address: str, trials: int, *more: str) -> subprocess.Popen[bytes]:
    words = ["-m", "nas", "search", *more, "--out", str(folder), "--executor", "ray"]
    words += ["--address", address, "--trials", str(trials), "--cpus-per-trial", "1"]
    log = (folder.parent / f"search-{trials}.log").open("wb")
    return subprocess.Popen([sys.executable, *words], stdout=log, stderr=log)


def wait_until(page: Any, expression: str, seconds: float) -> float:
    """How long it took. Playwright's own wait compiles code, which the page's policy forbids."""
    begin = time.monotonic()
    while not page.evaluate(expression):
        assert time.monotonic() < begin + seconds, expression
        page.wait_for_timeout(50)
    return time.monotonic() - begin


def ended(folder: Path) -> int:
    return sum(c.state != State.RUNNING for c in load_candidates(folder))


def follow(page: Any, folder: Path, seconds: float, wanted: int) -> list[float]:
    """How far behind the journal the page was, at each candidate up to the one that is wanted."""
    behind, end = [], time.monotonic() + seconds
    while (now := ended(folder)) < wanted:
        assert time.monotonic() < end, now
        shown = "study().list.filter((c) => c.state !== 'running').length"
        behind.append(wait_until(page, f"{shown} >= {now}", 10))
        page.wait_for_timeout(200)
    return behind


def test_a_dashboard_follows_a_search_on_two_nodes_over_a_killed_driver(
    address: str, open_page: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    data = tmp_path / "data.csv"
    pd.DataFrame(x).assign(y=np.where(x[:, 0] * x[:, 1] > 0, "a", "b")).to_csv(data, index=False)
    runs = tmp_path / "runs"
    runs.mkdir()
    folder = runs / "iris"
    env = os.environ | {"NAS_DASHBOARD_TOKEN": TOKEN}
    command = [sys.executable, "-m", "nas", "dashboard", str(runs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as server:
        assert server.stdout is not None
        shown = server.stdout.readline().strip()
        options = ["--target", "y", "--family", "mlp", "--epochs", "3", "--device", "cpu"]
        driver = search(folder, address, 500, str(data), *options)
        try:
            while not (folder / "study.journal").exists():
                assert driver.poll() is None, (tmp_path / "runs" / "search-500.log").read_text()
                time.sleep(0.2)
            page = open_page(shown)
            behind = follow(page, folder, 180, 8)
            assert sorted(behind)[len(behind) // 2] < 2.0
            assert "running" in page.inner_text("#spent")
            page.fill("#filter", "width > 1")
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            stopped = "document.getElementById('spent').textContent.startsWith('stopped')"
            wait_until(page, stopped, 30)
            before = ended(folder)
            driver = search(folder, address, before + 6, "--resume")
            wait_until(page, "document.getElementById('spent').textContent.startsWith('run')", 120)
            follow(page, folder, 180, before + 6)
            assert driver.wait(180) == 0
            wait_until(page, f"{ended(folder)} === study().list.length", 10)
            assert page.input_value("#filter") == "width > 1"
        finally:
            driver.kill()
            driver.wait()
            server.send_signal(signal.SIGINT)
