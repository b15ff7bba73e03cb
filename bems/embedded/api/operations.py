"""Operations: everything that can be asked of the API beside sending events, each with who may, and what it answers.

The table at the end is the one source of the routes and of the OpenAPI document.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from msgspec import Struct

from bems.embedded.api import check, dashboards, policies, views
from bems.embedded.api.access import ADMINS, OPERATORS, VIEWERS, Roles
from bems.embedded.api.cell_context import CellContext
from bems.embedded.api.check import Check
from bems.embedded.api.queries import (
    AlertsQuery,
    CommandsQuery,
    DashboardQuery,
    DeadLettersQuery,
    DeliveriesQuery,
    EventsQuery,
    HistoryQuery,
    InvoicesQuery,
    NoQuery,
    Page,
    PoliciesQuery,
    PolicyQuery,
    RowNumber,
    SqliteInteger,
    read_cursor,
    write_cursor,
)
from bems.embedded.api.writer_bridge import WriterBridge
from bems.embedded.auth.keys import Key, KeyRefused
from bems.embedded.execution_histories import ExecutionHistories
from bems.embedded.storage.reader import Reader, place_of
from bems.embedded.writer import Redrive
from bems.tracker import responses
from bems.tracker.instants import from_datetime, render, to_datetime
from bems.tracker.parsing import InvalidEvent, invalid
from bems.tracker.requests import AnyCommandRequest, KeyRequest, RedriveRequest, read_command, read_request
from bems.tracker.responses import HttpResponse
from bems.tracker.status import WAITS_FOR
from bems.validation.error_messages import format_value
from bems.validation.field_errors import FieldError

T = TypeVar("T")

SORT_REQUIRES_STUCK = FieldError("/sort", "sorts those that are stuck only: add stuck=true", "not allowed")

MAX_REDRIVEN = 1_000
"""So many dead letters are handled by one request at most."""


@dataclass(frozen=True)
class ApiRequest:
    """A request that was admitted. `target` is what its path names."""

    context: CellContext
    bridge: WriterBridge
    key: Key
    query: Any
    resource_id: str
    body: bytes

    async def read(self, question: Callable[[Reader], T]) -> T:
        """What the question answers, as one of this key's."""
        return await self.context.readers.read(question, self.key.id)


Handler = Callable[[ApiRequest], Awaitable[HttpResponse]]


@dataclass(frozen=True)
class Operation:
    """One method on one path. `answers` gives the type of the body by status; problems are understood."""

    method: str
    path: str
    name: str
    summary: str
    allowed_roles: Roles
    handler: Handler
    answers: dict[int, Any]
    query: type[Struct] = NoQuery
    body: Any = None
    problems: tuple[int, ...] = ()


class Accepted(Struct, frozen=True, omit_defaults=True):
    """The command was carried out, now or before. `next_alert_at`: when the invoice's next alert is due."""

    command_id: str
    status: str
    next_alert_at: datetime | None = None


class NotRedriven(Struct, frozen=True):
    """A dead letter that failed again, or an id of which there is none."""

    event_id: str
    error: str


class Redriven(Struct, frozen=True):
    """What became of the dead letters that were asked for; `more` may match than one request handles."""

    redriven: list[str]
    failed: list[NotRedriven]
    more: bool


class Delivery(Struct, frozen=True):
    """An alert that a destination has not taken yet."""

    alert_id: str
    invoice_id: str
    destination: str
    attempts: int
    state: str
    due: str
    error: str | None


class Retried(Struct, frozen=True):
    """So many deliveries are tried again."""

    deliveries: int


class NewKey(Struct, frozen=True):
    """A key, with its text, which is shown this once."""

    key: views.Key
    text: str


async def get_invoice(request: ApiRequest) -> HttpResponse:
    # Answers are written where they are read: a long one would hold up the event loop.
    def look(reader: Reader) -> HttpResponse:
        record = reader.record(request.resource_id)
        if record is None:
            return responses.not_found(f"there is no invoice {format_value(request.resource_id)}")
        return responses.json_response(
            200, views.view_details(record, reader, ExecutionHistories(request.context.machine, reader))
        )

    return await request.read(look)


