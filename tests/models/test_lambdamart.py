"""LambdaMART: it learns, it obeys the laws of the others, and its features leak no label."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from piano_tf import models
from piano_tf.config import EncodingConfig, ModelConfig, PretrainingConfig, ScoreConfig
from piano_tf.evaluation.predictions import predict
from piano_tf.features import LABELS, OUTPUTS, Axis
from piano_tf.masks import mask_of
from piano_tf.metrics import NDCG
from piano_tf.models import LambdaMART, lambdamart
from piano_tf.models.base import independent_list_logit
from piano_tf.models.co_listening import CoListening
from piano_tf.pretraining import Interactions, interactions_of, pretrain
from piano_tf.training import EncodedLog

Batch = dict[str, tf.Tensor]
CONFIG = ModelConfig(name="lambdamart", pretraining=PretrainingConfig(width=4, folds=2))


@pytest.fixture(scope="module")
def log(tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EncodedLog]:
    """300 lists to train, 150 to validate, of 60 listeners."""
    rows = [row | {"user_id": f"user-{n % 60}"} for n, row in enumerate(tiny.rows(600))]
    folder = tiny.write(tmp_path_factory.mktemp("trees") / "log", rows)
    with EncodedLog(folder, EncodingConfig(query_length=3, history_length=4)) as encoded:
        yield encoded


@pytest.fixture(scope="module")
def splits(log: EncodedLog) -> tuple[list, list]:
    return tuple(list(log.batches(split, 64)) for split in ("train", "validation"))


def fitted_on(log: EncodedLog, splits: tuple[list, list], config=CONFIG, **how) -> LambdaMART:
    seed = how.pop("seed", 0)
    model = LambdaMART(log.encoder.inputs, config, **how)
    vectors = log.vectors(config.pretraining)
    if vectors is not None:
        model.assign_vectors(vectors)
    with mock.patch.object(lambdamart, "_ROUNDS", 60):
        model.fit_lists(*splits, seed=seed)
    return model


@pytest.fixture(scope="module")
def trees(log: EncodedLog, splits) -> LambdaMART:
    return fitted_on(log, splits)


@pytest.fixture(scope="module")
def batch(log: EncodedLog, tiny) -> Batch:
    return log.encoder(tiny.raw(tiny.rows(12)))


def same(found: Batch, expected: Batch, batch: Batch) -> None:
    mask = mask_of(batch, Axis.ITEM).numpy()
    for name in OUTPUTS:
        real = mask if expected[name].ndim == 2 else ...
        found_real, expected_real = found[name].numpy()[real], expected[name].numpy()[real]
        np.testing.assert_allclose(found_real, expected_real, rtol=1e-6)


# --- the model ---


def test_it_is_built_by_name(log: EncodedLog) -> None:
    model = models.build(log.encoder.inputs, CONFIG)
    assert type(model) is LambdaMART
    assert (model.name, model.config, model.eager) == ("lambdamart", CONFIG, True)
    assert model.inputs_spec == log.encoder.inputs


def test_it_says_that_it_is_not_fitted(log: EncodedLog, batch: Batch) -> None:
    with pytest.raises(RuntimeError, match="not fitted"):
        LambdaMART(log.encoder.inputs, CONFIG)(batch)


@pytest.mark.parametrize(
    "config",
    [CONFIG, CONFIG.model_copy(update={"match": False}), ModelConfig(ids=True, pretraining=None)],
    ids=["all", "no match features", "no vectors"],
)
def test_it_orders_better_than_the_first_stage(log, splits, config: ModelConfig) -> None:
    """Conversion follows popularity, which every configuration sees; clicks what is asked for."""
    model = fitted_on(log, splits, config)
    found = {label: (NDCG(label), NDCG(label, by="initial")) for label in LABELS}
    for inputs, labels in splits[1]:
        outputs = {
            **model(inputs),
            "initial": -np.arange(0.0, 6.0) * np.ones([len(inputs["user_id"]), 1]),
        }
        for pair in found.values():
            for metric in pair:
                metric.update_state(labels, outputs, mask_of(inputs, Axis.ITEM))
    gain = {label: float(a.result() - b.result()) for label, (a, b) in found.items()}
    assert gain["conversion"] > 0.05
    if config is CONFIG:
        assert gain["click"] > 0.05


def test_outputs_are_those_of_every_reranker(trees: LambdaMART, batch: Batch) -> None:
    outputs, mask = trees(batch), mask_of(batch, Axis.ITEM)
    assert set(outputs) == set(OUTPUTS)
    assert all(values.dtype == tf.float32 for values in outputs.values())
    assert (outputs["conversion"] <= outputs["click"]).numpy().all()
    for label in LABELS:
        assert outputs[label].shape == mask.shape
        expected = independent_list_logit(outputs[label], mask)
        np.testing.assert_array_equal(outputs[f"list_{label}"], expected)


def test_padding_and_the_rest_of_the_batch_change_nothing(
    trees, log, batch, tiny, pad_more
) -> None:
    more = log.encoder(pad_more(tiny.raw(tiny.rows(12)), items=3, history=2))
    same({n: v[:, :6] if v.ndim == 2 else v for n, v in trees(more).items()}, trees(batch), batch)
    alone = {name: values[3:4] for name, values in batch.items()}
    same(trees(alone), {n: v[3:4] for n, v in trees(batch).items()}, alone)


def test_little_to_go_by(trees: LambdaMART, log: EncodedLog, tiny, batch: Batch) -> None:
    """No history, and lists of padding only."""
    rows = [tiny.row(number, history=0) for number in range(3)]
    nobody = log.encoder(tiny.raw(rows))
    assert nobody["history_item_id"].shape[1] == 0
    empty = {name: tf.zeros_like(values[:2]) for name, values in batch.items()}
    for given_batch in (nobody, empty):
        assert all(np.isfinite(values).all() for values in trees(given_batch).values())


def test_a_seed_settles_everything_and_threads_nothing(trees, log, splits, batch: Batch) -> None:
    same(fitted_on(log, splits, num_threads=1)(batch), trees(batch), batch)
    other = fitted_on(log, splits, seed=1)(batch)
    assert np.abs(other["click"] - trees(batch)["click"]).max() > 1e-4


def test_it_predicts_a_split_like_the_others(trees: LambdaMART, splits) -> None:
    found = predict(trees, ScoreConfig(), splits[1])
    assert len(found.score) == 150
    assert ((found.click > 0) >= (found.conversion > 0)).all()


# --- co-listening ---

USERS, ITEMS, FOLDS = 9, 7, 3


def random_interactions(seed: int, count: int = 40) -> Interactions:
    rng = np.random.default_rng(seed)
    return Interactions(
        user=rng.integers(1, USERS, count),
        query=rng.integers(1, 4, [count, 2]),
        item=rng.integers(1, ITEMS, count),
    )


def similarities(interactions: Interactions, user: np.ndarray) -> np.ndarray:
    """Of every item to every item, for each user: [users, items, items]."""
    every = np.tile(np.arange(ITEMS), [len(user), 1])
    return CoListening(interactions, ITEMS, USERS, FOLDS)(every, every, user)


@given(st.integers(0, 20))
def test_co_listening_is_its_formula(seed: int) -> None:
    interactions, user = random_interactions(seed), np.arange(USERS)
    found = similarities(interactions, user)
    for u in user:
        listeners = [set() for _ in range(ITEMS)]
        for listener, item in zip(interactions.user, interactions.item, strict=True):
            if listener % FOLDS != u % FOLDS:
                listeners[item].add(listener)
        for i, one in enumerate(listeners):
            for t, other in enumerate(listeners):
                size = np.sqrt(len(one) * len(other))
                expected = len(one & other) / size if size and i != t else 0
                np.testing.assert_allclose(found[u, i, t], expected, rtol=1e-6)


def test_a_folds_lists_do_not_know_its_own_choices() -> None:
    """Whatever the listeners of a fold chose, their similarities are the same; others' are not."""
    one, other = random_interactions(1), random_interactions(2)
    of_fold = lambda interactions: interactions.user % FOLDS == 1  # noqa: E731
    mixed = Interactions.joined([one.where(~of_fold(one)), other.where(of_fold(other))])
    fold, rest = np.array([1, 4, 7]), np.array([2, 3, 5])
    np.testing.assert_array_equal(similarities(mixed, fold), similarities(one, fold))
    assert np.abs(similarities(mixed, rest) - similarities(one, rest)).max() > 0.05


