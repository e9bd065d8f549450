"""TensorFlow Serving's API over the versions of one model: the same messages, checks and codes.

Predict, GetModelMetadata and GetModelStatus are answered; every other call is UNIMPLEMENTED.
Checks are stricter than the real server's: an input whose rank or static shape does not fit the
signature, or that contradicts another input, is refused by name with INVALID_ARGUMENT, where the
real server runs the model and lets an operation fail, or not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from tensorflow_serving.apis.get_model_status_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
)
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from serving.columns import DEFAULT_SIGNATURE, ITEMS
from serving.server.call import Admission, Call
from serving.server.errors import Refusal, exhausted, invalid_argument
from serving.server.limits import Limits
from serving.server.metrics import UNKNOWN_MODEL, Metrics
from serving.server.parsing import parse_whole
from serving.server.running import Runner
from serving.server.servable import Servable
from serving.server.versions import Versions

_SIGNATURE_FIELD = "signature_def"
_LONGEST_MESSAGE = 1024

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class Counted:
    """An answer that is counted.

    Attributes:
      model_name: As the request has it.
    """

    model_name: str = UNKNOWN_MODEL


class ModelApi:
    """Answers the calls that name one model.

    Args:
      model_name: The name that requests must carry.
      versions: Its versions; no label is known.
      runner: What runs the requests that pass every check.
      limits: Of what may be asked for.
      metrics: What is counted and timed.
    """

    def __init__(
        self,
        model_name: str,
        versions: Versions,
        runner: Runner,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._model_name = model_name
        self._versions = versions
        self._runner = runner
        self._limits = limits
        self._metrics = metrics
        self._admit = Admission(limits.concurrency)

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Returns the handlers to add to a gRPC server, which refuses what they do not name."""
        return (
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.PredictionService",
                {
                    "Predict": self._handler(self._predict_received),
                    "GetModelMetadata": self._handler(
                        lambda received, call: self.get_model_metadata(
                            self._parsed(received, GetModelMetadataRequest)
                        ),
                    ),
                },
            ),
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.ModelService",
                {
                    "GetModelStatus": self._handler(
                        lambda received, call: self.get_model_status(
                            self._parsed(received, GetModelStatusRequest)
                        ),
                    )
                },
            ),
        )

    def predict(self, request: PredictRequest, call: Call) -> PredictResponse:
        """Runs a signature, `serving_default` unless the request names another.

        Args:
          request: What to run.
          call: Who waits for it.

        Raises:
          Refusal: The request names what is not there, does not fit the signature or the limits, or
            nobody waits for it any more.
          tensorflow.errors.OpError: The model failed on the inputs.
        """
        with self.admitted():
            require_model_spec(request)
            with self.leased(request.model_spec) as servable:
                return self.run(servable, request, call)

    def drain(self, seconds: float) -> None:
        """Refuses new requests as UNAVAILABLE, and waits so long for those in progress."""
        self._admit.close(seconds)

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Holds one of the places of requests in progress.

        Raises:
          Refusal: None is free.
        """
        with self._admit(), self._metrics.in_progress():
            yield

    @contextlib.contextmanager
    def leased(self, spec: ModelSpec) -> Iterator[Servable]:
        """Keeps the version that a request names for as long as it is needed.

        Raises:
          Refusal: There is no such model or version.
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        if spec.HasField("version_label"):
            raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        version = spec.version.value if spec.HasField("version") else None
        with self._versions.lease(version) as servable:
            if servable is None or spec.name != self._model_name:
                wanted = (
                    f"Latest({spec.name})"
                    if version is None
                    else f"Specific({spec.name}, {version})"
                )
                raise _not_found(f"Servable not found for request: {wanted}")
            yield servable

    def run(self, servable: Servable, request: PredictRequest, call: Call) -> PredictResponse:
        """Runs a request on a version that is leased; see `predict`."""
        signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        with self._metrics.stage("decode"):
            plan, arrays = servable.prepare(
                signature_name, request.inputs, request.output_filter, self._limits
            )
        if plan.signature.is_about_lists:
            self._metrics.list_length(arrays[ITEMS].shape[1])
        values = self._runner.run(plan, arrays, call)
        with self._metrics.stage("encode"):
            response = PredictResponse(model_spec=self._echo(servable, signature_name))
            plan.encode(values, response.outputs)
        return response

    def get_model_metadata(self, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
        """Describes every signature of the model, packed under `signature_def`.

        Raises:
          Refusal: The request asks for no or for another field, or names what is not there.
        """
        require_model_spec(request)
        if not request.metadata_field:
            raise invalid_argument(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != _SIGNATURE_FIELD:
                raise invalid_argument(f"Metadata field {field} is not supported")
        with self.leased(request.model_spec) as servable:
            response = GetModelMetadataResponse(model_spec=self._echo(servable))
            signatures = SignatureDefMap(signature_def=servable.signatures)
            response.metadata[_SIGNATURE_FIELD].Pack(signatures)
        return response

    def get_model_status(self, request: GetModelStatusRequest) -> GetModelStatusResponse:
        """Says what became of each version; a label is ignored, as in the real server.

        Raises:
          Refusal: The request names another model or version.
        """
        require_model_spec(request)
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        states = self._versions.states() if spec.name == self._model_name else []
        found = [state for state in states if version in (None, state.version)]
        if not found and version is not None:
            raise _not_found(f"Could not find version {version} of model {spec.name}")
        if not found:
            raise _not_found(f"Could not find any versions of model {spec.name}")
        return GetModelStatusResponse(model_version_status=[state.message() for state in found])

    @contextlib.contextmanager
    def counted(self, entry: str) -> Iterator[Counted]:
        """Counts an answer under its status, and times it.

        Args:
          entry: See `Call`.

        Yields:
          Where the name of the model goes, once it is known.
        """
        counted = Counted()
        began = time.perf_counter()
        status = grpc.StatusCode.OK.name
        try:
            yield counted
        except Exception as error:
            status = status_of(error)[0].name
            raise
        finally:
            seconds = time.perf_counter() - began
            self._metrics.request(counted.model_name, status, entry, seconds)

    def failed(self, error: Exception) -> tuple[grpc.StatusCode, str]:
        """The status that a failure is answered with, and its message; counts it or logs it."""
        code, message = status_of(error)
        if isinstance(error, Refusal) and error.limit is not None:
            self._metrics.beyond(error.limit)
        if code is grpc.StatusCode.INTERNAL:
            # The next request may be a good one: the server outlives a model's failure.
            _log.error("a request failed", exc_info=error)
        return code, message

    def _predict_received(self, received: bytes, call: Call) -> PredictResponse:
        with self.counted(call.entry) as counted:
            request = self._parsed(received, PredictRequest)
            counted.model_name = request.model_spec.name
            return self.predict(request, call)

    def _echo(self, servable: Servable, signature_name: str = "") -> ModelSpec:
        spec = ModelSpec(name=self._model_name, signature_name=signature_name)
        spec.version.value = servable.version
        return spec

    def _handler(self, answer: Callable[[bytes, Call], Any]) -> grpc.RpcMethodHandler:
        """Makes a method of the API a gRPC handler: whatever is raised becomes a status."""

        def handle(received: bytes, context: grpc.ServicerContext) -> Any:
            try:
                call = Call.within("GRPC", context.time_remaining(), context.is_active)
                return answer(received, call).SerializeToString()
            except Exception as error:
                code, message = self.failed(error)
            context.abort(code, message)

        # Requests are taken as bytes, since gRPC does not say what is wrong with those that are no
        # message.
        return grpc.unary_unary_rpc_method_handler(handle)

    def _parsed(self, received: bytes, request_type: Any) -> Any:
        name = request_type.DESCRIPTOR.name
        if len(received) > self._limits.message_bytes:
            raise exhausted(
                "message_bytes",
                f"the {name} has {len(received)} bytes, expected at most "
                f"{self._limits.message_bytes}",
            )
        request = request_type()
        try:
            parse_whole(request, received)
        except DecodeError as error:
            raise invalid_argument(f"the request is no {name}: {error}") from error
        return request


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The status that a failure is answered with, and its message."""
    if isinstance(error, Refusal):
        code, message = error.code, str(error)
    elif isinstance(error, tf.errors.InvalidArgumentError):
        code, message = grpc.StatusCode.INVALID_ARGUMENT, error.message
    else:
        code, message = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[:_LONGEST_MESSAGE]}...TRUNCATED"
    return code, message


def require_model_spec(request: Any) -> None:
    """Raises a `Refusal` if a request names no model at all."""
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


def _not_found(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.NOT_FOUND, message)
