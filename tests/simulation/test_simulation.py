"""The simulated log against the truth of its world."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from piano_tf.errors import ConfigError
from piano_tf.simulation.config import BehaviourConfig, SimulationConfig
from piano_tf.simulation.logs import SPEC, simulate
from piano_tf.simulation.world import Kind, World

CONFIG = SimulationConfig(lists=6_000, users=150, seed=7)

Floats = npt.NDArray[np.float64]


def table_of(config: SimulationConfig) -> pa.Table:
    source = simulate(config)
    table = pa.Table.from_batches(source.batches)
    assert source.spec == SPEC
    assert table.schema == SPEC.arrow_schema
    assert source.total == table.num_rows == config.lists
    return table


class Log:
    """A log in the numbers of its world: `row`, `rank` from 1 and all else once per candidate."""

    def __init__(self, config: SimulationConfig) -> None:
        self.world = World(config)
        self.table = table_of(config)
        self.lengths = self.table["item_id"].combine_chunks().value_lengths().to_numpy()
        self.row = np.repeat(np.arange(len(self.lengths)), self.lengths)
        self.rank = 1 + np.arange(len(self.row)) - np.searchsorted(self.row, self.row)
        self.list_query = _numbers(self.world.query_texts, self.table["query"])
        self.user = _numbers(self.world.user_ids, self.table["user_id"])[self.row]
        self.query = self.list_query[self.row]
        self.item = _numbers(self.world.item_ids, _flat(self.table, "item_id"))
        self.click = _flat(self.table, "click").to_numpy()
        self.conversion = _flat(self.table, "conversion").to_numpy()

    def ndcg_at_10(self, labels: npt.NDArray[np.int64], score: Floats) -> Floats:
        """[lists] NDCG@10 by falling score, ties by rank; NaN for lists without a positive."""
        by_score = np.lexsort((self.rank, -score, self.row))
        ideal = np.lexsort((-labels, self.row))
        gain = np.where(self.rank <= 10, 1 / np.log2(1 + self.rank), 0.0)
        reached, best = (np.bincount(self.row, gain * labels[order]) for order in (by_score, ideal))
        return np.divide(reached, best, out=np.full(len(best), np.nan), where=best > 0)


def _flat(table: pa.Table, column: str) -> pa.Array:
    return table[column].combine_chunks().flatten()


def _numbers(names: list[str], column: Any) -> npt.NDArray[np.int64]:
    number_of = {name: number for number, name in enumerate(names)}
    assert len(number_of) == len(names)
    return np.array([number_of[name] for name in column.to_pylist()])


@pytest.fixture(scope="module")
def log() -> Log:
    return Log(CONFIG)


def _bytes(config: SimulationConfig) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SPEC.arrow_schema) as writer:
        for batch in simulate(config).batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def test_one_seed_gives_one_log() -> None:
    config = CONFIG.model_copy(update={"lists": 2_500})
    assert _bytes(config) == _bytes(config)
    assert _bytes(config) != _bytes(config.model_copy(update={"seed": 8}))


def test_lists_are_lists_of_the_contract(log: Log) -> None:
    assert len(set(log.table["list_id"].to_pylist())) == CONFIG.lists
    assert set(log.lengths) == set(range(CONFIG.shortest_list, CONFIG.longest_list + 1))
    time = log.table["timestamp"].to_numpy()
    assert (np.diff(time) > 0).all()
    assert time[0] >= CONFIG.start
    assert time[-1] < CONFIG.start + 86_400 * CONFIG.days
    same_list = np.diff(log.row) == 0
    assert (np.diff(_flat(log.table, "initial_score").to_numpy())[same_list] <= 0).all()
    assert len(np.unique(log.row * CONFIG.items + log.item)) == len(log.item)
    assert set(np.unique(log.click)) == {0, 1}
    assert (log.conversion <= log.click).all()
    assert 0 < log.conversion.sum() < log.click.sum()


def test_item_features_are_the_catalogue(log: Log) -> None:
    world = log.world
    artists = [world.artist_names[artist] for artist in world.item_artist[log.item]]
    genres = [world.genre_names[genre] for genre in world.item_genre[log.item]]
    assert _flat(log.table, "item_artist").to_pylist() == artists
    assert _flat(log.table, "item_genre").to_pylist() == genres
    np.testing.assert_array_equal(
        _flat(log.table, "item_popularity").to_numpy(),
        world.item_popularity[log.item].astype(np.float32),
    )


@pytest.mark.parametrize("entries", [3, 50])
def test_history_is_the_listeners_own_earlier_acts(entries: int) -> None:
    config = CONFIG.model_copy(update={"lists": 2_500, "users": 15, "history": entries})
    acts: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in table_of(config).to_pylist():
        own = acts[row["user_id"]]
        newest = own[: -entries - 1 : -1]
        for name in ("query", "item_id", "action", "item_artist", "item_genre"):
            assert row[f"history_{name}"] == [act[name] for act in newest]
        ages = [(row["timestamp"] - act["timestamp"]) / 86_400 for act in newest]
        assert row["history_age"] == pytest.approx(ages)
        assert all(age > 0 for age in ages)
        for rank, click in enumerate(row["click"]):
            if click:
                own.append(
                    {
                        "query": row["query"],
                        "item_id": row["item_id"][rank],
                        "action": "conversion" if row["conversion"][rank] else "click",
                        "item_artist": row["item_artist"][rank],
                        "item_genre": row["item_genre"][rank],
                        "timestamp": row["timestamp"],
                    }
                )
    assert max(map(len, acts.values())) > entries


def test_the_first_stage_never_sees_the_listener() -> None:
    config = CONFIG.model_copy(update={"lists": 3_000, "users": 20, "jitter": 0.0})
    shown: dict[str, list[str]] = {}
    for row in table_of(config).to_pylist():
        shorter, longer = sorted((shown.get(row["query"], []), row["item_id"]), key=len)
        assert longer[: len(shorter)] == shorter
        shown[row["query"]] = longer


def _assert_drawn_from(outcomes: npt.NDArray[np.int64], rates: Floats) -> None:
    deviation = np.sqrt((rates * (1 - rates)).sum())
    assert outcomes.sum() == pytest.approx(rates.sum(), abs=4.5 * deviation)


def test_clicks_are_examined_attractions_at_every_rank(log: Log) -> None:
    attraction = log.world.attraction(log.user, log.query, log.item)
    rates = log.rank**-CONFIG.behaviour.examination_decay * attraction
    for rank in range(1, CONFIG.longest_list + 1):
        at_rank = log.rank == rank
        _assert_drawn_from(log.click[at_rank], rates[at_rank])


def test_conversions_follow_their_rate_given_a_click(log: Log) -> None:
    clicked = log.click == 1
    rates = log.world.conversion(log.user, log.query, log.item)[clicked]
    for half in (rates < np.median(rates), rates >= np.median(rates)):
        _assert_drawn_from(log.conversion[clicked][half], rates[half])


def test_click_rate_falls_with_the_rank(log: Log) -> None:
    rates = [
        log.click[(log.rank >= first) & (log.rank < last)].mean()
        for first, last in ((1, 2), (2, 4), (4, 8), (8, 16), (16, 31))
    ]
    assert rates == sorted(rates, reverse=True)


def test_the_truth_orders_better_than_the_first_stage(log: Log) -> None:
    attraction = log.world.attraction(log.user, log.query, log.item)
    conversion = attraction * log.world.conversion(log.user, log.query, log.item)
    for labels, truth in ((log.click, attraction), (log.conversion, conversion)):
        first_stage = np.nanmean(log.ndcg_at_10(labels, -log.rank.astype(float)))
        assert np.nanmean(log.ndcg_at_10(labels, truth)) > first_stage + 0.05


def test_only_who_knows_the_listener_knows_what_an_ambiguous_query_means(log: Log) -> None:
    world = log.world
    ambiguous = world.query_kind[log.list_query] == Kind.AMBIGUOUS
    pairs, pair = np.unique(log.query * CONFIG.items + log.item, return_inverse=True)
    query, item = np.divmod(pairs, CONFIG.items)
    everybody = sum(
        share * world.attraction(np.array(user), query, item)
        for user, share in enumerate(world.activity)
    )
    personal = log.ndcg_at_10(log.click, world.attraction(log.user, log.query, log.item))
    impersonal = log.ndcg_at_10(log.click, np.asarray(everybody)[pair])
    assert np.nanmean(personal[ambiguous]) > np.nanmean(impersonal[ambiguous]) + 0.15

    for word in range(CONFIG.ambiguous_words):
        _, listeners = np.unique(world.meaning[:, word], return_counts=True)
        assert len(listeners) == CONFIG.meanings
        assert listeners.max() < 0.6 * CONFIG.users


def test_the_past_under_an_ambiguous_query_tells_what_it_means(log: Log) -> None:
    world = log.world
    by_past, by_taste = [], []
    columns = ["user_id", "query", "history_query", "history_item_genre"]
    word_of = {text: n for n, text in enumerate(world.query_texts[-CONFIG.ambiguous_words :])}
    user_of = {name: number for number, name in enumerate(world.user_ids)}
    for row in log.table.select(columns).to_pylist():
        acted_on = collections.Counter(
            genre
            for query, genre in zip(row["history_query"], row["history_item_genre"], strict=True)
            if query == row["query"]
        )
        if row["query"] in word_of and acted_on:
            user, word = user_of[row["user_id"]], word_of[row["query"]]
            meant = world.meaning[user, word]
            possible = np.unique(world.meaning[:, word])
            by_past.append(acted_on.most_common(1)[0][0] == world.genre_names[meant])
            by_taste.append(possible[world.taste[user, possible].argmax()] == meant)
    assert np.mean(by_past) > 0.8
    assert np.mean(by_past) > np.mean(by_taste) + 0.05


def test_the_smallest_world_has_a_log() -> None:
    smallest = SimulationConfig(
        lists=1,
        days=1,
        users=1,
        items=2,
        artists=2,
        genres=2,
        words_per_genre=1,
        ambiguous_words=1,
        meanings=2,
        words_per_user=1,
        tastes=1,
        favourites=1,
        shortest_list=1,
        longest_list=1,
        pool=1,
        history=1,
        behaviour=BehaviourConfig(examination_decay=0.0),
    )
    assert len(table_of(smallest)["item_id"][0]) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"listeners": 3}', "listeners: got 3"),
        ('{"pool": 20}', "longest_list 30 is more than pool 20"),
        ('{"navigational": 0.6, "ambiguous": 0.6}', "sum to more than 1"),
        ('{"days": 1, "lists": 86401}', "more than one a second"),
    ],
)
def test_an_impossible_world_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SimulationConfig.from_json(text)
