"""What each candidate adds to what is predicted of its list."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf.features import LIST_CLICK, LIST_CONVERSION, Axis, FeatureSpec
from piano_tf.masks import mask_of
from piano_tf.models import Reranker

Tensors = Mapping[str, tf.Tensor]


def leave_one_out(model: Reranker, batch: Tensors, features: FeatureSpec) -> dict[str, tf.Tensor]:
    """What the list's predicted rates lose without each candidate [ours].

    A candidate is taken out and those after it move up, as if it had never been retrieved:
    value_i = P(list) - P(list without i). One pass of the model per candidate.

    Args:
      model: Trained.
      batch: Encoded inputs of B lists of up to N candidates.
      features: The columns, which say what belongs to a candidate.

    Returns:
      `list_click` and `list_conversion` -> [B, N], differences of probabilities; 0 at padding.
    """
    mask = mask_of(batch, Axis.ITEM)
    whole = model(batch, training=False)
    names = [c.name for c in features.columns(labels=False) if c.axis is Axis.ITEM]
    lost: dict[str, list[tf.Tensor]] = {LIST_CLICK: [], LIST_CONVERSION: []}
    for place in range(mask.shape[1] or 0):
        fewer = dict(batch)
        for name in names:
            # Padding at the end keeps the width, and a list of one candidate a list.
            rest = tf.concat([batch[name][:, :place], batch[name][:, place + 1 :]], axis=1)
            fewer[name] = tf.pad(rest, [[0, 0], [0, 1]])
        outputs = model(fewer, training=False)
        for name, values in lost.items():
            values.append(tf.sigmoid(whole[name]) - tf.sigmoid(outputs[name]))
    return {
        name: tf.where(mask, tf.stack(values, axis=1), 0.0) if values else tf.zeros(tf.shape(mask))
        for name, values in lost.items()
    }
