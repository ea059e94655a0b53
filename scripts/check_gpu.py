"""Does everything that needs a GPU work on this machine? One command, about ten minutes.

    python scripts/check_gpu.py [--json check.json] [--only families syncs]
    python scripts/check_gpu.py --cpu              every part that makes sense without one

Prints a line for each figure, ``name value limit PASS|FAIL``, and ends with exit code 4 where one
fails. A part that raises is a failure that says so; what a CPU cannot show is left out with --cpu.

environment  torch, GPUs, their UUIDs, MIG and MPS
families     the loss and gradients of every family, its baseline and three samples, in bfloat16
             against float32
hub          a node with 5,000 neighbours under mixed precision, against float64
syncs        how often a training step makes the host wait for the device
steps        a step in a plain loop, in Lightning, and with the monitors
memory       predicted against measured
oom          a training after memory ran out, and the share of a worker
assert       a device that is lost under one of two workers, and the candidates after that
latency      of a network twice, alone and beside a training, and the order of several
workers      candidates a minute with 1, 2, 4 and 8 workers
search       a search of a minute, `nas train`, and `nas train --check`
devices      two devices train as one with batches of twice the size
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nas.candidate import Candidate, State
from nas.family import load_families
from nas.machine import visible_gpus
from nas.plan import make_task
from nas.search.local import LocalWorkers
from nas.search.loop import drive
from nas.search.study import Study, load_candidates
from nas.space import Space
from nas.task import Budget, Modality, Task
from nas.testing import example_datasets
from nas.training import cost, device, latency
from nas.training.batches import Batches, made_up_inputs
from nas.training.evaluator import Evaluator
from nas.training.fit import fit_proxy, folds
from nas.training.monitors import GradientMonitor
from nas.training.proxy import Proxy, quiet_lightning

MODALITIES: tuple[Modality, ...] = get_args(Modality)
STEPS = 200  # of a training whose steps are timed
FAIL = 4  # exit code


@dataclass(frozen=True)
class Figure:
    name: str
    value: float | str
    limit: str
    passed: bool

    def __str__(self) -> str:
        value = f"{self.value:.4g}" if isinstance(self.value, float) else self.value
        return f"{self.name:44} {value:>14} {self.limit:>12} {'PASS' if self.passed else 'FAIL'}"


def at_most(name: str, value: float, limit: float) -> Figure:
    return Figure(name, float(value), f"<= {limit:g}", bool(value <= limit))


def between(name: str, value: float, low: float, high: float) -> Figure:
    return Figure(name, float(value), f"{low:g}..{high:g}", bool(low <= value <= high))


def told(name: str, value: float | str) -> Figure:
    """What is shown without a limit."""
    return Figure(name, value, "", passed=True)


# -- parts -----------------------------------------------------------------------------------------


def environment(on: str) -> Iterator[Figure]:
    yield told("torch", torch.__version__)
    if on == "cpu":
        yield told("cores", float(os.cpu_count() or 1))
        return
    yield told("cuda", str(torch.version.cuda))
    for i in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(i)
        yield told(f"gpu {i}", f"{found.name}, {found.total_memory / 2**30:.0f} GiB")
        yield told(f"gpu {i} id", device.name(f"cuda:{i}"))
    yield told("precision", device.precision(on))
    yield told("MIG", "yes" if "MIG" in os.environ.get("CUDA_VISIBLE_DEVICES", "") else "no")
    yield told("MPS", "yes" if "CUDA_MPS_PIPE_DIRECTORY" in os.environ else "no")


def _task(modality: Any, on: str) -> tuple[Any, Task]:
    dataset = next(iter(example_datasets(modality).values()))
    return dataset, make_task(dataset, budget=Budget(None, 1), device=on, epochs=1)


def families(on: str) -> Iterator[Figure]:
    """Losses may differ by 2 %. Gradients differ more where BatchNorm over 16 samples or a maximum
    over points lets another sample decide: half of their norm."""
    for modality in MODALITIES:
        dataset, task = _task(modality, on)
        for name, family in load_families(modality).items():
            rng, space = np.random.default_rng(0), family.space(task)
            worst, bad = [0.0, 0.0], 0
            for config in [space.baseline(), *(space.sample(rng) for _ in range(3))]:
                exact, mixed = (_loss_and_norm(name, config, task, dataset, on, m)
                                for m in (False, True))  # fmt: skip
                bad += not all(map(math.isfinite, (*exact, *mixed)))
                apart = [abs(a - b) / max(abs(a), 1e-6) for a, b in zip(exact, mixed, strict=True)]
                worst = [max(pair) for pair in zip(worst, apart, strict=True)]
            yield at_most(f"{name}: loss in bfloat16", worst[0], 0.02)
            yield at_most(f"{name}: gradient in bfloat16", worst[1], 0.5)
            yield at_most(f"{name}: not finite", bad, 0)


def _loss_and_norm(
    name: str, config: Any, task: Task, dataset: Any, on: str, mixed: bool
) -> tuple[float, float]:
    plain = {k: v for k, v in config.items() if k != "augment"}
    without = {k: 0.0 for k in plain if "drop" in k and isinstance(plain[k], float)}
    torch.manual_seed(0)
    module = Proxy(name, dict(config) | without, task).to(on).train()
    train, _ = folds(dataset, task)[0]
    batch = next(iter(Batches(*train, 16, seed=0)))
    torch.manual_seed(0)
    with torch.autocast(on, torch.bfloat16, enabled=mixed):
        loss = module.training_step(batch, 0)
    loss.backward()
    grads = [p.grad.double().norm() for p in module.parameters() if p.grad is not None]
    return float(loss.detach()), float(torch.stack(grads).norm())


def hub(on: str, neighbours: int = 5_000) -> Iterator[Figure]:
    """A star of equal nodes: in bfloat16 a sum of them stops growing at 256."""
    _, task = _task("graphs", on)
    for name in load_families("graphs"):
        config = load_families("graphs")[name].space(task).baseline()
        torch.manual_seed(0)
        module = Proxy(name, dict(config), task).to(on).eval()
        width = task.profile.inputs["nodes"][-1]
        star = torch.stack([torch.arange(1, neighbours + 1), torch.zeros(neighbours).long()], 1)
        inputs = {
            "nodes": torch.ones(neighbours + 1, width, device=on),
            "nodes_length": torch.tensor([neighbours + 1], device=on),
            "edges": star.to(on),
        }
        if "edge_features" in task.profile.inputs:
            shape = (neighbours, task.profile.inputs["edge_features"][-1])
            inputs["edge_features"] = torch.ones(shape, device=on)
        with torch.no_grad():
            exact = module(**inputs).double()
            with torch.autocast(on, torch.bfloat16):
                mixed = module(**inputs).double()
        apart = float((exact - mixed).abs().max() / exact.abs().max().clamp(min=1e-6))
        yield at_most(f"{name}: a hub of {neighbours}", apart, 0.05)


class _Waits(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: reads of single values and masks."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        waits = ("_local_scalar_dense", "aten.nonzero", "aten._unique", "aten.equal")
        masked = name.startswith("aten.index.Tensor") and any(
            getattr(i, "dtype", None) == torch.bool for i in args[1] if i is not None
        )
        self.count += masked or any(wait in name for wait in waits)
        return func(*args, **(kwargs or {}))


@contextmanager
def _counted(on: str) -> Iterator[Callable[[], int]]:
    """How often the host waits: CUDA's own warnings, or on a CPU what would be one."""
    if on == "cpu":
        with _Waits() as mode:
            yield lambda: mode.count
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lambda: sum("synchroniz" in str(w.message) for w in caught)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def syncs(on: str) -> Iterator[Figure]:
    """Of whole batches that are on the device, without Lightning: what networks and batches do."""
    for modality in MODALITIES:
        dataset, task = _task(modality, on)
        for name, family in load_families(modality).items():
            torch.manual_seed(0)
            module = Proxy(name, dict(family.space(task).baseline()), task).to(on)
            optimizer = torch.optim.AdamW(module.parameters(), fused=True)
            batches = Batches(*folds(dataset, task)[0][0], 8, seed=0)
            waits = []
            for _ in range(2):  # the first fills caches
                # Batches read lengths that are on the host: on a CPU that looks like a wait.
                ready = list(batches) if on == "cpu" else batches
                with _counted(on) as count:
                    for batch in ready:
                        module.training_step(batch, 0).backward()
                        optimizer.step()
                        optimizer.zero_grad(set_to_none=True)
                    waits.append(count() / len(batches))
            # One copy an epoch is the order of its samples. How many sites a sparse convolution
            # has only the device knows.
            yield at_most(f"{name}: waits a step", waits[1], 9 if name == "sparse_cnn" else 0.7)


