"""The explorer in a browser: every page, with mouse and keyboard, while a search runs."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.candidate import Reason, State
from nas.dashboard.sources import spent
from nas.front import hypervolume
from nas.report import front
from nas.run import Run
from nas.task import Budget
from nas.testing.studies import append, make_candidates, make_study, make_task, write_run

pytestmark = pytest.mark.browser
PAGES = ("studies", "explorer", "candidate", "why", "machine")


def later(start: int, end: int) -> list[Any]:
    return make_candidates(make_task(), end)[start:end]


def numbers(page: Any) -> list[int]:
    """The candidates in the rows of the table that are in sight."""
    rows = page.locator("#table [role=row][data-number]").all()
    return sorted(int(row.get_attribute("data-number")) for row in rows)


# ---- every page --------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_breaks_no_rule_of_accessibility(
    open_page: Any, baked: Any, violations: Any, name: str, theme: str
) -> None:
    assert violations(open_page(f"{baked()}#page={name}", theme=theme)) == []


@pytest.mark.parametrize("width", [390, 1280, 2560])
@pytest.mark.parametrize("name", PAGES)
def test_no_page_scrolls_sideways(open_page: Any, baked: Any, name: str, width: int) -> None:
    page = open_page(f"{baked()}#page={name}", width=width)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_tabs_and_the_browsers_back_lead_through_the_pages(open_page: Any, baked: Any) -> None:
    page = open_page(baked())
    for name in PAGES:
        page.click(f"#tab-{name}")
        page.wait_for_selector(f"#page-{name}:not([hidden])")
        page.wait_for_timeout(300)
    page.go_back()
    page.wait_for_selector("#page-why:not([hidden])")


def test_on_a_phone_the_plot_comes_first(open_page: Any, baked: Any) -> None:
    page = open_page(baked(), width=390, height=800)
    tops = [page.locator(f"#{i}").bounding_box()["y"] for i in ("plots", "tiles", "table-card")]
    assert tops == sorted(tops)


def test_what_a_training_at_full_scale_came_to_is_compared_on_the_test_part(
    open_page: Any, baked: Any
) -> None:
    study = make_study(30)
    tested = {"number": 3, "family": "mlp", "networks": 3, "simple": ("forest", 0.85)}
    better = replace(study, tested=tested | {"value": 0.9, "low": 0.88, "high": 0.92})
    first, *others = open_page(f"{baked(better)}#page=explorer").locator(".tile").all_inner_texts()
    assert "at full scale" in first
    assert "the mean of 3 networks" in first
    (verdict,) = [text for text in others if "imple models" in text]
    assert "Better than simple models" in verdict
    assert "against forest" in verdict
    assert "on the test part" in verdict
    noisy = replace(study, tested=tested | {"value": 0.86, "low": 0.8, "high": 0.9})
    tiles = open_page(f"{baked(noisy)}#page=explorer").locator(".tile").all_inner_texts()
    assert any("no clear difference" in text for text in tiles)


def test_the_test_score_is_shown_when_nothing_is_inside_the_limits(
    open_page: Any, baked: Any
) -> None:
    tested = {"number": 3, "family": "mlp", "networks": 1, "value": 0.9}
    page = open_page(f"{baked(replace(make_study(30), tested=tested))}#limits=accuracy+>%3D+2")
    first, second = page.locator(".tile").all_inner_texts()
    assert "at full scale" in first
    assert "empty" in second


def test_hostile_names_run_nothing_and_break_no_layout(open_page: Any, baked: Any) -> None:
    name = "<img src=x onerror=alert(1)></script><script>alert(2)</script>" + "w" * 300
    study = make_study(40)
    made = [
        replace(c, family=name, config={name: 1.0, "lr": c.config["lr"]}, detail=name)
        for c in study.candidates
    ]
    simple = {"name": name, "metrics": {"accuracy": 0.9}}
    texts = {"name": name, "notes": (name,), "failures": (name,), "folder": name}
    hostile = replace(study, candidates=made, baselines=(simple,), spaces={}, **texts)
    address = baked(hostile)
    for shown in PAGES:
        page = open_page(f"{address}#page={shown}")
        assert page.locator("img").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, shown


# ---- the explorer ------------------------------------------------------------------------------


def test_a_slider_changes_plots_tiles_and_table(open_page: Any, baked: Any) -> None:
    page = open_page(f"{baked()}#below=1")
    before = numbers(page)
    page.locator("#limits input").first.focus()
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(200)
    assert numbers(page) != before
    assert "limits=latency_ms" in page.evaluate("toHash()")
    page.click("#reset")
    page.wait_for_timeout(200)
    assert numbers(page) == before


@pytest.mark.parametrize("key", ["accuracy >=", "latency_ms <=", "params <="])
def test_a_slider_leaves_the_best_at_its_end_and_tells_near_values_apart(
    open_page: Any, baked: Any, key: str
) -> None:
    task = make_task(limits=())
    made = [
        replace(
            c,
            metrics={
                "accuracy": 0.9961234567 + 1e-7 * c.number,
                "latency_ms": 1.2345678 + 1e-6 * c.number,
                "params": 123_456 + c.number,
            },
            state=State.COMPLETE,
            reason=Reason.NONE,
        )
        for c in make_candidates(task, 40)
    ]
    page = open_page(baked(make_study(0, task=task, candidates=made, baselines=())))
    move = """(key) => Array.from({ length: STEPS + 1 }, (_, i) => {
      moveLimit(key, i);
      const limit = limitsOf(study()).find((each) => each.key === key);
      return [limitPosition(study(), limit), current().feasible.length];
    })"""
    positions, left = zip(*page.evaluate(move, key), strict=True)
    assert list(positions) == list(range(201))
    assert min(left) >= 1
    assert len(set(left)) > 30
    page.click("#reset")


def test_a_filter_keeps_what_it_names_and_says_what_is_wrong(open_page: Any, baked: Any) -> None:
    page = open_page(f"{baked()}#rows=all")
    page.fill("#filter", "family = mlp and depth >= 4 and not state = complete")
    page.wait_for_timeout(200)
    chosen = {
        c.number
        for c in make_study(97).candidates
        if c.family == "mlp" and c.config["depth"] >= 4 and c.state != State.COMPLETE
    }
    assert set(numbers(page)) == chosen
    for text, wrong in {
        "depth >": "a value is expected",
        "nothing < 3": "there is no “nothing”",
        "(lr > 1e-3": "not closed",
        "lr > 1 lr": "not expected here",
        "alert(1)": "there is no “alert”",
    }.items():
        page.fill("#filter", text)
        page.wait_for_timeout(100)
        assert wrong in page.inner_text("#filter-error"), text


def test_a_lasso_links_the_panels(open_page: Any, baked: Any) -> None:
    page = open_page(f"{baked()}#below=1&rows=feasible")
    page.check("input[name=drag][value=select]")
    page.wait_for_timeout(200)
    box = page.locator(".plot").first.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 250, box["y"] + 200, steps=8)
    page.mouse.up()
    page.wait_for_timeout(300)
    assert page.is_visible("#unbrush")
    expected = page.evaluate("current().feasible.filter(isBrushed).map((c) => c.number)")
    assert 0 < len(expected) < page.evaluate("current().feasible.length")
    assert page.evaluate("shownCandidates().map((c) => c.number).sort()") == page.evaluate(
        "current().feasible.filter(isBrushed).map((c) => c.number).sort()"
    )
    page.click("#unbrush")
    page.wait_for_timeout(200)
    assert page.evaluate("view.brush") is None


def test_a_click_on_a_mark_selects_it_and_four_are_compared(open_page: Any, baked: Any) -> None:
    page = open_page(f"{baked()}#below=1")
    places = page.evaluate(
        "(() => { const box = marks[0].node.getBoundingClientRect(), found = [];"
        " for (let i = 0; i < marks[0].places.length; i += 3) found.push("
        "[box.x + marks[0].places[i], box.y + marks[0].places[i + 1]]); return found; })()"
    )
    for x, y in places[-40::8]:
        page.mouse.click(x, y)
        page.wait_for_timeout(80)
    picks = page.evaluate("view.picks")
    assert 2 <= len(picks) <= 4
    page.wait_for_timeout(300)
    assert page.locator("#compare thead th").count() == len(picks)
    assert page.locator("#chosen .pill").count() == len(picks)


def test_the_table_is_worked_by_keyboard_alone(open_page: Any, baked: Any) -> None:
    page = open_page(f"{baked(1000)}#rows=all&sort=number")
    page.locator("#table [role=row][tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    assert 2 in page.evaluate("view.picks")
    page.keyboard.press("End")
    page.wait_for_timeout(200)
    assert page.evaluate("document.activeElement.dataset.number") == "999"
    page.keyboard.press("Enter")
    page.wait_for_selector("#page-candidate:not([hidden])")
    assert page.evaluate("view.candidate") == 999


def test_arrow_keys_walk_along_the_front_of_a_plot(open_page: Any, baked: Any) -> None:
    page = open_page(f"{baked()}#below=1&pick=")
    page.locator(".plot").first.focus()
    page.keyboard.press("ArrowRight")
    first = page.inner_text(".hint-box >> nth=0")
    page.keyboard.press("ArrowRight")
    assert first != page.inner_text(".hint-box >> nth=0")
    before = page.evaluate("view.picks.length")
    page.keyboard.press("Enter")
    assert abs(page.evaluate("view.picks.length") - before) == 1


def test_the_table_is_sorted_by_any_column(open_page: Any, baked: Any) -> None:
    page = open_page(f"{baked()}#rows=all")
    page.click("#table [role=columnheader]:has-text('parameters') button")
    page.wait_for_timeout(100)
    params = page.evaluate("shownCandidates().map((c) => c.metrics.params)")
    assert params == sorted(params)
    assert page.locator("[aria-sort=ascending]").count() == 1


def test_a_link_shares_limits_filter_and_selection(open_page: Any, baked: Any) -> None:
    address = baked()
    state = "limits=latency_ms+<%3D+1.5&filter=depth+>+2&pick=63,48&rows=feasible&sort=params,down"
    first = open_page(f"{address}#{state}")
    first.wait_for_timeout(400)
    second = open_page(first.evaluate("location.href"))
    for page in (first, second):
        assert page.evaluate("view.picks") == [63, 48]
        assert page.evaluate("current().limits[0].bound") == 1.5
        assert page.evaluate("view.sort") == {"key": "params", "down": True}
        assert page.input_value("#filter") == "depth > 2"
    assert numbers(first) == numbers(second)


def test_what_is_shown_is_saved_as_files(open_page: Any, baked: Any) -> None:
    page = open_page(f"{baked()}#rows=all")

    def saved(selector: str) -> bytes:
        with page.expect_download() as download:
            page.click(selector)
        return Path(download.value.path()).read_bytes()

    rows = list(csv.DictReader(io.StringIO(saved("#save-csv").decode())))
    assert [int(row["number"]) for row in rows] == list(range(97))
    assert float(rows[5]["config.lr"]) == pytest.approx(
        make_study(97).candidates[5].config["lr"], rel=1e-4
    )
    assert len(json.loads(saved("#save-json"))) == 97
    assert saved("[aria-label='Save this plot as PNG'] >> nth=0").startswith(b"\x89PNG")
    svg = saved("[aria-label='Save this plot as SVG'] >> nth=0").decode()
    assert svg.count('class="point"') >= len(front(make_study(97)))


def test_every_candidate_can_be_opened(open_page: Any, baked: Any) -> None:
    page = open_page(f"{baked()}#page=candidate&candidate=0")
    for number in (3, 43, 96):
        page.fill("#candidate-number", str(number))
        page.press("#candidate-number", "Enter")
        page.wait_for_selector(f"#candidate-body h2:has-text('#{number} ')")
        page.wait_for_selector(".picture svg")
        assert page.locator("#norms .plot-container").count() == 1


def test_the_verdict_of_an_open_candidate_follows_selection_and_limits(
    open_page: Any, baked: Any
) -> None:
    number = front(make_study(97))[0].number
    page = open_page(f"{baked()}#page=candidate&candidate={number}")
    page.wait_for_selector(".picture svg")
    page.evaluate("$('candidate-body').querySelector('details').open = true")
    page.click("button:text-is('Select to compare')")
    page.wait_for_selector("#candidate-body button:text-is('Deselect')")
    assert page.evaluate("document.activeElement.textContent") == "Deselect"
    assert "on the front" in page.inner_text("#candidate-body h2 >> nth=0")
    page.evaluate("view.limits.set('latency_ms <=', 0); changed('limits')")
    page.wait_for_selector("#candidate-body h2:has-text('outside the limits')")
    assert page.evaluate("document.activeElement.textContent") == "Deselect"
    assert page.locator("#candidate-body details[open]").count() == 1


def text_of(page: Any, selector: str) -> bytes:
    """What a click on an element saves."""
    with page.expect_download() as download:
        page.click(selector)
    return Path(download.value.path()).read_bytes()


def test_a_baked_page_holds_the_recipe_and_says_the_other_commands(
    open_page: Any, baked: Any
) -> None:
    recipes = {3: "# a recipe: größe\n"}
    address = baked(replace(make_study(97), folder="my runs/iris", recipes=recipes))
    page = open_page(f"{address}#page=candidate&candidate=3")
    commands = page.locator(".ways code").all_inner_texts()
    assert commands[0] == "nas export 'my runs/iris' -n 3 --out recipe-3.yaml"
    assert any("nas train recipe-3.yaml --out 'my runs/iris/models/3'" in c for c in commands)
    for option in ("--design design-3", "--standalone network-3", "--onnx network-3.onnx"):
        assert any(c.endswith(option) for c in commands), option
    assert text_of(page, "[aria-label='Save: Recipe']").decode() == recipes[3]
    assert page.locator("[aria-label^='Save:']").count() == 1
    page.click("[aria-label='Copy the command for: ONNX']")
    page.wait_for_timeout(100)
    copied = page.evaluate("getSelection().toString()") == commands[-1]
    assert copied or page.locator("button:text-is('Copied')").count() == 1
    # One that was stopped cannot be trained at full scale.
    stopped = next(c for c in make_study(97).candidates if c.state != State.COMPLETE)
    page.fill("#candidate-number", str(stopped.number))
    page.press("#candidate-number", "Enter")
    page.wait_for_selector(f"#candidate-body h2:has-text('#{stopped.number} ')")
    assert page.locator(".ways").count() == 0


def test_gradients_have_their_thresholds_and_dead_units_their_layers(
    open_page: Any, baked: Any
) -> None:
    page = open_page(f"{baked()}#page=candidate&candidate=43")
    page.wait_for_selector("#norm-lines .plot-container")
    lines = page.evaluate("document.getElementById('norm-lines').layout.shapes.map((s) => s.y0)")
    assert lines == [131.0, 1e-6]
    [dead] = page.evaluate("document.getElementById('dead').lastChild.data[0].y")
    assert dead == "blocks.0.linear"


def test_the_hypervolume_stands_beside_chance(open_page: Any, baked: Any) -> None:
    costs = {"latency_ms": 0.2, "spread_ms": 0.01, "params": 300.0}
    simple = {"name": "logistic", "metrics": {"accuracy": 0.8}, "costs": costs, "seconds": 1.0}
    page = open_page(f"{baked(make_study(97, baselines=(simple,)))}#page=why")
    names = page.evaluate("$('chance').firstChild.data.map((trace) => trace.name)")
    assert names == ["chance, 8 of 10", "chance", "simple models", "this search"]
    ours, theirs = page.evaluate("[3, 1].map((i) => $('chance').firstChild.data[i].y.at(-1))")
    assert 0 < abs(ours - theirs) < 0.2  # its candidates were drawn by chance
    assert "forest" in page.inner_text("#chance-note")
    few = open_page(f"{baked(20)}#page=why")
    assert "from 30 complete" in few.inner_text("#chance")


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_hypervolumes_are_those_of_the_package(open_page: Any, baked: Any, objectives: int) -> None:
    page = open_page(baked(10))
    rng = np.random.default_rng(0)
    size = [(int(rng.integers(1, 30)), objectives) for _ in range(60)]
    # Rounded, so that many are equal in one objective.
    sets = [(1.2 * rng.random(each)).round(1 + i % 3).tolist() for i, each in enumerate(size)]
    reference = [1.0] * objectives
    found = page.evaluate("([sets, r]) => sets.map((s) => hypervolume(s, r))", [sets, reference])
    assert found == pytest.approx([hypervolume(each, reference) for each in sets])


def test_simple_models_stand_in_the_plot_by_their_costs(open_page: Any, baked: Any) -> None:
    costs = {"latency_ms": 0.2, "spread_ms": 0.01, "params": 300.0}
    simple = {"name": "logistic", "metrics": {"accuracy": 0.8}, "costs": costs, "seconds": 1.0}
    page = open_page(f"{baked(make_study(97, baselines=(simple,)))}#below=1")
    found = page.evaluate("marks[0].node.data.map((trace) => [trace.marker?.symbol, trace.x])")
    assert ["star-diamond", [0.2]] in found


def test_a_front_below_every_simple_model_is_shown(open_page: Any, baked: Any) -> None:
    simple = {"name": "forest", "metrics": {"accuracy": 0.9999}, "seconds": 1.0}
    page = open_page(baked(make_study(97, baselines=(simple,))))
    shown, on_front = numbers(page), page.evaluate("current().front.map((c) => c.number)")
    assert shown
    assert set(shown) <= set(on_front)
    assert page.get_by_text("of the front below the best simple model").count() == 0


def test_the_machine_says_how_busy_it_was(open_page: Any, baked: Any) -> None:
    page = open_page(f"{baked()}#page=machine")
    assert "90 % busy of one core" in page.inner_text("#machine-facts")


def test_figures_are_written_as_people_read_them(open_page: Any, baked: Any) -> None:
    page = open_page(baked(10))
    durations = page.evaluate("[9.94, 59.7, 119.7, 3599.7].map(duration)")
    assert durations == ["9.9 s", "1 min 0 s", "2 min 0 s", "1.0 h"]
    text = "([name, c]) => metricText(c, name)"
    for metrics, more, shown in (
        ({"accuracy": 0.91234}, {"error": 0.0123}, "0.9123 ± 0.0123"),
        ({"accuracy": 0.91234}, {"error": 0.0000312}, "0.9123 ± 0.00003"),
        ({}, {"error": 0.01}, "–"),
    ):
        assert page.evaluate(text, ["accuracy", {"metrics": metrics, **more}]) == shown
    unknown = {"metrics": {}, "spread": 0.1, "contended": True}
    assert page.evaluate(text, ["latency_ms", unknown]) == "–"


def test_plots_follow_families_that_are_hidden_and_studies_that_change(
    open_page: Any, baked: Any
) -> None:
    page = open_page(f"{baked()}#page=why")
    assert page.locator("#parallel polyline").count() > 0
    page.evaluate("view.hidden.add($('why-family').value); changed('limits')")
    page.wait_for_timeout(200)
    assert page.locator("#parallel polyline").count() == 0
    assert page.locator("#slices .plot-container").count() == 0
    page.evaluate("view.page = 'studies'; changed('page')")
    page.wait_for_selector("#volumes .plot-container")
    page.evaluate("drawVolumes([]); drawVolumes([study()])")
    assert page.locator("#volumes .plot-container").count() == 1
    page.evaluate("receive({ study: study().id, live: { chance: { at: [1] } } })")
    page.evaluate("receive({ study: study().id, reset: true })")
    assert page.evaluate("study().live") is None


def test_plots_come_back_after_a_study_that_has_none(open_page: Any, baked: Any) -> None:
    page = open_page(f"{baked(200)}#page=why")
    parts = "['progress', 'chance', 'importance']"
    drawn = f"{parts}.map((id) => $(id).querySelectorAll('.plot-container, table').length)"
    assert page.evaluate(drawn) == [1, 1, 1]
    head = "{ ...study().head, chance: {}, importance: {} }"
    page.evaluate(f"receive({{ study: 'other', head: {head} }})")
    for shown, plots in (("other", [0, 0, 0]), ("study", [1, 1, 1])):
        page.evaluate(f"showStudy('{shown}', 'why')")
        page.wait_for_timeout(300)
        assert page.evaluate(drawn) == plots, shown


def test_a_budget_of_trials_is_spent_as_the_search_counts(open_page: Any, baked: Any) -> None:
    study = make_study(30)
    first, second, *others = study.candidates
    others[0] = replace(others[0], state=State.FAILED, reason=Reason.DUPLICATE)
    others[1] = replace(others[1], state=State.FAILED, reason=Reason.INTERRUPTED)
    others[2] = replace(others[2], root=second.number)  # its worker was lost the first time
    made = [first, second, *others]
    task = replace(study.task, budget=Budget(time_limit_s=None, trials=40))
    page = open_page(f"{baked(replace(study, task=task, candidates=made))}#page=machine")
    used, limit, *_ = page.locator("#budget tr:has-text('candidates') td").all_inner_texts()
    assert (int(used), limit) == (spent(made)["trials"], "40")
    assert used == "27"


def test_a_training_of_a_search_that_was_killed_does_not_go_on_in_the_plot(
    open_page: Any, baked: Any
) -> None:
    first, *others = make_study(30).candidates
    cut = replace(others[-1], state=State.RUNNING, reason=Reason.NONE, seconds=0.0)
    page = open_page(f"{baked(replace(make_study(30), candidates=[first, *others[:-1], cut]))}")
    ends = "$('lanes').data.flatMap((t) => t.base.map((from, i) => from + t.x[i]))"
    for state, now, least, most in (("running", 1.7e9 + 900, 10, 20), ("stopped", 4e9, 1, 10)):
        live = {"state": state, "seconds": 1.0, "now": now}
        page.evaluate("(live) => receive({ study: study().id, live })", live)
        page.evaluate("view.page = 'machine'; changed('page')")
        page.wait_for_timeout(300)
        assert least < page.evaluate(f"Math.max(...{ends})") < most  # minutes


def test_ten_thousand_candidates_can_be_worked_with(open_page: Any, baked: Any) -> None:
    page = open_page(f"{baked(10_000)}#rows=all")
    assert page.locator("#table [role=row]").count() < 60
    page.locator("#table [role=row][tabindex='0']").focus()
    page.keyboard.press("End")
    page.wait_for_timeout(200)
    assert page.evaluate("document.activeElement.dataset.number") == "9999"
    for name in PAGES:
        page.click(f"#tab-{name}")
        page.wait_for_selector(f"#page-{name}:not([hidden])")


# ---- while a search runs ------------------------------------------------------------------------


def wait_until(page: Any, expression: str, timeout_s: float = 10.0) -> None:
    """Playwright's own wait compiles code in the page, which its policy forbids."""
    end = time.monotonic() + timeout_s
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


