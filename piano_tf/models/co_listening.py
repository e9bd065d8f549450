"""How many listeners two items have in common, without those who are like the one who asks."""

from __future__ import annotations

import numpy as np
import scipy.sparse

from piano_tf.pretraining.interactions import Interactions


class CoListening:
    """Item-to-item similarity from who chose what (item-based collaborative filtering).

    Listeners fall into folds. With U_i the listeners of item i outside the fold of the one for whom
    the list is,

      s_it = |U_i and U_t| / sqrt(|U_i| |U_t|), 0 where one of them has no listener.

    Lists of training have their own choices among the interactions, and s must not tell them. To
    leave out the one listener alone is not enough: a chosen item would then have exactly one
    listener less than in the lists of all others, and trees find that. With a fold left out, as for
    `layers.PretrainedVectors`, the fold's lists agree on every s [ours].

    Args:
      interactions: Of the training period alone.
      items: Rows of the item vocabulary.
      users: Rows of the user vocabulary.
      folds: K.
    """

    def __init__(self, interactions: Interactions, items: int, users: int, folds: int) -> None:
        self._folds = folds
        chosen = np.ones(len(interactions), np.float32)
        places = interactions.item, interactions.user
        listeners = scipy.sparse.csc_matrix((chosen, places), shape=(items, users))
        listeners.data[:] = 1  # an item is chosen again, under other queries too
        parts = [listeners[:, fold::folds] for fold in range(folds)]
        within = [(part @ part.T).tocsr() for part in parts]
        self._shared = sum(within[1:], within[0])
        self._within = scipy.sparse.vstack(within, format="csr")  # row fold * items + item
        self._items = items
        for matrix in (self._shared, self._within):
            matrix.sort_indices()

    def __call__(self, items: np.ndarray, past: np.ndarray, user: np.ndarray) -> np.ndarray:
        """Similarities of candidates to a history.

        Args:
          items: [B, N] ids, 0 pads.
          past: [B, H] ids, 0 pads.
          user: [B] ids.

        Returns:
          s [B, N, H], 0 at padding and for an item to itself.
        """
        fold = (user % self._folds)[:, np.newaxis]
        count, count_past = (self._of_pairs(fold, ids, ids) for ids in (items, past))
        left, right = items[:, :, np.newaxis], past[:, np.newaxis]
        shared = self._of_pairs(fold[..., np.newaxis], left, right)
        shared[left == right] = 0
        size = np.sqrt(count[:, :, np.newaxis] * count_past[:, np.newaxis])
        return np.divide(shared, size, out=np.zeros_like(shared), where=size > 0)

    def _of_pairs(self, fold: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """|U_one and U_other|, of arrays that broadcast."""
        everyone = _at(self._shared, one, other)
        return everyone - _at(self._within, fold * self._items + one, other)


def _at(matrix: scipy.sparse.csr_matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Entries at broadcast row and column numbers."""
    shape = np.broadcast_shapes(rows.shape, columns.shape)
    if 0 in shape:  # of which SciPy makes one entry
        return np.zeros(shape, matrix.dtype)
    places = (np.broadcast_to(numbers, shape).ravel() for numbers in (rows, columns))
    return np.asarray(matrix[tuple(places)]).reshape(shape)
