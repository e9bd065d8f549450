"""Who chose what under which query: what vectors are learnt from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

from piano_tf.features import CONVERSION

Tensors = Mapping[str, tf.Tensor]
_AT_ONCE = 500_000


@dataclasses.dataclass(frozen=True)
class Interactions:
    """Encoded choices, each (user, query, item) once.

    Attributes:
      user: [n] ids.
      query: [n, T] token ids, 0 pads.
      item: [n] ids.
    """

    user: np.ndarray
    query: np.ndarray
    item: np.ndarray

    def __len__(self) -> int:
        return len(self.item)

    def where(self, chosen: np.ndarray) -> Interactions:
        """Those that a boolean mask [n] chooses."""
        return Interactions(self.user[chosen], self.query[chosen], self.item[chosen])

    @classmethod
    def joined(cls, parts: Iterable[Interactions]) -> Interactions:
        """Several as one, without repetitions, in an order that does not depend on theirs."""
        rows = np.concatenate(
            [np.column_stack([part.user, part.item, part.query]) for part in parts]
        )
        rows = np.unique(rows, axis=0)
        return cls(user=rows[:, 0], item=rows[:, 1], query=rows[:, 2:])


def interactions_of(lists: Iterable[tuple[Tensors, Tensors]]) -> Interactions:
    """The interactions that encoded lists tell: their histories, and their conversions.

    Args:
      lists: Batches of (inputs, labels).
    """
    parts: list[Interactions] = []
    known, more = 0, 0  # of the first part, which has no repetitions, and of the others
    for inputs, labels in lists:
        user, query = inputs["user_id"].numpy(), inputs["query"].numpy()
        past, shown = inputs["history_item_id"].numpy(), inputs["item_id"].numpy()
        under = np.broadcast_to(query[:, np.newaxis], (*shown.shape, query.shape[1]))
        for items, queries, chosen in (
            (past, inputs["history_query"].numpy(), past != 0),
            (shown, under, labels[CONVERSION].numpy() > 0),
        ):
            row, _ = np.nonzero(chosen)
            parts.append(Interactions(user[row], queries[chosen], items[chosen]))
            more += len(row)
        # Joining sorts all of them: rarely enough that time grows with the lists and no faster.
        if more > max(known, _AT_ONCE):
            parts = [Interactions.joined(parts)]
            known, more = len(parts[0]), 0
    return Interactions.joined(parts)
