"""Readers: reading the cell beside the event loop, in threads of their own; and whatever else takes its time there."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from bems.embedded.log import Log
from bems.embedded.reader import Reader, open_reader
from bems.embedded.writer import Busy

T = TypeVar("T")

THREADS = 2
"""So that one invoice can be looked at while a long list is read."""

ASKED = 200
"""So many questions may be asked and not yet answered; of long lists, some seconds' work."""


class _Threads:
    """A few threads for what would hold up an event loop."""

    def __init__(self, name: str) -> None:
        self._asked = 0
        self._executor = ThreadPoolExecutor(THREADS, name)

    async def run(self, call: Callable[[], T]) -> T:
        if self._asked >= ASKED:
            raise Busy(f"{ASKED} questions are waiting already")
        self._asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        finally:
            self._asked -= 1

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


class Readers:
    """A reader in each of a few threads, and as many threads without one. For one event loop. Busy: too many wait
    already."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = threading.local()
        self._open: list[Reader] = []
        self._log = Log(folder)
        self._reading = _Threads("bems-reader")
        self._beside = _Threads("bems-beside")

    async def ask(self, question: Callable[[Reader], T]) -> T:
        """What the question answers, asked in a thread that has a reader, of one moment. StoreFailed: it could not be
        read."""
        return await self._reading.run(lambda: self._ask(question))

    async def run(self, call: Callable[[], T]) -> T:
        """What the call returns, which reads no store. In a thread of others, so that however long it takes, who reads
        the store does not wait for it."""
        return await self._beside.run(call)

    def _ask(self, question: Callable[[Reader], T]) -> T:
        reader: Reader | None = getattr(self._own, "reader", None)
        if reader is None:
            reader = self._own.reader = open_reader(self._folder)
            self._open.append(reader)
        with self._log.reading(), reader.moment():
            return question(reader)

    def close(self) -> None:
        """Wait for what was asked, and close. Twice is harmless."""
        for threads in (self._reading, self._beside):
            threads.close()
        for reader in self._open:
            reader.close()
        self._log.close()
