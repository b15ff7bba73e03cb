"""Bridge from the event loop to the writer's thread, and from the writer's results back to the event loop."""

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial

from bems.embedded.writer import Item, ItemResult, Writer
from bems.tracker.decisions import Receipt


class WriterBridge:
    """Submits items to the writer, and resolves their futures in the event loop.

    One wake-up of the event loop resolves all results that have arrived since the last one. So the hundreds of results
    of a writer's turn cost one wake-up.
    """

    def __init__(self, writer: Writer, loop: asyncio.AbstractEventLoop) -> None:
        self._writer = writer
        self._loop = loop
        self._answers: deque[tuple[asyncio.Future[Receipt], ItemResult]] = deque()
        self._wake_scheduled = False

    def submit(self, item: Item) -> "asyncio.Future[Receipt]":
        """Submit an item, and return a future of its receipt. Raise QueueFull or Stopped as `Writer.submit` does."""
        future: asyncio.Future[Receipt] = self._loop.create_future()
        self._writer.submit(item, partial(self._on_answer, future))
        return future

    @property
    def is_full(self) -> bool:
        """Whether the writer's queue is full."""
        return self._writer.is_full

    def _on_answer(self, future: "asyncio.Future[Receipt]", answer: ItemResult) -> None:
        """Store a result and wake up the event loop. Called in the writer's thread."""
        self._answers.append((future, answer))
        if not self._wake_scheduled:
            self._wake_scheduled = True
            # After the event loop is closed, nobody waits for the result.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._resolve_futures)

    def _resolve_futures(self) -> None:
        # Reset first, so that results arriving from now on wake up the event loop again.
        self._wake_scheduled = False
        while self._answers:
            future, answer = self._answers.popleft()
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
