"""PIANO: each of its switches, on and off."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from piano_tf.config import ModelConfig, PIANOConfig, PretrainingConfig
from piano_tf.data.encoding import Encoder
from piano_tf.features import LABELS, OUTPUTS, Axis
from piano_tf.masks import mask_of
from piano_tf.models import PIANO
from piano_tf.models.base import independent_list_logit

Batch = dict[str, tf.Tensor]
Make = Callable[..., PIANO]
# Inputs without what reads the history beside QDIR: it alone then tells of past queries.
PLAIN = {"match": False, "pretraining": None, "ids": True}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
OFF = [
    {"keys": "item"},
    {"keys": "none"},
    {"null_slot": False},
    {"gate": False},
    {"action_age": False},
    {"interest_match": False},
    {"second_pass": False},
    {"exact_match": False},
    {"token": False},
    {"personal_token": True},
    {"list_residual": False},
    {"conditioning": "concat"},
    {"conditioning": "none"},
    PIANOConfig().model_dump(),
]


@pytest.fixture(scope="module")
def batch(tiny, encoder: Encoder) -> Batch:
    """Lists of 1 to 6 candidates with histories of 0 to 4 entries."""
    return encoder(tiny.raw(tiny.rows(12)))


@pytest.fixture(scope="module")
def make(encoder: Encoder, tiny_model: ModelConfig, batch: Batch) -> Make:
    """A PIANO of random weights, whole but for what is given: parts, and further settings."""

    def made(parts: dict | None = None, **config) -> PIANO:
        fields = tiny_model.model_dump()
        fields |= {"piano": {**fields["piano"], **(parts or {})}, **config}
        model = PIANO(encoder.inputs, ModelConfig.model_validate(fields))
        model(batch)
        return randomise(model)

    return made


def randomise(model: PIANO) -> PIANO:
    rng = np.random.default_rng(11)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(0, 0.4, weight.shape))
    if model.config.pretraining is not None:
        model.assign_vectors(random_vectors(model))
    return model


def random_vectors(model: PIANO) -> dict[str, np.ndarray]:
    """As `pretrain` might have learnt them; row 0 pads."""
    rng = np.random.default_rng(2)
    found = {n: rng.normal(size=t.shape) for n, t in model.encoder.pretrained.tables.items()}
    for table in found.values():
        table /= np.linalg.norm(table, axis=-1, keepdims=True)
        table[:, 0] = 0
    return found


def names_of(model: PIANO) -> list[str]:
    """Of all weights, without the numbers that Keras adds where a name is there already."""
    return sorted(re.sub(r"_\d+(?=/)", "", weight.name) for weight in model.weights)


def changed(batch: Batch, *columns: str) -> Batch:
    """Other values where columns are real: the next id, another action, a later day."""
    found = dict(batch)
    for column in columns:
        values = batch[column]
        if column == "history_action":
            other = 3 - values
        elif values.dtype.is_floating:
            other = values + 30
        else:
            other = values % 5 + 1
        real = values != 0 if column != "history_age" else mask_of(batch, Axis.HISTORY)
        found[column] = tf.where(real, other, values)
        assert np.any(found[column] != values)
    return found


def gap(model: PIANO, one: Batch, other: Batch) -> float:
    """The largest difference of any output where it means something."""
    mask = mask_of(one, Axis.ITEM).numpy()
    gaps = {name: np.abs(model(one)[name] - model(other)[name]) for name in OUTPUTS}
    return max(x[mask].max() if x.ndim == 2 else x.max() for x in gaps.values())


# --- what is off is not there ---


@pytest.mark.parametrize(
    ("off", "gone"),
    [
        (
            {"keys": "none"},
            {"query_driven_interest_refiner", "interest_match", "history_attention", "null_"},
        ),
        ({"null_slot": False}, {"null_key", "null_value", "/null:"}),
        ({"gate": False}, {"/gate/"}),
        ({"action_age": False}, {"/action_age/"}),
        ({"interest_match": False}, {"interest_match"}),
        ({"second_pass": False}, {"piano/history_attention"}),
        ({"exact_match": False}, {"/match/"}),
        ({"token": False}, {"information_aggregation_node", "token:"}),
        ({"conditioning": "none"}, {"/scale/", "/shift/"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_part_that_is_off_has_no_weights(make: Make, off: dict, gone: set[str]) -> None:
    def left(model: PIANO) -> list[str]:
        return [name for name in names_of(model) if not any(part in name for part in gone)]

    whole, without = make(), make(off)
    for part in gone:
        assert any(part in name for name in names_of(whole)), part
    assert names_of(without) == left(without) == left(whole)


def test_inputs_that_are_off_have_no_weights(make: Make) -> None:
    parts = {"item_id", "user_id", "query_encoder/token", "match_projection", "taste", "words"}

    def missing(**off) -> set[str]:
        names = names_of(make(**off))
        return {part for part in parts if not any(part in name for name in names)}

    assert missing() == set()
    assert missing(ids=False) == {"item_id", "user_id", "query_encoder/token"}
    assert missing(match=False) == {"match_projection"}
    assert missing(pretraining=None) == {"taste", "words"}


@pytest.mark.parametrize("off", [{}, *OFF], ids=str)
def test_every_weight_learns_whatever_is_off(make: Make, batch: Batch, off: dict) -> None:
    model = make(off)
    for weight in model.weights:
        if "hidden/bias" in weight.name:  # or all of a small layer's units may be dead
            weight.assign(tf.abs(weight) + 1)
    # What is the same for all entries softmax does not see; a null slot's is another.
    unseen = ["key/bias"] if model.config.piano.null_slot else ["key/bias", "logits/bias"]
    with tf.GradientTape() as tape:
        total = tf.add_n([tf.reduce_sum(tf.sigmoid(x)) for x in model(batch).values()])
    gradients = tape.gradient(total, model.trainable_weights)
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert gradient is not None, weight.name
        if not any(part in weight.name for part in unseen):
            assert np.abs(tf.convert_to_tensor(gradient)).max() > 1e-9, weight.name


@pytest.mark.parametrize("off", [{}, *OFF], ids=str)
def test_every_configuration_survives_json(make: Make, batch: Batch, off: dict) -> None:
    model = make(off)
    again = PIANO.from_config(json.loads(json.dumps(model.get_config())))
    assert again.config == model.config
    assert again.config.piano.model_dump().items() >= off.items()
    again(batch)
    again.set_weights(model.get_weights())
    for name, values in model(batch).items():
        np.testing.assert_array_equal(again(batch)[name], values, err_msg=name)


# --- QDIR and the second pass ---


def test_without_keys_past_queries_say_nothing(make: Make, batch: Batch) -> None:
    other = changed(batch, "history_query", "history_action", "history_age")
    assert gap(make({"keys": "none"}, **PLAIN), batch, other) == 0
    assert gap(make(**PLAIN), batch, other) > 0.01
    # Past items stay in the profile.
    assert gap(make({"keys": "none"}, **PLAIN), batch, changed(batch, "history_item_id")) > 0.01


def test_action_and_age_matter_only_where_keys_know_them(make: Make, batch: Batch) -> None:
    for column in ("history_action", "history_age"):
        other = changed(batch, column)
        assert gap(make({"action_age": False}, match=False), batch, other) == 0
        assert gap(make(match=False), batch, other) > 0.001
    # Match features tell of age whatever keys know.
    assert gap(make({"action_age": False}), batch, changed(batch, "history_age")) > 0.001


@pytest.mark.parametrize(
    ("keys", "seen", "unseen"),
    [("query", "history_query", "history_item_id"), ("item", "history_item_id", "history_query")],
)
def test_attention_compares_what_keys_says(make: Make, batch: Batch, keys, seen, unseen) -> None:
    model = make({"keys": keys, "exact_match": False}, **PLAIN)
    before = model.attention(batch)
    np.testing.assert_array_equal(model.attention(changed(batch, unseen)), before)
    assert np.abs(model.attention(changed(batch, seen)) - before).max() > 0.01


@pytest.mark.parametrize("null_slot", [True, False])
def test_attention_sums_to_one_over_null_slot_and_past(make: Make, batch: Batch, null_slot) -> None:
    model = make({"null_slot": null_slot})
    attention = model.attention(batch).numpy()
    past = mask_of(batch, Axis.HISTORY).numpy()
    lists, heads = len(past), model.config.heads
    assert attention.shape == (lists, heads, 1 + past.shape[1])
    anything = null_slot | past.any(axis=1)
    assert null_slot or not anything.all()
    expected = np.repeat(anything[:, np.newaxis], heads, axis=1)
    np.testing.assert_allclose(attention.sum(axis=-1), expected, rtol=1e-5)
    entries = attention[..., 1:].transpose(0, 2, 1)
    assert (entries[past] > 0).all()
    assert not entries[~past].any()
    assert (attention[..., 0] > 0).all() == null_slot


def test_attention_without_qdir_is_one_sentence(make: Make, batch: Batch) -> None:
    with pytest.raises(ValueError, match=r"model\.piano\.keys is 'none'") as fault:
        make({"keys": "none"}).attention(batch)
    assert "\n" not in str(fault.value)


def test_without_a_second_pass_candidates_see_the_past_through_the_interest(make, batch) -> None:
    """With QDIR's gate shut, past queries reach the candidates by the second pass or not at all."""
    other = changed(batch, "history_query")
    for second_pass in (True, False):
        model = make({"second_pass": second_pass}, **PLAIN)
        gate = model.qdir.gate_projection
        gate.set_weights([np.zeros(gate.kernel.shape), np.full(gate.bias.shape, -200.0)])
        difference = gap(model, batch, other)
        assert difference > 0.01 if second_pass else difference == 0


