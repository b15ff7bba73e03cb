"""Operations: everything that can be asked of the API beside sending events, each with who may, and what it answers.

The table at the end is the one source of the routes and of the OpenAPI document.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from msgspec import Struct

from bems.embedded.api import books, dashboards, policies, views
from bems.embedded.api.access import ACT, ADMINISTER, LOOK, Roles
from bems.embedded.api.books import Books
from bems.embedded.api.landing import Landing
from bems.embedded.api.parts import Parts
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
    Number,
    Page,
    PoliciesQuery,
    PolicyQuery,
    Whole,
    read_cursor,
    write_cursor,
)
from bems.embedded.histories import Histories
from bems.embedded.keys import Key, KeyRefused
from bems.embedded.reader import Reader, place_of
from bems.embedded.writer import Redrive
from bems.tracker import answers
from bems.tracker.answers import HttpAnswer
from bems.tracker.faults import Fault
from bems.tracker.gate import Refusal, invalid
from bems.tracker.instants import from_datetime, render, to_datetime
from bems.tracker.projection import WAITS_FOR
from bems.tracker.requests import AnyCommandRequest, KeyRequest, RedriveRequest, read_command, read_request
from bems.tracker.wording import show

T = TypeVar("T")

ONLY_STUCK = Fault("/sort", "sorts those that are stuck only: add stuck=true", "not allowed")

MOST_REDRIVEN = 1_000
"""So many dead letters are handled by one request at most."""


@dataclass(frozen=True)
class Ask:
    """A request that was admitted. `target` is what its path names."""

    parts: Parts
    landing: Landing
    key: Key
    query: Any
    target: str
    body: bytes

    async def read(self, question: Callable[[Reader], T]) -> T:
        """What the question answers, as one of this key's."""
        return await self.parts.readers.ask(question, self.key.id)


Handler = Callable[[Ask], Awaitable[HttpAnswer]]


@dataclass(frozen=True)
class Operation:
    """One method on one path. `answers` gives the type of the body by status; problems are understood."""

    method: str
    path: str
    name: str
    summary: str
    may: Roles
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


async def get_invoice(ask: Ask) -> HttpAnswer:
    # Answers are written where they are read: a long one would hold up the event loop.
    def look(reader: Reader) -> HttpAnswer:
        record = reader.record(ask.target)
        if record is None:
            return answers.not_found(f"there is no invoice {show(ask.target)}")
        return answers.content(200, views.view_details(record, reader, Histories(ask.parts.machine, reader)))

    return await ask.read(look)


async def get_history(ask: Ask) -> HttpAnswer:
    query: HistoryQuery = ask.query
    after = read_cursor(query.cursor, views.history_list(ask.target), Number)
    if isinstance(after, Refusal):
        return answers.refused(after)

    def look(reader: Reader) -> HttpAnswer:
        if reader.execution(ask.target) is None:
            return answers.not_found(f"there is no execution {show(ask.target)}")
        histories = Histories(ask.parts.machine, reader)
        events, cursor = views.view_history(ask.target, histories, after[0] if after else 0, query.limit)
        return answers.content(200, Page(events, cursor))

    return await ask.read(look)


async def list_invoices(ask: Ask) -> HttpAnswer:
    query: InvoicesQuery = ask.query
    statuses = None
    if query.status or query.stage:
        statuses = [
            status
            for status, stage in WAITS_FOR.items()
            if query.status in (None, status) and query.stage in (None, stage)
        ]
    by_value = query.sort == "value"
    if query.sort and not query.stuck:
        return answers.refused(invalid("query", [ONLY_STUCK], None))
    name, *shape = ("stuck by value", str, Whole, Whole, str) if by_value else ("stuck", Number, str)
    if not query.stuck:
        name, shape = "ids", [str]
    behind = read_cursor(query.cursor, name, *shape)
    if isinstance(behind, Refusal):
        return answers.refused(behind)

    def look(reader: Reader) -> HttpAnswer:
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
        return answers.content(200, Page([views.view_invoice(record, reader) for record in records], cursor))

    return await ask.read(look)


