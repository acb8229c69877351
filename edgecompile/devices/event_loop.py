"""An event loop in a thread of its own, for a library that wants one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import TypeVar

from edgecompile.errors import ConnectionFailedError

T = TypeVar("T")


class EventLoop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop, self._closed = asyncio.new_event_loop(), False
        self._thread = threading.Thread(target=self._loop.run_forever, name="ssh", daemon=True)
        self._thread.start()

    def start(self, what: Callable[[], Awaitable[T]]) -> Future[T]:
        async def call() -> T:
            return await what()

        return asyncio.run_coroutine_threadsafe(call(), self._loop)

    def run(self, what: Callable[[], Awaitable[T]]) -> T:
        if self._closed:
            raise ConnectionFailedError("the connection is closed")
        future = self.start(what)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise
        except CancelledError:
            raise ConnectionFailedError("the connection was closed") from None

    def call(self, what: Callable[[], object]) -> None:
        """Without waiting for it."""
        if not self._closed:
            self._loop.call_soon_threadsafe(what)

    def close(self) -> None:
        """What is still waited for is cancelled."""
        if self._closed:
            return
        self._closed = True

        async def end() -> None:
            mine = asyncio.current_task()
            for task in asyncio.all_tasks():
                if task is not mine:
                    task.cancel()
            await asyncio.sleep(0)
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(end(), self._loop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()
