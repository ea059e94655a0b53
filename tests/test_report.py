"""The report page: what it holds, what it must never do, and what it shows in a browser."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from nas.candidate import Candidate, Cost, Latency, State
from nas.front import constant_guess, pareto
from nas.report import StudyView, page, payload, ranked, write
from nas.space import Choice, Float, Int, Space
from nas.task import Column, Constraint, DataProfile, Target, Task, UsageError

FAMILIES = ("mlp", "tabnet", "ft_transformer")
REASONS = ("halving", "halving", "nan", "exploding", "oom", "infeasible")


def make_task(kind: str = "multiclass", limits: tuple[str, ...] = ("latency_ms<=3",)) -> Task:
    classes = ("setosa", "versicolor", "virginica") if kind == "multiclass" else ()
    target = Target("y", kind, classes, (312, 98, 41) if classes else (), mean=2.1, std=1.2)  # type: ignore[arg-type]
    profile = DataProfile(
        n_train=451,
        n_val=97,
        n_test=97,
        inputs={"numeric": (8,), "categorical": (3,)},
        columns=(Column("age", "numeric", missing=0.03), Column("city", "categorical")),
        fingerprint="5f0c1d9e",
        split="91ab77c2",
        split_method="stratified 70/15/15, seed 0",
    )
    task = Task("tabular", (target,), profile).with_objectives()
    return replace(task, constraints=tuple(map(Constraint.parse, limits)))


def make_candidates(
    task: Task, n: int, seed: int = 0, families: tuple[str, ...] = FAMILIES
) -> list[Candidate]:
    """Plausible candidates: quality saturates with size, latency follows size with noise."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(n):
        family = families[number % len(families)]
        depth, width = int(rng.integers(1, 7)), int(2 ** rng.uniform(4, 9))
        params = 11 * width + depth * width * width
        gap = 0.35 * math.exp(-0.3 * math.log10(params)) + abs(rng.normal(0, 0.03))
        lr = float(10 ** rng.uniform(-4, -1.5))
        latency = 0.05 * depth + params / 4e5 + abs(rng.normal(0, 0.1)) + number % len(families)
        score = {"accuracy": 0.99 - gap, "auc": 0.995 - gap / 2}
        quality = (
            score if task.default_quality == "accuracy" else {"rmse": 0.4 + 2 * gap, "r2": 1 - gap}
        )
        epochs = int(rng.integers(5, 21))
        worse = -0.5 if task.default_quality == "accuracy" else 1.0
        curve = tuple(
            {"epoch": e, "loss": 1.4 * math.exp(-e / 5) + 0.1, "val_loss": 1.2 * math.exp(-e / 6)}
            | {
                "lr": lr,
                task.default_quality: quality[task.default_quality]
                * (1 + worse * math.exp(-e / 3)),
            }
            for e in range(epochs)
        )
        layers = tuple(
            {"name": f"blocks.{i}.{part}", "type": kind, "output": [width], "params": size}
            for i in range(depth)
            for part, kind, size in (
                ("norm", "BatchNorm1d", 2 * width),
                ("linear", "Linear", width * width + width),
                ("act", "ReLU", 0),
            )
        )
        candidate = Candidate(
            number=number,
            family=family,
            config={"depth": depth, "width": width, "dropout": round(float(rng.random()) / 2, 3)}
            | {"norm": ("batch", "layer", "none")[number % 3], "lr": lr, "residual": depth > 3},
            seed=number,
            origin="baseline" if number < len(families) else "sampled",
            epochs=20,
            metrics=quality | {"latency_ms": latency, "params": params, "flops": 2.0 * params},
            curve=curve,
            cost=Cost(
                Latency(latency, latency / 9, isolated=number % 4 > 0, threads=1, batch=1),
                step_ms=latency * 30,
            ),
            gradient_norms={
                f"blocks.{i}.linear": float(10 ** rng.normal(-2, 1)) for i in range(depth)
            },
            layers=layers,
            state=State.COMPLETE,
            started=1.7e9 + 7.0 * number + 1,
            seconds=4 + 10 * float(rng.random()),
        )
        if number >= 3 and rng.random() < 0.25:
            reason = REASONS[int(rng.integers(len(REASONS)))]
            state = State.FAILED if reason == "oom" else State.PRUNED
            detail = f"gradient norm of blocks.0.linear was {rng.normal():.3g}"
            candidate = replace(candidate, state=state, reason=reason, detail=detail)
        made.append(candidate)
    return made


