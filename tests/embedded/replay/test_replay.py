"""Replay: the report on a log of past events."""

import dataclasses
import gzip
import json
import os
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest

from bems.calendars import expand
from bems.embedded.replay.replay import BYTE_ORDER_MARK, WorkerPool, replay
from bems.embedded.replay.report import Report
from bems.generator.event_log import generate
from bems.tracker.contract import Event
from bems.tracker.instants import DAY, Instant, parse
from bems.tracker.parsing import parse_line
from bems.tracker.policy import When
from tests.embedded.replay.reference_model import run_model
from tests.tracker.samples import FIRST_SPEC, NOW, plain_policy

DATA = Path(__file__).parents[2] / "data"
POLICY = expand(FIRST_SPEC)
TODAY = parse("2026-11-01T00:00:00Z")


def line(stage: str, status: str, at: str, invoice_id: str = "INV-1", **changes: Any) -> bytes:
    event = {
        "event_id": f"{invoice_id}:{stage}:{status}:{at}",
        "invoice_id": invoice_id,
        "status": status,
        "occurred_at": at,
        "amount": "10.00",
        "currency": "EUR",
        "vendor": {"id": "V-1"},
        "source": {"system": "erp"},
    }
    return json.dumps({"stage": stage, "event": event | changes}).encode() + b"\n"


def run(*lines: bytes, until: str | None = None, **policy: Any) -> Report:
    return replay(lines, plain_policy(**policy), TODAY, parse(until) if until else None)


def alerts(report: Report) -> list[tuple[str, str, str, Instant]]:
    return [(a.stage, a.severity, a.kind, a.due_at) for invoice in report.invoices for a in invoice.alerts]


def outcome(report: Report) -> Any:
    return report.summary(), report.parked, report.reasons, report.invoices


STEPS = [("ingestion", "received"), ("authorization", "approved"), ("reconciliation", "matched"), ("posting", "posted")]
HAPPY = [
    line("ingestion", "received", "2026-01-05T10:00:00Z"),
    line("authorization", "approved", "2026-01-06T10:00:00Z"),
    line("reconciliation", "matched", "2026-01-06T12:00:00Z"),
    line("posting", "posted", "2026-01-09T12:00:00Z"),
]


def test_stage_durations_follow_the_times_of_the_events() -> None:
    report = run(*HAPPY)
    assert report.summary()["statuses"] == {"Posted": 1}
    assert {stage: times["p50_s"] for stage, times in report.summary()["stages"].items()} == {
        "ingestion": 0,
        "authorization": 86400,
        "reconciliation": 7200,
        "posting": 3 * 86400,
    }
    assert alerts(report) == [], "an event exactly at its deadline is in time"


def test_timers_due_before_an_event_fire_before_it() -> None:
    report = run(HAPPY[0], line("authorization", "approved", "2026-01-08T10:00:01Z"))
    assert alerts(report) == [("authorization", "warning", "stuck", parse("2026-01-08T10:00:00Z"))]


def test_timers_due_by_the_end_fire() -> None:
    last = line("ingestion", "received", "2026-01-08T10:00:00Z", "INV-2")
    assert len(alerts(run(HAPPY[0], last))) == 1


def test_until_advances_the_clock_and_leaves_later_events_out() -> None:
    report = run(*HAPPY, until="2026-01-05T23:00:00Z")
    assert (report.accepted, report.left_out) == (1, 3)
    assert alerts(report) == []
    assert len(alerts(run(HAPPY[0], until="2026-02-01T00:00:00Z"))) == 3


def test_early_stages_take_no_time() -> None:
    report = run(HAPPY[2], HAPPY[1], HAPPY[0], HAPPY[3])
    assert report.percentile("reconciliation", 99) == 0
    assert report.summary()["statuses"] == {"Posted": 1}


def test_a_late_event_does_not_turn_the_clock_back() -> None:
    other = line("ingestion", "received", "2026-01-20T10:00:00Z", "INV-2")
    report = run(HAPPY[0], other, HAPPY[1])
    waited = report.percentile("authorization", 50)
    assert waited == 15 * 86400, "the approval was seen on the 20th"