def steps(on: str) -> Iterator[Figure]:
    dataset, task = _task("tabular", on)
    family = load_families("tabular")["mlp"]
    config = family.space(task).baseline() | {"batch_size": 8, "depth": 4, "width": 256}
    fold = folds(dataset, task)[0]
    epochs = math.ceil(STEPS / len(Batches(*fold[0], 8, seed=0)))
    # Of a CPU the process's own time, which other work does not stretch.
    clock = time.process_time if on == "cpu" else time.perf_counter

    def plain() -> float:
        torch.manual_seed(0)
        module = Proxy("mlp", dict(config), task).to(on).train()
        optimizer = torch.optim.AdamW(module.parameters(), fused=True)
        batches = Batches(*fold[0], 8, seed=0)
        device.settle(on)
        begin, done = clock(), 0
        for _ in range(epochs):
            for batch in batches:
                with torch.autocast(on, torch.bfloat16, enabled=device.precision(on) != "32-true"):
                    loss = module.training_step(batch, 0)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                done += 1
        device.settle(on)
        return (clock() - begin) / done

    def framework(monitored: bool) -> float:
        torch.manual_seed(0)
        module = Proxy("mlp", dict(config), task).to(on)
        # Validation takes the same time in both.
        few = ({k: v[:1] for k, v in part.items()} for part in fold[1])
        watching: list[Any] = [GradientMonitor(stop=False)] if monitored else []
        begin = clock()
        trainer = fit_proxy(module, fold[0], tuple(few), epochs, 0, watching)  # type: ignore[arg-type]
        device.settle(on)
        return (clock() - begin) / trainer.global_step

    def median(call: Callable[[], float]) -> float:
        call()
        return statistics.median(call() for _ in range(3))

    bare, bared, monitored = median(plain), median(lambda: framework(False)), median(
        lambda: framework(True)
    )  # fmt: skip
    yield told("step in a plain loop, ms", 1e3 * bare)
    yield told("step in Lightning, ms", 1e3 * bared)
    # Its cost is some 1.5 ms a step, whatever a step takes, and there are eight steps an epoch.
    yield at_most("cost of the framework a step, ms", 1e3 * (bared - bare), 5.0)
    yield at_most("cost of the monitors", monitored / bared - 1, 0.1)


