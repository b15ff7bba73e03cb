"""Control totals: what a source system says it sent, compared with what BEMS has.

A control total states, for one source, one stage and an interval of `occurred_at`, the number of distinct events and
the sum of their amounts by currency. It proves "sent = accepted", where `bems check` proves "accepted = processed".

Events may arrive after their control total. So one that differs is compared again until it agrees, and its alert is
raised only if it still differs after `ALERT_GRACE`.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field, structs

from bems.tracker.actions import Alert, Severity, alert_id
from bems.tracker.contract import CurrencyCode, Label, Stage, Timestamp
from bems.tracker.currencies import render_amount
from bems.tracker.instants import (
    DAY,
    EARLIEST,
    HOUR,
    LATEST,
    MINUTE,
    Instant,
    clamp,
    from_datetime,
    render,
    without_leap_second,
)
from bems.tracker.parsing import (
    MAX_FUTURE_SKEW,
    InvalidEvent,
    check_currency,
    check_decimals,
    convert_or_none,
    reject_invalid,
    reject_too_large,
    reject_unreadable,
)
from bems.validation.error_messages import format_value
from bems.validation.field_errors import FieldError, append_pointer, validate
from bems.validation.lenient_json import LenientJson, find_anomalies

MAX_CONTROL_TOTAL_BYTES = 64 * 1024
"""Maximum size of a control total: several times one with every currency."""

ALERT_GRACE = HOUR
"""Time for the last events to arrive, counted from the end of the interval or from the arrival of the control total,
whichever is later. After it, a difference raises the alert."""

RECHECK_INTERVAL, LATE_RECHECK_INTERVAL = 5 * MINUTE, HOUR
"""Interval between two comparisons of a control total that differs, within the grace and after it."""

RECHECK_PERIOD = 7 * DAY
"""Time after the grace in which a control total that differs is still compared, because its events may be sent late."""

MAX_DESCRIBED_DIFFERENCES = 3
"""Maximum number of differences in the one line that describes an alert."""

AmountSum = Annotated[
    str,
    Meta(
        pattern=r"^-?[0-9]{1,24}(\.[0-9]{1,4})?(?!\n)$",
        description='a sum of amounts in a string, such as "1250.00"; at most 24 digits before the point',
    ),
]
ControlTotalStatus = Literal["waiting", "complete", "different"]
"""`waiting` until the first comparison."""


class ControlTotalRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /control-totals`: the events of one source and stage that occurred in the interval [from, to).

    `events` is the number of distinct event ids, and `amounts` has the sum of their amounts by currency. A currency
    that is left out has the sum zero.
    """

    source: Label
    stage: Stage
    since: Timestamp = field(name="from")
    until: Timestamp = field(name="to")
    events: Annotated[int, Meta(ge=0, le=1_000_000_000_000, description="0 to 1000000000000")]
    amounts: Annotated[dict[CurrencyCode, AmountSum], Meta(max_length=200, description="sums by currency")]


class EventTotals(Struct, frozen=True):
    """Number of distinct events, and the sum of their amounts by currency."""

    events: int
    amounts: dict[str, Decimal]

    def render_amounts(self) -> dict[str, str]:
        """Return the sums as decimal strings with their currency's decimals, ordered by currency."""
        return {currency: render_amount(self.amounts[currency], currency) for currency in sorted(self.amounts)}


class ControlTotal(Struct, frozen=True):
    """What a source says it sent. The interval includes `since` and excludes `until`."""

    source: str
    stage: Stage
    since: Instant
    until: Instant
    stated: EventTotals

    @property
    def id(self) -> str:
        """Id of the interval. A control total of the same source, stage and interval replaces an earlier one."""
        return alert_id("control total", self.source, self.stage, self.since, self.until)


class TotalDifference(Struct, frozen=True):
    """A stated value that differs. `pointer` is its place in the control total: `/events`, or `/amounts/EUR`.

    `expected` is what the source stated, `found` what BEMS has. Sums are decimal strings.
    """

    pointer: str
    expected: int | str
    found: int | str


