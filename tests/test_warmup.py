"""The warm-up requests of an exported model are requests that it answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from piano_tf.config import Config, ScoreConfig
from piano_tf.export import ModelCard, ServingModule, export_model
from piano_tf.features import FeatureSpec
from piano_tf.warmup import ASKED, OTHER_SHAPES, WARMUP_FILE, write_warmup
from serving.client import session


def requests_in(version: Path) -> list[PredictionLog]:
    """Read the way TensorFlow Serving does, which gives up at 1,000."""
    records = [*tf.data.TFRecordDataset(str(version / WARMUP_FILE)).as_numpy_iterator()]
    assert len(records) < 1000
    logs = [PredictionLog.FromString(record) for record in records]
    assert [log.WhichOneof("log_type") for log in logs] == ["predict_log"] * len(logs)
    return [log.predict_log.request for log in logs]


def asked(requests: list[Any]) -> list[tuple[str, tuple[int, int, int], tuple[str, ...]]]:
    """Signature, shape and outputs of each, as it should be."""
    found = [
        (signature, shape, tuple(outputs))
        for signature, (shapes, choices) in ASKED.items()
        for outputs in choices
        for shape in shapes
    ]
    assert len(found) == len(requests)
    return found


@pytest.fixture(scope="module")
def version(fitted, encoder, tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    score = ScoreConfig()
    module = ServingModule(fitted("dnn").model, encoder, tiny.spec, score)
    card = ModelCard(inputs=encoder.inputs, config=Config(), score=score)
    return export_model(module, card, tmp_path_factory.mktemp("exported") / "7")


def test_a_model_answers_every_one(version: Path) -> None:
    loaded = tf.saved_model.load(str(version))
    requests = requests_in(version)
    for request, (name, (lists, candidates, _), outputs) in zip(
        requests, asked(requests), strict=True
    ):
        assert (request.model_spec.signature_name, tuple(request.output_filter)) == (name, outputs)
        signature = loaded.signatures[name]
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        assert inputs.keys() == signature.structured_input_signature[1].keys()
        answer = signature(**{name: tf.constant(values) for name, values in inputs.items()})
        assert answer.keys() >= {*outputs}
        assert answer["order"].shape == [lists, candidates]
        assert bool(tf.reduce_all(tf.math.is_finite(answer["score"])))


def test_every_signature_and_what_our_client_reads_of_it_is_asked_for(version: Path) -> None:
    """Where all outputs are what the client reads, one graph does for both."""
    loaded = tf.saved_model.load(str(version))
    found = {
        (request.model_spec.signature_name, frozenset(request.output_filter))
        for request in requests_in(version)
    }
    assert {name for name, _ in found} == loaded.signatures.keys()
    read = frozenset((*session._PER_ITEM, *session._PER_LIST))
    assert ("select_list", read) in found
    for name in ("serving_default", "serve_examples"):
        assert loaded.signatures[name].structured_outputs.keys() == read


def test_histories_are_as_long_as_they_say(version: Path) -> None:
    requests = requests_in(version)
    for request, (name, (_, _, history), _) in zip(requests, asked(requests), strict=True):
        if name == "serve_examples":
            continue
        items = tf.make_ndarray(request.inputs["history_item_id"])
        assert (items != b"").sum(axis=1).tolist() == [history] * len(items)
        actions = {*tf.make_ndarray(request.inputs["history_action"]).ravel().tolist()}
        assert actions == ({b"click", b"conversion"} if history else {b""})


def test_examples_are_the_lists_that_columns_are(version: Path) -> None:
    """A list of 20 as an example is answered as the same list as columns is."""
    loaded = tf.saved_model.load(str(version))
    answers = {}
    for request, (name, shape, outputs) in zip(
        requests := requests_in(version), asked(requests), strict=True
    ):
        if shape == OTHER_SHAPES[0] and not outputs:
            inputs = {key: tf.constant(tf.make_ndarray(t)) for key, t in request.inputs.items()}
            answers[name] = loaded.signatures[name](**inputs)
    for name, values in answers["serve_examples"].items():
        np.testing.assert_allclose(values, answers["serving_default"][name], atol=1e-6)


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
