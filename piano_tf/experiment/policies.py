"""What decides in which order a list is shown: the first stage, a model, a server, or the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import tensorflow as tf
from scipy import special

from piano_tf.config import ScoreConfig
from piano_tf.evaluation.predictions import Predictions
from piano_tf.features import LABELS
from piano_tf.rerank import list_value, order_of, score, select
from piano_tf.simulation.draws import Ints
from piano_tf.simulation.logs import ListColumns
from piano_tf.simulation.past import History
from piano_tf.simulation.searches import Searches

Predictor = Callable[[pa.RecordBatch], Predictions]
"""What answers about lists as the signature `serving_default` does."""


class Request(NamedTuple):
    """Lists of one moment, as a policy gets them.

    Attributes:
      searches: B lists, candidates in first-stage order.
      history: What their listeners did before, as this policy's own orders made them do.
      columns: Makes rows of them.
    """

    searches: Searches
    history: History
    columns: ListColumns

    def rows(self, order: Ints | None = None) -> pa.RecordBatch:
        """The lists in the contract's columns, candidates in another order if one is given."""
        searches = self.searches if order is None else self.searches.ordered(order)
        return self.columns.batch(searches, self.history)


class Policy(Protocol):
    """Decides on an order."""

    def order(self, request: Request) -> Ints:
        """[B, N] places of the candidates, best first, padding last."""


class FirstStage:
    """Shows what the first stage found, as it found it."""

    def order(self, request: Request) -> Ints:
        return np.broadcast_to(
            np.arange(request.searches.mask.shape[1]), request.searches.mask.shape
        )


class Sorted:
    """Sorts by a model's score, or by a log p(click) + b log p(conversion | click).

    Args:
      predictor: The model.
      weights: a and b; None takes the score that the model was exported with.
    """

    def __init__(self, predictor: Predictor, weights: tuple[float, float] | None = None) -> None:
        self._predictor, self._weights = predictor, weights

    def order(self, request: Request) -> Ints:
        said = self._predictor(request.rows())
        score = said.score if self._weights is None else combined(said, *self._weights)
        return by_score(score, request.searches.mask)


class ListSelection:
    """Shows, of several orders, the one from which the model expects most of the list as a whole.

    The orders are those of sorting by a log p(click) + b log p(conversion | click) for several
    (a, b). Each is given to the same model as a list in its own right, candidates in that order,
    and the one with the largest A P(any click) + B P(any conversion) is shown; of equal ones the
    first. [ours]

    Args:
      predictor: The model.
      sweep: The (a, b).
      value: (A, B).
    """

    def __init__(
        self,
        predictor: Predictor,
        sweep: Sequence[tuple[float, float]],
        value: tuple[float, float],
    ) -> None:
        self._predictor, self._sweep, self._value = predictor, sweep, value

    def order(self, request: Request) -> Ints:
        said = self._predictor(request.rows())
        mask = request.searches.mask
        orders = [by_score(combined(said, *weights), mask) for weights in self._sweep]
        again = [self._predictor(request.rows(order)) for order in orders]
        values = [list_value(said.list_click, said.list_conversion, self._value) for said in again]
        best = select(tf.constant(np.stack(values, axis=1))).numpy()
        return np.stack(orders)[best, np.arange(len(mask))]


def combined(said: Predictions, click: float, conversion: float) -> np.ndarray:
    """[B, N] click * log p(click) + conversion * log p(conversion | click)."""
    logits = {name: _logit(getattr(said, name)) for name in LABELS}
    return score(logits, ScoreConfig(click=click, conversion=conversion)).numpy()


def _logit(probability: np.ndarray) -> tf.Tensor:
    return tf.constant(special.logit(np.maximum(probability.astype(np.float64), 1e-30)))


def by_score(score: np.ndarray, mask: np.ndarray) -> Ints:
    """[B, N] places by falling score, ties as they stand, padding last.

    Args:
      score: [B, M]; what is beyond M has none and comes after, what is beyond N is left out.
      mask: [B, N] True = real.
    """
    wide = np.full(mask.shape, -np.inf)
    width = min(score.shape[1], mask.shape[1])
    wide[:, :width] = score[:, :width]
    return order_of(tf.constant(wide), tf.constant(mask)).numpy().astype(np.int64)
