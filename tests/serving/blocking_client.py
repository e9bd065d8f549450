"""Both clients behind one face, so that every test of behaviour holds both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from serving.client import RerankClient
from serving.client.aio import AsyncRerankClient


class BlockingClient:
    """The asyncio client on an event loop of its own, in a thread of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

        async def made() -> AsyncRerankClient:
            return AsyncRerankClient(*arguments, **options)

        self.client = self._wait_for(made())

    def _wait_for(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments, **options: self._wait_for(
            getattr(self.client, name)(*arguments, **options)
        )

    def stop(self) -> None:
        self._wait_for(self.client.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class ThreadedClient(RerankClient):
    """The client of threads, by the same two names."""

    def stop(self) -> None:
        self.close()


KINDS: dict[str, Callable[..., Any]] = {"threads": ThreadedClient, "asyncio": BlockingClient}
