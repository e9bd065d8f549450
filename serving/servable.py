"""One version of a model: found in its folder, loaded, and run by its signatures.

A signature is run the way TensorFlow Serving runs it, by feeding and fetching the tensors that the
SignatureDef names in a session, so that only the outputs asked for are computed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo

# The version travels as an int64, which holds any number of 18 digits.
_VERSION = re.compile(r"[0-9]{1,18}")

# Outputs travel in the typed fields of a TensorProto, as TensorFlow Serving sends them, since
# clients may read `float_val` directly.
_VALUE_FIELDS = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT32: "int_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_STRING: "string_val",
}


class ServingError(Exception):
    """A model that cannot be served; the message says why in one sentence."""


class Refusal(Exception):
    """A request that is answered with an error status.

    Args:
      code: The gRPC status of the answer.
      message: What was wrong with the request.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def invalid_argument(message: str) -> Refusal:
    """Returns the commonest refusal, the one of a request that is itself at fault."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)


def latest_version(model_dir: str | Path) -> tuple[int, Path]:
    """Finds the version to serve: the child folder named by the highest integer.

    Args:
      model_dir: The folder that versions are pushed to, as `<model_dir>/<integer version>/`.

    Returns:
      The version's number and its folder.

    Raises:
      ServingError: The folder is missing or holds no version, or the version no SavedModel.
    """
    folder = Path(model_dir)
    if not folder.is_dir():
        raise ServingError(f"the model folder {folder} does not exist")
    versions = {
        int(child.name): child
        for child in folder.iterdir()
        if _VERSION.fullmatch(child.name) and child.is_dir()
    }
    if not versions:
        raise ServingError(
            f"the model folder {folder} holds no version, that is no folder named by an integer"
        )
    version = max(versions)
    if not (versions[version] / "saved_model.pb").is_file():
        raise ServingError(f"the version folder {versions[version]} holds no saved_model.pb")
    return version, versions[version]


class Servable:
    """A SavedModel in memory, ready to run any of its signatures from several threads at once.

    Args:
      version: The number that answers carry.
      folder: The folder that holds saved_model.pb.

    Raises:
      ServingError: The folder's SavedModel cannot be loaded.
    """

    def __init__(self, version: int, folder: Path) -> None:
        self.version = version
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        try:
            meta_graph = _load(self._session, folder)
        except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
            self._session.close()
            reason = str(error).partition("\n")[0]
            raise ServingError(f"the SavedModel in {folder} cannot be loaded: {reason}") from error
        self.signatures: Mapping[str, SignatureDef] = meta_graph.signature_def

    def predict(
        self,
        signature_name: str,
        inputs: Mapping[str, TensorProto],
        output_filter: Sequence[str] = (),
    ) -> dict[str, TensorProto]:
        """Runs one signature.

        Args:
          signature_name: Which one.
          inputs: Its inputs by name; those that the signature has a default for may be left out.
          output_filter: Names of the outputs to compute; none means all.

        Returns:
          The outputs by name.

        Raises:
          Refusal: The request does not fit the signature.
          tensorflow.errors.OpError: The model failed on the inputs.
        """
        if signature_name not in self.signatures:
            raise Refusal(
                grpc.StatusCode.FAILED_PRECONDITION,
                f'Serving signature key "{signature_name}" not found.',
            )
        signature = self.signatures[signature_name]
        feeds = _feeds(signature, inputs)
        fetches = _fetches(signature, output_filter)
        values = self._session.run(fetches, feeds)
        return {name: _encode(values[name], signature.outputs[name].dtype) for name in fetches}

    def close(self) -> None:
        """Frees the model's memory; no signature can be run afterwards."""
        self._session.close()


def _load(session: tf.compat.v1.Session, folder: Path) -> Any:
    # The loader of sessions is marked deprecated in favour of one that restores Python objects; the
    # server wants the graph alone, so its log need not repeat the advice.
    log = logging.getLogger("tensorflow")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with session.graph.as_default():
            return tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(folder))
    finally:
        log.setLevel(level)


def _feeds(signature: SignatureDef, inputs: Mapping[str, TensorProto]) -> dict[str, np.ndarray]:
    """Decodes the inputs, keyed by the names of the graph's tensors."""
    extra = inputs.keys() - signature.inputs.keys()
    missing = signature.inputs.keys() - inputs.keys() - signature.defaults.keys()
    if extra or missing:
        raise invalid_argument(
            f"inputs do not match the signature. Sent extra: {_names(extra)}. "
            f"Missing but required: {_names(missing)}."
        )
    # Reading a protobuf map by a missing key would add the key: hence the explicit choice.
    return {
        info.name: _decode(name, inputs[name] if name in inputs else signature.defaults[name], info)
        for name, info in signature.inputs.items()
    }


def _fetches(signature: SignatureDef, output_filter: Sequence[str]) -> dict[str, str]:
    """Chooses the outputs: their names, each with the name of the graph's tensor."""
    fetches: dict[str, str] = {}
    for name in output_filter or signature.outputs:
        if name not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {name}. "
                f"Outputs expected to be in the set {_names(signature.outputs)}."
            )
        if name in fetches:
            raise invalid_argument(f"duplicate output tensor alias: {name}")
        fetches[name] = signature.outputs[name].name
    return fetches


def _decode(name: str, tensor: TensorProto, info: TensorInfo) -> np.ndarray:
    """Turns one input into an array, held to the dtype and the static shape of its signature."""
    if tensor.dtype != info.dtype:
        raise invalid_argument(
            f"input {name} has dtype {_dtype(tensor.dtype)}, expected {_dtype(info.dtype)}"
        )
    expected = tf.TensorShape(info.tensor_shape)
    try:
        received = tf.TensorShape(tensor.tensor_shape)
        if received.is_fully_defined() and expected.is_compatible_with(received):
            return tf.make_ndarray(tensor)
    except (TypeError, ValueError) as error:
        raise invalid_argument(f"input {name} cannot be parsed: {error}") from error
    raise invalid_argument(f"input {name} has shape {received}, expected {expected}")


def _encode(value: Any, dtype: int) -> TensorProto:
    """Turns one output, an array or a scalar, into its message."""
    array = np.asarray(value, dtype=tf.as_dtype(dtype).as_numpy_dtype)
    if dtype not in _VALUE_FIELDS:
        return tf.make_tensor_proto(array)
    tensor = TensorProto(dtype=dtype, tensor_shape=tf.TensorShape(array.shape).as_proto())
    getattr(tensor, _VALUE_FIELDS[dtype]).extend(array.ravel().tolist())
    return tensor


def _names(names: Any) -> str:
    return f"{{{','.join(sorted(names))}}}"


def _dtype(number: int) -> str:
    # A client may send a number that the enum does not know.
    return types_pb2.DataType.Name(number) if number in types_pb2.DataType.values() else str(number)