def memory(on: str) -> Iterator[Figure]:
    if on == "cpu":
        return
    for modality, name, batch in (("images", "resnet", 64), ("text", "transformer", 64)):
        _, task = _task(modality, on)
        family = load_families(modality)[name]
        config = dict(family.space(task).baseline())
        build, inputs_of = partial(family.build, config, task), partial(made_up_inputs, task)
        predicted = cost.training_mb(build, inputs_of, batch)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        module = Proxy(name, config, task).to(on)
        optimizer = torch.optim.AdamW(module.parameters(), fused=True)
        inputs = {k: v.to(on) for k, v in made_up_inputs(task, batch).items()}
        label = {task.targets[0].name: torch.zeros(batch, dtype=torch.long, device=on)}
        for _ in range(2):
            with torch.autocast(on, torch.bfloat16):
                loss = module.training_step((inputs, label), 0)
            loss.backward()
            optimizer.step()
        used = (torch.cuda.max_memory_allocated() - before) / 2**20
        yield between(f"{name}: memory predicted over used", predicted / used, 0.9, 2.0)


def oom(on: str) -> Iterator[Figure]:
    if on == "cpu":
        return
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(0.1)
    refused = False
    try:
        torch.empty(int(0.2 * total), dtype=torch.uint8, device=on)
    except torch.cuda.OutOfMemoryError:
        refused = True
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    yield Figure("more than its share is refused", str(refused), "True", refused)
    yield Figure("the device works after that", str(device.works(on)), "True", device.works(on))


