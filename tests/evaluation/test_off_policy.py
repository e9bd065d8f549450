"""The worth of other orders, on clicks whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from position_bias import RANKS, THETA, clicks_of

from piano_tf.evaluation.lists import Lists
from piano_tf.evaluation.off_policy import snips, snips_of_order
from piano_tf.evaluation.predictions import initial_order, random_order
from piano_tf.evaluation.ranking import ranks_of
from piano_tf.evaluation.significance import ratio_interval
from piano_tf.propensity import ExaminationModel


def test_snips_by_hand() -> None:
    reward = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    logged = np.array([[1, 0.5, 0.25]] * 3)
    new = np.array([[0.5, 1, 0.25], [0.25, 1, 0.5], [1, 0.5, 0.25]])
    found = snips(reward, new, logged)
    assert found.numerators.tolist() == [0.5 / 1 + 0.25 / 0.25, 1 / 0.5, 0]
    assert found.denominators.tolist() == [1 / 1 + 1 / 0.25, 1 / 0.5, 0]
    assert found.value == (0.5 + 1 + 2) / (1 + 4 + 2)
    assert np.isnan(snips(0 * reward, new, logged).value)


def test_clipping_bounds_the_weight_of_a_click() -> None:
    logged, new = np.array([[0.01, 1.0]]), np.array([[1.0, 0.01]])
    found = snips(np.array([[1, 1]]), new, logged, clip=0.1)
    np.testing.assert_allclose(found.numerators, 1 / 0.1 + 0.01)
    np.testing.assert_allclose(found.denominators, 1 / 0.1 + 1)
    assert found.value <= 1


def lists_of(clicks: np.ndarray) -> Lists:
    size = len(clicks)
    return Lists(
        list_id=np.arange(size).astype(str).astype(object),
        user_id=np.arange(size).astype(str).astype(object),
        mask=np.ones(clicks.shape, bool),
        labels={"click": clicks, "conversion": np.zeros_like(clicks)},
        history_length=np.zeros(size, int),
        query_frequency=np.zeros(size, int),
        item_popularity=np.zeros(clicks.shape, int),
    )


@pytest.mark.parametrize("order", ["initial", "random", "best", "worst"])
def test_the_value_is_the_share_of_relevance_examined(order: str) -> None:
    clicks, pair, gamma = clicks_of(seed=4, lists=20_000, pairs=60)
    lists = lists_of(clicks)
    relevance = gamma[pair]
    score = {
        "initial": initial_order(lists),
        "random": random_order(lists, 0),
        "best": relevance,
        "worst": -relevance,
    }[order]
    ranks = ranks_of(score, lists.mask)
    truth = (relevance * THETA[ranks]).sum() / relevance.sum()
    found = snips_of_order(lists, score, ExaminationModel(THETA).at, clip=0.01)
    _, low, high = ratio_interval(found.numerators, found.denominators, 0, resamples=500)
    assert low < found.value < high and high - low < 0.02
    np.testing.assert_allclose(found.value, truth, atol=0.01)
    naive = (clicks * THETA[ranks]).sum() / clicks.sum()  # as if clicks were relevance
    if order != "random":  # which knows nothing of relevance
        assert abs(naive - truth) > 3 * abs(found.value - truth)


def test_the_interval_covers_the_true_value() -> None:
    covered = []
    for seed in range(100):
        clicks, pair, gamma = clicks_of(seed, lists=150, pairs=20)
        lists, relevance = lists_of(clicks), gamma[pair]
        truth = (relevance * THETA[ranks_of(relevance, lists.mask)]).sum() / relevance.sum()
        found = snips_of_order(lists, relevance, ExaminationModel(THETA).at, clip=0.01)
        _, low, high = ratio_interval(
            found.numerators, found.denominators, seed, resamples=300, level=0.9
        )
        covered.append(low <= truth <= high)
    assert 0.8 < np.mean(covered) < 0.99


def test_padding_and_other_labels_do_not_matter() -> None:
    clicks, _, _ = clicks_of(seed=5, lists=50, pairs=20)
    lists, score = lists_of(clicks), np.random.default_rng(0).random(clicks.shape)
    theta = ExaminationModel(THETA).at
    expected = snips_of_order(lists, score, theta)
    loud = lists_of(np.pad(clicks, [(0, 0), (0, 3)], constant_values=True))
    loud.mask[:, RANKS:] = False
    found = snips_of_order(loud, np.pad(score, [(0, 0), (0, 3)], constant_values=9), theta)
    np.testing.assert_allclose(found.numerators, expected.numerators, rtol=1e-12)
    np.testing.assert_allclose(found.denominators, expected.denominators, rtol=1e-12)
    assert np.isnan(snips_of_order(lists, score, theta, label="conversion").value)
