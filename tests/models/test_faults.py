"""Faults seen in public re-ranking code, each ruled out for every model here.

Beside each test stands a thing that has the fault, to show that the test would find it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_ranking as tfr

from piano_tf import layers, metrics, models
from piano_tf.config import Config, ModelConfig, ScoreConfig, TrainingConfig
from piano_tf.data.batches import dataset, labels_of
from piano_tf.data.encoding import Encoder
from piano_tf.errors import LogError
from piano_tf.evaluation.predictions import predict
from piano_tf.features import LABELS, Axis
from piano_tf.layers.pretrained_vectors import Pretrained
from piano_tf.losses import LISTWISE, RerankingLoss, listwise_loss
from piano_tf.masks import mask_of
from piano_tf.metrics import NDCG
from piano_tf.models import Reranker
from piano_tf.rerank import order_of, score
from piano_tf.training import EncodedLog, fit_log

Batch = dict[str, tf.Tensor]
Loss = Callable[[Mapping[str, tf.Tensor], Mapping[str, tf.Tensor], tf.Tensor], tf.Tensor]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def batch(tiny, encoder: Encoder) -> Batch:
    """Lists of 1 to 6 candidates with histories of 0 to 4 entries."""
    return encoder(tiny.raw(tiny.rows(12)))


@pytest.fixture(scope="module")
def labels(tiny) -> Batch:
    return labels_of(tiny.raw(tiny.rows(12)))


@pytest.fixture(scope="module")
def built(
    encoder: Encoder, batch: Batch, tiny_model: ModelConfig
) -> Callable[[str | type[Reranker]], Reranker]:
    """Models as they start, by name or of a class here; not to be changed."""
    known: dict[str | type[Reranker], Reranker] = {}

    def built_by(kind: str | type[Reranker]) -> Reranker:
        if kind not in known:
            tf.keras.utils.set_random_seed(1)
            if isinstance(kind, str):
                config = tiny_model.model_copy(update={"name": kind})
                known[kind] = models.build(encoder.inputs, config)
            else:
                known[kind] = kind(encoder.inputs, tiny_model)
            known[kind](batch)
        return known[kind]

    return built_by


class Faulty(Reranker):
    """A small re-ranker; what is wrong with it stands in `vectors`."""

    def __init__(self, inputs, config, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        self.encoder = layers.ListInputEncoder(self.inputs_spec, self.config)
        self.head = layers.EntireSpaceHead(self.config.width)

    def logits(self, batch, training=None):
        lists = self.encoder(batch)
        return self.head(self.vectors(lists, training)), None


# --- attention to padding ---


def attends_to_padding(model: Reranker, batch: Batch) -> bool:
    """Whether vectors at padding, of list or history, change any real output."""
    original = layers.ListInputEncoder.call
    rng = np.random.default_rng(0)

    def noisy(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        mask = mask[..., tf.newaxis] if values.shape.rank == 3 else mask
        return tf.where(mask, values, tf.constant(rng.normal(0, 20, values.shape), tf.float32))

    def loud(self, batch, training=None) -> layers.ListInputs:
        lists = original(self, batch, training)
        changed = {"items": noisy(lists.items, lists.mask)}
        for name in ("past_items", "past_queries", "past_age"):
            changed[name] = noisy(getattr(lists, name), lists.past_mask)
        vectors = lists.pretrained._asdict()
        for name in ("taste", "intent"):
            vectors[name] = noisy(vectors[name], lists.mask)
        for name in ("past_taste", "past_intent", "past_query"):
            vectors[name] = noisy(vectors[name], lists.past_mask)
        return lists._replace(**changed, pretrained=Pretrained(**vectors))

    before = model(batch)
    with mock.patch.object(layers.ListInputEncoder, "call", loud):
        after = model(batch)
    mask = mask_of(batch, Axis.ITEM).numpy()
    gaps = [np.abs(after[name] - before[name]) for name in before]
    return any(gap[mask if gap.ndim == 2 else ...].max() > 1e-4 for gap in gaps)


class AttendsToPadding(Faulty):
    def __init__(self, inputs, config, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        self.attention = tf.keras.layers.MultiHeadAttention(2, 4)

    def vectors(self, lists, training):
        return self.attention(lists.items, lists.items)


class AveragesPaddedHistory(Faulty):
    def vectors(self, lists, training):
        return lists.items + tf.reduce_mean(lists.past_items, axis=1, keepdims=True)


class AveragesPaddedPastVectors(Faulty):
    def vectors(self, lists, training):
        vectors = lists.pretrained.past_intent
        return lists.items + tf.reduce_mean(vectors, axis=[1, 2], keepdims=True)


class AveragesPaddedVectors(Faulty):
    def vectors(self, lists, training):
        return lists.items + tf.reduce_mean(lists.pretrained.taste, axis=[1, 2], keepdims=True)


def test_attention_to_padding(built, name: str, batch: Batch) -> None:
    assert not attends_to_padding(built(name), batch)


@pytest.mark.parametrize(
    "kind",
    [
        AttendsToPadding,
        AveragesPaddedHistory,
        AveragesPaddedPastVectors,
        AveragesPaddedVectors,
    ],
)
def test_attention_to_padding_would_be_found(built, kind, batch: Batch) -> None:
    assert attends_to_padding(built(kind), batch)


# --- softmax over padding ---


def loss_counts_padding(loss: Loss, model: Reranker, batch: Batch, labels: Batch) -> bool:
    """Whether three more columns of padding change a loss or what it teaches."""
    longer, more = (
        {
            name: tf.pad(values, [[0, 0], [0, 3]])
            if name in LABELS or name.startswith(("item_", "initial_"))
            else values
            for name, values in columns.items()
        }
        for columns in (batch, labels)
    )
    found = []
    for inputs, y in ((batch, labels), (longer, more)):
        with tf.GradientTape() as tape:
            value = loss(y, model(inputs), mask_of(inputs, Axis.ITEM))
        gradients = tape.gradient(value, model.trainable_weights, unconnected_gradients="zero")
        found.append([value, *map(tf.convert_to_tensor, gradients)])
    return not all(np.allclose(a, b, **CLOSE) for a, b in zip(*found, strict=True))


def softmax_over_everything(labels, outputs, mask) -> tf.Tensor:
    entropy = tf.nn.softmax_cross_entropy_with_logits
    return tf.reduce_mean(entropy(labels["click"], outputs["click"]))


def test_softmax_over_padding(built, name: str, batch: Batch, labels: Batch) -> None:
    assert not loss_counts_padding(RerankingLoss(), built(name), batch, labels)


def test_softmax_over_padding_would_be_found(built, name: str, batch, labels) -> None:
    assert loss_counts_padding(softmax_over_everything, built(name), batch, labels)


# --- the last partial batch ---


class Eager:
    """A model that `predict` does not trace anew for each width."""

    eager = True

    def __init__(self, model: Reranker) -> None:
        self.model = model

    def __call__(self, batch: Batch, training: bool) -> Batch:
        return self.model(batch, training=training)


@pytest.fixture(scope="module")
def validation(log_dir: Path, encoder: Encoder) -> dict[int, list[tuple[Batch, Batch]]]:
    """The ten lists of the validation split in batches of 10, and of 4, 4 and 2."""
    sizes = (10, 4)
    return {s: list(dataset(log_dir, "validation", encoder, batch_size=s)) for s in sizes}


def test_the_last_partial_batch_is_evaluated(built, name: str, validation) -> None:
    found = {
        size: predict(Eager(built(name)), ScoreConfig(), batches)
        for size, batches in validation.items()
    }
    for part in ("score", "click", "conversion", "list_click", "list_conversion"):
        in_parts, at_once = getattr(found[4], part), getattr(found[10], part)
        assert len(in_parts) == len(at_once) == 10
        np.testing.assert_allclose(in_parts, at_once, **CLOSE)
    assert (found[4].click[-1] > 0).any()


def test_metrics_count_the_last_partial_batch(built, log_dir: Path, encoder: Encoder) -> None:
    model = built("first_stage")
    model.compile(metrics=[NDCG("click")], run_eagerly=True)

    def evaluated(batches: tf.data.Dataset) -> float:
        return model.evaluate(batches, verbose=0, return_dict=True)["click_ndcg_10"]

    whole = evaluated(dataset(log_dir, "validation", encoder, batch_size=10))
    batches = dataset(log_dir, "validation", encoder, batch_size=4)
    np.testing.assert_allclose(evaluated(batches), whole, rtol=1e-6)
    assert abs(evaluated(batches.take(2)) - whole) > 1e-3  # without it, this would be found


# --- early stopping on the test file ---


def test_training_never_opens_the_test_split(
    log_dir: Path, encoder: Encoder, tiny_model: ModelConfig, tmp_path: Path
) -> None:
    """What trains one model trains them all."""
    config = Config(
        encoding=encoder.encoding,
        model=tiny_model.model_copy(update={"name": "first_stage", "pretraining": None}),
        training=TrainingConfig(epochs=2, patience=1, batch_size=20),
    )
    log_dir = shutil.copytree(log_dir, tmp_path / "log")
    for file in (log_dir / "test").iterdir():
        file.write_bytes(b"whoever opens this file fails")
    with (
        EncodedLog(log_dir, config.encoding) as log,
        # The graphs of the AUCs would take longer to build than its own.
        mock.patch.object(metrics, "default_metrics", lambda _: [*map(NDCG, LABELS)]),
    ):
        fitted = fit_log(log, config, verbose=0)
        assert len(fitted.history["val_click_ndcg_10"]) == 2
        with pytest.raises(LogError, match="cannot be read as Parquet"):
            log.batches("test", 4)


# --- ties broken at random ---


def test_ties_keep_the_order_of_the_first_stage(
    name: str, encoder: Encoder, batch: Batch, labels: Batch, tiny_model: ModelConfig
) -> None:
    """Of a model whose weights are all 0, and of its metrics, every time."""
    model = models.build(encoder.inputs, tiny_model.model_copy(update={"name": name}))
    model(batch)
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    mask, outputs = mask_of(batch, Axis.ITEM), dict(model(batch))
    outputs["score"] = score(outputs, ScoreConfig())
    ranks = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
    if name != "first_stage":  # which prefers the first to the second even so
        real = outputs["score"].numpy()[mask]
        np.testing.assert_array_equal(real, real[0])
    np.testing.assert_array_equal(order_of(outputs["score"], mask), ranks)
    found = []
    for values in [{"click": tf.constant(-ranks, tf.float32)}] + [outputs] * 4:
        metric = NDCG("click")
        metric.update_state(labels, values, mask)
        found.append(float(metric.result()))
    assert len(set(found)) == 1


def test_ties_broken_at_random_would_be_found(labels: Batch) -> None:
    """TF-Ranking's own metric shuffles them."""
    tf.keras.utils.set_random_seed(2)
    found = set()
    for _ in range(5):
        metric = tfr.keras.metrics.NDCGMetric(topn=10)
        metric.update_state(labels["click"], tf.zeros_like(labels["click"]))
        found.add(float(metric.result()))
    assert len(found) > 1


