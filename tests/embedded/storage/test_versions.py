"""Stores of every version: a cell that an older program wrote is read, migrated and continued."""

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec import json

from bems.clock import SystemClock
from bems.embedded.storage.database_files import open_database
from bems.embedded.storage.schema import APPLICATION_ID, DATABASE, MIGRATIONS
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.writer import open_writer
from tests.data.store import (
    POLICY,
    events,
    list_stored_versions,
    read_contents,
    run_first_half,
    run_second_half,
    unpack,
)

STORED = list_stored_versions()


def held(version: int) -> Any:
    """Return the content that the program of this version read from its own store."""
    content = json.decode(gzip.decompress((STORED[version] / "held.json.gz").read_bytes()))
    return content if version >= CONTROL_TOTALS_FROM else {**content, "control_totals": []}


CONTROL_TOTALS_FROM = 5
"""First version with control totals."""

CHAINED_FROM = 4
"""First version with chained rows. In older versions each row held its decision's whole change; the migration
recomputes these fields."""

RESOLVED_FROM = 5
"""First version whose records know which alerts are resolved and what was recorded by hand. An older program did not
store which alerts of a wait were sent, nor who recorded an outcome."""


def covers(found: Any, expected: Any, name: str) -> bool:
    """Return whether `found` has everything in `expected`, which an older program read. New fields may be there too."""
    if isinstance(expected, dict):
        changed = {"from_status", "to_status"} if name == "transitions" else set()
        return isinstance(found, dict) and all(
            key in found and covers(found[key], expected[key], name) for key in expected.keys() - changed
        )
    if isinstance(expected, list):
        return (
            isinstance(found, list)
            and len(found) == len(expected)
            and all(covers(one, other, name) for one, other in zip(found, expected, strict=True))
        )
    return bool(found == expected)


def comparable(found: Any, expected: Any, version: int) -> tuple[Any, Any]:
    """Return both contents without the parts that cannot be equal.

    These are fields that an older program did not store, messages and alerts that depend on them, and invoices for
    which it raised no alert where the present program does: those with a mismatch in a stage that is not awaited yet.
    """
    if version < CONTROL_TOTALS_FROM:
        found, expected = {**found, "control_totals": []}, {**expected, "control_totals": []}
    if version >= RESOLVED_FROM:
        return found, expected
    if version >= CHAINED_FROM:
        return strip_resolved(found), strip_resolved(expected)
    known = {alert["id"] for _, alert in held(version)["alerts"]}
    end = held(version)["transitions"][-1][1]["recorded_at"]
    silent = {
        alert["invoice_id"]
        for _, alert in expected["alerts"]
        if alert["kind"] in ("dispute", "failed") and alert["raised_at"] <= end and alert["id"] not in known
    }
    assert 0 < len(silent) < 8, silent
    return strip(strip_resolved(found), silent), strip(strip_resolved(expected), silent)


def strip_resolved(found: Any) -> Any:
    """Return the content without rows and alerts that depend on what only the present program stores.

    The numbers of the others are left out too, and the deliveries, which hold the alerts.
    """
    unknown = {alert["id"] for _, alert in found["alerts"] if alert["kind"] in ("resolved", "contradiction")}
    dropped = {f"alert {id}" for id in unknown}
    rows = [row for _, row in found["transitions"] if row["transition_id"] not in dropped]
    alerts = [alert for _, alert in found["alerts"] if alert["id"] not in unknown]
    for row in rows:
        for name in ("first_deadline", "next_first_deadline", "actor", "actor_kind"):
            row.pop(name, None)
    for alert in alerts:
        for name in ("open_stages", "negative_outcomes"):
            alert.pop(name, None)
    for _, _, _, wait, _, _, outcomes in found["invoices"]:
        if wait:
            wait.pop("alerted", None)
        for outcome in outcomes.values():
            outcome.pop("actor", None)
    return {name: content for name, content in found.items() if not name.startswith("deliver")} | {
        "transitions": [[0, row] for row in rows],
        "alerts": [[0, alert] for alert in alerts],
        "timelines": [[id for id in ids if id not in dropped] for ids in found["timelines"]],
    }


def strip(found: Any, invoices: set[str]) -> Any:
    names = {name for id in invoices for name in (id, id.replace("/", "-"))}
    for _, row in found["transitions"]:
        row.pop("decided_at", None)
        row.pop("policy_digest", None)
        if row["kind"] == "alert" and row["outcome"] == "stuck":
            # The present program names the event in an alert of a standing mismatch.
            row.pop("event_id", None)
    for _, alert in found["alerts"]:
        if alert["kind"] == "stuck":
            alert.pop("event_id", None)
    for _, entry in found["commands"]:
        entry["receipt"].pop("next_alert_at")
    kept = [invoice[0] not in invoices for invoice in found["invoices"]]
    found["timelines"] = [rows for rows, keep in zip(found["timelines"], kept, strict=False) if keep]

    def reduce(content: Any) -> Any:
        if not isinstance(content, list):
            return content
        # Without the numbers, which differ where one program wrote more rows.
        several = [
            one[1] if isinstance(one, list) and len(one) == 2 and isinstance(one[0], int) else one for one in content
        ]
        return [one for one in several if not any(name in json.encode(one).decode() for name in names)]

    return {name: reduce(content) for name, content in found.items() if not name.startswith("deliver")}