def test_the_interest_match_weighs_past_queries(make: Make, batch: Batch) -> None:
    """With QDIR's gate shut and no second pass, it alone tells what was asked in the past."""
    other = changed(batch, "history_query")
    for interest_match in (True, False):
        parts = {"interest_match": interest_match, "second_pass": False}
        model = make(parts, match=False)
        gate = model.qdir.gate_projection
        gate.set_weights([np.zeros(gate.kernel.shape), np.full(gate.bias.shape, -200.0)])
        difference = gap(model, batch, other)
        assert difference > 0.001 if interest_match else difference == 0


def test_there_is_no_interest_match_without_pretrained_vectors(make: Make) -> None:
    assert not any("interest_match" in name for name in names_of(make(pretraining=None)))


def test_without_a_gate_all_that_was_found_counts(make: Make, batch: Batch) -> None:
    """The same as a gate that is open."""
    gated, free = make(**PLAIN), make({"gate": False}, **PLAIN)
    gate = gated.qdir.gate_projection
    kept = [w for w in gated.trainable_weights if not any(w is own for own in gate.weights)]
    for weight, value in zip(free.trainable_weights, kept, strict=True):
        weight.assign(value)
    closed = gated(batch)
    gate.set_weights([np.zeros(gate.kernel.shape), np.full(gate.bias.shape, 200.0)])
    for name, values in free(batch).items():
        np.testing.assert_allclose(values, gated(batch)[name], err_msg=name, **CLOSE)
    assert np.abs(closed["click"] - gated(batch)["click"]).max() > 0.01


