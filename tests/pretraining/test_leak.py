"""Why there are folds: where clicks are noise, match features must say nothing of them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from piano_tf.config import PretrainingConfig
from piano_tf.features import FeatureSpec, InputSpec
from piano_tf.layers import MatchFeatures, PretrainedVectors
from piano_tf.pretraining import interactions_of, pretrain

USERS, LISTS, N, H, T = 120, 6, 8, 5, 2
ITEMS, TOKENS = 300, 60
INPUTS = InputSpec(
    features=FeatureSpec(dataset="noise"),
    encoding={},
    rows={"user_id": USERS + 1, "item_id": ITEMS + 1, "query": TOKENS + 1},
)
CONFIGS = [
    PretrainingConfig(width=16, folds=2),
    PretrainingConfig(method="two_tower", width=16, folds=2, batch_size=256, learning_rate=0.3),
]
# The AUC of what says nothing differs from a half by this at one time in about 10,000.
CHANCE = 4 * np.sqrt(1 / (12 * USERS * LISTS))


@pytest.fixture(scope="module")
def lists() -> tuple[dict[str, tf.Tensor], np.ndarray]:
    """Encoded lists and which candidate was chosen of each: the first to the last alike."""
    rng = np.random.default_rng(8)
    count = USERS * LISTS

    def ids(rows: int, *shape: int) -> np.ndarray:
        return rng.integers(1, rows + 1, (count, *shape))

    inputs = {
        "user_id": np.repeat(np.arange(1, USERS + 1), LISTS),
        "query": ids(TOKENS, T),
        "item_id": np.array([rng.permutation(ITEMS)[:N] + 1 for _ in range(count)]),
        "history_query": ids(TOKENS, H, T),
        "history_item_id": ids(ITEMS, H),
        "history_age": np.float32(rng.exponential(9, (count, H))),
    }
    chosen = rng.integers(0, N, count)
    return {name: tf.constant(values) for name, values in inputs.items()}, chosen


def aucs(lists, tables: dict[str, np.ndarray], config: PretrainingConfig) -> np.ndarray:
    """Per match feature, how often the chosen candidate has more of it than another of its list."""
    inputs, chosen = lists
    vectors = PretrainedVectors(INPUTS, config.width, config.folds)
    vectors.assign(tables)
    features = MatchFeatures(INPUTS)(inputs, vectors(inputs)).numpy()
    ranks = scipy.stats.rankdata(features, axis=1)
    return (ranks[np.arange(len(chosen)), chosen].mean(axis=0) - 1) / (N - 1)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.method)
def test_match_features_know_nothing_of_a_lists_own_choice(lists, config) -> None:
    inputs, chosen = lists
    labels = {"conversion": tf.one_hot(chosen, N)}
    tables = pretrain(interactions_of([(inputs, labels)]), INPUTS, config)
    honest = aucs(lists, tables, config)
    assert np.abs(honest - 0.5).max() < CHANCE
    # The other fold's vectors were learnt from these very choices. A model would trust them.
    leaking = aucs(lists, {name: table[::-1] for name, table in tables.items()}, config)
    assert leaking.max() > 0.5 + 3 * CHANCE