async def get_history(request: ApiRequest) -> HttpResponse:
    query: HistoryQuery = request.query
    after = read_cursor(query.cursor, views.history_cursor_name(request.resource_id), RowNumber)
    if isinstance(after, InvalidEvent):
        return responses.bad_request(after)

    def look(reader: Reader) -> HttpResponse:
        if reader.execution(request.resource_id) is None:
            return responses.not_found(f"there is no execution {format_value(request.resource_id)}")
        histories = ExecutionHistories(request.context.machine, reader)
        events, cursor = views.view_history(request.resource_id, histories, after[0] if after else 0, query.limit)
        return responses.json_response(200, Page(events, cursor))

    return await request.read(look)


async def list_invoices(request: ApiRequest) -> HttpResponse:
    query: InvoicesQuery = request.query
    statuses = None
    if query.status or query.stage:
        statuses = [
            status
            for status, stage in WAITS_FOR.items()
            if query.status in (None, status) and query.stage in (None, stage)
        ]
    by_value = query.sort == "value"
    if query.sort and not query.stuck:
        return responses.bad_request(invalid("query", [SORT_REQUIRES_STUCK], None))
    name, *shape = ("stuck by value", str, SqliteInteger, SqliteInteger, str) if by_value else ("stuck", RowNumber, str)
    if not query.stuck:
        name, shape = "ids", [str]
    behind = read_cursor(query.cursor, name, *shape)
    if isinstance(behind, InvalidEvent):
        return responses.bad_request(behind)

    def look(reader: Reader) -> HttpResponse:
        if query.stuck:
            records = reader.stuck(
                statuses=statuses, mark=query.mark, after=behind, by_value=by_value, limit=query.limit
            )
        else:
            (after,) = behind or ("",)
            records = reader.invoices(statuses=statuses, mark=query.mark, after=after, limit=query.limit)
        cursor = None
        if len(records) == query.limit:
            last = records[-1]
            cursor = write_cursor(name, *(place_of(last, by_value) if query.stuck else (last.invoice_id,)))
        return responses.json_response(200, Page([views.view_invoice(record, reader) for record in records], cursor))

    return await request.read(look)


async def list_events(request: ApiRequest) -> HttpResponse:
    """An id may end in `/events` itself: the address of such an invoice is its own, unless there is one without it."""
    query: EventsQuery = request.query
    after = read_cursor(query.cursor, f"events of {request.resource_id}", str, RowNumber)
    if isinstance(after, InvalidEvent):
        return responses.bad_request(after)

    def look(reader: Reader) -> HttpResponse:
        if reader.record(request.resource_id) is None and not reader.dead_letters(
            invoice_id=request.resource_id, limit=1
        ):
            longer = reader.record(f"{request.resource_id}/events")
            if longer is not None:
                return responses.json_response(
                    200, views.view_details(longer, reader, ExecutionHistories(request.context.machine, reader))
                )
            return responses.not_found(f"there is no invoice {format_value(request.resource_id)}")
        events, behind = views.view_events(request.resource_id, reader, after or ("", 0), query.limit)
        cursor = write_cursor(f"events of {request.resource_id}", *behind) if behind else None
        return responses.json_response(200, Page(events, cursor))

    return await request.read(look)


async def list_totals(request: ApiRequest) -> HttpResponse:
    totals = await request.read(lambda reader: reader.totals())
    return responses.json_response(200, Page([views.view_total(total) for total in totals], None))


async def list_alerts(request: ApiRequest) -> HttpResponse:
    query: AlertsQuery = request.query
    before = read_cursor(query.cursor, "alerts", RowNumber)
    if isinstance(before, InvalidEvent):
        return responses.bad_request(before)
    alerts = await request.read(
        lambda reader: reader.newest_alerts(
            invoice_id=query.invoice_id,
            stage=query.stage,
            severity=query.severity,
            before=before[0] if before else None,
            limit=query.limit,
        )
    )
    cursor = write_cursor("alerts", alerts[-1][0]) if len(alerts) == query.limit else None
    return responses.json_response(200, Page([views.view_alert(alert) for _, alert in alerts], cursor))


