"""The inputs that every re-ranker shares, from an encoded batch to vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from piano_tf.config import ModelConfig
from piano_tf.features import Axis, InputSpec
from piano_tf.layers.item_encoder import ItemEncoder
from piano_tf.layers.match_features import MatchFeatures
from piano_tf.layers.pretrained_vectors import Pretrained, PretrainedVectors
from piano_tf.layers.query_encoder import QueryEncoder
from piano_tf.layers.user_encoder import UserEncoder
from piano_tf.masks import mask_of


class ListInputs(NamedTuple):
    """A batch of lists as vectors of width D; what stands at padding means nothing.

    Attributes:
      items: [B, N, D] candidates x_i.
      mask: [B, N] boolean, True = real.
      rank: [B, N] initial ranks from 0.
      query: [B, D] e(q).
      user: [B, D] profile u.
      past_items: [B, H, D] e(i_t), newest first.
      past_queries: [B, H, D] e(q_t).
      past_mask: [B, H] boolean, True = real.
      past_action: [B, H] 1 for a click, 2 for a conversion, 0 at padding.
      past_age: [B, H] days before the request.
      pretrained: The pre-trained vectors that are in all these, where there are any.
    """

    items: tf.Tensor
    mask: tf.Tensor
    rank: tf.Tensor
    query: tf.Tensor
    user: tf.Tensor
    past_items: tf.Tensor
    past_queries: tf.Tensor
    past_mask: tf.Tensor
    past_action: tf.Tensor
    past_age: tf.Tensor
    pretrained: Pretrained | None


@tf.keras.utils.register_keras_serializable("piano_tf")
class ListInputEncoder(tf.keras.layers.Layer):
    """Encodes queries, items and listeners, with pre-trained vectors and match features.

    One layer for all models, so that none is compared with inputs that another lacks.

    Args:
      inputs: The inputs' columns and vocabularies; an `InputSpec`, or its dictionary.
      config: Width D and which inputs there are; a `ModelConfig`, or its dictionary.
    """

    def __init__(self, inputs: InputSpec | dict, config: ModelConfig | dict, **kwargs) -> None:
        super().__init__(**kwargs)
        self.inputs = InputSpec.model_validate(inputs)
        self.config = c = ModelConfig.model_validate(config)
        self.pretrained = None
        if c.pretraining is not None:
            shape = c.pretraining.width, c.pretraining.folds
            self.pretrained = PretrainedVectors(self.inputs, *shape, name="pretrained")
        self.match = None
        if c.match:
            self.match = MatchFeatures(self.inputs, c.match_queries, name="match")
        self.query_encoder = QueryEncoder(
            self.inputs.rows["query"],
            c.width,
            ids=c.ids,
            compositional=self.inputs.encoding.table("query").compositional,
            name="query_encoder",
        )
        self.item_encoder = ItemEncoder(self.inputs, c.width, ids=c.ids, name="item_encoder")
        self.user_encoder = UserEncoder(self.inputs, c.width, ids=c.ids, name="user_encoder")

    def call(self, batch: Mapping[str, tf.Tensor], training: bool | None = None) -> ListInputs:
        """Encodes a batch (see `piano_tf.data.encoding.encode`).

        Args:
          batch: Encoded inputs.
          training: Whether initial ranks are known where the configuration wants them in training
            only.
        """
        mask, past_mask = mask_of(batch, Axis.ITEM), mask_of(batch, Axis.HISTORY)
        pretrained = None if self.pretrained is None else self.pretrained(batch)
        match = None if self.match is None else self.match(batch, pretrained)
        query, past_queries = self._queries(batch, pretrained)
        items, past_items = self.item_encoder(batch, mask, pretrained, match)
        ids = batch["item_id"]
        rank = tf.broadcast_to(tf.range(tf.shape(ids)[1]), tf.shape(ids))
        if self.config.rank == "training" and not training:
            rank = tf.zeros_like(rank)
        return ListInputs(
            items=items,
            mask=mask,
            rank=rank,
            query=query,
            user=self.user_encoder(batch, past_items, past_mask),
            past_items=past_items,
            past_queries=past_queries,
            past_mask=past_mask,
            past_action=batch["history_action"],
            past_age=batch["history_age"],
            pretrained=pretrained,
        )

    def _queries(
        self, batch: Mapping[str, tf.Tensor], pretrained: Pretrained | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """e(q) [B, D] of the present query and e(q_t) [B, H, D] of past ones, encoded at once."""

        def together(now: tf.Tensor, past: tf.Tensor) -> tf.Tensor:
            return tf.concat([now[:, tf.newaxis], past], axis=1)

        tokens = together(batch["query"], batch["history_query"])
        vectors = pretrained and together(pretrained.query, pretrained.past_query)
        encoded = self.query_encoder(tokens, vectors)
        return encoded[:, 0], encoded[:, 1:]

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "inputs": self.inputs.model_dump(mode="json"),
            "config": self.config.model_dump(mode="json"),
        }
