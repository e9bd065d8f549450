"""From predictions to an order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from piano_tf.config import ScoreConfig


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