def make_study(n: int = 60, kind: str = "multiclass", **changes: object) -> StudyView:
    task = make_task(kind)
    space = Space(
        (
            Int("depth", 1, 6, 3, why=("depth-from-data",)),
            Int("width", 16, 512, 128, log=True, why=("width-from-data", "params-per-sample")),
            Choice("residual", (False, True), True, why=("residual-when-deep",)),
            Float("dropout", 0.0, 0.5, 0.1, why=("dropout-from-risk",)),
            Choice("norm", ("batch", "layer", "none"), "batch", when={"residual": (True,)}),
            Float("lr", 1e-4, 3e-2, 1e-3, log=True, why=("lr-range-test",)),
        )
    )
    quality = {"accuracy": 0.88, "auc": 0.93} if kind == "multiclass" else {"rmse": 0.61}
    better = {"accuracy": 0.903, "auc": 0.95} if kind == "multiclass" else {"rmse": 0.55}
    study = StudyView(
        task=task,
        candidates=make_candidates(task, n),
        baselines=(
            {"name": "LogisticRegression", "metrics": quality, "seconds": 0.4},
            {"name": "HistGradientBoosting", "metrics": better, "seconds": 1.9},
        ),
        name="iris-large" if kind == "multiclass" else "house-prices",
        spaces=dict.fromkeys(FAMILIES, space),
        rules={
            "depth-from-data": ("Depth grows with the training samples.", "Tan & Le 2019, sec. 3"),
            "width-from-data": ("Width grows with the complexity of the data.", "design rules"),
            "params-per-sample": ("At most 100 parameters per sample.", "design rules"),
            "residual-when-deep": ("Residual from ten layers on.", "He et al. 2016, sec. 4.1"),
            "dropout-from-risk": ("Dropout follows the risk of overfitting.", "Srivastava 2014"),
        },
        notes=("Latency was measured again on the isolated device for the front.",),
        seconds=431.0,
        versions={"nas": "0.1.0", "torch": "2.13.0"},
    )
    return replace(study, **changes)  # type: ignore[arg-type]


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
        self.data = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.addresses += [str(given[name]) for name in ("src", "href", "action") if name in given]
        self.events += [name for name in given if name.startswith("on")]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = str(given["content"])
        if tag not in ("meta", "input", "br"):
            self.stack.append(tag if given.get("id") != "data" else "data")

    def handle_endtag(self, tag: str) -> None:
        opened = self.stack.pop()
        assert opened == tag or (opened, tag) == ("data", "script"), f"<{opened}> ended by </{tag}>"

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] == "data":
            self.data += data


def test_page_is_balanced_html_whose_data_are_the_payload(study: StudyView) -> None:
    reader = Reader(page(study))
    assert reader.stack == []
    assert json.loads(reader.data) == json.loads(json.dumps(payload(study)))


def reference_front(study: StudyView) -> set[int]:
    task, complete = study.task, [c for c in study.candidates if c.state == State.COMPLETE]
    guess = constant_guess(task)
    return {c.number for c in pareto(complete, task.objectives, task.constraints, guess)}


def test_guesses_are_on_the_front_only_where_there_is_nothing_else() -> None:
    assert {n % 3 for n in payload(make_guesses(3))["front"]} == {1, 2}
    assert payload(make_guesses(1))["front"]


def test_page_carries_exactly_the_pareto_front_best_quality_first(study: StudyView) -> None:
    numbers = payload(study)["front"]
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
    assert json.loads(hostile.data)["name"] == HOSTILE


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
    data = json.loads(Reader(text).data)
    escaped = r"a\u202eb\u2066c\x1b[31md\x00\ud800\u2028e"
    assert data["name"] == data["notes"][0] == data["candidates"][0]["family"] == escaped
    assert data["profile"]["targets"][0]["name"] == escaped
    assert f"<title>{escaped} " in text
    assert not set("\u202e\u2066\x1b\x00\u2028") & set(json.dumps(data, ensure_ascii=False))


