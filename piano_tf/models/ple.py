"""PLE: Progressive Layered Extraction (RecSys 2020, doi 10.1145/3383313.3412236)."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf import layers
from piano_tf.config import ModelConfig
from piano_tf.features import InputSpec
from piano_tf.models.base import Logits, Reranker


@tf.keras.utils.register_keras_serializable("piano_tf")
class PLE(Reranker):
    """Shared and task-specific experts in two levels, a gate per task, and a tower per task.

    Each level is `layers.MixtureOfExperts` (customized gate control): a task sees its own experts
    and the shared ones, never the other task's own; the first level's shared output sees all. How
    we differ: the second task is the conversion of ESMM's chain, so that conversion <= click. The
    list-level outputs take items as independent.
    """

    def __init__(self, inputs: InputSpec | dict, config: ModelConfig | dict, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        c = self.config
        self.encoder = layers.ListInputEncoder(self.inputs_spec, c)
        self.context = layers.CandidateContext(c.width, c.max_rank, name="context")
        self.extraction, self.experts = (
            layers.MixtureOfExperts(
                2 * c.width,
                tasks=2,
                shared=c.experts,
                specific=c.experts,
                shared_output=name == "extraction",
                name=name,
            )
            for name in ("extraction", "experts")
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
        of_tasks, of_shared = self.extraction([vectors, vectors], vectors)
        (click, conversion), _ = self.experts(of_tasks, of_shared)
        items = self.head(
            self.click_tower(click, training=training),
            self.conversion_tower(conversion, training=training),
        )
        return items, None
