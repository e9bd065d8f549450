"""What most teams run: a feed-forward network over one candidate at a time."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf import layers
from piano_tf.config import ModelConfig
from piano_tf.features import InputSpec
from piano_tf.models.base import Logits, Reranker


@tf.keras.utils.register_keras_serializable("piano_tf")
class DNN(Reranker):
    """Click and conversion of each candidate by itself, from a shared feed-forward network.

    logits = head(relu layers([x_i; u; e(q); x_i * u; x_i * e(q); E_pos[initial rank]])). The list
    has no part but through what the trunk says of it (a float's distance from the list's largest).
    The list-level outputs take items as independent.
    """

    def __init__(self, inputs: InputSpec | dict, config: ModelConfig | dict, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        c = self.config
        self.encoder = layers.ListInputEncoder(self.inputs_spec, c)
        self.context = layers.CandidateContext(c.width, c.max_rank, name="context")
        self.network = layers.FeedForward([4 * c.width, 2 * c.width], c.dropout, name="network")
        self.head = layers.EntireSpaceHead(c.width)

    def logits(
        self, batch: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> tuple[Logits, Logits | None]:
        lists = self.encoder(batch)
        vectors = self.network(self.context(lists), training=training)
        return self.head(vectors), None
