"""Alert messages: a headline, a one-line summary and a text for people, and JSON for programs.

Both runtimes send the same messages.
"""

from typing import Any

import msgspec

from bems.tracker.actions import Alert
from bems.tracker.contract import STAGES, Stage, Vendor
from bems.tracker.control_totals import (
    AlertMessage,
    CompletenessAlert,
    completeness_headline,
    completeness_json,
    completeness_text,
)
from bems.tracker.instants import render, to_datetime

_BAD_OUTCOMES: dict[Stage, str] = {"reconciliation": "which found a mismatch", "posting": "which failed"}
"""Clause of a `stuck` headline for a wait that follows a negative outcome of its own stage."""

_BRACKETS = str.maketrans("<>", "\u2039\u203a")


def headline(alert: AlertMessage) -> str:
    """Return one line of printable ASCII, such as `INV-1 has waited for posting since 2026-03-02 (alert 3)`."""
    if isinstance(alert, CompletenessAlert):
        return completeness_headline(alert)
    match alert.kind:
        case "dispute":
            return f"{alert.invoice_id} is disputed: its reconciliation found a mismatch"
        case "failed":
            return f"{alert.invoice_id} could not be posted"
        case "identity":
            return f"{alert.invoice_id} may be two invoices under one id: {alert.detail}"
        case "contradiction":
            return f"{alert.invoice_id} has contradictory outcomes: {alert.detail}"
        case "resolved":
            return f"earlier alerts of {alert.invoice_id} are resolved: {alert.detail}"
        case "stuck":
            last = ", the last one: it is parked" if alert.last else ""
            since = to_datetime(alert.waiting_since).date()
            why = "" if alert.event_id is None else f", {_BAD_OUTCOMES[alert.stage]}"
            others = [f"its {stage} is {status}" for stage, status in _bad_outcomes(alert) if stage != alert.stage]
            also = f"; {' and '.join(others)}" if others else ""
            return (
                f"{alert.invoice_id} has waited for {alert.stage} since {since}{why} (alert {alert.step}{last}){also}"
            )


def urgency(alert: AlertMessage) -> str:
    """Return the first word of a message: the severity, or `resolved` if nobody need act."""
    return "resolved" if isinstance(alert, Alert) and alert.kind == "resolved" else alert.severity


def summary_line(alert: AlertMessage, cell: str) -> str:
    """Return one line: urgency, headline, an invoice's amount and vendor, and cell.

    Angle brackets are replaced, because chat services read them as commands; unprintable characters become spaces.
    """
    about = ""
    if not isinstance(alert, CompletenessAlert):
        about = f", {alert.facts.amount:f} {alert.facts.currency} of {_vendor_name(alert.facts.vendor)}"
    return f"{urgency(alert)}: {headline(alert)}{about}, cell {cell}".translate(_BRACKETS)


def text_body(alert: AlertMessage, cell: str) -> str:
    """Return the headline and the facts of the invoice or the control total, one per line."""
    if isinstance(alert, CompletenessAlert):
        return completeness_text(alert, cell)
    facts = alert.facts
    vendor = [
        facts.vendor.id,
        *filter(None, (facts.vendor.country, facts.vendor.tier and _single_line(facts.vendor.tier))),
    ]
    is_resolved = alert.kind == "resolved"
    lines = {
        "Invoice": alert.invoice_id,
        "Amount": f"{facts.amount:f} {facts.currency}",
        "Vendor": f"{_vendor_name(facts.vendor)} ({', '.join(vendor)})",
        "Stage": alert.stage,
        "Severity": alert.severity,
        "Waiting since": render(alert.waiting_since),
        "Was due": "" if is_resolved else render(alert.due_at),
        "Resolved" if is_resolved else "Raised": render(alert.raised_at),
        "Open stages": ", ".join(alert.open_stages),
        "Bad outcomes": ", ".join(f"{stage} {status}" for stage, status in _bad_outcomes(alert)),
        "Cell": cell,
        "Alert": f"{alert.id} (messages with the same id are one alert)",
    }
    return f"{headline(alert)}\n\n" + "".join(f"{name + ':':<15}{value}\n" for name, value in lines.items() if value)


def json_body(alert: AlertMessage, cell: str) -> dict[str, Any]:
    """Return the alert as a JSON object, the summary line first.

    Instants are RFC 3339 in UTC; the amount is a decimal string. An alert may be sent more than once: receivers
    deduplicate by `id`. All alerts of one wait have the same `incident`, which the kind `resolved` ends.
    """
    if isinstance(alert, CompletenessAlert):
        return completeness_json(alert, cell, summary_line(alert, cell))
    facts = alert.facts
    return {
        "text": summary_line(alert, cell),
        "id": alert.id,
        "incident": alert.incident,
        "invoice_id": alert.invoice_id,
        "kind": alert.kind,
        "stage": alert.stage,
        "severity": alert.severity,
        "step": alert.step,
        "last": alert.last,
        "waiting_since": render(alert.waiting_since),
        "due_at": render(alert.due_at),
        "raised_at": render(alert.raised_at),
        "event_id": alert.event_id,
        "detail": alert.detail,
        "open_stages": list(alert.open_stages),
        "negative_outcomes": alert.negative_outcomes,
        "cell": cell,
        "amount": f"{facts.amount:f}",
        "currency": facts.currency,
        "vendor": msgspec.to_builtins(facts.vendor),
    }


def _bad_outcomes(alert: Alert) -> list[tuple[Stage, str]]:
    return [(stage, alert.negative_outcomes[stage]) for stage in STAGES if stage in alert.negative_outcomes]


def _vendor_name(vendor: Vendor) -> str:
    return _single_line(vendor.name) if vendor.name else vendor.id


def _single_line(text: str) -> str:
    """Replace unprintable characters by spaces: U+2028 would end the line, U+202E would reverse the text after it."""
    return "".join(character if character.isprintable() else " " for character in text)
