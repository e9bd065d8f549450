"""The tables of pre-trained vectors: fold by fold, of one space, and nothing of a fold's own."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import scipy.sparse as sp

from piano_tf.config import PretrainingConfig
from piano_tf.features import FeatureSpec, InputSpec
from piano_tf.pretraining import Interactions, pretrain
from piano_tf.pretraining.factorisation import factorise

USERS, ITEMS, TOKENS = 40, 17, 9  # rows of the vocabularies; the last id of each is never seen
INPUTS = InputSpec(
    features=FeatureSpec(dataset="two communities"),
    encoding={},
    rows={"user_id": USERS, "item_id": ITEMS, "query": TOKENS},
)
FACTORISATION = PretrainingConfig(width=4, folds=3)
TWO_TOWER = PretrainingConfig(method="two_tower", width=4, folds=2, epochs=3, batch_size=64)
METHODS = pytest.mark.parametrize("config", [FACTORISATION, TWO_TOWER], ids=lambda c: c.method)


def community(ids: np.ndarray) -> np.ndarray:
    return ids // 2 % 2


def communities(seed: int, count: int = 400) -> Interactions:
    """Listeners, queries of one or two tokens, and items, all three of one of two communities."""
    rng = np.random.default_rng(seed)
    of = rng.integers(0, 2, count)

    def drawn(rows: int) -> np.ndarray:
        known = np.arange(1, rows - 1)
        return np.array([rng.choice(known[community(known) == each]) for each in of])

    tokens = np.column_stack([drawn(TOKENS), drawn(TOKENS)])
    tokens[rng.random(count) < 0.3, 1] = 0
    return Interactions.joined([Interactions(drawn(USERS), tokens, drawn(ITEMS))])


@functools.lru_cache
def tables_of(config: PretrainingConfig) -> dict[str, np.ndarray]:
    return pretrain(communities(0), INPUTS, config)


def gram(vectors: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """All products of two vectors, which no common turn changes."""
    return vectors @ (vectors if others is None else others).T


@METHODS
def test_shapes_lengths_and_what_is_unknown(config: PretrainingConfig) -> None:
    known, tables = communities(0), tables_of(config)
    assert {name: table.shape for name, table in tables.items()} == {
        "taste": (config.folds, ITEMS, config.width),
        "intent": (config.folds, ITEMS, config.width),
        "words": (config.folds, TOKENS, config.width),
    }
    for fold in range(config.folds):
        others = known.where(known.user % config.folds != fold)
        seen = {
            "taste": others.item,
            "intent": others.item,
            "words": others.query[others.query > 0],
        }
        for name, ids in seen.items():
            table = tables[name][fold]
            assert table.dtype == np.float32
            assert set(np.flatnonzero(table.any(axis=1))) == set(ids), name
            if name != "words":
                lengths = np.linalg.norm(table[np.unique(ids)], axis=1)
                np.testing.assert_allclose(lengths, np.ones_like(lengths), rtol=1e-5)


@METHODS
def test_the_seed_settles_everything(config: PretrainingConfig) -> None:
    again = pretrain(communities(0), INPUTS, config)
    for name, table in tables_of(config).items():
        np.testing.assert_array_equal(again[name], table, err_msg=name)


def test_factorisation_is_that_of_the_other_listeners_choices() -> None:
    """Counted again in dense matrices; up to the common turn."""
    known, tables = communities(0), tables_of(FACTORISATION)
    for fold in range(FACTORISATION.folds):
        by_user, by_token = np.zeros((USERS, ITEMS)), np.zeros((TOKENS, ITEMS))
        for user, tokens, item in zip(known.user, known.query, known.item, strict=True):
            if user % FACTORISATION.folds != fold:
                by_user[user, item] += 1
                for token in tokens[tokens != 0]:
                    by_token[token, item] += 1
        _, taste = factorise(sp.csr_matrix(by_user), 4, damping=0.25, seed=0)
        words, intent = factorise(sp.csr_matrix(by_token), 4, damping=0.0, seed=0)
        taste, intent = (
            np.divide(v, np.linalg.norm(v, axis=1, keepdims=True), where=v.any(1, keepdims=True))
            for v in (np.where(v.any(1, keepdims=True), v, 0.0) for v in (taste, intent))
        )
        seen = np.unique(known.where(known.user % FACTORISATION.folds != fold).item)
        t, i, w = (tables[name][fold] for name in ("taste", "intent", "words"))
        np.testing.assert_allclose(gram(t[seen]), gram(taste[seen]), atol=1e-5)
        np.testing.assert_allclose(gram(i[seen]), gram(intent[seen]), atol=1e-5)
        np.testing.assert_allclose(gram(w, i[seen]), gram(words, intent[seen]), atol=1e-5)


@METHODS
@pytest.mark.parametrize("fold", [0, 1])
def test_a_folds_vectors_know_nothing_of_its_own_listeners(config, fold: int) -> None:
    """The law that keeps a list's own clicks out of what is said of it.

    Whatever they choose, what is near what stays the same: exactly in fold 0, and up to the turn
    into its space in the others.
    """
    known, other = communities(0), communities(1)
    theirs = other.where(other.user % config.folds == fold)
    changed = Interactions.joined([known.where(known.user % config.folds != fold), theirs])
    before, after = tables_of(config), pretrain(changed, INPUTS, config)
    if fold == 0:
        for name, table in before.items():
            np.testing.assert_array_equal(after[name][0], table[0], err_msg=name)
    for pair in (("taste", "taste"), ("intent", "intent"), ("words", "intent")):
        expected, found = (gram(*(t[name][fold] for name in pair)) for t in (before, after))
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=str(pair))
    # The other folds' vectors do learn from these listeners.
    one, another = (gram(t["taste"][1 - fold]) for t in (before, after))
    assert np.abs(one - another).max() > 0.05


@METHODS
def test_folds_share_a_space(config: PretrainingConfig) -> None:
    """What one says of an item, the others say in about the same numbers."""
    tables = pretrain(communities(0, 2000), INPUTS, config)
    for name in ("taste", "intent"):
        for fold in range(1, config.folds):
            cosines = (tables[name][fold] * tables[name][0]).sum(axis=1)[1:-1]
            assert cosines.mean() > 0.8, (name, fold)


@METHODS
def test_no_turn_would_bring_a_fold_closer_to_the_first(config: PretrainingConfig) -> None:
    """B^T A is symmetric and positive semidefinite exactly where A is turned best towards B."""
    tables = tables_of(config)
    for name in ("taste", "intent"):
        for fold in range(1, config.folds):
            product = tables[name][0].T.astype(np.float64) @ tables[name][fold]
            np.testing.assert_allclose(product, product.T, atol=1e-5)
            assert np.linalg.eigvalsh(product).min() > -1e-5


def test_queries_lie_near_what_they_led_to() -> None:
    tables = pretrain(communities(0, 2000), INPUTS, FACTORISATION)
    for words, intent in zip(tables["words"], tables["intent"], strict=True):
        closeness = gram(words, intent)[1:-1, 1:-1]
        tokens, items = (community(np.arange(1, rows - 1)) for rows in (TOKENS, ITEMS))
        same = tokens[:, np.newaxis] == items
        assert closeness[same].min() > 2 * closeness[~same].max()


@METHODS
def test_without_interactions_all_is_zero(config: PretrainingConfig) -> None:
    nothing = communities(0).where(np.zeros(len(communities(0)), bool))
    tables = pretrain(nothing, INPUTS, config)
    assert not any(table.any() for table in tables.values())


def test_a_fold_that_has_all_listeners_has_no_vectors() -> None:
    known = communities(0)
    alone = known.where(known.user % 3 == 1)
    tables = pretrain(alone, INPUTS, FACTORISATION)
    for table in tables.values():
        assert [bool(part.any()) for part in table] == [True, False, True]


def test_progress_is_told_fold_by_fold() -> None:
    told: list[tuple[int, int]] = []
    pretrain(communities(0), INPUTS, FACTORISATION, progress=lambda *now: told.append(now))
    assert told == [(1, 3), (2, 3), (3, 3)]