def says(element: str, text: str) -> str:
    return f"document.getElementById('{element}').textContent.includes('{text}')"


def test_what_the_user_holds_survives_updates(dashboard: str, open_page: Any, run: Path) -> None:
    page = open_page(dashboard)
    page.check("input[name=rows][value=all]")
    page.click("#table [role=columnheader]:has-text('parameters') button")
    slider = page.locator("#limits input").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + box["height"] / 2, steps=4)
    held = slider.input_value()
    node = slider.element_handle()
    append(run, later(60, 65))
    wait_until(page, "study().list.length === 65")
    page.wait_for_timeout(200)
    assert slider.input_value() == held, "the drag went on"
    assert page.evaluate("(node) => node.isConnected && node.matches(':active')", node)
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    assert int(slider.input_value()) < int(held)
    page.locator("#table [role=row][tabindex='0']").focus()
    row = page.evaluate("document.activeElement.dataset.number")
    append(run, later(65, 70))
    wait_until(page, "study().list.length === 70")
    page.wait_for_timeout(200)
    assert page.evaluate("document.activeElement.dataset.number") == row
    assert page.evaluate("view.sort.key") == "params"


def test_recipe_and_commands_of_a_search_that_runs(
    dashboard: str, open_page: Any, run: Path
) -> None:
    page = open_page(dashboard)
    number = page.evaluate("current().front[0].number")
    page.evaluate(f"open({number})")
    saved = text_of(page, "[aria-label='Save: Recipe']")
    exported = Run(run).export(run.parent / f"recipe-{number}.yaml", number)
    assert saved == exported.read_bytes()
    assert page.locator("[aria-label='Save: Design document']").count() == 1
    assert str(run) in page.locator(".ways code").first.inner_text()


