"""A typed client of a served re-ranker, TensorFlow Serving's or the local one.

    with RerankClient("127.0.0.1:8500") as client:
        client.wait_until_available(timeout_s=60)
        print(client.rerank(SearchList("so what", "ada", ["a", "b"])).ranking)

Importing this module does not import TensorFlow; creating a client does.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
import numpy as np

from serving.batch import Column, pad_batch
from serving.search_list import RequestError, RerankedList, SearchList

__all__ = ["RequestError", "RerankClient", "RerankError", "RerankedList", "SearchList"]

_SIGNATURE = "serving_default"
_OUTPUTS = ("order", "score", "click", "conversion", "list_click", "list_conversion")
_OPTIONS = (
    # The answer to a batch may exceed gRPC's 4 MiB.
    ("grpc.max_receive_message_length", -1),
    # A proxy meant for the web must not stand between two programs of one service.
    ("grpc.enable_http_proxy", 0),
)


class RerankError(RuntimeError):
    """A call that brought no answer; the message gives the server's own words.

    Args:
      message: What happened.
      code: The gRPC status of the call, as UNAVAILABLE for a server that cannot be reached.
    """

    def __init__(self, message: str, code: grpc.StatusCode) -> None:
        super().__init__(message)
        self.code = code


class RerankClient:
    """Asks a server to re-rank search lists; may be shared between threads.

    What inputs the model takes is asked once, before the first re-ranking. A new client is needed
    when a version with other inputs replaces the model.

    Args:
      address: The server's `host:port`.
      model_name: The model's name on the server.
      timeout_s: Seconds that each call may take. A model without warm-up may need longer for the
        first call than for all later ones.
    """

    def __init__(self, address: str, model_name: str = "piano", timeout_s: float = 1.0) -> None:
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        self._address = address
        self._model_name = model_name
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def wait_until_available(self, timeout_s: float) -> int:
        """Waits for the server to come up with the model.

        Args:
          timeout_s: Seconds to wait at most.

        Returns:
          The highest version that is available.

        Raises:
          RerankError: The time is up, or the server does not have the model.
        """
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self._model_name
        try:
            response = self._call(
                self._models.GetModelStatus, request, timeout_s, wait_for_ready=True
            )
        except RerankError as error:
            if error.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            raise RerankError(
                f"no server answered at {self._address} within {timeout_s:g} s", error.code
            ) from error
        available = [
            status.version
            for status in response.model_version_status
            if status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
        ]
        if not available:
            raise RerankError(
                f"the server at {self._address} has no version of {self._model_name!r} available",
                grpc.StatusCode.UNAVAILABLE,
            )
        return max(available)

    def rerank(self, search_list: SearchList) -> RerankedList:
        """Re-ranks one list.

        Raises:
          RequestError: The list does not fit the model's inputs.
          RerankError: The server did not answer, or refused the call.
        """
        return self.rerank_batch([search_list])[0]

    def rerank_batch(self, lists: Sequence[SearchList]) -> list[RerankedList]:
        """Re-ranks several lists, of whatever lengths, in one call.

        Args:
          lists: The lists, each with a candidate or more.

        Returns:
          As many answers in the same order, each as long as its list.

        Raises:
          RequestError: A list does not fit the model's inputs.
          RerankError: The server did not answer, or refused the call.
        """
        if not lists:
            return []
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest(output_filter=_OUTPUTS)
        request.model_spec.name = self._model_name
        request.model_spec.signature_name = _SIGNATURE
        for name, array in pad_batch(lists, self._columns).items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        response = self._call(self._predictions.Predict, request, self._timeout_s)
        outputs = {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}
        version = response.model_spec.version.value
        return [
            _answer(search_list, {name: output[index] for name, output in outputs.items()}, version)
            for index, search_list in enumerate(lists)
        ]

    def close(self) -> None:
        """Closes the connection; no call can be made afterwards."""
        self._channel.close()

    def __enter__(self) -> RerankClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @functools.cached_property
    def _columns(self) -> Mapping[str, Column]:
        """The model's inputs by name."""
        import tensorflow as tf
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = self._model_name
        response = self._call(self._predictions.GetModelMetadata, request, self._timeout_s)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        if _SIGNATURE not in signatures.signature_def:
            raise self._unusable(f"has no signature {_SIGNATURE!r}")
        columns = {
            name: Column(
                name,
                np.dtype(tf.as_dtype(info.dtype).as_numpy_dtype),
                len(info.tensor_shape.dim),
            )
            for name, info in signatures.signature_def[_SIGNATURE].inputs.items()
        }
        for column in columns.values():
            if not column.is_of_search_lists:
                raise self._unusable(
                    f"takes {column.name!r} of type {column.dtype} and rank {column.rank}, "
                    "which no column of a search list has"
                )
        return columns

    def _unusable(self, why: str) -> RerankError:
        return RerankError(
            f"the model {self._model_name!r} at {self._address} {why}",
            grpc.StatusCode.FAILED_PRECONDITION,
        )

    def _call(self, method: Any, request: Any, timeout_s: float, **options: Any) -> Any:
        try:
            return method(request, timeout=timeout_s, **options)
        except grpc.RpcError as error:
            raise RerankError(
                f"the call to {self._model_name!r} at {self._address} ended with "
                f"{error.code().name}: {error.details()}",
                error.code(),
            ) from error


def _answer(
    search_list: SearchList, outputs: Mapping[str, np.ndarray[Any, Any]], version: int
) -> RerankedList:
    """Turns one list's row of the outputs into Python values, without the padding."""
    length = len(search_list.item_id)

    def per_item(name: str) -> tuple[Any, ...]:
        # Padding comes last in the order too, so that the first N entries are all candidates.
        return tuple(outputs[name][:length].tolist())

    return RerankedList(
        item_id=tuple(search_list.item_id),
        order=per_item("order"),
        score=per_item("score"),
        click=per_item("click"),
        conversion=per_item("conversion"),
        list_click=outputs["list_click"].item(),
        list_conversion=outputs["list_conversion"].item(),
        model_version=version,
    )
