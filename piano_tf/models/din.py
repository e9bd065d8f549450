"""DIN: Deep Interest Network (KDD 2018, arXiv 1706.06978)."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf import layers
from piano_tf.config import ModelConfig
from piano_tf.features import InputSpec
from piano_tf.models.base import Logits, Reranker


@tf.keras.utils.register_keras_serializable("piano_tf")
class DIN(Reranker):
    """Each candidate attends to the past items that bear on it; the rest is `DNN`.

    logits = head(relu layers([context_i; c_i; x_i * c_i])), with c_i from `layers.TargetAttention`
    over past items alone: but for what match features say, DIN knows nothing of the queries under
    which they were chosen. How we differ: no Dice and no mini-batch aware regularisation; click and
    entire-space conversion for click alone; the product x_i * c_i [ours]. The list-level outputs
    take items as independent.
    """

    def __init__(self, inputs: InputSpec | dict, config: ModelConfig | dict, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        c = self.config
        self.encoder = layers.ListInputEncoder(self.inputs_spec, c)
        self.context = layers.CandidateContext(c.width, c.max_rank, name="context")
        self.attention = layers.TargetAttention(c.width, name="attention")
        self.network = layers.FeedForward([4 * c.width, 2 * c.width], c.dropout, name="network")
        self.head = layers.EntireSpaceHead(c.width)

    def logits(
        self, batch: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> tuple[Logits, Logits | None]:
        lists = self.encoder(batch)
        found, _ = self.attention(lists.items, lists.past_items, lists.past_mask)
        joined = tf.concat([self.context(lists), found, lists.items * found], axis=-1)
        return self.head(self.network(joined, training=training)), None
