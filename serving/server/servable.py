"""One version of a model: loaded, and run by its signatures.

A signature is run the way TensorFlow Serving runs it, by feeding and fetching the tensors that the
SignatureDef names in a session, so that only the outputs asked for are computed.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from serving.columns import DEFAULT_SIGNATURE
from serving.server.call import stopping
from serving.server.errors import Refusal, ServingError, invalid_argument
from serving.server.limits import Limits
from serving.server.list_signatures import (
    check_amount,
    check_explained,
    check_shapes,
    check_values,
)
from serving.server.signature import Signature
from serving.server.tensors import decode, encode, require_whole, shape_of
from serving.server.tf_examples import EXAMPLES, check_count, check_examples

_log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A signature with the outputs that were asked for: what can be run again and again.

    Attributes:
      servable: What runs it.
      signature: Its inputs and outputs.
      outputs: Names of the outputs to compute.
      run: From the inputs' arrays, in the signature's order, to the outputs'. Raises a
        `tensorflow.errors.OpError` if the model fails on the inputs, and a `Refusal` if it was
        closed.
    """

    servable: Servable
    signature: Signature
    outputs: tuple[str, ...]
    run: Callable[[Arrays], Arrays]

    def encode(self, values: Arrays, messages: MutableMapping[str, TensorProto]) -> None:
        """Writes the outputs into a message's map of them."""
        for name in self.outputs:
            encode(values[name], self.signature.outputs[name], messages[name])


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
        self._plans: dict[tuple[str, tuple[str, ...]], Plan] = {}
        if not (folder / "saved_model.pb").is_file():
            raise ServingError(f"the version folder {folder} holds no saved_model.pb")
        self._closed = False
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        try:
            meta_graph = _load(self._session, folder)
        except BaseException as error:
            self._session.close()
            if not isinstance(error, OSError | RuntimeError | ValueError | tf.errors.OpError):
                raise
            reason = str(error).partition("\n")[0]
            raise ServingError(f"the SavedModel in {folder} cannot be loaded: {reason}") from error
        self.signatures: Mapping[str, SignatureDef] = meta_graph.signature_def
        self._read = {
            name: Signature.read(name, signature) for name, signature in self.signatures.items()
        }
        self._columns = self._columns_of_a_list()
        self._tell_what_is_not_held_to_lists()

    def _tell_what_is_not_held_to_lists(self) -> None:
        for name, signature in sorted(self._read.items()):
            held = signature.is_about_lists or signature.is_about_examples
            # What TensorFlow saves for itself takes nothing.
            if signature.inputs and not held:
                _log.warning(
                    "version %d: the inputs of signature %s are no columns of search lists, so "
                    "that only the limits on a message and on its values hold for them",
                    self.version,
                    name,
                )

    def signature(self, name: str) -> Signature:
        """Finds a signature; raises a `Refusal` if there is none of that name."""
        if name not in self._read:
            raise Refusal(
                grpc.StatusCode.FAILED_PRECONDITION,
                f'Serving signature key "{name}" not found.',
            )
        return self._read[name]

    def prepare(
        self,
        signature_name: str,
        inputs: Mapping[str, TensorProto],
        output_filter: Sequence[str],
        limits: Limits,
    ) -> tuple[Plan, Arrays]:
        """Checks a request and decodes it; nothing is run yet.

        Args:
          signature_name: Which signature to run.
          inputs: Its inputs by name; those that the signature has a default for may be left out.
          output_filter: Names of the outputs to compute; none means all.
          limits: Of what may be asked for.

        Returns:
          What to run, and its inputs.

        Raises:
          Refusal: The request does not fit the signature or the limits.
        """
        signature = self.signature(signature_name)
        given = _given(signature, inputs)
        shapes = {name: shape_of(name, given[name], signature.inputs[name]) for name in given}
        if signature.is_about_lists:
            check_shapes(shapes, limits, signature.passes)
            if signature.explains:
                check_explained(shapes, limits)
        elif signature.is_about_examples:
            check_count(shapes, limits)
        check_amount(shapes, limits)
        for name in inputs:
            require_whole(name, given[name], shapes[name])
        arrays = {name: decode(name, tensor, shapes[name]) for name, tensor in given.items()}
        if signature.is_about_lists:
            for name, array in arrays.items():
                check_values(name, array)
        elif signature.is_about_examples:
            check_examples(arrays[EXAMPLES], self._columns, limits)
        return self._plan(signature, _chosen(signature, output_filter)), arrays

    def _columns_of_a_list(self) -> dict[str, int]:
        """As a signature about lists has them, and the rank of each."""
        for _, signature in sorted(
            self._read.items(), key=lambda item: item[0] != DEFAULT_SIGNATURE
        ):
            if signature.is_about_lists and not signature.explains:
                return {name: len(kind.shape or ()) for name, kind in signature.inputs.items()}
        return {}

    def _plan(self, signature: Signature, outputs: tuple[str, ...]) -> Plan:
        key = (signature.name, outputs)
        # Two threads may both make the plan of a first request, but one is kept.
        if key not in self._plans:
            self._plans.setdefault(key, self._made(signature, outputs))
        return self._plans[key]

    def _made(self, signature: Signature, outputs: tuple[str, ...]) -> Plan:
        inputs = tuple(signature.inputs)
        # What is fed and fetched is worked out once, and not for every run.
        call = self._session.make_callable(
            [signature.output_tensors[name] for name in outputs],
            [signature.input_tensors[name] for name in inputs],
        )

        def run(arrays: Arrays) -> Arrays:
            try:
                return dict(zip(outputs, call(*(arrays[name] for name in inputs)), strict=True))
            except (tf.errors.CancelledError, RuntimeError) as error:
                # What is broken off, and what comes to a closed session.
                if self._closed:
                    raise stopping() from error
                raise
            except UnicodeDecodeError as error:
                # Only a message that quotes a request's own bytes is no text, as that of an example
                # that cannot be read.
                said = error.object.decode("utf-8", "replace")
                raise tf.errors.InvalidArgumentError(None, None, said) from error

        return Plan(self, signature, outputs, run)

    def close(self) -> None:
        """Frees the model's memory; what is run still or afterwards is refused as UNAVAILABLE."""
        self._closed = True
        self._session.close()
        self._plans.clear()


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


def _given(signature: Signature, inputs: Mapping[str, TensorProto]) -> dict[str, TensorProto]:
    """Every input of the signature: as it was sent, else its default."""
    # The views of a protobuf map are slow.
    sent = {*inputs}
    extra = sent - signature.inputs.keys()
    missing = signature.inputs.keys() - sent - signature.defaults.keys()
    if extra or missing:
        raise invalid_argument(
            f"inputs do not match the signature. Sent extra: {_names(extra)}. "
            f"Missing but required: {_names(missing)}."
        )
    # Reading a protobuf map by a missing key would add the key: hence the explicit choice.
    return {
        name: inputs[name] if name in sent else signature.defaults[name]
        for name in signature.inputs
    }


def _chosen(signature: Signature, output_filter: Sequence[str]) -> tuple[str, ...]:
    """The names of the outputs to compute, in an order that does not depend on the request."""
    for place, name in enumerate(output_filter):
        if name not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {name}. "
                f"Outputs expected to be in the set {_names(signature.outputs)}."
            )
        if name in output_filter[:place]:
            raise invalid_argument(f"duplicate output tensor alias: {name}")
    return tuple(sorted(output_filter or signature.outputs))


def _names(names: Any) -> str:
    return f"{{{','.join(sorted(names))}}}"
