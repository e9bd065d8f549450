"""Who searches for what on a day, and the lists that the first stage finds for it."""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np

from piano_tf.simulation.behaviour import Appeal
from piano_tf.simulation.draws import Bools, Floats, Ints
from piano_tf.simulation.world import World

DAY = 86_400
DEVICES = ("phone", "desktop", "speaker")  # Drawn evenly, without any effect.
RANKED, RANDOMISED = "ranked", "randomised"


class Purpose(enum.IntEnum):
    """What a day's randomness is for: each has a generator of its own."""

    SEARCHES = 1
    CANDIDATES = 2
    ACTS = 3


class Searches(NamedTuple):
    """Lists of one day, before anybody acts on them.

    Attributes:
      day: Of all of them.
      number: [B] of each list in the world.
      time: [B] Unix seconds, rising.
      listener, query, device: [B] numbers.
      randomised: [B] whether the list is shown in random order.
      track: [B, N] candidates as the first stage has them, in random order where that is so.
      score: [B, N] of the first stage.
      mask: [B, N] True = real.
      chance: [B, N, 3] what decides on the listener's acts at each rank, whatever stands there.
    """

    day: int
    number: Ints
    time: Ints
    listener: Ints
    query: Ints
    device: Ints
    randomised: Bools
    track: Ints
    score: Floats
    mask: Bools
    chance: Floats

    def rows(self, places: Ints | slice) -> Searches:
        """Some of them."""
        return Searches(self.day, *(values[places] for values in self[1:]))

    def ordered(self, order: Ints) -> Searches:
        """The same lists with their candidates in another order, [B, N] places from the best."""
        track, score, mask = (
            np.take_along_axis(values, order, axis=1)
            for values in (self.track, self.score, self.mask)
        )
        return self._replace(track=track, score=score, mask=mask)

    def appeal(self, world: World) -> Appeal:
        """What the candidates are on their own."""
        return world.behaviour.appeal(self.day, self.listener, self.query, self.track, self.mask)


def count_before(world: World, day: int) -> int:
    """Lists of all days before one: as many a day as the log has."""
    return -(-day * world.config.lists // world.config.days)


def searches_of(world: World, day: int, *, randomised: bool = True) -> Searches:
    """All searches of a day, in order of time; the same whenever it is called.

    Args:
      world: Where.
      day: When.
      randomised: Whether some are shown in random order.
    """
    first, end = count_before(world, day), count_before(world, day + 1)
    size = end - first
    rng = world.draws_of(day, Purpose.SEARCHES)
    place = np.arange(size)
    # Each anywhere in its own part of the day, so that they rise.
    within = rng.integers(0, max(1, DAY // max(1, size)), size)
    time = world.config.start + DAY * day + place * DAY // max(1, size) + within
    activity = np.cumsum(world.listeners.activity)[:-1]
    listener = np.searchsorted(activity, rng.random(size), side="right")
    query = world.queries.draw(rng, day, listener)
    device = rng.integers(0, len(DEVICES), size)
    share = world.config.first_stage.randomised if randomised else 0.0
    at_random = rng.random(size) < share

    rng = world.draws_of(day, Purpose.CANDIDATES)
    track, score, mask = world.first_stage.candidates(rng, day, query)
    shuffled = np.where(mask, rng.random(mask.shape), np.inf).argsort(axis=1, kind="stable")
    order = np.where(at_random[:, np.newaxis], shuffled, np.arange(mask.shape[1]))
    track, score = (np.take_along_axis(values, order, axis=1) for values in (track, score))
    chance = world.draws_of(day, Purpose.ACTS).random((*mask.shape, 3))
    return Searches(
        day, first + place, time, listener, query, device, at_random, track, score, mask, chance
    )
