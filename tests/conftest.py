"""Tiny logs, encoders and fitted re-rankers that many tests share."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import settings

from piano_tf import metrics
from piano_tf.config import (
    Config,
    EncodingConfig,
    ModelConfig,
    PIANOConfig,
    PretrainingConfig,
    TrainingConfig,
)
from piano_tf.data.batches import dataset, padded
from piano_tf.data.encoding import Batch, Encoder
from piano_tf.data.logs import write_log
from piano_tf.data.source import Source
from piano_tf.data.splits import ByShare
from piano_tf.features import LABELS, FeatureSpec
from piano_tf.metrics import NDCG
from piano_tf.models import REGISTRY
from piano_tf.training import FittedReranker, fit

# The same examples in every run, and none kept from earlier ones.
settings.register_profile("piano", derandomize=True, deadline=None, database=None)
settings.load_profile("piano")

Row = dict[str, Any]

SPEC = FeatureSpec(
    dataset="tiny",
    initial_score=True,
    item={"artist": "string", "popularity": "float"},
    user={"country": "string", "plays": "float"},
    context={"device": "string", "hour": "float"},
    history_item={"artist": "string", "popularity": "float"},
)
ARTISTS = ("Björk", "宇多田", "빅뱅", "Кино")
ENCODING = EncodingConfig(query_length=3, history_length=4, oov_buckets=2)
MODEL = ModelConfig(
    width=8,
    heads=2,
    blocks=1,
    dropout=0.0,
    max_rank=6,
    ids=True,
    pretraining=PretrainingConfig(width=4, folds=2),
    # Every part of PIANO, those too that are off where nothing is said.
    piano=PIANOConfig(null_slot=True, gate=True, second_pass=True, exact_match=True),
)
LISTS = 40


class TinyLogs:
    """Lists over a dozen items where whoever is asked for is clicked, and bought if popular."""

    spec = SPEC

    def row(self, number: int, *, candidates: int = 4, history: int = 2, **columns: Any) -> Row:
        """List `number`, shown at second `number`; the same number gives the same list."""
        rng = np.random.default_rng(number)
        shown, past = rng.permutation(12)[:candidates], rng.integers(0, 12, history)
        wanted = ARTISTS[rng.integers(4)]
        click = [int(ARTISTS[item % 4] == wanted) for item in shown]
        return {
            "list_id": f"list-{number}",
            "user_id": f"user-{number % 3}",
            "query": f"{wanted} live",
            "timestamp": number,
            "user_country": "NZ" if number % 2 else "JP",
            "user_plays": float(number),
            "context_device": "phone",
            "context_hour": float(number % 24),
            "item_id": [f"item-{item}" for item in shown],
            "initial_score": [float(candidates - rank) for rank in range(candidates)],
            "item_artist": [ARTISTS[item % 4] for item in shown],
            "item_popularity": [float(item) for item in shown],
            "history_query": [f"{ARTISTS[item % 4]} b-sides" for item in past],
            "history_item_id": [f"item-{item}" for item in past],
            "history_action": ["conversion" if item % 2 else "click" for item in past],
            "history_age": [float(age) for age in range(1, history + 1)],
            "history_item_artist": [ARTISTS[item % 4] for item in past],
            "history_item_popularity": [float(item) for item in past],
            "click": click,
            "conversion": [int(y and item >= 4) for y, item in zip(click, shown, strict=True)],
            **columns,
        }

    def rows(self, count: int) -> list[Row]:
        """Lists of every length from 1 to 6 with histories of every length from 0 to 4."""
        return [
            self.row(number, candidates=1 + number % 6, history=number % 5)
            for number in range(count)
        ]

    def batch(self, rows: Sequence[Row], spec: FeatureSpec = SPEC) -> pa.RecordBatch:
        return pa.RecordBatch.from_pylist(list(rows), schema=spec.arrow_schema)

    def raw(self, rows: Sequence[Row], *, labels: bool = True) -> Batch:
        """The rows as a padded raw batch of tensors."""
        columns = padded(self.batch(rows), SPEC, labels=labels)
        return {name: tf.constant(values) for name, values in columns.items()}

    def source(self, rows: Sequence[Row], *, size: int = 4, spec: FeatureSpec = SPEC) -> Source:
        """The rows as a source of batches of `size` lists."""
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        return Source(spec, iter([self.batch(part, spec) for part in parts]), len(rows))

    def write(self, folder: Path, rows: Sequence[Row], spec: FeatureSpec = SPEC) -> Path:
        write_log(self.source(rows, spec=spec), folder, ByShare(validation=0.25, test=0.25))
        return folder


@pytest.fixture(scope="session")
def tiny() -> TinyLogs:
    return TinyLogs()


@pytest.fixture(scope="session")
def log_dir(tiny: TinyLogs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A written log of 40 lists: 20 to train, 10 to validate, 10 to test."""
    return tiny.write(tmp_path_factory.mktemp("tiny") / "log", tiny.rows(LISTS))


@pytest.fixture(scope="session")
def encoder(log_dir: Path) -> Encoder:
    return Encoder.fit(log_dir, ENCODING)


@pytest.fixture(scope="session")
def tiny_model() -> ModelConfig:
    """The sizes of every model in these tests."""
    return MODEL


@pytest.fixture(scope="session")
def fitted(log_dir: Path, encoder: Encoder) -> Callable[[str], FittedReranker]:
    """A re-ranker by name that knows the training lists by heart: they are its validation too.

    Its metrics are the two NDCGs, for the graphs of the AUCs take longer to build than its own.
    """
    known: dict[str, FittedReranker] = {}

    def fitted_by(name: str) -> FittedReranker:
        if name not in known:
            config = Config(
                model=MODEL.model_copy(update={"name": name}),
                training=TrainingConfig(epochs=40, learning_rate=0.03, patience=40),
            )
            lists = dataset(log_dir, "train", encoder, batch_size=20).cache()
            with mock.patch.object(metrics, "default_metrics", lambda _: [*map(NDCG, LABELS)]):
                known[name] = fit(lists, lists, encoder.inputs, config, verbose=0)
        return known[name]

    return fitted_by


@pytest.fixture(params=sorted(REGISTRY))
def name(request: pytest.FixtureRequest) -> str:
    """Every re-ranker's name in turn."""
    return request.param


@pytest.fixture
def policy() -> Iterator[Callable[[str], None]]:
    """Sets Keras's global precision policy for one test."""
    before = tf.keras.mixed_precision.global_policy()
    yield tf.keras.mixed_precision.set_global_policy
    tf.keras.mixed_precision.set_global_policy(before)


def padded_by(raw: Mapping[str, tf.Tensor], *, items: int = 0, history: int = 0) -> Batch:
    """A raw batch with further columns of padding."""

    def more(name: str, values: tf.Tensor) -> tf.Tensor:
        if values.shape.rank == 1:
            return values
        extra = history if name.startswith("history_") else items
        empty = tf.zeros([], values.dtype)
        return tf.pad(values, [[0, 0], [0, extra]], constant_values=empty)

    return {name: more(name, values) for name, values in raw.items()}


@pytest.fixture(scope="session")
def pad_more() -> Callable[..., Batch]:
    return padded_by
