"""Puts moto's Step Functions interpreter on freezegun's clock: waits end when a test moves the clock.

moto interprets every execution with threads that wait on `threading.Event`, `Thread.join` and `time.sleep`. In its
modules these are replaced by versions that park the thread. `SfnClock.advance` wakes the parked threads one at a time,
in order of their deadlines, and waits until all threads are parked in between, so that executions are deterministic.
"""

import itertools
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import moto.stepfunctions.parser.models  # noqa: F401  (imports every module that is patched)
import pytest
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory

_SETTLE_TIMEOUT_SECONDS = 30


class _Unwind(BaseException):
    """Ends a parked interpreter thread. moto catches only Exception."""


@dataclass(eq=False)
class _Parked:
    deadline: datetime
    order: int
    event: threading.Event
    root: threading.Thread | None
    woken: threading.Event = field(default_factory=threading.Event)
    result: bool | _Unwind = False


class SfnClock:
    """Frozen clock for all threads of moto's interpreter. Create it with `sfn_clock()`."""

    def __init__(self, frozen: FrozenDateTimeFactory) -> None:
        self._frozen = frozen
        self._changed = threading.Condition()
        self._running = 0
        self._parked: list[_Parked] = []
        self._order = itertools.count()

    @property
    def now(self) -> datetime:
        """The frozen time, as an aware datetime in UTC."""
        return self._frozen().replace(tzinfo=UTC)

    def advance(self, seconds: float) -> None:
        """Move the clock, and end each wait at its deadline."""
        target = self._frozen() + timedelta(seconds=seconds)
        self.settle()
        while (parked := self._next()) is not None and parked.deadline <= target:
            self._frozen.move_to(max(parked.deadline, self._frozen()))
            self._wake(lambda other, due=parked: other is due, False)  # type: ignore[misc]
            self.settle()
        self._frozen.move_to(target)

    def settle(self) -> None:
        """Wait until every interpreter thread is parked or has ended."""
        with self._changed:
            settled = self._changed.wait_for(lambda: self._running == 0, _SETTLE_TIMEOUT_SECONDS)
        assert settled, "the interpreter did not settle"

    def close(self) -> None:
        """End every parked thread."""
        self._wake(lambda _: True, _Unwind())
        self.settle()

    def _next(self) -> _Parked | None:
        with self._changed:
            return min(self._parked, default=None, key=lambda parked: (parked.deadline, parked.order))

    def _count(self, change: int) -> None:
        with self._changed:
            self._running += change
            self._changed.notify_all()

    def _park(self, event: threading.Event, timeout: float | None) -> bool:
        thread = threading.current_thread()
        with self._changed:
            if event.is_set() or (timeout is not None and timeout <= 0):
                return event.is_set()
            deadline = datetime.max if timeout is None else self._frozen() + timedelta(seconds=float(timeout))
            parked = _Parked(deadline, next(self._order), event, getattr(thread, "root", None))
            self._parked.append(parked)
            self._running -= 1
            self._changed.notify_all()
        parked.woken.wait()
        if isinstance(parked.result, _Unwind):
            raise parked.result
        return parked.result

    def _wake(self, which: Callable[[_Parked], bool], result: bool | _Unwind) -> None:
        with self._changed:
            for parked in [parked for parked in self._parked if which(parked)]:
                self._parked.remove(parked)
                parked.result = result
                self._running += 1
                parked.woken.set()

    def replacements(self) -> dict[str, Any]:
        """Return the replacements for names in moto's interpreter modules."""
        clock = self

        class Event(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                return clock._park(self, timeout)

            def set(self) -> None:
                super().set()
                clock._wake(lambda parked: parked.event is self, True)

        class Thread(threading.Thread):
            def start(self) -> None:
                self.overdue = False
                self.ended = Event()
                self.root: threading.Thread = getattr(threading.current_thread(), "root", self)
                clock._count(+1)
                super().start()

            def run(self) -> None:
                try:
                    super().run()
                except _Unwind:
                    pass
                finally:
                    self.ended.set()
                    clock._count(-1)

            def is_alive(self) -> bool:
                return self.overdue or not self.ended.is_set()

            def join(self, timeout: float | None = None) -> None:
                # moto joins only for the execution's TimeoutSeconds, and then checks is_alive() to detect the timeout.
                self.overdue = not self.ended.wait(timeout)
                if self.overdue:
                    clock._wake(lambda parked: parked.root is self.root, _Unwind())

        def sleep(seconds: float) -> None:
            Event().wait(seconds)

        return {
            "Event": Event,
            "Thread": Thread,
            "threading": types.SimpleNamespace(**{**vars(threading), "Event": Event, "Thread": Thread}),
            "time": types.SimpleNamespace(**{**vars(time), "sleep": sleep}),
        }


@contextmanager
def sfn_clock(start: str = "2026-01-01T00:00:00Z") -> Iterator[SfnClock]:
    """Freeze time, and put moto's interpreter on the frozen clock."""
    with freeze_time(start, ignore=["_pytest"]) as frozen, pytest.MonkeyPatch.context() as patch:
        assert isinstance(frozen, FrozenDateTimeFactory)
        clock = SfnClock(frozen)
        replacements = clock.replacements()
        for name, module in list(sys.modules.items()):
            if name.startswith("moto.stepfunctions.parser."):
                for attribute, replacement in replacements.items():
                    if hasattr(module, attribute):
                        patch.setattr(module, attribute, replacement)
        yield clock
        clock.close()
