"""What every re-ranker obeys, one table over all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from permuted_lists import (
    READS_IN_ORDER,
    moved_inputs,
    moved_outputs,
    places_of,
    ranks,
)

from piano_tf import models
from piano_tf.config import ModelConfig
from piano_tf.data.batches import labels_of
from piano_tf.data.encoding import Encoder
from piano_tf.errors import ConfigError
from piano_tf.features import LABELS, OUTPUTS, Axis
from piano_tf.losses import RerankingLoss
from piano_tf.masks import mask_of
from piano_tf.metrics import NDCG
from piano_tf.models import REGISTRY, TREES, Reranker

Batch = dict[str, tf.Tensor]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
LISTS, LONGEST = 12, 6

# Few, for there are many models. All examples of a test may share what fixtures made for it, for
# no law changes its model.
FEW = settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Where a law cannot hold by design; tests/models/test_rivals.py has what holds in its place.
NO_POSITIONS = {
    "mir": "its candidates are a set: only their scores and features tell of the first stage",
    "setrank": "its candidates are a set: only their scores and features tell of the first stage",
}


def skip_where(name: str, reasons: dict[str, str]) -> None:
    if name in reasons:
        pytest.skip(f"{name}: {reasons[name]}")


def randomise(model: Reranker) -> Reranker:
    """Weights as training leaves them, so that no law holds because something is still 0.

    A wide layer's are smaller, or logits would leave the range where outputs differ.
    """
    rng = np.random.default_rng(11)
    for weight in model.trainable_weights:
        fan_in = weight.shape[0] if weight.shape.rank > 1 else 1
        weight.assign(rng.normal(0, min(0.6, 1.5 * fan_in**-0.5), weight.shape))
    for number, output in enumerate(OUTPUTS):  # no conversion is held at its click
        model.calibration.assign(output, 0.8, 1.1, 0.2 - 0.1 * number)
    if model.config.pretraining is not None:
        rows, pretraining = model.inputs_spec.rows, model.config.pretraining
        tables = {
            name: rng.normal(size=[pretraining.folds, rows[vocabulary], pretraining.width])
            for name, vocabulary in (
                ("taste", "item_id"),
                ("intent", "item_id"),
                ("words", "query"),
            )
        }
        for table in tables.values():
            table /= np.linalg.norm(table, axis=-1, keepdims=True)
            table[:, 0] = 0  # padding
        model.assign_vectors(tables)
    return model


@pytest.fixture(scope="module")
def batch(tiny, encoder: Encoder) -> Batch:
    """Lists of 1 to 6 candidates with histories of 0 to 4 entries."""
    return encoder(tiny.raw(tiny.rows(LISTS)))


@pytest.fixture(scope="module")
def built(encoder: Encoder, batch: Batch, tiny_model: ModelConfig) -> Callable[[str], Reranker]:
    known: dict[str, Reranker] = {}

    def built_by(name: str) -> Reranker:
        if name not in known:
            model = models.build(encoder.inputs, tiny_model.model_copy(update={"name": name}))
            model(batch)
            known[name] = randomise(model)
        return known[name]

    return built_by


@pytest.fixture
def model(built: Callable[[str], Reranker], name: str) -> Reranker:
    """Each re-ranker in turn, with random weights; not to be changed."""
    return built(name)


@pytest.fixture
def expected(model: Reranker, batch: Batch) -> Batch:
    """What it says of the batch as it is."""
    return model(batch)


@pytest.fixture
def copy(model: Reranker, batch: Batch) -> Reranker:
    """Another of the same weights, to be changed."""
    again = type(model).from_config(model.get_config())
    again(batch)
    again.set_weights(model.get_weights())
    return again


def real_of(outputs: Batch, batch: Batch, lists: slice = slice(None)) -> dict[str, np.ndarray]:
    """The outputs where they mean something, flat."""
    mask = mask_of(batch, Axis.ITEM).numpy()
    return {
        name: (values.numpy()[mask] if values.shape.rank == 2 else values.numpy()[lists])
        for name, values in outputs.items()
    }


def assert_same_outputs(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], err_msg=name, **CLOSE)


def head(batch: Batch, count: int) -> Batch:
    return {name: values[:count] for name, values in batch.items()}


def gradients_of(model: Reranker, batch: Batch, labels: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """The default loss, with consistency, and its gradient by every weight, dense."""
    with tf.GradientTape() as tape:
        outputs = model(batch, training=True)
        loss = RerankingLoss()(labels, outputs, mask_of(batch, Axis.ITEM))
    found = tape.gradient(loss, model.trainable_weights, unconnected_gradients="zero")
    return loss, [tf.convert_to_tensor(gradient) for gradient in found]


# --- what comes out ---


def test_four_outputs_of_the_right_shapes(model: Reranker, batch: Batch) -> None:
    outputs = model(batch)
    lists, items = batch["item_id"].shape
    assert set(outputs) == set(OUTPUTS)
    for name in LABELS:
        assert outputs[name].shape == (lists, items)
        assert outputs[f"list_{name}"].shape == (lists,)
    assert all(values.dtype == tf.float32 for values in outputs.values())


def test_conversion_is_never_likelier_than_click(model: Reranker, batch: Batch) -> None:
    outputs = real_of(model(batch), batch)
    assert (outputs["conversion"] <= outputs["click"] + 1e-5).all()
    assert (outputs["list_conversion"] <= outputs["list_click"] + 1e-5).all()


def test_candidates_of_a_list_differ(model: Reranker, batch: Batch) -> None:
    """Or the laws below would hold of a model that says nothing."""
    outputs = model(batch)
    mask = mask_of(batch, Axis.ITEM).numpy()
    for name in LABELS:
        spread = [np.ptp(row[real]) for row, real in zip(outputs[name].numpy(), mask, strict=True)]
        assert np.median([x for x, real in zip(spread, mask, strict=True) if real.sum() > 1]) > 0.01
        assert np.ptp(outputs[f"list_{name}"]) > 0.01


# --- padding ---


@FEW
@given(
    items=st.integers(0, 4),
    history=st.integers(0, 4),
    encoded_history=st.integers(0, 4),
)
@example(items=3, history=2, encoded_history=3)
def test_adding_padding_changes_nothing(
    model, batch, expected, encoder, tiny, pad_more, items, history, encoded_history
) -> None:
    """To lists and histories of a log, and to histories beyond what the encoder keeps of them."""
    more = encoder(pad_more(tiny.raw(tiny.rows(LISTS)), items=items, history=history))
    assert more["item_id"].shape[1] == batch["item_id"].shape[1] + items
    longer = {
        name: tf.pad(values, [[0, 0], [0, encoded_history], *([[0, 0]] * (values.shape.rank - 2))])
        if name.startswith("history_")
        else values
        for name, values in more.items()
    }
    assert_same_outputs(real_of(model(longer), longer), real_of(expected, batch))


def test_what_stands_at_padding_changes_nothing(model: Reranker, batch: Batch) -> None:
    """Attention to padding would show here, and so would padding in a mean."""
    loud = dict(batch)
    for name, values in batch.items():
        if values.shape.rank > 1 and name not in ("query", "item_id", "history_item_id"):
            axis = Axis.HISTORY if name.startswith("history_") else Axis.ITEM
            mask = mask_of(batch, axis)
            mask = mask[..., tf.newaxis] if values.shape.rank == 3 else mask
            other = 50.0 if values.dtype.is_floating else 1
            loud[name] = tf.where(mask, values, tf.cast(other, values.dtype))
            assert not np.array_equal(loud[name], values)
    assert_same_outputs(real_of(model(loud), loud), real_of(model(batch), batch))


def test_padding_does_not_matter_however_unlikely_the_real_items(copy, batch, pad_more) -> None:
    """Logits of -50 at real items, which a soft mask would not tell from padding."""
    outputs = dict(copy(batch))
    mask = mask_of(batch, Axis.ITEM)
    labels = {label: tf.cast(mask, tf.float32) for label in LABELS}
    sunk = {
        name: tf.where(mask, values - 50, 0) if values.shape.rank == 2 else values
        for name, values in outputs.items()
    }
    loud = {
        name: tf.where(mask, values, 50) if values.shape.rank == 2 else values
        for name, values in sunk.items()
    }
    loss = RerankingLoss()
    np.testing.assert_array_equal(loss(labels, loud, mask), loss(labels, sunk, mask))
    one, other = NDCG("click"), NDCG("click")
    one.update_state(labels, sunk, mask)
    other.update_state(labels, loud, mask)
    assert one.result() == other.result() == 1  # every real item is relevant


# --- batches ---


@FEW
@given(rows=st.lists(st.integers(0, LISTS - 1), min_size=1, max_size=LISTS))
@example(rows=[3])
@example(rows=[*range(LISTS)][::-1])
def test_the_composition_of_the_batch_changes_nothing(model, batch, expected, rows) -> None:
    """Whichever lists are in it, in whatever order, some of them more than once."""
    some, wanted = (
        {name: tf.gather(values, rows) for name, values in given.items()}
        for given in (batch, expected)
    )
    assert_same_outputs(real_of(model(some), some), real_of(wanted, some))


def test_other_lists_have_no_part_in_what_is_predicted_for_one(model, batch: Batch) -> None:
    changed = {
        name: tf.concat([values[:6], tf.roll(values[6:], 1, axis=0)], axis=0)
        for name, values in batch.items()
    }
    before, after = model(batch), model(changed)
    for name in OUTPUTS:
        np.testing.assert_allclose(after[name][:6], before[name][:6], err_msg=name, **CLOSE)


# --- permutations ---


@FEW
@given(order=st.permutations(range(LONGEST)))
@example(order=[4, 2, 0, 5, 1, 3])
def test_permuting_candidates_with_their_ranks_permutes_the_scores(
    name, model, batch, expected, order
) -> None:
    """The initial rank is the place in the list: where candidates move, the inputs' ranks do."""
    skip_where(name, READS_IN_ORDER)
    places = places_of(order, mask_of(batch, Axis.ITEM))
    moved, wanted = moved_inputs(batch, places), moved_outputs(expected, places)
    with ranks(places):
        found = model(moved)
    assert_same_outputs(real_of(found, moved), real_of(wanted, moved))


