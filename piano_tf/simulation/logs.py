"""The log that the listeners of a simulated world leave, in order of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from piano_tf.data.source import Source, record_batch
from piano_tf.features import ACTIONS, Axis, FeatureSpec
from piano_tf.simulation.behaviour import Outcome
from piano_tf.simulation.catalogue import VERSIONS
from piano_tf.simulation.config import SimulationConfig
from piano_tf.simulation.draws import Ints
from piano_tf.simulation.past import History, Past
from piano_tf.simulation.searches import DEVICES, RANDOMISED, RANKED, Searches, searches_of
from piano_tf.simulation.words import LANGUAGES
from piano_tf.simulation.world import World

SPEC = FeatureSpec(
    dataset="simulated",
    initial_score=True,
    item=(
        ("artist", "string"),
        ("album", "string"),
        ("genre", "string"),
        ("mood", "string"),
        ("language", "string"),
        ("version", "string"),
        ("popularity", "float"),
        ("age", "float"),
    ),
    user=(("country", "string"), ("language", "string")),
    context=(("device", "string"), ("slice", "string")),
    history_item=(("artist", "string"), ("genre", "string"), ("mood", "string")),
)

_DECIMALS = 5  # so that another machine's last bit makes no other log
_AT_ONCE = 2_000  # lists

# A column's values, as names or as numbers.
Values: TypeAlias = pa.Array | np.ndarray


def simulate(config: SimulationConfig) -> Source:
    """Lets the listeners of `World(config)` search, and logs what they see and do.

    The same configuration gives the same log, byte by byte. Memory does not grow with the number of
    lists: what stays between days is the world, with every listener's state on every day, and every
    listener's newest `config.history` clicks. Histories hold the clicks of earlier lists only and
    call a click that led to a conversion `conversion`. The first stage decides what is shown, but
    for the randomised lists.

    Args:
      config: The world and the extent of its log.

    Returns:
      `config.lists` lists of schema `SPEC.arrow_schema`, with rising timestamps.

    >>> source = simulate(SimulationConfig(lists=3))
    >>> source.total, sum(batch.num_rows for batch in source.batches)
    (3, 3)
    """
    return Source(spec=SPEC, batches=_batches(config), total=config.lists)


def _batches(config: SimulationConfig) -> Iterator[pa.RecordBatch]:
    log = DailyLog(World(config))
    for day in range(config.days):
        yield from log.lists_of(day)


class DailyLog:
    """A world's log a day at a time.

    Args:
      world: Whose.

    Attributes:
      columns: Puts lists into the contract's columns.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._past = Past(world.config.history)
        self.columns = ListColumns(world)

    def lists_of(self, day: int) -> Iterator[pa.RecordBatch]:
        """The lists of a day in order of time; all earlier days must have been read before."""
        world, past = self._world, self._past
        searches = searches_of(world, day)
        for first in range(0, len(searches.number), _AT_ONCE):
            lists = searches.rows(slice(first, first + _AT_ONCE))
            acts = world.behaviour.act(lists.chance, lists.appeal(world))
            past.add(lists, acts)  # histories end before their lists
            yield self.columns.batch(lists, past.of(lists), acts)
            past.forget()


class ListColumns:
    """Puts lists of a world into the contract's columns.

    Args:
      world: Whose names they bear.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        catalogue, queries = world.catalogue, world.queries
        self._names = {
            name: pa.array(values)
            for name, values in {
                "listener": world.listeners.ids,
                "country": world.listeners.country,
                "query": queries.texts,
                "track": catalogue.track_ids,
                "artist": catalogue.artist_names,
                "album": [f"album-{number}" for number in range(1 + catalogue.album.max())],
                "genre": [words[0] for words in queries.genre_words],
                "mood": [words[0] for words in queries.mood_words],
                "language": LANGUAGES,
                "version": VERSIONS,
                "device": DEVICES,
                "slice": (RANKED, RANDOMISED),
                "action": ACTIONS,
            }.items()
        }

    def batch(
        self, searches: Searches, history: History, outcome: Outcome | None = None
    ) -> pa.RecordBatch:
        """Lists as rows, candidates in the order in which `searches` has them.

        Args:
          searches: The lists.
          history: Of the same lists.
          outcome: What was done with them; nothing yet unless given, and labels are 0.
        """
        catalogue = self._world.catalogue
        mask, past = searches.mask, history.track
        nothing = np.zeros_like(mask)
        acts = outcome or Outcome(nothing, nothing, nothing)
        values = {
            "list_id": [f"list-{number}" for number in searches.number.tolist()],
            "query": self._name("query", searches.query),
            "timestamp": searches.time,
            **_prefixed("user", self.users(searches.listener)),
            "context_device": self._name("device", searches.device),
            "context_slice": self._name("slice", searches.randomised.astype(np.int64)),
            "initial_score": searches.score[mask],
            **_prefixed("item", self.items(searches.day, searches.track[mask])),
            "history_query": self._name("query", history.query),
            "history_item_id": self._name("track", past),
            "history_action": self._name("action", history.converted.astype(np.int64)),
            "history_age": history.age,
            "history_item_artist": self._name("artist", catalogue.artist[past]),
            "history_item_genre": self._name("genre", catalogue.genre[past]),
            "history_item_mood": self._name("mood", catalogue.mood[past]),
            "click": acts.click[mask],
            "conversion": acts.conversion[mask],
        }
        lengths = {Axis.ITEM: mask.sum(axis=1), Axis.HISTORY: history.length}
        return record_batch(SPEC, values, lengths)

    def items(self, day: int, track: Ints) -> dict[str, Values]:
        """The ids of tracks, and the features that they have on a day.

        Args:
          day: When.
          track: [n], all of them out.

        Returns:
          `id` or the feature's name -> [n].
        """
        catalogue = self._world.catalogue
        return {
            "id": self._name("track", track),
            "artist": self._name("artist", catalogue.artist[track]),
            "album": self._name("album", catalogue.album[track]),
            "genre": self._name("genre", catalogue.genre[track]),
            "mood": self._name("mood", catalogue.mood[track]),
            "language": self._name("language", catalogue.language[track]),
            "version": self._name("version", catalogue.version[track]),
            "popularity": np.round(catalogue.popularity(day)[track], _DECIMALS),
            "age": day - catalogue.released[track],
        }

    def users(self, listener: Ints) -> dict[str, Values]:
        """The ids of [n] listeners and their features, likewise."""
        return {
            "id": self._name("listener", listener),
            "country": self._name("country", listener),
            "language": self._name("language", self._world.listeners.language[listener]),
        }

    def _name(self, column: str, numbers: np.ndarray) -> pa.Array:
        return self._names[column].take(pa.array(numbers))


def _prefixed(group: str, values: Mapping[str, Values]) -> dict[str, Values]:
    return {f"{group}_{name}": found for name, found in values.items()}
