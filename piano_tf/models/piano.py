"""PIANO (arXiv 2606.16641)."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf import layers
from piano_tf.config import ModelConfig
from piano_tf.features import Axis, InputSpec
from piano_tf.masks import mask_of
from piano_tf.models.base import Reranker, initial_rank, outputs_of


@tf.keras.utils.register_keras_serializable("piano_tf")
class PIANO(Reranker):
    """Past queries refine the listener's interest; a list token predicts for list and items.

    QDIR attends from the present query to past ones and refines the profile; the list encoder
    reads [IAN; candidates] in view of that interest; IAN predicts the list's click and conversion
    and conditions each item's. What the paper states and what is ours stands in each layer.
    """

    def __init__(self, inputs: InputSpec | dict, config: ModelConfig | dict, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        width, heads = self.config.width, self.config.heads
        self.query_encoder = layers.QueryEncoder(self.inputs_spec.rows["query"], width)
        self.item_encoder = layers.ItemEncoder(self.inputs_spec, width)
        self.user_encoder = layers.UserEncoder(self.inputs_spec, width)
        self.qdir = layers.QueryDrivenInterestRefiner(width, heads)
        self.ian = layers.InformationAggregationNode(width)
        self.list_encoder = layers.ListEncoder(
            width, heads, self.config.blocks, self.config.dropout, self.config.max_rank
        )
        self.head = layers.EntireSpaceHead(width)

    def call(
        self, batch: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> dict[str, tf.Tensor]:
        mask = mask_of(batch, Axis.ITEM)
        history_mask = mask_of(batch, Axis.HISTORY)
        query = self.query_encoder(batch["query"])
        items, history_items = self.item_encoder(batch)
        interest = self.qdir(
            query=query,
            user=self.user_encoder(batch, history_items, history_mask),
            history_query=self.query_encoder(batch["history_query"]),
            history_item=history_items,
            history_action=batch["history_action"],
            history_age=batch["history_age"],
            history_mask=history_mask,
        )
        node, encoded = self.list_encoder(
            items=items,
            query=query,
            interest=interest,
            node=self.ian.start(interest),
            rank=initial_rank(batch),
            mask=mask,
            training=training,
        )
        conditioned, lists = self.ian(node, encoded)
        return outputs_of(self.head(conditioned), lists)