def test_the_initial_rank_matters(name: str, model: Reranker, batch: Batch) -> None:
    skip_where(name, NO_POSITIONS)
    whole = {name: values[5:6] for name, values in batch.items()}
    turned = {
        name: values[:, ::-1] if name.startswith(("initial_score", "item_")) else values
        for name, values in whole.items()
    }
    gap = np.abs(model(turned)["click"].numpy()[:, ::-1] - model(whole)["click"])
    assert gap.max() > 0.01


def test_a_rank_known_in_training_only_says_nothing_when_serving(
    name, encoder, batch: Batch, tiny_model
) -> None:
    skip_where(name, READS_IN_ORDER | NO_POSITIONS)
    config = tiny_model.model_copy(update={"name": name, "rank": "training"})
    model = models.build(encoder.inputs, config)
    model(batch)
    randomise(model)
    whole = {name: values[5:6] for name, values in batch.items()}
    turned = {
        name: values[:, ::-1] if name.startswith(("initial_score", "item_")) else values
        for name, values in whole.items()
    }
    gaps = [
        np.abs(
            model(turned, training=on)["click"].numpy()[:, ::-1]
            - model(whole, training=on)["click"]
        )
        for on in (False, True)
    ]
    assert gaps[0].max() < 1e-4
    assert gaps[1].max() > 0.01


