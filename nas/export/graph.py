"""A trained network as one file of operators: ONNX, or torch.export.

What a network does to raw values (normalisation, log-mel frames, the coding of columns) is part of
it already, and the file ends with what a prediction needs: an output for each target, named like
it, of probabilities or of values in the user's units. Batch size and lengths stay free where the
operators allow it. A file is kept only after its outputs were compared with the network's on real
samples.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from nas.data import Dataset
from nas.data.ragged import Ragged, Whole
from nas.export.trained import Trained
from nas.task import InputError, input_type
from nas.training.batches import typical_rows
from nas.training.calibration import some_rows
from nas.training.latency import onnx_session
from nas.training.metrics import score
from nas.training.neighbours import network_inputs
from nas.training.proxy import Proxy

TOLERANCE = 1e-4  # of outputs, as ``Exported.difference``
FINE = 10.0  # standard deviations that the mean of numbers is off zero: float32 is exact enough
OPSET = 20
CALIBRATED = 100  # training samples that static quantisation sees
SCORED = 1000  # validation samples that it is judged on, at most
MOST_BYTES = 2**31 - 2**20  # of weights: protobuf holds less than 2 GiB
FREE = ("batch and lengths", "batch", "nothing")  # what of the sizes is free, in this order

Int8 = Literal["dynamic", "static"]
Session = Callable[[Mapping[str, Tensor]], list[np.ndarray]]


@dataclass(frozen=True)
class Quantised:
    """What eight bits cost and bring: the quality on the validation part, the median time of one
    sample in one thread, and the size of the file, before and after."""

    how: Int8
    metric: str
    quality: tuple[float, float]
    latency_ms: tuple[float, float]
    megabytes: tuple[float, float]


@dataclass(frozen=True)
class Exported:
    """A file that was compared with its network.

    ``free`` says which sizes an input may have, ``difference`` how far its outputs were from the
    network's, relative to the largest or to 1: of probabilities, or of numbers as they are
    standardised.
    """

    file: Path
    free: str
    difference: float
    opset: int | None = None
    int8: Quantised | None = None


class Deployed(nn.Module):
    """A network that answers for each target: probabilities (B, labels), or values (B,).

    Values that lie far from zero for their spread, as times, are float64.
    """

    def __init__(self, proxy: Proxy) -> None:
        super().__init__()
        self.network = proxy.network
        self.targets = proxy.task.targets
        self.temperatures = [proxy.temperature(t.name) for t in self.targets]

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """The network's inputs by name to one output for each target."""
        logits = self.network(**inputs)
        found, place = [], 0
        for target, temperature in zip(self.targets, self.temperatures, strict=True):
            part, place = logits[:, place : place + target.outputs], place + target.outputs
            if target.kind == "regression":
                value = part[:, 0]
                value = value.double() if abs(target.mean) > FINE * target.std else value
                # As tensors: a plain number becomes a constant of float32 in ONNX.
                std, mean = (torch.tensor(x, dtype=value.dtype) for x in (target.std, target.mean))
                found.append(value * std + mean)
            elif target.kind == "multilabel":
                found.append((part / temperature).sigmoid())
            else:
                found.append((part / temperature).softmax(dim=1))
        return tuple(found)


# -- ONNX ------------------------------------------------------------------------------------------


