"""The report page: what it holds, what it must never do, and what it shows in a browser."""

from __future__ import annotations

import base64
import html
import json
import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.candidate import Cost, State
from nas.front import constant_guess, hypervolume, pareto, within_noise
from nas.report import StudyView, front, page, payload, ranked, write
from nas.report.chance import chance
from nas.report.figure import figure, full_front_picture, notebook_html
from nas.report.importance import importance
from nas.report.payload import detail, head, packed_details, table
from nas.space import Int, Space
from nas.task import Constraint, UsageError
from nas.testing.studies import make_candidates, make_study, make_task

SVG = "{http://www.w3.org/2000/svg}"


def make_tied_study() -> StudyView:
    """Four objectives, two limits, and metrics so coarse that many candidates are equal."""
    task = make_task(limits=("accuracy>=0.7", "params<=3e5"))
    task = replace(
        task.with_objectives(("latency_ms", "auc", "accuracy", "flops")),
        constraints=task.constraints,
    )
    made = [
        replace(c, metrics={name: float(f"{value:.1g}") for name, value in c.metrics.items()})
        for c in make_candidates(task, 80, seed=3)
    ]
    return make_study(task=task, candidates=made)


def make_two_qualities() -> StudyView:
    task = make_task().with_objectives(("accuracy", "auc", "params"))
    return make_study(task=task, candidates=make_candidates(task, 60))


def make_guesses(every: int) -> StudyView:
    """Every so many candidates are cheap, and hardly better than the commonest class (0.69)."""
    study = make_study(40)
    cheap = {"accuracy": 0.72, "latency_ms": 0.01, "params": 10.0}
    made = [
        replace(c, metrics=c.metrics | cheap) if c.number % every == 0 else c
        for c in study.candidates
    ]
    return replace(study, candidates=made)


def against_simple_models(gap: float) -> StudyView:
    """One simple model, by ``gap`` more accurate than the best of the front."""
    study = make_study()
    front = reference_front(study)
    best = max(c.metrics["accuracy"] for c in study.candidates if c.number in front)
    simple = {"name": "trees", "metrics": {"accuracy": best + gap}, "seconds": 1.0}
    return replace(study, baselines=(simple,))


CASES = {
    "classification": lambda: make_study(),
    "regression": lambda: make_study(kind="regression"),
    "ties": make_tied_study,
    "two qualities": make_two_qualities,
    "no candidates": lambda: make_study(0),
    "one candidate": lambda: make_study(1),
    "guesses": lambda: make_guesses(3),
    "nothing but guesses": lambda: make_guesses(1),
}


@pytest.fixture(params=CASES)
def study(request: pytest.FixtureRequest) -> StudyView:
    return CASES[request.param]()


