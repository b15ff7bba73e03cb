"""Escalate: decides what an execution does after its wait timed out or the outcome it waited for is disputed.

Raises the alert that is due and returns how long to wait, or that the execution ends. Idempotent: a second call raises
an alert with the same id and returns the rest of the wait.
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
    """Return the function's dependencies, created once. Raises SettingsError or PolicyMissing."""
    return build_service(InvoiceSettings)[1]


@entry_point
def handler(event: dict[str, Any], context: Any) -> dict[str, str | int]:  # noqa: ARG001
    """Take an `EscalatePayload` and return `{next, deadline_seconds}`, always both.

    Raises Unavailable on transient errors.
    """
    invoices = dependencies()
    request = read_payload(event, EscalatePayload)
    decide = on_dispute if request.reason == "dispute" else on_timeout
    with (
        retryable(),
        invoices.meter.flushed(),
        logger.append_context_keys(invoice_id=request.invoice_id, run=request.run, stage=request.stage),
    ):
        next_step = invoices.decide(
            request.invoice_id, lambda record, now: decide(record, request.run, request.stage, invoices.policy, now)
        )
        logger.info("escalated", extra={"reason": request.reason, "next": next_step.next})
        return next_step.payload(invoices.clock.now())


init_on_cold_start(dependencies)
