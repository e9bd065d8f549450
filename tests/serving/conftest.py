"""A tiny re-ranker whose answers are formulas, pushed as version folders and really served."""

from __future__ import annotations

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.client import RerankClient, SearchList
from serving.server import ModelServer

VERSION = 12

_TEXT, _FLOAT = tf.string, tf.float32
_COLUMNS = {
    "list_id": tf.TensorSpec([None], _TEXT),
    "user_id": tf.TensorSpec([None], _TEXT),
    "query": tf.TensorSpec([None], _TEXT),
    "timestamp": tf.TensorSpec([None], tf.int64),
    "item_id": tf.TensorSpec([None, None], _TEXT),
    "initial_score": tf.TensorSpec([None, None], _FLOAT),
    "item_artist": tf.TensorSpec([None, None], _TEXT),
    "item_popularity": tf.TensorSpec([None, None], _FLOAT),
    "user_country": tf.TensorSpec([None], _TEXT),
    "history_query": tf.TensorSpec([None, None], _TEXT),
    "history_item_id": tf.TensorSpec([None, None], _TEXT),
    "history_action": tf.TensorSpec([None, None], _TEXT),
    "history_age": tf.TensorSpec([None, None], _FLOAT),
    "history_item_artist": tf.TensorSpec([None, None], _TEXT),
}


