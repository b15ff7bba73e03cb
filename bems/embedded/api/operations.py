"""Operations of the API other than sending events, with their roles, parameters and responses.

The routes and the OpenAPI document are generated from the table OPERATIONS at the end.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

from msgspec import Struct

from bems.embedded.alerting.deliveries import Deliveries
from bems.embedded.api import check, control_totals, dashboards, policies, views
from bems.embedded.api.access import ADMINS, CONTROL_TOTAL_SENDERS, OPERATORS, VIEWERS, Roles
from bems.embedded.api.cell_context import CellContext
from bems.embedded.api.check import Check
from bems.embedded.api.pages import Found, Page, PagedQuery, Position, RowNumber, SqliteInteger, paged, position_after
from bems.embedded.api.queries import (
    AlertsQuery,
    CommandsQuery,
    ControlTotalsQuery,
    DashboardQuery,
    DeadLettersQuery,
    DeliveriesQuery,
    InvoicesQuery,
    NoQuery,
    PolicyQuery,
    SourceEventsQuery,
)
from bems.embedded.api.writer_bridge import WriterBridge
from bems.embedded.auth.keys import Key, KeyRefused
from bems.embedded.execution_histories import ExecutionHistories
from bems.embedded.storage.reader import Reader, stuck_sort_key
from bems.embedded.writer import Redrive
from bems.tracker import responses
from bems.tracker.commands import Confirmation
from bems.tracker.control_totals import ControlTotalRequest
from bems.tracker.decisions import Receipt
from bems.tracker.instants import from_datetime, render, to_datetime
from bems.tracker.parsing import InvalidEvent, reject_invalid
from bems.tracker.requests import (
    AnyCommandRequest,
    EventLookupRequest,
    KeyRequest,
    RedriveRequest,
    read_command,
    read_request,
)
from bems.tracker.responses import HttpResponse
from bems.tracker.status import WAITS_FOR
from bems.validation.error_messages import format_value
from bems.validation.field_errors import FieldError

T = TypeVar("T")

SORT_REQUIRES_STUCK = FieldError("/sort", "sorts stuck invoices only: add stuck=true", "not allowed")

MAX_REDRIVEN = 1_000
"""Maximum number of dead letters that one request redrives."""


@dataclass(frozen=True)
class ApiRequest:
    """An authorized request.

    `resource_id` is the target in its path: the id of an invoice, execution or key, or the name of a dashboard. It is
    empty for paths without a target.
    """

    context: CellContext
    bridge: WriterBridge
    key: Key
    query: Any
    resource_id: str
    body: bytes

    async def read(self, query: Callable[[Reader], T]) -> T:
        """Run a query in a reader thread, counted against the limit of the request's key, and return its result."""
        return await self.context.readers.read(query, self.key.id)

    async def read_page(self, list_name: str, types: Sequence[Any], fetch: Callable[..., Found]) -> HttpResponse:
        """Respond with one page of a list that is read from the store (see `paged`)."""
        return await paged(self.read, self.query, list_name, types, fetch)


Handler = Callable[[ApiRequest], Awaitable[HttpResponse]]


@dataclass(frozen=True)
class Operation:
    """One method on one path.

    `answers` has the type of the response body by status code, `problems` the status codes of problems in addition to
    those of every operation (403, 429, 500 and 503).
    """

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
    """Result of a command that was carried out, now or by an earlier request (`duplicate`).

    `next_alert_at` is the time at which the invoice's next alert is due.
    """

    command_id: str
    status: str
    next_alert_at: datetime | None = None


class Requested(Struct, frozen=True):
    """A command that another operator must confirm by `confirm_by`. Until then nothing is changed."""

    command_id: str
    status: Literal["requested"]
    confirm_by: datetime


class NotRedriven(Struct, frozen=True):
    """A dead letter that failed again, or an id without a dead letter."""

    event_id: str
    error: str


class Redriven(Struct, frozen=True):
    """Results of redriving dead letters. `more`: more of them match than one request redrives."""

    redriven: list[str]
    failed: list[NotRedriven]
    more: bool


class Delivery(Struct, frozen=True):
    """An alert that has not yet been delivered to a destination.

    `invoice_id` is null for the alert of a control total, which belongs to no invoice.
    """

    alert_id: str
    invoice_id: str | None
    destination: str
    attempts: int
    state: str
    due: str
    error: str | None


class Retried(Struct, frozen=True):
    """Number of deliveries that are tried again."""

    deliveries: int


class NewKey(Struct, frozen=True):
    """A new key and its text, which is shown only once."""

    key: views.Key
    text: str


