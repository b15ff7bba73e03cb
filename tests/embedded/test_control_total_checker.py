"""Control total checker, and the writer that stores its counts: when it counts, and what a failure leaves behind."""

from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from bems.embedded import control_total_checker
from bems.embedded.clock import VirtualClock
from bems.embedded.control_total_checker import ControlTotalChecker
from bems.embedded.storage.errors import StoreFailed
from bems.embedded.storage.reader import open_reader
from bems.embedded.writer import EventCount, Writer, open_writer
from bems.tracker.control_totals import ALERT_GRACE, ControlTotal, ControlTotalState, EventTotals, on_statement
from bems.tracker.instants import DAY, HOUR
from tests.embedded.submit import submit
from tests.tracker.samples import NOW, POLICY
from tests.waiting import SOON

TOTAL = ControlTotal("sap", "posting", NOW - DAY, NOW, EventTotals(2, {"EUR": Decimal("10.00")}))
NOTHING = EventTotals(0, {})


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOW)


@pytest.fixture
def writer(tmp_path: Path, clock: VirtualClock) -> Iterator[Writer]:
    writer = open_writer(tmp_path / "cell", POLICY, clock).start()
    yield writer
    writer.stop()


def stored(writer: Writer) -> ControlTotalState | None:
    """Return the committed state, read through another connection."""
    with closing(open_reader(folder_of(writer))) as reader:
        return reader.control_total(TOTAL.id)


def folder_of(writer: Writer) -> Path:
    return writer._store._database.parent


def alerts(writer: Writer) -> int:
    with closing(open_reader(folder_of(writer))) as reader:
        assert reader.alerts() == [] == reader.newest_alerts() and reader.counts().alerts == 0
        return len(reader.alert_messages())


class FakeAnalytics:
    """A time series that has every row up to `watermark`, and none of them is an event of the control total."""

    def __init__(self, watermark: int = 0) -> None:
        self.watermark = watermark
        self.error: Exception | None = None
        self.queries = self.woken = 0

    def wake(self) -> None:
        self.woken += 1

    def query(self, sql: str, parameters: object = ()) -> list[Any]:  # noqa: ARG002
        self.queries += 1
        if self.error:
            raise self.error
        return []


def checker_of(writer: Writer, analytics: FakeAnalytics, clock: VirtualClock) -> ControlTotalChecker:
    return ControlTotalChecker(lambda: open_reader(folder_of(writer)), analytics, writer, clock)  # type: ignore[arg-type]


# -- the writer


def test_a_control_total_is_stored_before_it_is_answered(writer: Writer) -> None:
    assert submit(writer, TOTAL).result(SOON).result == "accepted"
    assert stored(writer) == on_statement(None, TOTAL, NOW)


def test_the_alert_is_stored_together_with_the_state_that_says_so(writer: Writer, clock: VirtualClock) -> None:
    submit(writer, TOTAL).result(SOON)
    clock.move_to(NOW + ALERT_GRACE)
    is_full = patch.object(writer._store, "commit", side_effect=StoreFailed("the disk is full"))
    with is_full, pytest.raises(StoreFailed):
        submit(writer, EventCount(TOTAL, NOTHING)).result(SOON)
    assert stored(writer) == on_statement(None, TOTAL, NOW) and alerts(writer) == 0
    for _ in range(2):
        assert submit(writer, EventCount(TOTAL, NOTHING)).result(SOON).result == "accepted"
        state = stored(writer)
        assert state is not None and state.alerted_at == NOW + ALERT_GRACE and alerts(writer) == 1


def test_two_counts_of_one_group_raise_one_alert(tmp_path: Path, clock: VirtualClock) -> None:
    writer = open_writer(tmp_path / "cell", POLICY, clock)
    clock.move_to(NOW + 2 * HOUR)
    futures = [submit(writer, item) for item in (TOTAL, EventCount(TOTAL, NOTHING))]
    writer.commit_group()
    clock.move_to(NOW + 2 * HOUR + ALERT_GRACE)
    futures += [submit(writer, EventCount(TOTAL, NOTHING)) for _ in range(3)]
    writer.commit_group()
    assert [future.result(SOON).result for future in futures] == ["accepted"] * 5
    assert alerts(writer) == 1
    writer.stop()


def test_a_count_of_an_unknown_control_total_is_refused(writer: Writer) -> None:
    assert submit(writer, EventCount(TOTAL, NOTHING)).result(SOON).result == "refused"
    assert stored(writer) is None


# -- the checker


def test_what_is_due_is_compared(writer: Writer, clock: VirtualClock) -> None:
    submit(writer, TOTAL).result(SOON)
    analytics = FakeAnalytics()
    checker_of(writer, analytics, clock).check_due()
    state = stored(writer)
    assert state is not None and (state.status, state.checked_at, analytics.queries) == ("different", NOW, 1)
    checker_of(writer, analytics, clock).check_due()
    assert analytics.queries == 1, "it is not due again yet"


def test_nothing_is_compared_while_duckdb_is_behind(writer: Writer, clock: VirtualClock) -> None:
    submit(writer, TOTAL).result(SOON)
    analytics = FakeAnalytics(watermark=-1)
    checker_of(writer, analytics, clock).check_due()
    assert (analytics.queries, analytics.woken) == (0, 1)
    state = stored(writer)
    assert state is not None and state.status == "waiting"


def test_a_failed_count_leaves_the_control_total_due(writer: Writer, clock: VirtualClock) -> None:
    submit(writer, TOTAL).result(SOON)
    analytics = FakeAnalytics()
    analytics.error = OSError("no memory")
    checker = checker_of(writer, analytics, clock)
    with pytest.raises(OSError, match="no memory"):
        checker.check_due()
    analytics.error = None
    checker.check_due()
    state = stored(writer)
    assert state is not None and state.status == "different"


def test_a_writer_that_does_not_answer_does_not_block_the_checker(
    writer: Writer, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_total_checker, "RESULT_TIMEOUT_SECONDS", 0.01)
    submit(writer, TOTAL).result(SOON)
    with patch.object(writer, "submit"):
        checker_of(writer, FakeAnalytics(), clock).check_due()
    state = stored(writer)
    assert state is not None and state.check_at == NOW


def test_a_stopped_checker_compares_nothing_more(writer: Writer, clock: VirtualClock) -> None:
    submit(writer, TOTAL).result(SOON)
    analytics = FakeAnalytics()
    checker = checker_of(writer, analytics, clock)
    checker.stop()
    checker.check_due()
    assert analytics.queries == 0
