"""The best order of a list that its listener's true behaviour allows, by local search."""

from __future__ import annotations

import itertools

import numpy as np

from piano_tf import rerank
from piano_tf.experiment.policies import by_score
from piano_tf.simulation.behaviour import Appeal, Behaviour, Expected
from piano_tf.simulation.draws import Ints, logistic

_STARTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # b of log p(click) + b log p(conversion | click)


def list_value(expected: Expected, value: tuple[float, float]) -> np.ndarray:
    """[B] A P(any click) + B P(any conversion)."""
    return rerank.list_value(expected.list_click, expected.list_conversion, value)


def best_order(
    behaviour: Behaviour, appeal: Appeal, value: tuple[float, float], *, top: int = 10
) -> Ints:
    """The order with the largest A P(any click) + B P(any conversion) that a search finds.

    From the best of several sorted orders, the exchange of two candidates that gains most is made
    until none gains. There may be a better order that no single exchange leads towards.

    Args:
      behaviour: The truth.
      appeal: The lists, in any order.
      value: (A, B).
      top: One of the two exchanged candidates is among so many first ones.

    Returns:
      [B, N] places of the candidates, best first, padding last.
    """
    click, conversion = (np.log(logistic(x)) for x in (appeal.click, appeal.conversion))
    starts = [by_score(click + weight * conversion, appeal.mask) for weight in _STARTS]

    def worth(order: Ints, rows: Ints | slice = slice(None)) -> np.ndarray:
        lists = Appeal(*(part[rows] for part in appeal))
        return list_value(behaviour.expected(lists.ordered(order)), value)

    values = np.array([worth(order) for order in starts])
    every = np.arange(len(appeal.mask))
    order, best = np.stack(starts)[values.argmax(axis=0), every], values.max(axis=0)

    ranks = appeal.mask.shape[1]
    pairs = [pair for pair in itertools.combinations(range(ranks), 2) if pair[0] < top]
    open_ = every
    while len(open_):
        gained, found = best[open_].copy(), order[open_].copy()
        for one, other in pairs:
            longer = appeal.mask[open_].sum(axis=1) > other
            rows = open_[longer]
            tried = order[rows].copy()
            tried[:, [one, other]] = tried[:, [other, one]]
            reached = worth(tried, rows)
            better = reached > gained[longer] + 1e-12
            places = np.flatnonzero(longer)[better]
            gained[places], found[places] = reached[better], tried[better]
        moved = gained > best[open_]
        order[open_], best[open_] = found, gained
        open_ = open_[moved]
    return order
