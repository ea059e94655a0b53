"""Networks without values."""

from __future__ import annotations

import pytest
import torch
from default_run import one_of_each_modality

from nas.family import load_families
from nas.models.meta import without_values
from nas.plan import make_task
from nas.task import Budget
from nas.testing import example_datasets


@pytest.mark.parametrize("name", one_of_each_modality())
def test_a_network_without_values_has_the_parameters_and_buffers_of_a_real_one(name: str) -> None:
    family = load_families()[name]
    dataset = next(iter(example_datasets(family.modality).values()))
    task = make_task(dataset, budget=Budget(None, 1), device="cpu")
    config = family.baseline(task)
    with without_values():
        found = family.build(config, task)
    wanted = family.build(config, task).state_dict()
    assert all(value.is_meta for value in found.parameters())
    assert {k: (v.shape, v.dtype) for k, v in found.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in wanted.items()
    }


def test_a_real_tensor_has_its_initial_values_there_too() -> None:
    with without_values():
        real = torch.zeros(3, 3, device="cpu")
        torch.nn.init.ones_(torch.nn.init.normal_(real))
        torch.nn.init.xavier_uniform_(tensor=real, gain=5.0)
    assert len(real.unique()) > 1
