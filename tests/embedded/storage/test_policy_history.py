"""The policy that a cell starts with, and the policies that it stores."""

from collections.abc import Callable
from datetime import date
from pathlib import Path

import apsw
import pytest

from bems.calendars import expand
from bems.embedded.backup import back_up
from bems.embedded.clock import VirtualClock
from bems.embedded.service import Service
from bems.embedded.storage.database_files import StoreUnusable
from bems.embedded.storage.errors import StoreFailed
from bems.embedded.storage.policy_history import PolicyInForce, PolicyOrDefault
from bems.embedded.storage.reader import open_reader
from bems.embedded.storage.schema import DATABASE
from bems.embedded.writer import open_writer
from bems.tracker.instants import DAY, parse
from bems.tracker.policy import CalendarSpec, Policy, PolicySpec
from tests.tracker.samples import NOW, POLICY, facts, plain_policy

STRICT = plain_policy("1h", "1h", 1, 2)
HUNGARIAN = expand(PolicySpec(CalendarSpec("HU", "Europe/Budapest", days_off=(date(2026, 11, 24),))))


class CellFixture:
    """A folder in which cells start and stop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = VirtualClock(NOW)

    def start(self, policy: PolicyOrDefault, source: str = "sla.yaml") -> PolicyInForce:
        """Start a cell, stop it, move the clock a day on, and return the policy that was in force."""
        with open_writer(self.folder, policy, self.clock, policy_source=source) as writer:
            assert writer._cell.policy == writer.in_force.policy
            found = writer.in_force
        self.clock.move_to(self.clock.now() + DAY)
        return found

    def stored(self) -> list[tuple[str, str, int, int | None]]:
        """Return source, digest, `since` and `until` of each stored policy, the newest first."""
        reader = open_reader(self.folder)
        try:
            return [(one.source, one.digest, one.since, one.until) for one in reader.policies()]
        finally:
            reader.close()


@pytest.fixture
def fixture(tmp_path: Path) -> CellFixture:
    return CellFixture(tmp_path / "cell")


def never() -> Policy:
    raise AssertionError("the default policy is made only if none is stored")


def test_a_new_cell_uses_the_default_policy_if_none_is_given(fixture: CellFixture) -> None:
    assert fixture.start(lambda: POLICY) == PolicyInForce(POLICY, "default", NOW)
    assert fixture.stored() == [("default", POLICY.digest, NOW, None)]


def test_a_start_without_a_policy_continues_with_the_stored_one(fixture: CellFixture) -> None:
    fixture.start(HUNGARIAN)
    found = fixture.start(never)
    assert found == PolicyInForce(HUNGARIAN, "sla.yaml", NOW, is_resumed=True)
    assert found.policy.digest == HUNGARIAN.digest
    assert found.policy.calendar_spec == HUNGARIAN.calendar_spec
    thursday = parse("2026-01-08T09:00:00+01:00")
    assert found.policy.deadline("authorization", facts(), None, thursday) == parse("2026-01-12T08:00:00Z")
    assert len(fixture.stored()) == 1


def test_every_policy_is_stored_with_the_interval_in_which_it_was_in_force(fixture: CellFixture) -> None:
    fixture.start(POLICY, "sla.yaml")
    fixture.start(STRICT, "strict.yaml")
    fixture.start(STRICT, "strict.yaml")
    fixture.start(never)
    assert fixture.start(POLICY, "default") == PolicyInForce(POLICY, "default", NOW + 4 * DAY)
    assert fixture.stored() == [
        ("default", POLICY.digest, NOW + 4 * DAY, None),
        ("strict.yaml", STRICT.digest, NOW + DAY, NOW + 4 * DAY),
        ("sla.yaml", POLICY.digest, NOW, NOW + DAY),
    ]
    reader = open_reader(fixture.folder)
    digests = [one and one.digest for one in map(reader.policy_at, (NOW - 1, NOW, NOW + DAY - 1, NOW + 2 * DAY))]
    assert digests == [None, POLICY.digest, POLICY.digest, STRICT.digest]
    assert [one.load() for one in reader.policies()] == [POLICY, STRICT, POLICY]
    assert [one.number for one in reader.policies(before=3, limit=1)] == [2]
    reader.close()


def test_the_same_policy_from_another_file_stays_in_force(fixture: CellFixture) -> None:
    fixture.start(POLICY, "sla.yaml")
    assert fixture.start(POLICY, "renamed.yaml") == PolicyInForce(POLICY, "renamed.yaml", NOW)
    assert fixture.stored() == [("renamed.yaml", POLICY.digest, NOW, None)]


def test_a_restored_backup_continues_with_its_policy(fixture: CellFixture, tmp_path: Path) -> None:
    fixture.start(POLICY)
    fixture.start(STRICT, "strict.yaml")
    back_up(fixture.folder, tmp_path / "backup")
    fixture.start(POLICY)
    restored = CellFixture(tmp_path / "backup")
    assert restored.start(never) == PolicyInForce(STRICT, "strict.yaml", NOW + DAY, is_resumed=True)
    assert [source for source, *_ in restored.stored()] == ["strict.yaml", "sla.yaml"]


def test_a_policy_is_stored_after_the_clock_was_moved(fixture: CellFixture) -> None:
    # The constructor moves the service's clock to the newest entry; `start` stores the policy.
    with Service(fixture.folder, POLICY, port=0, clock=fixture.clock) as service:
        assert service.in_force.since == NOW
    made = Service(fixture.folder, STRICT, port=0, clock=fixture.clock)
    assert (made.in_force.since, len(fixture.stored())) == (None, 1)
    fixture.clock.move_to(NOW + 3 * DAY)
    with made:
        assert made.in_force.since == NOW + 3 * DAY


def test_a_stored_policy_that_cannot_be_read_is_reported(fixture: CellFixture) -> None:
    fixture.start(POLICY)
    change_row(fixture, "UPDATE policies SET document = '{}'")
    with pytest.raises(
        StoreUnusable, match=r"the policy in force, sla.yaml, cannot be read: .*: give one with --policy"
    ):
        fixture.start(never)
    assert fixture.start(STRICT, "strict.yaml").since == NOW + DAY


def test_a_policy_that_cannot_be_stored_is_reported(fixture: CellFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = open_writer(fixture.folder, POLICY, fixture.clock)
    execute: Callable[..., object] = writer._store._execute

    def fail(sql: str, *values: object) -> object:
        if "policies" in sql:
            raise apsw.FullError("database or disk is full")
        return execute(sql, *values)

    monkeypatch.setattr(writer._store, "_execute", fail)
    with pytest.raises(StoreFailed, match="the policy could not be stored: database or disk is full"):
        writer.start()
    writer.stop()


def change_row(fixture: CellFixture, sql: str) -> None:
    connection = apsw.Connection(str(fixture.folder / DATABASE))
    connection.execute(sql.replace("'{}'", "CAST('{}' AS BLOB)"))
    connection.close()
