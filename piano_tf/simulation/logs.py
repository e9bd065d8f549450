"""The log that the listeners of a simulated world leave, in order of time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from piano_tf.data.source import Source, record_batch
from piano_tf.features import ACTIONS, Axis, FeatureSpec
from piano_tf.simulation.config import SimulationConfig
from piano_tf.simulation.world import World

SPEC = FeatureSpec(
    dataset="simulated",
    initial_score=True,
    item=(("artist", "string"), ("genre", "string"), ("popularity", "float")),
    user=(("country", "string"),),
    context=(("device", "string"),),
    history_item=(("artist", "string"), ("genre", "string")),
)

_DEVICES = ("phone", "desktop", "speaker")  # Drawn evenly, without any effect.
_LISTS_PER_BATCH = 2000
# A click of the past: of whom, when, on what, under which query, and whether a conversion followed.
_EVENT = np.dtype([(name, np.int64) for name in ("user", "time", "query", "item", "converted")])

_Ints = npt.NDArray[np.int64]
_Events = npt.NDArray[np.void]  # Of dtype _EVENT, by user and then by time.


def simulate(config: SimulationConfig) -> Source:
    """Lets the listeners of `World(config)` search, and logs what they see and do.

    The same configuration gives the same log, byte by byte. Memory does not grow with the number of
    lists: what stays between batches is the world and every listener's newest `config.history`
    clicks. A click is dated at its list. Histories hold the clicks of earlier lists only, of one
    list that further down first, and call a click that led to a conversion `conversion`.

    Args:
      config: The world and the extent of its log.

    Returns:
      `config.lists` lists of schema `SPEC.arrow_schema`, with rising timestamps.

    >>> source = simulate(SimulationConfig(lists=3))
    >>> source.total, [batch.num_rows for batch in source.batches]
    (3, [3])
    """
    return Source(spec=SPEC, batches=_batches(World(config)), total=config.lists)


def _batches(world: World) -> Iterator[pa.RecordBatch]:
    rng = np.random.default_rng([world.config.seed, 1])
    past = np.empty(0, _EVENT)
    for first in range(0, world.config.lists, _LISTS_PER_BATCH):
        number = np.arange(first, min(first + _LISTS_PER_BATCH, world.config.lists))
        batch, past = _batch(world, rng, number, past)
        yield batch


def _batch(
    world: World, rng: np.random.Generator, number: _Ints, past: _Events
) -> tuple[pa.RecordBatch, _Events]:
    """The lists of these numbers, and the past of all listeners after them."""
    config = world.config
    time = _times(config, rng, number)
    user = np.searchsorted(np.cumsum(world.activity)[:-1], rng.random(len(number)), side="right")
    query = world.draw_query(rng, user)

    score = world.pool_score[query]
    score = score + config.jitter * rng.standard_normal(score.shape)
    order = np.argsort(-score, axis=1, kind="stable")[:, : config.longest_list]
    length = rng.integers(config.shortest_list, config.longest_list + 1, len(number))
    row, rank = np.nonzero(np.arange(config.longest_list) < length[:, None])
    place = order[row, rank]
    item = world.pool_item[query[row], place]

    click_rate = world.examination(1 + rank) * world.attraction(user[row], query[row], item)
    click = rng.random(len(row)) < click_rate
    conversion_rate = world.conversion(user[row], query[row], item)
    conversion = click & (rng.random(len(row)) < conversion_rate)

    events = np.empty(int(click.sum()), _EVENT)
    for name, values in (
        ("user", user[row]),
        ("time", time[row]),
        ("query", query[row]),
        ("item", item),
        ("converted", conversion),
    ):
        events[name] = values[click]
    events = np.concatenate([past, events])
    events = events[np.argsort(events["user"], kind="stable")]
    entry, history_row = _history(config, events, user, time)
    history = events[entry]

    genre = pa.array(world.genre_names)
    artist = pa.array(world.artist_names)
    item_id = pa.array(world.item_ids)
    text = pa.array(world.query_texts)
    action = pa.array(ACTIONS)
    values = {
        "list_id": [f"list-{i}" for i in number.tolist()],
        "user_id": pa.array(world.user_ids).take(pa.array(user)),
        "query": text.take(pa.array(query)),
        "timestamp": time,
        "user_country": pa.array(world.user_country).take(pa.array(user)),
        "context_device": [_DEVICES[i] for i in rng.integers(0, len(_DEVICES), len(number))],
        "item_id": item_id.take(pa.array(item)),
        "initial_score": score[row, place],
        "item_artist": artist.take(pa.array(world.item_artist[item])),
        "item_genre": genre.take(pa.array(world.item_genre[item])),
        "item_popularity": world.item_popularity[item],
        "history_query": text.take(pa.array(history["query"])),
        "history_item_id": item_id.take(pa.array(history["item"])),
        "history_action": action.take(pa.array(history["converted"])),
        "history_age": (time[history_row] - history["time"]) / 86_400,
        "history_item_artist": artist.take(pa.array(world.item_artist[history["item"]])),
        "history_item_genre": genre.take(pa.array(world.item_genre[history["item"]])),
        "click": click,
        "conversion": conversion,
    }
    lengths = {
        Axis.ITEM: np.bincount(row, minlength=len(number)),
        Axis.HISTORY: np.bincount(history_row, minlength=len(number)),
    }
    batch = record_batch(SPEC, values, lengths)

    newer = np.searchsorted(events["user"], events["user"], side="right") - np.arange(len(events))
    return batch, events[newer <= config.history]


def _times(config: SimulationConfig, rng: np.random.Generator, number: _Ints) -> _Ints:
    """Unix seconds of lists: each anywhere in its own part of the whole time, so that they rise."""
    seconds = 86_400 * config.days
    within = rng.integers(0, seconds // config.lists, len(number))
    return config.start + number * seconds // config.lists + within


def _history(
    config: SimulationConfig, events: _Events, user: _Ints, time: _Ints
) -> tuple[_Ints, _Ints]:
    """Which events each list's user can look back on, newest first, and the list of each."""
    # One number that rises with the user and, within a user, with the time.
    seconds = 86_400 * config.days
    moment = events["user"] * seconds + events["time"] - config.start
    stop = np.searchsorted(moment, user * seconds + time - config.start)
    start = np.maximum(np.searchsorted(events["user"], user), stop - config.history)
    row = np.repeat(np.arange(len(user)), stop - start)
    number = np.arange(len(row)) - np.searchsorted(row, row)
    return stop[row] - 1 - number, row
