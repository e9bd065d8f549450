"""Trainer's `run_fn`: the library's training on Transform's output, and the exported model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf
import tensorflow_transform as tft
from tfx import v1 as tfx

from piano_tf.checkpoints import Checkpoints, fingerprint
from piano_tf.config import Config
from piano_tf.export import ModelCard, ServingModule, export_model, require_exportable
from piano_tf.features import LABELS, FeatureSpec, InputSpec
from piano_tf.hardware import choose_strategy, is_chief
from piano_tf.training import fit
from tfx_pipeline.progress import NEWS
from tfx_pipeline.transform import EncodingSpec, TransformEncoder, encoded_dataset, input_spec

_HOME = "PIANO_HOME"  # as in tfx_pipeline.configs
_CONFIG = "config"
_FEATURES = "features"


def custom_config(config: Config, features: FeatureSpec) -> dict[str, str]:
    """What `run_fn` must be told, as Trainer's `custom_config`."""
    return {_CONFIG: config.model_dump_json(), _FEATURES: features.model_dump_json()}


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
    train = encoded_dataset(
        fn_args.train_files, output, spec, batch_size=size, shuffle_seed=config.training.seed
    )
    validation = encoded_dataset(fn_args.eval_files, output, spec, batch_size=size)
    callbacks = [
        tf.keras.callbacks.TensorBoard(fn_args.model_run_dir),
        tf.keras.callbacks.LambdaCallback(on_epoch_end=_tell),
    ]
    fitted = fit(
        train,
        validation,
        inputs,
        config,
        callbacks=callbacks if is_chief(strategy) else (),
        strategy=strategy,
        checkpoints=_checkpoints(fn_args, config, inputs),
        verbose=2,
    )
    if not is_chief(strategy):
        return
    NEWS.info("score: log p(click) + %g log p(conversion | click)", fitted.score.conversion)
    module = ServingModule(fitted.model, TransformEncoder(output, spec), features, fitted.score)
    card = ModelCard(inputs=inputs, config=config, score=fitted.score)
    export_model(module, card, Path(fn_args.serving_model_dir))


def _checkpoints(
    fn_args: tfx.components.FnArgs, config: Config, inputs: InputSpec
) -> Checkpoints | None:
    """Under the pipeline's home, for TFX removes the outputs of what failed; without one, none."""
    home = os.environ.get(_HOME)
    if not home:
        return None
    patterns = [*fn_args.train_files, *fn_args.eval_files]
    files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))
    name = fingerprint(config, inputs, files)
    return Checkpoints(Path(home).absolute() / "checkpoints" / name, name)


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