def test_a_deadline_within_the_last_second_counts() -> None:
    early = line("ingestion", "received", "2026-01-05T10:00:00.500Z")
    for until, count in (("2026-01-08T10:00:00.499Z", 0), ("2026-01-08T10:00:00.500Z", 1)):
        assert len(alerts(run(early, until=until))) == count
    # The deadline of posting is a local midnight. Its timer has whole seconds and expires half a second later.
    log = [line(stage, status, "2026-01-05T10:00:00.500Z") for stage, status in STEPS[:3]]
    for until, count in (("2026-01-29T22:59:59.999Z", 0), ("2026-01-29T23:00:00Z", 1), ("2026-01-29T23:00:00.400Z", 1)):
        assert len(alerts(replay(log, POLICY, TODAY, parse(until)))) == count


def test_a_stage_that_is_reopened_counts_again_only_if_it_was_waited_for() -> None:
    def days(report: Report) -> dict[str, list[float]]:
        return {stage: [one / DAY for one in durations] for stage, durations in report.durations.items()}

    withdrawn = [
        *HAPPY[:2],
        line("reconciliation", "matched", "2026-01-07T10:00:00Z"),
        line("authorization", "rejected", "2026-01-08T10:00:00Z"),
        line("authorization", "approved", "2026-01-09T10:00:00Z"),
        line("posting", "posted", "2026-01-10T10:00:00Z"),
    ]
    assert days(run(*withdrawn)) == {"ingestion": [0], "authorization": [1], "reconciliation": [1], "posting": [1]}
    disputed = [
        *HAPPY,
        line("reconciliation", "mismatched", "2026-01-10T12:00:00Z"),
        line("reconciliation", "matched", "2026-01-12T12:00:00Z"),
    ]
    assert days(run(*disputed))["reconciliation"] == [2 / 24, 2]
    assert days(run(*disputed))["posting"] == [3]
    reversal = [
        HAPPY[0],
        line("authorization", "rejected", "2026-01-06T10:00:00Z"),
        line("authorization", "approved", "2026-01-08T10:00:00Z"),
    ]
    assert days(run(*reversal))["authorization"] == [3]
    cancelled = [HAPPY[0], line("ingestion", "cancelled", "2026-01-06T10:00:00Z"), HAPPY[1]]
    assert days(run(*cancelled)) == {"ingestion": [0], "authorization": [], "reconciliation": [], "posting": []}


def test_a_mismatch_before_the_approval_is_disputed_at_once() -> None:
    at = "2026-01-05T11:00:00Z"
    report = run(HAPPY[0], line("reconciliation", "mismatched", at), until="2026-01-08T12:00:00Z")
    assert alerts(report) == [
        ("reconciliation", "warning", "dispute", parse(at)),
        ("authorization", "warning", "stuck", parse("2026-01-08T10:00:00Z")),
    ]


def test_the_resolution_of_alerts_is_not_counted_as_an_alert() -> None:
    report = run(HAPPY[0], line("authorization", "approved", "2026-01-08T12:00:00Z"))
    assert [kind for _, _, kind, _ in alerts(report)] == ["stuck"]
    assert report.summary()["alerts"] == {"authorization": {"warning": 1}}


def test_an_invoice_without_a_purchase_order_is_never_stuck_in_reconciliation() -> None:
    exempting = dataclasses.replace(plain_policy(), match_exemptions=(When(has_purchase_order=False),))
    without = [HAPPY[0], HAPPY[1]]
    ordered: dict[str, Any] = {"invoice_id": "ordered", "purchase_orders": ["45"]}
    with_order = [
        line("ingestion", "received", "2026-01-05T10:00:00Z", **ordered),
        line("authorization", "approved", "2026-01-06T10:00:00Z", **ordered, event_id="approved"),
    ]
    report = replay([*without, *with_order], exempting, TODAY, parse("2026-01-09T12:00:00Z"))
    assert statuses(report) == {"INV-1": "AwaitingPosting", "ordered": "AwaitingReconciliation"}
    assert {invoice.invoice_id: invoice.stage for invoice in report.stuck()} == {
        "INV-1": "posting",
        "ordered": "reconciliation",
    }
    posted = replay([*without, HAPPY[3]], exempting, TODAY, parse("2026-02-09T12:00:00Z"))
    assert posted.summary()["statuses"] == {"Posted": 1}
    assert {stage for stage, *_ in alerts(posted)} == {"posting"}


