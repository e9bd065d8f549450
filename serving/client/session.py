"""What every client does, however its calls travel: inputs, requests, answers and falling back.

Generators again, as in `attempts.py`: they say what to send and are told what came.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from serving.client.attempts import Caller, CallError, Join, Retries, Steps
from serving.client.messages import (
    AVAILABLE,
    COMING,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    PredictRequest,
    SignatureDefMap,
)
from serving.client.model_inputs import Column, pad_batch
from serving.client.search_list import (
    FirstStageList,
    Ranking,
    Reason,
    RequestError,
    RerankedList,
    SearchList,
    is_sequence,
)
from serving.client.tensors import DTYPES, read_tensor, write_tensor

_PER_ITEM = ("order", "score", "click", "conversion")
_PER_LIST = ("list_click", "list_conversion")
# Between two looks at a server whose version is still loading.
_POLL_S = 0.1
# After the inputs were asked for because something did not fit them, nothing else that does not fit
# that version has them asked for again.
_LEARN_AGAIN_S = 1.0
# Of the time of a call: kept back to make the first-stage answer and to hand it over in time.
_RESERVE = 0.1
_RESERVE_S = 0.01


class RerankError(RuntimeError):
    """A call that brought no answer; the message gives the server's own words.

    Args:
      message: What happened.
      code: The gRPC status of the call, as UNAVAILABLE for a server that cannot be reached.
    """

    def __init__(self, message: str, code: grpc.StatusCode) -> None:
        super().__init__(message)
        self.code = code


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """What a version of the model takes."""

    version: int
    columns: Mapping[str, Column]


class Session:
    """The model on its server as one client knows it; shared by all calls of that client.

    What inputs the model takes is asked before the first re-ranking, and again when a list or a
    request does not fit them: about once a second at most, and once for all calls that wait for it.

    Args:
      address: The server's, for messages.
      model_name: The model's name on the server.
      timeout_s: Seconds that a call may take unless it says otherwise.
      signature: The signature that is asked for orders.
      retries: When a call is attempted again.
      pad_to: Places for candidates and for history entries that a request has at least.
      first_stage_on_request_error: Whether `rank` answers a list that does not fit the model with
        its first-stage order too.
      clock: Seconds on a clock that never goes back.
    """

    def __init__(
        self,
        address: str,
        model_name: str,
        timeout_s: float,
        retries: Retries,
        *,
        signature: str,
        pad_to: tuple[int, int],
        first_stage_on_request_error: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if min(pad_to) < 1:
            raise ValueError(f"pad_to is {pad_to}, expected two numbers of 1 or more")
        self._address = address
        self._model_name = model_name
        self._timeout_s = timeout_s
        self._signature = signature
        self._pad_to = pad_to
        self._forgiving = first_stage_on_request_error
        self._caller = Caller(retries, clock)
        self._current: _Inputs | None = None
        # Around the two below; never held while anything is waited for.
        self._lock = threading.Lock()
        self._learning: Future[_Inputs | RerankError | None] | None = None
        # Version -> when its inputs were last asked for again.
        self._asked_again: dict[int, float] = {}

    def wait_until_available(self, timeout_s: float) -> Steps[int]:
        """See `RerankClient.wait_until_available`."""
        request = GetModelStatusRequest()
        request.model_spec.name = self._model_name
        deadline = self._deadline(timeout_s)
        found = f"no server answered at {self._address}"
        while True:
            try:
                response = yield from self._call(
                    "GetModelStatus", request, deadline, wait_for_ready=True
                )
            except RerankError as error:
                if error.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
                raise RerankError(f"{found} within {timeout_s:g} s", error.code) from error
            states = {each.version: each.state for each in response.model_version_status}
            available = [version for version, state in states.items() if state == AVAILABLE]
            if available:
                return max(available)
            found = f"no version of {self._model_name!r} was available at {self._address}"
            if COMING.isdisjoint(states.values()):
                raise RerankError(found, grpc.StatusCode.UNAVAILABLE)
            yield from self._caller.pause(min(self._caller.clock() + _POLL_S, deadline))

    def rerank_batch(
        self, lists: Sequence[SearchList], timeout_s: float | None
    ) -> Steps[list[RerankedList]]:
        """See `RerankClient.rerank_batch`."""
        if not lists:
            return []
        answers = yield from self._ask(lists, self._deadline(timeout_s))
        return answers

    def rank_batch(
        self, lists: Sequence[SearchList], timeout_s: float | None
    ) -> Steps[list[Ranking]]:
        """See `RerankClient.rank_batch`."""
        if not lists:
            return []
        for index, search_list in enumerate(lists):
            # Without candidates there is no order to fall back to either.
            if not is_sequence(search_list.item_id):
                raise RequestError(f"list {index}: column 'item_id' is no sequence of items")
        try:
            answers = yield from self._ask(lists, self._deadline(timeout_s, fall_back=True))
            for answer in answers:
                # A tool may want to see such an answer; a page cannot show it.
                if sorted(answer.order) != [*range(len(answer.item_id))]:
                    raise self._unusable(f"gave an order that is none: {answer.order}")
        except RerankError as error:
            reason = Reason(error.code.name, str(error))
        except RequestError as error:
            if not self._forgiving:
                raise
            reason = Reason(grpc.StatusCode.INVALID_ARGUMENT.name, str(error))
        else:
            return [*answers]
        return [FirstStageList(tuple(each.item_id), reason) for each in lists]

    def _deadline(self, timeout_s: float | None, *, fall_back: bool = False) -> float:
        """The moment after which no answer is of use; it may be past, as what a page has left."""
        seconds = self._timeout_s if timeout_s is None else timeout_s
        if not math.isfinite(seconds):
            raise ValueError(f"timeout_s is {seconds}, expected a number of seconds")
        reserve_s = min(_RESERVE * seconds, _RESERVE_S) if fall_back else 0.0
        return self._caller.clock() + seconds - reserve_s

    def _ask(self, lists: Sequence[SearchList], deadline: float) -> Steps[list[RerankedList]]:
        inputs, fresh = self._current, False
        while True:
            if inputs is None:
                inputs, fresh = (yield from self._learn(None, deadline)), True
            try:
                request = self._request(lists, inputs.columns)
                response = yield from self._call("Predict", request, deadline)
                return self._answers(lists, response, inputs.columns)
            except (RequestError, RerankError) as error:
                code = getattr(error, "code", grpc.StatusCode.INVALID_ARGUMENT)
                if fresh or code is not grpc.StatusCode.INVALID_ARGUMENT:
                    raise
                # The model may have been replaced by one with other inputs since they were learnt.
                try:
                    newer, fresh = (yield from self._learn(inputs, deadline)), True
                except RerankError:
                    raise error from None
                if newer.columns == inputs.columns:
                    raise
                inputs = newer

    def _request(self, lists: Sequence[SearchList], columns: Mapping[str, Column]) -> Any:
        request = PredictRequest(output_filter=(*_PER_ITEM, *_PER_LIST))
        request.model_spec.name = self._model_name
        request.model_spec.signature_name = self._signature
        for name, array in pad_batch(lists, columns, self._pad_to).items():
            try:
                write_tensor(array, request.inputs[name])
            except UnicodeEncodeError as error:
                raise RequestError(
                    f"column {name!r} holds {reprlib.repr(error.object)}, expected Unicode text"
                ) from error
        return request

    def _answers(
        self, lists: Sequence[SearchList], response: Any, columns: Mapping[str, Column]
    ) -> list[RerankedList]:
        version = response.model_spec.version.value
        # A version that answers takes what it was sent, no more and no less: nothing to ask.
        self._current = _Inputs(version, columns)
        try:
            outputs = {
                name: read_tensor(response.outputs[name]) for name in (*_PER_ITEM, *_PER_LIST)
            }
            return [
                _answer(each, {name: values[index] for name, values in outputs.items()}, version)
                for index, each in enumerate(lists)
            ]
        except (IndexError, ValueError) as error:
            raise self._unusable(f"gave an answer that is none: {error}") from error

    def _learn(self, unfit: _Inputs | None, deadline: float) -> Steps[_Inputs]:
        """What inputs the model takes, by asking unless another call has asked or is about to know.

        Args:
          unfit: Inputs that a list or a request did not fit; what is returned may be the same.
          deadline: Of the call that wants to know.

        Raises:
          RerankError: There is no telling.
        """
        while True:
            with self._lock:
                current = self._current
                if current is not None and (unfit is None or current.columns != unfit.columns):
                    return current
                joined = self._learning
                if joined is None:
                    if unfit is not None and self._was_asked_again(unfit.version):
                        return unfit
                    learning = self._learning = Future()
            if joined is None:
                learnt = yield from self._ask_inputs(learning, unfit, deadline)
                return learnt
            yield Join(joined, max(0.0, deadline - self._caller.clock()))
            outcome = joined.result() if joined.done() else None
            if isinstance(outcome, RerankError):
                raise RerankError(str(outcome), outcome.code)
            if outcome is not None:
                return outcome
            if self._caller.clock() >= deadline:
                raise self._ended_with(grpc.StatusCode.DEADLINE_EXCEEDED, "the time is up")

    def _was_asked_again(self, version: int) -> bool:
        """Whether a version's inputs were asked for again just now."""
        soonest = self._caller.clock() - _LEARN_AGAIN_S
        self._asked_again = {
            version: at for version, at in self._asked_again.items() if at > soonest
        }
        return version in self._asked_again

    def _ask_inputs(
        self,
        learning: Future[_Inputs | RerankError | None],
        unfit: _Inputs | None,
        deadline: float,
    ) -> Steps[_Inputs]:
        """Asks what inputs the model takes, and tells those who have joined.

        They are told of an error too, but not of one that is this call's own, as its deadline is:
        then, and when this call is given up, it is None, and one of them asks.
        """
        outcome: _Inputs | RerankError | None = None
        try:
            outcome = learnt = yield from self._described(deadline)
        except RerankError as error:
            if error.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                outcome = error
            raise
        else:
            self._current = learnt
            return learnt
        finally:
            with self._lock:
                if unfit is not None:
                    self._asked_again[unfit.version] = self._caller.clock()
                self._learning = None
            learning.set_result(outcome)

    def _described(self, deadline: float) -> Steps[_Inputs]:
        """The inputs as the model describes itself."""
        request = GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = self._model_name
        response = yield from self._call("GetModelMetadata", request, deadline)
        try:
            signatures = SignatureDefMap.FromString(response.metadata["signature_def"].value)
        except DecodeError as error:
            raise self._unusable("describes itself in no known way") from error
        if self._signature not in signatures.signature_def:
            raise self._unusable(f"has no signature {self._signature!r}")
        columns = {
            name: self._column(name, info)
            for name, info in signatures.signature_def[self._signature].inputs.items()
        }
        return _Inputs(response.model_spec.version.value, columns)

    def _column(self, name: str, info: Any) -> Column:
        rank = len(info.tensor_shape.dim)
        column = Column(name, DTYPES[info.dtype], rank) if info.dtype in DTYPES else None
        if column is None or not column.is_of_search_lists:
            kind = f"number {info.dtype}" if column is None else column.dtype
            raise self._unusable(
                f"takes {name!r} of type {kind} and rank {rank}, "
                "which no column of a search list has"
            )
        return column

    def _unusable(self, why: str) -> RerankError:
        return RerankError(
            f"the model {self._model_name!r} at {self._address} {why}",
            grpc.StatusCode.FAILED_PRECONDITION,
        )

    def _call(self, method: str, request: Any, deadline: float, **options: Any) -> Steps[Any]:
        try:
            response = yield from self._caller.call(method, request, deadline, **options)
        except CallError as error:
            raise self._ended_with(error.code, str(error)) from error
        return response

    def _ended_with(self, code: grpc.StatusCode, details: str) -> RerankError:
        return RerankError(
            f"the call to {self._model_name!r} at {self._address} ended with "
            f"{code.name}: {details}",
            code,
        )


def _answer(
    search_list: SearchList, outputs: Mapping[str, np.ndarray[Any, Any]], version: int
) -> RerankedList:
    """Turns one list's row of the outputs into Python values, without the padding.

    Raises:
      ValueError: They are no answer to this list.
    """
    length = len(search_list.item_id)
    if outputs["order"].dtype.kind != "i":
        raise ValueError(f"order is of type {outputs['order'].dtype}, expected integers")
    # Padding comes last in the order too, so that the first N entries are all candidates.
    per_item: dict[str, Any] = {name: tuple(outputs[name][:length].tolist()) for name in _PER_ITEM}
    for name, values in per_item.items():
        if len(values) != length:
            raise ValueError(f"{name} has {len(values)} values for {length} candidates")
    return RerankedList(
        item_id=tuple(search_list.item_id),
        **per_item,
        list_click=outputs["list_click"].item(),
        list_conversion=outputs["list_conversion"].item(),
        model_version=version,
    )
