"""PIANO (arXiv 2606.16641)."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf import layers
from piano_tf.config import ModelConfig
from piano_tf.features import InputSpec
from piano_tf.layers.match_features import same_item, same_query
from piano_tf.models.base import Logits, Reranker, independent_lists


@tf.keras.utils.register_keras_serializable("piano_tf")
class PIANO(Reranker):
    """Past queries refine the listener's interest; a list token predicts for list and items.

    QDIR attends from the present query to past ones and refines the profile. It does so among
    pre-trained vectors too, where each candidate is compared with what is found (`InterestMatch`),
    and in a second pass, if switched on, each candidate, as x_i + e(q), attends to the same past,
    with keys e(q_t) + e(i_t) + E[a_t, age] [both ours]. The list encoder reads [IAN; candidates] in
    view of all that. IAN conditions each item's click and conversion, and predicts the list's: what
    it says is added to the logits of independent items [ours]. What the paper states and what is
    ours stands in each layer; `PIANOConfig` switches the parts on and off one by one, and says
    which are off.
    """

    def __init__(self, inputs: InputSpec | dict, config: ModelConfig | dict, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        c, parts = self.config, self.config.piano
        self.encoder = layers.ListInputEncoder(self.inputs_spec, c)
        if parts.keys != "none":
            self.qdir = layers.QueryDrivenInterestRefiner(
                c.width, c.heads, parts.keys, parts.null_slot, parts.gate, parts.action_age
            )
            if parts.interest_match and c.pretraining is not None:
                self.interest_match = layers.InterestMatch(
                    c.width, c.heads, parts.keys, parts.null_slot
                )
            if parts.second_pass:
                self.second_pass = layers.HistoryAttention(c.width, c.heads, parts.null_slot)
        if parts.token:
            self.ian = layers.InformationAggregationNode(
                c.width, parts.conditioning, parts.personal_token
            )
        self.list_encoder = layers.ListEncoder(c.width, c.heads, c.blocks, c.dropout, c.max_rank)
        self.head = layers.EntireSpaceHead(c.width)

    def logits(
        self, batch: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> tuple[Logits, Logits | None]:
        parts = self.config.piano
        lists = self.encoder(batch)
        interest, _ = self.refine(batch, lists)
        found = self.matches(batch, lists)
        node, items = self.list_encoder(
            items=lists.items,
            query=lists.query,
            interest=interest,
            found=tf.concat(found, axis=-1) if found else None,
            node=self.ian.start(interest) if parts.token else None,
            rank=lists.rank,
            mask=lists.mask,
            training=training,
        )
        if not parts.token:
            return self.head(items), None
        items, of_list = self.ian(node, items)
        of_items = self.head(items)
        if parts.list_residual:
            alone = independent_lists(of_items, lists.mask)
            of_list = alone[0] + of_list[0], alone[1] + of_list[1]
        return of_items, of_list

    def refine(
        self, batch: Mapping[str, tf.Tensor], lists: layers.ListInputs
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """QDIR's interest p [B, D] and attention [B, heads, 1 + H]; the profile without QDIR."""
        parts = self.config.piano
        if parts.keys == "none":
            return lists.user, None
        return self.qdir(
            query=lists.query,
            user=lists.user,
            past_queries=lists.past_queries,
            past_items=lists.past_items,
            past_action=lists.past_action,
            past_age=lists.past_age,
            past_mask=lists.past_mask,
            same_query=self._same_query(batch),
        )

    def matches(self, batch: Mapping[str, tf.Tensor], lists: layers.ListInputs) -> list[tf.Tensor]:
        """What QDIR's further passes found for each candidate, [B, N, D] each."""
        parts = self.config.piano
        found: list[tf.Tensor] = []
        if parts.keys == "none":
            return found
        equal = same_item(batch) if parts.exact_match else None
        circumstances = None
        if parts.action_age:
            circumstances = self.qdir.circumstances(lists.past_action, lists.past_age)
        if parts.interest_match and lists.pretrained is not None:
            found.append(
                self.interest_match(
                    lists.pretrained,
                    lists.past_mask,
                    equal,
                    self._same_query(batch),
                    circumstances,
                )
            )
        if parts.second_pass:
            keys = lists.past_items
            if parts.keys == "query":
                keys += lists.past_queries
            of_candidates, _ = self.second_pass(
                lists.items + lists.query[:, tf.newaxis],
                keys if circumstances is None else keys + circumstances,
                tf.concat([lists.past_queries, lists.past_items], axis=-1),
                lists.past_mask,
                equal,
            )
            found.append(of_candidates)
        return found

    def _same_query(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor | None:
        parts = self.config.piano
        return same_query(batch) if parts.exact_match and parts.keys == "query" else None

    def attention(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """QDIR's attention over past queries.

        Args:
          batch: Encoded inputs.

        Returns:
          [B, heads, 1 + H], the null slot first; each sums to 1 (to 0 where a listener without
          past has no null slot).

        Raises:
          ValueError: This model was configured without QDIR.
        """
        attention = self.refine(batch, self.encoder(batch))[1]
        if attention is None:
            raise ValueError("model.piano.keys is 'none': there is no attention over past queries")
        return attention
