"""Which published networks the spaces of large data hold, as a table.

    python scripts/references.py [--memory-mb 80000] [--workers 64] [--time-limit 24]

Of each family's references: the published parameters, those of the network here (built on the meta
device, on data like those that it was published on), and whether the space of a profile of the
modality holds it, or which part of the rule "references" leaves it out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import torch

from nas.family import Family, Reference, load_families
from nas.task import Budget, Column, DataProfile, Target, Task
from nas.training.cost import parameters


def classes(count: int, samples: int) -> tuple[Target, ...]:
    names = tuple(f"class {i}" for i in range(count))
    return (Target("label", "multiclass", names, (samples // count,) * count),)


def profiles() -> Iterator[tuple[str, Task]]:
    """Profiles of large data; those that references are published on are taken from them."""
    families = load_families()

    def like(family: str, number: int = -1) -> Task:
        return families[family].references[number].task

    columns = tuple(
        Column(f"x{i}", "numeric", quantiles=tuple(k / 48 for k in range(49))) for i in range(28)
    )
    table = DataProfile(10_000_000, 500_000, 500_000, {"numeric": (28,)}, columns=columns)
    yield "10 million rows of 28 numbers", Task("tabular", classes(2, 10_000_000), table)
    yield "ImageNet", like("resnet")
    small = replace(like("resnet").profile, n_train=50_000, inputs={"image": (3, 32, 32)})
    yield "CIFAR-10", Task("images", classes(10, 50_000), small)
    lengths: dict[str, tuple[int, ...]] = {"tokens": (5, 20, 60, 110, 190, 400, 512)}
    texts = DataProfile(
        1_000_000, 50_000, 50_000, {"tokens": (512,)}, lengths=lengths, vocabulary=30_000
    )
    yield "1 million texts", Task("text", classes(5, 1_000_000), texts)
    wave: dict[str, tuple[int, ...]] = {"wave": (160_000,) * 7}
    sounds = DataProfile(
        2_000_000, 20_000, 20_000, {"wave": (160_000,)}, lengths=wave, sample_rate=16_000
    )
    tags = (Target("tags", "multilabel", tuple(f"tag {i}" for i in range(527)), (4_000,) * 527),)
    yield "AudioSet (2 million sounds of 10 s)", Task("audio", tags, sounds)
    yield "ogbn-products", like("gcn", 1)
    yield "ModelNet40", like("sparse_cnn")


def line(family: Family, reference: Reference, task: Task) -> str:
    with torch.device("meta"):
        network = family.build(reference.config, reference.task)
    left_out = reference.left_out(task)
    if not left_out:
        held = {param.name: param for param in family.space(task).params}
        others = [
            f"{name} = {value}"
            for name, value in reference.config.items()
            if name not in held or not held[name].contains(value)
        ]
        left_out = "in" + (f", without {', '.join(others)}" if others else "")
    built = parameters(network)
    return f"| {family.name} | {reference.name} | {reference.params:,} | {built:,} | {left_out} |"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--memory-mb", type=float, default=80_000.0)
    options.add_argument("--workers", type=int, default=64)
    options.add_argument("--time-limit", type=float, default=24.0, help="hours")
    chosen = options.parse_args()
    budget = Budget(
        3_600 * chosen.time_limit, workers=chosen.workers, gpus=1.0, memory_mb=chosen.memory_mb
    )
    for name, task in profiles():
        print(f"\n{name}: {task.profile.n_train:,} to train on\n")
        print("| family | network | published | built | in the space |\n|---|---|---|---|---|")
        large = replace(task, device="cuda", budget=budget)
        for family in load_families(task.modality).values():
            for reference in family.references:
                print(line(family, reference, large))


if __name__ == "__main__":
    main()
