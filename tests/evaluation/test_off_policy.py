"""Examination and the worth of other orders, on clicks whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import optimize

from piano_tf.data.logs import write_log
from piano_tf.data.splits import ByShare
from piano_tf.errors import PianoError
from piano_tf.evaluation.lists import Lists, read_lists
from piano_tf.evaluation.off_policy import (
    ExaminationModel,
    read_examination,
    snips,
    snips_of_order,
)
from piano_tf.evaluation.predictions import initial_order, random_order
from piano_tf.evaluation.ranking import ranks_of
from piano_tf.evaluation.significance import ratio_interval
from piano_tf.simulation.config import SimulationConfig
from piano_tf.simulation.logs import simulate

RANKS = 8
THETA = (1.0 + np.arange(RANKS)) ** -0.7


def clicks_of(
    seed: int, lists: int, pairs: int, jitter: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lists of 8 pairs drawn from `pairs`, better ones higher but for some jitter.

    Returns:
      clicks and pair [L, 8] by logged rank, gamma [pairs].
    """
    rng = np.random.default_rng(seed)
    gamma = rng.beta(1.2, 3, pairs)
    pair = rng.random((lists, pairs)).argsort(axis=1)[:, :RANKS]
    first_stage = np.log(gamma[pair]) + jitter * rng.normal(size=pair.shape)
    pair = np.take_along_axis(pair, np.argsort(-first_stage, axis=1), axis=1)
    return rng.random(pair.shape) < THETA * gamma[pair], pair, gamma


def fitted(clicks: np.ndarray, pair: np.ndarray, **settings) -> np.ndarray:
    ranks = np.broadcast_to(np.arange(pair.shape[1]), pair.shape)
    return ExaminationModel.fit(clicks.ravel(), ranks.ravel(), pair.ravel(), **settings).propensity


# --- examination ---


def test_propensities_are_recovered_where_the_click_rate_by_rank_is_far_off() -> None:
    clicks, pair, _ = clicks_of(seed=0, lists=20_000, pairs=60)
    by_rank = clicks.mean(axis=0) / clicks[:, 0].mean()
    assert np.abs(by_rank - THETA).max() > 0.15
    np.testing.assert_allclose(fitted(clicks, pair), THETA, atol=0.02)


def test_they_are_recovered_where_each_pair_was_shown_three_times() -> None:
    """What a maximum likelihood with gamma <= 1 does not: its theta is flatter (see `fit`)."""
    clicks, pairs = [], []
    for seed in range(50):
        some, pair, _ = clicks_of(seed, lists=750, pairs=2_000, jitter=1.5)
        clicks.append(some)
        pairs.append(pair + 2_000 * seed)  # no two worlds have a pair in common
    found = fitted(np.concatenate(clicks), np.concatenate(pairs))
    np.testing.assert_allclose(found, THETA, atol=0.02)


def test_it_is_the_maximum_of_the_poisson_likelihood() -> None:
    clicks, pair, _ = clicks_of(seed=1, lists=60, pairs=9)
    rank = np.broadcast_to(np.arange(RANKS), pair.shape)

    def loss(logs: np.ndarray) -> float:
        log_rate = np.append(0, logs[: RANKS - 1])[rank] + logs[RANKS - 1 :][pair]
        return (np.exp(log_rate) - clicks * log_rate).sum()

    best = optimize.minimize(loss, np.full(RANKS - 1 + 9, -1.0), tol=1e-10)
    np.testing.assert_allclose(fitted(clicks, pair)[1:], np.exp(best.x[: RANKS - 1]), rtol=1e-3)


