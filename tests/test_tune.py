"""The Ray executor, with a real Ray and a formula in place of trainings: ``make ray``."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from test_local import finished, outcome, trained, wait_for
from test_local import search as search_locally

from nas.candidate import Candidate, State
from nas.search.loop import drive
from nas.search.study import Study, load_candidates
from nas.search.workers import Workers
from nas.space import Space, config_key
from nas.task import InputError, Task, UsageError
from nas.testing import EVALUATOR, small_spaces, small_task

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),  # Ray leaves sockets and files to the garbage collector
]

SPACE = Space.join(small_spaces())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray of our own, as a search without an address starts it."""
    from nas.search.cluster import Cluster

    with Cluster(cpus_per_trial=0.5, gpus_per_trial=0) as cluster:
        yield cluster


@pytest.fixture
def no_ray(cluster: Any) -> Iterator[None]:
    """For a test that needs a Ray of its own kind: the shared one is away meanwhile."""
    import ray

    cluster.close()
    yield
    ray.shutdown()
    cluster.__init__(cpus_per_trial=0.5, gpus_per_trial=0)


def search(
    folder: Path,
    cluster: Any,
    *,
    trials: int | None = None,
    workers: int = 2,
    task: Task | None = None,
    limit_s: float | None = None,
    on_event: Callable[[Workers], None] = lambda workers: None,
    lockstep: bool = False,
    **settings: Any,
) -> list[Candidate]:
    """As ``test_local.search``, on Ray; ``settings`` are those of FormulaEvaluator."""
    from nas.search.tune import TuneWorkers

    settings = {"folder": str(folder)} | settings
    with (
        closing(Study(folder, task or small_task(), SPACE)) as study,
        TuneWorkers(workers, EVALUATOR, settings, cluster, lockstep, folder / "logs") as pool,
    ):
        deadline = None if limit_s is None else time.monotonic() + limit_s
        drive(study, pool, trials=trials, deadline=deadline, on_event=on_event)
    return load_candidates(folder)


def actors(folder: Path) -> list[int]:
    """Processes that have built an evaluator."""
    return [int(line.split()[0]) for line in (folder / "evaluators.txt").read_text().splitlines()]


def test_forty_trials_are_trained_once_each_by_two_actors(tmp_path: Path, cluster: Any) -> None:
    candidates = search(tmp_path, cluster, trials=40, task=small_task(epochs=9))
    assert len(finished(candidates)) == 40
    assert len({config_key(c.family, c.config) for c in finished(candidates)}) == 40
    counted = trained(tmp_path)
    assert counted == Counter(
        f"{w} {c.root}" for c in finished(candidates) for w in ("begin", "end")
    )
    assert Counter(c.reason for c in candidates)["halving"] >= 3
    assert len(actors(tmp_path)) == 2
    logged = [(tmp_path / "logs" / f"worker-{i}.log").read_text().splitlines() for i in range(2)]
    worked = {line.split(": ")[0].split(" ", 1)[1] for lines in logged for line in lines}
    trainings = {f"evaluate candidate {c.number} ({c.family})" for c in candidates}
    assert worked - {"costs"} == trainings  # costs are measured where workers wait


def test_in_lockstep_ray_and_local_processes_give_the_same_study(
    tmp_path: Path, cluster: Any
) -> None:
    options: dict[str, Any] = {"trials": 24, "workers": 3, "lockstep": True}
    options |= {"task": small_task(epochs=9), "jitter": 0.02}
    studies = []
    for name in ("ray", "ray again", "local"):
        folder = tmp_path / name
        folder.mkdir()
        made = (
            search_locally(folder, **options)
            if name == "local"
            else search(folder, cluster, **options)
        )
        studies.append(outcome(made))
    assert studies[0] == studies[1] == studies[2]
    assert sum(row[7] == "halving" for row in studies[0]) >= 3
    assert len(actors(tmp_path / "ray")) == 3  # none is thrown away between rounds


def test_lockstep_with_more_workers_than_there_is_room_is_refused(
    tmp_path: Path, cluster: Any
) -> None:
    with pytest.raises(UsageError, match=r"must all run at once.* holds \d+; lower --workers"):
        search(tmp_path, cluster, trials=4, workers=cluster.workers + 1, lockstep=True)


