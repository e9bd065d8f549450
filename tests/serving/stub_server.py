"""A server that does as a test tells it, of TensorFlow Serving's own stubs and nothing of ours."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataResponse,
    SignatureDefMap,
)
from tensorflow_serving.apis.predict_pb2 import PredictResponse

from serving.client import SearchList

# The columns that every model takes here, unless a test says otherwise.
COLUMNS = ("query", "item_id")
ASKED = SearchList(query="so what", user_id="ada", item_id=["a", "b", "c"])


class StubServer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Reverses every list; what it has been asked is in `calls`.

    Attributes:
      version: Of the model.
      columns: What the model takes: anything else is INVALID_ARGUMENT.
      behave: What happens at each Predict before it is answered; it may raise or abort.
      describe: The same of GetModelMetadata.
      garbled: Names of the methods whose answers are bytes of no message.
      calls: Names of the methods called, in order.
      cancelled: Set when a client gives up a Predict before it is answered.
    """

    def __init__(self) -> None:
        self.version = 1
        self.columns: Sequence[str] = COLUMNS
        self.behave: Callable[[Any, grpc.ServicerContext], None] = lambda request, context: None
        self.describe = self.behave
        self.garbled: set[str] = set()
        self.calls: list[str] = []
        self.cancelled = threading.Event()
        self.address = ""

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.calls.append("GetModelMetadata")
        self.describe(request, context)
        signatures = SignatureDefMap()
        for signature in ("serving_default", "select_list"):
            inputs = signatures.signature_def[signature].inputs
            for name in self.columns:
                rank = 2 if name.startswith(("item_", "history_")) else 1
                inputs[name].dtype = tf.string.as_datatype_enum
                inputs[name].tensor_shape.CopyFrom(tf.TensorShape([None] * rank).as_proto())
        response = GetModelMetadataResponse()
        response.model_spec.version.value = self.version
        response.metadata["signature_def"].Pack(signatures)
        return response

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.calls.append("Predict")
        finished = threading.Event()
        context.add_callback(lambda: finished.is_set() or self.cancelled.set())
        if set(request.inputs) != set(self.columns):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "inputs do not match the signature")
        self.behave(request, context)
        items = tf.make_ndarray(request.inputs["item_id"])
        lists, width = items.shape
        lengths = (items != b"").sum(axis=1).tolist()
        rows = {
            "order": [[*reversed(range(n)), *range(n, width)] for n in lengths],
            **dict.fromkeys(("score", "click", "conversion"), [[0.5] * width] * lists),
            **dict.fromkeys(("list_click", "list_conversion"), [0.5] * lists),
        }
        response = PredictResponse()
        response.model_spec.version.value = self.version
        for name, values in rows.items():
            dtype = tf.int32 if name == "order" else tf.float32
            response.outputs[name].CopyFrom(tf.make_tensor_proto(values, dtype))
        finished.set()
        return response

    @contextlib.contextmanager
    def running(self) -> Iterator[StubServer]:
        with ThreadPoolExecutor(4) as threads:
            server = grpc.server(
                threads,
                interceptors=[_Garbling(self.garbled)],
                options=[("grpc.so_reuseport", 0)],
            )
            prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(self, server)
            self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            server.start()
            try:
                yield self
            finally:
                server.stop(None).wait()


class _Garbling(grpc.ServerInterceptor):
    """Sends other bytes than the methods' answers."""

    def __init__(self, methods: set[str]) -> None:
        self._methods = methods

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        if handler_call_details.method.rpartition("/")[2] not in self._methods:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            handler.unary_unary, handler.request_deserializer, lambda response: b"\xff"
        )
