"""The contract of a family, held by any: ours and a third party's alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from nas import rules
from nas.family import Family
from nas.space import Choice, Config, Space, Value
from nas.task import InputError, Modality, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nas.data import Dataset


def example_datasets(modality: Modality, samples: int = 60) -> dict[str, Dataset]:
    """Small made-up data sets of a modality by name, read as a user's own would be.

    Three classes, which show in the data. Samples differ in length where the modality
    allows it; graphs come as many graphs and as one, tables with what is missing.
    """
    from nas.data import read

    rng = np.random.default_rng(0)
    label = np.arange(samples) % 3
    names = np.array(["a", "b", "c"])[label]

    def lengths(low: int, high: int) -> list[int]:
        return [int(n) for n in rng.integers(low, high, samples)]

    def graph(nodes: int, kind: int) -> SimpleNamespace:
        edges = np.stack([np.arange(nodes), np.roll(np.arange(nodes), kind + 1)])
        edges = np.concatenate([edges, edges[::-1]], axis=1)
        x = rng.normal(kind, 1.0, (nodes, 4)).astype(np.float32)
        edge_attr = rng.normal(size=(edges.shape[1], 2)).astype(np.float32)
        return SimpleNamespace(x=x, edge_index=edges, edge_attr=edge_attr, y=np.array([kind]))

    match modality:
        case "tabular":
            import pandas as pd

            size = rng.normal(label, 1.0)
            size[::7] = np.nan
            colour = np.where(rng.random(samples) < 0.7, names, "a")
            table = {"size": size, "weight": rng.normal(size=samples), "colour": colour}
            return {"table": read(pd.DataFrame(table | {"label": names}), target="label")}
        case "images":
            pixels = rng.integers(0, 80, (samples, 3, 12, 10)) + 80 * label[:, None, None, None]
            return {"images": read((pixels.astype(np.uint8), names))}
        case "text":
            words = np.array([[f"{name}{i}" for i in range(20)] for name in "abc"])
            texts = [
                " ".join([*rng.choice(words[k], n), *rng.choice(words.ravel(), n)])
                for k, n in zip(label, lengths(1, 12), strict=True)
            ]
            return {"texts": read((texts, names), modality=modality)}
        case "audio":
            waves = [
                np.sin(np.arange(n) * (0.1 + 0.2 * k)).astype(np.float32) / 2
                for k, n in zip(label, lengths(1500, 4000), strict=True)
            ]
            return {"waves": read((waves, names), modality=modality)}
        case "pointclouds":
            clouds = [
                (rng.normal(size=(n, 3)) * (1, 1, 0.2 + k)).astype(np.float32)
                for k, n in zip(label, lengths(20, 60), strict=True)
            ]
            return {"clouds": read((clouds, names), modality=modality)}
        case "graphs":
            many = [graph(n, int(k)) for k, n in zip(label, lengths(4, 12), strict=True)]
            one = graph(samples, 0)
            one.x[:, 0] += label
            one.y = label
            return {"graphs": read(many), "nodes": read(one)}
        case "multimodal":
            import pandas as pd

            texts = [f"{name} is word {i} of a text, as said" for i, name in enumerate(names)]
            frame = pd.DataFrame({"size": rng.normal(label, 1.0), "review": texts, "label": names})
            return {"review and table": read(frame, target="label", modality=modality)}


def sample_inputs(task: Task, batch: int) -> dict[str, Tensor]:
    """A made-up batch of the task's inputs, each of the median length."""
    from nas.training.batches import made_up_inputs

    return made_up_inputs(task, batch)


def check_family(
    family: Family, datasets: Sequence[Dataset] = (), *, draws: int = 4, export: bool = True
) -> None:
    """Raise AssertionError, in a sentence, where a family breaks its contract.

    On each data set (``example_datasets`` of its modality where none is given), for its
    baseline, ``draws`` sampled configurations and each end of each parameter:

    - the space and every configuration survive JSON, and the bounds hold;
    - the network builds, on the meta device too, and gives logits (B, task.outputs);
    - a batch of one works, in training too where a loss needs it to;
    - every parameter gets a finite gradient;
    - a sample gives the same logits alone and beside others of any length (1e-5, in eval
      mode), and the same twice;
    - the baseline keeps the limit on parameters, and of ``features`` and ``width``, where
      the network has them, the shapes agree;
    - the baseline exports to ONNX and gives the same logits there (with ``export``, which
      needs onnx, onnxscript and onnxruntime).
    """
    found = list(datasets) or list(example_datasets(family.modality).values())
    for dataset in found:
        task = Task(family.modality, dataset.targets, dataset.profile).with_objectives()
        space = family.space(task)
        _hold(Space.from_json(space.to_json()) == space, family, {}, "its space changes in JSON")
        size = sum(p.numel() for p in _on_meta(family, space.baseline(), task).parameters())
        _hold(size <= rules.params_limit(task), family, {}, f"its baseline has {size} parameters")
        rng = np.random.default_rng(0)
        sampled = [space.sample(rng) for _ in range(draws)]
        for config in (space.baseline(), *sampled):
            space.check(config)
            _check_network(family, config, task, dataset)
        for config in _ends(space):
            space.check(config)
            _on_meta(family, config, task)
        if export:
            _check_export(family, space.baseline(), task, dataset)


