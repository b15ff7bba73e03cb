"""`bems completeness`: whether what the sources sent is what the cell has."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from itertools import islice
from typing import Any, NamedTuple

import click

from bems.cli import options
from bems.cli.checked_commands import CheckedCommand
from bems.cli.client import Client, decode_as
from bems.cli.errors import UserError
from bems.cli.event_lists import (
    EventDifference,
    ListedEvent,
    ListFilter,
    find_event_differences,
    find_unknown_events,
    read_event_list,
)
from bems.cli.files import TimeParam
from bems.cli.listing import ItemTable, Listing
from bems.cli.options import connected
from bems.cli.output import format_amount, format_time, make_console, pluralize_count, print_json
from bems.cli.table_layout import Column, print_prose, print_table
from bems.embedded.api.access import VIEWERS
from bems.embedded.api.control_totals import ControlTotalResult, KnownEvent, SourceEventSummary
from bems.embedded.api.pages import Page
from bems.tracker.contract import STAGES, Stage
from bems.tracker.control_totals import TotalDifference
from bems.tracker.instants import Instant, from_datetime, render

CONTROL_TOTAL_COLUMNS = (
    Column("Source"),
    Column("Stage"),
    Column("From (UTC)", 1),
    Column("To (UTC)", 2),
    Column("State"),
    Column("Sent", 3, is_right=True),
    Column("Here", 4, is_right=True),
    Column("Differences", 5, is_prose=True),
    Column("Alerted (UTC)", 6),
)
EVENT_DIFFERENCE_COLUMNS = (Column("Event"), Column("Difference"), Column("Listed", 1), Column("Here", 2))

EVENTS_PER_LOOKUP = 1_000
"""Maximum number of ids in a request."""

EVENTS_PER_PAGE = 10_000
"""Maximum number of events in a page of a source's events."""

DIFFERENCE_TEXTS = {
    "missing": "missing here",
    "not applied": "accepted, but not applied",
    "different": "different",
    "unknown": "unknown to the source",
}


class Interval(NamedTuple):
    """Interval of `occurred_at` that includes `since` and excludes `until`."""

    since: Instant
    until: Instant


@click.command(
    cls=CheckedCommand,
    epilog="Example: bems completeness sent.csv --source sap-ecc --stage posting --from 2026-11-01 --to 2026-12-01",
)
@click.argument("file", metavar="[FILE]", required=False)
@click.option("--source", metavar="NAME", help="Only this source: the source.system of its events.")
@click.option("--stage", type=click.Choice(STAGES), help="Only this stage.")
@click.option("--from", "since", type=TimeParam(), help="Start of the interval; a date means its beginning in UTC.")
@click.option("--to", "until", type=TimeParam(), help="End of the interval, exclusive; a date as above.")
@options.limit
@options.wide
@options.as_json
@connected
@click.pass_context
def completeness(
    context: click.Context,
    client: Client,
    file: str | None,
    source: str | None,
    stage: Stage | None,
    since: Instant | date | None,
    until: Instant | date | None,
    limit: int,
    wide: bool,
    as_json: bool,
) -> None:
    """Compare what a source sent with what the cell has.

    Without FILE, list the newest control totals that sources have sent, each with its state.

    With FILE, a source's own list of events, list every event that is missing here, that has another amount, and, if
    --from and --to are given, that the source does not list. FILE has one event id per line, or CSV with the columns
    event_id, amount and currency, or JSON lines, plain or gzipped; - reads standard input. An event that is listed
    twice counts once. The exit code is 1 if there are differences.

    Requires a viewer, operator or admin key.
    """
    interval = _to_interval(since, until)
    if file is None:
        if interval is not None:
            raise UserError("--from and --to select events to compare with a list: give a FILE too")
        listing = Listing(client, limit, wide, as_json)
        found = listing.read("/control-totals", VIEWERS, {"source": source, "stage": stage})
        listing.print_items(found, CONTROL_TOTAL_TABLE)
        return
    if interval is not None and (source is None or stage is None):
        raise UserError("--from and --to need --source and --stage: the list must have all of their events")
    wanted = ListFilter(source, stage)
    listed = read_event_list(file, wanted)
    differences = find_event_differences(listed, _look_up(client, listed), wanted)
    if interval is not None:
        differences += find_unknown_events(listed, _list_source_events(client, wanted, interval))
    if as_json:
        print_json({"events": len(listed), "differences": differences})
    else:
        _print_differences(listed, differences, wide=wide)
    context.exit(1 if differences else 0)


def _to_interval(since: Instant | date | None, until: Instant | date | None) -> Interval | None:
    if since is None and until is None:
        return None
    if since is None or until is None:
        raise UserError("--from and --to belong together: give both")
    interval = Interval(*(_to_instant(at) for at in (since, until)))
    if interval.since >= interval.until:
        raise UserError(f"--from {render(interval.since)} is not before --to {render(interval.until)}")
    return interval


def _to_instant(at: Instant | date) -> Instant:
    return from_datetime(datetime.combine(at, time(), UTC)) if isinstance(at, date) else at


def _row(one: ControlTotalResult) -> tuple[str, ...]:
    return (
        one.source,
        one.stage,
        format_time(one.since),
        format_time(one.until),
        one.status,
        f"{one.stated.events:,}",
        "-" if one.found is None else f"{one.found.events:,}",
        "; ".join(map(_describe, one.differences)) or "-",
        format_time(one.alerted_at),
    )


CONTROL_TOTAL_TABLE = ItemTable(list[ControlTotalResult], "control total", CONTROL_TOTAL_COLUMNS, _row)


def _describe(difference: TotalDifference) -> str:
    expected, found = difference.expected, difference.found
    if isinstance(expected, int):
        return f"{expected:,} events sent, {found:,} here"
    currency = difference.pointer.rsplit("/", 1)[-1]
    return f"{format_amount(expected, currency)} sent, {format_amount(str(found), currency)} here"


def _look_up(client: Client, listed: Mapping[str, ListedEvent]) -> Iterator[KnownEvent]:
    ids = iter(listed)
    while part := list(islice(ids, EVENTS_PER_LOOKUP)):
        answer = client.request_json("POST", "/events/lookup", VIEWERS, body={"event_ids": part}, is_idempotent=True)
        yield from decode_as(answer, Page[KnownEvent]).items


def _list_source_events(client: Client, wanted: ListFilter, interval: Interval) -> Iterator[SourceEventSummary]:
    query: dict[str, Any] = {
        "source": wanted.source,
        "stage": wanted.stage,
        "from": render(interval.since),
        "to": render(interval.until),
        "limit": EVENTS_PER_PAGE,
        "cursor": None,
    }
    while True:
        page = decode_as(client.request_json("GET", "/events", VIEWERS, query=query), Page[SourceEventSummary])
        yield from page.items
        if page.next_cursor is None:
            return
        query["cursor"] = page.next_cursor


def _print_differences(listed: Mapping[str, ListedEvent], differences: list[EventDifference], *, wide: bool) -> None:
    console = make_console()
    if differences:
        click.echo()
        rows = [
            (one.event_id, DIFFERENCE_TEXTS[one.difference], one.expected or "-", one.found or "-")
            for one in differences
        ]
        print_table(console, EVENT_DIFFERENCE_COLUMNS, rows, wide=wide)
        click.echo()
    counts = Counter(one.difference for one in differences)
    kinds = ", ".join(f"{number:,} {DIFFERENCE_TEXTS[kind]}" for kind, number in counts.items())
    of = pluralize_count(len(listed), "listed event")
    print_prose(console, f"{of}: {kinds or 'no differences'}")
