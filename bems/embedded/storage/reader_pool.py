"""Reader pool: runs queries of the store, and other slow calls of the API, in threads beside the event loop.

Queries are scheduled fairly by API key: each key has a limited number of queued and of running queries, and the keys
take turns. A query is dropped from the queue when its client disconnects or its key is revoked. Actions, such as those
of admins, have a separate thread and never wait for a query.
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
"""Maximum number of threads that run queries of one key: two, so that one can read an invoice during a long list."""

SPARE_THREADS = 1
"""Additional threads, so that one key's long lists leave threads to the other keys."""

MAX_QUEUED_QUERIES, MAX_QUEUED_QUERIES_PER_KEY = 1_000, 20
"""Maximum number of unanswered queries of all keys and of one key. 1,000 long lists take some seconds."""


class KeyBusy(Exception):
    """This key has too many unanswered queries. Other keys are not affected."""


class QueryDropped(Exception):
    """The query was dropped before it began to run."""


class _Query(NamedTuple):
    call: Callable[[], Any]
    answer: "asyncio.Future[Any]"


class _ThreadPool:
    """A few threads for calls that would block an event loop. The keys take turns in them."""

    def __init__(self, name: str) -> None:
        self._threads = MAX_THREADS_PER_KEY + SPARE_THREADS
        self._queues: dict[str, deque[_Query]] = {}
        self._running: Counter[str] = Counter()
        self._unanswered: Counter[str] = Counter()
        self._executor = ThreadPoolExecutor(self._threads, name)
        self._is_closed = False

    async def run_blocking(self, call: Callable[[], T], key: str) -> T:
        """Run the call in a thread and return its result. A call that is cancelled while it is queued never runs."""
        if self._unanswered.total() >= MAX_QUEUED_QUERIES:
            raise QueueFull(f"{MAX_QUEUED_QUERIES} queries are queued already")
        if self._unanswered[key] >= MAX_QUEUED_QUERIES_PER_KEY:
            raise KeyBusy(f"this key has {MAX_QUEUED_QUERIES_PER_KEY} unanswered queries")
        query = _Query(call, asyncio.get_running_loop().create_future())
        self._queues.setdefault(key, deque()).append(query)
        self._unanswered[key] += 1
        try:
            self._start_queued()
            result: T = await query.answer
            return result
        except asyncio.CancelledError:
            with suppress(KeyError, ValueError):
                self._queues[key].remove(query)
            raise
        finally:
            self._unanswered -= Counter({key: 1})

    def drop(self, key: str) -> None:
        """Make the queued queries of this key raise QueryDropped."""
        for query in self._queues.pop(key, ()):
            if not query.answer.done():
                query.answer.set_exception(QueryDropped())

    def _start_queued(self) -> None:
        """Start queries while a thread is free: each time the oldest query of the key whose turn it is."""
        while self._running.total() < self._threads and not self._is_closed:
            key = next((one for one in self._queues if self._running[one] < MAX_THREADS_PER_KEY), None)
            if key is None:
                return
            queue = self._queues.pop(key)
            if not queue:
                continue
            query = queue.popleft()
            if queue:
                # Dicts keep insertion order: the key moves behind all others.
                self._queues[key] = queue
            self._running[key] += 1
            running = asyncio.get_running_loop().run_in_executor(self._executor, query.call)
            running.add_done_callback(lambda done, key=key, query=query: self._finish(done, key, query))  # type: ignore[misc]

    def _finish(self, done: "asyncio.Future[Any]", key: str, query: _Query) -> None:
        self._running -= Counter({key: 1})
        error = None if done.cancelled() else done.exception()
        if not query.answer.done():
            if done.cancelled():
                query.answer.cancel()
            elif error is not None:
                query.answer.set_exception(error)
            else:
                query.answer.set_result(done.result())
        self._start_queued()

    def close(self) -> None:
        self._is_closed = True
        self._executor.shutdown(cancel_futures=True)


class ReaderPool:
    """Threads with a reader each, as many threads without one, and one thread for actions. For use by one event loop.

    The constructor opens all readers, while file descriptors are available, and raises StoreFailed if it cannot. The
    `key` argument of the methods is the id of the client's API key. Queries raise QueueFull or KeyBusy if too many are
    unanswered, of all keys or of this one, and QueryDropped after `drop_queries`.
    """

    def __init__(self, folder: Path) -> None:
        self._checkpointer = WalCheckpointer(folder)
        self._free: deque[Reader] = deque()
        try:
            for _ in range(MAX_THREADS_PER_KEY + SPARE_THREADS + 1):
                self._free.append(open_reader(folder))
        except BaseException:
            self._close_readers()
            raise
        self._action_reader = self._free.pop()
        self._reading, self._other = _ThreadPool("bems-reader"), _ThreadPool("bems-other")
        self._actions = ThreadPoolExecutor(1, "bems-actions")

    async def read(self, query: Callable[[Reader], T], key: str = "") -> T:
        """Run the query in a thread with a reader, in one snapshot, and return its result.

        Raises StoreFailed if the store cannot be read.
        """
        return await self._reading.run_blocking(lambda: self._run(query), key)

    async def run_blocking(self, call: Callable[[], T], key: str = "") -> T:
        """Run a call that does not read the store, and return its result.

        It runs in another group of threads: queries of the store do not wait for it, however long it takes.
        """
        return await self._other.run_blocking(call, key)

    async def run_action(self, call: Callable[[], T]) -> T:
        """Run a call that changes something, without waiting for any query, and return its result.

        The call completes even if the client disconnects.
        """
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._actions, call))

    async def read_for_action(self, query: Callable[[Reader], T]) -> T:
        """Run a short query that is part of an action, without waiting for any other query, and return its result."""

        def read() -> T:
            # Without the checkpointer, which may wait for long queries.
            with self._action_reader.snapshot():
                return query(self._action_reader)

        return await self.run_action(read)

    def drop_queries(self, key: str) -> None:
        """Make the queued queries of a revoked key raise QueryDropped."""
        self._reading.drop(key)
        self._other.drop(key)

    def _run(self, query: Callable[[Reader], T]) -> T:
        reader = self._free.pop()
        try:
            with self._checkpointer.reading(), reader.snapshot():
                return query(reader)
        finally:
            self._free.append(reader)

    def close(self) -> None:
        """Wait for the running queries, and close the readers. Idempotent."""
        for threads in (self._reading, self._other):
            threads.close()
        self._actions.shutdown()
        self._free.append(self._action_reader)
        self._close_readers()

    def _close_readers(self) -> None:
        for reader in self._free:
            reader.close()
        self._checkpointer.close()
