"""The tables of `layers.PretrainedVectors`, fold by fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import scipy.linalg
import scipy.sparse

from piano_tf.config import PretrainingConfig
from piano_tf.features import InputSpec
from piano_tf.layers.pretrained_vectors import INTENT, TASTE, WORDS
from piano_tf.pretraining.factorisation import factorise
from piano_tf.pretraining.interactions import Interactions
from piano_tf.pretraining.two_tower import train_towers

# Of the factorisation: very active listeners and very popular items say less of taste each time.
_TASTE_DAMPING = 0.25


def pretrain(
    interactions: Interactions,
    inputs: InputSpec,
    config: PretrainingConfig,
    *,
    toward: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Learns two spaces: taste, from listeners and their items, intent, from queries and items.

    A query is the sum of its tokens' vectors. The vectors are learnt once per fold of listeners,
    without that fold's interactions, and turned into one common space (orthogonal Procrustes), for
    a dense layer reads them all. The turn is towards the first fold's space, or towards given
    vectors, and so knows of every listener; lengths and angles inside a fold do not change by it.
    Known: pre-trained vectors make a re-ranker personal (PRM, arXiv 1904.06813). The two spaces and
    the folds are ours.

    Args:
      interactions: Of the training period alone.
      inputs: The vocabularies.
      config: Method, width and training.
      toward: `taste` and `intent` [items, width] of an earlier model whose layers shall read these
        vectors too; 0 for items that it does not know.
      seed: Of initialisation and shuffling.
      progress: Called with (folds done, folds) after each.

    Returns:
      `taste` and `intent` [folds, items, width] of length 1, `words` [folds, tokens, width],
      float32; what no interaction of the fold's has is the zero vector.
    """
    tables: dict[str, list[np.ndarray]] = {TASTE: [], INTENT: [], WORDS: []}
    for fold in range(config.folds):
        known = interactions.where(interactions.user % config.folds != fold)
        user = known.user[:, np.newaxis]
        _, taste = _learn(known, user, "user_id", _TASTE_DAMPING, inputs, config, seed)
        words, intent = _learn(known, known.query, "query", 0.0, inputs, config, seed)
        taste, intent = _unit(taste), _unit(intent)
        space = toward or ({name: parts[0] for name, parts in tables.items()} if fold else None)
        if space is not None:
            (taste,) = _turned(taste, space[TASTE], taste)
            intent, words = _turned(intent, space[INTENT], intent, words)
        for name, table in ((TASTE, taste), (INTENT, intent), (WORDS, words)):
            tables[name].append(table)
        if progress is not None:
            progress(fold + 1, config.folds)
    return {name: np.stack(parts).astype(np.float32) for name, parts in tables.items()}


def _learn(
    known: Interactions,
    left: np.ndarray,
    vocabulary: str,
    damping: float,
    inputs: InputSpec,
    config: PretrainingConfig,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the left ids [n, S] and of the items chosen by or under them."""
    rows, items = inputs.rows[vocabulary], inputs.rows["item_id"]
    if not len(known):
        return np.zeros([rows, config.width]), np.zeros([items, config.width])
    if config.method == "two_tower":
        return train_towers(left, known.item, rows, items, config, seed)
    choice, place = np.nonzero(left)
    pairs = left[choice, place], known.item[choice]
    counts = scipy.sparse.csr_matrix((np.ones(len(choice)), pairs), shape=(rows, items))
    return factorise(counts, config.width, damping=damping, seed=seed)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _turned(like: np.ndarray, reference: np.ndarray, *tables: np.ndarray) -> list[np.ndarray]:
    """Tables of one space, turned so that `like` comes closest to `reference`."""
    turn, _ = scipy.linalg.orthogonal_procrustes(like, reference)
    return [table @ turn for table in tables]
