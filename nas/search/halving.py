"""Successive halving for several objectives, without waiting for anybody (MO-ASHA).

Schmucker et al. 2021, "Multi-objective Asynchronous Successive Halving", sec. 4: at each
rung the candidates are ordered by non-dominated fronts and, inside a front, so that the
chosen spread over it; the best 1/ETA are promoted. A decision uses only what has arrived.

Here the whole first front is promoted, also where it is larger. A sampler that aims at the front
soon fills it with more than a third of a rung, and what nobody dominates is worth its last epochs.
But what is no better than a constant guess is dominated by that, which costs nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.front import Floats, farthest_first, is_efficient
from nas.plan import ETA


def is_promoted(costs: Floats, beats_guess: NDArray[np.bool_], row: int) -> bool:
    """Whether ``row`` of the rung's costs (points × objectives, smaller is better) is dominated
    by none or among the best 1/ETA. Rows that do not beat a constant guess (``beats_guess``,
    shape (points,)) are dominated by that. The first ``ETA - 1`` arrivals pass: there is too
    little to compare them with."""
    if len(costs) < ETA:
        return True
    # Front by front, and only as far as there is room: the last of many are never ranked.
    efficient = is_efficient(costs) & beats_guess
    if efficient[row]:
        return True
    room = len(costs) // ETA - np.count_nonzero(efficient)
    left = np.flatnonzero(~efficient)
    while room > 0:
        efficient = is_efficient(costs[left])
        front = left[efficient]
        if row in front:
            order = front[farthest_first(costs[front])]
            return row in order[:room]
        room -= len(front)
        left = left[~efficient]
    return False