def test_ten_thousand_candidates_stay_under_fifteen_megabytes() -> None:
    text = page(make_study(10_000))
    data = json.loads(Reader(text).data)
    assert len(text.encode()) < 15e6
    assert {str(n) for n in data["front"]} <= set(data["details"])


def test_a_complete_candidate_without_an_objective_is_counted_and_not_ranked() -> None:
    study = make_study(12)
    first, second, *rest = study.candidates
    unmeasured = replace(first, metrics={"accuracy": 1.0})
    broken = replace(second, metrics=second.metrics | {"accuracy": math.nan})
    study = replace(study, candidates=[unmeasured, broken, *rest])
    data = payload(study)
    assert data["unranked"] == 2
    assert not {first.number, second.number} & set(data["front"])
    assert data["candidates"][1]["metrics"]["accuracy"] is None


def test_each_reason_of_failure_keeps_the_details_of_an_example() -> None:
    study = make_study(60)
    data = payload(study)
    reasons = {(c.state, c.reason) for c in study.candidates if c.state != State.COMPLETE}
    kept = [c for c in study.candidates if str(c.number) in data["details"]]
    assert {(c.state, c.reason) for c in kept if c.state != State.COMPLETE} == reasons


def test_a_task_without_a_quality_objective_is_refused() -> None:
    with pytest.raises(UsageError, match="with_objectives"):
        replace(make_study(1), task=replace(make_task(), objectives=()))


# ---- in a browser -------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to run the page")


