"""Dashboards over HTTP: what there is, of which time, and what cannot be asked."""

import json

import duckdb
import pytest

from bems.embedded.analytics import dashboards
from bems.embedded.analytics.dashboards import DASHBOARDS
from bems.embedded.analytics.feeder import AnalyticsFeeder
from bems.embedded.analytics.time_series import NotOpen
from bems.tracker.instants import DAY
from tests.embedded.api.calls import Cell
from tests.tracker.samples import NOW
from tests.waiting import until


@pytest.fixture(scope="module")
def fed(cell: Cell) -> Cell:
    for id in ("A", "B"):
        cell.send("ingestion", invoice_id=id)
    cell.send("authorization", invoice_id="A", status="approved")
    until(lambda: cell.get("/check")["balanced"])
    return cell


def test_all_of_them(fed: Cell) -> None:
    listed = fed.get("/dashboards")
    assert [one["name"] for one in listed["items"]] == list(DASHBOARDS) and listed["next_cursor"] is None
    for name, dashboard in DASHBOARDS.items():
        shown = fed.get(f"/dashboards/{name}")
        assert shown["columns"] == list(dashboard.columns)
        assert all(len(row) == len(dashboard.columns) for row in shown["rows"])


def test_of_which_time(fed: Cell) -> None:
    shown = fed.get("/dashboards/backlog")
    assert shown["rows"] == [
        ["AwaitingAuthorization", "EUR", 1, "1250.00"],
        ["AwaitingReconciliation", "EUR", 1, "1250.00"],
    ]
    shown = fed.get("/dashboards/volume?by=hour")
    assert [row[1:4] for row in shown["rows"]] == [["authorization", "approved", 1], ["ingestion", "received", 2]]
    earlier = fed.get("/dashboards/volume?until=2020-01-01T00:00:00%2B01:00")
    assert earlier == {
        "name": "volume", "since": "2019-12-01T23:00:00Z", "until": "2019-12-31T23:00:00Z",
        "columns": list(DASHBOARDS["volume"].columns), "rows": [], "truncated": False,
    }  # fmt: skip
    assert fed.get("/dashboards/volume?until=1970-01-02T00:00:00Z")["since"] == "1970-01-01T00:00:00Z"


def test_an_answer_that_would_be_too_large_has_its_last_rows_and_says_so(
    fed: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = fed.get("/dashboards/volume")
    count = len(everything["rows"])
    assert not everything["truncated"]
    monkeypatch.setattr(dashboards, "MAX_ROWS", count)
    assert fed.get("/dashboards/volume") == everything
    monkeypatch.setattr(dashboards, "MAX_ROWS", count - 1)
    assert fed.get("/dashboards/volume") == everything | {"rows": everything["rows"][1:], "truncated": True}


@pytest.mark.parametrize(
    ("query", "since", "until"),
    [
        ("until=9999-12-31T23:59:59-14:00", "2999-12-02T00:00:00Z", "3000-01-01T00:00:00Z"),
        (
            "since=0001-01-01T00:00:00%2B14:00&until=1970-01-02T00:00:00Z",
            "1970-01-01T00:00:00Z",
            "1970-01-02T00:00:00Z",
        ),
        ("since=9999-12-31T23:59:59-14:00&until=2026-01-01T00:00:00Z", "3000-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("until=0001-01-01T00:00:00%2B14:00", "1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ("since=1980-12-31T23:59:60Z&until=1981-06-30T23:59:60Z", "1980-12-31T23:59:59Z", "1981-06-30T23:59:59Z"),
    ],
)
def test_of_a_time_beyond_all_times(fed: Cell, query: str, since: str, until: str) -> None:
    shown = fed.get(f"/dashboards/volume?{query}")
    assert (shown["since"], shown["until"], shown["rows"]) == (since, until, [])


@pytest.mark.parametrize(
    ("query", "faults"),
    [
        ("by=minute", {"/by"}),
        ("since=yesterday", {"/since"}),
        ("since=2026-01-01T00:00:00", {"/since"}),
        ("until=2026-13-01T00:00:00Z&limit=3", {"/until", "/limit"}),
    ],
)
def test_what_cannot_be_asked(fed: Cell, query: str, faults: set[str]) -> None:
    reply = fed.ask("GET", f"/dashboards/volume?{query}")
    assert reply.status == 400 and set(reply.faults) == faults


def test_one_that_is_not_there(fed: Cell) -> None:
    reply = fed.ask("GET", "/dashboards/sales")
    assert reply.status == 404
    assert "use one of volume, visibility, backlog, alerts, amounts" in str(json.loads(reply.body)["detail"])


def test_while_duckdb_is_not_open(fed: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise NotOpen("the database is closed")

    monkeypatch.setattr(AnalyticsFeeder, "query_hourly", closed)
    reply = fed.ask("GET", "/dashboards/volume")
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert reply.content["detail"].startswith("the database is closed: ")


def test_where_duckdb_fails(fed: Cell, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(*_: object) -> None:
        raise duckdb.OutOfMemoryException("failed to offload data block")

    monkeypatch.setattr(AnalyticsFeeder, "query_hourly", full)
    reply = fed.ask("GET", "/dashboards/volume")
    assert (reply.status, reply.headers["retry-after"]) == (503, "5")
    assert reply.content["detail"].startswith("the query in DuckDB failed, and the cell's log says why: ")
    assert "the query of dashboard volume failed: failed to offload data block" in caplog.text
    assert "Traceback" not in caplog.text


def test_of_a_later_time(fed: Cell) -> None:
    fed.move_to(NOW + 60 * DAY)
    assert fed.get("/dashboards/volume")["rows"] == []
    assert fed.get("/dashboards/backlog")["rows"]
