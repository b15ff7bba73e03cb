"""Readers: reading the cell beside the event loop, in threads of their own; and whatever else takes its time there.

Questions are asked with keys, and no key can shut the others out: each may have so many asked and not yet answered, and
so many being answered, and the keys take turns. What was asked by somebody who has gone, or whose key was revoked, is
dropped unless it is being answered. What admins do and what depends on the writer has a thread of its own, and waits
for no question.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bems.embedded.storage.errors import QueueFull
from bems.embedded.storage.reader import Reader, open_reader
from bems.embedded.storage.wal import WalCheckpointer

T = TypeVar("T")

MAX_THREADS_PER_KEY = 2
"""Questions of one key that are answered at once, so that one invoice can be looked at while a long list is read."""

SPARE_THREADS = 1
"""Threads beside those, so that one key's long lists leave one to the others."""

MAX_QUEUED_QUERIES, MAX_QUEUED_QUERIES_PER_KEY = 1_000, 20
"""So many questions may be asked and not yet answered, of all keys and of each; of long lists, some seconds' work."""


class KeyBusy(Exception):
    """This key has asked so much already; others may ask."""


class QueryDropped(Exception):
    """The question was dropped before anybody began to answer it."""


class _Query(NamedTuple):
    call: Callable[[], Any]
    answer: "asyncio.Future[Any]"


class _ThreadPool:
    """A few threads for what would hold up an event loop, in which the keys take turns."""

    def __init__(self, name: str) -> None:
        self._threads = MAX_THREADS_PER_KEY + SPARE_THREADS
        self._waiting: dict[str, deque[_Query]] = {}
        self._running: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._executor = ThreadPoolExecutor(self._threads, name)
        self._is_closed = False

    async def run_blocking(self, call: Callable[[], T], key: str) -> T:
        """What the call returns. Cancelled before its turn has come, it is never called."""
        if self._asked.total() >= MAX_QUEUED_QUERIES:
            raise QueueFull(f"{MAX_QUEUED_QUERIES} questions are waiting already")
        if self._asked[key] >= MAX_QUEUED_QUERIES_PER_KEY:
            raise KeyBusy(f"this key has {MAX_QUEUED_QUERIES_PER_KEY} questions that are not answered yet")
        question = _Query(call, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(key, deque()).append(question)
        self._asked[key] += 1
        try:
            self._begin()
            result: T = await question.answer
            return result
        except asyncio.CancelledError:
            with suppress(KeyError, ValueError):
                self._waiting[key].remove(question)
            raise
        finally:
            self._asked -= Counter({key: 1})

    def drop(self, key: str) -> None:
        """Whatever of that key has not begun raises Dropped."""
        for question in self._waiting.pop(key, ()):
            if not question.answer.done():
                question.answer.set_exception(QueryDropped())

    def _begin(self) -> None:
        """Begin as many as there are threads for; each time the first of the key whose turn it is."""
        while self._running.total() < self._threads and not self._is_closed:
            key = next((one for one in self._waiting if self._running[one] < MAX_THREADS_PER_KEY), None)
            if key is None:
                return
            questions = self._waiting.pop(key)
            if not questions:
                continue
            question = questions.popleft()
            if questions:
                # Behind all others.
                self._waiting[key] = questions
            self._running[key] += 1
            begun = asyncio.get_running_loop().run_in_executor(self._executor, question.call)
            begun.add_done_callback(lambda done, key=key, question=question: self._end(done, key, question))  # type: ignore[misc]

    def _end(self, done: "asyncio.Future[Any]", key: str, question: _Query) -> None:
        self._running -= Counter({key: 1})
        error = None if done.cancelled() else done.exception()
        if not question.answer.done():
            if done.cancelled():
                question.answer.cancel()
            elif error is not None:
                question.answer.set_exception(error)
            else:
                question.answer.set_result(done.result())
        self._begin()

    def close(self) -> None:
        self._is_closed = True
        self._executor.shutdown(cancel_futures=True)


class ReaderPool:
    """Threads with a reader each, as many without one, and one for those who do not wait. For one event loop.

    The readers are opened here, while there is room for their files. StoreFailed: they cannot be. `key` is the id of
    the key that asks. Busy: too many wait already; KeyBusy: too many of that key. Dropped: by `drop`.
    """

    def __init__(self, folder: Path) -> None:
        self._log = WalCheckpointer(folder)
        self._free: deque[Reader] = deque()
        try:
            for _ in range(MAX_THREADS_PER_KEY + SPARE_THREADS + 1):
                self._free.append(open_reader(folder))
        except BaseException:
            self._close_readers()
            raise
        self._first = self._free.pop()
        self._reading, self._beside = _ThreadPool("bems-reader"), _ThreadPool("bems-beside")
        self._acting = ThreadPoolExecutor(1, "bems-acting")

    async def read(self, question: Callable[[Reader], T], key: str = "") -> T:
        """What the question answers, asked in a thread that has a reader, of one moment. StoreFailed: it could not be
        read."""
        return await self._reading.run_blocking(lambda: self._ask(question), key)

    async def run_blocking(self, call: Callable[[], T], key: str = "") -> T:
        """What the call returns, which reads no store. In a thread of others, so that however long it takes, who reads
        the store does not wait for it."""
        return await self._beside.run_blocking(call, key)

    async def run_action(self, call: Callable[[], T]) -> T:
        """What the call returns, which changes something, and so waits for no question. It is done whoever hangs up."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._acting, call))

    async def read_for_action(self, question: Callable[[Reader], T]) -> T:
        """The same of a short question that is a part of doing something."""

        def read() -> T:
            # Not by way of the log, which may have long questions waited for.
            with self._first.snapshot():
                return question(self._first)

        return await self.run_action(read)

    def drop_queries(self, key: str) -> None:
        """The key is revoked: what it asked and nobody has begun to answer raises Dropped."""
        self._reading.drop(key)
        self._beside.drop(key)

    def _ask(self, question: Callable[[Reader], T]) -> T:
        reader = self._free.pop()
        try:
            with self._log.reading(), reader.snapshot():
                return question(reader)
        finally:
            self._free.append(reader)

    def close(self) -> None:
        """Wait for what was asked, and close. Twice is harmless."""
        for threads in (self._reading, self._beside):
            threads.close()
        self._acting.shutdown()
        self._free.append(self._first)
        self._close_readers()

    def _close_readers(self) -> None:
        for reader in self._free:
            reader.close()
        self._log.close()
