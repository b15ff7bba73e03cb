"""The landing: where the writer's answers, given in its thread, come back to those who await them in the event loop."""

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial

from bems.embedded.writer import Item, ItemResult, Writer
from bems.tracker.decisions import Receipt


class WriterBridge:
    """Hands items to the writer. One wake-up of the loop brings all that was answered meanwhile: a turn's answers cost
    one, not hundreds."""

    def __init__(self, writer: Writer, loop: asyncio.AbstractEventLoop) -> None:
        self._writer = writer
        self._loop = loop
        self._answers: deque[tuple[asyncio.Future[Receipt], ItemResult]] = deque()
        self._wake_scheduled = False

    def submit(self, item: Item) -> "asyncio.Future[Receipt]":
        """What becomes of an item, for the loop to await. Busy or Stopped at once; see `Writer.submit`."""
        awaited: asyncio.Future[Receipt] = self._loop.create_future()
        self._writer.submit(item, partial(self._on_answer, awaited))
        return awaited

    @property
    def full(self) -> bool:
        """Whether the writer would take nothing more now."""
        return self._writer.is_full

    def _on_answer(self, awaited: "asyncio.Future[Receipt]", answer: ItemResult) -> None:
        """An answer, from the writer's thread."""
        self._answers.append((awaited, answer))
        if not self._wake_scheduled:
            self._wake_scheduled = True
            # A loop that has ended has nobody left who waits.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._resolve_futures)

    def _resolve_futures(self) -> None:
        # First, so that whatever lands from here on wakes the loop again.
        self._wake_scheduled = False
        while self._answers:
            awaited, answer = self._answers.popleft()
            if awaited.done():
                continue
            if isinstance(answer, Exception):
                awaited.set_exception(answer)
            else:
                awaited.set_result(answer)
