"""Trainer: why it starts from scratch, which ends no run."""

from __future__ import annotations

import datetime as dt
import functools
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from piano_tf.config import Config, ModelConfig, ScoreConfig, TrainingConfig
from piano_tf.data.batches import dataset
from piano_tf.data.encoding import Encoder
from piano_tf.export import ModelCard
from piano_tf.training import fit
from piano_tf.warm_start import Earlier, WarmStart, weight_name
from tfx_pipeline.configs import PipelineConfig
from tfx_pipeline.pipeline import create_pipeline
from tfx_pipeline.trainer import fit_from

DAY = dt.date(2026, 7, 1)


@pytest.mark.parametrize(
    ("changes", "remembers", "why"),
    [
        ({}, True, "the log is not divided into days"),
        ({"day": DAY, "warm_start": False}, True, "it was asked for"),
        ({"day": DAY}, True, "no model of an earlier day is blessed"),
        ({"day": DAY}, False, "this orchestrator starts from no earlier model"),
    ],
)
def test_trainer_is_told_why_it_would_start_from_scratch(
    log_dir: Path, tmp_path: Path, changes: dict, remembers: bool, why: str
) -> None:
    shutil.copytree(log_dir, tmp_path / "days" / DAY.isoformat())
    logs = tmp_path / "days" if changes else log_dir
    config = PipelineConfig(logs=logs, home=tmp_path / "home", **changes)
    stages = create_pipeline(config, remembers=remembers).components
    (trainer,) = (one for one in stages if one.id == "Trainer")
    assert json.loads(trainer.exec_properties["custom_config"])["no_start"] == why


@pytest.fixture(scope="module")
def config(tiny_model: ModelConfig, encoder: Encoder) -> Config:
    model = tiny_model.model_copy(update={"name": "dnn", "pretraining": None})
    return Config(model=model, encoding=encoder.encoding, training=TrainingConfig(epochs=1))


def test_other_layers_mean_training_from_scratch(
    config: Config, log_dir: Path, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    lists = dataset(log_dir, "train", encoder, batch_size=20).cache()
    training = functools.partial(fit, lists, lists, encoder.inputs, config, verbose=0)
    fresh, started = fit_from(None, training)
    assert not started
    card = ModelCard(inputs=encoder.inputs, config=config, score=ScoreConfig())
    weights = tuple(variable.numpy() for variable in fresh.model.variables)
    names = tuple(weight_name(variable.name) for variable in fresh.model.variables)
    strings = {
        name: [one.encode() for one in found] for name, found in encoder.vocabularies.items()
    }
    _, started = fit_from(WarmStart(Earlier(card, weights, names, strings), strings), training)
    assert started

    with caplog.at_level(logging.INFO):
        lost = WarmStart(Earlier(card, weights[:-1], names[:-1], strings), strings)
        found, started = fit_from(lost, training)
    assert not started
    (told,) = (one for one in caplog.messages if one.startswith("from scratch after all: "))
    assert f"got {len(weights) - 1} weights, expected {len(weights)}" in told
    for weight, variable in zip(weights, found.model.variables, strict=True):
        np.testing.assert_array_equal(variable, weight)