# --- little to go by ---


def test_a_listener_without_history_gets_finite_scores(model, encoder, tiny) -> None:
    rows = [tiny.row(number, history=0) for number in range(3)]
    nobody = encoder(tiny.raw(rows))
    assert nobody["history_item_id"].shape[1] == 0
    outputs = model(nobody)
    assert all(np.isfinite(values).all() for values in outputs.values())
    # The same beside a listener with one, where the history is padding.
    beside = encoder(tiny.raw([*rows, tiny.row(9, history=4)]))
    for name, values in model(beside).items():
        np.testing.assert_allclose(values[:3], outputs[name], err_msg=name, **CLOSE)


def test_a_list_of_one(model: Reranker, encoder: Encoder, tiny) -> None:
    outputs = model(encoder(tiny.raw([tiny.row(1, candidates=1, history=1)])))
    assert outputs["click"].shape == (1, 1)
    assert all(np.isfinite(values).all() for values in outputs.values())


def test_an_unseen_world_gets_finite_scores(model: Reranker, encoder: Encoder, tiny) -> None:
    row = tiny.row(1, candidates=2, history=2)
    for name, value in row.items():
        if name not in ("list_id", "history_action") and isinstance(value, str):
            row[name] = "unheard of"
        elif isinstance(value, list) and isinstance(value[0], str) and name != "history_action":
            row[name] = [f"new {place}" for place in range(len(value))]
    row |= {"query": "", "history_query": ["", "…"], "history_age": [0.0, 1e6]}
    outputs = model(encoder(tiny.raw([row])))
    assert all(np.isfinite(values).all() for values in outputs.values())