def test_errors_nans_and_killed_workers_cost_one_candidate_each(
    tmp_path: Path, cluster: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    candidates = search(tmp_path, cluster, trials=12, die_once=[0], die=[1], fail=[7], nan=[6])
    lost = [c for c in candidates if c.reason == "lost"]
    assert sorted(c.root for c in lost) == [0, 1, 1]
    assert all(len(c.curve) >= 1 and "died" in c.detail for c in lost)
    first, again = [c for c in candidates if c.root == 0]
    assert (again.config, again.seed, again.state) == (first.config, first.seed, State.COMPLETE)
    assert [(c.state, c.reason) for c in candidates if c.root == 6] == [(State.PRUNED, "nan")]
    [wrong] = [c for c in candidates if c.root == 7]
    assert (wrong.state, wrong.reason) == (State.FAILED, "error")
    assert wrong.detail.strip().endswith("RuntimeError: candidate 7 cannot be trained")
    assert len({c.root for c in candidates}) == 12
    assert capfd.readouterr().out == ""  # which is for results


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("fail", "^a worker could not start: RuntimeError: no such device"),
        ("die", "^workers die while they start: "),
    ],
)
def test_actors_that_cannot_start_end_the_search_with_one_line(
    tmp_path: Path, cluster: Any, start: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        search(tmp_path, cluster, trials=4, start=start)
    assert "\n" not in str(error.value)


def test_an_actor_that_cannot_be_replaced_once_is_tried_again(tmp_path: Path, cluster: Any) -> None:
    """The only actor dies of the first candidate, and the next fails to start."""
    candidates = search(tmp_path, cluster, trials=4, workers=1, die_once=[0], broken=[2])
    assert [c.root for c in candidates if c.reason == "lost"] == [0]
    assert len(finished(candidates)) == 4
    assert len(set(actors(tmp_path))) >= 3


@pytest.mark.parametrize("limit_s", [None, 90.0])
def test_an_actor_that_hangs_costs_its_candidate_one_attempt(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch, limit_s: float | None
) -> None:
    from nas.search import tune, workers

    for module in (workers, tune):
        monkeypatch.setattr(module, "SILENCE_S", 6.0)
    monkeypatch.setattr(workers, "SILENCE_FACTOR", 0.0)
    begin = time.monotonic()
    candidates = search(tmp_path, cluster, trials=8, limit_s=limit_s, stop_once=[1], hang_once=[2])
    assert time.monotonic() - begin < 80.0
    lost = [c for c in candidates if c.reason == "lost"]
    assert sorted(c.root for c in lost) == [1, 2]
    assert all("gave no sign of life" in c.detail for c in lost)
    assert len(finished(candidates)) == 8
    wait_for(lambda: not any(map(stopped, actors(tmp_path))), seconds=20.0)


def stopped(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def test_an_actor_that_stops_while_it_rests_makes_room_for_the_next_call(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.search import tune, workers
    from nas.search.tune import TuneWorkers

    for module in (workers, tune):
        monkeypatch.setattr(module, "SILENCE_S", 6.0)
    with TuneWorkers(1, EVALUATOR, {"folder": str(tmp_path)}, cluster) as pool:
        pool.call_alone("baselines", on_wait=lambda _: None)
        os.kill(actors(tmp_path)[0], signal.SIGSTOP)
        value = pool.call_alone(
            "baselines", on_wait=lambda _: None, deadline=time.monotonic() + 60.0
        )
    assert value[0]["name"] == "majority"
    assert len(actors(tmp_path)) == 2


def test_a_ray_of_our_own_is_this_users_alone(cluster: Any) -> None:
    import ray

    folder = cluster._folder
    assert folder.stat().st_mode & 0o777 == 0o700
    address = ray.get_runtime_context().gcs_address
    code = f"import ray; ray.init({address!r}, log_to_driver=False)"
    bare = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    ends = [
        subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=120)
        for env in (bare, bare | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}, os.environ)
    ]
    assert [end.returncode == 0 for end in ends] == [False, False, True]


def test_the_deadline_stops_those_that_report_and_ends_those_that_do_not(
    tmp_path: Path, cluster: Any
) -> None:
    for name, pace in (("reports", 0.1), ("silent", 60.0)):
        folder = tmp_path / name
        folder.mkdir()
        # The first actors are up when the time begins: they need seconds to start.
        begin = time.monotonic()
        candidates = search(
            folder, cluster, limit_s=12.0, task=small_task(epochs=1000), seconds_per_epoch=pace
        )
        assert time.monotonic() - begin < 25.0
        assert [c.reason for c in candidates] == ["interrupted"] * len(candidates)
        begun = [c for c in candidates if trained(folder)[f"begin {c.root}"]]
        assert all(bool(c.curve) == (name == "reports") for c in begun)


def test_more_workers_than_the_cluster_holds_wait_and_none_is_forgotten(
    tmp_path: Path, cluster: Any
) -> None:
    candidates = search(tmp_path, cluster, trials=12, workers=cluster.workers + 2)
    assert len(finished(candidates)) == 12
    assert {c.reason for c in candidates} <= {"", "halving"}


def test_a_candidate_that_waits_for_a_node_spends_no_device_hours(
    tmp_path: Path, cluster: Any
) -> None:
    workers = cluster.workers + 2
    candidates = search(tmp_path, cluster, workers=workers, limit_s=20.0, seconds_per_epoch=60.0)
    begun = [bool(trained(tmp_path)[f"begin {c.root}"]) for c in candidates]
    assert begun.count(False) >= 2
    for candidate, has_begun in zip(candidates, begun, strict=True):
        assert (candidate.seconds > 0) == has_begun


def test_calls_and_isolated_measurements_work_as_with_processes(
    tmp_path: Path, cluster: Any
) -> None:
    from nas.search.tune import TuneWorkers

    results: list[Any] = []
    with (
        closing(Study(tmp_path, small_task(), SPACE)) as study,
        TuneWorkers(2, EVALUATOR, {"folder": str(tmp_path)}, cluster) as pool,
    ):
        drive(
            study, pool, trials=2, calls={"baselines": {}}, on_result=lambda *it: results.append(it)
        )
        [(method, value)] = results
        assert (method, value[0]["name"]) == ("baselines", "majority")
        for best in study.front():
            latency = pool.call_alone("latency", candidate=best.to_dict(), on_wait=lambda _: None)
            assert latency["ms"] == pytest.approx(0.9 * best.metrics["latency_ms"])
        drive(
            study, pool, trials=3, calls={"nothing": {}}, on_result=lambda *it: results.append(it)
        )
        assert "nothing failed: AttributeError" in str(results[1][1])


# -- clusters of other kinds -----------------------------------------------------------------


@pytest.mark.usefixtures("no_ray")
def test_a_quarter_of_a_gpu_is_what_a_trial_gets(tmp_path: Path) -> None:
    import ray

    from nas.search.cluster import Cluster

    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    with pytest.raises(UsageError, match=r"no node .* has 0.25 CPUs and 2 GPUs"):
        Cluster(cpus_per_trial=0.25, gpus_per_trial=2)
    cluster = Cluster(cpus_per_trial=0.25, gpus_per_trial=0.25)
    assert cluster.workers == 4
    candidates = search(tmp_path, cluster, trials=12, workers=4)
    assert len(finished(candidates)) == 12
    seen = (tmp_path / "evaluators.txt").read_text().splitlines()
    assert [line.split()[1] for line in seen] == ["0"] * 4


@pytest.mark.usefixtures("no_ray")
def test_a_node_that_is_lost_costs_its_candidates_an_attempt(tmp_path: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster as Nodes

    from nas.search.cluster import Cluster, beside_driver
    from nas.search.tune import _Answers

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0})
    doomed = [nodes.add_node(num_cpus=1) for _ in range(2)][1]
    ray.init(nodes.address, log_to_driver=False)
    here = ray.get_runtime_context().get_node_id()
    for _ in range(6):  # answers go with no node but the driver's
        answers = beside_driver(_Answers)
        where = lambda _: ray.get_runtime_context().get_node_id()  # noqa: E731
        assert ray.get(answers.__ray_call__.remote(where)) == here
        ray.kill(answers)
    killed: list[float] = []

    def kill(workers: Workers) -> None:
        lines = trained(tmp_path)
        busy = [job.root for job in workers.jobs() if isinstance(job, Candidate)]
        training = [r for r in busy if lines[f"begin {r}"] > lines[f"end {r}"]]
        if not killed and len(lines) >= 8 and len(training) == 2:
            nodes.remove_node(doomed, allow_graceful=False)
            killed.append(time.time())

    try:
        cluster = Cluster(gpus_per_trial=0)
        assert cluster.workers == 2
        candidates = search(
            tmp_path, cluster, trials=14, on_event=kill, seconds_per_epoch=0.2, task=small_task()
        )
    finally:
        ray.shutdown()
        nodes.shutdown()
    lost = [c for c in candidates if c.reason == "lost"]
    assert killed
    assert len(lost) == 1
    assert len(finished(candidates)) == 14
    assert lost[0].root in {c.root for c in finished(candidates)}