def _hold(truth: bool, family: Family, config: Config, complaint: str) -> None:
    if not truth:
        raise AssertionError(f"{family.name}: {complaint}" + (f", with {config}" if config else ""))


def _ends(space: Space) -> list[Config]:
    """The baseline with one parameter at an end of its domain, for each end of each."""
    found = []
    for param in space.params:
        ends: tuple[Value, ...] = (
            param.options if isinstance(param, Choice) else (param.low, param.high)
        )
        # A parameter that waits for others needs these first.
        needed: Config = {}
        waiting = [param]
        while waiting:
            for parent, values in waiting.pop().when.items():
                needed.setdefault(parent, values[0])
                waiting.append(space[parent])
        found += [space.complete(needed | {param.name: end}) for end in ends]
    return found


def _on_meta(family: Family, config: Config, task: Task) -> nn.Module:
    import torch

    with torch.device("meta"):
        return family.build(config, task)


def _batch(dataset: Dataset, rows: Sequence[int]) -> dict[str, Tensor]:
    import torch

    from nas.training.batches import batch_inputs, to_tensors

    inputs = to_tensors(dataset.inputs, np.array(rows), "cpu")
    picked = torch.arange(len(rows))
    return batch_inputs(inputs, picked, picked)


def _check_network(family: Family, config: Config, task: Task, dataset: Dataset) -> None:
    import torch

    def hold(truth: bool, complaint: str) -> None:
        _hold(truth, family, config, complaint)

    hold(json.loads(json.dumps(config)) == config, "the configuration changes in JSON")
    torch.manual_seed(0)
    network = family.build(config, task)
    counted = [p.shape for p in _on_meta(family, config, task).parameters()]
    hold(counted == [p.shape for p in network.parameters()], "it differs on the meta device")
    with torch.no_grad():  # branches start at zero, which would hide those before them
        for p in network.parameters():
            p.add_(0.02 * torch.randn_like(p))

    rows = dataset.parts["train"][:6].tolist()
    logits: Tensor = network.train()(**_batch(dataset, rows))
    hold(logits.shape == (6, task.outputs), f"logits are {tuple(logits.shape)} for 6 samples")
    (logits * torch.randn_like(logits)).sum().backward()  # type: ignore[no-untyped-call]
    for name, p in network.named_parameters():
        hold(p.grad is not None, f"{name} gets no gradient")
        hold(bool(torch.isfinite(p.grad).all()), f"the gradient of {name} is not finite")  # type: ignore[arg-type]

    network.eval()
    with torch.inference_mode():
        together = network(**_batch(dataset, rows))
        again = network(**_batch(dataset, rows))
        alone = torch.cat([network(**_batch(dataset, [row])) for row in rows])
        hold(bool(torch.isfinite(together).all()), "the logits are not finite")
        hold(torch.equal(together, again), "it gives other logits the second time")
        apart = float((together - alone).abs().max())
        scale = max(1.0, float(together.abs().max()))
        hold(alone.shape == together.shape, "a batch of one gives logits of another shape")
        hold(apart <= 1e-5 * scale, f"a sample's logits change by {apart:.2g} with its company")
        if hasattr(network, "features"):
            tokens, mask = network.features(**_batch(dataset, rows))  # type: ignore[operator]
            shape = tuple(tokens.shape)
            hold(
                tokens.ndim == 3 and shape[0] == 6 and shape[2] == network.width,
                f"features are {shape}, not (6, tokens, {network.width})",
            )
            hold(mask is None or tuple(mask.shape) == shape[:2], "the mask is not (6, tokens)")


def _check_export(family: Family, config: Config, task: Task, dataset: Dataset) -> None:
    import torch

    from nas.training.latency import prepare

    torch.manual_seed(0)
    inputs = _batch(dataset, dataset.parts["train"][:3].tolist())
    try:
        prepare(family.build(config, task), inputs, "onnxruntime", "cpu", threads=1)
    except InputError as error:
        _hold(False, family, config, str(error))
