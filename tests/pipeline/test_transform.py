"""One encoding in three places, for queries in every script: Keras, tf.Transform, an export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from query_examples import EXAMPLES
from tensorflow_transform import beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata

from piano_tf.config import Config, EncodingConfig, ModelConfig, ScoreConfig
from piano_tf.data.batches import raw_specs
from piano_tf.data.encoding import Encoder
from piano_tf.export import ModelCard, ServingModule, export_model
from piano_tf.features import LABELS
from piano_tf.models import build
from tfx_pipeline.transform import EncodingSpec, TransformEncoder, input_spec, preprocessing_fn

ENCODING = EncodingConfig(
    query_length=9,
    history_length=2,
    oov_buckets=3,
    # One of each kind that learns nothing from data, or is no full table.
    tables={
        "user_id": {"buckets": 10_000_000_000, "compositional": True},
        "item_artist": {"buckets": 7},
        "user_country": {"compositional": True},
    },
)
QUERIES = [query for query, _ in EXAMPLES]
TEXTS = [query for query in QUERIES if isinstance(query, str)]  # a log holds nothing else

Row = dict[str, Any]
Batch = dict[str, tf.Tensor]


@pytest.fixture(scope="module")
def train_rows(tiny) -> list[Row]:
    """Lists with two of three queries, each a past query of another list too."""
    known = [query for number, query in enumerate(TEXTS) if number % 3]
    return [
        tiny.row(number, query=query, history_query=[known[number - 1], "live"], history=2)
        for number, query in enumerate(known)
    ]


@pytest.fixture(scope="module")
def raw(tiny) -> Batch:
    """A list for every query, which is a past query too."""
    batch = tiny.raw([tiny.row(number, history=2) for number in range(len(QUERIES))], labels=False)
    batch["query"] = tf.constant(QUERIES)
    batch["history_query"] = tf.stack([batch["query"], tf.reverse(batch["query"], [0])], axis=1)
    return batch


@pytest.fixture(scope="module")
def keras_encoder(tiny, train_rows, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    # As many lists again, later ones, are for validation and test.
    later = [tiny.row(len(train_rows) + number) for number in range(len(train_rows))]
    folder = tmp_path_factory.mktemp("keras") / "log"
    return Encoder.fit(tiny.write(folder, [*train_rows, *later]), ENCODING)


@pytest.fixture(scope="module")
def transformed(
    tiny, train_rows, tmp_path_factory: pytest.TempPathFactory
) -> tft.TFTransformOutput:
    """What tf.Transform learns from the same lists."""
    folder = tmp_path_factory.mktemp("transform")
    columns = raw_specs(tiny.spec).items()
    metadata = dataset_metadata.DatasetMetadata.from_feature_spec(
        {name: tf.io.VarLenFeature(spec.dtype) for name, spec in columns}
    )
    examples = [
        {name: value if isinstance(value, list) else [value] for name, value in row.items()}
        for row in train_rows
    ]
    spec = EncodingSpec(features=tiny.spec, encoding=ENCODING)
    with tft_beam.Context(temp_dir=str(folder / "temp")):
        transform_fn = (examples, metadata) | tft_beam.AnalyzeDataset(
            lambda inputs: preprocessing_fn(inputs, spec.custom_config())
        )
        transform_fn | tft_beam.WriteTransformFn(str(folder / "output"))
    return tft.TFTransformOutput(str(folder / "output"))


@pytest.fixture(scope="module")
def encoders(tiny, keras_encoder, transformed) -> dict[str, Callable[[Batch], Batch]]:
    spec = EncodingSpec(features=tiny.spec, encoding=ENCODING)
    return {"keras": keras_encoder, "transform": TransformEncoder(transformed, spec)}


def test_vocabularies_are_the_same(tiny, keras_encoder: Encoder, transformed) -> None:
    for name, expected in keras_encoder.vocabularies.items():
        assert [s.decode() for s in transformed.vocabulary_by_name(name)] == [*expected], name
    assert len(keras_encoder.vocabularies["query"]) > 100
    assert {"user_id", "item_artist"}.isdisjoint(keras_encoder.vocabularies)
    spec = EncodingSpec(features=tiny.spec, encoding=ENCODING)
    assert input_spec(transformed, spec) == keras_encoder.inputs


def test_ids_are_the_same(encoders, raw: Batch) -> None:
    keras, transform = (encoder(raw) for encoder in encoders.values())
    assert keras.keys() == transform.keys()
    for name, values in keras.items():
        np.testing.assert_allclose(values, transform[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert keras["query"].dtype == transform["query"].dtype == tf.int64


def test_ids_are_the_same_in_a_dataset(encoders, raw: Batch) -> None:
    (found,) = tf.data.Dataset.from_tensors(raw).map(encoders["keras"])
    for name in ("query", "history_query"):
        np.testing.assert_array_equal(found[name], encoders["keras"](raw)[name])


@pytest.mark.parametrize("name", ["keras", "transform"])
def test_the_export_takes_the_raw_string(
    encoders, name: str, keras_encoder: Encoder, tiny, tiny_model: ModelConfig, raw, tmp_path: Path
) -> None:
    tf.keras.utils.set_random_seed(0)
    model = build(keras_encoder.inputs, tiny_model.model_copy(update={"name": "prm"}))
    expected = model(keras_encoder(raw), training=False)
    score = ScoreConfig()
    card = ModelCard(inputs=keras_encoder.inputs, config=Config(), score=score)
    module = ServingModule(model, encoders[name], tiny.spec, score)
    loaded = tf.saved_model.load(str(export_model(module, card, tmp_path / "1")))
    found = loaded.signatures["serving_default"](**raw)
    for label in LABELS:
        p = tf.sigmoid(expected[label])
        np.testing.assert_allclose(found[label], p, rtol=1e-4, atol=1e-5)
    # Every query counts, so that another split of it would have shown.
    blank = model(keras_encoder({**raw, "query": tf.fill([len(QUERIES)], "")}), training=False)
    differs = np.abs(expected["click"] - blank["click"]).max(axis=1) > 1e-4
    assert differs.tolist() == [bool(tokens) for _, tokens in EXAMPLES]
