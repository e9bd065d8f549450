"""From predictions to an order: by a score, or by what is expected of the list as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from piano_tf.config import ScoreConfig, Weights

# Of the values of lists: closer ones are told apart by a model's rounding alone.
_VALUE_STEP = 1e-6


def score(outputs: Mapping[str, tf.Tensor], weights: ScoreConfig) -> tf.Tensor:
    """The ranking score a log p(click) + b log p(conversion | click), in log space throughout.

    Args:
      outputs: Logits `click` and `conversion` [B, N]; conversion is the entire-space one.
      weights: a and b.

    Returns:
      [B, N].

    >>> logits = {"click": tf.constant([[0.0, 1.0]]), "conversion": tf.constant([[-1.0, 0.0]])}
    >>> both = score(logits, ScoreConfig(click=1, conversion=1))  # log p(click and conversion)
    >>> np.allclose(both, tf.math.log_sigmoid(logits["conversion"]))
    True
    """
    click = tf.math.log_sigmoid(outputs["click"])
    both = tf.math.log_sigmoid(outputs["conversion"])
    return weights.click * click + weights.conversion * (both - click)


def order_of(scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Candidate indices, best first; ties by initial rank, padding last.

    Args:
      scores: [B, N].
      mask: [B, N] boolean, True = real.

    Returns:
      [B, N] int32.

    >>> order_of(tf.constant([[1.0, 1.0, 9.0, 2.0]]), tf.constant([[True, True, False, True]])).numpy()
    array([[3, 0, 1, 2]], dtype=int32)
    """  # noqa: E501
    # A stable sort leaves padding last in any case, for it stands last in the list too.
    real = tf.where(mask, scores, -np.inf)
    return tf.argsort(real, axis=1, direction="DESCENDING", stable=True)


def list_value(list_click: Any, list_conversion: Any, value: Weights) -> Any:
    """What a list is worth, A P(any click) + B P(any conversion) [ours].

    Args:
      list_click: Probabilities of any shape, arrays or tensors.
      list_conversion: As many.
      value: A and B.
    """
    return value[0] * list_click + value[1] * list_conversion


def in_orders(
    batch: Mapping[str, tf.Tensor], of_candidates: Iterable[str], orders: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Every list once in each of its orders, as a list in its own right.

    Args:
      batch: B lists of up to N candidates, padded.
      of_candidates: Names of what has one value per candidate, [B, N, ...].
      orders: [B, K, N] candidate indices.

    Returns:
      B K lists, those of one list next to each other.

    >>> lists = {"item_id": tf.constant([[5, 6, 0]]), "user_id": tf.constant([9])}
    >>> both = in_orders(lists, ["item_id"], tf.constant([[[0, 1, 2], [1, 0, 2]]]))
    >>> both["item_id"].numpy().tolist(), both["user_id"].numpy().tolist()
    ([[5, 6, 0], [6, 5, 0]], [9, 9])
    """
    count = orders.shape[1]
    again = {name: tf.repeat(values, count, axis=0) for name, values in batch.items()}
    flat = tf.reshape(orders, [-1, tf.shape(orders)[2]])
    return again | {
        name: tf.gather(again[name], flat, axis=1, batch_dims=1) for name in of_candidates
    }


def select(values: tf.Tensor) -> tf.Tensor:
    """Which of several orders of a list is the best; of equal ones the first.

    Args:
      values: [B, K] what each is worth; a millionth is no difference.

    Returns:
      [B] int32.

    >>> select(tf.constant([[0.5, 0.7, 0.7000001], [0.2, 0.1, 0.1]])).numpy()
    array([1, 0], dtype=int32)
    """
    rounded = tf.round(values / _VALUE_STEP)
    return order_of(rounded, tf.ones_like(rounded, tf.bool))[:, 0]