def test_two_viewers_follow_within_two_seconds(dashboard: str, open_page: Any, run: Path) -> None:
    pages = [open_page(dashboard), open_page(dashboard)]
    append(run, later(60, 61))
    begin = time.monotonic()
    for page in pages:
        wait_until(page, "study().list.length === 61")
    assert time.monotonic() - begin < 2.5  # two of the journal, the rest of Playwright


def test_without_events_the_page_polls(chromium: Any, dashboard: str, run: Path) -> None:
    page = chromium.new_page()
    page.route("**/api/events*", lambda route: route.abort())
    page.goto(dashboard)
    page.wait_for_selector("html[data-ready=yes]", timeout=20_000)
    append(run, later(60, 62))
    wait_until(page, "study().list.length === 62")
    page.close()


def test_a_connection_that_falls_silent_is_opened_again(dashboard: str, open_page: Any) -> None:
    page = open_page(dashboard)
    page.evaluate("""() => {
      const real = window.setTimeout;
      window.setTimeout = (call, ms) => real(call, ms / 40);
      window.made = [];
      window.EventSource = class extends EventTarget {
        constructor() { super(); made.push(this); }
        close() { this.isClosed = true; }
      };
      live.events.close();
      connect();
      made[0].dispatchEvent(new MessageEvent("alive", { lastEventId: live.since }));
    }""")
    assert page.inner_text("#connection") == "live"
    wait_until(page, "made.length === 2 && made[0].isClosed")


