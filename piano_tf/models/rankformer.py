"""RankFormer: listwide signals for a Transformer ranker (KDD 2023, arXiv 2306.05808)."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf import layers
from piano_tf.config import ModelConfig
from piano_tf.features import InputSpec
from piano_tf.models.base import Logits, Reranker


@tf.keras.utils.register_keras_serializable("piano_tf")
class RankFormer(Reranker):
    """A learned list token beside the candidates: heads over it, and it beside every item.

    [token; e_1 .. e_N] through pre-norm blocks; the list-level outputs come from the token z_0, the
    item-level ones from [z_i; z_0]. How we differ: positions of the first stage's order, for here
    the list has one; the list head predicts click and conversion at the list level by ESMM's chain
    [ours] where the paper has one label. What PIANO adds to it: attention over past queries,
    list outputs as differences from independent items, and FiLM.
    """

    def __init__(self, inputs: InputSpec | dict, config: ModelConfig | dict, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        c = self.config
        self.encoder = layers.ListInputEncoder(self.inputs_spec, c)
        self.token = self.add_weight("token", [c.width], initializer="glorot_uniform")
        self.list_encoder = layers.ListEncoder(c.width, c.heads, c.blocks, c.dropout, c.max_rank)
        self.head = layers.EntireSpaceHead(c.width, name="item_head")
        self.list_head = layers.EntireSpaceHead(c.width, name="list_head")

    def logits(
        self, batch: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> tuple[Logits, Logits | None]:
        lists = self.encoder(batch)
        token = tf.broadcast_to(tf.cast(self.token, self.compute_dtype), tf.shape(lists.user))
        node, items = self.list_encoder(
            items=lists.items,
            query=lists.query,
            interest=lists.user,
            found=None,
            node=token,
            rank=lists.rank,
            mask=lists.mask,
            training=training,
        )
        beside = tf.broadcast_to(node[:, tf.newaxis], tf.shape(items))
        of_items = self.head(tf.concat([items, beside], axis=-1))
        return of_items, self.list_head(node)
