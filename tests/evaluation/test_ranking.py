"""List metrics against slow references, TF-Ranking and what must not matter."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_ranking as tfr
from hypothesis import given, settings
from hypothesis import strategies as st

from piano_tf import metrics
from piano_tf.errors import PianoError
from piano_tf.evaluation.lists import Lists
from piano_tf.evaluation.ranking import (
    average_precision,
    list_metrics,
    ndcg,
    ranks_of,
    reciprocal_rank,
)

Made = tuple[np.ndarray, np.ndarray, np.ndarray]  # labels, scores, mask


def made_by(seed: int, lengths: list[int], *, ties: bool) -> Made:
    rng = np.random.default_rng(seed)
    mask = np.arange(max(*lengths, 1)) < np.array(lengths)[:, np.newaxis]
    scores = rng.integers(-2, 3, mask.shape) * 1.0 if ties else rng.normal(size=mask.shape)
    return (rng.random(mask.shape) < 0.35) & mask, scores, mask


@st.composite
def some_lists(draw: st.DrawFn, ties: bool = True) -> Made:
    lengths = draw(st.lists(st.integers(0, 12), min_size=1, max_size=6))
    return made_by(draw(st.integers(0, 2**32 - 1)), lengths, ties=ties)


# --- one list at a time, as the textbook has it ---


def slow_order(y: np.ndarray, scores: np.ndarray) -> list[bool]:
    """Labels of one list, best first, ties as they stand."""
    places = sorted(range(len(y)), key=lambda place: (-scores[place], place))
    return [bool(y[place]) for place in places]


def slow_ndcg(y: list[bool], k: int) -> float:
    def dcg(labels: list[bool]) -> float:
        return sum((2**x - 1) / np.log2(2 + rank) for rank, x in enumerate(labels[:k]))

    return dcg(y) / dcg(sorted(y, reverse=True)) if any(y) else np.nan


def slow_average_precision(y: list[bool], k: int) -> float:
    total = sum(sum(y[: rank + 1]) / (rank + 1) for rank in range(min(k, len(y))) if y[rank])
    return total / min(k, sum(y)) if any(y) else np.nan


def slow_reciprocal_rank(y: list[bool]) -> float:
    return 1 / (1 + y.index(True)) if any(y) else np.nan


@given(some_lists(), st.integers(1, 14))
@settings(max_examples=80)
def test_every_metric_is_the_textbook_s(made: Made, k: int) -> None:
    labels, scores, mask = made
    ranks = ranks_of(scores, mask)
    ordered = [slow_order(y[m], x[m]) for y, x, m in zip(labels, scores, mask, strict=True)]
    for found, slow in (
        (ndcg(labels, ranks, mask, k), [slow_ndcg(y, k) for y in ordered]),
        (
            average_precision(labels, ranks, mask, k),
            [slow_average_precision(y, k) for y in ordered],
        ),
        (reciprocal_rank(labels, ranks, mask), [slow_reciprocal_rank(y) for y in ordered]),
    ):
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, slow, rtol=1e-12)


@given(some_lists())
@settings(max_examples=50)
def test_ranks_are_a_permutation_ties_as_they_stand_padding_last(made: Made) -> None:
    _, scores, mask = made
    scores = np.where(scores == -2, -np.inf, scores)
    for rank, x, real in zip(ranks_of(scores, mask), scores, mask, strict=True):
        places = sorted(range(len(x)), key=lambda i: (not real[i], -x[i] if real[i] else 0, i))
        assert np.argsort(rank).tolist() == places


def test_a_score_that_is_no_number_is_named() -> None:
    scores, mask = np.array([[0.0, 1.0], [np.nan, 1.0]]), np.ones((2, 2), bool)
    with pytest.raises(PianoError, match="list 1, candidate 0, score: got nan"):
        ranks_of(scores, mask)
    mask[1, 0] = False
    assert ranks_of(scores, mask).tolist() == [[1, 0], [1, 0]]


# --- other libraries ---

LENGTHS = [0, 1, 2, 5, 9, 12, 12, 12, 11, 7, 3, 1] * 3


@pytest.mark.parametrize("k", [1, 3, 5, 10, 12])
@pytest.mark.parametrize("metric", ["ndcg", "map", "mrr"])
def test_means_are_tf_ranking_s(metric: str, k: int) -> None:
    labels, scores, mask = made_by(7, LENGTHS, ties=False)
    if metric == "map":  # TF-Ranking divides by all positives: the same where they fit into k
        fit = labels.sum(axis=1) <= k
        labels, scores, mask = labels[fit], scores[fit], mask[fit]
    counted = labels.any(axis=1, keepdims=True)
    assert counted.sum() > 3 and not counted.all()
    theirs = {
        "ndcg": tfr.keras.metrics.NDCGMetric(topn=k),
        "map": tfr.keras.metrics.MeanAveragePrecisionMetric(topn=k),
        "mrr": tfr.keras.metrics.MRRMetric(),
    }[metric]
    theirs.update_state(
        tf.constant(np.where(mask, labels, -1.0), tf.float32),
        tf.constant(scores, tf.float32),
        tf.constant(counted & mask, tf.float32),
    )
    ranks = ranks_of(scores, mask)
    ours = {
        "ndcg": lambda: ndcg(labels, ranks, mask, k),
        "map": lambda: average_precision(labels, ranks, mask, k),
        "mrr": lambda: reciprocal_rank(labels, ranks, mask),
    }[metric]()
    assert np.isnan(ours[~counted[:, 0]]).all()
    np.testing.assert_allclose(np.nanmean(ours), theirs.result().numpy(), rtol=1e-5)


def test_ndcg_is_the_one_that_training_watches() -> None:
    labels, scores, mask = made_by(8, LENGTHS, ties=True)
    watched = metrics.NDCG("click", 10)
    watched.update_state(
        {"click": tf.constant(labels, tf.float32)},
        {"click": tf.constant(scores, tf.float32)},
        tf.constant(mask),
    )
    ours = ndcg(labels, ranks_of(scores, mask), mask, 10)
    np.testing.assert_allclose(np.nanmean(ours), watched.result(), rtol=1e-5)


# --- what must not matter ---


def lists_of(click: np.ndarray, mask: np.ndarray) -> Lists:
    size = len(mask)
    return Lists(
        list_id=np.arange(size).astype(str).astype(object),
        user_id=np.full(size, "user", object),
        mask=mask,
        labels={"click": click, "conversion": click & (np.arange(mask.shape[1]) % 2 == 0)},
        history_length=np.zeros(size, int),
        query_frequency=np.zeros(size, int),
        item_popularity=np.zeros(mask.shape, int),
    )


@given(some_lists(), st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_padding_and_the_order_of_lists_do_not_matter(made: Made, more: int, random) -> None:
    labels, scores, mask = made
    expected = list_metrics(lists_of(labels, mask), scores)
    wider = [(0, 0), (0, more)]
    loud = np.pad(np.where(mask, scores, 99), wider, constant_values=99)
    places = random.sample(range(len(mask)), len(mask))
    found = list_metrics(
        lists_of(np.pad(labels, wider)[places], np.pad(mask, wider)[places]), loud[places]
    )
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values[places], rtol=1e-12, err_msg=name)


@given(some_lists(ties=False))
@settings(max_examples=25)
def test_only_the_order_of_scores_matters(made: Made) -> None:
    labels, scores, mask = made
    expected = list_metrics(lists_of(labels, mask), scores)
    found = list_metrics(lists_of(labels, mask), np.exp(3 * scores) - 7)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_a_label_at_padding_is_no_positive() -> None:
    labels = np.array([[True, True], [False, True]])
    mask = np.array([[True, False], [True, False]])
    ranks = ranks_of(np.zeros((2, 2)), mask)
    for found in (
        ndcg(labels, ranks, mask, 5),
        average_precision(labels, ranks, mask, 5),
        reciprocal_rank(labels, ranks, mask),
    ):
        np.testing.assert_equal(found, [1.0, np.nan])


def test_every_metric_of_the_protocol_has_its_name() -> None:
    labels, scores, mask = made_by(9, LENGTHS, ties=True)
    found = list_metrics(lists_of(labels, mask), scores)
    expected = {
        f"{label}_{name}"
        for label in ("click", "conversion")
        for name in ("ndcg_1", "ndcg_3", "ndcg_5", "ndcg_10", "map_5", "map_10", "mrr")
    }
    assert set(found) == expected
    ranks = ranks_of(scores, mask)
    bought = labels & (np.arange(mask.shape[1]) % 2 == 0)
    np.testing.assert_array_equal(found["click_ndcg_3"], ndcg(labels, ranks, mask, 3))
    np.testing.assert_array_equal(
        found["conversion_map_5"], average_precision(bought, ranks, mask, 5)
    )
    np.testing.assert_array_equal(found["conversion_mrr"], reciprocal_rank(bought, ranks, mask))