def test_more_candidates_than_positions(model, encoder, tiny, tiny_model: ModelConfig) -> None:
    rows = [tiny.row(number, candidates=12) for number in range(2)]
    assert tiny_model.max_rank < 12
    outputs = model(encoder(tiny.raw(rows)))
    assert all(np.isfinite(values).all() for values in outputs.values())


@pytest.fixture
def with_empty(batch: Batch, tiny) -> tuple[Batch, Batch]:
    """Two lists and one of padding only, with their labels."""
    labels = labels_of(tiny.raw(tiny.rows(LISTS)))
    blank = {name: tf.zeros_like(values[:1]) for name, values in batch.items()}
    for name in ("user_id", "query"):
        blank[name] = batch[name][:1]
    lists = {name: tf.concat([values[5:7], blank[name]], axis=0) for name, values in batch.items()}
    return lists, {
        name: tf.concat([values[5:7], tf.zeros_like(values[:1])], axis=0)
        for name, values in labels.items()
    }


def test_a_list_of_padding_only_gives_no_nan_anywhere(model, with_empty) -> None:
    batch, labels = with_empty
    outputs = model(batch)
    assert all(np.isfinite(values).all() for values in outputs.values())
    alone = model(head(batch, 2))
    for name in OUTPUTS:
        np.testing.assert_allclose(outputs[name][:2], alone[name], err_msg=name, **CLOSE)
    loss, gradients = gradients_of(model, batch, labels)
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_a_list_of_padding_only_teaches_nothing(model: Reranker, with_empty) -> None:
    batch, labels = with_empty
    only = {name: values[2:] for name, values in batch.items()}
    loss, gradients = gradients_of(model, only, {name: y[2:] for name, y in labels.items()})
    assert loss == 0
    assert not any(np.any(gradient) for gradient in gradients)


# --- precision, configuration, saving, seeds ---


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_stays_finite(
    name, encoder, batch, with_empty, tiny_model, policy, precision: str
) -> None:
    policy(precision)
    tf.keras.utils.set_random_seed(0)
    model = models.build(encoder.inputs, tiny_model.model_copy(update={"name": name}))
    outputs = model(batch)
    assert model.compute_dtype == tf.keras.mixed_precision.global_policy().compute_dtype
    for output, values in outputs.items():
        assert values.dtype == tf.float32, output
        assert np.isfinite(values).all(), output
    loss, gradients = gradients_of(model, *with_empty)
    assert np.isfinite(loss)
    assert all(np.isfinite(tf.cast(gradient, tf.float32)).all() for gradient in gradients)
    assert any(np.any(gradient) for gradient in gradients)


def test_configuration_round_trip_is_exact(model: Reranker, batch: Batch) -> None:
    config = model.get_config()
    assert json.loads(json.dumps(config)) == config
    again = type(model).from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config
    again(batch)
    again.set_weights(model.get_weights())
    for name, values in model(batch).items():
        np.testing.assert_array_equal(again(batch)[name], values, err_msg=name)


@pytest.mark.parametrize("file", ["weights.h5", "checkpoint"])
def test_saved_weights_give_the_same_outputs(model, copy, batch, tmp_path: Path, file) -> None:
    copy.compile(metrics=[NDCG("click")])  # what is saved after training, is loaded without it
    copy.save_weights(str(tmp_path / file))
    again = type(model).from_config(model.get_config())
    again(batch)
    assert np.abs(again(batch)["click"] - model(batch)["click"]).max() > 0.01
    again.load_weights(str(tmp_path / file))
    for name, values in model(batch).items():
        np.testing.assert_array_equal(again(batch)[name], values, err_msg=name)


