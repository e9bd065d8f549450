"""First runs of a fresh version, so that no caller waits for what is built once.

Requests to run are read from where TensorFlow Serving looks for them and in its format: a TFRecord
file of `PredictionLog`. As there, a record that fails keeps the version from being served.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from serving.columns import DEFAULT_SIGNATURE
from serving.server.errors import Refusal, ServingError
from serving.server.limits import Limits
from serving.server.list_signatures import is_about_lists
from serving.server.servable import Servable

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_MOST_RECORDS = 1000

_log = logging.getLogger(__name__)


def warm_up(servable: Servable, folder: Path, limits: Limits) -> int:
    """Runs the version's warm-up requests; without any, one list of padding [ours].

    Args:
      servable: The version.
      folder: Where it was loaded from.
      limits: What requests are held to.

    Returns:
      How many requests of the version's own were run.

    Raises:
      ServingError: One of them cannot be read or answered.
    """
    path = folder / WARMUP_FILE
    if not path.is_file():
        _run_padding(servable, limits)
        return 0
    count = 0
    for count, request in enumerate(_requests(path), start=1):
        try:
            _run(servable, request, limits)
        except (Refusal, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())
            raise ServingError(f"{path}: warm-up record {count - 1} failed: {reason}") from error
    return count


def _requests(path: Path) -> Iterator[PredictRequest]:
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    try:
        for number, record in enumerate(records):
            if number == _MOST_RECORDS:
                raise ServingError(f"{path} holds more than {_MOST_RECORDS} warm-up records")
            log = PredictionLog.FromString(record)
            kind = log.WhichOneof("log_type")
            if kind != "predict_log":
                raise ServingError(
                    f"{path}: warm-up record {number} is a {kind}, expected a predict_log"
                )
            yield log.predict_log.request
    except (DecodeError, tf.errors.OpError) as error:
        reason = str(error).partition("\n")[0]
        raise ServingError(f"{path} is no TFRecord file of PredictionLog: {reason}") from error


def _run(servable: Servable, request: PredictRequest, limits: Limits) -> None:
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    plan, arrays = servable.prepare(name, request.inputs, request.output_filter, limits)
    plan.encode(plan.run(arrays), PredictResponse().outputs)


def _run_padding(servable: Servable, limits: Limits) -> None:
    """One list of one candidate, all padding, which any model of padded lists can take."""
    for name, signature in servable.signatures.items():
        if not is_about_lists(signature):
            continue
        try:
            _run(
                servable,
                PredictRequest(model_spec={"signature_name": name}, inputs=_padding(signature)),
                limits,
            )
        except (Refusal, tf.errors.OpError) as error:
            # Nobody promised that it would be answered.
            _log.info("version %d was not warmed up: %s", servable.version, error)


def _padding(signature: SignatureDef) -> dict[str, tf.compat.v1.TensorProto]:
    return {
        name: tf.make_tensor_proto(np.zeros([1] * len(info.tensor_shape.dim)), dtype=info.dtype)
        if info.dtype != tf.string.as_datatype_enum
        else tf.make_tensor_proto(np.full([1] * len(info.tensor_shape.dim), b"", object))
        for name, info in signature.inputs.items()
    }
