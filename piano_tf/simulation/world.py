"""A music-search world whose truth is known: its rooms put together. All of it is our own design.

docs/world.md has every equation.
"""

from __future__ import annotations

import numpy as np

from piano_tf.simulation.behaviour import Behaviour
from piano_tf.simulation.catalogue import Catalogue
from piano_tf.simulation.config import SimulationConfig
from piano_tf.simulation.first_stage import FirstStage
from piano_tf.simulation.listeners import Listeners
from piano_tf.simulation.queries import Queries
from piano_tf.simulation.words import Words


class World:
    """Catalogue, listeners, queries, first stage and behaviour, over days from 0.

    The same configuration makes the same world. What is asked and done on one of its days is drawn
    by generators of that day (`draws_of`), so that a day does not depend on how many came before it
    were looked at.

    Attributes:
      config: What the world was made from.
      catalogue, listeners, queries, first_stage, behaviour: Its rooms.
    """

    def __init__(self, config: SimulationConfig) -> None:
        self.config = config
        days = config.days + config.days_after
        rng = np.random.default_rng([config.seed, 0])
        words = Words(rng)
        self.catalogue = Catalogue(config.catalogue, days, words, rng)
        self.listeners = Listeners(config.listeners, config.queries, self.catalogue, days, rng)
        self.queries = Queries(config.queries, self.catalogue, self.listeners, words, rng)
        world = self.catalogue, self.listeners, self.queries
        self.first_stage = FirstStage(config.first_stage, *world, rng)
        self.behaviour = Behaviour(config.behaviour, *world)

    def draws_of(self, day: int, what: int) -> np.random.Generator:
        """Randomness of one day, for one purpose."""
        return np.random.default_rng([self.config.seed, 1 + what, day])