def test_lists_of_one_fold_agree() -> None:
    """Of leave-one-out counts, those of who chose an item would be one smaller: their choice."""
    interactions = random_interactions(3)
    of_fold = similarities(interactions, np.array([1, 4, 7]))
    np.testing.assert_array_equal(of_fold[1:], of_fold[:1].repeat(2, axis=0))
    chosen = [set(interactions.item[interactions.user == user]) for user in (1, 4, 7)]
    assert len(set(map(frozenset, chosen))) == 3  # though they chose differently


def test_no_feature_of_a_list_knows_its_labels(log: EncodedLog, splits) -> None:
    """Other conversions of a fold's listeners change no feature of their lists, but others'."""
    config = CONFIG.pretraining
    train = splits[0]
    changed = [
        (
            inputs,
            {
                **labels,
                "conversion": tf.where(
                    (inputs["user_id"] % config.folds == 0)[:, tf.newaxis],
                    tf.cast(inputs["item_id"] % 2, tf.float32),
                    labels["conversion"],
                ),
            },
        )
        for inputs, labels in train
    ]
    found = []
    for lists in (train, changed):
        interactions = interactions_of(lists)
        model = LambdaMART(log.encoder.inputs, CONFIG)
        model.assign_vectors(pretrain(interactions, log.encoder.inputs, config))
        with mock.patch.object(lambdamart, "_ROUNDS", 1):
            model.fit_lists(lists, splits[1], seed=0)
        found.append([model._features(inputs) for inputs, _ in train])
    own, others = [], []
    for (inputs, _), before, after in zip(train, *found, strict=True):
        mask = mask_of(inputs, Axis.ITEM).numpy()
        of_fold = np.broadcast_to(
            inputs["user_id"].numpy()[:, np.newaxis] % config.folds, mask.shape
        )
        gap = np.abs(before - after).max(axis=1)
        own.append(gap[of_fold[mask] == 0])
        others.append(gap[of_fold[mask] != 0])
    assert np.concatenate(own).max() < 1e-4
    assert np.concatenate(others).max() > 0.05
