"""Every layer through one harness, whichever of its parts are switched on."""

from __future__ import annotations

import pytest
import tensorflow as tf
from check_layer import check_layer
from layer_samples import (
    ATTENTION_INPUTS,
    HEADS,
    ITEMS,
    LIST_INPUTS,
    QDIR_INPUTS,
    B,
    D,
    N,
    normal_of,
)

from piano_tf import layers
from piano_tf.config import ModelConfig, PretrainingConfig
from piano_tf.data.encoding import Encoder
from piano_tf.features import Axis
from piano_tf.layers.pretrained_vectors import Pretrained
from piano_tf.masks import mask_of

normal = normal_of(2)
P, FOLDS = 4, 2
ON_OFF = [True, False]
# A bias on attention keys adds the same to all logits of a query, which softmax does not see.


@pytest.fixture(scope="module")
def inputs(encoder: Encoder) -> dict:
    return encoder.inputs.model_dump(mode="json")


def pretrained_for(inputs: dict, batch: dict[str, tf.Tensor]) -> Pretrained:
    """Random vectors, looked up."""
    layer = layers.PretrainedVectors(inputs, P, FOLDS)
    layer.set_weights([normal(*weight.shape) for weight in layer.weights])
    return layer(batch)


@pytest.mark.parametrize("null_slot", ON_OFF)
@pytest.mark.parametrize("same", ON_OFF)
def test_history_attention(null_slot: bool, same: bool) -> None:
    check_layer(
        layers.HistoryAttention,
        {"units": D, "heads": HEADS, "null_slot": null_slot},
        ATTENTION_INPUTS if same else {**ATTENTION_INPUTS, "same": None},
        weights=4 + 1 + 2 * null_slot + same,  # projections, sharpness, null slot, match
    )


@pytest.mark.parametrize(
    "config",
    [{}, {"keys": "item"}, {"null_slot": False}, {"gate": False}, {"action_age": False}],
    ids=str,
)
def test_qdir(config: dict) -> None:
    parts = {"null_slot": 2, "gate": 2, "action_age": 1}
    check_layer(
        layers.QueryDrivenInterestRefiner,
        {"units": D, "heads": HEADS, **config},
        QDIR_INPUTS,
        # Projections, sharpness, match and norm, and what is switched on.
        weights=4 + 1 + 1 + 2 + sum(count for part, count in parts.items() if part not in config),
    )


@pytest.mark.parametrize("found", ON_OFF)
@pytest.mark.parametrize("node", ON_OFF)
def test_list_encoder(found: bool, node: bool) -> None:
    without = {name for name, kept in (("found", found), ("node", node)) if not kept}
    check_layer(
        layers.ListEncoder,
        {"units": D, "heads": HEADS, "blocks": 2, "dropout": 0.1, "max_rank": N},
        {name: None if name in without else values for name, values in LIST_INPUTS.items()},
        weights=2 + 1 + 2 * 12 + 2,  # projection, positions, blocks, norm
    )


@pytest.mark.parametrize("pre_norm", ON_OFF)
def test_self_attention_block(pre_norm: bool) -> None:
    check_layer(
        layers.SelfAttentionBlock,
        {"units": D, "heads": HEADS, "dropout": 0.2, "pre_norm": pre_norm},
        {"vectors": normal(B, N, D), "mask": ITEMS},
        weights=4 + 4 + 4,  # attention, network, norms
    )


@pytest.mark.parametrize(("conditioning", "own"), [("film", 2), ("concat", 0), ("none", 0)])
def test_ian(conditioning: str, own: int) -> None:
    def call(layer, interest, items):
        node = layer.start(interest)
        return node, layer(node, items)

    check_layer(
        layers.InformationAggregationNode,
        {"units": D, "conditioning": conditioning},
        {"interest": normal(B, D), "items": normal(B, N, D)},
        call=call,
        weights=1 + 1 + own + 8,  # token, from interest, scale and shift, head
    )


def test_entire_space_head() -> None:
    check_layer(layers.EntireSpaceHead, {"units": D}, {"vectors": normal(B, N, D)}, weights=4 * 2)


