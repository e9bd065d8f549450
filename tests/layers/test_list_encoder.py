"""The list encoder against its formula, and what it must not see."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from layer_samples import (
    HEADS,
    ITEM_COUNTS,
    ITEMS,
    B,
    D,
    N,
    dense,
    normal_of,
    normed,
    randomised,
)
from layer_samples import (
    LIST_INPUTS as LIST_INPUTS,
)

from piano_tf.layers import ListEncoder

normal = normal_of(9)


@pytest.fixture(scope="module")
def list_encoder() -> ListEncoder:
    return made(LIST_INPUTS)


def made(inputs: dict) -> ListEncoder:
    """An encoder for such inputs: its projection is as wide as what they hold."""
    layer = ListEncoder(D, HEADS, blocks=2, dropout=0.5, max_rank=4)
    layer(**inputs)
    return randomised(layer)


def real_of(found: tuple[tf.Tensor | None, tf.Tensor]) -> list[np.ndarray]:
    """The node if there is one, and what stands at real candidates."""
    node, items = found
    nodes = [] if node is None else [node.numpy()]
    return [*nodes, *(row[:size] for row, size in zip(items.numpy(), ITEM_COUNTS, strict=True))]


def assert_close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_it_sees_no_padding(list_encoder) -> None:
    expected = real_of(list_encoder(**LIST_INPUTS))
    loud = {**LIST_INPUTS, "rank": tf.where(ITEMS, LIST_INPUTS["rank"], 3)}
    noise = 1e3 * normal(B, N, D)
    for name in ("items", "found"):
        loud[name] = tf.where(ITEMS[..., tf.newaxis], LIST_INPUTS[name], noise)
    assert_close(real_of(list_encoder(**loud)), expected)
    longer = {
        **LIST_INPUTS,
        "items": tf.concat([LIST_INPUTS["items"], noise], axis=1),
        "found": tf.concat([LIST_INPUTS["found"], noise], axis=1),
        "rank": tf.concat([LIST_INPUTS["rank"]] * 2, axis=1),
        "mask": tf.pad(ITEMS, [[0, 0], [0, N]]),
    }
    assert_close(real_of(list_encoder(**longer)), expected)


def test_permuting_candidates_with_their_ranks_permutes_what_they_become(list_encoder) -> None:
    order = np.array([3, 0, 4, 1, 2])
    whole = {**LIST_INPUTS, "mask": tf.ones([B, N], tf.bool)}
    node, items = list_encoder(**whole)
    moved = {
        **whole,
        "items": tf.gather(whole["items"], order, axis=1),
        "found": tf.gather(whole["found"], order, axis=1),
        "rank": tf.gather(whole["rank"], order, axis=1),
    }
    same_node, permuted = list_encoder(**moved)
    np.testing.assert_allclose(same_node, node, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(permuted, tf.gather(items, order, axis=1), rtol=1e-4, atol=1e-5)
    # The initial rank does matter: candidates that move without theirs become something else.
    _, others = list_encoder(**{**moved, "rank": whole["rank"]})
    assert np.abs(others - permuted).max() > 0.1


def test_ranks_beyond_the_last_share_its_position(list_encoder) -> None:
    last = list_encoder.max_rank - 1
    shared = {**LIST_INPUTS, "rank": tf.minimum(LIST_INPUTS["rank"], last)}
    for one, other in zip(list_encoder(**LIST_INPUTS), list_encoder(**shared), strict=True):
        np.testing.assert_array_equal(one, other)
    far = {**LIST_INPUTS, "rank": LIST_INPUTS["rank"] + 10_000}
    assert all(np.isfinite(x).all() for x in list_encoder(**far))


def test_the_node_reads_the_list_and_is_read_by_it(list_encoder) -> None:
    node, items = list_encoder(**LIST_INPUTS)
    changed = LIST_INPUTS["items"] + tf.one_hot([N - 1], N)[0][:, tf.newaxis]
    other_node, _ = list_encoder(**{**LIST_INPUTS, "items": changed})
    assert np.abs(node - other_node)[0].max() > 1e-3
    # That candidate is padding in the second list, so that its node does not change.
    np.testing.assert_allclose(node[1], other_node[1], rtol=1e-5, atol=1e-6)
    _, other_items = list_encoder(**{**LIST_INPUTS, "node": -LIST_INPUTS["node"]})
    assert np.abs(items - other_items)[0].max() > 1e-3


def test_dropout_is_for_training_only(list_encoder) -> None:
    def run(**how) -> np.ndarray:
        return list_encoder(**LIST_INPUTS, **how)[0].numpy()

    np.testing.assert_array_equal(run(training=False), run())
    assert np.abs(run(training=True) - run()).max() > 1e-3


@pytest.mark.parametrize("found", [True, False])
@pytest.mark.parametrize("node", [True, False])
def test_it_is_its_formula(found: bool, node: bool) -> None:
    """A list and a candidate at a time; the blocks have a test of their own."""
    without = {name for name, kept in (("found", found), ("node", node)) if not kept}
    given = {name: None if name in without else values for name, values in LIST_INPUTS.items()}
    layer = made(given)
    z = real_of(layer(**given))
    assert len(z) == node + B
    x = {name: values.numpy() for name, values in LIST_INPUTS.items()}
    nodes = []
    for b, size in enumerate(ITEM_COUNTS):
        sequence = [x["node"][b]] if node else []
        for i in range(size):
            item, p, q = x["items"][b, i], x["interest"][b], x["query"][b]
            contrast = item - x["items"][b, :size].mean(axis=0)
            parts = [item, contrast, p, q, item * q, item * p]
            parts += [x["found"][b, i]] if found else []
            position = layer.position.embeddings.numpy()[min(i, layer.max_rank - 1)]
            sequence.append(dense(np.concatenate(parts), layer.projection) + position)
        sequence = tf.constant(np.array(sequence), tf.float32)[tf.newaxis]
        for block in layer.stack:
            sequence = block(sequence, tf.ones(sequence.shape[:2], tf.bool))
        expected = normed(sequence.numpy()[0], layer.norm)
        nodes.append(expected[0])
        np.testing.assert_allclose(z[node + b], expected[int(node) :], rtol=1e-3, atol=1e-4)
    if node:
        np.testing.assert_allclose(z[0], nodes, rtol=1e-3, atol=1e-4)


def test_without_a_node_the_candidates_see_but_one_another() -> None:
    given = {**LIST_INPUTS, "node": None}
    layer = made(given)
    node, items = layer(**given)
    assert node is None
    _, changed = layer(
        **{**given, "items": LIST_INPUTS["items"] + tf.one_hot([0], N)[0][:, tf.newaxis]}
    )
    assert np.abs(items - changed)[0, 1:].max() > 1e-3
