"""Dashboards over HTTP: their list, periods, and errors."""

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
def cell_with_data(cell: Cell) -> Cell:
    for id in ("A", "B"):
        cell.send("ingestion", invoice_id=id)
    cell.send("authorization", invoice_id="A", status="approved")
    until(lambda: cell.get("/check")["balanced"])
    return cell


def test_every_dashboard_can_be_listed_and_queried(cell_with_data: Cell) -> None:
    listed = cell_with_data.get("/dashboards")
    assert [one["name"] for one in listed["items"]] == list(DASHBOARDS) and listed["next_cursor"] is None
    for name, dashboard in DASHBOARDS.items():
        shown = cell_with_data.get(f"/dashboards/{name}")
        assert shown["columns"] == list(dashboard.columns)
        assert all(len(row) == len(dashboard.columns) for row in shown["rows"])


def test_a_dashboard_covers_the_requested_period(cell_with_data: Cell) -> None:
    shown = cell_with_data.get("/dashboards/backlog")
    assert shown["rows"] == [
        ["AwaitingAuthorization", "EUR", 1, "1250.00"],
        ["AwaitingReconciliation", "EUR", 1, "1250.00"],
    ]
    shown = cell_with_data.get("/dashboards/volume?by=hour")
    assert [row[1:4] for row in shown["rows"]] == [["authorization", "approved", 1], ["ingestion", "received", 2]]
    earlier = cell_with_data.get("/dashboards/volume?until=2020-01-01T00:00:00%2B01:00")
    assert earlier == {
        "name": "volume", "since": "2019-12-01T23:00:00Z", "until": "2019-12-31T23:00:00Z",
        "columns": list(DASHBOARDS["volume"].columns), "rows": [], "truncated": False,
    }  # fmt: skip
    assert cell_with_data.get("/dashboards/volume?until=1970-01-02T00:00:00Z")["since"] == "1970-01-01T00:00:00Z"


def test_too_many_rows_are_truncated_to_the_latest(cell_with_data: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = cell_with_data.get("/dashboards/volume")
    count = len(everything["rows"])
    assert not everything["truncated"]
    monkeypatch.setattr(dashboards, "MAX_DASHBOARD_ROWS", count)
    assert cell_with_data.get("/dashboards/volume") == everything
    monkeypatch.setattr(dashboards, "MAX_DASHBOARD_ROWS", count - 1)
    assert cell_with_data.get("/dashboards/volume") == everything | {"rows": everything["rows"][1:], "truncated": True}


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
def test_times_out_of_range_are_clamped(cell_with_data: Cell, query: str, since: str, until: str) -> None:
    shown = cell_with_data.get(f"/dashboards/volume?{query}")
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
def test_invalid_query_parameters_are_refused(cell_with_data: Cell, query: str, faults: set[str]) -> None:
    reply = cell_with_data.ask("GET", f"/dashboards/volume?{query}")
    assert reply.status == 400 and set(reply.faults) == faults


def test_an_unknown_dashboard_returns_404(cell_with_data: Cell) -> None:
    reply = cell_with_data.ask("GET", "/dashboards/sales")
    assert reply.status == 404
    assert "use one of volume, visibility, backlog, alerts, amounts" in str(json.loads(reply.body)["detail"])


def test_a_dashboard_returns_503_while_duckdb_is_not_open(
    cell_with_data: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object) -> None:
        raise NotOpen("the database is closed")

    monkeypatch.setattr(AnalyticsFeeder, "query_hourly", closed)
    reply = cell_with_data.ask("GET", "/dashboards/volume")
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert reply.content["detail"].startswith("the database is closed: ")


def test_a_dashboard_returns_503_if_duckdb_fails(
    cell_with_data: Cell, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise duckdb.OutOfMemoryException("failed to offload data block")

    monkeypatch.setattr(AnalyticsFeeder, "query_hourly", full)
    reply = cell_with_data.ask("GET", "/dashboards/volume")
    assert (reply.status, reply.headers["retry-after"]) == (503, "5")
    assert reply.content["detail"].startswith("the query in DuckDB failed, and the cell's log says why: ")
    assert "the query of dashboard volume failed: failed to offload data block" in caplog.text
    assert "Traceback" not in caplog.text


def test_the_default_period_ends_now(cell_with_data: Cell) -> None:
    cell_with_data.move_to(NOW + 60 * DAY)
    assert cell_with_data.get("/dashboards/volume")["rows"] == []
    assert cell_with_data.get("/dashboards/backlog")["rows"]
