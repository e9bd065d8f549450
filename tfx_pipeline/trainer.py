"""Trainer's `run_fn`: the library's training on Transform's output, and the exported model."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
import tensorflow_transform as tft
from tfx import v1 as tfx

from piano_tf.config import Config
from piano_tf.export import ModelCard, ServingModule, export_model
from piano_tf.features import FeatureSpec
from piano_tf.training import fit
from tfx_pipeline.transform import EncodingSpec, TransformEncoder, encoded_dataset, input_spec

_CONFIG = "config"
_FEATURES = "features"


def custom_config(config: Config, features: FeatureSpec) -> dict[str, str]:
    """What `run_fn` must be told, as Trainer's `custom_config`."""
    return {_CONFIG: config.model_dump_json(), _FEATURES: features.model_dump_json()}


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Trains with early stopping on validation, logs to TensorBoard, and writes the SavedModel."""
    config = Config.from_json(fn_args.custom_config[_CONFIG])
    features = FeatureSpec.from_json(fn_args.custom_config[_FEATURES])
    spec = EncodingSpec(features=features, encoding=config.encoding)
    output = tft.TFTransformOutput(fn_args.transform_output)
    inputs = input_spec(output, spec)
    size = config.training.batch_size
    train = encoded_dataset(
        fn_args.train_files, output, spec, batch_size=size, shuffle_seed=config.training.seed
    )
    validation = encoded_dataset(fn_args.eval_files, output, spec, batch_size=size)
    fitted = fit(
        train,
        validation,
        inputs,
        config,
        callbacks=[tf.keras.callbacks.TensorBoard(fn_args.model_run_dir)],
        verbose=2,
    )
    module = ServingModule(fitted.model, TransformEncoder(output, spec), features, fitted.score)
    card = ModelCard(inputs=inputs, config=config, score=fitted.score)
    export_model(module, card, Path(fn_args.serving_model_dir))