def test_a_poll_that_is_not_answered_is_given_up(dashboard: str, open_page: Any) -> None:
    page = open_page(dashboard)
    page.route("**/api/updates*", lambda route: None)
    page.evaluate("""() => {
      const real = AbortSignal.timeout.bind(AbortSignal);
      AbortSignal.timeout = (ms) => real(ms / 100);
      live.events.close();
      poll();
    }""")
    wait_until(page, says("connection", "connection lost"))


def test_a_training_at_full_scale_is_seen_on_the_page_of_its_candidate(
    dashboard: str, open_page: Any, run: Path
) -> None:
    page = open_page(dashboard)
    number = page.evaluate("current().front[0].number")
    page.evaluate(f"open({number})")
    page.wait_for_selector(".ways")
    assert not page.evaluate(says("candidate-body", "nas predict"))
    result = run / "models" / str(number) / "result.json"
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    os.utime(run / "task.json")  # a head comes, as at the end of a search
    wait_until(page, says("candidate-body", "nas predict"))


def id_of(run: Path) -> str:
    return hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:12]


@pytest.fixture
def second(dashboard: str, open_page: Any, run: Path) -> Path:
    """Another run beside the first one, which the dashboard knows."""
    made = write_run(run.parent / "second", make_study(20))
    page = open_page(dashboard)
    wait_until(page, "studies.size === 2")
    page.close()
    return made


