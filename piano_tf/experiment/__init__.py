"""An online experiment in a simulated world: policies meet the same listeners, and are measured.

What is randomised to a policy is a listener. Because a listener's world goes on by what that
listener is shown and nobody else, every policy can also meet everybody, each in a world of its own:
that is the truth which the experiment in buckets estimates.
"""

from piano_tf.experiment.abtest import abtest
from piano_tf.experiment.config import ExperimentConfig, PolicyConfig, SelectionConfig

__all__ = ["ExperimentConfig", "PolicyConfig", "SelectionConfig", "abtest"]
