"""What a new order would have been worth on lists that were shown in another.

All of it stands on the position-based model of `piano_tf.propensity`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from piano_tf.evaluation.lists import Lists
from piano_tf.evaluation.ranking import ranks_of
from piano_tf.features import CLICK

CLIP = 0.05


class Snips(NamedTuple):
    """A self-normalised estimate, and the sums whose ratio it is.

    Attributes:
      value: sum(numerators) / sum(denominators), nan without a reward.
      numerators, denominators: [L] for `piano_tf.evaluation.significance.ratio_interval`; of two
        orders of the same lists the difference of numerators goes over the same denominators.
    """

    value: float
    numerators: np.ndarray
    denominators: np.ndarray


def snips(
    reward: np.ndarray,
    propensity_new: np.ndarray,
    propensity_logged: np.ndarray,
    *,
    clip: float = CLIP,
) -> Snips:
    """Self-normalised inverse propensity score of a new order under the position-based model.

        numerator_l   = sum_i reward_li theta(new rank) / max(theta(logged rank), clip)
        denominator_l = sum_i reward_li                 / max(theta(logged rank), clip)

    The value is the share of the relevance in the lists that is examined in the new order, on a
    scale where the first rank is always examined; it is that of the logged order times the lift in
    clicks. Rewards are found only where the logged order was examined, so each counts for
    1 / theta of them; their sum estimates the relevance that there was, and dividing by it, rather
    than by its unknown true value, keeps the estimate in [0, 1] and its variance low, for a bias
    that vanishes with the number of lists.

    A. Swaminathan, T. Joachims, The Self-Normalized Estimator for Counterfactual Learning, NIPS
    2015; T. Schnabel et al., Recommendations as Treatments, ICML 2016 (arXiv 1602.05352). Clicks
    weighted by rank are X. Wang et al.'s, Learning to Rank with Selection Bias in Personal Search,
    SIGIR 2016; clipping is T. Joachims et al.'s, Unbiased Learning-to-Rank with Biased Feedback,
    WSDM 2017 (arXiv 1608.04468), a little bias for much variance. The default is ours.

    What must hold: the position-based model, with theta known; the orders compared do not depend on
    these very rewards (the ideal order does).

    Args:
      reward: [L, N] clicks, or conversions (which need an examination as clicks do); 0 at padding.
      propensity_new: [L, N] theta at the ranks of the new order.
      propensity_logged: [L, N] theta at the ranks of the logged order.
      clip: The least propensity to divide by, in (0, 1].

    >>> reward, logged, swapped = np.array([[0, 1]]), np.array([[1, 0.5]]), np.array([[0.5, 1]])
    >>> snips(reward, logged, logged).value, snips(reward, swapped, logged).value
    (0.5, 1.0)
    """
    weighted = reward / np.maximum(propensity_logged, clip)
    numerators, denominators = (weighted * propensity_new).sum(axis=1), weighted.sum(axis=1)
    total = denominators.sum()
    return Snips(float(numerators.sum() / total) if total else np.nan, numerators, denominators)


def snips_of_order(
    lists: Lists,
    score: np.ndarray,
    propensity: Callable[[np.ndarray], np.ndarray],
    *,
    label: str = CLICK,
    clip: float = CLIP,
) -> Snips:
    """`snips` of the order by a score, on lists that were shown in their initial order.

    Args:
      lists: What happened.
      score: [L, N] orders each list.
      propensity: theta of ranks [L, N], such as `ExaminationModel.at` from training data.
      label: `click` or `conversion`.
      clip: As in `snips`.

    Raises:
      PianoError: A score is nan.
    """
    ranks = np.broadcast_to(np.arange(lists.mask.shape[1]), lists.mask.shape)
    new = propensity(ranks_of(score, lists.mask))
    return snips(lists.labels[label] & lists.mask, new, propensity(ranks), clip=clip)
