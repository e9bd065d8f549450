"""Configuration and logs to a fitted re-ranker: where loss, metrics, optimiser and data meet."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from piano_tf import metrics, models
from piano_tf.calibration import Answered, calibrate
from piano_tf.checkpoints import Checkpointing, Checkpoints, fingerprint
from piano_tf.config import (
    Config,
    DebiasingConfig,
    EncodingConfig,
    PretrainingConfig,
    ScoreConfig,
    TrainingConfig,
)
from piano_tf.data.batches import dataset
from piano_tf.data.encoding import Encoder
from piano_tf.data.logs import split_files
from piano_tf.epochs import Position, run_epochs
from piano_tf.errors import ConfigError
from piano_tf.features import CLICK, CONVERSION, LABELS, InputSpec
from piano_tf.hardware import choose_strategy, is_chief, precision, require_compilable
from piano_tf.losses import RerankingLoss
from piano_tf.optimizer import FusedAdam
from piano_tf.pretraining import interactions_of, pretrain
from piano_tf.propensity import read_examination
from piano_tf.rerank import score
from piano_tf.warm_start import WarmStart

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

    model: models.Reranker | models.LambdaMART
    score: ScoreConfig
    history: Mapping[str, list[float]]


def fit(
    train: tf.data.Dataset,
    validation: tf.data.Dataset,
    inputs: InputSpec,
    config: Config,
    *,
    vectors: Mapping[str, np.ndarray] | None = None,
    propensity: np.ndarray | None = None,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
    strategy: tf.distribute.Strategy | None = None,
    checkpoints: Checkpoints | None = None,
    warm_start: WarmStart | None = None,
    verbose: str | int = "auto",
) -> FittedReranker:
    """Trains a model; keeps its best epoch, calibrates and chooses the score on validation.

    Args:
      train: Shuffled batches of (inputs, labels).
      validation: Batches of (inputs, labels).
      inputs: The inputs' columns and vocabularies.
      config: Model, loss and training.
      vectors: Pre-trained vectors (`piano_tf.pretraining.pretrain`); learnt from `train` where the
        configuration wants them and none are given.
      propensity: [K] by which clicks are weighted, in the loss and in the NDCG that stops training
        and chooses the score; needed where `config.training.debiasing` is.
      callbacks: Further Keras callbacks.
      strategy: Where to train; on what there is (`piano_tf.hardware.choose_strategy`) unless given.
        However many replicas it has, a batch is one batch.
      checkpoints: Where checkpoints are written, and where training goes on if there are any.
      warm_start: The earlier model that this one starts from; None is a fresh start.
      verbose: As in `tf.keras.Model.fit`.

    Raises:
      ConfigError: Debiasing is configured, and there are no propensities, or a model or a loss that
        cannot be weighted by them; or XLA is, and there are several replicas.
      WarmStartError: The earlier model's weights are others; nothing has been trained.
      PianoError: The checkpoints there are of another training.
    """
    if config.training.debiasing is not None and config.model.name in models.TREES:
        raise ConfigError(
            f"training.debiasing: {config.model.name!r} has no weights for single clicks; "
            "expected null"
        )
    if config.training.debiasing is not None and propensity is None:
        raise ConfigError(
            "training.debiasing: needs propensities, which only training on a log estimates "
            "(`piano train`, `piano compare`); expected null"
        )
    strategy = strategy or choose_strategy()
    if config.training.xla:
        require_compilable(strategy)
    tf.keras.utils.set_random_seed(config.training.seed)
    with strategy.scope(), precision(config.training.mixed_precision):
        model = models.build(inputs, config.model)
        toward = None
        # Replicas that make a model's layers together draw other first weights than one does.
        several = strategy.num_replicas_in_sync > 1
        needs_weights = checkpoints or warm_start or config.training.mixed_precision or several
        if isinstance(model, models.Reranker) and needs_weights:
            model(next(iter(validation))[0])  # every layer is made here, and as it should be
            if warm_start is not None:
                warm_start.give(model)
                toward = warm_start.vectors(model)
    if config.model.pretraining is not None:
        if vectors is None:
            interactions = interactions_of(train)
            seed = config.training.seed
            vectors = pretrain(
                interactions, inputs, config.model.pretraining, toward=toward, seed=seed
            )
        model.assign_vectors(vectors)
    if not isinstance(model, models.Reranker):
        model.fit_lists(train, validation, seed=config.training.seed)
        return _finished(model, validation, config, {}, None)
    with strategy.scope():
        model.compile(
            optimizer=FusedAdam(config.training.learning_rate),
            loss=RerankingLoss(config.loss, propensity),
            metrics=metrics.default_metrics(propensity),
            jit_compile=config.training.xla,
        )
        if checkpoints:
            model.optimizer.build(model.trainable_variables)
    history, stopping = _History(), _EarlyStopping(config.training.patience)
    own: list[tf.keras.callbacks.Callback] = [
        tf.keras.callbacks.LearningRateScheduler(
            lambda epoch: _learning_rate(epoch, config.training)
        ),
        stopping,
        history,
    ]
    start = Position()
    if checkpoints:
        checkpointing = Checkpointing(
            checkpoints,
            every=config.training.checkpoint_steps,
            kept=[(stopping, stopping.STATE), (history, ("of_epochs",))],
            stopping=stopping,
            writes=is_chief(strategy),
        )
        start = checkpointing.start
        own.append(checkpointing)
    run_epochs(
        model,
        train,
        validation,
        epochs=config.training.epochs,
        strategy=strategy,
        callbacks=[*own, *callbacks],
        start=start,
        verbose=verbose,
    )
    if config.training.mixed_precision:
        model = _in_full_precision(model, validation)
    fitted = _finished(model, validation, config, history.of_epochs, propensity)
    if checkpoints and is_chief(strategy):
        checkpoints.remove()
    return fitted


def _in_full_precision(model: models.Reranker, validation: tf.data.Dataset) -> models.Reranker:
    """The same weights, which were of full precision all along, in a model that computes so."""
    with precision("float32"):
        full = models.build(model.inputs_spec, model.config)
        assert isinstance(full, models.Reranker)
        full(next(iter(validation))[0])
    full.set_weights(model.get_weights())
    return full


def _finished(
    model: models.Reranker | models.LambdaMART,
    validation: tf.data.Dataset,
    config: Config,
    history: Mapping[str, list[float]],
    propensity: np.ndarray | None,
) -> FittedReranker:
    """Calibrated, and with the score chosen from what it then says."""
    answered = calibrate(model, validation, config.loss.list_target)
    return FittedReranker(model, choose_score(answered, propensity), history)


def _learning_rate(epoch: int, config: TrainingConfig) -> float:
    """Half a cosine from the first epoch's rate to 0 after the last."""
    return config.learning_rate * (1 + math.cos(math.pi * epoch / config.epochs)) / 2


