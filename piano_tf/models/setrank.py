"""SetRank: a permutation-invariant ranking model (SIGIR 2020, arXiv 1912.05891)."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf import layers
from piano_tf.config import ModelConfig
from piano_tf.features import InputSpec
from piano_tf.models.base import Logits, Reranker


@tf.keras.utils.register_keras_serializable("piano_tf")
class SetRank(Reranker):
    """Post-norm self-attention over the candidates as a set: no position enters.

    Permuting the candidates permutes the scores, whatever their initial ranks. It is MSAB, the
    paper's plain block; its induced one is for lists of hundreds. How we differ: no ordinal
    embedding of the first stage's order (an option there), whose score may be an item feature; a
    click and an entire-space conversion logit, and the losses common to all models, for attention
    rank. The list-level outputs take items as independent.
    """

    def __init__(self, inputs: InputSpec | dict, config: ModelConfig | dict, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        c = self.config
        self.encoder = layers.ListInputEncoder(self.inputs_spec, c)
        self.context = layers.CandidateContext(c.width, name="context")
        self.projection = layers.Dense(c.width, name="projection")
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
        vectors = self.projection(self.context(lists))
        for block in self.blocks:
            vectors = block(vectors, lists.mask, training=training)
        return self.head(vectors), None
