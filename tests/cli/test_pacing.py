"""Pacing: the clock runs fast, waits for events in flight, and the result equals that of a replay."""

from pathlib import Path

from bems.cli.commands.demo import UNTHROTTLED, send_paced
from bems.cli.files import read_policy_file
from bems.cli.pacing import MAX_CLOCK_LEAD, ReplayPacer
from bems.embedded.clock import AcceleratedClock
from bems.embedded.replay.replay import replay
from bems.embedded.service import Service
from bems.embedded.storage.reader import open_reader
from bems.generator.event_log import generate
from bems.tracker.cells import Limits, StageRates
from bems.tracker.contract import Event
from bems.tracker.instants import DAY, LATEST, SECOND, parse
from bems.tracker.status import status_of

START, TODAY = parse("2026-01-01T00:00:00Z"), parse("2026-11-01T00:00:00Z")
LOG = list(generate(250, 11))


def test_a_paced_send_has_the_same_result_as_a_replay(tmp_path: Path) -> None:
    report = replay(LOG, read_policy_file(None), TODAY)
    clock = AcceleratedClock(START, 40 * DAY / SECOND)
    limits = Limits(UNTHROTTLED, StageRates(UNTHROTTLED, UNTHROTTLED, UNTHROTTLED, UNTHROTTLED))
    with Service(tmp_path, read_policy_file(None), port=0, limits=limits, clock=clock) as service:
        _, key = service.keys.add("test", "admin", "test", START)
        sent = send_paced(service, key, LOG, clock)
        clock.run_until(LATEST)
    counts = sent.summary.dispositions
    assert (counts["accepted"], counts["duplicate"]) == (report.accepted, report.duplicate)
    assert counts["refused"] + counts["conflict"] == report.refused
    assert sent.not_visible == []
    reader = open_reader(tmp_path)
    statuses = {record.invoice_id: status_of(record.outcomes) for record in reader.invoices(limit=10_000)}
    reader.close()
    assert statuses == {invoice.invoice_id: invoice.status for invoice in report.invoices}
    assert len(statuses) >= 250


def test_lines_are_never_far_behind_the_clock() -> None:
    clock = AcceleratedClock(START, 365 * DAY / SECOND)
    pacer = ReplayPacer(clock, TODAY)
    latest = START
    for number, _, event in pacer.schedule(LOG):
        if isinstance(event, Event):
            latest = max(latest, event.occurred_at)
        assert latest <= clock.now() <= latest + MAX_CLOCK_LEAD
        pacer.acknowledge(number)
    assert latest > START + 30 * DAY


def test_the_clock_waits_for_lines_in_flight() -> None:
    clock = AcceleratedClock(START, 365 * DAY / SECOND)
    pacer = ReplayPacer(clock, TODAY)
    scheduled = pacer.schedule(LOG)
    first = next(scheduled)
    assert isinstance(first.event, Event)
    held = first.event.occurred_at + MAX_CLOCK_LEAD
    for _ in range(1000):
        assert clock.now() <= held
    pacer.acknowledge(first.number)
    assert next(scheduled).number == 2