def fit_log(
    log: EncodedLog,
    config: Config,
    *,
    checkpoints: Path | None = None,
    verbose: str | int = "auto",
) -> FittedReranker:
    """Pre-trains and fits on the train split of a log, with its validation split to choose by.

    Args:
      log: A log, encoded as `config.encoding` says.
      config: Everything.
      checkpoints: Folder where checkpoints are written every `config.training.checkpoint_steps`,
        and where an interrupted training goes on; none are without one.
      verbose: As in `tf.keras.Model.fit`.
    """
    tf.keras.utils.set_random_seed(config.training.seed)  # shuffling depends on it too
    size, seed = config.training.batch_size, config.training.seed
    saved = None
    if checkpoints is not None:
        splits = ("train", "validation")
        files = [file for split in splits for file in split_files(log.log_dir, split)]
        saved = Checkpoints(checkpoints, fingerprint(config, log.encoder.inputs, files))
        saved.newest()  # another training's are found before long work
    return fit(
        log.batches("train", size, shuffle_seed=seed),
        log.batches("validation", size),
        log.encoder.inputs,
        config,
        vectors=log.vectors(config.model.pretraining, seed),
        propensity=log.propensity(config.training.debiasing),
        checkpoints=saved,
        verbose=verbose,
    )


class EncodedLog:
    """A log encoded in Keras once, for as many models as are trained on it.

    Encoded lists are kept in a temporary folder, pre-trained vectors in memory. Used in a `with`
    statement, which removes the folder.

    Args:
      log_dir: A folder written by `piano logs`.
      encoding: The encoding configuration.
    """

    def __init__(self, log_dir: Path, encoding: EncodingConfig | None = None) -> None:
        self.log_dir = Path(log_dir)
        self.encoder = Encoder.fit(self.log_dir, encoding)
        self._scratch = tempfile.TemporaryDirectory()
        self._vectors: dict[tuple[PretrainingConfig, int], dict[str, np.ndarray]] = {}

    def __enter__(self) -> EncodedLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._scratch.cleanup()

    def batches(
        self, split: str, batch_size: int, *, shuffle_seed: int | None = None
    ) -> tf.data.Dataset:
        """Batches of (inputs, labels), as `piano_tf.data.batches.dataset`."""
        return dataset(
            self.log_dir,
            split,
            self.encoder,
            batch_size=batch_size,
            shuffle_seed=shuffle_seed,
            cache=Path(self._scratch.name) / split,
        )

    def vectors(
        self, config: PretrainingConfig | None, seed: int = 0
    ) -> dict[str, np.ndarray] | None:
        """Vectors learnt from the train split, once per configuration and seed; None for None."""
        if config is None:
            return None
        if config.method == "factorisation":
            seed = 0  # it comes to the same whatever the seed
        key = config, seed
        if key not in self._vectors:
            interactions = interactions_of(self.batches("train", 1024))
            self._vectors[key] = pretrain(interactions, self.encoder.inputs, config, seed=seed)
        return self._vectors[key]

    def propensity(self, config: DebiasingConfig | None) -> np.ndarray | None:
        """[K] examination by rank, estimated on the train split and clipped; None for None.

        Raises:
          LogError: The log has no such column.
          PianoError: The log cannot tell.
        """
        if config is None:
            return None
        found = read_examination(self.log_dir, depth=config.depth, randomised=config.randomised)
        return np.maximum(found.propensity, config.clip)