class Reader(HTMLParser):
    """Collects the tags, the addresses they load, and the embedded data of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.addresses: list[str] = []
        self.events: list[str] = []
        self.tags: dict[str, int] = {}
        self.policy = ""
        self.data = {"baked": "", "details": ""}
        self.feed(text)
        self.close()

    @property
    def head(self) -> dict[str, Any]:
        return dict(json.loads(self.data["baked"])[0]["head"])

    @property
    def table(self) -> dict[str, Any]:
        return dict(json.loads(self.data["baked"])[0]["table"])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.addresses += [str(given[name]) for name in ("src", "href", "action") if name in given]
        self.events += [name for name in given if name.startswith("on")]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = str(given["content"])
        if tag not in ("meta", "input", "br"):
            self.stack.append(str(given["id"]) if given.get("id") in self.data else tag)

    def handle_endtag(self, tag: str) -> None:
        opened = self.stack.pop()
        assert opened == tag or (opened in self.data and tag == "script"), (opened, tag)

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] in self.data:
            self.data[self.stack[-1]] += data


def test_page_is_balanced_html_whose_data_are_the_payload(
    study: StudyView, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = study.candidates, study.task, study.spaces
    monkeypatch.setattr(payload, "chance", lambda *given: {"asked of": given == known})
    reader = Reader(page(study))
    assert reader.stack == []
    more = {"importance": {}, "chance": {"asked of": True}}
    assert reader.head == json.loads(json.dumps(head(study) | more))
    assert reader.table == json.loads(json.dumps(table(study.candidates, study.task)))
    assert json.loads(reader.data["details"]) == packed_details(study, front(study))


def reference_front(study: StudyView) -> set[int]:
    task, complete = study.task, [c for c in study.candidates if c.state == State.COMPLETE]
    guess = constant_guess(task)
    return {c.number for c in pareto(complete, task.objectives, task.constraints, guess)}


def test_guesses_are_on_the_front_only_where_there_is_nothing_else() -> None:
    assert {c.number % 3 for c in front(make_guesses(3))} == {1, 2}
    assert front(make_guesses(1))


def test_the_front_is_exactly_the_pareto_front_best_quality_first(study: StudyView) -> None:
    numbers = [c.number for c in front(study)]
    assert set(numbers) == reference_front(study)
    assert len(numbers) == len(set(numbers))
    sign = 1 if study.quality.direction == "min" else -1
    best = [sign * study.candidates[n].metrics[study.quality.metric] for n in numbers]
    assert best == sorted(best)


def test_page_loads_nothing_and_may_connect_nowhere() -> None:
    reader = Reader(page(make_study(5)))
    assert reader.addresses == []
    assert reader.events == []
    assert "default-src 'none'" in reader.policy
    assert "connect-src 'none'" in reader.policy
    assert not re.search("script-src[^;]*unsafe", reader.policy)
    assert len(re.findall("'sha256-[^']+'", reader.policy)) == 2


HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>{{script}}"


def hostile_study() -> StudyView:
    task = make_task()
    target = replace(task.targets[0], name=HOSTILE, classes=(HOSTILE, "b", "c"))
    task = replace(task, targets=(target,))
    made = [replace(c, detail=HOSTILE) for c in make_candidates(task, 12, families=(HOSTILE, "b"))]
    made = [replace(c, config={HOSTILE: HOSTILE}) for c in made]
    return make_study(
        task=task,
        candidates=made,
        name=HOSTILE,
        baselines=({"name": HOSTILE, "metrics": {"accuracy": 0.9}, "seconds": 1.0},),
        spaces={HOSTILE: Space((Int(HOSTILE, 1, 2, 1, why=("r",)),))},
        rules={"r": (HOSTILE, HOSTILE)},
        notes=(HOSTILE,),
        versions={HOSTILE: HOSTILE},
    )


def test_hostile_names_stay_text() -> None:
    plain, hostile = Reader(page(make_study(5))), Reader(page(hostile_study()))
    assert hostile.tags == plain.tags
    assert hostile.head["name"] == HOSTILE


STEERING = "a\u202eb\u2066c\x1b[31md\x00\ud800\u2028e"


def test_names_cannot_reverse_or_steer_what_stands_around_them(tmp_path: Path) -> None:
    study = hostile_study()
    target = replace(study.task.targets[0], name=STEERING, classes=(STEERING, "b", "c"))
    steered = replace(
        study,
        task=replace(study.task, targets=(target,)),
        candidates=[replace(c, family=STEERING, detail=STEERING) for c in study.candidates],
        name=STEERING,
        notes=(STEERING,),
        failures=(STEERING,),
    )
    write(steered, tmp_path / "report.html")  # a lone surrogate has no encoding
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    reader = Reader(text)
    escaped = r"a\u202eb\u2066c\x1b[31md\x00\ud800\u2028e"
    assert reader.head["name"] == reader.head["notes"][0] == escaped
    assert reader.table["family"]["words"] == [escaped]
    assert reader.head["profile"]["targets"][0]["name"] == escaped
    assert detail(steered.candidates[0])["detail"] == escaped
    assert f"<title>{escaped} " in text
    assert not set("\u202e\u2066\x1b\x00\u2028") & set(reader.data["baked"])


def kept_details(text: str) -> dict[int, dict[str, Any]]:
    """The details in a page, unpacked as its script does."""
    return {
        number: found
        for parcel in json.loads(Reader(text).data["details"])
        for number, found in zip(
            parcel["numbers"],
            json.loads(zlib.decompress(base64.b64decode(parcel["data"]))),
            strict=True,
        )
    }


@pytest.mark.slow
def test_ten_thousand_candidates_stay_under_nine_megabytes() -> None:
    study = make_study(10_000)
    text = page(study)
    assert len(text.encode()) < 9e6
    kept = kept_details(text)
    assert {c.number for c in front(study)} <= set(kept)
    assert len(kept) > 1500


def test_a_small_study_keeps_the_details_of_all() -> None:
    study = make_study(97)
    kept = kept_details(page(study))
    assert set(kept) == set(range(97))
    for c in study.candidates:
        assert kept[c.number]["seed"] == c.seed
        assert len(kept[c.number]["layers"]) == len(c.layers)
        assert [e["epoch"] for e in kept[c.number]["curve"]] == [e["epoch"] for e in c.curve]


def test_a_complete_candidate_without_an_objective_is_not_ranked() -> None:
    study = make_study(12)
    first, second, *rest = study.candidates
    unmeasured = replace(first, metrics={"accuracy": 1.0})
    broken = replace(second, metrics=second.metrics | {"accuracy": math.nan})
    study = replace(study, candidates=[unmeasured, broken, *rest])
    assert {c.number for c in ranked(study)} <= {c.number for c in rest}
    assert not {first.number, second.number} & {c.number for c in front(study)}
    assert table(study.candidates, study.task)["metrics"]["accuracy"][1] is None


def test_each_reason_of_failure_keeps_the_details_of_an_example(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = make_study(300)
    # No room but for one parcel of forty.
    monkeypatch.setattr("nas.report.payload.DETAILS_BYTES", 60_000)
    found = kept_details(page(study))
    reasons = {(c.state, c.reason) for c in study.candidates if c.state != State.COMPLETE}
    kept = [c for c in study.candidates if c.number in found]
    assert len(kept) < len(study.candidates)
    assert {(c.state, c.reason) for c in kept if c.state != State.COMPLETE} == reasons


def test_a_task_without_a_quality_objective_is_refused() -> None:
    with pytest.raises(UsageError, match="with_objectives"):
        replace(make_study(1), task=replace(make_task(), objectives=()))


def test_importance_finds_what_decides_and_says_how_well_it_is_known() -> None:
    rng = np.random.default_rng(0)
    made = []
    for c in make_candidates(make_task(), 40, families=("mlp",)):
        config = {"width": int(rng.integers(8, 256)), "act": ("relu", "gelu")[c.number % 2]}
        accuracy = 0.5 + 0.001 * config["width"]
        metrics = c.metrics | {"accuracy": accuracy}
        made.append(replace(c, config=config, metrics=metrics, state=State.COMPLETE, reason=""))
    found = importance(made, make_task())["mlp"]
    assert found["r2"] > 0.8
    assert found["parameters"][0][0] == "width"
    assert dict(found["parameters"])["act"] < 0.05
    assert importance(made[:29], make_task()) == {}


def reached(study: StudyView, box: list[dict[str, Any]]) -> float:
    """The hypervolume of a study's front in a box of ``chance``."""

    def place(value: float, side: dict[str, Any]) -> float:
        scaled = math.log10(value) if side["log"] else value
        return max(0.0, float((side["sign"] * scaled - side["low"]) / (side["high"] - side["low"])))

    return hypervolume(
        [[place(c.metrics[side["metric"]], side) for side in box] for c in front(study)],
        [1.0] * len(box),
    )


