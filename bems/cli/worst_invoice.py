"""The worst stuck invoice, described in a sentence, and the effect of completing its missing stage."""

from datetime import datetime
from typing import Any, NamedTuple

from bems.cli.client import Client, decode_as, quote_path
from bems.cli.output import format_amount, format_day, vendor_label
from bems.cli.replay_report import STATUS_MEANINGS
from bems.cli.stuck_totals import StuckTotals
from bems.embedded.api.access import VIEWERS
from bems.embedded.api.views import InvoiceDetails
from bems.embedded.api.views import Outcome as StatedOutcome
from bems.tracker.contract import FAILURE_STATUS, SUCCESS_STATUS, Stage
from bems.tracker.status import Outcome, Status, status_of

MAX_STUCK = 100_000


class WorstInvoice(NamedTuple):
    """The stuck invoice with the greatest amount in the currency of the most stuck invoices.

    `stage` is the one it waits for, and `next_status` its status once that stage is completed by hand. `reason` is
    stated by the source, or says that no event arrived.
    """

    invoice: InvoiceDetails
    stage: Stage
    since: datetime
    reason: str
    next_status: Status

    def describe(self) -> str:
        """Return a sentence: which invoice waits for what, since when, why, and what happens next."""
        invoice, wait, parked = self.invoice, self.invoice.waiting, self.invoice.parked
        worth = f"{format_amount(invoice.amount, invoice.currency)}, {vendor_label(invoice.vendor)}"
        text = f"{invoice.invoice_id}, {worth}, waits for {self.stage} since {format_day(self.since)}: {self.reason}; "
        if wait is not None:
            return f"{text}next alert {format_day(wait.next_alert_at)}."
        by = f"by {parked.by}" if parked and parked.by else "after its last alert"
        at = f"{format_day(parked.at)} " if parked else ""
        return f"{text}parked {at}{by}: no further alert will be raised."

    def describe_completion(self, totals: StuckTotals) -> str:
        """Return a sentence: what completing its stage by hand would change."""
        left = totals.total - 1
        stuck = f"{left:,} stuck" if left else "none stuck"
        moved = f"would move it to {self.next_status} ({STATUS_MEANINGS[self.next_status]})"
        return f"Completing {self.stage} by hand {moved} and leave {stuck}."

    def as_document(self, totals: StuckTotals) -> dict[str, Any]:
        """Return the invoice and the effect of a completion as printed by --json."""
        invoice, wait = self.invoice, self.invoice.waiting
        return {
            "invoice_id": invoice.invoice_id,
            "status": invoice.status,
            "stage": self.stage,
            "amount": invoice.amount,
            "currency": invoice.currency,
            "vendor": invoice.vendor,
            "waiting_since": self.since,
            "reason": self.reason,
            "next_alert_at": wait.next_alert_at if wait else None,
            "parked": invoice.parked,
            "if_completed": {"status": self.next_status, "stuck": totals.total - 1},
        }


def find_worst(client: Client, totals: StuckTotals) -> WorstInvoice | None:
    """Return the worst stuck invoice; None if nothing is stuck."""
    found = client.list("/invoices", VIEWERS, {"stuck": "true", "sort": "value"}, MAX_STUCK)
    ids = (one["invoice_id"] for one in found.items if one["currency"] == totals.main_currency)
    invoice_id = next(ids, None)
    if invoice_id is None:
        return None
    invoice = decode_as(client.request_json("GET", f"/invoices/{quote_path(invoice_id)}", VIEWERS), InvoiceDetails)
    stage, since = invoice.stage, invoice.recorded_at
    if invoice.waiting is not None:
        since = invoice.waiting.since
    elif invoice.parked is not None:
        since = invoice.parked.since
    assert stage is not None
    return WorstInvoice(invoice, stage, since, describe_reason(invoice, stage), status_after_completion(invoice, stage))


def describe_reason(invoice: InvoiceDetails, stage: Stage) -> str:
    """Return the mismatch or failure that the source stated, else that no event arrived."""
    outcome = invoice.outcomes.get(stage)
    if outcome is None or outcome.status != FAILURE_STATUS[stage]:
        return f"no {stage} event arrived"
    reason = outcome.reason
    details = [" ".join(filter(None, (reason.code, reason.text)))] if reason else []
    details += (f"{name} {value}" for name, value in outcome.attributes.items())
    return f"{outcome.status} {describe_author(outcome)}" + (f" ({', '.join(details)})" if details else "")


def describe_author(outcome: StatedOutcome) -> str:
    """Return `by sap-ecc` or `by the operator jane`; empty if the author is unknown."""
    if outcome.operator is not None:
        return f"by the operator {outcome.operator}"
    return f"by {outcome.source.system}" if outcome.source is not None else ""


def status_after_completion(invoice: InvoiceDetails, completed: Stage) -> Status:
    """Return the status of the invoice once a stage is completed by hand."""
    stages = {
        **{stage: outcome.status for stage, outcome in invoice.outcomes.items()},
        completed: SUCCESS_STATUS[completed],
    }
    outcomes = {stage: Outcome(status, "", 0, 0) for stage, status in stages.items()}
    return status_of(outcomes, invoice.match_required)
