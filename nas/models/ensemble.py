"""Several networks as one: a deep ensemble."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """The mean of the logits of networks that were trained apart, from other random weights
    (Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep
    Ensembles", sec. 2.4).

    The mean of log-probabilities is a logarithmic opinion pool, whose cross-entropy is never above
    the mean of theirs (Heskes 1998, "Selecting Weighting Factors in Logarithmic Opinion Pools",
    sec. 2); of numbers the squared error is not (Krogh & Vedelsby 1995, "Neural Network Ensembles,
    Cross Validation, and Active Learning", sec. 2).

    Args:
        networks: With equal inputs and outputs.

    Example:
        >>> ensemble = Ensemble([nn.Linear(3, 2), nn.Linear(3, 2)])
        >>> x = torch.ones(5, 3)
        >>> bool((ensemble(x) == (ensemble.networks[0](x) + ensemble.networks[1](x)) / 2).all())
        True
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.data_dependent = any(getattr(own, "data_dependent", False) for own in networks)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Logits (B, outputs) of what each of the networks takes."""
        return torch.stack([network(*inputs, **named) for network in self.networks]).mean(dim=0)