async def get_invoice(request: ApiRequest) -> HttpResponse:
    # Responses are encoded in the reader thread, because encoding a long one would block the event loop.
    def fetch(reader: Reader) -> HttpResponse:
        record = reader.record(request.resource_id)
        if record is None:
            return responses.not_found(f"there is no invoice {format_value(request.resource_id)}")
        return responses.json_response(
            200, views.view_details(record, reader, ExecutionHistories(request.context.machine, reader))
        )

    return await request.read(fetch)


async def get_history(request: ApiRequest) -> HttpResponse:
    query: PagedQuery = request.query

    def fetch(reader: Reader, after: int = 0) -> Found:
        if reader.execution(request.resource_id) is None:
            return responses.not_found(f"there is no execution {format_value(request.resource_id)}")
        histories = ExecutionHistories(request.context.machine, reader)
        return views.view_history(request.resource_id, histories, after, query.limit)

    return await request.read_page(views.history_cursor_name(request.resource_id), (RowNumber,), fetch)


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
        return responses.bad_request(reject_invalid("query", [SORT_REQUIRES_STUCK], None))

    def fetch(reader: Reader, after: str = "") -> Found:
        records = reader.invoices(statuses=statuses, mark=query.mark, after=after, limit=query.limit)
        following = position_after(records, query.limit, lambda record: (record.invoice_id,))
        return [views.view_invoice(record, reader) for record in records], following

    def fetch_stuck(reader: Reader, *after: str | int) -> Found:
        records = reader.stuck(
            statuses=statuses, mark=query.mark, after=after or None, by_value=by_value, limit=query.limit
        )
        following = position_after(records, query.limit, lambda record: stuck_sort_key(record, by_value))
        return [views.view_invoice(record, reader) for record in records], following

    if not query.stuck:
        return await request.read_page("ids", (str,), fetch)
    if by_value:
        return await request.read_page("stuck by value", (str, SqliteInteger, SqliteInteger, str), fetch_stuck)
    return await request.read_page("stuck", (RowNumber, str), fetch_stuck)


async def list_events(request: ApiRequest) -> HttpResponse:
    """List the events of an invoice, newest first.

    An invoice id may end in `/events`. If no invoice has the id before `/events`, return the invoice with the whole id.
    """
    query: PagedQuery = request.query

    def fetch(reader: Reader, last_letter: str = "", rows_before: int = 0) -> Found:
        if reader.record(request.resource_id) is None and not reader.dead_letters(
            invoice_id=request.resource_id, limit=1
        ):
            longer = reader.record(f"{request.resource_id}/events")
            if longer is not None:
                return responses.json_response(
                    200, views.view_details(longer, reader, ExecutionHistories(request.context.machine, reader))
                )
            return responses.not_found(f"there is no invoice {format_value(request.resource_id)}")
        return views.view_events(request.resource_id, reader, (last_letter, rows_before), query.limit)

    return await request.read_page(f"events of {request.resource_id}", (str, RowNumber), fetch)


async def list_totals(request: ApiRequest) -> HttpResponse:
    totals = await request.read(lambda reader: reader.totals())
    return responses.json_response(200, Page([views.view_total(total) for total in totals], None))


async def list_alerts(request: ApiRequest) -> HttpResponse:
    query: AlertsQuery = request.query

    def fetch(reader: Reader, before: int | None = None) -> Found:
        rows = reader.newest_alerts(
            invoice_id=query.invoice_id,
            stage=query.stage,
            severity=query.severity,
            before=before,
            limit=query.limit,
        )
        return [views.view_alert(alert) for _, alert in rows], position_after(rows, query.limit, _row_number)

    return await request.read_page("alerts", (RowNumber,), fetch)


async def list_commands(request: ApiRequest) -> HttpResponse:
    query: CommandsQuery = request.query

    def fetch(reader: Reader, before: int | None = None) -> Found:
        rows = reader.commands(invoice_id=query.invoice_id, result=query.result, before=before, limit=query.limit)
        return [views.view_command(entry) for _, entry in rows], position_after(rows, query.limit, _row_number)

    return await request.read_page("commands", (RowNumber,), fetch)


def _row_number(row: tuple[int, Any]) -> Position:
    return row[:1]


async def post_command(request: ApiRequest) -> HttpResponse:
    command = read_command(request.body, request.key.name, request.context.clock.now())
    if isinstance(command, InvalidEvent):
        return responses.bad_request(command)
    receipt = await request.bridge.submit(command)
    answer = _command_response(command.id, receipt)
    if answer is not None:
        return answer
    if receipt.result == "conflict":
        return responses.problem(409, f"another command has used the id {command.id}: use each id only once")
    record = await request.context.readers.read_for_action(lambda reader: reader.record(command.invoice_id))
    return responses.problem(409, receipt.reason) if record else responses.not_found(receipt.reason)


