"""A model that adds a number to each first-stage score, made in an instant with any number.

It is saved once; a version is a copy in which the number is another.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis.predict_pb2 import PredictRequest

_NUMBER = 1234.5
SPECS = {
    "list_id": tf.TensorSpec([None], tf.string, "list_id"),
    "timestamp": tf.TensorSpec([None], tf.int64, "timestamp"),
    "item_id": tf.TensorSpec([None, None], tf.string, "item_id"),
    "initial_score": tf.TensorSpec([None, None], tf.float32, "initial_score"),
    "history_item_id": tf.TensorSpec([None, None], tf.string, "history_item_id"),
    "history_age": tf.TensorSpec([None, None], tf.float32, "history_age"),
}


class AddingModel(tf.Module):
    """Adds the number, and 1 for each past action; padding comes last, wherever it stands."""

    @tf.function
    def rerank(self, **columns: tf.Tensor) -> dict[str, tf.Tensor]:
        tf.debugging.assert_non_negative(columns["timestamp"], "the clock runs backwards")
        real = columns["item_id"] != ""
        past = tf.cast(columns["history_item_id"] != "", tf.float32)
        score = columns["initial_score"] + _NUMBER + tf.reduce_sum(past, axis=1)[:, None]
        return {
            "score": tf.where(real, score, tf.float32.min),
            "order": tf.argsort(tf.where(real, -score, np.inf), stable=True),
            "list_click": tf.reduce_sum(tf.where(real, score, 0), axis=1),
            "list_id": tf.identity(columns["list_id"]),
            "history_attention": past / (1 + columns["history_age"]),
        }

    @tf.function
    def select_list(self, **columns: tf.Tensor) -> dict[str, tf.Tensor]:
        """Five values for each list, which are its own times 1 to 5, and the last is chosen."""
        found = self.rerank(**columns)
        return {
            **found,
            "list_value": found["list_click"][:, None] * [[1.0, 2.0, 3.0, 4.0, 5.0]],
            "chosen": tf.fill(tf.shape(found["list_click"]), 4),
        }


@functools.cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="adding_model"))
    model = AddingModel()
    rerank = model.rerank.get_concrete_function(**SPECS)
    select_list = model.select_list.get_concrete_function(**SPECS)
    tf.saved_model.save(
        model,
        str(folder),
        signatures={"serving_default": rerank, "explain": rerank, "select_list": select_list},
    )
    return folder


def push(folder: Path, version: int, adds: float | None = None) -> Path:
    """Pushes a version that adds its own number, or another; it is whole or not there."""
    partial = folder / f"{version}.partial"
    shutil.copytree(_template(), partial)
    path = partial / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    changed = 0
    for function in saved.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            if node.op != "Const":
                continue
            values = node.attr["value"].tensor.float_val
            if list(values) == [_NUMBER]:
                values[:] = [version if adds is None else adds]
                changed += 1
    assert changed
    path.write_bytes(saved.SerializeToString())
    return partial.rename(folder / str(version))


def inputs(
    rows: int = 1, items: int = 3, history: int = 2, seed: int = 0
) -> dict[str, np.ndarray[Any, Any]]:
    """Lists with scores that float32 adds without rounding, some candidates of them padding."""
    draw = np.random.default_rng(seed)
    return {
        "list_id": np.array([f"l{seed}-{row}" for row in range(rows)], object),
        "timestamp": draw.integers(0, 2**40, rows),
        "item_id": np.where(draw.random((rows, items)) < 0.8, "i", "").astype(object),
        "initial_score": draw.permuted(
            np.tile(np.arange(items, dtype=np.float32) / 4, (rows, 1)), axis=1
        ),
        "history_item_id": np.where(draw.random((rows, history)) < 0.5, "h", "").astype(object),
        "history_age": draw.random((rows, history), np.float32),
    }


def expected(given: dict[str, np.ndarray[Any, Any]], adds: float) -> dict[str, Any]:
    """The model's answer, written out once more in NumPy."""
    real = given["item_id"] != ""
    past = (given["history_item_id"] != "").sum(axis=1)
    score = given["initial_score"] + adds + past[:, None]
    return {
        "score": np.where(real, score, np.finfo(np.float32).min),
        "order": np.argsort(np.where(real, -score, np.inf), axis=1, kind="stable"),
        "list_click": np.where(real, score, 0).sum(axis=1),
        "list_id": np.array([name.encode() for name in given["list_id"]], object),
        "history_attention": (given["history_item_id"] != "") / (1 + given["history_age"]),
    }


def request(given: dict[str, Any], **spec: Any) -> PredictRequest:
    """A call of the model with these inputs."""
    made = PredictRequest()
    made.model_spec.name = "piano"
    made.model_spec.MergeFrom(type(made.model_spec)(**spec))
    for name, value in given.items():
        made.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return made


def arrays(response: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs of an answer."""
    return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


def same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether an answer is the expected one, to the last bit."""
    return found.keys() == wanted.keys() and all(
        found[name].shape == wanted[name].shape and (found[name] == wanted[name]).all()
        for name in wanted
    )