def test_the_longest_jump_of_the_clock_is_reported() -> None:
    report = run(*HAPPY[:2], line("ingestion", "received", "2026-03-06T10:00:00Z", "INV-2"))
    assert report.longest_jump == (3, parse("2026-01-06T10:00:00Z"), parse("2026-03-06T10:00:00Z"))


def test_the_default_policy_knows_public_holidays() -> None:
    # Three business days from Maundy Thursday: Good Friday and Easter Monday are holidays.
    report = replay(
        [line("ingestion", "received", "2026-04-02T08:00:00Z")], POLICY, TODAY, parse("2026-04-09T08:00:00Z")
    )
    assert alerts(report) == [("authorization", "warning", "stuck", parse("2026-04-09T08:00:00Z"))]


def test_an_event_in_the_future_is_refused_and_does_not_advance_the_clock() -> None:
    report = run(HAPPY[0], line("ingestion", "received", "2099-01-01T00:00:00Z", "INV-2"))
    assert report.refused == 1
    assert report.reasons == {"occurred_at: in the future": 1}
    assert alerts(report) == []


def test_blank_lines_and_a_byte_order_mark_are_ignored() -> None:
    report = run(BYTE_ORDER_MARK + HAPPY[0], b"\n", b"  \r\n", HAPPY[1].rstrip())
    assert (report.accepted, report.refused) == (2, 0)


def test_duplicates_and_conflicts_are_counted_separately() -> None:
    other = line("ingestion", "received", "2026-01-05T10:00:00Z", amount="11.00")
    elsewhere = line(
        "ingestion",
        "received",
        "2026-01-05T10:00:00Z",
        "INV-9",
        event_id="INV-1:ingestion:received:2026-01-05T10:00:00Z",
    )
    report = run(HAPPY[0], HAPPY[0], other, elsewhere)
    assert (report.accepted, report.duplicate, report.refused) == (1, 1, 2)
    assert report.reasons == {"event_id: sent before with another content": 2}


def test_an_empty_log_is_an_empty_report() -> None:
    assert run().summary()["invoices"] == 0


def test_a_refused_line_does_not_affect_other_lines() -> None:
    report = run(b"{", *HAPPY, b"\xff\n")
    assert (report.accepted, report.refused) == (4, 2)


@pytest.fixture(scope="module")
def log() -> list[bytes]:
    return list(generate(400, 11, days=60))


def test_the_number_of_processes_does_not_change_the_report(log: list[bytes]) -> None:
    alone = replay(log, POLICY, TODAY)
    shared = replay(log, POLICY, TODAY, processes=3)
    assert outcome(shared) == outcome(alone)


def test_invoices_are_distributed_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: Counter[int] = Counter()

    class Counting:
        def __init__(self, *_: object) -> None: ...

        def feed(self, *_: object) -> None:
            taken[id(self)] += 1

        def close(self) -> None: ...

    monkeypatch.setattr("bems.embedded.replay.replay.ProcessWorker", Counting)
    with WorkerPool(POLICY, 2) as workers:
        # A sample of a quarter of the invoices, drawn by a checksum of their ids.
        sample = [one for one in (f"INV-{number}" for number in range(4000)) if crc32(one.encode()) % 4 == 0]
        for invoice_id in sample:
            event = read(line("ingestion", "received", "2026-01-05T10:00:00Z", invoice_id))
            assert event
            workers.feed(event, b"", NOW)
    assert len(taken) == 2
    assert min(taken.values()) > 0.4 * len(sample)


def accepted(log: list[bytes]) -> list[Event]:
    events: dict[str, Event] = {}
    for event in map(read, log):
        if event:
            events.setdefault(event.event_id, event)
    return list(events.values())


def with_milliseconds(log: list[bytes]) -> list[bytes]:
    """Return the same log with milliseconds in `occurred_at`."""
    draw = random.Random(3)
    return [
        re.sub(rb"(T\d\d:\d\d:\d\d)(Z|[+-])", lambda m: b"%b.%03d%b" % (m[1], draw.randrange(1000), m[2]), one)
        for one in log
    ]