def test_chance_is_where_random_searches_are() -> None:
    inside = 0
    for seed in range(2):
        made = make_candidates(make_task(), 90, seed=seed)
        study = replace(make_study(0), candidates=made)
        found = chance(made, study.task, study.spaces)
        assert found["at"][-1] == 90
        assert sorted(found["mean"]) == found["mean"]
        others = [make_candidates(make_task(), 90, seed=100 + i) for i in range(6)]
        mean = np.mean([reached(replace(study, candidates=o), found["box"]) for o in others])
        inside += bool(found["low"][-1] <= mean <= found["high"][-1])
    assert inside == 2


def test_a_search_that_learns_is_above_chance() -> None:
    """Its second half has found the learning rate that decides the quality."""
    rng = np.random.default_rng(0)
    made = []
    for c in make_candidates(make_task(), 90):
        power = float(rng.uniform(-4, -1.5)) if c.number < 45 else float(rng.normal(-3, 0.02))
        accuracy = 0.95 - 0.3 * abs(power + 3) - float(rng.uniform(0, 0.01))
        changes = {"config": c.config | {"lr": 10**power}, "reason": "", "state": State.COMPLETE}
        made.append(replace(c, metrics=c.metrics | {"accuracy": accuracy}, **changes))
    study = replace(make_study(0), candidates=made)
    found = chance(made, study.task, study.spaces)
    assert found["r2"] > 0.5
    assert reached(study, found["box"]) > found["high"][-1]


