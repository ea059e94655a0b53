"""How fast the explorer is, in headless Chromium: medians over repeats, by number of candidates.

    python scripts/bench_explorer.py
    python scripts/bench_explorer.py --candidates 100 --repeats 20

Prints the size of the baked page, the time until it can be used (opened, drawn, and the main thread
free), and a step of a limit's slider from its event to the frame after it. Of the dashboard: the
time until its page has all candidates, an answer when nothing is new, and the memory and the load
of the server, which is a process of its own: the driver of a search knows nothing of it.
Needs Playwright for Python (``pip install playwright``) and a Chromium, by default
/usr/bin/chromium.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nas.report import write
from nas.testing.studies import make_study, write_run

# Milliseconds from the event of a slider that was moved to the frame that shows it.
STEP = """
async ([index, position]) => {
  const slider = document.querySelectorAll("#limits input")[index];
  const begin = performance.now();
  slider.value = position;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - begin;
}
"""


def usable_s(page: Any, address: str) -> float:
    """Seconds until the page is drawn and answers."""
    begin = time.perf_counter()
    page.goto(address)
    page.wait_for_selector("html[data-ready=yes]")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    return time.perf_counter() - begin


def cpu_fraction(process: int, seconds: float) -> float:
    """What a process computes, of one core, over some seconds."""

    def ticks() -> int:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds


def serve(folder: Path, candidates: int, browser: Any, repeats: int) -> None:
    """Measure the dashboard of one run."""
    token = "a-token-of-a-benchmark"
    command = [sys.executable, "-m", "nas", "dashboard", str(folder)]
    env = os.environ | {"NAS_DASHBOARD_TOKEN": token}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        while not page.evaluate(f"study()?.list.length === {candidates}"):
            time.sleep(0.1)
        usable = []
        for _ in range(repeats):
            begin = time.perf_counter()
            page.goto(address)
            while not page.evaluate(f"study()?.list.length === {candidates}"):
                time.sleep(0.02)
            usable.append(time.perf_counter() - begin)
        since = page.evaluate("live.since")
        busy = cpu_fraction(server.pid, 10.0)
        page.close()
        port = int(address.split(":")[2].split("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port)
        polls = []
        for _ in range(10 * repeats):
            begin = time.perf_counter()
            headers = {"authorization": f"Bearer {token}"}
            connection.request("GET", f"/api/updates?since={since}", headers=headers)
            connection.getresponse().read()
            polls.append(time.perf_counter() - begin)
        status = Path(f"/proc/{server.pid}/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]
        server.send_signal(signal.SIGINT)
    print(
        f"{candidates:6} live: all candidates in {statistics.median(usable):.2f} s, nothing new"
        f" in {1e3 * statistics.median(polls):.1f} ms, server {peak:.0f} MB at most,"
        f" {100 * busy:.1f} % of a core with one viewer and nothing new"
    )


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, nargs="+", default=[100, 10_000])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=given.chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        for candidates in given.candidates:
            path = Path(folder) / f"{candidates}.html"
            begin = time.perf_counter()
            study = make_study(candidates)
            write(study, path)
            written = time.perf_counter() - begin
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            usable = [usable_s(page, path.as_uri()) for _ in range(given.repeats)]
            # Over the middle of the first limit, as a drag goes.
            places = [[0, 110 + 4 * (i % 20)] for i in range(2 * given.repeats)]
            steps = sorted(page.evaluate(STEP, place) for place in places)
            page.close()
            print(
                f"{candidates:6} candidates: file {path.stat().st_size / 1e6:.2f} MB"
                f" (written in {written:.1f} s), usable {statistics.median(usable):.2f} s"
                f" (worst {max(usable):.2f}), slider step {statistics.median(steps):.0f} ms"
                f" (p95 {steps[int(0.95 * len(steps))]:.0f})"
            )
            serve(
                write_run(Path(folder) / f"run-{candidates}", study),
                candidates,
                browser,
                given.repeats,
            )
        browser.close()


if __name__ == "__main__":
    main()