class Poisoned(Evaluator):
    """Loses its device at candidate 1, the first time; without a GPU it says so."""

    def __init__(self, folder: str, data: str, on: str) -> None:
        dataset, task = _task("tabular", on)
        super().__init__(replace(task, budget=Budget(None, 1)), dataset)
        self._mark, self._lost = Path(folder) / "poisoned", False

    def usable(self) -> bool:
        return super().usable() and not self._lost

    def evaluate(self, candidate: dict[str, Any], report: Any, fidelity: Any = None) -> Any:
        if candidate["number"] == 1 and not self._mark.exists():
            self._mark.touch()
            if self.device == "cpu":
                self._lost = True
                raise RuntimeError("CUDA error: device-side assert triggered")
            torch.zeros(2, device=self.device)[torch.tensor([7], device=self.device)]
            torch.cuda.synchronize()
        return super().evaluate(candidate, report, fidelity)


def lost(on: str) -> Iterator[Figure]:
    found, _ = _searched(on, 2, 6)
    yield at_most("candidates lost", sum(c.reason == "lost" for c in found), 1)
    yield at_most("candidates in error", sum(c.reason == "error" for c in found), 0)
    ended = sum(c.state == State.COMPLETE for c in found)
    yield Figure("candidates complete", float(ended), ">= 4", ended >= 4)


def _searched(on: str, workers: int, trials: int, poisoned: bool = True) -> tuple[Any, float]:
    """Candidates of a search, and the seconds it took once its workers were ready."""
    _, task = _task("tabular", on)
    spaces = {"mlp": load_families("tabular")["mlp"].space(task)}
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    with tempfile.TemporaryDirectory() as folder:
        if not poisoned:
            (Path(folder) / "poisoned").touch()
        settings = {"folder": folder, "data": "", "on": on}
        gpus = visible_gpus(on)[0][:1]
        with (
            closing(Study(Path(folder), task, Space.join(spaces), sampler="random")) as study,
            LocalWorkers(
                workers, "check_gpu:Poisoned", settings, Path(folder) / "logs", gpus
            ) as pool,
        ):
            while pool.ready < workers:
                list(pool.events(timeout=0.5))
            begin = time.monotonic()
            drive(study, pool, trials=trials)
            spent = time.monotonic() - begin
        return load_candidates(Path(folder)), spent


def latencies(on: str) -> Iterator[Figure]:
    dataset, task = _task("tabular", on)
    worker = Evaluator(task, dataset)
    family = load_families("tabular")["mlp"]
    passes = []
    for width in (16, 64, 256):
        for depth in (1, 4):
            config = family.space(task).baseline() | {"width": width, "depth": depth}
            candidate = Candidate(0, "mlp", config, seed=0)
            network = worker._network(candidate).to(on).eval()
            passes.append(latency.timed(network, worker._sample(candidate, 1), on))
    first, second = (
        [found.ms for found in latency.side_by_side(passes, on, budget_s=0.5)] for _ in range(2)
    )
    apart = statistics.median(abs(a - b) / a for a, b in zip(first, second, strict=True))
    yield at_most("latency measured again", apart, 0.05)
    pairs = [(i, j) for i in range(len(first)) for j in range(i)]
    agree = [np.sign(first[i] - first[j]) == np.sign(second[i] - second[j]) for i, j in pairs]
    tau = 2 * float(np.mean(agree)) - 1
    yield Figure("order of latencies (tau)", tau, ">= 0.9", tau >= 0.9)