def test_chance_is_silent_without_enough_candidates() -> None:
    study = make_study(97)
    complete = [c for c in study.candidates if c.state == State.COMPLETE]
    assert chance(complete[:29], study.task, study.spaces) == {}
    assert chance(complete[:30], study.task, study.spaces)["candidates"] == 30


def test_simple_models_stand_in_the_plots_by_the_costs_that_were_measured() -> None:
    costs = {"latency_ms": 0.2, "spread_ms": 0.01, "params": 300.0}
    simple = {"name": "logistic", "metrics": {"accuracy": 0.9}, "costs": costs, "seconds": 1.0}
    [shown] = head(make_study(3, baselines=(simple,)))["baselines"]
    assert shown["metrics"] == {"accuracy": 0.9, "latency_ms": 0.2, "params": 300.0}
    assert shown["spread"] == 0.01
    assert shown["error_of"] > 0


@pytest.mark.parametrize("metrics", [{}, {"r2": math.nan}])
def test_an_unknown_quality_has_no_error(metrics: dict[str, float]) -> None:
    task = make_task("regression").with_objectives(("r2", "rmse", "params"))
    made = [replace(c, metrics=metrics | {"rmse": 0.5}) for c in make_candidates(task, 1)]
    columns = table(made, task)
    assert columns["error"] == [None]
    assert columns["errors"]["rmse"][0] > 0


def test_a_figure_has_every_complete_candidate_and_refuses_an_unknown_metric() -> None:
    study = make_study(60)
    made = figure(study, "params")
    drawn = [n for trace in made.data for n in trace.customdata]
    assert sorted(drawn) == [c.number for c in study.candidates if c.state == State.COMPLETE]
    assert {n for t in made.data if "front" in t.name for n in t.customdata} == {
        c.number for c in front(study)
    }
    with pytest.raises(UsageError, match="'lightness'"):
        figure(study, "lightness")


@pytest.mark.parametrize("n", [0, 40])
def test_a_notebook_shows_a_run_without_scripts(n: int) -> None:
    study = replace(hostile_study(), name=STEERING + HOSTILE) if n else make_study(0)
    text = notebook_html(study)
    assert "<script" not in text.lower()
    assert "onerror=alert(1)>" not in text
    assert ("<svg" in text) == bool(n)
    assert text.count("<circle") == (len(ranked(study)) if n else 0)