async def list_events(ask: Ask) -> HttpAnswer:
    """An id may end in `/events` itself: the address of such an invoice is its own, unless there is one without it."""
    query: EventsQuery = ask.query
    after = read_cursor(query.cursor, f"events of {ask.target}", str, Number)
    if isinstance(after, Refusal):
        return answers.refused(after)

    def look(reader: Reader) -> HttpAnswer:
        if reader.record(ask.target) is None and not reader.letters(invoice_id=ask.target, limit=1):
            longer = reader.record(f"{ask.target}/events")
            if longer is not None:
                return answers.content(200, views.view_details(longer, reader, Histories(ask.parts.machine, reader)))
            return answers.not_found(f"there is no invoice {show(ask.target)}")
        events, behind = views.view_events(ask.target, reader, after or ("", 0), query.limit)
        cursor = write_cursor(f"events of {ask.target}", *behind) if behind else None
        return answers.content(200, Page(events, cursor))

    return await ask.read(look)


async def list_totals(ask: Ask) -> HttpAnswer:
    totals = await ask.read(lambda reader: reader.totals())
    return answers.content(200, Page([views.view_total(total) for total in totals], None))


async def list_alerts(ask: Ask) -> HttpAnswer:
    query: AlertsQuery = ask.query
    before = read_cursor(query.cursor, "alerts", Number)
    if isinstance(before, Refusal):
        return answers.refused(before)
    alerts = await ask.read(
        lambda reader: reader.newest_alerts(
            invoice_id=query.invoice_id,
            stage=query.stage,
            severity=query.severity,
            before=before[0] if before else None,
            limit=query.limit,
        )
    )
    cursor = write_cursor("alerts", alerts[-1][0]) if len(alerts) == query.limit else None
    return answers.content(200, Page([views.view_alert(alert) for _, alert in alerts], cursor))


async def list_commands(ask: Ask) -> HttpAnswer:
    query: CommandsQuery = ask.query
    before = read_cursor(query.cursor, "commands", Number)
    if isinstance(before, Refusal):
        return answers.refused(before)
    entries = await ask.read(
        lambda reader: reader.audit(
            invoice_id=query.invoice_id, before=before[0] if before else None, limit=query.limit
        )
    )
    cursor = write_cursor("commands", entries[-1][0]) if len(entries) == query.limit else None
    return answers.content(200, Page([views.view_command(entry) for _, entry in entries], cursor))


async def command(ask: Ask) -> HttpAnswer:
    read = read_command(ask.body, ask.key.name, ask.parts.clock.now())
    if isinstance(read, Refusal):
        return answers.refused(read)
    receipt = await ask.landing.hand_in(read)
    if receipt.result in ("accepted", "duplicate"):
        next_alert_at = None if receipt.next_alert_at is None else to_datetime(receipt.next_alert_at)
        return answers.content(200, Accepted(read.id, receipt.result, next_alert_at))
    if receipt.result == "conflict":
        return answers.problem(409, f"another command with the id {read.id} came before: use an id only once")
    known = await ask.parts.readers.ask_first(lambda reader: reader.record(read.invoice_id))
    return answers.problem(409, receipt.reason) if known else answers.not_found(receipt.reason)


async def list_dead_letters(ask: Ask) -> HttpAnswer:
    query: DeadLettersQuery = ask.query
    after = read_cursor(query.cursor, "letters", str)
    if isinstance(after, Refusal):
        return answers.refused(after)
    letters = await ask.read(
        lambda reader: reader.letters(
            invoice_id=query.invoice_id,
            error=query.error,
            set_aside=query.set_aside,
            after=after[0] if after else "",
            limit=query.limit,
        )
    )
    cursor = write_cursor("letters", letters[-1].event_id) if len(letters) == query.limit else None
    return answers.content(200, Page([views.view_letter(letter) for letter in letters], cursor))


async def redrive(ask: Ask) -> HttpAnswer:
    request = read_request(ask.body, RedriveRequest, "request")
    if isinstance(request, Refusal):
        return answers.refused(request)
    wanted, more = list(dict.fromkeys(request.event_ids or ())), False
    if request.event_ids is None or request.invoice_id or request.error:
        matching = await ask.read(lambda reader: _matching(reader, request))
        more, wanted = len(matching) > MOST_REDRIVEN, matching[:MOST_REDRIVEN]
    receipts = await asyncio.gather(*[ask.landing.hand_in(Redrive(event_id)) for event_id in wanted])
    done = [event_id for event_id, receipt in zip(wanted, receipts, strict=True) if receipt.result == "accepted"]
    failed = [
        NotRedriven(event_id, receipt.reason)
        for event_id, receipt in zip(wanted, receipts, strict=True)
        if receipt.result != "accepted"
    ]
    return answers.content(200, Redriven(done, failed, more))


