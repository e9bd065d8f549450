"""A music-search world with known truth, and the logs that it writes; knows nothing of models."""

from piano_tf.simulation.config import (
    BehaviourConfig,
    CatalogueConfig,
    FirstStageConfig,
    ListenersConfig,
    QueriesConfig,
    SimulationConfig,
)
from piano_tf.simulation.logs import simulate
from piano_tf.simulation.world import World

__all__ = [
    "BehaviourConfig",
    "CatalogueConfig",
    "FirstStageConfig",
    "ListenersConfig",
    "QueriesConfig",
    "SimulationConfig",
    "World",
    "simulate",
]