def write_onnx(trained: Trained, file: Path, int8: Int8 | None = None) -> Exported:
    """Write a trained network as ONNX of opset ``OPSET``.

    Args:
        trained: The network and its data, of which the comparison takes samples.
        file: Replaced where it is there, but only by one that passed.
        int8: Quantise it: "dynamic" (weights, and activations as they come), or "static" (on
            the ranges that activations have on training samples).

    Raises:
        InputError: A package is not installed, the network has an operator that ONNX lacks, or
            the file's outputs differ from the network's by more than ``TOLERANCE``. With
            ``int8`` they may differ; what that costs is measured.
    """
    _needs("onnx", "onnxscript", "onnxruntime")
    weights = trained.proxy.network.state_dict().values()
    if (size := sum(w.numel() * w.element_size() for w in weights)) > MOST_BYTES:
        raise InputError(
            f"the network's weights take {size / 2**30:.1f} GiB, and a file of ONNX holds less than"
            " 2; write it with --torch-export"
        )
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / "network.onnx"
        free, difference = _first_that_fits(trained, made, _onnx, _onnx_session)
        quantised = None
        if int8 is not None:
            plain, made = made, Path(name) / "int8.onnx"
            _quantise(trained, plain, made, int8)
            quantised = _compared(trained, plain, made, int8, free)
        _describe(trained, made, free, int8)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(made.read_bytes())
    return Exported(file, free, difference, OPSET, quantised)


def _needs(*packages: str) -> None:
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            raise InputError(f"this needs {package}: pip install 'frontier-nas[export]'") from None