def _matching(reader: Reader, request: RedriveRequest) -> list[str]:
    """The dead letters that are asked for, in the order of their ids; one more than are handled, if there are more."""
    named = None if request.event_ids is None else set(request.event_ids)
    found: list[str] = []
    after: str | None = ""
    while after is not None and len(found) <= MOST_REDRIVEN:
        letters = reader.letters(
            invoice_id=request.invoice_id, error=request.error, after=after, limit=MOST_REDRIVEN + 1
        )
        found += [letter.event_id for letter in letters if named is None or letter.event_id in named]
        after = letters[-1].event_id if len(letters) > MOST_REDRIVEN else None
    return found


async def list_deliveries(ask: Ask) -> HttpAnswer:
    query: DeliveriesQuery = ask.query
    after = read_cursor(query.cursor, "deliveries", Number, str)
    if isinstance(after, Refusal):
        return answers.refused(after)
    seq, destination = after or (-1, "")
    deliveries = ask.parts.deliveries
    entries = await ask.parts.readers.run(
        lambda: deliveries.entries(query.state, query.limit, (seq, destination)), ask.key.id
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
    return answers.content(200, Page(shown, cursor))


async def retry_deliveries(ask: Ask) -> HttpAnswer:
    count = await ask.parts.readers.act(lambda: ask.parts.deliveries.retry())
    return answers.content(200, Retried(count))


async def get_books(ask: Ask) -> HttpAnswer:
    return answers.content(200, await books.balance(ask.parts, ask.key.id))


async def get_policy(ask: Ask) -> HttpAnswer:
    query: PolicyQuery = ask.query
    at = None if query.at is None else from_datetime(query.at)
    found = await ask.parts.readers.ask(
        lambda reader: next(iter(reader.policies(limit=1)), None) if at is None else reader.policy_at(at)
    )
    if found is None:
        return answers.not_found("no policy is known of that time: the first that was kept is of a later one")
    return answers.content(200, policies.view_kept(found))


async def list_policies(ask: Ask) -> HttpAnswer:
    query: PoliciesQuery = ask.query
    before = read_cursor(query.cursor, "policies", Number)
    if isinstance(before, Refusal):
        return answers.refused(before)
    kept = await ask.parts.readers.ask(
        lambda reader: reader.policies(before=before[0] if before else None, limit=query.limit)
    )
    cursor = write_cursor("policies", kept[-1].number) if len(kept) == query.limit else None
    return answers.content(200, Page([policies.summarize(one) for one in kept], cursor))


async def list_dashboards(_: Ask) -> HttpAnswer:
    return answers.content(200, Page(dashboards.names(), None))


async def get_dashboard(ask: Ask) -> HttpAnswer:
    return await dashboards.look(ask.parts, ask.target, ask.query, ask.key.id)


async def list_keys(ask: Ask) -> HttpAnswer:
    return answers.content(200, Page([views.view_key(key) for key in ask.parts.keys.all()], None))


async def add_key(ask: Ask) -> HttpAnswer:
    request = read_request(ask.body, KeyRequest, "request")
    if isinstance(request, Refusal):
        return answers.refused(request)
    parts = ask.parts
    try:
        key, text = await parts.readers.act(
            lambda: parts.keys.add(request.name, request.role, ask.key.name, parts.clock.now())
        )
    except KeyRefused as refused:
        return answers.problem(409, str(refused))
    return answers.content(201, NewKey(views.view_key(key), text))


async def revoke_key(ask: Ask) -> HttpAnswer:
    parts = ask.parts
    try:
        key = await parts.readers.act(lambda: parts.keys.revoke(ask.target, ask.key.name, parts.clock.now()))
    except KeyRefused as refused:
        return answers.problem(409, str(refused))
    if key is None:
        return answers.not_found(f"there is no key {show(ask.target)}")
    parts.readers.drop(key.id)
    return answers.content(200, views.view_key(key))


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET", "/invoices", "listInvoices", "Invoices, by status, stage, or stuck", LOOK, list_invoices,
        {200: Page[views.Invoice]}, InvoicesQuery, problems=(400,),
    ),
    Operation(
        "GET", "/totals", "listTotals", "Counts and amounts of invoices by status and currency", LOOK, list_totals,
        {200: Page[views.Total]}, problems=(400,),
    ),
    Operation(
        "GET", "/invoices/{target}/events", "listEvents", "The events of an invoice as they were sent, newest first",
        LOOK, list_events, {200: Page[views.Event]}, EventsQuery, problems=(400, 404),
    ),
    Operation(
        "GET", "/invoices/{target}", "getInvoice", "All that is known of an invoice, and its executions' history",
        LOOK, get_invoice, {200: views.InvoiceDetails}, problems=(400, 404),
    ),
    Operation(
        "GET", "/executions/{target}/history", "getHistory", "The history of an execution, the oldest event first",
        LOOK, get_history, {200: Page[dict[str, Any]]}, HistoryQuery, problems=(400, 404),
    ),
    Operation(
        "GET", "/alerts", "listAlerts", "Alerts, the newest first", LOOK, list_alerts, {200: Page[views.Alert]},
        AlertsQuery, problems=(400,),
    ),
    Operation(
        "GET", "/commands", "listCommands", "Operators' commands, the newest first", LOOK, list_commands,
        {200: Page[views.Command]}, CommandsQuery, problems=(400,),
    ),
    Operation(
        "POST", "/commands", "command", "Act on an invoice", ACT, command, {200: Accepted}, body=AnyCommandRequest,
        problems=(400, 404, 408, 409, 413, 415),
    ),
    Operation(
        "GET", "/dead-letters", "listDeadLetters", "Accepted events whose handling failed", ACT, list_dead_letters,
        {200: Page[views.DeadLetter]}, DeadLettersQuery, problems=(400,),
    ),
    Operation(
        "POST", "/dead-letters/redrive", "redrive", "Handle dead letters again: one, many, or all that match", ACT,
        redrive, {200: Redriven}, body=RedriveRequest, problems=(400, 408, 413, 415),
    ),
    Operation(
        "GET", "/deliveries", "listDeliveries", "Alerts that a destination has not taken", LOOK, list_deliveries,
        {200: Page[Delivery]}, DeliveriesQuery, problems=(400,),
    ),
    Operation(
        "POST", "/deliveries/retry", "retryDeliveries", "Try the deliveries again that were given up", ACT,
        retry_deliveries, {200: Retried}, problems=(400,),
    ),
    Operation("GET", "/books", "getBooks", "Whether every accepted event is accounted for", LOOK, get_books,
              {200: Books}, problems=(400,)),
    Operation(
        "GET", "/policy", "getPolicy", "The policy in force, now or at an instant, with every date", LOOK, get_policy,
        {200: policies.Policy}, PolicyQuery, problems=(400, 404),
    ),
    Operation(
        "GET", "/policies", "listPolicies", "Every policy that was in force, the newest first", LOOK, list_policies,
        {200: Page[policies.PolicySummary]}, PoliciesQuery, problems=(400,),
    ),
    Operation(
        "GET", "/dashboards", "listDashboards", "What can be asked of the series", LOOK, list_dashboards,
        {200: Page[dashboards.Name]}, problems=(400,),
    ),
    Operation(
        "GET", "/dashboards/{target}", "getDashboard", "What executives, operations and finance ask of the series",
        LOOK, get_dashboard, {200: dashboards.Rows}, DashboardQuery, problems=(400, 404),
    ),
    Operation("GET", "/keys", "listKeys", "Every key there ever was", ADMINISTER, list_keys, {200: Page[views.Key]},
              problems=(400,)),
    Operation(
        "POST", "/keys", "addKey", "Make a key; its text is shown this once", ADMINISTER, add_key, {201: NewKey},
        body=KeyRequest, problems=(400, 408, 409, 413, 415),
    ),
    Operation(
        "DELETE", "/keys/{target}", "revokeKey", "Revoke a key", ADMINISTER, revoke_key, {200: views.Key},
        problems=(400, 404, 409),
    ),
)  # fmt: skip
