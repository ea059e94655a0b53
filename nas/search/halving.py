"""Successive halving for several objectives, without waiting for anybody (MO-ASHA).

Schmucker et al. 2021, "Multi-objective Asynchronous Successive Halving", sec. 4: at each
rung the candidates are ordered by non-dominated fronts and, inside a front, so that the
chosen spread over it; the best 1/eta go on. A decision uses only what has arrived.
"""

from __future__ import annotations

import numpy as np

from nas.front import Floats, farthest_first, front_ranks


def rungs(epochs: int, eta: int = 3) -> tuple[int, ...]:
    """Epochs after which a candidate is judged: epochs/eta², epochs/eta.

    Not after the first, which warms up, and not after so few that the figures say little of
    the last: the first rung stands at three epochs or, where a third is less, at two.
    """
    first, second = round(epochs / eta**2), round(epochs / eta)
    return tuple(sorted({e for e, least in ((first, 3), (second, 2)) if least <= e < epochs}))


def goes_on(costs: Floats, mine: int, eta: int = 3) -> bool:
    """Whether row ``mine`` of the rung's costs (points × objectives, smaller is better)
    is among the best 1/eta. The first ``eta - 1`` arrivals have nobody to be judged by."""
    if len(costs) < eta:
        return True
    ranks = front_ranks(costs)
    better = int(np.sum(ranks < ranks[mine]))
    peers = np.flatnonzero(ranks == ranks[mine])
    place = better + int(np.flatnonzero(peers[farthest_first(costs[peers])] == mine)[0])
    return place < max(1, len(costs) // eta)
