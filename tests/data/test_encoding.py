"""Raw columns to model inputs, checked against plain Python and NumPy."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import farmhash
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from piano_tf.config import EncodingConfig
from piano_tf.data.encoding import Encoder, compress, encode
from piano_tf.data.tokens import tokens
from piano_tf.errors import ConfigError
from piano_tf.features import ACTIONS, Axis, FeatureSpec
from piano_tf.masks import mask_of

SHOP = FeatureSpec(dataset="shop")


def words(text: str | bytes) -> list[str]:
    (found,) = tokens(tf.constant([text])).to_list()
    return [token.decode() for token in found]


# --- ids ---


def encoder_of(vocabularies: dict[str, list[str]], **encoding: Any) -> Encoder:
    return Encoder(SHOP, EncodingConfig(**encoding), vocabularies, {})


VOCABULARIES = {"user_id": ["u"], "query": ["live", "jazz", "宇"], "item_id": ["x", "y"]}


def raw_lists(
    queries: list, items: list[list[str]], past: list[list[tuple[Any, str, str, float]]]
) -> dict[str, tf.Tensor]:
    """A raw batch of `SHOP`; `past` is (query, item, action, age) per history entry."""
    n, h = max(map(len, items)), max(map(len, past), default=0)
    raw = {
        "list_id": np.array([str(number) for number in range(len(items))], object),
        "user_id": np.array(["u"] * len(items), object),
        "query": np.array(queries, object),
        "timestamp": np.arange(len(items)),
        "item_id": np.full((len(items), n), "", object),
    }
    for column, empty in (("query", ""), ("item_id", ""), ("action", "")):
        raw[f"history_{column}"] = np.full((len(items), h), empty, object)
    raw["history_age"] = np.zeros((len(items), h), np.float32)
    for row, (ids, entries) in enumerate(zip(items, past, strict=True)):
        raw["item_id"][row, : len(ids)] = ids
        for place, (query, item, action, age) in enumerate(entries):
            raw["history_query"][row, place] = query
            raw["history_item_id"][row, place] = item
            raw["history_action"][row, place] = action
            raw["history_age"][row, place] = age
    return {name: tf.constant(values) for name, values in raw.items()}


def test_known_values_are_numbered_from_one_and_padding_is_zero() -> None:
    encoder = encoder_of(VOCABULARIES, query_length=4, history_length=2)
    raw = raw_lists(
        ["Jazz LIVE", ""],
        [["y", "x"], ["x"]],
        [[("宇 jazz", "x", "conversion", 2.5)], []],
    )
    encoded = {name: values.numpy().tolist() for name, values in encoder(raw).items()}
    assert encoded == {
        "user_id": [1, 1],
        "query": [[2, 1, 0, 0], [0, 0, 0, 0]],
        "item_id": [[2, 1], [1, 0]],
        "history_query": [[[3, 2, 0, 0]], [[0, 0, 0, 0]]],
        "history_item_id": [[1], [0]],
        "history_action": [[1 + ACTIONS.index("conversion")], [0]],
        "history_age": [[2.5], [0.0]],
    }


def test_unseen_values_fall_into_the_buckets_after_the_vocabulary() -> None:
    oov = 3
    encoder = encoder_of(VOCABULARIES, oov_buckets=oov)
    unseen = [f"item {number}" for number in range(60)]
    raw = raw_lists([""] * 60, [[item] for item in unseen], [[]] * 60)
    ids = encoder(raw)["item_id"].numpy().ravel()
    known = len(VOCABULARIES["item_id"])
    assert set(ids) == set(range(known + 1, known + oov + 1))
    assert ids.max() < encoder.inputs.rows["item_id"] == 1 + known + oov
    expected = known + 1 + tf.strings.to_hash_bucket_fast(unseen, oov).numpy()
    assert (ids == expected).all()


@pytest.mark.parametrize("buckets", [1, 7, 10_000_000_000])
def test_hashed_ids_are_those_of_the_strings_alone(buckets: int) -> None:
    """FarmHash64, of present and past items alike, from 1; padding is still 0."""
    encoder = encoder_of({}, tables={"item_id": {"buckets": buckets}}, query_length=1)
    raw = raw_lists(["live", ""], [["y", "x"], ["x"]], [[("", "x", "click", 0.0)], []])
    encoded = encoder(raw)
    x, y = (farmhash.fingerprint64(text) % buckets + 1 for text in ("x", "y"))
    assert encoded["item_id"].numpy().tolist() == [[y, x], [x, 0]]
    assert encoded["history_item_id"].numpy().tolist() == [[x], [0]]
    assert encoder.inputs.rows["item_id"] == 1 + buckets


def test_hashed_words_of_queries() -> None:
    encoder = encoder_of({}, tables={"query": {"buckets": 99}}, query_length=3)
    encoded = encoder(
        raw_lists(["Live jazz", ""], [["x"], ["x"]], [[("jazz", "x", "click", 0)], []])
    )
    live, jazz = (farmhash.fingerprint64(text) % 99 + 1 for text in ("live", "jazz"))
    assert encoded["query"].numpy().tolist() == [[live, jazz, 0], [0, 0, 0]]
    assert encoded["history_query"].numpy().tolist() == [[[jazz, 0, 0]], [[0, 0, 0]]]


def test_nothing_is_counted_of_what_is_hashed(log_dir: Path) -> None:
    encoder = Encoder.fit(log_dir, EncodingConfig(tables={"item_id": {"buckets": 50}}))
    assert "item_id" not in encoder.vocabularies
    assert set(encoder.vocabularies) == {"user_id", "query", "user_country", "context_device"} | {
        "item_artist"
    }
    assert encoder.inputs.rows.keys() == encoder.features.tables("string").keys()


def test_strings_share_buckets_as_often_as_chance_has_it() -> None:
    """n strings in B buckets: each is alone with probability (1 - 1 / B)^(n - 1)."""
    n, buckets = 20_000, 40_000
    ids = tf.strings.to_hash_bucket_fast([f"track:{number}" for number in range(n)], buckets)
    _, counts = np.unique(ids, return_counts=True)
    alone = (1 - 1 / buckets) ** (n - 1)
    deviation = np.sqrt(alone * (1 - alone) / n)
    assert abs((counts == 1).sum() / n - alone) < 5 * deviation


def test_a_table_that_there_is_not_is_one_sentence(log_dir: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"encoding\.tables: got 'track', expected one of user_id, "
    ):
        Encoder.fit(log_dir, EncodingConfig(tables={"track": {"buckets": 50}}))


def test_unseen_tokens_of_present_and_past_queries_share_a_bucket() -> None:
    encoder = encoder_of(VOCABULARIES, query_length=2, oov_buckets=50)
    encoded = encoder(raw_lists(["Blues"], [["x"]], [[("blues", "x", "click", 0.0)]]))
    assert encoded["query"][0, 0] == encoded["history_query"][0, 0, 0]
    assert encoded["query"][0, 0] > len(VOCABULARIES["query"])


def test_query_keeps_its_first_tokens() -> None:
    encoder = encoder_of(VOCABULARIES, query_length=2)
    encoded = encoder(raw_lists(["live jazz 宇"], [["x"]], [[("宇live jazz", "x", "click", 0)]]))
    assert encoded["query"].numpy().tolist() == [[1, 2]]
    assert encoded["history_query"].numpy().tolist() == [[[3, 1]]]


def test_words_are_kept_before_pairs_of_characters() -> None:
    vocabulary = {**VOCABULARIES, "query": ["live", "宇", "多", "宇多"]}
    query = raw_lists(["宇多 live"], [["x"]], [[]])
    for length, expected in [(3, [2, 3, 1]), (4, [2, 3, 1, 4]), (5, [2, 3, 1, 4, 0])]:
        encoder = encoder_of(vocabulary, query_length=length)
        assert encoder(query)["query"].numpy().tolist() == [expected]


def test_history_keeps_its_newest_entries_and_candidates_are_never_cut() -> None:
    encoder = encoder_of(VOCABULARIES, history_length=2)
    past = [
        ("live", "x", "click", 1.0),
        ("jazz", "y", "conversion", 2.0),
        ("宇", "x", "click", 3.0),
    ]
    encoded = encoder(raw_lists([""], [["x", "y", "x", "y"]], [past]))
    assert encoded["history_item_id"].numpy().tolist() == [[1, 2]]
    assert encoded["history_action"].numpy().tolist() == [[1, 2]]
    assert encoded["history_age"].numpy().tolist() == [[1.0, 2.0]]
    assert encoded["history_query"].numpy()[0, :, 0].tolist() == [1, 2]
    assert encoded["item_id"].shape == (1, 4)


def test_a_batch_without_any_history() -> None:
    encoder = encoder_of(VOCABULARIES, query_length=3)
    encoded = encoder(raw_lists(["live"], [["x"]], [[]]))
    assert encoded["history_query"].shape == (1, 0, 3)
    assert encoded["history_item_id"].shape == encoded["history_age"].shape == (1, 0)


def test_queries_as_bytes_that_are_not_utf8() -> None:
    encoder = encoder_of(VOCABULARIES, query_length=3)
    assert encoder(raw_lists([b"\xff live"], [["x"]], [[]]))["query"].numpy()[0, -1] == 0
    assert 1 in encoder(raw_lists([b"\xff live"], [["x"]], [[]]))["query"].numpy()


def test_a_vocabulary_of_nothing_but_empty_queries(tmp_path: Path, tiny) -> None:
    rows = [tiny.row(number, query="", history_query=["", "…"], history=2) for number in range(8)]
    config = EncodingConfig(query_length=2, oov_buckets=2)
    encoder = Encoder.fit(tiny.write(tmp_path / "log", rows), config)
    known = encoder.inputs.rows["query"]
    raw = tiny.raw(rows)
    assert not encoder(raw)["query"].numpy().any()
    raw["query"] = tf.constant(["jazz"] * len(rows))
    ids = encoder(raw)["query"].numpy()
    assert (ids[:, 0] > 0).all()
    assert ids.max() < known


# --- what is learnt ---


def values_of(log_dir: Path, columns: list[str]) -> list:
    """All values of some columns of the training split, one after the other."""
    rows = pq.read_table(log_dir / "train").to_pylist()
    found = [row[column] for column in columns for row in rows]
    return [x for value in found for x in (value if isinstance(value, list) else [value])]


def in_order(strings: list[str]) -> list[str]:
    counts = collections.Counter(strings)
    return sorted(counts, key=lambda s: (counts[s], s.encode()), reverse=True)


def assert_vocabulary(encoder: Encoder, table: str, expected: list[str]) -> None:
    ids = encoder.ids(table, tf.constant(expected, tf.string)).numpy()
    assert ids.tolist() == list(range(len(expected)))
    assert encoder.inputs.rows[table] == 1 + len(expected) + encoder.encoding.oov_buckets


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("user_id", ["user_id"]),
        ("user_country", ["user_country"]),
        ("item_id", ["item_id", "history_item_id"]),
        ("item_artist", ["item_artist", "history_item_artist"]),
    ],
)
def test_vocabularies_hold_what_the_training_split_holds(
    encoder: Encoder, log_dir: Path, table: str, columns: list[str]
) -> None:
    assert_vocabulary(encoder, table, in_order(values_of(log_dir, columns)))


def test_query_vocabulary_holds_tokens_of_present_and_past(encoder, log_dir: Path) -> None:
    queries = values_of(log_dir, ["query", "history_query"])
    assert_vocabulary(encoder, "query", in_order([token for q in queries for token in words(q)]))


def test_vocabulary_is_ordered_by_count_then_by_bytes_both_descending(tmp_path, tiny) -> None:
    # "ÿ" is above "z" in bytes too, but rarer; the last rows are not for training.
    countries = ["a", "a", "a", "z", "b", "b", "ÿ", "z", *["late"] * 8]
    rows = [tiny.row(number, user_country=country) for number, country in enumerate(countries)]
    log = tiny.write(tmp_path / "log", rows)
    expected = ["a", "z", "b", "ÿ"]
    assert_vocabulary(Encoder.fit(log), "user_country", expected)
    kept = Encoder.fit(log, EncodingConfig(vocabulary_size=2))
    assert_vocabulary(kept, "user_country", expected[:2])


def test_vocabulary_has_no_empty_strings_and_no_line_breaks(tmp_path: Path, tiny) -> None:
    countries = ["", "", "x\ny", "x\ry", "x y", "x y", "", ""]
    rows = [tiny.row(number, user_country=country) for number, country in enumerate(countries * 2)]
    encoder = Encoder.fit(tiny.write(tmp_path / "log", rows))
    assert_vocabulary(encoder, "user_country", ["x y"])


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("user_plays", ["user_plays"]),
        ("context_hour", ["context_hour"]),
        ("initial_score", ["initial_score"]),
        ("item_popularity", ["item_popularity", "history_item_popularity"]),
    ],
)
def test_moments_are_those_of_log_values(encoder, log_dir, table, columns) -> None:
    values = np.array(values_of(log_dir, columns), np.float64)
    x = np.sign(values) * np.log1p(np.abs(values))
    mean, deviation = encoder.moments(table)
    np.testing.assert_allclose(mean, x.mean(), rtol=1e-5)
    np.testing.assert_allclose(deviation, x.std(), rtol=1e-5)


def test_floats_are_standardised_and_zero_at_padding(encoder, log_dir: Path, tiny) -> None:
    rows = tiny.rows(7)
    raw = tiny.raw(rows)
    encoded = encoder(raw)
    real = mask_of(raw, Axis.ITEM).numpy()
    mean, deviation = (float(x) for x in encoder.moments("item_popularity"))
    expected = np.where(real, (np.log1p(raw["item_popularity"]) - mean) / deviation, 0)
    assert not real.all()
    np.testing.assert_allclose(encoded["item_popularity"], expected, rtol=1e-5, atol=1e-6)
    everything = values_of(log_dir, ["user_plays"])
    plays = tiny.raw([tiny.row(0)] * len(everything))
    plays["user_plays"] = tf.constant(everything, tf.float32)
    standard = encoder(plays)["user_plays"].numpy()
    np.testing.assert_allclose([standard.mean(), standard.std()], [0, 1], atol=1e-5)


@given(st.lists(st.floats(-(2**99), 2**99, width=32), min_size=1, max_size=8))
@settings(max_examples=40)
def test_compress_is_the_signed_logarithm(values: list[float]) -> None:
    x = np.array(values)
    expected = np.sign(x) * np.log1p(np.abs(x))
    np.testing.assert_allclose(compress(tf.constant(values)), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("value", [0.0, 0.1, 3.0, 1000.0, 1e30])
@pytest.mark.parametrize("lists", [2, 43])
def test_a_column_that_never_changes_is_not_divided_by_nothing(
    tmp_path: Path, tiny, value: float, lists: int
) -> None:
    rows = [tiny.row(number, history=0, candidates=1, user_plays=value) for number in range(lists)]
    rows += [tiny.row(number, user_plays=value) for number in range(lists, 2 * lists)]
    encoder = Encoder.fit(tiny.write(tmp_path / "log", rows))
    mean, deviation = (float(x) for x in encoder.moments("user_plays"))
    assert deviation == 1.0
    np.testing.assert_allclose(mean, np.log1p(value), rtol=1e-6)


def test_a_column_without_values_has_mean_0_and_deviation_1(tmp_path: Path, tiny) -> None:
    spec = FeatureSpec(
        dataset="new",
        item={"age": "float"},
        history_item={"age": "float"},
        user={"seen": "float"},
    )
    rows = [
        {
            **{c.name: [] for c in spec.columns() if c.axis is Axis.HISTORY},
            "list_id": f"{number}",
            "user_id": "u",
            "query": "q",
            "timestamp": number,
            "user_seen": 0.0,
            "item_id": ["a"],
            "item_age": [1.0],
            "click": [0],
            "conversion": [0],
        }
        for number in range(4)
    ]
    encoder = Encoder.fit(tiny.write(tmp_path / "log", rows, spec))
    mean, deviation = (float(x) for x in encoder.moments("user_seen"))
    assert (mean, deviation) == (0.0, 1.0)
    assert_vocabulary(encoder, "item_id", ["a"])


def test_nothing_is_learnt_from_validation_or_test(tmp_path: Path, tiny) -> None:
    rows = tiny.rows(16)
    late = [tiny.row(number, query="unheard", user_plays=1e6) for number in range(8, 16)]
    before = Encoder.fit(tiny.write(tmp_path / "a", rows))
    after = Encoder.fit(tiny.write(tmp_path / "b", [*rows[:8], *late]))
    before.save(tmp_path / "a.json")
    after.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_progress_counts_lists(log_dir: Path) -> None:
    seen: list[int] = []
    Encoder.fit(log_dir, progress=seen.append)
    assert sum(seen) == pq.read_table(log_dir / "train").num_rows


# --- laws ---


def assert_same(
    one: dict[str, tf.Tensor], other: dict[str, tf.Tensor], *, rtol: float = 0.0
) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_allclose(one[name], other[name], rtol=rtol, err_msg=name)


def test_adding_padding_adds_nothing_but_padding(encoder: Encoder, tiny, pad_more) -> None:
    raw = tiny.raw(tiny.rows(10))
    more = encoder(pad_more(raw, items=3, history=5))
    shorter = encoder(raw)
    assert_same(
        shorter,
        {
            name: values[tuple(slice(size) for size in shorter[name].shape)]
            for name, values in more.items()
        },
    )
    for name, values in more.items():
        for axis, size in enumerate(shorter[name].shape):
            rest = np.take(values.numpy(), range(size, values.shape[axis]), axis=axis)
            assert not rest.any(), name
    assert more["item_id"].shape[1] == shorter["item_id"].shape[1] + 3
    # History is cut to its configured length, padding or not.
    assert more["history_item_id"].shape[1] == encoder.encoding.history_length


def test_a_list_is_encoded_the_same_alone_and_in_a_batch(encoder: Encoder, tiny) -> None:
    rows = tiny.rows(10)
    together = encoder(tiny.raw(rows))
    for number, row in enumerate(rows):
        alone = encoder(tiny.raw([row]))
        for name, values in alone.items():
            within = together[name][number : number + 1]
            np.testing.assert_array_equal(
                values, within[tuple(slice(size) for size in values.shape)], err_msg=name
            )


def test_the_same_eagerly_and_in_a_graph(encoder: Encoder, tiny) -> None:
    raw = tiny.raw(tiny.rows(6), labels=False)
    # A graph folds constants, so that the last bit of a quotient may differ.
    assert_same(encoder(raw), tf.function(encoder.__call__)(raw), rtol=1e-6)


def test_labels_and_list_ids_are_no_inputs(encoder: Encoder, tiny) -> None:
    raw = tiny.raw(tiny.rows(6))
    encoded = encoder(raw)
    left_out = {"list_id", "timestamp", "click", "conversion"}
    assert encoded.keys() == {column.name for column in tiny.spec.columns()} - left_out
    assert_same(encoded, encode(raw, encoder.inputs, encoder))


def test_saved_and_loaded_it_encodes_the_same(encoder: Encoder, tiny, tmp_path: Path) -> None:
    encoder.save(tmp_path / "encoder.json")
    loaded = Encoder.load(tmp_path / "encoder.json")
    assert loaded.inputs == encoder.inputs
    assert loaded.features == encoder.features
    raw = tiny.raw([*tiny.rows(8), tiny.row(99, query="never 聞いた")])
    assert_same(encoder(raw), loaded(raw))
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "encoder.json").read_bytes()
