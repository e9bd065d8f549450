"""Trainer's `run_fn`: the library's training on Transform's output, and the exported model."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import tensorflow as tf
import tensorflow_transform as tft
from tfx import v1 as tfx

from piano_tf.checkpoints import Checkpoints, fingerprint
from piano_tf.config import Config
from piano_tf.data.encoding import learnt_vocabularies
from piano_tf.errors import PianoError
from piano_tf.export import ModelCard, ServingModule, export_model, require_exportable
from piano_tf.features import LABELS, SPLITS, FeatureSpec, InputSpec
from piano_tf.hardware import choose_strategy, is_chief
from piano_tf.training import FittedReranker, fit
from piano_tf.warm_start import Earlier, WarmStart, WarmStartError
from tfx_pipeline.configs import PipelineConfig
from tfx_pipeline.progress import NEWS
from tfx_pipeline.transform import EncodingSpec, TransformEncoder, encoded_dataset, input_spec

CODE = "code"
"""Key of the custom configuration of all stages: a fingerprint of our own source."""
_CONFIG = "config"
_FEATURES = "features"
_CHECKPOINTS = "checkpoints"
_NO_START = "no_start"


def custom_config(config: PipelineConfig, features: FeatureSpec, no_start: str) -> dict[str, str]:
    """What `run_fn` must be told, as Trainer's `custom_config`.

    Args:
      config: Of the run.
      features: Of its log.
      no_start: Why training starts from no earlier model, where it is given none.
    """
    return {
        _NO_START: no_start,
        _CONFIG: config.config.model_dump_json(),
        _FEATURES: features.model_dump_json(),
        _CHECKPOINTS: str(config.checkpoints),
    }


def splits(config: PipelineConfig, *, newest: bool = False) -> list[str]:
    """The splits of a day that are trained on: of the newest, or of the days before it."""
    return [SPLITS[0]] if newest or config.day is None else [*SPLITS]


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Trains with early stopping on validation, logs to TensorBoard, and writes the SavedModel.

    A run that was interrupted goes on from its last checkpoint. Of several workers the chief alone
    writes.
    """
    strategy = choose_strategy()
    config = Config.from_json(fn_args.custom_config[_CONFIG])
    require_exportable(config.model)
    features = FeatureSpec.from_json(fn_args.custom_config[_FEATURES])
    spec = EncodingSpec(features=features, encoding=config.encoding)
    output = tft.TFTransformOutput(fn_args.transform_output)
    tf.keras.utils.set_random_seed(config.training.seed)  # shuffling depends on it too
    inputs = input_spec(output, spec)
    size = config.training.batch_size
    train_files, validation_files = _files(fn_args.train_files, fn_args.eval_files)
    days = len(fn_args.eval_files)
    if len(fn_args.train_files) > days:
        NEWS.info("training on %d %s", days, "day" if days == 1 else "days")
    train = encoded_dataset(
        train_files,
        output,
        spec,
        batch_size=size,
        shuffle_seed=config.training.seed,
        cache=config.training.cache,
    )
    validation = encoded_dataset(validation_files, output, spec, batch_size=size)
    callbacks = [
        tf.keras.callbacks.TensorBoard(fn_args.model_run_dir),
        tf.keras.callbacks.LambdaCallback(on_epoch_end=_tell),
    ]
    warm_start = _warm_start(fn_args, output, inputs, config)
    training = functools.partial(
        fit,
        train,
        validation,
        inputs,
        config,
        callbacks=callbacks if is_chief(strategy) else (),
        strategy=strategy,
        checkpoints=_checkpoints(fn_args, config, inputs, strategy),
        verbose=2,
    )
    fitted, started = fit_from(warm_start, training)
    if not is_chief(strategy):
        return
    NEWS.info("score: log p(click) + %g log p(conversion | click)", fitted.score.conversion)
    module = ServingModule(fitted.model, TransformEncoder(output, spec), features, fitted.score)
    card = ModelCard(
        inputs=inputs,
        config=config,
        score=fitted.score,
        started_from=fn_args.base_model if started else None,
    )
    export_model(module, card, Path(fn_args.serving_model_dir))