@pytest.mark.parametrize(("metric", "larger"), [("accuracy", True), ("val_loss", False)])
def test_a_front_at_full_scale_is_drawn_beside_that_of_the_proxies(
    metric: str, larger: bool
) -> None:
    task = replace(make_task(), objectives=()).with_objectives((metric, "params"))
    best, worse = (0.9, 0.8) if larger else (0.8, 0.9)
    values = [(10, worse, best), (20, best, worse), (30, best, best)]  # cost, as proxy, in full
    rows = [
        {"candidate": i, "family": HOSTILE, "proxy": proxy, "full": full, "params": cost}
        for i, (cost, proxy, full) in enumerate(values)
    ]
    drawn = ElementTree.fromstring(full_front_picture(task, rows))
    marks = [c for c in drawn.iter(SVG + "circle") if len(c)]
    places = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in marks]
    proxies, full = places[:3], places[3:]
    assert [x for x, _ in proxies] == [x for x, _ in full] == sorted({x for x, _ in full})
    assert (proxies[0][1] > full[0][1]) == larger  # up is larger, not better
    assert proxies[0][1] == full[1][1]
    lines = [p.get("d", "") for p in drawn.iter(SVG + "path") if p.get("stroke-width")]
    assert [line.count("H") for line in lines] == [
        1,
        0,
    ]  # the proxies' has two steps, the other one
    assert HOSTILE in str(marks[0][0].text)
    assert full_front_picture(task, [{**rows[0], "full": None}]) == ""


# ---- in a browser -------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to run the page")


def browser(test: Callable[..., None]) -> Callable[..., None]:
    """A test that opens a page, as those in tests/browser do."""
    marked: Callable[..., None] = pytest.mark.browser(needs_browser(test))
    return marked


