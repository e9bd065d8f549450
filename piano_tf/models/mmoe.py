"""MMoE: Multi-gate Mixture-of-Experts (KDD 2018, doi 10.1145/3219819.3220007)."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf import layers
from piano_tf.config import ModelConfig
from piano_tf.features import InputSpec
from piano_tf.models.base import Logits, Reranker


@tf.keras.utils.register_keras_serializable("piano_tf")
class MMoE(Reranker):
    """Shared experts, a gate and a tower per task.

    y_k = sum_e softmax(G_k x)_e expert_e(x) for k = click, conversion given click. How we differ:
    the second task is the conversion of ESMM's chain, so that conversion <= click. The list-level
    outputs take items as independent.
    """

    def __init__(self, inputs: InputSpec | dict, config: ModelConfig | dict, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        c = self.config
        self.encoder = layers.ListInputEncoder(self.inputs_spec, c)
        self.context = layers.CandidateContext(c.width, c.max_rank, name="context")
        self.experts = layers.MixtureOfExperts(
            4 * c.width, tasks=2, shared=c.experts, name="experts"
        )
        self.click_tower, self.conversion_tower = (
            layers.FeedForward([2 * c.width], c.dropout, name=f"{task}_tower")
            for task in ("click", "conversion")
        )
        self.head = layers.EntireSpaceHead(c.width)

    def logits(
        self, batch: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> tuple[Logits, Logits | None]:
        lists = self.encoder(batch)
        vectors = self.context(lists)
        (click, conversion), _ = self.experts([vectors, vectors], vectors)
        items = self.head(
            self.click_tower(click, training=training),
            self.conversion_tower(conversion, training=training),
        )
        return items, None
