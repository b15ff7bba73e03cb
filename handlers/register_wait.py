"""RegisterWait: stores the task token of a waiting execution in the invoice's record.

If the invoice has already passed the stage, the token is answered at once. Idempotent.
"""

from functools import cache
from typing import Any

from bems.aws.errors import retryable
from bems.aws.messages import MAX_CLOCK_SKEW
from bems.aws.settings import InvoiceSettings
from bems.tracker.decisions import WaitRequest, on_wait
from bems.tracker.instants import clamp, parse
from handlers.invoices import InvoiceService, build_service
from handlers.payloads import WaitPayload, read_payload
from handlers.telemetry import entry_point, init_on_cold_start, logger


@cache
def dependencies() -> InvoiceService:
    """Return the function's dependencies, created once. Raises SettingsError or PolicyMissing."""
    return build_service(InvoiceSettings)[1]


@entry_point
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001
    """Take a `WaitPayload`. The token ends the task, so the result is ignored. Raises Unavailable on transient
    errors."""
    invoices = dependencies()
    wait = read_payload(event, WaitPayload)
    # A time in the future would make this wait newer than all later ones until then.
    entered_at = clamp(parse(wait.entered_at), invoices.clock.now() + MAX_CLOCK_SKEW)
    request = WaitRequest(wait.run, wait.stage, wait.token, (entered_at, wait.retry_count))
    with (
        retryable(),
        invoices.meter.flushed(),
        logger.append_context_keys(invoice_id=wait.invoice_id, run=wait.run, stage=wait.stage),
    ):
        invoices.decide(wait.invoice_id, lambda record, now: on_wait(record, request, invoices.policy, now))
        logger.debug("wait registered")
    return {}


init_on_cold_start(dependencies)
