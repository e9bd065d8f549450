"""Keras layers, one public layer per file. Masks are boolean, True = real."""

from piano_tf.layers.entire_space import EntireSpaceHead, entire_space_logit
from piano_tf.layers.ian import InformationAggregationNode
from piano_tf.layers.item_encoder import ItemEncoder
from piano_tf.layers.list_encoder import ListEncoder
from piano_tf.layers.qdir import QueryDrivenInterestRefiner
from piano_tf.layers.query_encoder import QueryEncoder
from piano_tf.layers.self_attention_block import SelfAttentionBlock
from piano_tf.layers.user_encoder import UserEncoder

__all__ = [
    "EntireSpaceHead",
    "InformationAggregationNode",
    "ItemEncoder",
    "ListEncoder",
    "QueryDrivenInterestRefiner",
    "QueryEncoder",
    "SelfAttentionBlock",
    "UserEncoder",
    "entire_space_logit",
]