async def list_commands(request: ApiRequest) -> HttpResponse:
    query: CommandsQuery = request.query
    before = read_cursor(query.cursor, "commands", RowNumber)
    if isinstance(before, InvalidEvent):
        return responses.bad_request(before)
    entries = await request.read(
        lambda reader: reader.commands(
            invoice_id=query.invoice_id, before=before[0] if before else None, limit=query.limit
        )
    )
    cursor = write_cursor("commands", entries[-1][0]) if len(entries) == query.limit else None
    return responses.json_response(200, Page([views.view_command(entry) for _, entry in entries], cursor))


async def run_command(request: ApiRequest) -> HttpResponse:
    read = read_command(request.body, request.key.name, request.context.clock.now())
    if isinstance(read, InvalidEvent):
        return responses.bad_request(read)
    receipt = await request.bridge.submit(read)
    if receipt.result in ("accepted", "duplicate"):
        next_alert_at = None if receipt.next_alert_at is None else to_datetime(receipt.next_alert_at)
        return responses.json_response(200, Accepted(read.id, receipt.result, next_alert_at))
    if receipt.result == "conflict":
        return responses.problem(409, f"another command with the id {read.id} came before: use an id only once")
    known = await request.context.readers.read_first(lambda reader: reader.record(read.invoice_id))
    return responses.problem(409, receipt.reason) if known else responses.not_found(receipt.reason)


async def list_dead_letters(request: ApiRequest) -> HttpResponse:
    query: DeadLettersQuery = request.query
    after = read_cursor(query.cursor, "letters", str)
    if isinstance(after, InvalidEvent):
        return responses.bad_request(after)
    letters = await request.read(
        lambda reader: reader.dead_letters(
            invoice_id=query.invoice_id,
            error=query.error,
            set_aside=query.set_aside,
            after=after[0] if after else "",
            limit=query.limit,
        )
    )
    cursor = write_cursor("letters", letters[-1].event_id) if len(letters) == query.limit else None
    return responses.json_response(200, Page([views.view_dead_letter(letter) for letter in letters], cursor))


async def redrive_dead_letters(request: ApiRequest) -> HttpResponse:
    request = read_request(request.body, RedriveRequest, "request")
    if isinstance(request, InvalidEvent):
        return responses.bad_request(request)
    wanted, more = list(dict.fromkeys(request.event_ids or ())), False
    if request.event_ids is None or request.invoice_id or request.error:
        matching = await request.read(lambda reader: _matching(reader, request))
        more, wanted = len(matching) > MAX_REDRIVEN, matching[:MAX_REDRIVEN]
    receipts = await asyncio.gather(*[request.bridge.submit(Redrive(event_id)) for event_id in wanted])
    done = [event_id for event_id, receipt in zip(wanted, receipts, strict=True) if receipt.result == "accepted"]
    failed = [
        NotRedriven(event_id, receipt.reason)
        for event_id, receipt in zip(wanted, receipts, strict=True)
        if receipt.result != "accepted"
    ]
    return responses.json_response(200, Redriven(done, failed, more))


def _matching(reader: Reader, request: RedriveRequest) -> list[str]:
    """The dead letters that are asked for, in the order of their ids; one more than are handled, if there are more."""
    named = None if request.event_ids is None else set(request.event_ids)
    found: list[str] = []
    after: str | None = ""
    while after is not None and len(found) <= MAX_REDRIVEN:
        letters = reader.dead_letters(
            invoice_id=request.invoice_id, error=request.error, after=after, limit=MAX_REDRIVEN + 1
        )
        found += [letter.event_id for letter in letters if named is None or letter.event_id in named]
        after = letters[-1].event_id if len(letters) > MAX_REDRIVEN else None
    return found


