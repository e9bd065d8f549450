"""The order that is there already, with rates by rank."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf.config import ModelConfig
from piano_tf.features import Axis, InputSpec
from piano_tf.layers.entire_space import entire_space_logit
from piano_tf.masks import mask_of
from piano_tf.models.base import Logits, Reranker

# Far above float32's rounding of a score, so that no two ranks can change places.
_SMALLEST_STEP = 1e-3


@tf.keras.utils.register_keras_serializable("piano_tf")
class FirstStage(Reranker):
    """Keeps the first stage's order whatever it learns; learns how often each rank is chosen.

    logit_r = b - sum_{s=1..r} (softplus(d_s) + 0.001), r from 0, for click and for conversion given
    click: neither rises with the rank, and so no score a log p(click) + b log p(conversion | click)
    with 0 <= b <= a does, calibrated or not. It reads nothing but how long a list is. Ranks from
    `max_rank` on share the last one's rates. Ours: what a re-ranker has to be better than,
    calibrated like the others.
    """

    def __init__(self, inputs: InputSpec | dict, config: ModelConfig | dict, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        exact = {"dtype": "float32", "experimental_autocast": False}  # whatever the policy
        self.first = self.add_weight("first", [2], initializer="zeros", **exact)
        self.steps = self.add_weight(
            "steps",
            [2, self.config.max_rank - 1],
            initializer=tf.keras.initializers.Constant(-3.0),
            **exact,
        )

    def logits(
        self, batch: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> tuple[Logits, Logits | None]:
        mask = mask_of(batch, Axis.ITEM)
        fall = tf.cumsum(tf.nn.softplus(self.steps) + _SMALLEST_STEP, axis=1)
        by_rank = self.first[:, tf.newaxis] - tf.pad(fall, [[0, 0], [1, 0]])
        rank = tf.minimum(tf.range(tf.shape(mask)[1]), self.config.max_rank - 1)
        click, given = (
            tf.broadcast_to(tf.gather(logits, rank), tf.shape(mask))
            for logits in tf.unstack(by_rank)
        )
        items = click, entire_space_logit(click, given)
        return items, None