def test_a_seed_settles_everything(name, encoder, batch, tiny, tiny_model) -> None:
    config = tiny_model.model_copy(update={"name": name, "dropout": 0.5})
    labels = labels_of(tiny.raw(tiny.rows(LISTS)))

    def trained(seed: int) -> list[np.ndarray]:
        tf.keras.utils.set_random_seed(seed)
        model = models.build(encoder.inputs, config)
        for _ in range(2):
            _, gradients = gradients_of(model, batch, labels)
            for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
                weight.assign_sub(0.01 * gradient)
        return model.get_weights()

    first, again, other = trained(3), trained(3), trained(4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    skip_where(name, {"first_stage": "it starts from constants and drops nothing"})
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_dropout_is_for_training_only(name, encoder, batch: Batch, tiny_model) -> None:
    skip_where(name, {"first_stage": "it has nothing to drop"})
    config = tiny_model.model_copy(update={"name": name, "dropout": 0.5})
    model = models.build(encoder.inputs, config)
    calm = model(batch, training=False)["click"]
    np.testing.assert_array_equal(model(batch, training=False)["click"], calm)
    assert np.abs(model(batch, training=True)["click"] - calm).max() > 1e-3


def test_every_weight_learns(copy: Reranker, batch: Batch, tiny) -> None:
    labels = labels_of(tiny.raw(tiny.rows(LISTS)))
    _, gradients = gradients_of(copy, batch, labels)
    idle = {
        weight.name
        for weight, gradient in zip(copy.trainable_weights, gradients, strict=True)
        if np.abs(gradient).max() < 1e-8
    }
    # A bias on attention keys adds the same to all logits of a query.
    assert {weight for weight in idle if "key/bias" not in weight} == set()


def test_a_graph_gives_what_the_model_gives(model: Reranker, batch: Batch) -> None:
    specs = {
        name: tf.TensorSpec([None] * values.shape.rank, values.dtype)
        for name, values in batch.items()
    }
    for column in ("query", "history_query"):
        specs[column] = tf.TensorSpec(
            [*specs[column].shape[:-1], batch[column].shape[-1]], tf.int64
        )
    graph = tf.function(lambda given: model(given), input_signature=[specs])
    assert_same_outputs(real_of(graph(batch), batch), real_of(model(batch), batch))


# --- names ---


def test_models_are_found_by_name(encoder: Encoder, name: str) -> None:
    model = models.build(encoder.inputs, ModelConfig(name=name, width=4, heads=1))
    assert type(model) is REGISTRY[name]
    assert model.name == name
    assert model.config == ModelConfig(name=name, width=4, heads=1)


def test_an_unknown_name_is_one_sentence(encoder: Encoder) -> None:
    with pytest.raises(ConfigError) as fault:
        models.build(encoder.inputs, ModelConfig(name="pianola"))
    expected = f"model.name: got 'pianola', expected one of {', '.join([*REGISTRY, *TREES])}"
    assert str(fault.value) == expected


# --- what is PIANO's own ---


def test_every_column_matters_to_piano(built, encoder, tiny) -> None:
    model = built("piano")
    row = tiny.row(3, candidates=3, history=3)
    before = real_of(model(encoder(tiny.raw([row]))), encoder(tiny.raw([row])))
    other = {"string": "item-11", "float": 40.0}
    left_out = {"list_id", "timestamp"}
    for column in tiny.spec.columns(labels=False):
        if column.name in left_out:
            continue
        value = row[column.name]
        if column.name == "history_action":
            changed = ["click" if x == "conversion" else "conversion" for x in value]
        elif isinstance(value, list):
            changed = [*value[:-1], other[column.type]]
        else:
            changed = other[column.type]
        batch = encoder(tiny.raw([{**row, column.name: changed}]))
        after = real_of(model(batch), batch)
        assert np.abs(after["click"] - before["click"]).max() > 1e-5, column.name


def test_a_model_without_list_head_takes_items_as_independent(built, batch: Batch) -> None:
    model, mask = built("prm"), mask_of(batch, Axis.ITEM).numpy()
    outputs = model(batch)
    for label in LABELS:
        p = 1 / (1 + np.exp(-outputs[label].numpy().astype(np.float64)))
        some = 1 - np.where(mask, 1 - p, 1).prod(axis=1)
        independent = tf.constant(np.log(some / (1 - some)), tf.float32)
        expected = model.calibration({f"list_{label}": independent, "list_click": independent})
        expected = expected[f"list_{label}"]
        np.testing.assert_allclose(outputs[f"list_{label}"], expected, rtol=1e-4, atol=1e-4)