async def list_deliveries(request: ApiRequest) -> HttpResponse:
    query: DeliveriesQuery = request.query
    after = read_cursor(query.cursor, "deliveries", RowNumber, str)
    if isinstance(after, InvalidEvent):
        return responses.bad_request(after)
    seq, destination = after or (-1, "")
    deliveries = request.context.deliveries
    entries = await request.context.readers.run_blocking(
        lambda: deliveries.entries(query.state, query.limit, (seq, destination)), request.key.id
    )
    shown = [
        Delivery(
            entry.alert.id,
            entry.alert.invoice_id,
            entry.destination,
            entry.attempts,
            entry.state,
            render(entry.due),
            entry.error,
        )
        for entry in entries
    ]
    cursor = (
        write_cursor("deliveries", entries[-1].seq, entries[-1].destination) if len(entries) == query.limit else None
    )
    return responses.json_response(200, Page(shown, cursor))


async def retry_deliveries(request: ApiRequest) -> HttpResponse:
    count = await request.context.readers.act(lambda: request.context.deliveries.retry())
    return responses.json_response(200, Retried(count))


async def get_check(request: ApiRequest) -> HttpResponse:
    return responses.json_response(200, await check.check_consistency(request.context, request.key.id))


async def get_policy(request: ApiRequest) -> HttpResponse:
    query: PolicyQuery = request.query
    at = None if query.at is None else from_datetime(query.at)
    found = await request.context.readers.read(
        lambda reader: next(iter(reader.policies(limit=1)), None) if at is None else reader.policy_at(at)
    )
    if found is None:
        return responses.not_found("no policy is known of that time: the first that was kept is of a later one")
    return responses.json_response(200, policies.view_stored_policy(found))


async def list_policies(request: ApiRequest) -> HttpResponse:
    query: PoliciesQuery = request.query
    before = read_cursor(query.cursor, "policies", RowNumber)
    if isinstance(before, InvalidEvent):
        return responses.bad_request(before)
    kept = await request.context.readers.read(
        lambda reader: reader.policies(before=before[0] if before else None, limit=query.limit)
    )
    cursor = write_cursor("policies", kept[-1].number) if len(kept) == query.limit else None
    return responses.json_response(200, Page([policies.summarize_policy(one) for one in kept], cursor))


async def list_dashboards(_: ApiRequest) -> HttpResponse:
    return responses.json_response(200, Page(dashboards.list_dashboards(), None))


async def get_dashboard(request: ApiRequest) -> HttpResponse:
    return await dashboards.show_dashboard(request.context, request.resource_id, request.query, request.key.id)


async def list_keys(request: ApiRequest) -> HttpResponse:
    return responses.json_response(200, Page([views.view_key(key) for key in request.context.keys.all()], None))


async def add_key(request: ApiRequest) -> HttpResponse:
    request = read_request(request.body, KeyRequest, "request")
    if isinstance(request, InvalidEvent):
        return responses.bad_request(request)
    context = request.context
    try:
        key, text = await context.readers.act(
            lambda: context.keys.add(request.name, request.role, request.key.name, context.clock.now())
        )
    except KeyRefused as refused:
        return responses.problem(409, str(refused))
    return responses.json_response(201, NewKey(views.view_key(key), text))


