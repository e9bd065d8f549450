"""How likely ranks are to be examined, on clicks whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from position_bias import RANKS, THETA, clicks_of
from scipy import optimize

from piano_tf.data.logs import write_log
from piano_tf.data.splits import ByShare
from piano_tf.errors import PianoError
from piano_tf.evaluation.lists import read_lists
from piano_tf.propensity import ExaminationModel, read_examination
from piano_tf.simulation import SimulationConfig, simulate


def fitted(clicks: np.ndarray, pair: np.ndarray, **settings) -> np.ndarray:
    ranks = np.broadcast_to(np.arange(pair.shape[1]), pair.shape)
    return ExaminationModel.fit(clicks.ravel(), ranks.ravel(), pair.ravel(), **settings).propensity


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
    """A log of a position-based world: candidates are examined with probability (1 + rank)^-0.4."""
    folder = tmp_path_factory.mktemp("simulated") / "log"
    still = {"drift": 0.0, "change": 0.0}
    plain = {"abandonment", "click_tiring", "contrast", "stop_after_click", "stop_after_conversion"}
    config = SimulationConfig.model_validate(
        {
            "lists": 15_000,
            "listeners": {"count": 50, **still},
            "catalogue": {"tracks": 300, "artists": 20, "new_albums": 0.0},
            "queries": {"meaning_change": 0.0},
            "first_stage": {"randomised": 0.1},
            "behaviour": {"examination_decay": 0.4, **dict.fromkeys(plain, 0.0)},
            "seed": 3,
        }
    )
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


# --- lists in random order ---


def test_from_random_orders_theta_is_the_clicks_by_rank() -> None:
    rng = np.random.default_rng(0)
    gamma = rng.beta(1.2, 3, (40_000, RANKS))
    lengths = rng.integers(2, RANKS + 1, 40_000)
    shown = np.arange(RANKS) < lengths[:, np.newaxis]
    # Longer lists have better candidates: only lists of the same lengths can be compared.
    gamma = np.minimum(1, gamma * lengths[:, np.newaxis] / 4)
    clicks = rng.random(shown.shape) < THETA * gamma
    row, rank = np.nonzero(shown)
    found = ExaminationModel.of_randomised(clicks[shown], rank, lengths[row]).propensity
    np.testing.assert_allclose(found, THETA, atol=0.03)
    model = ExaminationModel.of_randomised(clicks[shown], rank, lengths[row], depth=3)
    np.testing.assert_array_equal(model.propensity, found[:3])


def test_ranks_without_a_click_share_the_one_before() -> None:
    clicks, ranks = np.array([1, 1, 0, 0, 1]), np.array([0, 1, 2, 3, 4])
    found = ExaminationModel.of_randomised(clicks, ranks, np.full(5, 5))
    assert found.propensity.tolist() == [1, 1]


def test_without_a_click_at_the_top_nothing_is_known() -> None:
    with pytest.raises(PianoError, match="no click at rank 0"):
        ExaminationModel.of_randomised(np.array([0, 1]), np.array([0, 1]), np.array([2, 2]))


def test_the_slice_of_a_log_is_its_randomised_lists(simulated: Path) -> None:
    found = read_examination(simulated, randomised=("context_slice", "randomised")).propensity
    truth = (1.0 + np.arange(len(found))) ** -0.4
    assert len(found) > 10
    np.testing.assert_allclose(found[:8], truth[:8], atol=0.12)
    rows = pq.read_table(simulated / "train", columns=["context_slice", "click"]).to_pylist()
    clicks = [row["click"] for row in rows if row["context_slice"] == "randomised"]
    expected = sum(c[3] for c in clicks) / sum(c[0] for c in clicks if len(c) > 3)
    assert found[3] == pytest.approx(expected)