def test_a_link_to_any_study_opens_that_one(
    dashboard: str, open_page: Any, run: Path, second: Path
) -> None:
    state = f"study={id_of(second)}&with={id_of(run)},{id_of(second)}&pick=4,5&colour=epochs"
    page = open_page(f"{dashboard}#page=why&{state}")
    wait_until(page, f"view.study === '{id_of(second)}'")
    for _ in range(2):
        assert page.evaluate("[view.page, view.picks, view.colour]") == ["why", [4, 5], "epochs"]
        assert page.evaluate("view.laid") == [id_of(run), id_of(second)]
        page.wait_for_timeout(400)
        assert f"study={id_of(second)}" in page.evaluate("location.hash")
        page.reload()
        wait_until(page, f"view.study === '{id_of(second)}'")


def test_a_link_to_a_study_that_is_not_there_opens_another_as_it_is(
    dashboard: str, open_page: Any, run: Path
) -> None:
    page = open_page(f"{dashboard}#study=nothing&with=nothing&pick=4,5,6")
    assert page.evaluate("view.study") == id_of(run)
    assert page.evaluate("view.picks") == []
    assert "study=nothing" in page.evaluate("location.hash")
    page.evaluate("settle()")
    wait_until(page, "!location.hash.includes('nothing')")


def test_a_run_that_is_deleted_leaves_the_page_to_the_others(
    dashboard: str, open_page: Any, run: Path, second: Path
) -> None:
    page = open_page(dashboard)
    wait_until(page, says("name", "iris"))
    shutil.rmtree(run)
    wait_until(page, says("name", "second"))
    shutil.rmtree(second)
    page.wait_for_selector("#waiting:not([hidden])")
    assert page.locator(".page:not([hidden])").count() == 0
    write_run(run, make_study(5))
    wait_until(page, "study()?.list.length === 5")