@pytest.mark.parametrize("column", ["history_query", "history_item_id"])
def test_an_exact_match_counts_beyond_what_is_alike(make: Make, batch: Batch, column: str) -> None:
    """Two ids of the same vector: only what compares ids can tell them apart."""
    here = "query" if column == "history_query" else "item_id"
    table = "query_encoder/token" if here == "query" else "item_encoder/item_id"
    present = batch[here][:, :1]
    if here == "query":
        past = tf.where(batch[column] != 0, batch["query"][:, tf.newaxis], 0)
        other = tf.where(past == past[..., :1], past % 5 + 1, past)
    else:
        past = tf.where(batch[column] != 0, present, 0)
        other = past % 5 + 1
    other = tf.where(past != 0, other, 0)
    same, twin = {**batch, column: past}, {**batch, column: other}
    assert np.any(past != other)
    for exact_match in (True, False):
        model = make({"exact_match": exact_match}, **PLAIN)
        (weight,) = (w for w in model.weights if table in w.name)
        weight.assign(tf.zeros_like(weight))
        difference = gap(model, same, twin)
        assert difference > 1e-3 if exact_match else difference == 0


# --- IAN ---


def test_without_a_token_candidates_of_a_list_are_independent(make: Make, batch: Batch) -> None:
    model = make({"token": False})
    outputs, mask = model(batch), mask_of(batch, Axis.ITEM)
    for label in LABELS:
        expected = independent_list_logit(outputs[label], mask)
        np.testing.assert_array_equal(outputs[f"list_{label}"], expected)
        with_token = make()(batch)
        alone = independent_list_logit(with_token[label], mask)
        assert np.abs(with_token[f"list_{label}"] - alone).max() > 0.01