@pytest.mark.usefixtures("no_ray")
def test_a_worker_that_is_ended_for_its_memory_costs_its_candidate_an_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.search.cluster import Cluster

    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(meminfo[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    threshold = 1 - (free - 4 * 2**20) / total  # when four GiB more are taken
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{threshold:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "50")
    with Cluster(gpus_per_trial=0) as cluster:
        candidates = search(tmp_path, cluster, trials=6, hog=[1], task=small_task(epochs=2))
    lost = [c for c in candidates if c.reason == "lost"]
    assert {c.root for c in lost} >= {1}
    assert any("memory" in c.detail for c in lost if c.root == 1)
    assert len({c.root for c in finished(candidates)}) >= 4


TOKEN = "8d1f6c0e7b3a4d5f9e2c1b0a7f6e5d4c8d1f6c0e7b3a4d5f9e2c1b0a7f6e5d4c"


@pytest.mark.usefixtures("no_ray")
def test_a_cluster_that_was_started_and_asks_for_a_token_is_joined(tmp_path: Path) -> None:
    short = tempfile.mkdtemp()  # a socket's path has at most 107 characters
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    port = 26379
    node = subprocess.Popen(
        [
            *(Path(sys.executable).with_name("ray"), "start", "--head", "--block"),
            *("--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false"),
            *("--num-cpus=2", f"--temp-dir={short}"),
        ],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert node.stdout is not None
        for line in node.stdout:
            if b"Ray runtime started" in line:
                break
        address = f"127.0.0.1:{port}"
        folder = tmp_path / "run"
        folder.mkdir()
        joined = driver(folder, trials=4, address=address, environment=environment)
        assert joined.wait(90) == 0
        assert len(finished(load_candidates(folder))) == 4
        assert node.poll() is None  # it was not ours to end
        wrong = environment | {"RAY_AUTH_TOKEN": TOKEN[::-1]}
        assert driver(folder, trials=8, address=address, environment=wrong).wait(90) != 0
        assert len(finished(load_candidates(folder))) == 4
    finally:
        node.terminate()
        node.wait(30)
        shutil.rmtree(short, ignore_errors=True)


def test_an_address_where_nothing_answers_is_one_line(tmp_path: Path) -> None:
    code = "from nas.search.cluster import Cluster; Cluster('127.0.0.1:1', gpus_per_trial=0)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "InputError: no Ray cluster answers at 127.0.0.1:1" in last
    assert "ray start --head" in last


@pytest.mark.usefixtures("no_ray")
def test_a_cluster_of_which_this_machine_is_no_node_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    from nas.search.cluster import Cluster

    def init(*_: Any, **__: Any) -> None:
        raise RuntimeError("No node info found matching attributes")  # Ray says so after a minute

    monkeypatch.setattr(ray, "init", init)
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        with pytest.raises(InputError, match=f"at {address} cannot be joined from here") as error:
            Cluster(address, gpus_per_trial=0)
    assert "on one of its nodes" in str(error.value)
    assert "ray job submit" in str(error.value)


# -- the driver is interrupted or killed -----------------------------------------------------

DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
sys.path.insert(0, {tests!r})
from nas.search.cluster import Cluster
from test_tune import search, small_task
with Cluster({address!r}, gpus_per_trial=0) as cluster:
    try:
        search(
            Path({folder!r}), cluster, trials={trials}, task=small_task(), seconds_per_epoch=0.03
        )
    except KeyboardInterrupt:
        sys.exit(130)
assert "torch" not in sys.modules
"""


def driver(
    folder: Path,
    trials: int,
    address: str | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    tests = str(Path(__file__).parent)
    script = DRIVER.format(tests=tests, folder=str(folder), trials=trials, address=address)
    return subprocess.Popen([sys.executable, "-c", script], env=environment)


def alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


@pytest.mark.usefixtures("no_ray")
def test_a_killed_driver_takes_its_ray_along_and_a_resume_repeats_nothing(tmp_path: Path) -> None:
    from nas.search.cluster import Cluster

    process = driver(tmp_path, trials=1000)
    wait_for(lambda: trained(tmp_path).total() > 16, seconds=60.0)
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(alive, actors(tmp_path))), seconds=15.0)
    before = load_candidates(tmp_path)
    kept = {c.root: c for c in finished(before)}
    running = {c.root for c in before if c.state == State.RUNNING}
    assert len(kept) >= 6
    assert running
    with Cluster(gpus_per_trial=0) as cluster:
        candidates = search(tmp_path, cluster, trials=len(kept) + len(running) + 2)
    after = {c.root: c for c in finished(candidates)}
    assert {root: after[root] for root in kept} == kept
    assert running <= set(after)
    assert len(after) == len(kept) + len(running) + 2


@pytest.mark.usefixtures("no_ray")
def test_ctrl_c_keeps_what_is_finished_and_queues_the_rest(tmp_path: Path) -> None:
    process = driver(tmp_path, trials=1000)
    wait_for(lambda: trained(tmp_path).total() > 12, seconds=60.0)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert not any(map(alive, actors(tmp_path)))
    candidates = load_candidates(tmp_path)
    assert Counter(c.reason for c in candidates)["interrupted"] <= 2
    assert not [c for c in candidates if c.state == State.RUNNING]
    assert len(finished(candidates)) >= 4


# -- a search with trainings -----------------------------------------------------------------


@pytest.mark.usefixtures("no_ray")
def test_a_deterministic_search_finds_the_same_on_ray_and_with_processes(tmp_path: Path) -> None:
    import numpy as np
    from sklearn.datasets import load_breast_cancer

    import nas

    x, y = load_breast_cancer(return_X_y=True, as_frame=True)
    table = x.assign(diagnosis=np.where(y == 1, "benign", "malignant"))
    options: dict[str, Any] = {"trials": 6, "epochs": 6, "workers": 2, "device": "cpu"}

    def figures(executor: str) -> list[Any]:
        out = tmp_path / executor
        run = nas.search(
            table, "diagnosis", out=out, executor=executor, deterministic=True, **options
        )
        assert run.front()
        assert run.baselines()
        assert all(c.cost.latency is not None and c.cost.latency.isolated for c in run.front())
        assert (
            sum(layer["params"] for layer in run.layers(0)) == run.candidates()[0].metrics["params"]
        )
        candidates = run.candidates()
        for candidate in candidates:
            candidate.metrics.pop("latency_ms", None)
        return outcome(candidates)

    assert figures("ray") == figures("local")


@pytest.mark.usefixtures("no_ray")
def test_data_that_are_too_large_to_be_sent_are_read_from_the_runs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nas
    from nas import remote

    monkeypatch.setattr(remote, "resident_limit", lambda: 0)
    load = remote.Dataset.load

    def mapped_alone(folder: Path, *, mapped: bool = True) -> Any:
        assert mapped, "the head holds all of the data"
        return load(folder)

    monkeypatch.setattr(remote.Dataset, "load", mapped_alone)
    table = tmp_path / "table.csv"
    rows = "\n".join(f"{i},{i % 7},{'no' if i < 60 else 'yes'}" for i in range(120))
    table.write_text(f"a,b,y\n{rows}\n")
    run = nas.search(
        table, target="y", trials=2, epochs=1, workers=1, families=("mlp",), executor="ray",
        out=tmp_path / "run", finish=False,
    )  # fmt: skip
    assert [c.state for c in run.candidates()] == [State.COMPLETE] * 2
