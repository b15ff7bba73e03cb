"""Readers: reading the cell beside the event loop, in threads of their own."""

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


class Readers:
    """A reader in each of a few threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = threading.local()
        self._open: list[Reader] = []
        self._log = Log(folder)
        self._asked = 0
        self._threads = ThreadPoolExecutor(THREADS, "bems-reader")

    async def ask(self, question: Callable[[Reader], T]) -> T:
        """What the question answers, asked in a thread that has a reader, of one moment. For one event loop.

        StoreFailed: it could not be read. Busy: too many wait already.
        """
        if self._asked >= ASKED:
            raise Busy(f"{ASKED} questions are waiting already")
        self._asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, question)
        finally:
            self._asked -= 1

    def _ask(self, question: Callable[[Reader], T]) -> T:
        reader: Reader | None = getattr(self._own, "reader", None)
        if reader is None:
            reader = self._own.reader = open_reader(self._folder)
            self._open.append(reader)
        with self._log.reading(), reader.moment():
            return question(reader)

    def close(self) -> None:
        """Wait for what was asked, and close. Twice is harmless."""
        self._threads.shutdown(cancel_futures=True)
        for reader in self._open:
            reader.close()
        self._log.close()
