"""A small world."""

from __future__ import annotations

import pytest

from piano_tf.simulation import SimulationConfig, World

SMALL = SimulationConfig.model_validate(
    {
        "lists": 6_000,
        "days": 30,
        "days_after": 5,
        "listeners": {"count": 150},
        "catalogue": {"tracks": 800, "artists": 80, "genres": 8, "moods": 3},
        "seed": 7,
    }
)


@pytest.fixture(scope="session")
def small() -> SimulationConfig:
    return SMALL


@pytest.fixture(scope="session")
def world() -> World:
    return World(SMALL)