def fit_from(
    start: WarmStart | None, training: Callable[..., FittedReranker]
) -> tuple[FittedReranker, bool]:
    """Trains from an earlier model; from scratch where its weights turn out to be others.

    Args:
      start: The earlier model, if there is one.
      training: `fit`, but for its `warm_start`.

    Returns:
      What came of it, and whether it started from the earlier model.
    """
    try:
        return training(warm_start=start), start is not None
    except WarmStartError as error:  # known once the model is built, before its first step
        NEWS.info("from scratch after all: %s", error)
        return training(warm_start=None), False


def _files(train: list[str], validation: list[str]) -> tuple[list[str], list[str]]:
    """What to train on, and what to stop by: of the run's own day, the last, a split each.

    Of the days before it everything is trained on.

    Args:
      train: Of each of `splits`, the days' files.
      validation: The days' files.
    """
    days = len(validation)
    return [
        *(one for place, one in enumerate(train) if (place + 1) % days),
        train[days - 1],
    ], validation[-1:]


def _warm_start(
    fn_args: tfx.components.FnArgs,
    output: tft.TFTransformOutput,
    inputs: InputSpec,
    config: Config,
) -> WarmStart | None:
    """Where training starts from, if that is no fresh model."""
    base_model = fn_args.base_model
    if base_model is None:
        NEWS.info("from scratch: %s", fn_args.custom_config[_NO_START])
        return None
    learnt = learnt_vocabularies(inputs.features, inputs.encoding)
    vocabularies = {name: output.vocabulary_by_name(name) for name in learnt}
    try:
        earlier = Earlier.load(Path(base_model))
    except PianoError as error:
        NEWS.info("from scratch: %s", error)
        return None
    if (obstacle := earlier.obstacle(inputs, config.model, vocabularies)) is not None:
        NEWS.info("from scratch: %s cannot be started from, as %s", base_model, obstacle)
        return None
    start = WarmStart(earlier, vocabularies)
    new = ", ".join(f"{count:,} of {name}" for name, count in start.new_ids().items() if count)
    NEWS.info("a warm start from %s (new ids: %s)", base_model, new or "none")
    return start


def _checkpoints(
    fn_args: tfx.components.FnArgs,
    config: Config,
    inputs: InputSpec,
    strategy: tf.distribute.Strategy,
) -> Checkpoints:
    """Where no stage's outputs are, for TFX removes those of what failed."""
    patterns = [*fn_args.train_files, *fn_args.eval_files]
    files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))
    if fn_args.base_model is not None:
        files += sorted(tf.io.gfile.glob(f"{fn_args.base_model}/variables/*"))
    name = f"{fingerprint(config, inputs, files)}-{fn_args.custom_config[CODE]}"
    folder = Path(fn_args.custom_config[_CHECKPOINTS])
    for other in folder.glob("*") if is_chief(strategy) else ():
        if other.name != name:  # of a run that was killed, and then not wanted any more
            shutil.rmtree(other)
    checkpoints = Checkpoints(folder / name, name)
    if (position := checkpoints.position()) is not None:
        NEWS.info("going on after step %d of epoch %d", position.step, position.epoch + 1)
    return checkpoints


def _tell(epoch: int, logs: Mapping[str, float]) -> None:
    """A line per epoch for the person who waits."""
    click, conversion = (logs[f"val_{label}_ndcg_10"] for label in LABELS)
    NEWS.info(
        "epoch %d: loss %.4f, validation loss %.4f, NDCG@10 click %.4f, conversion %.4f",
        epoch + 1,
        logs["loss"],
        logs["val_loss"],
        click,
        conversion,
    )