def test_what_says_nothing_changes_nothing() -> None:
    clicks, pair, _ = clicks_of(seed=2, lists=200, pairs=12)
    ranks = np.broadcast_to(np.arange(RANKS), pair.shape).ravel()
    expected = ExaminationModel.fit(clicks.ravel(), ranks, pair.ravel()).propensity
    names = np.array([f"pair {number}" for number in pair.ravel()], object)
    shuffled = np.random.default_rng(0).permutation(len(ranks))
    never_clicked = np.array(["never"] * 3, object)
    at_one_rank = np.array(["once"] * 4, object)
    found = ExaminationModel.fit(
        np.concatenate([clicks.ravel()[shuffled], [0, 0, 0], [1, 0, 1, 1]]),
        np.concatenate([ranks[shuffled], [0, 1, 5], [3, 3, 3, 3]]),
        np.concatenate([names[shuffled], never_clicked, at_one_rank]),
    ).propensity
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_first_rank_has_one_even_where_it_is_not_the_most_examined() -> None:
    clicks, pair, _ = clicks_of(seed=6, lists=500, pairs=40)
    theta = fitted(clicks, pair)
    backwards = fitted(clicks[:, ::-1], pair[:, ::-1])
    np.testing.assert_allclose(backwards, theta[::-1] / theta[-1], rtol=1e-5)
    assert backwards.max() > 2


def test_below_the_depth_ranks_share_one_propensity() -> None:
    clicks, pair, _ = clicks_of(seed=3, lists=5_000, pairs=40)
    model = ExaminationModel(fitted(clicks, pair, depth=4))
    assert len(model.propensity) == 4
    np.testing.assert_allclose(model.propensity[:3], THETA[:3], atol=0.05)
    assert THETA[-1] < model.propensity[3] < THETA[3]
    expected = model.propensity[[0, 3, 3, 3]]
    np.testing.assert_array_equal(model.at(np.array([0, 3, 4, 99])), expected)
    assert fitted(clicks, pair, depth=1).tolist() == [1]


@pytest.mark.parametrize(
    ("clicks", "ranks", "pairs", "rank"),
    [
        ([1, 1, 1], [0, 1, 2], [7, 8, 9], 1),  # no pair moved
        ([1, 0, 0, 1, 1, 1], [0, 1, 1, 0, 0, 2], [7, 7, 8, 8, 9, 9], 1),  # no click at rank 1
        ([0, 1, 1, 1], [0, 1, 0, 1], [7, 7, 8, 9], 1),  # rank 1 beats rank 0, and never the reverse
    ],
)
def test_a_rank_whose_propensity_cannot_be_known_is_named(clicks, ranks, pairs, rank) -> None:
    with pytest.raises(PianoError, match=f"rank {rank} .*no clicks link it to rank 0"):
        ExaminationModel.fit(np.array(clicks), np.array(ranks), np.array(pairs))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log whose candidates are examined with probability (1 + rank)^-0.4."""
    folder = tmp_path_factory.mktemp("simulated") / "log"
    config = SimulationConfig(lists=15_000, users=50, items=300, artists=20, seed=3)
    write_log(simulate(config), folder, ByShare(validation=0.05, test=0.05))
    return folder


def test_a_log_s_examination_is_the_simulated_world_s(simulated: Path) -> None:
    found = read_examination(simulated, depth=12).propensity
    truth = (1.0 + np.arange(12)) ** -0.4
    np.testing.assert_allclose(found[:-1], truth[:-1], atol=0.05)
    lists = read_lists(simulated, "train")
    shown = lists.mask[:, :11].sum(axis=0)
    by_rank = lists.labels["click"][:, :11].sum(axis=0) / shown
    assert np.abs(by_rank / by_rank[0] - truth[:-1]).max() > 0.1


def test_a_log_is_read_as_pairs_of_query_and_item(simulated: Path) -> None:
    rows = pq.read_table(simulated / "train", columns=["query", "item_id", "click"]).to_pylist()
    shown = [
        (click, rank, f"{row['query']}\t{item}")
        for row in rows
        for rank, (item, click) in enumerate(zip(row["item_id"], row["click"], strict=True))
    ]
    clicks, ranks, pairs = (np.array(values) for values in zip(*shown, strict=True))
    expected = ExaminationModel.fit(clicks, ranks, pairs).propensity
    np.testing.assert_allclose(read_examination(simulated).propensity, expected, rtol=1e-9)


# --- the worth of an order ---


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
