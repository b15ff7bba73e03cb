"""The printed report of a replay."""

from decimal import Decimal

import pytest

from bems.cli.replay_report import print_report
from bems.embedded.replay.report import AlertLine, Attainment, ClockJump, InvoiceLine, Report
from bems.tracker.contract import Stage, Vendor
from bems.tracker.instants import DAY, HOUR, MINUTE, SECOND, Instant, parse
from bems.tracker.status import Status

START = parse("2026-03-02T09:00:00Z")


def invoice(id: str, status: Status, stage: Stage | None, since: Instant | None, *alerts: AlertLine) -> InvoiceLine:
    parked = len(alerts) == 3
    return InvoiceLine(id, status, list(alerts), stage, parked, since, Decimal("1250.50"), "EUR", Vendor("V-1", "Acme"))


def alert(severity: str, since: Instant, stage: Stage = "authorization") -> AlertLine:
    return AlertLine(stage, severity, "stuck", since + DAY, since)  # type: ignore[arg-type]


@pytest.fixture
def report() -> Report:
    report = Report()
    report.accepted, report.duplicate, report.left_out = 7, 2, 4
    report.first, report.last, report.end = START, START + 40 * DAY, START + 50 * DAY
    report.count_refused(["amount: too many decimals", "currency: unknown currency"])
    report.count_refused(["amount: too many decimals"])
    report.note_clock(1, START, START + 40 * DAY)
    old, new = START, START + 2 * DAY
    report.invoices = [
        invoice("INV-1", "Posted", None, None),
        invoice("INV-2", "AwaitingAuthorization", "authorization", new, alert("warning", new)),
        invoice(
            "INV-3",
            "AwaitingAuthorization",
            "authorization",
            old,
            *(alert(severity, old) for severity in ("warning", "critical", "critical")),
        ),
    ]
    report.statuses.update(["Posted", "AwaitingAuthorization", "AwaitingAuthorization"])
    report.parked = 1
    report.alerts.update({("authorization", "warning"): 2, ("authorization", "critical"): 3})
    report.durations["posting"].extend([30 * SECOND] * 50 + [5 * HOUR] * 40 + [2 * DAY + 12 * HOUR] * 9 + [9 * DAY])
    report.durations["ingestion"].extend([0, 90 * MINUTE, 90 * MINUTE])
    report.attainment["ingestion"] = Attainment(in_time=5, late=1, by_hand=1, overdue=1)
    report.attainment["authorization"] = Attainment(overdue=2)
    report.useful_alerts = 2
    return report


def rows(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip(" ─")]


def test_every_figure_is_printed(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(report, 0.5)
    assert rows(capsys.readouterr().out) == [
        "Events 7 accepted, 2 duplicate, 2 refused; 4 after --until left out",
        "Period 2026-03-02 to 2026-04-11; replayed until 2026-04-21",
        "Replayed 11 events in 500ms (22 a second)",
        "Note line 1, dated 2026-04-11, is 40 days later than every line before it; if that date is wrong, "
        "invoices count as stuck too early",
        "Refused, by reason (an event may have several reasons)",
        "Reason Events",
        "amount: too many decimals 2",
        "currency: unknown currency 1",
        "What became of 3 invoices",
        "Status Invoices Share Meaning",
        "AwaitingAuthorization 2 66.7% ingested, not yet approved",
        "Posted 1 33.3% through all four stages",
        "of these parked 1 33.3% given up after the last alert",
        "Time in each stage",
        "Stage Passed Half within 90% within 99% within In time",
        "ingestion 3 1h 30m 1h 30m 1h 30m 62.5%",
        "authorization 0 - - - 0.0%",
        "reconciliation 0 - - - -",
        "posting 100 30s 5h 2d 12h -",
        "Alerts: 166.7 per 100 invoices, 1 per alerted invoice (median), 60.0% critical,",
        "40.0% useful",
        "Stage Invoices Warnings Critical",
        "authorization 2 2 3",
        "Stuck at the end: 2 invoices",
        "Invoice Status Waits since Alerts Amount Vendor",
        "INV-3 AwaitingAuthorization 2026-03-02 3, parked 1,250.50 EUR Acme",
        "INV-2 AwaitingAuthorization 2026-03-04 1 1,250.50 EUR Acme",
    ]


def test_a_short_jump_has_no_note(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    report.longest_jump = ClockJump(1, START, START + 30 * DAY)
    print_report(report, 1)
    assert "Note" not in capsys.readouterr().out


def test_names_are_not_interpreted_as_markup(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    stuck = report.invoices[2]._replace(invoice_id="[/]", vendor=Vendor("V-2", "[red]Ltd[/red]"))
    report.invoices = [stuck]
    print_report(report, 1.0)
    assert "[/] AwaitingAuthorization 2026-03-02 3, parked 1,250.50 EUR [red]Ltd[/red]" in rows(capsys.readouterr().out)


def test_an_empty_report_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(Report(), 1)
    assert rows(capsys.readouterr().out) == [
        "Events 0 accepted, 0 duplicate, 0 refused",
        "Replayed 0 events in 1s (0 a second)",
    ]


def test_long_lists_of_reasons_and_stuck_invoices_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    for number in range(15):
        report.count_refused([f"reason {number:02}"])
        report.invoices.append(
            invoice(f"INV-{number:02}", "Disputed", "reconciliation", START - number * DAY, alert("warning", START))
        )
    print_report(report, 1)
    text = rows(capsys.readouterr().out)
    assert "3 more reasons" in text
    assert "Stuck at the end: 15 invoices, the 10 longest" in text
    assert [row.split()[0] for row in text[-10:]] == [f"INV-{number:02}" for number in range(14, 4, -1)]
