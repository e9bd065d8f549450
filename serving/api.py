"""TensorFlow Serving's gRPC API over one loaded model: the same messages, checks and status codes.

Predict, GetModelMetadata and GetModelStatus are answered; every other call is UNIMPLEMENTED.
One check is stricter than the real server's: an input whose rank or static shape does not fit the
signature is refused by name with INVALID_ARGUMENT, where the real server runs the model and lets an
operation fail, or not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from tensorflow_serving.apis.get_model_status_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
)
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.status_pb2 import StatusProto

from serving.servable import Refusal, Servable, invalid_argument

_DEFAULT_SIGNATURE = "serving_default"
_SIGNATURE_FIELD = "signature_def"
_LONGEST_MESSAGE = 1024

_log = logging.getLogger(__name__)


class ModelApi:
    """Answers the calls that name one model.

    Args:
      model_name: The name that requests must carry.
      servable: The only version there is: any other is not found, and no label is known.
    """

    def __init__(self, model_name: str, servable: Servable) -> None:
        self._model_name = model_name
        self._servable = servable

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Returns the handlers to add to a gRPC server, which refuses what they do not name."""
        return (
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.PredictionService",
                {
                    "Predict": _handler(self.predict, PredictRequest),
                    "GetModelMetadata": _handler(self.get_model_metadata, GetModelMetadataRequest),
                },
            ),
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.ModelService",
                {"GetModelStatus": _handler(self.get_model_status, GetModelStatusRequest)},
            ),
        )

    def predict(self, request: PredictRequest) -> PredictResponse:
        """Runs a signature, `serving_default` unless the request names another.

        Raises:
          Refusal: The request names what is not there, or does not fit the signature.
          tensorflow.errors.OpError: The model failed on the inputs.
        """
        _require_model_spec(request)
        servable = self._find(request.model_spec)
        signature_name = request.model_spec.signature_name or _DEFAULT_SIGNATURE
        outputs = servable.predict(signature_name, request.inputs, request.output_filter)
        return PredictResponse(
            model_spec=self._echo(servable, signature_name=signature_name), outputs=outputs
        )

    def get_model_metadata(self, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
        """Describes every signature of the model, packed under `signature_def`.

        Raises:
          Refusal: The request asks for no or for another field, or names what is not there.
        """
        _require_model_spec(request)
        if not request.metadata_field:
            raise invalid_argument(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != _SIGNATURE_FIELD:
                raise invalid_argument(f"Metadata field {field} is not supported")
        servable = self._find(request.model_spec)
        response = GetModelMetadataResponse(model_spec=self._echo(servable))
        response.metadata[_SIGNATURE_FIELD].Pack(SignatureDefMap(signature_def=servable.signatures))
        return response

    def get_model_status(self, request: GetModelStatusRequest) -> GetModelStatusResponse:
        """Says that the loaded version is available; a label is ignored, as in the real server.

        Raises:
          Refusal: The request names another model or version.
        """
        _require_model_spec(request)
        spec = request.model_spec
        if spec.HasField("version") and not self._serves(spec):
            raise _not_found(f"Could not find version {spec.version.value} of model {spec.name}")
        if not self._serves(spec):
            raise _not_found(f"Could not find any versions of model {spec.name}")
        status = ModelVersionStatus(
            version=self._servable.version,
            state=ModelVersionStatus.AVAILABLE,
            status=StatusProto(),
        )
        return GetModelStatusResponse(model_version_status=[status])

    def _find(self, spec: ModelSpec) -> Servable:
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        if spec.HasField("version_label"):
            raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        if not self._serves(spec):
            wanted = (
                f"Specific({spec.name}, {spec.version.value})"
                if spec.HasField("version")
                else f"Latest({spec.name})"
            )
            raise _not_found(f"Servable not found for request: {wanted}")
        return self._servable

    def _serves(self, spec: ModelSpec) -> bool:
        return spec.name == self._model_name and (
            not spec.HasField("version") or spec.version.value == self._servable.version
        )

    def _echo(self, servable: Servable, signature_name: str = "") -> ModelSpec:
        spec = ModelSpec(name=self._model_name, signature_name=signature_name)
        spec.version.value = servable.version
        return spec


def _handler(answer: Callable[[Any], Any], request_type: Any) -> grpc.RpcMethodHandler:
    """Makes a method of the API a gRPC handler: whatever is raised becomes a status."""

    def handle(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return answer(request)
        except Refusal as refusal:
            code, message = refusal.code, str(refusal)
        except tf.errors.InvalidArgumentError as error:
            code, message = grpc.StatusCode.INVALID_ARGUMENT, error.message
        except Exception as error:
            # The next request may be a good one: the server outlives any failure of a model.
            _log.exception("a request failed")
            code, message = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
        if len(message) > _LONGEST_MESSAGE:
            message = f"{message[:_LONGEST_MESSAGE]}...TRUNCATED"
        context.abort(code, message)

    return grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=request_type.FromString,
        response_serializer=lambda response: response.SerializeToString(),
    )


def _require_model_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


def _not_found(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.NOT_FOUND, message)
