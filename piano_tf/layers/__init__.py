"""Keras layers, one public layer per file. Masks are boolean, True = real."""

from piano_tf.layers.calibration import Calibration
from piano_tf.layers.candidate_context import CandidateContext
from piano_tf.layers.co_attention import CoAttention
from piano_tf.layers.compositional_embedding import CompositionalEmbedding
from piano_tf.layers.dense import Dense
from piano_tf.layers.dropout import Dropout
from piano_tf.layers.entire_space import EntireSpaceHead, entire_space_logit
from piano_tf.layers.feed_forward import FeedForward
from piano_tf.layers.history_attention import HistoryAttention
from piano_tf.layers.ian import InformationAggregationNode
from piano_tf.layers.interest_match import InterestMatch
from piano_tf.layers.item_encoder import ItemEncoder
from piano_tf.layers.layer_normalization import LayerNormalization
from piano_tf.layers.list_encoder import ListEncoder
from piano_tf.layers.list_inputs import ListInputEncoder, ListInputs
from piano_tf.layers.match_features import MatchFeatures
from piano_tf.layers.mixture_of_experts import MixtureOfExperts
from piano_tf.layers.pretrained_vectors import PretrainedVectors
from piano_tf.layers.qdir import QueryDrivenInterestRefiner
from piano_tf.layers.query_encoder import QueryEncoder
from piano_tf.layers.self_attention import SelfAttention
from piano_tf.layers.self_attention_block import SelfAttentionBlock
from piano_tf.layers.target_attention import TargetAttention
from piano_tf.layers.user_encoder import UserEncoder

__all__ = [
    "Calibration",
    "CandidateContext",
    "CoAttention",
    "CompositionalEmbedding",
    "Dense",
    "Dropout",
    "EntireSpaceHead",
    "FeedForward",
    "HistoryAttention",
    "InformationAggregationNode",
    "InterestMatch",
    "ItemEncoder",
    "LayerNormalization",
    "ListEncoder",
    "ListInputEncoder",
    "ListInputs",
    "MatchFeatures",
    "MixtureOfExperts",
    "PretrainedVectors",
    "QueryDrivenInterestRefiner",
    "QueryEncoder",
    "SelfAttention",
    "SelfAttentionBlock",
    "TargetAttention",
    "UserEncoder",
    "entire_space_logit",
]