def _command_response(command_id: str, receipt: Receipt) -> HttpResponse | None:
    """Return the response to a command that was carried out or requested, None if it was not."""
    if receipt.result in ("accepted", "duplicate"):
        next_alert_at = None if receipt.next_alert_at is None else to_datetime(receipt.next_alert_at)
        return responses.json_response(200, Accepted(command_id, receipt.result, next_alert_at))
    if receipt.result == "requested" and receipt.confirm_by is not None:
        return responses.json_response(202, Requested(command_id, "requested", to_datetime(receipt.confirm_by)))
    return None


async def confirm_command(request: ApiRequest) -> HttpResponse:
    command_id, now = request.resource_id, request.context.clock.now()
    receipt = await request.bridge.submit(Confirmation(command_id, request.key.name, now))
    answer = _command_response(command_id, receipt)
    if answer is not None:
        return answer
    known = await request.context.readers.read_for_action(lambda reader: reader.command_of(command_id))
    return responses.problem(409, receipt.reason) if known else responses.not_found(receipt.reason)


async def list_dead_letters(request: ApiRequest) -> HttpResponse:
    query: DeadLettersQuery = request.query

    def fetch(reader: Reader, after: str = "") -> Found:
        letters = reader.dead_letters(
            invoice_id=query.invoice_id,
            error=query.error,
            set_aside=query.set_aside,
            after=after,
            limit=query.limit,
        )
        following = position_after(letters, query.limit, lambda letter: (letter.event_id,))
        return [views.view_dead_letter(letter) for letter in letters], following

    return await request.read_page("letters", (str,), fetch)


async def redrive_dead_letters(request: ApiRequest) -> HttpResponse:
    selection = read_request(request.body, RedriveRequest, "request")
    if isinstance(selection, InvalidEvent):
        return responses.bad_request(selection)
    wanted, more = list(dict.fromkeys(selection.event_ids or ())), False
    if selection.event_ids is None or selection.invoice_id or selection.error:
        matching = await request.read(lambda reader: _find_matching(reader, selection))
        more, wanted = len(matching) > MAX_REDRIVEN, matching[:MAX_REDRIVEN]
    receipts = await asyncio.gather(*[request.bridge.submit(Redrive(event_id)) for event_id in wanted])
    done = [event_id for event_id, receipt in zip(wanted, receipts, strict=True) if receipt.result == "accepted"]
    failed = [
        NotRedriven(event_id, receipt.reason)
        for event_id, receipt in zip(wanted, receipts, strict=True)
        if receipt.result != "accepted"
    ]
    return responses.json_response(200, Redriven(done, failed, more))


def _find_matching(reader: Reader, selection: RedriveRequest) -> list[str]:
    """Return the ids of matching dead letters in ascending order; more than MAX_REDRIVEN of them if more match."""
    named = None if selection.event_ids is None else set(selection.event_ids)
    found: list[str] = []
    after: str | None = ""
    while after is not None and len(found) <= MAX_REDRIVEN:
        letters = reader.dead_letters(
            invoice_id=selection.invoice_id, error=selection.error, after=after, limit=MAX_REDRIVEN + 1
        )
        found += [letter.event_id for letter in letters if named is None or letter.event_id in named]
        after = letters[-1].event_id if len(letters) > MAX_REDRIVEN else None
    return found


async def list_deliveries(request: ApiRequest) -> HttpResponse:
    query: DeliveriesQuery = request.query
    context = request.context

    async def run(respond: Callable[[Deliveries], HttpResponse]) -> HttpResponse:
        return await context.readers.run_blocking(lambda: respond(context.deliveries), request.key.id)

    def fetch(deliveries: Deliveries, seq: int = -1, destination: str = "") -> Found:
        entries = deliveries.entries(query.state, query.limit, (seq, destination))
        shown = [
            Delivery(
                entry.alert.id,
                entry.invoice_id,
                entry.destination,
                entry.attempts,
                entry.state,
                render(entry.due),
                entry.error,
            )
            for entry in entries
        ]
        return shown, position_after(entries, query.limit, lambda entry: (entry.seq, entry.destination))

    return await paged(run, query, "deliveries", (RowNumber, str), fetch)


async def retry_deliveries(request: ApiRequest) -> HttpResponse:
    count = await request.context.readers.run_action(lambda: request.context.deliveries.retry())
    return responses.json_response(200, Retried(count))