class ControlTotalState(Struct, frozen=True, omit_defaults=True):
    """A control total and its newest comparison.

    `found` is None before the first comparison. `check_at` is the instant of the next one, None if there is none.
    """

    total: ControlTotal
    stated_at: Instant
    check_at: Instant | None
    found: EventTotals | None = None
    checked_at: Instant | None = None
    alerted_at: Instant | None = None

    @property
    def alert_due_at(self) -> Instant:
        """Instant from which a difference raises the alert."""
        return min(max(self.stated_at, self.total.until) + ALERT_GRACE, LATEST)

    @property
    def differences(self) -> list[TotalDifference]:
        return [] if self.found is None else find_total_differences(self.total.stated, self.found)

    @property
    def status(self) -> ControlTotalStatus:
        return "waiting" if self.found is None else "different" if self.differences else "complete"


class CompletenessAlert(Struct, frozen=True, tag_field="kind", tag="completeness"):
    """Alert that a source's control total differs from the events that BEMS has.

    It belongs to no invoice, so it is no `Alert`: no decision raises it, and it has no row in the time series.
    """

    id: str
    control_total: ControlTotal
    found: EventTotals
    raised_at: Instant
    severity: Severity = "warning"

    @property
    def differences(self) -> list[TotalDifference]:
        return find_total_differences(self.control_total.stated, self.found)


AlertMessage = Alert | CompletenessAlert
"""What destinations deliver."""


def parse_control_total(body: bytes, now: Instant) -> ControlTotal | InvalidEvent:
    """Parse the body of `POST /control-totals`, or return an InvalidEvent with every error."""
    if len(body) > MAX_CONTROL_TOTAL_BYTES:
        return reject_too_large("control total", len(body), MAX_CONTROL_TOTAL_BYTES)
    reading = LenientJson(body)
    if reading.error is not None:
        return reject_unreadable("control total", reading.error)
    data = reading.data
    if isinstance(data, dict):
        for name in ("from", "to"):
            if isinstance(data.get(name), str):
                data[name] = without_leap_second(data[name])
    anomalies = find_anomalies(data)
    errors = anomalies + [error for error in validate(data, ControlTotalRequest) if error not in anomalies]
    if isinstance(data, dict):
        errors += _check_interval(data, now)
        errors += _check_sums(data.get("amounts"))
    if errors:
        return reject_invalid("control total", errors, None)
    request = msgspec.convert(data, ControlTotalRequest)
    amounts = {currency: Decimal(amount) for currency, amount in request.amounts.items()}
    since, until = from_datetime(request.since), from_datetime(request.until)
    return ControlTotal(request.source, request.stage, since, until, EventTotals(request.events, amounts))


def _check_interval(data: dict[str, object], now: Instant) -> Iterator[FieldError]:
    since, until = (_read_instant(data.get(name)) for name in ("from", "to"))
    for name, instant in (("from", since), ("to", until)):
        if instant is not None and instant < EARLIEST:
            yield FieldError(f"/{name}", f"{format_value(data[name])} is before 1970", "before 1970")
    if until is not None and until > now + MAX_FUTURE_SKEW:
        detail = f"{format_value(data['to'])} is in the future: use at most 1 day after now, {render(now)}"
        yield FieldError("/to", detail, "in the future")
    if since is not None and until is not None and since >= until:
        detail = f"{format_value(data['to'])} is not after from, {format_value(data['from'])}: to is exclusive"
        yield FieldError("/to", detail, "not after from")


def _read_instant(value: object) -> Instant | None:
    """Return the instant of an RFC 3339 text, None if it is not one. Years near 1 and 9999 give nearby instants."""
    moment = convert_or_none(value, Timestamp)
    if moment is None:
        return None
    return clamp(from_datetime(moment), LATEST) if from_datetime(moment) >= EARLIEST else EARLIEST - 1


def _check_sums(amounts: object) -> Iterator[FieldError]:
    if not isinstance(amounts, dict):
        return
    for currency, amount in amounts.items():
        if convert_or_none(currency, CurrencyCode) is None:
            continue
        pointer = append_pointer("/amounts", currency)
        yield from check_currency(pointer, currency)
        if convert_or_none(amount, AmountSum) is not None:
            yield from check_decimals(pointer, amount, currency)