# --- an epsilon inside a logarithm ---


def feels_a_shift(loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> bool:
    """Whether a listwise loss depends on more than differences of logits."""
    rng = np.random.default_rng(3)
    logits = tf.constant(rng.normal(size=[4, 6]), tf.float32)
    labels = tf.constant(rng.permuted(np.tile([1.0, 1, 0, 0, 0, 0], [4, 1]), axis=1), tf.float32)
    here = loss(labels, logits)
    return not all(
        np.allclose(loss(labels, logits + shift), here, rtol=1e-4) for shift in (-200.0, 50.0)
    )


def list_mle_with_epsilon(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    best_first = tf.argsort(labels, axis=1, direction="DESCENDING", stable=True)
    sorted_logits = tf.gather(logits, best_first, batch_dims=1)
    rest = tf.cumsum(tf.exp(sorted_logits), axis=1, reverse=True)
    return tf.reduce_mean(tf.reduce_sum(tf.math.log(rest + 1e-10) - sorted_logits, axis=1))


@pytest.mark.parametrize("loss", LISTWISE)
def test_no_epsilon_inside_a_logarithm(loss: str) -> None:
    """log(sum exp + epsilon) would say that very unlikely lists are alike."""
    mask = tf.ones([4, 6], tf.bool)
    assert not feels_a_shift(lambda y, logits: listwise_loss(loss, y, logits, mask=mask))


def test_an_epsilon_inside_a_logarithm_would_be_found() -> None:
    assert feels_a_shift(list_mle_with_epsilon)


# --- experts that share one integer seed ---


def twins(model: Reranker) -> set[tuple[str, str]]:
    """Pairs of weights that start with the same random numbers."""
    drawn = [
        weight
        for weight in model.trainable_weights
        if weight.shape.rank > 1 and len(np.unique(weight)) > 2  # neither constant nor identity
    ]
    return {
        (one.name, other.name)
        for number, one in enumerate(drawn)
        for other in drawn[:number]
        if one.shape == other.shape and np.array_equal(one, other)
    }


class TwinExperts(Faulty):
    def __init__(self, inputs, config, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        self.experts = [
            tf.keras.layers.Dense(8, kernel_initializer=tf.keras.initializers.GlorotUniform(seed=7))
            for _ in range(2)
        ]

    def vectors(self, lists, training):
        return tf.add_n([expert(lists.items) for expert in self.experts])


def test_no_two_experts_start_alike(built, name: str) -> None:
    """Nor any other two weights: what starts alike in the same place stays alike."""
    assert twins(built(name)) == set()


def test_experts_that_share_an_integer_seed_would_be_found(built) -> None:
    assert len(twins(built(TwinExperts))) == 1


# --- batch normalisation whose statistics never update ---


def stale_statistics(model: Reranker, batch: Batch) -> list[str]:
    """Batch normalisations that a pass in training leaves as they were."""
    normalisations = [
        part for part in model.submodules if isinstance(part, tf.keras.layers.BatchNormalization)
    ]
    before = [layer.moving_mean.numpy() for layer in normalisations]
    model(batch, training=True)
    return [
        layer.name
        for layer, mean in zip(normalisations, before, strict=True)
        if np.array_equal(layer.moving_mean, mean)
    ]


class StaleNormalisation(Faulty):
    def __init__(self, inputs, config, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        self.norm = tf.keras.layers.BatchNormalization()

    def vectors(self, lists, training):
        return self.norm(lists.items, training=False)


class LivingNormalisation(StaleNormalisation):
    def vectors(self, lists, training):
        return self.norm(lists.items, training=training)


def test_no_statistics_that_never_update(built, name: str, batch: Batch) -> None:
    model = built(name)
    assert stale_statistics(model, batch) == []
    # Nor kept by hand: what does not learn is what pre-training and calibration found.
    found = {
        weight.name
        for part in model.submodules
        if isinstance(part, layers.PretrainedVectors | layers.Calibration)
        for weight in part.weights
    }
    assert {weight.name for weight in model.non_trainable_weights} == found


def test_statistics_that_never_update_would_be_found(built, batch: Batch) -> None:
    assert len(stale_statistics(built(StaleNormalisation), batch)) == 1
    assert stale_statistics(built(LivingNormalisation), batch) == []
