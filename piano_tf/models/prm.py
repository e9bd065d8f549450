"""PRM: Personalized Re-ranking for Recommendation (RecSys 2019, arXiv 1904.06813)."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf import layers
from piano_tf.config import ModelConfig
from piano_tf.features import InputSpec
from piano_tf.models.base import Logits, Reranker


@tf.keras.utils.register_keras_serializable("piano_tf")
class PRM(Reranker):
    """A post-norm Transformer over the candidates, with learned positions.

    E_i = W [x_i; pv_i] + position, then blocks, then a score per item. In the paper pv_i is the
    last hidden vector of a click model trained beforehand on user, item and history. How we
    differ: pv_i = [u; e(q)] with the trunk's pre-trained vectors and match features inside x_i and
    u, the same for every model here (`pretraining: null` and `match: false` leave them out); and
    the head gives click and entire-space conversion. The list-level outputs take items as
    independent, for PRM has no list head.
    """

    def __init__(self, inputs: InputSpec | dict, config: ModelConfig | dict, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        c = self.config
        self.encoder = layers.ListInputEncoder(self.inputs_spec, c)
        self.projection = layers.Dense(c.width, name="projection")
        self.position = tf.keras.layers.Embedding(c.max_rank, c.width, name="position")
        self.blocks = [
            layers.SelfAttentionBlock(
                c.width, c.heads, c.dropout, pre_norm=False, name=f"block_{number}"
            )
            for number in range(c.blocks)
        ]
        self.head = layers.EntireSpaceHead(c.width)

    def logits(
        self, batch: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> tuple[Logits, Logits | None]:
        lists = self.encoder(batch)
        listener = tf.concat([lists.user, lists.query], axis=-1)
        listener = tf.tile(listener[:, tf.newaxis], [1, tf.shape(lists.items)[1], 1])
        vectors = self.projection(tf.concat([lists.items, listener], axis=-1))
        vectors += self.position(tf.minimum(lists.rank, self.config.max_rank - 1))
        for block in self.blocks:
            vectors = block(vectors, lists.mask, training=training)
        return self.head(vectors), None