def test_details_that_could_not_be_fetched_are_fetched_again(chromium: Any, dashboard: str) -> None:
    page = chromium.new_page()
    page.goto(dashboard)
    page.wait_for_selector("html[data-ready=yes]", timeout=20_000)
    page.evaluate("open(1)")
    page.wait_for_selector("#own-curves .curve")
    page.route("**/candidates/*", lambda route: route.fulfill(status=503, body="away"))
    page.evaluate("open(7)")
    page.wait_for_selector("#candidate-body h2:has-text('#7 ')")
    assert "could not be fetched" in page.inner_text("#candidate-body")
    page.unroute("**/candidates/*")
    page.click("#candidate-body button:has-text('Try again')")
    page.wait_for_selector("#own-curves .curve")
    assert "could not be fetched" not in page.inner_text("#candidate-body")
    page.close()


def test_a_search_that_starts_runs_fails_and_resumes(
    dashboard: str, open_page: Any, run: Path
) -> None:
    page = open_page(dashboard)
    second = write_run(run.parent / "second", make_study(0))
    os.utime(second / "clock")
    wait_until(page, "studies.size === 2")
    page.select_option("#study-select", label="second")
    wait_until(page, says("name", "second"))
    assert page.is_visible("#no-plots")
    running = [replace(c, state=State.RUNNING, reason=Reason.NONE) for c in later(0, 3)]
    append(second, running)
    wait_until(page, says("counts", "3 running"))
    cut = [replace(c, state=State.FAILED, reason=Reason.INTERRUPTED) for c in running]
    append(second, cut)
    wait_until(page, says("counts", "3 cut off"))
    os.utime(second / "clock", (time.time() - 60,) * 2)
    wait_until(page, f"{says('spent', 'finished')} || {says('spent', 'stopped')}")
    os.utime(second / "clock")
    append(second, later(0, 6))
    wait_until(page, "study().facts.complete.length > 0")
    wait_until(page, says("spent", "running"))
    page.wait_for_selector("#plots:not([hidden])")