def dump_dom(file: Path, shown: str = "explorer") -> str:
    """The document after its scripts have run, with one of its pages shown."""
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
        " --disable-background-networking --disable-component-update --disable-sync"
        " --window-size=1400,1600 --virtual-time-budget=8000 --dump-dom"
    )
    profile = f"--user-data-dir={file.parent / 'profile'}"
    address = f"{file.as_uri()}#page={shown}"
    command = [str(CHROMIUM), *flags.split(), profile, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    # Without plotly.js itself, which holds whatever one may search for.
    return re.sub(r"<script>.*?</script>", "", done.stdout, flags=re.DOTALL)


@needs_browser
def test_the_policy_lets_the_page_run_and_hostile_names_stay_text_in_it(tmp_path: Path) -> None:
    study = hostile_study()
    write(study, tmp_path / "report.html")
    dom = dump_dom(tmp_path / "report.html", "explorer&below=1")
    assert 'data-ready="yes"' in dom
    rows = dom[dom.index('id="table"') : dom.index('id="table-note"')]
    assert set(map(int, re.findall(r'data-number="(\d+)"', rows))) == reference_front(study)
    assert "<title>owned" not in dom
    assert "<img" not in dom
    assert "&lt;img src=x onerror=alert(1)&gt;" in dom


@browser
def test_a_learning_rate_test_is_drawn_where_there_was_one(tmp_path: Path) -> None:
    rates = [1e-5 * 10 ** (i / 2) for i in range(11)]
    curve = {"rates": rates, "losses": [*rates[:-1], math.inf], "smooth": rates}
    bounds = {"low": 1e-4, "high": 1e-2, "default": 1e-3}
    tests = {
        "mlp": {**curve, "bounds": bounds},
        "tabnet": {**curve, "bounds": bounds, "note": "the loss hardly fell"},
        "ft_transformer": {"note": "out of memory", "bounds": bounds},
    }
    write(make_study(9, rate_tests=tests), tmp_path / "report.html")
    dom = dump_dom(tmp_path / "report.html", "why")
    drawn = dom[dom.index('id="tested"') : dom.index('id="spaces"')]
    assert re.findall(r"<h3>(\w+)<small>(.*?)</small>", drawn) == [
        ("mlp", ""),
        ("tabnet", "the loss hardly fell"),
    ]
    assert drawn.count('class="js-line"') == 2
    assert len(re.findall(r"<path[^>]*data-index=", drawn)) == 4  # a band and a line for each


@browser
def test_what_was_cut_off_has_a_name_and_a_colour_of_its_own(tmp_path: Path) -> None:
    made = make_study(30, kind="regression").candidates
    ends = {4: "interrupted", 5: "interrupted", 6: "lost"}
    cut = [
        replace(c, state=State.FAILED, reason=ends[c.number]) if c.number in ends else c
        for c in made
    ]
    write(make_study(candidates=cut, kind="regression"), tmp_path / "report.html")
    dom = dump_dom(tmp_path / "report.html", "why")
    head = dom[dom.index('id="counts"') : dom.index('id="spent"')]
    assert re.search(r" · 2 cut off(?! \()", head)
    assert re.search(r" failed \([^)]*lost 1", head)
    assert "interrupted" not in head
    rows = dom[dom.index('id="failure-words"') : dom.index('id="tested"')]
    row = next(row for row in rows.split("<tr") if "<b>cut off</b>" in row)
    assert "a resume trains it again" in row
    assert 'class="bar cut off"' in row
    assert [int(n) for n in re.findall(r">#(\d+)<", row)] == [5, 4]


@browser
def test_the_page_says_how_often_candidates_failed_with_which_error_and_where_its_log_is(
    tmp_path: Path,
) -> None:
    made = make_study(30).candidates
    sentence = "3 candidates failed: RuntimeError: <no> memory (see runs/x/logs/worker-0.log)"
    write(make_study(candidates=made, failures=(sentence,)), tmp_path / "report.html")
    dom = dump_dom(tmp_path / "report.html", "why")
    rows = dom[dom.index('id="failure-words"') : dom.index('id="tested"')]
    assert html.escape(sentence) in rows


@browser
def test_the_pause_before_a_resume_takes_no_room_on_the_axis_of_time(tmp_path: Path) -> None:
    made = [replace(c, state=State.COMPLETE, reason="") for c in make_study(30).candidates]
    later = [replace(c, started=c.started + 86_400) if c.number >= 15 else c for c in made]
    write(make_study(candidates=later), tmp_path / "report.html")
    dom = dump_dom(tmp_path / "report.html", "why")
    # Thirty candidates, of which another began every seven seconds.
    assert "time of training, pauses left out (min)" in dom
    drawn = dom[dom.index('id="progress"') :].split("</section>")[0]
    ticks = [float(t) for t in re.findall(r'class="xtick"><text[^>]*>([\d.]+)<', drawn)]
    assert 2 < max(ticks) < 5


def measured_on_a_phone() -> StudyView:
    """Ten complete candidates, of which two were not measured there; no limits."""
    task = make_task(limits=())
    made = [replace(c, state=State.COMPLETE, reason="") for c in make_candidates(task, 10)]
    on = "phone (cpu, onnxruntime, batch 1)"
    made = [
        replace(c, metrics={k: v for k, v in c.metrics.items() if k != "latency_ms"}, cost=Cost())
        if c.number in (3, 8)
        else replace(c, cost=Cost(replace(c.cost.latency, device=on)))
        for c in made
    ]
    return make_study(task=task, candidates=made, latency_on="phone")


@browser
def test_what_was_not_measured_is_not_drawn_as_outside_the_limits(tmp_path: Path) -> None:
    write(measured_on_a_phone(), tmp_path / "report.html")
    dom = dump_dom(tmp_path / "report.html")
    says = dom[dom.index('id="feasible"') : dom.index('id="families"')]
    assert "8 of 8 measured candidates inside," in says
    assert "; 2 not measured on phone." in says
    assert re.search(r'<li id="unmeasured">.*?○.*?not measured on phone', dom)
    rows = dom[dom.index('id="table"') : dom.index('id="selection"')]
    assert "latency (ms) on phone<" in rows
    assert "Measured on phone." in rows


@browser
def test_a_page_on_which_all_were_measured_has_no_mark_for_others(tmp_path: Path) -> None:
    write(make_study(12), tmp_path / "report.html")
    dom = dump_dom(tmp_path / "report.html")
    assert '<li id="unmeasured" hidden="">' in dom
    assert "not measured" not in dom[dom.index('id="feasible"') : dom.index('id="families"')]


# Shows each study in turn, as a dashboard would, and moves one slider of each.
DRIVER = """
const seen = {};
for (const [name, { update, metric, bound }] of Object.entries(STUDIES)) {
  Object.assign(view, { study: null, limits: new Map(), picks: [], below: true });
  receive({ study: name, ...update });
  drawPage(new Set(["data"]));
  const numbers = () => current().front.map((c) => c.number);
  const plotted = ({ scene }) => ({
    front: scene.traces.find((trace) => trace.name === "front").customdata,
    all: scene.points.filter((point) => point.c).map((point) => point.c.number),
    lines: scene.shape.shapes.map((line) => line.y0) });
  seen[name] = { first: numbers(),
    noisy: [...current().noisy].map(([point, other]) => [point.number, other.number]),
    says: document.getElementById("no-rows").textContent,
    verdict: document.querySelector("#tiles .tile:nth-child(2)")?.textContent,
    plots: study().facts.complete.length ? marks.map(plotted) : [] };
  const limit = current().limits.find((limit) => limit.metric === metric);
  view.limits.set(limit.key, bound);
  seen[name].moved = numbers();
}
document.body.replaceChildren(Object.assign(document.createElement("pre"),
  { id: "seen", textContent: JSON.stringify(seen) }));
"""


def update_of(study: StudyView) -> dict[str, Any]:
    return {"head": head(study), "table": table(study.candidates, study.task)}


@browser
def test_the_browser_computes_the_front_that_python_computes_under_any_limit(
    tmp_path: Path,
) -> None:
    studies, moved = {}, {}
    for name, make in CASES.items():
        study = make()
        values = [c.metrics["latency_ms"] for c in ranked(study)]
        bound = float(np.median(values)) if values else 1.0
        studies[name] = {"update": update_of(study), "metric": "latency_ms", "bound": bound}
        others = tuple(c for c in study.task.constraints if c.metric != "latency_ms")
        limits = (*others, Constraint("latency_ms", "<=", bound))
        moved[name] = replace(study, task=replace(study.task, constraints=limits))
    # Single precision: two equal shares of samples may differ by 3e-8.
    gaps = {
        "As good as simple models0 ": 3e-8,
        "Simple models: no clear difference": 0.01,
        "Not better ": 0.05,
        "Better ": -0.05,
    }
    for verdict, gap in gaps.items():
        update = update_of(against_simple_models(gap))
        studies[verdict] = {"update": update, "metric": "latency_ms", "bound": 1.0}
    # The page's own policy would refuse the driver, so this copy goes without.
    text = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", page(make_study(0)))
    driver = f"const STUDIES = {json.dumps(studies)};{DRIVER}"
    (tmp_path / "driven.html").write_text(
        text.replace("</body>", f"<script>{driver}</script></body>"), encoding="utf-8"
    )
    dom = dump_dom(tmp_path / "driven.html")
    seen = json.loads(html.unescape(dom[dom.index('<pre id="seen">') + 15 : dom.index("</pre>")]))
    for name, study in moved.items():
        first = [c.number for c in front(CASES[name]())]
        if name == "ties":  # of equal candidates either may come first
            first.sort()
            seen[name]["first"].sort()
        assert seen[name]["first"] == first, name
        assert set(seen[name]["moved"]) == reference_front(study), name
    assert seen["no candidates"]["says"] == "No candidate is complete yet."
    for name in ("classification", "regression", "two qualities"):
        case = CASES[name]()
        assert dict(seen[name]["noisy"]) == within_noise(front(case), case.task)
    # Each plot shows the front among all, and a line for each simple model.
    of = "classification"
    numbers = {c.number for c in ranked(CASES[of]())}
    assert len(seen[of]["plots"]) == 2
    for plot in seen[of]["plots"]:
        assert set(plot["front"]) == {c.number for c in front(CASES[of]())}
        assert set(plot["all"]) == numbers
        assert sorted(plot["lines"]) == [0.88, 0.903]
    for verdict in gaps:
        assert seen[verdict]["verdict"].startswith(verdict)
