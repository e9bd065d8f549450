"""Configuration and logs to a fitted re-ranker: where loss, metrics, optimiser and data meet."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf

from piano_tf import metrics, models
from piano_tf.config import Config, ScoreConfig
from piano_tf.data.batches import dataset
from piano_tf.data.encoding import Encoder
from piano_tf.features import CLICK, CONVERSION, LABELS, Axis, InputSpec
from piano_tf.losses import RerankingLoss
from piano_tf.masks import mask_of
from piano_tf.rerank import score

# b for a = 1: from the order by click alone (0) to that by click and conversion (1). A larger b
# would hold a likely click against an item of equal p(click and conversion).
_CONVERSION_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclasses.dataclass(frozen=True)
class FittedReranker:
    """A trained model and the score that orders its predictions.

    Attributes:
      model: The re-ranker, with the weights of its best epoch.
      score: a and b of the ranking score, chosen on validation.
      history: Metric name -> value per epoch.
    """

    model: models.Reranker
    score: ScoreConfig
    history: Mapping[str, list[float]]


def fit(
    train: tf.data.Dataset,
    validation: tf.data.Dataset,
    inputs: InputSpec,
    config: Config,
    *,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
) -> FittedReranker:
    """Trains a fresh model, keeps its best epoch on validation, and chooses the score there.

    Args:
      train: Shuffled batches of (inputs, labels).
      validation: Batches of (inputs, labels).
      inputs: The inputs' columns and vocabularies.
      config: Model, loss and training.
      callbacks: Further Keras callbacks.
      verbose: As in `tf.keras.Model.fit`.
    """
    tf.keras.utils.set_random_seed(config.training.seed)
    model = models.build(inputs, config.model)
    model.compile(
        optimizer=tf.keras.optimizers.Adam(config.training.learning_rate),
        loss=RerankingLoss(config.loss),
        metrics=metrics.default_metrics(),
    )
    history = model.fit(
        train,
        validation_data=validation,
        epochs=config.training.epochs,
        callbacks=[_EarlyStopping(config.training.patience), *callbacks],
        verbose=verbose,
    )
    return FittedReranker(model, choose_score(model, validation), history.history)


def fit_log(
    log_dir: Path, config: Config, *, verbose: str | int = "auto"
) -> tuple[FittedReranker, Encoder]:
    """`fit` on the train and validation splits of a log, encoded in Keras.

    Args:
      log_dir: A folder written by `piano logs`.
      config: Everything.
      verbose: As in `tf.keras.Model.fit`.
    """
    tf.keras.utils.set_random_seed(config.training.seed)  # shuffling depends on it too
    encoder = Encoder.fit(log_dir, config.encoding)
    with tempfile.TemporaryDirectory() as scratch:
        size, seed = config.training.batch_size, config.training.seed
        train = dataset(
            log_dir,
            "train",
            encoder,
            batch_size=size,
            shuffle_seed=seed,
            cache=Path(scratch) / "train",
        )
        validation = dataset(
            log_dir, "validation", encoder, batch_size=size, cache=Path(scratch) / "validation"
        )
        return fit(train, validation, encoder.inputs, config, verbose=verbose), encoder


class _EarlyStopping(tf.keras.callbacks.EarlyStopping):
    """Stops on the mean of click and conversion NDCG@10 on validation, and restores the best."""

    def __init__(self, patience: int) -> None:
        super().__init__(
            monitor="val_ndcg_10", mode="max", patience=patience, restore_best_weights=True
        )

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        super().on_train_end(logs)
        if self.best_weights is not None:  # Keras restores them only where it stops early
            self.model.set_weights(self.best_weights)

    def get_monitor_value(self, logs: Mapping[str, float]) -> float:
        return sum(logs[f"val_{label}_ndcg_10"] for label in LABELS) / len(LABELS)


def choose_score(model: models.Reranker, validation: tf.data.Dataset) -> ScoreConfig:
    """The score weights with the best mean of click and conversion NDCG@10 [ours].

    Args:
      model: Trained.
      validation: Batches of (inputs, labels).
    """
    choices = [ScoreConfig(click=1.0, conversion=weight) for weight in _CONVERSION_WEIGHTS]
    found = {
        choice: [metrics.NDCG(label, by="score") for label in (CLICK, CONVERSION)]
        for choice in choices
    }
    for inputs, labels in validation:
        outputs = model(inputs, training=False)
        mask = mask_of(inputs, Axis.ITEM)
        for choice, pair in found.items():
            for metric in pair:
                metric.update_state(labels, {"score": score(outputs, choice)}, mask)
    return max(choices, key=lambda choice: sum(float(metric.result()) for metric in found[choice]))