def test_the_token_says_how_a_list_differs_from_independent_items(make: Make, batch: Batch) -> None:
    """What is added is the token's, whatever the items' own heads say."""
    model, mask = make({"conditioning": "none"}), mask_of(batch, Axis.ITEM)

    def differences() -> list[np.ndarray]:
        found = model(batch)
        alone = (independent_list_logit(found[label], mask) for label in LABELS)
        return [(found[f"list_{n}"] - x).numpy() for n, x in zip(LABELS, alone, strict=True)]

    before = differences()
    for weight in model.head.trainable_weights:
        weight.assign(0.5 * weight)
    for one, other in zip(differences(), before, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert (before[1] <= before[0]).all() and np.ptp(before[0]) > 0.01


def test_a_personal_token_starts_from_the_interest(make: Make) -> None:
    plain, personal = (names_of(make({"personal_token": on})) for on in (False, True))
    assert [name for name in personal if "from_interest" not in name] == plain
    assert len(personal) == len(plain) + 1


@pytest.mark.parametrize("conditioning", ["film", "concat"])
def test_conditioning_that_says_nothing_is_none(make: Make, batch: Batch, conditioning) -> None:
    """With W_s = W_b = 0, or where the head does not read z_0, items are as without."""
    parts = {"list_residual": False}
    model, plain = (make({**parts, "conditioning": one}) for one in (conditioning, "none"))
    before, width = model(batch), model.config.width
    head = (model.head.click_hidden, model.head.conversion_hidden)
    if conditioning == "film":
        for layer in (model.ian.scale, model.ian.shift):
            layer.kernel.assign(tf.zeros_like(layer.kernel))
    else:
        for layer in head:
            assert layer.kernel.shape[0] == 2 * width
            layer.kernel[width:].assign(tf.zeros([width, width]))
    own = [] if conditioning == "concat" else [model.ian.scale.kernel, model.ian.shift.kernel]
    kept = [w for w in model.trainable_weights if not any(w is each for each in own)]
    for weight, value in zip(plain.trainable_weights, kept, strict=True):
        weight.assign(value[:width] if value.shape != weight.shape else value)
    after, expected = model(batch), plain(batch)
    mask = mask_of(batch, Axis.ITEM).numpy()
    for label in LABELS:
        np.testing.assert_allclose(after[label][mask], expected[label][mask], **CLOSE)
        # What the list is expected to bring is read before the items are conditioned.
        np.testing.assert_allclose(after[f"list_{label}"], before[f"list_{label}"], **CLOSE)
        assert np.abs(after[label] - before[label])[mask].max() > 0.01


# --- ids and pre-trained vectors ---


def test_without_ids_and_vectors_who_and_what_say_nothing(make: Make, batch: Batch) -> None:
    other = changed(batch, "user_id", "item_id", "query")
    blind = make({"exact_match": False}, ids=False, match=False)
    assert gap(blind, batch, other) > 0.01
    blind.assign_vectors({name: 0 * table for name, table in random_vectors(blind).items()})
    assert gap(blind, batch, other) == 0
    assert gap(make(**PLAIN), batch, other) > 0.01


@pytest.mark.parametrize("ids", [True, False])
def test_vectors_that_are_assigned_are_used(make: Make, batch: Batch, ids: bool) -> None:
    model = make(ids=ids)
    before, tables = model(batch)["click"], random_vectors(model)
    trained = [weight.numpy() for weight in model.trainable_weights]
    for name, table in tables.items():  # each of them says something
        model.assign_vectors({**tables, name: -table})
        assert np.abs(model(batch)["click"] - before).max() > 1e-3, name
    model.assign_vectors(tables)
    np.testing.assert_array_equal(model(batch)["click"], before)
    for weight, value in zip(model.trainable_weights, trained, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_a_model_without_vectors_takes_none(make: Make, batch: Batch) -> None:
    model, tables = make(pretraining=None), random_vectors(make())
    before = model(batch)
    model.assign_vectors(tables)
    for name, values in model(batch).items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)


def test_vectors_may_be_of_any_width(make: Make, batch: Batch) -> None:
    model = make(pretraining=PretrainingConfig(width=3, folds=5))
    assert model.encoder.pretrained.tables["taste"].shape[::2] == (5, 3)
    assert np.isfinite(model(batch)["click"]).all()
