"""The client for programs with threads: each call waits in the thread that makes it."""

from __future__ import annotations

import concurrent.futures
import queue
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import grpc

from serving.client.attempts import Ended, Join, Retries, Start, Steps, T
from serving.client.connection import channel_to, ended_by, methods
from serving.client.search_list import Ranking, RerankedList, SearchList
from serving.client.session import Session
from serving.columns import DEFAULT_SIGNATURE


class RerankClient:
    """Asks a server to re-rank search lists; may be shared between threads, on one connection.

    `rank` and `rank_batch` are for a page that must be shown: whatever goes wrong, they return the
    first-stage order in time, and say why. `rerank` and `rerank_batch` are for tools: they raise.

    A server that goes and comes back, and another version of the model, need no new client.

    Args:
      address: The server's `host:port`. A name of several machines, as `dns:///piano:8500`, is
        asked in turn, so that a second attempt usually goes to another one.
      model_name: The model's name on the server.
      timeout_s: Seconds that each call may take, with all that belongs to it: asking for the
        model's inputs, retries, a hedge. A model without warm-up may need longer for the first
        call than for all later ones.
      signature: The signature that is asked: `serving_default`, or `select_list`, which chooses
        among several orders of a list by what the model expects of each, for as many more passes
        of the model; the order and the scores are then those of the list it chose.
      retries: When a call is attempted again within that time.
      pad_to: Places for candidates and for history entries that a request has at least. A server
        that joins requests of one shape alone needs all to have it; answers stay the same.
      first_stage_on_request_error: Whether `rank` answers a list that does not fit the model with
        its first-stage order too, and not with a `RequestError`. A version with other inputs makes
        every list such a one, so that a page that must be shown wants True, once its tests pass.
      credentials: Of a server with TLS, as `grpc.ssl_channel_credentials` makes them.

    Raises:
      ValueError: `pad_to` has less than 1.
    """

    def __init__(
        self,
        address: str,
        model_name: str = "piano",
        timeout_s: float = 1.0,
        *,
        signature: str = DEFAULT_SIGNATURE,
        retries: Retries | None = None,
        pad_to: tuple[int, int] = (1, 1),
        first_stage_on_request_error: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._session = Session(
            address,
            model_name,
            timeout_s,
            retries or Retries(),
            signature=signature,
            pad_to=pad_to,
            first_stage_on_request_error=first_stage_on_request_error,
        )
        self._channel = channel_to(grpc, address, credentials)
        # While no call is under way gRPC sees only every five seconds whether a server is back,
        # unless somebody watches the connection. Of asyncio it always does.
        self._channel.subscribe(lambda connectivity: None)
        self._methods = methods(self._channel)

    def wait_until_available(self, timeout_s: float) -> int:
        """Waits for the server to come up, and for a version of the model that is still loading.

        Args:
          timeout_s: Seconds to wait at most.

        Returns:
          The highest version that is available.

        Raises:
          RerankError: The time is up, or the server has no version and none on its way.
        """
        return self._run(self._session.wait_until_available(timeout_s))

    def rank(self, search_list: SearchList, timeout_s: float | None = None) -> Ranking:
        """Puts one list in order: the model's, or in its absence the first stage's.

        Args:
          search_list: The list.
          timeout_s: Seconds that this call may take, instead of the client's. A hundredth of a
            second of it, or a tenth if that is less, is kept for falling back.

        Returns:
          The order; its `reason` is None if it is the model's.

        Raises:
          RequestError: The list does not fit the model, unless that is to be forgiven too.
        """
        return self.rank_batch([search_list], timeout_s)[0]

    def rank_batch(
        self, lists: Sequence[SearchList], timeout_s: float | None = None
    ) -> list[Ranking]:
        """Puts several lists, of whatever lengths, in order in one call; all or none by the model.

        Args:
          lists: The lists.
          timeout_s: As in `rank`.

        Returns:
          As many orders in the same order, each as long as its list.

        Raises:
          RequestError: A list does not fit the model, unless that is to be forgiven too.
        """
        return self._run(self._session.rank_batch(lists, timeout_s))

    def rerank(self, search_list: SearchList, timeout_s: float | None = None) -> RerankedList:
        """Re-ranks one list.

        Args:
          search_list: The list.
          timeout_s: Seconds that this call may take, instead of the client's.

        Raises:
          RequestError: The list does not fit the model's inputs.
          RerankError: The server did not answer in time, or refused the call.
        """
        return self.rerank_batch([search_list], timeout_s)[0]

    def rerank_batch(
        self, lists: Sequence[SearchList], timeout_s: float | None = None
    ) -> list[RerankedList]:
        """Re-ranks several lists, of whatever lengths, in one call.

        Args:
          lists: The lists, each with a candidate or more.
          timeout_s: Seconds that this call may take, instead of the client's.

        Returns:
          As many answers in the same order, each as long as its list.

        Raises:
          RequestError: A list does not fit the model's inputs.
          RerankError: The server did not answer in time, or refused the call.
        """
        return self._run(self._session.rerank_batch(lists, timeout_s))

    def close(self) -> None:
        """Closes the connection; a call that is made afterwards is one that failed."""
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

    def _run(self, steps: Steps[T]) -> T:
        """Does what the steps say; this thread waits, gRPC's own threads send and receive."""
        ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        running: dict[int, Any] = {}
        event: Ended | None = None
        try:
            while True:
                step = steps.send(event)
                event = None
                if isinstance(step, Start):
                    self._start(step, running, ended)
                    continue
                if isinstance(step, Join):
                    concurrent.futures.wait([step.done], step.timeout_s)
                    continue
                try:
                    event = ended.get(timeout=step.timeout_s)
                    running.pop(event.number, None)
                except queue.Empty:
                    pass
        except StopIteration as stop:
            return stop.value
        finally:
            steps.close()  # at once: others may have joined what these steps do
            # What was overtaken, or is late: the server need not go on with it.
            for call in running.values():
                call.cancel()

    def _start(self, step: Start, running: dict[int, Any], ended: queue.SimpleQueue[Ended]) -> None:
        try:
            call = self._methods[step.method].future(
                step.request, timeout=step.timeout_s, wait_for_ready=step.wait_for_ready
            )
        except ValueError as error:  # the channel is closed
            ended.put(Ended(step.number, code=grpc.StatusCode.CANCELLED, details=str(error)))
            return
        running[step.number] = call
        call.add_done_callback(lambda done: ended.put(ended_by(step.number, done)))