class _History(tf.keras.callbacks.Callback):
    """Keeps what each epoch came to."""

    def __init__(self) -> None:
        super().__init__()
        self.of_epochs: dict[str, list[float]] = {}

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        for name, value in (logs or {}).items():
            self.of_epochs.setdefault(name, []).append(float(value))


class _EarlyStopping(tf.keras.callbacks.EarlyStopping):
    """Stops on the mean of click and conversion NDCG@10 on validation, and restores the best."""

    # What it remembers from epoch to epoch, beside the best weights.
    STATE = ("wait", "stopped_epoch", "best", "best_epoch")

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


def choose_score(answered: Iterable[Answered], propensity: np.ndarray | None = None) -> ScoreConfig:
    """The score weights with the best mean of click and conversion NDCG@10 [ours].

    Args:
      answered: Validation, as a trained model answers it (`piano_tf.calibration.calibrate`).
      propensity: [K] by which gains are weighted, as in `metrics.NDCG`.
    """
    choices = [ScoreConfig(click=1.0, conversion=weight) for weight in _CONVERSION_WEIGHTS]
    found = {
        choice: [
            metrics.NDCG(label, by="score", propensity=propensity) for label in (CLICK, CONVERSION)
        ]
        for choice in choices
    }
    for outputs, labels, mask in answered:
        for choice, pair in found.items():
            for metric in pair:
                metric.update_state(labels, {"score": score(outputs, choice)}, mask)
    return max(choices, key=lambda choice: sum(float(metric.result()) for metric in found[choice]))
