"""A warm start: what the earlier model said is said still, wherever ids stand now."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import tensorflow as tf

from piano_tf.config import (
    Config,
    EncodingConfig,
    ModelConfig,
    ScoreConfig,
    TableConfig,
    TrainingConfig,
)
from piano_tf.data.batches import dataset
from piano_tf.data.encoding import Encoder
from piano_tf.errors import PianoError
from piano_tf.export import ModelCard, ServingModule, export_model
from piano_tf.features import FeatureSpec
from piano_tf.models import Reranker, build
from piano_tf.pretraining import interactions_of, pretrain
from piano_tf.training import fit
from piano_tf.warm_start import Earlier, WarmStart, WarmStartError, weight_name


def reencoded(encoder: Encoder, vocabularies: Mapping[str, list[str]]) -> Encoder:
    """The same encoding with other vocabularies; moments are no matter of a warm start."""
    moments = {name: encoder.moments(name) for name in encoder.features.tables("float")}
    numbers = {name: (float(mean), float(width)) for name, (mean, width) in moments.items()}
    return Encoder(encoder.features, encoder.encoding, vocabularies, numbers)


def turned(encoder: Encoder, new: Mapping[str, list[str]]) -> Encoder:
    """All strings in reverse, between those that are new."""
    return reencoded(
        encoder,
        {
            name: [*new.get(name, []), *reversed(strings)]
            for name, strings in encoder.vocabularies.items()
        },
    )


def as_bytes(encoder: Encoder) -> dict[str, list[bytes]]:
    return {
        name: [string.encode() for string in strings]
        for name, strings in encoder.vocabularies.items()
    }


def started(model: Reranker, encoder: Encoder) -> Earlier:
    """A model as the pipeline would have exported it."""
    config = Config(model=model.config, encoding=encoder.encoding)
    card = ModelCard(inputs=encoder.inputs, config=config, score=ScoreConfig())
    weights = tuple(variable.numpy() for variable in model.variables)
    names = tuple(weight_name(variable.name) for variable in model.variables)
    return Earlier(card, weights, names, as_bytes(encoder))


@pytest.fixture(scope="module")
def config(tiny_model: ModelConfig) -> ModelConfig:
    return tiny_model.model_copy(update={"pretraining": None})


@pytest.fixture(scope="module")
def raw(tiny) -> dict[str, tf.Tensor]:
    return tiny.raw(tiny.rows(12), labels=False)


def fresh(encoder: Encoder, config: ModelConfig, raw: dict[str, tf.Tensor], seed: int) -> Reranker:
    tf.keras.utils.set_random_seed(seed)
    model = build(encoder.inputs, config)
    model(encoder(raw))
    return model


@pytest.mark.parametrize("name", ["piano", "prm", "setrank"])
def test_a_warm_started_model_says_what_the_earlier_said(encoder, config, raw, name: str) -> None:
    config = config.model_copy(update={"name": name})
    earlier = fresh(encoder, config, raw, seed=1)
    now = turned(encoder, {"item_id": ["item-new", "item-newer"], "query": ["unheard"]})
    model = fresh(now, config, raw, seed=2)
    start = WarmStart(started(earlier, encoder), as_bytes(now))
    assert start.earlier.obstacle(now.inputs, config, as_bytes(now)) is None
    assert start.new_ids() == {**dict.fromkeys(encoder.vocabularies, 0), "item_id": 2, "query": 1}
    before = earlier(encoder(raw))
    assert not np.allclose(model(now(raw))["click"], before["click"])

    start.give(model)
    after = model(now(raw))
    for output, values in before.items():
        np.testing.assert_allclose(after[output], values, atol=1e-5, err_msg=output)

    # What is new starts from its bucket: requests for it are answered as before, too.
    unheard = {
        **raw,
        "item_id": tf.where(raw["item_id"] == "item-3", "item-new", raw["item_id"]),
        "query": tf.fill([12], "unheard live"),
    }
    for output, values in earlier(encoder(unheard)).items():
        np.testing.assert_allclose(model(now(unheard))[output], values, atol=1e-5, err_msg=output)


def test_an_id_that_is_gone_falls_into_its_bucket(encoder, config, raw) -> None:
    earlier = fresh(encoder, config, raw, seed=1)
    fewer = {name: list(strings) for name, strings in encoder.vocabularies.items()}
    gone = fewer["item_id"].pop(3)
    now = reencoded(encoder, fewer)
    model = fresh(now, config, raw, seed=2)
    WarmStart(started(earlier, encoder), as_bytes(now)).give(model)

    def table(of: Reranker) -> np.ndarray:
        (found,) = (v for v in of.variables if "item_id/embeddings" in v.name)
        return found.numpy()

    bucket = int(now.ids("item_id", tf.constant([gone]))[0]) + 1
    assert bucket > len(fewer["item_id"])
    shared = int(encoder.ids("item_id", tf.constant(["nobody knows"]))[0])
    assert shared >= len(encoder.vocabularies["item_id"])
    kept = [i for i, item in enumerate(encoder.vocabularies["item_id"]) if item != gone]
    np.testing.assert_array_equal(
        table(model)[1 : 1 + len(kept)], table(earlier)[[1 + i for i in kept]]
    )
    np.testing.assert_array_equal(table(model)[-2:], table(earlier)[-2:])
    np.testing.assert_array_equal(table(model)[0], table(earlier)[0])


def test_what_cannot_be_started_from_is_said(encoder, config, raw) -> None:
    earlier = started(fresh(encoder, config, raw, seed=1), encoder)
    inputs = encoder.inputs
    wider = config.model_copy(update={"width": 16})
    assert earlier.obstacle(inputs, wider, as_bytes(encoder)) == "its model is configured otherwise"
    other = inputs.model_copy(update={"features": FeatureSpec(dataset="shop")})
    assert earlier.obstacle(other, config, as_bytes(encoder)) == "its columns are others"
    shorter = EncodingConfig(query_length=2)
    shorter = inputs.model_copy(update={"encoding": shorter})
    assert earlier.obstacle(shorter, config, as_bytes(encoder)) == "its encoding is another"


def test_other_layers_are_said_before_anything_is_given(encoder, config, raw) -> None:
    earlier = started(fresh(encoder, config, raw, seed=1), encoder)
    model = fresh(encoder, config, raw, seed=2)
    before = [variable.numpy() for variable in model.variables]

    def refused(weights: tuple[np.ndarray, ...], **changed: tuple[str, ...]) -> str:
        other = dataclasses.replace(earlier, weights=weights, **changed)
        with pytest.raises(WarmStartError) as error:
            WarmStart(other, as_bytes(encoder)).give(model)
        for variable, weight in zip(model.variables, before, strict=True):
            np.testing.assert_array_equal(variable, weight)
        return str(error.value)

    *all_but_one, last = earlier.weights
    count = len(earlier.weights)
    assert refused((*all_but_one,)).startswith(
        f"a warm start: got {count - 1} weights, expected {count}"
    )
    wider = np.zeros((*last.shape, 2), np.float32)
    assert f"got shape {wider.shape} for " in refused((*all_but_one, wider))
    names = [variable.name for variable in model.variables]
    (place,) = (number for number, name in enumerate(names) if "item_id/embeddings" in name)
    shorter = [*earlier.weights]
    shorter[place] = shorter[place][:-1]
    told = refused((*shorter,))
    assert f"got shape {shorter[place].shape} for " in told
    assert f"expected {earlier.weights[place].shape}" in told
    *names, first, second = earlier.names
    swapped = refused(earlier.weights, names=(*names, second, first))
    assert swapped.startswith(f"a warm start: got {second}, expected {first}; ")


def test_a_model_that_was_exported_is_one_to_start_from(encoder, config, raw, tmp_path) -> None:
    config = config.model_copy(update={"name": "dnn"})
    model = fresh(encoder, config, raw, seed=1)
    known = started(model, encoder)
    module = ServingModule(model, encoder, encoder.features, ScoreConfig())
    found = Earlier.load(export_model(module, known.card, tmp_path / "saved"))
    assert found.names == known.names
    for weight, variable in zip(found.weights, model.variables, strict=True):
        np.testing.assert_array_equal(weight, variable)


def test_a_compositional_table_of_a_vocabulary_that_moved_is_an_obstacle(encoder, config) -> None:
    encoding = encoder.encoding.model_copy(
        update={"tables": (("item_id", TableConfig(compositional=True)),)}
    )
    inputs = encoder.inputs.model_copy(update={"encoding": encoding})
    card = ModelCard(
        inputs=inputs, config=Config(model=config, encoding=encoding), score=ScoreConfig()
    )
    earlier, now = Earlier(card, (), (), as_bytes(encoder)), as_bytes(encoder)
    assert earlier.obstacle(inputs, config, now) is None
    turned = now | {"item_id": now["item_id"][::-1]}
    assert "compositional table 'item_id'" in earlier.obstacle(inputs, config, turned)
    assert "no vocabulary 'genre'" in earlier.obstacle(inputs, config, now | {"genre": []})


def test_calibration_is_no_part_of_a_start(encoder, config, raw) -> None:
    earlier, model = (fresh(encoder, config, raw, seed=seed) for seed in (1, 2))
    earlier.calibration.assign("click", 0.5, 0.5, 1.0)
    WarmStart(started(earlier, encoder), as_bytes(encoder)).give(model)
    np.testing.assert_array_equal(model.calibration.slope, 1.0)
    np.testing.assert_array_equal(model.calibration.intercept, 0.0)


def test_nothing_to_load_is_one_sentence(tmp_path) -> None:
    with pytest.raises(PianoError, match=r"reranker\.json"):
        Earlier.load(tmp_path / "nothing")


# --- pre-trained vectors ---


def test_vectors_learnt_anew_stand_where_the_earlier_did(tiny_model, log_dir, encoder, raw) -> None:
    now = turned(encoder, {"item_id": ["item-new"]})
    seeds = {"earlier": 3, "now": 4}
    learnt = {}
    models = {}
    for name, its in (("earlier", encoder), ("now", now)):
        lists = dataset(log_dir, "train", its, batch_size=20)
        models[name] = fresh(its, tiny_model, raw, seed=seeds[name])
        learnt[name] = interactions_of(lists)
    tables = pretrain(learnt["earlier"], encoder.inputs, tiny_model.pretraining)
    # As after a change of basis, which factorisations of two days differ by.
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    tables = {name: (table @ basis).astype(np.float32) for name, table in tables.items()}
    models["earlier"].assign_vectors(tables)
    start = WarmStart(started(models["earlier"], encoder), as_bytes(now))
    toward = start.vectors(models["now"])
    items = encoder.inputs.rows["item_id"]
    assert toward["taste"].shape == (items + 1, 4)
    assert not toward["taste"][1].any(), "an item that is new has none"

    there = [now.vocabularies["item_id"].index(i) for i in encoder.vocabularies["item_id"]]
    before = tables["intent"][0][1 : 1 + len(there)]

    def distance(found: dict[str, np.ndarray]) -> float:
        return float(np.abs(found["intent"][0][1 + np.array(there)] - before).max())

    apart = pretrain(learnt["now"], now.inputs, tiny_model.pretraining)
    close = pretrain(learnt["now"], now.inputs, tiny_model.pretraining, toward=toward)
    assert distance(close) < 0.35 < distance(apart)


def test_training_goes_on_from_where_it_was(tiny_model, log_dir, encoder, raw, fitted) -> None:
    earlier = fitted("piano").model
    now = turned(encoder, {"item_id": ["item-new"]})
    lists = dataset(log_dir, "train", now, batch_size=20).cache()
    training = TrainingConfig(epochs=1, learning_rate=1e-4)
    config = Config(model=earlier.config, encoding=encoder.encoding, training=training)

    def loss(start: WarmStart | None) -> float:
        found = fit(lists, lists, now.inputs, config, warm_start=start, verbose=0)
        return found.history["val_loss"][-1]

    start = WarmStart(started(earlier, encoder), as_bytes(now))
    assert loss(start) < 0.7 * loss(None)