def dump_dom(file: Path) -> str:
    """The document after its scripts have run."""
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
        " --disable-background-networking --disable-component-update --disable-sync"
        " --window-size=1400,1600 --virtual-time-budget=8000 --dump-dom"
    )
    profile = f"--user-data-dir={file.parent / 'profile'}"
    command = [str(CHROMIUM), *flags.split(), profile, file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    # Without plotly.js itself, which holds whatever one may search for.
    return re.sub(r"<script>.*?</script>", "", done.stdout, flags=re.DOTALL)


@browser
def test_the_policy_lets_the_page_run_and_hostile_names_stay_text_in_it(tmp_path: Path) -> None:
    study = hostile_study()
    write(study, tmp_path / "report.html")
    dom = dump_dom(tmp_path / "report.html")
    assert 'data-ready="yes"' in dom
    table = dom[dom.index('id="front-rows"') : dom.index('id="baseline-rows"')]
    assert set(map(int, re.findall(r'data-number="(\d+)"', table))) == reference_front(study)
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
    dom = dump_dom(tmp_path / "report.html")
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
    dom = dump_dom(tmp_path / "report.html")
    head = dom[dom.index('id="counts"') : dom.index('id="spent"')]
    assert re.search(r" · 2 cut off(?! \()", head)
    assert re.search(r" failed \([^)]*lost 1", head)
    assert "interrupted" not in head
    table = dom[dom.index('id="failures"') : dom.index('id="selection"')]
    row = next(row for row in table.split("<tr>") if "<b>cut off</b>" in row)
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
    dom = dump_dom(tmp_path / "report.html")
    table = dom[dom.index('id="failures"') : dom.index('id="selection"')]
    assert html.escape(sentence) in table


@browser
def test_the_pause_before_a_resume_takes_no_room_on_the_axis_of_time(tmp_path: Path) -> None:
    made = [replace(c, state=State.COMPLETE, reason="") for c in make_study(30).candidates]
    later = [replace(c, started=c.started + 86_400) if c.number >= 15 else c for c in made]
    write(make_study(candidates=later), tmp_path / "report.html")
    dom = dump_dom(tmp_path / "report.html")
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
    says = dom[dom.index('id="feasible"') : dom.index('id="reset"')]
    assert "8 of 8 measured candidates inside," in says
    assert "; 2 not measured on phone." in says
    assert re.search(r'<li id="unmeasured">.*?○.*?not measured on phone', dom)
    # Both are hollow marks over their parameters and over time; nothing is outside a limit.
    hollow = r'class="point[^>]*stroke: rgb\(125, 140, 153\)'
    outside = r'class="point[^>]*fill: rgb\(207, 214, 220\)'
    for drawn in dom[dom.index('id="plots"') :].split('id="pair"'):
        assert len(re.findall(hollow, drawn)) == 2
        assert not re.findall(outside, drawn)
    table = dom[dom.index('id="front"') : dom.index('id="progress-title"')]
    assert ">latency (ms) on phone<" in table, "the header is short"
    assert "Measured on phone (cpu, onnxruntime, batch 1)." in table, "the note has the rest"


@browser
def test_a_page_on_which_all_were_measured_has_no_mark_for_others(tmp_path: Path) -> None:
    write(make_study(12), tmp_path / "report.html")
    dom = dump_dom(tmp_path / "report.html")
    assert '<li id="unmeasured" hidden="">' in dom
    assert "not measured" not in dom[dom.index('id="feasible"') : dom.index('id="reset"')]


# Renders each study in turn, as a live page would, and moves one slider of each.
DRIVER = """
const rows = () => [...document.querySelectorAll("#front-rows tr[data-number]")]
  .map((row) => Number(row.dataset.number));
const plotted = ({ data, layout }) => ({
  front: data.filter((t) => t.marker?.line?.width === 1).flatMap((t) => t.customdata),
  all: [...new Set(data.flatMap((t) => t.customdata ?? []))],
  lines: layout.shapes.map((line) => line.y0) });
const seen = {};
for (const [name, { data, metric, bound }] of Object.entries(STUDIES)) {
  view.limits = [];
  render(data);
  seen[name] = { first: rows(), says: document.getElementById("front-rows").textContent,
    verdict: document.querySelector("#tiles .tile:nth-child(2)")?.textContent,
    plots: [...document.querySelectorAll("#plots .plot")].map(plotted) };
  const limit = view.limits.find((limit) => limit.metric === metric);
  limit.bound = bound;
  explore();
  seen[name].moved = rows();
}
document.body.replaceChildren(Object.assign(document.createElement("pre"),
  { id: "seen", textContent: JSON.stringify(seen) }));
"""


@browser
def test_the_browser_computes_the_front_that_python_computes_under_any_limit(
    tmp_path: Path,
) -> None:
    studies, moved = {}, {}
    for name, make in CASES.items():
        study = make()
        values = [c.metrics["latency_ms"] for c in ranked(study)]
        bound = float(np.median(values)) if values else 1.0
        studies[name] = {"data": payload(study), "metric": "latency_ms", "bound": bound}
        others = tuple(c for c in study.task.constraints if c.metric != "latency_ms")
        limits = (*others, Constraint("latency_ms", "<=", bound))
        moved[name] = replace(study, task=replace(study.task, constraints=limits))
    # Single precision: two equal shares of samples may differ by 3e-8.
    gaps = {"As good as simple models0 ": 3e-8, "Not better ": 0.01, "Better ": -0.01}
    for verdict, gap in gaps.items():
        data = payload(against_simple_models(gap))
        studies[verdict] = {"data": data, "metric": "latency_ms", "bound": 1.0}
    # The page's own policy would refuse the driver, so this copy goes without.
    text = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", page(make_study(0)))
    driver = f"const STUDIES = {json.dumps(studies)};{DRIVER}"
    (tmp_path / "driven.html").write_text(
        text.replace("</body>", f"<script>{driver}</script></body>"), encoding="utf-8"
    )
    dom = dump_dom(tmp_path / "driven.html")
    seen = json.loads(html.unescape(dom[dom.index('<pre id="seen">') + 15 : dom.index("</pre>")]))
    for name, study in moved.items():
        assert seen[name]["first"] == studies[name]["data"]["front"], name
        assert set(seen[name]["moved"]) == reference_front(study), name
    assert seen["no candidates"]["says"] == "No candidate is complete yet."
    # Each plot shows the front among all, and a line for each simple model.
    of = "classification"
    numbers = {c.number for c in ranked(CASES[of]())}
    assert len(seen[of]["plots"]) == 2
    for plot in seen[of]["plots"]:
        assert set(plot["front"]) == set(studies[of]["data"]["front"])
        assert set(plot["all"]) == numbers
        assert sorted(plot["lines"]) == [0.88, 0.903]
    for verdict in gaps:
        assert seen[verdict]["verdict"].startswith(verdict)