def _onnx(program: ExportedProgram, deployed: Deployed, names: list[str], file: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # hints about missing packages
    made = torch.onnx.export(
        program,
        (),
        input_names=names,
        output_names=[target.name for target in deployed.targets],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert made is not None
    made.save(file)


def _onnx_session(file: Path) -> Session:
    session = onnx_session(file)
    names = [each.name for each in session.get_inputs()]

    def run(inputs: Mapping[str, Tensor]) -> list[np.ndarray]:
        found: list[np.ndarray] = session.run(None, {name: inputs[name].numpy() for name in names})
        return found

    return run


def _describe(trained: Trained, file: Path, free: str, int8: str | None) -> None:
    """Say in the file what it is, for whoever finds it, and for ``nas latency``."""
    import onnx

    model = onnx.load(file)
    task = trained.task
    about = {
        "family": trained.proxy.family,
        "config": json.dumps(trained.proxy.config),
        "candidate": str(trained.recipe.get("provenance", {}).get("candidate", -1)),
        "modality": task.modality,
        "targets": json.dumps(
            [{"name": t.name, "kind": t.kind, "labels": list(t.labels)} for t in task.targets]
        ),
        "free": free,
        "int8": int8 or "",
        "inputs": json.dumps(_sample_shapes(trained)),
        "data": task.profile.fingerprint,
    }
    onnx.helper.set_model_props(model, about)
    onnx.save(model, file)


def _sample_shapes(trained: Trained) -> dict[str, dict[str, Any]]:
    """The type and the shape of each input of one typical sample."""
    inputs = _inputs(trained, typical_rows(trained.dataset, 1))
    return {
        name: {"type": str(value.numpy().dtype), "shape": list(value.shape)}
        for name, value in inputs.items()
    }


# -- torch.export ----------------------------------------------------------------------------------


def write_torch_export(trained: Trained, file: Path) -> Exported:
    """Write a trained network as a program of torch.export (.pt2).

    ``torch.export.load(file).module()(inputs)`` calls it with the inputs by name, and needs none of
    the code that made it. Arguments and errors as for ``write_onnx``.
    """
    if file.suffix != ".pt2":
        raise InputError(f"{file}: a file of torch.export ends in .pt2")
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / "network.pt2"
        free, difference = _first_that_fits(trained, made, _program, _program_session)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(made.read_bytes())
    return Exported(file, free, difference)


def _program(program: ExportedProgram, deployed: Deployed, names: list[str], file: Path) -> None:
    about = {"inputs": names, "outputs": [target.name for target in deployed.targets]}
    torch.export.save(program, file, extra_files={"names.json": json.dumps(about)})


def _program_session(file: Path) -> Session:
    # It was written by ``_program`` a moment ago: what is unpickled here is our own.
    module = torch.export.load(file).module()

    def run(inputs: Mapping[str, Tensor]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [value.numpy() for value in module(dict(inputs))]

    return run


# -- sizes and comparison --------------------------------------------------------------------------


def _first_that_fits(
    trained: Trained,
    file: Path,
    write: Callable[[ExportedProgram, Deployed, list[str], Path], None],
    opened: Callable[[Path], Session],
) -> tuple[str, float]:
    """Write the file with as many free sizes as give the network's outputs; which they are, and
    the largest difference."""
    dataset = trained.dataset
    deployed = Deployed(trained.proxy).eval()
    why = ""
    for free in FREE:
        rows = dataset.parts["train"][: 1 if free == FREE[-1] else 3]
        inputs = _inputs(trained, rows)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporter's own
                shapes = _shapes(dataset, list(inputs), free)
                program = torch.export.export(deployed, (inputs,), dynamic_shapes=shapes)
                write(program, deployed, list(inputs), file)
                difference = _difference(trained.proxy, opened(file), _checked(trained, free))
        except InputError:
            raise
        except Exception as error:  # exporters raise errors of any type
            why = why or _root(error)
            continue
        if difference <= TOLERANCE:
            ragged = any(isinstance(v, Ragged) for v in dataset.inputs.values())
            return free if ragged or free == FREE[-1] else FREE[1], difference
        why = why or f"its outputs differ by {difference:.2g}, over {TOLERANCE:g}"
    raise InputError(f"{trained.proxy.family} cannot be written as {file.suffix[1:]}: {why}")


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{(str(error).strip() or type(error).__name__).splitlines()[0]:.200}"


def _inputs(trained: Trained, rows: np.ndarray) -> dict[str, Tensor]:
    return network_inputs(trained.proxy.network, trained.dataset, rows)


def _checked(trained: Trained, free: str) -> Iterator[dict[str, Tensor]]:
    """Batches of real samples: of other sizes than the file was written with, where it is free."""
    dataset, test = trained.dataset, trained.dataset.parts["test"]
    if free == FREE[-1]:
        if not any(isinstance(v, Ragged) for v in dataset.inputs.values()):
            for row in test[:5]:
                yield _inputs(trained, np.array([row]))
        yield _inputs(trained, dataset.parts["train"][:1])
        return
    lengths = [v.lengths for v in dataset.inputs.values() if isinstance(v, Ragged)]
    if free == FREE[1] and lengths:  # the lengths are those of the first samples
        yield _inputs(trained, dataset.parts["train"][:3])
        yield _inputs(trained, np.resize(dataset.parts["train"][:3], 6))
        return
    yield _inputs(trained, test[:5])
    yield _inputs(trained, test[-1:])
    if lengths:
        longest = np.argsort(lengths[0])[[0, -1]]
        yield _inputs(trained, np.sort(longest))


def _shapes(dataset: Dataset, names: Sequence[str], free: str) -> Any:
    """The free sizes of each input, as torch.export takes them."""
    known: dict[str, Any] = {}

    def size(name: str) -> Any:
        plain = "".join(c if c.isalnum() else "_" for c in name)
        return known.setdefault(name, Dim(f"size_of_{plain}", min=1, max=2**20))

    result: dict[str, dict[int, Any]] = {}
    for name in names:
        value = dataset.inputs.get(name)
        own: dict[int, Any] = {0: size("batch")}
        if isinstance(value, Whole) or (isinstance(value, Ragged) and value.layout == "packed"):
            member = name.rpartition(".")[0]
            kind = "nodes" if input_type(name) == "nodes" else "edges"
            own = {0: size(f"{member}_{kind}")}
        elif isinstance(value, Ragged) and free == FREE[0]:
            own[1] = Dim.AUTO  # up to what a table of positions holds, say
        result[name] = {} if free == FREE[-1] else own
    return {"inputs": result}


def _difference(proxy: Proxy, session: Session, batches: Iterator[dict[str, Tensor]]) -> float:
    """The largest of the outputs' differences, as ``Exported`` has it."""
    worst = 0.0
    for inputs in batches:
        with torch.inference_mode():
            expected = proxy.predictions(proxy(**inputs))
        for target, theirs in zip(proxy.task.targets, session(inputs), strict=True):
            ours, numbers = expected[target.name], target.kind == "regression"
            mean, unit = (target.mean, target.std) if numbers else (0.0, 1.0)
            apart = np.abs(ours - theirs).max() / max(unit, float(np.abs(ours - mean).max()))
            worst = max(worst, float(apart)) if np.isfinite(apart) else np.inf
    return worst


# -- eight bits ------------------------------------------------------------------------------------


def _quantise(trained: Trained, plain: Path, file: Path, how: Int8) -> None:
    import onnx
    from onnxruntime import quantization  # type: ignore[import-untyped]

    root = logging.getLogger()  # which onnxruntime uses
    before = root.level
    root.setLevel(logging.ERROR)  # advice on models of other forms
    prepared = plain.with_name("prepared.onnx")
    model = onnx.load(plain)
    del model.graph.value_info[:]  # shapes of the exporter's, which quantised weights contradict
    onnx.save(model, prepared)
    try:
        if how == "dynamic":
            quantization.quantize_dynamic(
                str(prepared), str(file), weight_type=quantization.QuantType.QInt8
            )
            return
        dataset = trained.dataset
        rows = some_rows(dataset.parts["train"], CALIBRATED)
        batches = ([row] for row in rows)
        quantization.quantize_static(
            str(prepared),
            str(file),
            _Calibration(_inputs(trained, np.array(row)) for row in batches),
            quant_format=quantization.QuantFormat.QDQ,
        )
    except Exception as error:  # onnxruntime's errors are of many types
        raise InputError(
            f"{trained.proxy.family} cannot be quantised ({how}): {_root(error)}"
        ) from error
    finally:
        root.setLevel(before)


class _Calibration:
    """Samples one by one, as onnxruntime's CalibrationDataReader gives them."""

    def __init__(self, samples: Iterator[dict[str, Tensor]]) -> None:
        self.samples = iter(samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The inputs of the next sample; None after the last."""
        inputs = next(self.samples, None)
        return None if inputs is None else {name: v.numpy() for name, v in inputs.items()}


def _compared(trained: Trained, plain: Path, file: Path, how: Int8, free: str) -> Quantised:
    sessions = _onnx_session(plain), _onnx_session(file)
    metric = trained.task.quality.metric
    one = _inputs(trained, typical_rows(trained.dataset, 1))
    before, after = (_quality(trained, s, free)[metric] for s in sessions)
    slow, fast = (_median_ms(s, one) for s in sessions)
    sizes = [path.stat().st_size / 2**20 for path in (plain, file)]
    return Quantised(how, metric, (before, after), (slow, fast), (sizes[0], sizes[1]))


def _quality(trained: Trained, session: Session, free: str) -> dict[str, float]:
    """The scores of a file on the validation part."""
    task, dataset = trained.task, trained.dataset
    rows = some_rows(dataset.parts["val"], SCORED)
    shared = any(isinstance(v, Whole) for v in dataset.inputs.values())
    ragged = any(isinstance(v, Ragged) for v in dataset.inputs.values())
    many = free == FREE[0] or (free == FREE[1] and not ragged)
    size = len(rows) if shared else 64 if many else 1
    found: dict[str, list[np.ndarray]] = {target.name: [] for target in task.targets}
    for start in range(0, len(rows), size):
        for target, values in zip(
            task.targets, session(_inputs(trained, rows[start : start + size])), strict=True
        ):
            found[target.name].append(values)
    truth = {name: np.asarray(label)[rows] for name, label in dataset.labels.items()}
    return score(task, truth, {name: np.concatenate(parts) for name, parts in found.items()})


def _median_ms(session: Session, inputs: Mapping[str, Tensor]) -> float:
    times = []
    for _ in range(60):
        begin = time.perf_counter()
        session(inputs)
        times.append((time.perf_counter() - begin) * 1e3)
    return float(np.median(times[10:]))


def described(exported: Exported) -> dict[str, Any]:
    """An export as plain values, for ``--json``."""
    return asdict(exported) | {"file": str(exported.file)}
