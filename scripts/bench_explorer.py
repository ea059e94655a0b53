"""How fast the explorer is, in headless Chromium: medians over repeats, by number of candidates.

    python scripts/bench_explorer.py
    python scripts/bench_explorer.py --candidates 100 --repeats 20

Prints the size of the baked page, the time until it can be used (opened, drawn, and the main thread
free), and a step of a limit's slider from its event to the frame after it. Needs Playwright for
Python (``pip install playwright``) and a Chromium, by default /usr/bin/chromium.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from nas.report import write
from nas.testing.studies import make_study

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
            write(make_study(candidates), path)
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
        browser.close()


if __name__ == "__main__":
    main()