async def revoke_key(request: ApiRequest) -> HttpResponse:
    context = request.context
    try:
        key = await context.readers.act(
            lambda: context.keys.revoke(request.resource_id, request.key.name, context.clock.now())
        )
    except KeyRefused as refused:
        return responses.problem(409, str(refused))
    if key is None:
        return responses.not_found(f"there is no key {format_value(request.resource_id)}")
    context.readers.drop(key.id)
    return responses.json_response(200, views.view_key(key))


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET", "/invoices", "listInvoices", "Invoices, by status, stage, or stuck", VIEWERS, list_invoices,
        {200: Page[views.Invoice]}, InvoicesQuery, problems=(400,),
    ),
    Operation(
        "GET", "/totals", "listTotals", "Counts and amounts of invoices by status and currency", VIEWERS, list_totals,
        {200: Page[views.Total]}, problems=(400,),
    ),
    Operation(
        "GET", "/invoices/{target}/events", "listEvents", "The events of an invoice as they were sent, newest first",
        VIEWERS, list_events, {200: Page[views.Event]}, EventsQuery, problems=(400, 404),
    ),
    Operation(
        "GET", "/invoices/{target}", "getInvoice", "All that is known of an invoice, and its executions' history",
        VIEWERS, get_invoice, {200: views.InvoiceDetails}, problems=(400, 404),
    ),
    Operation(
        "GET", "/executions/{target}/history", "getHistory", "The history of an execution, the oldest event first",
        VIEWERS, get_history, {200: Page[dict[str, Any]]}, HistoryQuery, problems=(400, 404),
    ),
    Operation(
        "GET", "/alerts", "listAlerts", "Alerts, the newest first", VIEWERS, list_alerts, {200: Page[views.Alert]},
        AlertsQuery, problems=(400,),
    ),
    Operation(
        "GET", "/commands", "listCommands", "Operators' commands, the newest first", VIEWERS, list_commands,
        {200: Page[views.Command]}, CommandsQuery, problems=(400,),
    ),
    Operation(
        "POST", "/commands", "command", "Act on an invoice", OPERATORS, run_command, {200: Accepted},
        body=AnyCommandRequest, problems=(400, 404, 408, 409, 413, 415),
    ),
    Operation(
        "GET", "/dead-letters", "listDeadLetters", "Accepted events whose handling failed", OPERATORS,
        list_dead_letters, {200: Page[views.DeadLetter]}, DeadLettersQuery, problems=(400,),
    ),
    Operation(
        "POST", "/dead-letters/redrive", "redrive", "Handle dead letters again: one, many, or all that match",
        OPERATORS, redrive_dead_letters, {200: Redriven}, body=RedriveRequest, problems=(400, 408, 413, 415),
    ),
    Operation(
        "GET", "/deliveries", "listDeliveries", "Alerts that a destination has not taken", VIEWERS, list_deliveries,
        {200: Page[Delivery]}, DeliveriesQuery, problems=(400,),
    ),
    Operation(
        "POST", "/deliveries/retry", "retryDeliveries", "Try the deliveries again that were given up", OPERATORS,
        retry_deliveries, {200: Retried}, problems=(400,),
    ),
    Operation("GET", "/check", "getCheck", "Whether every accepted event is accounted for", VIEWERS, get_check,
              {200: Check}, problems=(400,)),
    Operation(
        "GET", "/policy", "getPolicy", "The policy in force, now or at an instant, with every date", VIEWERS,
        get_policy, {200: policies.Policy}, PolicyQuery, problems=(400, 404),
    ),
    Operation(
        "GET", "/policies", "listPolicies", "Every policy that was in force, the newest first", VIEWERS, list_policies,
        {200: Page[policies.PolicySummary]}, PoliciesQuery, problems=(400,),
    ),
    Operation(
        "GET", "/dashboards", "listDashboards", "What can be asked of the series", VIEWERS, list_dashboards,
        {200: Page[dashboards.DashboardSummary]}, problems=(400,),
    ),
    Operation(
        "GET", "/dashboards/{target}", "getDashboard", "What executives, operations and finance request of the series",
        VIEWERS, get_dashboard, {200: dashboards.DashboardRows}, DashboardQuery, problems=(400, 404),
    ),
    Operation("GET", "/keys", "listKeys", "Every key there ever was", ADMINS, list_keys, {200: Page[views.Key]},
              problems=(400,)),
    Operation(
        "POST", "/keys", "addKey", "Make a key; its text is shown this once", ADMINS, add_key, {201: NewKey},
        body=KeyRequest, problems=(400, 408, 409, 413, 415),
    ),
    Operation(
        "DELETE", "/keys/{target}", "revokeKey", "Revoke a key", ADMINS, revoke_key, {200: views.Key},
        problems=(400, 404, 409),
    ),
)  # fmt: skip
