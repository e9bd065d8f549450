"""IAN: a token that reads the whole list, predicts for it, and conditions every item."""

from __future__ import annotations

import tensorflow as tf

from piano_tf.layers.dense import Dense
from piano_tf.layers.entire_space import EntireSpaceHead


@tf.keras.utils.register_keras_serializable("piano_tf")
class InformationAggregationNode(tf.keras.layers.Layer):
    """The list token's start, its predictions, and its influence on the items.

    IAN_0 = w_IAN + W_p p, or w_IAN alone, enters the list encoder as the first entry; z_0 leaves
    it. From z_0: list click and, by the entire-space chain, list conversion (where PIANO takes both
    as differences from independent items, the conversion's is never above the click's); and the
    items are conditioned by `film`, z'_i = z_i * (1 + tanh(W_s z_0)) + W_b z_0, by `concat`, z'_i =
    [z_i; z_0], or not at all (`none`).

    Known of PIANO (arXiv 2606.16641): a [CLS]-style token that predicts the list's click and
    conversion and conditions the items. RankFormer (arXiv 2306.05808) is the nearest published
    relative, and concatenates. FiLM (arXiv 1709.07871) and the chain for the list are ours.

    Args:
      units: D, width of the vectors.
      conditioning: `film`, `concat` or `none`.
      personal: Whether the token starts from the refined interest.
    """

    def __init__(
        self, units: int, conditioning: str = "film", personal: bool = True, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.conditioning = conditioning
        self.personal = personal
        self.token = self.add_weight("token", [units], initializer="glorot_uniform")
        if personal:
            self.from_interest = Dense(units, use_bias=False, name="from_interest")
        if conditioning == "film":
            self.scale = Dense(units, "tanh", use_bias=False, name="scale")
            self.shift = Dense(units, use_bias=False, name="shift")
        self.head = EntireSpaceHead(units, name="head")

    def start(self, interest: tf.Tensor) -> tf.Tensor:
        """IAN_0 [B, D] from the refined interest p [B, D]."""
        token = tf.cast(self.token, self.compute_dtype)
        if self.personal:
            return token + self.from_interest(interest)
        return tf.broadcast_to(token, tf.shape(interest))

    def call(
        self, node: tf.Tensor, items: tf.Tensor
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
        """Predicts for the list and conditions its items.

        Args:
          node: [B, D] z_0.
          items: [B, N, D] z_i.

        Returns:
          Conditioned items [B, N, D] ([B, N, 2 D] for `concat`), and logits [B] of list click and
          of list conversion.
        """
        lists = self.head(node)
        if self.conditioning == "film":
            scale = 1 + self.scale(node)[:, tf.newaxis]
            items = items * scale + self.shift(node)[:, tf.newaxis]
        elif self.conditioning == "concat":
            node = tf.broadcast_to(node[:, tf.newaxis], tf.shape(items))
            items = tf.concat([items, node], axis=-1)
        return items, lists

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "units": self.units,
            "conditioning": self.conditioning,
            "personal": self.personal,
        }
