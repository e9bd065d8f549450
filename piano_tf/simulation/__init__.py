"""A music-search world with known truth, and the logs that it writes; knows nothing of models."""

from piano_tf.simulation.config import BehaviourConfig, SimulationConfig
from piano_tf.simulation.logs import simulate
from piano_tf.simulation.world import World

__all__ = ["BehaviourConfig", "SimulationConfig", "World", "simulate"]
