"""What a candidate has to do with what the listener did before, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf.features import Axis, InputSpec
from piano_tf.layers.pretrained_vectors import Pretrained
from piano_tf.masks import mask_of

_TOP = 3
_SHARPNESS = 5.0  # of the weight that a past query of cosine c gets: exp(5 c)


def same_query(batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """[B, H] boolean: past queries of the same tokens as the present one, which has some."""
    query = batch["query"][:, tf.newaxis]
    equal = tf.reduce_all(query == batch["history_query"], axis=-1)
    return equal & tf.reduce_any(query != 0, axis=-1) & mask_of(batch, Axis.HISTORY)


def same_item(batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """[B, N, H] boolean: past items equal to a candidate."""
    past = _or_none(batch, batch["history_item_id"])
    return batch["item_id"][..., tf.newaxis] == past[:, tf.newaxis]


@tf.keras.utils.register_keras_serializable("piano_tf")
class MatchFeatures(tf.keras.layers.Layer):
    """Repeats and similarities of each candidate to the history [ours, after method of LambdaMART teams].

    Per candidate: how often the item and each string feature it shares with past items occur in the
    history (log 1 + count), how recent its last occurrence is, whether it was chosen under the same
    query. With pre-trained vectors, for taste and for intent: the largest cosine to a past item, the
    mean of the three largest, the mean of all, the mean weighted by how near the past query is to
    the present one, the largest among past items of the same query; and the cosine of the
    candidate's intent to the query. Per list, the same for each candidate: length and recency of
    the history, of the part under the same query, and mean and largest cosine of past queries.
    Recency is 1 / (1 + log(1 + days)); an item's cosine to itself does not count, for repeats say it.

    Args:
      inputs: The inputs' columns and vocabularies; an `InputSpec`, or its dictionary.
      queries: Whether past queries are compared with the present one; without, all that says
        something of a past query is left out.
    """  # noqa: E501

    def __init__(self, inputs: InputSpec | dict, queries: bool = True, **kwargs) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.inputs = InputSpec.model_validate(inputs)
        self.queries = queries
        features = self.inputs.features
        self._shared = [name for name, type in features.history_item if type == "string"]

    def call(
        self, batch: Mapping[str, tf.Tensor], pretrained: Pretrained | None = None
    ) -> tf.Tensor:
        """Matches candidates with the history.

        Args:
          batch: Encoded inputs.
          pretrained: Their pre-trained vectors, where there are any.

        Returns:
          [B, N, M] float32; what stands at padding means nothing.
        """
        real = tf.cast(mask_of(batch, Axis.HISTORY), tf.float32)
        query = tf.cast(same_query(batch), tf.float32)
        recency = real / (1 + tf.math.log1p(tf.maximum(batch["history_age"], 0.0)))
        equal = self._equal(batch)
        item = equal[0]
        repeats, *shared = tf.unstack(_log_count(equal))
        found = [repeats, _largest(item * recency[:, tf.newaxis])]
        of_list = [_log_count(real), _largest(recency)]
        if self.queries:
            found.append(_largest(item * query[:, tf.newaxis]))
            of_list += [_log_count(query), _largest(recency * query)]
        parts = [tf.stack(found + shared, axis=-1)]
        if pretrained is not None:
            near = real * pretrained.cosines_to_query(pretrained.past_query)
            if self.queries:
                of_list += [_mean(near, real), _largest(near)]
            parts += self._of_spaces(pretrained, real, real[:, tf.newaxis] - item, near, query)
            parts.append(pretrained.cosines_to_query(pretrained.intent)[..., tf.newaxis])
        of_each = tf.stack(of_list, axis=-1)[:, tf.newaxis]
        parts.append(tf.tile(of_each, [1, tf.shape(item)[1], 1]))
        return tf.concat(parts, axis=-1)

    def _of_spaces(
        self,
        pretrained: Pretrained,
        real: tf.Tensor,
        other: tf.Tensor,
        near: tf.Tensor,
        query: tf.Tensor,
    ) -> list[tf.Tensor]:
        """[B, N, any] of taste and of intent, over the past items where `other` [B, N, H] is 1."""
        now, past = pretrained.spaces()
        cosine = tf.matmul(now, past, transpose_b=True) * other
        found = [*_top(cosine, _TOP), _mean(cosine, other)]
        if self.queries:
            weight = real * tf.exp(_SHARPNESS * near)
            weight = tf.math.divide_no_nan(weight, tf.reduce_sum(weight, axis=-1, keepdims=True))
            found.append(tf.reduce_sum(cosine * weight[:, tf.newaxis], axis=-1))
            found.append(_largest(cosine * query[:, tf.newaxis]))
        return tf.unstack(tf.stack(found, axis=-1))

    def _equal(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """[1 + F, B, N, H] float32, 1 at past items of a candidate's id, or of its feature."""
        names = ["item_id", *(f"item_{name}" for name in self._shared)]
        now = tf.stack([batch[name] for name in names])
        past = _or_none(batch, tf.stack([batch[f"history_{name}"] for name in names]))
        return tf.cast(now[..., tf.newaxis] == past[:, :, tf.newaxis], tf.float32)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "inputs": self.inputs.model_dump(mode="json"),
            "queries": self.queries,
        }


def _or_none(batch: Mapping[str, tf.Tensor], past: tf.Tensor) -> tf.Tensor:
    """[..., B, H] ids of past items; at padding -1, which no candidate has."""
    return tf.where(mask_of(batch, Axis.HISTORY), past, -1)


def _log_count(where: tf.Tensor) -> tf.Tensor:
    return tf.math.log1p(tf.reduce_sum(where, axis=-1))


def _largest(values: tf.Tensor) -> tf.Tensor:
    """Over the last axis, at least 0."""
    return tf.maximum(tf.reduce_max(values, axis=-1), 0.0)  # of an empty axis the largest is -inf


def _top(values: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The largest over the last axis, and the mean of the `count` largest, as `tf.math.top_k` has
    them; 0 stands for what is below it, or is not there.

    `top_k` is slow: it sorts one row after another. Here values that are equal are taken at once.
    """
    size = tf.cast(tf.shape(values)[-1], values.dtype)
    first = most = _largest(values)
    total, left = 0.0, float(count)
    for _ in range(count - 1):
        below = tf.cast(values < most[..., tf.newaxis], values.dtype)
        taken = tf.minimum(size - tf.reduce_sum(below, axis=-1), left)
        total, left = total + taken * most, left - taken
        values *= below
        most = _largest(values)
    return first, (total + left * most) / count


def _mean(values: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
    """Over the last axis, of values that are 0 where `where` is."""
    return tf.math.divide_no_nan(tf.reduce_sum(values, axis=-1), tf.reduce_sum(where, axis=-1))
