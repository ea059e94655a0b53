"""For tests of one's own: the contracts of a family and of a sampler, and a search without
training.

``check_family`` and ``check_sampler`` hold any family and any sampler, ours and a third party's
alike, to what the framework asks of it. torch is imported by ``check_family`` and
``sample_inputs`` alone.
"""

from nas.testing.families import check_family, example_datasets, sample_inputs
from nas.testing.formulas import (
    EVALUATOR,
    FormulaEvaluator,
    formula,
    small_spaces,
    small_task,
)
from nas.testing.samplers import check_sampler

__all__ = [
    "EVALUATOR",
    "FormulaEvaluator",
    "check_family",
    "check_sampler",
    "example_datasets",
    "formula",
    "sample_inputs",
    "small_spaces",
    "small_task",
]
