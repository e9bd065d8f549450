"""ESMM: Entire Space Multi-Task Model (SIGIR 2018, arXiv 1804.07931)."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf import layers
from piano_tf.config import ModelConfig
from piano_tf.features import InputSpec
from piano_tf.models.base import Logits, Reranker


@tf.keras.utils.register_keras_serializable("piano_tf")
class ESMM(Reranker):
    """A tower for click and one for conversion given click, over the same embeddings.

    p(click and conversion) = p(click) p(conversion | click); both sides are learnt over everything
    shown, the conversion tower through the product alone. How we differ: beside the paper's two
    cross-entropies stand the listwise losses common to all models here. The list-level outputs take
    items as independent.
    """

    def __init__(self, inputs: InputSpec | dict, config: ModelConfig | dict, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        c = self.config
        self.encoder = layers.ListInputEncoder(self.inputs_spec, c)
        self.context = layers.CandidateContext(c.width, c.max_rank, name="context")
        self.click_tower, self.conversion_tower = (
            layers.FeedForward([4 * c.width, 2 * c.width], c.dropout, name=f"{task}_tower")
            for task in ("click", "conversion")
        )
        self.head = layers.EntireSpaceHead(c.width)

    def logits(
        self, batch: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> tuple[Logits, Logits | None]:
        lists = self.encoder(batch)
        vectors = self.context(lists)
        items = self.head(
            self.click_tower(vectors, training=training),
            self.conversion_tower(vectors, training=training),
        )
        return items, None