def find_total_differences(stated: EventTotals, found: EventTotals) -> list[TotalDifference]:
    """Return the stated values that differ: the number of events first, then the sums by currency."""
    differences = []
    if stated.events != found.events:
        differences.append(TotalDifference("/events", stated.events, found.events))
    for currency in sorted(stated.amounts.keys() | found.amounts.keys()):
        expected, actual = (totals.amounts.get(currency, Decimal()) for totals in (stated, found))
        if expected != actual:
            sums = render_amount(expected, currency), render_amount(actual, currency)
            differences.append(TotalDifference(f"/amounts/{currency}", *sums))
    return differences


def on_statement(known: ControlTotalState | None, total: ControlTotal, now: Instant) -> ControlTotalState:
    """Return the state after a source has sent a control total.

    Sending the same again keeps the alert that was raised. Other values for the interval start anew, with an alert of
    their own. Either is compared at once.
    """
    if known is not None and known.total == total:
        return structs.replace(known, check_at=now)
    return ControlTotalState(total, now, now)


def on_count(
    state: ControlTotalState, total: ControlTotal, found: EventTotals, now: Instant
) -> tuple[ControlTotalState, CompletenessAlert | None]:
    """Return the state after the events of `total` were counted, and the alert to raise.

    The count of a control total that was replaced in the meantime changes nothing.
    """
    if state.total != total:
        return state, None
    state = structs.replace(state, found=found, checked_at=now, check_at=None)
    if state.status == "complete":
        return state, None
    due = state.alert_due_at
    if now < due:
        return structs.replace(state, check_at=min(now + RECHECK_INTERVAL, due)), None
    check_at = now + LATE_RECHECK_INTERVAL if now < due + RECHECK_PERIOD else None
    if state.alerted_at is not None:
        return structs.replace(state, check_at=check_at), None
    alert = CompletenessAlert(alert_id(total.id, state.stated_at), total, found, now)
    return structs.replace(state, check_at=check_at, alerted_at=now), alert


def completeness_headline(alert: CompletenessAlert) -> str:
    """Return one line of printable ASCII, with the first differences."""
    total, differences = alert.control_total, alert.differences
    shown = [f"{_measure(one)} {one.expected} sent, {one.found} here" for one in differences]
    more = len(shown) - MAX_DESCRIBED_DIFFERENCES
    listed = "; ".join(shown[:MAX_DESCRIBED_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
    source = "".join(one if " " <= one <= "~" else "?" for one in total.source)
    return f"{total.stage} of {source} from {render(total.since)} to {render(total.until)} is not complete: {listed}"


def completeness_text(alert: CompletenessAlert, cell: str) -> str:
    """Return the headline and the facts, one per line."""
    total = alert.control_total
    lines = {
        "Source": "".join(one if one.isprintable() else " " for one in total.source),
        "Stage": total.stage,
        "From": render(total.since),
        "To": f"{render(total.until)} (exclusive)",
        **{
            _measure(one).replace("events", "Events"): f"{one.expected} sent, {one.found} here"
            for one in alert.differences
        },
        "Severity": alert.severity,
        "Raised": render(alert.raised_at),
        "Cell": cell,
        "Alert": f"{alert.id} (messages with the same id are one alert)",
    }
    body = "".join(f"{name + ':':<15}{value}\n" for name, value in lines.items())
    return f"{completeness_headline(alert)}\n\n{body}"


def completeness_json(alert: CompletenessAlert, cell: str, text: str) -> dict[str, object]:
    """Return the alert as a JSON object; `text` is its summary line."""
    total = alert.control_total
    return {
        "text": text,
        "id": alert.id,
        "incident": alert.id,
        "kind": "completeness",
        "source": total.source,
        "stage": total.stage,
        "severity": alert.severity,
        "from": render(total.since),
        "to": render(total.until),
        "raised_at": render(alert.raised_at),
        "differences": msgspec.to_builtins(alert.differences),
        "cell": cell,
    }


def _measure(difference: TotalDifference) -> str:
    """Return the name of a difference's value: `events`, or a currency's code."""
    return difference.pointer.rsplit("/", 1)[-1]