def test_memory_stays_flat_over_three_hundred_updates(
    open_page: Any, baked: Callable[..., str]
) -> None:
    page = open_page(baked(100))
    session = page.context.new_cdp_session(page)

    def heap_mb() -> float:
        session.send("HeapProfiler.collectGarbage")
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(m["value"] for m in metrics if m["name"] == "JSHeapUsedSize") / 1e6

    session.send("Performance.enable")
    update = """async (times) => {
      const [baked] = JSON.parse(document.getElementById("baked").textContent);
      for (let i = 0; i < times; i++) {
        receive({ study: baked.study, table: baked.table });
        await new Promise((done) => requestAnimationFrame(done));
      }
    }"""
    page.evaluate(update, 30)
    before = heap_mb()
    nodes = page.evaluate("document.querySelectorAll('*').length")
    page.evaluate(update, 300)
    assert heap_mb() < before + 5
    assert page.evaluate("document.querySelectorAll('*').length") == nodes


def test_a_candidate_that_is_opened_beside_selected_ones_has_a_colour_of_its_own(
    baked: Any, open_page: Any
) -> None:
    page = open_page(f"{baked()}#pick=63,48")
    page.evaluate("open(69)")
    page.wait_for_selector("#own-curves .curve")
    page.wait_for_timeout(300)
    lines = "$('own-curves').children[0].data.map((t) => [t.name.split(' ')[0], t.line.color])"
    colours = page.evaluate(f"Object.fromEntries({lines})")
    assert list(colours) == ["#69", "#63", "#48"]
    assert len(set(colours.values())) == 3
