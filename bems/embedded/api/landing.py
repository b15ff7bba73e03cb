"""The landing: where the writer's answers, given in its thread, come back to those who await them in the event loop."""

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial

from bems.embedded.writer import Answer, Item, Writer
from bems.tracker.decisions import Receipt


class Landing:
    """Hands items to the writer. One wake-up of the loop brings all that was answered meanwhile: a turn's answers cost
    one, not hundreds."""

    def __init__(self, writer: Writer, loop: asyncio.AbstractEventLoop) -> None:
        self._writer = writer
        self._loop = loop
        self._landed: deque[tuple[asyncio.Future[Receipt], Answer]] = deque()
        self._woken = False

    def hand_in(self, item: Item) -> "asyncio.Future[Receipt]":
        """What becomes of an item, for the loop to await. Busy or Stopped at once; see `Writer.submit`."""
        awaited: asyncio.Future[Receipt] = self._loop.create_future()
        self._writer.submit(item, partial(self._land, awaited))
        return awaited

    @property
    def full(self) -> bool:
        """Whether the writer would take nothing more now."""
        return self._writer.full

    def _land(self, awaited: "asyncio.Future[Receipt]", answer: Answer) -> None:
        """An answer, from the writer's thread."""
        self._landed.append((awaited, answer))
        if not self._woken:
            self._woken = True
            # A loop that has ended has nobody left who waits.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        # First, so that whatever lands from here on wakes the loop again.
        self._woken = False
        while self._landed:
            awaited, answer = self._landed.popleft()
            if awaited.done():
                continue
            if isinstance(answer, Exception):
                awaited.set_exception(answer)
            else:
                awaited.set_result(answer)
