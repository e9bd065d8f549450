"""Training: what is kept, when it stops, what it may look at, and the score that it chooses."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from piano_tf import metrics, models
from piano_tf import training as training_module
from piano_tf.calibration import Answered
from piano_tf.checkpoints import Checkpoints
from piano_tf.config import (
    Config,
    DebiasingConfig,
    EncodingConfig,
    LossConfig,
    ModelConfig,
    PretrainingConfig,
    TrainingConfig,
)
from piano_tf.data import batches
from piano_tf.data.batches import dataset
from piano_tf.data.encoding import Encoder
from piano_tf.data.logs import write_log
from piano_tf.data.splits import ByShare
from piano_tf.errors import ConfigError
from piano_tf.features import LABELS
from piano_tf.losses import RerankingLoss
from piano_tf.pretraining import interactions_of, pretrain
from piano_tf.propensity import read_examination
from piano_tf.rerank import score
from piano_tf.simulation import SimulationConfig, simulate
from piano_tf.training import EncodedLog, FittedReranker, choose_score, fit, fit_log

SMALL = EncodingConfig(query_length=3, history_length=4, oov_buckets=2)
NDCGS = [f"{label}_ndcg_10" for label in LABELS]


@contextlib.contextmanager
def without_graphs() -> Iterator[None]:
    """Keras without graphs: a few steps are over before a graph is built."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture
def eagerly() -> Iterator[None]:
    with without_graphs():
        yield


@pytest.fixture
def train(log_dir: Path, encoder: Encoder) -> tf.data.Dataset:
    """All 20 lists to train on, in one batch."""
    return dataset(log_dir, "train", encoder, batch_size=20).cache()


@pytest.fixture
def prm(tiny_model: ModelConfig) -> ModelConfig:
    """The smallest re-ranker, where it does not matter which."""
    return tiny_model.model_copy(update={"name": "prm"})


# --- learning ---


@pytest.fixture
def learner(name: str) -> str:
    """Every re-ranker that can learn a better order, by name."""
    if name == "first_stage":
        pytest.skip("it keeps the first stage's order whatever it learns")
    return name


def test_a_tiny_log_is_learnt_by_heart(fitted, learner: str) -> None:
    history = fitted(learner).history
    assert history["loss"][-1] < history["loss"][0] / 2
    for metric in NDCGS:
        assert max(history[f"val_{metric}"]) > 0.96
        assert history[f"val_{metric}"][0] < 0.95


def test_evaluation_does_not_depend_on_the_size_of_batches(fitted, log_dir, encoder) -> None:
    """The last batch, smaller than the others, counts like any other."""
    model = fitted("prm").model
    whole, parts = (
        model.evaluate(
            dataset(log_dir, "train", encoder, batch_size=size), return_dict=True, verbose=0
        )
        for size in (20, 8)
    )
    # The loss is a mean over batches' means of items, so that it is close but not the same.
    assert len(whole) == 1 + len(NDCGS)
    for metric in whole.keys() - {"loss"}:
        np.testing.assert_allclose(parts[metric], whole[metric], rtol=1e-4, err_msg=metric)


def test_predictions_cover_every_list(fitted, log_dir: Path, encoder: Encoder) -> None:
    model = fitted("prm").model
    found = model.predict(dataset(log_dir, "train", encoder, batch_size=16), verbose=0)
    ((inputs, _),) = dataset(log_dir, "train", encoder, batch_size=20)
    for output, values in model(inputs).items():
        np.testing.assert_allclose(found[output], values, rtol=1e-4, atol=1e-4, err_msg=output)


def assign(model: tf.keras.Model, weights: list[np.ndarray]) -> None:
    for weight, value in zip(model.trainable_weights, weights, strict=True):
        weight.assign(value)


def weights_of(model: tf.keras.Model) -> list[np.ndarray]:
    return [weight.numpy() for weight in model.trainable_weights]


