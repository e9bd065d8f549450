"""The simulated log against the truth of its world."""

from __future__ import annotations

import collections
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from piano_tf.simulation import SimulationConfig, World, simulate
from piano_tf.simulation.logs import SPEC
from piano_tf.simulation.queries import Kind
from piano_tf.simulation.searches import count_before, searches_of


def table_of(config: SimulationConfig) -> pa.Table:
    source = simulate(config)
    table = pa.Table.from_batches(source.batches)
    assert source.spec == SPEC
    assert table.schema == SPEC.arrow_schema
    assert source.total == table.num_rows == config.lists
    return table


class Log:
    """A log in the numbers of its world: `row`, `rank` from 1 and all else once per candidate."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.table = table_of(world.config)
        self.lengths = self.table["item_id"].combine_chunks().value_lengths().to_numpy()
        self.row = np.repeat(np.arange(len(self.lengths)), self.lengths)
        self.rank = 1 + np.arange(len(self.row)) - np.searchsorted(self.row, self.row)
        self.list_query = _numbers(world.queries.texts, self.table["query"])
        self.user = _numbers(world.listeners.ids, self.table["user_id"])
        self.item = _numbers(world.catalogue.track_ids, _flat(self.table, "item_id"))
        self.click = _flat(self.table, "click").to_numpy()
        self.conversion = _flat(self.table, "conversion").to_numpy()
        self.randomised = np.array(self.table["context_slice"].to_pylist()) == "randomised"
        self.day = (self.table["timestamp"].to_numpy() - world.config.start) // 86_400


def _flat(table: pa.Table, column: str) -> pa.Array:
    return table[column].combine_chunks().flatten()


def _numbers(names: list[str], column: Any) -> npt.NDArray[np.int64]:
    number_of = dict(zip(reversed(names), reversed(range(len(names))), strict=True))
    return np.array([number_of[name] for name in column.to_pylist()])


@pytest.fixture(scope="module")
def log(world: World) -> Log:
    return Log(world)


def _digest(config: SimulationConfig) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SPEC.arrow_schema) as writer:
        for batch in simulate(config).batches:
            writer.write_batch(batch)
    return hashlib.sha256(sink.getvalue().to_pybytes()).hexdigest()


def test_one_seed_gives_one_log(small: SimulationConfig) -> None:
    config = small.model_copy(update={"lists": 1_500})
    assert _digest(config) == _digest(config)
    assert _digest(config) != _digest(config.model_copy(update={"seed": 8}))


def test_another_machine_has_the_same_log() -> None:
    """Of the default world; whoever changes what it draws writes down the new one here."""
    expected = "303fd03e7ed1eb8a9b7394cc44ec1a9f2fd249706cf2bd9bb489cea064e52649"
    assert _digest(SimulationConfig(lists=2_000)) == expected


def test_lists_are_lists_of_the_contract(log: Log, small: SimulationConfig) -> None:
    assert log.table["list_id"].to_pylist() == [f"list-{n}" for n in range(small.lists)]
    assert set(log.lengths) == set(range(10, 31))
    time = log.table["timestamp"].to_numpy()
    assert (np.diff(time) > 0).all()
    assert time[0] >= small.start
    assert time[-1] < small.start + 86_400 * small.days
    ranked = (np.diff(log.row) == 0) & ~log.randomised[log.row[1:]]
    assert (np.diff(_flat(log.table, "initial_score").to_numpy())[ranked] <= 0).all()
    assert len(np.unique(log.row * 800 + log.item)) == len(log.item)
    assert set(np.unique(log.click)) == {0, 1}
    assert (log.conversion <= log.click).all()
    assert 0 < log.conversion.sum() < log.click.sum()


def test_days_are_of_as_many_lists(world: World, small: SimulationConfig) -> None:
    config = small.model_copy(update={"lists": 1_000})
    uneven = World(config)
    counts = [len(searches_of(uneven, day).number) for day in range(30)]
    assert sum(counts) == 1_000
    assert set(counts) == {33, 34}
    assert count_before(uneven, 30) == 1_000
    later = searches_of(world, 32)
    assert later.number[0] == 6_400 and len(later.number) == 200


def test_features_are_the_catalogue_and_the_listener(log: Log) -> None:
    world = log.world
    c, people = world.catalogue, world.listeners
    artists = [c.artist_names[artist] for artist in c.artist[log.item]]
    assert _flat(log.table, "item_artist").to_pylist() == artists
    genres = [world.queries.genre_words[genre][0] for genre in c.genre[log.item]]
    assert _flat(log.table, "item_genre").to_pylist() == genres
    day = log.day[log.row]
    popularity = np.stack([c.popularity(day) for day in range(30)])[day, log.item]
    found = _flat(log.table, "item_popularity").to_numpy()
    np.testing.assert_allclose(found, popularity, atol=1e-5)
    found = _flat(log.table, "item_age").to_numpy()
    np.testing.assert_array_equal(found, day - c.released[log.item])
    assert (found >= 0).all() and (found < 30).any()
    countries = [people.country[user] for user in log.user]
    assert log.table["user_country"].to_pylist() == countries


@pytest.mark.parametrize("entries", [3, 50])
def test_history_is_the_listeners_own_earlier_acts(small: SimulationConfig, entries: int) -> None:
    fields = small.model_dump() | {"lists": 1_500, "history": entries}
    fields["listeners"]["count"] = 15
    acts: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in table_of(SimulationConfig.model_validate(fields)).to_pylist():
        own = acts[row["user_id"]]
        newest = own[: -entries - 1 : -1]
        names = ("query", "item_id", "action", "item_artist", "item_genre", "item_mood")
        for name in names:
            assert row[f"history_{name}"] == [act[name] for act in newest]
        ages = [(row["timestamp"] - act["timestamp"]) / 86_400 for act in newest]
        assert row["history_age"] == pytest.approx(ages)
        assert all(age > 0 for age in ages)
        for rank, click in enumerate(row["click"]):
            if click:
                act = {name: row[name][rank] for name in names if name.startswith("item_")}
                act |= {"query": row["query"], "timestamp": row["timestamp"]}
                act["action"] = "conversion" if row["conversion"][rank] else "click"
                own.append(act)
    assert max(map(len, acts.values())) > entries


def test_the_log_is_what_the_world_says_of_its_days(log: Log) -> None:
    """Acts are those that a day's generator draws in the order of the first stage."""
    world, day = log.world, 11
    searches = searches_of(world, day)
    acts = world.behaviour.act(searches.chance, searches.appeal(world))
    here = (log.day == day)[log.row]
    np.testing.assert_array_equal(log.click[here], acts.click[searches.mask])
    np.testing.assert_array_equal(log.conversion[here], acts.conversion[searches.mask])
    np.testing.assert_array_equal(log.item[here], searches.track[searches.mask])


