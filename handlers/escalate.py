"""Escalate: an execution asks what to do, because its wait ran out or what it waited for is disputed.

It raises the alert that is due, once, and answers how long to wait on, or to end. Called twice, it raises the alert of
the same id, and answers what is left of the wait.
"""

from functools import cache
from typing import Any

from bems.aws.errors import retryable
from bems.aws.settings import InvoiceSettings
from bems.tracker.decisions import on_dispute, on_timeout
from handlers.invoices import InvoiceService, build_service
from handlers.payloads import EscalatePayload, read_payload
from handlers.telemetry import entry_point, init_on_cold_start, logger


@cache
def dependencies() -> InvoiceService:
    """Made once. SettingsError, PolicyMissing."""
    return build_service(InvoiceSettings)[1]


@entry_point
def handler(event: dict[str, Any], context: Any) -> dict[str, str | int]:  # noqa: ARG001
    """An `EscalatePayload` to `{next, deadline_seconds}`, both always there. Unavailable: to be retried."""
    invoices = dependencies()
    asked = read_payload(event, EscalatePayload)
    decide = on_dispute if asked.reason == "dispute" else on_timeout
    with (
        retryable(),
        invoices.meter.flushed(),
        logger.append_context_keys(invoice_id=asked.invoice_id, run=asked.run, stage=asked.stage),
    ):
        onward = invoices.decide(
            asked.invoice_id, lambda record, now: decide(record, asked.run, asked.stage, invoices.policy, now)
        )
        logger.info("escalated", extra={"reason": asked.reason, "next": onward.next})
        return onward.payload(invoices.clock.now())


init_on_cold_start(dependencies)
