"""The contract of a family, held by any: ours and a third party's alike."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from nas import rules
from nas.family import Family
from nas.space import Choice, Config, Int, Space, Value
from nas.task import InputError, Modality, Target, Task

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
        case "series":
            steps = [
                np.sin(np.arange(n)[:, None] * (0.2 + 0.2 * k) + [0.0, 1.0])
                + 0.3 * rng.normal(size=(n, 2))
                for k, n in zip(label, lengths(10, 40), strict=True)
            ]
            gaps = [np.where(rng.random(x.shape) < 0.05, np.nan, x) for x in steps]
            return {"sequences": read((gaps, names), modality=modality)}
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
    family: Family,
    datasets: Sequence[Dataset] = (),
    *,
    draws: int = 4,
    extremes: int | None = None,
    export: bool = True,
) -> None:
    """Raise AssertionError, in a sentence, where a family breaks its contract.

    On each data set (``example_datasets`` of its modality where none is given), for its
    baseline and ``draws`` sampled configurations:

    - the space and every configuration survive JSON, and the bounds hold;
    - the network builds, on the meta device too, and gives logits (B, task.outputs);
    - a batch of one works, in training too where a loss needs it to;
    - every parameter that is trained gets a finite gradient;
    - a sample gives the same logits alone and beside others of any length (3e-5, in eval
      mode), and the same twice;
    - the baseline keeps the limit on parameters, and of ``features`` and ``width``, where
      the network has them, the shapes agree;
    - the baseline exports to ONNX and gives the same logits there (with ``export``, which
      needs onnx, onnxscript and onnxruntime).

    For the first ``extremes`` (all where it is None) of ``extreme_configs``, in which the ends of
    any two parameters meet:

    - parameters, FLOPs and memory are predicted before the training, as a search does;
    - a step of two samples, or of a whole graph, trains it, also for two classes, a number and
      several targets, and a prediction of one sample works after it.
    """
    found = list(datasets) or list(example_datasets(family.modality).values())
    for dataset in found:
        task = Task(family.modality, dataset.targets, dataset.profile).with_objectives()
        space = family.space(task)
        _hold(Space.from_json(space.to_json()) == space, family, {}, "its space changes in JSON")
        size = sum(p.numel() for p in _on_meta(family, space.baseline(), task).parameters())
        within = family.load is not None or size <= rules.params_limit(task)
        _hold(within, family, {}, f"its baseline has {size} parameters")
        rng = np.random.default_rng(0)
        sampled = [space.sample(rng) for _ in range(draws)]
        for config in (space.baseline(), *sampled):
            space.check(config)
            _check_network(family, config, task, dataset)
        for config in extreme_configs(space, most=extremes):
            space.check(config)
            _check_preflight(family, config, task, dataset)
            _check_step(family, config, task, dataset)
        for other in _other_targets(dataset):
            task = replace(task, targets=other)
            for config in extreme_configs(family.space(task), most=extremes):
                _check_step(family, config, task, dataset)
        if export:
            _check_export(family, space.baseline(), task, dataset)


def _other_targets(dataset: Dataset) -> Iterator[tuple[Target, ...]]:
    """Two classes; a number; and several targets at once."""
    n = len(dataset.parts["train"])
    number = Target("number", "regression", mean=5.0, std=2.0)
    two = Target("two", "binary", ("no", "yes"), (n // 2, n - n // 2))
    tags = Target("tags", "multilabel", ("u", "v", "w"), (n // 2, n // 3, n // 4))
    yield from ((two,), (number,), (number, two, tags))


def _hold(truth: bool, family: Family, config: Config, complaint: str) -> None:
    if not truth:
        raise AssertionError(f"{family.name}: {complaint}" + (f", with {config}" if config else ""))


def extreme_configs(space: Space, seed: int = 0, most: int | None = None) -> list[Config]:
    """Configurations at the ends of a space, few but so that all pairs of values meet; with
    ``most`` the first so many.

    Numbers take both ends of their domain, choices all options. Any two such values of two
    parameters that can occur together are drawn together at least once, up to pairs that hundreds
    of random draws do not find (pairwise testing: Cohen et al. 1997, "The AETG system").
    """
    rng = np.random.default_rng(seed)
    values: dict[str, tuple[Value, ...]] = {}
    for param in space.params:
        ends = (
            param.options
            if isinstance(param, Choice)
            else (param.low, param.snap(param.high) if isinstance(param, Int) else param.high)
        )
        values[param.name] = tuple(dict.fromkeys(ends))

    def draw() -> Config:
        some = {name: ends[int(rng.integers(len(ends)))] for name, ends in values.items()}
        return space.complete(some)

    covered: set[tuple[tuple[str, Value], ...]] = set()
    configs: list[Config] = []
    while len(configs) != most:
        drawn = [draw() for _ in range(20)]
        new = [set(combinations(sorted(config.items()), 2)) - covered for config in drawn]
        best = max(range(len(drawn)), key=lambda i: len(new[i]))
        if not new[best]:
            break
        covered |= new[best]
        configs.append(drawn[best])
    return configs


def _on_meta(family: Family, config: Config, task: Task) -> nn.Module:
    from nas.models.meta import without_values

    with without_values():
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
        hold(p.grad is not None or not p.requires_grad, f"{name} gets no gradient")
        finite = p.grad is None or bool(torch.isfinite(p.grad).all())
        hold(finite, f"the gradient of {name} is not finite")

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
        hold(apart <= 3e-5 * scale, f"a sample's logits change by {apart:.2g} with its company")
        if hasattr(network, "features"):
            tokens, mask = network.features(**_batch(dataset, rows))  # type: ignore[operator]
            shape = tuple(tokens.shape)
            hold(
                tokens.ndim == 3 and shape[0] == 6 and shape[2] == network.width,
                f"features are {shape}, not (6, tokens, {network.width})",
            )
            hold(mask is None or tuple(mask.shape) == shape[:2], "the mask is not (6, tokens)")


def _check_preflight(family: Family, config: Config, task: Task, dataset: Dataset) -> None:
    """A search predicts parameters, FLOPs and memory before the training."""
    from nas.candidate import Candidate
    from nas.training.evaluator import Evaluator

    class Preflight(Evaluator):
        """Of a family that need not be installed."""

        def _network(self, candidate: Candidate) -> nn.Module:
            return family.build(candidate.config, self.task)

    try:
        costs = Preflight(task, dataset).preflight(Candidate(0, family.name, config, seed=0)).costs
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        _hold(False, family, config, f"its costs cannot be predicted ({error})")
    _hold(all(map(math.isfinite, costs.values())), family, config, f"its costs are {costs}")


def _check_step(family: Family, config: Config, task: Task, dataset: Dataset) -> None:
    """One training step of two samples, or of a whole graph, and a prediction of one after it."""
    import torch

    from nas.training.augment import augment

    whole_graph = rules.is_node_level(task)
    rows = dataset.parts["train"][: task.profile.n_train if whole_graph else 2].tolist()
    torch.manual_seed(0)
    network = family.build(config, task).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    try:
        logits = network(**augment(_batch(dataset, rows), config))
        loss = logits.float().square().mean() + getattr(network, "auxiliary_loss", 0.0)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            alone = network.eval()(**_batch(dataset, rows[:1]))
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        _hold(False, family, config, f"a step of {len(rows)} samples fails ({error})")
    _hold(bool(torch.isfinite(loss)), family, config, "the loss of a step is not finite")
    _hold(bool(torch.isfinite(alone).all()), family, config, "a step makes logits not finite")


def _check_export(family: Family, config: Config, task: Task, dataset: Dataset) -> None:
    import torch

    from nas.training.latency import prepare

    torch.manual_seed(0)
    inputs = _batch(dataset, dataset.parts["train"][:3].tolist())
    try:
        prepare(family.build(config, task), inputs, "onnxruntime", "cpu", threads=1)
    except InputError as error:
        _hold(False, family, config, str(error))
