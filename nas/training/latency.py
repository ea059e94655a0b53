"""Latency: a brief measurement during a search, networks side by side on an isolated device, and
on a device of the user's with eager PyTorch, torch.compile or onnxruntime.

Other work on a machine makes measurements longer, never shorter. Networks that are to be compared
are therefore measured in turn, in many short rounds, so that a disturbance affects all of them;
and of a network's rounds the fast ones count (scripts/bench_latency.py: two measurements of a
front rank it alike on a machine of two cores that sixteen processes compete for). Meanwhile the
trainings of all searches of this user pause between two steps.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.candidate import Latency
from nas.files import first_line, write_whole
from nas.space import Config
from nas.task import InputError, Task
from nas.training.batches import made_up_inputs
from nas.training.locks import TIMEOUT_S, device_lock, isolated
from nas.training.proxy import build_network

Inputs = dict[str, Tensor]
Pass = Callable[[], float]  # one forward pass; milliseconds

BACKENDS = ("eager", "compile", "onnxruntime")
TOLERANCE = 1e-4  # of a backend's logits, relative to the largest or to 1
ROUNDS, MIN_ROUNDS = 50, 8  # in which networks take turns
SLICE_S = 0.005  # of a network in a round, at least three passes
HOLD_S = 1.0  # the longest that trainings are paused at a time


# -- measurements ---------------------------------------------------------------------------------


def latency(
    network: nn.Module, inputs: Inputs, *, device: str = "cpu", budget_s: float = 0.15
) -> Latency:
    """A brief measurement during a search, beside other trainings: the median of one forward pass
    in eval mode, and its interquartile range; ``inputs`` are of one sample.

    Warms up for a fifth of the budget and at least three passes, then repeats for the
    budget, at least 11 and at most 500 times. CUDA passes are timed by events.
    """
    training = network.training
    once = timed(network.eval(), inputs, device)
    with device_lock(device), torch.inference_mode():
        _repeat(once, budget_s / 5, least=3)
        times = _repeat(once, budget_s, least=11)
    network.train(training)
    low, median, high = np.percentile(times, (25, 50, 75))
    return Latency(
        ms=float(median),
        iqr_ms=float(high - low),
        isolated=False,
        threads=torch.get_num_threads(),
        batch=1,
        repeats=len(times),
    )


def side_by_side(
    passes: Sequence[Pass], device: str, batch: int = 1, budget_s: float = 1.0
) -> list[Latency]:
    """Networks measured in turn on an isolated device, by passes over ``batch`` samples.

    ``ms`` is the lowest decile of the rounds' fastest passes, ``iqr_ms`` the interquartile
    range of these. There are ``ROUNDS``, or as many as ``budget_s`` for each network allows.
    """
    fastest: list[list[float]] = [[] for _ in passes]
    isolated_throughout = True
    end = time.monotonic() + budget_s * len(passes)

    def continues() -> bool:
        rounds = len(fastest[-1])
        return rounds < ROUNDS and (rounds < MIN_ROUNDS or time.monotonic() < end)

    with torch.inference_mode():
        for once in passes:
            _repeat(once, SLICE_S, least=3)  # warm-up
        while continues():
            with isolated(
                device, TIMEOUT_S if isolated_throughout else 0.0
            ) as held:  # the wait is for the first block only
                isolated_throughout = isolated_throughout and held
                block = time.monotonic() + HOLD_S
                while continues() and time.monotonic() < block:
                    for once, found in zip(passes, fastest, strict=True):
                        once()  # the others have displaced its weights from the caches
                        found.append(min(_repeat(once, SLICE_S, least=3)))
    result = []
    for found in fastest:
        decile, low, high = np.percentile(found, (10, 25, 75))
        result.append(
            Latency(
                ms=float(decile),
                iqr_ms=float(high - low),
                isolated=isolated_throughout,
                threads=torch.get_num_threads(),
                batch=batch,
                rounds=len(found),
            )
        )
    return result


def timed(network: Callable[..., Any], inputs: Inputs, device: str) -> Pass:
    """A pass of PyTorch; on a GPU timed by events."""

    def on_cpu() -> float:
        begin = time.perf_counter()
        network(**inputs)
        return (time.perf_counter() - begin) * 1e3

    def on_gpu() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        network(**inputs)
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end))

    return on_gpu if device.startswith("cuda") else on_cpu


def _repeat(once: Pass, budget_s: float, least: int, most: int = 500) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + budget_s
    while len(times) < least or (time.perf_counter() < end and len(times) < most):
        times.append(once())
    return times


# -- a device of the user's ------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A candidate whose latency is wanted: of its network, or of the ``file`` that it was written
    to."""

    number: int
    family: str
    config: Config
    file: Path | None = None


def prepare(network: nn.Module, inputs: Inputs, backend: str, device: str, threads: int) -> Pass:
    """A pass of ``backend``, whose logits are those of eager PyTorch to ``TOLERANCE``.

    Raises InputError where the network cannot be compiled or exported, or differs.
    """
    network = network.eval().to(device)
    inputs = {name: value.to(device) for name, value in inputs.items()}
    with torch.inference_mode():
        expected: Tensor = network(**inputs)
        try:
            if backend == "compile":
                compiled = torch.compile(network, fullgraph=True, dynamic=False)
                found, once = compiled(**inputs), timed(compiled, inputs, device)
            elif backend == "onnxruntime":
                found, once = _exported(network, inputs, threads)
            else:
                return timed(network, inputs, device)
        except ImportError as error:
            raise InputError(
                f"{backend} needs {error.name}: pip install 'frontier-nas[export]'"
            ) from None
        except Exception as error:  # torch.compile and exporters raise errors of any type
            raise InputError(f"{backend} cannot run it: {first_line(error):.200}") from error
    apart = float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))
    if not apart <= TOLERANCE:
        raise InputError(f"its logits differ by {apart:.2g} with {backend}, over {TOLERANCE:g}")
    return once