def workers(on: str) -> Iterator[Figure]:
    for count in (1, 2) if on == "cpu" else (1, 2, 4, 8):
        found, spent = _searched(on, count, 4 * count, poisoned=False)
        done = sum(c.state == State.COMPLETE for c in found)
        yield told(f"{count} workers: candidates a minute", 60 * done / spent)


def search(on: str) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        digits = Path(folder) / "digits.npz"
        _run(sys.executable, str(Path(__file__).parent / "digits.py"), str(digits))
        run = f"{folder}/run"
        limit = "40s" if on == "cpu" else "60s"
        _nas("search", str(digits), "--out", run, "--time-limit", limit, "--device", on, "--json")
        rows = load_candidates(Path(run))
        complete = sum(c.state == State.COMPLETE for c in rows)
        yield Figure("search: complete candidates", float(complete), ">= 1", complete >= 1)
        recipe = f"{run}/recipe.yaml"
        if not Path(recipe).exists():
            _nas("export", run)
        how = ("--epochs", "2", "--out", f"{folder}/model", "--json")
        trained = json.loads(_nas("train", recipe, *how).splitlines()[-1])
        yield told(
            "nas train: test", str({k: round(v, 3) for k, v in trained["test"].items()})[:40]
        )
        again = json.loads(_nas("train", recipe, "--check", "--json").splitlines()[-1])
        yield at_most("--check: apart", abs(again["again"] - again["measured"]), again["tolerance"])


def devices(on: str) -> Iterator[Figure]:
    if on != "cpu" and torch.cuda.device_count() < 2:
        yield told("two devices", "one GPU only")
        return
    with tempfile.TemporaryDirectory() as folder:
        digits = Path(folder) / "digits.npz"
        _run(sys.executable, str(Path(__file__).parent / "digits.py"), str(digits))
        run, trials = f"{folder}/run", ("--trials", "1", "--epochs", "1", "--no-finish")
        _nas("search", str(digits), "--out", run, *trials, "--device", on, "--json")
        _nas("export", run)
        shown = _nas("train", f"{run}/recipe.yaml", "--devices", "2", "--epochs", "2", "--json")
        loss = json.loads(shown.splitlines()[-1])["test"]["loss"]
        yield Figure("two devices: test loss", loss, "finite", math.isfinite(loss))


def _nas(*arguments: str) -> str:
    return _run(sys.executable, "-m", "nas", *arguments)


def _run(*command: str) -> str:
    """What a command prints; RuntimeError with its last line where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return done.stdout


PARTS: dict[str, Callable[[str], Iterator[Figure]]] = {
    "environment": environment,
    "families": families,
    "hub": hub,
    "syncs": syncs,
    "steps": steps,
    "memory": memory,
    "oom": oom,
    "assert": lost,
    "latency": latencies,
    "workers": workers,
    "search": search,
    "devices": devices,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cpu", action="store_true", help="without a GPU")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    on = "cpu" if given.cpu else "cuda"
    if on == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is visible here; give --cpu")
    warnings.simplefilter("ignore")
    quiet_lightning()
    torch.set_num_threads(1)
    found: list[Figure] = []
    for name in given.only:
        begin = time.monotonic()
        try:
            for figure in PARTS[name](on):
                found.append(figure)
                print(figure, flush=True)
        except Exception as error:  # a part that breaks is what this script is there to find
            traceback.print_exc()
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            found.append(Figure(name, f"{type(error).__name__}: {reason}", "no error", False))
            print(found[-1], flush=True)
        print(f"{name + ': seconds':44} {time.monotonic() - begin:>14.1f}", flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(figure) for figure in found], indent=1))
    failed = [figure.name for figure in found if not figure.passed]
    print(
        f"{len(found) - len(failed)} of {len(found)} passed" + f"; failed: {failed}" * bool(failed)
    )
    sys.exit(FAIL if failed else 0)


if __name__ == "__main__":
    main()