class Scripted(tf.keras.callbacks.Callback):
    """Gives the model the weights written for each epoch before it is validated."""

    def __init__(self, weights: list[list[np.ndarray]]) -> None:
        super().__init__()
        self.weights = weights

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epoch = epoch

    def on_test_begin(self, logs: dict | None = None) -> None:
        assign(self.model, self.weights[self.epoch])


def scripted_fit(train, encoder: Encoder, model: ModelConfig, weights, *, patience: int):
    """`fit` on weights that are given, not learnt: the learning rate is 0."""
    training = TrainingConfig(epochs=len(weights), learning_rate=0.0, patience=patience)
    config = Config(model=model, training=training)
    return fit(train, train, encoder.inputs, config, callbacks=[Scripted(weights)], verbose=0)


@pytest.fixture
def good(fitted) -> list[np.ndarray]:
    return weights_of(fitted("prm").model)


@pytest.fixture
def bad(good: list[np.ndarray]) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.normal(0, 1, weight.shape).astype(np.float32) for weight in good]


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("script", "patience", "epochs"),
    [
        ("bad good bad bad bad", 2, 4),  # stops when validation has not improved for long
        ("bad good bad", 5, 3),  # runs to its last epoch
    ],
)
def test_the_weights_of_the_best_epoch_are_kept(
    train, encoder, prm: ModelConfig, good, bad, script: str, patience: int, epochs: int
) -> None:
    by_name = {"good": good, "bad": bad}
    weights = [by_name[each] for each in script.split()]
    found = scripted_fit(train, encoder, prm, weights, patience=patience)
    means = np.mean([found.history[f"val_{metric}"] for metric in NDCGS], axis=0)
    assert len(means) == epochs
    assert np.argmax(means) == 1
    for kept, wanted in zip(weights_of(found.model), good, strict=True):
        np.testing.assert_array_equal(kept, wanted)


@pytest.fixture(scope="module")
def twice(
    log_dir: Path, tmp_path_factory: pytest.TempPathFactory, tiny_model: ModelConfig
) -> list[tuple[FittedReranker, Encoder]]:
    """The same log and configuration twice; the second time the log has no test split, and the
    program has used random numbers before.
    """
    config = Config(
        encoding=SMALL,
        model=tiny_model.model_copy(update={"name": "prm", "dropout": 0.3}),
        training=TrainingConfig(batch_size=10, epochs=1, seed=5),
    )
    without = tmp_path_factory.mktemp("without") / "log"
    shutil.copytree(log_dir, without)
    shutil.rmtree(without / "test")
    found = []
    with without_graphs():
        for folder, used in ((log_dir, 1), (without, 2)):
            tf.keras.utils.set_random_seed(used)
            with EncodedLog(folder, config.encoding) as log:
                found.append((fit_log(log, config, verbose=0), log.encoder))
    return found


def test_the_test_split_is_never_looked_at(twice, encoder: Encoder) -> None:
    for fitted, found in twice:
        assert found.inputs == encoder.inputs
        assert set(fitted.history) > {f"val_{metric}" for metric in NDCGS}


def test_the_configured_seed_settles_everything(twice) -> None:
    (first, _), (second, _) = twice
    for one, other in zip(weights_of(first.model), weights_of(second.model), strict=True):
        np.testing.assert_array_equal(one, other)
    assert first.history == second.history
    assert first.score == second.score


def test_a_trained_model_has_the_weights_of_a_fresh_one(fitted, train, name: str) -> None:
    """What metrics count is no weight: it is neither saved, nor restored, nor exported."""
    trained = fitted(name).model
    fresh = type(trained).from_config(trained.get_config())
    inputs, _ = next(iter(train))
    fresh(inputs)
    assert [w.shape for w in trained.weights] == [w.shape for w in fresh.weights]
    assert trained.count_params() == fresh.count_params()