async def get_check(request: ApiRequest) -> HttpResponse:
    return responses.json_response(200, await check.check_consistency(request.context, request.key.id))


async def post_control_total(request: ApiRequest) -> HttpResponse:
    return await control_totals.receive_control_total(request.context, request.bridge, request.body, request.key.id)


async def list_control_totals(request: ApiRequest) -> HttpResponse:
    return await control_totals.list_states(request.context, request.query, request.key.id)


async def get_source_events(request: ApiRequest) -> HttpResponse:
    return await control_totals.list_events_of_source(request.context, request.query, request.key.id)


async def look_up_events(request: ApiRequest) -> HttpResponse:
    wanted = read_request(request.body, EventLookupRequest, "request")
    if isinstance(wanted, InvalidEvent):
        return responses.bad_request(wanted)
    found = await request.read(lambda reader: control_totals.view_known_events(reader, wanted.event_ids))
    return responses.json_response(200, Page(found, None))


async def get_policy(request: ApiRequest) -> HttpResponse:
    query: PolicyQuery = request.query
    at = None if query.at is None else from_datetime(query.at)
    found = await request.context.readers.read(
        lambda reader: next(iter(reader.policies(limit=1)), None) if at is None else reader.policy_at(at)
    )
    if found is None:
        return responses.not_found("no policy is known for that time: the oldest stored policy is later")
    return responses.json_response(200, policies.view_stored_policy(found))


async def list_policies(request: ApiRequest) -> HttpResponse:
    query: PagedQuery = request.query

    def fetch(reader: Reader, before: int | None = None) -> Found:
        kept = reader.policies(before=before, limit=query.limit)
        following = position_after(kept, query.limit, lambda one: (one.number,))
        return [policies.summarize_policy(one) for one in kept], following

    return await request.read_page("policies", (RowNumber,), fetch)


async def get_dashboards(_: ApiRequest) -> HttpResponse:
    return responses.json_response(200, Page(dashboards.list_dashboards(), None))


async def get_dashboard(request: ApiRequest) -> HttpResponse:
    return await dashboards.show_dashboard(request.context, request.resource_id, request.query, request.key.id)


async def list_keys(request: ApiRequest) -> HttpResponse:
    return responses.json_response(200, Page([views.view_key(key) for key in request.context.keys.all()], None))


async def add_key(request: ApiRequest) -> HttpResponse:
    new_key = read_request(request.body, KeyRequest, "request")
    if isinstance(new_key, InvalidEvent):
        return responses.bad_request(new_key)
    context = request.context
    try:
        key, text = await context.readers.run_action(
            lambda: context.keys.add(new_key.name, new_key.role, request.key.name, context.clock.now())
        )
    except KeyRefused as refused:
        return responses.problem(409, str(refused))
    return responses.json_response(201, NewKey(views.view_key(key), text))


