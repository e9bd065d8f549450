"""The one mask convention: boolean, True = real, False = padding.

A batch pads lists at the end, strings with "" and numbers with 0; ids are never "" or 0, so that
the id columns tell what is real.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf.features import Axis


def mask_of(batch: Mapping[str, tf.Tensor], axis: Axis) -> tf.Tensor:
    """Where a raw or an encoded batch is real.

    Args:
      batch: Has `item_id` [B, N] and `history_item_id` [B, H], as strings or as ids.
      axis: Of candidates or of history entries.

    Returns:
      [B, N] or [B, H] boolean.

    >>> mask_of({"item_id": tf.constant([["a", ""]])}, Axis.ITEM).numpy()
    array([[ True, False]])
    """
    ids = batch["item_id" if axis is Axis.ITEM else "history_item_id"]
    return ids != tf.zeros([], ids.dtype)  # tf.zeros of strings is ""


def masked_softmax(logits: tf.Tensor, mask: tf.Tensor, axis: int = -1) -> tf.Tensor:
    """Softmax over the real entries; 0 at padding, and everywhere if there is nothing else.

    Args:
      logits: [...].
      mask: Boolean, True = real; broadcasts to `logits`.
      axis: What sums to 1.

    >>> logits, mask = tf.constant([[2.0, 2.0, 9.0]] * 2), tf.constant([[True, True, False]])
    >>> masked_softmax(logits, tf.concat([mask, mask & False], axis=0)).numpy().tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """
    return tf.nn.softmax(real_logits(logits, mask), axis=axis) * tf.cast(mask, logits.dtype)


def real_logits(logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Logits whose softmax is 0 at padding, where anything is real; then `masked_softmax` in one
    product less.

    Args:
      logits: [...].
      mask: Boolean, True = real; broadcasts to `logits`.
    """
    # A sum, for `where` is slow where shapes differ. Half of the lowest: with a logit below 0 the
    # lowest would be no number any more.
    least = (1 - tf.cast(mask, logits.dtype)) * (logits.dtype.min / 2)
    # TensorFlow's optimiser does not see what shape a sum broadcasts to, and complains of it.
    return tf.ensure_shape(logits + least, logits.shape)
