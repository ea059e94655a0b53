"""A browser for the explorer: Debian's Chromium, driven by Playwright (``make browser``)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nas.report import StudyView, write
from nas.testing.studies import make_study, write_run

TOKEN = "a-token-of-a-test-1234"
AXE = Path(os.environ.get("NAS_AXE", ".venv/axe/package/axe.min.js"))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


Open = Callable[..., Any]


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Open]:
    """Opens addresses; at the end no page may have said anything, or asked anybody else."""
    contexts: list[Any] = []
    said: list[str] = []
    asked: list[str] = []

    def open_(address: str, width: int = 1280, height: int = 900, theme: str = "light") -> Any:
        size = {"width": width, "height": height}
        context = chromium.new_context(viewport=size, color_scheme=theme, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("html[data-ready=yes]", timeout=30_000)
        page.wait_for_timeout(300)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert said == []
    own = ("file:", "data:", "blob:", "http://127.0.0.1:")
    assert [url for url in asked if not url.startswith(own)] == []


@pytest.fixture(scope="session")
def violations() -> Callable[[Any], list[Any]]:
    """The rules of accessibility that a page breaks, each with what breaks it."""
    if not AXE.exists():
        pytest.skip(f"{AXE} is absent; `make browser` fetches it")

    def of(page: Any) -> list[Any]:
        # A page's policy would refuse a script element.
        page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run(document).then((result) => result.violations)")
        return [(v["id"], [n["target"] for n in v["nodes"]][:3]) for v in found]

    return of


@pytest.fixture
def baked(tmp_path: Path) -> Callable[..., str]:
    """The address of the baked page of a study."""

    def bake(study: StudyView | int = 97) -> str:
        path = tmp_path / "report.html"
        if isinstance(study, int):
            study = make_study(study, folder="runs/iris")
        write(study, path)
        return path.as_uri()

    return bake


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "iris", make_study(60))


@pytest.fixture
def dashboard(run: Path) -> Iterator[str]:
    """The address of ``nas dashboard`` beside the run."""
    command = [sys.executable, "-m", "nas", "dashboard", str(run.parent)]
    env = os.environ | {"NAS_DASHBOARD_TOKEN": TOKEN}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        process.wait(10)