@pytest.mark.parametrize(("ids", "vectors"), [(True, False), (True, True), (False, True)])
def test_query_encoder(ids: bool, vectors: bool) -> None:
    tokens = tf.constant([[[1, 2, 0]], [[3, 0, 0]]])
    check_layer(
        layers.QueryEncoder,
        {"rows": 4, "units": D, "ids": ids},
        {"tokens": tokens, "pretrained": normal(2, 1, P) if vectors else None},
        weights=ids + vectors,
    )


@pytest.mark.parametrize("ids", ON_OFF)
@pytest.mark.parametrize("known", ON_OFF)
def test_item_encoder(inputs: dict, batch, ids: bool, known: bool) -> None:
    """With and without pre-trained vectors and match features."""
    check_layer(
        layers.ItemEncoder,
        {"inputs": inputs, "units": D, "ids": ids},
        {
            "batch": batch,
            "mask": mask_of(batch, Axis.ITEM),
            "pretrained": pretrained_for(inputs, batch) if known else None,
            "match": normal(*batch["item_id"].shape, 7) if known else None,
        },
        weights=ids + 1 + 2 + 2 + 2 * known,  # ids, artists, projections, that of matches
    )


@pytest.mark.parametrize("ids", ON_OFF)
def test_user_encoder(inputs: dict, batch, ids: bool) -> None:
    history = normal(*batch["history_item_id"].shape, D)
    check_layer(
        layers.UserEncoder,
        {"inputs": inputs, "units": D, "ids": ids},
        {"batch": batch, "history": history, "history_mask": mask_of(batch, Axis.HISTORY)},
        weights=ids + 2 + 2,  # users, countries and devices, projection
    )


def test_pretrained_vectors(inputs: dict, batch) -> None:
    check_layer(
        layers.PretrainedVectors,
        {"inputs": inputs, "units": P, "folds": FOLDS},
        {"batch": batch},
        weights=3,  # taste, intent, words
        frozen=3,
    )


@pytest.mark.parametrize("vectors", ON_OFF)
def test_match_features(inputs: dict, batch, vectors: bool) -> None:
    check_layer(
        layers.MatchFeatures,
        {"inputs": inputs},
        {"batch": batch, "pretrained": pretrained_for(inputs, batch) if vectors else None},
        weights=0,
    )


@pytest.mark.parametrize("known", ON_OFF)
def test_list_input_encoder(inputs: dict, batch, known: bool) -> None:
    """With and without pre-trained vectors and match features."""
    pretraining = PretrainingConfig(width=P, folds=FOLDS) if known else None
    config = ModelConfig(width=D, heads=1, ids=True, match=known, pretraining=pretraining)

    def call(layer, batch):
        lists = layer(batch)
        return lists.items, lists.query, lists.user, lists.past_items, lists.past_queries

    check_layer(
        layers.ListInputEncoder,
        {"inputs": inputs, "config": config.model_dump(mode="json")},
        {"batch": batch},
        call=call,
        # Queries, items and listeners; and with vectors three tables and two projections.
        weights=1 + 6 + 5 + 6 * known,
        frozen=3 * known,
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.QueryDrivenInterestRefiner(8, 3),
        lambda: layers.HistoryAttention(8, 3),
        lambda: layers.SelfAttention(8, 3),
        lambda: layers.SelfAttentionBlock(8, 3),
        lambda: layers.ListEncoder(8, 3, blocks=1),
    ],
)
def test_heads_must_divide_the_width(make) -> None:
    with pytest.raises(ValueError, match="units 8 is not a multiple of heads 3"):
        make()


def test_the_mask_is_where_ids_are() -> None:
    raw = {"item_id": tf.constant([["a", ""]]), "history_item_id": tf.constant([[""]])}
    encoded = {"item_id": tf.constant([[7, 0]]), "history_item_id": tf.constant([[0]])}
    for one in (raw, encoded):
        assert mask_of(one, Axis.ITEM).numpy().tolist() == [[True, False]]
        assert mask_of(one, Axis.HISTORY).numpy().tolist() == [[False]]


def test_calibration() -> None:
    def call(layer, click, conversion):
        return layer({"click": click, "conversion": conversion})

    check_layer(
        layers.Calibration,
        {},
        {"click": normal(B, N), "conversion": normal(B, N) - 1},
        call=call,
        weights=3,
        frozen=3,
    )
