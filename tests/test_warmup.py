"""The warm-up requests of an exported model are requests that it answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from piano_tf.config import Config, ScoreConfig
from piano_tf.export import ModelCard, ServingModule, export_model
from piano_tf.features import FeatureSpec
from piano_tf.warmup import OTHER_SHAPES, SHAPES, WARMUP_FILE, write_warmup


def requests_in(version: Path) -> list[PredictionLog]:
    """Read the way TensorFlow Serving does, which gives up at 1,000."""
    records = [*tf.data.TFRecordDataset(str(version / WARMUP_FILE)).as_numpy_iterator()]
    assert len(records) < 1000
    logs = [PredictionLog.FromString(record) for record in records]
    assert [log.WhichOneof("log_type") for log in logs] == ["predict_log"] * len(logs)
    return [log.predict_log.request for log in logs]


def shapes_of(requests: list[PredictionLog]) -> list[tuple[int, int, int]]:
    """Lists, candidates and history of each."""
    others = len(requests) - len(SHAPES)
    assert others % len(OTHER_SHAPES) == 0
    return [*SHAPES, *OTHER_SHAPES * (others // len(OTHER_SHAPES))]


@pytest.fixture(scope="module")
def version(fitted, encoder, tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    score = ScoreConfig()
    module = ServingModule(fitted("dnn").model, encoder, tiny.spec, score)
    card = ModelCard(inputs=encoder.inputs, config=Config(), score=score)
    return export_model(module, card, tmp_path_factory.mktemp("exported") / "7")


def test_a_model_answers_every_one(version: Path) -> None:
    loaded = tf.saved_model.load(str(version))
    requests = requests_in(version)
    asked = {request.model_spec.signature_name for request in requests}
    assert asked == loaded.signatures.keys() - {"serve_examples"}, "which takes other inputs"
    for request, (lists, candidates, _) in zip(requests, shapes_of(requests), strict=True):
        signature = loaded.signatures[request.model_spec.signature_name]
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        assert inputs.keys() == signature.structured_input_signature[1].keys()
        answer = signature(**{name: tf.constant(values) for name, values in inputs.items()})
        assert answer["order"].shape == [lists, candidates]
        assert bool(tf.reduce_all(tf.math.is_finite(answer["score"])))


def test_histories_are_as_long_as_they_say(version: Path) -> None:
    requests = requests_in(version)
    for request, (_, _, history) in zip(requests, shapes_of(requests), strict=True):
        items = tf.make_ndarray(request.inputs["history_item_id"])
        assert (items != b"").sum(axis=1).tolist() == [history] * len(items)
        actions = {*tf.make_ndarray(request.inputs["history_action"]).ravel().tolist()}
        assert actions == ({b"click", b"conversion"} if history else {b""})


@pytest.mark.parametrize("score", [True, False], ids=["with scores", "without"])
def test_any_dataset(tmp_path: Path, score: bool, dataset: Callable[[bool], FeatureSpec]) -> None:
    write_warmup(dataset(score), tmp_path)
    for request in requests_in(tmp_path):
        assert [*sorted(request.inputs)] == sorted(
            column.name for column in dataset(score).columns(labels=False)
        )


@pytest.fixture
def dataset() -> Callable[[bool], FeatureSpec]:
    return lambda score: FeatureSpec(dataset="shop", initial_score=score, context={"hour": "float"})