@pytest.fixture(params=sorted(STORED))
def version(request: pytest.FixtureRequest) -> int:
    version: int = request.param
    return version


def test_there_is_a_stored_cell_of_each_version() -> None:
    assert sorted(STORED) == list(range(1, len(MIGRATIONS) + 1)), "python -m tests.data.store writes the newest"


def test_a_stored_cell_covers_every_kind_of_data(version: int) -> None:
    found = held(version)
    assert {"AwaitingAuthorization", "AwaitingReconciliation", "Orphan", "Posted"} <= found["statuses"].keys()
    assert any(invoice[2] == "parked" for invoice in found["invoices"])
    assert {entry["command"]["verb"]["type"] for _, entry in found["commands"]} >= {"park", "extend", "complete"}
    assert {letter["retry_at"] is None for letter in found["letters"]} == {True, False}
    assert {alert["severity"] for _, alert in found["alerts"]} == {"warning", "critical"}
    assert all(found["deliveries"]) and len(found["due"]) > 10
    assert len(found["control_totals"]) == (version >= CONTROL_TOTALS_FROM)


def test_a_migrated_cell_has_the_content_that_its_own_program_read(version: int, tmp_path: Path) -> None:
    folder = unpack(STORED[version], tmp_path / "cell")
    found, expected = read_contents(folder), held(version)
    assert found.keys() == expected.keys()
    for name in expected:
        assert covers(found[name], expected[name], name), name
    header = (folder / DATABASE).read_bytes()[:100]
    assert int.from_bytes(header[60:64], "big") == len(MIGRATIONS)


def test_a_migrated_cell_continues_like_a_new_one(version: int, tmp_path: Path) -> None:
    old, new = unpack(STORED[version], tmp_path / "old"), tmp_path / "new"
    run_first_half(new)
    letters, before = len(held(version)["letters"]), len(held(version)["events"])
    for folder in (old, new):
        counts = {"duplicate": before, "accepted": len(events()) - before + letters}
        assert Counter(run_second_half(folder)) == counts
    found, expected = comparable(read_contents(old), read_contents(new), version)
    assert len(found["alerts"]) > len(held(version)["alerts"]) + 20, "timers fire"
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name], name


def test_policies_are_stored_from_version_3_on(version: int, tmp_path: Path) -> None:
    folder = unpack(STORED[version], tmp_path / "cell")
    store = SqliteStore(folder)
    kept = store.policies()
    store.close()
    assert [one.digest for one in kept] == ([POLICY.digest] if version >= 3 else [])
    assert [one.load() for one in kept] == [POLICY][: len(kept)]
    open_writer(folder, POLICY, SystemClock()).start().stop()
    store = SqliteStore(folder)
    assert [one.digest for one in store.policies()] == [POLICY.digest]
    store.close()


# -- the next version


def add_colour(connection: apsw.Connection) -> None:
    """Migration that adds a column and updates every row."""
    connection.execute("ALTER TABLE invoices ADD COLUMN colour TEXT")
    connection.execute("UPDATE invoices SET colour = status || '!'")


def content(path: Path) -> list[str]:
    """Return the version, schema and rows of a database, without the salt of its log, which every start rewrites."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    tables = connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
    rows = [str(row) for name, sql in tables if str(sql).startswith("CREATE TABLE") and name != "log_identity"
            for row in connection.execute(f'SELECT * FROM "{name}"')]  # fmt: skip
    version = connection.pragma("user_version")
    connection.close()
    return [str(version), *map(str, tables), *rows]


def test_the_next_migration_is_applied_once_and_keeps_the_rest(version: int, tmp_path: Path) -> None:
    path = unpack(STORED[version], tmp_path / "cell") / DATABASE
    expected = [f"{status}!" for _, status, *_ in sorted(held(version)["invoices"])]
    for _ in range(2):
        connection = open_database(path, (*MIGRATIONS, add_colour), APPLICATION_ID)
        assert connection.pragma("user_version") == len(MIGRATIONS) + 1
        assert connection.execute("SELECT colour FROM invoices ORDER BY invoice_id").fetchall() == [
            (one,) for one in expected
        ]
        assert connection.execute("SELECT count(*) FROM events").get == len(held(version)["events"])
        connection.close()


def test_a_migration_that_fails_changes_no_byte(version: int, tmp_path: Path) -> None:
    path = unpack(STORED[version], tmp_path / "cell") / DATABASE

    def fail(connection: apsw.Connection) -> None:
        add_colour(connection)
        raise ZeroDivisionError

    before, bytes_before = content(path), path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        open_database(path, (*MIGRATIONS[:version], fail), APPLICATION_ID)
    assert path.read_bytes() == bytes_before or any("CREATE TABLE log_identity" in one for one in before)
    assert content(path) == before and before[0] == str(version)
    found = read_contents(path.parent)
    assert all(covers(found[name], content, name) for name, content in held(version).items()), "and it can be used"
