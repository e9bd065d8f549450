"""Requests that TensorFlow Serving runs before a version takes traffic.

The first request of each shape builds what later ones reuse. A server that finds
`assets.extra/tf_serving_warmup_requests` in a version's folder runs the requests in it before it
says that the version is available, so that no listener waits for the first one. Their ids are made
up: no log is copied into a model.

The sizes are ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from piano_tf.features import ACTIONS, Axis, Column, FeatureSpec

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
# Lists, candidates, entries of history: one list with a history and without, short and long, and
# several in one request.
SHAPES = ((1, 10, 0), (1, 20, 50), (1, 50, 50), (1, 100, 50), (1, 200, 50), (8, 50, 50))
# Of signatures that are asked seldom, or run the model several times.
OTHER_SHAPES = ((1, 20, 50),)
# What a client reads of an order. A server builds a graph for each choice of outputs, not for each
# signature.
ORDER = ("order", "score", "click", "conversion", "list_click", "list_conversion")
# Signature -> the shapes that it is asked for, and the outputs; none means all, which of
# `serving_default` and `serve_examples` are those of an order.
ASKED: dict[str, tuple[Sequence[tuple[int, int, int]], Sequence[Sequence[str]]]] = {
    "serving_default": (SHAPES, [()]),
    "serve_examples": (OTHER_SHAPES, [()]),
    "explain": (OTHER_SHAPES, [()]),
    "select_list": (OTHER_SHAPES, [(), ORDER]),
}


def write_warmup(
    features: FeatureSpec, version: Path, signatures: Iterable[str] = ("serving_default",)
) -> None:
    """Writes the requests beside a SavedModel.

    Args:
      features: The raw columns of a list.
      version: The SavedModel's folder.
      signatures: Those that it has; of others than the known ones nothing is asked.
    """
    # Of its own wheel, which only what exports a model needs.
    from tensorflow_serving.apis.predict_pb2 import PredictRequest
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog

    has = {*signatures}
    (version / WARMUP_FILE).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(version / WARMUP_FILE)) as records:
        for signature, (shapes, choices) in ASKED.items():
            if signature not in has:
                continue
            for outputs, shape in itertools.product(choices, shapes):
                request = PredictRequest(output_filter=outputs)
                request.model_spec.name = "piano"
                request.model_spec.signature_name = signature
                columns = dict(_columns(features, *shape))
                if signature == "serve_examples":
                    columns = {"examples": _examples(columns)}
                for name, values in columns.items():
                    request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
                log = PredictionLog(predict_log=PredictLog(request=request))
                records.write(log.SerializeToString())


def _examples(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """The lists as serialized tf.Examples, [B]."""
    rows = len(next(iter(columns.values())))
    of_each = (
        {name: values[row : row + 1].ravel() for name, values in columns.items()}
        for row in range(rows)
    )
    return np.array([*map(_example, of_each)], object)


def _example(columns: Mapping[str, np.ndarray]) -> bytes:
    example = tf.train.Example()
    for name, values in columns.items():
        feature = example.features.feature[name]
        if values.dtype == object:
            feature.bytes_list.value.extend([text.encode() for text in values])
        elif values.dtype == np.int64:
            feature.int64_list.value.extend(values)
        else:
            feature.float_list.value.extend(values)
    return example.SerializeToString()


def _columns(
    features: FeatureSpec, lists: int, candidates: int, history: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Every column of so many lists of one shape."""
    # One place at least, as in any batch without history.
    width = {Axis.ITEM: candidates, Axis.HISTORY: max(1, history)}
    for column in features.columns(labels=False):
        shape = (lists,) if column.axis is Axis.LIST else (lists, width[column.axis])
        values = _values(column, shape)
        if column.axis is Axis.HISTORY and not history:
            values = np.full(shape, "" if column.type == "string" else 0, values.dtype)
        yield column.name, values


def _values(column: Column, shape: tuple[int, ...]) -> np.ndarray:
    places = np.arange(np.prod(shape)).reshape(shape)
    if column.name == "history_action":
        return np.array(ACTIONS, object)[places % len(ACTIONS)]
    if column.type == "string":
        return np.vectorize("warm-up-{}".format, otypes=[object])(places)
    return (places % 5).astype(np.int64 if column.type == "int64" else np.float32)
