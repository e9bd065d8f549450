"""The client for asyncio: the calls of `serving.client.RerankClient`, awaited.

async with AsyncRerankClient("127.0.0.1:8500") as client:
    ranking = (await client.rank(SearchList("so what", "ada", ["a", "b"]))).ranking
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType

import grpc
import grpc.aio

from serving.client.attempts import Ended, Join, Retries, Start, Steps, T
from serving.client.connection import channel_to, methods
from serving.client.search_list import Ranking, RerankedList, SearchList
from serving.client.session import Session
from serving.columns import DEFAULT_SIGNATURE

__all__ = ["AsyncRerankClient"]


class AsyncRerankClient:
    """`serving.client.RerankClient` for one event loop, which must be running when it is created.

    Arguments, answers and errors are the same. A call whose task is cancelled is cancelled on the
    server too.

    Args:
      address: As in `RerankClient`, and so on.
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
        self._channel = channel_to(grpc.aio, address, credentials)
        self._methods = methods(self._channel)

    async def wait_until_available(self, timeout_s: float) -> int:
        """As `RerankClient.wait_until_available`."""
        return await self._run(self._session.wait_until_available(timeout_s))

    async def rank(self, search_list: SearchList, timeout_s: float | None = None) -> Ranking:
        """As `RerankClient.rank`."""
        return (await self.rank_batch([search_list], timeout_s))[0]

    async def rank_batch(
        self, lists: Sequence[SearchList], timeout_s: float | None = None
    ) -> list[Ranking]:
        """As `RerankClient.rank_batch`."""
        return await self._run(self._session.rank_batch(lists, timeout_s))

    async def rerank(self, search_list: SearchList, timeout_s: float | None = None) -> RerankedList:
        """As `RerankClient.rerank`."""
        return (await self.rerank_batch([search_list], timeout_s))[0]

    async def rerank_batch(
        self, lists: Sequence[SearchList], timeout_s: float | None = None
    ) -> list[RerankedList]:
        """As `RerankClient.rerank_batch`."""
        return await self._run(self._session.rerank_batch(lists, timeout_s))

    async def close(self) -> None:
        """Closes the connection; a call that is made afterwards is one that failed."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncRerankClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, steps: Steps[T]) -> T:
        """Does what the steps say, on the event loop."""
        running: set[asyncio.Task[Ended]] = set()
        event: Ended | None = None
        try:
            while True:
                step = steps.send(event)
                event = None
                if isinstance(step, Start):
                    running.add(asyncio.create_task(self._attempt(step)))
                    continue
                if isinstance(step, Join):
                    await asyncio.wait([asyncio.wrap_future(step.done)], timeout=step.timeout_s)
                    continue
                if not running:  # a pause, which asyncio.wait does not take
                    await asyncio.sleep(step.timeout_s)
                    continue
                done, _ = await asyncio.wait(
                    running, timeout=step.timeout_s, return_when=asyncio.FIRST_COMPLETED
                )
                if done:
                    task = done.pop()
                    running.remove(task)
                    event = task.result()
        except StopIteration as stop:
            return stop.value
        finally:
            steps.close()  # at once: others may have joined what these steps do
            for task in running:
                task.cancel()

    async def _attempt(self, step: Start) -> Ended:
        try:
            call = self._methods[step.method](
                step.request, timeout=step.timeout_s, wait_for_ready=step.wait_for_ready
            )
            response = await call
            if response is None:  # so grpc.aio says that the bytes are no such message
                details = "the answer cannot be decoded"
                return Ended(step.number, code=grpc.StatusCode.INTERNAL, details=details)
            return Ended(step.number, response)
        except grpc.aio.AioRpcError as error:
            return Ended(step.number, code=error.code(), details=error.details() or "")
        except grpc.aio.UsageError as error:  # the channel is closed
            return Ended(step.number, code=grpc.StatusCode.CANCELLED, details=str(error))
        except asyncio.CancelledError:  # by `_run`, which looks no more, or with the channel
            return Ended(step.number, code=grpc.StatusCode.CANCELLED, details="closed")