def test_an_unknown_listwise_loss_is_one_sentence(train, encoder, prm: ModelConfig) -> None:
    config = Config(
        model=prm,
        loss=LossConfig.model_construct(**{**LossConfig().model_dump(), "listwise": "hinge"}),
    )
    with pytest.raises(ConfigError) as fault:
        fit(train, train, encoder.inputs, config, verbose=0)
    assert str(fault.value).startswith("loss.listwise: got 'hinge', expected one of ")
    assert "\n" not in str(fault.value)


# --- how fast ---


class Speedometer(tf.keras.callbacks.Callback):
    """Reads the learning rate at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.read.append(float(self.model.optimizer.learning_rate))


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("epochs", [1, 4])
def test_the_learning_rate_falls_along_half_a_cosine(train, encoder, prm, epochs: int) -> None:
    training = TrainingConfig(epochs=epochs, learning_rate=0.02, patience=epochs)
    config, speedometer = Config(model=prm, training=training), Speedometer()
    fit(train, train, encoder.inputs, config, callbacks=[speedometer], verbose=0)
    expected = 0.02 * np.cos(np.pi / 2 * np.arange(epochs) / epochs) ** 2
    np.testing.assert_allclose(speedometer.read, expected, rtol=1e-5)


# --- in half precision ---


class Scales(tf.keras.callbacks.Callback):
    """By what the loss is multiplied, and what the weights are, after every step.

    Args:
      dies_at: The step after which training is broken off, if at all.
    """

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__()
        self.scales: list[float] = []
        self.weights: list[list[np.ndarray]] = []
        self.dies_at = dies_at

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.before = weights_of(self.model)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.scales.append(float(self.model.optimizer.loss_scale))
        self.weights.append(weights_of(self.model))
        if len(self.scales) == self.dies_at:
            raise InterruptedError


@pytest.fixture
def few_metrics() -> Iterator[None]:
    """The two NDCGs: without graphs, the AUCs take longer than all else."""
    few = [metrics.NDCG(label) for label in LABELS]
    with mock.patch.object(metrics, "default_metrics", lambda _: few):
        yield


def equal(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(some, others, strict=True))


def overflowing(model: ModelConfig, *, epochs: int) -> Config:
    """A loss so large that its gradients, multiplied as they are at first, are none of float16."""
    training = TrainingConfig(
        epochs=epochs,
        learning_rate=0.03,
        patience=epochs,
        checkpoint_steps=1,
        mixed_precision="mixed_float16",
    )
    model = model.model_copy(update={"name": "dnn", "pretraining": None})
    return Config(model=model, loss=LossConfig(calibration=1000.0), training=training)


@pytest.mark.usefixtures("eagerly", "few_metrics")
def test_steps_of_float16_that_overflow_are_left_out(train, encoder, prm: ModelConfig) -> None:
    seen, config = Scales(), overflowing(prm, epochs=12)
    found = fit(train, train, encoder.inputs, config, callbacks=[seen], verbose=0)
    left_out = [
        equal(*pair) for pair in zip(seen.weights, [seen.before, *seen.weights[:-1]], strict=True)
    ]
    assert left_out[0]
    assert not left_out[-1]
    scales = np.array([2.0**15, *seen.scales])
    np.testing.assert_array_equal(scales[1:] / scales[:-1], np.where(left_out, 0.5, 1.0))
    assert all(np.isfinite(values).all() for weights in seen.weights for values in weights)
    assert found.history["loss"][-1] < 0.9 * found.history["loss"][0]
    assert {weight.dtype for weight in found.model.weights} == {tf.float32}


@pytest.mark.usefixtures("eagerly", "few_metrics")
def test_float16_goes_on_where_it_was_interrupted(train, encoder, prm, tmp_path: Path) -> None:
    config = overflowing(prm, epochs=6)

    def trained(seen: Scales) -> FittedReranker:
        checkpoints = Checkpoints(tmp_path / "checkpoints", "the same")
        kept = {"checkpoints": checkpoints, "callbacks": [seen], "verbose": 0}
        return fit(train, train, encoder.inputs, config, **kept)

    straight, first, rest = Scales(), Scales(dies_at=5), Scales()
    expected = trained(straight)
    with pytest.raises(InterruptedError):
        trained(first)
    found = trained(rest)
    assert first.scales + rest.scales == straight.scales
    assert len({*first.scales}) > 1
    assert equal(found.model.get_weights(), expected.model.get_weights())
    assert found.history == expected.history


# --- as on a device: in graphs, compiled, in half precision ---


def trained_as(train, encoder: Encoder, prm: ModelConfig, **settings) -> FittedReranker:
    """A quick training, with settings of its own."""
    model = prm.model_copy(update={"name": "dnn", "pretraining": None})
    training = TrainingConfig(epochs=8, learning_rate=0.02, patience=8, **settings)
    return fit(train, train, encoder.inputs, Config(model=model, training=training), verbose=0)


@pytest.fixture(scope="module")
def plain(log_dir: Path, encoder: Encoder, tiny_model: ModelConfig) -> FittedReranker:
    """In float32, without graphs."""
    with without_graphs():
        return trained_as(dataset(log_dir, "train", encoder, batch_size=20), encoder, tiny_model)


@pytest.mark.usefixtures("few_metrics")
@pytest.mark.parametrize(
    ("settings", "rtol"),
    [
        ({"xla": True}, 1e-3),
        ({"mixed_precision": "mixed_bfloat16"}, 0.05),
    ],
    ids=["xla", "bfloat16"],
)
def test_training_may_be_compiled_or_in_half_precision(
    train, encoder, prm: ModelConfig, plain: FittedReranker, settings: dict, rtol: float
) -> None:
    found = trained_as(train, encoder, prm, **settings)
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(found.history[name], plain.history[name], rtol=rtol)
    assert found.history["loss"][-1] < 0.9 * found.history["loss"][0]
    assert {weight.dtype for weight in found.model.weights} == {tf.float32}


# --- pre-trained vectors, and a log that is encoded once ---


def vectors_in(model: models.Reranker) -> dict[str, np.ndarray]:
    return {name: table.numpy() for name, table in model.encoder.pretrained.tables.items()}


@pytest.mark.usefixtures("eagerly")
def test_vectors_are_learnt_where_none_are_given(train, encoder, prm: ModelConfig) -> None:
    config = Config(model=prm, training=TrainingConfig(epochs=1))
    learnt = pretrain(interactions_of(train), encoder.inputs, prm.pretraining)
    given = {name: table + 1 for name, table in learnt.items()}
    for vectors, expected in ((None, learnt), (given, given)):
        found = fit(train, train, encoder.inputs, config, vectors=vectors, verbose=0)
        for name, table in vectors_in(found.model).items():
            np.testing.assert_array_equal(table, expected[name], err_msg=name)


@pytest.mark.usefixtures("eagerly")
def test_a_model_that_wants_no_vectors_gets_none(train, encoder, prm: ModelConfig) -> None:
    config = Config(
        model=prm.model_copy(update={"pretraining": None}), training=TrainingConfig(epochs=1)
    )
    with mock.patch.object(training_module, "pretrain") as learn:
        fit(train, train, encoder.inputs, config, verbose=0)
    learn.assert_not_called()


def test_clicks_are_weighted_by_what_the_log_says_of_examination(tmp_path: Path) -> None:
    world = SimulationConfig.model_validate(
        {"lists": 2_000, "days": 20, "first_stage": {"randomised": 0.3}}
    )
    write_log(simulate(world), tmp_path / "log", ByShare())
    debiasing = DebiasingConfig(depth=5, clip=0.55)
    config = Config(
        model=ModelConfig(name="first_stage"),
        training=TrainingConfig(epochs=1, debiasing=debiasing),
    )
    with (
        EncodedLog(tmp_path / "log", SMALL) as log,
        mock.patch.object(training_module, "RerankingLoss", wraps=RerankingLoss) as loss,
    ):
        assert log.propensity(None) is None
        fit_log(log, config, verbose=0)
    (_, propensity), _ = loss.call_args
    randomised = ("context_slice", "randomised")
    theta = read_examination(tmp_path / "log", depth=5, randomised=randomised).propensity
    assert len(theta) == 5 and (theta < 0.55).any()
    np.testing.assert_array_equal(propensity, np.maximum(theta, 0.55))


def test_debiasing_what_cannot_be_weighted_is_one_sentence(train, encoder) -> None:
    config = Config(
        model=ModelConfig(name="lambdamart"), training=TrainingConfig(debiasing=DebiasingConfig())
    )
    with pytest.raises(ConfigError, match=r"training\.debiasing: 'lambdamart' has no weights"):
        fit(train, train, encoder.inputs, config, propensity=np.ones(5), verbose=0)


@pytest.mark.parametrize("name", ["first_stage", "dlcm", "lambdamart"])
def test_who_reads_the_initial_order_cannot_leave_it_out(name: str, encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match=r"model\.rank: got 'training'"):
        models.build(encoder.inputs, ModelConfig(name=name, rank="training"))


def test_debiasing_without_propensities_is_one_sentence(train, encoder, prm) -> None:
    config = Config(model=prm, training=TrainingConfig(debiasing=DebiasingConfig()))
    with pytest.raises(ConfigError, match=r"training\.debiasing: needs propensities"):
        fit(train, train, encoder.inputs, config, verbose=0)


def test_a_log_is_encoded_once_and_leaves_nothing_behind(log_dir, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with mock.patch.object(batches, "raw_batches", wraps=batches.raw_batches) as read:
        with EncodedLog(log_dir, SMALL) as log:
            passes = [list(log.batches("train", size)) for size in (20, 7, 20)]
            first = read.call_count
            assert any(path.is_file() for path in tmp_path.rglob("*"))
        assert first == 1
    assert list(tmp_path.iterdir()) == []
    assert [len(found) for found in passes] == [1, 3, 1]
    ((inputs, labels),) = dataset(log_dir, "train", log.encoder, batch_size=20)
    for found in (passes[0], passes[2]):
        ((kept, told),) = found
        for name, values in {**inputs, **labels}.items():
            np.testing.assert_array_equal({**kept, **told}[name], values, err_msg=name)


def test_a_logs_vectors_are_learnt_once_per_configuration(log_dir: Path) -> None:
    small, large = (PretrainingConfig(width=width, folds=2) for width in (2, 3))
    with (
        EncodedLog(log_dir, SMALL) as log,
        mock.patch.object(training_module, "pretrain", wraps=pretrain) as learn,
    ):
        assert log.vectors(None) is None
        learn.assert_not_called()
        first = log.vectors(small)
        assert log.vectors(large)["taste"].shape[-1] == 3
        assert log.vectors(small.model_copy()) is first
        assert learn.call_count == 2
    lists = dataset(log_dir, "train", log.encoder)
    expected = pretrain(interactions_of(lists), log.encoder.inputs, small)
    for name, table in expected.items():
        np.testing.assert_array_equal(first[name], table, err_msg=name)


# --- what the model may be compiled with ---


@pytest.mark.parametrize("loss", ["mse", tf.keras.losses.BinaryCrossentropy()])
def test_keras_losses_are_refused(fitted, loss) -> None:
    model = fitted("prm").model
    with pytest.raises(TypeError, match=r"expected a piano_tf\.losses\.RerankingLoss"):
        model.compile(loss=loss)


@pytest.mark.parametrize("metric", ["auc", tf.keras.metrics.AUC()])
def test_keras_metrics_are_refused(fitted, metric) -> None:
    model = fitted("prm").model
    with pytest.raises(TypeError, match=r"expected one of piano_tf\.metrics"):
        model.compile(loss=RerankingLoss(), metrics=[metric])


# --- the score ---


def ndcg(order: np.ndarray, y: np.ndarray) -> float:
    discount = 1 / np.log2(2 + np.arange(len(y)))
    return (y[order] * discount).sum() / (np.sort(y)[::-1] * discount).sum()


def given(click: list, conversion: list, clicked: list, converted: list) -> Answered:
    """Lists without padding, and what a model says of them."""
    outputs = {"click": np.float32(click), "conversion": np.float32(conversion)}
    labels = {"click": np.float32(clicked), "conversion": np.float32(converted)}
    outputs, labels = (
        {name: tf.constant(values) for name, values in each.items()} for each in (outputs, labels)
    )
    return Answered(outputs, labels, tf.ones_like(outputs["click"], tf.bool))


def test_the_score_with_the_best_mean_ndcg_is_chosen() -> None:
    rng = np.random.default_rng(9)
    chosen = set()
    for _ in range(3):
        click = rng.normal(0, 1, (4, 5))
        conversion = click - rng.exponential(1, click.shape)
        clicked = (rng.random(click.shape) < 0.5) * 1.0
        clicked[:, 0] = 1
        converted = np.eye(5)[np.zeros(4, int)]
        validation = given(click, conversion, clicked, converted)
        best = choose_score([validation])
        chosen.add(best)
        logits = {"click": tf.constant(click), "conversion": tf.constant(conversion)}

        def value(weights) -> float:
            orders = np.argsort(-score(logits, weights).numpy(), axis=1, kind="stable")  # noqa: B023
            return sum(
                np.mean([ndcg(order, y) for order, y in zip(orders, labels, strict=True)])
                for labels in (clicked, converted)  # noqa: B023
            )

        others = [best.model_copy(update={"conversion": b}) for b in (0, 0.25, 0.5, 0.75, 1)]
        assert value(best) >= max(map(value, others)) - 1e-6
    assert len(chosen) > 1


@pytest.mark.parametrize(
    ("click", "conversion", "expected"),
    [
        # The liked item is second by click, and first once conversion counts enough.
        ([[1.0, 0.9]], [[-6.0, 0.0]], lambda b: b > 0),
        # Conversion is noise here: any weight on it puts the wrong item first.
        ([[0.9, 1.0]], [[0.8, -9.0]], lambda b: b == 0),
    ],
)
def test_conversion_counts_as_much_as_it_helps(click, conversion, expected) -> None:
    labels = [[0.0, 1.0]]
    found = choose_score([given(click, conversion, labels, labels)])
    assert found.click == 1
    assert expected(found.conversion)


def test_what_was_rarely_examined_counts_more_in_the_choice() -> None:
    """By clicks as they are, the three at the top outvote the one below."""
    click, conversion = [[1.0, 0.9]] * 4, [[-6.0, 0.0]] * 4
    labels = [[1.0, 0.0]] * 3 + [[0.0, 1.0]]
    validation = given(click, conversion, labels, labels)
    assert choose_score([validation]).conversion == 0
    assert choose_score([validation], np.array([1.0, 0.1])).conversion > 0


def test_padding_has_no_say_in_the_choice() -> None:
    click, conversion = [[1.0, 0.9]], [[-6.0, 0.0]]
    labels = [[0.0, 1.0]]
    validation = given(click, conversion, labels, labels)

    def padded(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {
            name: tf.pad(x, [[0, 0], [0, 3]], constant_values=9.0) for name, x in values.items()
        }

    more = Answered(
        padded(validation.outputs),
        padded(validation.labels),
        tf.pad(validation.mask, [[0, 0], [0, 3]]),
    )
    assert choose_score([more]) == choose_score([validation])


def test_the_chosen_score_reaches_what_training_reached(fitted, learner: str, train) -> None:
    found = fitted(learner)
    metric = {label: metrics.NDCG(label, by="score") for label in LABELS}
    for inputs, labels in train:
        outputs = found.model(inputs, training=False)
        mask = inputs["item_id"] != 0
        for each in metric.values():
            each.update_state(labels, {"score": score(outputs, found.score)}, mask)
    # Each label's own logit is the best order for that label; one order serves both nearly as well.
    assert sum(float(each.result()) for each in metric.values()) / 2 > 0.9