def test_randomised_lists_are_in_no_order(log: Log) -> None:
    share = log.randomised.mean()
    assert share == pytest.approx(0.03, abs=0.01)
    score = _flat(log.table, "initial_score").to_numpy()
    for lists, low, high in ((log.randomised, -0.1, 0.1), (~log.randomised, -1, -0.25)):
        some = lists[log.row] & (log.rank <= 10)
        assert low < np.corrcoef(log.rank[some], score[some])[0, 1] < high


def test_the_past_under_an_ambiguous_query_tells_what_it_means(log: Log) -> None:
    world = log.world
    people, queries = world.listeners, world.queries
    by_past, by_likes = [], []
    kind = queries.kind[queries.spelt_right(log.list_query)]
    columns = ["query", "history_query", "history_item_genre"]
    for place, row in enumerate(log.table.select(columns).to_pylist()):
        past = collections.Counter(
            genre
            for query, genre in zip(row["history_query"], row["history_item_genre"], strict=True)
            if query == row["query"]
        )
        query = log.list_query[place]
        if kind[place] != Kind.AMBIGUOUS or not past or query >= len(queries):
            continue
        word = np.array(queries.target[query])
        meant = people.meant(log.day[place], np.array(log.user[place]), word)
        name = queries.genre_words[int(meant)][0]
        senses = [queries.genre_words[genre][0] for genre in people.senses[word]]
        everything = collections.Counter(row["history_item_genre"])
        by_past.append(past.most_common(1)[0][0] == name)
        by_likes.append(max(senses, key=lambda genre: everything[genre]) == name)
    assert len(by_past) > 500
    assert np.mean(by_past) > 0.7
    assert np.mean(by_past) > np.mean(by_likes) + 0.1


def test_the_smallest_world_has_a_log() -> None:
    smallest = SimulationConfig.model_validate(
        {
            "lists": 1,
            "days": 1,
            "days_after": 0,
            "history": 1,
            "listeners": {"count": 1, "tastes": 1, "favourites": 1},
            "catalogue": {
                "tracks": 2,
                "artists": 2,
                "albums_per_artist": 1,
                "genres": 2,
                "moods": 1,
                "new_albums": 1.0,
            },
            "queries": {
                "words_per_genre": 1,
                "words_per_mood": 1,
                "ambiguous_words": 1,
                "meanings": 2,
                "words_per_listener": 1,
            },
            "first_stage": {"shortest_list": 1, "longest_list": 1, "pool": 1},
        }
    )
    assert len(table_of(smallest)["item_id"][0]) == 1
