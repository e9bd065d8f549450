"""Vectors of items and queries from past interactions alone, before any re-ranker is trained."""

from piano_tf.pretraining.interactions import Interactions, interactions_of
from piano_tf.pretraining.vectors import pretrain

__all__ = ["Interactions", "interactions_of", "pretrain"]