async def revoke_key(request: ApiRequest) -> HttpResponse:
    context = request.context
    try:
        key = await context.readers.run_action(
            lambda: context.keys.revoke(request.resource_id, request.key.name, context.clock.now())
        )
    except KeyRefused as refused:
        return responses.problem(409, str(refused))
    if key is None:
        return responses.not_found(f"there is no key {format_value(request.resource_id)}")
    context.readers.drop_queries(key.id)
    return responses.json_response(200, views.view_key(key))


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET", "/invoices", "listInvoices", "List invoices by status, stage, mark, or stuck", VIEWERS, list_invoices,
        {200: Page[views.Invoice]}, InvoicesQuery, problems=(400,),
    ),
    Operation(
        "GET", "/totals", "listTotals", "Get numbers and amounts of invoices by status and currency", VIEWERS,
        list_totals, {200: Page[views.Total]}, problems=(400,),
    ),
    Operation(
        "GET", "/invoices/{target}/events", "listEvents",
        "List the events of an invoice as they were sent, newest first", VIEWERS, list_events,
        {200: Page[views.Event]}, PagedQuery, problems=(400, 404),
    ),
    Operation(
        "GET", "/invoices/{target}", "getInvoice",
        "Get an invoice with its transitions, alerts, commands and executions", VIEWERS, get_invoice,
        {200: views.InvoiceDetails}, problems=(400, 404),
    ),
    Operation(
        "GET", "/executions/{target}/history", "getHistory", "List the history events of an execution, oldest first",
        VIEWERS, get_history, {200: Page[dict[str, Any]]}, PagedQuery, problems=(400, 404),
    ),
    Operation(
        "GET", "/alerts", "listAlerts", "List alerts, newest first", VIEWERS, list_alerts, {200: Page[views.Alert]},
        AlertsQuery, problems=(400,),
    ),
    Operation(
        "GET", "/commands", "listCommands", "List operators' commands, newest first", VIEWERS, list_commands,
        {200: Page[views.Command]}, CommandsQuery, problems=(400,),
    ),
    Operation(
        "POST", "/commands", "command", "Run a command on an invoice", OPERATORS, post_command,
        {200: Accepted, 202: Requested},
        body=AnyCommandRequest, problems=(400, 404, 408, 409, 413, 415),
    ),
    Operation(
        "POST", "/commands/{target}/confirmation", "confirmCommand",
        "Confirm a command that another operator has requested", OPERATORS, confirm_command, {200: Accepted},
        problems=(400, 404, 409),
    ),
    Operation(
        "GET", "/dead-letters", "listDeadLetters", "List dead letters: accepted events whose processing failed",
        OPERATORS, list_dead_letters, {200: Page[views.DeadLetter]}, DeadLettersQuery, problems=(400,),
    ),
    Operation(
        "POST", "/dead-letters/redrive", "redrive", "Redrive dead letters: by ids, by filter, or all",
        OPERATORS, redrive_dead_letters, {200: Redriven}, body=RedriveRequest, problems=(400, 408, 413, 415),
    ),
    Operation(
        "GET", "/deliveries", "listDeliveries", "List undelivered alerts", VIEWERS, list_deliveries,
        {200: Page[Delivery]}, DeliveriesQuery, problems=(400,),
    ),
    Operation(
        "POST", "/deliveries/retry", "retryDeliveries", "Retry failed deliveries", OPERATORS,
        retry_deliveries, {200: Retried}, problems=(400,),
    ),
    Operation("GET", "/check", "getCheck", "Check that every accepted event is accounted for", VIEWERS, get_check,
              {200: Check}, problems=(400,)),
    Operation(
        "POST", "/control-totals", "sendControlTotal",
        "Send a control total: the number and sums of the events that a source sent of a stage", CONTROL_TOTAL_SENDERS,
        post_control_total, {200: control_totals.ControlTotalResult}, body=ControlTotalRequest,
        problems=(400, 408, 413, 415),
    ),
    Operation(
        "GET", "/control-totals", "listControlTotals", "List control totals, the latest interval first", VIEWERS,
        list_control_totals, {200: Page[control_totals.ControlTotalResult]}, ControlTotalsQuery, problems=(400,),
    ),
    Operation(
        "GET", "/events", "listSourceEvents", "List the applied events of a source, stage and interval, by event id",
        VIEWERS, get_source_events, {200: Page[control_totals.SourceEventSummary]}, SourceEventsQuery, problems=(400,),
    ),
    Operation(
        "POST", "/events/lookup", "lookUpEvents", "Look up which of these events were accepted", VIEWERS,
        look_up_events, {200: Page[control_totals.KnownEvent]}, body=EventLookupRequest,
        problems=(400, 408, 413, 415),
    ),
    Operation(
        "GET", "/policy", "getPolicy", "Get the policy in force, now or at a given time, with every date", VIEWERS,
        get_policy, {200: policies.Policy}, PolicyQuery, problems=(400, 404),
    ),
    Operation(
        "GET", "/policies", "listPolicies", "List all policies, newest first", VIEWERS, list_policies,
        {200: Page[policies.PolicySummary]}, PagedQuery, problems=(400,),
    ),
    Operation(
        "GET", "/dashboards", "listDashboards", "List the dashboards", VIEWERS, get_dashboards,
        {200: Page[dashboards.DashboardSummary]}, problems=(400,),
    ),
    Operation(
        "GET", "/dashboards/{target}", "getDashboard", "Get a dashboard for executives, operations or finance",
        VIEWERS, get_dashboard, {200: dashboards.DashboardRows}, DashboardQuery, problems=(400, 404),
    ),
    Operation(
        "GET", "/keys", "listKeys", "List all keys, including revoked ones", ADMINS, list_keys,
        {200: Page[views.Key]}, problems=(400,),
    ),
    Operation(
        "POST", "/keys", "addKey", "Create a key; its text is shown only once", ADMINS, add_key, {201: NewKey},
        body=KeyRequest, problems=(400, 408, 409, 413, 415),
    ),
    Operation(
        "DELETE", "/keys/{target}", "revokeKey", "Revoke a key", ADMINS, revoke_key, {200: views.Key},
        problems=(400, 404, 409),
    ),
)  # fmt: skip
