"""The search for the best order, against all orders of short lists."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from piano_tf.experiment.optimum import best_order, list_value
from piano_tf.simulation import SimulationConfig, World
from piano_tf.simulation.searches import searches_of

VALUES = [(1.0, 0.0), (0.5, 1.0), (0.0, 1.0)]


@pytest.fixture(scope="module")
def world() -> World:
    return World(
        SimulationConfig.model_validate(
            {
                "lists": 600,
                "days": 10,
                "listeners": {"count": 50},
                "catalogue": {"tracks": 300, "artists": 30, "genres": 6, "moods": 3},
                "first_stage": {"shortest_list": 3, "longest_list": 5},
                "behaviour": {"click_tiring": 2.0, "conversion_tiring": 2.0, "abandonment": 0.2},
            }
        )
    )


@pytest.mark.parametrize("value", VALUES)
def test_seldom_is_another_order_better(world: World, value: tuple[float, float]) -> None:
    searches = searches_of(world, 3)
    appeal = searches.appeal(world)
    found = list_value(
        world.behaviour.expected(appeal.ordered(best_order(world.behaviour, appeal, value))), value
    )
    best = np.zeros(len(found))
    for order in itertools.permutations(range(5)):
        # A list of fewer has its padding somewhere else in most of these, which are not orders.
        shuffled = appeal.ordered(np.tile(order, (len(found), 1)))
        whole = (np.diff(shuffled.mask.astype(int), axis=1) <= 0).all(axis=1)
        values = list_value(world.behaviour.expected(shuffled), value)
        best = np.where(whole, np.maximum(best, values), best)
    assert (found <= best + 1e-12).all()
    assert np.mean(found > best - 1e-9) > 0.9
    assert found.mean() > 0.995 * best.mean()


def test_padding_stays_last(world: World) -> None:
    searches = searches_of(world, 4)
    order = best_order(world.behaviour, searches.appeal(world), (1.0, 1.0))
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(5), (len(order), 1)))
    np.testing.assert_array_equal(np.take_along_axis(searches.mask, order, axis=1), searches.mask)