def _exported(network: nn.Module, inputs: Inputs, threads: int) -> tuple[Tensor, Pass]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        export_onnx(network, inputs, file)
        return _in_onnxruntime(file, inputs, threads)


def _in_onnxruntime(file: Path, inputs: Inputs, threads: int) -> tuple[Tensor, Pass]:
    """The first output of a file of ONNX, and a pass of it."""
    session = onnx_session(file, threads)
    feed = {i.name: inputs[i.name].numpy() for i in session.get_inputs()}

    def once() -> float:
        begin = time.perf_counter()
        session.run(None, feed)
        return (time.perf_counter() - begin) * 1e3

    try:
        first = session.run(None, feed)[0]
    except Exception as error:  # onnxruntime's own types
        reason = first_line(error)
        raise InputError(f"onnxruntime cannot run it on these inputs: {reason:.200}") from None
    return torch.from_numpy(first), once


def onnx_session(file: Path, threads: int = 1) -> Any:
    """A file of ONNX, opened on the CPU. Raises InputError where it is none."""
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        raise InputError("this needs onnxruntime: pip install 'frontier-nas[export]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what fails is said once, in one line
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types
        reason = first_line(error)
        raise InputError(f"{file} is no file of ONNX that runs here: {reason:.200}") from None


def of_file(file: Path) -> tuple[Subject, Inputs]:
    """The candidate that `nas export --onnx` wrote to a file, and made-up inputs of one sample."""
    about = onnx_session(file).get_modelmeta().custom_metadata_map
    if not {"candidate", "family", "config", "inputs"} <= about.keys():
        raise InputError(f"{file} was not written by `nas export --onnx`, which says what is in it")
    subject = Subject(int(about["candidate"]), about["family"], json.loads(about["config"]), file)
    inputs = {}
    for name, of in json.loads(about["inputs"]).items():
        top = of["shape"][-1] if name.endswith("_length") else 1
        inputs[name] = torch.ones(of["shape"]).to(getattr(torch, of["type"])) * top
    return subject, inputs


def export_onnx(network: nn.Module, inputs: Inputs, file: Path) -> None:
    """Write a network as ONNX, with the inputs' names and sizes as they are."""
    import logging
    import warnings

    from nas.models.fusion import Numbered

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # hints about missing packages
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(
            Numbered(network, inputs).eval(),
            (),
            kwargs={f"input_{i}": value for i, value in enumerate(inputs.values())},
            input_names=list(inputs),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(file)


def measure(
    subjects: Sequence[Subject],
    task: Task,
    sample: Callable[[Subject, int], Inputs] | None,
    *,
    backend: str,
    device: str,
    threads: int,
    batches: Sequence[int],
    name: str,
    on_step: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Latencies of ``subjects`` on this device, in the form of the file that a report reads.

    ``sample(subject, batch)`` gives the inputs of a batch; without it they are made up from the
    profile's median lengths. A subject that ``backend`` cannot run has an ``error`` instead of
    figures; ``on_step`` receives what is being done. Raises InputError where ``device`` is not
    visible.
    """
    torch.set_num_threads(threads)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("no CUDA device is visible here; choose --device cpu")
    rows: dict[str, dict[str, Any]] = {}
    for subject in subjects:
        rows[str(subject.number)] = {"family": subject.family, "config": subject.config}
    for batch in batches:
        passes: dict[str, Pass] = {}
        for subject in subjects:
            on_step(f"candidate {subject.number} ({subject.family}), batch {batch}: {backend}")
            inputs = sample(subject, batch) if sample else made_up_inputs(task, batch)
            try:
                if subject.file is not None:
                    once = _in_onnxruntime(subject.file, inputs, threads)[1]
                else:
                    torch.manual_seed(0)
                    network = build_network(subject.family, subject.config, task)
                    once = prepare(network, inputs, backend, device, threads)
                passes[str(subject.number)] = once
            except InputError as error:
                rows[str(subject.number)]["error"] = str(error)
        if passes:
            on_step(f"batch {batch}: measuring {len(passes)} side by side")
        found = side_by_side(list(passes.values()), device, batch) if passes else []
        for number, figures in zip(passes, found, strict=True):
            rows[number].setdefault("latency", {})[str(batch)] = figures.to_dict()
    return {
        "device": {
            "name": name,
            "processor": processor(device),
            "kind": device,
            "backend": backend,
            "threads": threads,
            "torch": torch.__version__,
        },
        "inputs": "of the data" if sample else "made up",
        "batches": list(batches),
        "candidates": rows,
    }


def processor(device: str) -> str:
    """The processor's name as its maker gives it, or the architecture."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write(found: dict[str, Any], path: Path) -> None:
    write_whole(path, json.dumps(found, indent=1))
