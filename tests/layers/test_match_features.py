"""What a candidate has to do with the past, counted again the slow way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from piano_tf.data.encoding import Encoder
from piano_tf.layers import MatchFeatures
from piano_tf.layers.match_features import same_item, same_query
from piano_tf.layers.pretrained_vectors import Pretrained

B, N, H, T, P = 24, 5, 6, 2, 4
SHARED, OF_SPACE, OF_LIST = 1, 5, 4  # features: string ones shared with the past, per space, list
RNG = np.random.default_rng(0)
LENGTHS = np.tile([6, 5, 4, 3, 2, 1, 0, 6], 3)
REAL = np.arange(H) < LENGTHS[:, np.newaxis]


def ids(highest: int, *shape: int) -> np.ndarray:
    """So few that many are equal."""
    return RNG.integers(1, highest + 1, shape)


def batch_of() -> dict[str, np.ndarray]:
    """Encoded lists; the last query is empty, and so are some past ones."""
    found = {
        "item_id": ids(4, B, N),
        "item_artist": ids(2, B, N),
        "query": ids(2, B, T),
        "history_query": ids(2, B, H, T),
        "history_item_id": ids(4, B, H),
        "history_item_artist": ids(2, B, H),
        "history_age": np.float32(RNG.exponential(30, (B, H))),
    }
    found["item_id"][:2, 4:] = 0
    found["query"][-1] = 0
    found["history_query"][:, 2] = 0
    for name, values in found.items():
        if name.startswith("history_"):
            values[~REAL] = 0
    return found


def vectors_of(batch: dict[str, np.ndarray]) -> Pretrained:
    """Random vectors of length 1; 0 at padding and of empty queries."""
    tables = [RNG.normal(size=(5, P)), RNG.normal(size=(5, P)), RNG.normal(size=(9, P))]
    for table in tables:
        table /= np.linalg.norm(table, axis=1, keepdims=True)
        table[0] = 0
    taste, intent, query = tables

    def number(tokens: np.ndarray) -> np.ndarray:
        return tokens @ [3, 1]  # a query's row

    now, past = batch["item_id"], batch["history_item_id"]
    found = (taste[now], taste[past], intent[now], intent[past])
    queries = (query[number(batch["query"])], query[number(batch["history_query"])])
    return Pretrained(*map(np.float32, (*found, *queries)))


BATCH = batch_of()
VECTORS = vectors_of(BATCH)


@pytest.fixture(scope="module")
def layer(encoder: Encoder) -> MatchFeatures:
    return MatchFeatures(encoder.inputs)


def tensors(batch: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values) for name, values in batch.items()}


def constants(vectors: Pretrained) -> Pretrained:
    return Pretrained(*map(tf.constant, vectors))


def largest(values: list[float]) -> float:
    return max([0.0, *values])


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def slow(x: dict[str, np.ndarray], v: Pretrained | None, b: int, i: int) -> Iterator[float]:
    """The features of candidate i of list b, an entry of the history at a time."""
    past = [t for t in range(x["history_item_id"].shape[1]) if x["history_item_id"][b, t]]
    recency = {t: 1 / (1 + np.log(1 + x["history_age"][b, t])) for t in past}
    asked = tuple(x["query"][b])
    again = [t for t in past if any(asked) and tuple(x["history_query"][b, t]) == asked]
    repeats = [t for t in past if x["history_item_id"][b, t] == x["item_id"][b, i]]
    others = [t for t in past if t not in repeats]
    yield np.log(1 + len(repeats))
    yield largest([recency[t] for t in repeats])
    yield float(any(t in again for t in repeats))
    yield np.log(1 + sum(x["history_item_artist"][b, t] == x["item_artist"][b, i] for t in past))
    if v is not None:
        near = {t: v.query[b] @ v.past_query[b, t] for t in past}
        weights = {t: np.exp(5 * near[t]) / sum(np.exp(5 * near[s]) for s in past) for t in past}
        for now, before in ((v.taste, v.past_taste), (v.intent, v.past_intent)):
            cosine = {t: now[b, i] @ before[b, t] for t in others}
            top = sorted([*cosine.values(), 0, 0, 0])[-3:]
            yield top[-1]
            yield mean(top)
            yield mean(list(cosine.values()))
            yield sum(weights[t] * cosine[t] for t in others)
            yield largest([cosine[t] for t in others if t in again])
        yield v.intent[b, i] @ v.query[b]
    yield np.log(1 + len(past))
    yield largest(list(recency.values()))
    yield np.log(1 + len(again))
    yield largest([recency[t] for t in again])
    if v is not None:
        yield mean(list(near.values()))
        yield largest(list(near.values()))


@pytest.mark.parametrize("vectors", [None, VECTORS], ids=["without vectors", "with vectors"])
def test_every_feature_is_its_formula(layer: MatchFeatures, vectors: Pretrained | None) -> None:
    found = layer(tensors(BATCH), None if vectors is None else constants(vectors)).numpy()
    width = 3 + SHARED + OF_LIST + (0 if vectors is None else 2 * OF_SPACE + 1 + 2)
    assert found.shape == (B, N, width)
    assert found.dtype == np.float32
    real = BATCH["item_id"] != 0
    expected = np.array([[[*slow(BATCH, vectors, b, i)] for i in range(N)] for b in range(B)])
    np.testing.assert_allclose(found[real], expected[real], rtol=1e-4, atol=1e-5)
    # Each is somewhere different from elsewhere, or the comparison above would say little.
    assert (np.ptp(expected[real], axis=0) > 0.1).all()


def test_same_query_and_same_item_are_where_ids_are_equal_and_real() -> None:
    query, item = same_query(tensors(BATCH)).numpy(), same_item(tensors(BATCH)).numpy()
    for b, t in np.ndindex(B, H):
        asked = tuple(BATCH["query"][b])
        equal = REAL[b, t] and any(asked) and asked == tuple(BATCH["history_query"][b, t])
        assert query[b, t] == equal
        for i in range(N):
            past = BATCH["history_item_id"][b, t]
            assert item[b, i, t] == (REAL[b, t] and BATCH["item_id"][b, i] == past)
    assert query.any()
    assert item.any()


@pytest.mark.parametrize("with_vectors", [True, False])
def test_padding_changes_nothing(layer: MatchFeatures, with_vectors: bool) -> None:
    """More of it, with whatever may stand there: ids are 0, ages and vectors are not."""

    def run(batch, vectors) -> np.ndarray:
        return layer(tensors(batch), constants(vectors) if with_vectors else None).numpy()

    def longer(x: np.ndarray, fill: float) -> np.ndarray:
        more = np.full((B, 3, *x.shape[2:]), fill, x.dtype)
        return np.concatenate([x, more], axis=1)

    expected = run(BATCH, VECTORS)
    batch = {
        name: longer(x, 7.0 if name == "history_age" else 0) if name.startswith("history_") else x
        for name, x in BATCH.items()
    }
    vectors = VECTORS._replace(
        past_taste=longer(VECTORS.past_taste, 9.0),
        past_intent=longer(VECTORS.past_intent, 9.0),
        past_query=longer(VECTORS.past_query, 0.5),
    )
    np.testing.assert_allclose(run(batch, vectors), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("with_vectors", [True, False])
def test_no_history_is_like_one_of_padding(layer: MatchFeatures, with_vectors: bool) -> None:
    alone = {n: x[6:7, :0] if n.startswith("history_") else x[6:7] for n, x in BATCH.items()}
    vectors = VECTORS._replace(
        **{name: getattr(VECTORS, name)[:, :0] for name in Pretrained._fields if "past" in name}
    )
    vectors = Pretrained(*(x[6:7] for x in vectors))
    found = layer(tensors(alone), constants(vectors) if with_vectors else None)
    expected = layer(tensors(BATCH), constants(VECTORS) if with_vectors else None)
    np.testing.assert_allclose(found, expected[6:7], rtol=1e-6)
    of_query = 3 + SHARED + 2 * OF_SPACE  # what alone can be known without a past
    known = {of_query} if with_vectors else set()
    assert set(np.flatnonzero(np.abs(found[0]).max(axis=0))) == known


def test_the_order_of_the_past_does_not_matter(layer: MatchFeatures) -> None:
    order = RNG.permutation(H)
    turned = {n: x[:, order] if n.startswith("history_") else x for n, x in BATCH.items()}
    vectors = VECTORS._replace(
        **{name: getattr(VECTORS, name)[:, order] for name in Pretrained._fields if "past" in name}
    )
    found = layer(tensors(turned), constants(vectors))
    expected = layer(tensors(BATCH), constants(VECTORS))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_future_does_not_break_it(layer: MatchFeatures) -> None:
    """An age below 0, of a clock that went wrong, counts as 0."""
    odd = {**BATCH, "history_age": -BATCH["history_age"]}
    now = {**BATCH, "history_age": 0 * BATCH["history_age"]}
    np.testing.assert_array_equal(layer(tensors(odd)), layer(tensors(now)))


@pytest.mark.parametrize("vectors", [None, VECTORS], ids=["without vectors", "with vectors"])
def test_without_queries_all_that_is_left_out_is_what_they_say(
    layer: MatchFeatures, encoder: Encoder, vectors: Pretrained | None
) -> None:
    alone = MatchFeatures(encoder.inputs, queries=False)

    def run(which: MatchFeatures, batch, vectors) -> np.ndarray:
        return which(tensors(batch), None if vectors is None else constants(vectors)).numpy()

    whole, part = run(layer, BATCH, vectors), run(alone, BATCH, vectors)
    other = {**BATCH, "history_query": RNG.permuted(BATCH["history_query"], axis=1)}
    turned = vectors and vectors._replace(past_query=RNG.permuted(vectors.past_query, axis=1))
    np.testing.assert_array_equal(run(alone, other, turned), part)
    told = (np.abs(run(layer, other, turned) - whole) > 1e-6).any(axis=(0, 1))
    np.testing.assert_array_equal(part, whole[..., ~told])
