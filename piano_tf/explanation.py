"""What each candidate adds to what is predicted of its list."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from piano_tf.features import LIST_CLICK, LIST_CONVERSION, Axis, FeatureSpec
from piano_tf.masks import mask_of

Tensors = Mapping[str, tf.Tensor]
_VALUED = (LIST_CLICK, LIST_CONVERSION)


def leave_one_out(
    model: Callable[[Tensors], Tensors],
    batch: Tensors,
    features: FeatureSpec,
    outputs: Tensors | None = None,
) -> dict[str, tf.Tensor]:
    """What the list's predicted rates lose without each candidate [ours].

    A candidate is taken out and those after it move up, as if it had never been retrieved:
    value_i = P(list) - P(list without i). One pass of the model per candidate, and one of the list.

    Args:
      model: Encoded inputs to logits, as a trained re-ranker gives them.
      batch: Encoded inputs of B lists of up to N candidates.
      features: The columns, which say what belongs to a candidate.
      outputs: The model's of the batch, where they are there already.

    Returns:
      `list_click` and `list_conversion` -> [B, N], differences of probabilities; 0 at padding.
    """
    mask = mask_of(batch, Axis.ITEM)
    count = tf.shape(mask)[1]
    whole = model(batch) if outputs is None else outputs
    of_candidates = features.inputs_along(Axis.ITEM)

    def lost_without(place: tf.Tensor) -> tuple[tf.Tensor, ...]:
        fewer = dict(batch)
        others = tf.concat([tf.range(place), tf.range(place + 1, count)], axis=0)
        for name in of_candidates:
            # Padding at the end keeps the width, and a list of one candidate a list.
            rest = tf.gather(batch[name], others, axis=1)
            fewer[name] = tf.pad(rest, [[0, 0], [0, 1]])
        without = model(fewer)
        return tuple(tf.sigmoid(whole[name]) - tf.sigmoid(without[name]) for name in _VALUED)

    of_all = tf.map_fn(
        lost_without,
        tf.range(count),
        # One pass at a time, or the memory of several would be taken at once.
        parallel_iterations=1,
        fn_output_signature=tuple(tf.TensorSpec([None], tf.float32) for _ in _VALUED),
    )
    return {
        name: tf.where(mask, tf.transpose(values), 0.0)
        for name, values in zip(_VALUED, of_all, strict=True)
    }