class TinyModel(tf.Module):
    """Scores a candidate by its first-stage score, plus 1 for each history entry by its artist,
    each less the older it is; New Zealanders see more of what is popular."""

    @tf.function(input_signature=[_COLUMNS])
    def rerank(self, columns: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        tf.debugging.assert_non_negative(columns["timestamp"], "the clock runs backwards")
        real = columns["item_id"] != ""
        past = tf.cast(columns["history_item_id"] != "", _FLOAT) / (1 + columns["history_age"])
        same = columns["item_artist"][:, :, None] == columns["history_item_artist"][:, None, :]
        taste = tf.reduce_sum(tf.cast(same, _FLOAT) * past[:, None, :], axis=2)
        local = tf.cast(columns["user_country"] == "NZ", _FLOAT)[:, None]
        score = columns["initial_score"] + taste + local * columns["item_popularity"]
        click = tf.where(real, tf.sigmoid(score), 0)
        conversion = click * tf.sigmoid(score - 1)
        return {
            **_sorted(score, real),
            "click": click,
            "conversion": conversion,
            "list_click": 1 - tf.reduce_prod(1 - click, axis=1),
            "list_conversion": 1 - tf.reduce_prod(1 - conversion, axis=1),
        }

    @tf.function(input_signature=[_COLUMNS])
    def explain(self, columns: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """What a product loses without a factor; attention falls with age."""
        found = self.rerank(columns)
        past = tf.cast(columns["history_item_id"] != "", _FLOAT) / (1 + columns["history_age"])
        return {
            **found,
            **{
                f"list_{label}_value": found[label]
                / (1 - found[label])
                * (1 - found[f"list_{label}"])[:, None]
                for label in ("click", "conversion")
            },
            "history_attention": past / (1 + tf.reduce_sum(past, axis=1, keepdims=True)),
        }

    @tf.function(input_signature=[_COLUMNS])
    def select_list(self, columns: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One of five orders, from the list as it came to the one by score: what stands further
        down is clicked less."""
        found = self.rerank(columns)
        real = (columns["item_id"] != "")[:, None]
        places = tf.range(tf.shape(columns["item_id"])[1], dtype=_FLOAT)
        weight = tf.linspace(0.0, 1.0, 5)[:, None]
        orders = _sorted(weight * found["score"][:, None] - (1 - weight) * places, real)
        values = tf.add_n(
            [
                1 - tf.reduce_prod(1 - each / (1 + places), axis=2)
                for each in (
                    tf.gather(found[label], orders["order"], axis=1, batch_dims=1)
                    for label in ("click", "conversion")
                )
            ]
        )
        best = values > tf.reduce_max(values, axis=1, keepdims=True) - 1e-6
        chosen = tf.argmax(tf.cast(best, tf.int32), axis=1, output_type=tf.int32)
        return {
            **found,
            **{
                name: tf.gather(each, chosen, axis=1, batch_dims=1) for name, each in orders.items()
            },
            "list_value": tf.ensure_shape(values, [None, 5]),
            "chosen": chosen,
        }

    @tf.function(input_signature=[tf.TensorSpec([None], _TEXT, name="examples")])
    def rerank_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        features = {
            name: tf.io.FixedLenFeature([], spec.dtype)
            if spec.shape.rank == 1
            else tf.io.FixedLenSequenceFeature([], spec.dtype, allow_missing=True)
            for name, spec in _COLUMNS.items()
        }
        return self.rerank(tf.io.parse_example(examples, features))

    @tf.function(input_signature=[tf.TensorSpec([], _TEXT, name="path")])
    def read_lexicon(self, path: tf.Tensor) -> dict[str, tf.Tensor]:
        """Fails, on a path that is not there, with an error that no client is to blame for."""
        return {"lexicon": tf.io.read_file(path)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([2], tf.float64, name="pair"),
            tf.TensorSpec([], tf.float64, name="scale"),
        ]
    )
    def scale(self, pair: tf.Tensor, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        """Has outputs of every other kind and an input of fixed size."""
        return {
            "scaled": pair * scale,
            "rounded": tf.cast(pair * scale, tf.int64),
            "halved": tf.cast(pair * scale / 2, tf.float16),
            "positive": pair > 0,
            "unit": tf.constant("dB"),
        }


def _sorted(scores: tf.Tensor, real: tf.Tensor) -> dict[str, tf.Tensor]:
    """Scores, the lowest at padding, and the order that they make."""
    score = tf.where(real, scores, _FLOAT.min)
    return {"score": score, "order": tf.argsort(-score, stable=True)}


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pushed model: an older version, the one to serve, and what is no version at all."""
    folder = tmp_path_factory.mktemp("pushed")
    (folder / "3").mkdir()
    (folder / "99-staging").mkdir()
    (folder / "100").write_text("a file is no version")
    model = TinyModel()
    # Spread over keyword arguments, so that the signature has one input per column.
    named = {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in _COLUMNS.items()}

    def spread(run: Callable[..., dict[str, tf.Tensor]]) -> Any:
        return tf.function(lambda **columns: run(columns)).get_concrete_function(**named)

    tf.saved_model.save(
        model,
        str(folder / str(VERSION)),
        signatures={
            "serving_default": spread(model.rerank),
            "explain": spread(model.explain),
            "select_list": spread(model.select_list),
            "serve_examples": model.rerank_examples,
            "read_lexicon": model.read_lexicon,
            "scale": model.scale,
        },
    )
    return folder


@pytest.fixture(scope="session")
def server(model_dir: Path) -> Iterator[ModelServer]:
    with ModelServer(model_dir, port=0) as server:
        yield server


@pytest.fixture(scope="session")
def channel(server: ModelServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address, [("grpc.enable_http_proxy", 0)]) as channel:
        yield channel


@pytest.fixture(scope="session")
def predictions(channel: grpc.Channel) -> prediction_service_pb2_grpc.PredictionServiceStub:
    """TensorFlow Serving's own stub: nothing of our client."""
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="session")
def models(channel: grpc.Channel) -> model_service_pb2_grpc.ModelServiceStub:
    return model_service_pb2_grpc.ModelServiceStub(channel)


@pytest.fixture(scope="session")
def client(server: ModelServer) -> Iterator[RerankClient]:
    # The first call builds the graph's executor, which a busy machine may take long over.
    with RerankClient(server.address, timeout_s=60) as client:
        yield client


@pytest.fixture(scope="session")
def expected_scores() -> Callable[[SearchList], np.ndarray]:
    """The tiny model's score of each candidate, written out once more in NumPy."""

    def scores(asked: SearchList) -> np.ndarray:
        columns = asked.columns()
        artists = np.array(columns["item_artist"])[:, None]
        listened = np.array(columns["history_item_artist"])[None, :]
        ages = np.array(columns["history_age"], float)
        taste = ((artists == listened) / (1 + ages)).sum(axis=1)
        local = columns["user_country"] == "NZ"
        return (
            np.array(columns["initial_score"])
            + taste
            + local * np.array(columns["item_popularity"])
        )

    return scores
