"""The landing: where the writer's answers, given in its thread, come back to those who await them in the event loop."""

import asyncio
from collections import deque
from concurrent.futures import Future
from contextlib import suppress

from bems.tracker.decisions import Receipt


class Landing:
    """One wake-up of the loop brings all that was answered meanwhile: a turn's answers cost one, not hundreds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._landed: deque[tuple[asyncio.Future[Receipt], Future[Receipt]]] = deque()
        self._woken = False

    def await_(self, answer: "Future[Receipt]") -> "asyncio.Future[Receipt]":
        """The same answer, for the loop."""
        awaited: asyncio.Future[Receipt] = self._loop.create_future()

        def land(answer: "Future[Receipt]") -> None:
            self._landed.append((awaited, answer))
            if not self._woken:
                self._woken = True
                # A loop that has ended has nobody left who waits.
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._hand_out)

        answer.add_done_callback(land)
        return awaited

    def _hand_out(self) -> None:
        # First, so that whatever lands from here on wakes the loop again.
        self._woken = False
        while self._landed:
            awaited, answer = self._landed.popleft()
            if awaited.done():
                continue
            error = answer.exception()
            if error is None:
                awaited.set_result(answer.result())
            else:
                awaited.set_exception(error)
