"""A small world, and a model that knows it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from piano_tf.evaluation.predictions import Predictions
from piano_tf.simulation import SimulationConfig, World
from piano_tf.simulation.draws import logistic

SETTINGS = SimulationConfig.model_validate(
    {
        "lists": 3_000,
        "days": 30,
        "days_after": 5,
        "listeners": {"count": 200},
        "catalogue": {"tracks": 400, "artists": 40, "genres": 6, "moods": 3},
    }
)


class Oracle:
    """Answers as a model would that knows the world; counts how often it is asked."""

    def __init__(self, world: World, day: int) -> None:
        self.world, self.day, self.asked = world, day, 0
        self.of_track = {name: n for n, name in enumerate(world.catalogue.track_ids)}
        self.of_query = {text: n for n, text in enumerate(world.queries.texts)}
        self.of_listener = {name: n for n, name in enumerate(world.listeners.ids)}

    def __call__(self, rows: pa.RecordBatch) -> Predictions:
        self.asked += 1
        lists = rows.to_pylist()
        width = max(len(row["item_id"]) for row in lists)
        track, mask = np.zeros((len(lists), width), int), np.zeros((len(lists), width), bool)
        for number, row in enumerate(lists):
            track[number, : len(row["item_id"])] = [self.of_track[item] for item in row["item_id"]]
            mask[number, : len(row["item_id"])] = True
        listener = np.array([self.of_listener[row["user_id"]] for row in lists])
        query = np.array([self.of_query[row["query"]] for row in lists])
        behaviour = self.world.behaviour
        appeal = behaviour.appeal(self.day, listener, query, track, mask)
        click = logistic(appeal.click) * mask
        expected = behaviour.expected(appeal)
        both = click * logistic(appeal.conversion)
        return Predictions(click, click, both, expected.list_click, expected.list_conversion)
