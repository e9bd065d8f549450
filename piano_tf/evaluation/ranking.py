"""How good the order of each list is.

Everything here returns one value per list, float64, nan for a list without a positive: the mean
over lists is `np.nanmean`, and what tests compare are the values themselves.
"""

from __future__ import annotations

import numpy as np

from piano_tf.errors import PianoError
from piano_tf.evaluation.lists import Lists
from piano_tf.features import LABELS

NDCG_AT = (1, 3, 5, 10)
MAP_AT = (5, 10)


def ranks_of(score: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Rank of each candidate, from 0: by falling score, ties by initial rank, padding last.

    Args:
      score: [L, N]; what stands at padding means nothing.
      mask: [L, N] boolean, True = real.

    Returns:
      [L, N] int64.

    Raises:
      PianoError: A real candidate's score is nan.

    >>> ranks_of(np.array([[1.0, 1.0, 9.0, 2.0]]), np.array([[True, True, False, True]]))
    array([[1, 2, 3, 0]])
    """
    wrong = np.argwhere(mask & np.isnan(score))
    if len(wrong):
        raise PianoError(
            f"list {wrong[0][0]}, candidate {wrong[0][1]}, score: got nan, expected a number"
        )
    falling = -np.where(mask, score, 0).astype(np.float64)
    order = np.lexsort((falling, ~mask), axis=1)  # stable; the last key is the first to sort by
    return np.argsort(order, axis=1)


def ndcg(labels: np.ndarray, ranks: np.ndarray, mask: np.ndarray, k: int) -> np.ndarray:
    """Normalised discounted cumulative gain of the first k ranks.

        DCG@k = sum over ranks r < k of (2^y - 1) / log2(2 + r);  NDCG@k = DCG@k / ideal DCG@k

    K. Järvelin, J. Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques, TOIS 20(4), 2002;
    with the gain of C. Burges et al., Learning to Rank Using Gradient Descent, ICML 2005. Of
    labels that are 0 or 1 the gain is the label itself.

    Args:
      labels: [L, N] boolean.
      ranks: [L, N], from `ranks_of`.
      mask: [L, N] boolean, True = real.
      k: Ranks that count, at least 1.

    Returns:
      [L], nan without a positive.

    >>> ndcg(np.array([[False, True]]), np.array([[0, 1]]), np.ones((1, 2), bool), 10) == 1 / np.log2(3)
    array([ True])
    """  # noqa: E501
    positive = labels & mask
    gained = np.where(positive & (ranks < k), 1 / np.log2(2.0 + ranks), 0).sum(axis=1)
    best = np.cumsum(1 / np.log2(2.0 + np.arange(k)))
    count = positive.sum(axis=1)
    return _where_any(count, gained, best[np.clip(count, 1, k) - 1])


def average_precision(
    labels: np.ndarray, ranks: np.ndarray, mask: np.ndarray, k: int
) -> np.ndarray:
    """Average precision of the first k ranks; its mean over lists is MAP@k.

        AP@k = sum over positives at rank r < k of precision@(r + 1), / min(k, positives)

    The divisor is the most that k ranks could hold, so that the ideal order has 1 for every k.
    TF-Ranking divides by all positives instead: it is smaller where there are more than k.

    Args:
      labels: [L, N] boolean.
      ranks: [L, N], from `ranks_of`.
      mask: [L, N] boolean, True = real.
      k: Ranks that count, at least 1.

    Returns:
      [L], nan without a positive.

    >>> three = np.array([[True, False, True]])
    >>> average_precision(three, np.arange(3)[np.newaxis], np.ones((1, 3), bool), 5) == (1 + 2 / 3) / 2
    array([ True])
    """  # noqa: E501
    positive = labels & mask
    by_rank = np.zeros(positive.shape, bool)
    np.put_along_axis(by_rank, ranks, positive, axis=1)
    precision = np.cumsum(by_rank, axis=1) / (1.0 + np.arange(by_rank.shape[1]))
    count = positive.sum(axis=1)
    return _where_any(count, (precision * by_rank)[:, :k].sum(axis=1), np.minimum(count, k))


def reciprocal_rank(labels: np.ndarray, ranks: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """1 / (1 + rank of the first positive), at any depth; its mean over lists is MRR.

    Args:
      labels: [L, N] boolean.
      ranks: [L, N], from `ranks_of`.
      mask: [L, N] boolean, True = real.

    Returns:
      [L], nan without a positive.

    >>> reciprocal_rank(np.array([[False, True]]), np.array([[0, 1]]), np.ones((1, 2), bool))
    array([0.5])
    """
    positive = labels & mask
    found = np.where(positive, 1 / (1.0 + ranks), 0).max(axis=1, initial=0)
    return _where_any(positive.any(axis=1), found, 1)


def list_metrics(lists: Lists, score: np.ndarray) -> dict[str, np.ndarray]:
    """NDCG@{1, 3, 5, 10}, MAP@{5, 10} and MRR of an order, for click and for conversion.

    Args:
      lists: What happened.
      score: [L, N] orders each list.

    Returns:
      `click_ndcg_10`, `conversion_map_5`, `click_mrr`, ... -> [L], nan without a positive.

    Raises:
      PianoError: A score is nan.
    """
    ranks = ranks_of(score, lists.mask)
    found: dict[str, np.ndarray] = {}
    for label in LABELS:
        truth = lists.labels[label], ranks, lists.mask
        found |= {f"{label}_ndcg_{k}": ndcg(*truth, k) for k in NDCG_AT}
        found |= {f"{label}_map_{k}": average_precision(*truth, k) for k in MAP_AT}
        found[f"{label}_mrr"] = reciprocal_rank(*truth)
    return found


def _where_any(counts: np.ndarray, value: np.ndarray, divisor: np.ndarray | int) -> np.ndarray:
    """value / divisor, nan for lists without a positive."""
    return np.divide(value, divisor, out=np.full(value.shape, np.nan), where=counts > 0)