@pytest.mark.parametrize("policy", [POLICY, plain_policy(), plain_policy("90m", "12h", 1, 9)])
@pytest.mark.parametrize("until", ["2026-08-01T00:00:00Z", "2026-02-11T23:00:00Z", "2026-02-03T23:00:00Z"])
@pytest.mark.parametrize("fine", [False, True])
def test_the_reference_model_has_the_same_alerts(log: list[bytes], policy: Any, until: Any, fine: bool) -> None:
    log, until = with_milliseconds(log) if fine else log, parse(until)
    report = replay(log, policy, TODAY, until)
    models = run_model([event for event in accepted(log) if event.occurred_at <= until], policy, until)
    assert {invoice.invoice_id: [tuple(alert[:4]) for alert in invoice.alerts] for invoice in report.invoices} == {
        id: one.alerts for id, one in models.items()
    }
    assert report.parked == sum(one.parked for one in models.values())


def shuffled(log: list[bytes], seed: int, within: int) -> list[bytes]:
    """Return the log with every tenth line duplicated and every line delayed by a random time less than `within`."""
    draw = random.Random(seed)
    doubled = [one for number, line in enumerate(log) for one in [line] * (1 + (number % 10 == 0))]
    moved = []
    for number, one in enumerate(doubled):
        event = read(one)
        at = event.occurred_at if event else 0
        moved.append((at + draw.randrange(within), number, one))
    return [one for _, _, one in sorted(moved)]


def statuses(report: Report) -> dict[str, str]:
    return {invoice.invoice_id: invoice.status for invoice in report.invoices}


def test_duplicates_and_disorder_within_thirty_days_do_not_change_the_statuses(log: list[bytes]) -> None:
    # Of two events with the same id the first one wins, so conflicts would make the result depend on the order.
    ids = Counter(event.event_id for event in map(read, log) if event)
    log = [one for one in log if (event := read(one)) and ids[event.event_id] == 1]
    in_order, mixed = replay(log, POLICY, TODAY), replay(shuffled(log, 5, 30 * DAY), POLICY, TODAY)
    assert statuses(mixed) == statuses(in_order)
    assert mixed.duplicate == (len(log) + 9) // 10


def read(line: bytes) -> Event | None:
    event = parse_line(line, TODAY)
    return event if isinstance(event, Event) else None


def test_the_golden_log_produces_the_golden_results() -> None:
    log = gzip.decompress((DATA / "synthetic.jsonl.gz").read_bytes()).splitlines(keepends=True)
    assert log == list(generate(300, 2026, days=60)), "the stored log equals the generator's output for this seed"
    report = replay(log, POLICY, TODAY, parse("2026-06-01T00:00:00Z"))
    golden = json.loads((DATA / "synthetic.golden.json").read_text())
    assert golden == golden_results(report)


def golden_results(report: Report) -> dict[str, Any]:
    """Return the content of tests/data/synthetic.golden.json; tests/data/README.md explains how to rewrite it."""
    return {
        "summary": report.summary(),
        "parked": report.parked,
        "reasons": dict(sorted(report.reasons.items())),
        "invoices": [
            [one.invoice_id, one.status, [[a.stage, a.severity, a.kind, a.due_at] for a in one.alerts]]
            for one in report.invoices
        ],
    }


@pytest.mark.skipif("BEMS_BPI_LOG" not in os.environ, reason="BEMS_BPI_LOG is not set to a log of real events")
def test_the_reference_model_agrees_on_a_real_log() -> None:
    raw = Path(os.environ["BEMS_BPI_LOG"]).read_bytes()
    log = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).splitlines(keepends=True)
    report = replay(log, POLICY, TODAY)
    assert report.accepted == len(log)
    models = run_model(accepted(log), POLICY, 0)
    assert Counter(statuses(report).values()) == report.statuses
    assert {invoice.invoice_id: [tuple(alert[:4]) for alert in invoice.alerts] for invoice in report.invoices} == {
        id: one.alerts for id, one in models.items()
    }
    mixed = replay(shuffled(log, 7, 30 * DAY), POLICY, TODAY)
    assert mixed.duplicate == (len(log) + 9) // 10
    assert statuses(mixed) == statuses(report)


def test_a_summary_can_be_encoded_as_json() -> None:
    report = run(*HAPPY)
    summary = report.summary()
    assert msgspec.json.decode(msgspec.json.encode(summary)) == summary
