"""Vectors of items and queries from past interactions alone, before any re-ranker is trained.

Past means the train split as a whole: what validation and test are given is of earlier days alone.
A list of train is given what other listeners did on later days too, though never its own listener,
so that in training the vectors are somewhat better informed than they will be.
"""

from piano_tf.pretraining.interactions import Interactions, interactions_of
from piano_tf.pretraining.vectors import pretrain

__all__ = ["Interactions", "interactions_of", "pretrain"]
